"""Plans: what a run goes through, as data in the strategy.

A plan is a sequence of steps. The steps are a closed set; what is open to plugins are the parts that they name. A position in a plan
consists of whole numbers: the index of a step, and, within a `Repeat`, its turn and the index of a step of that turn, and so on.
So (2, 0, 1) is the second step in the first turn of the plan's third step.

The loop carries plans out (`nasframe.search.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.ask_tell import AskTellArchitect
from nasframe.interfaces.backbone import Backbone
from nasframe.interfaces.criterion import GrowthCriterion
from nasframe.interfaces.evaluator import Evaluator
from nasframe.interfaces.morphism import Morphism
from nasframe.interfaces.part import Part, short_name
from nasframe.interfaces.pruner import Pruner
from nasframe.options import choice, flag, nested, number
from nasframe.search.optimiser import Optimiser

#: the parameters that a phase can train
GROUPS = ("weights", "alphas")
#: what a change can set back
RESETS = ("alphas", "moments")
#: the phases in which nothing is left to do, which no step may have as its name
OVER = ("done", "handed over")


def _of(*allowed: str) -> Callable[..., None]:
    """Return a validator of a tuple whose entries are among the allowed strings."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        unknown = [entry for entry in value if entry not in allowed]
        if unknown:
            raise ValueError(f"{attribute.name} has {unknown[0]!r}; there are {' and '.join(map(repr, allowed))}")

    return check


