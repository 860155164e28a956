"""The MLX engine: what a plan trains of an mlx-lm model, and the rest of it frozen."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from speakeasy.batches.lanes import Part, divide
from speakeasy.batches.types import IGNORED, PackedBatch
from speakeasy.config import Precision
from speakeasy.errors import BackendError
from speakeasy.training.backend import Device, EngineOptions, Sampling, Tensors
from speakeasy.training.group import dropout_seed
from speakeasy.training.memory import available_bytes
from speakeasy.training.rate import Measure, best_rate
from speakeasy_mlx import generate as generation
from speakeasy_mlx import openblas_loaded, trail
from speakeasy_mlx.attention import PackedCache
from speakeasy_mlx.lanes import Lanes, lane_count
from speakeasy_mlx.last_block import narrow
from speakeasy_mlx.loss import (
    log_sums,
    losses_without_gradient,
    make_target_loss,
    make_trained_head_loss,
)
from speakeasy_mlx.merged import Merged
from speakeasy_mlx.model import DTYPES, adapt, load_base, put, take, to_mlx
from speakeasy_mlx.optimizers import entry_of, make_optimizers, moments_of
from speakeasy_mlx.processes import MlxGroup
from speakeasy_mlx.recompute import recompute_layers
from speakeasy_mlx.rows import NAMES, Rows


def describe_device() -> Device:
    """The Mac's GPU, or the CPU; and the precision that suits it."""
    if mx.metal.is_available():
        info = mx.device_info()
        return Device(
            "metal",
            str(info["device_name"]),
            int(info["max_recommended_working_set_size"]),
            "bfloat16",
            "Apple GPUs compute in bfloat16 at full speed",
        )
    blas = "with the system's OpenBLAS" if openblas_loaded else "with MLX's slow reference BLAS"
    return Device(
        "cpu",
        f"CPU ({platform.machine()}), {blas}",
        available_bytes(),
        "float32",
        "MLX's CPU build is fast in float32 alone",
    )


def matmul_rate(precision: Precision, measure: Measure = best_rate) -> float:
    """Floating-point operations a second of a large square product."""
    size = 4096 if mx.metal.is_available() else 1024
    left, right = (mx.ones((size, size), dtype=DTYPES[precision]) for _ in range(2))
    mx.eval(left, right)
    return measure(lambda: mx.eval(left @ right), 2 * size**3)


def load(options: EngineOptions) -> MlxEngine:
    """Load the model, put the adapter in, make the optimizer."""
    return MlxEngine(options)


def join() -> MlxGroup:
    """Connect with the processes that mlx.launch started."""
    return MlxGroup()


CACHE_SHARE = 8
"""Of the memory for a Mac's GPU, what MLX may keep of freed arrays is one part in so many. Its own
bound is more than all of it, so that the process would grow to that in the end."""


