"""The last of the proof: what was written, as the libraries themselves load it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.errors import ModelError
from speakeasy.vocab.compare import sentences
from speakeasy.weights.hub import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from speakeasy.vocab.expand import Expansion

_CHAT = [
    {"role": "user", "content": "2 + 2 = ?"},
    {"role": "assistant", "content": "4."},
]
"""Without a letter, so without an added word: encodes as before, control tokens included."""

_SAMPLE = 200

_ASK_MLX = """
import json, sys
from pathlib import Path
request = json.load(sys.stdin)
try:
    import mlx_lm
    from mlx_lm.utils import load_tokenizer
except ImportError as error:
    json.dump({"unavailable": str(error)}, sys.stdout)
    sys.exit()
tokenizer = load_tokenizer(Path(request["directory"]))
ids = [tokenizer.encode(text, add_special_tokens=False) for text in request["texts"]]
json.dump({"ids": ids, "version": mlx_lm.__version__}, sys.stdout)
"""


def check_loaded(expansion: Expansion, directory: Path) -> dict[str, Any]:
    """Compare the tokenizer that was written, as each library loads it, with the plan.

    Every new entry alone and inside of a text, and a sample of sentences, must get the ids that the
    plan gives them; special tokens around a text and the chat template must give the ids that they
    gave before.

    Args:
        expansion: the plan.
        directory: holds the new tokenizer's files, and ``config.json``.

    Returns:
        Library to what was found, for ``expansion.json``. mlx-lm is asked in a process of its own,
        and left out, with the reason, where it is not installed.

    Raises:
        ModelError: a library gives other ids.
    """
    texts = [text for token in expansion.added for text in (token.form, f"({token.form} 1,")]
    texts += sentences()[:_SAMPLE]
    expected = [
        item.ids for item in expansion.new.encode_batch_fast(texts, add_special_tokens=False)
    ]
    loaded = load_tokenizer(directory)
    found = loaded(texts, add_special_tokens=False, verbose=False)["input_ids"]
    _require_same("transformers", texts, found, expected)
    _require_same_frame(expansion, loaded)
    report: dict[str, Any] = {
        "transformers": {"version": version("transformers"), "texts_with_the_same_ids": len(texts)}
    }
    answer = _ids_by_mlx(directory, texts)
    if "unavailable" in answer:
        return report | {"mlx-lm": {"not_checked": answer["unavailable"]}}
    _require_same("mlx-lm", texts, answer["ids"], expected)
    return report | {
        "mlx-lm": {"version": answer["version"], "texts_with_the_same_ids": len(texts)}
    }


def _require_same(
    library: str, texts: Sequence[str], found: list[list[int]], expected: list[list[int]]
) -> None:
    for text, ids, planned in zip(texts, found, expected, strict=True):
        if ids != planned:
            raise ModelError(
                f"{library} encodes {text[:60]!r} as {ids[:8]} with the saved tokenizer; expected "
                f"{planned[:8]}; nothing was written; try --mode auto or --mode merges"
            )


def _require_same_frame(expansion: Expansion, new: PreTrainedTokenizerBase) -> None:
    """Special tokens by name, around a text, and in the chat template: as they were."""
    old = expansion.source.transformers
    pairs: dict[str, tuple[Any, Any]] = {
        "the special tokens by name": (_named(old), _named(new)),
        "special tokens around a text": (old("2 + 2").input_ids, new("2 + 2").input_ids),
    }
    if old.chat_template:
        before, after = (
            one.apply_chat_template(_CHAT, tokenize=True, return_dict=True)["input_ids"]
            for one in (old, new)
        )
        pairs["the chat template"] = (before, after)
    for what, (before, after) in pairs.items():
        if before != after:
            raise ModelError(
                f"{what}: {after} with the saved tokenizer; expected {before}; nothing was "
                "written; try --mode merges"
            )


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
    return {name: getattr(tokenizer, name) for name in names}


def _ids_by_mlx(directory: Path, texts: Sequence[str]) -> dict[str, Any]:
    """How mlx-lm, in a process of its own, encodes texts with the tokenizer of a directory.

    Returns:
        ``ids`` and ``version``; or ``unavailable`` with the reason, where mlx-lm is not installed
        or cannot be imported on this machine.

    Raises:
        ModelError: mlx-lm cannot load the tokenizer.
    """
    if importlib.util.find_spec("mlx_lm") is None:
        return {"unavailable": "mlx-lm is not installed"}
    request = json.dumps({"directory": str(directory.resolve()), "texts": list(texts)})
    ran = subprocess.run(
        [sys.executable, "-c", _ASK_MLX],
        input=request, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["no message"]
        raise ModelError(
            f"{directory}: mlx-lm cannot load the new tokenizer ({lines[-1]}); report this"
        )
    return json.loads(ran.stdout)
