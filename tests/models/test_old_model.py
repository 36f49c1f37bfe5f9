"""What an old model says, and how it is asked."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_graceful import Batch, OldModel, make_graceful
from tests.litmodels import CLASSES, FEATURES, Lit, Net, loader, seeded, trainer
from tests.models.nets import Moody, Pair, Returning, X, Y, no_grad

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


def test_outputs_are_the_models_own():
    net = seeded(Net)
    outputs = OldModel(net, embedding="body").outputs((X, Y))
    torch.testing.assert_close(outputs.logits, no_grad(net, X))
    torch.testing.assert_close(outputs.embedding, no_grad(net.body, X))
    assert not outputs.logits.requires_grad
    assert not outputs.embedding.requires_grad
    assert OldModel(net).outputs((X, Y)).embedding is None


def test_paths_say_what_the_logits_are():
    module = Returning(lambda fc, x: {"probabilities": fc(x).softmax(-1)})
    torch.testing.assert_close(OldModel(module, logits="fc").outputs((X, Y)).logits, no_grad(module.fc, X))


def test_a_snapshot_stays_as_it_was():
    net = seeded(Moody).eval()
    old, before = OldModel(net), no_grad(net, X)
    fingerprint = old.fingerprint
    nn.init.ones_(net.fc.weight)
    net.scale.fill_(9)
    torch.testing.assert_close(old.outputs((X, Y)).logits, before)
    assert old.fingerprint == fingerprint


def test_it_is_frozen_and_in_eval_mode_whatever_is_called():
    net = seeded(Moody).train()
    old = OldModel(net)
    expected = no_grad(net.eval(), X)
    holder = Lit()
    holder.old = old
    holder.train()
    for module in old._module.modules():
        module.train()
    for _ in range(2):
        torch.testing.assert_close(old.outputs((X, Y)).logits, expected)
    assert not any(parameter.requires_grad for parameter in old._module.parameters())
    assert net.fc.weight.requires_grad


@pytest.mark.parametrize("of_model", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_inputs", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_inputs_are_cast_to_the_model_and_outputs_to_float32(of_model, of_inputs):
    net = seeded(Net).to(of_model)
    outputs = OldModel(net, embedding="body").outputs((X.to(of_inputs), Y))
    expected = no_grad(net, X.to(of_inputs).to(of_model))
    torch.testing.assert_close(outputs.logits, expected.float())
    assert outputs.embedding.dtype == torch.float32


def test_autocast_of_the_training_does_not_reach_it():
    net = seeded(Net)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(X).dtype == torch.bfloat16
        found = OldModel(net).outputs((X, Y)).logits
    torch.testing.assert_close(found, no_grad(net, X), rtol=0, atol=0)


def test_nothing_is_kept_for_a_backward():
    x = X.clone().requires_grad_()
    modes = []
    old = OldModel(Returning(lambda fc, x: (modes.append(torch.is_grad_enabled()), fc(x))[1]))
    assert not old.outputs((x, Y)).logits.requires_grad
    assert modes == [False]


@pytest.mark.parametrize("inputs", [X, [X, Y], {"x": X, "y": Y}])
def test_a_model_that_works_in_place_leaves_the_batch_as_it_is(inputs):
    """The new model sees the same batch after it."""

    def answer(fc, *args, **kwargs):
        parts = list(kwargs.values()) or (args[0] if isinstance(args[0], list) else args)
        for part in parts:
            part.add_(1)
        return fc(parts[0])

    before = X.clone(), Y.clone()
    outputs = OldModel(Returning(answer), batch=lambda batch: Batch(batch, None)).outputs(inputs)
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])
    assert outputs.logits.shape == (5, CLASSES)


class Caching(Net):
    """Makes a buffer the first time that it runs, as positional encodings do."""

    shift = None

    def forward(self, x):
        if self.shift is None:
            self.shift = torch.ones(FEATURES)
        return super().forward(x.add_(self.shift) - self.shift)


def test_what_it_keeps_while_it_validates_serves_in_training():
    """Tensors of inference mode cannot be saved for a backward."""
    with torch.inference_mode():
        old = OldModel(seeded(Caching), classifier="fc", embedding="body")
        outputs = old.outputs((X + 0, Y))
    weight = torch.ones((), requires_grad=True)
    (weight * outputs.logits + weight * old._module.shift.sum()).sum().backward()
    old.classifier(weight * outputs.embedding).sum().backward()
    assert weight.grad.isfinite()


@pytest.mark.parametrize("where", ["batch", "model"])
def test_a_batch_on_another_device_is_an_error_that_says_to_move(where):
    old, x = OldModel(seeded(Net)), X.to("meta") if where == "batch" else X
    with pytest.raises(RuntimeError, match=r"old model's device, (cpu|meta), got it on (cpu|meta)\. .*old\.to"):
        (old if where == "batch" else old.to("meta")).outputs((x, Y))


def test_one_part_of_the_inputs_on_its_device_will_do():
    module = Returning(lambda fc, left, right: fc(left))
    inputs = Pair(X, X.to("meta"))
    assert OldModel(module).outputs((inputs, Y)).logits.shape == (5, CLASSES)


def test_a_label_map_gives_the_new_classes_order():
    net = seeded(Net)
    found = OldModel(net, label_map=[2, -1, 0, 0]).outputs((X, Y)).logits
    own = no_grad(net, X)
    torch.testing.assert_close(found[:, [0, 2, 3]], own[:, [2, 0, 0]])
    assert torch.isneginf(found[:, 1]).all()


@pytest.mark.parametrize("label_map", [[], [0, -2], [0.5], [[0, 1]]])
def test_wrong_label_maps(label_map):
    with pytest.raises(ValueError, match="Expected label_map to be a list of columns"):
        OldModel(Net(), label_map=label_map)


def test_a_label_map_beyond_the_old_classes():
    with pytest.raises(ValueError, match=rf"below {CLASSES}, got \[0, 3\]"):
        OldModel(Net(), label_map=[0, 3]).outputs((X, Y))


@pytest.mark.parametrize(
    "answer",
    [
        lambda fc, x: SimpleNamespace(logits=fc(x), hidden_states=None),
        lambda fc, x: {"logits": fc(x)},
        lambda fc, x: (fc(x), fc(x) + 1),
    ],
)
def test_answers_of_the_usual_kinds(answer):
    module = seeded(Returning, answer)
    torch.testing.assert_close(OldModel(module).outputs((X, Y)).logits, no_grad(module.fc, X))


@pytest.mark.parametrize(
    ("batch", "answer"),
    [
        (
            {"input_ids": Y, "scale": X.double(), "labels": Y},
            lambda fc, input_ids, scale: fc(scale) + input_ids[:, None],
        ),
        ((Pair(X.double(), Y), Y), lambda fc, left, right: fc(left) + right[:, None]),
        (([X.double(), Y], Y), lambda fc, pair: fc(pair[0]) + pair[1][:, None]),
    ],
)
def test_inputs_of_several_parts(batch, answer):
    module = seeded(Returning, answer)
    torch.testing.assert_close(OldModel(module).outputs(batch).logits, no_grad(module.fc, X) + Y[:, None])


def test_batches_are_read_by_a_function():
    net = seeded(Net)
    old = OldModel(net, batch=lambda batch: Batch(batch.rows, batch.truth))
    torch.testing.assert_close(old.outputs(SimpleNamespace(rows=X, truth=Y)).logits, no_grad(net, X))


def test_the_classifier_is_a_frozen_copy_of_the_head():
    net = seeded(Net)
    old = OldModel(net, classifier="fc", embedding="body")
    outputs = old.outputs((X, Y))
    torch.testing.assert_close(no_grad(old.classifier, outputs.embedding), outputs.logits)
    assert not old.classifier.weight.requires_grad
    assert old.classifier.weight is not net.fc.weight
    nn.init.zeros_(old.classifier.weight)  # what is done to the copy does not reach the model
    torch.testing.assert_close(old.outputs((X, Y)).logits, outputs.logits)


def test_moving_the_old_model_leaves_the_classifier_to_its_term():
    old = OldModel(Net(), classifier="fc")
    assert old.to("meta") is old
    assert (old.device.type, old.classifier.weight.device.type) == ("meta", "cpu")


def test_a_move_in_a_validation_hook_leaves_normal_tensors():
    old = OldModel(Moody())
    with torch.inference_mode():
        old.to("meta")
    assert not any(tensor.is_inference() for _, tensor in old._tensors())


def test_a_fitted_module_becomes_an_old_model():
    module = make_graceful(seeded(Lit), {"nothing": lambda new_logits: 0 * new_logits.sum()})
    trainer(max_epochs=1, precision="32-true").fit(module, loader(dtype=torch.float32))
    torch.testing.assert_close(OldModel(module).outputs((X, Y)).logits, no_grad(module, X))


@pytest.mark.parametrize(
    ("wrong", "options", "message"),
    [
        ("old.ckpt", {}, "got str.*from_checkpoint"),
        (Lit, {}, "got type"),
        (OldModel(Net()), {}, "got OldModel"),
        (Net(), {"logits": "head"}, "module at 'head'"),
        (Net(), {"embedding": "head"}, "module at 'head'"),
        (Net(), {"classifier": "head"}, "module at 'head'"),
    ],
)
def test_wrong_arguments(wrong, options, message):
    with pytest.raises(ValueError, match=message):
        OldModel(wrong, **options)


def test_answers_without_scores_are_errors():
    with pytest.raises(RuntimeError, match=r"scores \(N, C\), got \(5,\).*logits="):
        OldModel(Returning(lambda fc, x: fc(x)[:, 0])).outputs((X, Y))
    with pytest.raises(RuntimeError, match=r"got dict.*logits="):
        OldModel(Returning(lambda fc, x: {"scores": fc(x)})).outputs((X, Y))


def test_a_module_without_forward_is_an_error_that_says_what_to_pass():
    class Without(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

    with pytest.raises(RuntimeError, match=r"Without has no forward.*OldModel\(module.net\)"):
        OldModel(Without()).outputs((X, Y))
