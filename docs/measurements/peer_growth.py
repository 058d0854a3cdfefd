"""Measure how far growth changes the function of a network, in nasframe and in GroMo 0.1.0, on the same trained layers.

    pip install gromo==0.1.0
    python docs/measurements/peer_growth.py

A network Linear-Tanh-Linear is trained with nasframe. GroMo receives a copy of its weights, of the data and of the state of
the optimiser. A recurrent cell, which GroMo does not have, is trained on the same data. The script prints a table in
markdown; peer_growth.md explains its columns.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar

import attrs
import torch
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_recurrent import TwoToOne
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchmetrics import MeanSquaredError, MetricCollection

from nasframe import Address, Backbone, Bound, Claim, Data, Edit, Filling, Optimiser, Seed, Split, Strategy, Structure, Task
from nasframe.network.axes import consumes, produces
from nasframe.structure.editing import GrownStructure
from nasframe.testing import assertions
from nasframe.testing.fakes import Endless, Keep
from nasframe.testing.trained import TrainedNetwork

INPUTS, OUTPUTS, TIME = 6, 4, 4
#: the number of training sequences; the validation split has half as many
EXAMPLES = 128
WIDTHS = (2, 8, 32)
SEEDS = (0, 1, 2)
UPDATES = 200
#: the number of new neurons, where the method does not choose it
NEW = 4
MODES = {"evaluation": False, "training": True}
MOMENTS = ("exp_avg", "exp_avg_sq")


@attrs.frozen
class Sines(Task):
    """The regression of y_d = sum over i of sin(i x_i + d) on normal x, at each step of a sequence separately."""

    name: ClassVar[str] = "sines"
    seed: int = 0

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return data that are drawn from the seed."""
        train, validation, test = (self._split(name, device, dtype) for name in ("train", "validation", "test"))
        return Data(
            sizes={"inputs": INPUTS, "outputs": OUTPUTS},
            train=train,
            validation=validation,
            test=test,
            loss=lambda outputs, targets: mse_loss(outputs.transpose(0, 1), targets),
            predict=lambda outputs: outputs.transpose(0, 1),
            metrics=lambda: MetricCollection({"mse": MeanSquaredError()}),
            score="mse",
            references=lambda parameters: {},
        )

    def _split(self, name: str, device: torch.device, dtype: torch.dtype) -> Split:
        size = EXAMPLES if name == "train" else EXAMPLES // 2
        x = torch.randn(TIME, size, INPUTS, generator=Seed((self.seed, name)).generator(), dtype=torch.float64)
        i, d = torch.arange(1, INPUTS + 1), torch.arange(OUTPUTS)
        y = torch.sin((i * x)[..., None] + d).sum(-2).transpose(0, 1)
        x, y = x.to(device, dtype), y.to(device, dtype)
        return Split(size, lambda index: (x[:, index], y[index]))


class Layers(nn.Module):
    """Linear, Tanh, Linear, with axis labels that identify the hidden units."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.tanh, self.second = nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, shares: Any) -> Tensor:
        """Return the outputs at each step of a sequence; there are no mixing weights."""
        return self.second(self.tanh(self.first(x)))

    def axes(self) -> dict[str, Any]:
        """Return the labels: the first layer produces the hidden units, the second layer consumes them."""
        names = range(self.first.out_features)
        made, taken = produces(*names), consumes(*names)
        return {"first.weight": (made, None), "first.bias": (made,), "second.weight": (None, taken)}


@attrs.frozen
class Perceptron(Backbone):
    """A backbone without cells: one hidden layer."""

    name: ClassVar[str] = "perceptron"
    inputs: ClassVar[tuple[str, ...]] = ()
    hidden: int

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return a structure without cells."""
        return Structure(self, tuple(sorted(sizes.items())), ())

    def body(self, structure: Structure) -> nn.Module:
        """Return the two linear layers of the structure."""
        return Layers(structure.size("inputs"), self.hidden, structure.size("outputs"))

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Raise an error, because there is no cell to grow."""
        raise NotImplementedError

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return nothing to remove, because there is nothing to decide."""
        return {}


