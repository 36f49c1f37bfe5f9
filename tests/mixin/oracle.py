"""Terms to add, and training with them by hand in plain torch: the truth that graceful training must equal."""

import torch
import torch.nn.functional as F
from torch import nn

from lightning_graceful import GracefulMixin
from tests.litmodels import BATCH, CLASSES, LR, Lit, OldStub, loader, old_logits, seeded, trainer

torch.set_num_threads(1)


def bias(new_logits):
    return 10 * new_logits[:, 0].mean()


def distil(new_logits, old_logits):
    return (new_logits - old_logits).square().mean()


class Centre(nn.Module):
    """A term that trains a parameter of its own, and counts."""

    def __init__(self, start=1.0):
        super().__init__()
        self.centre = nn.Parameter(torch.full((CLASSES,), start))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, new_logits):
        self.steps += 1
        return (new_logits - self.centre).square().mean()


def by_hand(terms, weights=None, *, batch_size=BATCH, epochs=2, skip=lambda number: False, extra=()):
    """Train in plain torch: the truth. ``terms`` take (new_logits, old_logits)."""
    module = seeded(Lit).double()
    net, weights, number = module.net, weights or {}, 0
    optimizer = torch.optim.SGD([*net.parameters(), *extra], lr=LR, momentum=0.5)
    for _ in range(epochs):
        for batch_idx, (x, y) in enumerate(loader(batch_size)):
            if skip(batch_idx):
                continue
            logits = net(x)
            weight = {name: w(number) if callable(w) else w for name, w in weights.items()}
            total = weight.get("task", 1.0) * F.cross_entropy(logits, y)
            for name, term in terms.items():
                total = total + weight.get(name, 1.0) * term(logits, old_logits(x))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            number += 1
    return net.state_dict()


def fitted(module, *callbacks, **options):
    running = trainer(OldStub(), *callbacks, **options)
    running.fit(module, loader())
    return module


def assert_trained_like(module, state):
    own = {name.removeprefix("net."): tensor for name, tensor in module.state_dict().items()}
    assert own.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=1e-12)


def mixed(base, terms, **attributes):
    return type("Mixed", (GracefulMixin, base), {"configure_terms": lambda self: terms, **attributes})
