"""Measures of answers: counts of one answer, and the figures of many.

::

    measurer = Measurer(lexicon, seen=training_ngrams(answers, training_texts))
    line["measures"] = measurer.measure(line["answer"], line["prompt"])    # for each line
    table = AnswerTable(lines, categories=len(lexicon.categories), human_density=2.9)
    table.values()["marker_density"], table.intervals()["marker_density"]
    differences(table, other_table)["marker_density_error"]

A line is one of ``answers.jsonl``. Once it holds its measures, its texts are needed for the
distinct words alone. ``docs/metrics.md`` has all formulas and what each figure is blind to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from speakeasy.dialect.lexicon import Lexicon
from speakeasy.evaluation.intervals import (
    DRAWS,
    Difference,
    Floats,
    Interval,
    Statistic,
    jackknife_interval,
    number,
    paired_difference,
    percentile_interval,
    ratio,
    value_of,
)
from speakeasy.evaluation.markers import Matcher
from speakeasy.evaluation.mixing import DriftFinder, WordLanguages, code_mixing_index, switches
from speakeasy.evaluation.surface import (
    TRAINING,
    Ngram,
    loops,
    ngrams,
    prompt_overlap,
    repetition,
)
from speakeasy.evaluation.words import fold, located_words, words

Line = Mapping[str, Any]
Measures = dict[str, Any]

STRONG = 1.0
"""Weight of a marker that tells against an answer to a control prompt."""

_RATIOS: Mapping[str, tuple[str, str, float]] = {
    "marker_density": ("open_weight", "open_words", 100),
    "expected": ("met", "asked", 1),
    "control_plain": ("plain", "controls", 1),
    "anti_density": ("anti", "words", 100),
    "code_mixing": ("code_mixing", "answers", 1),
    "switch_rate": ("switches", "pairs", 1),
    "catalan_drift": ("drifted", "answers", 1),
    "repetition": ("repetition", "answers", 1),
    "loops": ("loop", "answers", 1),
    "prompt_overlap": ("prompt_overlap", "answers", 1),
    "truncated": ("truncated", "answers", 1),
    "overlap_13gram": ("seen_13grams", "all_13grams", 1),
    "words_per_answer": ("words", "answers", 1),
}
"""Figures that are scale × sum of one column / sum of another."""
_TYPES = ("distinct_1", "distinct_2", "coverage")
"""Figures that count different things."""
ANSWER_METRICS = (*_RATIOS, "marker_density_error", *_TYPES)
"""Names of ``METRICS`` that come from answers."""


class Measurer:
    """Takes the measures of one answer at a time.

    Args:
        lexicon: of the variety.
        seen: those 13-grams of the answers that stand in the training texts
            (``surface.training_ngrams``); None where those cannot be read.
    """

    def __init__(self, lexicon: Lexicon, seen: Collection[Ngram] | None = None) -> None:
        variety = lexicon.variety
        self._contact = variety.contact
        self._seen = None if seen is None else frozenset(seen)
        self._markers = Matcher(lexicon.entries)
        self._anti = Matcher(lexicon.anti)
        self._languages = WordLanguages(variety.matrix, variety.contact)
        self._drift = DriftFinder(variety.matrix, variety.contact)

    def measure(self, text: str, prompt: str) -> Measures:
        """The counts of one answer, as JSON values.

        Returns:
            words; markers, marker_weight, strong_markers (of weight 1.0), categories (the
            lexicon's, sorted); anti; code_mixing (CMI, 0..100), switches of so many pairs of
            words, drifted (0 or 1), these four None for a variety without a contact language;
            repetition, loop (0 or 1), prompt_overlap; all_13grams, seen_13grams (None where the
            training texts are unknown).
        """
        folded = fold(text)
        located = located_words(folded)
        tokens = [word.text for word in located]
        markers = self._markers.find_in(folded, located)
        runs = list(ngrams(tokens, TRAINING))
        contact = [
            (marker.start, marker.end)
            for marker in markers
            if marker.entry.language == self._contact
        ]
        tags = self._languages.tags(located, contact)
        changed, pairs = switches(tags)
        mixed = bool(self._contact)
        drifted = self._drift.drifted(folded)
        return {
            "words": len(tokens),
            "markers": len(markers),
            "marker_weight": sum(marker.entry.weight for marker in markers),
            "strong_markers": sum(marker.entry.weight >= STRONG for marker in markers),
            "categories": sorted({marker.entry.category for marker in markers}),
            "anti": len(self._anti.find_in(folded, located)),
            "code_mixing": code_mixing_index(tags) if mixed else None,
            "switches": changed if mixed else None,
            "pairs": pairs if mixed else None,
            "drifted": None if drifted is None else int(drifted),
            "repetition": repetition(tokens),
            "loop": int(loops(tokens)),
            "prompt_overlap": prompt_overlap(tokens, words(prompt)),
            "all_13grams": len(runs),
            "seen_13grams": None if self._seen is None else sum(run in self._seen for run in runs),
        }


class AnswerTable:
    """The measures of a model's answers, a row a prompt, so that prompts can be drawn again.

    Args:
        lines: of ``answers.jsonl``, with their measures. Uses id, control, expects, answer,
            finished and measures.
        categories: how many the lexicon has.
        human_density: ``marker_density`` of the answers that people gave; None if unknown.
    """

    def __init__(
        self, lines: Iterable[Line], *, categories: int, human_density: float | None = None
    ) -> None:
        self._lines: dict[str, list[Line]] = {}
        for line in lines:
            self._lines.setdefault(line["id"], []).append(line)
        self._categories = categories
        self._human = human_density
        rows = [_row(line) for group in self._lines.values() for line in group]
        owners = [place for place, group in enumerate(self._lines.values()) for _ in group]
        self._columns: dict[str, Floats] = {}
        for name in rows[0] if rows else ():
            column = np.zeros(len(self._lines))
            np.add.at(column, owners, [row[name] for row in rows])
            self._columns[name] = column
        self._types = {name: self._types_of(name) for name in _TYPES}

    @property
    def prompts(self) -> tuple[str, ...]:
        """Ids of the prompts, in order."""
        return tuple(self._lines)

    def only(self, prompts: Sequence[str]) -> AnswerTable:
        """The table of some of the prompts, in the order given."""
        lines = [line for prompt in prompts for line in self._lines[prompt]]
        return AnswerTable(lines, categories=self._categories, human_density=self._human)

    def values(self) -> dict[str, float | None]:
        """Every figure of ``ANSWER_METRICS``; None where it cannot be had."""
        found = {
            name: value_of(statistic, len(self._lines)) if statistic else None
            for name, statistic in self._statistics().items()
        }
        found |= {name: types.value for name, types in self._types.items()}
        return {name: found[name] for name in ANSWER_METRICS}

    def intervals(self, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval | None]:
        """95% of every figure, over prompts: bootstrap, but jackknife for different things."""
        found: dict[str, Interval | None] = {
            name: percentile_interval(statistic, len(self._lines), draws=draws, seed=seed)
            if statistic
            else None
            for name, statistic in self._statistics().items()
        }
        for name, types in self._types.items():
            interval = jackknife_interval(types.value, types.left_out)
            found[name] = interval and (max(0.0, interval[0]), min(1.0, interval[1]))
        return {name: found[name] for name in ANSWER_METRICS}

    def samples(self) -> dict[str, int]:
        """How many prompts each figure rests on."""
        counts = dict.fromkeys(ANSWER_METRICS, len(self._lines))
        below = {name: denominator for name, (_, denominator, _) in _RATIOS.items()}
        below["marker_density_error"] = "open_words"
        for name, column in below.items():
            if column in self._columns:
                counts[name] = int((np.nan_to_num(self._columns[column]) > 0).sum())
        return counts

    def _statistics(self) -> dict[str, Statistic | None]:
        """The figures that are ratios, or made of one; None without any answer."""
        if not self._lines:
            return dict.fromkeys((*_RATIOS, "marker_density_error"))
        found: dict[str, Statistic | None] = {
            name: ratio(self._columns[above], self._columns[below], scale)
            for name, (above, below, scale) in _RATIOS.items()
        }
        density, human = found["marker_density"], self._human
        found["marker_density_error"] = (
            (lambda weights: np.abs(density(weights) - human))
            if density is not None and human is not None
            else None
        )
        return found

    def _types_of(self, name: str) -> _Types:
        groups: list[Set[Any]] = []
        sizes: list[int] = []
        for lines in self._lines.values():
            if name == "coverage":
                things = [each for line in lines for each in line["measures"]["categories"]]
            else:
                length = int(name[-1])
                things = [run for line in lines for run in ngrams(words(line["answer"]), length)]
            groups.append(set(things))
            sizes.append(len(things))
        return _Types(groups, sizes, whole=self._categories if name == "coverage" else None)


def summarise(
    lines: Iterable[Line], *, categories: int, human_density: float | None = None
) -> dict[str, float | None]:
    """Every figure of ``ANSWER_METRICS`` from lines of ``answers.jsonl``, as ``AnswerTable``."""
    return AnswerTable(lines, categories=categories, human_density=human_density).values()


def differences(
    a: AnswerTable, b: AnswerTable, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference | None]:
    """``a`` less ``b`` of every figure, over the prompts that both have answered, paired.

    Returns:
        None where one of the two has no value.
    """
    shared = [prompt for prompt in a.prompts if prompt in set(b.prompts)]
    one, other = a.only(shared), b.only(shared)
    found: dict[str, Difference | None] = {}
    statistics = other._statistics()
    for name, statistic in one._statistics().items():
        against = statistics[name]
        found[name] = (
            paired_difference(statistic, against, len(shared), draws=draws, seed=seed)
            if statistic and against
            else None
        )
    for name in _TYPES:
        mine, yours = one._types[name], other._types[name]
        if mine.value is None or yours.value is None:
            found[name] = None
        else:
            value = mine.value - yours.value
            found[name] = Difference(
                value, jackknife_interval(value, mine.left_out - yours.left_out)
            )
    return {name: found[name] for name in ANSWER_METRICS}


class _Types:
    """A share of different things: of all things, or of a whole that is known.

    Attributes:
        value: None where there is nothing to count.
        left_out: (groups,) the value without each group in turn.
    """

    def __init__(self, groups: Sequence[Set[Any]], sizes: Sequence[int], whole: int | None) -> None:
        owners = Counter(thing for group in groups for thing in group)
        alone = np.array([sum(owners[thing] == 1 for thing in group) for group in groups])
        total = sum(sizes) if whole is None else whole
        rest = total - (np.array(sizes) if whole is None else np.zeros(len(groups)))
        self.value = number(len(owners) / total) if total and groups else None
        self.left_out: Floats = np.divide(
            len(owners) - alone, rest, out=np.full(len(groups), np.nan), where=rest > 0
        )


def _row(line: Line) -> dict[str, float]:
    """One answer as numbers that can be added up; NaN for what cannot be had."""
    measures = line["measures"]
    control = bool(line["control"])
    expects = set(line.get("expects", ()))
    asks = bool(expects) and not control
    met = asks and not expects.isdisjoint(measures["categories"])
    counts = {
        name: np.nan if measures[name] is None else measures[name]
        for name in (
            "words", "anti", "code_mixing", "switches", "pairs", "drifted", "repetition", "loop",
            "prompt_overlap", "all_13grams", "seen_13grams",
        )
    }  # fmt: skip
    return counts | {
        "answers": 1,
        "open_words": 0 if control else measures["words"],
        "open_weight": 0 if control else measures["marker_weight"],
        "asked": int(asks),
        "met": int(met),
        "controls": int(control),
        "plain": int(control and measures["strong_markers"] == 0),
        "truncated": int(not line["finished"]),
    }
