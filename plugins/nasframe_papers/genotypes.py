"""Published cells of DARTS's search spaces, and the sizes of the networks that were built from them.

Cells are written as their authors published them: a list of pairs (operation, input). In an image cell each node has two
pairs; inputs 0 and 1 are the outputs of the two cells before, and input 2 is the first node. In a recurrent cell each node
has one pair; input 0 is tanh(W [x, h]), and input 1 is the first node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasframe import Candidate, Cell, Network, Node, Seed, Site, Structure, build, installed
from nasframe.errors import StructureError
from nasframe.interfaces.reproduction import Reproduction

Pairs = Sequence[tuple[str, int]]
#: the edges of each node: descriptions of operations, each with the state that it receives
Nodes = Sequence[Sequence[tuple[Mapping[str, Any], str]]]

#: descriptions of operations by their published names
OPERATIONS: Mapping[str, Mapping[str, Any]] = {
    "skip_connect": {"name": "identity"},
    "max_pool_3x3": {"name": "max_pool"},
    "avg_pool_3x3": {"name": "avg_pool"},
    **{f"sep_conv_{k}x{k}": {"name": "separable", "kernel": k, "expansion": [1]} for k in (3, 5, 7)},
    **{f"dil_conv_{k}x{k}": {"name": "separable", "kernel": k, "dilation": 2} for k in (3, 5)},
}


def pairs(text: str) -> Pairs:
    """Return the pairs in a text such as "sep_conv_3x3 0 skip_connect 1"."""
    words = text.split()
    return [(operation, int(input)) for operation, input in zip(words[::2], words[1::2], strict=True)]


#: the cells of Liu et al. (2019; first and second order), Laube & Zell (2019) and Zoph et al. (2018)
CELLS: Mapping[str, Mapping[str, Any]] = {
    "DARTS_V1": {
        "normal": pairs(
            "sep_conv_3x3 1 sep_conv_3x3 0  skip_connect 0 sep_conv_3x3 1 "
            "skip_connect 0 sep_conv_3x3 1  sep_conv_3x3 0 skip_connect 2"
        ),
        "reduction": pairs(
            "max_pool_3x3 0 max_pool_3x3 1  skip_connect 2 max_pool_3x3 0 "
            "max_pool_3x3 0 skip_connect 2  skip_connect 2 avg_pool_3x3 0"
        ),
    },
    "DARTS_V2": {
        "normal": pairs(
            "sep_conv_3x3 0 sep_conv_3x3 1  sep_conv_3x3 0 sep_conv_3x3 1 "
            "sep_conv_3x3 1 skip_connect 0  skip_connect 0 dil_conv_3x3 2"
        ),
        "reduction": pairs(
            "max_pool_3x3 0 max_pool_3x3 1  skip_connect 2 max_pool_3x3 1 "
            "max_pool_3x3 0 skip_connect 2  skip_connect 2 max_pool_3x3 1"
        ),
    },
    "PR_DARTS_DL1": {
        "normal": pairs(
            "sep_conv_5x5 0 sep_conv_3x3 1  sep_conv_3x3 1 skip_connect 2 "
            "sep_conv_3x3 1 skip_connect 2  skip_connect 0 skip_connect 2"
        ),
        "reduction": pairs(
            "sep_conv_3x3 0 skip_connect 1  max_pool_3x3 0 sep_conv_5x5 2 "
            "sep_conv_3x3 0 sep_conv_3x3 1  max_pool_3x3 1 sep_conv_3x3 4"
        ),
    },
    "NASNet": {
        "normal": pairs(
            "sep_conv_5x5 1 sep_conv_3x3 0  sep_conv_5x5 0 sep_conv_3x3 0  avg_pool_3x3 1 skip_connect 0 "
            "avg_pool_3x3 0 avg_pool_3x3 0  sep_conv_3x3 1 skip_connect 1"
        ),
        "reduction": pairs(
            "sep_conv_5x5 1 sep_conv_7x7 0  max_pool_3x3 1 sep_conv_7x7 0  avg_pool_3x3 1 sep_conv_5x5 0 "
            "skip_connect 3 avg_pool_3x3 2  sep_conv_3x3 2 max_pool_3x3 1"
        ),
        "output": "loose_ends",
    },
}
#: the recurrent cell of Liu et al. (2019), second order
RECURRENT = pairs("sigmoid 0 relu 1 relu 1 identity 1 tanh 2 sigmoid 5 tanh 3 relu 5")


def images(side: int, classes: int) -> Mapping[str, int]:
    """Return the sizes of a task with square images in colour."""
    return {"channels": 3, "classes": classes, "height": side, "width": side}


#: the sizes of a task, and the options of the backbone
SETTINGS: Mapping[str, tuple[Mapping[str, int], Mapping[str, Any]]] = {
    "CIFAR-10, C = 36, L = 20": (images(32, 10), {"channels": 36, "cells": 20}),
    "CIFAR-10, C = 16, L = 8": (images(32, 10), {"channels": 16, "cells": 8}),
    "CIFAR-100, C = 36, L = 20": (images(32, 100), {"channels": 36, "cells": 20}),
    "ImageNet, C = 48, L = 14": (images(224, 1000), {"channels": 48, "cells": 14, "stem": "imagenet"}),
}
#: parameters of the networks of DARTS's published code, by setting: without and with the auxiliary head
PARAMETERS = {
    "DARTS_V1": ((3169414, 3645840), (232890, 668356), (3221344, 3766980), (4510432, 5771208)),
    "DARTS_V2": ((3349342, 3825768), (246106, 681572), (3401272, 3946908), (4718752, 5979528)),
    "PR_DARTS_DL1": ((3174166, 3650592), (283770, 719236), (3226096, 3771732), (4685152, 5945928)),
    "NASNet": ((3830950, 4288944), (333946, 761220), (3895840, 4423044), (5564320, 6800520)),
}
#: multiply-adds, from the tests of UniNAS (github.com/cogsys-tuebingen/uninas)
MULTIPLY_ADDS = {
    ("DARTS_V1", "CIFAR-10, C = 36, L = 20"): 501015744,
    ("DARTS_V1", "ImageNet, C = 48, L = 14"): 505893696,
    ("PR_DARTS_DL1", "CIFAR-10, C = 36, L = 20"): 491200704,
    ("PR_DARTS_DL1", "ImageNet, C = 48, L = 14"): 509384064,
}
#: functions that compute means: average pooling, and the mean before the head
MEANS = (torch.ops.aten.avg_pool2d, torch.ops.aten.mean)


@attrs.frozen
class Genotypes(Reproduction):
    """Number of parameters and multiply-adds of published cells, counted from networks, beside those of other code.

    The cells are DARTS_V1, DARTS_V2, PR_DARTS_DL1 and NASNet. `paper` has the number of their authors' code or of UniNAS.
    """

    name: ClassVar[str] = "genotypes"
    about: ClassVar[str] = "the published cells of DARTS, PR-DARTS and NASNet: parameters and multiply-adds (exact)"

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of each cell in each setting, of the recurrent cell, and of the supernet of DARTS."""
        for name, cells in CELLS.items():
            for (setting, (sizes, options)), numbers in zip(SETTINGS.items(), PARAMETERS[name], strict=True):
                for (what, weight), paper in zip({"": 0.0, ", auxiliary head too": 0.4}.items(), numbers, strict=True):
                    structure = architecture(sizes, **cells, **options, auxiliary=weight)
                    yield _row(name, setting, f"parameters{what}", parameters(structure), paper)
                if (name, setting) in MULTIPLY_ADDS:
                    yield _row(name, setting, "multiply-adds", multiply_adds(structure), MULTIPLY_ADDS[name, setting])
        words = recurrent({"tokens": 10_000}, RECURRENT, hidden=850)
        yield _row("DARTS_V2, recurrent", "PTB, n_x = n_h = 850", "parameters", parameters(words), 22960000)
        supernet = installed().make("backbone", "darts_convolutional").initial(images(32, 10), 4)
        yield _row("DARTS's supernet", "CIFAR-10, C = 16, L = 8, M = 4", "parameters", parameters(supernet), 1930618)


