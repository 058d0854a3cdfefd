"""The laws of pruners: tried on supernets, and on what earlier removals left of them, with scores of every kind.

That removing candidates equals giving them mixing weight zero is a law of backbones, because pruners only name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Address, Pruner, Seed, Strategy, Structure
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError
from nasframe.structure.editing import remove_from
from nasframe.testing.cases import SearchCase
from nasframe.testing.compare import FormError, require, require_form, same
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.saved import saved
from nasframe.testing.strategies import cached, removals
from nasframe.testing.subject import Subject

Mixing = dict[Address, Tensor]
Removed = Mapping[Address, Set[int]]


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """A pruner on the supernet of a search; `before` are candidates that were removed earlier."""

    before: Removed

    def __str__(self) -> str:
        return f"{super().__str__()}; removed before: {_sorted(self.before)}"

    @property
    def structure(self) -> Structure:
        """Return the structure of the supernet."""
        return _supernet(self.strategy)

    def drawn(self, structure: Structure) -> Mixing:
        """Return mixing weights of the undecided sites of a structure: all different, with the sum one at each site."""
        generator = Seed((self.strategy.seed, "mixing")).generator()
        counts = {a: len(s.candidates) for a, s in structure.sites() if not s.decided}
        numbers = {a: torch.rand(n, generator=generator, dtype=torch.float64) for a, n in counts.items()}
        return {a: w / w.sum() for a, w in numbers.items()}

    def kinds(self) -> dict[str, Mixing]:
        """Return new mixing weights of the supernet, of every kind that can occur."""
        drawn = self.drawn(self.structure)
        return {
            "drawn": drawn,
            "all equal": {a: torch.full_like(w, 1 / len(w)) for a, w in drawn.items()},
            # Kinds at which comparisons fail that are right for numbers in general: ties everywhere, and ties but for one
            # candidate. Scores need not sum to one, so that all may be zero.
            "one-hot": {a: (w == w.max()).double() for a, w in drawn.items()},
            "zero": {a: torch.zeros_like(w) for a, w in drawn.items()},
        }


@cached
def _supernet(strategy: Strategy) -> Structure:
    data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
    return strategy.backbone.initial(data.sizes, strategy.nodes)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the pruner in the searches of all habitats."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part, strategy = draw(parts), draw(subject.searches())
        before = draw(removals(_supernet(strategy)))
        return Case(subject=subject, part=part, strategy=strategy, before=before, data=draw(st.data()))

    return draw()


def exercise(case: Case) -> dict[str, Any]:
    """Return the scores that are measured, and what is removed for each kind of mixing weights."""
    return {"the scores": dict(case.trained.measured(case.part.scores)[0])} | {
        f"the removals for mixing weights that are {kind}": _sorted(case.part.remove(case.structure, mixing))
        for kind, mixing in case.kinds().items()
    }


def _sorted(removed: Removed) -> dict[str, list[int]]:
    return {address: sorted(ids) for address, ids in sorted(removed.items()) if ids}


def _remaining(structure: Structure, removed: Removed, when: str, failure: type[AssertionError] = FormError) -> Structure:
    try:
        return remove_from(structure, removed)
    except ChangeError as error:
        raise failure(f"{when} {error}") from error


@law("pruner.names", "it compares with <= although all mixing weights can be equal or zero, or takes ids from a numpy array")
def names(case: Case) -> None:
    """A pruner returns sets of ids (int) that can be removed from any supernet, and the remaining network has finite outputs."""
    trained = case.trained
    structure = trained.network.structure
    for kind, mixing in ({"its scores": dict(trained.measured(case.part.scores)[0])} | case.kinds()).items():
        when = f"for mixing weights that are {kind}"
        removed = case.part.remove(structure, mixing)
        wrong = {address: ids for address, ids in removed.items() if not isinstance(ids, Set)}
        require_form(not wrong, f"{when} it returns {wrong}; return the ids of each site as a set")
        # A numpy integer equals an int and compares like one, but JSON does not know it.
        types = sorted({type(id).__name__ for ids in removed.values() for id in ids if type(id) is not int})
        require(not types, f"{when} it returns ids of type {', '.join(types)}; only int can be written to the lineage")
        # with scores that all differ, ties are not the cause
        _remaining(structure, removed, when, FormError if kind in ("its scores", "drawn") else AssertionError)
        child = trained.after(remove_candidates(structure, removed))
        require(
            bool(child.outputs(training=False).isfinite().all()),
            f"{when} the remaining network has outputs that are not finite",
        )


@law("pruner.again", "it looks up the mixing weights of a decided site, which has none, or takes positions for ids")
def again(case: Case) -> None:
    """A pruned structure can be pruned again until nothing more is removed.

    Its decided sites have no mixing weights, and candidates, sites or nodes are missing.
    """
    structure = remove_from(case.structure, case.before)
    # It ends, because each turn removes a candidate and a node must keep one.
    while any((removed := case.part.remove(structure, case.drawn(structure))).values()):
        known = {c.id for _, site in structure.sites() for c in site.candidates}
        # if the ids are those of candidates, positions are not the cause
        failure = FormError if all(ids <= known for ids in removed.values()) else AssertionError
        structure = _remaining(structure, removed, "from a structure that was pruned before", failure)


@law("pruner.pure", "it normalises or sorts the mixing weights in place, or removes entries from the mapping")
def pure(case: Case) -> None:
    """A pruner does not change the mixing weights that it is given, nor their mapping."""
    given, before = case.kinds(), case.kinds()
    for kind, mixing in given.items():
        case.part.remove(case.structure, mixing)
        require([*mixing] == [*before[kind]], f"for mixing weights that are {kind}, it changes which sites have some")
        changed = [a for a, w in before[kind].items() if not torch.equal(mixing[a], w)]
        require(not changed, f"for mixing weights that are {kind}, it changes those of {', '.join(changed)}")


@law("pruner.tensors", "it calls numpy() on the mixing weights, or combines them with tensors of a fixed dtype")
def tensors(case: Case) -> None:
    """A pruner accepts mixing weights in float32 and float64, with and without gradients, and returns the same for equal ones."""
    rounded = {a: w.float() for a, w in case.drawn(case.structure).items()}
    plain = _sorted(case.part.remove(case.structure, {a: w.clone() for a, w in rounded.items()}))
    for dtype in (torch.float32, torch.float64):
        for gradients in (False, True):
            mixing = {a: w.to(dtype, copy=True).requires_grad_(gradients) for a, w in rounded.items()}
            found = _sorted(case.part.remove(case.structure, mixing))
            how = f"in {dtype} {'with' if gradients else 'without'} gradients"
            require(found == plain, f"{how} it returns {found}, in float32 without gradients {plain}")


@law("pruner.stable", "it compares parts with `is`, relies on the order of the mapping, or breaks ties by id() or set order")
def stable(case: Case) -> None:
    """A pruner returns the same for an equal structure that was read from JSON, and for mixing weights in another order."""
    # Its parts are equal to those of the first structure, and not the same objects.
    copy = Structure.from_json(case.structure.to_json(), case.subject.plugins.make)
    for kind, mixing in case.kinds().items():
        first = _sorted(case.part.remove(case.structure, dict(mixing)))
        found = {
            "for the structure read from JSON": case.part.remove(copy, dict(mixing)),
            "with the sites in another order": case.part.remove(case.structure, dict(reversed(mixing.items()))),
        }
        for what, removed in found.items():
            require(
                _sorted(removed) == first, f"for mixing weights that are {kind} it returns {first}, {what} {_sorted(removed)}"
            )


@law("pruner.measured", "it modifies the network of the search, or scores candidates in another order than the structure has")
def measured(case: Case) -> None:
    """Scores are tensors of shape (candidates,) by site; measuring them changes nothing and does not read the test split."""
    trained = case.trained.without_test_split()
    before = saved(trained.state)
    scores, _ = trained.measured(case.part.scores)
    sites = dict(trained.network.structure.sites())
    for address, values in scores.items():
        require_form(address in sites, f"it scores {address}, which is no site")
        wanted = (len(sites[Address(address)].candidates),)
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        require_form(shape == wanted, f"the scores of {address} are {shape}; they must be a tensor of shape {wanted}")
    require(same(before, saved(trained.state)), "measuring changes the search")


@law("pruner.decides", "`scores` keeps something in the class or the module that `remove` reads")
def decides(case: Case) -> None:
    """What is removed follows from the structure and the scores alone, whatever was measured before."""
    trained, mixing, found = case.trained, case.drawn(case.structure), []
    other = trained.copy()
    for alpha in other.network.alphas.values():
        # Other alphas, so that the two searches have other scores. What is removed below is decided by the same mixing
        # weights.
        alpha.data.copy_(alpha.data.flip(0) + torch.arange(len(alpha)))
    for search in (trained, other):
        search.measured(case.part.scores)
        found.append(_sorted(case.part.remove(case.structure, dict(mixing))))
    require(found[0] == found[1], f"for equal scores it returns {found[0]}, and after it has measured others {found[1]}")


@law(
    "pruner.compares",
    "`remove` reads the mixing weights, an attribute or the order of the candidates, and not the scores that it is given",
)
def compares(case: Case) -> None:
    """A pruner that measures scores decides by them: with other scores other candidates are removed.

    Zero operations do not count, as a pruner may remove them whatever their scores are.
    """
    if type(case.part).scores is Pruner.scores:
        raise Inapplicable("it measures no scores")
    zero = {c.id for _, site in case.structure.sites() for c in site.candidates if c.operation.zero}
    drawn, found = case.drawn(case.structure), set[frozenset[int]]()
    # scores of every scale, as the pruner may compare them with a threshold; in both orders
    for scale in (1.0, 1e-3, 1e3, -1.0):
        for turned in (False, True):
            scores = {a: scale * (w.flip(0) if turned else w) for a, w in drawn.items()}
            removed = case.part.remove(case.structure, scores)
            found.add(frozenset({id for ids in removed.values() for id in ids} - zero))
    if found == {frozenset()}:
        raise Inapplicable("it removes no candidate")
    require(len(found) > 1, f"with eight kinds of scores it removes the same candidates, {sorted(min(found))}")
