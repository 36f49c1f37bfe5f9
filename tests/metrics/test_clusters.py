import pickle

import pytest
import torch

from lightning_graceful.functional.clusters import assign_clusters, b_cubed
from lightning_graceful.metrics.clusters import ClusterBCubed
from tests.ddp import run_ddp

CENTRES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def items(n=60):
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (n,), generator=g)
    return CENTRES[labels] + torch.randn(n, 4, generator=g), labels


def expected(x, labels, **options):
    found = b_cubed(assign_clusters(x, CENTRES, **options), labels)
    return {name: value.item() for name, value in found._asdict().items()}


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_batches_say_what_the_function_says(distance):
    x, labels = items()
    metric = ClusterBCubed(CENTRES, 3, distance=distance)
    for part in (slice(0, 1), slice(1, 50), slice(50, 50), slice(50, 60)):
        metric.update(x[part], labels[part])
    found = {name: value.item() for name, value in pickle.loads(pickle.dumps(metric)).compute().items()}
    assert found == pytest.approx(expected(x, labels, distance=distance))
    assert metric.counts.dtype == torch.int64
    assert not metric.state_dict()


def shards(rank, world_size, cuts):
    found, (x, labels) = [], items()
    for cut in cuts:
        metric = ClusterBCubed(CENTRES, 3)
        part = slice(0, cut) if rank == 0 else slice(cut, 60)
        if len(x[part]):  # else this rank sees nothing
            metric.update(x[part], labels[part])
        found.append({name: value.item() for name, value in metric.compute().items()})
    return found


def test_ranks_say_what_one_process_says():
    for of_rank in run_ddp(shards, 2, [17, 60]):
        for found in of_rank:
            assert found == pytest.approx(expected(*items()))


def test_without_items_it_is_nan():
    with pytest.warns(UserWarning, match="compute"):
        assert all(value.isnan() for value in ClusterBCubed(CENTRES, 3).compute().values())


def test_bad_arguments_are_refused():
    metric, (x, labels) = ClusterBCubed(CENTRES, 3), items()
    with pytest.raises(ValueError, match=r"labels in \[0, 3\), got 1 to 3"):
        metric.update(x, labels + 1)
    with pytest.raises(ValueError, match="integer labels"):
        metric.update(x, labels[:3])
    with pytest.raises(ValueError, match="at least one class"):
        ClusterBCubed(CENTRES, 0)
