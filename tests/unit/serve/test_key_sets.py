"""V5: which keys of a document can be used; a bad key does not affect the others."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, ed25519, x25519
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt import PyJWK

from serve.tokens.jwks import BadKeySet, KeyDocument, parse_jwk, parse_jwks, parse_keys
from serve.tokens.signing_key import BadKey, build_signing_key
from serve.tokens.weak_keys import _ORDERS, check_ed25519, check_rsa, is_roca
from tests.unit.serve.kit import ALGORITHMS, SIGNERS, b64, jwks, private_key, public_jwk

SPKI = PublicFormat.SubjectPublicKeyInfo


class Refused(NamedTuple):
    """One JWK that must not be used, and a word of the reason."""

    name: str
    jwk: Any
    reason: str


def _integer(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _rsa(n: int | None = None, e: int = 65537) -> dict[str, Any]:
    modulus = private_key("RS256").public_key().public_numbers().n if n is None else n
    return {"kid": "bad", "kty": "RSA", "n": _integer(modulus), "e": _integer(e)}


def _random_odd(bits: int, seed: int) -> int:
    return random.Random(seed).getrandbits(bits) | 1 | (1 << (bits - 1))


P256 = public_jwk("ES256", kid="bad")
P384 = public_jwk("ES384", kid="bad")
ED = public_jwk("EdDSA", kid="bad")
RSA = public_jwk("RS256", kid="bad")
P25519 = 2**255 - 19


def _ed(y: int) -> dict[str, Any]:
    return ED | {"x": b64(y.to_bytes(32, "little"))}


# The cases below that are not faults: keys for another purpose, algorithm or type, in a set for several clients.
UNUSED = {
    "use 'enc'", "use 'tls'", "key_ops ['encrypt']", "key_ops ['wrapKey', 'unwrapKey']", "kty 'ec'", "kty 'OKP'",
    "post-quantum", "post-quantum without alg", "P-521", "secp256k1", "crv 'secp256k1'", "crv 'p-256'", "OKP 'Ed448'",
    "OKP 'X25519'", "OKP 'ed25519'", "P-384 for 'ES512'", "Ed25519 for 'Ed448'", "Ed25519 for 'eddsa'",
    *(f"RSA for {alg!r}" for alg in ("RS384", "RS512", "PS384", "PS512", "HS256", "none", "RSA1_5", "RSA-OAEP")),
    *(f"RSA for {alg!r}" for alg in ("rs256", "")),
    *(f"P-256 for {alg!r}" for alg in ("ES512", "ES521", "ES224")),
}  # fmt: skip
KIDS: tuple[Any, ...] = ("", None, 1, ["a"], {})
TYPES: tuple[Any, ...] = ("RSA", "OKP", "oct", "ec", "", None, 1, [])
CURVES: tuple[Any, ...] = ("P-384", "P-521", "secp256k1", "p-256", None, 1, [])
ODD_ALGORITHMS: tuple[Any, ...] = (None, 1, ["RS256"], {})
NO_OBJECTS: tuple[Any, ...] = (None, 1, "x", [], True)
REFUSED = (
    Refused("symmetric", {"kid": "bad", "kty": "oct", "k": "AAAA", "alg": "HS256"}, "symmetric"),
    Refused("symmetric without k", {"kid": "bad", "kty": "oct", "alg": "HS256"}, "kty"),
    Refused("AES", {"kid": "bad", "kty": "oct", "k": "AAAA", "alg": "A128GCM", "use": "enc"}, "symmetric"),
    Refused("private, for encryption", RSA | {"use": "enc", "d": "AAAA"}, "private"),
    Refused("post-quantum", {"kid": "bad", "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, "algorithm"),
    Refused("post-quantum without alg", {"kid": "bad", "kty": "AKP", "pub": "AAAA"}, "kty"),
    *(
        Refused(f"private {algorithm}", SIGNERS[algorithm].to_jwk(private_key(algorithm), as_dict=True), "private")
        for algorithm in ALGORITHMS
    ),
    *(
        Refused(f"private member {member}", RSA | {member: "AAAA"}, "private")
        for member in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
    ),
    *(Refused(f"use {use!r}", P256 | {"use": use}, "use") for use in ("enc", "tls", "", "SIG", None, ["sig"], 1)),
    *(
        Refused(f"key_ops {operations!r}", P256 | {"key_ops": operations}, "key_ops")
        for operations in (["encrypt"], ["sign"], [], "verify", None, {"verify": 1}, ["wrapKey", "unwrapKey"])
    ),
    Refused("kid missing", {name: value for name, value in P256.items() if name != "kid"}, "kid"),
    *(Refused(f"kid {kid!r}", P256 | {"kid": kid}, "kid") for kid in KIDS),
    *(Refused(f"kty {kty!r}", P256 | {"kty": kty}, "") for kty in TYPES),
    *(Refused(f"crv {crv!r}", P256 | {"crv": crv}, "") for crv in CURVES),
    *(Refused(f"OKP {crv!r}", ED | {"crv": crv}, "kty") for crv in ("Ed448", "X25519", "ed25519")),
    *(Refused(f"OKP without crv {crv!r}", ED | {"crv": crv}, "crv") for crv in (None, 1, "")),
    Refused("P-521", public_jwk("ES512", kid="bad", alg=None), "ES512"),
    Refused(
        "secp256k1", SIGNERS["ES256K"].to_jwk(private_key("ES256K").public_key(), as_dict=True) | {"kid": "b"}, "crv"
    ),
    *(
        Refused(f"RSA for {alg!r}", RSA | {"alg": alg}, "algorithm")
        for alg in (
            "RS384",
            "RS512",
            "PS384",
            "PS512",
            "ES256",
            "EdDSA",
            "HS256",
            "none",
            "RSA1_5",
            "RSA-OAEP",
            "rs256",
            "",
        )
    ),
    *(
        Refused(f"P-256 for {alg!r}", P256 | {"alg": alg}, "algorithm")
        for alg in ("ES384", "ES512", "ES521", "ES224", "RS256")
    ),
    *(Refused(f"P-384 for {alg!r}", P384 | {"alg": alg}, "algorithm") for alg in ("ES256", "ES512", "EdDSA")),
    *(Refused(f"Ed25519 for {alg!r}", ED | {"alg": alg}, "algorithm") for alg in ("ES256", "Ed448", "eddsa")),
    *(Refused(f"alg {alg!r}", RSA | {"alg": alg}, "alg is not a string") for alg in ODD_ALGORITHMS),
    Refused("RSA of 1024 bits", _rsa(_random_odd(1024, 1)), "fewer than 2048"),
    Refused("RSA of 2047 bits", _rsa(_random_odd(2047, 2)), "fewer than 2048"),
    Refused("RSA of 8193 bits", _rsa(_random_odd(8193, 3)), "more than 8192"),
    Refused("RSA modulus even", _rsa(_random_odd(2048, 4) - 1), ""),
    *(
        Refused(f"RSA exponent {e}", _rsa(e=e), "")
        for e in (1, 2, 3, 17, 257, 65535, 65536, 65538, 2**32 + 1, 2**64 + 1)
    ),
    Refused("RSA exponent missing", {"kid": "bad", "kty": "RSA", "n": RSA["n"]}, "e is missing"),
    Refused("RSA modulus a number", RSA | {"n": 5}, "n is missing"),
    Refused("RSA modulus padded", RSA | {"n": RSA["n"] + "=="}, "not a valid key"),
    Refused("RSA modulus with a line feed", RSA | {"n": RSA["n"] + "\n"}, "not a valid key"),
    Refused("RSA modulus empty", RSA | {"n": ""}, "not a valid key"),
    Refused("point off the curve", P256 | {"y": P256["x"]}, "not a valid key"),
    Refused("point of zeros", P256 | {"x": b64(bytes(32)), "y": b64(bytes(32))}, "not a valid key"),
    Refused("point past the field", P256 | {"x": b64(b"\xff" * 32)}, "not a valid key"),
    Refused("x too short", P256 | {"x": b64(bytes(31))}, "32 bytes"),
    Refused("x too long", P256 | {"x": b64(b"\x00" + bytes(32))}, "32 bytes"),
    Refused("y missing", {name: value for name, value in P256.items() if name != "y"}, "y is missing"),
    Refused("P-384 as P-256", P384 | {"crv": "P-256", "alg": "ES256"}, "32 bytes"),
    Refused("Ed25519 too short", ED | {"x": b64(bytes(31))}, "32 bytes"),
    Refused("Ed25519 not a point", _ed(2), "not a point"),
    Refused("Ed25519 not canonical", _ed(P25519 + 3), "canonical"),
    *(Refused(f"Ed25519 of small order {y % 1000}", _ed(y), "small order") for y in (0, 1, P25519 - 1)),
    Refused("Ed25519 neutral, sign bit", _ed(1 | 1 << 255), "small order"),
    *(Refused(f"not an object: {value!r}", value, "") for value in NO_OBJECTS),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_bad_key_is_refused_and_disables_no_other(case: Refused) -> None:
    """A key that is weak, private, malformed or for another purpose is ignored with a reason; the others are used."""
    with pytest.raises(BadKey, match=case.reason or None):
        parse_jwk(case.jwk)
    for order in ((case.jwk, public_jwk("ES256")), (public_jwk("ES256"), case.jwk)):
        found = parse_jwks(json.dumps({"keys": order}))
        assert list(found.keys) == ["ES256-0"]
        others, none = (found.unused, found.refused) if case.name in UNUSED else (found.refused, found.unused)
        assert (len(others), len(none)) == (1, 0)
        assert case.reason in others[0].reason


def test_the_unused_are_cases() -> None:
    """Every name in the list above is the name of a case."""
    assert {case.name for case in REFUSED} > UNUSED


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS384", "PS512", "ES512", "Ed25519"])
def test_a_policy_can_allow_a_standard_algorithm(algorithm: str) -> None:
    """Its keys are used, with and without `alg`: a key without it is for the first allowed algorithm."""
    allowed = frozenset({algorithm})
    jwk = public_jwk({"Ed25519": "EdDSA"}.get(algorithm, algorithm), alg=algorithm)
    bare = {name: value for name, value in jwk.items() if name != "alg"}
    for one in (jwk, bare):
        assert [key.algorithm for key in parse_keys([_document(one)], allowed).keys.values()] == [algorithm]
    assert parse_keys([_document(jwk)]).keys == {}
    other = public_jwk("ES256", alg=None)
    assert not parse_keys([_document(other)], allowed).refused
    assert parse_keys([_document(jwk)], frozenset({"HS256", "none"})).keys == {}
    both = parse_keys([_document(public_jwk("RS256", alg=None))], frozenset({"RS512", "PS256"}))
    assert [key.algorithm for key in both.keys.values()] == ["PS256"]


def _document(jwk: dict[str, Any]) -> KeyDocument:
    return KeyDocument("jwks.json", jwks(jwk).encode())


def test_a_key_without_kid_is_named_by_its_thumbprint_if_allowed() -> None:
    """As in the example of RFC 7638, section 3.1; the same key twice is refused, and so is `kid: null`."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
        "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5h"
        "ajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    jwk = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256"}
    found = parse_keys([_document(jwk)], allow_missing_kid=True)
    assert list(found.keys) == ["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"]
    assert parse_keys([_document(jwk)]).keys == {}
    twice = parse_keys([_document(jwk), _document(jwk)], allow_missing_kid=True)
    assert [one.reason for one in twice.refused] == ["kid is not unique"] * 2
    assert parse_keys([_document(jwk | {"kid": None})], allow_missing_kid=True).keys == {}
    hashed = {
        "ES256": '{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}',
        "EdDSA": '{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}',
    }
    for algorithm, text in hashed.items():  # RFC 7638, section 3.2, and RFC 8037, appendix A.3
        bare = {name: value for name, value in public_jwk(algorithm).items() if name != "kid"}
        ((kid, key),) = parse_keys([_document(bare)], allow_missing_kid=True).keys.items()
        expected = base64.urlsafe_b64encode(hashlib.sha256(text.format(**bare).encode()).digest())
        assert key.kid == kid == expected.decode().rstrip("=")
    broken: list[Any] = [{"kty": []}, {"kty": "RSA", "n": 1, "e": [2]}, {}]
    assert len(parse_keys([_document(one) for one in broken], allow_missing_kid=True).keys) == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_valid_keys_are_accepted(algorithm: str) -> None:
    """Each algorithm's key is accepted with and without `alg`, `use` and `key_ops`, and is the key that PyJWT reads."""
    full = public_jwk(algorithm)
    for members in ({}, {"use": None}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"]}, {"x5c": ["MIIB"]}):
        found = parse_jwks(jwks(public_jwk(algorithm, **members))).keys[f"{algorithm}-0"]
        assert found.algorithm == algorithm
        assert found.public_key == PyJWK(full).key
    bare = parse_jwk(public_jwk(algorithm, alg=None, use=None))
    assert bare.algorithm == {"PS256": "RS256"}.get(algorithm, algorithm)


def test_rsa_at_the_bounds_is_accepted() -> None:
    """At least 2048 bits and an exponent of 65537; at most 8192 bits and 32 bits of exponent."""
    for n in (_random_odd(2048, 5), _random_odd(8192, 6)):
        check_rsa(n, 65537)
        check_rsa(n, 2**32 - 1)
    with pytest.raises(ValueError, match="exponent"):
        check_rsa(_random_odd(2048, 5), 2**32 + 1)
    with pytest.raises(ValueError, match="even"):
        check_rsa(_random_odd(2048, 5) - 1, 65537)
    with pytest.raises(ValueError, match="exponent"):
        check_rsa(_random_odd(2048, 5), 65538)


def test_duplicate_kids_name_no_key() -> None:
    """Two keys with the same name are both refused, even if they are equal, or if one of them is unusable anyway."""
    one, other = public_jwk("RS256", kid="twin"), public_jwk("ES256", kid="twin")
    unusable = public_jwk("RS256", kid="twin", which=1, use="enc")
    for pair in ((one, other), (one, one), (one, unusable), (unusable, one)):
        found = parse_jwks(jwks(public_jwk("EdDSA"), *pair))
        assert list(found.keys) == ["EdDSA-0"]
        assert [refused.reason for refused in found.refused] == ["kid is not unique"] * 2


def test_duplicate_kids_are_found_across_documents() -> None:
    """The keys of several files are one set."""
    documents = [
        KeyDocument("a.json", jwks(public_jwk("RS256", kid="twin"), public_jwk("ES256")).encode()),
        KeyDocument("keys/twin.pem", private_key("ES384").public_key().public_bytes(Encoding.PEM, SPKI)),
    ]
    found = parse_keys(documents)
    assert list(found.keys) == ["ES256-0"]
    assert {refused.kid for refused in found.refused} == {"twin"}


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", "x", '{"keys": {}}', '{"keys": null}', '{"keys": "x"}', '"keys"',
        '{"keys": [], "keys": []}',
        '{"keys": [NaN]}', '{"keys": [' + "[" * 40 + "]" * 40 + "]}", "\ufeff" + '{"keys": []}', "<html></html>",
    ],
)  # fmt: skip
def test_a_document_that_is_not_a_key_set_is_an_error(text: str) -> None:
    """A document that is not a JWKS, or is ambiguous JSON, is an error, and not an empty set."""
    with pytest.raises(BadKeySet):
        parse_jwks(text)


