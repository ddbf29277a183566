"""Run the gates over exported files: what they share is done once, however many types are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import psutil

from toolkit.protocols import Scorer
from toolkit.quantize import verify, verify_behaviour
from toolkit.quantize.comparison import Logits, with_reference
from toolkit.quantize.mixture import plan_files
from toolkit.quantize.places import free_bytes
from toolkit.quantize.plan import FilePlan
from toolkit.quantize.probe_rows import ProbeRows, choose_rows
from toolkit.quantize.reference import layerwise_logits
from toolkit.quantize.samples import Samples
from toolkit.quantize.source import Source
from toolkit.quantize.stream import write_gguf
from toolkit.quantize.verify import Gate

# Of the memory, and of the disk, that a float32 copy of the model may take.
_SHARE = 0.5


class Prover:
    """Compares files with the model that they were made from."""

    def __init__(
        self,
        source: Source,
        whole: FilePlan,
        samples: Samples,
        open_reference: Callable[[], Scorer],
        notify: Callable[[str], None],
    ) -> None:
        """Prepare to prove.

        whole:          the plan of the float32 file, on which the conversion is judged
        samples:        of the run's data, to compare on beside what stands in `probes`
        open_reference: opens the trained model
        """
        self._source = source
        self._whole = whole
        self._samples = samples
        self._open_reference = open_reference
        self._notify = notify
        self._conversion: Gate | None = None

    def prove(self, path: Path, plan: FilePlan, scratch: Path) -> list[Gate]:
        """Run the gates in order; a file that cannot be loaded is not asked further.

        scratch: a folder for a float32 file, which is gone afterwards
        """
        name = plan.kind.name
        self._notify(f"verifying {name}: structure, tokenizer, chat")
        gates = [verify.verify_structure(path, plan)]
        if not gates[0].passed:
            return gates
        gates += verify.verify_text(self._source, path, self._samples)
        self._notify(f"verifying {name}: conversion")
        gates.append(self._converted(path, plan, scratch))
        self._notify(f"verifying {name}: weights")
        gates.append(verify.verify_weights(self._source, path))
        self._notify(f"verifying {name}: behaviour")
        behaves = verify_behaviour.verify_behaviour(
            path, self._source.decoder, plan.kind, self._reference, self._probes
        )
        gates.append(Gate("behaviour", *behaves))
        return gates

    @cached_property
    def _probes(self) -> ProbeRows:
        return choose_rows(self._source, self._samples, self._source.decoder.context)

    @cached_property
    def _reference(self) -> Logits:
        """Logits of the trained model: by its own framework where its float32 fits, else layer by layer."""
        if self._fits:
            return with_reference(self._open_reference, self._probes.tokens)
        return layerwise_logits(self._source.decoder, self._source.tensors, self._probes.tokens)

    @cached_property
    def _fits(self) -> bool:
        return self._whole.file_bytes <= _SHARE * psutil.virtual_memory().available

    def _converted(self, path: Path, plan: FilePlan, scratch: Path) -> Gate:
        """Judge the conversion on a float32 file: this one, or one made for the purpose, once for all types."""
        if self._conversion is None:
            if plan.kind == self._whole.kind and self._fits:
                self._conversion = verify.verify_conversion(path, self._reference, self._probes.tokens)
            else:
                self._conversion = self._converted_apart(scratch / "float32.gguf")
        return self._conversion

    def _converted_apart(self, floats: Path) -> Gate:
        """Write a float32 file, of the first layers alone where the whole would not fit, and judge it."""
        source, whole, reference = self._source, self._whole, self._reference
        if not (self._fits and free_bytes(floats) > whole.file_bytes):
            affordable = int(_SHARE * min(free_bytes(floats), psutil.virtual_memory().available))
            source = source.shortened(affordable_layers(whole, source.decoder.layers, affordable))
            (whole,) = plan_files(source, [whole.kind], {})
            reference = layerwise_logits(source.decoder, source.tensors, self._probes.tokens)
        write_gguf(floats, source, whole, {})
        gate = verify.verify_conversion(floats, reference, self._probes.tokens)
        floats.unlink()
        layers = {"layers": f"{source.decoder.layers} of {self._source.decoder.layers}"}
        return gate if source is self._source else replace(gate, figures={**gate.figures, **layers})


def affordable_layers(whole: FilePlan, layers: int, affordable: int) -> int:
    """Count the layers (one at least) that fit into `affordable` bytes of float32, with what is outside of them."""
    of_a_layer = sum(tensor.byte_count for tensor in whole.tensors if tensor.name.startswith("blk.0."))
    outside = whole.file_bytes - of_a_layer * layers
    return max(1, min(layers, (affordable - outside) // of_a_layer))
