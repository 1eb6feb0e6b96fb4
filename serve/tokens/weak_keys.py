"""Checks for weak public keys that a library loads without complaint."""

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # larger keys only cost CPU time
MIN_EXPONENT = 65537
MAX_EXPONENT = 2**32 - 1  # likewise

# The primes up to 167 for which 65537 is not a generator, each with the order of 65537 modulo the prime.
_ORDERS = (
    (11, 2), (13, 6), (17, 8), (19, 9), (37, 3), (53, 26), (61, 20), (71, 35), (73, 24), (79, 13), (97, 6), (103, 51),
    (107, 53), (109, 54), (127, 42), (151, 50), (157, 78),
)  # fmt: skip
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # y of points of order 8
_SMALL_ORDER = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


def check_rsa(n: int, e: int) -> None:
    """Check modulus and exponent.

    Raises:
        ValueError: a modulus that is too short, too long, even or vulnerable to ROCA, or an exponent that is even or
            out of range.
    """
    if n.bit_length() < MIN_RSA_BITS:
        raise ValueError(f"RSA modulus has fewer than {MIN_RSA_BITS} bits")
    if n.bit_length() > MAX_RSA_BITS:
        raise ValueError(f"RSA modulus has more than {MAX_RSA_BITS} bits")
    if n % 2 == 0:
        raise ValueError("RSA modulus is even")
    if not MIN_EXPONENT <= e <= MAX_EXPONENT or e % 2 == 0:
        raise ValueError("RSA exponent is out of range")
    if is_roca(n):
        raise ValueError("RSA modulus is vulnerable to ROCA (CVE-2017-15361)")


def is_roca(n: int) -> bool:
    """Return whether a modulus is from the flawed generator of CVE-2017-15361.

    Its primes are powers of 65537 modulo every small prime, so the modulus is one too: x is such a power exactly if
    x to the order of 65537 is 1. An honest modulus passes all of the tests below with a chance of about 2**-27.
    """
    return all(pow(n, order, prime) == 1 for prime, order in _ORDERS)


def check_ed25519(raw: bytes) -> None:
    """Check that the 32 bytes are the canonical encoding of a point on the curve that is not of small order.

    `cryptography` loads any 32 bytes. With a key of small order, one signature is valid for many messages.

    Raises:
        ValueError: not a point on the curve, not its canonical encoding, or a point of small order.
    """
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in _SMALL_ORDER:
        raise ValueError("Ed25519 key is of small order or not canonical")
    # x^2 = (y^2 - 1) / (d y^2 + 1) must be a square; u * v is one exactly if u / v is.
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    if pow(u * v % _P, (_P - 1) // 2, _P) != 1:
        raise ValueError("Ed25519 key is not a point on the curve")
