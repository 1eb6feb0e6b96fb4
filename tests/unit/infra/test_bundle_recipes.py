"""The content of bundles: trimming, our own files, lock files, the runtime."""

from __future__ import annotations

import hashlib
import inspect
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from examples.flights.datasets import flight_delays as flight_delays_module
from examples.flights.datasets.flight_delays import flight_delays
from infra import bundle
from infra.bundle import FUNCTIONS, PLATFORMS, RECIPES, ROOT, RUNTIME, BundleError, find_used
from infra.bundle import _collect as collect
from infra.bundle import _pip_install as pip_install
from infra.bundle import _sources as sources
from infra.translate import read_template
from infra.trim import SERVICES, is_kept
from notify.changes import Watched
from notify.handler import parse_watched
from serve.datasets import parse_served
from tests.unit.serve.kit import SERVED

IMAGE_LOCKS = ("enrich/requirements.txt", "infra/enrich-image.txt")
KEPT = [
    ("pyarrow/lib.cpython-313-aarch64-linux-gnu.so", True),
    ("pyarrow/libarrow.so.2600", True),
    ("pyarrow/libarrow_substrait.so.2600", True),
    ("pyarrow/libarrow_python.so.2600", True),
    ("pyarrow/libarrow_python.so", False),
    ("pyarrow/libarrow_python.so.2600.1.0", False),
    ("pyarrow/libarrow_flight.so.2600", False),
    ("pyarrow/_flight.cpython-313-aarch64-linux-gnu.so", False),
    ("pyarrow/include/arrow/api.h", False),
    ("pyarrow/tests/test_array.py", False),
    ("botocore/data/athena/2017-05-18/service-2.json.gz", True),
    ("botocore/data/endpoints.json", True),
    ("botocore/data/ec2/2016-11-15/service-2.json.gz", False),
    ("boto3/session.py", True),
    ("boto3/__pycache__/session.cpython-311.pyc", False),
    ("cffi-2.1.1.dist-info/RECORD", False),
    ("cffi-2.1.1.dist-info/METADATA", True),
]


@pytest.mark.parametrize(("path", "kept"), KEPT)
def test_trimming(path: str, kept: bool) -> None:
    """Files that no run needs are left out; files for the loader or the licence stay."""
    assert is_kept(path) is kept


def test_models_of_the_services_that_enrich_opens_are_kept() -> None:
    """The bundle has the model of each client that enrich opens: without it the client can't be created."""
    text = (ROOT / "enrich/aws.py").read_text()
    opened = set(re.findall(r'boto3\.client\("(\w+)"', text))
    opened |= {name for names in re.findall(r"for name in \(([^)]+)\)", text) for name in re.findall(r'"(\w+)"', names)}
    assert {"s3", "events"} <= opened <= SERVICES


@pytest.mark.parametrize("name", ["dev", "__pycache__"])
def test_a_checkout_can_be_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only folders of the checkout are left out, not those above it."""
    root = tmp_path / name / "larder"
    for path in ("serve/handler.py", "serve/dev/server.py", "wire/client.py", "serve/__pycache__/handler.pyc"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    monkeypatch.setattr(bundle, "ROOT", root)
    found = {path.relative_to(root).as_posix() for path in sources(RECIPES["serve"])}
    assert found == {"serve/handler.py", "wire/client.py"}


def test_a_stack_without_models_has_no_bundle_of_models() -> None:
    """The bundles that are left out are those of the functions that the template creates for models alone."""
    resources = read_template()["Resources"]
    without = {bundle for name, bundle in FUNCTIONS.items() if resources[name].get("Condition") != "HasModels"}
    assert find_used(models=False) == sorted(without)
    assert find_used(models=True) == sorted(set(FUNCTIONS.values()))


def test_sides_stay_apart() -> None:
    """Serve's bundle has no module of enrich, enrich's has two modules of serve, neither has laptop modules."""
    serve = {path.relative_to(ROOT).as_posix() for path in sources(RECIPES["serve"])}
    enrich = {path.relative_to(ROOT).as_posix() for path in sources(RECIPES["enrich"])}
    assert not [path for path in serve if path.startswith(("enrich/", "infra/", "serve/dev/"))]
    assert not [path for path in enrich if path.startswith(("enrich/console/", "enrich/spark/"))]
    assert "enrich/commands/console.py" in enrich
    assert {path for path in enrich if path.startswith("serve/")} == {
        "serve/__init__.py",
        "serve/item.py",
        "serve/datasets.py",
    }


def test_datasets_are_modules_for_enrich_and_data_for_serve() -> None:
    """Serve's bundle has who can read as JSON, and no module of a dataset, which could import anything."""
    serve, enrich = (collect(RECIPES[name]) for name in ("serve", "enrich"))
    served = {name: one._replace(places=flight_delays.places()) for name, one in SERVED.items()}
    assert parse_served(serve["serve/datasets.json"].decode()) == served
    assert not [path for path in serve if path.startswith("datasets/")]
    assert {path for path in enrich if path.startswith("datasets/")} == {"datasets/flight_delays.py"}
    assert "serve/datasets.json" not in enrich


