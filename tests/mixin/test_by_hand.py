import pytest
import torch
import torch.nn.functional as F

from lightning_graceful import GracefulMixin, make_graceful
from tests.litmodels import (
    Lit,
    ManualLit,
    old_logits,
    seeded,
)
from tests.mixin.oracle import assert_trained_like, bias, by_hand, distil, fitted

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


class OwnStep(GracefulMixin, Lit):
    """The one class that is both: its step hides the mixin's, and adds the terms itself."""

    def configure_terms(self):
        return {"distil": distil, "sure": lambda new_logits, target: F.cross_entropy(new_logits, target)}

    def training_step(self, batch, batch_idx):
        logits = self.net.forward(batch[0])
        return self.graceful_loss(F.cross_entropy(logits, batch[1]), new_logits=logits)[0]


class ManualByHand(ManualLit):
    def training_step(self, batch, batch_idx):
        optimizer, logits = self.optimizers(), self.net.forward(batch[0])
        total, self.parts = self.graceful_loss(F.cross_entropy(logits, batch[1]), new_logits=logits)
        optimizer.zero_grad()
        self.manual_backward(total)
        optimizer.step()


def test_terms_added_by_hand_are_added_once():
    expected = by_hand({"distil": distil}, {"task": 2.0})  # the second term repeats the task's loss
    assert_trained_like(fitted(seeded(OwnStep)), expected)


def test_manual_steps_may_add_the_terms_by_hand():
    module = fitted(make_graceful(seeded(ManualByHand), {"distil": distil}))
    assert_trained_like(module, by_hand({"distil": distil}))
    assert not module.parts["distil"].requires_grad


@pytest.mark.parametrize("automatic", [True, False])
def test_a_step_that_hides_the_mixins_is_an_error(automatic):
    class Hides(GracefulMixin, Lit if automatic else ManualLit):
        def configure_terms(self):
            return {"distil": distil}

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            return loss if automatic else self.manual_backward(loss)

    with pytest.raises(RuntimeError, match=r"hides GracefulMixin's.*graceful_loss"):
        fitted(seeded(Hides))


@pytest.mark.parametrize("through_lightning", [True, False])
def test_a_manual_step_without_terms_is_an_error(through_lightning):
    class Direct(ManualLit):
        def training_step(self, batch, batch_idx):
            F.cross_entropy(self(batch[0]), batch[1]).backward()
            self.optimizers(use_pl_optimizer=through_lightning).step()

    with pytest.raises(RuntimeError, match="manual_backward"):
        fitted(make_graceful(seeded(Direct), {"distil": distil}))


def test_terms_are_never_added_twice():
    class Twice(ManualLit):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            self.manual_backward(F.cross_entropy(logits, batch[1]), retain_graph=True)
            self.graceful_loss(logits.sum(), new_logits=logits)

    with pytest.raises(RuntimeError, match="before the first manual_backward"):
        fitted(make_graceful(seeded(Twice), {"distil": distil}))


def test_only_the_first_of_several_backwards_gets_the_terms():
    class Two(ManualLit):
        def training_step(self, batch, batch_idx):
            optimizer, logits = self.optimizers(), self(batch[0])
            optimizer.zero_grad()
            self.manual_backward(0.5 * F.cross_entropy(logits, batch[1]), retain_graph=True)
            self.manual_backward(0.5 * F.cross_entropy(logits, batch[1]))
            optimizer.step()

    assert_trained_like(fitted(make_graceful(seeded(Two), {"distil": distil})), by_hand({"distil": distil}))


def test_graceful_loss_outside_training_logs_nothing():
    module = make_graceful(seeded(Lit), {"bias": bias}, {"bias": 0.5})
    total, parts = module.graceful_loss(torch.tensor(1.0), new_logits=torch.ones(2, 3))
    assert (float(total), float(parts["bias"])) == (6.0, 10.0)


