"""The fast form of a recurrent layer: the values and derivatives of `unroll`, with few calls for each time step.

The plan of a cell (`plan.py`) lays out its computation: the states are s_0 = h_{t-1} and the nodes s_1, s_2, .... For each
state s_i in their order, one step computes everything that depends on it:

    a  = P + W s_i       the terms of all contributions from s_i, where P = W_x x_t + b                        (1)
    y  = f(a, s_i)       the contributions, one call for each function f                                        (2)
    s += M y             added to the nodes; M holds the mixing weights and the gates                          (3)

and h_t is the mean of the output nodes. P depends on no state, so that one product computes it for all time steps.

Let G_j be the derivative of the loss by s_j. The backward pass takes the steps and the time in reverse order. When it comes to
state i, all nodes that depend on s_i are done, and with their derivatives G

    gy   = M^T G                                                                                               (4)
    ga   = (df/da) gy                                                                                          (5)
    G_i += (df/ds) gy + W^T ga                                                                                 (6)

Only (4) to (6) have to go step by step. The derivatives of f follow from the states and terms that the forward pass kept, and
the gradients of the parameters from G and ga, both for many time steps at once:

    dM = sum_t G y^T,   dW = sum_t ga s_i^T,   dW_x = sum_t ga x_t^T,   db = sum_t ga 1                      (7)

To observe candidates, the nodes start as offsets d instead of zeros in (3). Their gradients are the G.

States have the shape (n_h, batch), and not (batch, n_h) as in the readable form. Then slots and rows, n_h rows each, are
contiguous pieces of their stack, and (1) to (3) work in place, on views that are made once before the loop over time.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn

from nasframe import Candidate, Cell, Operation
from nasframe.network.mixing import Gate, MixedOperation, active_of, unbound
from nasframe.network.observing import Call, Calls, recording
from nasframe.network.pointwise import check_pointwise
from nasframe_recurrent.cell import RecurrentCell, unroll
from nasframe_recurrent.plan import CellPlan, plan_cell, summands_of

#: The backward pass computes the derivatives of the functions for a chunk of time steps: as many as have this number of entries
#: of y, or, if these are more, this fraction of all time steps. The memory for a chunk is then small beside what the forward
#: pass keeps, and is used again for the next chunk. Fresh memory would cost more time than what is computed in it.
# The results depend on them by the order of sums only.
CHUNK_ENTRIES, CHUNK_FRACTION = 2**18, 1 / 6

#: The plan of each cell, which follows from the structure of the cell. An entry is removed together with its cell.
_plans: WeakKeyDictionary[RecurrentCell, CellPlan | str] = WeakKeyDictionary()

# PyTorch has no public names for what the next two return. Without the private ones all gradients are computed, and gradients
# in batches are not supported.

#: whether the gradient of the tensor with this `grad_fn` is requested in the present backward pass
_is_requested = getattr(torch._C, "_will_engine_execute_node", lambda node: True)
#: whether a gradient is a batch of gradients, as under `torch.func.vmap` and in `autograd.grad(..., is_grads_batched=True)`
_batch_tests = [
    getattr(torch._C._functorch, name, lambda gradient: False) for name in ("is_batchedtensor", "is_legacy_batchedtensor")
]


@attrs.frozen(eq=False)
class Operands:
    """The tensors that a layer is computed from.

    Args:
        x: the inputs, of shape (time, batch, n_x).
        M: the weight of each contribution, of shape (states, rows of y).
        d: what is added to each node, of shape (time, nodes, n_h, batch), or None.
        W_x: the maps of x, of shape (x_slots * n_h, n_x), or None.
        b: the biases, of shape (x_slots * n_h,), or None.
        W: for each step of the plan the maps of its state, of shape (state_slots * n_h, n_h), or None.
    """

    x: Tensor
    M: Tensor
    d: Tensor | None
    W_x: Tensor | None
    b: Tensor | None
    W: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> Operands:
        """Return the operands from the flat sequence that `tensors` returns."""
        x, M, d, W_x, b, *W = tensors
        return cls(x, M, d, W_x, b, tuple(W))

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return the tensors as a flat sequence, which `torch.autograd.Function` requires."""
        return self.x, self.M, self.d, self.W_x, self.b, *self.W


