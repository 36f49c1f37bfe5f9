import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from lightning_graceful.experiment.table import print_table
from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.compare import compare_files
from lightning_graceful.report.files import write_predictions

BROKEN = [1] * 6 + [0] * 14
# Ten samples of class 0 under two seeds; the old model has the first twelve answers right.
KEYS = {"id": np.tile(np.arange(10), 2), "seed": np.repeat([0, 1], 10), "target": np.zeros(20, np.int64)}


def printed(folder, **ways):
    old = write_predictions(folder / "old.csv", **KEYS, label=np.where(np.arange(20) < 12, 0, 1))
    files = {name: write_predictions(folder / f"{name}.csv", **KEYS, label=new) for name, new in ways.items()}
    summary = compare_files(old, files, title="title")
    candidates = tuple(replace(one, wall_seconds=12.4, detail="lambda 1") for one in summary.candidates)
    console = Console(width=80, record=True, file=io.StringIO())
    print_table(replace(summary, candidates=candidates, noise_floor=Interval(0.0123, 0.01, 0.02)), console)
    return console.export_text()


def test_table_shows_hand_computed_rates_in_80_columns(tmp_path):
    # Two seeds leave one degree of freedom: no bound but those of a rate.
    text = printed(tmp_path, plain=BROKEN, pct=[1] * 2 + [0] * 18)
    words = " ".join(text.split())
    assert "plain 40.00 % 30.00 % 30.00 % 166.7 % 12 s" in words
    assert "pct 40.00 % 10.00 % 10.00 % 166.7 % 12 s" in words
    assert "[-100.00, +100.00] [-100.00, +100.00]" in words
    assert "Noise floor: NFR 1.23 %" in words
    assert max(map(len, text.splitlines())) <= 80


def test_ways_alike_are_not_distinguishable(tmp_path):
    words = " ".join(printed(tmp_path, plain=BROKEN, pct=BROKEN).split())
    # No flip in ten samples: 1 - 0.025 ** (1 / 10).
    assert "[-30.85, +30.85]" in words
    assert words.count("not distinguishable") == 2


def test_one_way_stands_alone(tmp_path):
    words = " ".join(printed(tmp_path, pct=BROKEN).split())
    assert "against" not in words
    assert "10 samples tested, 20 rows over the seeds." in words
