"""The convolutional backbone of DARTS: its sizes, its growths, what training alone does, and searches of it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import re
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from convolutional import (
    FEW,
    OTHERS,
    PLUGINS,
    Blobs,
    Convolution,
    Saturation,
    image_strategy,
    parents,
    small,
    supernets,
    trained,
)
from full import FULL
from hypothesis import given, settings, strategies as st
from nasframe_convolutional import (
    AvgPool,
    DartsConvolutional,
    Identity,
    SeparableConvolution,
    Zero,
    backbone as backbones,
    cell as cells,
)
from nasframe_convolutional.cell import Auxiliary, Head, ImageCell, channels_of
from nasframe_growing import Epochs, NodeGrowth, Patience
from proportional import assert_proportional
from test_resume import digest
from torch import Tensor
from toy import toy_strategy

from nasframe import (
    Address,
    Candidate,
    Cell,
    Claim,
    Edit,
    Filling,
    Network,
    Node,
    Optimiser,
    Search,
    Seed,
    Site,
    Strategy,
    Structure,
    Take,
    build,
)
from nasframe.change.apply import apply, distance
from nasframe.change.edit import remove_candidates
from nasframe.change.map import derive_map
from nasframe.errors import ChangeError, DataError, StrategyError, StructureError
from nasframe.network.axes import produces
from nasframe.network.network import set_progress, tensors
from nasframe.network.outputs import AuxiliaryOutputs
from nasframe.records import Changed, Finished, Stepped
from nasframe.search import state as states, trainer as trainers
from nasframe.search.plan import RETRAIN, STAGE
from nasframe.search.state import retraining, trainer
from nasframe.testing import assertions
from nasframe.testing.compare import require_at_most
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import removals
from nasframe.testing.trained import TrainedNetwork

TYPES = ("normal", "reduction")
BIASED = (Convolution(bias=True), Identity(), Zero())
DROP = cells.drop_examples
SEED = Seed(("images",))
Patch = pytest.MonkeyPatch

few = settings(max_examples=6 if FULL else 3)


@st.composite
def typed(draw: st.DrawFn, parents: st.SearchStrategy[TrainedNetwork]) -> tuple[TrainedNetwork, str]:
    """Draw a parent and one of its cell types."""
    parent = draw(parents)
    return parent, draw(st.sampled_from([type for type, _ in parent.network.structure.cells]))


def growth(structure: Structure, type: str, form: str = "noise", **options: float) -> Edit:
    """Return the change that adds a node to each instance of a cell type."""
    return NodeGrowth(form=form, **options).edit(structure, {"cell": type}, {}, SEED)


def grown(parent: TrainedNetwork, type: str, form: str = "noise", **options: float) -> TrainedNetwork:
    """Return the search after that growth."""
    return parent.after(growth(parent.network.structure, type, form, **options), SEED)


def even(network: Network) -> dict[str, Tensor]:
    """Return equal mixing weights for all candidates of a site."""
    return {a: alphas.detach().softmax(0) for a, alphas in network.alphas.items()}


def images(batch: int, *shape: int) -> Tensor:
    """Return images whose pixels are drawn from a normal distribution."""
    return torch.randn(batch, *shape, generator=SEED.generator(), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- shapes


class TestShapes:
    @given(st.integers(1, 24))
    def test_reductions_are_at_one_and_two_thirds(self, count: int) -> None:
        """Of L cells, those at L // 3 and 2 L // 3 are reductions; the structure has the cell types of the plan."""
        plan = small(cells=count).plan
        assert [i for i, type in enumerate(plan) if type == "reduction"] == sorted({count // 3, 2 * count // 3})
        sizes = {"channels": 1, "classes": 2, "height": 8, "width": 8}
        assert {type for type, _ in small(cells=count).initial(sizes, 1).cells} == set(plan)

    @settings(max_examples=30 if FULL else 10)
    @given(
        st.builds(
            small,
            channels=st.integers(1, 3),
            cells=st.integers(1, 6),
            output=st.sampled_from(["concatenation", "mean", "loose_ends"]),
            stem=st.sampled_from(["cifar", "imagenet"]),
            affine=st.booleans(),
            auxiliary=st.sampled_from([0.0, 0.4]),
            drop_path=st.sampled_from([0.0, 0.5]),
            operations=st.just((*FEW, *OTHERS)),
        ),
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        st.integers(1, 2),
    )
    def test_any_images_go_through(self, backbone: DartsConvolutional, shape: tuple[int, int, int], nodes: int) -> None:
        """Images of any size and number of channels, down to one pixel, have a score for each class.

        A cell outputs the channels and the resolution of its place in the plan: all nodes, its loose ends, or the mean.
        """
        structure = backbone.initial(dict(zip(("channels", "height", "width"), shape, strict=True), classes=3), nodes)
        network = build(structure, SEED).double()
        weights, x = even(network), images(2, *shape)
        assert all(t.isfinite().all() for t in network.train()(x, weights) if torch.is_tensor(t))
        found: list[tuple[int, ...]] = []
        for cell in network.body.cells:
            cell.register_forward_hook(lambda module, inputs, output: found.append(tuple(output.shape[1:])))
        outputs = network.eval()(x, weights)
        assert outputs.shape == (2, 3)
        assert outputs.isfinite().all()

        (_, *size), channels = shape, backbone.channels
        size = [-(-n // 8) for n in size] if backbone.stem == "imagenet" else size
        for type, output in zip(backbone.plan, found, strict=True):
            if type == "reduction":
                channels, size = 2 * channels, [-(-n // 2) for n in size]
            assert output == (channels * (nodes if backbone.output == "concatenation" else 1), *size)

    def test_the_search_network_of_darts(self) -> None:
        """With the paper's settings, 16 channels, 8 cells and 4 nodes on CIFAR-10, the supernet has 1,930,618 weights."""
        structure = DartsConvolutional().initial({"channels": 3, "classes": 10, "height": 32, "width": 32}, 4)
        with torch.device("meta"):
            network = Network(structure)
        assert sum(n for role, n in network.count().items() if role != "combination") == 1930618
        assert network.count()["combination"] == 2 * 14 * 8

    @pytest.mark.parametrize(
        ("shape", "hint"),
        [
            ((2, 8, 8, 3), "; write x.permute(0, 3, 1, 2)"),
            ((2, 1, 8, 8), ""),
            ((3, 8, 8), ""),
            ((2, 3, 8, 8, 1), ""),
        ],
    )
    @pytest.mark.parametrize("fast", [True, False])
    def test_images_of_another_shape_are_refused(self, shape: tuple[int, ...], hint: str, fast: bool) -> None:
        """The message has the given shape, the expected one, and the permutation if the channels come last."""
        network = build(small().initial({"channels": 3, "classes": 2, "height": 8, "width": 8}, 1), SEED)
        network.fast = fast
        expected = (
            f"the inputs have shape {shape}, but the network expects (batch, channels, height, width) with 3 channels{hint}"
        )
        with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
            network(torch.zeros(shape), even(network))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"output": "last"}, "output is 'last'; it must be one of 'concatenation', 'mean', 'loose_ends'"),
            ({"stem": "mnist"}, "stem is 'mnist'; it must be one of 'cifar', 'imagenet'"),
            ({"operations": (Zero(),)}, "it must be one or more operations of one input, not all of them zero"),
            ({"drop_path": 1.5}, "drop_path is 1.5; it must be a number of at least 0.0 and at most 1.0"),
        ],
    )
    def test_options_that_cannot_be(self, options: Any, message: str) -> None:
        """Impossible options are refused with what to write instead."""
        with pytest.raises(ValueError, match=message):
            DartsConvolutional(**options)


# ------------------------------------------------------------------------------------------------------ batches of one

#: images that the network reduces to one pixel; 9 of them, in batches of 4
SMALLEST: dict[str, Any] = {"task": Blobs(size=9, height=4, width=4), "batch": 4, "growth": ()}


class TestBatchesOfOne:
    def test_a_last_batch_of_one_joins_the_batch_before(self) -> None:
        """A search with 9 images in batches of 4 takes two steps per epoch, although BatchNorm cannot train on one pixel."""
        steps = [event.samples for event in Search(image_strategy(**SMALLEST)) if isinstance(event, Stepped)]
        assert set(steps) == {4, 9}

    def test_so_it_does_in_front_of_an_auxiliary_head(self) -> None:
        """Retraining finishes with an auxiliary head, whose last BatchNorm always sees one pixel."""
        backbone = small(channels=2, cells=3, affine=True, auxiliary=0.4)
        task = Blobs(size=9, height=8, width=8, validated=False)
        strategy = image_strategy(backbone=backbone, task=task, batch=8, criterion=Epochs(1))
        *_, last = again(strategy, trained())
        assert isinstance(last, Finished)

    def test_without_joining_it_would_fail(self, monkeypatch: Patch) -> None:
        """Without joining the last batch the search above fails."""
        monkeypatch.setattr(trainers, "batches", lambda order, size: order.split(size))
        with pytest.raises(DataError, match="a training batch has a single image"):
            Search(image_strategy(**SMALLEST)).run()

    @pytest.mark.parametrize("auxiliary", [0.0, 0.4])
    def test_batches_of_one_are_refused_before_training(self, auxiliary: float) -> None:
        """If the user asks for batches of one, the message says what to change, and no step has been taken."""
        side = 8 if auxiliary else 4
        task, backbone = Blobs(size=6, height=side, width=side), small(auxiliary=auxiliary)
        search = Search(image_strategy(task=task, backbone=backbone, batch=1))
        with pytest.raises(
            DataError, match=r"single image, .* one pixel, .*; train with batches of two images or more, on larger"
        ):
            search.run()
        assert not search.state.history

    def test_larger_images_train_in_batches_of_one(self) -> None:
        """BatchNorm needs more than one value per channel, which the pixels of a larger image are."""
        task = Blobs(size=4, height=8, width=8)
        assert isinstance([*Search(image_strategy(task=task, batch=1, growth=()))][-1], Finished)


# ------------------------------------------------------------------------------------------------------------- growth


class TestConcatenation:
    """Growth of a concatenation is exact without gate, noise or overrides, as new columns of the consumers are zero."""

    @few
    @given(typed(parents("concatenation")), st.sampled_from(["noise", "gate"]))
    def test_growth_is_exact(self, typed: Any, form: str) -> None:
        """Growth is exact for supernets and architectures, in both modes and both forms, without gate or override."""
        parent, type = typed
        change = assertions.assert_no_forward(parent, lambda structure: growth(structure, type, form))
        child = assertions.assert_transaction(parent, lambda structure: growth(structure, type, form))
        assertions.assert_exact(parent, child)
        assert change.claim == Claim.exact()
        assert change.map.keys() == derive_map(parent.network, child.network).keys()
        assert not list(child.network.gates())

    @few
    @given(typed(parents("concatenation")))
    def test_values_and_moments_keep_their_places(self, typed: Any) -> None:
        """After few steps, old entries keep value, moments and step count to the bit; new columns are zero, with moments of zero."""
        parent, type = typed
        for name, count in parent.network.named_buffers():
            if name.endswith("num_batches_tracked"):
                count.fill_(2**24 + 1)  # the first whole number that float32 does not have
        child = grown(parent, type)
        before, after = saved(parent.state)[1], saved(child.state)[1]
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name][corner(tensor)]), name
            if tensor.shape != after[name].shape:
                assert not after[name][:, tensor.shape[1] :].any(), name

    @few
    @given(typed(parents("concatenation")))
    def test_the_next_step_of_every_old_entry_is_the_parents(self, typed: Any) -> None:
        """The next step moves all old entries as it would have moved those of the parent.

        This includes entries that pruning had cut off and that the new node reads again.
        """
        parent, type = typed
        child = grown(parent, type)
        assertions.assert_gradients_follow(parent, child)
        assertions.assert_moments_follow(parent, child)

    @pytest.mark.parametrize("method", ["sgd", "adam"])
    def test_the_next_step_is_another_with_fresh_optimisers(self, method: str) -> None:
        """The law above detects moments that were not carried; it allows for gradients that are zero up to rounding."""
        optimiser, backbone = Optimiser(method, 0.01, momentum=0.9 * (method == "sgd")), small(operations=BIASED)
        parent = TrainedNetwork.of(attrs.evolve(trained().strategy, optimiser=optimiser, backbone=backbone), 5)
        child = grown(parent, "normal")
        assertions.assert_moments_follow(parent, child)
        child.state.optimisers = trainer(child.strategy, child.data).optimisers(child.network)
        with pytest.raises(AssertionError, match="the optimiser has"):
            assertions.assert_moments_follow(parent, child)

    @pytest.mark.parametrize(("type", "nodes"), [("normal", 1), ("reduction", 1), *[("normal", 2), ("reduction", 2)] * FULL])
    def test_every_new_entry_lives_within_three_steps(self, type: str, nodes: int) -> None:
        """New parameters get a gradient, and so do the new columns of every consumer, through which alone it reaches them."""
        parent = trained(nodes, operations=(*OTHERS, Identity(), Zero()))
        assertions.assert_trainable(grown(parent, type), every=False)  # behind a ReLU an entry may rest

    def test_columns_that_are_stuck(self, monkeypatch: Patch) -> None:
        """The law above detects a consumer that never learns to read a new node."""
        parent = trained()
        child = grown(parent, "normal")
        honest = Head.forward
        monkeypatch.setattr(Head, "forward", lambda self, x: honest(self, torch.cat([x[:, :8], 0 * x[:, 8:]], 1)))
        with pytest.raises(AssertionError, match=r"no gradient reached .*body\.head\.linear\.weight"):
            assertions.assert_trainable(child, every=False)

    @pytest.mark.parametrize("type", TYPES)
    def test_a_search_goes_on_where_nothing_reads_a_new_node(self, type: str) -> None:
        """Alphas that no output depends on have the gradient zero, and not none."""
        parent = trained()
        sites = dict(parent.network.structure.sites())
        gone = {a: {c.id for c in s.candidates if not c.operation.zero} for a, s in sites.items()}
        child = grown(parent.after(remove_candidates(parent.network.structure, gone)), type)
        assert child.train(2).state.updates == parent.state.updates + 2

    @few
    @given(typed(parents("concatenation")))
    def test_growth_reaches_every_instance_of_its_type_and_no_other(self, typed: Any) -> None:
        """Each instance of the type has the new edges; the modules that read such an instance have new columns, no others."""
        parent, type = typed
        child = grown(parent, type)
        plan, old, new = parent.strategy.backbone.plan, tensors(parent.network), tensors(child.network)
        instances = [i for i, other in enumerate(plan) if other == type]
        takes = {f"cells.{j}.adjust.{2 + i - j}" for i in instances for j in (i + 1, i + 2) if j < len(plan)}
        takes |= {"head.linear"} if plan[-1] == type else set()
        widened = {n.removeprefix("body.").removesuffix(".weight") for n in old if old[n].shape != new[n].shape}
        sides = (".convolution", ".even", ".odd")
        assert {next((n.removesuffix(s) for s in sides if n.endswith(s)), n) for n in widened} == takes

        before, cell = dict(parent.network.structure.sites()), parent.network.structure.cell(type)
        edges = [address for address, _ in child.network.structure.sites() if address not in before]
        states = ["i0", "i1", *(node.id for node in cell.nodes)]
        assert edges == [f"{type}/{state}-n{len(cell.nodes)}" for state in states]
        for address in edges:
            holders = {name.rpartition(".")[0] for name, _ in child.network.mixed_operations(address)}
            assert holders == {f"body.cells.{i}.sites" for i in instances}