class MlxEngine:
    """See ``speakeasy.training.backend.Engine``."""

    def __init__(self, options: EngineOptions) -> None:
        self._seed, self._group = options.seed, options.group
        if mx.metal.is_available():
            mx.set_cache_limit(describe_device().memory // CACHE_SHARE)
        self._model = load_base(options)
        self._narrow = narrow(self._model)
        self._vocabulary = int(self._model.args.vocab_size)
        self._full = options.full
        if options.full:
            self._model.unfreeze()
        if options.lora:
            adapt(self._model, options)
        self._rows = Rows(self._model, options.rows) if options.rows else None
        self._merged = Merged(self._model, options.lora)
        self._trained = _Trained(self._model, self._rows)
        self._optimizers = make_optimizers(self._trained, options.optimizer)
        self._max_norm = options.optimizer.max_grad_norm if options.optimizer else 0.0
        if options.gradient_checkpointing:
            if options.lora and options.lora.dropout:
                raise BackendError(
                    "--gradient-checkpointing with --lora-dropout: on MLX the recomputation would "
                    "draw another dropout and give wrong gradients; leave one of them out"
                )
            recompute_layers(self._model)
        self._gradients: Any = None
        self._target_loss = (
            make_trained_head_loss(self._vocabulary)
            if options.full
            else make_target_loss(
                self._head, self._vocabulary, None if self._rows is None else self._rows.ids_R
            )
        )
        self._loss_and_gradient = nn.value_and_grad(self._trained, self._loss)
        self.lanes = lane_count(options)
        self._threads = Lanes(self.lanes) if self.lanes > 1 else None
        self._tracing = Lock()
        self._model.eval()

    def accumulate(self, batch: PackedBatch, scale: float) -> mx.array:
        """Add the gradient of ``scale`` x (sum of target losses); returns the sum."""
        if not len(batch.tokens_BT):
            return mx.array(0.0)
        self._model.train()
        if self._threads is not None:
            return self._accumulate_in_lanes(self._threads, batch, scale)
        loss, gradients = self._loss_and_gradient(_Flat.of(batch, self._rows), scale)
        self._gradients = _sum(self._gradients, gradients)
        mx.eval(loss, self._gradients)
        return loss / scale

    def apply(self, learning_rate: float) -> float:
        """Clip, take one AdamW step, clear the gradients; returns the norm before clipping."""
        assert self._optimizers
        gradients = self._gradients
        if isinstance(self._group, MlxGroup):
            parameters = self._trained.trainable_parameters()
            gradients = self._group.sum_gradients(gradients, parameters)
        self.discard()
        squares = [mx.square(gradient).sum() for _, gradient in tree_flatten(gradients)]
        norm = float(mx.sqrt(mx.stack(squares).sum()))
        if math.isfinite(norm):
            if self._max_norm:
                factor = min(1.0, self._max_norm / (norm + 1e-6))
                gradients = tree_map(lambda gradient: gradient * factor, gradients)
            for part, (optimizer, rate) in self._optimizers.items():
                optimizer.learning_rate = learning_rate * rate
                optimizer.update(self._trained[part], gradients[part])
                mx.eval(self._trained[part].trainable_parameters(), optimizer.state)
            self._merged.refresh()
            if self._rows is not None:
                self._rows.write()
        return norm

    def discard(self) -> None:
        """Forget accumulated gradients."""
        self._gradients = None

    def token_losses(self, batch: PackedBatch) -> np.ndarray:
        """Losses_BT float32, nats; 0 where there is no target."""
        if not len(batch.tokens_BT):
            return np.zeros(batch.labels_BT.shape, dtype=np.float32)
        self._model.eval()
        if self._threads is not None:
            return self._score_in_lanes(self._threads, batch)
        flat = _Flat.of(batch, self._rows)
        losses_BT = np.zeros(batch.labels_BT.shape, dtype=np.float32)
        losses_BT[batch.labels_BT != IGNORED] = self._losses(self._hidden(flat), flat)
        return losses_BT

    def predictions(self, batch: PackedBatch, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden_ND and log_sums_N at the targets, float32; the sums leave out ``ids``."""
        self._model.eval()
        hidden_ND = self._hidden(_Flat.of(batch, self._rows))
        ids_K = mx.array(ids.astype(np.int32))
        sums_N = log_sums(self._head, self._vocabulary, hidden_ND, ids_K)
        return np.array(hidden_ND.astype(mx.float32)), np.array(sums_N)

    def next_logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Logits_BTV float32 of whole rows without padding."""
        self._model.eval()
        return np.array(self._model(mx.array(tokens_BT.astype(np.int32))).astype(mx.float32))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
    ) -> list[list[int]]:
        """One answer a prompt, as ids without the stop token."""
        return generation.generate(self._model, prompts, sampling, stop)

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, stop: Sequence[int]
    ) -> Iterator[int]:
        """The ids of one answer as they come."""
        return generation.stream(self._model, prompt, sampling, stop)

    def seed_step(self, step: int) -> None:
        """Seed the dropout of a step."""
        mx.random.seed(dropout_seed(self._seed, step, self._group))

    def trainables(self) -> Tensors:
        """Canonical name -> value, float32."""
        return self._canonical(
            {part: self._trained[part].trainable_parameters() for part in self._parts()}
        )

    def moments(self) -> tuple[Tensors, Tensors]:
        """AdamW's first and second moments; zeros before the first step."""
        first, second = (
            self._canonical(
                {part: moments_of(opt.state, moment) for part, (opt, _) in self._optimizers.items()}
            )
            for moment in ("m", "v")
        )
        return first, second

    def restore(self, trainables: Tensors, first: Tensors, second: Tensors, step: int) -> None:
        """Take over a training state with ``step`` AdamW steps behind it."""
        assert self._optimizers
        self.set_trainables(trainables)
        parameters = {to_canonical: key for key, to_canonical in NAMES.items()}
        for moment, tensors in (("m", first), ("v", second)):
            for name, tensor in tensors.items():
                if name in parameters:
                    entry, value = self._optimizers["rows"][0].state[parameters[name]], tensor
                else:
                    path, value = to_mlx(name, tensor)
                    entry = entry_of(self._optimizers["model"][0].state, path)
                entry[moment] = mx.array(value)
        for optimizer, _ in self._optimizers.values():
            optimizer.state["step"] = mx.array(step, dtype=mx.uint64)
            mx.eval(optimizer.state)

    def set_trainables(self, trainables: Tensors) -> None:
        """Put weights in place and leave the optimizer alone."""
        rows = {name: trainables[name] for name in NAMES.values() if name in trainables}
        put(self._model, {name: trainables[name] for name in trainables if name not in rows})
        self._merged.refresh()
        if self._rows is not None:
            self._rows.put(rows)

    def device_peak_bytes(self) -> int | None:
        """Metal's high-water mark; None on the CPU."""
        return mx.get_peak_memory() if mx.metal.is_available() else None

    def _accumulate_in_lanes(self, threads: Lanes, batch: PackedBatch, scale: float) -> mx.array:
        division = divide(batch, threads.count)

        def learn(parts: Sequence[Part]) -> tuple[float, Any]:
            loss, sums = 0.0, None
            for part in parts:
                scaled, gradients, marks = self._traced(_Flat.of(part.batch, self._rows), scale)
                trail.walk(marks)
                sums = _sum(sums, gradients)
                mx.eval(scaled, sums)
                loss += float(scaled)
            return loss, sums

        found = [*threads.map(learn, division.lanes), learn(division.alone)]
        for _, gradients in found:
            if gradients is not None:
                self._gradients = _sum(self._gradients, gradients)
        mx.eval(self._gradients or [])
        return mx.array(sum(loss for loss, _ in found) / scale)

    def _traced(self, flat: _Flat, scale: float) -> tuple[mx.array, Any, list[mx.array]]:
        """Graphs of the scaled loss and of its gradients, and marks along them."""
        with self._tracing, trail.marking() as marks:
            parameters = self._trained.trainable_parameters()
            try:
                return *self._loss_and_gradient(flat, scale), marks
            finally:
                self._trained.update(parameters)  # in place of what belongs to this thread

    def _score_in_lanes(self, threads: Lanes, batch: PackedBatch) -> np.ndarray:
        division = divide(batch, threads.count)
        losses = np.zeros(batch.labels_BT.size, dtype=np.float32)

        def score(parts: Sequence[Part]) -> None:
            for part in parts:
                flat = _Flat.of(part.batch, self._rows)
                with trail.marking() as marks:
                    hidden_ND = self._hidden(flat)
                trail.walk(marks)
                scored_M = part.batch.labels_BT[0] != IGNORED
                losses[part.places_M[scored_M]] = self._losses(hidden_ND, flat)

        threads.map(score, division.lanes)
        score(division.alone)
        return losses.reshape(batch.labels_BT.shape)

    def _losses(self, hidden_ND: mx.array, flat: _Flat) -> np.ndarray:
        """Losses_N of the targets, float32, in row order."""
        return np.array(
            losses_without_gradient(self._head, self._vocabulary, hidden_ND, flat.labels_N)
        )

    def _head(self, hidden_ND: mx.array) -> mx.array:
        if "lm_head" in self._model:
            return self._model.lm_head(hidden_ND)
        return self._model.model.embed_tokens.as_linear(hidden_ND)

    def _hidden(self, flat: _Flat) -> mx.array:
        """Hidden_ND of the positions that are scored."""
        scored_N = flat.index_N if self._narrow else None
        caches = [PackedCache(flat.bounds, scored_N)] * len(self._model.layers)
        inputs = (
            None
            if self._rows is None or flat.places_M is None
            else self._rows.embed(flat.tokens_1M[0], flat.places_M)[None]
        )
        found = self._model.model(flat.tokens_1M, cache=caches, input_embeddings=inputs)[0]
        return found if self._narrow else found[flat.index_N]

    def _loss(self, flat: _Flat, scale: float) -> mx.array:
        trained = [] if self._rows is None else [self._rows.head_RD]
        if self._full:
            tied = "lm_head" not in self._model
            trained = [(self._model.model.embed_tokens if tied else self._model.lm_head).weight]
        return self._target_loss(self._hidden(flat), flat.labels_N, *trained) * scale

    def _parts(self) -> list[str]:
        return [part for part in ("model", "rows") if part in self._trained]

    def _canonical(self, parts: dict[str, Any]) -> Tensors:
        """Trees of the model's and of the rows' parameters, or of something shaped like them."""
        rows = dict(tree_flatten(parts.get("rows", {})))
        return take(parts.get("model", {})) | {
            NAMES[name]: np.array(value, dtype=np.float32) for name, value in rows.items()
        }


