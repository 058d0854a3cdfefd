"""The interface of tasks, and the data that they load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe.interfaces.part import Part
from nasframe.network.model import Model, Scale, Signature
from nasframe.network.outputs import AuxiliaryOutputs, Outputs

if TYPE_CHECKING:  # importing torchmetrics takes longer than importing torch
    import torchmetrics


@attrs.frozen(eq=False)
class Split:
    """A split of the data: for training, validation or test.

    Attributes:
        size: the number of examples.
        batch: a function from a tensor of positions, of shape (batch,), to the batch (inputs, targets).
        draw: the same for a batch to train on, which may be augmented with random numbers from torch's global generator. By default
            the same as `batch`.
    """

    size: int
    batch: Callable[[Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[Tensor], tuple[Tensor, Tensor]] = attrs.Factory(lambda self: self.batch, takes_self=True)

    def batches(self, order: Tensor | None = None, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an iterator over the batches (inputs, targets).

        Args:
            order: the positions of the examples, of shape (examples,); by default all, in order.
            size: the size of a batch. The last batch may be smaller.
        """
        order = torch.arange(self.size) if order is None else order
        # `batch` and not `draw`: what is measured is never augmented
        return (self.batch(index) for index in order.split(size))


@attrs.frozen(eq=False)
class Data:
    """The data of a task, loaded, with its loss and metrics.

    Attributes:
        sizes: the sizes by which backbones build a network for the inputs and outputs, for example `inputs` and `outputs`.
        train: the training split.
        validation: the validation split, on which all decisions are made. It may be empty if no decision is needed, as in a
            retraining with a fixed number of epochs.
        test: the test split. Each network is evaluated on it once, after its training, and no decision reads the result.
        loss: a function from (outputs of the network, targets) to the mean loss of the batch. The first axis of targets is the batch.
        predict: a function from outputs of the network to the predictions that metrics compare with the targets.
        metrics: a function that returns new metrics.
        score: the name of the metric by which networks are compared.
        references: a function from a number of parameters to the baselines with about that size: by name, a function that builds
            the module. A baseline with parameters that require a gradient is trained like the network that is found.
        inputs: scales raw inputs to inputs of the network; None if the network has raw inputs.
        outputs: scales outputs of the network back to raw values; None if they have no units.
        losses: a function from (outputs of the network, targets) to the loss of each example, of shape (batch,), whose mean is
            `loss`. Parts that measure single examples need it; None if the task does not give it.
        signature: the shape of the raw inputs, by which a found model checks its calls.
        warnings: what a user should know about the data before training, one sentence each.
        pictures: by the name of its file, a function from (model, path) that draws what the model predicts on the test split. They are
            drawn of the network that is handed over, when no decision is left to make. A run goes on without one that cannot be drawn.
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
    losses: Callable[[Tensor, Tensor], Tensor] | None = None
    signature: Signature | None = None
    warnings: tuple[str, ...] = ()
    pictures: Mapping[str, Callable[[Model, Path], None]] = attrs.field(factory=dict)

    def objective(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the training loss: the loss, plus that of an auxiliary head times its weight (Szegedy et al. 2015)."""
        if isinstance(outputs, AuxiliaryOutputs):
            return self.loss(outputs.outputs, targets) + outputs.weight * self.loss(outputs.auxiliary, targets)
        return self.loss(outputs, targets)

    def mean_loss(self, outputs: Callable[[Tensor], Tensor], split: Split, *metrics: torchmetrics.MetricCollection) -> float:
        """Return the mean loss per example over a split, and update metrics.

        Args:
            outputs: a function from the inputs of a batch to the outputs of the network.
            split: the split.
            *metrics: metrics to update with the predictions and the targets.
        """
        total = 0.0
        with torch.no_grad():
            for inputs, targets in split.batches():
                found = outputs(inputs)
                # The loss is a mean over a batch, and the last batch may be smaller: weighted by their sizes, the means
                # give that of the split.
                total += float(self.loss(found, targets)) * len(targets)
                for metric in metrics:
                    # a new metric is on the CPU, and some metrics require contiguous tensors
                    metric.to(found.device).update(self.predict(found).contiguous(), targets.contiguous())
        return total / split.size

    def measure(self, outputs: Callable[[Tensor], Tensor], split: Split) -> tuple[float, dict[str, float]]:
        """Return the mean loss and all metrics over a split, for `outputs` as in `mean_loss`."""
        metrics = self.metrics()
        loss = self.mean_loss(outputs, split, metrics)
        return loss, {name: float(value) for name, value in metrics.compute().items()}


class Task(Part):
    """Base class of tasks: descriptions from which data are loaded.

    Required: `name` and `load`. Optional: `pinned`, so that a run can be resumed from any folder.
    """

    kind: ClassVar[str] = "task"

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return the splits, the loss and the metrics of the task, as tensors of this device and dtype.

        Args:
            device: the device of all tensors.
            dtype: the dtype of all floating-point tensors.

        Raises:
            DataError: if the data cannot be used; the message says where and why.
        """

    def pinned(self) -> Task:
        """Return the same task bound to the data that it would load now. Optional.

        It loads the same data from any working directory (paths are absolute), and refuses data that have changed since (by a digest).
        """
        return self
