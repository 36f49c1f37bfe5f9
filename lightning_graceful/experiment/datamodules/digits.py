"""Digits in folds: the quick experiment, at which every sample is tested once."""

from sklearn.model_selection import StratifiedKFold, train_test_split
from torch.utils.data import Subset

from lightning_graceful.data.datasets import digits
from lightning_graceful.data.relabelled import Sample
from lightning_graceful.experiment.datamodules.update import UpdateDataModule, subsets


class DigitsDataModule(UpdateDataModule):
    """Digits in stratified folds: seed ``k`` tests on fold ``k``, so that ``folds`` seeds test every sample once.

    Args:
        folds: Number of folds.
        seed: The fold to test on, modulo ``folds``; also draws the old model's part.
        old_fraction: See :class:`~lightning_graceful.experiment.datamodules.UpdateDataModule`.
        batch_size: Samples a batch.
        num_workers: Processes that load.
    """

    def __init__(
        self, *, folds: int = 5, seed: int = 0, old_fraction: float = 0.5, batch_size: int = 64, num_workers: int = 0
    ) -> None:
        self.folds = folds
        super().__init__(seed=seed, old_fraction=old_fraction, batch_size=batch_size, num_workers=num_workers)

    def split(self) -> tuple["Subset[Sample]", "Subset[Sample]", "Subset[Sample]"]:
        """Return folds; an eighth of what is not tested is for validation."""
        data = digits()
        target = data.target.numpy()
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=0).split(target, target)
        rest, test = list(folds)[self.seed % self.folds]
        train, val = train_test_split(rest, test_size=1 / 8, stratify=target[rest], random_state=0)
        return subsets((data, train), (data, val), (data, test))
