"""The records of a run.

An event that a search yields, a row of its history and a line of its journal are the same frozen object. Its fields hold
JSON values only, so that a record is written as `to_json(record)` and read as `from_json(text)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe.errors import CheckpointError


# Converters make the fields of a record JSON values when it is made, so that a record and the one that is read back from
# its line are equal.
def finite(value: float | None) -> float | None:
    """Return the value, or None where it is not a finite number: JSON has neither NaN nor Infinity."""
    # `float`, so that numbers of numpy and torch become those of Python, which JSON writes.
    return None if value is None or not math.isfinite(value) else float(value)


def _finite_values(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in values.items()}


def _finite_sites(mixing: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    return {address: weights for address, weights in mixing.items() if all(map(math.isfinite, weights.values()))}


# Keyword-only, so that required fields may follow those with a default, as in `Changed`.
@attrs.frozen(kw_only=True)
class Record:
    """The position in a run at which something happened.

    Attributes:
        kind: the name of the class in JSON.
        journal: the journal that keeps records of this kind: "history" (which criteria read), "lineage" (the changes of
            the structure), "trials" or "evaluations"; None where a record is an event only.
        stage: the number of growths before it.
        phase: the phase of the stage (see `nasframe.search.loop`).
        epoch: the epoch of the phase, from 0.
        updates: the number of updates of the weights before it, in the whole run.
    """

    kind: ClassVar[str]
    journal: ClassVar[str | None] = None

    stage: int
    phase: str
    epoch: int
    updates: int


@attrs.frozen(kw_only=True)
class Stepped(Record):
    """One update of the weights; `samples` of the epoch's `size` examples have been used."""

    # Without a journal: there are many more steps than epochs, and nothing that is decided reads them.
    kind: ClassVar[str] = "step"

    samples: int
    size: int
    loss: float | None = attrs.field(converter=finite)


@attrs.frozen(kw_only=True)
class Measured(Record):
    """A value that was measured for a decision and is stored in the state of the run.

    Attributes:
        by: what it was measured for: "pruner", "criterion", the place of a morphism, or the "gains" of all proposals.
        key: the name of the value.
        value: the number; None for a tensor, or if it is not finite; of several values that were measured together, their number.
    """

    # Without a journal: the value is in the state, and becomes evidence of the change that it decides.
    kind: ClassVar[str] = "measured"

    by: str
    key: str
    value: float | None = attrs.field(converter=finite)


@attrs.frozen(kw_only=True)
class EpochEnded(Record):
    """The end of an epoch, after validation.

    Attributes:
        train: the mean training loss per example, None if the training diverged.
        valid: the validation loss, None if there is no validation split or the network diverged.
        diverged: whether a loss was not finite; the phase then ends and the best network so far is restored.
        scores: the task's metrics on the validation split.
        moves_alphas: whether the phase trains the alphas, and not the weights alone.
        batch: the number of examples in a batch.
        batch_readings: what the rule for the batch size measured before it decided on this one, by name.
        nodes: the number of nodes by cell type.
        parameters: the number of parameters of the network.
        mixing: the mixing weights of each undecided site whose alphas have not diverged, by the id and the short name of the candidate.
        readings: what the criterion measured, by name.
        decision, reason: what ended the phase: "end" or "stop", and why; None while the phase continues.
    """

    kind: ClassVar[str] = "epoch"
    journal: ClassVar[str | None] = "history"

    train: float | None = attrs.field(converter=finite)
    valid: float | None = attrs.field(default=None, converter=finite)
    diverged: bool = False
    scores: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    # what says whether a phase searches: nothing depends on its name
    moves_alphas: bool = False
    batch: int = 0
    batch_readings: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    nodes: Mapping[str, int] = attrs.field(factory=dict)
    parameters: int = 0
    mixing: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict, converter=_finite_sites)
    readings: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    decision: str | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class StageEnded(Record):
    """The end of a stage, at which the criterion decides between growing and stopping.

    Attributes:
        valid: the least validation loss of the stage; None if all of its networks diverged.
        decision, reason: "continue", where the network grows, or "stop", and why.
        readings: what the criterion measured, by name.
    """

    kind: ClassVar[str] = "stage"
    journal: ClassVar[str | None] = "history"

    valid: float | None = attrs.field(converter=finite)
    nodes: Mapping[str, int] = attrs.field(factory=dict)
    parameters: int = 0
    readings: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    decision: str | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class Refused(Record):
    """A growth that a change of the plan was to make and that was impossible. The network is as it would be without the growth.

    Attributes:
        by: the names of the morphisms.
        why: the reasons.
    """

    kind: ClassVar[str] = "refused"
    journal: ClassVar[str | None] = "history"

    by: str
    why: str


