"""`NuggetsDataCallback` on its own: a plain `SFTTrainer` or `Trainer` trains on the golden set, or is told why not."""

from __future__ import annotations

import numpy as np
import pytest
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, NuggetsDataCallback, SelectedSFTTrainer
from nuggets_trainer.training.checkpoints import last_complete_checkpoint
from tests.support.training import ANCHORS, CHAT_POOL, SELECT, arguments, assert_same_training, lora, losses


def callback(**options) -> NuggetsDataCallback:
    return NuggetsDataCallback(NuggetsConfig(**{"top_k": 9, **options}), anchor_dataset=ANCHORS)


def sft_trainer(model_dir, output_dir, **options) -> SFTTrainer:
    return SFTTrainer(model_dir, arguments(output_dir, **options), train_dataset=CHAT_POOL, peft_config=lora())


@pytest.mark.parametrize("reselect", ["no", "epoch"])
def test_attached_and_selected_train_alike(reselect, model_dir, tmp_path):
    attached, nuggets = sft_trainer(model_dir, tmp_path / "attached"), callback(reselect=reselect)
    nuggets.attach(attached)
    attached.train()
    config = NuggetsConfig(top_k=9, reselect=reselect)
    selected = SelectedSFTTrainer(
        model_dir,
        arguments(tmp_path / "selected"),
        train_dataset=CHAT_POOL,
        peft_config=lora(),
        anchor_dataset=ANCHORS,
        nuggets_config=config,
    )
    selected.train()
    assert_same_training(attached, selected)
    np.testing.assert_array_equal(nuggets.golden_set.indices, selected.golden_set.indices)
    assert any("nuggets/golden_set_size" in entry for entry in attached.state.log_history)
    assert (tmp_path / "attached" / "nuggets_selection.json").is_file()


def test_an_attached_trainer_resumes(model_dir, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4}
    whole, nuggets = sft_trainer(model_dir, tmp_path, **options), callback()
    nuggets.attach(whole)
    whole.train()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    resumed, nuggets = sft_trainer(model_dir, tmp_path / "other", **options), callback()
    nuggets.attach(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert losses(resumed) == losses(whole) and nuggets.scores is None
    args = tmp_path / "empty"
    nothing = sft_trainer(model_dir, args)
    callback().attach(nothing)
    with pytest.raises(ValueError, match="no complete checkpoint.*Start without `resume_from_checkpoint`"):
        nothing.train(resume_from_checkpoint=True)


def plain_trainer(model_dir, output_dir, **options) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = tokenizer.eos_token
    trained = SFTTrainer(model_dir, arguments(output_dir), train_dataset=CHAT_POOL).train_dataset
    args = TrainingArguments(
        str(output_dir), num_train_epochs=2, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    defaults = {"processing_class": tokenizer, "data_collator": DataCollatorForSeq2Seq(tokenizer)}
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    rows = trained.select_columns(["input_ids", "labels"])
    return Trainer(model, args, train_dataset=rows, **{**defaults, **options})


def test_a_plain_trainer_on_tokenized_rows(model_dir, tmp_path):
    trainer = plain_trainer(model_dir, tmp_path)
    nuggets = NuggetsDataCallback(NuggetsConfig(top_k=7, num_anchors=4))
    nuggets.attach(trainer)
    trainer.train()
    assert trainer.state.max_steps == 8 and len(trainer.train_dataset) == 7
    assert len(nuggets.scores) == 24 and nuggets.scores.num_eliminated + len(nuggets.golden_set) <= 24


def test_given_in_callbacks_and_attached_it_runs_once(model_dir, tmp_path):
    nuggets = callback()
    trainer = SFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, callbacks=[nuggets])
    nuggets.attach(trainer)
    trainer.train()
    assert sum("nuggets/golden_set_size" in entry for entry in trainer.state.log_history) == 1


def test_a_callback_that_is_not_attached_raises(model_dir, tmp_path):
    for trainer in (
        SFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, callbacks=[callback()]),
        plain_trainer(model_dir, tmp_path, callbacks=[callback()]),
    ):
        with pytest.raises(RuntimeError, match=r"attached to no trainer.*callback.attach\(trainer\)"):
            trainer.train()


def test_a_callback_of_another_trainer_raises(model_dir, tmp_path):
    nuggets = callback()
    nuggets.attach(sft_trainer(model_dir, tmp_path))
    other = SFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, callbacks=[nuggets])
    with pytest.raises(RuntimeError, match="attached to another trainer"):
        other.train()


def test_one_callback_for_one_trainer(model_dir, tmp_path):
    trainer, nuggets = sft_trainer(model_dir, tmp_path), callback()
    nuggets.attach(trainer)
    with pytest.raises(ValueError, match="is attached already"):
        nuggets.attach(trainer)
    with pytest.raises(ValueError, match="Another NuggetsDataCallback selects for this trainer"):
        callback().attach(trainer)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_other_rows_is_refused(model_dir, tmp_path):
    """The rows of KTO have a prompt and a completion too, but half of them are examples of what not to say."""
    rows = CHAT_POOL.add_column("label", [True, False] * 12)
    args = trl.KTOConfig(str(tmp_path), per_device_train_batch_size=2, bf16=False, use_cpu=True, report_to="none")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    for kind in (trl.KTOTrainer, type("Mine", (trl.KTOTrainer,), {})):
        trainer = kind(model_dir, args=args, train_dataset=rows, processing_class=tokenizer)
        with pytest.raises(ValueError, match="selects rows for supervised fine-tuning, got a KTOTrainer"):
            callback().attach(trainer)
    mine = type("Mine", (SFTTrainer,), {})(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL)
    callback().attach(mine)


def test_what_it_cannot_select_from_is_refused(model_dir, tmp_path):
    packed = sft_trainer(model_dir, tmp_path, packing=True, packing_strategy="wrapped", max_length=64)
    with pytest.raises(ValueError, match="is packed already.*use `SelectedSFTTrainer`"):
        callback().attach(packed)
    with pytest.raises(ValueError, match="selects by itself"):
        callback().attach(SelectedSFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, **SELECT))
    with pytest.raises(ValueError, match="processing_class=tokenizer"):
        callback().attach(plain_trainer(model_dir, tmp_path, processing_class=None))
    with pytest.raises(ValueError, match="`columns` is for SelectedSFTTrainer"):
        callback(columns={"instruction": "question"}).attach(sft_trainer(model_dir, tmp_path))
    stream = SFTTrainer(model_dir, arguments(tmp_path, max_steps=2), train_dataset=CHAT_POOL.to_iterable_dataset())
    with pytest.raises(TypeError, match="IterableDataset"):
        callback().attach(stream)


def test_a_card_that_fails_does_not_keep_the_model(model_dir, tmp_path, caplog, monkeypatch):
    trainer, nuggets = sft_trainer(model_dir, tmp_path, save_strategy="no", max_steps=1), callback()
    nuggets.attach(trainer)
    trainer.train()

    def fail(**options):
        raise OSError("no space left on device")

    monkeypatch.setattr(trainer, "create_model_card", fail)
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").is_file() and "no space left on device" in caplog.text
