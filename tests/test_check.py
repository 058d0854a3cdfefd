"""The engine of the conformance kit, and its door on the command line."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
import runpy
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import forked
import pytest
import torch
from broken import IMAGES, SOUND, UNSOUND, WAIVING, Install, installer
from hypothesis import given, reject, strategies as st
from torch import Tensor, nn

import nasframe
from nasframe import (
    Address,
    Bound,
    Claim,
    Context,
    Decision,
    Edit,
    Filling,
    Morphism,
    NasframeError,
    Network,
    Operation,
    Proposal,
    Seed,
    Set,
    Structure,
    Take,
)
from nasframe.change.replace import replace_candidate
from nasframe.cli.main import main
from nasframe.errors import ChangeError
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.network.mixing import MixedOperation
from nasframe.network.network import unallocated
from nasframe.options import flag
from nasframe.plugins import Plugin, Plugins, discover
from nasframe.records import EpochEnded
from nasframe.structure.editing import candidate_at, site_at
from nasframe.testing.check import QUICK, Profile, check, tried
from nasframe.testing.compare import require, require_at_most
from nasframe.testing.examples import Examples, Waiver
from nasframe.testing.law import Inapplicable, Law
from nasframe.testing.report import Outcome, Report
from nasframe.testing.subject import Subject, subject


@attrs.frozen
class Calm(nasframe.GrowthCriterion):
    """A criterion that always abstains, so that its cases are quick to draw."""

    name: ClassVar[str] = "calm"

    def decide(self, state: Any, history: Any, proposals: Any) -> Any:
        return state, ABSTAIN


@attrs.frozen
class Needy(Calm):
    """A criterion with an option that has no default."""

    name: ClassVar[str] = "needy"
    epochs: int = nasframe.options.number(low=1, whole=True)


def lawful(holds: Callable[[Any], str | None]) -> Law:
    return Law("criterion.tried", "What is tried here.", "", holds)


def broken(case: Any) -> None:
    require(False, "it is broken")


def kept(case: Any) -> None:
    pass


def specimen(cls: type = Calm, waivers: tuple[Waiver, ...] = ()) -> Subject:
    plugin = Plugin("calm_plugin", "stranger", "1.2", (cls,), contract="1.0")
    return subject(cls, plugin, Plugins((plugin,)), Examples(waivers=waivers))


def outcome(holds: Callable[[Any], str | None], *waivers: Waiver, cls: type = Calm, **options: Any) -> Outcome:
    return tried(specimen(cls, waivers), lawful(holds), options.pop("profile", QUICK), **options)


def waiver(until: str = "2.0", law: str = "criterion.tried") -> Waiver:
    return Waiver(Calm, law, "it has to wait", until)


class TestOutcomes:
    """The outcome of trying one law on one part."""

    def test_each(self) -> None:
        """A law passes, fails or does not apply; the reason is its message, or a remark that all cases return alike."""

        def silent(case: Any) -> None:
            raise Inapplicable("it claims nothing")

        numbers = itertools.count()

        assert (outcome(kept).status, outcome(kept).cases, outcome(kept).reason) == ("passed", QUICK.cases, "")
        assert (outcome(broken).status, outcome(broken).reason) == ("failed", "it is broken")
        assert (outcome(silent).status, outcome(silent).reason) == ("inapplicable", "it claims nothing")
        assert outcome(lambda case: "it may claim more").reason == "it may claim more"
        assert outcome(lambda case: str(next(numbers))).reason == ""

    def test_too_few_cases(self) -> None:
        """A law that applies to hardly any case has no result, which counts as a failure of the check."""
        found = outcome(lambda case: reject(), profile=Profile("few", 2, 2))

        assert (found.status, found.bad) == ("inconclusive", True)
        assert found.reason == "the law applied to 0 cases only, of 2 that were wanted"

    def test_a_part_that_nobody_can_make(self) -> None:
        """Without examples for a required option the reason says what to write."""
        found = outcome(kept, cls=Needy)

        assert found.status == "inconclusive"
        assert found.reason.startswith(
            "it needs epochs, and there are no examples: let the function `examples` of the plugin's submodule `examples`"
        )
        assert "Examples(parts={Needy: st.builds(Needy, epochs=...)})" in found.reason

    def test_what_a_part_raises(self) -> None:
        """An error that is not that of a law is reported with its type and the last line of the part's package."""

        def strange(case: Any) -> None:
            json.loads("{")

        assert outcome(strange).reason.startswith("JSONDecodeError: Expecting property name enclosed in double quotes")
        assert f"({__file__}, line " in outcome(strange).reason

    @pytest.mark.parametrize("measured", [math.nan, math.inf])
    def test_what_is_no_number(self, measured: float) -> None:
        """NaN and infinity are never within what a law allows."""
        found = outcome(lambda case: require_at_most("the distance", measured, 1.0))

        assert (found.status, found.reason) == ("failed", f"the distance is {measured}; at most 1 is allowed")

    def test_a_law_that_cannot_decide(self) -> None:
        """A law that fails once and then passes on the same case counts as failed."""
        calls = itertools.count()

        assert outcome(lambda case: require(next(calls) > 0, "the first time")).status == "failed"


