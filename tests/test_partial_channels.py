"""PC-DARTS: the candidates of an edge receive a part of its channels; P-DARTS: identities are dropped."""

from __future__ import annotations

import pytest
import torch
from convolutional import PLUGINS as IMAGES, image_strategy
from full import FULL
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import AvgPool, DartsConvolutional, Identity, MaxPool, PartialChannels, SeparableConvolution, Zero
from nasframe_convolutional.edges import DroppedIdentities, PartialMixedOperation
from nasframe_relaxations import EdgeNormalisation

from nasframe import Address, Candidate, Optimiser, Search, Seed, Site, build
from nasframe.testing.compare import differences
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved

OPERATIONS = (Identity(), SeparableConvolution(3, expansion=(1,)), Zero())


def test_it_resumes_at_every_event() -> None:
    """A search with edge normalisation and dropout that is saved and continued at any record ends in the same bytes.

    A quick run continues it at every third record.
    """
    backbone = PartialChannels(channels=2, cells=1, operations=OPERATIONS, parts=2, identity_dropout=0.5)
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
    for place in range(0, len(dumps) - 1, 1 if FULL else 3):
        torch.manual_seed(place)
        again = Search(search.strategy, data=search.data, state=revived(*dumps[place], search.strategy, IMAGES, search.data))
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


def test_a_quarter_of_the_channels_needs_less_than_half_of_the_memory() -> None:
    """With K = 4, what a training step keeps for its backward pass is at most half of what DARTS keeps."""
    sizes = {"channels": 3, "classes": 10, "height": 8, "width": 8}
    operations = (Zero(), MaxPool(), AvgPool(), Identity(), *OPERATIONS[1:2], SeparableConvolution(5, dilation=2))
    kept = {}
    for kind in (DartsConvolutional, PartialChannels):
        backbone = kind(channels=8, cells=3, operations=operations)
        network = build(backbone.initial(sizes, 2), Seed((0,)), relaxation=EdgeNormalisation())
        seen: dict[int, int] = {}

        def keep(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = network(torch.randn(4, 3, 8, 8), network.mixing())
        assert outputs.requires_grad
        kept[kind] = sum(seen.values())
    assert kept[PartialChannels] < kept[DartsConvolutional] / 2


def test_darts_drops_identities() -> None:
    """The backbone of DARTS has this dropout as an option."""
    backbone = DartsConvolutional(channels=2, cells=1, operations=OPERATIONS, identity_dropout=0.3)
    network = build(backbone.initial({"channels": 1, "classes": 2, "height": 4, "width": 4}, 2), Seed((0,)))

    edges = [module for module in network.modules() if isinstance(module, DroppedIdentities)]
    # in a reduction cell the four edges from its inputs have stride 2, where the identity is a reduction with weights
    assert sorted((edge.rate, len(edge.identities)) for edge in edges) == [(0.3, 0)] * 4 + [(0.3, 1)]
