"""`--num_processes` and `--accelerate_config`: start a command again through accelerate's launcher.

The options have the names of TRL's command line. The words for the launcher are made in `accelerate_words`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nuggets_trainer.launch.accelerate_words import PASSED_ON

COMMANDS_LAUNCHED = ("plan", "score", "train", "compare", "evaluate")
LAUNCH_OPTIONS = ("accelerate_config", *PASSED_ON)
HELP = """several processes (plan, score, train, compare, evaluate generate):
  --num_processes N          start N processes on the GPUs of this machine, or on its CPUs if it has no GPU
  --accelerate_config NAME   a config of accelerate: ddp, fsdp2, zero2, zero3, single_gpu, cpu, or a file
  --num_machines, --machine_rank, --main_process_ip, --main_process_port, --gpu_ids: as for `accelerate launch`"""


def split_launch(argv: Sequence[str], file: Mapping[str, Any] | None = None) -> tuple[dict[str, str], list[str]]:
    """Take the options of the launcher out of a command line.

    Args:
        argv: command line, without the program's and the command's name.
        file: content of the config file, which may have these options as keys; the command line overrides it.

    Returns:
        The options of the launcher by name, and all other words.

    Example:
        >>> split_launch(["--num-processes", "2", "--top_k", "5"], {"accelerate_config": "ddp"})
        ({'accelerate_config': 'ddp', 'num_processes': '2'}, ['--top_k', '5'])
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in LAUNCH_OPTIONS:
        finder.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    try:
        found, rest = finder.parse_known_args(list(argv))
    except argparse.ArgumentError as error:  # an option without a value
        raise ValueError(str(error)) from error
    given: dict[str, str] = {}
    for name in LAUNCH_OPTIONS:
        value = getattr(found, name)
        if value is None and file is not None:
            value = file.get(name)
        if value is not None:
            given[name] = str(value)
    return given, rest


def can_be_launched(command: str, words: Sequence[str]) -> bool:
    """Return whether a command may run on several processes; each process of `evaluate judge` would pay for judgments.

    Args:
        command: name of the command.
        words: its command line, without the launcher's options.

    Example:
        >>> can_be_launched("evaluate", ["generate"]), can_be_launched("evaluate", ["judge"])
        (True, False)
    """
    return command in COMMANDS_LAUNCHED and (command != "evaluate" or list(words[:1]) == ["generate"])


def is_launched() -> bool:
    """Whether a launcher (accelerate, torchrun) has started this process."""
    return "LOCAL_RANK" in os.environ


def check_one_process(command: str, words: Sequence[str]) -> None:
    """Check that a command of one process was not started on several, each of which would do the whole work.

    Args:
        command: name of the command.
        words: its command line.

    Raises:
        ValueError: if a launcher has started several processes.
    """
    number = int(os.environ.get("WORLD_SIZE", "1")) if is_launched() else 1
    if number == 1 or can_be_launched(command, words):
        return
    step = f" {words[0]}" if command == "evaluate" and words else ""
    paid = " and pay for all judgments" if step in (" judge", " pairwise") else ""
    raise ValueError(
        f"`nuggets {command}{step}` runs in one process, but a launcher has started {number}: each would do the whole "
        f"work{paid}. Start it without the launcher."
    )


def launch(command: str, words: Sequence[str], launcher: Sequence[str], variables: Mapping[str, str]) -> int:
    """Start a command through accelerate's launcher, and wait for its end.

    Args:
        command: name of the command.
        words: its command line.
        launcher: words for `accelerate launch`.
        variables: variables of the environment.

    Returns:
        The exit code of the first process that failed; 0 if none did.
    """
    import subprocess

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.update(variables)
    # Each process prints its own error; torch would add another page.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    started = launch_command_parser().parse_args([*launcher, "--module", "nuggets_trainer.cli", command, *words])
    try:
        launch_command(started)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _code_of(failure.exitcode, f"process {rank}", command)
    except subprocess.CalledProcessError as error:
        return _code_of(error.returncode, "the process", command)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _code_of(code: int, process: str, command: str) -> int:
    """Return the exit code of a failed process; print the signal that ended it, because it could not do so itself."""
    if code >= 0:
        return code
    import signal

    name = signal.Signals(-code).name
    hint = " The machine may have run out of memory." if name == "SIGKILL" else ""
    print(f"nuggets {command}: {process} was ended by {name}.{hint}", file=sys.stderr)
    return 128 - code
