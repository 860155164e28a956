"""The study's pages and their guard, asked as a browser asks, and as nobody should."""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from rating_studies import make_study, opened
from starlette.testclient import TestClient

from speakeasy.rating.invitations import form_token
from speakeasy.rating.store import Store
from speakeasy.rating.study import CHOICES, DIMENSIONS, LANGUAGES, Study
from speakeasy.rating.web.app import make_app
from speakeasy.rating.web.limits import Limit
from speakeasy.rating.web.pages import COMMENT_LIMIT
from speakeasy.rating.web.security import FORM_BYTES, HEADERS
from speakeasy.rating.web.texts import preferred, texts_of

HOST = "http://127.0.0.1"
RATINGS = {f"{side}-{name}": "3" for side in ("left", "right") for name in DIMENSIONS}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202eabc\u202c שלום",
    "palabra " * 1_250,
    "</textarea>\"'><svg onload=alert(1)> {{ 7 * 7 }} {% raw %}",
)


class Rater:
    """A browser that a rater uses."""

    def __init__(self, study: Study, store: Store, token: str = "", **options: Any) -> None:
        self.store = store
        self.client = TestClient(make_app(study, store, **options), base_url=HOST)
        if token:
            self.client.get(f"/j/{token}")

    @property
    def csrf(self) -> str:
        return form_token(self.store.secret, self.client.cookies.get("rater", ""))

    def get(self, path: str, **options: Any) -> Any:
        return self.client.get(path, **options)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.client.post(path, data={"csrf": self.csrf, **(data or {})}, **options)

    def begin(self) -> str:
        """Through consent and instructions; the first pair's address."""
        self.post("/consent", {"agree": "yes"})
        return self.post("/begin").url.path


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study")


@pytest.fixture
def place(study: Study) -> Iterator[tuple[Study, Store, list[str]]]:
    store, tokens = opened(study, 3)
    yield study, store, tokens
    store.end()


@pytest.fixture
def rater(place: tuple[Study, Store, list[str]]) -> Rater:
    study, store, tokens = place
    return Rater(study, store, tokens[0])


def content(store: Store) -> dict[str, list[Any]]:
    """All that raters have given."""
    tables = ("assignment", "vote", "rating", "remark", "recording")
    return {table: store.all(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}


def refusals(store: Store) -> list[str]:
    return [row[0] for row in store.all("SELECT kind FROM refusal")]


def test_texts_are_the_same_in_every_language() -> None:
    found = {}
    for language in LANGUAGES:
        file = files("speakeasy.rating.web").joinpath("texts", f"{language}.toml")
        texts = tomllib.loads(file.read_text("utf-8"))
        found[language] = {
            key: sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)
            for key, text in texts.items()
        }
        assert all(text.strip() for text in texts.values())
    assert found["es"] == found["ca"] == found["en"]


def test_no_text_is_left_over() -> None:
    folder = files("speakeasy.rating.web")
    used = "".join(
        file.read_text("utf-8")
        for place in (folder, folder.joinpath("templates"))
        for file in place.iterdir()
        if file.name.endswith((".py", ".html"))
    )
    built = {*DIMENSIONS, *(f"{name}_{n}" for name in DIMENSIONS for n in (1, 3, 5))}
    built |= {f"role_{role}" for role in ("system", "user", "assistant")}
    built |= {f"choice_{choice}" for choice in CHOICES}
    for key in texts_of("es"):
        stem = key.removesuffix("_title").removesuffix("_text").removeprefix("read_")
        stem = stem.removeprefix("choice_").removeprefix("role_").removeprefix("answer_")
        assert key in used or key in built or f'"{stem}"' in used or stem in "ab", key


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ca-ES,ca;q=0.9,es;q=0.8", "ca"), ("en;q=0.5, es", "es"), ("fr, de", "es"), ("", "es"),
        ("ca;q=0, en", "en"), ("x;q=nonsense, ca", "ca"),
    ],
)  # fmt: skip
def test_the_browsers_language_is_taken(header: str, language: str) -> None:
    assert preferred(header, "es") == language


def test_a_rater_goes_through_the_study(rater: Rater) -> None:
    path = rater.begin()
    for number in range(7):
        assert f"Pareja {number + 1} de 7" in rater.get(path).text
        answer = rater.post(path, {"choice": "left"})
        assert answer.url.path == f"{path}/ratings"
        answer = rater.post(answer.url.path, RATINGS | {"comment": f"nota {number}"})
        path = answer.url.path
    assert path == "/done"
    rows = content(rater.store)
    assert (len(rows["vote"]), len(rows["rating"]), len(rows["remark"])) == (7, 56, 7)
    assert all(row[2] is not None and row[2] >= 0 for row in rows["vote"])


