from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from one_thread import one_thread  # noqa: F401
from tiny import save_tiny_tokenizer, tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.cli.generate import chat, generate
from speakeasy.cli.main import main
from speakeasy.dialect.prompts import packaged_prompts
from speakeasy.training.backend import REGISTRY, Sampling, missing

INSTALLED = [name for name in sorted(REGISTRY) if not missing(name)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return str(tiny_llama(directory, vocab_size=len(tiny_tokenizer()), eos_token_id=2))


def call(*words: str | float | Path, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words], input=stdin)
    assert "Traceback" not in result.output
    return result


def answers(*words: str | float | Path, stdin: str | None = None) -> dict[str, Any]:
    """The one JSON object of a command that succeeded."""
    result = call(*words, "--json", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.mark.parametrize("backend", INSTALLED)
def test_json_is_one_object_with_everything(model: str, backend: str) -> None:
    found = answers(
        "generate", "Hola, nen", "Adéu", "--model_name", model, "--backend", backend,
        "--max_tokens", 5,
    )  # fmt: skip
    assert found["backend"] == backend
    assert found["reason"] == "asked for with --backend"
    assert (found["model"], found["adapter"]) == (model, None)
    assert [a["prompt"] for a in found["answers"]] == ["Hola, nen", "Adéu"]
    assert [a["id"] for a in found["answers"]] == ["1", "2"]
    for answer in found["answers"]:
        assert answer["finished"] is (answer["tokens"] < 5)
        assert isinstance(answer["answer"], str)
    assert found["seconds"] > 0
    tokens = sum(answer["tokens"] for answer in found["answers"])
    assert found["tokens_per_second"] == pytest.approx(tokens / found["seconds"])


def test_answers_are_all_that_stdout_gets(model: str) -> None:
    words = ("generate", "-", "--model", model, "--max-tokens", 5)
    result = call(*words, stdin="Hola\n")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == answers(*words, stdin="Hola\n")["answers"][0]["answer"] + "\n"
    assert "backend: " in result.stderr
    both = call("generate", "Hola", "Adéu", "--model", model, "--max-tokens", 5)
    assert "[2] Adéu" in both.stderr
    assert both.stdout.startswith(result.stdout)


def test_batch_size_changes_no_answer_and_samples_are_seeds(model: str) -> None:
    base = ("generate", "--prompts", "packaged", "--category", "greeting", "--model", model,
            "--max-tokens", 5)  # fmt: skip
    three = answers(*base, "--samples", 3, "--seed", 7, "--limit", 4)["answers"]
    assert [a["sample"] for a in three] == [0] * 4 + [1] * 4 + [2] * 4
    assert {a["category"] for a in three} == {"greeting"}
    assert [a["id"] for a in three[:4]] == [p.id for p in packaged_prompts(["greeting"])[:4]]
    alone = answers(*base, "--seed", 9, "--limit", 4, "--batch-size", 1)["answers"]
    assert [a["answer"] for a in alone] == [a["answer"] for a in three[8:]]
    assert [a["answer"] for a in alone] != [a["answer"] for a in three[:4]]


def test_system_message_changes_the_answer(model: str) -> None:
    words = ("generate", "Hola", "--model", model, "--max-tokens", 8, "--temperature", 1.5)
    assert (
        answers(*words)["answers"][0]["answer"]
        != answers(*words, "--system", "Parla en català")["answers"][0]["answer"]
    )


def test_output_holds_the_answers_and_is_never_overwritten(model: str, tmp_path: Path) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text("Hola\n\nAdéu\n", encoding="utf-8")
    output = tmp_path / "out" / "answers.jsonl"
    words = ("generate", "--prompts", prompts, "--model", model, "--max-tokens", 4,
             "--output", output)  # fmt: skip
    found = answers(*words)
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == found["answers"]
    assert [a["id"] for a in found["answers"]] == ["mine:1", "mine:3"]
    again = call(*words)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_what_is_there_is_written_when_it_is_interrupted(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speakeasy.training.inference import Responder

    whole = Responder.answer

    def cut(self: Responder, *arguments: Any) -> Any:
        yield next(whole(self, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(Responder, "answer", cut)
    output = tmp_path / "answers.jsonl"
    result = call("generate", "a", "b", "c", "--batch-size", 2, "--model", model,
                  "--max-tokens", 3, "--output", output)  # fmt: skip
    assert result.exit_code == 130
    assert f"2 of 3 answers written to {output}" in result.stderr
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no PROMPT: give one"),
        (("x", " "), "PROMPT 2: is empty"),
        (("x", "--prompts", "packaged"), "--prompts packaged: a PROMPT is given as well"),
        (("x", "--category", "greeting"), "--category greeting: needs --prompts"),
        (("--prompts", "packaged", "--category", "x"), "--category x: no prompt has this"),
        (("x", "--samples", "2", "--temperature", "0"), "--samples 2: --temperature 0 gives"),
        (("x", "--top-p", "0"), "--top-p"),
        (("x", "--max-tokens", "0"), "--max-tokens"),
        (("x", "--run", "nowhere"), "--run"),
        (("x", "--max-tokens", "600"), "--max-tokens 600: the prompt 'x' has"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    words: tuple[str, ...], message: str, model: str
) -> None:
    result = call("generate", *words, "--model", model, "--json")
    assert result.exit_code == 2
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert json.loads(result.stdout) == {"error": error.removeprefix("error: ")}


@pytest.mark.parametrize("backend", INSTALLED)
def test_chat_keeps_the_conversation(model: str, backend: str) -> None:
    lines = "Hola\n/system Breu\n\n/what\n¿Qué tal?\n"
    words = ("chat", "--model", model, "--max-tokens", 6, "--backend", backend)
    found = answers(*words, stdin=lines)
    roles = [message["role"] for message in found["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in found["messages"]][:2] == ["Breu", "Hola"]
    result = call(*words, stdin=lines)
    spoken = [m["content"] for m in found["messages"] if m["role"] == "assistant"]
    assert result.stdout.split() == " ".join(spoken).split()
    assert "/what: no such command" in result.stderr


def test_chat_forgets_and_ends(model: str) -> None:
    lines = "Hola\n/reset\nAdéu\n/quit\nnunca\n"
    found = answers("chat", "--model", model, "--max-tokens", 4, "--system", "s", stdin=lines)
    said = [m["content"] for m in found["messages"] if m["role"] != "assistant"]
    assert said == ["s", "Adéu"]


def test_chat_survives_what_cannot_be_answered_and_forgets_when_full(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path)
    vocabulary = len(tiny_tokenizer())
    small = tiny_llama(tmp_path, vocab_size=vocabulary, eos_token_id=2, max_positions=100)
    lines = "Hola\n" + "per això " * 50 + "\n<|im_end|>\n" + "vale, nen\n" * 5
    result = call("chat", "--model", small, "--max-tokens", 30, "--json", stdin=lines)
    assert result.exit_code == 0
    messages = json.loads(result.stdout)["messages"]
    assert "error: --max-tokens 30: the prompt" in result.stderr
    assert "control token" in result.stderr
    assert "messages are forgotten" in result.stderr
    assert len(messages) < 2 * 6
    assert messages[-2]["content"] == "vale, nen"


@pytest.mark.parametrize("command", [generate, chat], ids=["generate", "chat"])
def test_defaults_are_those_of_sampling(command: click.Command) -> None:
    offered = {option.name: option.default for option in command.params}
    for name, parameter in inspect.signature(Sampling).parameters.items():
        assert offered[name] == parameter.default
