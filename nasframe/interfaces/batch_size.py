"""The interface of batch sizes that follow a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from nasframe.interfaces.part import Part
from nasframe.search.context import Context


class BatchSize(Part):
    """A rule for the number of examples in a batch, in the place of a number: `batch = {name = "..."}` in a strategy file.

    It decides at the beginning of each phase of training, and after the changes that a phase makes in its midst. Like a criterion it
    measures first. What it measured and its answer are part of the state of the run, and each record of an epoch has both.

    Required: `name` and `decide`. Optional: `measure`.

    Example:
        The largest batch for which examples times parameters stay under a limit::

            @attrs.frozen
            class Product(BatchSize):
                name: ClassVar[str] = "product"
                limit: int = number(1_000_000, low=1, whole=True)

                def measure(self, context):
                    return {"parameters": count_parameters(context.structure, context.relaxation)}

                def decide(self, previous, readings):
                    return max(1, self.limit // readings["parameters"])
    """

    kind: ClassVar[str] = "batch_size"

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return what the answer depends on, as numbers by name; by default nothing. Optional.

        Args:
            context: the search, which cannot be modified. What takes time is measured through `context.remember` or
                `context.loss`. The present batch size is being decided, so `context.batch` needs a size before the first phase.
        """
        return {}

    @abstractmethod
    def decide(self, previous: int | None, readings: Mapping[str, float]) -> int:
        """Return the number of examples in a batch, of training and of validation. It follows from the arguments alone.

        A number that is larger than the training split gives one batch for each epoch.

        Args:
            previous: the last answer; None before the first phase.
            readings: what `measure` returned.
        """
