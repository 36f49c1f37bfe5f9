"""Which samples are shown, with which slices, texts, pictures and names; each once, whatever the ranks."""

import csv
import math
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from lightning_graceful import Batch, FlipDashboard, FlipHistory, FlipMonitor
from lightning_graceful.callbacks.collecting import class_names
from lightning_graceful.callbacks.pictures import pictures_of, texts_of
from lightning_graceful.callbacks.priority import ROW, Kept, priority
from lightning_graceful.experiment.classifier import LitClassifier
from tests.callbacks.dashboard_runs import (
    MARKS,
    by_hand,
    check_rows,
    flips,
    network,
    new_module,
    old_model,
    run_with,
    the_run,
    wandb,
)
from tests.callbacks.test_old_outputs import images, trainer
from tests.wandb_file import ended_runs

pytestmark = MARKS


@pytest.mark.parametrize("batch_size", [8, 50])
def test_the_cap_is_a_seeded_draw_and_said(here, batch_size):
    data, new = images(seed=5), new_module()
    loaders = [DataLoader(data, batch_size)]
    for seed in (0, 0, 1):
        run_with(new, FlipDashboard("out", max_rows=40, seed=seed), loaders)
        wandb.finish()
    first, again, other = (run.table("flips/val_table") for run in ended_runs(here))
    expected = by_hand(old_model(), new, data)
    moved = len(flips(expected)) + len(flips(expected, "fixed"))
    assert moved < 40
    assert len(first) == 40
    assert [row["id"] for row in first] == [row["id"] for row in again]
    assert [row["id"] for row in first][:moved] == [row["id"] for row in other][:moved]
    assert {row["id"] for row in first} != {row["id"] for row in other}
    for change in ("both right", "both wrong"):
        total = len(flips(expected, change))
        drawn = [row for row in first if row["change"] == change]
        assert {row["shown"] for row in drawn} == {f"{len(drawn)} of {total} {change}, drawn"}
    said = ended_runs(here)[0].keys["flips/val_shown"]
    assert said.startswith(f"all {len(flips(expected))} broke; ")
    assert "drawn" in said


def test_the_draw_is_even():
    rows = np.zeros(20_000, ROW)
    rows["position"] = np.arange(20_000)
    drawn = priority(rows, seed=3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), rel=0.1)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, priority(rows, seed=4))[0, 1]) < 0.02


def test_kept_values_are_those_of_a_full_sort():
    generator = np.random.default_rng(0)
    offered = [(float(generator.integers(4)), int(place)) for place in generator.integers(30, size=200)]
    kept, seen = Kept(7), {}
    for value, place in offered:
        kept.offer(value, place, place)
        seen.setdefault(place, set()).add(value)
    assert len(kept.values) == 7
    assert Kept(0).wants(1.0, 0) is False
    once = Kept(3)
    for place, value in enumerate([0.5, 0.1, 0.9, 0.7, 0.9]):
        once.offer(value, place, value)
        once.offer(value, place, "again")
    assert once.values == {2: 0.9, 3: 0.7, 4: 0.9}


@pytest.mark.parametrize("given", ["to the dashboard", "to the monitor"])
def test_slices_are_those_of_the_monitor_unless_given(here, given):
    data, values = images(seed=5), [f"c{place % 3}" for place in range(50)]
    slices, other = {"country": values}, {"other": values}
    own = slices if given == "to the dashboard" else None
    monitor = FlipMonitor(old_model(), slices=slices if own is None else other)
    run_with(new_module(), FlipDashboard(slices=own), data, monitor=monitor)
    rows = the_run(here).table("flips/val_table")
    assert "slice:other" not in rows[0]
    assert all(row["slice:country"] == values[int(row["id"])] for row in rows)
    file = next(here.glob("p/*/flips/val/predictions_new.parquet"))
    found = dict(duckdb.sql(f"SELECT id, \"slice:country\" FROM '{file}'").fetchall())
    assert found == dict(enumerate(values))


class Texts(torch.utils.data.Dataset):
    """Dicts with a text, some of them nasty."""

    def __init__(self, data, texts):
        self.data, self.texts, self.classes = data, texts, ["<script>alert(1)</script>", "=1+1", 'c",\n']

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        image, target = self.data[place]
        return {"image": image, "label": target, "text": self.texts[place]}


