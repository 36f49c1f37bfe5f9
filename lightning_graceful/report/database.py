"""A DuckDB database of one comparison: on disk, with a bound on its memory, gone when the comparison is."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duckdb import DuckDBPyConnection

MEMORY = "1GB"
OFF = ("autoinstall_known_extensions", "autoload_known_extensions", "enable_progress_bar")
NAMED = 5  # offenders that a message names
# DuckDB's words of a malformed CSV file, and ours.
WORDS = {
    r"CSV Error on Line: (\d+) .*Expected Number of Columns: (\d+) Found: (\d+).*": (
        r"expected \2 columns, got \3 in line \1. Quote a value that holds a separator."
    ),
    r"CSV Error on Line: (\d+) .*unterminated quote.*": (
        r"expected quotes that end, got an open one in line \1. Double a quote within a quoted value."
    ),
    r"CSV Error on Line: (\d+) .*not utf-8.*": r"expected UTF-8, got other bytes in line \1. Save the file as UTF-8.",
    r"The CSV Parser state machine .*": "expected CSV as in RFC 4180, got mixed line ends or quotes. Save it anew.",
}


class PredictionError(ValueError):
    """A prediction file cannot be used as it is: the message says what was expected, what was found, what helps."""


class Database:
    """Tables of one comparison, in a temporary folder that goes with it.

    Rows are kept on disk (30 to 100 bytes each, and what the columns of the user take); what an operation needs beyond
    ``memory`` goes to the same folder.

    Args:
        memory: Most memory that DuckDB may take, such as "1GB".

    Raises:
        PredictionError: If this is no size of a memory.

    Example:
        >>> with Database() as database:
        ...     database.one("SELECT 41 + 1")
        (42,)
    """

    def __init__(self, memory: str = MEMORY) -> None:
        import duckdb

        self._folder = tempfile.TemporaryDirectory(prefix="graceful-", ignore_cleanup_errors=True)
        self._connection: DuckDBPyConnection = duckdb.connect(str(Path(self._folder.name, "rows.duckdb")))
        self._errors = duckdb.Error
        # Nothing is fetched from anywhere, whatever a file is called; standard output is ours.
        settings = {"memory_limit": memory, "temp_directory": self._folder.name}
        settings |= dict.fromkeys(OFF, "false")
        try:
            for name, value in settings.items():
                self.run(f"SET {name} = {quoted(value)}", subject=f"{name} {value}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Database":
        """Return the database."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close and remove it."""
        self.close()

    def close(self) -> None:
        """Remove the database and its folder."""
        self._connection.close()
        self._folder.cleanup()

    def run(self, query: str, values: "Mapping[str, Any] | None" = None, *, subject: str = "") -> "Any":
        """Run a statement.

        Args:
            query: SQL with ``$name`` for values.
            values: The values.
            subject: What an error is about, such as a file.

        Returns:
            The connection, to fetch from.

        Raises:
            PredictionError: If DuckDB refuses the data; its own words, without its advice.
            KeyboardInterrupt: If the user stops it.
            RuntimeError: If DuckDB fails otherwise.
        """
        try:
            return self._connection.execute(query, values) if values else self._connection.execute(query)
        except self._errors as error:
            words = _plain(str(error))
            raise PredictionError(f"{subject}: {words}" if subject else words) from error
        except RuntimeError as error:  # as DuckDB says Ctrl-C
            if "interrupted" in str(error).lower():
                raise KeyboardInterrupt from error
            raise

    def register(self, name: str, arrays: "Mapping[str, Any]") -> None:
        """Make numpy arrays of one length readable as a table, without a copy."""
        self._connection.register(name, dict(arrays))

    def one(self, query: str, values: "Mapping[str, Any] | None" = None) -> tuple[Any, ...]:
        """Return the only row of a query."""
        row: tuple[Any, ...] = self.run(query, values).fetchone()
        return row

    def all(self, query: str, values: "Mapping[str, Any] | None" = None) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        rows: list[tuple[Any, ...]] = self.run(query, values).fetchall()
        return rows

    def arrays(self, query: str) -> dict[str, Any]:
        """Return the columns of a query as numpy arrays."""
        columns: dict[str, Any] = self.run(query).fetchnumpy()
        return columns


def _plain(error: str) -> str:
    words = " ".join(re.split("Possible |LINE 1:", error)[0].split()).removeprefix("Invalid Input Error: ")
    for theirs, ours in WORDS.items():
        words = re.sub(theirs, ours, words)
    return words


def column(name: str) -> str:
    """Quote a name for SQL.

    Args:
        name: Name of a column or a table.

    Returns:
        The quoted name.

    Example:
        >>> column('an "odd" name')
        '"an ""odd"" name"'
    """
    return '"' + name.replace('"', '""') + '"'


def quoted(text: str) -> str:
    """Quote a text for SQL.

    Args:
        text: Any text.

    Returns:
        The literal.

    Example:
        >>> quoted("it's")
        "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def named(values: "list[Any]", total: int) -> str:
    """Name some offenders and say how many there are.

    Args:
        values: The first few.
        total: How many there are.

    Returns:
        Such as "7, 9 and 12 more".

    Example:
        >>> named(["7", "9"], 14), named(["7"], 1)
        ('7, 9 and 12 more', '7')
    """
    words = ", ".join(str(value) if len(str(value)) <= 80 else f"{str(value)[:79]}…" for value in values)
    more = total - len(values)
    return f"{words} and {more:,} more" if more > 0 else words
