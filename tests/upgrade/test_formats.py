"""This release reads what each earlier release stored, and refuses what a later one stored in another format."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from enrich.__main__ import main
from enrich.commands import runs as commands
from enrich.delta import buckets
from enrich.errors import NewerFormat
from enrich.intake import prune
from enrich.intake.events import Arrived, Continue
from enrich.intake.worker import handle_requests, run_pending
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.ledger.store import FORMAT
from enrich.release import RELEASE
from serve.handler import build_handler
from serve.item import NewerItem, decode
from serve.storage import Storage
from tests.unit.enrich.small_shop import SETTINGS, SmallShop, parquet
from tests.unit.serve.kit import Answered, App, claims, event, sign
from tests.upgrade.samples import FORMATS, SECOND, THIRD, build_dataset, open_sample, read

SAMPLES = sorted(FORMATS.glob("*/*"))


@pytest.fixture(params=SAMPLES, ids=lambda place: place.relative_to(FORMATS).as_posix())
def sample(request: pytest.FixtureRequest) -> Path:
    place: Path = request.param
    return place


class Stored:
    """The stored items of a sample, as DynamoDB returns them to serve."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def send(self, target: str, payload: bytes) -> bytes:
        request = json.loads(payload)
        if target.endswith("GetItem"):
            found = [row for row in self.rows if (row["pk"], row["sk"]) == tuple(request["Key"].values())]
            return json.dumps({"Item": found[0]} if found else {}).encode()
        pk = request["ExpressionAttributeValues"][":p"]
        return json.dumps({"Items": [row for row in self.rows if row["pk"] == pk and "b" in row]}).encode()


def ask(rows: list[dict[str, Any]], shop: str, path: str) -> tuple[Answered, str]:
    """Request a path with a token of a shop; return the response and the log."""
    app = App()
    parts = app.parts._replace(
        storage=Storage(Stored(rows).send, "items"), served={"stock": build_dataset("partial").served}
    )
    token = sign(claims(carrier=None, shop=shop, scope="stock:read"))
    answer = build_handler(parts)(
        event("rest", "GET", f"/v1/stock{path}", {}, {"Authorization": f"Bearer {token}"}), None
    )
    return Answered(answer), app.lines[-1]


def test_serve_returns_its_items(sample: Path) -> None:
    """Each stored body unchanged, singly and in a list; a tombstone is a missing item."""
    rows = read(sample, "items")
    assert {"S", "B"} <= {kind for row in rows for kind in row.get("b", {})}, "text, and gzip"
    lists: dict[str, dict[str, Any]] = {}
    for item_key, body in read(sample, "bodies").items():
        pk, _, sk = item_key.rpartition(" ")
        shop = unquote(pk.partition("#")[2])
        answer, _ = ask(rows, shop, f"/{sk}")
        assert (answer.status, answer.json if body else None) == ((200, json.loads(body)) if body else (404, None))
        if body:
            lists.setdefault(shop, {})[sk] = json.loads(body)
    for shop, expected in lists.items():
        answer, _ = ask(rows, shop, "")
        assert {one["prediction_id"]: one["body"] for one in answer.json["items"]} == expected


@pytest.mark.parametrize("rows_per_bucket", [buckets.ROWS, 3], ids=["one bucket", "many buckets"])
def test_enrich_continues_its_ledger(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_bucket: int
) -> None:
    """The open run begins again, since its definition is not known: all its items are written, later only changes."""
    monkeypatch.setattr(buckets, "ROWS", rows_per_bucket)
    shop = open_sample(sample, tmp_path)
    before = copy.deepcopy(shop.dynamo.rows)
    (run,) = run_pending(shop.services(), "stock")
    assert (run.run, run.state, run.error) == (3, RunState.DONE, None)
    assert run.counts == Counts(written=6, rejected=1)
    assert len(shop.written()) == 6
    again = shop.run(THIRD)
    assert (again.counts, shop.written()) == (Counts(unchanged=6, rejected=1), [])
    late = shop.run(SECOND, day=5)  # an older output does not replace newer items
    assert (late.counts, shop.written()) == (Counts(superseded=6, rejected=1), [])
    assert shop.ledger.get_state("stock").open_run is None
    written = [row for at, row in shop.dynamo.rows.items() if row != before.get(at)]
    assert {(row["format"]["N"], row["release"]["S"]) for row in written} == {("1", RELEASE)}


