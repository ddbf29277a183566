r"""Where the assistant's words stand in a rendered conversation, for whatever chat template the model brings.

Trained is what the model itself must write at its turn: the content and what ends the turn. The header before it
(`<|im_start|>assistant\n`) is given by the generation prompt, so it is not trained, nor is a line end after the turn.

Templates insert system prompts, trim, drop earlier reasoning, move the system prompt to the last user turn. So the
places are not computed but found, and proved:

1. Render once more with every assistant content replaced by a marker. What stands around the markers must be exactly
   what stands around the contents in the real text: then the contents' places are known.
2. Where that fails (the template treats some contents specially), a turn begins where the text rendered up to it, with
   the generation prompt, ends, provided that this is a prefix of the whole; it ends at the next end-of-turn token.
3. Where both fail the conversation is refused: training on a guess would be silent damage.

Conversations with tools go another way, in `tool_turns`. Turns that the record keeps out of training are found like the
others and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.datasets.chat_tokenizer import ChatTokenizer
from toolkit.datasets.schema import Message
from toolkit.datasets.tool_turns import find_tool_turns
from toolkit.errors import ToolkitError


@dataclass(frozen=True)
class RenderedChat:
    """A rendered conversation.

    text:  what is tokenised
    spans: (start, end) in characters of what is trained, in order, end-of-turn text included
    append_end: the template puts nothing after the last turn that could end it: the end-of-text token must follow
    plain: a text without conversation, trained as a whole and ended by the end-of-text token
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    append_end: bool
    plain: bool = False


def render_with_spans(
    messages: Sequence[Message], tokenizer: ChatTokenizer, tools: Sequence[Mapping[str, Any]] = ()
) -> RenderedChat:
    """Render a conversation and find its trained text.

    Raises:
        ToolkitError: the template refuses the conversation, a message contains the end-of-turn token, or the template
            rewrites the conversation so that the assistant's text cannot be told from the rest.
    """
    if tokenizer.turn_end_id is not None:
        end_token = tokenizer.turn_end.strip()
        if any(end_token in message.content for message in messages):
            raise ToolkitError(
                f"a message contains {end_token}, which ends a turn", hint="Take the token out of the text"
            )
    text = tokenizer.render(messages, add_generation_prompt=False, tools=tools)
    turns = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if tools or any(message.role == "tool" or message.tool_calls for message in messages):
        spans = find_tool_turns(text, messages, tools, tokenizer)
    else:
        spans = _plain_spans(text, messages, turns, tokenizer)
    append_end = tokenizer.turn_end_id is None and messages[-1].role == "assistant" and messages[-1].trained
    trained = tuple(span for index, span in zip(turns, spans, strict=True) if messages[index].trained)
    return RenderedChat(text[: spans[-1][1]] if append_end else text, trained, append_end)


def _plain_spans(
    text: str, messages: Sequence[Message], turns: Sequence[int], tokenizer: ChatTokenizer
) -> list[tuple[int, int]]:
    """Return (start, end) of every assistant turn. Raises ToolkitError where they cannot be told from the rest."""
    contents = _find_by_markers(text, messages, turns, tokenizer)
    if contents is not None:
        starts = [_start(text, messages, i, begin, tokenizer) for i, (begin, _) in zip(turns, contents, strict=True)]
        ends = [_end(text, stop, tokenizer) for _, stop in contents]
        return list(zip(starts, ends, strict=True))
    spans = _find_by_prompts(text, messages, turns, tokenizer)
    if spans is None:
        raise ToolkitError(
            "the chat template rewrites this conversation, so the assistant's words cannot be told from the rest",
            hint="Split the conversation into shorter ones, or use a model with another template",
        )
    return spans


def _find_by_markers(
    text: str, messages: Sequence[Message], turns: Sequence[int], tokenizer: ChatTokenizer
) -> list[tuple[int, int]] | None:
    """Return (start, end) of each assistant content in `text`, or None where the markers' surroundings differ."""
    markers = {index: f"Qz{index}marker{index}zQ" for index in turns}
    marked = [Message(m.role, markers.get(index, m.content)) for index, m in enumerate(messages)]
    rest = tokenizer.render(marked, add_generation_prompt=False)
    around = []
    for marker in markers.values():
        if rest.count(marker) != 1:
            return None
        before, _, rest = rest.partition(marker)
        around.append(before)
    around.append(rest)
    if not text.startswith(around[0]):
        return None
    spans, place = [], len(around[0])
    for index, after in zip(turns, around[1:], strict=True):
        written = next((w for w in _as_written(messages[index].content) if text.startswith(w + after, place)), None)
        if written is None:
            return None
        spans.append((place, place + len(written)))
        place += len(written) + len(after)
    return spans if place == len(text) else None


def _as_written(content: str) -> list[str]:
    """Return the forms in which templates write a content: as it is, trimmed, or without the reasoning before it."""
    forms = [content, content.strip(), content.rstrip(), content.lstrip(), content.strip("\n"), content.lstrip("\n")]
    if "</think>" in content:
        answer = content.rpartition("</think>")[2]
        forms += [answer, answer.strip(), answer.lstrip("\n"), answer.lstrip()]
    return list(dict.fromkeys(forms))


def _start(text: str, messages: Sequence[Message], index: int, content_start: int, tokenizer: ChatTokenizer) -> int:
    """Return where the model begins to write: behind the generation prompt where that can be proved."""
    prompt = _prompt(messages[:index], tokenizer)
    if prompt is not None and text.startswith(prompt) and len(prompt) <= content_start:
        gap = text[len(prompt) : content_start]
        # A template that ignores add_generation_prompt leaves its header in the gap; a header is never trained.
        if not gap.strip() or tokenizer.writes_generation_prompt:
            return len(prompt)
    while content_start > 0 and text[content_start - 1] == " ":
        content_start -= 1  # a space before a word belongs to the word's token
    return content_start


def _end(text: str, content_end: int, tokenizer: ChatTokenizer) -> int:
    """Return the end of what closes a turn whose content ends at `content_end`."""
    closed = content_end + len(tokenizer.turn_end)
    return closed if text.startswith(tokenizer.turn_end, content_end) else content_end


def _find_by_prompts(
    text: str, messages: Sequence[Message], turns: Sequence[int], tokenizer: ChatTokenizer
) -> list[tuple[int, int]] | None:
    """Return each turn's (start, end) between its generation prompt and the next end-of-turn token, or None."""
    if tokenizer.turn_end_id is None or not tokenizer.writes_generation_prompt:
        return None
    end_token = tokenizer.turn_end.strip()
    spans = []
    for index in turns:
        prompt = _prompt(messages[:index], tokenizer)
        if prompt is None or not text.startswith(prompt):
            return None
        end = text.find(end_token, len(prompt))
        written = text[len(prompt) : end].strip()
        forms = (form.strip() for form in _as_written(messages[index].content))
        if end < 0 or not any(form and written.endswith(form) for form in forms):
            return None
        spans.append((len(prompt), end + len(end_token)))
    return spans


def _prompt(messages: Sequence[Message], tokenizer: ChatTokenizer) -> str | None:
    try:
        return tokenizer.render(messages, add_generation_prompt=True)
    except ToolkitError:  # some templates refuse a conversation that begins with the assistant, or an empty one
        return None
