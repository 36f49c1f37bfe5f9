import torch
from torch.utils.data import DataLoader, Subset

from lightning_graceful.data.datasets import digits
from lightning_graceful.data.relabelled import Relabelled, of_classes


class OneByOne:
    """A dataset without ``__getitems__``."""

    def __init__(self):
        self.target, self.classes = torch.tensor([2, 0, 1]), ["a", "b", "c"]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((1, 2, 2), float(index)), self.target[index]


def test_samples_keep_images_and_places_and_change_labels():
    base = digits()
    data = Relabelled(base, [7, 2, 9])
    assert len(data) == len(base)
    for index in range(40):
        image, target = data[index]
        assert torch.equal(image, base[index][0])
        assert int(target) == {7: 0, 2: 1, 9: 2}.get(int(base.target[index]), -100)
    assert torch.equal(data.images[3], base.images[3])


def test_batches_equal_single_samples():
    for data in (Relabelled(digits(), [1, 2]), Relabelled(OneByOne(), [2, 1])):
        [(image, target), *_] = DataLoader(data, 3)
        assert [data[index][1] for index in range(3)] == target.tolist()
        assert torch.equal(image, torch.stack([data[index][0] for index in range(3)]))


def test_all_classes_as_they_are_leave_the_samples_as_they_are():
    samples = Subset(digits(), [5, 3])
    assert of_classes(samples, range(10)) is samples
    assert of_classes(samples, [1, 0, *range(2, 10)]) is not samples


def test_kept_samples_stay_in_order():
    kept = of_classes(Subset(digits(), [13, 3, 12, 2]), [3, 2])
    assert kept.indices == [13, 3, 12, 2]
    assert [int(target) for _, target in kept] == [0, 0, 1, 1]
    assert of_classes(Subset(digits(), [13, 12]), [3, 0]).indices == [13]