@attrs.frozen(eq=False)
class Running:
    """A network in training, of either library, and what is measured on it.

    Args:
        network: the module.
        optimisers: its optimisers; after a growth those that the library has carried over.
        outputs: returns the outputs on the validation split, in training mode or in evaluation mode.
        losses: returns the losses on the training and on the validation split.
        train: trains for a number of steps.
        bound: the largest error of a changed node as a share of its bound, if the change claims one.
    """

    network: Any
    optimisers: Sequence[Optimizer]
    outputs: Callable[[bool], Tensor]
    losses: Callable[[], tuple[float, float]]
    train: Callable[[int], Any]
    bound: float | None = None

    def moments(self) -> dict[tuple[str, str], Tensor]:
        """Return Adam's moments of the network's current parameters, after the correction of their bias."""
        return {
            (name, key): state[key] / (1 - b ** float(state["step"]))
            for name, parameter in self.network.named_parameters()
            for optimiser in self.optimisers
            if (state := optimiser.state.get(parameter))
            for key, b in zip(MOMENTS, optimiser.param_groups[0]["betas"], strict=True)
        }

    def reached(self, new: Mapping[str, Tensor], steps: int = 3) -> float:
        """Return the share of the new entries that receive a non-zero gradient in one of the next steps.

        Args:
            new: a mask of the new entries of each parameter, by name.
            steps: the number of steps.
        """
        named, found = dict(self.network.named_parameters()), {name: torch.zeros_like(mask) for name, mask in new.items()}

        def note(*_: Any) -> None:
            for name, mask in found.items():
                gradient = named[name].grad
                if gradient is not None:
                    mask |= new[name] & (gradient != 0)

        handle = register_optimizer_step_pre_hook(note)
        try:
            self.train(steps)
        finally:
            handle.remove()
        return sum(int(m.sum()) for m in found.values()) / sum(int(m.sum()) for m in new.values())


@attrs.frozen
class Growth:
    """The effect of one growth.

    Attributes:
        distance: the largest difference of the outputs over the largest output, by mode.
        losses: the relative change of the loss, on the training and on the validation split.
        added: the number of new entries of the parameters.
        reached: the share of the new entries that received a non-zero gradient within three steps.
        kept: the share of the parent's moments that are the same in the child, after the correction of their bias.
        bound: the largest error of the new node as a share of its bound, if the growth claims one.
    """

    distance: Mapping[str, float]
    losses: tuple[float, ...]
    added: int
    reached: float
    kept: float
    bound: float | None


def measured(parent: Running, grow: Callable[[], Running]) -> Growth:
    """Return what a growth does to outputs, losses, gradients and moments.

    Args:
        parent: the network before.
        grow: returns the network after; it may have changed the parent in place.
    """
    outputs, losses, moments = {mode: parent.outputs(t) for mode, t in MODES.items()}, parent.losses(), parent.moments()
    shapes = {name: p.shape for name, p in parent.network.named_parameters()}
    child = grow()
    new = {name: torch.ones_like(p, dtype=torch.bool) for name, p in child.network.named_parameters()}
    for name, shape in shapes.items():
        new[name][_block(shape)] = False
    now = child.moments()
    kept = [
        torch.isclose(now[key][_block(old.shape)], old, atol=0.0) if key in now else torch.zeros(old.shape)
        for key, old in moments.items()
    ]
    return Growth(
        distance={m: float((child.outputs(t) - outputs[m]).abs().max() / outputs[m].abs().max()) for m, t in MODES.items()},
        losses=tuple(after / before - 1 for before, after in zip(losses, child.losses(), strict=True)),
        added=sum(int(mask.sum()) for mask in new.values()),
        kept=float(torch.cat([k.flatten().double() for k in kept]).mean()),
        reached=child.reached(new),
        bound=child.bound,
    )


