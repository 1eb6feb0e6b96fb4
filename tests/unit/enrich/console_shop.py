"""A shop with a history: outputs that were published, rejected in part, unreadable, and hostile."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from enrich.console.pages import Options, Pages
from enrich.console.web import Console
from enrich.services import Services
from tests.unit.enrich.small_shop import SmallShop

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e"
SUBJECT = "Quarry-Lane-7"  # a value that only --show-data may show
ORIGIN = "http://127.0.0.1:8090"


def build_rows(shift: float = 0.0, shop: str = "x", sku: str | None = None) -> dict[str, list[Any]]:
    """Build an output of three good rows, and one of a sku without metadata if that is given."""
    skus = ["a", "b", "c", *([sku] if sku else [])]
    return {"shop": [shop] * len(skus), "sku": skus, "units": [1.0 + shift + number for number in range(len(skus))]}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes), its text, and whether each element is closed in order."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f"{data} "

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@dataclass
class Answer:
    """An answer of the console."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def page(self) -> Page:
        return Page(self.text)


@dataclass
class ConsoleShop:
    """A console over a small shop; `sent` has the messages to enrich's queue."""

    directory: Path
    shop: SmallShop
    options: Mapping[str, Any] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pages = self.open_pages(**self.options)
        self.console = Console(self.pages)

    def services(self) -> Services:
        return replace(self.shop.services(), send=self.sent.append)

    def open_pages(self, **options: Any) -> Pages:
        return Pages(self.services(), Options(**{"region": "eu-west-1", **options}))

    def ask(
        self, path: str, method: str = "GET", form: Mapping[str, str] | bytes | None = None, **headers: str | None
    ) -> Answer:
        """Send a request; None removes a header."""
        path, _, query = path.partition("?")
        body = form if isinstance(form, bytes) else urlencode(form or {}).encode()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_HOST": "127.0.0.1:8090",
            "wsgi.input": io.BytesIO(body),
        }
        if method == "POST":
            environ |= {
                "HTTP_ORIGIN": ORIGIN,
                "CONTENT_TYPE": "application/x-www-form-urlencoded",
                "CONTENT_LENGTH": str(len(body)),
            }
        environ |= headers
        environ = {name: value for name, value in environ.items() if value is not None}
        got: list[Any] = []
        content = b"".join(self.console.app(environ, lambda *what: got.extend(what)))  # type: ignore[arg-type]
        return Answer(int(got[0].split()[0]), dict(got[1]), content.decode())

    def confirm(self, path: str) -> dict[str, str]:
        """Open the page of an operation; return its form."""
        answer = self.ask(path)
        assert answer.status == 200, answer.page.text
        return {str(each["name"]): str(each["value"]) for each in answer.page.find("input")}

    def runs(self) -> list[tuple[str, str]]:
        """Return kind and state of each run, oldest first."""
        return [(str(run.kind), str(run.state)) for run in reversed(self.shop.ledger.fetch_runs("stock"))]
