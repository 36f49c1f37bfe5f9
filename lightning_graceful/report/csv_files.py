"""Small CSV files that come with predictions (label maps, costs, ids), and how DuckDB is to read big ones."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

from lightning_graceful.report.database import PredictionError, quoted

# A .gz tells only when it is read that it is none.
UNREADABLE = (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error)


def read_rows(path: str | Path, *names: str) -> Iterator[tuple[str, ...]]:
    """Read columns of a small CSV file.

    Args:
        path: The file; .tsv is separated by tabs, .gz is unpacked.
        *names: Columns to read, all of which must have a value in each row.

    Yields:
        Their values, row by row.

    Raises:
        PredictionError: If the file is missing, a column is missing, or a value is.
    """
    path = Path(path)
    with open_text(path) as file:
        reader = csv.DictReader(file, delimiter=separator_of(path), strict=True)
        try:
            missing = [name for name in names if name not in (reader.fieldnames or ())]
            if missing:
                raise PredictionError(
                    f"{path}: expected the columns {', '.join(names)}; missing: {', '.join(missing)}."
                )
            for row in reader:
                if not all(row[name] for name in names):
                    raise PredictionError(f"{path}, line {reader.line_num}: expected a value in {', '.join(names)}.")
                yield tuple(row[name] for name in names)
        except UNREADABLE as error:
            raise PredictionError(f"{path}, line {reader.line_num}: expected CSV in UTF-8, got {error}.") from error


def dialect(path: Path) -> str:
    """Say how DuckDB is to read a file; nothing is guessed.

    DuckDB's own guess may take the first row for names, or an id that begins with # for a comment.

    Args:
        path: The file.

    Returns:
        Arguments of ``read_csv``.

    Raises:
        PredictionError: If the file is empty, or its first row is no header.
    """
    separator = separator_of(path)
    with open_text(path) as file:
        try:
            header = next(csv.reader(file, delimiter=separator), None)
        except UNREADABLE as error:
            raise PredictionError(f"{path}: expected CSV in UTF-8, got {error}.") from error
    _check_header(path, header)
    columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header or ())
    return f"auto_detect=false, header=true, delim={quoted(separator)}, quote='\"', escape='\"', columns={{{columns}}}"


def _check_header(path: Path, header: list[str] | None) -> None:
    if not header:
        raise PredictionError(f"{path}: expected a header, got an empty {'file' if header is None else 'first line'}.")
    if not all(header):
        raise PredictionError(
            f"{path}: expected a name for each column, got {header}. Name or drop the column (pandas: index=False)."
        )
    lowered = [name.lower() for name in header]
    repeated = [name for name in header if lowered.count(name.lower()) > 1]
    if repeated:
        raise PredictionError(
            f"{path}: expected column names that differ, in more than case, got {repeated}. Rename one."
        )


def open_text(path: Path) -> TextIO:
    """Open a text file.

    Args:
        path: The file; .gz is unpacked.

    Returns:
        The open file.

    Raises:
        PredictionError: If there is none, or it may not be read.
    """
    try:
        if path.suffix == ".gz":
            return cast("TextIO", gzip.open(path, "rt", newline="", encoding="utf-8-sig"))
        return path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise PredictionError(f"{path}: {error.strerror or error}.") from error


def separator_of(path: Path) -> str:
    """Return what separates the columns of a file: a tab in .tsv, else a comma."""
    return "\t" if ".tsv" in path.suffixes else ","
