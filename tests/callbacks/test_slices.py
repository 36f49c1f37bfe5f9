import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from lightning_graceful import Batch, FlipMonitor, OldModel
from lightning_graceful.callbacks.slices import MAX_VALUES, safe
from tests.callbacks.test_flips import Report
from tests.callbacks.test_old_outputs import pytestmark, trainer

pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")]
COUNTRIES = ("IS", "NO", "São Tomé", "a/b")


class Lit(pl.LightningModule):
    def __init__(self, seed=3):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Linear(5, 3)

    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch["labeled"][0] if isinstance(batch, dict) else batch[0])

    def test_step(self, batch, batch_idx):
        self(batch[0])


def old_model(seed=4):
    torch.manual_seed(seed)
    return OldModel(nn.Linear(5, 3))


def rows(length=49, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(length, 5, generator=generator)
    return TensorDataset(inputs, torch.randint(3, (length,), generator=generator), torch.arange(length))


def countries(length=49):
    """Of each sample by base index; "rare" has one sample, which only one of two ranks sees."""
    named = [COUNTRIES[k] for k in np.random.default_rng(1).integers(0, 4, length)]
    named[7] = "rare"
    return named


def from_batch(named):
    return lambda batch: [named[int(number)] for number in batch[2]]


def by_hand(data, named, index, old=None, new=None):
    """Count with a loop over samples."""
    found = {}
    with torch.no_grad():
        for i in index:
            x, t = data[i][0][None], int(data[i][1])
            old_right = int((old or old_model())._module(x).argmax()) == t
            new_right = int((new or Lit()).net(x).argmax()) == t
            entry = found.setdefault(str(named[i]), {"samples": 0, "nfr": 0, "pfr": 0, "error_old": 0, "error_new": 0})
            entry["samples"] += 1
            entry["nfr"] += old_right and not new_right
            entry["pfr"] += new_right and not old_right
            entry["error_old"] += not old_right
            entry["error_new"] += not new_right
    for entry in found.values():
        entry |= {key: value / entry["samples"] for key, value in entry.items() if key != "samples"}
    return {f"val/{rate}/country={safe(name)}": value for name, entry in found.items() for rate, value in entry.items()}


def sliced(found):
    return {key: float(value) for key, value in found.items() if "=" in key}


def validated(slices, loader, old=None, **options):
    running = trainer(FlipMonitor(old or old_model(), slices=slices), **options)
    running.validate(Lit(), loader, verbose=False)
    return sliced(running.callback_metrics)


SOURCES = {
    "function": lambda named: from_batch(named),
    "list": lambda named: named,
    "array": lambda named: np.array(named),
    "object array": lambda named: np.array(named, dtype=object),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_each_value_is_counted_on_its_own(source):
    data, named = rows(), countries()
    found = validated({"country": source(named)}, DataLoader(data, 8))
    assert found == pytest.approx(by_hand(data, named, range(49)))
    assert "val/nfr/country=a%2Fb" in found


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool, "numpy", "batch"])
def test_integers_are_values_too(kind):
    data = rows()
    named = [int(i % 2) for i in range(49)]
    if kind == "numpy":
        source = np.array(named, np.int16)
    elif kind == "batch":
        source = lambda batch: batch[2] % 2  # noqa: E731
    else:
        source = torch.tensor(named).to(kind)
        named = source.tolist()
    assert validated({"country": source}, DataLoader(data, 8)) == pytest.approx(by_hand(data, named, range(49)))


def test_values_go_by_base_index_beneath_subsets():
    data, named = rows(), countries()
    index = [40, 3, 3, 7, 12, 30, 31]
    loader = DataLoader(Subset(Subset(data, range(48, -1, -1)), [48 - i for i in index]), 3)
    assert validated({"country": named}, loader) == pytest.approx(by_hand(data, named, index))


def test_several_slices_olds_and_loaders_have_their_own_counts():
    data, named = rows(), countries()
    olds = {"v1": old_model(4), "v2": old_model(5)}
    loaders = [DataLoader(data, 8), DataLoader(Subset(data, range(20)), 8)]
    slices = {"country": named, "half": lambda batch: (batch[2] >= 25).long()}
    found = validated(slices, loaders, olds)
    for name, old in olds.items():
        for number, index in enumerate([range(49), range(20)]):
            for key, value in by_hand(data, named, index, old).items():
                _, rate, place = key.split("/", 2)
                assert found[f"val/{rate}/{name}/{place}/dataloader_idx_{number}"] == pytest.approx(value)
    assert found["val/samples/v1/half=1/dataloader_idx_0"] == 24
    assert "val/samples/v1/half=1/dataloader_idx_1" not in found


def test_the_counted_leg_of_a_combined_batch_is_sliced():
    data, named = rows(), countries()
    legs = {"unlabeled": DataLoader(rows(64, seed=9), 8), "labeled": DataLoader(data, 8)}
    monitor = FlipMonitor(old_model(), batch=lambda b: Batch(*b["labeled"][:2]), slices={"country": from_batch(named)})
    running = trainer(monitor)
    running.validate(Lit(), CombinedLoader(legs, "min_size"), verbose=False)
    assert sliced(running.callback_metrics) == pytest.approx(by_hand(data, named, range(49)))


