"""Key cache of one issuer, with refresh, cool-down and stale-on-error.

The sources are in `key_sources`: functions that read documents or raise `Unreadable`.
"""

from _thread import RLock  # `threading` takes 0.7 ms more to import
from collections.abc import Callable, Mapping
from typing import NamedTuple

from serve.tokens.jwks import BadKeySet, KeyDocument, KeySet, parse_keys
from serve.tokens.signing_key import DEFAULT_ALGORITHMS, SigningKey


class Unreadable(Exception):
    """The source of the keys did not respond, or has no keys."""


class KeysUnavailable(Exception):
    """There is no usable key set, so no token can be verified."""


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
CLOCKS = 10.0  # seconds that the `now` of one thread can be behind that of another


class KeyStore:
    """The keys of one issuer, for the algorithms of its policy. Threads can share it.

    `report(event, details)` is called for every refused key and failed read. While one thread reads, others wait: the
    previous keys would refuse a token whose new key is being read.
    """

    _good_since: float  # when the keys in `_good` were read

    def __init__(
        self,
        read: Callable[[], list[KeyDocument]],
        report: Callable[[str, Mapping[str, object]], None],
        freshness: Freshness = FRESHNESS,
        *,
        algorithms: frozenset[str] = DEFAULT_ALGORITHMS,
        allow_missing_kid: bool = False,
    ) -> None:
        self._read = read
        self._report = report
        self._freshness = freshness
        self._algorithms = algorithms
        self._allow_missing_kid = allow_missing_kid
        self._lock = RLock()
        self._good: KeySet | None = None
        self._failed_at = self._renewed_at = float("-inf")

    def current(self, now: float) -> Mapping[str, SigningKey]:
        """Return the current keys; read them if they are older than `max_age`.

        The mapping is a new object if the keys have changed, otherwise the same one.

        Raises:
            KeysUnavailable: they cannot be read, and the last usable set is too old or missing.
        """
        with self._lock:
            if not self._is_fresh(now):
                self._refresh(now)
            if self._good is None or now - self._good_since >= self._freshness.keep:
                raise KeysUnavailable
            return self._good.keys

    def is_ready(self, now: float) -> bool:
        """Return whether `current` returns keys without waiting: they are not old, and no thread reads them."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._is_fresh(now)
        finally:
            self._lock.release()

    def renewed(self, now: float) -> Mapping[str, SigningKey]:
        """Return the keys for a token with an unknown kid; read them again unless that was done within `cool_down`.

        Any caller can trigger this with a token, so the source is read at most once per `cool_down` (V13).

        Raises:
            KeysUnavailable: as `current`.
        """
        with self._lock:
            if not -CLOCKS <= now - self._renewed_at < self._freshness.cool_down:
                self._renewed_at = now
                self._refresh(now)
            return self.current(now)

    def _is_fresh(self, now: float) -> bool:
        # Another thread can have read with a clock that is a moment ahead of `now`.
        return self._good is not None and -CLOCKS <= now - self._good_since < self._freshness.max_age

    def _refresh(self, now: float) -> None:
        if -CLOCKS <= now - self._failed_at < self._freshness.retry:
            return
        try:
            read = parse_keys(self._read(), self._algorithms, allow_missing_kid=self._allow_missing_kid)
        except (Unreadable, BadKeySet) as error:
            self._fail(now, str(error))
            return
        except Exception as error:  # noqa: BLE001 - no failure of a source can make a valid token invalid
            self._fail(now, f"{type(error).__name__} while the keys were read")
            return
        # A set without a usable key counts as an empty one: its tokens get 401 (V14). Keeping the previous keys would
        # trust keys that their owner has removed.
        # An unused key is a fault only if there is no other: then no token is valid.
        refused = read.refused if read.keys else read.refused + read.unused
        for kid, reason in refused:
            self._report("key-refused", {"kid": kid, "detail": reason})
        if not read.keys and not refused:
            self._report("key-refused", {"kid": "", "detail": "the key set has no keys: every token is refused"})
        self._good_since = now
        if self._good is None or self._good.keys != read.keys:
            self._good = read

    def _fail(self, now: float, detail: str) -> None:
        self._failed_at = now
        self._report("keys-unreadable", {"detail": detail})
