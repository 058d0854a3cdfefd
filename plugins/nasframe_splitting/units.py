"""Splitting of single units of any module: a unit theta becomes theta + eps v and theta - eps v, each with half the outgoing weights.

Where the next layers are linear in the units, they see the mean of the two halves, so the loss changes as the splitting matrices
predict (see `nasframe_splitting.kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from nasframe import Claim, ModuleMorphism, Seed
from nasframe.change.map import ZERO
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.calls import DROPOUTS, SAME, argument, operation
from nasframe.modules.coupling import Coupling
from nasframe.modules.morphism import Place, Rewrite, Undo
from nasframe.modules.units import (
    Units,
    atoms_of,
    expand,
    locate,
    positions,
    refusal,
    rewritten,
    sizes_from,
    takes,
    tied,
    touched,
)
from nasframe.modules.widen import shares
from nasframe.options import number
from nasframe_splitting.module_layers import Layer, described, graph_parameters, layers, parameter_of

#: operations that are linear in each unit in evaluation mode. Max pooling is so for a small eps, which changes the position of a largest
#: entry only where two of them are almost equal.
LINEAR = SAME | DROPOUTS | {
    *(f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg", "max") for n in (1, 2, 3)),
    "cat", "chunk", "concat", "expand", "flatten", "flip", "getitem", "mean", "narrow", "pad", "permute", "reshape", "select", "slice",
    "split", "squeeze", "stack", "sum", "transpose", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip
#: layers that return sums over the units of their inputs
SUMS = frozenset({"linear", *(f"conv{n}d" for n in (1, 2, 3)), *(f"conv_transpose{n}d" for n in (1, 2, 3))})


@attrs.frozen(eq=False)
class UnitLayer:
    """A layer whose units can be split one by one, or the reason why they cannot.

    Attributes:
        name: the name of the layer; that of its weight if the weight has another name than "weight".
        layer: the parameters and calls of the layer.
        atom: the units, which may be fewer than the rows of the weight: with groups of channels, an axis is a product of two numbers of
            units, and the larger one is chosen.
        refusal: why the units cannot be split; None if they can.
    """

    name: str
    layer: Layer
    atom: Axis
    refusal: str | None = None


@attrs.frozen(eq=False)
class Halves:
    """The units of a layer that are split, and how.

    Attributes:
        of: the layer.
        units: the numbers of the units.
        directions: v for each row of the weight, of shape (groups, units of a group, size), as `Layer.parts` has it. It counts for the
            rows of the units that are split only.
    """

    of: UnitLayer
    units: tuple[int, ...]
    directions: Tensor


@attrs.frozen
class SplitUnits(ModuleMorphism):
    """Split units of layers that a smooth elementwise function follows: theta + eps v and theta - eps v, with half the outgoing weights.

    By itself it draws the directions v at random. `nasframe_splitting.split` measures the units and directions that lower the loss most.

    With eps=0 the two halves are copies, and the change is exact. Otherwise it is lossy: for a smooth function the outputs move by
    O(eps^2).

    A unit can be split if all that its activation passes through, up to the weights of the next layers, is linear in it: pooling, dropout,
    reshaping, concatenation. So units of a residual stream, units that are multiplied with others, and units that are normalised are
    refused with the reason, as are those of a layer that is linear in its weights almost everywhere, such as one with ReLU.

    Args:
        eps: the length of the step of each unit.
        units: the layers and the numbers of the units to split, as ("conv1", (0, 3)). By default all units of the layer, or of all
            layers in the module, at the place.
        surrogate: if given, layers with ReLU are split, too; see `nasframe_splitting.split`.
    """

    name: ClassVar[str] = "split_units"
    eps: float = number(0.1, low=0.0)
    units: tuple[tuple[str, tuple[int, ...]], ...] = ()
    surrogate: float | None = number(None, low=0.1, optional=True)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the layers, with the number of their units.

        Args:
            coupling: the coupling of the model.
        """
        for found in unit_layers(coupling, self.surrogate):
            yield Place(found.name, found.atom.size, refusal=found.refusal)

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits and the map of a split in random directions.

        Args:
            coupling: the coupling of the model.
            at: the name of a layer, or of a module that contains layers; "" for the model.
            seed: the seed of the directions.

        Raises:
            ChangeError: if there is no such layer, or its units cannot be split.
        """
        found = {each.name: each for each in _within(coupling, at, self.surrogate)}
        chosen = dict(self.units) or {
            each.name: tuple(range(each.atom.size)) for each in found.values() if each.refusal is None
        }
        if not chosen:
            raise ChangeError(f"no units of {at or 'the model'!r} can be split: {reasons([*found.values()])}")
        halves = []
        for name, units in chosen.items():
            each = _checked(found, name, units, found[name].atom.size if name in found else 0)
            weight = coupling.tensors[each.layer.weight].detach()
            size = weight[0].numel() + (each.layer.bias is not None)
            drawn = torch.randn(1, len(weight), size, generator=seed(name).generator(), dtype=torch.float64)
            halves.append(Halves(each, tuple(units), functional.normalize(drawn, dim=-1).to(weight)))
        return self.along(coupling, at, halves)

    def along(self, coupling: Coupling, at: str, halves: Sequence[Halves]) -> Rewrite:
        """Return the edits and the map of a split. The new units come after all old ones, and have the parameters theta - eps v.

        Args:
            coupling: the coupling of the model.
            at: the place.
            halves: the units and their directions, at most once for each layer.
        """
        plan = {}
        for each in halves:
            index = torch.cat([torch.arange(each.of.atom.size), torch.tensor(each.units, dtype=torch.long)])
            # Each half has half the outgoing weights, and so half the gradient.
            share = shares(index, 0.0)
            plan[each.of.atom] = Units(index, share, share)
        entries = takes(coupling, plan)
        copied = {atom: Units.copied(units.index) for atom, units in plan.items()}
        for each in halves if self.eps else ():
            of, index = each.of, plan[each.of.atom].index
            sign = torch.zeros(len(index), dtype=torch.float64)
            sign[list(each.units)], sign[of.atom.size :] = 1.0, -1.0
            # of each row of the child's weight, which may be several for a unit
            sign = expand(coupling.axes[of.layer.weight][0], {**copied, of.atom: Units(index, sign, sign)}).value
            for name, direction in of.layer.parts(each.directions, coupling).items():
                entry = entries[name]
                # The step is divided, as the weight is, among the halves of those units that the layer reads.
                moved = sign.to(direction).view(-1, *[1] * (direction.dim() - 1)) * entry.gather(direction) * entry.value
                entries |= {alias: attrs.evolve(entries[alias], offset=self.eps * moved) for alias in coupling.aliases[name]}
        rewrite = rewritten(coupling, plan, entries, Claim.lossy() if self.eps else Claim.exact())
        undo = MergeUnits(tuple((each.of.name, each.units) for each in halves), self.surrogate)
        return attrs.evolve(rewrite, undo=Undo(undo, at))


@attrs.frozen
class MergeUnits(ModuleMorphism):
    """Merge the halves of units: the mean of their incoming weights, and the sum of their outgoing ones. It reverts `SplitUnits`.

    It is exact if the two are copies, and otherwise lossy with the measured distance. What can be split can be merged.

    Args:
        units: the layers and the numbers of the units to keep, as ("conv1", (0, 3)). As many units at the end of the layer are merged into
            them, in this order.
        surrogate: as for `SplitUnits`.
    """

    name: ClassVar[str] = "merge_units"
    units: tuple[tuple[str, tuple[int, ...]], ...]
    surrogate: float | None = number(None, low=0.1, optional=True)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the layers, with the number of their units.

        Args:
            coupling: the coupling of the model.
        """
        merged = {name: len(units) for name, units in self.units}
        for each in unit_layers(coupling, self.surrogate):
            few = None if each.atom.size > merged.get(each.name, 0) else f"it has {each.atom.size} units only"
            yield Place(each.name, each.atom.size, refusal=each.refusal or few)

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits and the map of the change.

        Args:
            coupling: the coupling of the model.
            at: the name of a layer, or of a module that contains layers; "" for the model.
            seed: not used: nothing is drawn.

        Raises:
            ChangeError: if there is no such layer, or its units cannot be merged.
        """
        found = {each.name: each for each in _within(coupling, at, self.surrogate)}
        plan, partners, means = {}, {}, {}
        for name, units in self.units:
            left = found[name].atom.size - len(units) if name in found else 0
            each = _checked(found, name, units, left)
            of, one = list(units), torch.ones(left, dtype=torch.float64)
            # the halves have half the gradient each
            gradient, mean, partner = one.clone(), one.clone(), torch.full((left,), ZERO)
            gradient[of], mean[of], partner[of] = 2.0, 0.5, torch.arange(left, each.atom.size)
            plan[each.atom] = Units(torch.arange(left), one, gradient)
            partners[each.atom] = Units.copied(partner)
            means[each.atom] = Units(torch.arange(left), mean, one)
        entries = takes(coupling, plan)
        for name, changed in touched(coupling, {*plan}).items():
            entry, tensor = entries[name], coupling.tensors[name]
            added: list[Tensor | None] = [None] * tensor.dim()
            value = torch.ones((), dtype=torch.float64)
            for k in changed:
                axis = coupling.axes[name][k]
                first, second = expand(axis, plan).index, expand(axis, partners).index
                # the same where the axis has other units as well, such as the inputs beside the state of a recurrent layer
                alone = (second < 0) | (second == first)
                added[k] = torch.where(alone, ZERO, second)[None].to(tensor.device)
                if (name, k) not in coupling.consumed:
                    value = value * expand(axis, means).value.view([-1 if d == k else 1 for d in range(tensor.dim())])
            entry = attrs.evolve(entry, added=tuple(added), value=value.to(tensor) * entry.value)
            entries |= {alias: attrs.evolve(entry, source=alias) for alias in coupling.aliases[name]}
        return attrs.evolve(rewritten(coupling, plan, entries, Claim.exact()), otherwise=Claim.lossy())


def _within(coupling: Coupling, at: str, surrogate: float | None) -> list[UnitLayer]:
    """Return the layers of a module.

    Raises:
        ChangeError: if there is no such module, or it has no layers.
    """
    found = [each for each in unit_layers(coupling, surrogate) if not at or f"{each.name}.".startswith(f"{at}.")]
    if not found:
        locate(coupling, at)  # says what is wrong with a name that does not exist
        raise ChangeError(f"{at!r} is, or contains, no linear layer and no convolution in one or two dimensions")
    return found


def _checked(found: Mapping[str, UnitLayer], name: str, units: Sequence[int], size: int) -> UnitLayer:
    """Return a layer of which some units, all below a number, are to change.

    Raises:
        ChangeError: if there is no such layer, its units may not change, or one of them is repeated or does not exist.
    """
    if name not in found:
        raise ChangeError(f"units has {name!r}, which is no layer of the place; its layers are {', '.join(found)}")
    if (reason := found[name].refusal) is not None:
        raise ChangeError(f"the units of {name!r} cannot be split: {reason}")
    if wrong := [unit for unit in units if not 0 <= unit < size]:
        raise ChangeError(f"of {name!r}, one of the units 0 to {size - 1} can be chosen, and not {wrong[0]}")
    if len({*units}) < len(units):
        raise ChangeError(f"units has a unit of {name!r} twice; a unit is split into two halves only")
    return found[name]


def reasons(found: Sequence[UnitLayer]) -> str:
    """Return why layers are refused, for a message."""
    return "; ".join(f"{each.name}: {each.refusal}" for each in found if each.refusal is not None)


def unit_layers(coupling: Coupling, surrogate: float | None = None) -> Iterator[UnitLayer]:
    """Yield the layers with their units, also those whose units cannot be split.

    Args:
        coupling: the coupling of the model.
        surrogate: the sharpness of the softplus that replaces ReLU, see `layers`; None if layers with ReLU are refused.

    Example:
        >>> from nasframe.modules.coupling import couple
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> for found in unit_layers(couple(net, torch.zeros(4, 2))):
        ...     print(found.name, found.atom.size, found.refusal is None)
        0 3 True
        2 1 False
    """
    owners: dict[Axis, str] = {}
    for layer in layers(coupling, surrogate):
        module, _, last = layer.weight.rpartition(".")
        name = module if last == "weight" else layer.weight
        axis = coupling.axes[layer.weight][0].find()
        free = [atom for atom in atoms_of(axis) if refusal(coupling, atom) is None]
        atom = max(free or atoms_of(axis), key=lambda atom: atom.size)
        reason = layer.refusal or _refusal(coupling, layer, atom)
        if reason is None and owners.setdefault(atom, name) != name:
            reason = f"its units are those of {owners[atom]}, too"
        yield UnitLayer(name, layer, atom, reason)


def _refusal(coupling: Coupling, layer: Layer, atom: Axis) -> str | None:
    """Return why the units of a layer that has splitting matrices cannot be split; None if they can."""
    if (reason := refusal(coupling, atom)) is not None:
        return reason
    if atom.normalised is not None:
        return f"its units are {atom.normalised}"
    if tied(coupling, {atom}):
        return "the outgoing weights of its units are also the incoming weights of others"
    try:
        if len(sizes_from(coupling, atom, atom.size + 1)) > 1:
            return "other axes of the model change together with its units"
        positions(coupling, layer.weight, 0, atom)
    except ChangeError as error:
        return str(error)
    # Everything that reads the activation, up to the layers that sum over its units, must be linear in it.
    held, inside = graph_parameters(coupling), {node for call in layer.calls for node in call.function}
    waiting = [call.function[-1] for call in layer.calls]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for reader in node.users:
            if reader in inside or reader in seen or _sums(coupling, held, reader, node, atom):
                continue
            if operation(reader) not in LINEAR:
                how = "does not sum over its units" if operation(reader) in SUMS else "is not linear in it"
                return f"its activation is read by {described(reader)}, which {how}"
            seen.add(reader)
            waiting.append(reader)
    return None


def _sums(coupling: Coupling, held: Mapping[str, str], reader: Node, node: Node, atom: Axis) -> bool:
    """Return whether an operation is a layer that sums over the units of its input, such as a convolution that is not depthwise."""
    if operation(reader) not in SUMS or argument(reader, "input") is not node:
        return False
    weight = parameter_of(held, reader, "weight")
    return weight is not None and any(
        (weight, k) in coupling.consumed and atom in axis.atoms() for k, axis in enumerate(coupling.axes[weight])
    )
