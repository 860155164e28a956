"""Writes the tables and the picture of ``docs/vocabulary.md``: tokens a word, and naive addition.

    pip install -e .
    python docs/render_vocabulary.py NAME=DIRECTORY ...

Each NAME=DIRECTORY is a tokenizer (a model directory, or its tokenizer files alone); the starter
model's comes first, always.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speakeasy.vocab.audit import POSITIONS, WordCost, audit_words, means
from speakeasy.vocab.expand import plan_for
from speakeasy.vocab.families import Source, read_source
from speakeasy.vocab.naive import naive_addition
from speakeasy.vocab.words import forms_of, guide_words
from speakeasy.weights.hub import resolve_model

PAGE = Path(__file__).with_name("vocabulary.md")
PICTURE = Path(__file__).with_name("fertility.svg")


def costs(source: Source) -> list[WordCost]:
    """Tokens of the guide's words, before and after."""
    words = guide_words()
    forms, _ = forms_of(words)
    return audit_words(words, plan_for(source, forms))


def words_table(found: dict[str, list[WordCost]]) -> str:
    """A line a word: tokens bare, after a space, capitalised, and both."""
    lines = [
        "| word | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for same in zip(*found.values(), strict=True):
        cells = [f"{_counts(cost.before)} → {_counts(cost.after)}" for cost in same]
        lines.append(f"| {same[0].word.text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _counts(tokens: Iterable[int]) -> str:
    return " ".join(map(str, tokens))


def naive_table(sources: dict[str, Source]) -> str:
    """What ``add_tokens`` does to each tokenizer."""
    words = [word.text for word in guide_words()]
    lines = [
        "| tokenizer | other words changed (es, ca, en) | no longer decode | now match anywhere |",
        "|---|---|---|---|",
    ]
    for name, source in sources.items():
        found = naive_addition(source, words)
        parts = ", ".join(f"{len(part.collateral):,}" for part in found.words.values())
        lines.append(
            f"| {name} | {found.changed:,} ({parts}) | {', '.join(found.destroyed) or '-'} "
            f"| {', '.join(found.taken) or '-'} |"
        )
    return "\n".join(lines)


def picture(found: dict[str, list[WordCost]]) -> None:
    """Bars of mean tokens a word, before and after, in each position; readable without colour."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "speakeasy"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(found), figsize=(4.2 * len(found), 3.2), sharey=True, squeeze=False
    )
    for axis, (name, listed) in zip(axes[0], found.items(), strict=True):
        before, after = means(listed)
        places = range(len(before))
        for shift, values, label, hatch, colour in (
            (-0.2, before, "before", "", "#2f4b7c"),
            (0.2, after, "after", "//", "#ffa600"),
        ):
            bars = axis.bar(
                [place + shift for place in places], list(values), 0.38, label=label,
                hatch=hatch, color=colour, edgecolor="black", linewidth=0.5,
            )  # fmt: skip
            axis.bar_label(bars, fmt="%.2f", fontsize=7)
        axis.set_xticks(list(places), [place.replace(" ", "\n") for place in POSITIONS], fontsize=8)
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("tokens a word (the guide's 24)")
    axes[0][0].set_ylim(top=3.2)
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def put(text: str, mark: str, content: str) -> str:
    """The page with the part between two marks replaced."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
    replaced, count = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)
    assert count == 1, mark
    return replaced


def main(arguments: list[str]) -> None:
    """Write page and picture."""
    directories: dict[str, Any] = {"SmolLM2 (starter)": resolve_model("starter").path}
    directories |= dict(argument.split("=", 1) for argument in arguments)
    sources = {name: read_source(Path(path)) for name, path in directories.items()}
    found = {name: costs(source) for name, source in sources.items()}
    picture(found)
    text = put(PAGE.read_text(encoding="utf-8"), "words", words_table(found))
    PAGE.write_text(put(text, "naive", naive_table(sources)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
