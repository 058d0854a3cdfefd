"""The units of a module's axes: how they are found, how many a child gets, and how its tensors follow.

Widening and narrowing differ in the units that they choose. What follows from the chosen units is the same for both, and is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.claim import Claim
from nasframe.change.map import FRESH, ZERO, Map, Take
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.calls import suggestion
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import Resize, SetNumber
from nasframe.modules.morphism import Place, Rewrite
from nasframe.modules.numbers import numbers, questions


@attrs.frozen(eq=False)
class Units:
    """The units of an axis of the child, by the units of the parent.

    Attributes:
        index: for each unit of the child, the unit of the parent from which it is copied, or FRESH.
        value: for each unit of the child, the factor of its outgoing weights.
        gradient: for each unit of the child, the factor of the gradients of the tensors that produce it.
    """

    index: Tensor
    value: Tensor
    gradient: Tensor

    @classmethod
    def copied(cls, index: Tensor) -> Units:
        """Return units that are copied with their outgoing weights."""
        one = torch.ones(len(index), dtype=torch.float64)
        return cls(index, one, one)


#: the units of each atom that changes
Plan = Mapping[Axis, Units]

#: the numbers of torch's layers that count their units
_COUNTS = ("out_features", "out_channels", "embedding_dim", "hidden_size")


def locate(coupling: Coupling, at: str) -> Axis:
    """Return the axis that a user's description of a place names.

    Args:
        coupling: the coupling of the model.
        at: the name of a layer, whose outputs are meant ("layer1.0.conv1"); or of a tensor, whose first axis is meant, or the axis
            after a colon ("positions:2").

    Raises:
        ChangeError: if there is no such layer or tensor, or it has no weight.
    """
    names = {alias: name for name, aliases in coupling.aliases.items() for alias in aliases}
    # Tried in this order: an axis of a tensor, a layer that counts its units, attention, a layer with a weight. A tensor's name
    # skips the layers.
    name, colon, number = at.rpartition(":")
    if colon and name in names and number.isdecimal():
        axes = coupling.axes[names[name]]
        if int(number) >= len(axes):
            raise ChangeError(f"{at!r}: {name} has {len(axes)} axes, counted from 0")
        return axes[int(number)].find()
    if at not in names:
        modules = dict(coupling.model.named_modules())
        if at not in modules:
            raise ChangeError(f"the model has neither a layer nor a tensor named {at!r}{suggestion(at, [*modules, *names])}")
        counts = {number.attribute: number.axis for number in coupling.module_numbers if number.module == at}
        if found := [counts[attribute] for attribute in _COUNTS if attribute in counts]:
            return found[0].find()
        prefix = f"{at}." if at else ""
        if isinstance(modules[at], nn.MultiheadAttention):
            return coupling.axes[names[f"{prefix}out_proj.weight"]][1].find()  # the heads, side by side
        at = f"{prefix}weight"
        if at not in names:
            layer = at.removesuffix(".weight")
            inside = next((name for name in modules if name.startswith(prefix) and f"{name}.weight" in names), None)
            hint = f"a layer inside it, such as {inside!r}" if inside else "a layer before it"
            raise ChangeError(
                f"{layer!r} has no weight; name {hint}. nasframe.places(model, example) lists where the model can grow"
            )
    axes = coupling.axes[names[at]]
    if not axes:
        raise ChangeError(f"{at!r} is a single number, and has no axis")
    return axes[0].find()


def atoms_of(axis: Axis) -> tuple[Axis, ...]:
    """Return the atoms of an axis in order, each once."""
    return tuple(dict.fromkeys(axis.atoms()))


def refusal(coupling: Coupling, atom: Axis) -> str | None:
    """Return why the number of an atom's units may not change, or None."""
    if atom.frozen is not None:
        return atom.frozen
    if atom in coupling.contracted:
        return (
            f"two activations are contracted over it at {coupling.contracted[atom]}, so that more units change the scale of the "
            "product, for example of attention scores"
        )
    return None


