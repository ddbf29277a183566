"""Load a causal language model and split it into decoder and head, so that logits are made only where they are needed.

Shapes: B rows, T positions, H hidden size, V vocabulary entries.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from toolkit.errors import ToolkitError
from toolkit.protocols import Batch
from toolkit.tensor_files import StoredTensor
from toolkit.torch_backend.affine_layers import loading_config
from toolkit.torch_backend.devices import is_out_of_memory
from toolkit.torch_backend.nf4 import settle_nf4
from toolkit.torch_backend.packing import check_packing, decode_packed, one_segment_per_row
from toolkit.torch_backend.quantised import dequantised, is_quantised, weight_shape


def load_model(folder: Path, storage: torch.dtype, device: torch.device) -> nn.Module:
    """Load a Hugging Face folder with its weights in `storage` precision, in `eval()` mode.

    A quantised model (MLX's affine layout, bitsandbytes' NF4) stays packed; its scales get `storage` precision.

    Raises:
        ToolkitError: the folder does not hold a causal language model, or weights are missing or misshapen.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what matters of its report is raised below
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ToolkitError("no config.json: not a model folder", where=folder)
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=loading_config(folder),
            dtype=storage,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        model, report = loaded
    except (MemoryError, ToolkitError):
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, RuntimeError, …
        if is_out_of_memory(error):
            raise
        raise ToolkitError(f"transformers cannot load this model: {first_line(error)}", where=folder) from error
    faults = [f"missing: {name}" for name in report["missing_keys"]]
    faults += [f"wrong shape: {fault[0]}" for fault in report["mismatched_keys"]]
    if faults:
        raise ToolkitError(
            f"{len(faults)} weights do not fit the config ({', '.join(sorted(faults)[:3])})", where=folder
        )
    settle_nf4(model, storage)
    model.to(device)
    return model.eval()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class _PassThrough(nn.Module):
    """Stands in for a decoder: hands its input embeddings on as the last hidden state."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


class SplitModel:
    """A causal LM seen as `hidden` (the decoder) and `head` (everything after it, scaling and capping included).

    The head is the model's own forward with the decoder replaced by a pass-through in a shallow copy, so its parameters
    are shared with the model and no class is patched.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Wrap a transformers causal LM (adapters may be injected); arithmetic is done in `dtype`."""
        self.model = model
        self.dtype = dtype
        self.device: torch.device = next(model.parameters()).device
        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.decoder: nn.Module = model.get_decoder()
        names = [name for name, child in model.named_children() if child is self.decoder]
        if not names:
            raise ToolkitError(f"{type(model).__name__} keeps its decoder where the toolkit does not look for it")
        self._head = copy.copy(model)
        self._head._modules = {**model._modules, names[0]: _PassThrough()}
        self._packing_checked = False
        self._check_head()

    def arithmetic(self) -> Any:
        """Return a context in which matrix products run in the chosen precision; float32 tensors stay masters."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def hidden(self, batch: Batch) -> Tensor:
        """Return (B, T, H) hidden states; sequences packed into a row do not see each other."""
        tokens = self.to_device(batch.tokens.astype(np.int64))
        return self.decode(tokens, None if one_segment_per_row(batch) else batch.positions)

    def decode(self, tokens: Tensor, positions: np.ndarray | None = None) -> Tensor:
        """Run the decoder over (B, T) tokens; `positions` that restart within a row keep its sequences apart.

        Without positions attention is plainly causal, which lets the kernels skip the mask.

        Raises:
            ToolkitError: this architecture cannot keep sequences apart.
        """
        if positions is None:
            return self.decoder(input_ids=tokens, use_cache=False).last_hidden_state
        if not self._packing_checked:
            check_packing(self)
            self._packing_checked = True
        return decode_packed(self, tokens, positions)

    def head(self, hidden: Tensor) -> Tensor:
        """Return (n, V) logits for (n, H) hidden states, in the dtype the model computes them in."""
        return self._head(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits[0]

    def to_device(self, array: np.ndarray) -> Tensor:
        """Copy a NumPy array to the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def _check_head(self) -> None:
        with torch.no_grad(), self.arithmetic():
            tokens = torch.tensor([[0, 1]], device=self.device)
            whole = self.model(input_ids=tokens, use_cache=False).logits[0].float()
            split = self.head(self.decode(tokens)[0]).float()
        if not torch.allclose(whole, split, atol=1e-4, rtol=1e-4):
            raise ToolkitError(
                f"{type(self.model).__name__} does more between decoder and logits than the toolkit can follow"
            )


def stored(name: str, tensor: Tensor) -> StoredTensor:
    """Copy a tensor to the host under `name`; bfloat16 leaves as raw uint16 bits."""
    tensor = tensor.detach().cpu().contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype == torch.bfloat16:
        return StoredTensor(name, dtype, tensor.view(torch.uint16).numpy().copy())
    return StoredTensor(name, dtype, tensor.numpy().copy())


def from_stored(tensor: StoredTensor) -> Tensor:
    """Return a host tensor with the stored values (a copy: files may be mapped read-only)."""
    array = np.array(tensor.array, copy=True)
    if tensor.dtype == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def named_weights(model: nn.Module) -> Iterator[StoredTensor]:
    """Yield the model's tensors by Hugging Face name, lazily; adapters are not merged, tied weights come once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        clean = f"{path}.".replace(".base_layer.", ".").lstrip(".")
        if ".lora_" in path:
            continue
        if is_quantised(module):
            yield stored(f"{clean}weight", dequantised(module))
        for name, tensor in _own_tensors(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield stored(f"{clean}{name}", tensor)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint holds of this module alone; of a packed one, all but its weight."""
    left_out = {"weight", "scales", "biases"} if is_quantised(module) else set()
    yield from (item for item in module.named_parameters(recurse=False) if item[0] not in left_out)
    left_out |= module._non_persistent_buffers_set
    yield from (item for item in module.named_buffers(recurse=False) if item[0] not in left_out)


def parameter_count(model: nn.Module) -> int:
    """Count the parameters, adapters included; tied weights count once, packed ones as many as they stand for."""
    packed = [module for module in model.modules() if is_quantised(module)]
    hidden = {id(module.weight) for module in packed}
    plain = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in hidden)
    return plain + sum(math.prod(weight_shape(module)) for module in packed)
