"""What MLX's CPU build is slow at, by other means: exponentials, and what is made of them.

The build takes an exponential in 15 to 20 ns, one number after the other, so that the activation of
the MLP and the softmax of attention cost as much as the products beside them. Here the exponential
is made of additions and products, which the build does in vectors, in half the time; activation and
attention have their gradients written out, so that no exponential is taken twice. (Compiled into
one kernel it would take a quarter, but within a gradient MLX compiles nothing.) On a GPU the
functions of MLX stay in place.

Shapes: H query heads share G key heads, L positions, D width of a head.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
from mlx_lm.tuner.lora import LoRALinear

from speakeasy_mlx.trail import both_ways, mark

_LOG2_E = 1.4426950408889634
_ROUND = 12582912.0 + 127
"""1.5 * 2**23, to which a float32 added is rounded to a whole number, in its lowest bits; and the
bias of a float32's exponent."""
_COEFFICIENTS = (0.001327647, 0.009675541, 0.055507133, 0.240221197, 0.693146967, 1.00000007)
"""2 ** x by powers of x from the fifth down, off by 7.5e-8 of it at most for x from -0.5 to 0.5."""
_MASKED = -1e30


def suits(values: mx.array) -> bool:
    """Whether what is made of these numbers is faster by the means here: float32 on a CPU."""
    return values.dtype == mx.float32 and mx.default_device().type == mx.DeviceType.cpu


def _exp(values: mx.array) -> mx.array:
    """2 ** n * 2 ** f with n whole and f small; 2 ** n by its bits. Ends at -87 and at 88."""
    powers = mx.clip(values, -87.0, 88.0) * _LOG2_E
    shifted = powers + _ROUND
    rest = powers - (shifted - _ROUND)
    series = rest * _COEFFICIENTS[0] + _COEFFICIENTS[1]
    for coefficient in _COEFFICIENTS[2:]:
        series = series * rest + coefficient
    return series * mx.view(mx.left_shift(mx.view(shifted, mx.int32), 23), mx.float32)


def exp(values: mx.array) -> mx.array:
    """Exponentials of float32 numbers; without a gradient of its own."""
    return _exp(values) if suits(values) else mx.exp(values)


def _silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    return gate * up / (1.0 + _exp(-gate))


def _silu_gate_gradients(
    gate: mx.array, up: mx.array, gradient: mx.array
) -> tuple[mx.array, mx.array]:
    share = 1.0 / (1.0 + _exp(-gate))
    return (
        gradient * up * (share * (1.0 + gate * (1.0 - share))),
        gradient * gate * share,
    )


@mx.custom_function
def silu_gate(gate: mx.array, up: mx.array) -> mx.array:
    """``silu(gate) * up`` (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
    return _silu_gate(gate, up)


@silu_gate.vjp
def _silu_gate_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, up = primals
    mark(cotangent)
    gradients = _silu_gate_gradients(gate, up, cotangent)
    mark(*gradients)
    return gradients


@mx.custom_function
def _attention(
    query_BGHLD: mx.array, key_BGLD: mx.array, value_BGLD: mx.array, mask_LL: mx.array
) -> tuple[mx.array, mx.array]:
    scores = query_BGHLD @ key_BGLD[:, :, None].swapaxes(-1, -2) + mask_LL
    exponentials = exp(scores - scores.max(axis=-1, keepdims=True))
    shares = exponentials * (1.0 / exponentials.sum(axis=-1, keepdims=True))
    return shares @ value_BGLD[:, :, None], shares


@_attention.vjp
def _attention_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
    query, key, value, mask = primals
    result, shares = outputs
    gradient = cotangents[0]
    mark(gradient)
    # dS = P * (dP - rowsum(dP * P)), and that sum is rowsum(dO * O)
    # (Dao et al. 2022, https://arxiv.org/abs/2205.14135, appendix B).
    sums = (gradient * result).sum(axis=-1, keepdims=True)
    errors = shares * (gradient @ value[:, :, None].swapaxes(-1, -2) - sums)
    gradients = (
        errors @ key[:, :, None],
        (errors.swapaxes(-1, -2) @ query).sum(axis=2),
        (shares.swapaxes(-1, -2) @ gradient).sum(axis=2),
    )
    mark(*gradients)
    return *gradients, mx.zeros_like(mask)


def causal_mask(length: int) -> mx.array:
    """What to add to scores_LL."""
    index = mx.arange(length)
    return mx.where(index[:, None] >= index, 0.0, _MASKED)


def causal_attention(
    query_BHLD: mx.array, key_BGLD: mx.array, value_BGLD: mx.array, scale: float, mask_LL: mx.array
) -> mx.array:
    """Softmax attention of one segment, float32, which keeps its scores for the gradient."""
    batch, heads, length, width = query_BHLD.shape
    groups = key_BGLD.shape[1]
    query = (query_BHLD * scale).reshape(batch, groups, heads // groups, length, width)
    mark(query, key_BGLD, value_BGLD)
    outputs: Any = _attention(query, key_BGLD, value_BGLD, mask_LL)
    mark(outputs[0])
    return outputs[0].reshape(batch, heads, length, width)


def make_lean(model: Any) -> None:
    """Give a model's gated activation, a function of its module, that from here; on a CPU alone."""
    names = vars(sys.modules[type(model).__module__])
    own: Any = names.get("swiglu")
    if own is None or getattr(own, "is_lean", False):
        return

    def swiglu(gate: mx.array, up: mx.array) -> Any:
        if not (suits(gate) and suits(up)):
            return own(gate, up)
        result: Any = silu_gate(gate, up)
        mark(result)
        return result

    swiglu.is_lean = True  # type: ignore[attr-defined]
    names["swiglu"] = swiglu


class LeanLoRALinear(LoRALinear):
    """mlx-lm's adapted layer, of which the low-rank term is added by the product itself.

    The factors are float32 and multiplied in the activations' type.
    """

    def __call__(self, hidden: mx.array) -> mx.array:
        """``linear(x) + scale * x a b``."""
        hidden = both_ways(hidden)
        result: mx.array = self.linear(hidden)
        inner = (self.dropout(hidden) @ self.lora_a.astype(hidden.dtype)) * self.scale
        result = mx.addmm(result, inner, self.lora_b.astype(hidden.dtype))
        mark(result)
        return result
