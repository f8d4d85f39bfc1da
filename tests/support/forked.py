"""Programs that start at once: the fork server of this process of the tests, and stand-ins for the Python programs."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUPPORT = Path(__file__).parent
PROGRAMS = ("python", "nuggets", "accelerate", "torchrun")
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
    """Start the server, which ends with this process; return the folder of the stand-ins, None where it cannot run."""
    if not hasattr(os, "pidfd_open"):  # Linux alone
        return None
    folder = Path(tempfile.mkdtemp(prefix="nuggets-forks-"))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fork_server.py"), str(folder / "socket")],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_end, server, folder)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    programs = folder / "bin"
    programs.mkdir()
    client = f"exec {sys.executable} -IS {SUPPORT}/fork_client.py {folder}"
    for name in PROGRAMS:
        (programs / name).write_text(f'#!/bin/sh\n{client} {Path(sys.executable).parent}/{name} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    server.communicate()  # closes its stdin
    shutil.rmtree(folder, ignore_errors=True)
