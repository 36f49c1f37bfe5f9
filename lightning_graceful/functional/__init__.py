"""Pure functions: tensors (or arrays) in, tensors out.

Public names resolve on first use (PEP 562), so that ``lightning_graceful.functional.statistics`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "BCubed": "clusters",
    "BackfillCurve": "retrieval",
    "ClusterCurve": "clusters",
    "CompatibilityMatrix": "retrieval",
    "Identification": "retrieval",
    "Interval": "statistics",
    "MarginTest": "statistics",
    "Neighbours": "retrieval",
    "PairwiseCompatibility": "retrieval",
    "RatioSums": "statistics",
    "RetrievalFlips": "retrieval",
    "ThresholdDrift": "downstream",
    "ThresholdRates": "downstream",
    "Verification": "retrieval",
    "assign_clusters": "clusters",
    "average_compatibility": "compatibility",
    "average_queries": "retrieval",
    "b_cubed": "clusters",
    "b_cubed_from_counts": "clusters",
    "backfill_curve": "retrieval",
    "backward_error_compatibility": "flips",
    "backward_trust_compatibility": "flips",
    "benjamini_hochberg": "statistics",
    "bootstrap_counts": "statistics",
    "churn_rate": "flips",
    "class_means": "embedding_losses",
    "cluster_bootstrap": "statistics",
    "clustered_difference_interval": "statistics",
    "compatibility_matrix": "retrieval",
    "contrastive_compatibility_loss": "embedding_losses",
    "effective_counts": "statistics",
    "effective_size": "statistics",
    "equivalence": "statistics",
    "exact_interval": "statistics",
    "exact_p_value": "statistics",
    "feature_alignment_loss": "embedding_losses",
    "flip_rates": "flips",
    "flip_table": "flips",
    "focal_distillation_loss": "distillation",
    "gallery_distillation_loss": "embedding_losses",
    "gallery_search_loss": "embedding_losses",
    "holm": "statistics",
    "identification_rates": "retrieval",
    "influence_loss": "embedding_losses",
    "is_backward_compatible": "compatibility",
    "mcnemar_exact": "statistics",
    "minimum_detectable_nfr": "statistics",
    "mixed_clusters": "clusters",
    "mixed_gallery_loss": "embedding_losses",
    "negative_flip_impact": "flips",
    "negative_flip_rate": "flips",
    "neighbour_stability": "retrieval",
    "new_error_loss": "distillation",
    "nfr_difference_interval": "statistics",
    "non_inferiority": "statistics",
    "old_head_rates": "downstream",
    "paired_difference_interval": "statistics",
    "pairwise_compatibility": "retrieval",
    "poisson_bootstrap": "statistics",
    "positive_flip_impact": "flips",
    "positive_flip_rate": "flips",
    "rates_from_counts": "flips",
    "ratio_sums": "statistics",
    "ratio_variance": "statistics",
    "relative_negative_flip_rate": "flips",
    "retrieval_flips": "retrieval",
    "retrieval_metrics": "retrieval",
    "retrieval_per_query": "retrieval",
    "rows_needed": "statistics",
    "search_gallery": "retrieval",
    "self_accuracy_tax": "compatibility",
    "soft_influence_loss": "embedding_losses",
    "threshold_drift": "downstream",
    "threshold_rates": "downstream",
    "update_gain": "compatibility",
    "verification_rates": "retrieval",
    "wilson_interval": "statistics",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from lightning_graceful.functional.clusters import BCubed as BCubed
    from lightning_graceful.functional.clusters import ClusterCurve as ClusterCurve
    from lightning_graceful.functional.clusters import assign_clusters as assign_clusters
    from lightning_graceful.functional.clusters import b_cubed as b_cubed
    from lightning_graceful.functional.clusters import b_cubed_from_counts as b_cubed_from_counts
    from lightning_graceful.functional.clusters import mixed_clusters as mixed_clusters
    from lightning_graceful.functional.compatibility import average_compatibility as average_compatibility
    from lightning_graceful.functional.compatibility import is_backward_compatible as is_backward_compatible
    from lightning_graceful.functional.compatibility import self_accuracy_tax as self_accuracy_tax
    from lightning_graceful.functional.compatibility import update_gain as update_gain
    from lightning_graceful.functional.distillation import focal_distillation_loss as focal_distillation_loss
    from lightning_graceful.functional.distillation import new_error_loss as new_error_loss
    from lightning_graceful.functional.downstream import ThresholdDrift as ThresholdDrift
    from lightning_graceful.functional.downstream import ThresholdRates as ThresholdRates
    from lightning_graceful.functional.downstream import old_head_rates as old_head_rates
    from lightning_graceful.functional.downstream import threshold_drift as threshold_drift
    from lightning_graceful.functional.downstream import threshold_rates as threshold_rates
    from lightning_graceful.functional.embedding_losses import class_means as class_means
    from lightning_graceful.functional.embedding_losses import (
        contrastive_compatibility_loss as contrastive_compatibility_loss,
    )
    from lightning_graceful.functional.embedding_losses import feature_alignment_loss as feature_alignment_loss
    from lightning_graceful.functional.embedding_losses import gallery_distillation_loss as gallery_distillation_loss
    from lightning_graceful.functional.embedding_losses import gallery_search_loss as gallery_search_loss
    from lightning_graceful.functional.embedding_losses import influence_loss as influence_loss
    from lightning_graceful.functional.embedding_losses import mixed_gallery_loss as mixed_gallery_loss
    from lightning_graceful.functional.embedding_losses import soft_influence_loss as soft_influence_loss
    from lightning_graceful.functional.flips import backward_error_compatibility as backward_error_compatibility
    from lightning_graceful.functional.flips import backward_trust_compatibility as backward_trust_compatibility
    from lightning_graceful.functional.flips import churn_rate as churn_rate
    from lightning_graceful.functional.flips import flip_rates as flip_rates
    from lightning_graceful.functional.flips import flip_table as flip_table
    from lightning_graceful.functional.flips import negative_flip_impact as negative_flip_impact
    from lightning_graceful.functional.flips import negative_flip_rate as negative_flip_rate
    from lightning_graceful.functional.flips import positive_flip_impact as positive_flip_impact
    from lightning_graceful.functional.flips import positive_flip_rate as positive_flip_rate
    from lightning_graceful.functional.flips import rates_from_counts as rates_from_counts
    from lightning_graceful.functional.flips import relative_negative_flip_rate as relative_negative_flip_rate
    from lightning_graceful.functional.retrieval import BackfillCurve as BackfillCurve
    from lightning_graceful.functional.retrieval import CompatibilityMatrix as CompatibilityMatrix
    from lightning_graceful.functional.retrieval import Identification as Identification
    from lightning_graceful.functional.retrieval import Neighbours as Neighbours
    from lightning_graceful.functional.retrieval import PairwiseCompatibility as PairwiseCompatibility
    from lightning_graceful.functional.retrieval import RetrievalFlips as RetrievalFlips
    from lightning_graceful.functional.retrieval import Verification as Verification
    from lightning_graceful.functional.retrieval import average_queries as average_queries
    from lightning_graceful.functional.retrieval import backfill_curve as backfill_curve
    from lightning_graceful.functional.retrieval import compatibility_matrix as compatibility_matrix
    from lightning_graceful.functional.retrieval import identification_rates as identification_rates
    from lightning_graceful.functional.retrieval import neighbour_stability as neighbour_stability
    from lightning_graceful.functional.retrieval import pairwise_compatibility as pairwise_compatibility
    from lightning_graceful.functional.retrieval import retrieval_flips as retrieval_flips
    from lightning_graceful.functional.retrieval import retrieval_metrics as retrieval_metrics
    from lightning_graceful.functional.retrieval import retrieval_per_query as retrieval_per_query
    from lightning_graceful.functional.retrieval import search_gallery as search_gallery
    from lightning_graceful.functional.retrieval import verification_rates as verification_rates
    from lightning_graceful.functional.statistics import Interval as Interval
    from lightning_graceful.functional.statistics import MarginTest as MarginTest
    from lightning_graceful.functional.statistics import RatioSums as RatioSums
    from lightning_graceful.functional.statistics import benjamini_hochberg as benjamini_hochberg
    from lightning_graceful.functional.statistics import bootstrap_counts as bootstrap_counts
    from lightning_graceful.functional.statistics import cluster_bootstrap as cluster_bootstrap
    from lightning_graceful.functional.statistics import clustered_difference_interval as clustered_difference_interval
    from lightning_graceful.functional.statistics import effective_counts as effective_counts
    from lightning_graceful.functional.statistics import effective_size as effective_size
    from lightning_graceful.functional.statistics import equivalence as equivalence
    from lightning_graceful.functional.statistics import exact_interval as exact_interval
    from lightning_graceful.functional.statistics import exact_p_value as exact_p_value
    from lightning_graceful.functional.statistics import holm as holm
    from lightning_graceful.functional.statistics import mcnemar_exact as mcnemar_exact
    from lightning_graceful.functional.statistics import minimum_detectable_nfr as minimum_detectable_nfr
    from lightning_graceful.functional.statistics import nfr_difference_interval as nfr_difference_interval
    from lightning_graceful.functional.statistics import non_inferiority as non_inferiority
    from lightning_graceful.functional.statistics import paired_difference_interval as paired_difference_interval
    from lightning_graceful.functional.statistics import poisson_bootstrap as poisson_bootstrap
    from lightning_graceful.functional.statistics import ratio_sums as ratio_sums
    from lightning_graceful.functional.statistics import ratio_variance as ratio_variance
    from lightning_graceful.functional.statistics import rows_needed as rows_needed
    from lightning_graceful.functional.statistics import wilson_interval as wilson_interval


def __getattr__(name: str) -> Any:  # imports the module that holds the name the first time it is asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:  # for completion, the lazy names among them
    return sorted({*globals(), *__all__})
