"""The laws of backbones: tried on networks that have trained, before and after they grow, are pruned, saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Address, Backbone, Claim, Edit, Filling, Network, Seed, Space, Structure, build
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError, NonFiniteError, StructureError
from nasframe.interfaces.part import short_name
from nasframe.modules.networks import wider
from nasframe.network.network import tensors, unallocated
from nasframe.search.state import Snapshot, copied, rebuilt
from nasframe.structure.editing import GrownStructure, remove_from
from nasframe.testing import assertions
from nasframe.testing.cases import SearchCase
from nasframe.testing.compare import LAYOUTS, MODES, differences, largest, require, require_at_most, same
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import removals
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: the number of architectures of a space that `backbone.space` looks at
ARCHITECTURES = 5
#: the largest number of events in `backbone.history`, beside a training at its beginning and a pruning and a growth at its end
EVENTS = 2


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """A backbone that is tried in a small search."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the sizes of the task."""
        return self.strategy.task.load(torch.device("cpu"), self.strategy.torch_dtype).sizes

    def cell(self, structure: Structure) -> str:
        """Draw a cell type of a structure."""
        return self.data.draw(st.sampled_from([type for type, _ in structure.cells]))


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the backbone in the searches of its habitats."""
    if not any(habitat.backbone.name == subject.cls.name for habitat in subject.habitats):
        raise NoCases("the examples of the plugin have no habitat for it (see nasframe.testing.examples)")
    return st.builds(
        lambda strategy, data: Case(subject=subject, part=strategy.backbone, strategy=strategy, data=data),
        subject.searches(),
        st.data(),
    )


def exercise(case: Case) -> dict[str, Any]:
    """Return the first structure, its network and outputs, and what the backbone derives and grows."""
    # Whatever a backbone returns or computes, so that the laws about repeating and about global state see all of it.
    trained, structure = case.trained, case.part.initial(case.sizes, case.strategy.nodes)
    initial = build(structure, Seed((case.strategy.seed, "exercise")))
    found = {
        "initial()": structure.to_dict(),
        **{f"the initial {name}": tensor.detach() for name, tensor in tensors(initial).items()},
        **{f"the output in {mode} mode": trained.outputs(training) for mode, training in MODES.items()},
        "the output of a call": _output(trained.network.eval(), trained.inputs(), trained.mixing()).detach(),
        "derive()": [(a, sorted(ids)) for a, ids in case.part.derive(structure, _equal_mixing(structure)).items()],
        "slow_parts()": [*case.part.slow_parts(structure)],
        "deepened()": [deeper.to_dict() for deeper in case.part.deepened(structure)],
    }
    for type, cell in structure.cells:
        found[f"outputs() of {type}"] = case.part.outputs(cell)
        try:
            grown = case.part.grown(structure, type)
        except ChangeError as error:
            found[f"grown() of {type}"] = str(error)
        else:
            mixing = {address: dict(weights) for address, weights in grown.mixing.items()}
            found[f"grown() of {type}"] = [grown.structure.to_dict(), grown.node, grown.inherits, mixing]
    return found


def _equal_mixing(structure: Structure) -> dict[str, Tensor]:
    """Return equal mixing weights of all candidates of each undecided site."""
    counts = {a: len(s.candidates) for a, s in structure.sites() if not s.decided}
    return {a: torch.full((n,), 1 / n, dtype=torch.float64) for a, n in counts.items()}


def _output(network: Network, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Tensor:
    """Return the output of a network in evaluation mode."""
    with torch.no_grad():
        out = network(inputs, mixing)
    if not isinstance(out, Tensor):
        raise AssertionError(f"in evaluation mode a call returns {type(out).__name__} instead of a tensor")
    return out


def _require_valid(structure: Structure) -> None:
    """Raise an error unless networks can be built from a structure, and its cells output states that they have."""
    structure.check()
    for type, cell in structure.cells:
        states, named = (*structure.backbone.inputs, *(n.id for n in cell.nodes)), structure.backbone.outputs(cell)
        require({*named} <= {*states}, f"outputs() of cell {type!r} are {named}; its states are {states}")
        require(len({*named}) == len(named) > 0, f"outputs() of cell {type!r} are {named}: none, or some twice")


def _changed(parent: TrainedNetwork, structure: Structure) -> TrainedNetwork:
    """Return the network with another structure, in which what is new has its initial values and alphas of zero."""
    return parent.after(Edit(structure, lambda parent, child: Filling(Claim.lossy())))


def _grown(part: Any, structure: Structure, type: str) -> GrownStructure:
    try:
        found = part.grown(structure, type)
    except ChangeError as error:
        raise Inapplicable(f"it refuses to grow: {error}") from error
    assert isinstance(found, GrownStructure)
    return found


@law(
    "backbone.initial",
    "initial() forgets a cell type, counts nodes differently, or uses '.' or '/' in names of sites and nodes",
)
def initial(case: Case) -> None:
    """The first structure has the requested number of nodes in each cell, can be built, and can be read from its JSON."""
    nodes = case.data.draw(st.integers(1, 4))
    structure = case.part.initial(case.sizes, nodes)
    _require_valid(structure)
    counts = {type: len(cell.nodes) for type, cell in structure.cells}
    require({*counts.values()} == {nodes}, f"for {nodes} nodes in each cell it returns {counts}")
    require(structure.backbone == case.part, f"it returns a structure of {short_name(structure.backbone)}")
    sizes = {name: case.sizes.get(name) for name, _ in structure.sizes}
    require(dict(structure.sizes) == sizes, f"the structure has the sizes {dict(structure.sizes)}, the task has {sizes}")
    again = Structure.from_json(structure.to_json(), case.subject.plugins.make)
    require(again == structure, "its JSON makes another structure")


@law("backbone.sizes", "initial() reads the sizes without `self.require_sizes(sizes, ...)`, or invents what is missing")
def sizes(case: Case) -> None:
    """If the task lacks a size that the backbone needs, it raises a StructureError that names the size."""
    for name, _ in case.part.initial(case.sizes, 1).sizes:
        fewer = {n: size for n, size in case.sizes.items() if n != name}
        try:
            case.part.initial(fewer, 1)
        except StructureError as error:
            require(name in str(error), f"without {name!r} the error is: {error}")
        else:
            require(False, f"a task without {name!r}, which it needs, is accepted")


@law("backbone.modules", "body() makes a module without MixedOperation, leaves one out, or sets one as an attribute twice")
def modules(case: Case) -> None:
    """A network has a MixedOperation for each site in every instance of its cell, with a module for each candidate.

    No parameter occurs twice.
    """
    network = case.trained.network
    for type, cell in network.structure.cells:
        found = {s.id: [m for _, m in network.mixed_operations(Address.of(type, s.id))] for s in cell.sites}
        # Every instance of a cell type has all of its sites, so that all sites occur equally often.
        counts = {id: len(mixed) for id, mixed in found.items()}
        right = len({*counts.values()}) == 1 and all(counts.values())
        require(right, f"cell {type!r} has these numbers of MixedOperation by site: {counts}")
        for site in cell.sites:
            wanted = [str(c.id) for c in site.candidates]
            for mixed in found[site.id]:
                ids = [*mixed.candidates]
                require(ids == wanted, f"{mixed.address} has modules for {ids}; its candidates are {wanted}")
    # A parameter that is an attribute of two modules would be filled twice by a change, and counted twice in costs.
    names: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        require(first == name, f"{first} and {name} are the same parameter")


@law("backbone.gradient", "a parameter is not used, or something is detached on the way to it")
def gradient(case: Case) -> None:
    """In training mode the output depends on every weight and alpha, in the readable and in the fast form; gradients are finite."""
    # A hand-written derivative may lose a parameter that autograd would not.
    for form, fast in {"readable": False, "fast": True}.items():
        trained = case.trained
        trained.network.train().fast = fast
        inputs, targets = trained.data.train.batch(torch.arange(trained.data.train.size))
        # Dropout and drop path draw from the global generator; with its seed fixed, a failure can be repeated.
        with Seed(("gradient",)).as_global():
            out = trained.network(inputs, trained.network.mixing())
        named = dict(trained.network.named_parameters())
        slopes = torch.autograd.grad(trained.data.objective(out, targets), [*named.values()], allow_unused=True)
        found = dict(zip(named, slopes, strict=True))
        dead = [name for name, slope in found.items() if slope is None]
        require(not dead, f"in the {form} form the output does not depend on {', '.join(dead)}")
        wild = [name for name, slope in found.items() if slope is not None and not slope.isfinite().all()]
        require(not wild, f"in the {form} form the gradient of {', '.join(wild)} is not finite")


@law("backbone.batch", "a mean is taken over the examples, or the axis of the examples is dropped if there is one example")
def batch(case: Case) -> None:
    """In evaluation mode the output for an example does not depend on which other examples there are, nor on how many."""
    trained = case.trained
    network, mixing, split = trained.network.eval(), trained.mixing(), trained.data.validation

    def rows(index: Tensor) -> Tensor:
        return trained.data.predict(_output(network, split.batch(index)[0], mixing)).to(torch.float64)

    # Predictions and not outputs are compared, because their first axis is that of the examples.
    whole, size = rows(torch.arange(split.size)), split.size
    # Any subset in any order, and one example alone, whose axis a careless squeeze() drops.
    some = case.data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    for chosen in (some, some[:1]):
        index = torch.tensor(chosen)
        found, wanted = rows(index), whole[index]
        require(found.shape == wanted.shape, f"for {len(chosen)} examples the outputs have the shape {tuple(found.shape)}")
        what = f"the distance of the outputs for examples {chosen} from those among all examples"
        require_at_most(what, largest(found - wanted), tolerance(whole))


@law("backbone.layout", "it uses view() or reads strides where reshape() is right")
def layout(case: Case) -> None:
    """The output does not depend on the memory layout of the inputs."""
    trained = case.trained
    network, mixing, inputs = trained.network.eval(), trained.mixing(), trained.inputs()
    plain = _output(network, inputs, mixing)
    for name, laid in LAYOUTS.items():
        found = _output(network, laid(inputs), mixing)
        require_at_most(f"the distance of the outputs for inputs that are {name}", largest(found - plain), tolerance(plain))


@law("backbone.dtype", "it makes a tensor without dtype and device of its inputs, or reads a number out of a tensor")
def dtype(case: Case) -> None:
    """A network computes in the dtype and on the device that it is moved to, including the device `meta`, for costs."""
    trained = case.trained
    # The device "meta" stands in for an accelerator: a tensor that is made on the CPU by default cannot be combined with
    # its tensors.
    for wanted in (torch.float32, torch.float64, torch.device("meta")):
        network, inputs, mixing = trained.network.eval().to(wanted), trained.inputs(), trained.mixing()
        if inputs.is_floating_point() or isinstance(wanted, torch.device):
            inputs = inputs.to(wanted)
        out = _output(network, inputs, {a: w.to(wanted) for a, w in mixing.items()})
        found = out.device if isinstance(wanted, torch.device) else out.dtype
        require(found == wanted, f"moved to {wanted} its output is in {found}")


@law("backbone.pure", "run() keeps what it computed from the parameters, counts its calls, or works in place on its inputs")
def pure(case: Case) -> None:
    """A call changes neither inputs, mixing weights nor parameters, and the next call uses the parameters of that time.

    In evaluation mode a second call returns the same bits, and changes no buffer.
    """
    trained = case.trained
    network, inputs, mixing = trained.network, trained.inputs(), dict(trained.mixing())
    given = [inputs.clone(), *(w.clone() for w in mixing.values())]
    parameters = {n: p.detach().clone() for n, p in network.named_parameters()}
    for mode, training in MODES.items():
        network.train(training)
        with torch.no_grad(), Seed(("pure",)).as_global():
            network(inputs, mixing)
        require(same([inputs, *mixing.values()], given), f"a call in {mode} mode changes inputs or mixing weights")
        moved = [n for n, p in network.named_parameters() if not torch.equal(p, parameters[n])]
        require(not moved, f"a call in {mode} mode changes {', '.join(moved)}")
    network.eval()
    before, first = copied(network), _output(network, inputs, mixing)
    # another call in between, with other inputs and mixing weights: a result that was kept would be returned now
    _output(network, -inputs if inputs.is_floating_point() else inputs.flip(0), _equal_mixing(network.structure))
    require(torch.equal(_output(network, inputs, mixing), first), "a second call returns another output")
    changed = differences(before, copied(network))
    require(not changed, f"a call in evaluation mode changes {', '.join(changed)}")
    with torch.no_grad():
        for parameter in network.parameters():
            # in place, as an optimiser does: a copy of the old values would go unnoticed otherwise
            parameter.mul_(0.9)
    # A network that has never computed anything else.
    other = rebuilt(case.strategy, Snapshot(network.structure, copied(network), None)).eval()
    found, wanted = (_output(each, inputs, mixing) for each in (network, other))
    what = "after the parameters have changed, the distance of the outputs from those of a new network with these parameters"
    require_at_most(what, largest(found - wanted), tolerance(wanted))


@law("backbone.fast", "run() or observed() computes another order or wiring than the modules, or detaches something")
def fast(case: Case) -> None:
    """The fast form computes what the modules do: outputs in both modes, gradients, second derivatives, and what is observed."""
    assertions.assert_fast_form(case.trained, second=True)


@law("backbone.masked", "the body divides by a number of edges, or computes an architecture differently from a supernet")
def masked(case: Case) -> None:
    """Removing candidates equals giving them mixing weight zero, with the mixing weights that the architect gives the others."""
    trained = case.trained
    removed = case.data.draw(removals(trained.network.structure, case.data.draw(st.booleans())))
    assertions.assert_removal_is_masking(trained, removed)


@law("backbone.grown", "grown() builds the cell anew, changes another cell, or takes ids from elsewhere than `next_id`")
def grown(case: Case) -> None:
    """Growing adds one node with its sites at the end of a cell, any number of times, and changes nothing else.

    The new candidates have ids from `next_id` on.
    """
    old = case.part.initial(case.sizes, case.strategy.nodes)
    for _ in range(case.data.draw(st.integers(1, 3))):
        type = case.cell(old)
        found = _grown(case.part, old, type)
        new, before, cell = found.structure, old.cell(type), found.structure.cell(type)
        _require_valid(new)
        # The new structure with the old cell in its place must be the old structure, but for the counter of ids.
        rest = new.replace_cell(type, before)
        require(attrs.evolve(rest, next_id=old.next_id) == old, f"the growth of {type!r} changes more than that cell")
        nodes, added = len(before.nodes), cell.sites[len(before.sites) :]
        require(cell.nodes[:nodes] == before.nodes, f"the nodes {before.nodes} become {cell.nodes}")
        new_nodes = [Address.of(type, n.id) for n in cell.nodes[nodes:]]
        require(new_nodes == [found.node], f"the new nodes are {new_nodes}, but `node` is {found.node}")
        require(cell.sites[: len(before.sites)] == before.sites, "the old sites are changed, or in another order")
        belong = {Address.of(type, s.node) for s in added}
        require(belong == {found.node}, f"the new sites belong to {', '.join(belong)}, not to {found.node} alone")
        ids = [c.id for s in added for c in s.candidates]
        require(min(ids) >= old.next_id, f"the new candidates have the ids {ids}; next_id is {old.next_id}")
        old = new


@law("backbone.birth", "`inherits` names other states than outputs() does, or `mixing` weighs a candidate that is no identity")
def birth(case: Case) -> None:
    """A grown network has all tensors of the old one and the same outputs.

    They are the same behind a gate on the states that the new node `inherits`, and at the mixing weights `mixing`; if it
    inherits nothing, with its initial values.
    """
    trained = case.trained
    structure = trained.network.structure
    type = case.cell(structure)
    found = _grown(case.part, structure, type)
    require(bool(found.inherits) or not found.mixing, "it has mixing weights for the new node, but inherits nothing")
    # Behind a gate of zero the new node returns what it inherits, whatever its new candidates compute.
    child = _changed(trained, found.gated())
    # A tensor under another name would start anew, although the outputs may be equal by chance.
    lost = tensors(trained.network).keys() - tensors(child.network).keys()
    require(not lost, f"the grown network lacks {', '.join(sorted(lost))}")
    assertions.assert_exact(trained, child)
    if not found.mixing:
        return
    sites = found.structure.sites_of(found.node)
    require(found.mixing.keys() == sites.keys(), f"it has mixing weights for {[*found.mixing]}; the new sites are {[*sites]}")
    child = _changed(trained, found.structure)
    mixing = dict(child.mixing())
    for address, site in sites.items():
        weights, ids = found.mixing[address], [c.id for c in site.candidates]
        require([*weights] == ids, f"at {address} it has mixing weights for the candidates {[*weights]}; there are {ids}")
        require_at_most(f"the distance of their sum from one at {address}", abs(sum(weights.values()) - 1), 1e-12)
        mixing[address] = torch.tensor([*weights.values()], dtype=torch.float64)
        for _, mixed in child.network.mixed_operations(address):
            for candidate in site.candidates:
                for name in candidate.operation.residual or ():
                    torch.nn.init.zeros_(mixed.candidates[str(candidate.id)].get_parameter(name))
    for mode, training in MODES.items():
        before, now = trained.outputs(training), child.outputs(training, mixing)
        what = f"the distance of the outputs at the mixing weights of the new node, in {mode} mode,"
        require_at_most(what, largest(now - before), tolerance(before))


@law(
    "backbone.deepened",
    "a new layer has a node without a gate or a projection of its inputs, or its modules change the names of others",
)
def deepened(case: Case) -> None:
    """A deepened network has more tensors than the old one, all of the old one, and the same outputs; its old cells are unchanged.

    After further training its fast form computes what the modules do.
    """
    # before anything is trained, as most backbones deepen a few of their structures only
    old = case.part.initial(case.sizes, case.strategy.nodes)
    structure = _deeper(case, old)
    if structure is None:
        raise Inapplicable("deepened() returns no structure")
    trained = case.trained
    assert trained.network.structure == old, "the searches of a habitat do not grow"
    _require_valid(structure)
    require(structure.cells[: len(old.cells)] == old.cells, "old cells are changed, or in another order")
    assertions.assert_ids_not_reused([old, structure])
    child = _changed(trained, structure)
    before, after = tensors(trained.network).keys(), tensors(child.network).keys()
    require(not before - after, f"the deepened network lacks {', '.join(sorted(before - after))}")
    require(bool(after - before), "the deepened network has nothing that the old one lacks")
    assertions.assert_exact(trained, child)
    # gates of zero hide how the fast form computes what is behind them
    assertions.assert_fast_form(_train(case, child))


def _deeper(case: Case, structure: Structure) -> Structure | None:
    """Draw one of the structures with one more layer or cell; None if there is none."""
    assert isinstance(structure.backbone, Backbone)
    found = structure.backbone.deepened(structure)
    return case.data.draw(st.sampled_from(found)) if found else None


@law(
    "backbone.derive", "derive() keeps equal candidates, lets zero win, or removes all candidates of a node with equal weights"
)
def derive(case: Case) -> None:
    """Deriving leaves one operation at each remaining site and nothing more to derive, and zero only where it may be chosen.

    Zero may be chosen if its node has nothing else, or if it is a candidate like any other in the space of the backbone. The
    architecture can be run. It follows from the mixing weights, which are not changed.
    """
    trained = case.trained
    structure = remove_from(trained.network.structure, case.data.draw(removals(trained.network.structure) | st.just({})))
    mixing = {a: case.data.draw(_tied_mixing(len(w))) for a, w in _equal_mixing(structure).items()}
    given = {a: w.clone() for a, w in mixing.items()}
    removed = {a: {*ids} for a, ids in case.part.derive(structure, mixing).items()}
    require(same(mixing, given), "it changes the mixing weights")
    # a mapping has an order that no decision may depend on
    turned = case.part.derive(structure, dict(reversed(mixing.items())))
    require(
        removed == {a: {*ids} for a, ids in turned.items()}, "it depends on the order of the sites among the mixing weights"
    )
    child = remove_from(structure, removed)
    _require_valid(child)
    several = [a for a, s in child.sites() if not s.decided]
    require(not several, f"{', '.join(several)} have several candidates left")
    # Deriving is idempotent: an architecture has no mixing weights, and nothing to decide.
    further = {a: sorted(ids) for a, ids in case.part.derive(child, {}).items() if ids}
    require(not further, f"from an architecture that it derived it removes {further}")
    free = case.part.space(case.part.initial(case.sizes, case.strategy.nodes)).keep is None
    for address, site in child.sites():
        # A space whose nodes choose among their sites has no zero: a site of zero would be one that was not chosen.
        if free:
            continue
        rivals = structure.cell(address.cell).sites_of(site.node)
        others = [c for s in rivals for c in s.candidates if not c.operation.zero]
        chosen = site.candidates[0].operation
        require(not (chosen.zero and others), f"at {address} zero is chosen, although {site.node} has other candidates")
    network, inputs = build(child, Seed(("derive",)), like=trained.network).eval(), trained.inputs()
    found, wanted = _output(network, inputs, {}).shape, _output(trained.network.eval(), inputs, trained.mixing()).shape
    require(
        found == wanted, f"the output of the architecture has the shape {tuple(found)}, that of the supernet {tuple(wanted)}"
    )


def _tied_mixing(candidates: int) -> SearchStrategy[Tensor]:
    """Return mixing weights with the sum one, many of them equal."""
    drawn = st.lists(st.sampled_from([1.0, 2.0, 8.0]), min_size=candidates, max_size=candidates)
    return drawn.map(lambda values: torch.tensor(values, dtype=torch.float64) / sum(values))


@law(
    "backbone.space",
    "a Space whose picks() and architecture() count the options in another order, or that leaves sites undecided",
)
def space(case: Case) -> None:
    """Picks and architectures describe each other: each picks an architecture that can be built and written to JSON, and back.

    Different picks are different architectures, unless a node is removed because no output depends on it.
    """
    supernet = case.part.initial(case.sizes, case.strategy.nodes)
    given: Space = case.part.space(supernet)
    require(given.size == math.prod(choice.options for choice in given.decisions), f"its size is {given.size}")
    for number in range(ARCHITECTURES):
        picks = given.random(Seed((case.strategy.seed, "space", number)))
        architecture = given.architecture(picks)
        _require_valid(architecture)
        require(architecture.decided, f"the architecture of {picks} has several candidates at a site")
        unallocated(architecture)
        again = Structure.from_json(architecture.to_json(), case.subject.plugins.make)
        require(again == architecture, f"the JSON of the architecture of {picks} makes another structure")
        found = given.picks(again)
        require(given.architecture(found) == architecture, f"the architecture of {picks} has the picks {found} of another one")
        # With all of its nodes, an architecture has one description.
        whole = len([*architecture.nodes()]) == len([*supernet.nodes()])
        require(found == picks or not whole, f"the architecture of {picks} has the picks {found}, too")


@law("backbone.widths", "a width is not the field's value (it was left out), or a larger one renames tensors or shrinks some")
def widths(case: Case) -> None:
    """With a larger width, the backbone has the same cells, and networks of the same tensors, some of them larger and none smaller.

    The width is then the larger one, and other widths are as they were.
    """
    structure = case.trained.network.structure
    present = dict(case.part.widths(structure))
    before = {name: tensor.shape for name, tensor in tensors(unallocated(structure)).items()}
    for field, width in present.items():
        try:
            child = wider(
                structure, field, case.data.draw(st.sampled_from([width + 1, width + 2, width + 3, 2 * width, 3 * width]))
            )
        except ChangeError:  # a backbone may accept some widths only, such as multiples
            reject()
        require(child.cells == structure.cells, f"with another {field} the cells differ")
        assert isinstance(child.backbone, Backbone)
        found = dict(child.backbone.widths(child))
        wanted = present | {field: getattr(child.backbone, field)}
        require(found == wanted, f"of the structure with a larger {field} the widths are {found}, not {wanted}")
        after = {name: tensor.shape for name, tensor in tensors(unallocated(child)).items()}
        require(before.keys() == after.keys(), f"the names of these tensors depend on {field}: {before.keys() ^ after.keys()}")
        wrong = [n for n, s in before.items() if len(s) != len(after[n]) or any(map(int.__gt__, s, after[n]))]
        require(not wrong, f"with a larger {field}, {', '.join(wrong)} have fewer entries or other axes")
        require(before != after, f"with a larger {field} all tensors have the same shapes")
    if not present:
        raise Inapplicable("it has no widths")


@law("backbone.example", "example() has the axes of another layout, or numbers where the task has tokens")
def example(case: Case) -> None:
    """A network of a structure with widths can be called with its example in both modes, as with the inputs of the task."""
    trained = case.trained
    network = trained.network
    if not case.part.widths(network.structure):
        raise Inapplicable("it has no widths")
    found, inputs = case.part.example(network.structure), trained.inputs()
    require(
        found.is_floating_point() == inputs.is_floating_point(),
        f"the example is in {found.dtype}, the inputs in {inputs.dtype}",
    )
    require(found.dim() == inputs.dim(), f"the example has the shape {tuple(found.shape)}, the inputs {tuple(inputs.shape)}")
    for training in MODES.values():
        with torch.no_grad():
            network.train(training)(found.to(inputs.dtype), trained.mixing())


@law("backbone.derived", "space() has fewer architectures than derive() returns: compare the number of sites that a node keeps")
def derived(case: Case) -> None:
    """The space of a supernet contains each architecture that is derived from it."""
    supernet = case.part.initial(case.sizes, case.strategy.nodes)
    mixing = {a: case.data.draw(_tied_mixing(len(w))) for a, w in _equal_mixing(supernet).items()}
    architecture = remove_from(supernet, case.part.derive(supernet, mixing))
    try:
        case.part.space(supernet).picks(architecture)
    except StructureError as error:
        require(False, f"a derived architecture is not in the space: {error}")


@law(
    "backbone.history",
    "new ids follow from what exists instead of `next_id` and `next_node`, or a module keeps numbers that are neither "
    "parameters nor buffers",
)
def history(case: Case) -> None:
    """In a search that trains, grows, is pruned, saved, loaded and undone, structure and tensors always determine the network.

    It can be trained further, and no id of a removed candidate or node is used again.
    """
    # The networks so far; None among the events goes back to the one before, as an undone change does.
    path = [case.trained]
    drawn = case.data.draw(st.lists(st.sampled_from([_train, _grow, _deepen, _prune, _save, None]), max_size=EVENTS))
    for event in (_train, _grow, *drawn, _prune, _grow):
        if event is not None:
            path.append(event(case, path[-1].copy()))
        elif len(path) > 1:
            path.pop()
        _require_valid(path[-1].network.structure)
        assertions.assert_ids_not_reused([each.network.structure for each in path])
        assertions.assert_reconstructed(path[-1], case.subject.plugins.make)
    _train(case, path[-1])


def _train(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    try:
        return trained.train(2)
    except NonFiniteError:
        reject()


def _grow(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    type = case.cell(trained.network.structure)
    try:
        found = case.part.grown(trained.network.structure, type)
    except ChangeError:
        return trained
    return _changed(trained, found.gated())


def _deepen(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    structure = _deeper(case, trained.network.structure)
    return trained if structure is None else _changed(trained, structure)


def _prune(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    structure = trained.network.structure
    removed = case.data.draw(removals(structure) | st.just(case.part.derive(structure, _equal_mixing(structure))))
    return trained.after(remove_candidates(structure, removed))


def _save(case: Case, trained: TrainedNetwork) -> TrainedNetwork:
    again = attrs.evolve(trained, state=revived(*saved(trained.state), case.strategy, case.subject.plugins, trained.data))
    changed = differences(*(copied(_train(case, each.copy()).network) for each in (trained, again)))
    require(not changed, f"after saving and loading, the next steps change {', '.join(changed)}")
    return again
