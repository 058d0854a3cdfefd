"""Edits of a model: plain data, which replay a change of its shapes on a copy or on a fresh model of the same class."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from nasframe.errors import ChangeError
from nasframe.modules.parallel import Parallel
from nasframe.modules.stacked import Stacked
from nasframe.seeds import Seed

Number = int | float | bool | str | None | tuple[Any, ...]


def _plain(value: Any) -> Any:
    """Return a value with tuples in the place of its lists: a file has lists only."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in given.items()}


@attrs.frozen
class Layer:
    """A layer of torch.nn, described by its class and the arguments of its constructor.

    Attributes:
        type: the name of the class in torch.nn.
        options: the keyword arguments.

    Example:
        >>> Layer("Linear", {"in_features": 3, "out_features": 4}).build()
        Linear(in_features=3, out_features=4, bias=True)
    """

    type: str
    options: Mapping[str, Number] = attrs.field(factory=dict, converter=_plain_options)

    def build(self) -> nn.Module:
        """Return the layer with the initialisation of its class.

        Raises:
            ChangeError: if torch.nn has no such class, or it does not accept the options.
        """
        cls = getattr(nn, self.type, None)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise ChangeError(f"torch.nn has no layer {self.type!r}; write the name of one of its classes, such as 'Linear'")
        try:
            return cls(**self.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ChangeError(f"torch.nn.{self.type} cannot be made with {dict(self.options)}: {error}") from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's parameters and buffers, by name. Nothing is drawn."""
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in named_tensors(self.build()).items()}


@attrs.frozen
class Resize:
    """Give a parameter or a buffer another shape, under all its names if it is tied.

    New values are drawn from the normal distribution with the mean and std of the old ones; if these are all equal, with their size or
    else 1 as std for a weight, and none for a bias or a scale. New values of a buffer are the mean.

    Attributes:
        name: the name of the tensor.
        shape: the new shape.
    """

    name: str
    shape: tuple[int, ...] = attrs.field(converter=_plain)


@attrs.frozen
class SetNumber:
    """Set a number that a module keeps, such as `num_heads`.

    Attributes:
        module: the name of the module.
        attribute: the name of the attribute; "config.n_head" for a number of an object that the module keeps.
        value: a number, a string, None, or a tuple of them.
    """

    module: str
    attribute: str
    value: Number = attrs.field(converter=_plain)


def _layers(given: Iterable[Layer]) -> tuple[Layer, ...]:
    return tuple(given)


@attrs.frozen
class Replace:
    """Put an nn.Sequential of a module and further layers in the place of the module.

    Attributes:
        module: the name of the module, which becomes the first layer.
        layers: the layers after it. They get the device, the dtype, the mode and the memory format of the module, and require
            gradients if it does.
    """

    module: str
    layers: tuple[Layer, ...] = attrs.field(converter=_layers)


@attrs.frozen
class Beside:
    """Put a `Parallel` of a module and a path beside it in the place of the module.

    Attributes:
        module: the name of the module, which becomes the first part.
        layers: the layers of the path, which follow the module as those of `Replace` do.
        axis: the axis along which the outputs are concatenated, negative; None if they are added.
    """

    module: str
    layers: tuple[Layer, ...] = attrs.field(converter=_layers)
    axis: int | None = None


@attrs.frozen
class Stack:
    """Put a `Stacked` of a recurrent layer, a second one and a linear map in the place of the layer.

    Attributes:
        module: the name of the recurrent layer, which becomes the first part.
        layers: the second recurrent layer and the linear map, which follow the module as those of `Replace` do.
    """

    module: str
    layers: tuple[Layer, ...] = attrs.field(converter=_layers)


@attrs.frozen
class Unwrap:
    """Put the first part of an nn.Sequential, a `Parallel` or a `Stacked` in its place: the inverse of `Replace`, `Beside` and `Stack`.

    Attributes:
        module: the name of the container.
    """

    module: str


@attrs.frozen
class Insert:
    """Insert a copy of a block in the nn.Sequential or nn.ModuleList that contains the block.

    Attributes:
        container: the name of the container.
        name: the name of the copy in the container. Where the names are numbers, it is the position of the copy, and the blocks from
            there on get the next numbers. Otherwise it is a new name, and the copy comes after the block.
        copy_of: the name of the block in the container.
    """

    container: str
    name: str
    copy_of: str


ModuleEdit = Resize | SetNumber | Replace | Beside | Stack | Unwrap | Insert

