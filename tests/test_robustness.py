"""A command goes on, or ends with an error of nasframe, whatever its streams, its disk and the signals do."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from series_files import small_series
from toy import PLUGINS, toy_strategy

from nasframe import Strategy, load_model
from nasframe.cli import watch
from nasframe.cli.main import main
from nasframe.cli.streams import LenientStream
from nasframe.cli.watch import Stop, Stopped, peak_memory
from nasframe.errors import RunError
from nasframe.run.folder import Folder
from nasframe.search.device import computing

COMMAND = ["-c", "from nasframe.cli.main import main; main()"]
SETTINGS = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Return a function that returns the arguments of a search of one epoch on a series of 40 rows, in the folder `run`."""
    series = small_series(tmp_path_factory.mktemp("series"))

    def arguments(seeds: int = 1, workers: int = 1) -> list[str]:
        options = f"--hidden 2 --plan end --budget 1 --epochs 1 --criterion epochs:epochs=1 --seeds {seeds} --workers {workers}"
        return ["search", *series, *options.split(), "--out", "run"]

    return arguments


# ------------------------------------------------------------------------------------------------------------- streams


class Full(io.StringIO):
    """A stream on a disk without room."""

    encoding = "utf-8"  # type: ignore[assignment]

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_what_cannot_be_written_is_dropped() -> None:
    """Neither a full disk nor a character that the encoding lacks ends a command."""
    LenientStream(Full()).write("lost")
    ascii = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = LenientStream(ascii)

    assert stream.write("±1") == 2
    stream.flush()
    assert ascii.buffer.getvalue() == b"\\xb11"  # type: ignore[attr-defined]


def test_a_run_whose_reader_has_gone(tiny: Any, tmp_path: Path) -> None:
    """As with `nasframe search | head -1` in a terminal of ASCII: the run finishes, and its exit status is 0."""
    arguments = forked.command(*COMMAND, *tiny())
    settings = SETTINGS | {"PYTHONIOENCODING": "ascii"}
    with subprocess.Popen(arguments, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"run folder: run\n"
        process.stdout.close()
        error = process.stderr.read()

    assert (process.returncode, error) == (0, b"")
    assert load_model(tmp_path / "run").network.structure.decided


def test_a_run_without_a_standard_output(tiny: Any, tmp_path: Path) -> None:
    """As with `nasframe search >&-`: the run finishes, and nothing is written into its files that belongs on a terminal."""
    line = f"exec {shlex.join(forked.command(*COMMAND, *tiny()))} >&- <&-"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=SETTINGS, stderr=subprocess.PIPE, check=False)  # noqa: S607

    assert (done.returncode, done.stderr) == (0, b"")
    assert load_model(tmp_path / "run").network.structure.decided


