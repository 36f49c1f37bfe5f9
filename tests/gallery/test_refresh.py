import numpy as np
import pytest
import torch

from lightning_graceful.functional import backfill_curve, retrieval_flips, retrieval_metrics
from lightning_graceful.gallery.index import GalleryIndex
from lightning_graceful.gallery.orders import distance_to_class_mean_order, random_order
from lightning_graceful.gallery.refresh import Probe
from tests.functional.retrieval import brute_force

G, Q, D = 30, 12, 6
WORDS = [f"item {i}" for i in range(G)]
generator = torch.Generator().manual_seed(0)
LABELS, QUERY_LABELS = torch.randint(4, (G,), generator=generator), torch.randint(4, (Q,), generator=generator)
CENTRES = torch.randn(4, D, generator=generator)
OLD = CENTRES[LABELS] + 1.5 * torch.randn(G, D, generator=generator)
NEW = CENTRES[LABELS] + 0.7 * torch.randn(G, D, generator=generator)
QUERY = CENTRES[QUERY_LABELS] + 0.7 * torch.randn(Q, D, generator=generator)
OLD_QUERY = CENTRES[QUERY_LABELS] + 1.5 * torch.randn(Q, D, generator=generator)
ORDER = random_order(G, 1)


def index_of(**options):
    return GalleryIndex.build(OLD, WORDS, labels=LABELS, version="v1", **options)


def refresh(index, embeddings=NEW, order=ORDER, **options):
    return index.refresh_in_parts(embeddings, order, **{"version": "v2", "parts": 4, **options})


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_reports_are_those_of_the_curve(distance):
    probe = Probe(QUERY, QUERY_LABELS, measures=["map", "recall_at_10"])
    reports = list(refresh(index_of(distance=distance), probe=probe))
    for name in probe.measures:
        options = {"order": ORDER, "parts": 4, "measure": name, "distance": distance}
        curve = backfill_curve(QUERY, OLD, NEW, QUERY_LABELS, LABELS, **options)
        assert [report.measures[name] for report in reports] == curve.values.tolist()
        assert [report.share for report in reports] == curve.share.tolist()
    assert [report.replaced for report in reports] == [0, 8, 7, 7, 8]
    assert [(report.part, report.parts) for report in reports] == [(part, 4) for part in range(5)]
    assert [report.bytes for report in reports] == [4 * D * n for n in (0, 8, 15, 22, 30)]


def lists_by_hand(query, gallery, k=3):
    return torch.tensor([brute_force.nearest(row, k) for row in brute_force.scores(query, gallery)])


def test_flips_are_against_the_lists_before():
    index = index_of()
    states = [OLD.clone() for _ in range(5)]
    for state, end in zip(states, (0, 8, 15, 22, 30), strict=True):
        state[ORDER[:end]] = NEW[ORDER[:end]]
    old_lists = lists_by_hand(OLD_QUERY, OLD)
    for before, against in ((None, lists_by_hand(QUERY, OLD)), (old_lists, old_lists)):
        index = index_of()
        for state, report in zip(
            states, refresh(index, probe=Probe(QUERY, QUERY_LABELS, k=3, before=before)), strict=True
        ):
            hits = [LABELS[x] == QUERY_LABELS[:, None] for x in (against, lists_by_hand(QUERY, state))]
            was, is_ = (hit.any(1) for hit in hits)
            assert report.flips.lost.tolist() == (was & ~is_).nonzero()[:, 0].tolist()
            assert report.flips.gained.tolist() == (~was & is_).nonzero()[:, 0].tolist()
            assert report.flips.negative_flip_rate.item() == pytest.approx((was & ~is_).double().mean().item())
    assert len(report.flips.gained)


def test_queries_of_the_gallery_do_not_find_themselves():
    probe = Probe(NEW[:9], LABELS[:9], ids=[*WORDS[:8], "of nobody"], k=1, measures=["map"])
    *_, last = refresh(index_of(), probe=probe)
    ids = {"query_ids": torch.tensor([*range(8), 99]), "gallery_ids": torch.arange(G)}
    assert last.measures["map"] == retrieval_metrics(NEW[:9], NEW, LABELS[:9], LABELS, **ids)["map"]
    before = index_of().search(NEW[:9], 1, query_ids=probe.ids).positions
    after = GalleryIndex.build(NEW, WORDS).search(NEW[:9], 1, query_ids=probe.ids).positions
    assert not any(after[i] == i for i in range(8))
    expected = retrieval_flips(before, after, LABELS[:9], LABELS, **ids)
    assert last.flips.negative_flip_rate == expected.negative_flip_rate
    assert last.flips.positive_flip_rate == expected.positive_flip_rate
    assert last.flips.gained.tolist() == expected.gained.tolist()  # here the numbers are the positions


def test_a_function_is_asked_for_what_is_replaced_and_for_no_more():
    asked = []

    def embed(ids):
        asked.append(ids.tolist())
        return NEW[[WORDS.index(one) for one in ids]].double()

    index = index_of()
    index.refresh(WORDS[:5], NEW[:5], version="v2")
    reports = refresh(index, embed)
    assert next(reports).share == 5 / G
    assert asked == []
    assert next(reports).replaced == len(asked[0])
    list(reports)
    assert sorted(word for part in asked for word in part) == sorted(WORDS[5:])
    assert torch.equal(index.embeddings, NEW)


