"""Checkpoints of tiny models are evaluated; what is told is computed again from their embeddings, another way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict
from rich.console import Console
from sklearn.cluster import KMeans
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn.functional import normalize

from lightning_graceful.adapters.alignment import SpaceAlignment
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.experiment.datamodules import DigitsDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule
from lightning_graceful.experiment.errors import reported
from lightning_graceful.experiment.evaluate import Evaluation, evaluate
from lightning_graceful.experiment.searchpath import conf_dir
from lightning_graceful.experiment.versions import Chain, Version
from lightning_graceful.functional.retrieval import compatibility_matrix, retrieval_metrics
from lightning_graceful.models.embedder import Embedder
from lightning_graceful.models.mlp import HiddenLayers
from lightning_graceful.models.old_model import OldModel
from tests.wandb_file import ended_runs

HIDDEN = [16]
V1, V2 = "models.v1.checkpoint", "models.v2.checkpoint"


class LitNet(pl.LightningModule):
    """A user's own class: its hyper-parameters are in its checkpoints."""

    def __init__(self, width, classes=10):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(x))


class BrokenNet(LitNet):
    """Its embeddings are no numbers."""

    def forward(self, x):
        return self.head(self.body(x / 0))


def lit(width):
    return LitClassifier(Embedder(HiddenLayers(64, hidden=HIDDEN), width=width, num_classes=10))


def saved(module, path, data=None):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **options)
    if data is None:
        trainer.strategy.connect(module)
    else:
        trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path, weights_only=True)
    return module


class Models(NamedTuple):
    folder: Path
    old: nn.Module
    new: nn.Module

    def arguments(self, *more):
        return [f"{V1}={self.folder}/old.ckpt", f"{V2}={self.folder}/new.ckpt", *SMALL, *more]


SMALL = (f"model.net.features.hidden={HIDDEN}", "model.net.width=16")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    data = DigitsDataModule(old_fraction=0.3)
    torch.manual_seed(0)
    old = saved(lit(16), folder / "old.ckpt", data.of_old())
    new = lit(16)
    new.load_state_dict(old.state_dict())  # so that their spaces are not strangers
    saved(new, folder / "new.ckpt", data)
    saved(lit(24), folder / "wide.ckpt", data)
    return Models(folder, old, new)


