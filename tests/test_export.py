"""``speakeasy export`` as a user runs it, on tiny models, and the gate that it has to pass.

The gate's own processes are the proof that plain transformers and plain mlx-lm load an export. Here
they are seen to run, to be believed, and to refuse what was tampered with.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli import speakeasy, start
from huggingface_hub import ModelCard
from libraries import with_peft
from model_files import edit_config, store, tensors_of
from one_thread import one_thread  # noqa: F401
from test_fuse import TOKENS, _mlx_lm, _transformers, adapter_for
from test_fuse_kinds import of_ends, with_dora, with_patterns
from tiny import CHATML, VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.errors import AdapterError, ModelError, SpeakeasyError, UsageError
from speakeasy.export import build, gate, publish
from speakeasy.export.libraries import LIBRARIES, Question, Reply
from speakeasy.export.material import base_name, gather, license_of
from speakeasy.export.reference import reference_logits
from speakeasy.weights.adapters import write_peft
from speakeasy.weights.checkpoint import fingerprint
from speakeasy.weights.hub import ModelDirectory, load_tokenizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer has no chat template."""
    directory = tmp_path_factory.mktemp("base") / "model"
    tiny_llama(directory, vocab_size=VOCABULARY, embedding_scale=0.2)
    save_tiny_tokenizer(directory, template=None)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# The base\n")
    return directory


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    directory = model.with_name("adapter")
    directory.mkdir()
    write_peft(adapter_for(model, base_fingerprint=fingerprint(model)), directory)
    return directory


@pytest.fixture(scope="module")
def exported(model: Path, adapter: Path) -> tuple[Path, dict[str, Any]]:
    """The adapter merged, in float32, with a 4-bit copy and a GGUF file; and what was printed."""
    out = model.with_name("out")
    done = speakeasy(
        "export", "--model", model, "--adapter", adapter, "--output_dir", out,
        "--mlx-4bit", "--gguf", "--json",
    )  # fmt: skip
    return out, done.result


def test_every_library_loaded_it(exported: tuple[Path, dict], model: Path) -> None:
    out, printed = exported
    record = json.loads((out / "export.json").read_text())
    assert printed == {"output_dir": str(out), **record}
    for library in LIBRARIES:
        assert record["gate"][library]["largest"] < gate.ABSOLUTE
        assert record["gate"][library]["version"]
    assert record["gate"]["between_libraries"]["largest"] < gate.ABSOLUTE
    assert record["tensors"] == {"all": 20, "changed": 14}
    assert record["fingerprint"] == fingerprint(out)
    assert record["base"] == {"name": "model"}
    assert record["model"] == {"name": "model", "fingerprint": fingerprint(model)}
    assert record["adapter"]["other_base"] is None


def test_its_logits_are_those_of_base_and_adapter(
    exported: tuple[Path, dict], model: Path, adapter: Path
) -> None:
    apart = with_peft(model, adapter)(TOKENS)
    for logits in (_transformers(exported[0]), _mlx_lm(exported[0])):
        np.testing.assert_allclose(logits, apart, atol=1e-4)


