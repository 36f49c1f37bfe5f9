"""Data of the jobs: who trains on what, who is chosen on what, and what is read once at the end."""

from lightning_graceful.experiment.datamodules.digits import DigitsDataModule as DigitsDataModule
from lightning_graceful.experiment.datamodules.fashion_mnist import FashionMNISTDataModule as FashionMNISTDataModule
from lightning_graceful.experiment.datamodules.image_folder import ImageFolderDataModule as ImageFolderDataModule
from lightning_graceful.experiment.datamodules.search import SearchDataModule as SearchDataModule
from lightning_graceful.experiment.datamodules.search import SearchHalves as SearchHalves
from lightning_graceful.experiment.datamodules.search import class_draws as class_draws
from lightning_graceful.experiment.datamodules.update import OldDataModule as OldDataModule
from lightning_graceful.experiment.datamodules.update import UpdateDataModule as UpdateDataModule