def test_notify_has_the_requested_events_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for datasets with `changes`: their claims and requested events, and no module of enrich or datasets."""
    (tmp_path / "datasets").mkdir()
    source = inspect.getsource(flight_delays_module)
    (tmp_path / "datasets" / "quiet.py").write_text(source)
    loud = source.replace('"flight-delays"', '"loud"').replace("about=", "changes=Changes(bodies=True), about=")
    (tmp_path / "datasets" / "loud.py").write_text(loud.replace("import Dataset", "import Changes, Dataset"))
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    files = collect(RECIPES["notify"])
    assert parse_watched(files["notify/datasets.json"].decode()) == {"loud": Watched(("carrier",), bodies=True)}
    assert not [path for path in files if path.startswith(("enrich/", "datasets/"))]


@pytest.mark.parametrize("side", ["enrich", "serve"])
def test_locks_have_hashes_and_no_index(side: str) -> None:
    """Each requirement is pinned with hashes; no index or host is named."""
    text = (ROOT / side / "requirements.txt").read_text()
    pins = re.findall(r"^[a-z0-9_.-]+==", text, re.MULTILINE)
    assert len(re.findall(r"^[a-z0-9_.-]+==.*?\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins) > 2
    assert "://" not in text
    assert "index" not in text


def test_runtime_is_that_of_the_template() -> None:
    """Bundles are built for the Python that the functions run on."""
    assert read_template()["Globals"]["Function"]["Runtime"] == f"python{RUNTIME}"


def test_image_has_the_files_of_the_bundle() -> None:
    """The image for datasets with a derive step has the bundle's files and lock, and pandas."""
    dockerfile = (ROOT / "infra/enrich.Dockerfile").read_text()
    copied = {word.strip() for line in re.findall(r"^COPY (.+) \$", dockerfile, re.MULTILINE) for word in line.split()}
    assert copied == {*RECIPES["enrich"].sources, "datasets"}
    assert f"python:{RUNTIME}-arm64" in dockerfile
    assert 'CMD ["enrich.handler.handler"]' in dockerfile
    pins = [re.findall(r"^([a-z0-9_.-]+)==", (ROOT / path).read_text(), re.MULTILINE) for path in IMAGE_LOCKS]
    assert "pandas" in pins[1]
    assert not set(pins[0]) & set(pins[1])


def test_wheels_are_those_of_the_runtime() -> None:
    """Wheels are built for arm64 and for a glibc that Amazon Linux 2023 (2.34) has; a laptop's are for its machine."""
    tags = [re.fullmatch(r"manylinux(?:2014|_2_(\d+))_aarch64", platform) for platform in PLATFORMS["aws-arm64"]]
    assert tags
    assert all(tags), PLATFORMS["aws-arm64"]
    assert max(int(tag[1] or 17) for tag in tags if tag) <= 34
    assert PLATFORMS["native"] == ()


def test_documents_are_those_that_the_publisher_reads() -> None:
    """The function that publishes has a copy of each document that it opens, as JSON."""
    opened = set(re.findall(r'FOLDER / "([\w.]+)"', (ROOT / "infra/publish.py").read_text()))
    assert opened
    assert {f"{Path(one).stem}.json" for one in RECIPES["operate"].documents} == opened


def test_only_locked_wheels_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement without a hash, and one that would be built here, are refused before any of their code runs."""
    archive = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        (tmp_path / "setup.py").write_text("raise SystemExit('this has run')")
        made.add(tmp_path / "setup.py", "thing-1.0/setup.py")
    with zipfile.ZipFile(tmp_path / "other-1.0-py3-none-any.whl", "w") as made_wheel:
        made_wheel.writestr("other-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        made_wheel.writestr(
            "other-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made_wheel.writestr("other-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for line, message in (
        ("other==1.0", "Hashes are required in --require-hashes mode"),
        (f"thing==1.0 --hash=sha256:{digest}", "No matching distribution found for thing==1.0"),
    ):
        (tmp_path / "requirements.txt").write_text(line + "\n")
        with pytest.raises(BundleError, match=message) as raised:
            pip_install(tmp_path / "requirements.txt", tmp_path / "tree", "native")
        assert "this has run" not in str(raised.value)


def test_recipes_are_bounded_and_assigned() -> None:
    """Each function has its bundle, and no bundle is larger than its maximum."""
    bounds = {name: recipe.max_bytes for name, recipe in RECIPES.items()}
    assert bounds == {
        "serve": 20_000_000,
        "score": 50 * 1024 * 1024,
        "enrich": 250 * 1024 * 1024,
        "keep": 250 * 1024 * 1024,
        "notify": 1024 * 1024,
        "operate": 1024 * 1024,
    }
    assert {name: recipe.modules for name, recipe in RECIPES.items()} == {
        "serve": ("serve.handler",),
        "score": ("score.handler",),
        "enrich": ("enrich.handler",),
        "keep": ("score.keep.handler",),
        "notify": ("notify.handler",),
        "operate": ("infra.publish", "infra.synthetic"),
    }
    assert FUNCTIONS == {
        "EnrichFunction": "enrich",
        "ServeFunction": "serve",
        "ScoreFunction": "score",
        "KeepFunction": "keep",
        "NotifyFunction": "notify",
        "PublishFunction": "operate",
        "SyntheticFunction": "operate",
    }
    assert RECIPES["operate"].requirements is RECIPES["notify"].requirements is None
    assert [RECIPES[name].requirements for name in ("serve", "score", "enrich")] == [
        ROOT / "serve/requirements.txt",
        ROOT / "score/requirements.txt",
        ROOT / "enrich/requirements.txt",
    ]
