"""Text → 384 numbers whose angles tell how near two texts are in meaning: all-MiniLM-L6-v2 by sentence-transformers.

The only file that imports sentence-transformers (and, to set its threads, torch), and only inside functions: that
import takes seconds, a handshake may not. `BackgroundEmbedder` does it in a thread while full text answers.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError
from toolkit.mcp_server.model_files import (
    MODEL_NAME,
    REVISION,
    ExactCounter,
    ModelFiles,
    TokenCounter,
    find_model,
    find_token_counter,
)

__all__ = [
    "DIMENSION",
    "MAX_TOKENS",
    "MODEL_NAME",
    "REVISION",
    "BackgroundEmbedder",
    "Embedder",
    "SentenceEmbedder",
    "load_embedder",
]

DIMENSION = 384
MAX_TOKENS = 256
# Texts embedded at a time: a query that arrives meanwhile waits for one such batch, a fraction of a second on a CPU.
BATCH_SIZE = 16

_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """What turns texts into vectors."""

    name: str
    dimension: int
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dimension) float32, each row of length 1."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text is, special ones included."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model, safe to call from several threads.

    device:        `auto` (CUDA, then MPS, then the CPU), or a device that torch knows
    batch_threads: torch's threads while several texts are embedded. A single one, a query, gets one thread: two were
                   ten times slower beside other work.

    Raises ToolkitError when the files do not load.
    """

    def __init__(self, files: ModelFiles, *, device: str = "auto", batch_threads: int | None = None) -> None:
        _silence_libraries()
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(
                str(files.folder),
                device=None if device == "auto" else device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # what a damaged file brings about depends on the library that meets it first
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ToolkitError(
                f"the embedding model does not load: {reason[:200]}",
                where=files.folder,
                hint="Name a folder with a sentence-transformers model, or a device that is here",
            ) from error
        self.name = files.name
        self.source = files.source
        self.device = str(self._model.device)
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self.max_tokens = int(self._model.max_seq_length or MAX_TOKENS)
        self._batch_threads = batch_threads or max(1, min(4, (os.cpu_count() or 2) // 2))
        self._lock = threading.Lock()
        self._count = ExactCounter(files.folder / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dimension) float32, each row of length 1. Texts beyond `max_tokens` are cut by the model."""
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), BATCH_SIZE):
            batch = list(texts[start : start + BATCH_SIZE])
            rows[start : start + len(batch)] = self._embed_batch(batch, 1 if len(texts) == 1 else self._batch_threads)
        return rows

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text is, special ones included."""
        return self._count(text)

    def _embed_batch(self, batch: list[str], threads: int) -> NDArray[np.float32]:
        import torch

        with self._lock:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return self._model.encode(
                    batch,
                    batch_size=BATCH_SIZE,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
            finally:
                torch.set_num_threads(before)


def _silence_libraries() -> None:
    """Keep what loading says off stderr: a bar for a second's work, advice on 4-bit kernels.

    Both are read when transformers and bitsandbytes are first imported, so this comes before.
    """
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def load_embedder(folder: Path | None = None, *, device: str = "auto", may_download: bool = True) -> SentenceEmbedder:
    """Find the model, check its files and load it. Raises ToolkitError with what to type when there is none."""
    return SentenceEmbedder(find_model(folder, may_download=may_download), device=device)


class BackgroundEmbedder:
    """An embedder that loads in a thread of its own: nothing heavy is imported before `start`, and nobody waits for it.

    folder:   where the model is, or None to find it
    load:     what makes the embedder, in place of `load_embedder(folder)`
    embedder: one that is here already; then there is nothing to load

    error: why there will be no embedder, or None
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        load: Callable[[], Embedder] | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.folder = folder
        self._load = load or (lambda: load_embedder(folder))
        self._embedder = embedder
        self._done = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: str | None = None
        if embedder is not None:
            self._done.set()

    def count_tokens(self) -> TokenCounter:
        """Return what counts the model's tokens; it is here before the model is."""
        return find_token_counter(self.folder)

    def start(self) -> None:
        """Begin to load; a second call does nothing."""
        with self._starting:
            if self._thread is None and not self._done.is_set():
                self._thread = threading.Thread(target=self._run, name="embedding model", daemon=True)
                self._thread.start()

    @property
    def started(self) -> bool:
        """Whether it loads, has loaded or has failed to; not, where the model is switched off."""
        return self._thread is not None or self._done.is_set()

    @property
    def ready(self) -> bool:
        """Whether the embedder can be used now."""
        return self._embedder is not None

    @property
    def current(self) -> Embedder | None:
        """The embedder, or None while it loads or when it could not be loaded."""
        return self._embedder

    def wait(self, seconds: float | None = None) -> Embedder | None:
        """Wait until it is loaded, or has failed to; return it, or None. It must have been started."""
        self._done.wait(seconds)
        return self._embedder

    def _run(self) -> None:
        try:
            self._embedder = self._load()
        except ToolkitError as error:
            self.error = str(error)
        except Exception as error:  # whatever a model's files bring about, the server lives on with full text
            self.error = f"the embedding model does not load: {type(error).__name__}: {error}"
        finally:
            if self.error:
                _log.warning("%s", self.error)
            self._done.set()
