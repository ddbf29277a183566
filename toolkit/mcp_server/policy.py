"""What may happen to an item, decided in this one place. `memory.py` asks before every write.

A model's own word is never a person's: `by_person` is set by a command that a person typed, or by a client that asked
one. The triggers in `migrations.py` are a second line behind this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from toolkit.errors import ToolkitError
from toolkit.mcp_server.items import NAMESPACE, Item
from toolkit.mcp_server.policy_file import (
    NAMESPACE_HINT,
    Budget,
    Duplicates,
    Operation,
    PolicyFile,
    Rule,
    nearest,
    read_policy,
)
from toolkit.preservation import PRESERVATION_LEVELS, PRESERVATION_MEANINGS, Preservation

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
OPERATION_MEANINGS: dict[Operation, str] = {
    "annotate": "add tags and metadata",
    "update": "change the text, or take tags or metadata away",
    "condense": "put a shorter text in its place",
    "merge": "join it with another item",
    "lower": "lower its level",
    "delete": "delete it with its history",
    "expire": "forget it at its time or its age",
    "evict": "forget it to keep a budget",
}
# What each level allows without a person. Nothing else is allowed.
_ALLOWED: dict[Preservation, frozenset[Operation]] = {
    "strict": frozenset({"annotate"}),
    "moderate": frozenset({"annotate", "update", "condense", "merge", "lower", "delete"}),
    "flexible": frozenset(OPERATIONS),
}
_BY_ITSELF: frozenset[Operation] = frozenset({"expire", "evict"})
"""What happens by itself, so that no person can be behind it."""


@dataclass(frozen=True)
class Decision:
    """What the policy says.

    level:        the level that the item has, or is to get
    rule:         the part of the policy that decided (`namespaces.scratch`, `rules: NAME`, …)
    reason:       the same in words
    needs_person: it is not allowed, but a person could do it
    """

    level: Preservation
    allowed: bool
    rule: str
    reason: str
    needs_person: bool = False


class NeedsPerson(ToolkitError):
    """The policy leaves it to people. What a model says of itself does not count."""


class Policy:
    """The decisions that follow from a policy file.

    content: the file's content; `PolicyFile()` is the built-in policy
    origin:  where it is from, for explanations
    """

    def __init__(self, content: PolicyFile | None = None, origin: str = "built in") -> None:
        self.content = content if content is not None else PolicyFile()
        self.origin = origin

    @classmethod
    def load(cls, path: Path | None) -> Policy:
        """Read a policy file, or take the built-in policy. Raises ToolkitError with every mistake and its line."""
        return cls() if path is None else cls(read_policy(path), str(path))

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that the policy lists."""
        return tuple(self.content.namespaces)

    @property
    def default_namespace(self) -> str:
        """Where things go when no namespace is named."""
        return self.content.default_namespace

    @property
    def duplicates(self) -> Duplicates:
        """What is done with a text that says nearly the same as an item."""
        return self.content.duplicates

    def namespace_for(self, name: str | None) -> str:
        """Return the namespace that is meant. Raises ToolkitError for one that the policy does not know."""
        if name is None:
            return self.default_namespace
        decision = self._namespace_decision(name)
        if decision is not None:
            raise ToolkitError(decision.reason, where="namespace", hint=self._namespace_hint(name))
        return name

    def _namespace_decision(self, name: str) -> Decision | None:
        if name in self.content.namespaces:
            return None
        level = self.content.preservation
        if not self.content.open_namespaces:
            return Decision(level, False, "namespaces", f"there is no namespace {name!r}")
        if not isinstance(name, str) or not NAMESPACE.fullmatch(name):
            return Decision(level, False, "open_namespaces", f"{name!r} cannot be a namespace")
        return None

    def _namespace_hint(self, name: str) -> str:
        if self.content.open_namespaces:
            return NAMESPACE_HINT
        return f"{nearest(str(name), self.namespaces)} A person can add one to the policy ({self.origin})"

    def budget_for(self, namespace: str) -> Budget:
        """Return how much the flexible items of a namespace may take."""
        rules = self.content.namespaces.get(namespace)
        return rules.budget if rules is not None else Budget()

    def strict_namespaces(self, asked: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return whose strict items belong into a context, None for all: the policy's, and those that were asked for.

        asked: the namespaces that the context is about, or None for all
        """
        always = self.content.context.strict_namespaces
        if always is None or asked is None:
            return tuple(asked) if asked is not None else always
        return tuple(dict.fromkeys((*always, *asked)))

    def preservation_for(
        self,
        namespace: str,
        tags: Iterable[str],
        asked: Preservation | None,
        *,
        by_person: bool = False,
        known: bool = False,
    ) -> Decision:
        """Say which level an item gets. A level may be asked for; `strict` and the rules cannot be asked away.

        known: the item is there already, perhaps in a namespace of an earlier policy
        """
        refused = None if known else self._namespace_decision(namespace)
        if refused is not None:
            return refused
        kept = tuple(tags)
        level, rule, reason = self._default_level(namespace, kept)
        if asked is not None and (level != "strict" or asked == "strict" or by_person):
            level, rule, reason = asked, "asked", f"{asked} was asked for"
        elif asked is not None:
            reason += f"; {asked} was asked for, but only a person may go below strict"
        for one in self._rules(namespace, kept):
            if one.at_least is not None and stricter(one.at_least, level):
                level, rule, reason = (
                    one.at_least,
                    f"rules: {one.name}",
                    f"the rule “{one.name}” demands {one.at_least}",
                )
        return Decision(level, True, rule, reason)

    def _default_level(self, namespace: str, tags: Sequence[str]) -> tuple[Preservation, str, str]:
        rules = self.content.namespaces.get(namespace)
        of_namespace = rules.preservation if rules is not None else None
        marked: list[tuple[Preservation, str]] = [
            (self.content.tags[tag], tag) for tag in sorted(tags) if tag in self.content.tags
        ]
        if marked and of_namespace != "strict":
            level, tag = min(marked, key=lambda pair: PRESERVATION_LEVELS.index(pair[0]))
            return level, f"tags.{tag}", f"items tagged {tag} are {level}"
        if of_namespace is not None:
            return of_namespace, f"namespaces.{namespace}", f"items in {namespace} are {of_namespace}"
        return self.content.preservation, "preservation", f"items are {self.content.preservation} by default"

    def _rules(self, namespace: str, tags: Iterable[str]) -> list[Rule]:
        kept = set(tags)
        return [
            rule
            for rule in self.content.rules
            if (not rule.when.namespaces or namespace in rule.when.namespaces)
            and (not rule.when.tags or kept & set(rule.when.tags))
        ]

    def may(self, operation: Operation, item: Item, *, by_person: bool = False) -> Decision:
        """Say whether something may be done to an item.

        Raises ValueError for an operation that there is not.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"no such operation: {operation}")
        level = item.preservation
        if by_person and operation not in _BY_ITSELF:
            return Decision(level, True, "person", "a person asked for it")
        could = operation not in _BY_ITSELF
        for rule in self._rules(item.namespace, item.tags):
            if operation in rule.forbid:
                reason = f"the rule “{rule.name}” forbids to {operation} it"
                return Decision(level, False, f"rules: {rule.name}", reason, needs_person=could)
        if operation not in _ALLOWED[level]:
            reason = f"the item is {level}: {PRESERVATION_MEANINGS[level]}"
            return Decision(level, False, f"level {level}", reason, needs_person=could)
        return Decision(level, True, f"level {level}", f"{level} items allow it")

    def require(self, operation: Operation, item: Item, *, by_person: bool = False) -> None:
        """Raise ToolkitError unless something may be done to an item (NeedsPerson where a person could do it)."""
        decision = self.may(operation, item, by_person=by_person)
        if decision.allowed:
            return
        what, where = f"may not {operation} it: {decision.reason}", f"item {item.id}"
        if not decision.needs_person:
            raise ToolkitError(what, where=where)
        if operation == "delete":
            raise NeedsPerson(what, where=where, hint=f"Only a person can: toolkit mcp delete {item.id}")
        if operation == "lower":
            raise NeedsPerson(what, where=where, hint=f"Only a person can: toolkit mcp level {item.id} moderate")
        hint = (
            f"Store a new item and link it with this one; a person can allow it: toolkit mcp level {item.id} moderate"
        )
        raise NeedsPerson(what, where=where, hint=hint)

    def explain(
        self, namespace: str | None = None, tags: Sequence[str] = (), item: Item | None = None
    ) -> dict[str, Any]:
        """Describe the policy in JSON: all of it, what a new item would get, and what may be done to one that is there.

        Raises ToolkitError for a namespace that there is not.
        """
        content = self.content
        told: dict[str, Any] = {
            "origin": self.origin,
            "levels": dict(PRESERVATION_MEANINGS),
            "default_namespace": content.default_namespace,
            "open_namespaces": content.open_namespaces,
            "preservation": content.preservation,
            "namespaces": {
                name: {
                    "description": rules.description,
                    "preservation": rules.preservation or content.preservation,
                    "budget_of_flexible_items": rules.budget.model_dump(exclude_none=True),
                }
                for name, rules in content.namespaces.items()
            },
            "tags": dict(content.tags),
            "rules": [rule.model_dump(mode="json", exclude_none=True) for rule in content.rules],
            "duplicates": content.duplicates.model_dump(),
            "context": content.context.model_dump(mode="json", exclude_none=True),
            "only_a_person_may": "lower, change, condense, merge or delete a strict item (toolkit mcp --help)",
        }
        if namespace is not None or tags:
            chosen = self.namespace_for(namespace)
            told["a_new_item"] = {
                "namespace": chosen,
                "tags": list(tags),
                **asdict(self.preservation_for(chosen, tags, None)),
            }
        if item is not None:
            told["this_item"] = {
                "id": item.id,
                "preservation": item.preservation,
                "operations": {
                    operation: {"means": OPERATION_MEANINGS[operation], **asdict(self.may(operation, item))}
                    for operation in OPERATIONS
                },
            }
        return told


def stricter(one: Preservation, other: Preservation) -> bool:
    """Say whether a level protects more than another one."""
    return PRESERVATION_LEVELS.index(one) < PRESERVATION_LEVELS.index(other)