class _Trained(nn.Module):
    """All that may have a gradient, as one module."""

    def __init__(self, model: nn.Module, rows: Rows | None) -> None:
        super().__init__()
        self.model = model
        if rows is not None:
            self.rows = rows


@dataclass(frozen=True)
class _Flat:
    """A batch as one row of its M real tokens: no padding is computed.

    Attributes:
        bounds: of the segments, see ``attention.PackedCache``.
        index_N, labels_N: positions that are scored, and the token due after each.
        places_M: see ``Rows.places``; None where no rows are trained.
    """

    tokens_1M: mx.array
    places_M: mx.array | None
    bounds: tuple[int, ...]
    index_N: mx.array
    labels_N: mx.array

    @classmethod
    def of(cls, batch: PackedBatch, rows: Rows | None) -> _Flat:
        is_real_BT = batch.segments_BT > 0
        tokens_M = batch.tokens_BT[is_real_BT]
        labels_M = batch.labels_BT[is_real_BT]
        starts = np.flatnonzero(batch.positions_BT[is_real_BT] == 0)
        index_N = np.flatnonzero(labels_M != IGNORED)
        return cls(
            tokens_1M=mx.array(tokens_M[None]),
            places_M=None if rows is None else rows.places(tokens_M),
            bounds=(*starts.tolist(), len(labels_M)),
            index_N=mx.array(index_N.astype(np.int32)),
            labels_N=mx.array(labels_M[index_N]),
        )


def _sum(sums: Any, gradients: Any) -> Any:
    """Two trees of gradients, of which the first may be None yet."""
    return gradients if sums is None else tree_map(mx.add, sums, gradients)
