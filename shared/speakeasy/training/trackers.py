"""Experiment trackers: TensorBoard, Weights & Biases and trackio, each optional.

A tracker follows a run, or is told the figures of an evaluation (``report``), and never steers it.
What is not installed is refused at the beginning; whatever fails later (a network, a disk) costs
one warning, and that tracker is left alone. A resumed run goes on in the tracker run that it began:
the names are kept in ``trackers.json`` of the run directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import netrc
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from speakeasy import plan_files
from speakeasy.errors import SpeakeasyError
from speakeasy.files import write_json
from speakeasy.training import state as states
from speakeasy.training.run import Record, Run, read_json

PROJECT = "speakeasy"
"""The project that runs are filed under; W&B's environment variable says otherwise."""

INSTALL = "pip install 'speakeasy-lm[trackers]'"
_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
_STEP_FIGURES = ("loss", "bits_per_byte", "learning_rate", "grad_norm", "tokens_per_second")
_EVAL_FIGURES = ("loss", "bits_per_byte", "word_perplexity")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a tracker run is about.

    Attributes:
        path: the directory that has it; trackers keep their files in it.
        plan: as nested plain values.
        saved: the last step with a state; what was logged after it is logged again.
    """

    path: Path
    plan: Mapping[str, Any]
    saved: int = 0


class Tracker(Protocol):
    """One tracker run. Any method may raise anything."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures of one step."""

    def close(self, *, failed: bool) -> None:
        """Write what is still in memory, and say how the run ended."""


