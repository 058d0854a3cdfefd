"""The laws of morphisms: tried on their proposals to networks that have trained, and that may have grown by them before."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import (
    Address,
    Claim,
    Edit,
    Filling,
    Morphism,
    Network,
    Proposal,
    Seed,
    Set,
    Strategy,
    Structure,
    Take,
    build,
)
from nasframe.change.claim import tolerance
from nasframe.change.edit import combine
from nasframe.errors import ChangeError, NonFiniteError, StrategyError, StructureError
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.assertions import described, new_entries
from nasframe.testing.cases import STEPS, SearchCase
from nasframe.testing.compare import require, same
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.saved import saved
from nasframe.testing.strategies import cached, damaged, draw_one, seeds, trained_network
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: the errors by which a morphism says that it can do nothing with a network
REFUSALS = (ChangeError, StructureError, StrategyError)


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """A proposal of a morphism to the network of a search.

    Args:
        place: chooses the proposal.
        before: the number of steps since the network grew by the morphism; None if it has not.
        training: whether the network is in training mode.
        seed: the seed of the change.
    """

    place: int
    before: int | None
    training: bool
    seed: Seed

    def __str__(self) -> str:
        grown = "" if self.before is None else f", grown by it {self.before} steps before"
        return f"{super().__str__()}{grown}; proposal {self.place} modulo their number, {self.seed}"

    def details(self) -> str:
        """Return the case in words, with the request of the proposal."""
        return f"{self} = {dict(self.proposals[0].request)}"

    @property
    def parent(self) -> TrainedNetwork:
        """Return a copy of the network before the change."""
        return _parent(self.strategy, self.part, self.place, self.before, self.training)

    @property
    def proposals(self) -> list[Proposal]:
        """Return the proposals to the network before the change, beginning with that of the case.

        They are measured once for all laws. A law about proposing calls `proposed`.
        """
        return _rotated(_shared(self.strategy, self.part, self.place, self.before, self.training), self.place)

    def proposed(self, trained: TrainedNetwork) -> list[Proposal]:
        """Let the morphism propose changes of a network, and return them, beginning with that of the case."""
        return _rotated(_proposed(self.part, trained), self.place)

    def child(self, seed: Seed | None = None) -> tuple[TrainedNetwork, TrainedNetwork]:
        """Return the network before the change, and its child."""
        parent = self.parent
        return parent, _child(self.part, parent, self.proposals[0], seed or self.seed)

    def filling(self) -> tuple[Structure, Filling]:
        """Return the structure of the child, and how it is filled."""
        parent = self.parent
        edit = _edit(self.part, parent.network.structure, self.proposals[0], self.seed)
        return edit.structure, _filling(edit, parent.network, self.seed)


def _parent(strategy: Strategy, part: Morphism, place: int, before: int | None, training: bool) -> TrainedNetwork:
    # a network that grew by the same morphism before shows faults that need a second change, such as ids that are used again
    if before is None:
        parent = trained_network(strategy, STEPS)
    elif (grown := _grown(strategy, part, place, before)) is not None:
        parent = grown.copy()
    else:
        reject()
    parent.network.train(training)
    return parent


def _proposed(part: Morphism, trained: TrainedNetwork) -> list[Proposal]:
    try:
        return trained.proposals(part)
    except REFUSALS:
        return []


@cached
def _shared(strategy: Strategy, part: Morphism, place: int, before: int | None, training: bool) -> list[Proposal]:
    """Return the proposals to the network of a case: measuring them takes longer than most laws."""
    return _proposed(part, _parent(strategy, part, place, before, training))


@cached
def _fresh(strategy: Strategy, part: Morphism) -> list[Proposal]:
    """Return the proposals to a network that has not trained."""
    return _proposed(part, trained_network(strategy, 0))


def _rotated(found: list[Proposal], place: int) -> list[Proposal]:
    """Return copies of the proposals, beginning with that of a place; reject the case if there are none."""
    if not found:
        reject()
    place %= len(found)  # the number of proposals is known only now
    return copy.deepcopy(found[place:] + found[:place])


def _edit(part: Morphism, structure: Structure, proposal: Proposal, seed: Seed) -> Edit:
    try:
        return part.edit(structure, proposal.request, proposal.evidence, seed)
    except ChangeError:  # morphism.proposals reports it
        reject()


def _filling(edit: Edit, parent: Network, seed: Seed) -> Filling:
    with torch.no_grad():
        return edit.fill(parent, build(edit.structure, seed("build"), like=parent))


def _child(part: Morphism, parent: TrainedNetwork, proposal: Proposal, seed: Seed) -> TrainedNetwork:
    return parent.after(_edit(part, parent.network.structure, proposal, seed), seed)


@cached
def _grown(strategy: Strategy, part: Morphism, place: int, before: int) -> TrainedNetwork | None:
    parent, seed = trained_network(strategy, STEPS), Seed((place, "before"))
    try:
        return _child(part, parent, _rotated(_shared(strategy, part, place, None, True), place)[0], seed).train(before)
    except NonFiniteError:
        return None


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the morphism in every habitat to whose networks it proposes something."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        # Whether anything fits is found out before a case is drawn: otherwise hypothesis would reject thousands of cases.
        fitting, reason = _fitting(subject, part)
        if not fitting:
            raise NoCases(reason)
        return Case(
            subject=subject,
            part=part,
            strategy=draw(st.one_of(fitting)),
            place=draw(st.integers(0, 60)),
            # Half of the cases without an earlier growth, the others right after one or some steps later.
            before=draw(st.sampled_from([None, None, 0, STEPS])),
            training=draw(st.booleans()),
            seed=draw(seeds()),
            data=draw(st.data()),
        )

    return draw()


@cached
def _fitting(subject: Subject, part: Morphism) -> tuple[list[SearchStrategy[Strategy]], str]:
    """Return the searches of the habitats to whose networks the morphism proposes something, or why there are none."""

    def fits(searches: SearchStrategy[Strategy]) -> bool:
        # a backbone may refuse an operation, and a morphism a network
        found = searches.map(lambda strategy: trained_network(strategy, 0).proposals(part))
        return draw_one(found, 8, (*REFUSALS, ValueError)) is not None

    # Most morphisms change the networks of any habitat. Only for the others are operations tried, first those of the
    # morphism's plugin and then all: building a network for each pair takes long.
    fitting = [searches for habitat in subject.habitats if fits(searches := habitat.strategies(()))]
    for operations in (subject.operations, subject.other_operations):  # it may need some that no habitat chooses
        if not fitting:
            pairs = itertools.product(subject.habitats, operations)
            with_them = (drawn.flatmap(lambda o, habitat=habitat: habitat.strategies((o,))) for habitat, drawn in pairs)
            fitting = [searches for searches in with_them if fits(searches)]
    backbones = ", ".join(habitat.backbone.name for habitat in subject.habitats)
    return fitting, (
        f"it proposes no change of any backbone that has a habitat ({backbones or 'there is none'}), with any operation that is "
        "installed or without: let the examples of the plugin have a Habitat, of whatever backbone, whose networks it can change"
    )


def exercise(case: Case) -> dict[str, Any]:
    """Return the proposals, and everything about one change."""
    parent = case.parent
    found = case.proposed(parent)
    edit = _edit(case.part, parent.network.structure, found[0], case.seed)
    child = parent.after(edit, case.seed)
    return {
        "the proposals": [attrs.asdict(p) for p in found],
        "the structure": child.network.structure.to_json(),
        "the claim": repr(child.claim),
        "the mixing weights": dict(_filling(edit, parent.network, case.seed).mixing),
        **{f"the child's {n}": t.detach() for n, t in tensors(child.network).items()},
    }


Holds = Callable[[TrainedNetwork, TrainedNetwork], str | None]


def _claiming(case: Case, kind: str, holds: Holds, tries: int = 4) -> str | None:
    """Try a change with a kind of claim: that of the case or, if it has another claim, that of another case."""
    if kind not in case.part.claims:
        raise Inapplicable(f"its claims are {', '.join(case.part.claims)}")
    for n in range(tries):
        # a fresh network shows at less cost whether it is worthwhile to train one
        if _fresh_claim(case.strategy, case.part, case.place, case.seed) == kind and _claims((found := case.child())[1], kind):
            try:
                return holds(*found)
            except AssertionError as error:
                if n:  # the report shows the first case
                    raise AssertionError(f"{error}; in {case}") from error
                raise
        case = case.data.draw(cases(case.subject))
    raise Inapplicable(f"it does not claim to be {kind}")


@cached
def _fresh_claim(strategy: Strategy, part: Morphism, place: int, seed: Seed) -> str | None:
    """Return the kind of claim of a change of a fresh network."""
    parent = trained_network(strategy, 0)
    edit = _edit(part, parent.network.structure, _rotated(_fresh(strategy, part), place)[0], seed)
    filling = _filling(edit, parent.network, seed)
    return getattr(filling.claim, "kind", None)


def _claims(child: TrainedNetwork, kind: str) -> bool:
    return getattr(child.claim, "kind", None) == kind


# --------------------------------------------------------------------------------------------------------------- proposals


@law("morphism.proposals", "a request holds a tuple or an object, a gain is not computed, or edit() checks more than propose()")
def proposals(case: Case) -> None:
    """Every proposal can be carried out; its request is JSON and differs from the others; its gain and evidence are finite."""
    parent = case.parent
    network, found = parent.network, case.proposed(parent)
    # As JSON, because that is what a lineage keeps and a replay reads.
    requests = [_json(p.request, "a proposal's request") for p in found]
    for n, proposal in enumerate(found):
        require(requests.index(requests[n]) == n, f"{proposal.request} is proposed twice")
        require(math.isfinite(proposal.gain), f"the gain of {proposal.request} is {proposal.gain}")
        bad = [k for k, t in proposal.evidence.items() if not bool(torch.as_tensor(t).isfinite().all())]
        require(not bad, f"the evidence {', '.join(bad)} of {proposal.request} is not finite")
    # not all: a backbone with many sites has hundreds
    for proposal in found[:4]:
        try:
            case.part.edit(network.structure, proposal.request, proposal.evidence, case.seed)
        except ChangeError as error:
            require(False, f"{proposal.request} is proposed, but edit() refuses it: {error}")


def _json(value: Any, what: str) -> Any:
    """Return a mapping as it is read back from its JSON."""
    try:
        again = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is {value!r}, which cannot be written as JSON: {error}") from error
    require(again == value, f"{what} is {value!r}; its JSON reads {again!r}")
    return again


@law("morphism.admits", "`admits` has another condition than `propose`, or leaves out a candidate that can be changed")
def admits(case: Case) -> None:
    """A morphism that proposes a change of a structure admits the structure."""
    structure = case.parent.network.structure
    require(bool(case.part.admits(structure)), "it proposes a change of a structure that it does not admit")


@law("morphism.measured", "it modifies the network of the search, or reads more data than a context has")
def measured(case: Case) -> None:
    """Proposing leaves the search as it was, and does not read the test split."""
    trained = case.parent.without_test_split()
    # By identity: even a gradient of zeros that is left behind would change the next step of an optimiser with momentum.
    gradients = {n: p.grad for n, p in trained.network.named_parameters()}
    # The saved form contains all that a resume would restore: weights, moments, alphas, records and criteria's states.
    before = saved(trained.state)
    case.proposed(trained)
    require(same(before, saved(trained.state)), "proposing changes the search")
    left = [n for n, p in trained.network.named_parameters() if p.grad is not gradients[n]]
    require(not left, f"proposing leaves gradients in {', '.join(left)}")


@law("morphism.cost", "the cost is an estimate, or alphas, gates, or the consumers of a new unit are left out")
def cost(case: Case) -> None:
    """The cost of a proposal is the number of parameters by which the network grows."""
    parent, child = case.child()
    counts = [sum(p.numel() for p in each.network.parameters()) for each in (parent, child)]
    # Criteria such as max_parameters decide by the cost before there is a child.
    declared, more = case.proposals[0].cost, counts[1] - counts[0]
    require(declared == more, f"the declared cost is {declared}; the child has {more} parameters more than its parent")


@law("morphism.changes", "a limit is applied by clipping, so that the child equals its parent")
def changes(case: Case) -> None:
    """The child has other nodes, sites, operations or sizes than its parent."""
    parent, child = case.child()
    # Ids are new in every child; a change that makes nothing but new ids would be repeated for ever.
    before, after = (_without_ids(each.network.structure) for each in (parent, child))
    require(before != after, "the child has the structure of its parent, except for ids")


def _without_ids(structure: Structure) -> Any:
    sites = [(address, site.inputs, [c.operation for c in site.candidates]) for address, site in structure.sites()]
    return structure.backbone, structure.sizes, [*structure.nodes()], sites


# --------------------------------------------------------------------------------------------------- how a change is made


@law("morphism.transaction", "it changes the parent's tensors, or leaves the parent in another mode")
def transaction(case: Case) -> None:
    """Proposing and changing leave the parent as it is, to the bit, and so does training the child.

    The child shares no memory with its parent, and has its mode, dtype and device.
    """
    parent = case.parent
    proposal = case.proposals[0]
    assertions.assert_transaction(parent, lambda structure: _edit(case.part, structure, proposal, case.seed), case.seed)


@law("morphism.blind", "it measures what the change does instead of deriving it; what is measured belongs into `evidence`")
def blind(case: Case) -> None:
    """An edit is made without a network, and the child is filled from the tensors of the parent: no module is called."""
    parent = case.parent
    proposal = case.proposals[0]
    assertions.assert_no_forward(parent, lambda structure: _edit(case.part, structure, proposal, case.seed), case.seed)


@law("morphism.refuses", "a request is read with [], or an unknown value in it is replaced by a default")
def refuses(case: Case) -> None:
    """An impossible request is refused with a ChangeError before a network is built, and not replaced by another one."""
    parent = case.parent
    proposal = case.proposals[0]
    structure = _edit(case.part, parent.network.structure, proposal, case.seed).structure
    if not proposal.request:
        raise Inapplicable("its requests are empty")

    def requested(request: Any) -> Structure | None:
        try:
            return case.part.edit(parent.network.structure, request, proposal.evidence, case.seed).structure
        except ChangeError:
            return None
        except Exception as error:
            raise AssertionError(f"{request} raises {error!r}; raise a ChangeError that says what is wrong with it") from error

    for _ in range(8):
        requested(case.data.draw(damaged(dict(proposal.request))))
    # Each key alone, so that a key that is never read is found.
    for key in proposal.request:
        request = {**proposal.request, key: "no such thing"}
        message = f"{request} is not refused, and makes another change than {proposal.request}"
        require(requested(request) in (None, structure), message)


@law("morphism.replay", "the edit depends on something that its request, evidence and seed do not determine, such as a counter")
def replay(case: Case) -> None:
    """The request of a proposal as JSON, its evidence and the seed make the same child of the same parent again.

    They make the same structure of the structure that is read from its JSON.
    """
    parent, child = case.child()
    proposal = case.proposals[0]
    # as a lineage that is read from disk has it
    again = attrs.evolve(proposal, request=_json(proposal.request, "the request"))
    made = _child(case.part, parent, again, case.seed)
    require(made.network.structure == child.network.structure, f"{again.request} makes another structure")
    expected, found = tensors(child.network), tensors(made.network)
    different = [n for n, t in expected.items() if not same(t, found[n])]
    require(not different, f"{again.request} makes another child: {', '.join(different)} differ")
    structure = Structure.from_json(parent.network.structure.to_json(), case.subject.plugins.make)
    remade = _edit(case.part, structure, again, case.seed).structure
    require(remade == child.network.structure, f"{again.request} makes another structure of the structure's JSON")


@law(
    "morphism.together", "`fill` has entries for tensors that the edit does not change, or takes the last node for its new one"
)
def together(case: Case) -> None:
    """Two edits of different sites in one change make the child that they make one after the other.

    Numbers that are drawn may differ. The claim is exact if both are, and lossy if one is.
    """
    parent = case.parent
    first, *others = case.proposals
    one = _edit(case.part, parent.network.structure, first, case.seed("first"))
    two = _second(case, parent.network.structure, one, [*others, first][:12])
    # The reference is the chain of two changes. Both ways start from the same parent with the same seed, so that all
    # numbers that are not drawn must agree to the bit.
    halfway = parent.after(one, case.seed)
    chain = halfway.after(two, case.seed)
    try:
        child = parent.after(combine([one, two]), case.seed)
    except ChangeError as error:
        raise AssertionError(f"two edits of different sites cannot be made in one change: {error}") from error
    expected_tensors = tensors(chain.network)
    for name, tensor in tensors(child.network).items():
        # New entries are drawn from seeds that depend on the number of changes, so that they cannot agree.
        old = ~assertions.new_entries(child, name, tensor)
        require(same(tensor[old], expected_tensors[name][old]), f"{name} has other numbers than after two changes")
    # The weakest of the two claims is that of both.
    kinds = [getattr(each.claim, "kind", None) for each in (halfway, chain)]
    expected = next((kind for kind in ("lossy", "approximate") if kind in kinds), "exact")
    require(_claims(child, expected), f"the claims are {kinds[0]} and {kinds[1]}, and together {child.claim}")


def _second(case: Case, structure: Structure, one: Edit, proposals: list[Proposal]) -> Edit:
    """Return an edit of what another one leaves that changes none of its sites.

    Raises:
        Inapplicable: if no proposal makes one.
    """

    def changed(before: Structure, after: Structure) -> set[str]:
        found = dict(after.sites())
        return {address for address, site in before.sites() if found.get(address) != site}

    for proposal in proposals:
        try:
            edit = case.part.edit(one.structure, proposal.request, proposal.evidence, case.seed("second"))
        except ChangeError:
            continue
        if not changed(structure, one.structure) & changed(one.structure, edit.structure):
            return edit
    raise Inapplicable("it makes no two edits of different sites")


@law("morphism.seed", "`fill` draws from another seed than that of the edit, so that every growth starts from the same numbers")
def seed(case: Case) -> None:
    """The random numbers of a change follow from its seed: with another seed all of them differ."""
    # A tensor counts as random only if a network that is built with these two seeds differs there as well: constant
    # initialisations, such as zero biases, are equal with any seed.
    chosen = case.seed, case.seed("another")
    for proposal in _some_proposals(case):
        child, drawn = _drawn(case, proposal, *chosen)
        # the new entries are random if there are several values, and a new network of this structure draws them, too
        several = {name: v for name, v in drawn.items() if len(v[1][v[0] & (v[1] != 0)].unique()) > 1}
        bare = [tensors(build(child.network.structure, s)) for s in chosen] if several else [{}]
        random = {}
        for name, (mask, first, second) in several.items():
            if name in bare[0] and not same(*(each[name][mask] for each in bare)):
                random[name] = same(first[mask], second[mask])
        # a tensor that is set may have the same values on purpose
        kept = [name for name, is_same in random.items() if is_same and not isinstance(child.map.get(name), Set)]
        require(not kept, f"two seeds give the same numbers in {', '.join(kept)}")
        if random:
            return
    raise Inapplicable("it draws no numbers")


def _some_proposals(case: Case) -> list[Proposal]:
    """Return a few of the proposals to a fresh network: not all of them may draw something."""
    proposals = _rotated(_fresh(case.strategy, case.part), case.place)
    return proposals[:: 1 + len(proposals) // 6]


def _drawn(case: Case, proposal: Proposal, *chosen: Seed) -> tuple[TrainedNetwork, dict[str, tuple[Tensor, ...]]]:
    """Return a child, and for each tensor of it a mask of its new entries and the values that each seed gives.

    The mixing weights that the change states are among the tensors, under "mixing/" and their address, and not the alphas
    that follow from them.
    """
    parent = trained_network(case.strategy, 0)
    edits = [_edit(case.part, parent.network.structure, proposal, s) for s in chosen]
    if len({edit.structure for edit in edits}) > 1:
        raise Inapplicable("the structure of the child depends on the seed")
    stated: list[Mapping[str, Tensor]] = []

    def noted(edit: Edit) -> Edit:
        def fill(parent: Network, child: Network) -> Filling:
            filling = edit.fill(parent, child)
            stated.append(filling.mixing)
            return filling

        return attrs.evolve(edit, fill=fill)

    # A fresh parent is enough: what is drawn does not depend on how it was trained.
    children = [parent.after(noted(edit), s) for edit, s in zip(edits, chosen, strict=True)]
    values = [tensors(child.network) for child in children]
    found = dict[str, tuple[Tensor, ...]]()
    for name, first in values[0].items():
        mask = new_entries(children[0], name, first)
        if mask.any() and name.removeprefix("alphas.") not in stated[0]:
            found[name] = (mask, *(each[name].detach() for each in values))
    for address, first in stated[0].items():
        found[f"mixing/{address}"] = (torch.ones_like(first, dtype=torch.bool), *(each[address] for each in stated))
    return children[0], found


@law("morphism.independent", "a generator is seeded anew for each site or instance, or one drawn tensor is used for several")
def independent(case: Case) -> None:
    """The random numbers of a change for different sites and instances are independent of each other.

    No entry of one tensor equals the entry at the same position of another one with every seed.
    """
    chosen = [case.seed(n) for n in range(12)]
    for proposal in _some_proposals(case):
        # what is equal with two seeds may be so by chance, with twelve it is not
        if _equal_entries(_drawn(case, proposal, *chosen[:2])[1]):
            pairs = _equal_entries(_drawn(case, proposal, *chosen)[1])
            words = "; ".join(f"{one} and {other}" for one, other in pairs)
            require(not pairs, f"with every seed there are equal random numbers in {words}")


def _equal_entries(drawn: dict[str, tuple[Tensor, ...]]) -> list[tuple[str, str]]:
    """Return the pairs of tensors with an entry at the same position that is equal for every seed, but not the same number."""
    # One row for each seed. Truly independent numbers agree in all twelve rows with a probability of zero.
    rows = {name: torch.stack([v[mask] for v in values]) for name, (mask, *values) in drawn.items()}
    found = []
    for one, other in itertools.combinations(rows, 2):
        count = min(rows[one].shape[1], rows[other].shape[1])
        # the same position in both: two tensors filled from one stream that was seeded twice agree there
        a, b = rows[one][:, :count].double(), rows[other][:, :count].double()
        equal = ((a - b).abs() <= 1e-9 * a.abs()).all(0)
        # a constant is no random number
        varies = (a != a[0]).any(0)
        if bool((equal & varies).any()):
            found.append((one, other))
    return found


@law(
    "morphism.structure",
    "a new operation is not registered, an old id is used again, or next_id or next_node is not increased",
)
def structure(case: Case) -> None:
    """The JSON of the child's structure makes the same network again, and no id of a candidate or node is used again."""
    parent, child = case.child()
    # also the network before an earlier growth, whose ids must not come back
    structures = [case.trained.network.structure, parent.network.structure, child.network.structure]
    assertions.assert_ids_not_reused(structures)
    assertions.assert_reconstructed(child, case.subject.plugins.make)


