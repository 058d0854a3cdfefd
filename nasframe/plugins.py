"""Find the plugins: modules that installed distributions register under the entry-point group "nasframe".

A plugin implements the hook `nasframe_parts`. The plugins that come with nasframe are found in the same way as all others.
A plugin that fails is left out with a message that names it, and the others work.
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
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
import torch

from nasframe.errors import PluginError, StrategyError, UnknownNameError
from nasframe.interfaces import (
    alpha_loss,
    architect,
    ask_tell,
    backbone,
    batch_size,
    criterion,
    evaluator,
    morphism,
    operation,
    plan,
    pruner,
    recipe,
    relaxation,
    reproduction,
    task,
)
from nasframe.interfaces.part import Part, from_plain
from nasframe.modules.deepen import Deepen
from nasframe.modules.kernels import CropKernel, Dilate, PadKernel
from nasframe.modules.morphism import ModuleMorphism
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.unwrap import Unwrap
from nasframe.modules.widen import Widen
from nasframe.options import KIND, NUMBER
from nasframe.search.evaluators import Table, Train
from nasframe.search.plan import STEPS

if TYPE_CHECKING:  # it needs hypothesis, which is installed for checking parts only
    from nasframe.testing.examples import Examples

GROUP = "nasframe"
#: the version (MAJOR, MINOR) of the interfaces; a plugin that was written for an older MINOR of the same MAJOR works
CONTRACT = (1, 0)
#: the environment variable with the names of plugins to leave out, separated by commas
WITHOUT = "NASFRAME_WITHOUT"

#: the interfaces by name: that of the kind of their parts, except that there are two interfaces of architects
KINDS: dict[str, type[Part]] = {
    interface.kind: interface
    for interface in (
        backbone.Backbone,
        operation.Operation,
        morphism.Morphism,
        pruner.Pruner,
        criterion.GrowthCriterion,
        architect.Architect,
        relaxation.Relaxation,
        alpha_loss.AlphaLoss,
        evaluator.Evaluator,
        batch_size.BatchSize,
        task.Task,
        recipe.Recipe,
        plan.PlanRecipe,
        reproduction.Reproduction,
        ModuleMorphism,
    )
} | {"ask_tell": ask_tell.AskTellArchitect}

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks that a plugin may implement."""

    @hookspec
    def nasframe_parts(self) -> Iterable[type[Part]]:  # type: ignore[empty-body]
        """Return the plugin's parts: frozen attrs classes that implement an interface, each with its `name`."""

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
    """A plugin that was found, with its parts, or with the reason for which it was not loaded.

    Attributes:
        name: the name of the entry point.
        distribution, version: where it comes from.
        parts: the parts that it registers.
        problem: why it was not loaded; None if it was.
        contract: the version of the interfaces that it declares, if it does.
        examples: returns the examples for `nasframe check`, if it has any.
    """

    name: str
    distribution: str
    version: str
    parts: tuple[type[Part], ...] = ()
    problem: str | None = None
    contract: str | None = None
    # not compared: each discovery makes another function
    examples: Callable[[], Examples | None] = attrs.field(default=lambda: None, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(filter(None, (self.distribution, self.version)))})"

    @property
    def entries(self) -> tuple[type[Part] | None, ...]:
        """Return its parts, or one None if it was not loaded."""
        return (None,) if self.problem else self.parts


@cache
def _core_examples() -> Examples:
    found: Examples = import_module("nasframe.testing.core_examples").examples()
    return found


#: the parts that come with the core
CORE = Plugin(
    "nasframe",
    "nasframe",
    version("nasframe"),
    (Train, Table, Widen, Narrow, Deepen, PadKernel, CropKernel, Dilate, AddPath, Unwrap),
    examples=_core_examples,
)


def interface_of(part: type[Part]) -> str:
    """Return the name in `KINDS` of the interface that a part implements."""
    # by the class and not by the kind, which the two interfaces of architects have in common
    return next(name for name, interface in KINDS.items() if issubclass(part, interface))


