"""The map from a parent's tensors to its child's, and how optimisers follow it, held to their laws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import pytest
import torch
from hypothesis import given, settings, strategies as st
from nasframe_recurrent import TwoToOne
from recurrent import parents, strategy
from torch import Tensor, nn
from torch.optim import Adam, AdamW, RAdam

from nasframe import Backbone, Candidate, Claim, Edit, Filling, Optimiser, Seed, Set as Value, Strategy, Structure, Take
from nasframe.change.map import FRESH, ZERO
from nasframe.change.optimisers import carry
from nasframe.errors import ChangeError
from nasframe.network.axes import consumes, produces
from nasframe.structure.editing import GrownStructure
from nasframe.testing import assertions
from nasframe.testing.compare import require_at_most
from nasframe.testing.strategies import optimisers, seeds, sizes, trained_networks
from nasframe.testing.trained import TrainedNetwork

SEED, EXACT = Seed(("map",)), Claim.exact()
Patch = pytest.MonkeyPatch


class Hidden(nn.Module):
    """V tanh(W x + b) for vectors x: the smallest network with units that one tensor produces and another consumes."""

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

    def axes(self) -> dict[str, Any]:
        made, taken = produces(*self.names), consumes(*self.names)
        return {"W": (made, None), "b": (made,), "scale": (made,), "V": (None, taken)} if self.labelled else {}


@attrs.frozen
class Layer(Backbone):
    """A backbone without cells; what can change is which units it has."""

    name: ClassVar[str] = "layer"
    inputs: ClassVar[tuple[str, ...]] = ()
    units: tuple[int, ...]
    labelled: bool = True

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        return Structure(self, tuple(sorted(sizes.items())), ())

    def body(self, structure: Structure) -> nn.Module:
        return Hidden(structure.size("inputs"), self.units, structure.size("outputs"), self.labelled)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        raise NotImplementedError

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
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


def layer(units: tuple[int, ...] = (0, 1, 2), labelled: bool = True, method: str = "adam") -> TrainedNetwork:
    """A layer that has trained, for the mutants."""
    return TrainedNetwork.of(flat(2, 2, Layer(units, labelled), batch=4, optimiser=Optimiser(method, 0.01)))


def with_units(structure: Structure, units: tuple[int, ...], claim: Claim = EXACT, **overrides: Any) -> Edit:
    """The edit to these units, filled by the derived map but for the overrides."""
    backbone = attrs.evolve(structure.backbone, units=units)
    return with_claim(attrs.evolve(structure, backbone=backbone), claim, **overrides)


def with_claim(structure: Structure, claim: Claim = EXACT, **overrides: Any) -> Edit:
    """The edit to a structure, filled by the derived map but for the overrides."""
    return Edit(structure, lambda parent, child: Filling(claim, {f"body.{name}": entry for name, entry in overrides.items()}))


class TestDerive:
    @given(parents(), seeds(), st.booleans())
    def test_the_same_structure_is_copied(self, parent: TrainedNetwork, seed: Seed, training: bool) -> None:
        """A child of the same structure is its parent to the bit, with whatever buffers and moments it has."""
        parent.network.train(training)
        child = assertions.assert_transaction(parent, with_claim, seed)
        assert all(isinstance(entry, Take) and entry.index == () for entry in child.map.values())
        assertions.assert_exact(parent, child, allowed=0.0)
        assertions.assert_gradients_follow(parent, child)
        assertions.assert_moments_follow(parent, child)

    @given(trained_networks(layers()), st.data())
    def test_units_go_by_label(self, parent: TrainedNetwork, data: st.DataObject) -> None:
        """Units in another order and with newcomers among them: the function is the same, and all train on as they would."""
        units = parent.strategy.backbone.units
        new = data.draw(st.lists(st.integers(10, 19), max_size=3, unique=True))
        order = tuple(data.draw(st.permutations([*units, *new])))
        child = assertions.assert_transaction(parent, lambda structure: with_units(structure, order))
        assertions.assert_exact(parent, child)
        assertions.assert_gradients_follow(parent, child)
        back = child.after(with_units(child.network.structure, units))
        assertions.assert_exact(parent, back)
        assertions.assert_moments_follow(parent, child)
        assertions.assert_moments_follow(child, back)

    def test_moments_follow_a_halved_gradient(self) -> None:
        """They are as the map says, up to rounding; where they are not, the message has the entry of the map."""
        parent = layer()
        child = parent.after(with_units(parent.network.structure, (0, 1, 2), Claim.lossy(), W=Take("body.W", gradient=0.5)))
        assertions.assert_moments_follow(parent, child)
        child.state.optimisers["weights"].state[child.network.get_parameter("body.W")]["exp_avg"] *= 1 + 1e-9

        with pytest.raises(AssertionError, match=r"exp_avg of body.W, which is Take\('body.W', gradient=0.5\), from"):
            assertions.assert_moments_follow(parent, child)

    @given(trained_networks(layers()), st.data())
    def test_units_that_go_are_cut_out(self, parent: TrainedNetwork, data: st.DataObject) -> None:
        """Without some of its units a layer is what it was with zeros in their columns, with the others' moments."""
        units = parent.strategy.backbone.units
        kept = tuple(data.draw(st.permutations(units)))[: data.draw(st.integers(1, len(units)))]
        child = parent.after(with_units(parent.network.structure, kept, Claim.lossy()))
        cut = parent.copy()
        with torch.no_grad():
            cut.network.body.V[:, [u not in kept for u in units]] = 0.0
        assertions.assert_exact(cut, child)

    @given(parents(), st.data())
    def test_candidates_go_by_their_ids(self, parent: TrainedNetwork, data: st.DataObject) -> None:
        """The order in which candidates stand at a site changes nothing but the order of rounding."""
        structure = parent.network.structure
        for address, site in parent.network.structure.sites():
            turned = attrs.evolve(site, candidates=tuple(data.draw(st.permutations(site.candidates))))
            structure = structure.replace_site(address, turned)
        child = assertions.assert_transaction(parent, lambda _: with_claim(structure))
        assertions.assert_exact(parent, child)
        assertions.assert_gradients_follow(parent, child)

    @given(parents(least=1), st.floats(0.05, 0.9))
    def test_newcomers_have_their_stated_weight(self, parent: TrainedNetwork, share: float) -> None:
        """A new candidate at an old site starts with the weight that the change states; without one it is refused."""
        address, structure = _with_newcomer(parent)
        weights = torch.cat([(1 - share) * parent.mixing()[address], torch.tensor([share], dtype=torch.float64)])

        stated = Edit(structure, lambda parent, child: Filling(Claim.lossy(), mixing={address: weights}))
        child = assertions.assert_transaction(parent, lambda _: stated)
        require_at_most("the distance of the weights", float((child.mixing()[address] - weights).abs().max()), 1e-14)
        with pytest.raises(ChangeError, match=f"adds candidates to {address} without mixing weights for that site"):
            parent.after(with_claim(structure, Claim.lossy()))

    def test_a_shape_without_labels_is_refused(self) -> None:
        """Another shape without labels is refused, and the message names the tensor and both shapes."""
        parent = layer(labelled=False)
        message = r"body\.W has shape \(3, 2\) in the parent and \(5, 2\) in the child, and no module labels its axes"
        with pytest.raises(ChangeError, match=message):
            parent.after(with_units(parent.network.structure, (0, 1, 2, 3, 4)))

    def test_labels_in_the_child_alone_are_refused(self) -> None:
        """Labels that only one of parent and child has are not guessed at, though the shapes be equal."""
        parent = layer(labelled=False)
        backbone = Layer((0, 1, 2), labelled=True)
        with pytest.raises(
            ChangeError, match=r"body\.W has shape \(3, 2\) in the parent and \(3, 2\) in the child, and no module labels"
        ):
            parent.after(with_claim(attrs.evolve(parent.network.structure, backbone=backbone), Claim.lossy()))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"U": Value(torch.zeros(1))}, r"the change fills body\.U, which the child does not have"),
            ({"b": Value(torch.zeros(2))}, r"the change fills body\.b with the shape \(2,\); its shape is \(3,\)"),
            ({"b": Take("body.W")}, r"the change fills body\.b with the shape \(3, 2\); its shape is \(3,\)"),
            (
                {"W": Take("body.W", (torch.tensor([0]),))},
                r"the change fills body\.W with the shape \(1, 2\); its shape is \(3, 2\)",
            ),
        ],
    )
    def test_overrides_that_do_not_fit_are_refused(self, overrides: Any, message: str) -> None:
        """An override of what is not there, or of another shape, is refused, and the parent is as it was."""
        parent = layer()

        def refused(structure: Structure) -> Edit:
            with pytest.raises(ChangeError, match=message):
                parent.after(with_units(structure, (0, 1, 2), **overrides))
            return with_units(structure, (0, 1, 2))

        assertions.assert_transaction(parent, refused)


