"""Discovery: the parts that installed distributions register under the entry-point group "nasframe".

A plugin is a module (or any object) with the hook `nasframe_parts`; the plugins that come with nasframe are found the
same way. One that fails is named and left out, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
import torch

from nasframe.errors import PluginError, StrategyError, UnknownNameError
from nasframe.interfaces import architect, backbone, criterion, morphism, operation, pruner, recipe, reproduction, task
from nasframe.interfaces.part import KIND, Part, from_plain

if TYPE_CHECKING:  # it needs hypothesis, which is there where parts are checked
    from nasframe.testing.examples import Examples

GROUP = "nasframe"
#: of the contract between nasframe and a plugin, (MAJOR, MINOR): a plugin that keeps to an older MINOR of the same MAJOR works
CONTRACT = (1, 0)
#: an environment variable: names of plugins to leave out, separated by commas
WITHOUT = "NASFRAME_WITHOUT"

KINDS: dict[str, type[Part]] = {
    interface.kind: interface
    for interface in (
        backbone.Backbone,
        operation.Operation,
        morphism.Morphism,
        pruner.Pruner,
        criterion.GrowthCriterion,
        architect.Architect,
        task.Task,
        recipe.Recipe,
        reproduction.Reproduction,
    )
}

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """What a plugin may implement."""

    @hookspec
    def nasframe_parts(self) -> Iterable[type[Part]]:  # type: ignore[empty-body]
        """The parts that the plugin gives: frozen attrs classes, each with its `name`; their interface tells their kind."""

    @hookspec
    def nasframe_contract(self) -> str:  # type: ignore[empty-body]
        """Return the version of the contract that the plugin was written for, "MAJOR.MINOR".

        Optional: without it the plugin is assumed to be written for the version that is installed.
        """

    @hookspec
    def nasframe_examples(self) -> Examples:  # type: ignore[empty-body]
        """Return what `nasframe check` tries the parts on.

        Optional: without it the function `examples` of the plugin's submodule `examples` is called, if there is one. Only the
        check does so, so that the submodule may import nasframe.testing.
        """


HOOKS = tuple(name for name in vars(Hooks) if name.startswith(GROUP))


@attrs.frozen
class Plugin:
    """A plugin that was found: what it registered, or why it was not loaded."""

    name: str
    distribution: str
    version: str
    parts: tuple[type[Part], ...] = ()
    problem: str | None = None
    #: the version of the contract that it declares, if it does
    contract: str | None = None
    #: returns the examples for `nasframe check`, if it has any
    examples: Callable[[], Examples | None] = attrs.field(default=lambda: None, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"

    @property
    def entries(self) -> tuple[type[Part] | None, ...]:
        """Its parts; None in their place where it was not loaded."""
        return (None,) if self.problem else self.parts


@attrs.frozen
class Plugins:
    """The parts that can be used, by kind and name."""

    found: tuple[Plugin, ...]

    def problems(self) -> Iterator[str]:
        """A sentence for each plugin that was not loaded, and for each name that several plugins give to parts of one kind."""
        yield from self._unloaded()
        keys = [(part.kind, part.name) for plugin in self.found for part in plugin.parts]
        yield from (self._clash(*key) for key in dict.fromkeys(keys) if keys.count(key) > 1)

    def _unloaded(self) -> Iterator[str]:
        for plugin in self.found:
            if plugin.problem:
                yield f"plugin {plugin} was not loaded: {plugin.problem}"

    def _clash(self, kind: str, name: str) -> str:
        by = [plugin for plugin in self.found if (kind, name) in [(part.kind, part.name) for part in plugin.parts]]
        without = ", or ".join(f"nasframe --without {plugin.name} ... ({WITHOUT}={plugin.name})" for plugin in by)
        who = " and by ".join(map(str, by))
        return f"{kind} {name!r} is registered by {who}; rename the one that is yours, or leave one out: {without}"

    def names(self, kind: str) -> list[str]:
        """The names of that kind, sorted."""
        return sorted({part.name for plugin in self.found for part in plugin.parts if part.kind == kind})

    def get(self, kind: str, name: str) -> type[Part]:
        """The part of that kind and name."""
        by = [part for plugin in self.found for part in plugin.parts if (part.kind, part.name) == (kind, name)]
        if len(by) > 1:
            raise PluginError(self._clash(kind, name))
        if not by:
            raise UnknownNameError(self._unknown(kind, name))
        return by[0]

    def called(self, name: str) -> list[tuple[type[Part] | None, Plugin]]:
        """The parts of the distribution, or of the plugin, or by the name that is given; None for a plugin that was not loaded."""
        by_name: dict[str, list[tuple[type[Part] | None, Plugin]]] = {}
        for plugin in self.found:
            for part in plugin.entries:
                for key in {plugin.distribution, plugin.name, part.name if part else plugin.name}:
                    by_name.setdefault(key, []).append((part, plugin))
        if name not in by_name:
            near = difflib.get_close_matches(name, [*by_name])
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise UnknownNameError(
                f"no distribution, plugin or part is called {name!r}; {hint}`nasframe plugins` lists what is installed"
            )
        return by_name[name]

    def make(self, kind: str | type, description: Any) -> Any:
        """The part that a description stands for: a name, or a mapping with `name` and the part's fields.

        Where `kind` is a frozen attrs class, not a kind of part, the description is a mapping of its fields.
        """
        if isinstance(kind, type):
            if not isinstance(description, Mapping):
                raise StrategyError(f"{description!r} must be a table of {', '.join(f.name for f in attrs.fields(kind))}")
            return construct(kind, f"the {kind.__name__.lower()}", description, self)
        if isinstance(description, str):
            description = {"name": description}
        if not isinstance(description, Mapping) or not isinstance(description.get("name"), str):
            raise StrategyError(f"{description!r} does not describe a {kind}; write its name, or a table with `name`")
        cls = self.get(kind, description["name"])
        return construct(cls, f"{kind} {description['name']!r}", {k: v for k, v in description.items() if k != "name"}, self)

    def _unknown(self, kind: str, name: str) -> str:
        names = self.names(kind)
        near = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(names) or 'none'}"
        if ":" in name:
            hint = f"the options of a part within a part stand in a table: {{name={name.partition(':')[0]!r}, ...}}"
        failed = "".join(f"; {problem}" for problem in self._unloaded())
        return f"there is no {kind} {name!r}; {hint}{failed}"


def construct(cls: type, what: str, values: Mapping[str, Any], plugins: Plugins) -> Any:
    """A frozen description from JSON's values: keys and values checked, parts inside it made by their names."""
    fields = {f.name: f for f in attrs.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(fields) or 'no keys'}"
            raise StrategyError(f"{what} has no key {key!r}; {hint}")
    for key, value in values.items():
        _check_shape(what, fields[key], value)
    missing = [f.name for f in fields.values() if f.default is attrs.NOTHING and f.name not in values]
    if missing:
        raise StrategyError(f"{what} lacks {', '.join(missing)}, which it cannot do without")
    arguments = {k: from_plain(v, plugins.make, fields[k].metadata.get(KIND)) for k, v in values.items()}
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{what} cannot be made: {error.args[0] if error.args else error}") from error


