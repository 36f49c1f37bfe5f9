"""Rows of a gallery: what a model says of each sample, in the order of the dataset, sound and in the right space."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_graceful.data.identity import track, untrack, why_untrackable
from lightning_graceful.functional.retrieval.rows import check_shapes
from lightning_graceful.gallery.ids import Ids, as_array

if TYPE_CHECKING:
    from lightning_graceful.models.old_model import OldModel


class Embedded(NamedTuple):
    """Samples as a model embeds them.

    Attributes:
        embeddings: Float32, on the CPU, shape ``(G, d)``.
        ids: Int64 or unicode, shape ``(G,)``.
        labels: Int64, shape ``(G,)``; None where a batch has no integer targets, one a sample.
    """

    embeddings: Tensor
    ids: NDArray[Any]
    labels: Tensor | None


class _Part(NamedTuple):
    position: Tensor | None
    embeddings: Tensor
    target: Tensor | None


def embed_gallery(model: "OldModel", loader: Iterable[Any], *, ids: Ids | None = None) -> Embedded:
    """Embed all samples of a loader, shuffled or not.

    Args:
        model: With an embedding, ``OldModel(net, embedding="path")``. Batches are moved to where it is.
        loader: Each sample once. Where it is a DataLoader over a dataset with a length, samples are known by their
            position in it, whatever the order; else by the order in which they come.
        ids: Of the samples, by that position or order; None: these numbers themselves.

    Returns:
        Embeddings, ids and labels, by rising position. ``4 * d + 16`` bytes a sample.

    Raises:
        ValueError: If the model has no embedding, a sample comes twice, there is none, or there are not as many ids.

    Example:
        >>> from torch import nn
        >>> from torch.utils.data import DataLoader
        >>> from lightning_graceful.models.old_model import OldModel
        >>> model = OldModel(nn.Sequential(nn.Identity(), nn.Linear(2, 3)), embedding="0")
        >>> embed_gallery(model, DataLoader(torch.eye(2), shuffle=True), ids=["a", "b"]).embeddings
        tensor([[1., 0.],
                [0., 1.]])
    """
    parts = list(_parts(model, loader))
    if not parts:
        raise ValueError("Expected a gallery of at least one sample, got an empty loader.")
    embeddings = torch.cat([part.embeddings for part in parts])
    known = [part.position for part in parts if part.position is not None]
    position = torch.cat(known) if len(known) == len(parts) else torch.arange(len(embeddings))
    position, order = position.sort()
    repeated = position[1:][position[1:] == position[:-1]]
    if len(repeated):
        raise ValueError(
            f"Expected each sample once, got {len(repeated)} repeats, such as of sample {int(repeated[0])}. Give a "
            "loader whose sampler draws each sample once."
        )
    targets = [part.target for part in parts if part.target is not None]
    labels = torch.cat(targets)[order] if len(targets) == len(parts) else None
    return Embedded(embeddings[order], _chosen(ids, position, loader), labels)


def in_space(name: str, embeddings: Tensor, width: int) -> Tensor:
    """Check that embeddings may be of a gallery's space.

    Args:
        name: What the error calls them.
        embeddings: Floating, shape ``(N, width)``.
        width: Dimensions of the gallery.

    Returns:
        The same.

    Raises:
        ValueError: If their kind or width is another.
    """
    check_shapes({name: embeddings})
    if embeddings.shape[1] != width:
        raise ValueError(
            f"Expected {name} embeddings of {width} dimensions, as the gallery has, got {embeddings.shape[1]}. Bring "
            f"them into its space: by the adapter that was fitted for it, or by fit_width(embeddings, {width}) for a "
            "model that lives in its leading dimensions."
        )
    return embeddings


def sound_rows(name: str, embeddings: Tensor, ids: NDArray[Any]) -> Tensor:
    """Copy embeddings as a gallery keeps them.

    Args:
        name: What errors call them.
        embeddings: Floating, shape ``(N, d)``.
        ids: Whose they are, shape ``(N,)``.

    Returns:
        Float32, on the CPU, contiguous.

    Raises:
        ValueError: If there is not one row an id, or one holds NaN or Inf; names items.
    """
    check_shapes({name: embeddings})
    if len(embeddings) != len(ids) or embeddings.shape[1] < 1:
        raise ValueError(
            f"Expected one embedding an id, of at least one dimension, got shape {tuple(embeddings.shape)} for "
            f"{len(ids)} ids."
        )
    rows = embeddings.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
    bad = (~rows.isfinite().all(1)).nonzero()[:, 0].numpy()
    if len(bad):
        raise ValueError(
            f"Expected finite {name} embeddings, got NaN or Inf (as float32) in those of {len(bad)} of {len(ids)} "
            f"items, such as {ids[bad[:3]].tolist()}. Look at that model's outputs."
        )
    return rows


def _parts(model: "OldModel", loader: Iterable[Any]) -> Iterator[_Part]:
    is_known = why_untrackable(loader) is None
    is_ours = is_known and "graceful_tracking" not in vars(loader)
    if is_ours:
        track(cast(Any, loader))
    try:
        iterator: Any = iter(loader)
        for batch in iterator:
            samples = iterator.take() if is_known else None
            delivered = _moved(batch, model.device)
            found = model.outputs(delivered).embedding
            if found is None:
                raise ValueError(
                    'Expected a model with an embedding, got one without: OldModel(net, embedding="path").'
                )
            target = model.batch(delivered).target
            yield _Part(None if samples is None else samples.position, found.cpu(), _labels(target))
    finally:
        if is_ours:
            untrack(cast(Any, loader))


def _labels(target: Tensor | None) -> Tensor | None:
    is_label = target is not None and target.ndim == 1 and not target.is_floating_point()
    return target.cpu().long() if is_label and target is not None else None


def _chosen(ids: Ids | None, position: Tensor, loader: Iterable[Any]) -> NDArray[Any]:
    numbers: NDArray[np.int64] = position.numpy()
    if ids is None:
        return numbers
    values = as_array(ids)
    expected = len(cast(Any, loader).dataset) if why_untrackable(loader) is None else len(numbers)
    if len(values) != expected:
        raise ValueError(f"Expected an id for each of {expected} samples, got {len(values)}.")
    return values[numbers]


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor) or hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(part, device) for part in batch))
    return type(batch)(_moved(part, device) for part in batch) if isinstance(batch, list | tuple) else batch
