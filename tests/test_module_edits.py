"""Edits of a model are data: they are replayed on a copy or on a fresh model, and survive JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hand_made import mlp, regather
from hypothesis import given, strategies as st
from torch import Tensor, nn

from nasframe.errors import ChangeError
from nasframe.modules.edits import (
    Beside,
    Insert,
    Layer,
    Replace,
    Resize,
    SetNumber,
    Stack,
    Unwrap,
    edit_from_dict,
    edit_to_dict,
    replay,
)
from nasframe.seeds import Seed

SEED = Seed((0,))

names = st.text("abc.0", max_size=5)
numbers = st.recursive(
    st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3).map(tuple),
    max_leaves=4,
)
layers = st.lists(st.builds(Layer, names, st.dictionaries(names, numbers, max_size=2)), max_size=2).map(tuple)
edits = st.one_of(
    st.builds(Resize, names, st.lists(st.integers(0, 9), max_size=4).map(tuple)),
    st.builds(SetNumber, names, names, numbers),
    st.builds(Replace, names, layers),
    st.builds(Beside, names, layers),
    st.builds(Stack, names, layers),
    st.builds(Unwrap, names),
    st.builds(Insert, names, names, names),
)


@given(edit=edits)
def test_an_edit_survives_json(edit: Any) -> None:
    """An edit written to JSON and read again is the same edit."""
    assert edit_from_dict(json.loads(json.dumps(edit_to_dict(edit), allow_nan=False))) == edit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "None is no edit"),
        ({"edit": "grow"}, "one of 'resize', 'set_number', 'replace', 'beside', 'stack', 'unwrap', 'insert'"),
        ({"edit": []}, "is no edit"),
        ({"edit": "resize", "name": "a"}, "has the keys name, shape, not name"),
        ({"edit": "resize", "name": 1, "shape": [1]}, "has strings under name"),
        ({"edit": "resize", "name": "a", "shape": [-1]}, "must be a list of numbers"),
        ({"edit": "resize", "name": "a", "shape": [True]}, "must be a list of numbers"),
        ({"edit": "set_number", "module": "", "attribute": "a", "value": {}}, "must be a number, a string"),
        ({"edit": "replace", "module": "", "layers": 3}, "is no layer"),
        ({"edit": "replace", "module": "", "layers": [{"type": "Linear"}]}, "is no layer"),
    ],
)
def test_foreign_values_are_refused(values: Any, message: str) -> None:
    """Values that are no edit are refused with what they must be."""
    with pytest.raises(ChangeError, match=message):
        edit_from_dict(values)


class Tied(nn.Module):
    """An embedding whose weight is also that of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight
        self.out.weight.no_decay = True
        self.out.weight.requires_grad_(False)


def test_a_tied_tensor_stays_tied() -> None:
    """A tensor is resized under all its names, and keeps whether it is trained and what the user noted on it."""
    model = replay(Tied(), [Resize("out.weight", (6, 8))], SEED)

    assert model.out.weight is model.embedding.weight
    assert model.out.weight.shape == (6, 8)
    assert model.out.weight.no_decay
    assert not model.out.weight.requires_grad
    assert [*dict(model.named_parameters())] == ["embedding.weight"]


def test_new_values_are_distributed_as_the_old_ones() -> None:
    """A parameter is drawn with the mean and std of the old one, and a buffer is constant, so that no variance is negative."""
    values = []
    for seed in (0, 1):
        model = nn.BatchNorm1d(200)
        nn.init.normal_(model.weight, 3.0, 0.5)
        model.running_var.fill_(0.01)[0] = 50.0
        replay(model, [Resize(n, (9000,)) for n in ("weight", "bias", "running_var")], Seed((seed,)))
        weight = model.weight.detach()
        values.append(weight)

        assert float(weight.mean()) == pytest.approx(3.0, abs=0.15)
        assert float(weight.std()) == pytest.approx(0.5, abs=0.1)
        assert not model.bias.any()
        assert len({*model.running_var.tolist()}) == 1
        assert float(model.running_var[0]) == pytest.approx(0.01 + 49.99 / 200)
    assert not torch.equal(*values)


@pytest.mark.parametrize(("value", "std"), [(0.0, 1.0), (-0.5, 0.5)])
def test_new_units_differ_where_old_weights_do_not(value: float, std: float) -> None:
    """Weights that are all equal, such as a single one or those of a dead unit, get new ones that differ; biases and scales do not."""
    for inputs in (1, 3):
        model = nn.Sequential(nn.Linear(inputs, 1), nn.LayerNorm(1))
        nn.init.constant_(model[0].weight, value)
        nn.init.constant_(model[0].bias, value)
        replay(
            model, [Resize(n, (900, inputs)[: 1 + n.startswith("0.w")]) for n in ("0.weight", "0.bias", "1.weight")], Seed((0,))
        )

        assert float(model[0].weight.detach().std()) == pytest.approx(std, rel=0.1)
        assert {*model[0].bias.tolist()} == {value}
        assert {*model[1].weight.tolist()} == {1.0}


