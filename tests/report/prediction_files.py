"""Prediction files of random or given samples, and a slow and obvious comparison of them: loops over rows, float64."""

import csv
import math
import random
from collections import Counter, defaultdict

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lightning_graceful.report.files import write_predictions

CLASSES = ("cat", "dog", "emu")
COUNTRIES = ("IS", "NO", "PT")
BASIC = {"id", "label"}


def samples(seed, count=150, *, seeds=1, **given):
    """Draw rows: what is asked for in ``given`` (weight, cost, group, seen_by_old) varies, the rest is constant."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        target = draw.choices(CLASSES, (5, 3, 2))[0]
        about = {
            "id": f"s{number}",
            "target": target,
            "weight": draw.choice((0.0, 0.5, 1.0, 2.5)) if "weight" in given else 1.0,
            "cost": draw.choice((0.0, 1.0, 7.25)) if "cost" in given else 1.0,
            "group": f"g{draw.randrange(count // 4)}" if "group" in given else f"s{number}",
            "seen_by_old": "seen_by_old" in given and draw.random() < 0.2,
            "country": draw.choices(COUNTRIES, (6, 3, 1))[0],
        }
        rows += [about | {"seed": run} | _answers(draw, target) for run in range(seeds)]
    draw.shuffle(rows)
    return rows


def _answers(draw, target):
    row = {}
    for side, skill in (("old", 0.8), ("new", 0.85)):
        row[side] = target if draw.random() < skill else draw.choice(CLASSES)
        row[f"{side}_confidence"] = draw.choice((0.34, 0.5, 0.73, 0.9, 0.96, 1.0))
        right = row[side] == target
        rest = draw.choice((0.0, 0.25, 0.75)) * (1 - row[f"{side}_confidence"])
        row[f"{side}_target_score"] = row[f"{side}_confidence"] if right else rest
    return row


def write(path, rows, side, *columns, seed=0):
    """Write one model's file in an order of its own; ``columns`` names what it holds beside id and label."""
    order = random.Random(f"{seed}{side}").sample(rows, len(rows))
    names = {name: side if name == "label" else name for name in ("id", "label", *columns)}
    names |= {name: f"{side}_{name}" for name in ("confidence", "target_score") if name in columns}
    values = {name: [row[key] for row in order] for name, key in names.items()}
    if path.suffix == ".parquet":
        return write_predictions(path, **values)
    return write_csv(path, values)


def write_csv(path, values):
    """Write columns with Python's own writer."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(values)
        writer.writerows(zip(*values.values(), strict=True))
    return path


def counted(rows):
    """Leave out what is no evidence."""
    return [row for row in rows if not row["seen_by_old"] and row["weight"] > 0]


def right(row, side):
    return row[side] == row["target"]


def broke(row):
    return right(row, "old") and not right(row, "new")


HITS = {
    "error_old": lambda row: not right(row, "old"),
    "error_new": lambda row: not right(row, "new"),
    "nfr": broke,
    "pfr": lambda row: not right(row, "old") and right(row, "new"),
}


def cells(rows):
    """Count both right, fixed, broke, both wrong."""
    found = Counter((right(row, "old"), right(row, "new")) for row in rows)
    return found[True, True], found[False, True], found[True, False], found[False, False]


def cluster_sums(rows, hit):
    sums = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        sums[row["group"]][0] += row["weight"] * hit(row)
        sums[row["group"]][1] += row["weight"]
    return list(sums.values())


def rate(rows, hit):
    """Give share, lower and upper end, effective rows (Korn & Graubard 1998, by hand)."""
    sums, count = cluster_sums(rows, hit), len(rows)
    hits, whole = math.fsum(part[0] for part in sums), math.fsum(part[1] for part in sums)
    share, clusters = hits / whole, len(sums)
    size = whole**2 / math.fsum(den**2 for _, den in sums)
    if clusters > 1 and 0 < hits < whole:
        squares = math.fsum((num - share * den) ** 2 for num, den in sums)
        variance = clusters / (clusters - 1) * squares / whole**2
        student = stats.t.ppf(0.975, count - 1) / stats.t.ppf(0.975, clusters - 1)
        size = min(count * student**2 * share * (1 - share) / (count - 1) / variance, count)
    return share, *proportion_confint(share * size, size, method="beta"), size


def weighted_difference(rows, values):
    """Give a mean weighted difference with Student's interval over groups."""
    sums = defaultdict(lambda: [0.0, 0.0])
    for row, value in zip(rows, values, strict=True):
        sums[row["group"]][0] += row["weight"] * value
        sums[row["group"]][1] += row["weight"]
    whole = math.fsum(den for _, den in sums.values())
    mean, count = math.fsum(num for num, _ in sums.values()) / whole, len(sums)
    squares = math.fsum((num - mean * den) ** 2 for num, den in sums.values())
    half = stats.t.ppf(0.975, count - 1) * math.sqrt(count / (count - 1) * squares) / whole
    return mean, mean - half, mean + half


def two_way_difference(rows, values):
    """Give a mean weighted difference with the interval over seeds and groups (Cameron, Gelbach & Miller 2011)."""
    weights = np.array([row["weight"] for row in rows])
    mean = float(np.average(values, weights=weights))
    residuals = weights * (np.array(values) - mean) / weights.sum()
    kinds = [lambda row: row["seed"], lambda row: row["group"], lambda row: (row["seed"], row["group"])]
    variances, sizes = [], []
    for kind in kinds:
        sums = defaultdict(float)
        for row, residual in zip(rows, residuals, strict=True):
            sums[kind(row)] += residual
        sizes.append(len(sums))
        variances.append(len(sums) / (len(sums) - 1) * math.fsum(value**2 for value in sums.values()))
    variance = max(variances[0], variances[1], variances[0] + variances[1] - variances[2])
    half = stats.t.ppf(0.975, min(sizes[:2]) - 1) * math.sqrt(variance)
    return mean, max(mean - half, -1), min(mean + half, 1)
