import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from lightning_graceful import OldModel
from lightning_graceful.functional.retrieval.rows import fit_width
from lightning_graceful.gallery.embedding import embed_gallery
from lightning_graceful.gallery.index import GalleryIndex
from tests.functional.retrieval import brute_force

G, D = 40, 6
WORDS = [f"item/{i:02d}" + "ü" * (i % 3) for i in range(G)]


def rows(n=G, d=D, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def index_of(ids=WORDS, **options):
    return GalleryIndex.build(rows(len(ids)), ids, **{"version": "v1", **options})


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("ids", [WORDS, list(range(500, 500 - G, -1))])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_search_is_that_of_brute_force(distance, ids, backend):
    index, query = index_of(ids, distance=distance), rows(7, seed=1)
    hits = index.search(query, k=G + 2, backend=backend)
    expected = brute_force.scores(query, rows(), distance)
    for row, found in enumerate(hits.ids.tolist()):
        order = brute_force.nearest(expected[row], G)
        assert found == [ids[i] for i in order] + ["" if ids is WORDS else -1] * 2
        np.testing.assert_allclose(hits.scores[row, :G], expected[row, order], atol=1e-6)
    assert hits.versions[:, :G].unique().tolist() == [0]
    assert hits.versions[:, G:].unique().tolist() == hits.positions[:, G:].unique().tolist() == [-1]


@pytest.mark.parametrize("ids", [WORDS, list(range(500, 500 - G, -1))])
def test_a_query_does_not_find_itself(ids):
    index = index_of(ids)
    unknown = ["nobody", "item/01" + "ü" * 9] if ids is WORDS else [-1, 10**15]
    hits = index.search(rows()[[3, 0, 5, 6, 3]], k=1, query_ids=[ids[3], ids[0], *unknown, ids[3]])
    assert [one[0] == ids[i] for one, i in zip(hits.ids.tolist(), [3, 0, 5, 6, 3], strict=True)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_refreshed_rows_are_found_as_the_new_version():
    index, new = index_of(), rows(seed=2)
    index.refresh(WORDS[10:2:-1], new[3:11].flip(0), version="v2", fingerprint="abc")
    index.refresh([WORDS[39]], new[39:], version="v3")
    index.refresh([WORDS[4]], new[4:5] * 3, version="v3")
    mixed = rows()
    mixed[3:11], mixed[39], mixed[4] = new[3:11], new[39], 3 * new[4]
    assert torch.equal(index.embeddings, mixed)
    assert index.counts == {"v1": G - 9, "v2": 7, "v3": 2}
    assert [version.fingerprint for version in index.versions] == [None, "abc", None]
    assert index.is_of("v2").nonzero()[:, 0].tolist() == [3, 5, 6, 7, 8, 9, 10]
    assert not index.is_of("v9").any()
    hits = index.search(new, k=1)
    assert [hits.versions[i, 0].item() for i in (5, 39, 4)] == [1, 2, 2]
    assert repr(index) == "GalleryIndex(31 v1, 7 v2, 2 v3; 6 dimensions, cosine)"


def test_what_was_given_is_not_touched_and_may_be_of_any_precision():
    given = rows().double().requires_grad_()
    kept = given.detach().clone()
    index = GalleryIndex.build(given, WORDS)
    index.refresh(WORDS[:2], torch.ones(2, D, dtype=torch.bfloat16), version="v2")
    assert torch.equal(given.detach(), kept)
    assert index.embeddings.dtype == torch.float32
    with torch.inference_mode():
        other = GalleryIndex.build(rows().T.contiguous().T, WORDS)
    other.refresh(WORDS[:1], torch.ones(1, D), version="v2")
    assert other.embeddings[0].tolist() == [1] * D


def test_positions():
    index = index_of()
    assert index.positions(["item/03", "what", "item/01ü"]).tolist() == [3, -1, 1]
    assert index.positions([]).tolist() == []
    assert index_of(range(G)).positions(torch.tensor([39, 40, -1])).tolist() == [39, -1, -1]


def test_a_gallery_of_one_item_and_of_none():
    index = GalleryIndex.build(torch.ones(1, 2), ["a"])
    assert index.search(torch.eye(2), k=2).ids.tolist() == [["a", ""], ["a", ""]]
    assert index.search(torch.eye(2), k=1, query_ids=["a", "b"]).ids.tolist() == [[""], ["a"]]
    nothing = GalleryIndex.build(torch.ones(0, 2), torch.arange(0))
    assert nothing.search(torch.eye(2), k=1).ids.tolist() == [[-1], [-1]]
    assert nothing.search(torch.eye(2), k=1, query_ids=[4, 5]).versions.tolist() == [[-1], [-1]]


def test_other_widths_are_brought_into_the_space_by_hand():
    index = index_of()
    with pytest.raises(ValueError, match=r"new embeddings of 6 dimensions, as the gallery has, got 9.*fit_width"):
        index.refresh(WORDS[:1], torch.ones(1, 9), version="v2")
    with pytest.raises(ValueError, match="query embeddings of 6 dimensions"):
        index.search(torch.ones(1, 5))
    wide, narrow = rows(2, 9, 5), rows(2, 4, 5)
    index.refresh(WORDS[:2], fit_width(wide, D), version="wide")
    index.refresh(WORDS[2:4], fit_width(narrow, D), version="narrow")
    assert torch.equal(index.embeddings[:2], wide[:, :6])
    assert torch.equal(index.embeddings[2:4, :4], narrow)
    assert index.embeddings[2:4, 4:].tolist() == [[0, 0], [0, 0]]


NAN = rows().index_fill(0, torch.tensor([1, 38]), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [*WORDS[:-2], "a", "a"]}, r"each id once, got 1 ids several times, such as \['a'\]"),
        ({"ids": torch.zeros(G, dtype=torch.int64)}, r"such as \[0\]"),
        ({"ids": WORDS[1:]}, "for 39 ids"),
        ({"ids": [*WORDS[:-1], 3]}, r"all integers or all strings.*\['int', 'str'\]"),
        ({"ids": [0.5] * G}, r"\['float'\]"),
        ({"ids": [True] * G}, r"\['bool'\]"),
        ({"ids": ["a\0"] * G}, "null signs"),
        ({"ids": [2**70 + i for i in range(G)]}, "64 bits"),
        ({"ids": np.arange(G, dtype=np.uint64) + 2**63}, "below 2"),
        (
            {"embeddings": NAN},
            r"NaN or Inf \(as float32\) in those of 2 of 40 items, such as \['item/01ü', 'item/38üü'\]",
        ),
        ({"embeddings": rows().double() * 1e300}, "as float32"),
        ({"embeddings": rows().long()}, "floating matrix"),
        ({"embeddings": rows()[:, :0]}, "at least one dimension"),
        ({"embeddings": rows()[0]}, r"of shape \(6,\)"),
        ({"labels": torch.zeros(G)}, "integer labels"),
        ({"labels": torch.arange(3)}, r"of shape \(40,\)"),
        ({"distance": "dot"}, "got 'dot'"),
    ],
)
def test_bad_galleries_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GalleryIndex.build(**{"embeddings": rows(), "ids": WORDS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["item/00", "what"]}, r"got 1 others: \['what'\]"),
        ({"ids": ["item/00", "item/00"]}, "each id once"),
        ({"ids": [1, 2]}, r"ids as the gallery's \['item/00', .*, got \[1, 2\]"),
        ({"ids": ["item/00"]}, "for 1 ids"),
        ({"embeddings": torch.ones(2, D) * torch.inf}, r"finite new embeddings.*\['item/00', 'item/03'\]"),
        ({"version": "v1", "fingerprint": "b"}, "'v1' to be the model of fingerprint a, got b"),
    ],
)
def test_a_bad_refresh_changes_nothing(change, message):
    index = index_of(fingerprint="a")
    good = {"ids": ["item/00", "item/03"], "embeddings": torch.ones(2, D), "version": "v2"}
    with pytest.raises(ValueError, match=message):
        index.refresh(**{**good, **change})
    assert torch.equal(index.embeddings, rows())
    assert index.counts == {"v1": G}


