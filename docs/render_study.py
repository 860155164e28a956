"""Takes the pictures of the study's pages that stand in the docs, at a telephone's width.

    python docs/render_study.py

Needs Chromium and Playwright (extra ``dev``). The study is a made-up one, served for the occasion.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from rating_server import Server  # noqa: E402
from rating_studies import make_study, opened  # noqa: E402

PHONE = {"width": 360, "height": 740}
ANSWERS = [
    (
        "Ostras, nen, pues el sábado plegamos pronto. ¿Quedamos en la plaça y hacemos un vermut?",
        "El sábado estoy disponible. Podemos encontrarnos en la plaza para tomar un aperitivo.",
    )
] * 6


def main() -> None:
    """Write ``study-NAME.png`` beside this file."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder) / "study", answers=ANSWERS)
        _, (token,) = opened(study)
        with Server(study.path) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=PHONE, locale="es-ES")
            visit(page, f"{server.url}/j/{token}")
            browser.close()


def visit(page: Any, link: str) -> None:
    """From consent to the first ratings, and to a dialogue."""
    page.goto(link)
    take(page, "consent")
    page.get_by_role("checkbox").check()
    page.locator("form[action='/consent'] button").click()
    page.locator("form[action='/begin'] button").click()
    take(page, "pair")
    page.locator("button[value=left]").click()
    page.check("input[name=left-naturalness][value='5']", force=True)
    take(page, "ratings")
    page.goto(f"{link.split('/j/')[0]}/read/1")
    take(page, "reading")


def take(page: Any, name: str) -> None:
    """One picture, of what a telephone shows at once."""
    page.screenshot(path=HERE / f"study-{name}.png")


if __name__ == "__main__":
    main()
