"""Writing prediction files, in the format that :mod:`lightning_graceful.report.reading` describes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_graceful.report.database import Database, column, quoted
from lightning_graceful.report.drafts import draft_of


def write_predictions(path: str | Path, *, id: ArrayLike, label: ArrayLike, **columns: ArrayLike) -> Path:
    """Write what one model said of each sample; a crash on the way leaves an earlier file as it was.

    Args:
        path: File to write, .csv or .parquet; its folder is made.
        id: Which sample, text or integers, shape ``(N,)``.
        label: The model's answer, text or integers, shape ``(N,)``.
        **columns: More columns of the same length: target, confidence, target_score, seed, weight, cost, group,
            seen_by_old, text, image, ``slice:<name>``.

    Returns:
        The path.

    Raises:
        ValueError: If lengths differ, or the file is to be of another kind.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = write_predictions(f"{folder}/old.csv", id=[7, 9], target=["cat", "dog"], label=["cat", "cat"])
        ...     print(file.read_text().strip())
        id,label,target
        7,cat,cat
        9,cat,dog
    """
    path = Path(path)
    arrays = {name: _array(values) for name, values in {"id": id, "label": label, **columns}.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected columns of one length, got {lengths}.")
    if path.suffix not in {".csv", ".parquet"}:
        raise ValueError(f"Expected a file that ends in .csv or .parquet, got {path.name}.")
    kind = "FORMAT PARQUET" if path.suffix == ".parquet" else "FORMAT CSV, HEADER"
    query = f"SELECT {', '.join(map(column, arrays))} FROM predictions"
    with draft_of(path) as draft, Database() as database:
        database.register("predictions", arrays)
        database.run(f"COPY ({query}) TO {quoted(str(draft.absolute()))} ({kind})", subject=str(path))
    return path


def _array(values: ArrayLike) -> "np.ndarray[Any, Any]":
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind == "U" else array