def composed(*overrides):
    GlobalHydra.instance().clear()
    added = [f"++{one}" if one.startswith(("models.", "paragon.")) else one for one in overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("evaluate", added)


def evaluated(*overrides):
    return Evaluation(composed(*overrides), Console(quiet=True)).run()


class Rows(NamedTuple):
    query: torch.Tensor
    gallery: torch.Tensor
    labels: list
    ids: list


def rows_of(module, held_out=()):
    """Embeddings by the network alone."""
    halves = SearchDataModule(DigitsDataModule(), held_out=held_out).search_halves("test", 0)
    parts, labels = [], []
    for half in halves:
        images = torch.stack([image for image, _ in half])
        with torch.no_grad():
            parts.append(module.net.embedding(module.net.features(images)))
        labels.append(np.array([int(label) for _, label in half]))
    return Rows(*parts, labels, [list(half.indices) for half in halves])


def mean_average_precision(query, gallery, labels):
    scores = normalize(query.double()) @ normalize(gallery.double()).T
    return np.mean([
        average_precision_score(labels[1] == label, row) for label, row in zip(labels[0], scores.numpy(), strict=True)
    ])


def b_cubed_by_hand(clusters, labels):
    same_cluster, same_label = clusters[:, None] == clusters, labels[:, None] == labels
    both = (same_cluster & same_label).sum(1)
    precision, recall = np.mean(both / same_cluster.sum(1)), np.mean(both / same_label.sum(1))
    return precision, recall, 2 * precision * recall / (precision + recall)


def graceful(*arguments, cwd):
    command = [sys.executable, "-m", "lightning_graceful", "evaluate", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(models, tmp_path_factory):
    """The command, with the new model once more as its own paragon."""
    folder = tmp_path_factory.mktemp("run")
    more = (f"paragon.checkpoint={models.folder}/new.ckpt", "minimum_gap=0", "logger=wandb", "hydra.run.dir=run")
    printed = graceful(*models.arguments(*more, "far=[0.05]"), cwd=folder)
    return folder / "run", printed, json.loads((folder / "run/results.json").read_text())


def test_the_command_tells_and_leaves_everything(ran):
    folder, printed, results = ran
    assert results["title"] == "Digits: v2 against v1"
    assert [part for part in ("embed v2", "Backfill", "Built on old", "Retrieval flips") if part not in printed] == []
    assert str(folder / "page.html") in re.sub(r"\s", "", printed)
    page = (folder / "page.html").read_text()
    flips = results["flips"]
    assert flips
    assert page.count("data:image/png") >= len({flip["id"] for flip in flips})
    assert "old threshold for FAR 5 %" in (folder / "results.md").read_text()
    (run,) = ended_runs(folder)
    assert len(run.table("compatibility/backfill")) == 3 * 11
    assert len(run.table("compatibility/flips")) == len(flips)
    assert len(run.table("compatibility/downstream")) == len(results["downstream"])
    assert run.summary["test/cross_test"] == pytest.approx(results["ways"][0]["cross_test"]["map"]["mean"])


def test_searches_are_those_of_the_embeddings(ran, models):
    results, (old, new) = ran[2], (rows_of(one) for one in models[1:])
    labels = old.labels
    assert (results["queries"], results["gallery"]) == (len(labels[0]), len(labels[1]))
    expected = [[mean_average_precision(a.query, b.gallery, labels) for b in (old, new)] for a in (old, new)]
    assert np.array(results["matrix"]["values"]) == pytest.approx(np.array(expected), abs=1e-6)
    (way,) = results["ways"]
    assert way["cross_test"]["map"]["mean"] == pytest.approx(expected[1][0])
    assert way["cross_gain"]["map"]["mean"] == pytest.approx(expected[1][0] - expected[0][0])
    assert (
        way["shared_self_test"]["map"] == way["self_test"]["map"] == pytest.approx(results["paragon_self_test"]["map"])
    )
    gain = (expected[1][0] - expected[0][0]) / (expected[1][1] - expected[0][0])
    assert way["update_gain"]["map"]["mean"] == pytest.approx(gain)
    assert way["tax"]["map"]["mean"] == pytest.approx(0)
    assert results["matrix"]["average_compatibility"] == float(expected[1][0] > expected[0][0])


def test_backfill_goes_from_the_old_gallery_to_the_new_one(ran, models):
    results, new = ran[2], rows_of(models.new)
    ends = [results["matrix"]["values"][1][place] for place in (0, 1)]
    assert [curve["name"] for curve in results["curves"]] == ["random", "uncertainty", "far from class mean"]
    for curve in results["curves"]:
        assert (curve["values"][0], curve["values"][-1]) == pytest.approx(ends)
    # The least sure of the old classifier come first.
    old = rows_of(models.old)
    logits = models.old.net.classifier(old.gallery).detach()
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    first = entropy.argsort(descending=True)[: round(len(entropy) / 2)]
    mixed = old.gallery.clone()
    mixed[first] = new.gallery[first]
    half = mean_average_precision(new.query, mixed, new.labels)
    assert results["curves"][1]["values"][5] == pytest.approx(half, abs=1e-6)


def test_flips_are_those_of_the_first_ten(ran, models):
    results, (old, new) = ran[2], (rows_of(one) for one in models[1:])
    lists = [
        np.argsort(-(normalize(one.query) @ normalize(old.gallery).T).numpy(), axis=1, kind="stable")[:, :10]
        for one in (old, new)
    ]
    before, now = ((old.labels[1][places] == old.labels[0][:, None]).any(1) for places in lists)
    ids = np.array(old.ids[0])
    told = {(flip["id"], flip["change"]) for flip in results["flips"]}
    assert told == {(str(number), "lost") for number in ids[before & ~now]} | {
        (str(number), "found") for number in ids[~before & now]
    }
    flip = results["flips"][0]
    place = list(ids).index(int(flip["id"]))
    assert flip["new_items"] == [str(old.ids[1][item]) for item in lists[1][place]]
    assert flip["new_labels"] == [str(old.labels[1][item]) for item in lists[1][place]]


def test_what_is_built_on_old_embeddings_is_measured(ran, models):
    found = {line["name"]: (line["old"], line["mixed"], line["new"]) for line in ran[2]["downstream"]}
    old, new = (rows_of(one) for one in models[1:])
    target = np.concatenate(old.labels)
    head = models.old.net.classifier
    right = [head(torch.cat([one.query, one.gallery])).argmax(1).numpy() == target for one in (old, new)]
    assert found["old head, error"] == pytest.approx((1 - right[0].mean(), None, 1 - right[1].mean()))
    assert found["old head, negative flips"][2] == pytest.approx((right[0] & ~right[1]).mean())
    kmeans = KMeans(10, n_init=10, random_state=0).fit(normalize(old.gallery).numpy())
    for place, rows in ((0, old.gallery), (2, new.gallery)):
        centres = normalize(torch.from_numpy(kmeans.cluster_centers_))
        expected = b_cubed_by_hand((normalize(rows) @ centres.T).argmax(1).numpy(), old.labels[1])
        assert [found[f"10 old clusters, B-cubed {name}"][place] for name in ("precision", "recall", "F")] == (
            pytest.approx(expected)
        )
    accepted, negative = [], old.labels[0][:, None] != old.labels[1]
    pairs = [(normalize(a.query) @ normalize(b.gallery).T).numpy() for a, b in ((old, old), (new, old), (new, new))]
    threshold = np.sort(pairs[0][negative])[::-1][int(0.05 * negative.sum())]
    accepted = [(scores[negative] > threshold + 1e-7).mean() for scores in pairs]
    assert found["old threshold for FAR 5 %, false accepts"] == pytest.approx(accepted, abs=1e-4)


def test_three_versions_with_an_adapter_meet_in_the_older_space(models, tmp_path):
    torch.manual_seed(1)
    wide = lit(24)
    wide.load_state_dict(torch.load(models.folder / "wide.ckpt", weights_only=True)["state_dict"])
    rows = [rows_of(one, held_out=(3, 5)) for one in (models.old, models.new, wide)]
    to_new = SpaceAlignment.ridge(rows[2].gallery, rows[1].gallery)
    to_new.save(tmp_path / "to_new.safetensors")
    more = (f"models.v3.checkpoint={models.folder}/wide.ckpt", "models.v3.module.net.width=24", "held_out=[3,5]")
    more += (f"models.v3.adapter={tmp_path}/to_new.safetensors", "num_classes=10", "clusters=null", "far=[]")
    summary = evaluated(*models.arguments(*more, f"paragon.checkpoint={models.folder}/new.ckpt", "backfill=null"))
    mapped = rows[2]._replace(query=to_new(rows[2].query), gallery=to_new(rows[2].gallery))
    labels = [torch.from_numpy(part) for part in rows[0].labels]
    matrix = compatibility_matrix(
        *(
            {str(place): getattr(one, part) for place, one in enumerate([*rows[:2], mapped])}
            for part in Rows._fields[:2]
        ),
        *labels,
    ).values
    matrix[2, 2] = retrieval_metrics(rows[2].query, rows[2].gallery, *labels)["map"]
    assert torch.from_numpy(summary.matrix.values) == pytest.approx(matrix)
    second, third = summary.ways
    assert third.detail == "adapter to_new.safetensors"
    own = retrieval_metrics(mapped.query, mapped.gallery, *labels)["map"].item()
    assert third.shared_self_test["map"].mean == pytest.approx(own)
    assert third.self_test["map"].mean == pytest.approx(matrix[2, 2].item())
    # The paragon is the newest one's: others have a gain by it, and pay no tax.
    assert np.isnan(second.tax["map"].mean)
    assert not np.isnan(third.tax["map"].mean)
    assert summary.curves == ()
    # A head knows the length of its rows, which an adapter makes 1.
    scale = torch.cat(rows[1][:2]).norm(dim=1).mean()
    said = models.new.net.classifier(torch.cat(mapped[:2]) * scale).argmax(1)
    error, _ = summary.downstream
    assert error.name == "old head, error"
    assert error.new == pytest.approx((said != torch.cat(labels)).double().mean().item())


def test_widths_that_differ_are_compared_as_asked_for(models):
    wide = (f"{V2}={models.folder}/wide.ckpt", "models.v2.module.net.width=24")
    short = (f"{V1}={models.folder}/old.ckpt", *SMALL, *wide, "backfill=null", "clusters=null", "far=[]")
    with pytest.raises(
        ValueError, match=r"'v2' in the space of 'v1', got 24 and 16 dimensions. Give dimensions=shared"
    ):
        evaluated(*short)
    summary = evaluated(*short, "dimensions=shared")
    module = lit(24)
    module.load_state_dict(torch.load(models.folder / "wide.ckpt", weights_only=True)["state_dict"])
    old, new = rows_of(models.old), rows_of(module)
    cross = mean_average_precision(new.query[:, :16], old.gallery, old.labels)
    assert summary.ways[0].cross_test["map"].mean == pytest.approx(cross)
    own = mean_average_precision(new.query, new.gallery, old.labels)
    assert summary.ways[0].self_test["map"].mean == pytest.approx(own)
    own = mean_average_precision(new.query[:, :16], new.gallery[:, :16], old.labels)
    assert summary.ways[0].shared_self_test["map"].mean == pytest.approx(own)


def test_versions_between_which_widths_changed_share_no_space():
    """A width that differs in the middle parts what is before from what is after."""
    made = Version("v", OldModel(nn.Identity()))
    rows = [Rows(torch.ones(2, width), torch.ones(2, width), [], []) for width in (4, 8, 8)]
    chain = Chain([made] * 3, rows, None)
    assert [chain.can_compare(2, old) for old in (0, 1, 2)] == [False, True, True]
    assert Chain([made] * 3, rows, "shared").can_compare(2, 0)


def test_a_model_that_shares_no_space_with_the_oldest_has_no_way(models):
    wide = (f"{V2}={models.folder}/wide.ckpt", "models.v2.module.net.width=24")
    third = (f"models.v3.checkpoint={models.folder}/wide.ckpt", "models.v3.module.net.width=24")
    summary = evaluated(f"{V1}={models.folder}/old.ckpt", *SMALL, *wide, *third, "backfill=null", "clusters=null")
    assert summary.ways == ()
    assert np.isnan(summary.matrix.values).tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert "v3 shares no space with v1: their widths differ." in summary.notes
    assert all(flip.old_items == flip.new_items for flip in summary.flips)  # v3 is v2


def test_a_class_with_hyper_parameters_and_a_target_of_ones_own(tmp_path):
    """A dotted class is built from its checkpoint; what a _target_ returns is taken as it is."""
    torch.manual_seed(0)
    for name, kind in (("a", LitNet), ("b", LitNet), ("broken", BrokenNet)):
        saved(kind(12), tmp_path / f"{name}.ckpt")
    each = (f"each.module={__name__}.LitNet", "each.embedding=body", "each.classifier=null", "clusters=null")
    target = f"{{_target_: lightning_graceful.OldModel.from_checkpoint, path: {tmp_path}/b.ckpt, "
    target += f"module: {__name__}.LitNet, embedding: body}}"
    summary = evaluated(f"{V1}={tmp_path}/a.ckpt", f"models.v2={target}", *each)
    assert {curve.name for curve in summary.curves} == {"random", "far from class mean"}
    assert [note for note in summary.notes if "was given no classifier" in note] == [
        "No old head: v1 was given no classifier.",
        "No backfill in the order uncertainty: v1 was given no classifier.",
    ]
    broken = (f"{V2}={tmp_path}/broken.ckpt", f"models.v2.module={__name__}.BrokenNet")
    with pytest.raises(ValueError, match="finite embeddings of 'v2', got NaN"):
        evaluated(f"{V1}={tmp_path}/a.ckpt", *broken, *each)


@pytest.mark.parametrize(
    ("held_out", "classes", "words"),
    [
        ("[0]", None, "No old head: v1 has 9 classes, the data have 10. Give models.v1.classes"),
        ("[0]", [1, 2, 3, 4, 5, 6, 7, 8, 9], "No old head: v1 knows none of the classes that are searched."),
    ],
)
def test_a_head_that_knows_other_classes_is_left_out(tmp_path, held_out, classes, words):
    torch.manual_seed(0)
    saved(LitNet(12, classes=9), tmp_path / "a.ckpt")
    given = (f"{V1}={tmp_path}/a.ckpt", f"{V2}={tmp_path}/a.ckpt", f"each.module={__name__}.LitNet")
    given += ("each.embedding=body", "each.classifier=head", f"held_out={held_out}", "clusters=null", "far=[]")
    given += ("backfill=null", "flips=null", *([f"models.v1.classes={classes}"] if classes else []))
    assert [note for note in evaluated(*given).notes if words in note]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("~models.v2",), r"two models or more, oldest first, got \['v1'\]"),
        (("stage=train",), "stage 'val' or 'test', got 'train'"),
        (("measure=mAP",), "measure among map, map_at_r, r_precision, recall_at_1"),
        (("dimensions=all",), "dimensions to be one of"),
        (("each.embedding=null",), "path of the submodule of 'v1' whose output is the embedding, got None"),
        (("each.embedding=net.nothing",), "net.nothing"),
        (("models.v2.checkpont=x",), r"'v2' to have the keys adapter, .*, got \['checkpont'\]"),
        (("models.v2.adapter=nowhere.safetensors",), "SpaceAlignment at nowhere.safetensors, found none"),
        (("held_out=[11]",), "held_out, got"),
        (("searched=[1,1]",), "as classes, got"),
        (("clusters.n_clusters=1000",), "n_clusters=1000"),
        (("backfill.parts=0",), "parts from 1"),
    ],
)
def test_what_makes_no_sense_is_refused(models, overrides, words):
    cfg = composed(*models.arguments(*(one for one in overrides if not one.startswith("~"))))
    if "~models.v2" in overrides:
        with open_dict(cfg):
            cfg.models = OmegaConf.masked_copy(cfg.models, ["v1"])
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        Evaluation(cfg, Console(quiet=True)).run()


