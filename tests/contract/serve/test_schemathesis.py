"""schemathesis, with all its checks, finds no fault in the running server.

The default run is short. `LARDER_CONTRACT_EXAMPLES=1000` with `LARDER_CONTRACT_SEEDS="1 2"` makes some 27,000 requests;
other seeds make others. Its time goes into making requests and checking answers, not into HTTP, so seeds run side by
side; its in-process transport for WSGI does not work in 4.32 (werkzeug is handed options that it does not know).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from serve.dev.docs import read_document
from tests.contract.serve.conftest import Laptop
from tests.unit.serve.kit import sign

pytestmark = pytest.mark.long

# Parameters that can't be combined, which OpenAPI cannot express: each run omits the others. With `fields`, a body
# lacks members that its schema requires (test_answers_conform tests that).
RANKED = ("FlightDelaysTop", "FlightDelaysAfterRank")
SIDES = {
    "pages": ("Ids", "FlightDelaysFields", *RANKED),
    "ids": ("Limit", "After", "Prefix", "FlightDelaysFields", *RANKED),
    "top": ("Ids", "After", "Prefix", "FlightDelaysFields"),
}


def describe(laptop: Laptop, directory: Path, side: str = "pages") -> list[str]:
    """Write openapi.yaml with ids that exist, since it names none itself; return the arguments that use it."""
    document = read_document()
    names = [sk for _, sk in laptop.app.table.items]
    document["components"]["parameters"]["PredictionId"]["example"] = names[0]
    document["components"]["parameters"]["Ids"]["example"] = names[:3]
    document["components"]["parameters"]["FlightDelaysTop"]["required"] = side == "top"
    left_out = [{"$ref": f"#/components/parameters/{name}"} for name in SIDES[side]]
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and "parameters" in operation:
                operation["parameters"] = [one for one in operation["parameters"] if one not in left_out]
    (directory / "openapi.json").write_text(json.dumps(document))
    return [str(directory / "openapi.json"), "--url", laptop.url, "--header", f"Authorization: Bearer {sign()}"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", os.environ.get("LARDER_CONTRACT_SEEDS", "1").split())
def test_schemathesis_finds_nothing(laptop: Laptop, tmp_path: Path, seed: str, side: str) -> None:
    """Every check passes for every request, and the requests reached what they should."""
    examples = os.environ.get("LARDER_CONTRACT_EXAMPLES", "40")
    only = [] if side == "pages" else ["--include-path-regex", "^/v1/flight-delays$"]
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", *describe(laptop, tmp_path, side), *only,
            "--checks", "all", "--max-examples", examples, "--continue-on-failure", "--no-color",
            "--seed", seed,
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    statuses = Counter(json.loads(line)["status"] for line in laptop.app.lines)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert {200, 204, 400, 401, 405} <= statuses.keys(), statuses
    assert statuses[200] > (50 if side == "pages" else 10)
    assert statuses[404] or side != "pages"
    assert not [status for status in statuses if status >= 500]
    print(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}")


def test_a_server_that_breaks_its_promise_is_noticed(laptop: Laptop, tmp_path: Path) -> None:
    """The same run fails if one body does not conform to openapi.yaml."""
    for key, stored in laptop.app.table.items.items():
        laptop.app.table.items[key] = stored._replace(body='{"flight": 1}')
    done = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "run", *describe(laptop, tmp_path),
         "--checks", "all", "--max-examples", "1", "--phases", "examples"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "flight" in done.stdout
