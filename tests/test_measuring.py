"""Parts measure on a context, which changes nothing, and no value is measured twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from nasframe_robustness import Curvature, Perturbation
from nasframe_robustness.curvature import largest_eigenvalue
from steepest import EXAMPLES as STEEPEST, SteepestGrowth
from test_resume import check_resumes_everywhere, digest
from torch import Tensor
from toy import PLUGINS, toy_strategy

from nasframe import Address, Bilevel, Context, Search
from nasframe.errors import DataError, StrategyError
from nasframe.interfaces.part import to_plain
from nasframe.records import Changed, EpochEnded, Measured, Record, Stepped, from_json, to_json
from nasframe.run.folder import Folder
from nasframe.search import measuring
from nasframe.search.replay import replay
from nasframe.search.state import trainer
from nasframe.seeds import Seed
from nasframe.testing.check import QUICK, check
from nasframe.testing.fakes import Keep
from nasframe.testing.saved import revived, saved


def begun(**changes: Any) -> Search:
    """Return a search after some steps of its second epoch, with moments and alphas that moved."""
    search = Search(toy_strategy(**changes))
    events = iter(search)
    while not (isinstance(record := next(events), Stepped) and record.updates == 4):
        pass
    return search


def ask(search: Search, question: Callable[[Context], Any]) -> tuple[Any, Mapping[str, Tensor], list[Record]]:
    """Return what a part that is asked now answers, its evidence, and the records of what was measured."""
    records = []
    asking = measuring.asked(question, "part", search.state, trainer(search.strategy, search.data), seed=Seed((0, "test")))
    while True:
        try:
            records.append(next(asking))
        except StopIteration as end:
            search.state.measured = {}
            return *end.value, records


def context_of(search: Search) -> Context:
    """Return the context that a part is asked with."""
    found: Context = ask(search, lambda context: context)[0]
    return found


def break_everything(context: Context) -> None:
    """Use all that a context offers: train, hook and break the private copy, draw numbers, differentiate twice."""
    torch.rand(3)
    network = context.network.train()
    network.register_forward_hook(lambda *given: None)
    problem = context.problem(1)
    (slope, *_) = torch.autograd.grad(
        problem.train(problem.weights, problem.alphas), [*problem.alphas.values()], create_graph=True
    )
    torch.autograd.grad(slope.square().sum(), [*problem.weights.values()], materialize_grads=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    context.losses("train", 2).mean().backward()
    optimiser.step()
    for weights in context.mixing.values():
        weights.zero_()
    del network.body


class TestContext:
    def test_it_leaves_the_search_and_the_generators_alone(self) -> None:
        """Whatever a part does with its context, the bytes of the state and the global generator are as they were."""
        search = begun()
        before = digest(search.state)
        torch.manual_seed(5)
        expected = torch.rand(2)
        torch.manual_seed(5)
        ask(search, break_everything)

        assert torch.equal(torch.rand(2), expected)
        assert digest(search.state) == before

    def test_the_loss_is_that_of_validation(self) -> None:
        """The loss over the validation split is the one that a search decides by, and differs with other mixing weights."""
        search = begun()
        expected, _ = trainer(search.strategy, search.data).measure(search.network)
        found, evidence, records = ask(search, lambda context: context.loss("all"))

        assert found == expected == float(evidence["all"])
        assert [(r.key, r.value) for r in records if isinstance(r, Measured)] == [("all", expected)]

    def test_each_loss_has_its_own_key(self) -> None:
        """A key that was used for other mixing weights or another split is refused, as it would return the first value."""

        def question(context: Context) -> list[float]:
            (address, weights), *_ = context.mixing.items()
            return [context.loss("without", {address: weights.index_fill(0, torch.tensor(i), 0.0)}) for i in range(2)]

        with pytest.raises(StrategyError, match="asked for the loss 'without' twice, with different mixing weights or splits"):
            ask(begun(), question)
        with pytest.raises(StrategyError, match="asked for the loss 'all' twice"):
            ask(begun(), lambda context: [context.loss("all", split=split) for split in ("train", "validation")])
        found, _, _ = ask(begun(), lambda context: [context.loss("all"), context.loss("all", context.mixing)])
        assert found[0] == found[1]

    def test_one_site_may_have_other_mixing_weights(self) -> None:
        """Mixing weights that are not given are the present ones."""
        search = begun()
        (address, weights), *_ = context_of(search).mixing.items()
        changed, same, present = (
            ask(search, lambda context, m=mixing: context.loss("loss", m))[0]
            for mixing in ({address: torch.zeros_like(weights)}, {address: weights}, None)
        )

        assert same == present != changed

    def test_the_losses_of_examples_have_the_loss_of_their_batch_as_mean(self) -> None:
        """There is a loss for each example, with a gradient; a task without them is an error of ours."""
        search = begun(batch=7)
        context = context_of(search)
        inputs, targets = context.batch("train", 3)
        losses = context.losses("train", 3)

        assert losses.shape == (7,)
        torch.testing.assert_close(losses.mean(), search.data.loss(context.network(inputs, context.mixing), targets))
        assert losses.requires_grad
        without = attrs.evolve(search.data, losses=None)
        with pytest.raises(DataError, match="add `losses`"):
            context_of(Search(search.strategy, data=without)).losses()

    def test_batches_go_through_a_split(self) -> None:
        """The batches of a turn have every example once, as long as whole batches are left; the next turn has another order."""
        context = context_of(begun())
        split = context.batch("train", 0, 1000)[1]
        turns = [torch.cat([context.batch("train", 4 * turn + n, 6)[1] for n in range(4)]) for turn in range(2)]

        assert len(split) == 25
        assert all(len({*map(tuple, turn.tolist())} & {*map(tuple, split.tolist())}) == 24 for turn in turns)
        assert not torch.equal(*turns)
        with pytest.raises(StrategyError, match="'train' and 'validation'"):
            context.batch("test")

    def test_what_a_site_has_or_had_is_in_the_lineage(self) -> None:
        """Operations that were removed count, also those of a node that grew, and a return to an earlier network repeats none."""
        search = Search(toy_strategy(plan="end"))
        before: dict[str, list[Any]] = {}
        for _ in search:
            for address, site in search.network.structure.sites():
                seen = before.setdefault(address, [])
                seen += [c for c in site.candidates if c not in seen]
        context = context_of(search)

        assert len(before) == 3
        assert search.network.structure.decided
        for address, candidates in before.items():
            assert context.tried(Address(address)) == [to_plain(c.operation) for c in candidates]
        assert context.tried(Address("layer0/n9")) == []

    def test_the_problem_is_that_of_a_step(self) -> None:
        """Its unrolled weights have the moments of the search, and its tensors are those of the private copy."""
        search = begun()
        context = context_of(search)
        problem = context.problem()
        slopes = {n: torch.ones_like(p) for n, p in problem.weights.items()}
        live = [(n, p) for n, p in search.network.named_parameters() if not n.startswith("alphas.")]
        expected = search.strategy.optimiser.unroll(search.state.optimisers["weights"], live, slopes)
        found = problem.unroll(slopes)

        assert {n: id(p) for n, p in context.network.named_parameters() if n in problem.weights} == {
            n: id(p) for n, p in problem.weights.items()
        }
        assert all(torch.equal(found[n], expected[n]) for n in expected)
        inputs, targets = context.batch("validation", 0)
        loss = problem.valid(problem.weights, problem.alphas)
        torch.testing.assert_close(loss, search.data.loss(context.network(inputs, context.mixing), targets))


class TestRemember:
    def test_a_value_may_need_another(self) -> None:
        """The inner value is measured first, and each of them once."""
        made: Counter[str] = Counter()

        def make(name: str, value: Any) -> Any:
            made[name] += 1
            return value

        def question(context: Context) -> Any:
            inner = lambda: context.remember("inner", lambda: make("inner", torch.arange(3)))  # noqa: E731
            return context.remember("outer", lambda: make("outer", inner().sum())), context.remember(
                "nan", lambda: float("nan")
            )

        (found, nan), evidence, records = ask(begun(), question)

        assert found == 3.0
        assert nan != nan
        assert [r.key for r in records if isinstance(r, Measured)] == ["inner", "outer", "nan"]
        assert made == {"inner": 1, "outer": 1}
        assert [*evidence] == ["outer", "nan"]

    def test_values_are_measured_together(self) -> None:
        """They have one record, with their number, and each of them is evidence; also none is measured once."""
        made: Counter[str] = Counter()

        def make(name: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
            made[name] += 1
            return values

        def question(context: Context) -> Any:
            both = context.remember_all("both", lambda: make("both", {"b": torch.arange(2), "a": 1.5}))
            none = context.remember_all("none", lambda: make("none", {}))
            return both, none, context.remember("last", lambda: 2.0)

        (both, none, last), evidence, records = ask(begun(), question)

        assert [*both] == ["a", "b"]
        assert both["a"] == 1.5
        assert both["b"].tolist() == [0, 1]
        assert none == {}
        assert last == 2.0
        assert [(r.key, r.value) for r in records if isinstance(r, Measured)] == [("both", 2.0), ("none", 0.0), ("last", 2.0)]
        assert made == {"both": 1, "none": 1}
        assert [*evidence] == ["both", "both/a", "both/b", "none", "last"]

    @pytest.mark.parametrize("first", ["both", "both/a", "both/b"])
    def test_two_measurements_of_one_key_are_refused(self, first: str) -> None:
        """The second one would silently get the value of the first."""

        def question(context: Context) -> Any:
            return context.remember(first, lambda: 7.0), context.remember_all("both", lambda: {"b": 1.0})

        with pytest.raises(StrategyError, match="a different key for each measurement"):
            ask(begun(), question)

    @pytest.mark.parametrize("found", [[1.0], "one", {"a": "one"}, {"a": None}])
    def test_what_is_no_number_is_refused(self, found: Any) -> None:
        """The message says what may be returned."""
        with pytest.raises(StrategyError, match="let it return a number or a tensor"):
            ask(begun(), lambda context: context.remember_all("all", lambda: found))

    def test_a_value_that_needs_itself_is_refused(self) -> None:
        """The search would measure for ever."""
        with pytest.raises(StrategyError, match="'a' needs 'a' itself"):
            ask(begun(), lambda context: context.remember("a", lambda: context.remember("b", lambda: context.loss("a"))))

    def test_a_part_asks_for_the_same_values_in_each_call(self) -> None:
        """Otherwise it could measure for ever, and a resumed search would not have the values."""
        calls: Counter[str] = Counter()

        def question(context: Context) -> float:
            calls["all"] += 1
            return float(context.loss(f"call {calls['all']}"))

        with pytest.raises(StrategyError, match="the part asked for the value 'call 1' in one call and not in the next"):
            ask(begun(), question)


@attrs.frozen
class Counting(Keep):
    """A pruner that removes nothing and counts how often it measures."""

    name: ClassVar[str] = "counting"
    made: ClassVar[Counter[str]] = Counter()

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        def make(address: str) -> Tensor:
            self.made[address] += 1
            return context.mixing[address] + torch.rand(len(context.mixing[address]))

        return {address: context.remember(address, lambda a=address: make(a)) for address in context.mixing}


class TestInterrupted:
    def test_no_value_is_measured_twice(self) -> None:
        """A search that is interrupted after a value and resumed measures the others only, and ends in the same bytes."""
        strategy = toy_strategy(pruner=Counting(), nodes=3, growth=())
        search, dumps = Search(strategy), []
        for record in search:
            if isinstance(record, Measured):
                dumps.append(saved(search.state))
        expected, places = digest(search.state), Counting.made.total()
        assert places == len(dumps) >= 3
        for number, (text, tensors) in enumerate(dumps, 1):
            Counting.made.clear()
            again = Search(strategy, state=revived(text, tensors, strategy, PLUGINS))
            again.run()

            assert Counting.made.total() == places - number
            assert digest(again.state) == expected

    @pytest.mark.parametrize("plan", [{"plan": "stage", "growth": ()}, {"plan": "end"}], ids=["stage", "end"])
    def test_same_bytes_from_every_event(self, plan: dict[str, Any]) -> None:
        """A search whose pruner measures is resumed at each measured value, step and change, and ends in the same bytes."""
        assert check_resumes_everywhere(toy_strategy(pruner=Perturbation(), **plan)) >= 12

    def test_a_run_folder_keeps_what_was_measured(self, tmp_path: Path) -> None:
        """After a kill the folder has each value, and the run continues without measuring it again."""
        strategy = toy_strategy(pruner=Perturbation(), growth=())
        folder = Folder.create(tmp_path / "run", strategy, PLUGINS)
        search, keeper = folder.search()
        seen: list[Measured] = []
        for record in search:
            keeper(record)
            seen += [record] if isinstance(record, Measured) else []
            if len(seen) == 2:
                break
        again, _ = folder.search()
        rest = [record for record in again if isinstance(record, Measured)]

        assert {r.key for r in seen} & {r.key for r in rest} == set()
        assert len({r.key for r in [*seen, *rest]}) == len(seen) + len(rest)


class TestPerturbation:
    @pytest.mark.parametrize(
        ("member", "law"),
        [
            ({"scores": lambda self, context: {a: w[:, None] for a, w in context.mixing.items()}}, "pruner.measured"),
            ({"remove": lambda self, s, scores: {a: {c.id for c in site.candidates} for a, site in s.sites()}}, "pruner.names"),
        ],
        ids=["shape of scores", "all candidates"],
    )
    def test_a_message_that_says_the_cause_has_no_guess(self, member: dict[str, Any], law: str) -> None:
        """Where the measured row says what is wrong, the report names no other likely cause."""
        part = attrs.frozen(type("Faulty", (Keep,), member | {"name": "faulty"}))
        report = check(part, profile=attrs.evolve(QUICK, cases=1, least=1, shrinking=0.0), laws=[law])

        assert "they must be a tensor of shape" in report.text() or "keep at least one" in report.text()
        assert "likely cause" not in report.text()

    def test_the_evidence_is_in_the_lineage(self) -> None:
        """The record of the removal has each loss that it was decided by, and it is replayed without data."""
        strategy = toy_strategy(pruner=Perturbation(), nodes=2, growth=())
        search = Search(strategy)
        measured = {r.key: r.value for r in search if isinstance(r, Measured)}
        (record,) = (r for r in search.state.lineage if isinstance(r, Changed) and r.by == "perturbation")
        place = search.state.lineage.index(record)

        assert {k: float(search.state.evidence[f"{place}/{k}"]) for k in record.evidence} == measured != {}
        lineage = [from_json(to_json(r)) for r in search.state.lineage]
        assert [*replay(strategy, lineage, search.state.evidence, PLUGINS)][-1] == search.network.structure

    def test_it_keeps_what_the_network_needs_most(self) -> None:
        """At each site the candidate without which the validation loss is largest stays."""
        search = begun(pruner=Perturbation(), nodes=2)
        pruner = search.strategy.pruner
        scores, _, _ = ask(search, pruner.scores)
        gone = pruner.remove(search.network.structure, scores)
        for address, site in search.network.structure.sites():
            (kept,) = {c.id for c in site.candidates} - gone[address]

            assert [c.id for c in site.candidates].index(kept) == int(scores[address].argmax())


class TestCurvature:
    def test_the_reading_is_the_eigenvalue(self) -> None:
        """Products with the Hessian find the eigenvalue of the whole Hessian, which the record has."""
        search = begun(criterion=toy_strategy().criterion | Curvature())
        found, hessian = (ask(search, f)[0] for f in (largest_eigenvalue, lambda c: whole(c.problem())))
        eigenvalues = torch.linalg.eigvalsh(hessian)

        torch.testing.assert_close(found, float(eigenvalues[eigenvalues.abs().argmax()]))
        record = next(r for r in search if isinstance(r, EpochEnded))
        assert record.readings["curvature"] != 0

    def test_same_bytes_from_every_event(self) -> None:
        """A search whose criterion measures is resumed at each value, step and change, and ends in the same bytes."""
        criterion = toy_strategy().criterion | Curvature(1)
        assert check_resumes_everywhere(toy_strategy(criterion=criterion, growth=())) >= 8


def whole(problem: Bilevel) -> Tensor:
    """Return the Hessian of the validation loss by all alphas."""
    sizes = [len(alpha) for alpha in problem.alphas.values()]

    def loss(alphas: Tensor) -> Tensor:
        return problem.valid(problem.weights, dict(zip(problem.alphas, alphas.split(sizes), strict=True)))

    found: Tensor = torch.autograd.functional.hessian(loss, torch.cat([*problem.alphas.values()]).detach())  # type: ignore[no-untyped-call]
    return found


class TestSteepestGrowth:
    def test_it_keeps_the_laws_of_proposals(self) -> None:
        """A morphism that measures is checked like any other one; its edits are those of a shipped morphism."""
        laws = ["part.repeatable", "morphism.proposals", "morphism.admits", "morphism.measured", "morphism.replay"]
        report = check(SteepestGrowth, examples=STEEPEST, laws=laws, profile=attrs.evolve(QUICK, cases=2, least=1))

        assert report.ok, report.text()

    def test_the_gradients_are_evidence_of_the_growth(self) -> None:
        """Each growth has the measured gradients in the lineage, which is replayed without data."""
        search = Search(toy_strategy(growth=(SteepestGrowth(),)))
        measured = [r.key for r in search if isinstance(r, Measured)]
        state = search.state
        grown = [place for place, r in enumerate(state.lineage) if isinstance(r, Changed) and r.change == "grow"]

        assert len(grown) == 2
        assert measured[:2] == ["squared gradients"] * 2
        assert all(bool((state.evidence[f"{place}/squared gradients"] > 0).all()) for place in grown)
        assert [*replay(search.strategy, state.lineage, state.evidence, PLUGINS)][-1] == search.network.structure

    def test_same_bytes_from_every_event(self) -> None:
        """A search whose morphism measures is resumed at each value, step and change, and ends in the same bytes."""
        assert check_resumes_everywhere(toy_strategy(growth=(SteepestGrowth(),), plan="end")) >= 14
