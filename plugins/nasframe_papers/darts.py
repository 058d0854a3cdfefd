"""DARTS on images: the strategies of a study of it (seeds/001, 4.2) and of PR-DARTS (Laube & Zell 2019, IV-A)."""

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
class Seeds001(Recipe):
    """The search of seeds/001, 4.2: cells of three nodes, 8 of them, 16 channels at first; xi = 0."""

    name: ClassVar[str] = "seeds001"

    def values(self) -> Mapping[str, Any]:
        """Every number of the paper; augmentation as in DARTS, whose setup it follows."""
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
class Seeds004(Recipe):
    """The search that PR-DARTS begins with: four operations an edge, cells of four nodes, 15 epochs, the first of its cycles.

    The batch is DARTS's, where the paper takes as large a one as the memory holds.
    """

    name: ClassVar[str] = "seeds004"

    def values(self) -> Mapping[str, Any]:
        """IV-A and the first column of Table I, but for the grace epochs."""
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


@attrs.frozen
class Seeds004Retraining(Recipe):
    """The retraining of PR-DARTS, which is that of DARTS, for `nasframe retrain`: 36 channels, 20 cells, 600 epochs.

    The batch of 96 is DARTS's; the paper gives none.
    """

    name: ClassVar[str] = "seeds004-retraining"

    def values(self) -> Mapping[str, Any]:
        """IV-A, on the whole training part."""
        return {
            "task": {**CIFAR, "validation": 0.0, "cutout": 16},
            "backbone": {
                "name": "darts_convolutional",
                "channels": 36,
                "cells": 20,
                "affine": True,
                "auxiliary": 0.4,
                "drop_path": 0.3,
            },
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": 600},
            "pruner": STRONGEST,
            "batch": 96,
            "optimiser": {**SGD, "epochs": 600, "final": 0.0},
        }


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
