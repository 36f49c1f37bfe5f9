import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, default_collate

from lightning_graceful import (
    FlipMonitor,
    FocalDistillationLoss,
    OldModel,
    OldOutputCache,
    make_graceful,
    trainer_seams,
)
from lightning_graceful.data.datasets import ImageArrays
from lightning_graceful.data.rows import CacheError
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.models.mlp import MLP

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*",
    "ignore:.*smaller than the logging interval.*",
    "ignore:.*have no `val_dataloader`.*",
    "ignore:.*overfit_batches.*",
    "ignore:Trying to infer the `batch_size`.*",
)


def images(length=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (length, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageArrays(pixels, torch.randint(3, (length,), generator=generator), ["a", "b", "c"])


def old_model(seed=1):
    torch.manual_seed(seed)
    return OldModel(MLP(16, 3, hidden=(8,)))


def new_module(seed=2, graceful=True):
    torch.manual_seed(seed)
    module = LitClassifier(MLP(16, 3, hidden=(8,)))
    return make_graceful(module, {"pct": FocalDistillationLoss(temperature=2.0)}) if graceful else module


def trainer(*callbacks, namespace=pl, **options):
    defaults = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return namespace.Trainer(
        accelerator="cpu", enable_model_summary=False, callbacks=list(callbacks), **{**defaults, **options}
    )


def fit(module, cache, loader, val=None, *callbacks, **options):
    running = trainer(cache, *callbacks, **options)
    running.fit(module, loader, val)
    return running


class Compare(pl.Callback):
    """Compares what is served with the live old model, batch by batch."""

    def __init__(self, old):
        self.old = old
        self.compared = 0

    def check(self, module, batch):
        torch.testing.assert_close(module.old_outputs.logits, self.old.outputs(batch).logits, rtol=1e-5, atol=1e-6)
        self.compared += 1

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.check(module, batch)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.check(module, batch)


class Counting(OldModel):
    """Counts the samples that it is asked about, and may break down."""

    def __init__(self, model, fail_after=None):
        super().__init__(model)
        self.asked = 0
        self.fail_after = fail_after

    def outputs(self, batch):
        self.asked += len(batch[1])
        if self.fail_after is not None and self.asked > self.fail_after:
            raise RuntimeError("breaks down")
        return super().outputs(batch)


def counting(fail_after=None):
    torch.manual_seed(1)
    return Counting(MLP(16, 3, hidden=(8,)), fail_after)


@pytest.mark.parametrize("fill", ["ahead", "lazy", "never"])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "num_workers": 2}, {"drop_last": True}])
def test_each_batch_gets_its_own_old_outputs(tmp_path, fill, options):
    old, data = old_model(), images()
    compare = Compare(old)
    val = DataLoader(Subset(data, range(30, 50)), 8)
    fit(
        new_module(),
        OldOutputCache(old, tmp_path, fill=fill, dtype="float32"),
        DataLoader(Subset(data, range(30)), 8, **options),
        val,
        compare,
    )
    assert compare.compared >= 2 * (3 + 3) + 2


