"""Print how large the code of some checkouts is, and how long their commands take to start.

    python docs/measurements/code_size.py FOLDER [FOLDER ...]

There is a column for each checkout. Start-up times are medians over rounds in which every command of every checkout runs
once, so that whatever else the machine does slows all of them alike.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

#: the parts of a checkout: the folder of each, and the folder inside it that is counted elsewhere
PARTS: Mapping[str, tuple[str, str | None]] = {
    "core": ("nasframe", "nasframe/testing"),
    "kit": ("nasframe/testing", None),
    "plugins": ("plugins", None),
    "tests": ("tests", None),
}
CLI = "from nasframe.cli.main import main; main()"
COMMANDS: Mapping[str, Sequence[str]] = {
    "nasframe --version": ("-c", CLI, "--version"),
    "nasframe --help": ("-c", CLI, "--help"),
    "import nasframe": ("-c", "import nasframe"),
    "import nasframe, torch": ("-c", "import nasframe, torch"),
    "import torch": ("-c", "import torch"),
}


@attrs.frozen
class Size:
    """The size of some source files.

    Attributes:
        files, lines: how many there are; lines include blank ones, comments and docstrings.
        comments: lines that hold a comment, alone or after code. Instructions to a tool ("noqa") do not count.
        functions: the length of each function in lines, from its `def` to its end, without its docstring.
    """

    files: int
    lines: int
    comments: int
    functions: tuple[int, ...]


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=11, help="how often each command is started (default: %(default)s)")
    options = parser.parse_args()
    folders = [folder.resolve() for folder in options.folders]
    print("| | " + " | ".join(folder.name for folder in folders) + " |")
    print("| --- |" + " ---: |" * len(folders))
    for part in PARTS:
        sizes = [size(folder, part) for folder in folders]
        row(f"{part}: files", [f"{s.files}" for s in sizes])
        row(f"{part}: lines", [f"{s.lines:,}" for s in sizes])
        row(f"{part}: functions", [f"{len(s.functions):,}" for s in sizes])
        row(f"{part}: lines of a function, median", [f"{statistics.median(s.functions):g}" for s in sizes])
        row(f"{part}: lines of a function, 90th percentile", [f"{percentile(s.functions, 0.9)}" for s in sizes])
        row(f"{part}: lines with a comment", [f"{s.comments / s.lines:.1%}" for s in sizes])
    row("public names", [names(folder) for folder in folders])
    times = starts(folders, options.rounds)
    for command in COMMANDS:
        row(f"{command}: seconds, median [least]", [spread(times[folder, command]) for folder in folders])


def row(title: str, cells: Sequence[str]) -> None:
    """Print a row of the table."""
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def size(folder: Path, part: str) -> Size:
    """Return the size of a part of a checkout."""
    inside, but = PARTS[part]
    files = [f for f in sorted((folder / inside).rglob("*.py")) if but is None or folder / but not in f.parents]
    lengths = [length for file in files for length in functions(file)]
    return Size(
        files=len(files),
        lines=sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files),
        comments=sum(comments(file) for file in files),
        functions=tuple(lengths),
    )


def functions(file: Path) -> Iterator[int]:
    """Yield the length of each function of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                length -= docstring.end_lineno - docstring.lineno + 1
            yield length


def comments(file: Path) -> int:
    """Return the number of lines of a file with a comment."""
    with file.open("rb") as stream:
        tokens = [t.string for t in tokenize.tokenize(stream.readline) if t.type == tokenize.COMMENT]
    return sum(not text.startswith(("# noqa", "# type:", "#!")) for text in tokens)


def percentile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that is at least as large as this share of all values."""
    return sorted(values)[-(-len(values) * int(100 * share) // 100) - 1]


def names(folder: Path) -> str:
    """Return the number of names that `import nasframe` offers."""
    return start(folder, ("-c", "import nasframe; print(len(nasframe.__all__))")).strip()


def starts(folders: Sequence[Path], rounds: int) -> dict[tuple[Path, str], list[float]]:
    """Return the seconds that each command of each checkout took, by round, after one round that is not measured."""
    times: dict[tuple[Path, str], list[float]] = {(folder, command): [] for command in COMMANDS for folder in folders}
    for number in range(rounds + 1):
        for folder, command in times:
            began = time.perf_counter()
            start(folder, COMMANDS[command])
            if number:
                times[folder, command].append(time.perf_counter() - began)
    return times


def spread(seconds: Sequence[float]) -> str:
    """Return the median and the least, which is what the command takes when nothing else runs."""
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f}]"


def start(folder: Path, arguments: Sequence[str]) -> str:
    """Run Python with the packages of a checkout, and return its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "plugins")])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder).stdout  # noqa: S603


if __name__ == "__main__":
    main()
