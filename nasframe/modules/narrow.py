"""Narrowing: fewer units in a layer of any module; exact for dead units and copies, and otherwise with the measured distance."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.claim import Claim, tolerance
from nasframe.change.map import ZERO, Take
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.change import ModuleChange, grow
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import named_tensors
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite
from nasframe.modules.units import (
    Units,
    atoms_of,
    chosen,
    consumers,
    counted,
    places_of,
    positions,
    producers,
    rewritten,
    size_at,
    sizes_from,
    slices,
    takes,
    tied,
)
from nasframe.modules.verify import outputs
from nasframe.options import number
from nasframe.seeds import Seed


@attrs.frozen
class Narrow(ModuleMorphism):
    """Narrow a layer: some of its units are removed.

    Removing a dead unit is exact: all of its outgoing weights are zero, or its activation is always zero. So is removing a copy of
    another unit, as the other one gets the outgoing weights of both. Over units that are normalised, all units must lose the same
    share of their copies. If any other unit is removed, the change is lossy.

    Two units are copies if all of their incoming weights are equal within rounding: they differ by at most 256 eps times the largest
    one of their tensor (or of the weights, for a bias), where eps is that of the dtype. Copies that are trained with equal shares
    remain copies. They are merged even if the model enlarges their rounding, so that the change is lossy.

    Args:
        to: the new number of units. Dead units are removed first, then copies, then the units with the smallest norm of outgoing
            weights.
        remove: the numbers of the units to remove, instead of `to`.
        factor: which factor changes, where the axis is a product; see `Widen`.
    """

    name: ClassVar[str] = "narrow"
    to: int | None = number(None, low=1, whole=True, optional=True)
    remove: tuple[int, ...] = ()
    factor: int | None = number(None, low=0, whole=True, optional=True)

    def places(self, coupling: Coupling) -> Iterable[Place]:
        """Yield each set of units that a layer produces, with the steps in which their number can fall, or why it cannot.

        Args:
            coupling: the coupling of the model.
        """
        for place, factor in places_of(coupling):
            if place.refusal is not None:
                yield place
                continue
            step, reason = _least_step(coupling, chosen(coupling, place.name, factor or 0)[1])
            note = f"in steps of {step}" if step > 1 else ""
            yield attrs.evolve(place, note="; ".join(filter(None, [place.note, note])), refusal=reason)

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits and the map of the change.

        Args:
            coupling: the coupling of the model.
            at: the layer or tensor to narrow.
            seed: not used: nothing is drawn.

        Raises:
            ChangeError: if these units cannot be removed.
        """
        if (self.to is None) == (not self.remove):
            raise ChangeError("narrowing needs either `to`, the new number of units, or `remove`, the units to remove")
        axis, atom = chosen(coupling, at, self.factor)
        if self.to is not None:
            # `to` counts the entries of the axis, or the units of a chosen factor. `remove` always names units of the atom.
            before, after = atom.size if self.factor is not None else axis.size, self.to
            size = size_at(at, axis, atom, self.to, self.factor) if after < before else atom.size
        else:
            before, after = atom.size, atom.size - len(set(self.remove))
            size = after
        if not 0 < after < before:
            # The message counts in the units in which the user has counted.
            factor = self.factor if self.to is not None else atoms_of(axis).index(atom)
            raise ChangeError(
                f"{counted(at, axis, atom, factor)}; narrowing leaves fewer than {before} and at least 1, and not {after}"
            )
        if wrong := [unit for unit in self.remove if not 0 <= unit < atom.size]:
            raise ChangeError(f"{at!r} has the units 0 to {atom.size - 1}; there is no unit {wrong[0]}")
        sizes = _smaller(coupling, atom, size)
        removals = {a: _Removal.choose(coupling, a, size, self.remove if a is atom else ()) for a, size in sizes.items()}
        plan = {a: removal.units() for a, removal in removals.items()}
        # First the units that remain are taken, then the outgoing weights of removed copies are added to theirs.
        entries = _with_merged(coupling, removals, takes(coupling, plan))
        claim = Claim.exact() if all(removal.exact for removal in removals.values()) else Claim.lossy()
        rewrite = rewritten(coupling, plan, entries, claim)
        # a model may enlarge the rounding by which copies differ
        rounded = any(removal.rounded for removal in removals.values())
        return attrs.evolve(rewrite, otherwise=Claim.lossy()) if rounded else rewrite