def corner(old: Tensor) -> tuple[slice, ...]:
    """Return the index of a parent's entries in the child's tensor, found without labels: a new node is concatenated last."""
    return tuple(slice(length) for length in old.shape)


class TestMean:
    """Growth of a mean is exact behind a gate; with noise its claim depends on the bounds that its candidates give."""

    @few
    @given(typed(parents("mean")), st.integers(1, 2))
    def test_behind_a_gate_nothing_moves(self, typed: Any, times: int) -> None:
        """Outputs stay the same in both modes, BatchNorms included, after several growths, too; training goes on as before."""
        parent, type = typed
        child = assertions.assert_transaction(parent, lambda structure: growth(structure, type, "gate"))
        for _ in range(times - 1):
            child = grown(child, type, "gate")
        assertions.assert_exact(parent, child)
        assertions.assert_moments_follow(parent, child)
        assert len(list(child.network.gates())) == times * parent.strategy.backbone.plan.count(type)

    @pytest.mark.parametrize(
        ("type", "form"), [("normal", "gate"), ("reduction", "noise"), *[("normal", "noise"), ("reduction", "gate")] * FULL]
    )
    def test_every_new_entry_lives_within_three_steps(self, type: str, form: str) -> None:
        """New weights, alphas and gates get a gradient."""
        parent = trained(output="mean", operations=(*OTHERS, Identity(), Zero()))
        assertions.assert_trainable(grown(parent, type, form), every=False)

    @few
    @given(typed(supernets("mean")), st.sampled_from([0.05, 0.01]))
    def test_a_new_node_starts_as_the_mean_of_the_others(self, typed: Any, delta: float) -> None:
        """A new node starts as the mean of the others, up to noise between 0 and delta.

        On an edge from one of m nodes the identity has the mixing weight 1 / m, and zero has the rest; on an edge from an input
        zero has all of it.
        """
        parent, type = typed
        child, old = grown(parent, type, delta=delta), parent.network.structure.cell(type)
        for site in child.network.structure.cell(type).sites[len(old.sites) :]:
            share = 1 / len(old.nodes) if site.inputs[0].startswith("n") else 0.0
            wanted = [share if c.operation == Identity() else 1 - share if c.operation.zero else 0.0 for c in site.candidates]
            off = child.mixing()[f"{type}/{site.id}"] - torch.tensor(wanted, dtype=torch.float64)
            largest = max(range(len(wanted)), key=wanted.__getitem__)
            assert all(0 < o <= delta * (1 + 1e-9) for i, o in enumerate(off.tolist()) if i != largest)
            require_at_most(f"the sum of the noise on {site.id}", abs(float(off.sum())), 1e-12)

    @pytest.mark.parametrize("type", TYPES)
    def test_the_claim_of_noise_follows_from_its_candidates(self, type: str) -> None:
        """The growth is lossy beside candidates with a BatchNorm, which have no bound; otherwise its bound holds."""
        bounded, unbounded = (trained(2, output="mean", operations=o) for o in ((Saturation(), Identity(), Zero()), FEW))
        assert grown(unbounded, type).claim == Claim.lossy()
        child = grown(bounded, type)
        assert child.claim is not None
        assert child.claim.kind == ("approximate" if type == "normal" else "lossy")
        assertions.assert_within_bounds(child, child.claim.bounds)

    @pytest.mark.parametrize("type", TYPES if FULL else TYPES[:1])
    def test_noise_moves_the_output_in_proportion(self, type: str) -> None:
        """The distance of the network is linear in delta over three decades."""
        parent = trained(2, output="mean", operations=(SeparableConvolution(), Identity(), Zero()))
        children = {s: grown(parent, type, delta=s) for s in (1e-2, 1e-3, 1e-4, 1e-5)}
        assert_proportional("the distance", {s: assertions.output_distance(parent, child) for s, child in children.items()})

    def test_no_identity(self) -> None:
        """If no operation can be the identity, growth by noise is refused, and the message suggests a gate."""
        parent = trained(output="mean", operations=(Convolution(),))
        with pytest.raises(ChangeError, match="can act as the identity; grow it with form = 'gate'"):
            growth(parent.network.structure, "normal")
        assertions.assert_exact(parent, grown(parent, "normal", "gate"))


