"""What a loss was computed from, read off the autograd graph."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def computed_from(result: Tensor, sources: Sequence[Tensor]) -> list[bool]:
    """Tell from which tensors another was computed.

    The graph is walked from the result backwards until all are found: a loss lies a few nodes behind its logits, and
    only what the loss is not computed from costs a walk over the whole graph (about 1 us a node).

    Args:
        result: A loss; without a graph nothing leads to it.
        sources: Outputs of modules, such as logits; of those without a graph nothing is known.

    Returns:
        For each source whether ``result`` was computed from it.

    Example:
        >>> import torch
        >>> used, unused = torch.ones(2, requires_grad=True) * 2, torch.ones(2, requires_grad=True) * 3
        >>> computed_from(used.square().sum(), [used, unused])
        [True, False]
    """
    missing = {source.grad_fn for source in sources if source.grad_fn is not None}
    wanted = set(missing)
    waiting: deque[Any] = deque([result.grad_fn])
    seen = set(waiting)
    while waiting and missing:
        node = waiting.popleft()
        missing.discard(node)
        following = {} if node is None else dict.fromkeys(before for before, _ in node.next_functions)
        waiting += [before for before in following if before not in seen]
        seen.update(following)
    return [source.grad_fn in wanted - missing for source in sources]
