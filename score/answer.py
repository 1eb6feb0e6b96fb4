"""Build the JSON of an answer from a scorer's numbers, and the description of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from score.model import REQUIRED, Boolean, Category, Feature, Model, Number, Stored
from score.scorer import Scorer
from score.stored import Used


def find_label(scorer: Scorer, answer: Sequence[float]) -> str:
    """Return the label with the largest probability; the first of equal ones, as in scikit-learn."""
    return scorer.manifest.labels[answer.index(max(answer))]


def build_prediction(scorer: Scorer, answer: tuple[float, ...], used: Mapping[str, Used]) -> dict[str, Any]:
    """Build a prediction: `label` and `probability`, or `value`; and the stored items that it used."""
    decimals = scorer.model.decimals
    prediction: dict[str, Any]
    if scorer.manifest.labels:
        prediction = {"label": find_label(scorer, answer), "probability": round_number(max(answer), decimals)}
    else:
        prediction = {"value": round_number(answer[0], decimals)}
    if used:
        prediction["stored"] = {name: _build_used(one) for name, one in used.items()}
    return prediction


def build_body(
    scorer: Scorer, form: str, predictions: Sequence[Mapping[str, Any]], *, is_explained: bool
) -> dict[str, Any] | list[Any]:
    """Build the body of an answer, in the form of the request."""
    if form == "texts" and not is_explained:
        return [prediction.get("label", prediction.get("value")) for prediction in predictions]
    if form in ("bare", "values"):
        return {"prediction": predictions[0]}
    model = {"name": scorer.model.name, "version": scorer.version}
    if form == "instance":
        return {"prediction": predictions[0], "model": model}
    return {"predictions": list(predictions), "model": model}


def describe_model(model: Model, scorer: Scorer) -> dict[str, Any]:
    """Describe a model: what a request must have, and which version answers."""
    features = [{"name": name, **_describe_feature(feature)} for name, feature in model.features.items()]
    members = [{"name": name, "type": "prediction_id", "required": True} for name in model.ids]
    described: dict[str, Any] = {"name": model.name, "about": model.about, "task": model.task}
    if scorer.manifest.labels:
        described["labels"] = list(scorer.manifest.labels)
    described |= {"version": scorer.version, "created": scorer.manifest.created, "forms": list(model.forms)}
    return {**described, "features": features + members}


def round_number(number: float, decimals: int | None) -> float:
    """Round a number of an answer to some decimals; None: to seven significant digits, the precision of a float32."""
    return float(f"{number:.7g}") if decimals is None else round(number, decimals)


def _build_used(used: Used) -> dict[str, Any]:
    members: dict[str, Any] = {"as_of": used.as_of, "run": used.run} if used.as_of else {}
    return {**members, "missing": str(used.missing)} if used.missing else members


def _describe_feature(feature: Feature) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(feature).__name__.lower()}
    if isinstance(feature, Stored):
        described |= {"dataset": feature.dataset, "id": feature.id, "at": feature.at}
    else:
        described["required"] = feature.missing is REQUIRED
        if isinstance(feature, Number):
            described |= {
                name: getattr(feature, name) for name in ("low", "high") if getattr(feature, name) is not None
            }
        elif isinstance(feature, Category):
            described["choices"] = list(feature.choices)
        elif not isinstance(feature, Boolean):
            described["longest"] = feature.longest
    return {**described, "about": feature.about} if feature.about else described
