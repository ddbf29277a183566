"""Process examples: the OODATCAA cycle as a workflow, its agents and its protocols, from a config of stages.

The stages come from `oodatcaa.yaml`, which ships with a reading of the letters and can be replaced by a team's own.
`verified`: stages, order, agents and steps are read from that file, and an example asks only for what stands in it;
`next` and `before` are checked against the order of the stages. Difficulty: 0.3 for what one stage says of itself, 0.4
for the order, 0.6 for finding the stage of an activity, 0.8 for a whole round.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import Field

from toolkit.datasets.generate.asking import Asking, Openings, in_rounds, turn_of
from toolkit.datasets.generate.generator import OnRejected, Record, ignore_rejected, record
from toolkit.datasets.generate.grammar import Pattern, as_sentence, in_words, read_pattern
from toolkit.datasets.generate.strict_yaml import Strict, read_strict
from toolkit.datasets.generate.team_file import Text

CATEGORY = "process"
SOURCE = "toolkit.datasets.generate.process"
CYCLE = Path(__file__).with_name("oodatcaa.yaml")

PHRASINGS: dict[str, tuple[str, ...]] = {
    "purpose": (
        "What is the purpose of {stage}(| in {cycle})?",
        "(Why|What for) do we have the stage {stage}?",
        "{stage}: (what happens there|what do we do in it)?",
        "(Explain|Describe) the {cycle} stage {stage} in one sentence.",
        "(Tell|Remind) me what {stage} is (good|there) for.",
        "{stage} in {cycle}: its (aim|purpose)(|, please)?",
        "What would be missing without the stage {stage}?",
    ),
    "next": (
        "Which stage (comes|follows) after {stage}(| in {cycle})?",
        "{stage} is (done|over|finished). (What comes next|Next stage)?",
        "We (leave|are through with) {stage}. Where does the {cycle} cycle (go on|lead us)?",
        "(The token|The work|The case) moves on from {stage}. To which stage?",
        "After {stage} (we|they) go to which stage?",
        "{cycle}: {stage}, and then?",
        "(Name|Tell me) the stage that follows {stage}.",
    ),
    "before": (
        "Which stage (comes|stands) (right|just) before {stage}?",
        "{stage} waits for the stage in front of it. Which one(| is that)?",
        "(What|Which stage) must be (done|over) before {stage} (begins|may begin)?",
        "Before {stage}, where (was|were) (the case|we)?",
        "{cycle}: which stage leads to {stage}?",
        "(Name|Tell me) the stage in front of {stage}.",
    ),
    "agent": (
        "Which agent (runs|is responsible for|works in) {stage}?",
        "Who (takes over|acts|is in charge) in the stage {stage}?",
        "(Assign|Name) the agent for {stage}.",
        "In {cycle}, {stage} belongs to whom?",
        "{stage} needs an agent. (Which one|Whom do we call)?",
        "(Call|Wake) the right agent: the case is in {stage}. Who is it?",
        "Whose (job|work) is {stage}(| in {cycle})?",
    ),
    "output": (
        "What does {stage} hand over(| to the next stage)?",
        "(Name|State) the (result|output) of {stage}.",
        "{stage} ends. What (lies on the table|has the next agent in hand)?",
        "The agent of {following} waits. What does it get from {stage}?",
        "What (is|lies) there when {stage} (is done|has ended)?",
        "{stage} produces (what|which thing)?",
    ),
    "protocol": (
        "Which protocol (holds|is in force) in {stage}?",
        "(Quote|Name|Tell me) the rule of the stage {stage}.",
        "What must (every|an) agent (respect|keep to) in {stage}?",
        "{stage}: (its|the) protocol(|, please)?",
        "By which (rule|protocol) does the agent of {stage} work?",
        "I (am|work) in {stage} today. Which rule (binds me|do I keep)?",
    ),
    "failure": (
        "What (do we do|happens) when {stage} fails?",
        "{stage} (went wrong|failed|found nothing). (What now|Now what)?",
        "(Name|Give me) the way out of a failed {stage}.",
        "If {stage} (fails|does not work out), (then what|what follows)?",
        "{stage} came to nothing. (How|Where) do we go on?",
        "(Plan B|Fallback) for {stage}(|, please)?",
    ),
    "activity": (
        "To which {cycle} stage does this belong? {activity}",
        "{activity} Which stage (is that|are we in)?",
        "(Sort|Place) this into the cycle: {activity}",
        "{activity} (That is|This belongs to) which stage of {cycle}?",
        "(Name|Tell me) the stage: {activity}",
        "(What are we doing here|Where in {cycle} are we)? {activity}",
    ),
    "step": (
        "(Case|Situation): {situation}. What (does|did) {stage} (say|bring)?",
        "In the round about this case ({situation}), what is noted under {stage}?",
        "{situation_sentence} (Fill in|Write) the line for {stage}.",
        "{stage}, in the case that {situation}: what (stands|is) in the record?",
        "(Read|Show) me {stage} of this case: {situation}.",
        "When {situation}, what does the entry of {stage} say?",
    ),
    "round": (
        "(Run|Take|Lead) this through the whole {cycle} cycle: {situation}.",
        "{situation_sentence} (Write|Show) all {number} stages, one after the other.",
        "(Report|Protocol) of a full round, please. The case: {situation}.",
        "How did we (solve|handle) it, stage by stage, when {situation}?",
        "(All stages|The full cycle), please: {situation}.",
        "{cycle} for this situation: {situation}.",
    ),
    "stages": (
        "Which stages does {cycle} have?",
        "(Spell out|What do the letters mean in) {cycle}(?|.)",
        "(List|Name) the stages of the cycle in order.",
        "I (forgot|never learnt) what {cycle} stands for. (Tell me|Help me), please.",
        "{cycle} in (words|full), please.",
        "Which stages does a case pass in {cycle}?",
    ),
}


class Stage(Strict):
    """One stage of the cycle."""

    name: Text
    purpose: Text
    agent: Text
    hands_over: Text
    protocol: Text
    when_it_fails: Text
    activities: tuple[Text, ...] = ()


class WorkedExample(Strict):
    """A situation that went through the whole cycle: one line for each stage."""

    situation: Text
    steps: tuple[Text, ...]


class Cycle(Strict):
    """A cycle of stages, with worked examples."""

    name: Text
    stages: tuple[Stage, ...] = Field(min_length=2)
    examples: tuple[WorkedExample, ...] = ()


def read_cycle(path: Path | str = CYCLE) -> Cycle:
    """Read a cycle file. Raises ToolkitError with everything that is wrong, each with its line."""
    cycle, places = read_strict(path, Cycle, hint="The shipped one: toolkit/datasets/generate/oodatcaa.yaml")
    if cycle is not None:
        seen: set[str] = set()
        for index, stage in enumerate(cycle.stages):
            if stage.name in seen:
                places.add(f"the stage {stage.name} is given twice", ("stages", index, "name"))
            seen.add(stage.name)
        for index, example in enumerate(cycle.examples):
            if len(example.steps) != len(cycle.stages):
                what = f"{len(example.steps)} steps for {len(cycle.stages)} stages"
                places.add(what, ("examples", index, "steps"), "Write one line for each stage, in their order")
    return places.settled(cycle)


def process(
    seed: int, count: int, on_rejected: OnRejected = ignore_rejected, *, cycle: Cycle | None = None
) -> Iterator[Record]:
    """Yield questions about the stages, their agents and protocols, and worked examples."""
    chosen = cycle or shipped_cycle()
    openings = Openings(share=0.3)

    def make_one(asking: Asking, turn: int, rng: random.Random) -> Record:
        number = turn_of(CATEGORY, seed, f"{asking.subject}|{asking.facet}", len(asking.patterns), turn)
        question = as_sentence(asking.patterns[number].expand(rng, asking.fill))
        return record(
            CATEGORY,
            openings.before(question, rng),
            asking.answer,
            key=f"{asking.subject}|{asking.facet}|{number}",
            difficulty=asking.difficulty,
            source=SOURCE,
            verified=follows(asking, chosen),
            preservation="moderate",
            facet=asking.facet,
        )

    return in_rounds(CATEGORY, seed, count, list(_askings(chosen)), make_one)


@cache
def shipped_cycle() -> Cycle:
    """Return the cycle that ships."""
    return read_cycle()


def follows(asking: Asking, cycle: Cycle) -> bool:
    """Say whether an answer can be read off the cycle's file again."""
    names = [stage.name for stage in cycle.stages]
    stage = asking.fill.get("stage", "")
    ring = " ".join([*names, names[0]])
    if asking.facet == "next":
        return f"{stage} {asking.answer.removesuffix('.')}" in ring
    if asking.facet == "before":
        return f"{asking.answer.removesuffix('.')} {stage}" in ring
    if asking.facet in ("round", "stages"):
        places = [asking.answer.find(name) for name in names]
        return -1 not in places and places == sorted(places)
    if asking.facet == "activity":
        holders = [each.name for each in cycle.stages if asking.fill["activity"] in each.activities]
        return holders == [asking.answer.removesuffix(".")]
    texts = [text for each in cycle.stages if each.name == stage for text in _texts(each)]
    texts += [step for each in cycle.examples for step in each.steps]
    return asking.answer in texts or in_words(asking.answer) in texts


