"""Splitting matrices of the layers of any module, found in its graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nasframe_splitting import exact_eigenpairs, layer_matrices, layers, module_layers
from nasframe_splitting.module_layers import Layer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nasframe import Seed
from nasframe.modules.coupling import Coupling, couple

SEED = Seed(("layers",))
Activation = Callable[[Tensor], Tensor]


def bump(z: Tensor) -> Tensor:
    """Return an activation of a third party, of several operations."""
    return z * torch.exp(-z * z)


class OneLayer(nn.Module):
    """A layer with an activation behind it, whose output is read by the rest."""

    def __init__(self, layer: nn.Module, activation: Activation, rest: nn.Module) -> None:
        super().__init__()
        self.layer, self.activation, self.rest = layer, activation, rest

    def forward(self, x: Tensor, halves: Any = None) -> Tensor:
        parts = [self.layer(x)] if halves is None else [functional_call(self.layer, half, (x,)) for half in halves]
        return self.rest(torch.stack([self.activation(z) for z in parts]).mean(0))


class Recurrent(nn.Module):
    """A layer that is called at each time step."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.layer, self.activation, self.rest = nn.Linear(5, 3), activation, nn.Linear(3, 2)

    def forward(self, x: Tensor, halves: Any = None) -> Tensor:
        h = x.new_zeros(x.shape[0], 3)
        for step in x.unbind(1):
            read = torch.cat([step, h], 1)
            parts = [self.layer(read)] if halves is None else [functional_call(self.layer, half, (read,)) for half in halves]
            h = torch.stack([self.activation(z) for z in parts]).mean(0)
        return self.rest(h)


def pooled(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 3, 2), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


def model(kind: str, activation: Activation) -> tuple[nn.Module, Tensor]:
    """Return a model in float64 with one layer to split, and its inputs."""
    generator = SEED("inputs").generator()
    with SEED(kind).as_global():
        made: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
            "linear": lambda: (OneLayer(nn.Linear(4, 3), activation, nn.Linear(3, 2)), (6, 4)),
            "tokens": lambda: (OneLayer(nn.Linear(4, 3, bias=False), activation, nn.Linear(3, 2)), (3, 2, 4)),
            "time": lambda: (Recurrent(activation), (4, 3, 2)),
            "depthwise": lambda: (
                OneLayer(nn.Conv2d(3, 3, 3, padding=1, groups=3), activation, pooled(3)),
                (2, 3, 5, 4),
            ),
            "groups": lambda: (
                OneLayer(nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding="valid", groups=2, bias=False), activation, pooled(6)),
                (2, 4, 5, 7),
            ),
            "same": lambda: (
                OneLayer(nn.Conv2d(2, 2, (2, 3), padding="same", dilation=(3, 1)), activation, pooled(2)),
                (2, 2, 5, 4),
            ),
            "conv1d": lambda: (
                OneLayer(nn.Conv1d(2, 3, 3, dilation=2, padding=1), activation, nn.Sequential(nn.Flatten(), nn.Linear(12, 2))),
                (3, 2, 6),
            ),
        }
        network, shape = made[kind]()
    return network.double(), torch.randn(shape, generator=generator, dtype=torch.float64)


def objective(outputs: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), torch.arange(outputs[..., 0].numel()) % 2)


def halved(network: nn.Module, x: Tensor, layer: Layer, coupling: Coupling, v: Tensor) -> Tensor:
    """Return the loss where the layer is split into theta + v and theta - v, and the mean of both activations is read."""
    own = dict(network.layer.named_parameters())  # type: ignore[union-attr, operator]
    moves = {name.removeprefix("layer."): part for name, part in layer.parts(v, coupling).items()}
    return objective(network(x, [{name: p + sign * moves[name] for name, p in own.items()} for sign in (1, -1)]))


def the_layer(kind: str, activation: Activation) -> tuple[nn.Module, Tensor, Coupling, Layer]:
    network, x = model(kind, activation)
    coupling = couple(network, x)
    return network, x, coupling, next(layer for layer in layers(coupling) if layer.weight == "layer.weight")


def assert_definition(kind: str, activation: Activation) -> None:
    """Assert that the matrices are the diagonal blocks of the Hessian by v of the split loss, whose other blocks are zero."""
    network, x, coupling, layer = the_layer(kind, activation)
    found = layer_matrices(coupling, objective, [layer])["layer.weight"].form()
    zero = torch.zeros(found.shape[:-1], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda v: halved(network, x, layer, coupling, v), zero)
    hessian = hessian.flatten(3, 4).flatten(0, 1)  # (units, size, units, size)
    wanted = torch.zeros_like(hessian)
    for unit, matrix in enumerate(found.flatten(0, 1)):
        wanted[unit, :, unit] = matrix
    torch.testing.assert_close(hessian, wanted, rtol=1e-9, atol=1e-12)


def assert_theorem(kind: str, activation: Activation) -> None:
    """Assert that the loss changes by eps^2/2 times the sum of lambda_min, up to an error that falls as eps^4."""
    network, x, coupling, layer = the_layer(kind, activation)
    pairs = exact_eigenpairs(layer_matrices(coupling, objective, [layer])["layer.weight"])
    errors = []
    with torch.no_grad():
        before = objective(network(x)).item()
        for eps in (0.1, 0.05, 0.025):
            change = halved(network, x, layer, coupling, eps * pairs.vectors).item() - before
            predicted = eps**2 / 2 * pairs.values.sum().item()
            errors.append(abs(change - predicted))
    assert errors[-1] < 0.01 * abs(predicted), (errors, predicted)
    for coarse, fine in itertools.pairwise(errors):
        assert 14 < coarse / fine < 18, errors


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "bump": bump,
}
KINDS = ("linear", "tokens", "time", "depthwise", "groups", "same", "conv1d")


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrices_are_those_of_the_definition(kind: str) -> None:
    """S_u is the Hessian of the loss of the split network, for linear layers, convolutions of all forms, and through time."""
    assert_definition(kind, bump)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["linear", "depthwise", "time"])
