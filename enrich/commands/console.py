"""Commands that show a stack as pages: console and report."""

from __future__ import annotations

import argparse
import errno
from typing import Any

from enrich.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE, print_error
from enrich.services import Services

INSTALL = "install it: pip install -r examples/requirements.txt"


def console(services: Services, options: argparse.Namespace) -> int:
    """Serve the pages on loopback until Ctrl-C; return the exit code."""
    try:
        from enrich.console.web import LOOPBACK, find_address, open_console
    except ModuleNotFoundError as error:
        return print_error(f"the console needs {error.name}; {INSTALL}", USAGE)
    try:
        server = open_console(_open_pages(services, options), options.port)
    except OSError as error:
        why = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not allowed"}.get(error.errno or 0, str(error))
        return print_error(
            f"port {options.port} of {LOOPBACK} {why}; choose another one with --port (0: any free port)", FAILED
        )
    mode = "operations are on" if options.operate else "read-only"
    print_error(f"larder console: {find_address(server)} ({mode}); stop with Ctrl-C", DONE)
    server.run()  # it returns at KeyboardInterrupt
    server.close()
    return INTERRUPTED


def report(services: Services, options: argparse.Namespace) -> int:
    """Write the pages as files; return the exit code."""
    try:
        from enrich.console.report import FIRST, open_bucket, open_folder, write_report
    except ModuleNotFoundError as error:
        return print_error(f"the report needs {error.name}; {INSTALL}", USAGE)
    is_s3 = options.out.startswith("s3://")
    put = open_bucket(services.s3, options.out) if is_s3 else open_folder(options.out)
    names = [options.dataset] if options.dataset else list(services.datasets)
    try:
        count = write_report(_open_pages(services, options, is_report=True), names, put)
    except OSError as error:
        return print_error(f"{options.out} can't be written: {error}; choose another place with --out", FAILED)
    print(f"wrote {count} pages; open {options.out.rstrip('/')}/{FIRST}")  # noqa: T201
    return DONE


def _open_pages(services: Services, options: argparse.Namespace, *, is_report: bool = False) -> Any:
    from enrich.console.pages import Options, Pages

    return Pages(
        services,
        Options(
            region=options.region or services.s3.meta.region_name,
            newest=options.newest,
            show_data=options.show_data,
            operate=getattr(options, "operate", False),
            is_report=is_report,
            sample_rows=options.sample_rows,
        ),
    )
