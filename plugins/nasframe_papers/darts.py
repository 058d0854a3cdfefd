"""Searches and retrainings of image cells: DARTS, PR-DARTS, and a search of a few minutes.

Sources: Liu et al. (2019), "DARTS: Differentiable Architecture Search"; a study of it by anonymous authors,
"Differentiable Architecture Search"; Laube & Zell (2019), "Prune and Replace NAS" (PR-DARTS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.recipe import Recipe

#: CIFAR-10 with random flips and shifts; one half of the training images is for the weights, the other one for the alphas
CIFAR = {"name": "images", "source": "cifar10", "validation": 0.5, "flip": True, "crop": 4}
SGD = {"method": "sgd", "learning_rate": 0.025, "momentum": 0.9, "weight_decay": 3e-4}
#: the optimiser of the alphas, without its learning rate
ADAM = {"method": "adam", "betas": [0.5, 0.999], "weight_decay": 1e-3}
#: two operations a node, from distinct states
STRONGEST = {"name": "strongest", "keep": 2}


@attrs.frozen
class DartsCifar10(Recipe):
    """Search image cells on CIFAR-10 as a study of DARTS did ("Differentiable Architecture Search", 4.2).

    8 cells of three nodes, 16 channels at first, 40 epochs, xi = 0.
    """

    name: ClassVar[str] = "darts-cifar10"

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of the study; the augmentation is that of DARTS, whose setup it follows."""
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
    """Search image cells on CIFAR-10 as in the first cycle of PR-DARTS (Laube & Zell 2019, IV-A).

    Four operations an edge, 8 cells of four nodes, 15 epochs. The grace epochs, in which the alphas do not move, are left
    out. The batch is that of DARTS; PR-DARTS takes as large a batch as the memory holds.
    """

    name: ClassVar[str] = "pr-darts"

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of IV-A and of the first column of Table I."""
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


class Retraining(Recipe):
    """A retraining of image cells on all training images of CIFAR-10, for `nasframe retrain`.

    36 channels, 20 cells, 600 epochs, auxiliary head, drop path and cutout (Liu et al. 2019, A.2).
    """

    #: the probability that a path is dropped in the last epoch; it rises linearly from 0
    drop_path: ClassVar[float]

    def values(self) -> Mapping[str, Any]:
        """Return the numbers of the paper."""
        return {
            # All images train: nothing is decided in a retraining, so that no validation split is needed.
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
class DartsCifar10Retrain(Retraining):
    """Retrain image cells on CIFAR-10 as DARTS does (Liu et al. 2019, A.2): 36 channels, 20 cells, 600 epochs."""

    name: ClassVar[str] = "darts-cifar10-retrain"
    drop_path: ClassVar[float] = 0.2


@attrs.frozen
class PrDartsRetrain(Retraining):
    """Retrain image cells on CIFAR-10 as PR-DARTS does (Laube & Zell 2019, IV-A).

    The retraining is that of DARTS with a larger drop path. The paper gives no batch; 96 is that of DARTS.
    """

    name: ClassVar[str] = "pr-darts-retrain"
    drop_path: ClassVar[float] = 0.3


@attrs.frozen
class Digits(Recipe):
    """Search image cells on digits of 8 x 8 pixels within minutes.

    The operations and the schedule are those of DARTS, in three cells of two nodes.
    """

    name: ClassVar[str] = "digits"

    def values(self) -> Mapping[str, Any]:
        """Return numbers with which a search takes about three minutes on two cores."""
        return {
            "task": {"name": "images", "source": "digits", "validation": 0.5},
            "backbone": {"name": "darts_convolutional", "channels": 4, "cells": 3},
            "architect": {"name": "first_order", "optimiser": {**ADAM, "learning_rate": 3e-3}},
            "criterion": {"name": "epochs", "epochs": 10},
            "pruner": STRONGEST,
            "nodes": 2,
            "batch": 32,
            # Four times the rate of DARTS, for a fifth of its epochs.
            "optimiser": {**SGD, "learning_rate": 0.1, "epochs": 10},
            "seeds": 3,
        }
