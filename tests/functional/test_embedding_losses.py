"""Against loops over rows in float64, on embeddings of unlike widths and lengths, some rows without a label."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from lightning_graceful.functional.embedding_losses import (
    Pool,
    class_means,
    contrastive_compatibility_loss,
    feature_alignment_loss,
    gallery_distillation_loss,
    gallery_search_loss,
    influence_loss,
    mixed_gallery_loss,
    soft_influence_loss,
)

N, M, CLASSES, OLD = 9, 14, 4, 5
WIDTHS = [3, OLD, 7]  # of the new embedding: narrower, equal, wider
MEANT = [0, 2, 1, -100, 0, 3, 2, 0, 1]


def randn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(width=OLD):
    return randn(N, width, seed=1), randn(N, OLD, seed=2), torch.tensor(MEANT)


def searched():
    """Return a gallery with an unlabelled row, and the pairs to leave out: item i is row i; row 3 sees nothing."""
    labels = torch.randint(3, (M,), generator=torch.Generator().manual_seed(3))
    labels[5] = -100
    left_out = torch.eye(N, M, dtype=torch.bool)
    left_out[4] = True
    return randn(M, OLD, seed=4), labels, left_out


def head(seed=5, width=OLD):
    weight = randn(CLASSES, width, seed=seed)
    return lambda z: z @ weight.to(z).T + weight[:, 0].to(z)


# -- the truth, one row at a time --------------------------------------------------------------------------------------


def fitted(row, width):
    return [row[k] if k < len(row) else 0.0 for k in range(width)]


def unit(row):
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def cosine(a, b):
    return sum(x * y for x, y in zip(unit(fitted(a, len(b))), unit(b), strict=True))


def softmax(scores):
    powers = {key: math.exp(score) for key, score in scores.items()}
    return {key: power / sum(powers.values()) for key, power in powers.items()}


def scores_of(classifier, row):
    return dict(enumerate(classifier(torch.tensor([row], dtype=torch.float64))[0].tolist()))


def divergence(old_scores, new_scores):
    p, q = softmax(old_scores), softmax(new_scores)
    return sum(p[k] * math.log(p[k] / q[k]) for k in p)


def influence_rows(new, target, classifier, new_to_old, width):
    rows = []
    for z, y in zip(new.tolist(), target.tolist(), strict=True):
        column = -1 if y < 0 else new_to_old[y]
        rows.append(None if column < 0 else -math.log(softmax(scores_of(classifier, fitted(z, width)))[column]))
    return rows


def contrastive_rows(new, old, target, pool, temperature, new_negatives):
    rows = []
    for z, o, y in zip(new.tolist(), old.tolist(), target.tolist(), strict=True):
        total = positive = math.exp(cosine(z, o) / temperature)
        for other_z, other_o, other_y in zip(*(part.tolist() for part in pool), strict=True):
            if other_y >= 0 and other_y != y:
                # All are compared in the old width, also two new ones.
                negatives = [other_o, fitted(other_z, OLD)] if new_negatives else [other_o]
                total += sum(math.exp(cosine(z, row) / temperature) for row in negatives)
        rows.append(None if y < 0 else -math.log(positive / total))
    return rows


def search_rows(new, target, gallery, labels, left_out, temperature):
    rows = []
    for i, (z, y) in enumerate(zip(new.tolist(), target.tolist(), strict=True)):
        there = [m for m in range(len(gallery)) if labels[m] >= 0 and not left_out[i, m]]
        found = [m for m in there if labels[m] == y]
        share = softmax({m: cosine(z, gallery[m].tolist()) / temperature for m in there})
        rows.append(-sum(math.log(share[m]) for m in found) / len(found) if found and y >= 0 else None)
    return rows


def distillation_rows(new, old, target, gallery, labels, left_out, temperature, tilt):
    rows = []
    for i, (z, o, y) in enumerate(zip(new.tolist(), old.tolist(), target.tolist(), strict=True)):
        there = [m for m in range(len(gallery)) if not left_out[i, m]]
        tilts = {m: tilt * (y >= 0 and int(labels[m]) == y) for m in there}
        of_old = {m: cosine(o, gallery[m].tolist()) / temperature + tilts[m] for m in there}
        of_new = {m: cosine(z, gallery[m].tolist()) / temperature for m in there}
        rows.append(divergence(of_old, of_new) if there else None)
    return rows


def assert_rows(values, mean, expected):
    counted = [row for row in expected if row is not None]
    assert counted
    assert values.tolist() == pytest.approx([row or 0.0 for row in expected], rel=1e-9, abs=1e-12)
    assert mean.item() == pytest.approx(sum(counted) / len(counted), rel=1e-9)


def both(function, *arguments, **options):
    return (function(*arguments, **options, reduction=reduction) for reduction in ("none", "mean"))


# -- the losses equal it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("new_to_old", [[0, 1, 2, 3], [2, -1, 0, 1]])
def test_influence_equals_the_loops(width, new_to_old):
    new, _, target = batch(width)
    found = both(influence_loss, new, target, head(), new_to_old=new_to_old, width=OLD)
    assert_rows(*found, influence_rows(new, target, head(), new_to_old, OLD))


@pytest.mark.parametrize("width", WIDTHS)
def test_soft_influence_equals_the_loops(width):
    (new, old, target), new_to_old = batch(width), [2, -1, 0, 1]
    expected = influence_rows(new, target, head(), new_to_old, OLD)
    for i, row in enumerate(expected):
        if row is None:
            z, o = (scores_of(head(), fitted(x[i].tolist(), OLD)) for x in (new, old))
            softened = ({k: s / 2 for k, s in scores.items()} for scores in (o, z))
            expected[i] = 4 * divergence(*softened)
    assert sum(y in {1, -100} for y in target.tolist()) == 3
    assert_rows(*both(soft_influence_loss, new, old, target, head(), new_to_old=new_to_old, temperature=2.0), expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_alignment_equals_the_loops(width):
    new, old, _ = batch(width)
    shared = min(width, OLD)
    pairs = zip(new[:, :shared].tolist(), old[:, :shared].tolist(), strict=True)
    assert_rows(*both(feature_alignment_loss, new, old), [2 - 2 * cosine(z, o) for z, o in pairs])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("new_negatives", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_contrastive_equals_the_loops(width, new_negatives, temperature):
    new, old, target = batch(width)
    labels = torch.cat([target, torch.tensor([0, -1, 3])])
    pool = Pool(torch.cat([new, randn(3, width, seed=8)]), torch.cat([old, randn(3, OLD, seed=9)]), labels)
    options = {"temperature": temperature, "new_negatives": new_negatives}
    found = both(contrastive_compatibility_loss, new, old, target, **options, pool=pool)
    assert_rows(*found, contrastive_rows(new, old, target, pool, **options))
    alone = both(contrastive_compatibility_loss, new, old, target, **options)
    assert_rows(*alone, contrastive_rows(new, old, target, Pool(new, old, target), **options))


def test_rows_of_the_same_class_are_taken_out_of_the_sum():
    """HocLoss multiplies their cosines by 0: each then still adds exp(0)."""
    new, old, _ = batch()
    same = torch.zeros(N, dtype=torch.int64)
    assert contrastive_compatibility_loss(new, old, same, reduction="none").tolist() == [0.0] * N


@pytest.mark.parametrize("width", WIDTHS)
def test_gallery_search_equals_the_loops(width):
    (new, _, target), (gallery, labels, left_out) = batch(width), searched()
    found = both(gallery_search_loss, new, target, gallery, labels, temperature=0.3, left_out=left_out)
    expected = search_rows(new, target, gallery, labels, left_out, 0.3)
    assert [i for i, row in enumerate(expected) if row is None] == [3, 4, 5]  # no label, no row, nobody of class 3
    assert_rows(*found, expected)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tilt", [0.0, 1.5])
def test_gallery_distillation_equals_the_loops(width, tilt):
    (new, old, target), (gallery, labels, left_out) = batch(width), searched()
    options = {"temperature": 0.3, "tilt": tilt, "left_out": left_out}
    found = both(gallery_distillation_loss, new, old, gallery, target=target, gallery_target=labels, **options)
    assert_rows(*found, distillation_rows(new, old, target, gallery, labels, **options))


def test_no_gallery_counts_for_nothing_and_keeps_the_graph():
    new, old, target = batch()
    new.requires_grad_()
    nothing = torch.zeros(0, OLD, dtype=torch.float64)
    loss = gallery_search_loss(new, target, nothing, target[:0]) + gallery_distillation_loss(new, old, nothing)
    loss.backward()
    assert loss.item() == 0
    assert new.grad.abs().max() == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_mixed_gallery_equals_the_loops(width):
    new, old, target = batch(width)
    is_old = torch.arange(N) % 3 == 0
    classifier, expected = head(width=width), []
    for z, o, y, replaced in zip(new.tolist(), old.tolist(), target.tolist(), is_old.tolist(), strict=True):
        if replaced:
            length = math.sqrt(sum(v * v for v in z))
            z = [length * v for v in unit(fitted(o, width))]
        expected.append(None if y < 0 else -math.log(softmax(scores_of(classifier, z))[y]))
    assert_rows(*both(mixed_gallery_loss, new, old, target, classifier, is_old), expected)


def test_class_means_equal_the_loops():
    _, old, target = batch()
    means = class_means(old, target, [2, 0])
    for row, label in zip(means, [2, 0], strict=True):
        torch.testing.assert_close(row, old[target == label].mean(0), rtol=1e-14, atol=0)
    assert class_means(old.float(), target, [2]).dtype == torch.float32


# -- gradients ---------------------------------------------------------------------------------------------------------


def losses(dtype=torch.float64):
    """All losses as functions of the new embedding, on data that leave out rows and pairs."""
    (_, old, target), (gallery, labels, left_out) = batch(), searched()
    old, gallery = old.to(dtype), gallery.to(dtype)
    labelled = {"target": target, "gallery_target": labels, "left_out": left_out}
    return {
        "influence": lambda z: influence_loss(z, target, head(), new_to_old=[1, -1, 2, 3], width=OLD),
        "soft": lambda z: soft_influence_loss(z, old, target, head(), new_to_old=[1, -1, 2, 3]),
        "alignment": lambda z: feature_alignment_loss(z, old),
        "contrastive": lambda z: contrastive_compatibility_loss(z, old, target, temperature=0.3),
        "ract": lambda z: contrastive_compatibility_loss(z, old, target, temperature=0.3, new_negatives=True),
        "search": lambda z: gallery_search_loss(z, target, gallery, labels, left_out=left_out),
        "distillation": lambda z: gallery_distillation_loss(z, old, gallery, **labelled, temperature=0.3, tilt=1.0),
        "mixed": lambda z: mixed_gallery_loss(z, old, target, head(), torch.arange(N) % 3 == 0),
    }


NAMES = list(losses())


@pytest.fixture
def anomalies():
    torch.autograd.set_detect_anomaly(True)
    yield
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.usefixtures("anomalies")
@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_passes_through_nan(name):
    """Trainer(detect_anomaly=True) stops there, also where a row without a gallery does not count."""
    losses()[name](batch()[0].requires_grad_()).backward()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mixed"])
@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_are_right(name, width):
    assert gradcheck(losses()[name], batch(width)[0].requires_grad_())


def test_a_replaced_row_gives_the_new_model_no_gradient():
    new, old, target = batch()
    is_old = torch.arange(N) % 3 == 0
    mixed_gallery_loss(new.requires_grad_(), old, target, head(), is_old).backward()
    assert (new.grad.abs().sum(1) > 0).tolist() == (~is_old & (target >= 0)).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_zeros_has_a_finite_gradient(name):
    new, *_ = batch()
    new[0] = 0
    losses()[name](new.requires_grad_()).backward()
    assert new.grad.isfinite().all()


@pytest.mark.parametrize("name", ["alignment", "contrastive", "ract", "search", "distillation"])
def test_lengths_do_not_matter(name):
    new, *_ = batch()
    torch.testing.assert_close(losses()[name](new), losses()[name](new * torch.arange(1, N + 1)[:, None]))


@pytest.mark.parametrize("new_negatives", [False, True])
def test_float32_is_precise_enough_under_autocast_and_at_a_low_temperature(new_negatives):
    new, old, target = batch()
    options = {"temperature": 0.01, "new_negatives": new_negatives}
    exact = contrastive_compatibility_loss(new, old, target, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = contrastive_compatibility_loss(new.float(), old.float(), target, **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_reduced_in_float32(name):
    new = batch()[0].bfloat16()
    loss = losses(torch.float32)[name](new)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), losses()[name](new.double()), rtol=2e-2, atol=0)


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("name", ["influence", "contrastive", "ract", "search", "mixed"])
def test_a_batch_with_nothing_to_learn_gives_a_zero_with_a_graph(name, unlabelled):
    new = randn(2 if unlabelled else 0, OLD).requires_grad_()
    old, target = randn(len(new), OLD, seed=1), torch.full((len(new),), -100)
    loss = {
        "influence": lambda: influence_loss(new, target, head()),
        "contrastive": lambda: contrastive_compatibility_loss(new, old, target),
        "ract": lambda: contrastive_compatibility_loss(new, old, target, new_negatives=True),
        "search": lambda: gallery_search_loss(new, target, old, target),
        "mixed": lambda: mixed_gallery_loss(new, old, target, head(), target < 0),
    }[name]()
    loss.backward()
    assert loss.item() == 0
    assert new.grad.abs().sum() == 0


# -- bad input ---------------------------------------------------------------------------------------------------------

CALLS = {
    "influence": lambda z, o, y: influence_loss(z, y, head()),
    "soft": lambda z, o, y: soft_influence_loss(z, o, y, head()),
    "alignment": lambda z, o, y: feature_alignment_loss(z, o),
    "contrastive": contrastive_compatibility_loss,
    "search": lambda z, o, y: gallery_search_loss(z, y, o, y),
    "distillation": lambda z, o, y: gallery_distillation_loss(z, o, o, target=y, gallery_target=y, tilt=1.0),
    "mixed": lambda z, o, y: mixed_gallery_loss(z, o, y, head(), torch.zeros(N, dtype=torch.bool)),
}
WITH_OLD = [name for name in CALLS if name != "influence"]
WITH_TARGET = [name for name in CALLS if name != "alignment"]


def poisoned(rows, value=math.nan):
    rows = rows.clone()
    rows[2, 1] = value
    return rows


def assert_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        CALLS[name](*change(*batch()))


@pytest.mark.parametrize("name", CALLS)
def test_bad_new_embeddings_are_refused(name):
    assert_refused(name, lambda z, o, y: (poisoned(z), o, y), "finite new_embedding, got NaN or Inf. Lower")
    assert_refused(name, lambda z, o, y: (poisoned(z, math.inf), o, y), "finite new_embedding")
    assert_refused(name, lambda z, o, y: (z[:, :, None], o, y), "new_embedding as a floating matrix")
    assert_refused(name, lambda z, o, y: (z.long(), o, y), "new_embedding as a floating matrix")


@pytest.mark.parametrize("name", WITH_OLD)
def test_bad_old_embeddings_are_refused(name):
    assert_refused(name, lambda z, o, y: (z, poisoned(o), y), "finite (old_embedding|gallery), got NaN.*float16")
    assert_refused(name, lambda z, o, y: (z, o.clone().requires_grad_(), y), "without grad: the old model is frozen")


@pytest.mark.parametrize("name", [name for name in WITH_OLD if name != "search"])
def test_another_number_of_old_embeddings_is_refused(name):
    assert_refused(name, lambda z, o, y: (z, o[:4], y), "Expected old_embedding of 9 rows")


@pytest.mark.parametrize("name", WITH_TARGET)
def test_bad_targets_are_refused(name):
    assert_refused(name, lambda z, o, y: (z, o, y[:4]), "integer (gallery_)?target of shape")
    assert_refused(name, lambda z, o, y: (z, o, y.double()), "integer (gallery_)?target")


@pytest.mark.parametrize("name", ["influence", "soft", "mixed"])
def test_a_label_without_a_column_is_refused(name):
    assert_refused(name, lambda z, o, y: (z, o, y + 1), "classes below 4, the columns of the classifier, got 4")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, o, y: influence_loss(z, y, head(), new_to_old=[0, 1]), "targets below 2, the length of new_to_old"),
        (lambda z, o, y: influence_loss(z, y, nn.Linear(OLD, 4).double()), "frozen classifier, got weights"),
        (lambda z, o, y: influence_loss(z, y, lambda z: z[:, 0]), r"returns scores \(9, C\)"),
        (lambda z, o, y: feature_alignment_loss(z, o, reduction="sum"), "Expected reduction"),
        (lambda z, o, y: contrastive_compatibility_loss(z, o, y, temperature=0.0), "temperature > 0"),
        (lambda z, o, y: gallery_search_loss(z, y, o, y, temperature=-1), "temperature > 0"),
        (lambda z, o, y: gallery_search_loss(z, y, o, y, left_out=torch.eye(N)), "left_out as bool"),
        (lambda z, o, y: gallery_distillation_loss(z, o, o, tilt=1.0), "target and gallery_target for a tilt"),
        (lambda z, o, y: gallery_distillation_loss(z, o[:, :2], o), "as wide as the gallery"),
        (lambda z, o, y: mixed_gallery_loss(z, o, y, head(), y), "is_old as bool"),
        (lambda z, o, y: class_means(o, y, [0, 9]), r"got none of \[9\]"),
        (lambda z, o, y: class_means(o, y, [0, 0]), "each once"),
        (lambda z, o, y: class_means(poisoned(o), y, [0]), "finite old_embedding"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*batch())
