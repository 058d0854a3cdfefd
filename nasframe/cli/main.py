"""The command line: `nasframe search`, `nasframe retrain`, `nasframe resume`, `nasframe plugins`, `nasframe reproduce`,
`nasframe check`, `nasframe mutants`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from nasframe.cli.check import check, mutants
from nasframe.cli.flags import Names, Spec, strategy_values
from nasframe.cli.plugins import list_plugins
from nasframe.cli.reproduce import reproduce
from nasframe.cli.watch import Stop, Stopped, Watch, spent, watching
from nasframe.errors import NasframeError, StrategyError
from nasframe.pictures import draw_cell, draw_learning, draw_mixing
from nasframe.plugins import Plugins, discover, left_out
from nasframe.run import summary
from nasframe.run.compare import Row, compare
from nasframe.run.folder import Folder, Keeper, follow, found, save_model
from nasframe.search.search import Search, threads
from nasframe.search.strategy import Strategy

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nasframe")
@click.option("--without", multiple=True, metavar="PLUGIN", help="Leave a plugin out (see `nasframe plugins`); repeatable.")
@click.pass_context
def cli(context: click.Context, without: tuple[str, ...]) -> None:
    """Grow and search a neural network's architecture while it trains."""
    context.obj = lambda: discover([*left_out(), *without])


Command = Callable[..., None]