def test_the_loss_changes_as_predicted(kind: str, activation: str) -> None:
    """The loss of the split network differs from the prediction by an error that falls as eps^4."""
    assert_theorem(kind, ACTIVATIONS[activation])


def test_a_layer_is_widened_by_its_halves() -> None:
    """A layer with twice the units and half the outgoing weights computes the mean of the halves."""
    network, x, coupling, layer = the_layer("depthwise", torch.tanh)
    v = 0.1 * torch.randn(3, 1, 10, generator=SEED("v").generator(), dtype=torch.float64)
    moves = layer.parts(v, coupling)
    before, after = network.layer, network.rest[0]  # type: ignore[index]
    wide, reading = nn.Conv2d(3, 6, 3, padding=1, groups=3).double(), nn.Conv2d(6, 3, 2).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter, move = getattr(before, name), moves[f"layer.{name}"]
            getattr(wide, name).copy_(torch.stack([parameter + move, parameter - move], 1).flatten(0, 1))
        reading.weight.copy_(after.weight.repeat_interleave(2, 1) / 2)
        reading.bias.copy_(after.bias)
        widened = network.rest[1:](reading(torch.tanh(wide(x))))  # type: ignore[index]
        torch.testing.assert_close(objective(widened), halved(network, x, layer, coupling, v))


class Refused(nn.Module):
    """Layers that cannot be split, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("relu", "plain", "normalised", "residual", "two", "shared", "split"):
            self.add_module(name, nn.Linear(3, 3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * torch.relu(self.relu(x)) @ self.shared.weight
        x = torch.tanh(self.shared(self.plain(x)))
        x = torch.tanh(self.norm(self.normalised(x)))
        z = self.residual(x)
        x = x * z + torch.tanh(z)
        z = self.two(x)
        x = torch.softmax(torch.tanh(z), 1) * torch.sin(z).cumsum(1)
        return torch.sigmoid_(self.split(x)).sum(1)


def test_layers_say_why_they_cannot_be_split() -> None:
    """ReLU, no activation, a normalisation, another reader of z or of W, and two functions of z are refused with the reason."""
    found = {layer.weight.partition(".")[0]: layer.refusal for layer in layers(couple(Refused(), torch.randn(4, 3)))}
    reasons = {
        "relu": "relu, mul is linear almost everywhere",
        "plain": "its output is read by linear",
        "normalised": "its output is read by batch_norm",
        "residual": "its output is read by an elementwise function and also by mul",
        "two": "2 different functions of its output are read",
        "shared": "its parameters are also read by matmul",
    }
    assert found.keys() == {*reasons, "split"}
    for name, reason in reasons.items():
        assert reason in (found[name] or ""), (name, found[name])
    assert found["split"] is None


def test_a_softplus_replaces_relu() -> None:
    """With a surrogate, the coefficients of a ReLU layer are its gradients times beta p (1 - p), and without it it is refused."""
    network, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(), torch.randn(5, 3, dtype=torch.float64)
    coupling = couple(network, x)
    assert "relu is linear almost everywhere" in str(next(layers(coupling)).refusal)
    z = network[0](x)
    (slopes,) = torch.autograd.grad(objective(network[2](s := z.relu())), s)
    p = torch.sigmoid(7 * z)
    features = torch.cat([x, torch.ones(5, 1, dtype=torch.float64)], 1)
    wanted = torch.einsum("bu,bi,bj->uij", slopes * 7 * p * (1 - p), features, features)
    layer = next(layers(coupling, surrogate=7.0))
    torch.testing.assert_close(layer_matrices(coupling, objective, [layer])["0.weight"].form()[0], wanted)


def test_measuring_leaves_the_model_and_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations in place, frozen layers and dropout of the training mode do not disturb, and no gradient is left behind."""
    network = nn.Sequential(nn.Linear(3, 4), nn.SiLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(5, 3, generator=SEED.generator())
    coupling = couple(network, x)
    before = {name: p.clone() for name, p in network.named_parameters()}
    found = layer_matrices(coupling, objective)["0.weight"].form()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(layer_matrices(couple(network, x), objective)["0.weight"].form(), found)
    assert network.training
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in network.named_parameters())


# ----------------------------------------------------------------------------------------------------------------- mutants


def one_call(patch: pytest.MonkeyPatch) -> None:
    """Only the last call of a layer counts."""
    honest = layers

    def wrong(coupling: Coupling) -> Any:
        return [Layer(one.weight, one.bias, one.calls[-1:], one.refusal) for one in honest(coupling)]

    patch.setattr("test_splitting_layers.layers", wrong)


def no_groups(patch: pytest.MonkeyPatch) -> None:
    """The channels of all groups are in the wrong order."""
    honest = module_layers._features
    patch.setattr(module_layers, "_features", lambda *arguments: honest(*arguments).flip(0))


def first_derivative(patch: pytest.MonkeyPatch) -> None:
    """The coefficients have sigma' instead of sigma''."""

    def wrong(description: Any, z: Tensor, h: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(description.function(z, h).sum(), z)[0][None, None]

    patch.setattr(module_layers, "second_derivatives", wrong)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(one_call, "time"), (no_groups, "depthwise"), (first_derivative, "linear")],
    ids=["one_call", "no_groups", "first_derivative"],
)
def test_a_fault_is_detected(fault: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault breaks the matrices and the theorem."""
    fault(monkeypatch)
    for assertion in (assert_definition, assert_theorem):
        with pytest.raises(AssertionError):
            assertion(kind, torch.tanh)