def run_command(shop: SmallShop, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command of enrich over a shop."""
    monkeypatch.setattr(commands, "load_datasets", lambda: {"stock": shop.dataset})
    monkeypatch.setattr(commands, "open_services", lambda *_, **__: shop.services())
    return main(words)


def test_status_shows_its_runs(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All runs of the ledger, and the release that wrote each."""
    shop = open_sample(sample, tmp_path)
    assert run_command(shop, monkeypatch, "status", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    wrote = None if sample.parent.name.startswith("before") else sample.parent.name
    assert [(run["run"], run["state"], run["release"]) for run in found["runs"]] == [
        (3, "running", wrote),
        (2, "done", wrote),
        (1, "done", wrote),
    ]


def test_its_old_runs_are_deleted(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two years later a sweep deletes all records of its runs but the newest; none of its outputs is found again."""
    monkeypatch.setattr(prune, "NEWEST_KEPT", 1)
    shop = open_sample(sample, tmp_path)
    list(run_pending(shop.services(), "stock"))
    shop.world.sleep(2 * 365 * 86_400)
    newest = shop.run(THIRD)
    assert run_command(shop, monkeypatch, "sweep", "stock") == 0
    assert [run.run for run in shop.ledger.fetch_runs("stock")] == [newest.run]
    assert sorted(sk.partition("#")[0] for _, sk in shop.dynamo.rows) == ["counter", "output", "run", "state"]
    assert shop.run(SECOND).run == newest.run + 1


def test_a_newer_ledger_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a rollback no newer record is changed, and a new output waits; with the newer release all runs continue."""
    shop = open_sample(FORMATS / RELEASE / "partial", tmp_path)
    known = {("stock", sk): shop.dynamo.rows["stock", sk] for sk in ("state", "run#00000003", "pending#00000003")}
    newer = {"format": {"N": str(FORMAT + 1)}, "release": {"S": "9.1.0"}, "stage": {"S": "a stage of 9.1.0"}}
    shop.dynamo.rows |= copy.deepcopy({at: row | newer for at, row in known.items()})
    before = copy.deepcopy(shop.dynamo.rows)
    with pytest.raises(
        NewerFormat, match=rf"dataset stock, record pending#0+3: its format is {FORMAT + 1}, written by "
    ):
        handle_requests(shop.services(), [Continue("stock")])
    assert run_command(shop, monkeypatch, "status") == 1
    assert f"written by Larder 9.1.0; this is Larder {RELEASE}" in capsys.readouterr().err
    shop.put(shop.key(day=1), parquet(THIRD))
    assert run_command(shop, monkeypatch, "sweep", "stock") == 1
    with pytest.raises(NewerFormat, match="dataset stock, record pending"):
        handle_requests(shop.services(), [Arrived(SETTINGS.outputs, shop.key(day=1))])
    assert {at: shop.dynamo.rows[at] for at in known} == {at: before[at] for at in known}
    assert shop.written() == []
    shop.dynamo.rows |= known  # as the newer release would read them
    assert [run.state for run in run_pending(shop.services(), "stock")] == [RunState.DONE, RunState.DONE]


def test_a_newer_item_is_not_misread() -> None:
    """Serve responds with 503, and the log says why; the command line names the item."""
    rows = [row | {"f": {"N": "2"}} for row in read(FORMATS / RELEASE / "partial", "items")]
    for path in ("/a", ""):
        answer, line = ask(rows, "x", path)
        assert (answer.status, json.loads(line)["reason"]) == (503, "storage: NewerItem")
    with pytest.raises(NewerItem, match="item stock#x a: its format is 2"):
        decode(rows[0])


def test_a_format_has_the_same_values_for_ever() -> None:
    """An older release can't parse another state or count: raise FORMAT in enrich/ledger/store.py, and add it."""
    words = {
        "states": [str(each) for each in RunState],
        "stages": [str(each) for each in Stage],
        "kinds": [str(each) for each in Kind],
        "counts": [each.name for each in fields(Counts)],
    }
    assert {FORMAT: words} == {
        2: {
            # format 1 lacks the last two; the records of all other runs are still of format 1
            "states": [
                *("pending", "running", "stopped", "done", "failed", "overwritten", "withdrawn"),
                *("held", "rejected"),
            ],
            "stages": ["withdraw-first", "restore-first", "pin", "order", "check", "write", "remove", "close"],
            "kinds": ["output", "replay", "refresh", "restore", "rejects", "removal"],
            "counts": ["written", "unchanged", "superseded", "expired", "rejected", "removed"],
        }
    }
