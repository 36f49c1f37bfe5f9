"""Every way to write a ``training_step``: the weights after graceful training equal those with the term inside.

Each class computes its loss through ``self.total``, which adds the terms by hand in one run and nothing in the other,
where the mixin adds them. All else, Trainer, plugins and options, is the same.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_graceful import make_graceful
from tests.litmodels import BATCH, CLASSES, FEATURES, HIDDEN, LR, Lit, Net, OldStub, loader, old_logits, seeded, trainer
from tests.mixin.oracle import distil

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


def sharpen(new_logits, target):
    return F.cross_entropy(3 * new_logits, target)


class Base(Lit):
    """Adds the terms by hand if ``inside`` is set."""

    inside = False
    weights: Any = None

    def total(self, loss, logits, batch):
        if not self.inside:
            return loss
        weight = {name: w(self.global_step) if callable(w) else w for name, w in self.weights.items()}
        with torch.autocast("cpu", enabled=False):
            old = old_logits(batch[0])
        total = weight.get("task", 1.0) * loss + weight["distil"] * distil(logits, old)
        return total + weight["sharpen"] * sharpen(logits, batch[1]) if "sharpen" in weight else total

    def loss(self, logits, batch):
        return self.total(F.cross_entropy(logits, batch[1]), logits, batch)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch)


class ReturnsDict(Base):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return {"loss": self.loss(logits, batch), "logits": logits.detach()}


class ReturnsNone(Base):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss


class Inherits(ReturnsDict):
    pass


class CallsForward(Base):
    def training_step(self, batch):
        return self.loss(self.forward(batch[0]), batch)


class CallsNet(Base):
    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch[0]), batch)


class CallsParts(Base):
    def __init__(self, lr=LR):
        super().__init__(lr)
        self.body, self.fc = self.net.body, self.net.fc
        del self.net

    def training_step(self, batch, batch_idx):
        return self.loss(self.fc(self.body(batch[0])), batch)


class CallsNetForward(Base):
    def training_step(self, batch, batch_idx):
        return self.loss(self.net.forward(batch[0]), batch)


class OutOfTheWay(Base):
    """Logs from a second forward, with a graph that leads to no loss."""

    def training_step(self, batch, batch_idx):
        self.log("train/shifted", self(batch[0] + 1).detach().mean())
        return self.loss(self.net(batch[0]), batch)


class OwnLossModule(Base):
    """A loss of torch without reduction gives one row a sample, as wide as the logits."""

    def __init__(self, lr=LR):
        super().__init__(lr)
        self.criterion = nn.BCEWithLogitsLoss(reduction="none")

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        loss = self.criterion(logits, F.one_hot(batch[1], CLASSES).to(logits)).mean()
        return self.total(loss, logits, batch)


class Metrics(Base):
    """The confusion matrix is floating, ``(classes, classes)``: with as many samples it looks like logits."""

    def __init__(self, lr=LR):
        super().__init__(lr)
        options = {"num_classes": CLASSES}
        matrix = MulticlassConfusionMatrix(normalize="all", **options)
        self.metrics = MetricCollection({"accuracy": MulticlassAccuracy(**options), "matrix": matrix})
        self.alone = matrix.clone()

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.metrics(logits, batch[1])
        self.alone(logits, batch[1])
        return self.loss(logits, batch)


class BuiltInSetup(Base):
    def __init__(self, lr=LR):
        super().__init__(lr)
        del self.net

    def setup(self, stage):
        self.net = seeded(Net).double()


class BuiltInConfigureModel(Base):
    def __init__(self, lr=LR):
        super().__init__(lr)
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = seeded(Net).double()


class Hooks(Base):
    """Has hooks of its own wherever the mixin has one, without a call of super."""

    def on_train_batch_start(self, batch, batch_idx):
        self.began = batch_idx

    def on_train_batch_end(self, outputs, batch, batch_idx):
        assert self.began == batch_idx

    def on_fit_start(self):
        self.fitting = True

    def on_train_start(self):
        assert self.fitting

    def on_before_backward(self, loss):
        self.loss_seen = loss.detach() > 0

    def on_after_backward(self):
        for parameter in self.parameters():
            parameter.grad *= 0.5

    def on_save_checkpoint(self, checkpoint):
        pass

    def on_train_end(self):
        assert self.loss_seen


class Replaced(Base):
    """Its head is replaced while it trains."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net = Net().double()
            self.net.load_state_dict(seeded(Net).double().state_dict())
            self.optimizers().param_groups[0]["params"] = list(self.parameters())


