"""Kill runs at random points, resume them in new processes, and compare their ends bit for bit with runs left alone.

python -m scripts.kill_and_compare [--kills 50] [--seed 0] [--backend torch --backend mlx] [--case lora]

Every run is a process of its own, forked from this one after the frameworks have been imported, which saves seconds
a run. Half of the kills come at a random call of the toolkit's code (each phase of a run equally often), the other half
at a random moment from outside. Exit code 1 when one run ends otherwise than the one that was left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.killing import Points, differences, summary
from tests.small_runs import settings, write_questions
from toolkit.runs import RunFolder

STEPS = 12
COMMON = settings(
    train__max_steps=STEPS, train__save_every=2, train__eval_every=3, train__batch_size=4, train__accumulation=2,
    train__device="cpu",
)  # fmt: skip
DROPOUT = settings(lora__dropout=0.1)
CASES = {
    "lora": DROPOUT,
    "lora, packed": [*DROPOUT, *settings(data__packing="true", data__max_seq_tokens=128, train__batch_size=2)],
    "lora, recomputed": [*DROPOUT, *settings(train__gradient_checkpointing="true")],
    "dora": [*DROPOUT, *settings(lora__variant="dora", train__schedule="wsd")],
    "rslora, sgd": [*DROPOUT, *settings(lora__variant="rslora", train__optimizer="sgd", train__learning_rate=0.1)],
    "qlora": ["--method", "qlora", *DROPOUT],
    "full": ["--method", "full", *settings(train__schedule="cosine_restarts")],
}


@dataclass(frozen=True)
class Outcome:
    """How one kill ended. `fault` is empty when the resumed run's end equals that of the run left alone."""

    backend: str
    case: str
    phase: str
    place: str
    resumed: bool
    fault: str


class Place:
    """A folder with a tiny model and data, and the processes that train there."""

    def __init__(self, folder: Path) -> None:
        """Build the model and write the data."""
        from tests.tiny_models import TinyModel, build

        self.folder = folder
        self.model = build(folder / "model", TinyModel(family="qwen2"))
        self.data = write_questions(folder / "sums.jsonl")
        os.environ.update(TOOLKIT_RUNS_DIR=str(folder / "runs"), TOOLKIT_HOME=str(folder / "home"))

    def run(self, name: str) -> RunFolder:
        """Return a run's folder."""
        return RunFolder(self.folder / "runs" / name)

    def begin(self, backend: str, case: str, name: str) -> list[str]:
        """Return the command that trains a case from the start."""
        model = ["--model", str(self.model), "--data", str(self.data), "--backend", backend, "--name", name]
        return ["finetune", *model, *COMMON, *CASES[case]]

    def fork(self, arguments: list[str], around: Callable[[], Points] | None = None) -> int:
        """Start a command in a new process and return its id; `around` arms it."""
        process_id = os.fork()
        if process_id:
            return process_id
        code = 1
        try:
            disturb_random_state(os.getpid())
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            from toolkit.cli import main

            points = around() if around else None
            try:
                if points:
                    points.__enter__()
                main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            if points and points.note:
                points.__exit__()
                points.note.write_text(json.dumps(points.phases))
        finally:
            os._exit(code)

    def finish(self, arguments: list[str], around: Callable[[], Points] | None = None) -> int:
        """Run a command in a new process; return its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.fork(arguments, around), 0)[1])


def disturb_random_state(seed: int) -> None:
    """Set every generator that a run could be tempted to draw from, differently in each process."""
    import mlx.core as mx
    import numpy as np
    import torch

    random.seed(seed)  # noqa: TID251
    np.random.seed(seed)  # noqa: TID251
    torch.manual_seed(seed)
    mx.random.seed(seed)


def kill_at_call(place: Place, begin: list[str], point: int) -> tuple[str, str]:
    """Kill a run at a call of the toolkit's code; return the phase and the place in the code."""
    note = place.folder / "note.json"
    code = place.finish(begin, lambda: Points(point, note))
    if code != -signal.SIGKILL:
        raise RuntimeError(f"call {point} was never made (exit code {code})")
    noted = json.loads(note.read_text())
    return noted["phase"], noted["place"]


