"""The commands of docs/mac-to-cuda.md, in its order: two folders stand for the two machines.

Blocks under ``<!-- run: PLACE -->`` are run in the folder of that place, and unless they use rsync
the other folder is out of their reach. ``MODEL`` is a tiny model and ``GPU`` the other folder.
``Ctrl-C`` interrupts the block's command after a few steps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.data.dataset import starter_conversations

PAGE = Path(__file__).parents[1] / "docs" / "mac-to-cuda.md"
CONVERSATIONS = 45
STEPS_BEFORE_CTRL_C = 2

RSYNC = """#!/bin/sh
# What the page uses of rsync, for machines that have none: rsync -a [--delete] SOURCE... TARGET
set -e
shift; delete=; [ "$1" != --delete ] || { delete=1; shift; }
for target; do :; done
[ -d "$target" ] || mkdir "$target"
while [ $# -gt 1 ]; do
    case "$1" in
        */) [ -z "$delete" ] || { rm -rf "$target"; mkdir "$target"; }; cp -a "$1." "$target" ;;
        *) cp -a "$1" "$target" ;;
    esac
    shift
done
"""


@dataclass(frozen=True)
class Block:
    """A block of the page: its language, its text, and how it is run."""

    language: str
    text: str
    place: str
    interrupted: bool


def blocks() -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"<!-- run: (\w+)(, Ctrl-C)? -->\n```(\w+)\n(.*?)```", page, re.DOTALL)
    assert page.count("<!-- run:") == len(found)
    return [Block(language, text, place, bool(stop)) for place, stop, language, text in found]


@dataclass(frozen=True)
class Machines:
    """The two folders, and the environment that the page's commands find."""

    folders: dict[str, Path]
    env: dict[str, str]

    @contextmanager
    def apart(self, block: Block) -> Iterator[Path]:
        """The block's folder, while the other one is not there, as on two machines."""
        (other,) = (path for place, path in self.folders.items() if place != block.place)
        if "rsync" in block.text:
            yield self.folders[block.place]
            return
        other.rename(other.with_name("hidden"))
        try:
            yield self.folders[block.place]
        finally:
            other.with_name("hidden").rename(other)

    def run(self, block: Block) -> str:
        """Run a block; returns what it printed on both streams."""
        assert block.language in ("sh", "python")
        words = ["sh", "-ec"] if block.language == "sh" else [sys.executable, "-c"]
        with self.apart(block) as folder:
            process = subprocess.Popen(
                [*words, block.text],
                cwd=folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                if block.interrupted:
                    press_ctrl_c(process, folder / "lunch")
                printed = process.communicate(timeout=600)[0]
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        # The shell that runs the block is interrupted, too: some shells end by the signal itself,
        # others with the command's status.
        expected = (-signal.SIGINT, 128 + signal.SIGINT) if block.interrupted else (0,)
        assert process.returncode in expected, printed
        assert ("the state is saved" in printed) == block.interrupted, printed
        return printed


def steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


def press_ctrl_c(process: subprocess.Popen, run: Path) -> None:
    """As a terminal does: the signal goes to the shell and to what it runs."""
    wanted = steps(run) + STEPS_BEFORE_CTRL_C
    while steps(run) < wanted and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    folders = {place: tmp_path / place for place in ("mac", "gpu")}
    tools = tmp_path / "bin"
    for folder in (*folders.values(), tools):
        folder.mkdir()
    if shutil.which("rsync") is None:
        (tools / "rsync").write_text(RSYNC)
        (tools / "rsync").chmod(0o755)
    model = tiny_llama(
        tmp_path / "model", vocab_size=VOCABULARY, embedding_scale=0.2, max_positions=2048
    )
    save_tiny_tokenizer(model)
    chats = [json.dumps(item.to_record()) + "\n" for item in starter_conversations()]
    for name, part in (("train", chats[:CONVERSATIONS]), ("eval", chats[-4:])):
        (folders["mac"] / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    path = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    return Machines(
        folders,
        os.environ
        | {
            "MODEL": str(model),
            "GPU": str(folders["gpu"]),
            "PATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
    )


def test_the_page_from_top_to_bottom(machines: Machines) -> None:
    page = blocks()
    assert [block.interrupted for block in page[:4]] == [True, False, True, False]
    for block in page:
        if "import" in block.text:
            assert "speakeasy" not in block.text
        machines.run(block)
    run = machines.folders["mac"] / "lunch"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(1, summary["steps"] + 1))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert [part["backend"] for part in environment["parts"]] == ["mlx", "torch", "mlx"]
    assert summary["eval_bits_per_byte"] < summary["eval_bits_per_byte_before"]
    assert (run / "adapter" / "adapters.safetensors").is_file()
