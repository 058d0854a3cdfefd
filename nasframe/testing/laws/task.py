"""The laws of tasks: tried on the data that they load, and on sources that differ in the test split alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Data, NasframeError, Seed, Split, Task
from nasframe.change.claim import tolerance
from nasframe.interfaces.part import to_plain
from nasframe.network.network import tensors
from nasframe.testing.cases import Case as AnyCase
from nasframe.testing.compare import differences, largest, require, require_at_most, same
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.strategies import cached
from nasframe.testing.subject import Subject

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """A task, and the dtype of its data."""

    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{super().__str__()} in {self.dtype}"

    @property
    def loaded(self) -> Data:
        """Return the data of the task."""
        return _loaded(self.part, self.dtype)

    def positions(self, split: Split) -> Tensor:
        """Draw the positions of some examples, in any order; one may occur twice."""
        return torch.tensor(self.data.draw(st.lists(st.integers(0, split.size - 1), min_size=1, max_size=6)))

    def seed(self) -> Seed:
        """Draw a seed for random numbers of the task."""
        return Seed((self.data.draw(st.integers(0, 999)), "task"))


@cached
def _loaded(task: Task, dtype: torch.dtype) -> Data:
    return task.load(CPU, dtype)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the task in both dtypes."""
    assert subject.parts is not None
    dtypes = st.sampled_from([torch.float64, torch.float32])
    return st.builds(Case, subject=st.just(subject), part=subject.parts, data=st.data(), dtype=dtypes)


def exercise(case: Case) -> dict[str, Any]:
    """Return the data, examples drawn for training, the references, and the description of the pinned task."""
    data, seed = case.part.load(CPU, case.dtype), Seed(("exercise",))
    drawn = {}
    for name, split in _splits(data).items():
        with seed.as_global():
            drawn[f"the {name} examples that are drawn"] = split.draw(torch.arange(min(split.size, 8)))
    built = {f"the reference {name}": dict(tensors(m)) for name, m in _references(data, 30, seed).items()}
    return _contents(data) | drawn | built | {"the pinned task": to_plain(case.part.pinned())}


def _splits(data: Data) -> dict[str, Split]:
    """Return the splits that have examples."""
    return {name: getattr(data, name) for name in SPLITS if getattr(data, name).size}


def _contents(data: Data, *splits: str) -> dict[str, Any]:
    """Return the sizes, the scales and the examples of the splits, by default of all."""
    wanted = splits or SPLITS
    examples = {f"the {n} examples": s.batch(torch.arange(s.size)) for n, s in _splits(data).items() if n in wanted}
    scales = {
        f"the scale of the {n}": tensors(s) for n, s in (("inputs", data.inputs), ("outputs", data.outputs)) if s is not None
    }
    return {"the sizes": dict(data.sizes), **examples, **scales}


def _references(data: Data, parameters: int, seed: Seed) -> dict[str, Any]:
    found = {}
    for name, make in data.references(parameters).items():
        with seed.as_global():
            found[name] = make()
    return found


def _outputs(case: Case, inputs: Tensor) -> Tensor:
    """Return outputs that a network could have for the inputs: those of a reference, with some noise."""
    # A task says nothing about the shape of outputs, but its baselines have it.
    made = next(iter(case.loaded.references(30).values()), None)
    if made is None:
        raise Inapplicable("it gives no references, from which the shape of the outputs could be known")
    with torch.no_grad(), Seed(("outputs",)).as_global():
        found = made()(inputs)
        return found + 0.1 * torch.randn_like(found)


def _example_axis(two: torch.Size, three: torch.Size) -> int:
    """Return the axis of the examples, from the shapes of two and of three examples."""
    axes = [n for n, sides in enumerate(zip(two, three, strict=False)) if sides[0] != sides[1]]
    # Found by comparing shapes: recurrent networks have the examples on the second axis.
    right = [(two[n], three[n]) for n in axes] == [(2, 3)] and len(two) == len(three)
    require(right, f"two examples have the shape {tuple(two)}, three {tuple(three)}: no axis is that of the examples")
    return axes[0]


def _input_axis(split: Split) -> int:
    two, three = (split.batch(torch.zeros(n, dtype=torch.long))[0].shape for n in (2, 3))
    return _example_axis(two, three)


def _output_axis(case: Case) -> int:
    batches = (case.loaded.train.batch(torch.zeros(n, dtype=torch.long))[0] for n in (2, 3))
    two, three = (_outputs(case, inputs).shape for inputs in batches)
    return _example_axis(two, three)


