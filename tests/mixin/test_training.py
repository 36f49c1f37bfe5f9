import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_graceful import Batch, Outputs, make_graceful
from tests.litmodels import (
    BATCH,
    HIDDEN,
    DictLit,
    ForwardLit,
    InheritedLit,
    Lit,
    ManualLit,
    NetLit,
    OldStub,
    PartsLit,
    SkippingLit,
    dataset,
    loader,
    old_logits,
    seeded,
    trainer,
)
from tests.mixin.oracle import assert_trained_like, bias, by_hand, distil, fitted, mixed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)
AUTOMATIC = [Lit, DictLit, ForwardLit, NetLit, PartsLit, InheritedLit]


@pytest.mark.parametrize("base", [*AUTOMATIC, ManualLit])
@pytest.mark.parametrize("how", ["mixin", "instance", "class"])
def test_training_equals_a_loop_by_hand(base, how):
    terms, weights = {"distil": distil}, {"distil": 0.7}
    if how == "mixin":
        module = seeded(mixed(base, terms, graceful_weights=weights))
    else:
        target = seeded(base) if how == "instance" else base
        made = make_graceful(target, terms, weights)
        module = made if how == "instance" else seeded(made)
    expected = by_hand({"distil": lambda new, old: distil(new, old)}, weights)
    assert_trained_like(fitted(module), expected)


@pytest.mark.parametrize("base", [Lit, DictLit, ForwardLit, NetLit, ManualLit])
def test_gradient_of_a_term_is_added_to_that_of_the_task(base):
    def gradient(module):
        fitted(module, max_steps=1)
        return module.net.fc.bias.grad.clone()

    task = gradient(seeded(base))
    total = gradient(make_graceful(seeded(base), {"bias": bias}))
    torch.testing.assert_close(total - task, torch.tensor([10.0, 0, 0], dtype=torch.float64))


def test_weights_may_follow_the_step_and_task_zero_drops_the_own_loss():
    weights = {"distil": lambda step: 0.25 * step, "task": 0.0}
    module = make_graceful(seeded(Lit), {"distil": distil}, weights)
    assert_trained_like(fitted(module), by_hand({"distil": distil}, weights))


def test_skipped_steps_add_nothing_and_leave_nothing_stale():
    module = make_graceful(seeded(SkippingLit), {"distil": distil})
    assert_trained_like(fitted(module), by_hand({"distil": distil}, skip=lambda batch_idx: batch_idx % 2 == 0))


def test_terms_are_accumulated_with_the_task():
    module = make_graceful(seeded(Lit), {"distil": distil})
    assert_trained_like(fitted(module, accumulate_grad_batches=2), by_hand({"distil": distil}, batch_size=2 * BATCH))


def test_bf16_mixed_gives_the_gradient_of_the_term():
    module = make_graceful(seeded(Lit), {"bias": bias}, {"task": 0.0})
    trainer(precision="bf16-mixed", max_steps=1).fit(module, loader(dtype=torch.float32))
    torch.testing.assert_close(module.net.fc.bias.grad, torch.tensor([10.0, 0, 0]), rtol=1e-2, atol=0)


def test_terms_see_target_index_and_embeddings():
    seen = {}

    class Everything(OldStub):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.old_outputs = Outputs(old_logits(batch[0]), batch[0])
            pl_module.sample_index = torch.arange(BATCH) + BATCH * batch_idx

    def term(new_logits, old_logits, new_embedding, old_embedding, target, index):
        seen.update(locals())
        return new_logits.sum() * 0

    module = make_graceful(seeded(Lit), {"term": term}, embedding="net.body")
    trainer(Everything(), max_epochs=1).fit(module, loader())
    x, y = (part[-BATCH:] for part in dataset().tensors)
    torch.testing.assert_close(seen["old_logits"], old_logits(x))
    torch.testing.assert_close(seen["old_embedding"], x)
    assert torch.equal(seen["target"], y)
    assert seen["index"].tolist() == [12, 13, 14, 15]
    assert seen["new_embedding"].shape == (BATCH, HIDDEN)
    assert seen["new_embedding"].requires_grad
    torch.testing.assert_close(module.net.fc(seen["new_embedding"]).shape, seen["new_logits"].shape)


def test_each_part_is_logged_unweighted_as_the_mean_of_the_epoch():
    module = make_graceful(seeded(Lit), {"distil": distil, "bias": bias}, {"distil": 0.0, "bias": 0.0, "task": 0.0})
    running = trainer(OldStub(), max_epochs=1)
    running.fit(module, loader())
    x = dataset().tensors[0]
    logits = module(x).detach()  # all weights are 0: nothing moved
    torch.testing.assert_close(running.callback_metrics["train/loss/distil"], distil(logits, old_logits(x)))
    torch.testing.assert_close(running.callback_metrics["train/loss/bias"], bias(logits))


def test_unusual_batches_are_read_by_a_function_or_a_method():
    class Odd(Lit):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["rows"], batch["truth"]), batch_idx)

    def read(batch):
        return Batch(batch["rows"], batch["truth"])

    def term(new_logits, target):
        return F.nll_loss(new_logits, target)

    data = DataLoader([{"rows": x, "truth": y} for x, y in loader()], batch_size=None)
    expected = by_hand({"term": lambda new, old: 0 * new.sum()}, {"task": 1.0})
    for module in (
        make_graceful(seeded(Odd), {"term": term}, {"term": 0.0}, batch=read),
        seeded(mixed(Odd, {"term": term}, graceful_weights={"term": 0.0}, graceful_batch=lambda self, b: read(b))),
    ):
        trainer().fit(module, data)
        assert_trained_like(module, expected)
