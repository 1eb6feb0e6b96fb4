"""Convert a trained model to ONNX in several ways; the proof decides which of them is exact.

The default of a converter is not always exact (see the comments below). The ways are tried until one passes the proof;
if none does, the model is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from score.manifest import Input, TextVectorizer
from score.model import Category, Model, Text, iterate_features
from score.publish.errors import Refused
from score.publish.onnx_graph import find_output, finish_graph
from score.publish.original import Original, _import, find_vectorizer, walk

_TENSOR = "features"  # name of the input if all features are columns of one tensor
# Attributes of a tree that can be tensors of 64-bit floats since version 3 of ai.onnx.ml.
_WIDE = ("nodes_values", "nodes_hitrates", "class_weights", "target_weights", "base_values")


class Converted(NamedTuple):
    """An ONNX file, its inputs, and the name of its output."""

    way: str
    model_bytes: bytes
    inputs: tuple[Input, ...]
    output: str


class Way(NamedTuple):
    """One way to convert.

    Attributes:
        name: description for messages.
        number: element type of numbers.
        casts: numbers become 32-bit floats directly before trees, as in scikit-learn's own trees.
        wide: thresholds of trees stay 64-bit floats, as in HistGradientBoosting and LightGBM.
    """

    name: str
    number: str = "double"
    casts: bool = False
    wide: bool = False


DOUBLE = Way("64-bit floats")
CAST = Way("64-bit floats, 32-bit in trees", casts=True)
WIDE = Way("64-bit floats, in trees too", wide=True)
FLOAT = Way("32-bit floats", number="float")


def check_convertible(original: Original) -> None:
    """Refuse models that converters are known to convert wrongly without an error.

    Raises:
        Refused: the message has the step and the remedy.
    """
    if original.library == "ONNX":
        return
    remedy = "encode the column with OneHotEncoder or OrdinalEncoder in the pipeline, which is exact, and train again"
    for each in walk(original.model):
        name = type(each).__name__
        if name.startswith("HistGradientBoosting") and getattr(each, "is_categorical_", None) is not None:
            columns = np.flatnonzero(each.is_categorical_).tolist()
            raise Refused(
                f"{original.source}: {name} has categorical_features (columns {columns}), which the converter ignores; "
                f"{remedy}"
            )
        if name.startswith("LGBM") and any(
            line.startswith("num_cat=") and line != "num_cat=0" for line in each.booster_.model_to_string().splitlines()
        ):
            raise Refused(f"{original.source}: {name} splits by categories; {remedy}")
        if name.startswith("XGB") and "c" in (each.get_booster().feature_types or []):
            raise Refused(f"{original.source}: {name} splits by categories (enable_categorical); {remedy}")


def convert(original: Original, model: Model, coded: Collection[str]) -> Iterator[Converted]:
    """Yield conversions of a model; the one that is most likely exact comes first.

    Args:
        original: the trained model.
        model: its definition.
        coded: categories that the original gets as the index of the choice.

    Raises:
        Refused: the model can't be converted; the message has the converter's error.
    """
    if original.library == "ONNX":
        graph, inputs, output = original.model
        data, used = finish_graph(graph, inputs, output, original.labels)
        yield Converted("as it is", data, used, output)
        return
    failures: list[tuple[str, str]] = []
    is_converted = False
    for way in _choose_ways(original):
        try:
            found = _convert(original, model, coded, way)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - converters raise any exception
            failures.append((way.name, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"))
            continue
        is_converted = True
        yield found
    if failures and not is_converted:  # else the proof has the reason: a row that differs
        name, reason = failures[0]
        raise Refused(
            f"{original.source}: can't be converted to ONNX ({name}): {reason}; replace this step by one that skl2onnx "
            "supports"
        )


def _choose_ways(original: Original) -> list[Way]:
    names = [type(each).__name__ for each in walk(original.model)]
    if original.library == "XGBoost":
        return [FLOAT]  # its numbers and thresholds are 32-bit floats
    if any(name.startswith(("HistGradientBoosting", "LGBM")) for name in names):
        return [WIDE]
    if any(name.startswith("XGB") or "Tree" in name or "GradientBoosting" in name for name in names):
        return [CAST, FLOAT]
    return [DOUBLE, FLOAT]


def _convert(original: Original, model: Model, coded: Collection[str], way: Way) -> Converted:
    skl2onnx = _import("skl2onnx")
    types = _import("skl2onnx.common.data_types")
    _register_converters()
    estimator = copy.deepcopy(original.model)
    tensors = {"double": types.DoubleTensorType, "float": types.FloatTensorType, "string": types.StringTensorType}
    estimator, inputs = _cut_vectorizers(original, estimator, model, coded, way)
    estimator = _prepare(estimator, way)
    given = [(each.name, tensors[each.type]([None, each.columns])) for each in inputs]
    options = {"zipmap": False} if original.task == "classification" else None
    with _wide_trees() if way.wide else _as_they_are():
        # Version 3 of ai.onnx.ml is the last one with the tree operators that converters use.
        graph = skl2onnx.to_onnx(
            estimator, initial_types=given, options=options, name=model.name, target_opset={"": 18, "ai.onnx.ml": 3}
        )
    output = find_output(graph, original.task)
    data, used = finish_graph(graph, inputs, output, original.labels)
    return Converted(way.name, data, used, output)


def _plan_inputs(
    estimator: Any, columns: tuple[str, ...], model: Model, coded: Collection[str], way: Way
) -> list[Input]:
    """Plan one tensor for all features, or one per feature if the pipeline selects columns by name or types differ."""
    kinds = dict(iterate_features(model))
    types = {
        name: "string" if isinstance(kinds[name], Category | Text) and name not in coded else way.number
        for name in columns
    }
    selects = any(type(each).__name__ == "ColumnTransformer" for each in walk(estimator))
    if len(set(types.values())) == 1 and not selects:
        return [Input(_TENSOR, types[columns[0]], columns)]
    return [Input(name, types[name], (name,)) for name in columns]


def _cut_vectorizers(
    original: Original, estimator: Any, model: Model, coded: Collection[str], way: Way
) -> tuple[Any, list[Input]]:
    """Remove the text vectorizers from an estimator, and plan the inputs of the rest.

    Vectorizers run in Python, where they are exact for any text and any locale.

    Raises:
        Refused: a vectorizer is neither the first step, nor in a ColumnTransformer that is the first step.
    """
    if find_vectorizer(estimator) is not None:
        vectorizer, steps = _read_vectorizer(original.source, list(estimator.steps))
        if not steps:
            raise Refused(f"{original.source}: has no step after the vectorizer; expected a classifier or regressor")
        return _import("sklearn.pipeline").Pipeline(steps), [Input("text", way.number, original.columns, vectorizer)]
    steps = getattr(estimator, "steps", [])
    texts: list[Input] = []
    if steps and type(steps[0][1]).__name__ == "ColumnTransformer":
        columns = steps[0][1]
        width = 0
        for number, (name, transformer, column) in enumerate(columns.transformers_):
            inner = list(getattr(transformer, "steps", [(name, transformer)]))
            if not isinstance(column, str) or not _is_vectorizer(inner[0][1]):
                continue
            vectorizer, rest = _read_vectorizer(original.source, inner)
            texts.append(Input(column, way.number, (column,), vectorizer))
            # By index, since for the converter a name is one column; the inputs of texts come first.
            block = list(range(width, width + len(vectorizer.vocabulary)))
            columns.transformers_[number] = (
                name,
                _import("sklearn.pipeline").Pipeline(rest) if rest else "passthrough",
                block,
            )
            width += len(block)
    if any(_is_vectorizer(each) and hasattr(each, "vocabulary_") for each in walk(estimator)):
        raise Refused(
            f"{original.source}: has a text vectorizer at an unsupported place; expected it as the first step, or in a "
            "ColumnTransformer that is the first step; change the pipeline, and train again"
        )
    taken = {each.name for each in texts}
    others = tuple(name for name in original.columns if name not in taken)
    return estimator, [*texts, *(_plan_inputs(estimator, others, model, coded, way) if others else [])]


def _is_vectorizer(step: Any) -> bool:
    return type(step).__name__ in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


def _read_vectorizer(source: str, steps: list[tuple[str, Any]]) -> tuple[TextVectorizer, list[tuple[str, Any]]]:
    """Return the vectorizer at the beginning of some steps, and the steps after it.

    Raises:
        Refused: its tokens are not words, or it has custom code.
    """
    name, first = steps.pop(0)
    place = f"{source}: step {name!r}"
    if not hasattr(first, "vocabulary_"):
        raise Refused(f"{place}: {type(first).__name__} has no vocabulary; use TfidfVectorizer or CountVectorizer")
    if first.analyzer != "word":
        raise Refused(f"{place}: analyzer is {first.analyzer!r}; expected 'word'")
    for option in ("tokenizer", "preprocessor"):
        if getattr(first, option) is not None:
            raise Refused(f"{place}: {option} is custom code, which the function does not have; use token_pattern")
    if first.strip_accents not in (None, "unicode", "ascii"):
        raise Refused(f"{place}: strip_accents is custom code; expected 'unicode', 'ascii' or None")
    weights = first if hasattr(first, "sublinear_tf") else None
    if weights is None and steps and type(steps[0][1]).__name__ == "TfidfTransformer":
        weights = steps.pop(0)[1]
    terms = sorted(first.vocabulary_, key=first.vocabulary_.get)
    if [first.vocabulary_[term] for term in terms] != list(range(len(terms))):
        raise Refused(f"{place}: its vocabulary has gaps; expected the columns 0 to {len(terms) - 1}")
    vectorizer = TextVectorizer(
        vocabulary=tuple(terms),
        lowercase=bool(first.lowercase),
        strip_accents=first.strip_accents,
        token_pattern=first.token_pattern,
        stop_words=tuple(sorted(first.get_stop_words() or ())),
        ngram_range=(int(first.ngram_range[0]), int(first.ngram_range[1])),
        binary=bool(first.binary),
        sublinear_tf=bool(weights is not None and weights.sublinear_tf),
        idf=tuple(weights.idf_.tolist()) if weights is not None and weights.use_idf else None,
        norm=weights.norm if weights is not None else None,
    )
    return vectorizer, steps


def _prepare(estimator: Any, way: Way) -> Any:
    """Change a copy of an estimator so that its conversion is exact."""
    for each in walk(estimator):
        _name_missing_texts(each)
        if type(each).__name__ == "VotingClassifier":
            each.flatten_transform = False  # only for transform, which is not used; the converter refuses True
        if type(each).__name__.startswith("XGB"):
            booster = each.get_booster()
            if (best := booster.attr("best_iteration")) is not None:  # the converter would use all trees
                booster = booster[: int(best) + 1]
                each._Booster = booster
            booster.feature_names = None  # the converter accepts only f0, f1, ...
    if not way.casts:
        return estimator
    pipeline = _import("sklearn.pipeline").Pipeline
    cast = _import("skl2onnx.sklapi").CastTransformer(dtype=np.float32)
    if hasattr(estimator, "steps"):
        return pipeline([*estimator.steps[:-1], ("larder_cast", cast), estimator.steps[-1]])
    return pipeline([("larder_cast", cast), ("larder_model", estimator)])


def _name_missing_texts(step: Any) -> None:
    """Represent a missing text as the empty text: a tensor of texts has no null."""
    name, statistics = type(step).__name__, getattr(step, "statistics_", np.empty(0))
    if name == "SimpleImputer" and statistics.dtype == object and not isinstance(step.missing_values, str):
        step.missing_values = ""
    if name in ("OneHotEncoder", "OrdinalEncoder") and hasattr(step, "categories_"):
        for number, values in enumerate(step.categories_):
            if values.dtype == object and any(not isinstance(value, str) for value in values):
                is_text = any(isinstance(value, str) for value in values)
                if is_text and "" not in values:
                    step.categories_[number] = np.array([v if isinstance(v, str) else "" for v in values], dtype=object)


def _register_converters() -> None:
    """Let skl2onnx convert HistGradientBoosting exactly, and LightGBM and XGBoost if they are installed."""
    skl2onnx = _import("skl2onnx")
    shapes = _import("skl2onnx.common.shape_calculator")
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    forests = _import("skl2onnx.operator_converters.random_forest")

    def convert_hist(scope: Any, operator: Any, container: Any) -> None:
        # Version 3 of the operator: the converter's default, 1, rounds thresholds to 32 bits.
        forests.convert_sklearn_random_forest_classifier(scope, operator, container, op_version=3)

    skl2onnx.update_registered_converter(
        _import("sklearn.ensemble").HistGradientBoostingClassifier,
        "LarderHistGradientBoostingClassifier",
        shapes.calculate_linear_classifier_output_shapes,
        convert_hist,
        options={**options, "raw_scores": [True, False], "output_class_labels": [False, True]},
    )
    _register_imputer()
    for library, module, function, prefix in (
        ("lightgbm", "onnxmltools.convert.lightgbm.operator_converters.LightGbm", "convert_lightgbm", "LGBM"),
        ("xgboost", "onnxmltools.convert.xgboost.operator_converters.XGBoost", "convert_xgboost", "XGB"),
    ):
        try:
            classes = __import__(library)
        except ImportError:
            continue
        converter = getattr(_import(module), function)
        for kind in ("Classifier", "Regressor"):
            is_class = kind == "Classifier"
            shape = (
                "calculate_linear_classifier_output_shapes" if is_class else "calculate_linear_regressor_output_shapes"
            )
            skl2onnx.update_registered_converter(
                getattr(classes, prefix + kind),
                f"Larder{prefix}{kind}",
                getattr(shapes, shape),
                converter,
                options=options if is_class else {},
            )


def _register_imputer() -> None:
    """Let skl2onnx fill missing 64-bit floats by `where(isnan(x), fill, x)`: the runtime's Imputer has only 32 bits."""
    registration = _import("skl2onnx.common._registration")
    data_types = _import("skl2onnx.common.data_types")
    common = _import("skl2onnx.operator_converters.common")
    proto = _import("onnx").TensorProto
    name = "SklearnSimpleImputer"
    its_shape, its_converter = registration.get_shape_calculator(name), registration.get_converter(name)

    def find_shape(operator: Any) -> None:
        imputer = operator.raw_operator
        if not isinstance(operator.inputs[0].type, data_types.DoubleTensorType):
            its_shape(operator)
            return
        columns = len(imputer.statistics_) + (len(imputer.indicator_.features_) if imputer.add_indicator else 0)
        operator.outputs[0].type = data_types.DoubleTensorType([operator.inputs[0].get_first_dimension(), columns])

    def convert_imputer(scope: Any, operator: Any, container: Any) -> None:
        imputer = operator.raw_operator
        if not isinstance(operator.inputs[0].type, data_types.DoubleTensorType):
            its_converter(scope, operator, container)
            return
        if not np.isnan(imputer.missing_values) or np.isnan(imputer.statistics_).any():
            raise NotImplementedError("SimpleImputer: missing_values is not NaN, or a column has no values")

        def add(kind: str, inputs: list[str], version: int, output: str | None = None, **attributes: Any) -> str:
            output = output or scope.get_unique_variable_name(kind.lower())
            node = scope.get_unique_operator_name(kind)
            container.add_node(kind, inputs, [output], op_version=version, name=node, **attributes)
            return output

        def constant(kind: int, shape: list[int], values: list[Any]) -> str:
            found: str = scope.get_unique_variable_name("fill")
            container.add_initializer(found, kind, shape, values)
            return found

        given = common.concatenate_variables(scope, operator.inputs, container)
        output = operator.outputs[0].full_name
        is_missing = add("IsNaN", [given], 13)
        fill = constant(proto.DOUBLE, [1, len(imputer.statistics_)], imputer.statistics_.tolist())
        if not imputer.add_indicator:
            add("Where", [is_missing, fill, given], 9, output)
            return
        filled = add("Where", [is_missing, fill, given], 9)
        chosen = constant(proto.INT64, [len(imputer.indicator_.features_)], imputer.indicator_.features_.tolist())
        indicated = add("Gather", [add("Cast", [is_missing], 13, to=proto.DOUBLE), chosen], 13, axis=1)
        add("Concat", [filled, indicated], 13, output, axis=1)

    _import("skl2onnx").update_registered_converter(
        _import("sklearn.impute").SimpleImputer, "LarderSimpleImputer", find_shape, convert_imputer
    )