# ------------------------------------------------------------------------------------------------------------------ claims


@law("morphism.claim", "Filling has no Claim, or one that was not made with Claim.exact(), .approximate() or .lossy()")
def claim(case: Case) -> None:
    """A change claims to be exact, lossy, or approximate with a bound for each changed node in terms of its inputs."""
    _, child = case.child()
    # Of any type, because the law is about what a stranger's edit returns.
    made: Any = child.claim
    ways = "write Claim.exact(), Claim.approximate({address of a node: bound}) or Claim.lossy()"
    require(isinstance(made, Claim), f"the claim is {made!r}; {ways}")
    require(made.kind in ("exact", "approximate", "lossy"), f"the claim is of the kind {made.kind!r}; {ways}")
    require(made.kind in case.part.claims, f"the claim is {made.kind}, which is not among its `claims` {case.part.claims}")
    # Without a bound an approximate claim says nothing, and with one another claim would be weaker than it says.
    require(bool(made.bounds) == (made.kind == "approximate"), f"an {made.kind} claim has the bounds {made.bounds}; {ways}")
    wrong = _misplaced(child, made)
    require(not wrong, "; ".join(wrong))
    for address, bound in made.bounds.items():
        sound = all(math.isfinite(c) and c >= 0 for c in bound.terms.values())
        require(sound, f"the coefficients of the bound on {address} are {bound.to_dict()}")


