"""Morphisms with one fault each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from mutants.system import core_mutant, mutant, overriding
from nasframe import Address, Candidate, Claim, Context, Edit, Filling, Network, Proposal, Seed, Set, Structure, Take, build
from nasframe.change import map as maps, optimisers
from nasframe.change.map import FRESH, ZERO
from nasframe.network.mixing import Gate
from nasframe.network.network import tensors
from nasframe.testing.subject import Subject

NODE, CONVOLUTION, WIDTH = ("morphism", "node"), ("morphism", "convolution"), ("morphism", "width")


def only(of: Subject, backbones: str = "", **options: Any) -> Subject:
    """Return the morphism with these options, tried in backbones whose names have these endings."""
    habitats = tuple(h for h in of.habitats if h.backbone.name.endswith(backbones))
    return attrs.evolve(of, parts=st.just(of.cls(**options)), habitats=habitats)


def editing(of: Subject, change: Callable[[Edit, Structure], Edit]) -> Subject:
    """The morphism whose edits are `change(the edit, the structure before it)`."""
    honest: Any = of.cls
    return overriding(of, edit=lambda self, structure, *args: change(honest.edit(self, structure, *args), structure))


def filling_by(of: Subject, change: Callable[[Filling, Network, Network], Filling]) -> Subject:
    """The morphism that fills with `change(the filling, the parent, the child)`."""

    def edit(edit: Edit, structure: Structure) -> Edit:
        return attrs.evolve(edit, fill=lambda parent, child: change(edit.fill(parent, child), parent, child))

    return editing(of, edit)


def _taken(filling: Filling) -> dict[str, Take]:
    return {name: entry for name, entry in filling.overrides.items() if isinstance(entry, Take)}


def proposing(of: Subject, change: Callable[[Proposal], Proposal]) -> Subject:
    """Return the morphism that proposes something else."""
    honest: Any = of.cls
    return overriding(of, propose=lambda self, *given: [change(p) for p in honest.propose(self, *given)])


@mutant("morphism.proposals", *NODE)
def infinite(of: Subject) -> Subject:
    """It expects an infinite gain of each proposal."""
    return proposing(of, lambda p: attrs.evolve(p, gain=float("inf")))


@mutant("morphism.proposals", *NODE)
def packed(of: Subject) -> Subject:
    """It proposes with a tuple in its request."""
    return proposing(of, lambda p: attrs.evolve(p, request={**p.request, "sizes": (1, 2)}))


@mutant("morphism.proposals", *CONVOLUTION)
def unchecked(of: Subject) -> Subject:
    """It makes one more proposal, which it then refuses."""
    honest: Any = of.cls
    return overriding(
        of, propose=lambda self, *given: [*honest.propose(self, *given), Proposal({"site": "normal/i9", "kind": "pad"})]
    )


@mutant("morphism.admits", *NODE)
def modest(of: Subject) -> Subject:
    """It admits no structure, although it proposes changes of some."""
    return overriding(of, admits=lambda self, structure: False)


@mutant("morphism.measured", *NODE)
def noting(of: Subject) -> Subject:
    """It leaves gradients behind in the network of the search as it proposes."""
    honest: Any = of.cls

    def propose(self: Any, context: Context, structure: Structure) -> Any:
        for parameter in context._training.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return honest.propose(self, context, structure)

    return overriding(of, propose=propose)


@mutant("morphism.measured", *NODE)
def tested(of: Subject) -> Subject:
    """It looks at the test split as it proposes."""
    honest: Any = of.cls

    def propose(self: Any, context: Context, structure: Structure) -> Any:
        context._trainer.data.test.batch(torch.arange(1))
        return honest.propose(self, context, structure)

    return overriding(of, propose=propose)


@mutant("morphism.cost", *NODE)
def forgetful(of: Subject) -> Subject:
    """Its cost leaves out one parameter."""
    return proposing(of, lambda p: attrs.evolve(p, cost=p.cost - 1))


@mutant("morphism.changes", *CONVOLUTION)
def clipped(of: Subject) -> Subject:
    """It makes of a convolution what it was."""
    honest: Any = of.cls

    def new(self: Any, site: Any, candidate: Any, kind: str) -> Any:
        return attrs.evolve(honest._new(self, site, candidate, kind), operation=candidate.operation)

    return overriding(of, _new=new)


@mutant("morphism.transaction", *NODE)
def evaluating(of: Subject) -> Subject:
    """It leaves the parent in evaluation mode."""
    return filling_by(of, lambda filling, parent, child: (parent.eval(), filling)[1])


@mutant("morphism.transaction", *NODE)
def scaling(of: Subject) -> Subject:
    """It multiplies a weight of the parent by almost one."""
    return filling_by(of, lambda filling, parent, child: (next(parent.body.parameters()).data.mul_(1 + 1e-15), filling)[1])


@mutant("morphism.transaction", *NODE)
def sharing(of: Subject) -> Subject:
    """The child has a tensor of its parent."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        old = dict(parent.named_parameters())
        name, parameter = next((n, p) for n, p in child.named_parameters() if n in old and old[n].shape == p.shape)
        parameter.data = old[name].data
        return filling

    return filling_by(of, change)