_KINDS: Mapping[str, type[Any]] = {
    "resize": Resize,
    "set_number": SetNumber,
    "replace": Replace,
    "beside": Beside,
    "stack": Stack,
    "unwrap": Unwrap,
    "insert": Insert,
}


def edit_to_dict(edit: ModuleEdit) -> dict[str, Any]:
    """Return an edit as JSON values."""
    # A name of the format, and not that of the class, so that a class can be renamed and old files are still read.
    kind = next(kind for kind, cls in _KINDS.items() if type(edit) is cls)
    return {"edit": kind, **attrs.asdict(edit)}


def edit_from_dict(values: Any) -> ModuleEdit:
    """Return the edit with these JSON values.

    Raises:
        ChangeError: if the values are not those of an edit.

    Example:
        >>> edit_from_dict(edit_to_dict(SetNumber("0", "out_features", 5)))
        SetNumber(module='0', attribute='out_features', value=5)
    """
    kind = values.get("edit") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ChangeError(f"{values!r} is no edit; it must have the key 'edit' with one of {', '.join(map(repr, _KINDS))}")
    # The file may have been edited by hand: each value is checked before a class receives it.
    given = {key: value for key, value in values.items() if key != "edit"}
    fields = {f.name for f in attrs.fields(_KINDS[kind])}
    if given.keys() != fields:
        raise ChangeError(f"an edit {kind!r} has the keys {', '.join(sorted(fields))}, not {', '.join(sorted(given))}")
    # All other fields are names.
    names = fields - {"shape", "value", "layers", "axis"}
    if not all(isinstance(given[name], str) for name in names):
        raise ChangeError(f"an edit {kind!r} has strings under {', '.join(sorted(names))}, not those of {given!r}")
    if "shape" in given and not (
        isinstance(given["shape"], list | tuple) and all(type(n) is int and n >= 0 for n in given["shape"])
    ):
        raise ChangeError(f"the shape {given['shape']!r} of an edit must be a list of numbers")
    if "value" in given and not _is_number(given["value"]):
        raise ChangeError(f"the value {given['value']!r} of an edit must be a number, a string, null, or a list of them")
    # The type itself, because true is a bool, and bools are integers.
    if "axis" in given and not (given["axis"] is None or (type(given["axis"]) is int and given["axis"] < 0)):
        raise ChangeError(f"the axis {given['axis']!r} of an edit must be a negative number or null")
    if "layers" in given:
        given["layers"] = (
            # `_layer` refuses None with the message for what is no layer.
            [_layer(layer) for layer in given["layers"]] if isinstance(given["layers"], list | tuple) else [_layer(None)]
        )
    edit: ModuleEdit = _KINDS[kind](**given)
    return edit


def _is_number(value: Any) -> bool:
    return all(map(_is_number, value)) if isinstance(value, list | tuple) else isinstance(value, int | float | str | None)


def _layer(values: Any) -> Layer:
    if (
        not isinstance(values, Mapping)
        or values.keys() != {"type", "options"}
        or not isinstance(values["type"], str)
        or not isinstance(values["options"], Mapping)
        or not all(map(_is_number, values["options"].values()))
    ):
        raise ChangeError(
            f"{values!r} is no layer; it must have a 'type', a class of torch.nn, and 'options', a table of numbers"
        )
    return Layer(values["type"], values["options"])


def replay(model: nn.Module, edits: Iterable[ModuleEdit], seed: Seed, filled: Container[str] = frozenset()) -> nn.Module:
    """Make edits on a model, in place, and return it.

    This is how a child gets its shapes, from a copy of its parent, and how a grown model is rebuilt from a fresh instance of its
    class. Values of tensors that keep their shape are not changed.

    Args:
        model: the model. If an edit replaces the model itself, another module is returned.
        edits: the edits, in order.
        seed: the seed of the new values.
        filled: the names of resized tensors of which every value will be set: none are drawn for them.

    Raises:
        ChangeError: if an edit does not fit the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> edits = [Resize("0.weight", (5, 3)), Resize("0.bias", (5,)), Resize("1.weight", (2, 5))]
        >>> edits += [SetNumber("0", "out_features", 5), SetNumber("1", "in_features", 5)]
        >>> replay(model, edits, Seed((0,)))
        Sequential(
          (0): Linear(in_features=3, out_features=5, bias=True)
          (1): Linear(in_features=5, out_features=2, bias=True)
        )
    """
    places: dict[int, list[tuple[nn.Module, str]]] | None = None
    for number, edit in enumerate(edits):
        if isinstance(edit, Resize):
            # found once for all resizes in a row: looking a tensor up under all its names reads the whole model
            places = _places(model) if places is None else places
            # Seeded by name, so that the values of a tensor do not depend on which others are resized.
            _resize(model, edit, places, None if edit.name in filled else seed("resize", edit.name))
        elif isinstance(edit, SetNumber):
            _set_number(model, edit)
        elif isinstance(edit, Replace | Beside | Stack):
            # Seeded by position, as one module may be replaced twice. What was found of tensors is no longer complete.
            model, places = _replace(model, edit, seed("replace", number)), None
        elif isinstance(edit, Unwrap):
            model, places = _unwrap(model, edit), None
        else:
            _insert(model, edit)
            places = None
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by all their names: a tied tensor has several."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ChangeError(f"the model has no module {name!r}; give a model of the class that was changed") from None


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return, by the id of each tensor, the modules that have it and its name there."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, name))
    return places