def _misplaced(child: TrainedNetwork, claim: Claim) -> list[str]:
    """Return what is wrong with the addresses of bounds and the inputs that they name."""
    structure = child.network.structure
    wrong, nodes = [], [address for address, _ in structure.nodes()]
    for address, bound in claim.bounds.items():
        if address not in nodes:
            wrong.append(f"there is a bound on {address}; the child's nodes are {', '.join(nodes)}")
            continue
        inputs = [i for site in structure.sites_of(Address(address)).values() for i in site.inputs]
        if strange := {i for term in bound.terms for i in term} - set(inputs):
            wrong.append(f"the bound on {address} is in terms of {strange}; the node's inputs are {', '.join(inputs)}")
    return wrong


@law(
    "morphism.exact",
    "the consumers of a new unit do not start at zero, buffers (running means) are lost, or mixing weights change",
)
def exact(case: Case) -> str | None:
    """A change that claims to be exact changes no output beyond rounding, in evaluation and in training mode."""
    parent, child = case.child()
    try:
        assertions.assert_exact(parent, child)
    except AssertionError as error:
        if not _claims(child, "exact"):
            return None
        named = tensors(child.network)
        new = [name for name, tensor in named.items() if bool((tensor[new_entries(child, name, tensor)] != 0).any())]
        where = f"Numbers that are neither zero nor its parent's are in {', '.join(new) or 'no tensor of the child'}"
        raise AssertionError(f"{error}. {where}") from None
    return None if _claims(child, "exact") else "it could claim to be exact: no output changed"


