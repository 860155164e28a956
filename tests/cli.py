"""Running the command in a process of its own, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def speakeasy(*words: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess:
    """Run ``speakeasy WORDS...``; its output is text."""
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=300, check=False, **options
    )
    if check and done.returncode:
        raise AssertionError(f"speakeasy {words} ended with {done.returncode}:\n{done.stderr}")
    return done


def command(*words: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "speakeasy", *(str(word) for word in words)]


def start(*words: object) -> subprocess.Popen:
    """Start it and go on."""
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def result(done: subprocess.CompletedProcess) -> dict[str, Any]:
    """The one JSON object on stdout."""
    return json.loads(done.stdout)
