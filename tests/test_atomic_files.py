from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from toolkit.atomic_files import atomic_folder, delete_folder, open_atomic, remove_partials, write_atomic
from toolkit.errors import JobFailed


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(action) -> int:
    """Run `action` in a forked process and return how it ended (minus the signal's number when it was killed)."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_is_written_whole_with_its_text_in_utf_8(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", "Grüße")
    assert (tmp_path / "a.txt").read_bytes() == "Grüße".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), open_atomic(tmp_path / "a.txt") as file:
        file.write(b"new, half writ")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_failed_job_that_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(JobFailed, match=r"a\.txt: the disk is full, nothing was written\. Free some space"):
        write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_takes_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "weights").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_exists_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / name).write_text("")
    assert os.listdir(tmp_path / "model") == ["second"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "first").write_text("")
    with pytest.raises(JobFailed, match="disk is full"), atomic_folder(tmp_path / "model") as folder:
        (folder / "second").write_text("")
        monkeypatch.setattr(os, "fsync", full_disk)
    assert os.listdir(tmp_path / "model") == ["first"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_kill_while_a_folder_is_filled_leaves_only_a_partial_that_the_next_write_removes(tmp_path: Path) -> None:
    def fill_and_die() -> None:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "half").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(fill_and_die) == -signal.SIGKILL
    (leftover,) = os.listdir(tmp_path)
    assert leftover.startswith(".model.") and leftover.endswith(".partial")
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "whole").write_text("")
    assert os.listdir(tmp_path) == ["model"]


def test_the_partials_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.1.partial").write_text("")
    (tmp_path / ".b.1.partial").mkdir()
    remove_partials(tmp_path, "a")
    assert os.listdir(tmp_path) == [".b.1.partial"]


def test_content_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), real_fsync(number))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("replace"), real_replace(old, new))[1])
    write_atomic(tmp_path / "a", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_folder_that_is_being_deleted_has_lost_its_name_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill half-way then leaves nothing that looks complete."""
    folder = tmp_path / "step-000001"
    folder.mkdir()
    (folder / "a").write_text("a")
    deleted = []
    real = shutil.rmtree

    def watch(path: Path, **options: bool) -> None:
        deleted.append((Path(path).name, folder.exists()))
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watch)
    delete_folder(folder)
    assert all(name.endswith(".partial") for name, _ in deleted)
    assert deleted[-1][1] is False
    assert os.listdir(tmp_path) == []