class TestWaivers:
    """Waivers of laws that a part is known to break."""

    @pytest.mark.parametrize(
        ("holds", "until", "status", "why"),
        [
            (broken, "2.0", "waived", "it has to wait (until version 2.0)"),
            (kept, "2.0", "error", "it is waived (it has to wait), but passed: remove the waiver"),
            (
                broken,
                "1.2",
                "error",
                "the waiver (it has to wait) expired with version 1.2: repair the part, or renew the waiver.",
            ),
            (kept, "1.1", "error", "the waiver (it has to wait) expired with version 1.1"),
            (broken, "soon", "error", "the version until which the law is waived cannot be read: Invalid version: 'soon'"),
            (lambda case: reject(), "2.0", "inconclusive", "the law applied to 0 cases only"),
        ],
    )
    def test_what_comes_of_one(self, holds: Any, until: str, status: str, why: str) -> None:
        """A waiver covers a failure until its version; a law that passes, and an expired waiver, are errors."""
        found = outcome(holds, waiver(until), profile=Profile("few", 2, 2))

        assert (found.status, found.bad) == (status, status != "waived")
        assert found.reason.startswith(why)

    def test_of_a_law_that_there_is_not(self) -> None:
        """A waiver of a law that does not exist is an error, which lists the laws."""
        report = check(
            Calm, examples=Examples(waivers=(waiver(law="criterion.lagal"),)), laws=["part.frozen"], plugins=Plugins(())
        )
        found = report.outcomes[0]

        assert (found.law, found.status, report.ok) == ("criterion.lagal", "error", False)
        assert found.reason.startswith(
            "a waiver names this law, which does not apply to a criterion, or does not exist; there is criterion.legal"
        )


class TestReplay:
    """A failing case is tried again by its replay code."""

    @pytest.mark.parametrize("least", [1, 2, 4])
    def test_it_is_the_very_same_case(self, least: int) -> None:
        """The replay has the same case, the same measurement and the same message."""

        def small(case: Any) -> None:
            count = len(case.moments)
            require(count < least, f"{count} records: {[m.record for m in case.moments]}")

        found = outcome(small, profile=Profile("many", 40, 1))
        again = outcome(small, replay=found.replay.split()[-1])

        assert found.status == "failed"
        assert found.replay.startswith("nasframe check calm --law criterion.tried --replay ")
        assert (again.status, again.reason, again.case, again.replay) == ("failed", found.reason, found.case, found.replay)

    def test_what_is_mended(self) -> None:
        """If the part was mended, the replay of that one case passes."""
        blob = outcome(broken).replay.split()[-1]

        assert (outcome(kept, replay=blob).status, outcome(kept, replay=blob).cases) == ("passed", 1)

    @pytest.mark.parametrize("spoil", [lambda blob: "1.2.3:AAAA", lambda blob: "junk", lambda blob: blob[:-5] + "!", str.lower])
    def test_what_is_no_case(self, spoil: Callable[[str], str]) -> None:
        """A code of another version, or one that cannot be read, is reported as such and is not a failure of the part."""
        found = outcome(broken, replay=spoil(outcome(broken).replay.split()[-1]))

        assert found.status == "inconclusive"
        assert found.reason.endswith("leave it out")


