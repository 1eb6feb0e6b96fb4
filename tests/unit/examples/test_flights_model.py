"""The model: it does not use the future, is better than a guess, and is stored; and the outputs that it writes."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.flights import __main__ as cli
from examples.flights import model as model_module
from examples.flights import outputs
from examples.flights.data import flights_of, read
from examples.flights.model import Model, features, load_or_train, train, version
from examples.flights.outputs import SCHEMA, build_output, days_after, object_key, to_parquet

KNOWN_AFTERWARDS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"]
DAYS = [date(2026, 11, 20), date(2024, 2, 27), date(2025, 12, 30), date(2026, 7, 3)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model, was_there = load_or_train(tmp_path_factory.mktemp("models"))
    assert not was_there
    return model


@pytest.fixture(scope="module")
def some() -> Any:
    return read("flights").iloc[::20].copy()


@pytest.mark.long
def test_it_is_better_than_a_guess_on_unseen_days(trained: Model) -> None:
    """Delay, probability and ranking are all better than a constant, on the last three months."""
    report = trained.report
    assert report.beats_naive
    assert report.held_out > 80_000
    assert report.roc_auc > 0.62
    assert report.delay_error < report.naive_delay_error - 0.2
    assert len(report.lines()) == 3


def test_it_does_not_use_what_is_known_only_afterwards(some: pd.DataFrame) -> None:
    """Without all columns about the flight itself, its features are the same."""
    some["weekday"] = 1
    assert features(some).equals(features(some.drop(columns=KNOWN_AFTERWARDS)))


def test_training_does_not_use_the_held_out_months(some: pd.DataFrame) -> None:
    """Whatever the data from October on, training gives the same model."""
    other = some.copy()
    other.loc[other["month"] > 9, "arr_delay"] = np.random.default_rng(1).normal(500, 100, (other["month"] > 9).sum())
    some["weekday"] = 3
    one, two = train(some.drop(columns="weekday")), train(other)
    for left, right in zip(one.predict(some), two.predict(some), strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.report.delay_error != two.report.delay_error


def test_a_trained_model_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: pd.DataFrame) -> None:
    """The second call loads what the first one stored; another version of the code trains again."""
    monkeypatch.setattr(model_module, "read", lambda name: some)
    first, was_there = load_or_train(tmp_path)
    assert not was_there
    again, was_there = load_or_train(tmp_path)
    assert was_there
    assert again.version == first.version == version()
    monkeypatch.setattr(model_module, "version", lambda: "another")
    assert not load_or_train(tmp_path)[1]


@pytest.mark.long
def test_an_unknown_airline_is_scored(trained: Model) -> None:
    """A carrier or a destination that is not in the training data is not an error."""
    flights = read("flights").head(2).assign(weekday=0, carrier="??", dest="???")
    delay, probability = trained.predict(flights)
    assert np.isfinite(delay).all()
    assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize("scored", DAYS, ids=str)
@pytest.mark.long
def test_an_output_agrees_with_the_dataset(trained: Model, scored: date) -> None:
    """The columns and types of the contract, the next three days, no duplicate names, no missing predictions."""
    output = build_output(trained, scored)
    assert output.schema == SCHEMA
    assert 2_100 < output.num_rows < 3_100
    frame = output.to_pandas()
    assert sorted(set(frame["flight_date"])) == days_after(scored)
    assert not frame.duplicated(["flight_date", "origin", "carrier", "flight"]).any()
    may_be_null = {"tailnum", "scheduled_arrival"}
    assert all(output.column(name).null_count == 0 for name in set(SCHEMA.names) - may_be_null)
    assert frame["late_probability"].between(0, 1).all()
    assert frame["predicted_delay"].abs().max() < 500
    assert frame["model_version"].unique().tolist() == [trained.version]


@pytest.mark.long
def test_a_flight_scored_again_has_the_same_prediction(trained: Model) -> None:
    """The features of a flight do not depend on the day of scoring, so most of a second output is unchanged."""
    one, two = (build_output(trained, date(2026, 11, day)).to_pandas() for day in (20, 21))
    both = one.merge(two, on=list(SCHEMA.names), how="inner")
    common = one[one["flight_date"] > date(2026, 11, 21)]
    assert len(both) == len(common) > 1_500


def test_the_object_key_has_the_date() -> None:
    """The dataset takes as_of from it."""
    assert object_key(date(2026, 1, 2)) == "flight-delays/scored=2026-01-02/part-0.parquet"


@pytest.mark.long
def test_two_flights_with_one_name_are_an_error(trained: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output with a duplicate name is not written."""

    def twice(days: list[date], like: date | None) -> pd.DataFrame:
        return pd.concat([flights_of(days, like)] * 2, ignore_index=True)

    monkeypatch.setattr(outputs, "flights_of", twice)
    with pytest.raises(ValueError, match="flights with one name"):
        build_output(trained, date(2026, 11, 20))


@pytest.mark.long
def test_the_command_line_scores_a_day(
    trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`score --date` writes the file with its object key as path, and prints the path and the model's errors."""
    monkeypatch.setattr(cli, "load_or_train", lambda say: (trained, True))
    cli.main(["score", "--date", "2026-05-01", "--to", str(tmp_path)])
    written = tmp_path / object_key(date(2026, 5, 1))
    with written.open("rb") as file:
        assert pq.read_schema(file).equals(SCHEMA)
    said = capsys.readouterr().out
    assert str(written) in said
    assert "guessing the median" in said


def test_parquet_keeps_the_types() -> None:
    """A table is the same after it was written and read."""
    table = pa.table({"a": pa.array([1], pa.int32())})
    assert pq.read_table(pa.BufferReader(to_parquet(table))).schema == table.schema
