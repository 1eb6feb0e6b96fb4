"""Build an image from its Dockerfile and run it, without a daemon: debootstrap, buildah, umoci and runc, all of Debian.

They need root. Build tools and images are kept in .larder/images, since a base takes a minute to make.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.doors.kit import ROOT

TOOLS = ("debootstrap", "buildah", "umoci", "runc")
PLACE = ROOT / ".larder" / "images"
_STORE = ("--root", str(PLACE / "store"), "--runroot", str(PLACE / "run"), "--storage-driver", "vfs")
_BASE, _SUITE = "larder-base", "trixie"  # python3 is 3.13 there
_PACKAGES = "python3,python3-pip,ca-certificates"


def find_missing() -> str:
    """Say what this machine lacks, or return an empty text."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install {' '.join(TOOLS)}"
    return "" if os.geteuid() == 0 else "images are built without a daemon by root alone"


def build_image(function: str, context: Path = ROOT) -> str:
    """Build the image of a function, and return its name; the base is a Debian of this machine's mirror."""
    PLACE.mkdir(parents=True, exist_ok=True)
    if not _buildah("images", "-q", f"localhost/{_BASE}", check=False):
        base = PLACE / "base"
        shutil.rmtree(base, ignore_errors=True)
        _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(base))
        container = _buildah("from", "scratch")
        _buildah("add", container, str(base), "/")
        _buildah("commit", "-q", "--rm", container, _BASE)
        shutil.rmtree(base)
    # pip trusts what this machine trusts, and uses its registry.
    trusted = (
        os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    )
    index = os.environ.get("PIP_INDEX_URL")
    (PLACE / "pip.conf").write_text("[global]\ncert = /trusted.crt\n" + (f"index-url = {index}\n" if index else ""))
    name = f"larder-{function}"
    _buildah(
        *("bud", "--isolation", "chroot", "--pull=never", "--build-arg", f"BASE=localhost/{_BASE}"),
        *("--secret", f"id=pip,src={PLACE / 'pip.conf'}", "--volume", f"{trusted}:/trusted.crt:ro"),
        *("--ignorefile", str(ROOT / ".dockerignore")),
        *("-f", str(ROOT / "infra" / f"{function}.Dockerfile"), "-t", name, str(context)),
    )
    return name


def unpack_image(name: str, folder: Path) -> Path:
    """Unpack an image into a bundle for runc; return its folder."""
    _buildah("push", "-q", name, f"oci:{folder / 'oci'}:latest")
    _run("umoci", "unpack", "--image", f"{folder / 'oci'}:latest", str(folder / "bundle"))
    shutil.rmtree(folder / "oci")
    return folder / "bundle"


def read_size(name: str) -> int:
    """Return the bytes of an image, base included."""
    found: dict[str, Any] = json.loads(_buildah("inspect", "--type", "image", name))
    manifest = json.loads(found["Manifest"])
    return sum(layer["size"] for layer in manifest["layers"])


@contextmanager
def run_image(
    bundle: Path, env: Mapping[str, str], mounts: Mapping[Path, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a bundle as the manifests do: its own user, a read-only root, a small /tmp; the host's network.

    Args:
        bundle: of `unpack_image`.
        env: variables besides the image's.
        mounts: folders of this machine, read-only, and their places.
        log: for what it prints.
    """
    path = bundle / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    process = config["process"]
    process |= {"terminal": False, "capabilities": {}, "noNewPrivileges": True}
    process["env"] += [f"{name}={value}" for name, value in env.items()]
    process["rlimits"] = []
    config["root"]["readonly"] = True
    kept = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
    config["linux"] = {"namespaces": kept}
    config["mounts"] = [one for one in config["mounts"] if one["destination"] not in ("/sys", "/sys/fs/cgroup")]
    tmp = ["nosuid", "nodev", "noexec", "mode=1777", "size=16m"]
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": tmp})
    for source, place in mounts.items():
        one = {"destination": place, "type": "none", "source": str(source), "options": ["rbind", "ro"]}
        config["mounts"].append(one)
    path.write_text(json.dumps(config))
    name = f"larder-{os.getpid()}"
    command = ["runc", "--root", str(bundle.parent / "runc"), "run", "--bundle", str(bundle), name]
    with log.open("wb") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def _buildah(*words: str, check: bool = True) -> str:
    return _run("buildah", *_STORE, *words, check=check)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command[:6])} … failed:\n{done.stdout[-1500:]}{done.stderr[-3000:]}")
    return done.stdout.strip()
