"""Architectures are ranked by their loss with the weights of a supernet in which each update trained one path."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from asking import run
from convolutional import trained
from nasframe_bilevel import FirstOrder
from nasframe_relaxations import HardGumbel
from nasframe_sampling import RandomSearch, SinglePath
from nasframe_sampling.inherited import _recompute_statistics
from torch import Tensor, nn
from toy import toy_strategy

from nasframe import Search
from nasframe.change.edit import remove_candidates
from nasframe.network.mixing import active_of
from nasframe.network.network import Network
from nasframe.records import EpochEnded, TrialEnded
from nasframe.testing.fakes import Scripted


def test_the_ranking_is_that_of_the_supernet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of the supernet computes one path, drawn uniformly; a trial has the loss of the supernet along the chosen path."""
    plan = SinglePath(epochs=30, architect=RandomSearch(trials=6, updates=1)).steps()
    architect = FirstOrder(relaxation=HardGumbel())
    search = Search(toy_strategy(plan=plan, architect=architect, nodes=2, growth=(), criterion=Scripted(epochs=30)))
    paths: list[list[tuple[int, ...]]] = []
    supernets: list[Network] = []
    honest = Network.forward

    def forward(self: Network, inputs: Tensor, mixing: Any = None) -> Any:
        if self.training and len(self.sites) == 2 and mixing is not None:
            paths.append([*active_of(mixing).values()])
        return honest(self, inputs, mixing)

    monkeypatch.setattr(Network, "forward", forward)

    def keep(record: Any) -> None:
        if isinstance(record, EpochEnded) and record.phase == "search":
            supernets.append(copy.deepcopy(search.network))

    records = run(search, each_record=keep)
    monkeypatch.undo()
    supernet, trials = supernets[-1].eval(), [record for record in records if isinstance(record, TrialEnded)]

    counts = Counter(path[0] for path in paths)
    assert {len(places) for path in paths for places in path} == {1}
    assert min(counts[(i,)] for i in range(5)) > len(paths) / 10
    assert all(
        torch.equal(one, other) for one, other in zip(supernets[0].alphas.values(), supernet.alphas.values(), strict=True)
    )
    assert len({trial.valid for trial in trials}) > 1
    for trial in trials:
        mixing = {
            address: torch.zeros(5, dtype=torch.float64).index_fill(0, torch.tensor(pick), 1.0)
            for address, pick in zip(supernet.sites, trial.picks, strict=True)
        }
        loss = search.data.mean_loss(lambda inputs, mixing=mixing: supernet(inputs, mixing), search.data.validation)
        assert trial.valid == pytest.approx(loss, rel=1e-9)


def test_statistics_are_those_of_the_architecture() -> None:
    """The running statistics of each normalisation are the mean and the variance of its inputs over the batches."""
    supernet = trained(channels=2, cells=1)
    structure, backbone = supernet.network.structure, supernet.network.backbone
    subject = supernet.after(remove_candidates(structure, backbone.derive(structure, supernet.mixing())))
    network = subject.network.eval()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.fast = False

    _recompute_statistics(network, subject.data.train, 2, size=8)

    assert len(seen) == 2
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    assert not any(module.training for module in network.modules())
