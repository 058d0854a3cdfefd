"""Assertions about networks and their changes, for laws and for tests of plugins.

Each raises an AssertionError that says what was measured and what is allowed. Most of them take a parent
(`TrainedNetwork`), and its child (`parent.after(edit)`) or a function that makes an edit of the parent's structure.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Adam, AdamW

from nasframe import Address, Bound, Edit, Network, Seed, Set, Structure, Take
from nasframe.change.apply import Change, apply
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.change.optimisers import named_state, powers_of
from nasframe.modules.verify import Means
from nasframe.network.mixing import MixedOperation
from nasframe.network.network import tensors
from nasframe.network.observing import Call
from nasframe.network.outputs import Outputs
from nasframe.search.bilevel import Forward
from nasframe.search.state import GROUPS, Snapshot, copied, rebuilt
from nasframe.testing.compare import MODES, differences, largest, require, require_at_most
from nasframe.testing.saved import saved
from nasframe.testing.trained import EDIT, TrainedNetwork

#: a function that makes an edit of a structure
Make = Callable[[Structure], Edit]


def assert_transaction(parent: TrainedNetwork, make: Make, seed: Seed = EDIT) -> TrainedNetwork:
    """Assert that a change leaves the parent as it is, and return the child.

    Values, modes, gradients and optimisers of the parent and torch's global generator are compared before and after the
    change, and again after the child has trained. The child must not share storage with the parent, and must have its
    mode, dtype and device.
    """
    # Everything is compared to the bit: a change that moves a parent by rounding has written to it.
    before = _fingerprint(parent)
    child = parent.after(make(parent.network.structure), seed)
    changed = differences(before, _fingerprint(parent))
    require(not changed, f"the change changed the parent's {', '.join(changed)}")
    old, new = _storages(parent), _storages(child)
    shared = ", ".join(sorted(new[pointer] for pointer in old.keys() & new.keys()))
    require(not shared, f"the child shares the storage of {shared} with its parent")
    require(_kind(parent.network) == _kind(child.network), "the child does not have the mode, dtype or device of its parent")
    # a shared tensor that the storages do not reveal shows when the child trains
    child.copy().train(2)
    changed = differences(before, _fingerprint(parent))
    require(not changed, f"training the child changed the parent's {', '.join(changed)}")
    return child


def _fingerprint(trained: TrainedNetwork) -> dict[str, Any]:
    # what a run folder would keep, and beside it what it does not: modes, gradients and the global generator
    text, flat = saved(trained.state)
    named = dict(trained.network.named_parameters())
    return {
        "state": text,
        **flat,
        **{f"mode/{n}": m.training for n, m in trained.network.named_modules()},
        **{f"requires_grad/{n}": p.requires_grad for n, p in named.items()},
        **{f"gradient/{n}": None if p.grad is None else p.grad.clone() for n, p in named.items()},
        "global generator": torch.get_rng_state(),
    }


def _storages(trained: TrainedNetwork) -> dict[int, str]:
    named = [*tensors(trained.network).items()]
    for group, optimiser in trained.state.optimisers.items():
        named += [(f"{k} of the {group}", v) for s in optimiser.state.values() for k, v in s.items() if torch.is_tensor(v)]
    # an empty tensor has no memory to share
    return {t.untyped_storage().data_ptr(): name for name, t in named if t.numel()}


def _kind(network: Network) -> tuple[bool, set[Any]]:
    return network.training, {(t.dtype, t.device) for t in tensors(network).values() if t.is_floating_point()}


def assert_no_forward(parent: TrainedNetwork, make: Make, seed: Seed = EDIT) -> Change:
    """Assert that no module is made while a structure is edited, and none called until the child is filled; return the change."""

    def refuse_making(module: nn.Module, name: str, value: Any) -> None:
        raise AssertionError(f"{type(module).__name__} was made while the structure was edited")

    def refuse_calling(module: nn.Module, inputs: Any) -> None:
        raise AssertionError(f"{type(module).__name__} was called while the change was made")

    registered = [
        # Hooks of torch that are called for all modules. A structure can be edited without any, so that whatever registers
        # a parameter or a submodule now builds a network.
        register_module_parameter_registration_hook(refuse_making),
        register_module_module_registration_hook(refuse_making),
    ]
    try:
        edit = make(parent.network.structure)
    finally:
        for handle in registered:
            handle.remove()
    handle = register_module_forward_pre_hook(refuse_calling)
    try:
        return apply(parent.network, edit, seed)
    finally:
        handle.remove()


def output_distance(parent: TrainedNetwork, child: TrainedNetwork, training: bool = False) -> float:
    """Return the largest difference of the outputs of two networks on the validation split.

    In training mode random draws are replaced by their means: networks of different shapes draw other numbers.
    """
    with Means() if training else contextlib.nullcontext():
        return largest(child.outputs(training) - parent.outputs(training))


def assert_exact(parent: TrainedNetwork, child: TrainedNetwork, allowed: float | None = None) -> None:
    """Assert that two networks have the same outputs in both modes, by default up to rounding."""
    for mode, training in MODES.items():
        limit = tolerance(parent.outputs(training)) if allowed is None else allowed
        distance = output_distance(parent, child, training)
        require_at_most(f"the distance of the outputs in {mode} mode", distance, limit)


def assert_fast_form(trained: TrainedNetwork, second: bool = False) -> None:
    """Assert that the fast form of a network equals its readable form: outputs in both modes, gradients, and what is observed.

    Args:
        trained: the network.
        second: compare second derivatives, too.
    """
    # two copies, because running statistics change in training mode
    fast, readable = trained.copy(), trained.copy()
    fast.network.fast, readable.network.fast = True, False
    for mode, training in MODES.items():
        wanted = readable.outputs(training)
        distance = largest(fast.outputs(training) - wanted)
        require_at_most(f"the distance of the outputs in {mode} mode", distance, tolerance(wanted))
    for what in ("gradient", "second derivative")[: 1 + second]:
        exact, found = (each.gradients(second=what != "gradient") for each in (readable, fast))
        # one scale for all gradients: the rounding of a small one comes from the large ones that it is computed with
        scale = torch.stack([slope.abs().max() for slope in exact.values()])
        for name, slope in exact.items():
            require_at_most(f"the distance of the {what} of {name}", largest(found[name] - slope), tolerance(scale))
    inputs, targets = trained.data.train.batch(torch.arange(trained.data.train.size))
    for each in (fast, readable):
        each.network.eval()
    mixing = trained.mixing()
    assert_observed(fast.network, readable.network, lambda forward: trained.data.objective(forward(inputs, mixing), targets))


def assert_observed(fast: Network, readable: Network, loss: Callable[[Forward], Tensor]) -> None:
    """Assert that candidates with parameters receive the same, and have the same gradients of a loss by their outputs.

    Args:
        fast: a network in its fast form.
        readable: a copy in its readable form.
        loss: a function that returns the loss, and is called with the function from inputs and mixing weights to outputs.
    """
    exact, found = _observed(readable, loss), _observed(fast, loss)
    require(exact.keys() == found.keys(), f"{exact.keys() ^ found.keys()} are observed in one form only")
    # one scale for all gradients, as for those of parameters
    scale = torch.stack([torch.zeros(()), *(slope.abs().max() for _, slope in exact.values())])
    for name, (inputs, slope) in exact.items():
        for place, (first, second) in enumerate(zip(inputs, found[name][0], strict=True)):
            require_at_most(f"the distance of input {place} of {name}", largest(second - first), tolerance(first))
        distance = largest(found[name][1] - slope)
        require_at_most(f"the distance of the gradient of the output of {name}", distance, tolerance(scale))


def _observed(network: Network, loss: Callable[[Forward], Tensor]) -> dict[str, tuple[list[Tensor], Tensor]]:
    """Return the inputs of each candidate with parameters, and the gradients of a loss by its outputs, by name."""
    mixed = [(name, module) for name, module in network.named_modules() if isinstance(module, MixedOperation)]
    names = {m: f"{name}.{id}" for name, each in mixed for id, m in each.candidates.items() if [*m.parameters()]}
    calls: dict[nn.Module, list[Call]] = {}

    def forward(inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
        outputs, observed = network.observed(inputs, mixing, names)
        calls.update(observed)
        return outputs

    value = loss(forward)
    outputs = [call.output for made in calls.values() for call in made]
    slopes = iter(torch.autograd.grad(value, outputs, materialize_grads=True) if outputs else ())
    return {
        names[m]: (
            [torch.cat(x).detach() for x in zip(*(c.inputs for c in made), strict=True)],
            torch.cat([next(slopes) for _ in made]),
        )
        for m, made in calls.items()
        if made
    }


# --------------------------------------------------------------------------------------------- bounds of approximate changes


@attrs.frozen(eq=False)
class NodeCall:
    """A call of a node: its inputs by name, its output, and the output that it should have."""

    inputs: Mapping[str, Tensor]
    output: Tensor
    wanted: Tensor

    @property
    def norms(self) -> dict[str, float]:
        """Return the largest absolute value of each input."""
        return {name: largest(value) for name, value in self.inputs.items()}

    @property
    def error(self) -> float:
        """Return the largest difference between the output and the one that it should be."""
        return largest(self.output - self.wanted)


@attrs.frozen(eq=False)
class _Instance:
    """An instance of a node: the mixed operations of its sites, with the names of their inputs."""

    mixed: tuple[MixedOperation, ...]
    names: tuple[tuple[str, ...], ...]

    def output(self, mixing: Mapping[Any, Any], inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the output of the node, the sum of its sites."""
        outputs = [m(mixing, *(inputs[n] for n in names)) for m, names in zip(self.mixed, self.names, strict=True)]
        return torch.stack(outputs).sum(0)