def test_an_adapter_of_another_model_is_refused(models, tmp_path):
    SpaceAlignment.ridge(torch.randn(40, 12), torch.randn(40, 16)).save(tmp_path / "other.safetensors")
    other = f"adapter={tmp_path}/other.safetensors"
    with pytest.raises(ValueError, match="map 16 dimensions to its predecessor's 16, got one from 12 to 16"):
        evaluated(*models.arguments(f"models.v2.{other}"))
    with pytest.raises(ValueError, match="no adapter of 'v1', the oldest model"):
        evaluated(*models.arguments(f"models.v1.{other}"))


def test_a_class_without_a_second_image_is_refused(models, monkeypatch):
    """One image cannot be query and gallery."""
    kept = SearchDataModule.search_halves

    def search_halves(self, stage, seed, *, classes=None):
        rare = [index for index in self.data.test_set.indices if int(self.data.base.target[index]) == 4][1:]
        self.data.test_set.indices = [index for index in self.data.test_set.indices if index not in rare]
        return kept(self, stage, seed, classes=classes)

    monkeypatch.setattr(SearchDataModule, "search_halves", search_halves)
    with pytest.raises(ValueError, match="two or more test images of class '4', found 1"):
        evaluated(*models.arguments())
    assert evaluated(*models.arguments("searched=[1,2,3]", "clusters.n_clusters=3", "backfill.parts=2")).queries > 0


