"""The words for `accelerate launch` that start processes on this machine, or the reason why it cannot run them.

On a machine without a GPU the processes are joined on its CPUs, which `accelerate launch --cpu --num_processes 2` does
not do: it starts one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Options of `accelerate launch` that are passed on as they are. `accelerate_config` is its `config_file`.
PASSED_ON = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")
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
            "`distributed_type`. Give a YAML of options for the command with --config."
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
