"""Checking: each law that concerns a part is tried on drawn cases, and what came of it is told."""

from __future__ import annotations

import difflib
import platform
import re
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import attrs
import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reproduce_failure, settings
from hypothesis.errors import DidNotReproduce, HypothesisException, InvalidArgument, Unsatisfiable
from packaging.version import InvalidVersion, Version

from nasframe import NasframeError, Part, installed
from nasframe.errors import PluginError
from nasframe.plugins import CONTRACT, Plugin, Plugins
from nasframe.testing.case import Case
from nasframe.testing.examples import Examples, Waiver
from nasframe.testing.law import Inapplicable, Law, NoCases, contract, laws_of
from nasframe.testing.report import Outcome, Report
from nasframe.testing.subject import Subject, subject


@attrs.frozen
class Profile:
    """How thoroughly laws are tried.

    Args:
        cases: on how many.
        least: so many of them must be to the point, at least.
        shrinking: for how many seconds a smaller case is looked for once a law is broken.
    """

    name: str
    cases: int
    least: int
    shrinking: float = 10.0


QUICK = Profile("quick", 6, 2)
FULL = Profile("full", 50, 10)

#: for each case that is wanted, how many may not be to the point: each may have cost a training
MISSES = 20


def check(
    what: str | type[Part],
    *,
    examples: Examples | None = None,
    profile: Profile = QUICK,
    laws: Collection[str] | None = None,
    replay: str | None = None,
    plugins: Plugins | None = None,
) -> Report:
    """Hold parts to the laws of the contract.

    Args:
        what: the name of a distribution, of a plugin or of a part; or a part that need not be registered, with its examples.
        laws: the ids of those to try; by default all.
        replay: a case that broke a law, as `Outcome.again` tells it.
        plugins: by default those that are installed.
    """
    plugins = plugins or installed()
    if isinstance(what, str):
        plan = planned(plugins, [what], laws)
    else:
        given = examples or Examples()
        beside = (*given.parts, *(habitat.backbone for habitat in given.habitats))
        new = [part for part in beside if part.name not in plugins.names(part.kind)]
        own = Plugin("unregistered", "none", "0", tuple(dict.fromkeys((what, *new))))
        plan = _plan([subject(what, own, plugins, examples)], laws)
    return Report(profile.name, versions(), (*plan.told, *(tried(of, one, profile, replay) for of, one in plan.tries)))


@attrs.frozen
class Plan:
    """What a check has to do.

    Args:
        tries: laws, and the parts on which they are to be tried.
        told: what is wrong before any law is tried.
    """

    tries: tuple[tuple[Subject, Law], ...]
    told: tuple[Outcome, ...] = ()


def planned(plugins: Plugins, names: Iterable[str], laws: Collection[str] | None = None) -> Plan:
    """What there is to try on the parts of these distributions and plugins, and on the parts of these names."""
    chosen: dict[type[Part], Subject] = {}
    told: dict[str, Outcome] = {}
    for part, plugin in (found for name in names for found in plugins.called(name)):
        if part not in chosen:
            usable = _usable(part, plugin, plugins)
            if part is None or isinstance(usable, str):
                told[str(plugin)] = _unusable(plugin, str(usable))
            else:
                chosen[part] = usable
    plan = _plan([*chosen.values()], laws if chosen else None)
    return attrs.evolve(plan, told=(*told.values(), *plan.told))


def _plan(chosen: Sequence[Subject], laws: Collection[str] | None) -> Plan:
    return Plan(tuple(tries(chosen, laws)), tuple(outcome for each in chosen for outcome in _misplaced(each)))


def _usable(part: type[Part] | None, plugin: Plugin, plugins: Plugins) -> Subject | str:
    """What the laws are tried on, or why they cannot be."""
    if part is None:
        return str(plugin.problem)
    try:
        plugins.get(part.kind, part.name)
    except PluginError as error:
        return str(error)
    try:
        return subject(part, plugin, plugins)
    except Exception as error:  # whatever its examples raise
        return f"its examples failed with {_said(error, part)}"


