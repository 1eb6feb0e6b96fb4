"""Exchange rows between tasks through files on S3 that have a section for each receiver: a bucket, or a piece.

A file is written by one attempt, and named after it. The attempt returns the offsets of the sections, so a file of an
attempt whose result is not used is never read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from enrich.delta.store import Store
from enrich.errors import Stopped


class Section(NamedTuple):
    """A range of bytes of a file in the run's work folder: an Arrow stream, or nothing."""

    name: str
    first: int
    end: int


def put_sections(store: Store, name: str, sections: Iterable[Path | pa.Table], path: Path) -> list[int]:
    """Write a file of sections; return where each begins, and the end. A table without rows takes no bytes."""
    offsets = [0]
    with path.open("wb") as file:
        for section in sections:
            if isinstance(section, Path):
                file.write(section.read_bytes())
                section.unlink()
            elif section.num_rows:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                with pa.ipc.new_stream(file, section.schema, options=options) as writer:
                    writer.write_table(section)
            offsets.append(file.tell())
    store.put(name, path)
    path.unlink()
    return offsets


def get_section(store: Store, section: Section) -> pa.Table | None:
    """Read a section; None if it has no bytes.

    Raises:
        Stopped: the file is shorter than the attempt that wrote it reported.
    """
    if section.end == section.first:
        return None
    wanted = f"bytes={section.first}-{section.end - 1}"
    answer = store.s3.get_object(Bucket=store.bucket, Key=store.prefix + section.name, Range=wanted)
    content = answer["Body"].read()
    if len(content) != section.end - section.first:
        raise Stopped(
            f"s3://{store.bucket}/{store.prefix}{section.name}: {len(content)} bytes of {wanted}, expected "
            f"{section.end - section.first}; the run continues later"
        )
    return pa.ipc.open_stream(io.BytesIO(content)).read_all()
