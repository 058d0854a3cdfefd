"""Relaxations can be combined with backbones and architects, and resume to the same bytes."""

from __future__ import annotations

import itertools
import re
from typing import Any

import attrs
import pytest
import torch
from convolutional import Blobs, small
from full import FULL
from nasframe_bilevel import BetaDecay, ExactSecondOrder, FirstOrder, SecondOrder, SingleLevel, Softmax
from nasframe_convolutional import Identity, SeparableConvolution, Zero
from nasframe_recurrent import Darts, TwoToOne
from nasframe_relaxations import (
    BinaryGates,
    Concrete,
    Dirichlet,
    EdgeNormalisation,
    HardGumbel,
    IndependentSigmoids,
    NodeSoftmax,
)
from nasframe_robustness import AnnealedSoftmax
from toy import PLUGINS, toy_strategy

from nasframe import Architect, Mixing, Optimiser, Relaxation, Search, Strategy
from nasframe.errors import StrategyError, StructureError
from nasframe.network.axes import produces
from nasframe.records import Changed, Stepped
from nasframe.search.plan import Change, Repeat, Restore, Train
from nasframe.search.trainer import mixing_weights
from nasframe.testing.check import QUICK, check
from nasframe.testing.compare import differences
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved
from nasframe.testing.trained import TrainedNetwork

SAMPLED: tuple[type[Relaxation], ...] = (HardGumbel, Concrete, Dirichlet, BinaryGates)
RELAXATIONS: tuple[type[Relaxation], ...] = (*SAMPLED, IndependentSigmoids, NodeSoftmax, EdgeNormalisation)
#: each relaxation with one architect of first and one of second order
PAIRS: tuple[tuple[type[Relaxation], type[Architect]], ...] = (
    (HardGumbel, FirstOrder),
    (HardGumbel, SecondOrder),
    (Concrete, ExactSecondOrder),
    (EdgeNormalisation, SingleLevel),
    (EdgeNormalisation, ExactSecondOrder),
    (NodeSoftmax, SecondOrder),
    (IndependentSigmoids, FirstOrder),
    (Dirichlet, ExactSecondOrder),
    (BinaryGates, SingleLevel),
)


#: what a search with each backbone differs in
BACKBONES: dict[str, dict[str, Any]] = {
    "darts_recurrent": {},
    "two_to_one": {"backbone": TwoToOne(hidden=3)},
    "darts_convolutional": {
        "backbone": small(operations=(SeparableConvolution(), Identity(), Zero())),
        "task": Blobs(4),
        "nodes": 1,
    },
}


def strategy(architect: Architect, **changes: object) -> Strategy:
    """Return a search on a cell with several edges for each node, in phases of two epochs."""
    options = {"backbone": Darts(hidden=3), "growth": (), "nodes": 2, "optimiser": Optimiser(epochs=2)}
    return toy_strategy(architect=architect, **(options | changes))


@pytest.mark.parametrize(("relaxation", "architect"), PAIRS, ids=lambda part: part.name)
def test_architects_descend_it(relaxation: type[Relaxation], architect: type[Architect]) -> None:
    """The alphas and the further parameters move, and the search ends with an architecture."""
    search = Search(strategy(architect(relaxation=relaxation(), optimiser=Optimiser(learning_rate=0.01))))  # type: ignore[call-arg]
    before = {name: alpha.detach().clone() for name, alpha in search.network.alphas.items()}
    trained = TrainedNetwork.of(search.strategy, 3)
    moved = {name for name, alpha in trained.network.alphas.items() if not torch.equal(alpha, before[name])}

    # the beta of a node with a single edge has no effect
    assert moved == {name for name, alpha in before.items() if len(alpha) > 1}
    search.run()
    assert search.network.structure.decided


