"""A cell whose output is a concatenation: types, instances and labels are right.

Its growth is exact without gate, noise or override, since whatever takes a new node in starts at zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import convolutional
import pytest
import torch
import toy
from convolutional import Blobs, Convolution, Convolutional, Head, Preprocess, Skip, Zero
from hypothesis import given, settings
from hypothesis import strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from standins import Scripted
from test_resume import digest
from torch import Tensor

from nasframe import (
    Change,
    ChangeError,
    Claim,
    Network,
    Optimiser,
    Plugins,
    Search,
    Seed,
    Site,
    Strategy,
    Structure,
    Take,
    apply,
    distance,
    produces,
    removal,
    tensors,
)
from nasframe.plugins import Plugin
from nasframe.search.events import Changed, Finished
from nasframe.search.state import State, dump, load, optimisers, rebuilt, snapshot
from nasframe.testing import laws
from nasframe.testing.aged import Aged
from nasframe.testing.fakes import Endless
from nasframe.testing.strategies import removals

PLUGINS = Plugins((*toy.PLUGINS.found, Plugin("convolutional", "tests", "0", (Blobs, Convolutional, Convolution, Skip, Zero))))
STRATEGY = Strategy(
    task=Blobs(),
    backbone=Convolutional(dropout=0.3),
    architect=FirstOrder(Optimiser(learning_rate=0.01)),
    criterion=Scripted(),
    pruner=Strongest(),
    growth=(NodeGrowth(),),
    batch=8,
    optimiser=Optimiser(learning_rate=0.01),
    dtype="float64",
)
TYPES = ("normal", "reduction")

few = settings(max_examples=6)


def trained(nodes: int = 1, **options: Any) -> Aged:
    """A network in the midst of its second epoch, without dropout: the mask would follow the number of units."""
    return Aged.of(attrs.evolve(STRATEGY, backbone=Convolutional(**options), nodes=nodes, criterion=Endless()), 5)


_trained_once = functools.cache(trained)


@st.composite
def supernets(draw: st.DrawFn) -> Aged:
    """Several instances, at least one of each type."""
    more = draw(st.sampled_from([("normal",), ("reduction",), TYPES]))  # a third reduction would leave a single pixel
    plan = draw(st.permutations([*TYPES, *more]))
    return _trained_once(draw(st.integers(1, 2)), channels=draw(st.integers(2, 3)), plan=tuple(plan)).copy()


@st.composite
def parents(draw: st.DrawFn, cut: bool = True) -> Aged:
    """A supernet, or an architecture that has trained on; zeros may cut off whole cells of it."""
    supernet = draw(supernets())
    if draw(st.booleans()):
        return supernet
    gone = draw(removals(supernet.network.structure, decide=True))
    if not cut:
        gone = {a: {c.id for c in s.candidates} - {draw(_operation(s))} for a, s in supernet.network.structure.sites()}
    return supernet.after(removal(supernet.network, gone, Seed(("pruned",)))).train(2)


def _operation(site: Site) -> st.SearchStrategy[int]:
    return st.sampled_from([c.id for c in site.candidates if not isinstance(c.operation, Zero)])


def undecided(network: Network) -> Iterator[tuple[str, Site]]:
    """The sites that have logits."""
    return ((a, s) for a, s in network.structure.sites() if not s.decided)


def growth(network: Network, type: str, form: str = "noise") -> Change:
    """A node more for each instance of a type."""
    return NodeGrowth(form=form).change(network, {"cell": type}, {}, Seed(("grown",)))


def grown(parent: Aged, type: str) -> Aged:
    """The search after that growth."""
    return parent.after(growth(parent.network, type))


def corner(old: Tensor) -> tuple[slice, ...]:
    """Where a parent's entries stand in the child's tensor, without asking for labels: a new node is concatenated last."""
    return tuple(slice(length) for length in old.shape)


# ----------------------------------------------------------------------------------------------------------- growth


@few
@given(parents(), st.sampled_from(TYPES), st.sampled_from(["noise", "gate"]))
def test_growth_behind_a_concatenation_is_exact(parent: Aged, type: str, form: str) -> None:
    """Supernet or architecture, in both modes and in either form, with neither gate nor override."""
    change = laws.blind(parent, lambda network: growth(network, type, form))
    child = laws.transaction(parent, lambda network: growth(network, type, form))
    laws.exact(parent, child)
    assert change.claim == Claim.exact()
    assert not change.overrides
    assert not list(child.network.gates())


@few
@given(parents(), st.sampled_from(TYPES))
def test_values_and_moments_keep_their_places(parent: Aged, type: str) -> None:
    """Every old entry has, to the bit, its value, its moments and its step count; new columns are zero, and move as usual."""
    for name, count in parent.network.named_buffers():
        if name.endswith("num_batches_tracked"):
            count.fill_(2**24 + 1)  # the first whole number that float32 does not have
    child = grown(parent, type)
    before, after = dump(parent.state)[1], dump(child.state)[1]
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name][corner(tensor)]), name
        if tensor.shape != after[name].shape:
            fresh = tensor.mean() if "exp_avg_sq" in name else 0.0
            assert (after[name][:, tensor.shape[1] :] == fresh).all(), name


def moved(parent: Aged, child: Aged) -> dict[str, float]:
    """How differently the next step of the search leaves each old tensor, relative to its scale."""
    before, after = (snapshot(aged.copy().train(1).network) for aged in (parent, child))
    return {n: float((after[n][corner(t)] - t).abs().max() / t.abs().max()) for n, t in before.items()}


@few
@given(parents(), st.sampled_from(TYPES))
def test_the_next_step_of_every_old_entry_is_the_parents(parent: Aged, type: str) -> None:
    """Weights and their old columns, logits and running statistics go on as if nothing had happened, also where pruning
    had cut them off and the new node takes them in again.
    """
    differences = moved(parent, grown(parent, type))
    if parent.network.structure.decided:  # the new logits' step shows the network another batch
        differences = {n: d for n, d in differences.items() if "running" not in n and "tracked" not in n}
    assert max(differences.values()) <= 1e-9


def test_the_next_step_is_another_with_fresh_optimisers() -> None:
    """The law above notices moments that were not carried."""
    parent = trained()
    child = grown(parent, "normal")
    child.state.optimisers = optimisers(child.strategy, child.network, 0)
    assert max(moved(parent, child).values()) > 1e-3


@few
@given(parents(cut=False), st.sampled_from(TYPES))
def test_every_new_parameter_lives_within_three_steps(parent: Aged, type: str) -> None:
    """So do the new columns of every consumer, through which alone the new nodes can be reached."""
    child = grown(parent, type)
    laws.alive(parent, child, every=False)  # behind a ReLU an entry may rest
    moments = {n.split("/", 2)[2]: t for n, t in dump(child.copy().train(3).state)[1].items() if "/exp_avg/" in n}
    new = dict(child.network.named_parameters())
    for name, old in parent.network.named_parameters():
        if old.shape != new[name].shape:
            assert (moments[name][:, old.shape[1] :] != 0).any(), name


@pytest.mark.parametrize("type", TYPES)
def test_a_search_goes_on_where_nothing_takes_a_new_node_in(type: str) -> None:
    """Logits that no output depends on have the gradient zero, not none."""
    parent = trained()
    sites = dict(parent.network.structure.sites())
    gone = {a: {c.id for c in s.candidates if not isinstance(c.operation, Zero)} for a, s in sites.items()}
    child = grown(parent.after(removal(parent.network, gone, Seed(("cut",)))), type)
    assert child.train(2).state.updates == parent.state.updates + 2


@few
@given(parents(), st.sampled_from(TYPES))
def test_growth_reaches_every_instance_of_its_type_and_no_other(parent: Aged, type: str) -> None:
    """Each instance of the type has the new edges; new columns are in what takes such an instance in, and nowhere else."""
    child = grown(parent, type)
    plan, old, new = parent.strategy.backbone.plan, tensors(parent.network), tensors(child.network)
    instances = [i for i, other in enumerate(plan) if other == type]
    takes = {
        f"cells.{j}.{state}.1.weight" for i in instances for j, state in ((i + 1, "last"), (i + 2, "before")) if j < len(plan)
    }
    takes |= {"head.weight"} if plan[-1] == type else set()
    assert {n for n in old if old[n].shape != new[n].shape} == {f"body.{name}" for name in takes}

    before = dict(parent.network.structure.sites())
    edges = [address for address, _ in child.network.structure.sites() if address not in before]
    assert edges == [f"{type}/{state}>n{len(states) - 2}" for states in [_states(parent, type)] for state in states]
    for address in edges:
        holders = {name.rpartition(".")[0] for name, _ in child.network.mixtures(address)}
        assert holders == {f"body.cells.{i}.edges" for i in instances}


def _states(aged: Aged, type: str) -> list[str]:
    return ["i0", "i1", *(node.id for node in aged.network.structure.cell(type).nodes)]


def own_weights(network: Network) -> bool:
    """Whether every instance of every type has tensors of its own for each of its sites."""
    plan = network.structure.backbone.plan
    for address, _ in network.structure.sites():
        mixtures = [mixture for _, mixture in network.mixtures(address)]
        first = [next(mixture.parameters()).flatten()[:9] for mixture in mixtures]
        if len(mixtures) != plan.count(address.split("/")[0]) or len({tuple(t.tolist()) for t in first}) != len(first):
            return False
    return len({t.data_ptr() for t in tensors(network).values()}) == len(tensors(network))


def test_instances_own_their_weights_and_share_their_logits() -> None:
    """Instances are drawn apart, also by a growth; a site has one vector of logits however many instances there are."""
    network = grown(trained(), "normal").network
    assert own_weights(network)
    assert set(network.logits) == {address for address, _ in undecided(network)}


def test_shared_weights_are_noticed() -> None:
    """The law above notices two instances that are one."""
    network = trained(plan=("normal", "normal", "reduction")).network
    assert own_weights(network)
    network.body.cells[1].edges = network.body.cells[0].edges
    assert not own_weights(network)


# ---------------------------------------------------------------------------------------------------------- mutants


def transact(parent: Aged, change: Change) -> None:
    """What the search does with a change that claims to be exact."""
    apply(parent.network, change, STRATEGY.architect.logits)
    weights = parent.strategy.architect.weights
    distance(lambda n: n(parent.inputs(), weights(dict(n.logits))), parent.network, change.child, Claim.exact())


@pytest.mark.parametrize("type", TYPES)
def test_what_the_mutants_vary_is_accepted(type: str) -> None:
    """Without the faults below the change passes."""
    parent = trained()
    transact(parent, growth(parent.network, type))


WRONG = {
    "channels first": lambda cell, channels: tuple((n.id, c) for c in range(channels) for n in cell.nodes),
    "newest first": lambda cell, channels: tuple((n.id, c) for n in cell.nodes[::-1] for c in range(channels)),
    "twice the same": lambda cell, channels: tuple(c for _ in cell.nodes for c in range(channels)),
    "new names": lambda cell, channels: tuple((n.id, c, len(cell.nodes)) for n in cell.nodes for c in range(channels)),
}


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("units", WRONG.values(), ids=WRONG)
def test_wrong_labels_are_refused(units: object, type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that do not follow the concatenation move the output, and the change does not happen."""
    monkeypatch.setattr(convolutional, "units", units)
    parent = trained()
    with pytest.raises(ChangeError):
        transact(parent, growth(parent.network, type))