def test_there_is_a_bound_to_the_versions(monkeypatch):
    monkeypatch.setattr("lightning_graceful.gallery.index.MOST_VERSIONS", 2)
    index = index_of()
    for _ in range(2):
        index.refresh(WORDS[:1], torch.ones(1, D), version="v2")
    with pytest.raises(ValueError, match="at most 2 versions"):
        index.refresh(WORDS[:1], torch.ones(1, D), version="v3")


# -- items that come and go --------------------------------------------------------------------------------------------


def same(index, other):
    assert index.ids.tolist() == other.ids.tolist()
    assert index.ids.dtype == other.ids.dtype
    assert torch.equal(index.embeddings, other.embeddings)
    assert (index.labels is None and other.labels is None) or torch.equal(index.labels, other.labels)
    assert index.search(rows(3, seed=1), k=9).ids.tolist() == other.search(rows(3, seed=1), k=9).ids.tolist()


@pytest.mark.parametrize("ids", [WORDS, list(range(500, 500 - G, -1))])
@pytest.mark.parametrize("labels", [None, torch.arange(G, dtype=torch.int32) % 4])
@pytest.mark.parametrize("cut", [0, 1, 33, G])
def test_items_that_were_added_are_as_those_it_was_built_with(ids, labels, cut, tmp_path):
    def part(of):
        return None if labels is None else labels[of]

    first, rest = slice(cut), slice(cut, None)
    GalleryIndex.build(rows()[first], ids[first], labels=part(first), version="v1").save(tmp_path)
    index = GalleryIndex.load(tmp_path)
    index.add(ids[rest], rows()[rest].double(), labels=part(rest), version="v2", fingerprint="abc")
    same(index, index_of(ids, labels=labels))
    assert index.counts == {"v1": cut, "v2": G - cut}
    assert index.version_of.tolist() == [0] * cut + [1] * (G - cut)
    assert index.positions(ids).tolist() == list(range(G))
    assert len(GalleryIndex.load(tmp_path)) == cut  # what is on disk waits for a save
    index.save(tmp_path)
    same(GalleryIndex.load(tmp_path), index)
    index.refresh(ids[:3], torch.ones(3, D), version="v3")  # the index may be written to
    assert index.embeddings[:3].unique().tolist() == [1]