def test_a_set_of_only_bad_keys_is_a_set_without_keys() -> None:
    """It was read: no key is trusted, and each reason is reported; likewise an empty list, which has no reasons."""
    found = parse_jwks(jwks(public_jwk("RS256", use="enc")))
    assert found.keys == {}
    assert [unused.reason for unused in found.unused] == ["use is not sig"]
    assert parse_jwks('{"keys": []}') == ({}, (), ())


def test_a_key_with_a_duplicate_member_disables_no_other() -> None:
    """Which of the two is right is unknown, so that key is refused; the document is still JSON."""
    text = jwks(public_jwk("ES256"), public_jwk("RS256") | {"odd": "X"}).replace('"odd": "X"', '"use": "sig"')
    found = parse_jwks(text)
    assert list(found.keys) == ["ES256-0"]
    assert [refused.reason for refused in found.refused] == ["a member occurs twice"]


def test_a_document_can_be_text_bytes_or_a_dict() -> None:
    """The keys are the same in each form; anything that is not JSON is a bad key set."""
    text = jwks(public_jwk("ES256"), public_jwk("RS256"))
    assert parse_jwks(text) == parse_jwks(text.encode()) == parse_jwks(json.loads(text))
    odd: tuple[Any, ...] = ({}, {"keys": {1}}, {"keys": None}, {"keys": [b"x"]}, "\ud800", b"\xff")
    for document in odd:
        with pytest.raises(BadKeySet):
            parse_jwks(document)


