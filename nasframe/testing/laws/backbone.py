"""The laws of backbones: tried on networks that have trained, before and after they grow, are pruned, saved and loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Address, Change, Claim, GrownStructure, Network, Seed, Structure, build
from nasframe.change.apply import remove_candidates
from nasframe.change.claim import tolerance
from nasframe.errors import ChangeError, NonFiniteError, StructureError
from nasframe.interfaces.part import short_name
from nasframe.network.network import tensors
from nasframe.search.state import Snapshot, copied, rebuilt
from nasframe.structure.editing import remove_from
from nasframe.testing import assertions
from nasframe.testing.assertions import demand, hold
from nasframe.testing.case import Searched, same
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.laws.operation import MODES, largest
from nasframe.testing.layouts import LAYOUTS
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import removals
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: how many things happen to a search in its life between training, with which it begins, and a pruning and a growth
TURNS = 2


@attrs.frozen(eq=False, kw_only=True)
class Case(Searched):
    """A backbone in a search."""

    def __str__(self) -> str:
        s = self.strategy
        where = f"{short_name(self.part)}, {s.nodes} nodes, on {short_name(s.task)}"
        return f"{where}; batch {s.batch}, optimiser {s.optimiser.method}, seed {s.seed}"

    @property
    def sizes(self) -> Mapping[str, int]:
        """What the task tells."""
        return self.strategy.task.load(torch.device("cpu"), self.strategy.torch_dtype).sizes

    def cell(self, structure: Structure) -> str:
        """One of its cell types."""
        return self.data.draw(st.sampled_from([type for type, _ in structure.cells]))


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The backbone in the searches of its habitats."""
    if not any(habitat.backbone.name == subject.cls.name for habitat in subject.habitats):
        raise NoCases("the examples of the plugin have no habitat for it (see nasframe.testing.examples)")
    return st.builds(
        lambda strategy, data: Case(subject=subject, part=strategy.backbone, strategy=strategy, data=data),
        subject.searches(),
        st.data(),
    )


def exercise(case: Case) -> dict[str, Any]:
    """The first structure and its network, called in both modes, and all that the backbone makes of a structure."""
    trained, structure = case.trained, case.part.initial(case.sizes, case.strategy.nodes)
    initial = build(structure, Seed((case.strategy.seed, "exercise")))
    found = {
        "the first structure": structure.to_dict(),
        **{f"the initial {name}": tensor.detach() for name, tensor in tensors(initial).items()},
        **{f"the output in {mode} mode": trained.outputs(training) for mode, training in MODES.items()},
        "the output of a call": called(trained.network.eval(), trained.inputs(), trained.mixing()).detach(),
        "what is derived": [(a, sorted(ids)) for a, ids in case.part.derive(structure, even(structure)).items()],
        "what it tells of its fast form": [*case.part.slow_parts(structure)],
    }
    for type, cell in structure.cells:
        found[f"what {type} puts out"] = case.part.outputs(cell)
        try:
            grown = case.part.grown(structure, type)
        except ChangeError as error:
            found[f"{type} grown"] = str(error)
        else:
            birth = {address: dict(weights) for address, weights in grown.mixing.items()}
            found[f"{type} grown"] = [grown.structure.to_dict(), grown.node, grown.inherits, birth]
    return found


def even(structure: Structure) -> dict[str, Tensor]:
    """The same weight for all candidates of each undecided site."""
    counts = {a: len(s.candidates) for a, s in structure.sites() if not s.decided}
    return {a: torch.full((n,), 1 / n, dtype=torch.float64) for a, n in counts.items()}