def chosen(coupling: Coupling, at: str, factor: int | None) -> tuple[Axis, Axis]:
    """Return the axis at a place, and the one of its atoms that is to change.

    Args:
        coupling: the coupling of the model.
        at: the place; see `locate`.
        factor: the number of the atom, for an axis that consists of several; None if only one of them can change.

    Raises:
        ChangeError: if the place is refused, or the factor is missing or does not exist.
    """
    axis = locate(coupling, at)
    atoms = atoms_of(axis)
    if factor is not None:
        if factor >= len(atoms):
            raise ChangeError(f"factor is {factor}, but the axis of {at!r} is {axis}: its factors are 0 to {len(atoms) - 1}")
        # Not looked at further: a factor that may not change is refused by `sizes_from`, with the reason.
        return axis, atoms[factor]
    free = [atom for atom in atoms if refusal(coupling, atom) is None]
    # without those that another axis keeps from changing: one that can change at all can double
    free = [atom for atom in free if _can_double(coupling, atom)] or free
    # the size of heads is not what `to` means beside their number, unless it is chosen, and neither is a factor of size 1
    free = [atom for atom in free if atom not in coupling.scaled] or free
    if axis.form == "*":
        free = [atom for atom in free if atom.size > 1] or free
    # Each of the lines above drops what is less likely meant, unless nothing else is left. One must remain.
    if len(free) == 1:
        return axis, free[0]
    if not free:
        reasons = dict.fromkeys(filter(None, (refusal(coupling, atom) for atom in atoms)))
        raise ChangeError(f"{at!r} cannot change its size: {'; '.join(reasons)}")
    listed = ", ".join(f"factor={i} ({atom.size})" for i, atom in enumerate(atoms) if atom in free)
    raise ChangeError(f"the axis of {at!r} is {axis}, and several of its factors can change; choose one: {listed}")


def _can_double(coupling: Coupling, atom: Axis) -> bool:
    try:
        sizes_from(coupling, atom, 2 * atom.size)
    except ChangeError:
        return False
    return True


def counted(at: str, axis: Axis, atom: Axis, factor: int | None) -> str:
    """Return how many units a place has, as `to` counts them, for a message.

    Args:
        at: the place.
        axis: the axis at the place.
        atom: the atom that is to change.
        factor: the chosen factor.
    """
    atoms = atoms_of(axis)
    if len(atoms) == 1:
        return f"{at!r} has {axis.size} units"
    if factor is not None:
        return f"with factor={factor}, {at!r} has {atom.size} units"
    return (
        f"{at!r} has {axis.size} units, which are {axis}, and without factor `to` counts all of them; with factor={atoms.index(atom)} "
        f"it has {atom.size}"
    )


def solve(axis: Axis, atom: Axis, size: int, sizes: Mapping[Axis, int]) -> int | None:
    """Return the size of an atom with which the axis has the given size, or None if there is no such whole number.

    Args:
        axis: the axis.
        atom: the atom.
        size: the size of the axis.
        sizes: the sizes of other atoms that change.
    """
    # The size of an axis is a + b n in the number n of the atom's units.
    least = axis.size_with({**sizes, atom: 0})
    step = axis.size_with({**sizes, atom: 1}) - least
    # At least one unit must be left.
    if step <= 0 or (size - least) % step or size <= least:
        return None
    found = (size - least) // step
    # an atom that occurs twice in a product gives another size
    return found if axis.size_with({**sizes, atom: found}) == size else None


def size_at(at: str, axis: Axis, atom: Axis, to: int, factor: int | None) -> int:
    """Return the number of units of the chosen atom with which a place has the size `to`.

    Args:
        at: the place.
        axis: the axis at the place.
        atom: the atom that is to change.
        to: the new size of the axis, or of the atom if a factor was chosen.
        factor: the chosen factor.

    Raises:
        ChangeError: if no number of units gives this size.
    """
    if factor is not None:
        return to
    size = solve(axis, atom, to, {})
    if size is None:
        step = axis.size_with({atom: atom.size + 1}) - axis.size
        raise ChangeError(f"{counted(at, axis, atom, None)}; their number changes in steps of {step}, and cannot become {to}")
    return size


