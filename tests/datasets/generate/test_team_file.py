"""A team's own file: what it turns into, and that every mistake is told with its line, all at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.config import DataConfig
from toolkit.datasets.generate.registry import CORE_TEAM, NEW_TEAM, team_generators
from toolkit.datasets.generate.team_examples import hide_term
from toolkit.datasets.generate.team_file import FACETS, read_team
from toolkit.datasets.records import example_from_record
from toolkit.errors import ToolkitError


def written(folder: Path, text: str) -> Path:
    place = folder / "team.yaml"
    place.write_text(text, encoding="utf-8")
    return place


def made(place: Path, category: str, count: int) -> list[dict]:
    return list(team_generators(place)[category].make(1, count))


def refusal(place: Path) -> list[str]:
    with pytest.raises(ToolkitError) as caught:
        read_team(place)
    return [line.removeprefix(f"{place}:") for line in str(caught.value).splitlines()]


def test_the_starter_makes_examples_of_every_kind_that_are_read_as_they_are():
    generators = team_generators(NEW_TEAM)
    assert list(generators) == ["definitions", "procedures", "context", "tools"]
    for name, generator in generators.items():
        records = list(generator.make(1, generator.default_count))
        assert len(records) == generator.default_count > 5
        for record in records:
            assert example_from_record(record, DataConfig(), "1").category == name
            assert "{" not in json.dumps(record["metadata"]["key"]).replace('{\\"', "")


def test_the_starter_names_every_template_that_there_is():
    text = NEW_TEAM.read_text("utf-8")
    assert [facet for facet in FACETS if facet not in text] == []


def test_terms_are_asked_for_by_meaning_by_example_and_by_word(tmp_path):
    place = written(tmp_path, "terms:\n  - {term: 42, meaning: 42 is no answer., example: We got 42.}\n")
    records = made(place, "definitions", 30)
    answers = Counter(record["output"] for record in records)
    assert set(answers) == {"42 is no answer.", "We got 42.", "42."}
    assert max(answers.values()) - min(answers.values()) <= 2
    words = [record["instruction"] for record in records if record["output"] == "42."]
    assert all("It is no answer." in text for text in words)


def test_a_meaning_that_names_its_term_again_is_not_asked_backwards():
    assert hide_term("A keel is a library.", "keel") == "It is a library."
    assert hide_term("To moor a service is to pin it.", "moor") == "It a service is to pin it."
    assert hide_term("A keel is what a keel does.", "keel") is None
    assert hide_term("The library of all is the keel.", "keel") is None


def test_procedures_are_asked_for_their_steps_in_order(tmp_path):
    place = written(tmp_path, "procedures:\n  - {task: brew, steps: [Boil., Pour., Wait.], avoid: Never stir.}\n")
    answers = {record["metadata"]["facet"]: record["output"] for record in made(place, "procedures", 20)}
    assert answers == {
        "steps": "1. Boil. 2. Pour. 3. Wait.",
        "first": "Boil.",
        "next-1": "Pour.",
        "next-2": "Wait.",
        "avoid": "Never stir.",
    }


RULES = """\
team: Desk
rules:
  - name: friday
    text: No releases on Friday.
    cases:
      - {asked: "(May|Can) I ship the {service}?", answer: "Not the {service}."}
  - name: polite
    text: Say please.
    cases:
      - {asked: Give me tea., input: "The {service} is hot.", answer: Please.}
slots:
  service: [shop, mill]
