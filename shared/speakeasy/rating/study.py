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
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speakeasy.errors import RunError

STUDY_FILE = "study.json"
ITEMS_FILE = "items.jsonl"
SCHEDULE_FILE = "schedule.json"
DIALOGUES_FILE = "dialogues.json"
DATABASE_FILE = "study.db"
AUDIO_FOLDER = "audio"
VERSION = 1

LANGUAGES = ("es", "ca", "en")
"""Languages of the pages."""
DIMENSIONS = ("naturalness", "regional", "grammar", "appropriateness")
"""What each answer is rated on from 1 to 5: the guide's four."""
SIDES = ("left", "right")
"""Where an answer can be."""
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
        record = read_record(path, STUDY_FILE)
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
                    for slots in read_record(path, SCHEDULE_FILE)["places"]
                ),
                dialogues=tuple(read_record(path, DIALOGUES_FILE)["dialogues"]),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise broken(path, error) from error
        if [item.number for item in study.items] != list(range(study.plan.items)):
            raise broken(path, f"{ITEMS_FILE} does not hold {study.plan.items:,} items")
        return study


def write_study(
    directory: Path,
    plan: StudyPlan,
    items: Iterable[Item],
    schedule: Iterable[Iterable[Slot]],
    dialogues: Iterable[Record],
) -> None:
    """Write the files of a new study but for its key, which comes first (``key.write_key``).

    ``directory`` should come from ``files.new_directory``.
    """
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
    write_json(directory / STUDY_FILE, {"version": VERSION, "plan": asdict(plan)})


def _text(path: Path, name: str) -> str:
    try:
        return (path / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(
            f"{path}: no {name}; expected a directory that speakeasy rate new made"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"{name}: {error}") from error


def read_record(path: Path, name: str) -> Record:
    """The object in a file of a study's directory.

    Raises:
        RunError: there is no such file, or it holds no object.
    """
    try:
        record = json.loads(_text(path, name))
    except json.JSONDecodeError as error:
        raise broken(path, f"{name}: {error}") from error
    if not isinstance(record, dict):
        raise broken(path, f"{name} holds no object")
    return record


def broken(path: Path, why: object) -> RunError:
    """The error for a directory that cannot be what ``rate new`` wrote."""
    return RunError(f"{path}: the study is broken ({why}); copy the directory again")
