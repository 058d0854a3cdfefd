"""The progressive search of P-DARTS: deeper and deeper supernets with fewer and fewer candidates (Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe import Address, Backbone, Pruner, Structure
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import choice, nested, number
from nasframe.search.plan import RETRAIN, Change, Move, Plan, Step, Train
from nasframe_convolutional.backbone import DartsConvolutional


@attrs.frozen
class StrongestOfSite(Pruner):
    """Keep the `keep` candidates of largest mixing weight at each site, zero among them (P-DARTS, Chen et al. 2019, 3.2).

    If they would all be zero, the strongest other candidate is kept as well.

    Args:
        keep: the number of candidates of a site.
    """

    name: ClassVar[str] = "strongest_of_site"
    keep: int = number(5, low=1, whole=True)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all other candidates."""
        gone: dict[Address, Set[int]] = {}
        for address, site in structure.sites():
            if site.decided or address not in mixing:
                continue
            weights = mixing[address].tolist()
            ranked = [site.candidates[i] for i in sorted(range(len(weights)), key=weights.__getitem__, reverse=True)]
            kept = ranked[: self.keep]
            if all(c.operation.zero for c in kept):
                kept += [c for c in ranked if not c.operation.zero][:1]
            if removed := {c.id for c in site.candidates} - {c.id for c in kept}:
                gone[address] = removed
        return gone


@attrs.frozen
class LimitedIdentities(Pruner):
    """Keep what the backbone would derive with few identities in the cells of a type (P-DARTS, Chen et al. 2019, 3.3).

    As long as there are too many, the mixing weight of the weakest identity that would be kept is set to 0, and the cell is derived again.

    Args:
        limit: the largest number of identities in a cell.
        cell: the cell type that is limited, "normal" or "reduction".
    """

    name: ClassVar[str] = "limited_identities"
    limit: int = number(2, low=0, whole=True)
    cell: str = choice("normal", "reduction", default="normal")

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates that are not derived."""
        assert isinstance(structure.backbone, Backbone)
        weights = {address: values.detach().clone() for address, values in mixing.items()}
        while True:
            gone = structure.backbone.derive(structure, weights)
            kept = [
                (address, place)
                for address, site in structure.sites()
                for place, c in enumerate(site.candidates)
                if address.cell == self.cell and c.operation.residual == () and c.id not in gone.get(address, ())
            ]
            # an identity that is kept although its weight is 0, or because its site is decided, has no alternative
            left = [(address, place) for address, place in kept if address in weights and float(weights[address][place]) > 0]
            if len(kept) <= self.limit or not left:
                return gone
            address, place = min(left, key=lambda entry: float(weights[entry[0]][entry[1]]))
            weights[address][place] = 0.0


def _stages(instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, tuple) or not value or len(value) != len(instance.cells):
        raise ValueError(f"{attribute.name} is {value!r}; it must have one entry for each of {len(instance.cells)} stages")


@attrs.frozen
class PDarts(PlanRecipe):
    """Search in stages, each in a deeper backbone, with fresh weights and fewer candidates (Chen et al. 2019, P-DARTS).

    In each stage the alphas stay as they are in the first epochs. After each stage but the last, each edge keeps its strongest
    candidates. After the last one a cell is derived with few identities, and trained from scratch in the backbone.

    Args:
        backbone: the backbone of the last training. Those of the stages differ from it by the two following options.
        cells: the number of cells of each stage.
        identity_dropout: the dropout on identities of each stage.
        candidates: the number of candidates of an edge in each stage; in the first one, of those that it has.
        epochs: the epochs of a stage.
        grace: the first of these, in which the alphas stay as they are.
        identities: the largest number of identities in the normal cell.
    """

    name: ClassVar[str] = "pdarts"
    backbone: DartsConvolutional = nested(
        "backbone", default=DartsConvolutional(), validator=attrs.validators.instance_of(DartsConvolutional)
    )
    cells: tuple[int, ...] = attrs.field(default=(5, 11, 17), validator=_stages)
    identity_dropout: tuple[float, ...] = attrs.field(default=(0.1, 0.4, 0.7), validator=_stages)
    candidates: tuple[int, ...] = attrs.field(default=(8, 5, 3), validator=_stages)
    epochs: int = number(25, low=1, whole=True)
    grace: int = number(10, low=0, whole=True)
    identities: int = number(2, low=0, whole=True)

    def __attrs_post_init__(self) -> None:
        self.steps()  # the parts check the entries of the lists

    def steps(self) -> Plan:
        """Return the stages, and a training of the cell that is found."""
        steps: list[Step] = []
        for cells, dropout, candidates in zip(self.cells, self.identity_dropout, self.candidates, strict=True):
            backbone = attrs.evolve(self.backbone, cells=cells, identity_dropout=dropout)
            search = Train(phase="search", parameters=("weights", "alphas"), epochs=self.epochs, grace=self.grace)
            cut = Change(prune=True, pruner=StrongestOfSite(candidates))
            steps += [cut, Move(backbone=backbone), search]
        last = Change(prune=True, pruner=LimitedIdentities(self.identities), derive=True)
        return (*steps, last, Move(backbone=self.backbone), *RETRAIN)
