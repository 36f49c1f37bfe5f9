"""What lies behind the rates: flips between classes, flips one by one, confidence and calibration."""

import math

from lightning_graceful.report.database import NAMED, Database, PredictionError, column, named
from lightning_graceful.report.joining import BROKE, Joined
from lightning_graceful.report.reading import SLICE
from lightning_graceful.report.summary import Bin, Calibration, FlipRow, Pair

BINS = 15  # of reliability, as in Guo et al., ICML 2017
TENTHS = 10
NO_ANSWER = "(no answer)"
LEAST = 1e-12  # probability that a log-likelihood takes a true class of probability 0 for
COSTLIEST = "weight * cost DESC, new_confidence DESC NULLS LAST, id, seed"


def flip_pairs(database: Database, joined: Joined) -> tuple[Pair, ...]:
    """Count negative flips by true class and new answer.

    Args:
        database: Holds the rows.
        joined: The rows.

    Returns:
        The pairs, the most frequent first.
    """
    rows = database.all(
        f"SELECT target, coalesce(new, '{NO_ANSWER}'), count(*) AS n, sum(weight * cost) FROM {joined.table} "
        f"WHERE {BROKE} GROUP BY ALL ORDER BY n DESC, 1, 2"
    )
    return tuple(Pair(target, new, count, float(cost)) for target, new, count, cost in rows)


def worst_flips(database: Database, joined: Joined, limit: int) -> tuple[FlipRow, ...]:
    """Give negative flips one by one: the costliest first, then the surest mistakes.

    Args:
        database: Holds the rows.
        joined: The rows.
        limit: Most flips to return.

    Returns:
        The flips.
    """
    slices = "".join(f", {column(SLICE + name)}" for name in joined.slices)
    seed = "seed" if joined.has_seeds else "NULL"
    rows = database.all(
        f"SELECT id, target, coalesce(new, '{NO_ANSWER}'), coalesce(old_confidence, 'nan'), "
        f"coalesce(new_confidence, 'nan'), cost, {seed}, text{slices} FROM {joined.table} "
        f"WHERE {BROKE} ORDER BY {COSTLIEST} LIMIT {limit}"
    )
    return tuple(
        FlipRow(name, target, new, before, now, cost, seed, tuple(values), text)
        for name, target, new, before, now, cost, seed, text, *values in rows
    )


def flip_images(database: Database, joined: Joined, limit: int) -> list[tuple[str, str]]:
    """Give the pictures of the flips that :func:`worst_flips` gives.

    Args:
        database: Holds the rows.
        joined: The rows.
        limit: Most flips to look at.

    Returns:
        Id and path of each that has one.
    """
    worst = f"SELECT id, image FROM {joined.table} WHERE {BROKE} ORDER BY {COSTLIEST} LIMIT {limit}"
    return [(row[0], row[1]) for row in database.all(f"SELECT * FROM ({worst}) WHERE image IS NOT NULL")]


def confidence_grid(database: Database, joined: Joined) -> tuple[tuple[int, ...], ...] | None:
    """Count negative flips by the confidence of the old and of the new model, in tenths.

    Args:
        database: Holds the rows.
        joined: The rows.

    Returns:
        Counts ``[old][new]``, or None without confidences.
    """
    if not joined.has_confidences:
        return None
    old, new = (_bin(f"{side}_confidence", TENTHS) for side in ("old", "new"))
    counts = {
        (row[0], row[1]): row[2]
        for row in database.all(f"SELECT {old}, {new}, count(*) FROM {joined.table} WHERE {BROKE} GROUP BY ALL")
    }
    return tuple(tuple(counts.get((row, place), 0) for place in range(TENTHS)) for row in range(TENTHS))


def calibration(database: Database, joined: Joined, side: str) -> Calibration | None:
    """Say how far the confidence of one model can be believed.

    Args:
        database: Holds the rows.
        joined: The rows.
        side: "old" or "new".

    Returns:
        The calibration of its answers, or None without confidences.
    """
    if not joined.has_confidences:
        return None
    # Of an answer that is withheld below a threshold it is the first answer that the confidence is about.
    confidence, right = f"{side}_confidence", f"CAST(coalesce({side}, {side}_first) = target AS INT)"
    rows = database.all(
        f"SELECT {_bin(confidence, BINS)} AS b, count(*), avg({confidence}), avg({right}) FROM {joined.table} "
        "GROUP BY b ORDER BY b"
    )
    bins = tuple(Bin(count, float(sure), float(accuracy)) for _, count, sure, accuracy in rows)
    total = sum(part.rows for part in bins)
    ece = math.fsum(part.rows * abs(part.accuracy - part.confidence) for part in bins) / total
    mean = math.fsum(part.rows * part.confidence for part in bins) / total
    known, nll = database.one(
        f"SELECT count({side}_target_score), avg(-ln(greatest({side}_target_score, {LEAST}))) FROM {joined.table}"
    )
    return Calibration(ece, float(nll) if known else None, mean, bins)


def class_names(database: Database, joined: Joined) -> list[str]:
    """List the classes that occur as target or answer.

    Args:
        database: Holds the rows.
        joined: The rows.

    Returns:
        The names: numbers by value, others by name.
    """
    listed = " UNION ".join(
        f"SELECT DISTINCT {name} FROM {joined.table}" for name in ("target", "old_first", "new_first")
    )
    return sorted((row[0] for row in database.all(listed)), key=class_order)


def refuse_strangers(database: Database, joined: Joined, side: str) -> None:
    """Refuse a model whose answers are called quite otherwise than the targets, such as 1 and 1.0.

    All of its answers would be wrong, and so none could break.

    Args:
        database: Holds the rows.
        joined: The rows.
        side: "old" or "new".

    Raises:
        PredictionError: If several targets and several answers have none in common.
    """
    answers, targets = (
        sorted(row[0] for row in database.all(f"SELECT DISTINCT {name} FROM {joined.table}"))
        for name in (f"{side}_first", "target")
    )
    if min(len(answers), len(targets)) > 1 and not {*answers} & {*targets}:
        raise PredictionError(
            f"Expected the {side} model to answer with names of targets, got answers "
            f"{named(answers[:NAMED], len(answers))} and targets {named(targets[:NAMED], len(targets))}. "
            "Write both alike, or map the old names (--label-map)."
        )


def strange_answers(database: Database, joined: Joined, side: str) -> list[str]:
    """List the answers of one model that are the target of no row: of a class that was renamed, or is not tested.

    Args:
        database: Holds the rows.
        joined: The rows.
        side: "old" or "new".

    Returns:
        The classes, each with its number of answers, the most frequent first.
    """
    rows = database.all(
        f"SELECT {side}_first, count(*) AS n FROM {joined.table} GROUP BY 1 "
        f"HAVING {side}_first NOT IN (SELECT DISTINCT target FROM {joined.table}) ORDER BY n DESC, 1"
    )
    return [f"{name} ({count:,})" for name, count in rows]


def class_order(name: str) -> tuple[int, float, str]:
    """Sort key of a class or a value: numbers by value before text by name.

    Args:
        name: The name.

    Returns:
        The key.

    Example:
        >>> sorted(["10", "9", "cat"], key=class_order)
        ['9', '10', 'cat']
    """
    try:
        number = float(name)
    except ValueError:
        return 1, 0.0, name
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)


def _bin(confidence: str, bins: int) -> str:
    return f"least(CAST(floor({confidence} * {bins}) AS INT), {bins - 1})"