def run_layer(cell: RecurrentCell, inputs: Tensor, mixing: Mapping[str, Tensor], d: Tensor | None = None) -> Tensor:
    """Return what `unroll` returns: h_1, ..., h_T of shape (time, batch, n_h) from inputs of shape (time, batch, n_x).

    A cell without a plan runs in its readable form.

    Args:
        cell: the cell.
        inputs: the inputs of the layer.
        mixing: the mixing weights of each undecided site, by address.
        d: what is added to each node of a cell with a plan, of shape (time, nodes, n_h, batch), or None.
    """
    chosen = _chosen(cell, mixing)
    plan = _plan_for(cell, chosen)
    if isinstance(plan, str):
        return unroll(cell, inputs, unbound(mixing))
    weights = contribution_weights(cell, plan, inputs, mixing, chosen)
    operands = Operands(inputs, weights, d, *stack_parameters(cell, plan, inputs))
    # Outside of the function, autograd knows how M and the stacked maps follow from alphas, gates and parameters. Inside,
    # it sees these tensors only.
    return LayerFunction.apply(plan, cell.hidden, *operands.tensors())


def observe_layer(
    cell: RecurrentCell, inputs: Tensor, mixing: Mapping[str, Tensor], candidates: Collection[nn.Module]
) -> tuple[Tensor, Calls]:
    """Return what `run_layer` returns, and the calls of those candidates that are in the cell, all time steps in one call.

    Args:
        cell: the cell.
        inputs: the inputs of the layer.
        mixing: the mixing weights of each undecided site, by address.
        candidates: the modules of the candidates.
    """
    chosen = _chosen(cell, mixing)
    places = [
        (site, place, module)
        for number, site in enumerate(cell.cell.sites)
        for place, module in enumerate(_mixed_operation(cell, site.id).candidates.values())
        if module in candidates and (chosen is None or place in chosen[number])
    ]
    if isinstance(_plan_for(cell, chosen), str):
        with recording([module for _, _, module in places]) as recorded:
            return unroll(cell, inputs, unbound(mixing)), recorded
    if not places:
        return run_layer(cell, inputs, mixing), {}
    # Zeros are added to the output of each candidate, which adds its mixing weight times the gate times the zeros to its node.
    T, B, _ = inputs.shape
    number = {node.id: i for i, node in enumerate(cell.cell.nodes)}
    factors = inputs.new_zeros(len(number), len(places))
    with torch.no_grad():
        for column, (site, place, _) in enumerate(places):
            factors[number[site.node], column] = 1.0 if site.decided else mixing[_mixed_operation(cell, site.id).address][place]
        for node, gate in cell.gates.items():
            assert isinstance(gate, Gate)
            factors[number[node]] *= gate.g
    zeros = [inputs.new_zeros(T * B, cell.hidden).requires_grad_() for _ in places]
    d = (factors @ torch.stack(zeros).flatten(1)).view(len(number), T, B, -1).permute(1, 0, 3, 2)
    h = run_layer(cell, inputs, mixing, d)
    # The graph keeps the states for its backward pass.
    assert h.grad_fn is not None, "candidates are observed where gradients are enabled"
    S = h.grad_fn.saved_tensors[0]  # type: ignore[attr-defined]

    @functools.cache
    def state(name: str) -> Tensor:
        """Return an input state of all time steps, of shape (time * batch, width)."""
        if name == "x":
            return inputs.flatten(0, 1)
        if name == "xh":
            return torch.cat([state("x"), state("h")], 1)
        return S[:-1, 0 if name == "h" else number[name] + 1].transpose(1, 2).flatten(0, 1)

    calls = {
        module: [Call(tuple(map(state, site.inputs)), zero)] for (site, _, module), zero in zip(places, zeros, strict=True)
    }
    return h, calls


def _plan_for(cell: RecurrentCell, chosen: tuple[tuple[int, ...], ...] | None) -> CellPlan | str:
    """Return the plan of a cell of which only some candidates are computed, or the reason why it has none."""
    # A relaxation that samples computes other candidates at every step. Each choice has a plan, in which the
    # candidates that are left out do not occur: they cost nothing, and their parameters get no gradient, as in the readable
    # form.
    return plan_of(cell) if chosen is None else _restricted_plan(cell.cell, tuple(cell.outputs), chosen)


