"""The gain of an exact growth: how much more a step of gradient descent lowers the loss of the child."""

from __future__ import annotations

import torch

from nasframe import Claim, Context, Edit, Filling, Network, Structure
from nasframe.change.apply import apply


def gain(context: Context, structure: Structure, edit: Edit, name: str) -> float:
    """Return by how much more the next step of gradient descent lowers the loss of the child than that of its parent.

    A step of gradient descent with the learning rate eta lowers the loss by eta |grad L|^2, to first order in eta. Child and parent
    have the same loss, so the gain of an exact growth is

        eta (|grad L(child)|^2 - |grad L(parent)|^2)

    with the gradients by the weights, without the alphas. For growth behind gates that start at zero, this is eta times the squared
    gradients of the gates.

    The gradients are those of one training batch, in evaluation mode, and eta is the learning rate at which a phase begins. So the gain
    compares growths with each other, also those of different morphisms. It is no forecast of the loss. It knows the first step only,
    and neither the moments nor the normalisation of Adam. It is about the loss of that batch, so that the noise of its gradient adds to
    it; on all training examples the same step gains less. In particular it does not see what new units become later, whose
    incoming weights have no gradient as long as their outgoing weights are zero.

    Args:
        context: the search.
        structure: the structure that grows: that of the context, or what is left of it.
        edit: the growth.
        name: the name under which the gain is remembered, unique among the proposals of the morphism.
    """

    def measured() -> float:
        # the network of what is left: the very same one if nothing was removed
        rest = Edit(structure, lambda parent, child: Filling(Claim.lossy()))
        parent = apply(context.network, rest, context.seed("rest")).child
        child = apply(parent, edit, context.seed("gain", name)).child
        return context.learning_rate * (_squared_gradient(context, child) - _squared_gradient(context, parent))

    found: float = context.remember(f"gain of {name}", measured)
    return found


def _squared_gradient(context: Context, network: Network) -> float:
    weights = [p for n, p in network.named_parameters() if not n.startswith("alphas.")]
    gradients = torch.autograd.grad(context.training_loss(network), weights, allow_unused=True)
    # in float64, because the gain is a small difference of large sums
    return sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None)
