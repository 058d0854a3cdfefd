"""A description of an operation by linear maps and a pointwise function, from which a faster form of a cell is derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.errors import StructureError


@attrs.frozen
class Term:
    """A sum of linear maps of an operation's inputs, W_1 i_1 + ... + W_k i_k + b.

    The inputs i_1, ..., i_k have the shape (batch, width), the term has the shape (batch, hidden).

    Args:
        weights: for each input the name of the parameter W of shape (hidden, width), as `named_parameters()` of the operation's
            module gives it; None for an input that does not occur in the term.
        bias: the name of the parameter b of shape (hidden,); None for a term without a bias.
    """

    weights: tuple[str | None, ...]
    bias: str | None = None


@attrs.frozen
class Pointwise:
    """A description of an operation as o = function(*terms, h), where the function acts on each entry separately.

    h is the last input of the operation; where that input is wider, as [x, h], h is its last `hidden` entries. A recurrent cell
    runs as a fast form if all its operations return such a description from `pointwise()`. A search does not verify that it is
    true: run `nasframe check`.

    Args:
        terms: the arguments of the function that are linear in the inputs.
        function: returns a tensor of the shape of its arguments, which all have one shape. Autograd can differentiate it twice.
            It draws no random numbers and does the same in training and in evaluation mode.
        derivatives: receives the arguments of the function and returns a tuple: the value of the function, its derivative by
            each term, and its derivative by h. Each is a tensor of the shape of the arguments; a derivative that is the same
            everywhere may be a number. Autograd computes them if it is left out.

    Example:
        The operation tanh(W x + V h) with its derivative 1 - o^2:

        >>> import torch
        >>> from nasframe import Pointwise
        >>> from nasframe.network.pointwise import Term
        >>> def function(a, h):
        ...     return torch.tanh(a)
        >>> def derivatives(a, h):
        ...     o = torch.tanh(a)
        ...     return o, 1 - o * o, 0.0
        >>> description = Pointwise((Term(("W", "V")),), function, derivatives)
        >>> value, by_a, by_h = description.value_and_derivatives(torch.zeros(2), torch.ones(2))
        >>> by_a
        tensor([1., 1.])
    """

    terms: tuple[Term, ...]
    function: Callable[..., Tensor]
    derivatives: Callable[..., tuple[Tensor | float, ...]] | None = None

    def value_and_derivatives(self, *arguments: Tensor) -> tuple[Tensor | float, ...]:
        """Return the value of the function and its derivative by each argument, computed by `derivatives` or by autograd."""
        if self.derivatives is not None:
            return self.derivatives(*arguments)
        # The caller may be a hand-written derivative, in which autograd records nothing unless it is asked to.
        with torch.enable_grad():
            # detached: the caller needs values of derivatives, and the graph of the cell is not to be extended
            leaves = [argument.detach().requires_grad_() for argument in arguments]
            value = self.function(*leaves)
        if not value.requires_grad:
            return value, *(0.0 for _ in leaves)
        # each entry of the value depends on the same entry of the arguments alone, so that the gradient of the sum is the
        # derivative
        gradients = torch.autograd.grad(value, leaves, torch.ones_like(value), allow_unused=True)
        return value.detach(), *(0.0 if gradient is None else gradient for gradient in gradients)


def check_pointwise(
    name: str, description: Pointwise, shapes: Mapping[str, Sequence[int]], widths: Sequence[int], hidden: int
) -> None:
    """Check that the description of an operation fits the operation's module.

    The names and shapes of parameters are checked, and the functions are called once on tensors of one entry. Whether the
    module computes what the description says is checked by `nasframe check`.

    Args:
        name: the name of the operation, for the message.
        description: what the operation's `pointwise()` returns.
        shapes: the shapes of the parameters of the module that the operation's `build()` returns, by name.
        widths: the width of each input.
        hidden: the width of the output.

    Raises:
        StructureError: A parameter is missing or has another shape, or a function does not accept its arguments or returns
            something else than it must.
    """
    subject = f"pointwise() of operation {name!r}"
    for number, term in enumerate(description.terms, 1):
        if not isinstance(term.weights, tuple) or len(term.weights) != len(widths):
            raise StructureError(
                f"{subject}: term {number} has the weights {term.weights!r}; they must be a tuple with one entry, a name or None, "
                f"for each of {len(widths)} inputs"
            )
        expected = [*zip(term.weights, ((hidden, width) for width in widths), strict=True), (term.bias, (hidden,))]
        for parameter, shape in expected:
            if parameter is not None and shapes.get(parameter) != shape:
                found = f"has the shape {shapes[parameter]}" if parameter in shapes else "is not in the module"
                raise StructureError(
                    f"{subject}: term {number} names {parameter!r}, which {found}; it must be a parameter of shape {shape}"
                )
    # The description comes from an operation that may be foreign code. It is tried once when the plan of a cell is made,
    # as an error in the fused loop would name no operation. One entry is enough: the functions act on each separately.
    example = torch.zeros(1)
    arguments = [example] * (len(description.terms) + 1)

    # A TypeError within the function is reported in the same way; its message is included.
    def call(which: str, function: Callable[..., Any]) -> Any:
        try:
            return function(*arguments)
        except TypeError as error:
            raise StructureError(
                f"{subject}: `{which}` must accept {len(arguments)} arguments, one for each of {len(description.terms)} terms and h: "
                f"{error}"
            ) from error

    def fits(value: object) -> bool:
        return isinstance(value, Tensor) and value.shape == example.shape

    value = call("function", description.function)
    if not fits(value):
        raise StructureError(f"{subject}: `function` returns {value!r}; it must return a tensor of the shape of its arguments")
    results = call("derivatives", description.value_and_derivatives)
    order = f"the value, its derivative by each of {len(description.terms)} terms, and its derivative by h"
    if not isinstance(results, tuple) or len(results) != len(arguments) + 1:
        returned = f"a tuple of {len(results)}" if isinstance(results, tuple) else repr(results)
        raise StructureError(
            f"{subject}: `derivatives` returns {returned}; it must return a tuple of {len(arguments) + 1}: {order}"
        )
    for place, result in enumerate(results, 1):
        if not fits(result) and (place == 1 or not isinstance(result, int | float)):
            raise StructureError(
                f"{subject}: `derivatives` returns {result!r} in place {place}; it must return {order}: each a tensor of the shape of "
                "the arguments; a derivative that is the same everywhere may be a number"
            )
