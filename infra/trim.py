"""Rules for the files of an installed tree that a bundle or an image omits, each with its reason.

python infra/trim.py FOLDER deletes them.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

# AWS services whose models botocore needs: those that enrich calls, and those of the credential providers.
SERVICES = frozenset(
    {"athena", "cloudwatch", "dynamodb", "events", "glue", "kms", "s3", "sqs", "ssm", "sso", "sso-oidc", "sts"}
)

LEFT_OUT = (
    # Only compilers and type checkers read these.
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.pxi",
    "*.h",
    "*.hpp",
    "*.cc",
    "*.cmake",
    "pyarrow/include/*",
    "pyarrow/src/*",
    "bin/*",
    "*/__pycache__/*",
    # These record the machine and the time of the build. METADATA and the licences stay.
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/WHEEL",
    "*.dist-info/direct_url.json",
    # Tests of other packages.
    "*/tests/*",
    # Arrow Flight, ORC, and other clouds. libarrow_substrait stays: pyarrow cannot be imported without it.
    "pyarrow/*flight*",
    "pyarrow/*_orc*",
    "pyarrow/*gcs*",
    "pyarrow/*azure*",
    "pyarrow/*_hdfs*",
    "pyarrow/_cuda*",
    # Links to these libraries became copies in the wheel; only the name that the loader asks for (so.2600) stays.
    "pyarrow/lib*.so",
    "pyarrow/lib*.so.*.*.*",
    # cryptography needs only _cffi_backend, not the compiler around it.
    "cffi/*",
    "pycparser/*",
    # score calls only the C library; its Python API would need numpy.
    "onnxruntime/*",
    # boto3's resource models of other services, and its examples.
    "boto3/examples/*",
)

KEPT = (
    "pyarrow/lib.*.so",  # the extension module, not a library
    "onnxruntime/capi/libonnxruntime.so.*",
    "onnxruntime/LICENSE*",
    "onnxruntime/ThirdPartyNotices*",
)


def is_kept(path: str) -> bool:
    """Return whether a file, given by its POSIX path inside the bundle, belongs in it."""
    parts = PurePosixPath(path).parts
    if parts[:2] in (("botocore", "data"), ("boto3", "data")) and len(parts) > 3:
        return parts[2] in SERVICES and "examples" not in parts[-1]
    if any(fnmatchcase(path, pattern) for pattern in KEPT):
        return True
    return not any(fnmatchcase(path, pattern) for pattern in LEFT_OUT)


def trim(folder: Path) -> None:
    """Delete the files of an installed tree that a bundle omits."""
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if not is_kept(file.relative_to(folder).as_posix()):
            file.unlink()


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
