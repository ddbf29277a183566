"""More families of problems, made by the `reasoning-gym` package where it is installed.

Only families that were seen to give the same problems whatever Python's hash seed is are used, and that answer in words
of their own. `metadata.verified` is set by the package's own scorer, which must give the answer the full mark.

Difficulty: w words of question and answer together, mapped to w / (w + 90): these problems get harder by getting
longer. The problems depend on the package's version, so another version may give other bytes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.datasets.generate.drawing import pick
from toolkit.datasets.generate.generator import (
    Generator,
    OnRejected,
    Record,
    Rejected,
    ignore_rejected,
    keep_different,
    record,
    sub_random,
    sub_seed,
)
from toolkit.errors import ToolkitError

CATEGORY = "reasoning"
INSTALL = 'pip install "local-training-toolkit[reasoning]"'

FAMILIES: tuple[str, ...] = (
    "aiw", "base_conversion", "bitwise_arithmetic", "caesar_cipher", "calendar_arithmetic", "coin_flip", "count_bits",
    "count_primes", "course_schedule", "decimal_arithmetic", "dice", "family_relationships", "gcd",
    "knights_knaves", "lcm", "leg_counting", "letter_counting", "number_filtering", "number_format", "number_sequence",
    "number_sorting", "prime_factorization", "simple_geometry", "syllogism", "word_sequence_reversal", "word_sorting",
)  # fmt: skip

_LARGE = 2**31 - 1


def make(
    seed: int, count: int, on_rejected: OnRejected = ignore_rejected, *, families: Sequence[str] = FAMILIES
) -> Iterator[Record]:
    """Yield `count` problems over some of `FAMILIES`.

    Raises:
        ToolkitError: `reasoning-gym` is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as reason:
        raise ToolkitError(
            "the category reasoning needs the package reasoning-gym, which is not installed", hint=f"Type {INSTALL}"
        ) from reason
    sets = {
        family: reasoning_gym.create_dataset(family, seed=sub_seed(seed, family, 0) % _LARGE, size=_LARGE)
        for family in families
    }
    return keep_different(CATEGORY, count, _candidates(seed, sets), on_rejected)


def _candidates(seed: int, sets: dict[str, Any]) -> Iterator[Record | Rejected]:
    for index in itertools.count():
        family = pick(sub_random(seed, CATEGORY, index), tuple(sets))
        try:
            yield _example(family, sets[family], index)
        except Rejected as reason:
            yield reason


def _example(family: str, problems: Any, index: int) -> Record:
    """Return problem number `index` of a family, after its scorer has confirmed the answer. Raises Rejected."""
    problem = problems[index]
    question, answer = str(problem["question"]).strip(), problem["answer"]
    if not isinstance(answer, str) or not answer.strip():
        raise Rejected(f"{family} {index}: no answer")
    mark = problems.score_answer(answer, problem)
    if mark != 1.0:
        raise Rejected(f"{family} {index}: its scorer gives {answer!r} {mark:g} of 1")
    words = len(question.split()) + len(answer.split())
    return record(
        CATEGORY,
        question,
        answer,
        key=f"reasoning:{family}:{hashlib.sha256(question.encode()).hexdigest()[:16]}",
        difficulty=words / (words + 90),
        source=f"reasoning-gym: {family}",
        verified=True,
        kind=family,
    )


REASONING = Generator(
    CATEGORY, 0, (0, 100_000), "26 families of puzzles and problems by the reasoning-gym package (optional)", make
)
