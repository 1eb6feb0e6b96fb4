"""Readers that are broken on purpose, one rule each: the tests of serve must notice every one of them.

`python -m tests.unit.serve.mutants [NAME ...]` runs, for each mutant, the test files that are about its rule, in a
process of its own, until the first failure. It ends with 1 if a mutant survives.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.faults.mutants import Mutant, plant

HERE = Path(__file__).resolve().parent
ATTACKS, KEYS, ONE_KEY = "test_token_attacks.py", "test_key_sets.py", "test_one_key.py"
STORE, HTTP, ISOLATION, LOG = "test_key_store.py", "test_http_rules.py", "test_isolation.py", "test_request_log.py"
SETTINGS = "test_settings_of_serve.py"
WIRE = tuple(f"../wire/test_{name}.py" for name in ("client", "channel", "addresses", "response_parser", "sigv4"))
_BY_DEFAULT = {"V9 a minute's leeway"}

# What every mutant's child would import anyway, imported once.
_HEAVY = ("pytest", "hypothesis", "jwt.algorithms", "cryptography.hazmat.primitives.serialization")

_AUTH: tuple[tuple[str, str, str], ...] = (
    ("V1 a line feed at the end", r"([A-Za-z0-9_-]+)\Z", "([A-Za-z0-9_-]+)$"),
    ("V1 white space is stripped", "_COMPACT.match(token)", "_COMPACT.match(token.strip())"),
    ("V1 padding is passed over", "_COMPACT.match(token)", "_COMPACT.match(token.replace('=', ''))"),
    ("V1 the empty signature", r"\.([A-Za-z0-9_-]+)\Z", r"\.([A-Za-z0-9_-]*)\Z"),
    ("V3 the header's alg is not compared", 'header.get("alg") != key.algorithm or ', ""),
    ("V3 the policy's list is not asked", " or key.algorithm not in policy.algorithms", ""),
    ("V3 any algorithm a key names", " or key.algorithm not in ALGORITHMS", ""),
    ("V4 no kid, first key", 'only one\n        raise InvalidToken("no-kid")', "only one\n        kid = next(iter(keys), '')"),
    ("V4 the only key fits every kid", "key = keys.get(kid)", "key = keys.get(kid) or (next(iter(keys.values())) if len(keys) == 1 else None)"),
    ("V4 the token brings its key", "key = keys.get(kid)", "key = __import__('serve.tokens.jwks').tokens.jwks.parse_jwk(header['jwk']) if 'n' in (header.get('jwk') or {}) else keys.get(kid)"),
    ("V6 crit is passed over", '"crit" in header or ', ""),
    ("V6 b64 is passed over", ' or "b64" in header', ""),
    ("V7 nested tokens", 'if "cty" in header:', "if False:"),
    ("V7 any typ", 'if "typ" in header and not', "if False and not"),
    ("V7 typ has a case", "kind.lower() in _TYPES", "kind in _TYPES"),
    ("V7 at+jwt is not demanded", "if policy.require_at_jwt and", "if False and"),
    ("V9 exp is not checked", 'claims["exp"] <= now - policy.leeway', "False"),
    ("V9 exp a second late", 'claims["exp"] <= now', 'claims["exp"] < now'),
    ("V9 exp is not required", '("exp", "iat") if policy.require_iat else ("exp",)', '("iat",) if policy.require_iat and claims.setdefault("exp", now + 1) else ()'),
    ("V9 iat is not required", '("exp", "iat") if policy.require_iat else', '("exp",) if policy.require_iat else'),
    ("V9 iat is always required", '("exp", "iat") if policy.require_iat else ("exp",)', '("exp", "iat")'),
    ("V9 nbf is not checked", 'claims.get("nbf", 0) > now + policy.leeway', "False"),
    ("V9 iat may lie ahead", 'claims.get("iat", 0) > now + policy.leeway', "False"),
    ("V9 true is a time", "type(claims[name]) not in (int, float)", "not isinstance(claims[name], (int, float))"),
    ("V9 a text is a time", "type(claims[name]) not in (int, float)", "not float(claims.update({name: float(claims[name])}) or 1)"),
    ("V9 a minute's leeway", "leeway: float = 10", "leeway: float = 60"),
    ("V9 no leeway", "now - policy.leeway", "now"),
    ("V10 any issuer", ' or claims.get("iss") != issuer', ""),
    ("V10 an issuer that begins so", 'claims.get("iss") != issuer', "not str(claims.get('iss')).startswith(issuer)"),
    ("V10 any audience", "if not any(one in values for one in accepted)", "if False"),
    ("V10 an audience that holds ours", "one in values for one in accepted", "one in str(values) for one in accepted"),
    ("V10 an audience of any type", "not isinstance(values, list) or not all(isinstance(one, str) for one in values)", "values is None"),
    ("V11 sub of any type", '("sub", "jti", "client_id")', "()"),
    ("V12 tokens of any length", "MAX_TOKEN_BYTES = 8 * 1024", "MAX_TOKEN_BYTES = 8 * 1024 * 1024"),
    ("the signature is not checked", "if not is_signed(", "if False and not is_signed("),
)  # fmt: skip
_STRICT: tuple[tuple[str, str, str], ...] = (
    ("V2 spare bits", "rest == 1 or (rest and", "rest == 1 or (False and"),
    ("V8 members named twice", "if len(value) != len(members):", "if False:"),
    ("V8 NaN and Infinity", 'raise ValueError(f"{text} is not JSON")', "return 0"),
    ("V8 1e999", 'if value in (float("inf"), float("-inf")):', "if False:"),
    ("V8 deep nesting", "MAX_DEPTH = 16", "MAX_DEPTH = 500"),
    ("V8 lone surrogates", 'if "\\\\u" in text:', "if False:"),
    ("V8 no UTF-8", "data.decode()", "data.decode('utf-8', 'replace')"),
    ("V8 UTF-16", "data.decode()", "data.decode(json.detect_encoding(data))"),
    ("V8 a byte order mark", "data.decode()", "data.decode('utf-8-sig')"),
)
_KEY_SET: tuple[tuple[str, str, str], ...] = (
    ("V5 use enc", 'if "use" in jwk and jwk["use"] != "sig":', "if False:"),
    ("V5 key_ops without verify", 'if "key_ops" in jwk:', "if False:"),
    ("V5 private and symmetric keys", 'if jwk.get("kty") == "oct" or any(member in jwk for member in _PRIVATE):', "if False:"),
    ("a symmetric key without k is only unused", 'jwk.get("kty") == "oct" or ', ""),
    ("a key for encryption is a failure", "raise (BadKey if not isinstance(use, str) or", "raise (BadKey if True or"),
    ("an unknown kty is a failure", 'raise UnusedKey("kty', 'raise BadKey("kty'),
    ("a key for an algorithm of others is a failure", 'raise UnusedKey("its', 'raise BadKey("its'),
    ("V5 twins: the last one wins", "if times[kid] > 1:", "if False:"),
    ("V5 a bad key disables the rest", "refused.append(", "raise BadKeySet("),
    ("V5 alg of a key is not asked", 'jwk.get("alg"), algorithms)', "None, algorithms)"),
    ("V5 short coordinates", "if size is not None and len(octets) != size:", "if False:"),
    ("V5 one JWK with a member twice spoils all", "mark_ambiguous=True", "mark_ambiguous=False"),
    ("V14 a set without usable keys is a failure", "    return KeySet(keys, tuple(refused), tuple(unused))", "    if entries and not keys:\n        raise BadKeySet\n    return KeySet(keys, tuple(refused), tuple(unused))"),
)  # fmt: skip
_SIGNING_KEY: tuple[tuple[str, str, str], ...] = (
    ("V3 PS256 with any salt", "salt_length=32", "salt_length=PSS.AUTO"),
    ("V3 PS256 taken for RS256", "*_RSA[key.algorithm]", '*_RSA["RS256"]'),
    ("V3 ECDSA in DER", "encode_dss_signature(r, s)", "signature"),
    ("V3 ECDSA halves of any length", "if len(signature) != 2 * size:", "if not signature:"),
    ("V5 a key for another algorithm", "if chosen not in fitting:", "if False:"),
    ("V5 small Ed25519 points", "            check_ed25519(public_key.public_bytes_raw())\n", ""),
)
_WEAK: tuple[tuple[str, str, str], ...] = (
    ("V5 RSA of 1024 bits", "MIN_RSA_BITS = 2048", "MIN_RSA_BITS = 1024"),
    ("V5 RSA exponent 3", "MIN_EXPONENT = 65537", "MIN_EXPONENT = 3"),
    ("V5 ROCA", "if is_roca(n):", "if False:"),
    ("V5 Ed25519 off the curve", "if pow(u * v % _P, (_P - 1) // 2, _P) != 1:", "if False:"),
)
_STORES: tuple[tuple[str, str, str, str], ...] = (
    ("V13 no cool-down", "serve.tokens.key_cache", "if not -CLOCKS <= now - self._renewed_at < self._freshness.cool_down:", "if True:"),
    ("V13 unknown kids never read anew", "serve.tokens.key_cache", "if not -CLOCKS <= now - self._renewed_at < self._freshness.cool_down:", "if False:"),
    ("V13 keys for ever", "serve.tokens.key_cache", " or not -CLOCKS <= now - self._good_since < self._freshness.max_age", ""),
    ("V13 the last good set for ever", "serve.tokens.key_cache", " or now - self._good_since >= self._freshness.keep", ""),
    ("V13 the last good set at once forgotten", "serve.tokens.key_cache", "        self._failed_at = now\n", "        self._failed_at = now\n        self._good = None\n"),
    ("V13 a failing source is asked at every request", "serve.tokens.key_cache", "if -CLOCKS <= now - self._failed_at < self._freshness.retry:", "if False:"),
    ("V13 changed keys go unnoticed", "serve.tokens.key_cache", "self._good.keys != read.keys", "self._good.keys.keys() != read.keys.keys()"),
    ("unused keys are reported beside a usable one", "serve.tokens.key_cache", "read.refused if read.keys else read.refused + read.unused", "read.refused + read.unused"),
    ("a set of only unused keys is silent", "serve.tokens.key_cache", "read.refused if read.keys else read.refused + read.unused", "read.refused"),
    ("V13 a cached token outlives its key", "serve.tokens.verifier", " and cached.issuer.keys.current(now) is cached.keys", ""),
    ("V13 a cached token outlives itself", "serve.tokens.verifier", 'min(verified.claims["exp"], now + CACHED_SECONDS)', "now + CACHED_SECONDS"),
    ("V13 a cached token for an hour", "serve.tokens.verifier", "CACHED_SECONDS = 60", "CACHED_SECONDS = 3600"),
    ("V13 a cache without bound", "serve.tokens.verifier", "if len(self._cache) > CACHED_TOKENS:", "if False:"),
    ("V13 a cache by signature", "serve.tokens.verifier", "cached = self._cache.get(token)", "cached = {one.rpartition('.')[2]: two for one, two in self._cache.items()}.get(token.rpartition('.')[2])"),
    ("V10 keys of all issuers", "serve.tokens.verifier", "keys = issuer.keys.current(now)", "keys = {kid: key for one in self._issuers.values() for kid, key in one.keys.current(now).items()}"),
)  # fmt: skip
_HTTP: tuple[tuple[str, str, str, str], ...] = (
    ("V14 a broken verifier is a 500", "serve.handler", "except Exception as error:  # V14", "except ArithmeticError as error:  # V14"),
    ("H1 an error code without credentials", "serve.web.problems", 'if code != "token_required":', "if True:"),
    ("H1 no error code with credentials", "serve.web.problems", 'if code != "token_required":', "if False:"),
    ("H1 no scope is asked for", "serve.access", "scope not in scopes", "False"),
    ("H1 a scope that holds ours", "serve.access", "scope not in scopes", "scope not in ' '.join(scopes)"),
    ("a response outlives its token", "serve.web.respond", "min(item.expires_at, ends)", "item.expires_at"),
    ("a list outlives its token", "serve.web.respond", "min(found.expires_at, ends)", "found.expires_at"),
    ("H1 403 as 401", "serve.web.problems", '"insufficient_scope": ProblemType(403', '"insufficient_scope": ProblemType(401'),
    ("H1 two credentials, the first counts", "serve.handler", "if len(values) > 1 or (values and _ANOTHER.search(values[0])):", "if False:"),
    ("H2 a weak ETag", "serve.web.negotiate", """return f'"{sha256""", """return f'W/"{sha256"""),
    ("H2 one ETag for both codings", "serve.web.respond", "build_etag(body.encode() if isinstance(body, str) else body)", "build_etag(body_text(body).encode())"),
    ("H2 strong comparison", "serve.web.negotiate", "(?:W/)?", ""),
    ("H2 no star", "serve.web.negotiate", """if if_none_match.strip() == "*":""", "if False:"),
    ("H2 only the first of a list", "serve.web.negotiate", "return etag in tags", "return etag in tags[:1]"),
    ("H2 304 without what caches need", "serve.web.respond", "HttpResponse(304, caching)", 'HttpResponse(304, {"ETag": etag})'),
    ("H3 405 without Allow", "serve.web.route", '"method_not_allowed", headers={"Allow": ALLOW}', '"method_not_allowed"'),
    ("H3 an encoded slash parts a path", "serve.web.request", 'unquote(_SLASH.sub("%252F", path))', "unquote(path)"),
    ("H3 a REST API's path is not decoded", "serve.web.request", "_without_stage(_decode(path), context)\n    return HttpRequest(Form.REST", "_without_stage(path, context)\n    return HttpRequest(Form.REST"),
    ("H7 a plus in the next page's query", "serve.web.route", "after={quote(prediction_id)}", "after={prediction_id}"),
    ("H3 a path is decoded twice", "serve.web.request", 'unquote(_SLASH.sub("%252F", path))', 'unquote(unquote(_SLASH.sub("%252F", path)))'),
    ("H2 a coding that is refused", "serve.web.respond", "    if coding is None:", "    if coding is None and isinstance(body, bytes):"),
    ("H3 HEAD with a body", "serve.web.respond", "if is_head:", "if False:"),
    ("H3 OPTIONS 200", "serve.web.respond", "HttpResponse(204,", "HttpResponse(200,"),
    ("H3 who asks comes before what", "serve.handler", "found = route(", "_bearer_token(request, '')\n    found = route("),
    ("H4 errors as plain JSON", "serve.web.respond", "application/problem+json", "application/json"),
    ("H4 no requestId", "serve.web.respond", ', "requestId": request_id', ""),
    ("H4 internals in a 500", "serve.handler", 'respond_problem(Problem("internal_error")', 'respond_problem(Problem("internal_error", repr(error))'),
    ("H5 public", "serve.web.respond", "private, max-age", "public, max-age"),
    ("H5 kept past its life", "serve.web.respond", "min(MAX_AGE, expires_at - now)", "MAX_AGE"),
    ("H5 Vary without Authorization", "serve.web.respond", "Authorization, Accept-Encoding", "Accept-Encoding"),
    ("H5 errors are stored", "serve.web.respond", '"Cache-Control": "no-store", **problem', "**problem"),
    ("H7 limit past 100", "serve.web.route", "MAX_LIMIT = 100", "MAX_LIMIT = 500"),
    ("H7 limit 0", "serve.web.route", "[1-9][0-9]{0,2}", "[0-9]{1,3}"),
    ("H7 any after", "serve.web.route", '"after", PREDICTION_ID', '"after", re.compile("")'),
    ("H7 no next page", "serve.web.respond", "{} if found.next_after is None else", "{} if True else"),
    ("H7 the prefix is lost on the way", "serve.web.route", 'f"&prefix={quote(self.prefix)}" if self.prefix else ""', '""'),
    ("H7 expired items in lists", "serve.web.page", "item.body is None or is_expired(item.expires_at, now)", "item.body is None"),
    ("H7 expired items end a page", "serve.web.page", "for number in range(MAX_QUERIES):", "for number in range(1):"),
    ("H7 a page is bounded in characters", "serve.web.page", "len(entry.json.encode())", "len(entry.json)"),
    ("H7 commas of a page are not counted", "serve.web.page", " + bool(entries)  # and a comma", ""),
    ("H7 a large body is escaped", "serve.web.respond", "if isinstance(body, str) and len(body) > MAX_TEXT:", "if False:"),
    ("H8 any origin", "serve.web.respond", "if origin in origins:", "if origin:"),
    ("H8 on by default", "serve.web.respond", "if not origins:", "origins = origins or (str(origin),)\n    if not origins:"),
    ("H8 hidden headers", "serve.web.respond", "ETag, Link, WWW-Authenticate", "ETag"),
    ("H9 throttled is not found", "serve.handler", 'raise unavailable(f"storage: {error}")', 'raise Problem("not_found")'),
    ("H9 throttled is a fault", "serve.storage", "except (Unavailable, NoCredentials, TooLarge)", "except (ArithmeticError,)"),
    ("H9 no Retry-After", "serve.web.problems", 'headers={"Retry-After": "1"}', "headers={}"),
    ("an item lives a second longer", "serve.item", "return expires_at <= now", "return expires_at < now"),
    ("an expired item is served", "serve.handler", " or is_expired(item.expires_at, now)", ""),
    ("a tombstone is served", "serve.handler", "item.body is None or", ""),
    ("406 is not known", "serve.handler", "    check_acceptable(request)\n", ""),
    ("gzip to who does not take it", "serve.web.respond", 'if coding == "gzip":', 'if coding == "gzip" or isinstance(body, bytes):'),
)  # fmt: skip
_SUBJECTS: tuple[tuple[str, str, str, str], ...] = (
    ("H6 the query names the subject", "serve.handler", "build_partition(trusted.claims, dataset, ", "build_partition({**trusted.claims, **{name: values[0] for name, values in request.query.items()}}, dataset, "),
    ("H6 a header names the subject", "serve.handler", "build_partition(trusted.claims, dataset, ", "build_partition({**trusted.claims, **{name: values[0] for name, values in request.headers.items()}}, dataset, "),
    ("H6 another's item is forbidden", "serve.handler", "    if item is None or", "    if item is None and found.prediction_id in ('theirs', 'only-b6', 'only-aa'):\n        raise Problem('insufficient_scope')\n    if item is None or"),
    ("V11 an empty claim", "serve.item", "0 < len(value) <=", "len(value) <="),
    ("V11 what cannot be seen", "serve.item", " and not _UNPRINTABLE.search(value)", ""),
    ("V11 claims of any length", "serve.item", "MAX_CLAIM_CHARACTERS = 256", "MAX_CLAIM_CHARACTERS = 100_000"),
    ("V11 claims of any type", "serve.access", "value = get_claim(claims, claim)\n        if policy", "value = str(get_claim(claims, claim))\n        if policy"),
    ("claims are joined as they are", "serve.item", 'quote(value, safe="")', "value"),
    ("the log shows the token", "serve.handler", 'seen["kid"] = trusted.kid', 'seen["kid"] = token'),
    ("the log shows the subject", "serve.handler", "hash_subject(partition)", "partition"),
    ("the log shows the path", "serve.handler", 'seen["dataset"] = dataset.name', 'seen["dataset"] = request.path'),
)  # fmt: skip

