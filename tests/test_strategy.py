"""A strategy is a value that a file holds, and what cannot be is refused with what to write instead."""

from __future__ import annotations

import datetime
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
import click
import pytest
import tomli_w
import torch
from nasframe_convolutional import ConvolutionMorphism
from nasframe_forecasting import Forecasting
from nasframe_growing import Epochs, MaxNodes, NoBetter, NodeGrowth, Patience
from nasframe_recurrent import Darts, IdentityEdge, Sum, TanhEdge, TwoToOne
from standins import ToySeries
from torch import nn
from toy import PLUGINS, toy_strategy

from nasframe import Decision, GrowthCriterion, NasframeError, Operation, Optimiser, Search, Strategy
from nasframe.cli.flags import PartType, strategy_values, with_options
from nasframe.cli.main import cli
from nasframe.errors import ChangeError, StrategyError
from nasframe.interfaces.part import to_plain
from nasframe.options import nested, number
from nasframe.plugins import Plugin, Plugins
from nasframe.records import StageEnded

GIVEN = toy_strategy().to_dict()


def test_a_file_holds_a_strategy(tmp_path: Path) -> None:
    """What is written is read as an equal strategy, and written again with the same bytes."""
    strategy = toy_strategy(
        task=Forecasting(), criterion=(Patience(2) | NoBetter()) & MaxNodes(3), growth=(NodeGrowth("gate"),)
    )
    again = Strategy.from_toml(strategy.to_toml(), PLUGINS)

    assert strategy == again
    assert strategy.to_toml() == again.to_toml()
    (tmp_path / "a.toml").write_text(strategy.to_toml())
    assert Strategy.read(tmp_path / "a.toml", PLUGINS) == Strategy.read(str(tmp_path / "a.toml"), PLUGINS) == strategy


def changed(path: str, value: Any) -> dict[str, Any]:
    """The values of a strategy with one of them replaced, or added."""
    values = toy_strategy().to_dict()
    *outer, last = path.split(".")
    inner = values
    for key in outer:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    inner[last] = value
    return values


