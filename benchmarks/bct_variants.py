"""Prototype and adversarial variants of backward-compatible training, beside ``gallery_search``, on Fashion-MNIST.

    python -m benchmarks.bct_variants                        # the grid of weights: validation images, seed 0
    python -m benchmarks.bct_variants --stage test --seeds 0 1 2   # what was chosen there, on the test images

From the root of the checkout. Both run ``graceful bench experiment=bct_fashion_mnist`` with the ways below in place of
its own; of the test, results.json goes to benchmarks/results/bct_variants.json, with what each way has over
``gallery_search`` in the search of the old gallery: over the same resampled queries. The variants:

- prototype: cross-entropy of the cosines to the class means of the old embeddings.
- refined_prototype: the same, of means over a graph of old rows (UniBCT, Zhang et al., IJCAI 2022, in our own form).
- searched_prototype: squared distance from the point of each class that finds its old rows best.
- adversarial: a discriminator with reversed gradient tells old rows from new ones, and a boundary around the old class
  centre holds the new ones (AdvBCT, Pan et al., CVPR 2023, in our own form).

The loss of the task is always there, at weight 1. All classes are trained on and searched (the closed protocol): labels
are the dataset's, and nothing is said of classes that neither model has seen.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import Subset

from lightning_graceful.experiment.datamodules import UpdateDataModule
from lightning_graceful.experiment.search_ways import Searched, TrainedWay, Trial, embed, labels_of
from lightning_graceful.functional.embedding_losses import class_means, gallery_search_loss
from lightning_graceful.functional.embedding_losses.rows import cosines, directions
from lightning_graceful.functional.retrieval import retrieval_per_query
from lightning_graceful.functional.statistics.gains import mean_difference_interval
from lightning_graceful.losses.classifiers import CosineClassifier
from lightning_graceful.losses.influence import InfluenceLoss
from lightning_graceful.models.old_model import OldModel

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bct_variants.json"
SHIPPED = ROOT / "conf" / "ways" / "bct.yaml"
PAIRED = ("map", "recall_at_1")
SAMPLE = 5000
REFERENCE = "gallery_search"
PAIRED_WAY = "benchmarks.bct_variants.PairedWay"


class PairedWay(TrainedWay):
    """A way that also leaves what each query finds in the old gallery, for a comparison of two ways."""

    def search(self, name: str, trial: Trial) -> Searched:
        """Train, embed, and write ``<name>.npy``: mAP and R@1 by query, float64, shape ``(2, Q)``."""
        found = super().search(name, trial)
        labels = [labels_of(half) for half in trial.halves]
        values = retrieval_per_query(found.shared.query, trial.old_rows.gallery, *labels, k=[1], dimensions="shared")
        trial.directory.mkdir(parents=True, exist_ok=True)
        np.save(trial.directory / f"{name}.npy", np.stack([values[measure].numpy() for measure in PAIRED]))
        return found


class CentreLoss(nn.Module):
    """Squared distance of the direction of a new embedding from a point of its class, or from a ball around it.

    Args:
        centres: One row a class, shape ``(C, d_old)``.
        radius: Of each class's ball, shape ``(C,)``; None: the point alone.
    """

    centres: Tensor
    radius: Tensor | None

    def __init__(self, centres: Tensor, radius: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("radius", radius, persistent=False)

    def forward(self, new_embedding: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch, a scalar; shapes ``(N, d)``, ``(N,)``."""
        away = directions(new_embedding, self.centres.shape[1]) - self.centres[target]
        if self.radius is None:
            return away.square().sum(1).mean()
        # The square has no gradient at the boundary, so that rows come to rest there.
        return F.relu(torch.linalg.vector_norm(away, dim=1) - self.radius[target]).square().mean()


