"""What a training has logged, for callbacks that decide by it."""

from typing import Any

import numpy as np


def logged_value(trainer: Any, key: str, asker: str) -> float:
    """Read a logged value.

    Args:
        trainer: The trainer, after a validation.
        key: Such as ``"val/nfr"``.
        asker: Who wants it.

    Returns:
        The value, the same on all ranks if it was logged so.

    Raises:
        RuntimeError: If nothing was logged by that name; lists what was.
    """
    if key not in trainer.callback_metrics:
        raise RuntimeError(
            f"Expected {key} to be logged for {asker}, got {', '.join(sorted(trainer.callback_metrics)) or 'nothing'}. "
            "Add FlipMonitor(old) to the callbacks, or name another key."
        )
    return float(trainer.callback_metrics[key])


def is_within(value: float, budget: float) -> bool:
    """Say whether a logged value is at most a budget.

    Args:
        value: Lightning logs in float32: what was 5/100 is a little more.
        budget: As the user wrote it.

    Returns:
        Whether it is, to the precision of float32; never for NaN.

    Example:
        >>> is_within(float(np.float32(0.05)), 0.05), is_within(0.0501, 0.05)
        (True, False)
    """
    return value <= max(budget, float(np.float32(budget)))


def is_fit(trainer: Any) -> bool:
    """Say whether a validation is one of a fit, and no sanity check.

    Args:
        trainer: The trainer, of either namespace.

    Returns:
        Whether it is.
    """
    return bool(trainer.state.fn == "fit") and not trainer.sanity_checking
