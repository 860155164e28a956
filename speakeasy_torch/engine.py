"""The PyTorch engine: what a plan trains of a transformers model, and the rest of it frozen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from speakeasy.batches.types import IGNORED, PackedBatch
from speakeasy.config import OptimizerConfig, Precision
from speakeasy.errors import BackendError
from speakeasy.training.backend import Device, EngineOptions, Sampling, Tensors
from speakeasy.training.group import connected, dropout_seed
from speakeasy.training.memory import available_bytes
from speakeasy.training.rate import Measure, best_rate
from speakeasy_torch import generate as generation
from speakeasy_torch.attention import Segments
from speakeasy_torch.compiled import check_compiler, compile_blocks
from speakeasy_torch.heap import Heap
from speakeasy_torch.last_block import narrow
from speakeasy_torch.lean import make_lean
from speakeasy_torch.loss import log_sums, target_losses
from speakeasy_torch.merged import Merged
from speakeasy_torch.model import ADAPTER, DTYPES, adapt, device, load_base, put, unfreeze
from speakeasy_torch.processes import TorchGroup, sum_gradients
from speakeasy_torch.processor import prefers_bfloat16, settle_threads
from speakeasy_torch.rows import Rows
from speakeasy_torch.sharding import shard


def describe_device() -> Device:
    """CUDA's device of this process, or the CPU; and the precision that suits it."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        free, _ = torch.cuda.mem_get_info()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Device("cuda", properties.name, free, "bfloat16", "the GPU computes in bfloat16")
        return Device("cuda", properties.name, free, "float32", "the GPU has no bfloat16")
    name = f"CPU, {settle_threads()} threads"
    if prefers_bfloat16():
        why = "this CPU multiplies bfloat16 faster than float32"
        return Device("cpu", name, available_bytes(), "bfloat16", why)
    return Device("cpu", name, available_bytes(), "float32", "exact and fast on any CPU")


@torch.no_grad()
def matmul_rate(precision: Precision, measure: Measure = best_rate) -> float:
    """Floating-point operations a second of a large square product."""
    size = 8192 if device().type == "cuda" else 1024
    left, right = torch.ones(2, size, size, dtype=DTYPES[precision], device=device())
    return measure(lambda: (left @ right)[0, 0].item(), 2 * size**3)  # item() waits


def load(options: EngineOptions) -> TorchEngine:
    """Load the model, put the adapter in, make the optimizer."""
    return TorchEngine(options)


def join() -> TorchGroup:
    """Connect with the processes that torchrun or accelerate started."""
    return TorchGroup()


_NOUGHT_11 = np.zeros((1, 1), dtype=np.int32)
_ONE_TOKEN = PackedBatch(_NOUGHT_11, _NOUGHT_11 + 1, _NOUGHT_11 + IGNORED, _NOUGHT_11 - 1)


