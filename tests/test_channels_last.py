"""The fast form of image networks stays away from a fault of oneDNN, see docs/measurements/strided_convolutions.md.

The fault corrupts the heap of the process, so what may run into it is tried in a separate process (channels_last.py). oneDNN
is limited to AVX2 there, as on a machine without AVX-512, and lists the convolutions that it computes.
"""

from __future__ import annotations

import os
import re
import subprocess

import channels_last
import forked
import pytest
import torch
from channels_last import FOREIGN, SHIPPED
from hypothesis import given, strategies as st
from nasframe_convolutional import DartsConvolutional
from nasframe_convolutional.adjust import Convolution, channels_last_is_safe
from torch import Tensor, nn

from nasframe import Seed, build
from nasframe.change.claim import tolerance

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")

#: the gradient of a 1 x 1 kernel in channels last (acdb) and the strides, as oneDNN lists it
STRIDED = re.compile(r"exec,cpu,convolution,.*backward_weights,src:f32\S*:acdb:.*kh1sh(\d+).*kw1sw(\d+)")


def process(part: str) -> subprocess.CompletedProcess[str]:
    """Run the script in another process, in which oneDNN uses AVX2 only."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ONEDNN_VERBOSE": "1", "OMP_NUM_THREADS": "1"}
    command = forked.command(channels_last.__file__, part)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def strided(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The strided 1 x 1 convolutions in channels last of which a process computed the gradient of the kernel."""
    matches = map(STRIDED.search, run.stdout.splitlines())
    return [m[0] for m in matches if m and (m[1], m[2]) != ("1", "1")]


@onednn
def test_image_networks_train_without_avx512() -> None:
    """The process ends with exit code 0, and no convolution that it computed is one of those with the fault."""
    run = process("all")

    assert run.returncode == 0, run.stderr
    assert "exec,cpu,convolution" in run.stdout
    assert "acdb" in run.stdout
    assert strided(run) == []


@onednn
@pytest.mark.parametrize("part", ["layout", "subsampling"])
def test_both_parts_of_the_protection_are_needed(part: str) -> None:
    """Without the choice of the layout, or without the subsampling, convolutions with the fault are computed, or the process crashes."""
    run = process(part)

    assert run.returncode != 0 or strided(run)


@pytest.mark.parametrize(
    ("module", "safe"),
    [
        (nn.Conv2d(4, 4, 1), True),
        (nn.Conv2d(4, 4, 1, stride=2), False),
        (nn.Conv2d(4, 4, 1, stride=(1, 2)), False),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), True),
        (nn.Conv2d(4, 4, (7, 1), padding=(6, 0), dilation=2), True),
        (nn.Conv2d(10, 14, (7, 1), stride=(1, 2), padding=1, dilation=2), False),
        (Convolution(4, 4, 1, stride=2), True),
        (nn.ConvTranspose2d(4, 4, 1, stride=2), False),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1, stride=2)), False),
        (nn.ParameterList([torch.zeros(4, 4, 1, 1)]), False),
        (nn.BatchNorm2d(4), True),
        (nn.Linear(4, 4), True),
    ],
    ids=str,
)
def test_channels_last_is_for_known_convolutions(module: nn.Module, safe: bool) -> None:
    """A strided 1 x 1 convolution, or a kernel in a module of which nothing is known, rules channels last out."""
    assert channels_last_is_safe(nn.Sequential(nn.ReLU(), module)) == safe


@pytest.mark.parametrize(("operations", "layout"), [(SHIPPED, torch.channels_last), (FOREIGN, torch.contiguous_format)])
def test_the_layout_depends_on_the_operations(operations: tuple, layout: torch.memory_format) -> None:
    """Shipped operations are computed in channels last; one foreign operation that is not safe changes the whole network."""
    backbone = DartsConvolutional(channels=2, cells=3, operations=operations)
    network = build(backbone.initial({"channels": 2, "classes": 2, "height": 8, "width": 8}, 1), Seed((0,)))
    seen = []
    network.body.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mixing = {address: alphas.detach().softmax(0) for address, alphas in network.alphas.items()}
    images = torch.randn(2, 2, 8, 8)
    for x in (images, images.contiguous(memory_format=torch.channels_last)):
        network(x, mixing)

    assert all(x.is_contiguous(memory_format=layout) for x in seen)
    assert bool(network.slow_parts()) == (layout == torch.contiguous_format)
    assert all("default layout, which is slower: foreign may run into" in sentence for sentence in network.slow_parts())


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3, (1, 2), (2, 1)]),
    st.data(),
)
def test_a_subsampled_convolution_equals_a_strided_one(
    inputs: int, outputs: int, height: int, width: int, stride: int | tuple[int, int], data: st.DataObject
) -> None:
    """Values, gradients and second derivatives at any stride and size, with groups too."""
    kernel, groups = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([1, inputs]))
    outputs *= groups
    with Seed((height, width)).as_global():
        plain = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, dtype=torch.float64)
        ours = Convolution(inputs, outputs, kernel, stride, kernel // 2, groups=groups, dtype=torch.float64)
        ours.load_state_dict(plain.state_dict())
        x = torch.randn(2, inputs, height, width, dtype=torch.float64, requires_grad=True)
        found, expected = derivatives(ours, x), derivatives(plain, x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other))


def derivatives(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, the gradients of the sum of its squares, and those of the sum of their squares."""
    wanted = [x, *module.parameters()]
    y = module(x)
    first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    return [y, *first, *second]
