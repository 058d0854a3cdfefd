"""The laws of losses of the alphas: tried on the sites of supernets that have trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Seed
from nasframe.errors import NasframeError
from nasframe.testing.cases import SearchCase
from nasframe.testing.compare import require, require_at_most, require_like, undeclared
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.strategies import supernet
from nasframe.testing.subject import Subject

Tensors = Mapping[str, Tensor]


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """A loss of the alphas, for the sites and the relaxation of a search."""

    def alphas(self, *purpose: str, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> dict[str, Tensor]:
        """Return alphas and further parameters, different ones for each purpose."""
        generator = Seed((self.strategy.seed, "alphas", *purpose)).generator()
        found = {}
        for name, alpha in supernet(self.strategy).alphas.items():
            found[name] = scale * torch.randn(alpha.shape, generator=generator, dtype=torch.float64).to(dtype)
        if not found:
            raise Inapplicable("no site of the supernet is undecided")
        return found

    def losses(self, alphas: Tensors) -> Iterator[tuple[str, Tensor]]:
        """Yield the loss at the beginning, the middle and the end of a phase, and in one without a length if it works there."""
        network = supernet(self.strategy)
        assert network.relaxation is not None
        for progress in (0.0, 0.5, 1.0) if self.part.needs_progress else (0.0, 0.5, 1.0, None):
            mixing = network.relaxation.mixing(network.sites, alphas, None)
            try:
                loss = self.part.loss(network.sites, alphas, mixing, progress)
            except Exception as error:
                if progress is not None:
                    raise
                raise NasframeError(undeclared("loss()", "the progress", error)) from error
            yield f"at the progress {progress}", loss


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the loss in the searches of all habitats."""
    assert subject.parts is not None
    return st.builds(Case, subject=st.just(subject), part=subject.parts, strategy=subject.searches(), data=st.data())


def exercise(case: Case) -> dict[str, Any]:
    """Return the losses, and their gradients by the alphas."""
    leaves = {name: alpha.requires_grad_() for name, alpha in case.alphas().items()}
    found: dict[str, Any] = {}
    for when, loss in case.losses(leaves):
        found[f"the loss {when}"] = loss.detach()
        found[f"the gradient {when}"] = _gradient(loss, leaves)
    return found


def _gradient(loss: Tensor, alphas: Tensors) -> dict[str, Tensor]:
    require(loss.requires_grad, "the loss has no gradient by the alphas")
    return dict(zip(alphas, torch.autograd.grad(loss, [*alphas.values()], materialize_grads=True), strict=True))


@law("alpha_loss.scalar", "there is a loss for each site, or the logarithm of a mixing weight that is rounded to zero")
def scalar(case: Case) -> None:
    """The loss is a finite number with a finite gradient by the alphas, in their dtype, even for alphas of thousands."""
    for scale, dtype in product((1.0, 1e3), (torch.float32, torch.float64)):
        leaves = {name: alpha.requires_grad_() for name, alpha in case.alphas(dtype=dtype, scale=scale).items()}
        for when, loss in case.losses(leaves):
            what = f"{when}, for alphas in {dtype} around {scale:g}, "
            require_like(f"{what}loss()", {"the loss": loss.detach()}, {"the loss": torch.zeros((), dtype=dtype)})
            require_like(f"{what}the gradient of loss()", _gradient(loss, leaves), leaves)


@law("alpha_loss.slope", "something is detached or rounded between the alphas and the loss")
def slope(case: Case) -> None:
    """The slope of the loss along a direction of the alphas equals the difference quotient."""
    alphas, h, errors = case.alphas(), 1e-6, dict[str, list[float]]()
    leaves = {name: alpha.clone().requires_grad_() for name, alpha in alphas.items()}
    for n in range(3):  # a direction may cross a kink, but hardly all three
        along = case.alphas(f"direction {n}")
        # A central difference at float64, whose error is of the order of h^2.
        ahead, behind = (dict(case.losses({a: alpha + t * along[a] for a, alpha in alphas.items()})) for t in (h, -h))
        for when, loss in case.losses(leaves):
            found = sum(float((s * along[a]).sum()) for a, s in _gradient(loss, leaves).items())
            quotient = (float(ahead[when]) - float(behind[when])) / (2 * h)
            errors.setdefault(when, []).append(abs(found - quotient) / max(1.0, abs(quotient)))
    for when, each in errors.items():
        what = f"{when}, the least relative distance, of three, of a slope from the difference quotient"
        require_at_most(what, min(each), 1e-6)