def _unusable(plugin: Plugin, why: str) -> Outcome:
    says = "A plugin can be loaded, its examples, too, and no other plugin has a part of the same kind and name."
    again = f"nasframe check {plugin.name}"
    return Outcome(f"plugin {plugin.name!r}", str(plugin), "plugin.usable", "error", says, why=why, again=again)


def _origin(plugin: Plugin) -> str:
    return f"{plugin}, contract {plugin.contract}" if plugin.contract else str(plugin)


def tries(chosen: Sequence[Subject], laws: Collection[str] | None = None) -> list[tuple[Subject, Law]]:
    """Which laws are to be tried on which parts."""
    found = [(each, one) for each in chosen for one in laws_of(each.cls.kind)]
    if unknown := set(laws or ()) - {one.id for _, one in found}:
        known = ", ".join(dict.fromkeys(one.id for _, one in found))
        raise NasframeError(f"no law {', '.join(sorted(unknown))} concerns these parts; there are: {known}")
    return [(each, one) for each, one in found if laws is None or one.id in laws]


def tried(of: Subject, one: Law, profile: Profile, replay: str | None = None) -> Outcome:
    """What comes of a law on a part, once a waiver is taken into account."""
    began = time.perf_counter()
    found = _tried(of, one, profile, replay)
    waiver = next((w for w in of.waivers if w.law == one.id), None)
    if waiver is not None:
        found = _waived(found, waiver, of.plugin.version)
    return attrs.evolve(found, seconds=time.perf_counter() - began)


def _tried(of: Subject, one: Law, profile: Profile, replay: str | None) -> Outcome:
    blank = Outcome(str(of), _origin(of.plugin), one.id, "inconclusive", one.says, one.likely)
    if of.parts is None:
        lacking = [f.name for f in attrs.fields(of.cls) if f.default is attrs.NOTHING]  # type: ignore[arg-type]
        drawn = f"{of.cls.__name__}: st.builds({of.cls.__name__}, {', '.join(f'{name}=...' for name in lacking)})"
        hook = (
            "let the function `examples` of the plugin's submodule `examples` return "
            f"nasframe.testing.examples.Examples(parts={{{drawn}}})"
        )
        return attrs.evolve(blank, why=f"it needs {', '.join(lacking)}, and nobody says what they may be; {hook}")
    if replay is not None and replay.partition(":")[0] != hypothesis.__version__:
        return attrs.evolve(blank, why=f"hypothesis {hypothesis.__version__} cannot read the case {replay!r}: leave it out")
    trial = _Trial(one, profile)
    try:
        _given(trial, of, profile, replay)()
    except (Unsatisfiable, _Enough):
        pass
    except NoCases as error:
        return attrs.evolve(blank, why=str(error))
    except Exception as error:
        if replay is not None and trial.failure is None and isinstance(error, DidNotReproduce | InvalidArgument):
            return _mended(trial, blank)
        failure, case = trial.failure or (error, "none could be drawn")
        again = of.again(one.id, replay or _blob(error))  # which hypothesis does not tell a second time
        said = _said(failure, of.cls).removeprefix(f"{one.id.partition('.')[2]}: ")
        # what is most likely is the law's to say, not of whatever else was raised on the way
        likely = one.likely if isinstance(failure, AssertionError) else ""
        found = attrs.evolve(blank, status="failed", likely=likely, why=said, case=case, again=again)
        return attrs.evolve(found, cases=trial.held + 1)
    if not trial.held and trial.inapplicable:
        return attrs.evolve(blank, status="inapplicable", why=trial.inapplicable)
    if trial.held < profile.least:
        why = f"only {trial.held} cases were to the point, of {profile.cases} that were wanted"
        return attrs.evolve(blank, cases=trial.held, why=why)
    remark = trial.remarks.pop() if len(trial.remarks) == 1 else None
    return attrs.evolve(blank, status="passed", cases=trial.held, why=remark or "")


def _mended(trial: _Trial, blank: Outcome) -> Outcome:
    """What comes of a case that broke the law once."""
    if trial.held:
        return attrs.evolve(blank, status="passed", cases=1)
    if trial.inapplicable:
        return attrs.evolve(blank, status="inapplicable", why=trial.inapplicable)
    return attrs.evolve(blank, why="the case belongs to another part, law or version of them: leave it out")


class _Enough(BaseException):
    """Hardly a case is to the point. (What is no Exception ends hypothesis's search at once.)"""


