"""The checkpoints of ``graceful evaluate``: built, asked for their embeddings, and brought into each other's spaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.adapters.alignment import SpaceAlignment
from lightning_graceful.experiment.search_ways import Rows
from lightning_graceful.functional.retrieval.rows import Dimensions, fit_width
from lightning_graceful.gallery.embedding import embed_gallery
from lightning_graceful.models.old_model import OldModel


@dataclass(frozen=True)
class Version:
    """One model of a chain.

    Attributes:
        name: Its name.
        model: With an embedding.
        adapter: Maps its embedding into its predecessor's space; None where it lives there.
        classes: The dataset's label of each column of its classifier; None for all of them in order.
        detail: What sets it apart.
    """

    name: str
    model: OldModel
    adapter: SpaceAlignment | None = None
    classes: tuple[int, ...] | None = None
    detail: str = ""


def build_versions(cfg: DictConfig) -> list[Version]:
    """Build the models of ``cfg.models``, oldest first.

    Args:
        cfg: ``conf/evaluate.yaml``, composed.

    Returns:
        The versions.

    Raises:
        ValueError: If there are fewer than two, or one is not as said there.
    """
    if len(cfg.models) < 2:
        raise ValueError(
            f"Expected two models or more, oldest first, got {list(map(str, cfg.models)) or 'none'}. "
            "Give models.v1.checkpoint=FILE models.v2.checkpoint=FILE."
        )
    versions = [build_version(cfg, str(name), node) for name, node in cfg.models.items()]
    if versions[0].adapter is not None:
        raise ValueError(f"Expected no adapter of {versions[0].name!r}, the oldest model: it has no predecessor.")
    return versions


def build_version(cfg: DictConfig, name: str, node: DictConfig) -> Version:
    """Build one model.

    Args:
        cfg: ``conf/evaluate.yaml``, composed; ``each`` has what the node leaves open.
        name: The model's name.
        node: An entry of ``cfg.models``, or ``cfg.paragon``.

    Returns:
        The version.

    Raises:
        ValueError: If a key is unknown, there is no path of an embedding, or the checkpoint holds another model.
        FileNotFoundError: If a file is missing.
    """
    own = {"_target_"} if isinstance(node, DictConfig) and "_target_" in node else {*map(str, cfg.each)}
    if not isinstance(node, DictConfig) or ("_target_" not in node and not {*map(str, node)} <= own):
        got = sorted({*map(str, node)} - own) if isinstance(node, DictConfig) else repr(node)
        raise ValueError(f"Expected {name!r} to have the keys {', '.join(sorted(own))}, got {got}.")
    if "_target_" in node:
        return Version(name, instantiate(node, _convert_="all"))
    said = _merged(cfg.each, node)
    if not said.embedding:
        raise ValueError(
            f"Expected the path of the submodule of {name!r} whose output is the embedding, got {said.embedding!r}. "
            "Give each.embedding=net.embedding."
        )
    options = {"embedding": said.embedding, "classifier": said.classifier, "weights_only": said.weights_only}
    module = said.module if isinstance(said.module, str) else instantiate(said.module, _convert_="all")
    model = OldModel.from_checkpoint(said.checkpoint, module, **options)
    adapter = None if said.adapter is None else SpaceAlignment.load(said.adapter)
    classes = None if said.classes is None else tuple(int(label) for label in said.classes)
    return Version(name, model, adapter, classes, "" if adapter is None else f"adapter {Path(said.adapter).name}")


def embed(version: Version, loaders: Sequence[DataLoader[Any]], device: torch.device, console: Console) -> Rows:
    """Embed queries and gallery, ``4 * d`` bytes each, with a bar.

    Args:
        version: Whose embedding.
        loaders: Of queries and gallery, neither shuffled.
        device: Where the model runs.
        console: Where progress is shown.

    Returns:
        Their rows, on the CPU.

    Raises:
        ValueError: If one holds NaN or Inf.
    """
    model, parts = version.model.to(device), []
    for loader, what in zip(loaders, Rows._fields, strict=True):
        shown = track(
            loader,
            f"{version.name}: {what}",
            len(loader),
            console=console,
            transient=True,
            disable=not is_seen(console),
        )
        rows = embed_gallery(model, shown).embeddings
        if not bool(rows.isfinite().all()):
            raise ValueError(f"Expected finite embeddings of {version.name!r}, got NaN or Inf. Look at that model.")
        parts.append(rows)
    model.to("cpu")
    return Rows(*parts)


def is_seen(console: Console) -> bool:
    """Tell whether somebody looks: in a file, a bar would be noise.

    Args:
        console: Where it would be.

    Returns:
        Whether it is a terminal.
    """
    return console.is_terminal and not console.quiet


class Chain:
    """Versions with what they embed; each is compared in the space of the older of two.

    Args:
        versions: Oldest first.
        rows: Of each.
        dimensions: How rows of different widths are compared; None: not at all.

    Raises:
        ValueError: If the newest cannot be brought into the space of its predecessor.
    """

    def __init__(self, versions: Sequence[Version], rows: Sequence[Rows], dimensions: Dimensions) -> None:
        self.versions = list(versions)
        self.rows = list(rows)
        self.dimensions = dimensions
        for version, of_old, of_new in zip(versions[1:], rows, rows[1:], strict=False):
            if version.adapter is not None:
                _check_adapter(version, of_new.query.shape[1], of_old.query.shape[1])
        newest = len(self.versions) - 1
        if not self.can_compare(newest, newest - 1):
            raise ValueError(
                f"Expected {versions[-1].name!r} in the space of {versions[-2].name!r}, got {self.width(newest)} and "
                f"{self.width(newest - 1)} dimensions. Give dimensions=shared if the first dimensions were trained to "
                f"agree, or models.{versions[-1].name}.adapter=FILE."
            )

    def width(self, number: int) -> int:
        """Return the dimensions of a version's own embedding."""
        return int(self.rows[number].query.shape[1])

    def can_compare(self, new: int, old: int) -> bool:
        """Tell whether a version's rows can be brought into an older one's space.

        Args:
            new: Number of the newer version.
            old: Number of the older one.

        Returns:
            Whether on the whole way widths agree, or there is an adapter, or ``dimensions`` says what to do.
        """
        return self.dimensions is not None or all(
            self.versions[step].adapter is not None or self.width(step) == self.width(step - 1)
            for step in range(old + 1, new + 1)
        )

    def is_same_space(self, new: int, old: int) -> bool:
        """Tell whether a version's rows need no change for an older one's space.

        Args:
            new: Number of the newer version.
            old: Number of the older one.

        Returns:
            Whether widths agree and there is no adapter on the way.
        """
        return all(version.adapter is None for version in self.versions[old + 1 : new + 1]) and (
            self.width(new) == self.width(old)
        )

    def in_space(self, number: int, space: int) -> Rows:
        """Bring a version's rows into the space of an older one: adapters one after the other.

        Args:
            number: Whose rows.
            space: The older version, or the same.

        Returns:
            The rows; where ``dimensions`` says how widths are compared, they may be of another width still.
        """
        return Rows(*(self._mapped(part, number, space) for part in self.rows[number]))

    @torch.no_grad()
    def _mapped(self, rows: Tensor, number: int, space: int) -> Tensor:
        for step in range(number, space, -1):
            adapter = self.versions[step].adapter
            if adapter is not None:
                # Of a successor that lives in the first dimensions of a wider space.
                rows = adapter(rows if rows.shape[1] == adapter.widths[0] else fit_width(rows, adapter.widths[0]))
            elif self.dimensions == "shared" and rows.shape[1] > self.width(step - 1):
                rows = fit_width(rows, self.width(step - 1))
        return rows


def _merged(each: DictConfig, node: DictConfig) -> Any:
    with open_dict(each):
        said = OmegaConf.merge(each, node)
    if OmegaConf.is_missing(said, "module"):
        raise ValueError("Expected a module, got ???. Give model=NAME, or each.module=my_project.LitNet.")
    return said


def _check_adapter(version: Version, new: int, old: int) -> None:
    adapter = version.adapter
    if adapter is not None and (adapter.widths[0] != new or adapter.widths[-1] != old):
        raise ValueError(
            f"Expected the adapter of {version.name!r} to map {new} dimensions to its predecessor's {old}, got one "
            f"from {adapter.widths[0]} to {adapter.widths[-1]}. Is it the adapter of another model?"
        )
