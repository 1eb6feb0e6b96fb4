"""Build the functions' bundles: reproducible zips from locked hashes, with pip.

A bundle is the result of pip (cached under a digest of its inputs) with our own modules appended, so a change of our
code needs a copy and no download. The same zlib gives the same bytes; the digest covers all other inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.suggestions import suggest
from enrich.datasets import find_project, load_datasets, load_served
from infra.trim import trim
from notify.changes import Watched
from notify.handler import render_watched
from score.model import render_models
from score.models import load_models
from serve.datasets import render_served
from wire.scratch import open_scratch

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".larder" / "bundles"
RUNTIME = "3.13"  # as in infra/template.yaml; a test compares them
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest instant that a zip can store
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Recipe:
    """The content of a bundle: its lock, our folders and files, YAML documents (as JSON), and its maximum size.

    `datasets`: what it contains of the project: the datasets' files (`modules`), data on who can read them (`served`),
    data on the events that they request (`watched`), or who can read them and the definitions of models (`models`).
    `left_out`: folders and files of the sources that run only on a laptop or in a build.
    """

    requirements: Path | None
    sources: tuple[str, ...]
    modules: tuple[str, ...]  # handlers
    max_bytes: int  # unzipped
    documents: tuple[str, ...] = ()
    datasets: Literal["modules", "served", "watched", "models"] | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A built bundle: its zip, the digest that names its upload, and its sizes in bytes."""

    name: str
    path: Path
    digest: str
    zipped: int
    unzipped: int


RECIPES = {
    "serve": Recipe(
        ROOT / "serve/requirements.txt", ("serve", "wire"), ("serve.handler",), 20_000_000, datasets="served"
    ),
    # The reader owns the stored format, so the writer has two modules of the reader; both senders of events share one.
    "enrich": Recipe(
        ROOT / "enrich/requirements.txt",
        (
            *("enrich", "wire", "serve/__init__.py", "serve/item.py", "serve/datasets.py"),
            *("notify/__init__.py", "notify/bus.py"),
        ),
        ("enrich.handler",),
        250 * MEGABYTE,  # Lambda's quota for a function
        datasets="modules",
        left_out=("enrich/console/", "enrich/spark/"),
    ),
    # Only the C library of ONNX Runtime: 26 MB on arm64.
    "score": Recipe(
        ROOT / "score/requirements.txt",
        ("score", "serve", "wire"),
        ("score.handler",),
        50 * MEGABYTE,
        datasets="models",
        left_out=(
            "score/keep",
            "score/publish",
            "score/models.py",
            "score/__main__.py",
            "serve/handler.py",
            "serve/__main__.py",
        ),
    ),
    # It writes kept features as Parquet, with the libraries of enrich.
    "keep": Recipe(
        ROOT / "enrich/requirements.txt",
        (
            *("score/__init__.py", "score/keep", "score/manifest.py", "score/model.py", "score/paths.py"),
            *("score/publish/__init__.py", "score/publish/distribution.py"),
            *("serve/__init__.py", "serve/datasets.py", "serve/tokens/__init__.py", "serve/tokens/strict.py"),
        ),
        ("score.keep.handler",),
        250 * MEGABYTE,
    ),
    # This function, and the two that operate the stack, use the runtime's boto3.
    "notify": Recipe(
        None, ("notify", "serve/__init__.py", "serve/item.py"), ("notify.handler",), MEGABYTE, datasets="watched"
    ),
    "operate": Recipe(
        None,
        ("infra/__init__.py", "infra/discovery.py", "infra/publish.py", "infra/synthetic.py"),
        ("infra.publish", "infra.synthetic"),
        MEGABYTE,
        ("infra/environments.yaml", "openapi.yaml"),
    ),
}
FUNCTIONS = {  # logical id in infra/template.yaml -> bundle
    "EnrichFunction": "enrich",
    "ServeFunction": "serve",
    "ScoreFunction": "score",
    "KeepFunction": "keep",
    "NotifyFunction": "notify",
    "PublishFunction": "operate",
    "SyntheticFunction": "operate",
}
OF_MODELS = frozenset({"score", "keep"})  # of functions that exist only if the project has models
# The runtime's Amazon Linux 2023 has glibc 2.34, and also runs wheels for older versions.
PLATFORMS = {
    "aws-arm64": ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (34, 28, 26, 24, 17))),
    "native": (),
}


class BundleError(Exception):
    """A bundle cannot be built, is too large, or cannot be imported; the message has the reason."""


def has_models() -> bool:
    """Return whether the project defines models."""
    return bool(load_models(load_served()))


def find_used(*, models: bool) -> list[str]:
    """Return the names of the bundles that a stack with or without models has, in order."""
    return sorted(set(FUNCTIONS.values()) - (frozenset() if models else OF_MODELS))


