"""From flags to the values of a strategy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import click

#: what `nasframe search` does when nothing is said; every part by its name
DEFAULTS: dict[str, Any] = {
    "task": {"name": "forecasting"},
    "backbone": {"name": "two_to_one", "hidden": 16},
    "architect": {"name": "first_order"},
    "growth": [{"name": "node"}],
    "criterion": {
        "name": "any_of",
        "parts": [{"name": "patience"}, {"name": "no_better"}, {"name": "max_nodes", "nodes": 6}],
    },
    "pruner": {"name": "strongest"},
}


class Spec(click.ParamType):
    """A part on the command line: its name, or name:key=value,key=value with values as in TOML (strings without quotes)."""

    name = "NAME[:KEY=VALUE,...]"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> dict[str, Any]:
        """The part's description."""
        name, _, options = value.partition(":")
        description: dict[str, Any] = {"name": name}
        for option in filter(None, _options(options)):
            key, equals, text = option.partition("=")
            if not equals:
                self.fail(f"{option!r} in {value!r} is no option of a part; write {name}:key=value", parameter, context)
            option_value = _value(text.strip())
            if isinstance(option_value, str) and option_value.startswith(("[", "{")):
                self.fail(f'{text!r} is no list; quote the words in it, as in ["sum","tanh"]', parameter, context)
            description[key.strip()] = option_value
        return description


class Names(click.ParamType):
    """Names with commas between."""

    name = "NAME,..."

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> list[str]:
        """The names in a list."""
        return [name.strip() for name in value.split(",")]


def _options(text: str) -> list[str]:
    """What stands between commas, but for those within the brackets of a value."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def strategy_values(written: Mapping[str, Any] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a strategy file, or the defaults, with what the flags say put over them."""
    values = dict(DEFAULTS if written is None else written)
    given = {k: v for k, v in flags.items() if v not in (None, ())}
    for key in ("task", "backbone", "architect", "pruner", "prune", "nodes", "seed", "seeds", "device", "threads", "fast"):
        if key in given:
            values[key] = given[key]
    series = {key: given[key] for key in ("csv", "columns", "returns", "missing") if key in given}
    replaced = ("series", "digest") if "csv" in series else ()
    values["task"] = {**{k: v for k, v in values["task"].items() if k not in replaced}, **series}
    if "growth" in given:
        values["growth"] = list(given["growth"])
    if "epochs" in given:
        values["optimiser"] = {**values.get("optimiser", {}), "epochs": given["epochs"]}
        values["criterion"] = {"name": "epochs", "epochs": given["epochs"]}
    if "criterion" in given:
        values["criterion"] = _any_of(*given["criterion"])
    if "budget" in given:
        values["criterion"] = _any_of({"name": "max_updates", "updates": given["budget"]}, values["criterion"])
    sizes = {key: given[key] for key in ("hidden", "layers") if key in given}
    values["backbone"] = {**values["backbone"], **sizes}
    return values


def _any_of(*parts: Any) -> Any:
    return parts[0] if len(parts) == 1 else {"name": "any_of", "parts": list(parts)}
