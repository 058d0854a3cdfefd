"""Narrowing any module: exact for dead units and copies, and otherwise lossy with the measured distance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from module_zoo import build
from torch import nn
from torch.optim.swa_utils import AveragedModel
from widening import Recurrent, check_equal, gradient_error, mlp, outputs, state, storages, trained

from nasframe.change.claim import tolerance
from nasframe.errors import ChangeError
from nasframe.modules.narrow import narrow
from nasframe.modules.widen import widen

sizes = st.integers(1, 5)


def inputs(*shape: int) -> tuple[torch.Tensor]:
    """Return a random example."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64),)


def check_exact(model: nn.Module, example: tuple[Any, ...], at: str, **options: Any) -> nn.Module:
    """Narrow, assert all that holds for an exact change, and return the child."""
    before = state(model)

    change = narrow(model, at, example=example, **options)

    assert change.claim.kind == "exact"
    check_equal(model, change.model, example)
    assert gradient_error(model, change, example) < 1e-11
    assert all(torch.equal(before[name], tensor) for name, tensor in state(model).items())
    assert storages(model).isdisjoint(storages(change.model))
    return change.model


def check_same(first: nn.Module, second: nn.Module) -> None:
    """Assert that two models have the same tensors, up to rounding."""
    for (name, a), (other, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert name == other
        assert a.shape == b.shape, name
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13), name


@given(sizes, st.integers(1, 4), st.sampled_from([{}, {"skew": 0.3}, {"form": "zero"}]), st.booleans())
def test_narrowing_undoes_widening(hidden: int, more: int, form: dict[str, Any], batch: bool) -> None:
    """After a widening, the copies and the units without outgoing weights are removed, and the tensors are the old ones."""
    example = inputs(6, 3)
    model = trained(mlp(3, hidden, nn.BatchNorm1d(hidden) if batch else None), example)
    wide = widen(model, "0", to=hidden + more, example=example, **form).model

    check_same(model, check_exact(wide, example, "0", to=hidden))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_copies_that_are_normalised_are_removed_in_equal_shares(norm: Any) -> None:
    """Through a LayerNorm or RMSNorm, narrowing is exact if every unit loses the same share of its copies."""
    example = inputs(6, 3)
    model = trained(mlp(3, 4, norm(4)), example)
    wide = widen(model, "0", to=16, example=example).model

    check_same(model, check_exact(wide, example, "0", to=4))
    check_same(widen(model, "0", to=8, example=example).model, check_exact(wide, example, "0", to=8))
    assert narrow(wide, "0", to=15, example=example).claim.kind == "lossy"


RECURRENT = [(kind, form) for kind in (nn.LSTM, nn.RNN, nn.GRU) for form in ({"skew": 0.2}, {"form": "zero"})]


@pytest.mark.parametrize(("kind", "form"), RECURRENT if FULL else RECURRENT[::3])
def test_narrowing_undoes_the_widening_of_a_recurrent_network(kind: Any, form: dict[str, Any]) -> None:
    """hidden_size shrinks in all layers and directions, each of which removes its copies."""
    example = inputs(2, 3, 3)
    model = trained(Recurrent(kind, 3, 3, num_layers=2, bidirectional=True), example)
    wide = widen(model, "rnn", to=5, example=example, **form).model

    check_same(model, check_exact(wide, example, "rnn", to=3))


@pytest.mark.parametrize(
    ("name", "at", "size", "wide", "options"),
    [
        ("cnn", "conv1", 2, 3, {"factor": 0}),
        ("gpt", "wte", 16, 32, {}),
        ("gpt kept head size", "h.0.attn.c_attn", 2, 3, {"factor": 0}),
        ("cnn", "conv1", 2, 4, {"factor": 2}),
        ("resnet", "stem", 6, 8, {}),
        ("llama", "layers.1.k", 2, 4, {"factor": 0}),
        ("lstm normalised", "embed", 8, 16, {}),
    ][: 7 if FULL else 3],
)
def test_narrowing_undoes_the_widening_of_models_as_users_write_them(
    name: str, at: str, size: int, wide: int, options: dict[str, Any]
) -> None:
    """Groups, attention heads, widths and tied weights are narrowed to what they were, and the numbers of the classes as well."""
    model, example = build(name)
    model = trained(model, example)
    child = check_exact(widen(model, at, to=wide, example=example, **options).model, example, at, to=size, **options)

    check_same(model, child)
    assert str(child) == str(model)


