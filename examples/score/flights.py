"""Train the hybrid: lateness at arrival, from the delay at departure and from earlier batch predictions.

Each training row has only what was known when its flight departed:

- The batch model that scored a month was trained on the months before it.
- A batch prediction is used only if the run that published it had closed before the departure. It is not enough that
  its output was made before: some outputs are late. A prediction older than the definition's `max_age` is missing.
- Values are rounded as in the item.

The hybrid is the mean of two models: one with the batch predictions, and one without, which is its real-time part. The
mean was chosen on June to October: in each of these months it is better than both parts. One model with all features
is not better in August, when the batch model is far off. November and December are held out. Each month is scored by
models of the months before it; `python -m examples.score.flights` prints all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, VotingClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from threadpoolctl import threadpool_limits

from examples.flights.data import read
from examples.flights.model import CATEGORIES, LATE_MINUTES, NUMBERS, SETTINGS, features
from examples.score.training import Trained, write

MAX_AGE = timedelta(hours=36)  # as in models/flight_late.py
AHEAD = (1, 2, 3)  # days before the flight: each flight is scored in three outputs
MADE_AT = timedelta(hours=20)  # local time of day at which an output is made
USUAL, LATE_OUTPUT, EVERY = timedelta(minutes=40), timedelta(hours=30), 10  # every tenth output is late
BATCH = ["batch_late", "batch_delay"]
FEATURES = ["departure_delay", "origin", *BATCH]
FIRST_MONTH, TUNED_ON, HELD_OUT = 4, range(6, 11), (11, 12)
TREES = {
    "max_iter": 100,
    "learning_rate": 0.05,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 200,
    "random_state": 0,
}


@dataclass(frozen=True)
class Report:
    """Brier score (lower is better) and ROC AUC (higher is better) of the hybrid and its parts on some flights."""

    flights: int
    missing: float  # share of the flights without a batch prediction
    brier: dict[str, float]
    roc_auc: dict[str, float]

    def __str__(self) -> str:
        """Render it as a few words."""
        shown = "; ".join(f"{name}: Brier {self.brier[name]:.5f}, AUC {self.roc_auc[name]:.4f}" for name in self.brier)
        return f"{self.flights:,} flights, {self.missing:.1%} without a batch prediction; {shown}"


def train_flights(folder: Path) -> Trained:
    """Train the hybrid, and measure it and its parts.

    Raises:
        RuntimeError: the hybrid does not beat both parts in the mean of the held-out months.
    """
    with threadpool_limits(1, "openmp"):
        known = build_rows()
        early, held_out = known[known["month"] < HELD_OUT[0]], known[known["month"].isin(HELD_OUT)]
        hybrid = build_hybrid().fit(early[FEATURES], early["late"])
        reports = measure_months(known, HELD_OUT)
    if not beats_both(list(reports.values())):
        raise RuntimeError(f"the hybrid does not beat both parts:\n{render_reports(reports)}")
    rows = held_out[FEATURES].sample(5_000, random_state=0)
    training = early[FEATURES].sample(20_000, random_state=0)
    return write(folder, hybrid, rows, training, ("on time", "late"), render_reports(reports))


def measure_months(known: pd.DataFrame, months: Iterable[int]) -> dict[int, Report]:
    """Measure each month with a hybrid of the months before it."""
    return {month: measure(known[known["month"] < month], known[known["month"] == month]) for month in months}


def measure(early: pd.DataFrame, rows: pd.DataFrame) -> Report:
    """Train the hybrid on `early`, and measure it and its parts on `rows`."""
    hybrid = build_hybrid().fit(early[FEATURES], early["late"])
    answers = {
        "hybrid": hybrid.predict_proba(rows[FEATURES])[:, 1],
        "real time": hybrid.named_estimators_["real_time"].predict_proba(rows[FEATURES])[:, 1],
        # The batch prediction alone; where there is none, the share of late flights.
        "batch": rows["batch_late"].fillna(early["late"].mean()).to_numpy(),
    }
    return Report(
        flights=len(rows),
        missing=float(rows["batch_late"].isna().mean()),
        brier={name: float(brier_score_loss(rows["late"], answer)) for name, answer in answers.items()},
        roc_auc={name: float(roc_auc_score(rows["late"], answer)) for name, answer in answers.items()},
    )


def beats_both(reports: Sequence[Report]) -> bool:
    """Return whether the hybrid is better than each of its parts in both measures, in the mean of some months."""
    return all(
        mean(each.brier["hybrid"] - each.brier[part] for each in reports) < 0
        and mean(each.roc_auc["hybrid"] - each.roc_auc[part] for each in reports) > 0
        for part in ("batch", "real time")
    )


def render_reports(reports: Mapping[int, Report]) -> str:
    """Render a line for each month."""
    return "\n".join(f"2013-{month:02}: {report}" for month, report in reports.items())


def build_rows() -> pd.DataFrame:
    """Build a row per flight from April on, with the features known at its departure, and whether it arrived late."""
    flights = read("flights").dropna(subset=["dep_delay", "arr_delay"])
    days = pd.to_datetime(flights[["year", "month", "day"]])
    flights = flights.assign(
        weekday=days.dt.day_of_week,
        scheduled=days + pd.to_timedelta(flights["hour"] * 60 + flights["minute"], unit="min"),
        late=(flights["arr_delay"] > LATE_MINUTES).astype(int),
        departure_delay=flights["dep_delay"].astype(int),
    )
    scored = score_months(flights)
    departed = scored["scheduled"] + pd.to_timedelta(scored["departure_delay"], unit="min")
    return scored.assign(**{name: find_known(scored[name], scored["scheduled"], departed) for name in BATCH})


def score_months(flights: pd.DataFrame) -> pd.DataFrame:
    """Return the flights from April on with both batch predictions, by models trained on the months before."""
    scored = []
    for month in range(FIRST_MONTH, 13):
        before, now = flights[flights["month"] < month], flights[flights["month"] == month]
        late = _batch(HistGradientBoostingClassifier(**SETTINGS)).fit(features(before), before["late"])
        delay = _batch(HistGradientBoostingRegressor(loss="absolute_error", **SETTINGS))
        delay.fit(features(before), before["arr_delay"])
        scored.append(
            now.assign(
                batch_late=late.predict_proba(features(now))[:, 1].round(3),
                batch_delay=delay.predict(features(now)).round(1),
            )
        )
    return pd.concat(scored)


def _batch(estimator: Any) -> Pipeline:
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(make_column_transformer((encoder, CATEGORIES), ("passthrough", NUMBERS)), estimator)


def find_known(
    predictions: pd.Series[float], scheduled: pd.Series[pd.Timestamp], departed: pd.Series[pd.Timestamp]
) -> pd.Series[float]:
    """Return the predictions that were published before the departure and are not older than `MAX_AGE`; else NaN."""
    is_known = np.zeros(len(predictions), dtype=bool)
    for days in AHEAD:
        made = scheduled.dt.normalize() - pd.Timedelta(days=days) + pd.Timedelta(MADE_AT)
        is_late = made.dt.day_of_year % EVERY == 0
        closed = (made + pd.Timedelta(USUAL)).mask(is_late, made + pd.Timedelta(LATE_OUTPUT))
        is_known |= ((closed <= departed) & (departed - made <= pd.Timedelta(MAX_AGE))).to_numpy()
    return predictions.where(is_known)


def build_hybrid() -> Any:
    """Build the estimator: the mean of a model with the batch predictions and of one without."""
    parts = [("both", _pipeline(FEATURES)), ("real_time", _pipeline(FEATURES[:2]))]
    return VotingClassifier(parts, voting="soft")


def _pipeline(columns: list[str]) -> Any:
    numbers = [name for name in columns if name != "origin"]
    encoder = make_column_transformer((OneHotEncoder(sparse_output=False), ["origin"]), ("passthrough", numbers))
    return make_pipeline(encoder, HistGradientBoostingClassifier(**TREES))


if __name__ == "__main__":
    with threadpool_limits(1, "openmp"):
        print(render_reports(measure_months(build_rows(), [*TUNED_ON, *HELD_OUT])))