@law("task.sizes", "a size is a tensor or a float, or a split has no examples")
def sizes(case: Case) -> None:
    """The sizes for the backbone are whole numbers of at least one; there is at least one training and one test example."""
    data = case.loaded
    # The sizes are written to JSON with the structure.
    for name, size in data.sizes.items():
        require(type(size) is int and size >= 1, f"the size {name!r} is {size!r}")
    for name, least in zip(SPLITS, (1, 0, 1), strict=True):
        size = getattr(data, name).size
        require(type(size) is int and size >= least, f"the {name} split has {size!r} examples")


@law("task.shape", "the last batch is padded, an axis of length one is dropped, or a split is made by other code")
def shape(case: Case) -> None:
    """A batch has an example for each position, on the first axis of the targets and one axis of the inputs.

    An example has the same shape in all splits.
    """
    found = {}
    for name, split in _splits(case.loaded).items():
        at = _input_axis(split)
        for count in (1, 2, 3):
            inputs, targets = split.batch(torch.zeros(count, dtype=torch.long))
            counts = inputs.shape[at : at + 1] + targets.shape[:1]
            require(counts == (count, count), f"{count} positions of {name} give {[*counts]} inputs and targets")
            found[name, count] = [*inputs.shape], [*targets.shape]
            require(found[name, count] == found["train", count], f"a {name} example has another shape than a train example")


@law("task.dtype", "what is not standardised, for example the targets, keeps the dtype in which it was read")
def dtype(case: Case) -> None:
    """All numbers but whole ones have the requested dtype, and all are on the requested device."""
    for name, split in _splits(case.loaded).items():
        for what, tensor in zip(("inputs", "targets"), split.batch(case.positions(split)), strict=True):
            right = tensor.dtype == case.dtype or (what == "targets" and not tensor.dtype.is_floating_point)
            require(right, f"the {name} {what} are in {tensor.dtype}, not in {case.dtype}")
            require(tensor.device == CPU, f"the {name} {what} are on {tensor.device}, not on {CPU}")


@law("task.load", "examples are shuffled or split by a global generator, or listed in the order of the file system")
def load(case: Case) -> None:
    """A task loads the same data, to the bit, each time, whatever was drawn from the global generator before."""
    found = []
    # The global generator is in two different states, as in two processes that did other things before.
    for number in range(2):
        with Seed((number, "before")).as_global():
            found.append(_contents(case.part.load(CPU, case.dtype)))
    changed = differences(*found)
    require(not changed, f"after other numbers were drawn, {', '.join(changed)} differ")


@law("task.positions", "the examples are sorted, or counted from the end of the last batch")
def positions(case: Case) -> None:
    """A position determines an example: it is the same, to the bit, alone and in any batch, in any order, and repeated."""
    for name, split in _splits(case.loaded).items():
        chosen = case.positions(split)
        together, at = split.batch(chosen), _input_axis(split)
        alone = [split.batch(position) for position in chosen.split(1)]
        inputs, targets = torch.cat([x for x, _ in alone], at), torch.cat([y for _, y in alone])
        equal = same((inputs, targets), tuple(together))
        require(equal, f"some of the {name} examples {chosen.tolist()} are different alone and in a batch")


@law("task.range", "positions are taken modulo the size, or clamped")
def range_(case: Case) -> None:
    """A position at which there is no example is an error."""
    for name, split in _splits(case.loaded).items():
        # The first position behind each end.
        for position in (split.size, -split.size - 1):
            try:
                split.batch(torch.tensor([position]))
            except Exception:  # noqa: S112 - any error is right
                continue
            require(False, f"{name} has {split.size} examples, and gives one at position {position}")


@law("task.draw", "an augmentation uses an unseeded generator, or is applied to the test split, too")
def draw(case: Case) -> None:
    """What is drawn for training has the shape and dtype of a batch, and depends on torch's global generator alone.

    The same seed draws the same. Other seeds draw something else, unless nothing is random. Nothing is random in the test
    split.
    """
    seed = case.seed()
    for name, split in _splits(case.loaded).items():
        chosen = case.positions(split)
        # Twelve seeds: two may draw the same by chance, as where an image is mirrored or not.
        plain, first, again, *others = split.batch(chosen), *(_drawn(split, chosen, seed(n)) for n in (0, 0, *range(1, 12)))
        for one, other in zip(first, plain, strict=True):
            equal = (one.shape, one.dtype) == (other.shape, other.dtype)
            require(equal, f"{name} draws {tuple(one.shape)} in {one.dtype} for {tuple(other.shape)} in {other.dtype}")
        require(same(first, again), f"{name} draws other examples with the same seed")
        changed = [d for d in (first, *others) if not same(d, tuple(plain))]
        require(name != "test" or not changed, "what is drawn from the test split differs from its examples")
        require(not changed or any(not same(first, d) for d in others), f"{name} draws the same with every seed")


def _drawn(split: Split, positions: Tensor, seed: Seed) -> tuple[Tensor, ...]:
    with seed.as_global():
        return tuple(split.draw(positions))


