"""The version of iris that the demo publishes. Its files are in the repository, so that the demo needs no converter.

`python -m examples.score.pretrained` makes them again (with the packages of score/publish/requirements.txt).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from score.manifest import dump_alias, dump_manifest, parse_manifest
from score.paths import alias_key
from score.publish.alias import promote
from score.publish.versions import write_version

FOLDER = Path(__file__).parent / "pretrained"
VIRGINICA = {"sepal_length": 5.9, "sepal_width": 3, "petal_length": 5.1, "petal_width": 1.8}


def publish_iris(s3: Any, bucket: str) -> str:
    """Write the version and make it live; return its name.

    Args:
        s3: boto3's client.
        bucket: Larder's bucket.
    """
    manifest = parse_manifest((FOLDER / "manifest.json").read_bytes(), "pretrained/manifest.json")
    write_version(s3, bucket, manifest, (FOLDER / "model.onnx").read_bytes())
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    alias = promote(None, manifest.model, manifest.version)._replace(by="demo", at=at)
    s3.put_object(Bucket=bucket, Key=alias_key(manifest.model), Body=dump_alias(alias))
    return manifest.version


def main() -> None:
    """Train, convert, prove and write the two files."""
    from examples.score.__main__ import FOLDER as WORK
    from examples.score.models.iris import iris
    from examples.score.training import train_iris
    from score.publish.build import build_version

    trained = train_iris(WORK / "iris")
    built = build_version(
        iris, str(trained.model), trained.rows, training=trained.training, labels=trained.labels, say=print
    )
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "model.onnx").write_bytes(built.model_bytes)
    (FOLDER / "manifest.json").write_bytes(dump_manifest(built.manifest))


if __name__ == "__main__":
    main()
