"""Example inputs, on which a model is traced and a change of it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nasframe.errors import ChangeError


@attrs.frozen(eq=False)
class Example:
    """The arguments of one call of a model.

    Attributes:
        args: the positional arguments.
        kwargs: the keyword arguments.

    Example:
        >>> import torch
        >>> Example.of(torch.zeros(2, 3)).args[0].shape
        torch.Size([2, 3])
        >>> list(Example.of({"input_ids": torch.zeros(2, 3)}).kwargs)
        ['input_ids']
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, example: Any) -> Example:
        """Return the example of what a user gives: a tensor, a tuple of arguments, or a dictionary of keyword arguments.

        Args:
            example: the inputs of the model; an `Example` is returned as it is.

        Raises:
            ChangeError: if it is something else.
        """
        if isinstance(example, Example):
            return example
        if isinstance(example, Tensor):
            return cls((example,))
        if isinstance(example, tuple):
            return cls(example)
        # what tokenizers return is a mapping, but not a dict
        if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
            return cls((), dict(example))
        raise ChangeError(
            f"the example is of type {type(example).__name__}; give a tensor, a tuple of positional arguments such as (x,), or a "
            "dictionary of keyword arguments"
        )

    def copied(self) -> Example:
        """Return the same example with copies of the tensors, into which a model may write, and which are no views."""

        def copy(value: Any) -> Any:
            return value.detach().clone() if isinstance(value, Tensor) else value

        return Example(tree_map(copy, self.args), tree_map(copy, dict(self.kwargs)))

    def call(self, model: nn.Module) -> Any:
        """Return what a model returns for the example."""
        return model(*self.args, **self.kwargs)
