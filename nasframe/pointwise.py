"""What an operation tells so that a faster form can be derived of it: linear maps, and a function entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import attrs
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

    `function` takes tensors of one shape, whatever it is, and gives one of that shape. It is differentiable twice by
    autograd, and neither draws at random nor behaves otherwise in training.
    """

    terms: tuple[Term, ...]
    function: Callable[..., Tensor]
