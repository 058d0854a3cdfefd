"""The map from the tensors of a parent to those of its child.

An entry of the map describes how a tensor of the child is filled, and separately how its gradient is related to the gradient in the
parent, because optimiser moments follow the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.errors import ChangeError
from nasframe.network.axes import Axis, axes_of
from nasframe.network.network import Network, tensors

#: an index of `Take` without a source: the entry keeps the fresh initialisation of the child
# Both are negative, so that an index below 0 is an entry without a source, whatever the reason.
FRESH = -1
#: an index of `Take` without a source: the entry is zero
ZERO = -2


@attrs.frozen(eq=False)
class Take:
    """Fill a tensor of the child with `value` * (source[`index`] + source[`added`]) + `offset`.

    Attributes:
        source: the name of the tensor in the parent.
        index: for each axis, None (all entries, in order) or the positions in the source, with FRESH or ZERO where an entry is new.
            New entries are whole slices: rows, columns, or taps of a kernel.
        value: the factor of the tensor.
        gradient: the factor of the gradient. In Net2Wider, where a unit is split into two, the incoming weights are copied and their
            gradient is halved: `value` is 1 and `gradient` 0.5. First moments follow the gradient, second moments its square.
        offset: added to the tensor, if given.
        added: for each axis, None or a matrix whose rows are further positions in the source, one for each position of `index`, with ZERO
            where nothing is added. So the outgoing weights of a unit and of the copies of it that are removed become their sum.
            Gradients and moments are those at `index`: the outgoing weights of copies get equal gradients, and so does the sum.

    Example:
        Move the rows of a weight, and add a row that is zero:

        >>> entry = Take("weight", index=(torch.tensor([1, 0, ZERO]), None))
        >>> entry(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), fresh=torch.ones(3, 2))
        tensor([[3., 4.],
                [1., 2.],
                [0., 0.]])
    """

    source: str
    index: tuple[Tensor | None, ...] = ()
    value: float | Tensor = 1.0
    gradient: float | Tensor = 1.0
    offset: Tensor | None = None
    added: tuple[Tensor | None, ...] = ()

    def __call__(self, source: Tensor, fresh: Tensor) -> Tensor:
        """Return the tensor of the child.

        Args:
            source: the tensor of the parent.
            fresh: the fresh initialisation of the child.
        """
        # First the old entries in their new places, with what is added, then the factor and the offset, which concern old entries only, and
        # last the new entries, which replace whatever was gathered there.
        taken = self._sum(source)
        if torch.is_tensor(self.value) or self.value != 1:  # a product with 1.0 would round a large integer
            taken = taken * _at(self.value, taken)
        if self.offset is not None:
            taken = taken + _at(self.offset, taken)
        if taken.shape != fresh.shape:
            return taken  # `apply` refuses it because of its shape
        if not self.has_new:
            return taken
        # `taken` is no view of the source, because an axis was indexed. It is written in place, and slice by slice, as
        # masks and a second copy of the largest tensors would double the memory of a change. Zeros come last: an entry is
        # zero if one of its axes says so.
        for axis, index in enumerate(self.index):
            if index is not None:
                rows = _at((index < 0).nonzero().flatten(), taken)
                taken.index_copy_(axis, rows, fresh.index_select(axis, rows).to(taken.dtype))
        for axis, index in enumerate(self.index):
            if index is not None:
                taken.index_fill_(axis, _at((index == ZERO).nonzero().flatten(), taken), 0)
        return taken

    @property
    def has_new(self) -> bool:
        """Return whether there are entries without a source."""
        return any(index is not None and bool((index < 0).any()) for index in self.index)

    def moment(self, source: Tensor, power: int) -> Tensor:
        """Return the optimiser moment of the child.

        In a new entry the first moment starts at 0, and the second moment at the mean of the entries that have a source.

        Args:
            source: the moment of the parent.
            power: the power of the gradient that the moment averages, 1 or 2; 0 if it averages ratios of gradients, which keep the
                sign of the gradient only.
        """
        # Why the second moment of a new entry does not start at 0: the entry shares the step count of its tensor, so its bias is
        # not corrected. (Where the count can be lowered, both start at 0; see `optimisers.follow_state`.) From v = 0, with
        # d = b1 / sqrt(b2), Cauchy-Schwarz gives
        #     |m| <= (1 - b1) sum_k d^k b2^(k/2) |g_k| <= (1 - b1) / sqrt(1 - d^2) * sqrt(sum_k b2^k g_k^2),
        # and v = (1 - b2) sum_k b2^k g_k^2, so a step |m| / sqrt(v) may be as long as
        #     (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2))
        # learning rates, 7.3 for b1 = 0.9 and b2 = 0.999. From the mean V of the other entries, gradients of at most r sqrt(V)
        # give |m| <= r sqrt(V) and v >= b2^t V after t steps: about r learning rates, while t is small against 1 / (1 - b2)
        # and against the steps so far (because of the bias correction of V).
        taken, gradient = self.gather(source), _at(self.gradient, source)
        taken = taken * (torch.as_tensor(gradient).sign() if power == 0 else gradient**power)
        if not self.has_new:
            return taken
        fresh, _ = self.new_entries(taken)
        if power < 2:
            return taken.masked_fill(fresh, 0.0)
        # Where every entry is new there is no mean of old ones in this tensor; the mean of the whole source has the right
        # scale.
        kept = taken[~fresh]
        return torch.where(fresh, (kept if kept.numel() else source).mean(), taken)

    def gather(self, source: Tensor) -> Tensor:
        """Return the entries of the source in the order of the child, with arbitrary values in new entries."""
        for axis, index in enumerate(self.index):
            if index is not None:
                # FRESH and ZERO are negative: they read position 0 here and are overwritten by the caller
                source = source.index_select(axis, _at(index.clamp(min=0), source))
        return source

    def _sum(self, source: Tensor) -> Tensor:
        """Return the entries of the source in the order of the child, with those that are added to them."""
        if not self.added:
            return self.gather(source)
        # axis by axis, so that an entry that is added along two axes is added once for each pair of positions
        for axis, (index, rows) in enumerate(zip(self.index, self.added, strict=True)):
            if index is None and rows is None:
                continue
            # `index_add_` writes in place, and the source may be the tensor of the parent.
            taken = source.clone() if index is None else source.index_select(axis, _at(index.clamp(min=0), source))
            for row in () if rows is None else _at(rows, source):
                found = (row >= 0).nonzero().flatten()
                taken.index_add_(axis, found, source.index_select(axis, row[found]))
            source = taken
        return source

    def new_entries(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return two masks of the shape of `like`: the entries without a source, and those of them that are zero.

        An entry is zero if one of its axes says so, even if another axis says that it is fresh.
        """
        # a view of a single number; `|` makes the first tensor of the full size
        new = torch.zeros((), dtype=torch.bool, device=like.device).expand_as(like)
        zero = new
        for axis, index in enumerate(self.index):
            if index is not None:
                index = _at(index, like)
                shape = [1] * like.dim()
                shape[axis] = -1
                new = new | (index < 0).view(shape)
                zero = zero | (index == ZERO).view(shape)
        return new, zero


