"""Context-window replacement: what a team's house rules make of a question, taught without the rules in the prompt.

Each record is asked bare. `metadata.system_prompt` holds the prompt that it replaces (the rule that decides, among
other active rules, in varying words), so that the model as it was *with* the prompt can be measured against the trained
one *without* it. Rules never contradict each other, so all of them are in force at once.

`verified`: a second reading of the question's own text, which shares no code with what made it, gives the same answer.
Difficulty: 0.3 for an answer that depends on the topic alone, 0.4 or 0.5 where something is looked up, 0.6 where it is
computed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from toolkit.datasets.generate.asking import Openings, one_per_key
from toolkit.datasets.generate.context_rules import RULES, HouseRule
from toolkit.datasets.generate.generator import OnRejected, Record, Rejected, ignore_rejected, record
from toolkit.datasets.generate.grammar import as_sentence, pick, read_pattern, shuffled

CATEGORY = "context"
SOURCE = "toolkit.datasets.generate.context"

_PROMPTS = (
    "You (work|answer) for the Harbour team. (House rules|Rules|Follow these rules):",
    "(You are|Act as) the assistant of Harbour. (These rules are active|Active rules):",
    "Harbour assistant. (In force|Keep to this|Always):",
)
_PATTERNS = {rule.name: tuple(read_pattern(text) for text in rule.asked) for rule in RULES}
_PROMPT_PATTERNS = tuple(read_pattern(text) for text in _PROMPTS)
# Openings with a number in them would make the question's own number ambiguous.
_OPENINGS = Openings(
    ("(Hello|Hi|Good morning).", "(A|One) (short|quick) question.", "(Sorry|Excuse me), (one more|another) thing."), 0.3
)


def system_prompt(rng: random.Random, deciding: HouseRule, others: int = 3) -> tuple[str, list[str]]:
    """Return a prompt that holds the deciding rule among `others` more, and the names of the rules in it."""
    active = [deciding, *[rule for rule in shuffled(rng, RULES) if rule.name != deciding.name][:others]]
    active = shuffled(rng, active)
    head = pick(rng, _PROMPT_PATTERNS).expand(rng, {})
    return "\n".join([head, *(f"- {pick(rng, rule.lines)}" for rule in active)]), [rule.name for rule in active]


def _make_one(rng: random.Random) -> Record:
    rule = pick(rng, RULES)
    number = int(rng.random() * len(rule.asked))
    fill, answer = rule.make(rng)
    question = as_sentence(_PATTERNS[rule.name][number].expand(rng, fill))
    if rule.reread(question) != answer:
        raise Rejected(f"{rule.name}: {question!r} read again gives {rule.reread(question)!r}, not {answer!r}")
    prompt, names = system_prompt(rng, rule)
    # Whose secret it is does not matter to the answer, so it is no other knowledge.
    told = {name: value for name, value in fill.items() if (rule.name, name) != ("secret", "thing")}
    values = ",".join(f"{name}={value}" for name, value in sorted(told.items()))
    return record(
        CATEGORY,
        _OPENINGS.before(question, rng),
        answer,
        key=f"rule:{rule.name}|{number}|{values}",
        difficulty=rule.difficulty,
        source=SOURCE,
        verified=True,
        preservation="strict",
        rule=rule.name,
        active_rules=names,
        system_prompt=prompt,
    )


def context(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield questions that a house rule decides, asked without it."""
    return one_per_key(CATEGORY, seed, count, _make_one, on_rejected)
