"""A replay of rejects reads the rows that were rejected: after a fix they become the items of their output."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.cli.rejects import read_rejects, render_rejects
from enrich.dataset.definition import Dataset, Derive, Source, Tolerated
from enrich.intake import operations
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import RunState
from tests.unit.enrich import small_shop
from tests.unit.enrich.small_shop import DATASET, SmallShop
from tests.unit.enrich.test_deleted_objects import bodies
from tests.unit.enrich.test_pieces import PiecesShop

SKUS = ["a", "b", "c", "sku"]


def dataset_of(format_: Any, columns: dict[str, str], **source: Any) -> Dataset:
    """Return the dataset of the small shop in a format, with columns beside shop and sku; the body has them all."""
    columns = {"shop": "varchar", "sku": "varchar", **columns}
    return replace(
        DATASET,
        source=Source(prefix="stock/", format=format_, columns=columns, **source),
        body={"title": "products.title", **{name: f'"{name}"' for name in columns}},
        tolerated=Tolerated(share=1.0),
    )


def know(patch: pytest.MonkeyPatch, *skus: str) -> None:
    """Let the metadata have these products."""
    patch.setattr(small_shop, "PRODUCTS", {"sku": list(skus) or ["none"], "title": [*skus] or ["none"]})


def replay(shop: SmallShop, run: int) -> Any:
    """Replay the rejects of a run."""
    operations.replay_rejects(shop.services(), f"rejects/stock/{run:08d}/")
    (found,) = run_pending(shop.services(), "stock")
    return found


def rejects(shop: SmallShop, run: int) -> list[dict[str, Any]]:
    """Return the lines of a run's rejects."""
    prefix = f"rejects/stock/{run:08d}/"
    found = [(key, each[-1].body) for (_, key), each in shop.s3.objects.items() if key.startswith(prefix)]
    return [json.loads(line) for _, body in sorted(found) for line in body.splitlines()]


