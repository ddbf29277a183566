"""A team's own definitions: a small YAML file with terms, procedures, rules and tools, read strictly.

Every scalar is text (`42` and `no` stay what was typed). Whatever is wrong is reported at once, each with its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from toolkit.datasets.generate.grammar import GrammarError, Pattern, read_pattern
from toolkit.datasets.generate.phrasings import SURROUNDINGS
from toolkit.datasets.generate.strict_yaml import KeyPath, Places, Strict, read_strict
from toolkit.preservation import Preservation

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_INIT = "A commented file to begin with: toolkit dataset init"
ParameterType = Literal["string", "integer", "number", "boolean"]

FACETS: dict[str, tuple[str, ...]] = {
    "term.meaning": ("term", "team"),
    "term.example": ("term", "team"),
    "term.word": ("meaning", "team"),
    "procedure.steps": ("task", "team"),
    "procedure.first": ("task", "team"),
    "procedure.next": ("task", "step", "team"),
    "procedure.why": ("task", "team"),
    "procedure.avoid": ("task", "team"),
}
"""What is asked about a term or a procedure, and the slots that a phrasing of that question may use."""


_TAKEN = {slot for slots in FACETS.values() for slot in slots}


class Term(Strict):
    """A word with a meaning of its own. Asked: what it means, for an example, and for the word itself."""

    term: Text
    meaning: Text
    example: Text | None = None
    preservation: Preservation = "strict"


class Procedure(Strict):
    """How something is done. Asked: for all steps, the first, the next, the reason, and what to avoid."""

    task: Text
    steps: tuple[Text, ...] = Field(min_length=1)
    why: Text | None = None
    avoid: Text | None = None
    family: Text | None = None
    preservation: Preservation = "moderate"


class Case(Strict):
    """A question that a rule decides, and the answer that follows from it."""

    asked: Text
    input: Text | None = None
    answer: Text


class Rule(Strict):
    """A line of the system prompt (`text`), and cases that show the behaviour without it."""

    name: Text
    text: Text
    cases: tuple[Case, ...] = Field(min_length=1)
    preservation: Preservation = "strict"


class Parameter(Strict):
    """An argument of a tool."""

    type: ParameterType = "string"
    description: Text | None = None


class ToolCase(Strict):
    """A question that is answered by calling the tool."""

    asked: Text
    call: dict[str, str] = Field(default_factory=dict)
    result: Text
    answer: Text


class Tool(Strict):
    """A function that the assistant may call."""

    name: Text
    description: Text
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    cases: tuple[ToolCase, ...] = Field(min_length=1)
    preservation: Preservation = "moderate"


class Team(Strict):
    """What a team file holds."""

    team: Text = "our team"
    terms: tuple[Term, ...] = ()
    procedures: tuple[Procedure, ...] = ()
    rules: tuple[Rule, ...] = ()
    tools: tuple[Tool, ...] = ()
    slots: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    templates: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    paraphrases: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    openings: tuple[Text, ...] = ()


def read_team(path: Path | str) -> Team:
    """Read a team file.

    Raises:
        ToolkitError: everything that is wrong with it, gathered, each with its line: no UTF-8, no YAML, an unknown key
            (with the nearest one), a missing one, a pattern or slot that cannot be read, something defined twice.
    """
    team, places = read_strict(path, Team, hint=_INIT)
    if team is not None:
        _check(team, places)
    return places.settled(team)


def _check(team: Team, places: Places) -> None:
    """Check what types cannot say: patterns, slots, doubles, arguments."""
    if not (places.problems or team.terms or team.procedures or team.rules or team.tools):
        places.add("nothing to make examples from: no terms, procedures, rules or tools", (), _INIT)
    _check_names(team, places)
    for path, text, slots in _patterns(team, places):
        _check_pattern(text, slots, path, places)
    for path, case, also in _cases(team):
        _check_case(case, also, path, places)
    for number, tool in enumerate(team.tools):
        for index, case in enumerate(tool.cases):
            _check_call(tool, case, ("tools", number, "cases", index), places)


def _check_names(team: Team, places: Places) -> None:
    """Check that nothing is defined twice and that slots have names and values of their own."""
    for section, name in (("terms", "term"), ("procedures", "task"), ("rules", "name"), ("tools", "name")):
        seen: dict[str, int] = {}
        for index, item in enumerate(getattr(team, section)):
            value = getattr(item, name).casefold()
            if value in seen:
                first = places.line((section, seen[value], name))
                places.add(
                    f"{section}: {getattr(item, name)!r} is defined twice (first on line {first})",
                    (section, index, name),
                )
            seen.setdefault(value, index)
    for name, values in team.slots.items():
        if name in _TAKEN:
            places.add(f"slots.{name}: the toolkit fills {{{name}}} itself", ("slots", name), "Choose another name")
        if not values:
            places.add(f"slots.{name}: expected at least one value", ("slots", name))


def _patterns(team: Team, places: Places) -> Iterator[tuple[KeyPath, str, list[str]]]:
    """Yield every question pattern with the slots that it may use."""
    own = list(team.slots)
    for facet, texts in team.templates.items():
        if facet not in FACETS:
            near = get_close_matches(facet, FACETS, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FACETS)}"
            places.add(f"unknown key templates.{facet}", ("templates", facet), hint)
            continue
        for index, text in enumerate(texts):
            yield ("templates", facet, index), text, [*FACETS[facet], *own]
    for index, text in enumerate(team.openings):
        yield ("openings", index), text, ["team", "number", *SURROUNDINGS, *own]
    for path, case, _ in _cases(team):
        yield (*path, "asked"), case.asked, ["team", *own]
        if isinstance(case, Case) and case.input:
            yield (*path, "input"), case.input, ["team", *own]


def _cases(team: Team) -> Iterator[tuple[KeyPath, Case | ToolCase, list[tuple[str, str]]]]:
    """Yield every case with its place and the texts that follow from the question's slots."""
    for number, rule in enumerate(team.rules):
        for index, case in enumerate(rule.cases):
            yield ("rules", number, "cases", index), case, [("answer", case.answer)]
    for number, tool in enumerate(team.tools):
        for index, case in enumerate(tool.cases):
            texts = [("answer", case.answer), ("result", case.result), *(("call", text) for text in case.call.values())]
            yield ("tools", number, "cases", index), case, texts


