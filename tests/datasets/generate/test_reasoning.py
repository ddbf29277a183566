"""Problems by reasoning-gym: the same from a seed, scored by their own scorer, a clear refusal where it is absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import reasoning_gym

from toolkit.datasets.generate import reasoning
from toolkit.datasets.generate.generator import Record
from toolkit.datasets.generate.reasoning import FAMILIES, REASONING
from toolkit.errors import ToolkitError

_PRINT = """
import json
from toolkit.datasets.generate.reasoning import REASONING
print(json.dumps(list(REASONING.make(3, 150))))
"""


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(REASONING.make(3, 150))


def test_the_same_seed_gives_the_same_problems_whatever_the_hash_seed(records: list[Record]) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", _PRINT], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout) == records
    assert list(REASONING.make(4, 20)) != records[:20] == list(REASONING.make(3, 20))


def test_every_family_is_drawn_and_named_as_the_source(records: list[Record]) -> None:
    drawn = {record["metadata"]["kind"] for record in records}
    assert len(drawn) > 20 and drawn <= set(FAMILIES)
    assert all(one["metadata"]["source"] == f"reasoning-gym: {one['metadata']['kind']}" for one in records)
    assert all(one["metadata"]["verified"] and one["output"].strip() for one in records)


def test_an_answer_that_its_scorer_does_not_accept_is_reported_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(*arguments: Any, **named: Any) -> Any:
        problems = create(*arguments, **named)
        if arguments[0] == "gcd":
            monkeypatch.setattr(problems, "score_answer", lambda answer, entry: 0.5, raising=False)
        return problems

    create = reasoning_gym.create_dataset
    monkeypatch.setattr(reasoning_gym, "create_dataset", strict)
    told: list[str] = []
    kinds = {record["metadata"]["kind"] for record in REASONING.make(3, 100, told.append)}
    assert "gcd" not in kinds
    assert told and all(line.startswith("gcd ") and line.endswith("0.5 of 1") for line in told)


def test_without_the_package_the_refusal_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ToolkitError) as refused:
        REASONING.make(1, 5)
    assert 'Type pip install "local-training-toolkit[reasoning]"' in str(refused.value)
    assert reasoning.INSTALL in str(refused.value)