class TestReports:
    """A report names what is bad, then waivers and remarks, then the counts."""

    def test_an_unknown_law(self) -> None:
        """An unknown law is refused with the list of those that exist."""
        with pytest.raises(
            NasframeError, match=r"no law criterion\.lagal applies to these parts; there are: part\.signature, "
        ):
            check(Calm, laws=["criterion.lagal"], plugins=Plugins(()))

    @given(st.lists(st.sampled_from(["passed", "inapplicable", "waived", "inconclusive", "failed", "error"])))
    def test_what_is_good(self, statuses: list[str]) -> None:
        """A report is good if something was checked and nothing is bad; its text ends with the count, and all of it is JSON."""
        outcomes = tuple(Outcome(f"part {n % 2}", "plugin", "law", status, "says") for n, status in enumerate(statuses))
        report = Report("quick", {}, outcomes)
        last = report.text().splitlines()[-1]

        assert report.ok == (bool(statuses) and not {*statuses} & {"inconclusive", "failed", "error"})
        assert sum(int(count) for count in last.split(": ", 1)[1].split() if count.isdigit()) == len(statuses)
        assert [law["status"] for law in json.loads(json.dumps(report.to_dict()))["outcomes"]] == statuses

    def test_one_reason_is_one_thing_to_read(self) -> None:
        """Equal reasons of several laws and parts of a plugin are printed once; those of another plugin apart."""
        causes = [("a", "x", "one"), ("a", "x", "two"), ("a", "y", "one"), ("b", "z", "one")]
        failed = [Outcome(part, plugin, law, "failed", "says", reason="w") for plugin, part, law in causes]
        aside = [Outcome(part, plugin, law, "inapplicable", reason="w") for plugin, part, law in causes]
        blocks = Report("quick", {}, (*failed, *aside)).text().split("\n\n")[:-1]

        assert [words.splitlines()[0] for words in blocks] == [
            "one FAILED for x of a",
            "one FAILED for z of b",
            "one, two for x; one for y: inapplicable, w",
        ]
        assert blocks[0].endswith("  the same for: two for x; one for y")
        assert blocks[-1].endswith("\none for z: inapplicable, w")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    return installer(tmp_path, monkeypatch)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `nasframe` in this process and returns exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nasframe", *arguments])
        try:
            main()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


LEGAL = ("--law", "criterion.legal")


