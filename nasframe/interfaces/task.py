"""What a search is for: a task, and its data once they are loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe.interfaces.part import Part
from nasframe.network.model import Scale, Signature
from nasframe.network.outputs import AuxiliaryOutputs, Outputs

if TYPE_CHECKING:  # it takes longer to import than torch, and is needed when all is over
    import torchmetrics


@attrs.frozen(eq=False)
class Split:
    """A part of the data: how many examples, and the batch (inputs, targets) at given positions.

    Args:
        draw: a batch to train on: by default the same; or what an augmentation makes of it, drawn from torch's global
            generator.
    """

    size: int
    batch: Callable[[Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[Tensor], tuple[Tensor, Tensor]] = attrs.Factory(lambda self: self.batch, takes_self=True)

    def batches(self, order: Tensor | None = None, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples in that order (by default their own), in batches of that size."""
        order = torch.arange(self.size) if order is None else order
        return (self.batch(index) for index in order.split(size))


@attrs.frozen(eq=False)
class Data:
    """A task's data, loaded.

    Args:
        sizes: what a backbone must know to take the inputs and to give the outputs.
        validation: decisions read it. Of size 0 where there are none: a network that is trained for so many epochs.
        test: is read once, when all is decided.
        loss: the mean loss of a batch from (outputs of the network, targets); targets have the examples as first axis.
        predict: from the network's outputs to what the metrics compare with the targets.
        metrics: new metrics, for the test.
        score: the one of them that networks are compared by.
        references: for a number of parameters, what to compare a found network with: a module by name. Those with
            parameters that require a gradient are trained as the found network is.
        inputs: scales raw inputs to those of the network; None where the network takes them as they are.
        outputs: scales the network's outputs back to raw values; None where they have no units.
        signature: the shape of the raw inputs, with which a found model checks its calls.
        warnings: what a user should know of the data before training, a sentence each.
    """

    sizes: Mapping[str, int]
    train: Split
    validation: Split
    test: Split
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    metrics: Callable[[], torchmetrics.MetricCollection]
    score: str
    references: Callable[[int], Mapping[str, Callable[[], nn.Module]]]
    inputs: Scale | None = None
    outputs: Scale | None = None
    signature: Signature | None = None
    warnings: tuple[str, ...] = ()

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """What training descends: the loss, and that of an auxiliary head by its weight (Szegedy et al. 2015)."""
        if isinstance(outputs, AuxiliaryOutputs):
            return self.loss(outputs.outputs, targets) + outputs.weight * self.loss(outputs.auxiliary, targets)
        return self.loss(outputs, targets)

    def mean_loss(self, outputs: Callable[[Tensor], Tensor], split: Split, *metrics: torchmetrics.MetricCollection) -> float:
        """The mean loss over a split of what `outputs` makes of the inputs; the metrics are updated by it, too."""
        total = 0.0
        with torch.no_grad():
            for inputs, targets in split.batches():
                found = outputs(inputs)
                total += float(self.loss(found, targets)) * len(targets)
                for metric in metrics:
                    metric.update(self.predict(found).contiguous(), targets.contiguous())  # some ask for a view
        return total / split.size

    def measure(self, outputs: Callable[[Tensor], Tensor], split: Split) -> tuple[float, dict[str, float]]:
        """The mean loss and the metrics over a split of what `outputs` makes of the inputs."""
        metrics = self.metrics()
        loss = self.mean_loss(outputs, split, metrics)
        return loss, {name: float(value) for name, value in metrics.compute().items()}


class Task(Part):
    """A description from which data are loaded."""

    kind: ClassVar[str] = "task"

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """The data. What cannot be used is refused with a DataError that says where and why."""

    def pinned(self) -> Task:
        """MAY: the same task tied to what it would load now: found from any folder, and refused once it has changed."""
        return self
