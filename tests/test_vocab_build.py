from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from tiny import SPECIAL, VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama
from vocabularies import GUIDE, four_forms

from speakeasy.cli.vocab_expand import expand
from speakeasy.errors import ModelError, RunError, SpeakeasyError, UsageError
from speakeasy.files import write_json
from speakeasy.vocab import build, loaders
from speakeasy.vocab import compare as compare_module
from speakeasy.vocab.build import expand_model
from speakeasy.vocab.expand import Expansion, plan_expansion
from speakeasy.weights.added import added_ids
from speakeasy.weights.fingerprint import tokenizer_fingerprint
from speakeasy.weights.hub import load_tokenizer, resolve_model
from speakeasy.weights.untrained import untrained_rows

FORMS = four_forms(GUIDE)
EMBEDDING = "model.embed_tokens.weight"
RESERVED = "<|reserved_special_token_{}|>"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer words, and no process of mlx-lm's own, which takes seconds to start."""
    monkeypatch.setattr(compare_module, "WORDS", 1000)
    monkeypatch.setattr(loaders, "_ids_by_mlx", lambda *rest: {"unavailable": "not in this test"})


ASK_MLX = loaders._ids_by_mlx


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("base"))


def model(directory: Path, rows: int = VOCABULARY, **options) -> Path:
    tiny_llama(directory, vocab_size=rows, **options)
    save_tiny_tokenizer(directory)
    (directory / "LICENSE").write_text("Do as you like.\n", encoding="utf-8")
    (directory / "README.md").write_text("# Tiny\n", encoding="utf-8")
    return directory


def expanded(base: Path, target: Path, plan: Expansion | None = None, **options) -> dict:
    return expand_model(
        resolve_model(str(base)), target, plan or plan_expansion(base, FORMS), **options
    )


def test_the_whole_directory(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "_ids_by_mlx", ASK_MLX)
    target = tmp_path / "new"
    record = expanded(base, target)
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
    copied = {file.name for file in base.iterdir()}
    made = {"README-base.md", "expansion.json"}
    assert {file.name for file in target.iterdir()} == copied | made
    assert record == json.loads((target / "expansion.json").read_text(encoding="utf-8"))
    assert resolve_model(str(target)).path == target
    tokenizer = load_tokenizer(target)
    assert tokenizer.chat_template == load_tokenizer(base).chat_template
    for entry in record["added"]:
        assert tokenizer(entry["form"], add_special_tokens=False).input_ids == [entry["id"]]
    assert added_ids(target) == [entry["id"] for entry in record["added"]]
    assert tokenizer_fingerprint(target) == record["tokenizer_fingerprint"]
    assert record["tokenizer_fingerprint"] != record["base"]["tokenizer_fingerprint"]
    assert record["gate"]["words"]["collateral_words"] == 0
    for library in ("transformers", "mlx-lm"):
        assert record["gate"]["loaded_by"][library]["texts_with_the_same_ids"] > 200


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_keep_their_bits_and_new_ones_are_means(tied: bool, tmp_path: Path) -> None:
    base = model(tmp_path / "base", tied=tied)
    record = expanded(base, tmp_path / "new")
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "new"))
    assert old.keys() == new.keys()
    for name in old:
        if name in (EMBEDDING, "lm_head.weight"):
            assert np.array_equal(new[name][:VOCABULARY], old[name])
            for entry in record["added"]:
                mean = old[name][entry["pieces"]].mean(axis=0)
                np.testing.assert_allclose(new[name][entry["id"]], mean, rtol=1e-5, atol=1e-7)
        else:
            assert np.array_equal(new[name], old[name])
    config = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == VOCABULARY + len(record["added"]) == len(new[EMBEDDING])
    assert {"rope_theta", "rope_parameters"} <= set(config)


def test_a_word_of_untrained_pieces_is_named(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    plan = plan_expansion(base, [" ostras"])
    tensors = load_file(base / "model.safetensors")
    tensors[EMBEDDING][list(plan.added[0].pieces)] = 0
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"new token \d+ \(' ostras'\): none of its old tokens"):
        expanded(base, tmp_path / "new", plan)
    assert not (tmp_path / "new").exists()


