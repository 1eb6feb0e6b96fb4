"""Conversions with the real converters: a published model equals the original, and a model that differs is refused.

`tox -e score` runs these tests: the default environment does not have the libraries.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skl2onnx
import xgboost
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from score.__main__ import main
from score.manifest import parse_manifest
from score.model import Category, Feature, Model, Number, Text
from score.paths import manifest_key, model_key
from score.publish import build, convert, rows
from score.publish.build import Built, build_version
from score.publish.errors import Refused
from score.publish.original import build_frame
from score.publish.proof import predict_all
from score.scorer import load_scorer
from tests.doubles.moto_aws import moto_aws

NUMBERS: dict[str, Feature] = {"a": Number(), "b": Number(), "c": Number(integer=True)}
GAPS: dict[str, Feature] = {"a": Number(missing=None), "b": Number(missing=None), "c": Number(integer=True)}
MIXED: dict[str, Feature] = {**NUMBERS, "k": Category(("x", "y", "z")), "m": Category(("p", "q"))}
MIXED_GAPS: dict[str, Feature] = {**GAPS, "k": Category(("x", "y", "z"), missing=None), "m": Category(("p", "q"))}
COUNT, TRAINED = 900, 600


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search for a tenth of the thresholds, since the table has many models."""
    monkeypatch.setattr(rows, "PAIRS", 200)
    monkeypatch.setattr(rows, "PAIRS_WITH_TEXT", 20)


def table(features: Mapping[str, Feature]) -> pd.DataFrame:
    """Make rows of some features, and the target y; some values are missing if the feature allows it."""
    chance = np.random.default_rng(1)
    made = pd.DataFrame(
        {
            "a": chance.normal(50, 20, COUNT),
            "b": chance.exponential(3, COUNT).round(2),
            "c": chance.integers(0, 30, COUNT),
            "k": chance.choice(["x", "y", "z"], COUNT),
            "m": chance.choice(["p", "q"], COUNT),
        }
    )
    made["y"] = (made.a - 50) / 20 + made.b / 3 + (made.k == "x") * 2 - made.c % 5 + chance.normal(0, 0.5, COUNT)
    for name, kind in features.items():
        if kind.missing is None:
            made.loc[chance.choice(COUNT, 60), name] = None
    return made[[*features, "y"]]


def define(features: Mapping[str, Feature], task: Any = "classification") -> Model:
    """Define a model."""
    return Model("tried", ("sub",), None, task, features)


def publish(folder: Path, estimator: Any, features: Mapping[str, Feature], *, regression: bool = False) -> Built:
    """Train an estimator, write its files, and build a version."""
    made = table(features)
    target = made["y"] if regression else np.where(made["y"] > 0, "late", "on time")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(made[list(features)][:TRAINED], target[:TRAINED])
        joblib.dump(estimator, folder / "model.joblib")
        made[list(features)][TRAINED:].to_parquet(folder / "rows.parquet")
        model = define(features, "regression" if regression else "classification")
        return build_version(model, str(folder / "model.joblib"), folder / "rows.parquet")


def columns(*transformers: Any, **options: Any) -> Any:
    """Make a ColumnTransformer."""
    return make_column_transformer(*transformers, **options)


