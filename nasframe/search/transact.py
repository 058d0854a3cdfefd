"""A change of the search's structure: wholly in the state and its lineage, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nasframe.change.apply import Change, apply, distance
from nasframe.interfaces.architect import Architect
from nasframe.interfaces.task import Data
from nasframe.network.network import Network
from nasframe.search.state import Best, State, optimisers, rebuilt, succeed
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed

#: examples, of the validation part where there is one, on which the distance of a change is measured
PROBE = 256


def transact(
    state: State, strategy: Strategy, data: Data, change: Change, kind: str, name: str, seed: Seed, why: str
) -> dict[str, Any]:
    """Put the change's child in its parent's place, and journal it; a change that is refused leaves the state as it was.

    Args:
        kind: "grow", "remove" or "fold": how the change is made again when the lineage is replayed.
        name: of the part that asked for it.
    """
    parent, child, architect = state.network, change.child, strategy.architect
    full = apply(parent, change, architect.invert)
    probed = data.validation if data.validation.size else data.train
    inputs, _ = probed.batch(torch.arange(min(PROBE, probed.size)))
    moved = distance(lambda network: network(inputs, mixing_weights(architect, network)), parent, child, change.claim)
    state.stage += kind == "grow"
    record = {
        **_where(state, kind, name, why),
        "request": dict(change.request),
        "claim": change.claim.to_dict(),
        "distance": moved,
        "evidence": sorted(change.evidence),
        "newcomers": _newcomers(architect, parent, child),
        "parent": parent.structure.digest(),
        "child": child.structure.digest(),
        "seed": list(seed.key),
        **sizes(child),
        "counts": child.count(),
    }
    state.evidence |= {f"{len(state.lineage)}/{k}": v.detach().clone() for k, v in change.evidence.items()}
    state.lineage = [*state.lineage, record]
    succeed(state, strategy, child, full)
    return record


def restore(state: State, strategy: Strategy, best: Best) -> dict[str, Any]:
    """Put the best network, with its own weights and fresh optimisers, in the present one's place, and journal it."""
    which = "the last network" if best.valid is None else f"the best network, with a validation loss of {best.valid:.6g}"
    record = {
        **_where(state, "restore", "restore", which),
        "parent": state.network.structure.digest(),
        "child": best.structure.digest(),
    }
    state.network = rebuilt(strategy, best.structure, best.tensors)
    state.optimisers = optimisers(strategy, state.network, state.stage)
    record |= sizes(state.network)
    state.lineage = [*state.lineage, record]
    return record


def mixing_weights(architect: Architect, network: Network) -> Mapping[str, Tensor]:
    """The weights of the network's mixtures as they are now, without a graph."""
    with torch.no_grad():
        return architect.mixing(dict(network.alphas))


def sizes(network: Network) -> dict[str, Any]:
    """How many nodes each cell type has, and how many parameters the network."""
    nodes = {type: len(cell.nodes) for type, cell in network.structure.cells}
    return {"nodes": nodes, "parameters": sum(p.numel() for p in network.parameters())}


def _where(state: State, kind: str, name: str, why: str) -> dict[str, Any]:
    return {"stage": state.stage, "updates": state.updates, "kind": kind, "change": name, "why": why}


def _newcomers(architect: Architect, parent: Network, child: Network) -> dict[str, dict[str, float]]:
    """The weight of every candidate that the parent does not have."""
    old = {c.id for _, s in parent.structure.sites() for c in s.candidates}
    weights = mixing_weights(architect, child)
    return {
        address: {str(c.id): float(w) for c, w in zip(site.candidates, weights[address], strict=True) if c.id not in old}
        for address, site in child.structure.sites()
        if address in weights and any(c.id not in old for c in site.candidates)
    }
