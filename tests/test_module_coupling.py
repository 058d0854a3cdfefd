"""Which axes of a module carry the same units."""

from __future__ import annotations

import module_zoo as zoo
import pytest
import torch
from torch import nn

from nasframe.modules.coupling import Coupling, couple


def same(coupling: Coupling, *axes: tuple[str, int]) -> bool:
    """Whether all axes consist of the same atoms."""
    return len({tuple(coupling.axes[name][k].atoms()) for name, k in axes}) == 1


def test_the_rows_of_a_layer_are_the_columns_of_the_next() -> None:
    """Hidden units couple a weight's rows, bias, normalisation and the columns of what reads them; inputs and outputs are frozen."""
    coupling = couple(*zoo.build("mlp"))

    assert same(coupling, ("a.weight", 0), ("a.bias", 0), ("norm.weight", 0), ("norm.running_mean", 0), ("b.weight", 1))
    assert not same(coupling, ("a.weight", 0), ("b.weight", 0))
    assert coupling.axes["a.weight"][1].frozen == "it is an axis of the model's input x"
    assert coupling.axes["c.weight"][0].frozen == "it is an axis of the model's output"
    assert {s for s in coupling.consumed if s[0] == "b.weight"} == {("b.weight", 1)}
    assert ("a.weight", 0) in coupling.produced


@pytest.mark.parametrize("name", zoo.NAMES)
def test_coupling_leaves_the_model_as_it_is(name: str) -> None:
    """Parameters, buffers, modes, attributes and the random state are the same before and after."""
    model, example = zoo.build(name)
    next(iter(model.children())).eval()
    tensors = {n: (t, t.clone()) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    attributes = {m: dict(vars(m)) for m in model.modules()}
    state = torch.random.get_rng_state()

    coupling = couple(model, example)

    assert {m: vars(m) for m in model.modules()} == attributes
    assert all(
        t is tensors[n][0] and torch.equal(t, tensors[n][1]) for n, t in [*model.named_parameters(), *model.named_buffers()]
    )
    assert torch.equal(state, torch.random.get_rng_state())
    for key, axes in coupling.axes.items():
        assert tuple(axis.size for axis in axes) == coupling.tensors[key].shape
        assert all(axis.size_with({}) == axis.size for axis in axes)


def test_a_tied_tensor_has_one_name_and_all_its_aliases() -> None:
    """A tied weight both produces its units and consumes them."""
    coupling = couple(*zoo.build("gpt"))

    assert coupling.aliases["wte.weight"] == ("wte.weight", "lm_head.weight")
    assert "lm_head.weight" not in coupling.axes
    assert ("wte.weight", 1) in coupling.produced
    assert ("wte.weight", 1) in coupling.consumed
    assert coupling.norm_before["wte.weight", 1] == ("ln_f.weight", "ln_f.bias")


@pytest.mark.parametrize("name", ["gpt", "gpt kept head size", "gpt inferred heads"])
def test_attention_couples_heads_and_contracts_the_head_size(name: str) -> None:
    """The rows of the query are heads times head size, and the head size is contracted."""
    coupling = couple(*zoo.build(name))
    heads, size = coupling.axes["h.0.attn.c_proj.weight"][1].factors()

    assert (heads.size, size.size) == (2, 8)
    query = coupling.axes["h.0.attn.c_attn.weight"][0].atoms()
    assert any(atom.size == 8 and atom in coupling.contracted for atom in query)
    assert heads in query
    assert heads not in coupling.contracted
    assert not any(atom.frozen for atom in (heads, size))


def test_what_has_no_rule_is_frozen_with_the_line() -> None:
    """An operation without a rule freezes what it sees, and says where."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.linalg.matrix_exp(self.a(x) @ self.a(x).mT) @ self.a(x))

    coupling = couple(Net(), torch.zeros(1, 3, 4))

    assert coupling.axes["a.weight"][0].frozen is None
    assert coupling.contracted
