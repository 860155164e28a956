"""The run directory: the one module that writes and reads it.

::

    run.toml              the plan with every choice made, as it stands now
    environment.json      backend and why, device, versions, fingerprints of base and data; under
                          ``parts``, every machine and backend that took part
    metrics.jsonl         one object a training step
    evaluations.jsonl     one object an evaluation of the held-out set; the first is at step 0
    adapter/              the best adapter, in the backend's own format
    rows-fitted.json      how new rows were fitted to the base's predictions first, if they were
    rows.safetensors      embedding rows that were trained beside it, if any
    state/step-NNNNNN/    portable training states
    summary.json          final figures; there only when the run has finished
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy import plan_files
from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import RunError
from speakeasy.files import disk_errors, new_directory, occupied, write_json, write_text
from speakeasy.weights.trained_rows import ROWS_FILE

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: TrainConfig | PretrainConfig, environment: Record) -> Run:
        """Start a run in a new or empty directory.

        Raises:
            RunError: something is there already; tells what, and how to go on.
        """
        cls.check_free(path)
        with disk_errors(str(path), "nothing was started"), new_directory(path) as directory:
            write_json(directory / "environment.json", environment)
            write_text(directory / "run.toml", plan_files.dump(config))
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise RunError if a run cannot be started in ``path``."""
        with disk_errors(str(path), "choose another --output-dir"):
            if (path / "summary.json").exists():
                raise RunError(f"{path}: holds a finished run; choose another --output-dir")
            if (path / "run.toml").exists():
                raise RunError(f"{path}: holds an unfinished run; add --resume to go on with it")
            if occupied(path):
                raise RunError(f"{path}: is not empty; choose another --output-dir")
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise RunError(f"{path}: {nearest} is a file; choose another --output-dir")

    @classmethod
    def open(cls, path: Path) -> Run:
        """A run that was started before.

        Raises:
            RunError: there is no run.
        """
        if not (path / "run.toml").is_file():
            raise RunError(f"{path}: no run to go on with; leave out --resume to start one")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While the block runs, this process alone trains here; what a killed one left is removed.

        Raises:
            RunError: another process is training in this run.
        """
        directory = os.open(self.path, os.O_RDONLY)  # no file in it: each may be replaced
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path}: another process is training here") from None
            for place in (self.path, self.states):
                for torn in place.glob(".*-*"):
                    shutil.rmtree(torn) if torn.is_dir() else torn.unlink()
            if (self.path / "model").is_dir():  # whole, but not moved into its place yet
                shutil.rmtree(self.path / "model")
            yield
        finally:
            os.close(directory)

    @property
    def config(self) -> TrainConfig | PretrainConfig:
        """The plan; what it learns from tells which kind it is."""
        path = self.path / "run.toml"
        if self.is_pretraining:
            # A run of an older version fitted nothing, and says nothing of it.
            values = {"fit_rows": 0} | plan_files.read(path)
            return plan_files.from_dict(PretrainConfig, values, str(path))
        return plan_files.load(TrainConfig, path)

    @property
    def is_pretraining(self) -> bool:
        """Whether it learns from raw text."""
        return "corpus" in plan_files.read(self.path / "run.toml")

    @property
    def resume_command(self) -> str:
        """The command that goes on with the run."""
        verb = "pretrain" if self.is_pretraining else "train"
        return f"speakeasy {verb} --resume --output-dir {shlex.quote(str(self.path))}"

    def advice(self) -> str:
        """How to go on where a run was cut off, as the end of a sentence."""
        places = sorted(self.states.glob("step-*"))
        last = f"the newest state is {places[-1].name}" if places else "no state was saved yet"
        return f"{last}; go on with --resume --output-dir {shlex.quote(str(self.path))}"

    @property
    def environment(self) -> Record:
        """What the run is on now; ``parts`` tells what it was on before."""
        return read_json(self.path / "environment.json")

    @property
    def parts(self) -> list[Record]:
        """The machines and backends that took part, in order; each from its ``first_step`` on."""
        environment = self.environment
        return environment.get("parts") or [{"first_step": 1, **environment}]

    def carry_on(
        self, config: TrainConfig | PretrainConfig, environment: Record, step: int
    ) -> None:
        """Record how the run goes on after ``step``: plan, machine, and one more part if it moved.

        Args:
            environment: as for ``create``; its one part is this machine's.
        """
        (here,) = environment["parts"]
        parts = [part for part in self.parts if part["first_step"] <= step]
        if not parts or _machine(parts[-1]) != _machine(here):
            parts.append(here | {"first_step": step + 1})
        now = environment | {"parts": parts}
        with disk_errors(str(self.path), "nothing was changed"):
            if now != self.environment:
                write_json(self.path / "environment.json", now)
            if config != self.config:
                write_text(self.path / "run.toml", plan_files.dump(config))

    @property
    def adapter(self) -> Path:
        """Where the finished adapter lies."""
        return self.path / "adapter"

    @property
    def rows(self) -> Path:
        """Where the trained embedding rows lie, if there are any."""
        return self.path / ROWS_FILE

    @property
    def rows_fitted(self) -> Record | None:
        """How rows were fitted before the first step (``fit_rows.Fitted``); None if none were."""
        path = self.path / "rows-fitted.json"
        return read_json(path) if path.exists() else None

    def log_rows_fitted(self, record: Record) -> None:
        """Keep how rows were fitted before the first step."""
        with disk_errors(str(self.path / "rows-fitted.json"), "--resume fits them again"):
            write_json(self.path / "rows-fitted.json", record)

    @property
    def states(self) -> Path:
        """Where the training states lie."""
        return self.path / "state"

    @property
    def summary(self) -> Record | None:
        """The final figures, or None while the run is unfinished."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else None

    def finish(self, summary: Record) -> None:
        """Write the final figures, last of all: they say that the run has finished."""
        with disk_errors(str(self.path / "summary.json"), "--resume finishes the run"):
            write_json(self.path / "summary.json", summary)

    def log_step(self, record: Record) -> None:
        """Add a line to metrics.jsonl."""
        self._append("metrics.jsonl", record)

    def log_evaluation(self, record: Record) -> None:
        """Add a line to evaluations.jsonl."""
        self._append("evaluations.jsonl", record)

    def steps(self) -> list[Record]:
        """The lines of metrics.jsonl."""
        return read_jsonl(self.path / "metrics.jsonl")

    def evaluations(self) -> list[Record]:
        """The lines of evaluations.jsonl."""
        return read_jsonl(self.path / "evaluations.jsonl")

    def evaluations_until(self, step: int) -> list[Record]:
        """Those of them that were logged by the time of ``step``."""
        return [record for record in self.evaluations() if _logged_by(record, step)]

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Forget what was logged after ``step``, which a resumed run logs again.

        Args:
            evaluated: False if the evaluation at ``step`` itself is still to come.
        """
        for name, last in (
            ("metrics.jsonl", step),
            ("evaluations.jsonl", step if evaluated else step - 1),
        ):
            path = self.path / name
            kept = [
                record
                for record in read_jsonl(path)
                if record["step"] <= last and _logged_by(record, step)
            ]
            with disk_errors(str(path), "nothing was changed"):
                write_text(path, "".join(_line(record) for record in kept))

    def _append(self, name: str, record: Record) -> None:
        path = self.path / name
        with (
            disk_errors(str(path), "--resume goes on from the last state"),
            path.open("a", encoding="utf-8") as file,
        ):
            file.write(_line(record))
            if name == "evaluations.jsonl":
                file.flush()
                os.fsync(file.fileno())


def held_in(part: Record) -> str:
    """What a part of a run, or its environment, held the base in: quantised so, or a precision."""
    return part["quantization"] or part["precision"]


def _logged_by(record: Record, step: int) -> bool:
    return max(record["step"], record.get("rescored_at", 0)) <= step


def _machine(part: Record) -> Record:
    """What makes a part another one: neither its place in the run nor why it was chosen."""
    part = {"processes": 1} | part  # runs of older versions had one, and did not say so
    return {key: part[key] for key in part if key not in ("first_step", "reason")}


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + os.linesep


def read_json(path: Path) -> Record:
    """One JSON object.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path}: not found; a run cannot be read without it: copy the directory whole"
        ) from None
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error})") from None


def read_jsonl(path: Path) -> list[Record]:
    """The whole lines of a log; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
