"""Examples into another shape of record; what a shape cannot say is found by reading the record back.

Nothing is assumed about what gets lost: the new record is read as any other is, and the two examples are compared turn
by turn. What differs is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from toolkit.config import DataConfig
from toolkit.datasets.records import example_from_record
from toolkit.datasets.schema import Example, Message
from toolkit.datasets.tokenizer import Tokenizer
from toolkit.errors import ToolkitError

Shape = Literal["instruction", "messages", "sharegpt", "completion", "text", "preference"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

_SHAPE_FIELDS = frozenset(
    "instruction input output history system messages conversations conversation prompt completion text chosen rejected"
    " tools functions metadata".split()
)

Record = dict[str, Any]


def convert_example(
    example: Example, record: Mapping[str, Any], to: Shape, data: DataConfig, tokenizer: Tokenizer | None = None
) -> tuple[Record, tuple[str, ...]]:
    """Return the record in another shape, and what it loses (nothing, as a rule).

    Args:
        example: what the record was read as.
        record: as it stands in the file: fields that belong to no shape go into `metadata`.
        to: the shape to write.
        data: the mapping by which the record was read.
        tokenizer: renders conversations for `text`.

    Raises:
        ToolkitError: the example cannot be put into this shape at all.
    """
    if example.text is not None and to != "text":
        raise ToolkitError(f"a plain text has no turns to write as {to}", where=example.where)
    if to == "preference" and not example.rejected:
        raise ToolkitError("there is no rejected answer to write a preference pair with", where=example.where)
    if to == "text":
        written: Record = {"text": _as_text(example, tokenizer)}
    else:
        written = _WRITERS[to](example)
    if example.tools:
        written["tools"] = [dict(tool) for tool in example.tools]
    metadata = _metadata(example, record, data)
    if metadata:
        written["metadata"] = metadata
    return written, (*_unread(record, data), *_losses(example, written, metadata))


def _unread(record: Mapping[str, Any], data: DataConfig) -> list[str]:
    """Name lists of which a mapping such as `instances.0.output` takes one item and leaves others."""
    roots = dict.fromkeys(path.partition(".")[0] for path in _mapped_paths(data) if "." in path)
    lists = [root for root in roots if isinstance(record.get(root), list) and len(record[root]) > 1]
    return [f"the other items of `{root}`" for root in lists]


def _losses(example: Example, written: Record, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        back = example_from_record(written, DataConfig(), example.where)
    except ToolkitError as error:
        raise ToolkitError(f"it cannot be read back: {error.problems[0].what}", where=example.where) from error
    lost = []
    if back.text != example.text:
        lost.append("its turns (a text has none)")
    elif [replace(m, trained=True) for m in back.messages] != [replace(m, trained=True) for m in example.messages]:
        lost.append("its turns as they are")
    elif _answers(back.messages) != _answers(example.messages):
        lost.append("which turns are trained")
    if _answers(back.rejected) != _answers(example.rejected):
        lost.append("the rejected answer")
    if [dict(tool) for tool in back.tools] != [dict(tool) for tool in example.tools]:
        lost.append("the tools")
    if dict(back.metadata) != dict(metadata):
        lost.append("the metadata")
    return tuple(lost)


def _answers(messages: Sequence[Message]) -> list[Message]:
    # Of the other turns nothing is ever trained, whatever they say about it.
    return [message for message in messages if message.role == "assistant"]


def _metadata(example: Example, record: Mapping[str, Any], data: DataConfig) -> Record:
    """Return the example's metadata, with the record's other fields (an id, a name, a label) added to them."""
    known = _SHAPE_FIELDS | {path.partition(".")[0] for path in _mapped_paths(data)}
    kept = {name: value for name, value in record.items() if name not in known and value is not None}
    return {**dict(example.metadata), **{name: value for name, value in kept.items() if name not in example.metadata}}


def _mapped_paths(data: DataConfig) -> list[str]:
    return [path for path in (data.prompt, data.completion, data.input, data.messages, data.text) if path]


def _as_text(example: Example, tokenizer: Tokenizer | None) -> str:
    if example.text is not None:
        return example.text
    if tokenizer is None:
        raise ToolkitError("a conversation becomes a text by a model's chat template", hint="Name the model: --model")
    return tokenizer.render(example.messages, add_generation_prompt=False, tools=example.tools)


def _turn(message: Message) -> Record:
    turn = message.as_dict()
    if message.role == "assistant" and not message.trained:
        turn["weight"] = 0
    return turn


def _messages(example: Example) -> Record:
    return {"messages": [_turn(message) for message in example.messages]}


def _sharegpt(example: Example) -> Record:
    turns: list[Record] = []
    for message in example.messages:
        turn: Record = {"from": _SHAREGPT_ROLES[message.role], "value": message.content}
        extra = _turn(message)
        turns.append({**turn, **{name: extra[name] for name in extra if name not in ("role", "content")}})
    return {"conversations": turns}


def _instruction(example: Example) -> Record:
    """Write the last question and answer, what came before as `history`, the system turn beside them."""
    turns = list(example.messages)
    written: Record = {}
    if turns[0].role == "system":
        written["system"] = turns.pop(0).content
    roles = [message.role for message in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise ToolkitError("an instruction record takes questions and answers in turn", where=example.where)
    contents = [message.content for message in turns]
    written.update(instruction=contents[-2], input="", output=contents[-1])
    if len(turns) > 2:
        written["history"] = [list(pair) for pair in zip(contents[:-2:2], contents[1:-2:2], strict=True)]
    return written


def _completion(example: Example) -> Record:
    """Write prompt and completion: as texts where they are one question and one answer, else as lists of turns."""
    turns = example.messages
    if [message.role for message in turns] == ["user", "assistant"] and not turns[1].tool_calls:
        return {"prompt": turns[0].content, "completion": turns[1].content}
    first = next(index for index, message in enumerate(turns) if message.role == "assistant" and message.trained)
    prompt = [{**message.as_dict()} for message in turns[:first]]
    return {"prompt": prompt, "completion": [_turn(message) for message in turns[first:]]}


def _preference(example: Example) -> Record:
    pairs = zip(example.messages, example.rejected, strict=False)
    shared = next(index for index, (one, other) in enumerate(pairs) if one != other)
    sides: Sequence[tuple[Message, ...]] = (example.messages[shared:], example.rejected[shared:])
    if shared == 0:
        return {"chosen": [_turn(m) for m in sides[0]], "rejected": [_turn(m) for m in sides[1]]}
    prompt = [message.as_dict() for message in example.messages[:shared]]
    return {"prompt": prompt, "chosen": [_turn(m) for m in sides[0]], "rejected": [_turn(m) for m in sides[1]]}


_WRITERS: dict[str, Callable[[Example], Record]] = {
    "instruction": _instruction,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "completion": _completion,
    "preference": _preference,
}
