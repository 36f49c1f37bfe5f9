import pytest
import torch

from lightning_graceful import Outputs, make_graceful
from lightning_graceful.models.capture import OutputCapture
from tests.litmodels import (
    HiddenLit,
    Lit,
    OldStub,
    PartsLit,
    TwiceLit,
    loader,
    old_logits,
    seeded,
    trainer,
)
from tests.mixin.oracle import assert_trained_like, bias, by_hand, distil, fitted

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


def test_several_forwards_are_an_error_that_names_them():
    with pytest.raises(RuntimeError, match=r"got 2\. Outputs seen: .*self.*graceful_loss") as raised:
        fitted(make_graceful(seeded(TwiceLit), {"distil": distil}))
    assert "'net'" in str(raised.value)


def test_a_forward_that_no_hook_sees_is_an_error_and_a_path_remedies_it():
    with pytest.raises(RuntimeError, match=r"got 0\. Outputs seen: none.*logits="):
        fitted(make_graceful(seeded(HiddenLit), {"distil": distil}))
    module = make_graceful(seeded(HiddenLit), {"distil": distil}, logits="net.fc")
    assert_trained_like(fitted(module), by_hand({"distil": distil}))


def test_features_and_logits_are_not_told_apart_without_the_old_classes():
    with pytest.raises(RuntimeError, match=r"got 2.*body.*fc"):
        trainer().fit(make_graceful(seeded(PartsLit), {"bias": bias}), loader())


def test_logits_without_a_graph_are_no_candidates():
    class Trap(HiddenLit):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self(batch[0])
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="with a graph"):
        fitted(make_graceful(seeded(Trap), {"distil": distil}))


def test_other_classes_than_the_old_models_are_an_error_that_says_label_map():
    class Fewer(OldStub):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.old_outputs = Outputs(old_logits(batch[0])[:, :2])

    with pytest.raises(ValueError, match=r"got 3 \(new\) and 2 \(old\).*label_map"):
        trainer(Fewer()).fit(make_graceful(seeded(Lit), {"distil": distil}), loader())


def test_a_step_that_ddp_calls_through_forward_is_no_output():
    module = seeded(Lit)
    capture, own_forward = OutputCapture(module), module.forward
    x = torch.zeros(2, 4)

    def redirected(x):
        module.forward = own_forward
        return module(x).softmax(-1)

    capture.start()
    module.forward = redirected
    module(x)
    torch.testing.assert_close(capture.logits(2), module(x))
