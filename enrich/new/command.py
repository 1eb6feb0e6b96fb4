"""`./larder new NAME --from LOCATION`: write datasets/NAME.py, ready for `check`; all of it or nothing."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Dataset
from enrich.dataset.validation import check_datasets
from enrich.datasets import DatasetFileError, load_datasets
from enrich.new.draft import Draft, describe, find_candidates, render_dataset, to_module_name
from enrich.new.object_keys import guess_prefix, render_as_of
from enrich.new.sample import BadSample, Sample, read_sample
from wire.scratch import open_scratch


def create_dataset(options: argparse.Namespace, folder: Path, others: Mapping[str, Dataset]) -> Path:
    """Write the file of a dataset and return its path; on a terminal, ask for choices that no option makes.

    Args:
        options: the command's options.
        folder: the folder of the datasets.
        others: the existing datasets, by name.

    Raises:
        BadSample: the sample can't be used, an option names an unknown column, or the dataset would have a mistake;
            nothing is written.
    """
    name = options.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) or name.lower() in ("health", "models"):
        raise BadSample(
            f"the name is {name!r}; use 1 to 64 ASCII letters, digits, - and _, and not 'health' or 'models'"
        )
    path = folder / f"{to_module_name(name)}.py"
    if name in others:
        raise BadSample(f"there is already a dataset {name!r}; choose another name, or delete its file")
    if path.exists():
        raise BadSample(f"{path} already exists; choose another name, or delete it")
    sample = read_sample(options.location, _open_s3)
    subjects, ids = find_candidates(sample)
    subject = _choose("subject", "whom a prediction belongs to", options.subject, subjects, sample)
    ids = [each for each in ids if each != subject] + [each for each in ids if each == subject]
    if not ids and not options.prediction_id:
        raise BadSample(
            f"{sample.location}: no column names a prediction within its {subject}: each has equal values in two rows; "
            "give --prediction-id, or another --subject"
        )
    prediction_id = _choose("prediction_id", "names a prediction", options.prediction_id, ids, sample)
    draft = Draft(
        name=name,
        prefix=options.prefix or (guess_prefix(sample.object_key, name) if _is_on_s3(options.location) else f"{name}/"),
        subject=subject,
        claim=options.claim or subject,
        prediction_id=prediction_id,
        scope=options.scope or f"{name}:read",
        days=options.ttl_days,
    )
    text = render_dataset(sample, draft)
    _check(text, path.name, others)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    found = {"subject": subject, "prediction_id": prediction_id, "as_of": render_as_of(sample.as_of)}
    print(describe(sample, {**found, "prefix": draft.prefix}), file=sys.stderr)  # noqa: T201
    return path


def _choose(what: str, means: str, given: str | None, candidates: Sequence[str], sample: Sample) -> str:
    """Return the column that an option names or the user chooses on a terminal; otherwise the best candidate."""
    is_asked = given is None and sys.stdin.isatty()
    while True:
        if is_asked:
            others = f"; or {', '.join(candidates[1:])}" if candidates[1:] else ""
            print(f"{what} ({means}) [{candidates[0]}]{others}: ", end="", file=sys.stderr, flush=True)  # noqa: T201
            given = sys.stdin.readline().strip() or None
        if given is None:
            return candidates[0]
        if given in sample.columns:
            return given
        message = f"{what}: {sample.location} has no column {given!r}; it has {', '.join(sample.columns)}"
        if not is_asked:
            raise BadSample(message)
        print(message, file=sys.stderr)  # noqa: T201


def _is_on_s3(location: str) -> bool:
    return location.startswith("s3://")


def _check(text: str, file_name: str, others: Mapping[str, Dataset]) -> None:
    """Refuse a dataset that `check` would refuse."""
    with tempfile.TemporaryDirectory(dir=open_scratch()) as folder:
        (Path(folder) / file_name).write_text(text, encoding="utf-8")
        try:
            datasets = load_datasets(Path(folder))
        except DatasetFileError as error:
            raise BadSample(str(error)) from error
    if mistakes := check_datasets({**others, **datasets}, None):
        raise BadSample("\n".join(["the dataset would have mistakes; nothing was written:", *map(str, mistakes)]))


def _open_s3() -> Any:
    import boto3

    return boto3.client("s3", region_name=os.environ.get("AWS_REGION") or None)
