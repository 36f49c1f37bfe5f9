"""Write the files of a history; :mod:`lightning_graceful.report.history` has their format and reads them."""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lightning_graceful.callbacks.folders import write_json
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.history import FORMAT, HEADER, INDEX, ROWS, Bytes, History, Row


def append_row(history: History, row: Bytes, epoch: int, step: int) -> History:
    """Add a validation: first its bytes, then the header that names it.

    Args:
        history: What is there.
        row: Uint8, shape ``(num_samples,)``.
        epoch: Its epoch.
        step: Its training step.

    Returns:
        The longer history.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     history = begin_history(History(Path(folder), 3))
        ...     append_row(history, np.array([130, 131, 0], np.uint8), epoch=0, step=10).summary().broke
        [1]
    """
    said = row.tobytes()
    with (history.path / ROWS).open("r+b") as file:
        file.truncate(len(history.rows) * history.num_samples)  # what a crash left behind the last row
        file.seek(0, os.SEEK_END)
        file.write(said)
        file.flush()
        os.fsync(file.fileno())
    longer = replace(history, rows=[*history.rows, Row(epoch, step, crc32(said))], torn=False)
    _write_header(longer)
    return longer


def begin_history(history: History, indices: NDArray[np.int64] | None = None, rows: Iterable[Bytes] = ()) -> History:
    """Write the files anew, in place of any that are there.

    Args:
        history: What the files shall hold.
        indices: Index of each sample; None where sample ``i`` has index ``i``.
        rows: Bytes of the rows that it has already; may be read from the files that are replaced.

    Returns:
        The history.
    """
    path = history.path
    with draft_of(path / ROWS) as draft:
        with draft.open("wb") as file:
            file.writelines(row.tobytes() for row in rows)
            file.flush()
            os.fsync(file.fileno())
        (path / HEADER).unlink(missing_ok=True)  # none is better than one that goes with other rows
    if indices is None:
        (path / INDEX).unlink(missing_ok=True)
    else:
        indices.astype("<i8").tofile(path / INDEX)
    _write_header(history)
    return history


def _write_header(history: History) -> None:
    said = {"format": FORMAT, "num_samples": history.num_samples, "index": history.index, "old": history.old}
    write_json(history.path / HEADER, {**said, "rows": [asdict(row) for row in history.rows]})
