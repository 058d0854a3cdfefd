"""The laws of morphisms of any module: tried on small models that have trained for a few steps."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nasframe import Claim, Seed, Take
from nasframe.change.claim import tolerance
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.change import ModuleChange, make
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.edits import edit_to_dict, named_tensors
from nasframe.modules.example import Example
from nasframe.modules.lineage import rebuild as rebuilt_by
from nasframe.modules.morphism import ModuleMorphism, Rewrite
from nasframe.modules.verify import distances, gradient_distance, outputs
from nasframe.testing import cases as all_cases
from nasframe.testing.compare import MODES, differences, require, require_at_most, same
from nasframe.testing.examples import Model
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.strategies import cached, draw_one
from nasframe.testing.subject import Subject

#: the number of steps that a model has trained before it is changed, and that a child trains
STEPS = 3


@attrs.frozen(eq=False, kw_only=True)
class Case(all_cases.Case):
    """A morphism at one place of a model.

    Args:
        model: the model.
        place: chooses the place among those at which the morphism can be applied.
        training: whether the model is in training mode.
        seed: the seed of the change.
    """

    model: Model
    place: int
    training: bool
    seed: int

    def __str__(self) -> str:
        mode = "training" if self.training else "evaluation"
        return f"{super().__str__()} in {self.model} in {mode} mode; place {self.place} modulo their number, seed {self.seed}"

    def details(self) -> str:
        """Return the case in words, with the name of the place."""
        coupling = self.coupling()
        found = next(_possible(self.part, coupling, self.place, self.seed), None)
        return str(self) if found is None else f"{self} = {found[0]!r}"

    def coupling(self, dtype: torch.dtype = torch.float64) -> Coupling:
        """Return the coupling of a new copy of the trained model."""
        coupling = _coupled(self.model)
        model = copy.deepcopy(coupling.model).to(dtype).train(self.training)
        held = named_tensors(model)
        # The axes do not depend on the values, nor on the dtype.
        return attrs.evolve(
            coupling,
            model=model,
            example=_converted(coupling.example, dtype),
            tensors={name: held[name] for name in coupling.tensors},
        )

    def change(self, coupling: Coupling | None = None) -> ModuleChange:
        """Return the change of a copy of the model, or of the model of a coupling."""
        try:
            return _changed(self, coupling or self.coupling())
        except ChangeError:  # a refusal, or a wrong claim, which module_morphism.claim reports
            reject()

    def fresh(self) -> nn.Module:
        """Return a model of the same sizes that has not trained."""
        return _built(self.model, Seed((0, "fresh")))[0].train(self.training)


def _changed(case: Case, coupling: Coupling) -> ModuleChange:
    found = next(_possible(case.part, coupling, case.place, case.seed), None)
    if found is None:
        reject()
    return make(coupling.model, case.part, *found, coupling.example, seed=case.seed)


def _possible(part: ModuleMorphism, coupling: Coupling, place: int, seed: int) -> Iterator[tuple[str, Rewrite]]:
    """Yield the places at which a morphism can be applied, with what it does there, beginning with the chosen one."""
    found = [p.name for p in part.places(coupling) if p.refusal is None]
    first = place % len(found) if found else 0
    for at in found[first:] + found[:first]:
        try:
            rewrite = part.rewrite(coupling, at, Seed((seed, "rewrite")))
        except ChangeError:
            continue
        if not rewrite.questions:
            yield at, rewrite


def _built(model: Model, seed: Seed) -> tuple[nn.Module, Example]:
    with seed.as_global():
        built, example = model.build(*model.sizes)
    return built.double(), _converted(Example.of(example), torch.float64)


def _converted(example: Example, dtype: torch.dtype) -> Example:
    def convert(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return Example(tree_map(convert, example.args), tree_map(convert, dict(example.kwargs)))


@cached
def _coupled(model: Model) -> Coupling:
    built, example = _built(model, Seed((0, "model")))
    _train(built, example)
    return couple(built, example)


def _train(model: nn.Module, example: Example) -> None:
    """Train a model for a few steps towards random targets, in place. The gradients of the last step remain."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    with Seed((0, "training")).as_global():
        for _ in range(STEPS):
            optimiser.zero_grad()
            returned = [t for t in tree_leaves(example.copied().call(model)) if isinstance(t, Tensor) and t.requires_grad]
            torch.stack([(t - torch.randn_like(t)).square().mean() for t in returned]).sum().backward()
            optimiser.step()


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the morphism in every kind of model that it can change."""
    assert subject.parts is not None
    parts = subject.parts

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        fitting = _fitting(subject, part)
        if not fitting:
            raise NoCases(
                f"{part!r} can be applied at no place of the models that it was tried on: let the examples of the plugin have `models` "
                "that it can change, or parts with other options"
            )
        return Case(
            subject=subject,
            part=part,
            model=draw(st.one_of(fitting)),
            place=draw(st.integers(0, 60)),
            training=draw(st.booleans()),
            seed=draw(st.integers(0, 2**16)),
            data=draw(st.data()),
        )

    return draw()


@cached
def _fitting(subject: Subject, part: ModuleMorphism) -> list[SearchStrategy[Model]]:
    """Return the kinds of models that have a place at which the morphism can be applied."""

    def fits(models: SearchStrategy[Model]) -> bool:
        found = models.map(lambda model: next(_possible(part, _coupled(model), 0, 0), None))
        return draw_one(found, 4) is not None

    return [models for models in subject.models if fits(models)]


def exercise(case: Case) -> dict[str, Any]:
    """Return the places, and everything about one change."""
    coupling = case.coupling()
    change = case.change(coupling)
    return {
        "the places": [attrs.asdict(p) for p in case.part.places(coupling)],
        "the edits": [edit_to_dict(e) for e in change.edits],
        "the claim": repr(change.claim),
        "the distances": attrs.asdict(change.distances),
        **{f"the child's {n}": t.detach() for n, t in named_tensors(change.model).items()},
    }


@law(
    "module_morphism.claim",
    "outgoing weights are not divided among copies, buffers are lost, or the claim is stronger than the change",
)
def claim(case: Case) -> str | None:
    """A change is as far from its parent as it says, in float64 and float32, in training and in evaluation mode.

    A change that claims to be exact moves no output beyond rounding.
    """
    worst = 0.0
    for dtype in (torch.float64, torch.float32):
        coupling = case.coupling(dtype)
        try:
            change = _changed(case, coupling)
        except ClaimError as error:
            raise AssertionError(f"in {dtype}: {error}") from error
        except ChangeError:
            reject()
        made: Any = change.claim
        ways = "write Claim.exact() or Claim.lossy()"
        require(isinstance(made, Claim) and made.kind in ("exact", "approximate", "lossy"), f"the claim is {made!r}; {ways}")
        for mode, training in MODES.items():
            measured = max(
                float((new - old).abs().max()) / max(float(old.abs().max()), torch.finfo(old.dtype).tiny)
                for old, new in zip(
                    *(outputs(m, coupling.example, training) for m in (change.parent, change.model)), strict=True
                )
            )
            stated = change.distances.train if training else change.distances.eval
            apart = abs(stated - measured)
            require(
                apart <= tolerance(torch.tensor(1 + measured, dtype=dtype)),
                f"in {dtype} in {mode} mode the distance is {measured:.3g}, and the change says {stated:.3g}",
            )
            worst = max(worst, measured / torch.finfo(dtype).eps)
    return "but it could claim to be exact: no output moved" if made.kind != "exact" and worst < 16 else None


@law(
    "module_morphism.gradient",
    "`Take` lacks `gradient` although a unit is split, for example, and each part gets a share of it",
)
def gradient(case: Case) -> None:
    """After an exact change, the gradient of what the child has from its parent is that of the parent, taken as the map says."""
    coupling = case.coupling()
    change = case.change(coupling)
    if change.claim.kind != "exact":
        raise Inapplicable("it does not claim to be exact")
    for mode, training in MODES.items():
        distance = gradient_distance(change.parent, change.model, change.map, coupling.example, training)
        require_at_most(f"in {mode} mode the distance of the gradients from those of the map", distance, 1e-7)


@law(
    "module_morphism.twins", "new units all start at one constant, or as copies with equal shares that the map says are uneven"
)
def twins(case: Case) -> None:
    """New units differ from each other after a few steps, and so do the copies of a unit whose shares are uneven.

    Copies with equal shares remain equal, and a part need not claim otherwise.
    """
    coupling = case.coupling()
    change = case.change(coupling)
    _train(change.model, coupling.example)
    for name, parameter in change.model.named_parameters():
        if parameter.dim() < 2 or parameter.grad is None:
            continue
        rows, gradients = parameter.detach().flatten(1), parameter.grad.flatten(1)
        origin, shares = _origins(change.map.get(name), parameter.detach())
        # Rows of zeros and without a gradient belong to units that are off.
        alive = (rows != 0).any(1) & (gradients != 0).any(1)
        for one in range(len(rows)):
            for other in range(one):
                both_new = origin[one] < 0 and origin[other] < 0
                uneven = origin[one] == origin[other] >= 0 and not same(shares[one], shares[other])
                if (both_new or uneven) and bool(alive[one] & alive[other]):
                    apart = float((rows[one] - rows[other]).abs().max())
                    require(
                        apart > tolerance(rows), f"the rows {other} and {one} of {name} are still the same after {STEPS} steps"
                    )


def _origins(entry: Any, parameter: Tensor) -> tuple[list[int], Tensor]:
    """Return for each row of a parameter the row of the parent that it is a copy of, or -1, and the factors of its gradient."""
    if not isinstance(entry, Take):
        return [-1] * len(parameter), torch.ones_like(parameter)
    index = entry.index[0] if entry.index else None
    origin = list(range(len(parameter))) if index is None else [max(int(i), -1) for i in index]
    return origin, torch.as_tensor(entry.gradient, dtype=parameter.dtype).expand_as(parameter)


@law(
    "module_morphism.composition",
    "the child has hooks, unknown names or other sizes than its modules say, so that it cannot be changed",
)
def composition(case: Case) -> None:
    """The child can be changed again, and if both changes are exact, so are the two together."""
    first = case.change()
    example = _coupled(case.model).example
    try:
        coupling = couple(first.model, example)
    except ChangeError as error:
        raise AssertionError(f"the child cannot be changed again: {error}") from error
    assert case.subject.parts is not None
    part = case.data.draw(case.subject.parts)
    refused: ChangeError | None = None
    for at, rewrite in _possible(part, coupling, case.place, case.seed):
        try:
            second = make(first.model, part, at, rewrite, example, seed=case.seed)
        except ClaimError as error:
            raise AssertionError(f"after {first.at!r} the change at {at!r} is wrong: {error}") from error
        except ChangeError as error:
            refused = error
            continue
        if first.claim.kind == second.claim.kind == "exact":
            for mode, training in MODES.items():
                for old, new in zip(*(outputs(m, example, training) for m in (first.parent, second.model)), strict=True):
                    moved = float((new - old).abs().max())
                    require_at_most(f"the distance after two changes in {mode} mode", moved, 4 * tolerance(old))
        return
    if refused is not None:
        raise AssertionError(f"the child cannot be changed again: {refused}") from refused
    raise Inapplicable("it has no place in the child")


@law(
    "module_morphism.undo", "the declared `undo` removes other units or taps than those that were added, or merges them wrongly"
)
def undo(case: Case) -> None:
    """Directly after a change, undoing it restores the shapes, the numbers, the outputs and, up to rounding, the tensors of the parent.

    It holds in float64 and float32, in training and in evaluation mode, where a morphism declares what reverts its change.
    """
    coupling = case.coupling(case.data.draw(st.sampled_from([torch.float64, torch.float32])))
    found = next(_possible(case.part, coupling, case.place, case.seed), None)
    if found is not None and found[1].undo is None:
        raise Inapplicable("it declares no morphism that reverts it")
    change = case.change(coupling)
    try:
        back = change.undone()
        distances(change.parent, back.model, coupling.example, Claim.exact())
    except ChangeError as error:
        raise AssertionError(f"undoing the change at {change.at!r} does not restore the parent: {error}") from error
    before, after = named_tensors(change.parent), named_tensors(back.model)
    require(
        before.keys() == after.keys(), f"the names of the tensors are {', '.join(after)}, and {', '.join(before)} in the parent"
    )
    for name, tensor in before.items():
        shapes = tuple(tensor.shape), tuple(after[name].shape)
        require(shapes[0] == shapes[1], f"{name} had the shape {shapes[0]}, and has {shapes[1]} after the change was undone")
        if tensor.is_floating_point():
            require_at_most(f"the distance of {name}", float((after[name] - tensor).detach().abs().max()), tolerance(tensor))
    described = [[(name, str(module)) for name, module in model.named_modules()] for model in (change.parent, back.model)]
    require(described[0] == described[1], "a module describes itself in another way after the change was undone")


@law("module_morphism.untouched", "`rewrite` or `places` writes into `coupling.model`; it must return edits and a map instead")
def untouched(case: Case) -> None:
    """A change leaves the parent as it is, to the bit: its tensors, gradients, modes and attributes."""
    coupling = case.coupling()
    _train(coupling.model, coupling.example)
    coupling.model.train(case.training)
    before = _state(coupling.model)
    case.change(coupling)
    changed = differences(before, _state(coupling.model))
    require(not changed, f"{', '.join(changed)} of the parent changed")


def _state(model: nn.Module) -> dict[str, Any]:
    """Return copies of everything that a model keeps, by name; of other objects than numbers and tensors, which they are."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        return value if isinstance(value, int | float | str | None) else id(value)

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                found[f"{attribute} of {name or 'the model'}"] = tree_map(copied, value)
    for name, tensor in named_tensors(model).items():
        found |= {name: copied(tensor), f"the gradient of {name}": copied(tensor.grad)}
        found |= {f"requires_grad of {name}": tensor.requires_grad, f"the identity of {name}": id(tensor)}
    return found


