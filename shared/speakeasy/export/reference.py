"""What training left, before anything is merged: logits of base, adapter and rows apart."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np

from speakeasy.export.libraries import Question, logits_by_peft
from speakeasy.export.material import Material
from speakeasy.training.backend import EngineOptions, open_backend, select
from speakeasy.training.inference import lora_config
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.adapters import uniform, write_peft
from speakeasy.weights.checkpoint import model_shape
from speakeasy.weights.trained_rows import EMBEDDING, HEAD


def reference_logits(
    material: Material, question: Question, *, bar: Bar = no_bar
) -> list[np.ndarray]:
    """Logits_TV float32 of each prompt, the base in full precision and the adapter beside it.

    They are computed by this machine's backend, whose model is let go before the return. Adapters
    of the embedding or the output matrix, which no backend loads, are computed by PEFT.

    Raises:
        BackendError: no backend is installed; or PEFT is needed and not there.
    """
    adapter, model = material.adapter, material.model.path
    if adapter is not None and {EMBEDDING, HEAD} & set(adapter.modules):
        with tempfile.TemporaryDirectory(prefix="speakeasy-adapter-") as scratch:
            write_peft(adapter, Path(scratch), tied=model_shape(model).tied)
            return logits_by_peft(model, Path(scratch), question.prompts)
    adapter = uniform(adapter) if adapter else None
    engine = open_backend(select().name).load(
        EngineOptions(
            model=model,
            precision="float32",
            lora=lora_config(adapter) if adapter else None,
            adapter=adapter.tensors if adapter else None,
            rows=material.rows,
        )
    )
    logits = []
    with bar("base and adapter apart", len(question.prompts)) as advance:
        for prompt in question.prompts:
            logits.append(engine.next_logits(np.array([prompt], dtype=np.int32))[0])
            advance(1)
    del engine
    gc.collect()
    return logits
