"""Options that say which model speaks and how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from speakeasy.config import BackendName, Precision

if TYPE_CHECKING:
    from speakeasy.training.backend import Sampling
    from speakeasy.training.inference import Speaker

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """``click.option`` that shows its default, if it has one."""
    return click.option(*names, show_default=settings.get("default") is not None, **settings)


def speaker_options(function: F) -> F:
    """Add the options that say which model speaks, and on what; see ``speaker_of``."""
    return model_options(machine_options(function))


def model_options(function: F) -> F:
    """Add ``--model``, ``--adapter`` and ``--run``."""
    directory = click.Path(path_type=Path, exists=True, file_okay=False)
    options = (
        option("--model", "--model-name", "--model-path", metavar="NAME",
               help="starter, a directory or a Hub id.  [default: the adapter's base]"),
        option("--adapter", type=directory, help="Adapter of PEFT or mlx-lm, or a run."),
        option("--run", type=directory, help="Run of speakeasy train: its model, adapted."),
    )  # fmt: skip
    return add(options, function)


def machine_options(function: F) -> F:
    """Add the options that say what computes, and how."""
    options = (
        option("--backend", type=click.Choice(get_args(BackendName)), default="auto"),
        option("--precision", type=click.Choice(get_args(Precision)), default="auto"),
        option("--use-4bit", is_flag=True, help="Hold the base model in 4 bits."),
    )  # fmt: skip
    return add(options, function)


def sampling_options(max_tokens: int = 256) -> Callable[[F], F]:
    """Options that say how tokens are chosen; see ``sampling_of``.

    Args:
        max_tokens: default of the longest answer.
    """
    above_0 = click.FloatRange(min=0, min_open=True)
    options = (
        option("--max-tokens", type=click.IntRange(min=1), default=max_tokens,
               help="Longest answer."),
        option("--temperature", type=click.FloatRange(min=0), default=0.7,
               help="0 takes the likeliest token each time."),
        option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95,
               help="Only the likeliest tokens that together have this probability."),
        option("--top-k", type=click.IntRange(min=0), default=0,
               help="Only so many of the likeliest tokens; 0 for all."),
        option("--repetition-penalty", type=above_0, default=1.1,
               help="Above 1: less of what the answer has said already."),
        option("--seed", type=click.IntRange(min=0), default=0),
    )  # fmt: skip
    return lambda function: add(options, function)


def add(options: Sequence[Callable[[F], F]], function: F) -> F:
    """A function with all the options, in their order."""
    for each in reversed(options):
        function = each(function)
    return function


def speaker_of(options: Mapping[str, Any]) -> Speaker:
    """The speaker that the options of ``speaker_options`` name."""
    from speakeasy.training.inference import Speaker

    names = ("model", "adapter", "run", "backend", "precision", "use_4bit")
    return Speaker(**{name: options[name] for name in names})


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """The sampling that the options of ``sampling_options`` ask for."""
    from speakeasy.training.backend import Sampling

    names = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    return Sampling(**{name: options[name] for name in names})
