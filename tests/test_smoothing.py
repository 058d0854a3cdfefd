"""SDARTS trains the weights at the perturbed mixing weights of its equations, and the alphas at those without a perturbation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from nasframe_bilevel import FirstOrder, SmoothDarts
from nasframe_recurrent import Prod, Sum, Tanh, TwoToOne
from recurrent import strategy
from torch import Tensor

from nasframe import Draw, Mixing, Optimiser, Search, Seed
from nasframe.errors import StrategyError
from nasframe.testing.trained import TrainedNetwork

SITE = "normal/e0"


def no_loss(mixing: Mixing) -> Tensor:
    raise AssertionError("random smoothing needs no loss")


def perturbed(
    weights: list[float],
    seed: int = 0,
    loss: Callable[[Mixing], Tensor] = no_loss,
    progress: float = 1.0,
    active: tuple[int, ...] | None = None,
    **options: float | str,
) -> list[float]:
    """Return the mixing weights at which the weights of one site are trained."""
    given = Mixing({SITE: torch.tensor(weights, dtype=torch.float64)}, {} if active is None else {SITE: active})
    found = SmoothDarts(**options).training_mixing(given, loss, Draw(Seed((seed,)), progress))
    assert found.active == given.active
    return found[SITE].tolist()


def test_random_smoothing_is_uniform_within_eps() -> None:
    """Far from the border of the simplex delta has the range, the mean and the variance of U(-eps, eps), up to what keeps the sum."""
    found = torch.tensor([perturbed([0.25] * 4, seed, progress=0.5, initial=0.0, final=0.2) for seed in range(500)])

    # eps is 0.1 in the midst of the phase; (1/4 + d_i) / (1 + sum d) = 1/4 + d_i - mean(d) + O(eps^2), of variance eps^2 / 3 * 3/4
    torch.testing.assert_close(found.sum(1), torch.ones(500))
    torch.testing.assert_close(found.mean(0), torch.full((4,), 0.25), rtol=0, atol=0.01)
    torch.testing.assert_close(found.std(0), torch.full((4,), 0.05), rtol=0.15, atol=0.0)
    assert float(found.max()) <= 0.35 / (0.35 + 3 * 0.15)
    assert float(found.min()) >= 0.15 / (0.15 + 3 * 0.35)


def test_what_leaves_the_simplex_is_brought_back() -> None:
    """No weight is negative, the sum stays what it was, and what is not computed stays zero."""
    for seed in range(50):
        found = perturbed([0.9, 0.05, 0.05], seed, final=0.5)
        assert min(found) >= 0
        assert sum(found) == pytest.approx(1)
    assert perturbed([0.0, 1.0, 0.0], active=(1,)) == [0.0, 1.0, 0.0]
    assert perturbed([0.0, 1.0, 0.0], active=(0, 1))[2] == 0.0
    assert sum(perturbed([0.2, 0.3], final=0.1)) == pytest.approx(0.5)


def test_the_attack_comes_near_the_largest_loss() -> None:
    """Of the increase that a search over all delta on a grid finds, for curved losses of two and three candidates."""
    eps = 0.1
    for seed, (centre, slopes) in enumerate((([0.5, 0.5], [-1.0, 0.5]), ([0.2, 0.5, 0.3], [-0.7, 1.0, -0.5]))):
        middle, factors = (torch.tensor(values, dtype=torch.float64) for values in (centre, slopes))

        def loss(mixing: Mixing, factors: Tensor = factors) -> Tensor:
            return (factors * mixing[SITE]).sum() + 0.1 * mixing[SITE].square().sum()

        def at(weights: Tensor, loss: Callable[[Mixing], Tensor] = loss) -> float:
            return float(loss(Mixing({SITE: weights / weights.sum()})))

        found = perturbed(centre, seed, loss, form="adversarial", final=eps)
        grid = torch.tensor([*itertools.product((-eps, -eps / 2, 0.0, eps / 2, eps), repeat=len(centre))]).double()
        largest = max(at(middle + delta) for delta in grid)
        share = (at(torch.tensor(found, dtype=torch.float64)) - at(middle)) / (largest - at(middle))
        assert 0.9 < share < 1 + 1e-9


def test_an_attack_that_fails_leaves_the_mixing_weights() -> None:
    """Where the loss is largest without a perturbation, the weights are trained there."""
    centre = [0.5, 0.5]

    assert perturbed(centre, 0, lambda m: -(m[SITE] - 0.5).square().sum(), form="adversarial") == centre


@pytest.mark.parametrize("form", ["random", "adversarial"])
def test_the_weights_are_perturbed_and_the_alphas_are_not(form: str) -> None:
    """In one step the alphas move as without a perturbation and the weights do not; with eps = 0 both do."""
    first = FirstOrder(Optimiser(learning_rate=0.01))
    architects = {"plain": first, "zero": SmoothDarts(first, form, 0.0, 0.0), "smooth": SmoothDarts(first, form, 0.3)}
    found = {}
    for name, architect in architects.items():
        values = {"nodes": 1, "batch": 8, "optimiser": Optimiser("sgd", 0.1, epochs=2), "architect": architect}
        network = TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(2, operations=(Sum(), Tanh(), Prod())), **values), 1).network
        found[name] = [
            torch.cat([p.detach().flatten() for n, p in network.named_parameters() if n.startswith("alphas.") == a])
            for a in (True, False)
        ]

    (alphas, weights), (alphas_at_zero, weights_at_zero), (smooth_alphas, smooth_weights) = found.values()
    assert torch.equal(alphas, smooth_alphas)
    assert not torch.allclose(weights, smooth_weights)
    torch.testing.assert_close((alphas, weights), (alphas_at_zero, weights_at_zero), rtol=1e-12, atol=1e-12)


def test_a_phase_without_a_length_is_refused() -> None:
    """The radius grows over the phase, so that the phase must have a length."""
    with pytest.raises(StrategyError, match="architect 'sdarts' needs the progress of a phase"):
        Search(strategy(2, 2, 3, TwoToOne(2), nodes=1, batch=8, architect=SmoothDarts()))


def test_eps_grows() -> None:
    """A perturbation that would become smaller is refused."""
    with pytest.raises(ValueError, match=r"initial is 0.5 and final 0.3; eps grows"):
        SmoothDarts(initial=0.5)
