"""Check parts: try each law that applies to a part on drawn cases, and report the results."""

from __future__ import annotations

import difflib
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import attrs
import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, reproduce_failure, settings
from hypothesis.errors import DidNotReproduce, HypothesisException, InvalidArgument, Unsatisfiable
from packaging.version import InvalidVersion, Version

from nasframe import NasframeError, Part, installed
from nasframe.errors import PluginError
from nasframe.plugins import CONTRACT, Plugin, Plugins, interface_of
from nasframe.testing.cases import Case
from nasframe.testing.compare import FormError
from nasframe.testing.examples import Examples, Waiver
from nasframe.testing.law import Inapplicable, Law, NoCases, laws_of, module
from nasframe.testing.report import Outcome, Report
from nasframe.testing.subject import Subject, subject


@attrs.frozen
class Profile:
    """How thoroughly laws are tried.

    Args:
        name: the name of the profile.
        cases: the number of cases for each law.
        least: the least number of them to which the law must apply.
        shrinking: for how many seconds to look for a smaller case that breaks a law.
    """

    name: str
    cases: int
    least: int
    shrinking: float = 10.0


# Of 141 mutants 136 are found with two or three cases, 138 with four and 139 with six; the time is in proportion to the cases.
QUICK = Profile("quick", 2, 1)
FULL = Profile("full", 50, 10)

#: how many cases may be rejected for each that is wanted: each may have cost a training
MISSES = 20
#: how many cases, for each that is wanted, a law may not apply to before it counts as a law that never applies
UNFIT = 2


def check(
    what: str | type[Part],
    *,
    examples: Examples | None = None,
    profile: Profile = QUICK,
    laws: Collection[str] | None = None,
    replay: str | None = None,
    plugins: Plugins | None = None,
) -> Report:
    """Check parts against the laws of their kinds.

    Args:
        what: the name of a distribution, of a plugin or of a part; or the class of a part, registered or not.
        examples: the examples of a class that is not registered.
        profile: how thoroughly to check.
        laws: the ids of the laws to try, by default all.
        replay: a case that broke a law, as `Outcome.replay` gives it.
        plugins: the plugins to use, by default the installed ones.

    Example:
        >>> from nasframe.testing.check import check
        >>> print(check("tanh", laws=["operation.dtype"]).text())  # doctest: +ELLIPSIS
        operation 'tanh' of nasframe_recurrent (nasframe ...): 1 passed
    """
    plugins = plugins or installed()
    if isinstance(what, str):
        plan = planned(plugins, [what], laws)
    else:
        given = examples or Examples()
        with_habitats = (*given.parts, *(habitat.backbone for habitat in given.habitats))
        # a class that is not registered yet is found by its name only if a plugin for this call has it
        new = [part for part in with_habitats if part.name not in plugins.names(part.kind)]
        plugin = Plugin(what.__module__, "not registered", "", tuple(dict.fromkeys((what, *new))))
        known, found = _registered(what, plugins) or (what, plugin)
        plan = _plan([subject(known, found, plugins, examples)], laws)
    return Report(profile.name, versions(), (*plan.problems, *(tried(of, one, profile, replay) for of, one in plan.tries)))


def _registered(part: type[Part], plugins: Plugins) -> tuple[type[Part], Plugin] | None:
    """Return the registered class that is this part, with its plugin.

    A file that is run as a script is imported a second time as a plugin, so that there are two classes of one source.
    """
    return next(((each, p) for p in plugins.found for each in p.parts if each is part or _source(each) == _source(part)), None)


def _source(part: type[Part]) -> tuple[Any, str]:
    file = getattr(sys.modules.get(part.__module__), "__file__", None)
    return file or part, part.__qualname__


def versions() -> dict[str, str]:
    """Return the versions of everything that a report depends on."""
    return {
        "nasframe": version("nasframe"),
        "contract": ".".join(map(str, CONTRACT)),
        "torch": torch.__version__,
        "hypothesis": hypothesis.__version__,
        "python": platform.python_version(),
    }


# ------------------------------------------------------------------------------------------------------------ what to check


@attrs.frozen
class Plan:
    """What a check has to do.

    Args:
        tries: pairs of a part and a law to try on it.
        problems: what is wrong before any law is tried: plugins that cannot be used, waivers of unknown laws.
    """

    tries: tuple[tuple[Subject, Law], ...]
    problems: tuple[Outcome, ...] = ()


