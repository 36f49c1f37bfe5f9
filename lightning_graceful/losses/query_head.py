"""A head of its own for old galleries: the new embedding stays as good as it can be, its queries are mapped."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_graceful.losses.arguments import term_arguments


class QueryHead(nn.Module):
    """Map the new embedding into the old space by a head that is trained along, and apply a loss there.

    With ``detach`` no gradient of the loss reaches the new model: its own embedding is that of a model trained without
    any regard to the old one, so that compatibility costs it nothing, exactly. The head is trained by the module's
    optimiser and saved with the state of the term, in ``checkpoint["lightning_graceful"]["terms"][name]`` under
    ``head.``, never in the module's ``state_dict``.

    When serving, embed a query with the new model, and search the *old* rows of the gallery with
    ``loss.head(new_embedding)``, the new rows with ``new_embedding``. ``loss`` is the object given to
    ``make_graceful``, or ``module.graceful_terms.terms[name]`` where a class was made graceful. Call ``head.eval()``
    before, if it has dropout or batch norm.

    Args:
        loss: Function or module with an argument ``new_embedding``; the others are served to it as without the head.
        head: From new embeddings ``(N, d)`` to the old space, ``(N, d_old)``; such as ``nn.Linear(d, d_old)``.
        detach: Whether to keep the gradient from the new model.

    Attributes:
        asks: The arguments of the loss, which a GracefulMixin serves.

    Raises:
        ValueError: If the loss does not look at the new embedding, or the head is no module.

    Example:
        >>> import torch
        >>> from lightning_graceful.losses.compatibility import FeatureAlignmentLoss
        >>> term = QueryHead(FeatureAlignmentLoss(), nn.Linear(4, 2))
        >>> new = torch.ones(3, 4, requires_grad=True)
        >>> term(new_embedding=new, old_embedding=torch.ones(3, 2)).backward()
        >>> new.grad is None, term.head.weight.grad.shape, term.asks
        (True, torch.Size([2, 4]), ('new_embedding', 'old_embedding'))
    """

    def __init__(self, loss: Callable[..., Tensor], head: nn.Module, *, detach: bool = True) -> None:
        super().__init__()
        self.asks = term_arguments("loss", loss)
        if "new_embedding" not in self.asks:
            raise ValueError(f"Expected a loss that asks for new_embedding, got one that asks for {list(self.asks)}.")
        if not isinstance(head, nn.Module):
            raise ValueError(f"Expected a head that is an nn.Module, got {type(head).__name__}.")
        self.loss = loss
        self.head = head
        self.detach = detach

    def forward(self, *, new_embedding: Tensor, **served: Any) -> Tensor:
        """Return what the loss says of the mapped embedding, from shape ``(N, d)``."""
        mapped = self.head(new_embedding.detach() if self.detach else new_embedding)
        return self.loss(new_embedding=mapped, **served)

    def extra_repr(self) -> str:
        """Return the options, for ``print(loss)``."""
        return f"detach={self.detach}"
