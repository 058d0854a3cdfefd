"""Widening any module: exact in both modes, with the gradients that the map states."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from module_zoo import build, vision
from torch import nn
from widening import Recurrent, check_equal, floats, gradient_error, mlp, state, storages, trained

from nasframe import Seed, Take
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.axes import Axis
from nasframe.modules.change import answered, changed_copy
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import deepen
from nasframe.modules.example import Example
from nasframe.modules.units import places_of
from nasframe.modules.verify import distances, gradient_distance
from nasframe.modules.widen import Widen, _units, shares, widen

#: one of each family of torchvision's classifiers, which run at 32 x 32 pixels
ARCHITECTURES = (
    "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t",
    "vgg11_bn",
)  # fmt: skip

#: for tests whose examples take long
sizes = st.integers(1, 5)
forms = st.sampled_from([{"form": "replicate"}, {"form": "replicate", "skew": 0.3}, {"form": "zero"}])


def check_change(model: nn.Module, example: tuple[Any, ...], at: str, **options: Any) -> nn.Module:
    """Widen, assert all that holds for every exact change, and return the child."""
    before, mode = state(model), model.training

    change = widen(model, at, example=example, **options)

    check_equal(model, change.model, example)
    assert gradient_error(model, change, example) < 1e-11
    after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert change.model.training == model.training == mode
    assert storages(model).isdisjoint(storages(change.model))
    return change.model


@given(sizes, sizes, st.integers(1, 4), st.sampled_from([None, "batch", "dropout"]), forms, st.booleans(), st.integers(0, 9))
def test_the_hidden_layer_of_an_mlp(
    inputs: int, hidden: int, more: int, norm: str | None, form: dict[str, Any], training: bool, seed: int
) -> None:
    """A hidden layer of any size grows by any number of units, and the function and the gradients stay as the map states."""
    torch.manual_seed(seed)
    example = (torch.randn(6, inputs, dtype=torch.float64),)
    layer = {None: None, "batch": nn.BatchNorm1d(hidden), "dropout": nn.Dropout(0.0)}[norm]
    model = trained(mlp(inputs, hidden, layer), example).train(training)

    child = check_change(model, example, "0", to=hidden + more, seed=seed, **form)

    assert child[0].out_features == child[-1].in_features == hidden + more


@given(
    sizes, st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d]), st.integers(1, 3), st.sampled_from(["plain", "depthwise"]), forms
)
def test_convolutions(channels: int, kind: Any, more: int, middle: str, form: dict[str, Any]) -> None:
    """The channels of a convolution grow, through BatchNorm and a depthwise convolution."""
    torch.manual_seed(0)
    dims = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    groups = channels if middle == "depthwise" else 1  # a depthwise convolution of one channel is a dense one
    second = kind(channels, channels, 3, padding=1, groups=groups)
    model = nn.Sequential(
        kind(2, channels, 3, padding=1),
        norm(channels),
        nn.ReLU(),
        second,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * 4**dims, 2),
    )
    example = (torch.randn(3, 2, *([4] * dims), dtype=torch.float64),)
    model = trained(model, example)

    child = check_change(model, example, "0", to=channels + more, **form)

    assert child[3].in_channels == child[3].weight.shape[1] * child[3].groups == channels + more
    assert child[6].in_features == (channels + more if groups > 1 else channels) * 4**dims


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions(groups: int, bias: bool) -> None:
    """The channels of a transposed convolution grow, and their number within each group."""
    torch.manual_seed(0)
    example = (torch.randn(2, 4, 5, dtype=torch.float64),)
    up = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=groups, bias=bias)
    model = trained(nn.Sequential(up, nn.InstanceNorm1d(6, affine=True), nn.PReLU(6), nn.Conv1d(6, 2, 3)), example)

    child = check_change(model, example, "0", to=8 // groups, **({"factor": 1} if groups > 1 else {}))

    assert child[0].out_channels == child[3].in_channels == 8


@given(sizes, st.sampled_from([nn.LayerNorm, nn.RMSNorm]), st.integers(2, 3))
def test_only_equal_replication_passes_a_norm_over_the_units(hidden: int, norm: Any, times: int) -> None:
    """Units that are normalised over are replicated to a multiple of their number; anything else is refused."""
    torch.manual_seed(0)
    example = (torch.randn(6, 3, dtype=torch.float64),)
    model = trained(mlp(3, hidden, norm(hidden)), example)

    child = check_change(model, example, "0", to=times * hidden)

    assert child[1].normalized_shape == (times * hidden,)
    for options in ({"to": 2 * hidden, "form": "zero"}, {"to": 2 * hidden, "skew": 0.2}):
        with pytest.raises(ChangeError, match="normalised"):
            widen(model, "0", example=example, **options)
    if hidden > 1:
        with pytest.raises(ChangeError, match="a multiple of"):
            widen(model, "0", to=2 * hidden + 1, example=example)


@given(
    sizes, st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]), st.integers(1, 2), st.booleans(), st.booleans(), st.integers(1, 3), forms
)
def test_recurrent_layers(
    hidden: int, kind: Any, layers: int, bidirectional: bool, bias: bool, more: int, form: dict[str, Any]
) -> None:
    """hidden_size grows in all layers and directions together."""
    torch.manual_seed(0)
    example = (torch.randn(2, 3, 3, dtype=torch.float64),)
    model = trained(Recurrent(kind, 3, hidden, num_layers=layers, bidirectional=bidirectional, bias=bias), example)

    child = check_change(model, example, "rnn", to=hidden + more, **form)

    assert child.rnn.hidden_size == hidden + more
    assert child.head.in_features == (hidden + more) * (2 if bidirectional else 1)


def test_a_projected_lstm_is_refused() -> None:
    """An LSTM with a projection has two sizes, and is refused."""
    model = nn.LSTM(3, 6, proj_size=2, batch_first=True).double()

    with pytest.raises(ChangeError):
        widen(model, "", to=8, example=(torch.randn(2, 4, 3, dtype=torch.float64),))


@pytest.mark.parametrize("skew", [0.0, 0.2])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_twins_part_where_their_shares_are_uneven(skew: float, kind: Any) -> None:
    """In 100 steps of SGD or Adam, copies with uneven shares become different, and copies with equal shares never do."""
    torch.manual_seed(0)
    example = (torch.randn(32, 3, dtype=torch.float64),)
    target = example[0].prod(1, keepdim=True)
    model = trained(mlp(3, 4, outputs=1), example)
    change = widen(model, "0", to=8, skew=skew, example=example)
    child, source = change.model, change.map["0.weight"].index[0]  # type: ignore[union-attr]
    optimiser = kind(child.parameters(), lr=0.05)

    for _ in range(100):
        optimiser.zero_grad()
        (child(*example) - target).square().mean().backward()
        optimiser.step()

    rows = child[0].weight.detach()
    apart = [float((rows[a] - rows[b]).abs().max()) for a in range(8) for b in range(a) if source[a] == source[b]]
    assert len(apart) >= 4
    # Adam divides by the size of the gradient, and so enlarges rounding where a gradient is small
    assert min(apart) > 1e-3 if skew else max(apart) < 1e-9


@pytest.mark.parametrize(
    ("name", "at", "to"), [("mlp", "b", 9), ("lstm", "rnn", 11), ("gru", "rnn", 9), ("gpt", "h.0.mlp.0", 70)]
)
def test_new_units_learn(name: str, at: str, to: int) -> None:
    """With outgoing weights of zero, every new entry of every tensor receives a gradient within three steps."""
    model, example = build(name)
    change = widen(trained(model, example), at, to=to, form="zero", example=example)
    optimiser = torch.optim.SGD(change.model.parameters(), lr=0.1)
    parameters = dict(change.model.named_parameters())
    entries = {name: entry for name, entry in change.map.items() if isinstance(entry, Take) and name in parameters}
    idle = {name: entry.new_entries(parameters[name])[0].clone() for name, entry in entries.items()}
    assert any(bool(mask.any()) for mask in idle.values())

    for _ in range(3):
        optimiser.zero_grad()
        sum((t - 1).square().mean() for t in floats(change.model(*example))).backward()  # type: ignore[union-attr]
        for name, mask in idle.items():
            mask &= parameters[name].grad == 0
        optimiser.step()

    assert [name for name, mask in idle.items() if bool(mask.any())] == []


@given(sizes, forms, forms, st.integers(1, 3), st.integers(1, 3))
def test_two_widenings_compose(hidden: int, first: dict[str, Any], second: dict[str, Any], a: int, b: int) -> None:
    """A widened model is widened again, in the same layer and in another, and still computes what the first one did."""
    torch.manual_seed(0)
    example = (torch.randn(6, 3, dtype=torch.float64),)
    model = trained(nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2), nn.Tanh(), nn.Linear(2, 2)), example)

    child = check_change(model, example, "0", to=hidden + a, **first)
    child = check_change(child, example, "0", to=hidden + a + b, seed=1, **second)
    child = check_change(child, example, "2", to=3, **first)

    check_equal(model, child, example)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.floats(0, 1))
def test_shares_sum_to_one(copies: list[int], skew: float) -> None:
    """The shares of all copies of a unit sum to one, whatever the skew."""
    index = torch.cat([torch.arange(5), torch.tensor(copies)])

    share = shares(index, skew)

    total = torch.zeros(5, dtype=torch.float64).index_add_(0, index, share)
    assert torch.allclose(total, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_same_seed_copies_the_same_units() -> None:
    """The units that are copied depend on the seed and on nothing else."""
    example = (torch.randn(6, 3, dtype=torch.float64),)
    model = trained(mlp(3, 8), example)

    children = [widen(model, "0", to=14, example=example, seed=seed).model for seed in (0, 0, 1)]

    first, same, other = (child[0].weight for child in children)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 99))
def test_units_are_copied_equally_often(size: int, more: int, seed: int) -> None:
    """The numbers of copies of two units differ by at most one, whatever the seed."""
    atom = Axis(size)

    index = _units(atom, size + more, "replicate", 0.0, Seed((seed,))).index

    copies = torch.bincount(index, minlength=size)
    assert len(index) == size + more
    assert torch.equal(index[:size], torch.arange(size))
    assert int(copies.max() - copies.min()) <= 1


@pytest.mark.parametrize(
    ("at", "options", "message"),
    [
        ("2", {"to": 9}, "output"),
        ("1", {"to": 9}, "has no weight"),
        ("7", {"to": 9}, "neither a layer nor a tensor"),
        ("0", {"to": 4}, "widening needs more"),
        ("0", {"to": 9, "factor": 3}, "factor is 3"),
        ("0", {"to": 9, "form": "zero", "skew": 0.1}, "skew is 0.1"),
        ("0.weight:1", {"to": 9}, "input"),
        ("0.weight:2", {"to": 9}, "has 2 axes"),
        ("model.0", {"to": 9}, "did you mean '0'"),
        ("", {"to": 9}, "a layer inside it, such as '0'"),
    ],
)
def test_refusals(at: str, options: dict[str, Any], message: str) -> None:
    """A place or an option that does not fit is refused with what is wrong, and the model stays as it is."""
    model = mlp(3, 4).double()
    before = state(model)

    with pytest.raises(ChangeError, match=message):
        widen(model, at, example=(torch.randn(6, 3, dtype=torch.float64),), **options)

    assert all(torch.equal(before[name], tensor) for name, tensor in state(model).items())


@cache
def coupled(name: str) -> Coupling:
    return couple(*build(name))


@pytest.mark.parametrize(
    ("name", "at", "to", "message"),
    [
        (
            "llama",
            "layers.1.k",
            3,
            r"has 8 units, which are \(2\*\(2\+2\)\), .* with factor=0 it has 2; widening needs more than 8",
        ),
        ("llama", "layers.1.v", 3, "with factor=0 it has 2"),
        ("llama", "layers.1.k", 9, "with factor=0 it has 2; their number changes in steps of 4, and cannot become 9"),
        ("llama", "layer.1.k", 9, r"did you mean 'layers\.1\.k'"),
        ("llama", "k", 9, r"did you mean 'layers\.0\.k'"),
    ],
)
def test_messages_name_what_is_meant(name: str, at: str, to: int, message: str) -> None:
    """Where a size or a name does not fit, the message has what `to` counts, the factor that can change, and the nearest names."""
    with pytest.raises(ChangeError, match=message):
        Widen(to).rewrite(coupled(name), at, Seed((0,)))


def test_a_layer_is_given_by_name() -> None:
    """A layer itself is refused with the name to write; a layer that was deepened is now in a container, and its new name is suggested."""
    example = (torch.randn(6, 3, dtype=torch.float64),)
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), act=nn.ReLU(), last=nn.Linear(4, 2))).double()

    with pytest.raises(ChangeError, match="give the name of a layer, such as 'first'"):
        widen(model, model.first, to=6, example=example)  # type: ignore[arg-type]
    with pytest.raises(ChangeError, match=r"name a layer inside it, such as 'first\.0'"):
        widen(deepen(model, "first", example=example).model, "first", to=6, example=example)


@pytest.mark.parametrize(
    ("name", "at", "options"),
    [
        ("cnn", "conv2", {"to": 8, "factor": 1, "skew": 0.2}),
        ("gpt inferred heads", "h.0.attn.c_attn", {"to": 3, "factor": 1, "form": "zero"}),
        ("lstm", "rnn", {"to": 11, "form": "zero"}),
        ("gpt kept head size", "h.0.attn.c_attn", {"to": 3, "factor": 0}),
        ("llama", "layers.1.k", {"to": 3, "factor": 0}),
    ][: 5 if FULL else 3],
)
def test_models_as_users_write_them(name: str, at: str, options: dict[str, Any]) -> None:
    """Grouped convolutions, residual networks, attention heads and a tied language model grow exactly."""
    model, example = build(name)

    check_change(trained(model, example), example, at, **options)


@pytest.mark.parametrize(
    ("name", "at", "options"),
    [
        ("cnn", "conv1", {"to": 4, "factor": 2}),
        ("gpt", "wte", {"to": 32}),
        ("encoder", "embed", {"to": 24}),
        ("llama", "embed", {"to": 32}),
        ("lstm normalised", "embed", {"to": 16}),
    ][: 5 if FULL else 3],
)
def test_models_that_normalise_over_their_units(name: str, at: str, options: dict[str, Any]) -> None:
    """The width of a transformer, a tied weight behind a norm and the channels of a group are replicated; the rest is refused."""
    model, example = build(name)
    model = trained(model, example)

    check_change(model, example, at, **options)

    coupling = couple(model, example)
    for other in ({"form": "zero"}, {"skew": 0.1}, {"to": options["to"] + 1}):
        with pytest.raises(ChangeError):
            Widen(**(options | other)).rewrite(coupling, at, Seed((0,)))


def test_architectures_of_torchvision(architecture: str) -> None:
    """At four places of each classifier, every form is exact and has the gradients of the map, or is refused."""
    model, example = vision(architecture)
    given = Example.of(example)
    coupling = couple(model, given)
    free = [place for place in places_of(coupling) if place[0].refusal is None]
    made = 0
    for place, factor in free[:: -(-len(free) // 4)]:
        for form, skew in (("replicate", 0.0), ("replicate", 0.2), ("zero", 0.0)):
            try:
                rewrite = Widen(2 * place.size, form, skew, 0 if factor is None else factor).rewrite(
                    coupling, place.name, Seed((0,))
                )
                child = changed_copy(model, answered(model, rewrite.edits, rewrite.questions, {}), rewrite.map, Seed((0,)))
                distances(model, child, given, rewrite.claim)
            except ClaimError:
                raise
            except ChangeError:
                continue
            assert gradient_distance(model, child, rewrite.map, given) < 1e-9
            made += 1
    assert made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try torchvision's architectures in a full run only."""
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", ARCHITECTURES if metafunc.config.getoption("--nasframe-full") else [])


class Enlarged(nn.Module):
    """A function that turns a difference of 1e-16 into one of 1e-9."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e7 * x)


def test_rounding_that_a_model_enlarges_is_no_error() -> None:
    """A change is exact if the outputs move by no more than rounding moves them in this model, and wrong if they move further."""
    example = (torch.randn(6, 3, dtype=torch.float64),)
    model = nn.Sequential(*trained(mlp(3, 8), example), Enlarged())

    change = widen(model, "0", to=12, example=example)

    assert change.distances.eval > 1e-11
    with torch.no_grad():
        change.model[0].weight[0] *= 1 + 1e-7
    with pytest.raises(ClaimError):
        distances(model, change.model, Example.of(example), change.claim)
