"""Each way against its definition, on a tiny trial: digits, an old model of 32 dimensions, new ones of 64."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightning_graceful import CosineClassifier, FeatureAlignmentLoss, OldModel, SpaceAlignment
from lightning_graceful.data.views import UnlabelledViews
from lightning_graceful.experiment import search_terms
from lightning_graceful.experiment.datamodules import DigitsDataModule, SearchDataModule
from lightning_graceful.experiment.search_ways import (
    AdaptedWay,
    CollapsedWay,
    IndependentWay,
    TrainedWay,
    Trial,
    WithViews,
    labels_of,
    predicted,
    rows_of,
    unlabelled_fit,
)
from lightning_graceful.experiment.update import obtain_old, train_new
from tests.experiment.test_conf import composed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*smaller than the logging interval.*",
)
HELD_OUT, SEED = (2, 5, 9), 1
QUICK = (
    "experiment=bct_digits", "epochs=1", "old.epochs=3", "logger=none", "callbacks.progress=null",
    "trainer.enable_progress_bar=false",
)  # fmt: skip
L2 = {"l2": {"_target_": "lightning_graceful.FeatureAlignmentLoss"}}


def trial_of(folder, *overrides, held_out=(), old_classes=None):
    data = SearchDataModule(DigitsDataModule(seed=SEED, old_fraction=0.2), held_out=held_out, old_classes=old_classes)
    sizes = f"num_classes={len(data.new_classes)}", f"old_num_classes={len(data.old_classes)}"
    cfg = composed(*QUICK, f"root={folder}", *sizes, *overrides, job="bench")
    halves = data.search_halves("test", 0)
    old = obtain_old(cfg, data, folder, SEED)
    module = train_new(cfg, cfg.paragon, data, old, folder, name="paragon", seed=SEED).module
    paragon = OldModel(module, embedding="net.embedding")
    return Trial(cfg, data, halves, old, rows_of(old, halves), paragon, module, rows_of(paragon, halves), folder, SEED)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return trial_of(tmp_path_factory.mktemp("open"), held_out=HELD_OUT)


def images_of(samples):
    return torch.stack([image for image, _ in samples])


def by_hand(module, samples):
    """Embed with the network itself."""
    with torch.no_grad():
        return module.net.embedding(module.net.features(images_of(samples)))


def old_rows(trial, samples):
    return trial.old.outputs((images_of(samples), torch.zeros(len(samples)).long())).embedding


def trained_way(terms, weights, **options):
    return TrainedWay(OmegaConf.create(terms), OmegaConf.create(weights), **options)


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(found, expected):
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part, other)


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_of_the_samples_in_their_order(trial):
    for rows, half in zip(trial.paragon_rows, trial.halves, strict=True):
        torch.testing.assert_close(rows, by_hand(trial.paragon_module, half))
        assert labels_of(half).tolist() == [int(target) for _, target in half]
    assert trial.old_rows.query.shape == (len(trial.halves.query), 32)


def test_predictions_are_of_the_samples_in_their_order(trial):
    module, half = trial.paragon_module, trial.halves.gallery
    with torch.no_grad():
        expected = module(images_of(half)).argmax(1)
    assert torch.equal(predicted(trial.paragon, half), expected)


# -- ways without a training -------------------------------------------------------------------------------------------


def test_independent_searches_with_the_paragon_as_it_is(trial):
    searched = IndependentWay().search("independent", trial)
    assert searched.native is searched.shared is trial.paragon_rows


@pytest.mark.parametrize("held_out", [HELD_OUT, ()], ids=["open", "closed"])
def test_collapsed_embeddings_are_the_old_mean_of_the_predicted_class(trial, tmp_path, held_out):
    """Classes are the new model's: those that are held out are taken for one of the others."""
    trial = trial if held_out else trial_of(tmp_path, old_classes=[1, 3, 8])
    searched = CollapsedWay().search("class_collapse", trial)
    samples = trial.data.data.train_set
    truth = np.array([int(target) for _, target in samples])
    old = old_rows(trial, samples).double().numpy()
    classes = [label for label in range(10) if label not in held_out]
    for rows, half in zip(searched.shared, trial.halves, strict=True):
        with torch.no_grad():
            said = trial.paragon_module(images_of(half)).argmax(1)
        for row, number in zip(rows, said, strict=True):
            np.testing.assert_allclose(row, old[truth == classes[number]].mean(0), rtol=1e-4, atol=1e-5)
    assert searched.native is trial.paragon_rows


