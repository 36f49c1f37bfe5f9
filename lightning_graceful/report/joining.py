"""Two prediction files joined by id, never by order; whatever does not fit is named."""

from collections.abc import Mapping
from typing import NamedTuple

from lightning_graceful.report.database import NAMED, Database, PredictionError, column, named
from lightning_graceful.report.reading import SLICE, Table

COSTS = "costs"  # table of target, answer, cost
EVERY = "_every"  # ends the name of the view that holds all rows, those that are no evidence, too
STORED = "_stored"  # ends the name of the table behind it
DEFAULTS = {
    "seed": "CAST(0 AS BIGINT)",
    "weight": "CAST(1 AS DOUBLE)",
    "cost": "CAST(1 AS DOUBLE)",
    "cluster": "id",
    "text": "CAST(NULL AS VARCHAR)",
    "image": "CAST(NULL AS VARCHAR)",
    "seen": "false",
    "differs": "false",
    "old_first": "old",
    "new_first": "new",
    **{f"{side}_{key}": "CAST(NULL AS FLOAT)" for side in ("old", "new") for key in ("confidence", "target_score")},
}
# An answer withheld below the threshold (NULL) is not right.
RIGHT = {
    "old_right": "coalesce(old = target, false)",
    "new_right": "coalesce(new = target, false)",
    "old_first_right": "old_first = target",
    "new_first_right": "new_first = target",
}
BROKE = "old_right AND NOT new_right"  # a negative flip


class Joined(NamedTuple):
    """The rows of the old and of one new model, side by side.

    Columns: id, seed, target, old, new (NULL: no answer at the threshold), old_first, new_first, old_confidence,
    new_confidence, old_target_score, new_target_score (NULL where not known), weight, cost, cluster, text, image,
    ``slice:<name>``, and old_right, new_right, old_first_right, new_first_right.

    Attributes:
        table: Name of the table.
        rows: Rows that count as evidence.
        samples: Distinct ids among them.
        left_out: Rows that the old model was trained on, which are no evidence.
        slices: Names of the slices.
        has_seeds: Whether samples are told apart by seed, too.
        has_weights: Whether rows have weights.
        has_costs: Whether rows have costs.
        has_groups: Whether samples belong to groups.
        has_confidences: Whether both models say how sure they are.
        unmatched: Rows of either file that the other lacks; none unless these were allowed.
    """

    table: str
    rows: int
    samples: int
    left_out: int
    slices: tuple[str, ...]
    has_seeds: bool
    has_weights: bool
    has_costs: bool
    has_groups: bool
    has_confidences: bool
    unmatched: int

    @property
    def is_clustered(self) -> bool:
        """Whether rows belong together: by group, or as answers of several seeds to one sample."""
        return self.has_groups or self.samples < self.rows

    @property
    def is_independent(self) -> bool:
        """Whether each row is a sample of its own that counts once."""
        return not (self.is_clustered or self.has_weights)


def join(database: Database, old: Table, new: Table, name: str, *, common: bool = False, costs: bool = False) -> Joined:
    """Join two files into a table.

    Args:
        database: Holds both.
        old: The old model's file.
        new: The new model's file.
        name: Name for the table.
        common: Whether to go on with the ids that both have, rather than refuse files that differ.
        costs: Whether the table ``costs`` says what each kind of mistake costs.

    Returns:
        The joined table.

    Raises:
        PredictionError: If ids or targets differ, or no file has a target; the message names ids.
    """
    if not {"target"} & (old.columns | new.columns):
        raise PredictionError(f"Expected a column target in {old.path} or {new.path}, got none.")
    if costs and "cost" in old.columns | new.columns:
        raise PredictionError("Expected a column cost or a file of costs, got both. Drop one of them.")
    key = "id, seed" if "seed" in old.columns & new.columns else "id"
    if "seed" in old.columns and key == "id":
        raise PredictionError(f"{new.path}: expected a column seed, as {old.path} has one; got none.")
    _create(
        database, name, _stored(old, new, costs=costs), f"{_from(old, new, key)}{_priced(old, new) if costs else ''}"
    )
    joined, differing, left_out = database.one(f"SELECT count(*), count_if(differs), count_if(seen) FROM {name}{EVERY}")
    # With a key of id alone a new file may hold several answers to one old one: counts alone say nothing then.
    fits = joined == old.rows == new.rows and (key != "id" or "seed" not in new.columns)
    unmatched = 0 if fits else _unmatched(database, old, new, key, common=common)
    if differing:
        _refuse_difference(database, old, new, key)
    distinct = "count(DISTINCT id)" if "seed" in new.columns else "count(*)"
    rows, samples = database.one(f"SELECT count(*), {distinct} FROM {name}")
    if not rows:
        raise PredictionError(f"Expected rows in both {old.path} and {new.path} to compare, got none that count.")
    known = old.columns | new.columns
    return Joined(
        name, rows, samples, left_out, tuple(dict.fromkeys([*old.slices, *new.slices])),
        has_seeds="seed" in new.columns, has_weights="weight" in known, has_costs=costs or "cost" in known,
        has_groups="group" in known, has_confidences="confidence" in old.columns & new.columns, unmatched=unmatched,
    )  # fmt: skip


