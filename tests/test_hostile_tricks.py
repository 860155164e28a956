"""Models and adapters come from strangers: single tricks, and what becomes of them."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import make_sound, meaning, meaning_of_sound, write
from safetensors.numpy import load_file, save_file

from speakeasy.batches.templates import render_prompt
from speakeasy.errors import ModelError, SpeakeasyError
from speakeasy.training.backend import REGISTRY, EngineOptions, open_backend
from speakeasy.training.inference import stop_tokens
from speakeasy.weights import trained_rows
from speakeasy.weights.adapters import read_adapter
from speakeasy.weights.checkpoint import model_shape, normalized_rope
from speakeasy.weights.hub import load_tokenizer, resolve_model
from speakeasy.weights.safetensors_io import read_header


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sound(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "NaN", '{"model": 1}', "[" * 200_000])
def test_a_broken_tokenizer_is_one_line(text: str, sound: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(sound / "model", tmp_path / "model"))
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as raised:
        load_tokenizer(directory)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("value", ["x", None, [], {}, [1, "a"], -1, [[1]], 1.5])
def test_an_odd_end_of_text_is_one_line_or_none(value: Any, sound: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(sound / "model", tmp_path / "model"))
    write(directory / "generation_config.json", {"eos_token_id": value})
    tokenizer = load_tokenizer(directory)
    if value in (None, []):
        assert stop_tokens(tokenizer, directory) == stop_tokens(tokenizer, sound / "model")
    else:
        with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id"):
            stop_tokens(tokenizer, directory)


def test_a_hostile_template_gets_out_of_nothing(sound: Path, tmp_path: Path) -> None:
    """transformers renders templates in Jinja's sandbox; its refusals are our errors."""
    for template in (
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "",
    ):
        tokenizer = load_tokenizer(sound / "model")
        tokenizer.chat_template = template or "{{ }}"
        with pytest.raises(SpeakeasyError) as raised:
            render_prompt(tokenizer, [{"role": "user", "content": "Bon dia"}])
        assert str(raised.value).isprintable()


def test_a_file_of_the_hub_s_cache_may_be_a_link(sound: Path, tmp_path: Path) -> None:
    for kind in ("model", "peft"):
        repository = tmp_path / f"models--someone--{kind}"
        shutil.copytree(sound / kind, repository / "blobs")
        snapshot = repository / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        for file in (repository / "blobs").iterdir():
            (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
        assert meaning(snapshot) == meaning_of_sound(sound / kind)
    inside = Path(shutil.copytree(sound / "model", tmp_path / "inside"))
    (inside / "model.safetensors").rename(inside / "weights")
    (inside / "model.safetensors").symlink_to("weights")
    assert meaning(inside) == meaning_of_sound(sound / "model")
    (tmp_path / "link").symlink_to(inside)  # a link to the whole directory is the user's own
    assert meaning(tmp_path / "link") == meaning_of_sound(sound / "model")


def test_a_file_that_is_no_file_is_not_waited_for(sound: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(sound / "peft", tmp_path / "adapter"))
    (directory / "adapter_model.safetensors").unlink()
    os.mkfifo(directory / "adapter_model.safetensors")
    with pytest.raises(SpeakeasyError, match="no adapter"):
        read_adapter(directory)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-at-all/x", "a\0b", "\ud800", "a\nb", "../x"])
def test_a_base_that_can_be_no_name_is_one_line(name: str) -> None:
    """It stands in the adapter's config, and is looked up where no --model is given."""
    with pytest.raises(ModelError) as raised:
        resolve_model(name)
    assert str(raised.value).isprintable()


def test_a_header_beyond_all_measure_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as handle:
        handle.write((30_000_000).to_bytes(8, "little"))
        handle.truncate(30_000_008)
    tracemalloc.start()
    with pytest.raises(ModelError, match="a header of 30000000 bytes"):
        read_header(file)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(.*)*x", ".*.*.*.*.*x", "a?" * 40 + "a" * 40, r"(a)\1+", "(?=(.+)+)x"]
)
def test_no_expression_runs_for_years(pattern: str, sound: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(sound / "peft", tmp_path / "adapter"))
    file = directory / "adapter_config.json"
    for key in ("rank_pattern", "alpha_pattern"):
        write(file, json.loads((sound / "peft" / file.name).read_text()) | {key: {pattern: 4}})
        with pytest.raises(SpeakeasyError, match=f"{key} has .* could take for ever"):
            read_adapter(directory)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but the weights hold 2"),
        ({"vocab_size": 10**12}, r"embed_tokens\.weight has shape"),
        ({"head_dim": 10**9}, r"q_proj\.weight has shape"),
        ({"num_key_value_heads": 10**9}, r"k_proj\.weight has shape"),
        ({"intermediate_size": 10**12}, r"up_proj\.weight has shape"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ],
)
def test_figures_that_the_weights_do_not_bear_out_are_refused(
    figures: dict[str, Any], message: str, sound: Path, tmp_path: Path
) -> None:
    """transformers would make a billion layers before it looked into the file."""
    directory = Path(shutil.copytree(sound / "model", tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write(directory / "config.json", config | figures)
    with pytest.raises(ModelError, match=message):
        model_shape(directory)


@pytest.mark.parametrize("theta", ["1e6", True, -1.0, 0, float("nan"), 10**400, [1e6]])
def test_a_theta_that_is_none_is_refused(theta: Any) -> None:
    with pytest.raises(ModelError, match=r"rope_theta is .*; expected a positive number"):
        normalized_rope({"rope_theta": theta})


@pytest.mark.parametrize("backend", sorted(REGISTRY))
def test_no_weight_is_made_up(backend: str, sound: Path, tmp_path: Path) -> None:
    """transformers fills a tensor that it does not find with random values, and goes on."""
    directory = Path(shutil.copytree(sound / "model", tmp_path / "model"))
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up"):
        open_backend(backend).load(EngineOptions(model=directory, precision="float32"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": np.array([-1, 3])}, "rising int64 ids from 0"),
        ({"ids": np.array([3, 3])}, "rising int64 ids from 0"),
        ({"ids": np.array([1.0, 2.0])}, "rising int64 ids from 0"),
        ({"model.embed_tokens.weight": np.ones((3, 4), np.float32)}, "a row an id"),
        ({"model.embed_tokens.weight": np.full((2, 4), np.nan, np.float32)}, "NaN or infinity"),
        ({"x": np.ones(1)}, "'x' is missing or unknown"),
    ],
)
def test_rows_of_a_stranger_are_checked(
    changed: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.safetensors"
    rows = {"ids": np.array([1, 2]), "model.embed_tokens.weight": np.ones((2, 4), np.float32)}
    save_file(rows, file)
    assert trained_rows.load(file).ids.tolist() == [1, 2]
    save_file(rows | changed, file)
    with pytest.raises(ModelError, match=message) as raised:
        trained_rows.load(file)
    assert str(file) in str(raised.value)
