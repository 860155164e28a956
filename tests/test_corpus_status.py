"""The figures of a corpus, and the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from speakeasy.corpus.documents import Document
from speakeasy.corpus.starter import starter_texts
from speakeasy.corpus.status import GUIDE_BYTES, Status, summarize


def test_packaged_texts() -> None:
    documents = starter_texts()
    seen: list[int] = []
    status = summarize(documents, advance=seen.append)
    assert status.documents == 160
    assert status.bytes == sum(seen) == sum(len(item.text.encode()) for item in documents)
    assert status.words == sum(len(item.text.split()) for item in documents)
    assert {name: item["documents"] for name, item in status.languages.items()} == {
        "ca": 80,
        "es-ca": 80,
    }
    assert (status.exact_duplicates, status.near_duplicates) == (0, 0)
    assert status.verdict == "too little"  # a tenth of a megabyte is what it is


def test_duplicates_are_counted_once() -> None:
    one, two, *_ = starter_texts("ca")
    changed = one.text.split()
    changed[10] = "altra"
    near = replace(one, id="near", text=" ".join(changed))
    status = summarize([one, two, replace(one, text=one.text.upper()), near])
    assert (status.exact_duplicates, status.near_duplicates) == (1, 1)
    assert status.distinct_bytes == len((one.text + two.text).encode())


def test_what_a_build_has_compared_is_not_estimated_again() -> None:
    one, two, *_ = starter_texts("ca")
    changed = one.text.split()
    changed[10] = "altra"
    near = replace(one, id="near", text=" ".join(changed))
    assert summarize([], [[one, near, two]]).near_duplicates == 0
    assert summarize([], [[one, two], [near]]).near_duplicates == 1  # of two builds
    assert summarize([near], [[one, two]]).near_duplicates == 1


def test_languages_are_found_where_they_are_not_said() -> None:
    texts = [starter_texts("ca")[0].text, starter_texts("es")[0].text, "Curt."]
    status = summarize(Document(str(n), text, "", "x") for n, text in enumerate(texts))
    assert {name: item["documents"] for name, item in status.languages.items()} == {
        "ca": 1,
        "es": 1,
        "unknown": 1,
    }


def test_nothing_is_zeros() -> None:
    status = summarize([])
    assert (status.documents, status.bytes, status.distinct_bytes) == (0, 0, 0)
    assert status.verdict == "too little"


@pytest.mark.parametrize(
    ("size", "verdict"),
    [
        (GUIDE_BYTES[0] - 1, "too little"),
        (GUIDE_BYTES[0], "enough"),
        (GUIDE_BYTES[1], "enough"),
        (GUIDE_BYTES[1] + 1, "more than needed"),
    ],
)
def test_verdicts(size: int, verdict: str) -> None:
    assert Status(1, size, size + 5, 1, {}, 0, 0, 5).verdict == verdict
