"""``speakeasy rate invite``, ``revoke``, ``serve``, ``status``, ``close``: while people judge.

Nothing here reads the key, and nothing needs numpy or a machine learning library.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from speakeasy.cli.common import command, emit, json_option, say
from speakeasy.errors import RunError, UsageError

if TYPE_CHECKING:
    from speakeasy.rating.store import Rater, Store

STUDY = click.argument("study", type=click.Path(path_type=Path), metavar="STUDY")
_ADDRESS = "http://127.0.0.1:8080"


@command()
@STUDY
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many."
)
@click.option("--label", default="", metavar="TEXT", help="Your own note; raters never see it.")
@click.option(
    "--expires-days",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="How long the links hold.",
)
@click.option(
    "--url",
    default=_ADDRESS,
    show_default=True,
    metavar="URL",
    help="Where raters reach it.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write place, label and link to this CSV file, too; only you can read it.",
)
@json_option
def invite(
    study: Path,
    count: int,
    label: str,
    expires_days: float,
    url: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Make links for raters.

    Each link is for one person, who can use it on several devices and go on where they stopped.
    The links are shown once: the study keeps only what recognises them. They go to the standard
    output.

    \b
    Examples:
      speakeasy rate invite study -n 12 --url https://study.example.org
      speakeasy rate invite study --label "Núria" --expires-days 7
    """
    from speakeasy.rating.invitations import LINK

    address = _address(url)
    found, store = _open(study)
    if output is not None and output.exists():
        raise UsageError(f"--output {output}: exists; choose another file")
    before = len(store.raters())
    tokens = store.invite(count, len(found.schedule), days=expires_days, label=label.strip())
    links = [f"{address}{LINK}{token}" for token in tokens]
    raters = store.raters()[before:]
    if output is not None:
        _write_links(output, raters, links)
    if as_json:
        emit(
            {
                "invited": [
                    {"place": rater.place, "label": rater.label, "link": link}
                    for rater, link in zip(raters, links, strict=True)
                ],
                "expires_at": raters[0].expires_at,
            }
        )
        return
    for rater, link in zip(raters, links, strict=True):
        click.echo(f"{rater.place:>3}  {rater.label}  {link}")
    say(f"{count:,} invited until {raters[0].expires_at[:10]}; keep the links: they are not stored")
    say(f"next: speakeasy rate serve {study}" + ("" if url == _ADDRESS else f" --url {url}"))


@command()
@STUDY
@click.argument("place", type=click.IntRange(min=0), metavar="PLACE")
@json_option
def revoke(study: Path, place: int, as_json: bool) -> None:
    """End a rater's access.

    PLACE is the number that 'invite' and 'status' show. What the rater has said stays.

    \b
    Example:
      speakeasy rate revoke study 3
    """
    _, store = _open(study)
    if not store.revoke(place):
        raise UsageError(f"PLACE {place}: nobody was invited to it; see speakeasy rate status")
    if as_json:
        emit({"revoked": place})
    else:
        say(f"place {place}: the link and all sessions have ended")


@command()
@STUDY
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for any."
)
@click.option(
    "--url",
    metavar="URL",
    help="Where raters reach the study, if that is elsewhere: through a proxy or a tunnel.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Another name that the server answers to; * for any.",
)
@json_option
def serve(
    study: Path, host: str, port: int, url: str | None, hosts: tuple[str, ...], as_json: bool
) -> None:
    """Show the study to its raters.

    Listens on this machine alone unless told otherwise. For raters elsewhere put it behind HTTPS
    (docs/study.md says how) and give that address as --url: cookies are then kept to HTTPS, and
    recording works. Ctrl-C ends it; nothing that was acknowledged is lost, even if it is killed.

    \b
    Examples:
      speakeasy rate serve study
      speakeasy rate serve study --url https://study.example.org
    """
    from speakeasy.rating.study import Study
    from speakeasy.rating.web.server import serve as run

    https, names = False, set(hosts)
    if url is not None:
        parts = urlsplit(_address(url))
        https = parts.scheme == "https"
        names.add(parts.hostname or "")
    if host not in ("127.0.0.1", "localhost", "::1"):
        names.add(host)
        if not https:
            say(
                f"--host {host}: others in the network can read what raters send, and phones do "
                "not record without HTTPS; give --url https://... once it is behind HTTPS"
            )
    found = Study.read(study)

    def ready(address: str) -> None:
        say(f"serving {study} on {url or address}; stop with Ctrl-C")
        say(f"links: speakeasy rate invite {study}" + (f" --url {url or address}"))

    run(found, host=host, port=port, hosts=names, https=https, ready=ready)
    if as_json:
        _, store = _open(study)
        (votes,) = store.one("SELECT COUNT(*) FROM vote")
        emit({"study": str(study), "votes": votes})
        return
    say("stopped; all votes are in the study")