def widened(structure: Structure, source: Sequence[int], noise: Tensor | None = None, **faults: Any) -> Edit:
    """net2wider: the unit at each position is a copy of the source's unit there, and so many copies share its outgoing weight.

    Args:
        noise: by which the outgoing weights of two copies differ from their share, in opposite directions.
    """
    index = torch.tensor(source)
    share = 1 / torch.bincount(index)[index].double()
    entries = {
        "W": Take("body.W", (index, None), gradient=share[:, None]),
        "b": Take("body.b", (index,), gradient=share),
        "scale": Take("body.scale", (index,)),
        "V": Take("body.V", (None, index), value=share, offset=noise),
    }
    changed = {name: attrs.evolve(entry, **faults.get(name, {})) for name, entry in entries.items()}
    return with_units(structure, tuple(range(100, 100 + len(source))), **changed)


class TestTake:
    @given(trained_networks(layers()), st.data())
    def test_duplicated_units_keep_the_function(self, parent: TrainedNetwork, data: st.DataObject) -> None:
        """net2wider is exact, and moments that follow the map's gradients are those of the gradients in the child."""
        count = len(parent.strategy.backbone.units)
        more = data.draw(st.lists(st.integers(0, count - 1), max_size=4))
        source = data.draw(st.permutations([*range(count), *more]))
        child = assertions.assert_transaction(parent, lambda structure: widened(structure, source))
        assertions.assert_exact(parent, child)
        assertions.assert_gradients_follow(parent, child)
        assertions.assert_moments_follow(parent, child)

    @given(trained_networks(layers()), st.floats(0.01, 1.0))
    def test_twins_diverge(self, parent: TrainedNetwork, size: float) -> None:
        """Twins whose outgoing weights differ by an offset compute the same together, and part with the next step."""
        count = len(parent.strategy.backbone.units)
        source = [*range(count), 0]
        noise = torch.zeros(parent.network.body.V.shape[0], count + 1).double()
        noise[:, 0], noise[:, -1] = size, -size
        child = assertions.assert_transaction(parent, lambda structure: widened(structure, source, noise))
        assertions.assert_exact(parent, child)
        assert torch.equal(*_twins(child))
        assert not torch.equal(*_twins(child.train(2)))

    @given(st.data(), seeds())
    def test_entries_are_taken_as_it_reads(self, data: st.DataObject, seed: Seed) -> None:
        """An entry is value * source + offset, the fresh initialisation at FRESH, zero at ZERO; moments are scaled by the gradient, fresh
        first moments are zero, fresh second moments the mean of the others.
        """
        shape = data.draw(st.tuples(sizes(), sizes()))
        index = [data.draw(st.lists(st.integers(ZERO, n - 1), min_size=1, max_size=5)) for n in shape]
        source, fresh, offset = (
            _noise(seed(name), *size) for name, size in [("s", shape), ("o", _lengths(index)), ("f", _lengths(index))]
        )
        value, gradient = data.draw(st.floats(-2, 2)), data.draw(st.floats(-2, 2))
        take = Take("source", tuple(map(torch.tensor, index)), value, gradient, offset)
        first, second, filled = take.moment(source, 1), take.moment(source**2, 2), take(source, fresh)
        places = [(i, j, row, column) for i, row in enumerate(index[0]) for j, column in enumerate(index[1])]
        old = [gradient**2 * source[r, c] ** 2 for _, _, r, c in places if min(r, c) >= 0] or [*(source**2).flatten()]
        for i, j, r, c in places:
            if min(r, c) >= 0:
                expected = (value * source[r, c] + offset[i, j], gradient * source[r, c], gradient**2 * source[r, c] ** 2)
            else:
                expected = (torch.tensor(0.0) if ZERO in (r, c) else fresh[i, j], torch.tensor(0.0), torch.stack(old).mean())
            for tensor, entry in zip((filled, first, second), expected, strict=True):
                require_at_most(f"the distance at {i}, {j}", float((tensor[i, j] - entry).abs()), 1e-13)

    @given(st.data(), seeds())
    def test_what_is_added_is_a_product_with_matrices(self, data: st.DataObject, seed: Seed) -> None:
        """With further positions, an entry is linear in the source: value * A source B^T. Moments are those of the index alone."""
        shape = data.draw(st.tuples(sizes(), sizes()))
        index, added, matrices = [], [], []
        for n in shape:
            first = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
            row = st.lists(st.sampled_from([ZERO, *range(n)]), min_size=len(first), max_size=len(first))
            rows = data.draw(st.none() | st.lists(row, min_size=1, max_size=3))
            matrix = torch.zeros(len(first), n).double()
            for positions in [first, *(rows or [])]:
                for i, position in enumerate(positions):
                    matrix[i, position] += position >= 0
            index.append(torch.tensor(first))
            added.append(None if rows is None else torch.tensor(rows))
            matrices.append(matrix)
        source, value = _noise(seed("s"), *shape), data.draw(st.floats(-2, 2))
        take = Take("source", tuple(index), value, added=tuple(added))
        expected = value * matrices[0] @ source @ matrices[1].T
        require_at_most("the distance", float((take(source, expected) - expected).abs().max()), 1e-12)
        assert torch.equal(take.moment(source, 1), source[index[0]][:, index[1]])


