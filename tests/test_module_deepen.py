"""Deepening any module: a layer that starts as the identity, or a copy of a block whose branches start at zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from full import FULL, full_only
from hypothesis import given, settings, strategies as st
from module_growth import new_parameters, require_exact, require_learning, step, trained, untouched
from module_zoo import build, vision
from torch import Tensor, nn

from nasframe import Seed, add_path, pad_kernel, rebuild, widen
from nasframe.errors import ChangeError, DataError
from nasframe.modules.coupling import couple
from nasframe.modules.deepen import Deepen, deepen


class Plain(nn.Module):
    """Two linear maps with a function between them."""

    def __init__(self, act: Callable[[Tensor], Tensor], inputs: int = 4, width: int = 5) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(inputs, width), nn.Linear(width, 2), act

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class Residual(nn.Module):
    """A block of one of the ways in which code adds branches to an input."""

    def __init__(self, how: str, width: int = 4) -> None:
        super().__init__()
        self.how = how
        self.norm, self.a, self.b, self.c = nn.LayerNorm(width), *(nn.Linear(width, width) for _ in range(3))
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        f = torch.tanh(self.a(self.norm(x)))
        return {
            "sum": lambda: x + self.b(f),
            "reversed": lambda: self.b(f) + x,
            "difference": lambda: x - self.b(f),
            "in place": lambda: self.b(f).add_(x),
            "relu": lambda: F.relu(x + self.b(f)),
            "scaled": lambda: x + self.drop(self.scale * self.b(f)),
            "gated": lambda: x + torch.sigmoid(self.c(f)) * self.b(f),
            "two sums": lambda: x + (self.b(f) + self.c(f)),
            "concatenated": lambda: x + torch.cat([self.b(f)[..., :2], self.c(f)[..., 2:]], -1),
            "activation last": lambda: x + F.gelu(self.b(f)).contiguous(),
            "sigmoid last": lambda: x + torch.sigmoid(self.b(f)),
            "norm last": lambda: self.norm(x + self.b(f)),
            "subtracted": lambda: self.b(f) - x,
            "doubled": lambda: self.b(f).add(x, alpha=2),
            "relu inside": lambda: F.relu(x) + self.b(f),
            "dropout outside": lambda: self.drop(x + self.b(f)),
            "no sum": lambda: self.b(f),
            "bare": lambda: x + f.mean(),
        }[self.how]()


ADDING = ("sum", "reversed", "difference", "in place", "relu", "scaled", "gated", "two sums", "concatenated", "activation last")
NOT_ADDING = ("sigmoid last", "norm last", "subtracted", "doubled", "relu inside", "dropout outside", "no sum")


class Blocks(nn.Module):
    """Blocks in a container, which the forward runs in one of several ways."""

    def __init__(self, blocks: nn.Module, run: str = "loop") -> None:
        super().__init__()
        self.blocks, self.run, self.depth = blocks, run, 2
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.run == "loop":
            for block in self.blocks.children():
                x = block(x)
        elif self.run == "depth":
            for i in range(self.depth):
                x = self.blocks[i](x)
        else:
            x = self.blocks[1](self.blocks[0](x))
        return self.out(x)


def example(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


@settings(max_examples=3)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([F.relu, F.relu6, F.gelu, torch.tanh, lambda x: x]))
def test_a_layer_after_a_linear_map_is_exact(width: int, inputs: int, act: Callable[[Tensor], Tensor]) -> None:
    """The output keeps its bits, whatever follows; the activation is ReLU where ReLU follows, and PReLU with slope 1 elsewhere."""
    x = example(3, inputs)
    model = trained(Plain(act, inputs, width).double(), x)
    change = untouched(model, lambda: deepen(model, "a", example=x))

    require_exact(change, x, within=0.0)
    kind = nn.ReLU if act in (F.relu, F.relu6) else nn.PReLU
    assert [type(m) for m in change.model.a] == [nn.Linear, kind, nn.Linear]


@pytest.mark.parametrize(("rank", "kernel"), [(1, 5), (2, 3), (3, 1)][: 3 if FULL else 2])
def test_a_layer_after_a_convolution_is_exact(rank: int, kernel: int) -> None:
    """A convolution of the same rank, with a single tap of 1, in the layout of the model; also after a norm and an activation."""
    x = example(2, 3, *[5, 4, 3][:rank])
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
    model = nn.Sequential(conv(3, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 2, 1), nn.GELU(), nn.Flatten()).double()
    for at, kinds in {"0": [nn.PReLU, conv], "1": [nn.ReLU, conv], "2": [conv, nn.ReLU], "4": [conv, nn.PReLU]}.items():
        change = deepen(trained(model, x), at, kernel=kernel, example=x)

        require_exact(change, x, within=0.0)
        require_learning(change, x, within=1)
        assert [type(m) for m in change.model[int(at)][1:]] == kinds


@pytest.mark.parametrize("follows", [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Dropout(0.5)], ids=lambda m: type(m).__name__)
def test_no_slope_is_added_that_cannot_learn(follows: nn.Module) -> None:
    """Where ReLU and a pooling or dropout leave no negative value, a new activation is ReLU: the slope of PReLU would get no gradient."""
    x = example(2, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), follows, nn.Conv2d(4, 2, 1), nn.Flatten()).double()
    change = deepen(trained(model, x), "2", example=x)

    require_exact(change, x, within=0.0)
    assert not any(isinstance(module, nn.PReLU) for module in change.model.modules())


LEAVES = [
    ("cnn", "norm"),
    ("gpt", "wte"),
    ("gpt", "h.0.mlp.1"),
    ("encoder", "embed"),
    ("mlp", "norm"),
    ("cnn", "fc1"),
    ("gpt", "h.0.ln_1"),
    ("llama", "layers.0.gate"),
    ("lstm", "embed"),
]


@pytest.mark.parametrize(("name", "at"), LEAVES if FULL else LEAVES[:4])
def test_a_layer_after_any_leaf_is_exact(name: str, at: str) -> None:
    """In models as users write them, with tied weights and dropout, on both modes."""
    model, x = build(name)
    change = untouched(model, lambda: deepen(model, at, example=x))

    require_exact(change, x, within=0.0)


@pytest.mark.parametrize(("how", "numbered"), [*((how, True) for how in ADDING), ("relu", False)])
def test_a_copied_block_starts_as_the_identity(how: str, numbered: bool) -> None:
    """Branches are ended by zeros, however they are added; the copy comes next, and all its parameters learn within two steps."""
    x = example(3, 4)
    blocks = [Residual(how), Residual(how)]
    named = nn.Sequential()
    for name, block in zip(("first", "second"), blocks, strict=True):
        named.add_module(name, block)
    model = trained(Blocks(nn.ModuleList(blocks) if numbered else named).double(), x)
    change = untouched(model, lambda: deepen(model, "blocks.0" if numbered else "blocks.first", example=x))

    require_exact(change, x, within=0.0)
    assert [*change.model.blocks._modules] == (["0", "1", "2"] if numbered else ["first", "first_copy", "second"])
    old, copied, last = change.model.blocks.children()
    assert torch.equal(old.a.weight, copied.a.weight)
    assert torch.equal(last.a.weight, model.get_submodule("blocks").get_submodule("1" if numbered else "second").a.weight)


@pytest.mark.parametrize("how", ["sum", "scaled", "two sums"])
def test_all_of_a_copied_block_learns_within_two_steps(how: str) -> None:
    """The parameters at zero get a gradient at the first step, those before them at the second."""
    x = example(3, 4)
    model = trained(Blocks(nn.Sequential(Residual(how), Residual(how))).double(), x)
    change = deepen(model, "blocks.0", example=x)
    unread = {"norm", "c", "scale"} - {"sum": {"norm"}, "scaled": {"norm", "scale"}, "two sums": {"norm", "c"}}[how]
    for name in [n for n in new_parameters(change) if n.split(".")[2] in unread]:
        change.model.get_parameter(name).requires_grad_(False)
    waiting = [n for n in new_parameters(change) if change.model.get_parameter(n).requires_grad]

    assert waiting
    child = change.model
    seen: set[str] = set()
    for _ in range(2):
        gradients = step(child.train(), x, rate=0.5)
        seen |= {n for n in waiting if bool(gradients[n].abs().max() > 0)}
    assert seen == set(waiting)


@pytest.mark.parametrize("how", NOT_ADDING)
def test_a_block_that_does_not_add_to_its_input_is_refused(how: str) -> None:
    """A block that normalises last, changes its input, or has a branch that parameters cannot end, says where."""
    with pytest.raises(ChangeError, match=r"no path that carries its input|without an end"):
        deepen(Blocks(nn.Sequential(Residual(how), Residual(how))).double(), "blocks.0", example=example(3, 4))


@pytest.mark.parametrize("name", ["gpt", "resnet", *["llama"] * FULL])
def test_blocks_of_models_are_copied(name: str) -> None:
    """The blocks of a GPT, of a Llama and of a residual network."""
    model, x = build(name)
    path = {"gpt": "h", "llama": "layers", "resnet": "blocks"}[name]
    for at in (f"{path}.0", f"{path}.1")[: 2 if name == "resnet" else 1]:
        change = untouched(model, lambda at=at: deepen(model, at, example=x))

        require_exact(change, x, within=0.0)
        require_learning(change, x)


def test_an_encoder_of_torch_counts_its_layers() -> None:
    """A copied layer of nn.TransformerEncoder changes its number of layers, and its fast path sees the copy as well."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).double()
    x = example(2, 3, 8)
    change = deepen(model, "0.layers.1", example=x)

    require_exact(change, x)
    assert change.model[0].num_layers == 3


