"""The map from a parent's tensors to its child's: what each of the child's tensors starts as, and how its gradient goes."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from nasframe.errors import ChangeError
from nasframe.network.axes import Axis, axes_of
from nasframe.network.network import Network, tensors

#: an index that takes no source entry: the entry keeps the child's own initialisation
FRESH = -1
#: an index that takes no source entry: the entry is zero
ZERO = -2


@attrs.frozen(eq=False)
class Take:
    """The child's tensor is value * source[index] + offset.

    `index` has, per axis, None (as it is) or the source's positions, FRESH or ZERO where there is none: what is new is whole rows
    or columns, or taps of a kernel. `gradient` says how the gradient goes, which is another matter than the value: in
    net2wider the incoming copy keeps its value and halves its gradient. First moments follow the gradient, second moments
    its square.
    """

    source: str
    index: tuple[Tensor | None, ...] = ()
    value: float | Tensor = 1.0
    gradient: float | Tensor = 1.0
    offset: Tensor | None = None

    def __call__(self, source: Tensor, own: Tensor) -> Tensor:
        """The child's tensor, from the parent's and from the child's own initialisation."""
        taken = self.gather(source)
        if torch.is_tensor(self.value) or self.value != 1:  # a product with 1.0 would round a large integer
            taken = taken * self.value
        if self.offset is not None:
            taken = taken + self.offset
        if taken.shape != own.shape:
            return taken  # and not what broadcasting would make of it
        new, zero = self.holes(taken)
        return torch.where(zero, torch.zeros_like(taken), torch.where(new, own, taken))

    def moment(self, source: Tensor, power: int) -> Tensor:
        """The child's moment of the gradient to that power.

        A fresh entry shares its tensor's step count. With a second moment of zero it could move by
        (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) learning rates a step (7.3 for Adam's defaults; Cauchy-Schwarz), so it
        starts at the mean of those that are taken: while its gradients are within r times their root mean square, it moves
        about r learning rates a step at most, in as many steps as are few against 1 / (1 - b2) and the steps so far.
        """
        taken = self.gather(source) * self.gradient**power
        new, zero = self.holes(taken)
        fresh = new | zero
        if power == 1:
            return taken.masked_fill(fresh, 0.0)
        kept = taken[~fresh]
        return torch.where(fresh, (kept if kept.numel() else source).mean(), taken)

    def gather(self, source: Tensor) -> Tensor:
        """The source's entries in the child's order, something where there is none."""
        for axis, index in enumerate(self.index):
            if index is not None:
                source = source.index_select(axis, index.clamp(min=0))
        return source

    def holes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where no source entry is taken: (some axis is new, some axis that starts at zero is new)."""
        new = torch.zeros((), dtype=torch.bool, device=like.device).expand_as(like)
        zero = new
        for axis, index in enumerate(self.index):
            if index is not None:
                shape = [1] * like.dim()
                shape[axis] = -1
                new = new | (index < 0).view(shape)
                zero = zero | (index == ZERO).view(shape)
        return new, zero


@attrs.frozen(eq=False)
class Set:
    """The child's tensor is this one; its moments start anew."""

    tensor: Tensor


#: by the child's tensor name; a name that is not in it keeps the child's own initialisation
Map = Mapping[str, Take | Set]


def derive_map(parent: Network, child: Network) -> dict[str, Take | Set]:
    """The map that follows from names and units alone.

    Same name and same units: copied. Same name and other units: gathered by label. New name: the child's own
    initialisation. Another shape without labels is refused.
    """
    old, new = tensors(parent), tensors(child)
    old_units, new_units = axes_of(parent), axes_of(child)
    derived: dict[str, Take | Set] = {}
    for name in (name for name in new if name in old):
        before, after = old_units.get(name), new_units.get(name)
        if before == after and old[name].shape == new[name].shape:
            derived[name] = Take(name)
        elif before is None or after is None or not len(before) == len(after) == old[name].dim() == new[name].dim():
            raise ChangeError(
                f"{name} has shape {tuple(old[name].shape)} in the parent and {tuple(new[name].shape)} in the child, "
                "and no module labels its axes; give the module a method axes() that returns an Axis for each axis that grows"
            )
        else:
            _check(before, old[name], name)
            _check(after, new[name], name)
            pairs = zip(before, after, strict=True)
            derived[name] = Take(name, tuple(_index(b, a, name, new[name].device) for b, a in pairs))
    return derived


def _check(axes: tuple[Axis | None, ...], tensor: Tensor, name: str) -> None:
    for size, axis in zip(tensor.shape, axes, strict=True):
        if axis is not None and not len(set(axis.labels)) == len(axis.labels) == size:
            raise ChangeError(
                f"an axis of {name} has {size} entries, but its module gives it {len(axis.labels)} labels, "
                f"{len(set(axis.labels))} of them different; axes() must give one label for each entry, and none twice"
            )


def _index(before: Axis | None, after: Axis | None, name: str, device: torch.device) -> Tensor | None:
    if before == after:
        return None
    if before is None or after is None:
        raise ChangeError(f"an axis of {name} has labels in only one of parent and child; axes() must label it in both")
    position = {label: i for i, label in enumerate(before.labels)}
    missing = ZERO if after.consumes else FRESH
    return torch.tensor([position.get(label, missing) for label in after.labels], device=device)
