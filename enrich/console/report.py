"""Write the console's pages as files, to a folder or to S3."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from enrich.console.pages import Pages
from enrich.errors import Failed
from enrich.s3 import split_location

FIRST = "index.html"
_MARK = 'content="larder report"'  # in each page of a report


def write_report(pages: Pages, names: Collection[str], put: Callable[[str, str], None]) -> int:
    """Write the first page, and the pages of datasets and their newest runs; return the number of files.

    Args:
        pages: builds the pages of a report.
        names: the names of the datasets.
        put: writes a page, given its name relative to the report.
    """
    found = [pages.fetch(name) for name in sorted(names)]
    pages.run_pages = {(each.name, run.run) for each in found for run in each.runs}
    count = 1
    for each in found:
        put(f"datasets/{each.name}.html", pages.build_dataset(each.name, each))
        for run in each.runs:
            put(f"datasets/{each.name}/runs/{run.run}.html", pages.build_run(run, each.runs))
        count += 1 + len(each.runs)
    put(FIRST, pages.build_index(found))  # last: if it exists, all other pages exist
    return count


def open_folder(location: str) -> Callable[[str, str], None]:
    """Return a function that writes pages below a folder.

    Raises:
        Failed: the folder has a first page that is not part of a report.
    """
    folder = Path(location)
    if (folder / FIRST).exists() and _MARK not in (folder / FIRST).read_text(encoding="utf-8", errors="replace"):
        raise Failed(
            f"{folder / FIRST} exists and is not part of a report; the report would overwrite it: choose another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise Failed(f"{folder} is a file, expected a folder; choose another one")

    def put(name: str, page: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")

    return put


def open_bucket(s3: Any, location: str) -> Callable[[str, str], None]:
    """Return a function that writes pages below a prefix of a bucket.

    Raises:
        Failed: the location has no bucket.
    """
    bucket, prefix = split_location(location)
    if not bucket:
        raise Failed(f"{location!r} has no bucket; expected s3://bucket/prefix/")
    below = f"{prefix.rstrip('/')}/" if prefix else ""

    def put(name: str, page: str) -> None:
        content = page.encode("utf-8", "backslashreplace")
        s3.put_object(
            Bucket=bucket,
            Key=f"{below}{name}",
            Body=content,
            ContentType="text/html; charset=utf-8",
            CacheControl="no-cache",
        )

    return put
