"""The pages of a study, from the invitation to the thanks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from speakeasy.rating.store import SESSION_DAYS
from speakeasy.rating.study import CHOICES, DIMENSIONS, LANGUAGES, SIDES, Item
from speakeasy.rating.votes import Assignment
from speakeasy.rating.web.visits import Visit

COMMENT_LIMIT = 1_000
"""Characters of a comment."""
_SECONDS_A_PAIR = 60
CANNOT = "x"
"""What a form says for "can't judge"."""


def join(visit: Visit) -> Response:
    """An invitation's link: a session for it, and on to a page without the token in its address.

    The link stays good, for another device and after link previews.
    """
    store = visit.site.store
    rater = store.rater_by_token(visit.request.path_params["token"])
    if rater is None:
        visit.site.refuse("invitation", "a link that nobody was given")
        return visit.notice("no_link", 404)
    if not rater.welcome:
        return visit.notice("expired", 410)
    response = visit.go("/")
    response.set_cookie(
        visit.site.cookie,
        store.begin_session(rater),
        max_age=SESSION_DAYS * 24 * 3600,
        path="/",
        secure=visit.site.https,
        httponly=True,
        samesite="lax",
    )
    return response


def start(visit: Visit) -> Response:
    """Whatever comes next for this rater."""
    rater = visit.known
    if rater.consented_at is None:
        return _consent_page(visit)
    if rater.begun_at is None:
        return visit.page("instructions.html")
    return _onwards(visit)


def consent(visit: Visit) -> Response:
    """A rater agrees, or has not ticked the box."""
    if visit.form.get("agree") != "yes":
        return _consent_page(visit, missing=True)
    visit.site.store.consent(visit.known, visit.site.study)
    return visit.go("/")


def begin(visit: Visit) -> Response:
    """The instructions were read."""
    visit.site.store.begin(visit.known)
    return _onwards(visit)


def language(visit: Visit) -> Response:
    """Another language for the pages."""
    asked = visit.form.get("language")
    if asked in LANGUAGES:
        visit.site.store.set_language(visit.known, str(asked))
    return visit.go("/")


def pair(visit: Visit) -> Response:
    """A pair to judge, if it is the one that is due."""
    assignment = _due(visit)
    if assignment is None:
        return _elsewhere(visit)
    if assignment.choice is not None:
        return visit.go(f"{_place(assignment)}/ratings")
    visit.site.votes.shown(assignment)
    return visit.page("pair.html", missing=False, **_about(visit, assignment))


def vote(visit: Visit) -> Response:
    """A vote; the first on a pair counts, and it is on the disk before the answer."""
    assignment = _due(visit)
    if assignment is None:
        return _elsewhere(visit)
    choice = visit.form.get("choice")
    if assignment.choice is None and choice not in CHOICES:
        return visit.page("pair.html", status=422, missing=True, **_about(visit, assignment))
    if assignment.choice is None:
        visit.site.votes.vote(assignment, str(choice))
    return visit.go(f"{_place(assignment)}/ratings")


def ratings(visit: Visit) -> Response:
    """Ratings of a pair that was voted on."""
    assignment = _due(visit)
    if assignment is None:
        return _elsewhere(visit)
    if assignment.choice is None:
        return visit.go(_place(assignment))
    return _ratings_page(visit, assignment)


def rate(visit: Visit) -> Response:
    """The ratings, all or none of them."""
    assignment = _due(visit)
    if assignment is None:
        return _elsewhere(visit)
    if assignment.choice is None:
        return visit.go(_place(assignment))
    given = {key: visit.form.get(_field(*key)) for key in _keys()}
    allowed = {CANNOT: None} | {str(value): value for value in range(1, 6)}
    comment = str(visit.form.get("comment", "")).replace("\r\n", "\n").strip()
    missing = {key for key, value in given.items() if value not in allowed}
    if missing or len(comment) > COMMENT_LIMIT:
        return _ratings_page(visit, assignment, given, comment, missing)
    values = {key: allowed[str(value)] for key, value in given.items()}
    visit.site.votes.rate(visit.known, assignment, values, comment)
    return _onwards(visit)


def done(visit: Visit) -> Response:
    """Thanks, at the end of the list."""
    finished, total = visit.site.votes.progress(visit.known)
    if finished < total or not total:
        return visit.go("/")
    return visit.page("done.html", total=total)


def privacy(visit: Visit) -> Response:
    """What is kept, and the way to have it deleted."""
    return visit.page("privacy.html", contact=visit.site.study.plan.contact)


def ask_to_delete(visit: Visit) -> Response:
    """Is the rater sure?"""
    return visit.page("delete.html")


def delete(visit: Visit) -> Response:
    """Forget all that a rater has said."""
    for name in visit.site.store.erase(visit.known):
        (visit.site.study.audio / name).unlink(missing_ok=True)
    response = visit.page("notice.html", name="deleted", way_back=False)
    response.delete_cookie(visit.site.cookie, path="/", secure=visit.site.https, httponly=True)
    return response


def _consent_page(visit: Visit, *, missing: bool = False) -> Response:
    plan = visit.site.study.plan
    pairs = len(visit.site.study.schedule[visit.known.place])
    return visit.page(
        "consent.html",
        status=422 if missing else 200,
        missing=missing,
        pairs=pairs,
        minutes=max(5, round(pairs * _SECONDS_A_PAIR / 60 / 5) * 5),
        contact=plan.contact,
    )


def _due(visit: Visit) -> Assignment | None:
    """The pair that the address names, if it is this rater's and was done before or is due now."""
    assignment = visit.site.votes.get(visit.known, visit.request.path_params["name"])
    if assignment is None or visit.known.consented_at is None:
        return None
    upcoming = visit.site.votes.next(visit.known)
    return assignment if upcoming is not None and upcoming.id == assignment.id else None


