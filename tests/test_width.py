"""Growth in width: what it does beyond the laws of all morphisms (`nasframe check width`)."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import attrs
import convolutional
import pytest
import torch
from full import FULL
from nasframe_growing import DepthGrowth, NodeGrowth, WidthGrowth
from nasframe_recurrent import Prod, Sum, Tanh, TwoToOne
from nasframe_recurrent.operations import TwoInputOperation
from recurrent import make, specimen, strategy
from test_resume import check_resumes_everywhere
from torch import Tensor, nn
from toy import toy_strategy

from nasframe import Morphism, Optimiser, Search, Seed, build
from nasframe.change.apply import apply, distance as measured
from nasframe.change.edit import combine, remove_candidates
from nasframe.errors import ChangeError
from nasframe.modules.coupling import couple
from nasframe.modules.larger import sizes_between
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.fakes import Chain, Shares
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("width",))
FORMS = {"zero": WidthGrowth(), "replicate": WidthGrowth(1.5, form="replicate", skew=0.2)}


PARENTS = {
    "two_to_one": specimen,
    "images": lambda: convolutional.trained(cells=3, channels=3, affine=True, auxiliary=0.4, drop_path=0.3),
    "mean": lambda: convolutional.trained(2, channels=2, cells=1, output="mean", stem="imagenet"),
}


def small() -> TrainedNetwork:
    """Return a network with few operations and without dropout that was trained, all examples in each batch."""
    return _small().copy()


@cache
def _small() -> TrainedNetwork:
    backbone = TwoToOne(3, operations=(Sum(), Tanh(), Prod()))
    return TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=8, optimiser=Optimiser(learning_rate=0.01)), 20)


def grown(parent: TrainedNetwork, morphism: Morphism) -> TrainedNetwork:
    """Return the network after the first growth that is proposed."""
    first = parent.proposals(morphism)[0]
    return parent.after(morphism.edit(parent.network.structure, first.request, first.evidence, SEED), SEED)


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in PARENTS for form in FORMS if FULL or (form == "zero") == (name == "images")],
)
def test_growth_is_exact_and_training_goes_on(name: str, form: str) -> None:
    """Outputs, gradients and moments of a trained network follow, with dropout, drop path, auxiliary head and batch statistics."""
    parent = PARENTS[name]()
    child = grown(parent, FORMS[form])

    assertions.assert_exact(parent, child)
    assertions.assert_gradients_follow(parent, child)
    assertions.assert_moments_follow(parent, child)
    assert sum(p.numel() for p in child.network.parameters()) > sum(p.numel() for p in parent.network.parameters())


@pytest.mark.parametrize("images", [False, *[True] * FULL])
def test_all_growths_one_after_another(images: bool) -> None:
    """By width, a node, depth, and width again: each is exact, and the result can be pruned, and built again from its JSON."""
    parent = convolutional.trained() if images else small()
    for morphism in (WidthGrowth(), NodeGrowth(form="gate"), DepthGrowth(), WidthGrowth(1.0, form="replicate", skew=0.2)):
        child = grown(parent, morphism)
        assertions.assert_exact(parent, child)
        parent = child.train(2)
    structure, backbone = parent.network.structure, parent.network.backbone
    assert backbone.widths(structure) == ({"channels": 5} if images else {"hidden": 7})
    pruned = parent.after(remove_candidates(structure, backbone.derive(structure, parent.mixing())))
    assert pruned.network.structure.decided
    assertions.assert_reconstructed(pruned.train(2), convolutional.PLUGINS.make if images else make)


def test_copies_part() -> None:
    """Copies with uneven shares get different gradients; those with equal shares never become different."""
    apart = {}
    for skew in (0.0, 0.2):
        child = grown(small(), WidthGrowth(form="replicate", skew=skew))
        rows = child.train(20).network.get_parameter("body.layers.0.sites.n0.candidates.1.W_x").detach()
        apart[skew] = float((rows[:3] - rows[3:]).abs().max())
    assert apart[0.0] < 1e-12 < 1e-5 < apart[0.2]


@attrs.frozen
class Normalised(TwoInputOperation):
    """An operation that normalises over the units."""

    name: ClassVar[str] = "normalised"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return _Normalised(inputs, hidden)


class _Normalised(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, hidden), nn.LayerNorm(hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.norm(self.linear(x) + h)


def test_normalised_units_are_replicated_only() -> None:
    """With LayerNorm in an operation, new units would change mean and variance: only equal copies are exact."""
    parent = TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(3, operations=(Normalised(), Sum())), nodes=2, batch=4), 5)
    with pytest.raises(ChangeError, match="new units would change the mean and the variance"):
        WidthGrowth().admits(parent.network.structure)
    with pytest.raises(ChangeError, match="only become a multiple of 3, and not 4"):
        WidthGrowth(1.4, form="replicate").admits(parent.network.structure)
    assertions.assert_exact(parent, grown(parent, WidthGrowth(form="replicate")))


def test_tied_embeddings() -> None:
    """Where the head is the embedding, units grow with outgoing weights of zero, and cannot be replicated."""
    structure = TwoToOne(3).initial({"tokens": 5}, 2)
    network = build(structure, SEED, relaxation=Shares()).double()
    change = apply(network, WidthGrowth().edit(structure, {"field": "hidden", "to": 5}, {}, SEED), SEED)
    mixing = {address: torch.full((5,), 0.2, dtype=torch.float64) for address in network.sites}
    tokens = torch.arange(12).reshape(4, 3) % 5

    assert measured(lambda n: n(tokens, mixing), network, change.child, change.claim) < 1e-14
    assert (change.child.get_parameter("body.head.weight")[:, 3:] == 0).all()
    with pytest.raises(ChangeError, match="is a tied weight"):
        WidthGrowth(form="replicate").admits(structure)


def test_options() -> None:
    """The new width is rounded and larger by one at least; a limit is not exceeded; another request is refused."""
    parent = small()
    requests = lambda **options: [p.request["to"] for p in parent.proposals(WidthGrowth(**options))]  # noqa: E731
    assert [requests(by=by) for by in (1.0, 1.4, 1.5, 4.0)] == [[4], [4], [4], [12]]
    assert (requests(limit=6), requests(limit=5)) == ([6], [])
    assert not WidthGrowth(limit=5).admits(parent.network.structure)
    with pytest.raises(ChangeError, match="backbone 'chain' has no width"):
        WidthGrowth().admits(Chain().initial({"inputs": 3, "outputs": 1}, nodes=1))
    structure = parent.network.structure
    for request, message in [
        ({"field": "channels", "to": 6}, "has no width 'channels'; it has hidden"),
        ({"field": "hidden", "to": 3}, "hidden is 3 and cannot grow to 3; give a whole number of at least 4"),
        ({"field": "hidden"}, "cannot grow to 0"),
    ]:
        with pytest.raises(ChangeError, match=message):
            WidthGrowth().edit(structure, request, {}, SEED)


def test_the_gain_is_the_difference_of_squared_gradients() -> None:
    """It is the learning rate times what the squared gradients of the weights, without alphas, grow by, and is kept as evidence."""
    parent, double = small(), WidthGrowth(form="replicate", skew=0.2)
    (proposal,) = parent.proposals(double)
    squares = [
        sum(float(g.square().sum()) for n, g in network.gradients().items() if not n.startswith("alphas."))
        for network in (parent, grown(parent, double))
    ]

    assert proposal.gain == pytest.approx(0.01 * (squares[1] - squares[0]), rel=1e-9)
    assert {name: float(value) for name, value in proposal.evidence.items()} == {"gain of hidden": proposal.gain}
    assert (
        parent.proposals(WidthGrowth())[0].gain > 0
    )  # without outgoing weights, the gradients of old weights stay as they are


def test_shapes_that_are_not_of_more_units_are_refused() -> None:
    """Of each tensor that cannot have the other shape, the message says why."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    coupling = couple(model, torch.zeros(1, 3))
    shapes = {name: tensor.shape for name, tensor in tensors(model).items()}
    assert sizes_between(coupling, shapes) == {}
    assert [*sizes_between(coupling, shapes | {"0.weight": (6, 3), "0.bias": (6,), "2.weight": (2, 6)}).values()] == [6]
    for other, message in [
        ({"0.weight": (4, 5)}, "axis 1 of 0.weight has 3 entries, and 5 .* it is an axis of the model's input"),
        ({"0.weight": (6, 3)}, "and other tensors give them other numbers"),
        ({"0.bias": ()}, "0.bias has 1 axes, and none in the larger model"),
    ]:
        with pytest.raises(ChangeError, match=message):
            sizes_between(coupling, shapes | other)


