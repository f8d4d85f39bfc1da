"""`--shard auto`: the part of a pool that a job scores, read from the environment variables of its scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Variables for the number of a job and the number of all jobs, by scheduler. The first pair that is set is used.
# Of Slurm's variables for tasks, only srun sets SLURM_STEP_NUM_TASKS. A batch script also has SLURM_PROCID=0 and
# SLURM_NTASKS=n, although it is one process: it would score part 0, and nobody the other parts.
VARIABLES = {
    "a Slurm array": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    "SkyPilot": ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    "dstack": ("DSTACK_NODE_RANK", "DSTACK_NODES_NUM"),
    "AWS Batch": ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "a launcher": ("RANK", "WORLD_SIZE"),
}
AUTO = "auto"


def find_part(environment: Mapping[str, str]) -> tuple[int, int]:
    """Find which part of a pool this job scores.

    `RANK` and `WORLD_SIZE` are used only if they number whole jobs, as on Kubernetes. torchrun and accelerate also set
    `LOCAL_RANK`: their processes score one part together.

    Args:
        environment: variables of the environment.

    Returns:
        `(i, n)` for the i-th of n parts, i from 0.

    Raises:
        ValueError: if no scheduler has set its variables, or if they give no valid part.

    Example:
        >>> find_part({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"})
        (2, 4)
    """
    for name, (number, count) in VARIABLES.items():
        if number not in environment or (name == "a launcher" and "LOCAL_RANK" in environment):
            continue
        if name == "srun" and count not in environment:
            raise ValueError(
                "`shard=auto` cannot tell the parts of a Slurm job apart in its batch script, which is one process. "
                "Start the tasks with srun: `srun nuggets score --shard auto ...`. Or submit an array with `sbatch "
                "--array`. Or give the part as i/n."
            )
        if count not in environment:
            raise ValueError(
                f"`shard=auto` needs {number} and {count}, but {name} has only set {number}. Give the part as i/n."
            )
        part = _read_number(environment, number), _read_number(environment, count)
        if name == "a Slurm array":
            part = _place_in_array(environment), part[1]
        if not 0 <= part[0] < part[1]:
            raise ValueError(
                f"`shard=auto` needs part numbers from 0 to the number of parts - 1, but {name} has set "
                f"{number}={environment[number]} and {count}={environment[count]}. Give the part as i/n."
            )
        return part
    known = ", ".join(number for number, _ in VARIABLES.values())
    raise ValueError(
        f"`shard=auto` needs a variable that gives the part of this job, but none of {known} is set. Give the part as "
        "i/n, such as `--shard 0/4`."
    )


def _read_number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(
            f"`shard=auto` needs whole numbers, but the scheduler has set {name}={text!r}. Give the part as i/n."
        )
    return int(text)


def _place_in_array(environment: Mapping[str, str]) -> int:
    """Return the place of a task in its Slurm array, whose numbers may begin anywhere and have a step."""
    number = _read_number(environment, "SLURM_ARRAY_TASK_ID") - _read_number(environment, "SLURM_ARRAY_TASK_MIN", "0")
    step = max(1, _read_number(environment, "SLURM_ARRAY_TASK_STEP", "1"))
    return number // step if number % step == 0 else -1


def with_part(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Write the part into a command line that has `--shard auto`, because launched processes have other variables.

    Example:
        >>> with_part(["--shard", "auto", "--top_k", "5"], {"RANK": "1", "WORLD_SIZE": "4"})
        ['--shard', '1/4', '--top_k', '5']
    """
    written: list[str] = []
    for word in words:
        after_shard = bool(written) and written[-1] == "--shard"
        if (word == AUTO and after_shard) or word == f"--shard={AUTO}":
            number, count = find_part(environment)
            word = word.replace(AUTO, f"{number}/{count}")
        written.append(word)
    return written
