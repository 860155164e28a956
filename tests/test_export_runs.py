"""Exports of what runs leave: an adapter, an expanded and pre-trained model, a 4-bit run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli import speakeasy
from huggingface_hub import ModelCard
from model_files import edit_config
from one_thread import one_thread  # noqa: F401
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama
from training_runs import write_conversations

from speakeasy.errors import AdapterError, ModelError, RunError, UsageError
from speakeasy.export import gate
from speakeasy.export.card import card_text
from speakeasy.export.libraries import LIBRARIES
from speakeasy.export.material import Material, gather
from speakeasy.weights.checkpoint import fingerprint
from speakeasy.weights.trained_rows import load as load_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied tiny Llama."""
    directory = tmp_path_factory.mktemp("runs") / "base"
    tiny_llama(directory, vocab_size=VOCABULARY, tied=False, hidden=64, embedding_scale=0.2)
    save_tiny_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def words(base: Path) -> Path:
    file = base.with_name("words.txt")
    file.write_text("ostras\nadéu\nflipar\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def files(base: Path) -> tuple[Path, Path]:
    return write_conversations(base.parent, 8, 2)


def train(model: Path, files: tuple[Path, Path], out: Path, *more: object) -> Path:
    speakeasy(
        "train", "--model", model, "--train-file", files[0], "--eval-file", files[1],
        "--output-dir", out, "--max-steps", 3, "--lora-r", 4, "--learning-rate", 0.02,
        "--max-length", 512, "--backend", "torch", "--precision", "float32", *more,
    )  # fmt: skip
    return out


def export(*words: object) -> dict[str, Any]:
    return speakeasy("export", *words, "--json").result


@pytest.fixture(scope="module")
def quantised(base: Path, files: tuple[Path, Path]) -> Path:
    """A run that held the base in 4 bits."""
    return train(base, files, base.with_name("run-4bit"), "--use-4bit")


@pytest.fixture(scope="module")
def pretrained(base: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, expanded by three words in all their forms, pre-trained for three steps."""
    expanded, out = base.with_name("expanded"), base.with_name("pretrained")
    speakeasy(
        "vocab", "expand", "--model", base, "--words", words, "--output-dir", expanded, "--json"
    )
    speakeasy(
        "pretrain", "--model", expanded, "--output-dir", out, "--train", "rows+lora",
        "--lora-r", 4, "--max-steps", 3, "--max-length", 256, "--learning-rate", 0.01,
        "--backend", "torch", "--precision", "float32",
    )  # fmt: skip
    return out


def test_of_a_run_in_4_bits(quantised: Path, base: Path, tmp_path: Path) -> None:
    """Fused into the full-precision base, and the card says what the figures were measured on."""
    record = export("--run", quantised, "--output-dir", tmp_path / "out")
    assert record["adapter"]["trained_on"] == "nf4"
    for library in LIBRARIES:
        assert record["gate"][library]["largest"] < gate.ABSOLUTE
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "measured with the base in nf4" in card.text
    assert record["parts"] == json.loads((quantised / "summary.json").read_text())["parts"]
    summary = json.loads((quantised / "summary.json").read_text())
    after = f"{summary['eval_bits_per_byte']:,.3f}"
    assert f"| bits per byte, held out | {summary['eval_bits_per_byte_before']:,.3f} |" in card.text
    assert f"| {after} |" in card.text
    assert "data: train.jsonl" in card.text
    assert str(base.parent) not in card.content


def test_of_an_expanded_and_pre_trained_model(
    pretrained: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """In 16 bits, with an adapter and rows on top of it: every stage in one model."""
    run = train(pretrained, files, tmp_path / "run", "--train-rows", "new")
    rows = load_rows(run / "rows.safetensors")
    record = export("--run", run, "--dtype", "bfloat16", "--output-dir", tmp_path / "out")
    assert record["adapter"]["trained_rows"] == len(rows.ids) > 0
    assert record["base"]["name"] == "base"  # by way of expansion.json and run.toml
    assert record["gate"]["texts"] > len(gate.TEXTS)  # the added words are among them
    for library in LIBRARIES:
        assert record["gate"][library]["relative"] < gate.ROUNDING["bfloat16"]
        assert record["gate"][library]["strength"] == pytest.approx(1, abs=gate.STRENGTH)
    assert record["gate"]["between_libraries"]["largest"] < gate.ABSOLUTE
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "ostras" in card.text
    expansion = (tmp_path / "out" / "expansion.json").read_text()
    assert json.loads(expansion)["base"]["name"] == "base"
    assert str(tmp_path.parent) not in expansion  # no directory of this machine


def test_a_pre_trained_run_is_exported_as_it_is(pretrained: Path, tmp_path: Path) -> None:
    done = speakeasy("export", "--run", pretrained, "--output-dir", tmp_path / "out")
    assert done.stdout == ""
    assert "0 of 21 tensors changed" in done.stderr
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["tensors"]["changed"] == 0
    assert record["adapter"] is None
    assert all(record["gate"][library]["largest"] < gate.ABSOLUTE for library in LIBRARIES)
    assert "Continued pre-training on raw text" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob("*.toml"))
    same = gather(str(pretrained), None, None)
    assert same.run is not None
    assert same.run.path == pretrained


def test_what_is_not_ready_or_does_not_belong_together_is_refused(
    quantised: Path, pretrained: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--run brings its own"):
        gather(None, quantised / "adapter", quantised)
    with pytest.raises(UsageError, match="a whole model; give it alone"):
        gather(str(base), None, pretrained)
    with pytest.raises(RunError, match=r"no run\.toml"):
        gather(None, None, base)
    shutil.copytree(quantised, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match="has not finished; finish the run with: speakeasy train"):
        gather(None, None, tmp_path / "run")
    # The run alone held its base in 4 bits, so the base at hand must be the one it says.
    other = tiny_llama(tmp_path / "other", vocab_size=VOCABULARY, tied=False, hidden=64, seed=4)
    save_tiny_tokenizer(other)
    with pytest.raises(AdapterError, match="overrule with --force"):
        gather(str(other), None, quantised)
    # Of an adapter whose base was stored quantised, no fingerprint can agree.
    lines: list[str] = []
    gather(str(other), quantised / "adapter", None, say=lines.append)
    assert any("only the shapes of this one were compared" in line for line in lines)


def _card(material: Material) -> str:
    record = {
        "versions": {"speakeasy": "1"},
        "dtype": "float32",
        "gate": {"prompts": 0},
        "parts": material.parts,
    }
    return card_text(material, record, "someone/voice")


def test_of_a_run_that_moved_between_backends(quantised: Path, tmp_path: Path) -> None:
    """Each form of the base is named, with the steps that ran on it."""
    run = tmp_path / "run"
    shutil.copytree(quantised, run)
    summary = json.loads((run / "summary.json").read_text())
    first = summary["parts"][0] | {"last_step": 2}
    then = first | {"first_step": 3, "last_step": 3, "backend": "mlx", "device": "gpu"}
    then |= {"quantization": None, "precision": "bfloat16"}
    summary |= {"parts": [first, then], "quantization": None}
    summary["measured_on"] = "the base in bfloat16"
    (run / "summary.json").write_text(json.dumps(summary))
    material = gather(None, None, run)
    assert material.forms == ("nf4", "bfloat16")
    card = _card(material)
    assert "Training held the base in nf4 and bfloat16;" in card
    assert "measured with the base in bfloat16." in card
    assert "steps 1 to 2 by backend torch" in card
    assert "steps 3 to 3 by backend mlx on gpu, bfloat16, base in bfloat16" in card


def test_a_forced_base_does_not_get_the_figures_of_another(
    quantised: Path, base: Path, tmp_path: Path
) -> None:
    other = tiny_llama(tmp_path / "other", vocab_size=VOCABULARY, tied=False, hidden=64, seed=4)
    save_tiny_tokenizer(other)
    material = gather(str(other), None, quantised, force=True)
    assert material.other_base == fingerprint(base)
    card = _card(material)
    assert fingerprint(base) in card
    assert fingerprint(other) in card
    assert "measured on another base, so they are left out" in card
    assert "bits per byte, held out" not in card
    assert "The figures below" not in card
    assert "| bits per byte, held out |" in _card(gather(None, None, quantised))


def test_a_model_that_is_gone_is_named(quantised: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(quantised, run)
    gone = str(tmp_path / "gone")
    plan = run / "run.toml"
    plan.write_text(plan.read_text().replace(str(quantised.with_name("base")), gone))
    with pytest.raises(ModelError) as caught:
        gather(None, None, run)
    assert str(caught.value) == (
        f"{run}: its base {gone} cannot be had (no such directory; check the path, or give a Hub "
        "id); where it has moved, give its place as --model"
    )


def test_both_spellings_of_the_rotary_embedding(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "old")
    edit_config(tmp_path / "old", rope_parameters=...)
    export("--model", tmp_path / "old", "--output-dir", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50_000
