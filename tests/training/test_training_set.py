"""The rows and the steps of a training set that is made of a golden set."""

from __future__ import annotations

import logging

import pytest
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from tests.support.training import ANCHORS, CHAT_POOL, SELECT, arguments


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_train_epochs": 1.5, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 5, "dataloader_drop_last": True},
        {"packing": True, "packing_strategy": "wrapped", "max_length": 64},
        {"max_length": 24},
    ],
    ids=["plain", "accumulation", "drop-last", "packing", "truncation"],
)
@pytest.mark.parametrize("reselect", ["no", "epoch"])
def test_match_full_steps_takes_the_steps_of_the_pool(reselect, options, model_dir, tmp_path):
    if reselect != "no" and "packing" in options:
        pytest.skip("re-selection refuses packing")
    full = SFTTrainer(model_dir, arguments(tmp_path, **options), train_dataset=CHAT_POOL)
    full.train()
    config = NuggetsConfig(top_k=5, match_full_steps=True, reselect=reselect)
    golden = SelectedSFTTrainer(
        model_dir,
        arguments(tmp_path, **options),
        train_dataset=CHAT_POOL,
        anchor_dataset=ANCHORS,
        nuggets_config=config,
    )
    golden.train()
    assert golden.state.global_step == golden.state.max_steps == full.state.global_step
    assert [entry["learning_rate"] for entry in golden.state.log_history if "learning_rate" in entry] == [
        entry["learning_rate"] for entry in full.state.log_history if "learning_rate" in entry
    ]


def test_match_full_steps_keeps_the_users_arguments(model_dir, tmp_path):
    args = arguments(tmp_path)
    for _ in range(2):
        config = NuggetsConfig(top_k=5, match_full_steps=True)
        options = {"train_dataset": CHAT_POOL, "anchor_dataset": ANCHORS, "nuggets_config": config}
        trainer = SelectedSFTTrainer(model_dir, args, **options)
        trainer.select()
        assert trainer.args.max_steps == 24 and args.max_steps == -1


def test_a_golden_set_below_one_batch_is_refused(model_dir, tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=8, dataloader_drop_last=True)
    options = {"train_dataset": CHAT_POOL, "anchor_dataset": ANCHORS, "nuggets_config": NuggetsConfig(top_k=5)}
    with pytest.raises(ValueError, match="5 rows fills no batch, and `dataloader_drop_last`"):
        SelectedSFTTrainer(model_dir, args, **options).train()


def test_rows_that_trl_cuts_away_are_warned_of(model_dir, tmp_path, caplog):
    trainer = SelectedSFTTrainer(model_dir, arguments(tmp_path, max_length=6), train_dataset=CHAT_POOL, **SELECT)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        trainer.select()
    if len(trainer.train_dataset) == 9:
        pytest.skip("this version of TRL keeps rows whose completion it cut away")
    assert "of the 9 rows of the golden set: cut at `max_length=6`" in caplog.text
