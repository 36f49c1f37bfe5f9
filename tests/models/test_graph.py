import pytest
import torch
from torch import nn

from lightning_graceful.models.graph import computed_from
from tests.litmodels import Net

X = torch.linspace(-1, 1, 20).reshape(5, 4)


def test_what_a_loss_is_computed_from_is_told_apart():
    net = Net()
    features, logits, other = net.body(X), net.fc(net.body(X)), net(X + 1)
    through = net.fc(features)
    assert computed_from(logits.sum(), [features, logits, other]) == [False, True, False]
    assert computed_from(through.sum() + other.sum(), [features, through, logits, other]) == [True, True, False, True]


def test_the_result_itself_counts():
    logits = Net()(X)
    assert computed_from(logits, [logits]) == [True]


def test_what_has_no_graph_leads_nowhere():
    logits, leaf = Net()(X), torch.ones(2, requires_grad=True)
    assert computed_from(logits.sum().detach(), [logits]) == [False]
    assert computed_from(logits.sum(), [logits.detach(), leaf]) == [False, False]
    assert computed_from(logits.sum(), []) == []


def test_backward_before_does_not_matter():
    logits = Net()(X)
    loss = logits.square().mean()
    loss.backward()
    assert computed_from(loss, [logits]) == [True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_graphs_are_followed(backend):
    """AOTAutograd makes one node of a graph: what leaves it leads to all that does."""
    torch._dynamo.reset()
    net = torch.compile(Net(), backend=backend)
    logits, other = net(X), net(X + 1)
    assert computed_from(logits.square().mean(), [logits, other]) == [True, False]


def test_deep_graphs_do_not_recurse():
    x = torch.ones(1, requires_grad=True) * 1
    y = x
    for _ in range(5000):
        y = y + 1
    assert computed_from(y, [x, nn.Linear(1, 1)(x)]) == [True, False]