@core_mutant("morphism.transaction", *NODE)
def sharing_moments(patch: pytest.MonkeyPatch) -> None:
    """The optimisers of parent and child share their moments."""

    def carry(old: Any, old_named: Any, new: Any, new_named: Any, full: Any) -> None:
        optimisers.carry(old, old_named, new, new_named, full)
        before = optimisers.named_state(old, old_named)
        for name, parameter in new_named:
            if parameter in new.state and name in before:
                new.state[parameter] = before[name]

    patch.setattr("nasframe.search.state.carry", carry)


@mutant("morphism.blind", *NODE)
def running(of: Subject) -> Subject:
    """Its filling calls a module instead of reading tensors alone."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        nn.Identity()(next(parent.parameters()))
        return filling

    return filling_by(of, change)


@mutant("morphism.blind", *NODE)
def building(of: Subject) -> Subject:
    """It builds the network of the structure that it edits."""
    return editing(of, lambda edit, structure: (Network(structure), edit)[1])


@mutant("morphism.refuses", *NODE)
def indexing(of: Subject) -> Subject:
    """It looks up its request with [], which raises a KeyError."""
    honest: Any = of.cls
    return overriding(
        of,
        edit=lambda self, structure, request, *args: honest.edit(self, structure, request | {"cell": request["cell"]}, *args),
    )


@mutant("morphism.refuses", *CONVOLUTION)
def obliging(of: Subject) -> Subject:
    """It takes the first kind if the requested one is unknown."""
    honest: Any = of.cls

    def edit(self: Any, structure: Structure, request: Any, *args: Any) -> Edit:
        known = {"kind": self.kinds[0]} if request.get("kind") not in self.kinds else {}
        return honest.edit(self, structure, request | known, *args)

    return overriding(of, edit=edit)


@mutant("morphism.replay", *CONVOLUTION)
def particular(of: Subject) -> Subject:
    """It skips an id if the site is a plain string, as in JSON, and not the address that it proposed."""
    honest: Any = of.cls

    def edit(self: Any, structure: Structure, request: Any, *args: Any) -> Edit:
        made: Edit = honest.edit(self, structure, request, *args)
        skipped = int(not isinstance(request["site"], Address))
        return attrs.evolve(made, structure=attrs.evolve(made.structure, next_id=made.structure.next_id + skipped))

    return overriding(of, edit=edit)


@mutant("morphism.together", *CONVOLUTION)
def thorough(of: Subject) -> Subject:
    """It repeats the entries of the map for all tensors that it does not change."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        return attrs.evolve(filling, overrides={**maps.derive_map(parent, child), **filling.overrides})

    return filling_by(of, change)


