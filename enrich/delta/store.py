"""Files in Larder's bucket on S3, under a prefix and by their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enrich.s3 import download, list_keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Store:
    """A folder on S3. Files are too large for memory, so they go from and to scratch disk."""

    s3: S3Client
    bucket: str
    prefix: str = ""

    def get(self, name: str, path: Path) -> bool:
        """Download a file; return whether it exists."""
        return download(self.s3, self.bucket, self.prefix + name, path)

    def put(self, name: str, path: Path) -> None:
        """Upload a file."""
        self.s3.upload_file(str(path), self.bucket, self.prefix + name)

    def list(self, under: str) -> set[str]:
        """List the names that begin with `under`."""
        return {key.removeprefix(self.prefix) for key in list_keys(self.s3, self.bucket, self.prefix + under)}