def test_labels_that_come_twice_are_refused_whatever_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that cannot be told apart are not guessed, not even where the change may be lossy."""
    monkeypatch.setattr(convolutional, "units", WRONG["twice the same"])
    parent = trained(nodes=2)
    with pytest.raises(ChangeError, match=r"tells 8 units for it, 4 of them different"):
        apply(parent.network, growth(parent.network, "reduction"), STRATEGY.architect.logits)


@pytest.mark.parametrize("consumer", [Preprocess, Head])
def test_dropped_labels_are_refused(consumer: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shape without labels cannot be filled, and the message says what to write."""
    monkeypatch.delattr(consumer, "units")
    parent = trained()
    with pytest.raises(ChangeError, match=r"give it a method units\(\)"):
        transact(parent, growth(parent.network, "reduction"))


def test_new_columns_that_do_not_start_at_zero_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An axis that is said to produce its units keeps the newcomers' own initialisation, which moves the output."""
    monkeypatch.setattr(convolutional, "consumes", produces)
    parent = trained()
    with pytest.raises(ChangeError, match="the output moves by"):
        transact(parent, growth(parent.network, "reduction"))


def test_swapped_instances_are_refused() -> None:
    """Two instances of a type compute different things: filled from each other, they move the output."""
    parent = trained(plan=("reduction", "normal", "normal"))
    swap = str.maketrans("12", "21")
    names = [n for n in tensors(parent.network) if n.startswith(("body.cells.1.edges.", "body.cells.2.edges."))]
    overrides = {n: Take(n[:12].translate(swap) + n[12:]) for n in names}
    with pytest.raises(ChangeError, match="the output moves by"):
        transact(parent, attrs.evolve(growth(parent.network, "reduction"), overrides=overrides))


