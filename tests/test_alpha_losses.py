"""Losses of the alphas, shipped ones and one of a third party, are added to what every architect descends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import pytest
import torch
from nasframe_bilevel import BetaDecay, ExactSecondOrder, FirstOrder, SecondOrder, SingleLevel
from nasframe_recurrent import Darts
from nasframe_relaxations import IndependentSigmoids, ZeroOne
from torch import Tensor
from toy import PLUGINS, toy_strategy

from nasframe import AlphaLoss, Architect, Mixing, Optimiser, Search, Strategy
from nasframe.errors import StrategyError
from nasframe.interfaces.relaxation import Sites
from nasframe.options import number
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.check import QUICK, check
from nasframe.testing.fakes import Scripted
from nasframe.testing.trained import TrainedNetwork

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Entropy(AlphaLoss):
    """The sum over sites of the entropy of the mixing weights, times a factor that grows during the phase."""

    name: ClassVar[str] = "entropy"
    needs_progress: ClassVar[bool] = True
    final: float = number(1.0, low=0.0)

    def loss(self, sites: Sites, alphas: Tensors, mixing: Mixing, progress: float | None) -> Tensor:
        assert progress is not None
        m = torch.cat([mixing[a] for a in sites])
        # a mixing weight may be rounded to zero, whose logarithm is infinite
        return -self.final * progress * (m * m.clamp(min=torch.finfo(m.dtype).tiny).log()).sum()


def zero_one_slope(m: Tensor, progress: float, count: int) -> Tensor:
    """d/d alpha of -10 sum (m - 1/2)^2 / count with m = sigmoid(alpha), by hand."""
    return -20 * (m - 0.5) * m * (1 - m) / count


def entropy_slope(m: Tensor, progress: float, count: int) -> Tensor:
    """d/d alpha of the entropy H of m = softmax(alpha), by hand: -m (log m + H)."""
    return -progress * m * (m.log() - (m * m.log()).sum())


def beta_slope(m: Tensor, progress: float, count: int) -> Tensor:
    """d/d alpha of 50 log sum exp(alpha) on average over the sites, of five candidates each, by hand: the softmax."""
    return 50 * progress * m / (count / 5)


TERMS = Plugins((*PLUGINS.found, Plugin("terms", "tests", "0", (Entropy,))))
SGD = Optimiser("sgd", learning_rate=0.1)


def strategy(architect: Architect, epochs: int | None = 2) -> Strategy:
    """Return a search on a cell with two edges; half of its phase is over after its first epoch."""
    backbone, optimiser, criterion = Darts(hidden=2, dropout=0.2), Optimiser(epochs=epochs), Scripted(epochs=2)
    return toy_strategy(architect=architect, backbone=backbone, growth=(), nodes=2, optimiser=optimiser, criterion=criterion)


def test_it_passes_the_kit() -> None:
    """Every law of losses of the alphas holds."""
    report = check(Entropy, profile=attrs.evolve(QUICK, cases=2, least=1))

    assert report.ok, report.text()


@pytest.mark.parametrize("cls", [SingleLevel, FirstOrder, SecondOrder, ExactSecondOrder], ids=lambda part: part.name)
def test_its_gradient_is_added(cls: type[SingleLevel]) -> None:
    """A step moves the alphas further than without it, by the learning rate times the gradient that is computed by hand."""
    for relaxation, term, by_hand in (
        (IndependentSigmoids(), ZeroOne(), zero_one_slope),
        (cls().relaxation, Entropy(), entropy_slope),
        (cls().relaxation, BetaDecay(), beta_slope),
    ):
        plain = cls(optimiser=SGD, relaxation=relaxation)
        before = TrainedNetwork.of(strategy(plain), 5)
        ends = []
        for architect in (plain, attrs.evolve(plain, terms=(term,))):
            trained = attrs.evolve(before.copy(), strategy=strategy(architect))
            ends.append(trained.train(1).network)
        mixing, count = before.mixing(), sum(len(m) for m in before.mixing().values())
        progress = (before.state.epoch + before.state.samples / before.data.train.size) / 2
        assert 0.5 < progress < 1.0
        for address, m in mixing.items():
            moved = ends[1].alphas[address].detach() - ends[0].alphas[address].detach()
            torch.testing.assert_close(moved, -0.1 * by_hand(m, progress, count), rtol=1e-9, atol=1e-12)


def test_a_phase_without_a_length_is_refused() -> None:
    """A loss that needs the progress of a phase is refused before training, and the message says what to write."""
    with pytest.raises(
        StrategyError,
        match=r"alpha loss 'entropy' needs the progress of a phase, and the phase 'search' has no length.*--epochs",
    ):
        Search(strategy(FirstOrder(terms=(Entropy(),)), epochs=None))


def test_an_undeclared_use_of_the_progress_is_found() -> None:
    """A loss that fails in a phase without a length, and does not say that it needs one, is refused, and the report says what to write."""
    part = attrs.frozen(type("Undeclared", (Entropy,), {"name": "undeclared", "needs_progress": False}))
    report = check(part, profile=attrs.evolve(QUICK, cases=1, least=1, shrinking=0.0), laws=["alpha_loss.slope"])

    assert "loss() raises AssertionError" in report.text()
    assert "write `needs_progress: ClassVar[bool] = True` in its class" in report.text()


def test_strategies_are_read_back() -> None:
    """The losses and their options are part of the strategy file."""
    given = strategy(FirstOrder(terms=(ZeroOne(weight=3.0), BetaDecay())))

    assert Strategy.from_toml(given.to_toml(), TERMS) == given
    with pytest.raises(ValueError, match="each must be an AlphaLoss"):
        FirstOrder(terms=(IndependentSigmoids(),))  # type: ignore[arg-type]