def _elsewhere(visit: Visit) -> Response:
    """For a pair that is not due: done already, not yet due, or not this rater's."""
    rater = visit.known
    found = visit.site.votes.get(rater, visit.request.path_params["name"])
    if found is None:
        visit.site.refuse("foreign", "a pair that is not on the rater's list", rater.id)
        return visit.notice("not_found", 404)
    return visit.go("/")


def _onwards(visit: Visit) -> Response:
    """To the next pair, or to the thanks."""
    upcoming = visit.site.votes.next(visit.known)
    return visit.go("/done" if upcoming is None else _place(upcoming))


def _place(assignment: Assignment) -> str:
    return f"/p/{assignment.id}"


def _about(visit: Visit, assignment: Assignment) -> dict[str, Any]:
    item: Item = visit.site.study.items[assignment.item]
    answers = item.answers[::-1] if assignment.swapped else item.answers
    done, total = visit.site.votes.progress(visit.known)
    return {
        "here": _place(assignment),
        "prompt": item.prompt,
        "history": item.history,
        "answers": list(zip(("a", "b"), answers, strict=True)),
        "number": done + 1,
        "total": total,
        "choices": CHOICES,
    }


def _keys() -> list[tuple[str, str]]:
    return [(side, dimension) for side in SIDES for dimension in DIMENSIONS]


def _field(side: str, dimension: str) -> str:
    return f"{side}-{dimension}"


def _ratings_page(
    visit: Visit,
    assignment: Assignment,
    given: Mapping[tuple[str, str], object] | None = None,
    comment: str = "",
    missing: set[tuple[str, str]] | None = None,
) -> Response:
    sides = [
        {
            "letter": letter,
            "dimensions": [
                {
                    "name": dimension,
                    "field": _field(side, dimension),
                    "given": (given or {}).get((side, dimension)),
                    "missing": (side, dimension) in (missing or set()),
                }
                for dimension in DIMENSIONS
            ],
        }
        for letter, side in zip(("a", "b"), SIDES, strict=True)
    ]
    return visit.page(
        "ratings.html",
        status=200 if given is None else 422,
        sides=sides,
        choice=assignment.choice,
        missing=len(missing or ()),
        too_long=len(comment) > COMMENT_LIMIT,
        limit=COMMENT_LIMIT,
        comment=comment,
        cannot=CANNOT,
        **_about(visit, assignment),
    )
