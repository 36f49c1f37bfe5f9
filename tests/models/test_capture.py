import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from lightning_graceful.models.capture import OutputCapture, find_module, logits_in
from tests.litmodels import CLASSES, FEATURES, HIDDEN, Net

X = torch.linspace(-1, 1, 5 * FEATURES).reshape(5, FEATURES)


class Twin(nn.Module):
    """Two heads on one body; what it returns is up to ``answer``."""

    def __init__(self, answer):
        super().__init__()
        self.net = Net()
        self.heads = nn.ModuleList([nn.Linear(HIDDEN, CLASSES), nn.Linear(HIDDEN, 7)])
        self.named = nn.ModuleDict({"a": nn.Linear(HIDDEN, 9)})
        self.alias = self.net
        self.answer = answer

    def forward(self, x):
        return self.answer(self, x)


def captured(module, call=None, **paths):
    capture = OutputCapture(module, **paths)
    capture.start()
    (call or module)(X)
    return capture


def test_own_output_is_preferred_to_a_childs():
    module = Twin(lambda self, x: self.net(x) + 1)
    torch.testing.assert_close(captured(module).logits(5), module.net(X) + 1)


def test_the_only_childs_output_is_taken_when_forward_is_called_directly():
    module = Twin(lambda self, x: self.net(x))
    torch.testing.assert_close(captured(module, module.forward).logits(5), module.net(X))


def test_containers_are_looked_into():
    module = Twin(lambda self, x: {"loss": self.heads[1](self.net.body(x))})
    torch.testing.assert_close(captured(module).logits(5), module.heads[1](module.net.body(X)))
    module.answer = lambda self, x: self.named["a"](self.net.body(x)).sum()
    assert captured(module).logits(5).shape == (5, 9)


def test_the_number_of_classes_tells_logits_from_features():
    module = Twin(lambda self, x: sum(head(self.net.body(x)).sum() for head in self.heads))
    capture = captured(module)
    assert capture.logits(5, CLASSES).shape == (5, CLASSES)
    assert capture.logits(5, 7).shape == (5, 7)
    with pytest.raises(RuntimeError, match=r"\(5, classes\).*got 2.*'heads.0': \[\(5, 3\)\].*'heads.1': \[\(5, 7\)\]"):
        capture.logits(5)
    with pytest.raises(RuntimeError, match=r"\(5, 4\).*got 0.*label_map"):
        capture.logits(5, 4)


def test_a_path_fixes_the_module_whatever_its_width():
    module = Twin(lambda self, x: self.heads[1](self.net.body(x)))
    assert captured(module, logits="heads.1", embedding="net.body").logits(5, CLASSES).shape == (5, 7)


def test_the_same_tensor_from_two_children_counts_once():
    module = nn.ModuleDict({"net": Net(), "same": nn.Identity()})
    capture = captured(module, lambda x: module["same"](module["net"](x)))
    torch.testing.assert_close(capture.logits(5), module["net"](X))


def test_calls_with_part_of_the_batch_are_no_candidates():
    module = Net()
    capture = captured(module, lambda x: (module(x[:2]), module(x[:3]), module(x)))
    torch.testing.assert_close(capture.logits(5), module(X))


def test_two_calls_with_the_whole_batch_are_an_error():
    module = Net()
    with pytest.raises(RuntimeError, match=r"got 2.*'self': \[\(5, 3\), \(5, 3\)\]"):
        captured(module, lambda x: (module(x), module(x))).logits(5)


def test_no_call_is_an_error_that_names_what_was_watched():
    with pytest.raises(RuntimeError, match=r"got 0.*seen: none.*watched: \['self', 'body', 'fc'\].*logits="):
        captured(Net(), lambda x: None).logits(5)


def test_graph_leaves_out_what_no_loss_comes_from():
    module = Net()
    with torch.no_grad():
        capture = captured(module)
    assert capture.logits(5).shape == (5, CLASSES)
    with pytest.raises(RuntimeError, match=r"with a graph.*got 0"):
        capture.logits(5, loss=torch.ones((), requires_grad=True))


def test_logits_and_embedding_keep_their_graph():
    module = Net()
    capture = captured(module, embedding="body")
    (gradient,) = torch.autograd.grad(capture.logits(5).sum(), module.fc.bias, retain_graph=True)
    assert gradient.tolist() == [5.0] * CLASSES
    torch.testing.assert_close(module.fc(capture.embedding(5)), capture.logits(5))


def test_embeddings_are_flattened():
    module = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(FEATURES, 2))
    torch.testing.assert_close(captured(module, embedding="0").embedding(5), X)


@pytest.mark.parametrize("path", [None, "body"])
def test_an_embedding_that_is_not_there_is_an_error(path):
    with pytest.raises(RuntimeError, match="Expected one call with the whole batch of 4"):
        captured(Net(), embedding=path).embedding(4)


