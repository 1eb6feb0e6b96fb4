"""What a cold start imports is pinned: serve imports no more than this, and never what only the writing side needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path

from serve.item import Item, encode
from tests.unit.serve.kit import AUDIENCE, ISSUER, claims, jwks, public_jwk, sign
from tests.unit.wire.faulty_server import FaultyServer, answer

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


FIRST_GET = """
import sys
before = set(sys.modules)
import json, os
from serve.datasets import Served
from serve.handler import build_dependencies, build_handler
served = {"flight-delays": Served("flight-delays", ("carrier",), None)}
event = {"httpMethod": "GET", "path": "/v1/flight-delays/a", "requestContext": {"requestId": "r"},
         "headers": {"Authorization": "Bearer " + os.environ["TOKEN"]}}
found = build_handler(build_dependencies(os.environ, served, lambda line: None))(event, None)
assert found["statusCode"] == 200, found
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


def test_a_first_get_imports_these_modules_and_no_others() -> None:
    """With keys in Parameter Store, as deployed. Over TLS it imports `ssl` and `_ssl`, too.

    A cold start pays for each module, so a new one must be worth its time (docs/decisions/cold-start.md). Add it then
    to `first-get.txt`. Modules of the standard library are those of Python 3.11 to 3.13, none of which needs them all.
    """
    item = Item("flight-delays#B6", "a", "{}", "0001.1700000000000.00000001", 4_000_000_000)
    parameters = {"Parameters": [{"Name": "/keys/jwks.json", "Value": jwks(public_jwk("RS256"))}]}
    answers = [answer(body=json.dumps(one).encode()) for one in (parameters, {"Item": encode(item)})]
    with FaultyServer(*answers) as server:
        issuer = {"issuer": ISSUER, "audience": AUDIENCE, "keys": "ssm:/keys/"}
        env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x", "LARDER_TABLE": "ready", "LARDER_ISSUERS": json.dumps([issuer]),
            "TOKEN": sign(claims(iat=int(time.time()), exp=int(time.time()) + 600)),
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", FIRST_GET], cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found, known = set(done.stdout.split()), set((Path(__file__).parent / "first-get.txt").read_text().split())
    assert found <= known
    assert {module for module in known - found if module.partition(".")[0] in OURS | THIRD} == set()


def test_the_bundle_has_no_package_that_the_handler_does_not_import() -> None:
    """What only tests or a laptop need, e.g. PyJWT, is not deployed. orjson is imported for the first large page."""
    asked = re.findall(r"^[a-z].*", (ROOT / "serve/requirements.in").read_text(), re.MULTILINE)
    tops = {module.partition(".")[0] for module in _imported("serve.handler")}
    names = {name.lower() for top, packages in packages_distributions().items() if top in tops for name in packages}
    assert asked
    assert set(asked) <= names | {"orjson"}
    assert "import orjson" in (ROOT / "serve/storage.py").read_text()


def test_the_shared_contract_imports_only_the_standard_library() -> None:
    """The writer's bundle has `serve.item` and `serve.datasets`, and nothing else of serve."""
    for module in ("serve.item", "serve.datasets"):
        found = _imported(module)
        assert {one for one in found if one.startswith("serve.")} <= {"serve.item", "serve.datasets"}
        assert {one.partition(".")[0] for one in found} - sys.stdlib_module_names == {"serve"}


def test_no_annotation_is_parsed_when_a_module_is_imported() -> None:
    """With `from __future__ import annotations`, each NamedTuple compiles the text of its annotations: 3 ms in all."""
    for module in [*(ROOT / "serve").rglob("*.py"), *(ROOT / "wire").rglob("*.py")]:
        assert "from __future__" not in module.read_text(), module


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
