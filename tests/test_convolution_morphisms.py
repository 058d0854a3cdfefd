"""Morphisms of one convolution: what each kind keeps, on trained modules and in trained searches, in both modes."""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import Any

import attrs
import nasframe_convolutional.morphism
import nasframe_convolutional.operations
import pytest
import torch
from full import FULL
from hypothesis import given, settings, strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_convolutional.backbone import DartsConvolutional
from nasframe_convolutional.morphism import KINDS, ConvolutionMorphism, Morphed, morphed
from nasframe_convolutional.operations import Identity, MaxPool, Separable, SeparableConvolution
from torch import Tensor, nn

from nasframe import Edit, Filling, Network, Optimiser, Search, Seed, Set, Strategy, Structure, Take, installed
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError
from nasframe.network.network import tensors
from nasframe.search.replay import replay
from nasframe.testing import assertions
from nasframe.testing.compare import require_at_most
from nasframe.testing.fakes import Endless, Keep, Noise, Scripted
from nasframe.testing.saved import saved
from nasframe.testing.trained import TrainedNetwork

EXACT = [name for name, kind in KINDS.items() if kind.claim.kind == "exact"]
PR_DARTS = ("pad", "widen", "crop", "dilate", "contract", "deepen")

# ------------------------------------------------------------------------------------------------- of a single module


def trained(operation: SeparableConvolution, channels: int, stride: int, affine: bool) -> Separable:
    """A module whose parameters and running statistics are not at their defaults."""
    with Seed(("module",)).as_global():
        module = operation.build(channels=channels, stride=stride, affine=affine).double()
        optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad()
            out = module(1 + 2 * torch.randn(4, channels, 5, 6, dtype=torch.float64))
            (out - torch.randn_like(out)).square().mean().backward()
            optimiser.step()
    return module


def fill(morph: Morphed, old: Separable, stride: int, affine: bool) -> Separable:
    """The module of the morphed operation, filled from the old one."""
    channels = old.layers[0].depthwise.in_channels
    with Seed(("new",)).as_global():
        new = morph.operation.build(channels=channels, stride=stride, affine=affine).double()
    before, after = tensors(old), tensors(new)
    for name, entry in morph.entries(old, new).items():
        value = entry(before[entry.source], after[name]) if isinstance(entry, Take) else entry.tensor
        after[name].data.copy_(value)
    return new


@st.composite
def separable(draw: st.DrawFn, kind: str) -> SeparableConvolution:
    """Any operation that admits the kind."""
    expansion = tuple(draw(st.lists(st.integers(1, 3), min_size=kind == "widen", max_size=2)))
    return SeparableConvolution(
        draw(st.sampled_from([3, 5, 7] if kind in ("crop", "dilate", "contract", "densify") else [1, 3, 5])),
        draw(st.integers(2, 3) if kind in ("contract", "densify") else st.integers(1, 3)),
        expansion,
        0 if kind == "deepen" else draw(st.integers(0, len(expansion))),
    )


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, bool]:
    """Draw the number of channels, the stride, and whether BatchNorms scale and shift."""
    return draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.booleans())


