"""Changes that are undone: the shapes, numbers and outputs of the parent come back, also after further training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from torch import Tensor, nn
from widening import check_equal, mlp, trained

from nasframe import Claim
from nasframe.errors import ChangeError
from nasframe.modules.change import grow
from nasframe.modules.deepen import deepen
from nasframe.modules.edits import named_tensors
from nasframe.modules.kernels import crop_kernel, dilate, pad_kernel
from nasframe.modules.lineage import rebuild
from nasframe.modules.narrow import narrow
from nasframe.modules.paths import add_path
from nasframe.modules.places import places
from nasframe.modules.unwrap import Unwrap
from nasframe.modules.widen import widen


class Logged(nn.Module):
    """A number that the code gives to no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.width = 4

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def batch(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


def check_restored(parent: nn.Module, child: nn.Module, example: tuple[Any, ...]) -> None:
    """Assert that a model has the function, the modules and, up to rounding, the tensors of another one."""
    check_equal(parent, child, example)
    assert str(child) == str(parent)
    before, after = named_tensors(parent), named_tensors(child)
    assert [*before] == [*after]
    assert all(torch.allclose(before[name], after[name], rtol=1e-12, atol=1e-13) for name in before)


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([{}, {"skew": 0.3}, {"form": "zero"}]), st.integers(0, 9))
def test_a_widening_is_undone(hidden: int, more: int, form: dict[str, Any], seed: int) -> None:
    """The units that were added are removed, whichever of the others are alike, dead or of little weight."""
    example = batch(6, 3)
    model = trained(mlp(3, hidden, nn.BatchNorm1d(hidden)), example)
    with torch.no_grad():
        model[3].weight[:, 0] *= 1e-3

    change = widen(model, "0", to=hidden + more, example=example, seed=seed, **form)

    check_restored(model, change.undone().model, example)


@pytest.mark.parametrize(("kernel", "padding"), [((5, 5), "same"), ((3, 5), (1, 0)), ((7, 7), "valid")])
def test_a_padded_kernel_is_cropped(kernel: Any, padding: Any) -> None:
    """The taps and the padding are what they were."""
    example = batch(3, 2, 8, 8)
    model = trained(nn.Sequential(nn.Conv2d(2, 2, (1, 3), padding=padding, dilation=2), nn.ReLU()), example)
    change = pad_kernel(model, "0", kernel=kernel, example=example)

    back = change.undone()

    assert back.claim == Claim.exact()
    check_restored(model, back.model, example)


def test_moved_taps_are_moved_back() -> None:
    """A lossy dilation is undone by the old dilation: the outputs are those of the parent, and not those of the child."""
    example = batch(3, 1, 9)
    model = trained(nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Tanh()), example)
    change = dilate(model, "0", dilation=2, lossy=True, example=example)

    check_restored(model, change.undone().model, example)


def test_a_kernel_is_cropped_with_its_distance() -> None:
    """Taps that are not zero are removed with the measured distance; a crop for which there is no room is refused."""
    example = batch(2, 1, 6, 6)
    model = trained(nn.Sequential(nn.Conv2d(1, 1, 5, padding=(2, 0)), nn.ReLU()), example)

    change = crop_kernel(model, "0", kernel=(3, 5), example=example)

    assert change.claim == Claim.lossy()
    assert change.distances.eval > 1e-3
    assert torch.equal(change.model[0].weight, model[0].weight[:, :, 1:4])
    for kernel, message in ((3, "too small"), ((4, 5), "write 5, 3, 1"), ((7, 5), "cannot get 7"), (5, "already")):
        with pytest.raises(ChangeError, match=message):
            crop_kernel(model, "0", kernel=kernel, example=example)


def test_after_training_undoing_has_the_measured_distance(tmp_path: Any) -> None:
    """What was added and has learned is removed with the measured distance; the optimiser and the lineage follow both changes."""
    example = batch(6, 3)
    model = trained(mlp(3, 4), example)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)

    def train(model: nn.Module) -> None:
        for _ in range(5):
            optimiser.zero_grad()
            (model(*example) - 1).square().mean().backward()
            optimiser.step()

    change = widen(model, "0", to=7, example=example, skew=0.2)
    change.follow(optimiser)
    train(change.model)
    back = change.undone()
    back.follow(optimiser)
    train(back.model)

    assert back.claim == Claim.lossy()
    assert back.distances.eval > 1e-6
    assert [tuple(p.shape) for p in back.model.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert {tuple(state["exp_avg"].shape) for state in optimiser.state.values()} == {(4, 3), (4,), (2, 4), (2,)}
    change.save(tmp_path / "lineage.json")
    back.save(tmp_path / "lineage.json")
    assert str(rebuild(mlp(3, 4), tmp_path / "lineage.json")) == str(model)


def test_numbers_that_were_given_are_restored() -> None:
    """A number that the user gave for the change gets its old value, without being asked for again."""
    example = batch(6, 3)
    model = trained(Logged(), example)

    change = widen(model, "first", to=6, example=example, numbers={"width": 6})

    assert change.model.width == 6
    assert change.undone().model.width == 4


def test_what_no_morphism_reverts_is_refused() -> None:
    """The message says which change it is, and where the model before it is."""
    example = batch(6, 3)
    model = trained(mlp(3, 4), example)

    for change in (add_path(model, "0", form="concatenate", example=example), narrow(model, "0", to=2, example=example)):
        with pytest.raises(
            ChangeError, match=r"no morphism reverts (add_path form=concatenate|narrow to=2) at 0; change\.parent"
        ):
            change.undone()


class Language(nn.Module):
    """A recurrent layer and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize(
    ("make", "at"),
    [(deepen, "0"), (add_path, ""), (deepen, "rnn"), (deepen, "1"), (add_path, "0"), (add_path, "out")][: 6 if FULL else 3],
)
def test_added_layers_and_paths_are_removed(make: Any, at: str, tmp_path: Any) -> None:
    """Directly after the change the model is the old one; after training, what the old layers have learned remains."""
    fresh, example = (Language(), batch(6, 3, 3)) if at in ("rnn", "out") else (mlp(3, 4), batch(6, 3))
    model = trained(copy.deepcopy(fresh), example)
    change = make(model, at, example=example)

    check_restored(model, change.undone().model, example)

    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    change.follow(optimiser)
    for _ in range(3):
        optimiser.zero_grad()
        (change.model(*example) - 1).square().mean().backward()
        optimiser.step()
    back = change.undone()
    back.follow(optimiser)
    assert back.claim == Claim.lossy()
    assert {id(p) for group in optimiser.param_groups for p in group["params"]} == {id(p) for p in back.model.parameters()}
    learned = dict(change.model.named_parameters())
    assert all(torch.equal(p, learned[back.map[name].source]) for name, p in back.model.named_parameters())
    change.save(tmp_path / "lineage.json")
    back.save(tmp_path / "lineage.json")
    assert str(rebuild(fresh, tmp_path / "lineage.json")) == str(model)


def test_a_container_whose_first_part_returns_another_shape_is_refused() -> None:
    """The message has both shapes, and the table of places has the reason; another module is no container."""
    model, example = mlp(3, 4).double(), batch(6, 3)

    with pytest.raises(ChangeError, match=r"the model returns the shapes \[\(6, 2\)\], and its first part \[\(6, 4\)\]"):
        grow(model, Unwrap(), "", example)
    with pytest.raises(ChangeError, match=r"0 is of type Linear; name an nn\.Sequential"):
        grow(model, Unwrap(), "0", example)
    (place,) = places(model, example, (Unwrap(),))
    assert "its first part" in str(place.refusal)
