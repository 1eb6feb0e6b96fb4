"""Serve the pages on loopback: a WSGI application, and the checks of each request.

An attacker controls other pages in the operator's browser, and host names that resolve to this machine. So a request
needs a Host of this machine (against DNS rebinding). A request that changes something also needs `--operate`, the
Origin of this console, and a one-time token from one of its pages. Pages execute no script and load nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from botocore.exceptions import BotoCoreError, ClientError
from waitress.server import TcpWSGIServer, create_server

from enrich.cli.exit_codes import print_error
from enrich.console.actions import OF_DATASETS, OF_RUNS
from enrich.console.history import BadQuestion, find_history, parse_question
from enrich.console.pages import Pages, build_policy
from enrich.errors import Failed, LeaseLost, NewerFormat, Stopped
from enrich.ledger.records import Run
from serve.item import NewerItem

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
THREADS = 4
MOST_FORM_BYTES = 10_000
_HOSTS = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_PATH = re.compile(
    r"/(?:(?P<index>index\.html)?"
    r"|datasets/(?P<dataset>[\w-]+)(?:\.html|/runs/(?P<run>\d{1,8})(?:\.html|/(?P<run_action>[a-z-]+))|/(?P<action>[a-z-]+))"
    r"|distributions/(?P<distributions>[\w-]+)\.html"
    r"|items/(?P<item>[\w-]+)\.html)",
    re.ASCII,
)
_HEADERS = [
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),  # with `no-referrer` a browser sends Origin: null
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]


class Refused(Exception):
    """The console refuses a request; `status` and the message say why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with a page, or a redirection."""

    status: HTTPStatus
    page: str = ""
    location: str | None = None


class Tokens:
    """Tokens of forms, each of which is accepted once; the oldest are forgotten."""

    MOST = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, None] = {}

    def issue(self) -> str:
        """Return a new token."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._open[token] = None
            while len(self._open) > self.MOST:
                del self._open[next(iter(self._open))]
        return token

    def take(self, token: str) -> bool:
        """Return whether a token was issued and not taken yet."""
        with self._lock:
            return self._open.pop(token, self) is None


