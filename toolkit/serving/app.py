"""The routes: /v1/models, /v1/chat/completions, /v1/completions, /health; answers whole or streamed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from toolkit.errors import ToolkitError
from toolkit.serving.engine import Engine, Piece
from toolkit.serving.requests import ChatRequest, CompletionRequest, RefusedError, read_request

MAX_BODY_BYTES = 16 * 2**20


def create_app(engine: Engine) -> Starlette:
    """Return the ASGI application that answers with the model in `engine`."""
    started = int(time.time())

    async def models(_: HttpRequest) -> Response:
        entry = {"id": engine.target.label, "object": "model", "created": started, "owned_by": "toolkit"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(_: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def chat(http: HttpRequest) -> Response:
        return await _respond(engine, http, ChatRequest)

    async def complete(http: HttpRequest) -> Response:
        return await _respond(engine, http, CompletionRequest)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/health", health),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", complete, methods=["POST"]),
        ],
        exception_handlers={RefusedError: _refused, ToolkitError: _refused},
    )


async def _respond(engine: Engine, http: HttpRequest, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
    request = read_request(kind, await _body(http))
    prompt = await engine.prompt(request)
    form = _Form(engine.target.label, isinstance(request, ChatRequest), len(prompt))
    pieces = engine.answer(prompt, request)
    if request.stream:
        wants_usage = request.stream_options is not None and request.stream_options.include_usage
        return StreamingResponse(_events(form, pieces, wants_usage), media_type="text/event-stream")
    text, last = "", Piece("", 0, "stop")
    async for piece in pieces:
        text, last = text + piece.text, piece
    return JSONResponse(form.whole(text, last))


async def _body(http: HttpRequest) -> bytes:
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RefusedError(f"the request is larger than {MAX_BODY_BYTES // 2**20} MiB")
    return bytes(body)


async def _events(form: _Form, pieces: AsyncIterator[Piece], wants_usage: bool) -> AsyncIterator[str]:
    last = Piece("", 0, "stop")
    try:
        if form.is_chat:
            yield _event(form.chunk({"role": "assistant", "content": ""}, None))
        async for piece in pieces:
            last = piece
            if piece.text:
                yield _event(form.chunk({"content": piece.text}, None))
        yield _event(form.chunk({}, last.finish_reason))
        if wants_usage:
            yield _event({**form.head("chunk"), "choices": [], "usage": form.usage(last.tokens)})
    except ToolkitError as error:  # the status line is out already: what went wrong follows as an event
        yield _event({"error": {"message": str(error), "type": "server_error", "code": None}})
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _refused(_: HttpRequest, error: Exception) -> Response:
    failed = isinstance(error, ToolkitError) and error.exit_code == 1
    detail = {
        "message": error.message if isinstance(error, RefusedError) else str(error),
        "type": "server_error" if failed else "invalid_request_error",
        "param": getattr(error, "param", None),
        "code": getattr(error, "code", None),
    }
    return JSONResponse({"error": detail}, status_code=500 if failed else 400)


class _Form:
    """The JSON around an answer, in OpenAI's shape."""

    def __init__(self, model: str, is_chat: bool, prompt_tokens: int) -> None:
        self.is_chat = is_chat
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def head(self, kind: str = "") -> dict[str, Any]:
        base = "chat.completion" if self.is_chat else "text_completion"
        name = f"{base}.{kind}" if kind and self.is_chat else base
        return {"id": self._id, "object": name, "created": self._created, "model": self._model}

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": last.finish_reason}
        return {**self.head(), "choices": [choice], "usage": self.usage(last.tokens)}

    def chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        content = {"delta": delta} if self.is_chat else {"text": delta.get("content", "")}
        return {**self.head("chunk"), "choices": [{"index": 0, **content, "finish_reason": finish_reason}]}

    def usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }
