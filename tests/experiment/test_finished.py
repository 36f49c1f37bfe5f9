"""Benches that were interrupted go on as if they had not been; and what is wrong with an earlier run is told."""

import numpy as np
import pytest
from rich.console import Console

from lightning_graceful.experiment import bench as pct_bench
from lightning_graceful.experiment import chain_bench, search_bench
from lightning_graceful.experiment.finished import Finished, FinishedSeeds, told_how_to_go_on
from tests.experiment.test_conf import composed
from tests.experiment.test_search_ways import QUICK, pytestmark

assert pytestmark
ARRAYS = {"a\tb": np.arange(3.0), "c": np.array([True, False])}
BENCHES = {
    "search": (search_bench.SearchBench, search_bench, ["experiment=bct_digits", "draws=[[0,4]]"], "0-4-seed0"),
    "chain": (
        chain_bench.ChainBench,
        chain_bench,
        ["experiment=bct_chain_digits", "shares=[0.3,1.0]", "~ways.l2", "~ways.influence", "ways.pct=null"],
        "seed0",
    ),
    "flips": (pct_bench.Bench, pct_bench, ["select.grid=[0.1,1]", "old.epochs=1"], "seed0"),
}
DROPPED = (
    "l2",
    "influence",
    "cosine_influence",
    "contrastive",
    "mixed_gallery",
    "procrustes",
    "distilled",
    "searching",
)


def config(kind, folder, *overrides):
    quick = [one for one in QUICK if not one.startswith("experiment=")]
    extra = [f"~ways.{way}" for way in DROPPED] if kind == "search" else []
    return composed(*BENCHES[kind][2], *quick, *extra, "epochs=1", f"root={folder}", *overrides, job="bench")


def trained(monkeypatch, kind):
    """Count trainings of new models, by seed."""
    module, seeds = BENCHES[kind][1], []

    def counted(*arguments, seed, **options):
        seeds.append(seed)
        return train_new(*arguments, seed=seed, **options)

    train_new = module.train_new
    monkeypatch.setattr(module, "train_new", counted)
    return seeds


def outcome(found):
    """All that is told, without the time it took."""
    if isinstance(found, dict):
        return {name: without_seconds(summary) for name, summary in found.items()}
    ways = {way.name: way for way in found.ways}
    said = {"old": found.old, "again": found.again, **{name: way.said for name, way in ways.items()}}
    return {name: [column.tolist() for column in one] for name, one in said.items()}, found.notes, found.title


def without_seconds(summary):
    ways = [{key: value for key, value in vars(way).items() if key != "train_seconds"} for way in summary.ways]
    return repr({**vars(summary), "ways": ways})


@pytest.mark.parametrize("kind", BENCHES)
def test_an_interrupted_bench_ends_as_one_in_one_go(kind, tmp_path, monkeypatch):
    make = BENCHES[kind][0]
    console = Console(quiet=True)
    whole = make(config(kind, tmp_path, "seeds=[0,1]"), tmp_path / "whole", console).run()
    make(config(kind, tmp_path, "seeds=[0]"), tmp_path / "first", console).run()
    seeds = trained(monkeypatch, kind)
    resumed = make(
        config(kind, tmp_path, "seeds=[0,1]", f"resume={tmp_path / 'first'}"), tmp_path / "second", console
    ).run()
    assert seeds
    assert {seed % 1000 for seed in seeds} == {1}
    assert outcome(resumed) == outcome(whole)
    seeds.clear()
    third = make(config(kind, tmp_path, "seeds=[0,1]", f"resume={tmp_path / 'second'}"), tmp_path / "third", console)
    assert outcome(third.run()) == outcome(whole)
    assert not seeds


def kept(tmp_path, *overrides):
    seeds = FinishedSeeds(config("flips", tmp_path, *overrides), tmp_path / "first")
    seeds.keep("seed0", Finished(ARRAYS, {"told": ["x"]}))
    return tmp_path / "first" / "finished" / "seed0.npz"


def resumed(tmp_path, *overrides):
    return FinishedSeeds(config("flips", tmp_path, *overrides, f"resume={tmp_path / 'first'}"), tmp_path / "second")


def test_what_is_kept_is_taken_and_kept_again(tmp_path):
    kept(tmp_path)
    taken = resumed(tmp_path).take("seed0")
    assert taken.about == {"told": ["x"]}
    assert {name: (values.dtype, values.tolist()) for name, values in taken.arrays.items()} == {
        name: (values.dtype, values.tolist()) for name, values in ARRAYS.items()
    }
    assert [file.name for file in (tmp_path / "second" / "finished").iterdir()] == ["seed0.npz"]
    assert resumed(tmp_path).take("seed1") is None


@pytest.mark.parametrize("override", ["seeds=[4,5]", "trainer.enable_progress_bar=true", "cache_dir=elsewhere"])
def test_settings_that_change_nothing_of_a_seed_may_differ(override, tmp_path):
    kept(tmp_path)
    assert resumed(tmp_path, override).take("seed0") is not None


def test_other_settings_are_refused_by_name(tmp_path):
    kept(tmp_path)
    with pytest.raises(ValueError, match=r"seed0\.npz, but epochs: 1 there, 7 now.*\. Go on with the same settings"):
        resumed(tmp_path, "epochs=7").take("seed0")
    with pytest.raises(ValueError, match=r"ways\.pct\.weights\.pct: 0\.3 there, 3 now"):
        resumed(tmp_path, "ways.pct.weights.pct=3").take("seed0")


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_what_is_no_file_of_a_seed_is_refused_with_its_remedy(content, tmp_path):
    path = kept(tmp_path)
    for damaged in (content, path.read_bytes()[:-200]):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"seed0\.npz as it was written, but .*Delete it, and the seed is run again"
        ):
            resumed(tmp_path).take("seed0")


def test_no_flipped_bit_changes_what_a_seed_came_to(tmp_path):
    path = kept(tmp_path)
    whole, seeds, refused = path.read_bytes(), resumed(tmp_path), 0
    expected = outcome_of(seeds.take("seed0"))
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert outcome_of(seeds.take("seed0")) == expected
        except ValueError:
            refused += 1
    assert refused > 100


def outcome_of(taken):
    return {name: values.tolist() for name, values in taken.arrays.items()}, taken.about


def test_a_folder_without_a_finished_seed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none\. Leave resume out to begin anew"):
        resumed(tmp_path)


def test_a_bench_that_ends_early_says_how_to_go_on(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), told_how_to_go_on(tmp_path / "first"):
        raise KeyboardInterrupt
    assert not capsys.readouterr().err
    kept(tmp_path)
    with pytest.raises(KeyboardInterrupt), told_how_to_go_on(tmp_path / "first"):
        raise KeyboardInterrupt
    assert f"To go on, add: resume={tmp_path / 'first'}" in capsys.readouterr().err
