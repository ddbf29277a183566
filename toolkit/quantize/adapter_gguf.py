"""A LoRA adapter as a GGUF file of its own, for llama.cpp's `--lora` on top of its base model's file.

Tensors `<weight>.lora_a` (r, in) and `.lora_b` (out, r); llama.cpp adds `adapter.lora.alpha / r · B·A`. Where the
trained factor is another (rsLoRA, alpha by pattern), the rest of it is multiplied into B.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from toolkit.adapter_files import Adapter, read_adapter
from toolkit.backends import Target, open_target
from toolkit.errors import Problem, ToolkitError
from toolkit.gguf_backend.session import GgufScorer
from toolkit.gguf_backend.tensor_names import gguf_name
from toolkit.quantize import verify
from toolkit.quantize.header import add_notes
from toolkit.quantize.mixture import plan_files
from toolkit.quantize.origin import origin_of
from toolkit.quantize.places import check_space, output_paths, staging
from toolkit.quantize.plan import QUANT_TYPES
from toolkit.quantize.source import Source, open_source
from toolkit.quantize.stream import write_gguf
from toolkit.quantize.verify import Gate

NAME = "lora"


def export_adapter(
    target: Target, out: Path | None = None, *, check: bool = True, overwrite: bool = False
) -> tuple[Path, Gate | None]:
    """Write a target's adapter alone; return the file and, with `check`, how it did on the base model in llama.cpp.

    A file that does not give the trained model's logits lies under a name that says so (`….failed.gguf`).

    Raises:
        ToolkitError: there is no adapter, or llama.cpp cannot apply it unmerged (DoRA, embeddings).
        JobFailed: the disk is full; nothing half-written is left.
    """
    if target.model_folder is None or target.adapter_folder is None:
        raise ToolkitError(
            "has no adapter", where=target.label, hint="Name a run with method lora, or an adapter folder"
        )
    (path,) = output_paths(target, [NAME], out, overwrite)
    base = open_source(target.label, target.model_folder, None)
    adapter = read_adapter(target.adapter_folder, base.tensors.entries)
    _refuse(adapter)
    gate = None
    with staging(path) as folder:
        written = folder / "adapter.gguf"
        write_adapter_gguf(written, base, adapter, origin_of(target).notes())
        if check:
            gate = _prove(target, base, written, folder)
        path = path if gate is None or gate.passed else path.with_suffix(".failed.gguf")
        os.replace(written, path)
    return path, gate


def write_adapter_gguf(path: Path, base: Source, adapter: Adapter, notes: Mapping[str, str]) -> None:
    """Write the file, float32, with further `general.` entries. Raises OSError when the system refuses."""
    writer = gguf.GGUFWriter(path, base.decoder.gguf_name)
    alpha = float(adapter.config["lora_alpha"])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_name(base.label)
    add_notes(writer, notes)
    for module in adapter.modules:
        down, up = (factor.to_float32() for factor in adapter.factors(module))
        rest = adapter.scale(module) * adapter.rank(module) / alpha
        name = gguf_name(f"{module}.weight")
        rows = base.decoder.arrange(f"{module}.weight", up * np.float32(rest))
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(down))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _refuse(adapter: Adapter) -> None:
    where = str(adapter.folder)
    hint = "Export it merged: leave --adapter-only out"
    problems = [
        Problem(f"llama.cpp cannot apply an adapter on {module} unmerged", where, hint)
        for module in adapter.modules
        if ".layers." not in module
    ]
    if adapter.is_dora:
        problems.append(Problem("llama.cpp cannot apply DoRA unmerged", where, hint))
    if problems:
        raise ToolkitError.gather(problems)


def _prove(target: Target, base: Source, adapter: Path, scratch: Path) -> Gate:
    """Load the adapter on the base model's float32 file and compare logits with the trained model's."""
    (whole,) = plan_files(base, [QUANT_TYPES["F32"]], {})
    check_space(scratch, whole.file_bytes)
    rows = verify.probe_rows(base, [], base.decoder.context)
    # The file's base is the one at hand, which for QLoRA is finer than the one that was trained on.
    reference = verify.with_reference(
        lambda: open_target(target, device="cpu", dtype="float32", full_base=True).scorer, rows
    )
    floats = scratch / "base.gguf"
    write_gguf(floats, base, whole, {})
    scorer = GgufScorer(floats, exact=True, adapter=adapter)
    try:
        outcome = verify.compare(reference, verify.reference_logits(scorer, rows), rows)
    finally:
        scorer.close()
    return Gate("adapter", outcome.max_difference <= verify.MAX_LOGIT_DIFFERENCE, outcome.figures())