def _resize(model: nn.Module, edit: Resize, places: dict[int, list[tuple[nn.Module, str]]], seed: Seed | None) -> None:
    path, _, name = edit.name.rpartition(".")
    module = _module(model, path)
    old = {**module._parameters, **module._buffers}.get(name)
    if old is None:
        raise ChangeError(f"the model has no parameter or buffer {edit.name!r}; give a model of the class that was changed")
    if old.dim() != len(edit.shape):
        raise ChangeError(
            f"{edit.name} has the shape {tuple(old.shape)}, and cannot get {edit.shape} with another number of axes"
        )
    new: Tensor = _fresh(old, edit.shape, seed)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
        # what a user notes on a parameter, such as `weight.no_decay = True`
        vars(new).update(vars(old))
    # Removed, as the id of a tensor that is gone may become that of another one.
    for holder, attribute in places.pop(id(old)):
        # recurrent modules also renew their list of weights here
        setattr(holder, attribute, new)
        places.setdefault(id(new), []).append((holder, attribute))


def _fresh(old: Tensor, shape: tuple[int, ...], seed: Seed | None) -> Tensor:
    """Return a tensor of another shape with values that are distributed as those of `old`; without a seed they are arbitrary."""
    layout = _layout(old)
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    new = new if layout is None else new.contiguous(memory_format=layout)
    if old.is_meta or seed is None:
        return new
    values = old.detach().to(torch.promote_types(old.dtype, torch.float32))
    mean = values.mean() if old.numel() else torch.zeros(())
    mean = torch.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0)
    # The mean is what a buffer gets, and where the normal distribution of a weight has its middle.
    new.fill_(mean.item())
    # Buffers are statistics or constants: a random variance could be negative.
    if isinstance(old, nn.Parameter) and old.is_floating_point() and (old.numel() > 1 or old.dim() > 1):
        std = values.std().item() if old.numel() > 1 else 0.0
        if not std and old.dim() > 1:
            # the weights of units must differ, or the units would stay equal
            std = abs(mean.item()) or 1.0
        # drawn on the CPU, so that the values do not depend on the device
        noise = torch.randn(shape, generator=seed.generator(), dtype=values.dtype)
        new += noise.to(values.device).mul_(std).to(old.dtype)
    return new


def holder(module: nn.Module, attribute: str) -> Any:
    """Return the object that keeps a number of a module: the module, or an object of the module such as a configuration.

    Args:
        module: the module.
        attribute: the name of the attribute; "config.n_head" for the attribute n_head of the object `module.config`.
    """
    held: Any = module
    for name in attribute.split(".")[:-1]:
        held = getattr(held, name, None)
        # What a module in between keeps is a number of that module, and has its name.
        if isinstance(held, nn.Module):
            return None
    return held


def _set_number(model: nn.Module, edit: SetNumber) -> None:
    held, name = holder(_module(model, edit.module), edit.attribute), edit.attribute.rpartition(".")[2]
    missing = object()
    old = getattr(held, name, missing)
    if old is missing or not isinstance(old, int | float | str | tuple | list | None):
        kept = "no attribute" if old is missing else f"a {type(old).__name__} as"
        raise ChangeError(f"{edit.module or 'the model'} has {kept} {edit.attribute!r}, and no number that can be set")
    # Edits have tuples only; the code may need a list, to append to it.
    value: Any = list(edit.value) if isinstance(old, list) and isinstance(edit.value, tuple) else edit.value
    try:
        setattr(held, name, value)
    except AttributeError as error:
        raise ChangeError(
            f"{edit.attribute!r} of {edit.module or 'the model'} cannot be set: {type(held).__name__} is frozen; keep the number as "
            "an attribute of the module"
        ) from error


