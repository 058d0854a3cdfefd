"""Strategies for image cells: DARTS (Liu, Simonyan & Yang 2019), PR-DARTS (Laube & Zell 2019), and a small one on digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe import Recipe

#: CIFAR-10, randomly flipped and shifted; one half of the training part for the weights, the other one for the alphas
CIFAR = {"name": "images", "source": "cifar10", "validation": 0.5, "flip": True, "crop": 4}
SGD = {"method": "sgd", "learning_rate": 0.025, "momentum": 0.9, "weight_decay": 3e-4}
#: of the alphas, but for the learning rate
ADAM = {"method": "adam", "betas": [0.5, 0.999], "weight_decay": 1e-3}
#: two operations a node, from distinct states
STRONGEST = {"name": "strongest", "keep": 2}


@attrs.frozen
class DartsCifar10(Recipe):
    """The search of DARTS on CIFAR-10, first order (xi = 0), with cells of three nodes as in a study of it: 8 cells, 16 channels."""

    name: ClassVar[str] = "darts-cifar10"

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of the study, with the augmentation of DARTS."""
        return {
            "task": CIFAR,
            "backbone": {"name": "darts_convolutional", "channels": 16, "cells": 8},
            "architect": {"name": "first_order", "optimiser": {**ADAM, "learning_rate": 3e-4}},
            "criterion": {"name": "epochs", "epochs": 40},
            "pruner": STRONGEST,
            "nodes": 3,
            "batch": 64,
            "optimiser": {**SGD, "epochs": 40, "final": 0.0},
        }


@attrs.frozen
class PrDarts(Recipe):
    """The first cycle of the search of PR-DARTS: four operations on each edge, cells of four nodes, 15 epochs.

    The paper's batch is as large as the memory allows; this one is that of DARTS.
    """

    name: ClassVar[str] = "pr-darts"

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of IV-A and of the first column of Table I, without the grace epochs."""
        operations = [{"name": "max_pool"}, {"name": "avg_pool"}, {"name": "identity"}, {"name": "separable", "kernel": 3}]
        return {
            "task": CIFAR,
            "backbone": {"name": "darts_convolutional", "channels": 16, "cells": 8, "operations": operations},
            "architect": {"name": "first_order", "optimiser": {**ADAM, "learning_rate": 6e-4}},
            "criterion": {"name": "epochs", "epochs": 15},
            "pruner": STRONGEST,
            "nodes": 4,
            "batch": 64,
            "optimiser": {**SGD, "epochs": 15, "final": 0.01},
        }


class _Retraining(Recipe):
    """The retraining of DARTS, which PR-DARTS follows, for `nasframe retrain`: 36 channels, 20 cells, 600 epochs."""

    drop_path: ClassVar[float]

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of the paper; the whole training part trains."""
        return {
            "task": {**CIFAR, "validation": 0.0, "cutout": 16},
            "backbone": {
                "name": "darts_convolutional",
                "channels": 36,
                "cells": 20,
                "affine": True,
                "auxiliary": 0.4,
                "drop_path": self.drop_path,
            },
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": 600},
            "pruner": STRONGEST,
            "batch": 96,
            "optimiser": {**SGD, "epochs": 600, "final": 0.0},
        }


@attrs.frozen
class DartsCifar10Retrain(_Retraining):
    """The retraining of DARTS on CIFAR-10 (Liu et al. 2019, A.2), for `nasframe retrain`: 36 channels, 20 cells, 600 epochs."""

    name: ClassVar[str] = "darts-cifar10-retrain"
    drop_path: ClassVar[float] = 0.2


@attrs.frozen
class PrDartsRetrain(_Retraining):
    """The retraining of PR-DARTS (IV-A), for `nasframe retrain`: that of DARTS with a drop path of 0.3.

    The paper gives no batch; 96 is that of DARTS.
    """

    name: ClassVar[str] = "pr-darts-retrain"
    drop_path: ClassVar[float] = 0.3


@attrs.frozen
class Digits(Recipe):
    """A search in minutes, on digits of 8 x 8 pixels: DARTS's operations and schedule, three cells of two nodes."""

    name: ClassVar[str] = "digits"

    def values(self) -> Mapping[str, Any]:
        """What fits into three minutes on two cores."""
        return {
            "task": {"name": "images", "source": "digits", "validation": 0.5},
            "backbone": {"name": "darts_convolutional", "channels": 4, "cells": 3},
            "architect": {"name": "first_order", "optimiser": {**ADAM, "learning_rate": 3e-3}},
            "criterion": {"name": "epochs", "epochs": 10},
            "pruner": STRONGEST,
            "nodes": 2,
            "batch": 32,
            "optimiser": {**SGD, "learning_rate": 0.1, "epochs": 10},
            "seeds": 3,
        }
