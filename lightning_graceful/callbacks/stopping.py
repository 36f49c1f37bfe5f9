"""Stop a training that breaks more than it may."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_graceful.callbacks.base import Callback
from lightning_graceful.callbacks.logged import is_fit, is_within, logged_value


class BudgetStopping(Callback):
    """Stop when a flip rate has been above its budget for ``patience`` validations in a row.

    Each monitored key is counted on its own; being within the budget (a rate equal to it is) begins the count anew.
    NaN counts as neither: it never stops, and never resets. What is within the budget, ParetoCheckpoint keeps. A rate
    that has not come down yet is no reason to stop: say from which epoch on it counts. All ranks agree, the Trainer's
    ``min_epochs`` and ``min_steps`` hold, and the counts are saved in checkpoints.

    Args:
        nfr: Budget of ``val/nfr``, such as 0.01; short for ``budgets={"val/nfr": 0.01}``.
        budgets: Budget of any logged key, where less is better.
        patience: So many validations in a row above the budget stop the training.
        start_epoch: Validations of earlier epochs do not count.

    Attributes:
        reason: Why the training was stopped, in one line, or None.

    Raises:
        ValueError: If there is no budget, or an argument is out of its domain.

    Example:
        >>> stopping = BudgetStopping(nfr=0.01, patience=3, start_epoch=5)
        >>> trainer = pl.Trainer(callbacks=[stopping], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        nfr: float | None = None,
        *,
        budgets: Mapping[str, float] | None = None,
        patience: int = 3,
        start_epoch: int = 0,
    ) -> None:
        self.budgets = {**({} if nfr is None else {"val/nfr": nfr}), **(budgets or {})}
        self.patience = patience
        self.start_epoch = start_epoch
        self.reason: str | None = None
        self._above = dict.fromkeys(self.budgets, 0)
        self._unknown = dict.fromkeys(self.budgets, 0)
        self._check_arguments()

    @property
    def state_key(self) -> str:
        """Tell two of one trainer apart."""
        return f"BudgetStopping[{self.budgets}, patience={self.patience}, start_epoch={self.start_epoch}]"

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"above": dict(self._above), "unknown": dict(self._unknown), "reason": self.reason}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._above, self._unknown = dict(state_dict["above"]), dict(state_dict["unknown"])
        self.reason = state_dict["reason"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, and stop where a rate does not come back."""
        if not is_fit(trainer) or trainer.fast_dev_run or trainer.current_epoch < self.start_epoch:  # type: ignore[attr-defined]
            return
        exceeded = [key for key in self.budgets if self._is_exceeded(trainer, key)]
        if trainer.strategy.reduce_boolean_decision(bool(exceeded), all=False):
            said = [
                f"{key} has been above its budget of {self.budgets[key]:g} for {self._above[key]} validations in a row"
                for key in exceeded
            ]
            self.reason = "; ".join(said) or "another rank has a rate above its budget"
            rank_zero_info(f"Training stops: {self.reason}.")
            trainer.should_stop = True

    def _is_exceeded(self, trainer: pl.Trainer, key: str) -> bool:
        value = logged_value(trainer, key, "BudgetStopping")
        if value != value:
            self._note_unknown(key)
            return False
        self._unknown[key] = 0
        self._above[key] = 0 if is_within(value, self.budgets[key]) else self._above[key] + 1
        return self._above[key] >= self.patience

    def _note_unknown(self, key: str) -> None:
        self._unknown[key] += 1
        if self._unknown[key] == self.patience:
            rank_zero_warn(
                f"{key} was NaN at {self.patience} validations in a row, which BudgetStopping counts as neither within "
                "the budget nor above it. Is there a validation sample that the old model gets right?"
            )

    def _check_arguments(self) -> None:
        if not self.budgets:
            raise ValueError("Expected a budget, got none. Pass nfr=0.01 or budgets={'val/nfr': 0.01}.")
        for key, budget in self.budgets.items():
            if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget >= 0:
                raise ValueError(
                    f"Expected a budget of at least 0 for {key}, got {budget!r}. 0.01 is one in a hundred."
                )
        if self.patience < 1 or self.start_epoch < 0:
            raise ValueError(
                f"Expected patience of at least 1 and start_epoch of at least 0, got {self.patience} and "
                f"{self.start_epoch}."
            )
