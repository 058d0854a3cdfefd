"""The laws of morphisms: tried on their proposals, in searches that have trained and may have grown by them before."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from hypothesis import Phase, Verbosity, given, reject, settings, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from nasframe import (
    Address,
    Bound,
    Change,
    Claim,
    Morphism,
    Network,
    Operation,
    Proposal,
    Seed,
    Set,
    Site,
    Strategy,
    Structure,
    Take,
    build,
)
from nasframe.change.claim import tolerance
from nasframe.errors import ChangeError, NonFiniteError, StrategyError, StructureError
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.assertions import demand
from nasframe.testing.case import STEPS, Searched, same, trained_network
from nasframe.testing.examples import Habitat
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.strategies import seeds, spoilt
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: how a morphism says that it can do nothing with a network
REFUSALS = (ChangeError, StructureError, StrategyError)


@attrs.frozen(eq=False, kw_only=True)
class Case(Searched):
    """One of a morphism's proposals to the network of a search.

    Args:
        place: which one.
        before: how many updates ago the network grew by the morphism; None: never.
        training: whether it is in training mode.
        seed: of the change.
    """

    place: int
    before: int | None
    training: bool
    seed: Seed

    def __str__(self) -> str:
        grown = "" if self.before is None else f", grown by it {self.before} updates before"
        return f"{Searched.__str__(self)}{grown}; proposal {self.place} of as many as there are, {self.seed}"

    def told(self) -> str:
        """The request in the place of the number of the proposal."""
        request = self.proposals(self.parent.network)[0].request
        return f"{self} = {dict(request)}"

    @property
    def parent(self) -> TrainedNetwork:
        """The search as it stands: a copy, to do with as one likes."""
        parent = self.trained if self.before is None else _grown(self.strategy, self.part, self.place, self.before).copy()
        parent.network.train(self.training)
        return parent

    def proposals(self, network: Network) -> list[Proposal]:
        """What is proposed to a network, the one of the case first."""
        return _proposals(self.part, network, self.place)

    def change(self, network: Network, seed: Seed | None = None) -> Change:
        """What is proposed, worked out."""
        return _change(self.part, network, self.proposals(network)[0], seed or self.seed)

    def child(self, seed: Seed | None = None) -> tuple[TrainedNetwork, Change, TrainedNetwork]:
        """The search as it stands, the change, and the search that goes on with it."""
        parent = self.parent
        change = self.change(parent.network, seed)
        return parent, change, parent.after(change)


def _proposals(part: Morphism, network: Network, place: int) -> list[Proposal]:
    try:
        found = [*part.propose(network)]
    except REFUSALS:
        reject()
    if not found:
        reject()
    place %= len(found)
    return found[place:] + found[:place]


def _change(part: Morphism, network: Network, proposal: Proposal, seed: Seed) -> Change:
    try:
        return part.change(network, proposal.request, proposal.evidence, seed)
    except ChangeError:  # which morphism.proposals does not let pass
        reject()


def _grown(strategy: Strategy, part: Morphism, place: int, before: int) -> TrainedNetwork:
    found = _trained_on(strategy, part, place, before)
    if found is None:
        reject()
    return found


@functools.lru_cache(maxsize=128)
def _trained_on(strategy: Strategy, part: Morphism, place: int, before: int) -> TrainedNetwork | None:
    parent = trained_network(strategy, STEPS)
    seed = Seed((place, "before"))
    try:
        return parent.after(_change(part, parent.network, _proposals(part, parent.network, place)[0], seed)).train(before)
    except NonFiniteError:
        return None


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The morphism in every habitat to whose networks it proposes something."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        fitting, why = _fitting(subject, part)
        if not fitting:
            raise NoCases(why)
        return Case(
            subject=subject,
            part=part,
            strategy=draw(st.one_of(fitting)),
            place=draw(st.integers(0, 60)),
            before=draw(st.sampled_from([None, None, 0, STEPS])),
            training=draw(st.booleans()),
            seed=draw(seeds()),
            data=draw(st.data()),
        )

    return draw()


@functools.lru_cache(maxsize=64)
def _fitting(subject: Subject, part: Morphism) -> tuple[list[SearchStrategy[Strategy]], str]:
    """The searches of the habitats whose networks it proposes something to; or why there are none."""
    fitting = [searches for habitat in subject.habitats if _fits(searches := habitat.strategies(()), part)]
    for operations in (subject.operations, subject.others):  # it may be about some that no habitat chooses for itself
        if not fitting:
            with_them = itertools.starmap(_with, itertools.product(subject.habitats, operations))
            fitting = [searches for searches in with_them if _fits(searches, part)]
    backbones = ", ".join(habitat.backbone.name for habitat in subject.habitats)
    return fitting, (
        f"it proposes no change of any backbone that has a habitat ({backbones or 'there is none'}), with any operation that is "
        "installed or without: let the examples of the plugin have a Habitat, of whatever backbone, whose networks it can change"
    )


def _with(habitat: Habitat, operations: SearchStrategy[Operation]) -> SearchStrategy[Strategy]:
    return operations.flatmap(lambda operation: habitat.strategies((operation,)))


def _fits(searches: SearchStrategy[Strategy], part: Morphism) -> bool:
    """Whether something is proposed to the network of one of some searches."""
    found: list[bool] = []

    @settings(
        max_examples=8, derandomize=True, database=None, deadline=None, phases=[Phase.generate], verbosity=Verbosity.quiet
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        with contextlib.suppress(*REFUSALS, ValueError):  # as where a backbone does not take an operation
            network = _fresh(data.draw(searches))
            found.append(bool(found and found[-1]) or bool(part.propose(network)))

    run()
    return bool(found and found[-1])


@functools.lru_cache(maxsize=64)
def _fresh(strategy: Strategy) -> Network:
    """The network with which a search begins."""
    sizes = strategy.task.load(torch.device("cpu"), strategy.torch_dtype).sizes
    return build(strategy.backbone.initial(sizes, strategy.nodes), Seed((0, "fresh")))


def exercise(case: Case) -> dict[str, Any]:
    """What is proposed, and all that comes of one proposal."""
    parent, change, child = case.child()
    return {
        "the proposals": [attrs.asdict(p) for p in case.proposals(parent.network)],
        "the structure": change.child.structure.to_json(),
        "the claim": repr(change.claim),
        "the request": dict(change.request),
        "the evidence": dict(change.evidence),
        "the weights": dict(change.mixing),
        **{f"the child's {n}": t.detach() for n, t in tensors(child.network).items()},
    }


def _claiming(
    case: Case, kind: str, holds: Callable[[TrainedNetwork, Change, TrainedNetwork], str | None], tries: int = 4
) -> str | None:
    """Hold a change of that kind to something: the case's, or, if it claims something else, that of another one drawn for it."""
    for n in range(tries):
        fresh = _fresh(case.strategy)  # which tells at less cost whether it is worth while to train it
        if _claims(case.change(fresh), kind) and _claims((found := case.child())[1], kind):
            try:
                return holds(*found)
            except AssertionError as error:
                if n:  # the case that is told is the first
                    raise AssertionError(f"{error}; in {case}") from error
                raise
        case = case.data.draw(cases(case.subject))
    raise Inapplicable(f"it does not claim to be {kind}")


