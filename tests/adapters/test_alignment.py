import math

import pytest
import torch
import torch.nn.functional as F

from lightning_graceful.adapters.alignment import SpaceAlignment
from lightning_graceful.adapters.objectives import GalleryObjective, SearchObjective
from lightning_graceful.functional import retrieval_metrics
from lightning_graceful.functional.embedding_losses import gallery_distillation_loss

METHODS = {
    "procrustes": SpaceAlignment.procrustes,
    "ridge": SpaceAlignment.ridge,
    "low_rank": lambda source, target, **options: SpaceAlignment.low_rank(source, target, rank=3, **options),
    "mlp": lambda source, target, **options: SpaceAlignment.mlp(source, target, hidden=32, epochs=80, **options),
}


def spaces(rows=400, d_new=6, d_old=6, seed=0, noise=0.05):
    g = torch.Generator().manual_seed(seed)
    new = torch.randn(rows, d_new, generator=g)
    turn = torch.linalg.qr(torch.randn(max(d_new, d_old), max(d_new, d_old), generator=g)).Q[:d_new, :d_old]
    return new, new @ turn + noise * torch.randn(rows, d_old, generator=g)


def cosine(mapped, wanted):
    return F.cosine_similarity(mapped, wanted).mean().item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("d_new", "d_old"), [(6, 6), (8, 5), (5, 8)])
def test_maps_go_from_new_to_old_and_from_old_to_new(method, d_new, d_old):
    new, old = spaces(d_new=d_new, d_old=d_old)
    to_old, to_new = METHODS[method](new, old), METHODS[method](old, new)
    assert to_old(new).shape == old.shape
    assert to_new(old).shape == new.shape
    assert cosine(to_old(new), old) > 0.6
    assert cosine(to_new(old), new) > 0.6
    torch.testing.assert_close(to_old(new).norm(dim=1), torch.ones(len(new)))


def test_a_rotation_is_found():
    new, old = spaces(noise=0.0)
    assert cosine(SpaceAlignment.procrustes(new, 3 * old)(new), old) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(SpaceAlignment.ridge(new, 3 * old, normalize=False)(new), 3 * old, atol=1e-4, rtol=0)


def test_a_rotation_keeps_the_search_among_mapped_rows_as_it_was():
    new, old = spaces(noise=2.0)
    new = new + 3.0
    mapped = SpaceAlignment.procrustes(new, old)(new)
    torch.testing.assert_close(mapped @ mapped.T, F.normalize(new) @ F.normalize(new).T, atol=1e-5, rtol=0)