def test_untrained_rows_are_looked_for_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That reads the matrices whole, which takes seconds with a real model."""
    calls = []

    def counted(path: Path) -> np.ndarray:
        calls.append(path)
        return untrained_rows(path)

    monkeypatch.setattr(build, "untrained_rows", counted)
    expanded(base, tmp_path / "new", plan_expansion(base, ["ostras"]))
    assert len(calls) == 1


def test_new_ids_fall_into_padding_rows(tmp_path: Path) -> None:
    base = model(tmp_path / "base", rows=VOCABULARY + 20)
    record = expanded(base, tmp_path / "new", plan_expansion(base, ["ostras", " ostras"]))
    assert [entry["id"] for entry in record["added"]] == [VOCABULARY, VOCABULARY + 1]
    config = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == VOCABULARY + 20
    assert record["rows"]["overwritten"] == 2


def test_reserved_ids_leave_the_size_alone(tmp_path: Path) -> None:
    base = model(tmp_path / "base", rows=VOCABULARY + 4)
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    spec["added_tokens"] += [
        spec["added_tokens"][0] | {"id": VOCABULARY + n, "content": RESERVED.format(n)}
        for n in range(4)
    ]
    write_json(base / "tokenizer.json", spec)
    plan = plan_expansion(base, ["ostras", "àvia"], mode="reserved")
    record = expanded(base, tmp_path / "new", plan)
    before, after = load_tokenizer(base), load_tokenizer(tmp_path / "new")
    assert len(before) == len(after) == VOCABULARY + 4
    assert after.convert_tokens_to_ids("ostras") == VOCABULARY
    assert VOCABULARY not in after.added_tokens_decoder
    assert record["reserved_tokens_given_up"] == [RESERVED.format(0), RESERVED.format(1)]
    assert {SPECIAL[1], SPECIAL[2]} <= {str(t) for t in after.added_tokens_decoder.values()}


def test_an_expanded_model_can_be_expanded_again(base: Path, tmp_path: Path) -> None:
    first = expanded(base, tmp_path / "first", plan_expansion(base, ["ostras"]))
    again = plan_expansion(tmp_path / "first", ["ostras", "àvia"])
    second = expanded(tmp_path / "first", tmp_path / "second", again)
    assert [entry["form"] for entry in second["added"]] == ["àvia"]
    assert second["base"]["expansion"] == first
    assert added_ids(tmp_path / "second") == [VOCABULARY, VOCABULARY + 1]


def test_harm_is_refused_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    plan = plan_expansion(base, FORMS, mode="merges")
    with pytest.raises(ModelError, match="--allow-collateral"):
        expanded(base, tmp_path / "new", plan)
    assert list(tmp_path.iterdir()) == []
    record = expanded(base, tmp_path / "new", plan, allow_collateral=10_000)
    assert record["gate"]["allowed_collateral"] == 10_000
    assert record["gate"]["words"]["collateral_words"] > 0
    assert len(added_ids(tmp_path / "new")) == len(record["added"]) + len(record["steps"])


def test_a_full_disk_is_one_line_and_nothing_is_left(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(build, "add_rows", full)
    with pytest.raises(SpeakeasyError, match="No space left on device; nothing was written"):
        expanded(base, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_it_can_be_run_again(base: Path, tmp_path: Path) -> None:
    """SIGKILL after the weights are written and before the directory gets its name."""
    code = f"""
import os, signal
from pathlib import Path
from speakeasy.vocab import build, compare, loaders
from speakeasy.vocab.expand import plan_expansion
from speakeasy.weights.hub import resolve_model
compare.WORDS = 100
loaders._ids_by_mlx = lambda *rest: {{'unavailable': 'not in this test'}}
build._copy_papers = lambda *rest: os.kill(os.getpid(), signal.SIGKILL)
base = resolve_model({str(base)!r})
build.expand_model(base, Path({str(tmp_path / "new")!r}), plan_expansion(base.path, ["ostras"]))
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
    assert all(name.name.startswith(".") for name in tmp_path.iterdir())
    expanded(base, tmp_path / "new", plan_expansion(base, ["ostras"]))
    assert resolve_model(str(tmp_path / "new"))


