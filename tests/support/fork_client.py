"""Stand for a Python program: `python -IS fork_client.py FOLDER PROGRAM WORDS` runs it as a fork of the fork server.

FOLDER holds the server's socket and its environment. If the program's environment would have been read while the
libraries were loaded, and differs from the server's, the program is started in the ordinary way.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

# Beginnings of the names of variables that Python or the libraries read while they are loaded.
READ_WHILE_LOADED = ("HF_", "TRANSFORMERS_", "TRL_", "TOKENIZERS_", "DATASETS_", "PYTHON", "OMP_", "XDG_", "HOME")
LAUNCHERS = ("accelerate", "torchrun")
PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def loaded_alike(folder: str) -> bool:
    """Tell whether the libraries would be loaded as the server has loaded them."""
    environment = json.loads(Path(folder, "environment.json").read_text())
    found = [
        {name: value for name, value in each.items() if name.startswith(READ_WHILE_LOADED) and name != "PYTHONPATH"}
        for each in (environment, os.environ)
    ]
    return found[0] == found[1]


def main(folder: str, program: str, *words: str) -> int:
    """Run a program to its end; return its exit code."""
    path = Path(program)
    is_python = path.name.startswith("python")
    given = list(words) if is_python else [program, *words]
    first = given[1:2] if given[:1] == ["-u"] else given[:1]
    if not first or (first[0].startswith("-") and first[0] not in ("-m", "-c")) or not loaded_alike(folder):
        os.execv(program, [program, *words])
    # What a launcher starts is forked, too.
    python = str(Path(folder, "bin", "python") if path.name in LAUNCHERS else path.with_name("python"))
    job = {"words": given, "environment": dict(os.environ), "directory": str(Path.cwd()), "python": python}
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a job that they can be passed on to
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{folder}/socket")
    text = json.dumps(job).encode() + b"\n"
    sent = socket.send_fds(server, [text], [0, 1, 2])
    server.sendall(text[sent:])
    answers = server.makefile()
    child = int(answers.readline())
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int(answers.readline())
    if code < 0:  # ended by a signal
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
