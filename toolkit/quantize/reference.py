"""Llama-like decoders in NumPy, one matrix in memory at a time: the reference for models that do not fit.

It computes in float32 from any weights that can be read row by row: those of the trained model, or those of a GGUF file
dequantised. The second tells what a file's numbers mean from what llama.cpp makes of them; `activations` adds how its
kernels round. Pre-norm blocks of
grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) with rotary positions (Su et al. 2021, arXiv:2104.09864)
and SwiGLU (Shazeer 2020, arXiv:2002.05202).

Shapes: T tokens of a row, H hidden size, N query heads, K key heads, D head size, V vocabulary rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.quantize.architectures.decoder import EMBEDDING, HEAD, Decoder
from toolkit.quantize.architectures.rope import RopeSettings
from toolkit.tensor_files import StoredTensor

_HEAD_ROWS = 8192

Floats = NDArray[np.floating[Any]]
# (name of a matrix, inputs (T, C), first row, row behind the last) -> outputs (T, rows)
Multiply = Callable[[str, Sequence[Floats], int, int], list[Floats]]


class Weights(Protocol):
    """Tensors by their Hugging Face names."""

    def load(self, name: str) -> StoredTensor:
        """Load one tensor whole."""
        ...

    def rows(self, name: str, start: int, stop: int) -> StoredTensor:
        """Load some rows of it."""
        ...


def layerwise_logits(
    decoder: Decoder,
    weights: Weights,
    rows: Sequence[Sequence[int]],
    multiply: Multiply | None = None,
    nudge: float = 0.0,
) -> list[Floats]:
    """Compute the logits (T, V) at every position of every row, float32.

    multiply: how matrices are applied; default: in float32, exactly as they are read
    nudge:    move every embedded number by about this share of itself, always the same way: what it does to the logits
              tells how much rounding alone may do
    """
    model = _Model(decoder, weights, multiply or _exact_products(weights))
    states = [_embedded(weights, row, nudge) for row in rows]
    turns = [_rotations(decoder, len(row)) for row in rows]
    for layer in range(decoder.layers):
        block = f"model.layers.{layer}."
        states = _attended(model, block, states, turns)
        states = _fed_forward(model, block, states)
    epsilon = model.epsilon
    norm = _load(weights, "model.norm.weight")
    normed = [_rms(state, norm, epsilon) for state in states]
    head = EMBEDDING if decoder.tied else HEAD
    logits = [np.empty((len(row), decoder.vocabulary_rows), np.float32) for row in rows]
    for start in range(0, decoder.vocabulary_rows, _HEAD_ROWS):
        stop = min(start + _HEAD_ROWS, decoder.vocabulary_rows)
        for result, part in zip(logits, model.multiply(head, normed, start, stop), strict=True):
            result[:, start:stop] = part
    return logits


@dataclass(frozen=True)
class _Model:
    """What a pass through the layers needs to know."""

    decoder: Decoder
    weights: Weights
    multiply: Multiply

    @property
    def epsilon(self) -> float:
        return float(self.decoder.config.get("rms_norm_eps", 1e-6))


def _exact_products(weights: Weights) -> Multiply:
    def multiply(name: str, inputs: Sequence[Floats], start: int, stop: int) -> list[Floats]:
        matrix = weights.rows(name, start, stop).to_float32()
        return [array @ matrix.T for array in inputs]

    return multiply


def _attended(
    model: _Model, block: str, states: Sequence[Floats], turns: Sequence[tuple[Floats, Floats]]
) -> list[Floats]:
    """Add what attention says to every row's states (T, H)."""
    decoder, weights, epsilon = model.decoder, model.weights, model.epsilon
    norm = _load(weights, f"{block}input_layernorm.weight")
    inputs = [_rms(state, norm, epsilon) for state in states]
    heads = {"q": decoder.heads, "k": decoder.kv_heads, "v": decoder.kv_heads}
    parts: dict[str, list[Floats]] = {}
    for part, count in heads.items():
        projected = _linear(model, f"{block}self_attn.{part}_proj", inputs)
        parts[part] = [array.reshape(len(array), count, decoder.head_dim) for array in projected]
        name = f"self_attn.{part}_norm"
        if f"{block}{name}.weight" in decoder.required_shapes():
            scale = _load(weights, f"{block}{name}.weight")
            parts[part] = [_rms(array, scale, epsilon) for array in parts[part]]
    mixed = [
        _attention(_rotated(queries, *turn), _rotated(keys, *turn), values)
        for queries, keys, values, turn in zip(parts["q"], parts["k"], parts["v"], turns, strict=True)
    ]
    added = _linear(model, f"{block}self_attn.o_proj", mixed)
    return [state + more for state, more in zip(states, added, strict=True)]