def plan_of(cell: RecurrentCell) -> CellPlan | str:
    """Return the plan of a cell, or the reason why it has none.

    Raises:
        StructureError: An operation's `pointwise()` does not fit its module.
    """
    plan = _plans.get(cell)
    # Once for each cell and not at every call: the plan follows from the structure, and a cell never changes its
    # structure.
    if plan is None:
        # by operation and widths: equal operations of a cell have modules of one form
        paths = {
            (operation, tuple(cell.widths[name] for name in site.inputs)): (site.id, path)
            for site in cell.cell.sites
            for path, operation in itertools.chain.from_iterable(map(summands_of, site.candidates))
        }
        for (operation, widths), (site, path) in paths.items():
            module = _mixed_operation(cell, site).candidates.get_submodule(path)
            shapes = tuple((name, tuple(value.shape)) for name, value in module.named_parameters())
            _check_operation(operation, shapes, widths, cell.hidden)
        plan = _plans[cell] = plan_cell(cell.cell, tuple(cell.outputs))
    return plan


@functools.lru_cache(maxsize=512)  # a search builds many networks with the same operations
def _check_operation(
    operation: Operation, shapes: tuple[tuple[str, tuple[int, ...]], ...], widths: tuple[int, ...], hidden: int
) -> None:
    """Check that the description of an operation fits its module, which has parameters of these shapes."""
    description = operation.pointwise()
    if description is not None:
        check_pointwise(operation.name, description, dict(shapes), widths, hidden)


def _chosen(cell: RecurrentCell, mixing: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...] | None:
    """Return the positions of the candidates to compute, for each site; None if these are all."""
    active = active_of(mixing)
    sites = [(_mixed_operation(cell, site.id).address, len(site.candidates)) for site in cell.cell.sites]
    if not any(address in active for address, _ in sites):
        return None
    return tuple(active.get(address, tuple(range(count))) for address, count in sites)


@functools.lru_cache(maxsize=512)  # a search that samples draws the same choices again and again
def _restricted_plan(cell: Cell, outputs: tuple[str, ...], chosen: tuple[tuple[int, ...], ...]) -> CellPlan | str:
    """Return the plan of a cell of which only some candidates are computed."""
    sites = (
        attrs.evolve(site, candidates=tuple(site.candidates[place] for place in places))
        for site, places in zip(cell.sites, chosen, strict=True)
    )
    return plan_cell(attrs.evolve(cell, sites=tuple(sites)), outputs)


def contribution_weights(
    cell: RecurrentCell,
    plan: CellPlan,
    like: Tensor,
    mixing: Mapping[str, Tensor],
    chosen: tuple[tuple[int, ...], ...] | None = None,
) -> Tensor:
    """Return M of shape (states, rows of y), differentiable by the mixing weights and the gates.

    Args:
        cell: the cell, whose gates are read.
        plan: its plan.
        like: a tensor of the device and dtype of the result.
        mixing: the mixing weights of each undecided site, by address.
        chosen: the positions of the candidates that the plan computes, for each site; None for all.
    """
    # One flat vector of all weights, in the numbering of `Contribution.weight`: summands of the candidates in the order of the
    # sites, then inherited states. The plan says for each contribution where its weight goes, so that M is one gather and one
    # scatter.
    weights: list[Tensor] = []
    for number, site in enumerate(cell.cell.sites):
        mixed = _mixed_operation(cell, site.id)
        weight = mixing[mixed.address] if len(mixed.candidates) > 1 else like.new_ones(1)
        candidates = site.candidates
        if chosen is not None:
            weight, candidates = weight[[*chosen[number]]], tuple(candidates[place] for place in chosen[number])
        weights.append(_of_summands(weight, candidates, mixed))
    # index 0 of the factors is 1, for nodes without a gate; then g of each gate, then 1 - g
    entry, weight, gate = plan.entries.to(like.device)
    values = torch.cat([*weights, like.new_tensor(plan.inherited)]).index_select(0, weight)
    if cell.gates:
        g = torch.stack([module.g for module in cell.gates.values() if isinstance(module, Gate)])
        values = values * torch.cat([like.new_ones(1), g, 1 - g]).index_select(0, gate)
    # contributions that share a row and a node add up in one entry
    M = like.new_zeros(plan.states * plan.rows).index_add(0, entry, values)
    return M.view(plan.states, plan.rows)


