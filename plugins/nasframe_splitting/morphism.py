"""Splitting of all units of operations at once (Jie & Gao 2021, 2.3, 3.2.2 and 3.2.5, Eqs. 11 and 21)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Address, Candidate, Claim, Context, Edit, Filling, Morphism, Network, Proposal, Seed, Structure, Take
from nasframe.errors import ChangeError
from nasframe.interfaces.part import to_plain
from nasframe.network.network import build, count_parameters, tensors
from nasframe.network.outputs import Outputs
from nasframe.options import choice, flag, number
from nasframe.search.bilevel import Forward
from nasframe.structure.editing import candidate_at, site_at
from nasframe_splitting.candidates import Computed, Key, computed_by, matrices_of, parameters_of, rows, splittable, unsplittable
from nasframe_splitting.kernels import Eigenpairs, least_eigenpairs_of

#: a step is accepted if the loss falls by this fraction of the prediction at least
ACCEPTED = 0.5
#: the number of times that a step is halved before the split is not proposed
HALVINGS = 10
#: the number of steps of the method of Lanczos by whose sums operations are ranked, before the directions of the best are measured
RANKING_STEPS = 2
#: the name of what is measured
SPLITS = "splits"


@attrs.frozen
class Split(Morphism):
    """Split all units of operations: a second candidate of the same operation, each with half the mixing weight (Eq. 21).

    The parameters of unit u become theta_u + eps v_u in the one candidate and theta_u - eps v_u in the other, where v_u belongs to the
    least eigenvalue lambda_u of the splitting matrix (Eqs. 10 and 11; for recurrent cells, over all time steps). Units with
    lambda_u >= 0 would only make the loss larger: they get a random direction instead, shorter by the factor `noise`, so that their
    halves are no copies, which would stay equal for ever.

    The gain is the predicted decrease of the loss, -eps^2 / 2 times the sum of the negative lambda_u. It holds for the batch that it was
    measured on, and because of the noise in a batch it is larger than the decrease on the whole data. One backward pass and a few
    steps of the method of Lanczos rank all operations. The directions of the best ones follow from the same pass.

    Three settings say which operations are proposed (3.2.5): those with the least "sum" of negative lambda_u; those with the largest
    "number" of negative lambda_u, and of equally many that with the least sum; or "all" operations of a site all of whose lambda_u are
    negative, together in one proposal for the site.

    The step eps begins at its largest value and is halved until the loss of the batch falls by half of the prediction, both with the
    rest of the network linearised and as it is. A split for which this does not succeed is not proposed, nor is one of an operation
    that is linear in its weights (`unsplittable`).

    So that splitting and pruning do not alternate for ever, an operation is not split at a site from which a copy of it was removed. This
    is read from the records of the run.

    The claim is lossy: the change is of the order eps^2, but it is not meant to preserve the function, and no operation bounds its
    second derivative.

    Args:
        eps: the largest step.
        exact: whether the least eigenvalues and their vectors are computed by decomposing the splitting matrices.
        steps: otherwise, the number of steps of the method of Lanczos, which approximates them. Fewer steps give a direction with
            a smaller decrease, and the gain is that of this direction.
        batches: the number of training batches on which they are measured.
        which: which operations are proposed, "sum", "number" or "all".
        proposals: the largest number of proposals.
        noise: the length of the direction of units whose eigenvalue is not negative.
    """

    name: ClassVar[str] = "split"
    eps: float = number(1.0, low=0.0)
    exact: bool = flag(default=False)
    steps: int = number(12, low=1, whole=True)
    batches: int = number(1, low=1, whole=True)
    which: str = choice("sum", "number", "all", default="sum")
    proposals: int = number(1, low=1, whole=True)
    noise: float = number(1e-3, low=0.0)

    def admits(self, structure: Structure) -> bool:
        """Return whether there is an operation whose units can be split."""
        return any(True for _ in splittable(structure))

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the splits that lower the loss of the measured batch, that of the largest predicted decrease first."""
        left = {
            (address, id)
            for address, id in splittable(structure)
            if to_plain(candidate_at(structure, address, id).operation) not in context.removed(address)
        }
        keys = [key for key in splittable(context.structure) if key in left]
        if not keys or context.relaxation is None:  # without a relaxation, two candidates cannot share a site
            return []
        found = context.remember_all(SPLITS, lambda: self._measured(context, keys))
        groups = self._chosen(dict(zip(keys, found["indices"].unbind(), strict=True)))

        proposals, before = [], count_parameters(structure, context.relaxation)
        for group in groups:
            steps = {key: found[name].tolist() for key in group if (name := _named("step", key)) in found}
            accepted = [key for key, (eps, _, _) in steps.items() if eps > 0]
            if accepted:
                (address, _), ids = accepted[0], [id for _, id in accepted]
                cost = count_parameters(_split(structure, address, ids)[0], context.relaxation) - before
                gain = sum(steps[key][1] for key in accepted)
                proposals.append(Proposal({"site": address, "candidates": ids}, gain=gain, cost=cost))
        return sorted(proposals, key=lambda proposal: -proposal.gain)

    def _chosen(self, indices: Mapping[Key, Tensor]) -> Sequence[Sequence[Key]]:
        """Return the candidates that could be proposed, those of a proposal together, the first choice first.

        Args:
            indices: the sum of the negative splitting indices of each candidate, their number, and the number of units.
        """
        negative = {key: found.tolist() for key, found in indices.items() if found[0] < 0}
        if self.which == "number":
            groups = [[key] for key in sorted(negative, key=lambda key: (-negative[key][1], negative[key][0]))]
        elif self.which == "sum":
            groups = [[key] for key in sorted(negative, key=lambda key: negative[key][0])]
        else:
            sites: dict[Address, list[Key]] = {}
            for key, (_, count, units) in negative.items():
                if count == units:
                    sites.setdefault(key[0], []).append(key)
            groups = sorted(sites.values(), key=lambda keys: sum(negative[key][0] for key in keys))
        return groups

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that splits candidates of a site."""
        edited, halves = _split(structure, request.get("site"), request.get("candidates"))
        site = Address(str(request["site"]))
        for old, _ in halves:
            if (reason := unsplittable(old.operation)) is not None:
                raise ChangeError(f"candidate {old.id} of {site} cannot be split: {reason}")
            names = [f"{SPLITS}/{_named(what, (site, old.id))}" for what in ("direction", "step")]
            if not {*names} <= evidence.keys():
                raise ChangeError(
                    f"there is no direction in which to split candidate {old.id} of {site}: the evidence lacks {' and '.join(names)}, "
                    "which propose() measures; give the evidence of the proposal"
                )

        def fill(parent: Network, child: Network) -> Filling:
            overrides: dict[str, Take] = {}
            for old, new in halves:
                key = site, old.id
                eps = float(evidence[f"{SPLITS}/{_named('step', key)}"][0])
                for move in _moves(parent, key, evidence[f"{SPLITS}/{_named('direction', key)}"]):
                    for name in tensors(move.module):
                        for candidate, step in ((old, eps), (new, -eps)):
                            # half the mixing weight, and so half the gradient
                            offset = step * move.directions[name] if name in move.directions else None
                            entry = Take(f"{move.prefix}.{old.id}.{name}", gradient=0.5, offset=offset)
                            overrides[f"{move.prefix}.{candidate.id}.{name}"] = entry
            split = {old.id for old, _ in halves}
            return Filling(Claim.lossy(), overrides, {site: _halved(parent, structure, site, split)})

        return Edit(edited, fill)

    # measurements

    def _measured(self, context: Context, keys: Sequence[Key]) -> Mapping[str, Tensor]:
        """Return the splitting indices of candidates, and the directions and steps of those that are proposed, from one backward pass."""
        context.network.fast = context.fast
        loss, computed = computed_by(context.network, partial(self._loss, context), keys)
        matrices = matrices_of(computed)

        def eigenpairs(of: Sequence[Key], steps: int) -> Mapping[Key, Sequence[Eigenpairs]]:
            layers = [each for key in of for each in matrices.get(key, ())]
            pairs = iter(least_eigenpairs_of(layers, None if self.exact else steps, context.seed("lanczos", steps)))
            return {key: [next(pairs) for _ in matrices.get(key, ())] for key in of}

        # Few steps of the method of Lanczos give values that are not negative enough, and never values below the eigenvalues. So what
        # is chosen by their sum is worth splitting. To count the negative ones takes more steps.
        steps = RANKING_STEPS if self.which == "sum" else self.steps
        indices = {key: _summary(pairs) for key, pairs in eigenpairs(keys, steps).items()}
        found, accepted = {"indices": torch.stack([*indices.values()])}, 0
        for group in self._chosen(indices):
            taken = []
            for key, pairs in eigenpairs(group, self.steps).items():
                direction = self._direction(pairs, context.seed("noise", *key))
                taken.append(self._step(context, key, direction, computed[key], loss))
                found |= {_named("direction", key): direction, _named("step", key): taken[-1]}
            accepted += any(step[0] > 0 for step in taken)
            if accepted == self.proposals:
                break
        return found

    def _direction(self, eigenpairs: Sequence[Eigenpairs], seed: Seed) -> Tensor:
        """Return the splitting index and the direction of each unit of a candidate, of all instances of its cell, as a vector."""
        generator, found = seed.generator(), []
        for pairs in eigenpairs:
            noise = torch.randn(pairs.vectors.shape, generator=generator, dtype=torch.float64).to(pairs.vectors)
            noise = self.noise * nn.functional.normalize(noise, dim=-1)
            values = pairs.values.unsqueeze(-1)
            found.append(torch.cat([values, torch.where(values < 0, pairs.vectors, noise)], -1).flatten())
        return torch.cat(found)

    def _step(self, context: Context, key: Key, direction: Tensor, computed: Sequence[Computed], before: float) -> Tensor:
        """Return the accepted step of a split, the predicted and the measured decrease of the loss; zeros if no step is accepted.

        Args:
            context: the search.
            key: the candidate.
            direction: what `_direction` returns.
            computed: what the candidate computed.
            before: the loss of the batches.
        """
        network, (address, id), structure = context.network, key, context.structure
        moves = [*_moves(network, key, direction)]
        negative = sum(float(move.indices.clamp(max=0).double().sum()) for move in moves)
        halved = _halved(network, structure, address, {id}).to(computed[0].slopes)
        mixing = {**network.mixing(), address: halved}

        @functools.cache  # built where it is needed, once for all steps
        def twins() -> Network:
            return _twins(network, key, context.seed)

        def forward(inputs: Tensor, _: object) -> Outputs:
            return twins()(inputs, mixing)

        with torch.no_grad():
            for halving in range(HALVINGS + 1):
                eps = self.eps / 2**halving
                predicted = -(eps**2) / 2 * negative
                # Without the rest of the network first, which takes little time, because most steps are too large for the function itself.
                alone = sum(float(each.decrease(move.rows, eps)) for each, move in zip(computed, moves, strict=True))
                if not alone >= ACCEPTED * predicted > 0:
                    continue
                for (_, mixture), move in zip(twins().mixed_operations(address), moves, strict=True):
                    for half, step in ((id, eps), (structure.next_id, -eps)):
                        for name, v in move.directions.items():
                            parameter = mixture.candidates[str(half)].get_parameter(name)
                            parameter.copy_(move.module.get_parameter(name) + step * v)
                measured = before - float(self._loss(context, forward))
                if measured >= ACCEPTED * predicted:
                    return torch.tensor([eps, predicted, measured], dtype=torch.float64)
        return torch.zeros(3, dtype=torch.float64)

    def _loss(self, context: Context, forward: Forward) -> Tensor:
        """Return the mean training loss of the batches, in evaluation mode: dropout would hide what a small step changes."""
        return torch.stack([context.training_loss(context.network, n, forward) for n in range(self.batches)]).mean()


def _named(what: str, key: Key) -> str:
    """Return the name of a measurement of a candidate."""
    return f"{what} {key[0]} {key[1]}"


def _summary(eigenpairs: Sequence[Eigenpairs]) -> Tensor:
    """Return the sum of the negative splitting indices of a candidate, their number, and the number of its units, of all instances.

    A candidate that the loss does not compute has none.
    """
    values = torch.cat([torch.empty(0), *(pairs.values.flatten().double().cpu() for pairs in eigenpairs)])
    negative = values[values < 0]
    return torch.stack([negative.sum(), torch.tensor(len(negative)), torch.tensor(len(values))]).double()


def _split(structure: Structure, address: Any, ids: Any) -> tuple[Structure, Sequence[tuple[Candidate, Candidate]]]:
    """Return the structure in which some candidates are followed by a second one of the same operation, and these pairs."""
    whole = isinstance(ids, Sequence) and all(isinstance(id, int) and not isinstance(id, bool) for id in ids)
    if not whole or not ids or len({*ids}) < len(ids):
        raise ChangeError(f"the candidates to split are {ids!r}; they must be a list of different ids, which are whole numbers")
    site, new_ids = site_at(structure, address), itertools.count(structure.next_id)
    halves = [(old, Candidate(next(new_ids), old.operation)) for old in (candidate_at(structure, address, id) for id in ids)]
    seconds = {old.id: new for old, new in halves}
    candidates = [c for old in site.candidates for c in ((old, seconds[old.id]) if old.id in seconds else (old,))]
    edited = attrs.evolve(site, candidates=tuple(candidates))
    return structure.replace_site(Address(str(address)), edited, len(halves)), halves


def _halved(parent: Network, structure: Structure, address: Address, split: Set[int]) -> Tensor:
    """Return the mixing weights of a site in which candidates were split, before which others may have been removed.

    Args:
        parent: the network with the present mixing weights.
        structure: the structure that is split.
        address: the address of the site.
        split: the ids of the candidates.
    """
    ids = [c.id for c in site_at(structure, address).candidates]
    if len(ids) == 1:  # a candidate that is alone counts fully
        weights = torch.ones(1)
    else:
        before = [c.id for c in site_at(parent.structure, address).candidates]
        weights = parent.mixing()[address][[before.index(i) for i in ids]]
        if parent.relaxation is not None and parent.relaxation.sums_to_one:
            weights = weights / weights.sum()
    halves = [torch.stack([w / 2, w / 2]) if id in split else w[None] for id, w in zip(ids, weights, strict=True)]
    return torch.cat(halves)


def _twins(network: Network, key: Key, seed: Seed) -> Network:
    """Return a network in which a candidate is followed by a second one; its alphas and the parameters of the second are arbitrary."""
    # `apply` would also work out the alphas, which takes longer
    twins, source = build(_split(network.structure, key[0], [key[1]])[0], seed, like=network), tensors(network.body)
    with torch.no_grad():
        for name, tensor in tensors(twins.body).items():
            if name in source:
                tensor.copy_(source[name])
    return twins


@attrs.frozen(eq=False)
class _Move:
    """How the units of a candidate move, in one instance of its cell type.

    Attributes:
        prefix: the name of the candidates' parent in the network.
        module: the module of the candidate.
        indices: the splitting index of each unit.
        rows: the direction of each unit, of shape (units, size).
        directions: the same by the names of the parameters, in their shapes.
    """

    prefix: str
    module: nn.Module
    indices: Tensor
    rows: Tensor
    directions: Mapping[str, Tensor]


def _moves(network: Network, key: Key, direction: Tensor) -> Iterator[_Move]:
    """Yield how a candidate moves in each instance of its cell, from what `Split` measures as the direction."""
    description, start = candidate_at(network.structure, *key).operation.pointwise(), 0
    assert description is not None, "an operation without a description is refused before"
    for name, mixture in network.mixed_operations(key[0]):
        module = mixture.candidates[str(key[1])]
        theta = rows(description, module)
        units, size = theta.shape
        part = direction[start : start + units * (1 + size)].view(units, 1 + size).to(theta)
        start += part.numel()
        indices, directions = part[:, 0], part[:, 1:]
        yield _Move(f"{name}.candidates", module, indices, directions, parameters_of(description, module, directions))