def planned(plugins: Plugins, names: Iterable[str], laws: Collection[str] | None = None) -> Plan:
    """Return what to check for names of distributions, plugins and parts."""
    chosen: dict[type[Part], Subject] = {}
    problems: dict[str, Outcome] = {}
    for part, plugin in (found for name in names for found in plugins.called(name)):
        if part in chosen:
            continue
        reason = None
        if part is None:
            reason = str(plugin.problem)
        else:
            try:
                plugins.get(part.kind, part.name)
                chosen[part] = subject(part, plugin, plugins)
            except PluginError as error:
                reason = str(error)
            except Exception as error:  # whatever the examples of the plugin raise
                reason = f"its examples failed with {_message(error, part)}"
        if reason is not None:
            problems[str(plugin)] = Outcome(
                f"plugin {plugin.name!r}",
                str(plugin),
                "plugin.usable",
                "error",
                statement="A plugin and its examples can be loaded, and no other plugin has a part of the same kind and name.",
                reason=reason,
                replay=f"nasframe check {plugin.name}",
            )
    plan = _plan([*chosen.values()], laws if chosen else None)
    return attrs.evolve(plan, problems=(*problems.values(), *plan.problems))


def _plan(chosen: Sequence[Subject], laws: Collection[str] | None) -> Plan:
    return Plan(tuple(tries(chosen, laws)), tuple(outcome for each in chosen for outcome in _unknown_waivers(each)))


def tries(chosen: Sequence[Subject], laws: Collection[str] | None = None) -> list[tuple[Subject, Law]]:
    """Return the pairs of a part and a law to try on it.

    Raises:
        NasframeError: if no law with one of the ids applies to the parts.
    """
    found = [(each, one) for each in chosen for one in laws_of(interface_of(each.cls))]
    if unknown := set(laws or ()) - {one.id for _, one in found}:
        known = ", ".join(dict.fromkeys(one.id for _, one in found))
        raise NasframeError(f"no law {', '.join(sorted(unknown))} applies to these parts; there are: {known}")
    return [(each, one) for each, one in found if laws is None or one.id in laws]


def _unknown_waivers(of: Subject) -> Iterator[Outcome]:
    known = [one.id for one in laws_of(interface_of(of.cls))]
    for waiver in of.waivers:
        if waiver.law not in known:
            near = difflib.get_close_matches(waiver.law, known) or known
            reason = f"a waiver names this law, which does not apply to a {of.cls.kind}, or does not exist; there is {', '.join(near)}"
            yield Outcome(str(of), _origin(of.plugin), waiver.law, "error", reason=reason)


def _origin(plugin: Plugin) -> str:
    return f"{plugin}, contract {plugin.contract}" if plugin.contract else str(plugin)


# ---------------------------------------------------------------------------------------------------------------- one law


def tried(of: Subject, one: Law, profile: Profile, replay: str | None = None) -> Outcome:
    """Try a law on a part and return the outcome, in which a waiver is taken into account."""
    began = time.perf_counter()
    # waivers come last: a law is tried even if it is waived, so that a waiver that is no longer needed is noticed
    found = _tried(of, one, profile, replay)
    waiver = next((w for w in of.waivers if w.law == one.id), None)
    if waiver is not None:
        found = _waived(found, waiver, of.plugin.version)
    return attrs.evolve(found, seconds=time.perf_counter() - began)


class _Enough(BaseException):
    """Too many cases were rejected. Only what is no Exception ends the search of hypothesis at once."""


class _Trial:
    """Tries a law on one case after the other, and remembers what came of it."""

    def __init__(self, one: Law, profile: Profile) -> None:
        self.law, self.profile, self.held, self.missed, self.unfit, self.inapplicable = one, profile, 0, 0, 0, ""
        self.remarks: set[str | None] = set()
        self.failure: tuple[Exception, str] | None = None
        self.failed: set[str] = set()
        self.until = float("inf")

    def __call__(self, case: Any) -> None:
        # two cases with the same words are the same case to a reader, and to the limit on shrinking
        words = str(case)
        # hypothesis replays the smallest failure at the end, which must fail again
        if time.perf_counter() > self.until and words not in self.failed:
            return  # the time for shrinking is up: no other case counts
        try:
            self.remarks.add(self.law(case))
            self.held += 1
        except Inapplicable as reason:
            self.inapplicable = str(reason)
            self.unfit += 1
            # another case is drawn in its place, as the law may apply to few cases only
            # A law that has not applied to so many cases is taken not to apply to the part. One that has applied to some is
            # given more tries.
            if (self.unfit > UNFIT * self.profile.cases and not self.held) or self.unfit > MISSES * self.profile.cases:
                raise _Enough from None
            reject()
        except HypothesisException:
            self.missed += 1
            if self.missed > MISSES * self.profile.cases and self.failure is None:
                raise _Enough from None
            raise
        except Exception as error:  # whatever the code of a part raises breaks the law
            if self.failure is None:
                self.until = time.perf_counter() + self.profile.shrinking
            self.failed.add(words)
            self.failure = error, case.details() if isinstance(case, Case) else words
            raise


