"""The directory of a study, as ``rate new`` makes it and everything else reads it.

::

    study.json        the plan: what was fixed before anyone was asked; written last
    items.jsonl       a line an item: a prompt and two answers, without a word on whose they are
    schedule.json     for every place that a rater can take: items, their order, which side up
    dialogues.json    what raters are asked to read aloud
    key.json          whose the answers are; read once the study is closed
    study.db          raters, votes and ratings (SQLite); made when the first rater is invited
    audio/            recordings, under random names

The server reads no ``key.json``: it cannot give away what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speakeasy.errors import RunError

STUDY_FILE = "study.json"
ITEMS_FILE = "items.jsonl"
SCHEDULE_FILE = "schedule.json"
DIALOGUES_FILE = "dialogues.json"
KEY_FILE = "key.json"
DATABASE_FILE = "study.db"
AUDIO_FOLDER = "audio"
VERSION = 1

LANGUAGES = ("es", "ca", "en")
"""Languages of the pages."""
DIMENSIONS = ("naturalness", "regional", "grammar", "appropriateness")
"""What each answer is rated on from 1 to 5: the guide's four."""
CHOICES = ("left", "right", "both_good", "both_bad")
"""What can be said of a pair."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and two answers to it.

    Attributes:
        number: its line in ``items.jsonl``, from 0.
        prompt: what was said last, and
        history: role and content of the messages before.
        answers: two texts; their order was drawn and says nothing.
    """

    number: int
    prompt: str
    history: tuple[tuple[str, str], ...]
    answers: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Slot:
    """What a rater sees at one position of their list.

    Attributes:
        item: number of the item.
        swapped: whether its second answer is to the left.
        repeats: position of the same item earlier in the list, the other side up; or None.
    """

    item: int
    swapped: bool
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Who is left out of the report's second reading. Fixed before anyone is asked.

    Attributes:
        gold: least share of gold items passed.
        seconds: least median time for a pair, in seconds.
        one_sided: largest share of one side among decided pairs,
        decided: of which there are so many at least.
    """

    gold: float = 0.6
    seconds: float = 4.0
    one_sided: float = 0.9
    decided: int = 8


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What was fixed before anyone was asked.

    Attributes:
        title: what raters are told that this is.
        contact: whom they can write to; empty if nobody is named.
        language: of the answers, as in HTML's ``lang`` ("es").
        variety: the variety's name in English, such as "the Spanish of Catalonia".
        region: where it is spoken, as raters would say it ("Catalunya"); may be empty.
        raters: how many are wanted.
        pairs: real pairs that each rater is asked to judge, without repeats and gold items.
        repeats, gold: how many more of these kinds each list holds.
        items: lines of ``items.jsonl``; prompts: different prompts among them.
        systems: how many models are compared.
        seed: of order, sides and lists.
        exclusions: see there.
    """

    title: str
    contact: str
    language: str
    variety: str
    region: str
    raters: int
    pairs: int
    repeats: int
    gold: int
    items: int
    prompts: int
    systems: int
    seed: int
    exclusions: Exclusions = Exclusions()

    @property
    def length(self) -> int:
        """Pairs on a rater's list, of every kind."""
        return self.pairs + self.repeats + self.gold


@dataclass(frozen=True, slots=True)
class Study:
    """A study without its key: all that the server may know.

    Attributes:
        path: its directory.
        items: by number.
        schedule: a list a place.
        dialogues: id, title, scenario and lines ({speaker, text}) of each; may be empty.
    """

    path: Path
    plan: StudyPlan
    items: tuple[Item, ...]
    schedule: tuple[tuple[Slot, ...], ...]
    dialogues: tuple[Record, ...]

    @property
    def database(self) -> Path:
        """Where votes are."""
        return self.path / DATABASE_FILE

    @property
    def audio(self) -> Path:
        """Where recordings are."""
        return self.path / AUDIO_FOLDER

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a directory that ``rate new`` made.

        Raises:
            RunError: it holds no study, one of another version, or one that is broken.
        """
        record = _json(path, STUDY_FILE)
        if record.get("version") != VERSION:
            raise RunError(
                f"{path / STUDY_FILE}: version {record.get('version')!r}; expected {VERSION}: make "
                "the study again with speakeasy rate new"
            )
        try:
            plan = record["plan"]
            study = cls(
                path=path,
                plan=StudyPlan(**{**plan, "exclusions": Exclusions(**plan["exclusions"])}),
                items=tuple(
                    Item(
                        line["item"],
                        line["prompt"],
                        tuple((role, content) for role, content in line["history"]),
                        (line["answers"][0], line["answers"][1]),
                    )
                    for line in map(json.loads, _text(path, ITEMS_FILE).splitlines())
                ),
                schedule=tuple(
                    tuple(Slot(*slot) for slot in slots)
                    for slots in _json(path, SCHEDULE_FILE)["places"]
                ),
                dialogues=tuple(_json(path, DIALOGUES_FILE)["dialogues"]),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise _broken(path, error) from error
        if [item.number for item in study.items] != list(range(study.plan.items)):
            raise _broken(path, f"{ITEMS_FILE} does not hold {study.plan.items:,} items")
        return study


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
        record = _json(path, KEY_FILE)
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
            raise _broken(path, error) from error


def write_study(
    directory: Path,
    plan: StudyPlan,
    items: Iterable[Item],
    schedule: Iterable[Iterable[Slot]],
    dialogues: Iterable[Record],
    key: Key,
) -> None:
    """Write the files of a new study; ``directory`` should come from ``files.new_directory``."""
    from speakeasy.files import write_json, write_text

    lines = (
        {
            "item": item.number,
            "prompt": item.prompt,
            "history": [list(turn) for turn in item.history],
            "answers": list(item.answers),
        }
        for item in items
    )
    write_text(
        directory / ITEMS_FILE,
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
    )
    places = [[[slot.item, slot.swapped, slot.repeats] for slot in slots] for slots in schedule]
    write_text(directory / SCHEDULE_FILE, json.dumps({"places": places}) + "\n")
    write_json(directory / DIALOGUES_FILE, {"dialogues": list(dialogues)})
    write_json(directory / KEY_FILE, _key_record(key))
    (directory / KEY_FILE).chmod(0o600)
    write_json(directory / STUDY_FILE, {"version": VERSION, "plan": asdict(plan)})


def _key_record(key: Key) -> Record:
    return {
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


def _text(path: Path, name: str) -> str:
    try:
        return (path / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(
            f"{path}: no {name}; expected a directory that speakeasy rate new made"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(path, f"{name}: {error}") from error


def _json(path: Path, name: str) -> Record:
    try:
        record = json.loads(_text(path, name))
    except json.JSONDecodeError as error:
        raise _broken(path, f"{name}: {error}") from error
    if not isinstance(record, dict):
        raise _broken(path, f"{name} holds no object")
    return record


def _broken(path: Path, why: object) -> RunError:
    return RunError(f"{path}: the study is broken ({why}); copy the directory again")
