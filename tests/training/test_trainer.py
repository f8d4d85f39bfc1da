"""`SelectedSFTTrainer` against the real `SFTTrainer`: nothing changes without selection, only the rows with it."""

from __future__ import annotations

import inspect
import json
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments, set_seed
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer, load_scorer, score_pool
from nuggets_trainer.training.trainer import full_signature
from tests.support.training import (
    ANCHORS,
    CHAT_POOL,
    POOL,
    SELECT,
    arguments,
    assert_same_training,
    lora,
)


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_without_config_it_is_sft_trainer_bit_for_bit(peft, model_dir, tmp_path):
    trainers = []
    for cls in (SFTTrainer, SelectedSFTTrainer):
        args = arguments(tmp_path / cls.__name__, save_strategy="steps", save_steps=7, num_train_epochs=1)
        config = lora() if peft else None
        set_seed(0)  # TRL before 1.16 draws the adapter's weights without seeding
        trainer = cls(model_dir, args, None, CHAT_POOL, CHAT_POOL.select(range(4)), peft_config=config)
        trainer.train()
        trainer.save_model()
        trainers.append(trainer)
    assert_same_training(*trainers)
    folders = [tmp_path / "SFTTrainer", tmp_path / "SelectedSFTTrainer"]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in folders]
    assert files[0] == files[1] and len(files[0]) > 10
    assert trainers[0].evaluate()["eval_loss"] == trainers[1].evaluate()["eval_loss"]
    logs = [
        [{k: v for k, v in entry.items() if "runtime" not in k and "per_second" not in k} for entry in history]
        for history in (trainer.state.log_history for trainer in trainers)
    ]
    assert logs[0] == logs[1]


def test_without_config_every_kind_of_args_is_taken(model_dir, tmp_path):
    plain = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, max_steps=1)
    SelectedSFTTrainer(model_dir, plain, train_dataset=CHAT_POOL)
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        SelectedSFTTrainer(model_dir, arguments(tmp_path))


def test_its_arguments_are_those_of_sft_trainer():
    """`help` and programs that look for `processing_class` saw `*args` and `**kwargs` alone."""
    ours, theirs = (inspect.signature(cls).parameters for cls in (SelectedSFTTrainer, SFTTrainer))
    assert list(ours) == [*theirs, "anchor_dataset", "nuggets_config"]
    assert [ours[name] for name in theirs] == list(theirs.values()) and "processing_class" in theirs


def test_the_base_trainer_may_take_any_keyword():
    """Libraries that replace `SFTTrainer` give theirs `**kwargs`: importing this package ended in a ValueError."""

    class Replaced:
        def __init__(self, model, args=None, **kwargs):
            pass

    names = list(full_signature(Replaced).parameters)
    assert names == ["self", "model", "args", "anchor_dataset", "nuggets_config", "kwargs"]


@pytest.mark.parametrize("columns", ["chat", "alpaca"])
@pytest.mark.parametrize("packing", [False, True], ids=["unpacked", "packed"])
def test_it_trains_as_sft_trainer_on_the_golden_set(columns, packing, model_dir, tmp_path):
    options = {"packing": packing, "packing_strategy": "wrapped", "max_length": 64} if packing else {}
    pool = CHAT_POOL if columns == "chat" else Dataset.from_list(POOL)
    set_seed(0)
    selected = SelectedSFTTrainer(
        model_dir, arguments(tmp_path / "a", **options), train_dataset=pool, peft_config=lora(), **SELECT
    )
    selected.train()
    golden = selected.golden_set.indices
    assert len(golden) == 9 and len(set(golden.tolist())) == 9
    set_seed(0)
    stock = SFTTrainer(
        model_dir,
        arguments(tmp_path / "b", **options),
        train_dataset=CHAT_POOL.select(np.sort(golden)),
        peft_config=lora(),
    )
    stock.train()
    assert_same_training(selected, stock)
    assert selected.state.max_steps == stock.state.max_steps
    if not packing:
        assert selected.state.max_steps == 2 * 5  # two epochs of ceil(9 / 2) steps


def test_the_base_model_scores_without_its_adapter(model_dir, tmp_path):
    model, tokenizer = load_scorer(model_dir)
    pool = Pool(CHAT_POOL)
    expected, _ = score_pool(
        model,
        tokenizer,
        pool,
        Pool(ANCHORS),
        config=NuggetsConfig(),
        score_dir=tmp_path / "bare",
    )
    for name, config in {"lora": lora(init_lora_weights=False), "saved": lora(modules_to_save=["lm_head"])}.items():
        trainer = SelectedSFTTrainer(
            model_dir, arguments(tmp_path / name), train_dataset=CHAT_POOL, peft_config=config, **SELECT
        )
        trainer.select()
        assert trainer.scores.golden_score.tolist() == expected.golden_score.tolist()
        np.testing.assert_array_equal(trainer.scores.mean_gain, expected.mean_gain)
        assert trainer.scores.num_pairs_scored == 24 * 5  # a store of its own: it was the model that agreed


