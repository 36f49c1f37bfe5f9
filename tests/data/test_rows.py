"""Rows: what they hold, and what is given back; top-k rows against a slow float64 oracle."""

import math
import struct

import numpy as np
import pytest
import torch

from lightning_graceful.data.batch import Outputs
from lightning_graceful.data.encode import encode, target_key
from lightning_graceful.data.rows import RowLayout, Rows
from lightning_graceful.data.top_k import compress, expand
from tests.data.store_files import bits

INF = math.inf


def stored(layout, logits=None, embedding=None):
    first = logits if logits is not None else embedding
    numbers = np.arange(len(first))
    rows = encode(layout, Outputs(logits, embedding), target_key(None), torch.zeros(1, dtype=torch.int64), numbers, 0)
    return Rows(torch.from_numpy(rows), layout)


def expected_top_k(logits, k):
    """Give the dense float64 log-probabilities that a top-k row stands for, by loops over Python floats."""
    dense = []
    for row in logits.tolist():
        top = max(row)
        total = math.fsum(math.exp(value - top) for value in row)
        best = sorted(range(len(row)), key=lambda c: -row[c])[:k]
        tail = math.fsum(math.exp(value - top) for c, value in enumerate(row) if c not in best) / total
        share = math.log(tail / (len(row) - k)) if tail else -INF
        dense.append([row[c] - top - math.log(total) if c in best else share for c in range(len(row))])
    return dense


@pytest.mark.parametrize("classes", [3, 1000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_top_k_gives_the_oracle_to_half_precision(classes, scale):
    logits = torch.randn(20, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64) * scale
    found = stored(RowLayout(classes, top_k=2), logits).outputs().logits
    assert found.dtype == torch.float32
    truth = torch.tensor(expected_top_k(logits, 2), dtype=torch.float64)
    torch.testing.assert_close(found.double(), truth, rtol=2**-10, atol=2**-11)
    assert torch.equal(found.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("classes", [11, 65_535, 65_536, 65_537, 70_000])
def test_large_ids_survive(classes):
    logits = torch.zeros(3, classes)
    high = torch.tensor([classes - 1, 32_768 % classes, 40_000 % classes])
    logits[torch.arange(3), high] = 9.0
    layout = RowLayout(classes, top_k=10)
    assert stored(layout, logits).outputs().logits.argmax(1).tolist() == high.tolist()
    assert (layout.nbytes <= 64) == (classes <= 65_536)


def test_files_of_top_k_rows_by_struct():
    layout = RowLayout(50_000, embedding=3, dtype="float32", top_k=2)
    logits = torch.full((1, 50_000), -20.0)
    logits[0, 49_999], logits[0, 7] = 3.0, 2.0
    raw = stored(layout, logits, torch.tensor([[0.5, -1.0, 2.0]])).buffer.numpy().tobytes()
    first, second, tail, *rest = struct.unpack("<3e2H2x3fqII", raw)
    total = math.exp(3) + math.exp(2) + 49_998 * math.exp(-20)
    assert [first, second] == pytest.approx([math.log(math.exp(3) / total), math.log(math.exp(2) / total)], rel=2**-10)
    assert tail == pytest.approx(math.log(49_998 * math.exp(-20) / total), rel=2**-10)
    assert rest[:6] == [49_999, 7, 0.5, -1.0, 2.0, -(2**63)]


def test_tail_is_accurate_where_almost_nothing_is_left():
    # 1 - p of the largest class in float32 would be 0 here.
    kept = compress(torch.tensor([[40.0, 0.0, 0.0]]), k=1)
    assert kept.log_probs[0].tolist() == pytest.approx([0.0, math.log(2) - 40], rel=2**-10)
    assert compress(torch.tensor([[0.0, 0.0, -200_000.0]]), k=2).log_probs[0, 2] == -65_504


@pytest.mark.parametrize("classes", [6, 600])
def test_softmax_of_top_k_sums_to_one_and_keeps_the_masses(classes):
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(0)) * 3
    found = stored(RowLayout(classes, top_k=5), logits).outputs().logits
    torch.testing.assert_close(found.exp().sum(1), torch.ones(50), rtol=0, atol=2e-3)
    true, kept = logits.softmax(1), found.softmax(1)
    top = logits.topk(5).indices
    torch.testing.assert_close(kept.gather(1, top), true.gather(1, top), rtol=4e-3, atol=0)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_old_predictions_survive_half_precision(k):
    logits = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 1, 2000)[:, None]
    plain = logits.log_softmax(1).half().float()
    assert (plain.argmax(1) != logits.argmax(1)).sum() > 100  # rounding alone loses some
    assert torch.equal(stored(RowLayout(100, top_k=k), logits).outputs().logits.argmax(1), logits.argmax(1))


def test_classes_that_the_old_model_never_knew():
    logits = torch.tensor([[2.0, -INF, 1.0, -INF, -INF], [3.0, 2.0, 1.0, 0.0, -INF]])
    found = stored(RowLayout(5, top_k=3), logits).outputs().logits
    # Fewer than k are finite: the unknown ones stay unknown, and nothing is shared.
    assert torch.isneginf(found[0]).tolist() == [False, True, False, True, True]
    torch.testing.assert_close(found[0].softmax(0), logits[0].softmax(0), rtol=2e-3, atol=0)
    # More are finite: the others, unknown or not, share the tail equally.
    assert found[1, 3] == found[1, 4] > -INF
    assert torch.isfinite(stored(RowLayout(5, top_k=1), logits).outputs().logits).all()


@pytest.mark.parametrize("value", [math.nan, INF])
def test_top_k_refuses_what_no_model_should_say(value):
    logits = torch.zeros(2, 5)
    logits[1, 4] = value
    with pytest.raises(ValueError, match=r"logits without NaN or Inf .* in row 1\."):
        stored(RowLayout(5, top_k=2), logits)
    with pytest.raises(ValueError, match=r"a finite logit in every row.*none in row 0\."):
        stored(RowLayout(5, top_k=2), torch.full((1, 5), -INF))


def test_logits_too_large_for_half_precision_are_welcome_in_top_k():
    found = stored(RowLayout(3, top_k=1), torch.tensor([[1e30, 9e29, -1e30]])).outputs().logits
    assert found[0].isfinite().all()
    assert found[0].argmax() == 0


@pytest.mark.parametrize("top_k", [0, 5, 6, -1, 2.0, True])
def test_wrong_top_k_is_refused(top_k):
    with pytest.raises(ValueError, match=r"top_k in \[1, 5\)"):
        RowLayout(5, top_k=top_k)
    with pytest.raises(ValueError, match="top_k"):
        RowLayout(embedding=5, top_k=1)


def test_expanding_unfilled_rows_does_no_harm():
    layout = RowLayout(70_000, top_k=10)
    rows = Rows(torch.zeros(2, layout.nbytes, dtype=torch.uint8), layout)
    assert rows.outputs().logits.shape == (2, 70_000)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("logits", "embedding"), [(5, 2), (4, None), (None, 3)])