def _smaller(coupling: Coupling, atom: Axis, size: int) -> dict[Axis, int]:
    """Return the new sizes of all atoms that change together with one, none of which may grow."""
    sizes = sizes_from(coupling, atom, size)
    if grown := [a for a, size in sizes.items() if size > a.size]:
        raise ChangeError(f"an axis of size {grown[0].size} would have to grow to {sizes[grown[0]]}")
    return sizes


def _least_step(coupling: Coupling, atom: Axis) -> tuple[int, str | None]:
    """Return the least number of units that can be removed from an atom; or 0 and the reason why none can."""
    reason = "there is only one unit"
    # Tried one by one, as other axes may have to shrink with this one, in steps of theirs.
    for step in range(1, atom.size):
        try:
            _smaller(coupling, atom, atom.size - step)
        except ChangeError as error:
            reason = str(error)
        else:
            return step, None
    return 0, reason


@attrs.frozen(eq=False)
class _Removal:
    """The units of an atom that are removed.

    Attributes:
        atom: the atom.
        keep: the units that remain, in order.
        merged: for a unit that replaces removed copies, the units whose outgoing weights it gets, and by what their sum is divided.
        ratio: for each unit that remains, the size of its outgoing weights after the change, relative to that before.
        exact: whether the function stays as it is.
        rounded: whether a removed copy differs by rounding from the unit that replaces it.
    """

    atom: Axis
    keep: Tensor
    merged: Mapping[int, tuple[Sequence[int], int]]
    ratio: Tensor
    exact: bool
    rounded: bool

    @classmethod
    def choose(cls, coupling: Coupling, atom: Axis, size: int, given: Sequence[int]) -> _Removal:
        """Return the removal of the given units, or else of those that are needed least."""
        # What is known of the units: the outgoing weights, which of them are copies of each other, and which are dead.
        outgoing = _outgoing(coupling, atom)
        incoming = _incoming(coupling, atom)
        classes = [[unit] for unit in range(atom.size)] if incoming is None else _copies(incoming)
        # a dead unit still enters the mean and the variance
        dead = _dead(coupling, atom, outgoing) if atom.normalised is None else set()
        removed = set(given) or cls._least(atom, size, outgoing, dead, classes)
        merged: dict[int, tuple[Sequence[int], int]] = {}
        exact, rounded = True, False
        for members in classes:
            # Class by class: what remains of a class of copies gets the outgoing weights of those that are removed.
            left = [unit for unit in members if unit not in removed]
            gone = [unit for unit in members if unit in removed]
            needed = any(unit not in dead for unit in gone)
            if left and gone and atom.normalised is not None:
                # shares must be equal, see `Widen`
                merged |= {unit: (members, len(left)) for unit in left}
            elif left:
                # each removed copy to another one that remains, so that their shares stay as different as they are
                shared = {unit: [unit, *gone[i :: len(left)]] for i, unit in enumerate(left)}
                merged |= {unit: (parts, 1) for unit, parts in shared.items() if len(parts) > 1}
            # A class that is removed as a whole leaves nothing that could take its place, unless it was dead.
            exact = exact and (bool(left) or not needed)
            # Copies that are equal but for rounding are merged, and the change may then be larger than rounding.
            if incoming is not None and left and needed:
                rounded = rounded or not bool((incoming[members] == incoming[members[0]]).all())
            if atom.normalised is not None:
                # The mean and the variance over the units stay if every class keeps the same share of its units.
                exact = exact and len(left) * atom.size == len(members) * size
        keep = [unit for unit in range(atom.size) if unit not in removed]
        ratio = torch.ones(len(keep), dtype=torch.float64)
        for row, unit in enumerate(keep):
            # The new outgoing weights are measured along the old ones: for w' = r w this is r.
            square = float(outgoing[unit].square().sum())
            if unit in merged and square:
                parts, divisor = merged[unit]
                ratio[row] = float((outgoing[list(parts)].sum(0) * outgoing[unit]).sum()) / divisor / square
        return cls(atom, torch.tensor(keep), merged, ratio, exact, rounded)

    @staticmethod
    def _least(atom: Axis, size: int, outgoing: Tensor, dead: set[int], classes: Sequence[Sequence[int]]) -> set[int]:
        copies = {unit for members in classes for unit in members[1:]}
        if atom.normalised is not None:
            # Over normalised units copies can be merged only if each class loses the same share, and keeps at least one unit.
            counts = {len(members) * size / atom.size for members in classes}
            if all(count.is_integer() and count for count in counts):
                return {u for members in classes for u in members[len(members) * size // atom.size :]}
            copies = set()
        norms = outgoing.square().sum(1).tolist()
        # of equal units the last: a copy that was added by a widening comes after all old units
        order = sorted(range(atom.size), key=lambda u: (u not in dead, u not in copies, norms[u], -u))
        return set(order[: atom.size - size])

    def units(self) -> Units:
        """Return the units of the child.

        The gradient of what produces a unit is a product with its outgoing weights. It grows with them if the weights of its copies are
        multiples of each other, as they are directly after a widening.
        """
        one = torch.ones(len(self.keep), dtype=torch.float64)
        return Units(self.keep, one, self.ratio)


def _outgoing(coupling: Coupling, atom: Axis) -> Tensor:
    """Return the outgoing weights of each unit, one row for each."""
    bound = tied(coupling, {atom})
    rows = []
    for name, axis in consumers(coupling, atom):
        norms = bound.get((name, axis), ())
        # a tied weight is not divided among copies: the norm before it is, see `takes`
        rows += [slices(coupling, norm, 0, atom) for norm in norms] if norms else [slices(coupling, name, axis, atom)]
    if not rows:
        return torch.zeros(atom.size, 1, dtype=torch.float64)
    return torch.cat([row.double() for row in rows], 1)


def _dead(coupling: Coupling, atom: Axis, outgoing: Tensor) -> set[int]:
    """Return the units that contribute nothing to what follows."""
    dead = {u for u in range(atom.size) if not bool(outgoing[u].any())}
    incoming = [slices(coupling, name, k, atom) for name, k in producers(coupling, atom) if coupling.tensors[name].dim() > 1]
    constant = {u for u in range(atom.size) if incoming and not any(bool(row[u].any()) for row in incoming)} - dead
    if not constant:
        return dead
    # Without incoming weights the activation of a unit does not depend on the inputs. Whether it is zero depends on biases,
    # statistics and activation functions: the outgoing weights are removed on a copy, to see whether that changes anything.
    model = copy.deepcopy(coupling.model)
    # All units that are constant are tried at once: if that changes something, none of them counts as dead.
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, k in consumers(coupling, atom):
            at = positions(coupling, name, k, atom)
            for unit in constant:
                tensors[name].index_fill_(k, at[unit], 0.0)
    for training in (False, True):
        before, after = (outputs(m, coupling.example, training) for m in (coupling.model, model))
        if any(bool((o - p).abs().max() > tolerance(o)) for o, p in zip(before, after, strict=True) if o.is_floating_point()):
            return dead
    return dead | constant


def _incoming(coupling: Coupling, atom: Axis) -> Tensor | None:
    """Return what produces each unit, one row for each, in multiples of what rounding may change; None if units cannot be merged."""
    bound = tied(coupling, {atom})
    # A tied weight is the incoming weight of other units as well. Where a norm comes before it, the norm's weights are added.
    if any(not norms for norms in bound.values()):
        return None  # outgoing weights that are tied cannot be added
    # The weights of such a norm count as outgoing ones here, so that two copies may differ in them.
    moved = {norm for norms in bound.values() for norm in norms}
    rows = [slices(coupling, name, axis, atom).cpu() for name, axis in producers(coupling, atom) if name not in moved]
    names = [name for name, _ in producers(coupling, atom) if name not in moved]
    if not rows:
        return None
    # a buffer of integers has no rounding, and any difference counts
    scales = [tolerance(row) if row.is_floating_point() else 0.5 for row in rows]
    # A bias is added to a product with weights and rounded with it: one before a BatchNorm consists of nothing but rounding.
    least = max((scale for name, scale in zip(names, scales, strict=True) if coupling.tensors[name].dim() > 1), default=0.0)
    scales = [
        scale if coupling.tensors[name].dim() > 1 else max(scale, least) for name, scale in zip(names, scales, strict=True)
    ]
    return torch.cat([row.double() / scale for row, scale in zip(rows, scales, strict=True)], 1)


def _copies(incoming: Tensor) -> list[list[int]]:
    """Return the units in classes whose incoming weights are equal but for rounding.

    Args:
        incoming: the incoming weights of each unit, one row for each, in multiples of what rounding may change.
    """
    # Rows that differ by at most 1 in each entry differ by at most |v|_1 in their product with a vector v, so that only
    # neighbours in the order of these products need to be compared.
    vector = torch.randn(incoming.shape[1], generator=Seed((0, "copies")).generator(), dtype=torch.float64)
    keys = incoming @ vector
    window = float(vector.abs().sum()) * (1 + 1e-9)
    classes: list[list[int]] = []
    first = 0
    for unit in keys.argsort(stable=True).tolist():
        # Classes are in the order of their first members, so that those that are too far away stay so for all later units.
        while first < len(classes) and float(keys[unit] - keys[classes[first][0]]) > window:
            first += 1
        # Compared with the first member, so that many small differences do not add up within a class.
        near = [members[0] for members in classes[first:]]
        same = ((incoming[near] - incoming[unit]).abs() <= 1).all(1).nonzero().flatten().tolist() if near else []
        if same:
            classes[first + same[0]].append(unit)
        else:
            classes.append([unit])
    return sorted(sorted(members) for members in classes)


def _with_merged(coupling: Coupling, removals: Mapping[Axis, _Removal], entries: Mapping[str, Take]) -> dict[str, Take]:
    """Return the entries of the map, in which the outgoing weights of removed copies are added to those of the units that remain."""
    # for each axis, the positions of the parent that are added at a position, that position first, and by what their sum is divided
    sums: dict[str, dict[int, dict[int, tuple[list[int], int]]]] = {}
    for atom, removal in removals.items():
        bound = tied(coupling, {atom})
        keys = [[(norm, 0) for norm in bound.get(key, ())] or [key] for key in consumers(coupling, atom)]
        # each once: a norm may feed two consumers
        for name, axis in dict.fromkeys(key for each in keys for key in each):
            found = sums.setdefault(name, {}).setdefault(axis, {})
            before = dict(found)
            at = positions(coupling, name, axis, atom).tolist()
            for unit, (parts, divisor) in removal.merged.items():
                others = [part for part in parts if part != unit]
                for k, position in enumerate(at[unit]):
                    # along a product of two atoms, each position may itself be a sum already
                    each = [before.get(at[part][k], ([at[part][k]], 1)) for part in (unit, *others)]
                    found[position] = ([p for sources, _ in each for p in sources], divisor * each[0][1])
    result = dict(entries)
    for name, axes in sums.items():
        entry = _added(entries[name], axes, coupling.tensors[name])
        result |= {alias: attrs.evolve(entry, source=alias) for alias in coupling.aliases[name]}
    return result


def _added(entry: Take, axes: Mapping[int, Mapping[int, tuple[Sequence[int], int]]], tensor: Tensor) -> Take:
    """Return the entry of a tensor in which sums take the place of entries.

    Args:
        entry: the entry.
        axes: for each axis, by position in the parent, the positions that are added there and by what their sum is divided.
        tensor: the tensor of the parent.
    """
    added: list[Tensor | None] = [None] * tensor.dim()
    value = torch.ones((), dtype=torch.float64)
    for axis, sums in axes.items():
        index = entry.index[axis]
        assert index is not None  # the axis shrinks
        found = [sums.get(position, ([position], 1)) for position in index.tolist()]
        # The k-th row has the k-th further source of each position. Where there are fewer, nothing is added.
        rows = itertools.zip_longest(*(sources[1:] for sources, _ in found), fillvalue=ZERO)
        if matrix := [*rows]:
            added[axis] = torch.tensor(matrix, device=tensor.device)
        divisors = torch.tensor([divisor for _, divisor in found], dtype=torch.float64)
        value = value / divisors.view([-1 if k == axis else 1 for k in range(tensor.dim())])
    if all(rows is None for rows in added):
        return entry
    return attrs.evolve(entry, added=tuple(added), value=entry.value * value.to(tensor))


def narrow(
    model: nn.Module,
    at: str,
    *,
    to: int | None = None,
    remove: Sequence[int] = (),
    example: Any,
    factor: int | None = None,
    numbers: Mapping[str, int] | None = None,
) -> ModuleChange:
    """Return the change that narrows a layer of a model. The model is not modified.

    The change is exact if only dead units and copies of other units are removed. Otherwise it is lossy, and has the measured distance.
    A copy is a unit whose incoming weights are those of another unit, within rounding (256 eps times the largest one of their tensor).

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the layer to narrow, or of a tensor, as listed by `nasframe.places`.
        to: the new number of units. Dead units are removed first, then copies, then the units with the smallest norm of outgoing
            weights.
        remove: the numbers of the units to remove, instead of `to`.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        factor: which factor changes, where the axis is a product.
        numbers: for numbers that the model's classes keep and that cannot be found, the new values by name ("blocks.0.heads").

    Raises:
        ChangeError: if the layer cannot be narrowed. The message has the reason, and the line of the model's code.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> change = narrow(model, "0", remove=[1], example=torch.ones(5, 3))
        >>> change.model[2].weight.shape, change.claim.kind
        (torch.Size([2, 3]), 'lossy')
    """
    return grow(model, Narrow(to, tuple(remove), factor), at, example, numbers=numbers)
