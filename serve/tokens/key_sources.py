"""Read key documents from `file:`, `s3://`, `ssm:` or `https:` locations.

| location | what is read |
|---|---|
| `file:keys/jwks.json`, `file:keys/` | one file; every `*.pem` and `*.json` of a folder |
| `s3://bucket/jwks.json`, `s3://bucket/keys/` | one object; every object under a prefix |
| `ssm:/larder/keys` | every parameter directly under a path |
| `https://issuer.example.com/.well-known/jwks.json` | what the issuer publishes |

A document is JWKS or PEM; the kid of a PEM is its file name without `.pem`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote_plus, urlsplit

from serve.tokens.jwks import KeyDocument
from serve.tokens.key_cache import Unreadable
from wire.client import Client, Limits
from wire.credentials import find_source
from wire.deadline import time_limit
from wire.endpoint import object_path, parse_endpoint, resolve
from wire.errors import WireError

LIMITS = Limits(connect=1.0, attempt=1.5, budget=3.0, tries=2, largest=1024 * 1024)
# Seconds for all calls of one reading, while a request waits for it: `MAX_DOCUMENTS` objects of S3 take 3 s at most in
# the same region. The rest of the request's time is for the item, which the last good keys can still give access to.
READING_SECONDS = 4.0
MAX_DOCUMENTS = 100


def open_source(location: str, env: Mapping[str, str]) -> Callable[[], list[KeyDocument]]:
    """Return the function that reads the documents at a location, within `READING_SECONDS` in all.

    Raises:
        ValueError: the location has another scheme or form.
    """
    read_all = _find_reader(location, env)

    def read() -> list[KeyDocument]:
        with time_limit(READING_SECONDS):
            return read_all()

    return read


def _find_reader(location: str, env: Mapping[str, str]) -> Callable[[], list[KeyDocument]]:
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return lambda: _read_files(parts.path)
    if parts.scheme == "https" and parts.hostname:
        return lambda: _read_https(location)
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    if parts.scheme == "s3" and parts.netloc and parts.path.strip("/"):
        return lambda: _read_s3(_client("s3", region, env), parts.netloc, parts.path.removeprefix("/"))
    if parts.scheme == "ssm" and parts.path.startswith("/"):
        return lambda: _read_ssm(_client("ssm", region, env), parts.path)
    raise ValueError(f"the location of keys must be file:, s3://bucket/, ssm:/ or https://, not {location!r}")


def _client(service: str, region: str, env: Mapping[str, str]) -> Client:
    # Keys are read minutes apart; an idle connection would be stale by then.
    return Client(resolve(service, region, env), find_source(env), LIMITS)


def _read_files(location: str) -> list[KeyDocument]:
    from pathlib import Path  # slow to import, and only laptops have keys in files

    path = Path(location)
    try:
        if not location.endswith("/") and not path.is_dir():
            return [KeyDocument(path.name, path.read_bytes())]
        found = sorted(entry for entry in path.iterdir() if entry.suffix in (".pem", ".json"))
        if not found:
            raise Unreadable(f"file:{path}: no .pem or .json file in it")
        return [KeyDocument(entry.name, entry.read_bytes()) for entry in found]
    except OSError as error:
        raise Unreadable(f"file:{path}: {error.strerror}") from error


def _read_https(url: str) -> list[KeyDocument]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    client = Client(parse_endpoint(f"https://{parts.netloc}", "https", ""), None, LIMITS)
    try:
        # Firewalls of issuers reject requests without a user agent.
        headers = [("accept", "application/jwk-set+json, application/json"), ("user-agent", "larder")]
        response = client.call("GET", target, headers)
    except WireError as error:
        raise Unreadable(f"{url}: {error}") from error
    finally:
        client.close()
    if response.status != 200:  # a redirect is not followed: the location is configuration, not the server's choice
        raise Unreadable(f"{url}: status {response.status}")
    return [KeyDocument(parts.path, response.body)]


def _read_s3(client: Client, bucket: str, object_key: str) -> list[KeyDocument]:
    try:
        names = [object_key]
        if object_key.endswith("/"):
            query = f"encoding-type=url&list-type=2&max-keys={MAX_DOCUMENTS}&prefix={quote(object_key, safe='')}"
            found = re.findall(r"<Key>([^<]*)</Key>", client.call("GET", f"/{bucket}?{query}").body.decode())
            names = [name for name in map(unquote_plus, found) if not name.endswith("/")]
        if not names:
            raise Unreadable(f"s3://{bucket}/{object_key}: no object with this prefix")
        return [KeyDocument(name, client.call("GET", object_path(bucket, name)).body) for name in names]
    except WireError as error:
        raise Unreadable(f"s3://{bucket}/{object_key}: {error}") from error
    finally:
        client.close()


def _read_ssm(client: Client, path: str) -> list[KeyDocument]:
    documents: list[KeyDocument] = []
    request: dict[str, object] = {"Path": path.rstrip("/") or "/"}
    try:
        while len(documents) < MAX_DOCUMENTS:
            answer = json.loads(client.send("AmazonSSM.GetParametersByPath", json.dumps(request).encode()))
            documents += [KeyDocument(one["Name"], one["Value"].encode()) for one in answer["Parameters"]]
            if not answer.get("NextToken"):
                break
            request["NextToken"] = answer["NextToken"]
    except WireError as error:
        raise Unreadable(f"ssm:{path}: {error}") from error
    finally:
        client.close()
    if not documents:  # an empty path is a mistake, not a key set without keys
        raise Unreadable(f"ssm:{path}: no parameter under it")
    return documents
