"""Choosing the golden set again during training: the rows that are read, the scores, the steps, and resuming."""

from __future__ import annotations

import json
import logging
import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer, score_pool
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.store.read_results import read_scores
from tests.support.launch import TORCHRUN, run
from tests.support.training import (
    ANCHORS,
    CHAT_POOL,
    Recorded,
    arguments,
    assert_same_training,
    lora,
    losses,
    selected,
    weights,
)


def pool_rows_of(trainer) -> list[list[int]]:
    """Pool indices that each forward pass of training read."""
    reference = SFTTrainer(trainer.model.config._name_or_path, arguments("unused"), train_dataset=CHAT_POOL)
    ids = [tuple(row) for row in reference.train_dataset["input_ids"]]
    pad = trainer.data_collator.pad_token_id

    def index(row):
        return next(
            i for i, known in enumerate(ids) if tuple(row[: len(known)]) == known and set(row[len(known) :]) <= {pad}
        )

    return [[index(row) for row in batch] for batch in trainer.batches]


def history(trainer) -> list[dict]:
    return json.loads((trainer_dir(trainer) / "nuggets_selection.json").read_text())["reselection"]["history"]


def trainer_dir(trainer):
    from pathlib import Path

    return Path(trainer.args.output_dir)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reselect", [{"reselect": "epoch"}, {"reselect": "steps", "reselect_steps": 2}])
def test_choosing_the_same_rows_changes_nothing(reselect, workers, model_dir, tmp_path):
    """With all rows in it, it cannot change: same batches in the same order, bit for bit."""
    options = {"gradient_accumulation_steps": 3, "dataloader_num_workers": workers}
    everything = {"top_k": None, "top_fraction": 1.0}
    again = selected(model_dir, tmp_path / "a", peft_config=lora(), config={**everything, **reselect}, **options)
    again.train()
    once = SFTTrainer(
        model_dir,
        arguments(tmp_path / "b", num_train_epochs=3, learning_rate=5e-2, **options),
        train_dataset=CHAT_POOL,
        peft_config=lora(),
    )
    once.train()
    assert_same_training(again, once)
    assert len(history(again)) > 2


def test_each_epoch_reads_the_choice_of_its_start(model_dir, tmp_path):
    trainer = selected(model_dir, tmp_path, Recorded, lora(), save_strategy="epoch", config={"schedule": "exact"})
    trainer.train()
    assert trainer.state.max_steps == trainer.state.global_step == 15  # three epochs of nine rows, two by two
    batches = pool_rows_of(trainer)
    read = [sorted(row for batch in batches[start : start + 5] for row in batch) for start in (0, 5, 10)]
    first = json.loads((tmp_path / "nuggets_selection.json").read_text())["reselection"]["first"]
    assert read[0] == sorted(first)
    assert read[2] == sorted(trainer.golden_set.indices.tolist())
    assert read[0] != read[1] or read[1] != read[2], "a golden set that never changes shows nothing"
    for step, rows in ((5, read[1]), (10, read[2])):
        base = AutoModelForCausalLM.from_pretrained(model_dir)
        merged = PeftModel.from_pretrained(base, str(tmp_path / f"checkpoint-{step}")).merge_and_unload()
        config = NuggetsConfig(top_k=9, schedule="exact")
        scores, golden_set = score_pool(
            merged,
            trainer.processing_class,
            Pool(CHAT_POOL),
            Pool(ANCHORS, "anchors"),
            config=config,
            score_dir=tmp_path / "merged",
        )
        assert sorted(golden_set.indices.tolist()) == rows
        if step == 10:
            np.testing.assert_allclose(trainer.scores.mean_gain, scores.mean_gain, atol=1e-5)
            np.testing.assert_array_equal(trainer.scores.golden_score, scores.golden_score)


