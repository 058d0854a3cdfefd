"""Backbones with one fault each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from mutants.system import core_mutant, mutant, overriding
from nasframe import Space, Structure
from nasframe.change import map as maps
from nasframe.network.observing import Call, Calls
from nasframe.network.outputs import Outputs
from nasframe.structure.editing import GrownStructure
from nasframe.testing.subject import Subject

CHAIN = ("backbone", "two_to_one")
EDGES = ("backbone", "darts_recurrent")

#: what runs a body, called with (body, inputs, weights)
Run = Callable[[nn.Module, Tensor, Mapping[str, Tensor]], Any]


def running(of: Subject, change: Callable[[Run, nn.Module, Tensor, Mapping[str, Tensor]], Outputs]) -> Subject:
    """Return the backbone whose `run` is change(run, body, inputs, weights)."""
    honest: Any = of.cls
    return overriding(of, run=lambda self, *given: change(lambda *changed: honest.run(self, *changed), *given))


def building(of: Subject, change: Callable[[nn.Module, Structure], None]) -> Subject:
    """Return the backbone whose bodies are changed once they are built."""
    honest: Any = of.cls

    def body(self: Any, structure: Structure) -> nn.Module:
        made: nn.Module = honest.body(self, structure)
        change(made, structure)
        return made

    return overriding(of, body=body)


def giving(of: Subject, change: Callable[[Tensor, nn.Module, Structure], Tensor]) -> Subject:
    """Return the recurrent backbone whose heads return change(outputs, head, structure)."""

    def hook(body: nn.Module, structure: Structure) -> None:
        body.get_submodule("head").register_forward_hook(lambda head, _, outputs: change(outputs, head, structure))

    return building(of, hook)


def growing(of: Subject, change: Callable[[GrownStructure, Structure, str], GrownStructure]) -> Subject:
    """Return the backbone that grows another structure."""
    honest: Any = of.cls
    return overriding(of, grown=lambda self, structure, cell: change(honest.grown(self, structure, cell), structure, cell))


@mutant("backbone.initial", *EDGES)
def one_too_many(of: Subject) -> Subject:
    """The last cell type starts with one node more than requested."""
    honest: Any = of.cls

    def initial(self: Any, sizes: Mapping[str, int], nodes: int) -> Structure:
        structure: Structure = honest.initial(self, sizes, nodes)
        return self.grown(structure, structure.cells[-1][0]).structure

    return overriding(of, initial=initial)


@mutant("backbone.deepened", *CHAIN)
def open_at_once(of: Subject) -> Subject:
    """The last node of a new layer has no gate."""
    honest: Any = of.cls

    def deepened(self: Any, structure: Structure) -> Sequence[Structure]:
        (child,) = honest.deepened(self, structure)
        type, cell = child.cells[-1]
        nodes = (*cell.nodes[:-1], attrs.evolve(cell.nodes[-1], inherits=()))
        return (child.replace_cell(type, attrs.evolve(cell, nodes=nodes)),)

    return overriding(of, deepened=deepened)


@mutant("backbone.sizes", *CHAIN)
def made_up(of: Subject) -> Subject:
    """A size that the task does not give is taken to be one."""
    return overriding(of, require_sizes=lambda self, sizes, *names: tuple((name, sizes.get(name, 1)) for name in names))


@mutant("backbone.modules", *CHAIN)
def named_twice(of: Subject) -> Subject:
    """The first cell is an attribute beside the list that contains it."""
    return building(of, lambda body, structure: setattr(body, "first", body.get_submodule("layers.0")))


@mutant("backbone.gradient", *EDGES)
def unused(of: Subject) -> Subject:
    """A bias is never added to anything."""
    return building(of, lambda body, structure: body.register_parameter("bias", nn.Parameter(torch.zeros(2))))


@mutant("backbone.gradient", *CHAIN)
def detached(of: Subject) -> Subject:
    """The weights of the candidates are detached, so that no alpha learns."""
    return running(of, lambda run, body, inputs, weights: run(body, inputs, {a: w.detach() for a, w in weights.items()}))


@mutant("backbone.batch", *CHAIN)
def centred(of: Subject) -> Subject:
    """In evaluation mode the mean over the examples is subtracted from the output."""
    return giving(of, lambda outputs, head, _: outputs if head.training else outputs - 0.01 * outputs.mean(1, keepdim=True))


@mutant("backbone.batch", *EDGES)
def squeezed(of: Subject) -> Subject:
    """Where there is one example, its axis is dropped."""
    return running(of, lambda run, body, inputs, weights: run(body, inputs, weights).squeeze(1))


@mutant("backbone.layout", *CHAIN)
def by_storage(of: Subject) -> Subject:
    """The inputs are read in the order of their memory."""

    def read(run: Run, body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Outputs:
        plain = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        return run(body, inputs.as_strided(inputs.shape, plain.stride()), weights)

    return running(of, read)


@mutant("backbone.dtype", *EDGES)
def doubled(of: Subject) -> Subject:
    """It computes in float64, whatever dtype it is moved to."""
    return running(of, lambda run, body, inputs, weights: run(body, inputs, weights).double())


@mutant("backbone.dtype", *CHAIN)
def of_the_processor(of: Subject) -> Subject:
    """A tensor is made on the CPU, wherever the network is."""
    return giving(of, lambda outputs, head, _: outputs + torch.zeros(outputs.shape[-1], dtype=outputs.dtype))


@mutant("backbone.pure", *CHAIN)
def in_place(of: Subject) -> Subject:
    """The inputs are scaled in place."""

    def scaled(run: Run, body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Outputs:
        out = run(body, inputs, weights)
        inputs.data.mul_(1 + 1e-15)  # by a way past autograd
        return out

    return running(of, scaled)


@mutant("backbone.pure", *EDGES)
def kept(of: Subject) -> Subject:
    """The last output that was computed without a gradient is returned again for the same inputs."""

    def cached(run: Run, body: Any, inputs: Tensor, weights: Mapping[str, Tensor]) -> Outputs:
        if torch.is_grad_enabled():
            return run(body, inputs, weights)
        if getattr(body, "kept", (None,))[0] is not inputs:
            body.kept = inputs, run(body, inputs, weights)
        return body.kept[1]

    return running(of, cached)


@mutant("backbone.fast", *EDGES)
def rounded(of: Subject) -> Subject:
    """The fast form computes a part in float32."""
    return running(of, lambda run, body, inputs, weights: run(body, inputs.float().to(inputs.dtype), weights))


class Once(torch.autograd.Function):
    """The identity, the gradient of which has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope.detach()