def test_every_answer_carries_the_headers(rater: Rater) -> None:
    path = rater.begin()
    for where in ("/", path, "/nowhere", "/static/style.css", "/privacy", "/read/1", "/j/nobody"):
        answer = rater.get(where, follow_redirects=False)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_cookie_is_the_browsers_alone(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    plain = Rater(study, store).get(f"/j/{tokens[0]}", follow_redirects=False)
    cookie = plain.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    secure = Rater(study, store, https=True).get(f"/j/{tokens[0]}", follow_redirects=False)
    assert secure.headers["set-cookie"].startswith("__Host-rater=")
    assert "Secure" in secure.headers["set-cookie"]
    assert "Strict-Transport-Security" in secure.headers
    kept = b"".join(study.path.joinpath(name).read_bytes() for name in ("study.db", "study.db-wal"))
    assert tokens[0].encode() not in kept
    assert b"127.0.0.1" not in kept
    assert b"testclient" not in kept


def test_a_link_opens_on_a_second_device(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    first, second = (Rater(study, store, tokens[0]) for _ in range(2))
    path = first.begin()
    first.post(path, {"choice": "right"})
    assert second.get("/").url.path == f"{path}/ratings"


def test_double_posts_count_once(rater: Rater) -> None:
    path = rater.begin()
    rater.post(path, {"choice": "left"})
    before = content(rater.store)
    assert rater.post(path, {"choice": "right"}).url.path == f"{path}/ratings"
    assert content(rater.store) == before
    rater.post(f"{path}/ratings", RATINGS)
    before = content(rater.store)
    for again in (path, f"{path}/ratings"):
        assert rater.post(again, RATINGS | {"choice": "right"}).status_code == 200
    assert content(rater.store) == before


def test_a_form_that_is_not_filled_in_comes_back_with_what_was(rater: Rater) -> None:
    path = rater.begin()
    assert rater.post(path).status_code == 422
    assert rater.post(path, {"choice": "best"}).status_code == 422
    rater.post(path, {"choice": "both_good"})
    some = dict(list(RATINGS.items())[:5]) | {"comment": "ya <b>casi</b>"}
    back = rater.post(f"{path}/ratings", some)
    assert back.status_code == 422
    assert back.text.count(" checked") == 5
    assert "ya &lt;b&gt;casi&lt;/b&gt;" in back.text
    assert rater.post(f"{path}/ratings", RATINGS | {"left-grammar": "6"}).status_code == 422
    long = rater.post(f"{path}/ratings", RATINGS | {"comment": "x" * (COMMENT_LIMIT + 1)})
    assert long.status_code == 422
    assert content(rater.store)["rating"] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_model_says_is_text(tmp_path: Path, text: str) -> None:
    study = make_study(tmp_path / "s", answers=[(text, "Hola."), ("Adiós.", text)], gold=0)
    store, (token,) = opened(study)
    rater = Rater(study, store, token)
    page = rater.get(rater.begin()).text
    assert not re.search(r"<script(?! src=)|<img|<svg|onerror=[^&]*>", page.replace("&lt;", ""))
    escaped = re.sub(r"&(?!amp;|lt;|gt;|#\d+;)", "&amp;", text.strip())
    escaped = escaped.replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace('"', "&#34;").replace("'", "&#39;")
    assert escaped in page
    store.end()


# Refusals: each is seen to change nothing.


def test_forged_posts(rater: Rater) -> None:
    path = rater.begin()
    before = content(rater.store)
    for data in ({}, {"csrf": "0" * 32}, {"csrf": ""}):
        answer = rater.client.post(path, data={"choice": "left", **data})
        assert answer.status_code == 403
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert rater.post(path, {"choice": "left"}, headers=headers).status_code == 403
    assert rater.client.post(path, json={"choice": "left", "csrf": rater.csrf}).status_code == 403
    assert content(rater.store) == before
    assert refusals(rater.store) == ["forgery"] * 6


def test_anothers_pairs(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    mine, theirs = (Rater(study, store, token) for token in tokens[:2])
    mine.begin()
    path = theirs.begin()
    before = content(store)
    assert mine.get(path).status_code == 404
    assert mine.post(path, {"choice": "left"}).status_code == 404
    assert mine.post(f"{path}/ratings", RATINGS).status_code == 404
    assert content(store) == before
    assert refusals(store) == ["foreign"] * 3


def test_pairs_that_are_not_due(rater: Rater) -> None:
    path = rater.begin()
    later = rater.store.one("SELECT id FROM assignment WHERE position = 3")[0]
    before = content(rater.store)["vote"]
    assert rater.get(f"/p/{later}").url.path == path
    rater.post(f"/p/{later}", {"choice": "left"})
    rater.post(f"{path}/ratings", RATINGS)
    assert content(rater.store)["vote"] == before == []
    assert content(rater.store)["rating"] == []


def test_strangers_see_nothing(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    path = Rater(study, store, tokens[0]).begin()
    stranger = Rater(study, store)
    for where in ("/", path, "/done", "/read", "/read/1", "/read/1/audio", "/privacy", "/delete"):
        assert stranger.get(where).status_code == 403
    stranger.client.cookies.set("rater", "A" * 44)
    assert stranger.get("/").status_code == 403
    assert stranger.get(f"/j/{'A' * 22}").status_code == 404
    for where in ("/static/../study.py", "/static/%2e%2e/app.py", "/../key.json", "/key.json"):
        assert stranger.get(where).status_code in (403, 404)


def test_links_that_no_longer_hold(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    rater = Rater(study, store, tokens[0])
    path = rater.begin()
    store.revoke(0)
    assert rater.get(path).status_code == 403
    assert rater.post(path, {"choice": "left"}).status_code == 403
    assert Rater(study, store).get(f"/j/{tokens[0]}").status_code == 410
    with store.change() as connection:
        connection.execute("UPDATE rater SET expires_at = '2020' WHERE place = 1")
    assert Rater(study, store).get(f"/j/{tokens[1]}").status_code == 410
    assert content(store)["vote"] == []


def test_a_closed_study_takes_nothing(rater: Rater) -> None:
    path = rater.begin()
    rater.store.close_study()
    before = content(rater.store)
    assert rater.post(path, {"choice": "left"}).status_code == 410
    assert "ha terminado" in rater.get("/").text
    assert content(rater.store) == before


def test_what_is_too_large(rater: Rater) -> None:
    path = rater.begin()
    answer = rater.post(path, {"choice": "left", "more": "x" * FORM_BYTES})
    assert answer.status_code == 413

    def endless() -> Iterator[bytes]:
        yield f"csrf={rater.csrf}&choice=left&more=".encode()
        for _ in range(FORM_BYTES // 1_000 + 2):
            yield b"x" * 1_000

    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert rater.client.post(path, content=endless(), headers=kind).status_code == 413
    assert content(rater.store)["vote"] == []


def test_broken_bodies_and_methods(rater: Rater) -> None:
    path = rater.begin()
    before = content(rater.store)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert rater.client.post(path, content=b"--y\r\nnonsense", headers=kind).status_code in (
        403,
        413,
    )
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert rater.client.request(method, path).status_code == 404
    assert content(rater.store) == before


def test_another_host_is_refused(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    rater = Rater(study, store)
    assert rater.get(f"/j/{tokens[0]}", headers={"host": "evil.example"}).status_code == 400
    named = Rater(study, store, hosts=["study.example.org"])
    assert named.get("/", headers={"host": "study.example.org"}).status_code == 403
    assert refusals(store) == ["host"]


def test_too_many_requests_wait(rater: Rater) -> None:
    found = [rater.get("/privacy").status_code for _ in range(120)]
    assert found[0] == 200
    assert found[-1] == 429


def test_a_limit_fills_again() -> None:
    moment = 0.0
    limit = Limit(rate=2, burst=3, clock=lambda: moment)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b")
    moment = 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]


def test_deleting_leaves_nothing(place: tuple[Study, Store, list[str]]) -> None:
    study, store, tokens = place
    rater, other = (Rater(study, store, token) for token in tokens[:2])
    for each in (rater, other):
        path = each.begin()
        each.post(path, {"choice": "left"})
        each.post(f"{path}/ratings", RATINGS | {"comment": "MI-SECRETO"})
    rater.client.post(
        "/read/1", data={"csrf": rater.csrf}, files={"audio": ("a", b"fLaC" + bytes(100))}
    )
    assert len(list(study.audio.iterdir())) == 1
    assert rater.get("/delete").status_code == 200
    assert "Borrado" in rater.post("/delete").text
    assert list(study.audio.iterdir()) == []
    assert len(content(store)["vote"]) == 1
    assert rater.get("/").status_code == 403
    assert Rater(study, store).get(f"/j/{tokens[0]}").status_code == 410
    other.post("/delete")
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"MI-SECRETO" not in study.database.read_bytes()
