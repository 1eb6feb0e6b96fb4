"""Run a project's own datasets on this machine: `./larder up`.

Deploys the template with `datasets/` to the stand-in for AWS, loads `lake/{database}/{table}.{parquet,csv,jsonl}`, and
uploads files that are put into `outputs/`. Changed datasets are deployed again, a changed lake is loaded again. Runs
until Ctrl-C.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from enrich.dataset.definition import Dataset
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.validation import check_datasets
from enrich.datasets import DatasetFileError, find_project, load_datasets
from enrich.ledger.records import Counts
from enrich.ledger.store import Ledger
from infra.bundle import ROOT, BundleError, build, find_used, has_models
from infra.gateway import build_project_document, write_contract
from infra.local.arguments import build_parser
from infra.local.deploy import DeployError, Stack, deploy
from infra.local.issuer import LocalIssuer, create_issuer
from infra.local.lake import BadLake, load_lake, read_lake
from infra.local.ministack import LOOPBACK, MinistackError
from infra.local.running import announce
from infra.local.stand_in import AUDIENCE, ISSUER, build_variables, open_clients, run_stand_in
from score.dev.laptop import add_models
from score.models import load_models
from serve.dev.server import LaptopApp, open_server
from serve.handler import Handler, build_dependencies, build_handler
from serve.item import BODY, PK

# serve.handler freezes what is imported, for a Lambda. Frozen objects live until the process ends, and then DuckDB
# reports each of its own as a leak.
gc.unfreeze()

LAKE = "larder-lake"
POLL = 0.5  # seconds between two scans of the folders
OUTCOMES = ("written", "unchanged", "superseded", "expired", "rejected")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Snapshot = dict[Path, tuple[int, int]]  # file -> time of change in ns, size in bytes


class Refused(Exception):
    """The command can't start, or can't continue; the message has the remedy."""


# Exceptions for mistakes of the user or problems of the machine; each message has the place and the remedy.
MISTAKES = (Refused, DatasetFileError, DatasetMistakes, BadLake, BundleError, DeployError, MinistackError)


def main(arguments: list[str] | None = None, work: Path = ROOT / ".larder") -> int:
    """Run until Ctrl-C, SIGTERM or the end of the terminal; return the exit status: 128 and the signal's number.

    Args:
        arguments: the arguments of the command line.
        work: folder for the log, tokens, bundles, and the variables of the running stack.
    """
    options = build_parser().parse_args(arguments)
    for number in SIGNALS:
        signal.signal(number, _end)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # names of files can be any bytes
    try:
        _run(options.port, work)
    except SystemExit as ended:
        with suppress(OSError):  # the terminal can be closed
            _say("stopped; all processes have ended")
        return int(ended.code or 0)
    except MISTAKES as error:
        print(f"up: {error}", file=sys.stderr)  # noqa: T201
    except (BotoCoreError, ClientError) as error:
        log = work / "ministack.log"
        print(f"up: the stand-in for AWS failed: {error}; {log} has its output; start `up` again", file=sys.stderr)  # noqa: T201
    return 1


def _end(number: int, _: Any) -> None:
    for each in SIGNALS:  # a second Ctrl-C would interrupt the clean-up of the first
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _run(port: int, work: Path) -> None:
    with _lock(work), _tokens(work) as tokens:
        _check_port(port)
        project = find_project()
        _make_folder(project / "outputs")
        watches = _Watch(project / "datasets", "*.py"), _Watch(project / "lake", "*")
        datasets = _load(project)
        tables = read_lake(project / "lake")
        _say(f"starting with {', '.join(datasets)} and {len(tables)} tables of lake/ ...")
        with run_stand_in(work / "ministack.log") as (ministack, athena):
            client = open_clients(ministack)
            client("s3").create_bucket(Bucket=LAKE)
            load_lake(client("s3"), client("glue"), LAKE, tables)

            def deploy_datasets() -> tuple[Stack, dict[str, str]]:
                bundles = {name: build(name, cache=work / "bundles") for name in find_used(models=has_models())}
                given = {"LakeBucketName": LAKE, "Issuer": ISSUER, "Audience": AUDIENCE}
                stack = deploy(client, ministack.endpoint, bundles=bundles, parameters=given)
                return stack, build_variables(client, stack, ministack, athena)

            stack, variables = deploy_datasets()
            issuer = create_issuer(client("ssm"), stack["KeyStorePath"], ISSUER, AUDIENCE, "local-1")
            with announce(variables, work / "running.json") as replace_variables:
                running = _Running(project, tokens, client, stack, issuer, datasets)
                running.serve(variables, port)
                running.stay(deploy_datasets, replace_variables, *watches)


class _Watch:
    """The files of a folder. A change counts when two scans see the same: before that, a file can still be growing."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self.look = partial(_look, folder, pattern)
        self.taken = self.before = self.look()

    def find_changes(self) -> list[str]:
        """Return the names of the files that have changed since the last time that changes were returned."""
        now, before = self.look(), self.before
        self.before = now
        if now != before or now == self.taken:
            return []
        changed = sorted({path.name for path, _ in set(now.items()) ^ set(self.taken.items())})
        self.taken = now
        return changed


