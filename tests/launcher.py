"""Commands of this Python without the seconds in which torch is imported: they are forked from a
process that has imported it.

`run` and `Popen` are those of `subprocess`: a command keeps its own process, a child of the test's,
and its own folder, environment, streams, signals and exit code. `programs` gives shells the same.
Libraries that read the environment when they are imported have read the launcher's. So a command
whose environment differs from it in more than `OF_COMMANDS` starts a new interpreter, as does one
with a `preexec_fn`. The interpreters that multiprocessing starts in a command (of `vlv serve` and
`vlv bulk`: the model's workers) are forked from a launcher that is the command's own.
"""

import array
import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import inspect
import json
import multiprocessing.util
import os
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple, NoReturn, TypeVar

import huggingface_hub.constants

# What most commands import, and with it the libraries of the model.
MODULES = (
    "vlv.cli.app",
    "vlv.inference.captioning",
    "vlv.inference.reconstruction",
    "vlv.inference.verification",
    "vlv.models.vlv",
    "vlv.serving.server",
    "vlv.world.render",
)
TRAINING = ("vlv.training.loop", "vlv.training.registry")
# Variables that no library reads when it is imported, or whose library `become` tells.
OF_COMMANDS = (
    "ACCELERATE_",
    "AWS_",
    "CUDA_VISIBLE_DEVICES",
    "GROUP_",
    "HF_HUB_CACHE",
    "LOCAL_",
    "MASTER_",
    "PATH",
    "PYTEST_",
    "PYTHONPATH",
    "RANK",
    "ROLE_",
)
OF_COMMANDS += ("TORCHELASTIC_", "TORCHINDUCTOR_CACHE_DIR", "TORCH_NCCL_", "VLV_", "WORLD_SIZE")
# Of a shell, and of the scripts in configs/launch. `readline`, which pytest imports, sets two of
# them for a process's children and not for itself.
OF_COMMANDS += ("_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES")
OF_COMMANDS += ("NODES", "GPUS", "HOST", "RUN_ID")
# `torch.distributed.run`, whose processes are forked from the launcher too.
RANKS = """
from tests.launcher import Popen
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.run import main
subprocess_handler.Popen = Popen
main()
"""
# Tests change theirs; the launcher has this.
ENVIRONMENT = dict(os.environ)
ROOT = Path(__file__).resolve().parents[1]
# A script in a file, and the commands that it starts.
SCRIPT = """
import runpy, subprocess, sys
from tests.launcher import Popen
subprocess.Popen = Popen
del sys.argv[0]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NUMBER = struct.Struct("!i")
# Of the processes of launchers that commands have, as `psutil` tells it.
NAME = "vlv-launcher"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_Text = TypeVar("_Text", str, bytes)
_one_at_a_time = threading.Lock()
# A program for shells: passes signals on to its command and ends as it did.
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, struct, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
words = {words!r} + sys.argv[1:]
request = [words, os.getcwd(), dict(os.environ), {files}, -1, [0, 1, 2], False, True, True]
request = json.dumps(request).encode()
streams = array.array("i", [0, 1, 2])
connection.sendmsg(
    [struct.pack("!i", len(request))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
)
connection.sendall(request)
number = lambda: struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]
command = number()
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(one, lambda caught, _: os.kill(command, caught))
status = number()
os.kill(os.getpid(), -status) if status < 0 else os._exit(status)
"""