def _of_summands(weight: Tensor, candidates: Sequence[Candidate], mixed: MixedOperation) -> Tensor:
    """Return the weights of all summands of some candidates of a site, in the order of `summands_of`, from those of the candidates."""

    def within(factor: Tensor, operation: Operation, module: nn.Module) -> Iterator[Tensor]:
        if not (summands := operation.summands()):
            yield factor
        else:
            for w, summand, child in zip(module.weights, summands, module.operations, strict=True):  # type: ignore[arg-type]
                yield from within(factor * w, summand, child)

    # without sums, which is nearly always, no tensor is taken apart
    if not any(candidate.operation.summands() for candidate in candidates):
        return weight
    parts = zip(weight, candidates, strict=True)
    return torch.stack([p for w, c in parts for p in within(w, c.operation, mixed.candidates[str(c.id)])])


def stack_parameters(
    cell: RecurrentCell, plan: CellPlan, like: Tensor
) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
    """Return W_x, b and, for each step, W: the parameters of the slots, one below the other.

    A parameter that is applied to [x, h] is divided: its first n_x columns belong to W_x, the others to W. Slots without a map
    have zeros in its place.
    """
    n_x, n_h = cell.widths["x"], cell.hidden
    # In the order of the slots. An operation may apply several maps to one input: their sum is one map.
    of_x: list[Tensor | None] = []
    of_state: list[Tensor | None] = []
    biases: list[Tensor | None] = []
    for slot in plan.slots:
        if slot.site is None:
            # the identity: x has the width n_h where a node inherits it
            of_x.append(torch.eye(n_h, n_x, dtype=like.dtype, device=like.device))
            of_state.append(None)
            biases.append(None)
            continue
        module = _mixed_operation(cell, slot.site).candidates.get_submodule(slot.module)
        of_x.append(_sum([attrgetter(w)(module) if i == "x" else attrgetter(w)(module)[:, :n_x] for w, i in slot.x]))
        of_state.append(_sum([attrgetter(w)(module)[:, n_x:] if i == "xh" else attrgetter(w)(module) for w, i in slot.state]))
        biases.append(None if slot.bias is None else attrgetter(slot.bias)(module))
    zero = like.new_zeros(n_h, n_x)
    # The stack has a block for each slot, so that row k of P belongs to slot k; a slot without a map of x gets zeros.
    if any(bias is not None for bias in biases):
        # a W_x wherever there is a b, so that one call computes both
        of_x = [zero if weight is None else weight for weight in of_x]
    return (
        _stack(of_x[: plan.x_slots], zero),
        _stack(biases[: plan.x_slots], like.new_zeros(n_h)),
        tuple(_stack(of_state[step.state_slots], like) for step in plan.steps),
    )


def _mixed_operation(cell: RecurrentCell, site: str) -> MixedOperation:
    module = cell.sites[site]
    assert isinstance(module, MixedOperation)
    return module


