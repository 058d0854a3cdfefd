"""Splitting steepest descent: units are split in the direction that lowers the loss most (Wu, Wang & Liu 2019)."""

from __future__ import annotations

import nasframe
from nasframe_splitting.candidates import splittable, splitting_matrices, unsplittable
from nasframe_splitting.kernels import (
    Eigenpairs,
    SplittingMatrices,
    exact_eigenpairs,
    lanczos_eigenpairs,
    least_eigenpairs,
)
from nasframe_splitting.module_layers import Layer, layer_matrices, layers
from nasframe_splitting.morphism import Split
from nasframe_splitting.steepest import UnitSplit, split
from nasframe_splitting.units import MergeUnits, SplitUnits, UnitLayer, unit_layers

__all__ = [
    "Eigenpairs",
    "Layer",
    "MergeUnits",
    "Split",
    "SplitUnits",
    "SplittingMatrices",
    "UnitLayer",
    "UnitSplit",
    "exact_eigenpairs",
    "lanczos_eigenpairs",
    "layer_matrices",
    "layers",
    "least_eigenpairs",
    "split",
    "splittable",
    "splitting_matrices",
    "unit_layers",
    "unsplittable",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the morphisms."""
    return [Split, SplitUnits, MergeUnits]
