"""The bundled starter set: arithmetic, procedures and custom definitions, split 80/20 by semantic key.

`python -m toolkit.datasets.generate.starter FOLDER` writes `train.jsonl` and `valid.jsonl` as they lie in
`toolkit/nano/data`. Everything follows from the seed: no hash order, no clock.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from toolkit.atomic_files import write_atomic
from toolkit.datasets.generate import arithmetic, definitions, procedures

SEED = 42
SOURCE = "toolkit.datasets.generate.starter"
VALIDATION_SHARE = 0.2
ARITHMETIC_COUNTS: dict[arithmetic.Operation, int] = {"addition": 320, "subtraction": 280, "multiplication": 120}

Record = dict[str, Any]


def build_starter(seed: int = SEED) -> tuple[list[Record], list[Record]]:
    """Return (train, valid): instruction records whose `metadata.key` never occurs on both sides."""
    rng = random.Random(seed)
    train: list[Record] = []
    valid: list[Record] = []
    for records in (_arithmetic(rng), _definitions(rng), _procedures(rng)):
        held_out = round(len(records) * VALIDATION_SHARE)
        valid += records[:held_out]
        train += records[held_out:]
    rng.shuffle(train)
    rng.shuffle(valid)
    return _numbered(train, "train"), _numbered(valid, "valid")


def arithmetic_problems(seed: int = SEED) -> list[arithmetic.Problem]:
    """Return the problems of both sides (the generator of the pretraining text keeps clear of them)."""
    return arithmetic.draw_problems(ARITHMETIC_COUNTS, random.Random(seed))


def write_starter(folder: Path, seed: int = SEED) -> None:
    """Write `train.jsonl` and `valid.jsonl` (UTF-8, one record a line) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in zip(("train", "valid"), build_starter(seed), strict=True):
        write_atomic(folder / f"{name}.jsonl", to_jsonl(records))


def to_jsonl(records: list[Record]) -> str:
    """Return the records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _arithmetic(rng: random.Random) -> list[Record]:
    problems = arithmetic.draw_problems(ARITHMETIC_COUNTS, rng)
    rng.shuffle(problems)
    records = []
    for index, problem in enumerate(problems):
        instruction, extra = arithmetic.phrase(problem, index)
        metadata = {
            "category": "arithmetic",
            "operation": problem.operation,
            "difficulty": problem.difficulty,
            "preservation": "flexible",
            "key": problem.key,
        }
        output = f"{problem.working}; {problem.answer}"
        records.append({"instruction": instruction, "input": extra, "output": output, "metadata": metadata})
    return records


def _definitions(rng: random.Random) -> list[Record]:
    return _phrased(
        [
            (term, _fact(definitions.question(term, index), meaning, "definitions", definitions.key(term, index)))
            for term, meaning in definitions.DEFINITIONS.items()
            for index in range(len(definitions.PHRASINGS))
        ],
        rng,
    )


def _procedures(rng: random.Random) -> list[Record]:
    return _phrased(
        [
            (task, _fact(procedures.question(task, index), steps, "procedures", procedures.key(task, index)))
            for task, steps in procedures.PROCEDURES.items()
            for index in range(len(procedures.PHRASINGS))
        ],
        rng,
    )


def _fact(instruction: str, output: str, category: str, key: str) -> Record:
    preservation, difficulty = ("strict", 0.3) if category == "definitions" else ("moderate", 0.4)
    metadata = {"category": category, "difficulty": difficulty, "preservation": preservation, "key": key}
    return {"instruction": instruction, "input": "", "output": output, "metadata": metadata}


def _phrased(facts: list[tuple[str, Record]], rng: random.Random) -> list[Record]:
    """Order the records so that the held-out ones (the first) are spread evenly over the subjects.

    The first round takes one phrasing of every subject, the second round another one, and so on.
    """
    rounds: dict[str, list[Record]] = {}
    for subject, record in facts:
        rounds.setdefault(subject, []).append(record)
    for records in rounds.values():
        rng.shuffle(records)
    subjects = list(rounds)
    rng.shuffle(subjects)
    return [rounds[subject][turn] for turn in range(len(rounds[subjects[0]])) for subject in subjects]


def _numbered(records: list[Record], side: str) -> list[Record]:
    for number, record in enumerate(records):
        metadata = {"id": f"starter-{side}-{number:04d}", **record["metadata"], "source": SOURCE, "verified": True}
        record["metadata"] = metadata
    return records


if __name__ == "__main__":
    write_starter(Path(sys.argv[1]))
