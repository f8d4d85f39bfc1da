"""Jobs beyond one process: FSDP2 and DeepSpeed models, shards of a pool, SIGTERM, accelerate's configs.

FSDP2 runs on the CPU through tests/support/sharded_on_cpu.py, which says what it patches. DeepSpeed needs its package.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys

import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from safetensors.torch import load_file

from nuggets_trainer import load_rows
from nuggets_trainer.cli import main
from nuggets_trainer.commands.score import parse_shard
from tests.support.launch import BIN, ROOT, TORCHRUN, at_pace, run, start

CPU = {"ACCELERATE_USE_CPU": "true"}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
DEEPSPEED = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_GRADIENT_CLIPPING": "1.0",
    "DS_ACCELERATOR": "cpu",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Eighty candidates and eight anchors of the demo."""
    path = tmp_path_factory.mktemp("rows")
    load_rows("nuggets-demo/pool").select(range(80)).to_json(path / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(8)).to_json(path / "anchors.jsonl")
    return path


def options(rows, **more) -> list[str]:
    given = {
        "model_name_or_path": "nuggets-demo/model",
        "dataset_name": str(rows / "pool.jsonl"),
        "anchors": str(rows / "anchors.jsonl"),
        "top_k": "20",
        **more,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def train(rows, output_dir, launcher, *flags, variables, **more):
    command = [*launcher, "recipes/train.py", *options(rows, output_dir=output_dir, max_steps=3, **more)]
    training = ["--bf16", "false", "--report_to", "none", "--logging_steps", "1", "--learning_rate", "1e-3", *flags]
    # tests/support/sharded_on_cpu.py changes a library while it is loaded.
    run([*command, *training], fresh="tests/support/sharded_on_cpu.py" in launcher, **variables)
    golden_set = json.loads((output_dir / "nuggets_selection.json").read_text())
    log = json.loads((output_dir / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    return golden_set["indices"], [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("flags", [pytest.param((), marks=pytest.mark.slow), ("--use_peft",)], ids=["full", "lora"])
def test_a_sharded_model_scores_as_a_whole_one(flags, rows, tmp_path):
    """Scores byte for byte; golden set, losses and saved weights those of DDP."""
    two = [*TORCHRUN, "2"]
    sharded_launcher = [*two, "tests/support/sharded_on_cpu.py"]
    cpu = {"ACCELERATE_USE_CPU": "true"}
    whole = train(rows, tmp_path / "ddp", two, "--use_cpu", *flags, variables=cpu)
    sharded = train(rows, tmp_path / "fsdp", sharded_launcher, "--use_cpu", *flags, variables={**cpu, **FSDP})
    assert sharded[0] == whole[0]
    assert sharded[1] == pytest.approx(whole[1], abs=1e-4)
    scores = [(tmp_path / name / "nuggets" / "scores.parquet").read_bytes() for name in ("ddp", "fsdp")]
    assert scores[0] == scores[1]
    name = "adapter_model.safetensors" if flags else "model.safetensors"
    saved, saved_sharded = (load_file(tmp_path / job / name) for job in ("ddp", "fsdp"))
    assert saved.keys() == saved_sharded.keys() - {"lm_head.weight"}  # tied to the embeddings; FSDP saves both
    for key, tensor in saved.items():
        assert (tensor - saved_sharded[key]).abs().max() < 1e-4, key


@pytest.mark.slow
def test_reselection_goes_on_under_fsdp(rows, tmp_path):
    cpu = {"ACCELERATE_USE_CPU": "true"}
    found = []
    for name, launcher, variables in (
        ("ddp", [*TORCHRUN, "2"], cpu),
        ("fsdp", [*TORCHRUN, "2", "tests/support/sharded_on_cpu.py"], {**cpu, **FSDP}),
    ):
        more = {"reselect": "steps", "reselect_steps": 1}
        found.append(train(rows, tmp_path / name, launcher, "--use_cpu", "--use_peft", variables=variables, **more))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize("stage", ["2", "3"])
@pytest.mark.parametrize("flags", [(), ("--use_peft",)], ids=["full", "lora"])
def test_deepspeed_scores_as_a_whole_model(flags, stage, rows, tmp_path):
    two = [*TORCHRUN, "2"]
    whole = train(rows, tmp_path / "ddp", two, "--use_cpu", *flags, variables={"ACCELERATE_USE_CPU": "true"})
    variables = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage}
    sharded = train(rows, tmp_path / "zero", [*two, "tests/support/sharded_on_cpu.py"], *flags, variables=variables)
    assert sharded[0] == whole[0]
    assert sharded[1] == pytest.approx(whole[1], abs=1e-4)


@pytest.mark.slow
def test_a_threshold_is_refused_where_steps_are_planned_first(rows, tmp_path):
    command = [*TORCHRUN, "1", "tests/support/sharded_on_cpu.py", "recipes/train.py", "--use_cpu", "--bf16", "false"]
    given = options(rows, output_dir=tmp_path, threshold=0.5)
    given[given.index("--top_k") : given.index("--top_k") + 2] = []
    process = start([*command, *given], ACCELERATE_USE_CPU="true", **FSDP)
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "`threshold=0.5` leaves open how many rows are kept" in output


def test_shards_fill_one_store_and_a_last_job_writes_the_result(rows, tmp_path, capsys):
    def score(name: str, *flags: str) -> str:
        assert main(["score", *options(rows, score_dir=tmp_path / name), *flags]) == 0
        return capsys.readouterr().out

    score("whole", "--schedule", "exact")
    for number in (2, 0):  # one of three is missing
        pairs = 27 * 8 if number == 0 else 26 * 8
        assert f"shard {number}/3: {pairs} pairs scored into" in score("shared", "--shard", f"{number}/3")
    assert not (tmp_path / "shared" / "scores.parquet").exists()
    assert f"({27 * 8} pairs computed by this run)" in score("shared", "--schedule", "exact")
    for name in ("scores.parquet", "pairs.parquet", "anchors.parquet"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_more_ranks_than_candidates_score_as_one(schedule, rows, tmp_path):
    """Of two ranks of three, one has a row that cannot be rendered and one has none."""
    few = load_rows("nuggets-demo/pool").select([0, 1]).to_list()
    Dataset.from_list([*few, {**few[0], "output": "long " * 600}]).to_json(tmp_path / "few.jsonl")
    given = options(rows, schedule=schedule, top_k=1, dataset_name=tmp_path / "few.jsonl")
    for name, launcher in (("one", []), ("three", [*TORCHRUN, "3"])):
        output = run([*launcher, str(BIN / "nuggets"), "score", *given, "--score_dir", str(tmp_path / name)], **CPU)
        assert "golden set: 1 of 2 candidates" in output and "dropped 1 (too_long 1)" in output
    for name in ("scores.parquet", "pairs.parquet", "anchors.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


@pytest.mark.parametrize("text", ["3/3", "1", "-1/3", "a/b", "1/0"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(ValueError, match="must be `auto` or i/n with 0 <= i < n"):
        parse_shard(text)


def test_sigterm_writes_what_is_scored_and_leaves_with_a_code_for_retry(rows, tmp_path):
    command = [sys.executable, *at_pace(1000, 100_000, calls=2), str(BIN / "nuggets"), "score"]
    command += options(rows, score_dir=tmp_path, schedule="exact", tokens_per_batch=64)
    process = start(command)
    while "at_pace waits for its end" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output[-2000:]
    assert "SIGTERM: writing what is scored" in output
    parts = [pq.read_table(part) for part in tmp_path.glob("*/parts/*.parquet")]
    assert len(parts) == 2 and sum(part.num_rows for part in parts) > 8


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_the_config(path, monkeypatch):
    """Parsed by accelerate itself, as `accelerate launch --config_file` does; nothing is launched."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))
    known = vars(launch_command_parser().parse_args(["--config_file", str(path), "train.py"]))
    for section in (config.fsdp_config, config.deepspeed_config):
        assert set(section) <= set(known), set(section) - set(known)
    kind = {
        "fsdp2": "FSDP",
        "zero2": "DEEPSPEED",
        "zero3": "DEEPSPEED",
        "ddp": "MULTI_GPU",
        "ddp_multi_node": "MULTI_GPU",
    }
    assert config.distributed_type.value == kind.get(path.stem, "NO")
