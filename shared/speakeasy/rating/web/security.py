"""What every answer of the server carries, and what is refused before a page is asked.

Pure ASGI, so that it holds for whatever the application answers, static files and errors too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM_BYTES = 64 * 1024
"""Largest body of a form without a file. Uploads have a limit of their own."""
UPLOADS = "/read/"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
_TELLTALES = ("etag", "last-modified")
"""Headers of files, by which one could be told from another."""
HTTPS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}

Refuse = Callable[[str, str], None]
"""Called with the kind and the detail of a refusal."""


class Guard:
    """Checks hosts and sizes, and sets the headers.

    Args:
        hosts: names that this server goes by; against DNS rebinding. ``*`` for any.
        upload_bytes: largest body of an upload.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        https: bool,
        upload_bytes: int,
        refuse: Refuse,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._headers = HEADERS | (HTTPS_HEADERS if https else {})
        self._upload_bytes = upload_bytes
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                for name in _TELLTALES:
                    del headers[name]
            await send(message)

        headers = Headers(scope=scope)
        limit = self._upload_bytes if scope["path"].startswith(UPLOADS) else FORM_BYTES
        host = headers.get("host", "").rsplit(":", 1)[0].lower()
        if "*" not in self._hosts and host not in self._hosts:
            self._refuse("host", "asked under a name that is not the server's")
            await PlainTextResponse("Bad host", 400)(scope, receive, with_headers)
            return
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > limit:
            self._refuse("size", f"a body above {limit:,} bytes to {scope['path'][:40]}")
            await PlainTextResponse("Too large", 413)(scope, receive, with_headers)
            return
        await self._app(scope, _limited(receive, limit), with_headers)


class TooLargeError(Exception):
    """A body went on after the limit, whatever its header had announced."""


def _limited(receive: Receive, limit: int) -> Receive:
    received = 0

    async def inner() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLargeError
        return message

    return inner


def from_here(headers: Headers) -> bool:
    """Whether a post came from a page of this server, as far as the browser says.

    Browsers that say nothing are let through: the form's token decides. Ours say ``Origin: null``,
    which is what ``no-referrer`` makes of it.
    """
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin", "null")
    return origin == "null" or origin.split("://", 1)[-1] == headers.get("host", "")
