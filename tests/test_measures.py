"""The figures of answers: by hand, and four broken models that each give themselves away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from speakeasy.corpus.starter import starter_texts
from speakeasy.data.dataset import starter_conversations
from speakeasy.dialect.lexicon import Lexicon, load_lexicon, packaged_lexicon
from speakeasy.dialect.variety import Variety
from speakeasy.evaluation.measures import (
    ANSWER_METRICS,
    AnswerTable,
    Measurer,
    differences,
    summarise,
)
from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.surface import training_ngrams
from speakeasy.evaluation.words import sentences

DOCS = Path(__file__).parents[1] / "docs"
LEXICON = packaged_lexicon()
MEASURER = Measurer(LEXICON)
CATEGORIES = len(LEXICON.categories)


def line(
    id: str,
    answer: str,
    *,
    prompt: str = "¿Qué?",
    control: bool = False,
    expects: Sequence[str] = (),
    finished: bool = True,
    measurer: Measurer = MEASURER,
) -> dict[str, Any]:
    return {
        "id": id,
        "prompt": prompt,
        "control": control,
        "expects": list(expects),
        "answer": answer,
        "finished": finished,
        "measures": measurer.measure(answer, prompt),
    }


ANSWERS = [
    # 4 words; ostras (interjection, 0.5) and nen (interjection, 1.0)
    line("a", "Ostras nen, muy bien.", expects=["interjection"]),
    # 6 words; avi (family, 1.0); "nada" in its place would have been plain
    line("a", "El avi no sabe qué decir.", expects=["interjection"]),
    # 5 words, nothing
    line("b", "Mañana no podré venir, gracias.", expects=["family"], finished=False),
    # control: 4 words, iaia (0.5): weak, so still plain
    line("c", "Estimada señora: la iaia.", control=True),
    # control: 3 words, nen (1.0); and a mark of another variety (computadora)
    line("d", "Nen, la computadora.", control=True),
]


def test_figures_worked_out_by_hand() -> None:
    values = summarise(ANSWERS, categories=15, human_density=20)
    # open answers: weights 0.5 + 1.0 + 1.0 = 2.5 in 4 + 6 + 5 = 15 words
    assert values["marker_density"] == pytest.approx(100 * 2.5 / 15)
    assert values["marker_density_error"] == pytest.approx(20 - 100 * 2.5 / 15)
    # asked: two of a, one of b; met: the first alone
    assert values["expected"] == pytest.approx(1 / 3)
    assert values["control_plain"] == pytest.approx(1 / 2)
    # one mark in 15 + 4 + 3 = 22 words
    assert values["anti_density"] == pytest.approx(100 / 22)
    assert values["truncated"] == pytest.approx(1 / 5)
    assert values["words_per_answer"] == pytest.approx(22 / 5)
    # interjection and family, of fifteen
    assert values["coverage"] == pytest.approx(2 / 15)
    # 22 words; again come: la (c, d), nen (a, d), no (a, b): 19 different
    assert values["distinct_1"] == pytest.approx(19 / 22)
    # 3 + 5 + 4 + 3 + 2 = 17 pairs, all different
    assert values["distinct_2"] == pytest.approx(1)
    for name in ("repetition", "loops", "prompt_overlap", "catalan_drift"):
        assert values[name] == 0, name
    assert values["overlap_13gram"] is None  # the training texts are unknown


def test_code_mixing_is_a_mean_of_answers_and_switches_are_pooled() -> None:
    lines = [
        # muy bien todo carrer: muy m, bien m, todo m, carrer c: CMI 25, one switch of three
        line("a", "Muy bien todo, carrer."),
        # hola y gracias: hola u, y m, gracias m: CMI 0, no switch of one
        line("b", "Hola y gracias."),
    ]
    assert [each["measures"]["code_mixing"] for each in lines] == [25, 0]
    values = summarise(lines, categories=15)
    assert values["code_mixing"] == pytest.approx(12.5)
    assert values["switch_rate"] == pytest.approx(1 / 4)


def test_13grams_of_the_training_data() -> None:
    text = "uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce"
    seen = training_ngrams([text], [f"{text.rsplit(' ', 1)[0]} y ya"])
    measurer = Measurer(LEXICON, seen)
    lines = [line("a", text, measurer=measurer), line("b", "corto", measurer=measurer)]
    # 14 words: two 13-grams, the first of them seen; the short answer has none
    assert summarise(lines, categories=15)["overlap_13gram"] == pytest.approx(1 / 2)
    short = summarise(lines[1:], categories=15)
    assert short["overlap_13gram"] is None


def test_the_measures_are_json_and_enough() -> None:
    again = json.loads(json.dumps(ANSWERS))
    assert summarise(again, categories=15) == summarise(ANSWERS, categories=15)


def test_no_answers_are_no_figures() -> None:
    table = AnswerTable([], categories=15, human_density=3)
    assert set(table.values()) == set(ANSWER_METRICS)
    assert set(table.values().values()) == {None}
    assert set(table.intervals().values()) == {None}
    empty = summarise([line("a", "")], categories=15)
    assert empty["marker_density"] is None
    assert empty["distinct_1"] is None
    assert empty["coverage"] == 0


def test_intervals_hold_the_value_and_samples_say_what_counts() -> None:
    table = AnswerTable(ANSWERS, categories=15, human_density=20)
    values, intervals = table.values(), table.intervals(draws=200)
    assert list(values) == list(intervals) == list(ANSWER_METRICS)
    for name, interval in intervals.items():
        value = values[name]
        if value is not None and interval is not None:
            assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9, name
    assert intervals["distinct_1"] is not None
    samples = table.samples()
    assert samples["marker_density"] == 2  # a and b
    assert samples["control_plain"] == 2  # c and d
    assert samples["loops"] == samples["coverage"] == 4
    assert table.intervals(draws=200) == intervals


def test_differences_are_taken_over_the_prompts_that_both_have() -> None:
    a = AnswerTable(ANSWERS, categories=15, human_density=20)
    other = [line("b", "Ostras nen, ostras nen."), line("x", "Nada."), line("a", "Muy bien.")]
    b = AnswerTable(other, categories=15, human_density=20)
    found = differences(a, b, draws=200)
    assert list(found) == list(ANSWER_METRICS)
    density = found["marker_density"]
    assert density is not None
    # a: 2.5 in 15 words; b, without x: 3 in 4 + 2 words
    assert density.value == pytest.approx(100 * 2.5 / 15 - 100 * 3 / 6)
    coverage = found["coverage"]
    assert coverage is not None
    assert coverage.value == pytest.approx(2 / 15 - 1 / 15)
    assert found["overlap_13gram"] is None
    assert found["control_plain"] is None  # neither a nor b is a control
    same = differences(a, a, draws=200)
    assert all(
        each is None or (each.value == 0 and not each.distinguishable) for each in same.values()
    )


def test_another_variety_needs_only_another_lexicon(tmp_path: Path) -> None:
    file = tmp_path / "galicia.toml"
    file.write_text(
        """
        [variety]
        name = "Spanish of Galicia"
        matrix = "es"
        contact = "gl"
        [[entry]]
        form = "riquiño"
        category = "expression"
        language = "gl"
        forms = ["riquiño", "riquiña"]
        gloss_en = "nice"
        gloss_es = "majo"
        register = "informal"
        weight = 1.0
        collides = []
        token = true
        """,
        encoding="utf-8",
    )
    measures = Measurer(load_lexicon(file)).measure("Muy riquiña, nen.", "¿Y?")
    assert (measures["markers"], measures["categories"]) == (1, ["expression"])
    assert (measures["code_mixing"], measures["drifted"]) == (50, 0)  # muy m, riquiña c
    lone = Lexicon(LEXICON.entries, LEXICON.anti, Variety("Spanish", "es", ""))
    plain = summarise([line("a", "Hola nen.", measurer=Measurer(lone))], categories=15)
    assert plain["code_mixing"] is plain["switch_rate"] is plain["catalan_drift"] is None
    assert plain["marker_density"] == pytest.approx(50)


def test_a_broken_model_is_worst_in_its_own_metric() -> None:
    """One that answers in Catalan, one that pads, one that repeats the prompt, one that copies."""
    conversations = starter_conversations()
    held_out, reference, training = (
        conversations[::20][:40], conversations[5::20][:40], conversations[10::20],
    )  # fmt: skip
    asked = [(each.id, each.turns[-2].content, each.turns[-1].content) for each in held_out]
    catalan = [document.text for document in starter_texts("ca-neutral")]
    learnt = [answer for each in training for answer in each.answers]
    models = {
        "human": [answer for _, _, answer in asked],
        "catalan": [catalan[number % len(catalan)] for number in range(len(asked))],
        "padded": [
            " ".join(f"Ostras, nen, {piece} Apa, adéu." for piece in sentences(answer))
            for _, _, answer in asked
        ],
        "parrot": [f"{prompt} {prompt}" for _, prompt, _ in asked],
        "copy": learnt[: len(asked)],
    }
    texts = [turn.content for each in training for turn in each.turns]
    seen = training_ngrams((text for answers in models.values() for text in answers), texts)
    measurer = Measurer(LEXICON, seen)
    people = summarise(
        [line(each.id, answer) for each in reference for answer in each.answers],
        categories=CATEGORIES,
    )
    figures = {
        name: summarise(
            [
                line(id, answer, prompt=prompt, measurer=measurer)
                for (id, prompt, _), answer in zip(asked, answers, strict=True)
            ],
            categories=CATEGORIES,
            human_density=people["marker_density"],
        )
        for name, answers in models.items()
    }
    for metric, culprit in (
        ("catalan_drift", "catalan"),
        ("marker_density_error", "padded"),
        ("prompt_overlap", "parrot"),
        ("overlap_13gram", "copy"),
    ):
        values = {name: found[metric] or 0.0 for name, found in figures.items()}
        assert METRICS[metric].better == "lower"
        others = [value for name, value in values.items() if name != culprit]
        assert values[culprit] > 2 * max(others) + 0.1, (metric, values)


def test_people_are_plausible() -> None:
    """Answers of the packaged conversations: a few marks, hardly mixed, never drifting."""
    people = summarise(
        [
            line(each.id, answer)
            for each in starter_conversations()[::10]
            for answer in each.answers
        ],
        categories=CATEGORIES,
    )
    density, mixing = people["marker_density"], people["code_mixing"]
    assert density is not None
    assert mixing is not None
    assert 2 < density < 4
    assert 2 < mixing < 10
    assert people["catalan_drift"] == people["loops"] == people["truncated"] == 0


def test_every_metric_is_in_the_docs() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name in METRICS:
        assert f"`{name}`" in page, name
    assert set(ANSWER_METRICS) < set(METRICS)


def test_labels_name_the_variety_s_languages() -> None:
    label = METRICS["catalan_drift"].label_for(Variety("Galicia", "es", "gl"))
    assert label == "Answers in contact language, gl"
    assert "none" in METRICS["code_mixing"].label_for(Variety("Spanish", "es", ""))