@mutant("backbone.fast", *CHAIN)
def once(of: Subject) -> Subject:
    """The fast form has a hand-written backward pass, which cannot be differentiated."""
    return running(of, lambda run, body, inputs, weights: Once.apply(run(body, inputs, weights)))


@mutant("backbone.fast", *EDGES)
def late(of: Subject) -> Subject:
    """The inputs that the fast form observes are those of another sample."""
    honest: Any = of.cls

    def observed(self: Any, *given: Any) -> tuple[Outputs, Calls]:
        outputs, calls = honest.observed(self, *given)
        late = {m: [Call(tuple(x.roll(1, 0) for x in c.inputs), c.output) for c in made] for m, made in calls.items()}
        return outputs, late

    return overriding(of, observed=observed)


@mutant("backbone.masked", *EDGES)
def otherwise(of: Subject) -> Subject:
    """An architecture returns more than the supernet in which it was found."""
    return giving(of, lambda outputs, head, structure: 1.1 * outputs if structure.decided else outputs)


@core_mutant("backbone.masked", *CHAIN)
def alphas_by_position(patch: pytest.MonkeyPatch) -> None:
    """The alphas that remain after a removal are the first ones of the site."""
    honest = maps._index

    def index(before: Any, after: Any, name: str, device: Any) -> Tensor | None:
        found = honest(before, after, name, device)
        return torch.arange(len(after.units)) if name.startswith("alphas.") and found is not None else found

    patch.setattr(maps, "_index", index)


@mutant("backbone.grown", *EDGES)
def in_order(of: Subject) -> Subject:
    """The sites of a grown cell are sorted by their names."""

    def change(grown: GrownStructure, structure: Structure, type: str) -> GrownStructure:
        cell = grown.structure.cell(type)
        turned = attrs.evolve(cell, sites=tuple(sorted(cell.sites, key=lambda s: s.inputs, reverse=True)))
        return attrs.evolve(grown, structure=grown.structure.replace_cell(type, turned))

    return growing(of, change)


@mutant("backbone.birth", *EDGES)
def half_born(of: Subject) -> Subject:
    """A new node starts with half of the output that it should have."""

    def change(grown: GrownStructure, structure: Structure, type: str) -> GrownStructure:
        return attrs.evolve(grown, mixing={a: {id: w / 2 for id, w in ws.items()} for a, ws in grown.mixing.items()})

    return growing(of, change)


@mutant("backbone.birth", *CHAIN)
def from_below(of: Subject) -> Subject:
    """A new node inherits the inputs of the cell, and not the states that the cell outputs."""

    def change(grown: GrownStructure, structure: Structure, type: str) -> GrownStructure:
        return attrs.evolve(grown, inherits=("h",))

    return growing(of, change)


@core_mutant("backbone.birth", "backbone", "darts_convolutional")
def loud_newcomers(patch: pytest.MonkeyPatch) -> None:
    """The weights of a consumer for new channels start at random, and not at zero."""
    honest = maps._index

    def index(*given: Any) -> Tensor | None:
        found = honest(*given)
        return found if found is None else torch.where(found == maps.ZERO, maps.FRESH, found)

    patch.setattr(maps, "_index", index)


