"""What ``--resume`` makes of a run's plan and the options beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.cli.training_options import PATHS, Fields, plan_of
from speakeasy.errors import RunError

if TYPE_CHECKING:
    from speakeasy.config import PretrainConfig, TrainConfig
    from speakeasy.training.backend import Selection
    from speakeasy.training.run import Run

CHANGEABLE = {"report_to", "save_every"}
"""Options that may differ when a run is resumed: they do not touch its course."""

MOVABLE = {
    "backend",
    "precision",
    "use_4bit",
    "fsdp",
    "gradient_checkpointing",
    "compile",
    "model",
    *PATHS,
}
"""Options that say on what, and from where, a run goes on; they may differ, too."""


def resumed_plan(run: Run, options: dict[str, Any], fields: Fields) -> TrainConfig | PretrainConfig:
    """The plan of a run with the options in place that may change; others are refused.

    Whether another ``--model`` or data file is the same one in another place is for the
    fingerprints to say, when it is read.
    """
    stored = run.config
    for option, value in options.items():
        was = _stored(stored, fields[option])
        if option not in CHANGEABLE | MOVABLE and value != was:
            raise RunError(
                f"{_given(option, value)}: {run.path} was started with {_given(option, was)}; "
                "leave it out to go on, or start a new run"
            )
    changes = {name: options[name] for name in (CHANGEABLE | MOVABLE) & set(options)}
    return plan_of(stored, changes, fields)


def resumed_on_this_machine(
    run: Run, options: dict[str, Any], fields: Fields
) -> tuple[TrainConfig | PretrainConfig, Selection]:
    """The plan of a run that goes on here, and the backend that it goes on with.

    Raises:
        RunError: the run's model or data are not here, or an option may not change.
        BackendError: no backend is installed, or not the one asked for.
    """
    from speakeasy.training.backend import select_again

    config = resumed_plan(run, options, fields)
    for option in sorted({"model", *PATHS} & set(fields)):
        value = _stored(config, fields[option])
        for path in [value] if option == "model" else value:
            if Path(path).is_absolute() and not Path(path).exists():
                raise RunError(
                    f"{run.path}: {path} is not on this machine; say with {_name(option)} where "
                    "the same lies here"
                )
    before = run.config.backend
    selection = select_again(before, options.get("backend"))
    if selection.name != before and "gradient_checkpointing" not in options:
        # What was decided by the other's memory is decided anew.
        config = replace(config, gradient_checkpointing=None)
    return config, selection


def _stored(config: Any, field: str) -> Any:
    section, _, name = field.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def _name(option: str) -> str:
    return "--" + option.replace("_", "-")


def _given(option: str, value: Any) -> str:
    """An option with its value, as one would type it."""
    if value is None:
        return f"no {_name(option)}"
    if isinstance(value, bool):
        return _name(option if value else f"no-{option}")
    return f"{_name(option)} {value}"
