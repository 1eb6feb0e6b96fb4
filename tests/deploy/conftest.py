"""A release of the example's project, built once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.release import build_release, write_release


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a release whose bundles run on this machine."""
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, build_release("native"))
    return folder
