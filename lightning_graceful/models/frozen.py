"""A module that nobody can train, and whose weights belong to nobody else."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Hold a module in eval mode, without grad for its weights, whatever is called on whoever holds it.

    Its parameters and buffers are not the holder's: neither in ``state_dict`` nor in optimisers, DDP, parameter counts
    and summaries. It moves and changes precision with its holder. Gradients flow through it to its input.

    Args:
        module: The module, which is frozen in place.

    Example:
        >>> import torch
        >>> head = Frozen(nn.Linear(2, 3))
        >>> x = torch.zeros(4, 2, requires_grad=True)
        >>> head(x).requires_grad, len(list(head.parameters())), head.weight.shape
        (True, 0, torch.Size([3, 2]))
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Past nn.Module.__setattr__, which would make it a child.
        self.__dict__["frozen"] = freeze(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module.

        Returns:
            What it returns.
        """
        freeze(self.frozen)  # whoever got hold of it may have said train() or requires_grad_()
        return self.frozen(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Look in the module for what is not here, such as ``weight``.

        Returns:
            The attribute.

        Raises:
            AttributeError: If the module has none, either.
        """
        if "frozen" not in self.__dict__:
            raise AttributeError(name)  # it is being unpickled
        return getattr(self.__dict__["frozen"], name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        # What to(), half() and cuda() of any holder come down to.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frozen._apply(fn, recurse)
        return self


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into eval mode and its weights out of training, in place.

    Args:
        module: The module.

    Returns:
        The module.
    """
    return module.eval().requires_grad_(False)