_PROVIDERS: tuple[tuple[str, str, str, str], ...] = (
    ("any tenant", "serve.tokens.jwt", "tenant in policy.tenants or ANY_TENANT in policy.tenants", "True"),
    ("a tenant's key for all", "serve.tokens.jwt", "    _check_key_issuer(keys[signed.kid], claims, policy)\n", ""),
    ("required claims are not asked", "serve.tokens.jwt", "in policy.require_claims:", "in ():"),
    ("true is 1", "serve.tokens.jwt", "type(one) is type(other) and ", ""),
    ("no kid, any key", "serve.tokens.jwt", "    if len(found) != 1:", "    if not found:"),
    ("x5t is not asked", "serve.tokens.jwt", 'if "x5t" in header:', "if False:"),
    ("client_id of any token", "serve.tokens.jwt", "get_claim(claims, policy.audience_claim)", "claims.get('aud') or get_claim(claims, policy.audience_claim)"),
    ("an issuer for every dataset", "serve.access", "policy.datasets is not None and", "False and"),
    ("the first of a list", "serve.access", "isinstance(value, list) and len(value) == 1", "isinstance(value, list) and value"),
    ("true is a subject", "serve.access", "type(value) is int and", "isinstance(value, int) and"),
    ("digits that an issuer has lost", "serve.access", " and abs(value) <= MAX_INTEGER", ""),
    ("words are parted by blanks", "serve.access", "value.split(policy.scope_separator)", "value.split(' ')"),
)  # fmt: skip