@mutant("backbone.derive", *EDGES)
def zero_wins(of: Subject) -> Subject:
    """The strongest candidate of each edge remains, even if it is zero."""

    def derive(self: Any, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        sites = {a: s for a, s in structure.sites() if not s.decided}
        best = {a: s.candidates[int(mixing[a].argmax())].id for a, s in sites.items()}
        return {a: {c.id for c in s.candidates} - {best[a]} for a, s in sites.items()}

    return overriding(of, derive=derive)


@mutant("backbone.derive", *CHAIN)
def equals_stay(of: Subject) -> Subject:
    """All candidates of a site remain whose mixing weight equals the largest."""

    def derive(self: Any, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        sites = {a: s for a, s in structure.sites() if not s.decided}
        return {
            a: {c.id for c, w in zip(s.candidates, mixing[a], strict=True) if w < mixing[a].max()} for a, s in sites.items()
        }

    return overriding(of, derive=derive)


@mutant("backbone.derive", *EDGES)
def halving(of: Subject) -> Subject:
    """The mixing weights that it is given are halved in place, which changes no decision."""
    honest: Any = of.cls

    def derive(self: Any, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        removed = honest.derive(self, structure, mixing)
        for weights in mixing.values():
            weights.mul_(0.5)
        return removed

    return overriding(of, derive=derive)


@mutant("backbone.space", *EDGES)
def backwards(of: Subject) -> Subject:
    """The picks of an architecture are counted from the last decision to the first."""

    class Backwards(Space):
        def picks(self, architecture: Structure) -> tuple[int, ...]:
            return super().picks(architecture)[::-1]

    honest: Any = of.cls
    return overriding(of, space=lambda self, structure: respaced(Backwards, honest.space(self, structure)))


@mutant("backbone.space", *CHAIN)
def undecided(of: Subject) -> Subject:
    """The last node keeps all of its candidates where the first one is picked."""

    class Undecided(Space):
        def architecture(self, picks: Sequence[int]) -> Structure:
            last = [address for address, _ in self.supernet.sites()][-1]
            decided = super().architecture(picks)
            return decided if picks[-1] else decided.replace_cell(last.cell, self.supernet.cell(last.cell))

    honest: Any = of.cls
    return overriding(of, space=lambda self, structure: respaced(Undecided, honest.space(self, structure)))


def respaced(cls: type[Space], space: Space) -> Space:
    """Return the same space as one of another class."""
    return cls(space.supernet, space.keep)


@mutant("backbone.widths", *CHAIN)
def of_the_inputs(of: Subject) -> Subject:
    """The width is that of the inputs, also where the field says otherwise."""
    return overriding(of, widths=lambda self, structure: {"hidden": structure.size("inputs")})


@mutant("backbone.widths", "backbone", "darts_convolutional")
def cells_as_width(of: Subject) -> Subject:
    """The number of cells is a width."""
    return overriding(of, widths=lambda self, structure: {"channels": self.channels, "cells": self.cells})


@mutant("backbone.example", *EDGES)
def without_time(of: Subject) -> Subject:
    """The example has no axis of time."""
    return overriding(of, example=lambda self, structure: torch.zeros(2, structure.size("inputs")))


@mutant("backbone.derived", *EDGES)
def all_inputs(of: Subject) -> Subject:
    """The nodes of the space keep all of their inputs."""
    return overriding(of, space=lambda self, structure: Space(structure))


@mutant("backbone.history", *CHAIN)
def recycled(of: Subject) -> Subject:
    """New candidates get the lowest id above those that are left."""
    honest: Any = of.cls

    def grown(self: Any, structure: Structure, cell: str) -> GrownStructure:
        left = max((c.id for _, s in structure.sites() for c in s.candidates), default=-1)
        return honest.grown(self, attrs.evolve(structure, next_id=left + 1), cell)

    return overriding(of, grown=grown)


@mutant("backbone.history", *CHAIN)
def counting(of: Subject) -> Subject:
    """The head counts its calls in training, neither as a parameter nor as a buffer, and its output grows with the count."""

    def change(outputs: Tensor, head: Any, structure: Structure) -> Tensor:
        head.calls = getattr(head, "calls", 0) + head.training
        return outputs * (1 + 0.001 * head.calls)

    return giving(of, change)


@mutant("backbone.history", *EDGES)
def counted(of: Subject) -> Subject:
    """New nodes are named by the present number of nodes, and not by a counter."""
    honest: Any = of.cls

    def grown(self: Any, structure: Structure, cell: str) -> GrownStructure:
        old = structure.cell(cell)
        made: GrownStructure = honest.grown(
            self, structure.replace_cell(cell, attrs.evolve(old, next_node=len(old.nodes))), cell
        )
        return made

    return overriding(of, grown=grown)


@core_mutant("backbone.history", *CHAIN)
def forgotten_gates(patch: pytest.MonkeyPatch) -> None:
    """The JSON of a structure leaves out which states nodes inherit."""
    honest = Structure.to_dict

    def to_dict(self: Structure) -> dict[str, Any]:
        data = honest(self)
        for cell in data["cells"].values():
            cell["nodes"] = [{"id": node["id"]} for node in cell["nodes"]]
        return data

    patch.setattr(Structure, "to_dict", to_dict)
