"""constraints.txt has the versions of the locks, so that the tested versions are the deployed ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# packages that are deployed
LOCKS = ("enrich/requirements.txt", "serve/requirements.txt", "score/requirements.txt", "server/requirements.txt")
ALL = (*LOCKS, "docs/requirements.txt", "examples/requirements.txt")


def pins(name: str) -> dict[str, str]:
    """Return the version of each package that a file pins."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)( ; python)?", (ROOT / name).read_text(), re.MULTILINE)
    found = {re.sub(r"[-_.]+", "-", package).lower(): version for package, version, _ in lines}
    twice = len(lines) - len(found)
    assert sum(bool(marker) for _, _, marker in lines) >= 2 * twice, f"{name} names a package twice for one Python"
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_constraints_have_the_locked_versions(lock: str) -> None:
    """Each package of a bundle is installed for the tests in the version of the bundle."""
    constraints = pins("constraints.txt")
    assert pins(lock).items() - constraints.items() == set(), f"constraints.txt is not of {lock}"


def test_constraints_have_nothing_else() -> None:
    """constraints.txt has no package that is not in a lock."""
    assert set(pins("constraints.txt")) == {package for lock in LOCKS for package in pins(lock)}


def test_the_demo_has_the_deployed_versions() -> None:
    """The demo runs what is deployed, without the tools of the tests."""
    demo, deployed = pins("examples/requirements.txt"), pins("constraints.txt")
    assert {name: demo[name] for name in deployed} == deployed
    assert not demo.keys() & {"moto", "mypy", "pytest", "ruff", "schemathesis", "selenium", "cfn-lint", "hypothesis"}


@pytest.mark.parametrize("lock", ALL)
def test_every_locked_package_has_its_hashes(lock: str) -> None:
    """With a hash for each package, pip refuses any other file."""
    text = (ROOT / lock).read_text()
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert entry.startswith("#") or "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("lock", ALL)
def test_requirements_are_locked(lock: str) -> None:
    """Each package of the .in file is in the lock, with the version that is pinned there."""
    asked = re.findall(r"^([A-Za-z0-9._-]+)(?:==(\S+))?$", (ROOT / lock).with_suffix(".in").read_text(), re.MULTILINE)
    locked = pins(lock)
    assert asked
    for package, version in asked:
        assert package in locked
        assert version in ("", locked[package])


def test_the_runtime_is_one_that_starts_on_lambda() -> None:
    """ONNX Runtime below 1.26 aborts on arm64 where there is no /sys/devices/system/cpu, as on Lambda."""
    major, minor, *_ = pins("score/requirements.txt")["onnxruntime"].split(".")
    assert (int(major), int(minor)) >= (1, 26)