_STORAGE: tuple[tuple[str, str, str, str], ...] = (
    ("H9 a dead connection is a fault", "wire.client", "if tries >= self.limits.tries or", "if idle or tries >= self.limits.tries or"),
    ("H9 a connection of yesterday is used", "wire.client", "0 <= self._clock() - since < self.limits.idle", "True"),
    ("H9 nothing is tried again", "wire.client", "if tries >= self.limits.tries or", "if tries or"),
    ("H9 waits as long as it takes", "wire.client", "min(self.limits.attempt, ends - time.monotonic())", "2.0"),
)  # fmt: skip

_WIRE: tuple[tuple[str, str, str, str], ...] = (
    ("H9 what comes unasked is an answer", "wire.client", " and channel.is_quiet()", ""),
    ("H9 a drop costs a try", "wire.client", "if idle and isinstance(error, Dropped):", "if False:"),
    ("a connection that ends is kept", "wire.response_parser", "head.keeps_open and not self._data", "not self._data"),
    ("what follows an answer is kept", "wire.response_parser", "head.keeps_open and not self._data", "head.keeps_open"),
    ("an interim answer is the answer", "wire.response_parser", "while head.status < 200:", "while False:"),
    ("a resolver takes as long as it likes", "wire.addresses", "busy.acquire(timeout=timeout)", "busy.acquire()"),
    ("the first address is the only one", "wire.channel", "in enumerate(addresses):", "in enumerate(addresses[:1]):"),
    ("connections begin at the first address", "wire.addresses", "start = int(share * len(first))", "start = 0"),
    ("an early answer is lost", "wire.channel", "if not self._has_received(parser):", "if True:"),
    ("any host's certificate", "wire.channel", "server_hostname=endpoint.host)", "server_hostname='example.com')"),
    ("nobody is checked", "wire.channel", "ssl.create_default_context(cafile=ca_bundle)", "ssl._create_unverified_context(cafile=ca_bundle)"),
    ("two lengths", "wire.head", "if lengths or not _LENGTH", "if not _LENGTH"),
    ("chunks and a length", "wire.head", 'codings != {"chunked"} or lengths', 'codings != {"chunked"}'),
    ("a bare line feed ends a header", "wire.head", 'data.count(b"\\n") != len(lines) - 1 or ', ""),
    ("the secret's first key for ever", "wire.sigv4", "kept[:2] == (day, secret)", "kept[2]"),
    ("the session's token unsigned", "wire.sigv4", "if keys.token:", "if False:"),
)  # fmt: skip

