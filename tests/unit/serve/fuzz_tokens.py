"""`python -m tests.unit.serve.fuzz_tokens [COUNT] [SEED]`: millions of mutated tokens, none of which may crash it.

A mutation works on the text, on the decoded parts, or on the JSON before it is signed anew,
so that every layer is reached.
Whatever the verifier takes must say what an independent reading of it says.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from typing import Any

from serve.tokens.jwt import InvalidToken, verify
from tests.unit.serve.kit import ALGORITHMS, AUDIENCE, ISSUER, NOW, POLICY, all_keys, b64, claims, private_key, sign

ATOMS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, NOW, NOW + 60, NOW - 60, 10**30, 1e308, "", "x", ISSUER, AUDIENCE, "RS256-0",
    "RS256", "none",
    "at+jwt", "JWT", [], {}, [AUDIENCE], [None], {"a": 1}, "\ud7ff", "\x00",
)  # fmt: skip
NAMES = (
    "alg",
    "kid",
    "typ",
    "cty",
    "crit",
    "b64",
    "jwk",
    "iss",
    "aud",
    "exp",
    "iat",
    "nbf",
    "sub",
    "jti",
    "scope",
    "x",
)
SPLICES = (
    b"NaN", b"Infinity", b"1e999", b'{"a":1,"a":1}', b'"\\ud800"', b"\xff", b"\xef\xbb\xbf", b"[" * 30, b"\x00",
    b"\n", b",", b"}", b'"'
)  # fmt: skip
TEXTS = ("=", ".", " ", "\n", "+", "/", "A", "_", "-", "\u00e9", "\u0661", "%", ",", '"')


def fuzz(count: int, seed: int) -> Counter[str]:
    """Try `count` mutated tokens; return how often each reason occurred, and `taken` for accepted tokens.

    Raises:
        AssertionError: a token was taken that says something else than its claims, or that was not signed as it is.
        Exception: whatever the verifier raised that is not an InvalidToken.
    """
    source = random.Random(seed)
    keys = all_keys()
    good = {algorithm: sign(algorithm=algorithm) for algorithm in ALGORITHMS}
    found: Counter[str] = Counter()
    for _ in range(count):
        kind = source.randrange(4)
        token = _resigned(source) if kind == 0 else _changed(source, good[source.choice(ALGORITHMS)])
        try:
            said = verify(token, keys, POLICY, NOW)
        except InvalidToken as error:
            found[error.reason] += 1
            continue
        found["taken"] += 1
        assert kind == 0 or token in good.values(), f"accepted without a signature: {token}"
        assert said["iss"] == ISSUER
        assert said["aud"] == AUDIENCE or AUDIENCE in said["aud"]
        assert said["exp"] > NOW >= said["iat"]
    return found


def _resigned(source: random.Random) -> str:
    """Change header or claims, as JSON or as bytes, and sign the result with a valid key."""
    header: dict[str, Any] = {"alg": "EdDSA", "kid": "EdDSA-0", "typ": "at+jwt"}
    parts: list[dict[str, Any]] = [header, claims()]
    for _ in range(source.randrange(3)):
        parts[source.randrange(2)][source.choice(NAMES)] = source.choice(ATOMS)
    texts = [bytearray(json.dumps(part).encode()) for part in parts]
    if source.random() < 0.5:
        text = texts[source.randrange(2)]
        place = source.randrange(len(text))
        text[place : place + source.randrange(3)] = source.choice(SPLICES)
    signed = ".".join(b64(bytes(text)) for text in texts)
    return f"{signed}.{b64(private_key('EdDSA').sign(signed.encode()))}"


def _changed(source: random.Random, token: str) -> str:
    """Change the text of a valid token somewhere."""
    for _ in range(source.randrange(1, 4)):
        place = source.randrange(len(token))
        match source.randrange(6):
            case 0:
                token = token[:place] + source.choice(TEXTS) + token[place:]
            case 1:
                token = token[:place] + source.choice(TEXTS) + token[place + 1 :]
            case 2:
                token = token[:place] + token[place + source.randrange(1, 9) :] or "."
            case 3:
                token = token[: max(1, place)]
            case 4:
                parts = token.split(".")
                source.shuffle(parts)
                token = ".".join(parts)
            case _:
                token = token[:place] + chr(source.randrange(1, 0x3000)) + token[place + 1 :]
    return token


def main() -> None:
    """Fuzz, and print the result."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    print(f"{count} tokens, seed {seed}")
    for reason, times in fuzz(count, seed).most_common():
        print(f"{times:10} {reason}")


if __name__ == "__main__":
    main()
