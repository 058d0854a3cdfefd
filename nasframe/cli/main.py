"""The command line: `nasframe search`, `retrain`, `resume`, `plugins`, `reproduce` and `check`.

Nothing that this module imports at its top imports torch, so that `nasframe --help` answers at once: a command imports what it
needs when it runs, and the plugins are loaded by the first command that asks for them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasframe.cli.check import check
from nasframe.cli.flags import OptionsCommand, PartType, strategy_values, without_effect
from nasframe.cli.plugins import list_plugins
from nasframe.cli.reproduce import reproduce
from nasframe.cli.streams import lenient_streams
from nasframe.errors import NasframeError, NonFiniteError

if TYPE_CHECKING:
    from nasframe.plugins import Plugins
    from nasframe.search.strategy import Strategy

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nasframe")
@click.option("--without", multiple=True, metavar="PLUGIN", help="Leave a plugin out (see `nasframe plugins`); repeatable.")
@click.pass_context
def cli(context: click.Context, without: tuple[str, ...]) -> None:
    """Grow and search a neural network's architecture while it trains."""

    def load() -> Plugins:
        # What is imported stays until the process ends. To look for garbage in it would take a third of the time of the imports.
        gc.disable()
        try:
            from nasframe.plugins import discover, left_out

            return discover([*left_out(), *without])
        finally:
            gc.freeze()
            gc.enable()

    # a function, so that `--help` and `--version` load no plugin
    context.obj = load


Command = Callable[..., None]


