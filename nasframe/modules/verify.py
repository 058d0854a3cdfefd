"""Measure what a change does to a model: the distance of its outputs in both modes, and its gradients against the map.

Neither the parent nor the child is run. Both are measured on copies that share their parameters and nothing else, so that buffers,
modes, attributes and gradients stay as they are, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasframe.change.claim import Claim, tolerance
from nasframe.change.map import Map, Set, Take
from nasframe.errors import ChangeError, ClaimError
from nasframe.modules.example import Example
from nasframe.seeds import Seed


@attrs.frozen
class Distances:
    """The relative distances max |child - parent| / max |parent| of the outputs.

    Attributes:
        eval: in evaluation mode.
        train: in training mode, with random draws replaced by their means.
    """

    eval: float
    train: float


def distances(parent: nn.Module, child: nn.Module, example: Example, claim: Claim) -> Distances:
    """Return the distances of a child's outputs from those of its parent.

    Args:
        parent: the model before the change.
        child: the model after it.
        example: the inputs.
        claim: the claim of the change.

    Raises:
        ClaimError: if the claim is exact and the outputs differ by more than rounding.
        ChangeError: if one of them does not run on the example, the outputs of the child are not finite, or the claim is exact and
            those of the parent are zero, so that nothing can be seen of a change.
    """
    found = [_distance(parent, child, example, claim, training) for training in (False, True)]
    if claim.kind == "exact" and not any(shown for _, shown in found):
        raise ChangeError(
            "the model returns nothing but zeros for the example, so that a wrong change would pass as exact; make the change after a step "
            "of training, or give the last layer other weights than zeros first"
        )
    return Distances(*(distance for distance, _ in found))


def _distance(parent: nn.Module, child: nn.Module, example: Example, claim: Claim, training: bool) -> tuple[float, bool]:
    """Return the distance of the outputs in one mode, and whether there are outputs other than zero, on which it can be seen."""
    mode = "training" if training else "evaluation"
    with _errors(f"the model cannot be called with this example in {mode} mode"):
        # The parent first: where it does not run either, the example is wrong, and not the change.
        before = outputs(parent, example, training)
    # torch.export shows what an instance keeps, and not the constants of its class
    kept = ", ".join(f"{name!r}: ..." for name in _class_numbers(child))
    hint = f"; a number that the class of a module keeps can be given, as numbers={{{kept}}}" if kept else ""
    with _errors(
        f"the child does not run in {mode} mode: its code uses a size, or a module, in a way that was not recognised{hint}"
    ):
        after = outputs(child, example, training)
    if [tuple(t.shape) for t in before] != [tuple(t.shape) for t in after]:
        raise ChangeError(
            f"the child returns the shapes {_shapes(after)}, and its parent {_shapes(before)}; a change must keep the shapes of the "
            "outputs"
        )
    if not before:
        raise ChangeError("the model returns no tensors for the example, so that a change cannot be measured")
    worst = 0.0
    rounding: list[float] | None = None
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if not old.numel():
            continue
        if not (old.is_floating_point() or old.is_complex()):
            # Integers and masks: a difference of 1 must not wrap around, and `tolerance` needs a dtype with an eps.
            old, new = old.double(), new.double()
        # equal values include equal infinities, such as those of a mask
        same = (old == new) | (old.isnan() & new.isnan())
        difference = float((new - old).abs().masked_fill(same, 0.0).max())
        reference = torch.where(old.isfinite(), old, torch.zeros_like(old)).abs()
        if not math.isfinite(difference):
            raise ChangeError(f"in {mode} mode the outputs of the child are not finite where those of its parent are")
        if claim.kind == "exact" and not difference <= tolerance(reference):
            # Measured only where `tolerance` does not suffice, because it takes two more passes.
            rounding = _rounding(parent, example, training, before) if rounding is None else rounding
            # Ten times what was seen on torchvision's models, where an exact change moved outputs by 0.8 of such a movement at
            # most.
            allowed = max(tolerance(reference), 8 * rounding[number])
            if not difference <= allowed:
                raise ClaimError(
                    f"the change claims to be exact, but in {mode} mode an output differs by {difference:.3g}, and rounding allows "
                    f"{allowed:.3g}; the model computes with a size in a way that its graph does not show"
                )
        # Relative to the largest entry, and not entry by entry: those near zero have large relative errors by rounding alone.
        worst = max(worst, difference / max(float(reference.max()), torch.finfo(old.dtype).tiny))
    return worst, any(bool(old.any()) for old in before)


def _class_numbers(model: nn.Module) -> list[str]:
    """Return the names of the whole numbers that the classes of a model's modules keep, other than those of torch."""
    classes = {cls for module in model.modules() for cls in type(module).__mro__ if not cls.__module__.startswith("torch.")}
    return sorted({name for cls in classes for name, value in vars(cls).items() if type(value) is int and name[0] != "_"})


