"""From a request to a visit: who it is, in which language, and whether it may be.

Every page is a plain function from a ``Visit`` to a response. It runs in a thread, since the
database waits for the disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from speakeasy.rating.invitations import form_token, hashed, same
from speakeasy.rating.store import Rater, Store
from speakeasy.rating.study import LANGUAGES, Study
from speakeasy.rating.votes import Votes
from speakeasy.rating.web.limits import Limit
from speakeasy.rating.web.security import TooLargeError, from_here
from speakeasy.rating.web.texts import preferred, texts_of

CSRF_FIELD = "csrf"


@dataclass(frozen=True, slots=True)
class Site:
    """All that pages need to know, the same for every visit.

    Attributes:
        https: whether browsers reach the server that way.
        known: limit of each rater's requests; strangers: of those without a session, by address.
    """

    study: Study
    store: Store
    votes: Votes
    https: bool = False
    known: Limit = field(default_factory=lambda: Limit(rate=6, burst=80))
    strangers: Limit = field(default_factory=lambda: Limit(rate=6, burst=120))
    notes: Limit = field(default_factory=lambda: Limit(rate=1, burst=500))

    @property
    def cookie(self) -> str:
        """The session cookie's name; browsers keep ``__Host-`` to https and to this host."""
        return "__Host-rater" if self.https else "rater"

    def refuse(self, kind: str, detail: str, rater: int | None = None) -> None:
        """Note what was refused, and say it to the organiser; of a flood, not every time."""
        if not self.notes.allows(""):
            return
        self.store.refuse(kind, rater, detail)
        print(f"refused: {kind}: {detail}", file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, looked at.

    Attributes:
        rater: None for strangers.
        session: the session's token; empty for strangers.
        form: of a post; empty otherwise.
    """

    site: Site
    request: Request
    rater: Rater | None
    session: str
    language: str
    form: FormData

    @property
    def texts(self) -> dict[str, str]:
        """What the page says, with the region's name in it."""
        found = texts_of(self.language)
        region = self.site.study.plan.region or found["region_any"]
        return {key: text.replace("{region}", region) for key, text in found.items()}

    @property
    def known(self) -> Rater:
        """The rater; pages that are only for raters have been refused to others before."""
        assert self.rater is not None
        return self.rater

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page from its template."""
        plan = self.site.study.plan
        csrf = form_token(self.site.store.secret, self.session) if self.session else ""
        text = (
            _environment()
            .get_template(template)
            .render(
                t=self.texts,
                lang=self.language,
                languages=[(code, texts_of(code)["language"]) for code in LANGUAGES],
                answer_lang=plan.language,
                csrf=csrf,
                consented=self.rater is not None and self.rater.consented_at is not None,
                dialogues=bool(self.site.study.dialogues),
                study_title=plan.title,
                **values,
            )
        )
        return HTMLResponse(text, status)

    def notice(self, name: str, status: int) -> Response:
        """A page that says one thing: ``NAME_title`` and ``NAME_text`` of the texts."""
        return self.page("notice.html", status=status, name=name, way_back=bool(self.session))

    def go(self, path: str) -> Response:
        """On to another page; a reload does not post again."""
        return RedirectResponse(path, 303)


Page = Callable[[Visit], Response]


def endpoint(page: Page, *, stranger: bool = False) -> Callable[[Request], Any]:
    """The ASGI side of a page.

    Args:
        stranger: whether it is also for those without a session.
    """

    async def answer(request: Request) -> Response:
        try:
            form = await request.form() if request.method == "POST" else FormData()
        except (TooLargeError, HTTPException):
            form = None
        response = await run_in_threadpool(_answer, page, stranger, request, form)
        if form is not None:
            await form.close()
        return response

    return answer


def _answer(page: Page, stranger: bool, request: Request, form: FormData | None) -> Response:
    visit = visit_of(request, form or FormData())
    site, rater = visit.site, visit.rater
    who = hashed(visit.session).hex() if rater else _address(request)
    if not (site.known if rater else site.strangers).allows(who):
        return visit.notice("too_many", 429)
    if form is None:
        site.refuse("body", "a broken or too large form", rater.id if rater else None)
        return visit.notice("too_large", 413)
    if stranger:
        return page(visit)
    if rater is None:
        return visit.notice("no_link", 403)
    if not rater.welcome:
        return visit.notice("expired", 410)
    if request.method == "POST":
        given = form.get(CSRF_FIELD)
        expected = form_token(site.store.secret, visit.session)
        if not (isinstance(given, str) and same(given, expected) and from_here(request.headers)):
            site.refuse("forgery", f"a post to {_shape(request)} without its page", rater.id)
            return visit.notice("refused", 403)
    if site.store.closed_at is not None:
        return visit.notice("closed", 410)
    return page(visit)


def visit_of(request: Request, form: FormData) -> Visit:
    """Look at a request."""
    site: Site = request.app.state.site
    session = request.cookies.get(site.cookie, "")
    rater = site.store.rater_by_session(session) if session else None
    asked = preferred(request.headers.get("accept-language", ""), site.study.plan.language)
    language = (rater and rater.language) or (asked if asked in LANGUAGES else LANGUAGES[0])
    return Visit(site, request, rater, session if rater else "", language, form)


def _address(request: Request) -> str:
    """Whom to count a stranger's requests for; kept in memory, for as long as the bucket."""
    return request.client.host if request.client else ""


def _shape(request: Request) -> str:
    """The path without ids, which are nobody's business in a log."""
    return "/" + request.url.path.strip("/").split("/")[0]


def _template(name: str) -> str:
    return files("speakeasy.rating.web").joinpath("templates", Path(name).name).read_text("utf-8")


@cache
def _environment() -> Environment:
    """Everything is escaped, nothing may be missing."""
    return Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