class Request(NamedTuple):
    """A command: the words after the name of the interpreter, and where it runs."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    files: int  # how many it may open
    file_size: int  # how large one may become, in bytes; -1 if it may have any size
    numbers: list[int]  # of the open files that it gets
    new_session: bool
    attended: bool  # someone waits at the connection for its end
    starts_others: bool  # and gets a launcher for them


class Popen(subprocess.Popen[_Text]):
    """A process, forked from the launcher where it is `sys.executable -m` or `-c`."""

    def _execute_child(self, *args: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        given = inspect.signature(start).bind(*args).arguments
        command = given["args"]
        environment = dict(os.environ if given["env"] is None else given["env"])
        if given["preexec_fn"] is not None or not launchable(command, environment):
            start(*args)
            return
        request = Request(
            [os.fspath(word) for word in command[1:]],
            os.fspath(given["cwd"] or os.getcwd()),
            environment,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            resource.getrlimit(resource.RLIMIT_FSIZE)[0],
            [0, 1, 2],
            given["start_new_session"],
            attended=False,
            starts_others=True,
        )
        own = (given["p2cread"], given["c2pwrite"], given["errwrite"])
        self.pid = _ask(request, [number if one == -1 else one for number, one in enumerate(own)])
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[end] for end in ends))  # type: ignore[attr-defined]


def spawnv_passfds(
    path: bytes,
    given: Sequence[Any],
    passed: Sequence[int],
    new: Callable[[bytes, Sequence[Any], Sequence[int]], int],
) -> int:
    """As `new`, that of `multiprocessing.util`, which starts all its interpreters with it."""
    words = [os.fsdecode(word) for word in given]
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if words[1 : 1 + len(flags)] == flags:  # those of the launcher, too
        del words[1 : 1 + len(flags)]
    environment = dict(os.environ)
    if "resource_tracker" in words[-1] or not launchable(words, environment):
        return new(path, given, passed)  # the tracker of resources starts at once
    files = [0, 1, 2, *passed]
    limits = [resource.getrlimit(one)[0] for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]
    return _ask(
        Request(words[1:], os.getcwd(), environment, *limits, files, False, False, False), files
    )


def run(
    command: Sequence[Any], *, timeout: float | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [os.fspath(word) for word in command]
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    ran = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        ran.check_returncode()
    return ran


def launchable(command: Any, environment: Mapping[str, str]) -> bool:
    """Whether the launcher starts what a new interpreter would."""
    return (
        sys.platform == "linux"
        and not isinstance(command, str | bytes)
        and [str(word) for word in command[:1]] == [sys.executable]
        and command[1 + (command[1] == "-u")] in ("-c", "-m")
        and _read_at_import(environment) == _read_at_import(ENVIRONMENT)
    )


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if not key.startswith(OF_COMMANDS)}


def _ask(request: Request, streams: Sequence[int]) -> int:
    """Have the launcher fork a command that is a child of this process; its number."""
    libc = ctypes.CDLL(None)
    with _one_at_a_time, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address())
        # The launcher's child ends at once, and leaves the command to this process.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            return _send(connection, request, streams)
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _send(connection: socket.socket, request: Request, streams: Sequence[int]) -> int:
    body = json.dumps(request).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    connection.sendmsg([NUMBER.pack(len(body))], rights)
    connection.sendall(body)
    (number,) = NUMBER.unpack(connection.recv(NUMBER.size, socket.MSG_WAITALL))
    return int(number)


@functools.cache
def address() -> str:
    """Of this process's launcher, which ends with it."""
    running = contextlib.ExitStack()
    atexit.register(running.close)
    folder = running.enter_context(tempfile.TemporaryDirectory(prefix="vlv-launcher-"))
    return running.enter_context(launcher(Path(folder) / "socket"))


def programs(folder: Path) -> Path:
    """A folder for the PATH, with a `vlv`, a `python` and a `torchrun` that start at once."""
    folder.mkdir()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    commands = {"vlv": ["-m", "vlv.cli"], "python": [], "torchrun": ["-c", RANKS]}
    for name, words in commands.items():
        script = folder / name
        client = CLIENT.format(python=sys.executable, address=address(), words=words, files=files)
        script.write_text(client)
        script.chmod(0o755)
    return folder


