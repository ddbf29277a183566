"""The policy: what may happen to an item, and how a policy file is read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.mcp_server.items import Item
from toolkit.mcp_server.policy import OPERATIONS, Policy
from toolkit.mcp_server.policy_file import Operation, PolicyFile, example_policy, option_lines
from toolkit.preservation import PRESERVATION_LEVELS

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
ITEM = Item("01A", "default", "milk", "moderate", (), {}, None, NOON, NOON, NOON, 0, None, 1, 2)


def policy(text: str, tmp_path: Path) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def refusal(text: str, tmp_path: Path) -> list[str]:
    with pytest.raises(ToolkitError) as caught:
        policy(text, tmp_path)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


# --- what may happen -------------------------------------------------------------------------------------------------

# Written out by hand: (level, operation) → without a person, by a person.
EXPECTED = {
    "strict": {"annotate": "yy", "update": "ny", "condense": "ny", "merge": "ny", "lower": "ny", "delete": "ny"},
    "moderate": {"annotate": "yy", "update": "yy", "condense": "yy", "merge": "yy", "lower": "yy", "delete": "yy"},
    "flexible": {"annotate": "yy", "update": "yy", "condense": "yy", "merge": "yy", "lower": "yy", "delete": "yy"},
}
FORGOTTEN = {"strict": "nn", "moderate": "nn", "flexible": "yy"}


@pytest.mark.parametrize(("level", "operation"), list(product(PRESERVATION_LEVELS, OPERATIONS)))
def test_each_level_allows_what_its_meaning_says(level, operation: Operation):
    wanted = {**EXPECTED[level], "expire": FORGOTTEN[level], "evict": FORGOTTEN[level]}[operation]
    item = replace(ITEM, preservation=level)
    decisions = [Policy().may(operation, item, by_person=by_person) for by_person in (False, True)]
    assert "".join("y" if decision.allowed else "n" for decision in decisions) == wanted
    assert decisions[0].needs_person == (wanted == "ny")
    assert all(decision.reason and decision.rule and decision.level == level for decision in decisions)


def test_an_operation_that_is_not_known_is_never_allowed():
    with pytest.raises(ValueError, match="no such operation"):
        Policy().may("publish", ITEM)  # pyright: ignore[reportArgumentType]


def test_a_rule_forbids_what_the_level_would_allow_unless_a_person_does_it(tmp_path):
    rules = policy(
        "rules: [{name: keep, when: {tags: [decision]}, forbid: [delete, expire, evict]}]\ntags: {decision: flexible}",
        tmp_path,
    )
    decision = replace(ITEM, tags=("decision",), preservation="flexible")
    assert not rules.may("delete", decision).allowed
    assert rules.may("delete", decision).needs_person
    assert "“keep” forbids" in rules.may("delete", decision).reason
    assert rules.may("delete", decision, by_person=True).allowed
    assert not rules.may("expire", decision, by_person=True).allowed
    assert rules.may("update", decision).allowed
    assert rules.may("delete", ITEM).allowed


# --- the level of a new item -----------------------------------------------------------------------------------------

LEVELS = """
preservation: moderate
namespaces: {default: {}, rules: {preservation: strict}, scratch: {preservation: flexible}}
tags: {todo: flexible, decision: moderate, law: strict}
rules:
  - {name: safety, when: {tags: [safety]}, at_least: strict}
  - {name: tidy, when: {namespaces: [scratch], tags: [invoice, receipt]}, at_least: moderate}
