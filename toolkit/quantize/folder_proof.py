"""Prove that an exported model folder holds the trained model. Every gate passes or fails by name, with its figures.

structure  the files hold the tensors that were planned, in their precisions and shapes
tokenizer  the folder's own tokenizer gives the same ids, and writes the same conversations
weights    every tensor, read back, against the merged one that it was made from
behaviour  the folder, opened as a model, against the trained model; a packed one also against its dequantised numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.affine import AffineTensors, open_tensors
from toolkit.backends import PACKAGES, Target, choose_backend, open_target
from toolkit.checksums import file_sha256
from toolkit.datasets.schema import Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError
from toolkit.protocols import Scorer
from toolkit.quantize.comparison import compare, short, with_reference
from toolkit.quantize.folder_plan import FolderPlan
from toolkit.quantize.merge import MergedTensors
from toolkit.quantize.probe_rows import choose_rows
from toolkit.quantize.probes import CONVERSATIONS, TEXTS
from toolkit.quantize.reference import layerwise_logits
from toolkit.quantize.requests import Notify
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import FolderSource, read_config
from toolkit.quantize.stream import BLOCK_WEIGHTS
from toolkit.quantize.verify import Gate
from toolkit.quantize.verify_behaviour import greedy_figures
from toolkit.tensor_files import FolderTensors

# Mean KL divergence of an engine from the folder's own numbers: both compute in float32.
_MAX_ENGINE_KL = 1e-4
# Of the free memory that a float32 copy of the model may take.
_SHARE = 0.5
# Relative root mean square error: the rounding of a float, and about twice what packing makes of Gaussian weights.
_ROUNDING = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 4e-3}
_PACKING = {2: 0.9, 3: 0.4, 4: 0.2, 5: 0.1, 6: 0.05, 8: 0.015}
# Mean KL divergence from the trained model, in nats, above which a folder is broken rather than coarse.
_KL_OF_ROUNDING = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 2e-2}
_KL_OF_PACKING = {2: 4.0, 3: 2.0, 4: 1.0, 5: 0.5, 6: 0.2, 8: 5e-2}


class FolderProver:
    """Compares an exported folder with the model that it was made from."""

    def __init__(
        self,
        source: FolderSource,
        plan: FolderPlan,
        samples: Samples,
        open_reference: Callable[[], Scorer],
        notify: Notify,
    ) -> None:
        """Prepare to prove.

        samples:        of the training data, to compare on beside the conversations of `probes`
        open_reference: opens the trained model

        Raises:
            ToolkitError: the model can be opened neither whole nor layer by layer.
        """
        self._source = source
        self._plan = plan
        self._samples = samples
        self._open_reference = open_reference
        self._notify = notify
        self._fits = 4 * plan.weights <= _SHARE * psutil.virtual_memory().available
        if not self._fits and source.decoder is None:
            raise ToolkitError(
                f"{(source.config.get('architectures') or ['?'])[0]} can be verified only where its float32 "
                f"({4 * plan.weights / 1e9:,.0f} GB) fits into half of the free memory",
                where=source.folder,
                hint="Free some memory, or go without: --no-verify",
            )

    def prove(self, folder: Path) -> list[Gate]:
        """Run the gates in order; a folder whose tensors are not those planned is not asked further."""
        self._notify(f"verifying {self._plan.name}: structure, tokenizer")
        gates = [verify_structure(folder, self._plan)]
        if not gates[0].passed:
            return gates
        gates.append(verify_tokenizer(self._source, folder, self._samples.conversations))
        self._notify(f"verifying {self._plan.name}: weights")
        gates.append(verify_weights(self._source, self._plan, folder))
        self._notify(f"verifying {self._plan.name}: behaviour")
        gates.append(self._behaviour(folder))
        return gates

    def _behaviour(self, folder: Path) -> Gate:
        """Ask the folder and the trained model for logits: whole where float32 fits, else layer by layer."""
        source, plan, decoder = self._source, self._plan, self._source.decoder
        probes = choose_rows(source, self._samples, int(source.config.get("max_position_embeddings") or 2048))
        packed = plan.format == "mlx"
        figures: dict[str, Any] = {}
        own: Sequence[NDArray[Any]] | None = None
        if decoder is not None and (packed or not self._fits):
            shapes = {name: source.tensors.shape(name) for name in source.tensors}
            stored = MergedTensors(open_tensors(folder, read_config(folder)), None, shapes)
            own = layerwise_logits(decoder, stored, probes.tokens)
        if self._fits:
            mine = with_reference(lambda: _open_folder(folder, source.label, packed), probes.tokens)
            reference = with_reference(self._open_reference, probes.tokens)
            figures["asked"] = "mlx" if packed and has_mlx() else "torch"
        elif decoder is not None and own is not None:
            mine, reference = own, layerwise_logits(decoder, source.tensors, probes.tokens)
            figures["asked"] = "layer by layer"
        else:
            raise ValueError("the prover was made for a model that it cannot open")
        passed = True
        if own is not None:
            engine = compare(own, mine, probes.tokens)
            figures["kl_to_the_folders_own_numbers"] = short(engine.mean_kl)
            passed = engine.mean_kl <= _MAX_ENGINE_KL
        loss = compare(reference, mine, probes.tokens)
        limit = _KL_OF_PACKING[plan.layout.bits] if packed else _KL_OF_ROUNDING.get(_main_dtype(plan), 1e-4)
        figures |= {**loss.figures(), "kl_limit": limit, **greedy_figures(reference, mine, probes)}
        return Gate("behaviour", passed and loss.mean_kl <= limit, figures)


def verify_structure(folder: Path, plan: FolderPlan) -> Gate:
    """Open the folder's files and compare tensors, precisions and shapes with the plan's."""
    planned = {part: (spec.dtype, spec.shape) for own in plan.parts.values() for part, spec in own.items()}
    try:
        tensors = FolderTensors(folder)
        config = read_config(folder)
    except ToolkitError as error:
        return Gate("structure", False, {"error": str(error)})
    found = {name: (entry.dtype, entry.shape) for name, entry in tensors.entries.items()}
    wrong = sorted(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name))
    said = config.get("quantization")
    layout = {"group_size": plan.layout.group_size, "bits": plan.layout.bits, "mode": "affine"}
    layout_wrong = said != (layout if plan.format == "mlx" else None)
    figures = {
        "tensors": len(found),
        "wrong": wrong[:10],
        "layout_wrong": layout_wrong,
        "bytes": sum(path.stat().st_size for path in tensors.files),
        "files": len(tensors.files),
        "sha256": {path.name: file_sha256(path) for path in tensors.files},
        "versions": {name: version(name) for name in _versions(plan)},
        "types": plan.counts(),
        "left_unpacked": len(plan.left),
        "bits_per_weight": round(plan.bits_per_weight, 3),
    }
    return Gate("structure", not wrong and not layout_wrong, figures)


def verify_tokenizer(source: FolderSource, folder: Path, conversations: Sequence[Sequence[Message]]) -> Gate:
    """Read the folder's own tokenizer and compare ids, conversations and the tokens that end a turn."""
    try:
        mine = Tokenizer.load(folder)
    except ToolkitError as error:
        return Gate("tokenizer", False, {"error": str(error)})
    theirs = source.tokenizer
    texts = [*TEXTS, *(message.content for conversation in conversations for message in conversation)]
    wrong = sum(mine.encode(text) != theirs.encode(text) for text in texts)
    chats = [
        _rendered(mine, conversation, prompt) != _rendered(theirs, conversation, prompt)
        for conversation in (*CONVERSATIONS, *conversations)
        for prompt in (False, True)
    ]
    stops_differ = mine.stop_ids != theirs.stop_ids
    figures = {
        "texts": len(texts),
        "mismatches": wrong,
        "conversations": len(chats),
        "different_texts": sum(chats),
        "stop_tokens": [mine.id_to_token(token) for token in mine.stop_ids],
        "stops_differ": stops_differ,
    }
    return Gate("tokenizer", not wrong and not any(chats) and not stops_differ, figures)


