"""The folder that the processes of a server share."""

from __future__ import annotations

import os
from pathlib import Path

from server.run import create_folder


def test_the_folder_of_a_killed_server_is_deleted(tmp_path: Path) -> None:
    """One of a server that runs stays, and so does what is no folder of a server."""
    running, lock = create_folder(tmp_path)
    killed, dead = create_folder(tmp_path)
    (killed / "counter_1.db").touch()
    os.close(dead)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "larder-server-link").symlink_to(elsewhere)
    found, own = create_folder(tmp_path)
    assert {one for one in (running, killed, found, elsewhere) if one.exists()} == {running, found, elsewhere}
    os.close(lock)
    os.close(own)
