"""Read a model's logits and embedding while it runs, without an edit of its code."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_graceful.models.graph import computed_from


class _Hook(NamedTuple):
    # A hook that comes and goes with each step, far cheaper than by a new registration.
    handle: RemovableHandle
    function: Callable[..., None]

    def put_back(self) -> None:
        hooks = self.handle.hooks_dict_ref()
        if hooks is not None:
            hooks[self.handle.id] = self.function


class OutputCapture:
    """Collect what modules return between ``start`` and ``stop``, or inside ``with capture:``.

    With a module path (``"net.fc"``) that module is watched. Without one, the module itself and its direct children are
    (containers that are never called, such as ModuleList, are looked into; torchmetrics and the losses of torch are
    left out): the module's own 2-D floating output of the whole batch is taken, else the one such output of a child.
    Hooks are on the model only in between, so that a copy, a pickle or a step that raised never carries one.

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
        >>> with capture:
        ...     _ = net(torch.zeros(2, 2, 2))
        ...     print(capture.logits(batch_size=2).shape, capture.embedding(batch_size=2).shape)
        torch.Size([2, 3]) torch.Size([2, 4])
    """

    def __init__(self, module: nn.Module, *, logits: str | None = None, embedding: str | None = None) -> None:
        self._module = module
        self._logits = logits
        self._embedding = embedding
        self._candidates: dict[str, nn.Module] = {}
        self._calls: dict[str, list[Tensor]] = {}
        self._entered: list[Any] = []
        self._hooks: list[_Hook] = []
        self._watched = self._find()

    def start(self) -> None:
        """Forget the last step and begin to collect."""
        self.stop()
        watched = self._find()
        if [*self._watched.items()] != [*watched.items()] or not self._hooks:
            # The first time, and where a module was replaced since.
            self._watched = watched
            self._hooks = [hook for path, module in watched.items() for hook in self._watch(path, module)]
        else:
            for hook in self._hooks:
                hook.put_back()

    def stop(self) -> None:
        """Take the hooks off the model and drop what was collected, so that no graph outlives its step."""
        for hook in self._hooks:
            hook.handle.remove()
        self._calls = {}
        self._entered = []

    def remove(self) -> None:
        """Do as :meth:`stop`."""
        self.stop()

    def __enter__(self) -> "OutputCapture":
        """Start.

        Returns:
            Itself.
        """
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop, whatever happened."""
        self.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the hooks out: they are functions that know this capture and its model, not a copy's.

        Returns:
            The attributes.
        """
        return {**self.__dict__, "_hooks": [], "_calls": {}, "_entered": []}

    def logits(self, batch_size: int, classes: int | None = None, *, loss: Tensor | None = None) -> Tensor:
        """Return the one set of logits collected since ``start``.

        Args:
            batch_size: Samples in the batch; outputs of another length are no candidates.
            classes: Width of the logits where it is known (the old model's), to tell logits from features. An output
                that was asked for by path may have any width.
            loss: What was computed from the logits. If it has a graph, only outputs with one are candidates (none from
                under ``no_grad``), and of several those that it was computed from.

        Returns:
            Logits with their graph, shape ``(N, C)``.

        Raises:
            RuntimeError: If there is not exactly one candidate; names what was seen.
            ValueError: If there is exactly one, of another width.
        """
        width = classes if self._logits is None else None
        found = self._fitting(batch_size, width, loss)
        if len(found) == 1:
            return found[0]
        others = self._fitting(batch_size, None, loss)
        if len(others) == 1:
            raise ValueError(
                f"Expected one number of classes, got {others[0].shape[1]} (new) and {width} (old). Give the OldModel "
                "a label_map: for each new class its column in the old model, or -1."
            )
        graph = loss is not None and loss.requires_grad
        raise RuntimeError(self._not_one(len(found), f"({batch_size}, {width or 'classes'})", graph=graph))

    def used_by(self, loss: Tensor, batch_size: int, classes: int | None = None) -> list[Tensor]:
        """List the candidates that a loss was computed from, as :meth:`logits` would choose among them.

        Args:
            loss: The loss, with its graph.
            batch_size: Samples in the batch.
            classes: Width of the logits where it is known.

        Returns:
            None, one or several outputs.
        """
        found = self._fitting(batch_size, classes if self._logits is None else None, loss)
        return [value for value, is_used in zip(found, computed_from(loss, found), strict=True) if is_used]

    def embeds(self, loss: Tensor, batch_size: int) -> bool:
        """Tell whether a loss was computed from an embedding collected since ``start``.

        Args:
            loss: The loss, with its graph.
            batch_size: Samples in the batch.

        Returns:
            Whether it was.
        """
        calls = self._calls.get(self._embedding or "", [])
        return any(computed_from(loss, [value for value in calls if len(value) == batch_size]))

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
                f"(embedding={self._embedding!r}), got {len(fitting)}. Outputs seen: {self.seen()}."
            )
        return fitting[0]

    def seen(self) -> Any:
        """Say what was collected since ``start``, for errors.

        Returns:
            Shapes by path, or "none".
        """
        return {path or "self": [tuple(v.shape) for v in calls] for path, calls in self._calls.items()} or "none"

    def _fitting(self, batch_size: int, width: int | None, loss: Tensor | None) -> list[Tensor]:
        with_graph = loss is not None and loss.requires_grad

        def fits(value: Tensor) -> bool:
            shape_fits = value.ndim == 2 and len(value) == batch_size and width in {None, value.shape[1]}
            return shape_fits and (value.requires_grad or not with_graph)

        fitting = [(path, v) for path in self._candidates for v in self._calls.get(path, []) if fits(v)]
        if loss is not None and with_graph and len({id(value) for _, value in fitting}) > 1:
            used = computed_from(loss, [value for _, value in fitting])
            fitting = [pair for pair, is_used in zip(fitting, used, strict=True) if is_used] or fitting
        # What the module itself returned contains what its children did.
        own = [value for path, value in fitting if not path]
        return list({id(value): value for value in own or [value for _, value in fitting]}.values())

    def _find(self) -> dict[str, nn.Module]:
        module, logits = self._module, self._logits
        if logits is None:
            self._candidates = {"": module, **dict(_callable_children(module))}
        else:
            self._candidates = {logits: find_module(module, logits)}
        if self._embedding is None:
            return self._candidates
        return {**self._candidates, self._embedding: find_module(module, self._embedding)}

    def _watch(self, path: str, watched: nn.Module) -> list["_Hook"]:
        # Plain functions, the same at each start: a compiled model sees nothing new, and is not compiled again.
        def enter(module: nn.Module, _args: Any) -> None:
            self._entered.append(module.forward)

        def keep(module: nn.Module, _args: Any, output: Any) -> None:
            # Under DDP Lightning runs a step by way of module.forward, replaced for that call: no output of the model.
            is_redirected = not path and (not self._entered or self._entered.pop() != module.forward)
            value = logits_in(output)
            # A copy made between start and stop has the hook, too, but is another model.
            if value is not None and module is watched and not is_redirected:
                self._calls.setdefault(path, []).append(value)

        entering = [] if path else [_Hook(watched.register_forward_pre_hook(enter), enter)]
        return [*entering, _Hook(watched.register_forward_hook(keep), keep)]

    def _not_one(self, found: int, shape: str, *, graph: bool) -> str:
        hint = "" if "classes" in shape else " If the classes are not the old model's: OldModel(model, label_map=...)."
        return (
            f"Expected exactly one output of shape {shape}{' with a graph' if graph else ''} to be the logits, "
            f"got {found}. Outputs seen: {self.seen()}; watched: {[path or 'self' for path in self._watched]}. Name "
            'the module whose output they are (logits="path.of.module"; calls of its .forward() go unseen), or, in '
            f"training_step, call self.graceful_loss(...).{hint}"
        )


def logits_in(output: Any) -> Tensor | None:
    """Find the scores in what a model returned: a tensor, ``output.logits``, ``output["logits"]`` or ``output[0]``.

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
        child = getattr(current, name, None)
        if not isinstance(child, nn.Module):
            above = ".".join(path.split(".")[:depth]) or type(module).__name__
            has = sorted(child_name for child_name, _ in current.named_children())
            raise ValueError(f"Expected a module at {path!r}, but {above} has no {name!r}; it has {has}.")
        current = child
    return current


def _callable_children(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path, kind = f"{prefix}{name}", type(child)
        if _judges(cast(Any, kind)):
            continue
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _callable_children(child, f"{path}.")
        else:
            yield path, child


@functools.lru_cache(maxsize=256)
def _judges(kind: type[nn.Module]) -> bool:
    # By name, for torchmetrics need not be loaded. Their results may well be 2-D, one row a sample.
    homes = {base.__module__ for base in kind.__mro__}
    return "torch.nn.modules.loss" in homes or any(home.split(".")[0] == "torchmetrics" for home in homes)
