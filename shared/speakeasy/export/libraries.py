"""An export as the libraries themselves load it, each in a process that knows nothing else.

The programs below import one library and nothing of speakeasy, and say so: what they can do with
the directory, anyone can. Weights are held in float32, so that what is seen is what is stored, and
not the rounding of the arithmetic.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import BackendError, ModelError

_BEGIN = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
request = json.load(sys.stdin)
directory, stream, sys.stdout = request["directory"], sys.stdout, sys.stderr
def save(number, logits):
    np.save(Path(request["logits"]) / f"{number}.npy", logits)
"""

_END = """
own = [name for name in sys.modules if name.partition(".")[0].startswith("speakeasy")]
answer = {"ids": ids, "texts": texts, "chat": chat, "answer": said, "version": version, "own": own}
json.dump(answer, stream)
"""

_TRANSFORMERS = """
try:
    import numpy as np, torch, transformers
except (ImportError, OSError) as error:
    json.dump({"unavailable": str(error)}, stream)
    sys.exit()
version = transformers.__version__
how = {"dtype": torch.float32}
if request["gguf"]:
    how |= {"gguf_file": request["gguf"]}
    how |= {"quantization_config": transformers.GgufConfig(dequantize=True)}
model = transformers.AutoModelForCausalLM.from_pretrained(directory, **how).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
ids = [tokenizer(text).input_ids for text in request["texts"]]
texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
prompt = tokenizer.apply_chat_template(
    request["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
chat = prompt["input_ids"][0].tolist()
with torch.no_grad():
    for number, row in enumerate(request["prompts"]):
        save(number, model(input_ids=torch.tensor([row])).logits[0].float().numpy())
    made = model.generate(
        **prompt, do_sample=False, max_new_tokens=request["new_tokens"],
        pad_token_id=tokenizer.pad_token_id or 0,
    )
said = tokenizer.decode(made[0, len(chat):], skip_special_tokens=True)
"""

_MLX_LM = """
try:
    import numpy as np, mlx.core as mx, mlx_lm
except (ImportError, OSError) as error:
    json.dump({"unavailable": str(error)}, stream)
    sys.exit()
version = mlx_lm.__version__
model, tokenizer = mlx_lm.load(directory)
model.set_dtype(mx.float32)
ids = [tokenizer.encode(text) for text in request["texts"]]
texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
chat = list(tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True))
for number, row in enumerate(request["prompts"]):
    save(number, np.array(model(mx.array([row]))[0].astype(mx.float32)))
said = mlx_lm.generate(model, tokenizer, prompt=chat, max_tokens=request["new_tokens"])
"""

_PEFT = """
try:
    import numpy as np, peft, torch, transformers
except (ImportError, OSError) as error:
    json.dump({"unavailable": str(error)}, stream)
    sys.exit()
base = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
model = peft.PeftModel.from_pretrained(base, request["adapter"]).eval()
with torch.no_grad():
    for number, row in enumerate(request["prompts"]):
        save(number, model(input_ids=torch.tensor([row])).logits[0].float().numpy())
json.dump({}, stream)
"""

_QUANTIZE = """
import json, sys
request = json.load(sys.stdin)
from mlx_lm import convert
convert(request["source"], request["target"], quantize=True, q_bits=4,
        q_group_size=request["group_size"])
"""

_PROGRAMS = {
    "transformers": ("torch", _BEGIN + _TRANSFORMERS + _END),
    "mlx-lm": ("mlx_lm", _BEGIN + _MLX_LM + _END),
}
LIBRARIES = tuple(_PROGRAMS)


@dataclass(frozen=True, slots=True)
class Question:
    """What a library is asked.

    Attributes:
        texts: to be tokenized, with special tokens as the tokenizer puts them, and decoded again.
        messages: a chat, to be laid out by the exported template and answered.
        prompts: token ids whose logits are wanted.
        new_tokens: longest answer, in tokens; the likeliest token is taken each time.
    """

    texts: tuple[str, ...]
    messages: tuple[Mapping[str, str], ...]
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """What it answered.

    Attributes:
        version: the library's.
        ids: of each text.
        texts: these ids decoded.
        chat: ids of the chat, ready for an answer.
        answer: the answer's text.
        logits: logits_TV float32 of each prompt; memory-mapped, gone with the context.
    """

    version: str
    ids: list[list[int]]
    texts: list[str]
    chat: list[int]
    answer: str
    logits: list[np.ndarray]


