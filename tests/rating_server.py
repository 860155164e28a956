"""A study's real server, in a process of its own that can be killed."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path
from typing import Any

from cli import command


class Server:
    """``speakeasy rate serve``, until it is stopped or killed.

    Attributes:
        url: where it listens.
        said: lines that it has written so far.
    """

    def __init__(self, study: Path, *options: object, port: int = 0) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            command("rate", "serve", study, "--port", port, *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._wait()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])

    def _wait(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"on (http://127\.0\.0\.1:\d+)", line):
                return found[1]
        raise AssertionError(f"the server did not start:\n{''.join(self.said)}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def kill(self) -> None:
        """As ``kill -9``."""
        self.process.kill()
        self._end()

    def stop(self) -> int:
        """As Ctrl-C does; its exit status."""
        self.process.send_signal(2)
        return self._end()

    def _end(self) -> int:
        status = self.process.wait(timeout=20)
        self._reader.join(timeout=5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.process.poll() is None:
            self.stop()
