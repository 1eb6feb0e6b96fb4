"""A fixed grid of cells over all numbers, so that distributions of different outputs can be compared.

A cell has the numbers that share sign, exponent and the first 9 bits of the fraction: it is at most 0.2 % wide, and
whole numbers up to 1,024 have cells of their own. Cells are numbered in the order of their numbers.
"""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.compute as pc

_DROPPED = 14  # bits, of the 23 of a float32's fraction
_MAGNITUDE = pa.scalar(0x7FFFFFFF, pa.int32())  # all bits but the sign
_LARGEST = 3.4028234663852886e38  # the largest float32; larger numbers share its cell


def find_cells(numbers: pa.Array) -> pa.Array:
    """Return the cell of each finite double, as int32."""
    bounded = pc.min_element_wise(pc.max_element_wise(numbers, -_LARGEST), _LARGEST)
    narrow = pc.add(pc.cast(bounded, pa.float32(), safe=False), pa.scalar(0, pa.float32()))  # -0.0 becomes 0.0
    bits = narrow.view(pa.int32())
    magnitude = pc.shift_right(pc.bit_wise_and(bits, _MAGNITUDE), pa.scalar(_DROPPED, pa.int32()))
    return pc.if_else(pc.less(bits, pa.scalar(0, pa.int32())), pc.bit_wise_not(magnitude), magnitude)


def find_cell(number: float) -> int:
    """Return the cell of a finite number."""
    cell: int = find_cells(pa.array([number], pa.float64()))[0].as_py()
    return cell


def find_number(cell: int) -> float:
    """Return the number of a cell that is nearest to 0; for small whole numbers, this is the number itself."""
    magnitude = cell if cell >= 0 else ~cell
    number: float = struct.unpack("<f", struct.pack("<I", magnitude << _DROPPED))[0]
    return number if cell >= 0 else -number