class DictLit(LitClassifier):
    def validation_step(self, batch, batch_idx):
        self.net(batch["image"])


NASTY = [
    "<script>alert(2)</script>",
    "</script><img src=x onerror=alert(3)>",
    "=cmd|' /C calc'!A0",
    '"; DROP',
    "\ud800\0",
]


def test_hostile_strings_stay_text(here):
    data = Texts(images(seed=5), [f"{NASTY[place % 5]} {place} {'x' * 600}" for place in range(50)])
    new = DictLit(network(3))
    run_with(new, FlipDashboard(), data)
    run = the_run(here)
    rows = run.table("flips/val_table")
    expected = by_hand(old_model(), new, data.data, data.classes)
    check_rows(rows, expected)
    for row in rows:
        said = data.texts[int(row["id"])][:500].encode("utf-8", "replace").decode()
        assert row["text"] == said
    page = run.media("flips/val_page").read_text()
    for bad in ("<script>alert", "<img src=x"):
        assert bad not in page
    with next(here.glob("p/*/flips/val/flips.csv")).open(newline="") as file:
        listed = [*csv.DictReader(file)]
    assert len(listed) == sum(row["change"] in {"broke", "fixed"} for row in expected.values())
    assert not any((cell or "").startswith(("=", "+", "@")) for row in listed for cell in row.values())


def test_text_is_kept_only_of_rows_that_are_shown(here):
    data = Texts(images(seed=5), [f"text {place}" for place in range(50)])
    run_with(DictLit(network(3)), FlipDashboard("out", max_rows=10), data, logger=False)
    found = duckdb.sql(f"SELECT id, text FROM '{here}/out/flips/val/predictions_new.parquet'").fetchall()
    assert sum(text is not None for _, text in found) == 10
    assert all(text in {None, f"text {place}"} for place, text in found)


def test_sanity_check_is_not_shown_and_nothing_is_held_after_a_fit(here):
    dashboard = FlipDashboard("out")
    run_with(new_module(), dashboard, images(), logger=False, verb="fit", num_sanity_val_steps=2, max_epochs=1)
    assert duckdb.sql("SELECT count(*) FROM 'out/flips/val/predictions_new.parquet'").fetchall() == [(50,)]
    assert dashboard._now == dashboard._whole == {}


def test_samples_that_nobody_can_follow_are_numbered_in_passing(here):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([images(seed=5)[place] for place in range(50)])

    data, new = images(seed=5), new_module()
    dashboard = FlipDashboard(class_names=["x", "y", "z"])
    _, old = run_with(new, dashboard, [DataLoader(Stream(), 8)])
    check_rows(the_run(here).table("flips/val_table"), by_hand(old, new, data, "xyz"))


def test_samples_that_share_an_index_are_told_apart_by_position(here):
    parts = [images(30, seed=5), images(20, seed=6)]
    new = new_module()
    _, old = run_with(new, FlipDashboard(), [DataLoader(ConcatDataset(parts), 8)])
    check_rows(the_run(here).table("flips/val_table"), by_hand(old, new, ConcatDataset(parts)))


def test_the_history_of_flips_is_on_the_page(here, monkeypatch):
    from lightning_graceful.report import page

    summaries, write = [], page.write_page
    monkeypatch.setattr(page, "write_page", lambda summary, path: (summaries.append(summary), write(summary, path))[1])
    history = FlipHistory(here / "history")
    run_with(new_module(), FlipDashboard("out"), images(), history, logger=False, verb="fit")
    assert summaries[0].history == history.summary()
    assert summaries[0].classes == ("a", "b", "c")
    run_with(new_module(), FlipDashboard("out"), images(), logger=False)
    assert summaries[1].history is None


def test_the_batch_of_the_monitor_decides_the_target(here):
    data, new = images(seed=5), new_module()
    monitor = FlipMonitor(old_model(), batch=lambda batch: Batch(batch[0], batch[1] * 0))
    run_with(new, FlipDashboard(), data, monitor=monitor)
    assert {row["target"] for row in the_run(here).table("flips/val_table")} == {"a"}


# -- pictures, texts, names --------------------------------------------------------------------------------------------