#: a bound that is so many times the largest error found is reported as loose, or fails for a new node
LOOSE = 100.0


@law("morphism.bound", "the bound leaves out a candidate, a product of inputs or an instance, or is not scaled with the noise")
def bound(case: Case) -> str | None:
    """The error of a changed node is within the claimed bound, for the inputs that it has and for any up to ten times as large.

    A new node should return the mean of the previous outputs of its cell, and an old one what it returned for the same
    inputs. For a new node the bound is at most a hundred times the largest error found.
    """
    return _claiming(case, "approximate", _bounded)


def _bounded(parent: TrainedNetwork, child: TrainedNetwork) -> str | None:
    assert child.claim is not None
    if _misplaced(child, child.claim):
        raise Inapplicable("its bounds are refused by morphism.claim")
    nodes, nearest = {address for address, _ in parent.network.structure.nodes()}, 0.0
    for node, limit in child.claim.bounds.items():
        # a node that existed should return what it did; a new one the mean of the outputs before it
        before = parent if node in nodes else None
        assertions.assert_within_bounds(child, {node: limit}, before)
        factors = dict.fromkeys((1.0, 10.0), math.inf if before else LOOSE)
        nearest = max(nearest, assertions.assert_tight(child, node, limit, factors, before))
    return f"but a bound is over {LOOSE:g} times the largest error found" if nearest > LOOSE else None


