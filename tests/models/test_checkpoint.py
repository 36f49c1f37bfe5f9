"""Old models from files."""

import copy
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_graceful import OldModel, make_graceful
from tests.litmodels import CLASSES, FEATURES, Lit, Net, loader, seeded, trainer
from tests.models.nets import X, Y, no_grad

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


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


def test_loading_leaves_the_random_numbers_of_the_training_alone(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "old.ckpt")
    torch.manual_seed(5)
    plain = torch.rand(3)
    torch.manual_seed(5)
    OldModel.from_checkpoint(tmp_path / "old.ckpt", lambda: nn.Linear(3, 2))
    assert torch.equal(torch.rand(3), plain)


def test_class_may_be_named_by_its_path(tmp_path):
    saved = {"state_dict": nn.Linear(3, 2).state_dict(), "hyper_parameters": {"in_features": 3, "out_features": 2}}
    torch.save(saved, tmp_path / "old.ckpt")
    old = OldModel.from_checkpoint(tmp_path / "old.ckpt", "torch.nn.Linear")
    assert old.outputs(torch.zeros(4, 3)).logits.shape == (4, 2)
    with pytest.raises(ValueError, match="dotted path"):
        OldModel.from_checkpoint(tmp_path / "old.ckpt", "torch.nn.Lniear")


def test_weights_of_a_compiled_part_are_read(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    named = {name.replace("0.", "0._orig_mod."): value for name, value in model.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "old.ckpt")
    old = OldModel.from_checkpoint(tmp_path / "old.ckpt", model)
    x = torch.rand(4, 3)
    assert torch.equal(old.outputs(x).logits, model(x))


def test_refused_content_is_named_without_colours(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {"net": nn.Linear(3, 2)}}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"holds torch\.nn\..*Linear.*weights_only=False") as caught:
        OldModel.from_checkpoint(tmp_path / "old.ckpt", nn.Linear)
    assert "\x1b" not in str(caught.value)
