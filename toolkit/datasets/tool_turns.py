"""Where the assistant's words and calls stand in a rendered conversation with tools, for whatever template.

How a call is written is the template's own business (JSON, XML, several in a list), so a turn's text is not looked for
piece by piece as in `turns`. Found and proved is what stands *between* the assistant's turns:

1. Render the conversation once more with a marker in every user's, tool's and assistant's content and in the last
   argument of each turn's calls. There a turn begins where the generation prompt for it ends, and ends at the first
   end-of-turn token behind its marker, with no other message's marker on the way.
2. What stands before, between and behind the turns in that text must stand in the real text too, users' and tools'
   contents in the markers' places. The assistant's turns are what is left: each up to its end-of-turn token, which none
   of them contains.
3. In each turn its content and, in order, its calls' names and every argument must be found, or the template has
   dropped them.

What cannot be proved so is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.datasets.chat_tokenizer import ChatTokenizer
from toolkit.datasets.schema import Message, ToolCall
from toolkit.errors import ToolkitError

Tools = Sequence[Mapping[str, Any]]
_PROBE = "Qz7probe7zQ"


@dataclass(frozen=True)
class _Piece:
    """A message's place in the marked text; an assistant's turn goes up to its `end_token`."""

    index: int
    start: int
    stop: int
    end_token: str = ""


def find_tool_turns(
    text: str, messages: Sequence[Message], tools: Tools, tokenizer: ChatTokenizer
) -> list[tuple[int, int]]:
    """Return (start, end) of each assistant turn in `text`, its end-of-turn token included.

    Raises:
        ToolkitError: the template does not write tools, calls or results, or rewrites the conversation.
    """
    if tools and tokenizer.render(messages, add_generation_prompt=False) == text:
        hint = "Use a model that was made for tools (Qwen2.5-Instruct, Llama-3.1-Instruct, …), or leave `tools` out"
        raise ToolkitError("this model's chat template does not write tools", hint=hint)
    marks = [_marker(index, message) for index, message in enumerate(messages)]
    marked = [_marked(message, mark) for message, mark in zip(messages, marks, strict=True)]
    rest = tokenizer.render(marked, add_generation_prompt=False, tools=tools)
    pieces = _pieces(rest, marked, marks, tools, tokenizer)
    return _walk(text, rest, pieces, messages)


def _marker(index: int, message: Message) -> str:
    """Return what stands for a message; empty for one that is left as it is (system, or nothing in it)."""
    silent = message.role == "system" or not (message.content.strip() or message.tool_calls)
    return "" if silent else f"Qz{index}marker{index}zQ"


def _marked(message: Message, marker: str) -> Message:
    """Put the marker where the message ends: into the last call's argument, else into the content."""
    if not message.tool_calls:
        return replace(message, content=marker or message.content)
    *first, last = message.tool_calls
    # Some templates repeat the call's name in front of its result, so names stay.
    calls = (*first, ToolCall(last.name, {"value": marker}, last.id))
    return replace(message, content="Qzsaidzq" if message.content.strip() else "", tool_calls=calls)


def _pieces(
    rest: str, marked: Sequence[Message], marks: Sequence[str], tools: Tools, tokenizer: ChatTokenizer
) -> list[_Piece]:
    """Find every message in the marked text."""
    pieces: list[_Piece] = []
    anchor, anchor_end = "", 0
    stops = [text for text in (tokenizer.decode([stop]) for stop in tokenizer.stop_ids) if text]
    for index, (message, mark) in enumerate(zip(marked, marks, strict=True)):
        if not mark:
            continue
        place = rest.find(mark, anchor_end)
        if place < 0 or rest.count(mark) != 1:
            raise _left_out(message)
        end = place + len(mark)
        if message.role == "assistant":
            start = _turn_start(rest, marked[:index], anchor, anchor_end, tools, tokenizer)
            following = next((rest.find(later, end) for later in marks[index + 1 :] if later), len(rest))
            token, stop = _first(rest, stops, end, len(rest) if following < 0 else following)
            pieces.append(_Piece(index, start, stop, token))
        else:
            pieces.append(_Piece(index, place, end))
        anchor, anchor_end = mark, end
    return pieces


def _turn_start(
    rest: str, before: Sequence[Message], anchor: str, anchor_end: int, tools: Tools, tokenizer: ChatTokenizer
) -> int:
    """Return where the model begins to write: behind what the generation prompt puts after the message before."""
    prompt = tokenizer.render(before, add_generation_prompt=True, tools=tools)
    tail = prompt.rpartition(anchor)[2] if anchor else prompt
    if not rest.startswith(tail, anchor_end):
        raise _rewritten()
    start = anchor_end + len(tail)
    header = "" if tokenizer.writes_generation_prompt else _plain_header(tokenizer)
    return start + len(header) if header.strip() and rest.startswith(header, start) else start


