"""Changes of any model: a copy is edited, filled from its parent, measured, and held to its claim.

The parent is never modified, so it stays in place if any step fails.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from nasframe.change.claim import Claim
from nasframe.change.fill import fill
from nasframe.change.map import Map, Set, Take
from nasframe.change.optimisers import Moments
from nasframe.errors import ChangeError, ClaimError
from nasframe.interfaces.part import short_name, to_plain
from nasframe.modules.coupling import couple, require_module
from nasframe.modules.edits import (
    Beside,
    Insert,
    ModuleEdit,
    Replace,
    Resize,
    SetNumber,
    Stack,
    Unwrap,
    holder,
    named_tensors,
    replay,
)
from nasframe.modules.example import Example
from nasframe.modules.follow import follow_copy, follow_optimiser, follow_state_dict
from nasframe.modules.lineage import Step, append, shapes_of
from nasframe.modules.morphism import ModuleMorphism, Question, Rewrite, Undo
from nasframe.modules.verify import Distances, distances, outputs
from nasframe.seeds import Seed


@attrs.frozen(eq=False)
class ModuleChange:
    """A change of a model that was made and measured.

    Attributes:
        model: the model after the change, which shares no storage with its parent.
        parent: the model before it, which was not modified.
        morphism: the morphism.
        at: the place where it was applied.
        claim: how far the change preserves the function.
        map: how the tensors of the model were filled from those of the parent, for every tensor that was.
        distances: how far the outputs on the example moved.
        edits: the edits that gave the model its shapes.
        seed: the seed of the new values.
        example: the inputs on which the change was measured.
        undo: what reverts the change; None if no morphism does.
    """

    model: nn.Module
    parent: nn.Module
    morphism: ModuleMorphism
    at: str
    claim: Claim
    map: Map
    distances: Distances
    edits: tuple[ModuleEdit, ...]
    seed: int
    example: Example = attrs.field(repr=False)
    undo: Undo | None = None

    def undone(self) -> ModuleChange:
        """Return the change that reverts this one: from `model`, as it is now, to the shapes of `parent`. Neither is modified.

        Directly after the change, the outputs of the parent are restored. If the model has learned since then, so has what was added:
        the change back is usually lossy, and has the measured distance. The numbers that the change has set get their old values.

        Raises:
            ChangeError: if no morphism reverts the change, or it is refused for the model as it is now.

        Example:
            Take a growth back that did not help, and go on with what the old units have learned::

                back = change.undone()
                model = back.model
                back.follow(optimizer)
        """
        if self.undo is None:
            raise ChangeError(
                f"no morphism reverts {short_name(self.morphism)} at {self.at or 'the model'}; change.parent is the model before the change"
            )
        rewrite = self.undo.morphism.rewrite(couple(self.model, self.example), self.undo.at, Seed((self.seed, "rewrite")))
        # Numbers that a user gave do not follow from the code, but those before the change are known.
        set_before = dict.fromkeys((e.module, e.attribute) for e in self.edits if isinstance(e, SetNumber))
        restored = tuple(
            SetNumber(module, name, attrgetter(name)(self.parent.get_submodule(module))) for module, name in set_before
        )
        kept = tuple(e for e in rewrite.edits if not (isinstance(e, SetNumber) and (e.module, e.attribute) in set_before))
        questions = tuple(q for q in rewrite.questions if (q.module, q.attribute) not in set_before)
        # What the change back has worked out for these numbers, or asks about them, is dropped.
        rewrite = attrs.evolve(rewrite, edits=(*kept, *restored), questions=questions)
        return make(self.model, self.undo.morphism, self.undo.at, rewrite, self.example, seed=self.seed)

    def follow(self, target: Any, moments: Moments = "carried") -> None:
        """Let what refers to the parent refer to the new model, in place.

        Args:
            target: an optimiser; a copy of the parent, such as a `torch.optim.swa_utils.AveragedModel`; or a state dictionary of such a
                copy. A scheduler or gradient scaler needs nothing, because it refers to its optimiser.
            moments: what becomes of the moments of an optimiser. "carried": they follow the map, first moments as the gradient and second
                moments as its square. "zeroed": first moments and momentum start at zero, second moments and step counts are
                carried. "reset": the state starts anew, as that of a new optimiser. Where an old tensor gets new entries, the step count of
                Adam and AdamW is lowered, and the moments are scaled with it (see `nasframe.change.optimisers.CORRECTED`).

        Raises:
            ChangeError: if the target cannot follow. It is then not modified.
        """
        if isinstance(target, Optimizer):
            follow_optimiser(target, self.parent, self.model, self.map, moments)
        elif isinstance(target, nn.Module):
            follow_copy(target, self.parent, self.model, self.map, self.edits)
        elif isinstance(target, MutableMapping):
            follow_state_dict(target, self.parent, self.model, self.map)
        else:
            raise ChangeError(
                f"a {type(target).__name__} cannot follow a change; give an optimiser, a copy of the model such as an AveragedModel, or "
                "a state dictionary. Schedulers and gradient scalers refer to their optimiser: let that follow"
            )

    def save(self, path: str | Path) -> None:
        """Add the change to a lineage file, from which `nasframe.rebuild` gives a new instance of the model's class its shapes.

        Args:
            path: the path of the file, which is created if there is none.

        Raises:
            ChangeError: if the file is no lineage, or its last model has other shapes than the parent of this change. The file is then
                as it was.
        """
        step = Step(
            {"kind": self.morphism.kind, **to_plain(self.morphism)},
            self.at,
            self.claim.kind,
            attrs.asdict(self.distances),
            self.seed,
            self.edits,
            shapes_of(self.model),
        )
        append(Path(path), shapes_of(self.parent), step)

    def __str__(self) -> str:
        before, after = named_tensors(self.parent), named_tensors(self.model)
        lines = [f"{short_name(self.morphism)} at {self.at or 'the model'}: {self.claim.kind}"]
        # A tensor may have another name than its source, and is compared with the source.
        for name, tensor in after.items():
            entry = self.map.get(name)
            source = before.get(entry.source if isinstance(entry, Take) else name) if not isinstance(entry, Set) else None
            old = "new" if source is None else str(tuple(source.shape))
            # New tensors and those with another shape only: a change leaves most of a model as it is.
            if old != str(tuple(tensor.shape)):
                lines.append(f"  {name}: {old} -> {tuple(tensor.shape)}")
        lines += [f"  {old}* -> {new}*{' (copied)' if copied else ''}" for old, new, copied in _renamed(self.map)]
        for edit in self.edits:
            if isinstance(edit, SetNumber) and not any(name.startswith("_") for name in edit.attribute.split(".")):
                held = attrgetter(edit.attribute)(self.parent.get_submodule(edit.module))
                # The model itself has the name "", which would leave a dot in front of the attribute.
                lines.append(f"  {edit.module}.{edit.attribute}: {held} -> {edit.value}".replace("  .", "  "))
        count = [f"{sum(p.numel() for p in model.parameters()):,}" for model in (self.parent, self.model)]
        lines.append(f"  parameters: {' -> '.join(count)}")
        lines.append(
            f"  distance of the outputs: {self.distances.eval:.1e} in evaluation, {self.distances.train:.1e} in training"
        )
        if _equal_copies(self.map):
            lines.append("  copies of units have equal shares, and stay equal in training unless dropout or noise parts them")
        return "\n".join(lines)


def _renamed(entries: Map) -> list[tuple[str, str, bool]]:
    """Return the prefixes of names before and after a change, and whether it copied what also has its old name."""
    found: dict[tuple[str, str, bool], None] = {}
    for name, entry in entries.items():
        if not isinstance(entry, Take) or entry.source == name:
            continue
        old, new = entry.source.split("."), name.split(".")
        # What both names end with is the tensor within its module. What is before it names the module that moved.
        while old and new and old[-1] == new[-1]:
            old.pop()
            new.pop()
        kept = entries.get(entry.source)
        copied = isinstance(kept, Take) and kept.source == entry.source
        found["".join(f"{part}." for part in old), "".join(f"{part}." for part in new), copied] = None
    return [*found]


def _equal_copies(entries: Map) -> bool:
    """Return whether units were copied, and all copies of a unit have the same factors of values and gradients, and the same offset."""
    found = False
    for entry in (entry for entry in entries.values() if isinstance(entry, Take)):
        for axis, index in enumerate(entry.index):
            if index is None:
                continue
            units, unit = index.unique(return_inverse=True)
            if not bool((unit.bincount()[units >= 0] > 1).any()):
                continue
            found = True
            for factor in (entry.value, entry.gradient, entry.offset):
                # Factors are broadcast, so that their axes are counted from the last one. A factor without this axis is equal
                # for all.
                dim = axis - len(entry.index) + (factor.dim() if isinstance(factor, Tensor) else 0)
                if not isinstance(factor, Tensor) or dim < 0 or factor.shape[dim] == 1:
                    continue
                first = torch.full_like(units, len(index)).scatter_reduce(
                    0, unit, torch.arange(len(index), device=unit.device), "amin"
                )
                # each entry against the first one of the same unit
                same = factor == factor.index_select(dim, first[unit].to(factor.device))
                # New entries are no copies: their factors mean nothing.
                old = (index >= 0).to(factor.device).view([-1 if d == dim else 1 for d in range(factor.dim())])
                if not bool((same | ~old).all()):
                    return False
    return found


def grow(
    model: nn.Module,
    morphism: ModuleMorphism,
    at: str,
    example: Any,
    *,
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ModuleChange:
    """Apply a morphism to a model and return the change. The model is not modified.

    Args:
        model: the model.
        morphism: the morphism, of nasframe or of anybody.
        at: the place, such as the name of a module (see `nasframe.places`).
        example: inputs of the model: a tensor, a tuple of arguments, or a dictionary of keyword arguments. The change is measured on
            them.
        numbers: the new values of numbers that the model's modules keep and that do not follow from its code, by the name of the
            attribute ("heads", for all modules that have it) or with the name of the module ("blocks.0.attention.heads").
        seed: the seed of the new values.

    Raises:
        ChangeError: if the change is refused, with the reason. The model is as it was.

    Example:
        Widen a layer by the class of the morphism, which `nasframe.widen` does in one line:

        >>> import torch
        >>> from torch import nn
        >>> from nasframe.modules.widen import Widen
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> change = nasframe.grow(model, Widen(to=6), "0", torch.ones(5, 3))
        >>> change.model[0].weight.shape
        torch.Size([6, 3])
    """
    refuse_unsupported(model)
    if not isinstance(at, str):
        name = next((name for name, module in model.named_modules() if module is at), None) or "conv"
        raise ChangeError(f"at is of type {type(at).__name__}; give the name of a layer, such as {name!r}")
    example = Example.of(example)
    rewrite = morphism.rewrite(couple(model, example), at, Seed((seed, "rewrite")))
    return make(model, morphism, at, rewrite, example, numbers=numbers, seed=seed)


def make(
    model: nn.Module,
    morphism: ModuleMorphism,
    at: str,
    rewrite: Rewrite,
    example: Any,
    *,
    numbers: Mapping[str, int] | None = None,
    seed: int = 0,
) -> ModuleChange:
    """Make the change that a morphism has worked out, measure it, and return it. The model is not modified.

    Args:
        model: the model.
        morphism: the morphism.
        at: the place.
        rewrite: what the morphism does to the model there.
        example: inputs of the model, as for `grow`.
        numbers: as for `grow`.
        seed: the seed of the new values.

    Raises:
        ChangeError: if the change is refused, with the reason. The model is as it was.
    """
    # Checked here, too: `ModuleChange.undone` and others make a rewrite without `grow`.
    refuse_unsupported(model)
    # Everything that can be refused without a copy of the model is refused first.
    edits = answered(model, rewrite.edits, rewrite.questions, numbers or {})
    _refuse_held_elsewhere(model, edits)
    missing = [e.name for e in edits if isinstance(e, Resize) and e.name not in rewrite.map]
    if missing:
        raise ChangeError(f"{short_name(morphism)} resizes {', '.join(missing)} without an entry of its map that fills them")
    child = changed_copy(model, edits, rewrite.map, Seed((seed, "values")))
    given = Example.of(example)
    # Whether some changes are exact depends on the values: those have a second claim, which holds if the first one does not.
    claim = rewrite.claim
    try:
        measured = distances(model, child, given, claim)
    except ClaimError:
        if rewrite.otherwise is None:
            raise
        claim = rewrite.otherwise
        measured = distances(model, child, given, claim)
    if unused := _never_called(child, _added(edits), given):
        raise ChangeError(
            f"{', '.join(unused)} would never be called, and so never learn: the code of the model runs its modules in another way than "
            "in the order of their container, for example by number; a number that it keeps can be given as numbers={...}"
        )
    # `follow` needs an entry for each parameter that is the parent's, also for those that the change does not touch.
    full = complete(rewrite.map, model, child)
    return ModuleChange(child, model, morphism, at, claim, full, measured, edits, seed, given, rewrite.undo)


def changed_copy(model: nn.Module, edits: Iterable[ModuleEdit], entries: Map, seed: Seed) -> nn.Module:
    """Return a copy of a model with these edits, filled from it."""
    # drawing the values that an entry sets as a whole would take most of the time
    filled = {name for name, entry in entries.items() if isinstance(entry, Set) or not entry.has_new}
    child = replay(_copied(model), edits, seed, filled)
    fill(named_tensors(model), named_tensors(child), entries)
    return child


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, with what a user noted on its parameters, such as `bias.no_decay = True`."""
    try:
        child = copy.deepcopy(model)
    except Exception as error:
        raise ChangeError(
            f"the model cannot be copied ({error}); tensors with a gradient function in its attributes, locks and open files are the "
            "usual reasons: remove them before the change"
        ) from error
    # `deepcopy` of a parameter copies its values, and not the attributes that were set on it.
    for old, new in zip(model.parameters(), child.parameters(), strict=True):
        vars(new).update(vars(old))
    return child


