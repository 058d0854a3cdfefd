"""The map from a model to a larger one of the same class, which has more units wherever its tensors have more entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from torch import Tensor

from nasframe.change.map import Take
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling
from nasframe.modules.units import atoms_of, refusal, solve, takes, touched
from nasframe.modules.widen import widened
from nasframe.seeds import Seed


def enlarged(
    coupling: Coupling, parent: Mapping[str, Tensor], child: Mapping[str, Tensor], *, form: str, skew: float, seed: Seed
) -> dict[str, Take]:
    """Return the entries of the map for all tensors that are larger in the child. With them it computes what its parent computes.

    Args:
        coupling: the coupling of the parent, or of a model with the same structure.
        parent: the tensors of the parent by name, with those of the coupling that grow.
        child: the tensors of the child by name. Those that the parent does not have are not looked at.
        form: "replicate" or "zero"; see `Widen`.
        skew: how unevenly the outgoing weights are divided among copies; see `Widen`.
        seed: the seed of the draw of the units that are copied.

    Raises:
        ChangeError: if the shapes are not those of more units, or an axis cannot grow in this form.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from nasframe.modules.coupling import couple
        >>> def mlp(hidden):
        ...     return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        >>> small, large = mlp(2), mlp(5)
        >>> coupling = couple(small, torch.zeros(1, 3))
        >>> tensors = [dict(model.named_parameters()) for model in (small, large)]
        >>> [*enlarged(coupling, *tensors, form="zero", skew=0.0, seed=Seed((0,)))]
        ['0.weight', '0.bias', '2.weight']
    """
    sizes = sizes_between(coupling, {name: tensor.shape for name, tensor in child.items()})
    plan = widened(coupling, sizes, form=form, skew=skew, seed=seed)
    for name in touched(coupling, set(plan)):
        shape, found = tuple(coupling.tensors[name].shape), tuple(parent[name].shape) if name in parent else None
        if found != shape:
            raise ChangeError(
                f"{name} has the shape {shape} in the model that was traced, and {found or 'none'} in the one to enlarge; make "
                "the changes one after the other, and not as one change"
            )
    # the traced model may have another dtype and device, which the entries take from the tensors
    return takes(attrs.evolve(coupling, tensors=parent), plan)


def sizes_between(coupling: Coupling, shapes: Mapping[str, Sequence[int]]) -> dict[Axis, int]:
    """Return the number of units of each atom with which the tensors have other shapes, for the atoms whose number changes.

    Args:
        coupling: the coupling of the model.
        shapes: the other shapes by the name of the tensor.

    Raises:
        ChangeError: if no numbers of units give these shapes, or several do.
    """
    axes = []
    for name, before in coupling.axes.items():
        after = shapes.get(name, ())
        if len(after) != len(before):
            raise ChangeError(f"{name} has {len(before)} axes, and {len(after) or 'none'} in the larger model")
        axes += [(f"axis {k} of {name}", axis, size) for k, (axis, size) in enumerate(zip(before, after, strict=True))]
    # what may not change is known from the beginning
    atoms = [atom for _, axis, _ in axes for atom in atoms_of(axis)]
    # Each atom with a known size may leave another axis with a single unknown one, until nothing follows any more.
    sizes = {atom: atom.size for atom in atoms if refusal(coupling, atom) is not None}

    def solved() -> dict[Axis, int]:
        """Return the sizes that follow from an axis with a single atom of unknown size."""
        single = [(axis, unknown, size) for _, axis, size in axes if len(unknown := {*atoms_of(axis)} - sizes.keys()) == 1]
        found = {atom: solve(axis, atom, size, sizes) for axis, (atom,), size in single}
        return {atom: size for atom, size in found.items() if size is not None}

    # Atoms of which nothing follows keep their size, and the check below says whether that fits.
    while found := solved():
        sizes |= found
    for where, axis, size in axes:
        if axis.size_with(sizes) != size:
            reasons = dict.fromkeys(filter(None, (refusal(coupling, atom) for atom in atoms_of(axis))))
            why = "; ".join(reasons) or f"its units are {axis}, and other tensors give them other numbers or none"
            raise ChangeError(f"{where} has {axis.size} entries, and {size} in the larger model, which cannot be: {why}")
    return {atom: size for atom, size in sizes.items() if size != atom.size}
