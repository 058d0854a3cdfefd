"""Morphisms of modules with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from mutants.system import core_mutant, mutant, overriding
from nasframe import Claim, Set, Take
from nasframe.errors import ChangeError
from nasframe.modules import change as changes
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import Layer, Replace
from nasframe.modules.morphism import Rewrite, Undo
from nasframe.modules.narrow import Narrow
from nasframe.modules.verify import Distances
from nasframe.testing.subject import Subject

WIDEN, NARROW, DEEPEN, DILATE = (("module_morphism", name) for name in ("widen", "narrow", "deepen", "dilate"))


def only(of: Subject, **options: Any) -> Subject:
    """Return the morphism with these options."""
    return attrs.evolve(of, parts=st.just(of.cls(**options)))


def rewriting(of: Subject, change: Callable[[Rewrite, Coupling], Rewrite]) -> Subject:
    """Return the morphism that does `change(its rewrite, the coupling)`."""
    honest: Any = of.cls
    return overriding(of, rewrite=lambda self, coupling, *args: change(honest.rewrite(self, coupling, *args), coupling))


def taking(of: Subject, change: Callable[[Take, torch.Tensor], Take | Set]) -> Subject:
    """Return the morphism whose map has `change(entry, tensor of the parent)` in the place of each `Take`."""

    def changed(rewrite: Rewrite, coupling: Coupling) -> Rewrite:
        held = dict(coupling.model.named_parameters(remove_duplicate=False))
        entries = {
            name: change(entry, held[entry.source].detach()) if isinstance(entry, Take) and entry.source in held else entry
            for name, entry in rewrite.map.items()
        }
        return attrs.evolve(rewrite, map=entries)

    return rewriting(of, changed)


@mutant("module_morphism.claim", *WIDEN)
def undivided(of: Subject) -> Subject:
    """It copies units, and leaves their outgoing weights as large as they were."""
    return taking(only(of, to=5), lambda entry, _: attrs.evolve(entry, value=1.0))


@mutant("module_morphism.claim", *DILATE)
def boastful(of: Subject) -> Subject:
    """It moves the taps of kernels, and claims to be exact."""
    return rewriting(only(of, dilation=1, lossy=True), lambda rewrite, _: attrs.evolve(rewrite, claim=Claim.exact()))


@core_mutant("module_morphism.claim", *DILATE)
def unmeasured(patch: pytest.MonkeyPatch) -> None:
    """A change says that its distance is zero, without measuring it."""
    patch.setattr("nasframe.modules.change.distances", lambda *_: Distances(0.0, 0.0))


@mutant("module_morphism.gradient", *WIDEN)
def whole(of: Subject) -> Subject:
    """Its map says that each copy has the gradient of its unit, although it has a share of it."""
    return taking(only(of, to=5), lambda entry, _: attrs.evolve(entry, gradient=1.0))


@mutant("module_morphism.twins", *WIDEN)
def constant(of: Subject) -> Subject:
    """Its new units all start at one constant."""

    def change(entry: Take, source: torch.Tensor) -> Take | Set:
        index = entry.index[0] if entry.index else None
        if index is None or int(index.min()) != -1:
            return entry
        return Set(entry(source, torch.full((len(index), *source.shape[1:]), 0.3, dtype=source.dtype)))

    return taking(only(of, to=6, form="zero"), change)


@core_mutant("module_morphism.composition", *NARROW)
def hooked(patch: pytest.MonkeyPatch) -> None:
    """A child keeps a hook with which it was watched."""

    def changed_copy(*args: Any) -> nn.Module:
        child = changes_of(*args)
        child.register_forward_hook(lambda *_: None)
        return child

    changes_of = changes.changed_copy
    patch.setattr("nasframe.modules.change.changed_copy", changed_copy)


@mutant("module_morphism.undo", *WIDEN)
def mistaken(of: Subject) -> Subject:
    """It declares that removing the first units reverts it, and the new ones remain."""

    def change(rewrite: Rewrite, _: Coupling) -> Rewrite:
        assert rewrite.undo is not None
        assert isinstance(rewrite.undo.morphism, Narrow)
        first = tuple(range(len(rewrite.undo.morphism.remove)))
        return attrs.evolve(rewrite, undo=Undo(attrs.evolve(rewrite.undo.morphism, remove=first), rewrite.undo.at))

    return rewriting(only(of, to=6, form="zero"), change)


@mutant("module_morphism.untouched", *WIDEN)
def evaluating(of: Subject) -> Subject:
    """It puts the model into evaluation mode, and leaves it there."""

    def change(rewrite: Rewrite, coupling: Coupling) -> Rewrite:
        coupling.model.eval()
        return rewrite

    return rewriting(of, change)


@core_mutant("module_morphism.storage", *DEEPEN)
def shared(patch: pytest.MonkeyPatch) -> None:
    """A child has the tensors of its parent that did not change, and not copies of them."""

    def changed_copy(model: nn.Module, *args: Any) -> nn.Module:
        child = changes_of(model, *args)
        held = dict(model.named_parameters())
        for name, parameter in child.named_parameters():
            if name in held and torch.equal(parameter, held[name]):
                parameter.data = held[name].data
        return child

    changes_of = changes.changed_copy
    patch.setattr("nasframe.modules.change.changed_copy", changed_copy)


@mutant("module_morphism.rebuild", *DEEPEN)
def typed(of: Subject) -> Subject:
    """Its new layers are described with a dtype, which is no JSON."""

    def described(layer: Layer) -> Layer:
        dtype: Any = torch.float64
        return Layer(layer.type, {**layer.options, "dtype": dtype}) if layer.shapes() else layer

    def change(rewrite: Rewrite, _: Coupling) -> Rewrite:
        edits = [
            attrs.evolve(edit, layers=map(described, edit.layers)) if isinstance(edit, Replace) else edit
            for edit in rewrite.edits
        ]
        return attrs.evolve(rewrite, edits=tuple(edits))

    return rewriting(of, change)


@mutant("module_morphism.refusals", *WIDEN)
def unknown(of: Subject) -> Subject:
    """It raises a KeyError at a place that does not exist."""

    def rewrite(self: Any, coupling: Coupling, at: str, seed: Any) -> Rewrite:
        if at not in {*dict(coupling.model.named_modules()), *coupling.aliases}:
            raise KeyError(at)
        return of.cls.rewrite(self, coupling, at, seed)  # type: ignore[attr-defined]

    return overriding(of, rewrite=rewrite)


@mutant("module_morphism.refusals", *WIDEN)
def silent(of: Subject) -> Subject:
    """It refuses a change without a reason."""

    def rewrite(self: Any, coupling: Coupling, at: str, seed: Any) -> Rewrite:
        try:
            return of.cls.rewrite(self, coupling, at, seed)  # type: ignore[attr-defined,no-any-return]
        except ChangeError:
            raise ChangeError("") from None

    return overriding(of, rewrite=rewrite)
