"""The checksum of rows: against its definition, and what it cannot miss."""

import numpy as np
import pytest

from lightning_graceful.data.checksum import checksums, multipliers
from tests.data.store_files import checksum, multiplier

WIDTHS = [16, 64, 2016]


def random_rows(count, width, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, width), dtype=np.uint8), generator.integers(0, 2**33, count)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_checksum_follows_its_definition(width, seed):
    rows, numbers = random_rows(20, width)
    expected = [checksum(row.tobytes(), number, seed) for row, number in zip(rows, numbers.tolist(), strict=True)]
    assert checksums(rows, numbers, seed).tolist() == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
def test_every_flipped_bit_changes_the_checksum(width, kind):
    rows = {
        "zeros": np.zeros(width, np.uint8),
        "ones": np.full(width, 255, np.uint8),
        "random": random_rows(1, width)[0][0],
    }
    row = rows[kind]
    places = np.arange((width - 4) * 8)
    flipped = np.repeat(row[None], len(places), axis=0)
    flipped[places, places // 8] ^= (1 << places % 8).astype(np.uint8)
    number = np.array([11])
    sound = checksums(row[None].copy(), number, seed=3)
    assert (checksums(flipped, np.repeat(number, len(places)), seed=3) != sound).all()


def test_every_multiplier_notices_every_bit_whatever_the_row_holds():
    # A changed bit adds this to the sum. A carry from what is below the 30 top bits adds 1 at most: the top bits differ
    # for every row unless they are all 0 or all 1.
    drawn = [int(value) for value in multipliers(2000)]
    assert all(value % 2 for value in drawn)
    for bit in range(64):
        changes = [2**bit] if bit < 32 else [2**bit + 2 ** (bit - 32), 2**bit - 2 ** (bit - 32)]
        tops = [value * change % 2**64 >> 34 for change in changes for value in drawn]
        assert 0 < min(tops) <= max(tops) < 2**30 - 1


def test_multipliers_are_those_of_the_definition():
    assert multipliers(300).tolist() == [multiplier(place) for place in range(300)]


def test_two_flipped_bits_are_noticed():
    # Without the shift, two flips of the top bit of any two words would cancel.
    row, _ = random_rows(1, 64)
    places = np.stack(np.triu_indices(60 * 8, k=1), axis=1)
    flipped = np.repeat(row, len(places), axis=0)
    for place in places.T:
        flipped[np.arange(len(places)), place // 8] ^= (1 << place % 8).astype(np.uint8)
    numbers = np.zeros(len(places), dtype=np.int64)
    assert (checksums(flipped, numbers, 0) != checksums(row, numbers[:1], 0)).all()


def test_a_checksum_is_two_flips_from_an_empty_row_at_least():
    rows, numbers = random_rows(5000, 16)
    found = checksums(rows, numbers, 0)
    assert (found % 4 == 3).all()


def test_row_and_store_are_part_of_the_checksum():
    row, _ = random_rows(1, 64)
    numbers = np.arange(200_000)
    found = checksums(np.repeat(row, len(numbers), axis=0), numbers, 0)
    assert len(np.unique(found)) == len(numbers)
    assert (found != checksums(np.repeat(row, len(numbers), axis=0), numbers, 1)).all()


def test_last_four_bytes_are_left_out():
    rows, numbers = random_rows(3, 64)
    found = checksums(rows, numbers, 0)
    rows[:, -4:] = 0
    assert (checksums(rows, numbers, 0) == found).all()


def test_no_rows():
    assert checksums(np.empty((0, 16), dtype=np.uint8), np.empty(0, dtype=np.int64), 0).shape == (0,)
