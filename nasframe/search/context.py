"""What morphisms, pruners and criteria measure on: the read-only view of a running search."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe.errors import DataError, StrategyError
from nasframe.interfaces.architect import Bilevel
from nasframe.interfaces.relaxation import Relaxation
from nasframe.interfaces.task import Split
from nasframe.network.network import Network, set_progress
from nasframe.network.outputs import AuxiliaryOutputs
from nasframe.records import MADE, Changed, Record, Started
from nasframe.search.bilevel import Forward, problem
from nasframe.search.trainer import Trainer, Training, keyed_batch, mixing_weights
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.structure import Structure

#: what `Context.batch` may read; the test split is not among them
SPLITS = ("train", "validation")


class Missing(BaseException):  # not an error: `except Exception` in a part must not swallow it
    """Raised by `Context.remember` for a value that has not been measured yet: the search measures it and calls the part again.

    Args:
        key: the key of the value.
        make: measures the value, or several values by name, which are stored as "key/name".
    """

    def __init__(self, key: str, make: Callable[[], float | Tensor | Mapping[str, float | Tensor]]) -> None:
        super().__init__(key)
        self.key, self.make = key, make


@attrs.frozen(eq=False, kw_only=True)
class Context:
    """The read-only view of a running search on which parts measure before they decide.

    Everything is computed when it is first used, so that a part which measures nothing costs nothing. Measuring changes neither
    the search nor a global generator, and the test split cannot be reached.

    Attributes:
        history: the records of epochs, stages and refused growths so far.
        lineage: the record of the first structure and those of all changes so far.
        position: where the search is: its stage, phase, epoch and number of updates.
        progress: the completed fraction of the phase, from 0 to 1; None if the phase has no fixed length.
        seed: the seed of all random draws of the measurement. It differs between parts and between positions.
        clock: a function that returns the seconds that the run has taken so far, over all processes. Another run returns other
            numbers, so what is decided by them is stored.
        currency: what the search compares proposals by (`Strategy.currency`).
        evidence: the remembered values that the part has used so far, by key.

    Example:
        A pruner that scores candidates by the validation loss without them::

            def scores(self, context):
                found = {}
                for address, weights in context.mixing.items():
                    without = [weights.index_fill(0, torch.tensor(i), 0.0) for i in range(len(weights))]
                    found[address] = torch.tensor(
                        [context.loss(f"{address} without {i}", {address: w}) for i, w in enumerate(without)]
                    )
                return found
    """

    history: Sequence[Record]
    lineage: Sequence[Started | Changed]
    position: Record
    progress: float | None
    seed: Seed
    clock: Callable[[], float]
    currency: str = "stated"
    evidence: dict[str, Tensor] = attrs.field(factory=dict, init=False)
    # what was asked for under each key of `loss`: by split, the mixing weights
    _losses: dict[str, dict[str, dict[str, Tensor]]] = attrs.field(factory=dict, init=False, repr=False)
    _trainer: Trainer = attrs.field(repr=False)
    _training: Training[Network] = attrs.field(repr=False)
    _measured: Mapping[str, Tensor] = attrs.field(repr=False)

    @property
    def structure(self) -> Structure:
        """Return the structure of the network."""
        return self._training.network.structure

    @property
    def relaxation(self) -> Relaxation | None:
        """Return the relaxation of the network, which turns its alphas into mixing weights."""
        return self._training.network.relaxation

    @cached_property
    def mixing(self) -> Mapping[str, Tensor]:
        """Return a copy of the mixing weights of each undecided site, of shape (candidates,), by address."""
        # Copies, so that a part that modifies them changes nothing of the search.
        present = mixing_weights(self._training.network)
        return {address: weights.clone() for address, weights in present.items()}

    @cached_property
    def ranking(self) -> Mapping[str, Tensor]:
        """Return what the relaxation compares candidates by, of shape (candidates,), by the address of each undecided site."""
        return {address: values.clone() for address, values in self._training.network.ranking().items()}

    @cached_property
    def network(self) -> Network:
        """Return a private copy of the network in the readable form and in evaluation mode.

        It may be hooked, trained or broken. Each time that the search calls the part it gets a new copy, so whatever is learned
        from a modified copy must be remembered (`remember`).
        """
        # The readable form, because a fast form calls no modules and would leave hooks without effect.
        private = copy.deepcopy(self._training.network)
        private.fast = False
        # The progress is set in each step and not stored: after an interruption, the modules have that of their construction.
        set_progress(private, self._trainer.optimiser.progress(self._training.epoch))
        return private.eval()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Network]:
        """Yield the network of the search in evaluation mode, for measurements that only read it and need no copy."""
        network = self._training.network
        if not network.training:  # as after each validation
            yield network
            return
        try:
            yield network.eval()
        finally:
            network.train()

    @property
    def fast(self) -> bool:
        """Return whether the search computes networks in the fast form of their backbone; `network` is in the readable form."""
        return self._training.network.fast

    def tried(self, address: Address) -> list[Mapping[str, Any]]:
        """Return the operations that a site has or has had, as `to_plain` writes them, the first ones first.

        It reads the lineage alone, so a part that must not try an operation twice needs no memory.

        Args:
            address: the address of the site.
        """
        first = next(record for record in self.lineage if isinstance(record, Started))
        sites = first.structure["cells"].get(address.cell, {"sites": []})["sites"]
        found = {str(c["id"]): c for site in sites if site["id"] == address.id for c in site["candidates"]}
        for record in self.lineage:
            if isinstance(record, Changed):
                # by id: a return to an earlier network adds candidates again
                found |= {id: added["operation"] for id, added in record.added.get(address, {}).items()}
        return [{key: value for key, value in operation.items() if key != "id"} for operation in found.values()]

    def removed(self, address: Address) -> list[Mapping[str, Any]]:
        """Return the operations of candidates that changes removed from a site, as `to_plain` writes them, the first ones first.

        A morphism that adds no operation which was removed before does not alternate with a pruner. A return to an earlier network
        removes nothing in this sense, because it says nothing about the operations.

        Args:
            address: the address of the site.
        """
        made = [record for record in self.lineage if isinstance(record, Changed) and record.change in MADE]
        return [entry["operation"] for record in made for entry in record.removed.get(address, {}).values()]

    def batch(self, split: str = "validation", number: int = 0, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return a batch (inputs, targets) of a split, without augmentation.

        Batches 0, 1, 2, ... go through the split in a random order, which `seed` determines. If fewer than `size` examples are
        left in an order, the next batch begins a new one.

        Args:
            split: "train" or "validation".
            number: the number of the batch, from 0.
            size: the number of examples; by default the batch size of the search. A small split gives smaller batches.

        Raises:
            StrategyError: if there is no such split, or the search has no batch size yet.
        """
        examples = self._split(split)
        if not (size or self._training.batch):
            raise StrategyError("a part asked for a batch before the search has decided how large batches are: give a `size`")
        return keyed_batch(examples, self.seed("batch", split), number, size or self._training.batch)

    def loss(self, key: str, mixing: Mapping[str, Tensor] | None = None, split: str = "validation") -> float:
        """Return the mean loss of the search's network over a whole split, in evaluation mode; it is remembered.

        Args:
            key: the key under which the loss is remembered (see `remember`). Each loss needs its own.
            mixing: by address, the mixing weights that differ from the present ones.
            split: "train" or "validation".

        Raises:
            StrategyError: if there is no such split, or the key was used for another loss.
        """
        examples = self._split(split)
        # Copies, because a part may write the next mixing weights into the same tensors.
        given = {split: {address: weights.detach().clone() for address, weights in {**self.mixing, **(mixing or {})}.items()}}
        first = self._losses.setdefault(key, given)
        same = first.keys() == given.keys() and all(_equal(w, first[split][a]) for a, w in given[split].items())
        if not same:
            raise StrategyError(
                f"a part asked for the loss {key!r} twice, with different mixing weights or splits. The second time it would get the "
                "first value, which is remembered under that key: give each loss its own key, such as f'{address} without {i}'"
            )
        found: float = self.remember(key, lambda: self._mean_loss(given[split], examples))
        return found

    def losses(self, split: str = "validation", number: int = 0, size: int | None = None) -> Tensor:
        """Return the loss of each example of a batch, of shape (batch,), as a differentiable function of `network`'s weights.

        Args:
            split: "train" or "validation".
            number: the number of the batch, as for `batch`.
            size: the number of examples.

        Raises:
            DataError: if the task does not give the losses of single examples.
        """
        losses = self._trainer.data.losses
        if losses is None:
            raise DataError("the task gives no loss of single examples; add `losses` to the `Data` that it loads")
        inputs, targets = self.batch(split, number, size)
        found = self.network(inputs, self.mixing)
        # in training mode, into which a part may put the private copy, an auxiliary head has outputs as well
        return losses(found.outputs if isinstance(found, AuxiliaryOutputs) else found, targets)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the weights at the beginning of a phase."""
        return self._trainer.optimiser.learning_rate

    def training_loss(self, network: Network, number: int = 0, forward: Forward | None = None) -> Tensor:
        """Return the loss of a network on a training batch, without augmentation, as a differentiable function of its weights.

        Args:
            network: `network`, or another one, such as the child of a change of it.
            number: the number of the batch, as for `batch`.
            forward: computes the outputs of the network from inputs and mixing weights, by default the network itself.
        """
        batch, noise = self.batch("train", number), self.seed("noise", "train", number)
        return self._trainer.loss(batch, noise, forward or network, network.mixing())

    def problem(self, number: int = 0) -> Bilevel:
        """Return the bilevel problem on the tensors of `network` and on the training and validation batch of a number.

        Its losses are functions of the weights and the alphas, of which autograd computes gradients and Hessian products of any
        kind. They are those of a step of the search after `network.train()`, and without dropout and batch statistics before.

        Args:
            number: the number of the batches, as for `batch`.
        """

        def on(split: str) -> Any:
            return partial(self._trainer.loss, self.batch(split, number), self.seed("noise", split, number))

        trainer = self._trainer
        return problem(self.network, trainer.optimiser, self._descent, on("train"), on("validation"))

    def remember(self, key: str, make: Callable[[], float | Tensor]) -> Any:
        """Return a measured value; the search stores it, so that it is not measured again after an interruption.

        A value that has not been measured yet ends the call of the part here: the search calls `make`, stores the value in its
        state, yields a `Measured` record, and calls the part again. So a part must ask for the same values in each call. All
        values that it has used become evidence in the record of the change.

        Args:
            key: the name of the value, unique among the values of this decision of this part.
            make: a function that returns a number or a tensor. Random draws from torch's global generator are seeded.

        Returns:
            A number or a tensor without axes as float, another tensor as a copy on the CPU.
        """
        return self._remembered(key, make)

    def remember_all(self, key: str, make: Callable[[], Mapping[str, float | Tensor]]) -> Mapping[str, Any]:
        """Return what one measurement finds together, by name: as `remember`, for several values that one pass of a network yields.

        In the evidence they are named "key/name", and "key" itself is their number.

        Args:
            key: the name of the measurement, unique among the values of this decision of this part.
            make: a function that returns numbers or tensors by name.
        """
        number = self._remembered(key, make)
        # sorted, because a state that was saved and loaded may have another order
        names = sorted(name for name in self._measured if name.startswith(f"{key}/"))
        if isinstance(number, Tensor) or number != len(names):
            raise StrategyError(
                f"a part measures several values under the key {key!r}, and remembers another value as {key!r} or as '{key}/...'; use "
                "a different key for each measurement"
            )
        return {name.removeprefix(f"{key}/"): self._remembered(name, make) for name in names}

    def _remembered(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._measured:
            raise Missing(key, make)
        # in the order of their use, by which `asked` compares the calls of a part
        value = self.evidence[key] = self._measured[key]
        return value.clone() if value.dim() else float(value)

    def _split(self, split: str) -> Split:
        if split not in SPLITS:
            raise StrategyError(f"a part asked for the split {split!r}; it can measure on {' and '.join(map(repr, SPLITS))}")
        examples: Split = getattr(self._trainer.data, split)
        if not examples.size:
            raise StrategyError(f"a part measures on the {split} split, which has no examples: let the task hold some out")
        return examples

    def _mean_loss(self, mixing: Mapping[str, Tensor], examples: Split) -> float:
        # The network of the search and not the private copy, which the part may have modified: its fast form makes this the
        # cheapest measurement. Evaluation mode changes nothing but the mode.
        with self.evaluating() as network:

            def outputs(inputs: Tensor) -> Tensor:
                found = network(inputs, mixing)
                assert isinstance(found, Tensor)  # in evaluation mode an auxiliary head is silent
                return found

            return self._trainer.data.mean_loss(outputs, examples)

    @cached_property
    def _descent(self) -> Optimizer:
        """Return a copy of the optimiser of the weights, with its moments, that belongs to the private copy."""
        private = dict(self.network.named_parameters())
        # `deepcopy` takes objects that are in the memo as copied: the parameters of the optimiser become those of the
        # private network, and only its state is copied.
        copies: dict[int, Any] = {id(p): private[n] for n, p in self._training.network.named_parameters() if n in private}
        descent = copy.deepcopy(self._training.optimisers["weights"], copies)
        # The learning rate is set in each step and not stored: after an interruption the optimiser has that of the beginning.
        self._trainer.optimiser.anneal(descent, self._training.epoch)
        return descent


def stored(value: float | Tensor) -> Tensor:
    """Return a measured value as a tensor on the CPU, a number in float64, so that it is the same after it was saved and loaded."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return torch.tensor(value, dtype=torch.float64)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers; unlike in torch.equal, NaN, as 0 / 0 gives it, equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