def _claims(change: Change, kind: str) -> bool:
    return getattr(change.claim, "kind", None) == kind


# ------------------------------------------------------------------------------------------------ what is proposed


@law(
    "morphism.proposals", "a request holds a tuple or an object, a gain is not computed, or change() checks more than propose()"
)
def proposals(case: Case) -> None:
    """Every proposal can be made; its request is JSON, and no other's; its gain and its evidence are finite numbers."""
    network = case.parent.network
    found = case.proposals(network)
    requests = [_json(p.request, "a proposal's request") for p in found]
    for n, proposal in enumerate(found):
        demand("proposals", requests.index(requests[n]) == n, f"{proposal.request} is proposed twice")
        demand("proposals", math.isfinite(proposal.gain), f"the gain of {proposal.request} is {proposal.gain}")
        bad = [k for k, t in proposal.evidence.items() if not bool(torch.as_tensor(t).isfinite().all())]
        demand("proposals", not bad, f"the evidence {', '.join(bad)} of {proposal.request} is not finite")
    for proposal in found[:4]:
        try:
            case.part.change(network, proposal.request, proposal.evidence, case.seed)
        except ChangeError as error:
            demand("proposals", False, f"{proposal.request} is proposed, and refused when it is to be made: {error}")


def _json(value: Any, what: str) -> Any:
    """The same, read back from its JSON."""
    try:
        again = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"json: {what} is {value!r}, of which no JSON can be made: {error}") from error
    demand("json", again == value, f"{what} is {value!r}; its JSON says {again!r}")
    return again