def test_a_condition_holds_for_each_choice(model_dir, tmp_path):
    """The signals are those of the model as it is then."""
    options = {"require": "num_tokens > 4 and loss > 0.5", "schedule": "exact", "top_k": 4}
    trainer = selected(model_dir, tmp_path, peft_config=lora(), config=options)
    trainer.train()
    found = []
    for place in sorted(tmp_path.glob("nuggets*/**/scores.parquet")):
        scores = read_scores(place.parent)
        assert scores.selected.sum() == 4 and scores.meets_require[scores.selected].all()
        found.append(scores.signals["loss"])
    assert len(found) == 3 and not np.allclose(found[0], found[-1])


def test_an_adapter_of_any_name_is_chosen_by(model_dir, tmp_path):
    """Under another name than "default" the job died in mid-training with a KeyError."""
    jobs = []
    for name in ("default", "mine"):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(model_dir)
        model = get_peft_model(base, without_dropout(), adapter_name=name)
        jobs.append(selected(model, tmp_path / name, num_train_epochs=2))
        jobs[-1].train()
    assert losses(jobs[0]) == losses(jobs[1]) and len(history(jobs[0])) == 2
    assert history(jobs[0]) == history(jobs[1])


def test_a_new_golden_set_waits_for_the_loader(model_dir, tmp_path):
    config = {"top_k": 12, "reselect": "steps", "reselect_steps": 2}
    trainer = selected(
        model_dir, tmp_path, Recorded, lora(), config=config, num_train_epochs=2, save_steps=1, save_strategy="steps"
    )
    trainer.train()
    batches = pool_rows_of(trainer)
    saved = [
        json.loads((tmp_path / f"checkpoint-{step}" / "nuggets_selection.json").read_text()) for step in range(1, 13)
    ]
    for epoch in (0, 1):
        for step in range(6):
            chosen = 6 * epoch + max(0, (step - 2) // 2 * 2)  # two steps of looking ahead, or the epoch's start
            golden = saved[chosen - 1]["indices"] if chosen else saved[0]["reselection"]["first"]
            assert set(batches[6 * epoch + step]) <= set(golden), (epoch, step)
    assert len({tuple(sorted(s["indices"])) for s in saved}) > 2


def test_golden_sets_are_chosen_again_by_the_same_value(model_dir, tmp_path):
    """A checkpoint knows the value, and a job that ranks by another one does not go on from it."""
    config = {"top_k": 12, "reselect": "epoch", "rank_by": "gain"}
    options = {"num_train_epochs": 2, "save_strategy": "epoch"}
    trainer = selected(model_dir, tmp_path, peft_config=lora(), config=config, **options)
    trainer.train()
    (step,) = (path for path in (tmp_path / "nuggets").iterdir() if path.name.startswith("step-"))
    for score_dir, golden in ((tmp_path / "nuggets", None), (step, trainer.golden_set)):
        stored = read_scores(score_dir)
        best = rank_candidates(stored, "gain")[:12]
        assert np.flatnonzero(stored.selected).tolist() == sorted(best.tolist())
        assert json.loads((score_dir / "run.json").read_text())["rank_by"] == "gain"
        assert golden is None or (golden.rank_by, golden.indices.tolist()) == ("gain", best.tolist())
    assert all("gain_cut" in entry and "golden_score_cut" not in entry for entry in history(trainer))
    checkpoint = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    saved = json.loads((checkpoint / "nuggets_selection.json").read_text())
    assert saved["rank_by"] == saved["settings"]["rank_by"] == "gain"
    other = selected(model_dir, tmp_path, peft_config=lora(), config={**config, "rank_by": "golden_score"}, **options)
    with pytest.raises(ValueError, match="rank_by"):
        other.train(resume_from_checkpoint=str(checkpoint))


def without_dropout():
    return LoraConfig(r=4, target_modules="all-linear")


@pytest.mark.parametrize(
    ("every", "adapter", "persistent"),
    [
        (None, lora, False),
        (2, lora, False),
        pytest.param(3, lambda: None, False, marks=pytest.mark.slow),
        pytest.param(
            2, without_dropout, True, marks=pytest.mark.slow
        ),  # the stock trainer draws other dropout after resuming with persistent workers
    ],
    ids=["epoch", "steps", "full", "persistent"],
)
def test_a_resumed_job_has_the_losses_of_a_whole_one(every, adapter, persistent, model_dir, tmp_path):
    reselect = {"reselect": "epoch"} if every is None else {"reselect": "steps", "reselect_steps": every}
    options = {
        "peft_config": adapter(),
        "config": {"top_k": 12, **reselect},
        "save_strategy": "steps",
        "save_steps": 1,
        "dataloader_num_workers": 2,
        "dataloader_persistent_workers": persistent,
        "dataloader_prefetch_factor": 1,
        "learning_rate": 3e-3 if adapter() is None else 5e-2,
    }
    whole = selected(model_dir, tmp_path / "whole", **options)
    whole.train()
    assert len(losses(whole)) == 18
    assert len({entry["kept_of_first"] for entry in history(whole)[1:]}) > 1, "the golden set has to move"
    generator = random.Random(f"{every}{persistent}")
    for step in (6, generator.choice([s for s in range(1, 18) if s % 6])):
        resumed = selected(model_dir, tmp_path / f"from-{step}", **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert losses(resumed) == losses(whole), step
        assert history(resumed) == history(whole)
        np.testing.assert_array_equal(resumed.golden_set.indices, whole.golden_set.indices)
        for name, tensor in weights(whole).items():
            assert torch.equal(tensor, weights(resumed)[name]), name


class Interrupt(TrainerCallback):
    step = 17

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_trainer_resumes_in_its_process(model_dir, tmp_path):
    """As after an interrupt in a notebook: the trainer already has a golden set, of a later step."""
    options = {"config": {"top_k": 12, "reselect": "steps", "reselect_steps": 2}, "peft_config": lora()}
    whole = selected(model_dir, tmp_path / "whole", **options)
    whole.train()
    trainer = selected(model_dir, tmp_path / "stopped", save_strategy="steps", save_steps=10, **options)
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    interrupt.step = None
    trainer.train(resume_from_checkpoint=True)
    assert losses(trainer) == losses(whole)
    assert history(trainer) == history(whole)


def test_a_checkpoint_wins_over_an_earlier_selection(model_dir, tmp_path):
    options = {"config": {"top_k": 12, "reselect": "steps", "reselect_steps": 2}, "peft_config": lora()}
    whole = selected(model_dir, tmp_path / "whole", save_strategy="steps", save_steps=10, **options)
    whole.train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-10")
    resumed = selected(model_dir, tmp_path / "resumed", **options)
    resumed.select()
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    other = selected(model_dir, tmp_path / "other", config={"top_k": 8}, peft_config=lora())
    other.select()
    with pytest.raises(ValueError, match="under other settings: .*rule was top_k=12"):
        other.train(resume_from_checkpoint=checkpoint)


def test_training_twice_starts_with_the_last_choice(model_dir, tmp_path):
    trainer = selected(model_dir, tmp_path, config={"reselect": "steps", "reselect_steps": 2}, peft_config=lora())
    trainer.train()
    last = trainer.golden_set.indices.tolist()
    trainer.train()
    saved = json.loads((tmp_path / "nuggets_selection.json").read_text())["reselection"]
    assert saved["first"] == last
    assert [entry["step"] for entry in saved["history"]] == [0, 2, 4, 6, 8, 10, 12, 14]


class MakesAnotherLoader(TrainerCallback):
    trainer = None

    def on_train_begin(self, args, state, control, **kwargs):
        len(self.trainer.get_train_dataloader())


def test_a_second_loader_leaves_the_first_alone(model_dir, tmp_path):
    batches = []
    for name in ("one", "two"):
        trainer = selected(model_dir, tmp_path / name, Recorded, lora(), config={"schedule": "exact"})
        if name == "two":
            callback = MakesAnotherLoader()
            callback.trainer = trainer
            trainer.add_callback(callback)
        trainer.train()
        batches.append(trainer.batches)
    assert batches[0] == batches[1]


def test_a_reselection_that_never_comes_is_warned_of(model_dir, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        selected(model_dir, tmp_path, num_train_epochs=1).train()
    assert "never chooses again: the first time would be after step 5 of 5" in caplog.text


def test_a_model_that_diverged_is_named_as_the_cause(model_dir, tmp_path):
    trainer = selected(model_dir, tmp_path, learning_rate=1e30, config={"schedule": "exact"})
    with pytest.raises(ValueError, match="cannot be chosen again after step 5.*diverged: resume from an earlier"):
        trainer.train()


@pytest.mark.slow
def test_two_processes_resume_an_incomplete_batch(model_dir, tmp_path):
    """The last batch is filled up with the epoch's first rows, which may have been refilled since."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\n"
        "from accelerate import PartialState\n"
        "from tests.support.training import Recorded, lora, selected\n"
        "config = {'top_k': 7, 'reselect': 'steps', 'reselect_steps': 1}\n"
        "output_dir, checkpoint = sys.argv[2], sys.argv[3] or None\n"
        "trainer = selected(sys.argv[1], output_dir, Recorded, lora(), config, per_device_train_batch_size=1,\n"
        "    num_train_epochs=2, learning_rate=0.3, save_strategy='steps', save_steps=1)\n"
        "trainer.train(resume_from_checkpoint=checkpoint)\n"
        "state = PartialState()\n"
        "log = [entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]\n"
        "with open(f'{output_dir}/seen-{state.process_index}.json', 'w') as file:\n"
        "    json.dump([trainer.batches, log, trainer.golden_set.indices.tolist()], file)\n"
        "state.destroy_process_group()\n"
    )

    def launch(name, checkpoint=""):
        command = [*TORCHRUN, "2", str(script), model_dir, str(tmp_path / name), checkpoint]
        run(command, ACCELERATE_USE_CPU="true")
        return [json.loads((tmp_path / name / f"seen-{rank}.json").read_text()) for rank in (0, 1)]

    whole = launch("whole")
    resumed = launch("resumed", str(tmp_path / "whole" / "checkpoint-7"))
    assert len(whole[0][1]) == 8
    for rank in (0, 1):
        assert resumed[rank][0] == whole[rank][0][-1:]
        assert resumed[rank][1:] == whole[rank][1:]
    assert whole[0][2] == whole[1][2]


def test_anchors_that_were_chosen_from_the_pool_stay(model_dir, tmp_path):
    config = NuggetsConfig(top_k=9, num_anchors=5, reselect="epoch")
    args = arguments(tmp_path, learning_rate=5e-2)
    trainer = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, nuggets_config=config)
    trainer.select()
    first = trainer.scores.anchors
    trainer.train()
    assert trainer.scores.anchors is not first
    saved = json.loads((tmp_path / "nuggets_selection.json").read_text())["reselection"]
    assert saved["anchor_indices"] == first.pool_index and len(first.pool_index) == 5
    assert not np.array_equal(trainer.scores.anchors.zero_shot, first.zero_shot)


def test_how_the_golden_set_moved_is_logged(model_dir, tmp_path):
    trainer = selected(model_dir, tmp_path, peft_config=lora())
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "nuggets/kept" in entry]
    assert [entry["step"] for entry in logged] == [5, 10]
    assert all(0 <= entry["nuggets/kept"] <= 9 and "nuggets/golden_score_mean" in entry for entry in logged)
    metrics = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all("mean_token_accuracy" in entry for entry in metrics)
    assert not any("mean_token_accuracy" in entry for entry in logged), "the Trainer's own metrics stay in its entries"
    assert (tmp_path / "nuggets" / "step-5" / "scores.parquet").is_file()


def test_rows_that_trl_leaves_out_are_no_candidates(model_dir, tmp_path):
    trainer = selected(model_dir, tmp_path, peft_config=lora(), max_length=24, config={"schedule": "exact"})
    trainer.train()
    dropped = [i for i, reason in enumerate(trainer.scores.dropped) if reason == "no_completion_in_max_length"]
    assert dropped and not set(dropped) & set(trainer.golden_set.indices.tolist())
    assert len(trainer.train_dataset) == 9