@mutant("morphism.structure", *CONVOLUTION)
def homemade(of: Subject) -> Subject:
    """It inserts an operation that is not registered."""

    def change(edit: Edit, before: Structure) -> Edit:
        structure = edit.structure
        for address, site in structure.sites():
            candidates = tuple(c if c.id < before.next_id else homemade_(c) for c in site.candidates)
            structure = structure.replace_site(address, attrs.evolve(site, candidates=candidates))
        return attrs.evolve(edit, structure=structure)

    return editing(of, change)


def homemade_(candidate: Candidate) -> Candidate:
    """Return the candidate with an operation of a new class that is not registered."""
    operation: Any = candidate.operation
    fields = {f.name: getattr(operation, f.name) for f in attrs.fields(type(operation))}
    return attrs.evolve(candidate, operation=_class(type(operation))(**fields))  # type: ignore[arg-type]


@functools.cache
def _class(operation: type) -> type:
    return type(operation.__name__, (operation,), {"name": "homemade"})


@mutant("morphism.structure", *CONVOLUTION)
def reusing(of: Subject) -> Subject:
    """The new candidate gets the id of the old one."""
    honest: Any = of.cls

    def edit(self: Any, structure: Structure, request: Any, *args: Any) -> Edit:
        made = honest.edit(self, structure, request, *args).structure
        address, old = Address(request["site"]), request["candidate"]
        site = made.cell(address.cell).site(address.id)
        candidates = tuple(attrs.evolve(c, id=old) if c.id == structure.next_id else c for c in site.candidates)
        reused = made.replace_site(address, attrs.evolve(site, candidates=candidates))
        return Edit(reused, lambda parent, child: Filling(Claim.lossy()))

    return overriding(only(of, kinds=("dilate",)), edit=edit)


@mutant("morphism.claim", *NODE)
def unclaimed(of: Subject) -> Subject:
    """It fills the child without a claim."""
    nothing: Any = None
    return filling_by(of, lambda filling, *_: attrs.evolve(filling, claim=nothing))


@mutant("morphism.claim", *NODE)
def vague(of: Subject) -> Subject:
    """It claims to be nearly exact."""
    return filling_by(of, lambda filling, *_: attrs.evolve(filling, claim=Claim("nearly")))


@mutant("morphism.claim", *WIDTH)
def undeclared(of: Subject) -> Subject:
    """It claims to be lossy, and declares that it is always exact."""
    return filling_by(only(of, "two_to_one"), lambda filling, *_: attrs.evolve(filling, claim=Claim.lossy()))


@mutant("morphism.exact", *CONVOLUTION)
def without_statistics(of: Subject) -> Subject:
    """It leaves the running statistics of BatchNorms at their defaults."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        buffers = dict(child.named_buffers())
        return attrs.evolve(filling, overrides={n: e for n, e in filling.overrides.items() if n not in buffers})

    return filling_by(only(of, kinds=("pad",)), change)


@mutant("morphism.exact", *NODE)
def ajar(of: Subject) -> Subject:
    """Its gates start at 1e-9, and not at zero."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        old = dict(parent.named_parameters())
        for name in {f"{name}.g" for name, _ in child.gates()} - old.keys():
            child.get_parameter(name).data.fill_(1e-9)
        return filling

    return filling_by(only(of, form="gate"), change)


@mutant("morphism.exact", *CONVOLUTION)
def shifted_alphas(of: Subject) -> Subject:
    """It adds one to the alphas of the site, which a softmax ignores, and other mixing weights do not."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        alphas = {n: e for n, e in filling.overrides.items() if n.startswith("alphas.") and isinstance(e, Take)}
        shifted = {n: attrs.evolve(e, offset=torch.ones_like(tensors(child)[n])) for n, e in alphas.items()}
        return attrs.evolve(filling, overrides={**filling.overrides, **shifted})

    return filling_by(only(of, kinds=("pad",)), change)


@core_mutant("morphism.exact", *CONVOLUTION)
def without_buffers(patch: pytest.MonkeyPatch) -> None:
    """A change does not carry the buffers of the parent."""
    honest = maps.derive_map
    patch.setattr(
        "nasframe.change.apply.derive_map",
        lambda parent, child, given: {
            n: e for n, e in honest(parent, child, given).items() if n in dict(child.named_parameters())
        },
    )


@mutant("morphism.exact", *WIDTH)
def outgoing_at_random(of: Subject) -> Subject:
    """The outgoing weights of new units are random."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        index = {n: tuple(i if i is None else i.clamp(min=FRESH) for i in e.index) for n, e in _taken(filling).items()}
        return attrs.evolve(filling, overrides={n: attrs.evolve(e, index=index[n]) for n, e in _taken(filling).items()})

    return filling_by(only(of, "two_to_one"), change)


