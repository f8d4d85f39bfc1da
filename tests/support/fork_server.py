"""A process that has loaded the large libraries, and forks a child for each job: `python fork_server.py SOCKET`.

torch, transformers and TRL take about 5 seconds to load, and most jobs of the tests work less long. A forked job has
all else of its own: process id, exit code, words, environment, working directory and streams. It loads this package
itself, from where its environment says. tests/support/forked.py starts the server, fork_client.py asks it.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

STREAMS = 3


def load_libraries() -> dict[str, str]:
    """Load what the package imports, but not the package; return the environment variables that this has set."""
    before = set(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.distributed.run  # noqa: F401 (what `torchrun` runs)
        from accelerate.commands import launch  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401
        from trl import ModelConfig, SFTConfig, SFTTrainer  # noqa: F401
    return {name: value for name, value in os.environ.items() if name not in before}


class ForkServer:
    """Forks a child for each client, and tells the client how it ended.

    A client sends one line of JSON with its three streams. It gets the child's process id and then its exit code, each
    on a line. The child of a client that is gone is killed.

    Args:
        address: path of the socket.
    """

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(0, selectors.EVENT_READ)  # stdin, which ends with the tests
        self._children: dict[int, tuple[int, socket.socket]] = {}  # process id and client by pidfd

    def serve(self) -> dict[str, Any]:
        """Fork children until stdin ends. This returns in the children alone, each with its job."""
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # closed since, by an event before this one
                if key.fd == 0:
                    for child, _ in self._children.values():
                        os.kill(child, signal.SIGKILL)
                    os._exit(0)
                if key.fileobj is self._listener:
                    job = self._fork()
                    if job is not None:
                        return job
                elif key.fd in self._children:
                    self._reap(key.fd)
                else:  # a client is gone
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _fork(self) -> dict[str, Any] | None:
        client, _ = self._listener.accept()
        job, streams = _receive(client)
        if job is None:
            client.close()
            return None
        child = os.fork()
        if child == 0:
            self._leave(client)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            return job
        for stream in streams:
            os.close(stream)
        _answer(client, child)
        ended = os.pidfd_open(child)
        self._children[ended] = child, client
        self._selector.register(ended, selectors.EVENT_READ)
        self._selector.register(client, selectors.EVENT_READ, child)
        return None

    def _reap(self, ended: int) -> None:
        child, client = self._children.pop(ended)
        _, status = os.waitpid(child, 0)
        self._selector.unregister(ended)
        os.close(ended)
        if client.fileno() in self._selector.get_map():
            self._selector.unregister(client)
            _answer(client, os.waitstatus_to_exitcode(status))
        client.close()

    def _leave(self, client: socket.socket) -> None:
        """Close, in a child, what belongs to the server."""
        self._selector.close()
        self._listener.close()
        client.close()
        for ended, (_, other) in self._children.items():
            os.close(ended)
            other.close()


def _answer(client: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # it may be gone; its end is an event of its own
        client.sendall(f"{number}\n".encode())


def _receive(client: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Read a job and its streams; no job from a client that was killed before it had sent one."""
    streams = array.array("i")
    text, ancillary, _, _ = client.recvmsg(1 << 16, socket.CMSG_SPACE(STREAMS * streams.itemsize))
    for _, _, content in ancillary:
        streams.frombytes(content)
    while not text.endswith(b"\n"):
        more = client.recv(1 << 16)
        if not more:
            return None, []
        text += more
    return json.loads(text), list(streams)


def run_job(job: dict[str, Any], set_by_libraries: dict[str, str], library_path: list[str]) -> None:
    """Do what `python WORDS` does in a new process: this one ends as that one would."""
    os.setsid()
    os.chdir(job["directory"])
    os.environ.clear()
    os.environ.update({**set_by_libraries, **job["environment"]})
    random.seed()  # a new process draws its seeds
    sys.modules["numpy"].random.seed()
    sys.executable = job["python"]
    words = job["words"]
    if words[0] == "-u":
        words = words[1:]
        sys.stdout.reconfigure(write_through=True)
    first, *others = words
    folder = {"-m": job["directory"], "-c": ""}.get(first, str(Path(first).resolve().parent))
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *filter(None, given), *library_path]
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    set_by_libraries = load_libraries()
    server = ForkServer(sys.argv[1])
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    run_job(server.serve(), set_by_libraries, sys.path[1:])
