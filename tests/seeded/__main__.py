"""Put faults into the deployed files, one at a time, and see whether a cheap check finds each.

    python -m tests.seeded                       # every fault of faults.yaml; prints those that no check noticed
    python -m tests.seeded infra/template.yaml "PITR"   # those of a file, or with a text in their name
    python -m tests.seeded --list

Each fault replaces a text that occurs exactly once in its file, in a copy of the checkout. Files that are generated
from it are generated again, since other tests find stale files. Then the checks of CHECKS run until one fails. The exit
code is 1 if no check found some fault.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
PYTEST = ("pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider")
# Without the tests of tests/unit/infra/faults.yaml: they would fail because a fault of it no longer applies.
NOT_SEEDS = "not seeded_fault and not seed and not anchor"
WRITERS = {
    "infra.environments": ("samconfig.toml", "infra/discovery-bucket.yaml"),
    "infra.gateway": ("infra/gateway.yaml",),
}
GENERATED = {  # file -> the module that writes what is generated from it (infra.gateway would rewrite openapi.yaml)
    "infra/environments.py": "infra.environments",
    "infra/discovery_bucket.py": "infra.environments",
}
NEAREST = {  # file -> its tests, which run first
    "openapi.yaml": ("tests/contract/test_own_datasets.py",),
    "examples/flights/openapi.yaml": (
        "tests/contract/serve/test_contract_and_code.py",
        "tests/contract/serve/test_openapi_document.py",
    ),
    "examples/flights/infra/environments.yaml": (
        "tests/unit/infra/test_environments.py",
        "tests/unit/infra/test_discovery.py",
    ),
    "infra/environments.py": ("tests/unit/infra/test_environments.py",),
    "infra/discovery.py": ("tests/unit/infra/test_discovery.py", "tests/unit/infra/test_discovery_bucket.py"),
    "infra/discovery_bucket.py": ("tests/unit/infra/test_discovery_bucket.py",),
    "infra/bundle.py": ("tests/unit/infra/test_bundle_recipes.py",),
    "infra/trim.py": ("tests/unit/infra/test_bundle_recipes.py",),
    "infra/synthetic.py": ("tests/unit/infra/test_synthetic_check.py",),
    "infra/enrich.Dockerfile": ("tests/unit/infra/test_bundle_recipes.py",),
}
CHECKS: dict[str, tuple[str, ...]] = {  # cheapest first
    "rules": (*PYTEST, "tests/unit/infra/test_template_rules.py", "-k", "committed_template"),
    "unit": (*PYTEST, "tests/unit/infra", "tests/unit/test_documents.py", "-k", NOT_SEEDS),
    "contract": (*PYTEST, *NEAREST["examples/flights/openapi.yaml"],
        "tests/contract/test_own_datasets.py",
                 "tests/contract/serve/test_answers_conform.py", "tests/contract/enrich"),
    "lint": ("infra.lint",),
}  # fmt: skip


class Fault(NamedTuple):
    """A fault: its name, and the text in a file that another one replaces."""

    name: str
    file: str
    old: str
    new: str


class AnchorError(Exception):
    """A fault does not apply: its text does not occur exactly once in its file."""


def read_faults() -> Iterator[Fault]:
    """Read the list of faults."""
    for file, cases in yaml.safe_load(Path(__file__).with_name("faults.yaml").read_text()).items():
        for case in cases:
            yield Fault(case["fault"], file, case["old"], case["new"])


def apply(fault: Fault, root: Path) -> str:
    """Put a fault into a checkout, and return the file's text before.

    Raises:
        AnchorError: its text is not there exactly once.
    """
    path = root / fault.file
    before = path.read_text()
    if (count := before.count(fault.old)) != 1:
        raise AnchorError(f"{fault.file}: {fault.name}: its text is there {count} times, not once: {fault.old!r}")
    path.write_text(before.replace(fault.old, fault.new))
    return before


def notice(fault: Fault, root: Path) -> str:
    """Return the first check that notices a fault, or an empty text; then restore the checkout."""
    module = GENERATED.get(fault.file)
    others = {root / path: (root / path).read_text() for paths in WRITERS.values() for path in paths}
    before = apply(fault, root)
    try:
        if module and _fails((module,), root):
            return module
        nearest = {"nearest": (*PYTEST, *NEAREST[fault.file])} if fault.file in NEAREST else {}
        return next((name for name, command in {**nearest, **CHECKS}.items() if _fails(command, root)), "")
    finally:
        (root / fault.file).write_text(before)
        for path, text in others.items():
            path.write_text(text)


def _fails(command: Sequence[str], root: Path) -> bool:
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "0"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=root, env=env, capture_output=True, text=True)
    # 2: a module could not be imported, because it reads the file with the fault
    if "pytest" in command and done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode != 0


def _copy(place: Path) -> Path:
    """Copy the checkout without what is ignored; installed tools are shared."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    (ROOT / ".larder").mkdir(exist_ok=True)
    (place / ".larder").symlink_to(ROOT / ".larder")
    return place


def main() -> None:
    """Run the faults that were requested, and print those that no check noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.seeded", description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", metavar="FILE|TEXT", help="faults of a file, or with a text in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    faults = [
        one
        for one in read_faults()
        if not options.only or any(word in (one.file, one.name) or word in one.name for word in options.only)
    ]
    if options.list:
        print("\n".join(f"{one.file}: {one.name}" for one in faults))
        return
    unseen = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(options.jobs):
            (place := Path(folder) / str(number)).mkdir()
            copies.put(_copy(place))
        if noticed := next((name for name, command in CHECKS.items() if _fails(command, copies.queue[0])), ""):
            sys.exit(f"the check {noticed} fails without a fault")

        def run(fault: Fault) -> tuple[Fault, str, float]:
            place, started = copies.get(), time.monotonic()
            try:
                return fault, notice(fault, place), time.monotonic() - started
            finally:
                copies.put(place)

        for fault, noticed, seconds in pool.map(run, faults):
            print(f"{noticed or 'NOT NOTICED':12} {seconds:4.0f} s  {fault.file}: {fault.name}", flush=True)
            if not noticed:
                unseen.append(fault)
    print(f"{len(faults) - len(unseen)} of {len(faults)} faults were noticed")
    for fault in unseen:
        print(f"NOT NOTICED: {fault.file}: {fault.name}: {fault.old!r} -> {fault.new!r}")
    sys.exit(bool(unseen))


if __name__ == "__main__":
    main()