def called(network: Network, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What a network in evaluation mode puts out, without a graph."""
    with torch.no_grad():
        out = network(inputs, weights)
    if not isinstance(out, Tensor):
        raise AssertionError(f"called: in evaluation mode a call gives {type(out).__name__} in the place of a tensor")
    return out


def legal(name: str, structure: Structure) -> None:
    """Raise unless networks can be built from the structure, and its cells put out states that they have."""
    structure.check()
    for type, cell in structure.cells:
        states, named = (*structure.backbone.inputs, *(n.id for n in cell.nodes)), structure.backbone.outputs(cell)
        demand(name, {*named} <= {*states}, f"cell {type!r} is to put out {named}; its states are {states}")
        demand(name, len({*named}) == len(named) > 0, f"cell {type!r} is to put out {named}, which are none, or some twice")


def gated(grown: GrownStructure, type: str) -> Structure:
    """The structure with a gate at the new node."""
    cell = grown.structure.cell(type)
    nodes = tuple(attrs.evolve(n, inherits=grown.inherits) if n.id == grown.node.id else n for n in cell.nodes)
    return grown.structure.replace_cell(type, attrs.evolve(cell, nodes=nodes))


def after(parent: TrainedNetwork, structure: Structure) -> TrainedNetwork:
    """The search that goes on with this structure: what is new in it starts as it is built, its alphas even."""
    return parent.after(Change(build(structure, Seed(("after",)), like=parent.network), Claim.lossy()))


@law("backbone.initial", "initial() forgets a cell type, counts nodes otherwise, or names sites and nodes with '.' or '/'")
def initial(case: Case) -> None:
    """A first structure has as many nodes in each cell as are asked for, all that a network needs, and comes back from JSON."""
    nodes = case.data.draw(st.integers(1, 4))
    structure = case.part.initial(case.sizes, nodes)
    legal("initial", structure)
    counts = {type: len(cell.nodes) for type, cell in structure.cells}
    demand("initial", {*counts.values()} == {nodes}, f"asked for {nodes} nodes in each cell it gives {counts}")
    demand("initial", structure.backbone == case.part, f"it is a structure of {short_name(structure.backbone)}")
    told = {name: case.sizes.get(name) for name, _ in structure.sizes}
    demand("initial", dict(structure.sizes) == told, f"it has the sizes {dict(structure.sizes)}, the task tells {told}")
    again = Structure.from_json(structure.to_json(), case.subject.plugins.make)
    demand("initial", again == structure, "its JSON makes another structure")


@law("backbone.sizes", "initial() reads the sizes without `self.require_sizes(sizes, ...)`, or makes up what is missing")
def sizes(case: Case) -> None:
    """A task that lacks a size which the backbone keeps is refused with a StructureError that names the size."""
    for name, _ in case.part.initial(case.sizes, 1).sizes:
        fewer = {n: size for n, size in case.sizes.items() if n != name}
        try:
            case.part.initial(fewer, 1)
        except StructureError as error:
            demand("sizes", name in str(error), f"without {name!r} it says: {error}")
        else:
            demand("sizes", False, f"a task without {name!r}, which it needs, is not refused")


@law("backbone.modules", "body() makes a module without MixedOperation, leaves one out, or sets one as an attribute twice")
def modules(case: Case) -> None:
    """A network has a MixedOperation for each site, in all instances of its cell type alike, a module in it for each candidate, and
    no parameter twice.
    """
    network = case.trained.network
    for type, cell in network.structure.cells:
        found = {s.id: [m for _, m in network.mixed_operations(Address.of(type, s.id))] for s in cell.sites}
        counts = {id: len(mixtures) for id, mixtures in found.items()}
        demand("modules", len({*counts.values()}) == 1 and all(counts.values()), f"{type!r} has Mixtures {counts} by site")
        for site in cell.sites:
            wanted = [str(c.id) for c in site.candidates]
            for mixture in found[site.id]:
                own = [*mixture.candidates]
                demand("modules", own == wanted, f"{mixture.address} has modules for {own}; its candidates are {wanted}")
    names: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        demand("modules", first == name, f"{first} and {name} are one parameter")


@law("backbone.gradient", "a parameter is not used, or something is detached on the way to it")
def gradient(case: Case) -> None:
    """What a supernet puts out in training depends on each of its parameters and alphas, and its gradients are finite."""
    for form, fast in {"readable": False, "fast": True}.items():
        trained = case.trained
        trained.network.train().fast = fast
        inputs, targets = trained.data.train.batch(torch.arange(trained.data.train.size))
        with Seed(("gradient",)).as_global():
            out = trained.network(inputs, case.strategy.architect.mixing(dict(trained.network.alphas)))
        named = dict(trained.network.named_parameters())
        slopes = torch.autograd.grad(trained.data.objective(out, targets), [*named.values()], allow_unused=True)
        found = dict(zip(named, slopes, strict=True))
        dead = [name for name, slope in found.items() if slope is None]
        demand("gradient", not dead, f"in the {form} form nothing depends on {', '.join(dead)}")
        wild = [name for name, slope in found.items() if slope is not None and not slope.isfinite().all()]
        demand("gradient", not wild, f"in the {form} form the gradient of {', '.join(wild)} is not finite")


@law("backbone.batch", "something is taken over the examples, or the axis of the examples is dropped where there is one")
def batch(case: Case) -> None:
    """In evaluation mode what is put out for an example does not depend on those beside it: not on which, not on how many."""
    trained = case.trained
    network, weights, split = trained.network.eval(), trained.mixing(), trained.data.validation

    def rows(index: Tensor) -> Tensor:
        return trained.data.predict(called(network, split.batch(index)[0], weights)).to(torch.float64)

    whole, size = rows(torch.arange(split.size)), split.size
    some = case.data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    for chosen in (some, some[:1]):
        index = torch.tensor(chosen)
        own, wanted = rows(index), whole[index]
        demand("batch", own.shape == wanted.shape, f"of {len(chosen)} examples it makes {tuple(own.shape)}")
        what = f"the distance of examples {chosen} from themselves among all"
        hold("batch", what, largest(own - wanted), tolerance(whole))


@law("backbone.layout", "it uses view() or reads strides where reshape() is right")
def layout(case: Case) -> None:
    """What is put out does not depend on how the inputs lie in memory."""
    trained = case.trained
    network, weights, inputs = trained.network.eval(), trained.mixing(), trained.inputs()
    plain = called(network, inputs, weights)
    for name, laid in LAYOUTS.items():
        found = called(network, laid(inputs), weights)
        hold("layout", f"the distance of the outputs where the inputs are {name}", largest(found - plain), tolerance(plain))


@law("backbone.dtype", "it makes a tensor without dtype and device of its inputs, or reads a number out of one")
def dtype(case: Case) -> None:
    """A network computes in the dtype and on the device that it is moved to, on the device `meta` too, as where costs are told."""
    trained = case.trained
    for wanted in (torch.float32, torch.float64, torch.device("meta")):
        network, inputs, weights = trained.network.eval().to(wanted), trained.inputs(), trained.mixing()
        if inputs.is_floating_point() or isinstance(wanted, torch.device):
            inputs = inputs.to(wanted)
        out = called(network, inputs, {a: w.to(wanted) for a, w in weights.items()})
        found = out.device if isinstance(wanted, torch.device) else out.dtype
        demand("dtype", found == wanted, f"moved to {wanted} it puts out {found}")


@law("backbone.pure", "run() keeps what it made of the parameters, counts its calls, or works in place on what it is given")
def pure(case: Case) -> None:
    """A call leaves inputs, weights and parameters as they are, and keeps nothing: the next one computes with the numbers that
    there are then; in evaluation mode the same ones give the same bits.
    """
    trained = case.trained
    network, inputs, weights = trained.network, trained.inputs(), dict(trained.mixing())
    before = [inputs.clone(), *(w.clone() for w in weights.values())]
    own = {n: p.detach().clone() for n, p in network.named_parameters()}
    for mode, training in MODES.items():
        network.train(training)
        with torch.no_grad(), Seed(("pure",)).as_global():
            network(inputs, weights)
        demand("pure", same([inputs, *weights.values()], before), f"a call in {mode} mode changes what it is given")
        moved = [n for n, p in network.named_parameters() if not torch.equal(p, own[n])]
        demand("pure", not moved, f"a call in {mode} mode changes {', '.join(moved)}")
    network.eval()
    kept, first = copied(network), called(network, inputs, weights)
    called(network, -inputs if inputs.is_floating_point() else inputs.flip(0), even(network.structure))
    demand("pure", torch.equal(called(network, inputs, weights), first), "called again it puts out something else")
    changed = [n for n, t in tensors(network).items() if not torch.equal(t, kept[n])]
    demand("pure", not changed, f"a call in evaluation mode changes {', '.join(changed)}")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    other = rebuilt(case.strategy, Snapshot(network.structure, copied(network), None)).eval()
    now, wanted = (called(each, inputs, weights) for each in (network, other))
    what = "after its parameters have changed, the distance of the outputs from what they make"
    hold("pure", what, largest(now - wanted), tolerance(wanted))


@law("backbone.fast", "run() was written for another order or wiring than the modules', or detaches something")
def fast(case: Case) -> None:
    """The fast form computes what the modules do: values, gradients and second derivatives, in both modes."""
    trained = case.trained
    assertions.assert_fast_form(trained)
    exact, found = (curved(trained, fast) for fast in (False, True))
    scale = torch.stack([slope.abs().max() for slope in exact.values()])
    for name, slope in exact.items():
        hold("fast", f"the distance of the second derivative at {name}", largest(found[name] - slope), tolerance(scale))


def curved(trained: TrainedNetwork, fast: bool) -> dict[str, Tensor]:
    """The gradient of a sum of the gradients, each entry of these weighted otherwise."""
    network = copy.deepcopy(trained.network).train()
    network.fast = fast
    inputs, targets = trained.data.train.batch(torch.arange(trained.data.train.size))
    with Seed(("curved",)).as_global():
        loss = trained.data.objective(network(inputs, trained.strategy.architect.mixing(dict(network.alphas))), targets)
    named = dict(network.named_parameters())
    slopes = torch.autograd.grad(loss, [*named.values()], create_graph=True, materialize_grads=True)
    along = [torch.linspace(0.5, 1.5, slope.numel(), dtype=slope.dtype).view_as(slope) for slope in slopes]
    total = torch.stack([(slope * weights).sum() for slope, weights in zip(slopes, along, strict=True)]).sum()
    return dict(zip(named, torch.autograd.grad(total, [*named.values()], materialize_grads=True), strict=True))


@law("backbone.masked", "the body divides by a number of edges, or computes an architecture otherwise than a supernet")
def masked(case: Case) -> None:
    """A network from which candidates were removed computes what it did with weight zero on these, and the others' weights
    divided by their sum.
    """
    trained = case.trained
    assertions.assert_removal_is_masking(
        trained, case.data.draw(removals(trained.network.structure, case.data.draw(st.booleans())))
    )


@law("backbone.grown", "grown() builds the cell anew, touches another cell, or takes ids from elsewhere than `next_id`")
def grown(case: Case) -> None:
    """A cell grows, any number of times, by one node: behind the old ones, with sites and candidates of its own, under ids from
    `next_id` on; nothing else in the structure changes.
    """
    old = case.part.initial(case.sizes, case.strategy.nodes)
    for _ in range(case.data.draw(st.integers(1, 3))):
        type = case.cell(old)
        told = growth(case.part, old, type)
        new, before, cell = told.structure, old.cell(type), told.structure.cell(type)
        legal("grown", new)
        rest = new.replace_cell(type, before)
        demand("grown", attrs.evolve(rest, next_id=old.next_id) == old, f"the growth of {type!r} changes more than that cell")
        nodes, added = len(before.nodes), cell.sites[len(before.sites) :]
        demand("grown", cell.nodes[:nodes] == before.nodes, f"of the nodes {before.nodes} it makes {cell.nodes}")
        demand(
            "grown",
            [Address.of(type, n.id) for n in cell.nodes[nodes:]] == [told.node],
            f"to {before.nodes} it adds {cell.nodes[nodes:]}",
        )
        demand("grown", cell.sites[: len(before.sites)] == before.sites, "the old sites are others, or in another order")
        demand(
            "grown",
            {Address.of(type, s.node) for s in added} == {told.node},
            f"it adds sites to {', '.join(s.node for s in added)}",
        )
        ids = [c.id for s in added for c in s.candidates]
        demand("grown", min(ids) >= old.next_id, f"it takes the ids {ids}; next_id is {old.next_id}")
        old = new


def growth(part: Any, structure: Structure, type: str) -> GrownStructure:
    """What grown() tells; a cell that says that it cannot grow is no case."""
    try:
        told = part.grown(structure, type)
    except ChangeError as error:
        raise Inapplicable(f"it refuses to grow: {error}") from error
    assert isinstance(told, GrownStructure)
    return told


@law("backbone.birth", "`inherits` names other states than outputs() does, or `mixing` weighs a candidate that is no identity")
def birth(case: Case) -> None:
    """A grown network has all tensors of the old one and computes what it did: behind a gate on what the new node `inherits`,
    at its `mixing`, or, where it inherits nothing, as it is built.
    """
    trained = case.trained
    structure = trained.network.structure
    type = case.cell(structure)
    told = growth(case.part, structure, type)
    demand("birth", bool(told.inherits) or not told.mixing, "it has weights for its birth, and inherits nothing")
    child = after(trained, gated(told, type))
    lost = tensors(trained.network).keys() - tensors(child.network).keys()
    demand("birth", not lost, f"the grown network has no {', '.join(sorted(lost))}")
    assertions.assert_exact(trained, child)
    if not told.mixing:
        return
    sites = told.structure.sites_of(told.node)
    demand("birth", told.mixing.keys() == sites.keys(), f"it weighs {[*told.mixing]}; the new sites are {[*sites]}")
    child = after(trained, told.structure)
    weights = dict(child.mixing())
    for address, site in sites.items():
        given, ids = told.mixing[address], [c.id for c in site.candidates]
        demand("birth", [*given] == ids, f"at {address} it weighs the candidates {[*given]}; there are {ids}")
        hold("birth", f"the distance from one of the weights at {address}", abs(sum(given.values()) - 1), 1e-12)
        weights[address] = torch.tensor([*given.values()], dtype=torch.float64)
        for _, mixture in child.network.mixed_operations(address):
            for candidate in site.candidates:
                for name in candidate.operation.residual or ():
                    torch.nn.init.zeros_(mixture.candidates[str(candidate.id)].get_parameter(name))
    for mode, training in MODES.items():
        before, now = trained.outputs(training), child.outputs(training, weights)
        what = f"the distance of the outputs at the weights of the birth, in {mode} mode,"
        hold("birth", what, largest(now - before), tolerance(before))


@law("backbone.derive", "derive() leaves equals in, lets zero win, or takes all candidates of a node where weights are equal")
def derive(case: Case) -> None:
    """An architecture has one operation at each site that is left, zero only where its node has nothing else, runs, and
    is not derived any further; it follows from the weights alone, which stay as they are.
    """
    trained = case.trained
    structure = remove_from(trained.network.structure, case.data.draw(removals(trained.network.structure) | st.just({})))
    weights = {a: case.data.draw(shares(len(w))) for a, w in even(structure).items()}
    given = {a: w.clone() for a, w in weights.items()}
    gone = {a: {*ids} for a, ids in case.part.derive(structure, weights).items()}
    demand("derive", same(weights, given), "it changes the weights that it is given")
    turned = case.part.derive(structure, dict(reversed(weights.items())))
    demand("derive", gone == {a: {*ids} for a, ids in turned.items()}, "it depends on the order of the sites among the weights")
    child = remove_from(structure, gone)
    legal("derive", child)
    several = [a for a, s in child.sites() if not s.decided]
    demand("derive", not several, f"{', '.join(several)} have several candidates left")
    further = {a: sorted(ids) for a, ids in case.part.derive(child, {}).items() if ids}
    demand("derive", not further, f"of an architecture that it derived it would remove {further}")
    for address, site in child.sites():
        rivals = structure.cell(address.cell).sites_of(site.node)
        others = [c for s in rivals for c in s.candidates if not c.operation.zero]
        chosen = site.candidates[0].operation
        demand("derive", not (chosen.zero and others), f"at {address} zero is chosen, and {site.node} has other candidates")
    network, inputs = build(child, Seed(("derive",)), like=trained.network).eval(), trained.inputs()
    out, wanted = called(network, inputs, {}).shape, called(trained.network.eval(), inputs, trained.mixing()).shape
    demand("derive", out == wanted, f"the architecture puts out {tuple(out)}, the supernet {tuple(wanted)}")


def shares(candidates: int) -> SearchStrategy[Tensor]:
    """Weights that sum to one, many of them equal."""
    drawn = st.lists(st.sampled_from([1.0, 2.0, 8.0]), min_size=candidates, max_size=candidates)
    return drawn.map(lambda values: torch.tensor(values, dtype=torch.float64) / sum(values))


@law(
    "backbone.life",
    "ids are taken from what is there in the place of `next_id` and `next_node`, or a module keeps numbers that are "
    "neither parameters nor buffers",
)
def life(case: Case) -> None:
    """Whatever happens to a search (it trains, grows, is pruned, saved and loaded, goes back), its structure and its tensors are
    all there is to its network, which trains on; and no candidate or node takes the id of one that is gone.
    """
    path = [case.trained]
    happening = st.sampled_from([train, grow, prune, save, None])
    drawn = case.data.draw(st.lists(happening, max_size=TURNS))
    for turn in (train, *drawn, prune, grow):
        if turn is not None:
            path.append(turn(case, path[-1].copy()))
        elif len(path) > 1:
            path.pop()
        legal("life", path[-1].network.structure)
        assertions.assert_ids_not_reused([each.network.structure for each in path])
        assertions.assert_reconstructed(path[-1], case.subject.plugins.make)
    train(case, path[-1])


def train(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    """Two updates on; a search that diverges is no case."""
    try:
        return trained.train(2)
    except NonFiniteError:
        reject()


def grow(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    """With a node more in a cell, behind a gate; as it is, where the cell cannot grow."""
    type = case.cell(trained.network.structure)
    try:
        told = case.part.grown(trained.network.structure, type)
    except ChangeError:
        return trained
    return after(trained, gated(told, type))


def prune(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    """Without some candidates, or without all that are not in the architecture."""
    structure = trained.network.structure
    gone = case.data.draw(removals(structure) | st.just(case.part.derive(structure, even(structure))))
    return trained.after(remove_candidates(trained.network, gone, Seed(("prune",))))


def save(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    """Saved and loaded: its next update is the same to the bit."""
    again = attrs.evolve(trained, state=revived(*saved(trained.state), case.strategy, case.subject.plugins, trained.data))
    one, other = (copied(train(case, each.copy()).network) for each in (trained, again))
    different = [name for name in one if not same(one[name], other[name])]
    demand("life", not different, f"saved and loaded it trains {', '.join(different)} otherwise")
    return again
