"""What refers to the parent follows a change in place: optimisers, averages of the weights, and state dictionaries.

Schedulers, gradient scalers and closures hold an optimiser, so it must stay the same object, with the same parameter groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, get_args

import attrs
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer
from torch.optim.swa_utils import AveragedModel

from nasframe.change.fill import fill
from nasframe.change.map import Map, Take
from nasframe.change.optimisers import Moments, check_state, follow_state
from nasframe.errors import ChangeError
from nasframe.modules.edits import ModuleEdit, named_tensors, replay
from nasframe.seeds import Seed

#: the states that optimisers make in their constructor, and not (or only in recent versions of torch) in the first step of a parameter
INITIAL: Mapping[type[Optimizer], Callable[[Mapping[str, Any], Tensor], dict[str, Any]]] = {
    Adagrad: lambda group, p: {
        "step": torch.tensor(0.0),
        "sum": torch.full_like(p, group["initial_accumulator_value"], memory_format=torch.preserve_format),
    }
}


def follow_optimiser(optimiser: Optimizer, parent: nn.Module, child: nn.Module, entries: Map, moments: Moments) -> None:
    """Let an optimiser of the parent optimise the child, in place.

    The parameter groups and their settings stay. A parameter takes the place of the one from which it was filled. A new one joins the
    group of its neighbour: for a weight (two axes or more) the nearest weight before it, and for a bias or a scale the nearest one of
    those, since the two are often in different groups. If none comes before it, the neighbour is the nearest parameter of all, or, where
    the groups separate the two kinds, the nearest one of its kind. If the neighbour is not in this optimiser, neither is the new
    parameter.

    A group in the order of the parent's `parameters()`, or of its sorted names, gets the order of the child's, because PyTorch loads the
    state of an optimiser by position. In a group with another order, new parameters come last.

    Args:
        optimiser: the optimiser, which holds parameters of the parent. Those of other models stay.
        parent: the model before the change.
        child: the model after it.
        entries: the map with an entry for each tensor that was filled from the parent.
        moments: what becomes of the moments.

    Raises:
        ChangeError: if the optimiser holds no parameter of the parent, or its state cannot follow. It is then not modified.
    """
    # a wrapper, such as that of accelerate, shows the groups of the optimiser in it
    while isinstance(inner := getattr(optimiser, "optimizer", None), Optimizer):
        optimiser = inner
    if isinstance(optimiser, LBFGS):
        raise ChangeError(
            "LBFGS keeps one state for all parameters together, which cannot follow; make a new one after the change: "
            "optimizer = torch.optim.LBFGS(change.model.parameters(), ...)"
        )
    if moments not in get_args(Moments):
        raise ChangeError(f"moments is {moments!r}; it must be one of {', '.join(map(repr, get_args(Moments)))}")
    name_of = {id(p): name for name, p in parent.named_parameters()}
    # A tied parameter has several names. Here it has the first one, as in `named_parameters()`.
    known = {name: name_of[id(t)] for name, t in named_tensors(parent).items() if id(t) in name_of}
    parameters = dict(child.named_parameters())
    sources = {name: known[e.source] for name in parameters if isinstance(e := entries.get(name), Take) and e.source in known}
    # The other way round: a parameter may be the source of several, or of none.
    followers: dict[str, list[str]] = {}
    for name, source in sources.items():
        followers.setdefault(source, []).append(name)

    if not any(id(p) in name_of for group in optimiser.param_groups for p in group["params"]):
        raise ChangeError(
            "the optimiser holds no parameter of the parent of the change; an optimiser follows each change once, in the order of the "
            "changes"
        )
    if moments != "reset":
        check_state(optimiser)
    groups: list[list[_Slot]] = []
    for group in optimiser.param_groups:
        slots: list[_Slot] = []
        for p, label in zip(group["params"], group.get("param_names", [""] * len(group["params"])), strict=True):
            if id(p) not in name_of:
                # a parameter of another part stays: the model that was changed may be a part of a larger one
                slots.append(_Slot(p, label, "", optimiser.state.get(p)))
                continue
            for name in followers.get(name_of[id(p)], ()):
                state, entry = None, entries[name]
                # Looked for before it is read: the state is a defaultdict, in which reading an entry makes it.
                if p in optimiser.state and isinstance(entry, Take):
                    state = follow_state(optimiser, group, optimiser.state[p], entry, moments)
                # A label may have a prefix, if the model was named as a part of a larger one.
                slots.append(_Slot(parameters[name], label.removesuffix(name_of[id(p)]) + name, name, state))
        groups.append(slots)
    added: list[list[_Slot]] = [[] for _ in groups]
    for name in (name for name in parameters if name not in sources):
        neighbour = _neighbour(name, parameters, sources, groups)
        for slots, new in zip(groups, added, strict=True):
            beside = next((slot for slot in slots if neighbour and slot.name == neighbour), None)
            if beside is not None:
                new.append(_Slot(parameters[name], beside.label.removesuffix(beside.name) + name, name, None))
    for group, slots, new in zip(optimiser.param_groups, groups, added, strict=True):
        held = [name_of[id(p)] for p in group["params"] if id(p) in name_of]
        slots[:] = _merged(slots, new, held, [*name_of.values()], [*parameters])

    # Everything that can fail is done: from here on the optimiser is modified.
    # The parent's parameters must not stay as keys, which would keep their memory.
    optimiser.state.clear()
    initial = next((INITIAL[cls] for cls in type(optimiser).__mro__ if cls in INITIAL), None)
    for group, slots in zip(optimiser.param_groups, groups, strict=True):
        group["params"][:] = [slot.parameter for slot in slots]
        if "param_names" in group:
            group["param_names"][:] = [slot.label for slot in slots]
        for slot in slots:
            if slot.state:
                optimiser.state[slot.parameter] = slot.state
            elif initial is not None:
                optimiser.state[slot.parameter] = initial(group, slot.parameter)


@attrs.frozen(eq=False)
class _Slot:
    """A parameter in a group of an optimiser: its name in the optimiser, if that has names, and in the child, and its state."""

    parameter: nn.Parameter
    label: str
    name: str
    state: dict[str, Any] | None


def _merged(slots: list[_Slot], added: list[_Slot], held: list[str], before: list[str], after: list[str]) -> list[_Slot]:
    """Return the slots of a group with the added ones, in the order of the child's parameters if the group had that of the parent's.

    Args:
        slots: the slots of the group without the added ones.
        added: the slots of new parameters.
        held: the names in the parent of the group's old parameters, in their order.
        before: the names of all parameters of the parent.
        after: the names of all parameters of the child.
    """
    arrangements: tuple[Callable[[list[str]], list[str]], ...] = (list, sorted)
    for arranged in arrangements:
        old, new = ({name: i for i, name in enumerate(arranged(names))} for names in (before, after))
        if held == sorted(held, key=old.__getitem__):
            # Parameters of other models stay in the front or at the end of the group, or before the parameter that follows them.
            keys, key = [], float("inf")
            for slot in reversed(slots):
                key = new[slot.name] if slot.name else key
                keys.append(key)
            keys.reverse()
            first = next((i for i, slot in enumerate(slots) if slot.name), 0)
            keys[:first] = [-1.0] * first
            keys += [new[slot.name] for slot in added]
            return [slot for _, slot in sorted(zip(keys, [*slots, *added], strict=True), key=lambda pair: pair[0])]
    return [*slots, *added]


def _neighbour(
    name: str, parameters: Mapping[str, Tensor], sources: Mapping[str, str], groups: list[list[_Slot]]
) -> str | None:
    """Return the parameter with a source whose group a new parameter joins."""
    names = [*parameters]
    place, of = names.index(name), parameters[name]
    # From the nearest to the farthest: first those before it, then those after it.
    others = [n for n in (*reversed(names[:place]), *names[place:]) if n in sources]
    # A frozen parameter is in no optimiser, and its new neighbour is to be trained.
    others = [n for n in others if parameters[n].requires_grad or not of.requires_grad]
    alike = [n for n in others if (parameters[n].dim() > 1) == (of.dim() > 1)]
    before = {*names[:place]}
    if (nearest := next((n for n in alike if n in before), None)) is not None:
        return nearest
    nearest = next(iter(others), None)
    held = [{slot.name for slot in slots if slot.name} for slots in groups]
    # Where the group of the nearest parameter has weights only and another one biases only, or the other way round, the groups
    # were made by the number of axes.
    if any(nearest in group and group.isdisjoint(alike) for group in held):
        separate = set().union(*(group for group in held if group <= {*alike}))
        return next((n for n in alike if n in separate), nearest)
    return nearest


def follow_copy(copied: nn.Module, parent: nn.Module, child: nn.Module, entries: Map, edits: Iterable[ModuleEdit]) -> None:
    """Change a copy of the parent, such as an average of its weights, as the child was changed, in place.

    What is new in the child starts with the values of the child.

    Args:
        copied: the copy, with weights that differ from those of the parent; `AveragedModel` is followed as a whole.
        parent: the model before the change.
        child: the model after it.
        entries: the map with an entry for each tensor that was filled from the parent.
        edits: the edits of the change.

    Raises:
        ChangeError: if it is no copy of the parent, or is the parent itself. It is then not modified.
    """
    module = copied.module if isinstance(copied, AveragedModel) else copied
    before = named_tensors(module)
    # by storage, because a detached tensor or a view is another object with the same values
    modules = {id(m) for m in (*parent.modules(), *child.modules())}
    storages = {_storage(t) for m in (parent, child) for t in named_tensors(m).values()}
    if any(id(m) in modules for m in module.modules()) or any(t.numel() and _storage(t) in storages for t in before.values()):
        raise ChangeError(
            "this is the parent or the child of the change, or has tensors of them; neither is modified: write model = change.model, and "
            "let a copy follow, such as an AveragedModel"
        )
    _check_same("the copy of the model", before, named_tensors(parent))
    # cloned, because a tensor that keeps its shape is filled in place while others still read it
    old = {id(t): t.detach().clone() for t in before.values()}
    values = {name: old[id(t)] for name, t in before.items()}
    changed = replay(module, edits, Seed((0,)))
    if changed is not module:
        if not isinstance(copied, AveragedModel):
            raise ChangeError(
                "the change replaced the model itself, so that a copy cannot follow in place; copy the child instead"
            )
        copied.module = changed
    after, template = named_tensors(changed), named_tensors(child)
    # First all values of the child, for new entries of old tensors. Then the map fills what has a source or was set.
    with torch.no_grad():
        for name, tensor in after.items():
            tensor.copy_(template[name])
    fill(values, after, {name: entry for name, entry in entries.items() if name in after})


def follow_state_dict(values: MutableMapping[str, Tensor], parent: nn.Module, child: nn.Module, entries: Map) -> None:
    """Change a state dictionary of the parent, or a dictionary of its parameters, to one of the child, in place.

    Args:
        values: the dictionary. Its entries are replaced, and their tensors are not modified: it may hold those of the parent.
        parent: the model before the change.
        child: the model after it.
        entries: the map with an entry for each tensor that was filled from the parent.

    Raises:
        ChangeError: if it does not have the names and shapes of the parent. It is then not modified.
    """
    if values.keys() == {"state", "param_groups"}:
        raise ChangeError(
            "this is the state dictionary of an optimiser, which does not refer to its parameters; give the optimiser itself, as "
            "change.follow(optimizer), and take its state_dict() afterwards"
        )
    before: Mapping[str, Tensor] = parent.state_dict()
    template: Mapping[str, Tensor] = child.state_dict()
    # A dictionary of the parameters alone has no buffers, and no second names of tied parameters.
    if values.keys() != before.keys() and values.keys() == dict(parent.named_parameters()).keys():
        before, template = dict(parent.named_parameters()), dict(child.named_parameters())
    _check_same("the state dictionary", values, before)
    # the old tensors stay as they are: another dictionary may hold them as well
    new = {name: tensor.detach().clone() for name, tensor in template.items()}
    fill(dict(values), new, {name: e for name, e in entries.items() if name in new and _source(e) in values})
    values.clear()
    values.update(new)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _source(entry: Any) -> Any:
    return entry.source if isinstance(entry, Take) else None


def _check_same(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in [*wanted, *found]:
        pair = [tuple(t[name].shape) if name in t else "missing" for t in (found, wanted)]
        if pair[0] != pair[1]:
            raise ChangeError(
                f"{what} does not have the tensors of the parent: {name} is {pair[0]}, and {pair[1]} in the parent; it follows each "
                "change once, in the order of the changes"
            )