def _instances(trained: TrainedNetwork, node: str) -> list[_Instance]:
    sites = trained.network.structure.sites_of(Address(node))
    modules = [[m for _, m in trained.network.mixed_operations(address)] for address in sites]
    return [_Instance(mixed, tuple(s.inputs for s in sites.values())) for mixed in zip(*modules, strict=True)]


def _references(
    child: TrainedNetwork, node: str, training: bool, parent: TrainedNetwork | None
) -> list[Callable[[Mapping[str, Tensor]], Tensor]]:
    """Return for each instance of a node a function from its inputs to the output that it should have."""
    if parent is None:
        cell = child.network.structure.cell(Address(node).cell)
        before = cell.nodes[: [n.id for n in cell.nodes].index(Address(node).id)]
        # the outputs of the cell as it was without the new node
        inherited = child.network.structure.backbone.outputs(attrs.evolve(cell, nodes=before))
        return [lambda inputs: torch.stack([inputs[n] for n in inherited]).mean(0)] * len(_instances(child, node))
    old, mixing = parent.copy(), {address: w.unbind() for address, w in parent.mixing().items()}
    old.network.train(training)
    return [partial(instance.output, mixing) for instance in _instances(old, node)]


def node_calls(
    child: TrainedNetwork, node: str, training: bool = False, parent: TrainedNetwork | None = None
) -> list[NodeCall]:
    """Return all calls of a node on the validation split: in every instance of its cell, and at every time step.

    Args:
        child: the network.
        node: the address of the node.
        training: whether the network is in training mode.
        parent: a network that has the node, too, whose output for the same inputs is the one that it should have. By default
            the node was added at the end of its cell and should return the mean of the previous outputs of the cell.
    """
    # The function that a node should have is tried on the very inputs that the node has in the child: a claim is about one
    # node given its inputs, and errors of the nodes before it do not count.
    references = _references(child, node, training, parent)
    # the hooks stay in the copy
    hooked, recorded = child.copy(), []
    hooked.network.fast = False  # a fast form calls no modules
    # The calls of the sites of an instance come in the same order, one for each time step, so that call n of each site
    # belongs to step n.
    for instance in _instances(hooked, node):
        calls: list[list[tuple[Any, Tensor]]] = [[] for _ in instance.mixed]
        for mixed, seen in zip(instance.mixed, calls, strict=True):
            mixed.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append((inputs[1:], output)))
        recorded.append((instance, calls))
    hooked.outputs(training)
    found = []
    with torch.no_grad(), Seed(("node calls",)).as_global(child.strategy.device):
        for (instance, calls), reference in zip(recorded, references, strict=True):
            for step in zip(*calls, strict=True):
                pairs = [
                    pair
                    for names, (given, _) in zip(instance.names, step, strict=True)
                    for pair in zip(names, given, strict=True)
                ]
                inputs = dict(pairs)
                found.append(NodeCall(inputs, torch.stack([output for _, output in step]).sum(0), reference(inputs)))
    return found


