"""One model, one thread, one answer at a time.

Backends are not made for several threads at once (MLX even binds its streams to the thread that opened them, and may
abort the process at its end when that was not the main one). So everything that touches the model runs in the thread
that calls `Engine.work`, and requests wait for each other in the order they came.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from toolkit.backends import OpenTarget
from toolkit.datasets.schema import Message
from toolkit.protocols import FinishReason, Sampling
from toolkit.serving.requests import ChatRequest, CompletionRequest, RefusedError

Result = TypeVar("Result")


_TOO_LONG = "context_length_exceeded"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Piece:
    """Some more of an answer. The last piece has a `finish_reason`; `tokens` counts the answer's tokens so far."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


class StopFilter:
    """Cuts an answer before the first stop text, holding back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of `stops`."""
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take more of the answer; return what is safe to show."""
        text = self._held + text
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        longest = max((_overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - longest
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return what was held back at the end of an answer."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class Engine:
    """Answers with an open target. `prompt` and `answer` may be awaited in any thread; `work` does what they need."""

    def __init__(self, target: OpenTarget) -> None:
        """Take a target, which the caller opened in the thread that will `work`, and closes there."""
        self.target = target
        self._turn = asyncio.Lock()
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    def work(self, until: Callable[[], bool]) -> None:
        """Compute in the calling thread what the answers ask for, until `until()` is true."""
        while not until():
            try:
                task, future = self._tasks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except BaseException as error:  # whoever awaits it gets it
                future.set_exception(error)

    async def prompt(self, request: ChatRequest | CompletionRequest) -> list[int]:
        """Return the ids that the model is to continue.

        Raises:
            RefusedError: they leave no room in the context.
            ToolkitError: the chat template refuses the conversation.
        """
        ids = await self._computed(lambda: self._encode(request))
        if not 0 < len(ids) < self.target.context:
            message = f"the prompt has {len(ids):,} tokens and the model's context is {self.target.context:,}"
            raise RefusedError(message, "messages" if isinstance(request, ChatRequest) else "prompt", _TOO_LONG)
        return ids

    async def answer(self, prompt: list[int], request: ChatRequest | CompletionRequest) -> AsyncIterator[Piece]:
        """Yield the answer piece by piece. Stops computing when the caller stops listening."""
        stop_ids = tuple(self.target.tokenizer.stop_ids)
        sampling = request.sampling(self.target.context - len(prompt), stop_ids)
        async with self._turn:
            pieces = self._generate(prompt, sampling, request.stop)
            try:
                while (piece := await self._computed(lambda: next(pieces, None))) is not None:
                    yield piece
            finally:
                self._submit(pieces.close)  # behind the step that may still be running

    def _encode(self, request: ChatRequest | CompletionRequest) -> list[int]:
        tokenizer = self.target.tokenizer
        if isinstance(request, ChatRequest):
            messages: list[Message] = [turn.message() for turn in request.messages]
            return tokenizer.encode_chat(messages, True)
        return tokenizer.encode(request.prompt)

    def _generate(self, prompt: list[int], sampling: Sampling, stops: Sequence[str]) -> Generator[Piece]:
        stream, stopping, made = self.target.tokenizer.stream(), StopFilter(stops), 0
        reason: FinishReason = "stop"
        for item in self.target.scorer.generate([prompt], sampling):
            reason = item.finish_reason or reason
            if item.token is None:
                continue
            made += 1
            shown = stopping.push(stream.push(item.token))
            if stopping.found:
                yield Piece(shown, made, "stop")
                return
            if shown:
                yield Piece(shown, made)
        rest = stopping.push(stream.flush())
        yield Piece(rest if stopping.found else rest + stopping.flush(), made, "stop" if stopping.found else reason)

    async def _computed(self, task: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(self._submit(task))

    def _submit(self, task: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        self._tasks.put((task, future))
        return future
