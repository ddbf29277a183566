"""Batched generation with a key/value cache: ragged prompts padded on the left, finished rows dropped as they end.

Shapes: B rows still running, T positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from toolkit.errors import ToolkitError
from toolkit.protocols import FinishReason, GeneratedToken, Sampling
from toolkit.torch_backend.model import SplitModel

_MAX_ROWS = 64
_MAX_CACHED_TOKENS = 65_536


@dataclass
class _Group:
    """The rows that run together. All tensors have one entry per running row.

    rows:    (B,) indices into the prompts
    tokens:  (B, T) int64 to feed next (the padded prompts, then one token a row)
    mask:    (B, cached + T) int64, 0 on padding
    limits:  (B,) new tokens each row may still get
    """

    rows: np.ndarray
    tokens: Tensor
    mask: Tensor
    limits: np.ndarray
    cache: Any
    padded: bool


def generate(split: SplitModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
    """Continue every prompt and stream the tokens; rows of like length run together.

    A row ends with `stop` at a stop token (not yielded) or with `length` at `max_new_tokens` or the model's context.
    What is sampled for a row depends on (seed, row) and its prompt, not on the rows that run beside it.

    Raises:
        ToolkitError: a prompt is empty or fills the model's context.
    """
    context = getattr(split.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise ToolkitError(f"prompt {row + 1} has {len(prompt)} tokens; the model takes 1 to {context - 1}")
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    start = 0
    while start < len(order):
        rows = _next_group(order, start, prompts, sampling)
        start += len(rows)
        yield from _run(split, _pad(split, rows, prompts, sampling, context), sampling)


def _next_group(order: list[int], start: int, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[int]:
    rows: list[int] = []
    for row in order[start : start + _MAX_ROWS]:
        longest = len(prompts[row]) + sampling.max_new_tokens
        if rows and longest * (len(rows) + 1) > _MAX_CACHED_TOKENS:
            break
        rows.append(row)
    return rows


def _pad(
    split: SplitModel, rows: list[int], prompts: Sequence[Sequence[int]], sampling: Sampling, context: int
) -> _Group:
    longest = max(len(prompts[row]) for row in rows)
    tokens = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        tokens[i, longest - len(prompts[row]) :] = prompts[row]
        mask[i, longest - len(prompts[row]) :] = 1
    limits = np.array([min(sampling.max_new_tokens, context - len(prompts[row])) for row in rows])
    return _Group(
        rows=np.array(rows),
        tokens=split.to_device(tokens),
        mask=split.to_device(mask),
        limits=limits,
        cache=DynamicCache(config=split.model.config),
        padded=bool((mask == 0).any()),
    )


def _run(split: SplitModel, group: _Group, sampling: Sampling) -> Iterator[GeneratedToken]:
    draws = {int(row): np.random.default_rng([sampling.seed, int(row)]) for row in group.rows}
    stop_ids = np.array(sampling.stop_ids, np.int64)
    while len(group.rows):
        if (done := group.limits <= 0).any():
            yield from _finish(group, done, "length")
            _keep(split, group, ~done)
            continue
        logits = _next_logits(split, group)
        uniform = np.array([draws[int(row)].random() for row in group.rows]) if sampling.temperature > 0 else None
        chosen = pick(logits, sampling, uniform).cpu().numpy()
        group.limits = group.limits - 1
        stopped = np.isin(chosen, stop_ids)
        for row, token in zip(group.rows[~stopped], chosen[~stopped], strict=True):
            yield GeneratedToken(int(row), int(token))
        yield from _finish(group, stopped, "stop")
        full = ~stopped & (group.limits <= 0)
        yield from _finish(group, full, "length")
        group.tokens = split.to_device(chosen[:, None].astype(np.int64))
        group.mask = torch.cat([group.mask, torch.ones_like(group.tokens)], dim=1)
        _keep(split, group, ~(stopped | full))


def _finish(group: _Group, which: np.ndarray, reason: FinishReason) -> Iterator[GeneratedToken]:
    for row in group.rows[which]:
        yield GeneratedToken(int(row), None, reason)


def _keep(split: SplitModel, group: _Group, which: np.ndarray) -> None:
    """Drop the rows that are done, from the cache too."""
    if which.all():
        return
    kept = split.to_device(np.flatnonzero(which))
    group.rows, group.limits = group.rows[which], group.limits[which]
    group.tokens, group.mask = group.tokens[kept], group.mask[kept]
    if len(kept) and group.cache.get_seq_length():
        group.cache.batch_select_indices(kept)


@torch.no_grad()
def _next_logits(split: SplitModel, group: _Group) -> Tensor:
    """Feed the pending tokens and return (B, V) float32 logits for what follows."""
    positions = (group.mask.cumsum(1) - 1).clamp_min(0)[:, -group.tokens.shape[1] :]
    with split.arithmetic():
        hidden = split.decoder(
            input_ids=group.tokens,
            attention_mask=group.mask if group.padded else None,
            position_ids=positions,
            past_key_values=group.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        return split.head(hidden).float()


def pick(logits: Tensor, sampling: Sampling, uniform: np.ndarray | None) -> Tensor:
    """Choose a token per row: the likeliest, or by inverting the cumulative distribution at `uniform` (B,) in [0, 1).

    The filters apply in the usual order: temperature, top-k, top-p (Holtzman et al. 2020, arXiv:1904.09751); the last
    keeps the fewest tokens that hold probability `top_p` and always the first.
    """
    if uniform is None:
        return logits.argmax(dim=-1)
    values, ids = (logits / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k > 0:
        values[:, sampling.top_k :] = -torch.inf
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = before >= sampling.top_p
    dropped[:, 0] = False
    probabilities = probabilities.masked_fill(dropped, 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    target = torch.from_numpy(uniform.astype(np.float32)).to(cumulative.device)[:, None] * cumulative[:, -1:]
    index = (cumulative <= target).sum(dim=-1, keepdim=True)
    last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(index, last)).squeeze(1)
