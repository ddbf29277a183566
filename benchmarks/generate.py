"""How many mathematical examples a second does one core make, with their proofs?

    python benchmarks/generate.py [--rounds 5] [--seconds 2] [--families arithmetic algebra python reasoning]

Each round makes examples of every family in turn, so that what else the machine does falls on all alike. Figures are
examples for a second of CPU time (of this process and, for Python, of the programs that it runs), the median of the
rounds with the lowest and the highest. The first examples are not counted: SymPy and reasoning-gym are imported there.
Arithmetic and algebra must reach 20,000 and 300.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator

from toolkit.datasets.generate.algebra import ALGEBRA
from toolkit.datasets.generate.exact_arithmetic import ARITHMETIC
from toolkit.datasets.generate.generator import Generator, Record
from toolkit.datasets.generate.python_basics import PYTHON
from toolkit.datasets.generate.reasoning import REASONING

FAMILIES: dict[str, Generator] = {one.name: one for one in (ARITHMETIC, ALGEBRA, PYTHON, REASONING)}
PROMISED = {"arithmetic": 20_000, "algebra": 300}
_ENDLESS = 10_000_000
# Python's examples are made in batches; whole ones are counted.
_STEP = {"arithmetic": 1_000, "algebra": 50, "python": 64, "reasoning": 50}


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rate(examples: Iterator[Record], step: int, seconds: float) -> float:
    """Take `step` examples at a time for about `seconds` of CPU time; return examples a second."""
    begun, made = cpu_seconds(), 0
    while cpu_seconds() - begun < seconds:
        made += sum(1 for _ in itertools.islice(examples, step))
    return made / (cpu_seconds() - begun)


def main() -> None:
    """Measure in turn and print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time of a family in a round")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    given = parser.parse_args()
    running = {name: iter(FAMILIES[name].make(1, _ENDLESS)) for name in given.families}
    for name, examples in running.items():
        list(itertools.islice(examples, _STEP[name]))
    figures: dict[str, list[float]] = {name: [] for name in running}
    begun = time.monotonic()
    for _ in range(given.rounds):
        for name, examples in running.items():
            figures[name].append(rate(examples, _STEP[name], given.seconds))
    print(f"examples a second of CPU time, median of {given.rounds} rounds (lowest to highest)")
    for name, rates in figures.items():
        promised = f"  promised {PROMISED[name]:,}" if name in PROMISED else ""
        print(f"{name:12}{statistics.median(rates):10,.0f}  ({min(rates):,.0f} to {max(rates):,.0f}){promised}")
    print(f"{time.monotonic() - begun:.0f} s of wall time")


if __name__ == "__main__":
    main()