class AdversarialLoss(nn.Module):
    """Cross-entropy of a discriminator between old and new directions, whose gradient is reversed for the new ones.

    Args:
        width: Of the old embedding.
        hidden: Of the discriminator.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        # A random start of its own: the batches are those of the other ways.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.discriminator = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.width = width

    def forward(self, new_embedding: Tensor, old_embedding: Tensor) -> Tensor:
        """Return the mean over both, a scalar; shapes ``(N, d)``, ``(N, d_old)``."""
        new = directions(new_embedding, self.width)
        # The same value, and minus the gradient.
        rows = torch.cat([2 * new.detach() - new, directions(old_embedding)])
        is_old = torch.cat([torch.zeros(len(new)), torch.ones(len(old_embedding))]).to(rows)
        return F.binary_cross_entropy_with_logits(self.discriminator(rows)[:, 0].float(), is_old)


def prototype(
    old: OldModel, module: pl.LightningModule, *, data: UpdateDataModule, scale: float = 16.0
) -> InfluenceLoss:
    """Make the influence loss of the class means of old directions."""
    rows, labels = _old_rows(old, data)
    return InfluenceLoss(CosineClassifier(class_means(rows, labels, range(int(labels.max()) + 1)), scale))


def refined_prototype(
    old: OldModel, module: pl.LightningModule, *, data: UpdateDataModule, scale: float = 16.0, neighbours: int = 10
) -> InfluenceLoss:
    """Make the influence loss of class means on a graph: rows smoothed, and counted less among other classes."""
    rows, labels = _old_rows(old, data)
    smoothed, trust = refined(rows, labels, neighbours)
    is_of = F.one_hot(labels).T * trust
    return InfluenceLoss(CosineClassifier(is_of @ smoothed, scale))


def searched_prototype(
    old: OldModel,
    module: pl.LightningModule,
    *,
    data: UpdateDataModule,
    objective: Literal["classify", "search"] = "classify",
    temperature: float = 0.2,
) -> CentreLoss:
    """Make the distance from the points that find, or tell, the old rows of their class best."""
    return CentreLoss(searched(*_old_rows(old, data), objective=objective, temperature=temperature))


def adversarial(old: OldModel, module: pl.LightningModule, *, width: int = 64) -> AdversarialLoss:
    """Make the discriminator."""
    return AdversarialLoss(width)


def boundary(old: OldModel, module: pl.LightningModule, *, data: UpdateDataModule, quantile: float = 0.5) -> CentreLoss:
    """Make the boundary around each class's mean: so far away as a share of its old rows."""
    rows, labels = _old_rows(old, data)
    centres = directions(class_means(rows, labels, range(int(labels.max()) + 1)))
    away = torch.linalg.vector_norm(rows - centres[labels], dim=1)
    return CentreLoss(centres, torch.stack([away[labels == c].quantile(quantile) for c in range(len(centres))]))