@law("morphism.cost", "the cost is an estimate, or leaves alphas, gates, or what takes a new unit in, out of account")
def cost(case: Case) -> None:
    """The cost of a proposal is exactly the number of parameters by which the network grows."""
    parent, _, child = case.child()
    told, more = case.proposals(parent.network)[0].cost, _count(child.network) - _count(parent.network)
    demand("cost", told == more, f"the cost is said to be {told}; the child has {more} parameters more than its parent")


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@law("morphism.changes", "a limit is applied by clipping, so that what it makes is what there was")
def changes(case: Case) -> None:
    """A change changes something: the child has other nodes, sites, operations or sizes than its parent."""
    parent, _, child = case.child()
    before, after = (_anatomy(trained.network.structure) for trained in (parent, child))
    demand("changes", before != after, "the child has the structure of its parent, but for ids")


def _anatomy(structure: Structure) -> Any:
    """All of a structure but the ids of its candidates."""
    sites = [(address, site.inputs, [c.operation for c in site.candidates]) for address, site in structure.sites()]
    return structure.backbone, structure.sizes, [*structure.nodes()], sites


# -------------------------------------------------------------------------------------------- what a change keeps to


@law("morphism.transaction", "it works on the parent's own tensors, or leaves the parent in another mode")
def transaction(case: Case) -> None:
    """To propose and to work out a change leaves the parent to the bit as it was, and so does the child's training: they share
    no memory. The child has its parent's mode, dtype and device.
    """
    assertions.assert_transaction(case.parent, case.change)


@law(
    "morphism.blind", "it measures what the change does, in the place of deriving it; what is measured belongs into `evidence`"
)
def blind(case: Case) -> None:
    """A change is worked out from numbers and evidence alone: no module is run for it."""
    parent = case.parent
    proposal = case.proposals(parent.network)[0]
    assertions.assert_no_forward(parent, lambda network: _change(case.part, network, proposal, case.seed))


@law("morphism.refuses", "a request is looked up with [], or what it does not name is taken for a default")
def refuses(case: Case) -> None:
    """A request that the network does not admit is refused with a ChangeError, before anything has changed: no other error, and
    no other change in the place of the one that was asked for.
    """
    parent = case.parent
    proposal, structure = case.proposals(parent.network)[0], case.change(parent.network).child.structure
    if not proposal.request:
        raise Inapplicable("there is nothing in its requests")
    wrong = [case.data.draw(spoilt(dict(proposal.request))) for _ in range(8)]

    def make(network: Network) -> Change:
        for request in wrong:
            _asked(case, network, request, proposal)
        for key in proposal.request:
            request = {**proposal.request, key: "no such thing"}
            made = _asked(case, network, request, proposal)
            otherwise = f"{request} is not refused, and makes another change than {proposal.request}"
            demand("refuses", made is None or made.child.structure == structure, otherwise)
        return _change(case.part, network, proposal, case.seed)

    assertions.assert_transaction(parent, make)


def _asked(case: Case, network: Network, request: Any, proposal: Proposal) -> Change | None:
    """What is made of a request, if it is not refused as it should be."""
    try:
        return case.part.change(network, request, proposal.evidence, case.seed)
    except ChangeError:
        return None
    except Exception as error:
        raise AssertionError(f"refuses: {request} raises {error!r}; say in a ChangeError what is wrong with it") from error