def _rounding(model: nn.Module, example: Example, training: bool, before: list[Tensor]) -> list[float]:
    """Return how far each output moves if every parameter moves by one unit of rounding, up or down at random.

    A model may enlarge rounding: BatchNorm over two values divides by their difference, and 50 layers of it turn 1e-16 into 1e-8. On
    torchvision's models the distance of an exact change was below 0.8 times the larger of two such movements.
    """
    moved = copy.deepcopy(model)
    worst = [0.0] * len(before)
    for draw in range(2):
        with torch.no_grad():
            for (name, p), source in zip(moved.named_parameters(), model.parameters(), strict=True):
                if p.is_floating_point():
                    generator = Seed((0, "rounding", draw, name)).generator()
                    signs = torch.randint(2, p.shape, generator=generator).to(p) * 2 - 1
                    # From the source, so that the second draw does not add to the first.
                    p.copy_(source * (1 + torch.finfo(p.dtype).eps * signs))
        for i, (old, new) in enumerate(zip(before, outputs(moved, example, training), strict=True)):
            if old.numel():
                worst[i] = max(worst[i], float((new.double() - old.double()).nan_to_num().abs().max()))
    return worst


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)


def outputs(model: nn.Module, example: Example, training: bool) -> list[Tensor]:
    """Return the tensors that a model returns, with random draws replaced by their means.

    Args:
        model: the model, which is not modified.
        example: the inputs.
        training: whether to run it in training mode: in its present modes if it is in training mode, so that a module that is frozen
            in evaluation mode stays so, and otherwise with all modules in training mode.
    """
    with torch.no_grad():
        return _run(model, example, training)


def gradients(model: nn.Module, example: Example, training: bool) -> dict[str, Tensor]:
    """Return the gradients of the trainable parameters, by name, for a fixed random linear function of the outputs.

    Args:
        model: the model, which is not modified.
        example: the inputs.
        training: as for `outputs`.
    """
    # A random combination of all outputs: a sum would be constant after a softmax, and have no gradient.
    generator = Seed((0, "gradients")).generator()
    with torch.enable_grad():
        found = [t for t in _run(model, example, training) if t.requires_grad]
        # drawn on the CPU in float64, and so the same on all devices and in all dtypes
        weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in found]
        loss = torch.stack([(t * w).sum() for t, w in zip(found, weights, strict=True)]).sum()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # not `backward`, which would add to the gradients that the user's parameters have
        values = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    return {name: torch.zeros_like(p) if v is None else v for (name, p), v in zip(named.items(), values, strict=True)}


def gradient_distance(parent: nn.Module, child: nn.Module, entries: Map, example: Example, training: bool = False) -> float:
    """Return how far the gradients of a child are from what the map says of them, relative to the largest of each tensor.

    An optimiser's moments follow the map, so its next steps are right only if the gradients follow it as well. The map says nothing of
    new entries.

    Args:
        parent: the model before the change.
        child: the model after it.
        entries: the map; a parameter without an entry is one of the same name in the parent.
        example: the inputs.
        training: as for `outputs`.
    """
    before, after = gradients(parent, example, training), gradients(child, example, training)
    largest = max((float(g.abs().max()) for g in before.values() if g.numel()), default=0.0)
    worst = 0.0
    for name, gradient in after.items():
        entry = entries.get(name, Take(name))
        if isinstance(entry, Set) or entry.source not in before or not gradient.numel():
            continue
        expected = entry.moment(before[entry.source], 1)
        new, zero = entry.new_entries(gradient)
        difference = float((gradient - expected).abs().masked_fill(new | zero, 0.0).max())
        # A gradient may be zero but for rounding, such as that of a bias before a normalisation. It is compared with
        # the other tensors.
        floor = math.sqrt(torch.finfo(gradient.dtype).eps) * largest
        worst = max(worst, difference / max(float(expected.abs().max()), floor, torch.finfo(gradient.dtype).tiny))
    return worst


def _run(model: nn.Module, example: Example, training: bool) -> list[Tensor]:
    # Whatever the forward changes, it changes in the copy, which shares the parameters and nothing else.
    model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    if training != model.training:
        model.train(training)
    # In evaluation mode all parts are set, as one may have been left in training mode.
    elif not training:
        model.eval()
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with _full_precision(), _fixed_generators(device), Means():
        returned = example.copied().call(model)
    return [t for t in tree_leaves(returned) if isinstance(t, Tensor)]


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Compute products of float32 numbers in float32 within a `with` block: a GPU may round their factors to 10 bits (TF32)."""
    backends = torch.backends
    # one attribute for each kind of operation since torch 2.9
    new = [getattr(backend, kind, None) for backend in (backends.cudnn, backends.mkldnn) for kind in ("matmul", "conv", "rnn")]
    settings: list[tuple[Any, str, Any]] = [
        (place, "fp32_precision", "ieee") for place in (backends.cuda.matmul, *new) if hasattr(place, "fp32_precision")
    ] or [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
    before = [getattr(place, name) for place, name, _ in settings]
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)


@contextlib.contextmanager
def _fixed_generators(device: torch.device) -> Iterator[None]:
    """Seed all global generators within a `with` block, and restore their states afterwards."""
    # A user's forward may draw from Python's or NumPy's generator, too.
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    try:
        with Seed((0, "verify")).as_global(device):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn an error of the user's code into one that says what does not run, and at which line."""
    try:
        yield
    except ChangeError:
        raise
    except Exception as error:
        where = _line(error)
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ChangeError(f"{what} ({where}{text[0]})") from error


