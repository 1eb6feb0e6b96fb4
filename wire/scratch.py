"""Folders for temporary files that do not outlast their process: if it is killed, the next one deletes its folder."""

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

_OF_A_PROCESS = "larder-scratch-"
_RANDOM = "?" * 8  # as many characters as `mkdtemp` appends


def open_scratch(place: Path | None = None) -> Path:
    """Return the folder of this process; a forked one has its own.

    Args:
        place: the folder that has it; None: the system's folder for temporary files.

    Raises:
        OSError: the disk is full.
    """
    return _open(os.getpid(), place or Path(tempfile.gettempdir()))


@cache
def _open(process: int, place: Path) -> Path:
    folder, _ = create_folder(place, _OF_A_PROCESS)  # locked until the process ends
    atexit.register(_delete, folder, process)
    return folder


def _delete(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork, which inherits what is registered
        shutil.rmtree(folder, ignore_errors=True)


def create_folder(place: Path, prefix: str) -> tuple[Path, int]:
    """Create a locked folder, and delete those of processes that were killed: a system ends the locks of a process.

    Forked processes inherit the lock: the folder is in use until the last one of them has ended.

    Args:
        place: the folder that has it.
        prefix: how its name begins; of folders with this prefix only.

    Returns:
        the folder, and the file descriptor that locks it.

    Raises:
        OSError: the disk is full.
    """
    for other in place.glob(f"{prefix}{_RANDOM}"):
        _delete_if_abandoned(other)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        with suppress(FileNotFoundError):
            lock = _open_folder(folder)
            with suppress(OSError):  # a file system without locks: no process can take one, so none deletes it
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():  # between the two calls it has no lock, so that another process can have deleted it
                return folder, lock
            os.close(lock)


def _delete_if_abandoned(folder: Path) -> None:
    with suppress(OSError):  # it is in use, another user's, no folder, or gone
        lock = _open_folder(folder)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
