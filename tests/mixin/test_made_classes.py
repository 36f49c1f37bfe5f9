import copy
import io
import pickle

import lightning.pytorch
import pytest
import torch
import torch.nn.functional as F

from lightning_graceful import GracefulMixin, make_graceful
from tests.litmodels import (
    LR,
    Lit,
    OldStub,
    loader,
    seeded,
    trainer,
)
from tests.mixin.oracle import Centre, assert_trained_like, bias, by_hand, distil, fitted

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


@pytest.mark.parametrize("fit_first", [False, True])
@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_made_modules_copy_and_pickle(of_class, clone, fit_first):
    terms, weights = {"centre": Centre()}, {"centre": 0.5}
    module = seeded(make_graceful(Lit, terms, weights)) if of_class else make_graceful(seeded(Lit), terms, weights)
    if fit_first:
        fitted(module)
    copied = clone(module)
    assert isinstance(copied, Lit)
    assert isinstance(copied, GracefulMixin)
    torch.testing.assert_close(copied.graceful_terms.state_dict(), module.graceful_terms.state_dict())
    fitted(copied)
    fitted(module)
    assert_trained_like(copied, {k.removeprefix("net."): v for k, v in module.state_dict().items()})
    torch.testing.assert_close(copied.graceful_terms.state_dict(), module.graceful_terms.state_dict())


def test_a_copy_made_within_a_step_leaves_the_step_out():
    class Copying(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            copied = copy.deepcopy(self)
            copied(batch[0] + 1)
            assert copied.graceful_terms.step is None
            return loss

    module = make_graceful(seeded(Copying), {"distil": distil})
    assert_trained_like(fitted(module), by_hand({"distil": distil}))


def test_a_copy_is_of_the_same_class():
    made = make_graceful(Lit, {"bias": bias})
    assert type(copy.deepcopy(made())) is made


def test_made_classes_pickle():
    made = make_graceful(Lit, {"bias": bias}, {"bias": 2.0}, logits="net.fc")
    again = pickle.loads(pickle.dumps(made))
    assert issubclass(again, Lit)
    assert (again.__name__, again.graceful_weights, again.graceful_logits) == ("GracefulLit", {"bias": 2.0}, "net.fc")


@pytest.mark.parametrize("of_class", [False, True])
def test_without_terms_the_paths_stay_and_the_training_is_plain(of_class):
    given = {"embedding": "net.body", "batch": first_two}
    module = seeded(make_graceful(Lit, {}, **given)) if of_class else make_graceful(seeded(Lit), {}, **given)
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    for one in (module, again):
        assert isinstance(one, Lit)
        assert not isinstance(one, GracefulMixin)
        assert (one.graceful_embedding, one.graceful_batch([1, 2, 3])) == ("net.body", (1, 2))
        assert not hasattr(one, "graceful_logits")
    assert_trained_like(fitted(module), by_hand({}))


def first_two(batch):
    return tuple(batch[:2])


def test_terms_that_come_later_bring_their_own_paths():
    module = make_graceful(make_graceful(Lit(), {}, embedding="net"), {"bias": bias}, embedding="net.body")
    assert module.graceful_embedding == "net.body"


def test_without_terms_or_paths_nothing_is_changed():
    module = Lit()
    assert make_graceful(module, {}) is module
    assert type(module) is make_graceful(Lit, {}) is Lit


Made = make_graceful(Lit, {"bias": bias})


class Sub(Made):
    """A subclass of a made class has a name of its own."""


def test_a_subclass_of_a_made_class_pickles_by_name():
    assert pickle.loads(pickle.dumps(Sub)) is Sub
    assert type(pickle.loads(pickle.dumps(Sub()))) is Sub


def test_instances_of_a_made_class_have_terms_of_their_own():
    made = make_graceful(Lit, {"centre": Centre()})
    first, second = made(), made()
    assert first.graceful_terms.terms["centre"] is not second.graceful_terms.terms["centre"]


def test_an_instance_keeps_the_users_term():
    term = Centre()
    assert make_graceful(Lit(), {"centre": term}).graceful_terms.terms["centre"] is term


def test_whole_modules_can_be_saved():
    buffer = io.BytesIO()
    torch.save(make_graceful(seeded(Lit), {"bias": bias}), buffer)
    buffer.seek(0)
    assert isinstance(torch.load(buffer, weights_only=False), Lit)


def test_hyper_parameters_are_the_users(tmp_path):
    made = make_graceful(Lit, {"bias": bias})
    assert dict(made(lr=0.3).hparams) == {"lr": 0.3}


class LightningLit(lightning.pytorch.LightningModule):
    """The same module from the other package."""

    def __init__(self):
        super().__init__()
        self.net = Lit().net

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.5)


class LightningStub(lightning.pytorch.Callback):
    provides_old_outputs = True
    on_train_batch_start = OldStub.on_train_batch_start


def test_modules_and_trainers_of_lightning_pytorch():
    module = make_graceful(seeded(LightningLit), {"distil": distil})
    trainer(LightningStub(), of=lightning.pytorch).fit(module, loader())
    assert_trained_like(module, by_hand({"distil": distil}))
