"""Kernels of convolutions in any module: padded with zeros, written with a smaller dilation, and with moved taps."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from full import FULL, full_only
from hypothesis import assume, given, settings, strategies as st
from module_growth import require_exact, step, trained, untouched
from module_zoo import build, vision
from torch import Tensor, nn

from nasframe.errors import ChangeError
from nasframe.modules.change import ModuleChange
from nasframe.modules.coupling import couple
from nasframe.modules.kernels import Dilate, PadKernel, dilate, pad_kernel

#: what torch says of some convolutions that are drawn, once in each process
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
MODES = ("zeros", "reflect", "replicate", "circular")


def example(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


@attrs.frozen(repr=False)
class Made:
    """A model that starts with a convolution, and an example; its repr is short, as hypothesis prints it."""

    model: nn.Module
    example: tuple[Tensor]

    def __repr__(self) -> str:
        return f"{self.model[0]} on {tuple(self.example[0].shape)}"


@st.composite
def convolutions(draw: st.DrawFn) -> Made:
    """Draw a convolution with a BatchNorm, trained for a few steps, and an example on which the kernel has room to grow."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 2]))
    options: dict[str, Any] = {"kernel_size": each(1, 3), "dilation": each(1, 3), "stride": each(1, 2), "padding": each(0, 2)}
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(options["stride"], options["dilation"], strict=True)
        )
    else:
        options["padding_mode"] = draw(st.sampled_from(MODES))
        if text := draw(st.sampled_from(["", "", "same", "valid"])):
            options |= {"padding": text} | ({"stride": 1} if text == "same" else {})
    cls = getattr(nn, f"Conv{'Transpose' * transposed}{rank}d")
    # the last axis is longer, so that the two cannot be mistaken for each other
    x = example(2, 2 * groups, *[9, 10, 11][3 - rank :])
    norm = getattr(nn, f"BatchNorm{rank}d")
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 9)))
        model = nn.Sequential(cls(2 * groups, groups, groups=groups, **options), norm(groups)).double()
    try:
        return Made(trained(model, x), x)
    except RuntimeError:
        assume(False)  # torch refuses some combinations of sizes
        raise


def short_of_room(conv: Any, x: Tensor, kernel: tuple[int, ...]) -> bool:
    """Whether padding made of the input's entries needs more of them than there are."""
    same = [(k - 1) * d - (k - 1) * d // 2 for k, d in zip(kernel, conv.dilation, strict=True)]
    text = {"same": same, "valid": [d * (n - k) // 2 for n, k, d in zip(kernel, conv.kernel_size, conv.dilation, strict=True)]}
    more = (
        [p + d * (n - k) // 2 for p, n, k, d in zip(conv.padding, kernel, conv.kernel_size, conv.dilation, strict=True)]
        if (isinstance(conv.padding, tuple))
        else text[conv.padding]
    )
    least = {"reflect": 1, "circular": 0}.get(conv.padding_mode, -1000)
    return any(p and n < p + least for p, n in zip(more, x.shape[2:], strict=True))


def require_kept_taps(change: ModuleChange) -> None:
    """The sum of the taps is that of the parent's, entry by entry of the other axes: no tap was lost or doubled."""
    old, new = change.parent[0].weight, change.model[0].weight
    torch.testing.assert_close(new.flatten(2).sum(2), old.flatten(2).sum(2))
    assert int((new != 0).sum()) == int((old != 0).sum())


@settings(max_examples=100 if FULL else 8)
@given(convolutions(), st.data())
def test_a_padded_kernel_computes_what_was_computed(made: Made, data: st.DataObject) -> None:
    """For every rank, size, stride, dilation, padding and mode, also transposed; the new taps learn at once."""
    model, x = made.model, made.example
    old = model[0].kernel_size
    more = tuple(data.draw(st.integers(0, 2 if d == 1 else 1)) for d in model[0].dilation)
    kernel = tuple(k + 2 * m for k, m in zip(old, more, strict=True))
    if kernel == old:
        with pytest.raises(ChangeError, match=r"has the size .* already"):
            pad_kernel(model, "0", kernel=kernel, example=x)
        return
    if short_of_room(model[0], x[0], kernel):
        with pytest.raises(ChangeError, match="needs an axis of at least"):
            pad_kernel(model, "0", kernel=kernel, example=x)
        return
    change = untouched(model, lambda: pad_kernel(model, "0", kernel=kernel, example=x))

    require_exact(change, x)
    require_kept_taps(change)
    # what a convolution of this size computes that torch has built itself
    conv = change.model[0]
    assert repr(conv).startswith(type(conv).__name__)
    assert conv.kernel_size == kernel == tuple(conv.weight.shape[2:])
    gradient = step(change.model.train(), x)["0.weight"]
    assert bool((gradient != 0).flatten(2).any(2).all())


@settings(max_examples=100 if FULL else 5)
@given(convolutions(), st.data())
def test_a_dilated_kernel_is_written_as_a_dense_one(made: Made, data: st.DataObject) -> None:
    """With a dilation that divides the old one, and with any where there is a single tap, nothing changes."""
    model, x = made.model, made.example
    conv = model[0]
    wanted = tuple(
        data.draw(st.sampled_from([n for n in (1, 2, 3) if k == 1 or d % n == 0]))
        for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
    )
    # torch wants the padding of the output below the stride or the dilation
    assume(all(o < max(s, d) for o, s, d in zip(conv.output_padding, conv.stride, wanted, strict=True)) or not conv.transposed)
    assume(wanted != conv.dilation)
    change = untouched(model, lambda: dilate(model, "0", dilation=wanted, example=x))

    require_exact(change, x)
    require_kept_taps(change)
    assert change.model[0].dilation == wanted


@pytest.mark.parametrize("mode", MODES)
def test_moved_taps_keep_the_size_and_are_measured(mode: str) -> None:
    """A lossy dilation keeps weights and sizes, and computes what a new convolution with these options computes."""
    x = example(2, 3, 12, 13)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)).double(), x)
    change = untouched(model, lambda: dilate(model, "0", dilation=(2, 3), lossy=True, example=x))
    made = nn.Conv2d(3, 4, 3, padding=(2, 3), dilation=(2, 3), padding_mode=mode).double()
    made.load_state_dict(model[0].state_dict())

    assert change.claim.kind == "lossy"
    assert 0.01 < change.distances.eval < 10
    assert torch.equal(change.model(*x), made(*x))


def test_a_convolution_that_is_shared_or_followed_by_code_is_padded() -> None:
    """Convolutions that share a weight are padded together, each by its own dilation."""
    first, second = nn.Conv1d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=2, dilation=2)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second).double()
    x = example(2, 2, 9)
    change = pad_kernel(model, "2", kernel=5, example=x)

    require_exact(change, x)
    assert change.model[0].weight is change.model[2].weight
    assert (change.model[0].padding, change.model[2].padding) == ((2,), (4,))