# Found by bugs that were put in by hand and went unnoticed: each with the files that are about its kind.
_DATASETS, _TOKENS, _EVENTS = ("test_two_datasets.py",), ("test_token_cache.py",), ("test_golden_events.py",)
_BOUNDS, _READING, _HEADS = ("test_bounds.py",), ("test_key_reading.py",), ("../wire/test_head.py",)
_SENT, _REUSED, _SLOW = ("../wire/test_request.py",), ("../wire/test_client.py",), ("test_faulty_storage.py",)
_POOL, _STORED = ("../wire/test_transport.py",), ("test_item.py",)
_KINDS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("a subject without its blanks", "serve.access", "subject.append(value)", "subject.append(value.strip())", _DATASETS),
    ("a subject without its case", "serve.access", "subject.append(value)", "subject.append(value.casefold())", _DATASETS),
    ("a subject in its normal form", "serve.access", "subject.append(value)", "subject.append(__import__('unicodedata').normalize('NFC', value))", _DATASETS),
    ("a subject decoded", "serve.access", "subject.append(value)", "subject.append(__import__('urllib.parse').parse.unquote(value))", _DATASETS),
    ("a subject's claims sorted", "serve.access", "return tuple(subject)", "return tuple(sorted(subject))", _DATASETS),
    ("a subject of the first claim", "serve.access", "in dataset.subject:", "in dataset.subject[:1]:", _DATASETS),
    ("a key without its dataset", "serve.item", '"#".join([dataset, ', '"#".join(["flight-delays", ', _DATASETS),
    ("a dataset of a name that begins so", "serve.web.route", "served[name], prediction_id", "next(one for one in served.values() if one.name.startswith(name)), prediction_id", _DATASETS),
    ("any dataset's scope", "serve.access", "scope is not None and scope not in scopes", "scope is not None and not any(one.endswith(':read') for one in scopes)", _DATASETS),
    ("a tag that begins so", "serve.web.negotiate", "return etag in tags", "return any(tag and etag.startswith(tag[:-1]) for tag in tags)", (HTTP,)),
    ("a tag without its case", "serve.web.negotiate", "return etag in tags", "return etag.lower() in [str(tag).lower() for tag in tags]", (HTTP,)),
    ("a star among tags", "serve.web.negotiate", 'if if_none_match.strip() == "*":', 'if "*" in if_none_match:', (HTTP,)),
    ("304 with a coding", "serve.web.respond", "HttpResponse(304, caching)", "HttpResponse(304, caching | headers)", (HTTP,)),
    ("304 with a type", "serve.web.respond", "HttpResponse(304, caching)", 'HttpResponse(304, {"Content-Type": JSON, **caching})', (HTTP,)),
    ("any request id", "serve.web.request", 'return value if isinstance(value, str) and _NAME.match(value) else ""', "return str(value)", _EVENTS),
    ("a request id that begins well", "serve.web.request", r"{1,128}\Z", "{1,128}", _EVENTS),
    ("a request id of any length", "serve.web.request", r"{1,128}\Z", r"+\Z", _EVENTS),
    ("the whole trace header", "serve.web.request", "trace[0] if trace", "headers['x-amzn-trace-id'][-1] if trace", _EVENTS),
    ("the first trace header", "serve.web.request", '[""])[-1]', '[""])[0]', _EVENTS),
    ("an empty list is a header", "serve.web.request", " and values != []", "", _EVENTS),
    ("a malformed event is a REST API's", "serve.web.request", 'or "elb" not in context:', "or True:", _EVENTS),
    ("cached by payload", "serve.tokens.verifier", "cached = self._cache.get(token)", "cached = next((two for one, two in self._cache.items() if one.split('.')[1:2] == token.split('.')[1:2]), None)", _TOKENS),
    ("cached by the beginning", "serve.tokens.verifier", "cached = self._cache.get(token)", "cached = next((two for one, two in self._cache.items() if one[:-2] == token[:-2]), None)", _TOKENS),
    ("cached without case", "serve.tokens.verifier", "cached = self._cache.get(token)", "cached = next((two for one, two in self._cache.items() if one.lower() == token.lower()), None)", _TOKENS),
    ("no one more than the limit", "serve.web.page", "page.limit + 1 if", "page.limit if", _BOUNDS),
    ("two more than the limit", "serve.web.page", "page.limit + 1 if", "page.limit + 2 if", _BOUNDS),
    ("a page of one more", "serve.web.page", "len(entries) == page.limit", "len(entries) > page.limit", _BOUNDS),
    ("the first page of SSM", "serve.tokens.key_sources", "        if not token:", "        if True:", _READING),
    ("the same page of SSM", "serve.tokens.key_sources", 'request["NextToken"] = token', 'request["NextToken"] = request.get("NextToken", token)', _READING),
    ("the last page of SSM", "serve.tokens.key_sources", "documents += page", "documents = page", _READING),
    ("names of objects as listed", "serve.tokens.key_sources", "unquote_plus(name) for", "name for", _READING),
    ("folders are objects", "serve.tokens.key_sources", ' if not name.endswith("/")]', "]", _READING),
    ("a reading without a limit", "serve.tokens.key_sources", "with time_limit(READING_SECONDS):", "with time_limit(9):", _SLOW),
    ("a request without a limit", "serve.handler", "with time_limit(_seconds_left(context)):", "with time_limit(1e6):", _SLOW),
    ("an invocation's end is not asked", "serve.handler", "if remaining is None else min(REQUEST_SECONDS, remaining() / 1000 - MARGIN_SECONDS)", "", _SLOW),
    ("a call past the limit is sent", "wire.client", "        if begins >= ends:\n", "        if False:\n", ("../wire/test_deadline.py",)),
    ("an inner limit prolongs", "wire.deadline", "min(_ends.get(), time.monotonic() + self._seconds)", "time.monotonic() + self._seconds", ("../wire/test_deadline.py",)),
    ("a limit outlives its block", "wire.deadline", "_ends.reset(self._token)", "pass", ("../wire/test_deadline.py",)),
    ("a large body for any door", "serve.web.respond", "limit in (6_000_000, 1_000_000)", "limit in (6_000_000, 6_000_000)", (HTTP,)),
    ("a large body without a link", "serve.web.respond", '"body-too-large", headers=link)', '"body-too-large")', (HTTP,)),
    ("a large body ends a list", "serve.web.page", "headers=link) from None", ") from None", (HTTP,)),
    ("binary as text", "serve.item", 'attributes[BODY] = {"B":', 'attributes[BODY] = {"S":', _STORED),
    ("chunks after a coding", "wire.head", 'codings != {"chunked"} or', 'not any("chunked" in one for one in codings) or', _HEADS),
    ("codings are ignored", "wire.head", 'codings != {"chunked"} or', "", _HEADS),
    ("a later version", "wire.head", "1\\.([01]) (", "1\\.([0-9]) (", _HEADS),
    ("HTTP/1.0 stays open", "wire.head", 'begin[1] == "1" and ', "", _HEADS),
    ("Connection has a case", "wire.head", "known.add(field[2].lower())", "known.add(field[2])", _HEADS),
    ("names of headers have a case", "wire.head", "framing.get(field[1].lower())", "framing.get(field[1])", _HEADS),
    ("Connection has one word", "wire.head", 'token.strip() for value in framing["connection"] for token in value.split(",")', 'value for value in framing["connection"]', _HEADS),
    ("a body after HEAD", "wire.head", 'method == "HEAD" or ', "", _HEADS),
    ("a body after 204", "wire.head", "(204, 304)", "(304,)", _HEADS),
    ("a body after 304", "wire.head", "(204, 304)", "(204,)", _HEADS),
    ("no body after 205", "wire.head", "(204, 304)", "(204, 205, 304)", _HEADS),
    ("a host without its port", "wire.endpoint", 'else f"{host}:{self.port}"', "else host", _SENT),
    ("a host with every port", "wire.endpoint", "return host if self.port == (443 if self.tls else 80) else ", "return ", _SENT),
    ("a host's default port of the other scheme", "wire.endpoint", "self.port == (443 if self.tls else 80)", "self.port in (80, 443)", _SENT),
    ("a pool of one is never used", "wire.client", "while self._idle:\n            channel, since", "while len(self._idle) > 1:\n            channel, since", _REUSED),
    ("a pool of one is not closed", "wire.client", "while self._idle:\n            self._idle.pop()[0]", "while len(self._idle) > 1:\n            self._idle.pop()[0]", _REUSED),
    ("a clock that went back is trusted", "wire.client", "0 <= self._clock() - since <", "self._clock() - since <", _REUSED),
    ("a clock that went back is trusted by a pool", "wire.transport", "(0 <= idle < _IDLE and", "(idle < _IDLE and", _POOL),
    ("a pause without a cap", "wire.client", "self.limits.cap", "1e9", _REUSED),
    ("the time to connect is the time to answer", "wire.transport", "        slot.expires = self._clock() + self.timeout\n", "", _POOL),
)  # fmt: skip