@attrs.frozen
class Plugins:
    """The parts that can be used, by kind and name.

    Example:
        >>> plugins = nasframe.installed()
        >>> plugins.get("backbone", "two_to_one").__name__
        'TwoToOne'
        >>> plugins.make("criterion", {"name": "patience", "epochs": 5})
        Patience(epochs=5)
    """

    found: tuple[Plugin, ...]

    def including(self, *parts: type[Part]) -> Plugins:
        """Return these plugins and one more, whose parts no installed package registers.

        Example:
            The model of a search with an operation that is defined in the same script is loaded by
            `nasframe.load_model("kept", plugins)`:

            >>> from nasframe.testing.fakes import Dense
            >>> plugins = nasframe.installed().including(Dense)
            >>> plugins.get("operation", "dense").__name__
            'Dense'
        """
        return attrs.evolve(self, found=(*self.found, Plugin("including", "not registered", "", parts)))

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each plugin that was not loaded, and for each name that several plugins register."""
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
        """Return the sorted names of the parts of a kind."""
        return sorted({part.name for part in self._parts() if part.kind == kind})

    def _parts(self) -> Iterator[type[Part]]:
        # the steps of plans are a closed set: no plugin registers any
        yield from STEPS
        yield from (part for plugin in self.found for part in plugin.parts)

    def get(self, kind: str, name: str) -> type[Part]:
        """Return the part of a kind and name.

        Raises:
            UnknownNameError: there is none.
            PluginError: several plugins register one.
        """
        # a clash is an error only where the name is used: whoever installs two plugins can still use all their other parts
        by = [part for part in self._parts() if (part.kind, part.name) == (kind, name)]
        if len(by) > 1:
            raise PluginError(self._clash(kind, name))
        if not by:
            raise UnknownNameError(self._unknown(kind, name))
        return by[0]

    def called(self, name: str) -> list[tuple[type[Part] | None, Plugin]]:
        """Return the parts, with their plugins, that have this name or belong to the plugin or distribution of this name.

        In the place of the parts of a plugin that was not loaded there is one None.

        Raises:
            UnknownNameError: nothing has this name.
        """
        by_name: dict[str, list[tuple[type[Part] | None, Plugin]]] = {}
        for plugin in self.found:
            for part in plugin.entries:
                # a set, because a distribution, its plugin and a part of it may have the same name
                for key in {plugin.distribution, plugin.name, part.name if part else plugin.name}:
                    by_name.setdefault(key, []).append((part, plugin))
        if name not in by_name:
            near = difflib.get_close_matches(name, [*by_name])
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            # the part may be that of a plugin that could not be loaded
            failed = "".join(f"; {problem}" for problem in self._unloaded())
            raise UnknownNameError(
                f"no distribution, plugin or part is called {name!r}; {hint}`nasframe plugins` lists what is installed{failed}"
            )
        return by_name[name]

    def make(self, kind: str | type, description: Any) -> Any:
        """Return the part that a description describes.

        Args:
            kind: the kind of the part, or a frozen attrs class that is not a part.
            description: the name of the part, or a mapping with `name` and options; of a class, a mapping of its fields.

        Raises:
            NasframeError: there is no such part, or it cannot have these options.
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
            hint = f"the options of a part within a part are written as a table: {{name={name.partition(':')[0]!r}, ...}}"
        failed = "".join(f"; {problem}" for problem in self._unloaded())
        return f"there is no {kind} {name!r}; {hint}{failed}"


def construct(cls: type, what: str, values: Mapping[str, Any], plugins: Plugins) -> Any:
    """Return an instance of a frozen attrs class from plain values.

    Args:
        cls: the class.
        what: what to call it in messages.
        values: the values of its fields; parts within it are described by their names.
        plugins: where the parts are looked up.

    Raises:
        StrategyError: a key is unknown or missing, or a value is impossible.
    """
    fields = {f.name: f for f in attrs.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(fields) or 'no keys'}"
            raise StrategyError(f"{what} has no key {key!r}; {hint}")
    # shapes before values: with [x] in the place of [[x]] every other message would mislead
    for key, value in values.items():
        _check_shape(what, fields[key], value)
    missing = [f.name for f in fields.values() if f.default is attrs.NOTHING and f.name not in values]
    if missing:
        raise StrategyError(f"{what} lacks {', '.join(missing)}, which must be given")
    # from the inside to the outside: a part within this one is made first, and an error names the innermost
    arguments = {k: from_plain(v, plugins.make, _kind(fields[k], v)) for k, v in values.items()}
    try:
        # Validators raise ValueError, and code that a wrong type reaches raises TypeError; the message names the part.
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{what} cannot be made: {error.args[0] if error.args else error}") from error