IMPOSSIBLE = [
    ("sede", 1, "the strategy has no key 'sede'; did you mean 'seed'?"),
    ("xyz", 1, "the strategy has no key 'xyz'; it has: task, backbone"),
    ("seed", -1, "the strategy cannot be made: seed is -1; it must be a whole number of at least 0"),
    ("nodes", 1.5, "nodes is 1.5; it must be a whole number of at least 1 and at most 1000"),
    ("nodes", True, "nodes is True; it must be a whole number of at least 1"),
    ("nodes", 10**9, "nodes is 1000000000; it must be a whole number of at least 1 and at most 1000"),
    ("threads", 10**9, "threads is 1000000000; it must be a whole number of at least 1 and at most 1024"),
    ("backbone.layers", 10**9, "layers is 1000000000; it must be a whole number of at least 1 and at most 1000"),
    ("growth", "node", "the strategy: growth is 'node'; it must be a list: write growth = [\"node\"]"),
    ("growth", {"name": "node"}, "growth is {'name': 'node'}; it must be a list: write [[growth]], not [growth]"),
    (
        "criterion",
        [{"name": "patience"}],
        "the strategy: criterion is a list; it must be one: write [criterion], not [[criterion]]",
    ),
    ("criterion", ["patience"], "the strategy: criterion is a list; it must be one: write criterion = ..., without brackets"),
    ("optimiser", [{"epochs": 3}], "optimiser is a list; it must be one: write [optimiser], not [[optimiser]]"),
    ("backbone.operations", "sum", "operations is 'sum'; it must be a list: write operations = [\"sum\"]"),
    ("seed", [1], "seed is (1,); it must be a whole number"),
    ("seed", datetime.date(2020, 1, 1), "seed is datetime.date(2020, 1, 1); it must be a whole number"),
    ("batch", "many", "there is no batch_size 'many'"),
    ("prune", "end", "the strategy has no key 'prune' any more: write plan = \"end\" in its place"),
    ("plan", "ends", "there is no plan 'ends'; did you mean 'end'?"),
    ("plan", [], "the plan has no step that trains: give it a `train`"),
    ("device", "gpu", "device is 'gpu'; it must be a device of torch"),
    ("backbone", "two_to_on", "there is no backbone 'two_to_on'; did you mean 'two_to_one'?"),
    ("backbone.hiden", 3, "backbone 'two_to_one' has no key 'hiden'; did you mean 'hidden'?"),
    ("backbone.hidden", 0, "backbone 'two_to_one' cannot be made: hidden is 0; it must be a whole number of at least 1"),
    ("backbone.dropout", float("nan"), "dropout is nan; it must be a number of at least 0.0 and at most 1.0"),
    ("backbone.operations", [], "operations is []; it must be one or more operations of two inputs"),
    ("backbone.operations", ["tanhh"], "there is no operation 'tanhh'; did you mean 'tanh'?"),
    ("growth", ["nod"], "there is no morphism 'nod'; did you mean 'node'?"),
    ("growth.0.delta", -0.1, "morphism 'node' cannot be made: delta is -0.1; it must be a number of at least 0.0"),
    ("growth.0.form", "noisy", "form is 'noisy'; it must be one of 'noise', 'gate'"),
    ("optimiser.lr", 0.1, "the optimiser has no key 'lr'; it has: method, learning_rate"),
    ("optimiser.method", "sdg", "method is 'sdg'; it must be one of 'adam', 'adamw', 'sgd'"),
    ("optimiser", 3, "3 must be a table of method, learning_rate"),
    ("optimiser.betas", [0.9], "betas is (0.9,); it must be two numbers"),
    ("criterion", {"name": "any_of", "parts": []}, "parts is (); it must be one or more growth criteria"),
    ("criterion", {"name": "max_nodes"}, "criterion 'max_nodes' lacks nodes, which must be given"),
    ("task", {"name": "forecasting", "window": 0}, "window is 0; it must be a whole number of at least 1"),
    ("pruner", 7, "7 does not describe a pruner; write its name, or a table with `name`"),
]


@pytest.mark.parametrize(("path", "value", "message"), IMPOSSIBLE, ids=[f"{p}={v}" for p, v, _ in IMPOSSIBLE])
def test_an_impossible_strategy(path: str, value: Any, message: str) -> None:
    """The error says what was given, why it is wrong and what to write instead."""
    with pytest.raises(NasframeError) as caught:
        Strategy.from_dict(changed(path, value), PLUGINS)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "optimiser", "message"),
    [
        (
            "optimiser",
            {"method": "sgd", "learning_rate": 1e200},
            "learning_rate or final is 1e+200, too large for the numbers of float32",
        ),
        (
            "optimiser",
            {"method": "adam", "learning_rate": 1e38},
            "learning_rate or final is 1e+38, too large for the numbers of float32",
        ),
        ("optimiser", {"epochs": 2, "final": 1e39}, "learning_rate or final is 1e+39, too large"),
        ("optimiser", {"weight_decay": 1e39}, "weight_decay is 1e+39, too large"),
        (
            "optimiser",
            {"method": "adamw", "learning_rate": 1e30, "weight_decay": 1e30},
            "learning_rate * weight_decay is 1e+60, too large",
        ),
        ("architect.optimiser", {"learning_rate": 1e39}, "learning_rate or final is 1e+39, too large"),
        ("optimiser", {"learning_rate": 10**400}, "it must be a number of at least 0.0"),
    ],
)
def test_rates_that_the_dtype_cannot_hold(path: str, optimiser: dict[str, Any], message: str) -> None:
    """They are refused before a step that torch would refuse, wherever in the strategy they are."""
    with pytest.raises(StrategyError, match=re.escape(message)):
        Strategy.from_dict(changed(path, optimiser) | {"dtype": "float32"}, PLUGINS)