@law("morphism.replay", "Change lacks its `request` or `evidence`, or the structure depends on weights that they do not tell")
def replay(case: Case) -> None:
    """What is journalled of a change makes it again: its request, as JSON, its evidence and its seed make the same child of the
    same parent, and the same structure of a network with other weights.
    """
    parent, change, child = case.child()
    request = _json(change.request, "the request of the change")

    def again(network: Network) -> Change:
        return case.part.change(network, request, change.evidence, case.seed)

    try:
        made = parent.after(again(parent.network))
    except REFUSALS as error:
        raise AssertionError(f"replay: the change's own request, {request}, is refused: {error}") from error
    demand("replay", made.network.structure == child.network.structure, f"{request} makes another structure")
    different = [n for n, t in tensors(child.network).items() if not same(t, tensors(made.network)[n])]
    demand("replay", not different, f"{request} makes another child: {', '.join(different)}")
    bare = build(parent.network.structure, case.seed)
    demand(
        "replay", again(bare).child.structure == child.network.structure, f"{request} makes another structure without weights"
    )


@law("morphism.seed", "`build` is given another seed than the change's, so that every growth starts from the same numbers")
def seed(case: Case, tries: int = 6) -> None:
    """What is new and drawn is drawn from the seed of the change: another seed, other numbers."""
    parent, seeds = trained_network(case.strategy, 0), (case.seed, case.seed("another"))
    proposals = case.proposals(parent.network)
    for proposal in proposals[:: 1 + len(proposals) // tries]:  # as many may draw nothing
        child, other = (parent.after(_change(case.part, parent.network, proposal, s)) for s in seeds)
        before, after = (tensors(trained.network) for trained in (child, other))
        built = {name: tensor for name, tensor in before.items() if not isinstance(child.map.get(name), Set)}
        new = {name: _new(child, name, tensor) & (tensor != 0) for name, tensor in built.items()}
        several = {name: mask for name, mask in new.items() if len(before[name][mask].unique()) > 1}  # no constant
        bare = [tensors(build(child.network.structure, s)) for s in seeds if several]
        drawn = {n: mask for n, mask in several.items() if not same(*(each[n][mask] for each in bare))}
        kept = [name for name, mask in drawn.items() if same(before[name][mask], after[name][mask])]
        demand("seed", not kept, f"two seeds make the same numbers of {', '.join(kept)}")
        if drawn:
            return
    raise Inapplicable("it draws no numbers")


@law(
    "morphism.structure",
    "a new operation is not registered, an old id is used again, or next_id or next_node does not count on",
)
def structure(case: Case) -> None:
    """The child's structure is one that can be kept: its JSON makes the same network again, and no id stands for something
    else than it did before, or comes back.
    """
    parent, _, child = case.child()
    assertions.assert_ids_not_reused([case.trained.network.structure, parent.network.structure, child.network.structure])
    assertions.assert_reconstructed(child, case.subject.plugins.make)


# --------------------------------------------------------------------------------------------------- what it claims


@law("morphism.claim", "Change has no Claim, or one that was not made with Claim.exact(), .approximate() or .lossy()")
def claim(case: Case) -> None:
    """A change claims to be exact, or approximate, with a bound by its own inputs for each changed node, or lossy."""
    _, change, child = case.child()
    made = change.claim
    ways = "say Claim.exact(), Claim.approximate({address of a node: bound}) or Claim.lossy()"
    demand("claim", isinstance(made, Claim), f"there is no claim, but {made!r}; {ways}")
    demand("claim", made.kind in ("exact", "approximate", "lossy"), f"the claim is of the kind {made.kind!r}; {ways}")
    bounded = made.kind == "approximate"
    demand("claim", bool(made.bounds) == bounded, f"an {made.kind} claim has the bounds {made.bounds}; {ways}")
    wrong = _misplaced(child, made)
    demand("claim", not wrong, "; ".join(wrong))
    for address, bound in made.bounds.items():
        demand("claim", _sound(bound), f"the coefficients of the bound on {address} are {bound.to_dict()}")


def _misplaced(child: TrainedNetwork, claim: Claim) -> list[str]:
    """What is wrong with where its bounds are, and by what."""
    wrong, nodes = [], dict(child.network.structure.nodes())
    for address, bound in claim.bounds.items():
        inputs = _inputs(child.network.structure, address)
        if address not in nodes:
            wrong.append(f"there is a bound on {address}; the child's nodes are {', '.join(nodes)}")
        elif strange := {i for term in bound.terms for i in term} - set(inputs):
            wrong.append(f"the bound on {address} is by {strange}; the node's inputs are {', '.join(inputs)}")
    return wrong


def _inputs(structure: Structure, node: str) -> list[str]:
    return [i for a, s in structure.sites() if Address.of(a.cell, s.node) == node for i in s.inputs]


def _sound(bound: Bound) -> bool:
    return all(math.isfinite(c) and c >= 0 for c in bound.terms.values())


@law("morphism.exact", "what takes a new unit in does not start at zero, or buffers (running means) are not taken over")
def exact(case: Case) -> str | None:
    """A change that claims to be exact moves no output by more than rounding, in evaluation and in training mode."""
    parent, change, child = case.child()
    try:
        assertions.assert_exact(parent, child)
    except AssertionError as error:
        if _claims(change, "exact"):
            raise AssertionError(f"{error}. {_begun(child)}") from None
        return None
    return None if _claims(change, "exact") else "it may claim to be exact: no output moved"


def _begun(child: TrainedNetwork) -> str:
    """Where to look for what moves an output."""
    named = tensors(child.network)
    own = [name for name, tensor in named.items() if bool((tensor[_new(child, name, tensor)] != 0).any())]
    return f"Numbers that are neither zero nor its parent's are in {', '.join(own) or 'no tensor of the child'}"


def _new(child: TrainedNetwork, name: str, tensor: Tensor) -> Tensor:
    """Where a tensor has numbers that are not taken from the parent."""
    entry = child.map.get(name)
    return entry.new_entries(tensor)[0] if isinstance(entry, Take) else torch.ones_like(tensor, dtype=torch.bool)


#: how many times the largest deviation that is found a bound may be before it says nothing
LOOSE = 100.0
#: for inputs as large as the node sees, and larger ones
VACUOUS = {1.0: LOOSE, 10.0: LOOSE}


@law("morphism.bound", "the bound leaves out a candidate, a product of inputs or an instance, or is not scaled with the noise")
def bound(case: Case) -> str | None:
    """What a new node puts out is as near to the mean of what its cell put out as the claim says, and a node that was there as near
    to what it would have put out: for the inputs that it gets, and for any as large, or ten times so; of these some
    come, for a new node, within a hundredth of the bound.
    """
    return _claiming(case, "approximate", _bounded)


def _bounded(parent: TrainedNetwork, change: Change, child: TrainedNetwork) -> str | None:
    if _misplaced(child, change.claim):
        raise Inapplicable("its bounds are none that morphism.claim lets pass")
    before, nearest = dict(parent.network.structure.nodes()), 0.0
    for node, limit in change.claim.bounds.items():
        of, factors = (parent, dict.fromkeys(VACUOUS, math.inf)) if node in before else (None, VACUOUS)
        assertions.assert_within_bounds(child, {node: limit}, of)
        nearest = max(nearest, assertions.assert_tight(child, node, limit, factors, of))
    return f"but a bound is over {LOOSE:g} times the largest that was found" if nearest > LOOSE else None


@law("morphism.weights", "what is added to some of the weights is not taken from the others, or some are zero")
def weights(case: Case) -> None:
    """The weights that a change states for a site are one for each candidate, above zero, and sum to one."""
    _, change, child = case.child()
    if not change.mixing:
        raise Inapplicable("it states no weights")
    sites: dict[str, Site] = dict(child.network.structure.sites())
    for address, stated in change.mixing.items():
        demand("weights", address in sites, f"weights are stated for {address}; the child has {', '.join(sites)}")
        wanted = (len(sites[address].candidates),)
        demand("weights", stated.shape == wanted, f"those of {address} have shape {tuple(stated.shape)}, not {wanted}")
        demand("weights", bool((stated > 0).all()), f"those of {address} are {stated.tolist()}; zero can never train")
        off = abs(float(stated.sum()) - 1)
        assertions.hold(
            "weights", f"how far from one the sum for {address} is", off, tolerance(torch.ones((), dtype=stated.dtype))
        )


# ------------------------------------------------------------------------------------------------ how it trains on


@law("morphism.alive", "new units start at zero on both sides, or a weight starts so near zero that it never trains")
def alive(case: Case) -> None:
    """What is new can learn: a gradient reaches every new parameter within three steps, with one of a few seeds at least, as
    chance may turn a ReLU off. A parameter that no numbers would let learn, as what a kernel has beyond its image, is let off.
    """
    child = case.child()[2]
    dead = _unreached(child)
    for n in range(3 if dead else 0):
        dead &= _unreached(case.child(case.seed(n))[2])
    if dead:
        dead -= _unreached(child, case.seed("numbers"))
    demand("alive", not dead, f"no gradient reached what is new in {', '.join(sorted(dead))} within three steps")


def _unreached(child: TrainedNetwork, numbers: Seed | None = None) -> set[str]:
    """The parameters no new entry of which a gradient reaches in three steps; from a seed: where all has random numbers."""
    own = _on_all(child.copy())
    if numbers is not None:
        generator = numbers.generator()
        for parameter in own.network.parameters():
            parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    named, unreached = dict(own.network.named_parameters()), {}
    for name, parameter in named.items():
        new = _new(child, name, parameter)
        if new.any():
            unreached[name] = new

    def note(*_: Any) -> None:
        for name, new in [*unreached.items()]:
            gradient = named[name].grad
            if gradient is not None and bool((gradient[new].abs() > 0).any()):
                del unreached[name]

    for optimiser in own.state.optimisers.values():
        optimiser.register_step_pre_hook(note)
    own.train(3)
    return {*unreached}


def _on_all(trained: TrainedNetwork) -> TrainedNetwork:
    """The same search with all examples in a batch: the more there are, the fewer ReLUs are off for all of them."""
    return attrs.evolve(trained, strategy=attrs.evolve(trained.strategy, batch=trained.data.train.size))


@law("morphism.twins", "new units are copies of each other, or all start at one constant, and what takes them in does, too")
def twins(case: Case) -> None:
    """No two new units stay twins: three steps on, the weights by which they are made differ."""
    _, _, child = case.child()
    for name, parameter in _on_all(child.copy()).train(3).network.named_parameters():
        rows = _new_rows(child.map.get(name), parameter.detach())
        if len(rows) > 1:
            apart = torch.cdist(rows, rows, p=math.inf).fill_diagonal_(math.inf).min()
            demand("twins", float(apart) > tolerance(rows), f"two new rows of {name} are still the same after three steps")


def _new_rows(entry: Take | Set | None, parameter: Tensor) -> Tensor:
    """Of a weight the rows that make new units; those of zeros are no twins, but dead."""
    if parameter.dim() < 2:
        return parameter.new_empty(0, 0)
    new = torch.ones(len(parameter), dtype=torch.bool)
    if isinstance(entry, Take):
        index = entry.index[0] if entry.index else None
        new = ~new if index is None else index < 0
    rows = parameter[new].flatten(1)
    return rows[(rows != 0).any(1)]


@law("morphism.gradient", "`Take` has no `gradient`, where a unit is split, say, and each part gets a share")
def gradient(case: Case) -> None:
    """Where a change is exact, the gradient of what the child takes from its parent goes as its map says, by which the moments
    of the optimiser follow.
    """
    _claiming(case, "exact", lambda parent, change, child: assertions.assert_gradients_follow(parent, child))


@law("morphism.moments", "numbers of the parent are copied with `Set`, which starts their moments anew; `Take` is right")
def moments(case: Case) -> None:
    """Where a change is exact, what the child has from its parent moves in the next step as it would have: it keeps its moments."""
    _claiming(case, "exact", _moved)


def _moved(parent: TrainedNetwork, change: Change, child: TrainedNetwork) -> None:
    taken = {entry.source for entry in child.map.values() if isinstance(entry, Take)}
    left = {n: p.detach() for n, p in parent.network.named_parameters() if n not in taken}
    for name, entry in child.map.items():
        copied = [n for n, p in left.items() if isinstance(entry, Set) and _holds(entry.tensor, p)]
        demand("moments", not copied, f"{name} is set to numbers of {', '.join(copied)}, whose moments are lost")
    # of a single example a BatchNorm and a mean over its pixels leave nothing, and of the gradients rounding alone
    assertions.assert_moments_follow(_on_all(parent), _on_all(child))


def _holds(whole: Tensor, part: Tensor) -> bool:
    """Whether all numbers of a tensor, and there are some, are in another, wherever they stand."""
    numbers = part[part != 0]
    return bool(numbers.numel()) and bool(torch.isin(numbers, whole.to(part)).all())
