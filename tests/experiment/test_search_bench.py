"""The bench's numbers against loops over what was searched, on a few epochs of digits; and how a slip is told."""

import functools
import io
import json
import math
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from lightning_graceful.cli import EXIT_BAD_DATA, EXIT_USAGE
from lightning_graceful.experiment import search_bench
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.search_bench import SearchBench
from lightning_graceful.experiment.search_results import leave_draws
from lightning_graceful.experiment.search_ways import AdaptedWay, CollapsedWay, IndependentWay, TrainedWay
from lightning_graceful.functional.statistics.gains import mean_difference_interval, update_gain_interval
from lightning_graceful.report.compatibility.summary import MEASURES
from tests.experiment.test_conf import composed, graceful
from tests.experiment.test_search_ways import QUICK, pytestmark

assert pytestmark
WAYS = ("class_collapse", "gallery_search", "ridge")
DRAWS = ((0, 4), (1, 7, 8))
NO_PAGE = "lightning_graceful.experiment.search_results._page"


def config(folder, *overrides, ways=WAYS):
    cfg = composed(*QUICK, f"root={folder}", *overrides, job="bench")
    cfg.ways = OmegaConf.masked_copy(cfg.ways, list(ways))
    return cfg


def bench(folder, *overrides, **options):
    return SearchBench(config(folder, *overrides, **options), folder, Console(quiet=True))


def watched(folder, *overrides, **options):
    """Run a bench, and keep each trial and what each way gave to search with."""
    seen = []

    def keep(kind, search):
        def kept(self, name, trial):
            searched = search(self, name, trial)
            seen.append((name, trial, searched))
            return searched

        patch.setattr(kind, "search", kept)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (TrainedWay, AdaptedWay, CollapsedWay, IndependentWay):
            keep(kind, kind.search)
        return bench(folder, *overrides, **options).run(), seen


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Two seeds that test on one fold: the same queries."""
    return watched(tmp_path_factory.mktemp("closed"), "data.folds=10", "seeds=[0,10]", "old_classes=[0,1,2,3,9]")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Two seeds that test on a fold each."""
    draws = str([list(draw) for draw in DRAWS]).replace(" ", "")
    return watched(tmp_path_factory.mktemp("open"), "data.folds=10", "seeds=[0,1]", f"draws={draws}")


@functools.cache
def by_hand(query, gallery, labels):
    """Rank by cosine in float64; a query's average precision, that of its first R, and whether its first is right.

    Of n items with one score, r of them right, each order is as likely: i - 1 of the others stand before the i-th.
    """
    width = min(query.shape[1], gallery.shape[1])
    query, gallery = (part[:, :width].double().numpy() for part in (query, gallery))
    found = []
    for row, label in zip(query, labels[0], strict=True):
        scores = [float(row @ item) / np.linalg.norm(row) / np.linalg.norm(item) for item in gallery]
        total, whole, among_first, first, above, above_right = labels[1].count(label), 0.0, 0.0, None, 0, 0
        for score in sorted(set(scores), reverse=True):
            tied = [labels[1][place] == label for place, other in enumerate(scores) if other == score]
            n, r = len(tied), sum(tied)
            first = r / n if first is None else first
            for i in range(1, n + 1):
                before = above_right + (i - 1) * (r - 1) / max(n - 1, 1)
                gained = r / n * (before + 1) / (above + i) / total
                whole, among_first = whole + gained, among_first + gained * (above + i <= total)
            above, above_right = above + n, above_right + r
        found.append((whole, among_first, first))
    return np.array(found).T


def labels_in(half):
    return tuple(int(target) for _, target in half)


def measured(trial, query, gallery):
    return by_hand(query, gallery, (labels_in(trial.halves.query), labels_in(trial.halves.gallery)))


def loops_over(seen, way):
    """Return by test a row a measure and a column a query, of all trials of a way, side by side."""
    parts = [
        {
            "cross_test": measured(trial, searched.shared.query, trial.old_rows.gallery),
            "self_test": measured(trial, *searched.native),
            "shared_self_test": measured(trial, *searched.shared),
            "old": measured(trial, *trial.old_rows),
            "paragon": measured(trial, *trial.paragon_rows),
        }
        for name, trial, searched in seen
        if name == way
    ]
    return {test: [part[test] for part in parts] for test in parts[0]}


