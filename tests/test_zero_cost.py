"""Zero-cost scores: each equals its definition, written out for a tiny network, and ranks architectures in a search."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from convolutional import Blobs, image_strategy
from nasframe_convolutional import NasBench201
from nasframe_growing import Epochs
from nasframe_sampling import RandomSearch
from nasframe_zero_cost import ZeroCost, linear_regions, naswot, ntk_condition, synflow
from torch import Tensor, nn
from torch.nn.functional import relu

from nasframe import Search, Seed
from nasframe.errors import DataError, StrategyError, StructureError
from nasframe.network.network import tensors
from nasframe.records import TrialEnded
from nasframe.search.plan import RETRAIN, Trials


class Tiny(nn.Module):
    """Two layers of ReLU units, the first without a module for its ReLU, and a BatchNorm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.third = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Linear(4, 2)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.activation(self.second(relu(self.norm(self.first(x))))))

    def units(self, x: Tensor) -> list[tuple[bool, ...]]:
        """Return the active units of each example."""
        first = self.norm(self.first(x))
        second = self.second(first.clamp(min=0))
        return [tuple(bool(unit > 0) for unit in row) for row in torch.cat([first, second], 1)]


@pytest.fixture
def network() -> Tiny:
    with Seed(("tiny",)).as_global():
        return Tiny().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(6, 2, generator=Seed(("inputs",)).generator(), dtype=torch.float64)


def test_naswot(network: Tiny, inputs: Tensor) -> None:
    """The kernel counts the units on which two examples agree; the determinant is the sum over all permutations."""
    inputs = inputs[:4]
    units = network.units(inputs)
    kernel = [[sum(a == b for a, b in zip(one, other, strict=True)) for other in units] for one in units]
    determinant = 0
    for order in itertools.permutations(range(4)):
        inversions = sum(order[i] > order[j] for i, j in itertools.combinations(range(4), 2))
        determinant += (-1) ** inversions * math.prod(kernel[i][j] for i, j in enumerate(order))
    expected = math.log(abs(determinant)) if determinant else -math.inf
    assert naswot(network, inputs) == pytest.approx(expected)


def test_linear_regions(network: Tiny, inputs: Tensor) -> None:
    """There are as many regions as different sets of active units, also where examples share one."""
    repeated = torch.cat([inputs, inputs[:3]])
    found = linear_regions(network, repeated)
    assert found == len({*network.units(repeated)}) < len(repeated)


def test_ntk_condition(network: Tiny, inputs: Tensor) -> None:
    """The kernel has the products of the gradients by finite differences, and its eigenvalues are those of its polynomial."""
    pair, step, columns = inputs[:2], 1e-6, []
    network.eval()
    for parameter in network.parameters():
        for place in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * step
                    values.append(network(pair).sum(1))
                    parameter.view(-1)[place] -= sign * step
            columns.append((values[0] - values[1]) / (2 * step))
    (a, b), (_, d) = (torch.stack(columns, 1) @ torch.stack(columns)).tolist()
    root = math.sqrt((a - d) ** 2 + 4 * b * b)
    assert ntk_condition(network, pair) == pytest.approx((a + d + root) / (a + d - root), rel=1e-5)


def test_synflow(network: Tiny, inputs: Tensor) -> None:
    """Each layer's sum of w dR/dw is the sum over the paths through its weights of the product of their absolute weights."""
    first, second, third = (layer.weight.detach().abs() for layer in (network.first, network.second, network.third))
    biases = [layer.bias.detach().abs() for layer in (network.first, network.second)]
    total = 0.0
    for o, j, i in itertools.product(range(2), range(4), range(3)):
        behind = third[o, j] * second[j, i]
        # A path begins at an input and has three weights, or at the bias of the first layer and has two.
        total += float(3 * behind * first[i].sum() + 2 * behind * biases[0][i])
    total += float((third * biases[1]).sum())
    assert synflow(network, inputs) == pytest.approx(total)


def test_scores_leave_the_network_alone(network: Tiny, inputs: Tensor) -> None:
    """No score changes a parameter, a running statistic or a mode."""
    before = {name: tensor.clone() for name, tensor in tensors(network).items()}
    for score in (naswot, linear_regions, ntk_condition, synflow):
        score(network, inputs)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(network).items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_a_network_without_relu_has_no_patterns(inputs: Tensor) -> None:
    """Scores of active units refuse a network that has none."""
    with pytest.raises(StructureError, match="computes no ReLU"):
        naswot(nn.Linear(2, 2).double(), inputs)


def test_a_crop_larger_than_the_images_is_refused() -> None:
    """Images of 5 x 6 pixels have no part of 6 x 6 pixels."""
    with pytest.raises(DataError, match="crop is 6, and the inputs have shape"):
        scored("synflow", crop=6).run()


def scored(score: str, crop: int = 3, **changes: Any) -> Search:
    """Return a search by trials that compares cells by a score."""
    strategy = image_strategy(
        task=Blobs(size=8, height=5, width=6),
        backbone=NasBench201(1, 1),
        nodes=3,
        growth=(),
        architect=RandomSearch(trials=3, updates=1),
        evaluator=ZeroCost(score, examples=6, crop=crop),
        **changes,
    )
    return Search(strategy)


@pytest.mark.parametrize("score", ["naswot", "synflow", "regions", "ntk"])
def test_a_search_by_a_score(score: str) -> None:
    """A search by trials scores each cell without training, and has nothing to compare its network by."""
    search = scored(score)
    trials = [record for record in search if isinstance(record, TrialEnded)]
    assert len(trials) == 3
    assert {trial.trained for trial in trials} == {0}
    assert any(trial.valid is not None for trial in trials)
    with pytest.raises(StrategyError, match="no trial of the search trained"):
        next(search.compare())


def test_the_best_cell_by_a_score_is_trained() -> None:
    """A phase after the trials trains the cell that they chose."""
    search = scored("synflow", plan=(Trials(), *RETRAIN), criterion=Epochs(1))
    records = [*search]
    best = [record for record in records if isinstance(record, TrialEnded) and record.best][-1]
    assert search.space.picks(search.network.structure) == best.picks
    assert search.state.updates > 0