def _fed_forward(model: _Model, block: str, states: Sequence[Floats]) -> list[Floats]:
    """Add what the feed-forward part says to every row's states (T, H)."""
    norm = _load(model.weights, f"{block}post_attention_layernorm.weight")
    inputs = [_rms(state, norm, model.epsilon) for state in states]
    gates = _linear(model, f"{block}mlp.gate_proj", inputs)
    ups = _linear(model, f"{block}mlp.up_proj", inputs)
    inner = [gate / (1 + np.exp(-gate)) * up for gate, up in zip(gates, ups, strict=True)]
    added = _linear(model, f"{block}mlp.down_proj", inner)
    return [state + more for state, more in zip(states, added, strict=True)]


def _attention(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Mix values (T, K, D) as queries (T, N, D) and keys (T, K, D) say, none seeing what follows it: (T, N · D)."""
    length, heads, size = queries.shape
    groups = heads // keys.shape[1]
    scores = np.einsum("tnd,snd->nts", queries, keys.repeat(groups, axis=1)) / np.float32(math.sqrt(size))
    scores = np.where(np.tri(length, dtype=bool), scores, np.float32(-np.inf))
    scores = np.exp(scores - scores.max(axis=2, keepdims=True))
    scores /= scores.sum(axis=2, keepdims=True)
    return np.einsum("nts,snd->tnd", scores, values.repeat(groups, axis=1)).reshape(length, heads * size)


def _rotations(decoder: Decoder, length: int) -> tuple[Floats, Floats]:
    """Return cosines and sines (T, D / 2) of every position's angles."""
    frequencies, scale = _frequencies(decoder.rope, decoder.head_dim)
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return (scale * np.cos(angles)).astype(np.float32), (scale * np.sin(angles)).astype(np.float32)


def _rotated(array: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Turn (T, heads, D): element i of the first half together with element i of the second."""
    first, second = np.split(array, 2, axis=2)
    cosines, sines = cosines[:, None], sines[:, None]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=2)


def _frequencies(rope: RopeSettings, size: int) -> tuple[NDArray[np.float64], float]:
    """Return the angle per position (D / 2,) and the factor on cosines and sines."""
    plain = rope.base ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    options: Any = rope.options
    factor = float(options.get("factor") or 1.0)
    original = float(options.get("original_max_position_embeddings") or rope.context)
    if rope.kind == "linear":
        return plain / factor, 1.0
    if rope.kind == "llama3":
        low, high = float(options.get("low_freq_factor", 1)), float(options.get("high_freq_factor", 4))
        share = np.clip((original / (2 * math.pi / plain) - low) / (high - low), 0, 1)
        return (1 - share) * plain / factor + share * plain, 1.0
    if rope.kind == "yarn":
        # Peng et al. 2023, arXiv:2309.00071: fast dimensions stay, slow ones are stretched, a ramp lies between.
        def dimension(turns: float) -> float:
            return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

        low = max(math.floor(dimension(float(options.get("beta_fast") or 32))), 0)
        high = min(math.ceil(dimension(float(options.get("beta_slow") or 1))), size - 1)
        ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
        return plain / factor * ramp + plain * (1 - ramp), 0.1 * math.log(factor) + 1
    return plain, 1.0


def _rms(state: Floats, weight: Floats, epsilon: float) -> Floats:
    """Scale to a root mean square of 1 over the last axis, times `weight`."""
    return state / np.sqrt(np.mean(state * state, axis=-1, keepdims=True) + np.float32(epsilon)) * weight


def _linear(model: _Model, module: str, inputs: Sequence[Floats]) -> list[Floats]:
    shapes = model.decoder.required_shapes()
    outputs = model.multiply(f"{module}.weight", inputs, 0, shapes[f"{module}.weight"][0])
    if f"{module}.bias" not in shapes:
        return outputs
    bias = _load(model.weights, f"{module}.bias")
    return [output + bias for output in outputs]


def _embedded(weights: Weights, row: Sequence[int], nudge: float) -> Floats:
    """Look up a row's embeddings (T, H)."""
    found = {token: weights.rows(EMBEDDING, token, token + 1).to_float32()[0] for token in set(row)}
    states = np.stack([found[token] for token in row])
    if not nudge:
        return states
    noise = np.random.default_rng(0).standard_normal(states.shape)
    return (states * (1 + nudge * noise)).astype(np.float32)


def _load(weights: Weights, name: str) -> Floats:
    return weights.load(name).to_float32()
