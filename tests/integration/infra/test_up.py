"""A user's project on the laptop: from two datasets, a lake and outputs to authenticated GETs; and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.flights.http import get
from infra.bundle import ROOT

pytestmark = pytest.mark.long

PATIENCE = 240.0  # seconds, for a busy machine

CODE = """import sys
from pathlib import Path
from infra.local.up import main
sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"""
DATASET = """from datetime import timedelta

from enrich.datasets import Dataset, LastModified, Member, Metadata, Served, Source

d = Dataset(
    served=Served(name="{name}", subject=("customer",), scope="{name}:read"),
    about="x",
    source=Source(
        prefix="{name}/", format="{format}", marker={marker}, columns={{"customer": "varchar", "sku": "varchar"}}
    ),
    as_of=LastModified(),
    ttl=timedelta(days=7),
    metadata={{"m": Metadata("select {key}, name from {table}", on="{key}", missing="null")}},
    subject={{"customer": "customer"}},
    prediction_id="sku",
    body={{"sku": "sku", "name": "m.name"}},
    members={{"name": Member("x", "y")}},
)
"""

# Each element of a list is joined, and keeps its index.
RECS = """from datetime import timedelta

from enrich.datasets import Dataset, LastModified, Metadata, Served, Source

d = Dataset(
    served=Served(name="recs", subject=("customer",), scope="recs:read"),
    about="x",
    source=Source(
        prefix="recs/",
        format="jsonl",
        columns={"customer": "varchar", "slot": "integer", "items": "struct(sku varchar, score double)[]"},
    ),
    as_of=LastModified(),
    ttl=timedelta(days=7),
    metadata={
        "products": Metadata(
            "select sku, cast(name as varchar) as name from shop.products",
            on={"items.sku": "sku"},
            each="items",
            missing="null",
        )
    },
    subject={"customer": "customer"},
    prediction_id="cast(slot as varchar)",
    body={"items": "[{'sku': item.sku, 'name': products[i].name} for item, i in items]"},
)
"""


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def start(project: Path, work: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "LARDER_PROJECT": str(project), "PYTHONPATH": str(ROOT)}
    with (project / "said").open("wb") as said:
        command = [sys.executable, "-P", "-c", CODE, str(work), *words]
        return subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three datasets, one of each format, whose metadata is in two databases."""
    folder = tmp_path / "project"
    for name, kind, key, table, marker in (
        ("churn", "csv", "customer", "crm.people", None),
        ("stock", "parquet", "sku", "shop.products", "_SUCCESS"),
    ):
        text = DATASET.format(name=name, format=kind, key=key, table=table, marker=repr(marker))
        put(folder / f"datasets/{name}.py", text)
    put(folder / "datasets/recs.py", RECS)
    put(folder / "lake/crm/people.jsonl", '{"customer": "c 1", "name": "Ann"}\n')
    put(folder / "lake/shop/products/country=NO/1.csv.gz", gzip.compress(b"sku,name\n007,Tea\n008,Jam\n"))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    wheels = ROOT / ".larder" / "bundles" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (tmp_path / "work" / "bundles").mkdir(parents=True)
    (tmp_path / "work" / "bundles" / "wheels").symlink_to(wheels)
    return tmp_path / "work"