def list_mutants() -> Iterator[tuple[Mutant, tuple[str, ...]]]:
    """List every mutant with the test files that are about its rule."""
    for rows, module, tests in (
        (_AUTH, "serve.tokens.jwt", (ATTACKS, ONE_KEY)),
        (_STRICT, "serve.tokens.strict", (ATTACKS,)),
        (_KEY_SET, "serve.tokens.jwks", (KEYS, ONE_KEY)),
        (_SIGNING_KEY, "serve.tokens.signing_key", (ATTACKS, KEYS)),
        (_WEAK, "serve.tokens.weak_keys", (KEYS,)),
    ):
        for name, right, wrong in rows:
            yield Mutant(name, module, right, wrong), (SETTINGS,) if name in _BY_DEFAULT else tests
    for rows_with_modules, files in (
        (_STORES, (STORE,)),
        (_HTTP, (HTTP, ATTACKS)),
        (_SUBJECTS, (ISOLATION, LOG)),
        (_PROVIDERS, ("test_providers.py",)),
        (_STORAGE, ("test_faulty_storage.py",)),
        (_WIRE, WIRE),
    ):
        for name, module, right, wrong in rows_with_modules:
            yield Mutant(name, module, right, wrong), files
    for name, module, right, wrong, files in _KINDS:
        yield Mutant(name, module, right, wrong), files


