"""A gallery made new without its pictures (Ramanujan et al., Forward Compatible Training, CVPR 2022).

Beside each old embedding some side information is stored, which the old model had no use for: features learnt without
labels, say. When the new model comes, ``h(old, side) -> new`` is fitted and the stored gallery turned. The new model is
trained as if there had been none before it, so it pays no tax.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from lightning_graceful.adapters.files import read_module, write_module
from lightning_graceful.adapters.layers import Restore, Standardize, as_widths, fit_scales, normed_perceptron
from lightning_graceful.adapters.objectives import squared_distance
from lightning_graceful.adapters.sample import check_matrix, check_pairs
from lightning_graceful.adapters.training import TrainingOptions, fitting, train


class GalleryTransformation(nn.Module):
    """Map old embeddings and their side information into the new space: a plain function of tensors.

    Each input goes through a branch of two layers of ``2 * d_new``, both branches together through two layers of
    ``hidden`` and a last one, with ReLU and BatchNorm in eval mode between, as published (there as 1x1 convolutions).
    Inputs are standardised by the sample's mean and deviation, and so are new embeddings that are not normalised; this
    is ours.

    Args:
        old_width: Dimensions of old embeddings.
        new_width: Dimensions of new ones.
        side_width: Dimensions of the side information; 0: there is none.
        hidden: Width of the two joint layers.
        normalize: Bring mapped rows to length 1.

    Raises:
        ValueError: If a width is not as said.

    Example:
        >>> old, side = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(0))
        >>> new = torch.stack([old[:, 0], side[:, 0]], 1)
        >>> h = GalleryTransformation.fit(old, new, side, hidden=64, epochs=30, learning_rate=1e-2, batch_size=50)
        >>> bool((h(old, side) * F.normalize(new)).sum(1).mean() > 0.95)
        True
    """

    def __init__(
        self, old_width: int, new_width: int, side_width: int = 0, *, hidden: int = 2048, normalize: bool = True
    ) -> None:
        super().__init__()
        inputs = [old_width, side_width] if side_width else [old_width]
        self.widths = as_widths([*inputs, hidden, new_width])
        self.old_width, self.new_width, self.side_width = old_width, new_width, side_width
        self.hidden, self.normalize = hidden, bool(normalize)
        branch = 2 * new_width
        self.branches = nn.ModuleList(
            nn.Sequential(Standardize(width), *normed_perceptron([width, branch, branch])) for width in inputs
        )
        joint = normed_perceptron([branch * len(inputs), hidden, hidden])
        restored = [] if normalize else [Restore(new_width)]
        self.joint = nn.Sequential(*joint, nn.Linear(hidden, new_width), *restored)
        self.eval().requires_grad_(False)

    def forward(self, old: Tensor, side: Tensor | None = None) -> Tensor:
        """Map old embeddings; in the precision of the weights (float32), also under autocast.

        Args:
            old: Floating, shape ``(N, d_old)``, on the device of this module; ``N`` may be 0.
            side: Side information of the same items, floating, shape ``(N, d_side)``; None where it was fitted without.

        Returns:
            Shape ``(N, d_new)``.

        Raises:
            ValueError: If an input is no floating matrix of its width, or side information is missing or too much.
        """
        inputs = self._inputs(old, side)
        dtype = next(self.joint.parameters()).dtype
        with torch.autocast(old.device.type, enabled=False):
            found = [branch(x.to(dtype)) for branch, x in zip(self.branches, inputs, strict=True)]
            mapped = self.joint(torch.cat(found, 1))
            return F.normalize(mapped, dim=1) if self.normalize else mapped

    @classmethod
    def fit(
        cls,
        old: Tensor,
        new: Tensor,
        side: Tensor | None = None,
        *,
        hidden: int = 2048,
        normalize: bool = True,
        seed: int = 0,
        **training: Unpack[TrainingOptions],
    ) -> Self:
        """Train the transformation by squared distance from the new embeddings.

        Args:
            old: Floating embeddings, shape ``(N, d_old)``.
            new: The same items as the new model embeds them, shape ``(N, d_new)``.
            side: Their side information, floating, shape ``(N, d_side)``, or None.
            hidden: Width of the two joint layers.
            normalize: Bring new and mapped rows to length 1, as a search by cosine compares them.
            seed: Of first weights and batches.
            **training: ``epochs, learning_rate, batch_size, weight_decay, progress`` of
                :func:`lightning_graceful.adapters.training.train`; where not given, the paper's: 80 epochs, 5e-4, 1024
                and 3.05e-5 (there with Adam and a cosine).

        Returns:
            The transformation, on the device of the embeddings.

        Raises:
            ValueError: If an argument is not as said.
            RuntimeError: If the training diverges.
        """
        check_pairs(old, new, names=("old", "new"))
        if side is not None:
            check_pairs(old, side, names=("old", "side"))
        options: TrainingOptions = {"epochs": 80, "learning_rate": 5e-4, "batch_size": 1024, "weight_decay": 3.05e-5}
        options.update(training)
        with fitting(seed, old.device):
            width = 0 if side is None else side.shape[1]
            module = cls(old.shape[1], new.shape[1], width, hidden=hidden, normalize=normalize)
            module.to(old.device)
            for branch, x in zip(module.branches, module._inputs(old, side), strict=True):
                fit_scales(branch, x, new)
            fit_scales(module.joint, old, new)

            def loss(rows: Tensor) -> Tensor:
                rows = rows.to(old.device)
                wanted = F.normalize(new[rows].float(), dim=1) if normalize else new[rows].float()
                return squared_distance(module(old[rows], None if side is None else side[rows]), wanted)

            train(module, loss, len(old), **options)
        return module

    def save(self, path: str | Path) -> None:
        """Write the transformation to one safetensors file; it is there whole or not at all.

        Args:
            path: The file; its folder is made.
        """
        names = ("old_width", "new_width", "side_width", "hidden", "normalize")
        write_module(path, self, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, path: str | Path) -> "GalleryTransformation":
        """Read a transformation that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The transformation, on the CPU.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If the file is damaged, of something else, or of a later version.
        """
        return read_module(path, GalleryTransformation)

    def _inputs(self, old: Tensor, side: Tensor | None) -> list[Tensor]:
        check_matrix("old", old, self.old_width)
        if (side is None) != (self.side_width == 0):
            has, got = ("with", "none") if side is None else ("without", "some")
            raise ValueError(f"Expected side information as in fitting, got {got} where it was fitted {has} it.")
        if side is None:
            return [old]
        check_matrix("side", side, self.side_width)
        return [old, side]