def wait(project: Path, process: subprocess.Popen[bytes], is_there: Callable[[str], object]) -> str:
    """Wait until the process has printed something; return the output."""
    deadline = time.monotonic() + PATIENCE
    while not is_there(text := (project / "said").read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return text


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End the process with a signal; its exit status must show it, and none of its processes can be left."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


def test_from_files_to_requests(project: Path, work: Path) -> None:
    """Outputs of each format are served; invalid files are named; a changed dataset or lake is used; Ctrl-C ends it."""
    outputs = project / "outputs"
    put(outputs / "churn/1.csv", "customer,sku\nc 1,a\n")
    items = [{"sku": sku, "score": 1.0} for sku in ("008", "none", "007", "008")]
    put(outputs / "recs/1.jsonl.gz", gzip.compress(json.dumps({"customer": "c 1", "slot": 1, "items": items}).encode()))
    pq.write_table(pa.table({"customer": ["c 1"], "sku": ["007"]}), put(outputs / "stock/a/part-0", ""))
    put(outputs / "stock/a/_SUCCESS", "")
    put(outputs / "other/1.csv", "a\n1\n")
    put(Path(os.fsdecode(bytes(outputs) + b"/churn/\xff.csv")), "customer,sku\nc 1,a\n")
    process = start(project, work, "--port", "0")
    try:
        text = wait(project, process, lambda text: text.count("\ncurl ") == 3)
        bodies = {}
        for path, url in re.findall(r"^curl .*\$\(cat (\S+)\)\" '(\S+)'", text, re.MULTILINE):
            assert get(url, None).status == 401
            (one,) = get(url, Path(path).read_text()).json()["items"]
            bodies[Path(path).name] = one["body"]
        recommended = [("008", "Jam"), ("none", None), ("007", "Tea"), ("008", "Jam")]
        assert bodies == {
            "churn": {"sku": "a", "name": "Ann"},
            "recs": {"items": [{"sku": sku, "name": name} for sku, name in recommended]},
            "stock": {"sku": "007", "name": "Tea"},
        }
        assert "uploaded stock/a/part-0; its run starts when _SUCCESS is uploaded" in text
        known = "churn/ (churn), recs/ (recs), stock/ (stock)"
        assert f"other/1.csv: not uploaded: it is under the prefix of no dataset; move it into one of {known}" in text
        assert r"churn/\udcff.csv: not uploaded: its name has bytes that are not UTF-8" in text
        (docs,) = re.findall(r"documentation at (http://\S+)/docs", text)
        assert get(f"{docs}/docs/", None).status == 200

        sound = (project / "datasets/churn.py").read_text()
        put(project / "datasets/churn.py", "d = (\n")
        wait(project, process, lambda text: "churn.py: not deployed; the previous datasets stay in use:\n" in text)
        assert get(url, Path(path).read_text()).status == 200
        put(project / "lake/crm/people.jsonl", "{")
        wait(project, process, lambda text: "people.jsonl: not loaded; the previous tables stay in use:\n" in text)
        put(project / "lake/crm/people.jsonl", '{"customer": "c 1", "name": "Bo"}\n')
        wait(project, process, lambda text: "people.jsonl changed: loaded lake/" in text)
        changed = sound.replace('"sku": "sku"', '"product": "sku"').replace("churn/", "other/")
        put(project / "datasets/churn.py", changed)
        wait(project, process, lambda text: "churn.py changed: deployed churn, recs, stock" in text)
        text = wait(
            project, process, lambda text: "other/1.csv: failed: " in text
        )  # accepted now: churn's prefix is other/
        assert "1.csv: not uploaded" not in text.partition("changed: deployed")[2]
        put(outputs / "other/2.csv", "customer,sku\nc 1,b\n")
        wait(project, process, lambda text: "other/2.csv: done" in text)
        running = json.loads((work / "running.json").read_text())
        base_url = f"{running['AWS_ENDPOINT_URL']}/_aws/execute-api/{running['LARDER_API']}/live/v1"
        answer = get(f"{base_url}/churn/b", (work / "tokens/churn").read_text())
        assert answer.json() == {"product": "b", "name": "Bo"}

        said = (project / "said").read_text()
        assert said.count("not uploaded") == 2, "once for each file"
        assert start(project, work).wait(PATIENCE) == 1
        assert "another `up` of this checkout is already running" in (project / "said").read_text()
    finally:
        end(process, signal.SIGINT)
    assert not (work / "running.json").exists()
    assert not (work / "tokens").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(docs.rpartition(":")[2])), 1)


def test_it_ends_while_it_starts(project: Path, work: Path) -> None:
    """SIGTERM before anything is deployed also ends all processes."""
    process = start(project, work, "--port", "0")
    try:
        wait(project, process, lambda text: "starting with churn, recs, stock and 2 tables" in text)
    finally:
        end(process, signal.SIGTERM)
    assert "stopped; all processes have ended" in (project / "said").read_text()


def test_it_ends_when_the_stand_in_does(project: Path, work: Path) -> None:
    """A stand-in that ends by itself ends the command, with a message and status 1."""
    process = start(project, work, "--port", "0")
    try:
        wait(project, process, lambda _: (work / "ministack.log").exists())
        for child in psutil.Process(process.pid).children():
            child.kill()
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
    said = (project / "said").read_text()
    assert re.search(r"^up: (ministack ended|the stand-in for AWS failed)", said, re.MULTILINE), said
    assert "Traceback" not in said


def test_what_is_refused_before_anything_starts(project: Path, work: Path) -> None:
    """A port in use, a file that does not parse, a broken lake: the message, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert start(project, work, "--port", str(port)).wait(PATIENCE) == 1
        assert f"port {port} of 127.0.0.1" in (project / "said").read_text()
    assert start(project, work, "--port", "70000").wait(PATIENCE) == 2
    assert "invalid port from 0 to 65535 value: '70000'" in (project / "said").read_text()
    put(project / "outputs", "")
    assert start(project, work, "--port", "0").wait(PATIENCE) == 1
    assert f"{project}/outputs: File exists; it must be a folder" in (project / "said").read_text()
    (project / "outputs").unlink()
    put(project / "lake/shop/products.parquet", "no")
    assert start(project, work, "--port", "0").wait(PATIENCE) == 1
    assert "are both the table shop.products" in (project / "said").read_text()
    put(project / "datasets/churn.py", "d = (\n")
    assert start(project, work, "--port", "0").wait(PATIENCE) == 1
    assert "churn.py:1" in (project / "said").read_text()
