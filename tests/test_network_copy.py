"""A deep copy of a network computes the same, and shares no memory with it."""

from __future__ import annotations

import copy
import itertools

import torch
from hypothesis import given
from recurrent import parents
from torch import Tensor, nn

from nasframe.network.network import tensors
from nasframe.testing.trained import TrainedNetwork


def memory(tensor: Tensor) -> int:
    """Return where the numbers of a tensor are."""
    return tensor.untyped_storage().data_ptr()


@given(parents())
def test_buffers_that_share_memory_do_so_in_the_copy(parent: TrainedNetwork) -> None:
    """Values are equal, none are shared with the original, and whichever buffers share memory there do so in the copy, too."""
    network = parent.network
    holder = nn.Module()
    holder.register_buffer("apart", torch.randn(3))
    holder.register_buffer("view", holder.apart[1:])
    holder.register_buffer("alone", torch.randn(2))
    network.add_module("holder", holder)
    before, after = tensors(network), tensors(copy.deepcopy(network))

    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not {*map(memory, before.values())} & {*map(memory, after.values())}
    for one, other in itertools.combinations(before, 2):
        assert (memory(before[one]) == memory(before[other])) == (memory(after[one]) == memory(after[other])), (one, other)