def _at(value: Any, like: Tensor) -> Any:
    """Return a tensor on the device of another: an average of the weights or a moment may be kept elsewhere than the weights."""
    return value.to(like.device) if isinstance(value, Tensor) else value


@attrs.frozen(eq=False)
class Set:
    """Fill a tensor of the child with a given tensor. Its optimiser state starts anew.

    Attributes:
        tensor: the given tensor.
    """

    tensor: Tensor


#: entries by the name of the child's tensor; a tensor without an entry keeps its fresh initialisation
Map = Mapping[str, Take | Set]


def derive_map(parent: Network, child: Network, given: Map = MappingProxyType({})) -> dict[str, Take | Set]:
    """Return the map that follows from names and axis labels.

    A tensor with the same name and labels is copied. With the same name and other labels, it is gathered by label. A new name has no
    entry, so the tensor keeps its fresh initialisation.

    Args:
        parent: the network before the change.
        child: the network after it, not filled.
        given: entries that take precedence; a tensor that has one needs no labels.

    Raises:
        ChangeError: if a tensor has another shape and no labels, or labels that do not fit its shape.
    """
    # Names hold the ids of candidates, which are never reused: a name that both networks have is the same parameter.
    old, new = tensors(parent), tensors(child)
    old_axes, new_axes = axes_of(parent), axes_of(child)
    derived = dict(given)
    # A tensor that only the parent has is dropped: the candidate to which it belonged was removed.
    for name in (name for name in new if name in old and name not in given):
        # without labels both are None, which is enough where the shapes are the same
        before, after = old_axes.get(name), new_axes.get(name)
        # equal labels in the same order: a plain copy, for which the labels need not be checked
        if before == after and old[name].shape == new[name].shape:
            derived[name] = Take(name)
        elif before is None or after is None or not len(before) == len(after) == old[name].dim() == new[name].dim():
            raise ChangeError(
                f"{name} has shape {tuple(old[name].shape)} in the parent and {tuple(new[name].shape)} in the child, "
                "and no module labels its axes; give the module a method axes() that returns an Axis for each axis that grows"
            )
        else:
            _check_labels(before, old[name], name)
            _check_labels(after, new[name], name)
            # Axis by axis: an entry of the child has a source if every one of its labels was in the parent.
            pairs = zip(before, after, strict=True)
            derived[name] = Take(name, tuple(_index(b, a, name, new[name].device) for b, a in pairs))
    return derived


def _check_labels(axes: tuple[Axis | None, ...], tensor: Tensor, name: str) -> None:
    for size, axis in zip(tensor.shape, axes, strict=True):
        if axis is not None and not len(set(axis.labels)) == len(axis.labels) == size:
            raise ChangeError(
                f"an axis of {name} has {size} entries, but its module gives it {len(axis.labels)} labels, "
                f"{len(set(axis.labels))} of them different; axes() must give one label for each entry, and none twice"
            )


def _index(before: Axis | None, after: Axis | None, name: str, device: torch.device) -> Tensor | None:
    """Return the position in the parent of each label in the child, for `Take.index`."""
    if before == after:
        return None
    if before is None or after is None:
        raise ChangeError(f"an axis of {name} has labels in only one of parent and child; axes() must label it in both")
    position = {label: i for i, label in enumerate(before.labels)}
    # a new feature starts at random and its consumers at zero: with zeros on both sides, neither would ever get a gradient
    missing = ZERO if after.consumes else FRESH
    return torch.tensor([position.get(label, missing) for label in after.labels], device=device)
