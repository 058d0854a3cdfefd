"""The head size of attention grows, with queries that are rescaled; where something comes between, it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from full import FULL
from hypothesis import given, strategies as st
from module_growth import require_exact, untouched
from module_zoo import build
from torch import Tensor, nn
from widening import trained

from nasframe import Seed
from nasframe.errors import ChangeError
from nasframe.modules.change import ModuleChange, make
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.example import Example
from nasframe.modules.verify import gradient_distance
from nasframe.modules.widen import Widen, widen


class Attention(nn.Module):
    """Attention with a head size of its own, whose queries, keys and values are computed in one of several ways."""

    def __init__(self, heads: int, size: int, way: str = "separate", groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.way = heads, groups, size, way
        rows = heads * size
        if way in ("view", "chunk"):
            self.qkv = nn.Linear(3, 3 * rows, bias)
        else:
            keys = (groups if way == "grouped" else heads) * size
            self.q, self.k, self.v = nn.Linear(3, rows, bias), nn.Linear(3, keys, bias), nn.Linear(3, keys, bias)
        self.out = nn.Linear(rows, 2)
        self.norm = nn.RMSNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        options: dict[str, Any] = {}
        if self.way == "view":
            q, k, v = self.qkv(x).view(B, T, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        elif self.way == "chunk":
            q, k, v = (t.reshape(B, T, self.heads, self.size).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        elif self.way == "grouped":
            q = self.q(x).view(B, T, self.heads, self.size).transpose(1, 2)
            k, v = (f(x).view(B, T, self.groups, self.size).transpose(1, 2) for f in (self.k, self.v))
            options["enable_gqa"] = True
        else:
            q, k, v = (f(x).view(B, T, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.way == "normalised":
            q = self.norm(q)
        if self.way == "turned":
            q = torch.cat([-q[..., 1:], q[..., :1]], -1)
        if self.way == "scaled":
            options["scale"] = self.size**-0.5
        if self.way == "shared":
            k = q
        if self.way == "by hand":
            y = (q @ k.transpose(-2, -1) / self.size**0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


def batch() -> tuple[Tensor]:
    return (torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


def head_size(coupling: Coupling, at: str, size: int) -> int:
    """Return the factor of the head size at a place of a model."""
    places = [p for p in Widen(1).places(coupling) if p.name == at and p.size == size and "queries" in p.note]
    return int(places[0].note.split("factor=")[1][0])


@given(
    st.integers(1, 3),
    st.integers(2, 3),
    st.integers(1, 4),
    st.sampled_from(["separate", "view", "chunk", "grouped"]),
    st.sampled_from([{}, {"skew": 0.3}, {"form": "zero"}]),
    st.booleans(),
)
def test_the_head_size_grows(heads: int, size: int, more: int, way: str, form: dict[str, Any], bias: bool) -> None:
    """The scores stay as they are, in both modes, and gradients follow the map; the numbers of the class follow as well."""
    torch.manual_seed(0)
    model, x = trained(Attention(heads, size, way, bias=bias), batch()), batch()
    at = "qkv" if hasattr(model, "qkv") else "q"

    factor = head_size(couple(model, x), at, size)
    change = untouched(model, lambda: widen(model, at, to=size + more, factor=factor, example=x, **form))

    require_exact(change, x)
    assert (change.model.size, change.model.heads) == (size + more, heads)
    with pytest.raises(ChangeError, match="no morphism reverts"):
        change.undone()
    again = widen(change.model, at, to=size + more + 1, factor=factor, form="zero", seed=1, example=x)
    require_exact(again, x)


def test_new_entries_of_keys_and_queries_learn() -> None:
    """With zero keys, their new rows get a gradient at the first step, and the new rows of queries at the second."""
    model, x = trained(Attention(2, 2), batch()), batch()

    change = widen(model, "q", to=4, factor=1, form="zero", example=x)

    weights = dict(change.model.named_parameters())
    assert not weights["k.weight"].view(2, 4, 3)[:, 2:].any()
    assert weights["q.weight"].view(2, 4, 3)[:, 2:].all()
    assert torch.allclose(weights["q.weight"].view(2, 4, 3)[:, :2], 2**0.5 * model.q.weight.view(2, 2, 3))
    for _ in range(2):
        change.model.zero_grad()
        change.model(*x).square().sum().backward()
        with torch.no_grad():
            for p in change.model.parameters():
                p -= 0.01 * p.grad if p.grad is not None else 0
    assert bool(weights["q.weight"].grad.view(2, 4, 3)[:, 2:].abs().gt(0).all())
    assert bool(weights["k.weight"].grad.view(2, 4, 3)[:, 2:].abs().gt(0).all())


@pytest.mark.parametrize(
    ("name", "at", "to", "size", "options"),
    [
        ("gpt", "h.0.attn.c_attn", 16, 8, {}),
        ("encoder", "encoder.layers.0.self_attn", 12, 6, {}),
        ("gpt inferred heads", "h.1.attn.c_attn", 11, 8, {"skew": 0.2}),
    ][: 3 if FULL else 2],
)
def test_models_as_users_write_them(name: str, at: str, to: int, size: int, options: dict[str, Any]) -> None:
    """Where the width follows the head size both grow; elsewhere it is the number of heads that grows with the width."""
    model, example = build(name)
    model = trained(model, example)

    coupling = couple(model, example)

    def wider(at: str, morphism: Widen) -> ModuleChange:
        return make(model, morphism, at, morphism.rewrite(coupling, at, Seed((0,))), example)

    change = wider(at, Widen(to, factor=head_size(coupling, at, size), **options))

    require_exact(change, example)
    if name == "encoder":
        assert [layer.self_attn.num_heads for layer in change.model.encoder.layers] == [2, 4]
        wide = wider("embed", Widen(24)).model
        assert [layer.self_attn.num_heads for layer in wide.encoder.layers] == [4, 4]


@pytest.mark.parametrize("way", ["normalised", "turned", "scaled", "shared", "by hand"])
def test_where_something_comes_between_it_is_refused(way: str) -> None:
    """With a norm, a rotation, a scale of the code, shared queries and keys or scores by hand, only the heads can grow."""
    model, x = trained(Attention(2, 2, way), batch()), batch()
    coupling = couple(model, x)

    with pytest.raises(ChangeError, match=r"entries are taken by|contracted over it"):
        widen(model, "q", to=4, factor=1, example=x)
    assert not any("queries" in place.note for place in Widen(1).places(coupling))
    if way != "turned":
        heads = widen(model, "q", to=4, factor=0, example=x)
        assert gradient_distance(model, heads.model, heads.map, Example.of(x)) < 1e-10
