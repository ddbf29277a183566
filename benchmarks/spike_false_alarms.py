"""How often do the guards take a sound run for a spiking one? Real curves, and drawn ones with heavy tails.

    python -m benchmarks.spike_false_alarms [--train FOLDER] [--updates 200000] [METRICS.jsonl …]

Every alarm here is a false one: the runs ended well, and nothing was planted in the drawn curves. `--train` makes the
runs below first (those that FOLDER does not hold yet; about half an hour on one core), with the guard off and every
update logged. Other runs' metrics can be named too, if they were made with `train.log_every=1`.

Printed for each curve: updates, alarms at several values of `train.spike_zscore`, the least whole one without any, and
how many of 40 planted collapses (8 updates at 8.3 nats, a guess among 4,096 tokens, each in a curve of its own) the
default finds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from toolkit.config import TrainConfig
from toolkit.guards import GuardState, judge_update
from toolkit.protocols import StepFigures

SCORES = (1.0, 2.0, 3.0, 4.0, 5.0)
GSM8K = "../shared/data/gsm8k"
TINY = "architecture.hidden_size=64 architecture.layers=2 architecture.ffn_size=128 row_tokens=64"
RUNS = {
    "pretrain-corpus": f"pretrain --corpus nano --set {TINY.replace(' ', ' --set ')} --set train.max_steps=800",
    "pretrain-small-batch": f"pretrain --corpus nano --set {TINY.replace(' ', ' --set ')} --set train.batch_size=2 "
    "--set train.max_steps=800 --set train.seed=1",
    "starter-full": "finetune --method full --set train.max_steps=400 --set train.batch_size=4",
    "starter-lora": "finetune --set train.max_steps=400 --set train.batch_size=2",
    "gsm8k-lora": f"finetune --data {GSM8K} --set data.prompt=question --set data.completion=answer "
    "--set data.max_examples=1000 --set train.max_steps=400 --set train.batch_size=1",
}


def alarms(losses: Iterable[float], score: float) -> int:
    """Count the rollbacks that a curve would have caused; after each the guards begin anew, as after a rollback."""
    config = TrainConfig(spike_zscore=score)
    state, count = GuardState(), 0
    for step, loss in enumerate(losses, start=1):
        state, trouble = judge_update(state, step, StepFigures(loss, 1.0, 1.0), config)
        if trouble:
            state, count = GuardState(), count + 1
    return count


def least_quiet_score(losses: Sequence[float], highest: int = 32) -> int:
    """Return the least whole score without an alarm, by bisection."""
    noisy = 0
    quiet = highest
    while quiet - noisy > 1:
        middle = (noisy + quiet) // 2
        noisy, quiet = (middle, quiet) if alarms(losses, float(middle)) else (noisy, middle)
    return quiet


def found(losses: Sequence[float], spikes: int = 40, updates: int = 8, nats: float = 8.3) -> int:
    """Plant collapses, one at a time, evenly over the curve's judged part; count those that raise an alarm."""
    config = TrainConfig()
    first, last = config.spike_window, min(len(losses), 5_000) - updates
    count = 0
    for start in np.linspace(first, last, spikes).astype(int):
        before = losses[start - config.spike_window : start]
        count += 0 < alarms([*before, *[nats] * updates], config.spike_zscore)
    return count


def drawn(updates: int) -> dict[str, list[float]]:
    """Draw falling curves with noise from calm to wild; t with 2 degrees of freedom has no variance."""
    draw = np.random.default_rng(7)
    noises: dict[str, Callable[[], np.ndarray]] = {
        "normal": lambda: draw.normal(size=updates),
        "log-normal": lambda: draw.lognormal(size=updates) - 1.0,
        "t, 3 degrees": lambda: draw.standard_t(3, size=updates),
        "t, 2 degrees": lambda: np.maximum(draw.standard_t(2, size=updates), -10.0),
    }
    curve = 1.5 + 6.0 * np.exp(-np.arange(updates) / (updates / 20))
    return {f"drawn: {name}": (curve + 0.2 * noise()).tolist() for name, noise in noises.items()}


def recorded(path: Path) -> list[float]:
    """Read the losses of a run that logged every update."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row["loss"] for row in rows if row.get("loss") is not None and "rolled_back" not in row]


def train(folder: Path) -> list[Path]:
    """Make the runs that are not there yet."""
    found = []
    for name, arguments in RUNS.items():
        metrics = folder / name / "metrics.jsonl"
        if not metrics.is_file():
            command = [sys.executable, "-m", "toolkit", *arguments.split(), "--name", name]
            options = ["--set", "train.spike_zscore=0", "--set", "train.device=cpu", "--backend", "torch"]
            subprocess.run([*command, *options], check=True, env=_environment(folder), stdout=subprocess.DEVNULL)
        found.append(metrics)
    return found


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TOOLKIT_RUNS_DIR": str(folder)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", type=Path)
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--updates", type=int, default=200_000)
    options = parser.parse_args()
    paths = [*options.metrics, *(train(options.train) if options.train else [])]
    curves = {path.parent.name: recorded(path) for path in paths} | drawn(options.updates)
    print(f"{'curve':<24}{'updates':>9}  alarms at a score of {SCORES}  least quiet  found of 40")
    for name, losses in curves.items():
        counts = "".join(f"{alarms(losses, score):>7}" for score in SCORES)
        print(f"{name:<24}{len(losses):>9,}  {counts}{least_quiet_score(losses):>14}{found(losses):>14}", flush=True)


if __name__ == "__main__":
    main()
