"""What tells old models apart."""

import copy

import pytest
import torch
from torch import nn

from lightning_graceful import Batch, OldModel
from tests.litmodels import CLASSES, HIDDEN, Net, seeded
from tests.models.nets import Moody, X, Y

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


def test_equal_models_have_equal_fingerprints():
    net = seeded(Moody)
    other = copy.deepcopy(net).train().requires_grad_(False)
    old, fingerprint = OldModel(net), OldModel(other.eval()).fingerprint
    assert old.fingerprint == fingerprint
    old.outputs((X, Y))
    assert old.fingerprint == fingerprint
    old._module.train()
    assert old.fingerprint == fingerprint


@pytest.mark.parametrize("name", [*Moody().state_dict(), "hidden"])
def test_every_weight_and_buffer_counts(name):
    net = seeded(Moody)
    before = OldModel(net).fingerprint
    with torch.no_grad():
        tensor = dict([*net.named_parameters(), *net.named_buffers()])[name]
        tensor.view(-1)[-1] += 1
    assert OldModel(net).fingerprint != before


def test_in_place_changes_are_seen():
    old = OldModel(Net())
    before = old.fingerprint
    old._module.fc.weight.data[0, 0] += 1
    assert old.fingerprint != before


class Renamed(Net):
    def forward(self, x):
        return -super().forward(x)


def test_options_dtype_layers_and_batch_count():
    net = seeded(Net)
    relu = copy.deepcopy(net)
    relu.body[1] = nn.ReLU()
    renamed = Renamed()
    renamed.load_state_dict(net.state_dict())
    variants = [
        OldModel(net),
        OldModel(net, logits="fc"),
        OldModel(net, embedding="body"),
        OldModel(net, label_map=[0, 1, 2]),
        OldModel(net, label_map=[0, 2, 1]),
        OldModel(net, batch=lambda b: Batch(b["left"], b["y"])),
        OldModel(net, batch=lambda b: Batch(b["right"], b["y"])),
        OldModel(copy.deepcopy(net).double()),
        OldModel(relu),
        OldModel(renamed),
    ]
    assert len({old.fingerprint for old in variants}) == len(variants)
    assert OldModel(net, label_map=(0, 1, 2)).fingerprint == variants[3].fingerprint
    assert OldModel(net, label_map=torch.tensor([0, 1, 2])).fingerprint == variants[3].fingerprint


def test_nan_and_empty_weights_have_a_fingerprint():
    net = seeded(Net)
    nn.init.constant_(net.fc.bias, float("nan"))
    net.register_buffer("none", torch.zeros(0, 3))
    net.register_buffer("low", torch.zeros(2, 3, dtype=torch.bfloat16).T)
    assert OldModel(net).fingerprint == OldModel(net).fingerprint != OldModel(seeded(Net)).fingerprint


def test_a_model_without_weights():
    old = OldModel(nn.Flatten())
    assert old.device == torch.device("cpu")
    torch.testing.assert_close(old.outputs((X, Y)).logits, X)
    assert len(old.fingerprint) == 64


@pytest.mark.parametrize("embedding", [None, "body"])
def test_no_hook_stays_on_the_model(embedding):
    old = OldModel(Net(), embedding=embedding)
    assert old.outputs((X, Y)).logits.shape == (5, CLASSES)
    assert not any(module._forward_hooks for module in old._module.modules())
    assert HIDDEN not in old.outputs((X, Y)).logits.shape