def _flags(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several flags at once, in this order."""

    def decorated(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


TASK = _flags(
    click.option("--task", type=Spec(), help="What to train for.  [default: the strategy's, or forecasting]"),
    click.option("--csv", metavar="FILE", help="Forecast the columns of a CSV file, plain or gzipped."),
    click.option("--columns", type=Names(), help="Of the series, those to forecast.  [default: all but the dates]"),
    click.option("--returns", is_flag=True, default=None, help="Forecast log returns; the columns are prices."),
    click.option("--drop-missing", "missing", flag_value="drop", help="Leave out rows with an empty cell."),
)
EVERY = click.option("--commit-every", type=click.IntRange(min=1), metavar="UPDATES", help="Commit within an epoch, too.")
RUN = _flags(
    click.option(
        "--epochs", type=int, help="Each phase of training takes so many, over which the learning rate falls along a cosine."
    ),
    click.option("--seed", type=int, help="Of every random draw."),
    click.option("--device", help="Such as cpu, cuda:0."),
    click.option("--threads", type=int, help="Of torch on the CPU.  [default: 1]"),
    click.option("--fast/--readable", default=None, help="Networks in their fast form, or module by module.  [default: fast]"),
    click.option("--out", type=click.Path(path_type=Path), help="The run folder.  [default: runs/<the next number>]"),
    EVERY,
)


@cli.command()
@click.option(
    "--strategy",
    metavar="NAME|FILE",
    help="Start from a paper's strategy, such as new-2, or from a file, as every run writes one.",
)
@TASK
@click.option("--backbone", type=Spec(), help="How nodes are wired.  [default: two_to_one]")
@click.option("--architect", type=Spec(), help="What moves the alphas.  [default: first_order]")
@click.option(
    "--criterion",
    type=Spec(),
    multiple=True,
    help="When to grow and to stop; repeatable, any of them decides. One must end a stage, as patience does, and one the search.  "
    "[default: patience, no_better and max_nodes:nodes=6]",
)
@click.option(
    "--growth", type=Spec(), multiple=True, help="How to grow; repeatable, the most promising is taken.  [default: node]"
)
@click.option("--pruner", type=Spec(), help="Which candidates go.  [default: strongest]")
@click.option("--prune", help="When: 'stage' (each) or 'end'.")
@click.option("--nodes", type=int, help="Nodes that each cell starts with.")
@click.option("--hidden", type=int, help="Hidden size n_h.  [default: n_x; of the default backbone 16]")
@click.option("--layers", type=int, help="Stacked layers of the backbone.")
@click.option(
    "--budget",
    type=int,
    metavar="UPDATES",
    help="The search ends with the stage that reaches so many updates; tuning is extra.",
)
@click.option("--seeds", type=int, help="How many trainings the comparison averages over.")
@RUN
@click.pass_obj
def search(load: Any, /, strategy: str | None, out: Path | None, commit_every: int | None, **flags: Any) -> None:
    """Search a cell, and compare what was found.

    A part is given by its name, with its options behind a colon: --backbone two_to_one:hidden=8,layers=2
    """
    plugins = _plugins(load)
    chosen = _chosen(strategy, flags, plugins)
    if flags["epochs"] and chosen.growth and not flags["budget"] and not flags["criterion"]:
        _warn("--epochs says when each stage ends, and nothing says when to stop growing: give --budget, too, or --criterion")
    begun = Search(chosen)  # what cannot be searched is refused before there is a folder
    _run(Folder.create(out or _next_run(Path("runs")), chosen, plugins), lambda: begun, commit_every)


@cli.command()
@click.argument("architecture", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    required=True,
    metavar="NAME|FILE",
    help="Whose task, backbone, optimiser and criterion: a paper's strategy, or a file, as every run writes one.",
)
@TASK
@click.option("--backbone", type=Spec(), help="What the cells are put into, in the place of the strategy's.")
@click.option("--criterion", type=Spec(), multiple=True, help="When to stop, in the place of the strategy's; repeatable.")
@RUN
@click.pass_obj
def retrain(load: Any, /, architecture: Path, strategy: str, out: Path | None, commit_every: int | None, **flags: Any) -> None:
    """Train the cells of ARCHITECTURE, a run's folder or an architecture.json, from fresh weights, and test them.

    They are put into the strategy's own backbone, and trained by its optimiser until its criterion ends the phase.
    """
    plugins = _plugins(load)
    chosen = _chosen(strategy, flags, plugins)
    begun = Search.retraining(chosen, found(architecture, plugins))
    folder = Folder.create(out or _next_run(Path("runs")), chosen, plugins, begun.state)
    _run(folder, lambda: begun, commit_every)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@EVERY
@click.pass_obj
def resume(load: Any, /, run: Path, commit_every: int | None) -> None:
    """Go on with the run in folder RUN from its last commit."""
    folder = Folder.open(run, _plugins(load))
    _run(folder, lambda: folder.search(_warn), commit_every)


cli.add_command(list_plugins)
cli.add_command(reproduce)
cli.add_command(check)
cli.add_command(mutants)


def main() -> None:
    """The entry point: an error of ours is one line on stderr and exit status 1."""
    try:
        cli.main(standalone_mode=False)
    except NasframeError as error:
        _fail(f"error: {error}", 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)


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


def _chosen(strategy: str | None, flags: Mapping[str, Any], plugins: Plugins) -> Strategy:
    chosen = Strategy.from_dict(strategy_values(_written(strategy, plugins), flags), plugins)
    return attrs.evolve(chosen, task=chosen.task.pinned())


def _written(strategy: str | None, plugins: Plugins) -> Mapping[str, Any] | None:
    if strategy is None:
        return None
    names = plugins.names("strategy")
    if strategy in names:
        return Strategy.named(strategy, plugins).to_dict()
    if not Path(strategy).exists():
        raise StrategyError(
            f"there is no file {strategy}, and no strategy of that name; there are: {', '.join(names) or 'none'}"
        )
    return Strategy.read(strategy, plugins).to_dict()


def _next_run(folder: Path) -> Path:
    taken = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    return folder / f"{max(taken, default=0) + 1:03d}"


def _run(folder: Folder, begin: Callable[[], Search], commit_every: int | None) -> None:
    with folder.locked(), Stop() as stop, watching() as watch:
        search = begin()
        keeper = Keeper(folder, search.state, commit_every)
        watch.say(f"run folder: {folder.path}")
        for sentence in search.warnings():
            watch.say(sentence)
        start = time.monotonic()
        try:
            follow(search, keeper, watch, stop.check)
            watch.say(spent(time.monotonic() - start, search.strategy.device))
            save_model(search.model, folder.path)
            _draw(search, folder.path)
            with threads(search.strategy.threads):
                watch.say(summary.write(folder, search, list(_compared(search, watch, stop))))
        except Stopped:
            keeper.commit()
            watch.say(f"stopped; go on with: nasframe resume {folder.path}")
            sys.exit(INTERRUPTED)


def _draw(search: Search, folder: Path) -> None:
    history = search.state.history
    draw_cell(search.network.structure, None, folder / "cell.png")
    draw_learning(history, search.state.lineage, folder / "learning.png", search.data.score)
    if any("mixing" in record for record in history):
        draw_mixing(history, folder / "mixing.png")


def _compared(search: Search, watch: Watch, stop: Stop) -> Iterator[Row]:
    for name, rows in compare(search):
        stop.check()
        watch.doing(f"comparing: {name}")
        yield rows()
