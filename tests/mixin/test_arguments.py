"""What a term asks for: its signature, or what it says itself."""

import pytest
from torch import nn

from lightning_graceful import make_graceful
from tests.litmodels import Lit, seeded
from tests.mixin.oracle import assert_trained_like, by_hand, distil, fitted


class Passing(nn.Module):
    """Hands on what it is served, which its signature does not tell."""

    def __init__(self, asks):
        super().__init__()
        self.asks = asks

    def forward(self, **served):
        return distil(**served)


def test_a_module_may_name_its_arguments_itself():
    module = make_graceful(seeded(Lit), {"distil": Passing(["new_logits", "old_logits"])}, {"distil": 0.7})
    assert module.graceful_terms.needs == {"new_logits", "old_logits"}
    assert_trained_like(fitted(module), by_hand({"distil": distil}, {"distil": 0.7}))


def test_it_may_name_only_what_is_served():
    with pytest.raises(ValueError, match=r"arguments of the term 'distil' among .*, got \['logits'\]"):
        make_graceful(seeded(Lit), {"distil": Passing(["logits"])})


def test_without_names_a_term_of_anything_is_refused():
    with pytest.raises(ValueError, match="arguments of the term 'distil'"):
        make_graceful(seeded(Lit), {"distil": Passing(None)})


def test_an_attribute_of_a_function_says_nothing():
    def term(new_logits):
        return new_logits.square().mean()

    term.asks = ["old_logits"]
    assert make_graceful(seeded(Lit), {"term": term}).graceful_terms.needs == {"new_logits"}
