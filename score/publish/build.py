"""Build a proved version from a trained model and held-out rows: the steps of `publish` before it writes to S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from enrich.release import RELEASE
from score.manifest import Golden, Manifest, Scalar, dump_manifest, parse_manifest
from score.model import Category, Model, Number, Text, iterate_features
from score.native import Session, open_runtime
from score.onnx_file import check_model
from score.publish.convert import Converted, check_convertible, convert
from score.publish.distribution import cut_numbers, find_baseline, find_bins
from score.publish.errors import Refused
from score.publish.original import Array, Original, build_frame, load_original
from score.publish.proof import Proof, ask_original, predict_all, prove
from score.publish.rows import Row, build_edge_rows, build_threshold_rows, parse_rows, read_table
from score.scorer import Scorer, check_fit

GOLDEN_ROWS = 20
LEAST_ROWS = 20
Say = Callable[[str], object]


@dataclass(frozen=True)
class Built:
    """A proved version that has not been written yet."""

    manifest: Manifest
    model_bytes: bytes
    way: str
    proof: Proof
    counts: Mapping[str, int]  # rows that were compared, by kind


def build_version(
    model: Model,
    source: str,
    rows: Path,
    *,
    training: Path | None = None,
    labels: Sequence[str] = (),
    say: Say = str,
    now: datetime | None = None,
) -> Built:
    """Convert a model and prove the conversion.

    Args:
        model: its definition.
        source: the trained model (see `load_original`).
        rows: file of held-out rows, with one column per feature.
        training: file of training rows, for baseline and bins; by default the held-out rows.
        labels: see `load_original`.
        say: called with a line of text at each step.
        now: the time; by default the machine's.

    Raises:
        Refused: the model or its rows are not accepted, or no conversion gives the answers of the original.
    """
    table = read_table(rows)
    held_out = parse_rows(table, model, rows.name)
    if len(held_out) < LEAST_ROWS:
        raise Refused(f"{rows}: has {len(held_out)} rows; expected {LEAST_ROWS} or more, better 1,000")
    original = load_original(source, model, labels)
    check_convertible(original)
    say(f"{source}: {original.library}, {original.task}, {len(original.columns)} features")
    trained = read_table(training) if training else table
    coded = _find_coded(model, original, table)
    missing_text = dict.fromkeys(_texts_with_nan(model, [table, trained]), np.nan)

    def predict(instances: Sequence[Mapping[str, Scalar]]) -> Array:
        with threadpool_limits(1):  # for few rows, threads cost more than they gain
            return original.predict(build_frame(instances, model, coded, missing_text))

    edges = build_edge_rows(model, held_out)
    ask = partial(ask_original, predict, source=original.source)
    wanted = [ask(each) for each in (held_out, edges) if each]
    say("searching for thresholds")
    sample = held_out[:: max(1, len(held_out) // 2000)]
    thresholds = build_threshold_rows(
        model, sample, lambda each: ask([Row("a row between two held-out rows", one) for one in each])
    )
    wanted += [ask(thresholds)] if thresholds else []
    compared = [*held_out, *edges, *thresholds]
    counts = {"held-out": len(held_out), "edges": len(edges), "thresholds": len(thresholds)}
    training_rows = parse_rows(trained, model, training.name) if training else held_out
    manifest = _describe(model, original, training_rows, now or datetime.now(UTC))
    failed: list[tuple[Converted, Proof]] = []
    for converted in convert(original, model, coded):
        complete = _complete(manifest, model, converted, held_out)
        if isinstance(complete, str):
            failed.append((converted, Proof(0, 0, 0, float("inf"), complete)))
            continue
        proof = prove(converted.model_bytes, complete, model, compared, np.vstack(wanted))
        say(f"{converted.way}: {len(compared) - proof.wrong:,} of {len(compared):,} rows agree with the original")
        if not proof.wrong:
            return Built(complete, converted.model_bytes, converted.way, proof, counts)
        failed.append((converted, proof))
    converted, proof = min(failed, key=lambda each: (each[1].largest, each[1].wrong))
    if not np.isfinite(proof.largest):
        raise Refused(f"{source}: the converted model ({converted.way}) can't be used: {proof.worst}")
    raise Refused(
        f"{source}: the converted model ({converted.way}) differs from the original in {proof.wrong:,} of "
        f"{proof.rows:,} rows (a probability or value by more than 1e-5, or the label); the worst is "
        f"{proof.worst}. Nothing was published. Replace the step that differs, and train again"
    )


def _describe(model: Model, original: Original, rows: Sequence[Row], now: datetime) -> Manifest:
    """Build the manifest without the members that depend on the conversion."""
    columns = {name: [row.instance[name] for row in rows] for name in model.features}
    at = now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Manifest(
        model=model.name,
        version="",
        sha256="",
        size=0,
        task=original.task,
        labels=original.labels,
        inputs=(),
        output="",
        baseline=find_baseline(model, columns),
        golden=(),
        bins=find_bins(model, columns),
        scores=None,
        created=at,
        release=RELEASE,
    )


def _complete(manifest: Manifest, model: Model, converted: Converted, held_out: Sequence[Row]) -> Manifest | str:
    """Complete the manifest with the answers of the converted model; return an error text if it does not run.

    Golden rows are held-out rows, with other texts, and not rows at thresholds: another processor could round those
    differently.
    """
    digest = sha256(converted.model_bytes).hexdigest()
    chosen = [held_out[round(number)] for number in np.linspace(0, len(held_out) - 1, GOLDEN_ROWS)]
    chosen = [_without_texts(number, row, model, converted) for number, row in enumerate(chosen)]
    width = len(manifest.labels) or 1
    draft = manifest._replace(
        version=digest[:16],
        sha256=digest,
        size=len(converted.model_bytes),
        inputs=converted.inputs,
        output=converted.output,
        golden=(),
    )
    try:
        check_fit(draft, model)
        check_model(converted.model_bytes)
        scorer = Scorer(Session(open_runtime(), converted.model_bytes), draft, model)
        answers = predict_all(scorer, chosen)
        scores = predict_all(scorer, held_out)
    except Exception as error:  # noqa: BLE001 - an error of the runtime, or a value that does not fit an input
        return f"it does not run: {error}"
    if answers.shape[1] != width:
        return f"found {answers.shape[1]} numbers in its answer, expected {width}"
    golden = tuple(
        Golden(dict(row.instance), tuple(answer)) for row, answer in zip(chosen, answers.tolist(), strict=True)
    )
    used = draft.features
    complete = draft._replace(
        golden=golden,
        scores=cut_numbers(scores.max(axis=1).tolist() if manifest.labels else scores[:, 0].tolist()),
        baseline={name: value for name, value in manifest.baseline.items() if name in used},
        bins={name: bins for name, bins in manifest.bins.items() if name in used},
    )
    return parse_manifest(dump_manifest(complete), "the manifest")  # never write a manifest that score would refuse


def _without_texts(number: int, row: Row, model: Model, converted: Converted) -> Row:
    """Replace each text by terms of the vocabulary: a text of a held-out row can be confidential."""
    terms = {each.features[0]: each.text.vocabulary for each in converted.inputs if each.text}
    texts = {
        name: " ".join(terms[name][number % len(terms[name]) :: max(1, len(terms[name]) // 12)])
        if name in terms
        else ""
        for name, kind in iterate_features(model)
        if isinstance(kind, Text)
    }
    return Row(row.place, {**row.instance, **texts})


def _find_coded(model: Model, original: Original, table: pd.DataFrame) -> frozenset[str]:
    """Return the categories that the original gets as numbers: all of a booster, else those with a numeric column."""
    categories = [name for name, kind in iterate_features(model) if isinstance(kind, Category)]
    if original.library in ("LightGBM", "XGBoost"):
        return frozenset(categories)
    if original.library == "ONNX":
        texts = {name for each in original.model[1] if each.type == "string" for name in each.features}
        return frozenset(categories) - texts
    return frozenset(name for name in categories if pd.api.types.is_numeric_dtype(table[name]))


def _texts_with_nan(model: Model, tables: Sequence[pd.DataFrame]) -> set[str]:
    """Return the categories and texts that are missing in a row: the original was trained with NaN there."""
    return {
        name
        for name, kind in iterate_features(model)
        if not isinstance(kind, Number)
        for table in tables
        if name in table.columns and table[name].isna().any()
    }
