"""Prediction files: what one model said of each sample, read and checked.

One row a sample (and seed), as CSV, TSV or Parquet. Columns:

=================  ====================================================================================================
``id``             which sample, text or integers; rows of two files are joined by it, never by order
``target``         true class, as text or an integer; in the old model's file, in the new one's, or in both
``label``          the model's answer; or, instead or as well,
``score_<class>``  a score for each class (probabilities, or logits if said so), or one ``score`` of the positive class
``confidence``     probability of the answer, where there are no scores
``target_score``   probability of the true class, where there are no scores
``seed``           run that made the answer, where one file holds several: rows are then joined by id and seed
``weight``         how much the sample counts in rates, at least 0
``cost``           what a mistake on the sample costs, at least 0
``group``          samples that are not independent share a group (frames of a video, rows of a customer)
``seen_by_old``    whether the old model was trained on the sample: such rows are no evidence and are left out
``text``           what the sample says, for the page
``image``          path of a picture of it, from the folder of the file
``slice:<name>``   a property of the sample by which verdicts look; other columns can be named as slices, too
=================  ====================================================================================================
"""

import difflib
from pathlib import Path
from typing import NamedTuple

from lightning_graceful.report.answers import OWN, SCORE, Reading, Source, answer_of, number, text
from lightning_graceful.report.csv_files import dialect
from lightning_graceful.report.database import NAMED, Database, PredictionError, column, named, quoted

SLICE = "slice:"
ANSWERS = ("label", "score", "confidence", "target_score")
ABOUT = ("seed", "weight", "cost", "group", "seen_by_old", "text", "image")
KNOWN = ("id", "target", "slice", *ANSWERS, *ABOUT)
# What makes a row unusable: in words what is expected, in SQL what is not so.
ALWAYS = {"an id in each row": "id IS NULL", "an answer in each row": "{answer} IS NULL"}
RANGES = {
    "target": ("a target in each row", "target IS NULL"),
    "seed": ("a seed in each row", "seed IS NULL"),
    "group": ("a group in each row", '"group" IS NULL'),
    "confidence": ("a probability in confidence", "NOT coalesce(confidence BETWEEN 0 AND 1.00001, false)"),
    "target_score": ("a probability in target_score", "NOT coalesce(target_score BETWEEN 0 AND 1.00001, false)"),
    "weight": ("a finite weight of at least 0", "NOT coalesce(weight >= 0 AND isfinite(weight), false)"),
    "cost": ("a finite cost of at least 0", "NOT coalesce(cost >= 0 AND isfinite(cost), false)"),
    "seen_by_old": ("true or false in seen_by_old", "seen_by_old IS NULL"),
}
TAKEN = ("", "all", "class")  # what budgets call all rows and the true class
NUMBERS = {"weight": "DOUBLE", "cost": "DOUBLE", "seen_by_old": "BOOLEAN", "seed": "BIGINT"}


class Table(NamedTuple):
    """One file in the database.

    Attributes:
        name: Table with the columns ``id``, ``label`` and those that ``columns`` names.
        path: The file.
        rows: Rows in it.
        columns: What is known beside id and answer; ``first``, the answer whatever its confidence, where a threshold
            tells them apart.
        slices: Names of its slices; their columns are called ``slice:<name>``.
        classes: Classes that the scores are for; empty without scores.
        id_type: Type of the ids in the file.
        unused: Columns that mean nothing here.
    """

    name: str
    path: Path
    rows: int
    columns: frozenset[str]
    slices: tuple[str, ...]
    classes: tuple[str, ...]
    id_type: str
    unused: tuple[str, ...]


def read_predictions(
    database: Database, path: str | Path, name: str, reading: Reading, *, threshold: float | None = None
) -> Table:
    """Read one file into a table.

    Args:
        database: Where to.
        path: The file: .csv or .tsv (also .gz), or .parquet.
        name: Name for the table.
        reading: How to read it.
        threshold: Least confidence of an answer that counts: others become NULL, "no answer". With a single ``score``
            the least score of the positive class.

    Returns:
        The table.

    Raises:
        PredictionError: If the file is missing, empty or malformed, a column is missing, or a value cannot be used.
    """
    source = open_source(database, Path(path))
    slices = _slices(source, reading)
    _check_names(source, {*slices.values()})
    answer = answer_of(database, source, reading, threshold)
    values = {**answer.values, **_about(source, slices)}
    if values["first"] == values["label"]:
        del values["first"]
    listed = ", ".join(f"{value} AS {column(key)}" for key, value in values.items())
    create = f"CREATE TABLE {column(name)} AS SELECT {text(source, 'id')} AS id, {listed} FROM {answer.source.relation}"
    database.run(create, subject=str(path))
    if reading.label_map:
        _rename(database, name, reading, [key for key in ("first", "label", "target") if key in values])
    columns = frozenset(values) - {"label"}
    rows = _checked(database, name, source, columns)
    used = {*KNOWN, *slices.values(), *(key for key in source.types if key.startswith(SCORE) and answer.classes)}
    classes = tuple((reading.label_map or {}).get(key, key) for key in answer.classes)
    unused = tuple(key for key in source.types if key not in used)
    return Table(name, Path(path), rows, columns, tuple(slices), classes, source.types["id"], unused)


