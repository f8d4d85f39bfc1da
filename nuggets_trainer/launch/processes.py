"""`--num_processes` and `--accelerate_config`: start a command again through accelerate's launcher.

The options have the names of TRL's command line. On a machine without a GPU the processes are joined on its CPUs,
which `accelerate launch --cpu --num_processes 2` does not do: it starts one process.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMANDS_LAUNCHED = ("plan", "score", "train", "compare", "evaluate")
# Options of `accelerate launch` that are passed on as they are. `accelerate_config` is its `config_file`.
PASSED_ON = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")
LAUNCH_OPTIONS = ("accelerate_config", *PASSED_ON)
HELP = """several processes (plan, score, train, compare, evaluate generate):
  --num_processes N          start N processes on the GPUs of this machine, or on its CPUs if it has no GPU
  --accelerate_config NAME   a config of accelerate: ddp, fsdp2, zero2, zero3, single_gpu, cpu, or a file
  --num_machines, --machine_rank, --main_process_ip, --main_process_port, --gpu_ids: as for `accelerate launch`"""
NO_GPU = "no GPU was found on this machine"


@dataclass(frozen=True)
class Device:
    """What a machine can run processes on.

    Attributes:
        num_gpus: number of accelerators; 0 without any.
        num_cores: number of processors that the job may use.
    """

    num_gpus: int
    num_cores: int


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


def find_device() -> Device:
    """Count the accelerators, and the processors that this process may use."""
    import torch

    num_gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return Device(num_gpus, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)


def launcher_words(
    given: Mapping[str, str], device: Device, find_config: Callable[[str], Path]
) -> tuple[list[str], dict[str, str]]:
    """Choose the words for `accelerate launch`, and variables of the environment.

    Args:
        given: options of the launcher.
        device: what the machine has.
        find_config: function that finds a config of accelerate by its name or path.

    Raises:
        FileNotFoundError: if there is no such config.
        ValueError: if the machine cannot run this; the error says which options to give.
    """
    num_processes = _read_number(given)
    words: list[str] = []
    kind = None
    if "accelerate_config" in given:
        path = _find_config(given["accelerate_config"], find_config)
        words += ["--config_file", str(path)]
        config = _read_config(path)
        kind = str(config["distributed_type"])
        _check_machines({**config, **given})
        _check_device(path.stem, config, given, device)
    else:
        _check_number_of_gpus(num_processes, given, device)
        config = _read_default_config()
        if not config:
            _check_machines(given)
            words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
            if "num_machines" not in given:
                words += ["--num_machines", "1"]
    for name in PASSED_ON:
        if name in given:
            words += [f"--{name}", given[name]]
    machines = {**config, **given}
    if int(machines.get("num_machines") or 1) == 1 and machines.get("main_process_port") is None:
        words += ["--main_process_port", "0"]  # a free port, so that two jobs on one machine do not collide
    variables: dict[str, str] = {}
    if not device.num_gpus:
        variables["ACCELERATE_USE_CPU"] = "true"
        several = (num_processes or 1) > 1 or "num_machines" in given
        if several and kind != "MULTI_GPU":
            words.append("--multi_gpu")  # the launcher of several processes, whatever their device
        if "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, device.num_cores // (num_processes or 1))
            words += ["--num_cpu_threads_per_process", str(threads)]
    return words, variables


def _read_number(given: Mapping[str, str]) -> int | None:
    text = given.get("num_processes")
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"`num_processes` must be a whole number of at least 1, got {text!r}.")
    return int(text)


def _find_config(name: str, find_config: Callable[[str], Path]) -> Path:
    """Find a config of accelerate: a file, or one that ships with the package, with or without its folder."""
    if Path(name).is_file():
        return Path(name)
    try:
        return find_config(f"accelerate/{name.removeprefix('configs/').removeprefix('accelerate/')}")
    except FileNotFoundError:
        raise FileNotFoundError(
            "`accelerate_config` must be a file or the name of a config that ships with the package, got "
            f"{name!r}. `nuggets configs` lists them below accelerate/."
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    """Read a config of accelerate; refuse a file that is none."""
    import yaml

    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "distributed_type" not in config:
        raise ValueError(
            f"`accelerate_config` must name a config of `accelerate config`, got {path}, which has no key "
            "`distributed_type`. A YAML of options for the command is given by --config."
        )
    return config


def _check_device(name: str, config: Mapping[str, Any], given: Mapping[str, str], device: Device) -> None:
    """Refuse a config of accelerate where the machine has no GPU for it, or fewer than it starts processes."""
    number = int(given.get("num_processes") or config.get("num_processes") or 1)
    if config.get("use_cpu"):
        return
    if device.num_gpus:
        if int(config.get("num_machines") or 1) == 1:
            _check_number_of_gpus(number, given, device)
        return
    if config["distributed_type"] in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(
            f"{name} spreads the weights over GPUs, but {NO_GPU}. On CPUs give --num_processes N alone: each process "
            "then holds the whole model."
        )
    if "num_processes" not in given and number > 1:
        raise ValueError(
            f"{name} starts {number} processes on GPUs, but {NO_GPU}. Give --num_processes N to start N on its CPUs."
        )


def _check_number_of_gpus(number: int | None, given: Mapping[str, str], device: Device) -> None:
    """Refuse more processes than the machine has GPUs, unless there are further machines."""
    if number is not None and 0 < device.num_gpus < number and "num_machines" not in given:
        raise ValueError(
            f"`num_processes` must be at most {device.num_gpus}, the number of GPUs of this machine, got {number}. "
            f"Give --num_processes {device.num_gpus}."
        )


def _check_machines(given: Mapping[str, Any]) -> None:
    """Refuse several machines that could not find each other; accelerate would fail without saying what is missing."""
    for name in ("num_machines", "machine_rank", "main_process_port"):
        if given.get(name) is not None and not str(given[name]).isdigit():
            raise ValueError(f"`{name}` must be a whole number, got {given[name]!r}.")
    number = int(given.get("num_machines") or 1)
    missing = [f"--{name}" for name in ("machine_rank", "main_process_ip") if given.get(name) is None]
    if number > 1 and missing:
        raise ValueError(
            f"`num_machines={number}` needs {' and '.join(missing)}: the number of this machine, from 0 on, and the "
            "address of machine 0. Give the same --main_process_port on all of them."
        )


def _read_default_config() -> dict[str, Any]:
    """Read what the user has told `accelerate config`; empty if nothing. It may be YAML or JSON."""
    import yaml
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return config if isinstance(config, dict) else {}


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