class TestLooseEnds:
    def test_growth_is_refused(self) -> None:
        """A new node would read the loose ends, which change the output; the growth is refused before a search begins."""
        message = "a cell that outputs its loose ends cannot grow, because a new node would use them as inputs"
        with pytest.raises(ChangeError, match=message):
            growth(trained(2, output="loose_ends").network.structure, "normal", "gate")
        with pytest.raises(ChangeError, match=message):
            Search(image_strategy(backbone=small(output="loose_ends")))

    def test_a_node_that_pruning_loosens_is_an_output(self) -> None:
        """A node that no other node reads any more becomes an output, and its consumers start with weights of zero for it."""
        parent = trained(3, output="loose_ends", cells=3)
        structure = parent.network.structure
        gone = {a: {c.id for c in s.candidates} for a, s in structure.sites() if a.startswith("normal/n0-")}
        child = assertions.assert_removal_is_masking(parent, gone)
        for aged, outputs in ((parent, ("n2",)), (child, ("n0", "n2"))):
            assert structure.backbone.outputs(aged.network.structure.cell("normal")) == outputs
            assert aged.network.body.cells[1].adjust[1].convolution.in_channels == 2 * len(outputs)


# ---------------------------------------------------------------------------------------------------------- instances


def separate_weights(network: Network) -> bool:
    """Return whether every instance of every type has separate tensors for each of its sites."""
    plan = network.structure.backbone.plan
    for address, _ in network.structure.sites():
        mixtures = [mixture for _, mixture in network.mixed_operations(address)]
        first = [next(mixture.parameters()).flatten()[:9] for mixture in mixtures]
        if len(mixtures) != plan.count(address.cell) or len({tuple(t.tolist()) for t in first}) != len(first):
            return False
    return len({t.data_ptr() for t in tensors(network).values()}) == len(tensors(network))


