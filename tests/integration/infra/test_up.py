"""A user's project on the laptop: from two datasets, a lake and outputs to authenticated GETs; and what is refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.flights.http import get
from infra.bundle import ROOT

CODE = """import sys
from pathlib import Path
from infra.local.up import main
sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"""
DATASET = """from datetime import timedelta

from enrich.datasets import Dataset, LastModified, Member, Metadata, Served, Source

d = Dataset(
    served=Served(name="{name}", subject=("customer",), scope="{name}:read"),
    about="x",
    source=Source(prefix="{name}/", format="{format}", columns={{"customer": "varchar", "sku": "varchar"}}),
    as_of=LastModified(),
    ttl=timedelta(days=7),
    metadata={{"m": Metadata("select {key}, name from {table}", on="{key}", missing="null")}},
    subject={{"customer": "customer"}},
    prediction_id="sku",
    body={{"sku": "sku", "name": "m.name"}},
    members={{"name": Member("x", "y")}},
)
"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def start(project: Path, work: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "LARDER_PROJECT": str(project), "PYTHONPATH": str(ROOT)}
    with (project / "said").open("wb") as said:
        command = [sys.executable, "-P", "-c", CODE, str(work), *words]
        return subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two datasets, CSV and JSON lines, whose metadata is in two databases."""
    folder = tmp_path / "project"
    churn = DATASET.format(name="churn", format="csv", key="customer", table="crm.people")
    put(folder / "datasets/churn.py", churn)
    put(folder / "datasets/recs.py", DATASET.format(name="recs", format="jsonl", key="sku", table="shop.products"))
    put(folder / "lake/crm/people.jsonl", '{"customer": "c 1", "name": "Ann"}\n')
    put(folder / "lake/shop/products/1.csv", "sku,name\n007,Tea\n")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    wheels = ROOT / ".larder" / "bundles" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (tmp_path / "work" / "bundles").mkdir(parents=True)
    (tmp_path / "work" / "bundles" / "wheels").symlink_to(wheels)
    return tmp_path / "work"


def test_from_files_to_requests(project: Path, work: Path) -> None:
    """Outputs become answers; a broken dataset leaves the former, a sound one is deployed; SIGTERM ends all."""
    put(project / "outputs/churn/1.csv", "customer,sku\nc 1,a\n")
    put(project / "outputs/recs/1.jsonl", '{"customer": "c 1", "sku": "007"}\n')
    process = start(project, work, "--port", "0")

    def wait(is_there: Callable[[str], object]) -> str:
        deadline = time.monotonic() + 60
        while not is_there(text := (project / "said").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return text

    try:
        text = wait(lambda text: text.count("\ncurl ") == 2)
        names = {}
        for path, url in re.findall(r"^curl .*\$\(cat (\S+)\)\" '(\S+)'", text, re.MULTILINE):
            assert get(url, None).status == 401
            names[Path(path).name] = get(url, Path(path).read_text()).json()["items"][0]["body"]["name"]
        assert names == {"churn": "Ann", "recs": "Tea"}
        (docs,) = re.findall(r"documentation at (http://\S+)/docs", text)
        assert get(f"{docs}/docs/", None).status == 200
        sound = (project / "datasets/churn.py").read_text()
        put(project / "datasets/churn.py", "import no_such_module\n")
        assert "there is no module 'no_such_module'" in wait(lambda text: "previous datasets stay" in text)
        put(project / "datasets/churn.py", sound.replace('"sku": "sku"', '"product": "sku"'))
        wait(lambda text: "churn.py changed: deployed churn, recs" in text)
        put(project / "outputs/churn/2.csv", "customer,sku\nc 1,b\n")
        wait(lambda text: "churn/2.csv: done" in text)
        text = wait(lambda text: "\ncurl " in text.partition("changed: deployed")[2])
        url = text.rpartition("/churn?")[0].rpartition("'")[2]
        assert get(f"{url}/churn/b", (work / "tokens/churn").read_text()).json() == {"product": "b", "name": "Ann"}
        again = start(project, work)
        assert again.wait(20) == 1
        assert "another `up` of this checkout runs already" in (project / "said").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert not (work / "running.json").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(docs.rpartition(":")[2])), 1)


def test_what_is_refused_before_anything_starts(project: Path, work: Path) -> None:
    """A port in use, a file that does not parse, a broken lake: the message, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert start(project, work, "--port", str(port)).wait(30) == 1
        assert f"port {port} of 127.0.0.1" in (project / "said").read_text()
    put(project / "lake/shop/products.parquet", "no")
    assert start(project, work, "--port", "0").wait(30) == 1
    assert "are both the table shop.products" in (project / "said").read_text()
    put(project / "datasets/churn.py", "d = (\n")
    assert start(project, work, "--port", "0").wait(30) == 1
    assert "churn.py:1" in (project / "said").read_text()
