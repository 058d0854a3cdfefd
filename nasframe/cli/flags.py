"""Turn the arguments of `nasframe search` and `nasframe retrain` into the values of a strategy."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasframe.errors import StrategyError, UnknownNameError

if TYPE_CHECKING:  # heavy: they import torch
    import attrs

    from nasframe.interfaces.part import Part
    from nasframe.plugins import Plugins
    from nasframe.search.strategy import Strategy

#: the strategy that a search starts from if the user names none; a plugin registers it
DEFAULT = "default"
#: the keys of a strategy that a flag of the same name replaces
KEYS = (
    "task",
    "backbone",
    "architect",
    "evaluator",
    "in_flight",
    "pruner",
    "currency",
    "plan",
    "nodes",
    "seed",
    "seeds",
    "device",
    "threads",
    "fast",
)
#: the parts of a strategy whose options are flags, too
PARTS = ("task", "backbone", "architect", "evaluator", "pruner")

#: a quoted string, which stays as it is, or an unquoted value: it follows "=" and ends at a comma, a closing bracket or the end
_VALUE = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|(?<==)\s*([^\s"'\[\]{},=][^"'\[\]{},=]*)(?=[\]},]|$)""")


class PartType(click.ParamType):
    """A part on the command line: `NAME` or `NAME:option=value,option=value`."""

    name = "NAME[:OPTION=VALUE,...]"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> dict[str, Any]:
        """Return the part's description: its name and its options."""
        name, _, text = value.partition(":")
        try:
            return {"name": name, **parse_options(text)}
        except (ValueError, RecursionError) as error:
            # Without the place in the text, which is another text than the one that the user has written.
            reason = str(error).partition(" (at ")[0] or type(error).__name__
            self.fail(
                f"the options of {value!r} cannot be read as TOML ({reason}); write {name}:option=value,option=value, and put text "
                'that contains a comma, a bracket or "=" in double quotes, as in ["sum","tanh"]',
                parameter,
                context,
            )


class OptionsCommand(click.Command):
    """A command that also has a flag for each option of the parts that the user chose.

    These options are known only when the plugins are loaded. So a flag that is not a flag of the command is collected as
    text in the parameter `options`, and `with_options` looks it up in the chosen parts.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Separate the flags of the command from the flags of the parts, and parse the former."""
        known = {name: parameter for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)}
        options: dict[str, str | None] = {}
        seen: set[str] = set()
        kept, rest = [], deque(args)
        while rest:
            word = rest.popleft()
            flag, equals, value = word.partition("=")
            if word == "--":
                kept += [word, *rest]
                break
            if not word.startswith("--") or flag in known:
                kept.append(word)
                option = known.get(flag)
                if isinstance(option, click.Option) and not option.is_flag:
                    # click would keep the last value without a word
                    if flag in seen and not option.multiple:
                        raise click.UsageError(f"{flag} is given more than once, and only one can be used; give it once", ctx)
                    seen.add(flag)
                    # its value must not be taken for a flag of a part
                    if not equals and rest:
                        kept.append(rest.popleft())
                continue
            if _key(flag) in options:
                raise click.UsageError(
                    f"{flag} is given more than once; give it once, and separate several values by commas: {flag} VALUE,VALUE",
                    ctx,
                )
            # "--hidden 8" has a value, "--returns --hidden 8" has none; a number may be negative
            follows = not equals and bool(rest) and re.match(r"[^-]|-[\d.]", rest[0]) is not None
            options[_key(flag)] = value if equals else rest.popleft() if follows else None
        left = super().parse_args(ctx, kept)
        ctx.params["options"] = options
        return left