class Closure(Base):
    """LBFGS runs a step several times."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=4)


class Manual(Base):
    toggled = False

    def __init__(self, lr=LR):
        super().__init__(lr)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.toggled:
            self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch[0]), batch))
        optimizer.step()
        if self.toggled:
            self.untoggle_optimizer(optimizer)


class ManualToggled(Manual):
    toggled = True


class ManualAccumulating(Manual):
    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(self(batch[0]), batch) / 1.0)
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


class ManualSkipping(Manual):
    def training_step(self, batch, batch_idx):
        if batch_idx % 2:
            super().training_step(batch, batch_idx)


class ManualInParts(Manual):
    """Two backwards from one forward: the terms join the first."""

    def training_step(self, batch, batch_idx):
        optimizer, logits = self.optimizers(), self(batch[0])
        optimizer.zero_grad()
        self.manual_backward(self.loss(logits, batch), retain_graph=True)
        self.manual_backward(logits.square().mean())
        optimizer.step()


class Adversarial(Manual):
    """A critic of the features learns first, from the same forward; its loss is none of the terms' business."""

    critic_first = True

    def __init__(self, lr=LR):
        super().__init__(lr)
        self.critic = nn.Linear(HIDDEN, 1)

    def configure_optimizers(self):
        groups = [self.net.parameters(), self.critic.parameters()]
        return [torch.optim.SGD(parameters, lr=LR) for parameters in groups]

    def learn(self, optimizer, loss):
        if self.toggled:
            self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss(), retain_graph=True)
        optimizer.step()
        if self.toggled:
            self.untoggle_optimizer(optimizer)

    def training_step(self, batch, batch_idx):
        of_net, of_critic = self.optimizers()
        steps = [
            lambda: self.learn(of_critic, lambda: self.critic(self.net.body(batch[0]).detach()).square().mean()),
            lambda: self.learn(of_net, lambda: self.loss(self(batch[0]), batch)),
        ]
        for step in steps if self.critic_first else reversed(steps):
            step()


class AdversarialToggled(Adversarial):
    toggled = True


class CriticLast(Adversarial):
    critic_first = False


class SharedForward(Adversarial):
    """The logits are there before the critic's backward, which they take no part in."""

    def training_step(self, batch, batch_idx):
        of_net, of_critic = self.optimizers()
        features = self.net.body(batch[0])
        logits = self.net.fc(features)
        self.learn(of_critic, lambda: self.critic(features.detach()).square().mean())
        self.learn(of_net, lambda: self.loss(logits, batch))


class AddsByHand(Base):
    """Two forwards of the whole batch: only the step knows which logits are meant."""

    def total(self, loss, logits, batch):
        return super().total(loss, logits, batch) if self.inside else self.graceful_loss(loss, new_logits=logits)[0]

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch) + F.cross_entropy(self(batch[0] + 1), batch[1])


class ManualByHand(AddsByHand, Manual):
    training_step = Manual.training_step


@dataclasses.dataclass
class Case:
    base: type[Base]
    name: str = ""
    trainer: Callable[[], dict[str, Any]] = dict
    make: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Any = dataclasses.field(default_factory=lambda: {"distil": 0.7})
    dtype: torch.dtype = torch.float64
    batch_size: int = BATCH
    atol: float = 1e-12

    def __str__(self) -> str:
        return self.name or self.base.__name__


def fp16():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return {"precision": None, "plugins": MixedPrecision("16-mixed", "cpu", scaler)}


