"""The laws of change. Each raises an AssertionError that says which law, and what was measured against what is allowed.

A law takes the parent as it stands in its training (`TrainedNetwork`), and the change, the child that follows from it
(`parent.after(change)`), or how the change is made of the parent's network.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

from nasframe import Address, Architect, Bound, Change, MixedOperation, Network, Seed, Site, Structure, Take
from nasframe.change.apply import remove_candidates
from nasframe.change.claim import tolerance
from nasframe.change.map import derive_map
from nasframe.network.network import tensors
from nasframe.search.state import Snapshot, copied, rebuilt
from nasframe.testing.saved import saved
from nasframe.testing.trained import TrainedNetwork

#: how a change is made of a network
Make = Callable[[Network], Change]
MODES = {"evaluation": False, "training": True}


def hold(law: str, what: str, measured: float, allowed: float) -> None:
    """Raise unless what was measured is at most what is allowed; what is not a number is not."""
    if not measured <= allowed:
        raise AssertionError(f"{law}: {what} is {measured:.4g}; at most {allowed:.4g} is allowed")


def demand(law: str, truth: bool, otherwise: str) -> None:
    """Raise unless it is true."""
    if not truth:
        raise AssertionError(f"{law}: {otherwise}")


def assert_transaction(parent: TrainedNetwork, make: Make) -> TrainedNetwork:
    """The parent stays as it was: values, modes, gradients, optimisers, and the global generator with it. The child, which
    is returned, shares no storage with it, also when it trains on, and has its mode, dtype and device.
    """
    before = _fingerprint(parent)
    child = parent.after(make(parent.network))
    _unchanged(before, parent, "the change")
    old, new = _storages(parent), _storages(child)
    shared = ", ".join(sorted(new[pointer] for pointer in old.keys() & new.keys()))
    demand("transaction", not shared, f"the child shares the storage of {shared} with its parent")
    demand("transaction", _kind(parent.network) == _kind(child.network), "the child has not its parent's mode, dtype or device")
    child.copy().train(2)
    _unchanged(before, parent, "training the child")
    return child


def assert_exact(parent: TrainedNetwork, child: TrainedNetwork, allowed: float | None = None) -> None:
    """The child puts out what its parent does, in evaluation and in training mode: up to rounding, or to what is allowed."""
    for mode, training in MODES.items():
        before, after = parent.outputs(training), child.outputs(training)
        limit = tolerance(before) if allowed is None else allowed
        hold("exact", f"the distance of the outputs in {mode} mode", _largest(after - before), limit)


def assert_fast_form(trained: TrainedNetwork) -> None:
    """Check that the fast form has the outputs and gradients of the modules, in evaluation and in training mode.

    The fast form is derived from `Operation.pointwise`, so this checks that description against the module of each operation.
    """
    quick, slow = trained.copy(), trained.copy()
    quick.network.fast, slow.network.fast = True, False
    for mode, training in MODES.items():
        before, after = slow.outputs(training), quick.outputs(training)
        hold("fast", f"the distance of the outputs in {mode} mode", _largest(after - before), tolerance(before))
    exact, found = _gradients(slow), _gradients(quick)
    scale = torch.stack([gradient.abs().max() for gradient in exact.values()])
    for name, gradient in exact.items():
        hold("fast", f"the distance of the gradient of {name}", _largest(found[name] - gradient), tolerance(scale))


def output_distance(parent: TrainedNetwork, child: TrainedNetwork, training: bool = False) -> float:
    """The largest difference of the outputs."""
    return _largest(child.outputs(training) - parent.outputs(training))


def assert_no_forward(parent: TrainedNetwork, make: Make) -> Change:
    """A change is worked out, with its claim, without running any network on anything."""

    def refuse(module: nn.Module, inputs: Any) -> None:
        raise AssertionError(f"blind: {type(module).__name__} was run while the change was worked out")

    handle = register_module_forward_pre_hook(refuse)
    try:
        return make(parent.network)
    finally:
        handle.remove()


@attrs.frozen(eq=False)
class NodeCall:
    """What a node was given, by name, what it put out, and what it should have put out."""

    inputs: Mapping[str, Tensor]
    output: Tensor
    wanted: Tensor

    @property
    def norms(self) -> dict[str, float]:
        """The largest absolute value of each input."""
        return {name: _largest(value) for name, value in self.inputs.items()}

    @property
    def error(self) -> float:
        """How far the output is from what it should be."""
        return _largest(self.output - self.wanted)


def node_calls(
    trained: TrainedNetwork, node: str, training: bool = False, parent: TrainedNetwork | None = None
) -> list[NodeCall]:
    """Every call of a node, in every instance and at every step of the validation split: of one that the cell's end grew, which
    should put out the mean of what was put out before; with a `parent`, of one that should put out what it does there.
    """
    wanted = _wanted(trained, node, training, parent)
    with torch.no_grad(), Seed(("seen",)).as_global(trained.strategy.device):
        return [NodeCall(inputs, output, wanted[n](inputs)) for inputs, output, n in _calls(trained, node, training)]


def _wanted(
    child: TrainedNetwork, node: str, training: bool, parent: TrainedNetwork | None
) -> list[Callable[[Mapping[str, Tensor]], Tensor]]:
    """For each instance of a node what it should make of inputs, given by name."""
    if parent is None:
        inherited = _inherited(child, node)
        return [lambda inputs: torch.stack([inputs[n] for n in inherited]).mean(0)] * len(_instances(child, node))
    old, weights = parent.copy(), {address: w.unbind() for address, w in parent.mixing().items()}
    old.network.train(training)
    sites = _sites(old, node)

    def made(own: tuple[MixedOperation, ...], inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([m(weights, *(inputs[i] for i in s.inputs)) for m, s in zip(own, sites, strict=True)]).sum(0)

    return [partial(made, own) for own in _instances(old, node)]


def _calls(trained: TrainedNetwork, node: str, training: bool) -> Iterator[tuple[dict[str, Tensor], Tensor, int]]:
    """The inputs of a node by name, its output, and in which instance of its cell, at every call on the validation split."""
    hooked, sites, found = trained.copy(), _sites(trained, node), []
    hooked.network.fast = False  # a fast form calls no modules
    for mixtures in _instances(hooked, node):
        calls: list[list[tuple[Any, Tensor]]] = [[] for _ in mixtures]
        for mixture, own in zip(mixtures, calls, strict=True):
            mixture.register_forward_hook(lambda module, inputs, output, own=own: own.append((inputs[1:], output)))
        found.append(calls)
    hooked.outputs(training)
    for instance, calls in enumerate(found):
        for step in zip(*calls, strict=True):
            inputs = {n: i for s, (given, _) in zip(sites, step, strict=True) for n, i in zip(s.inputs, given, strict=True)}
            yield inputs, torch.stack([output for _, output in step]).sum(0), instance


def assert_within_bounds(child: TrainedNetwork, bounds: Mapping[str, Bound], parent: TrainedNetwork | None = None) -> None:
    """What a changed node puts out is as near to what it should be as the claim says, given its inputs: at every step, in
    every instance, in both modes. What it should be is told as in `seen`.
    """
    for (node, bound), (mode, training) in itertools.product(bounds.items(), MODES.items()):
        for step, call in enumerate(node_calls(child, node, training, parent)):
            allowed = bound(call.norms) + tolerance(call.output)
            hold("bounded", f"the error of {node} at its call {step} in {mode} mode", call.error, allowed)


#: by how many times the norms that a node sees: how much larger than what is reached a bound may be. A sigmoid is bounded
#: by one at any norm and reaches it at large ones alone.
FACTORS = {1.0: 6.0, 10.0: 3.0}


def assert_tight(
    child: TrainedNetwork,
    node: str,
    bound: Bound,
    factors: Mapping[float, float] = FACTORS,
    parent: TrainedNetwork | None = None,
) -> float:
    """Of all inputs that are as large as those that the node sees, or several times so, none deviates by more than its
    bound, and some come within a factor of it, so that it says something. Returns within which one some came.
    """
    nearest = math.inf
    for scale, factor in factors.items():
        allowed, reached = largest_error(child, node, bound, scale, parent=parent)
        where = f"of {node}, at {scale:g} times the norms that it sees,"
        hold("tight", f"the largest error found {where}", reached, allowed * (1 + 1e-9))
        times = allowed / reached if reached else math.inf
        hold("tight", f"the bound {where} over the largest error found", times, factor)
        nearest = min(nearest, times)
    return nearest


def largest_error(
    child: TrainedNetwork, node: str, bound: Bound, scale: float = 1.0, tries: int = 64, parent: TrainedNetwork | None = None
) -> tuple[float, float]:
    """The bound for `scale` times the norms of all that the node sees, and the largest error found among such inputs.

    From random corners of the box of these norms, each try climbs the error's gradient from corner to corner.
    """
    sites, wanted, calls = _sites(child, node), _wanted(child, node, False, parent), node_calls(child, node, parent=parent)
    norms = {name: scale * max(call.norms[name] for call in calls) for name in calls[0].inputs}
    generator = Seed(("slack",)).generator()
    shares = {a: w.unbind() for a, w in child.mixing().items()}
    largest = 0.0
    for mixtures, reference in zip(_instances(child.copy(), node), wanted, strict=True):
        like = calls[0].output
        shapes = {name: (tries, *value.shape[1:]) for name, value in calls[0].inputs.items()}
        corners = {n: torch.randn(s, generator=generator, dtype=torch.float64).to(like).sign() for n, s in shapes.items()}
        for _ in range(10):
            inputs = {name: (norms[name] * corner).requires_grad_() for name, corner in corners.items()}
            own = sum(m.eval()(shares, *(inputs[i] for i in s.inputs)) for m, s in zip(mixtures, sites, strict=True))
            error = (own - reference(inputs)).abs().flatten(1).amax(1)
            largest = max(largest, float(error.detach().max()))
            gradients = torch.autograd.grad(error.sum(), [*inputs.values()])
            corners = {name: gradient.sign() for name, gradient in zip(inputs, gradients, strict=True)}
    return bound(norms), largest


def assert_linear(what: str, values: Mapping[float, float], curvature: float = 20.0) -> None:
    """What is measured by size of noise falls in proportion to the size: between neighbouring sizes, of which s is the
    larger, the slope in log-log is one up to 0.01 + curvature * s, and over all of them one up to 0.15.
    """
    sizes = sorted(values, reverse=True)
    for s, t, within in [*((s, t, curvature * s + 0.01) for s, t in itertools.pairwise(sizes)), (sizes[0], sizes[-1], 0.15)]:
        v, w = values[s], values[t]
        slope = math.log(v / w) / math.log(s / t) if v > 0 and w > 0 else math.inf
        hold("linear", f"the distance from one of the slope of {what} from {s:g} to {t:g}", abs(slope - 1), within)


def assert_trainable(parent: TrainedNetwork, child: TrainedNetwork, steps: int = 3, every: bool = True) -> None:
    """Every entry that is new, of new parameters and of old ones that have grown, receives a gradient that is not zero within
    so many steps: a weight from the training loss, a alpha from the validation loss, both as the search takes them. Not
    `every`: of each parameter one entry at least, as where a ReLU may be off.
    """
    own = child.copy()
    named, taken = dict(own.network.named_parameters()), _taken(parent, child)
    new = {n: taken[n].new_entries(p)[0] if n in taken else torch.ones_like(p, dtype=torch.bool) for n, p in named.items()}
    reached = {n: torch.zeros_like(mask) for n, mask in new.items() if mask.any()}

    def note(*_: Any) -> None:
        for name, mask in reached.items():
            gradient = named[name].grad
            if gradient is not None:
                mask |= gradient.abs() > 0  # what is not a number does not count

    for optimiser in own.state.optimisers.values():
        optimiser.register_step_pre_hook(note)
    own.train(steps)
    dead = [n for n, mask in reached.items() if not (mask[new[n]].all() if every else mask[new[n]].any())]
    demand("alive", not dead, f"no gradient reached {', '.join(dead)} within {steps} steps")


def assert_gradients_follow(parent: TrainedNetwork, child: TrainedNetwork) -> None:
    """The gradient goes as the map says: the child's, where it takes from its parent's, is its parent's taken so, and its
    square is the square taken so; which is why the moments may follow.
    """
    before, after = _gradients(parent), _gradients(child)
    scale = torch.stack([gradient.abs().max() for gradient in before.values()])
    for name, entry in child.map.items():
        if name in after and isinstance(entry, Take):
            old = ~entry.new_entries(after[name])[0]
            for power in (1, 2):
                difference = after[name] ** power - entry.moment(before[entry.source] ** power, power)
                hold(
                    "follows",
                    f"the distance of the gradient^{power} of {name}",
                    _largest(difference[old]),
                    power * tolerance(scale**power),
                )


def step_differences(parent: TrainedNetwork, child: TrainedNetwork) -> dict[str, tuple[float, float]]:
    """How differently parent and child move in their next step what the child has from its parent, entry by entry, and what
    rounding allows; by tensor.

    Allowed is rounding at the scale of all tensors, and what the parent's own step differs by if its gradients are off by
    rounding at the scale of all of these: of a gradient that is zero in truth, as that of a bias before a BatchNorm, there
    is nothing else, and Adam divides it by its own size.
    """
    before, own, a, b = copied(parent.network), copied(child.network), _stepped(parent), _stepped(child)
    off = _stepped(parent, rounded=True)
    scale = tolerance(torch.stack([t.abs().max() for t in a.values() if t.is_floating_point() and t.numel()]))
    found = {}
    for name, entry in (_kept(parent, child) | _taken(parent, child)).items():
        source = entry.source
        if before[source].is_floating_point():
            difference = (b[name] - own[name]) - entry.gather(a[source] - before[source])
            old = ~entry.new_entries(difference)[0]
            found[name] = _largest(difference[old]), scale + _largest(off[source] - a[source])
    return found


def _taken(parent: TrainedNetwork, child: TrainedNetwork) -> dict[str, Take]:
    """Which entries the child has from its parent, by name and label."""
    return {n: entry for n, entry in derive_map(parent.network, child.network).items() if isinstance(entry, Take)}


def _kept(parent: TrainedNetwork, child: TrainedNetwork) -> dict[str, Take]:
    """Which entries it has by the change's word, as they were, under whatever name; of a parent before its own, those left."""
    there = tensors(parent.network)
    told = {n: entry for n, entry in child.map.items() if isinstance(entry, Take) and entry.source in there}
    taken = {n: entry for n, entry in told.items() if entry.offset is None}
    scales = {n: (entry.value, entry.gradient) for n, entry in taken.items()}
    return {n: taken[n] for n, own in scales.items() if all(not torch.is_tensor(s) and s == 1 for s in own)}


