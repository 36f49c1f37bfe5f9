import copy

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_graceful import GracefulMixin, OldModel, make_graceful
from tests.litmodels import (
    BATCH,
    CLASSES,
    LR,
    Lit,
    ManualLit,
    Net,
    OldStub,
    dataset,
    loader,
    seeded,
    trainer,
)
from tests.mixin.oracle import Centre, assert_trained_like, by_hand, distil, fitted, mixed

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)


def test_trainable_terms_are_trained():
    term, centre = Centre(), torch.ones(CLASSES, dtype=torch.float64, requires_grad=True)
    module = fitted(make_graceful(seeded(Lit), {"centre": term}))
    expected = by_hand({"centre": lambda new, old: (new - centre).square().mean()}, extra=[centre])
    assert_trained_like(module, expected)
    torch.testing.assert_close(term.centre, nn.Parameter(centre.detach()), rtol=0, atol=1e-12)
    assert "centre" not in str(module.state_dict().keys())


@pytest.mark.parametrize("how", ["mixin", "instance", "class"])
def test_resumed_training_equals_training_in_one_go(tmp_path, how):
    def build():
        if how == "mixin":
            return seeded(mixed(Lit, {"centre": Centre()}))
        if how == "instance":
            return make_graceful(seeded(Lit), {"centre": Centre()})
        return seeded(make_graceful(Lit, {"centre": Centre()}))

    # Lightning restores into a float32 module, whatever the precision: float64 would be rounded.
    data, options = loader(dtype=torch.float32), {"precision": "32-true"}
    straight, resumed, first = build(), build(), trainer(max_epochs=1, **options)
    trainer(max_epochs=3, **options).fit(straight, data)
    first.fit(build(), data)
    first.save_checkpoint(tmp_path / "one.ckpt")
    trainer(max_epochs=3, **options).fit(resumed, data, ckpt_path=tmp_path / "one.ckpt")
    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        resumed.graceful_terms.state_dict(), straight.graceful_terms.state_dict(), rtol=0, atol=0
    )
    assert int(resumed.graceful_terms.terms["centre"].steps) == 12


def test_a_graceful_checkpoint_loads_strictly_in_the_untouched_class(tmp_path):
    running = trainer(max_epochs=1, precision="32-true")
    module = make_graceful(seeded(Lit, 0.05), {"centre": Centre()})
    running.fit(module, loader(dtype=torch.float32))
    running.save_checkpoint(tmp_path / "new.ckpt")
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert checkpoint["lightning_graceful"]["terms"].keys() == {"centre"}
    plain = Lit.load_from_checkpoint(tmp_path / "new.ckpt", strict=True, weights_only=True)
    assert plain.hparams.lr == 0.05
    torch.testing.assert_close(plain.state_dict(), module.state_dict())
    again = type(module).load_from_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    assert int(again.graceful_terms.terms["centre"].steps) == 4


def test_an_untouched_checkpoint_loads_in_the_graceful_class(tmp_path):
    running = trainer(max_epochs=1)
    running.fit(seeded(Lit), loader())
    running.save_checkpoint(tmp_path / "plain.ckpt")
    module = make_graceful(Lit, {"centre": Centre(7.0)}).load_from_checkpoint(tmp_path / "plain.ckpt")
    assert module.graceful_terms.terms["centre"].centre.tolist() == [7.0] * CLASSES


def test_a_part_of_the_module_in_a_term_is_not_trained_twice():
    class Head(nn.Module):
        def __init__(self, fc):
            super().__init__()
            self.fc = fc

        def forward(self, old_logits):
            return self.fc.bias.square().sum()

    module = seeded(Lit)
    make_graceful(module, {"head": Head(module.net.fc)}, {"head": 0.0})
    assert_trained_like(fitted(module), by_hand({}))


def test_what_is_frozen_or_shared_joins_the_optimiser_never_or_once():
    first, second, frozen = Centre(), Centre(), Centre()
    second.centre = first.centre
    frozen.requires_grad_(False)
    module = make_graceful(Lit(), {"first": first, "second": second, "frozen": frozen})
    added = module.configure_optimizers().param_groups[0]["params"][len(list(module.parameters())) :]
    assert [id(parameter) for parameter in added] == [id(first.centre)]


