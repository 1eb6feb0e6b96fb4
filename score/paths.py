"""Object keys of models. Versions are written once; one alias object per model says which of them serve."""

from __future__ import annotations

import re

PREFIX = "models/"
KEPT_PREFIX = "kept/"  # kept features, as Parquet
KEPT_FORMAT = 1  # of the messages between the two functions
# The same names as datasets have: they are in paths of the API, in S3 object keys and in metrics.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
VERSION = re.compile(r"[0-9a-f]{16}\Z")  # the beginning of the SHA-256 of the model file


def alias_key(model: str) -> str:
    """Return the object key of a model's alias."""
    return f"{PREFIX}{model}/alias.json"


def versions_prefix(model: str) -> str:
    """Return the prefix of all versions of a model."""
    return f"{PREFIX}{model}/versions/"


def model_key(model: str, version: str) -> str:
    """Return the object key of the ONNX file of a version."""
    return f"{versions_prefix(model)}{version}/model.onnx"


def manifest_key(model: str, version: str) -> str:
    """Return the object key of the manifest of a version. It is written last: without it the version does not exist."""
    return f"{versions_prefix(model)}{version}/manifest.json"
