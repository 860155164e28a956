"""Loading a model with transformers, quantising it with bitsandbytes, adapting it with PEFT."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.utils.integrations import dequantize_module_weight
from transformers import AutoConfig, AutoModelForCausalLM

from speakeasy.errors import BackendError, ModelError, first_line
from speakeasy.training.backend import EngineOptions
from speakeasy.weights.adapters import select_layers
from speakeasy.weights.checkpoint import complete_config, linear_layers, read_config
from speakeasy.weights.lora import MAGNITUDE_SUFFIX
from speakeasy_torch.attention import NAME as ATTENTION
from speakeasy_torch.sharding import around_blocks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER = "default"


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(options: EngineOptions) -> Any:
    """The frozen causal language model, from safetensors only, never with code of its own.

    Blocks that are to be divided among processes stay on the CPU (``sharding.shard``).

    Raises:
        ModelError: the weights do not fit the config.
        BackendError: 4 bits without bitsandbytes.
    """
    dtype = DTYPES[options.precision]
    said = complete_config(read_config(options.model))
    extra: dict[str, Any] = {}
    if options.use_4bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise BackendError(
                "--use-4bit: bitsandbytes is not installed; "
                "install it with: pip install 'speakeasy-lm[cuda]'"
            )
        extra["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        extra["device_map"] = {"": device()}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            options.model,
            config=AutoConfig.for_model(**said),
            dtype=dtype,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **extra,
        )
    except Exception as error:  # whatever the config makes the library stumble over
        raise ModelError(f"{options.model}: {first_line(error)}") from error
    if loaded["missing_keys"]:  # transformers would go on with random values
        raise ModelError(
            f"{options.model}: the weights lack {min(loaded['missing_keys'])!r}; download it again"
        )
    if options.use_4bit:
        _keep_differentiable(model)
    else:
        for module in around_blocks(model) if options.fsdp else [model]:
            module.to(device())
    model.requires_grad_(False)
    model.config.use_cache = False
    if options.gradient_checkpointing:
        # transformers renamed it during version 5.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return model


def _keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes from repacking weights at the first evaluation.

    On CPUs with AVX512-BF16 it turns them, for good, into a form whose product has no gradient
    (``Linear4bit.forward``): an adapter trained after an evaluation would learn from nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def adapt(model: Any, options: EngineOptions) -> dict[str, torch.nn.Parameter]:
    """Put LoRA or DoRA layers into ``model``, in place; returns them by canonical name, float32.

    The layers are PEFT's own, so whatever PEFT can do with them afterwards it can do here.
    """
    lora, tensors = options.lora, options.adapter
    assert lora is not None
    assert tensors is not None
    targets = select_layers(linear_layers(options.model), lora.targets)
    peft_config = PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that is on its way out.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = get_peft_model(model, peft_config, adapter_name=ADAPTER)
    parameters = {
        canonical_name(name): parameter
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    drawn = {name for name in parameters if not name.endswith(MAGNITUDE_SUFFIX)}
    if set(tensors) not in (drawn, set(parameters)):
        odd = sorted(set(parameters) ^ set(tensors))[0]
        raise ModelError(f"{options.model}: the adapter and the model differ in {odd}")
    put({name: parameters[name] for name in tensors}, tensors)
    if len(tensors) < len(parameters):
        _measure_rows(adapted)
    return parameters


@torch.no_grad()
def _measure_rows(adapted: Any) -> None:
    """Give DoRA's magnitudes the lengths of the rows as they are, in float32.

    PEFT measures them in the type of the weights, which bfloat16 rounds by up to 0.2%.
    """
    for module in adapted.modules():
        if ADAPTER in getattr(module, "lora_magnitude_vector", {}):
            weight = dequantize_module_weight(module.get_base_layer()).float()
            change = module.lora_B[ADAPTER].weight @ module.lora_A[ADAPTER].weight
            rows = torch.linalg.norm(weight + module.scaling[ADAPTER] * change, dim=1)
            module.lora_magnitude_vector[ADAPTER].weight.copy_(rows)


def unfreeze(model: Any) -> dict[str, torch.nn.Parameter]:
    """Train the whole model, in place; returns its parameters by the names that they are stored
    under (a tied output matrix is the embedding matrix)."""
    model.requires_grad_(True)
    return dict(model.named_parameters())


def canonical_name(name: str) -> str:
    """PEFT's parameter name in the form that both backends share."""
    canonical = name.removeprefix("base_model.model.").replace(f".{ADAPTER}.", ".")
    magnitude = f"{MAGNITUDE_SUFFIX}.weight"
    return canonical.removesuffix(".weight") if canonical.endswith(magnitude) else canonical


@torch.no_grad()
def put(parameters: dict[str, torch.nn.Parameter], tensors: Any) -> None:
    """Copy canonical arrays into parameters."""
    for name, parameter in parameters.items():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name])))