def _unmatched(database: Database, old: Table, new: Table, key: str, *, common: bool) -> int:
    total = 0
    for mine, other in ((old, new), (new, old)):
        lone = f"FROM {mine.name} ANTI JOIN {other.name} USING ({key})"
        (count,) = database.one(f"SELECT count(*) {lone}")
        if count and not common:
            ids = [row[0] for row in database.all(f"SELECT id {lone} ORDER BY id LIMIT {NAMED}")]
            kinds = "" if old.id_type == new.id_type else f" (ids are {old.id_type} in one, {new.id_type} in the other)"
            raise PredictionError(
                f"{other.path}: expected the same ids as in {mine.path}, got no id {named(ids, count)}{kinds}. "
                "Complete the files, or say --common to compare the ids that both have."
            )
        total += count
    return total


def _shared(old: Table, new: Table) -> list[str]:
    # What both files say of a sample, and so must say alike.
    slices = [f"{SLICE}{name}" for name in old.slices]
    return [name for name in ("target", "weight", "cost", "group", *slices) if name in old.columns & new.columns]


def _differs(name: str) -> str:
    first, second = f"o.{column(name)}", f"n.{column(name)}"
    # A number may have been stored in single precision.
    return f"abs({first} - {second}) > 1e-6 * {first}" if name in {"weight", "cost"} else f"{first} <> {second}"


def _refuse_difference(database: Database, old: Table, new: Table, key: str) -> None:
    for name in _shared(old, new):
        rows = f"FROM {_from(old, new, key)} WHERE {_differs(name)}"
        ids = [row[0] for row in database.all(f"SELECT id {rows} ORDER BY id LIMIT {NAMED}")]
        if ids:
            (count,) = database.one(f"SELECT count(*) {rows}")
            remedy = "Drop the column from one of them."
            if name == "target":
                remedy = "Use one labelling, or a label map (--label-map) if the classes were renamed."
            raise PredictionError(
                f"Expected one {name} for each id in {old.path} and {new.path}, got two for id {named(ids, count)}. "
                f"{remedy}"
            )


def _create(database: Database, name: str, stored: Mapping[str, str], source: str) -> None:
    # What every row has alike is not stored but said by a view.
    listed = ", ".join(f"{value} AS {column(key)}" for key, value in stored.items())
    database.run(f"CREATE TABLE {name}{STORED} AS SELECT {listed} FROM {source}")
    given = {key: value for key, value in DEFAULTS.items() if key not in stored}
    derived = ", ".join(f"{value} AS {key}" for key, value in {**given, **RIGHT}.items())
    database.run(f"CREATE VIEW {name}{EVERY} AS SELECT *, {derived} FROM {name}{STORED}")
    # What has no weight counts nowhere, and what the old model was trained on is no evidence.
    database.run(f"CREATE VIEW {name} AS SELECT * FROM {name}{EVERY} WHERE NOT seen AND weight > 0")


def _stored(old: Table, new: Table, *, costs: bool) -> dict[str, str]:
    sides = (("old", "o", old), ("new", "n", new))
    names = ("target", "weight", "cost", "text", "image", *(f"{SLICE}{name}" for name in (*old.slices, *new.slices)))
    values = {"id": "o.id"}
    values |= {name: f"{_holder(name, old, new)}.{column(name)}" for name in names if name in old.columns | new.columns}
    if "group" in old.columns | new.columns:
        values["cluster"] = f"{_holder('group', old, new)}.{column('group')}"
    if "seed" in new.columns:
        values["seed"] = "n.seed"
    if shared := _shared(old, new):
        values["differs"] = " OR ".join(map(_differs, shared))
    if costs:
        values["cost"] = f"coalesce({COSTS}.cost, 1)"
    if seen := [f"{alias}.seen_by_old" for _, alias, table in sides if "seen_by_old" in table.columns]:
        values["seen"] = " OR ".join(seen)
    for side, alias, table in sides:
        values[side] = f"{alias}.label"
        if "first" in table.columns:
            values[f"{side}_first"] = f"{alias}.first"
        values |= {f"{side}_{key}": f"{alias}.{key}" for key in ("confidence", "target_score") if key in table.columns}
    return values


def _holder(name: str, old: Table, new: Table) -> str:
    return "o" if name in old.columns else "n"


def _from(old: Table, new: Table, key: str) -> str:
    return f"{old.name} o JOIN {new.name} n USING ({key})"


def _priced(old: Table, new: Table) -> str:
    target = f"{_holder('target', old, new)}.target"
    return f" LEFT JOIN {COSTS} ON {COSTS}.target = {target} AND {COSTS}.answer = n.label"
