"""The fast form of a layer: what `unrolled` computes, from what the operations tell of themselves, and its derivative.

Operations are linear maps and a function entry by entry (`nasframe.Pointwise`), a node is a weighted sum of operations, and
what it inherits is one of them, the identity. So a step is, state by state (h_{t-1} is state 0, the nodes follow):

    a += W s        all linear maps of the state at once; a begins as W_x x + b, for all steps together
    y = f(a, s)     one call for each function
    n += M y        the nodes that are fed from here; M holds the combination weights, times the gates

and h_t is a fixed combination of the nodes. Backward, with g for the gradient of a state, and the slopes of f, which are found
for many steps together:

    gy = M^T gn,   ga = f_a gy,   g += f_s gy + W^T ga;   then, for many steps together,
    dM = gn y^T,   dW = ga s^T,   dW_x = ga x^T,   db = ga 1

A state is (n_h, batch) and not the other way round, so that the parts of a product lie one behind the other, each in one piece.
`forward` and `backward` take a Plan and tensors, and nothing else: whoever computes the same otherwise stands in for these two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from nasframe import Gate, MixedOperation
from nasframe_recurrent.cell import RecurrentCell, unrolled
from nasframe_recurrent.plan import Plan

#: W_x, b, and the W of each fan, where there is one
Maps = Sequence[Tensor | None]

#: the backward pass takes a stretch of time at once: so many entries of y, or, if that is more, this part of all steps.
#: What a stretch needs is then little beside what the forward pass keeps, and comes from memory that was used before:
#: fresh memory costs more than what is computed in it
ENTRIES, PART = 2**18, 1 / 6

#: whether a gradient is asked for now, of which torch has no public name: where it has none, every gradient is
asked = getattr(torch._C, "_will_engine_execute_node", lambda node: True)

#: whether a gradient stands for many, as in `torch.autograd.grad(..., is_grads_batched=True)`; this has no public name either
_BATCHED = [getattr(torch._C._functorch, name, None) for name in ("is_batchedtensor", "is_legacy_batchedtensor")]


def sequence(cell: RecurrentCell, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What `unrolled` gives, from (time, batch, n_x) to (time, batch, n_h); by itself where the cell has no fast form."""
    own = cell.plan
    if isinstance(own, str):
        return unrolled(cell, inputs, {address: w.unbind() for address, w in weights.items()})
    return Layer.apply(own, cell.hidden, inputs, mixing(cell, own, inputs, weights), *stacked(cell, own, inputs))


