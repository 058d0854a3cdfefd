"""What an operation tells so that a faster form can be derived of it: linear maps, and a function entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Term:
    """W_1 i_1 + ... + W_k i_k + b for an operation's inputs i_1, ..., i_k of shape (batch, width): (batch, hidden).

    Args:
        weights: for each input the name of the module's parameter W, of shape (hidden, width), as `named_parameters` gives
            it; None where the term does not take that input in.
        bias: the name of the parameter b of shape (hidden,), if there is one.
    """

    weights: tuple[str | None, ...]
    bias: str | None = None


@attrs.frozen
class Pointwise:
    """o = function(*terms, h), entry by entry in what the terms give and in h, the last `hidden` entries of the last input.

    Args:
        function: of tensors of one shape, whatever it is; gives one of that shape. It is differentiable twice by autograd, and
            neither draws at random nor behaves otherwise in training.
        derivatives: takes what `function` does and gives what it gives, and its derivatives by each term and by h: tensors of
            that shape, or numbers where they are the same everywhere. If it is left out, autograd finds them.
    """

    terms: tuple[Term, ...]
    function: Callable[..., Tensor]
    derivatives: Callable[..., tuple[Tensor | float, ...]] | None = None

    def slopes(self, *arguments: Tensor) -> tuple[Tensor | float, ...]:
        """What `derivatives` gives, or autograd in its place."""
        if self.derivatives is not None:
            return self.derivatives(*arguments)
        with torch.enable_grad():
            leaves = [argument.detach().requires_grad_() for argument in arguments]
            y = self.function(*leaves)
        if not y.requires_grad:
            return y, *(0.0 for _ in leaves)
        found = torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)
        return y.detach(), *(0.0 if slope is None else slope for slope in found)
