"""A strategy: everything that decides what a search does, as a value that can be written to a file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w
import torch

from nasframe.errors import NasframeError, StrategyError
from nasframe.interfaces.architect import Architect
from nasframe.interfaces.ask_tell import AskTellArchitect
from nasframe.interfaces.backbone import Backbone
from nasframe.interfaces.batch_size import BatchSize
from nasframe.interfaces.criterion import GrowthCriterion
from nasframe.interfaces.evaluator import Evaluator
from nasframe.interfaces.morphism import Morphism
from nasframe.interfaces.part import short_name, to_plain
from nasframe.interfaces.pruner import Pruner
from nasframe.interfaces.relaxation import Relaxation
from nasframe.interfaces.task import Task
from nasframe.options import choice, flag, nested, number
from nasframe.plugins import Plugins, construct, installed
from nasframe.search.evaluators import Train
from nasframe.search.optimiser import Optimiser
from nasframe.search.plan import END, TRIALS, Plan, Step, check, pinned

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _device(instance: Any, attribute: Any, value: Any) -> None:
    try:
        # only whether it names a device: whether this machine has it is known when the data are loaded
        torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {value!r}; it must be a device of torch, such as 'cpu' or 'cuda:0'") from error


def _batch(instance: Any, attribute: Any, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not whole and not isinstance(value, BatchSize):
        raise ValueError(f"batch is {value!r}; it must be a whole number of at least 1, or a BatchSize")


@attrs.frozen(kw_only=True)
class Strategy:
    """The parts of a search and its options. The defaults are those of Jie & Gao 2021, 3.3 and 4.1.

    Args:
        task: the data, the loss and the metrics.
        backbone: how nodes are wired and cells make a network.
        architect: turns alphas into mixing weights, and moves the alphas; or, an `AskTellArchitect`, proposes whole architectures for
            trials, which have no use for the pruner and the growth.
        criterion: decides when a phase, a stage and the search end, and may limit the updates of trials.
        pruner: selects the candidates to remove.
        growth: the morphisms that propose changes when the criterion grows; the change of largest gain is made, and morphisms
            of equal gain take turns. Without a morphism nothing grows.
        currency: what proposals are compared by: "stated", the gains that their morphisms state, of which some state none; "parameters",
            a gain that is measured for all of them alike (`nasframe.search.gain`), per new parameter; or "flops", per new
            floating-point operation of one prediction.
        plan: the steps of the search, or, in a strategy file, the name of a plan: "stage" prunes and tunes after each stage, before
            it is judged and grown; "end" prunes and tunes the best network when the search is over; "trials" evaluates what the
            architect proposes. The default is "trials" for an architect that proposes, and "end" for one that moves alphas.
        evaluator: returns the outcome of an architecture that an ask/tell architect proposes.
        in_flight: the number of trials of an ask/tell architect that are evaluated at the same time: the architect proposes the
            next one before it knows the results of the last `in_flight` - 1. The results depend on it, and not on the number of
            processes.
        nodes: the number of nodes that each cell starts with.
        batch: the number of examples in a batch, of training and of validation, or a rule for it (`BatchSize`); a last training
            batch of one example joins the one before.
        optimiser: the optimiser of the weights.
        seed: the seed of every random draw.
        seeds: the number of trainings of each row of the comparison.
        threads: the number of torch's threads on the CPU. The bytes of a run depend on it; a small cell is fastest with one.
        device: the device of the networks and data, such as "cpu" or "cuda:0".
        dtype: "float32" or "float64".
        fast: whether networks compute in the fast form of their backbone, if it has one.

    Example:
        >>> strategy = nasframe.Strategy.named("default")
        >>> strategy.backbone.name
        'two_to_one'
        >>> nasframe.Strategy.from_toml(strategy.to_toml()) == strategy
        True
    """

    # The order of the fields is that of a strategy file.
    task: Task = nested("task")
    backbone: Backbone = nested("backbone")
    architect: Architect | AskTellArchitect = nested("architect")
    criterion: GrowthCriterion = nested("criterion")
    pruner: Pruner = nested("pruner")
    growth: tuple[Morphism, ...] = nested("morphism", default=())
    currency: str = choice("stated", "parameters", "flops", default="stated")
    plan: tuple[Step, ...] = nested("step", default=attrs.Factory(lambda self: default_plan(self.architect), takes_self=True))
    evaluator: Evaluator = nested("evaluator", default=Train())
    in_flight: int = number(4, low=1, high=1024, whole=True)
    nodes: int = number(1, low=1, high=1000, whole=True)
    batch: int | BatchSize = nested("batch_size", or_number=True, default=50, validator=_batch)
    optimiser: Optimiser = nested(Optimiser, default=Optimiser())
    seed: int = number(0, low=0, whole=True)
    seeds: int = number(5, low=1, whole=True)
    threads: int = number(1, low=1, high=1024, whole=True)
    device: str = attrs.field(default="cpu", validator=_device)
    dtype: str = choice(*DTYPES, default="float32")
    fast: bool = flag(True)

    def __attrs_post_init__(self) -> None:
        # attrs does not check types, and a wrong part would fail much later, within a search
        for field, interface in _INTERFACES.items():
            value = getattr(self, field)
            for part in value if isinstance(value, tuple) else (value,):
                if not isinstance(part, interface):
                    names = " or ".join(each.__name__ for each in interface)
                    raise ValueError(f"{field} is {part!r}; it must be a {names}")
        check(self.plan, self.architect)
        # The rates and the dtype are options of different parts, so that they are compared where both are known.
        for optimiser in _optimisers(self):
            optimiser.check(self.torch_dtype)

    @property
    def gradient_architect(self) -> Architect | None:
        """Return the architect if it moves alphas; None if it proposes architectures."""
        return self.architect if isinstance(self.architect, Architect) else None

    @property
    def ask_tell(self) -> AskTellArchitect | None:
        """Return the architect if it proposes architectures; None if it moves alphas."""
        return self.architect if isinstance(self.architect, AskTellArchitect) else None

    @property
    def fixed_batch(self) -> int:
        """Return the batch size, for what is trained outside of the phases of a plan.

        Raises:
            StrategyError: if a rule decides it at the beginning of each phase.
        """
        if isinstance(self.batch, BatchSize):
            raise StrategyError(
                f"the batch size {short_name(self.batch)!r} is decided at the beginning of a phase, and what is trained here belongs to "
                "none: give batch a number, or let a phase of the plan train first"
            )
        return self.batch

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype of every network."""
        return DTYPES[self.dtype]

    @property
    def relaxation(self) -> Relaxation | None:
        """Return what turns alphas into mixing weights; None where structures are proposed and there are no alphas."""
        return self.architect.relaxation if isinstance(self.architect, Architect) else None

    def pinned(self) -> Strategy:
        """Return the same strategy with a task and evaluators that are bound to the files that they read now."""
        return attrs.evolve(self, task=self.task.pinned(), evaluator=self.evaluator.pinned(), plan=pinned(self.plan))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for TOML and JSON."""
        values: dict[str, Any] = to_plain(self)
        return values

    def to_toml(self) -> str:
        """Return the text of a strategy file, which `from_toml` reads."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], plugins: Plugins | None = None) -> Strategy:
        """Return the strategy of plain values.

        Raises:
            StrategyError: a key is unknown, or a value is impossible.
        """
        plugins = plugins or installed()
        # A key of earlier versions, for which the general message about unknown keys would be no help.
        if "prune" in values:
            raise StrategyError(
                f"the strategy has no key 'prune' any more: write plan = {json.dumps(str(values['prune']))} in its place"
            )
        # The name is replaced by the steps that it names now, so that the file of a run does not depend on a plugin's later
        # version.
        plan = values.get("plan")
        if isinstance(plan, str | Mapping):  # a plan that a plugin registers
            values = {**values, "plan": plugins.make("plan", plan).steps()}
        try:
            strategy: Strategy = construct(cls, "the strategy", values, plugins)
        except RecursionError:
            raise StrategyError("the strategy is nested too deeply to be read") from None
        return strategy

    @classmethod
    def from_toml(cls, text: str, plugins: Plugins | None = None) -> Strategy:
        """Return the strategy of a file's text, which may begin with a byte order mark."""
        try:
            values = tomllib.loads(text.removeprefix("\ufeff"))
        except ValueError as error:  # not TOML, or a number of too many digits
            raise StrategyError(f"the strategy is not TOML: {error}") from error
        except RecursionError:
            raise StrategyError("the strategy is nested too deeply to be read") from None
        return cls.from_dict(values, plugins)

    @classmethod
    def named(cls, name: str, plugins: Plugins | None = None) -> Strategy:
        """Return the strategy that a plugin registers under that name."""
        plugins = plugins or installed()
        return cls.from_dict(plugins.make("strategy", name).values(), plugins)

    @classmethod
    def read(cls, path: str | Path, plugins: Plugins | None = None) -> Strategy:
        """Return the strategy of a file; an error names the file."""
        try:
            # reading a named pipe would wait for somebody to write
            if not Path(path).is_file():
                raise StrategyError(f"the strategy file {path} cannot be read: it is not a file")
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # also text that is not UTF-8, and a path that holds a null character
            raise StrategyError(f"the strategy file {path} cannot be read: {error}") from error
        try:
            return cls.from_toml(text, plugins)
        except NasframeError as error:
            raise type(error)(f"{path}: {error}") from error


def _optimisers(value: Any) -> Iterator[Optimiser]:
    """Yield the optimisers in a value: that of the weights, of an architect, and of the steps of a plan."""
    if isinstance(value, Optimiser):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _optimisers(each)
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _optimisers(getattr(value, field.name))


def default_plan(architect: Architect | AskTellArchitect) -> Plan:
    """Return the plan of a strategy that names none."""
    return TRIALS if isinstance(architect, AskTellArchitect) else END


_INTERFACES: Mapping[str, tuple[type, ...]] = {
    "task": (Task,),
    "backbone": (Backbone,),
    "architect": (Architect, AskTellArchitect),
    "criterion": (GrowthCriterion,),
    "pruner": (Pruner,),
    "growth": (Morphism,),
    "plan": (Step,),
    "evaluator": (Evaluator,),
    "optimiser": (Optimiser,),
}
