"""Which axes of a module carry the same units.

The law behind most tests: to permute the units of an atom in all tensors that carry it does not change the outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import module_zoo as zoo
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.rules import Trace, Value, register_rule
from nasframe.modules.rules.trace import RULES


@cache
def coupled(name: str) -> Coupling:
    return couple(*zoo.build(name))


def same(coupling: Coupling, *axes: tuple[str, int]) -> bool:
    """Whether all axes consist of the same atoms."""
    return len({tuple(coupling.axes[name][k].atoms()) for name, k in axes}) == 1


def free_atoms(coupling: Coupling) -> list[Axis]:
    """The atoms of tensors that are not frozen, each once."""
    atoms = [atom for axes in coupling.axes.values() for axis in axes for atom in axis.atoms()]
    return [atom for atom in dict.fromkeys(atoms) if not atom.frozen and atom.size > 1]


def order(axis: Axis, orders: dict[Axis, Tensor]) -> Tensor:
    """The entries of an axis whose atoms are permuted."""
    axis = axis.find()
    if axis.form is None:
        return orders.get(axis, torch.arange(axis.size))
    result = torch.zeros(1 if axis.form == "*" else 0, dtype=torch.long)
    for part in axis.parts:
        inner = order(part, orders)
        nested = (result[:, None] * part.size + inner).flatten()
        result = nested if axis.form == "*" else torch.cat([result, inner + len(result)])
    return result


def permuted(coupling: Coupling, atoms: list[Axis]) -> nn.Module:
    """A copy of the model in which the units of some atoms are permuted at random."""
    generator = torch.Generator().manual_seed(0)
    orders = {atom: torch.arange(atom.size).roll(1) for atom in atoms if atom.size == 2}
    orders |= {atom: torch.randperm(atom.size, generator=generator) for atom in atoms if atom.size > 2}
    model = copy.deepcopy(coupling.model)
    held = dict([*model.named_parameters(), *model.named_buffers()])
    for name, axes in coupling.axes.items():
        for dim, axis in enumerate(axes):
            held[name].data = held[name].data.index_select(dim, order(axis, orders))
    return model


def distance(coupling: Coupling, other: nn.Module) -> float:
    """How far the outputs of another model are from those of the coupled one, in evaluation mode."""
    with torch.no_grad():
        ours, theirs = (tree_leaves(m.eval()(*coupling.example.args)) for m in (coupling.model, other))
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def assert_permutable(coupling: Coupling, tolerance: float = 1e-12) -> list[Axis]:
    atoms = free_atoms(coupling)
    assert distance(coupling, permuted(coupling, atoms)) < tolerance
    return atoms


@pytest.mark.parametrize("name", zoo.NAMES)
def test_permuted_units_do_not_change_the_outputs(name: str) -> None:
    """All free atoms of a model can be permuted at once, and no free axis is missed."""
    assert assert_permutable(coupled(name))


class Net(nn.Module):
    """A function between modules, which it gets as arguments."""

    def __init__(self, forward: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = forward, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def net(forward: Callable[..., Any], *modules: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in modules:
            for tensor in module.parameters():
                nn.init.normal_(tensor)
    return Net(forward, *modules).double()


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rows() -> Tensor:
    return torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def sequences() -> Tensor:
    return torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Table(nn.Module):
    """A parameter of a given shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def conv(i: int, o: int, **options: Any) -> nn.Module:
    return nn.Conv2d(i, o, 3, padding=1, **options)