class TestInstances:
    def test_instances_have_separate_weights_and_shared_alphas(self) -> None:
        """Instances have different weights, also after a growth; a site has one vector of alphas for all of them."""
        network = grown(trained(), "normal").network
        assert separate_weights(network)
        assert set(network.alphas) == {address for address, _ in network.structure.sites()}
        network.body.cells[3].sites = network.body.cells[0].sites
        assert not separate_weights(network)

    def test_the_gradient_of_the_alphas_is_the_sum_over_instances(self) -> None:
        """The gradient of shared mixing weights is the sum of the gradients of separate ones, one for each instance."""
        parent = trained()
        shared, apart = (copy.deepcopy(parent.network).eval() for _ in range(2))
        weights = {a: w.clone().requires_grad_() for a, w in parent.mixing().items()}
        separate = {}
        for address, weight in weights.items():
            for name, mixture in apart.mixed_operations(address):
                separate[name], mixture.address = weight.detach().clone().requires_grad_(), name
        inputs, targets = parent.data.validation.batch(torch.arange(8))
        whole = torch.autograd.grad(parent.data.loss(shared(inputs, weights), targets), [*weights.values()])
        parts = dict(
            zip(
                separate,
                torch.autograd.grad(parent.data.loss(apart(inputs, separate | weights), targets), [*separate.values()]),
                strict=True,
            )
        )
        for address, gradient in zip(weights, whole, strict=True):
            instances = [parts[name] for name, _ in shared.mixed_operations(address)]
            assert len(instances) == 2
            torch.testing.assert_close(sum(instances), gradient, rtol=1e-10, atol=1e-15)

    @few
    @given(supernets(), st.integers(0, 999))
    def test_deriving_keeps_two_edges_of_each_node(self, parent: TrainedNetwork, seed: int) -> None:
        """The two edges with the strongest operation remain, each with that operation; zero does not count."""
        structure, generator = parent.network.structure, Seed((seed,)).generator()
        weights = {a: torch.randn(len(s.candidates), generator=generator).softmax(0) for a, s in structure.sites()}
        child = assertions.assert_removal_is_masking(parent, structure.backbone.derive(structure, weights)).network.structure
        assert child.decided
        strengths = {
            a: {c.id: float(w) for c, w in zip(s.candidates, weights[a], strict=True) if not c.operation.zero}
            for a, s in structure.sites()
        }
        for type, cell in structure.cells:
            for node in cell.nodes:
                edges = structure.sites_of(Address.of(type, node.id))
                strongest = sorted(edges, key=lambda a: -max(strengths[a].values()))[:2]
                kept = {a: s.candidates[0].id for a, s in child.sites() if a in edges}
                assert kept == {a: max(strengths[a], key=strengths[a].__getitem__) for a in strongest}

    @few
    @given(parents(), st.data())
    def test_removal_is_masking(self, parent: TrainedNetwork, data: st.DataObject) -> None:
        """The pruned network equals its parent with mixing weight zero for all that was removed."""
        structure = parent.network.structure
        child = assertions.assert_removal_is_masking(parent, data.draw(removals(structure, data.draw(st.booleans()))))
        assertions.assert_reconstructed(child, PLUGINS.make)

    @few
    @given(typed(parents()))
    def test_what_grows_is_rebuilt_from_json(self, typed: Any) -> None:
        """Grown supernets and architectures are equal after a round trip through JSON, and compute the same."""
        assertions.assert_reconstructed(grown(*typed, form="gate"), PLUGINS.make)


