"""Publishing without a converter: versions and aliases on S3, killed at any point; commands; distributions, drift."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from score.__main__ import main
from score.manifest import Alias, Bins, Share, dump_manifest, parse_alias, parse_manifest
from score.model import Boolean, Category, Model, Number, Text
from score.paths import alias_key, manifest_key, model_key
from score.publish import alias as aliases
from score.publish import versions
from score.publish.commands import sign
from score.publish.distribution import cut_numbers, fill_bins, find_baseline, find_bins, measure_psi
from score.publish.errors import Refused
from score.store import Fetched, ModelStore, open_verify
from tests.doubles.moto_aws import moto_aws
from tests.unit.score.kit import IRIS, VIRGINICA, iris_version, wine_version

BUCKET = "models"
ONE, TWO, THREE = iris_version(1.0), iris_version(1.5), iris_version(2.0)
V1, V2, V3 = (version[1].version for version in (ONE, TWO, THREE))
BASE = Alias("iris", V1, None, None, None, "deployer", "2024-01-02T03:04:05Z")
DEFINITION = """
from score.models import Model, Number
iris = Model(
    name="iris", subject=("sub",), scope="iris:score", task="classification",
    features={name: Number(low=0, high=30) for name in
              ("sepal_length", "sepal_width", "petal_length", "petal_width")},
)
"""


@pytest.fixture
def s3() -> Iterator[Any]:
    """Open S3 with an empty bucket."""
    with moto_aws() as client:
        found = client("s3")
        found.create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture
def run(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on three versions of iris; return its exit code, its output, and its errors."""
    (tmp_path / "models").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "models" / "iris.py").write_text(DEFINITION)
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    monkeypatch.setenv("LARDER_BUCKET", BUCKET)
    for onnx, manifest in (ONE, TWO, THREE):
        assert versions.write_version(s3, BUCKET, manifest, onnx)

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main(
                [*words, *(["--by", "deployer"] if words[0] in {"promote", "rollback", "canary", "shadow"} else [])]
            )
        except SystemExit as error:
            code = int(str(error.code))
        return code, *capsys.readouterr()

    return call


def read(s3: Any) -> Alias:
    """Read the alias, as a container does."""
    return parse_alias(s3.get_object(Bucket=BUCKET, Key=alias_key("iris"))["Body"].read(), "alias")


class Killed(BaseException):
    """The process ends."""


class Dying:
    """An S3 client that ends the process before or after its n-th call."""

    def __init__(self, s3: Any, number: int, *, after: bool) -> None:
        self._s3, self._left, self._after = s3, number, after

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            answer = getattr(self._s3, name)(**arguments)
            if self._left == 0:
                raise Killed
            return answer

        return call


@pytest.mark.parametrize(
    ("alias", "version", "expected"),
    [
        (None, V1, BASE._replace(by="", at="")),
        (BASE, V1, BASE),
        (BASE, V2, BASE._replace(live=V2, previous=V1)),
        (BASE._replace(live=V2, previous=V1), V2, BASE._replace(live=V2, previous=V1)),
        (BASE._replace(canary=Share(V2, 0.1)), V2, BASE._replace(live=V2, previous=V1)),
        (BASE._replace(shadow=Share(V2, 1)), V2, BASE._replace(live=V2, previous=V1)),
        (
            BASE._replace(canary=Share(V3, 0.1), shadow=Share(V3, 1)),
            V2,
            BASE._replace(live=V2, previous=V1, canary=Share(V3, 0.1), shadow=Share(V3, 1)),
        ),
    ],
)
def test_promote(alias: Alias | None, version: str, expected: Alias) -> None:
    """The version that was live becomes the previous one; the promoted one stops being canary or shadow.

    Promoting it again changes nothing.
    """
    assert aliases.promote(alias, "iris", version) == expected


def test_a_second_rollback_does_not_restore_the_bad_version() -> None:
    """Canary and shadow end; a second rollback is refused."""
    busy = BASE._replace(live=V2, previous=V1, canary=Share(V3, 0.5), shadow=Share(V3, 1))
    back = aliases.rollback(busy)
    assert back == BASE
    with pytest.raises(Refused, match="no previous version to roll back to"):
        aliases.rollback(back)


@pytest.mark.parametrize("change", [aliases.set_canary, aliases.set_shadow])
@pytest.mark.parametrize(
    ("alias", "share", "message"),
    [
        (None, Share(V2, 0.1), "no live version"),
        (BASE, Share(V1, 0.1), "is live; choose another version"),
        (BASE, Share(V2, 0), "the share is 0; expected"),
        (BASE, Share(V2, 5), "the share is 5; expected"),
        (BASE, Share(V2, float("nan")), "the share is nan; expected"),
    ],
)
def test_refused_shares(change: Any, alias: Alias | None, share: Share, message: str) -> None:
    """A share is refused if containers would refuse the alias, or if it has no effect."""
    with pytest.raises(Refused, match=message):
        change(alias, share)


