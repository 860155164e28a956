"""The study as raters meet it: a telephone, a real browser, a microphone."""

from __future__ import annotations

import re
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rating_server import Server
from rating_studies import make_study, opened

from speakeasy.rating.study import DIMENSIONS, Study
from speakeasy.rating.web.texts import texts_of

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PHONE = {"width": 360, "height": 740}
LEAST = 44
"""Pixels that a target must have each way (WCAG 2.2, 2.5.5)."""
TARGETS = (
    "button, summary, .button, .back, .points label, .cannot, .tick, textarea, input[type=file]"
)
LOCALES = {"es": "es-ES", "ca": "ca-ES", "en": "en-GB"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("rating") / "study", items=4, places=16, gold=1)


@pytest.fixture(scope="module")
def links(study: Study) -> Iterator[Iterator[str]]:
    _, tokens = opened(study, 16)
    with Server(study.path) as server:
        yield iter([f"{server.url}/j/{token}" for token in tokens])


def telephone(browser: Any, language: str = "es", **options: Any) -> Any:
    """A page that fails the test if it complains on the console."""
    context = browser.new_context(viewport=PHONE, locale=LOCALES[language], **options)
    page = context.new_page()
    noises: list[str] = []
    page.on("console", lambda message: noises.append(message.text))
    page.on("pageerror", lambda error: noises.append(str(error)))
    page.noises = noises
    return page