def picture(values, **options):
    (drawn,) = pictures_of(torch.as_tensor(values)[None], options.get("source", lambda batch: batch), [0])
    return drawn


def test_pictures_are_scaled_only_if_need_be():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 20
    assert np.array_equal(picture(pixels), pixels.transpose(1, 2, 0))
    assert np.array_equal(picture(pixels / 255), pixels.transpose(1, 2, 0))
    assert picture([[[-1.0, 0.0], [1.0, 3.0]]]).tolist() == [[0, 64], [128, 255]]
    assert picture([[-1.0, 1.0]]).tolist() == [[0, 255]]
    assert picture([[2.0, 2.0]]).tolist() == [[0, 0]]
    assert picture([[math.nan, 1.0]]).tolist() == [[0, 255]]


def test_large_pictures_are_made_small():
    large = torch.zeros(3, 640, 320)
    large[0, 320:] = 1
    drawn = picture(large)
    assert drawn.shape == (128, 64, 3)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[-1, 0].tolist() == [255, 0, 0]


def test_what_is_no_picture_is_not_drawn():
    assert pictures_of((torch.zeros(2, 16), torch.zeros(2)), "auto", [0]) == []
    assert pictures_of((torch.zeros(2, 5, 4, 4), torch.zeros(2)), "auto", [0]) == []
    assert pictures_of(object(), "auto", [0]) == []
    with pytest.raises(ValueError, match=r"\(N, 1 or 3, H, W\)"):
        pictures_of((torch.zeros(2, 16), torch.zeros(2)), lambda batch: batch[0], [0])


def test_texts_are_one_a_sample():
    assert texts_of({"text": torch.zeros(2)}, "text", 2) == []
    assert texts_of((torch.zeros(2),), "text", 2) == []
    assert texts_of([1, 2], lambda batch: [f"no {one}" for one in batch], 2) == ["no 1", "no 2"]
    for bad in (["one"], "ab", None):
        with pytest.raises(ValueError, match="text for each of the 2 samples") if bad else _nothing():
            texts_of(bad, lambda batch: batch, 2)


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_class_names_are_found_beneath_subsets():
    data = images()
    assert class_names(Subset(Subset(data, range(9)), range(4))) == ("a", "b", "c")
    assert class_names(ConcatDataset([data, data])) == ("a", "b", "c")
    assert class_names(range(3)) == ()
    assert class_names(None) == ()


# -- several ranks -----------------------------------------------------------------------------------------------------


class Ending(pl.Callback):
    """Ends the run as a job does: a forked process leaves without a goodbye."""

    def teardown(self, trainer, pl_module, stage):
        if trainer.is_global_zero and "wandb" in sys.modules:
            sys.modules["wandb"].finish()


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_under_ddp_one_run_shows_each_sample_once(here, verb):
    data, new, old = images(49, seed=5), new_module(), old_model()
    dashboard = FlipDashboard("out", slices={"light": brightness}, max_images=3)
    callbacks = [FlipMonitor(old), dashboard, Weights(here / "weights"), Ending()]
    logger = WandbLogger(project="p", save_dir=Path.cwd())
    running = trainer(*callbacks, logger=logger, devices=2, strategy="ddp_fork", max_epochs=1)
    if verb == "fit":
        running.fit(new, DataLoader(data, 8), DataLoader(data, 8))
    else:
        running.validate(new, DataLoader(data, 8), verbose=False)
    new.load_state_dict(torch.load(here / "weights"))
    expected, (run,) = by_hand(old, new, data), ended_runs(here)
    rows = run.table("flips/val_table")
    check_rows(rows, expected)
    lights = brightness([torch.stack([data[place][0] for place in range(49)])])
    assert len({*lights}) > 4  # which ranks meet in different orders
    assert all(row["slice:light"] == lights[int(row["id"])] for row in rows)
    drawn = {row["id"]: row["image"] for row in rows if row["image"] is not None}
    assert [*drawn] == flips(expected)[:3]
    for place, cell in drawn.items():
        assert np.array_equal(run.image("flips/val_table", cell), data.images[int(place)].numpy())
    assert sum("flips/val_table/path" in step for step in run.history) == 1


def brightness(batch):
    return [f"{int(image.mean() * 40)} of 40" for image in batch[0]]


class Weights(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save(pl_module.state_dict(), self.path)
