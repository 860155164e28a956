"""Nothing that reaches a rater tells whose an answer is: not a name, and not a pattern."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rating_studies import SYSTEMS, make_study, opened
from test_rating_web import RATINGS, Rater

from speakeasy.rating.key import Key
from speakeasy.rating.store import Store
from speakeasy.rating.study import DIMENSIONS, Study
from speakeasy.rating.votes import Votes
from speakeasy.rating.web.limits import Limit

PLANTED = ("zebra", "llama", "okapi", "qlora", "run-42", "runs/", "key.json", "owners", "swapped")
"""Parts of the planted names, and of the files' own words for what must not be known."""
NOT_FOLLOWED = {"/delete", "/consent", "/begin", "/language"}
ASSIGNMENTS = 500
FOLDS = 5


class Links(HTMLParser):
    """Addresses that a page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action") and value and value.startswith("/"):
                self.found.add(value)


def received(answer: Any) -> bytes:
    """Everything that came: of redirects, too."""
    parts = []
    for each in (*answer.history, answer):
        parts += [str(each.url).encode(), repr(each.headers.raw).encode(), each.content]
    return b"\n".join(parts)


def test_no_name_reaches_a_rater(tmp_path: Path) -> None:
    study = make_study(tmp_path / "ZEBRA-LLAMA-7B" / "runs" / "okapi", items=5)
    store, tokens = opened(study, 2)
    rater = Rater(study, store, limit=Limit(rate=1e6, burst=1e6))
    took = [received(rater.get(f"/j/{tokens[0]}"))]
    took.append(received(rater.post("/consent", {"agree": "yes"})))
    answer = rater.post("/begin")
    seen: set[str] = set()
    while True:
        took.append(received(answer))
        waiting = Links(answer.text).found
        while waiting := waiting - seen - NOT_FOLLOWED:
            seen.add(path := min(waiting))
            found = rater.get(path)
            took.append(received(found))
            waiting |= Links(found.text).found
        if answer.url.path == "/done":
            break
        answer = rater.post(answer.url.path, {"choice": "left"})
        took.append(received(answer))
        answer = rater.post(answer.url.path, RATINGS)
    for path in ("/delete", "/nowhere", "/p/nobody", "/read/9", "/favicon.ico"):
        took.append(received(rater.get(path)))
    took.append(repr(list(rater.client.cookies.items())).encode())
    assert {"/static/style.css", "/static/record.js", "/read/1"} <= seen
    everything = b"\n".join(took).lower()
    assert len(everything) > 30_000
    for name in (*SYSTEMS, *PLANTED):
        assert name.lower().encode() not in everything, name
    assert re.search(rb"seed|sample|adapter|fingerprint", everything) is None
    store.end()


def test_the_server_never_opens_the_key(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    (study.path / "key.json").unlink()
    store, (token,) = opened(Study.read(study.path))
    rater = Rater(study, store, token)
    assert rater.get(rater.begin()).status_code == 200
    store.end()


def observed(study: Study, store: Store, token: str, leak: bool) -> list[tuple[list[float], int]]:
    """For each pair of a rater: all but the answers' texts as numbers, and which model was left."""
    key, votes = Key.read(study.path), Votes(store)
    rater = Rater(study, store, token, limit=Limit(rate=1e6, burst=1e6))
    rater.begin()
    found: list[tuple[list[float], int]] = []
    who = store.rater_by_token(token)
    assert who is not None
    given = {(side, name): 3 for side in ("left", "right") for name in DIMENSIONS}
    while (due := votes.next(who)) is not None:
        answer = rater.get(f"/p/{due.id}")
        order = (1, 0) if due.swapped else (0, 1)
        owner = key.owners[due.item][order[0]]
        if owner is not None:
            item = study.items[due.item]
            texts = sum(len(text.encode()) for text in (item.prompt, *item.answers))
            features = [
                float(due.position),
                float(len(answer.content) - texts),
                float(len(repr(answer.headers.raw))),
                *(float(ord(letter)) for letter in due.id),
                float(sum(map(ord, rater.csrf))),
                answer.elapsed.total_seconds(),
            ]
            if leak:
                features[3] = 100.0 * owner
            found.append((features, owner))
        votes.vote(due, "left")
        votes.rate(who, due, given, "")
    return found


def accuracy(features_NF: np.ndarray, labels_N: np.ndarray) -> float:
    """Of nearest neighbours and of ridge regression, the better, cross-validated."""
    generator = np.random.default_rng(0)
    fold_N = generator.permutation(len(labels_N)) % FOLDS
    right = np.zeros(2)
    for fold in range(FOLDS):
        train, test = fold_N != fold, fold_N == fold
        middle, spread = features_NF[train].mean(0), features_NF[train].std(0) + 1e-9
        a, b = (features_NF[train] - middle) / spread, (features_NF[test] - middle) / spread
        signs = 2.0 * labels_N[train] - 1
        weights = np.linalg.solve(a.T @ a + len(a) * np.eye(a.shape[1]) * 0.1, a.T @ signs)
        right[0] += ((b @ weights > 0) == labels_N[test]).sum()
        apart = ((b[:, None] - a[None]) ** 2).sum(-1)
        nearest = np.argsort(apart, axis=1)[:, :9]
        right[1] += ((signs[nearest].sum(1) > 0) == labels_N[test]).sum()
    return float(right.max()) / len(labels_N)


@pytest.mark.parametrize("leak", [False, True])
def test_a_classifier_is_no_better_than_chance(tmp_path: Path, leak: bool) -> None:
    """And finds a leak where one is planted."""
    per_rater = 20
    count = ASSIGNMENTS // per_rater if not leak else 5
    answers = [(f"Ostras, nen, {n}.", f"Claro, señor, {n}.") for n in range(per_rater - 1)]
    study = make_study(tmp_path / "s", answers=answers, places=count, gold=0)
    store, tokens = opened(study, count)
    rows = [row for token in tokens for row in observed(study, store, token, leak)]
    features = np.array([row[0] for row in rows])
    labels = np.array([row[1] for row in rows])
    found = accuracy(features, labels)
    if leak:
        assert found > 0.95
    else:
        assert len(rows) == ASSIGNMENTS
        # Of either classifier, 99.5% by chance are below half and 2.58 standard errors.
        assert found < 0.5 + 2.58 * np.sqrt(0.25 / len(rows))
    store.end()
