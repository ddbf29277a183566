"""Simple English for the pretraining text: sentences from patterns, small stories to read, word problems."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from toolkit.datasets.generate import lexicon
from toolkit.datasets.generate.arithmetic import Problem
from toolkit.datasets.generate.facts import article

_PREPOSITIONS = ("in", "near", "behind", "beside", "outside", "inside", "at", "above", "below", "between the trees of")

# In each form the asker's numbers stand in the order in which they are computed: first, second.
_WORD_PROBLEMS: dict[str, tuple[tuple[str, str], ...]] = {
    "addition": (
        ("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?", "{name} has {c} {things} now."),
        ("There are {a} {things} in the {place}. {name} brings {b} more. How many are there altogether?", "There are {c} {things} altogether."),
        ("{name} earned ${a} on {day} and ${b} on the next day. How much did {name} earn in total?", "{name} earned ${c} in total."),
        ("A {thing} costs {a} dollars and a {other} costs {b} dollars. How much do they cost together?", "Together they cost {c} dollars."),
    ),
    "subtraction": (
        ("{name} had {a} {things} and gave {b} of them to {friend}. How many {things} are left?", "{name} has {c} {things} left."),
        ("There were {a} {things} in the {place}. {name} sold {b} of them. How many remain?", "There are {c} {things} remaining."),
        ("{name} had ${a} and spent ${b} on a {thing}. How much money is left?", "{name} has ${c} left."),
        ("{name} read {a} pages and {friend} read {b} pages. How many more pages did {name} read?", "{name} read {c} more pages."),
    ),
    "multiplication": (
        ("There are {a} boxes with {b} {things} in each. How many {things} are there in total?", "There are {c} {things} in total."),
        ("{name} buys {a} {things} for {b} dollars each. How much does {name} pay?", "{name} pays {c} dollars."),
        ("{name} works {a} hours a day for {b} days. How many hours is that?", "That is {c} hours."),
        ("Each of {a} friends has {b} {things}. How many {things} do they have altogether?", "They have {c} {things} altogether."),
    ),
}  # fmt: skip


def sentence(rng: random.Random) -> str:
    """Return one sentence."""
    text = rng.choice(_SENTENCES)(rng)
    return text[0].upper() + text[1:]


def reading(rng: random.Random) -> tuple[str, str]:
    """Return (question, answer) where the answer stands in the question's own text."""
    return rng.choice(_READINGS)(rng)