def test_a_change_that_loses_a_race_writes_nothing(s3: Any) -> None:
    """The write is conditional on the alias that was read: the other command's alias remains."""
    aliases.write_alias(s3, BUCKET, "iris", lambda found: aliases.promote(found, "iris", V1), by="deployer")

    def change(alias: Alias | None) -> Alias:
        aliases.write_alias(s3, BUCKET, "iris", lambda found: aliases.promote(found, "iris", V3), by="operator")
        return aliases.promote(alias, "iris", V2)

    with pytest.raises(Refused, match=f"{V3} is live, by operator at .*nothing was written"):
        aliases.write_alias(s3, BUCKET, "iris", change, by="deployer")
    assert read(s3).live == V3
    s3.delete_object(Bucket=BUCKET, Key=alias_key("iris"))
    with pytest.raises(Refused, match=f"{V3} is live"):  # also if there was no alias
        aliases.write_alias(s3, BUCKET, "iris", change, by="deployer")


def test_a_write_whose_response_was_lost_has_succeeded(s3: Any) -> None:
    """The SDK sends the write again, and its condition fails; then the bytes are compared."""
    for body, condition in ((b"1", {"if_none_match": True}), (b"2", {"if_match": "etag"})):
        s3.put_object(Bucket=BUCKET, Key="x", Body=body)
        assert versions.put_if(s3, BUCKET, "x", body, **condition)
        assert not versions.put_if(s3, BUCKET, "x", b"other", **condition)


@pytest.mark.parametrize("after", [False, True])
def test_publish_and_promote_killed_at_any_call(s3: Any, after: bool) -> None:
    """After any last call the live version can serve; the same commands again have the normal result."""

    def publish(client: Any) -> None:
        versions.write_version(client, BUCKET, TWO[1], TWO[0])
        manifest = versions.read_manifest(client, BUCKET, "iris", V2)
        versions.read_model(client, BUCKET, manifest)
        aliases.write_alias(client, BUCKET, "iris", lambda found: aliases.promote(found, "iris", V2), by="deployer")

    def fetch(key: str, etag: str | None) -> Fetched:
        found = s3.get_object(Bucket=BUCKET, Key=key)
        return Fetched(found["Body"].read(), found["ETag"])

    def report(event: str, details: Mapping[str, object]) -> None:
        assert event == "model_loaded", details

    killed = 0
    for number in range(1, 9):
        for key in (model_key("iris", V2), manifest_key("iris", V2), alias_key("iris")):
            s3.delete_object(Bucket=BUCKET, Key=key)
        versions.write_version(s3, BUCKET, ONE[1], ONE[0])
        aliases.write_alias(s3, BUCKET, "iris", lambda found: aliases.promote(found, "iris", V1), by="deployer")
        try:
            publish(Dying(s3, number, after=after))
        except Killed:
            killed += 1
        serving = ModelStore(fetch, {"iris": IRIS}, report).current("iris", 0)
        assert serving.live.version in {V1, V2}
        assert serving.live.predict([VIRGINICA])
        publish(s3)
        assert (read(s3).live, read(s3).previous) == (V2, V1)
    assert killed == 6  # calls of S3: two writes, three reads, a write


def test_a_version_is_written_once(s3: Any) -> None:
    """Writing it again changes nothing; with other labels, or over an object with other bytes, it is refused."""
    onnx, manifest = ONE
    assert versions.write_version(s3, BUCKET, manifest, onnx)
    later = manifest._replace(created="2025-01-01T00:00:00Z")
    assert not versions.write_version(s3, BUCKET, later, onnx)
    assert versions.read_manifest(s3, BUCKET, "iris", V1) == manifest
    with pytest.raises(Refused, match="exists with another 'labels'"):
        versions.write_version(s3, BUCKET, manifest._replace(labels=("a", "b", "c")), onnx)
    s3.put_object(Bucket=BUCKET, Key=model_key("iris", V2), Body=b"truncated")
    with pytest.raises(Refused, match="exists with other bytes than expected"):
        versions.write_version(s3, BUCKET, TWO[1], TWO[0])
    assert versions.list_versions(s3, BUCKET, "iris") == [V1]  # V2 has no manifest


