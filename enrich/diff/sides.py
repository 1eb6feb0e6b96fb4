"""Find the two outputs of a diff: by the number of a run, a location on S3, or a path of this machine. I/O on both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from botocore.exceptions import ClientError

from enrich.dataset.definition import Dataset
from enrich.dataset.suggestions import suggest
from enrich.errors import Failed
from enrich.intake.queue import repeat
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind
from enrich.read.outputs import fetch_folder, fetch_output, is_data
from enrich.read.s3_object import Part
from enrich.s3 import split_location
from enrich.services import Services

FORMS = "expected a run (12, or DATASET/12), s3://bucket/object_key, s3://bucket/prefix/, or a file or folder"
_RUN = re.compile(r"(?:(?P<dataset>[^/\s]+)/)?(?P<number>\d{1,15})")


class LocalPart(Part):
    """A file of this machine as a part of an output; its object key is the path."""

    @property
    def name(self) -> str:
        """Return its name in messages."""
        return self.object_key


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two outputs.

    Attributes:
        label: `A` or `B`.
        name: its name in messages.
        run: a run record for the stages. It is not in the ledger: its number is 0.
        parts: the parts of the output; None for a run, which has pinned its own.
        earlier: the run that was given; None for an output.
    """

    label: str
    name: str
    run: Run
    parts: tuple[Part, ...] | None = None
    earlier: Run | None = None


class _Named(NamedTuple):
    """What an argument names: a run by its number, an object or a prefix on S3, or a path."""

    label: str
    text: str
    dataset: str | None = None  # the dataset that the argument itself names, or whose prefix it is under
    number: int | None = None
    path: Path | None = None


def find_sides(services: Services, a: str, b: str, dataset: str | None) -> tuple[Dataset, Side, Side]:
    """Find two outputs of one dataset.

    Args:
        services: the stack's services.
        a: a run's number, `DATASET/NUMBER`, `s3://...`, or a path.
        b: the same of the other output.
        dataset: its name; None: the one that a or b names, or the only one.

    Raises:
        Failed: nothing is there, a run is not known, or the two are of different datasets.
    """
    named = [_parse(services.datasets, label, text) for label, text in (("A", a), ("B", b))]
    chosen = services.datasets[_choose_dataset(services.datasets, named, dataset)]
    one, other = (_find_side(services, chosen, each) for each in named)
    return chosen, one, other


def _parse(datasets: Mapping[str, Dataset], label: str, text: str) -> _Named:
    if text.startswith("s3://"):
        return _Named(label, text, _find_by_prefix(datasets, split_location(text)[1]))
    if run := _RUN.fullmatch(text):
        name = run["dataset"]
        if name is None or name in datasets:
            return _Named(label, text, name, int(run["number"]))
        if not Path(text).exists():
            raise Failed(f"{label} is {text!r}: no dataset {name!r}; {suggest(name, datasets)}")
    path = Path(text).expanduser()
    if not path.exists():
        raise Failed(f"{label} is {text!r}: there is no such file or folder; {FORMS}")
    key = f"{path.resolve().as_posix().removeprefix('/')}{'/' if path.is_dir() else ''}"
    starts = [at.end() for at in re.finditer("/", key)]
    found = {name for start in starts if (name := _find_by_prefix(datasets, key[start:]))}
    return _Named(label, text, found.pop() if len(found) == 1 else None, path=path)


def _find_by_prefix(datasets: Mapping[str, Dataset], object_key: str) -> str | None:
    folder = f"{object_key}/"
    found = [each for each in datasets.values() if folder.startswith(each.source.prefix)]
    return max(found, key=lambda each: len(each.source.prefix)).name if found else None