@st.composite
def images(draw: st.DrawFn, channels: int) -> Tensor:
    """One image or several, down to a single pixel."""
    shape = (draw(st.integers(1, 3)), channels, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    return torch.randn(shape, dtype=torch.float64, generator=Seed(("images", draw(st.integers(0, 99)))).generator())


def off(old: nn.Module, new: nn.Module, x: Tensor, training: bool) -> float:
    """How far apart two modules are, in units of what rounding allows."""
    with torch.no_grad():
        before, after = old.train(training)(x), new.train(training)(x)
    return float((after - before).abs().max()) / tolerance(before)


def exact(operation: SeparableConvolution, kind: str, sizes: tuple[int, int, bool], x: Tensor) -> None:
    """A morphed module puts out what the old one does, in evaluation mode and, where a BatchNorm can train, in training."""
    old = trained(operation, *sizes)
    new = fill(morphed(operation, kind), old, *sizes[1:])
    several = len(x) * math.prod(-(-length // sizes[1]) for length in x.shape[2:]) > 1
    for training in (False, True) if several else (False,):
        require_at_most(f"the distance in units of rounding, training: {training},", off(old, new, x, training), 1)


@pytest.mark.parametrize("kind", EXACT)
@given(st.data())
def test_exact_kinds_compute_what_was_computed(kind: str, data: st.DataObject) -> None:
    """At any kernel, dilation, stride, width and size, on a trained module."""
    chosen = data.draw(sizes())
    exact(data.draw(separable(kind)), kind, chosen, data.draw(images(chosen[0])))


def common(kind: str, dilation: int, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of an old and of a new tensor that stand for each other."""
    if old.dim() == 4 and kind in ("pad", "crop", "densify") and old.shape != new.shape:
        inner = (..., slice(1, -1), slice(1, -1))
        return {
            "pad": (old, new[inner]),
            "crop": (old[inner], new),
            "densify": (old, new[..., ::dilation, ::dilation]),
        }[kind]
    return old, new[tuple(slice(length) for length in old.shape)]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_every_kind_keeps_what_fits(kind: str, data: st.DataObject) -> None:
    """To the bit: the old units, and of the kernels the centre or all taps; what is new is zero where it is taken in."""
    (channels, stride, affine), operation = data.draw(sizes()), data.draw(separable(kind))
    old = trained(operation, channels, stride, affine)
    new = fill(morphed(operation, kind), old, stride, affine)
    after = tensors(new)
    for name, tensor in tensors(old).items():
        was, is_ = common(kind, operation.dilation, tensor, after[name])
        assert torch.equal(was, is_), name
        if tensor.shape != after[name].shape and "depthwise" in name and kind in ("pad", "densify"):
            assert after[name].count_nonzero() == tensor.count_nonzero()
        if tensor.shape != after[name].shape and "pointwise" in name and tensor.shape[0] == after[name].shape[0]:
            assert not after[name][:, tensor.shape[1] :].any()


@given(sizes(), st.data())
def test_dilations_come_back(sizes: tuple[int, int, bool], data: st.DataObject) -> None:
    """Kind "contract" undoes "dilate", and "crop" undoes "pad", to the bit, in operation and tensors."""
    for there, back in (("dilate", "contract"), ("pad", "crop")):
        operation = data.draw(separable(there))
        old = trained(operation, *sizes)
        middle = morphed(operation, there)
        again = morphed(middle.operation, back)
        new = fill(again, fill(middle, old, *sizes[1:]), *sizes[1:])
        assert again.operation == operation
        assert all(torch.equal(tensor, tensors(new)[name]) for name, tensor in tensors(old).items())


@pytest.mark.parametrize("kind", ["crop", "dilate", "contract", "deepen"])
def test_lossy_kinds_are_lossy(kind: str) -> None:
    """They are not exact by accident: in both modes the output moves by a hundredth of its scale or more."""
    operation = SeparableConvolution(3, 2)
    old = trained(operation, 2, 1, False)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=Seed(("lossy",)).generator())
    new = fill(morphed(operation, kind), old, 1, False)
    for training in (False, True):
        assert off(old, new, x, training) * 256 * torch.finfo(torch.float64).eps > 0.01


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_inserted_layer_with_batchnorm_is_exact_on_conditions(affine: bool, stride: int) -> None:
    """Behind a PReLU of slope 1 a layer with BatchNorm is the identity in evaluation mode, if the BatchNorm's scale and shift
    match its statistics; with its default ones it is not, and in training mode it never is.
    """
    operation = SeparableConvolution(3)
    old = trained(operation, 2, stride, affine)
    new = fill(morphed(operation, "insert"), old, stride, affine)
    norm = new.layers[1].norm = nn.BatchNorm2d(2, affine=affine).double()
    x = 1 + torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=Seed(("norm",)).generator())
    assert off(old, new, x, False) > 1e6
    if affine:
        norm.running_mean.copy_(torch.tensor([0.3, -0.2]))
        norm.running_var.copy_(torch.tensor([0.5, 2.0]))
        norm.bias.data.copy_(norm.running_mean)
        norm.weight.data.copy_((norm.running_var + norm.eps).sqrt())
    else:
        norm.running_var.fill_(1 - norm.eps)
    assert off(old, new, x, False) <= 1
    assert off(old, new, x, True) > 1e6


# --------------------------------------------------------------------------------------------------------- legality


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ({"smallest": 3, "depth": 1, "width": 1}, 12),
        ({"depth": 1, "width": 5}, 36),
        ({"depth": 9, "width": 9}, 80),
    ],
)
def test_the_spaces_of_pr_darts(limits: dict[str, int], total: int) -> None:
    """From the single 3 x 3 convolution, five steps of the paper's kinds reach as many configurations as its Table II says,
    a kernel of 1 that was cropped at dilation 2 among them, where there are kernels of 1.
    """
    morphism = ConvolutionMorphism(PR_DARTS, **limits)
    reached = {SeparableConvolution()}
    for _ in range(5):
        reached |= {new for old, kind in itertools.product(reached, PR_DARTS) if (new := legal(morphism, old, kind))}
    assert len(reached) == total
    assert (SeparableConvolution(1, 2) in reached) == (morphism.smallest == 1)


def legal(morphism: ConvolutionMorphism, operation: SeparableConvolution, kind: str) -> SeparableConvolution | None:
    """What the kind makes of the operation, if it may."""
    try:
        return morphism.morphed(operation, kind).operation
    except ChangeError:
        return None


@pytest.mark.parametrize(
    ("operation", "kind", "message"),
    [
        (SeparableConvolution(1), "crop", "'crop' cannot be made of .*: it needs a kernel of more than 1"),
        (SeparableConvolution(1, 2), "dilate", "'dilate' cannot be made of .*'kernel': 1.*: it needs a kernel of more than 1"),
        (SeparableConvolution(1, 2), "contract", "it needs a kernel and a dilation of more than 1"),
        (SeparableConvolution(3), "contract", "it needs a kernel and a dilation of more than 1"),
        (SeparableConvolution(1, 2), "densify", "it needs a kernel and a dilation of more than 1"),
        (SeparableConvolution(3), "widen", "it needs a hidden layer"),
        (SeparableConvolution(3, expansion=(1,), linear=1), "deepen", "it needs linear = 0"),
        (SeparableConvolution(7), "pad", r"'pad' would make .*'kernel': 9.*, which is not within the limits of .*'largest': 7"),
        (SeparableConvolution(5, 2), "densify", "'kernel': 9, .*which is not within the limits"),
        (SeparableConvolution(3, 2), "dilate", "'dilation': 3, .*which is not within the limits"),
        (SeparableConvolution(expansion=(1,)), "insert", "which is not within the limits"),
        (SeparableConvolution(expansion=(5,)), "widen", "which is not within the limits"),
        (SeparableConvolution(), "fold", "there is no kind 'fold' of morphism; there are pad, widen"),
        (MaxPool(), "pad", "'max_pool' cannot be morphed; 'separable' can"),
    ],
)
def test_what_cannot_be_morphed_is_refused(operation: Any, kind: str, message: str) -> None:
    """The message says what was asked, and what would have to be."""
    with pytest.raises(ChangeError, match=message):
        ConvolutionMorphism().morphed(operation, kind)


@pytest.mark.parametrize("kinds", [(), ("pad", "fold"), "pad"])
def test_kinds_are_checked(kinds: Any) -> None:
    """One or more of those that there are."""
    with pytest.raises(ValueError, match=r"kinds is .*; it must list one or more of pad, widen"):
        ConvolutionMorphism(kinds)


# -------------------------------------------------------------------------------------------------------- in a search

#: what admits each kind, and so does not stand at one site with what it makes
STARTS = {
    kind: SeparableConvolution(
        3, 2 if kind in ("contract", "densify") else 1, (2, 1) if kind == "widen" else (1,) if kind in ("pad", "crop") else ()
    )
    for kind in KINDS
}
MORPHISM = ConvolutionMorphism(depth=2)


def strategy(operation: SeparableConvolution, affine: bool = False, **options: Any) -> Strategy:
    """A normal cell and two reductions, of one node each, on small noisy images."""
    sizes = {"channels": 2, "classes": 3, "height": 8, "width": 8}
    backbone = DartsConvolutional(2, 3, affine=affine, operations=(operation, MaxPool(), Identity()))
    return Strategy(
        task=Noise(tuple(sizes.items()), inputs=(-1, 2, 8, 8), outputs=(-1, 3)),
        backbone=backbone,
        architect=FirstOrder(Optimiser(learning_rate=0.01)),
        pruner=Keep(),
        growth=(MORPHISM,),
        nodes=1,
        batch=4,
        dtype="float64",
        **{"criterion": Endless(), "optimiser": Optimiser(learning_rate=0.01)} | options,
    )


@functools.cache
def _aged(operation: SeparableConvolution, affine: bool, optimiser: Optimiser, decided: bool) -> TrainedNetwork:
    parent = TrainedNetwork.of(strategy(operation, affine, optimiser=optimiser), 6)
    if decided:
        gone = {a: {c.id for c in s.candidates[1:]} for a, s in parent.network.structure.sites()}
        parent = parent.after(remove_candidates(parent.network.structure, gone)).train(3)
    return parent


METHODS = {
    "sgd": Optimiser("sgd", 0.01, momentum=0.9),
    "adam": Optimiser(learning_rate=0.003, weight_decay=0.01),
    "adamw": Optimiser("adamw", 0.003, weight_decay=0.01),
}


@st.composite
def parents(draw: st.DrawFn, kind: str) -> TrainedNetwork:
    """A supernet or an architecture that has trained, in either form."""
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    return _aged(STARTS[kind], draw(st.booleans()), method, draw(st.booleans())).copy()


def edit(structure: Structure, kind: str, site: str = "reduction/i1-n0") -> Edit:
    """The convolution at a site morphed, with a stride of 2 in a reduction."""
    candidate = dict(structure.sites())[site].candidates[0]
    request = {"site": site, "candidate": candidate.id, "kind": kind}
    return MORPHISM.edit(structure, request, {}, Seed(("morphed",)))


few = settings(max_examples=2 if FULL else 1)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(st.data())
def test_a_morphism_in_a_search(kind: str, data: st.DataObject) -> None:
    """It is a transaction, in every instance of its type and nowhere else, and works blind; the new candidate has a new id in
    the old one's place, and its weight; what it learns reaches all of it. The network is read back from its JSON.
    """
    parent = data.draw(parents(kind))
    site = data.draw(st.sampled_from([address for address, _ in parent.network.structure.sites()]))
    worked = assertions.assert_no_forward(parent, lambda structure: edit(structure, kind, site))
    assert worked.claim == KINDS[kind].claim
    child = assertions.assert_transaction(parent, lambda structure: edit(structure, kind, site))
    assertions.assert_ids_not_reused([parent.network.structure, child.network.structure])
    if kind != "pad":  # a part of the padded kernel lies outside of the smallest images
        assertions.assert_trainable(child, every=False)
    assertions.assert_reconstructed(child, installed().make)
    before, after = (dict(aged.network.structure.sites()) for aged in (parent, child))
    assert {a for a in after if after[a] != before[a]} == {site}
    assert after[site].candidates[1:] == before[site].candidates[1:]
    assert after[site].candidates[0].id == parent.network.structure.next_id
    old, new = parent.mixing(), child.mixing()
    assert all(torch.equal(new[address], weights) for address, weights in old.items())
    if worked.claim.kind == "exact":
        assertions.assert_exact(parent, child)
        assertions.assert_moments_follow(parent, child)
        assertions.assert_gradients_follow(parent, child)


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, method) for i, kind in enumerate(KINDS) for j, method in enumerate(METHODS) if FULL or i % len(METHODS) == j],
)
def test_moments_follow(kind: str, method: str) -> None:
    """After few steps, kept entries, also of alphas, have the same moments to the bit, and new entries have moments of zero."""
    parent = _aged(STARTS[kind], False, METHODS[method], False).copy()
    child = parent.after(edit(parent.network.structure, kind))
    before, after = saved(parent.state)[1], saved(child.state)[1]
    old = r"(cells\.[12]\.sites\.i1-n0\.candidates)\.\d+\.layers"  # the reductions
    new = rf"\1.{parent.network.structure.next_id}.layers"
    moments = [name for name in before if name.startswith(("weights/", "alphas/"))]
    assert any(re.search(old, name) for name in moments)
    for name in moments:
        follows = re.sub(old, new, name)
        assert follows in after
        is_ = after[follows]
        assert torch.equal(*common(kind, STARTS[kind].dilation, before[name], is_)), name
        if is_.numel() > before[name].numel():
            assert (is_ == 0).sum() >= is_.numel() - before[name].numel(), name


@pytest.mark.parametrize("affine", [True, *[False] * FULL])
def test_proposals_are_what_can_be_made_and_what_it_costs(affine: bool) -> None:
    """Every request that is not proposed is refused, and every one that is can be made; the network gets as many parameters
    more as the proposal says.
    """
    parent = _aged(SeparableConvolution(3, 2, (1,)), affine, METHODS["sgd"], False)
    network = parent.network
    proposed = {tuple(p.request.values()): p.cost for p in parent.proposals(MORPHISM)}
    assert {kind for _, _, kind in proposed} == set(KINDS) - {"dilate"}
    for address, site in network.structure.sites():
        for candidate, kind in itertools.product(site.candidates, KINDS):
            request = {"site": address, "candidate": candidate.id, "kind": kind}
            try:
                made = MORPHISM.edit(network.structure, request, {}, Seed(("proposed",))).structure
            except ChangeError:
                assert tuple(request.values()) not in proposed
            else:
                with torch.device("meta"):
                    child = Network(made)
                count = sum(p.numel() for p in child.parameters()) - sum(p.numel() for p in network.parameters())
                assert proposed[address, candidate.id, kind] == count


def test_what_a_site_has_is_not_made_again() -> None:
    """A convolution is not padded to one that stands beside it already."""
    operations = (SeparableConvolution(3), SeparableConvolution(5))
    backbone = attrs.evolve(strategy(operations[0]).backbone, operations=operations)
    network = Search(attrs.evolve(strategy(operations[0]), backbone=backbone)).network
    with pytest.raises(ChangeError, match=r"'pad' would make .*'kernel': 5.*, which i1-n0 has already"):
        edit(network.structure, "pad")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"site": "normal/i9", "candidate": 0, "kind": "pad"},
            "there is no site 'normal/i9'; there are normal/i0-n0",
        ),
        ({"site": "normal/i0-n0", "candidate": 99, "kind": "pad"}, r"normal/i0-n0 has no candidate 99; it has \[0, 1, 2\]"),
        ({"site": "normal/i0-n0", "candidate": 0}, "there is no kind 'None' of morphism"),
    ],
)
def test_requests_are_checked(request_: dict[str, Any], message: str) -> None:
    """The message says what there is."""
    network = _aged(SeparableConvolution(), False, METHODS["sgd"], False).network
    with pytest.raises(ChangeError, match=message):
        MORPHISM.edit(network.structure, request_, {}, Seed(("checked",)))


def test_a_search_morphs_and_its_lineage_is_replayed() -> None:
    """A search grows by morphisms to its end, and every structure follows from the records alone."""
    search = Search(strategy(SeparableConvolution(), criterion=Scripted()))
    search.run()
    made = [*replay(search.strategy, search.state.lineage, search.state.evidence, installed())]
    grown = [record.by.split()[0] for record in search.state.lineage[1:] if record.change == "grow"]
    assert grown == ["convolution"] * 2
    assert made[-1] == search.network.structure


# ------------------------------------------------------------------------------------------------------------ mutants


class TestMutants:
    """The laws above see each of these faults."""

    @pytest.mark.parametrize(
        ("kind", "taps"),
        [("pad", [-2, -2, 0, 1, 2]), ("pad", [0, 0, 1, 2, 2]), ("densify", [-2, 0, 1, 2, -2]), ("densify", [0, 0, 1, 1, 2])],
    )
    def test_taps_in_other_places(self, kind: str, taps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """A kernel that is off by one, whose rim is not zero, or whose gaps are not there."""
        monkeypatch.setattr(nasframe_convolutional.morphism, "taps", lambda old, new: taps)
        self._inexact(kind)

    def test_units_that_are_taken_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """New units whose outgoing weights are not zero."""
        monkeypatch.setattr(nasframe_convolutional.morphism, "ZERO", -1)
        self._inexact("widen")

    @pytest.mark.parametrize("slope", [0.25, 0.0])
    def test_a_layer_that_bends(self, slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """An inserted layer that is not linear at first."""
        prelu = nn.PReLU
        monkeypatch.setattr(nn, "PReLU", lambda units, init: prelu(units, slope))
        self._inexact("insert")

    def _inexact(self, kind: str) -> None:
        x = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=Seed(("mutants",)).generator())
        with pytest.raises(AssertionError, match="the distance in units of rounding, training: False, is"):
            exact(STARTS[kind], kind, (2, 1, False), x)

    def test_a_newcomer_without_the_moments_of_its_predecessor(self) -> None:
        """A next step that is another one, under whatever name the numbers are."""
        parent = _aged(STARTS["pad"], False, METHODS["sgd"], False).copy()
        child = parent.after(edit(parent.network.structure, "pad"))
        assertions.assert_moments_follow(parent, child)
        new = rf"candidates\.{parent.network.structure.next_id}\."
        for name, parameter in child.network.named_parameters():
            if re.search(new, name):
                child.state.optimisers["weights"].state[parameter]["momentum_buffer"].zero_()
        with pytest.raises(AssertionError, match=f"the distance of momentum_buffer of .*{new}"):
            assertions.assert_moments_follow(parent, child)

    def test_values_without_their_moments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Values that are right, but set."""
        entries = Morphed.entries

        def set_(morph: Morphed, old: nn.Module, new: nn.Module, prefix: str) -> Any:
            before, after = tensors(old), tensors(new)
            return {n: Set(e(before[n], after[n]).clone()) for n, e in entries(morph, old, new, prefix).items()}

        monkeypatch.setattr(Morphed, "entries", set_)
        with pytest.raises(AssertionError, match=r"layers\.0\.depthwise\.weight"):
            test_moments_follow("pad", "adam")

    def test_a_logit_that_is_not_kept(self) -> None:
        """A candidate in another's place without its alpha is refused, as its weight is not stated."""
        parent = _aged(STARTS["pad"], False, METHODS["sgd"], False)
        made = edit(parent.network.structure, "pad")

        def fill(parent: Network, child: Network) -> Filling:
            filling = made.fill(parent, child)
            kept = {name: entry for name, entry in filling.overrides.items() if not name.startswith("alphas")}
            return attrs.evolve(filling, overrides=kept)

        with pytest.raises(ChangeError, match="adds candidates to reduction/i1-n0 without mixing weights"):
            parent.after(attrs.evolve(made, fill=fill))