def test_longer_ids_are_not_cut():
    index = index_of(["a", "b"])
    index.add(["much longer"], torch.ones(1, D), version="v1")
    assert index.ids.tolist() == ["a", "b", "much longer"]
    assert [version.name for version in index.versions] == ["v1"]


@pytest.mark.parametrize("labels", [None, torch.arange(G) % 4])
def test_items_that_were_removed_are_as_if_they_had_never_been(labels, tmp_path):
    index_of(labels=labels).save(tmp_path)
    index = GalleryIndex.load(tmp_path)
    index.refresh(WORDS[30:], rows()[30:], version="v2")
    index.remove([WORDS[35], WORDS[0], WORDS[7]])
    stays = [i for i in range(G) if i not in {0, 7, 35}]
    kept = None if labels is None else labels[stays]
    same(index, GalleryIndex.build(rows()[stays], [WORDS[i] for i in stays], labels=kept))
    assert index.counts == {"v1": 28, "v2": 9}
    assert index.positions([WORDS[0], WORDS[8]]).tolist() == [-1, 6]
    index.remove([])
    index.remove(index.ids)
    assert len(index) == 0
    again = None if labels is None else labels[:2]
    index.add([4, 5], rows(2), labels=again, version="v2")  # nothing has no kind of ids
    assert index.search(rows(2), k=1).ids.tolist() == [[4], [5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["new", "item/00"]}, r"new items, got 1 that are in the gallery: \['item/00'\]. refresh\(\)"),
        ({"ids": ["new", "new"]}, "each id once"),
        ({"ids": [1, 2]}, "ids as the gallery's"),
        ({"ids": ["new"]}, "for 1 ids"),
        ({"embeddings": torch.full((2, D), torch.nan)}, r"finite new embeddings.*\['new', 'newer'\]"),
        ({"embeddings": torch.ones(2, 9)}, "new embeddings of 6 dimensions.*fit_width"),
        ({"labels": None}, "which have labels, but got none"),
        ({"labels": torch.zeros(2)}, "integer labels"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"of shape \(3,\)"),
        ({"version": "v1", "fingerprint": "b"}, "'v1' to be the model of fingerprint a, got b"),
    ],
)
def test_what_cannot_be_added_changes_nothing(change, message):
    index = index_of(fingerprint="a", labels=torch.zeros(G, dtype=torch.int64))
    good = {"ids": ["new", "newer"], "embeddings": torch.ones(2, D), "labels": torch.ones(2).long(), "version": "v2"}
    with pytest.raises(ValueError, match=message):
        index.add(**{**good, **change})
    with pytest.raises(ValueError, match="which have no labels, but got some"):
        index_of().add(**good)
    with pytest.raises(ValueError, match="got 1 others"):
        index.remove(["item/00", "what"])
    with pytest.raises(ValueError, match="each id once"):
        index.remove(["item/00", "item/00"])
    same(index, index_of(labels=torch.zeros(G, dtype=torch.int64)))
    assert index.counts == {"v1": G}