TREES = {"n_estimators": 10, "random_state": 0}
BOOSTED = {"max_iter": 20, "random_state": 0}
EXACT: dict[str, tuple[Any, Mapping[str, Feature]]] = {
    "scaler, logistic": (make_pipeline(StandardScaler(), LogisticRegression()), NUMBERS),
    "tree": (DecisionTreeClassifier(random_state=0), NUMBERS),
    "scaler, forest": (make_pipeline(StandardScaler(), RandomForestClassifier(**TREES)), NUMBERS),
    "min-max, extra trees": (make_pipeline(MinMaxScaler(), ExtraTreesClassifier(**TREES)), NUMBERS),
    "scaler, boosting": (make_pipeline(StandardScaler(), GradientBoostingClassifier(**TREES)), NUMBERS),
    "imputer, scaler, boosting": (
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), GradientBoostingClassifier(**TREES)),
        GAPS,
    ),
    "imputer with indicator": (make_pipeline(SimpleImputer(add_indicator=True), RandomForestClassifier(**TREES)), GAPS),
    "hist, missing": (HistGradientBoostingClassifier(**BOOSTED), GAPS),
    "scaler, hist": (make_pipeline(StandardScaler(), HistGradientBoostingClassifier(**BOOSTED)), GAPS),
    "ordinal, hist": (
        make_pipeline(
            columns((OrdinalEncoder(), ["k", "m"]), remainder="passthrough"), HistGradientBoostingClassifier(**BOOSTED)
        ),
        MIXED,
    ),
    "one-hot, hist": (
        make_pipeline(
            columns((OneHotEncoder(sparse_output=False), ["k", "m"]), remainder="passthrough"),
            HistGradientBoostingClassifier(**BOOSTED),
        ),
        MIXED,
    ),
    "one-hot, logistic": (
        make_pipeline(columns((StandardScaler(), list("abc")), (OneHotEncoder(), ["k", "m"])), LogisticRegression()),
        MIXED,
    ),
    "imputed texts": (
        make_pipeline(
            columns(
                (make_pipeline(SimpleImputer(), StandardScaler()), list("abc")),
                (
                    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
                    ["k", "m"],
                ),
            ),
            LogisticRegression(),
        ),
        MIXED_GAPS,
    ),
    "missing as a category": (
        make_pipeline(
            columns((SimpleImputer(), list("abc")), (OneHotEncoder(handle_unknown="ignore"), ["k", "m"])),
            LogisticRegression(max_iter=1000),
        ),
        MIXED_GAPS,
    ),
    "vote": (
        VotingClassifier(
            [("l", make_pipeline(StandardScaler(), LogisticRegression())), ("f", RandomForestClassifier(**TREES))],
            voting="soft",
        ),
        NUMBERS,
    ),
    "calibrated": (make_pipeline(StandardScaler(), CalibratedClassifierCV(LinearSVC(), cv=3)), NUMBERS),
    "pca, logistic": (make_pipeline(StandardScaler(), PCA(2), LogisticRegression()), NUMBERS),
    "network": (make_pipeline(StandardScaler(), MLPClassifier(8, max_iter=30, random_state=0)), NUMBERS),
    "bayes": (GaussianNB(), NUMBERS),
    "search": (GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, cv=2), NUMBERS),
    "lightgbm": (lightgbm.LGBMClassifier(n_estimators=10, verbose=-1), GAPS),
    "scaler, lightgbm": (make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(n_estimators=10, verbose=-1)), GAPS),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact(tmp_path: Path, name: str) -> None:
    """No label and no probability differs on held-out rows, at the definition's limits, and at thresholds."""
    built = publish(tmp_path, *EXACT[name])
    assert built.manifest.labels == ("late", "on time")
    assert built.proof.wrong == 0
    assert built.counts["thresholds"] > 100
    check_independently(tmp_path, built, EXACT[name][1])


def check_independently(folder: Path, built: Built, features: Mapping[str, Feature]) -> None:
    """Compare with the original again, on other rows: each number is replaced by its neighbouring floats."""
    original, model = joblib.load(folder / "model.joblib"), define(features)
    made = table(features)[list(features)]
    tried = [
        rows.Row("", {**row.instance, name: float(np.nextafter(float(row.instance[name]), up))})  # type: ignore[arg-type]
        for row in rows.parse_rows(made, model, "made")[:200]
        for name in ("a", "b")
        if row.instance[name] is not None
        for up in (-np.inf, np.inf)
    ]
    missing = {name: np.nan for name in ("k", "m") if name in features}
    wanted = original.predict_proba(build_frame([row.instance for row in tried], model, (), missing))
    found = predict_all(load_scorer(built.model_bytes, built.manifest, model), tried)
    assert np.abs(wanted - found).max() <= 1e-5


@pytest.mark.parametrize(
    ("estimator", "features"),
    [
        (make_pipeline(StandardScaler(), Ridge()), NUMBERS),
        (make_pipeline(StandardScaler(), RandomForestRegressor(**TREES)), NUMBERS),
        (HistGradientBoostingRegressor(**BOOSTED), GAPS),
        (lightgbm.LGBMRegressor(n_estimators=10, verbose=-1), GAPS),
    ],
    ids=["ridge", "forest", "hist", "lightgbm"],
)
def test_regressions(tmp_path: Path, estimator: Any, features: Mapping[str, Feature]) -> None:
    """Each value is within a relative difference of 1e-5."""
    assert publish(tmp_path, estimator, features, regression=True).proof.wrong == 0


def test_the_original_must_accept_what_the_definition_accepts(tmp_path: Path) -> None:
    """If the definition accepts a missing number, a pipeline that fails on NaN is refused."""
    features: dict[str, Feature] = {"a": Number(), "c": Number(missing=None)}
    made = table(NUMBERS)[["a", "c", "y"]].astype({"c": float})
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(made[["a", "c"]], made["y"] > 0)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    made.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(Refused, match="fails on c = None, which the definition accepts: ValueError: Input"):
        build_version(define(features), str(tmp_path / "model.joblib"), tmp_path / "rows.parquet")


CATEGORICAL = "encode the column with OneHotEncoder or OrdinalEncoder in the pipeline"
REFUSED: dict[str, tuple[Any, Mapping[str, Feature], str]] = {
    "categorical_features": (
        make_pipeline(
            columns((OrdinalEncoder(), ["k", "m"]), remainder="passthrough"),
            HistGradientBoostingClassifier(categorical_features=[0, 1], **BOOSTED),
        ),
        MIXED,
        CATEGORICAL,
    ),
    # The runtime computes a product of matrices in another order: a threshold after it is at another number.
    "trees behind a product": (
        make_pipeline(StandardScaler(), PCA(2), RandomForestClassifier(**TREES)),
        NUMBERS,
        "at a threshold of",
    ),
    "no probabilities": (LinearSVC(), NUMBERS, "LinearSVC has no probabilities; wrap it in CalibratedClassifierCV"),
    "custom code": (
        make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
        {"b": Number(low=0, high=1000)},
        "can't be converted to ONNX",
    ),
    # One way converts, wrongly; that another one fails is not the reason.
    "discriminant analysis of two labels": (
        make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LinearDiscriminantAnalysis()),
        GAPS,
        "differs from the original in",
    ),
    "unknown category": (
        make_pipeline(columns((OneHotEncoder(), ["k"])), LogisticRegression()),
        {"k": Category(("x", "y", "z", "new"))},
        "fails on k = 'new', which the definition accepts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    """A model whose conversion can't be exact is refused, with the place and the remedy."""
    estimator, features, message = REFUSED[name]
    with pytest.raises(Refused) as caught:
        publish(tmp_path, estimator, features)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "way"),
    [("scaler, forest", convert.FLOAT), ("hist, missing", convert.CAST), ("lightgbm", convert.CAST)],
)
def test_the_proof_finds_an_inexact_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: convert.Way
) -> None:
    """The worst row is shown. Held-out rows would not find the difference."""
    monkeypatch.setattr(convert, "_choose_ways", lambda original: [way])
    with pytest.raises(Refused, match=r"at a threshold of .: the original answers '.*the converted model") as caught:
        publish(tmp_path, *EXACT[name])
    assert '"a": ' in str(caught.value)
    assert "Nothing was published" in str(caught.value)
    if name != "scaler, forest":  # its numbers have two decimals, and so some held-out rows are at thresholds
        monkeypatch.setattr(build, "build_threshold_rows", lambda *_: [])
        publish(tmp_path, *EXACT[name])


TOPICS = {
    "sport": "ball game team goal Straße",
    "space": "orbit rocket moon İstanbul launch",
    "food": "tea café bread jam",
}


def texts() -> pd.DataFrame:
    """Make texts on three topics, with letters whose lower case or accents depend on the locale."""
    chance = np.random.default_rng(0)
    made = []
    for label, words in TOPICS.items():
        for _ in range(60):
            chosen = chance.choice([*words.split(), "the", "A", "été", "1st", "x_y", "東京"], 8)
            made.append({"text": " ".join(chosen), "label": label, "size": float(chance.integers(1, 90))})
    return pd.DataFrame(made).sample(frac=1, random_state=0, ignore_index=True)


TEXTS: dict[str, Any] = {
    "tf-idf": make_pipeline(TfidfVectorizer(), LogisticRegression()),
    "options": make_pipeline(
        TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), stop_words="english", strip_accents="unicode", norm="l1", binary=True
        ),
        LogisticRegression(),
    ),
    "ascii, case": make_pipeline(
        TfidfVectorizer(strip_accents="ascii", lowercase=False, token_pattern=r"\S+", use_idf=False, norm=None),
        MultinomialNB(),
    ),
    "counts, transformer": make_pipeline(CountVectorizer(min_df=2), TfidfTransformer(), MultinomialNB()),
    "svd, forest": make_pipeline(TfidfVectorizer(), TruncatedSVD(5, random_state=0), RandomForestClassifier(**TREES)),
    "beside a number": make_pipeline(
        columns((TfidfVectorizer(), "text"), (StandardScaler(), ["size"])), LogisticRegression()
    ),
}


def publish_texts(folder: Path, estimator: Any, features: Mapping[str, Feature]) -> Built:
    """Train on texts and build a version."""
    made = texts()
    given = made[list(features)] if len(features) > 1 else made["text"]
    estimator.fit(given[:120], made["label"][:120])
    joblib.dump(estimator, folder / "model.joblib")
    made[list(features)][120:].to_json(folder / "rows.jsonl", orient="records", lines=True)
    return build_version(define(features), str(folder / "model.joblib"), folder / "rows.jsonl")


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path: Path, name: str) -> None:
    """The vectorizer runs in Python, so its result does not depend on the machine's locale."""
    features: dict[str, Feature] = {"text": Text()}
    if name == "beside a number":
        features["size"] = Number()
    built = publish_texts(tmp_path, TEXTS[name], features)
    assert built.proof.wrong == 0
    assert built.manifest.labels == ("food", "space", "sport")
    assert any(each.text for each in built.manifest.inputs)
    held_out = set(texts()["text"])
    assert not held_out & {golden.instance["text"] for golden in built.manifest.golden}
    assert len({golden.prediction for golden in built.manifest.golden}) > 5


@pytest.mark.parametrize(
    ("vectorizer", "message"),
    [
        (HashingVectorizer(n_features=64), "HashingVectorizer has no vocabulary"),
        (TfidfVectorizer(analyzer="char"), "analyzer is 'char'; expected 'word'"),
        (TfidfVectorizer(tokenizer=str.split, token_pattern=None), "tokenizer is custom code"),
    ],
)
def test_refused_vectorizers(tmp_path: Path, vectorizer: Any, message: str) -> None:
    """A vectorizer without a vocabulary of words, or with custom code, is refused."""
    with pytest.raises(Refused, match=message):
        publish_texts(tmp_path, make_pipeline(vectorizer, LogisticRegression()), {"text": Text()})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write models in each format except joblib, and rows."""
    folder = tmp_path_factory.mktemp("trained")
    made = table(NUMBERS)
    values, target = made[list("abc")].to_numpy(float), (made["y"] > 0).to_numpy(int)
    three = made["c"].to_numpy() % 3
    for name, objective, y in (
        ("binary", "binary", target),
        ("three", "multiclass", three),
        ("value", "l2", made["y"]),
    ):
        given = {"objective": objective, "verbose": -1} | ({"num_class": 3} if name == "three" else {})
        booster = lightgbm.train(given, lightgbm.Dataset(values[:TRAINED], y[:TRAINED]), 5)
        booster.save_model(folder / f"{name}.txt")
    for name, objective, y in (
        ("binary", "binary:logistic", target),
        ("three", "multi:softprob", three),
        ("value", "reg:squarederror", made["y"]),
    ):
        given = {"objective": objective} | ({"num_class": 3} if name == "three" else {})
        xgboost.train(given, xgboost.DMatrix(values[:TRAINED], y[:TRAINED]), 5).save_model(folder / f"{name}.ubj")
        xgboost.train(given, xgboost.DMatrix(values[:TRAINED], y[:TRAINED]), 5).save_model(folder / f"{name}.json")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(values, target)
    graph = skl2onnx.to_onnx(pipeline, initial_types=[("X", FloatTensorType([1, 3]))])  # with ZipMap, and one row
    (folder / "binary.onnx").write_bytes(graph.SerializeToString())
    (folder / "mlflow").mkdir()
    joblib.dump(pipeline, folder / "mlflow" / "model.pkl")
    text = "flavors:\n  python_function: {loader_module: mlflow.sklearn}\n  sklearn: {pickled_model: model.pkl}\n"
    (folder / "mlflow" / "MLmodel").write_text(text)
    made[list("abc")][TRAINED:].to_csv(folder / "rows.csv", index=False)
    return folder


@pytest.mark.parametrize(
    "file",
    [f"{name}{suffix}" for name in ("binary", "three", "value") for suffix in (".txt", ".ubj", ".json")]
    + ["binary.onnx", "mlflow"],
)
def test_formats(trained: Path, file: str) -> None:
    """Boosters, ONNX files and folders of MLflow can be published; --labels names the classes."""
    task = "regression" if file.startswith("value") else "classification"
    labels = {"binary": ("no", "yes"), "mlflow": ("no", "yes"), "three": ("p", "q", "r")}.get(
        file.partition(".")[0], ()
    )
    built = build_version(define(NUMBERS, task), str(trained / file), trained / "rows.csv", labels=labels)
    assert (built.proof.wrong, built.manifest.labels) == (0, labels)


def test_a_version_depends_on_labels_too(trained: Path) -> None:
    """The same model is the same version; with other labels it is another version."""
    model, path, held_out = define(NUMBERS), str(trained / "binary.txt"), trained / "rows.csv"
    versions = [
        build_version(model, path, held_out, labels=labels).manifest.version
        for labels in (("no", "yes"), ("no", "yes"), ("yes", "no"))
    ]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "absent.joblib"}, "there is no such file"),
        ({"model": "rows.csv"}, "has no known extension of a model"),
        ({"model": "models:/iris/1"}, "only the package mlflow can fetch it"),
        ({"model": "mlflow/MLmodel.joblib"}, "can't be loaded"),
        ({"rows": "absent.csv"}, "there is no such file"),
        ({"rows": "a,b\n1,2\n"}, "there is no column for the feature c; the columns are a, b"),
        ({"rows": "a,b,c\n" + "1,2,3\n" * 5}, "has 5 rows; expected 20 or more"),
        ({"rows": "a,b,c\n" + "1,2,3\n" * 30 + "1,x,3\n"}, "column 'b'"),
        (
            {"rows": "a,b,c\n" + "1,2,3\n" * 30 + "1,2,3.5\n"},
            "row 30, column 'c': found '3.5', expected a whole number",
        ),
        ({"rows": "a,b,c\n" + "1,2,3\n" * 30 + ",2,3\n"}, "row 30, column 'a': is empty"),
        ({"labels": ("a", "b", "c")}, "--labels has 3 labels; the model has 2"),
        ({"labels": ("a", "a")}, "--labels has a label twice"),
    ],
)
def test_refused_files(trained: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Each message has the file, the row and column, what was found and what was expected."""
    (trained / "mlflow" / "MLmodel.joblib").write_text("no pickle")
    held_out = trained / "rows.csv"
    if "\n" in change.get("rows", ""):
        held_out = tmp_path / "rows.csv"
        held_out.write_text(change["rows"])
    elif "rows" in change:
        held_out = trained / change["rows"]
    source = change.get("model", "binary.txt")
    path = source if ":" in source else str(trained / source)
    with pytest.raises(Refused) as caught:
        build_version(define(NUMBERS), path, held_out, labels=change.get("labels", ()))
    assert message in str(caught.value)


