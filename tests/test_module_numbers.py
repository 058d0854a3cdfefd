"""The numbers that a user's classes keep follow from the new sizes of axes."""

from __future__ import annotations

import logging
import threading
from functools import cache
from types import SimpleNamespace
from typing import Any

import module_zoo as zoo
import pytest
import torch
from torch import Tensor, nn

import nasframe
from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.numbers import numbers, questions


@cache
def built(name: str) -> Coupling:
    """The coupling of a model of the zoo."""
    return couple(*zoo.build(name))


def atom(coupling: Coupling, tensor: str, dim: int, size: int) -> Axis:
    """The atom of an axis that has a given size."""
    (found,) = {a for a in coupling.axes[tensor][dim].atoms() if a.size == size and not a.frozen}
    return found


def users(coupling: Coupling, sizes: dict[Axis, int]) -> dict[str, Any]:
    """The new numbers of modules that are not torch's."""
    return {
        f"{module}.{name}".lstrip("."): value
        for module, name, value in numbers(coupling, sizes)
        if not type(coupling.model.get_submodule(module)).__module__.startswith("torch.nn.")
    }


def test_numbers_follow_where_the_head_size_comes_from_the_width() -> None:
    """In nanoGPT's code, n_embd and n_head follow from the width and the heads, and nothing else changes."""
    coupling = built("gpt")
    width = coupling.axes["wte.weight"][1].find()
    heads = {atom(coupling, f"h.{i}.attn.c_attn.weight", 0, 2) for i in (0, 1)}

    found = users(coupling, {width: 32} | dict.fromkeys(heads, 4))

    assert found == {f"h.{i}.attn.{name}": value for i in (0, 1) for name, value in (("n_embd", 32), ("n_head", 4))}


def test_the_code_ties_heads_and_width() -> None:
    """Where the code divides the width by n_head, heads times head size are noted to equal the width; else they are not."""
    tied, free = (built(name) for name in ("gpt", "gpt kept head size"))

    for coupling, expected in ((tied, True), (free, False)):
        width = coupling.axes["wte.weight"][1].find()
        heads = atom(coupling, "h.0.attn.c_attn.weight", 0, 2)
        ties = [e for e in coupling.equal if width in e.first.atoms() + e.second.atoms()]
        assert any(heads in e.first.atoms() + e.second.atoms() for e in ties) is expected
    with pytest.raises(
        ChangeError, match=r"16 // h\.0\.attn\.n_head, which would be 4 instead of 8, at h\.0\.attn \(module_zoo"
    ):
        numbers(tied, {atom(tied, "h.0.attn.c_attn.weight", 0, 2): 4})


def test_quotients_of_numbers_follow() -> None:
    """In Llama's code, heads // groups is the number of queries for each key, and both numbers follow from the axes."""
    coupling = built("llama")
    groups = atom(coupling, "layers.1.v.weight", 0, 2)
    each = next(a for a in coupling.axes["layers.1.q.weight"][0].atoms()[:2] if a is not groups)

    assert users(coupling, {groups: 3}) == {"layers.1.groups": 3, "layers.1.heads": 6}
    assert users(coupling, {each: 5}) == {"layers.1.heads": 10}


class Net(nn.Module):
    """Two linear layers and between them code that computes with numbers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
        self.heads, self.size, self.half, self.parts, self.whole = 2, 4, 4, (2, 4), 8
        self.config = SimpleNamespace(heads=2, name="net")
        self.unflatten = nn.Unflatten(1, (2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.kind == "product":
            h = h.view(-1, self.heads * self.size)
        elif self.kind == "product kept in a view":
            h = h.view(-1, self.heads, self.size).relu().view(-1, self.heads * self.size)
        elif self.kind == "slice":
            h = torch.cat([h[:, : self.half], h[:, self.half :].relu()], 1)
        elif self.kind == "tuple":
            h = h.view(-1, *self.parts).relu().flatten(1)
        elif self.kind == "configuration":
            h = h.view(len(x), self.config.heads, -1).relu().flatten(1)
        elif self.kind == "unflatten":
            h = self.unflatten(h).relu().flatten(1)
        elif self.kind == "constant":
            h = h + torch.zeros(self.half + 4)
        elif self.kind == "shape":
            h = h.view(len(h), self.heads, h.shape[1] // self.heads).relu().flatten(1)
        elif self.kind == "halves":
            half = h.shape[-1] // 2
            h = torch.cat([-h[:, half:], h[:, :half]], 1)
        elif self.kind == "leading sizes":
            h = h.view(-1, h.size(-1)).view(x.size()[:-1] + (self.whole,))  # noqa: RUF005
        elif self.kind == "literal":
            h = h.view(-1, self.heads, 4).relu().flatten(1)
        return self.b(h)


@cache
def coupled(kind: str) -> Coupling:
    return couple(Net(kind), torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("kind", "changed", "expected"),
    [
        ("product kept in a view", (0, 6), {"heads": 6}),
        ("product kept in a view", (1, 6), {"size": 6}),
        ("slice", (0, 6), {"half": 6}),
        ("slice", (1, 6), {}),
        ("tuple", (0, 6), {"parts": (6, 4)}),
        ("tuple", (1, 6), {"parts": (2, 6)}),
        ("configuration", (0, 6), {"config.heads": 6}),
        ("configuration", (1, 6), {}),
        ("constant", (0, 9), {"half": 5}),
        ("literal", (0, 6), {"heads": 6}),
        ("leading sizes", (0, 9), {"whole": 9}),
    ],
)
def test_numbers_follow_from_the_code(kind: str, changed: tuple[int, int], expected: dict[str, int]) -> None:
    """A number in a view, a slice, a tuple, a configuration or a sum follows from the factor or summand that it is the size of."""
    coupling = coupled(kind)
    index, size = changed

    assert users(coupling, {coupling.axes["a.weight"][0].atoms()[index]: size}) == expected
    assert questions(coupling, {}) == ()
    assert numbers(coupling, {}) == ()


def test_halves_that_the_code_computes_stay_halves() -> None:
    """Where the code splits an axis at its middle, both halves are noted to have the same size."""
    coupling = coupled("halves")
    first, second = coupling.axes["a.weight"][0].summands()
    tie = next(e for e in coupling.equal if "shape" not in e.reason)

    assert "the code computes one size as (4+4) // 2" in tie.reason
    assert tie.first.size_with({first: 6, second: 6}) == tie.second.size_with({first: 6, second: 6}) == 12
    with pytest.raises(ChangeError, match=r"\(4\+4\) // 2, which would be 5 instead of 6"):
        numbers(coupling, {first: 6})
    assert users(coupling, {first: 6, second: 6}) == {}


def test_torchs_unflatten_follows() -> None:
    """The tuple of nn.Unflatten follows like a user's."""
    coupling = coupled("unflatten")

    found = numbers(coupling, {coupling.axes["a.weight"][0].atoms()[0]: 6})

    assert ("unflatten", "unflattened_size", (6, 4)) in found


