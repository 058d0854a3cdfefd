"""Splitting of single units of any module, under a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from full import FULL
from nasframe_splitting import SplitUnits, UnitSplit, split, unit_layers, units
from torch import Tensor, nn
from torch.nn import functional

import nasframe
from nasframe import Seed
from nasframe.errors import ChangeError
from nasframe.modules.coupling import couple
from nasframe.modules.verify import gradient_distance
from nasframe.network.cost import cost

SEED = Seed(("units",))
COUNT = itertools.count()


class Recurrent(nn.Module):
    """A layer that is called at each time step, and reads its units at the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.layer.out_features)
        for step in x.unbind(1):
            h = torch.tanh(self.layer(torch.cat([step, h], 1)))
        return self.rest(h)


def made(kind: str) -> tuple[nn.Module, Tensor]:
    """Return a model in float64 and its inputs."""
    with SEED(kind).as_global():
        model, shape = {
            "mlp": lambda: (
                nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.3), nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)),
                (12, 4),
            ),
            "depthwise": lambda: (
                nn.Sequential(
                    nn.Conv2d(1, 3, 3),
                    nn.Conv2d(3, 3, 3, padding=1, groups=3),
                    nn.Sigmoid(),
                    nn.AvgPool2d(2),
                    nn.Conv2d(3, 2, 1),
                    nn.SiLU(),
                    nn.Flatten(),
                    nn.Linear(8, 2),
                ),
                (4, 1, 6, 7),
            ),
            "groups": lambda: (
                nn.Sequential(
                    nn.Conv1d(2, 6, 3, groups=2),
                    nn.Tanh(),
                    nn.Conv1d(6, 4, 2, groups=2),
                    nn.Tanh(),
                    nn.AdaptiveAvgPool1d(1),
                    nn.Flatten(),
                    nn.Linear(4, 2),
                ),
                (6, 2, 8),
            ),
            "time": lambda: (Recurrent(), (4, 3, 2)),
        }[kind]()
        return model.double(), 2 * torch.randn(shape, dtype=torch.float64)


def objective(outputs: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, torch.arange(len(outputs)) % 2)


