"""The attack set: every token that must be refused, with the reason, and every odd one that must not. Data.

Each case is built from parts that are right except for one thing, and correctly signed wherever an attacker could have
had it signed, so that only the rule it is named after can refuse it. The ideas are those of RFC 7515, 7519, 8725 and
9068, of Wycheproof's JSON Web Signature and Key vectors, and of advisories against JWT libraries.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from serve.item import MAX_CLAIM_CHARACTERS
from serve.tokens.jwt import Policy
from tests.unit.serve.kit import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW,
    POLICY,
    SIGNERS,
    all_jwks,
    b64,
    claims,
    private_key,
    public_jwk,
    sign,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384_ORDER = int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
# Values of a subject claim: those that name no partition, and those that name one of their own.
HOSTILE_SUBJECTS: tuple[Any, ...] = (
    *(None, "", 1, 0, True, 1.5, [], ["B6"], {}, {"B6": 1}, "B\n6", "B6\x00", "\x7f", "B6\u202e", "\u200b"),
    *("\ud7ff\ue000", "\u2028", "\u3000", "a\u00a0b", "\U000e0041", "B6\t", "x" * (MAX_CLAIM_CHARACTERS + 1)),
    "\U0001f6eb" * 256,
)
UNUSUAL_SUBJECTS = (
    *("B6", "b6", "x" * MAX_CLAIM_CHARACTERS, "a#b", "a%23b", "É", "a b", "🛫", "../AA", "null", "*", " a "),
    *("\U0001fae9", "\u0378"),
)


class Case(NamedTuple):
    """One token; `reason` is why it is refused, None if it is valid."""

    name: str
    token: Any
    reason: str | None
    policy: Policy = POLICY


@cache
def cases() -> tuple[Case, ...]:
    """Build every case once."""
    found = [
        case
        for build in (_good, _form, _base64, _algorithms, _keys, _headers, _json, _times, _names, _signatures, _length)
        for case in build()
    ]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return tuple(found)


def _parts(token: str) -> tuple[str, str, str]:
    head, body, signature = token.split(".")
    return head, body, signature


def _good() -> Iterator[Case]:
    for algorithm in ALGORITHMS:
        yield Case(f"good {algorithm}", sign(algorithm=algorithm), None)
    for kind in ("at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT", "JWT", "jwt", "Jwt"):
        yield Case(f"good typ {kind}", sign(typ=kind), None)
    yield Case("good without typ", sign(typ=...), None)
    yield Case("good audience list", sign(claims(aud=["other", AUDIENCE])), None)
    yield Case("good fractional times", sign(claims(exp=NOW + 0.5, iat=NOW - 0.5, nbf=NOW - 0.25)), None)
    yield Case("good exponent times", sign(json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1.7e10')), None)
    yield Case("good huge exp", sign(json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1' + "0" * 400)), None)
    yield Case("good unknown header members", sign(foo=[1, {"x": None}], url="x", nonce="y", iss="z"), None)
    yield Case("good white space in JSON", sign(json.dumps(claims(), indent=4)), None)
    yield Case("good unicode claims", sign(claims(name="Zoë 🛫")), None)
    yield Case("good raw unicode", sign(json.dumps(claims(name="Zoë 🛫"), ensure_ascii=False)), None)
    yield Case("good escaped pair", sign(json.dumps(claims(name="x")).replace('"x"', '"\\ud83d\\ude00"')), None)
    yield Case("good brackets in strings", sign(claims(name="[{" * 40 + '"\\')), None)
    yield Case("good sixteen levels", sign(_nested(15)), None)
    yield Case("good many members", sign(claims(groups=[{} for _ in range(60)])), None)
    yield Case("good null of no meaning", sign(json.dumps(claims() | {"nickname": None})), None)


def _form() -> Iterator[Case]:
    head, body, signature = _parts(sign())
    shapes = {
        "empty": "",
        "one part": head,
        "two parts": f"{head}.{body}",
        "four parts": f"{head}.{body}.{signature}.{signature}",
        "five parts": f"{head}.{body}.{signature}.{signature}.{signature}",
        "empty fourth part": f"{head}.{body}.{signature}.",
        "leading dot": f".{head}.{body}.{signature}",
        "no header": f".{body}.{signature}",
        "no payload": f"{head}..{signature}",
        "no signature": f"{head}.{body}.",
        "dots only": "..",
        "dots doubled": f"{head}..{body}..{signature}",
        "quoted": f'"{head}.{body}.{signature}"',
        "scheme twice": f"Bearer {head}.{body}.{signature}",
        "fullwidth dot": f"{head}\uff0e{body}.{signature}",
        "colon for dot": f"{head}:{body}:{signature}",
        "json general": json.dumps({"payload": body, "signatures": [{"protected": head, "signature": signature}]}),
        "json flattened": json.dumps({"payload": body, "protected": head, "signature": signature}),
        "null byte at the end": f"{head}.{body}.{signature}\x00",
        "twice": f"{head}.{body}.{signature},{head}.{body}.{signature}",
    }
    for name, token in shapes.items():
        yield Case(f"form {name}", token, "malformed")
    for name, white in {"space": " ", "tab": "\t", "LF": "\n", "CRLF": "\r\n", "NBSP": "\xa0", "BOM": "\ufeff"}.items():
        yield Case(f"form leading {name}", f"{white}{head}.{body}.{signature}", "malformed")
        yield Case(f"form trailing {name}", f"{head}.{body}.{signature}{white}", "malformed")
        yield Case(f"form {name} before payload", f"{head}.{white}{body}.{signature}", "malformed")
        yield Case(f"form {name} within signature", f"{head}.{body}.{signature[:9]}{white}{signature[9:]}", "malformed")
        yield Case(f"form {name} within header", f"{head[:9]}{white}{head[9:]}.{body}.{signature}", "malformed")
    for value in (None, 1, b"a.b.c", ["a", "b", "c"], {"token": 1}, True):
        yield Case(f"form of type {value!r}", value, "malformed")


def _base64() -> Iterator[Case]:
    head, body, signature = _parts(sign())
    for name, odd in {"padding": "=", "plus": "+", "slash": "/", "percent": "%", "tilde": "~", "e acute": "é"}.items():
        yield Case(f"base64 {name} ends header", f"{head}{odd}.{body}.{signature}", "malformed")
        yield Case(f"base64 {name} ends payload", f"{head}.{body}{odd}.{signature}", "malformed")
        yield Case(f"base64 {name} ends signature", f"{head}.{body}.{signature}{odd}", "malformed")
        yield Case(f"base64 {name} in signature", f"{head}.{body}.{signature[:7]}{odd}{signature[8:]}", "malformed")
    yield Case("base64 double padding", f"{head}.{body}.{signature}==", "malformed")
    yield Case("base64 impossible length", f"{head}.{body}.{signature[:-1] + 'AAAA'}", "malformed")
    yield Case("base64 one more character", f"{head}.{body}.{signature}A", "bad-signature")
    yield Case("base64 arabic digits", f"{head}.{body}.{signature[:-1]}\u0663", "malformed")
    # A signature of 256 bytes ends in a character with four spare bits, one of 64 with four, one of 96 has none.
    for algorithm in ("RS256", "PS256", "ES256", "EdDSA"):
        start, _, end = sign(algorithm=algorithm).rpartition(".")
        for spare in range(1, 16):
            token = f"{start}.{end[:-1]}{_shifted(end[-1], spare)}"
            yield Case(f"base64 {algorithm} spare bits {spare}", token, "malformed")
    for size in (1, 2):
        spares = {1: 16, 2: 4}[size]
        text = json.dumps(claims())
        text += " " * ((size - len(text)) % 3)
        start, middle, _ = _parts(sign(text))
        for spare in range(1, spares):
            odd = middle[:-1] + _shifted(middle[-1], spare)
            resigned = _resign(start, odd)
            yield Case(f"base64 payload spare bits {size}.{spare}", resigned, "malformed")
            top = json.dumps({"alg": "RS256", "kid": "RS256-0"})
            top += " " * ((size - len(top)) % 3)
            first = b64(top)
            yield Case(
                f"base64 header spare bits {size}.{spare}",
                _resign(first[:-1] + _shifted(first[-1], spare), middle),
                "malformed",
            )


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _shifted(character: str, spare: int) -> str:
    return _ALPHABET[_ALPHABET.index(character) + spare]


def _resign(head: str, body: str, algorithm: str = "RS256") -> str:
    return f"{head}.{body}.{b64(SIGNERS[algorithm].sign(f'{head}.{body}'.encode(), private_key(algorithm)))}"


def _algorithms() -> Iterator[Case]:
    value: Any
    for name in ("none", "None", "NONE", "nOnE", "", " none", "none ", "HS256", "HS512", "RS512", "rs256", "RS256 "):
        header = json.dumps({"alg": name, "kid": "RS256-0"})
        yield Case(f"alg {name!r} signed RS256", sign(header=header), "wrong-algorithm")
        unsigned = f"{b64(header)}.{b64(json.dumps(claims()))}."
        yield Case(f"alg {name!r} unsigned", unsigned, "malformed")
        yield Case(f"alg {name!r} one byte signature", unsigned + "AA", "wrong-algorithm")
    for value in (None, 0, True, [], ["RS256"], {}, {"RS256": 1}, 256):
        yield Case(f"alg {value!r}", sign(alg=value), "wrong-algorithm")
    yield Case("alg missing", sign(alg=...), "wrong-algorithm")
    # Confusion: the public key, in each form that an implementation might have it, as an HMAC secret.
    public = private_key("RS256").public_key()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "PEM stripped": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "PKCS1": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "JWK": json.dumps(public_jwk("RS256")).encode(),
        "JWKS": all_jwks().encode(),
        "modulus": public.public_numbers().n.to_bytes(256, "big"),
        "empty": b"",
    }
    for name, secret in secrets.items():
        for alg, digest in (("HS256", hashlib.sha256), ("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
            start = f"{b64(json.dumps({'alg': alg, 'kid': 'RS256-0'}))}.{b64(json.dumps(claims()))}"
            token = f"{start}.{b64(hmac.new(secret, start.encode(), digest).digest())}"
            yield Case(f"alg {alg} keyed with {name}", token, "wrong-algorithm")
    # One key, one algorithm: signed with the right key and another algorithm that the key's type supports.
    for signed, kid in (("PS256", "RS256-0"), ("RS256", "PS256-0")):
        token = sign(algorithm=signed, header={"alg": signed, "kid": kid}, key=private_key(kid[:5]))
        yield Case(f"alg {signed} with the key of {kid}", token, "wrong-algorithm")
        truth = sign(algorithm=signed, header={"alg": kid[:5], "kid": kid}, key=private_key(kid[:5]))
        yield Case(f"alg {kid[:5]} named, {signed} done", truth, "bad-signature")
    for algorithm in ("RS384", "RS512", "PS384", "PS512"):
        token = sign(algorithm=algorithm, header={"alg": algorithm, "kid": "RS256-0"}, key=private_key("RS256"))
        yield Case(f"alg {algorithm} with an RSA key", token, "wrong-algorithm")
    for one in ALGORITHMS:
        for other in ALGORITHMS:
            if one != other:
                token = sign(algorithm=one, header={"alg": one, "kid": f"{other}-0"})
                yield Case(f"alg {one} under the kid of {other}", token, "wrong-algorithm")
                token = sign(algorithm=one, header={"alg": other, "kid": f"{other}-0"})
                yield Case(f"alg {other} named, signed by the key of {one}", token, "bad-signature")
        rest = POLICY._replace(algorithms=frozenset(ALGORITHMS) - {one})
        yield Case(f"alg {one} not in the policy", sign(algorithm=one), "wrong-algorithm", rest)
        only = POLICY._replace(algorithms=frozenset({one}))
        yield Case(f"alg {one} alone in the policy", sign(algorithm=one), None, only)


def _keys() -> Iterator[Case]:
    value: Any
    for value in (None, 0, 1, True, [], ["RS256-0"], {}, {"kid": "RS256-0"}, 1.5):
        yield Case(f"kid {value!r}", sign(kid=value), "no-kid")
    yield Case("kid missing", sign(kid=...), "no-kid")
    for value in ("", "rs256-0", "RS256-0 ", " RS256-0", "RS256-0\x00", "RS256-00", "../RS256-0", "*", "RS256-0' OR 1"):
        yield Case(f"kid {value!r}", sign(kid=value), "unknown-kid")
    attacker = private_key("RS256", 9)
    embedded = public_jwk("RS256", kid="RS256-0", which=9)
    tricks: dict[str, dict[str, Any]] = {
        "jwk": {"jwk": embedded},
        "jwk symmetric": {"jwk": {"kty": "oct", "k": "AAAA"}},
        "jku": {"jku": "https://attacker.example.com/jwks.json"},
        "x5u": {"x5u": "https://attacker.example.com/cert.pem"},
        "x5c": {"x5c": ["MIIB"]},
        "x5t": {"x5t": "AAAA"},
    }
    for name, members in tricks.items():
        yield Case(f"key from {name}", sign(key=attacker, **members), "bad-signature")
        yield Case(f"key from {name} without kid", sign(key=attacker, kid=..., **members), "no-kid")
        yield Case(f"key from {name} with new kid", sign(key=attacker, kid="mine", **members), "unknown-kid")
        yield Case(f"good beside {name}", sign(**members), None)
    yield Case("key of another", sign(key=attacker), "bad-signature")
    for algorithm in ("ES256", "ES384", "EdDSA", "PS256"):
        other = sign(algorithm=algorithm, key=private_key(algorithm, 9))
        yield Case(f"key of another {algorithm}", other, "bad-signature")


def _headers() -> Iterator[Case]:
    value: Any
    for value in ([], ["exp"], ["b64"], "exp", None, {}, ["alg"], True):
        yield Case(f"crit {value!r}", sign(crit=value), "unsupported-header")
    yield Case("crit with its member", sign(crit=["url"], url=1), "unsupported-header")
    for value in (True, False, None, 0, "false"):
        yield Case(f"b64 {value!r}", sign(b64=value), "unsupported-header")
    yield Case("b64 false, crit", sign(b64=False, crit=["b64"]), "unsupported-header")
    for value in ("JWT", "jwt", "JWE", "application/json", "", None, 1):
        yield Case(f"cty {value!r}", sign(cty=value), "nested")
    for value in (
        "",
        "JOSE",
        "JWE",
        "id+jwt",
        "logout+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "at+jwt ",
        " JWT",
        "JWT+",
        "at",
    ):
        yield Case(f"typ {value!r}", sign(typ=value), "wrong-type")
    for value in (None, 1, True, ["JWT"], ["at+jwt"], {}, {"typ": "JWT"}):
        yield Case(f"typ {value!r}", sign(typ=value), "wrong-type")
    strict = POLICY._replace(require_at_jwt=True)
    yield Case("strict typ at+jwt", sign(typ="at+jwt"), None, strict)
    yield Case("strict typ application/at+jwt", sign(typ="application/AT+jwt"), None, strict)
    yield Case("strict typ JWT", sign(typ="JWT"), "wrong-type", strict)
    yield Case("strict typ missing", sign(typ=...), "wrong-type", strict)
    for name, header in {
        "list": "[]",
        "string": '"x"',
        "number": "1",
        "null": "null",
        "true": "true",
        "empty text": " ",
        "not JSON": "{alg:RS256}",
        "cut off": '{"alg":"RS256"',
        "two objects": '{"alg":"RS256","kid":"RS256-0"}{}',
        "single quotes": "{'alg':'RS256','kid':'RS256-0'}",
        "comment": '{"alg":"RS256","kid":"RS256-0"}//',
        "trailing comma": '{"alg":"RS256","kid":"RS256-0",}',
        "alg twice": '{"alg":"none","alg":"RS256","kid":"RS256-0"}',
        "alg twice alike": '{"alg":"RS256","alg":"RS256","kid":"RS256-0"}',
        "kid twice": '{"alg":"RS256","kid":"x","kid":"RS256-0"}',
        "alg twice by escape": '{"alg":"RS256","\\u0061lg":"RS256","kid":"RS256-0"}',
        "NaN": '{"alg":"RS256","kid":"RS256-0","x":NaN}',
        "surrogate": '{"alg":"RS256","kid":"RS256-0","x":"\\ud800"}',
    }.items():
        yield Case(f"header {name}", sign(header=header), "malformed")
    good = '{"alg":"RS256","kid":"RS256-0"}'
    yield Case("header BOM", sign(header=b"\xef\xbb\xbf" + good.encode()), "malformed")
    yield Case("header UTF-16", sign(header=good.encode("utf-16")), "malformed")
    yield Case("header UTF-16LE", sign(header=good.encode("utf-16-le")), "malformed")
    yield Case("header UTF-32", sign(header=good.encode("utf-32-be")), "malformed")
    yield Case(
        "header latin-1", sign(header='{"alg":"RS256","kid":"RS256-0","x":"\xe9"}'.encode("latin-1")), "malformed"
    )
    yield Case("header empty object", sign(header="{}"), "no-kid")


def _nested(levels: int, opening: str = '{"x":', closing: str = "}") -> str:
    """Put levels below the claims' own object."""
    inner = opening * levels + "1" + closing * levels
    return json.dumps(claims())[:-1] + f', "deep": {inner}}}'


