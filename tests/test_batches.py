"""How an epoch is cut into batches."""

from __future__ import annotations

import torch
from hypothesis import given, strategies as st

from nasframe.search.batches import batches

orders = st.integers(1, 40).map(lambda n: torch.randperm(n, generator=torch.Generator().manual_seed(n)))


@given(orders, st.integers(1, 45))
def test_every_example_is_in_one_batch_in_order(order: torch.Tensor, size: int) -> None:
    """The batches one behind the other are the order; all but the last have the requested size."""
    found = batches(order, size)

    assert torch.equal(torch.cat(found), order)
    assert all(len(batch) == size for batch in found[:-1])
    assert 1 <= len(found[-1]) <= size + 1


@given(orders, st.integers(2, 45))
def test_no_batch_has_one_example(order: torch.Tensor, size: int) -> None:
    """A batch of one exists only if the data or the requested size leave no other choice."""
    assert all(len(batch) > 1 for batch in batches(order, size)) or len(order) == 1


@given(orders, st.integers(1, 45), st.data())
def test_an_interrupted_epoch_continues_with_the_same_batches(order: torch.Tensor, size: int, data: st.DataObject) -> None:
    """Cutting what is left of an order gives the batches that are left."""
    found = batches(order, size)
    done = data.draw(st.integers(0, len(found)))
    rest = batches(order[sum(map(len, found[:done])) :], size)

    assert all(map(torch.equal, rest, found[done:]))
    assert len(rest) == len(found) - done


def test_a_size_of_one_is_kept() -> None:
    """Who asks for batches of one example gets nothing else."""
    assert [len(batch) for batch in batches(torch.arange(3), 1)] == [1, 1, 1]