@mutant("morphism.bound", *NODE)
def boastful(of: Subject) -> Subject:
    """It claims a tenth of its bound."""
    return bounding(of, 0.1)


@mutant("morphism.bound", *NODE)
def vacuous(of: Subject) -> Subject:
    """It claims ten thousand times its bound."""
    return bounding(of, 1e4)


def bounding(of: Subject, factor: float) -> Subject:
    """Noise with so many times its bound."""

    def change(filling: Filling, *_: Network) -> Filling:
        bounds = {node: bound * factor for node, bound in filling.claim.bounds.items()}
        return attrs.evolve(filling, claim=Claim.approximate(bounds))

    return filling_by(only(of, "one"), change)


@mutant("morphism.alive", *CONVOLUTION)
def dead(of: Subject) -> Subject:
    """Its new units start at zero on both sides."""

    def change(filling: Filling, *_: Network) -> Filling:
        overrides = {n: e if isinstance(e, Set) else attrs.evolve(e, index=zeros(e)) for n, e in filling.overrides.items()}
        return attrs.evolve(filling, overrides=overrides)

    return filling_by(only(of, kinds=("widen",), depth=2), change)


def zeros(entry: Take) -> tuple[torch.Tensor | None, ...]:
    """An index that takes zero wherever it takes no source entry."""
    return tuple(i if i is None else torch.where(i < 0, ZERO, i) for i in entry.index)


@mutant("morphism.alive", *NODE)
def starved(of: Subject) -> Subject:
    """It states mixing weights so small that alphas and weights of all candidates but one never train."""

    def change(filling: Filling, *_: Network) -> Filling:
        def starve(weights: torch.Tensor) -> torch.Tensor:
            least = torch.full_like(weights, 1e-320)
            least[weights.argmax()] = 1.0
            return least

        return attrs.evolve(filling, mixing={a: starve(w) for a, w in filling.mixing.items()}, claim=Claim.lossy())

    return filling_by(only(of, "one", form="noise"), change)


@core_mutant("morphism.alive", *NODE)
def stuck(patch: pytest.MonkeyPatch) -> None:
    """The number g of a gate is detached, so that it gets no gradient."""
    patch.setattr(Gate, "forward", lambda self, inherited, computed: inherited + self.g.detach() * (computed - inherited))


@mutant("morphism.twins", *CONVOLUTION)
def alike(of: Subject) -> Subject:
    """Its new units all start at one constant."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        old = tensors(parent)
        for name, parameter in child.named_parameters():
            if name not in old:
                nn.init.constant_(parameter, 0.1)
        return filling

    return filling_by(only(of, kinds=("widen",), depth=2), change)


@mutant("morphism.gradient", *CONVOLUTION)
def halved(of: Subject) -> Subject:
    """Its map says that the gradient is halved, which it is not."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        old, entries = tensors(parent), filling.overrides
        taken = {n: attrs.evolve(e, gradient=0.5) for n, e in entries.items() if isinstance(e, Take) and n not in old}
        return attrs.evolve(filling, overrides={**entries, **taken})

    return filling_by(of, change)


@mutant("morphism.gradient", *WIDTH)
def undivided(of: Subject) -> Subject:
    """Its map says that copies of a unit have the gradient of the unit, and not their share of it."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        return attrs.evolve(filling, overrides={n: attrs.evolve(e, gradient=1.0) for n, e in _taken(filling).items()})

    return filling_by(only(of, "two_to_one", form="replicate", skew=0.2), change)


@mutant("morphism.seed", *CONVOLUTION)
def unseeded(of: Subject) -> Subject:
    """It initialises new parameters from a seed of its own."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        other, old = tensors(build(child.structure, Seed((0, "own")), like=parent)), tensors(parent)
        for name, parameter in child.named_parameters():
            if name not in old:
                parameter.copy_(other[name])
        return filling

    return filling_by(only(of, kinds=("widen",)), change)


