"""The training batches of an epoch."""

from __future__ import annotations

from torch import Tensor


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Return an epoch's order cut into batches of `size` positions.

    The last batch has the positions that are left. If that is a single one, it joins the batch before, because
    normalisation over the batch (BatchNorm) is undefined for one example. Every batch but the last has exactly `size`
    positions, so cutting the rest of an order after some of its batches gives the remaining batches: an interrupted epoch
    continues with the same batches.

    Args:
        order: the positions of the examples, in the order in which the epoch visits them.
        size: the number of examples per batch. With 1, every batch has one example, the last one too.

    Example:
        >>> import torch
        >>> [len(batch) for batch in batches(torch.arange(65), 32)]
        [32, 33]
    """
    cut = list(order.split(size)) if len(order) else []  # torch splits an empty tensor into one empty batch
    # With size 1 single examples are wanted, and a split of one example has no batch that it could join.
    if 1 < size < len(order) and len(cut[-1]) == 1:
        cut[-2:] = [order[-size - 1 :]]
    return cut
