"""Pure functions: tensors (or arrays) in, tensors out.

Public names resolve on first use (PEP 562), so that ``lightning_graceful.functional.statistics`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Interval": "statistics",
    "backward_error_compatibility": "flips",
    "backward_trust_compatibility": "flips",
    "churn_rate": "flips",
    "clustered_difference_interval": "statistics",
    "flip_rates": "flips",
    "flip_table": "flips",
    "focal_distillation_loss": "distillation",
    "negative_flip_impact": "flips",
    "negative_flip_rate": "flips",
    "new_error_loss": "distillation",
    "positive_flip_impact": "flips",
    "positive_flip_rate": "flips",
    "rates_from_counts": "flips",
    "relative_negative_flip_rate": "flips",
    "wilson_interval": "statistics",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from lightning_graceful.functional.distillation import focal_distillation_loss as focal_distillation_loss
    from lightning_graceful.functional.distillation import new_error_loss as new_error_loss
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
    from lightning_graceful.functional.statistics import Interval as Interval
    from lightning_graceful.functional.statistics import clustered_difference_interval as clustered_difference_interval
    from lightning_graceful.functional.statistics import wilson_interval as wilson_interval


def __getattr__(name: str) -> Any:  # imports the module that holds the name the first time it is asked for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:  # for completion, the lazy names among them
    return sorted({*globals(), *__all__})
