"""The strategies that are measured, and the tasks, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasframe_papers.trials import Values

#: the tasks that need no file, by name
SHIPPED: Mapping[str, Values] = {
    "pedestrians": {"name": "forecasting", "series": "melbourne_pedestrians", "window": 24, "season": 24},
    "weather": {"name": "forecasting"},
}
#: The other tasks, by name, with their files, whose licences do not allow to distribute them with nasframe, and their options. The second
#: one forecasts 96 hours from 96, with the split of the field: 12, 4 and 4 months (Zeng et al. 2023, DLinear).
FILES: Mapping[str, tuple[str, Values]] = {
    "ETTh1": ("ETTh1.csv.gz", {"name": "forecasting", "window": 24, "season": 24}),
    "ETTh1-96": (
        "ETTh1.csv.gz",
        {"name": "forecasting", "window": 96, "season": 24, "horizon": 96, "split": [8640, 2880, 2880]},
    ),
}

#: The zero-cost scores: the options of the evaluator, and of the backbone. In cells of several units no two examples share a linear region,
#: so that all cells would have one score. TE-NAS counts regions in networks of one channel, and here they are counted in cells of one unit.
ZERO_COST: Mapping[str, tuple[Values, Values]] = {
    "synflow": ({"examples": 2}, {}),
    "naswot": ({"examples": 32}, {}),
    "ntk": ({"examples": 16}, {}),
    "regions": ({"examples": 1000}, {"hidden": 1}),
}

#: the strategy whose cell is compared with recurrent networks of the same size
RECOMMENDED = "finals"


def _alphas(rate: float, **options: Any) -> Values:
    return {"name": "first_order", "optimiser": {"learning_rate": rate}, **options}


def _relaxed(name: str) -> Values:
    return _alphas(1e-2, relaxation={"name": name})


def _halving(candidates: int, suggested: int = 0) -> Values:
    return {"name": "successive_halving", "candidates": candidates, "suggested": suggested, "updates": 50}


def _finals(candidates: int, suggested: int) -> Values:
    return {"architect": _alphas(1e-2), "plan": {"name": "finals", "architect": _halving(candidates, suggested)}}


def strategies(epochs: int, cells: int, updates: int, nodes: int) -> Mapping[str, Values]:
    """Return the values in which each strategy file differs from those that all share, by the name of the strategy.

    Random search is not among them: what it finds is computed from the random cells.

    Args:
        epochs: the epochs of a supernet.
        cells: the number of random cells.
        updates: the updates of a training from scratch.
        nodes: the number of nodes of a cell.
    """
    # The whole network is pruned at once, and tuned for as long as the supernet was trained.
    prune: list[dict[str, Any]] = [
        {"name": "train", "phase": "search", "parameters": ["weights", "alphas"], "epochs": epochs},
        {"name": "change", "prune": True, "derive": True},
        {"name": "train", "phase": "tune", "epochs": epochs, "competes": True},
        {"name": "restore"},
    ]
    # The supernet grows node by node, and all its phases together are as long as that of the others.
    stage = {**prune[0], "epochs": max(1, epochs // nodes)}
    grow = [stage, {"name": "change", "grow": True}] * (nodes - 1) + [stage, *prune[1:]]
    # a window that fits the few epochs; that of the paper is 5
    early = {"name": "any_of", "parts": [{"name": "curvature", "window": 2}, {"name": "epochs", "epochs": epochs}]}
    half, tuning = max(2, cells // 2), max(1, epochs // 5)
    evolution = {"name": "regularised_evolution", "population": 4, "sample": 2, "trials": 8, "updates": max(1, updates // 2)}
    architects = {
        "mixing 3e-4": _alphas(3e-4),
        "mixing 1e-2": _alphas(1e-2),
        "single level": {**_alphas(1e-2), "name": "single_level"},
        "second order": {**_alphas(1e-2), "name": "second_order"},
        "exact second order": {**_alphas(1e-2), "name": "exact_second_order"},
        "beta decay": _alphas(1e-2, terms=[{"name": "beta_decay"}]),
        "sdarts": {"name": "sdarts", "architect": _alphas(1e-2), "form": "random"},
        "hard gumbel": _relaxed("hard_gumbel"),
        "concrete": _relaxed("concrete"),
        "dirichlet": _relaxed("dirichlet"),
        "binary gates": _relaxed("binary_gates"),
        "sigmoids": _alphas(1e-2, relaxation={"name": "independent_sigmoids"}, terms=[{"name": "zero_one"}]),
    }
    return {
        **{name: {"architect": architect, "plan": prune} for name, architect in architects.items()},
        "curvature": {"architect": _alphas(1e-2), "criterion": early, "plan": prune},
        "grown": {"architect": _alphas(1e-2), "nodes": 1, "growth": ["node"], "plan": grow},
        "darts_pt": {
            "architect": _alphas(1e-2),
            "plan": {"name": "darts_pt", "epochs": epochs, "tuning": tuning},
        },
        "darts_pt fixed": {
            "plan": {"name": "darts_pt", "epochs": epochs, "tuning": tuning, "alphas": False},
        },
        "sgas": {
            "architect": _alphas(1e-2),
            "plan": {"name": "sgas", "warmup": max(1, epochs // 2), "between": tuning, "tuning": epochs, "keep": 1},
        },
        "asap": {
            "architect": _relaxed("annealed_softmax"),
            "plan": {"name": "asap", "epochs": epochs, "grace": min(tuning, epochs - 1), "tuning": epochs},
        },
        "elimination": {"architect": _alphas(3e-3), "plan": {"name": "elimination", "epochs": epochs, "tuning": 1}},
        "single path": {
            "architect": _relaxed("hard_gumbel"),
            "plan": {
                "name": "single_path",
                "epochs": epochs,
                "architect": {"name": "random_search", "trials": cells, "updates": 1},
            },
        },
        "evolution": {"plan": [{"name": "trials", "architect": evolution}]},
        "halving": {"plan": [{"name": "trials", "architect": _halving(cells)}]},
        "halving half": {"plan": [{"name": "trials", "architect": _halving(half)}]},
        # The supernet suggests a quarter, half or all of the finalists. "halving half" has none of them, and needs no supernet.
        "finals": _finals(half, max(1, half // 4)),
        "finals 1/2": _finals(half, half // 2),
        "finals all": _finals(half, half),
    }


NAMES = tuple(strategies(1, 1, 1, 1))