@attrs.frozen(kw_only=True)
class Started(Record):
    """The first record of a lineage, with the structure from which all others follow."""

    kind: ClassVar[str] = "start"
    journal: ClassVar[str | None] = "lineage"

    structure: Mapping[str, Any]


@attrs.frozen
class Alternative:
    """A candidate that a pruning might have kept: its mixing weight was close to that of the kept one, or the pruning did harm.

    Attributes:
        site: the address of the site.
        kept, removed: the ids and short names of the two candidates.
        margin: the difference of their mixing weights.
        valid: the validation loss if `removed` had been kept in the place of `kept`, before any tuning.
    """

    site: str
    kept: str
    removed: str
    margin: float
    valid: float | None = attrs.field(default=None, converter=finite)


# JSON has lists only. These converters make tuples of them, so that a record that is read equals the one that was written.
def _alternatives(values: Any) -> tuple[Alternative, ...]:
    return tuple(value if isinstance(value, Alternative) else Alternative(**value) for value in values)


def _picks(values: Any) -> tuple[int, ...]:
    return tuple(values)


def _key(values: Any) -> tuple[int | str, ...]:
    return tuple(values)


#: the changes (`Changed.change`) that let a site grow or lose candidates, and not a return to another network
MADE = ("grow", "remove", "edit")


@attrs.frozen(kw_only=True)
class Changed(Record):
    """A change of the structure.

    Attributes:
        change: what was done: "grow", "remove", "edit" (candidates removed and proposals carried out in one change), "fold"
            (gates into their nodes), "restore" (the best network so far), "restart" (the same structure with fresh weights),
            "trial" (the network of the best trial) or "hand over" (the best network of the run).
        by: the name of the part that decided it, such as a pruner or a morphism; of several, separated by commas.
        why: the reason.
        request: what the part was asked to do, from which the change can be repeated.
        claim: how far the change preserves the function.
        distance: the largest difference of the outputs before and after, relative to their scale.
        evidence: the digests of the tensors that the change was decided by, by name.
        added: the candidates that are new, by address and id: their operation and their mixing weight.
        removed: the candidates that are gone, by address and id: their operation.
        valid_before, valid_after: the validation loss before and after a change that removes candidates.
        predicted: the gain of a growth, predicted and measured on the same training batch: how much smaller the loss is after the growth
            and one step of gradient descent than after that step alone (`nasframe.search.gain.gain_of`). Candidates that the
            same change removes are missing in both. None for changes that add nothing.
        realised: the same difference, measured by taking both steps.
        alternatives: the close decisions of a removal.
        parent, child: the digests of the structures.
        seed: the key of the change's seed.
        nodes, parameters, counts: the sizes of the child.
    """

    kind: ClassVar[str] = "change"
    journal: ClassVar[str | None] = "lineage"

    change: str
    by: str
    why: str
    request: Mapping[str, Any] = attrs.field(factory=dict)
    claim: Mapping[str, Any] | None = None
    distance: float | None = attrs.field(default=None, converter=finite)
    evidence: Mapping[str, str] = attrs.field(factory=dict)
    added: Mapping[str, Mapping[str, Mapping[str, Any]]] = attrs.field(factory=dict)
    removed: Mapping[str, Mapping[str, Mapping[str, Any]]] = attrs.field(factory=dict)
    valid_before: float | None = attrs.field(default=None, converter=finite)
    valid_after: float | None = attrs.field(default=None, converter=finite)
    predicted: float | None = attrs.field(default=None, converter=finite)
    realised: float | None = attrs.field(default=None, converter=finite)
    alternatives: tuple[Alternative, ...] = attrs.field(default=(), converter=_alternatives)
    parent: str
    child: str
    seed: tuple[int | str, ...] = attrs.field(default=(), converter=_key)
    nodes: Mapping[str, int] = attrs.field(factory=dict)
    parameters: int = 0
    counts: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Finished(Record):
    """The end of a search: its network is an architecture.

    Attributes:
        valid: the validation loss of that network, None if there is no validation split or it diverged.
        diverged: whether the training of the pruned network diverged.
    """

    kind: ClassVar[str] = "finished"

    valid: float | None = attrs.field(converter=finite)
    diverged: bool = False


