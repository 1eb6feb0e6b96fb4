"""The built bundles: reproducible, imported and run in isolation, with `.pyc` files, within their maximum sizes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import infra.bundle
from infra.bundle import (
    RECIPES,
    RUNTIME,
    Bundle,
    BundleError,
    build,
    check_imports,
    find_interpreter,
    unpack,
)
from serve.item import Item, encode
from tests.doubles.onnx_writer import regressor

pytestmark = pytest.mark.long

SERVE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import serve.handler
event = {"httpMethod": "GET", "path": "/v1/health", "headers": {}, "requestContext": {"requestId": "r"}}
print(json.dumps(serve.handler.handler(event, None)["statusCode"]))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
SCORE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import score.handler
from score.native import Session, open_runtime
print(Session(open_runtime(), open("model.onnx", "rb").read()).run([("x", "double", [3.0])], 1, "value"))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
ENRICH = """
import json, sys
sys.path.insert(0, sys.argv[1])
import enrich.handler, pyarrow.parquet, pyarrow.csv, pyarrow.json, pyathena.connection, boto3, duckdb
from serve.item import Item, encode
for service in ("s3", "dynamodb", "sqs", "athena", "sts"):
    boto3.client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
print(duckdb.sql("select md5_number_lower('x') > 0").fetchall()[0][0])
print(json.dumps(encode(Item("p", "s", "{}", "o", 1))))
"""


@pytest.fixture(scope="module", params=sorted(RECIPES))
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return build(request.param)


def run_alone(bundle: Bundle, code: str, folder: Path, **env: str) -> list[str]:
    """Run code with only the bundle on the module path."""
    tree = unpack(bundle, folder)
    command = [sys.executable, "-I", "-S", "-c", code, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith('{"_aws"')]


def test_bundle_imports_alone(bundle: Bundle, tmp_path: Path) -> None:
    """Each handler can be imported by an isolated interpreter with only the bundle and the standard library."""
    check_imports(bundle, unpack(bundle, tmp_path))


def test_bundle_without_a_needed_module_is_detected(tmp_path: Path) -> None:
    """The check above fails for a bundle without a library that the handler needs."""
    bundle = build("serve")
    tree = unpack(bundle, tmp_path)
    for path in sorted((tree / "cryptography").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(BundleError, match="cryptography"):
        check_imports(bundle, tree)


def test_serve_bundle_answers_alone(tmp_path: Path) -> None:
    """Serve's bundle handles a request, and has no module of enrich."""
    issuers = json.dumps([{"issuer": "i", "audience": "a", "keys": "ssm:/k/"}])
    env = {"LARDER_TABLE": "t", "LARDER_ISSUERS": issuers, "AWS_REGION": "us-east-1"}
    status, loaded = run_alone(build("serve"), SERVE, tmp_path, **env)
    assert status == "200"
    assert not {"pandas", "pyarrow", "duckdb", "pyathena", "enrich", "boto3", "botocore"} & set(json.loads(loaded))


def test_enrich_bundle_runs_alone(tmp_path: Path) -> None:
    """Enrich's bundle has its readers, engine and clients, and encodes items as serve does."""
    said, item = run_alone(build("enrich"), ENRICH, tmp_path)
    assert said == "True"
    assert json.loads(item) == encode(Item("p", "s", "{}", "o", 1))


def test_score_bundle_runs_a_model_alone(tmp_path: Path) -> None:
    """Score's bundle loads the runtime's library and answers without numpy, the Python API or a module of enrich."""
    (tmp_path / "model.onnx").write_bytes(regressor([2.0], 1.0))
    (answer, loaded) = run_alone(build("score"), SCORE, tmp_path)
    assert answer == "[7.0]"
    assert not {"numpy", "onnxruntime", "enrich", "boto3", "yaml"} & set(json.loads(loaded))
    names = zipfile.ZipFile(build("score").path).namelist()
    assert not [name for name in names if name.startswith("onnxruntime/") and name.endswith((".py", ".pyc"))]
    assert not [name for name in names if name.startswith(("score/dev/", "score/publish/", "enrich/"))]


def test_bundle_is_compiled_and_bounded(bundle: Bundle) -> None:
    """Every module has its `.pyc` file, and the sizes are within the recipe's maximum."""
    archive = zipfile.ZipFile(bundle.path)
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert {(entry.date_time, entry.external_attr) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0o100644 << 16)}
    assert sum(one > other for one, other in itertools.pairwise(map(PurePosixPath, names))) <= 1, (
        "libraries, then our own, each sorted"
    )
    kinds = {archive.read(name)[4:8] for name in names if name.endswith(".pyc")}
    assert kinds == {b"\1\0\0\0"}, "by PEP 552: named by a hash, and never compared with the source"
    modules = [name for name in names if name.endswith(".py")]
    compiled = {name.rpartition("/__pycache__/")[0] for name in names if name.endswith(".pyc")}
    assert modules
    assert {name.rpartition("/")[0] for name in modules} <= compiled
    assert bundle.unzipped < RECIPES[bundle.name].max_bytes
    assert len(names) == len(set(names))


def test_bundle_over_its_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is larger than its maximum is not built."""
    monkeypatch.setitem(RECIPES, "operate", dataclasses.replace(RECIPES["operate"], max_bytes=1000))
    with pytest.raises(BundleError, match=r"operate is 0\.1 MB unzipped, expected less than 0"):
        build("operate", cache=tmp_path)


@pytest.mark.parametrize("there", [True, False], ids=["an interpreter of the runtime's version", "none"])
def test_pyc_are_the_runtimes_or_left_out(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`.pyc` files of another Python are useless: without the right interpreter there are none, with a warning."""
    found = find_interpreter(RUNTIME) if there else None
    if there and not found:
        pytest.skip(f"python{RUNTIME} not found")
    monkeypatch.setattr(infra.bundle, "find_interpreter", lambda _: found)
    names = zipfile.ZipFile(build("operate", "aws-arm64", cache=tmp_path).path).namelist()
    tags = {name.split(".")[-2] for name in names if name.endswith(".pyc")}
    assert tags == ({f"cpython-{RUNTIME.replace('.', '')}"} if there else set())
    monkeypatch.setattr(sys, "argv", ["bundle", "operate"])
    infra.bundle.main()
    assert ("have no .pyc files" in capsys.readouterr().err) is not there


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("operate", "native"),
        pytest.param("serve", "native", marks=pytest.mark.slow),
        pytest.param("serve", "aws-arm64", marks=pytest.mark.slow),
        pytest.param("enrich", "native", marks=pytest.mark.slow),
        pytest.param("enrich", "aws-arm64", marks=pytest.mark.slow),
    ],
)
def test_builds_are_reproducible(name: str, target: str, tmp_path: Path) -> None:
    """Two builds from an empty cache give the same bytes."""
    one, other = (build(name, target, cache=tmp_path / place) for place in ("one", "other"))
    assert one.digest == other.digest, "a source of the bundle changed during the build"
    assert one.path.read_bytes() == other.path.read_bytes()
