"""The generators of words: what every category must hold, and proofs by readings that the test brings."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import islice

import pytest

from toolkit.config import DataConfig
from toolkit.datasets.generate import compliance, context, process, tagging
from toolkit.datasets.generate.generation import question_and_answer
from toolkit.datasets.generate.memory import memory_examples
from toolkit.datasets.generate.memory_tools import MemoryStandIn
from toolkit.datasets.generate.process import process as process_records
from toolkit.datasets.generate.process import read_cycle
from toolkit.datasets.generate.registry import generators
from toolkit.datasets.records import example_from_record
from toolkit.errors import ToolkitError
from toolkit.preservation import PRESERVATION_LEVELS

TEXT = ("procedures", "definitions", "context", "tagging", "compliance", "process", "memory")
GENERATORS = generators()
RECORDS = {name: list(GENERATORS[name].make(1, GENERATORS[name].default_count)) for name in TEXT}

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", TEXT)
def test_the_same_seed_gives_the_same_records_and_a_smaller_count_their_beginning(name):
    make = GENERATORS[name].make
    assert list(make(1, 40)) == RECORDS[name][:40]
    assert list(make(2, 40)) != RECORDS[name][:40]


@pytest.mark.parametrize("name", TEXT)
def test_every_record_carries_its_metadata_and_is_read_as_an_example(name):
    low, high = GENERATORS[name].count_range
    assert low <= len(RECORDS[name]) == GENERATORS[name].default_count <= high
    assert len({record["metadata"]["id"] for record in RECORDS[name]}) == len(RECORDS[name])
    for record in RECORDS[name]:
        metadata = record["metadata"]
        assert metadata["category"] == name
        assert 0 <= metadata["difficulty"] <= 1
        assert metadata["preservation"] in PRESERVATION_LEVELS
        assert metadata["key"] and metadata["source"].startswith("toolkit.")
        assert isinstance(metadata["verified"], bool)
        example = example_from_record(record, DataConfig(), "line 1")
        assert example.category == name and example.key == metadata["key"]
        asked, answered = question_and_answer(record)
        for text in (asked, answered):
            assert text.strip() and not re.search(r"\{[a-z_]+\}|  |\( | \)|\|", text), text


def test_no_key_comes_twice_where_examples_are_drawn():
    for name in ("context", "tagging", "compliance", "memory"):
        keys = [record["metadata"]["key"] for record in RECORDS[name]]
        assert len(set(keys)) == len(keys), name


def test_one_question_never_has_two_answers():
    answers = defaultdict(set)
    for records in RECORDS.values():
        for record in records:
            if "messages" not in record:
                answers[record["instruction"], record["input"]].add(record["output"])
    assert [question for question, given in answers.items() if len(given) > 1] == []


def test_held_out_phrasings_have_sisters_so_that_their_answers_can_be_learnt():
    for name in ("procedures", "definitions", "process"):
        phrasings = defaultdict(set)
        for record in RECORDS[name]:
            subject, _, phrasing = record["metadata"]["key"].rpartition("|")
            phrasings[subject].add(phrasing)
        assert min(map(len, phrasings.values())) >= 2, name


def test_procedures_come_from_the_four_families_in_like_shares():
    families = Counter(record["metadata"]["family"] for record in RECORDS["procedures"])
    assert set(families) == {"error handling", "tool usage", "commits", "debugging"}
    assert max(families.values()) - min(families.values()) < 20


def test_42_is_among_the_definitions():
    assert any(record["output"].startswith("42 is our word") for record in RECORDS["definitions"])


# --- context-window replacement -------------------------------------------------------------------------------------


def by_rule(name: str) -> list[dict]:
    return [record for record in RECORDS["context"] if record["metadata"]["rule"] == name]


def test_the_prompt_that_is_replaced_holds_the_deciding_rule_and_the_question_does_not():
    lines = {rule.name: rule.lines for rule in context.RULES}
    for record in RECORDS["context"]:
        metadata = record["metadata"]
        assert metadata["rule"] in metadata["active_rules"]
        assert any(line in metadata["system_prompt"] for line in lines[metadata["rule"]])
        assert not any(line in record["instruction"] for line in lines[metadata["rule"]])


def test_times_are_on_the_24_hour_clock():
    assert len(by_rule("clock")) > 20
    for record in by_rule("clock"):
        hour, minute, half = re.search(r"(\d+):(\d+) ([ap])m", record["instruction"]).groups()
        wanted = int(hour) % 12 + (12 if half == "p" else 0)
        assert record["output"].endswith(f" is at {wanted:02d}:{minute}."), record


def test_dates_come_first_as_iso():
    months = "January February March April May June July August September October November December".split()
    for record in by_rule("date"):
        day, month, year = re.search(r"(\d+) ([A-Z]\w+) (\d{4})", record["instruction"]).groups()
        assert record["output"].startswith(f"{year}-{months.index(month) + 1:02d}-{int(day):02d} ")


def test_amounts_tickets_and_channels_follow_from_the_question():
    codes = {"euros": "EUR", "dollars": "USD", "pounds": "GBP", "francs": "CHF", "crowns": "SEK"}
    for record in by_rule("money"):
        amount, word = re.search(r"(\d+) (\w+s)\b", record["instruction"]).groups()
        assert record["output"] == f"{codes[word]} {amount}"
    for record in by_rule("ticket"):
        assert record["output"].split(":")[0] == "HB-" + re.search(r"\d+", record["instruction"])[0]
    homes = {"invoices": "money", "certificates": "gate", "pallets": "cargo", "desks": "deck", "hiring": "bridge"}
    seen = 0
    for record in by_rule("channel"):
        for topic, channel in homes.items():
            if topic in record["instruction"]:
                seen += 1
                assert record["output"] == f"Please ask in #{channel}."
    assert seen > 5


def test_both_readings_agree_on_every_candidate():
    why: list[str] = []
    for name in ("context", "tagging", "compliance", "memory"):
        list(GENERATORS[name].make(3, 200, why.append))
    assert why == []


def test_a_question_that_reads_otherwise_is_left_out(monkeypatch):
    rule = context.RULES[0]
    broken = type(rule)(rule.name, rule.lines, rule.asked, rule.make, lambda text: "something else", rule.difficulty)
    monkeypatch.setattr(context, "RULES", (broken, *context.RULES[1:]))
    why: list[str] = []
    records = list(context.context(1, 60, why.append))
    assert why and all("read again" in text for text in why)
    assert not [record for record in records if record["metadata"]["rule"] == rule.name]


# --- tagging and compliance -----------------------------------------------------------------------------------------

READ_BY_A_PERSON = {
    "Kelp means a list of open risks.": "definition",
    "Nobody may open a port during an audit.": "rule",
    "Quote from sales: 'I count boxes and you count clicks.'": "quotation",
    "First press reset, then sort the cards, then wait a minute.": "procedure",
    "We chose tabs instead of a menu, because users asked for it.": "decision",
    "The proxy runs in the cellar of the Oslo office.": "fact",
    "Right now the cache is slow.": "status",
    "Maybe we could try shorter forms.": "draft",
    "By the way, the soup was good.": "chat",
}


@pytest.mark.parametrize(("note", "kind"), READ_BY_A_PERSON.items())
def test_a_notes_kind_is_what_a_person_reads(note, kind):
    assert tagging.kind_of(note) == kind


def test_a_note_in_which_two_kinds_are_read_or_none_has_no_kind():
    assert tagging.kind_of("Today nobody may open a port.") is None
    assert tagging.kind_of("Blue.") is None


def test_tags_are_balanced_and_the_level_follows_from_the_kind():
    strict, moderate = {"definition", "rule", "quotation"}, {"procedure", "decision", "fact"}
    counts = Counter()
    for record in RECORDS["tagging"]:
        level, kind = record["output"].split(", ")
        counts[level] += 1
        assert level == ("strict" if kind in strict else "moderate" if kind in moderate else "flexible")
        assert level == record["metadata"]["preservation"] == record["metadata"]["label"]
    assert min(counts.values()) > 0.27 * len(RECORDS["tagging"])


WITNESSES = {
    "pattern:version": lambda text: bool(re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", text)),
    "pattern:branch-name": lambda text: bool(re.fullmatch(r"\d{3}/[a-z]+(-[a-z]+)*", text)),
    "pattern:snake-case": lambda text: bool(re.fullmatch(r"[a-z]+(_[a-z]+)*", text)),
    "pattern:commit-subject": lambda text: bool(re.fullmatch(r"[A-Z][a-z]*(?<!ed) [^.]*", text)) and len(text) <= 60,
    "concept:one-change": lambda text: " and " not in text,
    "concept:no-blame": lambda text: not re.search(r"broke|forgot|fault of|should have", text),
    "concept:measured": lambda text: any(character.isdigit() for character in text),
    "concept:next-step": lambda text: ". Next: " in text,
    "definition:done": lambda text: text.count(",") == 2,
    "definition:hot-fix": lambda text: int(re.search(r"of (\d+) lines", text)[1]) <= 20 and " ends the " in text,
    "definition:blue-ticket": lambda text: int(re.search(r"(\d+) euros", text)[1]) <= 500 or "approvals" in text,
}


def test_every_verdict_is_that_of_a_check_written_for_this_test():
    labels = Counter()
    rules = set()
    for record in RECORDS["compliance"]:
        (text,) = re.findall(r"'([^']*)'", record["instruction"])
        rule = record["metadata"]["rule"]
        rules.add(rule)
        labels[record["output"].split(":")[0]] += 1
        assert (record["output"] == "complies") == WITNESSES[rule](text), record
        assert rule in record["instruction"]
    assert rules == set(WITNESSES)
    assert labels["complies"] == pytest.approx(labels["violates"], rel=0.35)


def test_the_reasons_say_what_is_wrong():
    rules = {rule.name: rule for rule in compliance.RULES}
    told = {
        ("pattern:version", "v1.2.3"): "violates: it begins with a letter",
        ("pattern:version", "1.2"): "violates: it has two parts",
        ("pattern:version", "1.02.3"): "violates: a part begins with zero",
        ("pattern:commit-subject", "add a form"): "violates: it begins with a small letter",
        ("pattern:commit-subject", "Added a form"): "violates: it is in the past tense",
        ("definition:done", "The form is done: tests pass, it is deployed"): "violates: the review is missing",
    }
    assert {case: compliance.verdict(rules[case[0]], case[1]) for case in told} == told


# --- process --------------------------------------------------------------------------------------------------------


def test_the_cycle_that_ships_spells_its_name():
    stages = [stage.name for stage in process.shipped_cycle().stages]
    assert "".join(stage[0] for stage in stages) == "OODATCAA"
    assert stages[:4] == ["Observe", "Orient", "Decide", "Act"]
    order = [record for record in RECORDS["process"] if record["metadata"]["facet"] == "next"]
    for record in order:
        (stage,) = [stage for stage in stages if re.search(rf"\b{stage}\b", record["instruction"])]
        assert record["output"] == f"{stages[(stages.index(stage) + 1) % 8]}."
    assert len(order) >= 16 and all(record["metadata"]["verified"] for record in RECORDS["process"])


def test_stages_of_ones_own_take_the_place_of_those_that_ship(tmp_path):
    place = tmp_path / "cycle.yaml"
    stage = "agent: a, purpose: p, hands_over: h, protocol: r, when_it_fails: f"
    place.write_text(f"name: PQ\nstages:\n  - {{name: Plan, {stage}}}\n  - {{name: Query, {stage}}}\n")
    records = list(process_records(1, 20, cycle=read_cycle(place)))
    texts = json.dumps(records)
    assert "Plan" in texts and "Query" in texts and "Observe" not in texts


def test_everything_wrong_with_a_cycle_is_said_at_once_with_its_line(tmp_path):
    place = tmp_path / "cycle.yaml"
    stage = "agent: a, purpose: p, hands_over: h, protocol: r, when_it_fails: f"
    place.write_text(
        f"name: PQ\nstages:\n  - {{name: Plan, {stage}}}\n  - {{name: Plan, {stage}}}\n"
        "examples:\n  - {situation: s, steps: [one]}\n"
    )
    with pytest.raises(ToolkitError) as caught:
        read_cycle(place)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{place}:4: the stage Plan is given twice"
    assert lines[1].startswith(f"{place}:6: 1 steps for 2 stages")


# --- memory ---------------------------------------------------------------------------------------------------------


def test_every_call_fits_the_schema_of_a_tool_that_is_offered():
    operations = Counter(record["metadata"]["operation"] for record in RECORDS["memory"])
    assert set(operations) == {"store", "search", "update", "delete", "link", "list", "history", "ingest", "correct"}
    for record in RECORDS["memory"]:
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in record["tools"]}
        for turn in record["messages"]:
            for call in turn.get("tool_calls", ()):
                function = call["function"]
                schema = offered[function["name"]]
                assert set(schema["required"]) <= set(function["arguments"]) <= set(schema["properties"])


def test_what_is_strict_is_refused_and_told_so():
    refused = [record for record in RECORDS["memory"] if '"error"' in record["messages"][-2]["content"]]
    assert len(refused) > 5
    for record in refused:
        assert "strict" in record["messages"][-1]["content"]


def test_calls_are_executed_by_what_is_handed_in():
    made: list[str] = []

    def open_tools():
        memory = MemoryStandIn()

        def execute(name, arguments):
            made.append(name)
            renamed = {
                key: value.removeprefix("item-") if isinstance(value, str) else value
                for key, value in arguments.items()
            }
            result = json.dumps(memory(name, renamed))
            return json.loads(re.sub(r'"(m\d+)"', r'"item-\1"', result))

        return execute

    records = list(islice(memory_examples(open_tools)(1, 60), 60))
    assert {"memory_store", "memory_link", "documents_ingest"} <= set(made)
    links = [record for record in records if record["metadata"]["operation"] == "link"]
    for record in links:
        assert re.fullmatch(r"Linked: item-m\d+ .* item-m\d+\.", record["messages"][-1]["content"])
    assert links


def test_results_that_differ_the_second_time_are_left_out():
    opened = 0

    def open_tools():
        nonlocal opened
        opened += 1
        memory, number = MemoryStandIn(), opened

        def execute(name, arguments):
            result = dict(memory(name, arguments))
            return {**result, "passages": number} if name == "documents_ingest" else result

        return execute

    why: list[str] = []
    records = list(memory_examples(open_tools)(1, 40, why.append))
    assert why and all("documents_ingest gave" in text for text in why)
    assert "ingest" not in {record["metadata"]["operation"] for record in records}


def test_the_stand_in_keeps_strict_notes_word_for_word():
    memory = MemoryStandIn()
    strict = memory("memory_store", {"text": "A is B.", "preservation": "strict"})["id"]
    assert "error" in memory("memory_update", {"id": strict, "text": "A is C."})
    assert "error" in memory("memory_delete", {"id": strict})
    assert memory("memory_search", {"query": "is b"})["results"] == [{"id": strict, "text": "A is B."}]
    assert memory("memory_store", {"text": "A is B.", "preservation": "strict"}) == {"outcome": "exists", "id": strict}
    with pytest.raises(ValueError, match="no tool named forget"):
        memory("forget", {})
    with pytest.raises(ValueError, match="missing arguments"):
        memory("memory_update", {"id": strict})