class TestCommand:
    """The command `nasframe check` prints a report and ends with a status."""

    def test_what_is_well(self, install: Install, here) -> None:
        """It exits with 0 and a count by part, found by the name of distribution, plugin or part, and once if by several."""
        install("sound", SOUND)
        line = "criterion 'calm' of sound (stranger 1.2): 1 passed\n"

        for names in (["stranger"], ["sound"], ["calm"], ["calm", "sound"]):
            assert here("check", *names, *LEGAL)[:2] == (0, line)

    def test_what_is_broken(self, install: Install, here) -> None:
        """It exits with 1 and prints the message of the law; the printed command tries the case again."""
        install("unsound", UNSOUND)
        status, printed, _ = here("check", "calm", *LEGAL)
        (again,) = (line.split("nasframe ")[1] for line in printed.splitlines() if "try again" in line)

        assert status == 1
        assert printed.startswith("criterion.legal FAILED for criterion 'calm' of unsound (stranger 1.2)\n")
        assert here(*again.split())[:2] == (1, printed)

    def test_what_is_waived(self, install: Install, here) -> None:
        """A waived failure is printed with its reason, and the exit status is 0."""
        install("unsound", UNSOUND + WAIVING)
        status, printed, _ = here("check", "calm", *LEGAL)

        assert status == 0
        assert printed.startswith("criterion.legal for criterion 'calm': waived, it is tired (until version 2.0)\n")

    def test_json(self, install: Install, here) -> None:
        """Standard output has the report and nothing else, whatever a part prints; --full tries more cases."""
        install("unsound", UNSOUND)
        status, printed, _ = here("check", "calm", *LEGAL, "--law", "part.frozen", "--json")
        report = json.loads(printed)
        full = json.loads(here("check", "calm", "--law", "part.frozen", "--full", "--json")[1])

        assert status == 1
        assert (report["ok"], report["profile"], full["ok"], full["profile"]) == (False, "quick", True, "full")
        assert [(law["law"], law["status"]) for law in report["outcomes"]] == [
            ("part.frozen", "passed"),
            ("criterion.legal", "failed"),
        ]
        assert {"part", "plugin", "cases", "reason", "case", "replay", "seconds"} <= report["outcomes"][0].keys()
        assert report["versions"].keys() == {"nasframe", "contract", "torch", "hypothesis", "python"}

    def test_what_was_not_loaded(self, install: Install, here) -> None:
        """A plugin that failed to load is reported by its name or that of its distribution; other parts are checked."""
        install("sound", SOUND)
        install("unloaded", "import a_module_that_is_nowhere", "other")
        for name in ("unloaded", "other"):
            status, printed, _ = here("check", name, "calm", *LEGAL, "--json")
            unloaded, legal = json.loads(printed)["outcomes"]
            assert status == 1
            assert (unloaded["law"], unloaded["status"], legal["status"]) == ("plugin.usable", "error", "passed")
            assert unloaded["part"] == "plugin 'unloaded'"
            assert unloaded["reason"].startswith("its import failed with ModuleNotFoundError")
        status, printed, _ = here("check", "unloaded", *LEGAL)
        assert status == 1
        assert printed.startswith("plugin.usable ERROR for plugin 'unloaded' of unloaded (other 1.2)\n")
        assert here("check", "calm", *LEGAL)[0] == 0

    def test_examples_that_fail(self, install: Install, here) -> None:
        """An error in the examples of a plugin is reported for that plugin; other parts are checked."""
        install("sound", SOUND)
        clumsy = SOUND.replace("calm", "clumsy") + WAIVING.replace('"2.0"),))', '"2.0"),), surely=1)')
        install("clumsy", clumsy, "other")
        status, printed, _ = here("check", "clumsy", *LEGAL)

        assert status == 1
        assert "its examples failed with TypeError: Examples.__init__() got an unexpected keyword argument 'surely'" in printed
        assert here("check", "calm", *LEGAL)[0] == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give the name of a distribution, a plugin or a part to check"),
            (["calm", "--replay", "x"], "--replay tries one case: give one --law and one NAME, not 0 and 1"),
            (["calm", *LEGAL, "--law", "part.frozen", "--replay", "x"], "give one --law and one NAME, not 2 and 1"),
            (["calm", "node", *LEGAL, "--replay", "x"], "give one --law and one NAME, not 1 and 2"),
            (
                ["patiense"],
                "error: no distribution, plugin or part is called 'patiense'; did you mean 'patience'? `nasframe plugins`",
            ),
            (
                ["patience", "--law", "criterion.lagal"],
                "error: no law criterion.lagal applies to these parts; there are: part.signature",
            ),
        ],
    )
    def test_what_is_refused(self, here, arguments: list[str], message: str) -> None:
        """Standard error says what to write instead."""
        status, printed, errors = here("check", *arguments)

        assert status != 0
        assert printed == ""
        assert message in errors

    def test_the_laws_are_listed(self, here) -> None:
        """Each law is listed once, with its statement."""
        rows = json.loads(here("check", "--list", "--json")[1])
        names = [row["law"] for row in rows]

        assert len({*names}) == len(names)
        assert {"part.signature", "operation.shape", "criterion.legal"} <= {*names}
        assert all(row["statement"].endswith(".") for row in rows)
        assert "operation.shape" in here("check", "--list")[1]

    def test_without_hypothesis(self) -> None:
        """Without hypothesis, `nasframe check` says what to install; other commands do not need it."""
        code = """
import sys
sys.modules["hypothesis"] = None
from nasframe.cli.main import main
sys.argv = ["nasframe", "check", "tanh"]
main()
"""
        done = subprocess.run(forked.command("-c", code), capture_output=True, text=True, check=False)

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == 'error: checking parts needs hypothesis: pip install ".[testing]" in the checkout of nasframe\n'


