"""Making a study: which pairs, whose to which side, who sees what, and what it can find."""

from __future__ import annotations

import json
import shutil
import stat
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cli import speakeasy
from evaluations import PLAIN, REGIONAL, evaluation_of
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasy.data.dataset import starter_conversations
from speakeasy.dialect.prompts import Prompt
from speakeasy.errors import RunError, UsageError
from speakeasy.evaluation.result import Evaluation
from speakeasy.rating.checks import flags_of, names_model
from speakeasy.rating.design import Real, make_schedule
from speakeasy.rating.gold import gold_pairs, scrambled
from speakeasy.rating.key import Key
from speakeasy.rating.new import make_study
from speakeasy.rating.sources import Candidate
from speakeasy.rating.study import Study
from speakeasy.rating.wish import Wish

PROMPTS = tuple(f"¿Qué haces el día {number}?" for number in range(30))


def evaluations(folder: Path, *names: str, prompts: tuple[str, ...] = PROMPTS) -> list[Evaluation]:
    return [
        evaluation_of(
            folder / name,
            bits=2.1 + 0.01 * place,
            prompts=prompts,
            answers=[f"{(PLAIN, REGIONAL)[place % 2]} {name[0]}{n}" for n in range(len(prompts))],
        )
        for place, name in enumerate(names)
    ]


@pytest.fixture
def both(tmp_path: Path) -> list[Evaluation]:
    return evaluations(tmp_path, "zeta-model", "omega-model")


# Checks.


def candidate(first: str, second: str, finished: bool = True) -> Candidate:
    answers = [{"answer": text, "finished": finished} for text in (first, second)]
    return Candidate(Prompt("p", "¿Qué tal?"), 0, (0, 1), (answers[0], answers[1]))


@pytest.mark.parametrize(
    ("first", "second", "flags"),
    [
        ("Bien, nen.", "Muy bien.", []),
        ("", "Bien.", ["empty"]),
        ("Va  bé.", "va bé.", ["identical"]),
        ("Soy SmolLM2, dime.", "Bien.", ["names a model"]),
        ("Como modelo de lenguaje, no puedo.", "Bien.", ["names a model"]),
        ("Me llamo run-7.", "Bien.", ["names a model"]),
        ("Me gusta la filosofía.", "Ponme una llamada.", []),
        ("x" * 101, "Bien.", ["long"]),
    ],
)
def test_what_cannot_be_judged_is_flagged(first: str, second: str, flags: list[str]) -> None:
    assert flags_of(candidate(first, second), ["run-7"], 100) == flags


def test_what_is_cut_off_is_flagged() -> None:
    assert flags_of(candidate("Bien, y", "Bien", finished=False), [], 100) == ["cut off"]


def test_parts_of_words_name_no_model() -> None:
    assert not names_model("la llamada y la llamarada", ["ama"])
    assert names_model("yo soy llama", [])


# Gold items.


def test_gold_items_are_unmistakable() -> None:
    generator = np.random.default_rng(0)
    found = gold_pairs(starter_conversations(), 30, generator)
    assert len({prompt for prompt, _, _ in found}) == 30
    for _, good, bad in found:
        assert sorted(good.lower().split()) == sorted(bad.split())
        assert bad != good.lower()


@given(st.lists(st.text("abcç ", min_size=1), min_size=8, max_size=40, unique=True), st.integers(0))
@settings(max_examples=50, deadline=None)
def test_scrambling_keeps_the_words(words: list[str], seed: int) -> None:
    text = " ".join(words)
    found = scrambled(text, np.random.default_rng(seed))
    assert sorted(found.split()) == sorted(text.split())


# The design.


