import math

import numpy as np
import pytest
import torch

from lightning_graceful.functional.clusters import assign_clusters, b_cubed, b_cubed_from_counts, mixed_clusters


def by_definition(clusters, labels):
    """Bagga and Baldwin: a mean over the items, each compared with every item."""
    n = len(labels)
    precision, recall = [], []
    for i in range(n):
        both = sum(clusters[i] == clusters[j] and labels[i] == labels[j] for j in range(n))
        precision.append(both / sum(clusters[i] == clusters[j] for j in range(n)))
        recall.append(both / sum(labels[i] == labels[j] for j in range(n)))
    p, r = math.fsum(precision) / n, math.fsum(recall) / n
    return p, r, 2 * p * r / (p + r)


def random_items(n, kinds, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(-3, k - 3, (n,), generator=g) * 10**9 for k in kinds]


@pytest.mark.parametrize(("n", "kinds"), [(1, (1, 1)), (40, (5, 3)), (40, (2, 30)), (60, (60, 4))])
def test_b_cubed_is_as_defined(n, kinds):
    clusters, labels = random_items(n, kinds)
    found = b_cubed(clusters, labels)
    expected = by_definition(clusters.tolist(), labels.tolist())
    assert [x.item() for x in found] == pytest.approx(expected, rel=1e-12)
    assert all(x.dtype == torch.float64 for x in found)
    precision, recall, _ = b_cubed(labels, clusters)
    assert (precision.item(), recall.item()) == pytest.approx((expected[1], expected[0]), rel=1e-12)


def test_counts_say_the_same_as_items():
    clusters, labels = (torch.randint(k, (200,), generator=torch.Generator().manual_seed(k)) for k in (6, 4))
    counts = torch.zeros(8, 4, dtype=torch.int64)
    for c, y in zip(clusters, labels, strict=True):
        counts[c, y] += 1
    assert [x.item() for x in b_cubed_from_counts(counts)] == pytest.approx([
        x.item() for x in b_cubed(clusters, labels)
    ])


def test_perfect_clusters_one_cluster_and_none():
    labels = torch.tensor([0, 0, 1, 1])
    assert [x.item() for x in b_cubed(labels + 7, labels)] == [1, 1, 1]
    assert [x.item() for x in b_cubed(labels * 0, labels)] == pytest.approx([0.5, 1, 2 / 3])
    assert [x.item() for x in b_cubed(torch.arange(4), labels)] == pytest.approx([1, 0.5, 2 / 3])
    assert all(x.isnan() for x in b_cubed(labels[:0], labels[:0]))


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("memory", [2**16, 2**28])
def test_rows_go_to_the_nearest_centre(distance, memory):
    g = torch.Generator().manual_seed(0)
    x, centres = torch.randn(700, 5, generator=g), torch.randn(1500, 5, generator=g)
    found = assign_clusters(x, centres, distance=distance, memory=memory)
    rows, middles = x.double().numpy(), centres.double().numpy()
    if distance == "cosine":
        unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (rows, middles)]
        expected = (unit[0] @ unit[1].T).argmax(1)
    else:
        expected = ((rows[:, None] - middles) ** 2).sum(2).argmin(1)
    assert found.tolist() == expected.tolist()


def test_of_equally_near_centres_the_first_is_taken_in_any_block():
    centres = torch.eye(3).repeat(700, 1)
    assert assign_clusters(torch.eye(3), centres, memory=2**16).tolist() == [0, 1, 2]
    assert assign_clusters(torch.ones(4, 3), centres, distance="l2", memory=2**16).tolist() == [0, 0, 0, 0]
    assert assign_clusters(torch.zeros(0, 3), centres).tolist() == []


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_the_gallery_moves_among_the_clusters_part_after_part(distance):
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(4, (50,), generator=g)
    centres = torch.randn(4, 6, generator=g)
    old, new = (centres[labels] + noise * torch.randn(50, 6, generator=g) for noise in (0.3, 1.5))
    order = torch.randperm(50, generator=g)
    kept = old.clone()
    curve = mixed_clusters(centres, old, new, labels, order=order, parts=7, distance=distance)
    ends = [round(i * 50 / 7) for i in range(8)]
    assert curve.share.tolist() == [end / 50 for end in ends]
    before = assign_clusters(old, centres, distance=distance)
    for place, end in enumerate(ends):
        replaced = set(order[:end].tolist())
        mixed = torch.stack([new[i] if i in replaced else old[i] for i in range(50)])
        clusters = assign_clusters(mixed, centres, distance=distance)
        expected = by_definition(clusters.tolist(), labels.tolist())
        assert [curve[i + 1][place].item() for i in range(3)] == pytest.approx(expected)
        assert curve.moved[place].item() == pytest.approx((clusters != before).double().mean().item())
    assert torch.equal(old, kept)
    assert curve.f[0] > curve.f[-1]


def test_other_widths_go_by_what_they_share():
    x = torch.eye(4)
    curve = mixed_clusters(x[:, :3], x[:, :3], x, torch.arange(4), order=torch.arange(4), parts=2, dimensions="shared")
    assert curve.moved.tolist() == [0, 0, 0]


ROWS, LABELS = torch.eye(3), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.tensor([0, 1, 1])}, "each gallery position from 0 to 2 once"),
        ({"parts": 4}, "parts from 1 to the 3 items"),
        ({"parts": True}, "got True"),
        ({"new_gallery": ROWS[:2]}, "got 3 old and 2 new"),
        ({"new_gallery": ROWS[:, :2]}, "dimensions='shared'"),
        ({"new_gallery": ROWS / 0}, "NaN or Inf"),
        ({"centres": ROWS[:0]}, "at least one centre"),
    ],
)
def test_bad_mixes_are_refused(change, message):
    good = {"centres": ROWS, "old_gallery": ROWS, "new_gallery": ROWS, "gallery_labels": LABELS}
    with pytest.raises(ValueError, match=message):
        mixed_clusters(**{**good, "order": torch.arange(3), "parts": 1, **change})


def test_bad_clusterings_are_refused():
    with pytest.raises(ValueError, match=r"integer labels of shape \(3,\)"):
        b_cubed(LABELS, LABELS[:2])
    with pytest.raises(ValueError, match="integer clusters"):
        b_cubed(LABELS.float(), LABELS)
    with pytest.raises(ValueError, match="integer counts"):
        b_cubed_from_counts(torch.ones(2, 2))
