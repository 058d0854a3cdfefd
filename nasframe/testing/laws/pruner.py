"""The laws of pruners: tried on supernets and on what removals leave of them, with weights of every kind.

That to remove candidates is to give them weight zero is no law of pruners, which only name them: a backbone is held to it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Address, Seed, Strategy, Structure
from nasframe.change.apply import remove_candidates
from nasframe.errors import ChangeError
from nasframe.structure.editing import remove_from
from nasframe.testing.assertions import demand
from nasframe.testing.case import Searched
from nasframe.testing.law import law
from nasframe.testing.strategies import removals
from nasframe.testing.subject import Subject

Weights = dict[str, Tensor]
Gone = Mapping[Address, Set[int]]


@attrs.frozen(eq=False, kw_only=True)
class Case(Searched):
    """A pruner on the supernet of a search; `gone` is what went before it is asked again."""

    gone: Gone

    def __str__(self) -> str:
        return f"{super().__str__()}; before went {_plain(self.gone)}"

    @property
    def structure(self) -> Structure:
        """The supernet's."""
        return _supernet(self.strategy)

    def drawn(self, structure: Structure) -> Weights:
        """Weights for the undecided sites of a structure: no two of a site are equal, and those of each have the sum one."""
        generator = Seed((self.strategy.seed, "weights")).generator()
        sizes = {a: len(s.candidates) for a, s in structure.sites() if not s.decided}
        numbers = {a: torch.rand(n, generator=generator, dtype=torch.float64) for a, n in sizes.items()}
        return {a: w / w.sum() for a, w in numbers.items()}

    def weighings(self) -> dict[str, Weights]:
        """Weights of the supernet's sites, of every kind that can occur, made anew."""
        drawn = self.drawn(self.structure)
        return {
            "drawn": drawn,
            "all equal": {a: torch.full_like(w, 1 / len(w)) for a, w in drawn.items()},
            "one-hot": {a: (w == w.max()).double() for a, w in drawn.items()},
            "zero": {a: torch.zeros_like(w) for a, w in drawn.items()},
        }


@functools.lru_cache(maxsize=128)
def _supernet(strategy: Strategy) -> Structure:
    data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
    return strategy.backbone.initial(data.sizes, strategy.nodes)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The pruner in every habitat."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part, strategy = draw(parts), draw(subject.searches())
        gone = draw(removals(_supernet(strategy)))
        return Case(subject=subject, part=part, strategy=strategy, gone=gone, data=draw(st.data()))

    return draw()


def exercise(case: Case) -> dict[str, Any]:
    """What goes, whatever the weights."""
    return {
        f"what goes where weights are {kind}": _plain(case.part.remove(case.structure, weights))
        for kind, weights in case.weighings().items()
    }


def _plain(gone: Gone) -> dict[str, list[int]]:
    return {address: sorted(ids) for address, ids in sorted(gone.items()) if ids}


def _left(law: str, structure: Structure, gone: Gone, when: str) -> Structure:
    """What is left when that goes."""
    try:
        return remove_from(structure, gone)
    except ChangeError as error:
        raise AssertionError(f"{law}: {when} {error}") from error


@law("pruner.names", "it compares with <= where all weights can be equal or zero, or takes ids from an array of numbers")
def names(case: Case) -> None:
    """Of any supernet, by weights of any kind, what a pruner names is there and may go: sets of ids, as Python's own whole
    numbers, that leave each node one candidate at least; and the network that is left runs.
    """
    trained = case.trained
    for kind, weights in ({"the architect's": dict(trained.mixing())} | case.weighings()).items():
        when = f"where weights are {kind}"
        gone = case.part.remove(trained.network.structure, weights)
        wrong = {address: ids for address, ids in gone.items() if not isinstance(ids, Set)}
        demand("names", not wrong, f"{when} it gives {wrong}; ids come as a set")
        others = sorted({type(id).__name__ for ids in gone.values() for id in ids if type(id) is not int})
        demand("names", not others, f"{when} it gives ids of type {', '.join(others)}; only int can be written to the lineage")
        _left("names", trained.network.structure, gone, when)
        child = trained.after(remove_candidates(trained.network, gone, Seed(("names",))))
        demand("names", bool(child.outputs(training=False).isfinite().all()), f"{when} what is left puts out no numbers")


@law("pruner.again", "it looks up the weights of a decided site, which has none, or takes positions for ids")
def again(case: Case) -> None:
    """What has been pruned can be pruned again, until nothing more goes: where sites are decided, which have no weights, and
    candidates, edges or nodes are missing.
    """
    structure = remove_from(case.structure, case.gone)
    while any((gone := case.part.remove(structure, case.drawn(structure))).values()):
        structure = _left("again", structure, gone, "of what was pruned before")


@law("pruner.pure", "it normalises or sorts the weights in place, or takes entries out of the mapping")
def pure(case: Case) -> None:
    """A pruner leaves the weights that it is given as they are, and their mapping, too."""
    given, before = case.weighings(), case.weighings()
    for kind, weights in given.items():
        case.part.remove(case.structure, weights)
        demand("pure", [*weights] == [*before[kind]], f"where weights are {kind}, it changes which sites have some")
        moved = [a for a, w in before[kind].items() if not torch.equal(weights[a], w)]
        demand("pure", not moved, f"where weights are {kind}, it changes those of {', '.join(moved)}")


@law("pruner.tensors", "it calls numpy() on the weights, or mixes them with tensors of a dtype of its own")
def tensors(case: Case) -> None:
    """A pruner takes weights of float32 and of float64, with and without a gradient to follow, and by equal ones names the
    same.
    """
    rounded = {a: w.float() for a, w in case.drawn(case.structure).items()}
    plain = _plain(case.part.remove(case.structure, {a: w.clone() for a, w in rounded.items()}))
    for dtype in (torch.float32, torch.float64):
        for followed in (False, True):
            weights = {a: w.to(dtype, copy=True).requires_grad_(followed) for a, w in rounded.items()}
            found = _plain(case.part.remove(case.structure, weights))
            what = f"by {dtype} {'with' if followed else 'without'} a gradient"
            demand("tensors", found == plain, f"{what} it names {found}, by float32 without {plain}")


@law("pruner.stable", "it compares parts with `is`, goes by the order of the mapping, or breaks ties by id() or a set's order")
def stable(case: Case) -> None:
    """A pruner names the same of an equal structure, read back from JSON, and of weights in another order of their sites;
    where weights are equal, too.
    """
    copy = Structure.from_json(case.structure.to_json(), case.subject.plugins.make)
    for kind, weights in case.weighings().items():
        first = _plain(case.part.remove(case.structure, dict(weights)))
        found = {
            "of the structure read back from JSON": case.part.remove(copy, dict(weights)),
            "of weights in another order of the sites": case.part.remove(case.structure, dict(reversed(weights.items()))),
        }
        for what, gone in found.items():
            demand("stable", _plain(gone) == first, f"where weights are {kind} it names {first}, {what} {_plain(gone)}")