# ----------------------------------------------------------------------------------------------- what training alone does


class TestAuxiliary:
    @pytest.mark.parametrize("size", [1, 7, 8, 9])
    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    def test_in_training_only(self, stem: str, size: int) -> None:
        """In training the objective has the weighted loss of the auxiliary head, whose parameters get gradients; not in
        evaluation.
        """
        task = Blobs(size=6, height=size, width=size)
        data = task.load(torch.device("cpu"), torch.float64)
        backbone = small(stem=stem, auxiliary=0.4)
        network = build(backbone.initial(data.sizes, 1), SEED).double()
        weights = even(network)
        inputs, targets = data.train.batch(torch.arange(6))
        given = dict(network.body.auxiliary.named_parameters())
        outputs = network.train()(inputs, weights)
        assert isinstance(outputs, AuxiliaryOutputs)
        wanted = data.loss(outputs.outputs, targets) + 0.4 * data.loss(outputs.auxiliary, targets)
        objective = data.objective(outputs, targets)
        torch.testing.assert_close(objective, wanted, rtol=0, atol=0)
        assert all(g.any() for g in torch.autograd.grad(objective, [*given.values()]))
        found = network.eval()(inputs, weights)
        assert torch.is_tensor(found)
        assert set(torch.autograd.grad(data.objective(found, targets), [*given.values()], allow_unused=True)) == {None}

    @pytest.mark.parametrize(("type", "channels"), [("normal", [8, 8]), ("reduction", [8, 16])])
    def test_its_labels_grow_with_the_cell_before_it(self, type: str, channels: list[int]) -> None:
        """Growth is exact in training, too, and the head reads the new nodes of the cell before it."""
        parent = trained(cells=3, auxiliary=0.4)
        child = grown(parent, type)
        assertions.assert_exact(parent, child)
        assertions.assert_moments_follow(parent, child)
        assert [aged.network.body.auxiliary.first[0].in_channels for aged in (parent, child)] == channels


