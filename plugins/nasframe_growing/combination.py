"""Several operations at a site of a final model: an operation that is a sum of others with trained weights (Jie & Gao 2021, Eq. 20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Address,
    Bound,
    Candidate,
    Claim,
    Context,
    Edit,
    Filling,
    Morphism,
    Network,
    Operation,
    Proposal,
    Seed,
    Set,
    Structure,
    Take,
)
from nasframe.errors import ChangeError
from nasframe.network.network import tensors, unallocated
from nasframe.options import nested
from nasframe.structure.editing import site_at
from nasframe_growing.operators import alphas, remaining, size


class CombinedOperations(nn.Module):
    """The module of sum_i w_i o_i(inputs).

    Args:
        operations: the modules of the operations o_i.
    """

    def __init__(self, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.weights = nn.Parameter(torch.full((len(operations),), 1 / len(operations)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum, of the shape of the outputs of the operations."""
        first, *others = (w * o(*inputs) for w, o in zip(self.weights.unbind(), self.operations, strict=True))
        return sum(others, first)


def _alike(instance: Any, attribute: Any, value: Any) -> None:
    names = [getattr(o, "name", o) for o in value]
    if not value or not all(isinstance(o, Operation) and not o.zero for o in value) or len({o.arity for o in value}) > 1:
        raise ValueError(
            f"{attribute.name} is {names!r}; it must be one or more operations of equally many inputs, none of them zero"
        )


@attrs.frozen
class Combination(Operation):
    """A sum of operations with a trained weight each, sum_i w_i o_i, in which an operation may occur several times.

    It is one candidate, so that an architecture may have it. Its weights are trainable parameters like any others, and no alphas: they
    need be neither positive nor of sum 1.

    Args:
        operations: the operations, all with one input or all with two, none of them zero.
    """

    name: ClassVar[str] = "combination"
    homogeneous: ClassVar[tuple[str, ...]] = ("weights",)
    operations: tuple[Operation, ...] = nested("operation", validator=_alike)

    @property
    def arity(self) -> int:  # type: ignore[override]
        """Return the number of inputs of the operations."""
        return self.operations[0].arity

    def build(self, **sizes: Any) -> nn.Module:
        """Return the module, freshly initialised, with equal weights of sum 1."""
        return CombinedOperations([operation.build(**sizes) for operation in self.operations])

    def summands(self) -> Sequence[Operation]:
        """Return the operations."""
        return self.operations

    def magnitude(self, module: nn.Module) -> Bound | None:
        """Return the bound sum_i |w_i| |o_i|, if all operations have one."""
        assert isinstance(module, CombinedOperations)
        bounds = [o.magnitude(m) for o, m in zip(self.operations, module.operations, strict=True)]
        known = [b * abs(w) for b, w in zip(bounds, module.weights.tolist(), strict=True) if b is not None]
        return sum(known, Bound({})) if len(known) == len(bounds) else None


@attrs.frozen
class Combine(Morphism):
    """Decide a site without dropping any of its operations: they become one, a `combination` with the mixing weights as its weights.

    The change is exact. Zero operations are left out, as they add nothing. Before it, a pruner may remove those that are too weak.
    """

    name: ClassVar[str] = "combine"

    def admits(self, structure: Structure) -> bool:
        """Return whether there is an undecided site with an operation that is not zero."""
        return any(True for _ in self._sites(structure))

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return one change for each undecided site."""
        network, found = unallocated(structure), []
        for address in self._sites(structure):
            site, (after, _, kept) = site_at(structure, address), self._edited(structure, {"site": address})
            # each instance of the cell has its weights of the sum
            instances = len([*network.mixed_operations(address)])
            cost = alphas(after, context.relaxation) - alphas(structure, context.relaxation) + instances * len(kept)
            cost -= sum(size(network, address, c.id) for c in site.candidates if c not in kept)
            found.append(Proposal({"site": address}, cost=cost))
        return found

    def _sites(self, structure: Structure) -> Sequence[Address]:
        sites = [(address, site) for address, site in structure.sites() if not site.decided]
        return [address for address, site in sites if not all(c.operation.zero for c in site.candidates)]

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that replaces all candidates of a site by their combination, which has their parameters."""
        edited, address, kept = self._edited(structure, request)
        present = [c.id for c in site_at(structure, address).candidates]

        def fill(parent: Network, child: Network) -> Filling:
            weights, lost = remaining(parent, address, present)
            overrides = dict[str, Take | Set]()
            for name, mixture in parent.mixed_operations(address):
                made = f"{name}.candidates.{structure.next_id}"
                overrides[f"{made}.weights"] = Set(weights[[present.index(c.id) for c in kept]].clone())
                for place, candidate in enumerate(kept):
                    for key in tensors(mixture.candidates[str(candidate.id)]):
                        source = f"{name}.candidates.{candidate.id}.{key}"
                        overrides[f"{made}.operations.{place}.{key}"] = Take(source)
            return Filling(Claim.lossy() if lost else Claim.exact(), overrides)

        return Edit(edited, fill)

    def _edited(self, structure: Structure, request: Mapping[str, Any]) -> tuple[Structure, Address, Sequence[Candidate]]:
        """Return the edited structure, the site, and the candidates that are combined."""
        site = site_at(structure, request.get("site"))
        kept = [c for c in site.candidates if not c.operation.zero]
        if site.decided or not kept:
            raise ChangeError(f"{request['site']} has {len(kept)} operations that are not zero; there is nothing to combine")
        address, operation = Address(str(request["site"])), Combination(tuple(c.operation for c in kept))
        made = attrs.evolve(site, candidates=(Candidate(structure.next_id, operation),))
        return structure.replace_site(address, made, 1), address, kept