def test_commands(run: Any, s3: Any) -> None:
    """Commands change an alias step by step; JSON output agrees with the text."""
    assert run("list", "iris", "--json")[0] == 0
    assert run("promote", "iris", V1)[:2] == (
        0,
        f"iris: {V1} is live; every warm container uses it within 30 s and one request\n",
    )
    assert "nothing was written" in run("promote", "iris", V1)[1]
    assert run("canary", "iris", V2, "0.25")[0] == run("shadow", "iris", V3, "1")[0] == 0
    code, out, _ = run("list", "iris", "--json")
    found = json.loads(out)
    assert (code, found["live"], found["canary"], found["by"]) == (0, V1, {"version": V2, "share": 0.25}, "deployer")
    assert {each["version"]: each["roles"] for each in found["versions"]} == {
        V1: ["live"],
        V2: ["canary"],
        V3: ["shadow"],
    }
    assert json.loads(run("check", "--json")[1]) == [
        {"model": "iris", "role": role, "version": version, "mistake": None}
        for role, version in (("live", V1), ("canary", V2), ("shadow", V3))
    ]
    assert run("canary", "iris", "--off")[0] == 0
    assert json.loads(run("promote", "iris", V3, "--json")[1])["previous"] == V1
    assert read(s3).shadow is None
    assert json.loads(run("rollback", "iris", "--json")[1])["live"] == V1
    code, _, errors = run("rollback", "iris")
    assert (code, read(s3).live) == (1, V1)
    assert "no previous version" in errors
    assert "iris" in run("list")[1]


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("promote", "iris", "0" * 16), 1, "there is no such version; the versions are "),
    (("promote", "iris", "latest"), 2, "'latest' is not a version; expected 16 hex digits"),
    (("promote", "irsi", V1), 2, "models/ defines no model 'irsi'; did you mean 'iris'?"),
    (("list", "irsi"), 2, "has no model 'irsi'; did you mean 'iris'?"),
    (("rollback", "iris"), 1, "there is no live version to roll back"),
    (("canary", "iris"), 2, "give VERSION and SHARE, or --off"),
    (("canary", "iris", V1), 2, "give VERSION and SHARE, or --off"),
    (("canary", "iris", V1, "0.1", "--off"), 2, "give VERSION and SHARE, or --off"),
    (("canary", "iris", V1, "a"), 2, "invalid float value"),
    (("canary", "iris", V1, "0.1"), 1, "there is no live version to set a canary beside"),
    (("check", "iris"), 1, ""),
    (("list", "--bucket", "nowhere"), 1, "s3://nowhere: there is no such bucket"),
    (("publish", "iris", "iris.joblib", "--rows", "x.csv"), 1, "needs the package 'onnx': pip install -r score/"),
    (("drift", "iris", "--rows", "x.csv"), 1, "no version is live; choose one with --version"),
    (("drift", "iris", "--rows", "x.csv", "--version", V1), 1, "x.csv: there is no such file"),
]  # fmt: skip


def test_refused_commands(run: Any) -> None:
    """Each message has what was found, what was expected and the remedy; usage errors have exit code 2."""
    for words, code, message in REFUSED:
        found, _, errors = run(*words)
        assert (found, message in errors) == (code, True), (words, errors)


def test_a_broken_version_never_becomes_live(run: Any, s3: Any) -> None:
    """For each role and for a rollback, a version is loaded and its golden rows are run before the alias is written."""
    assert run("promote", "iris", V1)[0] == run("promote", "iris", V2)[0] == 0
    onnx, manifest = wine_version()
    wrong = manifest._replace(model="iris")
    versions.write_version(s3, BUCKET, wrong, onnx)
    golden = THREE[1].golden[0]._replace(prediction=(0.9, 0.1, 0.0))
    s3.put_object(Bucket=BUCKET, Key=manifest_key("iris", V3), Body=dump_manifest(THREE[1]._replace(golden=(golden,))))
    s3.put_object(Bucket=BUCKET, Key=model_key("iris", V1), Body=ONE[0][:-1] + bytes([ONE[0][-1] ^ 1]))
    for words, message in (
        (("promote", "iris", wrong.version), "expected a classification named 'iris'"),
        (("promote", "iris", V3), "golden row 0 gives"),
        (("canary", "iris", V3, "0.5"), "golden row 0 gives"),
        (("shadow", "iris", V3, "0.5"), "golden row 0 gives"),
        (("rollback", "iris"), "was overwritten"),
    ):
        code, _, errors = run(*words)
        assert (code, message in errors) == (1, True), errors
    assert (read(s3).live, read(s3).canary, read(s3).shadow) == (V2, None, None)
    code, out, _ = run("check", "iris")
    assert code == 1
    assert f"live {V2}: can serve" in out
    assert f"previous {V1}: s3://{BUCKET}/{model_key('iris', V1)}: found 253 bytes" in out