def _json() -> Iterator[Case]:
    text = json.dumps(claims())
    for name, odd in {
        "NaN": "NaN",
        "Infinity": "Infinity",
        "minus Infinity": "-Infinity",
        "1e999": "1e999",
        "-1e999": "-1e999",
        "hexadecimal": "0x10",
        "octal": "017",
        "plus": "+1",
        "bare word": "undefined",
        "lone high surrogate": '"\\ud800"',
        "lone low surrogate": '"\\udc00"',
        "surrogates in wrong order": '"\\udc00\\ud800"',
        "surrogate name": '{"\\ud800":1}',
        "control character": '"\x01"',
        "line feed in a string": '"a\nb"',
        "bad escape": '"\\x41"',
        "an object has a member twice": '{"a":1,"a":1}',
        "too many digits": "9" * 5000,
    }.items():
        yield Case(f"JSON {name}", sign(f'{text[:-1]},"odd":{odd}}}'), "malformed")
    for name in ("iss", "aud", "exp", "iat", "carrier"):
        twice = json.dumps({name: claims()[name]})[1:-1]
        yield Case(f"JSON {name} twice", sign(f"{{{twice},{text[1:]}"), "malformed")
        escaped = twice.replace(name, f"\\u{ord(name[0]):04x}{name[1:]}", 1)
        yield Case(f"JSON {name} twice by escape", sign(f"{{{escaped},{text[1:]}"), "malformed")
    for name, value in {
        "list": "[]",
        "string": '"x"',
        "number": "1",
        "null": "null",
        "words": "hello",
        "blank": " ",
    }.items():
        yield Case(f"JSON payload {name}", sign(value), "malformed")
    yield Case("JSON payload in a list", sign(f"[{text}]"), "malformed")
    yield Case("JSON payload a string of JSON", sign(json.dumps(text)), "malformed")
    yield Case("JSON payload nested token", sign(sign()), "malformed")
    yield Case("JSON trailing garbage", sign(text + "x"), "malformed")
    yield Case("JSON two objects", sign(text + text), "malformed")
    yield Case("JSON null byte", sign(text + "\x00"), "malformed")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "utf-8-sig", "cp037"):
        if encoding != "utf-7":
            yield Case(f"JSON in {encoding}", sign(text.encode(encoding)), "malformed")
    for name, octets in {
        "stray byte": b"\xff",
        "overlong": b"\xc0\xaf",
        "surrogate in UTF-8": b"\xed\xa0\x80",
        "past Unicode": b"\xf4\x90\x80\x80",
        "cut off": b"\xf0\x9f\x98",
    }.items():
        yield Case(f"JSON UTF-8 {name}", sign(text[:-1].encode() + b',"x":"' + octets + b'"}'), "malformed")
    for levels in (16, 17, 40, 200, 900):
        yield Case(f"JSON objects {levels} deep", sign(_nested(levels)), "malformed")
        yield Case(f"JSON lists {levels} deep", sign(_nested(levels, "[", "]")), "malformed")
    yield Case("JSON 2500 lists, unclosed", sign("[" * 2500), "malformed")
    yield Case("JSON deep after a string of brackets", sign(_nested(40, '{"]}]}\\"":', "}")), "malformed")