def _stepped(trained: TrainedNetwork, rounded: bool = False) -> dict[str, Tensor]:
    """Every tensor after the next step; `rounded`: with each gradient off by rounding at the scale of its optimiser's largest."""
    own = trained.copy()

    def off(optimiser: Optimizer, *_: Any) -> None:
        given = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None and p.numel()]
        largest = [p.grad.abs().max() for p in given]
        for p in given:
            p.grad = p.grad + tolerance(torch.stack(largest))

    for optimiser in own.state.optimisers.values() if rounded else ():
        optimiser.register_step_pre_hook(off)
    return copied(own.train(1).network)


def assert_moments_follow(parent: TrainedNetwork, child: TrainedNetwork) -> None:
    """What the child has from its parent moves in the next step of the search as it would have: the optimisers have followed
    the change.
    """
    for name, (difference, allowed) in step_differences(parent, child).items():
        hold("undisturbed", f"the difference between the next steps of {name}", difference, allowed)


def assert_removal_is_masking(parent: TrainedNetwork, gone: Mapping[Address, Set[int]]) -> TrainedNetwork:
    """Removing candidates equals giving them weight zero and the others of their site theirs, divided by their sum; returns
    the child.
    """
    child = parent.after(remove_candidates(parent.network, gone, Seed(("removal",))))
    weights = dict(parent.mixing())
    for address, site in parent.network.structure.sites():
        if address in gone:
            kept = torch.tensor([c.id not in gone[address] for c in site.candidates])
            weights[address] = weights[address] * kept / (weights[address][kept].sum() if kept.any() else 1.0)
    for mode, training in MODES.items():
        mask, after = parent.outputs(training, weights), child.outputs(training)
        hold(
            "masked",
            f"the distance of the pruned from the masked network in {mode} mode",
            _largest(after - mask),
            tolerance(mask),
        )
    return child


