"""Key cache of one issuer, with refresh, cool-down and stale-on-error.

The sources are in `key_sources`: functions that read documents or raise `Unreadable`.
"""

import time
from _thread import RLock  # `threading` takes 0.7 ms more to import
from collections.abc import Callable, Mapping
from typing import NamedTuple

from serve.tokens.jwks import BadKeySet, KeyDocument, parse_keys
from serve.tokens.signing_key import DEFAULT_ALGORITHMS, SigningKey


class Unreadable(Exception):
    """The source of the keys did not respond, or has no keys."""


class KeysUnavailable(Exception):
    """There is no usable key set, so no token can be verified."""


class Freshness(NamedTuple):
    """How long keys are used, in seconds.

    A key that was removed from the source is trusted for at most `max_age` while the source responds, and for at most
    `keep` while it does not. `cool_down` is the time between reads for unknown kids, and after a failure while there
    are keys to use; `retry` is the time after a failure if a request needs other keys.
    """

    max_age: float = 300
    cool_down: float = 30
    retry: float = 5
    keep: float = 3600


FRESHNESS = Freshness()
CLOCKS = 10.0  # seconds that the `now` of one thread can be behind that of another
# Seconds that a request waits for the source while there are keys to use; if the last read took more than half of it,
# twice as long as that. It counts too if it ran into this limit: a source that has become slow is soon given enough, so
# that a removed key is not trusted until `keep`. One that hangs delays one request in `cool_down`, at last by its own
# limit.
REFRESH_SECONDS = 1.0


class _Good(NamedTuple):
    """Keys that were read, and when. One object, so that a thread that reads it needs no lock."""

    keys: Mapping[str, SigningKey]
    since: float


class KeyStore:
    """The keys of one issuer, for the algorithms of its policy. Threads can share it.

    `read(seconds)` reads the documents, within its own limit if that is shorter. `report(event, details)` is called for
    every refused key and failed read.

    One thread reads. Meanwhile the others use the previous keys. They wait only for the first keys, unless reading them
    has just failed, and for a token with an unknown kid: its key can be among those that are being read.
    """

    def __init__(
        self,
        read: Callable[[float], list[KeyDocument]],
        report: Callable[[str, Mapping[str, object]], None],
        freshness: Freshness = FRESHNESS,
        *,
        algorithms: frozenset[str] = DEFAULT_ALGORITHMS,
        allow_missing_kid: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._report = report
        self._freshness = freshness
        self._algorithms = algorithms
        self._allow_missing_kid = allow_missing_kid
        self._clock = clock
        self._lock = RLock()
        self._good: _Good | None = None
        self._took = 0.0  # seconds of the last read that succeeded, or of a refresh since then, if that took longer
        self._failed_at = self._renewed_at = float("-inf")

    def current(self, now: float) -> Mapping[str, SigningKey]:
        """Return the current keys; read them if they are older than `max_age`.

        The mapping is a new object if the keys have changed, otherwise the same one.

        Raises:
            KeysUnavailable: they cannot be read, and the last usable set is too old or missing.
        """
        fresh = self._find_fresh(now)
        if fresh is not None:
            return fresh.keys
        usable = self._find_usable(now)
        if self._lock.acquire(blocking=usable is None and not self._has_failed(now, self._freshness.cool_down)):
            try:
                if self._find_fresh(now) is None:  # else another thread has read them meanwhile
                    self._refresh(now, is_needed=usable is None)
                usable = self._find_usable(now)
            finally:
                self._lock.release()
        if usable is None:
            raise KeysUnavailable
        return usable.keys

    def is_ready(self, now: float) -> bool:
        """Return whether `current` returns keys without waiting."""
        return self._find_fresh(now) is not None

    def renewed(self, now: float) -> Mapping[str, SigningKey]:
        """Return the keys for a token with an unknown kid; read them again unless that was done within `cool_down`.

        Any caller can trigger this with a token, so the source is read at most once per `cool_down` (V13).

        Raises:
            KeysUnavailable: as `current`.
        """
        with self._lock:
            if not -CLOCKS <= now - self._renewed_at < self._freshness.cool_down:
                self._renewed_at = now
                self._refresh(now, is_needed=True)
            return self.current(now)

    def _find_fresh(self, now: float) -> _Good | None:
        good = self._good
        # Another thread can have read with a clock that is a moment ahead of `now`.
        return good if good is not None and -CLOCKS <= now - good.since < self._freshness.max_age else None

    def _find_usable(self, now: float) -> _Good | None:
        good = self._good
        return good if good is not None and now - good.since < self._freshness.keep else None

    def _has_failed(self, now: float, seconds: float) -> bool:
        return -CLOCKS <= now - self._failed_at < seconds

    def _refresh(self, now: float, *, is_needed: bool) -> None:
        """Read the keys, unless that failed a moment ago; `is_needed`: the request is refused without other keys."""
        if self._has_failed(now, self._freshness.retry if is_needed else self._freshness.cool_down):
            return
        begins = self._clock()
        try:
            documents = self._read(float("inf") if is_needed else max(REFRESH_SECONDS, 2 * self._took))
            took = self._clock() - begins
            read = parse_keys(documents, self._algorithms, allow_missing_kid=self._allow_missing_kid)
        except (Unreadable, BadKeySet) as error:
            if not is_needed:
                self._took = max(self._took, self._clock() - begins)
            self._fail(now + self._clock() - begins, str(error))
            return
        except Exception as error:  # noqa: BLE001 - no failure of a source can make a valid token invalid
            self._fail(now + self._clock() - begins, f"{type(error).__name__} while the keys were read")
            return
        # A set without a usable key counts as an empty one: its tokens get 401 (V14). Keeping the previous keys would
        # trust keys that their owner has removed.
        # An unused key is a fault only if there is no other: then no token is valid.
        refused = read.refused if read.keys else read.refused + read.unused
        for kid, reason in refused:
            self._report("key-refused", {"kid": kid, "detail": reason})
        if not read.keys and not refused:
            self._report("key-refused", {"kid": "", "detail": "the key set has no keys: every token is refused"})
        self._took = took
        had = self._good
        self._good = had._replace(since=now) if had is not None and had.keys == read.keys else _Good(read.keys, now)

    def _fail(self, at: float, detail: str) -> None:
        self._failed_at = at
        self._report("keys-unreadable", {"detail": detail})
