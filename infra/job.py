"""Build the files of the job on Spark: code and datasets, locked wheels, and the script that is submitted.

./larder job --into DIR      writes main.py, larder.zip and larder.gluewheels.zip
./larder job --upload        uploads them to s3://$LARDER_BUCKET/job/$LARDER_VERSION/, where the stack's job finds them

An upload deletes the files of versions that were replaced more than 30 days ago. It keeps the newest three (that of the
upload, the one before, which is deployed until the next deploy, and one to roll back to), and the one of $LARDER_JOB.

Wheels are those of `enrich/requirements.txt` for Glue 5 (Python 3.11, x86_64), with the hashes of the lock: the job
needs nothing from the internet. Glue installs a file named `*.gluewheels.zip` from its folder `wheels`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from enrich.datasets import find_project
from infra.bundle import EPOCH, RECIPES
from wire.scratch import open_scratch

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "enrich" / "requirements.txt"
PYTHON = "3.11"  # of Glue 5.0
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 26, 24, 17)))
FOLDER = "job/"
KEPT_VERSIONS = 3
KEPT_TIME = timedelta(days=30)  # a job that began with a version can still read it: for a week at most on Glue
MAIN = """\
from enrich.spark.__main__ import main

if code := main():  # Glue counts each SystemExit as a failure
    raise SystemExit(code)
"""


class JobError(Exception):
    """The files can't be built; the message has the reason."""


def build_code() -> bytes:
    """Build larder.zip: the code of a run, the job, and the project's datasets."""
    files: dict[str, bytes] = {}
    for source in RECIPES["enrich"].sources:
        path = ROOT / source
        for each in [path] if path.is_file() else sorted(path.rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                files[str(each.relative_to(ROOT))] = each.read_bytes()
    project = find_project()
    for each in sorted((project / "datasets").rglob("*.py")):
        files[str(each.relative_to(project))] = each.read_bytes()
    return _zip(files)


def build_wheels() -> bytes:
    """Download the locked wheels; return them as Glue takes them.

    Raises:
        JobError: pip failed, e.g. because a package has no wheel for Glue's Python.
    """
    with tempfile.TemporaryDirectory(dir=open_scratch()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        done = subprocess.run([*command, "-r", str(LOCK), "-d", folder], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise JobError(f"pip can't download the wheels of {LOCK.relative_to(ROOT)}:\n{done.stderr.strip()}")
        wheels = {f"wheels/{each.name}": each.read_bytes() for each in sorted(Path(folder).glob("*.whl"))}
    names = "".join(f"{name.split('-')[0].rpartition('/')[2]}=={name.split('-')[1]}\n" for name in wheels)
    return _zip({"wheels/requirements.txt": names.encode(), **wheels}, compression=zipfile.ZIP_STORED)


def _zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, compression)
    return buffer.getvalue()


def build() -> dict[str, bytes]:
    """Build all files, by name.

    Raises:
        JobError: as `build_wheels`.
    """
    return {"main.py": MAIN.encode(), "larder.zip": build_code(), "larder.gluewheels.zip": build_wheels()}


def upload(s3: Any, env: Mapping[str, str], files: Mapping[str, bytes]) -> str:
    """Upload the files; return their place.

    Raises:
        JobError: no stack is selected.
    """
    if missing := [name for name in ("LARDER_BUCKET", "LARDER_VERSION") if not env.get(name)]:
        raise JobError(f'{", ".join(missing)} not set: select a stack with eval "$(./larder env STACK)"')
    prefix = f"{FOLDER}{env['LARDER_VERSION']}/"
    for name, content in files.items():
        s3.put_object(Bucket=env["LARDER_BUCKET"], Key=prefix + name, Body=content)
    return f"s3://{env['LARDER_BUCKET']}/{prefix}"


def delete_replaced(s3: Any, glue: Any, env: Mapping[str, str], now: datetime) -> list[str]:
    """Delete the files of versions that no job needs; return the versions, newest first.

    Args:
        s3: a boto3 client.
        glue: a boto3 client, used if the stack has a job.
        env: LARDER_BUCKET and LARDER_JOB.
        now: the current time.

    Raises:
        ClientError: an action is not allowed.
        JobError: an object could not be deleted.
    """
    bucket, files = env["LARDER_BUCKET"], defaultdict[str, list[Any]](list)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=FOLDER):
        for each in page.get("Contents", ()):
            if version := each["Key"].removeprefix(FOLDER).rpartition("/")[0]:
                files[version].append(each)
    uploaded = {version: max(each["LastModified"] for each in found) for version, found in files.items()}
    newest_first = sorted(uploaded, key=uploaded.__getitem__, reverse=True)
    deployed = _find_deployed(glue, env["LARDER_JOB"]) if env.get("LARDER_JOB") else None
    replaced = [
        version
        for newer, version in itertools.pairwise(newest_first)
        if uploaded[newer] < now - KEPT_TIME and version not in {deployed, *newest_first[:KEPT_VERSIONS]}
    ]
    for version in replaced:
        objects = [{"Key": each["Key"]} for each in files[version]]
        if errors := s3.delete_objects(Bucket=bucket, Delete={"Objects": objects}).get("Errors"):
            raise JobError(f"s3://{bucket}/{errors[0]['Key']} can't be deleted: {errors[0].get('Message')}")
    return replaced


def _find_deployed(glue: Any, job: str) -> str:
    """Return the version of the deployed job, from the place of its script."""
    place: str = glue.get_job(JobName=job)["Job"]["Command"]["ScriptLocation"]
    return place.partition(f"/{FOLDER}")[2].rpartition("/")[0]


def _report_replaced() -> None:
    """Delete files that no job needs; the upload is complete, so an error is only reported."""
    try:
        for version in delete_replaced(boto3.client("s3"), boto3.client("glue"), os.environ, datetime.now(UTC)):
            print(f"deleted version {version}, which was replaced more than {KEPT_TIME.days} days ago")  # noqa: T201
    except (BotoCoreError, ClientError, JobError) as error:
        print(f"larder job: replaced versions below {FOLDER} are not deleted: {error}", file=sys.stderr)  # noqa: T201


def main() -> None:
    """Build, and write or upload."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="./larder job"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", type=Path, metavar="DIR", help="write the files into a folder")
    where.add_argument("--upload", action="store_true", help="upload them for the stack's job")
    options = parser.parse_args()
    try:
        files = build()
        place = upload(boto3.client("s3"), os.environ, files) if options.upload else str(options.into)
    except JobError as error:
        sys.exit(f"larder job: {error}")
    if options.into:
        options.into.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (options.into / name).write_bytes(content)
    for name, content in files.items():
        print(f"{len(content) / 1e6:8.1f} MB  {name}")  # noqa: T201
    print(f"in {place}")  # noqa: T201
    if options.upload:
        _report_replaced()


if __name__ == "__main__":
    main()