@pytest.mark.parametrize(("dtype", "rate"), [("float32", 1e38), ("float64", 1e200)])
def test_the_largest_rates_are_applied(dtype: str, rate: float) -> None:
    """A rate that the dtype holds is no error of torch: the weights become what the step makes of them."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=getattr(torch, dtype)))
    optimiser = Optimiser("sgd", learning_rate=rate)
    optimiser.check(weight.dtype)
    weight.grad = torch.ones_like(weight)
    optimiser.build([("w", weight)]).step()

    assert weight.item() == pytest.approx(-rate)


FILES = {
    "not TOML": (b"seed = ", "the strategy is not TOML: Invalid value"),
    "no key": (b"node = 1", "the strategy has no key 'node'; did you mean 'nodes'?"),
    "a word for a list": (b'growth = "node"', "the strategy: growth is 'node'; it must be a list"),
    "a list for a table": (b'[[criterion]]\nname = "patience"', "write [criterion], not [[criterion]]"),
    "nested arrays": (b"a = " + b"[" * 3000, "the strategy is nested too deeply to be read"),
    "nested tables": (b"a = " + b"{a=" * 3000, "the strategy is nested too deeply to be read"),
    "nested keys": (b"criterion" + b".parts" * 3000 + b" = 1", "the strategy"),
    "digits": (b"seed = " + b"1" * 5000, "the strategy is not TOML: Exceeds the limit"),
    "not text": (b"\xff\xfe\x00", "cannot be read: 'utf-8' codec can't decode"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_written_by_hand(fault: str, tmp_path: Path) -> None:
    """An error names the file and what is wrong in it."""
    content, message = FILES[fault]
    (tmp_path / "hand.toml").write_bytes(content)
    with pytest.raises(NasframeError) as caught:
        Strategy.read(tmp_path / "hand.toml", PLUGINS)

    assert str(tmp_path / "hand.toml") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["\ufeff{}", "{}", "\ufeff# a comment\n{}"])
def test_a_file_of_any_editor(text: str, tmp_path: Path) -> None:
    """A byte order mark and Windows line ends do not matter."""
    written = text.format(toy_strategy().to_toml())
    (tmp_path / "a.toml").write_bytes(written.replace("\n", "\r\n").encode())

    assert Strategy.read(tmp_path / "a.toml", PLUGINS) == toy_strategy()


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder or a device is refused, and not read for ever."""
    for path in (tmp_path, "/dev/zero", "null\0character"):
        with pytest.raises(StrategyError, match="cannot be read"):
            Strategy.read(path, PLUGINS)


@pytest.mark.parametrize("hidden", [10**6, 10**8, 10**10, 10**30])
def test_a_network_that_no_machine_holds(hidden: int) -> None:
    """It is refused before anything is allocated, whether or not its size can be counted."""
    strategy = toy_strategy(backbone=TwoToOne(hidden=hidden))
    tracemalloc.start()
    with pytest.raises(StrategyError, match=r"the network of two_to_one hidden=1\d+ cannot be held in memory: it needs "):
        Search(strategy)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 2**27


def test_an_operation_that_cannot_be_measured_is_built() -> None:
    """Where a module cannot be made without values there is no estimate, and the search begins."""
    strategy = toy_strategy(backbone=TwoToOne(hidden=2, operations=(Sum(), Measured())), growth=())

    assert Search(strategy).network.count()["operations"] > 0


