from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from model_files import (
    EMBEDDING,
    HEAD,
    INDEX,
    config_of,
    edit_config,
    same_bits,
    store,
    stored_llama,
    tensors_of,
    use_small_blocks,
)

from speakeasy.errors import ModelError, SpeakeasyError
from speakeasy.weights import safetensors_io
from speakeasy.weights.checkpoint import DTYPES, check_directory, model_shape, tensor_index
from speakeasy.weights.rewrite import Replacement, open_base, rewrite

WAY_OUT = "give the full-precision model"


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    rewrite(open_base(source, WAY_OUT), target, {})
    return target


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_what_is_not_named_keeps_its_bits_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, shards: int
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", dtype, tied=False, shards=shards)
    tensors = tensors_of(source)
    odd = {
        "scalar": np.array(3.5, np.float32),
        "empty": np.empty((0, 4), np.float16),
        "cube": np.arange(60, dtype=np.int64).reshape(3, 4, 5),
    }
    store(source, tensors | odd, shards)
    target = copied(source, tmp_path / "copy")
    for file in source.glob("*.safetensors"):
        assert (target / file.name).read_bytes() == file.read_bytes()
    assert {f.name for f in target.iterdir()} == {f.name for f in source.iterdir()}
    if shards > 1:
        old, new = (json.loads((path / INDEX).read_text()) for path in (source, target))
        assert new["weight_map"] == old["weight_map"]
        assert new["metadata"] == old["metadata"]
    check_directory(target)
    text = (source / "generation_config.json").read_bytes()
    assert (target / "generation_config.json").read_bytes() == text