@law("module_morphism.storage", "a tensor of the child is a view of one of its parent, or shared with it")
def storage(case: Case) -> None:
    """The child shares no memory with its parent."""
    change = case.change()
    of = {t.untyped_storage().data_ptr(): name for name, t in _held(change.parent).items()}
    shared = [name for name, t in _held(change.model).items() if t.untyped_storage().data_ptr() in of]
    require(not shared, f"{', '.join(shared)} of the child share memory with the parent")


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model, also those in plain attributes."""
    found = dict(named_tensors(model))
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
        found |= {f"{name}.{i}": leaf for i, leaf in enumerate(tree_leaves(plain)) if isinstance(leaf, Tensor)}
    return {name: tensor for name, tensor in found.items() if tensor.numel()}


@law(
    "module_morphism.rebuild",
    "an edit holds something that JSON has not, such as a dtype, or changes something that is in no edit",
)
def rebuild(case: Case) -> None:
    """A new instance gets the shapes of the child from the saved edits, and its outputs from its state dictionary."""
    coupling = case.coupling()
    change = case.change(coupling)
    with tempfile.TemporaryDirectory() as folder:
        change.save(Path(folder) / "lineage.json")
        again = rebuilt_by(case.fresh(), Path(folder) / "lineage.json")
    again.load_state_dict(change.model.state_dict())
    for mode, training in MODES.items():
        pair = [outputs(model, coupling.example, training) for model in (change.model, again)]
        require(same(*pair), f"in {mode} mode the rebuilt model returns something else than the child")


@law("module_morphism.refusals", "a name is looked up without saying which there are, or a refusal has no reason")
def refusals(case: Case) -> None:
    """A refusal is a ChangeError with a reason.

    A place that is listed as refused is refused, and one that does not exist as well. The others can be changed, or are refused
    with a reason.
    """
    coupling = case.coupling()
    seed = Seed((case.seed, "rewrite"))
    listed = [*case.part.places(coupling)]
    names = [place.name for place in listed]
    require(len({*names}) == len(names), f"a place is listed twice among {', '.join(names)}")
    for place in listed:
        require(place.refusal is None or bool(place.refusal.strip()), f"{place.name!r} is listed as refused without a reason")
        rewrite = _rewrite(case.part, coupling, place.name, seed)
        require(
            place.refusal is None or rewrite is None,
            f"{place.name!r} is listed as refused ({place.refusal}), and can be changed",
        )
    require(_rewrite(case.part, coupling, "no_such_place", seed) is None, "a place that does not exist is not refused")


def _rewrite(part: ModuleMorphism, coupling: Coupling, at: str, seed: Seed) -> Rewrite | None:
    """Return what a morphism does at a place, or None if it refuses it with a reason."""
    try:
        return part.rewrite(coupling, at, seed)
    except ChangeError as error:
        require(bool(str(error).strip()), f"{at!r} is refused without a reason")
        return None
    except Exception as error:
        raise AssertionError(f"{at!r} raises {error!r}; raise a ChangeError that says why it cannot be changed") from error
