# mypy: ignore-errors
"""The iris classifier of the peers: a pickle of scikit-learn, their usual form, or the ONNX file that Larder serves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
LABELS = ("setosa", "versicolor", "virginica")


def train(path: Path) -> None:
    """Train and pickle the pipeline of examples/score, with the scikit-learn of this environment."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    data = load_iris()
    pipeline = make_pipeline(
        SimpleImputer(strategy="median"), GradientBoostingClassifier(subsample=0.8, random_state=0)
    )
    joblib.dump(pipeline.fit(data.data, data.target), path)


def load() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function that scores one instance, in the form of BENCH_FORM."""
    probabilities = _load_pickle() if os.environ["BENCH_FORM"] == "pickle" else _load_onnx()

    def predict(instance: Mapping[str, Any]) -> dict[str, Any]:
        found = probabilities([float(instance[name]) for name in NAMES])
        best = max(range(len(LABELS)), key=lambda place: found[place])
        return {"label": LABELS[best], "probability": round(float(found[best]), 4)}

    return predict


def _load_pickle() -> Callable[[list[float]], Any]:
    import joblib

    pipeline = joblib.load(os.environ["BENCH_PICKLE"])
    return lambda row: pipeline.predict_proba([row])[0]


def _load_onnx() -> Callable[[list[float]], Any]:
    import numpy as np
    import onnxruntime

    folder = Path(os.environ["BENCH_ONNX"])
    manifest = json.loads((folder / "manifest.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    (given,) = manifest["inputs"]
    kind = {"float": np.float32, "double": np.float64}[given["type"]]
    return lambda row: session.run([manifest["output"]], {given["name"]: np.array([row], kind)})[0][0]


if __name__ == "__main__":
    train(Path(sys.argv[1]))
