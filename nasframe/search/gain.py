"""The gain of a growth: the currency in which growths of all kinds are compared."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.apply import apply
from nasframe.change.claim import Claim
from nasframe.change.copied import copied
from nasframe.change.edit import Edit, Filling
from nasframe.change.map import Map, Take
from nasframe.errors import ChangeError, ClaimError, StructureError
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name
from nasframe.interfaces.relaxation import Relaxation
from nasframe.network.cost import cost
from nasframe.network.network import Network, unallocated
from nasframe.network.outputs import Outputs
from nasframe.search.context import Context
from nasframe.search.trainer import weights_of
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

Loss = Callable[[Network], Tensor]


@attrs.frozen
class Descent:
    """The loss of a network on a training batch, before and after a step of gradient descent.

    The step moves the weights, and not the alphas, by -eta grad L. To first order in eta it lowers the loss by eta |grad L|^2.

    Attributes:
        loss: L before the step.
        squares: |grad L|^2.
        after: the loss after the step.
    """

    loss: float
    squares: float
    after: float

    @classmethod
    def of(cls, network: Network, loss: Loss, rate: float) -> Descent:
        """Take the step and return its losses. The network is modified.

        Args:
            network: the network.
            loss: a function from a network to its loss on the batch.
            rate: the learning rate eta.
        """
        before, gradients = _gradients(network, loss)
        with torch.no_grad():
            for (_, weight), gradient in zip(weights_of(network), gradients, strict=True):
                weight.sub_(rate * gradient)
            return cls(before, _squares(gradients), float(loss(network)))


def gain_of(parent: tuple[float, float], child: tuple[float, float], rate: float, exact: bool) -> float:
    """Return the gain of a growth.

    The gain is how much smaller the loss is after the growth and one step of gradient descent than after that step alone, to first
    order in the learning rate eta:

        L(parent) - L(child) + eta (|grad L(child)|^2 - |grad L(parent)|^2)

    Args:
        parent: L and |grad L|^2 of the parent.
        child: L and |grad L|^2 of the child.
        rate: the learning rate eta.
        exact: whether the growth is exact, so that L(parent) - L(child) is 0 and what is measured is rounding.
    """
    change = 0.0 if exact else parent[0] - child[0]
    return change + rate * (child[1] - parent[1])


def gain(context: Context, structure: Structure, edit: Edit, name: str) -> float:
    """Return the gain of a growth (`gain_of`), which is measured on a training batch and remembered.

    Where the currency of the strategy is not "stated", the search measures the gains of all proposals on one batch (`gains`). Then nothing
    is measured here, and 0 is returned.

    For an exact growth it is the difference of the squared gradients, and for growth behind gates that start at zero this is eta times
    the squared gradients of the gates.

    The gradients are those in evaluation mode, and eta is the learning rate at which a phase begins. The gain compares growths with
    each other, also those of different morphisms. It is no forecast of the loss. It knows the first step only, and neither the moments
    nor the normalisation of Adam. It is about the loss of that batch, so that the noise of its gradient adds to it; on all
    training examples the same step gains less. In particular it does not see what new units become later, whose incoming weights
    have no gradient as long as their outgoing weights are zero.

    Args:
        context: the search.
        structure: the structure that grows: that of the context, or what is left of it.
        edit: the growth.
        name: the name under which the gain is remembered, unique among the proposals of the morphism.
    """
    if context.currency != "stated":
        return 0.0
    found: float = context.remember(
        f"gain of {name}", lambda: _measured(context, structure, lambda: edit, context.seed("gain", name))
    )
    return found


def gains(
    context: Context, structure: Structure, proposals: Sequence[tuple[Morphism, Proposal]], currency: str, seed: Seed
) -> list[tuple[float, float]]:
    """Return the gain of each proposal and its cost; the gain is NaN where the proposal cannot be carried out.

    Both are remembered. It takes a forward and a backward pass of the parent once, and of one child for each proposal. After an exact
    growth the gradients of what the child takes from the parent are shares of those of the parent. So the pass computes those of new
    weights alone, and copies of a candidate need neither a pass nor a child.

    Args:
        context: the search.
        structure: the structure that grows.
        proposals: the proposals with their morphisms.
        currency: "parameters" or "flops": what the costs count.
        seed: the seed of the change. So the gain of a change that draws random numbers is that of the same draws, if it is made alone.
    """

    def valued(morphism: Morphism, proposal: Proposal) -> tuple[float, float]:
        name = f"{short_name(morphism)} {json.dumps(dict(proposal.request))}"

        def edit() -> Edit:
            return morphism.edit(structure, proposal.request, proposal.evidence, seed)

        def measured() -> float:
            try:
                return _measured(context, structure, edit, seed)
            except ClaimError:
                raise  # a fault of the morphism, and not a growth that is impossible
            except (ChangeError, StructureError):
                return math.nan

        value: float = context.remember(f"gain of {name}", measured)
        # Where the edit is impossible there is nothing to count.
        if currency == "parameters" or math.isnan(value):
            return value, float(proposal.cost)
        # one example, as the cost is that of one prediction
        shape = context.batch("train", 0, 1)[0].shape
        return value, context.remember(
            f"FLOPs of {name}",
            lambda: flops(edit().structure, context.relaxation, shape) - flops(structure, context.relaxation, shape),
        )

    return [valued(morphism, proposal) for morphism, proposal in proposals]


# The cache saves time, because all proposals have one parent, and `gains` runs again from its beginning after each value that it measures.
@functools.lru_cache(maxsize=64)
def flops(structure: Structure, relaxation: Relaxation | None, shape: torch.Size) -> float:
    """Return the FLOPs of the network of a structure for inputs of a shape."""
    return float(cost(_Mixed(unallocated(structure, relaxation)), shape).flops)


class _Mixed(nn.Module):
    """A network at its present mixing weights, as a function of the inputs alone."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Outputs:
        return self.network(inputs, self.network.mixing())


