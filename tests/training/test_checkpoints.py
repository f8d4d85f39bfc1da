"""The golden set that is saved with a checkpoint, and what resuming from it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.store.selection_file import load_selection, save_selection
from nuggets_trainer.training.checkpoints import checkpoint_asked_for, last_complete_checkpoint
from nuggets_trainer.training.settings import read_training_options
from tests.support.training import ANCHORS, CHAT_POOL, SELECT, arguments, lora, losses, weights


def test_a_resumed_job_does_not_score(model_dir, tmp_path):
    whole = SelectedSFTTrainer(
        model_dir,
        arguments(tmp_path, save_strategy="steps", save_steps=4),
        train_dataset=CHAT_POOL,
        peft_config=lora(),
        **SELECT,
    )
    whole.train()
    assert sorted(p.parent.name for p in tmp_path.glob("*/nuggets_selection.json")) == [
        "checkpoint-10",
        "checkpoint-4",
        "checkpoint-8",
    ]
    checkpoint = tmp_path / "checkpoint-4"
    saved = json.loads((checkpoint / "nuggets_selection.json").read_text())
    assert (tmp_path / "_nuggets_rows.json").is_file() and not (checkpoint / "_nuggets_rows.json").exists()
    assert saved["indices"] == whole.golden_set.indices.tolist() and saved["rule"] == ["top_k", 9]
    resumed = SelectedSFTTrainer(
        model_dir, arguments(tmp_path / "other"), train_dataset=CHAT_POOL, peft_config=lora(), **SELECT
    )
    forwards = []
    handle = resumed.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    resumed.select(str(checkpoint))
    handle.remove()
    assert not forwards and resumed.scores is None
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 10
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, weights(whole)[name]), name
    np.testing.assert_array_equal(resumed.golden_set.mean_gain, whole.golden_set.mean_gain)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "nuggets_selection.json").unlink()  # as if the job had died while saving it
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_dataset": CHAT_POOL.select(range(20))}, "pool_rows was 24 and is now 20, pool_sha256"),
        ({"nuggets_config": NuggetsConfig(top_k=8)}, "rule was top_k=9 and is now top_k=8"),
        ({"nuggets_config": NuggetsConfig(top_k=9, coverage_weight=0.5)}, "coverage_weight was None and is now 0.5"),
        ({"nuggets_config": NuggetsConfig(top_k=9, template="plain")}, ".*, template was chat and is now plain"),
        ({"anchor_dataset": ANCHORS.select(range(4))}, "anchors was given"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(change, named, model_dir, tmp_path):
    """The job once resumed the old golden set after a changed command, trained nothing, and said all was well."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT).train()
    changed = SelectedSFTTrainer(model_dir, args, **{"train_dataset": CHAT_POOL, **SELECT, **change})
    with pytest.raises(ValueError, match=f"under other settings: {named}.*start again in another `output_dir`"):
        changed.train(resume_from_checkpoint=True)


def test_ranked_values_come_back_as_an_array(tmp_path):
    """The signal that rows were ranked by came back as a list."""
    zero_shot, one_shot = np.zeros(2), np.array([[1.0, 2.0], [3.0, 4.0]])
    scores = golden_scores(zero_shot, one_shot)
    object.__setattr__(scores, "signals", {"loss": np.array([0.5, 0.25])})  # as scores of a pool have them
    golden_set = select_golden_set(scores, ("top_k", 2), rank_by="loss")
    save_selection(tmp_path / "nuggets_selection.json", golden_set, {})
    loaded, _ = load_selection(tmp_path / "nuggets_selection.json", {})
    assert isinstance(loaded.value, np.ndarray) and loaded.value.tolist() == [0.25, 0.5]


