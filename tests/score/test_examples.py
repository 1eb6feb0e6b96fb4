"""The worked examples, each with its one command: trained on real data, published, promoted, and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from enrich.datasets import load_served
from examples.score import __main__ as examples
from examples.score.flights import MAX_AGE, find_known
from examples.score.local import BODIES
from examples.score.models.iris import iris
from examples.score.pretrained import FOLDER
from score.manifest import parse_manifest
from score.models import load_models
from score.scorer import load_scorer
from score.store import Fetched, ModelStore, Serving
from tests.doubles.moto_aws import moto_aws

PROJECT = Path(examples.__file__).parent
VIRGINICA = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 5.1, "petal_width": 1.8}


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run an example's command with a bucket; return what a container loads, the JSON document, and the report."""
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    monkeypatch.setenv("LARDER_PROJECT", str(PROJECT))
    with moto_aws() as client:
        s3 = client("s3")
        s3.create_bucket(Bucket="larder")

        def fetch(key: str, etag: str | None) -> Fetched:
            found = s3.get_object(Bucket="larder", Key=key)
            return Fetched(found["Body"].read(), found["ETag"])

        def run(name: str) -> tuple[Serving, dict[str, Any], str]:
            assert examples.main([name, "--bucket", "larder", "--promote", "--json"]) == 0
            *report, document = capsys.readouterr().out.splitlines()
            models = load_models(load_served(PROJECT / "datasets"), PROJECT / "models")
            store = ModelStore(fetch, models, lambda event, details: None)
            return store.current(name, 0), json.loads(document), "\n".join(report)

        yield run


def test_iris(publish: Any) -> None:
    """The request of the README has the answer of the README."""
    serving, document, _ = publish("iris")
    (answer,) = serving.live.predict([VIRGINICA])
    labels = serving.live.manifest.labels
    assert (labels[int(np.argmax(answer))], round(max(answer), 4)) == ("virginica", 0.9997)
    assert document["rows"]["thresholds"] > 1000
    missing = serving.live.predict([{**VIRGINICA, "petal_width": None}])
    assert np.isfinite(missing).all()


def test_wine(publish: Any) -> None:
    """A scaler before trees is converted exactly; the model accepts direct invocations."""
    serving, document, report = publish("wine")
    assert serving.live.manifest.labels == ("class_0", "class_1", "class_2")
    assert serving.live.model.direct
    assert document["largest_difference"] < 1e-6
    assert "held-out rows right" in report


def test_flight_late(publish: Any) -> None:
    """The hybrid answers with and without the stored features, and they change the answer."""
    serving, _, _ = publish("flight-late")
    assert serving.live.manifest.labels == ("on time", "late")
    row = {"departure_delay": 25, "origin": "JFK", "batch_late": 0.4, "batch_delay": 12.5}
    with_batch, without = serving.live.predict([row, {**row, "batch_late": None, "batch_delay": None}])
    assert with_batch != without


@pytest.mark.parametrize("name", ["iris", "wine", "newsgroups", "flight-late"])
def test_each_example_answers_on_a_deployed_stack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All by HTTP; wine also by boto3's `invoke`; flight-late with a stored prediction."""
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert examples.main([name, "--local"]) == 0
    shown = capfd.readouterr().out
    assert shown.count("-> 200") == len(BODIES[name])
    expected = {
        "iris": ['{"prediction": {"label": "virginica", "probability": 0.9997}}'],
        "wine": ["lambda.invoke", '{"prediction": {"label": "class_0"'],
        "newsgroups": ['["sci.space", "rec.sport.hockey"]'],
        "flight-late": ['"stored": {"batch_late": {"as_of": "', '"run": 1}'],
    }[name]
    assert not [text for text in expected if text not in shown], shown


def test_the_version_of_the_demo_answers_as_a_new_one(publish: Any) -> None:
    """The repository has the demo's version, so that the demo needs no converter."""
    manifest = parse_manifest((FOLDER / "manifest.json").read_bytes(), "manifest.json")
    scorer = load_scorer((FOLDER / "model.onnx").read_bytes(), manifest, iris)
    serving, _, _ = publish("iris")
    rows = [golden.instance for golden in serving.live.manifest.golden]
    assert np.allclose(scorer.predict(rows), serving.live.predict(rows), atol=1e-5)


def test_newsgroups(publish: Any) -> None:
    """More than 80 % of the held-out posts get the right newsgroup."""
    serving, _, report = publish("newsgroups")
    assert float(report.partition("%")[0]) > 80
    (answer,) = serving.live.predict([{"text": "The shuttle reached its orbit; NASA will launch another satellite."}])
    assert serving.live.manifest.labels[int(np.argmax(answer))] == "sci.space"


def test_what_was_known_at_departure() -> None:
    """A prediction is known from the close of its run until its greatest age; a late output is not known in time."""
    scheduled = pd.Series(
        pd.to_datetime(["2013-05-02 09:00", "2013-05-02 09:00", "2013-04-11 09:00", "2013-05-02 00:10"])
    )
    # On time; two hours late; the output of 10 April (day 100) was late; no run of the day before has closed yet.
    departed = scheduled + pd.to_timedelta([0, 120, 0, 0], unit="min")
    known = find_known(pd.Series([0.1, 0.2, 0.3, 0.4]), scheduled, departed)
    assert known.isna().tolist() == [False, False, True, False]
    much_later = find_known(pd.Series([0.5]), scheduled[:1], scheduled[:1] + MAX_AGE)
    assert much_later.isna().all()
