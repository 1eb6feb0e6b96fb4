"""Unpack Larder's files if they were sent as an archive: a dataset's file can't be imported from an archive."""

from __future__ import annotations

import os
import sys
import zipfile
from functools import cache
from pathlib import Path

from wire.scratch import open_scratch


@cache
def unpack() -> None:
    """Set LARDER_PROJECT to a folder with the files of the archive that this module is in, if it is in one."""
    archive = next((path for path in Path(__file__).parents if path.is_file()), None)
    if archive is None or os.environ.get("LARDER_PROJECT"):
        return
    folder = str(open_scratch() / "code")
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    os.environ["LARDER_PROJECT"] = folder
    sys.path.append(folder)
