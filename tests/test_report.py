"""The HTML report: what it says, that nothing in it is markup but its own, the same bytes again."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from comparisons import NAMES, comparison

from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.report import panels
from speakeasy.evaluation.report.definitions import DEFINITIONS
from speakeasy.evaluation.report.page import report_page
from speakeasy.evaluation.report.plots import Curve, Dot, curves, dots
from speakeasy.evaluation.tables import NONE

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} ${7*7} $\\frac{1}{2}$ </svg></style>",
    "\u202eesrever \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "中文\t\x00\x07\ud83d" + "\U0001f600",
    "x" * 10_000,
)


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.found]


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(comparison())


def renamed(text: str) -> dict[str, Any]:
    """The comparison with a run called ``text``, which also answers so, everywhere."""
    record = comparison()
    record["runs"][1]["name"] = text
    record["runs"][1]["model"]["name"] = text
    for pair in record["pairs"]:
        for side in ("a", "b"):
            pair[side] = text if pair[side] == NAMES[1] else pair[side]
    record["verdict"]["lines"].append(text)
    record["warnings"].append(text)
    for line in record["answers"]:
        line["answers"][text] = line["answers"].pop(NAMES[1])
        line["answers"][text][0] = text
        line["prompt"] = text
    return record


def test_the_page_holds_every_section_and_figure(page: str) -> None:
    record, text = comparison(), " ".join(Elements(page).text.split())
    for name in NAMES:
        assert name in text
    for line in [*record["verdict"]["lines"], *record["warnings"]]:
        assert line in text
    assert text.index(record["verdict"]["lines"][0]) < text.index("The guide’s table")
    for shown in ("12 min 3 s", "1.9 GB", "345.1 MB", "2.83", "1.998", "[1.836, 1.950]"):
        assert shown in text
    assert "not comparable across tokenizers" in text
    assert "not distinguishable" in text
    assert "near to people: 2.40" in text
    for line in record["answers"]:
        assert line["prompt"] in text
        assert all(said in text for told in line["answers"].values() for said in told)
    for run in record["runs"]:
        assert run["model"]["fingerprint"][:12] in text
    assert "peft 0.21.2" in text
    for kind in METRICS.values():
        assert kind.label.format(matrix="es", contact="ca") in text


def test_every_figure_is_defined_once() -> None:
    assert sorted(DEFINITIONS) == sorted(METRICS)


def test_the_same_comparison_gives_the_same_bytes(page: str) -> None:
    assert report_page(copy.deepcopy(comparison())) == page


def test_nothing_is_fetched(page: str) -> None:
    elements = Elements(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(elements.tags())
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", page)


def test_ids_are_unique_and_all_are_there(page: str) -> None:
    attributes = [found for _, found in Elements(page).found]
    ids = [found["id"] for found in attributes if "id" in found]
    assert len(ids) == len(set(ids))
    for found in attributes:
        for name in ("aria-labelledby", "xlink:href"):
            if name in found:
                assert (found[name] or "").removeprefix("#") in ids
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_languages(page: str) -> None:
    languages = [found.get("lang") for _, found in Elements(page).found if "lang" in found]
    assert languages[0] == "en"
    answers = sum(
        len(told) for line in comparison()["answers"] for told in line["answers"].values()
    )
    assert languages.count("es") == answers + len(comparison()["answers"])


@pytest.mark.parametrize("text", HOSTILE, ids=["script", "img", "braces", "rtl", "cjk", "long"])
def test_hostile_names_and_answers_are_text(page: str, text: str) -> None:
    text = text.encode(errors="ignore").decode()
    elements = Elements(report_page(renamed(text)))
    own = Elements(page)
    assert set(elements.tags()) == set(own.tags())
    assert not [a for _, found in elements.found for a in found if a.startswith("on")]
    if text.isprintable():
        assert text in elements.text


def test_a_long_answer_scrolls_and_can_be_reached_by_keyboard() -> None:
    elements = Elements(report_page(renamed("x" * 10_000)))
    long = [found for _, found in elements.found if "long" in (found.get("class") or "").split()]
    assert len(long) == len(comparison()["answers"])
    assert all(found["tabindex"] == "0" and found["aria-label"] for found in long)


def test_a_comparison_without_pictures_or_answers() -> None:
    record = comparison() | {"answers": [], "pairs": [], "warnings": []}
    for run in record["runs"]:
        run["lineage"] = []
        for metric in run["metrics"].values():
            metric |= {"value": None, "interval": None}
    page = report_page(record)
    assert "<svg" not in page
    assert "Before you believe it" not in page
    assert NONE in page


def test_an_empty_answer_is_said_to_be_empty() -> None:
    record = comparison()
    record["answers"][0]["answers"][NAMES[0]] = ["", "  \n"]
    assert Elements(report_page(record)).text.count("(empty)") == 2


# Plots ---------------------------------------------------------------------------------------


def test_panels_leave_out_what_has_no_value() -> None:
    record = comparison()
    for run in record["runs"]:
        run["metrics"]["coverage"]["value"] = None
    shown = [panel.caption for panel in panels.interval_panels(record)]
    assert len(shown) == len(panels.INTERVALS) - 1
    assert METRICS["coverage"].label not in shown


def test_a_run_behind_two_models_is_drawn_once() -> None:
    record = comparison()
    record["runs"][1]["lineage"] = record["runs"][2]["lineage"]
    assert [panel.svg.count("Approach") for panel in panels.curve_panels(record)] == [2, 2]


def test_a_plot_needs_no_colour() -> None:
    lines = [Curve(f"run {i}", i, [(0, 2.0 + i), (1, 1.5 + i)]) for i in range(4)]
    svg = curves("key", lines, "MB", "bits")
    for line in lines:
        assert f">{line.name}</text>" in svg
    dashes = set(re.findall(r"stroke-dasharray: ([\d., ]+)", svg))
    assert len(dashes) == 3  # the first is solid
    assert "#fe00" not in svg
    assert "http://" not in svg.replace("http://www.w3.org/", "")


def test_a_whisker_is_drawn_only_with_an_interval() -> None:
    bare = dots("key", [Dot("a", 0, 1.0, "1.0", None), Dot("b", 1, 2.0, "2.0", None)])
    both = dots("key", [Dot("a", 0, 1.0, "1.0", (0.5, 1.5)), Dot("b", 1, 2.0, "2.0", None)])
    whisker = "stroke-width: 2.2"
    assert (bare.count(whisker), both.count(whisker)) == (0, 1)


def test_labels_at_one_height_do_not_meet() -> None:
    lines = [Curve(f"run {i}", i, [(0, 2.0), (1, 1.5)]) for i in range(3)]
    svg = curves("key", lines, "MB", "bits")
    heights = sorted(
        float(re.search(r'y="([\d.]+)"[^>]*>' + line.name, svg)[1])  # type: ignore[index]
        for line in lines
    )
    assert all(b - a >= 10 for a, b in pairwise(heights))


# The style -----------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_words_stand_out_from_the_paper_in_light_and_dark() -> None:
    folder = files("speakeasy.evaluation.report").joinpath("templates")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks[:2]:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name in colours.keys() - {"line", "paper", "raised"}:
            for ground in ("paper", "raised"):
                pair = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)
