"""Models and adapters come from strangers: 200 damaged ones, each a clear line or no harm at all.

Every case is a sound directory with one thing changed, drawn from a seed. Reading it ends in one
line that names where the trouble is, or gives exactly what the sound directory gives.
"""

from __future__ import annotations

import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from cli import speakeasy
from hostile import (
    KINDS,
    field,
    header_length,
    links,
    make_sound,
    meaning,
    meaning_of_sound,
    swap,
    truncate,
)

from speakeasy.errors import AdapterError, SpeakeasyError
from speakeasy.training.backend import REGISTRY, EngineOptions, open_backend
from speakeasy.weights.adapters import check_fits, read_adapter
from speakeasy.weights.checkpoint import linear_layers

CASES = 200
MOST_BYTES = 20_000_000
"""What reading a damaged directory of 0.2 MB may take; the header's JSON is most of it."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sound(tmp_path_factory.mktemp("sound"))


def does_not_fit(directory: Path, base: Path) -> bool:
    """What is sound, but of other names or shapes: no backend loads it, no base takes it."""
    if not (directory / "config.json").exists():
        with pytest.raises(AdapterError):
            check_fits(read_adapter(directory), linear_layers(base))
        return True
    for name in REGISTRY:
        with pytest.raises(SpeakeasyError):
            open_backend(name).load(EngineOptions(model=directory, precision="float32"))
    return True


@pytest.mark.parametrize("number", range(CASES))
def test_a_damaged_directory_is_one_line_or_no_harm(
    number: int, sound: Path, tmp_path: Path
) -> None:
    rng = random.Random(number)
    kind = list(KINDS)[number % len(KINDS)]
    changes = KINDS[kind]
    change = changes[number // len(KINDS) % len(changes)]
    directory = Path(shutil.copytree(sound / kind, tmp_path / "damaged"))
    change(directory, rng)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        found, message = meaning(directory), ""
    except SpeakeasyError as error:
        found, message = None, str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_BYTES
    if found is None:
        assert message.isprintable()  # so it is one line, too
        assert len(message) < 3_000
        assert str(directory) in message
    else:
        assert found == meaning_of_sound(sound / kind) or does_not_fit(directory, sound / "model")
    assert sorted(tmp_path.rglob("*")) == before


def test_most_damage_is_seen(sound: Path, tmp_path: Path) -> None:
    """The property above would hold of readers that let everything pass unchanged."""
    refused = 0
    for number in range(40):
        kind = list(KINDS)[number % len(KINDS)]
        directory = Path(shutil.copytree(sound / kind, tmp_path / str(number)))
        field(directory, random.Random(number))
        try:
            meaning(directory)
        except SpeakeasyError:
            refused += 1
    assert refused >= 36


@pytest.mark.parametrize("number", range(0, CASES, 8))
def test_commands_end_in_one_line_and_write_nothing(
    number: int, sound: Path, tmp_path: Path
) -> None:
    rng = random.Random(number)
    kind = ["peft", "mlx", "model", "sharded"][number // 8 % 4]
    change = [truncate, header_length, swap, field, links][number // 32 % 5]
    directory = Path(shutil.copytree(sound / kind, tmp_path / "damaged"))
    change(directory, rng)
    try:
        meaning(directory)
    except SpeakeasyError:
        pass
    else:
        pytest.skip("this one does no harm")
    model, out = sound / "model", tmp_path / "out"
    base = ("--model", model, "--max-tokens", 1, "Bon dia")
    commands: list[tuple[Any, ...]]
    if kind in ("peft", "mlx"):
        commands = [
            ("generate", "--adapter", directory, *base),
            ("convert", directory, out, "--to", "peft", "--model", model),
            ("convert", directory, out, "--to", "mlx", "--model", model, "--json"),
            ("export", "--model", model, "--adapter", directory, "--output-dir", out),
        ]
    else:
        commands = [
            ("train", "--model", directory, "--output-dir", out),
            ("generate", "--model", directory, "Bon dia"),
            ("vocab", "expand", "--model", directory, "--output-dir", out, "--json"),
            ("convert", sound / "peft", out, "--to", "mlx", "--model", directory),
            ("export", "--model", directory, "--adapter", sound / "peft", "--output-dir", out),
        ]
    before = sorted(tmp_path.rglob("*"))
    for words in commands:
        done = speakeasy(*words, check=False)
        assert done.returncode == 1, words
        error = done.stderr.splitlines()[-1]
        assert error.startswith("error: ")
        assert str(directory) in error
        if "--json" in words:
            assert f"error: {done.result['error']}" == error
        assert sorted(tmp_path.rglob("*")) == before