@contextmanager
def _as_they_are() -> Iterator[None]:
    yield


@contextmanager
def _wide_trees() -> Iterator[None]:
    """Let converters write thresholds and weights of trees as unchanged 64-bit floats.

    By default attributes have 32 bits, and skl2onnx moves thresholds to where a 32-bit number crosses them, which is
    right only for trees that compare 32-bit numbers. Both send a row at a threshold to the wrong side.
    """
    container = _import("skl2onnx.common._container").ModelComponentContainer
    trees = _import("skl2onnx.common.tree_ensemble")
    onnx = _import("onnx")
    add_node, move_threshold = container.add_node, trees.sklearn_threshold

    def add_wide(self: Any, op_type: str, inputs: Any, outputs: Any, *arguments: Any, **attributes: Any) -> Any:
        if op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            for name in _WIDE:
                values = attributes.pop(name, None)
                if values is not None and len(values):
                    numbers = np.asarray(values, dtype=np.float64)
                    attributes[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(numbers, name)
            attributes["op_version"] = 3
        return add_node(self, op_type, inputs, outputs, *arguments, **attributes)

    container.add_node, trees.sklearn_threshold = add_wide, lambda value, *_: value
    try:
        yield
    finally:
        container.add_node, trees.sklearn_threshold = add_node, move_threshold
