import copy
import pickle
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_graceful import Batch, OldModel, make_graceful
from tests.litmodels import CLASSES, FEATURES, HIDDEN, Lit, Net, loader, seeded, trainer

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")
X = torch.linspace(-1, 1, 5 * FEATURES).reshape(5, FEATURES)
Y = torch.arange(5) % CLASSES


class Moody(nn.Module):
    """BatchNorm and Dropout: train mode changes the answer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.tensor([3.0]), persistent=False)

    def forward(self, x):
        return self.fc(self.drop(self.norm(x))) * self.scale


class Returning(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.fc, self.answer = nn.Linear(FEATURES, CLASSES), answer

    def forward(self, *args, **kwargs):
        return self.answer(self.fc, *args, **kwargs)


def no_grad(model, x):
    with torch.no_grad():
        return model(x)


# -- what it says ------------------------------------------------------------------------------------------------------


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


def test_as_an_attribute_of_a_module_it_is_no_part_of_it():
    module = Lit()
    keys, parameters = set(module.state_dict()), len(list(module.parameters()))
    module.old = OldModel(Net())
    assert set(module.state_dict()) == keys
    assert len(list(module.parameters())) == parameters
    assert len(module.configure_optimizers().param_groups[0]["params"]) == parameters


@pytest.mark.parametrize("of_model", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("of_inputs", [torch.float32, torch.float64, torch.bfloat16])
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


class Pair(tuple):
    """Stands for a named tuple: a tuple whose type takes other arguments."""

    __slots__ = ()

    def __new__(cls, left, right):
        return super().__new__(cls, (left, right))


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


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda old: pickle.loads(pickle.dumps(old))])
def test_copies_are_independent(clone):
    old = OldModel(seeded(Net), embedding="body", classifier="fc", label_map=[1, 0])
    copied = clone(old)
    nn.init.zeros_(old._module.body[0].weight)
    nn.init.zeros_(old._module.body[0].bias)
    assert copied.outputs((X, Y)).embedding.abs().sum() > 0
    assert old.outputs((X, Y)).embedding.abs().sum() == 0


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


# -- from a file -------------------------------------------------------------------------------------------------------


class Sized(Lit):
    """Needs its hyper-parameters; saves one more, and loads a count."""

    def __init__(self, hidden, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(FEATURES, hidden), nn.Linear(hidden, CLASSES))

    def on_load_checkpoint(self, checkpoint):
        self.loaded = True


class Configured(pl.LightningModule):
    """Takes all hyper-parameters as one dict, and makes its layers late."""

    forward, training_step, configure_optimizers = Lit.forward, Lit.training_step, Lit.configure_optimizers

    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters(config)
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Linear(FEATURES, CLASSES)


def saved(module, path):
    running = trainer(max_epochs=1, precision="32-true")
    running.fit(module, loader(dtype=torch.float32))
    running.save_checkpoint(path)
    return path


@pytest.mark.parametrize("of", ["class", "instance", "factory"])
def test_a_checkpoint_gives_the_model_back(tmp_path, of):
    trained = seeded(Sized, 8)
    path = saved(trained, tmp_path / "old.ckpt")
    instance = Sized(8)
    weights = copy.deepcopy(instance.state_dict())
    module = {"class": Sized, "instance": instance, "factory": lambda: Sized(8)}[of]
    old = OldModel.from_checkpoint(str(path), module, embedding="net.0")
    torch.testing.assert_close(old.outputs((X, Y)).logits, no_grad(trained, X))
    assert old.outputs((X, Y)).embedding.shape == (5, 8)
    assert old._module.loaded
    torch.testing.assert_close(instance.state_dict(), weights)
    assert old.fingerprint == OldModel(trained, embedding="net.0").fingerprint


def test_hyper_parameters_in_one_dict_and_layers_made_late(tmp_path):
    trained = Configured({"lr": 0.1})
    path = saved(trained, tmp_path / "old.ckpt")
    old = OldModel.from_checkpoint(path, Configured)
    torch.testing.assert_close(old.outputs((X, Y)).logits, no_grad(trained, X))


def test_a_graceful_checkpoint_is_read_with_the_untouched_class(tmp_path):
    trained = make_graceful(seeded(Lit), {"nothing": lambda new_logits: 0 * new_logits.sum()})
    old = OldModel.from_checkpoint(saved(trained, tmp_path / "old.ckpt"), Lit)
    torch.testing.assert_close(old.outputs((X, Y)).logits, no_grad(trained, X))
    assert old.fingerprint == OldModel(trained).fingerprint


@pytest.mark.parametrize("module", [Net, Net(), lambda: Net()])
def test_a_plain_state_dict_is_read(tmp_path, module):
    net = seeded(Net)
    torch.save(net.state_dict(), tmp_path / "old.pt")
    old = OldModel.from_checkpoint(tmp_path / "old.pt", module)
    torch.testing.assert_close(old.outputs((X, Y)).logits, no_grad(net, X))


def test_code_in_a_file_is_refused_until_it_is_allowed(tmp_path):
    net = seeded(Net)
    torch.save({"state_dict": net.state_dict(), "extra": SimpleNamespace()}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"If you trust the file.*weights_only=False"):
        OldModel.from_checkpoint(tmp_path / "old.pt", Net)
    old = OldModel.from_checkpoint(tmp_path / "old.pt", Net, weights_only=False)
    torch.testing.assert_close(old.outputs((X, Y)).logits, no_grad(net, X))


@pytest.mark.parametrize(
    ("content", "module", "message"),
    [
        (lambda: seeded(Net).state_dict(), Lit, "Expected a checkpoint of Lit, but .* holds other weights"),
        (lambda: {"state_dict": 3}, Net, "holds other weights"),
        (lambda: [1, 2], Net, "got list"),
        (lambda: seeded(Net).state_dict(), Sized, "hyper-parameters to build Sized.*hidden"),
        (lambda: seeded(Net).state_dict(), lambda: 3, "got int"),
        (lambda: seeded(Net).state_dict(), lambda size: 3, "Pass a built instance"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, module, message):
    torch.save(content(), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=message):
        OldModel.from_checkpoint(tmp_path / "old.pt", module)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_files_that_are_no_checkpoint(tmp_path, content, weights_only):
    (tmp_path / "old.pt").write_bytes(content)
    with pytest.raises(ValueError, match="could not be read"):
        OldModel.from_checkpoint(tmp_path / "old.pt", Net, weights_only=weights_only)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"old\.pt, found no file"):
        OldModel.from_checkpoint(tmp_path / "old.pt", Net)


# -- fingerprint -------------------------------------------------------------------------------------------------------


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
