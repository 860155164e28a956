"""Made-up studies: a directory as ``speakeasy rate new`` writes it, with names to look for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speakeasy.rating.key import Key, write_key
from speakeasy.rating.store import Store, open_store
from speakeasy.rating.study import Item, Slot, Study, StudyPlan, write_study

SYSTEMS = ("ZEBRA-LLAMA-7B", "okapi/qlora-run-42")
"""Names that no rater may ever see."""
DIALOGUE = {
    "id": "market",
    "title": "En el mercado",
    "scenario": "Una clienta y el pescadero.",
    "lines": [
        {"speaker": "Ana", "text": "Ponme medio kilo de gambas, va."},
        {"speaker": "Pau", "text": "Marchando, guapa."},
        {"speaker": "Ana", "text": "Apa, hasta luego."},
    ],
}


def make_study(
    path: Path,
    *,
    items: int = 6,
    places: int = 4,
    answers: list[tuple[str, str]] | None = None,
    gold: int = 1,
    seed: int = 0,
) -> Study:
    """A study of two systems; the last ``gold`` items are gold, the second slot is repeated."""
    generator = np.random.default_rng(seed)
    pairs = answers or [
        (f"Ostras, nen, la respuesta {n}.", f"Claro, esta es la respuesta {n}, señor.")
        for n in range(items)
    ]
    items = len(pairs)
    owners = [bool(flip) for flip in generator.integers(0, 2, items)]
    real = items - gold
    schedule = []
    for _ in range(places):
        order = [int(n) for n in generator.permutation(items)]
        slots = [Slot(n, bool(generator.integers(0, 2))) for n in order]
        slots.append(Slot(slots[1].item, not slots[1].swapped, 1))
        schedule.append(slots)
    measures = {"words": 4, "distinct_2": 0.5}
    plan = StudyPlan(
        title="Así hablamos", contact="estudio@example.org", language="es",
        variety="the Spanish of Catalonia", region="Catalunya", raters=places, pairs=real,
        repeats=1, gold=gold, items=items, prompts=items, systems=2, seed=seed,
    )  # fmt: skip
    key = Key(
        systems=SYSTEMS,
        owners=(*((0, 1) if owners[n] else (1, 0) for n in range(real)), *[(None, None)] * gold),
        better=tuple(int(owners[n]) if n >= real else None for n in range(items)),
        prompts=tuple(f"prompt-{n}" for n in range(items)),
        samples=(0,) * items,
        identities=tuple({"name": name, "run": f"runs/{name}"} for name in SYSTEMS),
        metrics=({"distinct_2": 0.5}, {"distinct_2": 0.6}),
        measures=tuple(None if n >= real else (measures, measures) for n in range(items)),
    )  # fmt: skip
    path.mkdir(parents=True, exist_ok=True)
    write_key(path, key)
    write_study(
        path,
        plan,
        [Item(n, f"¿Qué tal, pregunta {n}?", (), pair) for n, pair in enumerate(pairs)],
        schedule,
        [DIALOGUE],
    )
    return Study.read(path)


def opened(study: Study, raters: int = 1) -> tuple[Store, list[str]]:
    """Its database, and invitations."""
    store = open_store(study)
    return store, store.invite(raters, len(study.schedule), days=1)


def answered(study: Study, *, raters: int = 4, seed: int = 0, likes: int = 0) -> Store:
    """Its database after raters have voted: mostly for one system, on gold items rightly."""
    from speakeasy.rating.study import DIMENSIONS
    from speakeasy.rating.votes import Votes

    key = Key.read(study.path)
    store, tokens = opened(study, raters)
    votes, generator = Votes(store), np.random.default_rng(seed)
    for token in tokens:
        rater = store.rater_by_token(token)
        assert rater is not None
        store.consent(rater, study)
        store.begin(rater)
        while (due := votes.next(rater)) is not None:
            better = key.better[due.item]
            order = (1, 0) if due.swapped else (0, 1)
            good = key.owners[due.item].index(likes) if better is None else better
            choice = ("left", "right")[order.index(good)]
            if better is None and generator.random() < 0.25:
                choice = str(generator.choice(["left", "right", "both_good", "both_bad"]))
            votes.shown(due)
            votes.vote(due, choice)
            given: dict[tuple[str, str], int | None] = {
                (side, dimension): int(generator.integers(2, 5)) + (side == choice)
                for side in ("left", "right")
                for dimension in DIMENSIONS
            }
            given["left", "grammar"] = None if generator.random() < 0.1 else 4
            votes.rate(rater, due, given, "=1+1" if due.position == 0 else "")
    store.connection.execute("UPDATE vote SET seconds = 10 + length(assignment)")
    return store