@pytest.mark.parametrize("namespace", [pl, lightning.pytorch])
def test_both_namespaces_serve(tmp_path, namespace):
    class Lit(namespace.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = MLP(16, 3)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    old = old_model()
    compare = Compare(old)
    module = make_graceful(Lit(), {"pct": FocalDistillationLoss()})
    fit(
        module,
        OldOutputCache(old, tmp_path, dtype="float32"),
        DataLoader(images(), 8),
        None,
        compare,
        namespace=namespace,
    )
    assert compare.compared == 14


def trained_weights(tmp_path, **options):
    module = new_module()
    fit(module, OldOutputCache(old_model(), tmp_path, **options), DataLoader(images(), 8))
    return torch.cat([p.flatten() for p in module.parameters()])


@pytest.mark.parametrize("fill", ["ahead", "lazy"])
def test_cached_training_equals_live_training_bit_for_bit(tmp_path, fill):
    live = trained_weights(tmp_path, fill="never")
    assert torch.equal(trained_weights(tmp_path, fill=fill, dtype="float32"), live)
    assert torch.equal(trained_weights(tmp_path, fill=fill, dtype="float32"), live)
    assert not torch.equal(trained_weights(tmp_path / "half", fill=fill, dtype="bfloat16"), live)


def test_second_run_asks_the_old_model_nothing(tmp_path):
    first, second = counting(), counting()
    for old in (first, second):
        cache = OldOutputCache(old, tmp_path, verify=0)
        fit(new_module(), cache, DataLoader(images(), 8, shuffle=True), DataLoader(images(), 8))
    assert first.asked == 50 + 50  # the probe, which tells the shape of outputs, and each sample once
    assert second.asked == 0


def test_stopped_fill_goes_on_where_it_was(tmp_path):
    interrupted(tmp_path)
    resumed = counting()
    compare = Compare(old_model())
    fit(new_module(), OldOutputCache(resumed, tmp_path, dtype="float32"), DataLoader(images(), 8), None, compare)
    assert resumed.asked == 50 - 24
    assert compare.compared == 14


def interrupted(tmp_path):
    cache = OldOutputCache(counting(fail_after=50 + 24), tmp_path, dtype="float32")
    with pytest.raises(RuntimeError, match="breaks down"):
        fit(new_module(), cache, DataLoader(images(), 8))


@pytest.mark.parametrize("limit", [{"limit_train_batches": 2}, {"overfit_batches": 2}, {"fast_dev_run": True}])
def test_limited_runs_compute_only_what_they_use(tmp_path, limit):
    old = counting()
    fit(new_module(), OldOutputCache(old, tmp_path), DataLoader(images(), 8), **limit)
    assert old.asked <= 50 + 16


def test_other_weights_begin_another_store_and_say_so(tmp_path, capsys):
    for seed in (1, 2):
        fit(new_module(), OldOutputCache(old_model(seed), tmp_path), DataLoader(images(), 8), enable_progress_bar=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert "differs in old" in " ".join(capsys.readouterr().out.split())


def test_other_data_begin_another_store(tmp_path):
    for seed in (1, 2):
        fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(images(seed=seed), 8))
    assert len(list(tmp_path.iterdir())) == 2


def test_several_base_datasets_in_one_loader(tmp_path):
    old = old_model()
    compare = Compare(old)
    data = ConcatDataset([images(seed=1), Subset(images(seed=2), range(10, 40))])
    fit(new_module(), OldOutputCache(old, tmp_path, dtype="float32"), DataLoader(data, 8, shuffle=True), None, compare)
    assert compare.compared == 20
    assert len(list(tmp_path.iterdir())) == 2


def test_read_only_needs_no_old_model(tmp_path):
    fit(new_module(), OldOutputCache(old_model(), tmp_path, dtype="float32"), DataLoader(images(), 8))
    compare = Compare(old_model())
    fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(), 8, shuffle=True), None, compare)
    assert compare.compared == 14


def test_hole_in_a_read_only_store_is_an_error(tmp_path):
    fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(Subset(images(), range(8)), 8))
    with pytest.raises(CacheError, match="row"):
        fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(), 8))


def test_read_only_without_a_matching_store_says_what_differs(tmp_path):
    with pytest.raises(CacheError, match="no store at all"):
        fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(), 8))
    fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(images(), 8))
    with pytest.raises(CacheError, match=r"differs in .*probe"):
        fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(seed=5), 8))


def test_two_old_models_in_a_read_only_cache_are_ambiguous(tmp_path):
    for seed in (1, 2):
        fit(new_module(), OldOutputCache(old_model(seed), tmp_path), DataLoader(images(), 8))
    with pytest.raises(CacheError, match="one store"):
        fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(images(), 8))


class Noisy(ImageArrays):
    """A random transform in the dataset."""

    def __getitems__(self, indices):
        return [(image + 0.1 * torch.rand_like(image), target) for image, target in super().__getitems__(indices)]


def test_random_transform_is_refused_and_served_live(tmp_path):
    plain = images()
    noisy = Noisy(plain.images, plain.target, plain.classes)
    with pytest.raises(CacheError, match=r"views=1.*random.*never"):
        fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(noisy, 8))
    compare = Compare(old_model())
    fit(new_module(), OldOutputCache(old_model(), tmp_path, fill="never"), DataLoader(noisy, 8), None, compare)
    assert compare.compared == 14


def test_random_batch_transfer_is_refused(tmp_path):
    class Augmenting(LitClassifier):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + torch.rand_like(batch[0]), batch[1]

    module = make_graceful(Augmenting(MLP(16, 3)), {"pct": FocalDistillationLoss()})
    with pytest.raises(CacheError, match="on_after_batch_transfer"):
        fit(module, OldOutputCache(old_model(), tmp_path), DataLoader(images(), 8))


def test_collate_that_drops_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="drops or adds"):
        fit(
            new_module(),
            OldOutputCache(old_model(), tmp_path, fill="lazy"),
            DataLoader(images(), 8, collate_fn=lambda samples: default_collate(samples[1:])),
        )


def test_collate_that_reorders_is_refused(tmp_path):
    """Alike in every fetch, so that the probe of randomness cannot see it; the targets do."""

    def reorder(samples):
        return default_collate(samples[::-1])

    with pytest.raises((CacheError, ValueError), match="order"):
        fit(
            new_module(),
            OldOutputCache(old_model(), tmp_path),
            DataLoader(images(), 8, shuffle=True, collate_fn=reorder),
        )