def open_source(database: Database, path: Path) -> Source:
    """Look at a file without reading it all.

    Args:
        database: The database that will read it.
        path: The file.

    Returns:
        What it holds.

    Raises:
        PredictionError: If there is no such file, or it is of no known kind.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: no such file.")
    # DuckDB takes *, ? and [ in a path for a pattern, and ~ for the home.
    literal = quoted("".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path.absolute())))
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if suffix not in {".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"}:
        raise PredictionError(
            f"{path}: expected .csv, .tsv, .csv.gz, .tsv.gz or .parquet, got {suffix or 'no suffix'}."
        )
    # Nor is a folder called seed=1 a column.
    options = "" if suffix == ".parquet" else f", {dialect(path)}"
    reader = "read_parquet" if suffix == ".parquet" else "read_csv"
    relation = f"{reader}({literal}, hive_partitioning=false{options})"
    described = database.run(f"DESCRIBE SELECT * FROM {relation}", subject=str(path)).fetchall()
    return Source(str(path), relation, {row[0]: row[1] for row in described})


def _slices(source: Source, reading: Reading) -> dict[str, str]:
    # The column of each slice, by its name.
    marked = {name.removeprefix(SLICE): name for name in source.types if name.startswith(SLICE)}
    asked = {name: name for name in ("slice", *reading.slices) if name in source.types}
    for name in {**asked, **marked}:
        if name in TAKEN:
            raise PredictionError(
                f"{source.words}: expected another name for a slice than {name!r}. Rename the column."
            )
    return {**asked, **marked}


def _check_names(source: Source, slices: set[str]) -> None:
    names = [*source.types]
    if "id" not in names:
        hint = " Separate columns by commas." if len(names) == 1 else ""
        raise PredictionError(f"{source.words}: expected a column id, got {named(names[:NAMED], len(names))}.{hint}")
    if own := [name for name in names if name.lower().startswith(OWN)]:
        raise PredictionError(f"{source.words}: expected no column that begins with {OWN}, got {own[0]!r}. Rename it.")
    for name in (name for name in names if name not in {*KNOWN, *slices} and not name.startswith(SCORE)):
        close = difflib.get_close_matches(name.lower(), KNOWN, 1, 0.8)
        if close and close[0] not in names:
            raise PredictionError(
                f"{source.words}: the column {name!r} means nothing here. Call it {close[0]!r} if it is that, name it "
                "as a slice (--slice) if it is a property of the sample, or else call it something quite different."
            )


def _about(source: Source, slices: dict[str, str]) -> dict[str, str]:
    given = [name for name in ("target", *ABOUT) if name in source.types]
    about = {name: number(source, name, NUMBERS[name]) if name in NUMBERS else text(source, name) for name in given}
    if "image" in about:
        about["image"] = f"{quoted(str(Path(source.words).resolve().parent))} || '/' || {about['image']}"
    # An empty cell is a value of its own: what nobody filled in may well be what breaks.
    return about | {f"{SLICE}{name}": f"coalesce({text(source, held)}, '')" for name, held in slices.items()}


def _rename(database: Database, name: str, reading: Reading, columns: list[str]) -> None:
    database.run("CREATE OR REPLACE TEMP TABLE label_map (old_name VARCHAR, new_name VARCHAR)")
    for pair in (reading.label_map or {}).items():
        database.run("INSERT INTO label_map VALUES ($old, $new)", {"old": pair[0], "new": pair[1]})
    for key in columns:
        database.run(f"UPDATE {column(name)} SET {key} = new_name FROM label_map WHERE {key} = old_name")


def _checked(database: Database, name: str, source: Source, columns: frozenset[str]) -> int:
    # The number of rows, once nothing is wrong with them.
    answer = "first" if "first" in columns else "label"
    always = {words: bad.format(answer=answer) for words, bad in ALWAYS.items()}
    rules = {**always, **{words: bad for key, (words, bad) in RANGES.items() if key in columns}}
    counts = ", ".join(f"count_if({bad})" for bad in rules.values())
    rows, *found = database.one(f"SELECT count(*), {counts} FROM {column(name)}")
    if not rows:
        raise PredictionError(f"{source.words}: expected rows, got a header only.")
    for (words, bad), count in zip(rules.items(), found, strict=True):
        if count:
            ids = database.all(f"SELECT coalesce(id, '(none)') FROM {column(name)} WHERE {bad} LIMIT {NAMED}")
            raise PredictionError(
                f"{source.words}: expected {words}, not so for id {named([row[0] for row in ids], count)}."
            )
    _check_keys(database, name, source, columns)
    return int(rows)


def _check_keys(database: Database, name: str, source: Source, columns: frozenset[str]) -> None:
    key = "id, seed" if "seed" in columns else "id"
    repeated = f"SELECT {key} FROM {column(name)} GROUP BY {key} HAVING count(*) > 1"
    found = database.all(f"SELECT id, count(*) OVER () FROM ({repeated}) ORDER BY id LIMIT {NAMED}")
    if found:
        raise PredictionError(
            f"{source.words}: expected each {key.replace(', ', ' and ')} once, got repeatedly: "
            f"{named([row[0] for row in found], found[0][1])}. Keep one row of each."
        )
