from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_graceful import Batch, Outputs
from lightning_graceful.data.batch import batch_size, default_batch, leg_of, tensors_in

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


# -- legs of a combined batch ------------------------------------------------------------------------------------------

FIRST, SECOND = (torch.zeros(2, 4), torch.tensor([0, 1])), (torch.zeros(2, 4), torch.tensor([0, 1]))
ONE, TWO = Outputs(torch.zeros(2, 3)), Outputs(torch.ones(2, 3), torch.ones(2, 5))


@pytest.mark.parametrize(
    ("batch", "mirror"),
    [
        ({"a": FIRST, "b": SECOND}, {"a": ONE, "b": TWO}),
        ({"b": SECOND, "a": FIRST}, {"b": TWO, "a": ONE}),
        ([FIRST, SECOND], [ONE, TWO]),
        ([list(FIRST), list(SECOND)], [ONE, TWO]),
        ((FIRST, SECOND), (ONE, TWO)),
        (Pair(FIRST, SECOND), Pair(ONE, TWO)),
        (OrderedDict(a=FIRST, b=SECOND), OrderedDict(a=ONE, b=TWO)),
        ({"x": [FIRST, {"y": SECOND}], "z": X}, {"x": [ONE, {"y": TWO}], "z": None}),
        ([{"image": FIRST[0], "label": FIRST[1]}, SECOND], [ONE, TWO]),
        ([Record(*FIRST), Record(*SECOND)], [ONE, TWO]),
        ({"a": FIRST, "b": SECOND, "c": None}, {"a": ONE, "b": TWO, "c": None}),
    ],
)
def test_the_leg_is_that_which_holds_the_chosen_tensors(batch, mirror):
    """The two legs are equal number by number: only identity tells them apart."""
    assert leg_of(mirror, batch, Batch(*FIRST)) is ONE
    assert leg_of(mirror, batch, Batch(*SECOND)) is TWO
    assert leg_of(mirror, batch, Batch(SECOND[0], None)) is TWO
    assert leg_of(mirror, batch, Batch({"image": SECOND[0] + 0}, SECOND[1])) is TWO


@pytest.mark.parametrize("batch", [FIRST, list(FIRST), X, {"a": FIRST, "b": SECOND}, [FIRST, SECOND], None])
@pytest.mark.parametrize("mirror", [ONE, TWO, Y, None])
def test_what_mirrors_nothing_is_returned(batch, mirror):
    assert leg_of(mirror, batch, Batch(torch.ones(1), None)) is mirror


def test_the_value_at_a_leg_may_be_anything_or_none():
    batch = {"a": FIRST, "b": SECOND}
    assert leg_of({"a": None, "b": TWO}, batch, Batch(*FIRST)) is None
    assert leg_of({"a": Y, "b": None}, batch, Batch(*FIRST)) is Y
    assert leg_of({"a": 0, "b": 1}, batch, Batch(*SECOND)) == 1


@pytest.mark.parametrize(
    ("chosen", "got"),
    [
        (Batch(torch.zeros(2, 4), torch.tensor([0, 1])), "tensors that are in none"),
        (Batch(torch.cat([FIRST[0], SECOND[0]]), None), "tensors that are in none"),
        (Batch("text", None), "tensors that are in none"),
        (Batch(FIRST[0], SECOND[1]), r"parts of \[\"batch\['a'\]\", \"batch\['b'\]\[0\]\"\]"),
    ],
)
def test_no_one_leg_is_an_error_that_names_them(chosen, got):
    batch, mirror = {"a": FIRST, "b": [SECOND, X]}, {"a": ONE, "b": [TWO, None]}
    legs = r"\[\"batch\['a'\]\", \"batch\['b'\]\[0\]\", \"batch\['b'\]\[1\]\"\]"
    with pytest.raises(ValueError, match=rf"got {got}.*legs are {legs}.*batch=lambda b"):
        leg_of(mirror, batch, chosen)


@pytest.mark.parametrize("batch", [{"labeled": (X, Y), "unlabeled": X}, [(X, Y), (X, Y)], {"x": (X, Y), "data": X}])
def test_combined_batches_are_refused_with_the_way_to_choose_a_leg(batch):
    with pytest.raises(ValueError, match=r'CombinedLoader.*batch=lambda b: Batch\(\*b\["labeled"\]\)'):
        default_batch(batch)


def test_tensors_are_found_in_order():
    assert [
        leaf is part for leaf, part in zip(tensors_in({"a": [X, "text"], "b": (None, {"c": Y})}), [X, Y], strict=True)
    ]
    assert tensors_in(torch.tensor(1.0)) == []