@mutant("morphism.independent", *NODE)
def one_noise(of: Subject) -> Subject:
    """It draws the same noise for each new site."""
    honest: Any = of.cls

    def again(self: Any, birth: Any, generator: torch.Generator) -> torch.Tensor:
        return honest._draw_mixing(self, birth, torch.Generator().manual_seed(generator.initial_seed()))

    return overriding(only(of, "recurrent", form="noise"), _draw_mixing=again)


@mutant("morphism.moments", *NODE)
def forgotten(of: Subject) -> Subject:
    """It sets what was there to what it was."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        new = tensors(child)
        kept = {n: t.detach().clone() for n, t in tensors(parent).items() if n in new and new[n].shape == t.shape}
        return attrs.evolve(filling, overrides={n: Set(t) for n, t in kept.items()})

    return filling_by(of, change)


@mutant("morphism.moments", *CONVOLUTION)
def copied(of: Subject) -> Subject:
    """It sets the new candidate to the old one's numbers."""
    return setting(of, lambda entry: True)


@mutant("morphism.moments", *CONVOLUTION)
def padded(of: Subject) -> Subject:
    """It sets the kernels that it pads to what they were, with zeros around."""
    return setting(of, lambda entry: any(index is not None for index in entry.index))


def setting(of: Subject, which: Callable[[Take], bool]) -> Subject:
    """The morphism that pads, and sets what it should take."""

    def change(filling: Filling, parent: Network, child: Network) -> Filling:
        old, entries = tensors(parent), filling.overrides
        own = tensors(child)
        taken = {n: e for n, e in entries.items() if isinstance(e, Take) and n not in old and which(e)}
        made = {n: Set(e(old[e.source], own[n]).detach().clone()) for n, e in taken.items()}
        return attrs.evolve(filling, overrides={**entries, **made})

    return filling_by(only(of, kinds=("pad",)), change)


@core_mutant("morphism.moments", *NODE)
def dropped(patch: pytest.MonkeyPatch) -> None:
    """The optimisers of a child start without state."""
    patch.setattr("nasframe.search.state.carry", lambda *_: None)


@core_mutant("morphism.moments", *WIDTH)
def continued(patch: pytest.MonkeyPatch) -> None:
    """New entries start with the step count of the old ones and the mean of their second moments."""
    patch.setattr("nasframe.change.optimisers.CORRECTED", ())


@core_mutant("morphism.moments", *WIDTH)
def recounted(patch: pytest.MonkeyPatch) -> None:
    """The moments of a tensor with new entries are scaled for a lower step count, which is not lowered."""

    def carry(old: Any, old_named: Any, new: Any, new_named: Any, full: Any) -> None:
        optimisers.carry(old, old_named, new, new_named, full)
        before = optimisers.named_state(old, old_named)
        for name, parameter in new_named:
            if parameter in new.state and name in before:
                new.state[parameter]["step"] = before[name]["step"].clone()

    patch.setattr("nasframe.search.state.carry", carry)


@core_mutant("morphism.moments", *NODE)
def neighbours(patch: pytest.MonkeyPatch) -> None:
    """The optimiser has the moments of the next tensor of the same shape."""

    def carry(old: Any, old_named: Any, new: Any, new_named: Any, full: Any) -> None:
        optimisers.carry(old, old_named, new, new_named, full)
        for shape in {p.shape for p in new.state}:
            alike = [p for p in new.state if p.shape == shape]
            states = [new.state[p] for p in alike]
            for parameter, state in zip(alike, [*states[1:], states[0]], strict=True):
                new.state[parameter] = state

    patch.setattr("nasframe.search.state.carry", carry)