def _kind(field: attrs.Attribute[Any], value: Any) -> Any:
    """Return the kind of the part that a value of a field describes; None if it describes none."""
    number = field.metadata.get(NUMBER) and isinstance(value, int | float)
    return None if number else field.metadata.get(KIND)


def _check_shape(what: str, field: attrs.Attribute[Any], value: Any) -> None:
    """Refuse one part in the place of a list of parts, and a list in the place of one: [x] and [[x]] of TOML are easily confused."""
    # The type is a text in modules with postponed annotations, and otherwise a class, which as text begins in the same way.
    several, key = str(field.type).startswith("tuple"), field.name
    if several and not isinstance(value, list | tuple):
        hint = f"[[{key}]], not [{key}]" if isinstance(value, Mapping) else f"{key} = [{json.dumps(value, default=str)}]"
        raise StrategyError(f"{what}: {key} is {value!r}; it must be a list: write {hint}")
    if not several and KIND in field.metadata and isinstance(value, list | tuple):
        hint = f"[{key}], not [[{key}]]" if value and isinstance(value[0], Mapping) else f"{key} = ..., without brackets"
        raise StrategyError(f"{what}: {key} is a list; it must be one: write {hint}")


def discover(without: Iterable[str] = (), points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load the plugins and return them.

    Args:
        without: the names of plugins to leave out.
        points: the entry points of the plugins; by default those that are installed.

    Raises:
        PluginError: a plugin to leave out is not installed.
    """
    points = entry_points(group=GROUP) if points is None else points
    # the order of installation must not decide anything
    ordered = sorted(points, key=lambda p: (_distribution(p), p.name))
    without = set(without)
    # A misspelt name would leave nothing out without a word.
    unknown = without - {p.name for p in ordered}
    if unknown:
        names = ", ".join(p.name for p in ordered)
        raise PluginError(f"cannot leave out {', '.join(sorted(unknown))}: no such plugin; there are: {names}")
    # a new manager for each discovery, so that plugins that are left out were never registered
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    return Plugins((CORE, *(_load(manager, point) for point in ordered if point.name not in without)))


@cache
def installed() -> Plugins:
    """Return the plugins of this installation without those that NASFRAME_WITHOUT names; they are loaded once.

    Example:
        >>> "tanh" in nasframe.installed().names("operation")
        True
        >>> nasframe.installed().make("operation", "tanh")
        Tanh()
    """
    return discover(left_out())


def left_out() -> list[str]:
    """Return the names of the plugins that NASFRAME_WITHOUT leaves out."""
    return list(filter(None, os.environ.get(WITHOUT, "").split(",")))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist is not None else ("unknown", "0")


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> Plugin:
    """Import a plugin and call its hooks; whatever its code does, the other plugins and the process are not affected."""
    # Importing a plugin runs foreign code, which may exit, print, or change global settings. All of that is undone or
    # reported here, so that one bad plugin does not break every command of every user who installed it.
    plugin = Plugin(point.name, *_distribution(point))
    module, before = None, _process()
    # what it prints must not corrupt the JSON that a command prints
    with contextlib.redirect_stdout(sys.stderr):
        try:
            try:
                loaded = point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, too: a plugin may not end the process
                raise PluginError(f"its import failed with {type(error).__name__}: {error}") from error
            # Two entry points may name one module, or two modules of one name, of which Python finds the first.
            if name := manager.get_name(loaded):
                raise PluginError(
                    f"it imports the module {point.module!r}, which {name} has registered: rename the module of one of them"
                )
            manager.register(loaded, name=f"{plugin.distribution}:{plugin.name}")
            # From here on the manager knows the module, and has to forget it again if it is refused.
            module = loaded
            # pluggy ignores an implementation of an unknown hook, such as a misspelt one, unless this is called
            manager.check_pending()
            contract = _contract(_results(module, manager, "nasframe_contract"))
            parts = _parts(_results(module, manager, "nasframe_parts"))
            # after the hooks, which may change the process as well as the import
            _check_process(before)
            return attrs.evolve(plugin, parts=parts, contract=contract, examples=cache(partial(_examples, module, manager)))
        except KeyboardInterrupt:
            raise
        except pluggy.PluginValidationError as error:
            problem = _misfit(error)
        except PluginError as error:
            problem = str(error)
        except BaseException as error:  # a hook is foreign code, too
            problem = f"its hook failed with {type(error).__name__}: {error}"
    # even for a plugin that was refused: its import has happened and cannot be undone, its settings can
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
        # in the order of `_process`
        dtype, device, gradients, threads, directory = before.values()
        torch.set_default_dtype(dtype)
        # None, because a default device, even "cpu", makes every call of torch slower
        torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(gradients)
        torch.set_num_threads(threads)
        os.chdir(directory)


def _misfit(error: pluggy.PluginValidationError) -> str:
    # pluggy's messages have several lines
    text = " ".join(str(error).split())
    return f"{text}. The hooks of this version are {', '.join(HOOKS)}, without arguments: rename or update the hook"


def _contract(given: list[Any]) -> str | None:
    """Return the declared version, if this version of nasframe works with it."""
    if not given:
        return None
    # the results of one plugin's hook: at most one
    known, (text, *_) = ".".join(map(str, CONTRACT)), given
    if not isinstance(text, str) or not re.fullmatch(r"\d+\.\d+", text):
        raise PluginError(f'nasframe_contract returns {text!r}; it must be "MAJOR.MINOR", as in "{known}"')
    version = tuple(map(int, text.split(".")))
    # a newer minor version may rely on hooks that are not called here
    if version > CONTRACT:
        raise PluginError(f"it is written for contract {text}, and this nasframe has {known}: upgrade nasframe")
    if version[0] < CONTRACT[0]:
        raise PluginError(f"it is written for contract {text}, and this nasframe needs {known}: upgrade the plugin")
    return text


def _results(module: Any, manager: pluggy.PluginManager, hook: str) -> list[Any]:
    """Return the results of a hook of this plugin alone: an empty list if it does not implement the hook."""
    # pluggy calls all implementations of a hook at once, and an error would not say whose it is
    others = [p for p in manager.get_plugins() if p is not module]
    # The plugins that are given are those that are not called.
    return manager.subset_hook_caller(hook, others)()


def _examples(module: Any, manager: pluggy.PluginManager) -> Examples | None:
    """Return the examples of the hook or of the plugin's submodule `examples`; None if it has neither."""
    found: list[Examples] = _results(module, manager, "nasframe_examples")
    # Only a package has submodules; for a single file `find_spec` would raise an error.
    if not found and hasattr(module, "__path__") and find_spec(f"{module.__name__}.examples") is not None:
        found = [import_module(f"{module.__name__}.examples").examples()]
    return found[0] if found else None


def _parts(given: list[Any]) -> tuple[type[Part], ...]:
    parts = tuple(part for parts in given for part in parts)
    if not given:
        raise PluginError("it implements no hook; write a function nasframe_parts, marked with nasframe.hookimpl")
    for part in parts:
        _check_part(part)
    keys = [(part.kind, part.name) for part in parts]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise PluginError(f"it registers two parts of one kind and name: {', '.join(f'{k} {n!r}' for k, n in sorted(twice))}")
    return parts


def _check_part(part: Any) -> None:
    # Everything that would otherwise fail in the middle of a search, when the part is first made or looked up.
    if not isinstance(part, type) or not any(issubclass(part, interface) for interface in KINDS.values()):
        raise PluginError(f"{part!r} is not a part: it must be a class with one of the interfaces {', '.join(KINDS)}")
    name: Any = getattr(part, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f'{part.__qualname__} has no name: give it `name: ClassVar[str] = "..."`')
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{part.__qualname__} does not define {', '.join(missing)}, which its interface requires")
    if not attrs.has(part):
        raise PluginError(f"{part.__qualname__} is not an attrs class: decorate it with @attrs.frozen")