def test_the_template_that_training_used_comes_with_it(exported: tuple[Path, dict]) -> None:
    tokenizer = load_tokenizer(exported[0])
    assert tokenizer.chat_template == CHATML
    said = json.loads((exported[0] / "generation_config.json").read_text())
    assert said["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert exported[1]["stop"] == ["<|im_end|>"]


def test_the_card_holds_what_the_hub_wants(exported: tuple[Path, dict]) -> None:
    card = ModelCard.load(exported[0] / "README.md")
    assert card.data.language == ["es", "ca"]
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {"speakeasy", "lora", "gguf"} <= set(card.data.tags)
    for library in LIBRARIES:
        largest = exported[1]["gate"][library]["largest"]
        assert f"{library} {exported[1]['gate'][library]['version']} | {largest:.2g} |" in card.text
    assert str(exported[0].parent) not in card.content
    assert (exported[0] / "README-base.md").is_file()


def test_a_4_bit_copy_is_reported_and_not_held_to_the_tolerance(
    exported: tuple[Path, dict],
) -> None:
    found = exported[1]["mlx_4bit"]
    config = json.loads((exported[0] / "mlx-4bit" / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert gate.ABSOLUTE < found["largest"] < np.inf


def test_the_export_can_be_exported_again(exported: tuple[Path, dict], tmp_path: Path) -> None:
    material = gather(str(exported[0]), None, None)
    assert material.base == "model"
    assert material.adapter is None


@pytest.mark.parametrize("kind", ["lora", "dora", "patterns", "embedding"])
def test_the_reference_is_base_and_adapter_apart(model: Path, tmp_path: Path, kind: str) -> None:
    """By a backend, or by PEFT where no backend loads the adapter; PEFT in this process agrees."""
    made = {
        "lora": lambda: adapter_for(model),
        "dora": lambda: with_dora(adapter_for(model), model),
        "patterns": lambda: with_patterns(adapter_for(model)),
        "embedding": lambda: of_ends(model, "model.embed_tokens"),
    }[kind]()
    write_peft(made, tmp_path, tied=True)
    material = gather(str(model), tmp_path, None)
    question = Question((), (), tuple(tuple(row) for row in TOKENS.tolist()))
    (found,) = reference_logits(material, question)
    np.testing.assert_allclose(found[None], with_peft(model, tmp_path)(TOKENS), atol=1e-4)


def test_where_a_model_is_from_is_followed_through_its_records(model: Path, tmp_path: Path) -> None:
    def directory(name: str, **records: dict[str, Any]) -> Path:
        (tmp_path / name).mkdir()
        for record, content in records.items():
            (tmp_path / name / f"{record}.json").write_text(json.dumps(content))
        return tmp_path / name

    def said(path: Path) -> tuple[str, str]:
        found = ModelDirectory(path, str(path), "")
        return base_name(found), license_of(found)

    assert said(model) == ("model", "apache-2.0")
    expanded = directory(
        "expanded", expansion={"base": {"name": str(model), "source": "local directory"}}
    )
    assert said(expanded) == ("model", "apache-2.0")
    hub = {"name": "meta-llama/Llama-3.2-1B", "source": "from the Hugging Face Hub"}
    assert said(directory("of-hub", expansion={"base": hub})) == (hub["name"], "other")
    gone = {"name": "models/gone", "source": "local directory models/gone"}
    assert said(directory("of-gone", expansion={"base": gone})) == ("of-gone", "other")
    again = directory("again", export={"base": {"name": "meta-llama/Llama-3.2-1B"}})
    (again / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    assert said(again) == ("meta-llama/Llama-3.2-1B", "llama3.2")
    starter = directory("starter", source={"license": "Apache-2.0"})
    assert said(starter) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    circle = directory("circle")
    (circle / "expansion.json").write_text(json.dumps({"base": {"name": str(circle)}}))
    assert said(circle) == ("circle", "other")


# --- what is refused -------------------------------------------------------------------------


def _zeroed(folder: Path) -> None:
    tensors = tensors_of(folder)
    tensors["model.layers.1.mlp.up_proj.weight"][:8] = 0
    store(folder, tensors)


def _other_theta(folder: Path) -> None:
    edit_config(folder, rope_theta=10_000.0, rope_parameters=...)


@pytest.mark.parametrize("tamper", [_zeroed, _other_theta])
def test_tampering_after_the_fuse_is_found_and_nothing_is_left(
    model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[Path], None],
) -> None:  # fmt: skip
    honest = build.write_papers

    def tampered(source: Path, folder: Path, tokenizer: Any) -> dict[str, Any]:
        tamper(folder)
        return honest(source, folder, tokenizer)

    monkeypatch.setattr(build, "write_papers", tampered)
    done = speakeasy(
        "export", "--model", model, "--adapter", adapter, "--output-dir", tmp_path / "out",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "logits differ from those of base and adapter by up to" in done.stderr
    assert not list(tmp_path.iterdir())


LOGITS = np.random.default_rng(0).standard_normal((2, 5, 50)).astype(np.float32)


def test_a_missing_adapter_is_found_in_the_rounding_of_16_bits(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    """An export without the adapter, of which the effect is 4% of the logits' spread."""
    generator = np.random.default_rng(1)
    unadapted, reference = list(LOGITS), list(LOGITS + 0.04 * generator.standard_normal((2, 5, 50)))
    rounded = [
        tuple(part + 0.01 * generator.standard_normal(part.shape) for part in whole)
        for whole in (unadapted, reference)
    ]
    effect = gate.difference(unadapted, reference)
    assert effect.relative == pytest.approx(0.04, rel=0.1)
    for without, theirs in zip((True, False), rounded, strict=True):
        found = gate.difference(reference, theirs)
        gate.require_near("any", found, "bfloat16")  # by itself no reason to refuse
        share = gate.strength(unadapted, reference, theirs)
        assert share == pytest.approx(0 if without else 1, abs=0.1)
        if without:
            with pytest.raises(ModelError, match=r"holds .* times what the adapter does"):
                gate._require_adapter("any", share, effect, "bfloat16")
        else:
            gate._require_adapter("any", share, effect, "bfloat16")


def test_differences_are_what_they_are_called() -> None:
    moved = LOGITS + np.float32(0.5)  # a shift of all logits changes no probability
    found = gate.difference(list(LOGITS), list(moved))
    assert found.largest == pytest.approx(0.5, abs=1e-6)
    assert found.divergence == pytest.approx(0, abs=1e-9)
    assert found.scale == pytest.approx(np.abs(LOGITS).max())
    p, q = (np.exp(x) / np.exp(x).sum(2, keepdims=True) for x in (LOGITS, -LOGITS))
    found = gate.difference(list(LOGITS), list(-LOGITS))
    assert found.divergence == pytest.approx((p * np.log(p / q)).sum(2).max(), rel=1e-5)
    assert found.relative == pytest.approx(2, rel=0.1)
    with pytest.raises(ModelError, match="finite"):
        gate.difference(list(LOGITS), list(LOGITS * np.nan))


@pytest.mark.parametrize(
    ("dtype", "relative", "refused"),
    [("float32", 1e-5, True), ("bfloat16", 0.04, False), ("bfloat16", 0.06, True),
     ("float16", 0.009, False), ("float16", 0.02, True)],
)  # fmt: skip
def test_tolerances(dtype: Any, relative: float, refused: bool) -> None:
    found = gate.Difference(largest=0.3, relative=relative, divergence=0.0, scale=20.0)
    if refused:
        with pytest.raises(ModelError, match="nothing was written"):
            gate.require_near("any", found, dtype)
    else:
        gate.require_near("any", found, dtype)


@pytest.mark.parametrize("what", ["ids", "texts", "chat"])
def test_another_tokenizer_is_refused(exported: tuple[Path, dict], what: str) -> None:
    tokenizer = load_tokenizer(exported[0])
    question = gate.question_for(exported[0], tokenizer)
    ids = [tokenizer(text).input_ids for text in question.texts]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    chat = list(question.prompts[-1])
    reply = Reply("1", ids, texts, chat, "", [])
    gate.require_same_ids("any", question, reply, tokenizer)
    wrong: dict[str, Any] = {
        "ids": [*ids[:-1], ids[-1][1:]],
        "texts": [*texts[:-1], texts[-1] + "?"],
        "chat": chat[1:],
    }
    with pytest.raises(ModelError, match=r"^any (encodes|decodes|lays out) "):
        gate.require_same_ids("any", question, replace(reply, **{what: wrong[what]}), tokenizer)


def test_two_libraries_that_load_it_differently_are_refused(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    """Each within the tolerance of 16 bits, but the same weights give the same logits."""
    from contextlib import contextmanager

    tokenizer = load_tokenizer(model)
    question = Question((), (), ((1,) * 5, (1,) * 5))
    answers = {"transformers": LOGITS, "mlx-lm": LOGITS + 0.01}

    @contextmanager
    def asked(library: str, folder: Path, question: Question) -> Any:
        yield Reply("1", [], [], gate._chat(tokenizer), "", list(answers[library]))

    monkeypatch.setattr(gate, "asked", asked)
    with pytest.raises(ModelError, match=r"load the same export and differ by up to 0\.01"):
        gate.check(model, tokenizer, question, list(LOGITS), "bfloat16")
    answers["mlx-lm"] = LOGITS
    record = gate.check(model, tokenizer, question, list(LOGITS), "bfloat16")
    assert record["between_libraries"]["largest"] == 0


def test_another_base_is_refused_unless_forced(model: Path, adapter: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", vocab_size=VOCABULARY, seed=9)
    save_tiny_tokenizer(other)
    with pytest.raises(AdapterError, match="give that one as --model, or overrule with --force"):
        gather(str(other), adapter, None)
    lines: list[str] = []
    material = gather(str(other), adapter, None, force=True, say=lines.append)
    assert material.fingerprint == fingerprint(other)
    assert any("taken with --force" in line for line in lines)


def test_an_adapter_without_a_base_needs_one(model: Path, tmp_path: Path) -> None:
    write_peft(adapter_for(model), tmp_path)
    config = tmp_path / "adapter_config.json"
    nameless = json.loads(config.read_text()) | {"base_model_name_or_path": None}
    config.write_text(json.dumps(nameless))
    (tmp_path / "speakeasy.json").unlink(missing_ok=True)
    with pytest.raises(AdapterError, match="does not name its base, which is needed; give --model"):
        gather(None, tmp_path, None)


def test_a_summary_of_something_else_makes_no_run(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "summary.json").write_text('{"accuracy": 1}')
    assert gather(str(tmp_path / "model"), None, None).run is None


def test_a_readme_without_metadata_says_nothing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(model, tmp_path / "model")
    found = ModelDirectory(tmp_path / "model", str(tmp_path / "model"), "")
    monkey = logging.getLogger("huggingface_hub")
    monkey.addHandler(caplog.handler)
    try:
        for text in ("# No metadata\n", "---\n: [broken\n---\n"):
            (tmp_path / "model" / "README.md").write_text(text)
            assert license_of(found) == "other"
    finally:
        monkey.removeHandler(caplog.handler)
    assert not caplog.records


def test_wrong_usage(model: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--run: missing"):
        gather(None, None, None)
    assert speakeasy("export", "--model", model, check=False).returncode == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = speakeasy("export", "--model", model, "--output-dir", tmp_path / "full", check=False)
    assert "already exists and is not empty" in done.stderr
    done = speakeasy(
        "export", "--model", model, "--output-dir", tmp_path / ("n" * 300), check=False
    )
    assert done.stderr.splitlines()[-1].endswith(
        "File name too long; nothing was written; choose another --output-dir"
    )
    done = speakeasy("export", "--model", model, "--gguf", "foo", check=False)
    assert done.returncode == 2
    assert "'bf16', 'q8_0'" in done.stderr


def test_too_little_room(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: free)
    with pytest.raises(SpeakeasyError, match=r"needs 0\.1 GB, but only 0\.0 GB are free"):
        build.export_model(gather(str(model), None, None), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_terminated_in_the_middle_nothing_is_left(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "place" / "out"
    process = start(
        "export", "--model", model, "--adapter", adapter, "--output-dir", out, "--mlx-4bit"
    )
    while process.poll() is None and not (out.parent.is_dir() and any(out.parent.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.strip().splitlines()[-1] == "error: stopped"
    assert not any(out.parent.iterdir())


def test_quantised_models_are_refused(model: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", vocab_size=VOCABULARY)
    save_tiny_tokenizer(tmp_path / "model")
    edit_config(tmp_path / "model", quantization={"group_size": 64, "bits": 4})
    with pytest.raises(ModelError, match="fuse into the full-precision model"):
        build.export_model(gather(str(tmp_path / "model"), None, None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the Hub ---------------------------------------------------------------------------------


class Hub:
    """What ``HfApi`` is asked, in the place of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def create_repo(self, repo_id: str, **how: Any) -> Any:
        self.calls.append(("create_repo", {"repo_id": repo_id, **how}))
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, **how: Any) -> Any:
        self.calls.append(("upload_folder", how))
        if self.error:
            raise self.error
        return SimpleNamespace(commit_url=f"https://hub.example/{how['repo_id']}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    return fake


def test_a_push_makes_a_private_repository_and_uploads_the_whole(hub: Hub, tmp_path: Path) -> None:
    assert publish.push(tmp_path, "someone/voice").endswith("someone/voice/commit/1")
    (made, settings), (sent, what) = hub.calls
    assert (made, sent) == ("create_repo", "upload_folder")
    assert settings == {"repo_id": "someone/voice", "private": True, "exist_ok": True}
    assert (what["repo_id"], what["folder_path"]) == ("someone/voice", tmp_path)


def test_the_card_of_a_push_loads_from_the_hub(hub: Hub, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "local"
    speakeasy("export", "--model", model, "--output-dir", out, "--push-to-hub", "someone/voice")
    card = (out / "README.md").read_text()
    assert "\n# voice\n" in card
    assert card.count('from_pretrained("someone/voice")') == 2
    assert "mlx_lm.generate --model someone/voice " in card
    assert "local" not in card


def test_a_push_that_fails_says_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    hub.error = RuntimeError("503 Service Unavailable\nmore")
    with pytest.raises(SpeakeasyError) as caught:
        publish.push(tmp_path, "someone/voice")
    assert str(caught.value).endswith(f"hf upload someone/voice {tmp_path}")
    assert "503 Service Unavailable;" in str(caught.value)


def test_a_push_needs_a_name_and_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish.check_repository("someone/voice")
    with pytest.raises(UsageError, match="not a Hub name"):
        publish.check_repository("a b")
    with pytest.raises(UsageError, match="expected OWNER/NAME"):
        publish.check_repository("voice")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="no token; run hf auth login"):
        publish.check_repository("someone/voice")