def architecture(sizes: Mapping[str, int], normal: Pairs, reduction: Pairs, **options: Any) -> Structure:
    """Return the architecture of published image cells.

    Args:
        sizes: the sizes of the task.
        normal: the pairs of the normal cell.
        reduction: the pairs of the reduction cell.
        options: options of the backbone "darts_convolutional".

    Example:
        >>> structure = architecture(images(32, 10), **CELLS["DARTS_V2"], channels=36, cells=20)
        >>> parameters(structure)
        3349342
    """
    backbone = installed().make("backbone", {"name": "darts_convolutional", "affine": True, **options})
    return decided(backbone.initial(sizes, 1), {"normal": nodes(normal), "reduction": nodes(reduction)})


def nodes(pairs: Pairs) -> Nodes:
    """Return the nodes of a published image cell, with two edges each."""
    unknown = [o for o, _ in pairs if o not in OPERATIONS]
    if unknown or len(pairs) % 2:
        raise StructureError(
            f"no image cell can be built from {[*pairs]}: give two pairs for each node, each with one of the operations "
            f"{', '.join(OPERATIONS)} and an input"
        )
    # Inputs 0 and 1 are those of the cell, input 2 is its first node.
    edges = [(OPERATIONS[o], f"i{i}" if i < 2 else f"n{i - 2}") for o, i in pairs]
    return [*zip(edges[::2], edges[1::2], strict=True)]


