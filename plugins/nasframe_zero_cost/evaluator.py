"""An evaluator that scores architectures without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Seed, Structure
from nasframe.errors import DataError
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe.options import choice, number
from nasframe.records import finite
from nasframe_zero_cost.scores import linear_regions, naswot, ntk_condition, synflow

#: the score, and whether larger ones are better
SCORES: Mapping[str, tuple[Callable[[nn.Module, Tensor], float], bool]] = {
    "naswot": (naswot, True),
    "synflow": (synflow, True),
    "regions": (linear_regions, True),
    "ntk": (ntk_condition, False),
}


@attrs.frozen
class ZeroCost(Evaluator):
    """Compare architectures by a score of their untrained networks.

    The score is computed on the same training examples for all architectures, in training mode. The validation loss of a trial is the
    score, or its negative if larger scores are better. The budget has no effect: no update is made.

    Args:
        score: "naswot" (Mellor et al. 2021), "synflow" (Tanaka et al. 2020), "ntk", the condition number of the neural tangent kernel, or
            "regions", the number of linear regions (both of TE-NAS, Chen et al. 2021).
        examples: the number of training examples; all are taken if there are fewer.
        crop: the height and width of the upper left part of images on which the score is computed; by default they are not cropped.
            TE-NAS counts linear regions of images of 3 x 3 pixels.
    """

    name: ClassVar[str] = "zero_cost"
    score: str = choice(*SCORES, default="naswot")
    examples: int = number(32, low=2, whole=True)
    crop: int | None = number(None, low=1, whole=True, optional=True)

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the score as a loss; None if it is not finite.

        Raises:
            DataError: if `crop` is given, and the inputs are not images of at least that many pixels.
        """
        network = bench.build(structure, seed("build"), parent).train()
        split = bench.data.train
        # another key than the trial's: with different examples for each architecture, their scores would differ by chance
        chosen = torch.randperm(split.size, generator=Seed(("zero cost",)).generator())[: self.examples]
        inputs, _ = split.batch(chosen)
        if self.crop is not None:
            if inputs.dim() != 4 or min(inputs.shape[2:]) < self.crop:
                raise DataError(
                    f"crop is {self.crop}, and the inputs have shape {tuple(inputs.shape)}; it takes images of shape (batch, channels, "
                    f"height, width) with at least {self.crop} x {self.crop} pixels: leave crop out, or make it smaller"
                )
            inputs = inputs[..., : self.crop, : self.crop]
        score, larger = SCORES[self.score]
        with seed("score").as_global():
            found = finite(score(network, inputs))
        return Outcome(None if found is None else -found if larger else found)