def test_nothing_stays_after_stop():
    module = Net()
    capture = captured(module)
    capture.stop()
    module(X)
    with pytest.raises(RuntimeError, match="seen: none"):
        capture.logits(5)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_with_takes_the_hooks_off_when_the_step_raises():
    module = Net()
    with pytest.raises(TypeError), OutputCapture(module):
        module(None)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_start_forgets_the_last_step():
    module = Net()
    capture = captured(module)
    capture.start()
    torch.testing.assert_close(module(X + 1), capture.logits(5))
    capture.remove()


def test_copies_watch_their_own_model():
    module = Net()
    for clone in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        copied, capture = clone((module, OutputCapture(module)))
        with capture:
            module(X)
            torch.testing.assert_close(copied(X + 1), capture.logits(5))


def test_a_copy_made_in_between_carries_no_collected_outputs():
    module = Net()
    copied, of_copy = copy.deepcopy((module, captured(module)))
    for start in (lambda: None, of_copy.start):
        start()
        with pytest.raises(RuntimeError, match="seen: none"):
            of_copy.logits(5)
    torch.testing.assert_close(copied(X), of_copy.logits(5))


def test_hooks_come_and_go_and_stay_the_same():
    """What is compiled sees the same hooks at each step; nothing piles up."""
    module = Net()
    capture = OutputCapture(module)
    seen = []
    for _ in range(3):
        with capture:
            seen.append([dict(part._forward_hooks) for part in module.modules()])
            module(X)
            assert capture.logits(5).shape == (5, CLASSES)
    assert seen[0] == seen[1] == seen[2]


def test_a_module_that_was_replaced_is_watched():
    module = Net()
    capture = captured(module, embedding="body")
    with capture:
        module.body = nn.Linear(FEATURES, HIDDEN)
        module(X)
    with capture:
        module(X)
        torch.testing.assert_close(capture.embedding(5), module.body(X))


def test_judges_of_an_output_are_no_candidates():
    class Judged(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()
            self.metrics = MetricCollection([MulticlassConfusionMatrix(CLASSES, normalize="all")])
            self.own = type("Own", (MulticlassConfusionMatrix,), {})(CLASSES, normalize="all")
            self.criterion = nn.CrossEntropyLoss(reduction="none")
            self.wide = nn.BCEWithLogitsLoss(reduction="none")

    module, x, y = Judged(), X[:CLASSES], torch.arange(CLASSES)
    with OutputCapture(module) as capture:
        logits = module.net(x)
        judges = [module.own, *module.metrics.values(), module.criterion]
        found = [judge(logits, y) for judge in judges] + [module.wide(logits, logits.detach())]
        assert sum(value.shape == logits.shape and value.is_floating_point() for value in found) == 3
        assert capture.logits(CLASSES) is logits


def test_of_several_outputs_that_which_the_loss_comes_from_is_taken():
    module = Net()
    with OutputCapture(module) as capture:
        first, second = module(X), module(X + 1)
        assert capture.logits(5, loss=second.sum()) is second
        assert capture.used_by(first.sum(), 5) == [first]
        for loss in (first.sum() + second.sum(), module.fc.bias.sum()):
            with pytest.raises(RuntimeError, match="got 2"):
                capture.logits(5, loss=loss)


def test_a_childs_output_that_the_loss_comes_from_goes_before_an_own_one_that_it_does_not():
    module = Twin(lambda self, x: self.net(x) + 1)
    with OutputCapture(module) as capture:
        module(X)
        logits = module.net(X + 1)
        assert capture.logits(5, loss=logits.sum()) is logits


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (X, True),
        (SimpleNamespace(logits=X), True),
        ({"logits": X, "loss": X[0, 0]}, True),
        ((X, X[0]), True),
        ([X], True),
        (X[0], False),
        (X.long(), False),
        ({"scores": X}, False),
        ((), False),
        ("text", False),
        (None, False),
    ],
)
def test_scores_are_found_in_what_models_return(output, found):
    assert (logits_in(output) is X) == found


def test_modules_are_found_by_path():
    module = Twin(None)
    assert find_module(module, "heads.1") is module.heads[1]
    assert find_module(module, "alias.fc") is module.net.fc  # registered twice


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nets", r"Twin has no 'nets'; it has \['heads', 'named', 'net'\]"),
        ("net.head", r"net has no 'head'; it has \['body', 'fc'\]"),
        ("net.fc.weight", "net.fc has no 'weight'"),
        ("", "has no ''"),
    ],
)
def test_paths_to_no_module_are_errors(path, message):
    with pytest.raises(ValueError, match=message):
        find_module(Twin(None), path)
    if path:
        with pytest.raises(ValueError, match=message):
            OutputCapture(Twin(None), embedding=path)
