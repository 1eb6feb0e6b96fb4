"""Write small ONNX files without the package `onnx`: graphs of a few nodes, and invalid files."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TYPES = {"float": 1, "int64": 7, "string": 8, "bool": 9, "double": 11}


def varint(number: int) -> bytes:
    """Encode a number; negative numbers have 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes | str | float) -> bytes:
    """Encode one member of a message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: Sequence[float], dims: Sequence[int], kind: str = "float") -> bytes:
    """Encode a TensorProto of floats, doubles or 64-bit integers."""
    code = {"float": "f", "double": "d", "int64": "q"}[kind]
    raw = struct.pack(f"<{len(values)}{code}", *values)
    return b"".join(field(1, size) for size in dims) + field(2, TYPES[kind]) + field(8, name) + field(9, raw)


def attribute(name: str, value: Any) -> bytes:
    """Encode an AttributeProto; a list has one member for each element, as usual writers do it."""
    head = field(1, name)
    if isinstance(value, bytes):  # a TensorProto
        return head + field(5, value) + field(20, 4)
    if isinstance(value, list | tuple):
        number, kind = {int: (8, 7), float: (7, 6), str: (9, 8)}[type(value[0])]
        return head + b"".join(field(number, one) for one in value) + field(20, kind)
    number, kind = {int: (3, 2), float: (2, 1), str: (4, 3)}[type(value)]
    return head + field(number, value) + field(20, kind)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> bytes:
    """Encode a NodeProto."""
    body = b"".join(field(1, one) for one in inputs) + b"".join(field(2, one) for one in outputs) + field(4, op)
    body += b"".join(field(5, attribute(name, value)) for name, value in attributes.items())
    return body + (field(7, domain) if domain else b"")


def value_info(name: str, kind: str, columns: int | None) -> bytes:
    """Encode a ValueInfoProto of shape [rows, columns]."""
    dims = field(1, field(2, "rows")) + (field(1, field(1, columns)) if columns is not None else b"")
    return field(1, name) + field(2, field(1, field(1, TYPES[kind]) + field(2, dims)))


def model(
    nodes: Iterable[bytes],
    inputs: Mapping[str, tuple[str, int]],
    outputs: Mapping[str, tuple[str, int | None]],
    initializers: Iterable[bytes] = (),
    *,
    more: bytes = b"",
    more_graph: bytes = b"",
    domains: Iterable[str] = ("", "ai.onnx.ml"),
) -> bytes:
    """Encode a ModelProto; inputs and outputs are name -> (element type, columns)."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "g")
    graph += b"".join(field(5, one) for one in initializers)
    graph += b"".join(field(11, value_info(name, *kind)) for name, kind in inputs.items())
    graph += b"".join(field(12, value_info(name, *kind)) for name, kind in outputs.items()) + more_graph
    versions = {"": 18, "ai.onnx.ml": 3}
    imports = b"".join(field(8, field(1, one) + field(2, versions.get(one, 1))) for one in domains)
    return field(1, 8) + imports + field(7, graph) + more


def classifier(weights: Sequence[Sequence[float]], biases: Sequence[float], kind: str = "float") -> bytes:
    """Encode a softmax classifier over one input `x`; `weights` has a row per label; the output is `probabilities`."""
    labels, columns = len(weights), len(weights[0])
    flat = [weights[label][column] for column in range(columns) for label in range(labels)]
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "b"], ["s"]),
        node("Softmax", ["s"], ["probabilities"], axis=1),
    ]
    initializers = [tensor("w", flat, (columns, labels), kind), tensor("b", biases, (labels,), kind)]
    return model(nodes, {"x": (kind, columns)}, {"probabilities": (kind, labels)}, initializers)


def regressor(weights: Sequence[float], bias: float, kind: str = "double") -> bytes:
    """Encode a linear regression over one input `x`; the output is `value`."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["value"])]
    initializers = [tensor("w", weights, (len(weights), 1), kind), tensor("b", [bias], (1,), kind)]
    return model(nodes, {"x": (kind, len(weights))}, {"value": (kind, 1)}, initializers)