def _check_shape(what: str, field: attrs.Attribute[Any], value: Any) -> None:
    """Refuse a part where a list of parts belongs, and the other way round, as TOML's [x] and [[x]] are easily confused."""
    several, key = str(field.type).startswith("tuple"), field.name
    if several and not isinstance(value, list | tuple):
        hint = f"[[{key}]], not [{key}]" if isinstance(value, Mapping) else f"{key} = [{json.dumps(value, default=str)}]"
        raise StrategyError(f"{what}: {key} is {value!r}; it must be a list: write {hint}")
    if not several and KIND in field.metadata and isinstance(value, list | tuple):
        hint = f"[{key}], not [[{key}]]" if value and isinstance(value[0], Mapping) else f"{key} = ..., without brackets"
        raise StrategyError(f"{what}: {key} is a list; it must be one: write {hint}")


def discover(without: Iterable[str] = (), points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load every plugin but those to leave out.

    Args:
        without: names of plugins; one that is not installed is an error, so that a misspelt one does not pass.
        points: the entry points to look at; by default those that are installed.
    """
    points = entry_points(group=GROUP) if points is None else points
    ordered = sorted(points, key=lambda p: (_distribution(p), p.name))
    without = set(without)
    unknown = without - {p.name for p in ordered}
    if unknown:
        names = ", ".join(p.name for p in ordered)
        raise PluginError(f"cannot leave out {', '.join(sorted(unknown))}: no such plugin; there are: {names}")
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    return Plugins(tuple(_load(manager, point) for point in ordered if point.name not in without))


@cache
def installed() -> Plugins:
    """The plugins of this installation, less those that the environment variable leaves out; looked up once."""
    return discover(left_out())


def left_out() -> list[str]:
    """The plugins that the environment variable names."""
    return list(filter(None, os.environ.get(WITHOUT, "").split(",")))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown", "0")


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> Plugin:
    """Import a plugin and read its hooks; whatever it does meanwhile, the other plugins and the process go on."""
    plugin = Plugin(point.name, *_distribution(point))
    module, before = None, _process()
    # what it prints must not get between the lines of a command's JSON
    with contextlib.redirect_stdout(sys.stderr):
        try:
            try:
                loaded = point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, too: a plugin may not end the process
                raise PluginError(f"its import failed with {type(error).__name__}: {error}") from error
            if name := manager.get_name(loaded):
                raise PluginError(
                    f"it imports the module {point.module!r}, which {name} has registered: rename the module of one of them"
                )
            manager.register(loaded, name=f"{plugin.distribution}:{plugin.name}")
            module = loaded
            manager.check_pending()
            contract = _contract(_own(module, manager, "nasframe_contract"))
            parts = _parts(_own(module, manager, "nasframe_parts"))
            _check_process(before)
            return attrs.evolve(plugin, parts=parts, contract=contract, examples=partial(_examples, module, manager))
        except KeyboardInterrupt:
            raise
        except pluggy.PluginValidationError as error:
            problem = _misfit(error)
        except PluginError as error:
            problem = str(error)
        except BaseException as error:  # a hook is a stranger's code, too
            problem = f"its hook failed with {type(error).__name__}: {error}"
    _restore(before)
    if module is not None:
        manager.unregister(module)
    return attrs.evolve(plugin, problem=problem)


def _process() -> dict[str, Any]:
    """Return the settings of the process on which the results of a run or the meaning of a path depend."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "whether torch records gradients": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "the working directory": os.getcwd(),
    }