def test_losses_from_two_forwards_are_an_error():
    """Such as sharpness-aware steps: which gradient is to have the terms, only the user knows."""

    class TwoForwards(ManualLit):
        def training_step(self, batch, batch_idx):
            for x in (batch[0], batch[0] + 1):
                self.manual_backward(F.cross_entropy(self(x), batch[1]))

    with pytest.raises(RuntimeError, match=r"one set of logits .*'self': \[\(4, 3\), \(4, 3\)\].*graceful_loss"):
        fitted(make_graceful(seeded(TwoForwards), {"distil": distil}))


def test_two_forwards_may_both_have_the_terms_by_hand():
    class TwoForwards(ManualLit):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            for _ in range(2):
                logits = self(batch[0])
                total, _ = self.graceful_loss(F.cross_entropy(logits, batch[1]), new_logits=logits)
                self.manual_backward(total / 2)
            optimizer.step()

    assert_trained_like(fitted(make_graceful(seeded(TwoForwards), {"distil": distil})), by_hand({"distil": distil}))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: self.net.fc.bias.sum(), r"got 0\. Outputs seen: none.*graceful_loss"),
        (lambda self, x: self(x).detach().sum() + self.net.fc.bias.sum(), r"got none\. Outputs seen: .*\(4, 3\)"),
        (lambda self, x: (self(x), self.net.fc.bias.sum())[1], r"computed from what the terms look at, got none"),
        (lambda self, x: self.net.body(x).sum(), "got 0"),
    ],
)
def test_a_manual_loss_from_no_logits_is_an_error(forward, message):
    class Aside(ManualLit):
        def training_step(self, batch, batch_idx):
            self.manual_backward(forward(self, batch[0]))

    with pytest.raises(RuntimeError, match=message):
        fitted(make_graceful(seeded(Aside), {"distil": distil}))


def test_steps_in_turn_may_leave_the_terms_out_where_they_are_added_by_hand():
    class InTurn(ManualLit):
        def training_step(self, batch, batch_idx):
            optimizer, logits = self.optimizers(), self.net.forward(batch[0])
            loss = F.cross_entropy(logits, batch[1])
            optimizer.zero_grad()
            self.manual_backward(self.graceful_loss(loss, new_logits=logits)[0] if batch_idx % 2 else loss)
            optimizer.step()

    class Truth(Lit):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            return F.cross_entropy(logits, batch[1]) + batch_idx % 2 * distil(logits, old_logits(batch[0]))

    expected = fitted(seeded(Truth)).net.state_dict()
    assert_trained_like(fitted(make_graceful(seeded(InTurn), {"distil": distil})), expected)


def test_terms_by_embedding_alone_join_the_loss_that_comes_from_it():
    class Critic(ManualLit):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(0 * self.net.fc.bias.sum())
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    def shrink(new_embedding):
        return new_embedding.square().mean()

    class Truth(Lit):
        def training_step(self, batch, batch_idx):
            z = self.net.body(batch[0])
            return F.cross_entropy(self.net.fc(z), batch[1]) + shrink(z)

    module = make_graceful(seeded(Critic), {"shrink": shrink}, embedding="net.body")
    assert_trained_like(fitted(module), fitted(seeded(Truth)).net.state_dict())


@pytest.mark.parametrize("automatic", [True, False])
def test_a_total_that_is_left_aside_is_an_error(automatic):
    class Forgets(Lit if automatic else ManualLit):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            loss = F.cross_entropy(logits, batch[1])
            self.graceful_loss(loss, new_logits=logits)
            if automatic:
                return loss
            self.manual_backward(loss)
            return self.optimizers().step()

    with pytest.raises(RuntimeError, match=r"the total that self.graceful_loss\(\.\.\.\) returned, got another loss"):
        fitted(make_graceful(seeded(Forgets), {"distil": distil}))


def test_a_total_may_be_part_of_the_loss():
    class Adds(Lit):
        def training_step(self, batch, batch_idx):
            logits = self(batch[0])
            total, _ = self.graceful_loss(F.cross_entropy(logits, batch[1]), new_logits=logits)
            return {"loss": total + 0 * logits.sum()}

    assert_trained_like(fitted(make_graceful(seeded(Adds), {"distil": distil})), by_hand({"distil": distil}))
