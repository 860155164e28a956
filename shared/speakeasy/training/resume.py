"""A run that goes on: what must be as it was, what may have changed, and what that changes."""

from __future__ import annotations

from dataclasses import replace

from speakeasy.errors import RunError
from speakeasy.training.backend import Device
from speakeasy.training.run import Record, Run, held_in
from speakeasy.training.state import Progress


def check_same(run: Run, now: Record) -> None:
    """Refuse to go on with other data, or on another base, than the run was started with.

    Args:
        now: ``session.environment`` of what is to go on.

    Raises:
        RunError: a fingerprint differs.
    """
    then = run.environment
    data = (
        "--corpus-path, --eval-path or --replay-path"
        if run.is_pretraining
        else "--train-file or --eval-file"
    )
    for what, key, option in (
        ("base model", "base_fingerprint", "--model"),
        ("tokenizer", "tokenizer_fingerprint", "--model"),
        ("data", "data_fingerprint", data),
    ):
        if then.get(key) != now[key]:
            raise RunError(
                f"{run.path}: the {what} is not what the run was started with (fingerprint "
                f"{now[key][:12]}, then {str(then.get(key))[:12]}); put it back, say "
                f"with {option} where it lies, or start a new run"
            )


def changes(run: Run, now: Record, device: Device, step: int) -> list[str]:
    """What a run is on after ``step``, where it was on something else until now; a line for each.

    Args:
        now: ``session.environment`` of what is to go on.
    """
    then, precision = run.environment, now["precision"]
    lines = []
    moved = (then["backend"], then["device"]) != (now["backend"], now["device"])
    if moved:
        lines.append(
            f"after step {step} the run goes on with {now['backend']} on {now['device']}; "
            f"until now {then['backend']} on {then['device']}"
        )
    processes = [environment.get("processes", 1) for environment in (now, then)]
    if processes[0] != processes[1]:
        lines.append(f"processes: {processes[0]}; until now {processes[1]}")
    if precision != then["precision"]:
        lines.append(f"precision: {precision}; until now {then['precision']}")
    elif moved and precision != device.precision:
        lines.append(
            f"precision: {precision} as until now; --precision {device.precision} suits this "
            f"device better ({device.reason})"
        )
    if held_in(now) != held_in(then):
        lines.append(
            f"warning: the base is held in {held_in(now)}; until now in {held_in(then)}: "
            "what was learned is carried over to a base with other weights, and the held-out set "
            "is scored on that again, so that figures can be compared"
        )
    return lines


def with_best_score(run: Run, progress: Progress) -> Progress:
    """Progress with the best score as it was last logged: the best may have been scored again."""
    if not progress.best_step:
        return progress
    logged = {line["step"]: line for line in run.evaluations_until(progress.step)}
    return replace(progress, best_score=logged[progress.best_step]["eval_bits_per_byte"])


def scored_otherwise(run: Run, progress: Progress, base_form: str) -> list[int]:
    """The first and the best step, where last scored on a base that was held otherwise than now;
    and the first where it was left before it was scored.

    Lines of older versions do not say what they were scored on: it was what the run was on.
    """
    then = held_in(run.environment)
    scored = {line["step"]: line.get("base", then) for line in run.evaluations_until(progress.step)}
    if progress.step:
        scored.setdefault(0, "")
    steps = sorted({0, progress.best_step})
    return [step for step in steps if step in scored and scored[step] != base_form]
