"""Parts of any kind with one fault each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from mutants.system import mutant, overriding
from nasframe.testing.subject import Subject

POOL = ("operation", "max_pool")
TANH = ("operation", "tanh_edge")


@mutant("part.signature", "reproduction", "genotypes")
def outdated(of: Subject) -> Subject:
    """A method that is rarely called lacks an argument."""

    def draw(self: Any, rows: Sequence[Any]) -> Sequence[Any]:
        return ()

    return overriding(of, draw=draw)


@mutant("part.signature", "reproduction", "genotypes")
def swapped(of: Subject) -> Subject:
    """A method that is rarely called takes its arguments in another order."""

    def draw(self: Any, folder: Any, rows: Sequence[Any]) -> Sequence[Any]:
        return ()

    return overriding(of, draw=draw)


@mutant("part.described", *TANH)
def by_identity(of: Subject) -> Subject:
    """Its hash is that of the object, and not of its options."""
    spoilt = overriding(of, __hash__=object.__hash__)
    return attrs.evolve(spoilt, parts=st.just(spoilt.cls()))


@mutant("part.frozen", *POOL)
def thawed(of: Subject) -> Subject:
    """Its options can be set after it is made."""
    return overriding(of, __setattr__=object.__setattr__)


@mutant("part.repeatable", *TANH)
def unseeded(of: Subject) -> Subject:
    """It initialises its weights from an unseeded generator."""

    def build(self: Any, **sizes: Any) -> nn.Module:
        module = of.cls.build(self, **sizes)  # type: ignore[attr-defined]
        generator = torch.Generator()
        generator.seed()
        module.W.data.add_(torch.randn(module.W.shape, generator=generator))
        return module

    return overriding(of, build=build)


@mutant("part.globals", *TANH)
def seeding(of: Subject) -> Subject:
    """It seeds numpy's global generator and leaves it so."""

    def build(self: Any, **sizes: Any) -> nn.Module:
        np.random.seed(0)
        return of.cls.build(self, **sizes)  # type: ignore[attr-defined]

    return overriding(of, build=build)
