import contextlib

import pytest
import torch

from lightning_graceful import make_graceful
from tests.litmodels import (
    Lit,
    seeded,
)
from tests.mixin.oracle import distil, fitted

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


def number_of_hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class Crashing(Lit):
    def training_step(self, batch, batch_idx):
        self(batch[0])
        raise KeyError("mine")


@pytest.mark.parametrize("base", [Lit, Crashing])
def test_no_hook_stays_on_the_module(base):
    module = make_graceful(seeded(base), {"distil": distil})
    with contextlib.suppress(KeyError):
        fitted(module)
    assert number_of_hooks(module) == 0
    step = module.graceful_terms.step
    assert step is None if base is Lit else step.capture is None


def test_a_second_fit_goes_on():
    module = make_graceful(seeded(Lit), {"distil": distil})
    fitted(module, max_epochs=1)
    fitted(module, max_epochs=1)
    assert not torch.equal(module.net.fc.bias, fitted(make_graceful(seeded(Lit), {"distil": distil})).net.fc.bias * 0)
