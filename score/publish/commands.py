"""Execute the commands of `./larder score`; each prints its result as text or JSON."""

from __future__ import annotations

import argparse
import base64
import getpass
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enrich.cli.exit_codes import DONE, FAILED, UsageError, print_error
from enrich.cli.table import printable, render_table
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.suggestions import suggest
from enrich.datasets import load_served
from score.manifest import Alias, Manifest, Scalar, Share, signed_bytes
from score.model import Model
from score.models import load_models
from score.paths import VERSION, model_key
from score.publish import alias as aliases
from score.publish import versions
from score.publish.distribution import measure_psi
from score.publish.errors import Refused
from score.publish.training_query import build_training_query
from score.scorer import VersionRefused, check_fit, load_scorer

_KEY_HINT = "make one: openssl genpkey -algorithm ed25519 -out FILE"


@dataclass(frozen=True)
class Printed:
    """The result of a command: text, the same as JSON, and the exit code."""

    text: str
    document: Any
    code: int = DONE


def execute(options: argparse.Namespace) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: an argument is missing, or names something that does not exist.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    commands: dict[str, Callable[[argparse.Namespace], Printed]] = {
        "publish": _publish,
        "list": _list,
        "promote": _promote,
        "rollback": _rollback,
        "canary": _share,
        "shadow": _share,
        "check": _check,
        "drift": _drift,
        "kept": _kept,
    }
    try:
        printed = commands[options.command](options)
    except (Refused, DatasetMistakes) as error:
        return print_error(printable_lines(str(error)), FAILED)
    except (BotoCoreError, ClientError) as error:
        return print_error(f"a call to AWS failed: {error}; run the command again, it is safe to repeat", FAILED)
    print(json.dumps(printed.document, ensure_ascii=False) if options.json else printed.text)  # noqa: T201
    return printed.code


def printable_lines(text: str) -> str:
    """Escape control characters, except line ends."""
    return "\n".join(map(printable, text.splitlines()))


def _publish(options: argparse.Namespace) -> Printed:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for few rows, threads cost more than they gain
    model = _find_model(options.model)
    if not options.dry_run:
        s3, bucket = _open(options)  # first: the conversion takes minutes, and a bucket can be missing
    for name in ("sklearn", "pandas", "onnx", "skl2onnx"):  # also before the conversion
        if importlib.util.find_spec(name) is None:
            raise Refused(
                f"publishing needs the package {name!r}: pip install -r score/publish/requirements.txt, or run "
                "`python3 dev.py run -e score --notest`, then .tox/score/bin/python -m score publish ..."
            )
    from score.publish.build import build_version

    if options.file.endswith((".joblib", ".pkl", ".pickle")):
        _say(f"{options.file}: is a pickle: loading it runs the code in it; publish only files that you trust")
    built = build_version(
        model,
        options.file,
        Path(options.rows),
        training=Path(options.training) if options.training else None,
        labels=options.labels.split(",") if options.labels else (),
        say=_say,
    )
    manifest = built.manifest
    if options.sign:
        manifest = sign(manifest, Path(options.sign))
    document = {
        "model": model.name,
        "version": manifest.version,
        "size": manifest.size,
        "way": built.way,
        "rows": dict(built.counts),
        "largest_difference": built.proof.largest,
        "ties": built.proof.ties,
    }
    rows = ", ".join(f"{count:,} {kind}" for kind, count in built.counts.items())
    ties = f" ({built.proof.ties:,} are ties within 1e-5, where either label is right)" if built.proof.ties else ""
    lines = [f"{model.name} {manifest.version}: {manifest.size:,} bytes; {built.way}"]
    lines.append(f"agrees with the original on {rows} rows{ties}; largest difference {built.proof.largest:.1g}")
    if options.dry_run:
        return Printed("\n".join([*lines, "nothing was written (--dry-run)"]), {**document, "written": False})
    is_new = versions.write_version(s3, bucket, manifest, built.model_bytes)
    lines.append("written" if is_new else "was published before; nothing was written")
    if options.promote:
        alias, _ = _change(
            options, s3, bucket, model.name, lambda found: aliases.promote(found, model.name, manifest.version)
        )
        lines.append(_describe_alias(alias))
    else:
        lines.append(f"to make it live: ./larder score promote {model.name} {manifest.version}")
    return Printed("\n".join(lines), {**document, "written": is_new, "promoted": bool(options.promote)})


