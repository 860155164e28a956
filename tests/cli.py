"""Running the command as a user does: here in the process, or in one of its own to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from speakeasy.cli.main import TRACEBACK, main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        return json.loads(self.stdout)


def speakeasy(*words: object, check: bool = True) -> Done:
    """Run ``speakeasy WORDS...`` in this process (its imports take seconds)."""
    ran = CliRunner(env={TRACEBACK: "1"}).invoke(main, [str(word) for word in words])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    if check and ran.exit_code:
        raise AssertionError(f"speakeasy {words} ended with {ran.exit_code}:\n{ran.stderr}")
    return Done(ran.exit_code, ran.stdout, ran.stderr)


def command(*words: object) -> list[str]:
    """The command line that runs it in a process of its own."""
    return [sys.executable, "-m", "speakeasy", *(str(word) for word in words)]


def start(*words: object, threads: int = 1, **options: Any) -> subprocess.Popen:
    """Start it in a process of its own and go on; ``options`` are Popen's.

    One thread: tiny products on two busy cores are several times slower with two. A real model
    takes 0, which leaves the number to the libraries.
    """
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env | {"OMP_NUM_THREADS": str(threads)} if threads else env,
        **options,
    )


def alone(*words: object, threads: int = 1) -> Done:
    """Run it to its end in a process of its own, which must succeed."""
    process = start(*words, threads=threads)
    stdout, stderr = process.communicate(timeout=600)
    if process.returncode:
        raise AssertionError(f"speakeasy {words} ended with {process.returncode}:\n{stderr}")
    return Done(process.returncode, stdout, stderr)