def test_a_checkpoint_may_name_a_removed_option(tmp_path):
    zero_shot, one_shot = np.full(2, -2, np.float32), np.array([[-1, -1], [-3, -3]], np.float32)
    golden_set = select_golden_set(golden_scores(zero_shot, one_shot), ("top_k", 1))
    settings = {"rule": "top_k=1"}
    save_selection(tmp_path / "nuggets_selection.json", golden_set, {**settings, "race_confidence": "0.9"})
    loaded, _ = load_selection(tmp_path / "nuggets_selection.json", settings)
    assert loaded.indices.tolist() == [0]


EMPTY = {"prompt": [{"role": "user", "content": "Say?"}], "completion": [{"role": "assistant", "content": ""}]}
WITH_EMPTY = Dataset.from_list([EMPTY, *CHAT_POOL])


@pytest.mark.parametrize("earlier", [False, True])
def test_a_deleted_empty_row_shifts_no_golden_row(earlier, model_dir, tmp_path, caplog):
    """A row that was reported as dropped was deleted, and the resumed job trained on the neighbours of its rows."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    first = SelectedSFTTrainer(model_dir, args, train_dataset=WITH_EMPTY, **SELECT)
    first.train()
    if earlier:
        path = tmp_path / "checkpoint-1" / "nuggets_selection.json"
        saved = json.loads(path.read_text())
        del saved["settings"]["pool_rows"]
        saved["settings"]["pool_sha256"] = Pool(WITH_EMPTY).hash_without_places
        path.write_text(json.dumps(saved))
    resumed = SelectedSFTTrainer(model_dir, args, train_dataset=WITH_EMPTY, **SELECT)
    assert resumed.select(True).indices.tolist() == first.golden_set.indices.tolist()
    assert ("did not save the positions of the 1 row that cannot" in caplog.text) == earlier
    shifted = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT)
    with pytest.raises(ValueError, match="under other settings: pool_rows was 25 and is now 24"):
        shifted.select(True)


def test_a_checkpoint_without_a_golden_set_is_refused(model_dir, tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    SFTTrainer(model_dir, args, train_dataset=CHAT_POOL).train()
    trainer = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT)
    with pytest.raises(FileNotFoundError, match="has no nuggets_selection.json.*start again without"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize("earlier", [False, True])
def test_other_training_options_are_named(earlier, model_dir, tmp_path, caplog):
    """A job resumed silently with another learning rate, which the state of the optimizer then overrode."""
    options = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2, "lr_scheduler_type": "constant"}
    first = SelectedSFTTrainer(
        model_dir, arguments(tmp_path, **options), train_dataset=CHAT_POOL, peft_config=lora(), **SELECT
    )
    first.train()
    same = arguments(tmp_path, **options)
    SelectedSFTTrainer(model_dir, same, train_dataset=CHAT_POOL, peft_config=lora(), **SELECT).select(True)
    assert "other options" not in caplog.text
    checkpoint = tmp_path / "checkpoint-4"
    if earlier:
        path = checkpoint / "nuggets_selection.json"
        saved = json.loads(path.read_text())
        del saved["training"]
        path.write_text(json.dumps(saved))
    args = arguments(tmp_path / "other", **{**options, "learning_rate": 1e-3, "num_train_epochs": 3})
    resumed = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, peft_config=lora(lora_alpha=32), **SELECT)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    changes = "learning_rate was 0.01 and is now 0.001, num_train_epochs was 2 and is now 3"
    changes += "" if earlier else ", lora_alpha was 8 and is now 32"
    assert f"was trained with other options: {changes}." in caplog.text
    assert resumed.state.max_steps == 15
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "learning_rate" in entry]
    assert rates == [1e-2] * 15  # as the warning says: the new learning rate has no effect


def test_pickles_of_other_classes_are_not_read(tmp_path, caplog):
    """They, and a torn file, were passed over without a word."""
    assert read_training_options(tmp_path) == {} and not caplog.records
    file = tmp_path / "training_args.bin"
    torch.save(Path("/"), file)
    assert read_training_options(tmp_path) == {}
    assert re.search(
        r"training_args.bin cannot be read \(it has a pathlib\S+\), so they are not compared", caplog.text
    )
    caplog.clear()
    torch.save(arguments(tmp_path, learning_rate=3e-4), file)
    assert read_training_options(tmp_path)["learning_rate"] == 3e-4 and not caplog.records
    file.write_bytes(file.read_bytes()[:900])
    assert read_training_options(tmp_path) == {} and "cannot be read" in caplog.text


def test_a_checkpoint_of_the_model_alone_is_told(model_dir, tmp_path, caplog):
    """Training went on with a new optimizer and the schedule from its beginning, and nothing was said."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1, save_only_model=True)
    SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT).train()
    assert "holds the model alone" not in caplog.text
    more = arguments(tmp_path, max_steps=2)
    SelectedSFTTrainer(model_dir, more, train_dataset=CHAT_POOL, **SELECT).train(resume_from_checkpoint=True)
    assert "checkpoint-1 holds the model alone (`save_only_model`)" in caplog.text


