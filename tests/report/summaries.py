"""Summaries for the tests of the page, made by slow and obvious loops from rows written out by hand."""

import base64
import io
import math
import random

from PIL import Image

from lightning_graceful.functional.statistics import Interval, wilson_interval
from lightning_graceful.report.history import Churn
from lightning_graceful.report.summary import (
    Bin,
    Calibration,
    Candidate,
    Check,
    FlipRow,
    Group,
    Pair,
    Ruling,
    Summary,
    Tally,
)
from lightning_graceful.report.words import measured

CLASSES = ("zero", "one", "two", "three")
# id, target, old, plain, pct, confidence of plain, of pct
ROWS = [
    ("1", "zero", "zero", "one", "one", 0.90, 0.60),  # both break it
    ("2", "zero", "zero", "one", "zero", 0.70, 0.99),  # plain breaks it
    ("3", "one", "one", "two", "one", 0.80, 0.99),  # plain breaks it
    ("4", "one", "one", "one", "three", 0.99, 0.95),  # pct breaks it
    ("5", "two", "zero", "two", "two", 0.99, 0.99),  # both fix it
    ("6", "two", "zero", "two", "two", 0.99, 0.99),
    ("7", "two", "two", "two", "two", 0.99, 0.99),
    ("8", "three", "three", "three", "three", 0.99, 0.99),
    ("9", "three", "one", "one", "one", 0.99, 0.99),  # all wrong
    ("10", "three", "three", "three", "three", 0.99, 0.99),
]
COUNTRY = {"1": "IS", "2": "NO", "3": "IS", "4": "NO"}
COST = {"1": 1.0, "2": 1.0, "3": 10.0, "4": 10.0}
HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "<b>\"R&D\"</b> <a href='javascript:window.pwned = 3'>x</a>",
    "%{z} {{ 7 * 7 }} ${window.pwned = 4} \u2028<!--",
    "javascript:window.pwned = 5",
    "\u202edetrever \u2066 \x00\x01\x1b[31m\x7f",
    "long" * 2500,
    "=1+1",
    "' onmouseover='window.pwned = 6",
]


def share(count, total):
    if not total:
        return Interval(math.nan, math.nan, math.nan)
    low, high = wilson_interval(count, total)
    return Interval(count / total, float(low), float(high))


def tally(both_right, fixed, broke, both_wrong, **others):
    rows = both_right + fixed + broke + both_wrong
    error_old, error_new = share(fixed + both_wrong, rows), share(broke + both_wrong, rows)
    chance = (1 - error_old.mean) * error_new.mean
    relative = broke / rows / chance if rows and chance else math.nan
    given = {"error_old": error_old, "error_new": error_new, "nfr": share(broke, rows), "pfr": share(fixed, rows)}
    return Tally(
        rows,
        others.pop("samples", rows),
        both_right,
        fixed,
        broke,
        both_wrong,
        **given,
        relative_nfr=relative,
        **others,
    )


def counted(rows, column):
    quadrants = {(True, True): 0, (False, True): 0, (True, False): 0, (False, False): 0}
    for row in rows:
        quadrants[row[2] == row[1], row[column] == row[1]] += 1
    return tally(*quadrants.values())


def made(name, column, classes=CLASSES, **others):
    """A candidate of the rows; the class at place k is called ``classes[k]``."""
    called = dict(zip(CLASSES, classes, strict=True))
    broken = [row for row in ROWS if row[2] == row[1] and row[column] != row[1]]
    pairs = {}
    for row in broken:
        pairs.setdefault((row[1], row[column]), []).append(row[0])
    flips = [
        FlipRow(
            row[0], called[row[1]], called[row[column]], 0.55, row[column + 2], COST[row[0]], slices=(COUNTRY[row[0]],)
        )
        for row in broken
    ]
    whole = counted(ROWS, column)
    given = {
        "whole": whole,
        "error_difference": Interval(whole.error_new.mean - whole.error_old.mean, -0.3, 0.5),
        "p_value": 1.0,
        "classes": tuple(
            Group("class", called[name], counted([row for row in ROWS if row[1] == name], column), 0.25)
            for name in CLASSES
        ),
        "pairs": tuple(
            Pair(called[true], called[new], len(ids), sum(COST[one] for one in ids))
            for (true, new), ids in sorted(pairs.items(), key=lambda pair: -len(pair[1]))
        ),
        "flips": tuple(sorted(flips, key=lambda flip: (-flip.cost, -flip.new_confidence))),
    }
    return Candidate(name, **given | others)


