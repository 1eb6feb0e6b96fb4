"""The files of the job on Spark: what they contain, that they are reproducible, and where they are uploaded."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra import job
from infra.translate import ROOT


def test_the_code_is_complete(tmp_path: Path) -> None:
    """A process that has only larder.zip imports what a task needs, and finds the datasets."""
    content = job.build_code()
    assert content == job.build_code()
    archive = tmp_path / "larder.zip"
    archive.write_bytes(content)
    names = zipfile.ZipFile(archive).namelist()
    assert {"enrich/spark/__main__.py", "enrich/run/rates.json", "wire/transport.py", "notify/bus.py"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"datasets", "enrich", "notify", "serve", "wire"}
    code = f"""
import sys
sys.path[:] = [each for each in sys.path if each != {str(ROOT)!r}]
sys.path.insert(0, {str(archive)!r})
import enrich.spark.code, enrich.run.pieces.tasks, os
from enrich.datasets import load_datasets
enrich.spark.code.unpack()
assert enrich.run.pieces.tasks.__file__.startswith({str(archive)!r}), enrich.run.pieces.tasks.__file__
print(len(load_datasets()))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stdout.strip() > "0") == (0, True), done.stderr


def test_the_script_fails_as_the_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Glue reports a job as failed if its script raises; also SystemExit(0) would count as that."""
    module = type(sys)("enrich.spark.__main__")
    monkeypatch.setitem(sys.modules, "enrich.spark.__main__", module)
    for code in (0, 1):
        vars(module)["main"] = lambda code=code: code
        if code:
            with pytest.raises(SystemExit, match="1"):
                exec(job.MAIN, {})
        else:
            exec(job.MAIN, {})


def test_wheels_are_those_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pip checks the hashes of the lock, and takes wheels for Glue only; the list of them is beside them."""

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert {"--require-hashes", "--no-deps", ":all:", job.PYTHON} <= set(command)
        assert command[command.index("-r") + 1] == str(ROOT / "enrich" / "requirements.txt")
        folder = Path(command[command.index("-d") + 1])
        for name in ("python_dateutil-2.9.0.post0-py2.py3-none-any.whl", "duckdb-2.0.0-cp311-cp311-linux_x86_64.whl"):
            (folder / name).write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("infra.job.subprocess.run", download)
    with zipfile.ZipFile(io.BytesIO(job.build_wheels())) as archive:
        assert archive.read("wheels/requirements.txt") == b"duckdb==2.0.0\npython_dateutil==2.9.0.post0\n"
        assert len(archive.namelist()) == 3


def test_a_package_without_a_wheel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has what pip says."""
    monkeypatch.setattr("infra.job.subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "none\n"))
    with pytest.raises(job.JobError, match=r"wheels of enrich/requirements\.txt:\nnone$"):
        job.build_wheels()


class Uploads(dict[str, bytes]):
    """Records what is uploaded."""

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        self[f"s3://{Bucket}/{Key}"] = Body


def test_files_are_uploaded_where_the_template_looks() -> None:
    """Each place in the template's job is a file of the release."""
    files, s3 = {"main.py": b"m", "larder.zip": b"l", "larder.gluewheels.zip": b"w"}, Uploads()
    place = job.upload(s3, {"LARDER_BUCKET": "Bucket", "LARDER_VERSION": "7"}, files)
    assert place == "s3://Bucket/job/7/"
    text = (ROOT / "infra" / "template.yaml").read_text()
    for name in files:
        assert f"s3://${{Bucket}}/job/${{ReleaseVersion}}/{name}" in text
    assert set(s3) == {f"s3://Bucket/job/7/{name}" for name in files}
    with pytest.raises(job.JobError, match="LARDER_VERSION not set"):
        job.upload(s3, {"LARDER_BUCKET": "Bucket"}, files)
