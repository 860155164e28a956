"""Building a corpus: what comes out, what is dropped, and what survives a kill."""

from __future__ import annotations

import bz2
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasy.corpus import build as building
from speakeasy.corpus import finish as finishing
from speakeasy.corpus.build import build_corpus
from speakeasy.corpus.documents import read_documents
from speakeasy.corpus.minhash import (
    NEAR_THRESHOLD,
    bands,
    content_hash,
    shingles,
    signature,
    similarity,
    words,
)
from speakeasy.corpus.sources import FILE_BYTES, find_sources
from speakeasy.corpus.starter import starter_text_files, starter_texts
from speakeasy.corpus.work import Work
from speakeasy.errors import DataError, RunError, UsageError

CA = [document.text for document in starter_texts("ca")]
ES = [document.text for document in starter_texts("es")]


def one_line(text: str) -> str:
    return " ".join(text.split()) + "\n"


def parts(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*.jsonl")))


# Fingerprints --------------------------------------------------------------------------------


def jaccard(one: list[str], other: list[str]) -> float:
    """The same in plain Python."""
    sets = [{tuple(w[i : i + 3]) for i in range(max(len(w) - 2, 1))} for w in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(
    st.lists(st.sampled_from("abcde"), min_size=1), st.lists(st.sampled_from("abcde"), min_size=1)
)
def test_similarity_is_jaccard_of_word_triples(one: list[str], other: list[str]) -> None:
    found = similarity(np.unique(shingles(one)), np.unique(shingles(other)))
    assert found == pytest.approx(jaccard(one, other), abs=1e-12)


def test_signatures_estimate_similarity() -> None:
    draw, errors = random.Random(0), []
    for text in CA:
        before = words(text)
        after = [word if draw.random() > 0.05 else "altra" for word in before]
        agree = (signature(shingles(before)) == signature(shingles(after))).mean()
        errors.append(agree - jaccard(before, after))
    # 64 hash functions: a standard deviation of at most 1/16 each, 1/140 for the mean of 80.
    assert abs(np.mean(errors)) < 0.025
    assert np.std(errors) < 0.08


def test_fingerprints_are_the_same_on_every_machine() -> None:
    text_words = words("L'Àvia va DIR: «adéu»")
    assert text_words == ["l", "àvia", "va", "dir", "adéu"]
    assert content_hash(text_words) == 6029022502301569073
    assert bands(signature(shingles(text_words)))[:2].tolist() == [1902525772, 577934864]
    assert len(shingles([])) == 0
    assert len(shingles(["a"])) == len(shingles(["a", "b", "c"])) == 1


# What comes out ------------------------------------------------------------------------------


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """A directory with something of every kind, sound and broken."""
    pile = tmp_path / "pile"
    (pile / "deeper").mkdir(parents=True)
    near = CA[0].split()
    near[len(near) // 2] = "alguna"
    english = "The weather was fine this morning, so we walked down to the harbour together."
    lines = [CA[0], CA[1], CA[0].upper(), " ".join(near), english, "Curt.", ES[0]]
    (pile / "lines.txt").write_text("".join(map(one_line, lines)), encoding="utf-8")
    (pile / "old.txt").write_bytes(ES[1].encode("cp1252"))
    (pile / "empty.txt").write_bytes(b"")
    (pile / "noise.txt").write_bytes(np.random.default_rng(0).bytes(4_000))
    (pile / "page.html").write_text(f"<body><p>{CA[2]}</p></body>", encoding="utf-8")
    (pile / "deep.html").write_text("<div>" * 6_000, encoding="utf-8")
    cues = "".join(
        f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n<i>{part}</i>\n\n"
        for n, part in enumerate(CA[3].split(". "), 1)
    )
    (pile / "film.srt").write_text(cues, encoding="utf-8")
    (pile / "film.vtt").write_bytes(b"\x00\x01")
    (pile / "big.srt").write_bytes(b" " * (FILE_BYTES + 1))
    wiki = (
        "<mediawiki>"
        + "".join(
            f"<page><title>T{n}</title><ns>0</ns><revision><text>'''{text}'''</text></revision>"
            "</page>"
            for n, text in enumerate(CA[4:8])
        )
        + "</mediawiki>"
    )
    packed = bz2.compress(wiki.encode())
    (pile / "wiki.xml.bz2").write_bytes(packed)
    (pile / "cut.xml.bz2").write_bytes(packed[:-20])
    (pile / "noise.xml.bz2").write_bytes(b"BZh9" + bytes(100))
    (pile / "noise.xml").write_bytes(b"<a><b></a>")
    (pile / "deeper" / "more.txt").write_text(CA[8], encoding="utf-8")
    (pile / ".hidden.txt").write_text(CA[9], encoding="utf-8")
    (pile / "picture.png").write_bytes(b"PNG")
    return pile


def test_every_kind_of_source(pile: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    record = build_corpus([str(pile)], output)
    documents = list(read_documents([output]))
    texts = [one_line(document.text) for document in documents]
    for text in (*CA[:3], *CA[4:9], ES[0], ES[1]):
        assert texts.count(one_line(text)) == 1
    assert len(documents) == record["documents"] == 11  # the eleventh is the film
    assert record["dropped"] == {
        "too_short": 1,
        "duplicate": 1,
        "near_duplicate": 1,
        "language": 1,
        "undecodable": 1,
    }
    assert record["other_languages"] == {"en": 1}
    assert {name: item["documents"] for name, item in record["languages"].items()} == {
        "ca": 9,
        "es": 2,
    }
    reasons = {Path(item["origin"]).name: item["reason"] for item in record["problems"]}
    assert sorted(reasons) == [
        "big.srt",
        "cut.xml.bz2",
        "deep.html",
        "empty.txt",
        "film.vtt",
        "noise.xml",
        "noise.xml.bz2",
    ]
    assert "ends in the middle" in reasons["cut.xml.bz2"]
    assert json.loads((output / "corpus.json").read_text(encoding="utf-8")) == record
    assert record["bytes"] == sum(len(document.text.encode()) for document in documents)
    assert record["words"] == sum(len(document.text.split()) for document in documents)
    (source,) = record["sources"]
    assert source["documents"] + sum(source["dropped"].values()) + 2 == source["read"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "pile"]


def test_settings_and_short_texts(tmp_path: Path) -> None:
    lines = [*CA[:3], *ES[:2], "Un text ben curt."]
    source = tmp_path / "x.txt"
    source.write_text("".join(map(one_line, lines)), encoding="utf-8")
    record = build_corpus([str(source)], tmp_path / "a", languages=["ca"], min_characters=5)
    documents = list(read_documents([tmp_path / "a"]))
    assert (record["documents"], record["dropped"]) == (4, {"language": 2})
    assert documents[-1].text == "Un text ben curt."
    assert documents[-1].language == "ca"  # as most of its source, being too short to tell
    only = build_corpus([str(source)], tmp_path / "b", languages=["es"], min_characters=5)
    assert only["documents"] == 3  # here the short one counts as Spanish


def test_huge_lines_are_cut(tmp_path: Path) -> None:
    draw = random.Random(0)
    vocabulary = sorted({word for text in CA for word in text.split()})
    source = tmp_path / "x.txt"
    source.write_text(" ".join(draw.choices(vocabulary, k=100_000)) + ".", encoding="utf-8")
    record = build_corpus([str(source)], tmp_path / "a")
    assert record["documents"] == record["cut"] + 1 == 1 + source.stat().st_size // 200_000
    assert max(len(document.text) for document in read_documents([tmp_path / "a"])) <= 200_000


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=12))
def test_what_is_dropped_is_near_what_is_kept(
    tmp_path_factory: pytest.TempPathFactory, choices: list[tuple[int, int]]
) -> None:
    """Every dropped document is near a kept one. Which pairs LSH must find is not promised."""
    folder = tmp_path_factory.mktemp("near")
    lines = []
    for index, changes in choices:
        text_words = CA[index].split()
        for place in range(changes):
            text_words[(place * 7) % len(text_words)] = "x" * (place % 3 + 1)
        lines.append(one_line(" ".join(text_words)))
    (folder / "x.txt").write_text("".join(lines), encoding="utf-8")
    build_corpus([str(folder / "x.txt")], folder / "a")
    kept = [words(document.text) for document in read_documents([folder / "a"])]
    for line in lines:
        assert max(jaccard(words(line), other) for other in kept) >= NEAR_THRESHOLD


def test_parts_are_of_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "PART_BYTES", 20_000)
    names = [str(path) for path in starter_text_files()]
    record = build_corpus(names, tmp_path / "a")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "a").glob("part-*.jsonl"))]
    assert len(sizes) > 3
    assert all(20_000 <= size < 22_000 for size in sizes[:-1])
    assert record["documents"] == len(list(read_documents([tmp_path / "a"]))) == 160


