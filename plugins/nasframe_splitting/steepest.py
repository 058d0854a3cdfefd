"""The splits of a model that lower its loss most for a budget of parameters, FLOPs or units."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from nasframe import Seed
from nasframe.change.map import Map, Take
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.calls import operation
from nasframe.modules.change import ModuleChange, make, refuse_unsupported
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.edits import named_tensors
from nasframe.modules.example import Example
from nasframe.modules.units import positions, touched
from nasframe_splitting.kernels import least_eigenpairs
from nasframe_splitting.module_layers import LAYERS, graph_parameters, layer_matrices, parameter_of
from nasframe_splitting.morphism import ACCEPTED, HALVINGS
from nasframe_splitting.units import Halves, SplitUnits, UnitLayer, reasons, unit_layers

#: the length of the direction of a row with lambda >= 0 whose unit is split because of its other rows, so that its halves are no copies
NOISE = 1e-3


@attrs.frozen(eq=False, kw_only=True)
class UnitSplit(ModuleChange):
    """A split of units that was made and measured.

    Attributes:
        predicted: by how much the loss on the example falls according to the splitting matrices, -eps^2 / 2 times the sum of the
            splitting indices of the units.
        measured: by how much it fell.
    """

    predicted: float
    measured: float

    def __str__(self) -> str:
        loss = f"  the loss on the example falls by {self.measured:.3g}; predicted {self.predicted:.3g}"
        return f"{super().__str__()}\n{loss}"


def split(
    model: nn.Module,
    example: Any,
    loss: Callable[[Any], Tensor],
    *,
    parameters: int | None = None,
    flops: int | None = None,
    units: int | None = None,
    eps: float = 1.0,
    steps: int | None = 30,
    surrogate: float | None = None,
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> UnitSplit:
    """Return the change that splits the units of a model that lower its loss most. The model is not modified.

    All layers that can be split are measured in one backward pass on the example. The units with the largest predicted decrease of
    the loss for each parameter (or FLOP) that they add are split, until the budget is full or no unit is left with a negative
    splitting index. The step eps is halved until the loss on the example falls by half of the prediction.

    Args:
        model: any module that `torch.export` can trace.
        example: the inputs of a training batch: a tensor, a tuple of arguments, or a dictionary of keyword arguments.
        loss: a function from what the model returns for the example to the loss.
        parameters: the largest number of parameters to add.
        flops: the largest number of floating-point operations to add to a call with the example: two for each multiply-add of a linear
            layer or a convolution.
        units: the largest number of units to split.
        eps: the largest step.
        steps: the number of steps of the method of Lanczos by which splitting indices are approximated; None to decompose the matrices.
        surrogate: the sharpness of a softplus, such as 10.0, whose second derivative replaces that of ReLU. Without it, layers with
            ReLU are refused: their splitting matrices are zero, as ReLU is linear almost everywhere. With it, the predicted decrease is
            rough, and holds for no eps exactly.
        numbers: the new values of numbers that the model's modules keep, as for `nasframe.grow`.
        seed: the seed of what is drawn.

    Raises:
        ChangeError: if no units can be split within the budget, or no split lowers the loss; with the reasons.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 2)
        >>> change = split(net, x, lambda outputs: (outputs - x.prod(1, keepdim=True)).square().mean(), parameters=8)
        >>> change.model[0]
        Linear(in_features=2, out_features=5, bias=True)
    """
    budgets = {name: n for name, n in (("parameters", parameters), ("flops", flops), ("units", units)) if n is not None}
    if len(budgets) != 1:
        given = " and ".join(budgets) or "none of them"
        raise ChangeError(f"split() needs one of parameters=..., flops=... and units=..., and was given {given}")
    ((currency, budget),) = budgets.items()
    if not eps > 0:
        raise ChangeError(f"eps is {eps}; the largest step must be a number above 0, such as 1.0")
    refuse_unsupported(model)
    example = Example.of(example)
    coupling = couple(model, example)
    found = [*unit_layers(coupling, surrogate)]
    possible = [each for each in found if each.refusal is None]
    if not possible:
        raise ChangeError(
            f"no layer of the model can be split: {reasons(found) or 'it has no linear layer and no convolution'}"
        )
    measured = _measured(coupling, loss, possible, steps, Seed((seed, "lanczos")))
    if not any(bool((each.indices < 0).any()) for each in measured):
        raise ChangeError("no unit has a negative splitting index on the example, so that no small split lowers the loss")
    halves, total = _within(measured, budget, _price(coupling, currency, [each.atom for each in possible]))
    if not halves:
        raise ChangeError(f"{currency} is {budget}, which is not enough to split any of the units that would lower the loss")

    at = halves[0].of.name if len(halves) == 1 else ""
    units_of = tuple((each.of.name, each.units) for each in halves)

    def made(eps: float) -> ModuleChange:
        morphism = SplitUnits(eps, units_of, surrogate)
        return make(model, morphism, at, morphism.along(coupling, at, halves), example, numbers=numbers, seed=seed)

    # With eps = 0 the change must be exact, which is verified here. A lossy change could not be distinguished from a wrong one.
    twins = made(0.0)
    offsets = SplitUnits(1.0, units_of, surrogate).along(coupling, at, halves).map
    step, fallen = _step(twins, offsets, loss, total, eps)
    return UnitSplit(**attrs.asdict(made(step), recurse=False), predicted=-(step**2) / 2 * total, measured=fallen)


@attrs.frozen(eq=False)
class _Measured:
    """What was measured of a layer.

    Attributes:
        of: the layer.
        indices: the sum of the negative splitting indices of the rows of each unit.
        directions: v for each row of the weight, of shape (groups, rows of a group, size).
    """

    of: UnitLayer
    indices: Tensor
    directions: Tensor


def _measured(
    coupling: Coupling, loss: Callable[[Any], Tensor], possible: Sequence[UnitLayer], steps: int | None, seed: Seed
) -> list[_Measured]:
    matrices = layer_matrices(coupling, loss, [each.layer for each in possible])
    found = []
    for each in possible:
        pairs = least_eigenpairs(matrices[each.layer.weight], steps, seed)
        negative = pairs.values.clamp(max=0).double()
        rows = positions(coupling, each.layer.weight, 0, each.atom)
        directions = torch.where(negative.unsqueeze(-1) < 0, pairs.vectors, NOISE * pairs.vectors)
        found.append(_Measured(each, negative.flatten()[rows].sum(1).cpu(), directions))
    return found


def _price(coupling: Coupling, currency: str, atoms: Sequence[Axis]) -> Callable[[Mapping[Axis, int]], int]:
    """Return the function from the numbers of units to the parameters, FLOPs or units of the model, up to a constant."""
    if currency == "units":
        return lambda sizes: sum(sizes.values()) - sum(atom.size for atom in sizes)
    counts: dict[str, int] = {}
    if currency == "parameters":
        counts = {name: 1 for name, tensor in coupling.tensors.items() if isinstance(tensor, nn.Parameter)}
    else:
        held = graph_parameters(coupling)
        for node in coupling.graphs[False].graph.nodes:
            if (operation(node) in LAYERS or operation(node) == "conv3d") and (name := parameter_of(held, node, "weight")):
                samples = node.meta["val"].numel() // coupling.tensors[name].shape[0]
                counts[name] = counts.get(name, 0) + 2 * samples
    changed = touched(coupling, {*atoms})
    counts = {name: count for name, count in counts.items() if name in changed}
    return lambda sizes: sum(n * prod(axis.size_with(sizes) for axis in coupling.axes[name]) for name, n in counts.items())


def _within(
    measured: Sequence[_Measured], budget: int, price: Callable[[Mapping[Axis, int]], int]
) -> tuple[list[Halves], float]:
    """Return the units to split, and the sum of their splitting indices: those with the least index for what a unit costs first."""
    start = price({})
    costs = {each.of.atom: price({each.of.atom: each.of.atom.size + 1}) - start for each in measured}
    ranked = [
        (index / costs[each.of.atom], number, unit)
        for number, each in enumerate(measured)
        for unit, index in enumerate(each.indices.tolist())
        if index < 0
    ]
    sizes: dict[Axis, int] = {}
    chosen: dict[int, list[int]] = {}
    for _, number, unit in sorted(ranked):
        atom = measured[number].of.atom
        # not the sum of the costs: units of two layers, one of which reads the other, also cost the weights between them
        more = {**sizes, atom: sizes.get(atom, atom.size) + 1}
        if price(more) - start <= budget:
            sizes = more
            chosen.setdefault(number, []).append(unit)
    halves = [Halves(measured[n].of, tuple(sorted(units)), measured[n].directions) for n, units in sorted(chosen.items())]
    return halves, sum(float(measured[n].indices[units].sum()) for n, units in chosen.items())


def _step(twins: ModuleChange, of_one: Map, loss: Callable[[Any], Tensor], total: float, eps: float) -> tuple[float, float]:
    """Return the largest step eps, eps/2, eps/4, ... whose split lowers the loss by enough of the prediction, and by how much it does.

    Args:
        twins: the split with a step of zero.
        of_one: the map of the split with a step of one.
        loss: the loss.
        total: the sum of the splitting indices.
        eps: the first step.

    Raises:
        ChangeError: if no step does.
    """
    offsets = {name: entry.offset for name, entry in of_one.items() if isinstance(entry, Take) and entry.offset is not None}
    model = copy.deepcopy(twins.model).eval()
    tensors = named_tensors(model)
    start = {name: tensors[name].detach().clone() for name in offsets}

    def after(step: float) -> float:
        for name, offset in offsets.items():
            tensors[name].copy_(start[name] + step * offset)
        return float(loss(twins.example.copied().call(model)))

    with torch.no_grad():
        before = after(0.0)
        for halving in range(HALVINGS + 1):
            step = eps / 2**halving
            fallen = before - after(step)
            if fallen >= ACCEPTED * -(step**2) / 2 * total > 0:
                return step, fallen
    raise ChangeError(
        f"the loss on the example does not fall as predicted, with any step from {eps:.3g} to {step:.3g}; is it a function of what the "
        "model returns for the example, without random numbers?"
    )