@attrs.frozen
class Scaled(Operation):
    """The operation tanh(W z + b), or, if rich, a linear map of it."""

    name: ClassVar[str] = "scaled"
    arity: ClassVar[int] = 1
    rich: bool = flag(False)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), *([nn.Linear(hidden, hidden)] if self.rich else []))


@attrs.frozen
class Enrich(Morphism):
    """Add a linear map behind each `scaled`, which starts as the identity.

    Args:
        off: the relative error of that identity.
        claimed: the claimed bound; 0 for an exact claim.
        on_node: whether the bound has the address of the node, as it should, or that of the site.
        shift: what is added to the alphas of the site, which a softmax ignores.
    """

    name: ClassVar[str] = "enrich"
    off: float = 0.0
    claimed: float = 0.0
    on_node: bool = True
    shift: float = 0.0

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        network = unallocated(structure)
        return [
            Proposal(
                {"site": address, "candidate": c.id}, cost=sum(self._cost(m) for _, m in network.mixed_operations(address))
            )
            for address, site in structure.sites()
            for c in site.candidates
            if c.operation == Scaled()
        ]

    @staticmethod
    def _cost(mixture: MixedOperation) -> int:
        hidden = mixture.sizes["hidden"]
        return hidden * (hidden + 1)

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        site, old = (
            site_at(structure, request.get("site")),
            candidate_at(structure, request.get("site"), request.get("candidate")),
        )
        if old.operation != Scaled():
            raise ChangeError(f"{request} cannot be done")
        address = Address(request["site"])
        made = replace_candidate(structure, address, old.id, Scaled(rich=True))
        bounds = {Address.of(address.cell, site.node if self.on_node else site.id): Bound({(): self.claimed})}
        claim = Claim.approximate(bounds) if self.claimed else Claim.exact()

        def fill(parent: Network, child: Network) -> Filling:
            overrides: dict[str, Take | Set] = {
                name: attrs.evolve(entry, offset=torch.full_like(child.get_parameter(name), self.shift))
                for name, entry in made.alphas(parent, child).items()
            }
            for before, after in made.modules(parent, child):
                n = len(child.get_parameter(f"{after}.2.bias"))
                overrides |= {f"{after}.0.{p}": Take(f"{before}.0.{p}") for p in ("weight", "bias")}
                overrides |= {f"{after}.2.weight": Set(torch.eye(n) * (1 + self.off)), f"{after}.2.bias": Set(torch.zeros(n))}
            return Filling(claim, overrides)

        return Edit(made.structure, fill)


def enriched(laws: Sequence[str] | None = None, **options: float) -> Report:
    """Return the report on the morphism with these options."""
    morphism = st.builds(Enrich, **{name: st.just(value) for name, value in options.items()})
    examples = Examples(parts={Scaled: st.builds(Scaled), Enrich: morphism})
    return check(Enrich, examples=examples, laws=laws, plugins=discover(IMAGES), profile=attrs.evolve(QUICK, shrinking=0.0))