def kill_at_time(place: Place, begin: list[str], run: RunFolder, seconds: float) -> tuple[str, str]:
    """Kill a run so long after it began to train; return how far it had come."""
    process_id = place.fork(begin)
    while not run.metrics_path.exists():
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(process_id, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
    steps = [row["step"] for row in run.metrics()]
    ended = "after its end" if code == 0 else f"after step {steps[-1] if steps else 0}"
    return "at a moment", f"{seconds:.2f} s, {ended}"


def try_one(
    place: Place, backend: str, case: str, whole: RunFolder, kill: Callable[[list[str], RunFolder], tuple[str, str]]
) -> Outcome:
    """Kill a run, go on with it (or begin again where there is no checkpoint yet), compare."""
    run = place.run("killed")
    shutil.rmtree(run.path, ignore_errors=True)
    begin = place.begin(backend, case, "killed")
    phase, where = kill(begin, run)
    resumed = True
    if run.status() != "finished":
        code = place.finish(["finetune", "--resume", "killed"])
        if code == 2 and not any((run.checkpoints).glob("step-*")):  # killed before the first checkpoint
            resumed = False
            code = place.finish([*begin, "--overwrite"])
        if code != 0:
            return Outcome(backend, case, phase, where, resumed, f"exit code {code}")
    return Outcome(backend, case, phase, where, resumed, "; ".join(differences(whole, run)))


def kills_of(place: Place, backend: str, case: str, count: int, draw: random.Random) -> list[Outcome]:
    """Kill a case so many times, and print how each ended."""
    whole = place.run(f"{backend}-{case.replace(', ', '-')}")
    note = place.folder / "phases.json"
    began = time.monotonic()
    if place.finish(place.begin(backend, case, whole.name), lambda: Points(note=note)) != 0:
        raise SystemExit(f"{backend}, {case}: the run left alone failed; see {place.folder / 'log'}")
    seconds = time.monotonic() - began
    phases: list[str] = json.loads(note.read_text())
    kinds = sorted(set(phases))
    draw.shuffle(kinds)
    outcomes = []
    for number in range(count):
        if number % 2:
            moment = draw.uniform(0, seconds / 2)
            kill = lambda begin, run, moment=moment: kill_at_time(place, begin, run, moment)  # noqa: E731
        else:
            wanted = kinds[(number // 2) % len(kinds)]
            point = draw.choice([index for index, phase in enumerate(phases, start=1) if phase == wanted])
            kill = lambda begin, run, point=point: kill_at_call(place, begin, point)  # noqa: E731
        outcome = try_one(place, backend, case, whole, kill)
        outcomes.append(outcome)
        how = "resumed" if outcome.resumed else "begun again"
        print(
            f"{backend:<6} {case:<20} {outcome.phase:<22} {outcome.place:<44} {how:<12} {outcome.fault or 'same bits'}"
        )
        sys.stdout.flush()
    return outcomes


def main() -> int:
    """Parse the command line, kill, report; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill runs at random points and compare their ends.")
    parser.add_argument("--kills", type=int, default=50, help="for each backend (default 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--case", action="append", choices=tuple(CASES))
    options = parser.parse_args()
    # Loaded once, before any process is forked; nothing is computed here, so no thread is lost in forking.
    import peft as peft

    import toolkit.commands.finetune as finetune
    import toolkit.mlx_backend.session as mlx_session
    import toolkit.torch_backend.session as torch_session

    del finetune, mlx_session, torch_session
    outcomes: list[Outcome] = []
    cases = options.case or list(CASES)
    with tempfile.TemporaryDirectory(prefix="kill-and-compare-") as folder:
        place = Place(Path(folder))
        for backend in options.backend or ("torch", "mlx"):
            draw = random.Random(f"{options.seed} {backend}")
            for index, case in enumerate(cases):
                share = options.kills // len(cases) + (index < options.kills % len(cases))
                outcomes += kills_of(place, backend, case, share, draw)
    same = [outcome for outcome in outcomes if not outcome.fault]
    print(f"{len(same)} of {len(outcomes)} end with the same bits: {summary([outcome.phase for outcome in outcomes])}")
    resumed = sum(outcome.resumed for outcome in outcomes)
    print(f"{resumed} went on from a checkpoint, {len(outcomes) - resumed} had none yet and began again")
    return 0 if len(same) == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