def way_in(summary, name):
    return next(way for way in summary.ways if way.name == name)


def means(test):
    return [test[measure].mean for measure in MEASURES]


def near(value):
    return pytest.approx(value, abs=2e-4)  # two items whose scores differ in float64 only may change places


@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_those_of_loops_over_both_seeds(closed, way):
    (summary,) = closed[0].values()
    expected = {test: np.mean(values, axis=0) for test, values in loops_over(closed[1], way).items()}
    found = way_in(summary, way)
    for test in ("cross_test", "self_test", "shared_self_test"):
        assert means(getattr(found, test)) == near(expected[test].mean(1))
    assert means(summary.old_self_test) == near(expected["old"].mean(1))
    assert means(summary.paragon_self_test) == near(expected["paragon"].mean(1))
    for measure, cross, own, old, paragon in zip(
        MEASURES, *(expected[test] for test in ("cross_test", "self_test", "old", "paragon")), strict=True
    ):
        assert found.cross_gain[measure] == near(mean_difference_interval(cross, old))
        assert found.tax[measure] == near(mean_difference_interval(paragon, own))
        assert found.update_gain[measure] == pytest.approx(update_gain_interval(cross, old, paragon), abs=5e-3)


def test_each_query_of_one_fold_counts_once(closed):
    (summary,) = closed[0].values()
    halves = closed[1][0][1].halves
    assert (summary.queries, summary.gallery, summary.seeds) == (len(halves.query), len(halves.gallery), 2)


def test_queries_of_classes_that_the_old_model_lacks_are_told_apart(closed):
    (summary,) = closed[0].values()
    (name, trial, _), *_ = closed[1]
    is_old = np.isin(labels_in(trial.halves.query), [0, 1, 2, 3, 9])
    expected = loops_over(closed[1], name)
    cross, old = (np.mean(expected[test], axis=0) for test in ("cross_test", "old"))
    groups = way_in(summary, name).groups
    assert groups.keys() == {"old classes", "new classes"}
    assert means(groups["old classes"]) == near(cross[:, is_old].mean(1))
    assert means(groups["new classes"]) == near(cross[:, ~is_old].mean(1))
    points = [f"{100 * value:.1f}" for value in old[:, is_old].mean(1)]
    assert summary.notes[0] == "Old/old, old classes: mAP {}, mAP@R {}, R@1 {}.".format(*points)
    assert "The old model knows: 0, 1, 2, 3, 9." in summary.protocol
    assert trial.old.options["label_map"] == [0, 1, 2, 3, -1, -1, -1, -1, -1, 4]


def test_queries_of_all_folds_are_told_apart_by_their_own_class(tmp_path):
    overrides = "data.folds=10", "seeds=[1,0]", "old_classes=[0,1,2,3,9]"
    found, seen = watched(tmp_path, *overrides, ways=["independent"])
    groups = found["all classes"].ways[0].groups
    cross = np.concatenate(loops_over(seen, "independent")["cross_test"], axis=1)
    is_old = np.isin(np.concatenate([labels_in(trial.halves.query) for _, trial, _ in seen]), [0, 1, 2, 3, 9])
    assert means(groups["old classes"]) == near(cross[:, is_old].mean(1))
    assert means(groups["new classes"]) == near(cross[:, ~is_old].mean(1))


def test_draws_are_told_one_by_one_and_together(opened):
    assert list(opened[0]) == ["0, 4", "1, 7, 8", "all draws"]
    for (name, trial, _), held_out in zip(opened[1][:: 2 * len(WAYS)], DRAWS, strict=True):
        assert name == WAYS[0]
        assert set(labels_in(trial.halves.query)) == set(held_out)
        assert trial.cfg.num_classes == trial.cfg.old_num_classes == 10 - len(held_out)
        summary = opened[0][", ".join(map(str, held_out))]
        assert f"Held out of both trainings, and searched: {', '.join(map(str, held_out))}." in summary.protocol
        assert all(way.groups == {} for way in summary.ways)


