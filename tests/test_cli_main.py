from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest
from cli import command, speakeasy
from click.testing import CliRunner

from speakeasy import __version__
from speakeasy.cli.main import COMMANDS, main

HEAVY = {
    "torch", "mlx", "mlx_lm", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes",
    "safetensors", "huggingface_hub", "gguf", "numpy", "rich", "psutil",
}  # fmt: skip


def load(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, or the commands of a group, with the words that call them."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for sub in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), sub)
        assert found is not None
        yield from leaves(f"{name} {sub}", found)


LEAVES = [leaf for name in sorted(COMMANDS) for leaf in leaves(name, load(name))]


@pytest.mark.alone
def test_help_is_there_at_once() -> None:
    seconds = []
    for _ in range(5):  # the best of them: other work on the machine is not the command's
        started = time.perf_counter()
        subprocess.run(command("--help"), check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("words", [(), ("run",), ("doctor",), ("train",), ("generate",), ("data",)])
def test_help_imports_no_heavy_library(words: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom speakeasy.cli.main import main\n"
        f"main({[*words, '--help']!r}, standalone_mode=False)\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(done.stdout.rpartition("MODULES")[2].split())
    assert "speakeasy" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    text = load(name).help
    assert text is not None
    paragraph = " ".join(text.split("\n\n")[0].split())
    assert COMMANDS[name][1] == paragraph.partition(". ")[0].rstrip(".") + "."


def test_all_commands_are_listed() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    for name, (_, help_line) in COMMANDS.items():
        assert any(line.split() == [name, *help_line.split()] for line in shown.splitlines())


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_every_command_takes_json_and_explains_itself(name: str, command: click.Command) -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in options
    assert command.help
    shown = CliRunner().invoke(main, [*name.split(), "-h"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: main {name} ")


@pytest.mark.parametrize(("name", "command"), LEAVES, ids=[name for name, _ in LEAVES])
def test_an_unknown_option_is_one_line_and_status_2(name: str, command: click.Command) -> None:
    done = CliRunner().invoke(main, [*name.split(), "--no-such-thing", "1", "--json"])
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: No such option")
    assert f"{name} --help'" in line
    assert json.loads(done.stdout) == {"error": line.removeprefix("error: ")}


def test_underscores_equal_dashes() -> None:
    for spelling in ("--output-dir", "--output_dir"):
        done = CliRunner().invoke(main, ["run", "demo", "--dry_run", spelling, "nowhere", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["output_dir"] == "nowhere"


def test_the_command_itself() -> None:
    assert speakeasy("--version").stdout.split()[-1] == __version__
    done = speakeasy("completion", "bash", "--json")
    assert done.result["shell"] == "bash"
    wrong = speakeasy("nonsense", check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: No such command 'nonsense'")
    assert wrong.stderr.count("\n") == 1


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a slip\nwith a second line")

    monkeypatch.setattr("speakeasy.training.diagnosis.diagnose", broken)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unexpected ZeroDivisionError: a slip; this is a defect")
    assert "a slip" in json.loads(done.stdout)["error"]