def edge(operation: Any, type: str = "normal", drop_path: float = 0.5, channels: int = 2) -> ImageCell:
    """Return a cell of one node with one edge, which drop path may drop."""
    cell = Cell((Node("n0"),), (Site("i1-n0", "n0", ("i1",), (Candidate(0, operation),)),), 1)
    source = channels_of("stem", channels=channels)
    with SEED.as_global():
        return ImageCell(
            type,
            cell,
            ("n0",),
            mean=False,
            sources=(source,) * 2,
            halved=False,
            channels=channels,
            affine=True,
            drop_path=drop_path,
        ).double()


def left_out_or_scaled(probability: float, progress: float) -> None:
    cell, x = edge(Convolution(), drop_path=probability), images(500, 2, 2, 2)
    set_progress(cell, 0.0)
    whole = cell({}, x, x)
    set_progress(cell, progress)
    with SEED(str(probability)).as_global():
        found = cell({}, x, x)
    p = probability * progress
    dropped = (found == 0).flatten(1).all(1)
    torch.testing.assert_close(found[~dropped], whole[~dropped] / (1 - p), rtol=1e-12, atol=1e-14)
    assert abs(float(dropped.double().mean()) - p) < 5 * (p * (1 - p) / 500) ** 0.5


def not_in_evaluation() -> None:
    cell, x = edge(Convolution(), drop_path=1.0), images(4, 2, 3, 3)
    assert not cell({}, x, x).any()
    assert cell.eval()({}, x, x).flatten(1).any(1).all()


def not_at_the_beginning() -> None:
    cell, x = edge(Convolution(), drop_path=1.0), images(400, 2, 3, 3)
    set_progress(cell, 0.0)
    assert cell.train()({}, x, x).flatten(1).any(1).all()


def never_left_out(type: str, operation: Any) -> None:
    x = images(4, 2, 4, 4)
    assert edge(operation, type, drop_path=1.0)({}, x, x).any() == (type == "normal" and operation == Identity())


class TestDropPath:
    @given(st.floats(0.1, 0.9), st.floats(0.1, 1.0))
    def test_an_edge_is_left_out_or_scaled(self, probability: float, progress: float) -> None:
        """An edge is dropped for each example with the probability times the progress, and is otherwise scaled.

        The scale is 1 / (1 - p), so that the mean stays the same.
        """
        left_out_or_scaled(probability, progress)

    def test_not_in_evaluation_nor_at_the_beginning(self) -> None:
        """No edge is dropped in evaluation mode, nor at progress 0."""
        not_in_evaluation()
        not_at_the_beginning()

    @pytest.mark.parametrize(("type", "operation"), [("normal", Identity()), ("reduction", Identity()), ("normal", AvgPool())])
    def test_the_identity_is_never_left_out(self, type: str, operation: Any) -> None:
        """An identity is never dropped, unlike other operations and unlike the reduction that replaces it at stride 2."""
        never_left_out(type, operation)

    def test_the_rate_rises_over_the_epochs(self) -> None:
        """In training the progress is the completed share of the optimiser's epochs."""
        task = Blobs(size=6)
        strategy = image_strategy(
            task=task,
            criterion=Epochs(4),
            backbone=small(cells=1, drop_path=0.3),
            optimiser=Optimiser("sgd", 0.1, epochs=4),
            batch=3,
        )
        search, found = again(strategy, trained(cells=1)), []
        for event in search:
            if isinstance(event, Stepped):
                found.append((event.epoch, search.network.body.cells[0].progress))
        assert found == [(epoch, epoch / 4) for epoch in range(4) for _ in range(2)]

    @pytest.mark.parametrize(
        ("name", "fault", "law"),
        [
            (
                "drop_examples",
                lambda o, p: o * (torch.rand(()) >= p) / (1 - p),
                partial(left_out_or_scaled, 0.5, 0.5),
            ),
            ("drop_examples", lambda o, p: DROP(o, p) * (1 - p), partial(left_out_or_scaled, 0.5, 0.5)),
            ("drop_examples", lambda o, p: DROP(o, min(2 * p, 1.0)), partial(left_out_or_scaled, 0.4, 0.5)),
            ("drop_examples", lambda o, p: DROP(o, max(p, 0.1)), not_at_the_beginning),
            ("is_identity", lambda *_: False, partial(never_left_out, "normal", Identity())),
            (
                "is_identity",
                lambda site, stride: site.candidates[0].operation == Identity(),
                partial(never_left_out, "reduction", Identity()),
            ),
        ],
        ids=["batches", "unscaled", "too often", "at the beginning", "identities", "reductions"],
    )
    def test_mutants(self, name: str, fault: Any, law: Any, monkeypatch: Patch) -> None:
        """Each mutant has one fault, which a law detects."""
        monkeypatch.setattr(cells, name, fault)
        with pytest.raises(AssertionError):
            law()


# ---------------------------------------------------------------------------------------------------------- retraining


def architecture(parent: TrainedNetwork) -> Structure:
    """Return the architecture that is derived from the present network of a search."""
    structure = parent.network.structure
    return remove_candidates(structure, structure.backbone.derive(structure, parent.mixing())).structure


def again(strategy: Strategy, parent: TrainedNetwork) -> Search:
    """Return a search that trains this architecture from scratch."""
    data = strategy.task.load(torch.device("cpu"), torch.float64)
    strategy = attrs.evolve(strategy, plan=RETRAIN)
    return Search(strategy, data=data, state=retraining(strategy, architecture(parent), data))