def test_flipped_bit_is_noticed(tmp_path):
    fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(images(), 8))
    (shard,) = tmp_path.glob("*/rows-*.bin")
    content = bytearray(shard.read_bytes())
    content[100] ^= 4
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="row"):
        fit(new_module(), OldOutputCache(old_model(), tmp_path), DataLoader(images(), 8))


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return (self.data[i] for i in range(len(self.data)))


def test_stream_is_served_live_with_one_warning(tmp_path):
    old = old_model()
    compare = Compare(old)
    with pytest.warns(UserWarning, match="runs live") as caught:
        fit(new_module(), OldOutputCache(old, tmp_path), DataLoader(Stream(images()), 8), None, compare, max_steps=6)
    assert compare.compared == 6
    assert len([w for w in caught if "runs live" in str(w.message)]) == 1
    with pytest.raises(CacheError, match="IterableDataset"):
        fit(new_module(), OldOutputCache(None, tmp_path), DataLoader(Stream(images()), 8), max_steps=2)


def test_missing_cache_is_said_before_training():
    with pytest.raises(RuntimeError, match="Add OldOutputCache"):
        trainer().fit(new_module(), DataLoader(images(), 8))


def test_nothing_of_the_cache_is_left_behind(tmp_path):
    module, loader = new_module(), DataLoader(images(), 8)
    running = fit(module, OldOutputCache(old_model(), tmp_path), loader, loader)
    running.save_checkpoint(tmp_path / "new.ckpt")
    assert type(loader) is DataLoader
    assert "process_dataloader" not in running.strategy.__dict__
    assert not hasattr(module, "old_outputs")
    state = torch.load(tmp_path / "new.ckpt", weights_only=True)["state_dict"]
    new_module(graceful=False).load_state_dict(state, strict=True)


def test_old_model_that_is_a_hyper_parameter_stays_out_of_checkpoints(tmp_path):
    class Holding(LitClassifier):
        def __init__(self, old):
            super().__init__(MLP(16, 3, hidden=(8,)))
            self.save_hyperparameters("old")

    running = fit(Holding(old_model()), OldOutputCache(old_model(), tmp_path), DataLoader(images(), 8), max_epochs=1)
    running.save_checkpoint(tmp_path / "new.ckpt")
    assert "old" not in torch.load(tmp_path / "new.ckpt", weights_only=True).get("hyper_parameters", {})


def test_fit_twice_and_validate_and_test(tmp_path):
    old, loader = old_model(), DataLoader(images(), 8)
    compare = Compare(old)
    running = trainer(OldOutputCache(old, tmp_path, dtype="float32"), compare)
    module = new_module()
    running.validate(module, loader, verbose=False)
    running.fit(module, loader, loader)
    running.test(module, loader, verbose=False)
    running.fit_loop.max_epochs = 3
    running.fit(module, loader, loader)
    assert compare.compared == 7 + (2 + 2 * 14) + (2 + 14)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("model",), {}, "Expected an OldModel"),
        ((None,), {"fill": "never"}, "run live"),
        ((None,), {"fill": "soon"}, "fill"),
        ((None,), {"dtype": "int8"}, "dtype"),
        ((None,), {"views": 0}, "views"),
        ((None,), {"top_k": 0}, "top_k"),
        ((None,), {"verify": 2}, "verify"),
        ((None,), {"quota": "much"}, "much"),
        ((None,), {"num_samples": 5}, "index="),
        (({},), {}, "Expected an OldModel"),
        (({"v1": None},), {}, "Expected an OldModel"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        OldOutputCache(*arguments, "dir", **options)


def test_random_numbers_of_training_are_not_shifted_by_the_cache(tmp_path):
    def order(*callbacks):
        seen = []

        class Record(pl.Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                seen.append(batch[1].tolist())

        torch.manual_seed(7)
        trainer(*callbacks, Record()).fit(new_module(graceful=False), DataLoader(images(), 8, shuffle=True))
        return seen

    assert order(OldOutputCache(old_model(), tmp_path), FlipMonitor(old_model())) == order()


@pytest.mark.parametrize("gone", ["_iterators", "combined_loader"])
def test_private_of_lightning_that_is_gone_means_live_with_one_warning(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(trainer_seams, gone, {"_iterators": lambda _: [], "combined_loader": lambda _: None}[gone])
    old = counting()
    compare = Compare(old_model())
    with pytest.warns(UserWarning, match="runs live") as caught:
        fit(new_module(), OldOutputCache(old, tmp_path, fill="lazy"), DataLoader(images(), 8), None, compare)
    assert compare.compared == 14
    assert old.asked >= 2 * 50
    assert len([w for w in caught if "runs live" in str(w.message)]) == 1
