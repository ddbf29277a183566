"""Run small Python programs, each in a process of its own: `python -I -S -B python_worker.py < request > outcomes`.

The request is a JSON object: `programs` (source texts), `cpu_seconds`, `wall_seconds`, `memory_bytes`, `output_bytes`.
The answer is a JSON list of `{"printed", "error"}`: what a program printed, and the name of the exception that ended it
(`time` or `memory` where a limit did, `wall` where the machine was too slow to tell, `output` where it printed too much).

A program cannot reach files or the network: before it starts, the limit on open files is set to none, so neither can be
opened; it has no `open`, `input`, `eval` or `exec`, and imports `math` alone. It cannot start a process (RLIMIT_NPROC;
the superuser is exempt from that one) or write a file (RLIMIT_FSIZE). CPU time is measured, not the clock, so the same
program has the same outcome on a busy machine.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import resource
import select
import signal
import sys
import time

TAKEN_AWAY = ("open", "input", "eval", "exec", "compile", "breakpoint", "exit", "quit", "help", "__loader__")


def main() -> None:
    """Read the request, run every program, write the outcomes."""
    request = json.load(sys.stdin)
    outcomes = [run(program, request) for program in request["programs"]]
    json.dump(outcomes, sys.stdout)


def run(program: str, limits: dict[str, float]) -> dict[str, str]:
    """Run one program in a child and return what became of it."""
    printed_here, printed_there = os.pipe()
    error_here, error_there = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(printed_here)
            os.close(error_here)
            _obey(program, limits, printed_there, error_there)
        finally:
            os._exit(70)
    os.close(printed_there)
    os.close(error_there)
    printed, reason = _collect(printed_here, child, limits)
    _, status = os.waitpid(child, 0)
    error = os.read(error_here, 200).decode()
    os.close(printed_here)
    os.close(error_here)
    return {"printed": printed, "error": reason or _ending(status, error)}


def _collect(source: int, child: int, limits: dict[str, float]) -> tuple[str, str]:
    """Read what the child prints until it ends; kill it where it prints or waits too long."""
    deadline = time.monotonic() + limits["wall_seconds"]
    printed = b""
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            return printed.decode("utf-8", "replace"), "wall"
        part = os.read(source, 65536)
        if not part:
            return printed.decode("utf-8", "replace"), ""
        printed += part
        if len(printed) > limits["output_bytes"]:
            os.kill(child, signal.SIGKILL)
            return printed[: int(limits["output_bytes"])].decode("utf-8", "replace"), "output"


def _ending(status: int, error: str) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "time" if number in (signal.SIGVTALRM, signal.SIGXCPU) else signal.Signals(number).name
    return error or ("" if os.WEXITSTATUS(status) == 0 else "unknown")


def _limit(name: int, amount: int) -> None:
    try:
        resource.setrlimit(name, (amount, amount))
    except (ValueError, OSError):  # macOS knows RLIMIT_AS and does not let it be set
        pass


def _obey(program: str, limits: dict[str, float], printed: int, error: int) -> None:
    """Give up every right and run the program; never returns."""
    os.dup2(printed, 1)
    for stream in (0, 2, printed):
        os.close(stream)
    given = {name: value for name, value in vars(builtins).items() if name not in TAKEN_AWAY}
    given["__import__"] = _import
    space = {"__builtins__": given, "__name__": "__main__"}
    out = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  a process that ends anyway
    sys.stdin, sys.stdout, sys.stderr = None, out, out  # type: ignore[assignment]
    _limit(resource.RLIMIT_AS, int(limits["memory_bytes"]))
    _limit(resource.RLIMIT_CPU, math.ceil(limits["cpu_seconds"]) + 1)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, 0)
    signal.setitimer(signal.ITIMER_VIRTUAL, limits["cpu_seconds"])
    name = ""
    try:
        exec(compile(program, "program", "exec"), space)
    except BaseException as ended:
        name = "memory" if isinstance(ended, MemoryError) else type(ended).__name__
    try:
        out.flush()
    except Exception:
        name = name or "output"
    os.write(error, name.encode())
    os._exit(0)


def _import(name: str, *_: object) -> object:
    if name != "math":
        raise ImportError(name)
    return math


if __name__ == "__main__":
    main()