def test_a_checkpoint_that_is_not_there_is_named(model_dir, tmp_path):
    trainer = SelectedSFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, **SELECT)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint .*checkpoint-99"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-99"))
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        trainer.train(resume_from_checkpoint="true")  # as the command line gives it


@pytest.mark.parametrize("answer", ["true", "Yes", "on"])
def test_answers_of_yaml_ask_for_the_newest_checkpoint(answer, tmp_path):
    """`resume_from_checkpoint: yes` is text, because an option may be one: it was taken for a directory."""
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        checkpoint_asked_for(answer, tmp_path)
    for no in ("false", "no", "off", "None", "", None, False):
        assert checkpoint_asked_for(no, tmp_path) is None


def test_the_directory_of_a_job_is_no_checkpoint(model_dir, tmp_path):
    """It has a golden set, so that training began and ended with a missing trainer_state.json."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    first = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT)
    first.train()
    trainer = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT)
    with pytest.raises(
        FileNotFoundError, match="has no trainer_state.json. Name the newest one in it, .*checkpoint-1,"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path))
    assert trainer.select(str(tmp_path)).indices.tolist() == first.golden_set.indices.tolist()


@pytest.mark.parametrize("tuned", ["adapter", "whole model"])
def test_a_checkpoint_of_the_other_kind_is_refused(tuned, model_dir, tmp_path):
    """Torch said that a parameter group does not match; transformers said that there is no valid checkpoint."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    configs = [lora(), None] if tuned == "adapter" else [None, lora()]
    first, second = (
        SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, peft_config=config, **SELECT)
        for config in configs
    )
    first.train()
    with pytest.raises(ValueError, match=f"checkpoint-1 holds (an|the) {tuned}, but this job tunes .*`use_peft`"):
        second.train(resume_from_checkpoint=True)


def test_another_dtype_of_the_weights_is_named(model_dir, tmp_path, caplog):
    """The weights of the checkpoint were rounded to it, and nothing was said."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT).train()
    half = arguments(tmp_path, max_steps=2, model_init_kwargs={"dtype": "bfloat16"})
    SelectedSFTTrainer(model_dir, half, train_dataset=CHAT_POOL, **SELECT).select(True)
    assert "dtype was float32 and is now bfloat16" in caplog.text


def test_options_count_where_no_optimizer_was_saved(model_dir, tmp_path, caplog):
    """Two warnings contradicted each other: a new optimizer, and a learning rate without effect."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=1, save_only_model=True)
    SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, **SELECT).train()
    more = arguments(tmp_path, max_steps=2, learning_rate=1e-4, lr_scheduler_type="constant")
    trainer = SelectedSFTTrainer(model_dir, more, train_dataset=CHAT_POOL, **SELECT)
    trainer.train(resume_from_checkpoint=True)
    assert "and is now 0.0001" in caplog.text and "has no effect" not in caplog.text
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry][-1] == 1e-4