def test_growth_with_another_change_of_the_same_tensors_is_refused() -> None:
    """A removal and a growth in width can be one change, two growths in width cannot."""
    parent = small()
    structure = parent.network.structure
    address, site = next(structure.sites())
    removal = remove_candidates(structure, {address: {site.candidates[-1].id}})
    width = WidthGrowth().edit(removal.structure, {"field": "hidden", "to": 5}, {}, SEED)
    both = parent.after(combine([removal, width]), SEED)
    assertions.assert_exact(parent.after(removal, SEED), both)
    again = WidthGrowth().edit(width.structure, {"field": "hidden", "to": 8}, {}, SEED)
    with pytest.raises(ChangeError, match="make the changes one after the other"):
        parent.after(combine([width, again]), SEED)


def test_a_search_grows_in_width_and_resumes() -> None:
    """A search resumed at any event ends in the same bytes, and the architecture that it finds is the wide one."""
    wide = toy_strategy(backbone=TwoToOne(3, dropout=0.2, operations=(Sum(), Tanh())), growth=(WidthGrowth(),), plan="end")
    assert check_resumes_everywhere(wide) > 20
    search = Search(wide)
    search.run()
    assert search.network.structure.backbone.hidden == 12
    assert search.network.structure.decided


def test_one_channel_does_not_grow() -> None:
    """With one channel a depthwise convolution is like a dense one: the backbone names no width, and the growth is refused."""
    sizes = {"channels": 1, "classes": 2, "height": 8, "width": 8}
    two, one = (convolutional.small(channels=n, cells=1).initial(sizes, 1) for n in (2, 1))
    assert WidthGrowth().admits(two)
    with pytest.raises(ChangeError, match="no width that can grow"):
        WidthGrowth().admits(one)