"""


@pytest.mark.parametrize(
    ("namespace", "tags", "asked", "level", "rule"),
    [
        ("default", (), None, "moderate", "preservation"),
        ("default", (), "flexible", "flexible", "asked"),
        ("default", (), "strict", "strict", "asked"),
        ("scratch", (), None, "flexible", "namespaces.scratch"),
        ("scratch", ("decision",), None, "moderate", "tags.decision"),
        ("default", ("todo",), None, "flexible", "tags.todo"),
        ("default", ("todo", "decision"), None, "moderate", "tags.decision"),
        ("default", ("law", "todo"), None, "strict", "tags.law"),
        ("default", ("law",), "flexible", "strict", "tags.law"),
        ("rules", (), None, "strict", "namespaces.rules"),
        ("rules", (), "flexible", "strict", "namespaces.rules"),
        ("rules", ("todo",), "flexible", "strict", "namespaces.rules"),
        ("default", ("safety",), None, "strict", "rules: safety"),
        ("scratch", ("safety", "todo"), "flexible", "strict", "rules: safety"),
        ("scratch", ("receipt",), "flexible", "moderate", "rules: tidy"),
        ("scratch", ("receipt",), "strict", "strict", "asked"),
        ("default", ("receipt",), "flexible", "flexible", "asked"),
    ],
)
def test_a_new_item_gets_its_level_from_rules_tags_namespace_and_what_is_asked(
    tmp_path, namespace, tags, asked, level, rule
):
    decision = policy(LEVELS, tmp_path).preservation_for(namespace, tags, asked)
    assert (decision.level, decision.rule, decision.allowed) == (level, rule, True)
    assert decision.reason


def test_namespaces_are_those_of_the_policy_and_not_what_a_model_makes_up(tmp_path):
    closed = policy(LEVELS, tmp_path)
    assert closed.namespace_for(None) == "default"
    assert closed.namespace_for("scratch") == "scratch"
    with pytest.raises(ToolkitError, match=r"there is no namespace 'scrach'.*Did you mean scratch\?"):
        closed.namespace_for("scrach")
    with pytest.raises(ToolkitError, match="Known: default, rules, scratch"):
        closed.namespace_for("zzz")
    assert not closed.preservation_for("zzz", (), None).allowed


def test_open_namespaces_take_any_name_that_can_be_one(tmp_path):
    opened = policy("open_namespaces: true", tmp_path)
    assert opened.namespace_for("projects/blue.2") == "projects/blue.2"
    for name in ("Big", "", "../up", "a b", "x" * 65, "ünder", "a\n"):
        with pytest.raises(ToolkitError, match="cannot be a namespace.*Small letters"):
            opened.namespace_for(name)


def test_a_context_begins_with_strict_items_of_the_namespaces_that_the_policy_names(tmp_path):
    assert Policy().strict_namespaces(None) is None
    assert Policy().strict_namespaces(["scratch"]) == ("scratch",)
    named = policy("context: {strict_namespaces: [default]}", tmp_path)
    assert named.strict_namespaces(None) == ("default",)
    assert named.strict_namespaces(["scratch", "default"]) == ("default", "scratch")


def test_budgets_are_those_of_the_namespace(tmp_path):
    assert Policy().budget_for("default").model_dump(exclude_none=True) == {}
    assert Policy().budget_for("elsewhere").max_items is None
    limited = policy("namespaces: {default: {budget: {max_items: 5, unused_days: 7}}}", tmp_path)
    assert limited.budget_for("default").model_dump(exclude_none=True) == {"max_items": 5, "unused_days": 7}


# --- explanations ----------------------------------------------------------------------------------------------------


def test_the_policy_explains_itself_in_json(tmp_path):
    rules = policy(LEVELS, tmp_path)
    item = replace(ITEM, preservation="strict")
    told = json.loads(json.dumps(rules.explain("scratch", ("safety",), item)))
    assert told["namespaces"]["rules"]["preservation"] == "strict"
    assert told["a_new_item"]["level"] == "strict"
    assert told["a_new_item"]["rule"] == "rules: safety"
    assert told["this_item"]["operations"]["delete"]["needs_person"] is True
    assert set(told["this_item"]["operations"]) == set(OPERATIONS)
    assert "a_new_item" not in rules.explain()
    with pytest.raises(ToolkitError, match="no namespace"):
        rules.explain("nowhere")


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_example_is_a_valid_policy_that_shows_every_key(tmp_path):
    text = example_policy()
    shown = policy(text, tmp_path)
    assert shown.preservation_for("default", ["allergy"], "flexible").level == "strict"
    missing = [name for name in option_lines() if f"{name}:" not in text]
    assert missing == []


def test_an_empty_file_and_no_file_are_the_built_in_policy(tmp_path):
    assert policy("# nothing yet\n", tmp_path).content == Policy.load(None).content == PolicyFile()
    assert policy("namespaces:\n", tmp_path).content == PolicyFile()


def test_every_mistake_is_named_with_its_line_at_once(tmp_path):
    text = """\