@command()
@STUDY
@json_option
def status(study: Path, as_json: bool) -> None:
    """Say who has done how much.

    Nothing is said of who is ahead: nobody should know before the study is closed.

    \b
    Example:
      speakeasy rate status study
    """
    found, store = _open(study)
    raters = [_state(store, rater) for rater in store.raters()]
    (refusals,) = store.one("SELECT COUNT(*) FROM refusal")
    result = {
        "title": found.plan.title,
        "wanted": found.plan.raters,
        "closed_at": store.closed_at,
        "raters": raters,
        "pairs": sum(rater["done"] for rater in raters),
        "finished": sum(rater["state"] == "finished" for rater in raters),
        "refusals": refusals,
    }
    if as_json:
        emit(result)
        return
    for rater in raters:
        click.echo(
            f"{rater['place']:>3}  {rater['state']:<9} {rater['done']:>3} of {rater['of']:<3} "
            f"{rater['recordings']:>2} recorded  {rater['label']}"
        )
    say(
        f"{result['finished']:,} of {found.plan.raters:,} raters wanted have finished; "
        f"{result['pairs']:,} pairs judged; {refusals:,} requests refused; "
        + ("open" if store.closed_at is None else f"closed at {store.closed_at}")
    )


@command()
@STUDY
@json_option
def close(study: Path, as_json: bool) -> None:
    """Take no more votes.

    From now on 'report' and 'preferences' may look at whose answers are whose. A study that was
    closed stays closed: who looks at results and goes on asking finds what they hope for.

    \b
    Example:
      speakeasy rate close study
    """
    _, store = _open(study)
    newly = store.close_study()
    if as_json:
        emit({"closed_at": store.closed_at, "newly": newly})
        return
    say(f"closed at {store.closed_at}" + ("" if newly else " already"))
    say(f"next: speakeasy rate report {study}")


def _open(path: Path) -> tuple[Any, Store]:
    from speakeasy.rating.store import open_store
    from speakeasy.rating.study import Study

    found = Study.read(path)
    return found, open_store(found)


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(f"--url {url}: expected something like https://study.example.org")
    return url.rstrip("/")


def _write_links(output: Path, raters: list[Rater], links: list[str]) -> None:
    import csv
    import os

    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RunError(f"--output {output}: {error.strerror}; choose another file") from error
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("place", "label", "link"))
        for rater, link in zip(raters, links, strict=True):
            writer.writerow((rater.place, rater.label, link))


def _state(store: Store, rater: Rater) -> dict[str, Any]:
    from speakeasy.rating.votes import Votes

    done, of = Votes(store).progress(rater)
    (recordings,) = store.one("SELECT COUNT(*) FROM recording WHERE rater = ?", rater.id)
    if rater.erased_at:
        state = "erased"
    elif rater.revoked_at:
        state = "revoked"
    elif of and done == of:
        state = "finished"
    elif rater.consented_at:
        state = "begun"
    else:
        state = "opened" if rater.seen_at else "invited"
    return {
        "place": rater.place,
        "label": rater.label,
        "state": state,
        "done": done,
        "of": of,
        "recordings": recordings,
        "expires_at": rater.expires_at,
        "seen_at": rater.seen_at,
    }
