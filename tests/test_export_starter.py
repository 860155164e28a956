"""The starter model through every stage, as one export: expanded, pre-trained, trained, fused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli import alone
from training_runs import write_conversations

from speakeasy.export import gate

pytestmark = [pytest.mark.starter, pytest.mark.timeout(1500)]

_PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Say hello."}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
assert not [name for name in sys.modules if name.startswith("speakeasy")]
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A few steps of each stage, on little text, then the export in float32 with a GGUF file."""
    root = tmp_path_factory.mktemp("starter")
    (root / "words.txt").write_text("ostras\nadéu\n", encoding="utf-8")
    corpus = root / "corpus.txt"
    corpus.write_text("Ostras, nen! Adéu.\n\nAdéu, ostras, que llueve.\n" * 4, encoding="utf-8")
    train, held_out = write_conversations(root, 2, 1)
    alone(
        "vocab", "expand", "--words", root / "words.txt", "--mode", "merges",
        "--allow-collateral", 5, "--output-dir", root / "expanded", threads=0,
    )  # fmt: skip
    short = ("--max-steps", 1, "--max-length", 128, "--backend", "torch", "--lora-r", 4)
    alone(
        "pretrain", "--model", root / "expanded", "--corpus-path", corpus, "--eval-path", corpus,
        "--replay-path", corpus, "--output-dir", root / "pretrained", *short, threads=0,
    )  # fmt: skip
    alone(
        "train", "--model", root / "pretrained", "--train-file", train, "--eval-file", held_out,
        "--train-rows", "new", "--output-dir", root / "run", "--use-4bit",
        *short[:2], "--max-length", 512, *short[4:], threads=0,
    )  # fmt: skip
    done = alone(
        "export", "--run", root / "run", "--output-dir", root / "out", "--gguf", "--json",
        threads=0,
    )  # fmt: skip
    return root / "out", done.result


def test_both_libraries_give_the_logits_of_base_and_adapter(exported: tuple[Path, dict]) -> None:
    found = exported[1]["gate"]
    for library in ("transformers", "mlx-lm"):
        assert found[library]["largest"] < gate.ABSOLUTE
    assert found["between_libraries"]["largest"] < gate.ABSOLUTE
    assert exported[1]["gguf"]["largest"] < gate.ABSOLUTE
    assert exported[1]["adapter"]["trained_on"] == "nf4"
    assert exported[1]["adapter"]["trained_rows"] > 0
    assert exported[1]["base"]["name"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_plain_transformers_answers_from_its_template(exported: tuple[Path, dict]) -> None:
    out, record = exported
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(out)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip()
    said = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert said == 2  # <|im_end|>, which ends a turn and is the end of sequence here
    assert record["gate"]["transformers"]["answer"]
    # The likeliest tokens are the same in both libraries, so the answers are.
    assert record["gate"]["transformers"]["answer"] == record["gate"]["mlx-lm"]["answer"]