def _texts(stage: Stage) -> list[str]:
    return [stage.purpose, stage.agent, stage.hands_over, stage.protocol, stage.when_it_fails]


def _askings(cycle: Cycle) -> Iterator[Asking]:
    for index, stage in enumerate(cycle.stages):
        after = cycle.stages[(index + 1) % len(cycle.stages)].name
        before = cycle.stages[index - 1].name
        said = {
            "purpose": (stage.purpose, 0.3),
            "next": (f"{after}.", 0.4),
            "before": (f"{before}.", 0.4),
            "agent": (as_sentence(f"{stage.agent}."), 0.3),
            "output": (stage.hands_over, 0.3),
            "protocol": (stage.protocol, 0.3),
            "failure": (stage.when_it_fails, 0.3),
        }
        for facet, (answer, difficulty) in said.items():
            fill = {"stage": stage.name, "cycle": cycle.name, "following": after}
            yield Asking(f"stage:{stage.name}", facet, _patterns(facet), fill, answer, difficulty)
        for number, activity in enumerate(stage.activities):
            fill = {"activity": activity, "cycle": cycle.name}
            subject = f"stage:{stage.name}|{number}"
            yield Asking(subject, "activity", _patterns("activity"), fill, f"{stage.name}.", 0.6)
    for example in cycle.examples:
        yield from _rounds(example, cycle)
    listed = ", ".join(stage.name for stage in cycle.stages)
    yield Asking(f"cycle:{cycle.name}", "stages", _patterns("stages"), {"cycle": cycle.name}, f"{listed}.", 0.4)


def _rounds(example: WorkedExample, cycle: Cycle) -> Iterator[Asking]:
    subject = f"round:{example.situation}"
    fill = {
        "cycle": cycle.name,
        "situation": example.situation,
        "situation_sentence": as_sentence(f"{example.situation}."),
        "number": str(len(cycle.stages)),
    }
    lines = [f"{stage.name}: {step}" for stage, step in zip(cycle.stages, example.steps, strict=True)]
    yield Asking(subject, "round", _patterns("round"), fill, "\n".join(lines), 0.8)
    for stage, step in zip(cycle.stages, example.steps, strict=True):
        yield Asking(f"{subject}|{stage.name}", "step", _patterns("step"), {**fill, "stage": stage.name}, step, 0.5)


@cache
def _patterns(facet: str) -> tuple[Pattern, ...]:
    return tuple(read_pattern(text) for text in PHRASINGS[facet])