@pytest.mark.parametrize("way", WAYS)
def test_folds_bring_their_own_queries_and_draws_are_pooled(opened, way):
    """All queries of all folds and draws count alike; groups are the draws."""
    expected = loops_over(opened[1], way)
    whole = way_in(opened[0]["all draws"], way)
    for test in ("cross_test", "self_test", "shared_self_test"):
        assert means(getattr(whole, test)) == near(np.concatenate(expected[test], axis=1).mean(1))
    for place, held_out in enumerate(DRAWS):
        name, seeds = ", ".join(map(str, held_out)), slice(2 * place, 2 * place + 2)
        cross = np.concatenate(expected["cross_test"][seeds], axis=1)
        assert means(way_in(opened[0][name], way).cross_test) == near(cross.mean(1))
        assert means(whole.groups[name]) == near(cross.mean(1))
        assert opened[0][name].queries == cross.shape[1]
    old, cross, paragon = (np.concatenate(expected[test], axis=1)[0] for test in ("old", "cross_test", "paragon"))
    assert opened[0]["all draws"].queries == len(old)
    assert whole.cross_gain["map"].mean == near(cross.mean() - old.mean())
    assert whole.update_gain["map"].mean == pytest.approx(
        (cross.mean() - old.mean()) / (paragon.mean() - old.mean()), abs=5e-3
    )


def test_images_that_two_draws_search_with_are_told(opened, tmp_path):
    assert not any("earlier draw" in told for told in opened[0]["all draws"].protocol)
    found, seen = watched(tmp_path, "seeds=[0]", "epochs=1", "draws=[[0,4],[0,7]]", ways=["independent"])
    first, second = (set(trial.halves.query.indices) for _, trial, _ in seen)
    assert len(first & second) > 9
    told = f"{len(first & second)} queries are images of an earlier draw's; intervals take them as others."
    assert found["all draws"].protocol[-1] == told


def test_time_is_that_of_the_draw(opened):
    for way in WAYS:
        seconds = [sum(one.seconds for name, _, one in part if name == way) for part in halved(opened[1])]
        found = [way_in(summary, way).train_seconds for summary in opened[0].values()]
        assert found == pytest.approx([*seconds, sum(seconds)])


def halved(seen):
    return seen[: len(seen) // 2], seen[len(seen) // 2 :]


def test_draws_have_a_table_each_and_one_file(opened, tmp_path):
    console = Console(width=80, file=io.StringIO())
    leave_draws(opened[0], tmp_path, console)
    left = json.loads((tmp_path / "draws.json").read_text(), parse_constant=pytest.fail)
    tables = re.split("^(?=0, 4|1, 7, 8|all draws)", console.file.getvalue(), flags=re.MULTILINE)[1:]
    for (name, summary), table in zip(opened[0].items(), tables, strict=True):
        assert [way["name"] for way in left[name]["ways"]] == list(WAYS)
        assert table.startswith(name)
        for way in summary.ways:
            for value in (way.cross_gain["map"], way.cross_gain["recall_at_1"], way.tax["map"]):
                assert f"[{100 * value.low:+.1f}, {100 * value.high:+.1f}]".replace("-0.0", "+0.0") in table
            rate = left[name]["ways"][WAYS.index(way.name)]["cross_test"]["map"]["mean"]
            assert rate == way.cross_test["map"].mean


def test_a_small_gap_gives_no_gain(tmp_path, monkeypatch):
    """A gain is a ratio: below the gap it is NaN, printed as n/a and null in JSON; everything else is there."""
    monkeypatch.setattr(NO_PAGE, lambda *_: None)
    console = Console(width=100, file=io.StringIO())
    cfg = config(tmp_path, "seeds=[0]", "minimum_gap=0.9", "draws=[[0,4],[1,7]]", ways=["ridge"])
    search_bench.run(cfg, tmp_path, console)
    printed = " ".join(console.file.getvalue().split())
    assert printed.split(" gain, mAP tax, mAP ")[3].split("all draws")[0].count(" n/a ") == 2  # in both tables
    assert re.search(r"\(gap -?\d+\.\d points\)", printed)
    assert "Page: none; pip install 'lightning-graceful[report]' brings it." in printed
    (way,) = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)["ways"]
    assert set(way["update_gain"]["map"].values()) == {None}
    assert 0 < way["cross_test"]["map"]["mean"] < 1
    assert way["tax"]["map"]["mean"] == 0
    assert "n/a" in (tmp_path / "results.md").read_text()


