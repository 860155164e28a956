"""Thirty raters at once, and a server that is killed: pages stay quick, and no vote is lost."""

from __future__ import annotations

import http.client
import random
import sqlite3
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from rating_server import Server
from rating_studies import make_study, opened
from test_rating_web import RATINGS

from speakeasy.rating.invitations import form_token
from speakeasy.rating.store import Store
from speakeasy.rating.study import Study

RATERS = 30
QUICK = 0.3
"""Seconds in which 95% of pages must come."""
THINKING = 1.0
"""Seconds that a rater looks at a page, on the average: far less than it takes to read two answers.
Half as long at least, half again at most, by lot, since people do not press in step."""
KILLS = 5


class Browser:
    """One connection that is kept, cookies and redirects; presses reload until the server is back.

    Plain ``http.client``: thirty of anything heavier would be what is measured.
    """

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        self.cookie = ""

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[str, int]:
        """Where it led, and the status there."""
        body = None if form is None else urlencode(form)
        status, headers = self._patiently(method, path, body)
        while status == 303:
            if given := headers["set-cookie"]:
                self.cookie = given.split(";")[0]
            path = headers["location"]
            status, headers = self._patiently("GET", path, None)
        return path, status

    def _patiently(
        self, method: str, path: str, body: str | None
    ) -> tuple[int, http.client.HTTPMessage]:
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": self.cookie}
        for _ in range(200):
            try:
                self._connection.request(method, path, body, kind)
                answer = self._connection.getresponse()
                answer.read()
                return answer.status, answer.headers
            except (OSError, http.client.HTTPException):
                self._connection.close()
                time.sleep(0.1)
        raise AssertionError("the server did not come back")

    def close(self) -> None:
        self._connection.close()


class Rater(threading.Thread):
    """Goes through the whole study; remembers how long pages took and what was acknowledged."""

    def __init__(self, url: str, token: str, secret: str, thinking: float) -> None:
        super().__init__(daemon=True)
        self.browser = Browser(url)
        self.token, self.secret, self.thinking = token, secret, thinking
        self.lot = random.Random(token)
        self.took: list[float] = []
        self.acknowledged: dict[str, str] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._rate()
        except Exception as error:
            self.error = error
        finally:
            self.browser.close()

    def _ask(self, method: str, path: str, form: dict[str, str] | None = None) -> str:
        time.sleep(self.thinking * self.lot.uniform(0.5, 1.5))
        started = time.perf_counter()
        path, status = self.browser.ask(method, path, form)
        self.took.append(time.perf_counter() - started)
        assert status == 200, (path, status)
        return path

    def _rate(self) -> None:
        self._ask("GET", f"/j/{self.token}")
        csrf = {"csrf": form_token(self.secret, self.browser.cookie.split("=")[1])}
        self._ask("POST", "/consent", csrf | {"agree": "yes"})
        path = self._ask("POST", "/begin", csrf)
        choices = ("left", "right", "both_good", "both_bad")
        while path != "/done":
            choice = choices[len(self.acknowledged) % 4]
            ratings = self._ask("POST", path, csrf | {"choice": choice})
            self.acknowledged[path.split("/")[2]] = choice
            path = self._ask("POST", ratings, csrf | RATINGS)


def raters_on(server: Server, store: Store, tokens: list[str], thinking: float) -> list[Rater]:
    found = [Rater(server.url, token, store.secret, thinking) for token in tokens]
    for rater in found:
        rater.start()
    return found


def finish(raters: list[Rater]) -> None:
    for rater in raters:
        rater.join(timeout=120)
        assert not rater.is_alive()
        if rater.error is not None:
            raise rater.error


def check(study: Study, raters: list[Rater]) -> None:
    """Every acknowledged vote is there, with the choice that was acknowledged, and none twice."""
    with sqlite3.connect(study.database) as connection:
        kept = dict(connection.execute("SELECT assignment, choice FROM vote"))
        (ratings,) = connection.execute("SELECT COUNT(*) FROM rating").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    acknowledged = {name: choice for rater in raters for name, choice in rater.acknowledged.items()}
    assert kept == acknowledged
    assert ratings == 8 * len(kept)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "s", items=5, places=RATERS, gold=1)


@pytest.mark.alone
def test_thirty_raters_do_not_wait(study: Study) -> None:
    store, tokens = opened(study, RATERS)
    with Server(study.path) as server:
        raters = raters_on(server, store, tokens, THINKING)
        finish(raters)
    check(study, raters)
    took = sorted(seconds for rater in raters for seconds in rater.took)
    assert len(took) == RATERS * (3 + 2 * 6)
    assert took[int(0.95 * len(took))] < QUICK
    store.end()


def test_a_killed_server_has_lost_nothing(study: Study) -> None:
    store, tokens = opened(study, RATERS)
    server = Server(study.path)
    raters = raters_on(server, store, tokens, 0.3)
    for _ in range(KILLS):
        time.sleep(0.9)
        server.kill()
        server = Server(study.path, port=server.port)
    finish(raters)
    assert server.stop() == 0
    check(study, raters)
    store.end()
