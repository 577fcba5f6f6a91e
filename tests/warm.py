"""Start `rlt` and `python` in milliseconds: as forks of a process that has imported the large libraries already.

Imports take two seconds of most programs that the tests start, more than all else. A fork has its own arguments, folder,
environment variables, streams, `__main__` and exit code, so that only claims about imports, start-up and signals need
real interpreters. This file is the server, and what the scripts called `rlt` and `python` run.
"""

import array
import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress

IMPORTED = ("rl_transformer.cli.main", "rl_transformer.cli.train", "rl_transformer.run", "gymnasium", "scipy.stats")
RLT = "from rl_transformer.cli.main import entry; entry()"


def write_commands(folder, address):
    """Write programs called `rlt` and `python` that run in forks of the server at an address."""
    for name in ("rlt", "python"):
        path = folder / name
        lines = [
            f"#!{sys.executable} -IS",
            "import sys",
            f"sys.path.append({str(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))!r})",
            f"from tests.warm import client; client({name!r}, {str(address)!r})",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)


def client(name, address):
    """Run this process's command line in a fork of the server, with the streams of this process, and exit as it does."""
    words = sys.argv[1:]
    if name == "rlt":
        code, arguments, path = RLT, ["rlt", *words], os.path.dirname(sys.executable)
    elif words[:1] == ["-c"]:
        code, arguments, path = words[1], ["-c", *words[2:]], ""
    elif words[:1] == ["-"]:
        code, arguments, path = sys.stdin.read(), words, ""
    else:
        os.execv(sys.executable, [sys.executable, *words])
    message = json.dumps([code, arguments, path, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendmsg(
            [len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        )
        server.sendall(message)
        process = int.from_bytes(server.recv(8), "big")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os.kill(process, number))
        status = int.from_bytes(server.recv(8), "big", signed=True)
    os._exit(status if status >= 0 else 128 - status)


def serve(address):
    """Fork for every client, and return, in the forks only, with the program that one is to run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _start(connection)
        connection.close()
        with suppress(ChildProcessError):  # none has ended since the last client
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _start(connection):
    """Return in a child with the client's streams, folder and environment; wait for the child in this process."""
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    streams = array.array("i", ancillary[0][2])
    code, arguments, path, folder, environment = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    process = os.fork()
    if process:
        with suppress(BrokenPipeError):  # the client was killed
            connection.sendall(process.to_bytes(8, "big"))
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            connection.sendall(status.to_bytes(8, "big", signed=True))
        os._exit(0)
    connection.close()
    # Those of the server remember whether they were files, pipes or terminals.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  like those below open until the program ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = arguments
    sys.path[0] = path
    return code


if __name__ == "__main__":
    from importlib import import_module
    from types import ModuleType

    for _name in IMPORTED:
        import_module(_name)
    os.fsync = lambda descriptor: None  # as in tests/conftest.py
    gc.freeze()  # or every fork would copy all pages when it ends, which takes longer than many a program
    _code = compile(serve(sys.argv[1]), "<program>", "exec")
    sys.modules["__main__"] = ModuleType("__main__")
    # The interpreter does the rest as for every program: tracebacks, exit codes, threads that are waited for.
    exec(_code, vars(sys.modules["__main__"]))
