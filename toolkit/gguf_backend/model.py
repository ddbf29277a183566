"""A GGUF file opened by llama.cpp, and the contexts (KV caches) in which it computes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import psutil
from numpy.typing import NDArray

from toolkit.errors import JobFailed, ToolkitError
from toolkit.gguf_backend.log import complaints

GGUF_MAGIC = b"GGUF"
CACHE_BUDGET_BYTES = 512 * 2**20
OUTPUT_BUDGET_FLOATS = 16 * 2**20
MAX_SEQUENCES = 32
MAX_BATCH_TOKENS = 512
# llama.cpp's threads meet after every operation. On 6 M parameters two threads gain little on an idle machine and
# cost a factor of 18 on a busy one (measured), so a thread must be worth its share of weights.
BYTES_PER_THREAD = 32 * 2**20
_ALL_LAYERS = -1

llama_cpp.llama_backend_init()


def usable_threads() -> int:
    """Count the cores that this process may use, hyper-threads not counted twice."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


class LoadedModel:
    """The weights (or the vocabulary alone) of a GGUF file in llama.cpp's hands."""

    def __init__(
        self, path: Path, *, vocabulary_only: bool = False, on_cpu: bool = False, adapter: Path | None = None
    ) -> None:
        """Load a file. Raises ToolkitError with llama.cpp's words when it refuses.

        on_cpu: keep every layer on the CPU even where llama.cpp was built for a GPU (exact comparisons need it).
        adapter: a LoRA adapter in GGUF, applied in every context.
        """
        self.path = path
        self._check_magic()
        params: Any = llama_cpp.llama_model_default_params()
        params.vocab_only = vocabulary_only
        params.n_gpu_layers = 0 if on_cpu else _ALL_LAYERS
        with complaints() as heard:
            self.handle: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise ToolkitError(f"llama.cpp cannot load this file: {heard.words()}", where=path)
        self.adapter: Any = None if adapter is None else self._load_adapter(adapter)
        self.vocabulary: Any = llama_cpp.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.context_length: int = llama_cpp.llama_model_n_ctx_train(self.handle)

    def _check_magic(self) -> None:
        try:
            with self.path.open("rb") as file:
                magic = file.read(len(GGUF_MAGIC))
        except OSError as error:
            raise ToolkitError(f"cannot be read: {error.strerror or error}", where=self.path) from error
        if magic != GGUF_MAGIC:
            raise ToolkitError("not a GGUF file", where=self.path)

    def _load_adapter(self, path: Path) -> Any:
        with complaints() as heard:
            adapter = llama_cpp.llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not adapter:
            raise ToolkitError(f"llama.cpp cannot apply this adapter: {heard.words()}", where=path)
        return adapter  # freed with the model

    def cache_bytes_per_token(self, element_bytes: int) -> int:
        """Size of one position's keys and values in all layers (head_dim taken as hidden / heads)."""
        head_dim = llama_cpp.llama_model_n_embd(self.handle) // llama_cpp.llama_model_n_head(self.handle)
        width = head_dim * llama_cpp.llama_model_n_head_kv(self.handle)
        return 2 * width * element_bytes * llama_cpp.llama_model_n_layer(self.handle)

    def close(self) -> None:
        """Free the weights. Contexts must be closed before."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None


@dataclass(frozen=True)
class Piece:
    """Some tokens of one sequence that go through the model together.

    slot:   which sequence of the context they continue
    start:  position of the first of them
    tokens: the ids
    wanted: for each token, whether the logits after it are wanted
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: Sequence[bool]


class Context:
    """Independent sequences side by side, each with a KV cache of its own."""

    def __init__(self, model: LoadedModel, *, sequences: int, length: int, exact: bool, threads: int | None) -> None:
        """Reserve the caches: `sequences` of `length` positions each.

        exact: float32 keys and values and plain attention instead of float16 and flash attention.
        """
        self.model = model
        self.sequences = sequences
        self.length = length
        self.batch_tokens = max(sequences, min(MAX_BATCH_TOKENS, OUTPUT_BUDGET_FLOATS // model.vocabulary_size))
        params: Any = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = self.batch_tokens
        worthwhile = 1 + llama_cpp.llama_model_size(model.handle) // BYTES_PER_THREAD
        params.n_threads = params.n_threads_batch = threads or min(usable_threads(), worthwhile)
        params.kv_unified = False
        params.no_perf = True
        if exact:
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.offload_kqv = params.op_offload = False
        with complaints() as heard:
            self._handle: Any = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise JobFailed(f"llama.cpp cannot open a context of {length} tokens: {heard.words()}", where=model.path)
        if model.adapter is not None:
            adapters: Any = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(model.adapter)
            llama_cpp.llama_set_adapters_lora(self._handle, adapters, 1, (ctypes.c_float * 1)(1.0))
        self._memory: Any = llama_cpp.llama_get_memory(self._handle)
        self._batch: Any = llama_cpp.llama_batch_init(self.batch_tokens, 0, 1)

    def forget(self, slot: int | None = None) -> None:
        """Empty the cache of one sequence, or of all."""
        if slot is None:
            llama_cpp.llama_memory_clear(self._memory, False)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def run(self, pieces: Sequence[Piece]) -> list[NDArray[np.float32]]:
        """Push pieces (together at most `batch_tokens` tokens) through the model.

        Returns for each piece its wanted logits, (n, V) float32 in the order of its tokens. Raises JobFailed with
        llama.cpp's words when it gives up.
        """
        self._fill(pieces)
        with complaints() as heard:
            code = llama_cpp.llama_decode(self._handle, self._batch)
        if code != 0:
            raise JobFailed(f"llama.cpp stopped with code {code}: {heard.words()}", where=self.model.path)
        vocabulary_size = self.model.vocabulary_size
        results = []
        index = 0
        for piece in pieces:
            rows = []
            for wanted in piece.wanted:
                if wanted:
                    address: Any = llama_cpp.llama_get_logits_ith(self._handle, index)
                    rows.append(np.ctypeslib.as_array(address, (vocabulary_size,)))
                index += 1
            # np.array copies: llama.cpp overwrites its buffer in the next call.
            results.append(np.array(rows, np.float32).reshape(len(rows), vocabulary_size))
        return results

    def _fill(self, pieces: Sequence[Piece]) -> None:
        total = sum(len(piece.tokens) for piece in pieces)
        if not 0 < total <= self.batch_tokens:
            raise ValueError(f"a batch of {total} tokens does not fit into {self.batch_tokens}")
        batch = self._batch
        batch.n_tokens = total
        index = 0
        for piece in pieces:
            for offset, (token, wanted) in enumerate(zip(piece.tokens, piece.wanted, strict=True)):
                batch.token[index] = int(token)
                batch.pos[index] = piece.start + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = piece.slot
                batch.logits[index] = int(wanted)
                index += 1

    def close(self) -> None:
        """Free the caches."""
        if self._handle:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._handle)
            self._handle = None


def token_bytes(model: LoadedModel, token: int) -> bytes:
    """Return a token's bytes, special tokens written out. Raises ToolkitError for an id out of range."""
    if not 0 <= token < model.vocabulary_size:
        raise ToolkitError(
            f"token {token} is not in the vocabulary (0 to {model.vocabulary_size - 1})", where=model.path
        )
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        written = llama_cpp.llama_token_to_piece(model.vocabulary, token, buffer, size, 0, True)
        if written >= 0:
            return buffer.raw[:written]
        size = -written
