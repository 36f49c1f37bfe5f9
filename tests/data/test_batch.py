from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_graceful import Batch
from lightning_graceful.data.batch import batch_size, default_batch

X, Y = torch.randn(2, 3, 4), torch.tensor([1, 0])
Pair = namedtuple("Pair", ["left", "right"])
IDS, MASK = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        Pair(X, Y),
        (X, Y, torch.tensor([7, 8])),
        [X, Y, ["a", "b"]],
        {"image": X, "label": Y},
        OrderedDict(y=Y, x=X, id=["a", "b"]),
        {"pixel_values": X, "labels": Y},
        {"inputs": X, "target": Y, "label": ["cat", "dog"]},
        UserDict(data=X, targets=Y),
        next(iter(DataLoader(TensorDataset(X, Y), 2))),
    ],
)
def test_usual_batches_are_read(batch):
    inputs, target = default_batch(batch)
    assert inputs is X or torch.equal(inputs, X)
    assert target is Y or torch.equal(target, Y)


@pytest.mark.parametrize("batch", [X, [X], (X,), {"image": X}, {"x": X, "label": ["cat", "dog"]}])
def test_batches_without_a_target(batch):
    assert default_batch(batch) == Batch(X, None)


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_tokens_are_passed_by_name(kind):
    inputs, target = default_batch(kind({"input_ids": IDS, "attention_mask": MASK, "labels": Y}))
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert target is Y


def test_dicts_of_inputs_beside_a_target():
    assert default_batch(({"a": X}, Y)) == Batch({"a": X}, Y)


def test_targets_may_have_any_shape_but_that_of_the_inputs():
    masks, flags = torch.zeros(2, 4), torch.zeros(2, 6)
    assert default_batch((X, masks)).target is masks
    assert default_batch((torch.zeros(2, 8), flags)).target is flags
    assert default_batch((torch.zeros(2), Y)).target is Y


@dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ("text", "a str"),
        ([], r"a list of \[\]"),
        ((X, "labels"), "'str'"),
        ((X, X + 1), r"\(2, 3, 4\), \(2, 3, 4\)"),  # two views
        ((IDS, MASK, Y), r"\(2, 5\), \(2, 5\), \(2,\)"),  # tokens and mask
        ({"left": X, "label": Y}, "keys .*'label', 'left'"),
        ({"image": X, "features": X, "label": Y}, "keys .*'features'"),
        ({"image": X, "label": Y, "target": Y}, "keys .*'target'"),
        (Record(X, Y), "a Record"),
        (None, "a NoneType"),
    ],
)
def test_what_is_not_clear_is_refused(batch, got):
    with pytest.raises(ValueError, match=rf"Expected \(inputs, target\).*got .*{got}.*batch=lambda b"):
        default_batch(batch)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (Batch(X, Y), 2),
        (Batch(X, None), 2),
        (Batch({"scale": torch.tensor(3.0), "rows": X}, None), 2),
        (Batch((["a"], X), None), 2),
        (Batch(torch.zeros(0, 3), None), 0),
        (Batch(torch.zeros(9, 3), Y), 2),  # a graph's nodes: the target counts
    ],
)
def test_batch_size(batch, size):
    assert batch_size(batch) == size


@pytest.mark.parametrize("inputs", ["text", None, [], torch.tensor(1.0)])
def test_batch_size_needs_a_tensor_with_rows(inputs):
    with pytest.raises(ValueError, match="a tensor among the inputs"):
        batch_size(Batch(inputs, None))
