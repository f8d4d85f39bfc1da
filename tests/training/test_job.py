"""The jobs that a user launches: one process, two processes, killed and started again, score alone, then train."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from datasets import Dataset
from transformers import TrainerState
from trl import SFTConfig

from nuggets_trainer import load_rows
from nuggets_trainer.commands.train import parse
from nuggets_trainer.demo import demo_path
from nuggets_trainer.store.selection_file import read_row_places
from nuggets_trainer.training.job import describe_training, load_eval_rows, run_job
from nuggets_trainer.training.job_arguments import RecipeArguments, check_best_metric
from tests.support.launch import BIN, ONE_PROCESS, ROOT, TORCHRUN, at_pace, run, start

JOB = {
    "model_name_or_path": "nuggets-demo/model",
    "use_peft": "true",
    "lora_target_modules": "all-linear",
    "bf16": "false",
    "report_to": "none",
    "use_cpu": "true",
    "per_device_train_batch_size": "4",
    "max_steps": "6",
    "save_steps": "2",
    "logging_steps": "1",
    "top_k": "20",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, str]:
    """Write a small part of the demo's pool and anchors to files."""
    folder = tmp_path_factory.mktemp("rows")
    pool = load_rows("nuggets-demo/pool").select(range(120))
    anchors = load_rows("nuggets-demo/anchors").select(range(8))
    pool.to_json(folder / "pool.jsonl")
    anchors.to_parquet(folder / "anchors.parquet")
    return {"dataset_name": str(folder / "pool.jsonl"), "anchors": str(folder / "anchors.parquet")}


def train_command(launcher: list[str], output_dir: Path, **options: str) -> list[str]:
    pairs = {**JOB, "output_dir": str(output_dir), **options}
    return [*launcher, "recipes/train.py", *(word for name, value in pairs.items() for word in (f"--{name}", value))]


def selection(output_dir: Path) -> dict:
    return json.loads((output_dir / "nuggets_selection.json").read_text())


def scores_bytes(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("scores.parquet", "anchors.parquet", "pairs.parquet")]


@pytest.mark.parametrize("schedule", [pytest.param("exact", marks=pytest.mark.slow), "race"])
def test_two_processes_choose_the_golden_set_of_one(rows, tmp_path, schedule):
    options = {**rows, "schedule": schedule, "tokens_per_batch": "100"}  # small waves: the ranks meet often
    run(train_command(ONE_PROCESS, tmp_path / "one", **options))
    shown = run(train_command([*TORCHRUN, "2"], tmp_path / "two", **options), ACCELERATE_USE_CPU="true")
    assert shown.count("golden set: 20 of 120") == shown.count("trained 6 steps") == 1  # by the main process
    one, two = selection(tmp_path / "one"), selection(tmp_path / "two")
    assert one == two and len(one["indices"]) == 20
    assert one["rows"]["pool"] == ["pool.jsonl", None, "train"]  # it may be pushed to the Hub: no folders
    assert one["rows"]["anchors"] == {"": ["anchors.parquet", None, "train"]}
    places = read_row_places(tmp_path / "two" / "nuggets_selection.json")  # `nuggets evaluate` reads the rows there
    assert places["pool"] == [rows["dataset_name"], None, "train"]
    assert places["anchors"] == {"": [rows["anchors"], None, "train"]}
    assert scores_bytes(tmp_path / "one" / "nuggets") == scores_bytes(tmp_path / "two" / "nuggets")
    parts = [len(list(tmp_path.glob(f"{name}/nuggets/*/parts/*.parquet"))) for name in ("one", "two")]
    # Zero-shot, and two parts of each rank, the pilot and the rest: both had work.
    assert parts == [3, 5]
    assert (tmp_path / "two" / "adapter_model.safetensors").is_file()
    eliminated = pq.read_table(tmp_path / "two" / "nuggets" / "scores.parquet")["upper_bound"].null_count < 120
    assert eliminated == (schedule == "race")