def test_the_index_counts_what_is_written(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", shards=2)
    index = json.loads((source / INDEX).read_text())
    index["metadata"]["total_parameters"] = 7
    index["metadata"]["note"] = "kept"
    (source / INDEX).write_text(json.dumps(index))
    target = tmp_path / "new"
    target.mkdir()
    larger = np.ones((70, 32), np.float16)
    new = {EMBEDDING: Replacement(larger.dtype, larger.shape, [larger[:11], larger[11:]])}
    rewrite(open_base(source, WAY_OUT), target, new)
    written = tensors_of(target)
    assert same_bits(written[EMBEDDING], larger)
    assert json.loads((target / INDEX).read_text())["metadata"] == {
        "total_size": sum(t.nbytes for t in written.values()),
        "total_parameters": sum(t.size for t in written.values()),
        "note": "kept",
    }


def test_tensors_that_the_index_leaves_out_are_left_out(tmp_path: Path) -> None:
    """As transformers does; a leftover of another revision must not come back."""
    source = stored_llama(tmp_path / "model", shards=2)
    index = json.loads((source / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (source / INDEX).write_text(json.dumps(index))
    assert "model.norm.weight" not in tensor_index(copied(source, tmp_path / "copy"))


def test_the_config_gets_both_spellings_and_says_tied_outright(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", tied=False)
    edit_config(source, rope_theta=..., tie_word_embeddings=...)
    config = config_of(copied(source, tmp_path / "copy"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50_000
    assert config["tie_word_embeddings"] is False


def test_a_second_copy_of_a_tied_embedding_is_not_kept(tmp_path: Path) -> None:
    """Both libraries tie them; a change of the embedding alone would make the copy a rival."""
    source = stored_llama(tmp_path / "model")
    tensors = tensors_of(source)
    store(source, tensors | {HEAD: tensors[EMBEDDING]}, shards=2)
    target = copied(source, tmp_path / "copy")
    written = tensors_of(target)
    assert written.keys() == tensors.keys()
    assert all(same_bits(written[name], tensors[name]) for name in tensors)
    assert model_shape(target).tied


def test_a_tied_model_with_another_head_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", tied=False)
    edit_config(source, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings true, but lm_head.weight differs"):
        open_base(source, WAY_OUT)
    tensors = tensors_of(source)
    store(source, tensors | {HEAD: tensors[EMBEDDING][:-1]})
    with pytest.raises(ModelError, match=r"lm_head.weight has shape \(60, 32\)"):
        open_base(source, WAY_OUT)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx 4-bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq 8-bit"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "bitsandbytes 4-bit",
        ),
    ],
)
def test_quantised_models_are_refused_with_the_way_out(
    tmp_path: Path, entry: dict[str, object], said: str
) -> None:
    source = stored_llama(tmp_path / "model")
    edit_config(source, **entry)
    with pytest.raises(ModelError, match=f"stored as {said}; {WAY_OUT}"):
        open_base(source, WAY_OUT)


def test_a_matrix_that_cannot_be_changed_is_named(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    norm = tensors_of(source)["model.norm.weight"]
    store(source, tensors_of(source) | {"packed": norm.astype(DTYPES["F8_E4M3"]).reshape(4, 8)})
    base = open_base(source, WAY_OUT)
    with pytest.raises(ModelError, match=r"packed is F8_E4M3 \(4, 8\)"):
        base.matrix("packed")
    with pytest.raises(ModelError, match=r"no tensor 'lm_head.weight'"):
        base.matrix(HEAD)


def test_blocks_that_do_not_add_up_are_an_error(tmp_path: Path) -> None:
    base = open_base(stored_llama(tmp_path / "model"), WAY_OUT)
    rows = np.ones((60, 32), np.float32)
    for blocks in ([rows], [rows, rows], [rows.astype(np.float16)]):
        with pytest.raises(ValueError, match="layout"):
            rewrite(base, tmp_path, {EMBEDDING: Replacement(rows.dtype, (61, 32), blocks)})


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", "BF16")
    (tmp_path / "new").mkdir()
    done: list[int] = []
    rewrite(open_base(source, WAY_OUT), tmp_path / "new", {}, advance=done.append)
    assert sum(done) == model_shape(source).bytes_on_disk
    assert len(done) == len(tensor_index(source))


def test_a_system_that_cannot_copy_in_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file system says so at the first call; macOS has no such call."""

    def refuse(*arguments: object, **more: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", "BF16")
    expected = (source / "model.safetensors").read_bytes()
    monkeypatch.setattr(os, "copy_file_range", refuse)
    there = copied(source, tmp_path / "elsewhere")
    assert (there / "model.safetensors").read_bytes() == expected
    monkeypatch.delattr(os, "copy_file_range")
    mac = copied(source, tmp_path / "mac")
    assert (mac / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_base_that_shrinks_meanwhile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    source = stored_llama(tmp_path / "model")
    base = open_base(source, WAY_OUT)
    os.truncate(source / "model.safetensors", 5000)
    (tmp_path / "new").mkdir()
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range")
    with pytest.raises(ModelError, match="became shorter while it was read"):
        rewrite(base, tmp_path / "new", {})


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    base = open_base(stored_llama(tmp_path / "model"), WAY_OUT)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").mkdir()
    with pytest.raises(SpeakeasyError, match="nothing was written; free some space"):
        rewrite(base, tmp_path / "new", {})


@pytest.mark.parametrize("failing", [0, 2, 20])
def test_a_disk_that_fills_up_midway_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """One block fails in the writing thread, whichever it is; those after it would succeed."""
    write, calls = safetensors_io._write, iter(range(1000))

    def full_once(handle: FileIO, block: safetensors_io.Block | bytes) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(handle, block)

    base = open_base(stored_llama(tmp_path / "model"), WAY_OUT)
    assert len(base.tensors) == 20  # and one block for the header
    (tmp_path / "new").mkdir()
    monkeypatch.setattr(safetensors_io, "_write", full_once)
    with pytest.raises(SpeakeasyError, match="No space left on device; nothing was written"):
        rewrite(base, tmp_path / "new", {})
    assert not (tmp_path / "new" / "config.json").exists()


def test_killed_in_the_middle_nothing_looks_finished(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", tied=False)
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from speakeasy.files import new_directory\n"
        "from speakeasy.weights.rows import add_rows\n"
        "left = [4]\n"
        "def advance(done):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with new_directory(Path({str(tmp_path / 'new')!r})) as target:\n"
        f"    source = Path({str(source)!r})\n"
        "    add_rows(source, target, {61: [1]}, init='subword', advance=advance)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "new").exists()
    (half,) = tmp_path.glob(".new.speakeasy-*")
    with pytest.raises(ModelError):
        check_directory(half)
