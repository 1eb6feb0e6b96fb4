"""The worked examples, each by its one command: trained on real data, published, promoted, and loaded."""

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
    """Run an example's command with a bucket; return what a container loads, what was printed, and the report."""
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
    """The answer that the request of the README has."""
    serving, document, _ = publish("iris")
    (answer,) = serving.live.predict([VIRGINICA])
    labels = serving.live.manifest.labels
    assert (labels[int(np.argmax(answer))], round(max(answer), 4)) == ("virginica", 0.9997)
    assert document["rows"]["thresholds"] > 1000
    missing = serving.live.predict([{**VIRGINICA, "petal_width": None}])
    assert np.isfinite(missing).all()


def test_wine(publish: Any) -> None:
    """A scaler before trees is exact; the model is declared for direct calls."""
    serving, document, report = publish("wine")
    assert serving.live.manifest.labels == ("class_0", "class_1", "class_2")
    assert serving.live.model.direct
    assert document["largest_difference"] < 1e-6
    assert "held-out rows right" in report


def test_flight_late(publish: Any) -> None:
    """The hybrid beats both of its parts on held-out days, and answers with and without the stored features."""
    serving, _, _ = publish("flight-late")
    assert serving.live.manifest.labels == ("on time", "late")
    row = {"departure_delay": 25, "origin": "JFK", "batch_late": 0.4, "batch_delay": 12.5}
    with_batch, without = serving.live.predict([row, {**row, "batch_late": None, "batch_delay": None}])
    assert with_batch != without


@pytest.mark.parametrize("name", ["iris", "wine", "newsgroups", "flight-late"])
def test_each_example_answers_on_a_deployed_stack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its one command: over HTTP, wine by boto3's `invoke` too, flight-late with a stored prediction."""
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


def test_the_version_of_the_demo_is_what_the_example_trains(publish: Any) -> None:
    """Made before, so that the demo needs no converter: it answers as a new one."""
    manifest = parse_manifest((FOLDER / "manifest.json").read_bytes(), "manifest.json")
    scorer = load_scorer((FOLDER / "model.onnx").read_bytes(), manifest, iris)
    serving, _, _ = publish("iris")
    rows = [golden.instance for golden in serving.live.manifest.golden]
    assert np.allclose(scorer.predict(rows), serving.live.predict(rows), atol=1e-5)


def test_newsgroups(publish: Any) -> None:
    """Real posts: four of five held-out ones get their newsgroup."""
    serving, _, report = publish("newsgroups")
    assert float(report.partition("%")[0]) > 80
    (answer,) = serving.live.predict([{"text": "The shuttle reached its orbit; NASA will launch another satellite."}])
    assert serving.live.manifest.labels[int(np.argmax(answer))] == "sci.space"


def test_what_was_known_at_departure() -> None:
    """A prediction counts from the close of its run on, and up to its greatest age; a late output does not count."""
    scheduled = pd.Series(
        pd.to_datetime(["2013-05-02 09:00", "2013-05-02 09:00", "2013-04-11 09:00", "2013-05-02 00:10"])
    )
    # Departs on time; two hours late; the output of 10 April (day 100) came late; nothing of the day before has closed
    departed = scheduled + pd.to_timedelta([0, 120, 0, 0], unit="min")
    known = find_known(pd.Series([0.1, 0.2, 0.3, 0.4]), scheduled, departed)
    assert known.isna().tolist() == [False, False, True, False]
    much_later = find_known(pd.Series([0.5]), scheduled[:1], scheduled[:1] + MAX_AGE)
    assert much_later.isna().all()