def assert_within_bounds(child: TrainedNetwork, bounds: Mapping[Address, Bound], parent: TrainedNetwork | None = None) -> None:
    """Assert that changed nodes keep their bounds at every call on the validation split, in both modes.

    Args:
        child: the child of the change.
        bounds: the bounds that the change claims, by the address of the node.
        parent: as for `node_calls`.
    """
    for (node, bound), (mode, training) in itertools.product(bounds.items(), MODES.items()):
        for number, call in enumerate(node_calls(child, node, training, parent)):
            # the bound is about exact arithmetic; rounding comes in addition
            allowed = bound(call.norms) + tolerance(call.output)
            require_at_most(f"the error of {node} at its call {number} in {mode} mode", call.error, allowed)


#: for inputs that are so many times as large as those of the node, how many times the largest error found a bound may be. A
#: sigmoid is bounded by one at any norm, and only large inputs bring it near one.
FACTORS = {1.0: 6.0, 10.0: 3.0}


def assert_tight(
    child: TrainedNetwork,
    node: str,
    bound: Bound,
    factors: Mapping[float, float] = FACTORS,
    parent: TrainedNetwork | None = None,
) -> float:
    """Assert that a bound holds for all inputs as large as those of a node, or larger, and that some come near to it.

    Args:
        child: the child of the change.
        node: the address of the node.
        bound: the bound that the change claims for it.
        factors: by the scale of the inputs, how many times the largest error found the bound may be.
        parent: as for `node_calls`.

    Returns:
        The least quotient of the bound and the largest error found.
    """
    nearest = math.inf
    for scale, factor in factors.items():
        allowed, found = _largest_error(child, node, bound, scale, parent)
        where = f"of {node}, at {scale:g} times the norms of its inputs,"
        require_at_most(f"the largest error found {where}", found, allowed * (1 + 1e-9))
        quotient = allowed / found if found else math.inf
        require_at_most(f"the bound {where} over the largest error found", quotient, factor)
        nearest = min(nearest, quotient)
    return nearest


