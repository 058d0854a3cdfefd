"""Morphisms of modules that do not come with nasframe are checked as those that do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import attrs
import torch
from full import FULL
from hypothesis import strategies as st
from torch import Tensor, nn

from nasframe import Claim, ModuleMorphism, Seed, Take
from nasframe.errors import ChangeError
from nasframe.modules.coupling import Coupling
from nasframe.modules.morphism import Place, Rewrite, Undo
from nasframe.testing.check import QUICK, check
from nasframe.testing.examples import Examples, Model

FEW = attrs.evolve(QUICK, cases=2, shrinking=0.0)


class Scaled(nn.Module):
    """A linear layer whose output is multiplied by two scales, as no model of the kit has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)
        self.first, self.second = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled output."""
        scaled: Tensor = self.linear(x) * self.first * self.second
        return scaled


def scaled(width: int) -> tuple[nn.Module, Tensor]:
    """Return the model with an example."""
    return Scaled(width), torch.randn(5, 2)


@attrs.frozen
class Rescale(ModuleMorphism):
    """Move a factor from one scale to the other."""

    name: ClassVar[str] = "rescale"
    factor: float = 2.0

    def places(self, coupling: Coupling) -> Iterable[Place]:
        """Yield the first scale."""
        yield from (Place(name, 1) for name in coupling.tensors if name == "first")

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the map that moves the factor."""
        if at not in [place.name for place in self.places(coupling)]:
            raise ChangeError(f"{at!r} is no scale")
        return Rewrite((), self.entries(), Claim.exact(), undo=Undo(attrs.evolve(self, factor=1 / self.factor), at))

    def entries(self) -> dict[str, Take]:
        """Return the entries of the map: the gradient of a scale grows with the other one."""
        return {
            "first": Take("first", value=self.factor, gradient=1 / self.factor),
            "second": Take("second", value=1 / self.factor, gradient=self.factor),
        }


@attrs.frozen
class Careless(Rescale):
    """Multiply one scale, and leave the other."""

    name: ClassVar[str] = "careless"

    def entries(self) -> dict[str, Take]:
        """Return the entry of the first scale only."""
        return {"first": Take("first", value=self.factor)}


def examples(cls: type[Rescale]) -> Examples:
    """Return the examples that a third party gives."""
    return Examples(
        parts={cls: st.builds(cls, st.sampled_from([2.0, 3.0]))},
        models=(st.integers(1, 3).map(lambda width: Model(scaled, (width,))),),
    )


def test_another_morphism_is_tried_on_its_models() -> None:
    """A morphism for which no model of nasframe has a place passes on the models that come with it."""
    report = check(Rescale, examples=examples(Rescale), profile=FEW)

    assert report.ok, report.text()
    # it declares no morphism that reverts it
    assert {one.status for one in report.outcomes if one.law != "module_morphism.undo"} == {"passed"}


def test_a_wrong_claim_is_found() -> None:
    """A change that claims to be exact and is not fails by the law of claims alone, with the case in words."""
    laws = None if FULL else ["module_morphism.claim", "module_morphism.storage", "module_morphism.untouched"]
    report = check(Careless, examples=examples(Careless), profile=FEW, laws=laws)

    (failed,) = [one for one in report.outcomes if one.status == "failed"]
    assert failed.law == "module_morphism.claim"
    assert "scaled(" in failed.case


def test_without_models_there_is_nothing_to_try() -> None:
    """A morphism without a place in any model is inconclusive, and the report says what to add."""
    given = attrs.evolve(examples(Rescale), models=())
    report = check(Rescale, examples=given, profile=FEW, laws=["module_morphism.storage"])

    assert [one.status for one in report.outcomes] == ["inconclusive"]
    assert "`models`" in report.outcomes[0].reason
