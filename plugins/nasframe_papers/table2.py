"""The reproduction of Table 2 of Jie & Gao (2021): the number of parameters of cells and supernets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import nn

from nasframe import Network, installed
from nasframe.interfaces.reproduction import Reproduction

#: n_x = n_h, the number of indices, by series
WIDTH = {"G7": 7, "BRICS": 5}
#: the paper's numbers, by series and number of nodes; the paper leaves one cell blank
CELLS = {"LSTM": {"G7": 392, "BRICS": 200}, "GRU": {"G7": 294, "BRICS": 150}}
SUPERNETS: Mapping[str, Mapping[str, Mapping[int, int | None]]] = {
    "darts_recurrent": {
        "G7": {2: 451, 3: None, 4: 1196, 5: 1789, 6: 2529, 7: 3416},
        "BRICS": {2: 235, 3: 390, 4: 620, 5: 925, 6: 1305, 7: 1760},
    },
    "two_to_one": {
        "G7": {2: 836, 3: 1254, 4: 1672, 5: 2090, 6: 2508, 7: 2926},
        "BRICS": {2: 440, 3: 660, 4: 880, 5: 1100, 6: 1320, 7: 1540},
    },
}
#: the number of alphas ("combination weights") that the paper counts for a node; Eqs. 18 and 19 need as many for an edge
PER_NODE = 5


@attrs.frozen
class Table2(Reproduction):
    """Number of parameters of LSTM, GRU and both supernets, counted from networks, beside Table 2 of Jie & Gao (2021).

    `ours` counts the parameters of the operations and, like the paper, five alphas for a node. `built` counts the alphas
    that are trained: on the DARTS backbone five for each edge.
    """

    name: ClassVar[str] = "table2"
    about: ClassVar[str] = "Jie & Gao 2021, Table 2: parameters of LSTM, GRU and both supernets (exact)"

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
        """Yield a row for each number of the table, and for the blank."""
        for model, layer in {"LSTM": nn.LSTM, "GRU": nn.GRU}.items():
            for series, width in WIDTH.items():
                with torch.device("meta"):
                    # the paper counts LSTM and GRU without biases: 4 * 2 * 7^2 = 392 and 3 * 2 * 7^2 = 294 on G7
                    count = sum(p.numel() for p in layer(width, width, bias=False).parameters())
                yield _row(model, None, series, count, CELLS[model][series], 0, 0)
        for backbone, table in SUPERNETS.items():
            for series, numbers in table.items():
                for nodes, paper in numbers.items():
                    counts = counted(backbone, WIDTH[series], nodes)
                    yield _row(backbone, nodes, series, counts["operations"], paper, PER_NODE * nodes, counts["combination"])


def counted(backbone: str, width: int, nodes: int) -> Mapping[str, int]:
    """Return the number of parameters of a supernet by role ("operations", "combination", ...).

    Args:
        backbone: the name of the backbone.
        width: n_x = n_h.
        nodes: the number of nodes, m.
    """
    structure = installed().make("backbone", backbone).initial({"inputs": width, "outputs": width}, nodes)
    with torch.device("meta"):
        return Network(structure).count()


def _row(
    model: str, nodes: int | None, series: str, operations: int, paper: int | None, theirs: int, trained: int
) -> Mapping[str, Any]:
    return {
        "model": model,
        "nodes": nodes,
        "series": series,
        "operations": operations,
        "combination, paper": theirs,
        "combination, ours": trained,
        "built": operations + trained,
        "ours": operations + theirs,
        "paper": paper,
    }
