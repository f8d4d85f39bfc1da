"""Programs that start at once: the fork server of this process of the tests, and stand-ins for the Python programs."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SUPPORT = Path(__file__).parent
PROGRAMS = ("python", "nuggets", "accelerate", "torchrun")
LONGEST_ADDRESS = 100  # characters in the path of a socket; Linux takes 107
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def forked(command: list[str]) -> list[str]:
    """Return a command with the stand-in for its program, if it is a Python program of this environment."""
    program, folder = Path(command[0]), stand_ins()
    name = "python" if program.name.startswith("python") else program.name
    if folder is None or name not in PROGRAMS or program.parent != Path(sys.executable).parent:
        return command
    return [str(folder / name), *command[1:]]


@functools.cache
def stand_ins() -> Path | None:
    """Start the server, which ends with this process; return the folder of the stand-ins, or None if it cannot run."""
    folder = Path(tempfile.mkdtemp(prefix="forks-", dir=os.environ.get("NUGGETS_TESTS_HOME")))
    address = str(folder / "socket")
    if not hasattr(os, "pidfd_open") or len(address) > LONGEST_ADDRESS:  # not on Linux, or in too deep a folder
        return None
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fork_server.py"), address],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(server.communicate)  # closes its stdin, which ends it
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        program = str(Path(sys.executable).with_name(name))
        client = shlex.join([sys.executable, "-IS", str(SUPPORT / "fork_client.py"), str(folder), program])
        (programs / name).write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        (programs / name).chmod(0o755)
    return programs