def sizes_from(coupling: Coupling, atom: Axis, size: int) -> dict[Axis, int]:
    """Return the new sizes of all atoms that change together with one.

    Args:
        coupling: the coupling of the model.
        atom: the atom that is to change.
        size: its new number of units.

    Raises:
        ChangeError: if there are no such sizes, or an atom that would have to change may not.
    """
    sizes = {atom: size}
    # The atoms whose size was set and whose ties were not looked at yet.
    waiting = [atom]
    while waiting:
        atom = waiting.pop()
        for tie in coupling.equal:
            # A tie holds in both directions: whichever side has the atom, the other one follows.
            for one, other in ((tie.first, tie.second), (tie.second, tie.first)):
                one, other = one.find(), other.find()
                if atom not in one.atoms():
                    continue
                target = one.size_with(sizes)
                if other.size_with(sizes) == target:
                    continue
                free = [a for a in atoms_of(other) if a not in sizes and refusal(coupling, a) is None]
                fitting = {a: n for a in free if (n := solve(other, a, target, sizes)) is not None}
                if not fitting:
                    reasons = dict.fromkeys(filter(None, (refusal(coupling, a) for a in atoms_of(other) if a not in sizes)))
                    why = f": {'; '.join(reasons)}" if reasons else f", which is {other}"
                    raise ChangeError(f"{tie.reason}: an axis of size {other.size} cannot become {target}{why}")
                # an atom of both axes would change the first one as well; and the number of heads is changed rather than their size
                partner = min(fitting, key=lambda a: (a in one.atoms(), a in coupling.scaled))
                sizes[partner] = fitting[partner]
                waiting.append(partner)
    # The first atom was chosen by the user, and may be one that is refused.
    for atom in sizes:
        if (reason := refusal(coupling, atom)) is not None:
            raise ChangeError(f"an axis of size {atom.size} cannot change its size: {reason}")
    return sizes


def expand(axis: Axis, plan: Plan) -> Units:
    """Return the units of an axis: those of a product in the order of a reshape, those of a sum one after the other."""
    axis = axis.find()
    if axis.form is None:
        return plan.get(axis) or Units.copied(torch.arange(axis.size))
    # The parts are put together from the left. In a product the last one varies fastest, as in a reshape.
    first, *rest = axis.parts
    units, size = expand(first, plan), first.find().size
    for part in rest:
        more = expand(part, plan)
        if axis.form == "+":
            # a new unit (index < 0) has no position that moves
            shifted = torch.where(more.index < 0, more.index, more.index + size)
            units = Units(
                torch.cat([units.index, shifted]),
                torch.cat([units.value, more.value]),
                torch.cat([units.gradient, more.gradient]),
            )
            size += part.find().size
        else:
            # An entry is new if one of its factors is.
            new = (units.index[:, None] < 0) | (more.index[None] < 0)
            index = torch.where(new, FRESH, units.index[:, None] * part.find().size + more.index[None])
            units = Units(
                index.flatten(),
                (units.value[:, None] * more.value).flatten(),
                (units.gradient[:, None] * more.gradient).flatten(),
            )
    return units


def touched(coupling: Coupling, atoms: set[Axis]) -> dict[str, list[int]]:
    """Return the axes of each tensor in which one of the atoms occurs."""
    found = {
        name: [k for k, axis in enumerate(axes) if not atoms.isdisjoint(axis.atoms())] for name, axes in coupling.axes.items()
    }
    return {name: axes for name, axes in found.items() if axes}