def complete(entries: Map, parent: nn.Module, child: nn.Module) -> Map:
    """Return the map with an entry for each tensor of the child that is a copy of the one with its name in the parent."""
    before = named_tensors(parent)
    return {name: Take(name) for name in named_tensors(child) if name in before} | dict(entries)


def answered(
    model: nn.Module, edits: tuple[ModuleEdit, ...], questions: Iterable[Question], numbers: Mapping[str, int]
) -> tuple[ModuleEdit, ...]:
    """Return the edits of a rewrite with the numbers that a user gave, which replace those of the rewrite.

    Raises:
        ChangeError: if no module has an attribute of a given name, or a number is needed that was not given.
    """
    given: dict[tuple[str, str], SetNumber] = {}
    for key, value in numbers.items():
        # "heads" is an attribute of any module, "blocks.0.heads" of the module blocks.0, "config.heads" of what a module keeps
        paths = [(name, module, key.removeprefix(f"{name}.") if name else key) for name, module in model.named_modules()]
        found = [
            (name, attribute)
            for name, module, attribute in paths
            if isinstance(getattr(holder(module, attribute), attribute.rpartition(".")[2], None), int | float | tuple)
        ]
        if not found:
            raise ChangeError(f"numbers has the key {key!r}, but no module of the model keeps a number of that name")
        given |= {place: SetNumber(*place, value) for place in found}
    for question in questions:
        if (question.module, question.attribute) not in given:
            readings = " or ".join(map(str, question.readings)) or "unknown"
            raise ChangeError(
                f"{question.module or 'the model'} keeps the number {question.attribute!r}, and its new value does not follow from the "
                f"code (it could be {readings}); write numbers={{{question.attribute!r}: ...}}"
            )
    kept = tuple(e for e in edits if not (isinstance(e, SetNumber) and (e.module, e.attribute) in given))
    # First, as their names are those of the parent: an edit that inserts a block gives the blocks after it other names.
    return (*given.values(), *kept)


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse a model that cannot be copied and changed without losing something.

    Raises:
        ChangeError: with what to write instead.
    """
    require_module(model)
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        name = type(model).__name__
        raise ChangeError(
            f"the model is wrapped in {name}; change the module in it on every process, with the same seed, and wrap the child again: "
            f"change = nasframe.widen(model.module, ...); model = {name}(change.model, ...)"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ChangeError("the model is a ScriptModule, whose code cannot be changed; change the model that was scripted")
    # torch.compile() returns a module that keeps the model under this name.
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        raise ChangeError(
            "the model is the result of torch.compile(); change the model that was compiled, and compile the child: "
            "model = torch.compile(change.model)"
        )
    for name, module in model.named_modules():
        where = name or "the model"
        # By name, so that the packages for distributed training are not imported for those who do not use them.
        if type(module).__name__ == "FullyShardedDataParallel" or _sharded(module):
            raise ChangeError(
                f"{where} is sharded by FSDP, so that no process has its tensors; change the model before it is sharded"
            )
        if module._compiled_call_impl is not None:
            raise ChangeError(
                f"{where} was compiled in place by compile(), whose options a copy would lose; keep the model as it is, train "
                "compiled = torch.compile(model), and compile the child again after the change"
            )
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks):
            raise ChangeError(
                f"{where} has hooks, which may refer to the parent; remove them (for weight_norm and spectral_norm use "
                "torch.nn.utils.parametrizations), and add them to the child after the change"
            )
    for name, tensor in named_tensors(model).items():
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            raise ChangeError(
                f"{name} is a {type(tensor).__name__}, and not a plain parameter or buffer, so that it cannot be resized"
            )
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            raise ChangeError(
                f"{name} has hooks, which the child would lose; remove them, and add them to the child after the change"
            )
        # eps is 1.2e-7 for float32, 9.8e-4 for float16 and 7.8e-3 for bfloat16, and `tolerance` allows 256 times as much.
        if tensor.is_floating_point() and torch.finfo(tensor.dtype).eps > 1e-4:
            raise ChangeError(
                f"{name} has the dtype {tensor.dtype}, in which rounding is so large that a wrong change would pass as exact; keep the "
                "parameters in float32 (torch.autocast computes in lower precision), or change model.float() and convert the child"
            )


def _sharded(module: nn.Module) -> bool:
    return any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)


def _added(edits: Iterable[ModuleEdit]) -> Iterator[str]:
    """Yield the names of the modules that edits add."""
    for edit in edits:
        if isinstance(edit, Insert):
            yield f"{edit.container}.{edit.name}" if edit.container else edit.name
        elif isinstance(edit, Replace | Beside | Stack):
            # The old module becomes part 0 of what takes its place; the parts after it are new.
            last = 1 if isinstance(edit, Beside) else len(edit.layers)
            yield from (f"{edit.module}.{n}" if edit.module else str(n) for n in range(1, last + 1))


def _never_called(model: nn.Module, names: Iterable[str], example: Example) -> list[str]:
    """Return which of a model's modules it does not call, neither in training nor in evaluation mode."""
    missing = dict.fromkeys(names)
    for training in (True, False):
        if missing:
            # hooks of this run only: with hooks, torch's transformer layers take another path through their code
            handles = [
                model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: missing.pop(name, None))
                for name in missing
            ]
            try:
                outputs(model, example, training)
            finally:
                for handle in handles:
                    handle.remove()
    return [*missing]


