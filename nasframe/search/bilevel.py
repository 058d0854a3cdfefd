"""A supernet as the bilevel problem that an architect sees."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import functional_call

from nasframe.architect import Architect, Bilevel, Loss, Tensors
from nasframe.network import Network
from nasframe.search.state import weights_of

Batch = tuple[Tensor, Tensor]


def problem(
    network: Network,
    architect: Architect,
    loss: Callable[[Tensor, Tensor], Tensor],
    train: Batch,
    valid: Batch,
    xi: float,
) -> Bilevel:
    """The problem on a batch of each split; its weights and logits are the network's own tensors."""
    weights: Tensors = dict(weights_of(network))

    def on(batch: Batch) -> Loss:
        def value(w: Tensors, logits: Tensors) -> Tensor:
            shares = architect.weights(logits)
            output = network(batch[0], shares) if w is weights else functional_call(network, dict(w), (batch[0], shares))
            return loss(output, batch[1])

        return value

    return Bilevel(weights, dict(network.logits), on(train), on(valid), xi)