def test_a_rotation_weighs_directions_alike_whatever_their_lengths():
    new, old = spaces(noise=1.0)
    lengths = torch.rand(2, len(new), 1) * 10 + 0.1
    plain, scaled = SpaceAlignment.procrustes(new, old), SpaceAlignment.procrustes(new * lengths[0], old * lengths[1])
    torch.testing.assert_close(plain(new), scaled(new), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_lengths_and_means_are_learnt_where_nothing_is_normalised(method):
    new, old = spaces()
    old = old + torch.arange(6.0)
    to_old = METHODS[method](new, old, normalize=False)
    error = (to_old(new) - old).square().sum(1).mean()
    assert error < (0.6 if method == "low_rank" else 0.1) * (old - old.mean(0)).square().sum(1).mean()


def test_batches_are_as_good_as_matrices():
    new, old = spaces()
    batches = list(zip(new.split(64), old.split(64), strict=True))
    for method in ("procrustes", "ridge"):
        whole, parts = METHODS[method](new, old), METHODS[method](iter(batches), None)
        torch.testing.assert_close(whole(new), parts(new))


def test_half_precision_is_mapped_in_single_and_autocast_is_left_out():
    new, old = spaces()
    to_old = SpaceAlignment.ridge(new.half(), old.half())
    assert to_old(new.half()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(to_old(new), to_old.double().float()(new))


def test_a_map_is_frozen_takes_no_rows_and_lets_gradients_through():
    new, old = spaces()
    to_old = SpaceAlignment.mlp(new, old, hidden=4, epochs=1)
    assert not any(weight.requires_grad for weight in to_old.parameters())
    assert to_old(new[:0]).shape == (0, 6)
    x = new[:2].clone().requires_grad_()
    to_old(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_training_follows_from_the_seed_and_leaves_the_callers_alone():
    new, old = spaces()
    state = torch.get_rng_state()
    with torch.no_grad():
        first, again, other = (
            SpaceAlignment.distilled(new, old, hidden=8, epochs=2, seed=seed)(new) for seed in (0, 0, 1)
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    SpaceAlignment.procrustes(new, old)
    assert torch.equal(torch.get_rng_state(), state)


def test_maps_are_fitted_from_outputs_of_inference_mode():
    with torch.inference_mode():
        new, old = spaces()
        maps = [SpaceAlignment.mlp(new, old, epochs=30), SpaceAlignment.ridge(new, old)]
    for to_old in maps:
        assert cosine(to_old(new), old) > 0.9
        x = new.clone().requires_grad_()
        to_old(x).sum().backward()


def test_scale_and_mean_of_the_source_do_not_matter_to_the_mlp():
    new, old = spaces()
    constant = torch.full((len(new), 1), 7.0)
    same, moved = torch.cat([new, 0 * constant], 1), torch.cat([1024 * new + 4096, constant], 1)
    mapped = [SpaceAlignment.mlp(x, old, epochs=5)(x) for x in (same, moved)]
    torch.testing.assert_close(*mapped, atol=5e-3, rtol=0)


def test_the_objective_gets_rows_of_length_one_and_their_labels():
    new, old = spaces(rows=50)
    labels, seen = torch.arange(50) + 100, []

    def objective(mapped, target, classes):
        torch.testing.assert_close(target, F.normalize(old)[classes - 100])
        torch.testing.assert_close(mapped.norm(dim=1), torch.ones(len(mapped)))
        seen.append(classes)
        return (mapped - target).square().mean()

    advanced = []
    SpaceAlignment.mlp(new, old, labels, objective=objective, epochs=2, batch_size=20, progress=advanced.append)
    assert [len(part) for part in seen] == advanced == [20, 20, 10] * 2
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).sort().values.tolist() == labels.tolist()
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


def test_distilled_draws_its_gallery_of_the_sample():
    _, old = spaces(rows=30)
    labels = torch.arange(30) % 3
    mapped = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))
    objective = GalleryObjective(old, labels, temperature=0.2, tilt=1.5, size=12)
    torch.manual_seed(4)
    found = objective(mapped, old[:5], torch.tensor([0, 1, 2, 0, -1]))
    torch.manual_seed(4)
    drawn = torch.randint(30, (12,))
    rows = F.normalize(old)
    losses = []
    for i in range(5):
        same = (labels[drawn] == labels[i]).float() * (i < 4)
        p = torch.softmax(rows[i] @ rows[drawn].T / 0.2 + 1.5 * same, 0)
        q = torch.softmax(mapped[i] @ rows[drawn].T / 0.2, 0)
        losses.append((p * (p.log() - q.log())).sum())
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    torch.manual_seed(4)
    without = objective(mapped, old[:5], None)
    assert without == gallery_distillation_loss(mapped, old[:5], old[drawn], temperature=0.2)


def blurred(seed=0, rows=600):
    """Labels, a sharp new space, and an old one that blurs and turns it."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (rows,), generator=g)
    new = torch.randn(6, 12, generator=torch.Generator().manual_seed(9))[labels] + 0.3 * torch.randn(
        rows, 12, generator=g
    )
    turn = torch.randn(12, 6, generator=torch.Generator().manual_seed(8))
    return labels, new, F.relu((new + 0.9 * torch.randn(rows, 12, generator=g)) @ turn)


def test_distilled_queries_search_better_than_old_ones_and_than_least_squares():
    labels, new, old = blurred()
    test_labels, test_new, test_old = blurred(seed=1)
    found = {
        "old": test_old,
        "ridge": SpaceAlignment.ridge(new, old)(test_new),
        "distilled": SpaceAlignment.distilled(new, old, labels, epochs=40)(test_new),
        "upright": SpaceAlignment.distilled(new, old, labels, epochs=40, tilt=0.0)(test_new),
    }
    ids = {"query_ids": torch.arange(600), "gallery_ids": torch.arange(600)}
    score = {
        name: retrieval_metrics(query, test_old, test_labels, test_labels, **ids)["map"].item()
        for name, query in found.items()
    }
    assert score["distilled"] > score["old"] + 0.02
    assert score["distilled"] > score["upright"]
    assert score["distilled"] > score["ridge"]


def search_objective(old, labels, **options):
    numbers = {"temperature": 0.3, "unlabelled_temperature": 0.2, "unlabelled_weight": 0.7, "size": 12} | options
    return SearchObjective(old, labels, **numbers)


def test_searching_asks_the_labelled_to_find_their_label_and_the_others_to_rank_all_rows():
    """Two galleries are drawn: of labelled rows alone, then of all."""
    _, old = spaces(rows=30)
    labels = torch.where(torch.arange(30) < 20, torch.arange(30) % 3, -1)
    mapped = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))
    classes, rows = torch.tensor([0, -1, 2, -5, 7]), F.normalize(old).double()
    torch.manual_seed(4)
    found = search_objective(old, labels)(mapped, old[:5], classes)
    torch.manual_seed(4)
    labelled, every = torch.randint(20, (12,)), torch.randint(30, (12,))
    searches, ranks = [], []
    for i in range(5):
        if classes[i] >= 0:
            scores = [math.exp(mapped[i].double() @ rows[m] / 0.3) for m in labelled]
            right = [score for score, m in zip(scores, labelled, strict=True) if labels[m] == classes[i]]
            searches += [-sum(math.log(score / sum(scores)) for score in right) / len(right)] if right else []
        else:
            p = torch.softmax(rows[i] @ rows[every].T / 0.2, 0)
            q = torch.softmax(mapped[i].double() @ rows[every].T / 0.2, 0)
            ranks.append((p * (p / q).log()).sum().item())
    assert (len(searches), len(ranks)) == (2, 2)  # nobody is of class 7
    assert found.item() == pytest.approx(sum(searches) / 2 + 0.7 * sum(ranks) / 2, rel=1e-5)


def test_searching_batches_may_have_labelled_rows_only_or_none():
    _, old = spaces(rows=30)
    labels, nobody = torch.arange(30) % 3, torch.full((30,), -1)
    for classes, weight, scale in ((labels, 5.0, 1.0), (nobody, 0.5, 0.5)):
        mapped = old.clone().requires_grad_()
        options = {"size": 400, "unlabelled_weight": weight}
        torch.manual_seed(0)
        whole = search_objective(old, labels, **options)(mapped, old.flip(0), classes)
        torch.manual_seed(0)
        part = search_objective(old, labels, **options | {"unlabelled_weight": 1.0})(mapped, old.flip(0), classes)
        assert whole.item() == pytest.approx(scale * part.item())
        whole.backward()
        assert mapped.grad.isfinite().all()
        assert mapped.grad.abs().sum() > 0


def test_searching_queries_search_better_than_old_ones_and_than_least_squares():
    labels, new, old = blurred()
    test_labels, test_new, test_old = blurred(seed=1)
    options = {"hidden": 64, "gallery_size": 256, "epochs": 20}
    found = {
        "old": test_old,
        "ridge": SpaceAlignment.ridge(new, old)(test_new),
        "searching": SpaceAlignment.searching(new, old, labels, **options)(test_new),
    }
    ids = {"query_ids": torch.arange(600), "gallery_ids": torch.arange(600)}
    score = {
        name: retrieval_metrics(query, test_old, test_labels, test_labels, **ids)["map"].item()
        for name, query in found.items()
    }
    assert score["searching"] > max(score["old"], score["ridge"]) + 0.02


def test_searching_is_a_perceptron_with_that_objective_of_all_pairs():
    labels, new, old = blurred(rows=100)
    options = {"hidden": 8, "epochs": 3}
    named = {"temperature": 0.4, "unlabelled_temperature": 0.3, "unlabelled_weight": 0.8}
    found = SpaceAlignment.searching(
        new[:60], old[:60], labels[:60], unlabelled=(new[60:], old[60:]), gallery_size=50, **named, **options
    )
    marked = torch.cat([labels[:60], torch.full((40,), -7)])
    objective = SearchObjective(old, marked, size=50, **named)
    assert torch.equal(found(new), SpaceAlignment.mlp(new, old, marked, objective=objective, **options)(new))


def test_unlabelled_pairs_take_part_as_rows_of_label_below_0_do():
    labels, new, old = blurred(rows=100)
    options = {"hidden": 8, "epochs": 3}
    named = SpaceAlignment.distilled(new[:60], old[:60], labels[:60], unlabelled=(new[60:], old[60:]), **options)
    without = SpaceAlignment.distilled(new[:60], old[:60], labels[:60], **options)
    assert not torch.equal(named(new), without(new))

    objective = GalleryObjective(old[:60], labels[:60], temperature=0.1, tilt=1.0, size=1024)
    marked = torch.cat([labels[:60], torch.full((40,), -7)])
    assert torch.equal(named(new), SpaceAlignment.mlp(new, old, marked, objective=objective, **options)(new))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m, x, y: m(x[:, :5]), r"floating matrix \(N, 6\), got torch.float32 of shape \(400, 5\)"),
        (lambda m, x, y: m(x.long()), "got torch.int64"),
        (lambda m, x, y: m(x[0]), r"shape \(6,\)"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y * math.nan), "NaN or Inf in 400 of 400 rows"),
        (lambda m, x, y: SpaceAlignment.mlp(x[:0], y[:0]), "at least one pair, got none"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y, hidden=0), "widths"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y, epochs=0), "epochs to be an integer of at least 1, got 0"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y, batch_size=2.5), "batch_size to be an integer"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y, learning_rate=0.0), "learning_rate > 0"),
        (lambda m, x, y: SpaceAlignment.mlp(x, y, x[:, 0]), "integer labels"),
        (lambda m, x, y: SpaceAlignment.distilled(x, y, torch.arange(3)), r"labels of shape \(400,\)"),
        (lambda m, x, y: SpaceAlignment.distilled(x, y, temperature=0.0), "temperature > 0"),
        (lambda m, x, y: SpaceAlignment.distilled(x, y, gallery_size=0), "gallery_size of at least 1"),
        (lambda m, x, y: SpaceAlignment.distilled(x, y, unlabelled=(x, y[:, :2])), "got 6 and 2"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, None), r"labels to find rows of.*SpaceAlignment\.distilled"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.full((400,), -1)), "rows with a label to find, got none"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.arange(3)), r"labels of shape \(400,\)"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.arange(400), temperature=0.0), "temperature > 0"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.arange(400), unlabelled_weight=-1.0), "weight >= 0"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.arange(400), gallery_size=0), "gallery_size of at least"),
        (lambda m, x, y: SpaceAlignment.searching(x, y, torch.arange(400), unlabelled=(x, y[:5])), "the same items"),
        (lambda m, x, y: search_objective(y, torch.arange(400))(x, y), "labels with this objective, got None"),
        (lambda m, x, y: SpaceAlignment("cca", (2, 2)), "one of procrustes, ridge"),
        (lambda m, x, y: SpaceAlignment("mlp", (2, 2)), "widths of method 'mlp'"),
    ],
)
def test_bad_arguments_are_refused(action, message):
    new, old = spaces()
    with pytest.raises(ValueError, match=message):
        action(SpaceAlignment.procrustes(new, old), new, old)


def test_a_training_that_diverges_says_so():
    new, old = spaces()
    with pytest.raises(RuntimeError, match="Lower learning_rate"):
        SpaceAlignment.mlp(new, old, epochs=1, objective=lambda mapped, *_: (mapped / 0).sum())
