"""A path beside a layer or a block of any module, whose output starts at zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from full import FULL, full_only
from hypothesis import given, settings, strategies as st
from module_growth import require_exact, require_learning, trained, untouched
from module_zoo import build, vision
from torch import Tensor, nn

from nasframe import Seed, deepen, pad_kernel, rebuild
from nasframe.errors import ChangeError, DataError
from nasframe.modules.coupling import couple
from nasframe.modules.parallel import Parallel
from nasframe.modules.paths import AddPath, add_path


def example(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


@settings(max_examples=6 if FULL else 3)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([None, 1, 7]))
def test_a_path_beside_a_linear_map_is_exact(inputs: int, outputs: int, width: int | None) -> None:
    """The output keeps its bits, and a path of `width` units learns: its last layer at the first step, all of it at the second."""
    x = example(3, inputs)
    model = trained(nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()).double(), x)
    change = untouched(model, lambda: add_path(model, "0", width=width, example=x))

    require_exact(change, x, within=0.0)
    assert isinstance(change.model[0], Parallel)
    assert change.model[0][1][0].out_features == (width or outputs)
    # drawn units of ReLU may be off for all three inputs
    require_learning(change, x) if width == 7 and inputs > 1 else None


@settings(max_examples=12 if FULL else 6)
@given(st.data())
def test_a_path_beside_a_convolution_is_exact(data: st.DataObject) -> None:
    """A path has the kernel, stride, padding and dilation of its convolution, and so its size for inputs of every size."""
    rank, transposed = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    options: dict[str, Any] = {n: data.draw(st.integers(1, 3)) for n in ("kernel_size", "stride", "dilation")}
    options["padding"] = data.draw(st.integers(0, 2))
    if transposed:
        options["output_padding"] = max(options["stride"], options["dilation"]) - 1
    else:
        options["padding_mode"] = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        options["groups"] = data.draw(st.sampled_from([1, 2]))
    conv = getattr(nn, f"Conv{'Transpose' * transposed}{rank}d")(2, 4, **options)
    model = nn.Sequential(conv, nn.ReLU()).double()
    change = untouched(model, lambda: add_path(model, "0", width=3, example=example(2, 2, *[8, 7, 9][:rank])))

    require_exact(change, example(2, 2, *[8, 7, 9][:rank]), within=0.0)
    other = example(1, 2, *[11, 8, 10][:rank])
    assert torch.equal(model(*other), change.model(*other))


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("cnn", "norm"),
        ("resnet", "blocks"),
        ("gpt", "h.0"),
        ("encoder", "encoder.layers.0.dropout1"),
        ("resnet", "blocks.1"),
        ("gpt", "h.1.mlp"),
        ("llama", "layers.0.down"),
        ("encoder", "encoder.layers.1"),
    ][: 8 if FULL else 4],
)
def test_a_path_beside_parts_of_models_is_exact(name: str, at: str) -> None:
    """Beside norms, blocks and containers of models as users write them, in both modes."""
    model, x = build(name)
    change = untouched(model, lambda: add_path(model, at, width=9, example=x))

    require_exact(change, x, within=0.0)
    require_learning(change, x)


@pytest.mark.parametrize(
    ("name", "at", "shape"),
    [
        ("mlp", "a", (6, 11)),
        ("cnn", "conv2", None),
        ("resnet", "blocks.0.conv1", (6, 9, 3, 3)),
        ("lstm", "embed", None),
        ("mlp", "b", (3, 9)),
        ("gpt", "h.0.mlp.0", (16, 67)),
        ("gpt", "h.0.attn.c_attn", None),
    ][: 7 if FULL else 4],
)
def test_a_concatenated_path_is_exact(name: str, at: str, shape: tuple[int, ...] | None) -> None:
    """New channels come after the old ones, through norms and flattening, and are read with weights of zero; or it is refused."""
    model, x = build(name)
    if shape is None:
        with pytest.raises(ChangeError, match=r"use form='sum'|real numbers"):
            add_path(model, at, width=3, form="concatenate", example=x)
        return
    trained(model, x)
    change = untouched(model, lambda: add_path(model, at, width=3, form="concatenate", example=x))

    require_exact(change, x)
    require_learning(change, x)
    grown = [
        n for n, p in change.model.named_parameters() if n in model.state_dict() and p.shape != model.state_dict()[n].shape
    ]
    assert shape in [tuple(change.model.get_parameter(n).shape) for n in grown]
    assert f"{at}.0.weight" in change.model.state_dict()


def test_a_concatenated_path_is_rebuilt(tmp_path: Path) -> None:
    """A new instance follows the lineage of a concatenation, to a transposed convolution whose channels are flattened."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.ConvTranspose2d(2, 3, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(297, 2)
        ).double()

    x = example(2, 2, 4, 5)
    model = make()
    first = add_path(model, "0", width=2, form="concatenate", example=x)
    second = add_path(first.model, "4", example=x)
    for change in (first, second):
        require_exact(change, x)
        change.save(tmp_path / "lineage.json")
    rebuilt = rebuild(make(), tmp_path / "lineage.json")
    rebuilt.load_state_dict(second.model.state_dict())

    assert torch.equal(rebuilt(*x), second.model(*x))


