"""Which of a monitor's old models the OldOutputCache serves already, whatever each is called there."""

from collections.abc import Mapping
from typing import Any

from lightning_graceful.models.old_model import OldModel


class ServedOlds:
    """The old models whose outputs are on the module when a batch ends.

    Args:
        olds: Old models by name; None takes the first that a cache serves.
        trainer: The trainer, during ``setup``.
    """

    def __init__(self, olds: Mapping[str, OldModel | None], trainer: Any) -> None:
        self.cached = _cached_olds(trainer)
        # Once a stage, for a fingerprint reads all weights.
        self._keys = {name: key for name, old in olds.items() if (key := _key_of(old, self.cached)) is not None}

    def on(self, pl_module: Any, name: str) -> Any:
        """Return what the cache has put on the module.

        Args:
            pl_module: The module in training.
            name: Name of the old model.

        Returns:
            Outputs, or of a combined batch a collection of them; None where the cache serves no such model.
        """
        if name not in self._keys:
            return None
        every = getattr(pl_module, "all_old_outputs", None)
        return getattr(pl_module, "old_outputs", None) if every is None else every.get(self._keys[name])


def _cached_olds(trainer: Any) -> dict[str, OldModel | None]:
    # Of several caches the last one's outputs are on the module when a batch ends.
    caches = [callback for callback in trainer.callbacks if getattr(callback, "provides_old_outputs", False)]
    if not caches:
        return {}
    olds = getattr(caches[-1], "olds", None)
    return {**olds} if isinstance(olds, Mapping) else {"": getattr(caches[-1], "old", None)}


def _key_of(old: OldModel | None, cached: Mapping[str, OldModel | None]) -> str | None:
    if old is None:
        return next(iter(cached), None)
    others = {key: other for key, other in cached.items() if other is not None}
    same = [key for key, other in others.items() if other is old]
    if same or not others:
        return next(iter(same), None)
    fingerprint = old.fingerprint
    return next((key for key, other in others.items() if other.fingerprint == fingerprint), None)