@contextlib.contextmanager
def _parent(context: Context, structure: Structure) -> Iterator[Network]:
    """Yield the network that grows, in evaluation mode: that of the search, or what is left of it."""
    with context.evaluating() as network:
        if structure != network.structure:  # candidates are removed in the same change
            rest = Edit(structure, lambda parent, child: Filling(Claim.lossy()))
            # all tensors of what is left come from the network, so that the seed has no influence
            network = apply(network, rest, context.seed("rest")).child
        yield network


def _measured(context: Context, structure: Structure, edit: Callable[[], Edit], seed: Seed) -> float:
    """Return the gain of an edit on the first training batch of a context."""

    def looked() -> Tensor:
        with _parent(context, structure) as parent:
            loss, gradients = _gradients(parent, context.training_loss)
        # in the order of `weights_of`, by which the names are found again below
        return torch.tensor([loss, *map(_square, gradients)], dtype=torch.float64)

    # once for all proposals of a question: the loss, and the squared gradient by each weight
    loss, *squares = context.remember("loss and squared gradients of the parent", looked).tolist()
    with _parent(context, structure) as parent:
        of_parent = {name: square for (name, _), square in zip(weights_of(parent), squares, strict=True)}
        # From the cheapest to the most expensive: the map of exact copies alone, the map of a child, and a pass of that child.
        shares = copied(parent, edit())
        if shares is not None and len(known := _followed(shares, of_parent)) == len(shares):
            return gain_of((loss, sum(squares)), (loss, sum(known.values())), context.learning_rate, exact=True)
        made = apply(parent, edit(), seed)
    exact = made.claim.kind == "exact"
    known = _followed(made.map, of_parent) if exact else {}
    after, total = loss, sum(known.values())
    # Where nothing is new, no pass of the child is needed.
    if any(name not in known for name, _ in weights_of(made.child)):
        after, gradients = _gradients(made.child, context.training_loss, known)
        total += _squares(gradients)
    return gain_of((loss, sum(squares)), (after, total), context.learning_rate, exact)


def _followed(map: Map, squares: Mapping[str, float]) -> dict[str, float]:
    """Return the squared gradients of the weights of a child that follow from those of its parent, by name.

    After an exact change, the gradient of a tensor that the child takes from the parent is that of the parent, taken as the map says
    (the law morphism.gradient). Its square is known where a whole tensor is taken, with one factor.

    Args:
        map: the map of the change.
        squares: the squared gradient by each weight of the parent.
    """
    return {
        name: float(entry.gradient) ** 2 * squares[entry.source]
        for name, entry in map.items()
        if isinstance(entry, Take)
        and entry.source in squares
        and not entry.index
        and torch.as_tensor(entry.gradient).dim() == 0
    }


def _gradients(network: Network, loss: Loss, known: Collection[str] = ()) -> tuple[float, Sequence[Tensor]]:
    """Return the loss of a network, and its gradient by each of the weights but those that are known."""
    value = loss(network)
    weights = [weight for name, weight in weights_of(network) if name not in known]
    return float(value.detach()), torch.autograd.grad(value, weights, materialize_grads=True)


def _squares(gradients: Sequence[Tensor]) -> float:
    # in one tensor, because in a narrow network the calls would take longer than what they compute
    return _square(torch.cat([gradient.flatten() for gradient in gradients])) if gradients else 0.0


def _square(gradient: Tensor) -> float:
    # in float64, because the gain is a small difference of large sums
    return float(gradient.double().square().sum())
