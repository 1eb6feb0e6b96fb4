"""Set up the write benchmarks: the null endpoint, the rows, an environment per writer."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.certificates import write_certificate

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".larder" / "bench"
HERE = Path(__file__).resolve().parent
TABLE = "larder-bench"

# writer -> pip arguments of its environment. Versions are pip's newest, and are printed with the table.
WRITERS = {
    "larder": ("-r", str(ROOT / "enrich" / "requirements.txt")),
    "boto3_client": ("boto3", "pyarrow"),
    "boto3_batch_writer": ("boto3", "pyarrow"),
    "awswrangler": ("awswrangler",),
    "feast": ("feast[aws]",),
}

# The same for the peers that write from Spark. Feast's extra `spark` demands PySpark 4; its engine runs on 3.5, too.
SPARK_WRITERS = {
    "spark_feast": ("feast[aws]==0.67.0", "pyspark==3.5.9"),
    "spark_bulk": ("boto3", "pyspark==3.5.9"),
}

# One response to all requests: to a batch write, and to the DescribeTable that some writers send first.
ANSWER = {
    "UnprocessedItems": {},
    "Table": {
        "TableName": TABLE,
        "TableStatus": "ACTIVE",
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
    },
}


class NullEndpoint(NamedTuple):
    """A running null endpoint."""

    url: str
    pid: int

    def cpu(self) -> float:
        """Return the CPU seconds used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interpreter(writer: str) -> Path:
    """Return the Python of a writer's environment; create it if needed, and record its size without pip."""
    folder = BENCH / f"write-{writer}"
    python, done = folder / "bin" / "python", folder / "installed.json"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        before = _bytes(folder)
        subprocess.run([python, "-m", "pip", "install", "-q", *(WRITERS | SPARK_WRITERS)[writer]], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
        size = _bytes(folder) - before
        done.write_text(json.dumps({"bytes": size, "packages": frozen.split()}))
    return python


def installed(writer: str) -> dict[str, object]:
    """Return install size and packages of a writer's environment."""
    found: dict[str, object] = json.loads((BENCH / f"write-{writer}" / "installed.json").read_text())
    return found


@contextmanager
def null_endpoint(folder: Path, *, tls: bool) -> Iterator[NullEndpoint]:
    """Compile and run the null endpoint; with TLS, its certificate is written to `folder`."""
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        raise SystemExit("no C compiler found; the null endpoint needs one: install gcc")
    program = folder / f"null_endpoint_{tls}"
    flags = ["-DTLS"] if tls else []
    libraries = ["-lssl", "-lcrypto"] if tls else []
    subprocess.run([gcc, "-O2", *flags, "-o", program, HERE / "null_endpoint.c", *libraries], check=True)
    (folder / "answer.json").write_text(json.dumps(ANSWER))
    command: list[str | Path] = [program, "0", folder / "answer.json"]
    if tls:
        write_certificate(folder, ["127.0.0.1"])
        command += [folder / "certificate.pem", folder / "key.pem"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[1])
        try:
            yield NullEndpoint(f"{'https' if tls else 'http'}://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


def build_env(endpoint: NullEndpoint, folder: Path, rows: Path) -> dict[str, str]:
    """Build the environment variables of the writers."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
        "FEAST_USAGE": "False",
        "BENCH_ROWS": str(rows),
        "BENCH_TABLE": TABLE,
    }
    if endpoint.url.startswith("https"):
        env["AWS_CA_BUNDLE"] = str(folder / "certificate.pem")
    return env


def write_rows(path: Path, count: int, notes: int = 0) -> None:
    """Write the rows for all writers: keys, and a nested body, for items of 500 bytes and so many notes of 50 each."""
    rng = random.Random(1)
    carriers = [f"{a}{b}" for a in "ABCD" for b in "1234"]
    rows = []
    for n in range(count):
        carrier = rng.choice(carriers)
        body: dict[str, Any] = {
            "flight": f"{carrier}{n}",
            "carrier": {"code": carrier, "name": "An Airline With A Name Inc."},
            "origin": {"code": "EWR", "name": "An Airport", "position": {"latitude": 40.6925, "longitude": -74.168667}},
            "destination": {"code": "IAH", "name": "Another", "position": {"latitude": 29.984433, "longitude": -95.34}},
            "plane": {"tail": f"N{n}", "type": "Fixed wing multi engine", "seats": 149},
            "prediction": {"delay_minutes": rng.randint(-300, 900) / 10, "late_probability": round(rng.random(), 3)},
        }
        if notes:
            body["notes"] = [{"share": rng.random(), "flights": rng.randint(0, 10**9)} for _ in range(notes)]
        text = json.dumps(body if notes >= 0 else body["prediction"], separators=(",", ":"))
        rows.append({"pk": f"flight-delays#{carrier}", "sk": f"2025-11-20.EWR.{n}", "body": text, "row": n})
    table = pa.Table.from_pylist(rows).append_column("rank", pa.nulls(count, pa.string()))
    pq.write_table(table.append_column("entries", pa.repeat(pa.scalar(0, pa.int64()), count)), path)


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