def _phase(instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError(f"{attribute.name} is {value!r}; it must be a word, such as 'search'")


def _all(of: type) -> Callable[..., None]:
    """Return a validator of a part, or of a tuple of parts, of a class."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        for part in value if isinstance(value, tuple) else (value,):
            if part is not None and not isinstance(part, of):
                raise ValueError(f"{attribute.name} has {part!r}; it must be a {of.__name__}")

    return check


class Step(Part):
    """Base class of the steps of a plan."""

    kind: ClassVar[str] = "step"


@attrs.frozen(kw_only=True)
class Change(Step):
    """A change of the network: candidates are removed, and then others are added, in one transaction.

    Args:
        prune: whether a pruner selects candidates to remove.
        pruner: the pruner; by default the strategy's.
        derive: whether what the pruner left undecided is decided as the backbone derives architectures.
        fold: whether the mixing weight of a candidate that is left alone at a site is multiplied into its parameters, where its
            operation is homogeneous in them. Then only what was removed changes the site.
        grow: whether morphisms add something.
        growth: the morphisms; by default the strategy's.
        per: "network" makes the best one of all proposals; "site" makes the best one of each site, in one change.
        reset: what begins anew: the "alphas", at their initial values, or the "moments" of the optimisers. A change may do this alone.
        restart: whether the network gets fresh weights if those have a smaller validation loss than the weights it is left with.
        needed: whether the surrounding repeat ends if no morphism proposes a change. Then nothing is removed or reset, either.
    """

    name: ClassVar[str] = "change"
    prune: bool = flag(False)
    pruner: Pruner | None = nested("pruner", default=None, validator=_all(Pruner))
    derive: bool = flag(False)
    fold: bool = flag(False)
    grow: bool = flag(False)
    growth: tuple[Morphism, ...] = nested("morphism", default=(), validator=_all(Morphism))
    per: str = choice("network", "site", default="network")
    reset: tuple[str, ...] = attrs.field(default=(), validator=_of(*RESETS))
    restart: bool = flag(False)
    needed: bool = flag(False)

    def __attrs_post_init__(self) -> None:
        if self.pruner is not None and not self.prune:
            raise ValueError("it has a pruner and does not prune: write prune = true, or leave the pruner out")
        if self.growth and not self.grow:
            raise ValueError("it has a growth and does not grow: write grow = true, or leave the growth out")
        if not (self.prune or self.derive or self.grow or self.reset or self.restart):
            raise ValueError("it changes nothing: write prune = true, derive = true, grow = true or reset = [...]")
        if self.derive and (self.grow or self.reset):
            raise ValueError("derive leaves nothing undecided: make what is grown or reset another change")
        if self.fold and (self.grow or self.reset or not (self.prune or self.derive)):
            raise ValueError(
                "fold is about a removal alone: write it in a change with prune = true or derive = true that does not grow or reset"
            )
        if self.needed and not self.grow:
            raise ValueError("needed is about growth: write grow = true, too, or leave needed out")


@attrs.frozen(kw_only=True)
class Train(Step):
    """A step that trains: a phase, in which the weights move, and the alphas where there are any.

    It ends when its criterion says so, or after its epochs.

    Args:
        phase: the name of the phase.
        parameters: what is trained: the "weights", or the "weights" and the "alphas".
        grace: the number of epochs at its beginning in which the alphas stay as they are; fewer than `epochs`.
        epochs: its length, over which the learning rate falls along half a cosine; by default that of the optimiser.
        criterion: decides when it ends; by default the strategy's.
        optimiser: of the weights; by default the strategy's.
        competes: whether its networks compete for the best network of the run.
        during: changes in mid-phase, after each validation (Jie & Gao 2021, Algorithm 4), unless the criterion decides against it.
    """

    name: ClassVar[str] = "train"
    phase: str = attrs.field(validator=_phase)
    parameters: tuple[str, ...] = attrs.field(default=("weights",), validator=_of(*GROUPS))
    grace: int = number(0, low=0, whole=True)
    epochs: int | None = number(None, low=1, whole=True, optional=True)
    criterion: GrowthCriterion | None = nested("criterion", default=None, validator=_all(GrowthCriterion))
    optimiser: Optimiser | None = nested(Optimiser, default=None, validator=_all(Optimiser))
    competes: bool = flag(False)
    during: tuple[Change, ...] = nested("step", default=(), validator=_all(Change))

    def __attrs_post_init__(self) -> None:
        if "weights" not in self.parameters:
            raise ValueError(
                f"parameters is {[*self.parameters]}; a phase trains the 'weights', and may train the 'alphas', too"
            )
        if any(change.needed or change.restart for change in self.during):
            raise ValueError("a change during a phase cannot be needed or restart: those belong to changes between phases")
        if self.grace and "alphas" not in self.parameters:
            raise ValueError(f"grace is {self.grace}, but the phase does not train the 'alphas': leave grace out")
        if self.epochs is not None and self.grace >= self.epochs:
            raise ValueError(
                f"grace is {self.grace} and epochs {self.epochs}, so that the alphas would never move: make grace smaller than epochs"
            )

    @property
    def moves_alphas(self) -> bool:
        """Return whether the phase searches."""
        return "alphas" in self.parameters


@attrs.frozen(kw_only=True)
class Judge(Step):
    """The end of a stage: the criterion decides whether the network grows or the surrounding repeat ends (Algorithm 2, lines 9 to 16).

    Args:
        phase: the phase whose least validation loss is that of the stage.
        criterion: by default the strategy's.
        growth: the morphisms; by default the strategy's.
    """

    name: ClassVar[str] = "judge"
    phase: str = attrs.field(validator=_phase)
    criterion: GrowthCriterion | None = nested("criterion", default=None, validator=_all(GrowthCriterion))
    growth: tuple[Morphism, ...] = nested("morphism", default=(), validator=_all(Morphism))


@attrs.frozen(kw_only=True)
class Restore(Step):
    """The return to the best network so far, with the weights that it was best with.

    If that is not an architecture, the networks of later phases are not compared with it.
    """

    name: ClassVar[str] = "restore"


@attrs.frozen(kw_only=True)
class Move(Step):
    """The same cells in another backbone of the same kind, with fresh weights and alphas.

    Args:
        backbone: the other backbone.
    """

    name: ClassVar[str] = "move"
    backbone: Backbone = nested("backbone", validator=_all(Backbone))


@attrs.frozen(kw_only=True)
class Fold(Step):
    """The folding of gates into their nodes, where that is possible."""

    name: ClassVar[str] = "fold"


@attrs.frozen(kw_only=True)
class Trials(Step):
    """A search in which an architect proposes architectures and learns from their outcomes.

    It chooses among the architectures of the network, where that is a supernet, and else among those of the supernet that the strategy
    begins with. In the end the best architecture becomes the network, with the weights that its trial left, and competes for the best
    network of the run.

    Args:
        architect: proposes the architectures; by default the strategy's.
        evaluator: returns their outcomes; by default the strategy's.
        in_flight: the number of trials that are evaluated at the same time; by default that of the strategy.
        inherit: whether a trial without a parent starts from the weights that it shares with the network, such as those of a trained
            supernet, in the place of fresh ones.
    """

    name: ClassVar[str] = "trials"
    architect: AskTellArchitect | None = nested("architect", default=None, validator=_all(AskTellArchitect))
    evaluator: Evaluator | None = nested("evaluator", default=None, validator=_all(Evaluator))
    in_flight: int | None = number(None, low=1, high=1024, whole=True, optional=True)
    inherit: bool = flag(False)


@attrs.frozen(kw_only=True)
class Repeat(Step):
    """A step that repeats other steps, turn by turn.

    Args:
        steps: the steps of a turn.
        until: when it ends. "stopped": a criterion decided "stop", or a change that is `needed` could not be made; it has at least
            one turn. "decided": each site has one candidate; if that is so from the beginning, it has no turn. "times": after so many
            turns, or earlier if a criterion decided "stop". A turn that ought to come nearer to "decided" and removes nothing
            is an error, as the repeat would never end.
        times: the number of turns.
    """

    name: ClassVar[str] = "repeat"
    steps: tuple[Step, ...] = nested("step", validator=_all(Step))
    until: str = choice("stopped", "decided", "times", default="stopped")
    times: int | None = number(None, low=1, whole=True, optional=True)

    def __attrs_post_init__(self) -> None:
        if (self.times is not None) != (self.until == "times"):
            raise ValueError(
                f"until is {self.until!r} and times is {self.times}; times belongs to until = 'times', and only to it"
            )
        # What ends a repeat may be in a repeat within it.
        inner = [*walk(self.steps)]
        ends = any(isinstance(s, Train | Judge) or (isinstance(s, Change) and s.needed) for s in inner)
        if self.until == "stopped" and not ends:
            raise ValueError(
                'it can never end: nothing in it decides "stop". Give it a step that trains, judges or needs a growth, or write '
                "until = 'times'"
            )
        if self.until == "decided" and not any(map(decides, inner)):
            raise ValueError(
                "it can never end: no step in it removes candidates. Give it a change with prune = true or derive = true"
            )


STEPS = (Change, Train, Judge, Restore, Move, Fold, Trials, Repeat)

Plan = tuple[Step, ...]
#: (index, turn, index, ..., turn, index)
Position = tuple[int, ...]
#: whether a repeat ends after so many turns
Over = Callable[[Repeat, int], bool]


def walk(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield all steps, those within repeats and phases, too."""
    for step in steps:
        yield step
        if isinstance(step, Repeat):
            yield from walk(step.steps)
        elif isinstance(step, Train):
            yield from step.during


def decides(step: Step) -> bool:
    """Return whether a step can leave one candidate at each site."""
    return isinstance(step, Trials) or (isinstance(step, Change) and (step.prune or step.derive))


def decides_surely(step: Step) -> bool:
    """Return whether a step leaves one candidate at each site, however many a pruner removes."""
    derives = isinstance(step, Change) and step.derive
    return derives or isinstance(step, Trials) or (isinstance(step, Repeat) and step.until == "decided")


def check(plan: Plan, architect: Part) -> None:
    """Refuse a plan that cannot be carried out.

    Args:
        plan: the plan.
        architect: the architect of the strategy.

    Raises:
        ValueError: says what is wrong.
    """
    # What can be known from the plan alone is refused here. What depends on the criteria, such as a repeat that never ends,
    # is refused by `Search`.
    steps, proposes = [*walk(plan)], isinstance(architect, AskTellArchitect)
    phases = {step.phase for step in steps if isinstance(step, Train)}
    trials = [step for step in steps if isinstance(step, Trials)]
    if not phases and not trials:
        raise ValueError("the plan has no step that trains: give it a `train`")
    if proposes and any(isinstance(step, Train) and step.moves_alphas for step in steps):
        raise ValueError(
            f"the plan trains alphas, and the architect {short_name(architect)!r} proposes architectures and has no alphas: write "
            'plan = "trials", or give the architect to a step of trials and the strategy an architect that moves alphas'
        )
    if not proposes and any(step.architect is None for step in trials):
        raise ValueError(
            f"a step of trials has no architect, and the strategy's, {short_name(architect)!r}, moves alphas and proposes nothing: give "
            "the step an architect that proposes, such as random_search"
        )
    for step in steps:
        # without such a phase the stage would have no loss by which it is judged
        if isinstance(step, Judge) and step.phase not in phases:
            raise ValueError(
                f"a step judges the phase {step.phase!r}, which no step trains; there are {', '.join(sorted(phases))}"
            )
    # the best trial of a step of trials competes in any case
    if not trials and not any(isinstance(step, Train) and step.competes for step in steps):
        raise ValueError(
            "no phase of the plan competes for the best network, which is what a run returns: write competes = true"
        )


def pinned(plan: Plan) -> Plan:
    """Return the same plan with evaluators that are bound to the files that they read now."""

    def one(step: Step) -> Step:
        if isinstance(step, Trials) and step.evaluator is not None:
            return attrs.evolve(step, evaluator=step.evaluator.pinned())
        return attrs.evolve(step, steps=pinned(step.steps)) if isinstance(step, Repeat) else step

    return tuple(map(one, plan))


def remaining(plan: Plan, position: Position) -> Iterator[Step]:
    """Yield the steps from a position on, those of a repeat that has begun wholly."""
    # a further turn of a repeat comes to the steps before the position again
    yield from walk(plan[position[0] :])


def at(plan: Plan, position: Position) -> Step | None:
    """Return the step at a position; None behind the last one."""
    steps = _steps(plan, position[:-1])
    return steps[position[-1]] if position[-1] < len(steps) else None


def _steps(plan: Plan, outer: Position) -> Plan:
    # Every second number of a position is the index of a step; those between them are turns.
    for index in outer[::2]:
        repeat = plan[index]
        assert isinstance(repeat, Repeat)
        plan = repeat.steps
    return plan


def enter(plan: Plan, position: Position, over: Over) -> Position:
    """Return the position of the first step to carry out from a position on: a repeat is entered, or skipped if it is over."""
    step = at(plan, position)
    if not isinstance(step, Repeat):
        return position
    # A repeat until "decided" may be over before its first turn.
    if over(step, 0):
        return following(plan, position, over)
    return enter(plan, (*position, 0, 0), over)


def following(plan: Plan, position: Position, over: Over) -> Position:
    """Return the position of the step to carry out after the one at a position."""
    *outer, index = position
    # Within a turn, or at the outermost level, where the position behind the last step is the end of the plan.
    if not outer or index + 1 < len(_steps(plan, tuple(outer))):
        return enter(plan, (*outer, index + 1), over)
    # The last step of a turn: the next turn begins, or the repeat is left.
    *rest, turn = outer
    repeat = at(plan, tuple(rest))
    assert isinstance(repeat, Repeat)
    if over(repeat, turn + 1):
        return following(plan, tuple(rest), over)
    return enter(plan, (*rest, turn + 1, 0), over)


def leave(plan: Plan, position: Position, over: Over) -> Position:
    """Return the position of the step after the innermost repeat around a position that a "stop" ends; the next step without one."""
    # From the innermost repeat outwards. One until "decided" goes on in spite of a "stop", as it has to leave an
    # architecture.
    for outer in range(len(position) - 2, 0, -2):
        repeat = at(plan, position[:outer])
        if isinstance(repeat, Repeat) and repeat.until != "decided":
            return following(plan, position[:outer], over)
    return following(plan, position, over)


#: what is left of a search: the best network becomes an architecture, where it is not one yet, and is tuned
_ARCHITECTURE: Plan = (
    Restore(),
    Repeat(
        # No turn if the best network is an architecture, and one if not, as `derive` decides all sites.
        until="decided",
        steps=(Change(prune=True, derive=True, restart=True), Train(phase="retune", competes=True), Restore()),
    ),
    Fold(),
)

#: prune and tune the network after each stage, before it is judged and grown (Jie & Gao 2021, Algorithm 2)
STAGE: Plan = (
    Repeat(
        steps=(
            # Supernets do not compete here: their losses would be compared with those of pruned and tuned networks.
            Train(phase="search", parameters=("weights", "alphas")),
            Change(prune=True, restart=True),
            Train(phase="tune", competes=True),
            Judge(phase="tune"),
        )
    ),
    *_ARCHITECTURE,
)

#: judge and grow supernets, and prune and tune the best one when the search is over
END: Plan = (
    Repeat(steps=(Train(phase="search", parameters=("weights", "alphas"), competes=True), Judge(phase="search"))),
    *_ARCHITECTURE,
)

#: train an architecture from scratch
RETRAIN: Plan = (Train(phase="retune", competes=True), Restore(), Fold())

#: evaluate the architectures that an architect proposes
TRIALS: Plan = (Trials(),)