@pytest.mark.parametrize(("name", "at"), [("resnet", "blocks.1.conv2"), *[("cnn", "conv2")] * FULL])
def test_kernels_in_models(name: str, at: str) -> None:
    """A kernel of 3 becomes one of 7 x 5 within a model, with channels last and without."""
    model, x = build(name)
    for layout in [torch.contiguous_format] + [torch.channels_last] * (name == "resnet"):
        change = pad_kernel(model.to(memory_format=layout), at, kernel=(7, 5), example=x)

        require_exact(change, x)
        assert change.model.get_submodule(at).weight.is_contiguous(memory_format=layout)


class Reads(nn.Module):
    """Code that uses the weight of a convolution without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv1d(x, self.conv.weight, padding=1)


def test_refusals_say_why() -> None:
    """What cannot be padded or dilated is refused with the reason and what to write instead."""
    x = example(2, 2, 9)
    conv = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1)).double()
    with pytest.raises(ChangeError, match=r"has 3 taps along an axis and cannot get 4: .* write 3, 5, 7"):
        pad_kernel(conv, "0", kernel=4, example=x)
    with pytest.raises(ChangeError, match="cannot get 1"):
        pad_kernel(conv, "0", kernel=1, example=x)
    with pytest.raises(ChangeError, match=r"0 has 1 axes; kernel is \(5, 5\), with 2 numbers"):
        pad_kernel(conv, "0", kernel=(5, 5), example=x)
    with pytest.raises(ValueError, match="kernel is 0; it must be a whole number"):
        PadKernel(0)
    with pytest.raises(ChangeError, match=r"2, which does not divide 1; .* write lossy=True"):
        dilate(conv, "0", dilation=2, example=x)
    with pytest.raises(ChangeError, match=r"has the dilation .* already"):
        dilate(conv, "0", dilation=1, example=x)
    with pytest.raises(ChangeError, match="would have another size"):
        dilate(nn.Sequential(nn.Conv1d(2, 2, 2)).double(), "0", dilation=2, lossy=True, example=x)
    with pytest.raises(ChangeError, match="is a Linear; only a convolution has a kernel"):
        pad_kernel(nn.Sequential(nn.Linear(9, 2)).double(), "0", kernel=5, example=x)
    with pytest.raises(ChangeError, match=r"conv.weight is read at test_module_kernels.py:\d+ in the model, without a call"):
        pad_kernel(Reads().double(), "conv", kernel=5, example=x)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3))).double()
    with pytest.raises(ChangeError, match="computed by a parametrization"):
        pad_kernel(normed, "0", kernel=5, example=x)
    circular = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")).double()
    with pytest.raises(ChangeError, match="pad its input by 10 with the mode 'circular', which needs an axis of at least 10"):
        pad_kernel(circular, "0", kernel=21, example=x)


def test_places_list_the_convolutions() -> None:
    """Every convolution is listed, with its kernel, or with the reason why it cannot be changed."""
    model, x = build("cnn")
    coupling = couple(model, x)

    assert [(p.name, p.size, p.refusal) for p in PadKernel(5).places(coupling)] == [("conv1", 3, None), ("conv2", 3, None)]
    assert [p.note for p in Dilate().places(coupling)] == ["kernel (3, 3), dilation (1, 1)"] * 2
    (place,) = PadKernel(5).places(couple(Reads().double(), example(2, 2, 9)))
    assert "without a call" in str(place.refusal)


@full_only
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet18", "layer2.0.conv1"),
        ("mobilenet_v2", "features.3.conv.1.0"),
        ("densenet121", "features.denseblock1.denselayer1.conv2"),
        ("efficientnet_b0", "features.2.1.block.1.0"),
        ("convnext_tiny", "features.1.0.block.0"),
    ],
)
def test_models_of_torchvision(name: str, at: str) -> None:
    """Strided, depthwise and dense convolutions of torchvision's classifiers are padded exactly."""
    model, x = vision(name, size=64)
    change = pad_kernel(model, at, kernel=9, example=x)

    assert max(change.distances.eval, change.distances.train) < 1e-12