def axe(page: Any) -> None:
    """axe-core finds nothing serious, everything fits, and can be hit with a thumb."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    serious = [
        (each["id"], each["nodes"][0]["html"])
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    small = page.evaluate(
        f"""() => [...document.querySelectorAll("{TARGETS}")]
            .filter(e => e.getClientRects().length && !e.closest("details:not([open]) nav"))
            .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
            .filter(([_, b]) => b.height < {LEAST} || b.width < {LEAST}).map(([h, _]) => h)"""
    )
    assert small == []


def press(page: Any, selector: str) -> None:
    """Press what leads to another page, and wait for that."""
    with page.expect_navigation():
        page.locator(selector).click()


def shows(page: Any, texts: Any, number: int) -> None:
    """The pair of this number is on the page."""
    said = texts["progress"].format(number=number, total=5)
    sync_api.expect(page.locator(".progress")).to_contain_text(said)


def consent(page: Any, link: str) -> None:
    page.goto(link)
    assert "/j/" not in page.url
    page.get_by_role("checkbox").check()
    press(page, "form[action='/consent'] button")
    press(page, "form[action='/begin'] button")


def judge(page: Any, choice: str = "left", value: str = "4") -> None:
    press(page, f"button[value={choice}]")
    for side in ("left", "right"):
        for dimension in DIMENSIONS:
            page.check(f"input[name={side}-{dimension}][value='{value}']", force=True)
    press(page, ".ratings button.primary")


def record(page: Any, link: str, texts: Any) -> None:
    """One dialogue with the fake microphone, sent."""
    page.goto(link.split("/j/")[0] + "/read")
    press(page, ".dialogues li:first-child a")
    sync_api.expect(page.locator("#status")).to_have_text(texts["read_idle"])
    page.get_by_role("button", name=texts["read_record"], exact=True).click()
    page.wait_for_selector("#stop:visible")
    page.get_by_role("button", name=texts["read_next_line"]).click()
    page.wait_for_timeout(700)
    page.get_by_role("button", name=texts["read_stop"], exact=True).click()
    page.wait_for_selector("#send:visible")
    axe(page)
    page.get_by_role("button", name=texts["read_send"], exact=True).click()
    page.get_by_text(texts["read_sent"]).wait_for()


@pytest.mark.parametrize("language", LOCALES)
def test_a_rater_goes_through_it_and_comes_back(
    browser: Any, links: Iterator[str], study: Study, language: str
) -> None:
    link, texts = next(links), texts_of(language)
    page = telephone(browser, language, bypass_csp=True)
    page.goto(link)
    assert page.locator("html").get_attribute("lang") == language
    assert page.locator("h1").inner_text() == texts["consent_title"]
    axe(page)
    press(page, "form[action='/consent'] button")
    assert texts["consent_missing"] in page.get_by_role("alert").inner_text()
    axe(page)
    consent(page, link)
    for number in range(3):
        shows(page, texts, number + 1)
        if not number:
            axe(page)
        press(page, "button[value=right]")
        page.go_back()
        page.go_forward()
        page.check("input[name=left-grammar][value='x']", force=True)
        press(page, ".ratings button.primary")
        assert texts["rate_incomplete"].format(count=7) in page.get_by_role("alert").inner_text()
        assert page.locator("input[name=left-grammar][value='x']").is_checked()
        if not number:
            axe(page)
        for side in ("left", "right"):
            for dimension in DIMENSIONS:
                page.check(f"input[name={side}-{dimension}][value='{number + 2}']", force=True)
        page.fill("textarea", "Està bé — vale, això sí «que sí»")
        press(page, ".ratings button.primary")
    record(page, link, texts)
    assert page.noises == [] or all("422" in noise for noise in page.noises)
    page.context.close()

    page = telephone(browser, language, bypass_csp=True)
    page.goto(link)
    shows(page, texts, 4)
    while not page.url.endswith("/done"):
        judge(page)
    assert page.locator("h1").inner_text() == texts["done_title"]
    axe(page)
    for place in ("/privacy", "/delete", "/read", "/read/1"):
        page.goto(link.split("/j/")[0] + place)
        axe(page)
    page.context.close()
    files = list(study.audio.iterdir())
    assert files
    assert all(re.fullmatch(r"[0-9a-f]{32}\.(m4a|webm)", file.name) for file in files)


def test_the_language_can_be_changed(browser: Any, links: Iterator[str]) -> None:
    page = telephone(browser, "en", bypass_csp=True)
    page.goto(next(links))
    press(page, ".languages button[value=ca]")
    assert page.locator("h1").inner_text() == texts_of("ca")["consent_title"]
    page.locator("summary").click()
    axe(page)
    press(page, ".menu a[href='/privacy']")
    assert page.locator("h1").inner_text() == texts_of("ca")["privacy_title"]
    page.context.close()


def test_without_javascript_a_file_is_sent(
    browser: Any, links: Iterator[str], tmp_path: Path
) -> None:
    link = next(links)
    page = telephone(browser, "es", java_script_enabled=False)
    consent(page, link)
    judge(page, "both_bad")
    page.goto(link.split("/j/")[0] + "/read/1")
    assert not page.locator("#recorder").is_visible()
    for name, content in (("talk.m4a", silence(tmp_path)), ("notes.txt", b"no audio")):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("input[type=file]", tmp_path / name)
        press(page, "#upload button")
    assert texts_of("es")["read_not_audio"] in page.get_by_role("alert").inner_text()
    assert page.locator("audio[src]").count() == 1
    page.context.close()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("deny('NotAllowedError')", "read_denied"),
        ("deny('NotFoundError')", "read_no_microphone"),
        ("deny('NotReadableError')", "read_busy"),
        ("delete window.MediaRecorder", "read_unsupported"),
    ],
)
def test_what_keeps_from_recording_is_explained(
    browser: Any, links: Iterator[str], study: Study, prepare: str, message: str
) -> None:
    link = next(links)
    page = telephone(browser, "es")
    page.add_init_script(
        "const deny = (name) => { navigator.mediaDevices.getUserMedia = "
        "() => Promise.reject(new DOMException('no', name)) };" + prepare
    )
    consent(page, link)
    page.goto(link.split("/j/")[0] + "/read/1")
    if page.locator("#record").is_visible():
        page.locator("#record").click()
    sync_api.expect(page.locator("#status")).to_have_text(texts_of("es")[message])
    assert page.locator("#upload").is_visible()
    page.context.close()


def test_the_keyboard_is_enough(browser: Any, links: Iterator[str]) -> None:
    page = telephone(browser, "es")
    page.goto(next(links))
    tab_to(page, "input[name=agree]")
    page.keyboard.press("Space")
    tab_to(page, "form[action='/consent'] button")
    enter(page)
    tab_to(page, "form[action='/begin'] button")
    enter(page)
    tab_to(page, "button[value=both_good]")
    enter(page)
    for side in ("left", "right"):
        for dimension in DIMENSIONS:
            tab_to(page, f"input[name={side}-{dimension}]")
            page.keyboard.press("ArrowRight")
    tab_to(page, ".ratings button.primary")
    enter(page)
    shows(page, texts_of("es"), 2)
    page.context.close()


def enter(page: Any) -> None:
    with page.expect_navigation():
        page.keyboard.press("Enter")


def tab_to(page: Any, selector: str) -> None:
    for _ in range(60):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with Tab")


def silence(folder: Path) -> bytes:
    path = folder / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(16_000))
    return path.read_bytes()
