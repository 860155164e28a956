"""The shape of a model before it is fetched or made: what a dry run can know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speakeasy.config import PretrainConfig
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.training.run import Run
from speakeasy.vocab.families import read_source
from speakeasy.vocab.words import forms_of
from speakeasy.weights.adapters import block_layers
from speakeasy.weights.checkpoint import ModelShape, model_shape
from speakeasy.weights.hub import is_local, resolve_model
from speakeasy.weights.starter import MODEL_FILES, cache_root
from speakeasy.workflow.plans import ExpandPlan
from speakeasy.workflow.stages.expand import chosen_words, planned_entries

_LONGEST = 131_072  # of Llama 3.1 and 3.2


def _llama(
    layers: int, hidden: int, inner: int, heads: int, head_dim: int, *, tied: bool
) -> ModelShape:
    """A Llama 3 in bfloat16; its parameters are those of the blocks, the norms and both ends."""
    plain = ModelShape(
        "llama", layers, hidden, inner, heads, 8, head_dim, 128_256, tied, _LONGEST, 1, "BF16", 2,
        None,
    )  # fmt: skip
    linear = sum(out * into for out, into in block_layers(plain).values())
    ends = plain.vocab_size * hidden * (1 if tied else 2)
    parameters = linear + (2 * layers + 1) * hidden + ends
    return ModelShape(
        "llama", layers, hidden, inner, heads, 8, head_dim, 128_256, tied, _LONGEST, parameters,
        "BF16", 2 * parameters, None,
    )  # fmt: skip


KNOWN: Mapping[str, ModelShape] = {
    "meta-llama/Llama-3.2-1B": _llama(16, 2048, 8192, 32, 64, tied=True),
    "meta-llama/Llama-3.2-3B": _llama(28, 3072, 8192, 24, 128, tied=True),
    "meta-llama/Llama-3.1-8B": _llama(32, 4096, 14_336, 32, 128, tied=False),
}
"""The models of the packaged recipes, from their config.json on the Hub."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is here, or that a stage will make.

    Attributes:
        path: of the one that it comes from; None where that is still to be fetched.
        shape: its own.
        added: entries that will have been added to that one's vocabulary.
    """

    path: Path | None
    shape: ModelShape
    added: int = 0


def find_model(name: str) -> Model | None:
    """A model on this machine, or one of ``KNOWN``; nothing is fetched. None for any other.

    Raises:
        ModelError: it is here, and unsound.
    """
    path = _here(name)
    if path is not None:
        return Model(path, model_shape(path))
    return Model(None, KNOWN[name]) if name in KNOWN else None


def run_model(plan: EvaluationPlan) -> str:
    """The name of the model behind a plan that names none, or a run that is there already."""
    if plan.run is None:
        return "starter"
    config = Run(Path(plan.run)).config
    return plan.run if isinstance(config, PretrainConfig) else config.model


def new_entries(plan: ExpandPlan, model: Model) -> tuple[int, str]:
    """How many entries a stage will add, and how that is known.

    Raises:
        DataError: words, lexicon or corpus cannot be read.
    """
    if plan.suggest:
        return plan.suggest, f"{plan.suggest:,} entries, as many as suggest asks for"
    if model.path is not None and not model.added:
        count = len(planned_entries(plan, read_source(model.path)).added)
        return count, f"{count:,} entries, planned with the model's tokenizer"
    words, several = forms_of(chosen_words(plan))
    count = len(words) + (len(several) if plan.phrases else 0)
    return count, f"{count:,} entries at most, one a form of the words"


def _here(name: str) -> Path | None:
    if is_local(name):
        return resolve_model(name).path
    if name == "starter":
        folder = cache_root() / "models" / "starter"
        return folder if (folder / "source.json").is_file() else None
    from huggingface_hub import errors, snapshot_download

    try:
        found = snapshot_download(name, allow_patterns=list(MODEL_FILES), local_files_only=True)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    # A download that broke off has left a part.
    folder = Path(found)
    return (
        folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None
    )