@pytest.mark.slow
def test_two_processes_choose_the_anchors_of_one(rows, tmp_path):
    chosen = []
    for name, launcher in (("one", ONE_PROCESS), ("two", [*TORCHRUN, "2"])):
        options = ("--model_name_or_path", "nuggets-demo/model", "--dataset_name", rows["dataset_name"])
        score = ["nuggets_trainer.cli", "score", *options, "--num_anchors", "5", "--score_dir", str(tmp_path / name)]
        run([*launcher, "-m", *score])
        chosen.append(scores_bytes(tmp_path / name))
    assert chosen[0] == chosen[1]
    parts = [len(list((tmp_path / name).glob("*/parts/*.parquet"))) for name in ("one", "two")]
    assert parts == [3, 5]  # zero-shot, and two parts of each rank: the pilot and the rest
    assert None not in pq.read_table(tmp_path / "one" / "anchors.parquet")["pool_index"].to_pylist()


@pytest.mark.slow
def test_two_processes_make_one_plan(rows, tmp_path):
    command = [*TORCHRUN, "2", "-m", "nuggets_trainer.cli"]
    options = [word for name, value in rows.items() for word in (f"--{name}", value)]
    options += ["--model_name_or_path", "nuggets-demo/model", "--score_dir", str(tmp_path), "--schedule", "exact"]
    options += ["--tokens_per_batch", "64", "--json"]
    plans = []
    for argv in (["plan", *options, "--measure_seconds", "0.001"], ["score", *options], ["plan", *options]):
        printed = run([*command, *argv], ACCELERATE_USE_CPU="true").splitlines()
        (result,) = [json.loads(line) for line in printed if line.startswith("{")]  # from the main process alone
        assert sum("Loading weights: 100%" in line for line in printed) <= 1
        plans.append(result)
    before, scored, after = plans
    assert before["num_processes"] == 2 and not before["finished"]
    assert scored["num_pairs_scored"] == 120 * 8 - before["num_pairs_scored"] > 0
    assert after["finished"] and after["num_pairs_scored"] == 0


