"""Every loss on embeddings as a term of a real run: two epochs, old outputs from a cache, a checkpoint, a resume."""

import math

import pytest
import torch
from torch import nn

from lightning_graceful import OldModel, OldOutputCache, make_graceful
from lightning_graceful.functional.embedding_losses import class_means, feature_alignment_loss
from lightning_graceful.losses.classifiers import CosineClassifier
from lightning_graceful.losses.compatibility import ContrastiveCompatibilityLoss, FeatureAlignmentLoss
from lightning_graceful.losses.gallery import GalleryDistillationLoss, GallerySearchLoss
from lightning_graceful.losses.influence import InfluenceLoss, SoftInfluenceLoss
from lightning_graceful.losses.mixed_gallery import CredibleMixedGalleryLoss, MixedGalleryLoss
from lightning_graceful.losses.query_head import QueryHead
from tests.litmodels import CLASSES, FEATURES, HIDDEN, Lit, Net, dataset, loader, seeded, trainer

OLD_WIDTH = HIDDEN - 1


class OldNet(Net):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Linear(FEATURES, OLD_WIDTH), nn.ReLU()), nn.Linear(OLD_WIDTH, CLASSES)


def old_model():
    return OldModel(seeded(OldNet), embedding="body", logits="fc", classifier="fc")


def rows_of_class_two():
    x, target = dataset(torch.float32).tensors
    return class_means(old_model().outputs((x, target)).embedding, target, [2])


def query_head(loss):
    return QueryHead(loss, seeded(nn.Linear, HIDDEN, OLD_WIDTH))


TERMS = {
    "influence": lambda: InfluenceLoss(old_model().classifier),
    "influence, unknown class": lambda: InfluenceLoss(old_model().classifier, new_to_old=[0, 1, -1]),
    "influence, extra rows": lambda: InfluenceLoss(
        CosineClassifier.from_linear(old_model().classifier), new_to_old=[1, 0, -1], extra_rows=rows_of_class_two()
    ),
    "soft influence": lambda: SoftInfluenceLoss(old_model().classifier, new_to_old=[0, 1, -1]),
    "alignment": FeatureAlignmentLoss,
    "alignment, function": lambda: feature_alignment_loss,
    "contrastive": ContrastiveCompatibilityLoss,
    "ract": lambda: ContrastiveCompatibilityLoss(new_negatives=True),
    "mixed": lambda: MixedGalleryLoss(seeded(CosineClassifier, torch.eye(CLASSES, HIDDEN))),
    "credible": lambda: CredibleMixedGalleryLoss(seeded(nn.Linear, HIDDEN, CLASSES), share=0.5, threshold=0.1),
    "search": lambda: GallerySearchLoss(memory=10),
    "distillation": lambda: GalleryDistillationLoss(tilt=math.log(10), memory=10),
    "head": lambda: query_head(GallerySearchLoss(memory=10)),
    "head, no target": lambda: query_head(GalleryDistillationLoss(memory=10)),
}


def graceful(name, **weights):
    return make_graceful(seeded(Lit), {"term": TERMS[name]()}, {"term": 0.5, **weights}, embedding="net.body")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("old_outputs")


@pytest.fixture(scope="module")
def plain():
    module = seeded(Lit)
    trainer(precision="32-true").fit(module, loader(dtype=torch.float32))
    return module.state_dict()


def fitted(module, cache_dir, *, path=None, **options):
    cache = OldOutputCache(old_model(), cache_dir, dtype="float32")
    running = trainer(cache, precision="32-true", **options)
    running.fit(module, loader(dtype=torch.float32), ckpt_path=path)
    return running


def is_equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# What a term trains and draws; frozen heads and galleries are not saved.
SAVED = {
    "mixed": {"classifier.weight", "draws._extra_state"},
    "credible": {"mixed.classifier.weight", "mixed.classifier.bias", "mixed.draws._extra_state"},
    "head": {"head.weight", "head.bias"},
    "head, no target": {"head.weight", "head.bias"},
}


@pytest.mark.parametrize("name", TERMS)
def test_it_trains_and_saves_what_it_trains(tmp_path, cache_dir, plain, name):
    module = graceful(name)
    running = fitted(module, cache_dir)
    assert running.logged_metrics["train/loss/term"].isfinite()
    # Behind a detached head the model is exactly the one that knows nothing of the old: no tax.
    assert is_equal(module.state_dict(), plain) == name.startswith("head")
    running.save_checkpoint(tmp_path / "new.ckpt")
    saved = torch.load(tmp_path / "new.ckpt", weights_only=True)["lightning_graceful"]["terms"].get("term", {})
    assert set(saved) == SAVED.get(name, set())
    tensors = [value for value in saved.values() if isinstance(value, torch.Tensor)]
    assert len(running.optimizers[0].param_groups[0]["params"]) == len(list(Lit().parameters())) + len(tensors)
    assert module.state_dict().keys() == plain.keys()


@pytest.mark.parametrize("name", ["influence, extra rows", "mixed", "credible"])
def test_resumed_training_equals_training_in_one_go(tmp_path, cache_dir, name):
    straight, resumed = graceful(name), graceful(name)
    fitted(straight, cache_dir)
    fitted(graceful(name), cache_dir, max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    fitted(resumed, cache_dir, path=tmp_path / "one.ckpt")
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)
    states = [module.graceful_terms.state_dict() for module in (resumed, straight)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_query_head_is_trained(cache_dir):
    module = graceful("head")
    fitted(module, cache_dir)
    head = module.graceful_terms.terms["term"].head
    assert not torch.equal(head.weight, seeded(nn.Linear, HIDDEN, OLD_WIDTH).weight)


def test_a_layer_of_the_module_may_be_the_mixed_classifier(cache_dir):
    module, before = seeded(Lit), seeded(Lit).net
    term = MixedGalleryLoss(module.net.fc, share=1.0)
    make_graceful(module, {"mixed": term}, {"task": 0.0}, embedding="net.body")
    running = fitted(module, cache_dir)
    assert len(running.optimizers[0].param_groups[0]["params"]) == len(list(Lit().parameters()))
    assert not torch.equal(module.net.fc.weight, before.fc.weight)
    # All rows were old ones: nothing but the layer has learnt.
    assert torch.equal(module.net.body[0].weight, before.body[0].weight)
