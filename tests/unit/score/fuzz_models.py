"""Fuzzing: changed model files for the loader, and changed requests for the handler.

python -m tests.unit.score.fuzz_models N [SEED]
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

from score.native import RuntimeFailed, Session, open_runtime
from score.onnx_file import ModelRefused, check_model
from tests.doubles.onnx_writer import classifier, model, node, regressor
from tests.unit.score.kit import VIRGINICA, App

TREE = model(
    [
        node(
            "TreeEnsembleRegressor", ["x"], ["value"], "ai.onnx.ml", n_targets=1,
            nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0],
            nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[1.5, 0.0, 0.0],
            nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0],
            target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[10.0, 20.0],
        )
    ],
    {"x": ("float", 2)},
    {"value": ("float", 1)},
)  # fmt: skip
MODELS = [classifier([[1.0, 2.0], [3.0, 4.0]], [0.0, 0.5]), regressor([1.0, 2.0], 3.0, "float"), TREE]
BODIES = [
    json.dumps(body).encode()
    for body in (
        {"instance": VIRGINICA},
        {"instances": [VIRGINICA] * 3},
        VIRGINICA,
        {"values": {"alcohol": 1}},
        ["text"],
    )
]
STATUSES = {200, 400, 413, 415, 422}


def change(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or repeat some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 2)):
        if not changed:
            break
        place = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                del changed[place : place + rng.randint(1, 9)]
            case 2:
                changed[place:place] = changed[place : place + rng.randint(1, 40)]
            case 3:
                changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def fuzz_models(count: int, seed: int) -> Counter[str]:
    """Load and run changed files; a file that crashes the process ends it. Return how many reached each step."""
    rng, reached = random.Random(seed), Counter[str]()
    for _ in range(count):
        data = change(rng.choice(MODELS), rng)
        try:
            check_model(data)
            reached["checked"] += 1
            session = Session(open_runtime(), data)
            reached["loaded"] += 1
            for name, output in zip(session.inputs, session.outputs, strict=False):
                session.run([(name, "float", [1.0, 2.0])], 1, output, seconds=5)
                reached["run"] += 1
        except (ModelRefused, RuntimeFailed, UnicodeDecodeError):
            continue
    return reached


def fuzz_requests(count: int, seed: int) -> Counter[int]:
    """Send changed bodies; each response has a status of the contract. Return the statuses."""
    rng, app, statuses = random.Random(seed), App(), Counter[int]()
    for _ in range(count):
        status = app.post(change(rng.choice(BODIES), rng), rng.choice(["iris", "wine", "news", "delay"])).status
        assert status in STATUSES, status
        statuses[status] += 1
    return statuses


if __name__ == "__main__":
    number = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(dict(fuzz_models(number, first)), dict(fuzz_requests(number, first)))
