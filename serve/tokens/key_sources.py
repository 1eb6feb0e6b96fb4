"""Read key documents from `file:`, `s3://`, `ssm:` or `https:` locations.

| location | what is read |
|---|---|
| `file:keys/jwks.json`, `file:keys/` | one file; every `*.pem` and `*.json` of a folder |
| `s3://bucket/jwks.json`, `s3://bucket/keys/` | one object; every object under a prefix |
| `ssm:/larder/keys` | every parameter directly under a path |
| `https://issuer.example.com/.well-known/jwks.json` | what the issuer publishes |

A document is JWKS or PEM; the kid of a PEM is its file name without `.pem`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, unquote_plus, urlsplit

from serve.tokens.jwks import KeyDocument
from serve.tokens.key_cache import Unreadable
from wire.client import Client, Limits
from wire.credentials import find_source
from wire.deadline import time_limit
from wire.endpoint import object_path, parse_endpoint, resolve
from wire.errors import WireError

LIMITS = Limits(connect=1.0, attempt=1.5, budget=3.0, tries=2, largest=1024 * 1024)
# Seconds for all calls of one read, while a request waits for it: `MAX_DOCUMENTS` objects of S3 take at most 3 s in the
# same region. The rest of the request's time is for the item: the previous keys can still give access to it.
READING_SECONDS = 4.0
MAX_DOCUMENTS = 100
_TOO_MANY = f"more than {MAX_DOCUMENTS} documents: remove those that are not keys, or move the keys to another location"


def open_source(location: str, env: Mapping[str, str]) -> Callable[..., list[KeyDocument]]:
    """Return the function that reads the documents at a location, within `READING_SECONDS` in all.

    A caller that has less time gives it as the only argument.

    Raises:
        ValueError: the scheme or form of the location is not supported.
    """
    read_all = _find_reader(location, env)

    def read(seconds: float = float("inf")) -> list[KeyDocument]:
        with time_limit(min(seconds, READING_SECONDS)):
            return read_all()

    return read


def check_location(location: str) -> None:
    """Check a location before a deploy, without reading it, so that a mistake is not found by the first request.

    Raises:
        ValueError: the scheme or form of the location is not supported, or no request can be sent to it.
    """
    _find_reader(location, {})
    parts = urlsplit(location)
    if parts.scheme != "https":
        if parts.query or parts.fragment:
            raise ValueError(f"the location of keys must have no ? and no #, not {location!r}")
        return
    if not location.isascii() or not location.isprintable() or " " in location or parts.fragment:
        raise ValueError(f"the location of keys must be printable ASCII without blanks and #, not {location!r}")
    try:
        parse_endpoint(f"https://{parts.netloc}")
    except ValueError as error:
        raise ValueError(f"the location of keys {location!r} has no valid host and port: {error}") from error


def _find_reader(location: str, env: Mapping[str, str]) -> Callable[[], list[KeyDocument]]:
    parts = urlsplit(location)
    if "@" in parts.netloc:  # they would not be sent, but logged with the location
        raise ValueError("the location of keys must be without user name and password")
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
    # The client is closed after each read: keys are read minutes apart, when an idle connection would be stale.
    return Client(resolve(service, region, env), find_source(env), LIMITS)


def _read_files(location: str) -> list[KeyDocument]:
    from pathlib import Path  # slow to import, and only laptops have keys in files

    path = Path(location)
    try:
        if not path.is_dir():
            return [KeyDocument(path.name, path.read_bytes())]
        found = sorted(entry for entry in path.iterdir() if entry.suffix in (".pem", ".json"))
        _check_count(f"file:{path}", len(found), "no .pem or .json file in it")
        return [KeyDocument(entry.name, entry.read_bytes()) for entry in found]
    except OSError as error:
        raise Unreadable(f"file:{path}: {error.strerror}") from error


def _read_https(url: str) -> list[KeyDocument]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Some issuers' firewalls reject requests without a user agent; some servers compress unless identity is requested.
    headers = [
        ("accept", "application/jwk-set+json, application/json"),
        ("accept-encoding", "identity"),
        ("user-agent", "larder"),
    ]
    try:
        client = Client(parse_endpoint(f"https://{parts.netloc}"), None, LIMITS)
        try:
            response = client.call("GET", target, headers)
        finally:
            client.close()
    except (WireError, ValueError) as error:  # ValueError: a port of 99999, a host or path that no request can name
        raise Unreadable(f"{url}: {error}") from error
    if response.status != 200:  # a redirect is not followed: the location is configuration, not the server's choice
        raise Unreadable(f"{url}: status {response.status}")
    return [KeyDocument(parts.path, response.body)]


def _read_s3(client: Client, bucket: str, object_key: str) -> list[KeyDocument]:
    place = f"s3://{bucket}/{object_key}"
    try:
        names = [object_key]
        if object_key.endswith("/"):
            names = [name for name in _list_s3(client, bucket, object_key) if not name.endswith("/")]
            _check_count(place, len(names), "no object with this prefix")
        return [KeyDocument(name, client.call("GET", object_path(bucket, name)).body) for name in names]
    except WireError as error:
        raise Unreadable(f"{place}: {error}") from error
    finally:
        client.close()


def _list_s3(client: Client, bucket: str, prefix: str) -> list[str]:
    place = f"s3://{bucket}/{prefix}"
    query = f"encoding-type=url&list-type=2&max-keys={MAX_DOCUMENTS + 1}&prefix={quote(prefix, safe='')}"
    listing = client.call("GET", f"/{bucket}?{query}").body.decode(errors="replace")
    if "<ListBucketResult" not in listing:
        raise Unreadable(f"{place}: the response is not a bucket listing")
    if "<IsTruncated>true</IsTruncated>" in listing:
        raise Unreadable(f"{place}: {_TOO_MANY}")
    return [unquote_plus(name) for name in re.findall(r"<Key>([^<]*)</Key>", listing)]


def _read_ssm(client: Client, path: str) -> list[KeyDocument]:
    documents: list[KeyDocument] = []
    try:
        for page in _list_ssm(client, path):
            documents += page
            if len(documents) > MAX_DOCUMENTS:
                break
    except WireError as error:
        raise Unreadable(f"ssm:{path}: {error}") from error
    finally:
        client.close()
    _check_count(f"ssm:{path}", len(documents), "no parameter under it")
    return documents


def _list_ssm(client: Client, path: str) -> Iterator[list[KeyDocument]]:
    request: dict[str, object] = {"Path": path.rstrip("/") or "/"}
    for _ in range(MAX_DOCUMENTS):  # a page can be empty and have a token for the next one
        answer = client.send("AmazonSSM.GetParametersByPath", json.dumps(request).encode())
        try:
            page = json.loads(answer)
            yield [KeyDocument(one["Name"], one["Value"].encode()) for one in page["Parameters"]]
            token = page.get("NextToken")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Unreadable(f"ssm:{path}: the response has no list of parameters") from error
        if not token:
            return
        request["NextToken"] = token
    raise Unreadable(f"ssm:{path}: the list of parameters has no end")


def _check_count(place: str, count: int, nothing: str) -> None:
    """Check that there are documents, but not too many: one that was left out could be the key in use."""
    if not count:  # an empty location is a mistake, not a key set without keys
        raise Unreadable(f"{place}: {nothing}")
    if count > MAX_DOCUMENTS:
        raise Unreadable(f"{place}: {_TOO_MANY}")
