"""The modules: what they hold, freeze, remember and draw; their formulas are tested with the functions."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_graceful import OldModel
from lightning_graceful.functional.embedding_losses import (
    class_means,
    contrastive_compatibility_loss,
    feature_alignment_loss,
    gallery_distillation_loss,
    gallery_search_loss,
    soft_influence_loss,
)
from lightning_graceful.losses.classifiers import CosineClassifier, input_width
from lightning_graceful.losses.compatibility import ContrastiveCompatibilityLoss, FeatureAlignmentLoss
from lightning_graceful.losses.gallery import GalleryDistillationLoss, GallerySearchLoss
from lightning_graceful.losses.influence import InfluenceLoss, SoftInfluenceLoss
from lightning_graceful.losses.memory import GalleryMemory
from lightning_graceful.losses.mixed_gallery import CredibleMixedGalleryLoss, Draws, MixedGalleryLoss
from lightning_graceful.losses.query_head import QueryHead
from tests.litmodels import CLASSES, HIDDEN, Net

N = 8


def batch(n=N, width=HIDDEN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    new, old = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (width, HIDDEN))
    return new, old, torch.arange(n) % CLASSES


def linear(seed=1, width=HIDDEN):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(width, CLASSES).double()


# -- influence ---------------------------------------------------------------------------------------------------------


def test_influence_is_the_cross_entropy_of_the_old_head():
    (new, _, target), head = batch(), linear()
    torch.testing.assert_close(InfluenceLoss(head)(new, target), F.cross_entropy(head(new), target))


@pytest.mark.parametrize("width", [HIDDEN - 2, HIDDEN + 3])
def test_influence_fits_the_new_embedding_to_the_head(width):
    (new, _, target), head = batch(width=width), nn.Sequential(nn.ReLU(), linear())
    seen = new[:, :HIDDEN] if width > HIDDEN else torch.cat([new, new.new_zeros(N, HIDDEN - width)], 1)
    expected = F.cross_entropy(head(seen), target)
    torch.testing.assert_close(InfluenceLoss(head)(new, target), expected)
    old = OldModel(nn.Sequential(nn.Flatten(), head), classifier="1")
    torch.testing.assert_close(InfluenceLoss(old.classifier)(new, target), expected)
    hidden_width = copy.deepcopy(head)
    hidden_width[1].in_features = None
    torch.testing.assert_close(InfluenceLoss(hidden_width, width=HIDDEN)(new, target), expected)


def test_the_first_layer_tells_the_width():
    assert input_width(nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 5))) == 7
    assert input_width(nn.Sequential(nn.ReLU(), nn.Linear(7, 5))) == 7
    assert input_width(OldModel(Net(), classifier="fc").classifier) == HIDDEN
    assert input_width(CosineClassifier(torch.eye(3))) == 3
    assert input_width(nn.ReLU()) is None


def test_the_head_is_a_frozen_copy_that_nobody_trains_or_saves():
    head = nn.Sequential(nn.Dropout(0.5), linear())
    loss = InfluenceLoss(head, new_to_old=[0, 1, 2]).train()
    (new, _, target), before = batch(), copy.deepcopy(head.state_dict())
    first, second = (loss(new.requires_grad_(), target) for _ in range(2))
    first.backward()
    assert torch.equal(first, second)
    assert new.grad.abs().max() > 0
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert all(p.grad is None and p.requires_grad for p in head.parameters())
    nn.init.zeros_(head[1].weight)
    torch.testing.assert_close(loss(new, target), first)
    assert torch.equal(loss.classifier.frozen[1].weight, before["1.weight"])
    assert loss.bfloat16()(new.bfloat16(), target).dtype == torch.float32


def test_the_head_of_an_old_model_is_not_copied():
    old = OldModel(Net(), classifier="fc")
    assert InfluenceLoss(old.classifier).classifier is old.classifier
    assert SoftInfluenceLoss(old.classifier).classifier is old.classifier


def test_labels_are_mapped_and_unknown_classes_left_out():
    (new, _, _), head = batch(), linear()
    target = torch.tensor([0, 1, 2, 3, 0, 1, -100, 3])
    loss = InfluenceLoss(head, new_to_old=[2, 0, -1, 1])
    known = [0, 1, 3, 4, 5, 7]
    expected = F.cross_entropy(head(new)[known], torch.tensor([2, 0, 1, 2, 0, 1]))
    torch.testing.assert_close(loss(new, target), expected)
    with pytest.raises(ValueError, match=r"columns of the classifier, got 3.*new_to_old"):
        InfluenceLoss(head)(new, target)
    with pytest.raises(ValueError, match="targets below 4, the length of new_to_old"):
        loss(new, target + 1)


@pytest.mark.parametrize("cosine", [False, True])
def test_extra_rows_stand_for_the_classes_that_the_old_model_does_not_know(cosine):
    (new, old, _), head = batch(), linear()
    target = torch.tensor([0, 1, 2, 3, 4, 1, -100, 3])
    rows = class_means(old, target, [1, 4])
    classifier = CosineClassifier.from_linear(head, 7.0) if cosine else head
    found = InfluenceLoss(classifier, new_to_old=[2, -1, 0, 1, -1], extra_rows=rows)(new, target)
    if cosine:
        z, every = F.normalize(new), F.normalize(torch.cat([head.weight, rows]))
        scores = 7 * z @ every.T
    else:
        scores = torch.cat([head(new), new @ rows.T], 1)
    # Columns: three old classes, then the rows of classes 1 and 4.
    right = torch.tensor([2, 3, 0, 1, 4, 3, -100, 1])
    torch.testing.assert_close(found, F.cross_entropy(scores, right))


def test_extra_rows_are_frozen_and_move_with_the_loss():
    loss = InfluenceLoss(linear(), new_to_old=[0, 1, 2, -1], extra_rows=torch.ones(1, HIDDEN))
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert copy.deepcopy(loss).bfloat16()(batch()[0].bfloat16(), batch()[2]).isfinite()


def test_soft_influence_is_the_function():
    (new, old, _), head, new_to_old = batch(width=HIDDEN + 2), linear(), [2, -1, 0]
    target = torch.tensor([0, 1, 2, -100, 0, 1, 2, 0])
    loss = SoftInfluenceLoss(head, new_to_old=new_to_old, temperature=3.0)
    options = {"new_to_old": new_to_old, "temperature": 3.0}
    expected = soft_influence_loss(new, old, target, lambda z: F.linear(z, head.weight, head.bias), **options)
    torch.testing.assert_close(loss(new, old, target), expected)
    assert not list(loss.parameters())


def test_cosine_classifier_knows_no_lengths():
    rows, (new, *_) = torch.randn(5, HIDDEN, dtype=torch.float64), batch()
    classifier = CosineClassifier(rows)
    torch.testing.assert_close(classifier(3 * new), 30 * F.normalize(new) @ F.normalize(rows).T)
    assert classifier.weight.requires_grad
    classifier.weight.data.zero_()
    assert rows.abs().max() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert CosineClassifier(rows.float())(new.float()).dtype == torch.float32


# -- alignment and contrast --------------------------------------------------------------------------------------------


def test_modules_hand_their_options_on():
    new, old, target = batch()
    torch.testing.assert_close(FeatureAlignmentLoss()(new, old), feature_alignment_loss(new, old))
    for negatives in (False, True):
        expected = contrastive_compatibility_loss(new, old, target, temperature=0.3, new_negatives=negatives)
        torch.testing.assert_close(ContrastiveCompatibilityLoss(0.3, negatives)(new, old, target), expected)


def test_unlabelled_rows_do_not_thin_the_contrast():
    new, old, target = batch()
    target[2] = -100
    expected = contrastive_compatibility_loss(new, old, target)
    torch.testing.assert_close(ContrastiveCompatibilityLoss()(new, old, target), expected)


# -- galleries that remember -------------------------------------------------------------------------------------------


def test_memory_keeps_the_latest_rows():
    memory, batches = GalleryMemory(7), [batch(3, seed=seed) for seed in range(4)]
    for _, old, target in batches:
        memory.keep(*memory.joined(old, target))
    latest = [torch.cat(parts)[:7] for parts in zip(*((old, target) for _, old, target in batches[::-1]), strict=True)]
    assert torch.equal(memory.embedding, latest[0])
    assert torch.equal(memory.target, latest[1])
    assert not memory.state_dict()
    _, old, target = batch(20)
    assert torch.equal(memory.joined(old, target)[0], old[:7])


def test_memory_is_not_the_batch():
    _, old, target = batch()
    memory = GalleryMemory()
    memory.keep(*memory.joined(old, target))
    before = old.clone()
    old.zero_()
    assert torch.equal(memory.embedding, before)


def gallery_losses():
    return [GallerySearchLoss(0.3, memory=20), GalleryDistillationLoss(0.3, tilt=1.0, memory=20)]


def run(loss, *batches):
    return [loss(new, old, target) for new, old, target in batches]


def test_galleries_hold_this_batch_and_those_before_but_not_the_item_itself():
    batches = [batch(seed=seed) for seed in range(4)]
    new, old, target = batches[2]
    search, distillation = gallery_losses()
    found = run(search, *batches)[2], run(distillation, *batches)[2]
    gallery, labels = (torch.cat([b[k] for b in (batches[2], batches[1], batches[0])])[:20] for k in (1, 2))
    left_out = torch.eye(N, 20, dtype=torch.bool)
    options = {"temperature": 0.3, "left_out": left_out}
    torch.testing.assert_close(found[0], gallery_search_loss(new, target, gallery, labels, **options))
    labelled = {"target": target, "gallery_target": labels, "tilt": 1.0}
    torch.testing.assert_close(found[1], gallery_distillation_loss(new, old, gallery, **labelled, **options))


@pytest.mark.parametrize("which", [0, 1])
def test_an_item_of_an_earlier_epoch_is_not_searched_for_itself(which):
    loss, first, second = gallery_losses()[which], batch(4), batch(4, seed=1)
    run(loss, first, second)
    rows = torch.tensor([2, 0, 3, 1])
    new, old, target = (part[rows] for part in first)
    found = loss(new, old, target)
    gallery, labels = (torch.cat([part, second[k], first[k]]) for k, part in ((1, old), (2, target)))
    ids = torch.cat([rows, torch.arange(4, 8), torch.arange(4)])
    options = {"temperature": 0.3, "left_out": rows[:, None] == ids}
    if which == 0:
        expected = gallery_search_loss(new, target, gallery, labels, **options)
    else:
        labelled = {"target": target, "gallery_target": labels, "tilt": 1.0}
        expected = gallery_distillation_loss(new, old, gallery, **labelled, **options)
    torch.testing.assert_close(found, expected)


def test_distillation_asks_for_labels_only_if_it_tilts():
    new, old, _ = batch()
    plain = GalleryDistillationLoss()
    assert plain.asks == ("new_embedding", "old_embedding")
    assert plain(new, old) > 0
    assert torch.equal(plain.memory.target, torch.full((N,), -1))
    with pytest.raises(ValueError, match="for a tilt"):
        GalleryDistillationLoss(tilt=1.0)(new, old)


@pytest.mark.parametrize("which", [0, 1])
def test_a_refused_batch_is_not_remembered(which):
    loss = gallery_losses()[which]
    new, old, target = batch()
    with pytest.raises(ValueError, match="finite"):
        loss(new, old * math.nan, target)
    assert loss.memory.embedding is None
    loss(new, old, target)
    with pytest.raises(ValueError, match="of width 6, as in the batches before, got 5"):
        loss(new, old[:, :5], target)


@pytest.mark.parametrize("which", [0, 1])
def test_gallery_losses_name_what_is_wrong(which):
    loss = gallery_losses()[which]
    new, old, target = batch()
    for arguments, message in [
        ((new, old.clone().requires_grad_(), target), "without grad"),
        ((new, old[:3], target), "old_embedding of 8 rows"),
        ((new, old[:, 0], target), "floating matrix"),
        ((new * math.nan, old, target), "finite new_embedding"),
        ((new, old, target[:3]), "integer target"),
    ]:
        with pytest.raises(ValueError, match=message):
            loss(*arguments)


# -- mixed galleries ---------------------------------------------------------------------------------------------------


def test_a_share_of_the_new_embeddings_is_replaced():
    classifier, seen = linear(), []
    classifier.register_forward_hook(lambda _module, inputs, _outputs: seen.append(inputs[0].detach()))
    new, old, target = batch(400)
    loss = MixedGalleryLoss(classifier, share=0.3)
    loss(new, old, target).backward()
    replaced = (seen[0] != new).any(1)
    assert 0.2 < replaced.double().mean() < 0.4
    length = new.norm(dim=1, keepdim=True)
    torch.testing.assert_close(seen[0], (length * F.normalize(old)).where(replaced[:, None], new))
    assert classifier.weight.grad.abs().max() > 0
    assert [id(p) for p in loss.parameters()] == [id(p) for p in classifier.parameters()]


def test_draws_depend_on_seed_and_number_alone():
    rows, torch_before = torch.zeros(1000, 1), torch.random.get_rng_state()
    draws, other, resumed = Draws(0.5, 0), Draws(0.5, 1), Draws(0.5, 0)
    first, second = draws(rows), draws(rows)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other(rows))
    resumed.load_state_dict(draws.state_dict())
    assert torch.equal(resumed(rows), draws(rows))
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert Draws(0.0, 0)(rows).sum() == 0


def test_only_credible_old_embeddings_are_taken():
    classifier, seen = linear(), []
    classifier.register_forward_hook(lambda _module, inputs, _outputs: seen.append(inputs[0].detach()))
    new, old, _ = batch(4)
    target = torch.tensor([0, 1, 2, -100])
    logits = torch.tensor([[9.0, 0.0, -math.inf], [9.0, 0.0, -math.inf], [0.0, 0.0, -math.inf], [0.0, 0.0, 9.0]])
    CredibleMixedGalleryLoss(classifier, share=1.0)(new, old, logits, target)
    assert (seen[0] != new).any(1).tolist() == [True, False, False, False]


# -- query heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [True, False])
def test_a_query_head_maps_before_the_loss(detach):
    new, old, _ = batch(width=HIDDEN + 3)
    head = nn.Linear(HIDDEN + 3, HIDDEN).double()
    term = QueryHead(FeatureAlignmentLoss(), head, detach=detach)
    loss = term(new_embedding=new.requires_grad_(), old_embedding=old)
    torch.testing.assert_close(loss, feature_alignment_loss(head(new), old))
    loss.backward()
    assert head.weight.grad.abs().max() > 0
    assert (new.grad is None) == detach
    assert term.state_dict().keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("loss", "asks"),
    [
        (FeatureAlignmentLoss(), ("new_embedding", "old_embedding")),
        (feature_alignment_loss, ("new_embedding", "old_embedding")),
        (GalleryDistillationLoss(), ("new_embedding", "old_embedding")),
        (GalleryDistillationLoss(tilt=1.0), ("new_embedding", "old_embedding", "target")),
        (InfluenceLoss(nn.Linear(HIDDEN, CLASSES)), ("new_embedding", "target")),
        (QueryHead(FeatureAlignmentLoss(), nn.Identity()), ("new_embedding", "old_embedding")),
    ],
)
def test_a_query_head_asks_for_what_its_loss_asks_for(loss, asks):
    assert QueryHead(loss, nn.Identity()).asks == asks


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InfluenceLoss(None), "old classifier as an nn.Module, got NoneType"),
        (lambda: SoftInfluenceLoss(OldModel(Net()).classifier), "old classifier as an nn.Module"),
        (lambda: InfluenceLoss(linear(), new_to_old=[0, -2]), "new_to_old as a list of columns"),
        (lambda: InfluenceLoss(linear(), new_to_old=[]), "new_to_old as a list of columns"),
        (lambda: InfluenceLoss(linear(), extra_rows=torch.ones(1, HIDDEN)), "for each class that is -1.*, 0, got 1"),
        (
            lambda: InfluenceLoss(linear(), new_to_old=[-1, 0, -1], extra_rows=torch.ones(1, HIDDEN)),
            "for each class that is -1 in new_to_old, 2, got 1",
        ),
        (
            lambda: InfluenceLoss(linear(), new_to_old=[-1, 0], extra_rows=torch.full((1, HIDDEN), math.nan)),
            "extra_rows as a finite floating matrix",
        ),
        (lambda: SoftInfluenceLoss(linear(), temperature=0), "temperature > 0"),
        (lambda: CosineClassifier(torch.eye(3), scale=0), "scale > 0"),
        (lambda: CosineClassifier(torch.ones(3)), "weight as a finite floating matrix"),
        (lambda: ContrastiveCompatibilityLoss(temperature=0), "temperature > 0"),
        (lambda: GallerySearchLoss(temperature=-1), "temperature > 0"),
        (lambda: GalleryDistillationLoss(memory=0), "memory of at least 1 row"),
        (lambda: MixedGalleryLoss(None), "classifier that is an nn.Module"),
        (lambda: MixedGalleryLoss(linear(), share=1.5), "share in"),
        (lambda: CredibleMixedGalleryLoss(linear(), threshold=2), "threshold in"),
        (lambda: QueryHead(lambda new_logits: new_logits, nn.Identity()), "asks for new_embedding"),
        (lambda: QueryHead(lambda new: new, nn.Identity()), "arguments of the term 'loss'"),
        (lambda: QueryHead(FeatureAlignmentLoss(), None), "head that is an nn.Module"),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, o, s, y: (z, o, s[:3], y), "old_logits"),
        (lambda z, o, s, y: (z, o, s.requires_grad_(), y), "old_logits .* without grad"),
        (lambda z, o, s, y: (z, o, s, y + 1), "targets below 3, the classes of old_logits, got 3.*label_map"),
    ],
)
def test_bad_old_logits_are_refused(change, message):
    new, old, target = batch()
    loss = CredibleMixedGalleryLoss(linear())
    with pytest.raises(ValueError, match=message):
        loss(*change(new, old, torch.zeros(N, CLASSES), target))


def test_losses_print_their_options():
    printed = repr(nn.ModuleList([*gallery_losses(), ContrastiveCompatibilityLoss(), CosineClassifier(torch.eye(2))]))
    for option in ("temperature=0.3, tilt=1.0", "rows=20", "new_negatives=False", "scale=30.0"):
        assert option in printed