def test_a_morphism_of_its_own_operation() -> None:
    """A morphism of an operation that no backbone has by default is tried in shipped backbones that accept the operation."""
    report = enriched()

    assert report.ok, report.text()
    assert sum(o.status == "passed" for o in report.outcomes) > 18


def test_a_node_that_is_changed_keeps_its_bound() -> None:
    """The bound of a node that existed before the change is verified like that of a new node."""
    kept, broken = (enriched(["morphism.bound"], off=1e-3, claimed=c) for c in (1e-3, 1e-6))

    assert kept.ok, kept.text()
    assert "the error of layer0/n" in broken.text() or "the error of chain" in broken.text()
    assert not broken.ok


def test_an_operation_that_ignores_the_stride() -> None:
    """The fault is reported in words by the law that is about it, and not as torch's error by the first law that meets it."""

    @attrs.frozen
    class Dense(Operation):
        name: ClassVar[str] = "dense"
        arity: ClassVar[int] = 1

        def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
            return nn.Conv2d(channels, channels, 3, padding=1)

    text = check(Dense, laws=["part.repeatable", "operation.shape"]).text()

    assert text.startswith("operation.shape FAILED for operation 'dense'")
    assert re.search(r"the candidates at reduction/\S+ have outputs of different shapes: .* built with .*stride=2", text)
    assert "check(Dense, laws=['operation.shape'], replay=" in text
    assert "the same for: part.repeatable for operation 'dense'" in text


def test_an_operation_with_a_wrong_build() -> None:
    """It fails, and the first line of the reason says what `build` must accept."""

    @attrs.frozen
    class Misbuilt(Operation):
        name: ClassVar[str] = "misbuilt"
        arity: ClassVar[int] = 2

        def build(self, *, width: int) -> nn.Module:  # type: ignore[override]
            return nn.Linear(width, width)

    (found,) = check(Misbuilt, laws=["operation.shape"]).outcomes

    assert found.status == "failed"
    assert re.match(
        r"two_to_one: operation 'misbuilt' cannot be built at layer0/n0: its build\(\) must accept inputs, hidden by keyword \(.*",
        found.reason.splitlines()[0],
    )


@pytest.mark.parametrize("script", [False, True])
def test_a_registered_class(install: Install, script: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that a plugin registers is checked as that plugin's, also if its file runs as a script."""
    install("sound", SOUND)
    plugins = discover()
    module = importlib.import_module("sound")
    names = vars(module)
    if script:
        names = runpy.run_path(str(module.__file__), run_name="script")
        again = types.ModuleType("script")
        again.__file__ = module.__file__
        monkeypatch.setitem(sys.modules, "script", again)
    (found,) = check(names["Calm"], laws=["part.signature"], plugins=plugins).outcomes

    assert (found.status, found.plugin) == ("passed", "sound (stranger 1.2)"), found.reason


def test_a_morphism_of_anothers_operation() -> None:
    """A morphism is tried in backbones that accept its operation, whichever installed plugin the operation is from."""
    operations = Plugin("operations", "another", "1.0", (Scaled,), contract="1.0")
    # all operations of all plugins are tried in all backbones, so that few plugins are enough
    few = [plugin for plugin in discover().found if plugin.name in ("nasframe", "nasframe_recurrent")]
    report = check(Enrich, laws=["morphism.exact"], plugins=Plugins((*few, operations)))

    assert [o.status for o in report.outcomes] == ["passed"], report.text()


def test_a_bound_holds_wherever_a_node_may_be() -> None:
    """A bound that holds for the present inputs of a node, and not for larger ones, fails."""
    report = enriched(["morphism.bound"], off=1e-2, claimed=5e-3)

    assert not report.ok
    assert "the largest error found of " in report.text()


def test_a_loose_bound_of_an_old_node_is_remarked() -> None:
    """A bound far above the error passes with a remark."""
    (found,) = enriched(["morphism.bound"], off=1e-3, claimed=1.0).outcomes

    assert (found.status, found.reason) == ("passed", "but a bound is over 100 times the largest error found")


@attrs.frozen
class Flat(Calm):
    """End a phase when the loss has fallen by less than a tenth over three epochs, all of which have a loss."""

    name: ClassVar[str] = "flat"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})

    def decide(self, state: Any, history: Any, proposals: Any) -> Any:
        now = history[-1]
        losses = [r.valid for r in history if isinstance(r, EpochEnded) and (r.stage, r.phase) == (now.stage, now.phase)][-3:]
        if not isinstance(now, EpochEnded) or len(losses) < 3 or None in losses or losses[0] - losses[-1] >= 0.1 * losses[0]:
            return state, ABSTAIN
        return state, Decision("end", reason="flat")