def _replace(model: nn.Module, edit: Replace | Beside | Stack, seed: Seed) -> nn.Module:
    module = _module(model, edit.module)
    with seed.as_global():
        layers = [layer.build() for layer in edit.layers]
    # a module without tensors, such as an activation, follows the others of the model
    like = next((t for m in (module, model) for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()), None)
    # A module without parameters says nothing about what is trained: then new ones are.
    trainable = [p.requires_grad for p in module.parameters()]
    layouts = {p.dim(): layout for p in model.parameters() if (layout := _layout(p)) is not None}
    for layer in layers:
        layer.train(module.training).requires_grad_(any(trainable) or not trainable)
        if like is not None:
            layer.to(device=like.device, dtype=like.dtype)
        for parameter in layer.parameters():
            if parameter.dim() in layouts:
                parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.dim()])
    new: nn.Module
    if isinstance(edit, Replace):
        new = nn.Sequential(module, *layers)
    elif isinstance(edit, Beside):
        new = Parallel(module, nn.Sequential(*layers), edit.axis)
    else:
        new = _stacked(module, layers)
    # Set here and not by `train`, which would also set the mode of parts of the module that are frozen in evaluation mode.
    for part in (new, *([new[1]] if isinstance(new, Parallel) else [])):
        part.training = module.training
    return _put(model, module, new)


def _put(model: nn.Module, module: nn.Module, new: nn.Module) -> nn.Module:
    """Return the model in which a module is replaced under all of its names."""
    if module is model:
        return new
    for parent in [*model.modules()]:
        for name, child in [*parent._modules.items()]:
            # All names of the module but the one that it has in its new container.
            if child is module and parent is not new:
                parent._modules[name] = new
    return model


def _unwrap(model: nn.Module, edit: Unwrap) -> nn.Module:
    container = _module(model, edit.module)
    if not isinstance(container, nn.Sequential | nn.ModuleList) or not len(container):
        raise ChangeError(f"{edit.module or 'the model'} is a {type(container).__name__}, which has no first part")
    return _put(model, container, next(container.children()))


def _stacked(module: nn.Module, layers: Sequence[nn.Module]) -> Stacked:
    if len(layers) != 2 or not all(isinstance(part, nn.RNNBase) for part in (module, layers[0])):
        kinds = ", ".join(type(part).__name__ for part in (module, *layers))
        raise ChangeError(f"a recurrent layer can be stacked with a recurrent layer and a linear map, and not {kinds}")
    return Stacked(module, *layers)  # type: ignore[arg-type]


def _layout(tensor: Tensor) -> torch.memory_format | None:
    """Return the layout in memory of an image's weight whose channels come last, or None for any other tensor."""
    for dim, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dim and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return layout
    return None


def _insert(model: nn.Module, edit: Insert) -> None:
    container = _module(model, edit.container)
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        raise ChangeError(
            f"{edit.container or 'the model'} is a {type(container).__name__}; a block can be inserted only in an nn.Sequential or an "
            "nn.ModuleList, which say in which order their blocks run"
        )
    names = [*container._modules]
    blocks = [container._modules[name] for name in names]
    if edit.copy_of not in names:
        raise ChangeError(f"{edit.container or 'the model'} has no block {edit.copy_of!r}; it has {', '.join(names)}")
    copied = copy.deepcopy(container._modules[edit.copy_of])
    if names == [str(i) for i in range(len(names))]:
        if not edit.name.isdigit() or int(edit.name) > len(names):
            raise ChangeError(
                f"{edit.name!r} is no position in {edit.container or 'the model'}; write a number up to {len(names)}"
            )
        blocks.insert(int(edit.name), copied)
        names = [str(i) for i in range(len(blocks))]
    else:
        if edit.name in names:
            raise ChangeError(f"{edit.container or 'the model'} has a block {edit.name!r} already; write another name")
        at = names.index(edit.copy_of) + 1
        names.insert(at, edit.name)
        blocks.insert(at, copied)
    # Filled anew, because a dictionary keeps the place of a key, and the order is that in which the blocks run.
    container._modules.clear()
    for name, block in zip(names, blocks, strict=True):
        container._modules[name] = block