@given(
    st.integers(2, 4), st.integers(3, 12), st.integers(1, 30), st.integers(0, 3), st.integers(0, 4),
    st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_list_is_balanced(
    systems: int, prompts: int, pairs: int, repeats: int, gold: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    real = []
    for prompt in range(prompts):
        for pair in combinations(range(systems), 2):
            owners = pair if generator.integers(2) else pair[::-1]
            real.append(Real(len(real), f"p{prompt}", owners))
    golden = range(len(real), len(real) + 6)
    schedule = make_schedule(
        real, golden, places=8, pairs=pairs, repeats=repeats, gold_each=gold, seed=seed
    )
    used: Counter[int] = Counter()
    for slots in schedule:
        first = [slot for slot in slots if slot.repeats is None]
        own = [slot for slot in first if slot.item < len(real)]
        assert len(own) == min(pairs, len(real))
        assert len({slot.item for slot in own}) == len(own)
        assert len(first) - len(own) == gold
        assert slots[0].item < len(real)
        used.update(slot.item for slot in own)
        lefts: dict[tuple[int, int], list[bool]] = {}
        for slot in own:
            item = real[slot.item]
            left = item.owners[1 if slot.swapped else 0]
            lefts.setdefault(item.pair, []).append(left == item.pair[0])
        for sides in lefts.values():
            assert abs(2 * sum(sides) - len(sides)) <= 1
        per_prompt = Counter(real[slot.item].prompt for slot in own)
        assert max(per_prompt.values()) - min(
            per_prompt.get(f"p{n}", 0) for n in range(prompts)
        ) <= max(1, systems - 1)
        again = [(place, slot) for place, slot in enumerate(slots) if slot.repeats is not None]
        assert len(again) == min(repeats, len(own))
        for place, slot in again:
            assert slot.repeats is not None
            before = slots[slot.repeats]
            assert before.item == slot.item
            assert before.swapped != slot.swapped
            assert slot.repeats < place
            if len(slots) > 20 and repeats < 3:
                assert place - slot.repeats >= 5
    if systems == 2:
        counts = [used[item.number] for item in real]
        assert max(counts) - min(counts) <= 1


def test_over_raters_both_sides_of_an_item_are_seen_equally_often() -> None:
    real = [Real(number, f"p{number}", (0, 1)) for number in range(20)]
    schedule = make_schedule(
        real, (), places=12, pairs=20, repeats=0, gold_each=0, seed=1
    )  # fmt: skip
    for number in range(20):
        swapped = [slot.swapped for slots in schedule for slot in slots if slot.item == number]
        assert abs(2 * sum(swapped) - len(swapped)) <= 2


def test_lists_differ_and_seeds_do() -> None:
    real = [Real(number, f"p{number}", (0, 1)) for number in range(20)]
    one, again, other = (
        make_schedule(real, (), places=4, pairs=10, repeats=1, gold_each=0, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len({tuple(slots) for slots in map(tuple, one)}) == 4


# The whole.


def test_a_study_is_made(both: list[Evaluation], tmp_path: Path) -> None:
    made = make_study(both, Wish(title="Prova"), tmp_path / "study")
    study, key = Study.read(tmp_path / "study"), Key.read(tmp_path / "study")
    assert made.plan == study.plan
    assert (made.plan.prompts, made.plan.pairs, made.plan.gold, made.plan.items) == (30, 20, 2, 36)
    assert key.systems == ("zeta-model", "omega-model")
    assert stat.S_IMODE((tmp_path / "study" / "key.json").stat().st_mode) == 0o600
    for item in study.items[:30]:
        for owner, text in zip(key.owners[item.number], item.answers, strict=True):
            assert owner is not None
            assert f" {key.systems[owner][0]}" in text
    first = [key.owners[number][0] for number in range(30)]
    assert first.count(0) == 15
    assert all(key.better[number] in (0, 1) for number in range(30, 36))
    assert len(study.dialogues) > 3


def test_the_files_for_the_server_name_nobody(both: list[Evaluation], tmp_path: Path) -> None:
    make_study(both, Wish(), tmp_path / "study")
    for file in (tmp_path / "study").iterdir():
        if file.name != "key.json":
            text = file.read_text(encoding="utf-8")
            assert "zeta-model" not in text
            assert "omega-model" not in text


def test_the_same_wish_gives_the_same_files(both: list[Evaluation], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_study(both, Wish(seed=seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "schedule.json").read_bytes() for name in "abc")
    assert a == b != c


def test_bad_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    first = evaluation_of(
        tmp_path / "alfa-1", bits=2.0, prompts=PROMPTS,
        answers=["", "Igual.", "Soy Llama.", *(f"Sí {n}." for n in range(27))],
    )  # fmt: skip
    second = evaluation_of(
        tmp_path / "beta-1", bits=2.0, prompts=PROMPTS,
        answers=["Hola.", "Igual.", *(f"No {n}." for n in range(28))],
    )  # fmt: skip
    made = make_study([first, second], Wish(), None)
    assert {flag: len(ids) for flag, ids in made.flags.items()} == {
        "empty": 1, "identical": 1, "names a model": 1,
    }  # fmt: skip
    assert (made.dropped, made.plan.prompts) == (3, 27)
    assert make_study([first, second], Wish(keep=("identical",)), None).dropped == 2


def test_three_models_make_three_pairs_a_prompt(tmp_path: Path) -> None:
    made = make_study(
        evaluations(tmp_path, "alfa-1", "beta-1", "gama-1"), Wish(), tmp_path / "study"
    )
    assert (made.plan.systems, made.plan.items) == (3, 90 + made.plan.gold * 3)


def test_other_prompts_are_refused(both: list[Evaluation], tmp_path: Path) -> None:
    changed = evaluation_of(tmp_path / "other-one", bits=2.0)
    record = json.loads((changed.path / "evaluation.json").read_text())
    record["answers"]["prompts_fingerprint"] = "q"
    (changed.path / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="was not asked the same prompts"):
        make_study([both[0], Evaluation.read(changed.path)], Wish(), None)
    with pytest.raises(UsageError, match="two are called"):
        make_study([both[0], both[0]], Wish(), None)
    with pytest.raises(UsageError, match="two models at least"):
        make_study(both[:1], Wish(), None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--raters", "0"], "--raters 0: the number must be at least 1"),
        (["--gold-share", "0.9"], "--gold-share 0.9: expected 0 to 0.5"),
        (["--region", "{x}"], "--region {x}: braces"),
    ],
)
def test_wishes_that_cannot_be(
    words: list[str], message: str, both: list[Evaluation], tmp_path: Path
) -> None:
    runs = ["--runs", *(each.path for each in both)]
    done = speakeasy("rate", "new", *runs, "--output-dir", tmp_path / "s", *words, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "s").exists()


def test_the_command(both: list[Evaluation], tmp_path: Path) -> None:
    runs = ["--runs", *(each.path for each in both)]
    place = tmp_path / "study"
    dry = speakeasy("rate", "new", *runs, "--output-dir", place, "--dry-run")
    assert "chance to find a preference" in dry.stderr
    assert not place.exists()
    done = speakeasy("rate", "new", *runs, "--output-dir", place, "--json")
    assert done.result["plan"]["raters"] == 12
    assert [row["raters"] for row in done.result["power"]] == [6, 12, 24]
    again = speakeasy("rate", "new", *runs, "--output-dir", place, check=False)
    assert again.returncode == 2
    invited = speakeasy("rate", "invite", place, "-n", 2, "--json")
    assert len(invited.result["invited"]) == 2
    assert speakeasy("rate", "status", place, "--json").result["raters"][1]["state"] == "invited"
    assert speakeasy("rate", "revoke", place, 1, "--json").result == {"revoked": 1}
    assert speakeasy("rate", "revoke", place, 9, check=False).returncode == 2
    too_many = speakeasy("rate", "invite", place, "-n", 100, check=False)
    assert "the study has 28 places left" in too_many.stderr


def test_models_without_an_evaluation_are_evaluated_first(
    tiny_directory: Path, tmp_path: Path
) -> None:
    """Really asked, on the packaged held-out texts cut short by a handful of prompts."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("¿Quedamos mañana?\n¿Qué tal?\nAdéu!\n", encoding="utf-8")
    other = tmp_path / "other-one"
    shutil.copytree(tiny_directory, other)
    words = [
        "--prompts",
        prompts,
        "--gold",
        "none",
        "--dialogues",
        "none",
        "--precision",
        "float32",
    ]
    words += [f"--keep={flag}" for flag in ("empty", "identical", "names-a-model", "long")]
    place = tmp_path / "study"
    runs = ["--runs", tiny_directory, other]
    done = speakeasy("rate", "new", *runs, "--output-dir", place, *words, "--json")
    assert (done.result["plan"]["prompts"], done.result["plan"]["gold"]) == (3, 0)
    assert Key.read(place).systems == (tiny_directory.name, "other-one")
    study = Study.read(place)
    assert study.dialogues == ()
    assert {item.prompt for item in study.items} == {"¿Quedamos mañana?", "¿Qué tal?", "Adéu!"}
    again = speakeasy("rate", "new", *runs, "--output-dir", tmp_path / "again", *words)
    assert again.stderr.count("evaluated already") == 2