def test_stored_scores_are_used_again(model_dir, tmp_path):
    model, tokenizer = load_scorer(model_dir)
    pool = Pool(CHAT_POOL)
    score_pool(model, tokenizer, pool, Pool(ANCHORS), config=NuggetsConfig(), score_dir=tmp_path / "s")
    config = NuggetsConfig(top_k=9, score_dir=str(tmp_path / "s"))
    trainer = SelectedSFTTrainer(
        model_dir,
        arguments(tmp_path / "out", gradient_checkpointing=True),
        train_dataset=CHAT_POOL,
        peft_config=lora(),
        anchor_dataset=ANCHORS,
        nuggets_config=config,
    )
    trainer.select()
    assert trainer.scores.num_pairs_scored == 0


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def test_scoring_leaves_random_numbers_alone(model_dir, tmp_path):
    trainer = SelectedSFTTrainer(model_dir, arguments(tmp_path), train_dataset=CHAT_POOL, **SELECT)
    seed_all(7)
    trainer.select()
    drawn = torch.rand(1).item(), random.random(), np.random.rand()
    seed_all(7)
    assert drawn == (torch.rand(1).item(), random.random(), np.random.rand())


class Recorder(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_the_golden_set_is_logged_through_report_to(model_dir, tmp_path):
    recorder = Recorder()
    args = arguments(tmp_path, report_to="tensorboard", max_steps=1)
    trainer = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, callbacks=[recorder], **SELECT)
    trainer.train()
    assert recorder.logs[0]["nuggets/golden_set_size"] == 9
    assert recorder.logs[0]["nuggets/golden_score_cut"] == trainer.golden_set.cut
    assert "nuggets/ties_at_cut" in trainer.state.log_history[0]
    events = b"".join(path.read_bytes() for path in tmp_path.rglob("events.out.tfevents*"))
    assert b"nuggets/golden_set_size" in events


def test_alpaca_evaluation_rows_become_chat_too(model_dir, tmp_path):
    options = {"train_dataset": Dataset.from_list(POOL), **SELECT}
    alpaca = Dataset.from_list(POOL).select(range(6))
    from_alpaca = SelectedSFTTrainer(model_dir, arguments(tmp_path / "a"), eval_dataset={"x": alpaca}, **options)
    from_chat = SelectedSFTTrainer(
        model_dir, arguments(tmp_path / "b"), eval_dataset=CHAT_POOL.select(range(6)), **options
    )
    expected = from_chat.evaluate()["eval_loss"]
    assert from_alpaca.evaluate()["eval_x_loss"] == expected
    options["train_dataset"] = CHAT_POOL  # the pool's own columns do not matter, nor does streaming
    streamed = SelectedSFTTrainer(
        model_dir, arguments(tmp_path / "c"), eval_dataset=alpaca.to_iterable_dataset(), **options
    )
    assert streamed.evaluate()["eval_loss"] == expected


def test_without_a_chat_template_rows_are_text(model_dir, tokenizer, tmp_path):
    model, plain = load_scorer(model_dir)
    plain.chat_template = None
    args = arguments(tmp_path, num_train_epochs=1)
    trainer = SelectedSFTTrainer(model, args, train_dataset=Dataset.from_list(POOL), processing_class=plain, **SELECT)
    trainer.train()
    row = POOL[int(np.sort(trainer.golden_set.indices)[0])]
    text = plain.decode(trainer.train_dataset[0]["input_ids"], skip_special_tokens=True)
    assert text.split() == f"{row['instruction']} {row['input']} {row['output']}".split()


def test_what_trl_refuses_is_refused_before_scoring(model_dir, tmp_path):
    model, plain = load_scorer(model_dir)
    plain.chat_template = None
    with pytest.raises(ValueError, match="chat_template"):
        SelectedSFTTrainer(model, arguments(tmp_path), train_dataset=CHAT_POOL, processing_class=plain, **SELECT)


def test_bfloat16_training_scores_in_bfloat16(model_dir, tmp_path):
    found = {}
    for score_dtype in ("auto", "float32"):
        config = NuggetsConfig(top_k=9, score_dtype=score_dtype)
        trainer = SelectedSFTTrainer(
            model_dir,
            arguments(tmp_path / score_dtype, bf16=True),
            train_dataset=CHAT_POOL,
            anchor_dataset=ANCHORS,
            nuggets_config=config,
        )
        trainer.select()
        manifest = next((tmp_path / score_dtype).glob("nuggets/*/manifest.json"))
        found[score_dtype] = json.loads(manifest.read_text())["fields"]["score_dtype"]
    assert found == {"auto": "bfloat16 autocast", "float32": "float32"}


def test_a_trainer_trains_on_the_rows_of_lowest_loss(model_dir, tmp_path):
    config = NuggetsConfig(top_k=6, rank_by="loss", score_dir=str(tmp_path / "scores"))
    args = arguments(tmp_path / "out", max_steps=1)
    trainer = SelectedSFTTrainer(model_dir, args, train_dataset=CHAT_POOL, nuggets_config=config)
    trainer.train()
    loss = trainer.scores.signals["loss"]
    assert trainer.golden_set.indices.tolist() == np.argsort(loss, kind="stable")[:6].tolist()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "rank_by=loss" in card and "by their loss: the lowest" in card and "| none |" in card
