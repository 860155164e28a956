"""The plots of a report, as SVG to stand in an HTML page.

Each is narrow enough for a telephone; the page lays several beside each other. Nothing rests on
colour: every line has a marker, a dash and its name beside it. Colours are the page's own (CSS
custom properties), so that a plot is dark where the page is; words are text, in the page's own
font. The same values give the same bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.6
"""Inches, of 72 units of the SVG each: at 360 pixels, a unit is a pixel."""
_SHORT = 18
_ROOM = 6
"""Percent of a bar that hold a digit."""
_SHADE = 0.07
"""How much darker each point of a scale is."""
_FONT = "DejaVu Sans"
"""Comes with matplotlib, and is as wide as any: what it leaves room for fits."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
_INK, _FAINT = "#fe0001", "#fe0002"
_SERIES = ("#fe0011", "#fe0012", "#fe0013", "#fe0014")
_VARIABLES = {_INK: "--ink", _FAINT: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_SERIES, 1)
}
"""Colours that stand for the page's: drawn with, then replaced."""
_OWN_STYLE = re.compile(r"\s*<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
"""Rules that matplotlib puts into an SVG; in a page they would hold for all of it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line.

    Attributes:
        name: at its end.
        style: a number; the same is the same marker, dash and colour in every plot.
        points: pairs of x and y, by x.
    """

    name: str
    style: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval.

    Attributes:
        name: left of it.
        style: as of ``Curve``.
        value: where it is.
        text: the value for people, right of it.
        interval: the whisker; None for none.
    """

    name: str
    style: int
    value: float
    text: str
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Bar:
    """Counts on a scale, as shares of a bar.

    Attributes:
        name: left of it.
        counts: from the lowest point of the scale, which is 1, to the highest.
    """

    name: str
    counts: Sequence[int]


def curves(key: str, lines: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Lines over one axis, each with its name at its end.

    Args:
        key: begins every id of the SVG; no two plots of a page have the same.
        lines: at least one, each with at least one point.

    Returns:
        an ``svg`` element.
    """
    ends = (f"{line.name}: {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    said = f"{y_label} over {x_label}. {'; '.join(ends)}"
    return _svg(key, 3.1, said, lambda figure: _draw_curves(figure, lines, x_label, y_label))


def dots(key: str, rows: Sequence[Dot], mark: tuple[str, float] | None = None) -> str:
    """A dot and a whisker a row, from top to bottom.

    Args:
        key: begins every id of the SVG; no two plots of a page have the same.
        rows: at least one.
        mark: name and place of a line across all rows, such as what people do.

    Returns:
        an ``svg`` element.
    """
    height = 0.42 + 0.3 * len(rows) + (0.22 if mark else 0)
    said = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return _svg(key, height, said, lambda figure: _draw_dots(figure, rows, mark))


def bars(key: str, rows: Sequence[Bar]) -> str:
    """A whole bar a row, cut at the shares of its counts; each part that has room bears its point.

    Args:
        key: begins every id of the SVG; no two plots of a page have the same.
        rows: at least one, each with at least one count above 0.

    Returns:
        an ``svg`` element.
    """
    said = "; ".join(f"{row.name}: {', '.join(map(str, row.counts))}" for row in rows)
    return _svg(key, 0.3 + 0.36 * len(rows), said, lambda figure: _draw_bars(figure, rows))


def _draw_bars(figure: Figure, rows: Sequence[Bar]) -> None:
    axes = _axes(figure)
    for number, row in enumerate(rows):
        start = 0.0
        for point, count in enumerate(row.counts, 1):
            share = 100 * count / sum(row.counts)
            axes.barh(
                number, share, left=start, height=0.7, facecolor=(_INK, _SHADE * point),
                edgecolor=_INK,
            )  # fmt: skip
            if share >= _ROOM:
                axes.text(
                    start + share / 2, number, str(point), ha="center", va="center", color=_INK
                )
            start += share
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])


def _draw_curves(figure: Figure, lines: Sequence[Curve], x_label: str, y_label: str) -> None:
    axes = _axes(figure)
    for line in lines:
        axes.plot(
            *zip(*line.points, strict=True), color=_of(_SERIES, line), linewidth=1.8, markersize=5,
            marker=_of(_MARKERS, line), linestyle=_of(_DASHES, line),
        )  # fmt: skip
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(0.05, 0.1)
    low, high = axes.get_ylim()
    ends = [line.points[-1][1] for line in lines]
    for line, y in zip(lines, _apart(ends, (high - low) / 11), strict=True):
        axes.annotate(
            _short(line.name), (line.points[-1][0], y), xytext=(8, 0), textcoords="offset points",
            va="center", color=_of(_SERIES, line), annotation_clip=False,
        )  # fmt: skip


def _draw_dots(figure: Figure, rows: Sequence[Dot], mark: tuple[str, float] | None) -> None:
    axes = _axes(figure)
    for number, row in enumerate(rows):
        if row.interval is not None:
            axes.plot(row.interval, [number, number], color=_of(_SERIES, row), linewidth=2.2)
            axes.plot(
                row.interval, [number, number], color=_of(_SERIES, row), linestyle="none",
                marker="|", markersize=8, markeredgewidth=1.6,
            )  # fmt: skip
        axes.plot(
            [row.value], [number], color=_of(_SERIES, row), markersize=7, linestyle="none",
            marker=_of(_MARKERS, row),
        )  # fmt: skip
        axes.text(
            1.02, number, row.text, transform=axes.get_yaxis_transform(), va="center", color=_INK
        )
    if mark is not None:
        name, place = mark
        axes.axvline(place, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (place, 1), xycoords=axes.get_xaxis_transform(), xytext=(0, 3),
            textcoords="offset points", ha="center", va="bottom", color=_INK,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    axes.locator_params(axis="x", nbins=5)


def _axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _of(styles: Sequence[Any], drawn: Curve | Dot) -> Any:
    return styles[drawn.style % len(styles)]


def _short(name: str) -> str:
    """A name that leaves room for the plot, without what no XML may hold."""
    clean = "".join(c if c.isprintable() else " " for c in name).strip()
    return clean if len(clean) <= _SHORT else clean[: _SHORT - 1] + "…"


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved upwards as far as it takes for each to be ``gap`` from the next."""
    moved = list(places)
    floor = float("-inf")
    for index in sorted(range(len(places)), key=lambda i: (places[i], -i)):
        moved[index] = floor = max(places[index], floor + gap)
    return moved


def _svg(key: str, height: float, said: str, draw: Callable[[Figure], None]) -> str:
    """What was drawn, as an element whose ids begin with ``key``; ``said`` is read aloud."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = StringIO()
    with _settings(key):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'((?: id="|href="#|url\(#))', rf"\g<1>{key}-", text)
    text = _OWN_STYLE.sub("", text).replace(f" font-family: '{_FONT}';", "")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(said)}" ', 1)


@contextmanager
def _settings(key: str) -> Iterator[None]:
    """Matplotlib's settings while a plot is drawn."""
    from matplotlib import rc_context

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.family": _FONT,
        "font.size": 10,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "text.color": _INK,
        "text.parse_math": False,
    }
    with rc_context(settings), warnings.catch_warnings():
        # The letters are the reader's browser's to draw; here their widths are guessed at.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield
