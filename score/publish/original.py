"""Load a trained model (a scikit-learn pipeline, LightGBM, XGBoost or an ONNX file), and make predictions with it.

A joblib file is a pickle: loading it runs the code in it. That happens on the publisher's machine, never in the
function.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from score.manifest import Scalar
from score.model import Boolean, Category, Model, Task, Text, iterate_features
from score.publish.errors import Refused

Library = Literal["scikit-learn", "LightGBM", "XGBoost", "ONNX"]
Array = np.ndarray[Any, Any]
PICKLES = (".joblib", ".pkl", ".pickle")
_REMOTE = ("models:/", "runs:/", "mlflow-artifacts:/", "s3://", "http://", "https://", "dbfs:/")


@dataclass(frozen=True)
class Original:
    """A trained model.

    Attributes:
        source: the file or folder, for messages.
        library: the library that trained it.
        model: the estimator; for ONNX the graph, its inputs and the name of its output.
        task: classification or regression.
        labels: in the order of its probabilities; empty for a regression, or if the file does not have them.
        columns: names of the features that it was trained with, in order.
        predict: frame with a column for each feature -> probabilities [rows, labels] or values [rows, 1].
    """

    source: str
    library: Library
    model: Any
    task: Task
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    predict: Callable[[pd.DataFrame], Array]


def load_original(source: str, model: Model, labels: Sequence[str] = ()) -> Original:
    """Load a trained model.

    Args:
        source: a file, a folder that MLflow wrote, or an address that the package mlflow can fetch.
        model: its definition; the trained model must have the same features.
        labels: names of the classes, in the model's order; by default the model's own.

    Raises:
        Refused: it can't be loaded, or is not a model of this definition.
    """
    path = _fetch(source)
    if (path / "MLmodel").exists():
        path = _find_in_mlflow(path)
    if not path.is_file():
        raise Refused(f"{source}: there is no such file, and no folder with a file MLmodel")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from score.publish.onnx_graph import load_graph

        found = load_graph(path, model)
    elif suffix in PICKLES:
        found = _wrap_object(str(path), _unpickle(path), model)
    elif suffix in (".txt", ".lgb", ".lightgbm"):
        lightgbm = _import("lightgbm")
        found = _wrap_object(str(path), _call(path, lambda: lightgbm.Booster(model_file=str(path))), model)
    elif suffix in (".json", ".ubj", ".xgb", ".xgboost", ".model"):
        xgboost = _import("xgboost")
        found = _wrap_object(str(path), _call(path, lambda: xgboost.Booster(model_file=str(path))), model)
    else:
        known = ", ".join([*PICKLES, ".txt (LightGBM)", ".json or .ubj (XGBoost)", ".onnx"])
        raise Refused(f"{path}: has no known extension of a model; expected {known}, or a folder of MLflow")
    return _with_labels(found, model, tuple(labels))


def build_frame(
    instances: Sequence[Mapping[str, Scalar]], model: Model, coded: Collection[str], missing_text: Mapping[str, Any]
) -> pd.DataFrame:
    """Build the frame for an original: a column per feature.

    Args:
        instances: rows of features.
        model: the definition.
        coded: categories that the original gets as the index of the choice.
        missing_text: category or text -> the value for a missing one, as in training; by default the empty text.
    """
    columns: dict[str, Any] = {}
    for name, kind in iterate_features(model):
        values = [instance[name] for instance in instances]
        if isinstance(kind, Category) and name in coded:
            places: dict[Any, float] = {choice: float(place) for place, choice in enumerate(kind.choices)}
            columns[name] = np.array([places.get(value, math.nan) for value in values])
        elif isinstance(kind, Category | Text):
            filler = missing_text.get(name, "")
            filled = [filler if value is None else value for value in values]
            columns[name] = np.array(filled, dtype=object)
        elif isinstance(kind, Boolean) and None not in values:
            columns[name] = np.array(values, dtype=bool)
        else:
            columns[name] = np.array([math.nan if value is None else value for value in values], dtype=float)
    return pd.DataFrame(columns)


def walk(estimator: Any) -> list[Any]:
    """List an estimator and all estimators in it, e.g. the steps of a pipeline."""
    from sklearn.base import BaseEstimator

    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, list | tuple):
            for each in value:
                visit(each)
        elif isinstance(value, dict):
            visit(list(value.values()))
        elif isinstance(value, np.ndarray) and value.dtype == object:
            visit(value.ravel().tolist())
        elif id(value) not in found and (
            isinstance(value, BaseEstimator) or type(value).__name__ == "_CalibratedClassifier"
        ):
            found[id(value)] = value
            visit(list(vars(value).values()))

    visit(estimator)
    return list(found.values())


def _fetch(source: str) -> Path:
    if source.startswith("file://"):
        source = source.removeprefix("file://")
    if not source.startswith(_REMOTE):
        return Path(source)
    try:
        artifacts = importlib.import_module("mlflow.artifacts")
    except ImportError as error:
        raise Refused(
            f"{source}: only the package mlflow can fetch it: pip install mlflow-skinny, or download the folder and "
            "give its path"
        ) from error
    return Path(_call(source, lambda: artifacts.download_artifacts(artifact_uri=source)))


def _find_in_mlflow(folder: Path) -> Path:
    """Find the model's file in a folder that MLflow wrote."""
    yaml = _import("yaml")
    place = folder / "MLmodel"
    document = _call(place, lambda: yaml.safe_load(place.read_text(encoding="utf-8")))
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise Refused(f"{place}: has no flavors; expected a file that MLflow wrote")
    for flavor, members in (("sklearn", "pickled_model"), ("lightgbm", "data"), ("xgboost", "data"), ("onnx", "data")):
        given = flavors.get(flavor)
        if not isinstance(given, dict):
            continue
        name = given.get(members)
        if not isinstance(name, str):
            raise Refused(f"{place}: flavors.{flavor}.{members}: found {name!r}, expected the name of a file")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise Refused(f"{place}: flavors.{flavor}.{members}: {name!r} is outside of the folder")
        if path.is_dir():  # MLflow names the folder of an ONNX file
            path = next(iter(sorted(path.glob("*.onnx"))), path)
        if not path.is_file():
            raise Refused(f"{place}: names {name!r}, which is not in the folder; download the whole folder")
        return path
    raise Refused(f"{place}: has the flavors {', '.join(flavors)}; expected sklearn, lightgbm, xgboost or onnx")


def _unpickle(path: Path) -> Any:
    joblib = _import("joblib")
    sklearn_exceptions = _import("sklearn.exceptions")
    with warnings.catch_warnings():
        # A pickle of another release loads, but can predict differently.
        warnings.simplefilter("error", sklearn_exceptions.InconsistentVersionWarning)
        try:
            return joblib.load(path)
        except sklearn_exceptions.InconsistentVersionWarning as error:
            message = f"was trained with scikit-learn {error.original_sklearn_version}, but installed is "
            message += f"{error.current_sklearn_version}: install the former, or train again"
            raise Refused(f"{path}: {message}") from error
        except ModuleNotFoundError as error:
            raise Refused(f"{path}: needs the module {error.name!r}: install it, or put it on PYTHONPATH") from error
        except AttributeError as error:
            raise Refused(f"{path}: needs code that was not found: {error}; put its module on PYTHONPATH") from error
        except Exception as error:  # a pickle can raise anything
            message = f"can't be loaded: {type(error).__name__}: {error}; write it again with joblib.dump"
            raise Refused(f"{path}: {message}") from error


def _wrap_object(source: str, found: Any, model: Model) -> Original:
    kind = f"{type(found).__module__.partition('.')[0]}.{type(found).__name__}"
    if kind == "lightgbm.Booster":
        found = _from_lightgbm(found)
    elif kind == "xgboost.Booster":
        found = _from_xgboost(source, found)
    return _wrap_estimator(source, found, model)


def _from_lightgbm(booster: Any) -> Any:
    """Return an estimator with this booster; lightgbm has no function for that."""
    lightgbm = _import("lightgbm")
    text = booster.model_to_string(num_iteration=1)
    objective = next((line.split("=")[1] for line in text.splitlines() if line.startswith("objective=")), "")
    classes = max(2, booster.num_model_per_iteration())
    is_class = objective.split(" ")[0] in ("binary", "multiclass", "multiclassova", "cross_entropy")
    estimator = lightgbm.LGBMClassifier() if is_class else lightgbm.LGBMRegressor()
    if is_class:
        estimator._classes, estimator._n_classes = np.arange(classes), classes
        estimator._le = _import("sklearn.preprocessing").LabelEncoder().fit(estimator._classes)
        estimator._class_map = {each: each for each in range(classes)}
    estimator._Booster, estimator._objective, estimator.fitted_ = booster, objective.split(" ")[0], True
    estimator._n_features = estimator._n_features_in = booster.num_feature()
    return estimator


def _from_xgboost(source: str, booster: Any) -> Any:
    """Return an estimator with this booster."""
    import json

    xgboost = _import("xgboost")
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    if objective == "multi:softmax":
        raise Refused(f"{source}: multi:softmax has no probabilities; train with multi:softprob")
    is_class = objective.startswith(("binary:", "multi:"))
    estimator = xgboost.XGBClassifier() if is_class else xgboost.XGBRegressor()
    estimator.load_model(booster.save_raw())
    return estimator


