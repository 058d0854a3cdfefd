"""Optimisers, averages and state dictionaries follow a change of a model in place."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_made import ByHand, batch, changed, mlp
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nasframe.change.claim import Claim
from nasframe.change.map import FRESH, Set, Take
from nasframe.change.optimisers import POWERS
from nasframe.errors import ChangeError
from nasframe.modules.change import make
from nasframe.modules.edits import Layer, Replace
from nasframe.modules.lineage import rebuild
from nasframe.modules.morphism import Rewrite

Factory = Callable[..., Optimizer]

# eps is negligible, so that a factor of the gradient cancels in an update that is normalised by the gradient
OPTIMISERS: dict[str, Factory] = {
    "SGD": lambda parameters: SGD(parameters, 0.05),
    "SGD with momentum": lambda parameters: SGD(parameters, 0.05, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: Adam(parameters, 0.01, eps=1e-30),
    "Adam with amsgrad": lambda parameters: Adam(parameters, 0.01, eps=1e-30, amsgrad=True),
    "AdamW": lambda parameters: AdamW(parameters, 0.01, eps=1e-30, weight_decay=0.0),
    "RMSprop": lambda parameters: RMSprop(parameters, 0.01, eps=1e-30, momentum=0.9),
    "RMSprop, centred": lambda parameters: RMSprop(parameters, 0.01, eps=1e-30, momentum=0.9, centered=True),
    "Adagrad": lambda parameters: Adagrad(parameters, 0.05, eps=1e-30),
    "NAdam": lambda parameters: NAdam(parameters, 0.01, eps=1e-30),
    "RAdam": lambda parameters: RAdam(parameters, 0.01, eps=1e-30),
}
#: the power of a factor of the gradient by which the update scales
SCALE = {name: 1 if name.startswith("SGD") else 0 for name in OPTIMISERS}

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))


def steps(model: nn.Module, optimiser: Optimizer, x: Tensor, count: int) -> None:
    for number in range(count):
        optimiser.zero_grad()
        (model(x * (1 + 0.1 * number)) - x.sum(1, keepdim=True)).square().mean().backward()
        optimiser.step()


def trained(name: str, shape: tuple[int, int, int], seed: int) -> tuple[nn.Sequential, Optimizer, Tensor]:
    """Return a model that was trained for 7 steps (RAdam rectifies from the sixth step on), its optimiser and its inputs."""
    model, x = mlp(*shape, seed=seed), batch(shape[0], seed=seed)
    optimiser = OPTIMISERS[name](model.parameters())
    steps(model, optimiser, x, 7)
    return model, optimiser, x


@pytest.mark.parametrize("name", OPTIMISERS)
@given(shape=shapes, seed=st.integers(0, 99))
def test_nothing_happens_to_an_optimiser_when_nothing_changes(name: str, shape: tuple[int, int, int], seed: int) -> None:
    """After the identity the next steps are those of a model that was not changed, bit for bit."""
    model, optimiser, x = trained(name, shape, seed)
    other, its = copy.deepcopy((model, optimiser))

    change = changed(model, range(shape[1]))
    change.follow(optimiser)
    steps(change.model, optimiser, x, 3)
    steps(other, its, x, 3)

    for p, q in zip(change.model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIMISERS)
@given(shape=shapes, seed=st.integers(0, 99), data=st.data())
def test_moments_are_permuted_with_the_units(name: str, shape: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    """After a permutation of the units the next steps are the permuted steps of a model that was not changed."""
    model, optimiser, x = trained(name, shape, seed)
    other, its = copy.deepcopy((model, optimiser))

    change = changed(model, data.draw(st.permutations(range(shape[1]))))
    change.follow(optimiser)
    steps(change.model, optimiser, x, 3)
    steps(other, its, x, 3)

    for n, p in change.model.named_parameters():
        expected = change.map[n](other.get_parameter(n), p)
        # an update that is normalised by the gradient amplifies the rounding of small gradients
        assert torch.allclose(p, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMISERS)
@given(shape=shapes, seed=st.integers(0, 99), data=st.data())
def test_the_next_update_follows_the_gradient(name: str, shape: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    """Where units are copied, the next update is that of the parent, times a power of the factor of the gradient.

    The power is 1 for SGD, and 0 for an optimiser that divides by the size of the gradient.
    """
    model, optimiser, x = trained(name, shape, seed)
    extra = data.draw(st.lists(st.integers(0, shape[1] - 1), min_size=1, max_size=4))
    other, its = copy.deepcopy((model, optimiser))

    change = changed(model, [*range(shape[1]), *extra])
    change.follow(optimiser)
    start = {n: p.detach().clone() for n, p in change.model.named_parameters()}
    steps(change.model, optimiser, x, 1)
    steps(other, its, x, 1)

    for n, p in change.model.named_parameters():
        entry = change.map[n]
        assert isinstance(entry, Take)
        update = entry.gather(other.get_parameter(n).detach() - model.get_parameter(n).detach())
        expected = update * torch.as_tensor(entry.gradient) ** SCALE[name]
        assert torch.allclose(p.detach() - start[n], expected, rtol=1e-6, atol=1e-9), n


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_kind_of_parameter_can_be_trained_after_a_growth(name: str) -> None:
    """New units, and a new layer without a source, take steps with every optimiser and every policy."""
    for moments in ("carried", "zeroed", "reset"):
        model, optimiser, x = trained(name, (3, 4, 2), 0)
        change = changed(model, [0, 1, 2, 3, FRESH])
        change.follow(optimiser, moments)
        deeper = with_layer(change.model)
        deeper.follow(optimiser, moments)
        before = {n: p.detach().clone() for n, p in deeper.model.named_parameters()}
        steps(deeper.model, optimiser, x, 2)

        assert all(torch.isfinite(p).all() for p in deeper.model.parameters())
        assert all(not torch.equal(p, before[n]) for n, p in deeper.model.named_parameters())


def with_layer(model: nn.Sequential):
    """Return the change that puts a PReLU that is linear at first, and an identity, after the layer inner."""
    size = model.inner.out_features
    layers = (Layer("PReLU", {"init": 1.0}), Layer("Linear", {"in_features": size, "out_features": size}))
    eye = {"inner.2.weight": Set(torch.eye(size)), "inner.2.bias": Set(torch.zeros(size)), "inner.1.weight": Set(torch.ones(1))}
    moved = {f"inner.0.{name}": Take(f"inner.{name}") for name in ("weight", "bias")}
    rewrite = Rewrite((Replace("inner", layers),), eye | moved, Claim.exact())
    return make(model, ByHand(), "inner", rewrite, batch(model.inner.in_features))


def test_a_new_parameter_joins_the_group_of_its_neighbour() -> None:
    """A new weight joins the group of the weight before it, and a new bias that of the bias before it; settings stay."""
    model = mlp()
    weights, biases = ([p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    optimiser = AdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0, "lr": 0.5}])
    change = with_layer(model)
    change.follow(optimiser)
    grown = change.model

    expected = [
        {"inner.0.weight", "inner.2.weight", "outer.weight"},
        {"inner.0.bias", "inner.1.weight", "inner.2.bias", "outer.bias"},
    ]
    name_of = {id(p): n for n, p in grown.named_parameters()}
    assert [{name_of[id(p)] for p in group["params"]} for group in optimiser.param_groups] == expected
    assert [(group["weight_decay"], group["lr"]) for group in optimiser.param_groups] == [(0.1, 1e-3), (0.0, 0.5)]


def test_a_new_parameter_without_a_like_before_it_joins_the_group_of_its_kind() -> None:
    """A scale after a layer without a bias joins the biases that come later if they have a group, and else the layer's group."""
    for split in (True, False):
        model = nn.Sequential(OrderedDict(inner=nn.Linear(3, 5, bias=False), outer=nn.Linear(5, 2))).double()
        weights, bias = [model.inner.weight, model.outer.weight], [model.outer.bias]
        optimiser = SGD(
            [{"params": weights}, {"params": bias}] if split else [{"params": weights[:1]}, {"params": weights[1:] + bias}]
        )
        rewrite = Rewrite(
            (Replace("inner", (Layer("PReLU", {"init": 1.0}),)),), {"inner.0.weight": Take("inner.weight")}, Claim.lossy()
        )
        change = make(model, ByHand(), "inner", rewrite, batch())
        change.follow(optimiser)

        first, second = (group["params"] for group in optimiser.param_groups)
        scale = change.model.inner[1].weight
        assert any(p is scale for p in (second if split else first))
        assert not any(p is scale for p in (first if split else second))