def test_pem_files_are_named_by_kid() -> None:
    """A PEM document has one public key; its name is the kid, its type determines the algorithm."""
    documents = [
        KeyDocument(f"/larder/dev/keys/{kid}", private_key(algorithm).public_key().public_bytes(Encoding.PEM, SPKI))
        for kid, algorithm in (("one.pem", "RS256"), ("two", "ES256"), ("three.pem", "ES384"), ("four", "EdDSA"))
    ]
    found = parse_keys(documents)
    assert {kid: key.algorithm for kid, key in found.keys.items()} == {
        "one": "RS256", "two": "ES256", "three": "ES384", "four": "EdDSA"
    }  # fmt: skip
    assert not found.refused


def test_bad_pem_files_are_refused_one_by_one() -> None:
    """A private key, a truncated certificate, a key of another type: refused, and the valid one stays."""
    good = private_key("ES256").public_key().public_bytes(Encoding.PEM, SPKI)
    private = private_key("ES256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    others = {
        "private": private,
        "both": good + private,
        "cut": good[:60],
        "ed448": ed448.Ed448PrivateKey.generate().public_key().public_bytes(Encoding.PEM, SPKI),
        "x25519": x25519.X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, SPKI),
        "dsa": dsa.generate_private_key(1024).public_key().public_bytes(Encoding.PEM, SPKI),
        "p521": private_key("ES512").public_key().public_bytes(Encoding.PEM, SPKI),
        "weak": RSAPublicNumbers(65537, _random_odd(1024, 1)).public_key().public_bytes(Encoding.PEM, SPKI),
    }
    found = parse_keys(
        [KeyDocument("good.pem", good), *(KeyDocument(f"{name}.pem", data) for name, data in others.items())]
    )
    assert list(found.keys) == ["good"]
    assert {refused.kid for refused in found.refused} == others.keys()