def test_an_alias_that_cannot_be_read_is_not_overwritten(run: Any, s3: Any) -> None:
    """Containers keep the last good version until an operator repairs the alias."""
    s3.put_object(Bucket=BUCKET, Key=alias_key("iris"), Body=b'{"format": 2}')
    code, _, errors = run("promote", "iris", V1)
    assert code == 1
    assert "found format 2, expected 1" in errors
    assert s3.get_object(Bucket=BUCKET, Key=alias_key("iris"))["Body"].read() == b'{"format": 2}'


def test_a_failed_call_of_s3_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one line with the remedy, and exit code 1."""

    def open_client(*_: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="https://s3.example")

    monkeypatch.setattr(boto3, "client", open_client)
    code, _, errors = run("promote", "iris", V1)
    assert code == 1
    assert "run the command again" in errors


def test_signature(tmp_path: Path) -> None:
    """The function accepts the signature of `--sign`; another kind of file is refused, and its content is not shown."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signed = parse_manifest(dump_manifest(sign(ONE[1], path)), "manifest")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    open_verify(base64.b64encode(public).decode())(signed)
    path.write_text("secret text")
    with pytest.raises(Refused) as caught:
        sign(ONE[1], path)
    assert "secret" not in str(caught.value)


MIXED = Model(
    name="mixed",
    subject=("sub",),
    scope=None,
    task="regression",
    features={
        "n": Number(missing=None),
        "whole": Number(integer=True),
        "kind": Category(("a", "b"), missing=None),
        "on": Boolean(missing=None),
        "text": Text(),
    },
)
COLUMNS: dict[str, list[Any]] = {
    "n": [*range(1, 21), None, 3.0],
    "whole": [1, 2, 4, 4] * 5 + [4, 4],
    "kind": ["a", "b", "b", None] * 5 + ["b", "b"],
    "on": [True, False, None, True] * 5 + [True, True],
    "text": ["x"] * 22,
}


def test_distributions() -> None:
    """Baselines are typical values of each kind; shares add up to 1, missing values are last; texts have no bins."""
    assert find_baseline(MIXED, COLUMNS) == {"n": 10.0, "whole": 4, "kind": "b", "on": True, "text": ""}
    bins = find_bins(MIXED, COLUMNS)
    assert bins.keys() == {"n", "whole", "kind", "on"}
    assert all(sum(each.shares) == pytest.approx(1) for each in bins.values())
    assert bins["kind"] == Bins((), ("a", "b"), (5 / 22, 12 / 22, 0.0, 5 / 22))
    assert bins["on"] == Bins((), ("false", "true"), (5 / 22, 12 / 22, 0.0, 5 / 22))
    assert bins["whole"].edges == (1.0, 2.0, 4.0)
    assert bins["n"].shares[-1] == 1 / 22
    assert cut_numbers([None, None]) == Bins((), (), (0.0, 1.0))
    assert fill_bins(Bins((1.0, 2.0), (), ()), [0, 1, 1.5, 2, 9]).shares == (0.2, 0.4, 0.4, 0.0)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (list(range(1000)), 0.0, 1e-9),
        ([value * 1.05 for value in range(1000)], 1e-4, 0.1),
        ([value + 400 for value in range(1000)], 0.2, 10),
        ([None] * 500 + list(range(500)), 0.2, 10),
    ],
)
def test_psi(values: list[float | None], low: float, high: float) -> None:
    """Equal values have a PSI of 0; shifted values, and values that are now missing, are above 0.2."""
    assert low <= measure_psi(cut_numbers(list(range(1000))), values) <= high


def test_psi_of_two_bins() -> None:
    """Calculated by hand: (0.5 - 0.8) ln(0.5 / 0.8) + (0.5 - 0.2) ln(0.5 / 0.2)."""
    bins = Bins((), ("a",), (0.8, 0.2, 0.0))
    assert measure_psi(bins, ["a", "b"]) == pytest.approx(0.4158883)


def test_drift(run: Any, s3: Any, tmp_path: Path) -> None:
    """Rows with the distribution of publishing have exit code 0; rows with a shifted feature have 1, and name it."""
    rows = [{**VIRGINICA, "petal_width": 0.1 * number} for number in range(30)]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in VIRGINICA}
    digest = iris_version(3.0)
    manifest = digest[1]._replace(bins=find_bins(IRIS, columns), scores=None)
    versions.write_version(s3, BUCKET, manifest, digest[0])
    words = ("drift", "iris", "--version", manifest.version, "--json", "--rows")
    for name, shift in (("same", 0.0), ("shifted", 2.0)):
        text = "\n".join(json.dumps({**row, "petal_width": row["petal_width"] + shift}) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
        code, out, _ = run(*words, str(tmp_path / f"{name}.jsonl"))
        assert (code, json.loads(out)["changed"]) == ((1, ["petal_width"]) if shift else (0, []))
