"""Read a model's logits and embedding while it runs, without an edit of its code."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class OutputCapture:
    """Collect what modules return between ``start`` and ``stop``.

    With a module path (``"net.fc"``) that module is watched. Without one, the module itself and its direct children are
    (containers that are never called, such as ModuleList, are looked into): the module's own 2-D floating output of the
    whole batch is taken, else the one such output of a child.

    Args:
        module: The model to watch.
        logits: Path of the module whose output is the logits, or None to find it.
        embedding: Path of the module whose output is the embedding, or None for no embedding.

    Raises:
        ValueError: If a path names no module.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> capture = OutputCapture(net, embedding="0")
        >>> capture.start()
        >>> _ = net(torch.zeros(2, 2, 2))
        >>> capture.logits(batch_size=2).shape, capture.embedding(batch_size=2).shape
        (torch.Size([2, 3]), torch.Size([2, 4]))
    """

    def __init__(self, module: nn.Module, *, logits: str | None = None, embedding: str | None = None) -> None:
        self._logits = logits
        self._embedding = embedding
        candidates = (
            {"": module, **dict(_callable_children(module))}
            if logits is None
            else {logits: find_module(module, logits)}
        )
        watched = candidates | ({embedding: find_module(module, embedding)} if embedding is not None else {})
        self._candidates = set(candidates)
        self._calls: dict[str, list[Tensor]] = {}
        self._active = False
        self._handles: list[RemovableHandle] = [self._watch(path, child) for path, child in watched.items()]

    def start(self) -> None:
        """Forget the last step and begin to collect."""
        self._calls, self._active = {}, True

    def stop(self) -> None:
        """Collect no more and drop what was collected, so that no graph outlives its step."""
        self._calls, self._active = {}, False

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.stop()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def logits(self, batch_size: int, classes: int | None = None) -> Tensor:
        """Return the one set of logits collected since ``start``.

        Args:
            batch_size: Samples in the batch; outputs of another length are no candidates.
            classes: Width of the logits where it is known (the old model's), to tell logits from features.

        Returns:
            Logits with their graph, shape ``(N, C)``.

        Raises:
            RuntimeError: If there is not exactly one candidate; names what was seen.
        """

        def fitting(path: str) -> list[Tensor]:
            shapes_fit = (v for v in self._calls.get(path, []) if v.ndim == 2 and len(v) == batch_size)
            return [value for value in shapes_fit if classes in {None, value.shape[1]}]

        # What the module itself returned contains what its children did.
        own = fitting("") if "" in self._candidates else []
        found = own or [value for path in self._candidates for value in fitting(path)]
        if len(found) == 1:
            return found[0]
        seen = {path or "self": [tuple(v.shape) for v in calls] for path, calls in self._calls.items()}
        raise RuntimeError(
            f"Expected exactly one output of shape ({batch_size}, {classes or 'classes'}) to be the logits, got {len(found)}. "
            f'Outputs seen: {seen or "none"}. Name the module whose output they are (logits="path.of.module"), or call '
            "self.graceful_loss(...) in training_step."
        )

    def embedding(self, batch_size: int) -> Tensor:
        """Return the one embedding collected since ``start``, flattened to ``(N, D)``, with its graph.

        Args:
            batch_size: Samples in the batch.

        Returns:
            The embedding.

        Raises:
            RuntimeError: If no path was given, or that module was not called exactly once with the whole batch.
        """
        calls = [] if self._embedding is None else self._calls.get(self._embedding, [])
        fitting = [value.flatten(1) for value in calls if len(value) == batch_size]
        if len(fitting) != 1:
            raise RuntimeError(
                f"Expected one call with the whole batch of {batch_size} of the module that gives the embedding "
                f"(embedding={self._embedding!r}), got {len(fitting)}."
            )
        return fitting[0]

    def _watch(self, path: str, module: nn.Module) -> RemovableHandle:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            value = logits_in(output)
            if self._active and value is not None:
                self._calls.setdefault(path, []).append(value)

        return module.register_forward_hook(keep)


def logits_in(output: Any) -> Tensor | None:
    """Find the scores in what a model returned: a floating tensor, ``output.logits``, ``output["logits"]`` or ``output[0]``.

    Args:
        output: What ``model(inputs)`` returned.

    Returns:
        A floating tensor of at least two dimensions, or None.
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, Sequence) and not isinstance(output, str) and len(output) > 0:
        output = output[0]
    is_scores = isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 2
    return output if is_scores else None


def find_module(module: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a dotted path.

    Args:
        module: The model.
        path: Such as ``"net.fc"``.

    Returns:
        The submodule.

    Raises:
        ValueError: If there is none; names those of the last level that exists.
    """
    current = module
    for depth, name in enumerate(path.split(".")):
        children = dict(current.named_children())
        if name not in children:
            above = ".".join(path.split(".")[:depth]) or type(module).__name__
            raise ValueError(f"Expected a module at {path!r}, but {above} has no {name!r}; it has {sorted(children)}.")
        current = children[name]
    return current


def _callable_children(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _callable_children(child, f"{path}.")
        else:
            yield path, child
