"""How much memory training takes, by arithmetic alone: for `--dry-run` and `toolkit doctor`.

A guess, made before anything is loaded. It imports nothing, so that it works where the rest does not.
"""

from __future__ import annotations

# Each trainable weight, its gradient and each of the optimizer's moments is a float32.
FLOAT32_BYTES = 4
# Numbers kept for each position and unit of width in a decoder block, for the backward pass (Korthikanti et al. 2022,
# arXiv:2205.05198, equation 2, without the attention matrix; doubled, since gated feed-forward layers are wider).
ACTIVATIONS_PER_UNIT = 34
# With gradient checkpointing a block keeps its input, and one block at a time is computed again.
CHECKPOINTED_PER_UNIT = 2
# Bits of a weight in a 4-bit or 8-bit base with one scale and one offset of 16 bits for 64 weights.
QUANTISED_BITS = {4: 4.5, 8: 8.5}

# Decoders as people fine-tune them (Qwen2.5 technical report, arXiv:2412.15115, table 1, and Qwen2.5-Coder's,
# arXiv:2409.12186): name → parameters, those of its embedding and head, hidden size, blocks, LoRA weights a rank.
KNOWN_SHAPES: dict[str, tuple[int, int, int, int, int]] = {
    "0.5B": (494_032_768, 136_134_656, 896, 24, 549_888),
    "1.5B": (1_543_714_304, 233_373_696, 1536, 28, 1_154_048),
    "3B": (3_085_938_688, 311_164_928, 2048, 36, 1_870_848),
    "7B": (7_615_616_512, 1_089_994_752, 3584, 28, 2_523_136),
    "14B": (14_770_033_664, 1_557_135_360, 5120, 48, 4_300_800),
    "32B": (32_763_876_352, 1_557_135_360, 5120, 64, 8_388_608),
}


def training_bytes(
    *,
    frozen_bytes: float,
    trainable: int,
    positions: int,
    hidden_size: int,
    layers: int,
    checkpointing: bool,
    activation_bytes: int,
    moments: int = 2,
    checkpoint_layers: int = 1,
) -> int:
    """Add up weights, optimizer and the activations of one micro-batch of `positions` tokens.

    frozen_bytes covers the base that does not learn; activation_bytes is the size of one number (2 for bfloat16);
    moments is what the optimizer keeps for each weight (two for AdamW); with checkpointing, every so many blocks are
    recomputed (`checkpoint_layers`).
    """
    block = positions * hidden_size * activation_bytes
    recomputed = -(-layers // checkpoint_layers) if checkpointing else 0
    whole = layers - recomputed + bool(recomputed)  # blocks with everything they compute: one of them at a time
    activations = block * (recomputed * CHECKPOINTED_PER_UNIT + whole * ACTIVATIONS_PER_UNIT)
    return round(trainable * FLOAT32_BYTES * (2 + moments) + frozen_bytes + activations)


def lora_bytes(shape: str, *, weight_bytes: float, rank: int = 16, positions: int = 1024) -> int:
    """Guess what LoRA on one of `KNOWN_SHAPES` takes: batch 1, gradient checkpointing, bfloat16 activations.

    weight_bytes is for a weight of the decoder blocks (2 for bfloat16); the embedding and the head stay at 2 or more.
    """
    parameters, embeddings, hidden, layers, per_rank = KNOWN_SHAPES[shape]
    frozen = (parameters - embeddings) * weight_bytes + embeddings * max(weight_bytes, 2)
    return training_bytes(
        frozen_bytes=frozen,
        trainable=per_rank * rank,
        positions=positions,
        hidden_size=hidden,
        layers=layers,
        checkpointing=True,
        activation_bytes=4 if weight_bytes == 4 else 2,
    )


def largest_fitting(memory_bytes: float, *, weight_bytes: float) -> str | None:
    """Name the largest of `KNOWN_SHAPES` whose LoRA training fits, or None when not even the smallest does."""
    fitting = [shape for shape in KNOWN_SHAPES if lora_bytes(shape, weight_bytes=weight_bytes) <= memory_bytes]
    return fitting[-1] if fitting else None