def test_counts_begin_anew_with_each_stage():
    data, named = rows(), countries()
    running = trainer(FlipMonitor(old_model(), slices={"country": named}))
    module = Lit()
    running.validate(module, [DataLoader(data, 8), DataLoader(data, 8)], verbose=False)
    for _ in range(2):
        running.validate(module, DataLoader(data, 8), verbose=False)
        assert sliced(running.callback_metrics) == pytest.approx(by_hand(data, named, range(49)))
    running.test(module, DataLoader(Subset(data, range(8)), 8), verbose=False)
    expected = {key.replace("val/", "test/"): value for key, value in by_hand(data, named, range(8)).items()}
    assert sliced(running.callback_metrics) == pytest.approx(expected)


@pytest.mark.parametrize("length", [49, 3])
@pytest.mark.parametrize("kind", ["function", "list"])
def test_ranks_count_each_sample_once(tmp_path, kind, length):
    """49 samples on 2 ranks: one is repeated; 3: ranks meet other values, in another order."""
    data, named = rows(length), countries(max(length, 8))[:length]
    monitor = FlipMonitor(old_model(), slices={"country": SOURCES[kind](named)})
    running = trainer(monitor, Report(tmp_path / "found"), devices=2, strategy="ddp_fork")
    running.validate(Lit(), DataLoader(data, 8), verbose=False)
    assert sliced(torch.load(tmp_path / "found")) == pytest.approx(by_hand(data, named, range(length)))


class Stream(IterableDataset):
    """Shards itself unevenly: rank 0 takes the first 33 samples, rank 1 the rest."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        rank, world = (torch.distributed.get_rank(), 2) if torch.distributed.is_initialized() else (0, 1)
        part = range(len(self.data)) if world == 1 else (range(33) if rank == 0 else range(33, len(self.data)))
        return iter([self.data[i] for i in part])


def test_uneven_shards_without_positions_are_added_up(tmp_path):
    data, named = rows(), countries()
    monitor = FlipMonitor(old_model(), slices={"country": from_batch(named)})
    running = trainer(monitor, Report(tmp_path / "found"), devices=2, strategy="ddp_fork")
    running.validate(Lit(), DataLoader(Stream(data), 8), verbose=False)
    assert sliced(torch.load(tmp_path / "found")) == pytest.approx(by_hand(data, named, range(49)))


def test_values_by_index_need_to_know_the_samples():
    with pytest.raises(ValueError, match=r"does not tell\. Pass a function"):
        validated({"country": countries()}, DataLoader(Stream(rows()), 8))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (["IS"] * 48, r"49 values in slice 'country', one for each sample of the base dataset .* got 48"),
        (lambda batch: ["IS"], r"one value for each of the 8 samples .* got a list of length 1"),
        (lambda batch: "IS" * 4, r"got a str of length 8"),
        (lambda batch: batch[0], r"got a Tensor of shape \(8, 5\)"),
        (lambda batch: batch[0][:, 0], r"Expected str or int .* a float. Put numbers into bins"),
        ([None] * 49, r"Expected str or int .* a NoneType"),
    ],
)
def test_values_that_do_not_fit_are_refused(source, said):
    with pytest.raises(ValueError, match=said):
        validated({"country": source}, DataLoader(rows(), 8))


def test_too_many_values_are_refused():
    data = rows(MAX_VALUES + 1)
    found = validated({"country": [*range(MAX_VALUES), 0]}, DataLoader(data, 64))
    assert len(found) == 5 * MAX_VALUES
    for source in (list(range(MAX_VALUES + 1)), lambda batch: batch[2]):
        with pytest.raises(ValueError, match="at most 1,000 values in slice 'country'"):
            validated({"country": source}, DataLoader(data, 64))


def test_ranks_together_have_no_more_values_than_one(tmp_path):
    data = rows(MAX_VALUES + 2)
    monitor = FlipMonitor(old_model(), slices={"country": lambda batch: batch[2]})
    running = trainer(monitor, devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match="at most 1,000 values in slice 'country'"):
        running.validate(Lit(), DataLoader(data, 64), verbose=False)


def test_values_by_index_of_several_datasets_are_refused():
    with pytest.raises(ValueError, match="a ConcatDataset of 2"):
        validated({"country": countries()}, DataLoader(ConcatDataset([rows(), rows()]), 8))


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ({"a/b": len}, "name of a slice"),
        ({"": len}, "name of a slice"),
        ({"a=b": len}, "name of a slice"),
        ({3: len}, "name of a slice"),
        ({"country": "IS"}, "as a function of a batch"),
        ({"country": 3}, "as a function of a batch"),
        ({"country": np.zeros((2, 2))}, r"ndarray of shape \(2, 2\)"),
        ([len], "slices by name"),
    ],
)
def test_bad_slices_are_refused(slices, said):
    with pytest.raises(ValueError, match=said):
        FlipMonitor(old_model(), slices=slices)


def test_other_values_have_other_keys():
    hostile = [
        "a/b",
        "a%2Fb",
        "a b",
        "a\nb",
        "a\tb",
        "a=b",
        "a,b",
        '"',
        "",
        "é",
        "\ud800",
        "x" * 90,
        "x" * 91,
        "%",
        "ÿF",
    ]
    keys = [safe(value) for value in hostile]
    assert len(set(keys)) == len(hostile)
    assert not [key for key in keys if set(key) & set('/\n\t=,"') or len(key) > 90]