def test_the_job_ends_with_65_where_a_checkpoint_is_missing(tmp_path, capsys):
    cfg = composed(f"{V1}=nowhere.ckpt", f"{V2}=nowhere.ckpt")
    with pytest.raises(SystemExit) as stop:
        reported(lambda cfg: evaluate(cfg, tmp_path))(cfg)
    assert stop.value.code == 65
    assert "checkpoint at nowhere.ckpt, found no file" in " ".join(capsys.readouterr().err.split())


def test_flips_after_the_gallery_was_embedded_again(models):
    short = ("clusters=null", "far=[]", "backfill=null", "flips.k=1", "flips.pictures=3")
    summary = evaluated(*models.arguments(*short, "flips.gallery=new"))
    right = [
        (one.labels[1][(normalize(one.query) @ normalize(one.gallery).T).argmax(1).numpy()] == one.labels[0])
        for one in (rows_of(models.old), rows_of(models.new))
    ]
    changes = [flip.change for flip in summary.flips]
    assert changes.count("lost") == (right[0] & ~right[1]).sum()
    assert changes.count("found") == (~right[0] & right[1]).sum()
    assert len(summary.images) == 3
    assert "queries of v2 in the gallery embedded again" in summary.notes[0]


def test_what_is_null_is_left_out(models, tmp_path, capsys):
    cfg = composed(*models.arguments("clusters=null", "far=[]", "backfill=null", "flips=null", "threads=null"))
    summary = evaluate(cfg, tmp_path)
    assert summary.flips == summary.curves == ()
    assert "Page: " in capsys.readouterr().out