def available(library: str) -> bool:
    """Whether a library is installed, as far as can be told without loading it."""
    return importlib.util.find_spec(_PROGRAMS[library][0]) is not None


def require_mlx_lm() -> None:
    """Raise BackendError where mlx-lm is not installed."""
    if not available("mlx-lm"):
        raise BackendError(
            "--mlx-4bit: mlx-lm is not installed; install it with: pip install 'speakeasy-lm[mlx]'"
        )


@contextmanager
def asked(
    library: str, directory: Path, question: Question, *, gguf: str | None = None
) -> Iterator[Reply | str]:
    """A library's answer about a model directory, from a process of its own.

    Args:
        library: one of ``LIBRARIES``.
        directory: the model.
        question: what is wanted.
        gguf: name of a GGUF file in the directory, to be taken for the weights.

    Yields:
        The answer; or the reason why the library cannot be loaded on this machine.

    Raises:
        ModelError: it cannot load the model, or breaks off.
    """
    with tempfile.TemporaryDirectory(prefix="speakeasy-logits-") as scratch:
        request = {
            "directory": str(directory.resolve()),
            "texts": question.texts,
            "messages": question.messages,
            "prompts": question.prompts,
            "new_tokens": question.new_tokens,
            "logits": scratch,
            "gguf": gguf,
        }
        said = json.loads(_run(library, _PROGRAMS[library][1], request))
        if "unavailable" in said:
            yield str(said["unavailable"])
            return
        assert not said["own"], f"{library}'s process imports {said['own']}"
        yield Reply(
            version=said["version"],
            ids=said["ids"],
            texts=said["texts"],
            chat=said["chat"],
            answer=said["answer"].strip(),
            logits=[
                np.load(Path(scratch) / f"{number}.npy", mmap_mode="r")
                for number in range(len(question.prompts))
            ],
        )


def logits_by_peft(
    model: Path, adapter: Path, prompts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Logits_TV float32 of a base and an adapter in PEFT's format, as transformers and PEFT load
    them, in a process of its own.

    Raises:
        BackendError: PEFT is not installed.
        ModelError: it cannot load them.
    """
    with tempfile.TemporaryDirectory(prefix="speakeasy-logits-") as scratch:
        request = {"directory": str(model), "adapter": str(adapter), "prompts": prompts}
        said = json.loads(_run("PEFT", _BEGIN + _PEFT, request | {"logits": scratch}))
        if "unavailable" in said:
            raise BackendError(
                "an adapter of the embedding or the output matrix is compared with PEFT, which "
                f"cannot be loaded ({said['unavailable']}); install it with: pip install "
                "'speakeasy-lm[torch]'"
            )
        return [np.load(Path(scratch) / f"{number}.npy") for number in range(len(prompts))]


def quantize_with_mlx(source: Path, target: Path, group_size: int) -> None:
    """A 4-bit copy of a model for MLX, made by mlx-lm's own ``convert``.

    Args:
        source: the model in full precision.
        target: a directory that does not exist yet.
        group_size: weights that share a scale; divides every matrix's width.

    Raises:
        BackendError: mlx-lm is not installed.
        ModelError: mlx-lm refuses the model.
    """
    require_mlx_lm()
    request = {"source": str(source.resolve()), "target": str(target.resolve())}
    _run("mlx-lm", _QUANTIZE, request | {"group_size": group_size})


def _run(library: str, program: str, request: Mapping[str, Any]) -> str:
    """What a program prints on its standard output, given a request on its standard input."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program], input=json.dumps(request), env=environment,
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if ran.returncode:
        lines = [line for line in ran.stderr.strip().splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {ran.returncode}"
        raise ModelError(f"{library} cannot load the export: {reason}; nothing was written")
    return ran.stdout
