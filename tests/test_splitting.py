"""Splitting steepest descent: the splitting matrices, their least eigenvalues, and what a split does to the loss."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import attrs
import pytest
import torch
from asking import check_resumes_everywhere
from full import FULL
from hypothesis import given, settings, strategies as st
from nasframe_growing import Dynamic, Epochs, MaxParameters, Threshold
from nasframe_recurrent import (
    Darts,
    IdentityEdge,
    IdentityHighway,
    Prod,
    Relu,
    ReluHighway,
    Sigmoid,
    SigmoidEdge,
    Sum,
    Tanh,
    TanhHighway,
    TwoToOne,
)
from nasframe_splitting import (
    Eigenpairs,
    Split,
    SplittingMatrices,
    candidates,
    exact_eigenpairs,
    kernels,
    lanczos_eigenpairs,
    morphism,
    splittable,
    splitting_matrices,
    unsplittable,
)
from recurrent import Centred, strategy
from splitters import Softplus, Tied, Wave
from torch import Tensor, nn
from toy import PLUGINS, toy_strategy

from nasframe import Address, Backbone, Edit, Filling, Network, Search, Seed, Structure, Take
from nasframe.change.apply import apply
from nasframe.change.edit import combine, remove_candidates
from nasframe.change.map import FRESH
from nasframe.errors import ChangeError
from nasframe.records import Changed, Record
from nasframe.search.bilevel import Forward
from nasframe.search.replay import replay
from nasframe.testing import assertions
from nasframe.testing.fakes import Scripted
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("splitting",))
TWO_TO_ONE = TwoToOne(3, 2, 0.4, operations=(Sum(), Sigmoid(), Tanh(), Softplus(), Wave(), Relu()))
DARTS = Darts(3, 1, 0.0, output="mean", operations=(SigmoidEdge(), TanhHighway(), IdentityHighway(), IdentityEdge()))


def trained(backbone: Backbone, steps: int = 5) -> TrainedNetwork:
    """Return a network with three time steps that has trained."""
    return _trained(backbone, steps).copy()


@cache
def _trained(backbone: Backbone, steps: int) -> TrainedNetwork:
    return TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), steps)


def loss_of(parent: TrainedNetwork, network: Network, forward: Forward | None = None) -> Tensor:
    """Return the training loss of a network in evaluation mode, as a function of its tensors."""
    inputs, targets = parent.data.train.batch(torch.arange(parent.data.train.size))
    return parent.data.objective((forward or network.eval())(inputs, network.mixing()), targets)


def readable(parent: TrainedNetwork) -> Network:
    network = copy.deepcopy(parent.network)
    network.fast = False
    return network


def matrices_of(parent: TrainedNetwork) -> dict[candidates.Key, SplittingMatrices]:
    """Return the splitting matrices of all candidates, in the fast form."""
    network = copy.deepcopy(parent.network).eval()
    found = splitting_matrices(network, partial(loss_of, parent, network), [*splittable(network.structure)])
    return {key: matrices for key, (matrices,) in found.items()}


# ------------------------------------------------------------------------------------------------------------- definitions


def by_definition(parent: TrainedNetwork, key: candidates.Key) -> Tensor:
    """Return the Hessian at V = 0 of the loss in which the candidate is split into theta + V and theta - V, unit by unit.

    The loss depends on V through the mean of the two halves, which is even in V. So its Hessian has no other part than the splitting
    matrices, and is zero between different units.
    """
    network = readable(parent)
    ((_, mixture),) = network.mixed_operations(key[0])
    module, half = mixture.candidates[str(key[1])], copy.deepcopy(mixture.candidates[str(key[1])])
    description = candidates._operation(network.structure, key).pointwise()
    assert description is not None
    theta = candidates.rows(description, module)

    def split(v: Tensor) -> Tensor:
        def hook(m: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            halves = [candidates.parameters_of(description, module, theta + sign * v) for sign in (1, -1)]
            return sum(torch.func.functional_call(half, tensors, inputs) for tensors in halves) / 2  # type: ignore[return-value]

        handle = module.register_forward_hook(hook)
        try:
            return loss_of(parent, network)
        finally:
            handle.remove()

    hessian = torch.autograd.functional.hessian(split, torch.zeros_like(theta))
    units = range(len(theta))
    between = torch.stack([hessian[u, :, v] for u in units for v in units if u != v])
    torch.testing.assert_close(between, torch.zeros_like(between), rtol=0, atol=1e-15)
    return torch.stack([hessian[u, :, u] for u in units])


def assert_matrices(backbone: Backbone) -> None:
    """Assert that the splitting matrices of all candidates are those of the definition."""
    parent = trained(backbone)
    found = matrices_of(parent)
    # the first candidate of each operation: those further back in the network are reached through more of it
    for key in {candidates._operation(parent.network.structure, key): key for key in reversed(found)}.values():
        torch.testing.assert_close(found[key].form(), by_definition(parent, key), rtol=1e-9, atol=1e-13)


def assert_theorem(backbone: Backbone) -> None:
    """Assert that the loss changes by eps^2/2 times the sum of lambda_min, up to an error that falls as eps^4."""
    parent = trained(backbone)
    before = loss_of(parent, parent.network).item()
    for key, matrices in matrices_of(parent).items():
        pairs = exact_eigenpairs(matrices)
        errors = []
        for eps in (0.1, 0.05, 0.025):
            child = split(parent, key, pairs, eps)
            change = loss_of(parent, child).item() - before
            predicted = eps**2 / 2 * float(pairs.values.sum())
            errors.append(abs(change - predicted))
        assert errors[-1] < 0.01 * abs(predicted), (key, errors, predicted)
        for coarse, fine in itertools.pairwise(errors):
            assert 14 < coarse / fine < 18, (key, errors)


def assert_decrease(backbone: Backbone, eps: float) -> None:
    """Assert that `Computed.decrease` is the derivative of the loss by the share of the split in the outputs of the first candidate."""
    parent = trained(backbone)
    network = readable(parent)
    key = next(splittable(network.structure))
    _, computed = candidates.computed_by(network.eval(), partial(loss_of, parent, network), [key])
    ((_, mixture),) = network.mixed_operations(key[0])
    module = mixture.candidates[str(key[1])]
    halves = [copy.deepcopy(module) for _ in range(2)]
    share = torch.zeros((), dtype=torch.float64, requires_grad=True)
    description = candidates._operation(network.structure, key).pointwise()
    assert description is not None
    theta = candidates.rows(description, module)
    v = torch.randn(theta.shape, generator=SEED("v").generator(), dtype=torch.float64)
    for half, sign in zip(halves, (1, -1), strict=True):
        for name, value in candidates.parameters_of(description, module, theta + sign * eps * v).items():
            half.get_parameter(name).data = value

    def hook(m: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.lerp((halves[0](*inputs) + halves[1](*inputs)) / 2, share)

    module.register_forward_hook(hook)
    (slope,) = torch.autograd.grad(loss_of(parent, network), share)
    torch.testing.assert_close(computed[key][0].decrease(v, eps), -slope)


def split(parent: TrainedNetwork, key: candidates.Key, pairs: Eigenpairs, eps: float) -> Network:
    """Return the network after the split of a candidate."""
    return apply(parent.network, split_edit(parent.network.structure, key, pairs, eps), SEED).child


def split_edit(structure: Structure, key: candidates.Key, pairs: Eigenpairs, eps: float) -> Edit:
    """Return the edit that splits a candidate."""
    direction = torch.cat([pairs.values.unsqueeze(-1), pairs.vectors], -1).flatten()
    evidence = {f"splits/direction {key[0]} {key[1]}": direction, f"splits/step {key[0]} {key[1]}": torch.tensor([eps])}
    return Split().edit(structure, {"site": key[0], "candidates": [key[1]]}, evidence, SEED)


class TestTheorem:
    @pytest.mark.parametrize("backbone", [TWO_TO_ONE, DARTS], ids=["two_to_one", "darts"])
    def test_the_matrices_are_those_of_the_definition(self, backbone: Backbone) -> None:
        """Through time, for several terms, and through mixing weights, S_u is the Hessian of the loss of the split network."""
        assert_matrices(backbone)

    @pytest.mark.parametrize("backbone", [TWO_TO_ONE, DARTS], ids=["two_to_one", "darts"])
    def test_the_loss_changes_as_predicted(self, backbone: Backbone) -> None:
        """The loss of the child differs from eps^2/2 times the sum of lambda_min by an error that falls as eps^4."""
        assert_theorem(backbone)

    @pytest.mark.parametrize("operation", [Sum(), Prod(), Relu(), IdentityEdge(), Centred(), Tied()], ids=lambda o: o.name)
    def test_what_cannot_be_split_says_why(self, operation: Any) -> None:
        """What is linear in its weights, has none, says nothing about them, or uses one twice is not split, with the reason."""
        reasons = {
            "sum": "linear in its weights almost everywhere",
            "prod": "linear in its weights almost everywhere",
            "relu": "linear in its weights almost everywhere",
            "identity_edge": "has no weights",
            "centred": "does not implement pointwise",
            "tied": "in two terms",
        }
        assert reasons[operation.name] in (unsplittable(operation) or "")

    @pytest.mark.parametrize("operation", [Sigmoid(), Softplus(), Wave(), ReluHighway()], ids=lambda o: o.name)
    def test_what_is_curved_can_be_split(self, operation: Any) -> None:
        """A smooth activation can be split, and so can a highway around ReLU, whose gate is smooth."""
        assert unsplittable(operation) is None

    def test_a_request_without_its_evidence_is_refused(self) -> None:
        """A split needs a direction, and an operation that can be split."""
        structure = trained(TWO_TO_ONE, 0).network.structure
        with pytest.raises(ChangeError, match="evidence lacks splits/direction layer0/n0 1 and splits/step layer0/n0 1"):
            Split().edit(structure, {"site": "layer0/n0", "candidates": [1]}, {}, SEED)
        with pytest.raises(ChangeError, match="'sum' is linear in its weights"):
            Split().edit(structure, {"site": "layer0/n0", "candidates": [0]}, {}, SEED)
        for ids in (None, 1, "1", [], [1, 1], [[]], [True], [1.0]):
            with pytest.raises(ChangeError, match="must be a list of different ids"):
                Split().edit(structure, {"site": "layer0/n0", "candidates": ids}, {}, SEED)


class TestProposals:
    def test_the_step_lowers_the_loss_by_half_of_the_prediction(self) -> None:
        """Of each proposal, the child's loss on the measured batch is lower by what was measured, at least half of the gain."""
        parent = trained(TWO_TO_ONE, 30)
        parent.network.eval()
        found = parent.proposals(Split(exact=True, proposals=3))
        assert 1 <= len(found) <= 3
        assert [p.gain for p in found] == sorted((p.gain for p in found), reverse=True)
        # the batch of the measurement is a function of the seed
        (inputs, targets), _ = parent.measured(lambda context: context.batch("train"))

        def loss(network: Network) -> float:
            return parent.data.objective(network(inputs, network.mixing()), targets).item()

        for proposal in found:
            edit = Split().edit(parent.network.structure, proposal.request, proposal.evidence, SEED)
            decrease = loss(parent.network) - loss(apply(parent.network, edit, SEED).child)
            (id,) = proposal.request["candidates"]
            _, predicted, measured = proposal.evidence[f"splits/step {proposal.request['site']} {id}"].tolist()
            assert decrease == pytest.approx(measured, rel=1e-9)
            assert decrease >= 0.5 * proposal.gain > 0
            assert proposal.gain == predicted

    @pytest.mark.parametrize("operations", [(Sum(), Tanh(), Softplus()), (Tanh(),)], ids=["several", "decided"])
    def test_both_forms_propose_the_same(self, operations: Any) -> None:
        """The proposals of a search in the fast form are those in the readable form up to rounding, also at sites that are decided."""
        parent, found = trained(TwoToOne(3, 1, 0.0, operations=operations), 30), list[Any]()
        for parent.network.fast in (True, False):
            proposals = parent.proposals(Split(proposals=2))
            found.append(
                [(p.request, *p.evidence[f"splits/step {p.request['site']} {p.request['candidates'][0]}"]) for p in proposals]
            )
        assert len(found[0]) == 2
        for one, other in zip(*found, strict=True):
            assert one[0] == other[0]
            torch.testing.assert_close(torch.stack(one[1:]), torch.stack(other[1:]), rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("which", ["number", *["all"] * FULL])
    def test_negative_indices_are_counted_with_all_steps(self, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where operations are chosen by their number of negative indices, none is missed because of few steps."""
        monkeypatch.setattr(kernels, "SMALL", 0)
        parent = trained(TWO_TO_ONE, 30)
        found, exact = (
            parent.measured(partial(Split(which=which, exact=e).propose, structure=parent.network.structure))[1]
            for e in (False, True)
        )
        assert torch.equal(found["splits/indices"][:, 1:], exact["splits/indices"][:, 1:])

    def test_operations_are_chosen_as_the_paper_says(self) -> None:
        """By the least sum of negative eigenvalues, by their number, or all of a site whose eigenvalues are all negative (3.2.5)."""
        first, second = Address("layer0/n0"), Address("layer0/n1")
        found = {(first, 0): [-3.0, 2, 4], (first, 1): [-1.0, 4, 4], (first, 2): [0.0, 0, 4], (second, 5): [-2.0, 4, 4]}
        indices = {key: torch.tensor(value, dtype=torch.float64) for key, value in found.items()}
        assert Split()._chosen(indices) == [[(first, 0)], [(second, 5)], [(first, 1)]]
        assert Split(which="number")._chosen(indices) == [[(second, 5)], [(first, 1)], [(first, 0)]]
        assert Split(which="all")._chosen(indices) == [[(second, 5)], [(first, 1)]]
        both = {**indices, (first, 2): torch.tensor([-1.5, 4, 4], dtype=torch.float64)}
        assert Split(which="all")._chosen(both) == [[(first, 1), (first, 2)], [(second, 5)]]

    @given(eps=st.floats(1e-3, 2.0))
    @settings(max_examples=5 if FULL else 2)
    def test_the_decrease_without_the_rest_of_the_network_is_its_derivative(self, eps: float) -> None:
        """If the outputs move by t times what the split moves them by, the loss falls by `decrease` times t, to first order in t."""
        assert_decrease(TWO_TO_ONE, eps)

    def test_as_many_splits_are_proposed_as_wanted(self) -> None:
        """Operations are tried one after the other until so many splits lower the loss, or none is left."""
        parent = trained(TWO_TO_ONE, 30)
        several = [p.request for p in parent.proposals(Split(proposals=8))]
        assert len(several) > 2
        assert all([p.request for p in parent.proposals(Split(proposals=n))] == several[:n] for n in (1, 2))

    def test_operations_of_a_site_are_split_at_once(self) -> None:
        """The loss falls by nearly the sum of the predictions, and each half has half of the mixing weight."""
        parent = trained(TWO_TO_ONE)
        matrices, site = matrices_of(parent), next(splittable(parent.network.structure))[0]
        ids = [id for address, id in matrices if address == site]
        evidence, predicted = dict[str, Tensor](), 0.0
        for id in ids:
            pairs = exact_eigenpairs(matrices[site, id])
            evidence[f"splits/direction {site} {id}"] = torch.cat([pairs.values.unsqueeze(-1), pairs.vectors], -1).flatten()
            evidence[f"splits/step {site} {id}"] = torch.tensor([0.05])
            predicted += 0.05**2 / 2 * float(pairs.values.sum())
        edit = Split().edit(parent.network.structure, {"site": site, "candidates": ids}, evidence, SEED)
        child = apply(parent.network, edit, SEED).child
        assert len(ids) == 4
        assert (loss_of(parent, child) - loss_of(parent, parent.network)).item() == pytest.approx(predicted, rel=0.02)
        present = [c.id for c in parent.network.structure.cell(site.cell).site(site.id).candidates]
        before = zip(present, parent.mixing()[site], strict=True)
        wanted = torch.cat([w.repeat(2) / 2 if id in ids else w[None] for id, w in before])
        torch.testing.assert_close(child.mixing()[site].detach(), wanted)

    def test_units_that_are_not_worth_splitting_are_no_copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Units whose index is not negative move in a random direction that is a thousand times shorter."""
        honest = morphism.least_eigenpairs_of

        def first_is_positive(*arguments: Any) -> Sequence[Eigenpairs]:
            found = honest(*arguments)
            for pairs in found:
                pairs.values[0] = 1.0
            return found

        monkeypatch.setattr(morphism, "least_eigenpairs_of", first_is_positive)
        for proposal in trained(WAVES, 30).proposals(Split(exact=True)):
            direction = next(v for name, v in proposal.evidence.items() if "direction" in name).view(3, -1)
            torch.testing.assert_close(direction[:, 1:].norm(dim=1), torch.tensor([1e-3, 1.0, 1.0], dtype=torch.float64))

    def test_a_search_with_splits_resumes_and_replays(self) -> None:
        """A search in which operations are split ends in the same bytes from every event, and its lineage needs no data."""
        fields: dict[str, Any] = {"plan": "end", "criterion": Scripted(growths=1)}
        toy = toy_strategy(growth=(Split(batches=2),), backbone=TwoToOne(hidden=2, operations=(Tanh(), Sum())), **fields)
        records = check_resumes_everywhere(toy, PLUGINS)
        grown = [r for r in records if isinstance(r, Changed) and r.change == "grow"]
        assert {r.by for r in grown} == {"split batches=2"}
        search = Search(toy)
        search.run()
        state = search.state
        assert [*replay(search.strategy, state.lineage, state.evidence, PLUGINS)][-1] == search.network.structure

    def test_splitting_and_pruning_do_not_alternate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An operation of which a half was removed is not split again, also after a resumption; without that rule it is, without end."""
        plan = Dynamic(pruner=Threshold(1.0, 9.0, relative=True)).steps()
        backbone, criterion = TwoToOne(hidden=3, operations=(Tanh(), Sigmoid())), Epochs(2) | MaxParameters(300)
        toy = toy_strategy(growth=(Split(),), plan=plan, backbone=backbone, criterion=criterion)

        def changed(records: Iterable[Record]) -> Iterator[tuple[bool, bool]]:
            return ((bool(r.added), bool(r.removed)) for r in records if isinstance(r, Changed) and (r.added or r.removed))

        pruned, grown = (False, True), (True, False)
        assert [*changed(check_resumes_everywhere(toy, PLUGINS))] == [pruned, grown, pruned]
        monkeypatch.setattr(morphism, "to_plain", lambda operation: "forgotten")
        assert [*itertools.islice(changed(Search(toy)), 5)] == [pruned, *[grown, pruned] * 2]

    @pytest.mark.parametrize("kept", [(1,), (1, 2, 3)])
    def test_the_halves_share_the_weight_that_a_removal_leaves(self, kept: tuple[int, ...]) -> None:
        """Where candidates are removed in the same change, also all others, the halves have half of the renormalised weight."""
        parent = trained(TWO_TO_ONE)
        key = next(splittable(parent.network.structure))
        gone = {c.id for c in parent.network.structure.cell(key[0].cell).site(key[0].id).candidates} - {*kept}
        removal = remove_candidates(parent.network.structure, {key[0]: gone})
        pairs = exact_eigenpairs(matrices_of(parent)[key])
        child = apply(parent.network, combine([removal, split_edit(removal.structure, key, pairs, 0.1)]), SEED).child
        before = parent.mixing()[key[0]][list(kept)]
        weights = before / before.sum()
        wanted = torch.cat([weights[:1] / 2, weights[:1] / 2, weights[1:]])
        torch.testing.assert_close(child.mixing()[key[0]].detach(), wanted)

    def test_the_other_alphas_keep_their_moments(self) -> None:
        """The alphas of candidates whose mixing weights stay keep their moments; those of the halves start anew."""
        parent = trained(TWO_TO_ONE)
        key = next(splittable(parent.network.structure))
        child = parent.after(split_edit(parent.network.structure, key, exact_eigenpairs(matrices_of(parent)[key]), 0.1))
        entry = child.map[f"alphas.{key[0]}"]
        assert isinstance(entry, Take)
        assert entry.index[0] is not None
        assert entry.index[0].tolist() == [0, FRESH, FRESH, 2, 3, 4, 5]
        assertions.assert_moments_follow(parent, child)


# ----------------------------------------------------------------------------------------------------------------- kernels


def random_matrices(units: int = 5, samples: int = 40, widths: tuple[int, ...] = (6, 4), groups: int = 2) -> SplittingMatrices:
    """Return matrices of several groups and terms with random features and coefficients."""
    generator = SEED("matrices", units, samples).generator()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    c = drawn(len(widths), len(widths), groups, samples, units)
    return SplittingMatrices([drawn(groups, samples, d) for d in widths], c + c.transpose(0, 1))


class TestKernels:
    def test_the_products_are_the_sums_of_outer_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Forming S_u, also some units at a time, and multiplying by it without forming it, agree with the definition."""
        matrices = random_matrices()
        x = torch.cat(matrices.features, -1)
        widths = torch.tensor([f.shape[-1] for f in matrices.features])
        term = torch.repeat_interleave(torch.arange(len(widths)), widths)  # the term of each row
        c = matrices.coefficients[term[:, None], term[None, :]]  # (size, size, groups, samples, units)
        wanted = torch.einsum("degbu,gbd,gbe->gude", c, x, x)
        torch.testing.assert_close(matrices.form(), wanted)
        v = torch.randn(2, 5, 10, generator=SEED.generator(), dtype=torch.float64)
        torch.testing.assert_close(matrices.product(v), torch.einsum("gude,gue->gud", wanted, v))
        monkeypatch.setattr(kernels, "CHUNK", 1)
        assert len([*matrices.chunks()]) == 5
        torch.testing.assert_close(exact_eigenpairs(matrices).values, torch.linalg.eigvalsh(wanted)[..., 0])

    def test_lanczos_is_exact_with_as_many_steps_as_rows(self) -> None:
        """With `size` steps, eigenvalues and vectors are the exact ones; with fewer, the value is v^T S v and never too small."""
        matrices = random_matrices()
        exact = exact_eigenpairs(matrices)
        full = lanczos_eigenpairs(matrices, 99, SEED)
        torch.testing.assert_close(full.values, exact.values)
        torch.testing.assert_close((full.vectors * exact.vectors).sum(-1).abs(), torch.ones(2, 5, dtype=torch.float64))
        for steps in (1, 3, 6):
            part = lanczos_eigenpairs(matrices, steps, SEED)
            torch.testing.assert_close((matrices.product(part.vectors) * part.vectors).sum(-1), part.values)
            assert bool((part.values >= exact.values - 1e-12).all())

    @pytest.mark.parametrize("samples", [1, 3])
    def test_lanczos_goes_on_where_the_krylov_space_is_complete(self, samples: int) -> None:
        """Matrices of low rank, also zero, have the least eigenvalue 0 where no other is negative."""
        matrices = random_matrices(samples=samples, widths=(10,))
        positive = SplittingMatrices(matrices.features, matrices.coefficients.abs())
        zero = SplittingMatrices(matrices.features, 0 * matrices.coefficients)
        for each in (matrices, positive, zero):
            torch.testing.assert_close(lanczos_eigenpairs(each, 10, SEED).values, exact_eigenpairs(each).values)


# ----------------------------------------------------------------------------------------------------------------- mutants


def first_derivatives(patch: pytest.MonkeyPatch) -> None:
    """The coefficients have sigma' instead of sigma''."""

    def wrong(description: Any, *arguments: Tensor) -> Tensor:
        terms = [z.detach().requires_grad_() for z in arguments[:-1]]
        value = description.function(*terms, arguments[-1])
        slopes = torch.stack(torch.autograd.grad(value, terms, torch.ones_like(value)))
        return slopes.unsqueeze(0).expand(len(terms), *slopes.shape)

    patch.setattr(candidates, "second_derivatives", wrong)


def no_mixed_derivatives(patch: pytest.MonkeyPatch) -> None:
    """Terms are taken as independent: the blocks beside the diagonal are zero."""
    honest = candidates.second_derivatives

    def wrong(*arguments: Any) -> Tensor:
        found = honest(*arguments)
        return found * torch.eye(len(found), dtype=found.dtype).view(len(found), len(found), *[1] * (found.dim() - 2))

    patch.setattr(candidates, "second_derivatives", wrong)


def last_time_step(patch: pytest.MonkeyPatch) -> None:
    """Only the last time step counts."""
    honest = candidates.Computed.of

    def wrong(description: Any, module: nn.Module, calls: Any, slopes: Tensor) -> Any:
        return honest(description, module, calls[-1:], slopes[-len(calls[-1].output) :])

    patch.setattr(candidates.Computed, "of", wrong)


def no_bias(patch: pytest.MonkeyPatch) -> None:
    """The bias counts as constant."""
    honest = candidates.Computed.of

    def wrong(*arguments: Any) -> Any:
        found = honest(*arguments)
        return attrs.evolve(found, features=[torch.where((x == 1).all(0), 0.0, x) for x in found.features])

    patch.setattr(candidates.Computed, "of", wrong)


def mean_of_samples(patch: pytest.MonkeyPatch) -> None:
    """The samples are averaged, although the loss is a mean already."""
    honest = candidates.Computed.of

    def wrong(*arguments: Any) -> Any:
        found = honest(*arguments)
        return attrs.evolve(found, slopes=found.slopes / len(found.slopes))

    patch.setattr(candidates.Computed, "of", wrong)


def another_module(patch: pytest.MonkeyPatch) -> None:
    """The second derivatives of the modules of one function are exchanged."""
    honest = candidates._second_derivatives_of
    patch.setattr(candidates, "_second_derivatives_of", lambda computed: honest(computed)[::-1])


def one_direction(patch: pytest.MonkeyPatch) -> None:
    """Both halves move in the same direction."""
    honest = Split.edit

    def wrong(self: Split, *arguments: Any) -> Edit:
        edit = honest(self, *arguments)

        def fill(parent: Network, child: Network) -> Filling:
            filling = edit.fill(parent, child)
            by_source = {entry.source: entry for entry in filling.overrides.values()}  # type: ignore[union-attr]
            same = {name: by_source[entry.source] for name, entry in filling.overrides.items()}  # type: ignore[union-attr]
            return attrs.evolve(filling, overrides=same)

        return attrs.evolve(edit, fill=fill)

    patch.setattr(Split, "edit", wrong)


def half_a_step(patch: pytest.MonkeyPatch) -> None:
    """The distance of the halves from each other is eps, and not that from the parent."""
    honest = morphism._moves

    def wrong(*arguments: Any) -> Any:
        for move in honest(*arguments):
            yield attrs.evolve(move, directions={name: d / 2 for name, d in move.directions.items()})

    patch.setattr(morphism, "_moves", wrong)


def largest_eigenvalue(patch: pytest.MonkeyPatch) -> None:
    """The largest eigenvalue is taken for the least, with the vector of the least."""
    honest = torch.linalg.eigh
    patch.setattr(torch.linalg, "eigh", lambda S: (honest(S)[0].flip(-1), honest(S)[1]))


def half_the_decrease(patch: pytest.MonkeyPatch) -> None:
    """The halves count with a quarter of the mixing weight."""
    honest = candidates.Computed.decrease
    patch.setattr(candidates.Computed, "decrease", lambda *arguments: honest(*arguments) / 2)


def assert_all() -> None:
    assert_matrices(WAVES)
    assert_theorem(WAVES)
    assert_decrease(WAVES, 0.5)


#: one operation with two terms, in one layer of two nodes, which is enough to detect each fault
WAVES = TwoToOne(3, 1, 0.0, operations=(Wave(), Sum()))
FAULTS = (
    first_derivatives,
    no_mixed_derivatives,
    last_time_step,
    no_bias,
    mean_of_samples,
    another_module,
    one_direction,
    half_a_step,
    largest_eigenvalue,
    half_the_decrease,
)


def test_the_assertions_hold_without_a_fault() -> None:
    """What detects the faults holds for the plugin as it is."""
    assert_all()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_detected(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault breaks the matrices or the theorem."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        assert_all()
