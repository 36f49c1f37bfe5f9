"""Positive-congruent losses as modules, ready to be terms of a GracefulMixin (Yan et al., CVPR 2021)."""

from typing import Literal

from torch import Tensor, nn

from lightning_graceful.functional.distillation import Focus, Kind, focal_distillation_loss, new_error_loss


class FocalDistillationLoss(nn.Module):
    """Distil the old model, most where it was right.

    See :func:`~lightning_graceful.functional.focal_distillation_loss` for the formula.

    The default (KL at temperature 100, alpha 1, beta 5) is the paper's with the factor that makes its scale independent
    of temperature and number of classes. ``kind="logit", class_reduction="sum"`` is the paper's literal eq. 9: at
    weight 1 SGD diverged on Fashion-MNIST (error 90 %; command in benchmarks/README.md). Divide the weight by the
    number of classes, or leave the default.

    Args:
        alpha: Weight of every sample.
        beta: Extra weight of the samples in focus.
        kind: ``"kl"`` or ``"logit"``, the distance of two rows of logits.
        temperature: Softening of ``kind="kl"``.
        focus: Which samples get ``beta``: ``"old_correct"``, ``"all"``, ``"neg_flip"`` or ``"new_incorrect"``.
        class_reduction: ``"mean"`` or ``"sum"`` over the classes of ``kind="logit"``.

    Raises:
        ValueError: If a weight is negative or the temperature is not positive.

    Example:
        >>> import torch
        >>> loss = FocalDistillationLoss(kind="logit")
        >>> old = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), old, torch.tensor([0, 1]))  # ((1 + 5) * 0.25 + 1 * 0.25) / 2
        tensor(0.8750)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 5.0,
        kind: Kind = "kl",
        temperature: float = 100.0,
        focus: Focus = "old_correct",
        class_reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if alpha < 0 or beta < 0 or temperature <= 0:
            raise ValueError(
                f"Expected alpha >= 0, beta >= 0 and temperature > 0, got {alpha}, {beta} and {temperature}."
            )
        self.alpha = alpha
        self.beta = beta
        self.kind: Kind = kind
        self.temperature = temperature
        self.focus: Focus = focus
        self.class_reduction: Literal["mean", "sum"] = class_reduction

    def forward(self, new_logits: Tensor, old_logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; shapes ``(N, C)``, ``(N, C)``, ``(N,)``."""
        return focal_distillation_loss(
            new_logits,
            old_logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            kind=self.kind,
            temperature=self.temperature,
            focus=self.focus,
            class_reduction=self.class_reduction,
        )

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        options = {"alpha": self.alpha, "beta": self.beta, "kind": self.kind, "temperature": self.temperature}
        return ", ".join(f"{name}={value!r}" for name, value in {**options, "focus": self.focus}.items())


class NewErrorLoss(nn.Module):
    """Cross-entropy on what the old model has right; see :func:`~lightning_graceful.functional.new_error_loss`.

    Example:
        >>> import torch
        >>> NewErrorLoss()(torch.zeros(2, 4), torch.eye(4)[:2], torch.tensor([0, 3]))
        tensor(0.6931)
    """

    def forward(self, new_logits: Tensor, old_logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; shapes ``(N, C)``, ``(N, C)``, ``(N,)``."""
        return new_error_loss(new_logits, old_logits, target)