def _line(error: BaseException) -> str:
    """Return the last line outside of torch and nasframe at which an error occurred, as "file:line: "."""
    torch_folder, nasframe_folder = Path(torch.__file__).parent, Path(__file__).parent.parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not path.is_relative_to(torch_folder) and not path.is_relative_to(nasframe_folder):
            return f"{path.name}:{frame.lineno}: "
    return ""


class Means(TorchDispatchMode):
    """Random draws are replaced by their means, so that two networks with different shapes can be compared in training mode.

    The draws are replaced where PyTorch executes them, whatever part of the model made them: dropout, stochastic depth, the dropout
    within attention or between the layers of a recurrent network.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation, or return its mean if it draws random numbers."""
        name, kwargs = func._schema.name.removeprefix("aten::"), dict(kwargs or {})
        # torch marks what draws, except for the functions that create a tensor
        if torch.Tag.nondeterministic_seeded not in func.tags and name not in CREATE:
            return func(*args, **kwargs)
        # A generator of the user is not advanced.
        kwargs |= {"generator": None} if "generator" in kwargs else {}
        names = [a.name for a in func._schema.arguments]
        given = {a.name: a.default_value for a in func._schema.arguments} | dict(zip(names, args, strict=False)) | kwargs
        if name in CREATE:
            # Called for its shape, dtype and device, and overwritten.
            created = func(*args, **kwargs)
            return created.copy_(torch.as_tensor(CREATE[name](given), dtype=created.dtype))
        if name.removesuffix("_") in DRAWS:
            mean = DRAWS[name.removesuffix("_")](given, func._schema.overload_name)
            if name.endswith("_"):
                return args[0].copy_(mean) if isinstance(mean, Tensor) else args[0].fill_(mean)
            if isinstance(mean, Tensor):
                # A draw is a new tensor, into which the code may write.
                return mean.clone()
            # two numbers and a size create a tensor
            return torch.full_like(args[0] if isinstance(args[0], Tensor) else func(*args, **kwargs), mean)
        if name in ("dropout", "alpha_dropout"):
            return given["input"].clone()
        if name in ("native_dropout", "_fused_dropout"):
            # The mean of dropout is its input: nothing is dropped, and what is kept is not scaled.
            kept = args[0].clone()
            return kept, torch.ones_like(kept, dtype=torch.bool if name == "native_dropout" else torch.uint8)
        if not SWITCHES.keys() & given.keys():
            raise ChangeError(
                f"the model draws random numbers with torch's {name}, which has no mean, so that the change cannot be measured; give "
                "the draws to the model as an input"
            )
        args = tuple(SWITCHES.get(n, value) for n, value in zip(names, args, strict=False))
        return func(*args, **{n: SWITCHES.get(n, value) for n, value in kwargs.items()})


#: the means of operations that create a random tensor, of the arguments by name
CREATE: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "rand": lambda given: 0.5,
    "rand_like": lambda given: 0.5,
    "randn": lambda given: 0.0,
    "randn_like": lambda given: 0.0,
    "randint": lambda given: ((given.get("low") or 0) + given["high"] - 1) // 2,
    "randint_like": lambda given: ((given.get("low") or 0) + given["high"] - 1) // 2,
    "randperm": lambda given: torch.arange(given["n"]),
}


def _normal(given: Mapping[str, Any], overload: str) -> Any:
    if overload == "float_Tensor":
        return torch.full_like(given["std"], given["mean"])
    return given["mean"].expand_as(given["std"]) if overload == "Tensor_Tensor" else given["mean"]


#: the means of operations that draw, of the arguments by name and the name of the overload
DRAWS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "bernoulli": lambda given, overload: given["p"] if "p" in given else given["self"],
    "uniform": lambda given, overload: (given["from"] + given["to"]) / 2,
    "normal": _normal,
    "normal_functional": lambda given, overload: given["mean"],
    "exponential": lambda given, overload: 1 / given["lambd"],
    "geometric": lambda given, overload: 1 / given["p"],
    "log_normal": lambda given, overload: math.exp(given["mean"] + given["std"] ** 2 / 2),
    "poisson": lambda given, overload: given["self"],
    "_standard_gamma": lambda given, overload: given["self"],
}

#: arguments that switch the draws of an operation off: attention, recurrent layers, and the slopes of RReLU
SWITCHES: Mapping[str, Any] = {"dropout": 0.0, "dropout_p": 0.0, "training": False}
