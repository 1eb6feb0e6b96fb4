"""Predict how late a flight arrives: train on nine months of 2013, measure on the last three.

All features are known days before departure: carrier, route, weekday, scheduled times, and the number of flights
scheduled in that hour. The model does not use actual times, the departure delay (almost the answer), the tail number
(planes are swapped on the day), or the weather (it was observed, not forecast).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from examples.flights.data import read

LATE_MINUTES = 30
LAST_TRAINING_MONTH = 9
CATEGORIES = ["carrier", "origin", "dest"]
NUMBERS = ["weekday", "minute_of_day", "scheduled_minutes", "traffic", "distance"]
SETTINGS = {"max_iter": 60, "learning_rate": 0.15, "max_leaf_nodes": 15, "min_samples_leaf": 50, "random_state": 0}
DIRECTORY = Path(__file__).parents[2] / ".larder" / "flights"


@dataclass(frozen=True)
class Report:
    """Errors on held-out days, each with that of a constant guess.

    Delay: mean absolute error in minutes; the guess is the median. Probability: Brier score, for which the guess is the
    share of late flights, and the area under the ROC curve, which is 0.5 for any constant.
    """

    trained_on: int
    held_out: int
    delay_error: float
    naive_delay_error: float
    roc_auc: float
    brier: float
    naive_brier: float

    @property
    def beats_naive(self) -> bool:
        """Whether the model is better than the guess by all three measures."""
        return self.delay_error < self.naive_delay_error and self.brier < self.naive_brier and self.roc_auc > 0.5

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [
            f"trained on {self.trained_on:,} flights (January to September 2013), "
            f"held out {self.held_out:,} (October to December)",
            f"arrival delay: off by {self.delay_error:.2f} minutes on average; guessing the median: "
            f"{self.naive_delay_error:.2f}",
            f"more than {LATE_MINUTES} minutes late: ROC AUC {self.roc_auc:.3f} (a guess has 0.5), "
            f"Brier score {self.brier:.4f} (guess: {self.naive_brier:.4f})",
        ]


@dataclass(frozen=True)
class Model:
    """The two trained estimators, their version, and their report."""

    version: str
    delay: Pipeline
    late: Pipeline
    report: Report

    def predict(self, flights: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Predict arrival delays in minutes and probabilities of being late, one of each per flight (float32)."""
        known = features(flights)
        with threadpool_limits(1, "openmp"):
            delay, late = self.delay.predict(known), self.late.predict_proba(known)[:, 1]
        return delay.astype(np.float32), late.astype(np.float32)


def features(flights: pd.DataFrame) -> pd.DataFrame:
    """Build the features from a schedule (see `data.flights_of`)."""
    known = flights[[*CATEGORIES, "traffic", "distance"]].copy()
    known["weekday"] = flights["weekday"]
    known["minute_of_day"] = flights["hour"] * 60 + flights["minute"]
    arrival = flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100
    # Local arrival time minus local departure time; the route determines the time zones.
    known["scheduled_minutes"] = (arrival - known["minute_of_day"]) % (24 * 60)
    return known[[*CATEGORIES, *NUMBERS]]


def load_or_train(directory: Path = DIRECTORY, say: Callable[[str], object] = str) -> tuple[Model, bool]:
    """Load the stored model, or train one and store it.

    Args:
        directory: where models are stored, within this checkout: a model is a pickle, and loading it executes code.
        say: called with a text at each step.

    Returns:
        The model, and whether it had been stored.
    """
    path = directory / f"model-{version()}.joblib"
    if path.exists():
        return joblib.load(path), True
    say("reading the flights of 2013")
    model = train(read("flights"), say)
    directory.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    joblib.dump(model, partial)
    partial.replace(path)
    return model, False


def train(flights: pd.DataFrame, say: Callable[[str], object] = str) -> Model:
    """Train on the flights up to September and measure on the rest; cancelled and diverted flights have no delay."""
    flown = flights.dropna(subset=["arr_delay"])
    days = pd.to_datetime(flown[["year", "month", "day"]])
    flown = flown.assign(weekday=days.dt.day_of_week)
    early = flown["month"] <= LAST_TRAINING_MONTH
    train_on, held_out = flown[early], flown[~early]
    delay = _pipeline(HistGradientBoostingRegressor(loss="absolute_error", **SETTINGS))
    late = _pipeline(HistGradientBoostingClassifier(**SETTINGS))
    # One thread: on a busy machine two threads wait for each other, and training takes 21 s instead of 4.
    with threadpool_limits(1, "openmp"):
        say(f"training on {len(train_on):,} flights: minutes of delay")
        delay.fit(features(train_on), train_on["arr_delay"])
        say(f"training on {len(train_on):,} flights: probability of more than {LATE_MINUTES} minutes")
        late.fit(features(train_on), train_on["arr_delay"] > LATE_MINUTES)
        say(f"measuring on {len(held_out):,} held-out flights")
        return Model(version(), delay, late, _measure(delay, late, train_on, held_out))


def version() -> str:
    """Return the version: a digest of this file, the libraries and the settings."""
    made_of = f"{sklearn.__version__} {np.__version__} {SETTINGS}".encode() + Path(__file__).read_bytes()
    return f"{LAST_TRAINING_MONTH:02d}-2013.{hashlib.sha256(made_of).hexdigest()[:8]}"


def _pipeline(estimator: object) -> Pipeline:
    # A destination that is not in the training data is a missing value, not an error.
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = make_column_transformer((encoder, CATEGORIES), remainder="passthrough")
    estimator.set_params(categorical_features=list(range(len(CATEGORIES))))  # type: ignore[attr-defined]
    return make_pipeline(columns, estimator)


def _measure(delay: Pipeline, late: Pipeline, train_on: pd.DataFrame, held_out: pd.DataFrame) -> Report:
    actual = held_out["arr_delay"]
    was_late = actual > LATE_MINUTES
    known = features(held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probability = late.predict_proba(known)[:, 1]
        return Report(
            trained_on=len(train_on),
            held_out=len(held_out),
            delay_error=float(mean_absolute_error(actual, delay.predict(known))),
            naive_delay_error=float((actual - train_on["arr_delay"].median()).abs().mean()),
            roc_auc=float(roc_auc_score(was_late, probability)),
            brier=float(brier_score_loss(was_late, probability)),
            naive_brier=float(((train_on["arr_delay"] > LATE_MINUTES).mean() - was_late).pow(2).mean()),
        )
