"""The map from a parent's tensors to its child's, and the structures that both are built from, held to their laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nasframe_recurrent import TwoToOne
from recurrent import parents, strategy
from torch import Tensor, nn

from nasframe import (
    Backbone,
    Change,
    ChangeError,
    Claim,
    Grown,
    Network,
    Optimiser,
    Seed,
    Strategy,
    Structure,
    Take,
    apply,
    build,
    consumes,
    produces,
)
from nasframe import Set as Value
from nasframe.change.map import OWN, ZERO
from nasframe.testing import laws
from nasframe.testing.aged import Aged
from nasframe.testing.strategies import aged, optimisers, seeds, sizes

SEED = Seed(("map",))
Patch = pytest.MonkeyPatch


class Hidden(nn.Module):
    """V tanh(W x + b) for vectors x: the smallest network with units that one tensor makes and another takes in."""

    def __init__(self, inputs: int, names: Sequence[int], outputs: int, labelled: bool) -> None:
        super().__init__()
        self.names, self.labelled = names, labelled
        self.W = nn.Parameter(torch.randn(len(names), inputs))
        self.b = nn.Parameter(torch.randn(len(names)))
        self.V = nn.Parameter(torch.randn(outputs, len(names)))
        self.register_buffer("scale", torch.ones(len(names)))
        self.scale: Tensor

    def forward(self, x: Tensor, shares: Any) -> Tensor:
        hidden = torch.tanh(x @ self.W.t() + self.b)
        if self.training:
            self.scale.lerp_(1 + hidden.detach().abs().mean(0), 0.1)
        return (hidden * self.scale) @ self.V.t()

    def units(self) -> dict[str, Any]:
        made, taken = produces(*self.names), consumes(*self.names)
        return {"W": (made, None), "b": (made,), "scale": (made,), "V": (None, taken)} if self.labelled else {}


@attrs.frozen
class Layer(Backbone):
    """A backbone without cells; what can change is which units it has."""

    name: ClassVar[str] = "layer"
    units: tuple[int, ...]
    labelled: bool = True

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        return Structure(self, tuple(sorted(sizes.items())), ())

    def body(self, structure: Structure) -> nn.Module:
        return Hidden(structure.size("inputs"), self.units, structure.size("outputs"), self.labelled)

    def grown(self, structure: Structure, cell: str) -> Grown:
        raise NotImplementedError

    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        return {}


@st.composite
def layers(draw: st.DrawFn, labelled: bool = True) -> Strategy:
    """A search on a layer of one unit or more."""
    units = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)))
    values = {"batch": draw(sizes(5)), "optimiser": draw(optimisers()), "seed": draw(st.integers(0, 999))}
    return flat(draw(sizes(3)), draw(sizes(2)), Layer(units, labelled), **values)


def flat(inputs: int, outputs: int, backbone: Layer, **values: Any) -> Strategy:
    """A search on vectors of noise."""
    whole = strategy(inputs, outputs, 1, TwoToOne(), **values)
    task = attrs.evolve(whole.task, inputs=(-1, inputs), outputs=(-1, outputs))
    return attrs.evolve(whole, task=task, backbone=backbone)


def layer(units: tuple[int, ...] = (0, 1, 2), labelled: bool = True, method: str = "adam") -> Aged:
    """A layer that has trained, for the mutants."""
    return Aged.of(flat(2, 2, Layer(units, labelled), batch=4, optimiser=Optimiser(method, 0.01)))


def with_units(network: Network, units: tuple[int, ...], claim: Claim | None = None, **overrides: Any) -> Change:
    """The change to these units, by the derived map but for the overrides."""
    backbone = attrs.evolve(network.structure.backbone, units=units)
    child = build(attrs.evolve(network.structure, backbone=backbone), SEED, like=network)
    return Change(child, claim or Claim.exact(), {f"body.{name}": entry for name, entry in overrides.items()})


class TestDerive:
    @given(parents(), seeds(), st.booleans())
    def test_the_same_structure_is_copied(self, parent: Aged, seed: Seed, training: bool) -> None:
        """A child of the same structure is its parent to the bit, with whatever buffers and moments it has."""
        parent.network.train(training)

        def copy(network: Network) -> Change:
            return Change(build(network.structure, seed, like=network), Claim.exact())

        child = laws.transaction(parent, copy)
        assert all(isinstance(entry, Take) and entry.index == () for entry in child.map.values())
        laws.exact(parent, child, allowed=0.0)
        laws.follows(parent, child)
        laws.undisturbed(parent, child)

    @given(aged(layers()), st.data())
    def test_units_go_by_label(self, parent: Aged, data: st.DataObject) -> None:
        """Units in another order and with newcomers among them: the function is the same, and all train on as they would."""
        units = parent.strategy.backbone.units  # type: ignore[attr-defined]
        new = data.draw(st.lists(st.integers(10, 19), max_size=3, unique=True))
        order = tuple(data.draw(st.permutations([*units, *new])))
        child = laws.transaction(parent, lambda network: with_units(network, order))
        laws.exact(parent, child)
        laws.follows(parent, child)
        back = child.after(with_units(child.network, units))
        laws.exact(parent, back)
        laws.undisturbed(parent, back)

    @given(aged(layers()), st.data())
    def test_units_that_go_are_cut_out(self, parent: Aged, data: st.DataObject) -> None:
        """Without some of its units a layer is what it was with zeros in their columns, with the others' moments."""
        units = parent.strategy.backbone.units  # type: ignore[attr-defined]
        kept = tuple(data.draw(st.permutations(units)))[: data.draw(st.integers(1, len(units)))]
        child = parent.after(with_units(parent.network, kept, Claim.lossy()))
        cut = parent.copy()
        with torch.no_grad():
            cut.network.body.V[:, [u not in kept for u in units]] = 0.0  # type: ignore[index, operator]
        laws.exact(cut, child)

    @given(parents(), st.data())
    def test_candidates_go_by_their_ids(self, parent: Aged, data: st.DataObject) -> None:
        """The order in which candidates stand at a site changes nothing but the order of rounding."""
        structure = parent.network.structure
        for address, site in parent.network.structure.sites():
            type = address.split("/")[0]
            turned = attrs.evolve(site, candidates=tuple(data.draw(st.permutations(site.candidates))))
            structure = structure.replace_cell(type, structure.cell(type).replace_site(turned))
        child = laws.transaction(parent, lambda network: Change(build(structure, SEED, like=network), Claim.exact()))
        laws.exact(parent, child)
        laws.follows(parent, child)

    @given(parents(least=1), st.floats(0.05, 0.9))
    def test_newcomers_have_their_stated_weight(self, parent: Aged, share: float) -> None:
        """A new candidate at an old site starts with the weight that the change states; without one it is refused."""
        address, structure = _with_newcomer(parent)
        weights = torch.cat([(1 - share) * parent.weights()[address], torch.tensor([share]).double()])

        def stated(network: Network) -> Change:
            return Change(build(structure, SEED, like=network), Claim.lossy(), weights={address: weights})

        child = laws.transaction(parent, stated)
        laws.hold("stated", "the distance of the weights", float((child.weights()[address] - weights).abs().max()), 1e-14)
        with pytest.raises(ChangeError, match=f"adds candidates to {address} without stating the weights of that site"):
            parent.after(attrs.evolve(stated(parent.network), weights={}))

    def test_a_shape_without_labels_is_refused(self) -> None:
        """Another shape without labels is refused, and the message names the tensor and both shapes."""
        parent = layer(labelled=False)
        message = r"body\.W has shape \(3, 2\) in the parent and \(5, 2\) in the child, and its module does not tell"
        with pytest.raises(ChangeError, match=message):
            parent.after(with_units(parent.network, (0, 1, 2, 3, 4)))

    def test_labels_in_the_child_alone_are_refused(self) -> None:
        """Labels that only one of parent and child has are not guessed at."""
        parent = layer(labelled=False)
        backbone = Layer((0, 1, 2), labelled=True)
        child = build(attrs.evolve(parent.network.structure, backbone=backbone), SEED, like=parent.network)
        with pytest.raises(ChangeError, match=r"body\.W has shape \(3, 2\) in the parent and \(3, 2\) in the child, and its module"):
            parent.after(Change(child, Claim.lossy()))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"U": Value(torch.zeros(1))}, r"the change writes body\.U, which the child does not have"),
            ({"b": Value(torch.zeros(2))}, r"the change gives body\.b the shape \(2,\); it has \(3,\)"),
            ({"b": Take("body.W")}, r"the change gives body\.b the shape \(3, 2\); it has \(3,\)"),
        ],
    )
    def test_overrides_that_do_not_fit_are_refused(self, overrides: Any, message: str) -> None:
        """An override of what is not there, or of another shape, is refused, and the parent is as it was."""
        parent = layer()

        def refused(network: Network) -> Change:
            with pytest.raises(ChangeError, match=message):
                apply(network, with_units(network, (0, 1, 2), **overrides), parent.strategy.architect.logits)
            return with_units(network, (0, 1, 2))

        laws.transaction(parent, refused)