BETAS = [(0.9, 0.999), (0.5, 0.9), (0.0, 0.9), (0.95, 0.99)]


@attrs.frozen
class Slice:
    """Adam after so many steps on a tensor of which two entries, one FRESH and one ZERO, are fresh."""

    betas: tuple[float, float]
    steps: int
    second: tuple[float, ...]

    @property
    def rms(self) -> float:
        """The root mean square of the gradients behind the others' second moments, as Adam corrects it."""
        return math.sqrt(sum(self.second) / len(self.second) / (1 - self.betas[1] ** self.steps))

    @property
    def count(self) -> int:
        """The step count of Adam after the change."""
        return min(self.steps, round(1 / (1 - self.betas[0])))

    def moves(self, gradients: Sequence[float], optimiser: type[Adam | AdamW | RAdam] = Adam) -> list[float]:
        """How far the fresh entries move at each of these gradients, in learning rates."""
        old, new = (nn.Parameter(torch.zeros(len(self.second) + more).double()) for more in (0, 2))
        a, b = (optimiser([p], lr=1.0, betas=self.betas, weight_decay=0.0) for p in (old, new))
        v = torch.tensor(self.second).double()
        a.state[old] = {"step": torch.tensor(float(self.steps)), "exp_avg": v.sqrt(), "exp_avg_sq": v}
        index = torch.tensor([FRESH, *range(len(self.second)), ZERO])
        carry(a, [("p", old)], b, [("p", new)], {"p": Take("p", (index,))})
        found = []
        for gradient in gradients:
            before = new.detach().clone()
            new.grad = torch.zeros_like(new).index_fill(0, torch.tensor([0, len(new) - 1]), gradient)
            b.step()
            found.append(float((new.detach() - before)[[0, -1]].abs().max()))
        return found

    def any_gradients(self, k: int) -> float:
        """By Cauchy and Schwarz: what no gradients can exceed at the k-th step."""
        b1, b2 = self.betas
        correction = math.sqrt(1 - b2 ** (self.count + k)) / (1 - b1 ** (self.count + k))
        return (1 - b1) / math.sqrt((1 - b2) * (1 - b1**2 / b2)) * correction

    def constant_gradient(self, k: int) -> float:
        """The length of the k-th step at a constant gradient."""
        b1, b2 = self.betas
        after = self.count + k
        return (1 - b1**k) / (1 - b1**after) * math.sqrt((1 - b2**after) / (1 - b2**k))

    def usual_gradients(self, k: int, r: float) -> float:
        """What gradients within r times the root mean square cannot exceed at the k-th step, if the step count is not lowered."""
        b1, b2 = self.betas
        forgotten = (1 - b2 ** (self.steps + k)) / (b2**k * (1 - b2**self.steps))
        return r * (1 - b1**k) / (1 - b1 ** (self.steps + k)) * math.sqrt(forgotten)


