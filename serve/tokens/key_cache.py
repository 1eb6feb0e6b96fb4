"""Key cache of one issuer, with refresh, cool-down and stale-on-error.

The sources are in `key_sources`: functions that read documents or raise `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from serve.tokens.jwks import BadKeySet, KeyDocument, KeySet, parse_keys
from serve.tokens.signing_key import SigningKey


class Unreadable(Exception):
    """The source of the keys did not respond, or has no keys."""


class KeysUnavailable(Exception):
    """There is no usable key set, so that no token can be verified."""


class Freshness(NamedTuple):
    """How long keys are used, in seconds.

    A key that was removed from the source is trusted for at most `max_age` while the source responds, and for at most
    `keep` while it does not. `cool_down` is the time between reads for unknown kids, `retry` the time after a failure.
    """

    max_age: float = 300
    cool_down: float = 30
    retry: float = 5
    keep: float = 3600


FRESHNESS = Freshness()


class KeyStore:
    """The keys of one issuer.

    `report(event, details)` is called for every refused key and failed read.
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
        """Return the current keys; read them if they are older than `max_age`.

        The mapping is a new object if the keys have changed, otherwise the same one.

        Raises:
            KeysUnavailable: they cannot be read, and the last usable set is too old or missing.
        """
        if self._good is None or not 0 <= now - self._good_since < self._freshness.max_age:
            self._refresh(now)
        if self._good is None or now - self._good_since >= self._freshness.keep:
            raise KeysUnavailable
        return self._good.keys

    def renewed(self, now: float) -> Mapping[str, SigningKey]:
        """Return the keys for a token with an unknown kid: read again, unless that was done within `cool_down`.

        Anybody who sends tokens can trigger this, so the source is read at most once per `cool_down` (V13).

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
        # A set without a usable key counts as an empty one: its tokens get 401 (V14). Keeping the previous keys would
        # trust keys that their owner has removed.
        for kid, reason in read.refused:
            self._report("key-refused", {"kid": kid, "detail": reason})
        self._good_since = now
        if self._good is None or not _same(self._good.keys, read.keys):
            self._good = read


def _same(one: Mapping[str, SigningKey], other: Mapping[str, SigningKey]) -> bool:
    return one.keys() == other.keys() and all(
        one[kid].algorithm == other[kid].algorithm and one[kid].public_key == other[kid].public_key for kid in one
    )
