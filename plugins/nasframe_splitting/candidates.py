"""Splitting matrices of the candidates of a network, from one backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from nasframe import Address, Network, Operation, Pointwise, Seed, Structure
from nasframe.network.observing import Call
from nasframe.network.outputs import Outputs
from nasframe.search.bilevel import Forward
from nasframe_splitting.kernels import SplittingMatrices

#: a candidate: the address of its site and its id
Key = tuple[Address, int]


def second_derivatives(description: Pointwise, *arguments: Tensor) -> Tensor:
    """Return d^2 o / dz_j dz_k of a pointwise function for each pair of its terms, of shape (terms, terms, *shape of a term).

    Autograd computes them, so that they need nothing but the function itself.

    Args:
        description: the description.
        *arguments: the terms z_1, ..., z_k and h, of one shape.
    """
    with torch.enable_grad():
        terms = [z.detach().requires_grad_() for z in arguments[:-1]]
        value = description.function(*terms, arguments[-1].detach())
        # Entries do not mix, so that the gradient of a sum over all entries holds the derivative of each.
        first = _gradients(value, terms, create_graph=True)
    return torch.stack([torch.stack(_gradients(slope, terms)) for slope in first])


def _gradients(value: Tensor, terms: Sequence[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    if not value.requires_grad:  # it does not depend on the terms
        return tuple(torch.zeros_like(z) for z in terms)
    # retained, because the next slope may share a part of the graph
    ones = torch.ones_like(value)
    return torch.autograd.grad(value, terms, ones, create_graph=create_graph, retain_graph=True, materialize_grads=True)


@functools.lru_cache(maxsize=256)
def unsplittable(operation: Operation) -> str | None:
    """Return why the units of an operation cannot be split; None if they can.

    Example:
        >>> from nasframe_recurrent import Relu, Tanh
        >>> unsplittable(Tanh())
        >>> unsplittable(Relu())
        "'relu' is linear in its weights almost everywhere, so that its splitting matrices are zero"
    """
    description = operation.pointwise()
    if description is None:
        return f"{operation.name!r} does not implement pointwise(), so that it is not known how it depends on its weights"
    names = _parameters(description)
    if not names:
        return f"{operation.name!r} has no weights"
    if len(set(names)) < len(names):
        return f"{operation.name!r} uses a parameter in two terms, and the rows of one unit would not be independent"
    # The second derivative is tried at random numbers, because no operation declares it.
    generator = Seed(("curvature",)).generator()
    arguments = [2 * torch.randn(256, generator=generator, dtype=torch.float64) for _ in (*description.terms, "h")]
    if not bool(second_derivatives(description, *arguments).any()):
        return f"{operation.name!r} is linear in its weights almost everywhere, so that its splitting matrices are zero"
    return None


def splittable(structure: Structure) -> Iterator[Key]:
    """Yield the candidates whose units can be split, in the order of the structure.

    Example:
        >>> from nasframe_recurrent import Relu, Tanh, TwoToOne
        >>> structure = TwoToOne(operations=(Relu(), Tanh())).initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> [*splittable(structure)]
        [('layer0/n0', 1), ('layer0/n1', 3)]
    """
    for address, site in structure.sites():
        for candidate in site.candidates:
            if unsplittable(candidate.operation) is None:
                yield address, candidate.id


def _parameters(description: Pointwise) -> list[str]:
    """Return the names of the parameters theta, term by term, the bias of a term last."""
    return [name for term in description.terms for name in (*term.weights, term.bias) if name is not None]


def rows(description: Pointwise, module: nn.Module) -> Tensor:
    """Return theta_u for each unit u of an operation, of shape (units, size): its row of each weight and its bias, term by term."""
    parameters = [module.get_parameter(name).detach() for name in _parameters(description)]
    return torch.cat([p.unsqueeze(1) if p.dim() == 1 else p for p in parameters], 1)


def parameters_of(description: Pointwise, module: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """Return the inverse of `rows`: for each parameter its part of theta, in its shape, by name.

    Args:
        description: the description of the operation.
        module: the module of the operation, for the shapes.
        theta: a tensor of shape (units, size).
    """
    shapes = {name: module.get_parameter(name).shape for name in _parameters(description)}
    parts = theta.split([shape[1] if len(shape) == 2 else 1 for shape in shapes.values()], 1)
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


@attrs.frozen(eq=False)
class Computed:
    """What one module computed in all of its calls, one below the other.

    Attributes:
        description: the description of its operation.
        features: x_j for each term, of shape (samples, d_j).
        terms: theta_j x_j for each term, of shape (samples, units).
        h: the state, of shape (samples, units).
        slopes: dL/do, of shape (samples, units).
    """

    description: Pointwise
    features: Sequence[Tensor]
    terms: Sequence[Tensor]
    h: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, description: Pointwise, module: nn.Module, calls: Sequence[Call], slopes: Tensor) -> Computed:
        """Return what a module computed, from its calls and dL/do of all of them."""
        # each input over all calls, of shape (samples, width)
        inputs = [torch.cat([x.detach() for x in each]) for each in zip(*(call.inputs for call in calls), strict=True)]
        features, terms = [], []
        for term in description.terms:
            read: list[tuple[Tensor, Tensor]] = [
                (x, module.get_parameter(name)) for x, name in zip(inputs, term.weights, strict=True) if name is not None
            ]
            if term.bias is not None:
                read.append((slopes.new_ones(len(slopes), 1), module.get_parameter(term.bias).unsqueeze(1)))
            x = torch.cat([slopes.new_empty(len(slopes), 0), *(x for x, _ in read)], 1)
            theta = torch.cat([slopes.new_empty(slopes.shape[1], 0), *(w.detach() for _, w in read)], 1)
            features.append(x)
            terms.append(x @ theta.mT)
        return cls(description, features, terms, inputs[-1][:, -slopes.shape[1] :], slopes)

    def decrease(self, directions: Tensor, eps: float) -> Tensor:
        """Return by how much the loss falls, to first order in the outputs, if each unit is split into theta + eps v and theta - eps v.

        It is -sum_b dL/do(b) ((o_+(b) + o_-(b)) / 2 - o(b)), which has all orders of eps of the function, but not those of the loss.

        Args:
            directions: v for each unit, of shape (units, size).
            eps: the step.
        """
        parts = directions.split([x.shape[1] for x in self.features], 1)
        moves = [eps * (x @ part.mT) for x, part in zip(self.features, parts, strict=True)]
        function = self.description.function
        plus, minus = (
            function(*(z + sign * move for z, move in zip(self.terms, moves, strict=True)), self.h) for sign in (1, -1)
        )
        return -(self.slopes * ((plus + minus) / 2 - function(*self.terms, self.h))).sum()


def computed_by(
    network: Network, loss: Callable[[Forward], Tensor], candidates: Collection[Key]
) -> tuple[float, Mapping[Key, Sequence[Computed]]]:
    """Return the loss, and what candidates computed for it in each instance of their cell type, from one backward pass.

    The gradient with respect to the output of a candidate is that of the whole loss, also through later time steps and through the
    mixing weights. A candidate that the loss does not compute is left out.

    Args:
        network: the network.
        loss: a function that returns the loss, and is called with the function from inputs and mixing weights to outputs.
        candidates: the candidates, which can be split.
    """
    keys = [key for key in splittable(network.structure) if key in candidates]
    modules = {key: [mixture.candidates[str(key[1])] for _, mixture in network.mixed_operations(key[0])] for key in keys}
    calls: dict[nn.Module, list[Call]] = {module: [] for instances in modules.values() for module in instances}

    def forward(inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
        outputs, found = network.observed(inputs, mixing, calls)
        for module, made in found.items():
            calls[module] += made
        return outputs

    value = loss(forward)
    outputs = [call.output for made in calls.values() for call in made]
    slopes = iter(torch.autograd.grad(value, outputs, materialize_grads=True) if outputs else ())
    by_module = {module: torch.cat([next(slopes) for _ in made]) for module, made in calls.items() if made}

    found: dict[Key, list[Computed]] = {}
    for key, instances in modules.items():
        description = _operation(network.structure, key).pointwise()
        if description is not None and all(module in by_module for module in instances):
            found[key] = [Computed.of(description, module, calls[module], by_module[module]) for module in instances]
    return float(value.detach()), found


def matrices_of(computed: Mapping[Key, Sequence[Computed]]) -> Mapping[Key, Sequence[SplittingMatrices]]:
    """Return the splitting matrices of candidates, for each instance of their cell type, from what they computed."""
    second = iter(_second_derivatives_of([each for instances in computed.values() for each in instances]))
    return {
        key: [SplittingMatrices(each.features, each.slopes * next(second)) for each in instances]
        for key, instances in computed.items()
    }


def splitting_matrices(
    network: Network, loss: Callable[[Forward], Tensor], candidates: Collection[Key]
) -> Mapping[Key, Sequence[SplittingMatrices]]:
    """Return the splitting matrices of candidates, for each instance of their cell type, from one backward pass: see `computed_by`.

    Args:
        network: the network.
        loss: a function that returns the loss, and is called with the function from inputs and mixing weights to outputs.
        candidates: the candidates, which can be split.

    Example:
        The weights of three inputs and two states, and a bias, for each of two units:

        >>> import torch
        >>> from nasframe_recurrent import Tanh, TwoToOne
        >>> structure = TwoToOne(hidden=2, operations=(Tanh(),)).initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> network, x = nasframe.build(structure, nasframe.Seed((0,))), torch.randn(10, 5, 3)
        >>> found = splitting_matrices(network, lambda forward: forward(x, {}).square().mean(), [*splittable(structure)])
        >>> {key: [matrices.form().shape for matrices in instances] for key, instances in found.items()}
        {('layer0/n0', 0): [torch.Size([2, 6, 6])]}
    """
    return matrices_of(computed_by(network, loss, candidates)[1])


def _operation(structure: Structure, key: Key) -> Operation:
    return next(c.operation for c in structure.cell(key[0].cell).site(key[0].id).candidates if c.id == key[1])


def _second_derivatives_of(computed: Sequence[Computed]) -> Sequence[Tensor]:
    """Return the second derivatives of each function, of shape (terms, terms, samples, units).

    Modules with the same function are computed together, because in a small cell the number of calls takes the time.
    """
    alike: dict[Hashable, list[int]] = {}
    for place, each in enumerate(computed):
        alike.setdefault((each.description.function, len(each.terms), each.h.shape[1]), []).append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        arguments = [torch.cat(z) for z in zip(*((*computed[p].terms, computed[p].h) for p in places), strict=True)]
        second = second_derivatives(computed[places[0]].description, *arguments)
        found |= zip(places, second.split([len(computed[p].h) for p in places], 2), strict=True)
    return [found[place] for place in range(len(computed))]
