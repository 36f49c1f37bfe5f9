"""Replace a trained model without breaking what the old one got right.

Public names resolve on first use (PEP 562), so that ``lightning_graceful.functional`` and
``lightning_graceful.metrics`` load neither Lightning nor Hydra.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BackwardErrorCompatibility": "metrics.flips",
    "BackwardTrustCompatibility": "metrics.flips",
    "Batch": "data.batch",
    "BudgetStopping": "callbacks.stopping",
    "CacheError": "data.rows",
    "ChurnRate": "metrics.flips",
    "ClusterBCubed": "metrics.clusters",
    "CompatibilityMonitor": "callbacks.compatibility",
    "ContrastiveCompatibilityLoss": "losses.compatibility",
    "CosineClassifier": "losses.classifiers",
    "CredibleMixedGalleryLoss": "losses.mixed_gallery",
    "CrossModelRetrieval": "metrics.retrieval",
    "FeatureAlignmentLoss": "losses.compatibility",
    "FlipDashboard": "callbacks.dashboard",
    "FlipHistory": "callbacks.history",
    "FlipMonitor": "callbacks.flips",
    "FlipRates": "metrics.flips",
    "FocalDistillationLoss": "losses.distillation",
    "GalleryDistillationLoss": "losses.gallery",
    "GalleryIndex": "gallery.index",
    "GallerySearchLoss": "losses.gallery",
    "GalleryTransformation": "adapters.transformation",
    "GracefulMixin": "mixin",
    "ImageFolder": "data.image_folder",
    "InfluenceLoss": "losses.influence",
    "MixedGalleryLoss": "losses.mixed_gallery",
    "NegativeFlipImpact": "metrics.flips",
    "NegativeFlipRate": "metrics.flips",
    "NewErrorLoss": "losses.distillation",
    "OldModel": "models.old_model",
    "OldOutputCache": "callbacks.old_outputs",
    "OutputStore": "data.store",
    "Outputs": "data.batch",
    "ParetoCheckpoint": "callbacks.checkpoint",
    "PositiveFlipImpact": "metrics.flips",
    "PositiveFlipRate": "metrics.flips",
    "QueryHead": "losses.query_head",
    "RelativeNegativeFlipRate": "metrics.flips",
    "SoftInfluenceLoss": "losses.influence",
    "SpaceAlignment": "adapters.alignment",
    "UnlabelledViews": "data.views",
    "make_graceful": "mixin",
    "register": "experiment.searchpath",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from lightning_graceful.adapters.alignment import SpaceAlignment as SpaceAlignment
    from lightning_graceful.adapters.transformation import GalleryTransformation as GalleryTransformation
    from lightning_graceful.callbacks.checkpoint import ParetoCheckpoint as ParetoCheckpoint
    from lightning_graceful.callbacks.compatibility import CompatibilityMonitor as CompatibilityMonitor
    from lightning_graceful.callbacks.dashboard import FlipDashboard as FlipDashboard
    from lightning_graceful.callbacks.flips import FlipMonitor as FlipMonitor
    from lightning_graceful.callbacks.history import FlipHistory as FlipHistory
    from lightning_graceful.callbacks.old_outputs import OldOutputCache as OldOutputCache
    from lightning_graceful.callbacks.stopping import BudgetStopping as BudgetStopping
    from lightning_graceful.data.batch import Batch as Batch
    from lightning_graceful.data.batch import Outputs as Outputs
    from lightning_graceful.data.image_folder import ImageFolder as ImageFolder
    from lightning_graceful.data.rows import CacheError as CacheError
    from lightning_graceful.data.store import OutputStore as OutputStore
    from lightning_graceful.data.views import UnlabelledViews as UnlabelledViews
    from lightning_graceful.experiment.searchpath import register as register
    from lightning_graceful.gallery.index import GalleryIndex as GalleryIndex
    from lightning_graceful.losses.classifiers import CosineClassifier as CosineClassifier
    from lightning_graceful.losses.compatibility import ContrastiveCompatibilityLoss as ContrastiveCompatibilityLoss
    from lightning_graceful.losses.compatibility import FeatureAlignmentLoss as FeatureAlignmentLoss
    from lightning_graceful.losses.distillation import FocalDistillationLoss as FocalDistillationLoss
    from lightning_graceful.losses.distillation import NewErrorLoss as NewErrorLoss
    from lightning_graceful.losses.gallery import GalleryDistillationLoss as GalleryDistillationLoss
    from lightning_graceful.losses.gallery import GallerySearchLoss as GallerySearchLoss
    from lightning_graceful.losses.influence import InfluenceLoss as InfluenceLoss
    from lightning_graceful.losses.influence import SoftInfluenceLoss as SoftInfluenceLoss
    from lightning_graceful.losses.mixed_gallery import CredibleMixedGalleryLoss as CredibleMixedGalleryLoss
    from lightning_graceful.losses.mixed_gallery import MixedGalleryLoss as MixedGalleryLoss
    from lightning_graceful.losses.query_head import QueryHead as QueryHead
    from lightning_graceful.metrics.clusters import ClusterBCubed as ClusterBCubed
    from lightning_graceful.metrics.flips import BackwardErrorCompatibility as BackwardErrorCompatibility
    from lightning_graceful.metrics.flips import BackwardTrustCompatibility as BackwardTrustCompatibility
    from lightning_graceful.metrics.flips import ChurnRate as ChurnRate
    from lightning_graceful.metrics.flips import FlipRates as FlipRates
    from lightning_graceful.metrics.flips import NegativeFlipImpact as NegativeFlipImpact
    from lightning_graceful.metrics.flips import NegativeFlipRate as NegativeFlipRate
    from lightning_graceful.metrics.flips import PositiveFlipImpact as PositiveFlipImpact
    from lightning_graceful.metrics.flips import PositiveFlipRate as PositiveFlipRate
    from lightning_graceful.metrics.flips import RelativeNegativeFlipRate as RelativeNegativeFlipRate
    from lightning_graceful.metrics.retrieval import CrossModelRetrieval as CrossModelRetrieval
    from lightning_graceful.mixin import GracefulMixin as GracefulMixin
    from lightning_graceful.mixin import make_graceful as make_graceful
    from lightning_graceful.models.old_model import OldModel as OldModel


def __getattr__(name: str) -> Any:
    # The module that holds a name is imported the first time the name is asked for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # For completion, the lazy names among them.
    return sorted({*globals(), *__all__})