def _sum(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the sum of the tensors, or None if there are none."""
    return functools.reduce(torch.add, tensors) if tensors else None


def _stack(blocks: Sequence[Tensor | None], zero: Tensor) -> Tensor | None:
    """Return the blocks one below the other, with `zero` in the place of None; or None if all are None."""
    return torch.cat([zero if block is None else block for block in blocks]) if any(b is not None for b in blocks) else None


class LayerFunction(torch.autograd.Function):
    """`forward_pass` with the derivative `backward_pass`, which autograd cannot find because states are written in place.

    The derivative of the derivative, for second-order methods, is that of `differentiable_pass`.
    """

    @staticmethod
    def forward(ctx: Any, plan: CellPlan, n_h: int, *tensors: Tensor | None) -> Tensor:
        """Return h_1, ..., h_T of shape (time, batch, n_h)."""
        # The states and terms are kept. y and the derivatives follow from them, and are computed again for many time
        # steps at once.
        S, a = forward_pass(plan, n_h, Operands.of(tensors))
        ctx.plan = plan
        ctx.save_for_backward(S, a, *tensors)
        # A copy: the states are saved for the backward pass and written by nobody, while the caller may modify what it
        # gets.
        return S[1:, 0].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Return the gradients of the operands from the gradient of what `forward` returned."""
        S, a, *tensors = ctx.saved_tensors
        # autograd enables gradients within a backward pass only if the caller asked for create_graph
        plan, create_graph = ctx.plan, torch.is_grad_enabled()
        if not create_graph and not any(is_batch(g) for is_batch in _batch_tests):
            # needs_input_grad says for what a gradient can be requested; the engine says for what it is
            needs_x = ctx.needs_input_grad[2]
            operands = Operands.of(tensors)
            # one entry for each tensor, and none for what is None
            maps = ctx.next_functions[2 if operands.d is None else 3 :]
            needs_maps = any(node is not None and _is_requested(node) for node, _ in maps)
            return None, None, *backward_pass(plan, S, a, g, operands, needs_x=needs_x, needs_maps=needs_maps)
        # For second derivatives the layer is computed again, as a graph that autograd can differentiate as often as it
        # likes.
        with torch.enable_grad():
            h = differentiable_pass(plan, S.shape[2], Operands.of(tensors))
        # The others have no gradient: an absent map, or a tensor that nobody trains.
        live = [tensor is not None and tensor.requires_grad and h.requires_grad for tensor in tensors]
        inputs = [*itertools.compress(tensors, live)]
        found = torch.autograd.grad(h, inputs, g, create_graph=create_graph, allow_unused=True) if inputs else ()
        gradients = iter(found)
        return None, None, *(next(gradients) if is_live else None for is_live in live)


def forward_pass(plan: CellPlan, n_h: int, operands: Operands) -> tuple[Tensor, Tensor]:
    """Return the states and the terms of all time steps, Eqs. (1) to (3).

    Returns:
        S of shape (time + 1, states, n_h, batch), as `allocate_states` describes it, and a of shape (time, slots, n_h, batch).
    """
    x, M = operands.x, operands.M
    T, B, _ = x.shape
    # Zeros, because nodes are sums to which the contributions are added; state 0 at time 0 is the initial h_0 = 0.
    S = allocate_states(plan, x, T, n_h, B)
    if operands.d is not None:
        S[:-1, 1:] = operands.d
    a = project_inputs(plan, n_h, operands)
    # two views of the same memory: products with W need (n_h, batch), functions and products with M one row of entries
    states, terms = S.flatten(2), a.view(T, len(plan.slots), n_h * B)
    # y is overwritten at every step: the backward pass computes it again from a and S, which it needs anyway
    scratch = x.new_empty(plan.most_rows, n_h * B)
    # The views of all time steps are made here: in the loop, making one would take time as well as the small product that
    # uses it.
    steps = []
    for step, W in zip(plan.steps, operands.W, strict=True):
        state = states[:-1, step.state : step.state + 1]
        repeated = {count: state.expand(-1, count, -1).unbind() for count in {call.count for call in step.calls}}
        calls = [
            (
                call.description.function,
                # for each time step the arguments: the slots of each term, and the state, once for each row
                [*zip(*(terms[:, term].unbind() for term in call.terms), repeated[call.count], strict=True)],
            )
            for call in step.calls
        ]
        steps.append(
            (
                W,
                int(step.slots.start < plan.x_slots),  # whether a begins as P, or as uninitialised memory
                _rows_of(a, step.state_slots, n_h).unbind(),
                S[:, step.state].unbind(),
                calls,
                scratch[: step.rows.stop - step.rows.start],
                M[step.nodes, step.rows],
                states[:, step.nodes].unbind(),
            )
        )
    mean, ends = _ends(plan, states)
    # The order within a step of time is that of the states, each of which is complete when it is read. The products write
    # into the memory of the states and terms directly.
    for t in range(T):
        for W, begins_as_P, a_s, s, calls, y, m, nodes in steps:
            if W is not None:
                a_s[t].addmm_(W, s[t], beta=begins_as_P)  # (1)
            torch.cat([function(*arguments[t]) for function, arguments in calls], out=y)  # (2)
            nodes[t].addmm_(m, y)  # (3)
        if ends:
            torch.mm(mean, ends[t][0], out=ends[t][1])
    return S, a.view(T, -1, n_h, B)


def allocate_states(plan: CellPlan, like: Tensor, T: int, n_h: int, B: int) -> Tensor:
    """Return zeros of shape (time + 1, states, n_h, batch) for the states of all time steps.

    [t, 0] is h_{t-1} and [t, j] is node j, counting t from 0; the last entry along time has h_T alone. Where h_t is the last
    node, [t, -1] and [t + 1, 0] share their memory, so that h_t is never copied.
    """
    # Where h_t is the last node, the stride between two time steps is one state less than what a time step has, so that its
    # last state and the first one of the next time step are the same memory.
    size = n_h * B
    stride = plan.states - plan.last_node_is_output
    memory = like.new_zeros((T * stride + plan.states) * size)
    return memory.as_strided((T + 1, plan.states, n_h, B), (stride * size, size, B, 1))


def project_inputs(plan: CellPlan, n_h: int, operands: Operands) -> Tensor:
    """Return memory for a, of shape (time, slots * n_h, batch).

    The first x_slots hold P = W_x x + b, the others are uninitialised.
    """
    x, W_x, b = operands.x, operands.W_x, operands.b
    T, B, _ = x.shape
    if W_x is None:
        return x.new_empty(T, len(plan.slots) * n_h, B)
    # A batch of products, one for each time step, gives P in the layout (slots * n_h, batch) of the states without a
    # transposed copy.
    W_x, x = W_x.expand(T, -1, -1), x.transpose(1, 2)
    P = torch.bmm(W_x, x) if b is None else torch.baddbmm(b.unsqueeze(1), W_x, x)
    rest = len(plan.slots) - plan.x_slots
    return torch.cat([P, x.new_empty(T, rest * n_h, B)], 1) if rest else P


def backward_pass(
    plan: CellPlan, S: Tensor, a: Tensor, g: Tensor, operands: Operands, *, needs_x: bool, needs_maps: bool
) -> list[Tensor | None]:
    """Return the gradients of the operands, Eqs. (4) to (7), in the order of `Operands.tensors`.

    Args:
        plan: the plan of the cell.
        S: the states, as `forward_pass` returns them.
        a: the terms, as `forward_pass` returns them.
        g: the gradient of h_1, ..., h_T, of shape (time, batch, n_h).
        operands: the operands of the forward pass.
        needs_x: whether the gradient of x is needed.
        needs_maps: whether those of W_x, b and W are needed. A first-order update of alphas needs that of M alone.
    """
    x, M, W_x = operands.x, operands.M, operands.W_x
    n_h, B = S.shape[2:]
    gx = torch.zeros_like(x) if needs_x else None
    gM = torch.zeros_like(M)
    gd = None if operands.d is None else torch.empty_like(operands.d)
    maps = (W_x, operands.b, *operands.W)
    gW_x, gb, *gW = (torch.zeros_like(weight) if weight is not None and needs_maps else None for weight in maps)
    # transposed once, and not at every time step
    W_t = [None if W is None else W.t().contiguous() for W in operands.W]
    carry = S.new_zeros(n_h * B)
    # Each gradient of a parameter is one product for a whole chunk.
    chunk = max(CHUNK_ENTRIES // (plan.rows * n_h * B), math.ceil(len(x) * CHUNK_FRACTION))
    # from the last chunk to the first
    for stop in range(len(x), 0, -chunk):
        now = slice(max(stop - chunk, 0), stop)
        # After this call everything that remains is independent of the order of time, Eq. (7).
        G, y, ga = backward_chunk(plan, S[now], a[now], g[now], carry, M, W_t)
        carry = G[0, 0]  # the gradient of the h before this chunk, which is the last h of the next one
        if needs_x or needs_maps:
            ga = ga.transpose(0, 1).flatten(1)  # (slots * n_h, time * batch)
        of_x = _rows_of(ga, slice(0, plan.x_slots), n_h)
        if gd is not None:
            gd[now] = G[:, 1:].view_as(gd[now])
        if gx is not None and W_x is not None:
            gx[now] = (of_x.t() @ W_x).view_as(x[now])
        if gW_x is not None:
            gW_x.addmm_(of_x, x[now].flatten(0, 1))
        if gb is not None:
            gb += of_x.sum(1)
        for step, gw in zip(plan.steps, gW, strict=True):
            gM[step.nodes, step.rows] += torch.matmul(G[:, step.nodes], y[:, step.rows].transpose(1, 2)).sum(0)
            if gw is not None:
                gw.addmm_(_rows_of(ga, step.state_slots, n_h), S[now, step.state].transpose(0, 1).reshape(n_h, -1).t())
    return [gx, gM, gd, gW_x, gb, *gW]


def backward_chunk(
    plan: CellPlan, S: Tensor, a: Tensor, g: Tensor, carry: Tensor, M: Tensor, W_t: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of states and terms in a chunk of time steps, Eqs. (4) to (6).

    Args:
        plan: the plan of the cell.
        S: the states of the chunk.
        a: the terms of the chunk.
        g: the gradient of h in the chunk.
        carry: the gradient that the last h of the chunk receives from the time steps behind the chunk, of shape (n_h * batch,).
        M: the weight of each contribution.
        W_t: the transposed maps of the state, for each step.

    Returns:
        G, the gradients of the states, of shape (time, states, n_h * batch); y of shape (time, rows, n_h * batch); and ga, the
        gradients of the terms, of shape (time, slots * n_h, batch).
    """
    T, _, n_h, B = S.shape
    G = allocate_states(plan, S, T, n_h, B)
    flat = G.flatten(2)
    mean, ends = _ends(plan, flat)
    # every output node receives its part of the gradient of h_t from outside the layer
    torch.mul(g.transpose(1, 2).unsqueeze(1), mean.view(-1, 1, 1), out=G[:-1, 1:])
    # added, because where h_t is the last node this entry is also that node's, which has its part of g already
    flat[-1, 0] += carry
    # the memory of df/da is overwritten with ga = (df/da) gy, time step by time step
    y, by_a, derivatives_by_s = local_derivatives(plan, S, a)
    ga, by_s = by_a.flatten(1, 2), iter(derivatives_by_s)
    # One row more than gy has: the sum over all rows whose df/ds is a number.
    scratch = S.new_empty(plan.most_rows + 1, n_h, B)
    steps = []
    for step, w in zip(plan.steps, W_t, strict=True):
        calls = [(call, _relative(call.rows, step.rows), next(by_s)) for call in step.calls]
        tensors = [(rows, derivative) for _, rows, derivative in calls if isinstance(derivative, Tensor)]
        # Where df/ds is a number d, as 1 for the identity, sum d gy = (sum d M^T) G: another row of the product (4), behind the
        # others
        numbers = [0.0 if isinstance(d, Tensor) else d for call, _, d in calls for _ in range(call.count)]
        m = M[step.nodes, step.rows].t()
        if any(numbers):
            m = torch.cat([m, m.new_tensor([numbers]) @ m])
        gy = scratch[: len(m)]
        steps.append(
            (
                m,
                flat[:, step.nodes].unbind(),
                gy.flatten(1),
                [(by_a[:, slots].unbind(), gy[_relative(rows, step.rows)]) for slots, rows in step.slot_rows],
                [(d.unbind(), gy[rows]) for rows, d in tensors if d.shape[1] > 1],
                [(d[:, 0].unbind(), gy[rows.start]) for rows, d in tensors if d.shape[1] == 1],
                gy[-1] if any(numbers) else None,
                G[:, step.state].unbind(),
                w,
                _rows_of(ga, step.state_slots, n_h).unbind(),
            )
        )
    # a state comes after all nodes that depend on it
    steps.reverse()
    mean_t = mean.t()
    # Time and states in reverse: when a state is reached, all that depends on it has added its part to G.
    for t in range(T - 1, -1, -1):
        if ends:
            # what h_t received as the last state of time step t + 1 goes on to the output nodes of time step t
            ends[t][0].addmm_(mean_t, ends[t][1])
        for m, G_nodes, gy_flat, terms, by_s_rows, by_s_row, by_s_numbers, G_i, w, ga_s in steps:
            torch.mm(m, G_nodes[t], out=gy_flat)  # (4)
            for derivative, gy in terms:
                derivative[t].mul_(gy)  # (5)
            for derivative, gy in by_s_rows:  # (6)
                G_i[t].add_((derivative[t] * gy).sum(0))
            for derivative, gy in by_s_row:
                G_i[t].addcmul_(derivative[t], gy)
            if by_s_numbers is not None:
                G_i[t].add_(by_s_numbers)
            if w is not None:
                G_i[t].addmm_(w, ga_s[t])
    return flat[:-1], y, ga


def local_derivatives(plan: CellPlan, S: Tensor, a: Tensor) -> tuple[Tensor, Tensor, list[Tensor | float]]:
    """Return y = f(a, s) at some time steps, df/da, and df/ds for each call of the plan.

    Steps of one form from consecutive states are computed together.

    Returns:
        y of shape (time, rows, n_h * batch), df/da of the shape of a, and for each call df/ds: a number, or a tensor of shape
        (time, rows of the call, n_h, batch).
    """
    T, _, n_h, B = S.shape
    y, by_a = S.new_empty(T, plan.rows, n_h, B), torch.empty_like(a)
    # Steps of one form differ in their state alone, and consecutive states have consecutive slots and rows: a group is
    # one strided view of each stack, and each function is called once for it.
    by_s: list[Tensor | float] = []
    for group in plan.groups:
        step, count = group[0], len(group)

        def of_group(memory: Tensor, span: slice, count: int = count) -> Tensor:
            """Return the spans of all steps of the group in the shape (time, steps, length of a span, n_h, batch)."""
            length = span.stop - span.start
            return memory[:, span.start : span.start + count * length].unflatten(1, (count, -1))

        arguments, values, into = of_group(a, step.slots), of_group(y, step.rows), of_group(by_a, step.slots)
        s = S[:, step.state : step.state + count].unsqueeze(2)
        found = []
        for call in step.calls:
            terms = [_relative(term, step.slots) for term in call.terms]
            value, *by_terms, by_state = call.description.value_and_derivatives(
                *(arguments[:, :, term] for term in terms), s.expand(-1, -1, call.count, -1, -1)
            )
            values[:, :, _relative(call.rows, step.rows)] = value
            for term, derivative in zip(terms, by_terms, strict=True):
                into[:, :, term] = derivative
            found.append(by_state)
        by_s += [d[:, i] if isinstance(d, Tensor) else d for i in range(count) for d in found]
    return y.flatten(2), by_a, by_s


def differentiable_pass(plan: CellPlan, n_h: int, operands: Operands) -> Tensor:
    """Return h_1, ..., h_T of shape (time, batch, n_h), Eqs. (1) to (3), as a graph for autograd, which writes nothing in place."""
    x, M = operands.x, operands.M
    mean, outputs = _output_weights(plan, x), []
    h = x.new_zeros(n_h, x.shape[1])
    # nothing is written in place, so that all nodes can begin as the same zeros
    d = h.expand(len(x), plan.states - 1, -1, -1) if operands.d is None else operands.d
    for P, start in zip(project_inputs(plan, n_h, operands).unbind(), d.unbind(), strict=True):
        states = [h, *start.unbind()]
        for step, W in zip(plan.steps, operands.W, strict=True):
            s, a = states[step.state], _rows_of(P, step.slots, n_h)
            if W is not None:
                Ws = W @ s
                a = torch.cat([a[: len(Ws)] + Ws if step.slots.start < plan.x_slots else Ws, a[len(Ws) :]])
            terms = a.view(-1, *s.shape)
            y = [
                call.description.function(
                    *(terms[_relative(term, step.slots)] for term in call.terms), s.expand(call.count, -1, -1)
                )
                for call in step.calls
            ]
            added = (M[step.nodes, step.rows] @ torch.cat(y).flatten(1)).view(-1, *s.shape)
            for node, value in enumerate(added, step.nodes.start):
                states[node] = states[node] + value
        h = (mean @ torch.stack(states[1:]).flatten(1)).view_as(h)
        outputs.append(h)
    return torch.stack(outputs).transpose(1, 2)


def _ends(plan: CellPlan, states: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the weights of the nodes in h_t, and for each time step a pair of views: all nodes, and h_t.

    Where h_t is the last node it is in its place already (`allocate_states`), and there are no pairs.
    """
    pairs = [] if plan.last_node_is_output else [*zip(states[:, 1:].unbind(), states[1:, :1].unbind(), strict=False)]
    return _output_weights(plan, states), pairs


def _output_weights(plan: CellPlan, like: Tensor) -> Tensor:
    """Return the weight of each node in h_t, of shape (1, nodes)."""
    # h_{t-1}, state 0, is never an output of a cell with nodes. A state may be listed twice, and then counts twice.
    return like.new_tensor([[plan.outputs.count(i) / len(plan.outputs) for i in range(1, plan.states)]])


def _rows_of(stack: Tensor, slots: slice, n_h: int) -> Tensor:
    """Return the rows of some slots, n_h each, along the second axis from the end."""
    return stack[..., slots.start * n_h : slots.stop * n_h, :]


def _relative(part: slice, whole: slice) -> slice:
    """Return the part, counted from the start of the whole."""
    return slice(part.start - whole.start, part.stop - whole.start)
