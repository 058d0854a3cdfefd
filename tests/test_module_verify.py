"""A change of a model is measured in both modes, and neither the model nor the random generators notice it."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import pytest
import torch
from hand_made import ByHand, batch, changed, mlp, regather
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from nasframe.change.apply import distance
from nasframe.change.claim import Claim
from nasframe.change.map import FRESH, Set, Take
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.change import make, refuse_unsupported
from nasframe.modules.edits import Layer, Replace
from nasframe.modules.example import Example
from nasframe.modules.morphism import Rewrite
from nasframe.modules.verify import _full_precision, distances, gradient_distance, outputs
from nasframe.network.network import build
from nasframe.seeds import Seed
from nasframe.testing.fakes import Chain, Sigmoids

Form = Callable[[Tensor], Tensor]


class Calls(nn.Module):
    """A module that calls a function in training mode, and counts its calls in an attribute and in a buffer."""

    def __init__(self, function: Form) -> None:
        super().__init__()
        self.function, self.calls = function, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count = self.count + 1
        return self.function(x) if self.training else x


def snapshot(model: nn.Module) -> list[object]:
    """Return everything of a model that a forward may change, in a form that can be compared."""
    tensors = [t.detach().numpy().tobytes() for t in model.state_dict().values()]
    attributes = [{k: v for k, v in vars(m).items() if isinstance(v, int | float)} for m in model.modules()]
    return [tensors, attributes, [m.training for m in model.modules()], [p.grad is None for p in model.parameters()]]


@pytest.mark.parametrize("training", [True, False])
def test_a_parent_is_not_touched(training: bool) -> None:
    """Parameters, buffers, modes, gradients and attributes of a parent, and all random generators, are as before a change."""
    model = mlp(norm=True, dropout=0.5).append(Calls(lambda x: x + torch.rand_like(x) * random.gauss() * np.random.rand()))
    model.train(training)
    model.norm.eval()
    model(batch()).sum().backward()
    before, gradients = snapshot(model), [p.grad.clone() for p in model.parameters()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    change = changed(model, [0, 1, 2, 3, 4, 0])
    gradient_distance(model, change.model, change.map, Example.of(batch()), True)

    assert snapshot(model) == before
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    # and the child is the copy that was made, not one that was run
    assert [m.training for m in change.model.modules()] == [m.training for m in model.modules()]
    assert change.model[-1].calls == model[-1].calls
    assert change.model.norm.num_batches_tracked == model.norm.num_batches_tracked


def test_a_child_shares_no_storage_with_its_parent() -> None:
    """No tensor of the child lies where one of the parent lies."""
    model = mlp(norm=True)
    child = changed(model, [0, 1, 2, 3, 4, FRESH]).model
    storages = [{t.untyped_storage().data_ptr() for t in m.state_dict().values()} for m in (model, child)]

    assert storages[0].isdisjoint(storages[1])


def test_notes_on_parameters_stay() -> None:
    """What a user noted on a parameter is noted on that of the child, whether it is resized or not."""
    model = mlp()
    model.inner.bias.no_decay, model.outer.bias.no_decay = "resized", "copied"
    child = changed(model, [0, 1, 2, 3, 4, FRESH]).model

    assert (child.inner.bias.no_decay, child.outer.bias.no_decay) == ("resized", "copied")


def hand_written_path(x: Tensor) -> Tensor:
    keep = torch.rand(x.shape[0], 1, dtype=x.dtype) < 0.8
    return x * keep


def with_generator(x: Tensor) -> Tensor:
    return x * torch.empty_like(x).bernoulli_(0.5, generator=GENERATOR) + torch.rand(x.shape, generator=GENERATOR)


class Inference(nn.Module):
    """A module that runs in inference mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(x)


DRAWS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout": (lambda: nn.Dropout(0.4), (3, 4)),
    "dropout of channels": (lambda: nn.Dropout2d(0.4), (3, 4, 2, 2)),
    "alpha dropout": (lambda: nn.AlphaDropout(0.4), (3, 4)),
    "stochastic depth": (lambda: StochasticDepth(0.3, "row"), (3, 4)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True), (2, 3, 4)),
    "a recurrent network": (lambda: nn.LSTM(4, 3, 2, dropout=0.5), (2, 3, 4)),
    "RReLU": (lambda: nn.RReLU(), (3, 4)),
    "a path written by hand": (lambda: Calls(hand_written_path), (3, 4)),
    "noise": (lambda: Calls(lambda x: x + torch.randn_like(x) + torch.normal(0.0, 1.0, x.shape)), (3, 4)),
    "Gumbel": (lambda: Calls(lambda x: nn.functional.gumbel_softmax(x)), (3, 4)),
    "a permutation": (lambda: Calls(lambda x: x[torch.randperm(len(x))] + torch.randint(0, 5, x.shape)), (3, 4)),
    "a generator": (lambda: Calls(with_generator), (3, 4)),
    # what PyTorch does not take apart there: the draws are within its operations
    "inference mode": (
        lambda: Inference(nn.Sequential(nn.Dropout(0.4), nn.AlphaDropout(0.4), nn.LSTM(4, 3, 2, dropout=0.5))),
        (2, 3, 4),
    ),
}
GENERATOR = torch.Generator().manual_seed(3)