class _Running:
    """The deployed stack of a project, and the state of its folders and runs that was seen last."""

    def __init__(
        self,
        project: Path,
        tokens: Path,
        client: Callable[[str], Any],
        stack: Stack,
        issuer: LocalIssuer,
        datasets: dict[str, Dataset],
    ) -> None:
        self.project, self.tokens, self.client, self.stack = project, tokens, client, stack
        self.issuer, self.datasets = issuer, datasets
        self.outputs = project / "outputs"
        self.taken: Snapshot = {}  # outputs that were uploaded
        self.refused: dict[Path, str] = {}  # outputs that were not uploaded, with the reported reason
        self.reported: set[tuple[str, int, str]] = set()
        self.shown: set[str] = set()
        self.server: Any = None

    def serve(self, variables: Mapping[str, str], port: int) -> None:
        """Serve the API and its documentation on loopback."""
        try:
            self.server = open_server(self._build_handler(variables), LOOPBACK, port)
        except OSError as error:
            raise _port_refused(port, error) from error
        threading.Thread(target=self.server.run, daemon=True).start()
        _say(f"documentation at http://{LOOPBACK}:{self.server.port}/docs")

    def stay(
        self,
        deploy_datasets: Callable[[], tuple[Stack, dict[str, str]]],
        replace_variables: Callable[[Mapping[str, str]], None],
        files: _Watch,
        lake: _Watch,
    ) -> None:
        """Upload outputs, report runs, and apply changes of datasets and lake until the process is asked to end."""
        _say('eval "$(./larder env --local)"   # then: ./larder status')
        for dataset in self.datasets.values():
            _say(f"{dataset.name}: put an output into {self.outputs / dataset.source.prefix}")
        before: Snapshot = {}
        try:
            while True:
                now = _look(self.outputs, "*")
                self._upload({path: state for path, state in now.items() if before.get(path) == state})
                before = now
                self._report()
                if changed := files.find_changes():
                    self._redeploy(", ".join(changed), deploy_datasets, replace_variables)
                if changed := lake.find_changes():
                    self._reload(", ".join(changed))
                time.sleep(POLL)
        finally:
            self.server.close()

    def _redeploy(
        self,
        changed: str,
        deploy_datasets: Callable[[], tuple[Stack, dict[str, str]]],
        replace_variables: Callable[[Mapping[str, str]], None],
    ) -> None:
        try:
            datasets = _load(self.project)
            self.stack, variables = deploy_datasets()
        except MISTAKES as error:
            _say(f"{changed}: not deployed; the previous datasets stay in use:\n{error}")
            return
        self.datasets = datasets
        replace_variables(variables)
        self.shown.clear()  # a changed API can have another address
        self.server.replace(LaptopApp(self._build_handler(variables)))
        remedy = "stored items change with the next run of their output: ./larder refresh NAME"
        _say(f"{changed} changed: deployed {', '.join(datasets)}; {remedy}")

    def _reload(self, changed: str) -> None:
        try:
            tables = read_lake(self.project / "lake")
        except BadLake as error:
            _say(f"{changed}: not loaded; the previous tables stay in use:\n{error}")
            return
        load_lake(self.client("s3"), self.client("glue"), LAKE, tables)
        _say(f"{changed} changed: loaded lake/; items have the previous metadata until ./larder refresh NAME")

    def _build_handler(self, variables: Mapping[str, str]) -> Handler:
        served = {name: dataset.served for name, dataset in self.datasets.items()}
        env = {**os.environ, **variables}
        return add_models(build_handler(build_dependencies(env, served)), env, served, load_models(served))

    def _upload(self, files: Snapshot) -> None:
        """Upload new or changed files, markers such as _SUCCESS last; report a file that can't be uploaded once."""
        for path in sorted(files, key=lambda path: (path.name.startswith("_"), path)):
            if self.taken.get(path) == files[path]:
                continue
            object_key = path.relative_to(self.outputs).as_posix()
            try:
                dataset = self._find_dataset(object_key)
                self.client("s3").upload_file(str(path), self.stack["OutputsBucketName"], object_key)
            except FileNotFoundError:  # deleted since the scan
                continue
            except (Refused, OSError, Boto3Error, ClientError) as error:
                if self.refused.get(path) != str(error):
                    _say(f"{path}: not uploaded: {error}")
                self.refused[path] = str(error)
                continue
            self.taken[path] = files[path]
            self.refused.pop(path, None)
            marker = dataset.source.marker
            waits = f"; its run starts when {marker} is uploaded" if marker and path.name != marker else ""
            _say(f"uploaded {object_key}{waits}")

    def _find_dataset(self, object_key: str) -> Dataset:
        """Return the dataset that has the longest prefix of an object key.

        Raises:
            Refused: there is none, or the key is not printable UTF-8.
        """
        if not object_key.isprintable():
            raise Refused("its name has bytes that are not UTF-8, or unprintable characters; rename it")
        found = [each for each in self.datasets.values() if object_key.startswith(each.source.prefix)]
        if not found:
            known = ", ".join(f"{each.source.prefix} ({each.name})" for each in self.datasets.values())
            raise Refused(f"it is under the prefix of no dataset; move it into one of {known}")
        return max(found, key=lambda each: len(each.source.prefix))

    def _report(self) -> None:
        """Report the runs that have closed; show how to read a dataset's items when it has some."""
        ledger = Ledger(self.client("dynamodb"), self.stack["LedgerName"])
        for dataset in self.datasets.values():
            runs = [run for run in reversed(ledger.fetch_runs(dataset.name)) if not run.state.is_open]
            for run in runs:
                if (dataset.name, run.run, run.state) in self.reported:
                    continue
                self.reported.add((dataset.name, run.run, run.state))
                _say(f"{run.object_key}: {run.state.value}: {run.error or describe_counts(run.counts)}")
            if runs and dataset.name not in self.shown:
                self.shown.add(dataset.name)
                self._show(dataset)

    def _show(self, dataset: Dataset) -> None:
        """Print a token and a request for the subject of one of the dataset's items, if it has any."""
        steps = len(dataset.served.subject) + 1  # of a partition key; items from before a change can have others
        pk = next((pk for pk in self._scan(dataset.name) if len(pk.split("#")) == steps), None)
        if pk is None:
            self.shown.discard(dataset.name)
            return
        values = map(unquote, pk.split("#")[1:])
        subject = dict(zip(dataset.served.subject, values, strict=True))
        path = self.tokens / dataset.name
        path.write_text(self.issuer.sign_for(dataset.served, subject, time.time()))
        place = shorten(path)
        whose = ", ".join(f"{claim}={value}" for claim, value in subject.items())
        _say(f"{dataset.name}: a token for {whose or 'anyone'}, valid for 12 hours, is in {place}")
        bearer = f'-H "Authorization: Bearer $(cat {shlex.quote(str(place))})"'
        _say(f"curl -s {bearer} '{self.stack.base_url}/{dataset.name}?limit=5'")

    def _scan(self, name: str) -> Iterator[str]:
        """Yield the partition keys of a dataset's items."""
        pages = (
            self.client("dynamodb")
            .get_paginator("scan")
            .paginate(
                TableName=self.stack["TableName"],
                FilterExpression="(#pk = :name or begins_with(#pk, :start)) and attribute_exists(#body)",
                ExpressionAttributeNames={"#pk": PK, "#body": BODY},
                ExpressionAttributeValues={":name": {"S": name}, ":start": {"S": f"{name}#"}},
            )
        )
        for page in pages:
            yield from (item[PK]["S"] for item in page["Items"])


