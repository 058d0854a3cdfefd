"""The plan by which the fast form computes a recurrent cell. It follows from the structure of the cell alone.

The states of a cell are numbered: state 0 is h_{t-1}, state j is the j-th node. Every operation describes itself as a pointwise
function of linear terms (`nasframe.Pointwise`), and mixed operations and gates are weighted sums. So a node is a sum of
contributions,

    s_j = sum_k M[j, k] y_k,      y_k = f_k(a_k, s_i),      a_k = W_x x + W s_i + b,

each of which is computed from one earlier state, i < j. M[j, k] is the mixing weight of a candidate, times g of the gate of its
node. A candidate that is a weighted sum of operations (`Operation.summands`) makes one contribution for each of them, whose weight
is multiplied by that in the sum. A state that is inherited is a contribution as well: it has no terms, y_k = s_i, and its weight is
(1 - g) / (number of inherited states). Where x is inherited, y_k = a_k with W_x = 1.

One call for each contribution would be many small calls. Therefore all that is computed from one state is laid out together
(`Step`):

    slots: the terms a_k of all contributions, one below the other, n_h rows each, so that one product W s_i computes them;
    rows:  the contributions y_k, one below the other, so that one product M y adds them to all nodes;
    calls: contributions that have the same function lie side by side, so that one call of the function computes them.

Contributions without terms that have the same function, such as the identity on several edges from one state, share a row.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from nasframe import Candidate, Cell, Operation, Pointwise
from nasframe.network.pointwise import Term
from nasframe_recurrent.edges import IDENTITY_DESCRIPTION


class NoPlanError(Exception):
    """The reason why a cell has no fast form."""


@attrs.frozen
class Slot:
    """A term of a candidate or of an inherited input: n_h rows of the stacked terms.

    Args:
        site: the id of the site; None for the input x that a node inherits, whose map is the identity.
        module: the path of the operation's module among the candidates of the site: the id of a candidate, and of a summand what follows
            it, as in "3.operations.0".
        x: the maps of x, each by the name of its parameter and the input that it is applied to ("x", or "xh", which is [x, h]).
        state: the maps of the state that the step computes from, in the same notation.
        bias: the name of the bias, or None.
    """

    site: str | None
    module: str
    x: tuple[tuple[str, str], ...]
    state: tuple[tuple[str, str], ...]
    bias: str | None


#: the input x, as a node inherits it
X = Slot(None, "", (("", "x"),), (), None)
X_DESCRIPTION = Pointwise((Term((None,)),), lambda a, h: a, lambda a, h: (a, 1.0, 0.0))


@attrs.frozen
class Contribution:
    """What one candidate, or a summand of it, or one inherited state, adds to a node.

    Args:
        state: the number of the state that it is computed from.
        node: the number of the node that it is added to.
        description: the terms and the function.
        slots: the terms, in the order of the arguments of the function.
        weight: the index of its weight: the weights of all summands of all candidates, in order, then 1 / n for each inherited state
            of n.
        gate: the index of the factor of its gate in 1, g_1, g_2, ..., 1 - g_1, 1 - g_2, ...
    """

    state: int
    node: int
    description: Pointwise
    slots: tuple[Slot, ...]
    weight: int
    gate: int

    @property
    def kind(self) -> tuple[Callable[..., Tensor], tuple[bool, ...]]:
        """Return what one call has in common: the function, and which of its terms depend on the state."""
        return self.description.function, tuple(bool(slot.state) for slot in self.slots)


@attrs.frozen
class Call:
    """Contributions of one kind from one state, which one call of their function computes.

    Args:
        description: the terms and the function.
        terms: for each argument but the last, the slots that it consists of.
        rows: the rows of y that are computed.
    """

    description: Pointwise
    terms: tuple[slice, ...]
    rows: slice

    @property
    def count(self) -> int:
        """Return the number of rows that the call computes."""
        return self.rows.stop - self.rows.start


@attrs.frozen
class Step:
    """All that is computed from one state.

    Args:
        state: the number of the state.
        calls: the calls, in the order of their rows.
        slots: all slots of the step.
        state_slots: the first of these, which depend on the state.
        rows: the rows of y.
        nodes: the range from the first to the last node that the rows are added to.
    """

    state: int
    calls: tuple[Call, ...]
    slots: slice
    state_slots: slice
    rows: slice
    nodes: slice

    @property
    def form(self) -> Hashable:
        """Return the layout of the step, counted from its first slot. The derivatives of steps of one form are computed together."""
        # The state and the first row are left out on purpose: they may differ between the steps of a group.
        first = self.slots.start
        return tuple(
            (c.description.function, c.count, *((k.start - first, k.stop - first) for k in c.terms)) for c in self.calls
        )

    @property
    def slot_rows(self) -> list[tuple[slice, slice]]:
        """Return pairs of slots and the rows of y that are computed from them, as few pairs as possible.

        Where no function has two terms or more, rows lie in the order of slots, so that a single pair is enough.
        """
        if all(len(call.terms) < 2 for call in self.calls):
            count = self.slots.stop - self.slots.start
            return [(self.slots, slice(self.rows.start, self.rows.start + count))]
        return [(term, call.rows) for call in self.calls for term in call.terms]


@attrs.frozen(eq=False)
class CellPlan:
    """The layout of the computation of a cell.

    Args:
        states: the number of states, the nodes and h_{t-1}.
        outputs: the numbers of the states whose mean is h_t.
        steps: the steps, in the order of their states.
        slots: the slots of all steps.
        x_slots: the number of slots, from the first on, that include all that have a map of x or a bias.
        inherited: the weights of inherited states, 1 / n each.
        entries: a tensor of three rows: for each contribution the index of its entry in the flattened M, the index of its
            weight, and the index of the factor of its gate.
    """

    states: int
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    slots: tuple[Slot, ...]
    x_slots: int
    inherited: tuple[float, ...]
    entries: Tensor

    @property
    def rows(self) -> int:
        """Return the number of rows of y in all steps."""
        return self.steps[-1].rows.stop

    @property
    def most_rows(self) -> int:
        """Return the largest number of rows of y in one step."""
        return max(step.rows.stop - step.rows.start for step in self.steps)

    @property
    def last_node_is_output(self) -> bool:
        """Return whether h_t is the last node."""
        return self.outputs == (self.states - 1,)

    @functools.cached_property
    def groups(self) -> list[list[Step]]:
        """Return the steps in groups of one form and of consecutive states. A Two-to-One supernet has a single group."""
        # The usual way to find runs of consecutive numbers: state - place is the same within a run.
        keys = ((step.state - place, step.form) for place, step in enumerate(self.steps))
        groups = itertools.groupby(zip(keys, self.steps, strict=True), key=lambda pair: pair[0])
        return [[step for _, step in group] for _, group in groups]


# A search builds many networks of the same cells, and for each proposal one of cells that differ in a node or a candidate.
@functools.lru_cache(maxsize=512)
def plan_cell(cell: Cell, outputs: tuple[str, ...]) -> CellPlan | str:
    """Return the plan of a cell, or a sentence that says why it has none.

    Args:
        cell: the structure of the cell.
        outputs: the states whose mean the cell outputs.
    """
    try:
        return _plan(cell, outputs)
    except NoPlanError as reason:
        return str(reason)


def _plan(cell: Cell, outputs: Sequence[str]) -> CellPlan:
    # [x, h] counts as the state h: its columns for x are part of P
    number = {"h": 0, "xh": 0} | {node.id: i for i, node in enumerate(cell.nodes, 1)}
    # A cell whose candidates are all zero has nothing to compute; the readable form returns its zeros.
    contributions = [*_of_candidates(cell, number), *_of_inherited_states(cell, number)]
    if not contributions:
        raise NoPlanError("all of its operations are zero")
    slots: list[Slot] = []
    steps: list[Step] = []
    rows: list[tuple[int, Contribution]] = []
    # in the order of the states, each of which is complete before anything is computed from it
    for state in sorted({contribution.state for contribution in contributions}):
        from_state = [contribution for contribution in contributions if contribution.state == state]
        first_slot, first_row = len(slots), steps[-1].rows.stop if steps else 0
        calls, new_slots, new_rows = _lay_out(from_state, first_slot, first_row)
        slots += new_slots
        rows += new_rows
        # A range and not a list of nodes: the product (3) then writes to one piece of memory. Nodes in between that
        # receive nothing from this state have zeros in M.
        nodes = [contribution.node for contribution in from_state]
        steps.append(
            Step(
                state,
                calls,
                slots=slice(first_slot, len(slots)),
                state_slots=slice(first_slot, first_slot + sum(bool(slot.state) for slot in new_slots)),
                rows=slice(first_row, calls[-1].rows.stop),
                nodes=slice(min(nodes), max(nodes) + 1),
            )
        )
    # M is addressed as a flat vector, one row of `count` entries for each state.
    count = steps[-1].rows.stop
    return CellPlan(
        states=len(cell.nodes) + 1,
        outputs=tuple(number[name] for name in outputs),
        steps=tuple(steps),
        slots=tuple(slots),
        # whole steps, so that the product with the state can add to their slots or overwrite them, but never both in one step
        x_slots=max((step.slots.stop for step in steps if any(slot.x or slot.bias for slot in slots[step.slots])), default=0),
        inherited=tuple(1 / len(node.inherits) for node in cell.nodes for _ in node.inherits),
        entries=torch.tensor([(c.node * count + row, c.weight, c.gate) for row, c in rows]).t().contiguous(),
    )


def _lay_out(
    contributions: Sequence[Contribution], first_slot: int, first_row: int
) -> tuple[tuple[Call, ...], list[Slot], list[tuple[int, Contribution]]]:
    """Return the calls that compute contributions from one state, their slots, and the row of y of each contribution.

    Slots and rows are numbered from the given ones on. Slots that depend on the state come first, because one product computes
    exactly these. Contributions without slots come last, so that row k belongs to slot k where no function has several terms.
    """
    kinds: dict[Hashable, list[Contribution]] = {}
    # `sorted` is stable: within a kind the contributions keep the order of the structure, on which the bytes of the
    # result depend.
    for contribution in sorted(contributions, key=lambda c: (not c.slots, not any(c.kind[1]))):
        kinds.setdefault(contribution.kind, []).append(contribution)

    # term number k of all contributions of one kind is one block of slots, which is an argument of the call
    blocks = [(kind, k) for kind, alike in kinds.items() for k in range(len(alike[0].slots))]
    slots: list[Slot] = []
    terms: dict[Hashable, slice] = {}
    for kind, k in sorted(blocks, key=lambda block: not kinds[block[0]][0].slots[block[1]].state):
        start = first_slot + len(slots)
        slots += [contribution.slots[k] for contribution in kinds[kind]]
        terms[kind, k] = slice(start, first_slot + len(slots))

    calls: list[Call] = []
    rows: list[tuple[int, Contribution]] = []
    row = first_row
    for kind, alike in kinds.items():
        arguments = tuple(terms[kind, k] for k in range(len(alike[0].slots)))
        # Several contributions of one row have different nodes or weights, which is a matter of M alone.
        count = len(alike) if arguments else 1  # without terms the function depends on the state alone: all share one row
        calls.append(Call(alike[0].description, arguments, slice(row, row + count)))
        rows += [(row + i % count, contribution) for i, contribution in enumerate(alike)]
        row += count
    return tuple(calls), slots, rows


def summands_of(candidate: Candidate) -> Iterator[tuple[str, Operation]]:
    """Yield the operations that a candidate is a weighted sum of, each with the path of its module; itself if it is no sum.

    Summands may be sums, too.
    """

    def within(path: str, operation: Operation) -> Iterator[tuple[str, Operation]]:
        summands = operation.summands()
        if not summands:
            yield path, operation
        for place, summand in enumerate(summands):
            yield from within(f"{path}.operations.{place}", summand)

    return within(str(candidate.id), candidate.operation)


def _of_candidates(cell: Cell, number: Mapping[str, int]) -> Iterator[Contribution]:
    """Yield the contribution of each summand of each candidate that is not zero."""
    gated = [node.id for node in cell.nodes if node.inherits]
    summands = ((site, *summand) for site in cell.sites for c in site.candidates for summand in summands_of(c))
    # zero candidates are counted, too, as they have a mixing weight
    for weight, (site, path, operation) in enumerate(summands):
        # By convention the last input is the state: [x, h] and h at the first node, a node elsewhere.
        state = number.get(site.inputs[-1])
        if operation.zero:
            continue
        description, subject = operation.pointwise(), f"operation {operation.name!r} at {site.id}"
        if description is None:
            raise NoPlanError(f"{subject} does not implement pointwise()")
        slots = []
        for term in description.terms:
            maps = [(name, input) for name, input in zip(term.weights, site.inputs, strict=True) if name is not None]
            # "xh" occurs in both: the columns of the parameter are divided between x and h
            of_x = tuple((name, input) for name, input in maps if input in ("x", "xh"))
            of_state = tuple((name, input) for name, input in maps if input in number)
            if any(number[input] != state for _, input in of_state):
                raise NoPlanError(f"{subject} has a linear map of a state that is not its last input")
            slots.append(Slot(site.id, path, of_x, of_state, term.bias))
        if state is None:
            raise NoPlanError(f"the last input of {subject} is {site.inputs[-1]!r}, which is not a state")
        # 0 is the factor 1, of nodes without a gate
        gate = gated.index(site.node) + 1 if site.node in gated else 0
        yield Contribution(state, number[site.node], description, tuple(slots), weight, gate)


def _of_inherited_states(cell: Cell, number: Mapping[str, int]) -> Iterator[Contribution]:
    """Yield the contribution of each state that a node inherits."""
    gated = [node for node in cell.nodes if node.inherits]
    # the weights of inherited states follow those of all candidates
    weights = itertools.count(sum(1 for site in cell.sites for c in site.candidates for _ in summands_of(c)))
    # the factors 1 - g follow the factors g
    for gate, node in enumerate(gated, len(gated) + 1):
        for state in node.inherits:
            # x is no state: it is a term without a state, which is computed with those of state 0
            description, slots = (X_DESCRIPTION, (X,)) if state == "x" else (IDENTITY_DESCRIPTION, ())
            yield Contribution(number.get(state, 0), number[node.id], description, slots, next(weights), gate)
