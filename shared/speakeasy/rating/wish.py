"""What the organiser of a study asks for: in TOML's types, so that a recipe can hold it."""

from __future__ import annotations

from dataclasses import dataclass

from speakeasy.errors import UsageError

PACKAGED = "packaged"
"""The conversations, or dialogues, that come with the package."""
NONE = "none"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a study is to be like.

    Attributes:
        samples: answers of each model to a prompt that are paired; 0 for all.
        raters, pairs, repeats: as in ``StudyPlan``.
        gold_share: gold items, as a share of the real pairs on a list.
        gold: a file of conversations that they are made of; ``packaged``, or ``none``.
        dialogues: a file of dialogues to read aloud; ``packaged``, or ``none``.
        max_chars: longest answer that is shown.
        keep: flags of pairs that are kept although they would be left out.
        drop: flags of pairs that are left out although they would be kept.
        region: as raters say it; empty for the packaged variety's.
    """

    title: str = ""
    contact: str = ""
    region: str = ""
    samples: int = 1
    raters: int = 12
    pairs: int = 20
    repeats: int = 1
    gold_share: float = 0.1
    gold: str = PACKAGED
    dialogues: str = PACKAGED
    max_chars: int = 2_000
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--samples", self.samples, 0),
            ("--raters", self.raters, 1),
            ("--pairs", self.pairs, 1),
            ("--repeats", self.repeats, 0),
            ("--max-chars", self.max_chars, 1),
        ):
            if value < least:
                raise UsageError(f"{option} {value}: the number must be at least {least}")
        if not 0 <= self.gold_share <= 0.5:
            raise UsageError(f"--gold-share {self.gold_share}: expected 0 to 0.5")
        if set("{}") & set(self.region):
            raise UsageError(f"--region {self.region}: braces cannot stand in a region's name")