def test_command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--promote` writes a version that the function loads; again writes nothing; a dry run needs no AWS."""
    for name in ("models", "datasets"):
        (tmp_path / name).mkdir()
    definition = 'from score.models import Model, Number\nm = Model("tried", ("sub",), None, "classification", '
    (tmp_path / "models" / "tried.py").write_text(
        definition + '{"a": Number(), "b": Number(), "c": Number(integer=True)})\n'
    )
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    words = ["publish", "tried", str(trained / "mlflow"), "--rows", str(trained / "rows.csv"), "--json"]
    assert main([*words, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] is False
    with moto_aws() as client:
        s3 = client("s3")
        s3.create_bucket(Bucket="models")
        for is_new in (True, False):
            assert main([*words, "--bucket", "models", "--promote", "--by", "deployer"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert (found["written"], found["promoted"]) == (is_new, True)
            time.sleep(1)  # in the same second the manifest is the same, as if the response had been lost
        keys = (model_key("tried", found["version"]), manifest_key("tried", found["version"]))
        model_bytes, manifest = (s3.get_object(Bucket="models", Key=key)["Body"].read() for key in keys)
    scorer = load_scorer(model_bytes, parse_manifest(manifest, "manifest"), define(NUMBERS))
    assert scorer.manifest.bins.keys() == scorer.manifest.baseline.keys() == {"a", "b", "c"}
    assert scorer.manifest.scores is not None
