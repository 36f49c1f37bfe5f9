"""What the other callbacks of a trainer know of flips."""

from typing import Any

from lightning_graceful.callbacks.flip_files import Place
from lightning_graceful.callbacks.flips import FlipMonitor
from lightning_graceful.callbacks.history import FlipHistory
from lightning_graceful.callbacks.served import ServedOlds
from lightning_graceful.report.history import Churn


def monitor_of(trainer: Any) -> FlipMonitor:
    """Find the FlipMonitor.

    Args:
        trainer: The trainer.

    Returns:
        The first.

    Raises:
        RuntimeError: If there is none.
    """
    found = next((callback for callback in trainer.callbacks if isinstance(callback, FlipMonitor)), None)
    if found is None:
        raise RuntimeError(
            "Expected a FlipMonitor beside FlipDashboard, got none: "
            "Trainer(callbacks=[FlipMonitor(old), FlipDashboard()])."
        )
    return found


def history_of(trainer: Any, place: Place) -> Churn | None:
    """Read how flips moved in the fit that runs now.

    Args:
        trainer: The trainer.
        place: Which comparison.

    Returns:
        What a FlipHistory has followed; None where there is none of this old model and loader, or no epoch of it yet.
    """
    followers = [callback for callback in trainer.callbacks if isinstance(callback, FlipHistory)]
    for follower in followers if trainer.state.fn == "fit" else []:
        if (follower.old, follower.loader) == (place.old_name, place.loader):
            try:
                return follower.summary()
            except (FileNotFoundError, RuntimeError, ValueError):
                return None  # a run that was stopped before it had any
    return None


def fingerprint_of(trainer: Any, name: str) -> str | None:
    """Compute the fingerprint of an old model, which reads all its weights.

    Args:
        trainer: The trainer.
        name: Name of the old model in FlipMonitor.

    Returns:
        The fingerprint; None where only a cache without its model is there.
    """
    # None among the monitor's olds stands for the first that the cache serves.
    old = monitor_of(trainer).olds[name] or next(iter(ServedOlds({}, trainer).cached.values()), None)
    return None if old is None else old.fingerprint