def test_a_plan_without_a_word_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'e' is one token already"):
        expanded(base, tmp_path / "new", plan_expansion(base, ["e"]))


def test_a_full_directory_is_not_overwritten(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="not empty"):
        expanded(base, tmp_path)


def run(*words: object):
    return CliRunner().invoke(expand, [str(word) for word in words])


def test_the_command_in_the_guides_spelling(base: Path, tmp_path: Path) -> None:
    ran = run("--model_name", base, "--output_dir", tmp_path / "new")
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == ""
    assert f"speakeasy pretrain --model {tmp_path / 'new'}" in ran.stderr
    assert "0 others changed, 0 round-trip failures" in ran.stderr
    assert "␣ostras" in ran.stderr
    assert "left out, is several words; --phrases" in ran.stderr


def test_the_command_with_json(base: Path, tmp_path: Path) -> None:
    ran = run("--model", base, "--output-dir", tmp_path / "new", "--phrases", "--json",
              "--categories", "phrases,family", "--init", "mean")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    record = json.loads(ran.stdout)
    assert record["output_dir"] == str(tmp_path / "new")
    assert record["init"] == "mean"
    assert " si us plau" in record["phrases"]
    assert {entry["form"] for entry in record["added"]} <= set(
        four_forms(["avi", "àvia", "iaia", "iaio", "va", "apa va", "fem", "escolta", "clar",
                    "si us plau", "adéu"])
    )  # fmt: skip


def test_a_dry_run_writes_nothing_and_says_what_would_happen(base: Path, tmp_path: Path) -> None:
    ran = run("--model", base, "--dry-run", "--mode", "merges", "--json")
    assert ran.exit_code == 0
    record = json.loads(ran.stdout)
    assert "--allow-collateral" in record["refused"]
    assert record["gate"]["words"]["collateral"]
    shown = run("--model", base, "--dry-run")
    assert "would be written: the gate is passed" in shown.stderr


def test_words_and_forms_of_ones_own(base: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text('# mine\nxafogor\n" ganyips"\n', encoding="utf-8")
    text = tmp_path / "text.txt"
    text.write_text("Quina XAFOGOR!\n" * 3, encoding="utf-8")
    ran = run("--model", base, "--dry-run", "--json", "--words", words, "--corpus", text)
    assert ran.exit_code == 0, ran.output
    forms = {entry["form"] for entry in json.loads(ran.stdout)["added"]}
    assert forms == {*four_forms(["xafogor"]), " ganyips", " XAFOGOR"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([], UsageError, "--output-dir: missing"),
        (["--output-dir", "HERE"], RunError, "choose another directory"),
        (["--dry-run", "--categories", "x"], UsageError, "--categories x"),
    ],
)
def test_wrong_usage_is_one_line(
    base: Path, tmp_path: Path, options: list[str], error: type, message: str
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    words = [str(tmp_path) if word == "HERE" else word for word in options]
    ran = run("--model", base, *words)
    assert isinstance(ran.exception, error)
    assert message in str(ran.exception)


def test_a_base_that_is_a_link_farm_is_copied_not_linked(base: Path, tmp_path: Path) -> None:
    """The Hub's cache holds links; what is written must stand on its own."""
    blobs = tmp_path / "models--me--tiny" / "blobs"
    linked = blobs.parent / "snapshots" / "0123"
    shutil.copytree(base, blobs)
    linked.mkdir(parents=True)
    for file in blobs.iterdir():
        (linked / file.name).symlink_to(Path("../../blobs") / file.name)
    expanded(linked, tmp_path / "new", plan_expansion(linked, ["ostras"]))
    assert not any(file.is_symlink() for file in (tmp_path / "new").iterdir())
    shutil.rmtree(linked)
    assert load_tokenizer(tmp_path / "new")