def _choose_dataset(datasets: Mapping[str, Dataset], named: list[_Named], given: str | None) -> str:
    if given is not None and given not in datasets:
        raise Failed(f"no dataset {given!r}; {suggest(given, datasets)}")
    for each in named:  # a run has one dataset, whatever the option says
        if given is not None and each.number is not None and each.dataset not in {None, given}:
            raise Failed(f"{each.label} is a run of {each.dataset}, and --dataset says {given}; leave --dataset out")
    if given is not None:
        return given
    found = {each.dataset: each for each in named if each.dataset is not None}
    if len(found) > 1:
        which = " and ".join(f"{each.label} ({each.text}) is of {name}" for name, each in found.items())
        raise Failed(
            f"{which}: expected two outputs of one dataset, since datasets have different members. If one was "
            "copied elsewhere, name the dataset of both: --dataset NAME"
        )
    if found:
        return next(str(name) for name in found)
    if len(datasets) == 1:
        return next(iter(datasets))
    raise Failed(
        f"neither {named[0].text!r} nor {named[1].text!r} names its dataset; add --dataset NAME: "
        f"{', '.join(sorted(datasets))}"
    )


def _find_side(services: Services, dataset: Dataset, named: _Named) -> Side:
    if named.number is not None:
        return _find_run(services, dataset, named)
    found = _list_local(dataset, named) if named.path else _fetch_s3(services, dataset, named)
    if not found:
        raise Failed(
            f"{named.label} is {named.text!r}: there is no output; {FORMS}"
            + (f". An output of {dataset.name} is closed by {dataset.source.marker}" if dataset.source.marker else "")
        )
    first = found[0]
    run = Run(
        dataset=dataset.name, run=0, bucket=first.bucket, object_key=named.text, identity=named.text, arrived_ms=0
    )
    return Side(named.label, named.text, run, tuple(found))


def _find_run(services: Services, dataset: Dataset, named: _Named) -> Side:
    earlier = services.ledger.get_run(dataset.name, named.number or 0)
    if earlier is None:
        raise Failed(
            f"{named.label} is {named.text!r}: the ledger has no run {named.number} of {dataset.name}; "
            f"`./larder status {dataset.name}` lists them"
        )
    if earlier.kind is Kind.REMOVAL:
        raise Failed(
            f"{named.label} is {named.text!r}: run {earlier.run} is a withdrawal and served nothing; compare the "
            f"run that it withdrew, {earlier.of_run}"
        )
    again = repeat(earlier, Kind.REJECTS if earlier.kind is Kind.REJECTS else Kind.REPLAY)
    name = f"run {earlier.run} of {dataset.name}, s3://{earlier.bucket}/{earlier.object_key}"
    return Side(named.label, name, replace(again, metadata=earlier.metadata), earlier=earlier)


def _fetch_s3(services: Services, dataset: Dataset, named: _Named) -> list[Part]:
    """Fetch an output: an object, the parts of a marker, or, without a marker, all files under a prefix."""
    bucket, object_key = split_location(named.text)
    marker, folder = dataset.source.marker, f"{object_key.removesuffix('/')}/" if object_key else ""
    is_closed_by = marker and object_key.rpartition("/")[2] != marker
    try:
        if is_closed_by or not folder or object_key.endswith("/"):
            output = fetch_output(services.s3, dataset, bucket, f"{folder}{marker}") if marker else None
        else:
            output = fetch_output(services.s3, dataset, bucket, object_key)
        if output is None and not marker:
            return fetch_folder(services.s3, bucket, folder)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise Failed(
            f"{named.label} is {named.text!r}: S3 refuses to list or read it: {code}; check the bucket's name and your "
            "permissions"
        ) from error
    if output and output.problems:
        raise Failed(f"{named.label} is s3://{bucket}/{output.object_key}, which {output.problems[0]}")
    return list(output.parts) if output else []


def _list_local(dataset: Dataset, named: _Named) -> list[Part]:
    path = named.path or Path()
    if path.is_file():
        paths = [path]
    else:
        paths = [each for each in sorted(path.rglob("*")) if each.is_file() and _is_part(dataset, each, path)]
    return [LocalPart("", each.as_posix(), None, "", each.stat().st_size) for each in paths]


def _is_part(dataset: Dataset, path: Path, folder: Path) -> bool:
    return is_data(path.relative_to(folder).as_posix()) and path.name != dataset.source.marker
