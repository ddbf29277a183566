"""`toolkit serve`: an OpenAI-compatible server on this machine, for a .gguf, a run, an adapter or a model."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click
import uvicorn

from toolkit.backends import OpenTarget, Target, open_target, resolve_target
from toolkit.commands.options import backend_option
from toolkit.commands.progress import say
from toolkit.config import DeviceChoice
from toolkit.errors import ToolkitError
from toolkit.quantize.companions import VERIFICATION_NAME
from toolkit.runs import RunFolder, runs_root
from toolkit.serving.app import create_app
from toolkit.serving.engine import Engine
from toolkit.serving.loopback import LoopbackOnly

HOST = "127.0.0.1"


@click.command()
@click.argument("target")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Where to listen (0: any free one)."
)
@click.option(
    "--weights",
    type=click.Choice(("auto", "gguf", "trained")),
    default="auto",
    show_default=True,
    help="Of a run, serve its exported .gguf or the weights as trained; auto takes the newest good export.",
)
@click.option(
    "--context", type=click.IntRange(min=16), help="Longest conversation of a .gguf in tokens. [default: ≤ 8,192]"
)
@click.option(
    "--device", type=click.Choice(get_args(DeviceChoice)), default="auto", show_default=True, help="Where to compute."
)
@backend_option
def serve(target: str, port: int, weights: str, context: int | None, device: str, backend: str) -> None:
    """Answer OpenAI's API on this machine alone, with TARGET: a .gguf, a run, an adapter, a model folder or nano.

    Point any OpenAI client at http://127.0.0.1:PORT/v1; the API key may be anything. Ctrl-C ends it.
    """
    found = resolve_target(target, runs_root())
    file = served_file(found, weights)
    if file is None and context is not None:
        raise ToolkitError("--context applies to a .gguf; trained weights have the model's own context")
    listening = listen(port)
    try:
        if file is None:
            _serve_trained(open_target(found, device, backend_choice=backend, report=say), listening)
        else:
            _serve_gguf(file, context, listening)
    finally:
        listening.close()
    say("ended")


def _serve_gguf(file: Path, context: int | None, listening: socket.socket) -> None:
    from toolkit.gguf_backend.server import gguf_app

    with gguf_app(file, context) as (app, tokens):
        server = _server(app)
        _announce(f"{file.name} in llama.cpp, {tokens:,} tokens of context", listening)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed its connections
            server.run(sockets=[listening])


def _serve_trained(target: OpenTarget, listening: socket.socket) -> None:
    """Let the server run beside this thread, which belongs to the model."""
    engine = Engine(target)
    server = _server(create_app(engine))

    def stop(*_: object) -> None:
        server.should_exit = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    beside = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    beside.start()
    _announce(f"{target.label} as trained, {target.context:,} tokens of context", listening)
    try:
        engine.work(until=lambda: not beside.is_alive())
    finally:
        target.scorer.close()


def _server(app: Any) -> uvicorn.Server:
    settings = uvicorn.Config(LoopbackOnly(app), log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
    return uvicorn.Server(settings)


def _announce(what: str, listening: socket.socket) -> None:
    say(f"serving {what}; Ctrl-C ends it")
    click.echo(f"http://{HOST}:{listening.getsockname()[1]}/v1")


def served_file(target: Target, weights: str) -> Path | None:
    """Return the .gguf to serve, or None for the trained weights.

    Raises:
        ToolkitError: a .gguf was asked for and there is none that passed its verification.
    """
    if target.gguf_file is not None:
        if weights == "trained":
            raise ToolkitError("a .gguf has no trained weights beside it", where=target.label, hint="Name its run")
        return target.gguf_file
    files = [] if target.run_folder is None or weights == "trained" else good_exports(target.run_folder)
    if weights == "gguf" and not files:
        raise ToolkitError("no verified .gguf here", where=target.label, hint=f"Type: toolkit export {target.label}")
    return files[-1] if files else None


def good_exports(run_folder: Path) -> list[Path]:
    """Return a run's exported files that passed every gate, oldest first."""
    folder = RunFolder(run_folder).export
    record = folder / VERIFICATION_NAME
    entries: list[dict[str, Any]] = json.loads(record.read_text("utf-8")) if record.is_file() else []
    passed: dict[str, bool] = {}
    for entry in entries:
        passed[entry["file"]] = passed.get(entry["file"], True) and bool(entry["passed"])
    files = [folder / name for name, good in passed.items() if good and (folder / name).is_file()]
    return sorted(files, key=lambda file: file.stat().st_mtime)


def listen(port: int) -> socket.socket:
    """Take a port on loopback. Raises ToolkitError when something else has it."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        hint = "Choose another with --port, or any free one with --port 0"
        raise ToolkitError(f"port {port} cannot be used ({error.strerror})", where=HOST, hint=hint) from error
    return listening
