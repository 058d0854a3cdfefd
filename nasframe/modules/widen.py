"""Widening: more units in a layer of any module, and everything that the units pass through follows (Net2Wider, Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.claim import Claim
from nasframe.change.map import FRESH
from nasframe.errors import ChangeError
from nasframe.modules.attention import growing, rescaled
from nasframe.modules.axes import Axis
from nasframe.modules.change import ModuleChange, grow
from nasframe.modules.coupling import Coupling
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite, Undo
from nasframe.modules.narrow import Narrow
from nasframe.modules.units import Plan, Units, chosen, counted, places_of, rewritten, size_at, sizes_from, takes, tied
from nasframe.options import choice, number
from nasframe.seeds import Seed


@attrs.frozen
class Widen(ModuleMorphism):
    """Widen a layer: its new units are copies of old ones, or new ones with outgoing weights of zero.

    Both forms are exact. With "replicate", the outgoing weights of a unit are divided among it and its copies. The numbers of copies
    of two units differ by at most one; which units get one more is drawn. With "zero", the incoming weights of new units are
    random. Units over which the model normalises (LayerNorm, RMSNorm, within a group of GroupNorm)
    can only be replicated to a multiple of their number, in equal shares: anything else would change the mean and the variance.

    The head size E of attention grows where `scaled_dot_product_attention` divides the scores by the root of E, and its queries and keys
    come directly from linear layers: the queries are multiplied by sqrt(E' / E), where E' is the new size. With rotary positions, a norm
    or a scale of the code, E stays as it is.

    Args:
        to: the new number of units; the new size of the chosen factor, if there is one.
        form: "replicate" or "zero".
        skew: how unevenly the outgoing weights are divided among m copies: copy j = 0, ..., m - 1 gets 1/m + skew (m - 1 - 2j) of
            them. With equal shares, copies get equal gradients and remain equal forever, unless dropout or noise parts them.
        factor: which factor changes, where an axis is a product, such as groups times channels or heads times their size.
    """

    name: ClassVar[str] = "widen"
    to: int = number(low=1, whole=True)
    form: str = choice("replicate", "zero", default="replicate")
    skew: float = number(0.0, low=0.0, high=1.0)
    factor: int | None = number(None, low=0, whole=True, optional=True)

    def places(self, coupling: Coupling) -> Iterable[Place]:
        """Yield each set of units that a layer produces, with the forms in which their number can grow.

        Args:
            coupling: the coupling of the model.
        """
        coupling = growing(coupling)
        for place, factor in places_of(coupling):
            if place.refusal is not None:
                yield place
                continue
            # Each form is planned without a model, to see whether it is refused.
            forms, reasons, notes = [], [], [place.note]
            for form in ("replicate", "zero"):
                try:
                    # twice as many: a factor that is possible wherever one is
                    trial = Widen(2 * place.size, form, factor=0 if factor is None else factor)
                    plan = trial.plan(coupling, place.name, Seed((0,)))
                    open_numbers = rewritten(coupling, plan, {}, Claim.exact()).questions
                    forms.append(form)
                except ChangeError as error:
                    reasons.append(str(error))
            if not forms:
                # Of two reasons the first is shown: that of copies, which are the default.
                yield attrs.evolve(place, refusal=reasons[0])
                continue
            notes.append(" or ".join(forms))
            if any(atom.normalised for atom in plan):
                notes.append(f"to a multiple only, {next(a.normalised for a in plan if a.normalised)}")
            if not coupling.scaled.isdisjoint(plan):
                notes.append("the queries are multiplied by the root of the growth")
            if len(plan) > 1:
                ties = [tie.reason for tie in coupling.equal if not plan.keys().isdisjoint(tie.first.atoms())]
                notes.append(f"together with other axes, by {ties[0]}")
            if open_numbers:
                notes.append(f"needs numbers={{{', '.join(f'{q.attribute!r}: ...' for q in open_numbers)}}}")
            yield attrs.evolve(place, note="; ".join(filter(None, notes)))

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edits and the map of the change.

        Args:
            coupling: the coupling of the model.
            at: the layer or tensor to widen.
            seed: the seed of the draw of the units that are copied.

        Raises:
            ChangeError: if the layer cannot get this number of units in this form.
        """
        coupling = growing(coupling)
        plan = self.plan(coupling, at, seed)
        rewrite = rewritten(coupling, plan, rescaled(coupling, plan, takes(coupling, plan)), Claim.exact())
        if not coupling.scaled.isdisjoint(plan):
            return rewrite  # a narrowing would have to scale the queries back
        _, atom = chosen(coupling, at, self.factor)
        # new units come after all old ones
        new = tuple(range(atom.size, len(plan[atom].index)))
        return attrs.evolve(rewrite, undo=Undo(Narrow(remove=new, factor=self.factor), at))

    def plan(self, coupling: Coupling, at: str, seed: Seed) -> Plan:
        """Return the units of the child for each atom that changes.

        Args:
            coupling: the coupling of the model.
            at: the layer or tensor to widen.
            seed: the seed of the draw of the units that are copied.

        Raises:
            ChangeError: if the layer cannot get this number of units in this form.
        """
        # What the user counts, and the atom that changes, differ where the axis is a product or a sum.
        axis, atom = chosen(coupling, at, self.factor)
        before = atom.size if self.factor is not None else axis.size
        if self.to <= before:
            raise ChangeError(
                f"{counted(at, axis, atom, self.factor)}; widening needs more than {before}, and `to` is {self.to}. See nasframe.narrow"
            )
        sizes = sizes_from(coupling, atom, size_at(at, axis, atom, self.to, self.factor))
        return widened(coupling, sizes, form=self.form, skew=self.skew, seed=seed)


def widened(coupling: Coupling, sizes: Mapping[Axis, int], *, form: str, skew: float, seed: Seed) -> Plan:
    """Return the units of the child for each atom that gets more of them.

    Args:
        coupling: the coupling of the model.
        sizes: the new number of units of each atom that changes.
        form: "replicate" or "zero"; see `Widen`.
        skew: how unevenly the outgoing weights are divided among copies; see `Widen`.
        seed: the seed of the draw of the units that are copied.

    Raises:
        ChangeError: if an atom cannot get this number of units in this form.
    """
    if form == "zero" and skew:
        raise ChangeError(
            f"skew is {skew}, but with form='zero' no outgoing weights are divided; leave out skew, or use form='replicate'"
        )
    for atom, size in sizes.items():
        _check(atom, size, form, skew)
    if form == "replicate":
        _check_tied(coupling, set(sizes))
    return {a: _units(a, size, form, skew, seed("units", i)) for i, (a, size) in enumerate(sizes.items())}


def _check(atom: Axis, size: int, form: str, skew: float) -> None:
    if size < atom.size:
        raise ChangeError(f"an axis of size {atom.size} would have to shrink to {size}")
    if atom.normalised is None:
        return
    where = f"the {atom.size} units are {atom.normalised}"
    if form == "zero":
        raise ChangeError(f"{where}: new units would change the mean and the variance; use form='replicate'")
    if size % atom.size:
        raise ChangeError(f"{where}: their number can only become a multiple of {atom.size}, and not {size}")
    if skew:
        raise ChangeError(
            f"{where}: with uneven shares the output would be exact, but the gradients of copies would not be multiples of "
            "the parent's; leave out skew"
        )


def _units(atom: Axis, size: int, form: str, skew: float, seed: Seed) -> Units:
    old, more = torch.arange(atom.size), size - atom.size
    if form == "zero":
        return Units.copied(torch.cat([old, torch.full((more,), FRESH)]))
    if atom.normalised is not None:
        # every unit equally often: the mean and the variance over the units stay as they are
        index = old.repeat(size // atom.size)
    else:
        # every unit equally often, and which units once more is drawn
        drawn = torch.randperm(atom.size, generator=seed.generator())[: more % atom.size]
        index = torch.cat([old.repeat(size // atom.size), drawn])
    share = shares(index, skew)
    # The outgoing weights of a copy are a share of the unit's, so the gradient of its incoming weights is the same share.
    return Units(index, share, share)


def shares(index: Tensor, skew: float) -> Tensor:
    """Return for each unit its share of the outgoing weights of the unit that it is a copy of. The shares of a unit's copies sum to 1.

    Args:
        index: the unit of which each one is a copy.
        skew: how uneven the shares are; see `Widen`.

    Example:
        >>> shares(torch.tensor([0, 1, 0, 0]), skew=0.25)
        tensor([ 0.8333,  1.0000,  0.3333, -0.1667], dtype=torch.float64)
    """
    copies = torch.bincount(index)
    # which of its unit's copies each one is: no two of them may get the same share, as they would never become different
    order = torch.sort(index, stable=True).indices
    rank = torch.empty_like(index)
    rank[order] = torch.arange(len(index)) - (copies.cumsum(0) - copies)[index[order]]
    # The second term adds up to zero over the ranks 0, ..., m - 1.
    return 1 / copies[index].double() + skew * (copies[index] - 1 - 2 * rank)


def _check_tied(coupling: Coupling, atoms: set[Axis]) -> None:
    for (name, axis), norms in tied(coupling, atoms).items():
        if not norms:
            names = " = ".join(coupling.aliases[name])
            raise ChangeError(
                f"{names} is a tied weight: it produces units at {coupling.produced[name, axis]} and consumes them at "
                f"{coupling.consumed[name, axis]}, so copies cannot share its outgoing weights, and no normalisation with weights of "
                "its layer alone comes before; use form='zero'"
            )


def widen(
    model: nn.Module,
    at: str,
    *,
    to: int,
    example: Any,
    form: str = "replicate",
    skew: float = 0.0,
    factor: int | None = None,
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ModuleChange:
    """Return the change that widens a layer of a model. The model is not modified.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the layer to widen, or of a tensor, as listed by `nasframe.places`.
        to: the new number of units; the new size of the chosen factor, if there is one.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        form: "replicate": new units are copies of old ones, which share their outgoing weights; each unit is copied equally often, and
            which units once more is drawn. "zero": new units are random, with
            outgoing weights of zero.
        skew: how unevenly the outgoing weights are divided among copies. Copies with equal shares never become different.
        factor: which factor changes, where the axis is a product.
        numbers: for numbers that the model's classes keep and that cannot be found, the new values by name ("blocks.0.heads").
        seed: the seed of all random draws.

    Raises:
        ChangeError: if the layer cannot be widened. The message has the reason, and the line of the model's code.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> change = widen(model, "0", to=6, example=torch.ones(5, 3))
        >>> change.model[2].weight.shape
        torch.Size([2, 6])
    """
    return grow(model, Widen(to, form, skew, factor), at, example, numbers=numbers, seed=seed)