def main() -> None:
    """Run the mutants that are named, or all, and print what became of each."""
    for name in _HEAVY:
        importlib.import_module(name)
    chosen = [(mutant, tests) for mutant, tests in list_mutants() if not sys.argv[1:] or mutant.name in sys.argv[1:]]
    missed, waiting, running = [], list(reversed(chosen)), dict[int, str]()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            mutant, tests = waiting.pop()
            running[_start(mutant, tests)] = mutant.name
        child, status = os.wait()
        name = running.pop(child)
        outcome = {0: "SURVIVED", 1: "noticed"}.get(os.waitstatus_to_exitcode(status), f"BROKEN {status}")
        print(f"{outcome:12}{name}", flush=True)
        if outcome != "noticed":
            missed.append(name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} were noticed")
    sys.exit(1 if missed or not chosen else 0)


def _start(mutant: Mutant, tests: tuple[str, ...]) -> int:
    """Start the child that runs the tests over the mutant; it ends with what pytest ends with."""
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        sink = os.open(os.devnull, os.O_WRONLY) if not os.environ.get("LARDER_MUTANT_OUTPUT") else 1
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        plant(mutant.module, mutant.apply)
        pytest = importlib.import_module("pytest")
        files = [str(HERE / name) for name in tests]
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *files]))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
