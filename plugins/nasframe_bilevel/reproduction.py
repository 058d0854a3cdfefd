"""The toy bilevel problem of "Differentiable Architecture Search" (4.1, Table 1 and Figure 2), descended again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from nasframe import Reproduction
from nasframe_bilevel.first_order import FirstOrder
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder
from nasframe_bilevel.toy import PLAIN, descend

#: Table 1: by xi, the iterations and the seconds for each
TABLE = {0.0: (659, 4.4e-4), 0.3: (411, 9.0e-4), 0.5: (296, 9.1e-4), 0.7: (335, 9.3e-4)}
SOLUTION = (1.0, 1.0)


@attrs.frozen
class ToyBilevel(Reproduction):
    """The registered architects on the toy problem, in the order of updates of every search: alpha first, then w."""

    name: ClassVar[str] = "toy-bilevel"
    about: ClassVar[str] = "Differentiable Architecture Search, Table 1 and Figure 2: a toy bilevel problem (iterations exact)"

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
        """By xi, iterations as `ours`, the end, and seconds for each iteration, also as a multiple of the first order's."""
        first = None
        for xi, (iterations, seconds) in TABLE.items():
            for architect in (SecondOrder, ExactSecondOrder) if xi else (FirstOrder,):
                descent = descend(architect(PLAIN), xi)
                first = first or descent.seconds
                alpha, w = descent.path[-1]
                yield {
                    "xi": xi,
                    "architect": architect.name,
                    "ours": descent.iterations,
                    "paper": iterations,
                    "alpha": alpha,
                    "w": w,
                    "distance from (1, 1)": math.dist(descent.path[-1], SOLUTION),
                    "seconds": descent.seconds,
                    "ratio": descent.seconds / first,
                    "paper's ratio": seconds / TABLE[0.0][1],
                    "path": [list(point) for point in descent.path],
                }

    def draw(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> Sequence[Path]:
        """The paths of (alpha, w) (Figure 2)."""
        from nasframe.pictures import draw_paths

        path = folder / "trajectories.png"
        paths = {
            f"xi = {row['xi']}, {row['ours']} iterations": row["path"]
            for row in rows
            if row["architect"] != ExactSecondOrder.name
        }
        draw_paths(
            paths, path, x="alpha", y="w", line=("w minimises L_train: w = alpha", (0.0, 0.0), (2.5, 2.5)), goal=SOLUTION
        )
        return [path]
