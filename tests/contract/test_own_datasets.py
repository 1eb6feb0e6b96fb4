"""The project's own datasets: they have no mistakes, and the committed contract is up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from enrich.dataset.validation import check_datasets
from enrich.datasets import load_datasets
from enrich.openapi.document import build_document
from infra.gateway import build_gateway, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets"


def test_own_datasets_have_no_mistakes() -> None:
    """`./larder check` finds none."""
    mistakes = check_datasets(load_datasets(FOLDER), None)
    assert not mistakes, "\n".join(map(str, mistakes))


def test_the_contract_is_up_to_date() -> None:
    """openapi.yaml and infra/gateway.yaml are what the files in datasets/ generate."""
    text = build_document(load_datasets(FOLDER).values())
    remedy = "is stale: run `./larder openapi --write`, and commit openapi.yaml and infra/gateway.yaml"
    assert (ROOT / "openapi.yaml").read_text() == text, f"openapi.yaml {remedy}"
    import yaml

    gateway = render(build_gateway(yaml.safe_load(text)))
    assert (ROOT / "infra" / "gateway.yaml").read_text() == gateway, f"infra/gateway.yaml {remedy}"


def test_serve_reads_data_and_no_module_of_datasets() -> None:
    """`python -m enrich.datasets` prints what the laptop server and the bundle give serve."""
    env = {name: value for name, value in os.environ.items() if name != "LARDER_PROJECT"}
    done = subprocess.run([sys.executable, "-m", "enrich.datasets"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from serve.datasets import parse_served

    assert parse_served(done.stdout) == {name: one.served for name, one in load_datasets(FOLDER).items()}
