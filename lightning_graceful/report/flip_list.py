"""The list of everything that broke, as a CSV file that a spreadsheet can open."""

from collections.abc import Mapping
from pathlib import Path

from lightning_graceful.report.database import Database, column, quoted
from lightning_graceful.report.details import COSTLIEST, NO_ANSWER
from lightning_graceful.report.drafts import draft_of
from lightning_graceful.report.joining import BROKE, Joined
from lightning_graceful.report.reading import SLICE

# A spreadsheet runs a cell that starts with one of these signs, unless it is a number.
RUNS = r"^[=+\-@\t\r]"


def write_flips(database: Database, joined: Mapping[str, Joined], path: Path) -> None:
    """Write every negative flip of each candidate: the costliest first, then the surest mistakes.

    Text that a spreadsheet would take for a formula is given a leading apostrophe. A crash on the way leaves an earlier
    file as it was.

    Args:
        database: Holds the rows.
        joined: The rows of each candidate, by name.
        path: File to write; its folder is made.
    """
    parts = " UNION ALL BY NAME ".join(_flips(name, rows, place) for place, (name, rows) in enumerate(joined.items()))
    listed = f"SELECT * EXCLUDE (place, rank) FROM ({parts}) ORDER BY place, rank"
    with draft_of(path) as draft:
        database.run(f"COPY ({listed}) TO {quoted(str(draft.absolute()))} (FORMAT CSV, HEADER)", subject=str(path))


def _flips(name: str, joined: Joined, place: int) -> str:
    texts = {"candidate": quoted(name), "id": "id", "target": "target", "new": f"coalesce(new, '{NO_ANSWER}')"}
    texts |= {f"{SLICE}{key}": column(f"{SLICE}{key}") for key in joined.slices}
    values = {key: _harmless(value) for key, value in texts.items()}
    values |= {key: key for key in ("seed", "old_confidence", "new_confidence", "weight", "cost")}
    values |= {"place": str(place), "rank": f"row_number() OVER (ORDER BY {COSTLIEST})"}
    listed = ", ".join(f"{value} AS {column(key)}" for key, value in values.items())
    return f"(SELECT {listed} FROM {joined.table} WHERE {BROKE})"


def _harmless(text: str) -> str:
    runs = f"regexp_matches({text}, {quoted(RUNS)}) AND TRY_CAST({text} AS DOUBLE) IS NULL"
    return f"CASE WHEN {runs} THEN '''' || {text} ELSE {text} END"