def _times() -> Iterator[Case]:
    value: Any
    waived = POLICY._replace(require_iat=False)
    lenient = POLICY._replace(leeway=10)
    yield Case("exp missing", sign(claims(exp=None)), "missing-claim")
    yield Case("iat missing", sign(claims(iat=None)), "missing-claim")
    yield Case("iat missing, waived", sign(claims(iat=None)), None, waived)
    yield Case("iat there, waived", sign(), None, waived)
    yield Case("exp missing, iat waived", sign(claims(exp=None)), "missing-claim", waived)
    for name in ("exp", "iat", "nbf"):
        for value in ('"1800000000"', "true", "false", "null", "[]", "[1800000000]", "{}", '""', '"now"'):
            text = json.dumps(claims(**{name: 0})).replace(f'"{name}": 0', f'"{name}": {value}')
            yield Case(f"{name} is {value}", sign(text), "malformed-claim")
            if name == "iat":
                yield Case(f"{name} is {value}, waived", sign(text), "malformed-claim", waived)
    now = int(NOW)
    for value, reason in ((now - 1, "expired"), (now, "expired"), (now + 1, None), (now + 0.001, None), (0, "expired")):
        yield Case(f"exp at {value - now:+}", sign(claims(exp=value)), reason)
    for value in (-1, -1e300, -(10**200)):
        yield Case(f"exp {value:.0e}", sign(claims(exp=value)), "expired")
    for value, reason in ((10**400, None), (1e300, None), (-(10**400), "expired")):
        yield Case(f"exp of {len(str(value))} characters", sign(claims(exp=value)), reason)
    for value, reason in ((now - 10, "expired"), (now - 9.999, None), (now - 11, "expired")):
        yield Case(f"exp at {value - now:+.3f}, leeway", sign(claims(exp=value)), reason, lenient)
    for name in ("nbf", "iat"):
        for value, reason in ((now, None), (now + 1, "not-yet-valid"), (now + 0.001, "not-yet-valid"), (now - 1, None)):
            yield Case(f"{name} at {value - now:+.3f}", sign(claims(**{name: value})), reason)
        for value, reason in ((now + 10, None), (now + 10.001, "not-yet-valid"), (now + 11, "not-yet-valid")):
            yield Case(f"{name} at {value - now:+.3f}, leeway", sign(claims(**{name: value})), reason, lenient)
        for value, reason in ((-(10**400), None), (10**400, "not-yet-valid")):
            yield Case(f"{name} of {len(str(value))} characters", sign(claims(**{name: value})), reason)
        yield Case(f"{name} in milliseconds", sign(claims(**{name: now * 1000})), "not-yet-valid")
    yield Case("nbf later, iat waived", sign(claims(iat=None, nbf=now + 1)), "not-yet-valid", waived)
    yield Case("iat later, waived", sign(claims(iat=now + 1)), "not-yet-valid", waived)
    yield Case("nbf absent", sign(claims(nbf=None)), None)