def test_the_seed_decides_the_new_values() -> None:
    """The same seed gives the same bytes, another seed others, whatever the global generator does."""

    def drawn(seed: int) -> Tensor:
        model = mlp()
        torch.manual_seed(torch.seed())
        return replay(model, [Resize("inner.weight", (7, 3))], Seed((seed,))).inner.weight.detach()

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_layout_dtype_and_device_stay() -> None:
    """A resized weight is channels last if the old one was, and on the device meta it has no values."""
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last, dtype=torch.float64)
    replay(model, [Resize("weight", (8, 6, 3, 3))], SEED)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.weight.dtype == torch.float64

    with torch.device("meta"):
        model = nn.Linear(3, 4)
    replay(model, [Resize("weight", (9, 3))], SEED)
    assert (model.weight.is_meta, model.weight.shape) == (True, (9, 3))


def test_a_recurrent_layer_runs_with_its_new_weights() -> None:
    """The list of weights that a recurrent layer keeps is renewed."""
    model = nn.LSTM(3, 4)
    shapes = {n: tuple({16: 24, 4: 6}.get(s, s) for s in p.shape) for n, p in model.named_parameters()}
    replay(model, [*(Resize(n, s) for n, s in shapes.items()), SetNumber("", "hidden_size", 6)], SEED)

    assert model(torch.zeros(2, 1, 3))[0].shape == (2, 1, 6)
    assert all(a is b for a, b in zip(model._flat_weights, model.parameters(), strict=True))


def test_a_replaced_module_is_replaced_everywhere() -> None:
    """A leaf that is used in two places becomes one nn.Sequential in both, with the dtype and the mode of the leaf."""
    leaf = nn.Linear(3, 3).double().eval()
    model = nn.ModuleDict({"a": leaf, "b": nn.Sequential(leaf)})
    replay(model, [Replace("b.0", (Layer("PReLU", {"init": 1.0}), Layer("Dropout", {"p": 0.1})))], SEED)

    assert model["a"] is model["b"][0]
    assert model["a"][0] is leaf
    assert not any(m.training for m in model["a"].modules())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    whole = replay(leaf, [Replace("", (Layer("ReLU"),))], SEED)
    assert [type(m) for m in whole] == [nn.Linear, nn.ReLU]


def test_a_block_is_inserted() -> None:
    """Where the names are numbers, later blocks are renamed; a user's names stay, and the copy comes after the block."""
    model = nn.ModuleList(nn.Linear(1, n) for n in (1, 2, 3))
    second, third = model[1], model[2]
    replay(model, [Insert("", "1", "0")], SEED)
    assert [m.out_features for m in model] == [1, 1, 2, 3]
    assert (model[2], model[3]) == (second, third)
    assert model[1].weight is not model[0].weight
    assert torch.equal(model[1].weight, model[0].weight)

    named = nn.Sequential(OrderedDict(a=nn.Linear(1, 1), b=nn.ReLU()))
    replay(named, [Insert("", "again", "a")], SEED)
    assert [*named._modules] == ["a", "again", "b"]


def test_a_list_stays_a_list() -> None:
    """A number is replaced with the type that the module keeps: JSON does not tell lists and tuples apart."""
    model = nn.Conv2d(1, 1, 3, padding=1)
    model.widths = [1, 1]
    replay(model, [SetNumber("", "widths", (2, 2)), SetNumber("", "padding", [2, 2])], SEED)

    assert model.widths == [2, 2]
    assert model.padding == (2, 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Resize("outer.scale", (3,)), "no parameter or buffer 'outer.scale'"),
        (Resize("layer.weight", (3,)), "no module 'layer'"),
        (Resize("inner.bias", (3, 3)), "another number of axes"),
        (SetNumber("inner", "width", 3), "no attribute 'width'"),
        (SetNumber("", "inner", 3), "a Linear as 'inner'"),
        (Replace("inner", (Layer("Dense"),)), "torch.nn has no layer 'Dense'"),
        (Replace("inner", (Layer("functional"),)), "torch.nn has no layer 'functional'"),
        (Replace("inner", (Layer("Linear", {"width": 3}),)), "cannot be made with {'width': 3}"),
        (Insert("inner", "1", "0"), "a block can be inserted only in an nn.Sequential"),
        (Insert("", "tanh", "inner"), "has a block 'tanh' already"),
        (Insert("", "x", "y"), "has no block 'y'"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Any, message: str) -> None:
    """An edit of another class of models is refused with what is missing."""
    with pytest.raises(ChangeError, match=message):
        replay(mlp(), [edit], SEED)


@given(hidden=st.integers(1, 4), grown=st.integers(1, 6), seed=st.integers(0, 9))
def test_a_fresh_model_gets_the_shapes_of_a_copy(hidden: int, grown: int, seed: int) -> None:
    """The same edits give a trained model and a fresh one the same names and shapes, so that a state dictionary fits."""
    index = [unit % hidden for unit in range(grown)]
    edits = regather(mlp(hidden=hidden, norm=True), index).edits
    one, other = (replay(mlp(hidden=hidden, norm=True, seed=s), edits, SEED) for s in (seed, seed + 1))

    other.load_state_dict(one.state_dict())
    assert str(one) == str(other)