# -- from a model and a loader -----------------------------------------------------------------------------------------


def model(**options):
    torch.manual_seed(0)
    return OldModel(nn.Sequential(nn.Linear(4, D), nn.Linear(D, 3)), **{"embedding": "0", **options})


def data(n=G):
    return TensorDataset(rows(n, 4, seed=3), torch.arange(n) % 3)


@pytest.mark.parametrize(
    "loader",
    [DataLoader(data(), 7), DataLoader(data(), 7, shuffle=True), DataLoader(data(), 1, shuffle=True, drop_last=True)],
)
def test_samples_are_known_whatever_the_order(loader):
    with torch.no_grad():
        expected = model()._module[0](data().tensors[0])
    index = GalleryIndex.from_model(model(), loader, ids=WORDS, version="v1")
    torch.testing.assert_close(index.embeddings, expected)
    assert index.ids.tolist() == WORDS
    assert index.labels.tolist() == (torch.arange(G) % 3).tolist()
    assert index.versions == (("v1", model().fingerprint),)
    assert type(loader) is DataLoader
    assert embed_gallery(model(), loader).ids.tolist() == list(range(G))


def test_a_part_of_the_dataset_names_its_own_samples():
    found = embed_gallery(model(), DataLoader(Subset(data(), [5, 2]), 1, shuffle=True), ids=["five", "two"])
    assert found.ids.tolist() == ["five", "two"]
    assert found.labels.tolist() == [2, 2]
    shuffled = DataLoader(data(), 8, sampler=[9, 1, 4])
    assert embed_gallery(model(), shuffled, ids=WORDS).ids.tolist() == [WORDS[i] for i in (1, 4, 9)]


def test_streams_are_taken_in_their_order():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data())

    for loader in (DataLoader(Stream(), 7), [{"x": data().tensors[0]}]):
        found = embed_gallery(model(), loader, ids=WORDS)
        assert found.ids.tolist() == WORDS
        torch.testing.assert_close(found.embeddings, embed_gallery(model(), DataLoader(data(), G)).embeddings)
    assert found.labels is None
    with pytest.raises(ValueError, match="an id for each of 40 samples, got 39"):
        embed_gallery(model(), DataLoader(Stream(), 7), ids=WORDS[1:])


def test_loaders_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="each sample once, got"):
        embed_gallery(model(), DataLoader(data(), 7, sampler=WeightedRandomSampler([1.0] * G, 200)))
    with pytest.raises(ValueError, match="an empty loader"):
        embed_gallery(model(), [])
    with pytest.raises(ValueError, match='OldModel\\(net, embedding="path"\\)'):
        embed_gallery(model(embedding=None), DataLoader(data()))
    with pytest.raises(ValueError, match="an id for each of 40"):
        embed_gallery(model(), DataLoader(data()), ids=WORDS[1:])
