"""The numbers of the protocol: cells among random cells, correlations of ranks, and the bootstrap over windows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
import torch

from nasframe import Seed
from nasframe_papers.trials import Values

#: the picks that describe a cell (`nasframe.Space`)
Picks = tuple[int, ...]
#: probabilities with which cells are chosen
Chosen = Mapping[Picks, float]


@attrs.frozen(eq=False)
class Cells:
    """Cells of a task that were trained from scratch, each with the same seeds.

    Args:
        random: the cells that were drawn, or all cells of a small space.
        trainings: the results of a cell's trainings (`train_trial`), in the order of the seeds. Cells that a search found may be there
            beside the drawn ones.
    """

    random: tuple[Picks, ...]
    trainings: Mapping[Picks, Sequence[Values]]

    def valids(self, cell: Picks) -> list[float]:
        """Return the validation loss of a cell by seed; infinity for a training that diverged."""
        return [math.inf if one["valid"] is None else one["valid"] for one in self.trainings[cell]]

    def early(self, cell: Picks, seed: int, epochs: int) -> float:
        """Return the least validation loss of a training in its first epochs; infinity if all of them diverged."""
        curve = self.trainings[cell][seed]["curve"][:epochs]
        return min((value for value in curve if value is not None), default=math.inf)

    def valid(self, cell: Picks) -> float:
        """Return the mean validation loss of a cell, its truth."""
        return statistics.fmean(self.valids(cell))

    def test(self, cell: Picks) -> float:
        """Return the mean test loss of a cell."""
        return statistics.fmean(map(statistics.fmean, self.tests(cell)))

    def tests(self, cell: Picks) -> list[Sequence[float]]:
        """Return the loss of each test window by seed."""
        return [one["test"] for one in self.trainings[cell]]

    def percentile(self, cell: Picks, loss: Callable[[Picks], float] | None = None) -> float:
        """Return the percentage of the random cells other than this one that have a larger loss; equal ones count half.

        It is 100 for the best cell and 50 for one in the middle.

        Args:
            cell: the cell.
            loss: the loss of a cell; by default its validation loss.
        """
        loss = loss or self.valid
        this, others = loss(cell), [loss(other) for other in self.random if other != cell]
        return 100 * statistics.fmean((other > this) + (other == this) / 2 for other in others)

    def windows(self, cells: Chosen) -> np.ndarray:
        """Return the expected loss of each test window, over the seeds and the choice of the cell."""
        return np.sum([p * np.mean(self.tests(cell), 0) for cell, p in cells.items()], 0)

    def expected(self, key: str, cells: Chosen) -> float:
        """Return the expected value of a number of the trainings, such as "updates"."""
        return sum(p * statistics.fmean(one[key] for one in self.trainings[cell]) for cell, p in cells.items())

    @property
    def any(self) -> Chosen:
        """Return the choice of a random cell."""
        return evenly(self.random)

    def random_search(self, trainings: float) -> Chosen:
        """Return the probabilities with which random search chooses each cell.

        It draws that many random cells with replacement, trains each once, and keeps the one of least validation loss. The best one
        of k draws is among the r best of n cells with probability 1 - (1 - r / n)^k, in which k need not be whole.

        Args:
            trainings: k, at least 1.
        """
        n, seeds = len(self.random), len(self.trainings[self.random[0]])
        chosen = dict.fromkeys(self.random, 0.0)
        for seed in range(seeds):
            order = sorted(self.random, key=lambda cell: self.valids(cell)[seed])
            for rank, cell in enumerate(order):
                chosen[cell] += ((1 - rank / n) ** trainings - (1 - (rank + 1) / n) ** trainings) / seeds
        return chosen

    def median_percentile(self, cells: Chosen) -> float:
        """Return the median percentile of a cell that is chosen with these probabilities."""
        below = 0.0
        ordered = sorted((self.percentile(cell), p) for cell, p in cells.items())
        for place, (percentile, p) in enumerate(ordered):
            below += p
            if below > 0.5 + 1e-9:
                return percentile
            if below > 0.5 - 1e-9 and place + 1 < len(ordered):
                # half of the probability lies on each side, as in the median of an even number of values
                return (percentile + ordered[place + 1][0]) / 2
        return ordered[-1][0]


def evenly(cells: Sequence[Picks]) -> Chosen:
    """Return the choice of one of some cells, which may occur several times, with equal probabilities."""
    return {cell: cells.count(cell) / len(cells) for cell in dict.fromkeys(cells)}


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, the least one first; equal values share the mean of their ranks."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's correlation of two sequences; None if all values of one of them are equal."""
    first, second = ranks(one), ranks(other)
    if len({*first}) == 1 or len({*second}) == 1:
        return None
    return statistics.correlation(first, second)


def bootstrap(differences: np.ndarray, block: int, seed: Seed, draws: int = 2000) -> tuple[float, float]:
    """Return the interval of 95 % for the mean of paired differences, by a bootstrap of blocks.

    Consecutive windows overlap, so that their losses are correlated; a draw consists of whole blocks of them, of which the one at the end
    goes on at the beginning (circular block bootstrap; Politis & Romano 1992).

    Args:
        differences: the difference for each window, in the order of time.
        block: the number of windows in a block.
        seed: the seed of the draws.
        draws: the number of draws.
    """
    size = len(differences)
    starts = torch.randint(size, (draws, -(-size // block)), generator=seed.generator()).numpy()
    places = (starts[:, :, None] + np.arange(block)) % size
    means = differences[places.reshape(draws, -1)[:, :size]].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
