"""Buckets of the key space: all item keys whose digest begins with the same bits."""

from __future__ import annotations

from typing import NamedTuple

ROWS = 500_000  # approximate number of noted or known rows in a bucket, which limits the memory and disk for one bucket
MOST_BITS = 9  # 512 buckets: while rows are distributed, each bucket has an open file, and a Lambda can open 1,024
KEY_BITS = 64  # of k1, the first half of a key's digest


class Bucket(NamedTuple):
    """All keys whose `k1` begins with the `bits` bits of `prefix`; with 0 bits, all keys."""

    bits: int
    prefix: int

    @property
    def name(self) -> str:
        """Name of the bucket in file names; among buckets with the same number of bits, names sort as keys do."""
        return f"{self.bits:02d}-{self.prefix:04x}"

    @property
    def condition(self) -> str:
        """SQL condition on `k1` that is true for the bucket's rows."""
        if not self.bits:
            return "true"
        first = self.prefix << (KEY_BITS - self.bits)
        last = first + (1 << (KEY_BITS - self.bits)) - 1
        return (
            f"k1 between {first}::ubigint and {last}::ubigint"  # numbers of another type would cost ten times the CPU
        )

    def overlaps(self, other: Bucket) -> bool:
        """Return whether a key can be in both: one prefix begins with the other."""
        bits = min(self.bits, other.bits)
        return self.widen(bits) == other.widen(bits)

    def widen(self, bits: int) -> Bucket:
        """Return the larger bucket with fewer bits that this one is part of."""
        return Bucket(bits, self.prefix >> (self.bits - bits))


EVERYTHING = Bucket(0, 0)


def count_bits(rows: int) -> int:
    """Return the number of bits that divides rows into buckets of at most about `ROWS` rows."""
    return min(MOST_BITS, max(0, -(-rows // ROWS) - 1).bit_length())


def divide(bits: int) -> list[Bucket]:
    """Return all buckets with a number of bits, in the order of their keys."""
    return [Bucket(bits, prefix) for prefix in range(1 << bits)]
