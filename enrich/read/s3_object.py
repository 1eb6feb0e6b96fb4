"""One pinned object of an output as a seekable file: ranged GETs that fail if the object has been replaced."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from enrich.errors import Failed, Overwritten, Stopped

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READ_AHEAD = 8 * 1024 * 1024  # bytes per GET; large enough that requests take little time beside processing the bytes
_ATTEMPTS = 4
_GONE = {"PreconditionFailed", "NoSuchKey", "NoSuchVersion", "412", "404"}
_DENIED = {"AccessDenied", "403", "InvalidObjectState"}  # InvalidObjectState: the object is archived


class Part(NamedTuple):
    """One object of an output, pinned: a later read returns the same bytes or an error."""

    bucket: str
    object_key: str
    version_id: str | None
    etag: str
    size: int
    rows: int | None = None  # number of rows, per the manifest
    rows_so_far: int | None = None  # number of rows of this and all earlier parts, per the manifest

    @property
    def name(self) -> str:
        """Return the URL, for messages."""
        return f"s3://{self.bucket}/{self.object_key}"


def raise_denied(error: ClientError, name: str) -> None:
    """Raise Failed for an error that a retry can't fix: an unreadable object must not block other outputs.

    Raises:
        Failed: the object can't be read with the role's permissions, or is archived.
    """
    code = error.response["Error"]["Code"]
    if code in _DENIED or (code.startswith("KMS.") and "Throttl" not in code):
        raise Failed(
            f"{name} can't be read: {code}; allow enrich's role to read it (s3:GetObject, kms:Decrypt for its key), or "
            "restore it from the archive, then replay the run or write the output again"
        ) from error


class PartFile(io.RawIOBase):
    """Reads a pinned part through ranged GETs, with one read-ahead buffer."""

    def __init__(self, s3: S3Client, part: Part, *, read_ahead: int = READ_AHEAD) -> None:
        self._s3 = s3
        self._part = part
        self._read_ahead = read_ahead
        self._position = 0
        self._buffer = b""
        self._buffer_start = 0

    def readable(self) -> bool:
        """Return True: a part can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: a part can be read from any position."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._part.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, target: Any) -> int:
        """Fill `target` from the buffer or from one GET; return the number of bytes, 0 at the end.

        Raises:
            Overwritten: the object is no longer the pinned one.
            Failed: reading it is not allowed.
            Stopped: S3 does not answer, or repeatedly returned fewer bytes than requested.
        """
        view = memoryview(target).cast("B")
        offset = self._position - self._buffer_start
        if not 0 <= offset < len(self._buffer):
            wanted = min(max(len(view), self._read_ahead), self._part.size - self._position)
            if wanted <= 0:
                return 0
            self._buffer = self._get(self._position, wanted)
            self._buffer_start, offset = self._position, 0
        count = min(len(view), len(self._buffer) - offset)
        view[:count] = self._buffer[offset : offset + count]
        self._position += count
        return count

    def _get(self, start: int, count: int) -> bytes:
        pin: dict[str, Any] = {"IfMatch": self._part.etag}
        if self._part.version_id:
            pin = {"VersionId": self._part.version_id}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer: Any = self._s3.get_object(
                    Bucket=self._part.bucket,
                    Key=self._part.object_key,
                    Range=f"bytes={start}-{start + count - 1}",
                    **pin,
                )
                body = answer["Body"]
                if "ContentRange" not in answer:
                    # A server can ignore Range (RFC 9110 14.2); the laptop's S3 does so when a version is named.
                    for skipped in range(0, start, self._read_ahead):
                        body.read(min(self._read_ahead, start - skipped))
                content: bytes = body.read(count)
            except ClientError as error:
                if error.response["Error"]["Code"] in _GONE:
                    raise Overwritten(f"{self._part.name} is no longer the object that this run began with") from error
                raise_denied(error, self._part.name)
                raise
            except BotoCoreError as error:
                # botocore retries a request, but not a truncated body
                if attempt == _ATTEMPTS:
                    # Some of botocore's errors are OSErrors, which a reader of the bytes takes for damage of the file.
                    raise Stopped(f"{self._part.name} can't be read: {error}") from error
                continue
            if len(content) == count:
                return content
        raise Stopped(f"{self._part.name}: S3 returned fewer bytes than requested, {_ATTEMPTS} times")
