"""``torch.compile`` of the network and of the whole LightningModule; the mixin's own code is never traced."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.compile import from_compiled

from lightning_graceful import make_graceful
from tests.litmodels import Lit, ManualLit, NetLit, seeded
from tests.mixin.oracle import by_hand, distil, fitted

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of Dynamo's own
    pytest.mark.filterwarnings("error:.*recompile.*"),
]


class PlainLit(Lit):
    """As NetLit, but logs nothing: Lightning's own ``self.log`` does not compile on this torch."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class CountingBackend:
    """Runs the graph as it is (``eager``), or through AOTAutograd, and counts how often it is asked to."""

    def __init__(self, aot):
        self.compiled, self.aot = 0, aot

    def __call__(self, graph, inputs):
        self.compiled += 1
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs) if self.aot else graph.forward


def net_in_place(module, backend):
    module.net.compile(backend=backend)
    return make_graceful(module, {"distil": distil})


def net_wrapped(module, backend):
    module.net = torch.compile(module.net, backend=backend)
    return make_graceful(module, {"distil": distil})


def module_in_place(module, backend):
    module.compile(backend=backend)
    return make_graceful(module, {"distil": distil})


def made_graceful_then_compiled(module, backend):
    return torch.compile(make_graceful(module, {"distil": distil}), backend=backend)


def compiled_then_made_graceful(module, backend):
    return make_graceful(torch.compile(module, backend=backend), {"distil": distil})


WAYS = [net_in_place, net_wrapped, module_in_place, made_graceful_then_compiled, compiled_then_made_graceful]


def assert_trained(module):
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in module.state_dict().items()}
    for name, tensor in by_hand({"distil": distil}).items():
        torch.testing.assert_close(state[f"net.{name}"], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("aot", [False, True])
@pytest.mark.parametrize(
    ("base", "way"), [(base, way) for base in (Lit, PlainLit) for way in WAYS] + [(NetLit, way) for way in WAYS[:3]]
)
def test_compiled_training_equals_a_loop_by_hand(base, way, aot):
    torch._dynamo.reset()
    backend = CountingBackend(aot)
    assert_trained(fitted(way(seeded(base), backend)))
    is_in_use = not (base is PlainLit and way is module_in_place)  # it never calls itself
    assert (backend.compiled > 0) == is_in_use
    assert backend.compiled <= 3  # with and without a graph, never again for each of the 8 steps


def test_the_mixin_breaks_no_graph():
    torch._dynamo.reset()
    module = make_graceful(seeded(Lit), {"distil": distil})
    assert_trained(fitted(torch.compile(module, backend="eager", fullgraph=True)))


@pytest.mark.parametrize("way", [made_graceful_then_compiled, compiled_then_made_graceful])
def test_compiled_manual_steps(way):
    torch._dynamo.reset()
    assert_trained(fitted(way(seeded(ManualLit), "eager")))


def test_a_step_that_was_compiled_before_is_an_error_that_says_the_order():
    compiled = from_compiled(torch.compile(seeded(Lit), backend="eager"))
    with pytest.raises(ValueError, match=r"this instance has one of its own.*torch\.compile\(make_graceful"):
        make_graceful(compiled, {"distil": distil})


def test_lightning_itself_cannot_compile_a_step_that_logs():
    """The day that it can, what the documentation says of it is out of date."""
    torch._dynamo.reset()

    class Logging(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    with pytest.raises(Exception, match="__dict__"):
        fitted(torch.compile(seeded(Logging), backend="eager"))