def describe_counts(counts: Counts) -> str:
    """Describe what a run did with the predictions of its output, and why it did not write some."""
    text = ", ".join(f"{getattr(counts, name)} {name}" for name in OUTCOMES)
    if counts.superseded:
        text += "; superseded: a newer output has these predictions"
    if counts.expired:
        text += "; expired: the output is older than the dataset's ttl, so these items would not be served"
    return text


def shorten(path: Path) -> Path:
    """Return a path relative to the current folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _load(project: Path) -> dict[str, Dataset]:
    """Load and check the datasets, and write the contract that consumers see at /docs."""
    datasets = load_datasets()
    if not datasets:
        raise Refused(f"{project / 'datasets'} has no dataset; write one with `./larder new NAME --from FILE`")
    if mistakes := check_datasets(datasets, None):
        raise DatasetMistakes(mistakes)
    for path in write_contract(project, build_project_document(datasets)):
        _say(f"wrote {path}")
    return datasets


def _look(folder: Path, pattern: str) -> Snapshot:
    found: Snapshot = {}
    for path in sorted(folder.rglob(pattern)):
        if not any(step.startswith(".") for step in path.relative_to(folder).parts):
            with suppress(OSError):  # deleted meanwhile
                if path.is_file():
                    state = path.stat()
                    found[path] = state.st_mtime_ns, state.st_size
    return found


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with (work / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another `up` of this checkout is already running; use it, or end it with Ctrl-C") from None
        yield


@contextmanager
def _tokens(work: Path) -> Iterator[Path]:
    folder = work / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; it must be a folder, for outputs of the models") from error


def _check_port(port: int) -> None:
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        raise _port_refused(port, error) from error


def _port_refused(port: int, error: OSError) -> Refused:
    return Refused(f"port {port} of {LOOPBACK}: {error.strerror}; end the process that uses it, or give another --port")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