def _flags(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several flags in this order."""

    def decorated(command: Command) -> Command:
        # a decorator that is applied later is printed earlier in the help
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


TASK = click.option("--task", type=PartType(), help="What to train for.  [default: the strategy's]")
EVERY = _flags(
    click.option("--commit-every", type=click.IntRange(min=1), metavar="UPDATES", help="Commit within an epoch, too."),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes of trials and of the comparison; the results do not depend on it.  [default: one for each core]",
    ),
)
RUN = _flags(
    click.option(
        "--epochs",
        type=int,
        help="Train so many epochs in each phase of which the plan does not give the length, with a learning rate that falls along a "
        "cosine.",
    ),
    click.option("--seed", type=int, help="The seed of every random draw."),
    click.option("--device", help="Such as cpu or cuda:0."),
    click.option("--threads", type=int, help="The threads of torch on the CPU.  [default: 1]"),
    click.option(
        "--fast/--readable", default=None, help="Compute networks in their fast form, or module by module.  [default: fast]"
    ),
    click.option("--out", type=click.Path(path_type=Path), help="The run folder.  [default: runs/<the next number>]"),
    EVERY,
)
EPILOG = (
    "Each option of the chosen task, backbone, architect, evaluator and pruner is a flag, too: an option `width` is set by --width 8. "
    "`nasframe plugins default` prints the strategy of a search without flags, and `nasframe plugins NAME` the options of a part, "
    "such as the task that it names."
)


@cli.command(cls=OptionsCommand, epilog=EPILOG)
@click.option(
    "--strategy",
    metavar="NAME|FILE",
    help="Start from a strategy that a plugin registers, or from a file, such as the strategy.toml of a run.  [default: default]",
)
@TASK
@click.option("--backbone", type=PartType(), help="How nodes are wired.  [default: the strategy's, as for all parts below]")
@click.option("--architect", type=PartType(), help="What updates the alphas, or proposes whole architectures.")
@click.option("--evaluator", type=PartType(), help="What evaluates the architectures that an architect proposes.")
@click.option("--in-flight", type=int, help="The number of architectures that are proposed before the first result is known.")
@click.option(
    "--criterion",
    type=PartType(),
    multiple=True,
    help="When to grow and when to stop, in the place of the strategy's criteria; repeatable, any of them decides.",
)
@click.option(
    "--growth",
    type=PartType(),
    multiple=True,
    help="How to grow; repeatable. The change of largest gain is made; morphisms of equal gain take turns.",
)
@click.option("--pruner", type=PartType(), help="Which candidates to remove.")
@click.option(
    "--currency",
    type=click.Choice(["stated", "parameters", "flops"]),
    help="What changes are compared by: the gains that morphisms state, or a measured gain per parameter or FLOP.",
)
@click.option(
    "--plan",
    type=PartType(),
    help="What the search goes through, such as 'stage' (prune after each stage), 'end', or 'trials' (of what an architect proposes).",
)
@click.option("--nodes", type=int, help="The number of nodes that each cell starts with.")
@click.option(
    "--budget",
    type=int,
    metavar="UPDATES",
    help="The largest number of updates of searching, trials and tuning together, in whole epochs. No epoch of searching and no trial "
    "begins when less than a quarter is left for tuning; trials in flight are finished.",
)
@click.option("--seeds", type=int, help="How many trainings the comparison averages over.")
@RUN
@click.pass_obj
def search(load: Any, /, out: Path | None, commit_every: int | None, workers: int | None, **flags: Any) -> None:
    """Search a cell, and compare what was found.

    A part is given by its name, with its options behind a colon: --backbone NAME:option=value,option=value
    """
    from nasframe.cli.runs import run
    from nasframe.run.folder import Folder, Keeper
    from nasframe.search.search import Search

    plugins = _plugins(load)
    strategy = _strategy(flags, plugins)
    for sentence in without_effect(flags, strategy):
        _warn(sentence)
    begun = Search(strategy)  # what cannot be searched is refused before there is a folder
    folder = Folder.create(out, strategy, plugins)
    try:
        run(folder, lambda: (begun, Keeper(folder, strategy, begun.state)), commit_every, workers)
    except NonFiniteError:
        # a search that diverged in its first epoch would do so again: there is nothing to resume
        folder.discard()
        raise


@cli.command(cls=OptionsCommand, epilog=EPILOG)
@click.argument("architecture", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    required=True,
    metavar="NAME|FILE",
    help="The strategy whose task, backbone, optimiser and criterion are used: a registered one, or a file.",
)
@TASK
@click.option("--backbone", type=PartType(), help="The backbone that the cells are put into.  [default: the strategy's]")
@click.option(
    "--criterion",
    type=PartType(),
    multiple=True,
    help="When to stop; repeatable, any of them decides.  [default: the strategy's]",
)
@RUN
@click.pass_obj
def retrain(
    load: Any, /, architecture: Path, out: Path | None, commit_every: int | None, workers: int | None, **flags: Any
) -> None:
    """Train the cells of ARCHITECTURE, a run's folder or an architecture.json, from fresh weights, and test them.

    They are put into the strategy's backbone and trained by its optimiser until its criterion ends the phase.
    """
    from nasframe.cli.runs import run
    from nasframe.run.folder import Folder, found
    from nasframe.search.search import Search

    plugins = _plugins(load)
    strategy = _strategy(flags, plugins)
    # The first state of a retraining cannot be made from the strategy alone: it is committed when the folder is made.
    begun = Search.retraining(strategy, found(architecture, plugins))
    folder = Folder.create(out, begun.strategy, plugins, begun.state)
    run(folder, folder.search, commit_every, workers)


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@EVERY
@click.pass_obj
def resume(load: Any, /, folder: Path, commit_every: int | None, workers: int | None) -> None:
    """Continue the run in folder RUN from its last commit."""
    from nasframe.cli.runs import run
    from nasframe.run.folder import Folder

    opened = Folder.open(folder, _plugins(load))
    run(opened, lambda: opened.search(_warn), commit_every, workers)


cli.add_command(list_plugins)
cli.add_command(reproduce)
cli.add_command(check)


def main() -> None:
    """Run the command line: an error of nasframe is one line on standard error, and the exit status is 1."""
    # Click's standalone mode would print its errors and exit by itself, and turn errors of nasframe into tracebacks.
    with lenient_streams():
        try:
            cli.main(standalone_mode=False)
        except NasframeError as error:
            _fail(f"error: {error}", 1)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", INTERRUPTED)
        finally:
            gc.freeze()  # else the interpreter would look for garbage in all that was imported before it ends


def _fail(text: str, status: int) -> None:
    click.echo(text, err=True)
    sys.exit(status)


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def _plugins(load: Any) -> Plugins:
    plugins: Plugins = load()
    for problem in plugins.problems():
        _warn(problem)
    return plugins


def _strategy(flags: Mapping[str, Any], plugins: Plugins) -> Strategy:
    from nasframe.search.strategy import Strategy

    return Strategy.from_dict(strategy_values(flags, plugins), plugins).pinned()