class TorchEngine:
    """See ``speakeasy.training.backend.Engine``."""

    lanes = 1  # more were not faster (docs/benchmarks.md): PyTorch runs everything on all cores

    def __init__(self, options: EngineOptions) -> None:
        self._device = device()
        # Gathered weights come and go: on a heap that gives nothing back they leave holes.
        self._heap = None if options.fsdp else Heap()
        self._seed, self._group = options.seed, options.group
        self._no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device)
        if self._device.type == "cuda" and options.precision != "float32":
            # The adapter is float32; TF32 is precise enough beside 16-bit activations.
            torch.set_float32_matmul_precision("high")
        if options.compile:
            if options.gradient_checkpointing and options.lora and options.lora.dropout:
                raise BackendError(
                    "--compile with --gradient-checkpointing and --lora-dropout: the recomputation "
                    "would draw another dropout and give wrong gradients; leave one of them out"
                )
            check_compiler(self._device)
        self._model = load_base(options)
        self._rows = Rows(self._model, options.rows) if options.rows else None
        self._parameters = unfreeze(self._model) if options.full else {}
        if options.lora:
            self._parameters |= adapt(self._model, options)
        make_lean(self._model, ADAPTER)
        added = options.fsdp or options.compile  # neither of which bears sums (training.merging)
        self._merged = None if added else Merged(self._model, ADAPTER)
        self._narrow = narrow(self._model)
        self._is_divided = options.fsdp
        if options.fsdp:
            shard(self._model, self._parameters.values(), self._device, options.group)
        if options.compile:
            compile_blocks(self._model)
        if self._rows is not None:
            self._parameters |= self._rows.parameters
        self._optimizer = self._adamw(options.optimizer) if options.optimizer else None
        self._max_norm = options.optimizer.max_grad_norm if options.optimizer else 0.0
        self._model.eval()

    def accumulate(self, batch: PackedBatch, scale: float) -> torch.Tensor:
        """Add the gradient of ``scale`` x (sum of target losses); returns the sum."""
        if not self._takes_part(batch):
            return torch.zeros(())
        self._model.train()
        with self._passing():
            total, _, _ = self._losses(batch)
            (total * scale).backward()
        return total.detach()

    def apply(self, learning_rate: float) -> float:
        """Clip, take one AdamW step, clear the gradients; returns the norm before clipping."""
        assert self._optimizer is not None
        if self._group.size > 1:
            sum_gradients(self._parameters.values())
        norm = float(
            torch.nn.utils.clip_grad_norm_(
                self._parameters.values(), self._max_norm or math.inf, error_if_nonfinite=False
            )
        )
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate * group["rate"]
            self._optimizer.step()
            self._changed()
        self.discard()
        if self._heap is not None:
            self._heap.end_step()
        return norm

    def discard(self) -> None:
        """Forget accumulated gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def token_losses(self, batch: PackedBatch) -> np.ndarray:
        """Losses_BT float32, nats; 0 where there is no target."""
        self._model.eval()
        losses_BT = np.zeros(batch.labels_BT.shape, dtype=np.float32)
        if self._takes_part(batch):
            with self._passing():
                _, losses_N, is_target_BT = self._losses(batch)
            losses_BT[is_target_BT] = losses_N.cpu().numpy()
        return losses_BT

    @torch.no_grad()
    def predictions(self, batch: PackedBatch, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden_ND and log_sums_N at the targets, float32; the sums leave out ``ids``."""
        self._model.eval()
        with self._passing():
            hidden_ND, _ = self._hidden(batch)
        head_VD = self._model.get_output_embeddings().weight
        return _array(hidden_ND), _array(log_sums(hidden_ND, head_VD, self._tensor(ids)))

    @torch.no_grad()
    def next_logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Logits_BTV float32 of whole rows without padding."""
        self._model.eval()
        tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(self._device)
        return self._model(input_ids=tokens, use_cache=False).logits.float().cpu().numpy()

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
        torch.manual_seed(dropout_seed(self._seed, step, self._group))

    def trainables(self) -> Tensors:
        """Canonical name -> value, float32."""
        return {name: _array(parameter) for name, parameter in self._parameters.items()}

    def moments(self) -> tuple[Tensors, Tensors]:
        """AdamW's first and second moments; zeros before the first step."""
        return self._moment("exp_avg"), self._moment("exp_avg_sq")

    def restore(self, trainables: Tensors, first: Tensors, second: Tensors, step: int) -> None:
        """Take over a training state with ``step`` AdamW steps behind it."""
        assert self._optimizer is not None
        self.set_trainables(trainables)
        for name, parameter in self._parameters.items():
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(step), dtype=torch.float32, device=self._device),
                "exp_avg": torch.from_numpy(first[name].copy()).to(self._device),
                "exp_avg_sq": torch.from_numpy(second[name].copy()).to(self._device),
            }

    def set_trainables(self, trainables: Tensors) -> None:
        """Put weights in place and leave the optimizer alone."""
        put(self._parameters, trainables)
        self._changed()

    def device_peak_bytes(self) -> int | None:
        """CUDA's high-water mark; None on the CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def _changed(self) -> None:
        """What is made of the trained values follows them."""
        if self._merged is not None:
            self._merged.refresh()
        if self._rows is not None:
            self._rows.write()

    def _moment(self, key: str) -> Tensors:
        assert self._optimizer is not None
        return {
            name: _array(self._optimizer.state[parameter].get(key, torch.zeros_like(parameter)))
            for name, parameter in self._parameters.items()
        }

    def _adamw(self, config: OptimizerConfig) -> torch.optim.AdamW:
        rows = {} if self._rows is None else self._rows.parameters
        rest = [parameter for name, parameter in self._parameters.items() if name not in rows]
        groups = [
            {"params": parameters, "rate": rate}
            for parameters, rate in ((rest, 1.0), (list(rows.values()), config.rows_rate))
            if parameters
        ]
        return torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _takes_part(self, batch: PackedBatch) -> bool:
        """Whether a batch goes through the model: one of no rows does where others wait for it."""
        return self._is_divided or len(batch.tokens_BT) > 0

    def _passing(self) -> AbstractContextManager[None]:
        """Around a pass, in which the processes of a divided model talk to each other."""
        return connected() if self._is_divided else nullcontext()

    def _losses(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Summed loss, losses_N of the batch's targets in row order, and where they stand."""
        hidden_ND, labels_N = self._hidden(batch)
        total, losses_N = target_losses(
            hidden_ND,
            self._model.get_output_embeddings().weight,
            self._tensor(labels_N),
            *(() if self._rows is None else (self._rows.head_RD, self._rows.ids_R)),
        )
        return total, losses_N, batch.labels_BT != IGNORED

    def _hidden(self, batch: PackedBatch) -> tuple[torch.Tensor, np.ndarray]:
        """Hidden_ND at the batch's targets in row order, and labels_N.

        A batch of no rows goes through as one token that is no target.
        """
        if not len(batch.tokens_BT):
            batch = _ONE_TOKEN
        is_real_BT = batch.segments_BT > 0
        tokens_M = batch.tokens_BT[is_real_BT]
        labels_M = batch.labels_BT[is_real_BT]
        positions_M = batch.positions_BT[is_real_BT]
        index_N = np.flatnonzero(labels_M != IGNORED)
        scored_N = self._tensor(index_N)
        bounds = (*np.flatnonzero(positions_M == 0).tolist(), len(positions_M))
        # int() is on the device: nothing waits.
        offsets = self._tensor(np.array(bounds)).int() if self._device.type == "cuda" else None
        inputs = (
            {"input_ids": self._tensor(tokens_M)[None]}
            if self._rows is None
            else {"inputs_embeds": self._rows.embed(tokens_M)[None]}
        )
        found = self._model.get_decoder()(
            **inputs,
            position_ids=self._tensor(positions_M)[None],
            # Any mask of four dimensions keeps transformers from building one of M x M.
            attention_mask=self._no_mask,
            use_cache=False,
            segments=Segments(bounds, offsets),
            scored=scored_N if self._narrow else None,
        ).last_hidden_state[0]
        return found if self._narrow else found[scored_N], labels_M[index_N]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array.astype(np.int64))
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()
