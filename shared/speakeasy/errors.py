"""Everything that can go wrong on purpose, in one tree.

::

    SpeakeasyError              exit status 1; its message is the one line that the user reads
    |-- UsageError              exit status 2: an option's value cannot be used
    |-- DataError               a data file; the message begins with file:line
    |-- ModelError              a model is missing, gated, unreachable or not what it should be
    |   `-- AdapterError        an adapter is broken or belongs to another base
    |-- BackendError            a backend is not installed or cannot do what was asked
    |-- DoesNotFitError         the plan needs more memory than there is
    |-- RunError                a run directory is in the way, unfinished or does not match
    |-- DivergedError           the loss or the gradient is no longer a number
    |-- InterruptedRun          exit status 130 or 143: stopped by a signal, state saved
    `-- SaidElsewhereError      one of several processes ends; process 0 says why

A message names the thing, the value, what was expected and the next step, in one line:
``--lora-r 0: rank must be at least 1``.
"""

from __future__ import annotations

_HALF = 1_000


def first_line(error: BaseException) -> str:
    """An exception as one line: the first of its message, or else its type's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class SpeakeasyError(Exception):
    """Root of all errors that are meant for the user; ``exit_status`` is the command's.

    Where several processes train one run, ``common`` says that all of them come to it together.

    Messages quote names out of other people's files. What would break the line or steer a terminal
    is shown as an escape, and the middle of what would fill the screen is left out.
    """

    exit_status = 1
    common = False

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > 2 * _HALF:
            text = f"{text[:_HALF]} ... {text[-_HALF:]}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UsageError(SpeakeasyError):
    """An option's value cannot be used. The message begins with the option."""

    exit_status = 2


class DataError(SpeakeasyError):
    """A data file cannot be used. The message begins with ``file:line``."""


class ModelError(SpeakeasyError):
    """A model is missing, gated, unreachable, or not what it should be."""


class AdapterError(ModelError):
    """An adapter is broken, or was made for another base model."""


class BackendError(SpeakeasyError):
    """A backend is not installed, or cannot do what was asked of it."""


class DoesNotFitError(SpeakeasyError):
    """The plan needs more memory than the machine has. The message says what to change."""


class RunError(SpeakeasyError):
    """A run directory is in the way, unfinished, or does not match the plan."""


class DivergedError(SpeakeasyError):
    """The loss or the gradient norm is NaN or infinite; the last good state is on disk."""

    common = True


class InterruptedRun(SpeakeasyError):  # noqa: N818  (an end, but no error)
    """A signal stopped the run after its state was saved.

    Args:
        message: what was saved, and how to go on.
        signal_number: the signal; the exit status is 128 plus it, as shells have it.
    """

    common = True

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


class SaidElsewhereError(SpeakeasyError):
    """One of several processes ends without a word, because process 0 says why.

    Args:
        exit_status: the command's.
    """

    common = True

    def __init__(self, exit_status: int) -> None:
        super().__init__("process 0 says why")
        self.exit_status = exit_status
