"""`--num_processes` and `--accelerate_config`: what is passed on to accelerate's launcher, and two real processes."""

from __future__ import annotations

import re
import subprocess

import pytest
from accelerate.commands.launch import launch_command_parser

from nuggets_trainer.cli import _launched, main
from nuggets_trainer.commands import evaluate
from nuggets_trainer.commands.arguments import ScorerArguments
from nuggets_trainer.commands.config_file import config_path
from nuggets_trainer.commands.inputs import with_score_dir
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.launch.accelerate_words import Device, launcher_words
from nuggets_trainer.launch.processes import LAUNCH_OPTIONS, can_be_launched, split_launch
from tests.support.launch import BIN, environment

CPUS, GPUS = Device(num_gpus=0, num_cores=8), Device(num_gpus=4, num_cores=8)


@pytest.fixture(autouse=True)
def no_threads_given(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def chosen(device: Device, **given: str):
    """What accelerate's own parser reads from the words that are chosen for it, and the variables."""
    words, variables = launcher_words(given, device, config_path)
    return launch_command_parser().parse_args([*words, "--module", "script"]), variables


def test_several_processes_share_the_cpus_without_a_gpu():
    """`accelerate launch --cpu --num_processes 2` starts one process."""
    read, variables = chosen(CPUS, num_processes="2")
    assert (read.num_processes, read.multi_gpu, read.cpu) == (2, True, False)
    assert read.num_cpu_threads_per_process == 4 and variables == {"ACCELERATE_USE_CPU": "true"}


def test_on_gpus_accelerate_decides_alone():
    read, variables = chosen(GPUS, num_processes="2")
    assert (read.num_processes, read.multi_gpu, read.num_cpu_threads_per_process) == (2, False, None)
    assert variables == {}


@pytest.mark.parametrize("name", ["fsdp2", "accelerate/fsdp2", "configs/accelerate/fsdp2.yaml"])
def test_a_config_is_found_by_its_name_or_its_file(name):
    read, _ = chosen(GPUS, accelerate_config=name, num_processes="4")
    assert read.config_file.endswith("configs/accelerate/fsdp2.yaml") and read.num_processes == 4


def test_several_machines_may_start_more_processes_than_one_has_gpus():
    address = {"machine_rank": "1", "main_process_ip": "10.0.0.1", "main_process_port": "29500"}
    read, _ = chosen(GPUS, num_machines="2", num_processes="8", **address)
    assert (read.num_machines, read.machine_rank, read.main_process_ip) == (2, 1, "10.0.0.1")
    read, _ = chosen(GPUS, accelerate_config="ddp_multi_node", num_processes="16", **address)
    assert read.num_processes == 16


def test_a_config_of_several_machines_keeps_its_port(tmp_path):
    """`--main_process_port 0` replaced it, so that each machine waited at a port of its own."""
    config = tmp_path / "two.yaml"
    config.write_text(
        "distributed_type: MULTI_GPU\nnum_machines: 2\nmachine_rank: 1\nnum_processes: 8\n"
        "main_process_ip: 10.0.0.1\nmain_process_port: 29511\n"
    )
    assert chosen(GPUS, accelerate_config=str(config))[0].main_process_port is None  # accelerate takes the file's
    assert chosen(GPUS, accelerate_config="ddp", num_processes="2")[0].main_process_port == 0


@pytest.mark.parametrize(
    ("device", "given", "message"),
    [
        (GPUS, {"num_processes": "5"}, "`num_processes` must be at most 4, the number of GPUs"),
        (CPUS, {"num_processes": "0"}, "`num_processes` must be a whole number of at least 1, got '0'"),
        (CPUS, {"accelerate_config": "fsdp2"}, "fsdp2 spreads the weights over GPUs, but no GPU .* give --num_proc"),
        (CPUS, {"accelerate_config": "ddp"}, "ddp starts 8 processes on GPUs, but no GPU .* Give --num_processes N"),
        (GPUS, {"accelerate_config": "ddp"}, "must be at most 4, .* got 8. Give --num_processes 4"),
        (GPUS, {"accelerate_config": "fsdp2", "num_processes": "5"}, "must be at most 4, .* got 5"),
        (GPUS, {"num_machines": "2", "num_processes": "8"}, "`num_machines=2` needs --machine_rank and --main_proc"),
        (CPUS, {"num_processes": "2", "machine_rank": "x"}, "`machine_rank` must be a whole number, got 'x'"),
        (CPUS, {"accelerate_config": "no_such"}, "must be a file or the name .* got 'no_such'"),
        (CPUS, {"accelerate_config": str(config_path("demo"))}, "has no key `distributed_type`"),
    ],
)
def test_what_a_machine_cannot_start_is_one_message(device, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        launcher_words(given, device, config_path)


def test_the_config_file_may_have_the_launchers_keys(tmp_path):
    given, rest = split_launch(["--config", "my.yaml", "--num-processes=3"], {"num_processes": 2, "gpu_ids": "0,1,2"})
    assert given == {"num_processes": "3", "gpu_ids": "0,1,2"} and rest == ["--config", "my.yaml"]
    assert set(given) <= set(LAUNCH_OPTIONS)


def test_commands_of_one_process_refuse_the_launchers_options(capsys, monkeypatch):
    assert main(["select", "s", "--num_processes", "2"]) == 2
    assert "`nuggets select` does not take --num_processes: it runs in one process" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["score", "--num_processes", "2"]) == 2
    assert "a launcher has started the processes already" in capsys.readouterr().err


def test_judgments_are_not_paid_once_for_each_process(capsys, tmp_path):
    """`evaluate` was launched at any step, also by the config file of all steps, and each process asked the judge."""
    config = tmp_path / "all.yaml"
    config.write_text("num_processes: 2\n")
    assert main(["evaluate", "judge", "--num_processes", "2", "--names", "a"]) == 2
    assert "`nuggets evaluate judge` does not take --num_processes" in capsys.readouterr().err
    assert _launched("evaluate", ["judge", "--config", str(config)], False)[0] is None
    assert can_be_launched("evaluate", ["generate"]) and can_be_launched("score", [])


@pytest.mark.parametrize(
    "words", [["evaluate", "judge", "--names", "a"], ["evaluate", "pairwise"], ["select", "s"], ["report", "s"]]
)
def test_a_command_of_one_process_refuses_several(words, capsys, monkeypatch):
    """`accelerate launch --num_processes 2 -m nuggets_trainer.cli evaluate judge` sent each request twice."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 2
    assert "runs in one process, but a launcher has started 2: each" in capsys.readouterr().err


def test_the_recipe_of_the_evaluation_refuses_several_processes_too(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"each would do the whole work and pay for all judgments\. Start it without"):
        evaluate.parse(["judge", "--names", "a"])
    assert evaluate.parse(["generate", "--model_name_or_path", "m", "--name", "a"])[0] == "generate"


@pytest.mark.parametrize("end", ["json", "tsv", "csv.gz", "jsonl.zst", "parquet", "jsonl.bz2"])
def test_the_default_place_has_no_end_of_a_file_s_name(end, capsys):
    rows = PoolArguments(f"rows/v1.2.{end}")
    assert with_score_dir(rows, ScorerArguments("M"), NuggetsConfig(), []).score_dir == "scores-v1.2-M"


def test_scores_have_a_default_place(capsys, tmp_path):
    rows, scorer = PoolArguments("rows/my pool.jsonl"), ScorerArguments("Qwen/Qwen3-0.6B-Base")
    config = with_score_dir(rows, scorer, NuggetsConfig(), [])
    assert config.score_dir == "scores-my_pool-Qwen3-0.6B-Base"
    assert f"scores go to {config.score_dir}" in capsys.readouterr().err
    (tmp_path / "my.yaml").write_text("output_dir: out/\n")
    assert with_score_dir(rows, scorer, NuggetsConfig(), ["--config", str(tmp_path / "my.yaml")]).score_dir == (
        "out/nuggets"  # where `nuggets train` has them
    )
    assert with_score_dir(rows, scorer, NuggetsConfig(score_dir="mine"), []).score_dir == "mine"


@pytest.mark.slow
def test_two_processes_on_the_cpu_write_the_same_scores(tmp_path):
    """And their exit code is that of the process which failed, with one message."""
    words = ["--model_name_or_path", "nuggets-demo/model", "--dataset_name", "nuggets-demo/pool", "--pool_size", "60"]
    words += ["--anchors", "nuggets-demo/anchors", "--schedule", "exact"]

    def nuggets(*more: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "nuggets"), "score", *words, *more]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=500, cwd=tmp_path, env=environment()
        )

    assert nuggets("--score_dir", "one").returncode == 0
    two = nuggets("--score_dir", "two", "--num_processes", "2", "--json")
    assert two.returncode == 0 and two.stdout.startswith("{") and len(two.stdout.splitlines()) == 1
    assert '"processes": 2' in (tmp_path / "two/run.json").read_text()
    assert (tmp_path / "one/scores.parquet").read_bytes() == (tmp_path / "two/scores.parquet").read_bytes()
    wrong = nuggets("--num_processes", "2", "--top_frction", "0.1")
    assert wrong.returncode == 2 and len(re.findall("Did you mean --top_fraction", wrong.stderr)) == 1
    assert "Traceback" not in wrong.stderr and "ChildFailedError" not in wrong.stderr
