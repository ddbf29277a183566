"""Run the gates over exported files: what they share is done once, however many types are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.datasets.schema import Message
from toolkit.protocols import Scorer
from toolkit.quantize import verify
from toolkit.quantize.plan import FilePlan
from toolkit.quantize.source import Source
from toolkit.quantize.stream import write_gguf
from toolkit.quantize.verify import Gate


class Prover:
    """Compares files with the model that they were made from."""

    def __init__(
        self,
        source: Source,
        whole: FilePlan,
        conversations: Sequence[Sequence[Message]],
        open_reference: Callable[[], Scorer],
        notify: Callable[[str], None],
    ) -> None:
        """Prepare to prove.

        whole:          the plan of the float32 file, on which the conversion is judged
        conversations:  of the training data, to compare on beside those of `probes`
        open_reference: opens the trained model
        """
        self._source = source
        self._whole = whole
        self._conversations = conversations
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
        gates += verify.verify_text(self._source, path, self._conversations)
        self._notify(f"verifying {name}: conversion")
        gates.append(self._converted(path, plan, scratch))
        self._notify(f"verifying {name}: weights")
        gates.append(verify.verify_weights(self._source, path))
        self._notify(f"verifying {name}: behaviour")
        gates.append(verify.verify_behaviour(path, plan.kind, self._reference, self._rows))
        return gates

    @cached_property
    def _rows(self) -> list[list[int]]:
        return verify.probe_rows(self._source, self._conversations, self._source.decoder.context)

    @cached_property
    def _reference(self) -> list[NDArray[np.float32]]:
        return verify.with_reference(self._open_reference, self._rows)

    def _converted(self, path: Path, plan: FilePlan, scratch: Path) -> Gate:
        """Judge the conversion on a float32 file: this one, or one made for the purpose, once for all types."""
        if self._conversion is None:
            floats = path
            if plan.kind != self._whole.kind:
                floats = scratch / "float32.gguf"
                write_gguf(floats, self._source, self._whole, {})
            self._conversion = verify.verify_conversion(floats, self._reference, self._rows)
            if floats != path:
                floats.unlink()
        return self._conversion
