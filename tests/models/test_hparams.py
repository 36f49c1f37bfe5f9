import copy

import pytest
from torch import nn

from lightning_graceful import OldModel
from lightning_graceful.models.hparams import drop_from_checkpoint
from tests.litmodels import Lit


@pytest.mark.parametrize("key", ["hyper_parameters", "datamodule_hyper_parameters"])
def test_old_models_and_what_holds_one_are_dropped(key):
    old = OldModel(nn.Linear(2, 3))
    kept = {"lr": 0.1, "names": ["a"], "nested": {"x": (1, {"y": None})}, "head": "old"}
    held = {"old": old, "olds": {"v1": old}, "listed": [1, (old,)], "nested_olds": {"x": [{"y": old}]}}
    checkpoint = {key: {**held, **kept}, "state_dict": {"old": 1}}
    drop_from_checkpoint(OldModel, checkpoint)
    assert checkpoint == {key: kept, "state_dict": {"old": 1}}


@pytest.mark.parametrize("checkpoint", [{}, {"hyper_parameters": None}, {"hyper_parameters": {}}])
def test_checkpoints_without_any_stay_as_they_are(checkpoint):
    before = copy.deepcopy(checkpoint)
    drop_from_checkpoint(OldModel, checkpoint)
    assert checkpoint == before


def test_saving_hyper_parameters_copies_no_weights():
    class Holding(Lit):
        def __init__(self, old):
            super().__init__()
            self.save_hyperparameters()

    old = OldModel(nn.Linear(2, 3))
    module = Holding(old)
    assert module.hparams.old is old
    assert module.hparams_initial.old is old
