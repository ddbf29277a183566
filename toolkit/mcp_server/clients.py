"""Telling MCP clients about this server: which file each reads, what stands in it, and edits that can be undone.

The files belong to the user and hold other servers, sometimes secrets. So: nothing but our entry is changed, what is
not valid JSON is refused untouched, a copy is kept, the permissions stay, and the file changes in one step.

Places and shapes are those of each client's documentation (2026-11): modelcontextprotocol.io (Claude Desktop),
code.claude.com/docs/en/mcp (Claude Code), cursor.com/docs/mcp, code.visualstudio.com/docs (MCP configuration). None of
the four clients was run here, and nothing was run on a Mac.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from toolkit.atomic_files import open_atomic, write_failed
from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server.json_edits import entry_of, with_entry, without_entry

SERVER_NAME = "toolkit"


@dataclass(frozen=True)
class Client:
    """What is known about one client.

    section:      the key of the configuration under which servers stand
    comments:     its files may hold comments and trailing commas
    typed:        an entry says `"type": "stdio"`
    project_file: the file of one project, relative to its folder (None: the client knows no such file)
    restart:      what the user does so that the client reads the file again
    """

    name: str
    title: str
    section: str
    comments: bool
    typed: bool
    project_file: str | None
    restart: str


CLIENTS: dict[str, Client] = {
    client.name: client
    for client in (
        Client("claude-desktop", "Claude Desktop", "mcpServers", False, False, None, "Quit Claude Desktop and open it"),
        Client("claude-code", "Claude Code", "mcpServers", False, True, ".mcp.json", "Start a new session, type /mcp"),
        Client("cursor", "Cursor", "mcpServers", False, True, ".cursor/mcp.json", "Restart Cursor"),
        Client("vscode", "VS Code", "servers", True, True, ".vscode/mcp.json", "Type 'MCP: List Servers' in VS Code"),
    )
}


@dataclass(frozen=True)
class Change:
    """What an edit does to a file; nothing is written before `apply`.

    backup: where the old file is copied to (None where there is no old file, or nothing changes)
    """

    client: Client
    path: Path
    old: str | None
    new: str
    backup: Path | None

    @property
    def is_needed(self) -> bool:
        """Say whether the file would change."""
        return self.new != (self.old or "")


def config_path(
    client: Client,
    *,
    platform: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> PurePath:
    """Return the file in which a client looks for a user's servers on a platform (`sys.platform`'s names)."""
    root = (PureWindowsPath if platform == "win32" else PurePosixPath)(home or Path.home())
    if client.name == "claude-code":
        moved = environment.get("CLAUDE_CONFIG_DIR")
        return type(root)(moved) / ".claude.json" if moved else root / ".claude.json"
    if client.name == "cursor":
        return root / ".cursor" / "mcp.json"
    if platform == "darwin":
        folder = root / "Library" / "Application Support"
    elif platform == "win32":
        folder = type(root)(environment.get("APPDATA") or root / "AppData" / "Roaming")
    else:
        folder = type(root)(environment.get("XDG_CONFIG_HOME") or root / ".config")
    if client.name == "vscode":
        return folder / "Code" / "User" / "mcp.json"
    return folder / "Claude" / "claude_desktop_config.json"


def project_path(client: Client, project: Path) -> Path:
    """Return a client's file for one project. Raises ToolkitError where the client has none."""
    if client.project_file is None:
        known = ", ".join(one.name for one in CLIENTS.values() if one.project_file)
        raise ToolkitError(f"{client.title} has no configuration of a project", hint=f"--project works with {known}")
    if not project.is_dir():
        raise ToolkitError(
            "no such folder", where=project, hint="--project takes the folder that you open in the editor"
        )
    return project.resolve() / client.project_file


def server_entry(client: Client, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the entry that starts this server.

    The interpreter is named by its full path, since desktop programs know no `PATH` of a shell; `-P` keeps a folder
    called `toolkit` in the client's working directory from being run in its place.
    """
    entry: dict[str, Any] = {"type": "stdio"} if client.typed else {}
    entry |= {"command": sys.executable, "args": ["-P", "-m", "toolkit", "mcp", "serve", *arguments]}
    return entry | ({"env": dict(environment)} if environment else {})


def plan_install(client: Client, path: Path, entry: dict[str, Any], name: str = SERVER_NAME) -> Change:
    """Plan to add or renew an entry. Raises ToolkitError when the file is not what the client would read."""
    old = _read(path)
    new = _edit(client, path, lambda: with_entry(old or "", client.section, name, entry, comments=client.comments))
    return _change(client, path, old, new)


def plan_uninstall(client: Client, path: Path, name: str = SERVER_NAME) -> Change:
    """Plan to remove the entry; where there is none the change is not needed."""
    old = _read(path)
    new = _edit(client, path, lambda: without_entry(old or "", client.section, name, comments=client.comments))
    return _change(client, path, old, new)


def installed_entry(client: Client, path: Path, name: str = SERVER_NAME) -> dict[str, Any] | None:
    """Return the entry of a file, or None."""
    text = _read(path)
    return _edit(client, path, lambda: entry_of(text or "", client.section, name, comments=client.comments))


def apply(change: Change) -> None:
    """Keep a copy of the old file, then put the new one in its place in one step.

    The file is written where a symbolic link points to, with the permissions of the old one (a new one is the user's
    alone). Raises JobFailed when the file has changed since the plan, or the system refuses.
    """
    target = change.path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failed(error, target) from error
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    if change.backup is not None and change.old is not None:
        _write(change.backup, change.old, mode)
    if _read(change.path) != change.old:
        hint = f"Close {change.client.title} and run the command again"
        raise JobFailed("the file was changed by another program meanwhile; it was left alone", where=target, hint=hint)
    _write(target, change.new, mode)


def _change(client: Client, path: Path, old: str | None, new: str) -> Change:
    changed = old is not None and new != old
    return Change(client, path, old, new, _backup_path(path.resolve()) if changed else None)


def _edit(client: Client, path: Path, edit: Any) -> Any:
    try:
        return edit()
    except ToolkitError as error:
        problem = error.problems[0]
        remark = "" if client.comments else f" ({client.title} reads plain JSON: no comments, no trailing commas)"
        raise ToolkitError(f"{problem.what}{remark}", where=path, hint=problem.hint) from error


def _read(path: Path) -> str | None:
    """Return a file's text with its line ends as they are; None where there is no file."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ToolkitError("not UTF-8 text; it was left as it is", where=path, hint="Mend the file first") from error
    except OSError as error:
        raise ToolkitError(f"cannot be read: {error.strerror or error}", where=path) from error


def _write(path: Path, text: str, mode: int) -> None:
    with open_atomic(path) as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), mode)
        file.write(text.encode("utf-8"))


def _backup_path(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.before-toolkit-{number}")).exists():
        number += 1
    return kept


def entry_text(client: Client, entry: dict[str, Any], name: str = SERVER_NAME) -> str:
    """Return the entry as a whole file, for a person who pastes it by hand."""
    return json.dumps({client.section: {name: entry}}, indent=2, ensure_ascii=False)