def test_a_model_that_is_a_single_layer_is_changed_as_a_whole() -> None:
    """The model itself has the name ""."""
    conv, x = nn.Conv1d(2, 3, 3, padding=1).double(), example(2, 2, 6)
    for change in (
        add_path(conv, "", example=x),
        deepen(conv, "", example=x),
        pad_kernel(conv, "", kernel=5, example=x),
    ):
        require_exact(change, x)


def test_a_path_follows_its_module() -> None:
    """A path has the dtype, the layout in memory and the mode of its module, and needs no gradient if that needs none."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).double().to(memory_format=torch.channels_last).requires_grad_(False)
    child = add_path(model.eval(), "0", example=(example(2, 2, 5, 5)[0].contiguous(memory_format=torch.channels_last),)).model
    weight = child.get_parameter("0.1.0.weight")

    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.requires_grad
    assert not any(m.training for m in child.modules())


def test_the_first_layer_follows_the_seed() -> None:
    """The same seed draws the same path, and another one another path."""
    model, x = build("mlp")
    first, again, other = (add_path(model, "a", example=x, seed=seed).model.get_parameter("a.1.0.weight") for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_sum_is_never_broadcast() -> None:
    """A path beside a pooling that left a small image as it was is refused on an image that it shrinks."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1)).double()
    child = add_path(model, "1", example=example(1, 2, 1, 1)).model
    with pytest.raises(DataError, match=r"returns the shape \(1, 3, 1, 1\) and the path beside it \(1, 3, 4, 5\)"):
        child(*example(1, 2, 4, 5))


def test_refusals_say_why() -> None:
    """A place without one input and output of known channels is refused with the reason."""
    gpt, tokens = build("gpt")
    coupling = couple(gpt, tokens)
    listed = {p.name: p for p in AddPath().places(coupling)}
    with pytest.raises(ChangeError, match="wte receives or returns something else than a tensor of real numbers"):
        AddPath().rewrite(coupling, "wte", Seed((0,)))
    assert "real numbers" in str(listed["wte"].refusal)
    assert listed["h.0"].refusal is None
    cnn = nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(2)).double()
    with pytest.raises(ChangeError, match="1 changes the size of an image"):
        add_path(cnn, "1", example=example(1, 2, 9, 9))
    encoder, x = build("encoder")
    with pytest.raises(ChangeError, match=r"out_proj.weight is read at .*, without a call"):
        add_path(encoder, "encoder.layers.0.self_attn.out_proj", example=x)
    recurrent, x = build("gru")
    with pytest.raises(ChangeError, match="rnn is of type GRU and returns a tuple"):
        add_path(recurrent, "rnn", example=x)


@full_only
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet18", "layer2.0.conv1"),
        ("resnet18", "layer3.1"),
        ("convnext_tiny", "features.1.0"),
        ("swin_t", "features.1.0.mlp"),
    ],
)
def test_models_of_torchvision(name: str, at: str) -> None:
    """Paths beside blocks and layers of torchvision's classifiers."""
    model, x = vision(name, size=64)
    change = add_path(model, at, width=8, example=x)

    assert (change.distances.eval, change.distances.train) == (0.0, 0.0)