# ---------------------------------------------------------------------------------------------------------- pruning


@few
@given(supernets(), st.data())
def test_an_architecture_is_the_supernet_at_one_hot_weights(parent: Aged, data: st.DataObject) -> None:
    """Keeping any one candidate of each site computes what weight one for it computes, in both modes."""
    gone = data.draw(removals(parent.network.structure, decide=True))
    child = laws.masked(parent, gone)
    one_hot = {
        a: torch.tensor([c.id not in gone[a] for c in s.candidates], dtype=torch.float64) for a, s in undecided(parent.network)
    }
    assert child.network.structure.decided
    assert not list(child.network.logits)
    for training in (False, True):
        torch.testing.assert_close(child.outputs(training), parent.outputs(training, one_hot), rtol=1e-12, atol=1e-12)


@few
@given(parents(), st.sampled_from(TYPES))
def test_a_structure_goes_through_json_and_rebuilds_its_network(parent: Aged, type: str) -> None:
    """Supernets, architectures and what grows from them are equal after the round trip, and compute the same."""
    child = grown(parent, type)
    structure = child.network.structure
    again = Structure.from_json(structure.to_json(), PLUGINS.make)
    assert (again, again.digest()) == (structure, structure.digest())
    network = rebuilt(child.strategy, again, snapshot(child.network))
    laws.exact(child, attrs.evolve(child, state=attrs.evolve(child.state, network=network)), allowed=0.0)