@law("task.loss", "the loss is a sum, or the mean of something else than examples")
def loss(case: Case) -> None:
    """The loss of a batch is the mean of the losses of its examples, and has a gradient."""
    data, at = case.loaded, _output_axis(case)
    for split in _splits(data).values():
        inputs, targets = split.batch(case.positions(split))
        found = _outputs(case, inputs).requires_grad_()
        total = data.loss(found, targets)
        require(total.shape == () and bool(total.isfinite()), f"it is {total}; it must be one finite number")
        parts = [data.loss(o, t) for o, t in zip(found.split(1, at), targets.split(1), strict=True)]
        mean = torch.stack(parts).mean()
        require_at_most("the distance from the mean of the losses of the examples", largest(total - mean), tolerance(mean))
        (slope,) = torch.autograd.grad(total, [found]) if total.requires_grad else (torch.zeros(1),)
        require(bool(slope.isfinite().all()) and bool((slope != 0).any()), "it has no finite gradient by the outputs")


@law("task.losses", "the losses are sums over the outputs of an example, or of one number for each output")
def losses(case: Case) -> None:
    """The losses of a batch, of shape (batch,), are those of its examples alone, and their mean is the loss."""
    data, at = case.loaded, _output_axis(case)
    if data.losses is None:
        raise Inapplicable("it gives no `losses`")
    for split in _splits(data).values():
        inputs, targets = split.batch(case.positions(split))
        found = _outputs(case, inputs)
        together, mean = data.losses(found, targets), data.loss(found, targets)
        require(together.shape == (len(targets),), f"{len(targets)} examples have losses of shape {tuple(together.shape)}")
        alone = torch.stack([data.loss(o, t) for o, t in zip(found.split(1, at), targets.split(1), strict=True)])
        require_at_most("the distance from the losses of the examples alone", largest(together - alone), tolerance(alone))
        require_at_most("the distance of their mean from the loss", largest(together.mean() - mean), tolerance(mean))


@law("task.metrics", "`metrics` returns the same object twice, `score` is none of its names, or means of batches are averaged")
def metrics(case: Case) -> None:
    """Metrics are new at each call, finite, and the same in one batch as in several; `score` is one of them."""
    data = case.loaded
    inputs, targets = data.test.batch(case.positions(data.test))
    found, at = _outputs(case, inputs), _output_axis(case)

    def measured(found: Tensor, size: int) -> dict[str, Tensor]:
        new = data.metrics()
        for o, t in zip(found.split(size, at), targets.split(size), strict=True):
            new.update(data.predict(o).contiguous(), t.contiguous())
        return dict(new.compute())

    first = measured(found, len(targets))
    # Another use in between: metrics that keep a sum over their uses would return another value below.
    measured(-found, len(targets))
    require(data.score in first, f"`score` is {data.score!r}; there are {', '.join(first)}")
    for name, value in first.items():
        require(value.numel() == 1 and bool(value.isfinite()), f"{name} is {value}; it must be one finite number")
    for size in (len(targets), 1, 2):
        for name, value in measured(found, size).items():
            what = f"the distance of {name}, computed again in batches of {size}"
            require_at_most(what, largest(value - first[name]), tolerance(first[name]))


@law("task.leaks", "windows overlap in their targets, or the splits are drawn independently of each other")
def leaks(case: Case) -> None:
    """No example of one split is in another split.

    If examples occur repeatedly in the training split, some may be found elsewhere by chance, at most four times as often.
    """
    found = {name: Counter(_bytes(split)) for name, split in _splits(case.loaded).items()}
    train = found["train"]
    # Windows of a flat series or of whole numbers may be equal although nothing leaks.
    repeated = sum(n for n in train.values() if n > 1) / train.total()
    # Bytes are compared, so that a leak is found in a time that is linear in the number of examples.
    for one, other in itertools.combinations(found, 2):
        share = sum(n for example, n in found[other].items() if example in found[one]) / found[other].total()
        require_at_most(f"the share of the {other} examples that are {one} examples", share, 4 * repeated)


def _bytes(split: Split) -> Iterator[bytes]:
    at = _input_axis(split)
    for inputs, targets in split.batches():
        for x, y in zip(inputs.movedim(at, 0), targets, strict=True):
            yield x.contiguous().numpy().tobytes() + y.contiguous().numpy().tobytes()


@law("task.test", "mean and standard deviation, classes or names are taken from all data before they are split")
def test(case: Case) -> None:
    """The test split affects nothing else: with another one, the other splits, sizes, scales and references are the same bits."""
    with _sourced(case) as pair:
        one, other = (task.load(CPU, case.dtype) for task in pair)
    tests = [split.test.batch(torch.arange(split.test.size)) for split in (one, other)]
    require(not same(*tests), "its `sources` have the same test split, which shows nothing")
    changed = differences(*(_contents(data, "train", "validation") for data in (one, other)))
    known, new = (_references(data, 30, Seed(("references",))) for data in (one, other))
    changed += [f"the reference {name}" for name in known if not same(dict(tensors(known[name])), dict(tensors(new[name])))]
    require(not changed, f"with another test split {', '.join(changed)} differ")