def _key(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def parse_options(text: str) -> dict[str, Any]:
    """Return the options of a text such as `option=value,option=value`; values are as in TOML, but a word needs no quotes.

    Raises:
        ValueError: the text is not the inside of a TOML inline table.
    """
    # a word without quotes is no TOML: words get quotes, numbers, true and false stay as they are
    quoted = _VALUE.sub(lambda match: match[0] if match[1] is None else _as_toml(match[1].strip()), text)
    options: dict[str, Any] = tomllib.loads(f"options = {{{quoted}}}")["options"]
    return options


def parse_value(text: str) -> Any:
    """Return the value of a text: TOML's where it is TOML, and else the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _as_toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if isinstance(parse_value(text), str) and text[0] not in "\"'" else text


def strategy_values(flags: Mapping[str, Any], plugins: Plugins) -> dict[str, Any]:
    """Return the values of a strategy: those of the one that the flags name, replaced by what the flags say.

    Args:
        flags: the parameters that `OptionsCommand` parsed, by name.
    """
    # a flag that was not given is None, or an empty tuple if it is repeatable; 0 and False were given
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    values = _starting_values(given.get("strategy", DEFAULT), plugins)
    kind = _architects(values, plugins)
    values |= {key: given[key] for key in KEYS if key in given}
    if "plan" in given:
        _check_plan(given["plan"]["name"], plugins)
    if "plan" not in given and _architects(values, plugins) != kind:
        # the plan of the starting strategy is for architects of the other kind: the default takes its place
        values.pop("plan", None)
    if "growth" in given:
        values["growth"] = list(given["growth"])
    if "epochs" in given:
        values["optimiser"] = {**values.get("optimiser", {}), "epochs": given["epochs"]}
    # criteria that are named win over --epochs
    if "criterion" in given:
        values["criterion"] = _any_of(*given["criterion"])
    elif "epochs" in given:
        criterion = _with_flag("epochs", given["epochs"], values["criterion"], plugins)
        values["criterion"] = criterion or _setting("epochs", given["epochs"], plugins)
    # last, as a limit applies beside whatever else ends the search
    if "budget" in given:
        criterion = _with_flag("budget", given["budget"], values["criterion"], plugins)
        values["criterion"] = criterion or _any_of(_setting("budget", given["budget"], plugins), values["criterion"])
    # The options come last: they belong to the parts that were chosen above, and not to those of the strategy.
    chosen = with_options({kind: values[kind] for kind in PARTS}, given.get("options", {}), plugins)
    return values | chosen


def without_effect(flags: Mapping[str, Any], strategy: Strategy) -> Iterator[str]:
    """Yield a sentence for each flag that no step of the plan reads.

    Args:
        flags: the parameters that `OptionsCommand` parsed, by name.
        strategy: the strategy that they result in.
    """
    from nasframe.search.plan import Change, Judge, Train, Trials, walk

    steps = [*walk(strategy.plan)]
    trials = [step for step in steps if isinstance(step, Trials)]
    grows = [step for step in steps if isinstance(step, Judge) or (isinstance(step, Change) and step.grow)]
    decides = [step for step in steps if isinstance(step, Train | Judge)]
    # A step that has such a part itself does not read that of the strategy.
    readers = {
        "criterion": [*(step for step in decides if step.criterion is None), *trials],  # it may limit the updates of trials
        "pruner": [step for step in steps if isinstance(step, Change) and step.prune and step.pruner is None],
        "growth": [step for step in grows if not step.growth],
        "currency": grows,
        "evaluator": [step for step in trials if step.evaluator is None],
        "in_flight": [step for step in trials if step.in_flight is None],
    }
    for key, found in readers.items():
        if flags.get(key) not in (None, ()) and not found:
            yield f"--{key.replace('_', '-')} has no effect: no step of the plan reads it; leave it out, or choose another plan"


def _check_plan(name: str, plugins: Plugins) -> None:
    """Refuse a plan without a name, and say where its steps are written."""
    try:
        plugins.get("plan", name)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error}. --plan takes a name; the steps of another plan are written in a strategy file, one table [[plan]] with "
            '`name = "train"` and so on for each, which --strategy FILE reads; `nasframe plugins default` prints a file to begin with'
        ) from error


def _with_flag(flag: str, value: int, criterion: Any, plugins: Plugins) -> dict[str, Any] | None:
    """Return a criterion's description with the flag's option set wherever a part of it declares the flag; None if none does."""
    from nasframe.options import KIND

    described = {"name": criterion} if isinstance(criterion, str) else {**criterion}
    part: Any = plugins.get("criterion", described["name"])
    found = flag in part.flags
    if found:
        described[part.flags[flag]] = value
    # composed criteria hold further ones: one, or a list of them
    for field in _fields(part).values():
        # What the strategy does not set keeps the part's default, in which nothing is set from here.
        inner = described.get(field.name)
        if field.metadata.get(KIND) != "criterion" or inner is None:
            continue
        changed = [_with_flag(flag, value, each, plugins) for each in (inner if isinstance(inner, list) else [inner])]
        if any(changed):
            found = True
            described[field.name] = (
                # None is a criterion in which nothing declares the flag: it stays as it was.
                [n or o for n, o in zip(changed, inner, strict=True)] if isinstance(inner, list) else changed[0]
            )
    return described if found else None


def _setting(flag: str, value: int, plugins: Plugins) -> dict[str, Any]:
    """Return the description of the one installed criterion that declares the flag, with the flag's value."""
    declaring: Any = [part for plugin in plugins.found for part in plugin.parts if part.kind == "criterion"]
    options = {part.name: part.flags[flag] for part in declaring if flag in part.flags}
    if len(options) == 1:
        [(name, option)] = options.items()
        return {"name": name, option: value}
    forms = " or ".join(f"--criterion {name}:{option}={value}" for name, option in options.items())
    raise click.UsageError(
        f"--{flag} can set several criteria, and the strategy has none of them; write {forms}, beside the other criteria"
        if options
        else f"no installed criterion declares the flag --{flag}; name a criterion with --criterion"
    )


def with_options(
    parts: Mapping[str, Mapping[str, Any]], options: Mapping[str, str | None], plugins: Plugins
) -> dict[str, dict[str, Any]]:
    """Return the descriptions of parts, with each option set in the one part that has it.

    Args:
        parts: the chosen parts' descriptions, by kind.
        options: the texts of the options by name; None where the flag had no value.
    """
    classes = {kind: plugins.get(kind, part["name"]) for kind, part in parts.items()}
    described = {kind: {**part} for kind, part in parts.items()}
    for option, text in options.items():
        kind, field = _owner(option, classes, plugins)
        for replaced in classes[kind].replaces.get(option, ()):
            # an option of the strategy that contradicts the flag, such as the digest of another file
            described[kind].pop(replaced, None)
        described[kind][option] = _option_value(field, text)
    return described


def _architects(values: Mapping[str, Any], plugins: Plugins) -> str:
    """Return the name of the interface of a strategy's architect: there are those that move alphas and those that propose."""
    from nasframe.plugins import interface_of

    return interface_of(plugins.get("architect", values["architect"]["name"]))


def _starting_values(strategy: str, plugins: Plugins) -> dict[str, Any]:
    from nasframe.search.strategy import Strategy

    names = plugins.names("strategy")
    if strategy in names:
        return Strategy.named(strategy, plugins).to_dict()
    if strategy == DEFAULT or not Path(strategy).exists():
        raise StrategyError(
            f"there is no file {strategy}, and no strategy of that name; there are: {', '.join(names) or 'none'}"
        )
    return Strategy.read(strategy, plugins).to_dict()


def _owner(option: str, classes: Mapping[str, type[Part]], plugins: Plugins) -> tuple[str, attrs.Attribute[Any]]:
    """Return the kind of the one chosen part that has the option, and the option's field."""
    # An option that two chosen parts have is not guessed at.
    found = [(kind, fields[option]) for kind, part in classes.items() if option in (fields := _fields(part))]
    if len(found) == 1:
        return found[0]
    flag = f"--{option.replace('_', '-')}"
    if found:
        forms = " or ".join(f"--{kind} {classes[kind].name}:{option}=..." for kind, _ in found)
        raise click.UsageError(f"{flag} is an option of several parts; write {forms}")
    context = click.get_current_context(silent=True)
    flags = [name.removeprefix("--") for p in context.command.params for name in p.opts] if context else []
    near = difflib.get_close_matches(option, [*flags, *(name for part in classes.values() for name in _fields(part))], 1)
    hints = [f"did you mean --{near[0].replace('_', '-')}?"] if near else []
    # or the user chose another part than the one that has the option
    others = [f"{kind} {n!r}" for kind in classes for n in plugins.names(kind) if option in _fields(plugins.get(kind, n))]
    hints += [f"it is an option of {', '.join(others)}"] if others else []
    hint = " ".join(hints)
    chosen = ", ".join(f"{kind} {part.name!r}" for kind, part in classes.items())
    raise click.UsageError(
        f"no such option: {flag}; {hint or '`nasframe plugins NAME` lists the options of a part'} (chosen: {chosen})"
    )


def _fields(part: type[Part]) -> dict[str, attrs.Attribute[Any]]:
    import attrs

    kind: Any = part
    return {field.name: field for field in attrs.fields(kind)}


def _option_value(field: attrs.Attribute[Any], text: str | None) -> Any:
    """Return the value that a flag gives to an option: true without a text, a list of words for a tuple."""
    if text is None:
        return True
    holds = str(field.type)  # "str | None", "tuple[str, ...]": as it is written, or as Python prints it
    # A text stays one, also if it looks like a number or like true: a folder may have the name 007.
    read = str if re.search(r"\bstr\b", holds) else parse_value
    # Words with commas between them, or a list as TOML writes it.
    if "tuple" in holds and not text.lstrip().startswith("["):
        return [read(word.strip()) for word in text.split(",")]
    return parse_value(text) if "tuple" in holds else read(text)


def _any_of(*parts: Any) -> Any:
    return parts[0] if len(parts) == 1 else {"name": "any_of", "parts": list(parts)}
