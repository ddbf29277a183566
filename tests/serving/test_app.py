"""The server over trained weights: OpenAI's shapes, streaming, stop texts, refusals, one answer at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import write_tokenizer
from toolkit.backends import OpenTarget
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import JobFailed
from toolkit.protocols import GeneratedToken, Sampling
from toolkit.serving.app import MAX_BODY_BYTES, create_app
from toolkit.serving.engine import Engine, StopFilter
from toolkit.serving.loopback import LoopbackOnly

ANSWER = "Grüße 🙂 你好, the answer is 42."
ASK = {"model": "any", "messages": [{"role": "user", "content": "What is 40 plus 2?"}]}


class ScriptedScorer:
    """Says ANSWER to everything, and notes what it was asked and how the asking ended."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.samplings: list[Sampling] = []
        self.prompts: list[list[int]] = []
        self.running = 0
        self.most_at_once = 0
        self.made = 0
        self.ended_early = False
        self.fail_after: int | None = None

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[GeneratedToken]:
        self.samplings.append(sampling)
        self.prompts.append(list(prompts[0]))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        tokens = self.tokenizer.encode(ANSWER)
        try:
            for count, token in enumerate(tokens[: sampling.max_new_tokens]):
                if count == self.fail_after:
                    raise JobFailed("out of memory on cpu")
                self.made += 1
                yield GeneratedToken(0, token)
            yield GeneratedToken(0, None, "stop" if len(tokens) <= sampling.max_new_tokens else "length")
        except GeneratorExit:
            self.ended_early = True
            raise
        finally:
            self.running -= 1

    def close(self) -> None:
        pass


@pytest.fixture
def scorer(tmp_path: Path) -> ScriptedScorer:
    write_tokenizer(tmp_path, "qwen2")
    return ScriptedScorer(Tokenizer.load(tmp_path))


@pytest.fixture
def with_client(scorer: ScriptedScorer) -> Callable[[Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]], Any]:
    """Return `run(test)`: await `test(client)` while an engine with the scripted scorer works in a thread."""

    def run(test: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            engine = Engine(OpenTarget(scorer, scorer.tokenizer, "tiny", 128))  # type: ignore[arg-type]
            over = threading.Event()
            worker = threading.Thread(target=engine.work, args=(over.is_set,))
            worker.start()
            transport = httpx2.ASGITransport(LoopbackOnly(create_app(engine)))
            try:
                async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
                    return await asyncio.wait_for(test(client), 30)
            finally:
                over.set()
                worker.join()

        return asyncio.run(main())

    return run


@pytest.fixture
def post(with_client: Any) -> Callable[..., httpx2.Response]:
    """Return `post(path, body) -> response`, the body read whole."""

    def send(path: str, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return with_client(lambda client: client.post(path, content=content, headers=headers))

    return send


def events(response: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_whole_answer_has_openais_shape_and_counts_its_tokens(post: Any, scorer: ScriptedScorer) -> None:
    body = post("/v1/chat/completions", ASK).json()
    assert body["object"] == "chat.completion" and body["model"] == "tiny"
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "logprobs": None, "finish_reason": "stop"}
    ]
    prompt = scorer.tokenizer.encode_chat(ASK["messages"], True)
    assert scorer.prompts == [prompt]
    made = len(scorer.tokenizer.encode(ANSWER))
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": made,
        "total_tokens": len(prompt) + made,
    }