# Refusals ------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path) -> None:
    text = tmp_path / "x.txt"
    text.write_text(CA[0], encoding="utf-8")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    cases: list[tuple[list[str], Path, dict[str, Any], type[Exception], str]] = [
        ([str(text)], taken, {}, RunError, "already exists"),
        ([str(text)], tmp_path / "a", {"min_characters": 0}, UsageError, "--min-chars 0"),
        ([str(text)], tmp_path / "a", {"jobs": 0}, UsageError, "--jobs 0"),
        ([str(text)], tmp_path / "a", {"languages": ["xx"]}, UsageError, "--languages xx"),
        ([str(tmp_path / "no")], tmp_path / "a", {}, DataError, "no such file or directory"),
        ([str(taken)], tmp_path / "a", {}, DataError, "holds no file that ends in"),
        ([str(text)], tmp_path / "a", {"languages": ["es"]}, DataError, "nothing is left of 1"),
    ]
    for names, output, options, error, message in cases:
        with pytest.raises(error, match=message):
            build_corpus(names, output, **options)
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "a.unfinished").exists()


def test_a_file_whose_name_is_not_unicode(tmp_path: Path) -> None:
    pile = tmp_path / "pile"
    pile.mkdir()
    try:
        (pile / os.fsdecode(b"caf\xe9.txt")).write_text(CA[0], encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (pile / os.fsdecode(b"\xe9.srt")).write_bytes(b"x")
    record = build_corpus([str(pile)], tmp_path / "a")
    (document,) = read_documents([tmp_path / "a"])
    assert document.id == "caf?:1"
    assert record["problems"][0]["origin"].endswith("?.srt")


def test_a_file_that_comes_twice_is_read_once(pile: Path) -> None:
    names = [str(pile / "page.html"), str(pile), str(pile / "deeper")]
    sources = find_sources(names)
    assert len(sources) == len({source.name for source in sources}) == 14
    assert sources[0].number == 0


# Stopping and going on -----------------------------------------------------------------------


class Stopped(Exception):  # noqa: N818
    pass


def test_going_on_gives_the_same(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "BATCH_DOCUMENTS", 2)
    monkeypatch.setattr(building, "SEGMENT_CHARACTERS", 1)
    whole = build_corpus([str(pile)], tmp_path / "whole")
    process, calls = building.process, 0

    def stops(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise Stopped
        return process(*words)

    monkeypatch.setattr(building, "process", stops)
    stops_seen, said = 0, []
    while not (tmp_path / "parts").exists():
        try:
            resumed = build_corpus([str(pile)], tmp_path / "parts", say=said.append)
        except Stopped:
            stops_seen += 1
            assert (tmp_path / "parts.unfinished").is_dir()
    assert stops_seen >= 3
    assert any("going on" in line for line in said)
    assert parts(tmp_path / "parts") == parts(tmp_path / "whole")
    same = {key for key in whole if key not in ("made", "seconds")}
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}


def test_an_unfinished_build_of_something_else_is_refused(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "BATCH_DOCUMENTS", 2)
    monkeypatch.setattr(building, "SEGMENT_CHARACTERS", 1)
    process, calls = building.process, 0

    def stops(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped
        return process(*words)

    monkeypatch.setattr(building, "process", stops)
    with pytest.raises(Stopped):
        build_corpus([str(pile)], tmp_path / "a")
    with pytest.raises(UsageError, match="unfinished build with another languages"):
        build_corpus([str(pile)], tmp_path / "a", languages=["ca"])
    (pile / "new.txt").write_text("Nou.", encoding="utf-8")
    with pytest.raises(UsageError, match="unfinished build with another sources"):
        build_corpus([str(pile)], tmp_path / "a")


def test_a_build_that_did_nothing_is_in_nobodys_way(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets"):
        build_corpus(["hf:a/b"], tmp_path / "a")
    assert not (tmp_path / "a.unfinished").exists()

    def stops(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(building, "process", stops)
        with pytest.raises(Stopped):
            build_corpus([str(pile)], tmp_path / "a")
    assert build_corpus([str(pile)], tmp_path / "a", languages=["ca"])["documents"] == 9


def test_two_builds_of_one_corpus(pile: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "a", {})
    with work.locked(), pytest.raises(RunError, match="another process is building"):
        build_corpus([str(pile)], tmp_path / "a")


def test_several_processes_give_the_same(pile: Path, tmp_path: Path) -> None:
    build_corpus([str(pile)], tmp_path / "one", jobs=1)
    build_corpus([str(pile)], tmp_path / "two", jobs=2)
    assert parts(tmp_path / "one") == parts(tmp_path / "two")


DOCUMENTS = 800
KILLED = """
import sys
from pathlib import Path
from speakeasy.corpus import build
build.SEGMENT_CHARACTERS = 1
build.BATCH_DOCUMENTS = 20
if __name__ == "__main__":
    build.build_corpus([sys.argv[1]], Path(sys.argv[2]), jobs=int(sys.argv[3]))
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_build_looks_unfinished_and_goes_on(jobs: int, tmp_path: Path) -> None:
    draw = random.Random(0)
    sentences = [s for text in CA for s in text.split(". ") if len(s) > 30]
    source = tmp_path / "x.txt"
    source.write_text(
        "".join(one_line(". ".join(draw.sample(sentences, 8)) + ".") for _ in range(DOCUMENTS)),
        encoding="utf-8",
    )
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    command = [sys.executable, program, source, tmp_path / "a", str(jobs)]
    # A session of its own, so that orphaned workers can be looked for.
    process = subprocess.Popen(command, start_new_session=True)
    work = tmp_path / "a.unfinished"
    deadline = time.monotonic() + 60
    while not (work / "00002.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a").exists()
    assert not list(tmp_path.glob("**/corpus.json"))
    done = len(list(work.glob("?????.json")))
    assert done < DOCUMENTS / 20
    while group_is_alive(process.pid):
        assert time.monotonic() < deadline, "workers outlive the build"
        time.sleep(0.1)
    record = build_corpus([str(source)], tmp_path / "a")  # the number of processes may change
    assert record["read"] == DOCUMENTS
    assert not work.exists()
    build_corpus([str(source)], tmp_path / "b")
    assert parts(tmp_path / "a") == parts(tmp_path / "b")


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
