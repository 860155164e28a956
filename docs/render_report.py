"""Takes the pictures of a report that stand in the docs: at a telephone's width and at a desk's.

    python docs/render_report.py COMPARISON.json

Needs Chromium and Playwright (extra ``dev``). The pictures show the head of the page.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from speakeasy.evaluation.report.page import report_page
from speakeasy.training.run import read_json

HERE = Path(__file__).parent
SIZES = ((360, 1_600), (1_280, 1_600))
"""Width and height of each picture, in CSS pixels."""


def main(file: Path) -> None:
    """Write ``report-WIDTH.png`` beside this file."""
    from playwright.sync_api import sync_playwright

    page_text = report_page(read_json(file))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for width, height in SIZES:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_content(page_text)
            page.screenshot(path=HERE / f"report-{width}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