@pytest.mark.parametrize("name", DRAWS)
def test_random_draws_are_replaced_by_their_means(name: str) -> None:
    """In training mode a model returns the same whatever the state of the generators is, and no draw is made."""
    make_module, shape = DRAWS[name]
    model, x = make_module().double(), torch.randn(*shape, dtype=torch.float64)
    state = GENERATOR.get_state()
    first = outputs(model, Example.of(x), True)
    torch.manual_seed(5)
    second = outputs(model, Example.of(x), True)

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(GENERATOR.get_state(), state)


@pytest.mark.parametrize(
    "name",
    ["dropout", "dropout of channels", "stochastic depth", "attention", "a recurrent network", "RReLU", "inference mode"],
)
def test_the_mean_of_dropout_is_its_input(name: str) -> None:
    """A model whose only difference between the modes is what it draws returns the same in both modes."""
    make_module, shape = DRAWS[name]
    model, x = make_module().double(), torch.randn(*shape, dtype=torch.float64)
    train, evaluated = (outputs(model, Example.of(x), training) for training in (True, False))

    assert all(torch.allclose(a, b, rtol=1e-13, atol=1e-13) for a, b in zip(train, evaluated, strict=True))


def test_a_draw_without_a_mean_is_refused() -> None:
    """A model that draws from categories cannot be measured in training mode, and the message names the function."""
    model = mlp(outputs=3).append(Calls(lambda x: x + torch.multinomial(x.softmax(1), 1)))
    with pytest.raises(ChangeError, match="torch's multinomial, which has no mean"):
        changed(model, [0, 1, 2, 3, 4, 0])


