"""Whose the answers of a study are. The server imports nothing of this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speakeasy.rating.study import VERSION, Record, broken, read_record

KEY_FILE = "key.json"


@dataclass(frozen=True, slots=True)
class Key:
    """Whose the answers are. For the report alone, once the study is closed.

    Attributes:
        systems: the models' names.
        owners: for each item, the number of the system behind its first and its second answer; None
            for an answer that no model gave.
        better: for a gold item, which of its answers is better, 0 or 1; None for real pairs.
        prompts: the prompt's id of each item.
        samples: the number of the answers among those to the same prompt.
        identities: for each system, what is known of it: evaluation, run, fingerprint.
        metrics: for each system, its automatic figures by name (value or None), and
        measures: for each item, the measures of its two answers as ``answers.jsonl`` has them; None
            for gold items.
    """

    systems: tuple[str, ...]
    owners: tuple[tuple[int | None, int | None], ...]
    better: tuple[int | None, ...]
    prompts: tuple[str, ...]
    samples: tuple[int, ...]
    identities: tuple[Record, ...]
    metrics: tuple[Mapping[str, float | None], ...]
    measures: tuple[tuple[Record, Record] | None, ...]

    @classmethod
    def read(cls, path: Path) -> Key:
        """Read the key of a study's directory.

        Raises:
            RunError: there is none, or it is broken.
        """
        record = read_record(path, KEY_FILE)
        try:
            items = record["items"]
            return cls(
                systems=tuple(record["systems"]),
                owners=tuple((item["owners"][0], item["owners"][1]) for item in items),
                better=tuple(item["better"] for item in items),
                prompts=tuple(item["prompt"] for item in items),
                samples=tuple(item["sample"] for item in items),
                identities=tuple(record["identities"]),
                metrics=tuple(record["metrics"]),
                measures=tuple(
                    None if item["measures"] is None else (item["measures"][0], item["measures"][1])
                    for item in items
                ),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise broken(path, error) from error


def write_key(directory: Path, key: Key) -> None:
    """Write the key of a new study, for its owner's eyes only."""
    from speakeasy.files import write_json

    record = {
        "version": VERSION,
        "systems": list(key.systems),
        "identities": list(key.identities),
        "metrics": [dict(metrics) for metrics in key.metrics],
        "items": [
            {
                "prompt": prompt,
                "sample": sample,
                "owners": list(owners),
                "better": better,
                "measures": None if measures is None else list(measures),
            }
            for prompt, sample, owners, better, measures in zip(
                key.prompts, key.samples, key.owners, key.better, key.measures, strict=True
            )
        ],
    }
    write_json(directory / KEY_FILE, record)
    (directory / KEY_FILE).chmod(0o600)
