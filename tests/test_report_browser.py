"""The HTML report in a real browser: a telephone's width, a desk's, and paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from comparisons import NAMES, comparison

from speakeasy.evaluation.report.page import report_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
WIDTHS = (360, 1_280)
GROUND = "getComputedStyle(document.body).backgroundColor"
LONG_NAME = "a-run-whose-name-" + "has-no-end-" * 20


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def awkward() -> dict[str, Any]:
    """The comparison with an endless word, an endless name and text from right to left."""
    record = comparison()
    record["runs"][1]["name"] = LONG_NAME
    record["warnings"].append("w" * 400)
    for line in record["answers"]:
        line["answers"][LONG_NAME] = line["answers"].pop(NAMES[1])
    record["answers"][0]["answers"][NAMES[0]] = ["palabra" * 1_500, "שלום عليكم"]
    record["pairs"] = [pair for pair in record["pairs"] if NAMES[1] not in (pair["a"], pair["b"])]
    return record


@pytest.fixture(scope="module", params=["plain", "awkward"])
def written(request: pytest.FixtureRequest) -> str:
    return report_page(comparison() if request.param == "plain" else awkward())


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, written: str) -> Iterator[Any]:
    """The report, opened; any request, error or message of the console fails the test."""
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    noises: list[str] = []
    opened.on("request", lambda request: noises.append(request.url))
    opened.on("console", lambda message: noises.append(message.text))
    opened.on("pageerror", lambda error: noises.append(str(error)))
    opened.set_content(written)
    yield opened
    opened.close()
    assert noises == []


def test_the_page_is_no_wider_than_the_screen(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter(e => !e.closest("svg, thead") && e.getClientRects().length)
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 100))"""
    )
    assert outside == []


def test_no_column_is_a_letter_wide(page: Any) -> None:
    narrow = page.evaluate(
        """() => [...document.querySelectorAll("p, dd, td, caption, li, figcaption")]
            .filter(e => e.innerText.trim().length > 20 && e.getBoundingClientRect().width < 100)
            .map(e => e.innerText.slice(0, 60))"""
    )
    assert narrow == []


def test_every_plot_is_seen_and_within_itself(page: Any) -> None:
    plots = page.evaluate(
        """() => [...document.querySelectorAll("svg")].map(svg => {
            const box = svg.getBoundingClientRect();
            const inside = [...svg.querySelectorAll("text")].every(t => {
                const b = t.getBoundingClientRect();
                return b.left >= box.left - 2 && b.right <= box.right + 2 &&
                    b.top >= box.top - 2 && b.bottom <= box.bottom + 2;
            });
            return [box.width, box.height, inside, svg.getAttribute("aria-label")];
        })"""
    )
    assert len(plots) == 8 + 2 + 3
    for width, height, inside, label in plots:
        assert width > 250
        assert height > 50
        assert inside, label
        assert label
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")


def test_headings_come_in_order(page: Any) -> None:
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_who_cannot_see_finds_their_way(page: Any) -> None:
    said = page.locator("body").aria_snapshot()
    assert "- main" in said
    for name in ("Verdict", "The guide’s table", "Answers side by side", "What ran on what"):
        assert f'region "{name}"' in said
    # Cards on a telephone are a table all the same.
    rows = page.get_by_role("table").first.get_by_role("row")
    assert rows.count() == 6
    assert rows.nth(1).get_by_role("cell").count() == 3
    assert rows.nth(1).get_by_role("rowheader").count() == 1
    assert page.title()


def test_words_are_large_enough_to_read(page: Any) -> None:
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("svg text")].map(
            t => parseFloat(getComputedStyle(t).fontSize) *
                t.ownerSVGElement.getBoundingClientRect().width /
                t.ownerSVGElement.viewBox.baseVal.width))"""
    )
    assert smallest >= 9


def test_it_is_dark_where_the_reader_wants_it_so(browser: Any, written: str) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        opened = browser.new_page(color_scheme=scheme)
        opened.set_content(written)
        grounds.append(opened.evaluate(GROUND))
        opened.close()
    assert grounds == ["rgb(255, 255, 255)", "rgb(22, 24, 27)"]


def test_it_prints(browser: Any, written: str, tmp_path: Path) -> None:
    opened = browser.new_page(color_scheme="dark")
    opened.set_content(written)
    paper = opened.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert paper.startswith(b"%PDF")
    assert 4 <= paper.count(b"/Type /Page\n") <= 40
    opened.emulate_media(media="print")
    assert opened.evaluate(GROUND) == "rgb(255, 255, 255)"
    hidden = opened.evaluate(
        """() => [...document.querySelectorAll(".card")]
            .filter(e => e.scrollHeight > e.clientHeight + 1).length"""
    )
    assert hidden == 0  # nobody scrolls on paper
    opened.close()