@few
@given(supernets(), st.integers(0, 999))
def test_deriving_keeps_two_edges_of_each_node(parent: Aged, seed: int) -> None:
    """The two with the strongest operation stay, each with that operation; zero stands at the others."""
    structure, generator = parent.network.structure, Seed((seed,)).generator()
    logits = {a: torch.randn(len(s.candidates), generator=generator) for a, s in structure.sites()}
    weights = parent.strategy.architect.weights(logits)
    child = parent.after(removal(parent.network, structure.backbone.derive(structure, weights), Seed(("derived",))))
    for type, cell in child.network.structure.cells:
        for node in cell.nodes:
            edges = {f"{type}/{s.id}": s.candidates[0] for s in cell.sites if s.node == node.id}
            strengths = {a: _strengths(structure, a, weights[a]) for a in edges}
            strongest = sorted(edges, key=lambda a: -max(strengths[a].values()))[:2]
            assert {a for a in edges if not isinstance(edges[a].operation, Zero)} == set(strongest)
            assert all(edges[a].id == max(strengths[a], key=strengths[a].__getitem__) for a in strongest)


def _strengths(structure: Structure, address: str, weights: Tensor) -> Mapping[int, float]:
    candidates = dict(structure.sites())[address].candidates
    return {c.id: w for c, w in zip(candidates, weights.tolist(), strict=True) if not isinstance(c.operation, Zero)}