def _names() -> Iterator[Case]:
    value: Any
    for value in (None, "", "https://issuer.example.com", ISSUER.upper(), ISSUER + " ", ISSUER + "/", " " + ISSUER):
        yield Case(f"iss {value!r}", sign(claims(iss=value)), "wrong-issuer")
    for value in (["https://issuer.example.com/"], {"iss": ISSUER}, 1, True, [ISSUER, ISSUER]):
        yield Case(f"iss {value!r}", sign(claims(iss=value)), "wrong-issuer")
    yield Case("iss null", sign(json.dumps(claims() | {"iss": None})), "wrong-issuer")
    yield Case("iss homoglyph", sign(claims(iss=ISSUER.replace("e", "\u0435", 1))), "wrong-issuer")
    for value in ("", "Larder", "larder ", "larders", "larde", "*", "larder,other", "other larder"):
        yield Case(f"aud {value!r}", sign(claims(aud=value)), "wrong-audience")
    yield Case("aud missing", sign(claims(aud=None)), "missing-claim")
    yield Case("aud null", sign(json.dumps(claims() | {"aud": None})), "malformed-claim")
    for value in (1, True, {}, {"larder": 1}, [1, AUDIENCE], [AUDIENCE, None], [[AUDIENCE]], [AUDIENCE, ["x"]], 0):
        yield Case(f"aud {value!r}", sign(claims(aud=value)), "malformed-claim")
    for listed in ([], ["other"], ["LARDER"], ["other", "larder2"]):
        yield Case(f"aud {listed!r}", sign(claims(aud=listed)), "wrong-audience")
    for name in ("sub", "jti", "client_id"):
        for value in (1, ["x"], {}, True):
            yield Case(f"{name} {value!r}", sign(claims(**{name: value})), "malformed-claim")
        yield Case(f"{name} null", sign(json.dumps(claims() | {name: None})), "malformed-claim")
        yield Case(f"{name} absent", sign(claims(**{name: None})), None)


