import io

import numpy as np
from rich.console import Console

from lightning_graceful.experiment.table import print_table
from lightning_graceful.report.evidence import Comparison, Predictions, Way


def way(name, new):
    """Twenty samples of class 0 under two seeds; the old model has the first twelve right."""
    ids, seed = np.tile(np.arange(10), 2), np.repeat([0, 1], 10)
    old, sure = np.where(np.arange(20) < 12, 0, 1), np.full(20, 0.9, np.float32)
    return Way(name, Predictions(ids, seed, np.zeros(20, np.int64), old, np.asarray(new), sure, sure), 12.4, "lambda 1")


def printed(*ways):
    console = Console(width=80, record=True, file=io.StringIO())
    print_table(Comparison("title", ["a", "b"], ways, noise_floor=0.0123), console)
    return console.export_text()


def test_table_shows_hand_computed_rates_in_80_columns():
    plain = way("plain", [1] * 6 + [0] * 14)
    # Two seeds leave one degree of freedom: no bound but those of a rate.
    pct = way("pct", [1] * 2 + [0] * 18)
    text = printed(plain, pct)
    words = " ".join(text.split())
    assert "plain 40.00 % 30.00 % 30.00 % 166.7 % 12 s" in words
    assert "pct 40.00 % 10.00 % 10.00 % 166.7 % 12 s" in words
    assert "[-100.00, +100.00] [-100.00, +100.00]" in words
    assert "Noise floor: NFR 1.23 %" in words
    assert max(map(len, text.splitlines())) <= 80


def test_ways_alike_are_not_distinguishable():
    plain = way("plain", [1] * 6 + [0] * 14)
    words = " ".join(printed(plain, way("pct", plain.predictions.new)).split())
    assert "[-27.75, +27.75]" in words
    assert words.count("not distinguishable") == 2
