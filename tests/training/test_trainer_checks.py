"""What is refused or warned of before training, with what to do."""

from __future__ import annotations

import logging

import pytest
from datasets import Dataset
from peft import PromptTuningConfig, TaskType
from transformers import LlamaModel

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer
from tests.support.training import ANCHORS, CHAT_POOL, SELECT, arguments, lora, selected


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_moves_the_base_is_refused(start, model_dir, tmp_path):
    """With PiSSA, switching the adapter off leaves a residual of the base model: scores were off by up to 0.5."""
    options = {"train_dataset": CHAT_POOL, **SELECT}
    with pytest.raises(
        ValueError, match=f"`init_lora_weights='{start}'` changes the base model's weights.*nuggets score"
    ):
        SelectedSFTTrainer(model_dir, arguments(tmp_path), peft_config=lora(init_lora_weights=start), **options)


def test_a_model_without_a_causal_head_is_refused(model_dir, tmp_path):
    LlamaModel.from_pretrained(model_dir).save_pretrained(tmp_path / "body")
    with pytest.raises(ValueError, match=r"decoder-only language model with its head, got LlamaModel \(llama\)"):
        SelectedSFTTrainer(str(tmp_path / "body"), arguments(tmp_path), train_dataset=CHAT_POOL, **SELECT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"nuggets_config": NuggetsConfig(response_field="output")},
            "`response_field='output'` needs a",
        ),
        ({"train_dataset": CHAT_POOL.add_column("images", [None] * 24)}, "column 'images': selection works on text"),
        ({"train_dataset": CHAT_POOL.to_iterable_dataset()}, "IterableDataset.*`pool_size`"),
        ({"train_dataset": None}, "`train_dataset` must be a datasets.Dataset, got NoneType"),
        ({"train_dataset": Pool(CHAT_POOL)}, "got a Pool. .* pass `pool.dataset`"),
        (
            {"nuggets_config": NuggetsConfig(anchors="a.jsonl")},
            "`anchor_dataset` and the config's `anchors='a.jsonl'`",
        ),
        (
            {"nuggets_config": NuggetsConfig(num_anchors="auto", reselect="epoch")},
            "`num_anchors='auto'` would be decided again",
        ),
        (
            {"nuggets_config": NuggetsConfig(max_rows_per_prompt=1, require="loss < 9", reselect="epoch")},
            "with `require='loss < 9'`, which later models change, and `reselect` training is planned for a fixed",
        ),
        ({"nuggets_config": None}, "`anchor_dataset` is given without `nuggets_config`"),
        ({"anchor_dataset": Dataset.from_list([{"q": "?"}])}, r"`anchors` has the columns \['q'\].*pool's columns"),
    ],
)
def test_unusable_arguments_are_refused_before_scoring(change, message, model_dir, tmp_path):
    options = {"train_dataset": CHAT_POOL, **SELECT, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        SelectedSFTTrainer(model_dir, arguments(tmp_path), **options)


def test_few_optimizer_steps_are_warned_of(model_dir, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        SelectedSFTTrainer(
            model_dir, arguments(tmp_path, num_train_epochs=1), train_dataset=CHAT_POOL, **SELECT
        ).train()
    assert "A golden set of 9 rows gives 5 optimizer steps (1 epochs, effective batch of 2 rows)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        SelectedSFTTrainer(model_dir, arguments(tmp_path, max_steps=50), train_dataset=CHAT_POOL, **SELECT).train()
    assert "optimizer steps" not in caplog.text


def test_the_papers_own_case_of_few_steps(model_dir, tmp_path, caplog):
    """619 rows at batch 256 for 3 epochs are 9 steps; here 5 rows at batch 10, and the full run's steps instead."""
    options = {"per_device_train_batch_size": 10, "num_train_epochs": 3}
    for match, steps in ((False, 3), (True, 9)):
        caplog.clear()
        config = NuggetsConfig(top_k=5, match_full_steps=match)
        trainer = SelectedSFTTrainer(
            model_dir,
            arguments(tmp_path, **options),
            train_dataset=CHAT_POOL,
            anchor_dataset=ANCHORS,
            nuggets_config=config,
        )
        with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
            trainer.train()
        assert trainer.state.global_step == steps
        assert f"5 rows gives {steps} optimizer steps" in caplog.text


def test_match_full_steps_excludes_max_steps(model_dir, tmp_path):
    config = NuggetsConfig(top_k=5, match_full_steps=True)
    with pytest.raises(ValueError, match="`match_full_steps` and `max_steps=7` both say"):
        SelectedSFTTrainer(model_dir, arguments(tmp_path, max_steps=7), train_dataset=CHAT_POOL, nuggets_config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": True}, "exchanges single rows, but `packing=True` mixes"),
        ({"auto_find_batch_size": True}, "plans with one batch size"),
        ({"train_sampling_strategy": "group_by_length"}, "sorts them by length"),
        ({"accelerator_config": {"dispatch_batches": True}}, "each process to draw its own batches"),
        ({"ignore_data_skip": True}, "where in an epoch a resumed job is"),
        (
            {"peft_config": PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)},
            "virtual tokens of prompt learning",
        ),
    ],
)
def test_what_cannot_be_refilled_is_refused(options, message, model_dir, tmp_path):
    with pytest.raises(ValueError, match=message):
        selected(model_dir, tmp_path, **options)
