"""The lineage of a grown model: a JSON file with its changes, which are replayed on a new instance of the original class."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from nasframe.errors import ChangeError
from nasframe.modules.edits import ModuleEdit, edit_from_dict, edit_to_dict, named_tensors, replay
from nasframe.records import finite
from nasframe.seeds import Seed

#: the version of the format, which changes when an older nasframe could not read it
FORMAT = 1

#: the shapes of the parameters and buffers of a model, by name
Shapes = Mapping[str, tuple[int, ...]]


@attrs.frozen
class Step:
    """One change of a lineage.

    Attributes:
        morphism: the kind, the name and the options of the morphism.
        at: the place where it was applied.
        claim: the kind of its claim.
        distances: the distances that were measured, by mode.
        seed: the seed of the change.
        edits: the edits that gave the model its shapes.
        shapes: the shapes after the change.
    """

    morphism: Mapping[str, Any]
    at: str
    claim: str
    distances: Mapping[str, float]
    seed: int
    edits: tuple[ModuleEdit, ...]
    shapes: Shapes


@attrs.frozen
class Lineage:
    """The changes of a model, in order.

    Attributes:
        start: the shapes of the original model.
        steps: the changes.
    """

    start: Shapes
    steps: tuple[Step, ...] = ()

    @property
    def shapes(self) -> Shapes:
        """Return the shapes after the last change."""
        return self.steps[-1].shapes if self.steps else self.start


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters and buffers of a model, by all their names."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}


def append(path: Path, before: Shapes, step: Step) -> None:
    """Add a change to a lineage file, which is created if there is none.

    Args:
        path: the path of the file.
        before: the shapes of the parent of the change.
        step: the change.

    Raises:
        ChangeError: if the file cannot be read or written, or ends with other shapes than `before`. It is then as it was.
    """
    lineage = read(path) if path.exists() else Lineage(before)
    # A lineage is replayed step by step, so that a step must begin where the last one ended.
    _check_shapes(
        f"{path} ends with a model that is not the parent of this change",
        lineage.shapes,
        before,
        "the parent; save() adds a change to the lineage of the changes before it: if this file is of an earlier run, delete it or give "
        "another name",
    )
    plain = {
        "format": FORMAT,
        "start": lineage.start,
        "changes": [
            # Not recursive, because edits are written with their kind. A distance may be infinite, which JSON does not have.
            attrs.asdict(s, recurse=False)
            | {"edits": [edit_to_dict(e) for e in s.edits], "distances": {k: finite(v) for k, v in s.distances.items()}}
            for s in (*lineage.steps, step)
        ],
    }
    text = json.dumps(plain, allow_nan=False, indent=1)
    # Written beside the file and renamed, so that a process that is killed leaves the old file or the new one.
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            # On the disk before the name points to it: a rename may survive a loss of power that the content does not.
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        # A full disk must not leave a part of a file behind.
        new.unlink(missing_ok=True)
        raise ChangeError(f"cannot write {path}: {error.strerror or error}") from error


def read(path: Path) -> Lineage:
    """Read a lineage file.

    Args:
        path: the path of the file.

    Raises:
        ChangeError: if it cannot be read, or is no lineage.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ChangeError(f"cannot read the lineage {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise ChangeError(f"{path} is no lineage: it is not JSON ({error}); give a file that change.save() wrote") from error
    if not isinstance(plain, dict) or not {"format", "start", "changes"} <= plain.keys():
        raise ChangeError(
            f"{path} is no lineage: it must have the keys format, start and changes, as change.save() writes them"
        )
    if plain["format"] != FORMAT:
        raise ChangeError(
            f"{path} has the format {plain['format']!r}, and this nasframe reads {FORMAT}; install the version that wrote it"
        )
    if not isinstance(plain["changes"], list):
        raise ChangeError(f"{path} is no lineage: its changes must be a list")
    steps = []
    for number, values in enumerate(plain["changes"]):
        where = f"{path}, change {number}"
        fields = {f.name for f in attrs.fields(Step)}
        if not isinstance(values, dict) or values.keys() != fields or not isinstance(values["edits"], list):
            raise ChangeError(f"{where} must have the keys {', '.join(sorted(fields))}, with a list of edits")
        if type(values["seed"]) is not int or not isinstance(values["at"], str):
            raise ChangeError(f"{where} must have a whole number as seed and a name as place")
        try:
            edits = tuple(map(edit_from_dict, values["edits"]))
        except ChangeError as error:
            raise ChangeError(f"{where}: {error}") from error
        steps.append(Step(**values | {"edits": edits, "shapes": _shapes(where, values["shapes"])}))
    return Lineage(_shapes(str(path), plain["start"]), tuple(steps))


def rebuild(model: nn.Module, path: str | Path) -> nn.Module:
    """Return a model in the shapes of a grown one, ready for its state dictionary.

    Args:
        model: a new instance of the original class. It is not modified.
        path: the path of the lineage file.

    Raises:
        ChangeError: if the file cannot be read, or the model is not the one at its start.

    Example:
        Grow a model and save how it grew; then give a new model these shapes, as another process would, and load the weights:

        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> def net():
        ...     return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     change = nasframe.widen(net(), "0", to=6, example=torch.ones(5, 3))
        ...     change.save(f"{folder}/lineage.json")
        ...     model = nasframe.rebuild(net(), f"{folder}/lineage.json")
        >>> model.load_state_dict(change.model.state_dict())
        <All keys matched successfully>
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ChangeError(
            f"rebuild() was given {kind}; give a new instance of the original class, such as rebuild(Net(), path)"
        )
    lineage = read(Path(path))
    _check_shapes(f"the model is not the one at the start of {path}", shapes_of(model), lineage.start, "the file")
    model = copy.deepcopy(model)
    for number, step in enumerate(lineage.steps):
        try:
            model = replay(model, step.edits, Seed((step.seed, "values")))
        except ChangeError as error:
            raise ChangeError(f"{path}, change {number}: {error}") from error
        _check_shapes(
            f"change {number} of {path} gives other shapes than it records", shapes_of(model), step.shapes, "the file"
        )
    return model


def _shapes(where: str, values: Any) -> dict[str, tuple[int, ...]]:
    fits = isinstance(values, dict) and all(
        isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) for shape in values.values()
    )
    if not fits:
        raise ChangeError(f"{where} must have shapes, a list of numbers for each name")
    return {name: tuple(shape) for name, shape in values.items()}


def _check_shapes(what: str, found: Shapes, wanted: Shapes, by: str) -> None:
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            raise ChangeError(f"{what}: {name} is {found.get(name, 'missing')}, and {wanted.get(name, 'missing')} in {by}")