def refined(rows: Tensor, labels: Tensor, neighbours: int, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Smooth each row by its nearest neighbours, whatever their class, weighted by affinity.

    Returns:
        Smoothed directions, and for each row the share of affinity that its neighbours of its own class have.
    """
    near = cosines(rows, rows).fill_diagonal_(-1).topk(neighbours)
    affinity = ((near.values - 1) / temperature).exp()
    smoothed = directions(rows + (affinity[..., None] * rows[near.indices]).sum(1))
    same = (labels[near.indices] == labels[:, None]).float()
    return smoothed, (affinity * same).sum(1) / affinity.sum(1)


def searched(
    rows: Tensor, labels: Tensor, *, objective: Literal["classify", "search"], temperature: float, steps: int = 300
) -> Tensor:
    """Find one direction a class: of a cosine classifier of the old rows, or of a query that searches them all."""
    classes = torch.arange(int(labels.max()) + 1)
    with torch.inference_mode(False), torch.enable_grad():
        points = class_means(rows, labels, classes.tolist()).requires_grad_()
        optimizer = torch.optim.Adam([points], lr=0.05)
        for _ in range(steps):
            loss = (
                F.cross_entropy(cosines(rows, directions(points)) / temperature, labels)
                if objective == "classify"
                else gallery_search_loss(points, classes, rows, labels, temperature=temperature)
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return directions(points.detach())


def _old_rows(old: OldModel, data: UpdateDataModule) -> tuple[Tensor, Tensor]:
    # Directions of a seeded sample of the training images, and their labels.
    samples = data.train_eval
    chosen = np.random.default_rng(0).permutation(np.asarray(samples.indices))[:SAMPLE]
    sample = Subset(samples.dataset, chosen.tolist())
    return directions(embed(old, sample)), labels_of(sample)


# -- the command ------------------------------------------------------------------------------------------------------


def term(name: str, *, data: bool = True, **options: Any) -> dict[str, Any]:
    """Say a term as a config."""
    place = {"_target_": f"benchmarks.bct_variants.{name}", "_partial_": True}
    return {**place, **({"data": "${data}"} if data else {}), **options}


def trained(weights: Mapping[str, float], **terms: Mapping[str, Any]) -> dict[str, Any]:
    """Say a way as a config."""
    return {"_target_": PAIRED_WAY, "terms": terms, "weights": dict(weights)}


def adversarial_way(adversarial: float, boundary: float, quantile: float) -> dict[str, Any]:
    """Say AdvBCT as a config."""
    return trained(
        {"adversarial": adversarial, "boundary": boundary},
        adversarial=term("adversarial", data=False),
        boundary=term("boundary", quantile=quantile),
    )


GRID = {
    "gallery_search_3": trained({"search": 3.0}, search={"_target_": "lightning_graceful.GallerySearchLoss"}),
    "prototype_third": trained({"prototype": 0.3}, prototype=term("prototype")),
    "prototype_1": trained({"prototype": 1.0}, prototype=term("prototype")),
    "prototype_3": trained({"prototype": 3.0}, prototype=term("prototype")),
    "refined_1": trained({"refined": 1.0}, refined=term("refined_prototype")),
    "refined_3": trained({"refined": 3.0}, refined=term("refined_prototype")),
    "searched_3": trained({"searched": 3.0}, searched=term("searched_prototype")),
    "searched_10": trained({"searched": 10.0}, searched=term("searched_prototype")),
    "searched_query_3": trained({"searched": 3.0}, searched=term("searched_prototype", objective="search")),
    "searched_sharp_10": trained({"searched": 10.0}, searched=term("searched_prototype", temperature=0.0625)),
    "adversarial_inside_1": adversarial_way(0.1, 1.0, 0.5),
    "adversarial_inside_10": adversarial_way(0.1, 10.0, 0.5),
    "adversarial_close_10": adversarial_way(0.1, 10.0, 0.1),
}
# The largest update gain in mAP on the validation images under seed 0, each.
CHOSEN = ("gallery_search_3", "prototype_third", "refined_1", "searched_10", "adversarial_inside_1")


def overrides(config: Mapping[str, Any], key: str) -> Iterator[str]:
    """Say a config on the command line of the bench."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from overrides(value, f"{key}.{name}")
        else:
            yield f"+{key}.{name}={value}"


def against_reference(
    folder: Path, names: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Compare each way's search of the old gallery with the reference's, query by query, means over seeds."""
    runs = [folder / "closed" / f"seed{seed}" for seed in seeds]
    found = {name: np.stack([np.load(run / f"{name}.npy") for run in runs]) for name in (REFERENCE, *names)}
    return {
        name: {
            measure: mean_difference_interval(values[:, row], found[REFERENCE][:, row])._asdict()
            for row, measure in enumerate(PAIRED)
        }
        for name, values in found.items()
        if name != REFERENCE
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["val", "test"], default="val")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    said = f"of {', '.join(GRID)}; default: all on val, {', '.join(CHOSEN)} on test"
    parser.add_argument("--ways", nargs="+", choices=list(GRID), metavar="WAY", help=said)
    parser.add_argument("--folder", type=Path, default=Path("runs/bct_variants"), help="where the runs go")
    args = parser.parse_args()
    chosen = args.ways or (CHOSEN if args.stage == "test" else list(GRID))
    shipped = [str(name) for name in OmegaConf.to_container(OmegaConf.load(SHIPPED)) or ()]
    place = args.folder / args.stage
    subprocess.run(
        [
            sys.executable, "-m", "lightning_graceful", "bench", "experiment=bct_fashion_mnist",
            f"stage={args.stage}", f"seeds={args.seeds}", f"root={args.folder}", f"hydra.run.dir={place}",
            "logger=none", "trainer.enable_progress_bar=false", "callbacks.progress=null",
            *(f"~ways.{way}" for way in shipped if way != REFERENCE),
            f"ways.{REFERENCE}._target_={PAIRED_WAY}",
            *(part for name in chosen for part in overrides(GRID[name], f"ways.{name}")),
        ],
        check=True,
    )  # fmt: skip
    report = json.loads((place / "results.json").read_text())
    report["against_gallery_search"] = against_reference(place, chosen, args.seeds)
    print(json.dumps(report["against_gallery_search"], indent=1))
    if args.stage == "test":
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
