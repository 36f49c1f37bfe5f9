"""A model's answer in a row of its prediction file, as SQL: from a label, from a score a class, or from one score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightning_graceful.report.database import Database, PredictionError, column, quoted

SCORE = "score_"
SUM_SLACK = 1e-3  # of probabilities, which may have been rounded to a few digits
OWN = "graceful:"  # begins the names of columns that are made on the way
GIVEN, RAISED, SHARES, SHARE = (column(f"{OWN}{name}") for name in ("given", "raised", "shares", "share"))
NEGATIVES = {"1": "0", "true": "false", "True": "False"}


@dataclass(frozen=True)
class Reading:
    """How prediction files are to be read.

    Attributes:
        slices: Columns that are slices, beside those named ``slice:...``.
        logits: Whether scores are logits rather than probabilities.
        positive: The class that a single ``score`` is about; found for targets 0 and 1, or false and true.
        label_map: New name of a class by its old name, for the old model's file. None: names agree.
    """

    slices: Sequence[str] = ()
    logits: bool = False
    positive: str | None = None
    label_map: Mapping[str, str] | None = None


class Source(NamedTuple):
    """Something to select rows from.

    Attributes:
        words: What a message calls it.
        relation: SQL after FROM.
        types: Type by column.
    """

    words: str
    relation: str
    types: Mapping[str, str]


class Answer(NamedTuple):
    """How to read the answer.

    Attributes:
        source: What to select from; it may hold more columns than the file.
        values: SQL by name: ``first`` (the answer), ``label`` (NULL where not sure enough), and where known
            ``confidence`` (probability of the answer) and ``target_score`` (probability of the true class).
        classes: Classes that the scores are for; empty for a label.
    """

    source: Source
    values: Mapping[str, str]
    classes: tuple[str, ...] = ()


def answer_of(database: Database, source: Source, reading: Reading, threshold: float | None) -> Answer:
    """Find out how a file says what the model answered.

    Args:
        database: Where to look at the file.
        source: The file.
        reading: How to read it.
        threshold: Least confidence of an answer that counts; with a single ``score`` the least score of a positive.

    Returns:
        The answer.

    Raises:
        PredictionError: If there is none, or it cannot be had at a threshold.
    """
    classes = tuple(name.removeprefix(SCORE) for name in source.types if name.startswith(SCORE))
    if classes:
        return _of_scores(source, classes, reading, threshold)
    if "score" in source.types:
        return _of_score(database, source, reading, 0.5 if threshold is None else threshold)
    if "label" not in source.types:
        raise PredictionError(
            f"{source.words}: expected the model's answer in a column label, score, or score_<class>, got the columns "
            f"{', '.join(source.types)}."
        )
    values = {"first": text(source, "label")}
    values |= {name: number(source, name) for name in ("confidence", "target_score") if name in source.types}
    if threshold is not None and "confidence" not in values:
        raise PredictionError(f"{source.words}: expected a column confidence, or scores, for a threshold; got neither.")
    return Answer(source, values | {"label": _sure(values["first"], values.get("confidence"), threshold)})


def text(source: Source, name: str) -> str:
    """Return SQL of a column as text.

    Args:
        source: The file.
        name: The column.

    Returns:
        SQL.

    Raises:
        PredictionError: If floating numbers stand for ids.
    """
    if source.types[name] in {"FLOAT", "DOUBLE"}:
        if name == "id":
            raise PredictionError(
                f"{source.words}: expected text or integers in id, got {source.types[name]}. Write them as integers."
            )
        # Integers that a data frame turned into floating numbers for the sake of a missing value.
        return f"nullif(regexp_replace(CAST({column(name)} AS VARCHAR), '\\.0$', ''), 'nan')"
    return f"CAST({column(name)} AS VARCHAR)"


def number(source: Source, name: str, kind: str = "FLOAT") -> str:
    """Return SQL of a column as a number, which fails by naming column, value and id where it is none.

    Args:
        source: The file.
        name: The column.
        kind: Type of the number in SQL.

    Returns:
        SQL.
    """
    # As a truth value a NaN would be true.
    cell = text(source, name) if kind == "BOOLEAN" else column(name)
    parsed, given = f"TRY_CAST({cell} AS {kind})", f"CAST({column(name)} AS VARCHAR)"
    words = quoted(f"expected {'true or false' if kind == 'BOOLEAN' else 'a number'} in {name} of id ")
    return (
        f"CASE WHEN {column(name)} IS NULL OR {parsed} IS NOT NULL THEN {parsed} "
        f"ELSE error({words} || CAST(id AS VARCHAR) || ', got ' || {given} || '.') END"
    )


def _of_scores(source: Source, classes: Sequence[str], reading: Reading, threshold: float | None) -> Answer:
    names = "[" + ", ".join(quoted(name) for name in classes) + "]"
    given = "[" + ", ".join(number(source, f"{SCORE}{name}", "DOUBLE") for name in classes) + "]"
    whole = f"list_count({GIVEN}) = {len(classes)} AND isfinite(list_sum({GIVEN}))"
    none = _refused("expected a number in each score column of id ", GIVEN)
    relation = f"(SELECT *, {given} AS {GIVEN} FROM {source.relation})"
    relation = f"(SELECT *, CASE WHEN {whole} THEN {_raised(reading)} ELSE {none} END AS {RAISED} FROM {relation})"
    relation = f"(SELECT *, {_shares(reading)} AS {SHARES} FROM {relation})"
    first = f"{names}[list_position({SHARES}, list_max({SHARES}))]"
    if "label" in source.types:
        first = text(source, "label")
        unknown = _refused("expected a label that has a score column in the row of id ", first)
        first = f"CASE WHEN {first} NOT IN {names} THEN {unknown} ELSE {first} END"
    confidence = f"CAST({SHARES}[list_position({names}, {first})] AS FLOAT)"
    values = {"first": first, "confidence": confidence, "label": _sure(first, confidence, threshold)}
    if "target" in source.types:
        share = f"{SHARES}[list_position({names}, {text(source, 'target')})]"
        values["target_score"] = f"CAST(coalesce({share}, 0) AS FLOAT)"
    return Answer(source._replace(relation=relation), values, tuple(classes))


def _raised(reading: Reading) -> str:
    # The largest logit is taken off first, so that no exponential overflows.
    return f"list_transform({GIVEN}, lambda x: exp(x - list_max({GIVEN})))" if reading.logits else GIVEN


def _shares(reading: Reading) -> str:
    if reading.logits:
        return f"list_transform({RAISED}, lambda x: x / list_sum({RAISED}))"
    fits = f"list_min({RAISED}) >= -1e-6 AND abs(list_sum({RAISED}) - 1) <= {SUM_SLACK}"
    words = "expected probabilities that sum to 1 (say --logits if they are logits) in the score columns of id "
    return f"CASE WHEN {fits} THEN {RAISED} ELSE {_refused(words, GIVEN)} END"


def _refused(words: str, given: str) -> str:
    got = f"coalesce(CAST({given} AS VARCHAR), 'none')"
    return f"error({quoted(words)} || CAST(id AS VARCHAR) || ', got ' || {got} || '.')"


def _of_score(database: Database, source: Source, reading: Reading, threshold: float) -> Answer:
    classes = _two_classes(database, source, reading)
    negative, positive = map(quoted, classes)
    given, fits, words = number(source, "score", "DOUBLE"), f"{GIVEN} BETWEEN 0 AND 1", "expected a probability"
    value = GIVEN
    if reading.logits:
        value, fits, words = f"1 / (1 + exp(-{GIVEN}))", f"isfinite({GIVEN})", "expected a finite number"
    hint = "" if reading.logits else " (say --logits if it is a logit)"
    refused = _refused(f"{words}{hint} as score of id ", GIVEN)
    relation = f"(SELECT *, {given} AS {GIVEN} FROM {source.relation})"
    relation = f"(SELECT *, CASE WHEN {fits} THEN {value} ELSE {refused} END AS {SHARE} FROM {relation})"
    label, first = (f"CASE WHEN {SHARE} >= {least!r} THEN {positive} ELSE {negative} END" for least in (threshold, 0.5))
    of = "CAST(CASE WHEN {} = " + positive + f" THEN {SHARE} ELSE 1 - {SHARE} END AS FLOAT)"
    values = {"first": first, "label": label, "confidence": of.format(f"({label})")}
    values["target_score"] = of.format(text(source, "target"))
    return Answer(source._replace(relation=relation), values, classes)


def _two_classes(database: Database, source: Source, reading: Reading) -> tuple[str, str]:
    if "target" not in source.types:
        raise PredictionError(f"{source.words}: expected a column target beside a single score, got none.")
    query = (
        f"SELECT DISTINCT {text(source, 'target')} FROM {source.relation} WHERE target IS NOT NULL ORDER BY 1 LIMIT 3"
    )
    found = [row[0] for row in database.run(query, subject=source.words).fetchall() if row[0] is not None]
    known = [name for name in NEGATIVES if name in found or NEGATIVES[name] in found]
    positive = reading.positive or next(iter(known), None)
    others = [name for name in found if name != positive]
    if positive is None or len(others) > 1:
        raise PredictionError(
            f"{source.words}: expected two classes for a single score, and which of them it is for, got {found}. "
            "Name it (--positive), or give a score_<class> column for each class."
        )
    return next(iter(others), NEGATIVES.get(positive, f"not {positive}")), positive


def _sure(first: str, confidence: str | None, threshold: float | None) -> str:
    # Both are rounded alike, so that a confidence of just the threshold counts.
    return first if threshold is None else f"CASE WHEN {confidence} >= CAST({threshold!r} AS FLOAT) THEN {first} END"
