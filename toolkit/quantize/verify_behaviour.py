"""The last gate: llama.cpp on the file against the file's own numbers, and what quantisation lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.weights import GgufTensors
from toolkit.quantize.activations import kernel_products
from toolkit.quantize.architectures.decoder import Decoder
from toolkit.quantize.comparison import Logits, compare, not_nan, reference_logits, row_divergences, same_choices, short
from toolkit.quantize.plan import QuantType
from toolkit.quantize.probe_rows import ProbeRows
from toolkit.quantize.reference import layerwise_logits

# Correct files: up to 4e-4 with the activations rounded as llama.cpp rounds them (measured, 15 types, bundled and
# random models); each classic mistake: more than 2.
MAX_ENGINE_KL = 1e-3
# Deep models of random weights turn a difference in the last bit of a float into whole steps of 8-bit activations.
# Where the reference differs from itself by more than the limit when its input moves by a millionth, nobody could come
# closer to it, so the limit is twice that; but never so high that a mistake would pass.
_NUDGE = 1e-6
_TIMES_THE_NOISE = 2
_MAX_NOISY_KL = 5e-2


@dataclass(frozen=True)
class Agreement:
    """How closely llama.cpp follows a file's own numbers.

    kl:          mean divergence from the reference, nats per position
    limit:       the largest that is sound
    activations: how the reference that came closer treats them: `rounded` or `exact`
    noise:       how far the reference differs from itself, its input moved by a millionth; where that was asked
    """

    kl: float
    limit: float
    activations: str
    noise: float | None = None

    @property
    def sound(self) -> bool:
        """Whether llama.cpp does what the file says."""
        return self.kl <= self.limit

    def figures(self) -> dict[str, Any]:
        """Round for people."""
        noise = {} if self.noise is None else {"kl_of_rounding_noise": short(self.noise)}
        found = {"kl_to_the_files_own_numbers": short(self.kl), "engine_kl_limit": short(self.limit), **noise}
        return {**found, "activations": self.activations}


def verify_behaviour(
    path: Path, decoder: Decoder, kind: QuantType, reference: Logits, probes: ProbeRows
) -> tuple[bool, dict[str, Any]]:
    """Ask llama.cpp, and a reference that computes with the file's own numbers; then the trained model.

    The first two must agree: what the file says is then what llama.cpp does. What quantisation lost against the trained
    model (`reference`, one (T, V) array for each row) is reported; ruin fails. Returns (passed, figures).
    """
    scorer = GgufScorer(path, exact=True)
    try:
        mine = reference_logits(scorer, probes.tokens)
    finally:
        scorer.close()
    engine = engine_agreement(decoder, GgufTensors(path), mine, probes.tokens)
    loss = compare(reference, mine, probes.tokens)
    passed = engine.sound and loss.mean_kl <= kind.kl_limit
    greedy = greedy_figures(reference, mine, probes)
    return passed, {**engine.figures(), **loss.figures(), "kl_limit": kind.kl_limit, **greedy}


def engine_agreement(decoder: Decoder, tensors: GgufTensors, mine: Logits, rows: list[list[int]]) -> Agreement:
    """Compare llama.cpp's logits with a reference on the file's dequantised tensors.

    The reference first rounds activations as ggml's CPU kernels do. Builds that hand matrices to a BLAS library or a
    GPU round otherwise or not at all (some only in long rows), so where that does not agree, each row may agree with
    exact activations instead. A fault in the file agrees with neither.
    """
    positions = sum(map(len, rows))
    as_kernels = layerwise_logits(decoder, tensors, rows, kernel_products(tensors))
    rounded = row_divergences(as_kernels, mine)
    kl = not_nan(rounded.sum() / positions)
    if kl <= MAX_ENGINE_KL:
        return Agreement(kl, MAX_ENGINE_KL, "rounded")
    exact = row_divergences(layerwise_logits(decoder, tensors, rows), mine)
    closer = not_nan(np.minimum(rounded, exact).sum() / positions)
    which = "rounded" if closer == kl else "exact"
    if closer <= MAX_ENGINE_KL:
        return Agreement(closer, MAX_ENGINE_KL, which)
    nudged = layerwise_logits(decoder, tensors, rows, kernel_products(tensors), _NUDGE)
    noise = not_nan(row_divergences(as_kernels, nudged).sum() / positions)
    limit = max(MAX_ENGINE_KL, min(_TIMES_THE_NOISE * noise, _MAX_NOISY_KL))
    return Agreement(closer, limit, which, noise)


def greedy_figures(reference: Logits, mine: Logits, probes: ProbeRows) -> dict[str, Any]:
    """Report how often both models would choose the same next token of an answer, given all of it before."""
    same = [row for row in same_choices(reference, mine, probes.answers) if len(row)]
    tokens = sum(map(len, same))
    if not tokens:
        return {}
    return {
        "greedy_agreement": round(sum(int(row.sum()) for row in same) / tokens, 4),
        "greedy_tokens": tokens,
        "greedy_answers": f"{sum(bool(row.all()) for row in same)} of {len(same)} alike",
        "greedy_on": probes.answers_from,
    }
