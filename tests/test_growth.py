"""The measurement of growth by nodes (docs/measurements/growth.py): it measures what it says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nasframe_growing import NodeGrowth
from standins import ToySeries
from toy import toy_strategy

from nasframe import Address, Optimiser
from nasframe.search.state import trainer
from nasframe.testing.fakes import Endless
from nasframe.testing.trained import TrainedNetwork

SPEC = importlib.util.spec_from_file_location("growth", Path(__file__).parents[1] / "docs" / "measurements" / "growth.py")
assert SPEC is not None
assert SPEC.loader is not None
growth = sys.modules["growth"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(growth)

#: settings of a run of seconds
SMALL: dict[str, Any] = {
    "SERIES": {"toy": (ToySeries(windows=20), 10, 1)},
    "CUTS": {"plain": growth.CUTS["plain"]},
    "HIDDEN": 3,
    "TUNINGS": 2,
    "BLOCK": 4,
    "SOON": (0, 1),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of a small run."""
    path = tmp_path_factory.mktemp("growth") / "results.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(growth, name, value)
        for _ in range(2):
            growth.main(["--seeds", "0", "--series", "toy", "--ways", "gate", "--results", str(path)])
    return growth.Results.read(path)


def test_what_was_measured_is_not_measured_again(results: Any) -> None:
    """A second run adds nothing to the file."""
    keys = [tuple(json.loads(line)["key"]) for line in results.path.read_text().splitlines()]
    assert keys == [(what, "toy", "gate", "0") for what in growth.WHAT]


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_without_a_node_behind_a_closed_gate_a_network_computes_the_same(node: str) -> None:
    """Removing a node whose gate is zero preserves the outputs, and removing one whose gate is open does not."""
    trained = TrainedNetwork.of(toy_strategy(growth=(NodeGrowth("gate"),), criterion=Endless()), 3)
    for _ in range(2):
        (proposal,) = trained.proposals(NodeGrowth("gate"))
        trained = trained.after(NodeGrowth("gate").edit(trained.network.structure, proposal.request, {}, growth.Seed((0,))))
    inputs, address = trained.inputs(), Address.of("layer0", node)
    network = trained.network.eval()
    less = growth.removed(network, address).eval()
    assert [a.id for a, _ in less.structure.nodes()] == [n for n in ("n0", "n1", "n2") if n != node]
    torch.testing.assert_close(less(inputs, less.mixing()), network(inputs, network.mixing()), rtol=0, atol=1e-12)
    (gate,) = (g for _, g in network.gates() if g.address == address)
    with torch.no_grad():
        gate.g.fill_(0.5)
    assert not torch.allclose(less(inputs, less.mixing()), network(inputs, network.mixing()))


def test_the_budgets_of_a_search_and_of_its_cell_are_equal(results: Any) -> None:
    """From scratch a cell gets as many updates as the search took, or as many FLOPs, which are more updates."""
    (found,), (equal,), (more,) = (results.of(what, "toy", "gate").values() for what in ("grown", "updates", "FLOPs"))
    assert equal["budget"] == found["cuts"]["plain"]["updates"] == 8
    assert more["budget"] > equal["budget"]


def test_an_update_of_a_search_counts_the_alphas_as_well() -> None:
    """An update that moves alphas counts more FLOPs than one of weights, and less than two: its gradient leaves out the weights."""
    trained = TrainedNetwork.of(toy_strategy(criterion=Endless()), 1)
    of = trainer(trained.strategy, trained.data)
    counts = [growth.update_flops(of, trained.state, search) for search in (False, True)]
    assert counts[0] < counts[1] < 2 * counts[0]


def test_policies_differ_in_the_moments_alone(results: Any) -> None:
    """Right after a growth all policies have the loss without growth, and after the phase all differ."""
    ((_, found),) = results.of("policies", "toy", "gate").items()
    losses = [found[policy] for policy in ("carried", *growth.OTHERS)]
    assert max(each["0"] for each in losses) - min(each["0"] for each in losses) < 1e-6
    assert len({each["end"] for each in losses}) == len(losses)


def test_a_warm_up_raises_the_learning_rate_from_a_state_that_is_new() -> None:
    """The rate of the k-th update is k / n of the full one up to the n-th, and the full one after that."""
    parameter = torch.nn.Parameter(torch.ones(1))
    warming = growth.Warming(learning_rate=0.1)
    optimiser, rates = warming.build([("w", parameter)]), []
    for _ in range(growth.WARMUP + 2):
        parameter.grad = torch.ones(1)
        warming.anneal(optimiser, 0)
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
    wanted = [0.1 * min(1.0, (k + 1) / growth.WARMUP) for k in range(growth.WARMUP + 2)]
    assert rates == pytest.approx(wanted)
    assert Optimiser(learning_rate=0.1).learning_rate == max(rates)