def sign(manifest: Manifest, path: Path) -> Manifest:
    """Sign a manifest with the Ed25519 private key of a PEM file.

    Raises:
        Refused: the file has no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        found = type(error).__name__
        raise Refused(f"{path}: is not a private key in PEM format without a password: {found}; {_KEY_HINT}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Refused(f"{path}: is not an Ed25519 key; {_KEY_HINT}")
    return manifest._replace(signature=base64.b64encode(key.sign(signed_bytes(manifest))).decode())


def _list(options: argparse.Namespace) -> Printed:
    s3, bucket = _open(options)
    known = versions.list_models(s3, bucket)
    if options.model is None:
        found = [(name, aliases.read_alias(s3, bucket, name)[0]) for name in known]
        rows = [
            [
                name,
                alias and alias.live,
                _text(alias and alias.canary),
                _text(alias and alias.shadow),
                alias and alias.previous,
                alias and alias.by,
                alias and alias.at,
            ]
            for name, alias in found
        ]
        document = [_describe_json(name, alias) for name, alias in found]
        head = ["model", "live", "canary", "shadow", "previous", "by", "at"]
        return Printed(render_table(head, rows) if rows else f"s3://{bucket}/models/ has no models", document)
    if options.model not in known:
        raise UsageError(f"s3://{bucket}/models/ has no model {options.model!r}; {suggest(options.model, known)}")
    alias, _ = aliases.read_alias(s3, bucket, options.model)
    roles = _find_roles(alias)
    manifests = [
        versions.read_manifest(s3, bucket, options.model, each)
        for each in versions.list_versions(s3, bucket, options.model)
    ]
    manifests.sort(key=lambda each: (each.created, each.version))
    table: list[list[object]] = [
        [each.version, ", ".join(roles.get(each.version, [])) or None, each.created, each.size, each.release]
        for each in manifests
    ]
    details = {
        **_describe_json(options.model, alias),
        "versions": [
            {
                "version": each.version,
                "roles": roles.get(each.version, []),
                "created": each.created,
                "size": each.size,
                "release": each.release,
            }
            for each in manifests
        ],
    }
    return Printed(render_table(["version", "serves as", "created", "bytes", "release"], table), details)


def _promote(options: argparse.Namespace) -> Printed:
    s3, bucket = _open(options)
    model = _find_model(options.model)
    _prove(s3, bucket, model, options.version)
    return _report(
        _change(options, s3, bucket, model.name, lambda found: aliases.promote(found, model.name, options.version)),
    )


def _rollback(options: argparse.Namespace) -> Printed:
    s3, bucket = _open(options)
    model = _find_model(options.model)
    # The previous version is proved too: a damaged version must not become live.
    target = aliases.rollback(aliases.read_alias(s3, bucket, model.name)[0]).live
    _prove(s3, bucket, model, target)

    def change(alias: Alias | None) -> Alias:
        changed = aliases.rollback(alias)
        if changed.live != target:
            message = f"{model.name}: another command changed the alias at the same time; nothing was written"
            raise Refused(f"{message}; check with ./larder score list {model.name}")
        return changed

    return _report(_change(options, s3, bucket, model.name, change))


def _share(options: argparse.Namespace) -> Printed:
    change = aliases.set_canary if options.command == "canary" else aliases.set_shadow
    if options.off == (options.version is not None) or (options.version is not None and options.share is None):
        raise UsageError(
            f"give VERSION and SHARE, or --off: ./larder score {options.command} iris 3f2a90c1d45e6b78 0.05"
        )
    s3, bucket = _open(options)
    model = _find_model(options.model)
    share = None if options.off else Share(options.version, options.share)
    if share:
        change(aliases.read_alias(s3, bucket, model.name)[0], share)  # check it before the version is loaded
        _prove(s3, bucket, model, share.version)
    return _report(_change(options, s3, bucket, model.name, lambda found: change(found, share)))


def _check(options: argparse.Namespace) -> Printed:
    s3, bucket = _open(options)
    models = load_models(load_served())
    names = [_find_model(options.model).name] if options.model else sorted({*models, *versions.list_models(s3, bucket)})
    found = []
    for name in names:
        found += _check_model(s3, bucket, name, models.get(name))
    lines = [
        f"{each['model']} {each['role']} {each['version'] or '-'}: {each['mistake'] or 'can serve'}" for each in found
    ]
    is_wrong = any(each["mistake"] for each in found)
    return Printed(printable_lines("\n".join(lines)) or "there are no models", found, FAILED if is_wrong else DONE)


def _check_model(s3: Any, bucket: str, name: str, model: Model | None) -> list[dict[str, Any]]:
    def line(role: str, version: str | None, mistake: str | None) -> dict[str, Any]:
        return {"model": name, "role": role, "version": version, "mistake": mistake}

    try:
        alias, _ = aliases.read_alias(s3, bucket, name)
    except Refused as error:
        return [line("alias", None, str(error))]
    if model is None:
        remedy = "add its definition, or delete its objects"
        return [line("alias", alias and alias.live, f"is in the bucket, but models/ does not define it: {remedy}")]
    if alias is None:
        return [line("alias", None, f"no version is live; run ./larder score promote {name} VERSION")]
    found = []
    for version, roles in _find_roles(alias).items():
        mistake = None
        try:
            _prove(s3, bucket, model, version)
        except Refused as error:
            mistake = str(error)
        found.append(line("+".join(roles), version, mistake))
    return found


def _kept(options: argparse.Namespace) -> Printed:
    """Print the query of the training set; the user runs it on Athena."""
    model = _find_model(options.model)
    if model.keep is None:
        raise Refused(f"{model.name}: keeps no features; add keep=Keep(share=0.05) to its definition, and deploy")
    table = options.table or os.environ.get("LARDER_KEPT_TABLE")
    if not table:
        raise UsageError("no table: give --table, or set LARDER_KEPT_TABLE (`./larder env STACK` prints it)")
    today = datetime.now(UTC).date()
    since, until = options.since or today - timedelta(days=30), options.until or today
    if since > until:
        raise UsageError(f"--since {since} is after --until {until}; give the earlier day as --since")
    query = build_training_query(model, table, since, until)
    return Printed(query, {"model": model.name, "query": query})


def _drift(options: argparse.Namespace) -> Printed:
    try:
        from score.publish.rows import parse_rows, read_table
    except ImportError as error:
        raise Refused(f"drift needs the package {error.name!r}: pip install pandas pyarrow") from error
    s3, bucket = _open(options)
    model = _find_model(options.model)
    version = options.version
    if version is None:
        alias, _ = aliases.read_alias(s3, bucket, model.name)
        if alias is None:
            raise Refused(f"{model.name}: no version is live; choose one with --version")
        version = alias.live
    manifest = versions.read_manifest(s3, bucket, model.name, version)
    path = Path(options.rows)
    rows = [row.instance for row in parse_rows(read_table(path), model, path.name, most=1_000_000)]
    found = measure_drift(manifest, rows)
    try:  # the score too, if the runtime is installed
        scorer = load_scorer(versions.read_model(s3, bucket, manifest), manifest, model)
    except VersionRefused as error:
        _say(f"{model.name} {version}: the drift of the score was not measured: {error}")
    else:
        if manifest.scores:
            answers = [
                max(each) for start in range(0, len(rows), 100) for each in scorer.predict(rows[start : start + 100])
            ]
            found["(score)"] = measure_psi(manifest.scores, answers)
    drifted = sorted((name for name, psi in found.items() if psi > options.above), key=lambda name: -found[name])
    table = [
        [name, f"{psi:.3f}", "changed" if name in drifted else None]
        for name, psi in sorted(found.items(), key=lambda each: -each[1])
    ]
    text = f"{model.name} {version}, {len(rows):,} rows\n{render_table(['feature', 'psi', 'state'], table)}"
    document = {"model": model.name, "version": version, "rows": len(rows), "psi": found, "changed": drifted}
    return Printed(text, document, FAILED if drifted else DONE)


def measure_drift(manifest: Manifest, rows: Sequence[Mapping[str, Scalar]]) -> dict[str, float]:
    """Return the PSI of each feature that has bins."""
    return {name: measure_psi(bins, [row[name] for row in rows]) for name, bins in manifest.bins.items()}


def _prove(s3: Any, bucket: str, model: Model, version: str) -> None:
    """Check that a version can serve, as the function does before it uses a version.

    Raises:
        Refused: it can't.
    """
    if not VERSION.match(version):
        raise UsageError(f"{version!r} is not a version; expected 16 hex digits, see ./larder score list {model.name}")
    manifest = versions.read_manifest(s3, bucket, model.name, version)
    model_bytes = versions.read_model(s3, bucket, manifest)
    place = f"s3://{bucket}/{model_key(model.name, version)}"
    try:
        check_fit(manifest, model)
        if _has_runtime():
            load_scorer(model_bytes, manifest, model)
        else:
            _say("onnxruntime is not installed: golden rows were not checked here; each container checks them")
    except VersionRefused as error:
        raise Refused(f"{place}: can't serve: {error}; nothing was written") from error


def _has_runtime() -> bool:
    from score.native import RuntimeFailed, open_runtime

    try:
        open_runtime()
    except RuntimeFailed:
        return False
    return True


def _change(
    options: argparse.Namespace, s3: Any, bucket: str, model: str, change: aliases.Change
) -> tuple[Alias, bool]:
    return aliases.write_alias(s3, bucket, model, change, by=options.by or getpass.getuser())


def _report(written: tuple[Alias, bool]) -> Printed:
    alias, is_new = written
    note = "" if is_new else "\nno change; nothing was written"
    return Printed(_describe_alias(alias) + note, {**_describe_json(alias.model, alias), "written": is_new})


def _describe_alias(alias: Alias) -> str:
    parts = [f"{alias.model}: {alias.live} is live"]
    for name, share in (("canary", alias.canary), ("shadow", alias.shadow)):
        if share:
            parts.append(f"{name} {_text(share)}")
    if alias.previous:
        parts.append(f"previous {alias.previous}")
    return "; ".join(parts) + "; every warm container uses it within 30 s and one request"


def _describe_json(name: str, alias: Alias | None) -> dict[str, Any]:
    members: dict[str, Any] = alias._asdict() if alias else dict.fromkeys(Alias._fields)
    for role in ("canary", "shadow"):
        members[role] = members[role] and members[role]._asdict()
    return {**members, "model": name}


def _find_roles(alias: Alias | None) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    if alias:
        named = [("live", alias.live), ("canary", alias.canary and alias.canary.version)]
        named += [("shadow", alias.shadow and alias.shadow.version), ("previous", alias.previous)]
        for role, version in named:
            if version:
                roles.setdefault(version, []).append(role)
    return roles


def _text(share: Share | None) -> str | None:
    return f"{share.version} {share.share:.3g}" if share else None


def _find_model(name: str) -> Model:
    models = load_models(load_served())
    if name not in models:
        raise UsageError(f"models/ defines no model {name!r}; {suggest(name, models)}")
    return models[name]


def _open(options: argparse.Namespace) -> tuple[Any, str]:
    bucket = options.bucket or os.environ.get("LARDER_BUCKET")
    if not bucket:
        raise UsageError("no bucket: give --bucket, or set LARDER_BUCKET (`./larder env STACK` prints it)")
    import boto3

    return boto3.client("s3"), bucket


def _say(text: str) -> None:
    print(printable_lines(text), file=sys.stderr)  # noqa: T201