def recurrent(sizes: Mapping[str, int], pairs: Pairs, **options: Any) -> Structure:
    """Return the architecture of a published recurrent cell, the same in every layer.

    As in DARTS's code each operation has a highway bypass, and a tanh node on [x, h] comes first.

    Args:
        sizes: the sizes of the task.
        pairs: the pairs of the cell.
        options: options of the backbone "darts_recurrent".
    """
    supernet = installed().make("backbone", {"name": "darts_recurrent", "output": "later", **options}).initial(sizes, 1)
    # the published cell does not write down its first node
    edges = [("tanh", "xh"), *((o, f"n{i}") for o, i in pairs)]
    nodes = [[({"name": f"{o}_highway"}, state)] for o, state in edges]
    return decided(supernet, {type: nodes for type, _ in supernet.cells})


def decided(supernet: Structure, nodes: Mapping[str, Nodes]) -> Structure:
    """Return the architecture that has these nodes, by cell type, in the place of a supernet's nodes."""
    ids = count()
    # One counter for all cells, because ids are unique within a structure.
    cells = tuple((type, cell(nodes[type], ids)) for type, _ in supernet.cells)
    structure = attrs.evolve(supernet, cells=cells, next_id=next(ids))
    structure.check()
    return structure


def cell(nodes: Nodes, ids: Iterator[int]) -> Cell:
    """Return the cell with these nodes.

    Two edges of a node may come from the same state, as in NASNet; the id of the second one then ends with a prime.

    Args:
        nodes: the edges of each node.
        ids: the source of the candidates' ids.
    """
    sites = []
    for number, edges in enumerate(nodes):
        sources = [source for _, source in edges]
        for place, (description, source) in enumerate(edges):
            # ids of sites are unique within a cell
            id = f"{source}-n{number}" + "'" * sources[:place].count(source)
            operation = installed().make("operation", description)
            sites.append(Site(id, f"n{number}", (source,), (Candidate(next(ids), operation),)))
    return Cell(tuple(Node(f"n{number}") for number in range(len(nodes))), tuple(sites), len(nodes))


def built(structure: Structure) -> Network:
    """Return the network of a structure on the meta device: shapes without values."""
    with torch.device("meta"):
        return Network(structure)


def parameters(structure: Structure) -> int:
    """Return the number of parameters of a structure's network, without the alphas."""
    network = built(structure)
    return sum(p.numel() for p in network.parameters()) - network.count()["combination"]


def multiply_adds(structure: Structure) -> int:
    """Return the number of multiply-adds for one image.

    As in UniNAS, convolutions and linear maps count, and each number that a mean outputs counts as one.
    """
    shape = (structure.size(name) for name in ("channels", "height", "width"))
    # Twice, because the sum is divided by two at the end.
    means: Any = dict.fromkeys(MEANS, lambda *_, out_shape, **__: 2 * math.prod(out_shape))
    # on the CPU and not on the meta device, where torch works out each shape in Python: that takes four times as long
    network = build(structure, Seed((0,))).eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=means) as counter:
        network(torch.zeros(1, *shape))
    # a multiply-add is two FLOPs
    return counter.get_total_flops() // 2


def _row(network: str, setting: str, what: str, ours: int, paper: int) -> Mapping[str, Any]:
    return {"network": network, "setting": setting, "what": what, "ours": ours, "paper": paper}