@contextmanager
def launcher(socket_file: Path) -> Iterator[str]:
    """A process that has imported what commands need, and answers at an address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.launcher", socket_file],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,  # which closes when this process ends, however it does
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield str(socket_file)
    finally:
        process.terminate()
        process.communicate()


def start(address: str) -> Request:
    """Import what commands need and `serve` them as long as the standard input is open."""
    for name in (*MODULES, *TRAINING):
        importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    return serve(listener, [sys.stdin])


def serve(listener: socket.socket, ends: Sequence[Any]) -> Request:
    """Answer each connection with a process of its own; returns there, in the command's process.

    Ends when there is something to read from one of `ends`.
    """
    signal.signal(signal.SIGTERM, _end)
    while select.select([listener, *ends], [], [])[0] == [listener]:
        connection, _ = listener.accept()
        _reap()
        head, streams, _, _ = socket.recv_fds(connection, NUMBER.size, 16)
        body = connection.recv(NUMBER.unpack(head)[0], socket.MSG_WAITALL)
        request = Request(*json.loads(body))
        read_end, tell = os.pipe()
        middle = os.fork()
        if middle == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            command = os.fork()
            if command == 0:
                for one in (read_end, tell):
                    os.close(one)
                listener.close()
                connection.close()
                _take(streams, request.numbers)
                return request
            os.write(tell, NUMBER.pack(command))
            if request.attended:
                _attend(command, connection, [*streams, listener.fileno()])
            os._exit(0)
        for one in (tell, *streams):
            os.close(one)
        (command,) = NUMBER.unpack(os.read(read_end, NUMBER.size))
        os.close(read_end)
        if not request.attended:
            os.waitpid(middle, 0)  # now the command has its new parent
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(NUMBER.pack(command))
        connection.close()
    os._exit(0)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end(number: int, frame: FrameType | None) -> NoReturn:
    _reap()
    os._exit(0)


def _attend(command: int, connection: socket.socket, unused: Sequence[int]) -> None:
    """Tell the client how the command ended; end it where the client has gone."""
    for one in unused:
        os.close(one)
    running = os.pidfd_open(command)
    if running not in select.select([connection, running], [], [])[0]:
        os.kill(command, signal.SIGKILL)  # nothing is sent: the client has ended
    _, status = os.waitpid(command, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _take(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give open files these numbers."""
    above = max([*files, *numbers]) + 1
    for file, number in zip(
        [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in files], numbers, strict=True
    ):
        os.dup2(file, number)
        os.close(file)
    for file in set(files) - set(numbers):
        os.close(file)
    # As a new interpreter would open them: those here remember the launcher's.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def have_a_launcher() -> Request | None:
    """Fork one of this process's own; returns in a process that it starts, with its request."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        name = f"\0vlv-launcher-{os.getpid()}"
        listener.bind(name)
        listener.listen()
        parent = os.getpid()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME.encode())
            if os.getppid() != parent:
                os._exit(0)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            return serve(listener, [])
    globals()["address"] = lambda: name
    new = multiprocessing.util.spawnv_passfds
    multiprocessing.util.spawnv_passfds = functools.partial(spawnv_passfds, new=new)
    return None


def become(request: Request) -> None:
    """Do what the interpreter does with such words."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"python")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.new_session:
        os.setsid()
    limits = {
        resource.RLIMIT_NOFILE: request.files,
        resource.RLIMIT_FSIZE: request.file_size,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    if request.starts_others and (other := have_a_launcher()) is not None:
        become(other)
        return
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    importlib.reload(huggingface_hub.constants)  # read HF_HUB_CACHE
    _find_modules_in(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.orig_argv = [sys.executable, *request.words]
    if request.words[0] == "-u":
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    option, what, *words = request.words[request.words[0] == "-u" :]
    sys.path[0] = request.folder if option == "-m" else ""
    sys.argv = ["-m" if option == "-m" else "-c", *words]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(what, "<string>", "exec"), main.__dict__)


def _find_modules_in(folders: Sequence[str]) -> None:
    """Search those of PYTHONPATH that the launcher does not know, and run their `sitecustomize`."""
    new = [folder for folder in folders if folder and folder not in sys.path]
    sys.path[1:1] = new
    for folder in new:
        if (site := Path(folder) / "sitecustomize.py").exists():
            runpy.run_path(str(site))


if __name__ == "__main__":
    # One module for the launcher and for commands that start others with `Popen`.
    from tests import launcher as one

    one.become(one.start(sys.argv[1]))
