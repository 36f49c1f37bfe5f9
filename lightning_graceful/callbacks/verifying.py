"""Ask the old model again about a share of the stored samples, and compare: does the cache still tell the truth?"""

import math
import secrets
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_graceful.callbacks.serving import kept_hash
from lightning_graceful.callbacks.stores import OldStores, Opened
from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.fetch import fetch_size, few_batches
from lightning_graceful.data.hashing import input_hash
from lightning_graceful.data.rows import CacheError, name_rows

# Of 1 + the largest number of a row: what rounding, another batch size and TF32 may change, and no more.
TOLERANCE = {"float16": 1e-2, "bfloat16": 3e-2, "float32": 1e-2}


def verify_share(
    stores: OldStores, loader: DataLoader[Any], wanted: list[tuple[Opened, Tensor | None]], share: float
) -> int:
    """Compare what is stored of randomly chosen samples with what the old model says of them now.

    Args:
        stores: The stores of the old model.
        loader: The loader whose samples are looked at.
        wanted: Each store, and the positions that the loader can ask for; None for all.
        share: Share of these samples, in ``[0, 1]``; at least one sample where it is positive.

    Returns:
        Number of samples that were compared.

    Raises:
        CacheError: If one differs; says whether the sample has changed, or what the old model makes of it.
    """
    compared = 0
    for opened, index in wanted:
        rows = _choose(opened, index, share)
        for chunk in torch.split(rows, fetch_size(loader)) if len(rows) else ():
            _compare(stores, loader, opened, chunk)
            compared += len(chunk)
    return compared


def _choose(opened: Opened, index: Tensor | None, share: float) -> Tensor:
    # Other samples each time, and without touching the random numbers of the training.
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    samples = opened.store.num_rows // opened.views if index is None else len(index)
    chosen = torch.randint(samples, (math.ceil(share * samples),), generator=generator)
    position = chosen if index is None else index[chosen]
    view = torch.randint(opened.views, (len(chosen),), generator=generator)
    rows: Tensor = torch.unique(position * opened.views + view)
    return rows[opened.store.filled(rows)]


def _compare(stores: OldStores, loader: DataLoader[Any], opened: Opened, rows: Tensor) -> None:
    assert stores.old is not None
    (batch,) = few_batches(loader, opened.dataset, [rows], views=opened.views)
    raw, stored = stores.read_batch(batch), opened.store.read(rows)
    opened.store.compare(rows, stored, raw.target)
    delivered = stores.deliver(batch)
    hashes = input_hash(stores.read_batch(delivered).inputs) if opened.hashed else None
    opened.store.compare(rows, stored, None, kept_hash(opened, hashes, torch.arange(len(rows))))
    live = opened.narrow(stores.old.to(stores.device).outputs(delivered))
    for name, difference in _differences(opened, stored.outputs(stores.device), live).items():
        wrong = (difference > TOLERANCE[opened.store.layout.dtype]).cpu()
        if wrong.any():
            raise CacheError(
                f"Expected the old model to say what is stored of it in {opened.store.path}, got other {name} for "
                f"{name_rows(rows[wrong].numpy())} of {len(rows)} that were looked at (largest difference "
                f"{float(difference.max()):.2g} of the largest number), from the same inputs. The old model computes "
                "something else than when the store was filled (another version of its code or of a library, or a "
                "random layer): delete the store and fill it again."
            )


def _differences(opened: Opened, stored: Outputs, live: Outputs) -> dict[str, Tensor]:
    top_k, found = opened.store.layout.top_k, {}
    for name in ("logits", "embedding"):
        one, other = getattr(stored, name), getattr(live, name)
        if one is None or other is None:
            continue
        if name == "logits" and top_k is not None:  # the k classes that are kept, by their log-probability
            classes = one.topk(top_k).indices
            one, other = one.gather(1, classes), other.log_softmax(1).gather(1, classes)
        largest = other.masked_fill(torch.isinf(other), 0).abs().amax(1)
        same = one == other  # -inf, too: a class that the old model never knew
        difference = torch.where(same, torch.zeros_like(one), (one - other).abs())
        found[name] = difference.nan_to_num(nan=torch.inf).amax(1) / (1 + largest)
    return found