def test_roca_moduli_are_recognised() -> None:
    """A modulus built like those of the flawed generator is refused, and a thousand others are not."""
    primes = [number for number in range(2, 702) if all(number % divisor for divisor in range(2, int(number**0.5) + 1))]
    product = 1
    for prime in primes:
        product *= prime
    source = random.Random(7)

    def flawed_prime() -> int:
        while True:
            candidate = source.getrandbits(54) * product + pow(65537, source.getrandbits(60), product)
            if candidate.bit_length() >= 1024 and pow(2, candidate - 1, candidate) == 1:
                return candidate

    modulus = flawed_prime() * flawed_prime()
    assert is_roca(modulus)
    with pytest.raises(BadKey, match="ROCA"):
        parse_jwk(_rsa(modulus))
    assert not any(is_roca(_random_odd(2048, seed)) for seed in range(1000))
    assert not is_roca(product)  # no power of 65537: 0 modulo each prime


def test_the_orders_are_correct() -> None:
    """The table has every odd prime up to 167 modulo which 65537 is not a generator, with its order."""
    expected = []
    for prime in (n for n in range(3, 168, 2) if all(n % d for d in range(3, n, 2))):
        order = next(k for k in range(1, prime) if pow(65537, k, prime) == 1)
        if order < prime - 1:
            expected.append((prime, order))
    assert expected == list(_ORDERS)


def test_ed25519_points_of_small_order_are_all_known() -> None:
    """Every encoding that libraries load and that has an order of 8 or less is refused; real keys are not."""
    y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
    for y in (0, 1, P25519 - 1, P25519, P25519 + 1, y8, P25519 - y8):
        for sign_bit in (0, 1 << 255):
            with pytest.raises(ValueError, match="small order"):
                check_ed25519((y | sign_bit).to_bytes(32, "little"))
    for _ in range(200):
        check_ed25519(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def test_half_of_all_ys_are_no_points() -> None:
    """`cryptography` loads any 32 bytes; a y without an x is refused here."""
    refused = 0
    for seed in range(200):
        try:
            check_ed25519(random.Random(seed).randbytes(31) + b"\x01")
        except ValueError:
            refused += 1
    assert 60 < refused < 140


def test_a_key_object_of_another_kind_is_refused() -> None:
    """Whatever a library loads, only RSA, P-256, P-384 and Ed25519 become keys."""
    for other in (ed448.Ed448PrivateKey.generate().public_key(), object(), None, private_key("ES256")):
        with pytest.raises(BadKey):
            build_signing_key("kid", other)
