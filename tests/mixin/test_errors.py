import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_graceful import GracefulMixin, make_graceful
from tests.litmodels import (
    Lit,
    OldStub,
    loader,
    seeded,
    trainer,
)
from tests.mixin.oracle import Centre, assert_trained_like, bias, by_hand, distil, fitted, mixed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ({}, {"pct": 1.0}, "at least one term"),
        ([distil], {}, "dict of at least one term"),
        ({"task": distil}, {}, "the module's own loss"),
        ({"t": 3}, {}, "called, got int"),
        ({"t": Centre}, {}, "class Centre"),
        ({"t": lambda teacher: 0}, {}, r"among \['new_logits'.*got \['teacher'\]"),
        ({"t": nn.CrossEntropyLoss()}, {}, "'input'"),
        ({"t": lambda *args: 0}, {}, r"\*args"),
        ({"t": torch.add}, {}, "name its arguments"),
        ({"t": distil}, {"s": 1.0}, r"weights for \['t', 'task'\], got also \['s'\]"),
    ],
)
def test_wrong_terms_and_weights_are_value_errors(terms, weights, message):
    with pytest.raises(ValueError, match=message):
        make_graceful(Lit(), terms, weights)
    with pytest.raises(ValueError, match=message):
        fitted(mixed(Lit, terms, graceful_weights=weights)())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (nn.Linear(2, 2), "LightningModule"),
        (nn.Linear, "LightningModule"),
        (make_graceful(Lit, {"bias": bias})(), "all terms at once"),
    ],
)
def test_what_cannot_be_made_graceful(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_graceful(wrong, {"bias": bias})


def test_the_mixin_comes_first():
    with pytest.raises(ValueError, match="mixin first"):
        type("Wrong", (Lit, GracefulMixin), {})


def test_configure_terms_must_be_there():
    with pytest.raises(NotImplementedError, match="must define configure_terms"):
        fitted(type("Bare", (GracefulMixin, Lit), {})())


@pytest.mark.parametrize(
    "term",
    [distil, lambda new_logits, index: 0, lambda new_logits, old_embedding: 0],
)
def test_old_outputs_without_a_callback_are_an_error_before_training(term):
    with pytest.raises(RuntimeError, match="OldOutputCache"):
        trainer().fit(make_graceful(seeded(Lit), {"term": term}), loader())


def test_an_embedding_without_a_path_is_an_error_before_training():
    with pytest.raises(ValueError, match=r"embedding=.*graceful_loss"):
        fitted(make_graceful(seeded(Lit), {"term": lambda new_embedding: new_embedding.sum()}))


def test_an_embedding_by_hand_needs_no_path():
    class ByHand(Lit):
        def training_step(self, batch, batch_idx):
            z = self.net.body(batch[0])
            loss = F.cross_entropy(self.net.fc(z), batch[1])
            return self.graceful_loss(loss, new_embedding=z)[0]

    module = make_graceful(seeded(ByHand), {"term": lambda new_embedding: new_embedding.sum() * 0})
    assert_trained_like(fitted(module), by_hand({}))


class Filling(OldStub):
    """Stands for a cache that fills for hours."""

    def on_train_start(self, trainer, pl_module):
        raise AssertionError


@pytest.mark.parametrize("path", ["nett", "net.head", "net.fc.weight"])
def test_a_wrong_path_is_an_error_before_the_cache_is_filled(path):
    with pytest.raises(ValueError, match=f"module at '{path}'"):
        trainer(Filling()).fit(make_graceful(seeded(Lit), {"bias": bias}, logits=path), loader())


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda new_logits: new_logits.sum(1), r"scalar tensor, got \(4,\)"),
        (lambda new_logits: 1.0, "got float"),
        (lambda old_embedding: 0, r"Expected old_embedding .*embedding="),
    ],
)
def test_terms_that_give_no_scalar_or_are_not_served(term, message):
    with pytest.raises(RuntimeError, match=message):
        fitted(make_graceful(seeded(Lit), {"term": term}))


def test_steps_that_fetch_their_own_batches_are_refused():
    class Fetching(Lit):
        def training_step(self, dataloader_iter):
            raise AssertionError

    with pytest.raises(ValueError, match="dataloader_iter"):
        fitted(make_graceful(seeded(Fetching), {"bias": bias}))