def _largest_error(
    child: TrainedNetwork, node: str, bound: Bound, scale: float, parent: TrainedNetwork | None
) -> tuple[float, float]:
    """Return the bound for inputs of `scale` times the norms of a node's inputs, and the largest error found for such inputs.

    Each of 64 random corners of the box of these norms climbs the gradient of the error from corner to corner.
    """
    # The norms are those that the node really has, over all of its calls; inputs up to ten times as large are tried as
    # well, where saturated operations behave differently.
    calls, references = node_calls(child, node, parent=parent), _references(child, node, False, parent)
    norms = {name: scale * max(call.norms[name] for call in calls) for name in calls[0].inputs}
    mixing = {a: w.unbind() for a, w in child.mixing().items()}
    generator, worst = Seed(("corners",)).generator(), 0.0
    evaluated = child.copy()
    evaluated.network.eval()
    for instance, reference in zip(_instances(evaluated, node), references, strict=True):
        shapes = {name: (64, *value.shape[1:]) for name, value in calls[0].inputs.items()}
        drawn = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
        # All 64 starts climb together as one batch. Many starts, because a climb may end in a local maximum.
        corners = {n: value.to(calls[0].output).sign() for n, value in drawn.items()}
        for _ in range(10):
            inputs = {name: (norms[name] * corner).requires_grad_() for name, corner in corners.items()}
            error = (instance.output(mixing, inputs) - reference(inputs)).abs().flatten(1).amax(1)
            # over all instances and steps, as the bound is claimed for all of them
            worst = max(worst, float(error.detach().max()))
            slopes = torch.autograd.grad(error.sum(), [*inputs.values()])
            # to the corner to which the gradient points: for a function that is linear in each input, the largest error is at
            # a corner
            corners = {name: slope.sign() for name, slope in zip(inputs, slopes, strict=True)}
    return bound(norms), worst


# ----------------------------------------------------------------------------------------------------- how a child trains on


def new_entries(child: TrainedNetwork, name: str, tensor: Tensor) -> Tensor:
    """Return a mask of the entries of a tensor of the child that were not taken from the parent."""
    entry = child.map.get(name)
    return entry.new_entries(tensor)[0] if isinstance(entry, Take) else torch.ones_like(tensor, dtype=torch.bool)


