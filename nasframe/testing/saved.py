"""The whole state of a run in memory, as a run folder keeps it on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from nasframe import Data, Strategy
from nasframe.plugins import Plugins
from nasframe.records import JOURNALS, from_json, to_json
from nasframe.search.device import loaded
from nasframe.search.state import State, dump, load, trial_weights


def saved(state: State) -> tuple[str, dict[str, Tensor]]:
    """Return a state as text and tensors; the text contains the journals, the tensors the evidence and the weights of trials."""
    # `dump` leaves out what a run folder writes once and never changes; here it is part of the state, so that one comparison
    # covers all.
    text, tensors = dump(state)
    journals = {name: [to_json(record) for record in getattr(state, name)] for name in JOURNALS}
    evidence = {f"evidence/{name}": tensor.clone() for name, tensor in state.evidence.items()}
    weights = {f"trials/{digest}/{name}": t.clone() for digest, ts in trial_weights(state).items() for name, t in ts.items()}
    return json.dumps({"state": text, "journals": journals}), tensors | evidence | weights


def revived(text: str, tensors: Mapping[str, Tensor], strategy: Strategy, plugins: Plugins, data: Data | None = None) -> State:
    """Return the state that `saved` wrote.

    Args:
        text, tensors: what `saved` returned.
        strategy: the strategy of the run.
        plugins: where the parts of its structures are found.
        data: the data of its task, if they are loaded already.
    """
    values = json.loads(text)
    journals = {name: [from_json(line) for line in lines] for name, lines in values["journals"].items()}
    evidence = {name.removeprefix("evidence/"): t for name, t in tensors.items() if name.startswith("evidence/")}
    weights: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        if path.startswith("trials/"):
            _, digest, name = path.split("/", 2)
            weights.setdefault(digest, {})[name] = tensor
    data = data or loaded(strategy)
    return load(values["state"], tensors, journals, evidence, weights, strategy=strategy, data=data, plugins=plugins)
