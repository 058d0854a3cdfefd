"""The reproduction of Table 1 and Figure 2 of "Differentiable Architecture Search": a toy bilevel problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.reproduction import Reproduction
from nasframe_bilevel.first_order import FirstOrder
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder
from nasframe_bilevel.toy import PLAIN, descend

#: Table 1: the number of iterations and the seconds of an iteration, by xi
TABLE = {0.0: (659, 4.4e-4), 0.3: (411, 9.0e-4), 0.5: (296, 9.1e-4), 0.7: (335, 9.3e-4)}
SOLUTION = (1.0, 1.0)


@attrs.frozen
class ToyBilevel(Reproduction):
    """Number of iterations of each architect on a toy bilevel problem, beside Table 1 of a study of DARTS.

    In each iteration alpha moves first and w then moves against the new alpha, as in every search.
    """

    name: ClassVar[str] = "toy-bilevel"
    about: ClassVar[str] = "Differentiable Architecture Search, Table 1 and Figure 2: a toy bilevel problem (iterations exact)"

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
        """Yield a row for each xi and architect.

        `ours` is the number of iterations, `ratio` the time of an iteration as a multiple of that of the first order.
        """
        first = None
        for xi, (iterations, seconds) in TABLE.items():
            # With xi = 0 the unrolled step is none, and second order is first order.
            for architect in (SecondOrder, ExactSecondOrder) if xi else (FirstOrder,):
                descent = descend(architect(PLAIN), xi)
                # the first row is that of the first order, whose time is the unit of the ratios
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
        """Draw the paths of (alpha, w), as in Figure 2, and return the file."""
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