def build(name: str, target: str = "native", *, cache: Path = CACHE) -> Bundle:
    """Build a bundle, or take it from the cache if none of its inputs has changed.

    Raises:
        BundleError: pip failed, or the bundle is larger than its maximum.
    """
    recipe = RECIPES[name]
    compiler = sys.executable if target == "native" else find_interpreter(RUNTIME)
    ours = _collect(recipe)
    wheels = _wheels(name, target, compiler, cache)
    digest = _digest(
        [wheels.stem, *(f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in sorted(ours.items()))]
    )
    path = cache / f"{name}-{target}-{digest[:16]}.zip"
    if not path.exists():
        for stale in cache.glob(f"{name}-{target}-*.zip"):
            stale.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=open_scratch(cache)) as work:
            tree = Path(work) / "tree"
            for member, data in ours.items():
                (tree / member).parent.mkdir(parents=True, exist_ok=True)
                (tree / member).write_bytes(data)
            _compile(tree, compiler)
            draft = Path(work) / "draft.zip"
            shutil.copyfile(wheels, draft)
            _append(draft, tree)
            draft.rename(path)
    return _measured(Bundle(name, path, digest, path.stat().st_size, _unzipped(path)), recipe)


def digest_inputs(name: str) -> str:
    """Digest the inputs of a bundle without building it: its lock, our modules and documents, and the recipe."""
    recipe = RECIPES[name]
    lock = recipe.requirements.read_bytes() if recipe.requirements else b""
    ours = _collect(recipe)
    parts = {**ours, "lock": lock, "recipe": Path(__file__).read_bytes(), "trim": (ROOT / "infra/trim.py").read_bytes()}
    return _digest(f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in sorted(parts.items()))


def unpack(bundle: Bundle, directory: Path) -> Path:
    """Unpack a bundle into a directory named after its digest, unless it exists; earlier ones are deleted."""
    tree = directory / bundle.path.stem
    if not tree.exists():
        for stale in directory.glob(f"{bundle.path.stem.rpartition('-')[0]}-*/"):
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=open_scratch(directory)) as work:
            zipfile.ZipFile(bundle.path).extractall(Path(work) / "tree")
            (Path(work) / "tree").rename(tree)
    return tree


def check_imports(bundle: Bundle, tree: Path) -> None:
    """Import the handlers with only the bundle on the path: no site-packages, no environment, no checkout.

    Raises:
        BundleError: the bundle lacks a module that the handlers need.
    """
    for module in RECIPES[bundle.name].modules:
        code = f"import sys; sys.path.insert(0, {str(tree)!r}); import {module}"
        done = _run([sys.executable, "-I", "-S", "-c", code], cwd=tree)
        if done.returncode:
            raise BundleError(f"bundle {bundle.name} cannot import {module} on its own:\n{done.stderr.strip()}")


def find_interpreter(version: str) -> str | None:
    """Find an interpreter of exactly this minor version, because the runtime can read its .pyc files."""
    homes = Path.home().glob(f".pyenv/versions/{version}*/bin/python")
    for candidate in [sys.executable, shutil.which(f"python{version}"), *map(str, homes)]:
        if candidate is None:
            continue
        probe = [candidate, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = _run(probe)
        if done.stdout.strip() == version:
            return candidate
    return None


def _wheels(name: str, target: str, compiler: str | None, cache: Path) -> Path:
    """Return a zip of what pip installs for a bundle, trimmed and compiled; made once per lock and target."""
    requirements = RECIPES[name].requirements
    lock = requirements.read_text() if requirements else ""
    version = RUNTIME if target != "native" else sys.version.split()[0]
    how = [inspect.getsource(step) for step in (_wheels, _pip_install, _compile, _append)]
    recipe = [*how, repr((EPOCH, PLATFORMS[target])), (ROOT / "infra/trim.py").read_text(), lock]
    digest = _digest([*recipe, target, version, str(bool(compiler))])[:16]
    owner = requirements.parent.name if requirements else name  # two bundles can have the same lock
    path = cache / "wheels" / f"{owner}-{target}-{digest}.zip"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=open_scratch(path.parent)) as work:
        tree = Path(work) / "tree"
        if requirements:
            _pip_install(requirements, tree, target)
        trim(tree)
        _compile(tree, compiler)
        draft = Path(work) / "draft.zip"
        _append(draft, tree, level=1 if target == "native" else 6)
        draft.rename(path)
    return path


