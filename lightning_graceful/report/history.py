"""Flips of each sample over the epochs of a training, on disk: one byte a sample and validation.

A history is a folder of plain files:

- ``flips.u8``: one row a validation, one byte a sample: bit 0 new right, bit 1 old right, bit 7 seen; 0 is not seen;
- ``index.i8``: the index of each sample, little-endian int64; missing where sample ``i`` of a row has index ``i``;
- ``history.json``: format version, number of samples, what an index is, and epoch, step and CRC-32 of every row.

A row is on the disk before the header names it, and the header is replaced as a whole: after a crash the header tells
the truth, and what lies beyond its rows was not finished.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
HEADER, ROWS, INDEX = "history.json", "flips.u8", "index.i8"
NEW_RIGHT, OLD_RIGHT, SEEN = 1, 2, 128
BROKEN = SEEN | OLD_RIGHT
MAX_LISTED = 1000

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Churn:
    """How negative flips came and went over the epochs.

    Attributes:
        epochs: Epoch of each validation; several in one epoch are several entries.
        steps: Training step of each validation.
        samples: Samples that were seen at least once.
        broke: Negative flips at each validation.
        fixed: Positive flips at each validation.
        entered: Negative flips at each validation that were none when the sample was seen last; at the first: all.
        left: Samples that are no negative flip any more, though they were when seen last.
        times: ``times[k]`` samples were a negative flip at exactly ``k`` validations.
        always: Indices of the samples that were a negative flip whenever they were seen, the first 1,000 of them.
        always_total: How many there are of these.
        once: Samples that were a negative flip at least once.
    """

    epochs: list[int]
    steps: list[int]
    samples: int
    broke: list[int]
    fixed: list[int]
    entered: list[int]
    left: list[int]
    times: list[int]
    always: list[int]
    always_total: int
    once: int


@dataclass(frozen=True)
class Row:
    """One validation.

    Attributes:
        epoch: Its epoch.
        step: Its training step.
        crc: CRC-32 of the row's bytes.
    """

    epoch: int
    step: int
    crc: int


@dataclass(frozen=True)
class History:
    """A history on disk, or its beginning.

    Attributes:
        path: The folder.
        num_samples: Length of a row.
        rows: The validations.
        index: What the index of a sample is, in words.
        old: Name of the old model; ``""`` for the only one.
        torn: Whether the last row was left out because it is incomplete or damaged.
    """

    path: Path
    num_samples: int
    rows: list[Row] = field(default_factory=list)
    index: str = "position in the dataset"
    old: str = ""
    torn: bool = False

    def bytes(self) -> Iterator[Bytes]:
        """Read row by row.

        Yields:
            Shape ``(num_samples,)``.

        Raises:
            ValueError: If a row is damaged.
        """
        with (self.path / ROWS).open("rb") as file:
            for number, row in enumerate(self.rows):
                said = file.read(self.num_samples)
                if len(said) != self.num_samples or crc32(said) != row.crc:
                    raise ValueError(
                        f"Expected row {number} of {self.path / ROWS} as it was written, got other bytes. The file is "
                        "damaged: restore it, or train again."
                    )
                yield np.frombuffer(said, np.uint8)

    def indices(self) -> NDArray[np.int64]:
        """Read the index of each sample.

        Returns:
            Shape ``(num_samples,)``.

        Raises:
            ValueError: If there is not one a sample.
        """
        if not (self.path / INDEX).exists():
            return np.arange(self.num_samples)
        found = np.fromfile(self.path / INDEX, "<i8").astype(np.int64)
        if len(found) != self.num_samples:
            raise ValueError(
                f"Expected {self.num_samples} indices in {self.path / INDEX}, got {len(found)}. The file is damaged: "
                "restore it, or train again."
            )
        return found

    def summary(self) -> Churn:
        """Add up over the epochs; holds a few bytes a sample, however many rows there are.

        Returns:
            What came and went.
        """
        times, seen = np.zeros(self.num_samples, np.int32), np.zeros(self.num_samples, np.int32)
        broken = np.zeros(self.num_samples, np.bool_)
        moved: list[tuple[int, int, int, int]] = []
        for row in self.bytes():
            is_seen, is_broken = row & SEEN > 0, row & (BROKEN | NEW_RIGHT) == BROKEN
            is_fixed = row & (BROKEN | NEW_RIGHT) == SEEN | NEW_RIGHT
            entered, left = is_broken & ~broken, is_seen & ~is_broken & broken
            moved.append((_total(is_broken), _total(is_fixed), _total(entered), _total(left)))
            broken = np.where(is_seen, is_broken, broken)
            times += is_broken
            seen += is_seen
        always = self.indices()[(times == seen) & (seen > 0)]
        broke, fixed, came, went = ([row[column] for row in moved] for column in range(4))
        return Churn(
            epochs=[row.epoch for row in self.rows],
            steps=[row.step for row in self.rows],
            samples=_total(seen > 0),
            broke=broke,
            fixed=fixed,
            entered=came,
            left=went,
            times=np.bincount(times[seen > 0], minlength=len(moved) + 1).tolist(),
            always=np.sort(always)[:MAX_LISTED].tolist(),
            always_total=len(always),
            once=_total(times > 0),
        )

    def times_of(self, index: int) -> int:
        """Count the validations at which one sample was a negative flip; reads a byte a row.

        Args:
            index: Index of the sample.

        Returns:
            How many.

        Raises:
            IndexError: If there is no such sample.
        """
        places = np.flatnonzero(self.indices() == index)
        if not len(places):
            raise IndexError(f"Expected the index of one of {self.num_samples} samples ({self.index}), got {index}.")
        said = bytearray()
        with (self.path / ROWS).open("rb") as file:
            for number in range(len(self.rows)):
                file.seek(number * self.num_samples + int(places[0]))
                said += file.read(1)
        return _total(np.frombuffer(said, np.uint8) & (BROKEN | NEW_RIGHT) == BROKEN)


def read_history(path: str | Path) -> History:
    """Open what FlipHistory wrote; needs no torch.

    Args:
        path: The folder.

    Returns:
        The history. A last row that is incomplete or damaged is left out, and ``torn`` says so.

    Raises:
        FileNotFoundError: If there is no history.
        ValueError: If the header is damaged or of another format.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> rows = [bytes([130, 131, 129]), bytes([131, 130, 129])]
        >>> known = [{"epoch": number, "step": 10 * number, "crc": crc32(row)} for number, row in enumerate(rows)]
        >>> header = {"format": 1, "num_samples": 3, "index": "position in the dataset", "old": "", "rows": known}
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "flips.u8").write_bytes(b"".join(rows))
        ...     _ = Path(folder, "history.json").write_text(json.dumps(header))
        ...     churn = read_history(folder).summary()
        >>> churn.broke, churn.entered, churn.left, churn.times, churn.once
        ([1, 1], [1, 1], [0, 1], [1, 2, 0], 2)
    """
    path = Path(path)
    header = path / HEADER
    if not header.exists():
        raise FileNotFoundError(f"Expected a history at {header}, got none. Train with FlipHistory({str(path)!r}).")
    try:
        said = json.loads(header.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise ValueError(
                f"Expected format {FORMAT} in {header}, got {said['format']!r}. Update lightning_graceful."
            )
        rows = [Row(**row) for row in said["rows"]]
        history = History(path, said["num_samples"], rows, said["index"], said["old"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"Expected the header of a history in {header}, got {error!r}. Restore it.") from error
    return _without_torn_row(history)


def _without_torn_row(history: History) -> History:
    if not history.rows:
        return history
    before, length = len(history.rows) - 1, history.num_samples
    with (history.path / ROWS).open("rb") as file:
        file.seek(before * length)
        said = file.read(length)
    is_whole = len(said) == length and crc32(said) == history.rows[-1].crc
    return history if is_whole else replace(history, rows=history.rows[:-1], torn=True)


def _total(values: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(values))