def _check_pattern(text: str, slots: list[str], path: KeyPath, places: Places) -> Pattern | None:
    try:
        pattern = read_pattern(text)
    except GrammarError as error:
        places.add(str(error), path)
        return None
    for slot in pattern.slots:
        if slot not in slots:
            near = get_close_matches(slot, slots, n=1, cutoff=0.5)
            hint = f"Did you mean {{{near[0]}}}?" if near else f"Slots here: {', '.join(slots)}"
            places.add(f"unknown slot {{{slot}}}", path, hint)
    return pattern


def _check_case(case: Case | ToolCase, texts: list[tuple[str, str]], path: KeyPath, places: Places) -> None:
    """An answer may use only what the question said."""
    try:
        asked = set(read_pattern(case.asked).slots)
        if isinstance(case, Case) and case.input:
            asked |= set(read_pattern(case.input).slots)
    except GrammarError:
        return  # Reported with the question.
    for name, text in texts:
        try:
            pattern = read_pattern(text)
        except GrammarError as error:
            places.add(str(error), (*path, name))
            continue
        if pattern.wordings > 1:
            places.add(f"the {name} has a choice; what is taught must be one text", (*path, name))
        for slot in pattern.slots:
            if slot not in asked and slot != "team":
                hint = "Put it into `asked`, or write the text itself"
                places.add(f"the {name} uses {{{slot}}}, which the question does not have", (*path, name), hint)


def _check_call(tool: Tool, case: ToolCase, path: KeyPath, places: Places) -> None:
    for name, text in case.call.items():
        if name not in tool.parameters:
            near = get_close_matches(name, tool.parameters, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Parameters: {', '.join(tool.parameters) or 'none'}"
            places.add(f"{tool.name} has no parameter {name}", (*path, "call", name), hint)
        elif "{" not in text:
            try:
                argument(tool.parameters[name].type, text)
            except ValueError:
                places.add(f"{name} is {text!r}; expected {tool.parameters[name].type}", (*path, "call", name))
    for name in tool.parameters:
        if name not in case.call:
            places.add(f"the call leaves out {name}", (*path, "call"))


def argument(kind: ParameterType, text: str) -> str | int | float | bool:
    """Return a tool's argument in its type. Raises ValueError when the text is not of that type."""
    if kind == "integer":
        return int(text)
    if kind == "number":
        return float(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return text