def verify_weights(source: FolderSource, plan: FolderPlan, folder: Path) -> Gate:
    """Read every tensor back, dequantised, and compare it with the merged one (relative root mean square error).

    What was neither merged nor packed must be the base's, bit for bit.
    """
    stored = open_tensors(folder, read_config(folder))
    worst: dict[str, float] = {}
    outside: list[str] = []
    for name in source.tensors:
        error = _relative_error(source, stored, name)
        packed = plan.is_packed(name)
        dtype = plan.parts[name][name].dtype
        kind = f"{plan.layout.bits}-bit" if packed else dtype
        worst[kind] = max(worst.get(kind, 0.0), error)
        if not error <= (_PACKING[plan.layout.bits] if packed else _limit(source, name, dtype)):
            outside.append(name)
    figures = {
        "tensors": len(plan.parts),
        "merged": len(source.tensors.merged_names),
        "worst_relative_error": {kind: float(f"{error:.3g}") for kind, error in sorted(worst.items())},
        "outside": outside[:10],
    }
    return Gate("weights", not outside, figures)


def has_mlx() -> bool:
    """Say whether MLX is installed here and loads."""
    try:
        choose_backend("mlx")
    except ToolkitError:
        return False
    return True


def _limit(source: FolderSource, name: str, dtype: str) -> float:
    rounded = name in source.tensors.merged_names or isinstance(source.tensors.stored, AffineTensors)
    return _ROUNDING.get(dtype, 0.0) if rounded else 0.0


def _relative_error(source: FolderSource, stored: FolderTensors, name: str) -> float:
    """Return ‖folder - merged‖ / ‖merged‖ of a tensor, read in blocks of rows."""
    shape = source.tensors.shape(name)
    if not shape:
        return float(np.abs(stored[name].to_float32() - source.tensors.load(name).to_float32()))
    step = max(1, BLOCK_WEIGHTS // max(1, int(np.prod(shape[1:]))))
    difference = size = 0.0
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        wanted = source.tensors.rows(name, start, stop).to_float32()
        got = stored.rows(name, start, stop).to_float32()
        difference += float(np.square(got - wanted, dtype=np.float64).sum())
        size += float(np.square(wanted, dtype=np.float64).sum())
    return (difference / (size or 1.0)) ** 0.5


def _open_folder(folder: Path, label: str, packed: bool) -> Scorer:
    """Open the export as anybody would: in transformers, or in MLX where that is installed and the layout is its."""
    target = Target("model", label, folder)
    backend = "mlx" if packed and has_mlx() else "torch"
    return open_target(target, device="cpu", dtype="float32", backend_choice=backend).scorer


def _rendered(tokenizer: Tokenizer, conversation: Sequence[Message], prompt: bool) -> str | None:
    try:
        return tokenizer.render(conversation, add_generation_prompt=prompt)
    except ToolkitError:
        return None  # A template may refuse a conversation; then both must.


def _main_dtype(plan: FolderPlan) -> str:
    """Return the precision that most of the tensors have."""
    counts: Mapping[str, int] = plan.counts()
    return max(counts, key=lambda dtype: counts[dtype])


def _versions(plan: FolderPlan) -> tuple[str, ...]:
    readers = PACKAGES["mlx"] if plan.format == "mlx" and has_mlx() else ("transformers", "safetensors")
    return ("local-training-toolkit", *(name.replace("_", "-") for name in readers))
