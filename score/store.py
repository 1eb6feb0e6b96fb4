"""The models of a bucket: the versions that serve, loaded and proved. An alias is read again after 30 seconds.

Loaded versions keep serving if S3, an alias or a new version fails; each failure is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, NamedTuple

from score.manifest import Alias, Manifest, ManifestError, parse_alias, parse_manifest, signed_bytes
from score.model import Model
from score.paths import alias_key, manifest_key, model_key
from score.scorer import Scorer, VersionRefused, load_scorer
from serve.tokens.key_cache import CLOCKS
from wire.client import Client, Limits
from wire.deadline import time_limit
from wire.endpoint import object_path
from wire.errors import Refused, WireError

REFRESH_SECONDS = 30.0
ALIAS_SECONDS = 1.0  # that a request waits for the alias while a version serves: S3 that hangs delays it by no more
RETRY_SECONDS = 2.0  # between tries while there is nothing to serve
# Between tries of an alias that was refused: its objects can be restored meanwhile, which does not change the alias.
REFUSED_SECONDS = 300.0  # with a version that serves; else `REFRESH_SECONDS`
# A model of 64 MB takes a second or two from S3 in the same region.
LIMITS = Limits(connect=1.0, attempt=5.0, budget=6.0, tries=3, largest=72 * 1024 * 1024)

Report = Callable[[str, Mapping[str, object]], None]


class ModelUnavailable(Exception):
    """No version of the model is loaded; the message is for the log."""


class Fetched(NamedTuple):
    """An object; `data` is None if it has not changed since the caller read it."""

    data: bytes | None
    etag: str


Fetch = Callable[[str, str | None], Fetched]  # object key, entity tag that the caller has


class Serving(NamedTuple):
    """What serves a model now."""

    alias: Alias
    live: Scorer
    canary: Scorer | None
    shadow: Scorer | None

    @property
    def seconds(self) -> float:
        """CPU time that the slowest of the versions takes for the largest request."""
        return max(each.seconds for each in (self.live, self.canary, self.shadow) if each)

    def find(self, version: str) -> Scorer | None:
        """Return a loaded version."""
        loaded = [each for each in (self.live, self.canary, self.shadow) if each and each.version == version]
        return loaded[0] if loaded else None


class _State:
    """The state of one model."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.serving: Serving | None = None
        self.etag: str | None = None  # of the last alias that was processed or refused
        self.refused: dict[str, object] | None = None  # why that alias was refused
        self.refused_at = float("-inf")
        self.checked_at = float("-inf")
        self.why = ""

    def is_due(self, now: float) -> bool:
        """Return whether the alias is to be read."""
        return not _is_recent(self.checked_at, now, REFRESH_SECONDS if self.serving else RETRY_SECONDS)


