"""What goes wrong in a fit, and what is refused before it."""

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lightning_graceful import FlipDashboard
from lightning_graceful.callbacks import dashboard
from lightning_graceful.experiment.classifier import LitClassifier
from tests.callbacks.dashboard_runs import (
    MARKS,
    by_hand,
    check_rows,
    network,
    new_module,
    old_model,
    run_with,
    the_run,
    wandb,
)
from tests.callbacks.test_old_outputs import images, trainer

pytestmark = MARKS


class Failing(LitClassifier):
    error = RuntimeError("out of luck")

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 3:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_after_an_exception_the_last_whole_validation_is_there(here, error):
    new = Failing(network(3))
    new.error = error
    kept = {}

    class Remember(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            kept.update(by_hand(old_model(), pl_module, images(seed=5)))
            pl_module.train()

    with pytest.raises(RuntimeError if isinstance(error, RuntimeError) else SystemExit):
        run_with(new, FlipDashboard(), images(seed=5), Remember(), verb="fit", num_sanity_val_steps=0)
    assert wandb.run is not None
    check_rows(the_run(here).table("flips/val_table"), kept)


def test_an_exception_before_any_validation_is_the_only_one(here):
    new = Failing(network(3))
    with pytest.raises(RuntimeError, match="out of luck"):
        run_with(new, FlipDashboard("out"), images(), logger=False, verb="fit", check_val_every_n_epoch=2)
    assert not (here / "out").exists()


def test_trouble_in_showing_does_not_hide_the_exception(here):
    (here / "out").write_text("a file where a folder should be")
    new = Failing(network(3))
    with pytest.warns(UserWarning, match="could not be shown"), pytest.raises(RuntimeError, match="out of luck"):
        run_with(new, FlipDashboard("out"), images(), logger=False, verb="fit")


def test_no_monitor_is_an_error_that_says_so():
    running = trainer(FlipDashboard())
    with pytest.raises(RuntimeError, match=r"FlipMonitor\(old\), FlipDashboard\(\)"):
        running.validate(new_module(), DataLoader(images(), 8), verbose=False)


def test_what_the_page_needs_is_asked_for_before_the_fit(monkeypatch):
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None if name == "plotly" else name)
    with pytest.raises(ImportError, match=r"plotly.*lightning-graceful\[report\]"):
        run_with(new_module(), FlipDashboard(), images(), logger=False)


@pytest.mark.parametrize(
    "options",
    [
        {"max_rows": 0},
        {"max_rows": 10_001},
        {"max_images": -1},
        {"images": "png"},
        {"text": 3},
        {"class_names": "abc"},
        {"class_names": ["a", "a"]},
        {"file_format": "json"},
        {"dirpath": "s3://bucket"},
        {"slices": ["country"]},
    ],
)
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match="Expected"):
        FlipDashboard(**options)


def test_another_number_of_class_names_is_refused(here):
    with pytest.raises(ValueError, match="Expected 3 names of classes"):
        run_with(new_module(), FlipDashboard("out", class_names=["a", "b"]), images(), logger=False)


def test_prediction_needs_no_monitor():
    trainer(FlipDashboard()).predict(Predicting(network(3)), DataLoader(images(), 8))


class Predicting(LitClassifier):
    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])
