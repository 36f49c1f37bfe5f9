import copy
import io
import pickle

import pytest
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import nn

from lightning_graceful.models.frozen import Frozen
from tests.litmodels import CLASSES, HIDDEN, Lit, loader, seeded, trainer

Z = torch.linspace(-1, 1, 5 * HIDDEN).reshape(5, HIDDEN)


def head():
    return nn.Sequential(nn.BatchNorm1d(HIDDEN), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES))


class Holder(Lit):
    def __init__(self, lr=0.1):
        super().__init__(lr)
        self.head = Frozen(seeded(head))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.head(self.net.body(batch[0])).square().mean()


def test_it_computes_what_the_module_does_in_eval_mode():
    module = seeded(head)
    expected = copy.deepcopy(module).eval()(Z).detach()
    torch.testing.assert_close(Frozen(module)(Z), expected)


def test_gradients_flow_through_it_to_its_input_only():
    frozen, z = Frozen(seeded(head)), Z.clone().requires_grad_()
    frozen.requires_grad_().train()
    for call in (frozen.frozen.train, frozen.frozen.requires_grad_):
        call()
        frozen(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.frozen.parameters())
    assert not frozen.frozen.training


def test_training_leaves_it_as_it_is_and_out_of_everything():
    module = seeded(Holder)
    state = copy.deepcopy(module.head.frozen.double().state_dict())
    running = trainer()
    running.fit(module, loader())
    torch.testing.assert_close(module.head.frozen.state_dict(), state, rtol=0, atol=0)
    assert set(module.state_dict()) == set(Lit().state_dict())
    assert len(running.optimizers[0].param_groups[0]["params"]) == len(list(Lit().parameters()))
    assert ModelSummary(module, max_depth=-1).total_parameters == ModelSummary(Lit()).total_parameters


def test_it_moves_and_casts_with_its_holder():
    module = Holder().double()
    assert {tensor.dtype for tensor in module.head.frozen.parameters()} == {torch.float64}
    module.to("meta")
    assert {tensor.device.type for tensor in module.head.frozen.state_dict().values()} == {"meta"}


def test_what_it_has_not_is_the_modules():
    frozen = Frozen(nn.Linear(2, 3))
    assert (frozen.in_features, frozen.weight.shape) == (2, (3, 2))
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'depth'"):
        _ = frozen.depth


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded])
def test_copies_are_independent(clone):
    frozen = Frozen(seeded(head))
    before = frozen(Z)
    copied = clone(frozen)
    nn.init.zeros_(frozen.frozen[2].weight)
    torch.testing.assert_close(copied(Z), before)
