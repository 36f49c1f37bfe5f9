import contextlib
import copy
import io
import pickle

import lightning.pytorch
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lightning_graceful import Batch, GracefulMixin, Outputs, make_graceful
from lightning_graceful.models.capture import OutputCapture
from tests.litmodels import (
    BATCH,
    CLASSES,
    HIDDEN,
    LR,
    DictLit,
    ForwardLit,
    HiddenLit,
    InheritedLit,
    Lit,
    ManualLit,
    NetLit,
    OldStub,
    PartsLit,
    SkippingLit,
    TwiceLit,
    dataset,
    loader,
    old_logits,
    seeded,
    trainer,
)

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`training_step` returned `None`.*:UserWarning", "ignore:.*treespec.*:FutureWarning"
)
AUTOMATIC = [Lit, DictLit, ForwardLit, NetLit, PartsLit, InheritedLit]


def bias(new_logits):
    return 10 * new_logits[:, 0].mean()


def distil(new_logits, old_logits):
    return (new_logits - old_logits).square().mean()


class Centre(nn.Module):
    """A term that trains a parameter of its own, and counts."""

    def __init__(self, start=1.0):
        super().__init__()
        self.centre = nn.Parameter(torch.full((CLASSES,), start))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, new_logits):
        self.steps += 1
        return (new_logits - self.centre).square().mean()


def by_hand(terms, weights=None, *, batch_size=BATCH, epochs=2, skip=lambda number: False, extra=()):
    """Train in plain torch: the truth. ``terms`` take (new_logits, old_logits)."""
    module = seeded(Lit).double()
    net, weights, number = module.net, weights or {}, 0
    optimizer = torch.optim.SGD([*net.parameters(), *extra], lr=LR, momentum=0.5)
    for _ in range(epochs):
        for batch_idx, (x, y) in enumerate(loader(batch_size)):
            if skip(batch_idx):
                continue
            logits = net(x)
            weight = {name: w(number) if callable(w) else w for name, w in weights.items()}
            total = weight.get("task", 1.0) * F.cross_entropy(logits, y)
            for name, term in terms.items():
                total = total + weight.get(name, 1.0) * term(logits, old_logits(x))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            number += 1
    return net.state_dict()


def fitted(module, *callbacks, **options):
    running = trainer(OldStub(), *callbacks, **options)
    running.fit(module, loader())
    return module


def assert_trained_like(module, state):
    own = {name.removeprefix("net."): tensor for name, tensor in module.state_dict().items()}
    assert own.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=1e-12)


def mixed(base, terms, **attributes):
    return type("Mixed", (GracefulMixin, base), {"configure_terms": lambda self: terms, **attributes})


# -- what is trained ---------------------------------------------------------------------------------------------------


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


# -- which logits ------------------------------------------------------------------------------------------------------


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


# -- by hand -----------------------------------------------------------------------------------------------------------


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


def test_a_manual_step_without_terms_is_an_error():
    class Direct(ManualLit):
        def training_step(self, batch, batch_idx):
            F.cross_entropy(self(batch[0]), batch[1]).backward()

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


# -- trainable terms ---------------------------------------------------------------------------------------------------


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
    torch.testing.assert_close(resumed._terms.state_dict(), straight._terms.state_dict(), rtol=0, atol=0)
    assert int(resumed._terms.terms["centre"].steps) == 12


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
    assert int(again._terms.terms["centre"].steps) == 4


def test_an_untouched_checkpoint_loads_in_the_graceful_class(tmp_path):
    running = trainer(max_epochs=1)
    running.fit(seeded(Lit), loader())
    running.save_checkpoint(tmp_path / "plain.ckpt")
    module = make_graceful(Lit, {"centre": Centre(7.0)}).load_from_checkpoint(tmp_path / "plain.ckpt")
    assert module._terms.terms["centre"].centre.tolist() == [7.0] * CLASSES


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