def test_a_streamed_answer_adds_up_to_the_whole_one_without_half_characters(post: Any) -> None:
    response = post("/v1/chat/completions", {**ASK, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, end, usage = events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "".join(pieces) == ANSWER and len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    assert {chunk["object"] for chunk in (*chunks, end, usage)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (*chunks, end, usage)}) == 1
    assert end["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 5


def test_a_text_is_continued_as_it_stands(post: Any, scorer: ScriptedScorer) -> None:
    body = post("/v1/completions", {"prompt": "The answer", "max_tokens": 3}).json()
    assert scorer.prompts == [scorer.tokenizer.encode("The answer")]
    assert body["object"] == "text_completion" and body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3 and ANSWER.startswith(body["choices"][0]["text"])
    chunks = events(post("/v1/completions", {"prompt": "The answer", "max_tokens": 64, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ANSWER


@pytest.mark.parametrize("stop", ["answer", ["nothing", "the ans", "42"], "🙂"])
def test_a_stop_text_ends_the_answer_before_it_and_the_computing_after_it(
    post: Any, scorer: ScriptedScorer, stop: str | list[str]
) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    expected = ANSWER[: min(ANSWER.find(text) for text in stops if text in ANSWER)]
    body = post("/v1/chat/completions", {**ASK, "stop": stop}).json()
    assert body["choices"][0]["message"]["content"] == expected
    assert body["choices"][0]["finish_reason"] == "stop"
    assert scorer.ended_early
    streamed = events(post("/v1/chat/completions", {**ASK, "stop": stop, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == expected


def test_an_answer_that_ends_in_half_a_stop_text_is_shown_whole(post: Any) -> None:
    asked = {**ASK, "stop": [ANSWER[-3:] + "x"]}
    assert post("/v1/chat/completions", asked).json()["choices"][0]["message"]["content"] == ANSWER
    streamed = events(post("/v1/chat/completions", {**asked, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == ANSWER


@given(st.lists(st.text("ab🙂", max_size=4), max_size=8), st.lists(st.text("ab🙂", min_size=1, max_size=3), max_size=3))
def test_stop_texts_are_found_wherever_the_pieces_are_cut(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    stopping, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += stopping.push(piece)
        if stopping.found:
            break
    else:
        shown += stopping.flush()
    # An earlier piece may complete a later stop text first: then the answer has ended there, before it was overtaken.
    if stopping.found:
        assert any(whole.startswith(shown + stop) for stop in stops) and len(shown) >= min(places)
    else:
        assert not places and shown == whole


def test_sampling_is_what_was_asked_for_and_never_more_than_the_context_holds(
    post: Any, scorer: ScriptedScorer
) -> None:
    post("/v1/chat/completions", {**ASK, "temperature": 0, "top_p": 0.5, "seed": 7, "max_tokens": 9})
    post("/v1/chat/completions", {**ASK, "max_tokens": 9, "max_completion_tokens": 10_000, "temperature": None})
    exact, open_ended = scorer.samplings
    assert (exact.temperature, exact.top_p, exact.seed, exact.max_new_tokens) == (0, 0.5, 7, 9)
    assert exact.stop_ids == tuple(scorer.tokenizer.stop_ids)
    assert open_ended.max_new_tokens == 128 - len(scorer.prompts[0]) and open_ended.temperature == 0.8


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("chat/completions", {**ASK, "n": 2}, "n", "not supported"),
        ("chat/completions", {**ASK, "tools": [{"type": "function"}]}, "tools", "not supported"),
        ("chat/completions", {**ASK, "logprobs": True}, "logprobs", "not supported"),
        ("chat/completions", {**ASK, "messages": []}, "messages", "at least 1"),
        ("chat/completions", {"model": "x"}, "messages", "required"),
        ("chat/completions", {**ASK, "temperature": -1}, "temperature", "greater"),
        ("chat/completions", {**ASK, "stop": ""}, "stop", "every answer"),
        ("chat/completions", {**ASK, "max_tokens": 0}, "max_tokens", "greater"),
        ("chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "system"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
            "",
        ),
        ("chat/completions", {"messages": [{"role": "user", "content": "a " * 500}]}, "messages", "context is 128"),
        ("completions", {"prompt": ["one", "two"]}, "prompt", "string"),
        ("completions", {"prompt": ""}, "prompt", "context"),
        ("chat/completions", b"{not json", None, "Invalid JSON"),
        ("chat/completions", b"[]", None, "object"),
        ("chat/completions", b"x" * (MAX_BODY_BYTES + 1), None, "larger than 16 MiB"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_field_named(
    post: Any, scorer: ScriptedScorer, path: str, body: Any, param: str | None, words: str
) -> None:
    response = post(f"/v1/{path}", body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param or "") and bool(error["param"]) == bool(param)
    assert words in error["message"]
    assert not scorer.samplings


def test_a_prompt_that_fills_the_context_carries_openais_code(post: Any) -> None:
    response = post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 500}]})
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_text_parts_and_developers_are_read(post: Any, scorer: ScriptedScorer) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    post(
        "/v1/chat/completions",
        {"messages": [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]},
    )
    plain = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    assert scorer.prompts == [scorer.tokenizer.encode_chat(plain, True)]


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Origin": "https://evil.example"}]
)
def test_other_hosts_and_web_pages_of_other_origins_are_kept_out(
    post: Any, scorer: ScriptedScorer, headers: dict[str, str]
) -> None:
    assert post("/v1/chat/completions", ASK, **headers).status_code == 403
    assert not scorer.samplings


@pytest.mark.parametrize("headers", [{"Host": "localhost:1"}, {"Host": "[::1]:8080"}, {"Origin": "http://localhost"}])
def test_this_machine_is_let_in(post: Any, headers: dict[str, str]) -> None:
    assert post("/v1/chat/completions", ASK, **headers).status_code == 200


def test_requests_at_the_same_time_are_answered_one_after_the_other(with_client: Any, scorer: ScriptedScorer) -> None:
    async def many(client: httpx2.AsyncClient) -> list[httpx2.Response]:
        return await asyncio.gather(*(client.post("/v1/chat/completions", json=ASK) for _ in range(8)))

    answers = with_client(many)
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == [ANSWER] * 8
    assert scorer.most_at_once == 1


def test_a_listener_who_leaves_stops_the_computing_and_lets_the_next_one_in(scorer: ScriptedScorer) -> None:
    async def leave_after_two() -> int:
        engine = Engine(OpenTarget(scorer, scorer.tokenizer, "tiny", 128))  # type: ignore[arg-type]
        over = threading.Event()
        worker = threading.Thread(target=engine.work, args=(over.is_set,))
        worker.start()
        from toolkit.serving.requests import ChatRequest

        request = ChatRequest.model_validate(ASK)
        prompt = await engine.prompt(request)
        first = engine.answer(prompt, request)
        await anext(first)
        await first.aclose()
        made = scorer.made
        rest = [piece async for piece in engine.answer(prompt, request)]
        over.set()
        worker.join()
        assert "".join(piece.text for piece in rest) == ANSWER
        assert scorer.ended_early
        return made

    assert asyncio.run(asyncio.wait_for(leave_after_two(), 30)) < 5


def test_a_failure_is_a_500_and_within_a_stream_an_event(post: Any, scorer: ScriptedScorer) -> None:
    scorer.fail_after = 3
    response = post("/v1/chat/completions", ASK)
    assert response.status_code == 500 and "out of memory" in response.json()["error"]["message"]
    assert "out of memory" in events(post("/v1/chat/completions", {**ASK, "stream": True}))[-1]["error"]["message"]


def test_the_model_is_listed_and_the_server_says_that_it_lives(with_client: Any) -> None:
    listed = with_client(lambda client: client.get("/v1/models")).json()
    assert [entry["id"] for entry in listed["data"]] == ["tiny"]
    assert with_client(lambda client: client.get("/health")).json() == {"status": "ok"}
