from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.cli.doctor import _duration
from speakeasy.cli.main import main
from speakeasy.training import diagnosis
from speakeasy.training.backend import REGISTRY, Device, missing, select


def doctor(*words: object) -> Result:
    result = CliRunner().invoke(main, ["doctor", *(str(word) for word in words)])
    assert "Traceback" not in result.output
    return result


def facts(*words: object, status: int = 0) -> dict[str, Any]:
    result = doctor(*words, "--json")
    assert result.exit_code == status, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One that a test may change."""
    directory = tiny_llama(tmp_path / "model", vocab_size=VOCABULARY)
    save_tiny_tokenizer(directory)
    return directory


def change_config(model: Path, **changes: Any) -> None:
    """Set keys of config.json; None takes one away."""
    file = model / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_it_says_what_would_run() -> None:
    found = facts()
    chosen = select()
    assert (found["backend"], found["reason"]) == (chosen.name, chosen.reason)
    assert found["precision"] in ("float32", "bfloat16")
    assert found["device"]
    assert 0 < found["memory_available_bytes"] <= found["memory_bytes"]
    assert found["disk_free_bytes"] > 0
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["model_directory"] is None
    assert set(found["backends"]) == set(REGISTRY)
    for name, state in found["backends"].items():
        assert state["installed"] is not missing(name)
    assert found["problems"] == []


def test_a_model_is_found_and_described_but_not_loaded(tiny_directory: Path) -> None:
    found = facts("--model_name", tiny_directory)
    assert found["model_directory"] == str(tiny_directory)
    model = found["model"]
    assert (model["architecture"], model["supported"]) == ("llama", True)
    assert (model["layers"], model["vocabulary"]) == (2, VOCABULARY)
    assert "ChatML" in model["chat_template"]
    assert model["rope"] == {"theta": 50_000.0, "scaling": None, "spelling": "both"}
    assert model["training"]["fits"] is True
    assert model["training"]["trainable_parameters"] > 0


def test_the_report_is_the_result(tiny_directory: Path) -> None:
    result = doctor("--model", tiny_directory)
    assert result.exit_code == 0
    lines = dict(
        line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith(" ")
    )
    assert lines["backend"].startswith(f"{select().name} (")
    assert lines["directory"] == str(tiny_directory)  # in one line, however long
    assert "theta 50,000; spelled for transformers and for mlx-lm" in lines["rope"]
    assert "trainable parameters" in lines["training"]


def test_each_approach_is_costed_and_held_against_the_guide_s_cards(tiny_directory: Path) -> None:
    first, second = facts("--model", tiny_directory)["model"]["approaches"]
    assert (first["approach"], second["approach"]) == (1, 2)
    for approach in (first, second):
        for held in approach["held"]:
            assert held["fits"] is True
            assert 0 < held["seconds"] < 3600
            assert held["disk_bytes"] > 0
            assert all(card["fits"] for card in held["cards"])
    [only] = facts("--model", tiny_directory, "--approach", 2)["model"]["approaches"]
    assert only["work"] == second["work"]
    text = doctor("--model", tiny_directory, "--approach", 1).stdout
    assert "approach 1  LoRA on 1,000 conversations, 3 epochs" in text
    assert "approach 2" not in text
    assert "8 GB card: fits" in text
    assert "(within a factor of two)" in text


def test_an_approach_needs_a_model() -> None:
    refused = doctor("--approach", 1)
    assert refused.exit_code == 2
    assert "--approach 1: needs --model" in refused.stderr


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(89, "89 seconds"), (600, "10 minutes"), (7200, "2 hours"), (2.5e5, "3 days")],
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert _duration(seconds) == said


@pytest.mark.parametrize(
    ("changes", "spelling", "said"),
    [
        ({"rope_theta": None}, "rope_parameters", "mlx-lm by itself would take theta 10,000"),
        ({"rope_parameters": None}, "rope_theta", "which both libraries read"),
        ({"rope_theta": None, "rope_parameters": None}, "neither", "libraries' default"),
    ],
)
def test_the_spelling_of_the_rotary_embedding(
    changes: dict[str, Any], spelling: str, said: str, model: Path
) -> None:
    change_config(model, **changes)
    assert facts("--model", model)["model"]["rope"]["spelling"] == spelling
    assert said in doctor("--model", model).stdout


def test_an_unsupported_architecture_is_said_and_no_error(model: Path) -> None:
    change_config(model, model_type="gpt_neox")
    found = facts("--model", model)["model"]
    assert (found["architecture"], found["supported"], found["training"]) == (
        "gpt_neox", False, None,
    )  # fmt: skip
    assert "gpt_neox is not supported" in doctor("--model", model).stdout


def test_what_would_not_fit_is_told_with_the_way_out(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Device("cuda", "a small GPU", 10**6, "bfloat16", "it computes in bfloat16")
    backend = SimpleNamespace(describe_device=lambda: small, matmul_rate=lambda precision: 1e12)
    monkeypatch.setattr(diagnosis, "open_backend", lambda name: backend)
    found = facts("--model", tiny_directory)
    assert (found["device"], found["device_kind"]) == ("a small GPU", "cuda")
    assert found["model"]["training"]["fits"] is False
    assert "a small GPU has 0.0 GB free" in found["model"]["training"]["verdict"]
    assert "a small GPU has 0.0 GB free" in doctor("--model", tiny_directory).stdout


def test_a_model_that_cannot_be_used_is_a_problem_within_the_report(model: Path) -> None:
    missing_model = facts("--model", model / "nowhere", status=1)
    assert missing_model["model_directory"] is None
    assert missing_model["backend"] == select().name
    [problem] = missing_model["problems"]
    assert "no such directory" in problem
    change_config(model, rope_theta=1.0)
    [problem] = facts("--model", model, status=1)["problems"]
    assert "contradict each other" in problem
    shutil.rmtree(model)
    assert "problem " in doctor("--model", model).stdout


def test_without_a_backend_it_says_the_line_that_installs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _, needs in REGISTRY.values():
        for need in needs:
            monkeypatch.setitem(sys.modules, need.module, None)
    found = facts(status=1)
    assert found["backend"] is None
    assert "pip install 'speakeasy-lm[" in found["problems"][0]
    for state in found["backends"].values():
        assert (state["installed"], state["install"][:12]) == (False, "pip install ")


def test_a_broken_backend_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setattr(diagnosis, "open_backend", broken)
    [problem] = facts(status=1)["problems"]
    assert problem == (
        f"backend {select().name} is installed but cannot be used "
        "(libcudart.so.12: cannot open shared object file); install it again"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of MLX's Linux build")
@pytest.mark.parametrize("loaded", [True, False])
def test_openblas_is_advised_where_mlx_lacks_it(
    loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import speakeasy_mlx

    monkeypatch.setattr(speakeasy_mlx, "openblas_loaded", loaded)
    advised = any("libopenblas0-pthread" in line for line in facts()["advice"])
    assert advised is not loaded


def test_bitsandbytes_is_advised_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("cuda", "a GPU", 10**10, "bfloat16", "")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert not any("bitsandbytes" in line for line in facts()["advice"])
    backend = SimpleNamespace(describe_device=lambda: gpu)
    monkeypatch.setattr(diagnosis, "open_backend", lambda name: backend)
    assert any("'speakeasy-lm[cuda]'" in line for line in facts()["advice"])
