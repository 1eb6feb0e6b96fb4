"""The command `diff`: what two outputs of a dataset would serve differently."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from enrich.cli.exit_codes import DIFFERENT, DONE
from enrich.cli.table import find_paint
from enrich.diff.diff import diff
from enrich.diff.page import render_page
from enrich.diff.report import describe_diff, render_diff
from enrich.errors import Failed
from enrich.services import Services


def execute_diff(services: Services, options: argparse.Namespace) -> int:
    """Compare two outputs, print how they differ, and write the page if requested; return the exit code.

    Raises:
        Failed: as `diff`; or the page can't be written.
        Stopped: a service that is needed is unavailable.
    """
    page = Path(options.html) if options.html else None
    if page is not None and (page.is_dir() or not page.parent.is_dir()):  # fail before minutes of work
        raise Failed(f"--html {page}: expected a file in a folder that exists")
    found = diff(
        services,
        options.a,
        options.b,
        dataset=options.of,
        members=options.member or (),
        show=options.show,
        show_data=options.show_data,
        own_metadata=options.own_metadata,
    )
    services.progress.end()
    print(json.dumps(describe_diff(found)) if options.json else render_diff(found, find_paint()))  # noqa: T201
    if page is not None:
        try:
            page.write_text(render_page(found), encoding="utf-8")
        except OSError as error:
            raise Failed(f"--html {page}: can't be written: {error.strerror}; name another file") from error
    return DIFFERENT if options.exit_code and found.counts.differ else DONE