def test_two_readings_are_a_question() -> None:
    """Where a size is the product of two numbers, either may have changed: both are asked for, with what they might be."""
    coupling = coupled("product")
    units = coupling.axes["a.weight"][0].find()

    found = {(q.module, q.attribute): q.readings for q in questions(coupling, {units: 16})}

    assert found == {("", "heads"): (2, 4), ("", "size"): (4, 8)}


def test_a_literal_size_is_left_to_the_measurement() -> None:
    """No number says that a size is a literal in the code: the child does not run, and so is refused there."""
    coupling = coupled("literal")
    size = coupling.axes["a.weight"][0].atoms()[1]

    assert ("a", "out_features", 12) in numbers(coupling, {size: 6})


def test_one_number_for_two_axes_that_part_is_refused() -> None:
    """A number that is the size of two axes cannot follow if only one of them changes."""
    coupling = built("gpt")
    query = coupling.axes["h.0.attn.c_attn.weight"][0].summands()[0].atoms()[1]

    with pytest.raises(ChangeError, match=r"h\.0\.attn\.n_embd is the size of two axes that would differ: 32 at .*, 16 at"):
        numbers(coupling, {query: 16})


def test_objects_that_cannot_be_copied_are_left_alone() -> None:
    """A logger and an object with a lock, which a module keeps, are as before."""
    model = Net("slice")
    model.log, model.locked = logging.getLogger("net"), SimpleNamespace(lock=threading.Lock(), count=3)
    level = model.log.level

    coupling = couple(model, torch.zeros(5, 3))

    assert type(model.log.level) is int
    assert (model.log.level, model.locked.count) == (level, 3)
    assert users(coupling, {coupling.axes["a.weight"][0].atoms()[0]: 6}) == {"half": 6}


def test_the_model_keeps_its_plain_numbers() -> None:
    """After coupling, all attributes are the objects that they were."""
    model = Net("configuration")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}

    couple(model, torch.zeros(5, 3))

    assert all(vars(module)[k] is v for name, module in model.named_modules() for k, v in before[name].items())
    assert type(model.config.heads) is int


class Branch(nn.Module):
    """A branch that reads its numbers from a configuration, which the whole model shares."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.a, self.b = nn.Linear(3, config.heads * 4), nn.Linear(config.heads * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(len(x), self.config.heads, -1).relu().flatten(1))


class Branches(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.first, self.second = Branch(config), Branch(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def test_a_shared_configuration_is_set_once_in_the_child() -> None:
    """Modules that share a configuration grow together; the child has a configuration of its own, the parent keeps its."""
    model, x = Branches(SimpleNamespace(heads=2)).double(), torch.randn(5, 3, dtype=torch.float64)

    change = nasframe.widen(model, "first.a", to=3, factor=0, example=x)

    assert (model.config.heads, change.model.config.heads) == (2, 3)
    assert change.model.first.config is change.model.second.config is change.model.config
    assert change.model.second.a.out_features == 12
    assert "config.heads: 2 -> 3" in str(change)
    with pytest.raises(ChangeError, match=r"no module of the model keeps a number of that name"):
        nasframe.widen(model, "first.a", to=3, factor=0, example=x, numbers={"config.tails": 3})