preservaton: strict
namespaces:
  default:
    budget:
      max_itms: 5
      max_tokens: -1
  Work: {}
rules:
  - name: one
    when: {tag: [a]}
    at_least: rigid
  - when: {tags: [a]}
duplicates: {threshold: 1.5}
"""
    assert refusal(text, tmp_path) == [
        "policy.yaml:1: unknown key preservaton. Did you mean preservation?",
        "policy.yaml:5: unknown key namespaces.default.budget.max_itms. Did you mean max_items?",
        "policy.yaml:6: namespaces.default.budget.max_tokens is -1: it should be greater than 0",
        "policy.yaml:10: unknown key rules.0.when.tag. Did you mean tags?",
        "policy.yaml:11: rules.0.at_least is 'rigid': it should be 'strict', 'moderate' or 'flexible'",
        "policy.yaml:12: rules.1.name is missing",
        "policy.yaml:13: duplicates.threshold is 1.5: it should be less than or equal to 1",
    ]


def test_what_contradicts_itself_is_refused_with_its_line(tmp_path):
    text = """\
default_namespace: work
namespaces: {default: {}, Work: {}}
rules:
  - {name: idle, when: {tags: [a]}}
  - name: vague
    when: {}
    at_least: strict
  - {name: lost, when: {namespaces: [defalt]}, at_least: strict}
context: {strict_namespaces: [elsewhere]}
"""
    assert refusal(text, tmp_path) == [
        "policy.yaml:2: 'Work' cannot be a namespace. Small letters, digits and . _ - /, up to 64 characters, a letter"
        " or digit first",
        "policy.yaml:1: default_namespace 'work' is not listed. Did you mean Work?",
        "policy.yaml:4: the rule 'idle' demands nothing. Add at_least or forbid",
        "policy.yaml:6: the rule 'vague' is about nothing. For everything, set `preservation` at the top",
        "policy.yaml:8: there is no namespace 'defalt'. Did you mean default?",
        "policy.yaml:9: there is no namespace 'elsewhere'. Known: default, Work",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tags: {a: strict, a: flexible}", "policy.yaml:1: a is given twice (first on line 1)"),
        ("tags:\n  on: strict", "policy.yaml:2: tags.True is True: it should be a valid string. YAML reads on, off"),
        ("open_namespaces: maybe", "policy.yaml:1: open_namespaces is 'maybe': it should be a valid boolean"),
        ("- a", "policy.yaml:1: the policy is ['a']: it should be"),
        ("tags: {a: strict", "policy.yaml:1: invalid YAML"),
        ("version: 2", "policy.yaml:1: version is 2: it should be 1"),
        ("namespaces: !!python/object:os.system {}", "policy.yaml:1: invalid YAML: could not determine a constructor"),
        ("tags: {}\na: &a [*a]", "policy.yaml:2: *a: references are not read"),
        ("rules: [{name: '', when: {tags: [a]}, at_least: strict}]", "policy.yaml:1: rules.0.name is ''"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, text, words):
    assert any(line.startswith(words) for line in refusal(text, tmp_path)), refusal(text, tmp_path)


def test_a_policy_that_is_not_there_or_not_text_is_refused_in_words(tmp_path):
    with pytest.raises(ToolkitError, match=r"cannot read the policy: No such file.*toolkit mcp init-policy"):
        Policy.load(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ToolkitError, match="not UTF-8"):
        Policy.load(tmp_path / "binary.yaml")


def test_the_examples_in_the_guide_are_valid_policies(tmp_path):
    guide = (Path(__file__).resolve().parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    rules, health, scratch = (policy(text, tmp_path) for text in examples)
    assert rules.preservation_for("house-rules", (), "flexible").level == "strict"
    assert health.preservation_for("default", ["allergy"], "flexible").level == "strict"
    assert not health.may("delete", replace(ITEM, tags=("decision",))).allowed
    assert scratch.budget_for("scratch").model_dump() == {
        "max_items": 500,
        "max_tokens": 100_000,
        "unused_days": 14,
        "max_age_days": 90,
    }
