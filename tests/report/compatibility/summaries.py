"""Evaluations for the tests of the table, the figures and the page."""

import functools
import math
import random

import numpy as np

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compatibility.results import intervals_of, way_of
from lightning_graceful.report.compatibility.summary import (
    ChainStep,
    CompatibilitySummary,
    Curve,
    Downstream,
    LostQuery,
    Matrix,
    Way,
)
from tests.report.summaries import HOSTILE, picture

COLLAPSE = "old class mean of the predicted class"  # as the bench says of its baseline
UNKNOWN = Interval(math.nan, math.nan, math.nan)
MEASURES = {"map": 0.52, "map_at_r": 0.45, "recall_at_1": 0.74}
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# name, detail, cross less old by measure, tax by measure
WAYS = (
    ("independent", "cross-entropy only", (-0.42, -0.36, -0.64), (0.0, 0.001, 0.0)),
    ("l2", "weight 1", (-0.021, -0.012, -0.004), (0.091, 0.088, 0.05)),
    ("influence", "weight 1", (0.083, 0.071, 0.021), (0.012, 0.013, 0.004)),
    ("influence, cosine", "weight 1, scale 16", (0.112, 0.104, 0.034), (0.009, 0.008, 0.002)),
    ("contrastive", "weight 1, temperature 0.2", (0.151, 0.143, 0.043), (0.004, 0.004, 0.001)),
    ("mixed gallery", "temperature 0.1", (0.139, 0.125, 0.039), (0.006, 0.008, 0.003)),
    ("adapter", "ridge, new to old", (0.054, 0.041, 0.012), (0.0, 0.0, 0.0)),
    ("class collapse", "old class mean of the answer", (0.171, 0.162, -0.003), (-0.01, -0.01, 0.03)),
)


def interval(mean, half=0.01):
    return Interval(mean, mean - half, mean + half)


def per_query(shift=0.0, queries=600, seeds=3, ways_seed=0):
    """Measures of each query, hard ones hard for all."""
    ease = np.random.default_rng(1).normal(0, 0.15, queries)
    noise = np.random.default_rng(ways_seed + 2).normal(0, 0.1, (len(MEASURES), seeds, queries))
    return {name: mean + shift + ease + part for (name, mean), part in zip(MEASURES.items(), noise, strict=True)}


def by_measure(*values, half=0.01):
    return {name: interval(value, half) for name, value in zip(MEASURES, values, strict=True)}


def made(name="copy", detail="", rise=(0.05, 0.04, 0.02), tax=(0.01, 0.01, 0.0), gap=0.2, **others):
    """A way of which every number is known beforehand."""
    old = tuple(MEASURES.values())
    gains = by_measure(*(value / gap for value in rise), half=0.05) if gap else dict.fromkeys(MEASURES, UNKNOWN)
    taxes = by_measure(*tax, half=0.004) if gap else dict.fromkeys(MEASURES, UNKNOWN)
    own = by_measure(*(value + gap - cost for value, cost in zip(old, tax, strict=True)))
    given = {
        "cross_test": by_measure(*(value + more for value, more in zip(old, rise, strict=True))),
        "self_test": own,
        "shared_self_test": own,
        "cross_gain": by_measure(*rise, half=0.008),
        "update_gain": gains,
        "tax": taxes,
    }
    return Way(name, detail, **given | others)


def minimal(**others):
    """One way, no paragon."""
    given = {"ways": (made(gap=0),), "old_self_test": by_measure(*MEASURES.values()), "paragon_self_test": None}
    return CompatibilitySummary("Digits", (), **{"queries": 400, "gallery": 500, "seeds": 1} | given | others)


def small_gap():
    """A paragon that is hardly better."""
    paragon = by_measure(*(value + 0.023 for value in MEASURES.values()))
    return minimal(ways=(made(gap=0), made("other", gap=0)), paragon_self_test=paragon)


# Draws of held-out classes, as their groups of queries are named.
DRAWS = (
    "T-shirt/top, Pullover, Shirt", "Trouser, Dress, Ankle boot", "Sandal, Sneaker, Bag", "Coat, Shirt, Dress",
    "T-shirt/top, Trouser, Pullover", "Dress, Coat, Sandal", "Shirt, Sneaker, Bag", "Ankle boot, Bag, Coat",
    "Pullover, Coat, Shirt", "Trouser, Sandal, Dress", "Sneaker, Ankle boot, Sandal", "Bag, T-shirt/top, Coat",
)  # fmt: skip


def by_draw(names=("copy", "other"), draws=DRAWS):
    """Ways whose queries are of many draws: way ``i`` and draw ``j`` have 40 + i + 2j % in every measure."""
    groups = [
        {draw: by_measure(*[0.4 + 0.01 * place + 0.02 * number] * 3) for number, draw in enumerate(draws)}
        for place in range(len(names))
    ]
    return minimal(ways=tuple(made(name, groups=one) for name, one in zip(names, groups, strict=True)))


def empty():
    """Nothing tested."""
    nothing = dict.fromkeys(MEASURES, UNKNOWN)
    way = Way("copy", "", nothing, nothing, nothing, nothing, nothing, nothing)
    return minimal(ways=(way,), old_self_test=nothing, queries=0, gallery=0)


