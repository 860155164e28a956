"""What no adapter can be converted with, and why: one list for the readers, the docs and the tests.

Whatever changes what an adapter means and cannot be carried over without loss is refused by name.
The table in ``docs/portability.md`` is this list.
"""

from __future__ import annotations

from dataclasses import dataclass

from speakeasy.errors import AdapterError


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that is refused.

    Attributes:
        found: what the adapter has.
        reason: why that cannot be converted.
        way_out: what the user can do instead.
    """

    found: str
    reason: str
    way_out: str


_MERGE = "merge it into its base with PEFT (merge_and_unload)"
_PLAIN = "train plain LoRA or DoRA"

REFUSALS: dict[str, Refusal] = {
    "peft_type": Refusal(
        "a PEFT method other than LoRA", "its tensors are no LoRA matrices", _MERGE
    ),
    "init_lora_weights": Refusal(
        "PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, MiCA or an unknown initialisation",
        "it changes the base's weights or leaves a matrix out of the file, so the tensors alone "
        "are not the adapter",
        "save it as plain LoRA with PEFT's path_initial_model_for_weight_conversion",
    ),
    "lora_bias": Refusal("a bias on B", "mlx-lm's layers have none", _MERGE),
    "bias": Refusal("trained biases of the base", "mlx-lm's adapters hold no biases", _MERGE),
    "modules_to_save": Refusal(
        "whole modules that were trained",
        "an adapter of mlx-lm holds LoRA matrices alone, and rows.safetensors holds rows",
        f"{_MERGE}, or train rows (trainable_token_indices)",
    ),
    "layer_replication": Refusal(
        "blocks that stand in the model several times", "mlx-lm loads the base as it is", _MERGE
    ),
    "target_parameters": Refusal(
        "LoRA on bare parameters, such as a layer of experts",
        "the libraries lay these matrices out differently",
        _MERGE,
    ),
    "fan_in_fan_out": Refusal(
        "layers that store their weight transposed", "no model of the Llama family does", _MERGE
    ),
    "megatron_config": Refusal(
        "parallel layers of Megatron", "their matrices may be parts of a whole", _MERGE
    ),
    "alora_invocation_tokens": Refusal(
        "activated LoRA, which begins at some tokens", "mlx-lm applies LoRA to every token", _PLAIN
    ),
    "arrow_config": Refusal(
        "routing between several adapters", "one adapter is not the whole", _PLAIN
    ),
    "use_qalora": Refusal("QA-LoRA, which pools the input", "mlx-lm has no pooling", _PLAIN),
    "use_bdlora": Refusal(
        "block-diagonal LoRA", "its matrices have another shape and meaning", _MERGE
    ),
    "kasa_config": Refusal("KaSA", "it cuts singular values off the base's weights", _PLAIN),
    "velora_config": Refusal(
        "VeLoRA", "its backward pass would be lost if training went on", _PLAIN
    ),
    "monteclora_config": Refusal("Monte Carlo LoRA", "its output is sampled", _PLAIN),
    "unknown_setting": Refusal(
        "a setting of PEFT that is not known here",
        "what it changes is not known",
        "merge it into its base with the PEFT that wrote it",
    ),
    "expression": Refusal(
        "an expression in rank_pattern or alpha_pattern that repeats a group, looks around or "
        "back, or has more than three repeats",
        "matching it could take for ever",
        "write the modules' paths there",
    ),
    "base_layer": Refusal(
        "a whole embedding or output matrix other than the base's (PEFT saves it with LoRA on one)",
        "a resized vocabulary lies in it, which no adapter of mlx-lm can hold",
        "give the base that the adapter was trained on as --model; if it was resized, save that",
    ),
    "trainable_token_indices": Refusal(
        "trained rows beside LoRA on the same matrix, or rows of the output matrix of a tied base",
        "which of the two a row follows is not defined",
        "train one of them",
    ),
    "unknown_tensor": Refusal(
        "a tensor that is no A, B or magnitude of a linear layer in a block, of the embedding or "
        "of the output matrix",
        "it would be dropped",
        _MERGE,
    ),
    "expert_layers": Refusal(
        "matrices with three axes, of a layer of experts",
        "PEFT holds each expert's, or bare parameters",
        "fuse it with mlx_lm.fuse",
    ),
    "fine_tune_type": Refusal(
        "full fine-tuning with mlx-lm, or an unknown fine_tune_type",
        "it holds whole weights, no LoRA matrices",
        "fuse it with mlx_lm.fuse",
    ),
    "embedding_dora": Refusal(
        "DoRA on the embedding",
        "mlx-lm keeps one magnitude a token, PEFT one a dimension",
        "leave the embedding out, or merge it into its base with the library that wrote it",
    ),
    "tied_embedding": Refusal(
        "PEFT's LoRA on the embedding of a model whose output matrix is the embedding matrix",
        "PEFT changes the input alone, mlx-lm both ends",
        "adapt lm_head with the same matrices (ensure_weight_tying), or export the model, which "
        "unties it",
    ),
    "tied_head": Refusal(
        "LoRA on the output matrix of such a model, without the same on its embedding",
        "in mlx-lm the two are one module",
        "export the model, which unties it",
    ),
    "quantized_dora": Refusal(
        "DoRA that was trained on a quantised base",
        "its magnitudes belong to those weights, which the other library cannot hold",
        "train on the full-precision base, or use it where it was trained",
    ),
    "pickle": Refusal(
        "pickled weights (adapter_model.bin)",
        "loading them can run code",
        "save the adapter again as safetensors with a current PEFT",
    ),
}
"""Short name -> what is refused. For settings of PEFT's config it is the setting's name."""


def refusal(name: str, where: object, found: str) -> AdapterError:
    """The error of one refusal.

    Args:
        name: one of ``REFUSALS``.
        where: the file.
        found: what stands there.
    """
    entry = REFUSALS[name]
    return AdapterError(f"{where}: {found}: {entry.reason}; {entry.way_out}")