def assert_reconstructed(trained: TrainedNetwork, make: Callable[[str, Any], Any]) -> None:
    """The JSON of the structure and the values of the tensors are the network; `make` as for Structure.from_json."""
    own = trained.network.structure
    structure = Structure.from_json(own.to_json(), make)
    same = (structure, structure.digest(), hash(structure)) == (own, own.digest(), hash(own))
    demand("reconstructed", same, "the structure is another one after a round trip through JSON")
    network = rebuilt(trained.strategy, Snapshot(structure, copied(trained.network), None))
    assert_exact(trained, attrs.evolve(trained, state=attrs.evolve(trained.state, network=network)), allowed=0.0)


def assert_ids_not_reused(history: Sequence[Structure]) -> None:
    """Of structures that follow each other, none has a candidate or a node that was gone before, or another one under
    the id of an old one.
    """
    known: dict[Any, Any] = {}
    gone: set[Any] = set()
    for structure in history:
        here: dict[Any, Any] = {f"candidate {c.id}": c.operation for _, s in structure.sites() for c in s.candidates}
        here |= {f"node {address}": None for address, _ in structure.nodes()}
        for name, what in here.items():
            demand("identities", name not in gone, f"{name} is back")
            demand("identities", known.setdefault(name, what) == what, f"{name} is another one")
        gone |= known.keys() - here.keys()


