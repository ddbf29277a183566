"""`toolkit mcp`: the commands that a person types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_runs import toolkit
from toolkit.commands import mcp as group


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own, on whatever platform."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    for name in ("APPDATA", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return folder


def test_help_of_the_group_loads_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom toolkit.cli import main\n"
        "try:\n    main(['mcp', '--help'])\nexcept SystemExit as error:\n    assert error.code == 0\n"
        "print('LOADED', [name for name in ('mcp', 'torch', 'numpy', 'sqlite3', 'pydantic') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "LOADED []"


def test_every_command_of_the_table_loads_under_its_name() -> None:
    assert {name: load().name for name, (_, load) in group.COMMANDS.items()} == {name: name for name in group.COMMANDS}
    ran = toolkit("mcp", "serv")
    assert ran.exit_code == 2 and "Did you mean serve?" in ran.stderr


def test_installing_and_uninstalling_gives_the_old_file_back(home: Path) -> None:
    path = home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"other": {"command": "npx"}}}')
    notes = home / "notes"
    notes.mkdir()
    dry = toolkit("mcp", "install", "--client", "cursor", "--root", notes, "--dry-run")
    assert dry.exit_code == 0 and str(path) in dry.stdout and "nothing was changed" in dry.stderr
    assert json.loads(dry.stdout.partition(":\n")[2])["mcpServers"]["toolkit"]["command"] == sys.executable
    assert path.read_text() == '{"mcpServers": {"other": {"command": "npx"}}}'
    done = toolkit("mcp", "install", "--client", "cursor", "--root", notes)
    assert done.exit_code == 0 and done.stdout == f"{path}\n" and "Restart Cursor" in done.stderr
    servers = json.loads(path.read_text())["mcpServers"]
    assert list(servers) == ["other", "toolkit"]
    arguments = servers["toolkit"]["args"]
    assert arguments[:5] == ["-P", "-m", "toolkit", "mcp", "serve"] and arguments[-2:] == ["--root", str(notes)]
    again = toolkit("mcp", "install", "--client", "cursor", "--root", notes)
    assert again.exit_code == 0 and "nothing to do" in again.stderr
    undone = toolkit("mcp", "uninstall", "--client", "cursor")
    assert undone.exit_code == 0 and path.read_text() == '{"mcpServers": {"other": {"command": "npx"}}}'
    assert "nothing to do" in toolkit("mcp", "uninstall", "--client", "cursor").stderr


def test_the_store_of_toolkit_home_goes_into_the_entry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_HOME", str(home / "kept"))
    toolkit("mcp", "install", "--client", "claude-code", "--no-model")
    entry = json.loads((home / ".claude.json").read_text())["mcpServers"]["toolkit"]
    assert entry["type"] == "stdio" and entry["env"] == {"TOOLKIT_HOME": str(home / "kept")}
    assert entry["args"][5:] == ["--store", str(home / "kept" / "memory.sqlite3"), "--no-model"]


def test_a_project_or_another_file_can_be_named(home: Path) -> None:
    project = home / "work"
    project.mkdir()
    assert toolkit("mcp", "install", "--client", "vscode", "--project", project).exit_code == 0
    assert "toolkit" in json.loads((project / ".vscode" / "mcp.json").read_text())["servers"]
    other = home / "elsewhere.json"
    named = toolkit("mcp", "install", "--client", "claude-desktop", "--config", other, "--name", "memory")
    assert named.exit_code == 0 and list(json.loads(other.read_text())["mcpServers"]) == ["memory"]
    both = toolkit("mcp", "install", "--client", "vscode", "--project", project, "--config", other)
    assert both.exit_code == 2 and "not both" in both.stderr
    none = toolkit("mcp", "install", "--client", "claude-desktop", "--project", project)
    assert none.exit_code == 2 and "claude-code, cursor, vscode" in none.stderr


def test_a_broken_file_is_refused_in_words_and_left_alone(home: Path) -> None:
    path = home / ".config" / "Claude" / "claude_desktop_config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"mcpServers": {},}')
    ran = toolkit("mcp", "install", "--client", "claude-desktop")
    assert ran.exit_code == 2 and str(path) in ran.stderr and "no trailing commas" in ran.stderr
    assert path.read_text() == '{"mcpServers": {},}' and list(path.parent.iterdir()) == [path]


def test_all_wrong_paths_are_named_at_once(home: Path) -> None:
    arguments = ["--policy", home / "p.yaml", "--root", home / "r", "--model", home / "m", "--store", home]
    ran = toolkit("mcp", "serve", *arguments)
    assert ran.exit_code == 2 and ran.stderr.count("error:") == 4
    for place in ("p.yaml: no such policy", "/r: no such folder", "/m: no such folder", "a folder, not a file"):
        assert place in ran.stderr
