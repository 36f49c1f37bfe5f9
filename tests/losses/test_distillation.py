import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from lightning_graceful.functional.distillation import focal_distillation_loss, new_error_loss
from lightning_graceful.losses.distillation import FocalDistillationLoss, NewErrorLoss


def batch(n=12, classes=5, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    new, old = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return new, old, torch.randint(classes, (n,), generator=generator)


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def distance(new, old, kind, temperature, class_reduction):
    if kind == "logit":
        squares = [(a - b) ** 2 / 2 for a, b in zip(new, old, strict=True)]
        return sum(squares) / (len(squares) if class_reduction == "mean" else 1)
    p, q = softmax([v / temperature for v in old]), softmax([v / temperature for v in new])
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def oracle(new, old, target, alpha, beta, kind, temperature, focus, class_reduction):
    total = 0.0
    for n, o, t in zip(new.tolist(), old.tolist(), target.tolist(), strict=True):
        old_right, new_right = int(np.argmax(o)) == t, int(np.argmax(n)) == t
        hit = {
            "old_correct": old_right,
            "all": True,
            "neg_flip": old_right and not new_right,
            "new_incorrect": not new_right,
        }[focus]
        total += (alpha + (beta if hit else 0)) * distance(n, o, kind, temperature, class_reduction)
    return total / len(new)


@pytest.mark.parametrize("focus", ["old_correct", "all", "neg_flip", "new_incorrect"])
@pytest.mark.parametrize(("kind", "class_reduction"), [("kl", "mean"), ("logit", "mean"), ("logit", "sum")])
@pytest.mark.parametrize("temperature", [1.0, 5.0, 100.0])
def test_focal_distillation_equals_the_loops(focus, kind, class_reduction, temperature):
    options = {"alpha": 0.5, "beta": 3.0, "kind": kind, "temperature": temperature, "focus": focus}
    new, old, target = batch()
    result = FocalDistillationLoss(**options, class_reduction=class_reduction)(new, old, target)
    expected = oracle(new, old, target, **options, class_reduction=class_reduction)
    assert result.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["kl", "logit"])
def test_two_samples_one_of_them_old_correct(kind):
    new, old, _ = batch(2)
    target = torch.tensor([int(old[0].argmax()), int(old[1].argmin())])
    d1, d2 = focal_distillation_loss(new, old, target, alpha=1, beta=0, kind=kind, reduction="none")
    result = FocalDistillationLoss(alpha=2, beta=7, kind=kind)(new, old, target)
    torch.testing.assert_close(result, ((2 + 7) * d1 + 2 * d2) / 2)


def test_weights_reach_their_own_sample():
    """The official code broadcasts (N, 1) weights with (N,) distances, and the focus vanishes."""
    new, old, target = batch(6)
    flipped = old[[1, 0, 2, 3, 4, 5]]
    assert not torch.isclose(focal_distillation_loss(new, old, target), focal_distillation_loss(new, flipped, target))


def test_new_error_equals_the_loops():
    new, old, target = batch(40)
    expected = sum(
        -math.log(softmax(n)[t])
        for n, o, t in zip(new.tolist(), old.tolist(), target.tolist(), strict=True)
        if int(np.argmax(o)) == t
    )
    assert NewErrorLoss()(new, old, target).item() == pytest.approx(expected / 40, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 100.0])
def test_gradients_are_right_far_and_near(temperature):
    new, old, target = batch(6, scale=2.0)
    new[:3] = old[:3] + 1e-3 * new[:3]
    assert gradcheck(lambda n: focal_distillation_loss(n, old, target, temperature=temperature), new.requires_grad_())


def test_float32_keeps_its_digits_at_a_high_temperature():
    new, old, target = batch(200, classes=1000, scale=5.0)
    exact = focal_distillation_loss(new, old, target, reduction="none")
    single = focal_distillation_loss(new.float(), old.float(), target, reduction="none")
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=0)


def test_equal_logits_cost_nothing_and_are_never_negative():
    _, old, target = batch(50)
    assert focal_distillation_loss(old.float(), old.float(), target, reduction="none").abs().max() == 0
    assert (focal_distillation_loss(old.float() + 1e-4, old.float(), target, reduction="none") >= 0).all()


def test_extreme_logits_stay_finite():
    new = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = focal_distillation_loss(new, torch.tensor([[-1e4, 1e4, 0.0]]), torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert new.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["kl", "logit"])
def test_classes_the_old_model_never_knew_do_not_count(kind):
    new, old, target = batch(8, classes=4)
    wider_new = torch.cat([new, torch.randn(8, 2, dtype=torch.float64)], dim=1).requires_grad_()
    wider_old = torch.cat([old, torch.full((8, 2), -math.inf, dtype=torch.float64)], dim=1)
    result = focal_distillation_loss(wider_new, wider_old, target, kind=kind)
    torch.testing.assert_close(result, focal_distillation_loss(new, old, target, kind=kind))
    result.backward()
    assert wider_new.grad[:, 4:].abs().max() == 0
    assert wider_new.grad.isfinite().all()


def test_half_precision_is_reduced_in_float32():
    new, old, target = batch(20)
    result = FocalDistillationLoss()(new.bfloat16(), old.bfloat16(), target)
    assert result.dtype == torch.float32
    exact = FocalDistillationLoss()(new.bfloat16().double(), old.bfloat16().double(), target)
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=0)


def test_empty_batch_gives_a_zero_with_a_graph():
    new = torch.zeros(0, 3, requires_grad=True)
    loss = FocalDistillationLoss()(new, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("function", [focal_distillation_loss, new_error_loss])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, o, t: (n, o[:3], t), "Expected new_logits"),
        (lambda n, o, t: (n, o, t[:3]), "Expected new_logits"),
        (lambda n, o, t: (n, o[:, :3], t), "label_map"),
        (lambda n, o, t: (n, o.clone().requires_grad_(), t), "without grad"),
        (lambda n, o, t: (n, o, t + 4), r"targets in \[0, 5\)"),
        (lambda n, o, t: (n, o, t - 9), r"targets in \[0, 5\)"),
        (lambda n, o, t: (n * math.nan, o, t), "finite new_logits"),
        (lambda n, o, t: (n, o * math.nan, t), "old_logits without NaN"),
    ],
)
def test_bad_input_is_refused(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(*change(*batch()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "l1"}, "kind"),
        ({"focus": "none"}, "focus"),
        ({"class_reduction": "sum"}, "class_reduction"),
        ({"kind": "logit", "class_reduction": "max"}, "class_reduction"),
        ({"reduction": "sum"}, "reduction"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        focal_distillation_loss(*batch(), **options)


@pytest.mark.parametrize("options", [{"alpha": -1}, {"beta": -1}, {"temperature": 0}])
def test_impossible_weights_are_refused(options):
    with pytest.raises(ValueError, match="Expected alpha"):
        FocalDistillationLoss(**options)