@given(sizes=st.tuples(*3 * [st.integers(1, 5)]), seed=st.integers(0, 99), data=st.data())
def test_exact_changes_are_measured_as_rounding(sizes: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    """Copies and new units that share their outgoing weights move nothing, in both modes, and the gradients follow the map."""
    model, x = mlp(*sizes, norm=True, dropout=0.5, seed=seed), batch(sizes[0], seed=seed)
    extra = data.draw(st.lists(st.sampled_from([FRESH, *range(sizes[1])]), min_size=1, max_size=4))
    change = changed(model, [*range(sizes[1]), *extra])

    assert max(change.distances.eval, change.distances.train) < 1e-13
    assert max(gradient_distance(model, change.model, change.map, Example.of(x), t) for t in (False, True)) < 1e-6


def broken(model: nn.Sequential, index: Sequence[int], name: str, **fields: object) -> Rewrite:
    """Return a rewrite of an `mlp` of which one entry is wrong."""
    rewrite = regather(model, index)
    return attrs.evolve(rewrite, map={**rewrite.map, name: attrs.evolve(rewrite.map[name], **fields)})


def test_a_false_claim_is_refused() -> None:
    """If copies do not share their outgoing weights, the claim to be exact is refused, and without it the distance is reported."""
    model = mlp()
    wrong = broken(model, [0, 0, 1, 2, 3, 4], "outer.weight", value=1.0)
    with pytest.raises(ClaimError, match="claims to be exact, but in evaluation mode an output differs by"):
        make(model, ByHand(), "inner", wrong, batch())

    change = make(model, ByHand(), "inner", attrs.evolve(wrong, claim=Claim.lossy()), batch())
    assert change.distances.eval == change.distances.train > 0.01


def test_outputs_of_zero_verify_nothing() -> None:
    """An exact change of a model whose last layer is zero is refused, as a wrong one would not be seen; a lossy one is not."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    wrong = copy.deepcopy(model)
    nn.init.zeros_(wrong[0].weight)
    with pytest.raises(ChangeError, match="nothing but zeros"):
        distances(model, wrong, Example.of(x), Claim.exact())
    assert distances(model, wrong, Example.of(x), Claim.lossy()).eval == 0.0


def test_a_claim_holds_in_both_modes() -> None:
    """Wrong statistics of a BatchNorm are seen in evaluation mode only, and copies with uneven scales in both."""
    model = mlp(norm=True)
    model.norm.running_mean.normal_(generator=Seed((1,)).generator())
    wrong = broken(model, [0, 0, 1, 2, 3, 4], "norm.running_mean", value=2.0)
    measured = make(model, ByHand(), "inner", attrs.evolve(wrong, claim=Claim.lossy()), batch()).distances

    assert measured.eval > 0.01
    assert measured.train < 1e-13


def test_a_frozen_batch_norm_stays_frozen() -> None:
    """In training mode a module that is frozen in evaluation mode is measured as it is trained, and it is frozen afterwards."""
    # The BatchNorm normalises with statistics that a BatchNorm in training mode would replace: inserted after the inner
    # layer, it is the identity as long as it is frozen.
    model = mlp(norm=True)
    ones = {f"norm.1.{n}": Set(torch.full((5,), 1.0)) for n in ("weight", "running_var")}
    moved = {f"norm.0.{n}": Take(f"norm.{n}") for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    norm = Layer("BatchNorm1d", {"num_features": 5, "eps": 1e-30})
    rewrite = Rewrite((Replace("norm", (norm,)),), ones | moved, Claim.exact())
    model.norm.running_mean.normal_(generator=Seed((1,)).generator())
    with pytest.raises(ClaimError, match="in training mode"):
        make(model, ByHand(), "norm", rewrite, batch())

    model.norm.eval()
    change = make(model, ByHand(), "norm", rewrite, batch())
    assert change.distances == attrs.evolve(change.distances, eval=0.0, train=0.0)
    assert (model.training, model.norm.training) == (True, False)
    assert not any(m.training for m in change.model.norm.modules())


def test_the_distance_of_networks_sets_the_mode_of_each_module() -> None:
    """A module of a network that is frozen in evaluation mode is so after a change was measured."""
    network = build(Chain().initial({"inputs": 3, "outputs": 1}, nodes=1), Seed((0,)), relaxation=Sigmoids()).train()
    [*network.modules()][-1].eval()
    modes = [m.training for m in network.modules()]
    distance(lambda n: n(torch.ones(2, 3), n.mixing()), network, copy.deepcopy(network), Claim.exact())

    assert [m.training for m in network.modules()] == modes
    assert True in modes
    assert False in modes


def test_a_wrong_factor_of_the_gradient_is_seen() -> None:
    """If the map does not halve the gradient of a unit that was copied, the gradients differ from it; the outputs do not."""
    model = mlp()
    wrong = broken(model, [0, 0, 1, 2, 3, 4], "inner.weight", gradient=1.0)
    change = make(model, ByHand(), "inner", wrong, batch())

    assert change.distances.eval < 1e-13
    assert gradient_distance(model, change.model, change.map, Example.of(batch())) > 0.1


def test_infinite_and_integer_outputs_are_compared() -> None:
    """Equal infinities, such as those of a mask, are no difference, and integers are compared as numbers."""

    class Masked(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(shift))

        def forward(self, x: Tensor) -> dict[str, object]:
            masked = torch.where(x > 0, x + self.shift, -torch.inf)
            return {"scores": masked, "best": masked.argmax(1), "text": "ignored", "empty": x[:0]}

    example = Example.of(torch.tensor([[1.0, -1.0, 2.0]]))
    same = distances(Masked(0.0), Masked(0.0), example, Claim.exact())
    assert (same.eval, same.train) == (0.0, 0.0)
    assert distances(Masked(0.0), Masked(0.5), example, Claim.lossy()).eval == pytest.approx(0.25)
    with pytest.raises(ChangeError, match="not finite where those of its parent are"):
        distances(Masked(0.0), Masked(torch.nan), example, Claim.lossy())
    with pytest.raises(ClaimError):
        distances(Masked(0.0), Masked(1e-3), example, Claim.exact())


def test_a_number_of_a_class_can_be_given() -> None:
    """A number that the class of a module keeps does not follow; the message names it, and it can be given."""

    class Reads(nn.Module):
        width = 5

        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, self.width)

    model = mlp()
    model.tanh = Reads()
    with pytest.raises(
        ChangeError, match=r"the child does not run .*class of a module keeps .*numbers={'width': \.\.\.} \(test_mod"
    ):
        changed(model, [0, 1, 2, 3, 4, 0])
    assert changed(model, [0, 1, 2, 3, 4, 0], numbers={"width": 6}).model.tanh.width == 6
    assert Reads.width == 5


def test_what_does_not_run_is_refused_with_its_line() -> None:
    """If the child does not run, the message has the line of the user's code; if the parent does not, it says so."""

    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 5)

    model = nn.Sequential(OrderedDict({**mlp()._modules, "reads": nn.Identity()}))
    model.tanh = Reads()
    with pytest.raises(ChangeError, match=r"the child does not run in evaluation mode.*test_module_verify\.py:\d+: shape"):
        changed(model, [0, 1, 2, 3, 4, 0])
    with pytest.raises(ChangeError, match="the model cannot be called with this example in training mode"):
        make(mlp(norm=True), ByHand(), "inner", Rewrite((), {}, Claim.exact()), batch(size=1))
    with pytest.raises(ChangeError, match="returns the shapes"):
        make(
            mlp(),
            ByHand(),
            "outer",
            Rewrite(
                (Replace("outer", (Layer("Unflatten", {"dim": 1, "unflattened_size": (1, 2)}),)),),
                {f"outer.0.{n}": Take(f"outer.{n}") for n in ("weight", "bias")},
                Claim.lossy(),
            ),
            batch(),
        )


