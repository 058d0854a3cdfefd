"""A third-party image backbone changes how candidates are evaluated, by one method of its base class."""

from __future__ import annotations

import attrs
import pytest
import torch
from convolutional import PLUGINS as IMAGES, image_strategy
from hypothesis import strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import Identity, SeparableConvolution, Zero
from nasframe_convolutional.examples import noise
from nasframe_relaxations import EdgeNormalisation
from partial_channels import PartialChannels, PartialMixedOperation

from nasframe import Address, Candidate, Operation, Optimiser, Search, Seed, Site, Strategy, build
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.check import QUICK, check
from nasframe.testing.compare import differences
from nasframe.testing.examples import Examples, Habitat
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import searches

OPERATIONS = (Identity(), SeparableConvolution(3, expansion=(1,)), Zero())
WITH = Plugins((*IMAGES.found, Plugin("partial", "tests", "0", (PartialChannels,))))


@st.composite
def partial(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a search with a few channels for each part."""
    parts = draw(st.sampled_from([2, 3]))
    backbone = PartialChannels(
        channels=parts * draw(st.integers(1, 2)),
        cells=draw(st.integers(1, 3)),
        affine=draw(st.booleans()),
        operations=tuple(dict.fromkeys((*OPERATIONS, *operations))),
        parts=parts,
        rate=draw(st.sampled_from([0.0, 0.3])),
    )
    return draw(searches(backbone, draw(noise())))


def test_it_passes_the_kit() -> None:
    """Every law of backbones holds, with a fast form that agrees with the readable one."""
    examples = Examples(habitats=(Habitat(PartialChannels, partial),))
    # two cases for each law: `nasframe check` tries six
    report = check(PartialChannels, examples=examples, profile=attrs.evolve(QUICK, cases=2, least=1))

    assert report.ok, report.text()


def test_it_resumes_at_every_event() -> None:
    """A search with edge normalisation and dropout that is saved and continued at any record ends in the same bytes."""
    backbone = PartialChannels(channels=2, cells=1, operations=OPERATIONS, parts=2, rate=0.5)
    architect = FirstOrder(relaxation=EdgeNormalisation(), optimiser=Optimiser(learning_rate=0.01))
    search = Search(
        image_strategy(
            backbone=backbone,
            architect=architect,
            criterion=Scripted(epochs=2, growths=0),
            growth=(),
            nodes=2,
            optimiser=Optimiser(epochs=2),
        )
    )
    before = {name: alpha.detach().clone() for name, alpha in search.network.alphas.items()}
    dumps = [saved(search.state) for _ in search]
    expected = saved(search.state)
    assert search.network.structure.decided
    assert all(any(k.endswith(name) and not torch.equal(v, before[name]) for k, v in dumps[2][1].items()) for name in before)
    for place, dump in enumerate(dumps[:-1]):
        torch.manual_seed(place)
        again = Search(search.strategy, data=search.data, state=revived(*dump, search.strategy, WITH, search.data))
        again.run()
        found = saved(again.state)
        assert found[0] == expected[0], place
        assert not differences(found[1], expected[1]), place


@pytest.mark.parametrize("stride", [1, 2])
def test_what_an_edge_computes(stride: int) -> None:
    """The first channels pass through the candidates, the others are pooled and multiplied by the weight of the edge."""
    address = Address.of("normal", "e")
    site = Site("e", "n0", ("i0",), (Candidate(0, SeparableConvolution(3)), Candidate(1, Zero())))
    with Seed(("edge",)).as_global():
        module = PartialMixedOperation(address, site, channels=6, stride=stride, affine=False, parts=3, rate=0.0)
        x = torch.randn(2, 6, 5, 4)
    found = module({address: torch.tensor([0.3, 0.2]).unbind()}, x)

    mixed = 0.3 * module.candidates["0"](x[:, :2])
    passed = 0.5 * (torch.nn.functional.max_pool2d(x[:, 2:], 2, ceil_mode=True) if stride == 2 else x[:, 2:])
    # channels 0, 1 of each of the three parts, part by part -> channel by channel
    wanted = torch.cat([mixed, passed], 1)[:, [0, 2, 4, 1, 3, 5]]
    torch.testing.assert_close(found, wanted)


def test_dropout_on_identities() -> None:
    """Only identities are dropped, in training alone, and the rate has fallen to zero at the end of a phase."""
    sites = {
        name: Site("e", "n0", ("i0",), (Candidate(0, part),)) for name, part in (("identity", Identity()), ("zero", Zero()))
    }
    x = torch.ones(2, 4, 8, 8)
    for name, site in sites.items():
        module = PartialMixedOperation(Address.of("normal", "e"), site, channels=4, stride=1, affine=False, parts=2, rate=0.5)
        plain, dropped = module.eval()({}, x), 0
        for module.progress in (0.0, 1.0):
            with Seed(("dropout",)).as_global():
                changed = module.train()({}, x) != plain
            dropped = int(changed.sum())
            assert (dropped > 0) == (name == "identity" and module.progress == 0.0)
            # the channels that bypass the candidates are never dropped
            assert not changed[:, 1::2].any()


def test_channels_that_cannot_be_divided() -> None:
    """A number of parts that does not divide the number of channels is refused."""
    with pytest.raises(ValueError, match="it must divide the number of channels, 6"):
        PartialChannels(channels=6, parts=4)


def test_the_number_of_weights() -> None:
    """Candidates on a quarter of the channels have about a sixteenth of the weights."""
    sizes = {"channels": 1, "classes": 2, "height": 8, "width": 8}
    counts = [
        build(PartialChannels(channels=64, cells=1, operations=OPERATIONS, parts=parts).initial(sizes, 1), Seed((0,))).count()
        for parts in (2, 8)
    ]
    assert 12 < counts[0]["operations"] / counts[1]["operations"] <= 16