def unreached_entries(child: TrainedNetwork, steps: int = 3) -> dict[str, Tensor]:
    """Train a copy of the child, and return a mask of the new entries that received no gradient, by parameter.

    Weights receive gradients of the training loss, alphas those of the validation loss. Parameters without new entries are
    left out.
    """
    trained = child.copy()
    named = dict(trained.network.named_parameters())
    # An entry leaves its mask when it gets a gradient; what is left at the end got none.
    masks = {name: new_entries(child, name, parameter).clone() for name, parameter in named.items()}
    masks = {name: mask for name, mask in masks.items() if mask.any()}

    def note(*_: Any) -> None:
        for name, mask in masks.items():
            gradient = named[name].grad
            if gradient is not None:
                mask &= ~(gradient.abs() > 0)  # NaN does not count as a gradient

    # before each step the gradients are still there; afterwards they are cleared
    for optimiser in trained.state.optimisers.values():
        optimiser.register_step_pre_hook(note)
    trained.train(steps)
    return masks


def assert_trainable(child: TrainedNetwork, steps: int = 3, every: bool = True) -> None:
    """Assert that what is new in a child receives gradients within so many steps.

    Args:
        child: the child of the change.
        steps: the number of steps.
        every: whether every new entry must receive one, or one of each parameter: a ReLU may be off for some units.
    """
    unreached = unreached_entries(child, steps)
    named = dict(child.network.named_parameters())
    dead = [n for n, mask in unreached.items() if (mask.any() if every else torch.equal(mask, new_entries(child, n, named[n])))]
    require(not dead, f"no gradient reached {', '.join(dead)} within {steps} steps")


def assert_gradients_follow(parent: TrainedNetwork, child: TrainedNetwork) -> None:
    """Assert that the gradients of the child are those of the parent, taken as the map of the change says.

    This is what makes it right that the moments of the optimisers follow the map. The squares of the gradients are compared,
    too, as second moments follow them.
    """
    # Both at the same examples, before any step. New entries have no counterpart and are left out.
    with Means():
        before, after = parent.gradients(), child.gradients()
    scale = torch.stack([gradient.abs().max() for gradient in before.values()])
    for name, entry in child.map.items():
        if name in after and isinstance(entry, Take):
            old = ~entry.new_entries(after[name])[0]
            for power in (1, 2):
                expected = entry.gather(before[entry.source] ** power) * entry.gradient**power
                distance, allowed = largest((after[name] ** power - expected)[old]), power * tolerance(scale**power)
                require_at_most(f"the distance of the gradient^{power} of {name}, {described(entry)},", distance, allowed)


def assert_moments_follow(parent: TrainedNetwork, child: TrainedNetwork) -> None:
    """Assert that the optimisers of the child have the state of the parent's, taken as the map of the change says.

    For old entries, first moments follow the gradient and second moments its square; those of Adam are compared after its correction
    of their bias. New entries have moments of zero. The step count of Adam is at most 1 / (1 - b1) for a tensor with new entries, so
    that it corrects their bias, too; all others are those of the parent.
    """
    for group, named in GROUPS.items():
        optimiser = parent.state.optimisers[group]
        powers = powers_of(optimiser) or {}
        betas = optimiser.param_groups[0]["betas"] if isinstance(optimiser, Adam | AdamW) else ()
        states = [named_state(each.state.optimisers[group], named(each.network)) for each in (parent, child)]
        for name, _ in named(child.network):
            entry = child.map.get(name)
            if not isinstance(entry, Take) or entry.source not in states[0]:
                continue
            before, after = states[0][entry.source], states[1].get(name, {})
            require(
                before.keys() == after.keys(), f"the optimiser has {[*after]} for {name}, {described(entry)}, not {[*before]}"
            )
            for key, value in before.items():
                expected, found = torch.as_tensor(value), torch.as_tensor(after[key])
                what = f"{key} of {name}, {described(entry)},"
                if key in powers:
                    new, _ = entry.new_entries(found)
                    require(not found[new].any(), f"{what} is not zero in new entries")
                    expected, found = (entry.gather(expected) * entry.gradient ** powers[key])[~new], found[~new]
                    if betas:
                        b = betas[powers[key] - 1]
                        expected, found = (
                            m / (1 - b ** float(state["step"])) for m, state in ((expected, before), (found, after))
                        )
                elif key == "step" and betas and entry.has_new:
                    expected = expected.clamp(max=max(1, round(1 / (1 - betas[0]))))
                allowed = tolerance(expected) if expected.numel() else 0.0
                require_at_most(f"the distance of {what} from that of the parent", largest(found - expected), allowed)


