"""What the server is told when it starts, and the parts that it opens from it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import JobFailed, Problem, ToolkitError
from toolkit.home import toolkit_home

if TYPE_CHECKING:
    from toolkit.mcp_server.documents import Documents
    from toolkit.mcp_server.embeddings import BackgroundEmbedder
    from toolkit.mcp_server.indexer import Indexer
    from toolkit.mcp_server.memory import Memory
    from toolkit.mcp_server.policy import Policy
    from toolkit.mcp_server.search import Search
    from toolkit.mcp_server.store import Store

STORE_NAME = "memory.sqlite3"
POLICY_NAME = "memory-policy.yaml"
SWITCHED_OFF = "switched off with --no-model"


@dataclass(frozen=True)
class ServerSettings:
    """Where everything is. Paths are absolute.

    store:  the SQLite file; made when it is not there
    policy: the policy file, or None for the built-in one
    roots:  the folders that documents may be read from; none means that no document can be ingested
    model:  a folder with the embedding model, or None to find it (the extra `offline`, then the hub's cache)
    embeds: whether to load the model at all; without it, search answers from full text
    """

    store: Path
    policy: Path | None = None
    roots: tuple[Path, ...] = ()
    model: Path | None = None
    embeds: bool = True

    def arguments(self) -> list[str]:
        """Return the words that give `toolkit mcp serve` these settings."""
        words = ["--store", str(self.store)]
        words += ["--policy", str(self.policy)] if self.policy else []
        words += [word for root in self.roots for word in ("--root", str(root))]
        words += ["--model", str(self.model)] if self.model else []
        return [*words, *([] if self.embeds else ["--no-model"])]


def resolve_settings(
    store: Path | None = None,
    policy: Path | None = None,
    roots: Sequence[Path] = (),
    model: Path | None = None,
    *,
    embeds: bool = True,
) -> ServerSettings:
    """Fill in the defaults and check what can be checked at once. Raises ToolkitError with everything wrong.

    The store is `memory.sqlite3` in `TOOLKIT_HOME`, the policy `memory-policy.yaml` beside it, where there is one.
    """
    home = toolkit_home()
    problems: list[Problem] = []
    chosen = _absolute(store or home / STORE_NAME)
    if chosen.is_dir():
        problems.append(Problem("this is a folder, not a file", str(chosen), f"Try --store {chosen / STORE_NAME}"))
    if policy is None and (home / POLICY_NAME).is_file():
        policy = home / POLICY_NAME
    elif policy is not None and not policy.expanduser().is_file():
        problems.append(Problem("no such policy file", str(policy), "docs/mcp.md shows one to begin with"))
    absent = [str(root) for root in roots if not root.expanduser().is_dir()]
    problems += [Problem("no such folder", root, "--root names a folder of documents") for root in absent]
    if model is not None and not model.expanduser().is_dir():
        problems.append(Problem("no such folder", str(model), "--model names a folder with the embedding model"))
    if problems:
        raise ToolkitError.gather(problems)
    return ServerSettings(
        chosen,
        _absolute(policy) if policy else None,
        tuple(dict.fromkeys(_absolute(root) for root in roots)),
        _absolute(model) if model else None,
        embeds,
    )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


@dataclass(frozen=True)
class Services:
    """The opened parts. `close` ends their threads and connections."""

    settings: ServerSettings
    store: Store
    policy: Policy
    embedder: BackgroundEmbedder
    search: Search
    indexer: Indexer
    memory: Memory
    documents: Documents

    def close(self) -> None:
        """Close everything, in the order in which it leans on each other."""
        self.memory.flush_uses()
        self.indexer.close()
        self.search.close()
        self.store.close()


def open_services(settings: ServerSettings, *, embedder: Any = None, **memory_options: Any) -> Services:
    """Open the store and everything above it.

    embedder:       an Embedder to use in place of the model (tests)
    memory_options: `now`, `new_id` of Memory, where its times and ids must be repeatable

    Raises ToolkitError: the store cannot be opened, was made by a newer version, is damaged; the policy is wrong.
    """
    from toolkit.mcp_server.documents import Documents
    from toolkit.mcp_server.embeddings import BackgroundEmbedder
    from toolkit.mcp_server.indexer import Indexer
    from toolkit.mcp_server.memory import Memory
    from toolkit.mcp_server.policy import Policy
    from toolkit.mcp_server.search import Search
    from toolkit.mcp_server.store import Store

    policy = Policy.load(settings.policy)
    try:
        settings.store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, hint = f"cannot make the folder: {error.strerror or error}", "Choose another file with --store"
        raise JobFailed(what, where=settings.store.parent, hint=hint) from error
    store = Store(settings.store)
    background = BackgroundEmbedder(settings.model, embedder=embedder)
    search = Search(store, background)
    indexer = Indexer(store, background)
    memory = Memory(store, policy, search, indexer=indexer, **memory_options)
    documents = Documents(store, search, indexer, settings.roots)
    if settings.embeds:
        background.start()
        indexer.start()
    else:
        background.error = SWITCHED_OFF
    return Services(settings, store, policy, background, search, indexer, memory, documents)


class Opening:
    """Services that are opened on a thread, so that the handshake need not wait for a disk.

    Call it to get them: it begins to open them if nobody has, waits, and raises what went wrong. A store that was
    locked, or a policy with a mistake in it, can be there at the next call.
    """

    def __init__(self, open_them: Callable[[], Services]) -> None:
        self._open_them = open_them
        self._services: Services | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()

    @property
    def has_begun(self) -> bool:
        """Say whether somebody has begun to open them."""
        return self._thread is not None

    def start(self) -> threading.Thread:
        """Begin to open, unless that has begun; return the thread that does it."""
        with self._beginning:
            if self._thread is None or (self._error is not None and not self._thread.is_alive()):
                self._error = None
                self._thread = threading.Thread(target=self._run, name="open-services", daemon=True)
                self._thread.start()
            return self._thread

    def __call__(self) -> Services:
        """Return the services. Raises ToolkitError when they could not be opened; the next call tries again."""
        if self._services is None:
            self.start().join()
        if self._services is None:
            raise (self._error or RuntimeError("the services were not opened")).with_traceback(None)
        return self._services

    def close(self) -> None:
        """Close what has been opened."""
        if self._thread is not None:
            self._thread.join()
        if self._services is not None:
            self._services.close()

    def _run(self) -> None:
        try:
            self._services = self._open_them()
        except BaseException as error:  # kept for whoever asks: each tool answers with it
            self._error = error
            logging.getLogger(__name__).error("the store could not be opened: %s", error)
