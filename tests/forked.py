"""Python programs in copies of one process that has imported what takes long to import.

`command("-c", code, ...)` and `command(script, ...)`, with or without "-u" before these arguments, are command lines that do what
python does with them: open files, folder, environment, signals and exit status are those of the copy. No module of nasframe is imported
before a copy is made, so that a copy differs from a new process in its hash seed alone, which all copies share. What a copy starts with
`multiprocessing` is a copy, too.

    python forked.py serve SOCKET           makes copies until its standard input ends
    python forked.py ask SOCKET ARGUMENTS   asks for a copy, passes signals on to it, and ends as it does
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

#: the environment variable in which the processes that this process starts find the socket
SOCKET = "NASFRAME_TESTS_FORKED"


@functools.cache
def server() -> str:
    """Return the socket of the process of which copies are made, which ends with the process that started it.

    It is started once for all processes of a run: those of pytest-xdist find it in their environment.
    """
    import atexit
    import subprocess
    import tempfile

    if SOCKET in os.environ:
        return os.environ[SOCKET]
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "socket")
    with open(_program(path), "w", opener=lambda path, flags: os.open(path, flags, 0o700)) as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(_asking(path))} "$@"\n')
    settings = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", path], env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    atexit.register(process.communicate)
    os.environ[SOCKET] = path
    return path


def command(*arguments: str) -> list[str]:
    """Return the command line that does what `python *arguments` does."""
    return [*_asking(server()), *arguments]


def _asking(path: str) -> list[str]:
    return [sys.executable, "-I", "-S", __file__, "ask", path]


def _program(path: str) -> str:
    """Return the path of the program that does what python does, beside the socket."""
    return os.path.join(os.path.dirname(path), "python")


# -------------------------------------------------------------------------------------------------- the caller's process


def ask(path: str, arguments: Sequence[str]) -> None:
    """Let a copy run the program with the open files, folder and environment of this process, and end with its status."""
    files = _open_files()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    request |= {"socket": path, "files": files}
    socket.send_fds(connection, [b"\n"], files)
    connection.sendall(json.dumps(request).encode() + b"\n")
    for file in files:
        os.close(file)  # whoever reads the other end waits for the copy alone
    status = int(connection.recv(16))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _open_files() -> list[int]:
    """Return the descriptors that are open."""
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the list has the descriptor of the folder, which is closed
            os.fstat(int(name))
            found.append(int(name))
    return found


# -------------------------------------------------------------------------------------------------- the process that is copied


def serve(path: str) -> tuple[Mapping[str, Any], Sequence[int]]:
    """Make copies until the standard input ends; in a copy, return the request and its open files."""
    import gc

    import torch._dynamo  # noqa: F401
    import torchmetrics  # noqa: F401

    # else each copy looks for garbage in all of this before it ends
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _watched(connection)
        connection.close()
    os.unlink(path)
    os.unlink(_program(path))
    os.rmdir(os.path.dirname(path))
    sys.exit()


def _watched(connection: socket.socket) -> tuple[Mapping[str, Any], Sequence[int]]:
    """Fork once more: the parent passes signals on and reports the exit status, the child returns the request."""
    _, files, *_ = socket.recv_fds(connection, 1, 100)
    request = json.loads(connection.makefile().readline())
    ended, open_while_it_runs = os.pipe()
    if (pid := os.fork()) == 0:
        connection.close()
        os.close(ended)
        # out of the way of the numbers that the files have in the process that asks
        _moved(open_while_it_runs)
        return request, [_moved(file) for file in files]
    for descriptor in (*files, open_while_it_runs):
        os.close(descriptor)
    while ended not in select.select([connection, ended], [], [])[0]:
        # the caller sends the numbers of signals; where it was killed, so is the copy
        number = connection.recv(1)
        os.kill(pid, number[0] if number else signal.SIGKILL)
        if not number:
            os._exit(0)
    connection.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _moved(file: int) -> int:
    """Give a descriptor a large number and return it."""
    import fcntl

    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 1000)
    os.close(file)
    return moved


def prepare(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Make this copy look like a process that was started with these files, folder, environment and arguments."""
    import multiprocessing
    import types
    import warnings

    for number in {0, 1, 2}.difference(request["files"]):
        os.close(number)
    for number, file in zip(request["files"], files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    multiprocessing.set_executable(_program(request["socket"]))
    options = [*itertools.takewhile(lambda option: option.startswith("-") and option != "-c", request["arguments"])]
    sys.argv = request["arguments"][len(options) :]
    unbuffered = "-u" in options or bool(os.environ.get("PYTHONUNBUFFERED"))
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        if number in request["files"]:
            stream = open(number, "w" if number else "r", encoding=encoding, closefd=False)  # noqa: SIM115
        if number and stream is not None:
            stream.reconfigure(write_through=unbuffered, line_buffering=number == 2)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    is_code = sys.argv[0] == "-c"
    sys.path[0] = "" if is_code else os.path.dirname(os.path.abspath(sys.argv[0]))
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    program = types.ModuleType("__main__")
    if not is_code:
        program.__file__ = sys.argv[0]
    sys.modules["__main__"] = program


if __name__ == "__main__":
    what, path, *arguments = sys.argv[1:]
    if what == "ask":
        ask(path, arguments)
    prepare(*serve(path))
    if sys.argv[0] == "-c":
        code, name = sys.argv.pop(1), "<string>"
    else:
        with open(sys.argv[0]) as file:
            code, name = file.read(), sys.argv[0]
    # at the top level, so that the interpreter ends as it does after any program
    exec(compile(code, name, "exec"), vars(sys.modules["__main__"]))  # noqa: S102 - as python does