def test_products_are_measured_in_full_precision() -> None:
    """TF32 and lower precision of products are off while outputs are compared, and on again afterwards."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this version of torch has other settings")
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = [place.fp32_precision for place in places]
    with _full_precision():
        assert {place.fp32_precision for place in places} == {"ieee"}
    assert [place.fp32_precision for place in places] == before


def with_hook() -> nn.Module:
    model = mlp()
    model.inner.register_forward_hook(lambda *_: None)
    return model


def with_gradient_hook() -> nn.Module:
    model = mlp()
    model.inner.weight.register_hook(lambda g: g)
    return model


def compiled_in_place() -> nn.Module:
    model = mlp()
    model.inner._compiled_call_impl = lambda x: x  # what compile() sets, without the time that it takes
    return model


def compiled() -> nn.Module:
    return torch.compile(mlp())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "hook": (with_hook, "inner has hooks"),
    "hook of a gradient": (with_gradient_hook, r"inner\.weight has hooks"),
    "compiled": (compiled, r"torch\.compile\(change\.model\)"),
    "compiled in place": (compiled_in_place, "inner was compiled in place"),
    "half precision": (lambda: mlp().bfloat16(), "bfloat16, in which rounding is so large"),
    "data parallel": (lambda: nn.DataParallel(mlp()), r"model\.module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_a_copy_would_lose_something_of_is_refused(name: str) -> None:
    """Hooks, compiled and wrapped models, and half precision are refused with what to write instead."""
    make_model, message = REFUSED[name]
    with pytest.raises(ChangeError, match=message):
        refuse_unsupported(make_model())


def test_tensors_in_plain_attributes_are_refused() -> None:
    """A resized parameter that a plain attribute also holds, or a view of any parameter, would go stale, and is refused."""
    model = mlp()
    model.held = {"list": [model.inner.weight]}
    with pytest.raises(ChangeError, match=r"the attribute held also holds inner\.weight"):
        changed(model, [0, 1, 2, 3, 4, 0])
    model.held = {"list": [model.outer.bias]}
    assert changed(model, [0, 1, 2, 3, 4, 0]).model.held["list"][0].shape == (2,)
    model.held = model.outer.bias.data[:1]
    with pytest.raises(ChangeError, match=r"the attribute held also holds outer\.bias"):
        changed(model, [0, 1, 2, 3, 4, 0])
    model.held = model.inner.weight * 2  # a tensor with a gradient function cannot be copied
    with pytest.raises(ChangeError, match="the model cannot be copied"):
        changed(model, [0, 1, 2, 3, 4, 0])


def test_numbers_of_the_user_replace_those_of_the_morphism() -> None:
    """A number that does not follow from the code must be given, and a name that no module has is refused."""
    from nasframe.modules.morphism import Question

    model = mlp()
    model.heads = 1
    rewrite = attrs.evolve(regather(model, [0, 1, 2, 3, 4, 0]), questions=(Question("", "heads", (1, 2)),))
    with pytest.raises(ChangeError, match=r"it could be 1 or 2\); write numbers=\{'heads': \.\.\.\}"):
        make(model, ByHand(), "inner", rewrite, batch())
    with pytest.raises(ChangeError, match="no module of the model keeps a number"):
        make(model, ByHand(), "inner", rewrite, batch(), numbers={"head": 2})
    change = make(model, ByHand(), "inner", rewrite, batch(), numbers={"heads": 2, "inner.out_features": 6})
    assert (model.heads, change.model.heads) == (1, 2)


def test_the_example_is_a_tensor_a_tuple_or_a_dictionary() -> None:
    """Other examples are refused with what to write, and a forward that writes into its inputs does not change the example."""
    x = batch()
    model = nn.Sequential(Calls(lambda x: x.mul_(2)), mlp())
    before = x.clone()
    for example in (x, (x,), {"input": x}, Example((x,))):
        make(model, ByHand(), "", Rewrite((), {}, Claim.exact()), example)
    assert torch.equal(x, before)
    for wrong in ([x], None, {1: x}):
        with pytest.raises(ChangeError, match=r"give a tensor, a tuple of positional arguments"):
            Example.of(wrong)
