"""What a change of a model prints, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hand_made import ByHand, batch, changed, mlp
from torch import nn

from nasframe.change.claim import Claim
from nasframe.change.map import FRESH, Set, Take
from nasframe.errors import ChangeError
from nasframe.modules.change import grow, make
from nasframe.modules.edits import Insert, Layer, Replace
from nasframe.modules.morphism import Rewrite


def test_a_change_prints_shapes_numbers_and_distances() -> None:
    """Each tensor of another shape and each number has a line; what begins with an underscore is internal."""
    model = mlp(dropout=0.1)
    model.tanh._cache = 5
    change = changed(model, [0, 1, 2, 3, 4, FRESH], numbers={"tanh._cache": 6})
    lines = str(change).splitlines()

    assert lines[:2] == ["by_hand to=6 at inner: exact", "  inner.weight: (5, 3) -> (6, 3)"]
    assert "  inner.out_features: 5 -> 6" in lines
    assert "_cache" not in str(change)
    assert change.model.tanh._cache == 6
    assert "distance of the outputs" in lines[-1]


def test_a_class_instead_of_a_model_is_refused() -> None:
    """The message says that an instance is needed."""
    for model, message in ((nn.Linear, "the model is the class Linear"), ({}, "the model is of type dict")):
        with pytest.raises(ChangeError, match=message):
            grow(model, ByHand(), "", batch())


def test_a_change_prints_what_got_another_name() -> None:
    """A layer that became a part of a container, and blocks that got other numbers, are listed by the prefix of their names."""
    model = mlp()
    eye = {"inner.1.weight": Set(torch.eye(5)), "inner.1.bias": Set(torch.zeros(5))}
    moved = {f"inner.0.{name}": Take(f"inner.{name}") for name in ("weight", "bias")}
    layer = Layer("Linear", {"in_features": 5, "out_features": 5})
    change = make(model, ByHand(), "inner", Rewrite((Replace("inner", (layer,)),), eye | moved, Claim.exact()), batch())
    assert "  inner.* -> inner.0.*" in str(change).splitlines()
    assert "  inner.1.weight: new -> (5, 5)" in str(change).splitlines()

    blocks = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))).double()
    names = ("weight", "bias")
    entries = {f"{i + 1}.{name}": Take(f"{i}.{name}") for i in range(3) for name in names}
    change = make(blocks, ByHand(), "0", Rewrite((Insert("", "1", "0"),), entries, Claim.lossy()), batch())
    assert str(change).splitlines()[1:4] == ["  0.* -> 1.* (copied)", "  1.* -> 2.*", "  2.* -> 3.*"]


def test_a_change_prints_whether_copies_stay_equal() -> None:
    """Copies with equal shares do; no copies, and copies with other shares, do not."""
    remark = "copies of units have equal shares"
    assert remark in str(changed(mlp(norm=True), [0, 1, 2, 3, 4, 0, FRESH]))
    assert remark not in str(changed(mlp(), [4, 3, 2, 1, 0, FRESH, FRESH]))

    rewrite = changed(mlp(), [0, 1, 2, 3, 4, 0])
    share = torch.tensor([0.75, 1, 1, 1, 1, 0.25], dtype=torch.float64)
    index = torch.tensor([0, 1, 2, 3, 4, 0])
    entries = {
        "inner.weight": Take("inner.weight", (index, None), gradient=share[:, None]),
        "inner.bias": Take("inner.bias", (index,), gradient=share),
        "outer.weight": Take("outer.weight", (None, index), value=share),
    }
    assert remark not in str(make(mlp(), ByHand(), "inner", Rewrite(rewrite.edits, entries, Claim.exact()), batch()))
