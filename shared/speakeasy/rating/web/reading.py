"""Reading aloud: the dialogues, and the recordings that a rater has made of them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from speakeasy.rating.recordings import (
    UPLOAD_BYTES,
    UPLOAD_SECONDS,
    RefusedError,
    recordings_of,
    remove,
    save,
)
from speakeasy.rating.study import Record
from speakeasy.rating.web.visits import Visit, endpoint

_STATUS = {
    "read_empty": 422,
    "read_too_long": 422,
    "read_too_large": 413,
    "read_not_audio": 415,
}
MESSAGES = (
    "idle", "asking", "recording", "listen", "sending", "denied", "no_microphone", "busy",
    "unsupported", "failed", "empty", "too_large", "too_long", "not_audio",
)  # fmt: skip
"""What the script may say, by its states; the texts come from the page."""


def routes() -> list[Route]:
    """The addresses of these pages."""
    return [
        Route("/read", endpoint(overview)),
        Route("/read/{number:int}", endpoint(dialogue), methods=["GET"]),
        Route("/read/{number:int}", endpoint(upload), methods=["POST"]),
        Route("/read/{number:int}/audio", endpoint(listen), methods=["GET"]),
        Route("/read/{number:int}/remove", endpoint(forget), methods=["POST"]),
    ]


def overview(visit: Visit) -> Response:
    """All dialogues, and which of them were recorded."""
    if visit.known.consented_at is None:
        return visit.go("/")
    taken = recordings_of(visit.site.store, visit.known)
    dialogues = [
        {"title": each["title"], "lines": len(each["lines"]), "done": each["id"] in taken}
        for each in visit.site.study.dialogues
    ]
    return visit.page("read.html", list=dialogues)


def dialogue(visit: Visit) -> Response:
    """One dialogue, to read and to record."""
    found = _dialogue(visit)
    if found is None:
        return visit.notice("not_found", 404)
    return visit.go("/") if visit.known.consented_at is None else _page(visit, found)


def upload(visit: Visit) -> Response:
    """Take a recording; it is on the disk before the answer."""
    found = _dialogue(visit)
    if found is None:
        return visit.notice("not_found", 404)
    if visit.known.consented_at is None:
        return visit.go("/")
    given = visit.form.get("audio")
    if not isinstance(given, UploadFile):
        return _page(visit, found, "read_empty")
    try:
        save(
            visit.site.study,
            visit.site.store,
            visit.known,
            found["id"],
            given.file,
            claimed=_seconds(visit.form.get("seconds")),
        )
    except RefusedError as error:
        visit.site.refuse("upload", error.reason, visit.known.id)
        return _page(visit, found, error.reason)
    return visit.go(visit.request.url.path)


def listen(visit: Visit) -> Response:
    """The rater's own recording."""
    found = _dialogue(visit)
    taken = recordings_of(visit.site.store, visit.known).get(found["id"]) if found else None
    if taken is None or not (path := visit.site.study.audio / taken.file).is_file():
        return visit.notice("not_found", 404)
    return FileResponse(path, media_type=taken.mime)


def forget(visit: Visit) -> Response:
    """Delete a recording."""
    found = _dialogue(visit)
    if found is None:
        return visit.notice("not_found", 404)
    remove(visit.site.study, visit.site.store, visit.known, found["id"])
    return visit.go(f"/read/{visit.request.path_params['number']}")


def _dialogue(visit: Visit) -> Record | None:
    dialogues = visit.site.study.dialogues
    number = visit.request.path_params["number"]
    return dialogues[number - 1] if 1 <= number <= len(dialogues) else None


def _page(visit: Visit, found: Record, refused: str = "") -> Response:
    texts = visit.texts
    limits: dict[str, Any] = {
        "megabytes": UPLOAD_BYTES // 1024**2,
        "minutes": UPLOAD_SECONDS // 60,
    }
    return visit.page(
        "read_dialogue.html",
        status=_STATUS.get(refused, 200),
        dialogue=found,
        here=f"/read/{visit.request.path_params['number']}",
        taken=recordings_of(visit.site.store, visit.known).get(found["id"]),
        refused=texts[refused].format(**limits) if refused else "",
        limits=limits,
        seconds=UPLOAD_SECONDS,
        messages={name: texts[f"read_{name}"].format(**limits) for name in MESSAGES},
    )


def _seconds(given: object) -> float | None:
    """The length that a browser claims; None for what is no number."""
    try:
        seconds = float(str(given))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None
