"""`vlv` and `python -c` without the seconds in which torch is imported: they are forked from a
process that has imported it.

A command keeps its own process, folder, environment, streams, signals and exit code. Only libraries
that read the environment when they are imported read the launcher's, which is told at its start.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# What most commands import, and with it the libraries of the model.
MODULES = (
    "vlv.cli.app",
    "vlv.inference.captioning",
    "vlv.inference.reconstruction",
    "vlv.inference.verification",
    "vlv.models.vlv",
    "vlv.world.render",
)
NUMBER = struct.Struct("!i")
# Client: sends its request and its streams, passes signals on, and exits as the command did.
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, struct, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = json.dumps([{kind!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = array.array("i", [0, 1, 2])
connection.sendmsg(
    [struct.pack("!i", len(request))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
)
connection.sendall(request)
number = lambda: struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]
command = number()
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, lambda caught, _: os.kill(command, caught))
status = number()
os.kill(os.getpid(), -status) if status < 0 else os._exit(status)
"""


@contextmanager
def launcher(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """A folder for the PATH, with a `vlv` and a `python` that a running launcher answers;
    `environment` is added to the launcher's own.
    """
    folder.mkdir()
    address = str(folder / "socket")
    for name, kind in {"vlv": "vlv", "python": "python"}.items():
        script = folder / name
        script.write_text(CLIENT.format(python=sys.executable, address=address, kind=kind))
        script.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.launcher", address],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield folder
    finally:
        process.terminate()
        process.wait()


def serve(address: str) -> NoReturn:
    """Answer each connection with a process of its own."""
    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process is waited for here
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _attend(connection)
        connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """Start the command, and tell the client how it ended; end it where the client has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, NUMBER.size, 3)
    request = json.loads(connection.recv(NUMBER.unpack(head)[0], socket.MSG_WAITALL))
    command = os.fork()
    if command == 0:
        connection.close()
        _run(*request, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(NUMBER.pack(command))
    while True:
        ended, status = os.waitpid(command, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os._exit(0)
        if select.select([connection], [], [], 0.01)[0]:
            os.kill(command, signal.SIGKILL)  # nothing is sent: the client has ended


def _run(
    kind: str, words: list[str], folder: str, environment: dict[str, str], streams: list[int]
) -> NoReturn:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # As a new interpreter would open them: those here remember the launcher's.
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status = 1
    try:
        if kind == "vlv":
            from vlv.cli.app import main

            sys.argv = ["vlv", *words]
            main(words)
        else:
            sys.argv = words
            sys.path.insert(0, folder)
            names: dict[str, Any] = {"__name__": "__main__"}
            exec(compile(words[1], "<string>", "exec"), names)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":

    def _stop(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, _stop)
    serve(sys.argv[1])