def test_a_criterion_on_slopes_may_wait_for_finite_losses() -> None:
    """After a diverged epoch it need not decide as if that epoch had had the worst loss."""
    examples = Examples(parts={Flat: st.builds(Flat)})
    (found,) = check(Flat, examples=examples, laws=["criterion.nonfinite"], profile=Profile("some", 10, 1)).outcomes

    assert found.status == "passed", found.reason


@attrs.frozen
class Dying(Operation):
    """A ReLU that three of ten initialisations turn off for all inputs."""

    name: ClassVar[str] = "dying"
    arity: ClassVar[int] = 1

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        linear = nn.Linear(inputs, hidden)
        with torch.no_grad():
            linear.bias -= 1e3 * (torch.rand(()) < 0.3)
        return nn.Sequential(linear, nn.ReLU())


def test_an_operation_may_be_off_by_chance() -> None:
    """No gradient reaches a ReLU that is off with one initialisation; it is a fault if there is none with others, too."""
    (found,) = check(Dying, laws=["operation.gradient"], profile=Profile("some", 5, 1)).outcomes

    assert found.status == "passed", found.reason


def test_what_moves_an_output_is_named() -> None:
    """If a change that claims to be exact is not, the tensors are named that are neither zero nor the parent's."""
    (found,) = enriched(["morphism.exact"], off=1e-3).outcomes

    assert found.status == "failed"
    assert re.search(
        r"Numbers that are neither zero nor its parent's are in \S+\.2\.weight(, \S+\.2\.weight)*$", found.reason
    ), found.reason


def test_a_morphism_must_not_rely_on_a_softmax() -> None:
    """A quick check tries it with mixing weights to which a constant in the alphas matters, too."""
    (found,) = enriched(["morphism.exact"], shift=1.0).outcomes

    assert found.status == "failed"


def test_a_bound_on_no_node_is_reported_once() -> None:
    """A bound whose address is no node fails the law about claims alone; the law about bounds does not apply."""
    claimed, bounded = enriched(["morphism.claim", "morphism.bound"], off=1e-3, claimed=1.0, on_node=False).outcomes

    assert claimed.status == "failed"
    assert "there is a bound on " in claimed.reason
    assert (bounded.status, bounded.reason) == (
        "inapplicable",
        "its bounds are refused by morphism.claim",
    )


@pytest.mark.parametrize(
    ("bounded", "remark"), [(50.0, ""), (1e5, "but the bound on |o| is over 100 times the largest value found")]
)
def test_a_loose_bound_is_remarked(bounded: float, remark: str) -> None:
    """A bound far above all outputs passes with a remark."""

    @attrs.frozen
    class Bounded(Scaled):
        name: ClassVar[str] = "bounded"

        def magnitude(self, module: nn.Module) -> Bound:
            return Bound({(): bounded})

    (found,) = check(Bounded, laws=["operation.bound"]).outcomes

    assert (found.status, found.reason) == ("passed", remark)