# -- made classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit_first", [False, True])
@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_made_modules_copy_and_pickle(of_class, clone, fit_first):
    terms, weights = {"centre": Centre()}, {"centre": 0.5}
    module = seeded(make_graceful(Lit, terms, weights)) if of_class else make_graceful(seeded(Lit), terms, weights)
    if fit_first:
        fitted(module)
    copied = clone(module)
    assert isinstance(copied, Lit)
    assert isinstance(copied, GracefulMixin)
    torch.testing.assert_close(copied._terms.state_dict(), module._terms.state_dict())
    fitted(copied)
    fitted(module)
    assert_trained_like(copied, {k.removeprefix("net."): v for k, v in module.state_dict().items()})
    torch.testing.assert_close(copied._terms.state_dict(), module._terms.state_dict())


def test_a_copy_made_within_a_step_leaves_the_step_out():
    class Copying(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            copied = copy.deepcopy(self)
            copied(batch[0] + 1)
            assert copied._terms.step is None
            return loss

    module = make_graceful(seeded(Copying), {"distil": distil})
    assert_trained_like(fitted(module), by_hand({"distil": distil}))


def test_a_copy_is_of_the_same_class():
    made = make_graceful(Lit, {"bias": bias})
    assert type(copy.deepcopy(made())) is made


def test_made_classes_pickle():
    made = make_graceful(Lit, {"bias": bias}, {"bias": 2.0}, logits="net.fc")
    again = pickle.loads(pickle.dumps(made))
    assert issubclass(again, Lit)
    assert (again.__name__, again.graceful_weights, again.graceful_logits) == ("GracefulLit", {"bias": 2.0}, "net.fc")


Made = make_graceful(Lit, {"bias": bias})


class Sub(Made):
    """A subclass of a made class has a name of its own."""


def test_a_subclass_of_a_made_class_pickles_by_name():
    assert pickle.loads(pickle.dumps(Sub)) is Sub
    assert type(pickle.loads(pickle.dumps(Sub()))) is Sub


def test_instances_of_a_made_class_have_terms_of_their_own():
    made = make_graceful(Lit, {"centre": Centre()})
    first, second = made(), made()
    assert first._terms.terms["centre"] is not second._terms.terms["centre"]


def test_an_instance_keeps_the_users_term():
    term = Centre()
    assert make_graceful(Lit(), {"centre": term})._terms.terms["centre"] is term


def test_whole_modules_can_be_saved():
    buffer = io.BytesIO()
    torch.save(make_graceful(seeded(Lit), {"bias": bias}), buffer)
    buffer.seek(0)
    assert isinstance(torch.load(buffer, weights_only=False), Lit)


def test_hyper_parameters_are_the_users(tmp_path):
    made = make_graceful(Lit, {"bias": bias})
    assert dict(made(lr=0.3).hparams) == {"lr": 0.3}


class LightningLit(lightning.pytorch.LightningModule):
    """The same module from the other package."""

    def __init__(self):
        super().__init__()
        self.net = Lit().net

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.5)


class LightningStub(lightning.pytorch.Callback):
    provides_old_outputs = True
    on_train_batch_start = OldStub.on_train_batch_start


def test_modules_and_trainers_of_lightning_pytorch():
    module = make_graceful(seeded(LightningLit), {"distil": distil})
    trainer(LightningStub(), of=lightning.pytorch).fit(module, loader())
    assert_trained_like(module, by_hand({"distil": distil}))


# -- hooks -------------------------------------------------------------------------------------------------------------


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
    step = module._terms.step
    assert step is None if base is Lit else step.capture is None


def test_a_second_fit_goes_on():
    module = make_graceful(seeded(Lit), {"distil": distil})
    fitted(module, max_epochs=1)
    fitted(module, max_epochs=1)
    assert not torch.equal(module.net.fc.bias, fitted(make_graceful(seeded(Lit), {"distil": distil})).net.fc.bias * 0)


