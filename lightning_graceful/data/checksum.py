"""A checksum for many rows at once, in a few numpy calls that hold the interpreter for microseconds.

A row is seen as 64-bit words ``w``, and ``m * (w ^ (w >> 32))`` is summed modulo 2**64, from a start that differs by
store and row. The top 30 bits of the sum, followed by two ones, are the checksum. So it is never 0, and no single bit
turns the 0 of an empty row into the checksum of a filled one or back. The shift brings the upper bits of a word, which
alone would reach only the upper bits of the sum, down to where the multipliers spread them.
"""

import functools

import numpy as np
from numpy.typing import NDArray

HALF = np.uint64(32)
LOW_HALF = np.uint64(2**32 - 1)
FILLED = np.uint32(3)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: its multiples keep the farthest apart
KEPT_BITS = 30


def checksums(rows: NDArray[np.uint8], numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint32]:
    """Compute the checksum of each row, of its number and of the store that it belongs to.

    Every single flipped bit changes it, whatever the row holds, and so does a move by less than 2**28 rows; any other
    damage goes unnoticed once in 2**30.

    Args:
        rows: Bytes, C-contiguous, shape ``(N, nbytes)``, ``nbytes`` a multiple of 8; the last 4 of each row, where the
            checksum goes, are left out.
        numbers: Row numbers, shape ``(N,)``: a row that moved is noticed.
        seed: A hash of the store's fingerprint in ``[0, 2**32)``: a row of another store is noticed.

    Returns:
        Shape ``(N,)``, never 0, which means "empty".

    Example:
        >>> checksums(np.zeros((2, 16), dtype=np.uint8), np.arange(2), seed=0).tolist()
        [3, 2654435771]
    """
    words: NDArray[np.uint64] = rows.view("<u8")
    mixed = words >> HALF
    mixed ^= words
    mixed[:, -1] = words[:, -1] & LOW_HALF
    sums: NDArray[np.uint64] = np.einsum("ij,j->i", mixed, multipliers(words.shape[1]))
    sums += numbers.view(np.uint64) * GOLDEN
    sums += _start(seed)
    return sums.view("<u4")[1::2] | FILLED


@functools.lru_cache(maxsize=16)
def multipliers(count: int) -> NDArray[np.uint64]:
    """Return fixed odd multipliers, of which each alone lets every flipped bit of its word reach the checksum.

    Args:
        count: How many.

    Returns:
        Shape ``(count,)``; the first ones are the same for every count.
    """
    drawn = _scrambled(np.arange(2**32, 2**32 + count, dtype=np.uint64)) | np.uint64(1)  # no seed is as large
    while not (sound := _notices_every_bit(drawn)).all():  # about one in five million is not
        drawn[~sound] += np.uint64(2)
    return drawn


@functools.lru_cache(maxsize=16)
def _start(seed: int) -> NDArray[np.uint64]:
    return _scrambled(np.array([seed], dtype=np.uint64))


def _notices_every_bit(drawn: NDArray[np.uint64]) -> NDArray[np.bool_]:
    # Flipping bit b changes the mixed word by +-2**b, and for b >= 32 by +-2**(b - 32) as well. Where the top bits of
    # multiplier * change are neither all 0 nor all 1, no carry from below can leave the top bits of the sum alone.
    sound = np.ones(drawn.shape, dtype=np.bool_)
    shift = np.uint64(64 - KEPT_BITS)
    all_ones = np.uint64(2**KEPT_BITS - 1)
    for factor in (1, 2**32 + 1, 2**32 - 1):
        for bit in range(32):
            top = drawn * np.uint64(factor) << np.uint64(bit) >> shift
            sound &= (top != 0) & (top != all_ones)
    return sound


def _scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection without visible structure.
    mixed = values * GOLDEN
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)