def widened(network: Network, source: Sequence[int], noise: Tensor | None = None, **faults: Any) -> Change:
    """net2wider: the unit at each position is a copy of the source's unit there, and so many copies share its outgoing weight.

    Args:
        noise: by which the outgoing weights of two copies differ from their share, in opposite directions.
    """
    index = torch.tensor(source)
    share = 1 / torch.bincount(index)[index].double()
    offset = None if noise is None else noise
    entries = {
        "W": Take("body.W", (index, None), gradient=share[:, None]),
        "b": Take("body.b", (index,), gradient=share),
        "scale": Take("body.scale", (index,)),
        "V": Take("body.V", (None, index), value=share, offset=offset),
    }
    changed = {name: attrs.evolve(entry, **faults.get(name, {})) for name, entry in entries.items()}
    return with_units(network, tuple(range(100, 100 + len(source))), **changed)


class TestTake:
    @given(aged(layers()), st.data())
    def test_duplicated_units_keep_the_function(self, parent: Aged, data: st.DataObject) -> None:
        """net2wider is exact, and moments that follow the map's gradients are those of the child's own gradients."""
        count = len(parent.strategy.backbone.units)  # type: ignore[attr-defined]
        more = data.draw(st.lists(st.integers(0, count - 1), max_size=4))
        source = data.draw(st.permutations([*range(count), *more]))
        child = laws.transaction(parent, lambda network: widened(network, source))
        laws.exact(parent, child)
        laws.follows(parent, child)

    @given(aged(layers()), st.floats(0.01, 1.0))
    def test_twins_diverge(self, parent: Aged, size: float) -> None:
        """Twins whose outgoing weights differ by an offset compute the same together, and part with the next step."""
        count = len(parent.strategy.backbone.units)  # type: ignore[attr-defined]
        source = [*range(count), 0]
        noise = torch.zeros(parent.network.body.V.shape[0], count + 1).double()  # type: ignore[union-attr, index]
        noise[:, 0], noise[:, -1] = size, -size
        child = laws.transaction(parent, lambda network: widened(network, source, noise))
        laws.exact(parent, child)
        _, b = _twins(child), _twins(child.train(2))
        assert not torch.equal(*b)

    @given(st.data())
    def test_entries_are_taken_scaled_and_shifted(self, data: st.DataObject) -> None:
        """Value * source[index] + offset, zero at ZERO and the child's own at OWN: as the definition reads, entry by entry."""
        rows, columns = data.draw(sizes()), data.draw(sizes())
        source = torch.randn(rows, columns, generator=data.draw(seeds()).generator(), dtype=torch.float64)
        index = [data.draw(st.lists(st.integers(-2, n - 1), min_size=1, max_size=5)) for n in (rows, columns)]
        own = torch.randn(len(index[0]), len(index[1]), generator=SEED.generator(), dtype=torch.float64)
        offset = torch.randn(own.shape, generator=SEED("offset").generator(), dtype=torch.float64)
        value, gradient = data.draw(st.floats(-2, 2)), data.draw(st.floats(-2, 2))
        take = Take("source", tuple(map(torch.tensor, index)), value, gradient, offset)
        holes, moment = _definition(take, source), _definition(attrs.evolve(take, value=gradient, offset=None), source)
        mean = [m for row in _definition(attrs.evolve(take, value=gradient**2, offset=None), source**2) for m in row if m != m]
        del mean
        for i, j in [(i, j) for i in range(own.shape[0]) for j in range(own.shape[1])]:
            expected = own[i, j] if holes[i][j] == OWN else 0.0 if holes[i][j] == ZERO else holes[i][j]
            del expected, moment
            break