@functools.cache
def rich():
    """Everything that an evaluation can have, its intervals from measures of each query."""
    old, paragon = per_query(), per_query(0.24, ways_seed=1)
    ways = []
    for number, (name, detail, rise, tax) in enumerate(WAYS):
        cross = _shifted(old, rise, number)
        own = _shifted(paragon, [-cost for cost in tax], number)
        shared = _shifted(own, (-0.012,) * 3, number) if name == "contrastive" else None
        groups = {"old classes": np.arange(600) % 10 < 7, "new classes": np.arange(600) % 10 >= 7}
        ways.append(
            way_of(
                name, detail=detail, cross_test=cross, self_test=own, old_self_test=old, paragon_self_test=paragon,
                shared_self_test=shared, groups=groups, train_seconds=184.0 + 41 * number,
            )
        )  # fmt: skip
    flips, images = retrieval_flips(60)
    return CompatibilitySummary(
        "Fashion-MNIST: eight ways to get embeddings that search the old gallery",
        (
            "Closed protocol: all 10 classes are known to both models; the old one saw 10 % of the data.",
            "Queries and gallery are disjoint halves of the test set, drawn by seed 0; no query is its own answer.",
        ),
        5000, 5000, 3, intervals_of(old), intervals_of(paragon), tuple(ways), versions(), curves(), chain(), flips,
        images, ("Embeddings are compared by cosine; ties are broken by position.",), downstream(),
    )  # fmt: skip


def _shifted(measures, shifts, seed):
    noise = np.random.default_rng(seed + 50).normal(0, 0.03, next(iter(measures.values())).shape)
    return {name: measures[name] + shift + noise for name, shift in zip(MEASURES, shifts, strict=True)}


def versions(count=4):
    own = 0.52 + 0.075 * np.arange(count)
    values = np.array([[own[min(i, j)] + 0.03 * (i - j) if i >= j else own[i] - 0.05 * (j - i) for j in range(count)]
                       for i in range(count)])  # fmt: skip
    if count > 3:
        values[3, 0] = own[0] - 0.012
    wins = [values[i, j] > values[j, j] for i in range(count) for j in range(i)]
    names = tuple(f"v{place + 1}" for place in range(count))
    return Matrix("map", names, values, float(np.mean(wins)) if wins else math.nan)


def curves():
    share = np.linspace(0, 1, 11)
    shapes = {"random": share, "uncertainty": share**0.7, "far from class mean": share**0.5}
    return tuple(
        Curve(
            f"contrastive, {name}", "map", share, 0.67 + 0.085 * shape, float(np.trapezoid(0.67 + 0.085 * shape, share))
        )
        for name, shape in shapes.items()
    )


def chain():
    rates = {"v1": (0.021, 0.026, 0.034), "v2": (0.018, 0.024), "v3": (0.016,)}
    steps = [ChainStep("v1", interval(0.0, 0.0))]
    for place, tax in enumerate((0.004, 0.011, 0.021)):
        nfr = {old: interval(rates[old][place - start], 0.004) for start, old in enumerate(rates) if start <= place}
        steps.append(ChainStep(f"v{place + 2}", interval(tax, 0.005), nfr))
    return tuple(steps)


def downstream():
    return (
        Downstream("10 old clusters, B-cubed F", 0.512, 0.558, 0.686),
        Downstream("old head, negative flips", math.nan, math.nan, 0.061),
        Downstream("old threshold for FAR 0.1 %, true accepts", 0.109, 0.0, 0.135),
    )


def retrieval_flips(count, k=5):
    generator, flips, images = random.Random(3), [], {}
    for number in range(count):
        label = generator.choice(CLOTHES)
        others = [name for name in CLOTHES if name != label]
        good = [label if generator.random() < 0.6 else generator.choice(others) for _ in range(k - 1)] + [label]
        bad = [generator.choice(others) for _ in range(k)]
        generator.shuffle(good)
        change = "lost" if number % 3 else "found"
        old, new = (good, bad) if change == "lost" else (bad, good)
        items = [tuple(f"g{generator.randrange(5000)}" for _ in range(k)) for _ in range(2)]
        flips.append(LostQuery(f"q{number}", label, change, *items, tuple(old), tuple(new)))
        images |= {key: picture(key, 28) for key in (f"q{number}", *items[0], *items[1])}
    images.pop("q5")
    return tuple(flips), images


def hostile():
    """Bad strings wherever a string can be."""
    ways = tuple(
        made(bad, HOSTILE[-1 - place], groups={bad: by_measure(0.1, 0.2, 0.3)}) for place, bad in enumerate(HOSTILE)
    )
    flips = tuple(
        LostQuery(bad, HOSTILE[-1 - place], ("lost", "found")[place % 2], (bad, HOSTILE[0]), (HOSTILE[1],),
                  (HOSTILE[-1 - place], bad), (bad,))
        for place, bad in enumerate(HOSTILE)
    )  # fmt: skip
    count = len(HOSTILE)
    images = {bad: bad for bad in HOSTILE} | {
        HOSTILE[0]: picture(1),
        HOSTILE[1]: "http://localhost:1/x.png",
        HOSTILE[2]: "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned = 7'/>",
        HOSTILE[3]: 'data:image/png;base64," onerror="window.pwned = 8',
    }
    return CompatibilitySummary(
        HOSTILE[0], tuple(HOSTILE), 9, 9, 1, by_measure(*MEASURES.values()), by_measure(0.7, 0.6, 0.9), ways,
        Matrix(HOSTILE[0], tuple(HOSTILE), versions(count).values, 0.5),
        tuple(Curve(bad, HOSTILE[0], np.array([0.0, 1.0]), np.array([0.5, 0.6]), 0.55) for bad in HOSTILE),
        tuple(ChainStep(bad, interval(0.01), dict.fromkeys(HOSTILE[:place], interval(0.02)))
              for place, bad in enumerate(HOSTILE)),
        flips, images, tuple(HOSTILE), tuple(Downstream(bad, 0.1, math.nan, 0.3) for bad in HOSTILE),
    )  # fmt: skip
