"""A chain of versions, trained for an epoch each: what is told of it is computed again from the models themselves."""

import io
import json
import re
import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from rich.console import Console
from sklearn.metrics import average_precision_score
from torch.utils.data import default_collate

from lightning_graceful.experiment import chain_bench
from lightning_graceful.experiment.chain_bench import ChainBench, earlier_data
from lightning_graceful.experiment.chain_results import ChainFound, classifier_notes, over_seeds
from lightning_graceful.experiment.datamodules import DigitsDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.update import prepare_process
from lightning_graceful.functional.flips import negative_flip_rate
from lightning_graceful.report.compatibility.summary import MEASURES

QUICK = ("epochs=1", "old.epochs=2", "logger=none", "callbacks.progress=null", "trainer.enable_progress_bar=false")
DROPPED = ("~ways.l2", "~ways.influence", "ways.pct=null")
CHAINS = ("independent", "gallery_search")


def composed(*overrides, experiment="bct_chain_digits"):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("bench", [f"experiment={experiment}", *QUICK, *overrides])


class Ran(NamedTuple):
    results: dict  # by chain
    printed: str
    trainings: list  # arguments of train_new
    searches: dict  # by chain, the arguments of search_chain on each seed


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three versions on seeds whose folds differ in size; models are noted on their way."""
    folder, out, trainings, searched = tmp_path_factory.mktemp("chain"), io.StringIO(), [], []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name, calls in (("train_new", trainings), ("search_chain", searched)):
            patch.setattr(chain_bench, name, noted(getattr(chain_bench, name), calls))
        patch.setenv("WANDB_SILENT", "true")
        cfg = composed("seeds=[0,2]", "shares=[0.2,0.5,1.0]", *DROPPED, f"root={folder}")
        prepare_process(cfg)
        chain_bench.run(cfg, folder, Console(file=out, width=80))
    results = {name: json.loads((folder / name / "results.json").read_text()) for name in CHAINS}
    return Ran(results, out.getvalue(), trainings, {name: searched[place::2] for place, name in enumerate(CHAINS)})


def noted(function, calls):
    def called(*arguments, **options):
        calls.append((*arguments, options))
        return function(*arguments, **options)

    return called


def asked(model, samples):
    """Logits and embeddings of a model, straight from its layers."""
    images, _ = default_collate([samples[index] for index in range(len(samples))])
    net = model._module.net
    with torch.no_grad():
        embedding = net.embedding(net.features(images))
        return net.classifier(embedding), embedding.double().numpy()


def average_precisions(query, gallery, query_labels, gallery_labels):
    width = min(query.shape[1], gallery.shape[1])
    query, gallery = (rows[:, :width] / np.linalg.norm(rows[:, :width], axis=1)[:, None] for rows in (query, gallery))
    return [
        average_precision_score(gallery_labels == label, row)
        for label, row in zip(query_labels, query @ gallery.T, strict=True)
    ]


def labels(samples):
    return np.array([int(label) for _, label in samples])


@pytest.mark.parametrize(
    ("chain", "new", "old"), [("gallery_search", 2, 0), ("gallery_search", 1, 2), ("independent", 1, 1)]
)
def test_a_cell_of_the_matrix_is_the_map_over_the_queries_of_all_seeds(ran, chain, new, old):
    expected = []
    for models, halves, *_ in ran.searches[chain]:
        query, gallery = asked(models[new], halves.query)[1], asked(models[old], halves.gallery)[1]
        expected += average_precisions(query, gallery, labels(halves.query), labels(halves.gallery))
    matrix = ran.results[chain]["matrix"]
    assert matrix["values"][new][old] == pytest.approx(np.mean(expected), abs=1e-5)
    assert ran.results[chain]["queries"] == len(expected) == 179 + 178
    better = [matrix["values"][i][j] > matrix["values"][j][j] for i in range(3) for j in range(i)]
    assert matrix["average_compatibility"] == pytest.approx(np.mean(better))


@pytest.mark.parametrize("chain", CHAINS)
def test_nfr_is_that_of_the_classifiers_against_every_predecessor(ran, chain):
    said, targets = [[], [], []], []
    for models, _, loader, *_ in ran.searches[chain]:
        targets.append(torch.from_numpy(labels(loader.dataset)))
        for place, model in enumerate(models):
            said[place].append(asked(model, loader.dataset)[0])
    logits, target = [torch.cat(parts) for parts in said], torch.cat(targets)
    for new, step in enumerate(ran.results[chain]["taxes"]):
        assert list(step["nfr"]) == ["v1", "v2", "v3"][:new]
        for old, rate in enumerate(step["nfr"].values()):
            expected = negative_flip_rate(logits[old], logits[new], target).item()
            assert rate["mean"] == pytest.approx(expected)
            assert rate["low"] <= expected <= rate["high"]


def test_tax_is_against_the_paragon_of_the_same_version(ran):
    own, paragon = (np.diag(ran.results[name]["matrix"]["values"]) for name in CHAINS[::-1])
    taxes = [step["tax"]["mean"] for step in ran.results["gallery_search"]["taxes"]]
    assert taxes == pytest.approx(paragon - own)
    assert taxes[0] == 0 != taxes[1]
    assert taxes[1:] == [way["tax"]["map"]["mean"] for way in ran.results["gallery_search"]["ways"]]
    assert all(step["tax"]["mean"] == 0 for step in ran.results["independent"]["taxes"])


def test_ways_are_versions_that_search_the_gallery_of_the_first(ran):
    found = ran.results["gallery_search"]
    values = np.array(found["matrix"]["values"])
    assert found["old_self_test"]["map"]["mean"] == pytest.approx(values[0, 0])
    assert [way["name"] for way in found["ways"]] == ["v2", "v3"]
    assert [way["cross_test"]["map"]["mean"] for way in found["ways"]] == pytest.approx(values[1:, 0])
    assert all(way["train_seconds"] > 0 for way in found["ways"])
    assert all(way["shared_self_test"]["map"] != way["self_test"]["map"] for way in found["ways"])


def test_each_version_is_trained_against_its_predecessor_only(ran):
    """On its own share of the samples, from a start that it has in common with its paragon alone."""
    assert len(ran.trainings) == 2 * 2 * 2
    for place, chain in enumerate(CHAINS):
        calls = ran.trainings[place::2]
        olds = [models[place] for models, *_ in ran.searches[chain] for place in (0, 1)]
        assert [call[3] for call in calls] == olds
        assert [len(call[2].train_set) for call in calls[:2]] == [628, 1257]
        assert list(calls[0][1].terms) == ([] if chain == "independent" else ["search"])
        assert [call[-1]["seed"] for call in calls] == [1000, 2000, 1002, 2002]


def test_everything_is_told(ran):
    assert re.findall(r"\[ *(\d+)/10\]", ran.printed) == [str(number) for number in range(1, 11)]
    assert "[ 10/10] seed 2: v3, gallery_search" in ran.printed
    assert ran.printed.count("Page: ") == 2
    assert "20%, 50%, 100%" in " ".join(ran.printed.split())
    assert ran.results["gallery_search"]["notes"][0].startswith("Average compatibility of the paragons: 0.")
    assert not ran.results["independent"]["notes"]


def test_data_of_earlier_versions_lie_in_those_of_later_ones():
    whole = SearchDataModule(DigitsDataModule(old_fraction=0.9, seed=1), held_out=[3, 8])
    second, third = earlier_data(whole, [0.3, 0.6, 0.9])
    parts = [set(data.train_set.indices) for data in (second.of_old(), second, third, whole)]
    assert all(early < late for early, late in pairwise(parts))
    assert [round(len(part) / len(parts[-1]), 2) for part in parts] == [0.3, 0.6, 0.9, 1.0]
    assert sorted({int(label) for label in second.of_old().train_set.dataset.target[list(parts[0])]}) == list(range(8))
    assert second.test_set.indices == whole.test_set.indices
    assert second.val_set.indices == whole.val_set.indices


def test_equal_shares_are_the_same_samples():
    (only,) = earlier_data(DigitsDataModule(old_fraction=0.5), [0.5, 0.5])
    assert only.of_old().train_set.indices == only.train_set.indices


def seed_of(ids, values):
    values = np.array(values, np.float64)
    pairs = np.broadcast_to(values, (2, 2, len(ids)))
    by_measure = dict.fromkeys(MEASURES, pairs)
    rows = dict.fromkeys(MEASURES, pairs[0])
    return ChainFound(np.array(ids), 3, by_measure, rows, np.array(ids), pairs[0], pairs)


def test_a_sample_counts_once_however_many_seeds_asked_about_it():
    found = over_seeds([seed_of([5, 2], [1, 0]), seed_of([9, 5], [1, 0])])
    assert found.query_id.tolist() == found.test_id.tolist() == [2, 5, 9]
    assert found.searches["map"].shape == (2, 2, 3)
    for values in (found.searches["map"][1, 0], found.shared["recall_at_1"][0], found.wrong[1], found.broke[1, 0]):
        assert values.tolist() == [0, 0.5, 1]


def test_notes_compare_each_classifier_with_its_paragon():
    alone, found = seed_of(range(4), [1, 0, 0, 0]), seed_of(range(4), [1, 1, 0, 0])
    (note,) = classifier_notes(["v1", "v2"], found, alone)
    assert note.startswith("Classifier of v2: error 50.0 %, +25.0 points [")
    assert note.endswith("25.0 against v1.")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("shares=[1.0]", "for two or more versions"),
        ("shares=[0.5,0.2]", "that never fall"),
        ("shares=[0.0,0.2]", r"in \(0, 1\]"),
        ("seeds=[]", "Expected ways with terms"),
        ("ways=bct", "Take ways=chain"),
        ("draws=[[1],[2]]", "one draw"),
        ("+ways.independent={terms:{},weights:{}}", "none named 'independent'"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_before_any_training(override, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        ChainBench(composed(override), tmp_path, Console(quiet=True))


@pytest.mark.parametrize("experiment", ["bct_chain_digits", "bct_chain_fashion_mnist"])
def test_every_term_of_the_experiments_builds_and_has_a_weight(experiment):
    cfg = composed(experiment=experiment)
    assert list(cfg.ways) == ["l2", "influence", "gallery_search", "pct"]
    for way in cfg.ways.values():
        assert [*instantiate(way.terms, _convert_="all")] == list(way.weights)