class _Trial:
    """A law on one case after the other. Once it is broken and time is up, no smaller case counts."""

    def __init__(self, one: Law, profile: Profile) -> None:
        self.law, self.profile, self.held, self.missed, self.inapplicable = one, profile, 0, 0, ""
        self.remarks: set[str | None] = set()
        self.failure: tuple[Exception, str] | None = None
        self.known: set[str] = set()
        self.until = float("inf")

    def __call__(self, case: Any) -> None:
        words = str(case)
        if time.perf_counter() > self.until and words not in self.known:
            return
        try:
            self.remarks.add(self.law(case))
            self.held += 1
        except Inapplicable as why:
            self.inapplicable = str(why)
        except HypothesisException:
            self.missed += 1
            if self.missed > MISSES * self.profile.cases and self.failure is None:
                raise _Enough from None
            raise
        except Exception as error:  # whatever a stranger's code raises breaks the law
            if self.failure is None:
                self.until = time.perf_counter() + self.profile.shrinking
            self.known.add(words)
            self.failure = error, case.told() if isinstance(case, Case) else words
            raise


def _given(trial: _Trial, of: Subject, profile: Profile, replay: str | None) -> Callable[[], None]:
    # the same cases for every law of a kind, so that what they need is made once
    @settings(
        max_examples=profile.cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink) if profile.shrinking else (Phase.generate,),
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(case=contract(of.cls.kind).cases(of))
    def run(case: Any) -> None:
        trial(case)

    if replay is None:
        return run
    number, _, blob = replay.partition(":")
    return reproduce_failure(number, blob.encode())(run)


def _blob(error: Exception) -> str:
    """Hypothesis's own words for the case, from the note that it puts on what was raised."""
    notes = "\n".join(getattr(error, "__notes__", ()))
    found = re.search(r"@reproduce_failure\('([^']+)', b'([^']+)'\)", notes)
    return f"{found[1]}:{found[2]}" if found else ""


def _said(error: Exception, part: type[Part]) -> str:
    """What was raised, and, unless it is a law that speaks, the last line of the part's own package on the way there."""
    if isinstance(error, AssertionError | NasframeError) and str(error):
        return str(error)
    package = part.__module__.partition(".")[0]
    places = [
        (f.f_globals.get("__name__", ""), f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [place for place in places if place[0].partition(".")[0] == package]
    _, file, line = (own or places)[-1]
    return f"{type(error).__name__}: {error} ({file}, line {line})"


def _waived(found: Outcome, waiver: Waiver, version: str) -> Outcome:
    """A waiver is for a law that is broken, and for a time."""
    try:
        over = Version(waiver.until) <= Version(version)
    except InvalidVersion as error:
        return attrs.evolve(found, status="error", why=f"until when it is waived cannot be told: {error}")
    if over:
        why = f"the waiver ({waiver.reason}) ran out with version {waiver.until}: mend the part, or waive the law anew"
        return attrs.evolve(found, status="error", why=f"{why}. {found.why}".strip())
    if found.status == "failed":
        return attrs.evolve(found, status="waived", why=f"{waiver.reason} (until version {waiver.until})")
    if found.status == "inconclusive":
        return found
    return attrs.evolve(found, status="error", why=f"it is waived ({waiver.reason}), but {found.status}: take the waiver back")


def _misplaced(of: Subject) -> Iterator[Outcome]:
    """An outcome for each waiver of a law that there is not."""
    known = [one.id for one in laws_of(of.cls.kind)]
    for waiver in of.waivers:
        if waiver.law not in known:
            near = difflib.get_close_matches(waiver.law, known) or known
            why = f"a waiver names this law, which does not concern a {of.cls.kind}, or does not exist; there is {', '.join(near)}"
            yield Outcome(str(of), _origin(of.plugin), waiver.law, "error", why=why)


def _known() -> str:
    return ".".join(map(str, CONTRACT))


def versions() -> dict[str, str]:
    """Of all that a report depends on."""
    return {
        "nasframe": version("nasframe"),
        "contract": _known(),
        "torch": torch.__version__,
        "hypothesis": hypothesis.__version__,
        "python": platform.python_version(),
    }
