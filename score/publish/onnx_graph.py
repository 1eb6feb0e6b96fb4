"""ONNX graphs: finish the graph of a converter, and load an ONNX file as an original. Needs the package onnx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from score.manifest import ELEMENT_TYPES, Input
from score.model import Category, Model, Text, iterate_features
from score.onnx_file import ModelRefused, check_model
from score.publish.errors import Refused
from score.publish.original import Array, Original, _import

_TYPES = {1: "float", 7: "int64", 8: "string", 9: "bool", 11: "double"}


def finish_graph(
    graph: Any, inputs: Sequence[Input], output: str, labels: Sequence[str]
) -> tuple[bytes, tuple[Input, ...]]:
    """Reduce a graph to one output and the nodes and inputs that it needs; return its bytes and inputs.

    The version is a digest of the file, but the manifest says what its numbers mean. So the file also gets a digest of
    that meaning: the same graph with other labels or another vocabulary is another version.
    """
    helper = _import("skl2onnx.helpers.onnx_helper")
    kept = helper.select_model_inputs_outputs(graph, outputs=[output])
    names = [each.name for each in kept.graph.input]
    used = tuple(each for each in inputs if each.name in names)
    del kept.metadata_props[:]
    meaning = sha256(repr((used, output, tuple(labels))).encode()).hexdigest()
    kept.metadata_props.add(key="larder_meaning", value=meaning)
    kept.doc_string = ""
    return kept.SerializeToString(deterministic=True), used


def find_output(graph: Any, task: str) -> str:
    """Return the name of the output with the probabilities or the value."""
    outputs = [each.name for each in graph.graph.output]
    if task == "regression":
        return str(outputs[0])
    likely = [name for name in outputs if "proba" in name.lower()]
    return str((likely or outputs[-1:])[0])


def load_graph(path: Path, model: Model) -> Original:
    """Load an ONNX file as an original. ONNX Runtime's Python API makes its predictions.

    Raises:
        Refused: it is not an ONNX file that score accepts, or its inputs do not match the features of the definition.
    """
    onnx = _import("onnx")
    data = path.read_bytes()
    try:
        graph = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf has its own exceptions
        raise Refused(f"{path}: is not an ONNX file: {error}; export the model again") from error
    labels = _strip_zipmap(graph) or _find_labels(graph)
    for each in graph.graph.input:  # with a fixed number of rows, requests with several instances would fail
        if len(each.type.tensor_type.shape.dim):
            each.type.tensor_type.shape.dim[0].dim_param = "rows"
    inputs = _match_inputs(path, graph, model)
    task = "classification" if model.task == "classification" else "regression"
    output = find_output(graph, task)
    stripped = graph.SerializeToString(deterministic=True)
    try:
        check_model(stripped)
    except ModelRefused as error:
        raise Refused(f"{path}: {error}") from error
    session = _import("onnxruntime").InferenceSession(stripped, providers=["CPUExecutionProvider"])
    makers = {each.name: _feed(each) for each in inputs}

    def predict(frame: pd.DataFrame) -> Array:
        feeds = {name: make(frame) for name, make in makers.items()}
        (answer,) = session.run([output], feeds)
        return np.asarray(answer, dtype=float).reshape(len(frame), -1)

    found = (graph, inputs, output)
    return Original(
        str(path),
        "ONNX",
        found,
        model.task,
        labels if model.task == "classification" else (),
        tuple(model.features),
        predict,
    )


def _feed(one: Input) -> Callable[[pd.DataFrame], Array]:
    types: dict[str, Any] = {"float": np.float32, "double": float, "int64": np.int64, "bool": bool, "string": object}
    return lambda frame: frame[list(one.features)].to_numpy(dtype=types[one.type])


def _match_inputs(path: Path, graph: Any, model: Model) -> tuple[Input, ...]:
    kinds = dict(iterate_features(model))
    constants = {each.name for each in graph.graph.initializer}
    given = [each for each in graph.graph.input if each.name not in constants]
    inputs, taken = [], 0
    names = list(model.features)
    for each in given:
        tensor = each.type.tensor_type
        kind = _TYPES.get(tensor.elem_type)
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        if kind not in ELEMENT_TYPES or len(sizes) != 2:
            expected = f"a matrix [rows, columns] of {', '.join(ELEMENT_TYPES)}"
            raise Refused(f"{path}: the input {each.name!r} has an unsupported type or shape; expected {expected}")
        if each.name in kinds and sizes[1] in (0, 1):
            features: tuple[str, ...] = (each.name,)
        elif len(given) == 1 and sizes[1] in (0, len(names)):
            features = tuple(names)
        else:
            expected = f"one of {len(names)} columns, or one of 1 column for each of {', '.join(names)}"
            raise Refused(f"{path}: the input {each.name!r} has {sizes[1]} columns; expected {expected}")
        for name in features:  # a category can be a number: the index of the choice
            if isinstance(kinds[name], Text) != (kind == "string") and not isinstance(kinds[name], Category):
                raise Refused(f"{path}: the input {each.name!r} reads {name!r} as {kind}; change its definition")
        taken += len(features)
        inputs.append(Input(each.name, str(kind), features))
    if taken != len(names):
        raise Refused(f"{path}: has {taken} features; the definition has {len(names)}: {', '.join(names)}")
    return tuple(inputs)


def _strip_zipmap(graph: Any) -> tuple[str, ...]:
    """Replace an output of dictionaries (ZipMap) by the matrix of its values; return its labels."""
    onnx = _import("onnx")
    for node in list(graph.graph.node):
        if node.op_type != "ZipMap":
            continue
        labels: tuple[str, ...] = ()
        for attribute in node.attribute:
            values = list(attribute.strings) or list(attribute.ints)
            labels = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)
        for place, each in enumerate(graph.graph.output):
            if each.name == node.output[0]:
                new = onnx.helper.make_tensor_value_info(node.input[0], 1, ["rows", len(labels)])
                del graph.graph.output[place]
                graph.graph.output.insert(place, new)
        graph.graph.node.remove(node)
        return labels
    return ()


def _find_labels(graph: Any) -> tuple[str, ...]:
    """Return the labels of a classifier in the graph; none if it has no classifier."""
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
                values = list(attribute.strings) or list(attribute.ints)
                if len(values) >= 2:
                    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)
    return ()
