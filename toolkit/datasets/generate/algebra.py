"""Algebra: linear and quadratic equations, solutions to check, systems of two and three, stories that lead to them.

`metadata.verified` is set by SymPy alone: each solution is put back into the equation and compared symbolically
(`algebra_proof`). A candidate whose proof fails is reported and skipped.

Difficulty: effort e = 1 + lines of working + a third of the digits in the equations + what the kind adds (a fraction 1,
roots 1, complex numbers 2, a quadratic equation 2, each further unknown 3, a story 3), mapped to e / (e + 12).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from toolkit.datasets.generate.drawing import chance
from toolkit.datasets.generate.generator import Generator, OnRejected, Record, draw, ignore_rejected
from toolkit.datasets.generate.quantities import verified_record

CATEGORY = "algebra"
SOURCE = "toolkit.datasets.generate.algebra"


def make(seed: int, count: int, on_rejected: OnRejected = ignore_rejected) -> Iterator[Record]:
    """Yield `count` algebra examples."""
    return draw(CATEGORY, seed, count, one, on_rejected)


def one(rng: random.Random) -> Record:
    """Make one algebra example. Raises Rejected where its proof fails."""
    # SymPy takes half a second to import: only who generates algebra waits for it.
    from toolkit.datasets.generate.algebra_stories import story_problem
    from toolkit.datasets.generate.algebra_systems import system_problem
    from toolkit.datasets.generate.algebra_wording import answered
    from toolkit.datasets.generate.linear_equations import linear_problem
    from toolkit.datasets.generate.quadratic_equations import quadratic_problem
    from toolkit.datasets.generate.solution_checks import check_problem

    place = rng.random()
    if place < 0.12:
        made = story_problem(rng)
    elif place < 0.5:
        made = answered(rng, linear_problem(rng))
    elif place < 0.7:
        made = check_problem(rng)
    elif place < 0.86:
        made = answered(rng, quadratic_problem(rng))
    else:
        made = answered(rng, system_problem(rng, 3 if chance(rng, 0.3) else 2))
    return verified_record(made, CATEGORY, SOURCE)


ALGEBRA = Generator(
    CATEGORY, 480, (100, 100_000), "Equations and systems, each solution put back and proved by SymPy", make
)