def _check_process(before: Mapping[str, Any]) -> None:
    changed = [f"{name} from {before[name]} to {now}" for name, now in _process().items() if before[name] != now]
    if changed:
        raise PluginError(f"its import changes {', '.join(changed)}: a plugin must leave the process as it is")


def _restore(before: Mapping[str, Any]) -> None:
    if before != _process():
        dtype, device, gradients, threads, directory = before.values()
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(gradients)
        torch.set_num_threads(threads)
        os.chdir(directory)


def _misfit(error: pluggy.PluginValidationError) -> str:
    text = " ".join(str(error).split())
    return f"{text}. The hooks of this version are {', '.join(HOOKS)}, without arguments: rename or update the hook"


def _contract(given: list[Any]) -> str | None:
    """The version that is declared, if it is one that this nasframe can work with."""
    if not given:
        return None
    known, (text, *_) = ".".join(map(str, CONTRACT)), given
    if not isinstance(text, str) or not re.fullmatch(r"\d+\.\d+", text):
        raise PluginError(f'nasframe_contract gives {text!r}; it must be "MAJOR.MINOR", as in "{known}"')
    version = tuple(map(int, text.split(".")))
    if version > CONTRACT:
        raise PluginError(f"it is written for contract {text}, and this nasframe knows {known}: upgrade nasframe")
    if version[0] < CONTRACT[0]:
        raise PluginError(f"it is written for contract {text}, and this nasframe asks for {known}: upgrade the plugin")
    return text


def _own(module: Any, manager: pluggy.PluginManager, hook: str) -> list[Any]:
    """What a hook of this plugin alone gives: nothing if it has none."""
    others = [p for p in manager.get_plugins() if p is not module]
    return manager.subset_hook_caller(hook, others)()


def _examples(module: Any, manager: pluggy.PluginManager) -> Examples | None:
    """Return what the hook gives, or the plugin's submodule `examples`; None if it has neither."""
    found: list[Examples] = _own(module, manager, "nasframe_examples")
    if not found and hasattr(module, "__path__") and find_spec(f"{module.__name__}.examples") is not None:
        found = [import_module(f"{module.__name__}.examples").examples()]
    return found[0] if found else None


def _parts(given: list[Any]) -> tuple[type[Part], ...]:
    parts = tuple(part for parts in given for part in parts)
    if not given:
        raise PluginError("it implements no hook; write a function nasframe_parts, marked with nasframe.hookimpl")
    for part in parts:
        _check(part)
    keys = [(part.kind, part.name) for part in parts]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise PluginError(f"it gives two parts of one kind and name: {', '.join(f'{k} {n!r}' for k, n in sorted(twice))}")
    return parts


def _check(part: Any) -> None:
    if not isinstance(part, type) or not any(issubclass(part, interface) for interface in KINDS.values()):
        raise PluginError(f"{part!r} is no part: it must be a class with one of the interfaces {', '.join(KINDS)}")
    name: Any = getattr(part, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f'{part.__qualname__} has no name: give it `name: ClassVar[str] = "..."`')
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{part.__qualname__} does not define {', '.join(missing)}, which its interface demands")
    if not attrs.has(part):
        raise PluginError(f"{part.__qualname__} is not an attrs class: decorate it with @attrs.frozen")