@pytest.mark.parametrize(("source", "width"), [(None, 64), ("net.features", 128)])
def test_an_adapter_is_fitted_on_all_training_samples_and_maps_both_halves(trial, source, width):
    def fit(new, old, labels):
        samples = trial.data.train_eval
        assert new.shape == (len(samples), width)
        assert labels.tolist() == [int(target) for _, target in samples]
        torch.testing.assert_close(old, old_rows(trial, samples))
        return SpaceAlignment.ridge(new, old)

    before = weights_of(trial.paragon_module)
    searched = AdaptedWay(fit, source=source).search("ridge", trial)
    network = trial.paragon_module.net
    part = network.features if source else nn.Sequential(network.features, network.embedding)
    with torch.no_grad():
        new, query = part(images_of(trial.data.train_eval)), part(images_of(trial.halves.query))
    expected = SpaceAlignment.ridge(new, old_rows(trial, trial.data.train_eval))(query)
    torch.testing.assert_close(searched.shared.query, expected, rtol=1e-3, atol=1e-3)
    assert searched.native is trial.paragon_rows
    assert searched.seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in trial.paragon_module.state_dict().items())


def test_an_adapter_may_be_given_images_of_held_out_classes_that_no_search_sees(trial):
    seen = []

    def fit(new, old, labels, *, unlabelled):
        seen.append(unlabelled)
        return SpaceAlignment.procrustes(new, old)

    sample = trial.data.held_out_sample(40, seed=SEED)
    AdaptedWay(fit, unlabelled=0.1, held_out_images=40).search("sampled", trial)
    assert {int(sample.dataset.target[index]) for index in sample.indices} <= set(trial.data.held_out)
    searched_or_learnt = (*trial.halves.query.indices, *trial.halves.gallery.indices, *trial.data.train_set.indices)
    assert not set(sample.indices) & set(map(int, searched_or_learnt))
    torch.testing.assert_close(seen[0][1][-40:], old_rows(trial, sample))
    torch.testing.assert_close(seen[0][0][-40:], by_hand(trial.paragon_module, sample))


def test_an_adapter_may_be_given_unlabelled_views_and_gets_the_same_each_time(trial):
    seen = []

    def fit(new, old, labels, *, unlabelled):
        seen.append(unlabelled)
        return SpaceAlignment.procrustes(new, old)

    for _ in range(2):
        AdaptedWay(fit, unlabelled=0.1).search("searching", trial)
    views = UnlabelledViews(trial.data.train_eval, share=0.1, seed=SEED)
    torch.testing.assert_close(seen[0][0], by_hand(trial.paragon_module, views))
    torch.testing.assert_close(seen[0][1], old_rows(trial, views))
    assert_equal(seen[0], seen[1])


def test_an_adapter_without_labels_is_spared_them():
    way = unlabelled_fit(lambda source, target: (source, target))
    assert way("new", "old", "labels") == ("new", "old")


# -- ways with a training ----------------------------------------------------------------------------------------------


def test_the_shared_space_of_a_wider_embedding_is_its_first_dimensions(trial):
    searched = trained_way(L2, {"l2": 3.0}).search("l2", trial)
    assert searched.native.query.shape == (len(trial.halves.query), 64)
    assert_equal(searched.shared, [part[:, :32] for part in searched.native])
    before = F.cosine_similarity(trial.paragon_rows.gallery[:, :32], trial.old_rows.gallery).mean()
    assert F.cosine_similarity(searched.shared.gallery, trial.old_rows.gallery).mean() > before + 0.1


def test_a_narrower_embedding_is_shared_whole(tmp_path):
    trial = trial_of(tmp_path, "model.net.width=16")
    searched = trained_way(L2, {"l2": 1.0}).search("l2", trial)
    assert searched.native.query.shape[1] == searched.shared.query.shape[1] == 16


@pytest.mark.parametrize("name", ["l2", "cosine_influence", "contrastive", "mixed_gallery", "gallery_search"])
def test_a_term_of_no_weight_leaves_the_training_as_it_is(trial, name):
    """The same first weights, batches and steps: what a way gains or costs is due to its terms."""
    terms = OmegaConf.to_container(trial.cfg.ways[name].terms, resolve=True)
    searched = trained_way(terms, dict.fromkeys(terms, 0.0)).search(name, trial)
    assert_equal(searched.native, trial.paragon_rows)


def test_the_paragon_is_what_training_without_this_library_gives(trial):
    pl.seed_everything(SEED, verbose=False)
    module = instantiate(trial.cfg.model, _convert_="all")
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, enable_model_summary=False, **options)
    trainer.fit(module, datamodule=trial.data)
    expected = module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trial.paragon_module.state_dict().items())


