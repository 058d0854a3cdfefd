"""The rows of a comparison: the evaluations of one name, with their mean and standard error."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from nasframe.records import Evaluated


@attrs.frozen
class Row:
    """The evaluations of one name.

    Attributes:
        name: what was evaluated.
        evaluations: one for each seed.
    """

    name: str
    evaluations: tuple[Evaluated, ...]

    @property
    def parameters(self) -> int:
        """Return the mean number of parameters of a prediction."""
        return round(statistics.fmean(e.parameters for e in self.evaluations))

    @property
    def updates(self) -> int:
        """Return the mean number of updates."""
        return round(statistics.fmean(e.trained for e in self.evaluations))

    @property
    def diverged(self) -> int:
        """Return how many trainings diverged."""
        return sum(e.diverged for e in self.evaluations)

    def values(self, metric: str) -> list[float]:
        """Return the test values of a metric, those that are finite."""
        found = (e.scores.get(metric) for e in self.evaluations)
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """Return the mean over the seeds; None if all trainings diverged."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def error(self, metric: str) -> float | None:
        """Return the standard error of the mean; None where there is one value."""
        values = self.values(metric)
        # s / sqrt(n) with the n - 1 in s: the error of the mean over seeds, not the spread of single trainings.
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    def valid(self) -> float | None:
        """Return the least validation loss."""
        return min((e.valid for e in self.evaluations if e.valid is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values, with the mean and the standard error of each metric."""
        metrics = dict.fromkeys(m for e in self.evaluations for m in e.scores)
        return {
            "name": self.name,
            "parameters": self.parameters,
            "updates": [e.trained for e in self.evaluations],
            "diverged": self.diverged,
            "valid": [e.valid for e in self.evaluations],
            "test": {m: {"mean": self.mean(m), "standard_error": self.error(m), "values": self.values(m)} for m in metrics},
        }


def rows_of(evaluations: Sequence[Evaluated]) -> list[Row]:
    """Return the rows of the evaluations, in their order."""
    # a dictionary keeps the order of first occurrence, and a set would not
    names = dict.fromkeys(e.name for e in evaluations)
    return [Row(name, tuple(e for e in evaluations if e.name == name)) for name in names]


def handed_over(evaluations: Sequence[Evaluated]) -> Evaluated:
    """Return the evaluation of the network that is handed over."""
    # each best network so far is marked: the last one marked is the best of all
    return [e for e in evaluations if e.best][-1]
