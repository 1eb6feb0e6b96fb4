"""Keep one issuer's keys: cached, refreshed, and the last good set for a while when they cannot be had. Time comes in.

What can be read from is in `key_sources`; a source is a function that reads documents, or raises `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from serve.tokens.jwks import BadKeySet, KeyDocument, KeySet, parse_keys
from serve.tokens.signing_key import SigningKey


class Unreadable(Exception):
    """The place where keys lie did not answer, or has none."""


class KeysUnavailable(Exception):
    """There is no key set that may still be used: nothing can be said about any token."""


class Freshness(NamedTuple):
    """How long keys are used; seconds.

    A key that was taken out of the source is trusted for `max_age` at most while the source answers, and for `keep`
    at most while it does not. `cool_down` lies between readings that unknown kids ask for, `retry` after a failed one.
    """

    max_age: float = 300
    cool_down: float = 30
    retry: float = 5
    keep: float = 3600


FRESHNESS = Freshness()


class KeyStore:
    """The keys of one issuer.

    `report(event, details)` is told of every refusal and failure, once per reading.
    """

    def __init__(
        self,
        read: Callable[[], list[KeyDocument]],
        report: Callable[[str, Mapping[str, object]], None],
        freshness: Freshness = FRESHNESS,
    ) -> None:
        self._read = read
        self._report = report
        self._freshness = freshness
        self._good: KeySet | None = None
        self._good_since = 0.0
        self._failed_at = self._renewed_at = float("-inf")

    def current(self, now: float) -> Mapping[str, SigningKey]:
        """Return the keys as of now, reading them when they are older than `max_age`.

        The mapping is another object whenever the keys were read anew and differ, and the same one otherwise.

        Raises:
            KeysUnavailable: they cannot be read, and the last good set is too old or there was none.
        """
        if self._good is None or not 0 <= now - self._good_since < self._freshness.max_age:
            self._refresh(now)
        if self._good is None or now - self._good_since >= self._freshness.keep:
            raise KeysUnavailable
        return self._good.keys

    def renewed(self, now: float) -> Mapping[str, SigningKey]:
        """Return the keys after a token named a kid that is not among them: read anew, unless that was just done.

        Whoever sends tokens can bring this about at will, so the source is asked once per `cool_down` at most (V13).

        Raises:
            KeysUnavailable: as `current`.
        """
        if not 0 <= now - self._renewed_at < self._freshness.cool_down:
            self._renewed_at = now
            self._refresh(now)
        return self.current(now)

    def _refresh(self, now: float) -> None:
        if 0 <= now - self._failed_at < self._freshness.retry:
            return
        try:
            read = parse_keys(self._read())
        except (Unreadable, BadKeySet) as error:
            self._failed_at = now
            self._report("keys-unreadable", {"detail": str(error)})
            return
        # A set of which no key can be used was read all the same: it is obeyed as an empty one is, and its tokens are
        # 401 (V14). To keep the old keys instead would be to trust what their owner has taken back.
        for kid, reason in read.refused:
            self._report("key-refused", {"kid": kid, "detail": reason})
        self._good_since = now
        if self._good is None or not _same(self._good.keys, read.keys):
            self._good = read


def _same(one: Mapping[str, SigningKey], other: Mapping[str, SigningKey]) -> bool:
    return one.keys() == other.keys() and all(
        one[kid].algorithm == other[kid].algorithm and one[kid].public_key == other[kid].public_key for kid in one
    )
