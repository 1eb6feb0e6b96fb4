"""Writer and reader have the same limit for a body: what is written can be read, and what can't be read is rejected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from enrich.dataset.definition import Dataset, LastModified, Source
from enrich.join.engine import Engine
from enrich.join.rendering import render_chunk
from enrich.write.item_size import gzip
from enrich.write.requests import build_batches
from serve.datasets import Served
from serve.item import MAX_BODY_BYTES, Order, body_text, decode

FRAME = len('{"text":""}')


def fill(size: int, character: str) -> str:
    """Return a text whose body has this many bytes of UTF-8 and compresses well."""
    width = len(character.encode())
    return "x" * ((size - FRAME) % width) + character * ((size - FRAME) // width)


@pytest.fixture
def render(tmp_path: Path) -> Callable[[list[str]], pa.Table]:
    """Render rows with these texts, as a run does."""
    columns = {"shop": "varchar", "id": "varchar", "text": "varchar"}
    dataset = Dataset(
        served=Served(name="notes", subject=("shop",), scope="notes:read"),
        source=Source(prefix="notes/", format="parquet", columns=columns),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        subject={"shop": "shop"},
        prediction_id="id",
        body={"text": "text"},
    )

    def run(texts: list[str]) -> pa.Table:
        rows = {"shop": ["x"] * len(texts), "id": [f"p{n}" for n in range(len(texts))], "text": texts}
        with Engine(dataset, {}, directory=tmp_path) as engine:
            return render_chunk(engine, pa.table(rows).to_batches()[0], 0, digest=True)

    return run


@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f6eb"])
def test_the_largest_body_is_written_and_read(render: Callable[[list[str]], pa.Table], character: str) -> None:
    """Exactly at the bound, in bytes and not in characters."""
    rendered = render([fill(MAX_BODY_BYTES, character)])
    assert rendered["reason"].to_pylist() == [None]
    assert len(rendered["body"][0].as_py().encode()) == MAX_BODY_BYTES
    items = rendered.append_column("entries", pa.array([0], pa.int64()))
    (request,) = build_batches(items, "items", Order(1, 1, 1), 1)
    (put,) = orjson.loads(request.payload)["RequestItems"]["items"]
    stored = decode(put["PutRequest"]["Item"]).body
    assert isinstance(stored, bytes)
    assert body_text(stored) == rendered["body"][0].as_py()


@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f6eb"])
def test_a_larger_body_is_rejected(render: Callable[[list[str]], pa.Table], character: str) -> None:
    """A body of one byte more can't be served, so it is not written; the other rows of its chunk are."""
    rendered = render([fill(MAX_BODY_BYTES + 1, character), "fine"])
    assert rendered["reason"].to_pylist() == ["too-large", None]
    assert "4 MB of JSON text" in rendered["detail"][0].as_py()


def test_the_reader_refuses_what_the_writer_rejects() -> None:
    """A body of one byte more, which the writer rejects, is an error for the reader."""
    assert len(body_text(gzip("x" * MAX_BODY_BYTES))) == MAX_BODY_BYTES
    with pytest.raises(ValueError, match="too large"):
        body_text(gzip("x" * (MAX_BODY_BYTES + 1)))