# ------------------------------------------------------------------------------------------------------ how a child trains


@law("morphism.alive", "new units start at zero on both sides, or a weight starts so near zero that it never trains")
def alive(case: Case) -> None:
    """A gradient reaches every new parameter within three steps, with one of four seeds at least.

    A ReLU may be off by chance, therefore several seeds. A parameter that receives no gradient with random numbers everywhere,
    such as a part of a kernel that is larger than the image, does not count.
    """

    def dead(child: TrainedNetwork) -> set[str]:
        named = dict(child.network.named_parameters())
        return {
            n for n, mask in assertions.unreached_entries(child).items() if torch.equal(mask, new_entries(child, n, named[n]))
        }

    # A parameter must be dead with every seed to count.
    found = dead(_full_batch(case.child()[1]))
    for n in range(3 if found else 0):
        found &= dead(_full_batch(case.child(case.seed(n))[1]))
    if found:
        # if no gradient comes even with random numbers everywhere, the parameter cannot have one here
        random = _full_batch(case.child()[1]).copy()
        generator = case.seed("numbers").generator()
        for parameter in random.network.parameters():
            parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        found -= dead(random)
    require(not found, f"no gradient reached what is new in {', '.join(sorted(found))} within three steps")


def _full_batch(trained: TrainedNetwork) -> TrainedNetwork:
    """Return the same search with all examples in a batch: the more there are, the fewer ReLUs are off for all of them."""
    return attrs.evolve(trained, state=attrs.evolve(trained.state, batch=trained.data.train.size))


