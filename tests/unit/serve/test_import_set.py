"""What a cold start imports is pinned: serve imports no more than this, and never what only the writing side needs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
OURS = {"serve", "wire"}
THIRD = {"_cffi_backend", "_openssl", "cryptography"}  # those with _ are parts of the others
# Modules of the standard library that take a millisecond or more and are not needed.
COSTLY = {
    "asyncio", "csv", "ctypes", "dataclasses", "decimal", "difflib", "email", "fractions", "gzip", "html", "http",
    "inspect",
    "multiprocessing", "optparse", "pathlib", "pickle", "platform", "pprint", "queue", "secrets",
    "shutil", "statistics", "subprocess", "tempfile", "unittest", "uuid", "xml",
}  # fmt: skip
NEVER = {
    "awscrt",
    "boto3",
    "botocore",
    "pandas",
    "pyarrow",
    "pyathena",
    "duckdb",
    "numpy",
    "enrich",
    "jwt",
    "orjson",
    "yaml",
    "requests",
}
CODE = """
import sys
before = set(sys.modules)
import {module}
print("\\n".join(set(sys.modules) - before))
"""


def _imported(module: str) -> set[str]:
    code = CODE.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_handler_imports_this_and_no_more() -> None:
    """One library in addition to our two packages; none of the slow modules of the standard library."""
    modules = _imported("serve.handler")
    tops = {module.partition(".")[0] for module in modules}
    assert tops - sys.stdlib_module_names == OURS | THIRD
    assert not tops & NEVER
    assert not tops & COSTLY
    assert "urllib.request" not in modules
    assert not {module for module in modules if module.startswith("serve.dev")}, "kept out of the deployed bundle"
    assert "cryptography.hazmat.primitives.serialization" not in modules, "only PEM needs it"
    assert "cryptography.x509" not in modules


def test_the_bundle_has_no_package_that_the_handler_does_not_import() -> None:
    """What only tests or a laptop need, e.g. PyJWT, is not deployed."""
    asked = re.findall(r"^[a-z].*", (ROOT / "serve/requirements.in").read_text(), re.MULTILINE)
    tops = {module.partition(".")[0] for module in _imported("serve.handler")}
    names = {name.lower() for top, packages in packages_distributions().items() if top in tops for name in packages}
    assert asked
    assert set(asked) <= names


def test_the_shared_contract_imports_only_the_standard_library() -> None:
    """The writer's bundle has `serve.item` and `serve.datasets`, and nothing else of serve."""
    for module in ("serve.item", "serve.datasets"):
        found = _imported(module)
        assert {one for one in found if one.startswith("serve.")} <= {"serve.item", "serve.datasets"}
        assert {one.partition(".")[0] for one in found} - sys.stdlib_module_names == {"serve"}


def test_the_pure_parts_import_no_network_library() -> None:
    """The verifier and everything that decides can be imported without one."""
    for module in (
        "serve.tokens.jwt",
        "serve.access",
        "serve.web.request",
        "serve.web.route",
        "serve.web.respond",
        "serve.web.page",
        "serve.tokens.key_cache",
    ):
        tops = {one.partition(".")[0] for one in _imported(module)}
        assert not tops & {"wire", "awscrt", "socket", "ssl"}, module


def test_importing_reads_no_environment() -> None:
    """The handler can be imported without variables; it reads its datasets and settings at the first event."""
    code = "import serve.handler as h\ntry:\n h.handler({}, None)\nexcept ValueError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={})
    assert "is missing; `./larder bundle serve` makes it" in done.stdout  # the checkout is not a bundle