def _tried(of: Subject, one: Law, profile: Profile, replay: str | None) -> Outcome:
    blank = Outcome(str(of), _origin(of.plugin), one.id, "inconclusive", one.statement, one.hint)
    if of.parts is None:
        missing = [f.name for f in attrs.fields(of.cls) if f.default is attrs.NOTHING]  # type: ignore[arg-type]
        drawn = f"{of.cls.__name__}: st.builds({of.cls.__name__}, {', '.join(f'{name}=...' for name in missing)})"
        reason = (
            f"it needs {', '.join(missing)}, and there are no examples: let the function `examples` of the plugin's submodule "
            f"`examples` return nasframe.testing.examples.Examples(parts={{{drawn}}})"
        )
        return attrs.evolve(blank, reason=reason)
    # the code of a case is the byte stream of hypothesis, whose meaning differs between versions
    if replay is not None and replay.partition(":")[0] != hypothesis.__version__:
        return attrs.evolve(blank, reason=f"hypothesis {hypothesis.__version__} cannot read the case {replay!r}: leave it out")
    # Hypothesis draws the cases and finds the smallest that fails. What it reports is meant for tests, so that the trial
    # itself remembers what a report of a part needs.
    trial = _Trial(one, profile)
    try:
        _search(trial, of, profile, replay)()
    # Too few cases could be drawn; the counts below say what that means.
    except (Unsatisfiable, _Enough):
        pass
    except NoCases as error:
        return attrs.evolve(blank, reason=str(error))
    except Exception as error:
        if replay is not None and trial.failure is None and isinstance(error, DidNotReproduce | InvalidArgument):
            return _replayed(trial, blank)
        failure, case = trial.failure or (error, "none could be drawn")
        return attrs.evolve(
            blank,
            status="failed",
            # the hint is about the law, not about any other error on the way
            hint=one.hint if isinstance(failure, AssertionError) and not isinstance(failure, FormError) else "",
            reason=_message(failure, of.cls),
            case=case,
            replay=of.command(one.id, replay or _blob(error)),
            cases=trial.held + 1,
        )
    if not trial.held and trial.inapplicable:
        return attrs.evolve(blank, status="inapplicable", reason=trial.inapplicable)
    if trial.held < profile.least:
        reason = f"the law applied to {trial.held} cases only, of {profile.cases} that were wanted"
        return attrs.evolve(blank, cases=trial.held, reason=reason)
    # a remark that only some cases make is about the case, and not about the part
    remark = trial.remarks.pop() if len(trial.remarks) == 1 else None
    return attrs.evolve(blank, status="passed", cases=trial.held, reason=remark or "")


def _replayed(trial: _Trial, blank: Outcome) -> Outcome:
    """Return the outcome of a replayed case that does not fail."""
    if trial.held:
        return attrs.evolve(blank, status="passed", cases=1)
    if trial.inapplicable:
        return attrs.evolve(blank, status="inapplicable", reason=trial.inapplicable)
    return attrs.evolve(blank, reason="the case belongs to another part, law or version of them: leave it out")


def _search(trial: _Trial, of: Subject, profile: Profile, replay: str | None) -> Callable[[], None]:
    # all laws of a kind are tried on the same cases, so that the networks that they need are trained once
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
    @given(case=module(interface_of(of.cls)).cases(of))
    def run(case: Any) -> None:
        trial(case)

    if replay is None:
        return run
    number, _, blob = replay.partition(":")
    return reproduce_failure(number, blob.encode())(run)


def _blob(error: Exception) -> str:
    """Return the case in the form that hypothesis reads, from the note that it adds to the exception."""
    notes = "\n".join(getattr(error, "__notes__", ()))
    found = re.search(r"@reproduce_failure\('([^']+)', b'([^']+)'\)", notes)
    return f"{found[1]}:{found[2]}" if found else ""


def _message(error: Exception, part: type[Part]) -> str:
    """Return the message of a law or of nasframe; of any other error also the last line of the part's package on the way."""
    if isinstance(error, AssertionError | NasframeError) and str(error):
        return str(error)
    package = part.__module__.partition(".")[0]
    frames = [
        (f.f_globals.get("__name__", ""), f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)
    ]
    # an author can mend a line of the part's package, and not one of torch
    inside = [frame for frame in frames if frame[0].partition(".")[0] == package]
    _, file, line = (inside or frames)[-1]
    return f"{type(error).__name__}: {error} ({file}, line {line})"


def _waived(found: Outcome, waiver: Waiver, version: str) -> Outcome:
    try:
        expired = Version(waiver.until) <= Version(version)
    except InvalidVersion as error:
        return attrs.evolve(found, status="error", reason=f"the version until which the law is waived cannot be read: {error}")
    if expired:
        reason = f"the waiver ({waiver.reason}) expired with version {waiver.until}: repair the part, or renew the waiver"
        return attrs.evolve(found, status="error", reason=f"{reason}. {found.reason}".strip())
    if found.status == "failed":
        return attrs.evolve(found, status="waived", reason=f"{waiver.reason} (until version {waiver.until})")
    # Neither confirms the waiver nor makes it superfluous.
    if found.status == "inconclusive":
        return found
    return attrs.evolve(found, status="error", reason=f"it is waived ({waiver.reason}), but {found.status}: remove the waiver")