def test_new_parameters_follow_the_old_ones() -> None:
    """They have the dtype, the layout in memory and the mode of the layer, and need no gradient if it needs none."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).double().to(memory_format=torch.channels_last)
    model.requires_grad_(False).eval()
    x = (example(2, 2, 4, 4)[0].contiguous(memory_format=torch.channels_last),)
    for at in ("0", "1", "2"):
        child = deepen(model, at, example=x).model
        weight = next(p for name, p in child.named_parameters() if name.startswith(f"{at}.") and p.shape == (3, 3, 3, 3))

        assert weight.dtype == torch.float64
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert at == "2" or not weight.requires_grad
        assert not any(m.training for m in child.modules())


def test_a_shared_layer_is_deepened_wherever_it_is_called() -> None:
    """A module under two names, called twice, is replaced under both, and the weights stay tied."""
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer).double()
    x = example(3, 4)
    change = deepen(model, "2", example=x)

    require_exact(change, x, within=0.0)
    assert change.model[0] is change.model[2]


class Sequences(nn.Module):
    """A recurrent layer whose outputs, last state or states from outside are used."""

    def __init__(self, layer: nn.Module, features: int, uses: str = "outputs") -> None:
        super().__init__()
        self.rnn, self.out, self.uses = layer, nn.Linear(features, 2), uses

    def forward(self, x: Tensor) -> Any:
        if self.uses == "given":
            return self.out(self.rnn(x, x.new_zeros(1, x.shape[1], 3))[0])
        if self.uses == "cell":
            return self.out(self.rnn(x[0]))
        outputs, state = self.rnn(x)
        return self.out(outputs) if self.uses == "outputs" else self.out(state[-1])


@settings(max_examples=40 if FULL else 3)
@given(
    st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
)
def test_a_recurrent_layer_gets_a_residual_one(
    kind: Any, hidden: int, layers: int, bidirectional: bool, batch_first: bool, training: bool, projected: int
) -> None:
    """Bit for bit the same, in both modes; the linear map learns at the first step, the new layer at the second."""
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    options |= {"bias": not training} | ({"nonlinearity": "relu"} if kind is nn.RNN else {})
    if kind is nn.LSTM and projected < hidden:
        options["proj_size"] = projected
    features = (options.get("proj_size") or hidden) * (1 + bidirectional)
    x = example(2, 2, 3)
    model = trained(Sequences(kind(3, hidden, **options), features).double(), x).train(training)

    change = untouched(model, lambda: deepen(model, "rnn", example=x))

    require_exact(change, x, within=0.0)
    assert change.model.rnn[1].training == training
    if kind is not nn.RNN:  # the units of a ReLU may all be off
        require_learning(change, x)
    if kind is not nn.RNN and "proj_size" not in options:
        # both layers can be widened afterwards
        for at in ("rnn.0", "rnn.1")[: 2 if FULL else 1]:
            check = widen(change.model, at, to=hidden + 2, form="zero", example=x)
            assert check.distances.train < 1e-12


def test_a_recurrent_layer_with_a_state_is_not_deepened() -> None:
    """Where the code gives a state or uses the last one, a layer on top would need one as well; so it says when it is given one later."""
    x = example(2, 2, 3)
    for layer, uses, message in (
        (nn.GRU(3, 3), "given", "gives rnn a state or uses the state that it returns"),
        (nn.GRU(3, 3), "state", "gives rnn a state or uses the state that it returns"),
        (nn.GRUCell(3, 3), "cell", "is of type GRUCell, whose state the code"),
    ):
        model = Sequences(layer, 3, uses).double()
        coupling = couple(model, x)
        with pytest.raises(ChangeError, match=message):
            Deepen().rewrite(coupling, "rnn", Seed((0,)))
        (listed,) = [p for p in Deepen().places(coupling) if p.name == "rnn"]
        assert message in str(listed.refusal)

    child = deepen(Sequences(nn.GRU(3, 3), 3).double(), "rnn", example=x).model
    with pytest.raises(DataError, match="starts at the state zero"):
        child.rnn(x[0], torch.zeros(1, 2, 3, dtype=torch.float64))


def test_refusals_say_why() -> None:
    """Each place that cannot be deepened is refused with the reason, by the list of places and by the change alike."""
    x = example(3, 4)
    lstm, tokens = build("lstm")
    listed = {p.name: p for p in Deepen().places(couple(lstm, tokens))}
    assert listed["embed"].refusal is None
    assert listed["rnn"].refusal is None
    encoder, sequences = build("encoder")
    coupling = couple(encoder, sequences)
    for at, message in (
        ("encoder.layers.0.self_attn.out_proj", r"self_attn.out_proj.weight is read at .*, without a call"),
        ("encoder.layers.0", r"layer_norm in encoder.layers.0.norm2"),
    ):
        with pytest.raises(ChangeError, match=message):
            Deepen().rewrite(coupling, at, Seed((0,)))
    with pytest.raises(ChangeError, match=r"has no attribute 'weight'"):  # its fast path reads linear1.weight
        deepen(encoder, "encoder.layers.0.linear1", example=sequences)
    with pytest.raises(ChangeError, match=r"no module 'blocs.0'; did you mean 'blocks"):
        deepen(Blocks(nn.Sequential(Residual("sum"))).double(), "blocs.0", example=x)
    with pytest.raises(ChangeError, match=r"is in a ModuleDict, which does not say in which order"):
        deepen(Blocks(nn.ModuleDict({"a": Residual("sum")})).double(), "blocks.a", example=x)
    with pytest.raises(ValueError, match="kernel is 2; it must be an odd number"):
        Deepen(kernel=2)


@pytest.mark.parametrize(
    ("container", "outside"),
    [
        (nn.Sequential, {"blocks"}),
        (lambda block: nn.ModuleList([block]), set()),
        (lambda b: nn.ModuleDict({"a": b}), {"blocks.a"}),
    ],
)
def test_every_block_is_listed(container: Callable[[nn.Module], nn.Module], outside: set[str]) -> None:
    """All modules with a forward are listed, those that are in no nn.Sequential or nn.ModuleList with this reason for a refusal."""
    x, model = example(3, 4), Blocks(container(Residual("sum"))).double()
    coupling = couple(model, x)
    listed = {place.name: place for place in Deepen().places(coupling)}
    called = {name for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList | nn.ModuleDict)}

    assert listed.keys() == called
    assert outside == {name for name, place in listed.items() if "does not say in which order" in str(place.refusal)}
    for name, place in listed.items():
        with pytest.raises(ChangeError) if place.refusal else nullcontext():
            Deepen().rewrite(coupling, name, Seed((0,)))


def test_a_copy_that_is_never_called_is_refused() -> None:
    """Code that runs its blocks by number would leave the copy out; a number that the model keeps can be given."""
    x = example(3, 4)
    by_hand = Blocks(nn.ModuleList([Residual("sum"), Residual("sum")]), "by hand").double()
    counted = Blocks(nn.ModuleList([Residual("sum"), Residual("sum")]), "depth").double()

    with pytest.raises(ChangeError, match="never be called, and so never learn"):
        deepen(by_hand, "blocks.1", example=x)
    with pytest.raises(ChangeError, match="claims to be exact"):
        deepen(by_hand, "blocks.0", example=x)
    require_exact(deepen(counted, "blocks.1", example=x, numbers={"depth": 3}), x, within=0.0)


def test_changes_are_made_one_after_the_other() -> None:
    """A deepened model is deepened again: also within its new layers, in float32."""
    model, x = build("resnet", dtype=torch.float32)
    for at in ("stem", "stem.2", "blocks.1.bn2")[: 3 if FULL else 2]:
        change = deepen(model, at, example=x)
        require_exact(change, x, within=0.0)
        model = change.model


def test_changes_of_all_kinds_follow_each_other_and_are_rebuilt(tmp_path: Path) -> None:
    """Widened, deepened, padded, and with a path: each is exact, and a new instance follows the lineage to the same outputs."""
    model, x = build("resnet")
    original, file = model, tmp_path / "lineage.json"
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(2):
        step(model.train(), x)
    for make in (
        lambda m: deepen(m, "blocks.1", example=x),
        lambda m: widen(m, "blocks.1.conv1", to=9, example=x),
        lambda m: pad_kernel(m, "blocks.1.conv1", kernel=(5, 3), example=x),
        lambda m: add_path(m, "blocks.2.conv2", width=3, example=x),
        lambda m: deepen(m, "blocks.0", example=x),
    )[: 5 if FULL else 4]:
        change = untouched(model, lambda make=make, model=model: make(model))
        require_exact(change, x)
        change.save(file)
        change.follow(optimiser)
        model = change.model
        assert {id(p) for group in optimiser.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
        step(model, x)
        optimiser.zero_grad()
        model(*x).square().mean().backward()
        optimiser.step()

    fresh, _ = build("resnet", seed=3)
    rebuilt = rebuild(fresh, file)
    rebuilt.load_state_dict(model.state_dict())
    for training in (True, False):
        assert torch.equal(rebuilt.train(training)(*x), model.train(training)(*x))
    assert original.state_dict().keys() == build("resnet")[0].state_dict().keys()


VISION: list[tuple[str, str, str | None]] = [
    ("resnet18", "layer1.0", None),
    ("resnet18", "layer1.0.bn1", None),
    ("resnet18", "layer2.0", "layer2.0.downsample.1"),
    ("mobilenet_v2", "features.3", None),
    ("mobilenet_v2", "features.2", "features.2.conv.3"),
    ("efficientnet_b0", "features.2.1", None),
    ("convnext_tiny", "features.1.0", None),
    ("densenet121", "features.denseblock1.denselayer1", "_DenseBlock"),
    ("densenet121", "features.conv0", None),
    ("vit_b_32", "encoder.layers.encoder_layer_0", None),
    ("swin_t", "features.1.0", None),
    ("regnet_x_400mf", "trunk_output.block2.block2-1", None),
]


@full_only
@pytest.mark.parametrize(("name", "at", "refusal"), VISION)
def test_models_of_torchvision(name: str, at: str, refusal: str | None) -> None:
    """Blocks and layers of torchvision's classifiers are deepened exactly, or refused with the module that prevents it."""
    model, x = vision(name, size=224 if name.startswith("vit") else 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if refusal is None:
            change: Any = deepen(model, at, example=x)
            assert (change.distances.eval, change.distances.train) == (0.0, 0.0)
        else:
            with pytest.raises(ChangeError, match=refusal):
                deepen(model, at, example=x)