@contextlib.contextmanager
def _sourced(case: Case) -> Iterator[tuple[Task, Task]]:
    """Write the two sources into an empty working directory, and yield their tasks."""
    if case.subject.sources is None:
        raise Inapplicable("there is no function that writes sources for it: see Examples.sources")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        cls: Any = case.subject.cls
        fields = [f.name for f in attrs.fields(cls)]
        one, other = (cls(**{f: getattr(task, f) for f in fields}) for task in case.subject.sources(Path()))
        yield one, other


@law("task.pinned", "an option, the absolute path or the digest is left out")
def pinned(case: Case) -> None:
    """A pinned task loads the same data in any working directory, also if it is made of its description.

    Once its source has changed, loading raises a NasframeError.
    """
    fixed = case.part.pinned()
    description = json.loads(json.dumps(to_plain(fixed), allow_nan=False))
    known = fixed.name in case.subject.plugins.names(fixed.kind)
    require(not known or case.subject.plugins.make("task", description) == fixed, f"{description} makes another task")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _require_loads(fixed, case.dtype, case.loaded)
    if case.subject.sources is None:
        return
    with _sourced(case) as (task, _):
        fixed, wanted = task.pinned(), task.load(CPU, case.dtype)
        with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
            _require_loads(fixed, case.dtype, wanted)
        # each file gets the content of the next one
        files = sorted(path for path in Path().rglob("*") if path.is_file())
        contents = [path.read_bytes() for path in files]
        for path, content in zip(files, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
        try:
            fixed.load(CPU, case.dtype)
        except NasframeError:
            return
    require(False, "after its source has changed it is loaded all the same")


def _require_loads(fixed: Task, dtype: torch.dtype, wanted: Data) -> None:
    equal = same(_contents(fixed.load(CPU, dtype)), _contents(wanted))
    require(equal, "in another working directory the pinned task loads other data than the task")


@law("task.scales", "a scale divides by zero, or lacks an axis of length one")
def scales(case: Case) -> None:
    """Scaled raw inputs are inputs of the network of the same shape, and `back` returns the raw values.

    Different outputs are different after they are scaled back.
    """
    data = case.loaded
    if data.inputs is None and data.outputs is None:
        raise Inapplicable("it has no scales")
    inputs, _ = data.train.batch(case.positions(data.train))
    # Raw inputs are made from those of the network by undoing the scale, as the source of the data is not known here.
    raw = inputs.double()
    if data.inputs is not None:
        raw = raw * data.inputs.std + data.inputs.mean
        again = data.inputs(raw)
        shapes = f"inputs of shape {tuple(inputs.shape)} get the shape {tuple(raw.shape)}"
        require(again.shape == raw.shape == inputs.shape, shapes)
        allowed = tolerance(inputs) + tolerance(raw) / float(data.inputs.std.abs().min())
        require_at_most("the distance of scaled raw inputs from the inputs", largest(again - inputs), allowed)
        back = largest(data.inputs.back(again, raw) - raw)
        require_at_most("the distance of inputs that are scaled back from the raw inputs", back, tolerance(raw))
    if data.outputs is not None:
        value = _outputs(case, inputs)
        low, high = data.outputs.back(value, raw), data.outputs.back(value + 1, raw)
        require(low.shape == value.shape, f"outputs of shape {tuple(value.shape)} get the shape {tuple(low.shape)}")
        require(bool((low < high).all()), "outputs that differ by 1 do not differ after they are scaled back")


@law("task.references", "a reference is left in torch's default dtype, or its outputs have another shape")
def references(case: Case) -> None:
    """A reference can be built for any number of parameters, and used like the network.

    It accepts the inputs of a batch; its outputs have their dtype and a finite loss, with a gradient if it has parameters to
    train.
    """
    data = case.loaded
    inputs, targets = data.train.batch(case.positions(data.train))
    found = _references(data, case.data.draw(st.sampled_from([30, 1, 300])), case.seed())
    if not found:
        raise Inapplicable("it gives no references")
    for name, module in found.items():
        made = module(inputs)
        require(made.dtype == inputs.dtype, f"the outputs of {name} are in {made.dtype}, for inputs in {inputs.dtype}")
        value = data.loss(made, targets)
        require(bool(value.isfinite()), f"the loss of {name} is {float(value.detach())}")
        trainable = any(p.requires_grad for p in module.parameters())
        require(not trainable or value.requires_grad, f"{name} has parameters to train, but its loss has no gradient")