def _pip_install(requirements: Path, tree: Path, target: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--no-compile"]
    command += ["--only-binary", ":all:", "--target", str(tree), "--requirement", str(requirements)]
    if PLATFORMS[target]:
        command += ["--implementation", "cp", "--python-version", RUNTIME]
        command += [word for platform in PLATFORMS[target] for word in ("--platform", platform)]
    done = _run(command)
    if done.returncode:
        lock = os.path.relpath(requirements, ROOT)
        raise BundleError(f"pip could not install {lock} for {target}:\n{done.stderr.strip()}")


def _compile(tree: Path, interpreter: str | None) -> None:
    """Compile to .pyc files that are never compared with their sources, to make cold starts faster."""
    if interpreter is None:
        return
    code = (
        "import compileall, py_compile, sys; "
        "compileall.compile_dir(sys.argv[1], maxlevels=20, quiet=2, stripdir=sys.argv[1], prependdir='/var/task', "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    _run([interpreter, "-S", "-c", code, str(tree)], env={"PYTHONHASHSEED": "0"}).check_returncode()


def _run(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)  # noqa: S603


def _append(archive: Path, tree: Path, level: int = 6) -> None:
    """Append a tree to a zip: sorted, with one date and one mode, so that equal trees give equal bytes."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=level) as target:
        for file in sorted(file for file in tree.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(tree).as_posix(), EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            target.writestr(entry, file.read_bytes(), compresslevel=level)


def _sources(recipe: Recipe) -> Iterator[Path]:
    for source in recipe.sources:
        found: Iterable[Path] = [ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*")
        for path in found:
            inside = path.relative_to(ROOT)  # the checkout itself can be below a folder `dev`
            # dev/ runs only on a laptop
            is_ours = not {"__pycache__", "dev"} & set(inside.parts) and "requirements" not in path.name
            if path.is_file() and is_ours and not inside.as_posix().startswith(recipe.left_out):
                yield path


def _collect(recipe: Recipe) -> dict[str, bytes]:
    """Return our files of a bundle, by path."""
    ours = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in _sources(recipe)}
    return ours | _documents(recipe) | _datasets(recipe)


def _datasets(recipe: Recipe) -> dict[str, bytes]:
    """Return the project's datasets: as files for enrich; as data for the others, which never import them."""
    try:
        if recipe.datasets in ("served", "models"):
            served = load_served()
            data = {"serve/datasets.json": render_served(served).encode()}
            if recipe.datasets == "models":
                data["score/models.json"] = render_models(load_models(served)).encode()
            return data
        if recipe.datasets == "watched":
            watched = {
                name: Watched(one.served.subject, one.changes.bodies, one.changes.renewals)
                for name, one in load_datasets().items()
                if one.changes
            }
            return {"notify/datasets.json": render_watched(watched).encode()}
    except DatasetMistakes as error:
        raise BundleError(str(error)) from error
    folder = find_project() / "datasets"
    if recipe.datasets is None:
        return {}
    return {
        f"datasets/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts)
    }


def _documents(recipe: Recipe) -> dict[str, bytes]:
    """Render YAML documents as JSON beside our modules: the runtime has no YAML parser."""
    own = find_project()
    places = {path: (own if (own / path).exists() else ROOT) / path for path in recipe.documents}
    texts = {f"infra/{Path(path).stem}.json": yaml.safe_load(place.read_text()) for path, place in places.items()}
    return {path: json.dumps(document, ensure_ascii=False).encode() for path, document in texts.items()}


def _measured(bundle: Bundle, recipe: Recipe) -> Bundle:
    if bundle.unzipped >= recipe.max_bytes:
        size, bound = bundle.unzipped / MEGABYTE, recipe.max_bytes / MEGABYTE
        raise BundleError(
            f"bundle {bundle.name} is {size:.1f} MB unzipped, expected less than {bound:.0f}: trim more (infra/trim.py)"
        )
    return bundle


def _unzipped(path: Path) -> int:
    return sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def main() -> None:
    """Build bundles and print where they are and how large."""
    parser = argparse.ArgumentParser(prog="./larder bundle", description="Build the functions' bundles.")
    names = "|".join(RECIPES)
    parser.add_argument("names", nargs="*", metavar=names, help="bundles to build (default: all)")
    parser.add_argument("--target", choices=sorted(PLATFORMS), default="aws-arm64", help="default: %(default)s")
    parser.add_argument("--into", type=Path, help="unpack each bundle into this folder (for sam build)")
    options = parser.parse_args()
    if options.target != "native" and find_interpreter(RUNTIME) is None:
        warning = f"python{RUNTIME} not found: bundles have no .pyc files, so cold starts take 1.6 to 2.5 times as long"
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    for name in options.names or sorted(RECIPES):
        if name not in RECIPES:
            parser.error(f"no bundle {name!r}; {suggest(name, RECIPES)}")
        try:
            bundle = build(name, options.target)
        except BundleError as error:
            sys.exit(f"larder bundle: {error}")
        sizes = f"{bundle.unzipped / MEGABYTE:.1f} MB, zipped {bundle.zipped / MEGABYTE:.1f} MB"
        print(f"{name} {options.target}: {sizes}: {bundle.path.relative_to(ROOT)}")  # noqa: T201
        if options.into:
            zipfile.ZipFile(bundle.path).extractall(options.into)
            # SAM publishes a new version of a function if its bundle changes, but not if only the template or a
            # parameter changes.
            texts = [(ROOT / path).read_text() for path in ("infra/template.yaml", "samconfig.toml")]
            (options.into / "deployed-with").write_text(_digest(texts))


if __name__ == "__main__":
    main()
