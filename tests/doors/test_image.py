"""The images build, start as the manifests start them, answer, and end; their size and content are known."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doors.image import build_image, find_missing, read_size, run_image, unpack_image
from tests.doors.kit import ROOT, Storage, ask, build_env, live, token, wait_for
from tests.unit.infra.test_requirement_locks import pins
from tests.unit.score.kit import VIRGINICA

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(find_missing()), reason=find_missing() or "-")]
SBOM = ROOT / ".larder" / "images"
MEGABYTES = {"serve": 70, "score": 110}  # on top of the base
# The definition of the version that `Storage` has.
IRIS = """from score.models import Model, Number

names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
iris = Model(
    name="iris", subject=("sub",), scope="iris:score", task="classification", about="The species of an iris",
    features={name: Number(low=0, high=30) for name in names}, forms=("bare",), decimals=4,
)
"""


@pytest.fixture(scope="module", params=["serve", "score"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The image of a function, unpacked: of a copy of the project that has the example's dataset and model."""
    folder = tmp_path_factory.mktemp("image")
    context = folder / "project"
    kept = re.findall(r"^!([\w/.]+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for name in [one for one in kept if (ROOT / one).exists()]:
        place = context / name
        place.parent.mkdir(parents=True, exist_ok=True)
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place)
    shutil.rmtree(context / "datasets")
    shutil.copytree(ROOT / "examples/flights/datasets", context / "datasets")
    (context / "models").mkdir(exist_ok=True)
    (context / "models/iris.py").write_text(IRIS)
    name = build_image(request.param, context)
    return request.param, unpack_image(name, folder)


def test_it_runs_as_in_a_cluster(image: tuple[str, Path], tmp_path: Path) -> None:
    """Another user, a read-only root, 16 MB of /tmp: a request, probes, metrics, and status 0 after SIGTERM."""
    function, bundle = image
    storage = Storage(live("a", '{"x":1}'))
    env = build_env(storage, tmp_path, LARDER_DRAIN_SECONDS="1")
    env = {name: value for name, value in env.items() if name.startswith(("AWS", "LARDER"))}
    (tmp_path / "keys.json").chmod(0o644)
    env["LARDER_ISSUERS"] = env["LARDER_ISSUERS"].replace(str(tmp_path), "/keys")
    (tmp_path / "keys").mkdir()
    shutil.copy(tmp_path / "keys.json", tmp_path / "keys")
    log = tmp_path / "log"
    good = {"Authorization": f"Bearer {token()}", "Content-Type": "application/json"}
    with run_image(bundle, env, {tmp_path / "keys": "/keys"}, log) as running:
        wait_for(_is_ready, running, log, 60)
        if function == "serve":
            assert ask(8080, "GET", "/v1/flight-delays/a", good)[::2] == (200, b'{"x":1}')
        else:
            status, _, body = ask(8080, "POST", "/v1/models/iris/score", good, json.dumps(VIRGINICA).encode())
            assert (status, json.loads(body)["prediction"]["label"]) == (200, "virginica")
        # It counts the log line, which is written a moment after the answer.
        wait_for(lambda: b"larder_requests_total" in ask(9090, "GET", "/metrics")[2], running, log)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert json.loads(ask(8080, "GET", "/readyz")[2])["reason"] == "draining"
        assert running.wait(20) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line.get("event") for line in lines if line.get("level") == "ERROR"} == set(), log.read_text()
    storage.close()


def _is_ready() -> bool:
    try:
        return ask(8080, "GET", "/readyz")[0] == 200
    except OSError:
        return False


def test_its_packages_are_those_of_the_locks(image: tuple[str, Path]) -> None:
    """The list of what is in it (SBOM) has the locked versions and nothing else; nothing of the laptop's is there."""
    function, bundle = image
    app = bundle / "rootfs/app"
    command = [sys.executable, "-m", "pip", "inspect", "--path", str(app)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (SBOM / f"{function}.sbom.json").write_text(done.stdout)
    found = {
        one["metadata"]["name"].lower(): one["metadata"]["version"] for one in json.loads(done.stdout)["installed"]
    }
    locked = pins(f"{function}/requirements.txt") | pins("server/requirements.txt")
    assert {name.replace("_", "-"): version for name, version in found.items()} == locked
    ours = {path.name for path in app.iterdir() if (path / "__init__.py").exists()} & {
        path.name for path in ROOT.iterdir() if path.is_dir()
    }
    assert ours == {"serve", "server", "wire"} | ({"score"} if function == "score" else set())
    assert not list(app.rglob("dev"))
    assert list((app / "botocore/data/sts").rglob("service-2.json*")), "IRSA needs it"
    assert {path.name for path in (app / "serve").glob("*.json")} == {"datasets.json"}


def test_its_size_is_bounded(image: tuple[str, Path]) -> None:
    """Printed, and bounded: what is on top of the base."""
    function, bundle = image
    size = sum(path.stat().st_size for path in (bundle / "rootfs/app").rglob("*") if path.is_file()) / 1e6
    print(f"larder-{function}: {read_size(f'larder-{function}') / 1e6:.0f} MB with its base, {size:.0f} MB of it ours")
    assert size < MEGABYTES[function]