def test_a_refresh_that_was_stopped_goes_on(tmp_path):
    probe = Probe(QUERY, QUERY_LABELS, before=index_of().search(OLD_QUERY, 10).positions)
    whole = [(one.part, one.share, one.bytes, one.measures) for one in refresh(index_of(), probe=probe)]
    begun = index_of()
    reports = refresh(begun, probe=probe, path=tmp_path / "index")
    for _ in range(3):
        next(reports)
    del reports, begun  # the process ends
    index = GalleryIndex.load(tmp_path / "index")
    rest = [
        (one.part, one.share, one.bytes, one.measures) for one in refresh(index, probe=probe, path=tmp_path / "index")
    ]
    assert rest == whole[2:]
    done = GalleryIndex.load(tmp_path / "index")
    assert torch.equal(done.embeddings, NEW)
    assert done.counts == {"v1": 0, "v2": G}
    (only,) = refresh(done, lambda ids: pytest.fail("nothing is left"))
    assert (only.part, only.share, only.replaced) == (4, 1.0, 0)


def test_a_refresh_may_go_on_in_another_order():
    index, reports = index_of(), []
    for report in refresh(index):
        if report.part == 2:
            break
    order = distance_to_class_mean_order(OLD, LABELS)
    reports = list(refresh(index, order=order))
    assert torch.equal(index.embeddings, NEW)
    assert [report.share for report in reports] == sorted({report.share for report in reports})
    assert reports[-1].share == 1
    assert sum(report.replaced for report in reports) == G - 15


def test_far_items_first_is_another_way_than_random():
    probe = Probe(QUERY, QUERY_LABELS, measures=["map"])
    far = [r.measures["map"] for r in refresh(index_of(), order=distance_to_class_mean_order(OLD, LABELS), probe=probe)]
    random = [report.measures["map"] for report in refresh(index_of(), probe=probe)]
    assert (far[0], far[-1]) == (random[0], random[-1])
    assert far != random


def test_without_a_probe_nothing_is_searched():
    reports = list(GalleryIndex.build(OLD, WORDS).refresh_in_parts(NEW, ORDER, version="v2"))
    assert len(reports) == 11
    assert {(len(report.measures), report.flips) for report in reports} == {(0, None)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ORDER[:-1]}, r"integer order of shape \(30,\)"),
        ({"order": ORDER.clamp(min=1)}, "each position from 0 to 29 once"),
        ({"parts": 0}, "parts from 1 to the 30 items"),
        ({"parts": 31}, "got 31"),
        ({"embeddings": NEW[:, :5]}, "new embeddings of 6 dimensions"),
        ({"embeddings": NEW[:9]}, "one new embedding for each of the 30 items, got 9"),
        ({"version": "v1", "fingerprint": "b"}, "fingerprint a, got b"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(change, message):
    index = index_of(fingerprint="a")
    with pytest.raises(ValueError, match=message):
        refresh(index, **change)
    assert index.counts == {"v1": G}


@pytest.mark.parametrize(
    ("probe", "labels", "message"),
    [
        (Probe(QUERY, QUERY_LABELS), None, "labels=labels"),
        (Probe(QUERY, QUERY_LABELS, measures=["mrr"]), LABELS, r"got \['mrr'\]"),
        (Probe(QUERY[:, :3], QUERY_LABELS), LABELS, "query embeddings of 6"),
        (Probe(QUERY * np.nan, QUERY_LABELS), LABELS, "finite query"),
        (Probe(QUERY, QUERY_LABELS[1:]), LABELS, "integer query_labels"),
        (Probe(QUERY, QUERY_LABELS, before=torch.zeros(Q, 3, dtype=torch.int64)), LABELS, "of one shape"),
        (Probe(QUERY, QUERY_LABELS, ids=[3]), LABELS, "ids as the gallery's"),
    ],
)
def test_bad_probes_are_refused_before_anything_is_replaced(probe, labels, message):
    index = GalleryIndex.build(OLD, WORDS, labels=labels)
    with pytest.raises(ValueError, match=message):
        next(refresh(index, probe=probe))
    assert torch.equal(index.embeddings, OLD)


@pytest.mark.parametrize("given", ["tensor", "function"])
def test_items_may_come_while_a_refresh_is_on_its_way(given, tmp_path):
    index, rows = index_of(), dict(zip(WORDS, NEW, strict=True))
    embeddings = NEW if given == "tensor" else lambda ids: torch.stack([rows[one] for one in ids])
    probe = Probe(QUERY, QUERY_LABELS)
    reports = refresh(index, embeddings, probe=probe, path=tmp_path)
    for _ in range(2):
        next(reports)
    index.add(["late"], torch.ones(1, D), labels=torch.tensor([0]), version="v1")
    last = [*reports][-1]
    assert torch.equal(index.embeddings, torch.cat([NEW, torch.ones(1, D)]))
    assert index.counts == {"v1": 1, "v2": G}
    assert last.share == G / (G + 1)
    expected = retrieval_metrics(QUERY, index.embeddings, QUERY_LABELS, torch.cat([LABELS, torch.tensor([0])]))
    assert last.measures["map"] == expected["map"].item()
    assert len(GalleryIndex.load(tmp_path)) == G + 1


def test_a_refresh_whose_items_were_removed_begins_again():
    index = index_of()
    reports = refresh(index)
    for _ in range(2):
        next(reports)
    index.remove([WORDS[ORDER[-1]]])
    with pytest.raises(ValueError, match=r"some were removed\. Begin again"):
        next(reports)
    stays = torch.arange(G) != ORDER[-1]
    reports = refresh(index, NEW[stays], order=torch.arange(G - 1))
    assert [*reports][-1].share == 1
    assert torch.equal(index.embeddings, NEW[stays])