class TrackerWatcher:
    """A ``loop.Watcher`` that hands figures to a tracker until the tracker fails."""

    def __init__(self, name: str, tracker: Tracker, say: Say) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker
        self._say = say

    def on_start(self, step: int, total: int) -> None:
        """Nothing."""

    def on_rows(self, tokens: int) -> None:
        """Nothing."""

    def on_step(self, record: Record) -> None:
        """Log a training step."""
        self.log({f"train/{name}": record[name] for name in _STEP_FIGURES}, record["step"])

    def on_evaluation_start(self, conversations: int) -> None:
        """Nothing."""

    def on_evaluation_advance(self, conversations: int) -> None:
        """Nothing."""

    def on_evaluation(self, record: Record) -> None:
        """Log an evaluation."""
        figures = {f"eval/{name}": record[f"eval_{name}"] for name in _EVAL_FIGURES}
        self.log(figures, record["step"])

    def on_finish(self, summary: Record) -> None:
        """Nothing: every figure in it has been logged."""

    def log(self, figures: Mapping[str, float | None], step: int) -> None:
        """Log figures by name; those that are None are left out."""
        with self._guarded():
            if self._tracker is not None:
                known = {name: value for name, value in figures.items() if value is not None}
                self._tracker.log(known, step)

    def close(self, *, failed: bool) -> None:
        """End the tracker run."""
        with self._guarded():
            if self._tracker is not None:
                self._tracker.close(failed=failed)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A training run outlives its trackers, whatever they raise: hence the broad except."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; trackio prints
                yield
        except Exception as error:
            self._tracker = None
            self._say(_warning(self._name, error))


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing.

    Raises:
        SpeakeasyError: says the line that installs it.
    """
    for name in names:
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise SpeakeasyError(
                f"--report-to {name}: {_MODULES[name]} is not installed; install it with: {INSTALL}"
            )


def to_stderr(line: str) -> None:
    """Say a line to a person."""
    sys.stderr.write(f"{line}\n")


@contextmanager
def open_trackers(
    names: Sequence[str], run: Run, say: Say = to_stderr
) -> Iterator[list[TrackerWatcher]]:
    """Open trackers for a run, new or resumed; they are closed when the block ends.

    Args:
        names: of ``tensorboard``, ``wandb`` and ``trackio``.
        say: called with a line for each warning.

    Yields:
        A ``loop.Watcher`` for each tracker that could be opened.

    Raises:
        SpeakeasyError: a tracker's package is not installed.
    """
    saved = states.steps_saved(run.states)
    subject = Subject(run.path, plan_files.to_dict(run.config), saved[-1] if saved else 0)
    with _opened(names, subject, say) as watchers:
        yield watchers


def report(
    names: Sequence[str],
    subject: Subject,
    figures: Mapping[str, float | None],
    say: Say = to_stderr,
) -> None:
    """Hand figures to trackers, once; those that are None are left out.

    Args:
        names: of ``tensorboard``, ``wandb`` and ``trackio``.
        figures: by name; a prefix such as ``evaluation/`` is part of it.
        say: called with a line for each warning.

    Raises:
        SpeakeasyError: a tracker's package is not installed.
    """
    with _opened(names, subject, say) as watchers:
        for watcher in watchers:
            watcher.log(figures, subject.saved)


@contextmanager
def _opened(names: Sequence[str], subject: Subject, say: Say) -> Iterator[list[TrackerWatcher]]:
    check_installed(names)
    watchers = []
    for name in dict.fromkeys(names):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                tracker = _OPENERS[name](subject, say)
        except Exception as error:  # as in TrackerWatcher: whatever three libraries raise
            say(_warning(name, error))
        else:
            watchers.append(TrackerWatcher(name, tracker, say))
    failed = True
    try:
        yield watchers
        failed = False
    finally:
        for watcher in watchers:
            watcher.close(failed=failed)


def _warning(name: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"warning: --report-to {name}: {reason}; the run goes on without it"


def _identity(subject: Subject, tracker: str) -> str:
    """A name for the tracker run that no other run has; the same whenever it is resumed."""
    path = subject.path / "trackers.json"
    known = read_json(path) if path.exists() else {}
    if tracker not in known:
        known[tracker] = uuid.uuid4().hex[:8]
        write_json(path, known)
    return known[tracker]


class _TensorBoard:
    """Event files in ``RUN/tensorboard``; a resumed run adds one that hides what it does again."""

    def __init__(self, subject: Subject, say: Say) -> None:
        import tomli_w
        from tensorboardX import SummaryWriter

        folder = subject.path / "tensorboard"
        earlier = len(list(folder.glob("*.tfevents.*")))
        self._writer = SummaryWriter(
            str(folder),
            purge_step=subject.saved + 1 if earlier else None,
            flush_secs=5,  # a kill costs no more than these
            filename_suffix=f".{earlier:03d}",  # names differ by the second alone otherwise
        )
        if not earlier:
            lines = tomli_w.dumps(subject.plan).splitlines()
            plan = "".join(f"    {line}\n" for line in lines)
            self._writer.add_text("run.toml", plan)  # indented: Markdown for "as it is"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _Wandb:
    """A run on the W&B server, or offline in ``RUN/wandb``."""

    def __init__(self, subject: Subject, say: Say) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if mode is None and not _wandb_login():
            mode = "offline"
            say(
                "wandb: not logged in, so it writes offline; "
                f"upload later with: wandb sync {subject.path / 'wandb'}/offline-run-*"
            )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=subject.path.name,
            id=_identity(subject, "wandb"),
            resume=None if mode == "offline" else "allow",  # offline, the id alone joins them
            dir=str(subject.path),
            config=dict(subject.plan),
            mode=mode,
            # Left alone, it would capture the terminal under the progress bars.
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _wandb_login() -> bool:
    """True if wandb would find a login without asking: a key or token, or an entry in netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for place in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if place and netrc.netrc(os.path.expanduser(place)).authenticators(host):
                return True
    return False


class _Trackio:
    """A run in trackio's local store, or where its environment variables say."""

    def __init__(self, subject: Subject, say: Say) -> None:
        import trackio

        self._run = trackio.init(
            project=PROJECT,
            name=f"{subject.path.name}-{_identity(subject, 'trackio')}",
            resume="allow",
            config=dict(subject.plan),
            embed=False,
        )
        self._finish = trackio.finish

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self, *, failed: bool) -> None:
        self._finish()


_OPENERS: Mapping[str, Callable[[Subject, Say], Any]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
