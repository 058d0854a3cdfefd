"""The relaxation of ProxylessNAS: binary gates, with two paths in each step."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Draw, Mixing
from nasframe.interfaces.relaxation import Sites
from nasframe_relaxations.categorical import Categorical, Tensors, gumbel, straight_through


@attrs.frozen
class BinaryGates(Categorical):
    """Two candidates of each site, of which the binary gates g open one (Cai et al. 2019, ProxylessNAS).

    The two are drawn with the probabilities p = softmax(alpha), without replacement. Then the others count as absent: p is the softmax
    of the two alphas, and g is 1 for one of the two, drawn with p, and 0 for the other. The gradient by an alpha is
    sum_j dL/dg_j p_j (delta_ij - p_i) (Eq. 4), for which the candidate with the gate 0 is computed as well.

    The paper also computes a single path for the loss of the weights, and shifts the two alphas after their step so that the
    probabilities of the others stay. Here both losses of a step have two paths, and nothing is shifted.
    """

    name: ClassVar[str] = "binary_gates"

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        """Return the gates, and the two candidates of each site."""
        found, active = dict[str, Tensor](), dict[str, tuple[int, ...]]()
        for address in sites:
            alpha, seed = alphas[address], draw.seed(address)
            # the largest sums of alphas and Gumbel noise are at candidates drawn without replacement
            scores = alpha.detach() + gumbel(alpha, seed("paths"))
            pair = scores.topk(min(2, len(alpha))).indices.sort().values
            p = alpha[pair].softmax(0)
            opened = int((alpha[pair].detach() + gumbel(p, seed("gates"))).argmax())
            # g, with the gradient of p
            gates = straight_through(opened, p)
            found[address] = torch.zeros_like(alpha).index_copy(0, pair, gates)
            active[address] = tuple(pair.tolist())
        return Mixing(found, active)
