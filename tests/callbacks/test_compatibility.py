import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_graceful import Batch, FocalDistillationLoss, OldModel, OldOutputCache, make_graceful
from lightning_graceful.callbacks.compatibility import CompatibilityMonitor
from lightning_graceful.experiment.classifier import LitClassifier
from lightning_graceful.functional.retrieval.halves import query_mask
from tests.callbacks.test_flips import Report, choose_if_any, combined
from tests.callbacks.test_old_outputs import images, pytestmark, trainer
from tests.functional.retrieval import brute_force

assert pytestmark

NAMES = ("map", "map_at_r", "recall_at_1")
SUFFIXES = ("", "_map_at_r", "_recall_at_1")


class Net(nn.Module):
    """Embeds without ReLU, so that no two cosines are equal."""

    def __init__(self, dim=6, classes=3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, dim))
        self.fc = nn.Linear(dim, classes)

    def forward(self, x):
        return self.fc(self.body(x))


class Lit(LitClassifier):
    """Validates on the labelled leg of a combined batch."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch["labeled"] if isinstance(batch, dict) else batch, batch_idx)


def net(seed, dim=6):
    torch.manual_seed(seed)
    return Net(dim)


def old_model(seed=1, dim=6, **options):
    return OldModel(net(seed, dim), **{"embedding": "body", **options})


def new_module(seed=2, dim=6):
    return Lit(net(seed, dim))


def monitor_of(old=None, **options):
    return CompatibilityMonitor(old, **{"embedding": "net.body", **options})


def logged(module, monitor, loaders, *callbacks, **options):
    running = trainer(monitor, *callbacks, **options)
    running.validate(module, loaders, verbose=False)
    return {name: float(value) for name, value in running.callback_metrics.items()}


def embed(model, data):
    model = model.net if isinstance(model, Lit) else model._module
    with torch.no_grad():
        return model.body(torch.stack([x for x, _ in data])).double().numpy()


def search(query, gallery, data, is_query, *, distance="cosine", names=NAMES):
    """Mean measures over queries with a match; all with all where ``is_query`` is None."""
    labels = np.array([int(y) for _, y in data])
    scores, found = brute_force.scores(query, gallery, distance), []
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if (j != i if is_query is None else not is_query[j])]
        if is_query is None or is_query[i]:
            ranked = sorted(others, key=lambda j: -scores[i, j])
            relevant = [labels[j] == labels[i] for j in ranked]
            if any(relevant):
                found.append(brute_force.of_list(relevant, [1, 5], 1))
    return {name: np.mean([one[name] for one in found]) for name in names}


def by_hand(old, new, data, is_query, **options):
    o, n = embed(old, data), embed(new, data)
    pairs = {"self_test": (n, n), "cross_test": (n, o), "old_self_test": (o, o)}
    tests = {test: search(*pair, data, is_query, **options) for test, pair in pairs.items()}
    return {f"{test}_{name}".removesuffix("_map"): x for test, values in tests.items() for name, x in values.items()}


def halves(length, share=0.5, seed=0):
    return query_mask(torch.arange(length), share=share, seed=seed).tolist()


def close(found, expected, stage="val"):
    assert {name: found[f"{stage}/{name}"] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-6)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled.*")
def test_tests_equal_those_by_hand(tmp_path, cached, shuffle):
    data, old, new = images(), old_model(), new_module()
    caches = [OldOutputCache(old, tmp_path, dtype="float32")] if cached else []
    monitor = monitor_of(None if cached else old)
    found = logged(new, monitor, DataLoader(data, 8, shuffle=shuffle), *caches)
    expected = by_hand(old, new, data, halves(50))
    close(found, expected)
    assert {name for name in found if "test" in name} == {f"val/{name}" for name in expected}
    assert found["val/is_backward_compatible"] == float(expected["cross_test"] > expected["old_self_test"])


def test_a_module_that_copies_the_old_one_has_its_numbers_and_is_no_better():
    data, old = images(), old_model(3)
    found = logged(new_module(3), monitor_of(old), DataLoader(data, 8))
    assert found["val/cross_test"] == found["val/self_test"] == found["val/old_self_test"]
    assert found["val/is_backward_compatible"] == 0


def test_a_better_model_in_the_old_space_is_compatible():
    """The new model is told the class by a pixel, and answers with the mean of the old embeddings."""

    data, old, new = images(), old_model(), new_module()
    data.images[:, 0, 0] = data.target.byte()
    data.images[:, 0, 1:] = 0
    rows, labels = torch.from_numpy(embed(old, data)).float(), data.target
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])

    class Told(nn.Module):
        def forward(self, x):
            return means[(x[:, 0, 0, 0] * 255).round().long()]

    new.net.body = Told()
    found = logged(new, monitor_of(old), DataLoader(data, 8))
    assert found["val/cross_test"] > found["val/old_self_test"]
    assert found["val/is_backward_compatible"] == 1


@pytest.mark.parametrize("options", [{"query_share": 0.3, "seed": 7}, {"query_share": None}, {"distance": "l2"}])
def test_protocols(options):
    data, old, new = images(), old_model(), new_module()
    found = logged(new, monitor_of(old, **options), DataLoader(data, 8))
    share = options.get("query_share", 0.5)
    is_query = None if share is None else halves(50, share, options.get("seed", 0))
    close(found, by_hand(old, new, data, is_query, distance=options.get("distance", "cosine")))


def test_roles_belong_to_the_sample_of_the_base_dataset():
    data, old, new = images(), old_model(), new_module()
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(4))[:30].tolist()
    found = logged(new, monitor_of(old), DataLoader(Subset(data, rows), 8))
    chosen, every = [data[i] for i in rows], halves(50)
    close(found, by_hand(old, new, chosen, [every[i] for i in rows]))


def test_measures_that_are_asked_for():
    data, old, new = images(), old_model(), new_module()
    found = logged(new, monitor_of(old, measure="recall_at_5", k=[1, 5]), DataLoader(data, 8))
    expected = by_hand(old, new, data, halves(50), names=("recall_at_5", *NAMES))
    assert found["val/cross_test"] == pytest.approx(expected["cross_test_recall_at_5"])
    assert found["val/cross_test_map"] == pytest.approx(expected["cross_test"])
    assert "val/cross_test_recall_at_5" not in found


@pytest.mark.parametrize("as_model", [False, True])
def test_gain_and_tax_follow_from_a_paragon(as_model):
    data, new, old, paragon = images(), new_module(), old_model(), old_model(9, dim=11)
    own, better = by_hand(old, new, data, halves(50)), by_hand(paragon, paragon, data, halves(50))
    told = {name: better[f"old_self_test{suffix}"] for name, suffix in zip(NAMES, SUFFIXES, strict=True)}
    found = logged(new, monitor_of(old, paragon=paragon if as_model else told), DataLoader(data, 8))
    for name, suffix in zip(NAMES, SUFFIXES, strict=True):
        cross, before, now = (own[f"{test}{suffix}"] for test in ("cross_test", "old_self_test", "self_test"))
        gap = told[name] - before
        close(
            found,
            {
                f"update_gain{suffix}": (cross - before) / gap if gap > 0 else np.nan,
                f"self_accuracy_tax{suffix}": told[name] - now,
                f"paragon_self_test{suffix}": told[name],
            },
        )


def test_gain_over_a_small_gap_is_nan():
    data, old = images(), old_model()
    before = by_hand(old, new_module(), data, halves(50))["old_self_test"]
    for minimum, expected in ((0.0, False), (0.05, True)):
        monitor = monitor_of(old, paragon=before + 0.04, minimum_gap=minimum)
        found = logged(new_module(), monitor, DataLoader(data, 8))
        assert np.isnan(found["val/update_gain"]) == expected
        assert "val/update_gain_recall_at_1" not in found


@pytest.mark.parametrize("cached", [False, True])
def test_a_paragon_may_be_served_by_the_cache_as_well(tmp_path, cached, monkeypatch):
    data, new, old, paragon = images(), new_module(), old_model(), old_model(9)
    monitor = monitor_of(old, paragon=paragon)
    expected = logged(new, monitor, DataLoader(data, 8))
    served = {"first": paragon, "second": old}
    caches = [OldOutputCache(served, tmp_path, dtype="float32")] if cached else []
    logged(new, monitor, DataLoader(data, 8), *caches)  # fills the cache
    asked = []
    for one in (old, paragon):
        monkeypatch.setattr(one, "outputs", lambda batch, one=one: (asked.append(1), OldModel.outputs(one, batch))[1])
    caches = [OldOutputCache(served, tmp_path, dtype="float32", verify=0)] if cached else []
    found = logged(new, monitor, DataLoader(data, 8), *caches)
    assert {k: v for k, v in found.items() if "test" in k} == {k: v for k, v in expected.items() if "test" in k}
    assert (len(asked) == 0) == cached


@pytest.mark.parametrize("kind", ["function", "module", "path"])
def test_a_head_maps_queries_into_the_old_space(kind):
    data, old, new = images(), old_model(dim=5), new_module(dim=8)
    torch.manual_seed(5)
    head = nn.Sequential(nn.Linear(8, 5), nn.Dropout(0.5)).train()
    new.adapter = copy.deepcopy(head)
    given = {"function": lambda x: head[0](x), "module": head, "path": "adapter"}[kind]
    found = logged(new, monitor_of(old, head=given), DataLoader(data, 8))
    with torch.no_grad():
        mapped = head[0](torch.from_numpy(embed(new, data)).float()).double().numpy()
    o, is_query = embed(old, data), halves(50)
    close(found, {"cross_test": search(mapped, o, data, is_query)["map"]})
    close(found, {"shared_self_test": search(mapped, mapped, data, is_query)["map"]})
    close(found, {"self_test": search(embed(new, data), embed(new, data), data, is_query)["map"]})
    assert head.training
    assert head[1].training


@pytest.mark.parametrize(("dimensions", "width"), [("shared", 5), ("padded", 8), (3, 3)])
@pytest.mark.parametrize("wider", ["old", "new"])
def test_other_widths(dimensions, width, wider):
    dims = {"old": (8, 5), "new": (5, 8)}[wider]
    data, old, new = images(), old_model(dim=dims[0]), new_module(dim=dims[1])
    found = logged(new, monitor_of(old, dimensions=dimensions), DataLoader(data, 8))
    o, n = (np.pad(x, ((0, 0), (0, 8 - x.shape[1]))) for x in (embed(old, data), embed(new, data)))
    is_query = halves(50)
    close(found, {"cross_test": search(n[:, :width], o[:, :width], data, is_query)["map"]})
    close(found, {"self_test": search(n, n, data, is_query)["map"]})
    close(found, {"old_self_test": search(o, o, data, is_query)["map"]})
    if width < dims[1]:
        close(found, {"shared_self_test": search(n[:, :width], n[:, :width], data, is_query)["map"]})
    else:
        assert "val/shared_self_test" not in found


def test_other_widths_without_a_word_on_them_are_refused():
    with pytest.raises(ValueError, match=r"got 8 \(new\) and 6 \(old\). Pass dimensions='shared'"):
        logged(new_module(dim=8), monitor_of(old_model()), DataLoader(images(), 8))


def test_loaders_have_their_own_tests():
    data, old, new = images(), old_model(), new_module()
    found = logged(new, monitor_of(old), [DataLoader(data, 8), DataLoader(Subset(data, range(20)), 8)])
    for number, length in enumerate([50, 20]):
        expected = by_hand(old, new, [data[i] for i in range(length)], halves(length))
        assert found[f"val/cross_test/dataloader_idx_{number}"] == pytest.approx(expected["cross_test"])


def test_the_chosen_leg_of_a_combined_batch_is_counted():
    data, old, new = images(), old_model(), new_module()
    found = logged(new, monitor_of(old, batch=choose_if_any), combined(data, "min_size"))
    close(found, by_hand(old, new, data, halves(50)))


def test_fit_logs_for_checkpoints_and_prints(tmp_path, capsys):
    data, old, new = images(), old_model(), new_module()
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/cross_test", mode="max")
    running = trainer(
        monitor_of(old), checkpoint, enable_checkpointing=True, num_sanity_val_steps=2, enable_progress_bar=True
    )
    running.fit(new, DataLoader(data, 8), DataLoader(data, 8))
    last = by_hand(old, new, data, halves(50))
    close({name: float(value) for name, value in running.callback_metrics.items()}, last)
    assert float(checkpoint.best_model_score) >= last["cross_test"] - 1e-6
    assert "val/cross_test" in capsys.readouterr().out
    assert not any(child._forward_hooks for child in new.modules())


def test_test_stage_is_logged():
    data, old, new = images(), old_model(), new_module()
    running = trainer(monitor_of(old))
    running.test(new, DataLoader(data, 8), verbose=False)
    close({k: float(v) for k, v in running.callback_metrics.items()}, by_hand(old, new, data, halves(50)), "test")


def test_the_embedding_of_a_module_without_terms_is_known():
    data, old, new = images(), old_model(), new_module()
    plain = make_graceful(new, {}, embedding="net.body")
    close(logged(plain, CompatibilityMonitor(old), DataLoader(data, 8)), by_hand(old, new, data, halves(50)))


def test_the_path_of_a_graceful_module_is_taken():
    data, old = images(), old_model()
    new = make_graceful(new_module(), {"pct": FocalDistillationLoss()}, embedding="net.body")
    found = logged(new, CompatibilityMonitor(old), DataLoader(data, 8))
    close(found, by_hand(old, new_module(), data, halves(50)))


def test_classes_that_the_old_model_never_knew_are_searched_like_others():
    data, new = images(), new_module()
    old = OldModel(net(1), embedding="body", label_map=[1, 0, -1])
    close(logged(new, monitor_of(old), DataLoader(data, 8)), by_hand(old, new, data, halves(50)))


def test_samples_that_nobody_can_follow_are_numbered_as_they_come():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([data[i] for i in range(50)])

    data, old, new = images(), old_model(), new_module()
    close(logged(new, monitor_of(old), DataLoader(Stream(), 8)), by_hand(old, new, data, halves(50)))


def test_without_a_match_nothing_is_measured():
    data = images()
    data.target = torch.arange(50)
    found = logged(Odd(net(2)), monitor_of(old_model()), DataLoader(data, 8))
    names = ("self_test", "cross_test", "is_backward_compatible", "cross_test_recall_at_1")
    close(found, dict.fromkeys(names, np.nan))


def test_one_sample_is_no_gallery_and_no_error():
    found = logged(new_module(), monitor_of(old_model()), DataLoader(Subset(images(), [3]), 8))
    close(found, {"self_test": np.nan, "is_backward_compatible": np.nan})


class Odd(Lit):
    """Only embeds."""

    def validation_step(self, batch, batch_idx):
        self.net.body(batch[0])


class Bad(Odd):
    def validation_step(self, batch, batch_idx):
        self.net.body(batch[0] * (torch.nan if batch_idx == 2 else 1))


def test_nan_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"finite embeddings of the new model.* 8 of 50 samples, such as \[16, 17, 18\]"
    ):
        logged(Bad(net(2)), monitor_of(old_model()), DataLoader(images(), 8))


def test_what_is_missing_is_named(tmp_path):
    data, new, old = images(), new_module(), old_model()
    loader = DataLoader(data, 8)
    with pytest.raises(ValueError, match=r'embedding="path\.of\.module"'):
        logged(new, CompatibilityMonitor(old), loader)
    with pytest.raises(ValueError, match="no 'neck'"):
        logged(new, monitor_of(old, embedding="net.neck"), loader)
    with pytest.raises(ValueError, match="no 'adapter'"):
        logged(new, monitor_of(old, head="adapter"), loader)
    with pytest.raises(RuntimeError, match="the old model's embedding, got none"):
        logged(new, monitor_of(), loader)
    with pytest.raises(RuntimeError, match="the old model's embedding, got none"):
        logged(new, monitor_of(), loader, OldOutputCache(OldModel(net(1)), tmp_path))
    with pytest.raises(RuntimeError, match="Expected a target"):
        logged(Odd(net(2)), monitor_of(old, batch=lambda batch: Batch(batch[0], None)), loader)
    with pytest.raises(RuntimeError, match="one call with the whole batch of 8"):
        logged(Silent(net(2)), monitor_of(old), loader)


class Silent(Lit):
    def validation_step(self, batch, batch_idx):
        """Asks the embedding of nobody."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"old": OldModel(net(1))}, "old to be an OldModel with an embedding"),
        ({"old": "old.ckpt"}, "got 'old.ckpt'"),
        ({"paragon": OldModel(net(1))}, "paragon to be an OldModel with an embedding"),
        ({"paragon": 1.2}, r"self tests in \[0, 1\]"),
        ({"paragon": {"recall_at_3": 0.5}}, "'map_at_r', 'recall_at_1'"),
        ({"paragon": float("nan")}, "got nan"),
        ({"measure": "recall_at_5"}, "Pass k="),
        ({"measure": "accuracy"}, "got 'accuracy'"),
        ({"k": [0]}, "at least 1"),
        ({"query_share": 1.0}, r"in \(0, 1\), or None"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CompatibilityMonitor(**options)


@pytest.mark.filterwarnings("ignore:Using `DistributedSampler`.*")
@pytest.mark.parametrize("kind", ["plain", "combined", "tiny"])
def test_under_ddp_each_sample_counts_once(tmp_path, kind):
    """49 samples on two ranks, one padded; batches of which the last rank has fewer."""
    data, old, new = images(49), old_model(), new_module()
    loaders = combined(data, "max_size") if kind == "combined" else DataLoader(data, 8)
    options = {"limit_val_batches": 1} if kind == "tiny" else {}
    monitor = monitor_of(old, batch=choose_if_any, paragon=old_model(9))
    running = trainer(monitor, Report(tmp_path / "found"), devices=2, strategy="ddp_fork", **options)
    running.validate(new, loaders, verbose=False)
    rows = range(16) if kind == "tiny" else range(49)
    expected, found = by_hand(old, new, [data[i] for i in rows], halves(len(rows))), torch.load(tmp_path / "found")
    close(found, expected)
