"""Take the pictures for docs/: `plan` and `status` on a terminal, /docs and the console in a browser, of a local stack.

python -m examples.flights.screens     writes plan.svg, status.svg, api-docs.png and console.png; `tox -e pictures`

Needs rich and selenium (tests/requirements.txt), and Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import gc
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from examples.flights import lake
from examples.flights.datasets.flight_delays import flight_delays
from examples.flights.docs_page import open_browser, request_item
from examples.flights.model import load_or_train
from examples.flights.outputs import build_output, object_key, to_parquet
from examples.flights.site import LAKE, PROJECT, Site, deploy_site
from examples.flights.tokens import open_issuer
from infra.local.stand_in import AUDIENCE, ISSUER, build_variables, run_stand_in
from infra.translate import ROOT
from serve.dev.server import open_server
from serve.handler import build_dependencies, build_handler

gc.unfreeze()  # serve.handler freezes what is imported; at exit DuckDB would report each of its objects as a leak

DOCS = ROOT / "docs"
AIRLINE = "UA"
WIDTH = 162  # greatest width of the terminal in characters; longer lines are folded
HEIGHT = 1350  # pixels of the browser's window
CONSOLE_HEIGHT = 1100
PATIENCE = 600  # seconds that a run can take
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # those of rich load a font from another host


def main() -> None:
    """Run the outputs of three days, plan another one, and take the pictures."""
    os.environ["LARDER_PROJECT"] = str(PROJECT)  # independent of what is in datasets/
    model, _ = load_or_train(say=print)
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=ago) for ago in (2, 1, 0)]
    outputs = {day: build_output(model, day) for day in days}
    with run_stand_in(ROOT / ".larder" / "screens.log") as (ministack, athena):
        site = deploy_site(ministack, {})
        lake.load(site.client("s3"), site.client("glue"), LAKE, lake.build_tables(today))
        for day, output in outputs.items():
            site.put_output(object_key(day), to_parquet(output))
            site.wait_for_run(object_key(day), lambda _: None, PATIENCE)
        _fail(site, object_key(today, part=2))
        site.set_rule(enabled=False)
        site.put_output(object_key(today, part=1), to_parquet(_change(outputs[today])))
        variables = build_variables(site.client, site.stack, ministack, athena)
        planned = f"s3://{site.stack['OutputsBucketName']}/{object_key(today, part=1)}"
        for name, words in {"plan": ["plan", planned, "--show", "1"], "status": ["status"]}.items():
            text = run_in_terminal(words, variables)
            (DOCS / f"{name}.svg").write_text(draw_terminal(f"$ ./larder {' '.join(words)}\n{text}"))
        issuer = open_issuer(site.client("ssm"), site.stack["KeyStorePath"], ISSUER, AUDIENCE)
        first = outputs[today].filter(pc.equal(outputs[today].column("carrier"), AIRLINE)).slice(0, 1).to_pylist()[0]
        flight = f"{first['flight_date']}.{first['origin']}.{AIRLINE}{first['flight']}"
        (DOCS / "api-docs.png").write_bytes(photograph(variables, issuer.sign(AIRLINE, time.time()), flight))
        (DOCS / "console.png").write_bytes(photograph_console(variables))
    print("wrote docs/plan.svg, docs/status.svg, docs/api-docs.png and docs/console.png")


def _fail(site: Site, object_key: str) -> None:
    """Put an output that can't be read, and wait until its run has failed."""
    site.put_output(object_key, b"no Parquet")
    deadline = time.monotonic() + PATIENCE
    while not ((run := site.find_run(object_key)) and run.state.is_closed) and time.monotonic() < deadline:
        time.sleep(0.1)


def _change(output: pa.Table) -> pa.Table:
    """Change some predictions of an output, and give a few an airline that does not exist."""
    number = output.column("flight")
    delay = pc.if_else(pc.equal(pc.bit_wise_and(number, 7), 0), 12.5, output.column("predicted_delay"))
    carrier = pc.if_else(pc.equal(pc.bit_wise_and(number, 255), 0), "ZZ", output.column("carrier"))
    columns = {"predicted_delay": delay.cast(pa.float32()), "carrier": carrier}
    return pa.table({name: columns.get(name, output.column(name)) for name in output.schema.names}, output.schema)


def run_in_terminal(words: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run a command of larder on a pseudo-terminal; return what it prints, with its colours.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    mine, its = pty.openpty()
    command = [sys.executable, str(ROOT / "larder"), *words]
    env = {**os.environ, **variables, "TERM": "xterm-256color"}
    with subprocess.Popen(command, env=env, stdout=its, stderr=subprocess.DEVNULL) as process:  # no progress line
        os.close(its)
        printed = bytearray()
        try:
            while block := os.read(mine, 65536):
                printed += block
        except OSError:  # how Linux reports the end of a terminal's file
            pass
        os.close(mine)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, bytes(printed))
    return printed.decode().replace("\r\n", "\n")


def draw_terminal(text: str) -> str:
    """Draw a terminal with a text, as SVG that loads nothing from other hosts."""
    rendered = Text.from_ansi(text)
    width = min(WIDTH, max(map(len, rendered.plain.splitlines())))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(rendered, overflow="fold")
    return FONT_FACES.sub("", console.export_svg(title="Larder", theme=MONOKAI, unique_id="larder"))


def photograph(variables: Mapping[str, str], token: str, prediction_id: str) -> bytes:
    """Send a request from /docs in a browser; return a PNG of the operation with its response."""
    dependencies = build_dependencies({**os.environ, **variables}, {flight_delays.name: flight_delays.served})
    server = open_server(build_handler(dependencies), port=0)
    threading.Thread(target=server.run, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder), HEIGHT) as browser:
        request_item(browser, f"http://127.0.0.1:{server.port}", token, prediction_id)
        browser.execute_script("document.querySelector('.curl-command').remove()")  # it contains the token
        browser.execute_script("document.querySelector('.opblock-tag-section').scrollIntoView()")
        time.sleep(1)  # until panels are open
        picture: bytes = browser.get_screenshot_as_png()
    server.close()
    return picture


def photograph_console(variables: Mapping[str, str]) -> bytes:
    """Open the console in a browser; return a PNG of the page of the flights.

    Raises:
        RuntimeError: the console did not start.
    """
    command = [sys.executable, str(ROOT / "larder"), "console", "--port", "0"]
    env = {**os.environ, **variables}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline() if process.stderr else ""
        try:
            found = re.search(r"http://\S+/", line)
            if found is None:
                raise RuntimeError(f"larder console: {line}")
            with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder), CONSOLE_HEIGHT) as browser:
                browser.get(f"{found[0]}datasets/{flight_delays.name}.html")
                picture: bytes = browser.get_screenshot_as_png()
        finally:
            process.terminate()
    return picture


if __name__ == "__main__":
    main()