def assert_inverse(architect: Architect, weights: Mapping[str, Tensor]) -> None:
    """The architect's alphas are finite, and its rule makes of them the weights that they were made from."""
    alphas = architect.invert(weights)
    demand("inverse", alphas.keys() == weights.keys(), f"there are alphas for {[*alphas]}, and weights for {[*weights]}")
    for address, value in architect.mixing(alphas).items():
        demand(
            "inverse", bool(torch.isfinite(alphas[address]).all()), f"the alphas of {address} are {alphas[address].tolist()}"
        )
        hold("inverse", f"the distance of the weights of {address}", _largest(value - weights[address]), tolerance(value))


def _gradients(trained: TrainedNetwork) -> dict[str, Tensor]:
    network = copy.deepcopy(trained.network).train()
    inputs, targets = trained.data.train.batch(torch.arange(trained.data.train.size))
    with Seed(("gradients",)).as_global(trained.strategy.device):
        loss = trained.data.objective(network(inputs, trained.strategy.architect.mixing(dict(network.alphas))), targets)
    named = dict(network.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()], materialize_grads=True), strict=True))


def _fingerprint(trained: TrainedNetwork) -> dict[str, Any]:
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


def _unchanged(before: Mapping[str, Any], parent: TrainedNetwork, what: str) -> None:
    after = _fingerprint(parent)
    names = [*before, *(n for n in after if n not in before)]
    different = [n for n in names if n not in before or n not in after or not _same(before[n], after[n])]
    demand("transaction", not different, f"{what} changed the parent's {', '.join(different)}")


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a is b or bool(a == b)


