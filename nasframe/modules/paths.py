"""Add a path beside a layer or a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nasframe.change.claim import Claim
from nasframe.change.map import FRESH, Set, Take
from nasframe.errors import ChangeError
from nasframe.modules.calls import Calls, channel_axis, is_leaf, line, submodule, within
from nasframe.modules.change import ModuleChange, grow
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import Beside, Layer, Resize, SetNumber, named_tensors
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite, Undo
from nasframe.modules.unwrap import Unwrap
from nasframe.modules.widen import Widen
from nasframe.options import choice, number
from nasframe.seeds import Seed


@attrs.frozen
class AddPath(ModuleMorphism):
    """Add a path with a hidden layer beside a layer or a block.

    The path is a linear map to `width` units, ReLU, and a linear map. Beside a convolution the first map is a convolution of the same
    kernel, stride, padding and dilation, and elsewhere a linear map of the features, or a convolution with 3 taps along each axis.
    The place becomes a `Parallel` of the old module and the path. Both forms are exact in training and in evaluation mode:

        - "sum": the output of the path is added to that of the module. The last map of the path starts at zero; it gets a gradient at
          the first step, and the first map at the second.
        - "concatenate": the path returns `width` new channels, which come after those of an nn.Linear or a convolution. What reads
          them is widened with weights of zero, as `Widen` with form="zero" does, and is refused where that is refused. The weights of
          zero get a gradient at the first step, the path at the second.

    Refused: a layer whose parameters are read without calling it, a module that receives or returns several tensors, integers in, and
    another module than a convolution that changes the size of an image, where a path would have to guess the sizes for other inputs.

    Args:
        width: the number of hidden units; by default as many as the channels of the output.
        form: how the outputs are joined, "sum" or "concatenate".
    """

    name: ClassVar[str] = "add_path"
    width: int | None = number(None, low=1, whole=True, optional=True)
    form: str = choice("sum", "concatenate", default="sum")

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield all modules that are called, with the number of channels that they return."""
        calls = Calls(coupling)
        for name, module in coupling.model.named_modules():
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue  # a container without a forward
            try:
                layers = self._layers(calls, name, module)
                out = layers[-1].options.get("out_features", layers[-1].options.get("out_channels"))
                yield Place(name, int(str(out)), f"path of {', '.join(layer.type for layer in layers)}")
            except ChangeError as error:
                yield Place(name, 0, refusal=str(error))

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edit that puts a path beside `at`, and the zeros with which its last layer, or what reads it, starts."""
        module, calls = submodule(coupling.model, at), Calls(coupling)
        layers = self._layers(calls, at, module)
        start: dict[str, Take | Set] = {f"0.{name}": Take(within(at, name)) for name in named_tensors(module)}
        if self.form == "sum":
            for name, shape in layers[-1].shapes().items():
                start[f"1.{len(layers) - 1}.{name}"] = Set(torch.zeros(shape))
            entries = {within(name, tensor): entry for name in calls.names(at) for tensor, entry in start.items()}
            return Rewrite((Beside(at, layers),), entries, Claim.exact(), undo=Undo(Unwrap(), at))
        entries = {within(at, tensor): entry for tensor, entry in start.items()}
        return self._concatenated(coupling, at, module, layers, entries, seed)

    def _concatenated(
        self,
        coupling: Coupling,
        at: str,
        module: nn.Module,
        layers: tuple[Layer, ...],
        entries: Mapping[str, Take | Set],
        seed: Seed,
    ) -> Rewrite:
        """Return a widening in which a path computes the new units."""
        if not isinstance(module, nn.Linear | _ConvNd) or getattr(module, "groups", 1) > 1:
            raise ChangeError(
                f"{at or 'the model'} is of type {type(module).__name__}; channels can be concatenated to those of an nn.Linear or a "
                "convolution without groups; use form='sum'"
            )
        weight, produced = within(at, "weight"), 1 if isinstance(module, _ConvTransposeNd) else 0
        out, width = module.weight.shape[produced], layers[-1].shapes()["weight"][0]
        first, aliases = next((name, all) for name, all in coupling.aliases.items() if weight in (name, *all))
        refused = ChangeError(
            f"the channels of {at} are reshaped or split, or its weight has several uses, so that those of a path cannot come after them; "
            "use form='sum'"
        )
        if coupling.axes[first][produced].find().form is not None or {*aliases} != {weight}:
            raise refused
        # The path takes the place of the new units of a widening: what reads them follows as in that change.
        wide = Widen(to=out + width, form="zero").rewrite(coupling, at, seed)
        entry = wide.map[weight]
        index = entry.index if isinstance(entry, Take) else ()
        at_end = torch.tensor([*range(out), *[FRESH] * width])
        # the new units come after all others, and nothing else of the weight changes
        if not all(i is None if k != produced else i is not None and torch.equal(i.cpu(), at_end) for k, i in enumerate(index)):
            raise refused
        held = {within(at, name) for name in named_tensors(module)}
        # The layer itself keeps its shape and its numbers, as the path computes the new units.
        edits = [
            edit
            for edit in wide.edits
            if not (isinstance(edit, Resize) and edit.name in held) and not (isinstance(edit, SetNumber) and edit.module == at)
        ]
        others = {name: entry for name, entry in wide.map.items() if name not in held}
        # Counted from the end, so that a single input without a batch is concatenated along the same axis.
        axis = -1 if isinstance(module, nn.Linear) else -len(module.kernel_size) - 1
        return Rewrite((*edits, Beside(at, layers, axis)), others | dict(entries), Claim.exact(), wide.questions)

    def _layers(self, calls: Calls, at: str, module: nn.Module) -> tuple[Layer, ...]:
        """Return the layers of the path."""
        where = at or "the model"
        if isinstance(module, nn.RNNBase):
            raise ChangeError(
                f"{where} is of type {type(module).__name__} and returns a tuple; add a path to the layer before or after it"
            )
        if is_leaf(module):
            calls.require_no_readers(at)
        found = set()
        for call in calls.of(at):
            if len(call.inputs) != 1 or len(call.outputs) != 1:
                raise ChangeError(
                    f"{where} is called with {len(call.inputs)} tensors and {len(call.outputs)} of its results are used; a path needs one "
                    "of each"
                )
            # The path has one shape for all calls, in both modes.
            found.add((_channels(where, call.inputs[0], module), _channels(where, call.outputs[0], module)))
        if len(found) > 1:
            raise ChangeError(f"{where} is called with different shapes, and a path can be made for one only")
        ((before, after),) = found
        channels, out = before.channels, after.channels
        width = self.width or out
        if self.form == "concatenate":
            out = width
        relu = Layer("ReLU")
        if isinstance(module, _ConvNd):
            rank = len(module.kernel_size)
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            options = {n: getattr(module, n) for n in (*names, *["output_padding"] * module.transposed)}
            # The first layer of the path sees what the convolution sees, and so its output has the same space.
            kind = "ConvTranspose" if isinstance(module, _ConvTransposeNd) else "Conv"
            first = Layer(f"{kind}{rank}d", {"in_channels": channels, "out_channels": width, **options})
            return first, relu, Layer(f"Conv{rank}d", {"in_channels": width, "out_channels": out, "kernel_size": 1})
        if before.axis == before.rank - 1 and after.axis == after.rank - 1:
            if before.others != after.others:
                raise ChangeError(f"{where} changes the shape {before.others} of its input to {after.others}; a path would not")
            first = Layer("Linear", {"in_features": channels, "out_features": width})
            return first, relu, Layer("Linear", {"in_features": width, "out_features": out})
        if (before.axis, before.rank) != (after.axis, after.rank) or before.axis > 1 or before.others != after.others:
            raise ChangeError(
                f"{where} changes the size of an image or the order of its axes; a path can be added beside the convolutions in it"
            )
        rank = before.rank - before.axis - 1
        first = Layer(f"Conv{rank}d", {"in_channels": channels, "out_channels": width, "kernel_size": 3, "padding": 1})
        return first, relu, Layer(f"Conv{rank}d", {"in_channels": width, "out_channels": out, "kernel_size": 1})


@attrs.frozen
class _Shape:
    """The shape of an activation: the axis of its channels, their number, and the sizes of the other axes."""

    rank: int
    axis: int
    channels: int
    others: tuple[int, ...]


def _channels(where: str, node: Node, module: nn.Module) -> _Shape:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise ChangeError(
            f"{where} receives or returns something else than a tensor of real numbers; a path needs such a tensor"
        )
    shape = tuple(map(int, value.shape))
    axis = channel_axis(node)
    # These modules say where their channels are. It need not be found in the graph, which ends at an input of the model.
    if isinstance(module, _ConvNd):
        axis = len(shape) - len(module.kernel_size) - 1
    elif isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
        axis = len(shape) - 1
    if axis is None:
        what = "the input of the model" if node.op == "placeholder" else line(node)
        raise ChangeError(f"it does not follow from the graph along which axis the channels lie at {where} ({what})")
    return _Shape(len(shape), axis, shape[axis], (*shape[:axis], *shape[axis + 1 :]))


def add_path(
    model: nn.Module,
    at: str,
    *,
    example: Any,
    width: int | None = None,
    form: str = "sum",
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ModuleChange:
    """Return the change that adds a path beside a layer or a block. The model is not modified.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the layer or block.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        width: the number of hidden units of the path; by default as many as the channels of the output.
        form: "sum": the output of the path is added, and starts at zero. "concatenate": the path returns `width` more channels, which
            are read with weights of zero at first.
        numbers: the new values of numbers that the model's classes keep, by name.
        seed: the seed of the path.

    Raises:
        ChangeError: if a path cannot be added, with the reason.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> add_path(model, "0", example=torch.ones(5, 3), width=8).model[0]
        Parallel(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): Sequential(
            (0): Linear(in_features=3, out_features=8, bias=True)
            (1): ReLU()
            (2): Linear(in_features=8, out_features=4, bias=True)
          )
        )
    """
    return grow(model, AddPath(width, form), at, example, numbers=numbers, seed=seed)