def tied(coupling: Coupling, atoms: set[Axis]) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the axes that both produce and consume units of the atoms, with the parameters of the norm that alone feeds them.

    The outgoing weights of such units are also the incoming weights of others, so the tensor cannot be divided among copies. The weights
    of the norm before it can: they multiply the same units.
    """
    return {
        key: coupling.norm_before.get(key, ())
        for key in coupling.consumed
        if key in coupling.produced and not atoms.isdisjoint(coupling.axes[key[0]][key[1]].atoms())
    }


def takes(coupling: Coupling, plan: Plan) -> dict[str, Take]:
    """Return the entries of the map: one for each tensor in which a planned atom occurs.

    Along an axis that consumes units, the value is multiplied by the units' factor of outgoing weights. Along an axis that produces
    them, the gradient is multiplied by their factor of gradients, because the gradient arrives through the outgoing weights.

    Args:
        coupling: the coupling of the model.
        plan: the units of each atom that changes.
    """
    # For each axis of each tensor: where its entries come from, and the factors of its values and of its gradient.
    atoms = set(plan)
    moved = {name for norms in tied(coupling, atoms).values() for name in norms}
    entries: dict[str, Take] = {}
    for name, changed in touched(coupling, atoms).items():
        tensor = coupling.tensors[name]
        value = gradient = torch.ones((), dtype=torch.float64)
        index: list[Tensor | None] = [None] * tensor.dim()
        for k in changed:
            units = expand(coupling.axes[name][k], plan)
            consumes, produces = (name, k) in coupling.consumed, (name, k) in coupling.produced
            shape = [-1 if axis == k else 1 for axis in range(tensor.dim())]
            # A tied tensor does both and is not divided: see `tied`.
            if consumes and not produces:
                value = value * units.value.view(shape)
            else:
                gradient = gradient * units.gradient.view(shape)
            if name in moved:
                # The norm's weights are divided in the place of the tied tensor. They are outgoing weights now: their
                # gradient is a product of a copied activation with the gradient behind the tied tensor, and is the parent's.
                value = value * units.value.view(shape)
                gradient = gradient / units.gradient.view(shape)
            # The outgoing weights of a new unit are zero, so that the function stays as it is.
            positions = torch.where(units.index < 0, ZERO, units.index) if consumes else units.index
            index[k] = positions.to(tensor.device)
        entry = Take(name, tuple(index), _factor(value, tensor), _factor(gradient, tensor))
        # a tied tensor is filled under each of its names
        entries |= {alias: attrs.evolve(entry, source=alias) for alias in coupling.aliases[name]}
    return entries


def _factor(factor: Tensor, tensor: Tensor) -> float | Tensor:
    """Return a factor for `Take`: 1.0 where it changes nothing, as a product would round a large integer."""
    if not tensor.is_floating_point() or bool((factor == 1).all()):
        return 1.0
    return factor.to(tensor)


def slices(coupling: Coupling, name: str, axis: int, atom: Axis) -> Tensor:
    """Return the entries of a tensor that belong to each unit of an atom, as a matrix with one row for each unit.

    Args:
        coupling: the coupling of the model.
        name: the name of the tensor.
        axis: an axis of the tensor in which the atom occurs.
        atom: the atom.
    """
    tensor = coupling.tensors[name].detach()
    # All entries at a position of the axis become a row, and the rows of one unit are put side by side.
    rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    return rows[positions(coupling, name, axis, atom).flatten()].view(atom.size, -1)


def positions(coupling: Coupling, name: str, axis: int, atom: Axis) -> Tensor:
    """Return the positions of each unit of an atom along an axis of a tensor, one row for each unit.

    Args:
        coupling: the coupling of the model.
        name: the name of the tensor.
        axis: an axis of the tensor in which the atom occurs.
        atom: the atom.
    """
    of = labels(coupling.axes[name][axis], atom)
    found = torch.nonzero(of >= 0).flatten()
    # stable, so that corresponding positions of two units have the same place in their rows
    order = torch.sort(of[found], stable=True).indices
    return found[order].view(atom.size, -1).to(coupling.tensors[name].device)


def labels(axis: Axis, atom: Axis) -> Tensor:
    """Return for each position of an axis the unit of the atom to which it belongs, or -1.

    Raises:
        ChangeError: if the atom occurs twice in a product, so that a position belongs to two units.
    """
    axis, atom = axis.find(), atom.find()
    if axis is atom:
        return torch.arange(atom.size)
    if axis.form is None:
        return torch.full((axis.size,), -1)
    parts = [labels(part, atom) for part in axis.parts]
    if axis.form == "+":
        return torch.cat(parts)
    if sum(bool((part >= 0).any()) for part in parts) > 1:
        raise ChangeError(
            f"an axis is the product {axis}, in which the same units occur twice: none of them can be removed alone"
        )
    result = parts[0]
    for part in parts[1:]:
        # Only one of the parts has the atom, and the others are -1 throughout.
        result = torch.maximum(result[:, None], part[None]).flatten()
    return result


def producers(coupling: Coupling, atom: Axis) -> list[tuple[str, int]]:
    """Return the tensors, and their axes, that produce units of an atom."""
    return _with(coupling, coupling.produced, atom)


def consumers(coupling: Coupling, atom: Axis) -> list[tuple[str, int]]:
    """Return the tensors, and their axes, that consume units of an atom."""
    return _with(coupling, coupling.consumed, atom)


def _with(coupling: Coupling, keys: Mapping[tuple[str, int], str], atom: Axis) -> list[tuple[str, int]]:
    return [key for key in keys if atom in coupling.axes[key[0]][key[1]].atoms()]


def rewritten(coupling: Coupling, plan: Plan, entries: Map, claim: Claim) -> Rewrite:
    """Return the rewrite with the edits that give the child its shapes, and its modules their numbers.

    Args:
        coupling: the coupling of the model.
        plan: the units of each atom that changes.
        entries: the map.
        claim: the claim.
    """
    # Shapes follow from the number of units, and the numbers that modules keep follow from the shapes.
    sizes = {atom: len(units.index) for atom, units in plan.items()}
    shapes = {name: tuple(axis.size_with(sizes) for axis in coupling.axes[name]) for name in touched(coupling, set(plan))}
    resized = tuple(Resize(name, shape) for name, shape in shapes.items())
    edits = resized + tuple(SetNumber(*number) for number in numbers(coupling, sizes))
    return Rewrite(edits, entries, claim, questions(coupling, sizes))


def places_of(coupling: Coupling) -> Iterator[tuple[Place, int | None]]:
    """Yield the place of each atom whose units a tensor produces, and its factor where the axis consists of several atoms.

    Args:
        coupling: the coupling of the model.
    """
    seen: set[Axis] = set()
    for name, k in coupling.produced:
        atoms = atoms_of(coupling.axes[name][k])
        # An axis without a free atom is listed all the same, with the reason why it cannot change.
        countable = [atom for atom in atoms if atom.frozen is None]
        for atom in atoms:
            # what counts gates, or the pieces of a concatenation, is of no interest beside the units
            if atom in seen or (countable and atom.frozen is not None):
                continue
            seen.add(atom)
            at, axis = _named(coupling, name, k, atom)
            factor = atoms_of(axis).index(atom) if len(atoms_of(axis)) > 1 else None
            yield (
                Place(at, atom.size, f"factor={factor} of {axis}" if factor is not None else "", refusal(coupling, atom)),
                factor,
            )


def _named(coupling: Coupling, name: str, k: int, atom: Axis) -> tuple[str, Axis]:
    """Return the shortest description of a place with an atom, and its axis: the layer, if its outputs have the atom."""
    for alias in coupling.aliases[name]:
        module = alias.rpartition(".")[0]
        try:
            axis = locate(coupling, module)
        except ChangeError:
            continue
        if atom in axis.atoms():
            return module, axis
    return f"{name}:{k}" if k else name, coupling.axes[name][k].find()
