"""Run a project's own datasets on this machine: `./larder up`.

Deploys the template with `datasets/` to the stand-in for AWS, loads `lake/{database}/{table}.{parquet,csv,jsonl}`, and
uploads what is put into `outputs/`. Changed files of datasets are deployed again. Runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from enrich.dataset.definition import Dataset
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.validation import check_datasets
from enrich.datasets import DatasetFileError, find_project, load_datasets
from enrich.ledger.store import Ledger
from enrich.openapi.document import build_document
from infra.bundle import ROOT, BundleError, build
from infra.gateway import write_contract
from infra.local.deploy import DeployError, Stack, deploy
from infra.local.issuer import LocalIssuer, create_issuer
from infra.local.lake import BadLake, load_lake, read_lake
from infra.local.ministack import LOOPBACK, MinistackError
from infra.local.running import announce
from infra.local.stand_in import AUDIENCE, ISSUER, build_variables, open_clients, run_stand_in
from serve.dev.server import build_laptop_app, open_server, port_of
from serve.handler import Handler, build_dependencies, build_handler
from serve.item import BODY, PK

LAKE = "larder-lake"
POLL = 0.5  # seconds between two looks at the folders
Snapshot = dict[Path, tuple[int, int]]  # file -> time of change in ns, size in bytes


class Refused(Exception):
    """The command can't start; the message has the remedy."""


