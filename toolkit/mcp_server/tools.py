"""How a function becomes a tool: its arguments checked in words, its errors ones that a model can act on.

Over the SDK's own tools this adds: arguments that nobody declared are refused with the nearest name (a misspelt filter
must not be a search without one); a text that happens to be JSON stays text; what the toolkit raises reaches the model
as what is wrong and what to do, and no value that was given stands in a log line.
"""

from __future__ import annotations

import functools
import inspect
import sqlite3
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp_types import ToolAnnotations
from pydantic import Field, StringConstraints, ValidationError

from toolkit.errors import ToolkitError
from toolkit.preservation import PRESERVATION_MEANINGS, Preservation

MAX_TEXT_CHARACTERS = 100_000
MAX_QUERY_CHARACTERS = 4_000
MAX_TAGS = 32
MAX_LISTED = 100

ItemId = Annotated[str, Field(description="The item's id.", min_length=1, max_length=64)]
ItemText = Annotated[str, Field(description="The text, word for word.", min_length=1, max_length=MAX_TEXT_CHARACTERS)]
Query = Annotated[
    str, Field(description="What is looked for, in plain words.", min_length=1, max_length=MAX_QUERY_CHARACTERS)
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Namespace = Annotated[
    Name | None, Field(description="A namespace that the policy knows (explain_policy lists them); null: its default.")
]
Tags = Annotated[list[Name], Field(max_length=MAX_TAGS)]
Level = Annotated[
    Preservation | None,
    Field(
        description="; ".join(f"{level}: {meaning}" for level, meaning in PRESERVATION_MEANINGS.items())
        + ". Null: what the policy says. Only a person may lower strict."
    ),
]
Cursor = Annotated[
    str | None, Field(description="`next_cursor` of the answer before, to go on behind it.", max_length=512)
]
Offset = Annotated[int, Field(description="Characters of the text to skip (`next_offset` of the answer before).", ge=0)]


class ExactArguments(FuncMetadata):
    """Arguments as they were given, but for lists and objects that a client wrote as JSON in a string."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Leave alone whatever may be text: a note that reads `[1, 2]` or `null` is a note."""
        texts = {
            name: data[name]
            for name, field in self.arg_model.model_fields.items()
            if name in data and _may_be_text(field.annotation)
        }
        return super().pre_parse_json({name: value for name, value in data.items() if name not in texts}) | texts


def _may_be_text(annotation: Any) -> bool:
    """Say whether a value of this type can be text itself (a list of texts cannot)."""
    if get_origin(annotation) is Annotated:
        return _may_be_text(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return any(_may_be_text(part) for part in get_args(annotation))
    return annotation is str or (get_origin(annotation) is Literal and isinstance(get_args(annotation)[0], str))


class CheckedTool(Tool):
    """A tool that says in words what is wrong with its arguments."""

    async def run(self, arguments: dict[str, Any], context: Any, convert_result: bool = False) -> Any:
        """Run the tool. Raises ToolError when the arguments do not fit, naming each and what it takes."""
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            raise ToolError(argument_faults(error, self.parameters)) from None
        return await super().run(arguments, context, convert_result)


def make_tool(
    function: Callable[..., Any], *, title: str, reads: bool = False, destroys: bool = False, repeats: bool = False
) -> Tool:
    """Make a tool of a function; its docstring's first paragraph is what the model reads.

    reads:    it changes nothing
    destroys: it may remove or replace what was there
    repeats:  called again with the same arguments it changes nothing more
    """
    annotations = ToolAnnotations(
        title=title,
        read_only_hint=reads,
        destructive_hint=destroys,
        idempotent_hint=reads or repeats,
        open_world_hint=False,
    )
    tool = CheckedTool.from_function(
        guarded(function),
        title=title,
        description=_description(function),
        annotations=annotations,
        structured_output=True,
    )
    model = tool.fn_metadata.arg_model
    model.model_config["extra"] = "forbid"
    model.model_rebuild(force=True)
    tool.parameters = model.model_json_schema(by_alias=True)
    tool.fn_metadata = ExactArguments(**{name: getattr(tool.fn_metadata, name) for name in FuncMetadata.model_fields})
    return tool


def _description(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split())


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the errors of the toolkit, the store and the disk turned into ones for the model."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_later(*arguments: Any, **named: Any) -> Any:
            try:
                return await function(*arguments, **named)
            except (ToolkitError, sqlite3.Error, OSError) as error:
                raise ToolError(error_words(error)) from error

        return call_later

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (ToolkitError, sqlite3.Error, OSError) as error:
            raise ToolError(error_words(error)) from error

    return call


def error_words(error: BaseException) -> str:
    """Say what is wrong and what to do about it, for a model and the person behind it."""
    if isinstance(error, ToolkitError):
        return "\n".join(str(problem) for problem in error.problems)
    text = str(error).lower()
    if "locked" in text or "busy" in text:
        return "the store is in use by another program and did not become free; nothing was changed. Try again later"
    if "full" in text or "no space" in text:
        return "the disk is full; nothing was changed. Tell the user to free some space"
    if "readonly" in text or "read-only" in text or "permission" in text:
        return "the store cannot be written to; nothing was changed. Tell the user to check the file's permissions"
    if "malformed" in text or "not a database" in text:
        return "the store is damaged. Tell the user to run: toolkit mcp check"
    return f"the store refused: {type(error).__name__}. Tell the user to run: toolkit mcp check"


def argument_faults(error: ValidationError, schema: dict[str, Any]) -> str:
    """Name every argument at fault and what it takes; the values given are not repeated."""
    known = list(schema.get("properties", {}))
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"there is no argument {_short(place)!r}{_nearest(place, known)}")
        elif fault["type"] == "missing":
            lines.append(f"the argument {place!r} is missing")
        else:
            lines.append(f"{_short(place)}: {fault['msg']}")
    return "; ".join(dict.fromkeys(lines))


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known) or 'none'}"


def _short(place: str) -> str:
    return place if len(place) <= 64 else f"{place[:63]}…"