def word_problem(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Return (question, answer) of a small story that asks for the problem's answer."""
    name, friend = rng.sample(lexicon.NAMES, 2)
    thing, other = rng.sample(lexicon.THINGS, 2)
    words = {
        "name": name,
        "friend": friend,
        "thing": thing,
        "things": lexicon.plural(thing),
        "other": other,
        "place": rng.choice(lexicon.PLACES),
        "day": rng.choice(lexicon.TIMES[6:13]),
        "a": problem.first,
        "b": problem.second,
        "c": problem.answer,
    }
    question, answer = rng.choice(_WORD_PROBLEMS[problem.operation])
    return question.format(**words), f"{problem.working}; {answer.format(**words)}"


def _noun_phrase(rng: random.Random) -> str:
    noun = rng.choice(rng.choice((lexicon.PEOPLE, lexicon.ANIMALS, lexicon.THINGS)))
    described = f"{rng.choice(lexicon.ADJECTIVES)} {noun}" if rng.random() < 0.5 else noun
    return f"the {described}" if rng.random() < 0.6 else f"{article(described)} {described}"


def _someone(rng: random.Random) -> str:
    return rng.choice(lexicon.NAMES) if rng.random() < 0.4 else f"the {rng.choice(lexicon.PEOPLE)}"


def _somewhere(rng: random.Random) -> str:
    return f"{rng.choice(_PREPOSITIONS)} the {rng.choice(lexicon.PLACES)}"


def _verb(rng: random.Random, verbs: Sequence[str], tense: int) -> str:
    return lexicon.forms(rng.choice(verbs))[tense]


def _does(rng: random.Random) -> str:
    tense = rng.randint(0, 1)
    return f"{_someone(rng)} {_verb(rng, lexicon.TRANSITIVE, tense)} {_noun_phrase(rng)} {_somewhere(rng)}."


def _acts(rng: random.Random) -> str:
    verb = _verb(rng, lexicon.INTRANSITIVE, rng.randint(0, 1))
    return f"{_noun_phrase(rng)} {verb} {rng.choice(lexicon.ADVERBS)} {_somewhere(rng)}."


def _is(rng: random.Random) -> str:
    first, second = rng.sample(lexicon.ADJECTIVES, 2)
    return f"the {rng.choice(lexicon.THINGS)} was {first}, but the {rng.choice(lexicon.THINGS)} was {second}."


def _when(rng: random.Random) -> str:
    past = _verb(rng, lexicon.TRANSITIVE, 1)
    return f"in the {rng.choice(lexicon.TIMES)}, {_someone(rng)} {past} {_noun_phrase(rng)} with some {rng.choice(lexicon.MASS)}."


def _abstract(rng: random.Random) -> str:
    first, second = rng.sample(lexicon.ABSTRACT, 2)
    return f"the {first} of the {rng.choice(lexicon.PEOPLE)} depends on {article(second)} {rng.choice(lexicon.ADJECTIVES)} {second}."


def _says(rng: random.Random) -> str:
    subject = rng.choice(lexicon.ABSTRACT)
    return f'"{article(subject).capitalize()} {subject} is {rng.choice(lexicon.ADJECTIVES)}," said {_someone(rng)} {rng.choice(lexicon.ADVERBS)}.'


def _because(rng: random.Random) -> str:
    first = _verb(rng, lexicon.INTRANSITIVE, 1)
    return (
        f"{_someone(rng)} {first} because the {rng.choice(lexicon.ABSTRACT)} was too {rng.choice(lexicon.ADJECTIVES)}."
    )


def _common(rng: random.Random) -> str:
    words = rng.sample(lexicon.COMMON, 4) + rng.sample(lexicon.ADVERBS + lexicon.MASS + lexicon.ABSTRACT, 2)
    text = " ".join(words)
    return f"{text.title() if rng.random() < 0.4 else text}."


def _plural(rng: random.Random) -> str:
    nouns = [lexicon.plural(noun) for noun in rng.sample(lexicon.THINGS + lexicon.PEOPLE + lexicon.ABSTRACT, 3)]
    kind = rng.choice(lexicon.ADJECTIVES)
    return f"{kind} {nouns[0]}, {nouns[1]} and {nouns[2]} {_verb(rng, lexicon.TRANSITIVE, 1)} the {lexicon.plural(rng.choice(lexicon.PLACES))}."


def _where(rng: random.Random) -> tuple[str, str]:
    name, place, thing = rng.choice(lexicon.NAMES), rng.choice(lexicon.PLACES), rng.choice(lexicon.THINGS)
    other, elsewhere = rng.choice(lexicon.NAMES), rng.choice(lexicon.PLACES)
    return (
        f"{name} left the {thing} in the {place}. {other} went to the {elsewhere}. Where is the {thing}?",
        f"The {thing} is in the {place}.",
    )


def _who(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(lexicon.NAMES, 2)
    one, two = rng.sample(lexicon.THINGS, 2)
    return (
        f"{first} has {article(one)} {one} and {second} has {article(two)} {two}. Who has the {two}?",
        f"{second} has the {two}.",
    )


def _larger(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(range(1, 200), 2)
    return f"Which number is larger, {first} or {second}?", f"{max(first, second)} is larger."


def _repeat(rng: random.Random) -> tuple[str, str]:
    words = " ".join(rng.sample(lexicon.THINGS + lexicon.COMMON + lexicon.ADJECTIVES, 3))
    return f"Say these words again: {words}", f"{words[0].upper()}{words[1:]}."


def _after(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 200)
    return f"Which number comes after {number}?", f"{number + 1} comes next."


def _tens(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(11, 99)
    return f"How many tens and ones has {number}?", f"It has {number // 10} tens and {number % 10} ones."


_SENTENCES: tuple[Callable[[random.Random], str], ...] = (
    _does,
    _acts,
    _is,
    _when,
    _abstract,
    _says,
    _because,
    _common,
    _plural,
)
_READINGS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (_where, _who, _larger, _repeat, _after, _tens)