def main(arguments: list[str] | None = None, work: Path = ROOT / ".larder") -> int:
    """Run until Ctrl-C or SIGTERM; return the exit status.

    Args:
        arguments: of the command line.
        work: folder for the log, tokens, bundles, and what runs.
    """
    parser = argparse.ArgumentParser(prog="./larder up", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="of the API and /docs; 0: any free one (%(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _lock(work), _tokens(work) as tokens:
            _check_port(options.port)
            project = find_project()
            datasets = _load(project)
            tables = read_lake(project / "lake")
            _say(f"starting with {', '.join(datasets)} and {len(tables)} tables of lake/ ...")
            with run_stand_in(work / "ministack.log") as (ministack, athena):
                client = open_clients(ministack)
                client("s3").create_bucket(Bucket=LAKE)
                load_lake(client("s3"), client("glue"), LAKE, tables)

                def deploy_again() -> Stack:
                    bundles = {name: build(name, cache=work / "bundles") for name in ("enrich", "serve", "operate")}
                    given = {"LakeBucketName": LAKE, "Issuer": ISSUER, "Audience": AUDIENCE}
                    return deploy(client, ministack.endpoint, bundles=bundles, parameters=given)

                stack = deploy_again()
                issuer = create_issuer(client("ssm"), stack["KeyStorePath"], ISSUER, AUDIENCE, "local-1")
                variables = build_variables(client, stack, ministack, athena)
                with announce(variables, work / "running.json"):
                    running = _Running(project, tokens, client, stack, issuer, variables, options.port)
                    running.stay(datasets, deploy_again)
    except KeyboardInterrupt:
        _say("stopped; all processes have ended")
        return 130
    except (Refused, DatasetFileError, DatasetMistakes, BadLake, BundleError, DeployError, MinistackError) as error:
        print(f"up: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


class _Running:
    """The deployed stack of a project, and what has been seen of its folders and runs."""

    def __init__(
        self,
        project: Path,
        tokens: Path,
        client: Callable[[str], Any],
        stack: Stack,
        issuer: LocalIssuer,
        variables: dict[str, str],
        port: int,
    ) -> None:
        self.project, self.tokens, self.client, self.stack = project, tokens, client, stack
        self.issuer, self.variables, self.port = issuer, variables, port
        self.uploaded: Snapshot = {}
        self.reported: set[tuple[str, int, str]] = set()
        self.shown: set[str] = set()

    def stay(self, datasets: dict[str, Dataset], deploy_again: Callable[[], Stack]) -> None:
        """Serve, upload, report runs, and deploy changed datasets until the process is asked to end."""
        outputs = self.project / "outputs"
        outputs.mkdir(exist_ok=True)
        server = self._serve(datasets)
        _say('eval "$(./larder env --local)"   # then: ./larder status')
        for dataset in datasets.values():
            _say(f"{dataset.name}: put an output into {outputs / dataset.source.prefix}")
        seen = _look(self.project / "datasets", "*.py")
        before: Snapshot = {}
        try:
            while True:
                now = _look(outputs, "*")
                self._upload(outputs, {path: state for path, state in now.items() if before.get(path) == state})
                before = now
                self._report(datasets)
                if (changed := _look(self.project / "datasets", "*.py")) != seen:
                    names = sorted(path.name for path, _ in set(changed.items()) ^ set(seen.items()))
                    seen = changed
                    try:
                        found = _load(self.project)
                        self.stack = deploy_again()
                    except (Refused, DatasetFileError, DatasetMistakes, BundleError, DeployError) as error:
                        _say(f"{', '.join(dict.fromkeys(names))}: the previous datasets stay deployed:\n{error}")
                    else:
                        datasets = found
                        self.shown.clear()  # the stand-in can give a changed API another address
                        server.application = build_laptop_app(self._build_handler(datasets))
                        _say(f"{', '.join(dict.fromkeys(names))} changed: deployed {', '.join(datasets)}")
                time.sleep(POLL)
        finally:
            server.close()

    def _build_handler(self, datasets: dict[str, Dataset]) -> Handler:
        served = {name: dataset.served for name, dataset in datasets.items()}
        return build_handler(build_dependencies({**os.environ, **self.variables}, served))

    def _serve(self, datasets: dict[str, Dataset]) -> Any:
        server = open_server(self._build_handler(datasets), LOOPBACK, self.port)
        self.port = port_of(server)
        threading.Thread(target=server.run, daemon=True).start()
        _say(f"documentation at http://{LOOPBACK}:{self.port}/docs")
        return server

    def _upload(self, outputs: Path, files: Snapshot) -> None:
        """Upload files that are new or changed, and that no longer grow; markers such as _SUCCESS last."""
        for path in sorted(files, key=lambda path: (path.name.startswith("_"), path)):
            if self.uploaded.get(path) != files[path]:
                object_key = path.relative_to(outputs).as_posix()
                self.client("s3").upload_file(str(path), self.stack["OutputsBucketName"], object_key)
                self.uploaded[path] = files[path]
                _say(f"uploaded {object_key}")

    def _report(self, datasets: dict[str, Dataset]) -> None:
        """Report the runs that have closed; show how to read a dataset's items once it has some."""
        ledger = Ledger(self.client("dynamodb"), self.stack["LedgerName"])
        for dataset in datasets.values():
            for run in reversed(ledger.fetch_runs(dataset.name)):
                if not run.state.is_closed or (dataset.name, run.run, run.state) in self.reported:
                    continue
                self.reported.add((dataset.name, run.run, run.state))
                counts = (
                    f"{run.counts.written} written, {run.counts.unchanged} unchanged, {run.counts.rejected} rejected"
                )
                _say(f"{run.object_key}: {run.state.value}: {run.error or counts}")
            if dataset.name not in self.shown:
                self._show(dataset)

    def _show(self, dataset: Dataset) -> None:
        """Print a token and a request for the subject of one of the dataset's items, if it has any."""
        start = f"{dataset.name}#" if dataset.served.subject else dataset.name
        paginator = self.client("dynamodb").get_paginator("scan")
        pages = paginator.paginate(
            TableName=self.stack["TableName"],
            FilterExpression="begins_with(#pk, :start) and attribute_exists(#body)",
            ExpressionAttributeNames={"#pk": PK, "#body": BODY},
            ExpressionAttributeValues={":start": {"S": start}},
        )
        pk = next((item[PK]["S"] for page in pages for item in page["Items"]), None)
        if pk is None:
            return
        values = map(unquote, pk.split("#")[1:])
        subject = dict(zip(dataset.served.subject, values, strict=True))
        path = self.tokens / dataset.name
        path.write_text(self.issuer.sign_for(dataset.served, subject, time.time()))
        self.shown.add(dataset.name)
        whose = ", ".join(f"{claim}={value}" for claim, value in subject.items())
        _say(f"{dataset.name}: a token of {whose or 'anyone'}, for 12 hours, is in {path}")
        bearer = f'-H "Authorization: Bearer $(cat {path})"'
        _say(f"curl -s {bearer} '{self.stack.base_url}/{dataset.name}?limit=5'")


def _load(project: Path) -> dict[str, Dataset]:
    """Load sound datasets, and write the contract that consumers see at /docs."""
    datasets = load_datasets()
    if not datasets:
        raise Refused(f"{project / 'datasets'} has no dataset; write one with `./larder new NAME --from FILE`")
    if mistakes := check_datasets(datasets, None):
        raise DatasetMistakes(mistakes)
    for path in write_contract(project, build_document(datasets.values())):
        _say(f"wrote {path}")
    return datasets


def _look(folder: Path, pattern: str) -> Snapshot:
    found: Snapshot = {}
    for path in sorted(folder.rglob(pattern)):
        if not any(step.startswith(".") for step in path.relative_to(folder).parts) and path.is_file():
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
            raise Refused("another `up` of this checkout runs already; use it, or end it with Ctrl-C") from None
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


def _check_port(port: int) -> None:
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        raise Refused(f"port {port} of {LOOPBACK}: {error.strerror}; end what uses it, or give --port") from error


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