def _refuse_held_elsewhere(model: nn.Module, edits: Iterable[ModuleEdit]) -> None:
    """Refuse a change of tensors and modules that plain attributes also refer to, because those would keep the old ones."""
    tensors = named_tensors(model)
    # By storage, so that views and detached tensors are found as well.
    storages = {t.untyped_storage()._cdata: name for name, t in tensors.items() if t.numel()}
    resized = {id(tensors[e.name]) for e in edits if isinstance(e, Resize) and e.name in tensors}
    replaced = {id(model.get_submodule(e.module)) for e in edits if isinstance(e, Replace | Beside | Stack | Unwrap)}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            # These follow by themselves: an edit replaces their entries, and recurrent layers renew their list when a weight is
            # set.
            if attribute in ("_parameters", "_buffers", "_modules") or (
                attribute == "_flat_weights" and isinstance(module, nn.RNNBase)
            ):
                continue
            where = f"{name}.{attribute}" if name else attribute
            for leaf in tree_leaves(value):
                if isinstance(leaf, Tensor) and leaf.numel() and leaf.untyped_storage()._cdata in storages:
                    of = storages[leaf.untyped_storage()._cdata]
                    # The copy of a view is no view of the copy; the tensor itself is copied once, and stays the same.
                    if id(leaf) in resized or not any(leaf is t for t in tensors.values()):
                        raise ChangeError(
                            f"the attribute {where} also holds {of}, outside of the parameters and buffers, and would keep the old "
                            "tensor; look it up when it is needed"
                        )
                if isinstance(leaf, nn.Module) and id(leaf) in replaced:
                    raise ChangeError(
                        f"the attribute {where} also holds a module that is replaced; look it up when it is needed"
                    )
