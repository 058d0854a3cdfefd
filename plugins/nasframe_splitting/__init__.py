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

__all__ = [
    "Eigenpairs",
    "Layer",
    "Split",
    "SplittingMatrices",
    "exact_eigenpairs",
    "lanczos_eigenpairs",
    "layer_matrices",
    "layers",
    "least_eigenpairs",
    "splittable",
    "splitting_matrices",
    "unsplittable",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the morphism."""
    return [Split]