def mixing(cell: RecurrentCell, own: Plan, like: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """M, of shape (states, rows of y)."""
    sites = [mixture_at(cell, id) for id in cell.sites]
    shares = [weights[m.address] if len(m.candidates) > 1 else like.new_ones(1) for m in sites]
    place, share, gate = own.entries.to(like.device)
    entries = torch.cat([*shares, like.new_tensor(own.constants)]).index_select(0, share)
    if cell.gates:
        g = torch.stack([gate.g for gate in cell.gates.values() if isinstance(gate, Gate)])
        entries = entries * torch.cat([like.new_ones(1), g, 1 - g]).index_select(0, gate)
    states, rows = own.shape
    return like.new_zeros(states * rows).index_add(0, place, entries).view(states, rows)


def stacked(cell: RecurrentCell, own: Plan, like: Tensor) -> list[Tensor | None]:
    """W_x and b of the projected slots, and of each fan the W of those that take its state in, one slot above the other.

    There is a W_x wherever there is a b, so that both are one call.
    """
    n_x, n_h = cell.widths["x"], cell.hidden
    zero = like.new_zeros(n_h, n_x)
    W_x: list[Tensor | None] = []
    b: list[Tensor | None] = []
    W: list[Tensor | None] = []
    for slot in own.slots:
        module = mixture_at(cell, slot.site).candidates[slot.candidate]
        of_x = total([attrgetter(w)(module) if i == "x" else attrgetter(w)(module)[:, :n_x] for w, i in slot.x])
        W_x.append(zero if of_x is None and slot.bias is not None else of_x)
        W.append(total([attrgetter(w)(module)[:, n_x:] if i == "xh" else attrgetter(w)(module) for w, i in slot.s]))
        b.append(None if slot.bias is None else attrgetter(slot.bias)(module))
    hoisted = slice(own.projected)
    return [
        filled(W_x[hoisted], zero),
        filled(b[hoisted], like.new_zeros(n_h)),
        *(filled(W[fan.taking], like) for fan in own.fans),
    ]


def mixture_at(cell: RecurrentCell, site: str) -> MixedOperation:
    """The module of a site."""
    mixture = cell.sites[site]
    assert isinstance(mixture, MixedOperation)
    return mixture


def total(parts: Sequence[Tensor]) -> Tensor | None:
    """Their sum, if there are any."""
    return sum(parts[1:], parts[0]) if parts else None


def filled(blocks: Sequence[Tensor | None], zero: Tensor) -> Tensor | None:
    """One above the other, with zero where there is none; None if there is none at all."""
    return torch.cat([zero if v is None else v for v in blocks]) if any(v is not None for v in blocks) else None


class Layer(torch.autograd.Function):
    """`forward`, of which `backward` is the derivative; the derivative of that is autograd's, through `differentiable`."""

    @staticmethod
    def forward(ctx: Any, own: Plan, n_h: int, x: Tensor, M: Tensor, *maps: Tensor | None) -> Tensor:
        """h_t at every step: (time, batch, n_h)."""
        S, a = forward(own, n_h, x, M, maps)
        ctx.own = own
        ctx.save_for_backward(S, a, x, M, *maps)
        return S[1:, 0].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """The gradients of x, M and the maps."""
        S, a, *inputs = ctx.saved_tensors
        x, M, *maps = inputs
        again = torch.is_grad_enabled()
        if not again and not any(is_batched is not None and is_batched(g) for is_batched in _BATCHED):
            # needs_input_grad says what can have a gradient; whether it is asked for now, the engine knows
            needs_maps = any(node is not None and asked(node) for node, _ in ctx.next_functions[2:])
            return None, None, *backward(ctx.own, S, a, g, x, M, maps, ctx.needs_input_grad[2], needs_maps)
        with torch.enable_grad():
            h = differentiable(ctx.own, S.shape[2], x, M, maps)
        live = [v is not None and v.requires_grad and h.requires_grad for v in inputs]
        wanted = [*itertools.compress(inputs, live)]
        found = iter(torch.autograd.grad(h, wanted, g, create_graph=again, allow_unused=True) if wanted else ())
        return None, None, *(next(found) if alive else None for alive in live)


def ends_of(own: Plan, states: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The combination of the nodes that is h_t, and for each step its nodes and its h; none of these where they are one."""
    pairs = [] if own.chained else [*zip(states[:, 1:].unbind(), states[1:, :1].unbind(), strict=False)]
    return average(own, states), pairs


def average(own: Plan, like: Tensor) -> Tensor:
    """The combination of the nodes that is h_t: (1, nodes)."""
    return like.new_tensor([[own.outputs.count(i) / len(own.outputs) for i in range(1, own.shape[0])]])


def projection(own: Plan, n_h: int, x: Tensor, W_x: Tensor | None, b: Tensor | None) -> Tensor:
    """What a is before any state is known, (time, slots * n_h, batch), W_x x + b as far as it goes; behind that anything."""
    T, B, _ = x.shape
    if W_x is None:
        return x.new_empty(T, len(own.slots) * n_h, B)
    W_x, x = W_x.expand(T, -1, -1), x.transpose(1, 2)
    P = torch.bmm(W_x, x) if b is None else torch.baddbmm(b.unsqueeze(1), W_x, x)
    rest = len(own.slots) - own.projected
    return torch.cat([P, x.new_empty(T, rest * n_h, B)], 1) if rest else P


def timeline(own: Plan, like: Tensor, T: int, n_h: int, B: int) -> Tensor:
    """Zeros (time + 1, states, n_h, batch) for the states of all steps: at [t, 0] is h_{t-1}, of which h_T is the last.

    Where h_t is the last node, [t, -1] and [t + 1, 0] are one and the same: what is written to one is in the other.
    """
    states, size = own.shape[0], n_h * B
    step = states - own.chained
    return like.new_zeros((T * step + states) * size).as_strided((T + 1, states, n_h, B), (step * size, size, B, 1))


def forward(own: Plan, n_h: int, x: Tensor, M: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
    """The states of all steps (`timeline`), and a: (time, slots, n_h, batch)."""
    T, B, _ = x.shape
    W_x, b, *W = maps
    S = timeline(own, x, T, n_h, B)
    a = projection(own, n_h, x, W_x, b)
    states, terms = S.flatten(2), a.view(T, len(own.slots), n_h * B)
    scratch = x.new_empty(widest(own), n_h * B)
    steps = []
    for fan, w in zip(own.fans, W, strict=True):
        state = states[:-1, fan.state : fan.state + 1]
        copies = {count: state.expand(-1, count, -1).unbind() for count in {call.count for call in fan.calls}}
        calls = [
            (c.told.function, [*zip(*(terms[:, k].unbind() for k in c.terms), copies[c.count], strict=True)]) for c in fan.calls
        ]
        steps.append(
            (
                w,
                int(fan.taking.start < own.projected),
                rows_of(a, fan.taking, n_h).unbind(),
                S[:, fan.state].unbind(),
                calls,
                scratch[: fan.rows.stop - fan.rows.start],
                M[fan.nodes, fan.rows],
                states[:, fan.nodes].unbind(),
            )
        )
    mean, ends = ends_of(own, states)
    for t in range(T):
        for w, begun, out, s, calls, y, m, n in steps:
            if w is not None:
                out[t].addmm_(w, s[t], beta=begun)
            torch.cat([function(*arguments[t]) for function, arguments in calls], out=y)
            n[t].addmm_(m, y)
        if ends:
            torch.mm(mean, ends[t][0], out=ends[t][1])
    return S, a.view(T, -1, n_h, B)


def widest(own: Plan) -> int:
    """The most rows of y that come out of one state."""
    return max(fan.rows.stop - fan.rows.start for fan in own.fans)


def rows_of(a: Tensor, slots: slice, n_h: int) -> Tensor:
    """The rows of these slots, along the axis before the last."""
    return a[..., slots.start * n_h : slots.stop * n_h, :]


def backward(
    own: Plan, S: Tensor, a: Tensor, g: Tensor, x: Tensor, M: Tensor, maps: Maps, needs_x: bool, needs_maps: bool
) -> list[Tensor | None]:
    """The gradients of x, M and the maps, from g, that of what h is at every step; of x and the maps where they are needed."""
    n_h, B = S.shape[2:]
    W_x, _, *W = maps
    gx = torch.zeros_like(x) if needs_x else None
    gM = torch.zeros_like(M)
    gW_x, gb, *gW = (torch.zeros_like(w) if w is not None and needs_maps else None for w in maps)
    W_t = [None if w is None else w.t().contiguous() for w in W]
    carry = S.new_zeros(n_h * B)
    steps = max(ENTRIES // (own.shape[1] * n_h * B), math.ceil(len(x) * PART))
    for stop in range(len(x), 0, -steps):
        now = slice(max(stop - steps, 0), stop)
        G, y, ga = stretch(own, S[now], a[now], g[now], carry, M, W_t)
        carry = G[0, 0]
        if needs_x or needs_maps:
            ga = ga.transpose(0, 1).flatten(1)
        projected = rows_of(ga, slice(0, own.projected), n_h)
        if gx is not None and W_x is not None:
            gx[now] = (projected.t() @ W_x).view_as(x[now])
        if gW_x is not None:
            gW_x.addmm_(projected, x[now].flatten(0, 1))
        if gb is not None:
            gb += projected.sum(1)
        for fan, gw in zip(own.fans, gW, strict=True):
            gM[fan.nodes, fan.rows] += torch.matmul(G[:, fan.nodes], y[:, fan.rows].transpose(1, 2)).sum(0)
            if gw is not None:
                gw.addmm_(rows_of(ga, fan.taking, n_h), S[now, fan.state].transpose(0, 1).reshape(n_h, -1).t())
    return [gx, gM, gW_x, gb, *gW]


def stretch(
    own: Plan, S: Tensor, a: Tensor, g: Tensor, carry: Tensor, M: Tensor, W_t: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward through some steps: the gradients of the states, (time, states, n_h * batch), y, and the gradients of a,
    (time, slots * n_h, batch). `carry` is the gradient of the last h from behind these steps.
    """
    T, _, n_h, B = S.shape
    G = timeline(own, S, T, n_h, B)
    flat = G.flatten(2)
    mean, ends = ends_of(own, flat)
    torch.mul(g.transpose(1, 2).unsqueeze(1), mean.view(-1, 1, 1), out=G[:-1, 1:])
    flat[-1, 0] += carry
    y, by_a, by_s = slopes(own, S, a)
    ga, by_state = by_a.flatten(1, 2), iter(by_s)
    scratch = S.new_empty(widest(own) + 1, n_h, B)
    steps = []
    for fan, w in zip(own.fans, W_t, strict=True):
        slope_of = [(call, moved(call.rows, fan.rows), next(by_state)) for call in fan.calls]
        direct = [(rows, d) for _, rows, d in slope_of if isinstance(d, Tensor)]
        # the rows with a slope that is a number are summed up by the same product, in a row behind the last
        numbers = [0.0 if isinstance(d, Tensor) else d for call, _, d in slope_of for _ in range(call.count)]
        m = M[fan.nodes, fan.rows].t()
        if any(numbers):
            m = torch.cat([m, m.new_tensor([numbers]) @ m])
        gy = scratch[: len(m)]
        steps.append(
            (
                m,
                flat[:, fan.nodes].unbind(),
                gy.flatten(1),
                [(gy[moved(rows, fan.rows)], by_a[:, slots].unbind()) for slots, rows in fan.products],
                [(gy[rows], d.unbind()) for rows, d in direct if d.shape[1] > 1],
                [(gy[rows.start], d[:, 0].unbind()) for rows, d in direct if d.shape[1] == 1],
                gy[-1] if any(numbers) else None,
                G[:, fan.state].unbind(),
                w,
                rows_of(ga, fan.taking, n_h).unbind(),
            )
        )
    steps.reverse()
    back = mean.t()
    for t in range(T - 1, -1, -1):
        if ends:
            ends[t][0].addmm_(back, ends[t][1])
        for m, gn, out, products, several, single, rest, gs, w, taken in steps:
            torch.mm(m, gn[t], out=out)
            for rows, slope in products:
                slope[t].mul_(rows)
            for rows, slope in several:
                gs[t].add_((slope[t] * rows).sum(0))
            for row, slope in single:
                gs[t].addcmul_(slope[t], row)
            if rest is not None:
                gs[t].add_(rest)
            if w is not None:
                gs[t].addmm_(w, taken[t])
    return flat[:-1], y, ga


def slopes(own: Plan, S: Tensor, a: Tensor) -> tuple[Tensor, Tensor, list[Tensor | float]]:
    """What y is at some steps, (time, rows, n_h * batch), and its derivatives by a, and call by call by the state.
    What is computed alike from several states is computed at once.
    """
    T, _, n_h, B = S.shape
    y, by_a = S.new_empty(T, own.shape[1], n_h, B), torch.empty_like(a)
    by_state: list[Tensor | float] = []
    for group in own.alike:
        fan, count = group[0], len(group)
        inner, outer, into = (
            v[:, span.start : span.start + count * (span.stop - span.start)].unflatten(1, (count, -1))
            for v, span in ((a, fan.slots), (y, fan.rows), (by_a, fan.slots))
        )
        s = S[:, fan.state : fan.state + count].unsqueeze(2)
        found = []
        for call in fan.calls:
            terms = [moved(k, fan.slots) for k in call.terms]
            value, *by_terms, by_s = call.told.slopes(*(inner[:, :, k] for k in terms), s.expand(-1, -1, call.count, -1, -1))
            outer[:, :, moved(call.rows, fan.rows)] = value
            for k, slope in zip(terms, by_terms, strict=True):
                into[:, :, k] = slope
            found.append(by_s)
        by_state += [d[:, i] if isinstance(d, Tensor) else d for i in range(count) for d in found]
    return y.flatten(2), by_a, by_state


def differentiable(own: Plan, n_h: int, x: Tensor, M: Tensor, maps: Maps) -> Tensor:
    """What `forward` and what stands around it compute, in the words of autograd."""
    W_x, b, *W = maps
    mean, outputs = average(own, x), []
    zero = h = x.new_zeros(n_h, x.shape[1])
    for begun in projection(own, n_h, x, W_x, b).unbind():
        states = [h, *[zero] * (own.shape[0] - 1)]
        for fan, w in zip(own.fans, W, strict=True):
            s, a = states[fan.state], rows_of(begun, fan.slots, n_h)
            if w is not None:
                Ws = w @ s
                a = torch.cat([a[: len(Ws)] + Ws if fan.slots.start < own.projected else Ws, a[len(Ws) :]])
            terms = a.view(-1, *s.shape)
            y = [c.told.function(*(terms[moved(k, fan.slots)] for k in c.terms), s.expand(c.count, -1, -1)) for c in fan.calls]
            added = (M[fan.nodes, fan.rows] @ torch.cat(y).flatten(1)).view(-1, *s.shape)
            for node, n in enumerate(added, fan.nodes.start):
                states[node] = states[node] + n
        h = (mean @ torch.stack(states[1:]).flatten(1)).view_as(h)
        outputs.append(h)
    return torch.stack(outputs).transpose(1, 2)


def moved(part: slice, whole: slice) -> slice:
    """A part, counted from where the whole begins."""
    return slice(part.start - whole.start, part.stop - whole.start)
