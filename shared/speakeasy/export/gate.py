"""The gate: an export, loaded by the libraries, against base and adapter apart.

The reference is the base in full precision with the adapter beside it (``reference``): what
training left, before anything was merged. The export's logits on fixed prompts are compared with
it, its tokenizer's ids with the base's. docs/export.md gives the tolerances' reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speakeasy.batches.templates import ensure_chat_template
from speakeasy.errors import ModelError
from speakeasy.export.libraries import LIBRARIES, Question, Reply, asked
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.directory import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from speakeasy.weights.fuse import Dtype

TEXTS = (
    "Bon dia! Què vol prendre?",
    "Ostras, nen, quedamos en la plaza de Gracia a las ocho y media.",
    "L'àvia diu que l'any 1992 tot era més barat.",
    "Ves al mercat, compra mig quilo de tomàquets i torna de seguida.",
    "The tram to Besòs stops here: 12, 3.5, 1.000; ¿verdad?",
)
"""What every export is tried on: Catalan, Spanish of Catalonia, English, digits, punctuation."""

MESSAGES = ({"role": "user", "content": "¿Dónde está la panadería, por favor?"},)
"""The chat that every export is to answer."""

ABSOLUTE = 1e-3
"""Largest logit difference of a float32 export, and of two libraries that load the same export."""

NOISE = 3e-5
"""The same as a share of the largest logit, where that is more: float32 sums of a large model."""

ROUNDING: dict[str, float] = {"float16": 0.01, "bfloat16": 0.05}
"""Root mean square of the difference over that of the logits, for weights cast to 16 bits."""

STRENGTH = 0.5
"""How far the adapter's share in a 16-bit export may be from 1 (``strength``)."""

_ADDED = 12
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one set of logits is from another, over all positions of all prompts.

    Attributes:
        largest: of any logit, absolute.
        relative: root mean square of the difference, over that of the reference's logits about
            their mean at each position.
        divergence: the greatest Kullback-Leibler divergence from the reference of a position's
            next-token distribution, nats.
        scale: the largest logit of the reference, absolute.
    """

    largest: float
    relative: float
    divergence: float
    scale: float

    @property
    def noise(self) -> float:
        """What float32 arithmetic may account for."""
        return max(ABSOLUTE, NOISE * self.scale)


def difference(reference: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Difference:
    """Compare logits_TV of the same prompts.

    Raises:
        ModelError: shapes differ, or a logit is NaN or infinite.
    """
    largest = divergence = scale = squared = spread = 0.0
    for ours, theirs in zip(reference, found, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise ModelError(
                f"logits: {theirs.shape}, expected {ours.shape} finite ones; nothing was written"
            )
        one, other = ours.astype(np.float64), theirs.astype(np.float64)
        apart = other - one
        largest = max(largest, float(np.abs(apart).max()))
        scale = max(scale, float(np.abs(one).max()))
        squared += float((apart**2).sum())
        spread += float(((one - one.mean(axis=1, keepdims=True)) ** 2).sum())
        p, q = _log_softmax(one), _log_softmax(other)
        divergence = max(divergence, float((np.exp(p) * (p - q)).sum(axis=1).max()))
    relative = math.sqrt(squared / spread) if spread else math.inf if squared else 0.0
    return Difference(largest, relative, max(divergence, 0.0), scale)


def _log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    shifted = logits_TV - logits_TV.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def strength(
    unadapted: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> float:
    """How much of the adapter is in an export's logits: 0 for nothing, 1 for all of it.

    That is the least-squares factor of what the adapter does (reference less base) in what the
    export does (export less base). The rounding of weights, which may be the larger part of the
    difference, points elsewhere and hardly moves it.
    """
    along = whole = 0.0
    for base, ours, theirs in zip(unadapted, reference, found, strict=True):
        effect = ours.astype(np.float64) - base
        along += float((effect * (theirs - base)).sum())
        whole += float((effect**2).sum())
    return along / whole if whole else 1.0


def question_for(model: Path, tokenizer: PreTrainedTokenizerBase) -> Question:
    """The fixed prompts, and some of the words that were added to the vocabulary."""
    texts = list(TEXTS)
    if (record := model / "expansion.json").is_file():
        added = read_json_object(record).get("added", [])
        forms = [entry["form"] for entry in added if "form" in entry]
        texts += [" ".join(forms[start : start + 4]) for start in range(0, len(forms), 4)][:_ADDED]
    chat = _chat(tokenizer)
    prompts = [tuple(tokenizer(text).input_ids[:_LONGEST]) for text in texts]
    return Question(tuple(texts), MESSAGES, (*filter(None, prompts), tuple(chat[-_LONGEST:])))


def _chat(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ensure_chat_template(tokenizer)
    laid_out: Any = tokenizer.apply_chat_template(
        list(MESSAGES), add_generation_prompt=True, return_dict=True
    )
    return list(laid_out["input_ids"])


def check(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    reference: Sequence[np.ndarray],
    dtype: Dtype,
    *,
    unadapted: Sequence[np.ndarray] | None = None,
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Compare an export with what it was made of, in every library that is installed.

    Args:
        folder: the export.
        tokenizer: the base's.
        question: of ``question_for``.
        reference: logits_TV of the question's prompts, of base and adapter apart.
        dtype: the type of the export's weights.
        unadapted: the same of the base alone, to see that an adapter is not lost in rounding.
        bar: opens a progress bar.

    Returns:
        For ``export.json``: the number of ``texts`` and ``prompts``; library -> its version,
        differences and answer, or why it was not asked; ``between_libraries``; and ``effect``, the
        difference that the adapter makes.

    Raises:
        ModelError: a library gives other ids or other logits, or none could be asked.
    """
    record: dict[str, Any] = {"texts": len(question.texts), "prompts": len(question.prompts)}
    effect = difference(unadapted, reference) if unadapted is not None else None
    if effect is not None:
        record["effect"] = asdict(effect)
    first: tuple[str, list[np.ndarray]] | None = None
    with bar("comparing with base and adapter", len(LIBRARIES)) as advance:
        for library in LIBRARIES:
            with asked(library, folder, question) as reply:
                if isinstance(reply, str):
                    record[library] = {"not_checked": reply}
                    continue
                require_same_ids(library, question, reply, tokenizer)
                found = difference(reference, reply.logits)
                require_near(library, found, dtype)
                record[library] = {"version": reply.version, **asdict(found)}
                if unadapted is not None and effect is not None:
                    share = strength(unadapted, reference, reply.logits)
                    _require_adapter(library, share, effect, dtype)
                    record[library]["strength"] = share
                record[library]["answer"] = reply.answer
                if first is None:
                    first = library, [np.array(logits) for logits in reply.logits]
                else:
                    between = difference(first[1], reply.logits)
                    _require_alike(first[0], library, between)
                    record["between_libraries"] = asdict(between)
            advance(1)
    if first is None:
        raise ModelError("no library could load the export; install torch or mlx-lm and try again")
    return record