def test_outputs_are_the_rounded_ones_in_float32(dtype, logits, embedding):
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 9
    given = Outputs(
        None if logits is None else values[:, :logits], None if embedding is None else values[:, :embedding]
    )
    rows = stored(RowLayout(logits, embedding, dtype), *given)
    for got, want in zip(rows.outputs(torch.device("cpu")), given, strict=True):
        if want is None:
            assert got is None
        else:
            assert got.is_contiguous()
            assert torch.equal(bits(got), bits(want.to(getattr(torch, dtype)).float()))


def test_outputs_own_their_memory():
    rows = stored(RowLayout(5, 2, "float32"), torch.ones(3, 5), torch.ones(3, 2))
    before = rows.buffer.clone()
    for part in rows.outputs():
        part.zero_()
    assert torch.equal(rows.buffer, before)


def test_special_floats_survive():
    logits = torch.tensor([[-0.0, -INF, 1e-45, 3.4028235e38, 0.1]])
    assert torch.equal(bits(stored(RowLayout(5, dtype="float32"), logits).outputs().logits), bits(logits))


def test_selected_rows():
    rows = stored(RowLayout(1, dtype="float32"), torch.tensor([[1.0], [2.0], [3.0]]))
    assert rows.select(torch.tensor([2, 0, 0])).outputs().logits.flatten().tolist() == [3, 1, 1]
    assert len(rows.select(torch.tensor([True, False, True]))) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a gpu")
def test_rows_come_to_the_device_as_they_come_to_the_cpu():
    for layout in (RowLayout(5, 2, "bfloat16"), RowLayout(5, 2, "float32"), RowLayout(70_000, 2, top_k=3)):
        rows = stored(layout, torch.randn(7, layout.logits), torch.randn(7, 2))
        pinned = rows.pin()
        assert pinned.buffer.is_pinned()
        assert torch.equal(pinned.target_key, rows.target_key)
        for got, want in zip(pinned.outputs("cuda"), rows.outputs("cpu"), strict=True):
            assert got.device.type == "cuda"
            if layout.top_k is None:
                assert torch.equal(bits(got.cpu()), bits(want))
            else:
                torch.testing.assert_close(got.cpu(), want)


def test_sizes():
    assert RowLayout(1000, top_k=10).nbytes == RowLayout(65_536, top_k=10).nbytes == 64
    assert RowLayout(65_537, top_k=10).nbytes == 80
    assert RowLayout(1000, top_k=10, embedding=128).nbytes == 64 + 256
    assert RowLayout(1000).nbytes == 2016


def test_expand_shares_the_tail():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    dense = expand(compress(logits, 2), 4)
    assert dense[0, 0] == dense[0, 1]
    assert dense.softmax(1)[0, :2].sum().item() == pytest.approx(logits.softmax(1)[0, :2].sum().item(), rel=2e-3)
