"""Samples that an update must not break: one flip among them rejects it, whatever the rates."""

from pathlib import Path

from lightning_graceful.report.csv_files import read_rows
from lightning_graceful.report.database import NAMED, Database, PredictionError, named
from lightning_graceful.report.joining import EVERY, Joined
from lightning_graceful.report.summary import Check
from lightning_graceful.report.words import counted


def kept_check(database: Database, joined: Joined, path: str | Path) -> Check:
    """Look whether the samples that must be kept are.

    Samples that the old model was trained on are looked at, too.

    Args:
        database: Holds the rows.
        joined: The rows.
        path: CSV file with the column ``id``.

    Returns:
        Reject where the new model breaks one of them, else accept.

    Raises:
        PredictionError: If the file names none, or one that was not tested.
    """
    database.run("CREATE OR REPLACE TEMP TABLE must_keep (id VARCHAR)")
    ids = [row[0] for row in read_rows(path, "id")]
    if not ids:
        raise PredictionError(f"{path}: expected ids of samples that must be kept, got none.")
    database.run("INSERT INTO must_keep SELECT DISTINCT unnest($ids)", {"ids": ids})
    rows = f"{joined.table}{EVERY}"
    lone = f"FROM must_keep ANTI JOIN {rows} USING (id)"
    (missing,) = database.one(f"SELECT count(*) {lone}")
    if missing:
        names = [row[0] for row in database.all(f"SELECT id {lone} ORDER BY id LIMIT {NAMED}")]
        raise PredictionError(f"{path}: expected ids that were tested, got id {named(names, missing)}.")
    broke = f"SEMI JOIN {rows} r ON must_keep.id = r.id AND r.old_right AND NOT r.new_right"
    broken = [row[0] for row in database.all(f"SELECT DISTINCT id FROM must_keep {broke} ORDER BY id")]
    asked = counted(len(set(ids)), "sample")
    reason = f"None of {asked} that must be kept broke."
    if broken:
        listed = named(broken[:NAMED], len(broken))
        reason = f"{counted(len(broken), 'sample')} of {len(set(ids)):,} that must be kept broke: id {listed}."
    return Check("keep what must be kept", asked, "reject" if broken else "accept", reason)
