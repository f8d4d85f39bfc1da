"""`--shard auto`, and the files for schedulers, images and `uv run`: each is read by its schema or its own tool."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
import yaml

from nuggets_trainer.commands import score
from nuggets_trainer.launch.parts import find_part, with_part
from tests.support import documented
from tests.support.command_line import DEMO
from tests.support.launch import ROOT

CLUSTER = ROOT / "configs" / "cluster"
SCRIPTS = ("train", "compare", "control", "demo", "evaluate", "follows")
GIVEN = {"MODEL": "m", "POOL": "p", "ANCHORS": "a.jsonl", "SCORE_DIR": "s"}
SKYPILOT_KEYS = {"name", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
DSTACK_KEYS = {"type", "name", "nodes", "python", "env", "commands", "resources", "spot_policy"}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "64"}, (3, 64)),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, None),
        (
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_COUNT": "5",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (4, 5),
        ),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "4"}, (1, 4)),
        ({"DSTACK_NODE_RANK": "0", "DSTACK_NODES_NUM": "2"}, (0, 2)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "7", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}, (7, 8)),
        (
            {
                "SLURM_PROCID": "2",
                "SLURM_STEP_NUM_TASKS": "3",
                "SLURM_ARRAY_TASK_ID": "0",
                "SLURM_ARRAY_TASK_COUNT": "9",
            },
            (0, 9),
        ),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "4"}, (2, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, None),  # the batch script itself: it scored part 0 of 3
        ({"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "4"}, None),
        ({"RANK": "1", "WORLD_SIZE": ""}, None),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, None),  # processes that score one part together
        ({"SKYPILOT_NODE_RANK": "1"}, None),
        ({}, None),
    ],
)
def test_a_scheduler_says_which_part_a_job_is(environment, part):
    if part is not None:
        assert find_part(environment) == part
        assert with_part(["--shard=auto"], environment) == [f"--shard={part[0]}/{part[1]}"]
        return
    with pytest.raises(ValueError, match=r"`shard=auto`.*[Gg]ive the part as\s+i/n"):
        find_part(environment)


def test_score_takes_auto_from_the_command_line_and_from_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {**os.environ, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "5"})
    words = [*DEMO, "--dataset_name", "nuggets-demo/pool", "--score_dir", "s"]
    assert score.parse([*words, "--shard", "auto"])[3].shard == "3/5"
    (tmp_path / "my.yaml").write_text("shard: auto\n")
    assert score.parse([*words, "--config", str(tmp_path / "my.yaml")])[3].shard == "3/5"


def commands_of(script: str) -> list[str]:
    """The `nuggets` commands of a shell script, which bash can read."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    joined = script.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r"\s*(srun .*)?nuggets ", line)]


def parse(command: str) -> dict[str, object]:
    """What `nuggets` reads from a command of a script."""
    for name, value in GIVEN.items():
        command = command.replace(f'"${name}"', value)
    words = re.sub(r"^srun( --\S+)* ", "", command).replace("--shard auto", "--shard 0/4")
    (block,) = documented.commands_of(documented.Block(ROOT / "README.md", 1, "bash", words))
    ((program, (rows, _, _, part, _, config)),) = documented.parse(block)
    assert program == "nuggets score" and rows.dataset_name and config.anchors and config.score_dir
    return {"shard": part.shard, "told": shlex.split(command)}


def scripts_of(name: str) -> str:
    """The shell commands of a file in configs/cluster."""
    text = (CLUSTER / name).read_text()
    if name.endswith(".sbatch"):
        assert text.startswith("#!/bin/bash\n") and re.search(r"^#SBATCH --requeue$", text, re.MULTILINE)
        return text
    content = yaml.safe_load(text)
    if name == "skypilot.yaml":
        assert set(content) == SKYPILOT_KEYS
        return f"{content['setup']}\n{content['run']}"
    assert set(content) == DSTACK_KEYS and content["type"] == "task"
    return "\n".join(content["commands"])


@pytest.mark.parametrize("name", sorted(path.name for path in CLUSTER.iterdir()))
def test_the_files_for_schedulers_hold_valid_commands(name):
    found = [parse(command) for command in commands_of(scripts_of(name))]
    assert found
    shards = [each["shard"] for each in found]
    if name == "slurm_last.sbatch":
        assert shards == [None]
    else:  # a part first, and the results at the end, from the first node
        assert shards == ["0/4", None][: len(shards)] and "auto" in found[0]["told"]


def test_skypilot_reads_its_file():
    sky = pytest.importorskip("sky", reason="needs `pip install skypilot`")
    task = sky.Task.from_yaml_config(yaml.safe_load((CLUSTER / "skypilot.yaml").read_text()) | {"file_mounts": {}})
    assert task.num_nodes == 4


def test_dstack_reads_its_file():
    configurations = pytest.importorskip(
        "dstack._internal.core.models.configurations", reason="needs `pip install dstack`"
    )
    read = configurations.parse_run_configuration(yaml.safe_load((CLUSTER / "dstack.yaml").read_text()))
    assert read.nodes == 4


@pytest.mark.parametrize("name", SCRIPTS)
def test_uv_can_start_the_recipes(name):
    """The header is that of PEP 723: the regular expression is the one that the PEP gives."""
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    (found,) = re.finditer(pattern, text)
    content = "".join(line[2:] for line in found["content"].splitlines(keepends=True))
    assert found["type"] == "script" and 'requires-python = ">=3.10"' in content
    assert re.search(r'^dependencies = \["nuggets_trainer(\[eval\])?"\]$', content, re.MULTILINE)


def test_the_image_is_made_from_the_wheel():
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines] == [
        *("ARG", "FROM", "ARG", "RUN", "COPY", "RUN", "ENV", "WORKDIR", "ENTRYPOINT", "CMD"),
    ]
    assert "FROM ${BASE}" in lines and "COPY dist/*.whl /tmp/wheel/" in lines and 'ENTRYPOINT ["nuggets"]' in lines
    assert "!dist/*.whl" in (ROOT / ".dockerignore").read_text()
    extras = re.search(r"^ARG EXTRAS=(\S+)$", "\n".join(lines), re.MULTILINE)
    table = (ROOT / "pyproject.toml").read_text()
    assert extras and all(f"\n{extra} = [" in table for extra in extras[1].split(","))
