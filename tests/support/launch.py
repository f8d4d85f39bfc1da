"""Start real jobs from tests: the launcher, the recipe and the process are those of a user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.forked import forked

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"  # real data and models; tests that use them skip without
BIN = Path(sys.executable).parent
ONE_PROCESS = [
    str(BIN / "accelerate"),
    "launch",
    *("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]
# `accelerate launch --cpu --num_processes 2` wants MPI; torchrun is what it calls for GPUs.
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node"]


def at_pace(seconds: float, candidates: int = 1000, calls: int = 0) -> list[str]:
    """Words before a script that let its store write parts at another pace, and wait after some calls."""
    return ["tests/support/at_pace.py", str(seconds), str(candidates), str(calls)]


def environment(**variables: str) -> dict[str, str]:
    """Environment of a launched job: offline, one thread for each process."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": str(ROOT), **variables}


def start(command: list[str], cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(
    command: list[str],
    timeout: float = 500,
    cwd: Path = ROOT,
    context: str = "",
    fresh: bool = False,
    **variables: str,
) -> str:
    """Run a command and return its output; if it fails, show `context` and the output.

    Args:
        command: program and its words. Python programs are forked from a process that has loaded the libraries.
        timeout: seconds after which the test fails.
        cwd: working directory.
        context: text that is shown before the output of a command that fails.
        fresh: whether the job must load the libraries itself.
        **variables: variables added to the environment.
    """
    process = start(command if fresh else forked(command), cwd, **variables)
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"{context}\n{output[-6000:]}"
    return output
