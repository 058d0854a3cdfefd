"""What a search is for: a task, and its data once they are loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs
import torch
import torchmetrics
from torch import Tensor, nn

from nasframe.part import Part


@attrs.frozen(eq=False)
class Split:
    """A part of the data: how many examples, and the batch (inputs, targets) at given positions."""

    size: int
    batch: Callable[[Tensor], tuple[Tensor, Tensor]]


@attrs.frozen(eq=False)
class Data:
    """A task's data, loaded.

    Args:
        sizes: what a backbone must know to take the inputs and to give the outputs.
        test: is read once, when all is decided.
        loss: the mean loss of a batch from (outputs of the network, targets).
        predict: from the network's outputs to what the metrics compare with the targets.
        metrics: new metrics, for the test.
        references: for a number of parameters, what to compare a found network with: a module by name. Those with
            parameters that require a gradient are trained as the found network is.
    """

    sizes: Mapping[str, int]
    train: Split
    validation: Split
    test: Split
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    metrics: Callable[[], torchmetrics.MetricCollection]
    references: Callable[[int], Mapping[str, Callable[[], nn.Module]]]


class Task(Part):
    """A description from which data are loaded."""

    kind: ClassVar[str] = "task"

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """The data. What cannot be used is refused with a DataError that says where and why."""