def in_parquet(**columns: list[Any]) -> bytes:
    """Return a Parquet file; bytes are text, whether they are UTF-8 or not."""
    arrays = {
        name: pa.array(values).view(pa.string()) if isinstance(values[0], bytes) else pa.array(values)
        for name, values in columns.items()
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def lower(frame: Any) -> Any:
    return frame.assign(small=frame["region"].str.lower())


LINES = b"""{"sku":"a","units":1}
{"shop":"other","sku":"b","units":2.0}
{"sku":"c","shop":"o","region":"o","shop":"p","units":3}
{"sku":"sku","Shop":"o","units":NaN}
"""
CASES: dict[str, tuple[Dataset, str, bytes]] = {
    "jsonl": (dataset_of("jsonl", {"region": "varchar", "units": "varchar"}), "shop=x/region=EU%2F1", LINES),
    "jsonl, null": (dataset_of("jsonl", {"region": "varchar"}), "shop=x/region=__HIVE_DEFAULT_PARTITION__", LINES),
    "jsonl, refusing": (
        dataset_of("jsonl", {"region": "varchar", "units": "varchar"}, unknown_columns="refuse"),
        "shop=x/region=e", LINES,
    ),
    "jsonl, types": (
        dataset_of("jsonl", {"n": "bigint", "d": "date", "m": "decimal(20, 2)", "b": "blob", "j": "json"}),
        'n=12/d=2026-01-02/m=123456789012345678.25/b=aGVsbG8=/j={"a":1}',
        b'{"shop":"x","sku":"a"}\n{"shop":"y","sku":"b","n":"?"}\n',
    ),
    "jsonl, derive": (
        replace(
            dataset_of("jsonl", {"region": "varchar"}),
            derive=Derive(lower, {"small": "varchar"}),
            body={"small": "small", "title": "products.title"},
        ),
        "region=EU", b'{"shop":"x","sku":"a"}\n{"shop":"y","sku":"b","region":"O"}\n',
    ),
    "csv": (dataset_of("csv", {"region": "varchar", "b": "blob"}), "region=eu/b=aGVsbG8=", b"shop,sku\nx,a\ny,b\n"),
    "parquet": (
        dataset_of("parquet", {"region": "varchar", "b": "blob"}), "region=eu/b=aGVsbG8=",
        in_parquet(shop=["x", "y"], sku=["a", "b"]),
    ),
    "parquet, not base64": (
        dataset_of("parquet", {"b": "blob"}), "b=%3F", in_parquet(shop=["x", "y"], sku=["a", "b"]),
    ),
    "jsonl, damaged": (
        dataset_of("jsonl", {"units": "varchar"}), "day",
        b'{"shop":"x","sku":"a","units":"\xff"}\n"{\\"shop\\":\\"x\\",\\"sku\\":\\"b\\"}"\n[{"shop":"x","sku":"b"}]\n'
        b'5\n{"shop":"x","sku":"b"}{"shop":"x","sku":"c"}\n{"sku":"b","sku":"a","shop":"x"}\n{"shop":"x","sku":"c"}\n',
    ),
    "csv, damaged": (
        dataset_of("csv", {"units": "varchar"}), "day", b'shop,sku,units\nx,a,\xff\nshop,sku,units\nx,"b"q,1\ny,c,1\n',
    ),
    "parquet, damaged": (
        dataset_of("parquet", {"units": "varchar", "at": "timestamp"}), "day",
        in_parquet(shop=["x", "x", "x"], sku=["a", "b", "c"], units=[b"\xff", b"b", b"c"],
                   at=pa.array([1, 2**62, 3], pa.timestamp("ms"))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [SmallShop, PiecesShop])
@pytest.mark.parametrize("case", CASES)
def test_replayed_rejects_become_the_items_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, kind: Callable[..., SmallShop]
) -> None:
    """Also if they were rejected twice: with the columns from the object key, and no row that could not be read."""
    dataset, folders, content = CASES[case]
    (tmp_path / "whole").mkdir()
    whole, shop = SmallShop(tmp_path / "whole", dataset), kind(tmp_path, dataset)
    key = f"stock/day={datetime.fromtimestamp(shop.world.time, UTC).date()}/{folders}/p"
    for each in (whole, shop):
        each.put(key, content)
    know(monkeypatch, *SKUS)
    at_once = whole.go(key)
    know(monkeypatch)
    first = shop.go(key)
    assert (first.counts.written, bodies(shop)) == (0, {})
    again = replay(shop, first.run)
    assert (again.rows, again.reasons) == (first.rows, first.reasons)
    members = ("reason", "detail", "partitions", "prediction", "problem")
    before, after = ([[line.get(name) for name in members] for line in rejects(shop, n)] for n in (1, again.run))
    assert after == before
    know(monkeypatch, *SKUS)
    last = replay(shop, again.run)
    assert (last.reasons, last.counts) == (at_once.reasons, at_once.counts)
    assert bodies(shop) == bodies(whole)


def test_only_lines_that_need_it_have_more_than_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejects without columns from the object key have the members that they had in release 0.1.0."""
    know(monkeypatch)
    shop = SmallShop(tmp_path, dataset_of("jsonl", {}))
    shop.put(shop.key(), b'{"shop":"x","sku":"a"}\n{"shop":"x","sku":"\xff"}\n')
    run = shop.go(shop.key()).run
    assert [list(line) for line in rejects(shop, run)] == [
        ["row", "reason", "detail", "prediction"],
        ["row", "reason", "detail", "prediction", "problem"],
    ]


def test_values_from_the_object_key_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./larder rejects` has a column for them if a reject has some."""
    know(monkeypatch)
    shop = SmallShop(tmp_path, dataset_of("jsonl", {}))
    for name, columns in (("p", "prediction"), ("shop=x/p", "partitions +prediction")):
        key = shop.key().replace("p.parquet", name)
        shop.put(key, b'{"shop":"o","sku":"a"}\n')
        run = shop.go(key)
        found = read_rejects(shop.services().s3, "larder", run, limit=9)
        assert re.search(rf"row +reason +detail +{columns}\n", render_rejects(run, found, "larder"))
    assert '{"shop": "x"}  {"shop": "o", "sku": "a"}' in render_rejects(run, found, "larder")


OLD = [
    '{"row":0,"reason":"missing-metadata","detail":"","prediction":{"shop":"o","sku":"a","partitions":{"shop":"p"}}}',
    '{"row":1,"reason":"missing-metadata","detail":"","prediction":"{\\"shop\\":\\"o\\",\\"sku\\":\\"b\\",\\"n\\":NaN}"}',
    '{"row":2,"reason":"bad-value","detail":"","prediction":"no line"}',
]
NEW = '{"row":3,"reason":"r","detail":"d","partitions":{"shop":"x","other":1,"else":"e"},"prediction":{"sku":"c"}}'


def test_rejects_of_earlier_releases_are_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside newer ones in a file that was put together by hand; what is not as Larder writes it is ignored."""
    know(monkeypatch, "a", "b", "c")
    shop = SmallShop(tmp_path, dataset_of("jsonl", {"n": "varchar"}))
    shop.put(shop.key(), b'{"shop":"x","sku":"none"}\n')
    run = shop.go(shop.key()).run
    strange = [
        '{"partitions":',
        '["problem"]',
        '{"problem":1,"partitions":["shop"],"prediction":{"shop":"q","sku":"a"}}',
    ]
    body = "\n".join([*OLD, NEW, *strange]).encode()
    for _, key in list(shop.s3.objects):
        if key.startswith("rejects/"):
            shop.s3.put("larder", key, body)
    found = replay(shop, run)
    assert found.state is RunState.DONE
    assert sorted(bodies(shop)) == ["o/a", "o/b", "q/a", "x/c"]
    assert found.counts.rejected == 3
