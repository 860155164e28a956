"""Several processes for tests: starting them, and a program that calls commands in each.

As a program it is one of the processes: it connects once, carries out a list of commands, and
writes how each ended. So the seconds that imports take are paid once a backend. The last command is
for being killed: it is carried out as a user's is, and nothing comes after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from cli import speakeasy

from speakeasy.cli.main import main as command
from speakeasy.training import backend, lifeline, opening


@dataclass(frozen=True)
class Call:
    """A command for every process.

    Attributes:
        folders: the working directory of each process, if they differ.
        signal_after: steps after which process 1 gets a SIGTERM.
    """

    words: list[str]
    folders: list[str] = field(default_factory=list)
    signal_after: int = 0

    @property
    def out(self) -> Path:
        return Path(self.words[self.words.index("--output-dir") + 1])


def launcher(backend: str, size: int = 2) -> list[str]:
    """The beginning of a command line; a script or ``-m MODULE`` follows."""
    python = Path(sys.executable)
    if backend == "torch":
        start = [str(python), "-m", "torch.distributed.run", "--standalone"]
        return [*start, f"--nproc-per-node={size}"]
    start = [str(python.parent / "mlx.launch"), "--backend", "ring", "-n", str(size)]
    return [*start, "--starting-port", str(free_port()), "--", str(python)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def launch(backend: str, *words: object, **options: Any) -> subprocess.Popen:
    """Start two processes; their input stays open, as a terminal's would."""
    return subprocess.Popen(
        [*launcher(backend), *(str(word) for word in words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        **options,
    )


@dataclass(frozen=True)
class Killed:
    """How the last call ended, of which one process was killed.

    Attributes:
        seconds: until the other had ended, too.
        said: by the launcher and both processes.
    """

    victim: int
    seconds: float
    said: str


def carry_out(
    backend: str, calls: dict[str, Call], victim: int, folder: Path
) -> tuple[dict[str, list[dict]], Killed]:
    """Have two processes carry out the calls in turn, and kill one in its last.

    Returns:
        For each call but the last, how it ended in each process; and how the last one did.
    """
    folder.mkdir()
    plan = {name: [call.words, call.folders, call.signal_after] for name, call in calls.items()}
    (folder / "calls.json").write_text(json.dumps(plan), encoding="utf-8")
    process = launch(backend, __file__, folder)
    *rest, last = calls
    workers = _workers(process, calls[last].out / "metrics.jsonl")
    workers[victim].kill()
    killed = time.monotonic()
    _, alive = psutil.wait_procs(workers, timeout=30)
    seconds = time.monotonic() - killed
    said, _ = process.communicate(timeout=60)
    assert not alive, said
    ends = [folder / f"{rank}.json" for rank in range(2)]
    found = [json.loads(end.read_text(encoding="utf-8")) for end in ends]
    return {name: [one[name] for one in found] for name in rest}, Killed(victim, seconds, said)


def _workers(process: subprocess.Popen, log: Path) -> list[psutil.Process]:
    """The processes, by rank, once there are three lines in a log."""
    until = time.monotonic() + 300
    while not log.exists() or log.read_text(encoding="utf-8").count("\n") < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        environment = child.environ()
        rank = environment.get("RANK") or environment.get("MLX_RANK")
        if rank is not None and __file__ in child.cmdline():
            found[int(rank)] = child
    return [found[rank] for rank in range(2)]


def main(folder: Path) -> None:
    group = backend.join()
    group.close = lambda: None  # type: ignore[method-assign]
    backend.join = lambda: group
    lifeline.LEAVE_S = 0.0  # process 0 does not end between two calls
    opened: list[Any] = []
    open_engine = opening.open_engine

    def remember(*arguments: Any, **options: Any) -> Any:
        opened.append(open_engine(*arguments, **options))
        return opened[-1]

    opening.open_engine = remember  # type: ignore[assignment]
    ends = {}
    plan = json.loads((folder / "calls.json").read_text(encoding="utf-8"))
    last, _, _ = plan.pop(next(reversed(plan)))
    for name, (words, folders, signal_after) in plan.items():
        call = Call(words, folders, signal_after)
        if call.folders:
            os.chdir(call.folders[group.rank])
        if call.signal_after and group.rank == 1:
            threading.Thread(target=terminate, args=(call,), daemon=True).start()
        opened.clear()
        done = speakeasy(*call.words, check=False)
        weights = hashlib.sha256()
        for tensor in opened[-1].engine.trainables().values() if opened else ():
            weights.update(tensor.tobytes())
        ends[name] = {
            "status": done.returncode,
            "stderr": done.stderr,
            "stdout": done.stdout,
            "weights": weights.hexdigest(),
        }
    (folder / f"{group.rank}.json").write_text(json.dumps(ends), encoding="utf-8")
    command(last)


def terminate(call: Call) -> None:
    """Send this process a SIGTERM once its run has got so far."""
    log = call.out / "metrics.jsonl"
    while not log.exists() or log.read_text(encoding="utf-8").count("\n") < call.signal_after:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
