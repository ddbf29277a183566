"""The policy as a file: strict YAML, every mistake with its line, unknown keys with the nearest name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from toolkit.config import Section
from toolkit.errors import Problem, ToolkitError
from toolkit.mcp_server.items import NAMESPACE
from toolkit.preservation import Preservation

Operation = Literal["annotate", "update", "condense", "merge", "lower", "delete", "expire", "evict"]
Forbidden = Literal["update", "condense", "merge", "lower", "delete", "expire", "evict"]
Positive = Annotated[int, Field(gt=0)]
DEFAULT_NAMESPACE = "default"
EXAMPLE = Path(__file__).with_name("memory-policy.yaml")


class Budget(Section):
    """How much the flexible items of a namespace may take; other items are neither counted nor evicted."""

    max_items: Positive | None = None
    """Beyond so many, the least recently used go first."""
    max_tokens: Positive | None = None
    """Beyond so many (estimated: a third of the bytes), the least recently used go first."""
    max_age_days: Positive | None = None
    """Stored longer ago than this: forgotten."""
    unused_days: Positive | None = None
    """Neither read nor found for so long: forgotten."""


class NamespaceRules(Section):
    """What holds in one namespace."""

    description: str = ""
    """What it is for; shown to the model."""
    preservation: Preservation | None = None
    """The level of its items, unless a tag says otherwise. `strict` cannot be asked away."""
    budget: Budget = Budget()
    """How much its flexible items may take."""


class When(Section):
    """What a rule is about: items of one of the namespaces (any, if none is named) with one of the tags (likewise)."""

    namespaces: tuple[str, ...] = Field(default=(), strict=False)
    """Names of namespaces."""
    tags: tuple[str, ...] = Field(default=(), strict=False)
    """Tags."""


class Rule(Section):
    """Something that holds whatever a model asks for."""

    name: str = Field(min_length=1)
    """How it is called in explanations."""
    when: When
    """What it is about."""
    at_least: Preservation | None = None
    """The lowest level that such an item may have."""
    forbid: tuple[Forbidden, ...] = Field(default=(), strict=False)
    """What is not done to such an item unless a person does it."""


class Duplicates(Section):
    """What is done with a text that says nearly the same as an item."""

    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine of the embeddings from which on two texts are taken to say nearly the same."""
    moderate: Literal["merge", "link"] = "link"
    """For items of this level."""
    flexible: Literal["merge", "link"] = "merge"
    """For items of this level."""


class ContextRules(Section):
    """What a context for a task begins with."""

    strict_namespaces: tuple[str, ...] | None = Field(default=None, strict=False)
    """Whose strict items belong into every context. Default: those of the namespaces that were asked for."""


def _default_namespaces() -> dict[str, NamespaceRules]:
    scratch = NamespaceRules(
        description="Notes for the moment: forgotten when they have not been used for 30 days",
        preservation="flexible",
        budget=Budget(max_items=1000, unused_days=30),
    )
    return {DEFAULT_NAMESPACE: NamespaceRules(description="What is worth remembering"), "scratch": scratch}


class PolicyFile(Section):
    """A whole policy. Without a file it is `PolicyFile()`."""

    version: Literal[1] = 1
    """The version of this format."""
    preservation: Preservation = "moderate"
    """The level of what nothing else speaks of."""
    default_namespace: str = DEFAULT_NAMESPACE
    """Where things go when no namespace is named."""
    open_namespaces: bool = False
    """Whether a model may use names that are not listed."""
    namespaces: dict[str, NamespaceRules] = Field(default_factory=_default_namespaces)
    """The namespaces that there are."""
    tags: dict[str, Preservation] = {}
    """The level of items with a tag, unless asked otherwise; of several the strictest."""
    rules: tuple[Rule, ...] = Field(default=(), strict=False)
    """What holds whatever is asked for."""
    duplicates: Duplicates = Duplicates()
    """What is done with a text that says nearly the same as an item."""
    context: ContextRules = ContextRules()
    """What a context for a task begins with."""


# Which keys are known where; `*` stands for a name or number of the user's.
_SECTIONS: dict[tuple[str, ...], type[BaseModel]] = {
    (): PolicyFile,
    ("namespaces", "*"): NamespaceRules,
    ("namespaces", "*", "budget"): Budget,
    ("rules", "*"): Rule,
    ("rules", "*", "when"): When,
    ("duplicates",): Duplicates,
    ("context",): ContextRules,
}


def example_policy() -> str:
    """Return a policy file to begin with, every key explained."""
    return EXAMPLE.read_text(encoding="utf-8")


