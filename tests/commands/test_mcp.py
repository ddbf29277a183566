"""`toolkit mcp`: the commands that a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from tests.small_runs import toolkit
from toolkit.cli import main
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


# --- what a person does with a store ---


@pytest.fixture
def store(home: Path) -> Path:
    """A store with a strict, a moderate and a flexible item, and where it is."""
    from toolkit.mcp_server.settings import ServerSettings, open_services

    path = home / "m.sqlite3"
    services = open_services(ServerSettings(path, embeds=False))
    for level in ("strict", "moderate", "flexible"):
        services.memory.store(f"The {level} item about keys.", preservation=level, tags=[level])
    services.close()
    return path


def id_of(store: Path, level: str) -> str:
    listed = toolkit("mcp", "list", "--preservation", level, "--store", store)
    return listed.stdout.splitlines()[1].split()[0]


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: object, typed: str) -> Result:
    """Run a command as a person does who types an answer."""
    monkeypatch.setattr("toolkit.commands.mcp_items.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=f"{typed}\n")


def test_items_are_listed_shown_and_found_from_the_command_line(store: Path) -> None:
    listed = toolkit("mcp", "list", "--store", store)
    assert {line.split()[2] for line in listed.stdout.splitlines()[1:]} == {"flexible", "moderate", "strict"}
    assert len(toolkit("mcp", "list", "--tag", "strict", "--store", store).stdout.splitlines()) == 2
    shown = toolkit("mcp", "show", id_of(store, "strict"), "--store", store)
    assert "The strict item about keys." in shown.stdout and "preservation: strict" in shown.stdout
    found = toolkit("mcp", "search", "keys", "--json", "--no-model", "--store", store)
    assert len(json.loads(found.stdout)) == 3 and "switched off" in found.stderr
    assert "no item" in toolkit("mcp", "show", "nope", "--store", store).stderr


def test_a_strict_item_is_deleted_by_a_person_at_a_terminal_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict, moderate = id_of(store, "strict"), id_of(store, "moderate")
    piped = CliRunner().invoke(main, ["mcp", "delete", strict, "--store", str(store)], input=f"{strict[-4:]}\n")
    assert piped.exit_code == 2 and "only a person" in piped.stderr
    wrong = at_a_terminal(monkeypatch, "mcp", "delete", strict, "--store", store, typed="yes")
    assert wrong.exit_code == 2 and "nothing was changed" in wrong.stderr
    assert "The strict item about keys." in wrong.stderr, "the person sees what it is about"
    assert id_of(store, "strict") == strict
    assert toolkit("mcp", "delete", moderate, "--store", store).exit_code == 0, "nobody is asked about this one"
    gone = at_a_terminal(monkeypatch, "mcp", "delete", strict, "--store", store, typed=strict[-4:])
    assert gone.exit_code == 0, gone.stderr
    assert "no items" in toolkit("mcp", "list", "--preservation", "strict", "--store", store).stderr


def test_a_level_is_raised_by_anyone_and_lowered_from_strict_by_a_person(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flexible, strict = id_of(store, "flexible"), id_of(store, "strict")
    assert toolkit("mcp", "level", flexible, "strict", "--store", store).exit_code == 0
    refused = toolkit("mcp", "level", strict, "flexible", "--store", store)
    assert refused.exit_code == 2 and "only a person can make it flexible" in refused.stderr
    lowered = at_a_terminal(monkeypatch, "mcp", "level", strict, "flexible", "--store", store, typed=strict[-4:])
    assert lowered.exit_code == 0 and id_of(store, "flexible") == strict


def test_what_was_exported_is_imported_and_a_backup_is_a_store(store: Path, tmp_path: Path) -> None:
    lines, other, copy = tmp_path / "m.jsonl", tmp_path / "other.sqlite3", tmp_path / "copy.sqlite3"
    assert "3 items" in toolkit("mcp", "export", lines, "--store", store).stderr
    assert toolkit("mcp", "import", lines, "--store", other).exit_code == 0
    assert toolkit("mcp", "list", "--store", other).stdout == toolkit("mcp", "list", "--store", store).stdout
    assert toolkit("mcp", "backup", copy, "--store", store).exit_code == 0
    assert toolkit("mcp", "list", "--store", copy).stdout == toolkit("mcp", "list", "--store", store).stdout
    lines.write_text(lines.read_text() + "not json\n")
    broken = toolkit("mcp", "import", lines, "--store", other)
    assert broken.exit_code == 2 and f"{lines}:5" in broken.stderr


def test_forgetting_says_what_it_would_take_and_never_takes_what_is_strict(store: Path) -> None:
    nothing = toolkit("mcp", "forget", "--store", store)
    assert nothing.exit_code == 2 and "--older-than" in nothing.stderr
    assert "is not a time such as" in toolkit("mcp", "forget", "--older-than", "3x", "--store", store).stderr
    dry = toolkit("mcp", "forget", "--older-than", "0d", "--dry-run", "--store", store)
    assert "1 items would be forgotten" in dry.stderr and "1 strict items as old are kept" in dry.stderr
    assert toolkit("mcp", "forget", "--older-than", "0d", "--store", store).exit_code == 0
    left = toolkit("mcp", "list", "--store", store).stdout.splitlines()[1:]
    assert {line.split()[2] for line in left} == {"moderate", "strict"}


def test_a_damaged_store_is_named_with_what_to_do(store: Path, tmp_path: Path) -> None:
    healthy = toolkit("mcp", "check", "--store", store)
    assert healthy.exit_code == 0 and "is healthy" in healthy.stderr
    content = bytearray(store.read_bytes())
    content[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    store.write_bytes(content)
    damaged = toolkit("mcp", "check", "--store", store)
    assert damaged.exit_code in (1, 2) and "damaged" in damaged.stderr and "Traceback" not in damaged.stderr
    absent = toolkit("mcp", "check", "--store", tmp_path / "absent.sqlite3")
    assert absent.exit_code == 2 and "no memory here yet" in absent.stderr
    assert not (tmp_path / "absent.sqlite3").exists(), "looking makes no file"


def test_documents_are_ingested_from_the_command_line(home: Path, store: Path) -> None:
    notes = home / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("# Keys\n\nThe blue key opens the archive.\n")
    done = toolkit("mcp", "ingest", notes, "--no-model", "--store", store)
    assert done.exit_code == 0 and "1 added, 0 changed" in done.stderr
    again = toolkit("mcp", "ingest", notes, "--no-model", "--store", store)
    assert "0 added, 0 changed, 1 unchanged" in again.stderr
    found = toolkit("mcp", "search", "blue archive", "--no-model", "--store", store)
    assert "document doc-" in found.stdout and "The blue key" in found.stdout


def test_the_example_policy_is_written_once_and_is_valid(home: Path) -> None:
    path = home / "p.yaml"
    assert toolkit("mcp", "init-policy", path).exit_code == 0
    assert "left as it is" not in toolkit("mcp", "init-policy", home / "q.yaml").stderr
    assert toolkit("mcp", "init-policy", path).exit_code == 2
    from toolkit.mcp_server.policy import Policy

    assert "house-rules" in Policy.load(path).namespaces


@pytest.mark.slow
def test_inspect_starts_the_server_and_shows_what_a_client_sees(store: Path) -> None:
    def inspect(*arguments: str) -> str:
        command = [sys.executable, "-m", "toolkit", "mcp", "inspect", "--no-model", "--store", str(store), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    found = json.loads(inspect("--json"))
    assert found["server"] == "toolkit" and found["protocol"] == "2026-07-28" and len(found["tools"]) == 19
    assert found["health"]["items"] == 3 and found["health"]["model_state"] == "off"
    assert found["prompts"] == ["context_for_task"] and len(found["resources"]) == 3
    table = inspect()
    assert "memory_delete" in table and "may remove or replace" in table


def test_inspecting_a_client_that_does_not_know_the_server_or_a_command_that_is_gone_says_so(home: Path) -> None:
    unknown = toolkit("mcp", "inspect", "--client", "cursor")
    assert unknown.exit_code == 2 and "toolkit mcp install --client cursor" in unknown.stderr
    assert "no such client: curser" in toolkit("mcp", "inspect", "--client", "curser").stderr
    toolkit("mcp", "install", "--client", "cursor", "--no-model")
    path = home / ".cursor" / "mcp.json"
    path.write_text(path.read_text().replace(json.dumps(sys.executable), '"/absent/python"'))
    gone = toolkit("mcp", "inspect", "--client", "cursor")
    assert gone.exit_code == 1 and "/absent/python: the server did not answer" in gone.stderr
