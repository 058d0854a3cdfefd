"""Losses of the alphas with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mutants.system import mutant, overriding
from nasframe.testing.subject import Subject

DECAY = ("alpha_loss", "beta_decay")


def losing(of: Subject, loss: Callable[[list[Tensor], list[Tensor]], Tensor]) -> Subject:
    """Return the part whose loss is `loss(alphas of each site, mixing weights of each site)`."""

    def changed(self: Any, sites: Any, alphas: Any, mixing: Any, progress: float | None) -> Tensor:
        return loss([alphas[a] for a in sites], [mixing[a] for a in sites])

    return overriding(of, loss=changed)


@mutant("alpha_loss.scalar", *DECAY)
def for_each_site(of: Subject) -> Subject:
    """It returns a number for each site."""
    return losing(of, lambda alphas, mixing: torch.stack([alpha.logsumexp(0) for alpha in alphas]))


@mutant("alpha_loss.scalar", *DECAY)
def log_of_zero(of: Subject) -> Subject:
    """It is the entropy, and takes the logarithm of mixing weights that may be rounded to zero."""
    return losing(of, lambda alphas, mixing: -torch.cat([w * w.log() for w in mixing]).sum())


@mutant("alpha_loss.slope", *DECAY)
def partly_detached(of: Subject) -> Subject:
    """It detaches one of two factors."""
    return losing(of, lambda alphas, mixing: torch.cat([a * a.detach() for a in alphas]).sum())
