"""The application: addresses, and what every request passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from speakeasy.rating.recordings import UPLOAD_BYTES
from speakeasy.rating.store import Store
from speakeasy.rating.study import Study
from speakeasy.rating.votes import Votes
from speakeasy.rating.web import pages, reading
from speakeasy.rating.web.limits import Limit
from speakeasy.rating.web.security import Guard
from speakeasy.rating.web.visits import Site, endpoint, visit_of

LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Names that the server always goes by."""


def make_app(
    study: Study,
    store: Store,
    *,
    hosts: Collection[str] = (),
    https: bool = False,
    limit: Limit | None = None,
) -> ASGIApp:
    """The server of a study.

    Args:
        hosts: names beside those of this machine itself; ``*`` for any.
        https: whether browsers reach it that way (through a proxy or a tunnel).
        limit: of each rater's requests; None for more than anyone needs.
    """
    site = Site(study, store, Votes(store), https, *([] if limit is None else [limit]))
    app = Starlette(
        routes=[
            Route("/", endpoint(pages.start)),
            Route("/j/{token}", endpoint(pages.join, stranger=True)),
            Route("/consent", endpoint(pages.consent), methods=["POST"]),
            Route("/begin", endpoint(pages.begin), methods=["POST"]),
            Route("/language", endpoint(pages.language), methods=["POST"]),
            Route("/p/{name}", endpoint(pages.pair), methods=["GET"]),
            Route("/p/{name}", endpoint(pages.vote), methods=["POST"]),
            Route("/p/{name}/ratings", endpoint(pages.ratings), methods=["GET"]),
            Route("/p/{name}/ratings", endpoint(pages.rate), methods=["POST"]),
            Route("/done", endpoint(pages.done)),
            Route("/privacy", endpoint(pages.privacy)),
            Route("/delete", endpoint(pages.ask_to_delete), methods=["GET"]),
            Route("/delete", endpoint(pages.delete), methods=["POST"]),
            *reading.routes(),
            Route("/favicon.ico", _static("image/x-icon", "")),
            Route("/static/style.css", _static("text/css", _style())),
            Route("/static/record.js", _static("text/javascript", _text("static/record.js"))),
        ],
        exception_handlers={404: _not_found, 405: _not_found, 500: _broken},
    )
    app.state.site = site
    return Guard(
        app,
        hosts={*LOCAL, *(host.lower() for host in hosts)},
        https=https,
        upload_bytes=UPLOAD_BYTES + 64 * 1024,
        refuse=site.refuse,
    )


def _static(kind: str, text: str) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return Response(text, media_type=kind)

    return answer


def _style() -> str:
    """The look of all our pages, and what only these need."""
    report = files("speakeasy.evaluation.report").joinpath("templates", "style.css")
    return report.read_text("utf-8") + _text("static/style.css")


def _text(name: str) -> str:
    return files("speakeasy.rating.web").joinpath(*name.split("/")).read_text("utf-8")


async def _not_found(request: Request, error: Exception) -> Response:
    return await _notice(request, "not_found", 404)


async def _broken(request: Request, error: Exception) -> Response:
    return await _notice(request, "broken", 500)


async def _notice(request: Request, name: str, status: int) -> Response:
    visit = await run_in_threadpool(visit_of, request, FormData())
    return visit.notice(name, status)