@pytest.mark.parametrize(
    ("relaxation", "backbone"),
    [*itertools.product(RELAXATIONS, BACKBONES)] if FULL else [*zip(RELAXATIONS, itertools.cycle(BACKBONES), strict=False)],
    ids=lambda part: getattr(part, "name", part),
)
def test_it_resumes(relaxation: type[Relaxation], backbone: str) -> None:
    """A search that is saved and continued on the way ends in the same bytes, with an architecture, with skipped weights and a decay of
    the alphas, too.
    """
    architect = FirstOrder(relaxation=relaxation(), terms=(BetaDecay(),))
    search = Search(strategy(architect, optimiser=Optimiser(epochs=2, idle="skip"), **BACKBONES[backbone]))
    # in the middle of the phase that trains the alphas
    dumps = [saved(search.state) for record in search if isinstance(record, Stepped) and record.phase == "search"]
    expected = saved(search.state)
    torch.manual_seed(1)
    again = Search(
        search.strategy, data=search.data, state=revived(*dumps[len(dumps) // 2], search.strategy, PLUGINS, search.data)
    )
    again.run()
    found = saved(again.state)

    assert search.network.structure.decided
    assert found[0] == expected[0]
    assert not differences(found[1], expected[1])


@pytest.mark.parametrize("plan", ["stage", "end"])
def test_removal_records_the_distance(plan: str) -> None:
    """Where mixing weights do not sum to one, a removal changes the scale of nodes, and its record has the measured distance."""
    search = Search(strategy(FirstOrder(relaxation=IndependentSigmoids()), plan=plan))
    inputs, network, removals = search.data.validation.batch(torch.arange(search.data.validation.size))[0], search.network, 0
    for record in search:
        if isinstance(record, Changed) and record.change == "remove":
            with torch.no_grad():
                before, after = (each.eval()(inputs, each.mixing()) for each in (network, search.network))
            totals = [float(weights.detach().sum()) for weights in network.mixing().values()]
            assert all(abs(total - 1) > 0.1 for total in totals)
            assert record.distance == float((after - before).abs().max() / before.abs().max()) > 0
            removals += 1
        network = search.network
    assert removals


@pytest.mark.parametrize("relaxation", SAMPLED, ids=lambda part: part.name)
def test_finite_differences_share_the_sample(relaxation: type[Relaxation]) -> None:
    """With a small step the finite difference equals the exact product, although the mixing weights are sampled."""
    trained = TrainedNetwork.of(strategy(FirstOrder(relaxation=relaxation())), 2)
    problem = trained.next_problem()
    exact = ExactSecondOrder().gradient(problem)
    difference = SecondOrder(step=1e-4).gradient(problem)

    scale = max(float(g.abs().max()) for g in exact.values())
    for name, gradient in exact.items():
        assert float((difference[name] - gradient).abs().max()) < 1e-6 * scale, name


def test_the_progress_grows_with_each_update() -> None:
    """It is the share of the phase's updates, by examples, that are done, and begins at 0 in each phase."""
    seen: list[float] = []

    class Watching(Softmax):
        def mixing(self, sites: Any, alphas: Any, draw: Any) -> Mixing:
            seen.extend([] if draw is None or seen[-1:] == [draw.progress] else [draw.progress])
            return super().mixing(sites, alphas, draw)

    again = Repeat(steps=(Train(phase="search", parameters=("weights", "alphas"), epochs=2),), until="times", times=2)
    plan = (again, Change(derive=True), Train(phase="tune", epochs=1, competes=True))
    search = Search(strategy(FirstOrder(relaxation=Watching()), plan=plan, criterion=Scripted(epochs=9)))
    search.run()

    size = search.data.train.size
    once = [(epoch + samples / size) / 2 for epoch in (0, 1) for samples in range(0, size, 10)]
    assert seen == once * 2
    assert once[0] == 0
    assert len(once) == 6


def test_unsampled_candidates_are_not_computed() -> None:
    """In a training step each site calls the module of one candidate; in validation it calls all of them."""
    trained = TrainedNetwork.of(strategy(FirstOrder(relaxation=HardGumbel())), 2)
    network, called = trained.network, dict[str, set[str]]()
    problem, network.fast = trained.next_problem(), False
    for address, site in network.sites.items():
        for _, mixed in network.mixed_operations(address):
            for candidate in site.candidates:
                mixed.candidates[str(candidate.id)].register_forward_pre_hook(
                    lambda *_, a=address, c=str(candidate.id): called.setdefault(a, set()).add(c)
                )
    problem.train(problem.weights, problem.alphas)
    assert {a: len(c) for a, c in called.items()} == dict.fromkeys(network.sites, 1)

    called.clear()
    network(trained.inputs(), network.mixing())
    assert {a: len(c) for a, c in called.items()} == {a: len(s.candidates) for a, s in network.sites.items()}


def test_a_phase_without_a_length_is_refused() -> None:
    """A relaxation that needs the progress of a phase is refused before training, and the message says what to write."""
    with pytest.raises(
        StrategyError,
        match=r"relaxation 'concrete' needs the progress of a phase, and the phase 'search' has no length.*that step .*--epochs",
    ):
        Search(strategy(FirstOrder(relaxation=Concrete()), optimiser=Optimiser()))


def test_weights_alone_need_a_length_as_long_as_sites_are_undecided() -> None:
    """A phase that trains the weights of a supernet samples as well: it is refused without a length, and one of an architecture is not."""
    search, tune = Train(phase="warmup"), Train(phase="tune", competes=True)
    parts = {"architect": FirstOrder(relaxation=HardGumbel()), "optimiser": Optimiser()}
    with pytest.raises(
        StrategyError, match="relaxation 'hard_gumbel' needs the progress of a phase, and the phase 'warmup' has no length"
    ):
        Search(strategy(plan=(search, Change(derive=True), tune, Restore()), **parts))

    assert (
        Search(strategy(plan=(attrs.evolve(search, epochs=1), Change(derive=True), tune, Restore()), **parts)).state.phase
        == "warmup"
    )


@pytest.mark.parametrize("part", [HardGumbel, Concrete, AnnealedSoftmax])
def test_temperatures_fall(part: type[HardGumbel | Concrete | AnnealedSoftmax]) -> None:
    """A temperature that would rise is refused, and one that stays is not."""
    with pytest.raises(ValueError, match=r"initial is 1.0 and final 2.0; the temperature falls"):
        part(initial=1.0, final=2.0)
    assert part(initial=1.0, final=1.0)


def test_strategies_are_read_back() -> None:
    """The relaxation and its options are part of the strategy file."""
    given = strategy(FirstOrder(relaxation=HardGumbel(final=0.5)))

    assert 'name = "hard_gumbel"' in given.to_toml()
    assert Strategy.from_toml(given.to_toml(), PLUGINS) == given
    assert attrs.evolve(given.architect, relaxation=HardGumbel()) != given.architect


def edges(labels: Any, more: int = 0, name: str = "edges") -> dict[str, Any]:
    """Return a relaxation's members: a further parameter with an entry for each site, and a softmax for each site."""
    return {
        "parameters": lambda self, sites: {name: (torch.zeros(len(sites) + more), (labels(sites),))},
        "mixing": lambda self, sites, alphas, draw: Mixing({a: alphas[a].softmax(0) for a in sites}),
    }


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "shape": (
        {"mixing": lambda self, sites, alphas, draw: Mixing({a: alphas[a].softmax(0)[None] for a in sites})},
        r"mixing\(\) returned the shape \(1, 5\) for layer0/n0; it must be \(5,\)",
    ),
    "a site left out": (
        {"mixing": lambda self, sites, alphas, draw: Mixing({a: alphas[a].softmax(0) for a in [*sites][1:]})},
        r"mixing\(\) returned nothing for layer0/n0",
    ),
    "a mapping": (
        {"mixing": lambda self, sites, alphas, draw: {a: alphas[a].softmax(0) for a in sites}},
        r"mixing\(\) returned dict; it must return nasframe.Mixing",
    ),
    "too few labels": (
        edges(lambda sites: produces(*sites), more=1),
        r"parameters\(\) returned the labels \('layer0/n0', 'layer0/n1'\) for an axis of 'edges' of length 3",
    ),
    "a dot": (
        edges(lambda sites: produces(*sites), name="edges.n0"),
        r"parameters\(\) returned the name 'edges.n0', which has a dot",
    ),
    "an address": (
        edges(lambda sites: produces(*sites), name="layer0/n0"),
        r"parameters\(\) returned the name 'layer0/n0', which is the address of a site",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_relaxation_returns_is_checked(fault: str) -> None:
    """A relaxation that returns something of another form is refused, and the message says which form."""
    members, message = FAULTS[fault]
    relaxation = type("Faulty", (Softmax,), members)()
    with pytest.raises(StructureError, match=rf"relaxation 'softmax': {message}"):
        mixing_weights(Search(toy_strategy(architect=FirstOrder(relaxation=relaxation), nodes=2)).network)


@pytest.mark.parametrize(
    ("members", "law", "message"),
    [
        (edges(lambda sites: produces(*range(len(sites)))), "relaxation.follows", "labels must say what each entry belongs to"),
        (edges(lambda sites: None), "relaxation.follows", "no labels: return an Axis for it"),
        (
            {"mixing": lambda self, sites, alphas, draw: Mixing({a: alphas[a].softmax(0) ** draw.progress for a in sites})},
            "relaxation.draws",
            "write `needs_progress: ClassVar\\[bool\\] = True` in its class",
        ),
    ],
    ids=["by position", "unlabelled", "progress"],
)
def test_a_check_says_what_to_write(members: dict[str, Any], law: str, message: str) -> None:
    """Labels by position, missing labels and an undeclared use of the progress are found, and the report says how to mend them."""
    if law == "relaxation.draws":
        mix = members["mixing"]
        members = {"mixing": lambda self, sites, alphas, draw: (mix if draw else Softmax.mixing)(self, sites, alphas, draw)}
    part = attrs.frozen(type("Faulty", (Softmax,), members | {"name": "faulty"}))
    report = check(part, profile=attrs.evolve(QUICK, cases=3, least=1, shrinking=0.0), laws=[law])

    assert re.search(message, report.text()), report.text()
