"""From a model directory to an expanded one.

The new directory holds, beside the weights and the tokenizer, ``expansion.json``: which words were
added, under which ids and out of which pieces, and everything that the gate found. It appears whole
or not at all, and nothing is copied before the tokenizer has passed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from speakeasy import __version__
from speakeasy.errors import ModelError, UsageError
from speakeasy.files import disk_errors, new_directory, write_json, write_text
from speakeasy.vocab.expand import AddedToken, Expansion
from speakeasy.vocab.loaders import check_loaded
from speakeasy.vocab.progress import Bar, in_megabytes, no_bar
from speakeasy.vocab.tokenizer_files import copy_config, write_tokenizer
from speakeasy.vocab.verify import Evidence, examine, require_no_harm
from speakeasy.weights.added import RECORD
from speakeasy.weights.directory import check_directory, read_config, read_json_object, tensor_index
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import ModelDirectory, load_tokenizer
from speakeasy.weights.rows import Init, RowsReport, add_rows, check_addition
from speakeasy.weights.untrained import untrained_rows

_LEGAL = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
_BASE_README = "README-base.md"


def expand_model(
    source: ModelDirectory,
    target: Path,
    expansion: Expansion,
    *,
    init: Init = "subword",
    allow_collateral: int = 0,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Write a model with an expanded vocabulary, once the tokenizer has passed the gate.

    Args:
        source: the base.
        target: the new directory; must not hold anything yet.
        expansion: a plan for the base's tokenizer (``plan_expansion``).
        init: how new rows begin: ``subword`` is the mean of the old pieces' rows, ``mean`` the
            mean of all trained rows.
        allow_collateral: so many words may be encoded differently without holding an added one.
        say: called with a line before each slow step.
        bar: opens a progress bar.

    Returns:
        The content of ``expansion.json``.

    Raises:
        RunError: ``target`` holds something already.
        UsageError: the plan adds nothing.
        ModelError: the gate refuses, or the base is unsound.
        SpeakeasyError: the disk is full or cannot be written.
    """
    require_words(expansion)
    untrained = require_room(source.path, expansion, init)
    with (
        disk_errors(f"{target}", "nothing was written; free some space or choose another place"),
        new_directory(target) as folder,
    ):
        evidence = examine(expansion, bar=bar)
        require_no_harm(evidence, allow_collateral=allow_collateral)
        write_tokenizer(expansion.source, expansion.spec, folder, expansion.given_up)
        copy_config(source.path, folder)
        say("loading the new tokenizer with the libraries")
        loaders = check_loaded(expansion, folder)
        report = _write_weights(source.path, folder, expansion, init, untrained, bar)
        _copy_papers(source, folder, len(expansion.added))
        _check_whole(folder, expansion)
        record = {
            **plan_record(expansion),
            "init": init,
            "rows": asdict(report),
            "base": _base(source),
            "fingerprint": fingerprint(folder),
            "tokenizer_fingerprint": tokenizer_fingerprint(folder),
            "gate": gate_record(evidence, allow_collateral) | {"loaded_by": loaders},
            "versions": {
                "speakeasy": __version__,
                **{name: version(name) for name in ("tokenizers", "transformers", "wordfreq")},
            },
        }
        write_json(folder / RECORD, record)
    return record


def require_room(source: Path, expansion: Expansion, init: Init) -> list[int]:
    """See that the weights can take the new rows, before a gate of half a minute.

    Returns:
        ids of the base's rows that were never trained.

    Raises:
        ModelError: the base is unsound or quantised, or has no row for an entry that its own
            tokenizer has already, or none that was trained for the pieces of a new one.
    """
    untrained: list[int] = untrained_rows(source).tolist()
    names = {token.id: token.form for token in (*expansion.added, *expansion.steps)}
    check_addition(source, expansion.rows, init=init, exclude=untrained, names=names)
    return untrained