def _wrap_estimator(source: str, estimator: Any, model: Model) -> Original:
    base = _import("sklearn.base")
    validation = _import("sklearn.utils.validation")
    libraries: dict[str, Library] = {"lightgbm": "LightGBM", "xgboost": "XGBoost"}
    if not isinstance(estimator, base.BaseEstimator):
        raise Refused(f"{source}: found a {type(estimator).__name__}; expected a fitted scikit-learn pipeline")
    while hasattr(estimator, "best_estimator_"):  # a search, e.g. GridSearchCV
        estimator = estimator.best_estimator_
    library = libraries.get(type(estimator).__module__.partition(".")[0], "scikit-learn")
    try:
        validation.check_is_fitted(estimator)
    except Exception as error:  # not only NotFittedError
        raise Refused(f"{source}: is not fitted: {error}; call fit before joblib.dump") from error
    task: Task = "classification" if base.is_classifier(estimator) else "regression"
    if not base.is_classifier(estimator) and not base.is_regressor(estimator):
        raise Refused(f"{source}: {type(estimator).__name__} neither classifies nor predicts a value")
    if task == "classification" and not hasattr(estimator, "predict_proba"):
        name = type(estimator[-1] if hasattr(estimator, "steps") else estimator).__name__
        raise Refused(f"{source}: {name} has no probabilities; wrap it in CalibratedClassifierCV, or choose another")
    names = _name_columns(estimator)
    is_text = find_vectorizer(estimator) is not None
    columns = _match_columns(source, model, names)
    is_booster = library != "scikit-learn"  # its input is a matrix without column names
    wanted = getattr(estimator, "n_features_in_", None)
    if not is_text and wanted is not None and wanted != len(columns):
        raise Refused(f"{source}: was trained with {wanted} columns; the definition has {len(columns)} features")
    if is_text and len(columns) != 1:
        raise Refused(f"{source}: begins with a text vectorizer; expected one feature, found {len(columns)} in models/")

    def predict(frame: pd.DataFrame) -> Array:
        given: Any = frame[list(columns)]
        if is_text:
            given = given[columns[0]].tolist()
        elif is_booster or names is None:
            given = given.to_numpy(dtype=float if is_booster else None)
        answer = estimator.predict_proba(given) if task == "classification" else estimator.predict(given)
        if isinstance(answer, list) or answer.ndim > 2 or (task == "regression" and answer.size != len(frame)):
            raise Refused(f"{source}: predicts several targets; publish one model for each")
        return np.asarray(answer, dtype=float).reshape(len(frame), -1)

    labels = _name_labels(estimator.classes_) if task == "classification" else ()
    return Original(source, library, estimator, task, labels, columns, predict)


def find_vectorizer(estimator: Any) -> Any:
    """Return the text vectorizer at the beginning of a pipeline; None if there is none."""
    text = _import("sklearn.feature_extraction.text")
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else None
    kinds = (text.CountVectorizer, text.HashingVectorizer)  # TfidfVectorizer is a subclass of the former
    return first if isinstance(first, kinds) else None


def _name_columns(estimator: Any) -> list[str] | None:
    """Return the names of the columns that an estimator was trained with; None if it does not have them."""
    if type(estimator).__module__.startswith("lightgbm"):
        names = list(estimator.booster_.feature_name())
        return None if all(name.startswith("Column_") for name in names) else names
    known = getattr(estimator, "feature_names_in_", None)  # XGBoost raises AttributeError too
    return None if known is None else [str(name) for name in known]


def _match_columns(source: str, model: Model, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the features in the order of a model's columns; without names, in the order of the definition."""
    if names is None:
        return tuple(model.features)
    unknown = [name for name in names if name not in model.features]
    unused = [name for name in model.features if name not in names]
    if unknown or unused:
        found = f"was trained with {', '.join(names)}; models/ defines {', '.join(model.features)}"
        raise Refused(f"{source}: {found}; expected the same names: rename the columns or the features")
    return tuple(names)


def _name_labels(classes: Any) -> tuple[str, ...]:
    """Return classes as texts: 1.0 as 1, True as true."""
    names = []
    for value in np.asarray(classes, dtype=object).tolist():
        if isinstance(value, bool | np.bool_):
            names.append("true" if value else "false")
        elif isinstance(value, float) and value.is_integer():
            names.append(str(int(value)))
        else:
            names.append(str(value))
    return tuple(names)


def _with_labels(found: Original, model: Model, labels: tuple[str, ...]) -> Original:
    from dataclasses import replace

    if found.task != model.task:
        raise Refused(f"{found.source}: is a {found.task}; models/ defines {model.name!r} as a {model.task}")
    if labels and (found.task == "regression" or (found.labels and len(labels) != len(found.labels))):
        wanted = f"{len(found.labels)}: {', '.join(found.labels)}" if found.labels else "none, since it is a regression"
        raise Refused(f"--labels has {len(labels)} labels; the model has {wanted}")
    if not labels and not found.labels and found.task == "classification":
        raise Refused(f"{found.source}: has no labels; give them in the order of its classes: --labels no,yes")
    if len(set(labels)) != len(labels):
        raise Refused("--labels has a label twice; give each class its own label")
    return replace(found, labels=labels or found.labels)


def _call(place: object, read: Callable[[], Any]) -> Any:
    """Call a function that reads a file of a library; any exception of it is refused."""
    try:
        return read()
    except Exception as error:
        raise Refused(f"{place}: can't be read: {type(error).__name__}: {str(error).strip()[:300]}") from error


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Refused(
            f"the package {name.partition('.')[0]!r} is not installed: pip install -r score/publish/requirements.txt"
        ) from error
