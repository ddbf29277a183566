"""llama-cpp-python's own OpenAI-compatible server over one GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI
from llama_cpp.server import app as server
from llama_cpp.server.settings import ModelSettings, ServerSettings
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolkit.errors import JobFailed
from toolkit.gguf_backend.log import complaints
from toolkit.gguf_backend.model import LoadedModel, usable_threads
from toolkit.gguf_backend.weights import metadata_value, open_gguf

DEFAULT_CONTEXT = 8192
_ALL_LAYERS = -1


@contextmanager
def gguf_app(path: Path, context: int | None = None) -> Iterator[tuple[FastAPI, int]]:
    """Yield the ASGI application that serves a file, and the context it has, in tokens; free the model afterwards.

    context: default: the model's own, at most 8,192 (the cache for keys and values is reserved at once)

    Raises:
        ToolkitError: llama.cpp refuses the file.
        JobFailed: there is no memory for such a context.
    """
    context = context or min(_trained_context(path), DEFAULT_CONTEXT)
    # `model_construct`, since these classes would otherwise take every field that is not given from the environment.
    model = ModelSettings.model_construct(
        model=str(path),
        model_alias=path.name,
        n_ctx=context,
        n_gpu_layers=_ALL_LAYERS,
        n_threads=usable_threads(),
        n_threads_batch=usable_threads(),
        logits_all=False,  # else the logits of the whole context are kept: 5 GB for 8,192 positions of Qwen2
        verbose=False,
    )
    with complaints() as heard:
        try:
            app = server.create_app(server_settings=ServerSettings.model_construct(), model_settings=[model])
        except ValueError as error:
            hint = "Ask for less with --context"
            raise JobFailed(f"llama.cpp cannot serve this file: {heard.words()}", where=path, hint=hint) from error
    # It lets web pages of any origin in; whoever serves this app decides that anew.
    app.user_middleware = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]
    app.add_middleware(NoPenaltyUnlessAsked)
    try:
        yield app, context
    finally:
        if server._llama_proxy is not None:  # at the end of the process llama.cpp would free it after its own end
            server._llama_proxy.free()


class NoPenaltyUnlessAsked:
    """ASGI middleware: a request that names no `repeat_penalty` gets none.

    The server behind it would take 1.1, which changes even greedy answers: a sum that repeats its digits comes out
    wrong, and the file does not behave as the model that was trained.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, the field added where it is missing."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("completions"):
            await self._app(scope, receive, send)
            return
        body = _with_default(await Request(scope, receive).body())
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        length = (b"content-length", str(len(body)).encode())
        await self._app({**scope, "headers": [*headers, length]}, replay, send)


def _with_default(body: bytes) -> bytes:
    try:
        asked = json.loads(body)
    except ValueError:
        return body  # the server behind says what is wrong with it
    return json.dumps({"repeat_penalty": 1.0, **asked}).encode() if isinstance(asked, dict) else body


def _trained_context(path: Path) -> int:
    vocabulary = LoadedModel(path, vocabulary_only=True)  # in llama.cpp's words, if it refuses the file
    vocabulary.close()
    reader = open_gguf(path)
    return int(metadata_value(reader, f"{metadata_value(reader, 'general.architecture')}.context_length") or 2048)
