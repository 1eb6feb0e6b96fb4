"""Check an ONNX file before the runtime reads it: only listed operators, no external data, no subgraphs, bounded sizes.

The runtime's parser is native code, and a graph can loop forever. The publisher is trusted; this check limits the
damage of a mistake or of a stolen permission. The package `onnx` is large and has had vulnerabilities, so this module
has its own reader of the Protocol Buffers encoding (https://protobuf.dev/programming-guides/encoding). It refuses what
two readers could read differently: groups, long tags, wrong wire types, unknown and repeated members.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from score.manifest import MAX_MODEL_BYTES

MAX_NODES = 20_000
# Operators of converted scikit-learn, LightGBM and XGBoost models, and of small neural networks. Not accepted: Loop, If
# and Scan, and operators that make a large tensor from a small one (ConstantOfShape, Expand, Tile, Range, Pad, Resize,
# random numbers).
OPERATORS = {
    "ai.onnx": frozenset(
        """
        Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant
        Conv Cos Cosh CumSum Div Dropout Elu Equal Erf Exp Flatten Floor Gather GatherElements GatherND Gelu Gemm
        GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
        LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mod
        Mul Neg Not Or PRelu Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
        ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Selu Shape Sigmoid Sign Sin Sinh Slice
        Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh TfIdfVectorizer ThresholdedRelu TopK Transpose
        Unsqueeze Where Xor
        """.split()  # noqa: SIM905 - a literal would have a line per operator
    ),
    "ai.onnx.ml": frozenset(
        """
        ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier
        LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble
        TreeEnsembleClassifier TreeEnsembleRegressor
        """.split()  # noqa: SIM905
    ),
}

# Wire types, and for each message: field number -> (name, wire type).
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL = {
    1: ("ir_version", _VARINT),
    2: ("producer_name", _BYTES),
    3: ("producer_version", _BYTES),
    4: ("domain", _BYTES),
    5: ("model_version", _VARINT),
    6: ("doc_string", _BYTES),
    7: ("graph", _BYTES),
    8: ("opset_import", _BYTES),
    14: ("metadata_props", _BYTES),
}
_GRAPH = {
    1: ("node", _BYTES),
    2: ("name", _BYTES),
    5: ("initializer", _BYTES),
    10: ("doc_string", _BYTES),
    11: ("input", _BYTES),
    12: ("output", _BYTES),
    13: ("value_info", _BYTES),
    16: ("metadata_props", _BYTES),
}
_NODE = {
    1: ("input", _BYTES),
    2: ("output", _BYTES),
    3: ("name", _BYTES),
    4: ("op_type", _BYTES),
    5: ("attribute", _BYTES),
    6: ("doc_string", _BYTES),
    7: ("domain", _BYTES),
    8: ("overload", _BYTES),
    9: ("metadata_props", _BYTES),
}
_ATTRIBUTE = {
    1: ("name", _BYTES),
    2: ("f", _FIXED32),
    3: ("i", _VARINT),
    4: ("s", _BYTES),
    5: ("t", _BYTES),
    7: ("floats", _FIXED32),
    8: ("ints", _VARINT),
    9: ("strings", _BYTES),
    10: ("tensors", _BYTES),
    13: ("doc_string", _BYTES),
    20: ("type", _VARINT),
}
_TENSOR = {
    1: ("dims", _VARINT),
    2: ("data_type", _VARINT),
    4: ("float_data", _FIXED32),
    5: ("int32_data", _VARINT),
    6: ("string_data", _BYTES),
    7: ("int64_data", _VARINT),
    8: ("name", _BYTES),
    9: ("raw_data", _BYTES),
    10: ("double_data", _FIXED64),
    11: ("uint64_data", _VARINT),
    12: ("doc_string", _BYTES),
    16: ("metadata_props", _BYTES),
}
_OPSET = {1: ("domain", _BYTES), 2: ("version", _VARINT)}
# Lists of numbers, which a writer can pack into one member of type bytes.
_PACKABLE = frozenset(
    {"floats", "ints", "dims", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"}
)
_ONCE = frozenset({"graph", "op_type", "domain", "overload", "version", "t", "type", "data_type", "raw_data"})
# A tree ensemble can have a million unpacked numbers: a regular expression skips them faster than a loop.
_RUNS = {
    0x3D: re.compile(rb"(?:\x3d.{4})+", re.DOTALL),  # attribute.floats
    0x40: re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+"),  # attribute.ints
    0x4A: re.compile(  # attribute.strings of up to 31 bytes, such as BRANCH_LEQ
        b"(?:\x4a(?:%s))+" % b"|".join(b"\\x%02x.{%d}" % (size, size) for size in range(32)), re.DOTALL
    ),
}
_Member = tuple[str, int, int]  # name, start and end of its value


class ModelRefused(ValueError):
    """The file is not an ONNX model that is accepted; the message says what was found."""


def check_model(data: bytes) -> None:
    """Check an ONNX file.

    Raises:
        ModelRefused: the message has the operator or member that is not accepted.
    """
    if not 0 < len(data) <= MAX_MODEL_BYTES:
        raise ModelRefused(f"the model has {len(data)} bytes; expected 1 to {MAX_MODEL_BYTES}: train a smaller one")
    if data[4:8] == b"ORTM":  # the runtime would read it as its own format, which is not checked here
        raise ModelRefused("the model is in ORT format; publish the .onnx file")
    graphs = [(start, end) for name, start, end in _members(data, 0, len(data), _MODEL, "model") if name == "graph"]
    if len(graphs) != 1:
        raise ModelRefused(f"the model has {len(graphs)} graphs; expected one")
    for name, start, end in _members(data, 0, len(data), _MODEL, "model"):
        if name == "opset_import":
            _check_opset(data, start, end)
    nodes = 0
    for name, start, end in _members(data, *graphs[0], _GRAPH, "graph"):
        if name == "initializer":
            _check_tensor(data, start, end)
        elif name == "node":
            nodes += 1
            if nodes > MAX_NODES:
                raise ModelRefused(f"the graph has more than {MAX_NODES} nodes: train a smaller model")
            _check_node(data, start, end)


def _check_opset(data: bytes, start: int, end: int) -> None:
    domain = ""
    for name, first, last in _members(data, start, end, _OPSET, "opset_import"):
        if name == "domain":
            domain = _text(data, first, last)
    if (domain or "ai.onnx") not in OPERATORS:
        raise ModelRefused(f"the model imports the operators of {domain!r}; expected only {' and '.join(OPERATORS)}")


def _check_node(data: bytes, start: int, end: int) -> None:
    domain = operator = ""
    attributes = []
    for name, first, last in _members(data, start, end, _NODE, "node"):
        if name == "domain":
            domain = _text(data, first, last)
        elif name == "op_type":
            operator = _text(data, first, last)
        elif name == "attribute":
            attributes.append((first, last))
        elif name == "overload" and first != last:
            raise ModelRefused("a node calls a function of the model; expected only operators")
    if operator not in OPERATORS.get(domain or "ai.onnx", ()):
        name = f"{domain}.{operator}" if domain else operator
        raise ModelRefused(f"the operator {name!r} is not accepted; score/onnx_file.py lists the accepted ones")
    for first, last in attributes:
        for name, begins, ends in _members(data, first, last, _ATTRIBUTE, f"attribute of {operator}"):
            if name in ("t", "tensors"):
                _check_tensor(data, begins, ends)


def _check_tensor(data: bytes, start: int, end: int) -> None:
    for _ in _members(
        data, start, end, _TENSOR, "tensor"
    ):  # refuses external_data and data_location, which are unknown
        pass


def _members(data: bytes, start: int, end: int, known: dict[int, tuple[str, int]], place: str) -> Iterator[_Member]:
    """Yield the members of a message, except numbers. Refuse a member that is not in `known` with its wire type."""
    seen: set[str] = set()
    position = start
    while position < end:
        run = _RUNS.get(data[position]) if known is _ATTRIBUTE else None
        found = run.match(data, position, end) if run else None
        if found:
            position = found.end()
            continue
        tag, position = _varint(data, position, end, 2)
        name, wire = known.get(tag >> 3, (f"number {tag >> 3}", -1))
        given = tag & 7
        if given != wire and not (given == _BYTES and name in _PACKABLE):
            raise ModelRefused(f"the {place} has a member that is not accepted: {name}, wire type {given}")
        if name in _ONCE:
            if name in seen:
                raise ModelRefused(f"the {place} has {name} twice")
            seen.add(name)
        if given == _VARINT:
            _, position = _varint(data, position, end, 10)
            continue
        size = {_FIXED32: 4, _FIXED64: 8}.get(given)
        if size is None:
            size, position = _varint(data, position, end, 5)
        if position + size > end:
            raise ModelRefused(f"the {place} is cut off in {name}: publish the file again")
        if given == _BYTES:
            yield name, position, position + size
        position += size


def _varint(data: bytes, position: int, end: int, longest: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 7 * longest:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ModelRefused("the file is not an ONNX model, or it is cut off: publish it again")


def _text(data: bytes, start: int, end: int) -> str:
    return data[start : min(end, start + 100)].decode("ascii", "replace")