def _plain_header(tokenizer: ChatTokenizer) -> str:
    """Return what a template that ignores the generation prompt writes before an answer: given, so never trained."""
    asked = Message("user", "Hello")
    whole = tokenizer.render([asked, Message("assistant", _PROBE)], add_generation_prompt=False)
    return whole.partition(_PROBE)[0].removeprefix(tokenizer.render([asked], add_generation_prompt=False))


def _first(text: str, tokens: Sequence[str], start: int, stop: int) -> tuple[str, int]:
    """Return the end-of-turn token that comes first in [start, stop), and where."""
    found = [(place, token) for token in tokens if (place := text.find(token, start, stop)) >= 0]
    if not found:
        raise ToolkitError("the chat template puts no end-of-turn token behind the assistant's turn")
    # Of two that begin at one place the longer is the token.
    place, token = min(found, key=lambda item: (item[0], -len(item[1])))
    return token, place


def _walk(text: str, rest: str, pieces: Sequence[_Piece], messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Go through the real text along the marked one; return the assistant's turns."""
    ends = [piece.start for piece in pieces[1:]] + [len(rest)]
    place = pieces[0].start
    if text[:place] != rest[:place]:
        raise _rewritten()
    spans: list[tuple[int, int]] = []
    for piece, end in zip(pieces, ends, strict=True):
        after, message = rest[piece.stop : end], messages[piece.index]
        if message.role == "assistant":
            stop = _turn_stop(text, place, piece, message)
            spans.append((place, stop + len(piece.end_token)))
        else:
            written = next((w for w in _as_written(message.content) if text.startswith(w + after, place)), None)
            if written is None:
                raise _rewritten()
            stop = place + len(written)
        if not text.startswith(after, stop):
            raise _rewritten()
        place = stop + len(after)
    if place != len(text):
        raise _rewritten()
    return spans


def _turn_stop(text: str, start: int, piece: _Piece, message: Message) -> int:
    """Return where a turn's end-of-turn token stands, having found in the turn all that the message says."""
    if piece.end_token in message.content or any(
        piece.end_token in json.dumps(call.as_dict(), ensure_ascii=False) for call in message.tool_calls
    ):
        what = f"a message contains {piece.end_token}, which ends a turn"
        raise ToolkitError(what, hint="Take the token out of the text")
    stop = text.find(piece.end_token, start)
    if stop < 0:
        raise _rewritten()
    written = text[start:stop]
    place = _said_end(written, message)
    for call in message.tool_calls:
        place = _call_end(written, place, call)
    return stop


def _said_end(written: str, message: Message) -> int:
    """Return where a turn's content ends in its text, if it stands there; reasoning may have been dropped."""
    if not message.content.rpartition("</think>")[2].strip():
        return 0
    form = next((w for w in _as_written(message.content) if w.strip() and w in written), None)
    if form is None and message.tool_calls:
        what = "the chat template leaves out what the assistant says beside its tool calls"
        raise ToolkitError(what, hint="Give the text and the calls a turn each, or use a model with another template")
    if form is None or not (message.tool_calls or written.rstrip().endswith(form.rstrip())):
        raise _rewritten()
    return written.find(form) + len(form)


def _call_end(written: str, place: int, call: ToolCall) -> int:
    """Return where a call's name ends in a turn's text, if the call stands there whole behind `place`."""
    start = written.find(call.name, place)
    rest = written[start:]
    if start < 0 or not all(any(form in rest for form in forms) for forms in _leaves(call.arguments)):
        what = f"the chat template does not write the call of {call.name!r} as the record has it"
        raise ToolkitError(what, hint="Use a model whose template writes tool calls")
    return start + len(call.name)


def _leaves(arguments: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield, for every name and value inside the arguments, the ways in which a template may write it."""
    open_values: list[Any] = [dict(arguments)]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            open_values += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            open_values += value
        elif isinstance(value, str):
            yield (value, value.strip(), json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1])
        else:
            yield (json.dumps(value), str(value))


def _as_written(content: str) -> list[str]:
    """Return the forms in which templates write a content: as it is, trimmed, inside a JSON text, without reasoning."""
    bare = json.dumps(content, ensure_ascii=False)[1:-1]
    forms = [content, content.strip(), content.rstrip(), content.lstrip(), content.lstrip("\n"), bare]
    if "</think>" in content:
        answer = content.rpartition("</think>")[2]
        forms += [answer, answer.strip(), answer.lstrip("\n")]
    return list(dict.fromkeys(forms))


def _left_out(message: Message) -> ToolkitError:
    if message.role == "tool":
        return ToolkitError(
            "the chat template leaves tool results out", hint="Use a model whose template knows the role tool"
        )
    if message.tool_calls:
        return ToolkitError(
            "the chat template leaves tool calls out", hint="Use a model whose template writes tool calls"
        )
    return _rewritten()


def _rewritten() -> ToolkitError:
    return ToolkitError(
        "the chat template rewrites this conversation, so the assistant's words cannot be told from the rest",
        hint="Split the conversation into shorter ones, or use a model with another template",
    )