def test_trainable_terms_join_whatever_configure_optimizers_returns():
    class Listed(Lit):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]

    class Asdict(Lit):
        def configure_optimizers(self):
            return {"optimizer": super().configure_optimizers()}

    for base in (Listed, Asdict):
        term = Centre()
        fitted(make_graceful(seeded(base), {"centre": term}))
        assert not torch.equal(term.centre, torch.ones_like(term.centre))


def test_no_optimiser_for_a_trainable_term_is_an_error():
    class Without(Lit):
        def configure_optimizers(self):
            return None

    with pytest.raises(RuntimeError, match="optimiser for the trainable terms"):
        fitted(make_graceful(seeded(Without), {"centre": Centre()}))


class Sided(Centre):
    """Has a gradient on rank 0 only."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def forward(self, new_logits):
        return super().forward(new_logits) if self.rank == 0 else 0 * new_logits.sum()


class RankedLit(GracefulMixin, Lit):
    """Each rank begins with another centre (rank 0's must hold), and takes every other row of a batch."""

    def configure_terms(self):
        rank = self.trainer.global_rank
        return {"centre": Centre(1.0 + rank), "sided": Sided(rank), "distil": distil}

    def train_dataloader(self):
        ranks = {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
        return DataLoader(dataset(), BATCH // 2, sampler=DistributedSampler(dataset(), **ranks, shuffle=False))


@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)])
def test_ranks_train_as_one(tmp_path, strategy):
    saver = ModelCheckpoint(tmp_path, save_last=True)
    options = {"devices": 2, "strategy": strategy, "enable_checkpointing": True, "use_distributed_sampler": False}
    trainer(OldStub(), saver, **options).fit(seeded(RankedLit))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)

    centre, sided = (torch.ones(CLASSES, dtype=torch.float64, requires_grad=True) for _ in range(2))
    terms = {
        "centre": lambda new, old: (new - centre).square().mean(),
        "sided": lambda new, old: (new[::2] - sided).square().mean() / 2,  # rank 0 has the even rows
        "distil": distil,
    }
    expected = by_hand(terms, extra=[centre, sided])
    found = {name.removeprefix("net."): tensor for name, tensor in checkpoint["state_dict"].items()}
    torch.testing.assert_close(found, dict(expected), rtol=0, atol=1e-12)
    states = checkpoint["lightning_graceful"]["terms"]
    torch.testing.assert_close(states["centre"]["centre"], centre.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(states["sided"]["centre"], sided.detach(), rtol=0, atol=1e-12)


class WithCritic(ManualLit):
    """A critic of the logits and the classifier take turns in a step; which comes first where is up to the test."""

    critic_is_first_optimiser = critic_steps_first = toggles = False

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(CLASSES, 1)

    def configure_optimizers(self):
        parts = [self.critic, self.net] if self.critic_is_first_optimiser else [self.net, self.critic]
        return [torch.optim.SGD(part.parameters(), lr=LR, momentum=0.5) for part in parts]

    def training_step(self, batch, batch_idx):
        of_critic, of_net = sorted(self.optimizers(), key=lambda o: len(o.param_groups[0]["params"]))
        losses = [
            (of_critic, lambda: self.critic(self.net(batch[0]).detach()).square().mean()),
            (of_net, lambda: F.cross_entropy(self.net(batch[0]), batch[1])),
        ]
        for optimizer, loss in losses if self.critic_steps_first else reversed(losses):
            if self.toggles:
                self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            if self.toggles:
                self.untoggle_optimizer(optimizer)


def with_critic(**how):
    module = seeded(WithCritic)
    vars(module).update(how)
    return module


@pytest.mark.parametrize("critic_steps_first", [True, False])
@pytest.mark.parametrize("toggles", [True, False])
def test_terms_train_with_the_first_of_several_optimisers(critic_steps_first, toggles):
    module = with_critic(critic_steps_first=critic_steps_first, toggles=toggles)
    term, centre = Centre(), torch.ones(CLASSES, dtype=torch.float64, requires_grad=True)
    fitted(make_graceful(module, {"centre": term}, logits="net"))
    expected = by_hand({"centre": lambda new, old: (new - centre).square().mean()}, extra=[centre])
    torch.testing.assert_close(module.net.state_dict(), dict(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(term.centre, nn.Parameter(centre.detach()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("critic_steps_first", [True, False])
@pytest.mark.parametrize("toggles", [True, False])
def test_a_first_optimiser_that_gets_no_gradient_of_the_terms_is_an_error(critic_steps_first, toggles):
    """Its zero_grad, or the toggling, would take the gradient away; the term would never be trained."""
    module = with_critic(critic_is_first_optimiser=True, critic_steps_first=critic_steps_first, toggles=toggles)
    with pytest.raises(
        RuntimeError, match=r"another optimiser's loss is the one that they join. Return that one first"
    ):
        fitted(make_graceful(module, {"centre": Centre()}, logits="net"))


class RankedCritic(WithCritic):
    train_dataloader = RankedLit.train_dataloader


@pytest.mark.parametrize("critic_is_first_optimiser", [False, True])
def test_ranks_train_the_term_of_a_manual_step_as_one(tmp_path, critic_is_first_optimiser):
    module = seeded(RankedCritic)
    module.critic_is_first_optimiser = critic_is_first_optimiser
    made = make_graceful(module, {"centre": Centre(), "distil": distil}, logits="net")
    saver = ModelCheckpoint(tmp_path, save_last=True)
    options = {"devices": 2, "strategy": "ddp_fork_find_unused_parameters_true", "enable_checkpointing": True}
    running = trainer(OldStub(), saver, use_distributed_sampler=False, **options)
    if critic_is_first_optimiser:
        with pytest.raises(Exception, match="Return that one first"):
            running.fit(made)
        return
    running.fit(made)
    centre = torch.ones(CLASSES, dtype=torch.float64, requires_grad=True)
    expected = by_hand({"centre": lambda new, old: (new - centre).square().mean(), "distil": distil}, extra=[centre])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    found = {name: checkpoint["state_dict"][f"net.{name}"] for name in expected}
    torch.testing.assert_close(found, dict(expected), rtol=0, atol=1e-12)
    state = checkpoint["lightning_graceful"]["terms"]["centre"]
    torch.testing.assert_close(state["centre"], centre.detach(), rtol=0, atol=1e-12)


class Influence(nn.Module):
    """Holds an old model and its head, as BCT's loss does."""

    def __init__(self, old):
        super().__init__()
        self.old, self.head = old, old.classifier

    def forward(self, new_embedding, target):
        return F.cross_entropy(self.head(new_embedding), target)


@pytest.mark.parametrize("of_class", [False, True])
def test_an_old_model_in_a_term_is_neither_trained_nor_saved(tmp_path, of_class):
    old = OldModel(seeded(Net), embedding="body", classifier="fc")
    fingerprint, head = old.fingerprint, copy.deepcopy(old.classifier.frozen.state_dict())
    terms = {"influence": Influence(old)}
    made = make_graceful(Lit if of_class else seeded(Lit), terms, embedding="net.body")
    module = seeded(made) if of_class else made
    running = trainer()
    running.fit(module, loader())
    running.save_checkpoint(tmp_path / "new.ckpt")

    class Truth(Lit):
        def training_step(self, batch, batch_idx):
            z = self.net.body(batch[0])
            by_old = F.linear(z, head["weight"].double(), head["bias"].double())
            return F.cross_entropy(self.net.fc(z), batch[1]) + F.cross_entropy(by_old, batch[1])

    assert_trained_like(module, fitted(seeded(Truth)).net.state_dict())
    assert old.fingerprint == fingerprint
    assert module.graceful_terms.terms["influence"].old is old
    assert torch.load(tmp_path / "new.ckpt", weights_only=True)["lightning_graceful"] == {"terms": {}}
    assert len(running.optimizers[0].param_groups[0]["params"]) == len(list(Lit().parameters()))