@law(
    "morphism.twins",
    "new units are copies of each other, or all start at one constant, and so do the weights of their consumers",
)
def twins(case: Case) -> None:
    """New units differ from each other after three steps."""
    _, child = case.child()
    # Three steps: units that start equal get equal gradients for ever, and others have separated by then.
    for name, parameter in _full_batch(child.copy()).train(3).network.named_parameters():
        rows = _new_rows(child.map.get(name), parameter.detach())
        if len(rows) > 1:
            # the distance of the closest two, without that of a row from itself
            apart = torch.cdist(rows, rows, p=math.inf).fill_diagonal_(math.inf).min()
            require(float(apart) > tolerance(rows), f"two new rows of {name} are still the same after three steps")


def _new_rows(entry: Take | Set | None, parameter: Tensor) -> Tensor:
    """Return the rows of a weight that make new units, without rows of zeros: morphism.alive reports those."""
    if parameter.dim() < 2:
        return parameter.new_empty(0, 0)
    new = torch.ones(len(parameter), dtype=torch.bool)
    if isinstance(entry, Take):
        index = entry.index[0] if entry.index else None
        new = ~new if index is None else index < 0
    rows = parameter[new].flatten(1)
    return rows[(rows != 0).any(1)]


@law("morphism.gradient", "`Take` lacks `gradient` although a unit is split, for example, and each part gets a share of it")
def gradient(case: Case) -> None:
    """After an exact change, the gradient of what the child has from its parent is that of the parent, taken as the map says."""
    _claiming(case, "exact", assertions.assert_gradients_follow)


@law("morphism.moments", "a tensor is copied with `Set`, which resets the moments of the optimiser, where `Take` carries them")
def moments(case: Case) -> None:
    """The child keeps the optimiser's moments of everything that it has from its parent, taken as the map says.

    New entries of an old tensor have none, and a step count at which Adam corrects that.
    """
    parent, child = case.child()
    # a tensor of the parent that no entry takes has lost its moments: right if it is gone, wrong if its numbers were copied
    taken = {entry.source for entry in child.map.values() if isinstance(entry, Take)}
    lost = {n: p.detach() for n, p in parent.network.named_parameters() if n not in taken}
    for name, entry in child.map.items():
        if isinstance(entry, Set):
            copied = [n for n, p in lost.items() if _contains(entry.tensor, p)]
            message = f"{name}, {described(entry)}, has the numbers of {', '.join(copied)}, whose moments are lost"
            require(not copied, message)
    assertions.assert_moments_follow(parent, child)


def _contains(whole: Tensor, part: Tensor) -> bool:
    """Return whether a tensor has all numbers of another one, which is not zero, at whatever positions."""
    numbers = part[part != 0]
    return bool(numbers.numel()) and bool(torch.isin(numbers, whole.to(part)).all())
