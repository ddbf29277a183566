"""Editing the configuration of MCP clients: nothing but our entry changes, and undoing it gives the old bytes back."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import JobFailed, ToolkitError
from toolkit.mcp_server import clients
from toolkit.mcp_server.clients import (
    CLIENTS,
    apply,
    config_path,
    installed_entry,
    plan_install,
    plan_uninstall,
    project_path,
    server_entry,
)
from toolkit.mcp_server.json_edits import with_entry, without_entry

ENTRY = {"command": "/venv/bin/python", "args": ["-m", "toolkit"]}
OTHER = (
    '{\n\t"numStartups": 41,\n\t"mcpServers": {\n'
    '\t\t"x": {"command": "npx", "env": {"KEY": "ü\\u00fc"}}\n\t},\n\t"big": 1e400\n}\n'
)
COMMENTED = '{\n  // mine, "not" yours\n  "servers": {\n    "a": {"command": "b",}, // last\n    /* more */\n  },\n}\n'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(
    rest=st.dictionaries(st.text(max_size=6), json_values, max_size=4),
    servers=st.none()
    | st.dictionaries(st.text(max_size=6).filter(lambda key: key != "toolkit"), json_values, min_size=1),
    indent=st.sampled_from([None, 0, 2, 4, "\t"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    plain=st.booleans(),
    first=st.booleans(),
)
def test_adding_merges_as_a_dictionary_would_and_removing_gives_the_old_bytes_back(
    rest: dict[str, Any], servers: dict[str, Any] | None, indent: Any, newline: str, plain: bool, first: bool
) -> None:
    rest.pop("mcpServers", None)
    ours = {} if servers is None else {"mcpServers": servers}
    config = {**ours, **rest} if first else {**rest, **ours}
    text = json.dumps(config, indent=indent, ensure_ascii=plain).replace("\n", newline)
    added = with_entry(text, "mcpServers", "toolkit", ENTRY)
    expected = {**config, "mcpServers": {**(servers or {}), "toolkit": ENTRY}}
    assert json.dumps(json.loads(added), sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert without_entry(added, "mcpServers", "toolkit") == text


def test_an_entry_is_renewed_where_it_stands_and_once() -> None:
    first = with_entry(OTHER, "mcpServers", "toolkit", {"command": "old"})
    second = with_entry(first, "mcpServers", "toolkit", ENTRY)
    assert list(json.loads(second)["mcpServers"]) == ["x", "toolkit"] and "old" not in second
    assert with_entry(second, "mcpServers", "toolkit", ENTRY) == second
    assert without_entry(second, "mcpServers", "toolkit") == OTHER


def test_comments_and_trailing_commas_of_vs_code_survive() -> None:
    added = with_entry(COMMENTED, "servers", "toolkit", ENTRY, comments=True)
    assert '// mine, "not" yours' in added and "// last" in added and "/* more */" in added
    assert clients.entry_of(added, "servers", "toolkit", comments=True) == ENTRY
    assert without_entry(added, "servers", "toolkit", comments=True) == COMMENTED


def test_an_entry_in_the_middle_leaves_its_neighbours_as_they_were() -> None:
    added = with_entry(OTHER, "mcpServers", "toolkit", ENTRY)
    more = with_entry(added, "mcpServers", "later", {"command": "z"})
    assert without_entry(more, "mcpServers", "toolkit") == with_entry(OTHER, "mcpServers", "later", {"command": "z"})
    alone = '{"mcpServers": {"toolkit": {}, "b": {}}}'
    assert without_entry(alone, "mcpServers", "toolkit") == '{"mcpServers": {"b": {}}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mcpServers": {}', "not valid JSON"),
        ('{"mcpServers": {},}', "no trailing commas"),
        ('{"a": 1} // note', "no comments"),
        ("[1]", "not a JSON object"),
        ('{"mcpServers": []}', "'mcpServers' is not an object"),
        ('{"mcpServers": {"a": {}}, "mcpServers": {}}', "stands in it twice"),
        ('{"mcpServers": {"toolkit": {}, "toolkit": {}}}', "stands in it twice"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_what_a_client_could_not_read_is_refused_and_left_as_it_was(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claude_desktop_config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ToolkitError, match=message) as caught:
        plan_install(CLIENTS["claude-desktop"], path, ENTRY)
    assert str(path) in str(caught.value)
    assert path.read_text("utf-8") == text and list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ToolkitError, match="not UTF-8"):
        plan_install(CLIENTS["cursor"], path, ENTRY)


def test_installing_keeps_a_copy_the_permissions_and_the_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "mcp.json"
    real.parent.mkdir()
    real.write_bytes(OTHER.replace("\n", "\r\n").encode())
    real.chmod(0o640)
    before = real.read_bytes()
    link = tmp_path / "mcp.json"
    link.symlink_to(real)
    change = plan_install(CLIENTS["claude-code"], link, ENTRY)
    assert real.read_bytes() == before, "planning writes nothing"
    apply(change)
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert change.backup is not None and change.backup.read_bytes() == before
    assert stat.S_IMODE(change.backup.stat().st_mode) == 0o640
    assert installed_entry(CLIENTS["claude-code"], link) == ENTRY
    undone = plan_uninstall(CLIENTS["claude-code"], link)
    apply(undone)
    assert real.read_bytes() == before
    assert undone.backup is not None and undone.backup != change.backup, "no copy is overwritten"


def test_a_new_file_is_made_with_its_folder_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mcp.json"
    change = plan_install(CLIENTS["cursor"], path, ENTRY)
    assert change.backup is None and change.is_needed
    apply(change)
    assert json.loads(path.read_text()) == {"mcpServers": {"toolkit": ENTRY}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not plan_install(CLIENTS["cursor"], path, ENTRY).is_needed


def test_a_file_that_changed_since_the_plan_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(OTHER, "utf-8")
    change = plan_install(CLIENTS["claude-code"], path, ENTRY)
    path.write_text('{"numStartups": 42}', "utf-8")
    with pytest.raises(JobFailed, match="changed by another program"):
        apply(change)
    assert path.read_text("utf-8") == '{"numStartups": 42}'


def test_removing_what_is_not_there_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    assert not plan_uninstall(CLIENTS["cursor"], path).is_needed and not path.exists()
    path.write_text(OTHER, "utf-8")
    assert not plan_uninstall(CLIENTS["cursor"], path).is_needed


@pytest.mark.parametrize(
    ("name", "platform", "environment", "expected"),
    [
        ("claude-desktop", "darwin", {}, "/Users/a/Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", {}, "/Users/a/.config/Claude/claude_desktop_config.json"),
        ("claude-desktop", "linux", {"XDG_CONFIG_HOME": "/x"}, "/x/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", {"APPDATA": "C:\\R"}, "C:\\R\\Claude\\claude_desktop_config.json"),
        ("claude-code", "darwin", {}, "/Users/a/.claude.json"),
        ("claude-code", "linux", {"CLAUDE_CONFIG_DIR": "/c"}, "/c/.claude.json"),
        ("cursor", "darwin", {}, "/Users/a/.cursor/mcp.json"),
        ("vscode", "darwin", {}, "/Users/a/Library/Application Support/Code/User/mcp.json"),
        ("vscode", "linux", {}, "/Users/a/.config/Code/User/mcp.json"),
        ("vscode", "win32", {"APPDATA": "C:\\R"}, "C:\\R\\Code\\User\\mcp.json"),
    ],
)
def test_each_client_is_looked_for_where_its_documentation_says(
    name: str, platform: str, environment: dict[str, str], expected: str
) -> None:
    found = config_path(CLIENTS[name], platform=platform, environment=environment, home="/Users/a")
    assert str(found) == expected


def test_the_entry_names_this_interpreter_in_full_and_no_folder_can_take_its_place(tmp_path: Path) -> None:
    entry = server_entry(CLIENTS["vscode"], ["--store", "/s"], {"TOOLKIT_HOME": "/h"})
    assert entry == {
        "type": "stdio",
        "command": sys.executable,
        "args": ["-P", "-m", "toolkit", "mcp", "serve", "--store", "/s"],
        "env": {"TOOLKIT_HOME": "/h"},
    }
    assert os.path.isabs(entry["command"])
    assert "type" not in server_entry(CLIENTS["claude-desktop"], [], {}), "its documentation knows no such key"


def test_a_project_has_a_file_of_its_own_where_the_client_knows_one(tmp_path: Path) -> None:
    assert project_path(CLIENTS["vscode"], tmp_path) == tmp_path.resolve() / ".vscode" / "mcp.json"
    with pytest.raises(ToolkitError, match="claude-code, cursor, vscode"):
        project_path(CLIENTS["claude-desktop"], tmp_path)
    with pytest.raises(ToolkitError, match="no such folder"):
        project_path(CLIENTS["cursor"], tmp_path / "absent")