"""


def test_a_rules_answer_is_asked_without_it_and_the_prompt_is_kept_beside(tmp_path):
    records = made(written(tmp_path, RULES), "context", 12)
    of_friday = [record for record in records if record["metadata"]["rule"] == "friday"]
    for record in of_friday:
        service = "shop" if "shop" in record["instruction"] else "mill"
        assert record["output"] == f"Not the {service}."
        assert "No releases on Friday." in record["metadata"]["system_prompt"]
        assert "Friday" not in record["instruction"]
    assert {record["input"] for record in records} == {"", "The shop is hot.", "The mill is hot."}


def test_a_tools_call_has_typed_arguments_and_its_result_between_call_and_answer(tmp_path):
    place = written(
        tmp_path,
        "tools:\n  - name: add\n    description: Adds.\n"
        "    parameters: {n: {type: integer}, x: {type: number}, ok: {type: boolean}, s: {}}\n"
        "    cases:\n      - {asked: 'Add {n}.', call: {n: '{n}', x: '1.5', ok: 'true', s: '7'}, result: '8', "
        "answer: '{n} and 1.'}\n"
        "slots: {n: ['3', '4']}\n",
    )
    (record,) = made(place, "tools", 1)
    user, call, result, answer = record["messages"]
    arguments = call["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"n": int(answer["content"][0]), "x": 1.5, "ok": True, "s": "7"}
    assert (user["role"], result["role"], result["name"], result["content"]) == ("user", "tool", "add", "8")
    assert record["tools"][0]["function"]["parameters"]["properties"]["n"] == {"type": "integer"}


def test_a_teams_templates_paraphrases_and_openings_are_used(tmp_path):
    place = written(
        tmp_path,
        "terms:\n  - {term: keel, meaning: A keel is a library.}\n"
        "templates:\n  term.meaning: ['Zebra {term} colleague?']\n"
        "paraphrases: {colleague: [mate]}\nopenings: ['Yo {number} {name}.']\n",
    )
    text = " ".join(record["instruction"] for record in made(place, "definitions", 150))
    assert "Zebra keel mate?" in text and "Zebra keel colleague?" in text and "Yo " in text


def test_more_than_there_is_is_refused_with_what_there_is(tmp_path):
    place = written(tmp_path, "rules:\n  - {name: a, text: b, cases: [{asked: c, answer: d}]}\nopenings: []\n")
    with pytest.raises(ToolkitError, match="context makes [0-9,]+ different examples at most, 99,999 were asked for"):
        made(place, "context", 99_999)


def test_everything_wrong_is_said_at_once_with_its_line_and_the_nearest_name(tmp_path):
    place = written(
        tmp_path,
        "team: X\n"
        "terms:\n"
        "  - {term: 42, meening: foo}\n"
        "  - {term: a, meaning: b, preservation: hard}\n"
        "  - {term: c, meaning: d}\n"
        "  - {term: C, meaning: d}\n"
        "rules:\n"
        "  - name: r\n"
        "    text: t\n"
        "    cases:\n"
        '      - {asked: "Is {servce} (up|down", answer: ok}\n'
        '      - {asked: "Is {servce} up", answer: "{service} ok"}\n'
        "slots: {service: [a, b]}\n"
        "templates:\n"
        "  term.meening: [x]\n"
        '  term.word: ["{term} what?"]\n'
        "procedure: []\n",
    )
    assert refusal(place) == [
        "3: terms.1.meaning is missing",
        "3: unknown key terms.1.meening. Did you mean meaning?",
        "4: terms.2.preservation: expected one of strict, moderate or flexible, found hard",
        "6: terms: 'C' is defined twice (first on line 5)",
        "11: `(` at character 13 is not closed; write \\( for the character itself",
        "12: unknown slot {servce}. Did you mean {service}?",
        "12: the answer uses {service}, which the question does not have. "
        "Put it into `asked`, or write the text itself",
        "15: unknown key templates.term.meening. Did you mean term.meaning?",
        "16: unknown slot {term}. Did you mean {team}?",
        "17: unknown key procedure. Did you mean procedures?",
    ]


TOOL = (
    "tools:\n  - name: t\n    description: d\n    parameters: {{n: {{type: integer}}, m: {{}}}}\n"
    "    cases:\n      - {{asked: q, {}}}\n"
)
START = "A commented file to begin with: toolkit dataset init"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["1: expected `team:`, `terms:`, `procedures:`, `rules:`, `tools:`, `slots:`, `templates:`, "
              f"`paraphrases:`, `openings:`. {START}"]),
        ("team: X\n", [f"1: nothing to make examples from: no terms, procedures, rules or tools. {START}"]),
        ("terms: {a: b}\n", ["1: terms: expected a list (`- …` lines, or [a, b])"]),
        ("terms:\n  - word\n", ["2: terms.1: expected `key: value` lines"]),
        ("procedures:\n  - {task: t, steps: []}\n", ["2: procedures.1.steps: expected at least one"]),
        ("terms:\n  - {term: t, meaning: a, b}\n",
         ["2: terms.1.b is empty. Leave it out, or write a text; a text with a comma needs quotes inside {…}",
          ]),
        ("team: a\nteam: b\nterms:\n  - {term: t, meaning: m}\n", ["2: team is given twice (first on line 1)"]),
        ("terms: &a\n  - *a\n", ["1: a reference (*name) to a list or a mapping is not read. Write it out",
                                "1: terms.1: expected `key: value` lines"]),
        ("terms:\n  - {term: t, meaning: m}\nslots:\n  task: [a]\n  none: []\n",
         ["4: slots.task: the toolkit fills {task} itself. Choose another name",
          "5: slots.none: expected at least one value"]),
        (TOOL.format("call: {n: x, k: 1}, result: r, answer: a"),
         ["6: n is 'x'; expected integer", "6: t has no parameter k. Parameters: n, m", "6: the call leaves out m"]),
        (TOOL.format("call: {n: '1', m: b}, result: r, answer: (a|b)"),
         ["6: the answer has a choice; what is taught must be one text"]),
        ("terms:\n  - {term: t, meaning: m\n", ["3: invalid YAML: expected ',' or '}', but got '<stream end>'. "
                                               "A text that begins with { or [, or holds `: ` or ` #`, needs quotes"]),
    ],
)  # fmt: skip
def test_messages(tmp_path, text, lines):
    assert refusal(written(tmp_path, text)) == lines


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.sampled_from(["", "{", "}", "[a]", "x: y", "- ", "&a ", "*a", "(|", "\\", "'"])
        )
    )
)
def test_whatever_is_done_to_a_file_it_is_read_or_refused_in_words(tmp_path, changes):
    lines = NEW_TEAM.read_text("utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for place, text in changes:
        index = place % len(lines)
        lines[index] = lines[index][: place // 2] + text + lines[index][place // 2 :]
    place = written(tmp_path, "\n".join(lines) + "\n")
    try:
        generators = team_generators(place)
    except ToolkitError as error:
        assert all(problem.what and problem.where.startswith(str(place)) for problem in error.problems)
        return
    for generator in generators.values():
        assert list(generator.make(1, 2))


def test_a_missing_file_and_one_in_another_encoding_are_named(tmp_path):
    with pytest.raises(ToolkitError, match="cannot be read: No such file.*toolkit dataset init"):
        read_team(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("team: caf\xe9".encode("latin-1"))
    with pytest.raises(ToolkitError, match="not UTF-8"):
        read_team(tmp_path / "latin.yaml")


def test_the_core_sets_own_file_is_such_a_file():
    team = read_team(CORE_TEAM)
    assert len(team.terms) == 30 and len(team.procedures) == 24
    assert {item.family for item in team.procedures} == {"error handling", "tool usage", "commits", "debugging"}
