"""Read items through the API: all items of the token's subject, or one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urljoin

from examples.local_copy.copy import Read, parse_time


class Api:
    """The read API of one dataset, with a token."""

    def __init__(self, url: str, token: str) -> None:
        """Set the dataset's URL, such as https://predictions.example.com/v1/flight-delays, and the token."""
        self._url, self._token = url.rstrip("/"), token
        self.began = 0.0  # time of reading the first page, by the API's clock, in epoch seconds

    def list(self) -> Iterator[Read]:
        """Yield every item, page by page."""
        url: str | None = self._url
        while url:
            page, headers = self._get(url)
            self.began = self.began or parsedate_to_datetime(headers["Date"]).timestamp()
            for entry in page["items"]:
                expires_at, as_of = parse_time(entry["expires_at"]), parse_time(entry["as_of"])
                yield Read(entry["prediction_id"], entry["body"], expires_at, as_of, entry["run"])
            url = _find_next(url, headers.get("Link", ""))

    def get(self, prediction_id: str) -> Read | None:
        """Read one item; None if there is none."""
        try:
            body, headers = self._get(f"{self._url}/{quote(prediction_id, safe='')}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        expires_at, as_of = parse_time(headers["Larder-Expires-At"]), parse_time(headers["Larder-As-Of"])
        return Read(prediction_id, body, expires_at, as_of, int(headers["Larder-Run"]))

    def _get(self, url: str) -> tuple[Any, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read()), answer.headers


def _find_next(url: str, link: str) -> str | None:
    address, _, rest = link.partition(">")
    return urljoin(url, address.lstrip("<")) if 'rel="next"' in rest else None