class TestRetraining:
    def test_the_cells_are_kept_in_another_width_and_depth(self) -> None:
        """The cells stay the same in a wider and deeper backbone; sizes, heads and stem are those of the strategy."""
        parent = trained(2, cells=3)
        wider = small(channels=3, cells=6, affine=True, auxiliary=0.4, drop_path=0.2, stem="imagenet")
        search = again(image_strategy(backbone=wider, task=Blobs(channels=2, height=9, width=9)), parent)
        structure = search.network.structure
        assert structure.cells == architecture(parent).cells
        assert (structure.backbone, dict(structure.sizes)) == (wider, dict(search.data.sizes))
        assert len(search.network.body.cells) == 6
        assert isinstance([*search][-1], Finished)
        assert search.network.structure == structure

    def test_what_is_no_architecture_of_the_backbone_is_refused(self) -> None:
        """Undecided structures and those with other cell types are refused, with a message that says what to give."""
        parent, recurrent = trained(), toy_strategy()
        data = parent.data
        with pytest.raises(StructureError, match=r"normal/i0-n0, .* have several candidates each; give an architecture"):
            retraining(parent.strategy, parent.network.structure, data)
        search = Search(recurrent)
        found = search.run().structure
        with pytest.raises(
            StructureError, match="has the cell types layer0, but backbone 'darts_convolutional' has normal, reduction"
        ):
            retraining(parent.strategy, found, data)
        with pytest.raises(StructureError, match="has the cell types normal, reduction, but backbone 'two_to_one' has layer0"):
            retraining(recurrent, architecture(parent), search.data)
        with pytest.raises(
            StructureError, match="has the cell types normal, reduction, but backbone 'darts_convolutional' has reduction"
        ):
            retraining(image_strategy(backbone=small(cells=2)), architecture(parent), data)

    def test_without_validation_the_last_network_counts(self) -> None:
        """Without a validation split an architecture is trained for some epochs; a search and patience are refused."""
        strategy = image_strategy(task=Blobs(size=6, validated=False), criterion=Epochs(2), batch=3, growth=())
        with pytest.raises(
            StrategyError, match="holds nothing out for validation, which a search moves its alphas and decides by"
        ):
            Search(strategy)
        search, last = again(strategy, trained()), []
        for event in search:
            if isinstance(event, Stepped):
                last = [t.clone() for t in search.network.parameters()]
        assert isinstance(event, Finished)
        assert event.valid is None
        assert len(search.state.history) == 2
        assert all(torch.equal(a, b) for a, b in zip(last, search.network.parameters(), strict=True))
        with pytest.raises(
            StrategyError, match="needs a validation loss, but the task has no validation split: use 'epochs' instead"
        ):
            again(attrs.evolve(strategy, criterion=Patience()), trained()).run()


# ---------------------------------------------------------------------------------------------------- a search, resumed

TINY: dict[str, Any] = {"task": Blobs(size=6, flips=True), "batch": 3}
SEARCHES = {
    "stage": image_strategy(
        backbone=small(channels=1, cells=3, drop_path=0.3),
        plan=STAGE,
        optimiser=Optimiser("sgd", 0.05, momentum=0.9),
        **TINY,
    ),
    "end": image_strategy(
        backbone=small(channels=1, cells=3, output="mean"), growth=(NodeGrowth("gate"),), optimiser=Optimiser(epochs=3), **TINY
    ),
}
#: with augmentation and BatchNorm, whose faults show in its first epoch
SHORT = attrs.evolve(SEARCHES["stage"], criterion=Scripted(epochs=1, growths=0), growth=())
searches = pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)


#: after how many events a search is killed
EVERY = 1 if FULL else 3


def check_kills(search: Search, killed: Search) -> int:
    """Require that a search which continues in a new process after each event ends in the same bytes; return the number of
    kills. In a quick run it continues after each third event.
    """
    kills = 0
    search.run()
    while killed.state.phase != "done":
        for _ in itertools.islice(killed, EVERY):
            pass
        torch.manual_seed(kills)
        state = revived(*saved(killed.state), killed.strategy, PLUGINS)
        killed, kills = Search(killed.strategy, data=killed.data, state=state), kills + 1
    assert digest(killed.state) == digest(search.state), "other bytes"
    return kills