def test_a_new_parameter_of_a_part_that_another_optimiser_trains_does_not_join() -> None:
    """Of two optimisers that share a model, the one that trains the neighbour gets the new parameter."""
    model = mlp()
    first, second = SGD(model.inner.parameters(), 0.1), SGD(model.outer.parameters(), 0.1)
    change = with_layer(model)
    for optimiser in (first, second):
        change.follow(optimiser)

    counts = [len(optimiser.param_groups[0]["params"]) for optimiser in (first, second)]
    assert counts == [len([*change.model.inner.parameters()]), 2]


def by_dim(model: nn.Module) -> list[dict[str, Any]]:
    matrices, others = ([p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


GROUPS: dict[str, Callable[[nn.Module], Any]] = {
    "one group": lambda model: model.parameters(),
    "weights and biases": by_dim,
    "sorted by name": lambda model: [p for _, p in sorted(model.named_parameters())],
}


@pytest.mark.parametrize("groups", GROUPS)
def test_training_is_resumed_with_a_new_optimiser(groups: str, tmp_path: Path) -> None:
    """A rebuilt model and a new optimiser that load what was saved after a change go on as the old ones, bit for bit."""
    model, x = mlp(hidden=3, outputs=3), batch()
    optimiser = AdamW(GROUPS[groups](model), 0.01)
    steps(model, optimiser, x, 3)
    change = with_layer(model)
    change.follow(optimiser)
    change.save(tmp_path / "lineage.json")
    model = change.model
    steps(model, optimiser, x, 3)

    resumed = rebuild(mlp(hidden=3, outputs=3, seed=1), tmp_path / "lineage.json")
    resumed.load_state_dict(model.state_dict())
    its = AdamW(GROUPS[groups](resumed), 0.01)
    its.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    steps(model, optimiser, x, 3)
    steps(resumed, its, x, 3)
    for (name, p), q in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_the_order_of_a_group_is_kept() -> None:
    """New parameters are in the order of the child between those of other models, and last in a group with an order of its own."""
    model, other = mlp(), mlp(seed=1)
    first, last = [*other.inner.parameters()], [*other.outer.parameters()]
    old = [*model.parameters()]
    whole, reverse = Adam([*first, *old, *last], 0.1), Adam(old[::-1], 0.1)
    change = with_layer(model)
    new = [*change.model.parameters()]
    added = [p for p in new if id(p) in {id(q) for q in change.model.inner[1:].parameters()}]
    for optimiser in (whole, reverse):
        change.follow(optimiser)

    assert [*map(id, whole.param_groups[0]["params"])] == [*map(id, (*first, *new, *last))]
    assert [*map(id, reverse.param_groups[0]["params"][-len(added) :])] == [*map(id, added)]


def test_names_in_the_groups_follow() -> None:
    """An optimiser that was made with named parameters keeps the names of the new ones."""
    model = mlp()
    whole = nn.ModuleDict({"body": model, "head": nn.Linear(2, 1)})
    optimiser = Adam(whole.named_parameters(), 0.1)
    steps(nn.Sequential(model, whole["head"].double()), optimiser, batch(), 1)
    if "param_names" not in optimiser.param_groups[0]:
        pytest.skip("this version of torch keeps no names")
    change = with_layer(model)
    change.follow(optimiser)
    whole["body"] = change.model

    named = dict(whole.named_parameters())
    (group,) = optimiser.param_groups
    assert optimiser.state.keys() <= {*group["params"]}
    assert all(named[n] is p for n, p in zip(group["param_names"], group["params"], strict=True))
    assert {*group["param_names"]} == named.keys()


def test_the_parameters_of_other_models_stay() -> None:
    """If a part of a model is changed, its optimiser keeps the parameters and the states of the rest."""
    model, x = mlp(), batch()
    head = nn.Linear(2, 1).double()
    optimiser = Adagrad([*model.parameters(), *head.parameters()], 0.1)
    steps(nn.Sequential(model, head), optimiser, x, 2)
    before = copy.deepcopy(optimiser.state[head.weight])
    change = changed(model, [0, 1, 2, 3, 4, 0])
    change.follow(optimiser, "reset")

    assert optimiser.param_groups[0]["params"][-2:] == [*head.parameters()]
    assert str(optimiser.state[head.weight]) == str(before)
    steps(nn.Sequential(change.model, head), optimiser, x, 2)


def test_a_state_that_a_constructor_makes_is_made() -> None:
    """Adagrad makes its states when it is made; a parameter without a source gets one with the settings of its group."""
    model = mlp()
    optimiser = Adagrad(model.parameters(), initial_accumulator_value=0.25)
    change = with_layer(model)
    change.follow(optimiser)

    assert optimiser.state.keys() == {*change.model.parameters()}
    assert torch.equal(optimiser.state[change.model.inner[2].bias]["sum"], torch.full((5,), 0.25, dtype=torch.float64))


def test_the_policies() -> None:
    """Zeroed moments keep the second moments and the step count, and reset ones keep nothing."""
    for moments in ("carried", "zeroed", "reset"):
        model, optimiser, _ = trained("Adam", (3, 4, 2), 0)
        before = copy.deepcopy(optimiser.state[model.inner.weight])
        change = changed(model, [0, 1, 2, 3, 0])
        change.follow(optimiser, moments)
        state = optimiser.state.get(change.model.inner.weight)
        if moments == "reset":
            assert state is None
        else:
            rows = [1, 2, 3]
            assert state["step"] == before["step"]
            assert torch.equal(state["exp_avg_sq"][rows], before["exp_avg_sq"][rows])
            assert torch.equal(state["exp_avg"][rows], before["exp_avg"][rows] * (moments == "carried"))
    with pytest.raises(ChangeError, match="'carried', 'zeroed', 'reset'"):
        change.follow(optimiser, "dropped")


@pytest.mark.parametrize("name", ["Adam", "Adam with amsgrad", "AdamW"])
@pytest.mark.parametrize("moments", ["carried", "zeroed"])
def test_new_entries_are_normalised_by_gradients_of_theirs(name: str, moments: Any) -> None:
    """After a long training, new units take steps of about a learning rate, however small or large their gradients are.

    A mutant that keeps the step count and the mean of the second moments makes short steps at small gradients.
    """
    small = mlp(3, 4, 2)
    its = OPTIMISERS[name](small.parameters())
    steps(small, its, batch(3), 60)
    for size, recounted in ((1e-6, True), (1e-2, True), (1.0, True), (1e3, True), (1e-6, False)):
        model, optimiser = copy.deepcopy((small, its))
        change = changed(model, [0, 1, FRESH, 2, 3])
        with pytest.MonkeyPatch.context() as patch:
            if not recounted:
                patch.setattr("nasframe.change.optimisers.CORRECTED", ())
            change.follow(optimiser, moments)
        weight, moves = change.model.inner.weight, []
        for _ in range(20):
            before = weight.detach().clone()
            for p in change.model.parameters():
                p.grad = torch.full_like(p, size)
            optimiser.step()
            moves.append(float((weight.detach() - before)[2].abs().max()) / 0.01)
        if recounted:
            assert min(moves) > 0.4
            assert max(moves) < 1.2
        else:
            assert max(moves) < 0.1


@pytest.mark.parametrize("name", ["Adam", "Adam with amsgrad", "AdamW"])
def test_old_entries_keep_their_corrected_moments_beside_new_ones(name: str) -> None:
    """The moments of old entries, with the correction of their bias, are what they were; without new entries the count is, too."""
    model, optimiser, _ = trained(name, (3, 4, 2), 0)
    steps(model, optimiser, batch(3), 60)
    before = copy.deepcopy(optimiser.state[model.inner.weight])
    change = changed(model, [0, 1, FRESH, 2, 3])
    change.follow(optimiser)
    after = optimiser.state[change.model.inner.weight]

    assert (float(before["step"]), float(after["step"])) == (67, 10)
    for key, b in {"exp_avg": 0.9, "exp_avg_sq": 0.999, "max_exp_avg_sq": 0.999}.items():
        if key in before:
            corrected = [state[key] / (1 - b ** float(state["step"])) for state in (before, after)]
            assert torch.allclose(corrected[1][[0, 1, 3, 4]], corrected[0], rtol=1e-12)
            assert torch.count_nonzero(after[key][2]) == 0
    untouched = optimiser.state[change.model.outer.bias]
    assert float(untouched["step"]) == 67


def test_an_unknown_optimiser_is_refused_by_the_name_of_the_entry() -> None:
    """An optimiser whose state cannot follow is not modified, starts anew on request, and follows once its powers are known."""
    model, x = mlp(), batch()
    optimiser = Adadelta(model.parameters())
    steps(model, optimiser, x, 1)
    change = changed(model, [0, 1, 2, 3, 4, 0])
    before = copy.deepcopy(optimiser.state_dict())
    with pytest.raises(
        ChangeError,
        match=r"keeps 'square_avg', 'acc_delta', .*moments='reset'.*POWERS\[Adadelta\] = {'square_avg': \.\.\., 'acc_delta'",
    ):
        change.follow(optimiser)
    assert [*optimiser.param_groups[0]["params"]] == [*model.parameters()]
    assert str(optimiser.state_dict()) == str(before)

    change.follow(optimiser, "reset")
    steps(change.model, optimiser, x, 1)
    POWERS[Adadelta] = {"square_avg": 2, "acc_delta": 0}
    try:
        again = changed(change.model, [0, 0, 1, 2, 3, 4, 5])
        again.follow(optimiser)
        assert len(optimiser.state[again.model.inner.bias]["acc_delta"]) == 7
    finally:
        del POWERS[Adadelta]


def test_lbfgs_is_refused() -> None:
    """The state of LBFGS belongs to all parameters together, so that not even a new one can be made in place."""
    model = mlp()
    optimiser = LBFGS(model.parameters())
    change = changed(model, [0, 1, 2, 3, 4, 0])
    for moments in ("carried", "reset"):
        with pytest.raises(ChangeError, match="LBFGS keeps one state"):
            change.follow(optimiser, moments)
    assert optimiser.param_groups[0]["params"] == [*model.parameters()]


def test_an_entry_of_another_shape_gets_no_power() -> None:
    """Adafactor averages over rows and columns, which no power describes."""
    model, x = mlp(), batch()
    optimiser = Adafactor(model.parameters())
    steps(model, optimiser, x, 1)
    with pytest.raises(ChangeError, match=r"'row_var', 'col_var', 'variance'.*moments='reset'") as error:
        changed(model, [0, 1, 2, 3, 4, 0]).follow(optimiser)
    assert "POWERS" not in str(error.value)


def test_an_optimiser_follows_each_change_once() -> None:
    """A second time, or before the first change, it holds no parameter of the parent, and is refused."""
    model, optimiser, _ = trained("Adam", (3, 4, 2), 0)
    change = changed(model, [0, 1, 2, 3, 0])
    change.follow(optimiser)
    with pytest.raises(ChangeError, match="follows each change once"):
        change.follow(optimiser)


def test_schedulers_go_on() -> None:
    """A scheduler refers to its optimiser, so that the learning rate after a change is the one without it."""
    model, x = mlp(), batch()
    optimiser = SGD(model.parameters(), 1.0)
    scheduler = lr_scheduler.StepLR(optimiser, 2, 0.1)
    steps(model, optimiser, x, 1)
    scheduler.step()
    change = changed(model, [0, 1, 2, 3, 4, 0])
    change.follow(optimiser)
    steps(change.model, optimiser, x, 1)
    scheduler.step()

    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.1)
    assert {*map(id, optimiser.param_groups[0]["params"])} == {*map(id, change.model.parameters())}
    with pytest.raises(ChangeError, match="a StepLR cannot follow a change"):
        change.follow(scheduler)


@given(shape=shapes, seed=st.integers(0, 99), data=st.data())
def test_an_average_follows(shape: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    """The average of the weights computes what it did before the change, and goes on averaging the new model."""
    model, x = mlp(*shape, norm=True, seed=seed), batch(shape[0], seed=seed)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimiser = SGD(model.parameters(), 0.1)
    for _ in range(3):
        steps(model, optimiser, x, 1)
        average.update_parameters(model)
    module, before = average.module, average.eval()(x)

    extra = data.draw(st.lists(st.integers(FRESH, shape[1] - 1).filter(lambda i: i != -2), min_size=1, max_size=4))
    change = changed(model, [*range(shape[1]), *extra])
    change.follow(average)

    assert average.module is module
    assert torch.allclose(average(x), before, rtol=1e-12, atol=1e-12)
    ids = {id(t) for t in (*change.model.parameters(), *model.parameters())}
    assert ids.isdisjoint(id(p) for p in average.parameters())
    average.update_parameters(change.model)
    with pytest.raises(ChangeError, match="follows each change once"):
        change.follow(average)


def test_a_copy_on_another_device_follows() -> None:
    """A copy of the model need not be on the device of the model."""
    model = mlp(norm=True)
    copied = copy.deepcopy(model).to("meta")
    change = changed(model, [0, 1, 2, 3, 4, 0, FRESH])
    change.follow(copied)

    assert {n: (t.shape, t.device.type) for n, t in copied.state_dict().items()} == {
        n: (t.shape, "meta") for n, t in change.model.state_dict().items()
    }


@pytest.mark.parametrize("kind", ["state", "parameters"])
def test_a_state_dictionary_follows(kind: str) -> None:
    """The state dictionary of an earlier model becomes one of the grown class, with the function of the earlier model."""
    model, x = mlp(norm=True), batch()
    earlier = copy.deepcopy(model).eval()
    values = earlier.state_dict() if kind == "state" else dict(earlier.named_parameters())
    optimiser = SGD(model.parameters(), 0.1)
    steps(model.eval(), optimiser, x, 2)  # in evaluation mode the buffers stay
    change = changed(model, [0, 1, 2, 3, 4, 0, FRESH])
    change.follow(values)

    grown = copy.deepcopy(change.model)
    grown.load_state_dict(values, strict=kind == "state")
    assert torch.allclose(grown.eval()(x), earlier(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(ChangeError, match=r"inner\.weight is"):
        change.follow(values)


def test_the_parent_itself_is_not_modified() -> None:
    """The parent, the child and models with tensors of them are refused, also after a change that keeps the shapes."""
    for index in ([0, 1, 2, 3, 4, 0], [4, 3, 2, 1, 0]):
        model = mlp(norm=True)
        before = copy.deepcopy(model.state_dict())
        change = changed(model, index)
        after = copy.deepcopy(change.model.state_dict())
        shared = copy.deepcopy(model)
        shared.outer.bias.data = model.outer.bias.data
        for target in (model, change.model, nn.Sequential(*model), shared):
            with pytest.raises(ChangeError, match=r"write model = change\.model"):
                change.follow(target)
        for held, wanted in ((model, before), (change.model, after)):
            assert all(torch.equal(t, wanted[name]) for name, t in held.state_dict().items())


def test_a_dictionary_may_hold_the_tensors_of_the_parent() -> None:
    """The entries of parent.state_dict() become those of the child, and the parent stays as it was."""
    model = mlp(norm=True)
    before = copy.deepcopy(model.state_dict())
    change = changed(model, [4, 3, 2, 1, 0])
    values = model.state_dict()
    change.follow(values)

    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, values[name]) for name, t in change.model.state_dict().items())
    storages = {t.untyped_storage()._cdata for m in (model, change.model) for t in m.state_dict().values()}
    assert storages.isdisjoint(t.untyped_storage()._cdata for t in values.values())


def test_the_state_dictionary_of_an_optimiser_is_refused() -> None:
    """It does not say whose its entries are."""
    model, optimiser, _ = trained("Adam", (3, 4, 2), 0)
    with pytest.raises(ChangeError, match="give the optimiser itself"):
        changed(model, [0, 1, 2, 3, 0]).follow(optimiser.state_dict())