@given(sizes, st.data())
def test_units_without_outgoing_weights_are_removed_exactly(hidden: int, data: Any) -> None:
    """Any units whose outgoing weights are zero can be removed exactly, and are removed first."""
    example = inputs(6, 3)
    model = trained(mlp(3, hidden + 1), example)
    dead = data.draw(st.sets(st.integers(0, hidden), min_size=1, max_size=hidden))
    with torch.no_grad():
        model[2].weight[:, sorted(dead)] = 0

    given = check_exact(model, example, "0", remove=sorted(dead))
    child = check_exact(model, example, "0", to=hidden + 1 - len(dead))

    check_same(given, child)


@pytest.mark.parametrize(
    ("activation", "bias", "claim"),
    [(nn.ReLU, -1.0, "exact"), (nn.ReLU, 1.0, "lossy"), (nn.GELU, 0.0, "exact"), (nn.Sigmoid, 0.0, "lossy")],
)
def test_units_without_incoming_weights_are_dead_if_their_activation_is_zero(activation: Any, bias: float, claim: str) -> None:
    """A unit without incoming weights is constant. It can be removed exactly only if that constant is zero."""
    example = inputs(6, 3)
    model = trained(mlp(3, 5, activation=activation()), example)
    with torch.no_grad():
        model[0].weight[[1, 3]] = 0
        model[0].bias[[1, 3]] = bias

    change = narrow(model, "0", remove=[1, 3], example=example)

    assert change.claim.kind == claim
    assert change.model[0].weight.shape == (3, 3)
    assert (change.distances.eval > 1e-6) == (claim == "lossy")


def test_copies_with_unrelated_outgoing_weights_are_merged() -> None:
    """A unit with the incoming weights of another one is removed exactly: the other one gets the sum of the outgoing weights."""
    example = inputs(6, 3)
    model = trained(mlp(3, 4), example)
    with torch.no_grad():
        model[0].weight[3] = model[0].weight[1]
        model[0].bias[3] = model[0].bias[1]

    change = narrow(model, "0", remove=[3], example=example)

    assert change.claim.kind == "exact"
    check_equal(model, change.model, example)
    assert torch.allclose(change.model[2].weight[:, 1], model[2].weight[:, [1, 3]].sum(1), rtol=0, atol=1e-15)


@given(st.integers(2, 6), st.integers(1, 8), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 9))
def test_copies_that_differ_by_rounding_are_merged(hidden: int, more: int, dtype: torch.dtype, seed: int) -> None:
    """Copies whose incoming weights differ by rounding are merged, and units that differ by more are not."""
    torch.manual_seed(seed)
    x = torch.randn(16, 3, dtype=dtype)
    model = widen(mlp(3, hidden).to(dtype), "0", to=hidden + more, example=(x,), seed=seed).model
    eps = torch.finfo(dtype).eps
    with torch.no_grad():
        for p in model[0].parameters():
            p *= 1 + 4 * eps * torch.randn(p.shape, dtype=dtype)

    change = narrow(model, "0", to=hidden, example=(x,))

    assert max(change.distances.eval, change.distances.train) < 1000 * eps
    assert torch.allclose(change.model[2].weight.sum(1), model[2].weight.sum(1), rtol=0, atol=100 * eps)
    with torch.no_grad():
        model[0].weight *= 1 + 1e-3 * torch.randn(model[0].weight.shape, dtype=dtype)
    assert narrow(model, "0", to=hidden, example=(x,)).claim.kind == "lossy"