def require_same_ids(
    library: str, question: Question, reply: Reply, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a tokenizer that cuts, decodes or lays out otherwise than the base's.

    Raises:
        ModelError: naming the first text.
    """
    for text, ids, decoded in zip(question.texts, reply.ids, reply.texts, strict=True):
        expected = tokenizer(text).input_ids
        if ids != expected:
            raise ModelError(
                f"{library} encodes {text!r} as {ids[:8]} with the export; expected "
                f"{expected[:8]}; nothing was written"
            )
        again = tokenizer.decode(expected, skip_special_tokens=True)
        if decoded != again:
            raise ModelError(
                f"{library} decodes {text!r} to {decoded!r} with the export; expected {again!r}; "
                "nothing was written"
            )
    if reply.chat != (expected := _chat(tokenizer)):
        raise ModelError(
            f"{library} lays out a chat as {reply.chat[:8]} with the export's template; expected "
            f"{expected[:8]}; nothing was written"
        )


def require_near(library: str, found: Difference, dtype: Dtype) -> None:
    """Refuse logits that are further from the reference than the weights' type explains.

    Raises:
        ModelError: naming the difference and the tolerance.
    """
    allowed = ROUNDING.get(dtype)
    if allowed is None:
        if found.largest > found.noise:
            raise ModelError(
                f"{library}: the export's logits differ from those of base and adapter by up to "
                f"{found.largest:.2g}, more than {found.noise:.2g}; nothing was written"
            )
    elif found.largest > found.noise and found.relative > allowed:
        raise ModelError(
            f"{library}: the export's logits differ from those of base and adapter by "
            f"{found.relative:.1%} of their spread, more than the {allowed:.0%} that {dtype} "
            "explains; nothing was written; try --dtype float32"
        )


def drowned(effect: Difference, dtype: Dtype) -> bool:
    """Whether an adapter does so little that the rounding of 16-bit weights may be more."""
    return effect.relative < ROUNDING.get(dtype, 0.0) / 4


def _require_adapter(library: str, share: float, effect: Difference, dtype: Dtype) -> None:
    if not drowned(effect, dtype) and abs(share - 1) > STRENGTH:
        raise ModelError(
            f"{library}: the export holds {share:.2f} times what the adapter does, expected once; "
            "nothing was written"
        )


def _require_alike(one: str, other: str, found: Difference) -> None:
    if found.largest > found.noise:
        raise ModelError(
            f"{one} and {other} load the same export and differ by up to {found.largest:.2g}, more "
            f"than {found.noise:.2g}; nothing was written"
        )
