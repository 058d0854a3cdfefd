"""The trials of the protocol, which run in processes: a training from scratch, and a search."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from nasframe import Data, Network, Search, Seed, Strategy, Structure
from nasframe.errors import DataError, StructureError
from nasframe.records import Changed, EpochEnded
from nasframe.search.evaluate import Bench, Reference, Trial, fit, module_of, predicting
from nasframe_papers.trials import Values


def train_trial(trial: Values) -> Values:
    """Train a cell or a reference from scratch, read the test split once, and return the result as plain values.

    `valid` is None if the training diverged. `curve` has the validation loss after each epoch, and `test` the loss of each test window.
    """
    strategy = Strategy.from_dict(trial["values"])
    data = loaded(strategy)
    if "picks" in trial:
        space = strategy.backbone.space(strategy.backbone.initial(data.sizes, strategy.nodes))
        of: Any = space.architecture(trial["picks"])
    else:
        of = Reference(trial["model"], trial["parameters"])
    # The same seed gives all models the same batches, so that differences between models can be taken seed by seed.
    seed, start = Seed((trial["seed"], "from scratch")), time.process_time()
    network = module_of(Trial(of, trial["updates"], seed), strategy, data)
    found = fit(network, strategy, data, updates=trial["updates"], seed=seed)
    seconds = time.process_time() - start
    return {
        "valid": found.valid,
        "curve": list(found.curve),
        "updates": found.updates,
        "CPU seconds": seconds,
        **attrs.asdict(predicting(network, data)),
        "test": test_losses(network, data),
    }


def loaded(strategy: Strategy) -> Data:
    """Return the data of a strategy's task."""
    return strategy.task.load(torch.device(strategy.device), strategy.torch_dtype)


def test_losses(network: nn.Module, data: Data) -> list[float]:
    """Return the loss of each window of the test split.

    Raises:
        DataError: if the task does not give the losses of single examples.
    """
    if data.losses is None:
        raise DataError("the task gives no loss of single examples; add `losses` to the `Data` that it loads")
    with torch.no_grad():
        network.eval()
        return torch.cat([data.losses(network(inputs), targets) for inputs, targets in data.test.batches()]).tolist()


def search_trial(trial: Values) -> Values:
    """Run a search and return the picks of its cell, its cost, and how the supernet ranks candidates.

    The validation losses around the pruning are those right before the first removal, right after the last one, and of the
    network that the search hands over.
    """
    search = Search(attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"]))
    # all sites have the operations of the first one, also those of nodes that a search adds
    operations = [candidate.operation for candidate in next(search.space.supernet.sites())[1].candidates]
    whole = [len(operations)] * len(trial["cells"][0])
    supernet, start, aside = None, time.process_time(), 0.0
    for record in search:
        ended = isinstance(record, EpochEnded) and record.phase == "search" and record.decision is not None
        space = search.strategy.backbone.space(search.network.structure) if ended else None
        # a supernet that lost candidates while it was trained, or lacks nodes, ranks no cells that have them
        if supernet is None and space is not None and [choice.options for choice in space.decisions] == whole:
            # what is measured beside the search does not count as its time
            paused = time.process_time()
            supernet = measured(search, [space.architecture(picks) for picks in trial["cells"]])
            aside = time.process_time() - paused
    seconds = time.process_time() - start - aside
    removals = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "remove"]
    best = search.state.best
    return {
        "picks": [operations.index(site.candidates[0].operation) for _, site in search.network.structure.sites()],
        "updates": search.state.updates,
        "CPU seconds": seconds,
        "supernet": supernet,
        "before": removals[0].valid_before if removals else None,
        "after": removals[-1].valid_after if removals else None,
        "tuned": best.valid if removals and best is not None else None,
    }


def score_trial(trial: Values) -> Values:
    """Score untrained cells by the strategy's evaluator, and return the scores as losses, of which the least is best.

    The loss of a cell that has no score is None. `refused` has the reasons, and None for each cell with a score.
    """
    strategy = Strategy.from_dict(trial["values"])
    data = loaded(strategy)
    space = strategy.backbone.space(strategy.backbone.initial(data.sizes, strategy.nodes))
    bench, seed, start = Bench(strategy, space, lambda: data), Seed((trial["seed"], "score")), time.process_time()
    losses: list[float | None] = []
    refused: list[str | None] = []
    for picks in trial["cells"]:
        try:
            loss = strategy.evaluator.evaluate(space.architecture(picks), 0, seed, None, bench).valid
            reason = "the score is not finite" if loss is None else None
        except StructureError as error:
            loss, reason = None, str(error)
        losses.append(loss)
        refused.append(reason)
    return {"losses": losses, "refused": refused, "CPU seconds": time.process_time() - start}


def measured(search: Search, architectures: Sequence[Structure]) -> Values:
    """Return the mixing weights and validation losses by which a trained supernet ranks its candidates and architectures.

    `mixing` and `removal` have a list for each site, with the mixing weight of each candidate, and the loss without it while the others
    keep their mixing weights. `inherited` has the loss of each architecture with the weights of the supernet.
    """
    network, data = search.network, search.data
    with torch.no_grad():
        mixing = network.mixing()
    training = network.training
    network.eval()

    def loss(changed: Mapping[str, Tensor]) -> float:
        return data.mean_loss(lambda inputs: network(inputs, {**mixing, **changed}), data.validation)

    found = {
        "sites": [*mixing],
        "mixing": [weights.tolist() for weights in network.ranking().values()],
        "removal": [
            [loss({address: row}) for row in weights.repeat(len(weights), 1).fill_diagonal_(0.0)]
            for address, weights in mixing.items()
        ],
        "inherited": [loss(alone(network, architecture)) for architecture in architectures],
    }
    network.train(training)
    return found


def alone(network: Network, architecture: Structure) -> Mapping[str, Tensor]:
    """Return mixing weights that select an architecture of a supernet: 1 for its candidates, and 0 for other candidates."""
    kept = {address: site.candidates[0].id for address, site in architecture.sites()}
    found: dict[str, Tensor] = {}
    for address, site in network.sites.items():
        places = [candidate.id for candidate in site.candidates]
        found[address] = one_hot(torch.tensor(places.index(kept[address])), len(places)).to(network.alphas[address])
    return found