def digits(classes=CLASSES, names=("plain", "pct"), **others):
    """Two candidates, with costs, a slice, images and a noise floor."""
    candidates = (
        made(names[0], 3, classes, detail="cross-entropy", wall_seconds=61.0),
        made(
            names[1], 4, classes, detail="lambda 1", wall_seconds=3725.0,
            nfr_against_first=Interval(-0.1, -0.4, 0.2), error_against_first=Interval(-0.1, -0.3, -0.01),
        ),
    )  # fmt: skip
    given = {"slice_columns": ("country",), "noise_floor": Interval(0.05, 0.02, 0.1), "has_costs": True}
    given["images"] = {"1": picture(1), "4": picture(4)}
    return Summary("Digits", candidates, tuple(classes), **given | others)


def picture(seed, side=8):
    pixels = random.Random(seed).randbytes(side * side)
    buffer = io.BytesIO()
    Image.frombytes("L", (side, side), pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def one(whole, **others):
    return Candidate("new", whole, Interval(0.01, -0.01, 0.03), 0.4, **others)


def minimal(**others):
    """One candidate of which nothing but counts is known."""
    return Summary("Two files", (one(tally(880, 40, 25, 55)),), ("cat", "dog"), **others)


def harmless():
    return Summary(
        "Nothing breaks", (one(tally(9, 0, 0, 0), classes=(Group("class", "a", tally(9, 0, 0, 0)),)),), ("a",)
    )


def empty():
    return Summary("Nothing tested", (one(tally(0, 0, 0, 0)),), ())


def grid(flips):
    table = [[0] * 10 for _ in range(10)]
    for flip in flips:
        table[min(int(10 * flip.old_confidence), 9)][min(int(10 * flip.new_confidence), 9)] += 1
    return tuple(map(tuple, table))


def calibration(shift):
    middles = [(place + 0.5) / 15 for place in range(4, 15)]
    bins = tuple(
        Bin(20 + 3 ** (place - 4) // 30, middle, min(1, max(0, middle - shift)))
        for place, middle in enumerate(middles, 4)
    )
    return Calibration(0.021 + shift / 2, 0.214 + shift, 0.91 + shift / 3, bins)


def churn():
    epochs = 10
    broke = [312, 241, 190, 164, 150, 139, 133, 128, 126, 121]
    left = [0, 118, 96, 71, 58, 47, 40, 33, 28, 27]
    entered = [312, *(broke[k] - broke[k - 1] + left[k] for k in range(1, epochs))]
    fixed = [150, 190, 214, 240, 251, 262, 270, 271, 280, 284]
    times = [9450, 230, 104, 61, 42, 30, 22, 17, 13, 10, 21]
    return Churn(
        list(range(epochs)), [100 * k for k in range(1, epochs + 1)], 10_000, broke, fixed, entered, left, times,
        list(range(40, 61)), 21, 550,
    )  # fmt: skip


ANIMALS = ("cat", "dog", "fox", "wolf", "lynx", "hare", "otter", "badger")


def flip_rows(generator, count, *, text=True):
    rows = []
    for number in range(count):
        target, new = generator.sample(ANIMALS[: 4 + number % 5], 2)
        rows.append(
            FlipRow(
                f"img_{generator.randrange(100_000):05d}_{number}", target, new, generator.uniform(0.4, 1),
                generator.betavariate(5, 2), generator.choice((1.0, 1.0, 1.0, 5.0, 20.0)),
                slices=(generator.choice(("DE", "FR", "IS", "NO")), generator.choice(("day", "night"))),
                text=f"camera {generator.randrange(9)}, {generator.choice(('clear', 'fog', 'rain'))}" if text else None,
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (-row.cost, -row.new_confidence)))


def pairs_of(flips):
    found = {}
    for flip in flips:
        count, cost = found.get((flip.target, flip.new), (0, 0.0))
        found[flip.target, flip.new] = (count + 1, cost + flip.cost)
    return tuple(Pair(*key, *value) for key, value in sorted(found.items(), key=lambda item: -item[1][0]))


def difference(mean):
    return Interval(mean, mean - 0.0027, mean + 0.0027)


def check(where, decision, count, rows, limit, why, needed=None):
    rate = share(count, rows)
    rule = f"NFR at most {100 * limit:.2f} %"
    return Check(rule, where, decision, f"NFR {measured(rate)} in {where}: {why}.", rate, limit, needed)


def rich_candidate(name, seed, broke, fixed, decision, **others):
    generator = random.Random(seed)
    flips = flip_rows(generator, broke)
    whole = tally(10_000 - broke - fixed - 420, fixed, broke, 420, cost=Interval(0.0214, 0.0142, 0.0301))
    classes = tuple(
        Group("class", name, tally(1250 - 60 - size, 20, size, 40), 0.9 / (size + 1))
        for name in ANIMALS
        for size in [sum(flip.target == name for flip in flips)]
    )
    slices = tuple(
        Group(column, value, tally(rows - 2 * size - 30, 12, size, size + 18), 0.5 / (size + 1))
        for place, column, values in ((0, "country", ("DE", "FR", "IS", "NO")), (1, "light", ("day", "night")))
        for value, rows in zip(values, (5000, 3000, 400, 1600), strict=False)
        for size in [sum(flip.slices[place] == value for flip in flips) // 2]
    )
    within = "the upper bound is within 2.00 %"
    checks = (
        check("country=IS", decision, 23, 400, 0.02, "the lower bound is above 2.00 %"),
        check(
            "country=NO",
            "undecided",
            18,
            1600,
            0.01,
            "the interval holds 1.00 %; about 12,400 more rows decide",
            12_400,
        ),
        check("all rows", "accept", broke, 10_000, 0.02, within),
        check("light=day", "accept", 33, 5000, 0.02, within),
    )
    return Candidate(
        name, whole, difference((broke - fixed) / 10_000), 0.011, classes, slices, pairs_of(flips), flips,
        (calibration(0.02), calibration(0.05)), grid(flips), ruling=Ruling(decision, checks), **others,
    )  # fmt: skip


def rich():
    """Everything that one candidate can have."""
    candidate = rich_candidate("resnet-50 v2", 1, 137, 172, "reject", at_argmax=tally(9302, 190, 98, 410))
    images = {flip.id: picture(number, 28) for number, flip in enumerate(candidate.flips) if number % 5}
    return Summary(
        "Wildlife camera: resnet-50 v2 against v1", (candidate,), ANIMALS, ("country", "light"), share(61, 10_000),
        (0.5, 0.6), True, images, churn(), ("12 ids are only in the new file and were left out.",),
    )  # fmt: skip


def several():
    """Four candidates with verdicts."""
    first = rich_candidate("plain", 1, 137, 172, "reject", detail="cross-entropy", wall_seconds=480.0)
    others = [
        rich_candidate(name, seed, broke, fixed, decision, detail=detail, wall_seconds=520.0 + 30 * seed,
                       nfr_against_first=difference((broke - 137) / 1e4),
                       error_against_first=difference((160 - fixed) / 1e4))
        for name, seed, broke, fixed, decision, detail in (
            ("pct", 2, 71, 150, "accept", "lambda 1"), ("new_error", 3, 96, 181, "undecided", "lambda 0.3"),
            ("ensemble", 4, 110, 140, "undecided", "5 members"),
        )
    ]  # fmt: skip
    return Summary(
        "Wildlife camera: ways to train v2", (first, *others), ANIMALS, ("country", "light"), share(61, 10_000)
    )


def many(classes=1000, slices=300):
    """As many classes and slices as a page has to bear."""
    generator = random.Random(0)
    names = [f"a long class name {number}" for number in range(classes)]
    flips = tuple(
        FlipRow(str(number), *generator.sample(names, 2), math.nan, math.nan, slices=(f"site {number % slices}",))
        for number in range(500)
    )
    groups = tuple(Group("class", name, tally(90, 1, number % 7, 5)) for number, name in enumerate(names))
    cut = tuple(Group("site", f"site {number}", tally(50 + number, 2, number % 11, 1)) for number in range(slices))
    candidate = one(tally(9000, 100, 900, 50), classes=groups, slices=cut, pairs=pairs_of(flips), flips=flips)
    return Summary("Many", (candidate,), tuple(names), ("site",))


def hostile():
    """Bad strings wherever a string can be."""
    size = len(HOSTILE)
    groups = tuple(Group(HOSTILE[k], HOSTILE[-1 - k], tally(9, 1, 2, 1), 0.01) for k in range(size))
    rows = tuple(
        FlipRow(bad, HOSTILE[k % 4], HOSTILE[-1 - k], 0.5, 0.9, 2.0, None, (HOSTILE[-1 - k], bad), bad)
        for k, bad in enumerate(HOSTILE)
    )
    candidates = tuple(
        made(
            name, 3 + place % 2, HOSTILE[:4], slices=groups, flips=rows, detail=HOSTILE[-1 - place],
            confidences=grid(rows),
            ruling=Ruling("reject", tuple(Check(bad, bad, "reject", bad, share(1, 4), 0.1, 5) for bad in HOSTILE)),
            calibration=(calibration(0.1), calibration(0.2)),
        )
        for place, name in enumerate(HOSTILE)
    )  # fmt: skip
    images = {bad: bad for bad in HOSTILE} | {
        HOSTILE[0]: picture(1),
        HOSTILE[1]: "http://localhost:1/x.png",
        HOSTILE[2]: "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned = 7'/>",
        HOSTILE[3]: 'data:image/png;base64," onerror="window.pwned = 8',
    }
    return Summary(
        HOSTILE[0], candidates, tuple(HOSTILE[:4]), (HOSTILE[0], HOSTILE[1]), share(1, 20), None, True, images, churn(),
        tuple(HOSTILE),
    )  # fmt: skip