positive = st.floats(1e-4, 1.0)
slices = st.builds(
    Slice,
    st.sampled_from(BETAS),
    st.sampled_from([1, 20, 1000, 10**6]),
    st.lists(positive, min_size=1, max_size=4).map(tuple),
)


class TestFresh:
    @settings(max_examples=60)
    @given(slices, st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.sampled_from([Adam, AdamW]))
    def test_no_gradients_outrun_the_bound(self, slice: Slice, gradients: list[float], optimiser: type[Adam | AdamW]) -> None:
        """Whatever its gradients, a fresh entry moves at most (1 - b1) / sqrt((1 - b2)(1 - b1^2 / b2)) learning rates a step,
        7.3 for Adam's defaults, times the correction for a low step count: at most 1.2 in the first ten steps.
        """
        for k, move in enumerate(slice.moves(gradients, optimiser), start=1):
            require_at_most(f"the move of step {k}", move, slice.any_gradients(k) * (1 + 1e-9))

    @pytest.mark.parametrize("betas", BETAS)
    def test_some_gradients_reach_the_bound(self, betas: tuple[float, float]) -> None:
        """Gradients that grow by b2 / b1 a step come to the bound: no smaller one would do."""
        slice, growth = Slice(betas, 10**6, (1.0,)), betas[1] / max(betas[0], 0.1)
        *_, last = slice.moves([growth**k for k in range(100)])
        assert last > 0.99 * slice.any_gradients(100)

    @settings(max_examples=60)
    @given(slices, st.floats(1e-2, 1e3), st.sampled_from([Adam, AdamW]))
    def test_a_constant_gradient_of_any_size_moves_it_as_usual(
        self, slice: Slice, size: float, optimiser: type[Adam | AdamW]
    ) -> None:
        """The k-th step is (1 - b1^k) / (1 - b1^(t + k)) * sqrt((1 - b2^(t + k)) / (1 - b2^k)) learning rates, whatever the size."""
        for k, move in enumerate(slice.moves([size] * 20, optimiser), start=1):
            assert move == pytest.approx(slice.constant_gradient(k), rel=1e-4)

    def test_as_usual_is_about_one(self) -> None:
        """With Adam's defaults a constant gradient moves a fresh entry by 0.48 to 1.13 learning rates, and no gradients move it by more
        than 1.2 in the first ten steps.
        """
        slice = Slice((0.9, 0.999), 1000, (1.0,))
        usual = [slice.constant_gradient(k) for k in range(1, 10**4)]
        assert 0.48 < min(usual) < max(usual) < 1.13
        assert max(slice.any_gradients(k) for k in range(1, 11)) < 1.2

    def test_the_old_count_shortens_its_steps(self, monkeypatch: Patch) -> None:
        """A mutant that keeps the step count moves much less at gradients that are smaller than those of the old entries."""
        monkeypatch.setattr("nasframe.change.optimisers.CORRECTED", ())
        assert max(Slice((0.9, 0.999), 1000, (1.0, 1.0)).moves([0.01] * 100)) < 0.02

    @settings(max_examples=60)
    @given(slices, st.floats(0.01, 10), st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.booleans())
    def test_usual_gradients_move_it_as_usual(self, slice: Slice, r: float, signs: list[float], constant: bool) -> None:
        """Where the step count means more than the correction (RAdam), a fresh entry whose gradients are within r times the root
        mean square of its tensor's moves about r learning rates a step at most: r, but for what the second moment forgets meanwhile.
        """
        slice = attrs.evolve(slice, steps=max(slice.steps, 1000))  # before that, RAdam does not divide
        gradients = [r * slice.rms * (1.0 if constant else sign) for sign in signs]
        for k, move in enumerate(slice.moves(gradients, RAdam), start=1):
            require_at_most(f"the move of step {k}", move, slice.usual_gradients(k, r) * (1 + 1e-9))

    def test_about_r_is_r(self) -> None:
        """With the default betas, after 1000 steps, that is r in each of the first ten steps up to a hundredth."""
        assert max(Slice((0.9, 0.999), 1000, (1.0,)).usual_gradients(k, 1.0) for k in range(1, 11)) < 1.01

    def test_a_fill_of_zeros_outruns_it(self, monkeypatch: Patch) -> None:
        """A mutant that starts second moments at zero moves several learning rates a step at the same gradients."""
        honest = Take.moment
        monkeypatch.setattr(
            Take, "moment", lambda self, source, power: honest(self, source, 1) if power == 2 else honest(self, source, power)
        )
        slice = Slice((0.9, 0.999), 10**4, (1.0, 1.0))
        moves = slice.moves([slice.rms] * 10, RAdam)
        assert max(moves) > 3
        assert any(move > slice.usual_gradients(k, 1.0) for k, move in enumerate(moves, start=1))


def _noise(seed: Seed, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seed.generator(), dtype=torch.float64)


def _lengths(index: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(len, index))


def _twins(child: TrainedNetwork) -> tuple[Tensor, Tensor]:
    weight = child.network.body.W.detach()
    return weight[0].clone(), weight[-1].clone()


def _with_newcomer(parent: TrainedNetwork) -> tuple[str, Structure]:
    structure = parent.network.structure
    address, site = next((a, s) for a, s in structure.sites() if not s.decided)
    newcomer = Candidate(structure.next_id, site.candidates[0].operation)
    return address, structure.replace_site(address, attrs.evolve(site, candidates=(*site.candidates, newcomer)), 1)