def _storages(trained: TrainedNetwork) -> dict[int, str]:
    named = [*tensors(trained.network).items()]
    for group, optimiser in trained.state.optimisers.items():
        named += [(f"{k} of the {group}", v) for s in optimiser.state.values() for k, v in s.items() if torch.is_tensor(v)]
    return {t.untyped_storage().data_ptr(): name for name, t in named if t.numel()}


def _kind(network: Network) -> tuple[bool, set[Any]]:
    return network.training, {(t.dtype, t.device) for t in tensors(network).values() if t.is_floating_point()}


def _sites(trained: TrainedNetwork, node: str) -> list[Site]:
    return [*trained.network.structure.sites_of(Address(node)).values()]


def _instances(trained: TrainedNetwork, node: str) -> list[tuple[MixedOperation, ...]]:
    """The mixtures of a node's sites, in every instance of its cell type."""
    sites = trained.network.structure.sites_of(Address(node))
    modules = [[m for _, m in trained.network.mixed_operations(address)] for address in sites]
    return [*zip(*modules, strict=True)]


def _inherited(trained: TrainedNetwork, node: str) -> Sequence[str]:
    """What the cell put out before the node grew at its end."""
    cell = trained.network.structure.cell(Address(node).cell)
    before = cell.nodes[: [n.id for n in cell.nodes].index(Address(node).id)]
    return trained.network.structure.backbone.outputs(attrs.evolve(cell, nodes=before))


def _largest(value: Tensor) -> float:
    return float(value.detach().abs().max()) if value.numel() else 0.0
