"""Rotary position embeddings in ``config.json``: two spellings of one fact.

transformers 5 writes ``rope_parameters`` (``rope_type``, ``rope_theta`` and the scaling's own
numbers); transformers 4 wrote ``rope_theta`` and ``rope_scaling``, and most of mlx-lm's models read
nothing else. Given the new spelling alone, mlx-lm silently takes theta 10000: every logit is wrong
and nothing says so. So every config that speakeasy writes carries both, and every config that it
hands to a backend is completed first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speakeasy.errors import ModelError

DEFAULT_THETA = 10_000.0
"""Where a config names none (``RotaryEmbeddingConfigMixin.default_theta`` of transformers)."""


def normalized_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings of a config's rotary embedding.

    Returns:
        ``rope_theta`` (float), ``rope_scaling`` (a dict with ``rope_type`` and the scaling's
        numbers, or None) and ``rope_parameters`` (the same with ``rope_theta`` in it).

    Raises:
        ModelError: a theta is no positive number; the spellings contradict each other (see
            ``check_rope``), or the model has parameters for each layer type, which mlx-lm's
            spelling cannot hold.
    """
    new = _mapping(config, "rope_parameters")
    old = _mapping(config, "rope_scaling")
    thetas = {
        spelling: _theta(spelling, value)
        for spelling, value in {
            "rope_theta": config.get("rope_theta"),
            "rope_parameters.rope_theta": new.get("rope_theta"),
            "rope_scaling.rope_theta": old.get("rope_theta"),
        }.items()
        if value is not None
    }
    if len(set(thetas.values())) > 1:
        said = " and ".join(f"{spelling} {value:g}" for spelling, value in thetas.items())
        raise ModelError(f"config.json: {said} contradict each other; correct the wrong one")
    theta = next(iter(thetas.values()), DEFAULT_THETA)
    scaling = _scaling(new) or _scaling(old)
    if new and old and _scaling(new) != _scaling(old):
        raise ModelError(
            f"config.json: rope_parameters {new} and rope_scaling {old} contradict each other; "
            "correct the wrong one"
        )
    return {
        "rope_theta": theta,
        "rope_scaling": scaling or None,
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": theta},
    }


def check_rope(config: Mapping[str, Any]) -> None:
    """Refuse a config whose two spellings contradict each other.

    Raises:
        ModelError: naming both values.
    """
    normalized_rope(config)


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` with both spellings, to write or to hand to a backend.

    Raises:
        ModelError: as ``normalized_rope``.
    """
    rope = normalized_rope(config)
    completed = {**config, **rope}
    if rope["rope_scaling"] is None:
        # Absent and null mean the same; absent is what both libraries write.
        del completed["rope_scaling"]
    return completed


def _theta(spelling: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise ModelError(f"config.json: {spelling} is {value!r}; expected a positive number")
    return float(value)


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ModelError(f"config.json: {key} is {value!r}; expected an object")
    nested = [name for name, inner in value.items() if isinstance(inner, dict)]
    if nested:
        raise ModelError(
            f"config.json: {key} differs by layer type ({', '.join(nested)}); only models with "
            "one rotary embedding for all layers (the Llama family) are supported"
        )
    return value


def _scaling(spelling: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling alone, its type under ``rope_type``; empty where nothing is scaled."""
    rope_type = spelling.get("rope_type") or spelling.get("type") or "default"
    rest = {k: v for k, v in spelling.items() if k not in ("rope_type", "type", "rope_theta")}
    if rope_type == "default" and not rest:
        return {}
    return {"rope_type": rope_type, **rest}
