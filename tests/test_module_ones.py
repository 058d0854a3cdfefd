"""Axes of size 1: one channel, one head, one group, a batch or a sequence of one. They grow, or the table of places says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, strategies as st
from torch import Tensor, nn
from widening import check_equal, gradient_error, trained

from nasframe import Seed
from nasframe.modules.change import make
from nasframe.modules.coupling import couple
from nasframe.modules.places import places
from nasframe.modules.widen import Widen, widen

small = st.integers(1, 2)


class Flattened(nn.Module):
    """A convolution, and a linear layer of its pixels, which are flattened in one of the ways in which users write it."""

    def __init__(self, inputs: int, channels: int, pixels: int, way: str, transposed: bool) -> None:
        super().__init__()
        conv = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv, self.norm = conv(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.last = nn.Linear(channels * pixels, 2)
        self.channels, self.way = channels, way

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).tanh()
        if self.way == "flatten":
            h = h.flatten(1)
        elif self.way == "inferred":
            h = h.view(x.shape[0], -1)
        elif self.way == "sizes":
            B, C, H, W = h.shape
            h = h.reshape(B, C * H * W)
        elif self.way == "back":
            h = h.flatten(1).view(x.shape[0], self.channels, *x.shape[2:]).flatten(1)
        else:
            h = h.permute(0, 2, 3, 1).flatten(1, 2).flatten(1)
        return self.last(h)


class Attention(nn.Module):
    """Attention with a number of heads and a head size of its own."""

    def __init__(self, width: int, heads: int, size: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.size, self.fused = heads, size, fused
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.q, self.k, self.v = (nn.Linear(width, heads * size) for _ in range(3))
        self.out, self.last = nn.Linear(heads * size, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).view(B, T, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(x).view(B, T, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, -1)
        return self.last(x + self.out(y))


class Part(nn.Module):
    """A part of a network that keeps the shape (batch, channels, height, width), apart from the last one."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        for name, layer in PARTS.get(kind, lambda channels: {"last": nn.Linear(8 * channels, 2)})(channels).items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "excite":
            return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        if self.kind == "excite linear":
            return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        if self.kind == "mask":
            return x * self.mask(x).sigmoid()
        if self.kind == "shuffle":
            return F.pixel_shuffle(self.conv(x), 2)[:, :, ::2, ::2]
        if self.kind == "squeeze":
            return self.conv(x).squeeze(1).view(x.shape)
        if self.kind == "literal":
            return x * self.conv(x).view(x.shape[0], 1, x.shape[2], x.shape[3])
        if self.kind == "end":
            return self.last(x.flatten(1).tanh())
        for layer in self.children():
            x = layer(x)
        return x


#: the layers of each kind of part, by the number of channels
PARTS: dict[str, Callable[[int], dict[str, nn.Module]]] = {
    "depthwise": lambda n: {"conv": nn.Conv2d(n, n, 3, padding=1, groups=n)},
    "grouped": lambda n: {"conv": nn.Conv2d(n, 2 * n, 1, groups=n), "back": nn.Conv2d(2 * n, n, 1, groups=n)},
    "excite": lambda n: {"down": nn.Conv2d(n, 1, 1), "up": nn.Conv2d(1, n, 1)},
    "excite linear": lambda n: {"down": nn.Linear(n, 1), "up": nn.Linear(1, n)},
    "mask": lambda n: {"mask": nn.Conv2d(n, 1, 1)},
    "one group": lambda n: {"norm": nn.GroupNorm(1, n)},
    "instance": lambda n: {"norm": nn.InstanceNorm2d(n, affine=True)},
    "shuffle": lambda n: {"conv": nn.Conv2d(n, 4 * n, 1)},
    "squeeze": lambda n: {"conv": nn.Conv2d(n, n, 1)},
    "literal": lambda n: {"conv": nn.Conv2d(n, 1, 1)},
}


def batch(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)


def check_places(model: nn.Module, example: tuple[Any, ...]) -> set[tuple[str, int]]:
    """Widen a model at every place that is not refused, assert that it is exact, and return names and sizes of these places."""
    found, coupling = set(), couple(model, example)
    for place in Widen(1).places(coupling):
        if place.refusal is not None:
            continue
        found.add((place.name, place.size))
        factor = int(place.note.split("factor=")[1].split(" ")[0]) if "factor=" in place.note else 0
        for form in ("replicate", "zero"):
            if form in place.note:
                wider = Widen(3 * place.size, form, factor=factor)
                change = make(model, wider, place.name, wider.rewrite(coupling, place.name, Seed((0,))), example)
                check_equal(model, change.model, example)
                assert gradient_error(model, change, example) < 1e-10
    return found


@given(
    small,
    small,
    st.integers(1, 3),
    small,
    small,
    st.sampled_from(["flatten", "inferred", "sizes", "back", "rows"]),
    st.booleans(),
)
def test_channels_that_are_flattened(
    batch_size: int, inputs: int, height: int, width: int, channels: int, way: str, transposed: bool
) -> None:
    """Any number of channels grows through a flattening, however it is written, also for a batch of one and images of one pixel."""
    torch.manual_seed(0)
    example = batch(max(batch_size, 2 if height * width == 1 else 1), inputs, height, width)  # a BatchNorm needs two values
    model = trained(Flattened(inputs, channels, height * width, way, transposed), example)

    assert ("conv", channels) in check_places(model, example)


@given(small, st.integers(1, 3), small, st.integers(1, 3), st.booleans())
def test_heads_of_an_attention(batch_size: int, length: int, heads: int, size: int, fused: bool) -> None:
    """The heads of an attention grow, also a single one, which need not be chosen; the numbers of the class follow."""
    torch.manual_seed(0)
    example = batch(batch_size, length, 3)
    model = trained(Attention(3, heads, size, fused), example)
    at = "qkv" if fused else "q"

    found = check_places(model, example)

    if heads * size > 1:
        assert (at, heads) in found
        change = widen(model, at, to=3 * model.get_submodule(at).out_features, example=example)
        assert (change.model.heads, change.model.size) == (3 * heads, size)


@given(small, small, st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=3))
@hypothesis.example(1, 1, ["one group"])
def test_channels_of_other_layers(batch_size: int, channels: int, parts: list[str]) -> None:
    """Where the code drops, repeats or normalises axes of size 1, every place that is listed can be widened."""
    torch.manual_seed(0)
    example = batch(batch_size, 2, 2, 4)
    model = trained(
        nn.Sequential(nn.Conv2d(2, channels, 1), *(Part(part, channels) for part in parts), Part("end", channels)), example
    )

    found = check_places(model, example)

    assert ("0", channels) in found or not {*parts}.isdisjoint({"squeeze", "literal"})


def test_a_place_that_cannot_grow_has_a_reason() -> None:
    """An axis of size 1 that the code removes, repeats or writes as a number is refused in the table, with the line."""
    example = batch(2, 2, 2, 4)
    for part, at, channels, reason in (
        ("squeeze", "1.conv", 1, "is removed at 1"),
        ("literal", "0", 1, "the code gives it the size 1 at 1"),
        ("mask", "1.mask", 2, "is repeated at 1"),
    ):
        model = nn.Sequential(nn.Conv2d(2, channels, 1), Part(part, channels), Part("end", channels)).double()
        refusals = [str(place.refusal) for place in places(model, example)["widen"] if place.name == at]
        assert any(reason in refusal for refusal in refusals), refusals