def _write_weights(
    source: Path,
    folder: Path,
    expansion: Expansion,
    init: Init,
    untrained: Sequence[int],
    bar: Bar,
) -> RowsReport:
    total = sum(info.nbytes for info in tensor_index(source).values())
    with in_megabytes(bar, "writing the weights", total) as advance:
        return add_rows(
            source,
            folder,
            expansion.rows,
            init=init,
            exclude=untrained,
            advance=advance,
        )


def require_words(expansion: Expansion) -> None:
    """Refuse a plan that adds nothing.

    Raises:
        UsageError: with the first reason why.
    """
    if not expansion.added:
        first = expansion.skipped[0] if expansion.skipped else None
        why = f": {first.form!r} {first.reason}" if first else ""
        raise UsageError(
            f"--words: none of the {len(expansion.skipped):,} forms needs or can have a token of "
            f"its own{why}; give other words"
        )


def plan_record(expansion: Expansion) -> dict[str, Any]:
    """What a plan adds and leaves out, as plain values."""
    names = expansion.old
    return {
        "family": expansion.family,
        "mode": expansion.mode,
        "reason": expansion.reason,
        "added": [_token_record(token, expansion) for token in expansion.added],
        "steps": [_token_record(token, expansion) for token in expansion.steps],
        "skipped": [{"form": item.form, "reason": item.reason} for item in expansion.skipped],
        "phrases": list(expansion.phrases),
        "reserved_tokens_given_up": list(expansion.given_up),
        "vocabulary_before": names.get_vocab_size(with_added_tokens=True),
        "vocabulary_after": expansion.new.get_vocab_size(with_added_tokens=True),
    }


def _token_record(token: AddedToken, expansion: Expansion) -> dict[str, Any]:
    texts = [expansion.old.id_to_token(piece) for piece in token.pieces]
    return {
        "form": token.form,
        "token": token.token,
        "id": token.id,
        "pieces": list(token.pieces),
        "pieces_as_text": texts,
    }


def gate_record(evidence: Evidence, allow_collateral: int) -> dict[str, Any]:
    """What the gate found, as plain values, and what it was told to accept."""
    return {"allowed_collateral": allow_collateral, **evidence.record()}


def _base(source: ModelDirectory) -> dict[str, Any]:
    earlier = {"origin": source.path / "source.json", "expansion": source.path / RECORD}
    return {
        "name": source.name,
        "source": source.source,
        "fingerprint": fingerprint(source.path),
        "tokenizer_fingerprint": tokenizer_fingerprint(source.path),
        **{what: read_json_object(file) for what, file in earlier.items() if file.is_file()},
    }


def _copy_papers(source: ModelDirectory, folder: Path, added: int) -> None:
    """Licence and notice files as they are, the base's README beside a new one."""
    for pattern in _LEGAL:
        for file in sorted(source.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    told = ""
    if (source.path / "README.md").is_file():
        shutil.copyfile(source.path / "README.md", folder / _BASE_README)
        told = f" Its own README is {_BASE_README}."
    write_text(
        folder / "README.md",
        f"# {source.name}, with {added:,} entries added to its vocabulary\n\n"
        f"Made by speakeasy {__version__} from {source.name}.{told} The base's licence holds for "
        f"this model too.\n\n{RECORD} says which words were added and how it was checked that "
        "nothing else changed. The new rows are not trained yet: speakeasy pretrain.\n",
    )


def _check_whole(folder: Path, expansion: Expansion) -> None:
    """Refuse a directory that lacks a row for an entry, or that does not load."""
    check_directory(folder)
    rows = read_config(folder).get("vocab_size")
    largest = max(expansion.rows)
    if not isinstance(rows, int) or rows <= largest:
        raise ModelError(
            f"{folder}: config.json says vocab_size {rows}, but the largest new id is {largest}; "
            "nothing was written; please report this"
        )
    load_tokenizer(folder)