class Enlarged(nn.Module):
    """A function with a derivative of 1e6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(1e6 * x)


def test_rounding_that_a_model_enlarges_makes_a_narrowing_lossy() -> None:
    """Copies that differ by rounding are merged also where the outputs move by more than an exact change allows."""
    torch.manual_seed(0)
    model = nn.Sequential(*mlp(3, 4).double(), Enlarged())
    example = (1e-6 * torch.randn(6, 3, dtype=torch.float64),)
    with torch.no_grad():
        model[2].bias.zero_()
        model[0].bias.zero_()
    wide = widen(model, "0", to=8, example=example).model
    with torch.no_grad():
        wide[0].bias[4:] += 2e-14

    change = narrow(wide, "0", to=4, example=example)

    assert change.claim.kind == "lossy"
    assert 0 < change.distances.eval < 1e-4
    assert torch.allclose(change.model[2].weight, model[2].weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "at", "size", "wide", "options"),
    [
        ("mlp", "b", 6, 9, {}),
        ("lstm normalised", "embed", 8, 24, {}),
        ("cnn", "conv1", 2, 4, {"factor": 2}),
        ("gpt kept head size", "h.0.attn.c_attn", 2, 3, {"factor": 0}),
    ][: 4 if FULL else 2],
)
def test_an_average_keeps_its_function(name: str, at: str, size: int, wide: int, options: dict[str, Any]) -> None:
    """An average of the weights gets the sums of its copies' outgoing weights, as do state dictionaries, and not those of the model."""
    model, example = build(name)
    model = trained(model, example)
    average = AveragedModel(model)
    with torch.no_grad():
        for key, p in average.module.named_parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(key)), dtype=p.dtype)
    values = {key: tensor.clone() for key, tensor in average.module.state_dict().items()}
    before = outputs(average.module, example, False)

    grown = widen(model, at, to=wide, example=example, **options)
    change = narrow(grown.model, at, to=size, example=example, **options)
    for step in (grown, change):
        step.follow(average)
        step.follow(values)

    assert change.claim.kind == "exact"
    for first, second in zip(before, outputs(average.module, example, False), strict=True):
        assert float((first - second).abs().max()) <= tolerance(first)
    for key, tensor in average.module.state_dict().items():
        assert torch.equal(values[key], tensor), key


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 9))
def test_the_units_with_the_smallest_outgoing_weights_are_removed(hidden: int, fewer: int, seed: int) -> None:
    """Without dead units and copies, those with the smallest norm of outgoing weights are removed, and the distance is what is measured."""
    torch.manual_seed(seed)
    example = inputs(6, 3)
    model = trained(mlp(3, hidden), example)
    to = max(1, hidden - fewer)

    change = narrow(model, "0", to=to, example=example)

    assert change.claim.kind == "lossy"
    kept = model[2].weight.norm(dim=0).topk(to).indices.sort().values
    assert torch.equal(change.model[2].weight, model[2].weight[:, kept])
    assert torch.equal(change.model[0].weight, model[0].weight[kept])
    before, after = (outputs(m, example, False)[0] for m in (model, change.model))
    assert change.distances.eval == pytest.approx(float((after - before).abs().max() / before.abs().max()))


@pytest.mark.parametrize(
    ("at", "options", "message"),
    [
        ("0", {}, "either `to`"),
        ("0", {"to": 2, "remove": [1]}, "either `to`"),
        ("0", {"to": 4}, "fewer than 4"),
        ("0", {"remove": [0, 1, 2, 3]}, "fewer than 4"),
        ("0", {"remove": [7]}, "no unit 7"),
        ("2", {"to": 1}, "output"),
    ],
)
def test_refusals(at: str, options: dict[str, Any], message: str) -> None:
    """What cannot be removed is refused with the reason."""
    with pytest.raises(ChangeError, match=message):
        narrow(mlp(3, 4).double(), at, example=inputs(6, 3), **options)