class TestSearches:
    def test_both_types_grow_into_an_architecture(self) -> None:
        """Each growth is exact when it is made; the found network is decided and needs images alone."""
        search = Search(image_strategy())
        *events, last = search
        growths = [e for e in events if isinstance(e, Changed) and e.change == "grow"]
        assert [r.request["cell"] for r in growths] == ["normal", "reduction"]
        assert all(r.claim == {"kind": "exact"} and r.distance < 1e-13 for r in growths)
        assert isinstance(last, Finished)
        assert search.network.structure.decided
        assert search.network.count()["combination"] == search.network.count()["gates"] == 0
        assert search.network.eval()(search.data.test.batch(torch.arange(5))[0]).shape == (5, 3)

    def test_a_longer_search_learns(self) -> None:
        """The found network classifies blobs better than chance."""
        task, optimiser = Blobs(size=60, flips=True), Optimiser(learning_rate=0.05)
        script, backbone = Scripted(epochs=4, growths=0), small(channels=4, cells=3, affine=True)
        search = Search(image_strategy(task=task, criterion=script, backbone=backbone, optimiser=optimiser, batch=10))
        loss, scores = search.data.measure(search.run().eval(), search.data.test)
        assert loss < 0.8 * math.log(3)
        assert scores["accuracy"] > 0.6

    @searches
    def test_a_strategy_goes_through_toml(self, strategy: Strategy) -> None:
        """Operations of one input, also those of a stranger, are written and read like those that are shipped."""
        assert Strategy.from_toml(strategy.to_toml(), PLUGINS) == strategy

    @searches
    def test_same_bytes_through_a_kill_at_every_event(self, strategy: Strategy) -> None:
        """A search with augmentation, drop path, BatchNorm, a falling rate and two growing types resumes to the same bytes."""
        assert check_kills(Search(strategy), Search(strategy)) > 15 // EVERY

    def test_so_does_a_retraining(self) -> None:
        """A retraining with an auxiliary head, rising drop path and augmentation resumes to the same bytes."""
        backbone = small(channels=1, cells=3, affine=True, auxiliary=0.4, drop_path=0.3)
        strategy = image_strategy(backbone=backbone, criterion=Epochs(2), optimiser=Optimiser("sgd", 0.1, epochs=2), **TINY)
        assert check_kills(*(again(strategy, trained()) for _ in range(2))) > 6 // EVERY

    @pytest.mark.parametrize("fault", ["statistics", "generator", "augmentation"])
    def test_what_is_not_resumed(self, fault: str, monkeypatch: Patch) -> None:
        """The laws above detect running statistics that are not in the state, and draws from the global generator."""
        honest = states.copied
        faults: dict[str, tuple[Any, str, Any]] = {
            "statistics": (states, "copied", lambda n: {k: 0 * t if "running" in k else t for k, t in honest(n).items()}),
            "generator": (Seed, "as_global", lambda seed, device="cpu": contextlib.nullcontext()),
            "augmentation": (torch, "rand", partial(torch.rand, generator=torch.Generator())),
        }
        monkeypatch.setattr(*faults[fault])
        with pytest.raises(AssertionError, match="other bytes"):
            check_kills(Search(SHORT), Search(SHORT))


# -------------------------------------------------------------------------------------------------------------- mutants


def transact(parent: TrainedNetwork, edit: Edit) -> None:
    """Fill and measure a change as a search does, with the claim that it is exact."""
    change = apply(parent.network, edit, SEED)
    distance(lambda n: n(parent.inputs(), n.mixing()), parent.network, change.child, Claim.exact())


WRONG = {
    "channels first": lambda *sources, channels: tuple((s, c) for c in range(channels) for s in sources),
    "newest first": lambda *sources, channels: tuple((s, c) for s in sources[::-1] for c in range(channels)),
    "twice the same": lambda *sources, channels: tuple((0, c) for _ in sources for c in range(channels)),
    "new names": lambda *sources, channels: tuple((s, c, len(sources)) for s in sources for c in range(channels)),
}


class TestMutants:
    """Each mutant has one fault, for which the change is refused."""

    @pytest.mark.parametrize("type", TYPES)
    def test_what_the_mutants_vary_is_accepted(self, type: str) -> None:
        """Without the faults below the change passes."""
        parent = trained()
        transact(parent, growth(parent.network.structure, type))

    @pytest.mark.parametrize("type", TYPES)
    @pytest.mark.parametrize("units", WRONG.values(), ids=WRONG)
    def test_wrong_labels(self, units: Any, type: str, monkeypatch: Patch) -> None:
        """Labels that do not follow the concatenation change the output."""
        monkeypatch.setattr(backbones, "channels_of", units)
        parent = TrainedNetwork.of(trained().strategy, 5)
        with pytest.raises(ChangeError):
            transact(parent, growth(parent.network.structure, type))

    def test_labels_that_occur_twice(self, monkeypatch: Patch) -> None:
        """Entries with equal labels are refused, even where the change may be lossy."""
        monkeypatch.setattr(backbones, "channels_of", WRONG["twice the same"])
        parent = TrainedNetwork.of(trained(2).strategy, 1)
        with pytest.raises(ChangeError, match=r"gives it 8 labels, 4 of them different"):
            apply(parent.network, growth(parent.network.structure, "reduction"), SEED)

    @pytest.mark.parametrize("consumer", [ImageCell, Head, Auxiliary])
    def test_dropped_labels(self, consumer: type, monkeypatch: Patch) -> None:
        """A tensor of another shape without labels cannot be filled, and the message says what to write."""
        parent = trained(cells=3, auxiliary=0.4)
        monkeypatch.delattr(consumer, "axes")
        with pytest.raises(ChangeError, match=r"give the module a method axes\(\)"):
            transact(parent, growth(parent.network.structure, "reduction"))

    def test_new_columns_that_do_not_start_at_zero(self, monkeypatch: Patch) -> None:
        """New columns that are labelled as produced keep their random initialisation, which changes the output."""
        parent = trained()
        monkeypatch.setattr(cells, "consumes", produces)
        with pytest.raises(ChangeError, match="the output differs by"):
            transact(parent, growth(parent.network.structure, "reduction"))

    def test_swapped_instances(self) -> None:
        """Instances of a type that are filled from each other change the output."""
        parent = trained(cells=6)
        swap = str.maketrans("01", "10")
        names = [n for n in tensors(parent.network) if n.startswith(("body.cells.0.sites.", "body.cells.1.sites."))]
        overrides = {n: Take(n[:12].translate(swap) + n[12:]) for n in names}
        with pytest.raises(ChangeError, match="the output differs by"):
            transact(
                parent,
                Edit(growth(parent.network.structure, "reduction").structure, lambda *_: Filling(Claim.exact(), overrides)),
            )
