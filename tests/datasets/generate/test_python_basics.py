"""Python examples: every answer is what an execution gave; the programs that are executed can do no harm."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from toolkit.datasets.generate import python_basics, python_runner
from toolkit.datasets.generate.generator import Record, Rejected
from toolkit.datasets.generate.python_basics import PYTHON, effort_of
from toolkit.datasets.generate.python_faults import Fault
from toolkit.datasets.generate.python_functions import TASKS
from toolkit.datasets.generate.python_runner import Outcome, run_programs
from toolkit.errors import JobFailed


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(PYTHON.make(1, 160))


def _code(text: str) -> str:
    return text.partition("```python\n")[2].partition("\n```")[0]


def _executed(program: str) -> tuple[str, str]:
    """Execute here, without the runner: what is printed, and the exception's name."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(program, "here", "exec"), {})
    except Exception as ended:
        return printed.getvalue(), type(ended).__name__
    return printed.getvalue(), ""


def test_the_examples_of_a_seed_have_the_bytes_that_they_always_had(records: list[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    assert (
        hashlib.sha256(lines.encode()).hexdigest() == "f62cc27cd28518aeeb65f9969eb7b00b08383b280a1f04d24ce019a5b07f3042"
    )


def test_the_size_of_a_batch_changes_nothing(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_basics, "BATCH", 7)
    assert list(PYTHON.make(1, 20)) == records[:20]


def test_every_kind_is_drawn_and_one_question_has_one_answer(records: list[Record]) -> None:
    counts = Counter(record["metadata"]["kind"] for record in records)
    assert counts.keys() == {"output", "fault", "function", "exception"}
    assert min(counts.values()) > 15
    asked: dict[str, set[str]] = {}
    for record in records:
        asked.setdefault(record["instruction"] + record["input"], set()).add(record["output"])
    assert all(len(answers) == 1 for answers in asked.values())


def test_an_answer_about_an_output_is_what_the_program_prints(records: list[Record]) -> None:
    shown = [record for record in records if record["metadata"]["kind"] == "output"]
    for record in shown:
        printed, error = _executed(_code(record["instruction"] + record["input"]))
        assert not error
        said = re.sub(r"^It prints (`|these lines:\n)|^```\n|\n```$|`\.$", "", record["output"]).removeprefix("```\n")
        assert said.strip("`\n") == printed.strip("\n"), record


def test_repaired_programs_run_and_faulty_ones_fail_as_described(records: list[Record]) -> None:
    faults = [record for record in records if record["metadata"]["kind"] == "fault"]
    for record in faults:
        if "never ends" not in record["output"] and "while" not in _code(record["output"]):
            named = re.search(r"stops with an? `(\w+)`", record["output"])
            if named:
                assert _executed(_code(record["instruction"] + record["input"]))[1] == named[1]
            assert _executed(_code(record["output"]))[1] == ""


def test_the_exception_that_is_named_is_the_one_that_the_program_stops_with(records: list[Record]) -> None:
    asked = [record for record in records if record["metadata"]["kind"] == "exception"]
    assert len({record["output"] for record in asked}) > 5
    for record in asked:
        ended = _executed(_code(record["instruction"] + record["input"]))[1]
        assert record["output"] == ended


def test_a_program_that_does_not_stop_as_its_fault_says_gives_no_question_about_its_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Fault("wrong", "print(1 // 0)", "KeyError", "Nothing.", "print(1)")
    monkeypatch.setattr(python_basics, "any_fault", lambda rng: wrong)
    plan = python_basics.exception_plan(random.Random(1))
    with pytest.raises(Rejected, match="ended with"):
        plan.finish(run_programs(plan.programs))


def test_a_call_shown_in_a_task_gives_what_the_answer_gives(records: list[Record]) -> None:
    shown = re.compile(r"`(\w+\([^`]*\))` (?:gives|should return|is) `([^`]*)`\.")
    tasks = [
        record for record in records if record["metadata"]["kind"] == "function" and shown.search(record["instruction"])
    ]
    assert len(tasks) > 10
    for record in tasks:
        call, result = shown.search(record["instruction"]).groups()  # type: ignore[union-attr]
        assert _executed(f"{_code(record['output'])}\nprint(repr({call}))") == (f"{result}\n", "")


def test_every_solution_of_every_task_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {(index, manner) for index, task in enumerate(TASKS) for manner in range(len(task.solutions))}
    asked: list[str] = []
    for index, manner in sorted(seen):
        task = TASKS[index]
        monkeypatch.setattr(python_basics, "TASKS", (task._replace(solutions=(task.solutions[manner],)),))
        plan = python_basics.function_plan(python_basics.sub_random(1, "test", index))
        asked += plan.programs
    assert [outcome.error for outcome in run_programs(asked)] == [""] * len(seen)


def test_a_wrong_solution_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = TASKS[0]._replace(solutions=("    return sum(numbers) + 1",))
    monkeypatch.setattr(python_basics, "TASKS", (wrong,))
    told: list[str] = []
    kinds = {record["metadata"]["kind"] for record in PYTHON.make(1, 40, told.append)}
    assert "function" not in kinds and len(told) > 3


def test_a_fault_that_does_not_fail_as_described_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, program in (("NameError", "print(1)"), ("TypeError", "print(x)"), ("", "print(2)")):
        fault = Fault("planted", program, error, "because", "print(2)")
        monkeypatch.setattr(python_basics, "any_fault", lambda _, fault=fault: fault)
        plan = python_basics.fault_plan(python_basics.sub_random(1, "test", 0))
        with pytest.raises(python_basics.Rejected, match="planted"):
            plan.finish(run_programs(plan.programs))


def test_limits_end_a_program_and_the_next_one_runs_untouched() -> None:
    programs = [
        "print(1 + 1)",
        "while True: pass",
        "x = [0] * 10**9",
        "print('x' * 10**6)",
        "def f(): return f()\nf()",
        "import math\nmath.pi = 3\nprint(math.pi)",
        "import math\nprint(math.pi > 3.1)",
        "def f(:",
        "raise SystemExit(3)",
        "print('ä')",
    ]
    outcomes = run_programs(programs)
    assert [outcome.error for outcome in outcomes] == [
        "", "time", "memory", "output", "RecursionError", "", "", "SyntaxError", "SystemExit", "",
    ]  # fmt: skip
    assert [outcomes[place].printed for place in (0, 5, 6, 9)] == ["2\n", "3\n", "True\n", "ä\n"]


@pytest.mark.parametrize(
    "program",
    [
        "import socket",
        "import os",
        "import subprocess",
        "open('/etc/passwd')",
        "__import__('os')",
        "eval('1')",
        "exec('x = 1')",
    ],
)
def test_files_and_modules_are_out_of_reach(program: str) -> None:
    (outcome,) = run_programs([f"{program}\nprint('reached')"])
    assert outcome.printed == "" and outcome.error in ("ImportError", "NameError")


def test_even_with_the_modules_in_hand_no_file_socket_or_process_can_be_had() -> None:
    # The way round the missing names: any function written in Python leads to its module's namespace.
    reach = (
        "def classes(c):\n    for one in c.__subclasses__():\n        yield one\n"
        "        yield from (() if one is type else classes(one))\n"
        "find = [c.__init__.__globals__ for c in classes(object) if hasattr(c.__init__, '__globals__')]\n"
        "modules = next(g['sys'].modules for g in find if 'sys' in g)\n"
    )
    tries = [
        "modules['posix'].open('/etc/passwd', 0)",
        "modules['posix'].pipe()",
        "modules['io'].FileIO('/etc/passwd')",
    ]
    outcomes = run_programs([reach + one + "\nprint('reached')" for one in tries])
    assert [outcome.printed for outcome in outcomes] == [""] * len(tries)
    assert {outcome.error for outcome in outcomes} == {"OSError"}


def test_programs_see_no_environment_and_start_in_an_empty_folder_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spy = tmp_path / "spy.py"
    note = "repr((dict(os.environ), os.listdir('.'), os.getcwd(), sys.flags.isolated))"
    tell = f"json.dump([{{'printed': {note}, 'error': ''}}], sys.stdout)"
    spy.write_text(f"import json, os, sys\nsys.stdin.read()\n{tell}\n")
    monkeypatch.setenv("SECRET", "value")
    monkeypatch.setattr(python_runner, "WORKER", spy)
    environment, files, folder, isolated = eval(run_programs(["pass"])[0].printed)  # our own spy's repr
    assert not {"SECRET", "HOME", "PATH"} & environment.keys()
    assert (files, isolated) == ([], 1)
    assert not os.path.exists(folder)


def test_a_worker_that_hangs_is_ended_with_all_its_processes_and_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    note = tmp_path / "child"
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        f"import os, time\npid = os.fork()\nif pid: open({str(note)!r}, 'w').write(str(pid))\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(python_runner, "WORKER", stuck)
    monkeypatch.setattr(python_runner, "WALL_SECONDS", 1.0)
    with pytest.raises(JobFailed, match="could not be run"):
        run_programs(["pass"])
    child = int(note.read_text())
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout.strip()
        if not state or state.startswith("Z"):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail(f"process {child} was still there")


def test_a_machine_too_slow_to_tell_is_an_error_and_not_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_runner, "_answer_of_worker", lambda *_: [{"printed": "", "error": "wall"}])
    with pytest.raises(JobFailed, match="waited too long"):
        run_programs(["pass"])
    assert Outcome("", "wall").error == "wall"


def test_effort_counts_lines_and_their_indentation() -> None:
    assert effort_of("x = 1\nfor i in range(3):\n    x += i\n\nprint(x)") == 5


def test_a_loop_without_end_is_ended_by_its_own_cpu_time() -> None:
    before = os.times()
    (outcome,) = run_programs(["while True: pass"])
    after = os.times()
    assert outcome.error == "time"
    assert after.children_user - before.children_user < 1.0