def read_policy(path: Path) -> PolicyFile:
    """Read a policy file. Raises ToolkitError with every mistake: its line, what is wrong, what was expected."""
    try:
        text = path.read_text("utf-8")
        _refuse_aliases(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        hint = "Type: toolkit mcp init-policy"
        raise ToolkitError(f"cannot read the policy: {error.strerror or error}", where=path, hint=hint) from error
    except UnicodeDecodeError as error:
        raise ToolkitError("the policy is not UTF-8 text", where=path) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ToolkitError(f"invalid YAML: {getattr(error, 'problem', None) or error}", where=place) from error
    if content is None:
        return PolicyFile()
    problems = [Problem(what, f"{path}:{line}") for what, line in _repeated_keys(root)]
    if isinstance(content, dict) and content.get("namespaces", 0) is None:
        del content["namespaces"]  # a heading with nothing below it
    try:
        policy = PolicyFile.model_validate(content)
    except ValidationError as error:
        wrong = {_place_and_words(item, root, path) for item in error.errors()}
        raise ToolkitError.gather(problems + sorted(wrong, key=lambda one: (_line_number(one), one.what))) from error
    problems += [Problem(what, f"{path}:{_line(root, where)}", hint) for what, where, hint in _contradictions(policy)]
    if problems:
        raise ToolkitError.gather(problems)
    return policy


def _refuse_aliases(text: str, path: Path) -> None:
    # A few of them are enough for a file that fills the memory of the machine, or that never ends.
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            place = f"{path}:{event.start_mark.line + 1}"
            raise ToolkitError(
                f"*{event.anchor}: references are not read in a policy", where=place, hint="Write it out"
            )


def _place_and_words(item: Any, root: yaml.Node, path: Path) -> Problem:
    location = tuple(item["loc"])
    key = ".".join(str(part) for part in location if part != "[key]")
    if location[-1:] == ("[key]",):
        key = ".".join(str(part) for part in (*location[:-2], item["input"]))
    place = f"{path}:{_line(root, location)}"
    if item["type"] == "extra_forbidden":
        level = tuple("*" if number == 1 else str(part) for number, part in enumerate(location[:-1]))
        known = list(_SECTIONS[level].model_fields) if level in _SECTIONS else []
        everywhere = [name for model in _SECTIONS.values() for name in model.model_fields]
        near = get_close_matches(str(location[-1]), known, n=1) or get_close_matches(str(location[-1]), everywhere, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}"
        return Problem(f"unknown key {key}", place, hint)
    if item["type"] == "missing":
        return Problem(f"{key} is missing", place)
    words = str(item["msg"]).replace("Input should", "it should").replace("dictionary", "set of `key: value` lines")
    hint = (
        "YAML reads on, off, yes and no as true and false: put it in quotes" if item["input"] in (True, False) else ""
    )
    return Problem(f"{key or 'the policy'} is {item['input']!r}: {words}", place, hint)


def _line_number(problem: Problem) -> int:
    return int(problem.where.rpartition(":")[2])


def _line(root: yaml.Node, location: Sequence[Any]) -> int:
    # As far down as the file goes: a key that is missing has the line of its section.
    node, line = root, root.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if _named(key, part)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _named(key: yaml.Node, part: Any) -> bool:
    if key.tag.endswith(":bool"):  # `on:` is read as true, which pydantic calls 1
        return str(part) in ("0", "1")
    return str(getattr(key, "value", "")) == str(part)


def _repeated_keys(node: yaml.Node) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _repeated_keys(one)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(getattr(key, "value", "?")), key.start_mark.line + 1
            if name in seen:
                yield f"{name} is given twice (first on line {seen[name]})", line
            seen.setdefault(name, line)
            yield from _repeated_keys(value)


def _contradictions(policy: PolicyFile) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    known = list(policy.namespaces)
    for name in known:
        if not NAMESPACE.fullmatch(name):
            yield f"{name!r} cannot be a namespace", ("namespaces", name), NAMESPACE_HINT
    if policy.default_namespace not in known:
        yield (
            f"default_namespace {policy.default_namespace!r} is not listed",
            ("default_namespace",),
            nearest(policy.default_namespace, known),
        )
    yield from _idle_rules(policy)
    if policy.open_namespaces:
        return
    named: list[tuple[tuple[Any, ...], tuple[str, ...]]] = [
        (("rules", number, "when", "namespaces"), rule.when.namespaces) for number, rule in enumerate(policy.rules)
    ]
    named.append((("context", "strict_namespaces"), policy.context.strict_namespaces or ()))
    for place, names in named:
        for name in names:
            if name not in known:
                yield f"there is no namespace {name!r}", place, nearest(name, known)


def _idle_rules(policy: PolicyFile) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    for number, rule in enumerate(policy.rules):
        if not rule.when.namespaces and not rule.when.tags:
            hint = "For everything, set `preservation` at the top"
            yield f"the rule {rule.name!r} is about nothing", ("rules", number, "when"), hint
        if rule.at_least is None and not rule.forbid:
            yield f"the rule {rule.name!r} demands nothing", ("rules", number), "Add at_least or forbid"


NAMESPACE_HINT = "Small letters, digits and . _ - /, up to 64 characters, a letter or digit first"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a hint: the known name that was probably meant, or all of them."""
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}"


def option_lines() -> dict[str, str]:
    """Return what each key of a policy file means, by its name, in the order of the file."""
    return {name: info.description or "" for model in _SECTIONS.values() for name, info in model.model_fields.items()}