def test_a_way_says_its_weights():
    assert trained_way({}, {"mixed": 1.0, "task": 0.0}).detail == "mixed 1, task 0"


# -- unlabelled views --------------------------------------------------------------------------------------------------


def test_views_are_among_the_training_batches_without_a_label(trial):
    data = WithViews(trial.data, 0.4)
    torch.manual_seed(0)
    batches = list(data.train_dataloader())
    targets = torch.cat([target for _, target in batches])
    known = len(trial.data.train_set)
    assert len(data.train_set) == known + round(0.4 * known)
    assert (targets == -100).float().mean() == pytest.approx(0.4 / 1.4, abs=0.02)
    assert set(targets.tolist()) == {-100, *range(7)}
    assert all((target == -100).any() and (target >= 0).any() for _, target in batches)
    assert data.val_dataloader().dataset is trial.data.val_set


def test_views_reach_the_terms_and_leave_the_task_sound(trial):
    rows = []

    class Watched(FeatureAlignmentLoss):
        def forward(self, new_embedding, old_embedding, target):
            rows.append((target == -100).tolist())
            return super().forward(new_embedding, old_embedding)

    data = WithViews(trial.data, 0.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_graceful.FeatureAlignmentLoss", Watched)
        searched = trained_way(L2, {"l2": 1.0}, unlabelled=0.4).search("l2", trial)
    assert len(rows) == len(data.train_dataloader())
    assert 0.25 < np.mean(np.concatenate(rows)) < 0.32
    assert all(part.isfinite().all() for part in searched.native)


# -- terms that are made of the old model ------------------------------------------------------------------------------


class Old(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.embedding, self.classifier = nn.Linear(2, 4), classifier

    def forward(self, x):
        return self.classifier(self.embedding(x))


def an_old(head=None, *, classifier="classifier", label_map=None):
    torch.manual_seed(0)
    head = nn.Linear(4, 2) if head is None else head
    return OldModel(Old(head), embedding="embedding", classifier=classifier, label_map=label_map)


@pytest.mark.parametrize("scale", [None, 16.0])
def test_influence_leaves_out_classes_that_the_old_model_lacks(scale):
    """Of three classes the old model knows the last, as its column 0, and the first, as its column 1."""
    old = an_old(label_map=[1, -1, 0])
    make = search_terms.influence if scale is None else search_terms.cosine_influence
    loss = make(old, None, **{} if scale is None else {"scale": scale})
    new, target = torch.randn(5, 6), torch.tensor([0, 1, 2, -100, 0])
    head = old.classifier.frozen
    scores = head(new[:, :4]) if scale is None else CosineClassifier(head.weight, scale)(new[:, :4])
    expected = F.cross_entropy(scores[[0, 2, 4]], torch.tensor([1, 0, 1]))
    torch.testing.assert_close(loss(new, target), expected.detach())


def test_influence_of_the_same_classes_is_cross_entropy():
    old, new, target = an_old(), torch.randn(3, 4), torch.tensor([0, 1, 1])
    expected = F.cross_entropy(old.classifier(new), target)
    torch.testing.assert_close(search_terms.influence(old, None)(new, target), expected)


@pytest.mark.parametrize("make", [search_terms.influence, search_terms.cosine_influence])
def test_influence_asks_for_an_old_classifier(make):
    with pytest.raises(ValueError, match=r"with a classifier, got none: classifier=net\.classifier"):
        make(an_old(classifier=None), None)


def test_cosine_influence_asks_for_a_linear_classifier():
    old = an_old(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"that is an nn\.Linear, got Sequential"):
        search_terms.cosine_influence(old, None)


def test_mixed_gallery_trains_the_new_models_own_classifier():
    module = Old(nn.Linear(4, 3))
    loss = search_terms.mixed_gallery(None, module, classifier="classifier", share=0.5)
    assert loss.classifier is module.classifier
    assert loss.draws.share == 0.5


def test_the_old_model_knows_which_new_classes_it_lacks(tmp_path):
    data = SearchDataModule(DigitsDataModule(seed=SEED, old_fraction=0.2), held_out=[0], old_classes=[9, 3, 4])
    cfg = composed(*QUICK, "old.epochs=1", f"root={tmp_path}", "num_classes=9", "old_num_classes=3", job="bench")
    old = obtain_old(cfg, data, tmp_path, SEED)
    assert old.options["label_map"] == [-1, -1, 0, 1, -1, -1, -1, -1, 2]
    assert old.classifier.frozen.out_features == 3