def _signatures() -> Iterator[Case]:
    for algorithm in ALGORITHMS:
        head, body, signature = _parts(sign(algorithm=algorithm))
        raw = bytearray(_unb64(signature))
        changed = b64(json.dumps(claims(carrier="AA")))
        yield Case(f"{algorithm} other payload", f"{head}.{changed}.{signature}", "bad-signature")
        other = b64(json.dumps({"alg": algorithm, "kid": f"{algorithm}-0", "typ": "JWT"}))
        yield Case(f"{algorithm} other header", f"{other}.{body}.{signature}", "bad-signature")
        for place in (0, 1, len(raw) // 2, len(raw) - 1):
            for bit in (0x01, 0x80):
                odd = bytearray(raw)
                odd[place] ^= bit
                yield Case(
                    f"{algorithm} bit {bit} of byte {place}", f"{head}.{body}.{b64(bytes(odd))}", "bad-signature"
                )
        for name, odd_bytes in {
            "cut by one": raw[:-1],
            "first byte gone": raw[1:],
            "half": raw[: len(raw) // 2],
            "one byte": raw[:1],
            "longer by zero": raw + b"\x00",
            "zero before": b"\x00" + raw,
            "twice": raw + raw,
            "zeros": bytes(len(raw)),
            "ones": b"\xff" * len(raw),
            "one": bytes(len(raw) - 1) + b"\x01",
            "of another token": _unb64(sign(claims(jti="x"), algorithm=algorithm).rpartition(".")[2]),
            "hexadecimal": bytes(raw).hex().encode(),
        }.items():
            yield Case(f"{algorithm} signature {name}", f"{head}.{body}.{b64(bytes(odd_bytes))}", "bad-signature")
    yield from _ecdsa()
    yield from _rsa()
    head, body, signature = _parts(sign(algorithm="EdDSA"))
    raw_bytes = _unb64(signature)
    s = int.from_bytes(raw_bytes[32:], "little") + ED25519_ORDER
    yield Case(
        "EdDSA s past the order", f"{head}.{body}.{b64(raw_bytes[:32] + s.to_bytes(32, 'little'))}", "bad-signature"
    )


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _ecdsa() -> Iterator[Case]:
    for algorithm, size, order in (("ES256", 32, P256_ORDER), ("ES384", 48, P384_ORDER)):
        head, body, signature = _parts(sign(algorithm=algorithm))
        raw = _unb64(signature)
        r, s = int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big")
        yield Case(f"{algorithm} DER", f"{head}.{body}.{b64(utils.encode_dss_signature(r, s))}", "bad-signature")
        for name, (one, two) in {
            "r and s zero": (0, 0),
            "r zero": (0, s),
            "s zero": (r, 0),
            "r and s one": (1, 1),
            "r zero, s one": (0, 1),
            "r one, s zero": (1, 0),
            "r the order": (order, s),
            "s the order": (r, order),
            "both the order": (order, order),
            "r order less one": (order - 1, order - 1),
            "swapped": (s, r),
        }.items():
            odd = one.to_bytes(size, "big") + two.to_bytes(size, "big")
            yield Case(f"{algorithm} {name}", f"{head}.{body}.{b64(odd)}", "bad-signature")
        wide = r.to_bytes(size + 1, "big") + s.to_bytes(size + 1, "big")
        yield Case(f"{algorithm} padded halves", f"{head}.{body}.{b64(wide)}", "bad-signature")
        longer = raw[:size] + b"\x00" + raw[size:]  # the same s, a byte longer
        yield Case(f"{algorithm} padded s", f"{head}.{body}.{b64(longer)}", "bad-signature")
        # The other root of the same signature is valid, too: JWS does not require the lower s.
        low = r.to_bytes(size, "big") + (order - s).to_bytes(size, "big")
        yield Case(f"{algorithm} other s", f"{head}.{body}.{b64(low)}", None)


def _rsa() -> Iterator[Case]:
    key = private_key("RS256")
    n, d = key.public_key().public_numbers().n, key.private_numbers().d
    head, body, _ = _parts(sign())
    digest = hashlib.sha256(f"{head}.{body}".encode()).digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420")
    bare = bytes.fromhex("302f300b0609608648016503040201" + "0420")  # without RFC 8017's NULL

    def encoded(message: bytes, filler: bytes = b"\xff", kind: bytes = b"\x01", length: int | None = None) -> str:
        fill = filler * (256 - 3 - len(message) if length is None else length)
        whole = (b"\x00" + kind + fill + b"\x00" + message).ljust(256, b"\x00")
        return b64(pow(int.from_bytes(whole, "big"), d, n).to_bytes(256, "big"))

    yield Case("RS256 encoded by hand", f"{head}.{body}.{encoded(info + digest)}", None)
    for name, odd in {
        "short padding, garbage behind": encoded(info + digest, length=8),
        "padding of zeros": encoded(info + digest, filler=b"\x00"),
        "block type 2": encoded(info + digest, kind=b"\x02"),
        "block type 0": encoded(info + digest, kind=b"\x00"),
        "without DigestInfo": encoded(digest),
        "digest cut": encoded(info + digest[:-1]),
        "digest longer": encoded(info + digest + b"\x00"),
        "without NULL": encoded(bare + digest),
        "BER length": encoded(b"\x30\x81" + info[1:] + digest),
        "SHA-1 inside": encoded(bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(digest).digest()),
    }.items():
        yield Case(f"RS256 {name}", f"{head}.{body}.{odd}", "bad-signature")
    signed = int.from_bytes(_unb64(encoded(info + digest)), "big")
    yield Case("RS256 past the modulus", f"{head}.{body}.{b64((signed + n).to_bytes(257, 'big'))}", "bad-signature")
    yield Case("RS256 the modulus", f"{head}.{body}.{b64(n.to_bytes(256, 'big'))}", "bad-signature")
    yield Case("RS256 modulus less one", f"{head}.{body}.{b64((n - 1).to_bytes(256, 'big'))}", "bad-signature")
    head, body, _ = _parts(sign(algorithm="PS256"))
    message = f"{head}.{body}".encode()
    sha256 = hashes.SHA256()
    for name, salt, mask, digester in (
        ("salt of 0", 0, sha256, sha256),
        ("salt of 20", 20, sha256, sha256),
        ("salt of 31", 31, sha256, sha256),
        ("salt of 33", 33, sha256, sha256),
        ("longest salt", padding.PSS.MAX_LENGTH, sha256, sha256),
        ("mask of SHA-1", 32, hashes.SHA1(), sha256),
        ("mask of SHA-384", 32, hashes.SHA384(), sha256),
        ("digest of SHA-384", 32, sha256, hashes.SHA384()),
    ):
        odd = private_key("PS256").sign(message, padding.PSS(mgf=padding.MGF1(mask), salt_length=salt), digester)
        yield Case(f"PS256 {name}", f"{head}.{body}.{b64(odd)}", "bad-signature")


def _length() -> Iterator[Case]:
    overhead = len(sign(claims(pad="")))
    fill = (8192 - overhead) // 4 * 3
    for extra in range(fill - 3, fill + 12):
        token = sign(claims(pad="x" * extra))
        yield Case(f"length {len(token)} by {extra}", token, None if len(token) <= 8192 else "malformed")
    yield Case("length 100000", "A" * 100_000, "malformed")
    yield Case("length 100000 in three parts", ".".join(["A" * 33_000] * 3), "malformed")