def loss_of(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float(objective(model.eval()(x)))


def assert_theorem(kind: str, split_layers: int) -> None:
    """Assert that the loss changes by eps^2/2 times the sum of the splitting indices, up to an error that falls as eps^4."""
    model, x = made(kind)
    errors = []
    for eps in (0.1, 0.05, 0.025):
        change = split(model, x, objective, units=100, eps=eps, steps=None)
        assert isinstance(change.morphism, SplitUnits)
        assert change.morphism.eps == eps
        assert len(change.morphism.units) == split_layers
        fallen = loss_of(model, x) - loss_of(change.model, x)
        assert change.measured == pytest.approx(fallen, rel=1e-6)
        errors.append(abs(fallen - change.predicted))
    assert errors[-1] < 0.02 * change.predicted, (errors, change.predicted)
    for coarse, fine in itertools.pairwise(errors):
        assert 14 < coarse / fine < 18, errors


#: by the kind of a model, how many of its layers have units to split
LAYERS = {"mlp": 2, "depthwise": 2, "groups": 2, "time": 1}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_loss_changes_as_predicted(kind: str) -> None:
    """Units of several layers at once, depthwise, with groups and through time: the error of the prediction falls as eps^4."""
    assert_theorem(kind, LAYERS[kind])


def test_without_a_step_the_halves_are_copies() -> None:
    """With eps = 0 the change is exact, the incoming weights are copied, and the outgoing ones are halved."""
    model, x = made("mlp")
    change = nasframe.grow(model, SplitUnits(0.0, (("0", (2,)),)), "0", x)

    assert change.claim.kind == "exact"
    before, after = model.state_dict(), change.model.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"][[0, 1, 2, 2]])
    assert torch.equal(after["3.weight"], before["3.weight"][:, [0, 1, 2, 2]] * torch.tensor([1.0, 1.0, 0.5, 0.5]))


@pytest.mark.parametrize("kind", LAYERS if FULL else ["depthwise", "time"])
def test_gradients_follow_a_split_and_a_merger(kind: str) -> None:
    """Copies have half the gradient of their unit, and the merged unit has the gradient of both: moments follow these."""
    model, x = made(kind)
    there = nasframe.grow(model, SplitUnits(0.0), "", x)
    back = there.undone()

    for change in (there, back):
        assert change.claim.kind == "exact"
        assert gradient_distance(change.parent, change.model, change.map, change.example) < 1e-9


def test_the_units_that_are_split_are_those_that_lower_the_loss_most() -> None:
    """With a budget of one unit, no other unit would have lowered the loss more; with a larger one, the best units are in it."""
    model, x = made("mlp")
    best = split(model, x, objective, units=1, eps=0.01, steps=None)
    others = [split(model, x, objective, units=n, eps=0.01, steps=None) for n in (2, 3)]

    assert all(attrs.asdict(best.distances)[mode] > 0 for mode in ("eval", "train"))
    gains = [best.measured, *(change.measured for change in others)]
    steps = [gains[0], *(b - a for a, b in itertools.pairwise(gains))]
    assert steps == sorted(steps, reverse=True)
    chosen = [{(name, unit) for name, numbers in parts(change) for unit in numbers} for change in (best, *others)]
    assert chosen[0] < chosen[1] < chosen[2]


def parts(change: UnitSplit) -> tuple[tuple[str, tuple[int, ...]], ...]:
    assert isinstance(change.morphism, SplitUnits)
    return change.morphism.units


@pytest.mark.parametrize("kind", ["mlp", "depthwise", *["groups"] * FULL])
def test_a_budget_is_not_exceeded(kind: str) -> None:
    """As many units are split as fit into a budget of parameters or FLOPs, which are those that the whole model has more."""
    model, x = made(kind)
    before = cost(model, x.shape)
    largest = cost(split(model, x, objective, units=100).model, x.shape)
    for fraction in (0.4, 1.0):
        parameters = int(fraction * (largest.parameters - before.parameters))
        flops = int(fraction * (largest.flops - before.flops))
        after = cost(split(model, x, objective, parameters=parameters).model, x.shape)
        assert 0 < after.parameters - before.parameters <= parameters
        after = cost(split(model, x, objective, flops=flops).model, x.shape)
        assert 0 < after.flops - before.flops <= flops
    assert after == largest


class Refused(nn.Module):
    """Layers that have splitting matrices, but whose units cannot be split, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("start", "residual", "gate", "normalised", "nonlinear", "fine", "pixels", "scores"):
            self.add_module(name, nn.Linear(4, 4))
        self.depthwise = nn.Conv1d(4, 4, 2, groups=4)
        self.first, self.norm = nn.Conv1d(1, 4, 2), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        x = x + torch.tanh(self.residual(x))
        x = torch.sigmoid(self.gate(x)) * x
        x = self.norm(torch.tanh(self.normalised(x)))
        x = self.fine(torch.tanh(self.nonlinear(x)).cumsum(0))
        x = torch.tanh(self.pixels(torch.tanh(x)))[:, None]
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.depthwise(x)).mean(2)
        return torch.tanh(self.scores(x))


def test_layers_say_why_their_units_cannot_be_split() -> None:
    """Sums, gates, norms, depthwise convolutions after a layer, and the outputs of the model are refused with the reason."""
    model, x = Refused(), torch.randn(5, 4)
    found = {each.name: each.refusal for each in unit_layers(couple(model, x))}
    reasons = {
        "start": "its output is read by linear",
        "residual": "its activation is read by add",
        "gate": "its activation is read by mul",
        "normalised": "its units are normalised",
        "nonlinear": "its activation is read by cumsum",
        "pixels": "which does not sum over its units",
        "first": "which does not sum over its units",
        "scores": "it is an axis of the model's output",
    }
    assert found.keys() == {*reasons, "fine", "depthwise"}
    for name, reason in reasons.items():
        assert reason in (found[name] or ""), (name, found[name])
    assert found["fine"] is found["depthwise"] is None
    with pytest.raises(ChangeError, match="units of 'gate' cannot be split: its activation is read by mul"):
        nasframe.grow(model, SplitUnits(units=(("gate", (0,)),)), "gate", x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of parameters=..., flops=... and units=..., and was given none"),
        ({"units": 1, "flops": 10}, "was given flops and units"),
        ({"units": 1, "eps": 0.0}, "eps is 0.0; the largest step must be a number above 0"),
        ({"parameters": 3}, "parameters is 3, which is not enough"),
        ({"units": 1, "loss": lambda outputs: next(COUNT) + objective(outputs)}, "does not fall as predicted"),
        ({"units": 1, "loss": lambda outputs: 0 * objective(outputs)}, "no unit has a negative splitting index"),
        (
            {"units": 1, "model": nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()},
            "0: relu is linear almost",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(options: dict[str, Any], message: str) -> None:
    """A missing budget, one that is too small, a loss that does not fall and a model of ReLUs are refused with the reason."""
    model, x = made("mlp")
    options = {"loss": objective, "model": model, **options}
    with pytest.raises(ChangeError, match=message):
        split(options.pop("model"), x, options.pop("loss"), **options)


def test_a_network_of_relus_is_split_with_a_surrogate() -> None:
    """With the second derivative of a softplus, a layer with ReLU has directions in which the loss falls, and can be merged again."""
    with SEED("relu").as_global():
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
        x = torch.randn(200, 4, dtype=torch.float64)
    change = split(model, x, objective, units=2, surrogate=3.0)

    assert loss_of(model, x) - loss_of(change.model, x) == pytest.approx(change.measured, rel=1e-6)
    assert change.measured >= change.predicted / 2 > 0
    torch.testing.assert_close(change.undone().model.state_dict(), dict(model.state_dict()))


@pytest.mark.parametrize("kind", LAYERS if FULL else ["mlp", "groups"])
def test_a_split_is_undone(kind: str) -> None:
    """Merging the halves directly after a split restores the parameters of the parent, also where both sides of a layer were split."""
    model, x = made(kind)
    change = split(model, x, objective, units=100)
    back = change.undone()

    assert back.claim.kind == "lossy"
    before, after = model.state_dict(), back.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_training_goes_on(tmp_path: Path) -> None:
    """The optimiser follows, the halves of a unit become different, and the model is rebuilt from the lineage."""
    model, x = made("depthwise")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(6):
        if step == 3:
            change = split(model, x, objective, parameters=40)
            change.follow(optimiser)
            change.save(tmp_path / "lineage.json")
            model, before = change.model, loss_of(change.parent, x)
            assert "the loss on the example falls by" in str(change)
            assert "stay equal" not in str(change)
        optimiser.zero_grad()
        objective(model.train()(x)).backward()
        optimiser.step()
    assert loss_of(model, x) < before
    again = nasframe.rebuild(made("depthwise")[0], tmp_path / "lineage.json")
    again.load_state_dict(model.state_dict())
    assert loss_of(again, x) == loss_of(model, x)


# ----------------------------------------------------------------------------------------------------------------- mutants


def same_sign(patch: pytest.MonkeyPatch) -> None:
    """Both halves move in the same direction."""
    honest = SplitUnits.along

    def wrong(*arguments: Any) -> Any:
        rewrite = honest(*arguments)
        absolute = {
            name: attrs.evolve(entry, offset=entry.offset.abs()) if entry.offset is not None else entry
            for name, entry in rewrite.map.items()
        }
        return attrs.evolve(rewrite, map=absolute)

    patch.setattr(SplitUnits, "along", wrong)


def whole_step(patch: pytest.MonkeyPatch) -> None:
    """The step of a weight is not divided among the halves of the units that it reads."""
    honest = SplitUnits.along

    def wrong(*arguments: Any) -> Any:
        rewrite = honest(*arguments)
        entries = {
            name: attrs.evolve(entry, offset=entry.offset / entry.value) if entry.offset is not None else entry
            for name, entry in rewrite.map.items()
        }
        return attrs.evolve(rewrite, map=entries)

    patch.setattr(SplitUnits, "along", wrong)


def nonlinear_readers(patch: pytest.MonkeyPatch) -> None:
    """The units of a layer are split although a depthwise convolution reads them."""
    patch.setattr(units, "_sums", lambda coupling, held, reader, node, atom: units.operation(reader) in units.SUMS)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(same_sign, "mlp"), (whole_step, "mlp"), (whole_step, "time"), (nonlinear_readers, "chain")],
    ids=["same_sign", "whole_step", "whole_step_in_time", "nonlinear_readers"],
)
def test_a_fault_is_detected(fault: Callable[..., None], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault breaks the theorem, or the loss does not fall as predicted at all."""
    if kind == "chain":  # a layer whose units a depthwise convolution with an activation reads
        chain = nn.Sequential(
            nn.Conv1d(1, 3, 2),
            nn.Tanh(),
            nn.Conv1d(3, 3, 2, groups=3),
            nn.Tanh(),
            nn.Conv1d(3, 1, 3),
            nn.Flatten(),
            nn.Linear(4, 2),
        )
        with SEED(kind).as_global():
            for parameter in chain.parameters():
                nn.init.normal_(parameter)
            x = torch.randn(6, 1, 8, dtype=torch.float64)
        monkeypatch.setattr("test_splitting_units.made", lambda _: (chain.double(), x))
        assert_theorem(kind, 1)
    fault(monkeypatch)
    with pytest.raises((AssertionError, ChangeError)):
        assert_theorem(kind, LAYERS.get(kind, 2))