@pytest.mark.filterwarnings("ignore")  # of Dynamo's own
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_networks_are_seen(in_place):
    torch._dynamo.reset()
    module = make_graceful(seeded(NetLit), {"distil": distil})
    if in_place:
        module.net.compile(backend="aot_eager")
    else:
        module.net = torch.compile(module.net, backend="aot_eager")
    fitted(module)
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}
    expected = by_hand({"distil": distil})
    for name, tensor in expected.items():
        torch.testing.assert_close(state[f"net.{name}"], tensor, rtol=0, atol=1e-12)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ({}, {}, "at least one term"),
        ([distil], {}, "dict of at least one term"),
        ({"task": distil}, {}, "the module's own loss"),
        ({"t": 3}, {}, "called, got int"),
        ({"t": Centre}, {}, "class Centre"),
        ({"t": lambda teacher: 0}, {}, r"among \['new_logits'.*got \['teacher'\]"),
        ({"t": nn.CrossEntropyLoss()}, {}, "'input'"),
        ({"t": lambda *args: 0}, {}, r"\*args"),
        ({"t": torch.add}, {}, "name its arguments"),
        ({"t": distil}, {"s": 1.0}, r"weights for \['t', 'task'\], got also \['s'\]"),
    ],
)
def test_wrong_terms_and_weights_are_value_errors(terms, weights, message):
    with pytest.raises(ValueError, match=message):
        make_graceful(Lit(), terms, weights)
    with pytest.raises(ValueError, match=message):
        fitted(mixed(Lit, terms, graceful_weights=weights)())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(nn.Linear(2, 2), "LightningModule"), (nn.Linear, "LightningModule"), (Sub(), "all terms at once")],
)
def test_what_cannot_be_made_graceful(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_graceful(wrong, {"bias": bias})


def test_the_mixin_comes_first():
    with pytest.raises(ValueError, match="mixin first"):
        type("Wrong", (Lit, GracefulMixin), {})


def test_configure_terms_must_be_there():
    with pytest.raises(NotImplementedError, match="must define configure_terms"):
        fitted(type("Bare", (GracefulMixin, Lit), {})())


@pytest.mark.parametrize(
    "term",
    [distil, lambda new_logits, index: 0, lambda new_logits, old_embedding: 0],
)
def test_old_outputs_without_a_callback_are_an_error_before_training(term):
    with pytest.raises(RuntimeError, match="OldOutputCache"):
        trainer().fit(make_graceful(seeded(Lit), {"term": term}), loader())


def test_an_embedding_without_a_path_is_an_error_before_training():
    with pytest.raises(ValueError, match=r"embedding=.*graceful_loss"):
        fitted(make_graceful(seeded(Lit), {"term": lambda new_embedding: new_embedding.sum()}))


def test_an_embedding_by_hand_needs_no_path():
    class ByHand(Lit):
        def training_step(self, batch, batch_idx):
            z = self.net.body(batch[0])
            loss = F.cross_entropy(self.net.fc(z), batch[1])
            return self.graceful_loss(loss, new_embedding=z)[0]

    module = make_graceful(seeded(ByHand), {"term": lambda new_embedding: new_embedding.sum() * 0})
    assert_trained_like(fitted(module), by_hand({}))


class Filling(OldStub):
    """Stands for a cache that fills for hours."""

    def on_train_start(self, trainer, pl_module):
        raise AssertionError


@pytest.mark.parametrize("path", ["nett", "net.head", "net.fc.weight"])
def test_a_wrong_path_is_an_error_before_the_cache_is_filled(path):
    with pytest.raises(ValueError, match=f"module at '{path}'"):
        trainer(Filling()).fit(make_graceful(seeded(Lit), {"bias": bias}, logits=path), loader())


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda new_logits: new_logits.sum(1), r"scalar tensor, got \(4,\)"),
        (lambda new_logits: 1.0, "got float"),
        (lambda old_embedding: 0, r"Expected old_embedding .*embedding="),
    ],
)
def test_terms_that_give_no_scalar_or_are_not_served(term, message):
    with pytest.raises(RuntimeError, match=message):
        fitted(make_graceful(seeded(Lit), {"term": term}))


def test_steps_that_fetch_their_own_batches_are_refused():
    class Fetching(Lit):
        def training_step(self, dataloader_iter):
            raise AssertionError

    with pytest.raises(ValueError, match="dataloader_iter"):
        fitted(make_graceful(seeded(Fetching), {"bias": bias}))


# -- the redirected call of DDP ----------------------------------------------------------------------------------------


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