# ------------------------------------------------------------------------------------------------- a search, resumed

#: pruning at the end leaves something to derive
SEARCHES = {
    "stage": attrs.evolve(STRATEGY, prune="stage"),
    "end": attrs.evolve(STRATEGY, prune="end", pruner=Strongest(keep=2)),
}


@pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)
def test_a_search_grows_both_types_and_ends_in_an_architecture(strategy: Strategy) -> None:
    """Each growth is exact when it happens; what is found is decided, and called with images alone."""
    search = Search(strategy)
    events = list(search)
    growths = [e.record for e in events if isinstance(e, Changed) and e.record["change"] == "node"]
    assert [r["request"]["cell"] for r in growths] == ["normal", "reduction"]
    assert all(r["claim"] == {"kind": "exact"} and r["distance"] < 1e-13 for r in growths)
    assert isinstance(events[-1], Finished)
    assert search.network.structure.decided
    assert search.network.count()["combination"] == search.network.count()["gates"] == 0
    images, _ = search.data.test.batch(torch.arange(5))
    assert search.network.eval()(images).shape == (5, 3)


def test_a_longer_search_learns() -> None:
    """The network that is found tells blobs apart better than chance does."""
    search = Search(attrs.evolve(STRATEGY, criterion=Scripted(epochs=15, growths=1), backbone=Convolutional(4)))
    network = search.run().eval()
    assert search.data.mean_loss(network, search.data.test) < 0.8 * torch.tensor(3.0).log()


@pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)
def test_a_strangers_strategy_goes_through_toml(strategy: Strategy) -> None:
    """A plan of types and operations of one input are written and read like anything shipped."""
    assert Strategy.from_toml(strategy.to_toml(), PLUGINS) == strategy


def resumed(strategy: Strategy, state: State, seed: int) -> Search:
    """A search from what was written of a state, while the global generator stands somewhere else."""
    torch.manual_seed(seed)
    return Search(strategy, state=load(*dump(state), strategy, PLUGINS))


@pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)
def test_same_bytes_from_every_fifth_event(strategy: Strategy) -> None:
    """With dropout, BatchNorm and two types that grow, a search resumed at an event ends in the same bytes."""
    search = Search(strategy)
    dumps = [dump(search.state) for _ in search]
    expected = digest(search.state)
    for number in range(0, len(dumps), 5):
        torch.manual_seed(number)
        again = Search(strategy, state=load(*dumps[number], strategy, PLUGINS))
        again.run()
        assert expected == digest(again.state), f"resumed at event {number}"


@pytest.mark.parametrize("strategy", SEARCHES.values(), ids=SEARCHES)
def test_same_bytes_through_a_kill_at_every_event(strategy: Strategy) -> None:
    """A process for each event: together they end in the same bytes."""
    search = Search(strategy)
    search.run()
    killed, kills = Search(strategy), 0
    while killed.state.phase != "done":
        next(iter(killed))
        kills += 1
        killed = resumed(strategy, killed.state, kills)
    assert kills > 20
    assert digest(killed.state) == digest(search.state)


def test_a_search_without_its_running_statistics_ends_in_other_bytes() -> None:
    """The laws above notice a buffer that is not in the state."""
    strategy = SEARCHES["stage"]
    search = Search(strategy)
    dumps = [dump(search.state) for _ in search]
    text, flat = dumps[4]
    defaults = {n: torch.zeros_like(t) if n.endswith("running_mean") else t for n, t in flat.items()}
    again = Search(strategy, state=load(text, defaults, strategy, PLUGINS))
    again.run()
    assert digest(again.state) != digest(search.state)