def test_a_way_that_is_null_is_left_out(tmp_path):
    found = bench(tmp_path, "ways.ridge=null", "seeds=[0]", "epochs=1", ways=["independent", "ridge"]).run()
    assert [way.name for way in found["all classes"].ways] == ["independent"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("embedding=null",), "the path of the embedding, got ['class_collapse', 'gallery_search', 'ridge'], [[]]"),
        (("seeds=[]",), "lists of draws and seeds"),
        (("seeds=3",), "lists of draws and seeds"),
        (("draws=[]",), "lists of draws and seeds"),
        (("draws=[0,8,9]",), "draws as lists of labels, got [0, 8, 9]: draws=[[0,8,9]] is one draw of three"),
        (("draws=[[1,0],[0,1]]",), "each draw of held-out classes once"),
        (("draws=[[0,12]]",), "different labels in [0, 10) as held_out, got [0, 12]"),
        (("draws=[[0]]", "old_classes=[0,1,2]"), "old_classes that are not held out, got [0]"),
        (("minimum_gap=-1",), "minimum_gap of at least 0, got -1"),
        (("stage=train",), "stage 'val' or 'test', got 'train'"),
        (("embedding=net.nothing",), "a module at 'net.nothing'"),
        (("classifier=net.nothing",), "a module at 'net.nothing'"),
        (("+ways.ridge.source=net.nothing",), "a module at 'net.nothing'"),
    ],
)
def test_bad_arguments_are_one_sentence(overrides, words, tmp_path, capsys):
    cfg = config(tmp_path, "seeds=[0]", *overrides)
    with pytest.raises(SystemExit) as left:
        reported(lambda cfg: search_bench.run(cfg, tmp_path, Console(quiet=True)))(cfg)
    said = capsys.readouterr().err
    assert left.value.code == EXIT_BAD_DATA, said
    assert words in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ({}, "Expected ways, lists"),
        ({"ridge": None}, "Expected ways, lists"),
        ({"pct": {"terms": {}, "weights": {}}}, "'pct' to be one of experiment.search_ways, got dict"),
        ({"loss": {"_target_": "torch.nn.MSELoss"}}, "'loss' to be one of experiment.search_ways, got MSELoss"),
    ],
)
def test_bad_ways_are_refused_before_anything_is_trained(ways, words, tmp_path):
    cfg = config(tmp_path)
    cfg.ways = ways
    with pytest.raises(ValueError, match=words):
        SearchBench(cfg, tmp_path, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_title_is_wrong_usage_before_anything_is_trained(tmp_path, capsys):
    cfg = composed("experiment=bct", f"root={tmp_path}", "logger=none", job="bench")
    with pytest.raises(SystemExit) as left:
        reported(lambda cfg: search_bench.run(cfg, tmp_path, Console(quiet=True)))(cfg)
    assert left.value.code == EXIT_USAGE
    assert "Missing mandatory value: title" in capsys.readouterr().err


EVERY = ("+ways.distilled.fit.epochs=1", "ways.searching.fit.epochs=1", "data.folds=10", "seeds=[0]")


@pytest.mark.parametrize("protocol", ["old_classes=[1,3,5]", "draws=[[2,6,7]]"])
def test_every_way_runs_in_every_protocol(protocol, tmp_path):
    (summary,) = bench(tmp_path, *EVERY, protocol, ways=every_way()).run().values()
    assert [way.name for way in summary.ways] == every_way()
    for way in summary.ways:
        assert all(math.isfinite(way.cross_test[measure].mean) for measure in MEASURES)
        assert (way.train_seconds > 0) == (way.name != "independent")


@pytest.mark.slow
def test_the_command_leaves_table_json_and_page(tmp_path):
    done = graceful(tmp_path, "bench", *QUICK, *EVERY, "draws=[[0,4],[1,7]]")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "bench").iterdir()
    left = json.loads((folder / "results.json").read_text())
    assert [way["name"] for way in left["ways"]] == every_way()
    assert list(left["ways"][0]["groups"]) == ["0, 4", "1, 7"]
    assert "Cross mAP by group of queries" in done.stdout
    assert (folder / "draws.json").exists()
    assert (folder / "page.html").stat().st_size > 1e5


def every_way():
    return list(composed("experiment=bct_digits", job="bench").ways)
