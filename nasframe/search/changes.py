"""Changes of the structure in a run: wholly in the state and its lineage, or not at all."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence, Set as AbstractSet
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.change.apply import Change, apply, distance
from nasframe.change.claim import Claim
from nasframe.change.edit import Edit, Filling, combine, fold_gates, remove_candidates
from nasframe.errors import ChangeError, ClaimError, StructureError
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name, to_plain
from nasframe.network.network import Network
from nasframe.records import Alternative, Changed
from nasframe.search.gain import Descent, gain_of
from nasframe.search.state import Snapshot, State, rebuilt, succeed
from nasframe.search.strategy import Strategy
from nasframe.search.trainer import Trainer, forward_of, keyed_batch, mixing_weights
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from
from nasframe.structure.structure import Candidate, Structure

#: examples, of the validation split where there is one, on which the distance of a change is measured
PROBE = 256
#: two candidates are close if their mixing weights differ by less than this
MARGIN = 0.05
#: a removal is reported as harmful if it multiplies the validation loss by more than this
HARM = 2.0
#: the largest number of alternatives to a removal that did harm whose loss is measured
MEASURED = 8


@attrs.frozen(eq=False)
class Changer:
    """Makes changes in the state of a run and keeps their records."""

    strategy: Strategy
    trainer: Trainer

    def grow(self, state: State, morphism: Morphism, proposal: Proposal, *, why: str, seed: Seed) -> Changed:
        """Carry out a proposal of a morphism and return the record."""
        edit = morphism.edit(state.network.structure, proposal.request, proposal.evidence, seed)
        change = apply(state.network, edit, seed)
        return self._put(
            state,
            change,
            proposal.evidence,
            change="grow",
            by=short_name(morphism),
            why=why,
            seed=seed.key,
            request=dict(proposal.request),
            **self._gain(state, state.network, change, seed),
        )

    def remove(
        self,
        state: State,
        gone: Mapping[Address, AbstractSet[int]],
        *,
        by: str,
        why: str,
        seed: Seed,
        evidence: Mapping[str, Tensor] | None = None,
        scores: Mapping[str, Tensor] | None = None,
        fold: bool = False,
    ) -> Changed:
        """Remove candidates, measure what that does to the validation loss, and return the record.

        Args:
            state: the state of the run.
            gone: the ids of the candidates to remove, by the address of their site.
            by: the name of the part or step that asked for the removal.
            why: the reason.
            seed: the seed of the change.
            evidence: the tensors that the removal was decided by, by name.
            scores: what the candidates were compared by, by the address of their site; by default the mixing weights.
            fold: whether mixing weights are folded into parameters (`nasframe.change.edit.remove_candidates`).
        """
        # The loss is measured right before and right after, with the weights of the supernet: what tuning may mend later is
        # not part of it.
        edit = remove_candidates(state.network.structure, gone, fold=fold)
        change = apply(state.network, edit, seed)
        before = self.loss(state.network)
        after = None if before is None else self.loss(change.child)
        return self._put(
            state,
            change,
            evidence or {},
            change="remove",
            by=by,
            why=why,
            seed=seed.key,
            request={address: sorted(ids) for address, ids in gone.items()},
            valid_before=before,
            valid_after=after,
            alternatives=self._alternatives(state.network, gone, scores, seed, harmful(before, after), fold),
        )

    def change(
        self,
        state: State,
        gone: Mapping[Address, AbstractSet[int]],
        growths: Sequence[tuple[Morphism, Proposal]],
        *,
        by: str,
        why: str,
        seed: Seed,
        evidence: Mapping[str, Tensor] | None = None,
        reset: Sequence[str] = (),
    ) -> Changed:
        """Remove candidates and carry out proposals in one change, and return the record.

        The change has one child, one record and one measured distance. The proposals are for the structure without the removed
        candidates (`nasframe.structure.editing.remove_from`), and each leaves those that follow possible.

        Args:
            state: the state of the run.
            gone: the ids of the candidates to remove, by the address of their site; empty to remove nothing.
            growths: the proposals, each with the morphism that made it; empty to add nothing. With neither, the change only resets.
            by: the name of the part or step that asked for the change.
            why: the reason.
            seed: the seed of the change.
            evidence: the tensors that the removal was decided by, by name.
            reset: what begins anew: the "alphas", at their initial values, or the "moments" of the optimisers.

        Raises:
            ChangeError: if there is nothing to do, a proposal does not fit, or two of them change the same tensor.
        """
        if not (gone or growths or reset):
            raise ChangeError(
                "the change removes no candidate, carries out no proposal and resets nothing; give it at least one"
            )
        edit = edited(state.network.structure, gone, growths, seed, reset_alphas="alphas" in reset)
        made = apply(state.network, edit, seed)
        measured = {**(evidence or {})}
        for number, (_, proposal) in enumerate(growths):
            # the names under which `replay` looks for the evidence of each growth
            measured |= {f"growth {number}/{name}": value for name, value in proposal.evidence.items()}
        request = {
            "removed": {address: sorted(ids) for address, ids in gone.items()},
            "added": [{"by": short_name(morphism), "request": dict(p.request)} for morphism, p in growths],
            "reset": [*reset],
        }
        if "moments" in reset:
            # with an empty map no moments are carried: all of them begin anew
            made = attrs.evolve(made, map={})
        # a growth alone is not expected to move the loss; a removal is, also where a growth follows it in the same change
        before = self.loss(state.network) if gone else None
        after = None if before is None else self.loss(made.child)
        worth = dict[str, float]()
        if growths:
            # The growths are compared with the network after the removal and the reset, so that their gain leaves both out.
            rest = edited(state.network.structure, gone, (), seed, reset_alphas="alphas" in reset)
            worth = self._gain(state, apply(state.network, rest, seed).child, made, seed)
        return self._put(
            state,
            made,
            measured,
            change="edit",
            by=by,
            why=why,
            seed=seed.key,
            request=request,
            valid_before=before,
            valid_after=after,
            **worth,
        )

    def best_change(
        self,
        state: State,
        gone: Mapping[Address, AbstractSet[int]],
        proposals: Sequence[tuple[Morphism, Proposal]],
        *,
        per: str,
        needed: bool,
        seed: Seed,
        reset: Sequence[str],
        by: str,
        **fields: Any,
    ) -> tuple[Changed | None, list[str]]:
        """Make a change with the best proposals that can be carried out.

        Args:
            state: the state of the run.
            gone: the ids of the candidates to remove, by the address of their site.
            proposals: what the morphisms propose for the structure without them, the first choice first.
            per: "network" for the first proposal, "site" for the first one of each site.
            needed: whether nothing is done where no proposal can be carried out.
            seed: the seed of the change.
            reset: what begins anew, as for `change`.
            by: the name of the part that asked for the removal, or of the step.
            fields: the further arguments of `change`.

        Returns:
            The record, None if there is nothing to do, and the reasons why proposals cannot be carried out.
        """
        network, refused = state.network, list[str]()

        def possible(growth: tuple[Morphism, Proposal]) -> bool:
            try:
                edit = edited(network.structure, gone, [growth], seed, reset_alphas="alphas" in reset)
                return bool(apply(network, edit, seed))
            except (ChangeError, StructureError) as error:
                refused.append(f"{growth[0].name}: {error}")
                return False

        # Each turn leaves out one proposal at least, so that this ends.
        while True:
            # the others were made for a network that does not exist any more after the first change
            growths = [*proposals[:1]]
            if per == "site":
                growths, unfit = _first_of_each_site(network.structure, gone, proposals, seed)
                refused += unfit
            if not growths and (needed or not (gone or reset)):
                return None, refused
            # whoever decided: the pruner if anything is removed, and the morphisms
            names = [*([by] if gone or not growths else []), *(short_name(morphism) for morphism, _ in growths)]
            decided = ", ".join(dict.fromkeys(names))
            try:
                return self.change(state, gone, growths, seed=seed, reset=reset, by=decided, **fields), refused
            except ClaimError:
                raise  # a fault of the morphism, and not a growth that is impossible
            except (ChangeError, StructureError):
                # For example, not every relaxation has the mixing weights that a growth would need. Only now is each one tried
                # alone, as a change on every edge has many.
                impossible = [growth for growth in growths if not possible(growth)]
                # Each can be made alone, and they do not fit together: which one to leave out would be arbitrary.
                if not impossible:
                    raise
                proposals = [p for p in proposals if not any(p is growth for growth in impossible)]

    def fold(self, state: State, *, why: str, seed: Seed) -> Changed:
        """Fold gates into the operations behind them, and return the record."""
        change = apply(state.network, fold_gates(state.network.structure), seed)
        # from the networks, because a backbone may have gates that belong to no node
        gated, kept = ({gate.address: None for _, gate in each.gates()} for each in (state.network, change.child))
        request = {"folded": sorted({*gated} - {*kept}), "kept": [*kept]}
        return self._put(state, change, {}, change="fold", by="fold", why=why, seed=seed.key, request=request)

    def _gain(self, state: State, parent: Network, made: Change, seed: Seed) -> dict[str, float]:
        """Return the predicted and the realised gain of a growth, on the batch of `nasframe.search.gain.gains`.

        Args:
            state: the state of the run.
            parent: the network that is compared with the child.
            made: the growth.
            seed: the seed of the change.
        """
        if not state.batch:  # a plan may begin with a growth, before a rule has decided the batch size
            return {}
        trainer = self.trainer
        # the keys of `Context.batch` and `Context.training_loss`: this is the batch by which `gains` compared proposals
        batch, noise = keyed_batch(trainer.data.train, seed("batch", "train"), 0, state.batch), seed("noise", "train", 0)

        def loss(network: Network) -> Tensor:
            return trainer.loss(batch, noise, network, network.mixing())

        rate = trainer.optimiser.learning_rate
        # Copies, because the step moves the weights. In evaluation mode, as parent and child would draw different dropout.
        before, after = (Descent.of(copy.deepcopy(each).eval(), loss, rate) for each in (parent, made.child))
        pairs = (before.loss, before.squares), (after.loss, after.squares)
        return {"predicted": gain_of(*pairs, rate, made.claim.kind == "exact"), "realised": before.after - after.after}

    def _put(self, state: State, made: Change, evidence: Mapping[str, Tensor], **fields: Any) -> Changed:
        """Measure a change, put its child in its parent's place and return the record; a refused change leaves the state as it was.

        Args:
            state: the state of the run.
            made: the change.
            evidence: the tensors that it was decided by, by name.
            fields: further fields of the record.
        """
        parent, child = state.network, made.child
        data = self.trainer.data
        probed = data.validation if data.validation.size else data.train
        # The same examples for all changes of a run, so that their distances compare.
        inputs, _ = probed.batch(torch.arange(min(PROBE, probed.size)))

        def outputs(network: Network) -> Tensor:
            return forward_of(network)(inputs, mixing_weights(network))  # type: ignore[return-value]

        # It may refuse the change, so that it comes before anything is written.
        moved = distance(outputs, parent, child, made.claim)
        # the first write to the state; it refuses optimisers whose moments cannot follow the change
        succeed(state, self.trainer, child, made.map)
        # before the record, whose position is that of the stage that begins
        state.stage += fields["change"] == "grow"
        record = Changed(
            **state.position,
            claim=made.claim.to_dict(),
            distance=moved,
            evidence={name: digest(value) for name, value in evidence.items()},
            added=_difference(child.structure, parent.structure, mixing_weights(child)),
            removed=_difference(parent.structure, child.structure),
            parent=parent.structure.digest(),
            child=child.structure.digest(),
            **sizes(child),
            counts=child.count(),
            **fields,
        )
        # copies: the evidence may share memory with the parent
        state.evidence |= {f"{len(state.lineage)}/{name}": value.detach().clone() for name, value in evidence.items()}
        state.keep(record)
        return record

    def restore(self, state: State, shot: Snapshot, *, kind: str, why: str) -> Changed:
        """Put a snapshot's network, with fresh optimisers, in the present one's place and return the record."""
        parent, other = state.network.structure, kind in ("hand over", "trial", "move")
        state.network = rebuilt(self.strategy, shot)
        # the moments of the present network belong to other weights
        state.optimisers = self.trainer.optimisers(state.network)
        record = Changed(
            **state.position,
            change=kind,
            by=kind,
            why=why,
            # the network of a hand-over may be a random architecture, which no earlier record describes
            request={"structure": shot.structure.to_dict()} if other else {},
            # the ids of a random architecture have nothing to do with those of the search
            added={} if other else _difference(shot.structure, parent),
            removed={} if other else _difference(parent, shot.structure),
            parent=parent.digest(),
            child=shot.structure.digest(),
            **sizes(state.network),
            counts=state.network.count(),
        )
        state.keep(record)
        return record

    def loss(self, network: Network) -> float | None:
        """Return the validation loss of a network; None if it is not finite or there is no validation split."""
        if not self.trainer.data.validation.size:
            return None
        # `measure` leaves the network in evaluation mode
        training = network.training
        try:
            return self.trainer.measure(network)[0]
        finally:
            network.train(training)

    def _alternatives(
        self,
        network: Network,
        gone: Mapping[Address, AbstractSet[int]],
        scores: Mapping[str, Tensor] | None,
        seed: Seed,
        measure: bool,
        fold: bool,
    ) -> tuple[Alternative, ...]:
        """Return the close decisions of a removal, the closest first; where it did harm, the others as well, with their losses."""
        # First the sites at which one candidate is kept, each with the one that might have been kept; then their losses.
        mixing, decisions = mixing_weights(network), []
        scores = mixing if scores is None else scores
        for address, site in network.structure.sites():
            kept = [c for c in site.candidates if c.id not in gone.get(address, ())]
            if address not in mixing or address not in scores or len(kept) != 1:
                continue
            weights = mixing[address]
            weight, score = (
                dict(zip((c.id for c in site.candidates), t.tolist(), strict=True)) for t in (weights, scores[address])
            )
            # zero is never kept in the place of an operation, however large its mixing weight
            rivals = [c for c in site.candidates if c.id != kept[0].id and not c.operation.zero]
            # The candidate that would have been kept if the pruner had decided otherwise at this site.
            rival = max(rivals, key=lambda c: score[c.id], default=kept[0])
            margin = weight[kept[0].id] - weight[rival.id]
            # whether other scores, such as losses, differ little is not known: they have another scale
            close = torch.equal(scores[address].to(weights), weights) and abs(margin) < MARGIN
            if rivals and (close or measure):
                decisions.append((not close, abs(margin), address, kept[0], rival, margin))
        found = []
        # Close decisions first, the closest before the others. The address decides between equals, as candidates have no order.
        for place, (clear, _, address, one, other, margin) in enumerate(sorted(decisions, key=lambda d: d[:3])):
            if clear and place >= MEASURED:
                break
            valid = None
            if measure and place < MEASURED:
                # the same removal, with the two candidates exchanged at this site only
                swapped = {**gone, address: (gone[address] | {one.id}) - {other.id}}
                try:
                    edit = remove_candidates(network.structure, swapped, fold=fold)
                    valid = self.loss(apply(network, edit, seed).child)
                except ChangeError:  # the alternative leaves a node without an operation
                    valid = None
            if clear and valid is None:
                continue
            found.append(Alternative(address, _named(one), _named(other), margin, valid))
        return tuple(found)


def edited(
    structure: Structure,
    gone: Mapping[Address, AbstractSet[int]],
    growths: Sequence[tuple[Morphism, Proposal]],
    seed: Seed,
    *,
    reset_alphas: bool = False,
) -> Edit:
    """Return the edit of `Changer.change`: a removal and the growths of what it leaves.

    Raises:
        ChangeError: if a proposal does not fit.
    """
    # where nothing is removed, an edit without effect: a change that only resets consists of it alone
    edits = [remove_candidates(structure, gone) if gone else Edit(structure, lambda parent, child: Filling(Claim.exact()))]
    for number, (morphism, proposal) in enumerate(growths):
        # a seed for each, so that equal growths of several sites draw different numbers
        edits.append(morphism.edit(edits[-1].structure, proposal.request, proposal.evidence, seed("edit", number)))
    return combine(edits, reset_alphas=reset_alphas)


def _first_of_each_site(
    structure: Structure,
    gone: Mapping[Address, AbstractSet[int]],
    proposals: Sequence[tuple[Morphism, Proposal]],
    seed: Seed,
) -> tuple[list[tuple[Morphism, Proposal]], list[str]]:
    """Return the proposals that change no site which an earlier one changes, and the reasons why others do not fit."""
    left, unfit = remove_from(structure, gone) if gone else structure, list[str]()
    chosen, before, taken = list[tuple[Morphism, Proposal]](), dict(left.sites()), set[Address]()
    for growth in proposals:
        morphism, proposal = growth
        try:
            # with the number, and so the random draws, that it will have in `edited`
            edit = morphism.edit(left, proposal.request, proposal.evidence, seed("edit", len(chosen)))
        except (ChangeError, StructureError) as error:
            unfit.append(f"{morphism.name}: {error}")
            continue
        after = dict(edit.structure.sites())
        # New sites count, too: two growths of one cell would give them the same address.
        touched = {a for a in before.keys() | after.keys() if before.get(a) != after.get(a)}
        if taken.isdisjoint(touched):
            taken |= touched
            chosen.append(growth)
    return chosen, unfit


def harmful(before: float | None, after: float | None) -> bool:
    """Return whether a removal multiplied the validation loss by more than `HARM`."""
    return before is not None and (after is None or after > HARM * before)


def digest(tensor: Tensor) -> str:
    """Return the digest of a tensor's dtype, shape and values."""
    # The bytes of a tensor without axes cannot be viewed; its value as text is as exact.
    data = tensor.detach().cpu().contiguous()
    head = f"{data.dtype} {tuple(data.shape)} ".encode()
    return hashlib.sha256(
        head + data.view(torch.uint8).numpy().tobytes() if data.dim() else head + repr(data.item()).encode()
    ).hexdigest()[:16]


def sizes(network: Network) -> dict[str, Any]:
    """Return the number of nodes by cell type, and the number of parameters of the network."""
    nodes = {type: len(cell.nodes) for type, cell in network.structure.cells}
    return {"nodes": nodes, "parameters": sum(p.numel() for p in network.parameters())}


def _named(candidate: Candidate) -> str:
    return f"{candidate.id} {short_name(candidate.operation)}"


def _difference(
    one: Structure, other: Structure, mixing: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the candidates that `one` has and `other` lacks, by address and id, with their mixing weights."""
    # ids are never used twice in a run, so that they alone say what is new
    present = {c.id for _, s in other.sites() for c in s.candidates}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for address, site in one.sites():
        for place, candidate in enumerate(site.candidates):
            if candidate.id not in present:
                entry: dict[str, Any] = {"operation": to_plain(candidate.operation)}
                if mixing and address in mixing:
                    entry["mixing"] = float(mixing[address][place])
                found.setdefault(address, {})[str(candidate.id)] = entry
    return found