HALF = {"dtype": torch.float32, "atol": 0.0}
CASES = [
    *map(Case, [Base, ReturnsDict, ReturnsNone, Inherits, CallsForward, CallsNet, CallsParts, OutOfTheWay]),
    Case(CallsNetForward, make={"logits": "net.fc"}),
    Case(CallsParts, "CallsParts by path", make={"logits": "fc"}),
    Case(Base, "embedding beside logits", make={"embedding": "net.body"}),
    *map(Case, [OwnLossModule, BuiltInSetup, BuiltInConfigureModel, Hooks, Replaced, Closure]),
    Case(Metrics, batch_size=CLASSES),
    *map(Case, [Manual, ManualToggled, ManualAccumulating, ManualSkipping, ManualInParts]),
    *map(Case, [Adversarial, AdversarialToggled, CriticLast]),
    Case(SharedForward, make={"logits": "net.fc"}),
    *map(Case, [AddsByHand, ManualByHand]),
    Case(AddsByHand, "fp16 GradScaler, by hand", fp16, **HALF),
    Case(ManualByHand, "fp16 GradScaler, manual, by hand", fp16, **HALF),
    Case(AddsByHand, "accumulate 2, by hand", lambda: {"accumulate_grad_batches": 2}),
    Case(Base, "accumulate 2", lambda: {"accumulate_grad_batches": 2}),
    Case(Base, "accumulate 3, the last is short", lambda: {"accumulate_grad_batches": 3}),
    Case(Base, "clipped", lambda: {"gradient_clip_val": 0.1}),
    Case(Base, "ragged last batch", batch_size=6),
    Case(Base, "anomaly detection", lambda: {"detect_anomaly": True}),
    Case(Base, "32-true", lambda: {"precision": "32-true"}, **HALF),
    Case(Base, "bf16-true", lambda: {"precision": "bf16-true"}, **HALF),
    Case(Base, "bf16-mixed", lambda: {"precision": "bf16-mixed"}, **HALF),
    Case(Base, "fp16 GradScaler", fp16, **HALF),
    Case(Base, "fp16 GradScaler, accumulate", lambda: fp16() | {"accumulate_grad_batches": 2}, **HALF),
    Case(Base, "fp16 GradScaler, clipped", lambda: fp16() | {"gradient_clip_val": 0.1}, **HALF),
    Case(Manual, "fp16 GradScaler, manual", fp16, **HALF),
    Case(Base, "two terms", weights={"distil": 0.7, "sharpen": 0.3}),
    Case(Manual, "two terms, manual", weights={"distil": 0.7, "sharpen": 0.3}),
    Case(Base, "scheduled", weights={"distil": lambda step: 0.1 * step}),
    Case(Base, "task halved", weights={"distil": 0.7, "task": 0.5}),
    Case(Base, "task dropped", weights={"distil": 0.7, "task": 0.0}),
    Case(Manual, "task dropped, manual", weights={"distil": 0.7, "task": 0.0}),
    Case(Base, "task scheduled", weights={"distil": 0.7, "task": lambda step: 1.0 / (1 + step)}),
    Case(Base, "term at weight 0", weights={"distil": 0.0}),
]


def trained(case, *, inside):
    module = seeded(case.base).to(case.dtype)
    if inside:
        module.inside, module.weights = True, case.weights
    else:
        terms = {"distil": distil, "sharpen": sharpen} if "sharpen" in case.weights else {"distil": distil}
        module = make_graceful(module, terms, case.weights, **case.make)
    running = trainer(OldStub(), **{"max_epochs": 3, **case.trainer()})
    running.fit(module, loader(case.batch_size, case.dtype))
    return module.state_dict(), running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_equals_that_with_the_term_inside(case):
    found, running = trained(case, inside=False)
    expected, _ = trained(case, inside=True)
    print(f"{case}: {case.base.__name__}, {running.global_step} steps, precision {running.precision}")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=case.atol, msg=lambda m, n=name: f"{n}: {m}")


def test_the_term_matters_in_every_case():
    """The truth itself would not tell if the term were lost on both sides."""

    class Silent(Base):
        def total(self, loss, logits, batch):
            return loss

    with_term, _ = trained(Case(Base), inside=True)
    without, _ = trained(Case(Silent), inside=True)
    assert not torch.allclose(with_term["net.fc.bias"], without["net.fc.bias"])
    assert FEATURES > CLASSES  # or inputs could pass for logits
