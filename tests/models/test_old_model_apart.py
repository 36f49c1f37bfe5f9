"""An old model keeps out of the new one's way, and the new one's training out of its."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import nn

from lightning_graceful import FlipMonitor, OldModel, make_graceful
from tests.litmodels import CLASSES, FEATURES, Lit, Net, loader, seeded, trainer
from tests.models.nets import Moody, X, Y

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


def test_as_an_attribute_of_a_module_it_is_no_part_of_it():
    module = Lit()
    keys, parameters = set(module.state_dict()), len(list(module.parameters()))
    size = ModelSummary(module).model_size
    module.old = OldModel(Moody(), classifier="fc")
    assert set(module.state_dict()) == keys
    assert len(list(module.parameters())) == parameters
    assert len(module.configure_optimizers().param_groups[0]["params"]) == parameters
    summary = ModelSummary(module, max_depth=-1)
    assert (summary.total_parameters, summary.model_size) == (sum(p.numel() for p in Lit().parameters()), size)
    assert "old" not in str(summary)


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.train(),
        lambda module: module.requires_grad_(),
        lambda module: module.half(),
        lambda module: module.double(),
        lambda module: module.to("meta"),
        lambda module: module.apply(lambda part: part.train()),
        lambda module: module.zero_grad(),
    ],
)
def test_what_is_done_to_the_module_that_holds_it_leaves_it_as_it_is(change):
    module = Lit()
    module.old = OldModel(seeded(Moody))
    fingerprint, said = module.old.fingerprint, module.old.outputs((X, Y)).logits
    change(module)
    assert module.old.fingerprint == fingerprint
    torch.testing.assert_close(module.old.outputs((X, Y)).logits, said, rtol=0, atol=0)
    assert {parameter.requires_grad for parameter in module.old._module.parameters()} == {False}


class Holding(Lit):
    """Runs the old model in its own step."""

    def __init__(self, old, lr=0.1):
        super().__init__(lr)
        self.save_hyperparameters()
        self.old = old

    def training_step(self, batch, batch_idx):
        logits, said = self(batch[0]), self.old.outputs(batch).logits
        return F.cross_entropy(logits, batch[1]) + (logits - said).square().mean()


class ValidatingHolding(Holding):
    def validation_step(self, batch, batch_idx):
        self.log("val/said", self.old.outputs(batch).logits.mean())


def test_training_changes_nothing_of_it():
    old = OldModel(seeded(Moody).train())
    fingerprint = old.fingerprint
    module = seeded(ValidatingHolding, old)
    trainer(precision="32-true").fit(module, loader(dtype=torch.float32), loader(dtype=torch.float32))
    assert old.fingerprint == fingerprint
    assert not any(part.training for part in old._module.modules())
    assert all(parameter.grad is None for parameter in old._module.parameters())


@pytest.mark.parametrize("graceful", [True, False])
def test_checkpoints_leave_it_out_and_training_resumes_strictly(tmp_path, graceful):
    """``save_hyperparameters()`` took it, with all its weights."""

    terms = {"nothing": lambda new_logits: 0 * new_logits.sum()}

    def build(old):
        return seeded(make_graceful(Holding, terms, logits="net") if graceful else Holding, old)

    old, data, options = OldModel(seeded(Moody)), loader(dtype=torch.float32), {"precision": "32-true"}
    callbacks = [] if graceful else [FlipMonitor(old)]
    first = trainer(*callbacks, max_epochs=1, **options)
    module = build(old)
    first.fit(module, data)
    first.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == {"lr": 0.1}
    assert set(checkpoint["state_dict"]) == set(Lit().state_dict())
    assert module.hparams.old is old

    resumed, straight = build(old), build(old)
    trainer(*callbacks, max_epochs=2, **options).fit(resumed, data, ckpt_path=tmp_path / "one.ckpt")
    trainer(*callbacks, max_epochs=2, **options).fit(straight, data)
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)
    again = type(module).load_from_checkpoint(tmp_path / "one.ckpt", strict=True, old=old)
    torch.testing.assert_close(again.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_loggers_write_its_name_not_its_weights(tmp_path):
    module = seeded(Holding, OldModel(nn.Linear(FEATURES, CLASSES)))
    running = trainer(precision="32-true", logger=CSVLogger(tmp_path), log_every_n_steps=1)
    running.fit(module, loader(dtype=torch.float32))
    written = Path(running.logger.log_dir, "hparams.yaml").read_text()
    assert "old: OldModel(Linear, 15 parameters, cpu)" in written
    assert len(written) < 200


def test_a_pickle_is_independent():
    old = OldModel(seeded(Net), embedding="body", classifier="fc", label_map=[1, 0])
    copied = pickle.loads(pickle.dumps(old))
    assert copied.fingerprint == old.fingerprint
    nn.init.zeros_(old._module.body[0].weight)
    nn.init.zeros_(old._module.body[0].bias)
    assert copied.outputs((X, Y)).embedding.abs().sum() > 0
    assert old.outputs((X, Y)).embedding.abs().sum() == 0


def test_copies_of_a_module_share_its_old_model():
    """Its weights never change: a second copy of them would serve nobody."""
    module = Lit()
    module.old = OldModel(Net())
    copied = copy.deepcopy(module)
    assert copied.old is module.old
    assert copied.net.fc.weight is not module.net.fc.weight


def saved_whole(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("clone", [lambda module: pickle.loads(pickle.dumps(module)), saved_whole])
def test_a_pickled_module_brings_its_old_model_along(clone):
    module = Lit()
    module.old = OldModel(seeded(Net))
    assert clone(module).old.fingerprint == module.old.fingerprint
