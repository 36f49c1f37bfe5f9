import pytest
import torch

from lightning_graceful.functional import neighbour_stability, retrieval_flips, search_gallery


def test_stability_is_the_share_of_items_in_both_lists():
    g = torch.Generator().manual_seed(0)
    old, new = (torch.stack([torch.randperm(12, generator=g)[:5] for _ in range(30)]) for _ in range(2))
    expected = [len(set(a) & set(b)) / 5 for a, b in zip(old.tolist(), new.tolist(), strict=True)]
    assert neighbour_stability(old, new).tolist() == expected
    assert neighbour_stability(old, old.flip(1)).tolist() == [1] * 30


def test_places_without_an_item_do_not_count():
    old, new = (
        torch.tensor([[3, 1, -1], [-1, -1, -1], [0, -1, -1]]),
        torch.tensor([[1, -1, -1], [-1, -1, -1], [2, 0, 1]]),
    )
    torch.testing.assert_close(
        neighbour_stability(old, new), torch.tensor([1 / 2, torch.nan, 1 / 3], dtype=torch.float64), equal_nan=True
    )


def brute_flips(old, new, query_labels, gallery_labels, query_ids, gallery_ids):
    lost, gained, matched = [], [], 0
    for i, label in enumerate(query_labels):
        before = [j for j in old[i] if j >= 0 and gallery_labels[j] == label]
        after = [j for j in new[i] if j >= 0 and gallery_labels[j] == label]
        matched += any(g == label and own != query_ids[i] for g, own in zip(gallery_labels, gallery_ids, strict=True))
        if before and not after:
            lost.append((query_ids[i], before[0], new[i][0]))
        if after and not before:
            gained.append((query_ids[i], after[0]))
    return lost, gained, matched


def test_flips_are_those_that_reading_both_lists_finds():
    g = torch.Generator().manual_seed(1)
    query_labels, gallery_labels = torch.randint(9, (80,), generator=g), torch.randint(7, (40,), generator=g)
    query_ids, gallery_ids = torch.randperm(200, generator=g)[:80], torch.randperm(200, generator=g)[:40]
    gallery, query = torch.randn(40, 6, generator=g), torch.randn(80, 6, generator=g)
    ids = {"query_ids": query_ids, "gallery_ids": gallery_ids}
    old, new = (search_gallery(q, gallery, k=3, **ids).positions for q in (query, query.flip(1)))
    flips = retrieval_flips(old, new, query_labels, gallery_labels, **ids)
    args = [x.tolist() for x in (old, new, query_labels, gallery_labels, query_ids, gallery_ids)]
    lost, gained, matched = brute_flips(*args)
    assert list(zip(flips.lost.tolist(), flips.lost_items.tolist(), flips.lost_to.tolist(), strict=True)) == lost
    assert list(zip(flips.gained.tolist(), flips.gained_items.tolist(), strict=True)) == gained
    assert lost
    assert gained
    assert flips.negative_flip_rate.item() == pytest.approx(len(lost) / matched)
    assert flips.positive_flip_rate.item() == pytest.approx(len(gained) / matched)
    swapped = retrieval_flips(new, old, query_labels, gallery_labels, **ids)
    assert swapped.lost.tolist() == flips.gained.tolist()


def test_a_query_whose_only_match_is_itself_has_none():
    positions, labels = torch.tensor([[1], [0]]), torch.tensor([3, 4])
    flips = retrieval_flips(positions, positions, labels, labels, query_ids=labels, gallery_ids=labels)
    assert flips.negative_flip_rate.isnan()
    assert len(flips.lost) == 0
    without = retrieval_flips(positions, positions, labels, labels)
    assert without.negative_flip_rate == 0


LISTS = torch.tensor([[0, 1]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LISTS, LISTS[:, :1], r"one shape \(Q, k\)"),
        (LISTS.float(), LISTS, "integer"),
        (LISTS[0], LISTS[0], r"one shape \(Q, k\)"),
        (LISTS, LISTS + 1, "positions below 2"),
    ],
)
def test_bad_lists_are_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        retrieval_flips(old, new, torch.tensor([0]), torch.tensor([0, 1]))
    if "below" not in message:
        with pytest.raises(ValueError, match=message):
            neighbour_stability(old, new)