def test_a_terminal_of_ascii(here: Any, tiny: Any, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plus-minus sign of two seeds is escaped, and does not end a run that has done its work."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)

    assert here(*tiny(seeds=2))[::2] == (0, "")
    assert b" \\xb1 " in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_memory_is_not_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no `resource`, the line has the time alone."""
    assert peak_memory("cpu")
    monkeypatch.setitem(sys.modules, "resource", None)

    assert watch.spent(1.25, "cpu") == "1.2 s in this process"


# ---------------------------------------------------------------------------------------------------------------- disk


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line in this process, in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nasframe", *arguments])
        status = 0
        try:
            main()
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


@contextlib.contextmanager
def files_of(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: to the program a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_the_first_file(here: Any, tiny: Any, tmp_path: Path) -> None:
    """Nothing is left, so that the same command can be given again."""
    with files_of(100):
        assert here(*tiny()) == (1, "", "error: cannot write run/strategy.toml: File too large\n")

    assert list(tmp_path.iterdir()) == []


def test_no_room_later(here: Any, tiny: Any) -> None:
    """A commit or a picture that cannot be written is an error that says how to continue, and the run can be continued."""
    for size, path in ((2000, "run/commits"), (20000, "run")):
        with files_of(size):
            status, _, error = here(*(("resume", "run", "--workers", "1") if Path("run").exists() else tiny()))
        assert status == 1
        assert error == (
            f"error: cannot write {path}: File too large. When that is put right, continue with: nasframe resume run\n"
        )
    status, printed, _ = here("resume", "run", "--workers", "1")
    assert status == 0
    assert printed.endswith('model = nasframe.load_model("run")\n')


def test_a_finished_run_stays_as_it_is(here: Any, tiny: Any, tmp_path: Path, no_pictures: None) -> None:
    """Resuming it does nothing and says how the network is loaded."""
    assert here(*tiny()[:-2])[0] == 0
    run = tmp_path / "runs" / "001"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    said = 'load the network in Python: model = nasframe.load_model("runs/001")\n'

    assert here("resume", "runs/001") == (0, f"the run in runs/001 is finished\n{said}", "")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- simultaneous


def together(number: int, work: Any) -> list[Any]:
    """Return what several threads return or raise that begin at the same time."""
    barrier, results = threading.Barrier(number), [None] * number

    def begin(place: int) -> None:
        barrier.wait()
        try:
            results[place] = work(place)
        except RunError as error:
            results[place] = error

    threads = [threading.Thread(target=begin, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_runs_that_start_at_once_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has another number and the strategy that it was started with."""
    monkeypatch.chdir(tmp_path)
    for _ in range(5):
        folders = together(8, lambda place: Folder.create(None, toy_strategy(seed=place), PLUGINS))
        seeds = [Strategy.read(folder.path / "strategy.toml", PLUGINS).seed for folder in folders]

        assert seeds == list(range(8))
    assert sorted(path.name for path in Path("runs").iterdir()) == [f"{number:03d}" for number in range(1, 41)]


def test_a_folder_that_two_runs_want(tmp_path: Path) -> None:
    """One run gets it, with its strategy; the others are refused."""
    for attempt in range(5):
        path = tmp_path / str(attempt)
        folders = together(8, lambda place, path=path: Folder.create(path, toy_strategy(seed=place), PLUGINS))
        winners = [place for place, folder in enumerate(folders) if isinstance(folder, Folder)]

        assert len(winners) == 1
        assert Strategy.read(path / "strategy.toml", PLUGINS).seed == winners[0]


# -------------------------------------------------------------------------------------------------------------- signals


def test_a_signal_waits_for_the_end_of_a_step() -> None:
    """The first one requests a stop, the second one interrupts."""
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("early", [True, False])
def test_a_signal_is_obeyed_at_once_where_that_is_safe(early: bool) -> None:
    """Whether it comes before or within the work; what catches every Exception does not catch it."""

    def work(stop: Stop) -> None:
        with stop.at_once(), contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with Stop() as stop:
        if early:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            work(stop)


def test_sigterm_while_networks_are_compared(tiny: Any, tmp_path: Path) -> None:
    """It is obeyed within seconds, and the run can be continued."""
    arguments = forked.command(*COMMAND, *tiny(seeds=300))
    with subprocess.Popen(arguments, cwd=tmp_path, env=SETTINGS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "evaluated 3" in line:
                break
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.endswith("stopped; continue with: nasframe resume run\n")
    assert time.monotonic() - start < 10


def test_workers_end_with_a_command_that_is_killed(tiny: Any, tmp_path: Path) -> None:
    """None is left behind: standard output, which they inherit, is closed."""
    arguments = forked.command(*COMMAND, *tiny(seeds=300, workers=2))
    with subprocess.Popen(arguments, cwd=tmp_path, env=SETTINGS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "evaluated 1:" in line:
                break
        process.kill()
        process.communicate(timeout=60)


# -------------------------------------------------------------------------------------------------------------- devices


def test_an_accelerator_computes_with_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run computes, and not in the user's code; on the CPU nothing is switched."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)

    with computing(toy_strategy(device="cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    with computing(toy_strategy()):
        assert not torch.are_deterministic_algorithms_enabled()
