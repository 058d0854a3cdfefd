"""A found network for use outside of a search: inputs and outputs are in the units of the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nasframe.errors import DataError

if TYPE_CHECKING:
    from nasframe.network.network import Network

#: A window with a smaller standard deviation than this, in standardised units, counts as constant.
FLAT = 1e-6


class Scale(nn.Module):
    """Standardise values: (x - mean) / std, entry by entry, computed in float64.

    Conversions such as `.half()` move the buffers to another device, but keep them in float64.

    Args:
        mean: the mean of the training data, broadcastable to the values.
        std: their standard deviation, positive.
        window: values have the time as their first axis. After standardising, subtract the last step of each window and divide by
            the standard deviation of the window over time (unless the window is constant). `back` undoes both. A network then
            forecasts a series whose level or whose spread moves (Kim et al. 2022, reversible instance normalisation).
        rows: outputs are so many rows, one behind the other along the last axis: a forecast of several rows at once.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, window: bool = False, rows: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", mean.double())
        self.register_buffer("std", std.double())
        self.window = window
        self.rows = rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scale:
        # a level of 1e9 with a variation of 1 is constant in float32
        device = fn(torch.zeros(())).device
        if device.type != "mps":  # has no float64: scaling stays on the CPU
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled values, of the shape of x."""
        standard = self.standardise(x)
        if not self.window:
            return standard
        # Standardised first, because FLAT is in standardised units. In float64 a level of 1e9 loses nothing by it.
        last, spread = self.level(standard)
        return (standard - last) / spread

    def standardise(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std."""
        return (x.to(self.mean.device, self.mean.dtype) - self.mean) / self.std

    @staticmethod
    def level(standard: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last step of standardised windows and their standard deviation over time, 1 where it is 0.

        Both have length 1 on the time axis.
        """
        # The root is taken after the choice: the derivative of a root at 0 is infinite, and a constant window would have
        # a NaN gradient.
        variance = standard.var(0, correction=0, keepdim=True)
        return standard[-1:], variance.where(variance > FLAT**2, 1).sqrt()

    def back(self, y: Tensor, x: Tensor) -> Tensor:
        """Return scaled values in the units of the data.

        Args:
            y: values as a network returns them.
            x: the inputs of the network in the units of the data; their level is needed if `window` is set.
        """
        # The inverse of `forward`, in reverse order: first the window, in standardised units, then the units of the data.
        y = y.to(self.std.device, self.std.dtype)
        if self.window:
            last, spread = self.level(self.standardise(x))
            y = y * self.tiled(spread) + self.tiled(last)
        return y * self.tiled(self.std) + self.tiled(self.mean)

    def tiled(self, row: Tensor) -> Tensor:
        """Return the values of a row, repeated along the last axis for each row of the outputs."""
        return row.tile(self.rows)


def _all(*types: type) -> Any:
    return attrs.validators.deep_iterable(attrs.validators.instance_of(types), attrs.validators.instance_of(tuple))


@attrs.frozen
class Signature:
    """The inputs that a model expects.

    Example:
        >>> print(Signature(("time", "batch", "columns"), (10, None, 2), ("wind", "rain")))
        (time=10, batch, columns=2: wind, rain)

    Args:
        axes: the names of the axes in order.
        sizes: the length of each axis, or None where any length is possible.
        columns: the names of the entries of the last axis, if they have names.
    """

    axes: tuple[str, ...] = attrs.field(validator=_all(str))
    sizes: tuple[int | None, ...] = attrs.field(validator=_all(int, type(None)))
    columns: tuple[str, ...] = attrs.field(default=(), validator=_all(str))

    def __str__(self) -> str:
        sizes = [a if n is None else f"{a}={n}" for a, n in zip(self.axes, self.sizes, strict=True)]
        # A table may have hundreds of columns, and this text is a part of error messages.
        names = ", ".join((*self.columns[:8], *(["..."] if len(self.columns) > 8 else [])))
        return f"({', '.join(sizes)}{f': {names}' if names else ''})"

    def fits(self, shape: torch.Size) -> bool:
        """Return whether inputs may have this shape."""
        return len(shape) == len(self.sizes) and all(
            wanted is None or length == wanted for length, wanted in zip(shape, self.sizes, strict=True)
        )


class Model(nn.Module):
    """A network whose inputs and outputs are in the units of the data.

    Inputs in float64 give outputs in float64, also if the network computes in float32: scaling is done in float64.

    Args:
        network: maps scaled inputs to scaled outputs.
        inputs: scales the inputs; None where the network takes them as they are.
        outputs: scales the outputs back; None where they have no units, as class scores.
        signature: the shape of the inputs, checked at each call; None where it is unknown.
    """

    def __init__(
        self, network: Network, inputs: Scale | None = None, outputs: Scale | None = None, signature: Signature | None = None
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self.signature = network, inputs, outputs, signature

    def forward(self, x: Tensor) -> Any:
        """Return the network's outputs for inputs x, both in the units of the data.

        Raises:
            DataError: x is not a tensor of numbers, or its shape does not fit the signature.
        """
        self._check(x)
        like = next(self.network.parameters(), None)
        scaled = x if self.inputs is None else self.inputs(x)
        if like is not None and scaled.is_floating_point():
            # only after scaling: large levels with small variations would lose their digits in float32
            scaled = scaled.to(like.device, like.dtype)
        y = self.network(scaled)
        if not isinstance(y, Tensor):  # outputs of an auxiliary head, in training
            return y
        if self.outputs is not None:
            # The scale may be on the CPU although the network is not: see `Scale._apply`.
            y = self.outputs.back(y, x).to(y.device)
        return y.to(self._dtype(x))

    def forecast(self, rows: Tensor, steps: int) -> Tensor:
        """Return the next rows of a time series, forecast from the rows before them and the forecasts before them.

        A model of the next row forecasts one row after the other, and a model of several rows at once so many at a time.

        Args:
            rows: the known rows in the units of the data, the latest last: (time, columns), or (time, batch, columns) for several
                series. At least as many as a window has; earlier rows have no influence.
            steps: how many rows to forecast.

        Raises:
            DataError: The rows do not fit the signature, a number in the last window of them is not finite, or the model does not
                forecast rows of its inputs.

        Example:
            The next 24 days of a series, by a network with one candidate at each site that was not trained:

            >>> import attrs, torch
            >>> from nasframe_recurrent import Sum, TwoToOne
            >>> strategy = attrs.evolve(nasframe.Strategy.named("two-to-one-grow-end"), backbone=TwoToOne(operations=(Sum(),)))
            >>> model = nasframe.Search(strategy).model
            >>> print(model.signature)
            (time=10, batch, columns=4: precipitation, temp_max, temp_min, wind)
            >>> rows = torch.tensor([[0.0, 12.8, 5.0, 4.7]]).expand(10, 4)
            >>> model.forecast(rows, steps=24).shape
            torch.Size([24, 4])
        """
        if self.signature is None or self.signature.axes != ("time", "batch", "columns") or self.outputs is None:
            raise DataError("this model does not forecast rows of a time series; call it with its inputs: model(x)")
        if type(steps) is not int or steps < 1:
            raise DataError(f"steps is {steps!r}; it must be a whole number of at least 1")
        # All that can be wrong with the rows is checked before the first step: NaN would pass through all of them.
        window, columns = self.signature.sizes[0], self.signature.sizes[2]
        assert window is not None
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else ()
        if shape and (len(shape) not in (2, 3) or shape[0] < window or shape[-1] != columns):
            raise DataError(
                f"rows has shape {shape}; a forecast needs at least {window} rows, the latest last, of shape (time, columns) or "
                f"(time, batch, columns), where an input is {self.signature}"
            )
        # Checked in the shape of an input. What is no tensor goes on as it is, for the message about its type.
        self._check(rows[-window:, None] if len(shape) == 2 else rows[-window:] if shape else rows)
        # One series is a batch of one, so that the loop below has one case.
        series = (rows if len(shape) == 3 else rows.unsqueeze(1))[-window:].to(self._dtype(rows))
        # The first of them is enough for a message. Earlier rows are cut off already, and may be incomplete.
        for row, _, column in (~series.isfinite()).nonzero()[:1].tolist():
            name = repr(self.signature.columns[column]) if self.signature.columns else str(column)
            raise DataError(
                f"row {row - window} of rows, counted from the end, has a value in column {name} that is not a finite number; a "
                f"forecast is computed from the last {window} rows: fill in the value, or leave out its row"
            )
        with torch.no_grad():
            while len(series) < window + steps:
                # A network has an output at every time step of the window. The last one is the forecast, of shape (batch, rows * columns).
                following = self(series[-window:])[-1].unflatten(-1, (self.outputs.rows, columns))
                series = torch.cat([series, following.movedim(1, 0)])
        forecast = series[window : window + steps]
        # The axis that was added for a single series is taken away again.
        return forecast if len(shape) == 3 else forecast.squeeze(1)

    def _check(self, x: Any) -> None:
        expected = "a tensor of numbers" if self.signature is None else f"a tensor of numbers of shape {self.signature}"
        if not isinstance(x, Tensor):
            hint = "; write torch.as_tensor(x)" if hasattr(x, "__array__") else ""
            raise DataError(f"the input is of type {type(x).__name__}, but the model expects {expected}{hint}")
        if x.is_complex() or x.dtype == torch.bool:
            raise DataError(
                f"the input has dtype {x.dtype}, but the model expects {expected}; convert it to float32 or float64"
            )
        # a tracer would turn this comparison into a constant, with a warning
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if self.signature is not None and not tracing and not self.signature.fits(x.shape):
            raise DataError(
                f"the input has shape {tuple(x.shape)}, but the model expects {expected}; permute or slice its axes"
            )

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype of the outputs: that of the inputs if it is wider than the network's."""
        like = next(self.network.parameters(), x)
        if x.is_floating_point():
            return torch.promote_types(x.dtype, like.dtype)
        # Whole numbers have no dtype to keep. Outputs in the units of the data are then in float64, as the scale is.
        return like.dtype if self.outputs is None and like.is_floating_point() else torch.float64


def dump_scales(model: Model) -> bytes:
    """Return the scales and the signature of a model as the content of a safetensors file."""
    tensors: dict[str, Tensor] = {}
    for side, scale in (("inputs", model.inputs), ("outputs", model.outputs)):
        if scale is not None:
            # inputs and outputs may have one scale in common, and the format refuses tensors that share memory
            tensors |= {f"{side}.mean": scale.mean.cpu().clone(), f"{side}.std": scale.std.cpu().clone()}
    # What is no tensor goes into the metadata of the file, whose values must be strings.
    windows = [side for side in ("inputs", "outputs") if getattr(getattr(model, side), "window", False)]
    signature = None if model.signature is None else attrs.asdict(model.signature)
    rows = 1 if model.outputs is None else model.outputs.rows
    description = json.dumps({"window": windows, "rows": rows, "signature": signature})
    # The format refuses tensors that are not contiguous, and `clone` keeps the layout of one that was transposed.
    return safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, {"description": description})


def load_scales(path: str) -> tuple[Scale | None, Scale | None, Signature | None]:
    """Return the scale of the inputs, that of the outputs, and the signature from a file that `dump_scales` made.

    Raises:
        OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError: The file cannot be read.
    """
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads((file.metadata() or {})["description"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    scales = [
        Scale(tensors[f"{side}.mean"], tensors[f"{side}.std"], window=side in description["window"], rows=description["rows"])
        if f"{side}.mean" in tensors
        else None
        for side in ("inputs", "outputs")
    ]
    found = description["signature"]
    # JSON has lists, and the fields of a signature are tuples.
    signature = None if found is None else Signature(**{name: tuple(value) for name, value in dict(found).items()})
    return scales[0], scales[1], signature