class ModelStore:
    """The models of a deployment. Threads can share it: one of them refreshes, the others use what is loaded."""

    def __init__(
        self,
        fetch: Fetch,
        models: Mapping[str, Model],
        report: Report,
        verify: Callable[[Manifest], None] | None = None,
    ) -> None:
        """Open the store.

        Args:
            fetch: reads an object; raises `WireError`.
            models: definitions by name.
            report: takes an event and its details.
            verify: checks the signature of a manifest and raises `VersionRefused`; None: signatures are not checked.
        """
        self._fetch = fetch
        self._models = models
        self._report = report
        self._verify = verify
        self._states = {name: _State() for name in models}

    def current(self, name: str, now: float) -> Serving:
        """Return the versions that serve a model; the alias is read again if it was read 30 seconds ago or earlier.

        Raises:
            ModelUnavailable: no version is loaded.
        """
        state = self._states[name]
        if not state.is_due(now) and (state.serving or state.why):
            return _require(state)
        # Only the first load is waited for: S3 that hangs must not take the threads of the models that are loaded.
        if not state.lock.acquire(blocking=state.serving is None and not state.why):
            return _require(state)
        try:
            if state.is_due(now):  # else another thread has done it in the meantime
                self._refresh(state, self._models[name], now)
        finally:
            state.lock.release()
        return _require(state)

    def find_loaded(self, name: str, now: float) -> Serving | None:
        """Return what `current` returns without waiting; None if it would read the alias again."""
        state = self._states[name]
        return None if state.is_due(now) else state.serving

    def is_serving(self, name: str) -> bool:
        """Return whether a version of a model is loaded; it may not be the one that was promoted last."""
        return self._states[name].serving is not None

    def _refresh(self, state: _State, model: Model, now: float) -> None:
        key = alias_key(model.name)
        pause = REFUSED_SECONDS if state.serving else REFRESH_SECONDS
        if state.refused and not _is_recent(state.refused_at, now, pause):
            state.etag = None  # try its versions again
        try:
            with time_limit(ALIAS_SECONDS if state.serving else LIMITS.budget):
                fetched = self._fetch(key, state.etag)
            if fetched.data is None:
                if state.refused:  # report it again, so that the alarm stays on
                    self._report("model_not_loaded", state.refused)
            else:
                self._read_alias(state, model, key, fetched, now)
        except WireError as error:  # the next refresh tries again
            self._report("model_not_loaded", self._describe(state, model, error))
        state.checked_at = now

    def _read_alias(self, state: _State, model: Model, key: str, fetched: Fetched, now: float) -> None:
        version: dict[str, object] = {}
        try:
            alias = parse_alias(fetched.data or b"", key)
            if alias.model != model.name:
                raise ManifestError(f"{key}: is the alias of {alias.model[:64]!r}; promote again")
            version = {"version": alias.live}
            is_whole = self._load(state, model, alias)
        except WireError:  # the next refresh tries again
            raise
        except Exception as error:  # noqa: BLE001 - no file must stop the last good version
            # The same alias would be refused again: for a while, do not read its versions again.
            state.refused = {**self._describe(state, model, error), **version}
            state.refused_at = now
            state.etag = fetched.etag
            self._report("model_not_loaded", state.refused)
        else:
            state.refused = None
            state.etag = fetched.etag if is_whole else None

    def _load(self, state: _State, model: Model, alias: Alias) -> bool:
        """Load the versions of an alias that are not loaded yet, and use them. The live version must load.

        Return whether canary and shadow are loaded too. If one is not, it gets no share and is tried again.
        """
        had = state.serving

        def load(version: str) -> Scorer:
            return (had and had.find(version)) or self._load_version(model, version)

        live = load(alias.live)
        others: dict[str, Scorer | None] = {"canary": None, "shadow": None}
        is_whole = True
        for role, share in (("canary", alias.canary), ("shadow", alias.shadow)):
            if share:
                try:
                    others[role] = load(share.version)
                except Exception as error:  # noqa: BLE001 - as in `_read_alias`
                    is_whole = False
                    details = self._describe(state, model, error)
                    self._report("model_not_loaded", {**details, "role": role, "version": share.version})
        state.serving = Serving(alias, live, others["canary"], others["shadow"])
        for role, scorer in {"live": live, **others}.items():
            if scorer and (had is None or getattr(had, role) is not scorer):
                self._report("model_loaded", {"model": model.name, "version": scorer.version, "role": role})
        return is_whole

    def _describe(self, state: _State, model: Model, error: Exception) -> dict[str, object]:
        state.why = f"{type(error).__name__}: {error}"
        return {"model": model.name, "reason": type(error).__name__, "error": str(error)[:500]}

    def _load_version(self, model: Model, version: str) -> Scorer:
        key = manifest_key(model.name, version)
        manifest = parse_manifest(self._get(key), key)
        if manifest.version != version:
            raise VersionRefused(f"{key}: is the manifest of version {manifest.version}; publish again")
        if self._verify:
            self._verify(manifest)
        try:
            return load_scorer(self._get(model_key(model.name, version)), manifest, model)
        except VersionRefused as error:
            raise VersionRefused(f"{model_key(model.name, version)}: {error}") from error

    def _get(self, key: str) -> bytes:
        return self._fetch(key, None).data or b""


def _is_recent(then: float, now: float, seconds: float) -> bool:
    """Return whether a time is less than `seconds` ago. One far ahead is not: the clock has gone back."""
    return -CLOCKS <= now - then < seconds


def _require(state: _State) -> Serving:
    if state.serving is None:
        raise ModelUnavailable(state.why)
    return state.serving


def open_fetch(client: Client, bucket: str) -> Fetch:
    """Return a function that reads objects of a bucket."""

    def fetch(key: str, etag: str | None) -> Fetched:
        headers = [("if-none-match", etag)] if etag else []
        try:
            response = client.call("GET", object_path(bucket, key), headers)
        except Refused as error:
            hint = "publish and promote the model" if error.status in (403, 404) else "check the bucket and the role"
            raise Refused(error.status, error.code, f"s3://{bucket}/{key}: {error.message}; {hint}") from error
        if response.status == 304:
            return Fetched(None, etag or "")
        return Fetched(response.body, response.headers.get("etag", ""))

    return fetch


def open_verify(public_key: str) -> Callable[[Manifest], None]:
    """Return a function that checks the signature of a manifest with a publisher's public key.

    Args:
        public_key: SubjectPublicKeyInfo in DER and base64: Ed25519, or P-256 as in KMS (ECDSA_SHA_256).

    Raises:
        ValueError: it is not such a key.
    """
    from base64 import b64decode

    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key: Any = load_der_public_key(b64decode(public_key, validate=True))
    if isinstance(key, Ed25519PublicKey):
        more: tuple[Any, ...] = ()
    elif isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        more = (ECDSA(SHA256()),)
    else:
        raise ValueError("the public key is neither Ed25519 nor P-256")

    def verify(manifest: Manifest) -> None:
        if manifest.signature is None:
            raise VersionRefused(f"the manifest of version {manifest.version} is not signed: publish it with the key")
        try:
            key.verify(b64decode(manifest.signature, validate=True), signed_bytes(manifest), *more)
        except (InvalidSignature, ValueError) as error:
            raise VersionRefused(f"the signature of version {manifest.version} is not the publisher's") from error

    return verify
