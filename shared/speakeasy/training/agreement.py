"""Every process plans by itself; here they make sure that all plan the same."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from speakeasy import __version__, plan_files
from speakeasy.errors import RunError, SaidElsewhereError, SpeakeasyError
from speakeasy.training.group import Group, named, shared

if TYPE_CHECKING:
    from speakeasy.training.session import Session

T = TypeVar("T")
_OWN = ("model", "gradient_checkpointing", "report_to")
"""What of a plan may differ between machines: where things lie, and how they fit into memory."""


def shared_plan(group: Group, plan: T | None, kind: type[T]) -> T | None:
    """Process 0's plan on every process; None where it has none.

    Paths in it are those of process 0, and must lead to the same files everywhere.
    """
    text = shared(group, "" if plan is None or group.size == 1 else plan_files.dump(plan))
    if group.rank == 0 or not text:
        return plan
    return plan_files.from_dict(kind, tomllib.loads(text), "the plan of process 0")


def agreed(group: Group, make: Callable[[], Session]) -> Session:
    """The session that ``make`` returns, if every process has the same.

    Raises:
        SpeakeasyError: on process 0, the first error of any process, or what differs between two.
        SaidElsewhereError: on the others.
    """
    if group.size == 1:
        return make()
    session, error = None, None
    try:
        session = make()
    except SpeakeasyError as caught:
        error = caught
    mine = {
        "host": socket.gethostname(),
        "error": None if error is None else str(error),
        "rows_per_pass": 0 if session is None else session.placement.rows_per_pass,
        "facts": {} if session is None else _facts(session),
    }
    found = [json.loads(payload) for payload in group.gather(json.dumps(mine).encode())]
    trouble = _trouble(group, found)
    if group.rank and trouble is not None:
        raise SaidElsewhereError(1)
    if error is None and trouble is not None:
        error = RunError(trouble)
    if error is not None:
        error.common = True
        raise error
    assert session is not None
    # All go through a step, and through the held-out set, in the same number of passes.
    rows = min(one["rows_per_pass"] for one in found)
    return replace(session, placement=replace(session.placement, rows_per_pass=rows))


def _trouble(group: Group, found: list[dict[str, Any]]) -> str | None:
    """What keeps the processes from training together; None if nothing does."""
    for rank, one in enumerate(found):
        if one["error"] is not None:
            return f"{named(rank, group)} ({one['host']}): {one['error']}"
    first = found[0]["facts"]
    for rank, one in enumerate(found):
        for what, value in one["facts"].items():
            if value != first[what]:
                return (
                    f"{named(rank, group)} ({one['host']}): {what} {_short(value)}, where "
                    f"process 0 ({found[0]['host']}) has {_short(first[what])}; give all processes "
                    "the same"
                )
    return None


def _facts(session: Session) -> dict[str, Any]:
    """What must be the same everywhere."""
    plan = plan_files.to_dict(session.config)
    for name in _OWN:
        plan.pop(name, None)
    for part in ("data", "corpus"):
        for name, value in list(plan.get(part, {}).items()):
            if isinstance(value, list | tuple):
                del plan[part][name]  # files; their content has a fingerprint
    return {
        "speakeasy": __version__,
        "base model (fingerprint)": session.base,
        "tokenizer (fingerprint)": session.tokenizer_base,
        "data (fingerprint)": session.prepared.fingerprint,
        "trainable parameters": session.trainable_parameters,
        "base held in": session.base_form,
        "plan": json.dumps(plan, sort_keys=True, default=str),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
