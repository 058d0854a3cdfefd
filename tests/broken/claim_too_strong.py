"""A morphism that claims to be exact, and moves the outputs by 1e-9 or so."""

from typing import ClassVar

import attrs

import nasframe
from nasframe.network.mixing import Gate


@attrs.frozen
class Gated(nasframe.Morphism):
    """One node more, behind a gate."""

    name: ClassVar[str] = "gated"

    def propose(self, context, structure):
        return [self._proposal(structure, cell) for cell, _ in structure.cells if self._inherits(structure, cell)]

    def edit(self, structure, request, evidence, seed):
        if not self._inherits(structure, request.get("cell")):
            raise nasframe.errors.ChangeError(f"{request} cannot be done; there are {', '.join(dict(structure.cells))}")
        return nasframe.Edit(self._grown(structure, request["cell"]), self._fill)

    def _fill(self, parent, child):
        for gate in (m for m in child.modules() if isinstance(m, Gate)):
            gate.g.data.fill_(1e-9)
        return nasframe.Filling(nasframe.Claim.exact())

    def _proposal(self, structure, cell):
        parent, child = (nasframe.build(s, nasframe.Seed((0,))) for s in (structure, self._grown(structure, cell)))
        cost = sum(p.numel() for p in child.parameters()) - sum(p.numel() for p in parent.parameters())
        return nasframe.Proposal({"cell": cell}, cost=cost)

    def _inherits(self, structure, cell):
        return cell in dict(structure.cells) and bool(structure.backbone.grown(structure, cell).inherits)

    def _grown(self, structure, cell):
        grown = structure.backbone.grown(structure, cell)
        found = grown.structure.cell(cell)
        nodes = tuple(attrs.evolve(n, inherits=grown.inherits) if n.id == grown.node.id else n for n in found.nodes)
        return grown.structure.replace_cell(cell, attrs.evolve(found, nodes=nodes))


@nasframe.hookimpl
def nasframe_parts():
    return [Gated]