def described(entry: Take | Set | None) -> str:
    """Return an entry of a map in words, for a message."""
    if isinstance(entry, Take):
        scales = {"value": entry.value, "gradient": entry.gradient}
        given = [f", {n}={'...' if torch.is_tensor(s) else s}" for n, s in scales.items() if torch.is_tensor(s) or s != 1]
        return f"which is Take({entry.source!r}{', index=...' if entry.index else ''}{''.join(given)})"
    return "which is Set(...)" if isinstance(entry, Set) else "which is not in the map"


# --------------------------------------------------------------------------------------------------- removals and structures


def assert_removal_is_masking(parent: TrainedNetwork, removed: Mapping[Address, AbstractSet[int]]) -> TrainedNetwork:
    """Assert that removing candidates equals giving them mixing weight zero, and return the child.

    The other candidates of a site have the mixing weights that the architect computes from their alphas alone; the last
    one has weight one.
    """
    child = parent.after(remove_candidates(parent.network.structure, removed))
    # the mixing weights of the remaining candidates are computed anew from their alphas, as a removal does
    mixing, rest = dict(parent.mixing()), _mixing_of_rest(parent.network, child.network)
    for address, site in parent.network.sites.items():
        kept = torch.tensor([c.id not in removed.get(address, ()) for c in site.candidates])
        masked = torch.zeros_like(mixing[address])
        if kept.sum() == 1:
            masked[kept] = 1.0
        elif address in rest:  # else nothing depends on the site any more
            masked[kept] = rest[address]
        mixing[address] = masked
    for mode, training in MODES.items():
        masked = parent.outputs(training, mixing)
        distance = largest(child.outputs(training) - masked)
        require_at_most(f"the distance of the pruned from the masked network in {mode} mode", distance, tolerance(masked))
    return child


def _mixing_of_rest(parent: Network, child: Network) -> Mapping[str, Tensor]:
    """Return the mixing weights that the relaxation computes in the child, from the parent's alphas of what remains."""
    alphas = {name: alpha.detach() for name, alpha in child.alphas.items()}
    for address, site in child.sites.items():
        ids = [c.id for c in parent.sites[address].candidates]
        alphas[address] = parent.alphas[address].detach()[[ids.index(c.id) for c in site.candidates]]
    assert child.relaxation is not None
    return child.relaxation.mixing(child.sites, alphas, None) if child.sites else {}


def assert_reconstructed(trained: TrainedNetwork, make: Callable[[str, Any], Any]) -> None:
    """Assert that the JSON of the structure and the values of the tensors are all that there is to a network.

    Args:
        trained: the network.
        make: makes parts of their descriptions, as for `Structure.from_json`.
    """
    before = trained.network.structure
    after = Structure.from_json(before.to_json(), make)
    equal = (after, after.digest(), hash(after)) == (before, before.digest(), hash(before))
    require(equal, "the structure that is read from the JSON is another one")
    # from the JSON and the values alone: whatever else the network keeps is lost here
    network = rebuilt(trained.strategy, Snapshot(after, copied(trained.network), None))
    assert_exact(trained, attrs.evolve(trained, state=attrs.evolve(trained.state, network=network)), allowed=0.0)


def assert_ids_not_reused(structures: Sequence[Structure]) -> None:
    """Assert that in structures that follow each other no id of a removed candidate or node is used again."""
    # A removed id may not come back even with the same operation: its weights, moments and records would be taken for those
    # of the old one.
    known: dict[str, Any] = {}
    gone: set[str] = set()
    for structure in structures:
        present: dict[str, Any] = {f"candidate {c.id}": c.operation for _, s in structure.sites() for c in s.candidates}
        present |= {f"node {address}": None for address, _ in structure.nodes()}
        for name, what in present.items():
            require(name not in gone, f"the id of {name} is used again")
            require(known.setdefault(name, what) == what, f"{name} has become another operation")
        # an id may disappear once and must not come back
        gone |= known.keys() - present.keys()
