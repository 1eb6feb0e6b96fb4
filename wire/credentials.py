"""Where the reading side's credentials come from: the environment, or on a laptop whatever the SDKs know. An edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from wire.errors import NoCredentials
from wire.sigv4 import Credentials


def find_source(env: Mapping[str, str]) -> Callable[[], Credentials]:
    """Return the function that gives the credentials of now.

    Those of a Lambda environment are in its variables and stay the same for its life. Elsewhere it is awscrt's chain
    (profile, web identity, container, instance), which refreshes what it fetched before it expires; the deployed bundle
    does without awscrt.
    """
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        keys = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN") or None)
        return lambda: keys
    open_once = cache(lambda: _open_chain(env))

    def fetch() -> Credentials:
        return open_once()()

    return fetch


def _open_chain(env: Mapping[str, str]) -> Callable[[], Credentials]:
    try:
        from awscrt.exceptions import AwsCrtError

        from wire.signing import CREDENTIALS_TIMEOUT, find_credentials
    except ModuleNotFoundError as error:
        raise NoCredentials("no AWS credentials in the environment, and no awscrt to look elsewhere") from error
    provider = find_credentials(env)

    def fetch() -> Credentials:
        try:
            found = provider.get_credentials().result(CREDENTIALS_TIMEOUT)
        except (AwsCrtError, RuntimeError, TimeoutError) as error:
            raise NoCredentials(f"no AWS credentials: {error}") from error
        return Credentials(found.access_key_id, found.secret_access_key, found.session_token)

    return fetch
