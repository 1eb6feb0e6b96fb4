"""Find AWS credentials: in the environment, otherwise through boto3's provider chain."""

from collections.abc import Callable, Mapping
from functools import cache

from wire.errors import NoCredentials
from wire.sigv4 import Credentials


def find_source(env: Mapping[str, str]) -> Callable[[], Credentials]:
    """Return a function that returns the current credentials.

    In Lambda they are environment variables and constant. Elsewhere boto3's chain (profile, web identity, container,
    instance) fetches them and refreshes them before they expire. The bundle of serve has no boto3.
    """
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        keys = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN") or None)
        return lambda: keys
    open_once = cache(_open_chain)

    def fetch() -> Credentials:
        return open_once()()

    return fetch


def _open_chain() -> Callable[[], Credentials]:
    """Open the chain.

    Its providers raise what they meet: botocore's errors, STS's answer (`ClientError`), a token's file that is missing
    (`OSError`), keys that are expired when they come (`RuntimeError`).
    """
    try:
        from boto3 import Session
    except ModuleNotFoundError as error:
        raise NoCredentials("no AWS credentials in the environment, and no boto3 to look elsewhere") from error
    try:
        chain = Session().get_credentials()
    except Exception as error:
        raise NoCredentials(f"no AWS credentials: {error}") from error
    if chain is None:
        raise NoCredentials("no AWS credentials in the environment, in a profile or from this machine's role")

    def fetch() -> Credentials:
        try:
            found = chain.get_frozen_credentials()
        except Exception as error:
            raise NoCredentials(f"no AWS credentials: {error}") from error
        if not found.access_key or not found.secret_key:
            raise NoCredentials("no AWS credentials: the access key or secret key that was found is empty")
        return Credentials(found.access_key, found.secret_key, found.token)

    return fetch