@attrs.frozen(kw_only=True)
class TrialArrived(Record):
    """A result of a trial that is in the state of the run, and that the architect has not received yet.

    Attributes:
        number: the number of the trial, from 0.
    """

    # Without a journal: journals must not depend on the order in which results arrive.
    kind: ClassVar[str] = "arrival"

    number: int


@attrs.frozen(kw_only=True)
class TrialEnded(Record):
    """A trial of an ask/tell search whose result the architect has received.

    Attributes:
        number: the number of the trial, from 0.
        picks: the architecture, one number for each decision of the space (see `nasframe.Space`).
        budget: the budget that was requested. Only trials of equal budget are compared.
        parent: the number of the trial from whose weights this one started; None for fresh weights.
        trained: the number of updates of its weights.
        valid: its validation loss, None if the training diverged.
        scores: the task's metrics on the validation split.
        best: whether it is the best trial so far of those with the largest budget.
        readings: the "seconds" of the run, if the criterion read them to decide whether another trial begins.
        cut: whether the criterion ended the trials with this one, although the architect would have requested another.
    """

    kind: ClassVar[str] = "trial"
    journal: ClassVar[str | None] = "trials"

    number: int
    picks: tuple[int, ...] = attrs.field(converter=_picks)
    budget: int
    parent: int | None = None
    trained: int = 0
    valid: float | None = attrs.field(default=None, converter=finite)
    scores: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    best: bool = False
    readings: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    cut: bool = False


@attrs.frozen(kw_only=True)
class Evaluated(Record):
    """A network that was trained from scratch, or a baseline, for the comparison at the end of a run.

    Attributes:
        number: the position in the list of evaluations, from 0.
        name: the row of the comparison that it belongs to.
        structure: its structure; None for a baseline of the task.
        parameters, flops: the cost of one prediction.
        trained: the number of updates of its weights.
        valid: its least validation loss, None if it diverged.
        scores: the task's metrics on the test split.
        diverged: whether its training diverged before it had a finite validation loss.
        best: whether it is the best network of the space so far.
    """

    kind: ClassVar[str] = "evaluation"
    journal: ClassVar[str | None] = "evaluations"

    number: int
    name: str
    structure: Mapping[str, Any] | None = None
    parameters: int = 0
    flops: int = 0
    trained: int = 0
    valid: float | None = attrs.field(default=None, converter=finite)
    scores: Mapping[str, float | None] = attrs.field(factory=dict, converter=_finite_values)
    diverged: bool = False
    best: bool = False


#: the classes by their name in JSON
KINDS: dict[str, type[Record]] = {
    cls.kind: cls
    for cls in (
        *(Stepped, Measured, EpochEnded, StageEnded, Refused, Started, Changed),
        *(Finished, TrialArrived, TrialEnded, Evaluated),
    )
}
#: the names of the journals
JOURNALS = ("history", "lineage", "trials", "evaluations")


def to_json(record: Record) -> str:
    """Return the record as one line of JSON."""
    # `request`, `claim` and `added` have no converters: a number in them that is not finite is an error here, not in a reader.
    return json.dumps({"kind": record.kind, **attrs.asdict(record)}, allow_nan=False)


def from_json(text: str) -> Record:
    """Return the record that `to_json` wrote.

    Raises:
        CheckpointError: if the text is not a record of this version.
    """
    try:
        values = json.loads(text)
        return KINDS[values.pop("kind")](**values)
    # JSON that is no object, an unknown kind, a field too many or too few, or brackets that are nested too deeply.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{text[:80]!r} is not a record of a run ({type(error).__name__}: {error})") from error
