"""The files of the job on Spark: what they contain, that they are reproducible, and where they are uploaded."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from infra import job
from infra.translate import ROOT
from tests.doubles.moto_aws import moto_aws


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
print(len(load_datasets()), flush=True)
if sys.argv[1:]:
    os._exit(0)  # as a worker of Spark ends
"""
    place = tmp_path / "scratch"
    place.mkdir()
    for words, left in ((["as a worker"], 1), (["as a worker"], 1), ([], 0)):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"TMPDIR": str(place)}
        )
        assert (done.returncode, done.stdout.strip() > "0") == (0, True), done.stderr
        assert len(list(place.iterdir())) == left, "each process deletes what those before it left"


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


NOW = datetime(2030, 3, 1, tzinfo=UTC)
FILES = ("main.py", "larder.zip", "larder.gluewheels.zip")


class Releases:
    """Uploads of a stack's versions, each some days ago; it is also Glue, with a job of one of them."""

    def __init__(self, client: Any) -> None:
        self.s3 = client("s3")
        self.deployed = ""
        self.s3.create_bucket(Bucket="larder")
        self.s3.put_object(Bucket="larder", Key="work/stock/1/parts.json", Body=b"{}")

    def upload(self, version: str, days_ago: float) -> None:
        job.upload(self.s3, {"LARDER_BUCKET": "larder", "LARDER_VERSION": version}, dict.fromkeys(FILES, b""))
        for name in FILES:
            stored: Any = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets["larder"].keys[f"job/{version}/{name}"]
            stored.last_modified = (NOW - timedelta(days=days_ago)).replace(tzinfo=None)

    def get_job(self, JobName: str) -> dict[str, Any]:  # noqa: N803
        if not self.deployed:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetJob")
        return {"Job": {"Command": {"ScriptLocation": f"s3://larder/job/{self.deployed}/main.py"}, "Name": JobName}}

    def delete(self, **env: str) -> list[str]:
        return job.delete_replaced(self.s3, self, {"LARDER_BUCKET": "larder", **env}, NOW)

    def left(self) -> set[str]:
        listed = self.s3.list_objects_v2(Bucket="larder")["Contents"]
        assert "work/stock/1/parts.json" in {each["Key"] for each in listed}
        return {each["Key"].split("/")[1] for each in listed if each["Key"].startswith("job/")}


@pytest.fixture
def releases() -> Iterator[Releases]:
    with moto_aws() as client:
        yield Releases(client)


def test_files_of_versions_that_no_job_needs_are_deleted(releases: Releases) -> None:
    """The newest three stay, and what was replaced within 30 days: a job that began with it can still run."""
    for version, days_ago in (("1", 90), ("2", 70), ("3", 31), ("4", 29), ("5", 2), ("6", 0)):
        releases.upload(version, days_ago)
    assert releases.delete() == ["2", "1"]
    assert releases.left() == {"3", "4", "5", "6"}
    assert releases.delete() == []


def test_the_newest_three_versions_stay_however_old(releases: Releases) -> None:
    """The uploaded one, the one that is deployed until the next deploy, and one to roll back to."""
    for version, days_ago in (("1", 400), ("2", 300), ("3", 200), ("4", 100)):
        releases.upload(version, days_ago)
    assert releases.delete() == ["1"]
    assert releases.left() == {"2", "3", "4"}


def test_the_deployed_version_stays(releases: Releases) -> None:
    """After a roll-back it is not among the newest."""
    for version, days_ago in (("1", 400), ("2", 350), ("v3", 300), ("4", 200), ("5", 100), ("6", 0)):
        releases.upload(version, days_ago)
    releases.deployed = "2"
    assert releases.delete(LARDER_JOB="stack-job") == ["v3", "1"]
    assert releases.left() == {"2", "4", "5", "6"}


def test_an_upload_that_can_not_delete_is_complete(
    releases: Releases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """E.g. because the deployer is not allowed to: the error is reported, and the exit code is 0."""
    monkeypatch.setattr(job, "build", lambda: dict.fromkeys(FILES, b""))
    monkeypatch.setenv("LARDER_BUCKET", "larder")
    monkeypatch.setenv("LARDER_VERSION", "7")
    monkeypatch.setenv("LARDER_JOB", "stack-job")
    monkeypatch.setattr("infra.job.boto3.client", {"s3": releases.s3, "glue": releases}.__getitem__)
    monkeypatch.setattr("sys.argv", ["job", "--upload"])
    job.main()
    said = capsys.readouterr()
    assert "in s3://larder/job/7/" in said.out
    assert "replaced versions below job/ are not deleted" in said.err
    assert releases.left() == {"7"}