def wait_for(condition, process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "the job never came so far"
        time.sleep(0.02)


def kill(process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_killed_job_continues_with_the_same_command(rows, tmp_path):
    """SIGKILL while scoring, then SIGKILL while training; the third start ends as if nothing had happened."""
    options = {**rows, "tokens_per_batch": "64"}  # with the default one call of the engine scores all pairs
    run(train_command(ONE_PROCESS, tmp_path / "whole", **options))
    command = train_command([*ONE_PROCESS, *at_pace(0)], tmp_path / "killed", **options)

    process = start(train_command([*ONE_PROCESS, *at_pace(0, calls=2)], tmp_path / "killed", **options))
    wait_for(lambda: len(list(tmp_path.glob("killed/nuggets/*/parts/*.parquet"))) >= 3, process)
    kill(process)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/nuggets/*/parts/*.parquet")}
    assert not (tmp_path / "killed" / "nuggets" / "scores.parquet").exists()

    process = start(command)
    wait_for(lambda: (tmp_path / "killed" / "checkpoint-2" / "nuggets_selection.json").exists(), process)
    kill(process)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in parts.items())  # what was scored was kept
    assert scores_bytes(tmp_path / "killed" / "nuggets") == scores_bytes(tmp_path / "whole" / "nuggets")

    run(command)
    assert selection(tmp_path / "killed") == selection(tmp_path / "whole")
    states = [
        json.loads((tmp_path / name / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
        for name in ("killed", "whole")
    ]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in states]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert adapters[0] == adapters[1]


@pytest.mark.slow
def test_training_reuses_the_files_of_nuggets_score(rows, tmp_path):
    options = ("--model_name_or_path", "nuggets-demo/model", "--dataset_name", rows["dataset_name"])
    choice = ("--anchors", rows["anchors"], "--template", "nuggets", "--dtype", "float32", "--top_fraction", "0.25")
    output = run([str(BIN / "nuggets"), "score", *options, *choice, "--score_dir", str(tmp_path / "s")])
    assert "scored 120 candidates x 8 anchors" in output and "golden set: 30 of 120" in output
    table = pq.read_table(tmp_path / "s" / "scores.parquet")
    assert table["index"].to_pylist() == list(range(120)) and sum(table["selected"].to_pylist()) == 30
    again = run(
        train_command(ONE_PROCESS, tmp_path / "out", **rows, template="nuggets", score_dir=str(tmp_path / "s"))
    )
    assert "(0 pairs computed" in again


@pytest.mark.slow
def test_a_misspelled_key_is_named_before_loading(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((ROOT / "configs" / "demo.yaml").read_text() + "\ntop_frction: 0.2\n")
    process = start([*ONE_PROCESS, "recipes/train.py", "--config", str(config)])
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "has the key `top_frction`, which no argument has. Did you mean `top_fraction`?" in output
    assert "Loading weights" not in output


REMOTE_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class RemoteConfig(LlamaConfig):
    model_type = "remote"

class RemoteForCausalLM(LlamaForCausalLM):
    config_class = RemoteConfig
"""


def test_remote_code_runs_only_if_trusted(rows, tmp_path):
    """From the hub's cache, where such a model lies once it is fetched."""
    place = Path(os.environ["HF_HUB_CACHE"]) / "models--user--remote"
    snapshot = place / "snapshots" / ("0" * 40)
    shutil.copytree(demo_path("model"), snapshot)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    (snapshot / "remote.py").write_text(REMOTE_CODE)
    config = json.loads((snapshot / "config.json").read_text())
    named = {"AutoConfig": "remote.RemoteConfig", "AutoModelForCausalLM": "remote.RemoteForCausalLM"}
    (snapshot / "config.json").write_text(json.dumps({**config, "model_type": "remote", "auto_map": named}))
    options = {**rows, "model_name_or_path": "user/remote", "top_k": "4", "max_steps": "1", "use_cpu": "true"}
    command = [sys.executable, "recipes/train.py", "--bf16", "false", "--output_dir", str(tmp_path / "out")]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    with pytest.raises(AssertionError, match="trust_remote_code=True"):
        run(command)
    output = run([*command, "--trust_remote_code", "true"])
    assert "golden set: 4 of 120 candidates" in output
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_rows_of_every_file_type_are_the_same_rows(rows, tmp_path):
    dataset = load_rows(rows["dataset_name"])
    dataset.to_csv(tmp_path / "pool.csv")
    dataset.to_parquet(tmp_path / "pool.parquet")
    (tmp_path / "pool.json").write_text(json.dumps(list(dataset)))
    dataset.save_to_disk(tmp_path / "saved")
    for name in ("pool.parquet", "pool.json", "saved"):
        assert list(load_rows(str(tmp_path / name))) == list(dataset)
    assert isinstance(load_rows(str(tmp_path / "pool.csv")), Dataset)


@pytest.mark.slow
def test_a_training_config_serves_nuggets_score_too(tmp_path, rows):
    """A YAML for recipes/train.py was refused by `nuggets score` for its training keys, with a misleading hint."""
    config = tmp_path / "job.yaml"
    config.write_text((ROOT / "configs" / "demo.yaml").read_text() + "\ntop_k: 7\n")
    names = ("--dataset_name", rows["dataset_name"], "--anchors", rows["anchors"], "--score_dir", str(tmp_path / "s"))
    output = run([str(BIN / "nuggets"), "score", "--config", str(config), *names])
    assert "golden set: 7 of 120 candidates (top_k=7)" in output


@pytest.mark.slow
def test_a_finished_job_trains_no_further(rows, tmp_path):
    """Resumed in the middle of an epoch, the Trainer takes a step beyond `max_steps`: each rerun moved the model."""
    command = train_command(ONE_PROCESS, tmp_path / "out", **rows)
    run(command)
    adapter = tmp_path / "out" / "adapter_model.safetensors"
    weights = adapter.read_bytes()
    adapter.unlink()  # as if killed between the last checkpoint and the final save
    again = run(command)
    assert "Nothing is left to train" in again and "uses the scores again" in again
    assert adapter.read_bytes() == weights
    assert not (tmp_path / "out" / "checkpoint-7").exists()


def job(rows, output_dir, **options):
    """Run the main job in this process, on the demo's model; the pairs of all such jobs are computed once."""
    places = {"output_dir": str(output_dir), "score_dir": str(Path(rows["anchors"]).with_name("scores"))}
    given = {**JOB, **rows, **places, "use_peft": "false", "disable_tqdm": "true", **options}
    return run_job(*parse([word for name, value in given.items() for word in (f"--{name}", value)]))


def test_a_finished_job_keeps_the_best_model(rows, tmp_path, caplog):
    """Started again, it replaced the best model by the last one."""
    options = {"load_best_model_at_end": "true", "eval_strategy": "steps", "eval_steps": "2", "learning_rate": "1"}
    options |= {"eval_dataset_name": rows["anchors"], "max_steps": "4", "lr_scheduler_type": "constant"}
    best = job(rows, tmp_path / "out", **options).state.best_model_checkpoint
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert Path(best).name == "checkpoint-2"  # at this learning rate the model only gets worse
    assert weights == (Path(best) / "model.safetensors").read_bytes()
    assert weights != (tmp_path / "out" / "checkpoint-4" / "model.safetensors").read_bytes()
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "moved" / "model.safetensors").unlink()
    job(rows, tmp_path / "moved", **options)
    assert (tmp_path / "moved" / "model.safetensors").read_bytes() == weights
    shutil.rmtree(tmp_path / "moved" / "checkpoint-2")
    with pytest.raises(FileNotFoundError, match="its best model was .*checkpoint-2.*which is gone"):
        job(rows, tmp_path / "moved", **options)
    assert (tmp_path / "moved" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_several_evaluation_sets_have_losses_of_their_own(rows, tmp_path, capsys):
    sets = json.dumps({"in_domain": rows["anchors"], "other": {"path": rows["dataset_name"], "split": "train"}})
    options = {"eval_dataset_name": sets, "eval_strategy": "steps", "eval_steps": "1", "max_steps": "1"}
    trainer = job(rows, tmp_path, **options, metric_for_best_model="eval_other_loss", load_best_model_at_end="true")
    losses = {key: value for entry in trainer.state.log_history for key, value in entry.items() if "loss" in key}
    assert losses.keys() >= {"eval_in_domain_loss", "eval_other_loss"} and trainer.state.best_metric > 0
    said = f"held-out loss of in_domain {losses['eval_in_domain_loss']:.4f}; held-out loss of other "
    assert said in capsys.readouterr().out


def test_several_evaluation_sets_are_loaded_and_told_by_name(rows, tmp_path):
    script = RecipeArguments(dataset_name="x", eval_dataset_name={"in_domain": rows["anchors"], "b": rows["anchors"]})
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, load_best_model_at_end=True, eval_strategy="steps")
    loaded = load_eval_rows(script, args)
    assert list(loaded) == ["in_domain", "b"] and len(loaded["b"]) == 8
    with pytest.raises(
        ValueError, match="must say which set decides, got 'loss'. Choose one of eval_in_domain_loss, "
    ):
        check_best_metric(args, loaded)
    history = [{"loss": 2.0, "step": 1}, {"eval_in_domain_loss": 3.0}, {"eval_b_loss": 4.0}, {"eval_b_loss": 1.0}]
    told = describe_training(TrainerState(log_history=history, epoch=1.0, global_step=1), 5)
    assert told.endswith("; held-out loss of in_domain 3.0000; held-out loss of b 1.0000")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 3, "b": "x.jsonl"}, "or a mapping of names to either, got .*3 does not name a place of rows"),
        ({"a b": "x.jsonl", "c": "y.jsonl"}, "must be named by letters, digits and `_.-`, got 'a b'"),
        ({}, "`eval_dataset_name` is an empty mapping"),
    ],
)
def test_wrong_evaluation_sets_are_refused(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        _ = RecipeArguments(dataset_name="x.jsonl", eval_dataset_name=value).eval_sets


@pytest.mark.parametrize("kept", [{"save_total_limit": "1"}, {"save_strategy": "best"}])
def test_a_finished_job_without_its_last_checkpoint(rows, tmp_path, capfd, kept):
    """Where the best checkpoint alone is kept, the same command trained on from it and saved another model."""
    options = {"load_best_model_at_end": "true", "eval_strategy": "steps", "eval_steps": "2", "learning_rate": "1"}
    options |= {"eval_dataset_name": rows["anchors"], "max_steps": "4", "lr_scheduler_type": "constant", **kept}
    if "save_strategy" in kept:
        options |= {"metric_for_best_model": "loss", "greater_is_better": "false"}
    job(rows, tmp_path, **options)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    weights = (tmp_path / "model.safetensors").read_bytes()
    capfd.readouterr()
    again = job(rows, tmp_path, **options)
    assert f"Nothing is left to train: {tmp_path} has all steps" in capfd.readouterr().out
    assert again.state.global_step == 0 and (tmp_path / "model.safetensors").read_bytes() == weights
    saved = safetensors.torch.load(weights)["model.embed_tokens.weight"]
    torch.testing.assert_close(again.model.get_input_embeddings().weight.detach(), saved, rtol=0, atol=0)
    if "save_strategy" not in kept:  # a checkpoint that is named is gone on from
        named = job(rows, tmp_path, **options, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert named.state.global_step == 4 and "Resuming from" in capfd.readouterr().out
        assert job(rows, tmp_path, **options | {"max_steps": "6"}).state.global_step == 6  # more steps are steps left


def test_a_checkpoint_of_the_model_alone_is_no_start(rows, tmp_path):
    """The same command went on with a new optimizer and schedule, and said nothing."""
    options = {"save_only_model": "true", "max_steps": "4"}
    job(rows, tmp_path, **options)
    job(rows, tmp_path, **options)  # finished: nothing to go on with
    shutil.rmtree(tmp_path / "checkpoint-4")  # as if killed after step 2
    (tmp_path / "finished_training.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-2 holds the model alone.*`--resume_from_checkpoint false`"):
        job(rows, tmp_path, **options)
    assert job(rows, tmp_path, **options, resume_from_checkpoint="false").state.global_step == 4
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == ["checkpoint-2", "checkpoint-4"]


def test_resuming_from_what_is_not_there_is_told(rows, tmp_path):
    """`true` was taken for a directory, and the error was about a missing true/trainer_state.json."""
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        job(rows, tmp_path, resume_from_checkpoint="true")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint .*checkpoint-7"):
        job(rows, tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_an_error_on_one_rank_ends_the_job_on_all(tmp_path):
    """The others would wait for it until the process group's timeout, of half an hour."""
    script = tmp_path / "script.py"
    script.write_text(
        "from accelerate import PartialState\n"
        "from nuggets_trainer.ranks import Ranks\n"
        "PartialState(cpu=True)\n"
        "ranks = Ranks()\n"
        "assert ranks.gather_from(lambda: [PartialState().process_index]) == [0, 1]\n"
        "def fail():\n"
        "    if not ranks.is_main:\n"
        "        raise ValueError('a row of rank 1')\n"
        "    return [1]\n"
        "try:\n"
        "    ranks.gather_from(fail)\n"
        "except RuntimeError as error:\n"
        "    print(f'process {PartialState().process_index} ends: {error}', flush=True)\n"
        # gloo aborts now and then when a process leaves it to the interpreter's end
        "PartialState().destroy_process_group()\n"
    )
    output = run([*TORCHRUN, "2", str(script)], timeout=120)
    for process in (0, 1):
        assert f"process {process} ends: rank 1: ValueError: a row of rank 1" in output


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_to_resume_from(rows, tmp_path):
    # Without dropout: transformers writes that checkpoint in the middle of a step, after its random numbers are drawn.
    # The signal is heeded after three seconds, as transformers does: so many steps take longer on any machine.
    options = {"max_steps": "200", "save_strategy": "no", "enable_jit_checkpoint": "true", "lora_dropout": "0"}
    whole = train_command([sys.executable], tmp_path / "whole", **rows, **options)
    run(whole)
    command = train_command([sys.executable], tmp_path / "out", **rows, **options)
    process = start(command)
    wait_for(lambda: (tmp_path / "out" / "nuggets_selection.json").exists(), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output[-3000:]
    checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
    assert (checkpoint / "nuggets_selection.json").is_file() and checkpoint.name != "checkpoint-200"
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()  # not taken for a finished job
    assert f"Resuming from {checkpoint}" in run(command)
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "whole")]
    assert adapters[0] == adapters[1]