def test_a_missing_part() -> None:
    """A strategy without a backbone names it."""
    values = {k: v for k, v in GIVEN.items() if k != "backbone"}

    with pytest.raises(StrategyError, match="the strategy lacks backbone, which must be given"):
        Strategy.from_dict(values, PLUGINS)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The error says whether there is no file, no text or no TOML."""
    with pytest.raises(StrategyError, match=r"the strategy file .*nowhere\.toml cannot be read"):
        Strategy.read(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StrategyError, match=r"binary\.toml cannot be read"):
        Strategy.read(tmp_path / "binary.toml")
    with pytest.raises(StrategyError, match="the strategy is not TOML"):
        Strategy.from_toml("task = ", PLUGINS)


def test_delta_beyond_the_legal_is_refused_before_the_first_step() -> None:
    """Delta must be below 1 / (number of operations - 1): with five operations 0.25."""
    with pytest.raises(ChangeError, match=r"delta is 0\.25; with 5 candidates at layer0/n1 it must be above 0 and below 0\.25"):
        Search(toy_strategy(growth=(NodeGrowth(delta=0.25),)))


def test_flags_replace_the_values_of_a_strategy() -> None:
    """A flag replaces the value of its name, `--budget` joins the criteria, and nothing else changes."""
    backbone = PartType().convert("two_to_one:dropout=0.5", None, None)
    base = Strategy.named("default").to_dict()
    values = strategy_values(
        {"backbone": backbone, "budget": 9, "criterion": (), "seed": None, "options": {"hidden": "8"}}, PLUGINS
    )

    assert values["backbone"] == {"name": "two_to_one", "dropout": 0.5, "hidden": 8}
    assert values["criterion"] == {
        "name": "any_of",
        "parts": [{"name": "max_updates", "updates": 9}, base["criterion"]],
    }
    assert {k: v for k, v in values.items() if k not in ("backbone", "criterion")} == {
        k: v for k, v in base.items() if k not in ("backbone", "criterion")
    }


def test_a_strategy_file_with_flags(tmp_path: Path) -> None:
    """The file gives all values that no flag gives."""
    file = tmp_path / "a.toml"
    file.write_text(Strategy.named("two-to-one-grow-stage").to_toml())
    written = Strategy.read(file).to_dict()

    assert strategy_values({"strategy": str(file), "seeds": 9}, PLUGINS) == written | {"seeds": 9}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("form=gate,delta=0.1", {"form": "gate", "delta": 0.1}),
        ('hidden=2,operations=["sum","tanh"],layers=1', {"hidden": 2, "operations": ["sum", "tanh"], "layers": 1}),
        ('a=[{name=separable,kernel=5,expansion=[1]},"x"]', {"a": [{"name": "separable", "kernel": 5, "expansion": [1]}, "x"]}),
        ("csv=data/my prices.csv,returns=true", {"csv": "data/my prices.csv", "returns": True}),
        (r"csv=C:\data\x.csv", {"csv": r"C:\data\x.csv"}),
        ('csv="a=b,c.csv",form=gate', {"csv": "a=b,c.csv", "form": "gate"}),
        ("csv='a,b',n=-1e-3", {"csv": "a,b", "n": -1e-3}),
        ("source=größe", {"source": "größe"}),
        ("optimiser.epochs=3", {"optimiser": {"epochs": 3}}),
    ],
)
def test_the_options_of_a_part_are_toml(text: str, options: dict[str, Any]) -> None:
    """Values are those of TOML, and a word needs no quotes, also within a table."""
    assert PartType().convert(f"part:{text}", None, None) == {"name": "part", **options}


@pytest.mark.parametrize(
    "text", ["hidden", "a=[sum,tanh]", "a=1,a=2", "a=", 'a="x', "a=1,", "a={b=1", "a=x=y", "a=" + "[" * 3000]
)
def test_options_that_are_not_toml(text: str) -> None:
    """The error names the part and says how options are written."""
    with pytest.raises(click.BadParameter, match=r"cannot be read as TOML \(.*\); write part:option=value,option=value"):
        PartType().convert(f"part:{text}", None, None)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--csv", "x.csv", "--returns"], {"csv": "x.csv", "returns": None}),
        (["--returns", "--csv=x=y.csv", "--seed", "3"], {"returns": None, "csv": "x=y.csv"}),
        (["--drop-path", "-0.5"], {"drop_path": "-0.5"}),
        (["--out", "--odd", "--hidden", "2"], {"hidden": "2"}),
        (["--out=--odd", "--readable"], {}),
    ],
)
def test_flags_of_parts_are_collected(arguments: list[str], options: dict[str, str | None]) -> None:
    """A flag that is not the command's has the text that follows as its value, unless that is a flag."""
    context = cli.commands["search"].make_context("search", arguments)

    assert context.params["options"] == options
    assert context.params["seed"] == (3 if "--seed" in arguments else None)