class Console:
    """Answers requests with pages; `app` is the WSGI application."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._services = pages.services
        self._tokens = Tokens()
        # Two requests of the console must not compete for the lease
        self._one_at_a_time = threading.Lock()

    def app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        try:
            answer = self._answer(environ, path)
        except Refused as error:
            answer = self._problem(error.status, str(error), path)
        except (Failed, LeaseLost, NewerFormat, NewerItem) as error:
            answer = self._problem(HTTPStatus.CONFLICT, str(error), path)
        except Stopped as error:
            answer = self._problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), path)
        except (ClientError, BotoCoreError) as error:
            answer = self._problem(HTTPStatus.BAD_GATEWAY, f"A call to AWS failed: {error}", path)
        except Exception as error:  # noqa: BLE001 - the console continues with the next request
            print_error("".join(traceback.format_exception(error)), 1)
            answer = self._problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error. The terminal that runs the console shows it.", path
            )
        content = answer.page.encode("utf-8", "backslashreplace")
        headers = [
            *_HEADERS,
            ("Content-Security-Policy", f"{build_policy()}; frame-ancestors 'none'"),
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(content))),
        ]
        if answer.location:
            headers.append(("Location", answer.location))
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD, POST" if self._pages.options.operate else "GET, HEAD"))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    def _problem(self, status: HTTPStatus, detail: str, path: str) -> Answer:
        found = _PATH.fullmatch(path)
        dataset = (found and (found["dataset"] or found["distributions"] or found["item"])) or ""
        shown = self._pages.privacy.hide(dataset, detail)
        depth = max(0, path.count("/") - 1)
        return Answer(status, self._pages.render("problem.html", title=status.phrase, depth=depth, detail=shown))

    def _answer(self, environ: WSGIEnvironment, path: str) -> Answer:
        if not _HOSTS.fullmatch(environ.get("HTTP_HOST", "")):
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                "The Host of this request is not this machine; open the console at 127.0.0.1.",
            )
        method = environ["REQUEST_METHOD"]
        if method not in {"GET", "HEAD", "POST"}:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is not a method of the console.")
        found = _PATH.fullmatch(path)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "The console has no such page.")
        is_action = found["action"] or found["run_action"]
        if method == "POST" and not (is_action and self._pages.options.operate):
            raise Refused(
                HTTPStatus.METHOD_NOT_ALLOWED, "The console is read-only; start it with --operate to change that."
            )
        if is_action and not self._pages.options.operate:
            raise Refused(HTTPStatus.NOT_FOUND, "The console is read-only; start it with --operate to change that.")
        name = found["dataset"] or found["distributions"] or found["item"]
        if name is not None and name not in self._services.datasets:
            raise Refused(HTTPStatus.NOT_FOUND, "datasets/ has no such dataset.")
        run = self._get_run(found["dataset"], int(found["run"])) if found["run"] else None
        form = self._read_form(environ) if method == "POST" else None
        if found["run_action"] and run is not None:
            return self._operate_run(run, found["run_action"], form)
        if found["action"]:
            return self._operate_dataset(found["dataset"], found["action"], form)
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=50))
        return self._show(found, run, query)

    def _show(self, found: re.Match[str], run: Run | None, query: Mapping[str, str]) -> Answer:
        pages = self._pages
        if run is not None:
            page = pages.build_run(run, pages.fetch(run.dataset).runs, query.get("reason"))
        elif found["dataset"]:
            page = pages.build_dataset(found["dataset"])
        elif found["distributions"]:
            page = pages.build_distributions(found["distributions"])
        elif found["item"]:
            return self._show_item(found["item"], query)
        else:
            page = pages.build_index()
        return Answer(HTTPStatus.OK, page)

    def _show_item(self, name: str, query: Mapping[str, str]) -> Answer:
        dataset, prediction_id = self._services.datasets[name], query.get("prediction_id", "")
        subject = {claim: query.get(f"subject.{claim}", "") for claim in dataset.served.subject}
        try:
            pk, sk = parse_question(dataset, subject, prediction_id)
        except BadQuestion as error:
            page = self._pages.build_item(name, prediction_id, None, str(error))
            return Answer(HTTPStatus.BAD_REQUEST, page)
        history = find_history(self._services, dataset, pk, sk, self._pages.fetch(name).runs)
        return Answer(HTTPStatus.OK, self._pages.build_item(name, prediction_id, history, None))

    def _get_run(self, dataset: str, number: int) -> Run:
        run = self._services.ledger.get_run(dataset, number)
        if run is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"The ledger has no run {number} of {dataset}.")
        return run

    # -- operations

    def _read_form(self, environ: WSGIEnvironment) -> dict[str, str]:
        """Read the form of a request that changes something, and check where it comes from.

        Raises:
        Refused: it does not come from a page of this console, or was already sent.
        """
        if environ.get("HTTP_ORIGIN") != f"http://{environ['HTTP_HOST']}":
            raise Refused(HTTPStatus.FORBIDDEN, "The Origin of this request is not this console.")
        if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin":
            raise Refused(HTTPStatus.FORBIDDEN, "This request comes from another site.")
        if environ.get("CONTENT_TYPE", "").partition(";")[0] != "application/x-www-form-urlencoded":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Expected a form.")
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > MOST_FORM_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected a form of up to {MOST_FORM_BYTES} bytes.")
        content = environ["wsgi.input"].read(int(length)).decode("ascii", "replace")
        form = dict(parse_qsl(content, keep_blank_values=True, max_num_fields=10))
        if not self._tokens.take(form.get("token", "")):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This form was already sent, or the console was restarted. Open its page again.",
            )
        return form

    def _operate_run(self, run: Run, name: str, form: Mapping[str, str] | None) -> Answer:
        action = OF_RUNS.get(name)
        if action is None:
            raise Refused(HTTPStatus.NOT_FOUND, "The console has no such operation.")
        if not action.applies(run):
            raise Refused(HTTPStatus.CONFLICT, f"Run {run.run} is {run.state}; this operation is not for such a run.")
        return self._operate(
            f"{action.label}: {run.dataset} run {run.run}",
            action.label,
            run.dataset,
            lambda: action.describe(self._services, run),
            lambda: action.execute(self._services, run),
            form,
            back=f"../{run.run}.html",
        )

    def _operate_dataset(self, dataset: str, name: str, form: Mapping[str, str] | None) -> Answer:
        action = OF_DATASETS.get(name)
        if action is None:
            raise Refused(HTTPStatus.NOT_FOUND, "The console has no such operation.")
        return self._operate(
            f"{action.label}: {dataset}",
            action.label,
            dataset,
            lambda: action.describe(self._services, dataset),
            lambda: action.execute(self._services, dataset),
            form,
            back=f"../{dataset}.html",
        )

    def _operate(
        self,
        title: str,
        label: str,
        dataset: str,
        describe: Callable[[], list[str]],
        execute: Callable[[], Run | None],
        form: Mapping[str, str] | None,
        *,
        back: str,
    ) -> Answer:
        """Ask for confirmation of what an operation does, or do what was confirmed."""
        depth = 2 if back == f"../{dataset}.html" else 4
        lines, mistake, status = list[str](), None, HTTPStatus.OK
        with self._one_at_a_time:
            try:
                lines = describe()
                seen = hashlib.sha256("\n".join(lines).encode()).hexdigest()
                if form is not None and form.get("seen") == seen:
                    run = execute()
                    target = f"/datasets/{dataset}/runs/{run.run}.html" if run else f"/datasets/{dataset}.html"
                    return Answer(HTTPStatus.SEE_OTHER, location=target)
                if form is not None:
                    mistake, status = (
                        "Nothing was done: the effect of this operation has changed. Read it again, then confirm it.",
                        HTTPStatus.CONFLICT,
                    )
            except Failed as error:
                lines, seen, status = [], "", HTTPStatus.CONFLICT
                mistake = self._pages.privacy.hide(dataset, str(error))
        shown = [self._pages.privacy.hide_object_key(dataset, line) for line in lines]
        page = self._pages.render(
            "confirm.html", title=title, depth=depth, label=label, lines=shown, mistake=mistake, seen=seen,
            token=self._tokens.issue(), back=back,
        )  # fmt: skip
        return Answer(status, page)


def open_console(pages: Pages, port: int) -> TcpWSGIServer:
    """Open the server on loopback; `run()` serves until Ctrl-C. Port 0 takes a free one.

    Raises:
        OSError: the port is in use, or not allowed.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no warning when a browser sends many requests
    app: WSGIApplication = Console(pages).app
    server = create_server(app, host=LOOPBACK, port=port, ident="larder", threads=THREADS)
    return cast("TcpWSGIServer", server)


def find_address(server: Any) -> str:
    """Return the URL of a server."""
    host, port = server.socket.getsockname()[:2]
    return f"http://{host}:{port}/"