#: by name: the input, the net, and the sizes of its free atoms
OPERATIONS: dict[str, tuple[Tensor, nn.Module, list[int]]] = {
    "bilinear": (rows(), net(lambda x, a, b, c: c(b(a(x), a(x).relu())), nn.Linear(5, 6), nn.Bilinear(6, 6, 4), nn.Linear(4, 2)), [4, 6]),
    "matmul": (rows(), net(lambda x, a, t: a(x) @ t.weight, nn.Linear(5, 6), Table(6, 2)), [6]),
    "addmm": (rows(), net(lambda x, a, t, b: b(torch.addmm(a(x), x, t.weight)), nn.Linear(5, 6), Table(5, 6), nn.Linear(6, 2)), [6]),
    "einsum": (sequences(), net(lambda x, a, t: torch.einsum("btc,cd->btd", a(x), t.weight), nn.Linear(5, 6), Table(6, 2)), [6]),
    "product of batches": (
        sequences(), net(lambda x, a, b: b(torch.baddbmm(a(x), x[:, :, :4], a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), [6]
    ),
    "transposed matrices": (sequences(), net(lambda x, a, b: b(a(x).mT.relu().mT), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "outer product": (
        rows(), net(lambda x, a, t, b: b(torch.outer(a(x)[0], t.weight).flatten()), nn.Linear(5, 3), Table(4), nn.Linear(12, 2)), [3, 4]
    ),
    "bag of embeddings": (
        torch.tensor([[1, 2, 0], [0, 3, 3]]), net(lambda x, e, b: b(e(x)), nn.EmbeddingBag(4, 6), nn.Linear(6, 2)), [6]
    ),
    "einsum without an arrow": (
        rows(), net(lambda x, a, t: torch.einsum("bc,cd", a(x), t.weight), nn.Linear(5, 6), Table(6, 2)), [6]
    ),
    "root of mean square": (
        rows(), net(lambda x, a, t, b: b(_scaled(a(x)) * t.weight), nn.Linear(5, 6), Table(6), nn.Linear(6, 2)), [6]
    ),
    "biased variance": (rows(), net(lambda x, a: a(x).var(-1, correction=0) + a(x).amax(-1), nn.Linear(5, 6)), [6]),
    "einsum heads": (
        sequences(),
        net(
            lambda x, q, k, v: torch.einsum(
                "b h i j, b j h d -> b i h d",
                torch.einsum("...ihd,...jhd->...hij", q(x).unflatten(-1, (2, 3)), k(x).unflatten(-1, (2, 3))).softmax(-1),
                v(x).unflatten(-1, (2, 3)),
            ).sum((2, 3)),
            *(nn.Linear(5, 6) for _ in range(3)),
        ),
        [3],
    ),
    "grouped transposed convolution": (
        images(),
        net(lambda x, a, b, c: c(b(a(x))), conv(3, 4), nn.ConvTranspose2d(4, 6, 3, groups=2), conv(6, 2)),
        [2, 2, 3],
    ),
    "transposed convolution": (
        images(), net(lambda x, a, b, c: c(b(a(x))), conv(3, 4), nn.ConvTranspose2d(4, 6, 3), conv(6, 2)), [4, 6]
    ),
    "depthwise": (images(), net(lambda x, a, b, c: c(b(a(x))), conv(3, 4), conv(4, 8, groups=4), conv(8, 2)), [2, 4]),
    "instance norm": (
        images(), net(lambda x, a, n, b: b(n(a(x))), conv(3, 4), nn.InstanceNorm2d(4, affine=True), conv(4, 2)), [4]
    ),
    "prelu": (images(), net(lambda x, a, p, b: b(p(a(x))), conv(3, 4), nn.PReLU(4), conv(4, 2)), [4]),
    "one slope": (images(), net(lambda x, a, p, b: b(p(a(x))), conv(3, 4), nn.PReLU(), conv(4, 2)), [4]),
    "glu": (rows(), net(lambda x, a, b: b(F.glu(a(x))), nn.Linear(5, 8), nn.Linear(4, 2)), [4]),
    "slices": (rows(), net(lambda x, a, b: b(a(x)[:, :2] * a(x)[:, 4:]), nn.Linear(5, 6), nn.Linear(2, 2)), [2, 2]),
    "a slice from before the start": (rows(), net(lambda x, a, b: b(a(x)[:, -9:2]), nn.Linear(5, 6), nn.Linear(2, 2)), [2, 4]),
    "slices in steps": (
        rows(), net(lambda x, a, b: b(torch.stack([-a(x)[:, 1::2], a(x)[:, ::2]], -1).flatten(-2)), nn.Linear(5, 6), nn.Linear(6, 2)),
        [3],
    ),
    "channels that are padded": (
        images(), net(lambda x, a, b: b(F.pad(a(x), (0, 0, 0, 0, 2, 2))), conv(3, 4), conv(8, 2)), [4]
    ),
    "flatten": (images(), net(lambda x, a, b: b(F.max_pool2d(a(x), 3).flatten(1)), conv(3, 4), nn.Linear(16, 2)), [4]),
    "channel shuffle": (
        images(),
        net(
            lambda x, a, b, c: (lambda h: c(h.chunk(2, 1)[0]))(F.channel_shuffle(torch.cat([a(x), b(x)], 1), 2)),
            conv(3, 4), conv(3, 4), conv(4, 2),
        ),
        [2, 2],
    ),
    "pixel shuffle": (images(), net(lambda x, a, b: b(F.pixel_shuffle(a(x), 2)), conv(3, 8), conv(2, 2)), [2]),
    "pixel unshuffle": (images(), net(lambda x, a, b: b(F.pixel_unshuffle(a(x), 2)), conv(3, 2), conv(8, 2)), [2]),
    "index of a table": (
        rows(), net(lambda x, t, a, b: b(a(x) + t.weight[torch.tensor([1, 0, 2, 2])]), Table(3, 6), nn.Linear(5, 6), nn.Linear(6, 2)), [6]
    ),
    "repeats": (
        rows(), net(lambda x, a, b: b(torch.cat([a(x).repeat(1, 2), a(x).repeat_interleave(2, 1)], 1)), nn.Linear(5, 3), nn.Linear(12, 2)),
        [2, 2, 3],
    ),
    "expanded positions": (
        sequences(), net(lambda x, t, a, b: b(torch.cat([t.weight.expand(2, -1, -1), a(x)], 1)), Table(1, 1, 6), nn.Linear(5, 6),
                         nn.Linear(6, 2)), [6],
    ),
    "assigned slice": (rows(), net(lambda x, a, b: b(_assigned(a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), [2, 4]),
    "assigned entries": (
        sequences(), net(lambda x, a, b, c: c(a(x).index_put((torch.tensor([0]),), b(x[0]))), nn.Linear(5, 6), nn.Linear(5, 6),
                         nn.Linear(6, 2)), [6],
    ),
    "hardswish": (rows(), net(lambda x, a, b: b(F.hardswish(a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "mask": (rows(), net(lambda x, a, b: b(a(x).masked_fill(a(x) < 0, 2.0)), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "weight in pieces": (
        rows(), net(lambda x, t, b: b(F.linear(x, t.weight[:4]) * F.linear(x, t.weight[4:])), Table(8, 5), nn.Linear(4, 2)), [4]
    ),
    "movedim": (images(), net(lambda x, a, b: b(a(x).movedim(1, -1)), conv(3, 4), nn.Linear(4, 2)), [4]),
    "in place": (rows(), net(lambda x, a, b: b(a(x).relu_().mul_(2).clamp_(max=3)), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "autocast": (rows(), net(lambda x, a, b: b(_in_half(a, x).to(x.dtype)), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "no grad": (rows(), net(lambda x, a, b: b(a(x) * _without_gradient(a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), [6]),
    "lstm cell": (rows(), net(lambda x, c, b: b(c(x, c(x))[0]), nn.LSTMCell(5, 6), nn.Linear(6, 2)), [6]),
    "gru cell": (rows(), net(lambda x, c, b: b(c(x, x.new_zeros(4, 6))), nn.GRUCell(5, 6), nn.Linear(6, 2)), [6]),
    "last state": (sequences(), net(lambda x, r, b: b(r(x)[1][-1]), nn.GRU(5, 6, 2, batch_first=True), nn.Linear(6, 2)), [6]),
    "attention with weights": (
        sequences(),
        net(lambda x, a, m, b: b(m(a(x), a(x), a(x))[0]), nn.Linear(5, 6), nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)),
        [2, 3, 3, 6, 6],
    ),
    "attention": (
        sequences(),
        net(lambda x, a, m, b: b(m(*[a(x)] * 3, need_weights=False)[0]), nn.Linear(5, 6), nn.MultiheadAttention(6, 2, batch_first=True),
            nn.Linear(6, 2)),
        [2, 3, 6, 6],
    ),
}  # fmt: skip


def _scaled(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


def _assigned(h: Tensor) -> Tensor:
    made = h.new_zeros(h.shape)
    made[:, :2] = h[:, 4:]
    made[:, 2:] = h[:, :4].relu()
    return made


def _in_half(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(x)


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.sigmoid()


@pytest.mark.parametrize("name", OPERATIONS)
def test_permuted_units_do_not_change_an_operation(name: str) -> None:
    """Each rule couples exactly the units of its operation: its free atoms, which can all be permuted, have the expected sizes."""
    x, model, expected = OPERATIONS[name]

    atoms = assert_permutable(couple(model, x), 1e-1 if name == "autocast" else 1e-12)

    assert sorted(atom.size for atom in atoms) == expected


#: by name: the input, the net, and the reason why the units of its first layer are frozen
FROZEN: dict[str, tuple[Tensor, nn.Module, str]] = {
    "softmax": (rows(), net(lambda x, a, b: b(a(x).softmax(-1)), nn.Linear(5, 6), nn.Linear(6, 2)), "softmax over it"),
    "sum": (rows(), net(lambda x, a: a(x).sum(-1), nn.Linear(5, 6)), "sum reduces it"),
    "unbiased variance": (rows(), net(lambda x, a: a(x).var(-1), nn.Linear(5, 6)), "var reduces it"),
    "diagonal": (
        rows(), net(lambda x, a, b: b(torch.einsum("bb,bc->bc", x @ x.T, a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), "a diagonal"
    ),
    "sort": (rows(), net(lambda x, a, b: b(a(x).sort(-1)[0]), nn.Linear(5, 6), nn.Linear(6, 2)), "sort depends on the order"),
    "flip": (rows(), net(lambda x, a, b: b(a(x).flip(-1)), nn.Linear(5, 6), nn.Linear(6, 2)), "flip takes its entries by number"),
    "select": (rows(), net(lambda x, a: a(x)[:, 2], nn.Linear(5, 6)), "an entry is selected by its number"),
    "index": (rows(), net(lambda x, a: a(x)[:, torch.tensor([0, 2])], nn.Linear(5, 6)), "its entries are taken by an index"),
    "loss": (rows(), net(lambda x, a: F.mse_loss(a(x), x[:, :1] * torch.ones(6)), nn.Linear(5, 6)), "a loss is computed from it"),
    "no rule": (
        rows(), net(lambda x, a, b: b(torch.fft.rfft(a(x)).real), nn.Linear(5, 6), nn.Linear(4, 2)), "has no rule"
    ),
    "reflection": (
        rows(), net(lambda x, a, b: b(F.pad(a(x), (1, 1), mode="reflect")), nn.Linear(5, 6), nn.Linear(8, 2)), "it is padded"
    ),
    "weight norm": (
        rows(), net(lambda x, a, b: b(a(x)), nn.Linear(5, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 2))), ""
    ),
    "mask of a weight": (
        rows(), net(lambda x, a, t: F.linear(a(x), t.weight * torch.ones(2, 6)), nn.Linear(5, 6), Table(2, 6)), ""
    ),
    "projected lstm": (
        sequences(), net(lambda x, a, r: r(a(x))[0], nn.Linear(5, 6), nn.LSTM(6, 4, proj_size=2, batch_first=True)), "a projection of"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, (_, _, reason) in FROZEN.items() if reason])
def test_what_has_no_units_is_frozen_with_the_line(name: str) -> None:
    """An axis whose entries are not alike is frozen with the reason and the line of the user's code."""
    x, model, reason = FROZEN[name]
    coupling = couple(model, x)

    frozen = coupling.axes["layers.0.weight"][0].frozen

    assert frozen is not None
    assert reason in frozen
    assert "(test_module_coupling.py:" in frozen
    assert_permutable(coupling)


def test_computed_weights_are_refused_clearly() -> None:
    """The axes of a weight that is computed from parameters are frozen, and the reason says so."""
    for name, reason in (
        ("mask of a weight", "the weight is no parameter but computed"),
        ("weight norm", "layers.1.weight has a parametrisation: remove it"),
    ):
        x, model, _ = FROZEN[name]
        coupling = couple(model, x)
        assert reason in str(coupling.axes["layers.0.weight"][0].frozen)
        assert_permutable(coupling)


class Random(nn.Module):
    """A network of a few random steps, each of which keeps the shape or changes the number of features."""

    def __init__(self, steps: list[str], sizes: list[int]) -> None:
        super().__init__()
        self.steps, self.layers = steps, nn.ModuleDict()
        self.widths, width = [], 4
        for k, (step, size) in enumerate(zip(steps, sizes, strict=True)):
            self.widths.append(width)
            make = {
                "linear": lambda w=width, s=size: nn.Linear(w, s),
                "residual": lambda w=width, s=size: nn.Sequential(nn.Linear(w, s), nn.ReLU(), nn.Linear(s, w)),
                "concatenated": lambda w=width, s=size: nn.Linear(w, s),
                "norm": lambda w=width: nn.LayerNorm(w),
                "batch": lambda w=width: nn.BatchNorm1d(w),
            }.get(step)
            if make:
                self.layers[str(k)] = make()
            width = {"linear": size, "concatenated": width + size, "twice": 2 * width, "halves": width // 2}.get(step, width)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for k, step in enumerate(self.steps):
            if step in ("linear", "norm", "batch"):
                x = self.layers[str(k)](x)
            elif step == "residual":
                x = x + self.layers[str(k)](x)
            elif step == "concatenated":
                x = torch.cat([x, self.layers[str(k)](x)], 1)
            elif step == "twice":
                x = torch.cat([x, x.relu()], 1)
            elif step == "halves":
                a, b = x.chunk(2, 1)
                x = a * b.sigmoid()
            elif step == "grouped":
                x = x.view(len(x), 2, -1).transpose(1, 2).flatten(1)
            elif step == "scaled":
                x = x.view(len(x), 2, -1).tanh().flatten(1)
        return self.out(x)


steps = st.lists(
    st.sampled_from(["linear", "residual", "concatenated", "twice", "halves", "grouped", "scaled", "norm", "batch"]),
    min_size=1,
    max_size=5,
)


@given(steps, st.lists(st.sampled_from([4, 8, 12]), min_size=5, max_size=5))
def test_permuted_units_do_not_change_random_networks(names: list[str], sizes: list[int]) -> None:
    """The law holds for any composition of layers, residual branches, concatenations, splits and reshapes."""
    kept, width = list[str](), 4
    for step, size in zip(names, sizes, strict=False):
        if width % 4 == 0 or step not in ("halves", "grouped", "scaled"):
            kept.append(step)
            width = {"linear": size, "concatenated": width + size, "twice": 2 * width, "halves": width // 2}.get(step, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Random(kept, sizes[: len(kept)]).double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    coupling = couple(model, x)

    assert_permutable(coupling)
    assert all(tuple(a.size for a in axes) == coupling.tensors[name].shape for name, axes in coupling.axes.items())


def test_an_index_produces_no_units() -> None:
    """The axes of a buffer that only indexes another tensor are no units that could grow."""
    positions = nn.Module()
    positions.register_buffer("index", torch.tensor([1, 0, 2, 2]))
    model = net(lambda x, t, p, a, b: b(a(x) + t.weight[p.index]), Table(3, 6), positions, nn.Linear(5, 6), nn.Linear(6, 2))

    coupling = couple(model, rows())

    assert ("layers.1.index", 0) not in coupling.produced
    assert ("layers.0.weight", 1) in coupling.produced


def test_statistics_are_noted() -> None:
    """Units over which a mean is taken are normalised: a normalisation that the user wrote counts as one."""
    x, model, _ = OPERATIONS["root of mean square"]
    coupling = couple(model, x)

    assert "normalised over at the model (test_module_coupling.py:" in str(coupling.axes["layers.0.weight"][0].normalised)
    assert coupling.axes["layers.0.weight"][1].normalised is None


def test_a_piece_of_a_weight_has_the_roles_of_its_axes() -> None:
    """Rows of a weight that are used apart produce units, and its columns consume them."""
    model = net(lambda x, a, t: F.linear(a(x), t.weight[:2]) + F.linear(a(x), t.weight[2:]), nn.Linear(5, 6), Table(4, 6))

    coupling = couple(model, rows())

    assert ("layers.1.weight", 0) in coupling.produced
    assert ("layers.1.weight", 1) in coupling.consumed


def test_a_rule_that_returns_other_sizes_is_refused() -> None:
    """A rule whose outputs do not have the sizes of the operation's freezes the axes and says so."""
    register_rule("expm1")(lambda trace, input: input.moved([0]))
    try:
        coupling = couple(net(lambda x, a, b: b(torch.expm1(a(x))), nn.Linear(5, 6), nn.Linear(6, 2)), rows())
    finally:
        RULES.pop("expm1")

    assert "the rule of expm1 returned axes of the sizes [(4,)]" in str(coupling.axes["layers.0.weight"][0].frozen)


def test_shapes_that_depend_on_values_are_refused() -> None:
    """An operation whose output's shape depends on its values is refused with its line."""
    with pytest.raises(ChangeError, match=r"depends on its values.*test_module_coupling.py"):
        couple(net(lambda x, a: a(x)[a(x) > 0], nn.Linear(5, 6)), rows())


def test_the_rows_of_a_layer_are_the_columns_of_the_next() -> None:
    """Hidden units couple a weight's rows, bias, normalisation and the columns of what reads them; inputs and outputs are frozen."""
    coupling = coupled("mlp")

    assert same(coupling, ("a.weight", 0), ("a.bias", 0), ("norm.weight", 0), ("norm.running_mean", 0), ("b.weight", 1))
    assert not same(coupling, ("a.weight", 0), ("b.weight", 0))
    assert coupling.axes["a.weight"][1].frozen == "it is an axis of the model's input x"
    assert coupling.axes["c.weight"][0].frozen == "it is an axis of the model's output"
    assert {s for s in coupling.consumed if s[0] == "b.weight"} == {("b.weight", 1)}
    assert ("a.weight", 0) in coupling.produced


class Moded(nn.Module):
    """A linear layer, and another function of what it returns in each mode."""

    def __init__(self, mode: Callable[[Moded], bool]) -> None:
        super().__init__()
        self.mode, self.layer = mode, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu() if self.mode(self) else self.layer(x).sort(-1)[0]


class Frozen(Moded):
    """A class that has a mode of another kind, which cannot be seen to be read."""

    training = False


def test_a_model_is_exported_in_each_mode_that_it_reads() -> None:
    """Where a module reads its mode, both graphs are read; where none does, there is one graph for both modes."""
    x = torch.ones(2, 3)
    reading, frozen, plain = (
        couple(model, x) for model in (Moded(lambda m: m.training), Frozen(lambda m: m.training), Moded(lambda m: True))
    )

    for coupling in (reading, frozen):
        graphs = [str(coupling.graphs[training].graph) for training in (True, False)]
        assert ["relu" in graph for graph in graphs] == [True, False]
        assert ["sort" in graph for graph in graphs] == [False, True]
    assert plain.graphs[True] is plain.graphs[False]
    assert not hasattr(nn.Module, "training")


@pytest.mark.parametrize("name", ["cnn", "gpt", "lstm"])
def test_coupling_leaves_the_model_as_it_is(name: str) -> None:
    """Parameters, buffers, modes, attributes and the random state are the same before and after."""
    model, example = zoo.build(name)
    next(iter(model.children())).eval()
    tensors = {n: (t, t.clone()) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    attributes = {m: dict(vars(m)) for m in model.modules()}
    state = torch.random.get_rng_state()

    coupling = couple(model, example)

    assert all(vars(m)[k] is v for m, before in attributes.items() for k, v in before.items())
    assert all(vars(m).keys() == before.keys() for m, before in attributes.items())
    now = [*model.named_parameters(), *model.named_buffers()]
    assert all(t is tensors[n][0] and torch.equal(t, tensors[n][1]) for n, t in now)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {name: tuple(a.size for a in axes) for name, axes in coupling.axes.items()} == {
        name: t.shape for name, t in coupling.tensors.items()
    }


def test_a_tied_tensor_has_one_name_and_all_its_aliases() -> None:
    """A tied weight both produces its units and consumes them."""
    coupling = coupled("gpt")

    assert coupling.aliases["wte.weight"] == ("wte.weight", "lm_head.weight")
    assert "lm_head.weight" not in coupling.axes
    assert ("wte.weight", 1) in coupling.produced
    assert ("wte.weight", 1) in coupling.consumed
    assert coupling.norm_before["wte.weight", 1] == ("ln_f.weight", "ln_f.bias")


@pytest.mark.parametrize("name", ["gpt", "gpt kept head size", "gpt inferred heads"])
def test_attention_couples_heads_and_contracts_the_head_size(name: str) -> None:
    """The rows of the query are heads times head size, and the head size is contracted."""
    coupling = coupled(name)
    heads, size = coupling.axes["h.0.attn.c_proj.weight"][1].factors()
    query = coupling.axes["h.0.attn.c_attn.weight"][0].atoms()

    assert (heads.size, size.size) == (2, 8)
    assert any(atom.size == 8 and atom in coupling.contracted for atom in query)
    assert heads in query
    assert heads not in coupling.contracted


def test_numbers_of_torchs_modules_have_their_axes() -> None:
    """Each number of a module of torch is the size of its axis, groups and heads included."""
    for name in ("cnn", "encoder", "gru", "llama"):
        coupling = coupled(name)
        assert coupling.module_numbers
        for module, attribute, axis in coupling.module_numbers:
            held = getattr(coupling.model.get_submodule(module), attribute)
            assert (held[0] if isinstance(held, tuple) else held) == axis.size
    found = {(n.module, n.attribute) for n in coupled("cnn").module_numbers}
    assert {("conv2", "groups"), ("norm", "num_groups"), ("bn", "num_features"), ("fc1", "in_features")} <= found
    assert ("encoder.layers.0.self_attn", "num_heads") in {(n.module, n.attribute) for n in coupled("encoder").module_numbers}


def test_tensors_that_no_graph_reads_are_unused() -> None:
    """A parameter that the forward does not read is reported; one that only training reads is not."""
    model = net(lambda x, a, n, _: n(a(x)), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(2, 2))

    assert couple(model, rows()).unused == {"layers.2.weight", "layers.2.bias"}


def test_users_register_rules_of_their_operations() -> None:
    """With a rule of the user's an operation is coupled; without one it is frozen with its name."""
    library = torch.library.Library("nasframe_test", "DEF")
    library.define("scale(Tensor x, Tensor factors) -> Tensor")
    library.impl("scale", lambda x, factors: x * factors, "CompositeExplicitAutograd")
    scale = torch.ops.nasframe_test.scale
    model = net(lambda x, a, t, b: b(scale(a(x), t.weight)), nn.Linear(5, 6), Table(6), nn.Linear(6, 2))

    assert "nasframe_test.scale.default has no rule" in str(couple(model, rows()).axes["layers.1.weight"][0].frozen)

    @register_rule("nasframe_test::scale")
    def _(trace: Trace, x: Value, factors: Value) -> Value:
        trace.unify(x.axes[-1], trace.produce(factors, 0))
        return x

    coupling = couple(model, rows())
    assert [atom.size for atom in assert_permutable(coupling)] == [6]
    assert ("layers.1.weight", 0) in coupling.produced


def test_a_model_that_cannot_be_traced_is_refused_with_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A branch on data is refused, with what torch says and the line of the user's code; no graph is printed, the model is as before."""
    model = net(lambda x, a: a(x) if x.sum() > 0 else x, nn.Linear(5, 5))

    with pytest.raises(
        ChangeError, match=r"torch\.export cannot trace the model in training mode: .*\(test_module_coupling\.py:\d+\)"
    ):
        couple(model, rows())
    assert model.training
    assert "def forward" not in capsys.readouterr().err


@pytest.mark.parametrize("example", [torch.zeros(3, 4), (), (torch.zeros(3, 5), None)])
def test_a_wrong_example_is_named_as_the_cause(example: Any) -> None:
    """Wrong sizes or numbers of arguments are no limit of torch.export."""
    model = net(lambda x, a: a(x), nn.Linear(5, 5))

    with pytest.raises(ChangeError, match="the model cannot be called with this example in training mode: ") as error:
        couple(model, example)
    assert isinstance(example, tuple) or "(test_module_coupling.py:" in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t"])
def test_permuted_units_do_not_change_models_of_torchvision(name: str, pytestconfig: pytest.Config) -> None:
    """The law holds for torchvision's models."""
    if not pytestconfig.getoption("--nasframe-full"):
        pytest.skip("with --nasframe-full")
    model, example = zoo.vision(name)
    coupling = couple(model, example)
    atoms = free_atoms(coupling)

    with torch.no_grad():
        scale = float(model.eval()(*example).abs().max())

    assert distance(coupling, permuted(coupling, atoms)) < 1e-10 * scale