def test_an_option_of_a_part_is_a_flag() -> None:
    """The text becomes a value of the option's type, and options that it replaces are dropped."""
    options = {"csv": "2020", "columns": "a, b", "returns": None, "window": "7", "operations": "sum,tanh"}
    values = strategy_values({"options": options}, PLUGINS)
    given = {"csv": "2020", "columns": ["a", "b"], "returns": True, "window": 7}

    assert values["task"] == {k: v for k, v in to_plain(Forecasting()).items() if k != "series"} | given
    assert values["backbone"]["operations"] == ["sum", "tanh"]


class Scaled(nn.Module):
    """A module that reads a value out of a tensor when it is made."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.both = nn.Bilinear(inputs, hidden, hidden)
        self.scale = self.both.weight.abs().max().item()

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.both(x, h) / self.scale


@attrs.frozen
class Measured(Operation):
    """An operation that cannot be built without values."""

    name: ClassVar[str] = "measured"
    arity: ClassVar[int] = 2

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Scaled(inputs, hidden)


@attrs.frozen
class Hidden(ToySeries):
    """A task with an option that the backbone has, too."""

    name: ClassVar[str] = "hidden"
    hidden: int = number(1)


def test_an_option_of_two_parts() -> None:
    """It is refused, with the unambiguous forms."""
    plugins = Plugins((*PLUGINS.found, Plugin("more", "tests", "0", (Hidden,))))
    chosen = {"task": {"name": "hidden"}, "backbone": {"name": "two_to_one"}}

    with pytest.raises(click.UsageError, match=r"write --task hidden:hidden=\.\.\. or --backbone two_to_one:hidden=\.\.\."):
        with_options(chosen, {"hidden": "3"}, plugins)
    assert with_options(chosen, {"columns": "3"}, plugins)["task"] == {"name": "hidden", "columns": 3}


@attrs.frozen
class Rounds(GrowthCriterion):
    """A criterion of a third party, which sets both the length of a phase and the length of the search."""

    name: ClassVar[str] = "rounds"
    flags: ClassVar[Mapping[str, str]] = {"epochs": "each", "budget": "total"}
    each: int = number(1, low=1, whole=True)
    total: int = number(100, low=1, whole=True)

    def decide(self, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        return state, Decision()


@attrs.frozen
class Guarded(GrowthCriterion):
    """A criterion of a third party that holds another one."""

    name: ClassVar[str] = "guarded"
    inner: GrowthCriterion = nested("criterion", default=Rounds())

    def decide(self, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        return state, Decision()


THIRD = Plugin("third", "tests", "0", (Rounds, Guarded))


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({"name": "rounds", "total": 7}, {"name": "rounds", "each": 3, "total": 50}),
        (
            {"name": "any_of", "parts": [{"name": "no_better"}, {"name": "rounds"}]},
            {"name": "any_of", "parts": [{"name": "no_better"}, {"name": "rounds", "each": 3, "total": 50}]},
        ),
        (
            {"name": "guarded", "inner": {"name": "rounds"}},
            {"name": "guarded", "inner": {"name": "rounds", "each": 3, "total": 50}},
        ),
    ],
)
def test_a_criterion_of_a_third_party_has_the_flags_that_it_declares(tmp_path: Path, criterion: Any, expected: Any) -> None:
    """`--epochs` and `--budget` set its options where the strategy has it, also within other criteria."""
    plugins = Plugins((*PLUGINS.found, THIRD))
    file = tmp_path / "a.toml"
    values = Strategy.named("default").to_dict() | {"criterion": criterion}
    file.write_text(tomli_w.dumps(values))

    assert strategy_values({"strategy": str(file), "epochs": 3, "budget": 50}, plugins)["criterion"] == expected


def test_flags_without_the_criteria_that_come_with_nasframe() -> None:
    """The one installed criterion that declares a flag is used; several are refused with the long forms, and so is none."""
    several = Plugins((*PLUGINS.found, THIRD))
    others = tuple(plugin for plugin in PLUGINS.found if plugin.name != "nasframe_growing")
    only = Plugins((*others, attrs.evolve(THIRD, parts=(Rounds, Patience))))
    default = {**Strategy.named("default").to_dict(), "criterion": "patience", "growth": []}

    with pytest.raises(click.UsageError, match=r"--criterion epochs:epochs=3 or --criterion rounds:each=3"):
        strategy_values({"epochs": 3}, several)
    with patch("nasframe.cli.flags._starting_values", lambda *_: {**default}):
        added = strategy_values({"budget": 50}, only)["criterion"]
        assert added == {"name": "any_of", "parts": [{"name": "rounds", "total": 50}, "patience"]}
        assert strategy_values({"epochs": 3}, only)["criterion"] == {"name": "rounds", "each": 3}
        with pytest.raises(click.UsageError, match="no installed criterion declares the flag --budget"):
            strategy_values({"budget": 3}, Plugins((*others, attrs.evolve(THIRD, parts=(Patience,)))))


def test_growth_that_comes_to_nothing_is_said_before() -> None:
    """A morphism may have nothing to propose until pruning has been, so it is no error."""
    for growth in ((ConvolutionMorphism(), NodeGrowth()), (ConvolutionMorphism(),)):
        said = [*Search(toy_strategy(growth=growth)).warnings()]
        assert said == ["growth by convolution proposes no change of the network as it is"]
    assert [*Search(toy_strategy(growth=(NodeGrowth(),))).warnings()] == []


@pytest.mark.parametrize(("nodes", "warned"), [(2, False), (3, True)])
def test_a_limit_that_is_reached_before_the_search(nodes: int, warned: bool) -> None:
    """A network that begins with as many nodes as a criterion allows cannot grow, which is said before the search, and not later."""
    strategy = toy_strategy(nodes=nodes, growth=(NodeGrowth(),), criterion=Epochs(1) | MaxNodes(3))
    expected = (
        "the network will not grow: it has 3 nodes, and the criterion 'max_nodes nodes=3' stops the search after the first stage; "
        "give it a larger value of nodes, or begin with fewer nodes"
    )

    assert [*Search(strategy).warnings()] == [expected] * warned
    assert [*Search(attrs.evolve(strategy, growth=())).warnings()] == []
    search = Search(strategy)
    for _ in search:
        if len(search.network.structure.cells[0][1].nodes) == 3 and search.state.history:
            break
    assert [*search.warnings()] == []


def test_growth_that_cannot_go_on_ends_the_search() -> None:
    """By noise a second edge needs a zero, which is not missed at the first growth: the search ends well, and says why."""
    backbone = Darts(hidden=3, operations=(TanhEdge(), IdentityEdge()))
    criterion = Epochs(1) | MaxNodes(4)
    search = Search(toy_strategy(backbone=backbone, nodes=1, criterion=criterion, growth=(NodeGrowth(delta=0.05),)))
    network = search.run()
    judged = [r.reason for r in search.state.history if isinstance(r, StageEnded)]

    assert network.structure.decided
    assert judged == [
        "the phase has trained for 1 epochs, and no criterion says stop",
        "no morphism proposes a change; node: no candidate of a new node in 'layer0' can act as zero, as all but one of its edges "
        "have to; grow it with form = 'gate' (--growth node:form=gate, or growth=(NodeGrowth(form='gate'),) in Python)",
    ]