def _block(shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the position of a tensor of this shape in one that has grown at the end of its axes."""
    return tuple(slice(n) for n in shape)


@functools.cache
def trained(backbone: Backbone, dtype: str, seed: int) -> TrainedNetwork:
    """Return a network that was trained with Adam. It is cached: take a copy to train it further."""
    strategy = Strategy(
        task=Sines(seed),
        backbone=backbone,
        architect=FirstOrder(Optimiser(learning_rate=0.01)),
        criterion=Endless(),
        pruner=Keep(),
        nodes=2,
        batch=32,
        optimiser=Optimiser(learning_rate=0.01),
        seed=seed,
        dtype=dtype,
    )
    return TrainedNetwork.of(strategy, UPDATES)


def ours(trained: TrainedNetwork, bound: float | None = None) -> Running:
    """Return a running search of nasframe, ready to be measured."""

    def losses() -> tuple[float, float]:
        network, weights = trained.copy().network.eval(), trained.mixing()
        train, validation = (
            trained.data.mean_loss(lambda x: network(x, weights), s) for s in (trained.data.train, trained.data.validation)
        )
        return train, validation

    return Running(trained.network, [*trained.state.optimisers.values()], trained.outputs, losses, trained.train, bound)


def widened(parent: TrainedNetwork) -> Running:
    """Return the layers with new hidden units, whose incoming weights are drawn and whose outgoing weights are zero."""
    structure, body = parent.network.structure, parent.network.body
    assert isinstance(body, Layers)
    wider = attrs.evolve(structure, backbone=Perceptron(body.first.out_features + NEW))
    return ours(parent.after(Edit(wider, lambda parent, child: Filling(Claim.exact())), Seed(("wider",))))


def another_node(parent: TrainedNetwork, form: str) -> Running:
    """Return the cell with one more node."""
    seed = Seed(("node",))
    child = parent.after(NodeGrowth(form=form).edit(parent.network.structure, {"cell": "layer0"}, {}, seed), seed)
    assert child.claim is not None
    return ours(child, max((used(child, n, b) for n, b in child.claim.bounds.items()), default=None))


def used(child: TrainedNetwork, node: str, bound: Bound) -> float:
    """Return the largest error of a node's output as a share of its bound."""
    return max(call.error / bound(call.norms) for t in MODES.values() for call in assertions.node_calls(child, node, t))


def theirs(parent: TrainedNetwork) -> Running:
    """Return the same layers in GroMo, with the same data and a copy of the state of Adam."""
    from gromo.containers.growing_mlp import GrowingMLP

    aged = parent.copy()
    body, old = aged.network.body, aged.state.optimisers["weights"]
    assert isinstance(body, Layers)
    model = GrowingMLP(INPUTS, OUTPUTS, body.first.out_features, 1, activation=nn.Tanh(), device=torch.device("cpu"))
    optimiser = parent.strategy.optimiser.build([*model.named_parameters()])
    for parameter, given in zip(model.parameters(), body.parameters(), strict=True):
        parameter.data.copy_(given)
        optimiser.state[parameter] = old.state[given]
    (x, y), (inputs, targets) = rows(parent.data.train), rows(parent.data.validation)

    def train(steps: int) -> None:
        fresh = parent.strategy.optimiser.build([*model.named_parameters()])
        for _ in range(steps):
            fresh.zero_grad()
            mse_loss(model.train()(x), y).backward()
            fresh.step()

    @torch.no_grad()
    def losses() -> tuple[float, float]:
        model.eval()
        return float(mse_loss(model(x), y)), float(mse_loss(model(inputs), targets))

    return Running(model, [optimiser], lambda training: model.train(training)(inputs).detach(), losses, train)


def rows(split: Split) -> tuple[Tensor, Tensor]:
    """Return all steps of all sequences as rows."""
    x, y = split.batch(torch.arange(split.size))
    return x.transpose(0, 1).flatten(0, 1), y.flatten(0, 1)


#: the scaling factors that GroMo's tutorial searches
LINE = (0.0, 0.1, 0.5, 1.0)


def optimal(running: Running, data: Split, factors: Sequence[float] | None, **options: Any) -> Running:
    """Grow with GroMo's optimal updates, as its tutorial does.

    Args:
        running: the network, which is changed in place.
        data: the training split.
        factors: the scaling factors to choose from by the training loss; None leaves the factor as GroMo sets it.
        options: options of GroMo's `compute_optimal_updates`.
    """
    from gromo.utils.training_utils import compute_statistics, evaluate_model

    model, batches = running.network, [rows(data)]
    model.set_growing_layers(index=0)
    compute_statistics(model, batches, loss_function=nn.MSELoss(reduction="sum"))
    model.compute_optimal_updates(**options)
    model.reset_computation()
    model.dummy_select_update()
    losses = {}
    for factor in factors or ():
        model.set_scaling_factor(factor)
        losses[factor], _ = evaluate_model(model, batches, nn.MSELoss(), use_extended_model=True)
    if losses:
        model.set_scaling_factor(min(losses, key=losses.__getitem__))
    model.apply_change()
    return running


def drawn(running: Running, data: Split, **options: Any) -> Running:
    """Grow with neurons that GroMo draws at random, at the scaling factor of its `complete_growth`.

    Args:
        running: the network, which is changed in place.
        data: not used.
        options: options of GroMo's `create_layer_extensions`.
    """
    layer = running.network.layers[1]
    layer.create_layer_extensions(NEW, **options)
    layer.apply_change(scaling_factor=1.0, extension_size=NEW)
    layer.delete_update()
    return running


#: with dropout, so that training and evaluation mode differ
Cell = partial(TwoToOne, dropout=0.1)
OURS: dict[str, tuple[Callable[..., Backbone], Callable[[TrainedNetwork], Running]]] = {
    "widening through the map": (Perceptron, widened),
    'NodeGrowth("gate")': (Cell, partial(another_node, form="gate")),
    'NodeGrowth("noise")': (Cell, partial(another_node, form="noise")),
}
THEIRS: dict[str, Callable[[Running, Split], Running]] = {
    "optimal updates, scaling factor as built (0)": partial(optimal, factors=None),
    "optimal updates, scaling factor 1": partial(optimal, factors=[1.0]),
    "optimal updates, line search": partial(optimal, factors=LINE),
    "the same, new neurons only": partial(optimal, factors=LINE, compute_delta=False),
    "drawn extension": drawn,
    "drawn in pairs": partial(drawn, neuron_pairing="vv_z_negz"),
    "drawn in pairs, noise_ratio=0": partial(drawn, neuron_pairing="vv_z_negz", noise_ratio=0.0),
}


def our_growth(name: str, width: int, dtype: str, seed: int) -> Growth:
    """Measure one of nasframe's growths."""
    backbone, grow = OURS[name]
    parent = trained(backbone(hidden=width), dtype, seed).copy()
    return measured(ours(parent), partial(grow, parent))


def their_growth(name: str, width: int, dtype: str, seed: int) -> Growth:
    """Measure one of GroMo's growths on the same layers."""
    parent = trained(Perceptron(width), dtype, seed)
    with defaults(parent.strategy.torch_dtype), Seed((name, seed)).as_global():
        running = theirs(parent)
        return measured(running, lambda: THEIRS[name](running, parent.data.train))


@contextmanager
def defaults(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, which GroMo uses, and hide its warning about a scaling factor of zero."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "input_extension_scaling is null")
            yield
    finally:
        torch.set_default_dtype(before)


def main() -> None:
    """Compare both libraries and print the table."""
    torch.set_num_threads(1)
    print(f"gromo {version('gromo')}, torch {torch.__version__}\n")
    heads = [f"distance, {d}, {m}" for d, m in itertools.product(("float64", "float32"), MODES)]
    heads += ["training loss", "validation loss", "entries added", "reached", "moments kept", "of its bound"]
    print("| growth | " + " | ".join(heads) + " |")
    print("| --- |" + " --- |" * len(heads))
    for grow, names, whose in ((our_growth, OURS, "nasframe"), (their_growth, THEIRS, "GroMo")):
        for name in names:
            found = {d: [grow(name, w, d, s) for w, s in itertools.product(WIDTHS, SEEDS)] for d in ("float64", "float32")}
            print(f"| {whose}: {name} | " + " | ".join(cells(found)) + " |", flush=True)


def cells(found: Mapping[str, Sequence[Growth]]) -> Iterator[str]:
    """Yield the cells of a row: the median and the largest of errors, the least of what should be large."""
    yield from (spread([g.distance[m] for g in found[d]], ".1e") for d, m in itertools.product(found, MODES))
    growths = found["float64"]
    yield from (spread([g.losses[i] for g in growths], "+.1%") for i in range(2))
    yield f"{min(g.added for g in growths)} to {max(g.added for g in growths)}"
    yield from (f"{min(values):.0%}" for values in ([g.reached for g in growths], [g.kept for g in growths]))
    bounds = [g.bound for g in growths if g.bound is not None]
    yield f"{max(bounds):.0%}" if bounds else ""


def spread(values: Sequence[float], form: str) -> str:
    """Return the median and the largest value as text."""
    return f"{statistics.median(values):{form}} [{max(values):{form}}]"


if __name__ == "__main__":
    main()
