"""Maps from the space of one embedding model into that of another, fitted from items that both have embedded.

From new to old, they let new queries search a gallery that nobody embeds again (Vejendla, Drift-Adapter, EMNLP 2025);
from old to new, they turn the stored gallery and leave the new model's queries alone.
"""

from pathlib import Path
from typing import Literal, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from lightning_graceful.adapters import closed_forms
from lightning_graceful.adapters.files import read_module, write_module
from lightning_graceful.adapters.layers import Restore, Standardize, as_widths, fit_scales, perceptron
from lightning_graceful.adapters.objectives import (
    GalleryObjective,
    Objective,
    SearchObjective,
    int_labels,
    squared_distance,
    with_unlabelled,
)
from lightning_graceful.adapters.sample import Pairs, check_matrix, check_pairs, paired_moments
from lightning_graceful.adapters.training import TrainingOptions, fitting, train

Method = Literal["procrustes", "ridge", "low_rank", "mlp"]


class _How(TypedDict):
    hidden: int
    normalize: bool
    seed: int
    training: TrainingOptions


class SpaceAlignment(nn.Module):
    """Map embeddings of one model into the space of another: a plain function of tensors, without Lightning.

    Fit one with :meth:`procrustes`, :meth:`ridge`, :meth:`low_rank`, :meth:`mlp`, :meth:`distilled` or
    :meth:`searching`. The direction is what is called source and target: ``source=new, target=old`` maps new queries
    into the old gallery's space, ``source=old, target=new`` maps the old gallery into the new space.

    Spaces are compared by cosine unless ``normalize=False``: target rows are brought to length 1 before fitting, and
    mapped rows are. With ``normalize=False`` the lengths of target rows are learnt, too, as Euclidean distances need.

    Args:
        method: How it was fitted.
        widths: Dimensions of the source space, of what lies between, and of the target space.
        normalize: Bring mapped rows to length 1.

    Raises:
        ValueError: If the method is another, or widths do not fit it.

    Example:
        >>> new = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> old = new[:, [2, 0, 1]]
        >>> to_old = SpaceAlignment.procrustes(source=new, target=old)
        >>> torch.allclose(to_old(new), F.normalize(old, dim=1), atol=1e-6)
        True
    """

    network: nn.Sequential

    def __init__(self, method: Method, widths: tuple[int, ...], *, normalize: bool = True) -> None:
        super().__init__()
        if method not in get_args(Method):
            raise ValueError(f"Expected method to be one of {', '.join(get_args(Method))}, got {method!r}.")
        self.method, self.widths, self.normalize = method, as_widths(widths), bool(normalize)
        if len(widths) != {"low_rank": 3, "mlp": 3}.get(method, 2):
            raise ValueError(f"Expected the widths of method {method!r}, got {list(widths)}.")
        self.network = nn.Sequential(*_layers(method, self.widths, self.normalize))
        self.eval().requires_grad_(False)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map embeddings; in the precision of the weights (float32), also under autocast.

        Args:
            embedding: Floating, shape ``(N, d_from)``, on the device of this module; ``N`` may be 0.

        Returns:
            Shape ``(N, d_to)``. NaN in a row stays in that row.

        Raises:
            ValueError: If it is no floating matrix of the source's width.
        """
        check_matrix("source", embedding, self.widths[0])
        with torch.autocast(embedding.device.type, enabled=False):
            mapped = self.network(embedding.to(next(self.network.parameters()).dtype))
            return F.normalize(mapped, dim=1) if self.normalize else mapped

    @classmethod
    def procrustes(cls, source: Tensor | Pairs, target: Tensor | None = None, *, normalize: bool = True) -> Self:
        """Fit a rotation (with reflection): it keeps all angles, so searches among mapped rows stay as they were.

        Into a wider space it has orthonormal columns and keeps angles likewise; into a narrower one it has orthonormal
        rows, as if the target had been filled up with zeros. A cosine is an angle at the origin, so the origin stays
        where it is; with ``normalize=False``, for Euclidean distances, the mean of the source is moved to that of the
        target.

        Args:
            source: Floating embeddings, shape ``(N, d_from)``; or batches ``(source, target)``, in one pass over which
                memory does not grow. At least as many pairs as dimensions, else the rest of the rotation is arbitrary.
            target: The same items in the other space, shape ``(N, d_to)``; None with batches.
            normalize: Bring source, target and mapped rows to length 1.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If there are fewer than two pairs, or embeddings are no finite floating matrices of as many
                rows.
        """
        moments = paired_moments(source, target, unit_source=normalize, unit_target=normalize)
        weight, bias = closed_forms.procrustes(moments, centred=not normalize)
        return cls._linear("procrustes", [weight], bias, normalize)

    @classmethod
    def ridge(
        cls,
        source: Tensor | Pairs,
        target: Tensor | None = None,
        *,
        penalty: float | None = None,
        normalize: bool = True,
    ) -> Self:
        """Fit an affine map by least squares.

        Args:
            source: As in :meth:`procrustes`.
            target: As in :meth:`procrustes`.
            penalty: Weight of the squared weights beside the mean squared distance of a pair, so that it does not
                depend on how many pairs there are (scikit-learn's ``alpha`` is this times N); None: the one of the
                least error by generalised cross-validation.
            normalize: Bring target and mapped rows to length 1.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If the penalty is negative, or the pairs are not as said.
        """
        moments = paired_moments(source, target, unit_target=normalize)
        weight, bias = closed_forms.ridge(moments, penalty)
        return cls._linear("ridge", [weight], bias, normalize)

    @classmethod
    def low_rank(
        cls,
        source: Tensor | Pairs,
        target: Tensor | None = None,
        *,
        rank: int,
        penalty: float | None = None,
        normalize: bool = True,
    ) -> Self:
        """Fit the best affine map through few dimensions: less to store and to multiply, and less noise.

        Args:
            source: As in :meth:`procrustes`.
            target: As in :meth:`procrustes`.
            rank: How many, from 1 to the smaller of both widths.
            penalty: As in :meth:`ridge`.
            normalize: Bring target and mapped rows to length 1.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If rank, penalty or pairs are not as said.
        """
        moments = paired_moments(source, target, unit_target=normalize)
        into, out, bias = closed_forms.low_rank(moments, rank, penalty)
        return cls._linear("low_rank", [into, out], bias, normalize)

    @classmethod
    def mlp(
        cls,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None = None,
        *,
        hidden: int = 256,
        objective: Objective = squared_distance,
        normalize: bool = True,
        seed: int = 0,
        **training: Unpack[TrainingOptions],
    ) -> Self:
        """Train two layers with a ReLU between; what goes in is standardised by the mean and deviation of the sample.

        Args:
            source: Floating embeddings, shape ``(N, d_from)``.
            target: The same items in the other space, shape ``(N, d_to)``.
            labels: Integer, shape ``(N,)``; None: the objective gets None.
            hidden: Width of the layer between.
            objective: Gives the loss of a batch, a scalar, of mapped rows, target rows (both of length 1 with
                ``normalize``) and labels.
            normalize: Bring target and mapped rows to length 1.
            seed: Of first weights, batches and whatever the objective draws.
            **training: ``epochs, learning_rate, batch_size, weight_decay, progress`` of
                :func:`lightning_graceful.adapters.training.train`.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If an argument is not as said.
            RuntimeError: If the training diverges.
        """
        check_pairs(source, target)
        how: _How = {"hidden": hidden, "normalize": normalize, "seed": seed, "training": training}
        return cls._trained(source, target, int_labels(labels, source), objective, **how)

    @classmethod
    def distilled(
        cls,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None = None,
        *,
        temperature: float = 0.1,
        tilt: float = 1.0,
        gallery_size: int = 1024,
        unlabelled: tuple[Tensor, Tensor] | None = None,
        hidden: int = 256,
        seed: int = 0,
        **training: Unpack[TrainingOptions],
    ) -> Self:
        """Train the layers of :meth:`mlp` to search as the target space does, and a little better.

        Each step draws a gallery of the sample's target rows. The mapped row is to give it the scores that the target
        row gives, in which those of the same label are raised: what ranks a gallery counts, not what is nearest.

        Args:
            source: Floating embeddings, shape ``(N, d_from)``.
            target: The same items in the other space, shape ``(N, d_to)``.
            labels: Integer, below 0 for none, shape ``(N,)``; None: nothing is raised.
            temperature: Cosines are divided by it.
            tilt: How much is added to the scores of items of the same label, after that division.
            gallery_size: Rows of the gallery of a step, drawn with replacement.
            unlabelled: Further source and target rows, as queries whose scores are not raised.
            hidden: Width of the layer between.
            seed: Of first weights, batches and galleries.
            **training: As in :meth:`mlp`.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If an argument is not as said.
            RuntimeError: If the training diverges.
        """
        check_pairs(source, target)
        classes = int_labels(labels, source)
        objective = GalleryObjective(target, classes, temperature=temperature, tilt=tilt, size=gallery_size)
        source, target, classes = with_unlabelled(source, target, classes, unlabelled)
        how: _How = {"hidden": hidden, "normalize": True, "seed": seed, "training": training}
        return cls._trained(source, target, classes, objective, **how)

    @classmethod
    def searching(
        cls,
        source: Tensor,
        target: Tensor,
        labels: Tensor,
        *,
        temperature: float = 0.2,
        unlabelled: tuple[Tensor, Tensor] | None = None,
        unlabelled_temperature: float = 0.1,
        unlabelled_weight: float = 0.5,
        gallery_size: int = 2048,
        hidden: int = 512,
        seed: int = 0,
        **training: Unpack[TrainingOptions],
    ) -> Self:
        """Train the layers of :meth:`mlp` to find the target rows of each row's own label.

        Each step draws a gallery of the sample's target rows, which the mapped rows search
        (:func:`lightning_graceful.functional.gallery_search_loss`). Pairs without a label keep the map honest where no
        known class lies: they are to rank the gallery as the target row does. Images of other kinds serve best; where
        there are none, :class:`~lightning_graceful.UnlabelledViews` makes some.

        Args:
            source: Floating embeddings, or any features of the model, shape ``(N, d_from)``.
            target: The same items in the other space, shape ``(N, d_to)``.
            labels: Integer, below 0 for none, shape ``(N,)``.
            temperature: Cosines are divided by it.
            unlabelled: Further source and target rows.
            unlabelled_temperature: The same for rows without a label.
            unlabelled_weight: Of the part of the rows without a label; that of the others is 1.
            gallery_size: Rows of the gallery of a step, drawn with replacement.
            hidden: Width of the layer between.
            seed: Of first weights, batches and galleries.
            **training: As in :meth:`mlp`.

        Returns:
            The map, on the device of the embeddings.

        Raises:
            ValueError: If an argument is not as said.
            RuntimeError: If the training diverges.
        """
        check_pairs(source, target)
        source, target, classes = with_unlabelled(source, target, int_labels(labels, source), unlabelled)
        if classes is None:
            raise ValueError("Expected labels to find rows of, got None. Without labels: SpaceAlignment.distilled.")
        objective = SearchObjective(
            target,
            classes,
            temperature=temperature,
            unlabelled_temperature=unlabelled_temperature,
            unlabelled_weight=unlabelled_weight,
            size=gallery_size,
        )
        how: _How = {"hidden": hidden, "normalize": True, "seed": seed, "training": training}
        return cls._trained(source, target, classes, objective, **how)

    def save(self, path: str | Path) -> None:
        """Write the map to one safetensors file; it is there whole or not at all.

        Args:
            path: The file; its folder is made.
        """
        write_module(path, self, {"method": self.method, "widths": self.widths, "normalize": self.normalize})

    @classmethod
    def load(cls, path: str | Path) -> "SpaceAlignment":
        """Read a map that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The map, on the CPU.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file is damaged, of something else, or of a later version.
        """
        return read_module(path, SpaceAlignment)

    @classmethod
    def _linear(cls, method: Method, weights: list[Tensor], bias: Tensor, normalize: bool) -> Self:
        widths = (weights[0].shape[1], *(len(weight) for weight in weights))
        # First weights are overwritten, and must not move the random numbers of the caller.
        with fitting(0, bias.device):
            alignment = cls(method, widths, normalize=normalize).to(bias.device)
        layers = [layer for layer in alignment.network if isinstance(layer, nn.Linear)]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)
        layers[-1].bias.copy_(bias)
        return alignment

    @classmethod
    def _trained(
        cls,
        source: Tensor,
        target: Tensor,
        labels: Tensor | None,
        objective: Objective,
        **how: Unpack[_How],
    ) -> Self:
        normalize, seed = how["normalize"], how["seed"]
        with fitting(seed, source.device):
            alignment = cls("mlp", (source.shape[1], how["hidden"], target.shape[1]), normalize=normalize)
            fit_scales(alignment.to(source.device), source, target)

            def loss(rows: Tensor) -> Tensor:
                rows = rows.to(source.device)
                wanted = target[rows].float()
                wanted = F.normalize(wanted, dim=1) if normalize else wanted
                return objective(alignment(source[rows]), wanted, None if labels is None else labels[rows])

            train(alignment.network, loss, len(source), **how["training"])
        return alignment


def _layers(method: Method, widths: tuple[int, ...], normalize: bool) -> list[nn.Module]:
    if method == "mlp":
        restored = [] if normalize else [Restore(widths[-1])]
        return [Standardize(widths[0]), *perceptron(widths), *restored]
    if method == "low_rank":
        return [nn.Linear(widths[0], widths[1], bias=False), nn.Linear(widths[1], widths[2])]
    return [nn.Linear(widths[0], widths[1])]
