"""The picture of a forecasting task: forecasts next to the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nasframe.network.model import Model
from nasframe.pictures.style import ACCENT, blank, plain, save, style

#: the largest number of rows, a week of hours, and of columns that are drawn
ROWS, COLUMNS = 168, 4
TRUTH = "#143d6b"


def draw_forecast(rows: Tensor, names: Sequence[str], first: int, model: Model, path: Path) -> None:
    """Draw rows and, for each, its forecast from the rows before it, in the units of the data.

    Args:
        rows: as many rows as a window of the model, and the rows to draw, of which the first ones are drawn; (rows, columns).
        names: the names of the columns, of which the first ones are drawn.
        first: the number of the first row to draw, counted from 1.
        model: the network, in the units of the data.
        path: the file to write. Its suffix chooses the format.
    """
    assert model.signature is not None
    window = model.signature.sizes[0]
    assert window is not None
    held = rows[: window + ROWS].unfold(0, window + 1, 1).permute(2, 0, 1)
    with torch.no_grad():
        # of several rows at once, the next one comes first
        forecast = model(held[:-1])[-1].cpu()[:, : rows.shape[1]]
    at, truth = range(first, first + len(forecast)), held[-1]
    with style():
        shown = names[:COLUMNS]
        figure = blank(7.0, 0.8 + 1.2 * len(shown), layout="constrained")
        panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for column, (axes, name) in enumerate(zip(panels, shown, strict=True)):
            axes.spines[["top", "right"]].set_visible(False)
            axes.plot(at, truth[:, column], color=TRUTH, linewidth=1.1, label="truth")
            axes.plot(
                at, forecast[:, column], color=ACCENT, linewidth=1.1, linestyle=(0, (3, 1.2)), label="forecast of the next row"
            )
            axes.set_title(plain(name), loc="left", fontsize=8)
        others = f" (the first {len(shown)} of {len(names)} columns are shown)" if len(names) > len(shown) else ""
        panels[-1].set_xlabel(f"row of the series{others}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        save(figure, path)
