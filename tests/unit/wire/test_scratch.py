"""Folders for temporary files: of a process that lives, that ended, that was killed; and what is none of ours."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wire import scratch
from wire.scratch import create_folder

PREFIX = "larder-scratch-"
WORK = """
import os, signal, sys
from wire.scratch import open_scratch
folder = open_scratch()
assert open_scratch() is folder
(folder / "spill").mkdir()
(folder / "spill" / "rows").write_bytes(b"rows")
print(folder, flush=True)
"""
WAIT = "sys.stdin.read()\n"
FORK = """
child = os.fork()
if not child:
    own = open_scratch()
    assert own != folder and own.is_dir() and folder.is_dir()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert (folder / "spill" / "rows").exists()
"""


def start(place: Path, then: str = "") -> subprocess.Popen[str]:
    """Start a process that works in its folder below a place."""
    command = [sys.executable, "-c", WORK + then]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "TMPDIR": str(place)}, **pipes)


def work(place: Path, then: str = "") -> int:
    """Run such a process to its end; return its exit code."""
    with start(place, then) as process:
        process.communicate()
    return process.returncode


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_a_process_leaves_nothing(tmp_path: Path) -> None:
    """Its folder is deleted when it ends; a forked process has a folder of its own, and leaves its parent's."""
    assert work(tmp_path) == 0
    assert names(tmp_path) == set()
    assert work(tmp_path, FORK) == 0
    assert names(tmp_path) == set()


def test_the_next_process_deletes_what_a_killed_one_left(tmp_path: Path) -> None:
    """The folder of a process that lives stays, also if many start at the same time."""
    assert work(tmp_path, "os._exit(9)") == 9
    assert work(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") == -9
    assert len(names(tmp_path)) == 1  # the second one has deleted that of the first
    with start(tmp_path, WAIT) as living:
        assert living.stdout
        folder = Path(living.stdout.readline().strip())
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: work(tmp_path), range(8))) == [0] * 8
        assert names(tmp_path) == {folder.name}
        assert (folder / "spill" / "rows").read_bytes() == b"rows"
        living.communicate()
    assert names(tmp_path) == set()


def test_only_abandoned_folders_are_deleted(tmp_path: Path) -> None:
    """Not one in use, not the target of a link, no file, and nothing with another name."""
    living, lock = create_folder(tmp_path, PREFIX)
    killed, dead = create_folder(tmp_path, PREFIX)
    (killed / "counter_1.db").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (killed / "inside").symlink_to(elsewhere)
    os.close(dead)
    (tmp_path / f"{PREFIX}linklink").symlink_to(elsewhere)
    (tmp_path / f"{PREFIX}filefile").touch()
    os.mkfifo(tmp_path / f"{PREFIX}pipepipe")
    others = [f"{PREFIX}of-a-person", "larder-server-abcdefgh", "larder-scratch", "larder-aws-abcdefgh"]
    for name in others:
        (tmp_path / name).mkdir()
    found, own = create_folder(tmp_path, PREFIX)
    kept = {f"{PREFIX}{name}" for name in ("linklink", "filefile", "pipepipe")} | {*others, "elsewhere"}
    assert names(tmp_path) == kept | {living.name, found.name}
    assert (elsewhere / "file").exists()
    os.close(lock)
    os.close(own)


def test_a_folder_of_another_user_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by root, which is allowed to."""
    killed, dead = create_folder(tmp_path, PREFIX)
    os.close(dead)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    _, lock = create_folder(tmp_path, PREFIX)
    assert killed.exists()
    os.close(lock)


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_is_deleted_before_it_is_locked_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another process that starts at the same time sees a folder without a lock."""
    victims: list[Path] = []
    calls: dict[str, Any] = {"_open_folder": scratch._open_folder, "fcntl.flock": fcntl.flock}
    name = "_open_folder" if when == "before it is opened" else "fcntl.flock"

    def delete_first(*arguments: Any) -> Any:
        if not victims:
            victims.extend(tmp_path.iterdir())
            shutil.rmtree(victims[0])
        return calls[name](*arguments)

    monkeypatch.setattr(f"wire.scratch.{name}", delete_first)
    folder, lock = create_folder(tmp_path, PREFIX)
    assert folder.is_dir()
    assert folder not in victims
    os.close(lock)


def test_a_file_system_without_locks_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder can be locked there, so none is deleted."""

    def refuse(*_: Any) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("wire.scratch.fcntl.flock", refuse)
    first, _ = create_folder(tmp_path, PREFIX)
    second, _ = create_folder(tmp_path, PREFIX)
    assert names(tmp_path) == {first.name, second.name}
