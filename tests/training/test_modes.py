"""Every mode of `SFTTrainer` with selection on: training is, bit for bit, `SFTTrainer` on the golden set.

The tables of docs/guides/your_data.md are held against this file: a mode is called "works" if its test is here,
"refused" if the message is.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback, set_seed
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl
from tests.support.launch import ROOT
from tests.support.training import ANCHORS, CHAT_POOL, POOL, arguments, assert_same_training, lora, losses

PAGE = (ROOT / "docs" / "guides" / "your_data.md").read_text()
# What TRL and torch announce of their own options is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

EVAL = CHAT_POOL.select(range(6))
EVALUATE = {"eval_strategy": "steps", "eval_steps": 3}
CHECKPOINTS = {"save_strategy": "steps", "save_steps": 3}


def messages() -> Dataset:
    return CHAT_POOL.map(
        lambda row: {"messages": [*row["prompt"], *row["completion"]]}, remove_columns=["prompt", "completion"]
    )


def tokenized(model_dir) -> Dataset:
    rows = SFTTrainer(model_dir, arguments("unused"), train_dataset=CHAT_POOL).train_dataset
    if "labels" not in rows.column_names:  # older versions of TRL have a mask, and labels in each batch alone
        rows = rows.map(lambda row: {"labels": np.where(row["completion_mask"], row["input_ids"], -100).tolist()})
    return rows.select_columns(["input_ids", "labels"])


class FirstTokens:
    """A collator of the user's own, that reads columns which the Trainer would drop."""

    def __call__(self, rows):
        ids = [row["input_ids"][:16] for row in rows]
        assert all("labels" in row for row in rows)
        width = max(map(len, ids))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in ids])
        return {"input_ids": padded, "labels": labels, "attention_mask": (labels != -100).long()}


# Options of SFTConfig, by the name of the mode on the page.
CONFIG_MODES = {
    "packing `bfd`": {"packing": True, "packing_strategy": "bfd", "max_length": 64},
    "packing `bfd_split`": {"packing": True, "packing_strategy": "bfd_split", "max_length": 64},
    "packing `wrapped`": {"packing": True, "packing_strategy": "wrapped", "max_length": 64},
    "`padding_free`": {"padding_free": True, "max_length": None},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "gradient accumulation": {"gradient_accumulation_steps": 2},
    "`completion_only_loss=True`": {"completion_only_loss": True},
    "`completion_only_loss=False`": {"completion_only_loss": False},
    '`loss_type="dft"`': {"loss_type": "dft"},
    "`auto_find_batch_size`": {"auto_find_batch_size": True},
    "`group_by_length`": {"train_sampling_strategy": "group_by_length"},
    "sequential order": {"train_sampling_strategy": "sequential"},
    "`shuffle_dataset`": {"shuffle_dataset": True},
    "dataloader workers": {"dataloader_num_workers": 2},
    "persistent workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "`max_steps`": {"max_steps": 7},
    "NEFTune": {"neftune_noise_alpha": 5.0},
    "`max_length`": {"max_length": 30},
    "bf16": {"bf16": True},
    "`torch_compile`": {"torch_compile": True, "torch_compile_backend": "eager"},
    "custom `eos_token`": {"eos_token": "<|system|>"},
    "evaluation during training": EVALUATE,
    "`load_best_model_at_end`": {**EVALUATE, **CHECKPOINTS, "load_best_model_at_end": True},
}


def peft_model(path):
    torch.manual_seed(0)  # an adapter starts at random; both trainers must start at the same one
    return get_peft_model(AutoModelForCausalLM.from_pretrained(path), LoraConfig(r=4, target_modules="all-linear"))


def partly_frozen(path):
    """Return a `PeftModel` that trains lora_B alone, as LoRA-FA does."""
    model = peft_model(path)
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)
    return model


def model_with_adapter(path):
    """Return a transformers model that holds an adapter itself, without a `PeftModel`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path)
    model.add_adapter(LoraConfig(r=4, target_modules="all-linear"))
    return model


# Arguments of SFTTrainer: functions of the model's directory.
TRAINER_MODES = {
    "full fine-tuning": lambda path: {"peft_config": None},
    "LoRA": lambda path: {"peft_config": lora()},
    "DoRA": lambda path: {"peft_config": lora(use_dora=True)},
    "rsLoRA": lambda path: {"peft_config": lora(use_rslora=True)},
    "prompt tuning": lambda path: {
        "peft_config": PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    },
    "a `PeftModel`": lambda path: {"model": peft_model(path)},
    "a `PeftModel` with frozen weights": lambda path: {"model": partly_frozen(path)},
    "an adapter that transformers loaded": lambda path: {"model": model_with_adapter(path)},
    "model as an object": lambda path: {"model": AutoModelForCausalLM.from_pretrained(path)},
    "`processing_class`": lambda path: {"processing_class": AutoTokenizer.from_pretrained(path)},
    "custom collator": lambda path: {"data_collator": FirstTokens()},
    "`eval_dataset` as a dict": lambda path: {"eval_dataset": {"train": EVAL, "b": EVAL}, "args": EVALUATE},
    "`optimizers`": lambda path: {"optimizers": (None, None)},
    "`compute_metrics`": lambda path: {
        "compute_metrics": lambda predictions: {"n": len(predictions.predictions)},
        "eval_dataset": EVAL,
        "args": EVALUATE,
    },
    "callbacks": lambda path: {"callbacks": [TrainerCallback()]},
    "`skip_prepare_dataset`": lambda path: {
        "train_dataset": tokenized(path),
        "anchor_dataset": tokenized(path).select(range(5)),
        "args": {"dataset_kwargs": {"skip_prepare_dataset": True}},
    },
    "`assistant_only_loss`": lambda path: {
        "train_dataset": messages(),
        "args": {"assistant_only_loss": True},
    },
}


def several_turns(row):
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "one cat"},
        *row["prompt"],
        *row["completion"],
    ]


def mapped(write) -> Dataset:
    """Write the pool's rows otherwise."""
    return CHAT_POOL.map(write, remove_columns=["prompt", "completion"])


def question(row) -> str:
    return row["prompt"][0]["content"]


def answer(row) -> str:
    return row["completion"][0]["content"]


def sharegpt(row):
    names = (("human", question(row)), ("gpt", answer(row)))
    return {"conversations": [{"from": name, "value": text} for name, text in names]}


TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}
ALPACA = Dataset.from_list(POOL)
ALPACA_OF_TURNS = CHAT_POOL.map(
    lambda row: {
        "instruction": question(row),
        "output": answer(row),
        "system": "Be brief.",
        "history": [["Hello?", "one cat"]],
        "turns": several_turns(row)[:-1],
        "answer": row["completion"],
    },
    remove_columns=["prompt", "completion"],
)
# Rows as `SelectedSFTTrainer` gets them; and as `SFTTrainer` gets them, where it does not know the columns.
FORMATS = {
    "`prompt` + `completion` as text": lambda path: {
        "train_dataset": mapped(lambda row: {"prompt": question(row) + " ", "completion": answer(row)})
    },
    "`prompt` + `completion` as messages": lambda path: {},
    "`messages`": lambda path: {"train_dataset": messages()},
    "several turns and a system prompt": lambda path: {
        "train_dataset": mapped(lambda row: {"messages": several_turns(row)})
    },
    "ShareGPT's `conversations`": lambda path: {
        "train_dataset": mapped(sharegpt),
        "eval_dataset": mapped(sharegpt).select(range(6)),
        "args": EVALUATE,
        "stock_dataset": messages(),  # TRL would keep the roles `human` and `gpt`
        "stock_eval_dataset": messages().select(range(6)),
    },
    "`tools`": lambda path: {"train_dataset": CHAT_POOL.add_column("tools", [[TOOL]] * 24)},
    "`chat_template_kwargs`": lambda path: {
        "train_dataset": CHAT_POOL.add_column("chat_template_kwargs", [{"style": "long"}] * 24)
    },
    "`text`": lambda path: {"train_dataset": mapped(lambda row: {"text": f"{question(row)} {answer(row)}"})},
    "`formatting_func`": lambda path: {
        "train_dataset": mapped(lambda row: {"q": question(row), "a": answer(row)}),
        "formatting_func": lambda row: f"Q: {row['q']} A: {row['a']}",
        "eval_dataset": None,
    },
    "`formatting_func` with `response_field`": lambda path: {
        "train_dataset": ALPACA,
        "formatting_func": lambda row: f"Q: {row['instruction']} A: {row['output']}",
        "nuggets_config": NuggetsConfig(top_k=9, response_field="output"),
        "eval_dataset": None,
    },
    "Alpaca's `instruction`, `input`, `output`": lambda path: {
        "train_dataset": ALPACA,
        "eval_dataset": None,
        "stock_dataset": alpaca_to_trl(ALPACA, "chat"),
    },
    "Alpaca's columns with LLaMA-Factory's `system` and `history`": lambda path: {
        "train_dataset": ALPACA_OF_TURNS,
        "eval_dataset": None,
        "stock_dataset": ALPACA_OF_TURNS.map(lambda row: {"prompt": row["turns"], "completion": row["answer"]}),
    },
    "`input_ids` + `labels`": lambda path: {
        "train_dataset": tokenized(path),
        "anchor_dataset": tokenized(path).select(range(5)),
    },
    "`IterableDataset` with `pool_size`": lambda path: {
        "train_dataset": CHAT_POOL.to_iterable_dataset(),
        "nuggets_config": NuggetsConfig(top_k=9, pool_size=20),
        "stock_dataset": CHAT_POOL,
    },
}


def train_both(model_dir, tmp_path, make_options):
    """Train on the golden set that was selected, and by `SFTTrainer` on the same rows."""
    defaults = {"model": model_dir, "train_dataset": CHAT_POOL, "peft_config": None, "eval_dataset": EVAL}
    ours = {**defaults, "anchor_dataset": ANCHORS, "nuggets_config": NuggetsConfig(top_k=9), **make_options()}
    args = ours.pop("args", {})
    for name in ("stock_dataset", "stock_eval_dataset"):
        ours.pop(name, None)
    set_seed(0)  # TRL before 1.16 draws the adapter's weights without seeding
    golden = SelectedSFTTrainer(args=arguments(tmp_path / "golden", **args), **ours)
    golden.train()
    theirs = {**defaults, **make_options()}
    for name in ("args", "anchor_dataset", "nuggets_config"):
        theirs.pop(name, None)
    rows = theirs.pop("stock_dataset", theirs["train_dataset"])
    theirs["eval_dataset"] = theirs.pop("stock_eval_dataset", theirs["eval_dataset"])
    theirs["train_dataset"] = rows.select(np.sort(golden.golden_set.indices))
    set_seed(0)
    stock = SFTTrainer(args=arguments(tmp_path / "stock", **args), **theirs)
    stock.train()
    return golden, stock


@pytest.mark.parametrize("name", FORMATS)
def test_a_format(name, model_dir, tmp_path):
    golden, stock = train_both(model_dir, tmp_path, lambda: FORMATS[name](model_dir))
    assert_same(golden, stock)


# The longest, and those that TRL handles before it looks at rows.
SLOW = {"`torch_compile`", "persistent workers", "rsLoRA", "callbacks", "`optimizers`", "model as an object"}


def but_slow(modes):
    return [pytest.param(mode, marks=[pytest.mark.slow] if mode in SLOW else []) for mode in modes]


@pytest.mark.parametrize("mode", but_slow(CONFIG_MODES))
def test_an_option_of_sft_config(mode, model_dir, tmp_path):
    golden, stock = train_both(model_dir, tmp_path, lambda: {"args": CONFIG_MODES[mode], "peft_config": lora()})
    assert_same(golden, stock)


@pytest.mark.parametrize("mode", but_slow(TRAINER_MODES))
def test_an_argument_of_sft_trainer(mode, model_dir, tmp_path):
    golden, stock = train_both(model_dir, tmp_path, lambda: TRAINER_MODES[mode](model_dir))
    assert_same(golden, stock)


def assert_same(golden, stock):
    assert len(losses(stock)) >= 2
    logged = [
        [
            {name: value for name, value in entry.items() if not re.search("runtime|per_second|nuggets", name)}
            for entry in trainer.state.log_history
            if not any(name.startswith("nuggets/") for name in entry)
        ]
        for trainer in (golden, stock)
    ]
    assert logged[0] == logged[1]
    weights = golden.model.state_dict()
    for name, tensor in stock.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_qlora(tmp_path):
    """Weights are compared through the losses: quantized ones have no state dict to compare."""
    pytest.importorskip("bitsandbytes")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    path = demo_path("model")  # the tests' model is too narrow for blocks of weights

    def options():
        model = AutoModelForCausalLM.from_pretrained(path, quantization_config=quantization)
        return {"model": model, "peft_config": lora()}

    golden, stock = train_both(str(path), tmp_path, options)
    assert losses(golden) == losses(stock) and len(losses(stock)) > 3


def test_resuming_from_a_checkpoint(model_dir, tmp_path):
    """Also shown for every step with re-selection on, in test_reselection.py."""

    def trainer(name):
        return SelectedSFTTrainer(
            model_dir,
            arguments(tmp_path / name, **CHECKPOINTS),
            train_dataset=CHAT_POOL,
            anchor_dataset=ANCHORS,
            nuggets_config=NuggetsConfig(top_k=9),
            peft_config=lora(),
        )

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert_same_training(whole, resumed)


# ---------------------------------------------------------------- what is refused

REFUSED = {
    "`IterableDataset` without `pool_size`": (
        {"train_dataset": CHAT_POOL.to_iterable_dataset()},
        "set `pool_size`",
    ),
    "images": ({"train_dataset": CHAT_POOL.add_column("images", [None] * 24)}, "selection works on text alone"),
    "packed rows": (
        {"train_dataset": Dataset.from_dict({"input_ids": [[5, 6]], "seq_lengths": [[2]]})},
        "is packed",
    ),
    "a tokenized pool with anchors that are not tokenized": (
        {"train_dataset": Dataset.from_dict({"input_ids": [[5, 6]]})},
        "must both be tokenized already or neither",
    ),
    "PiSSA, OLoRA and others that move base weights": (
        {"peft_config": LoraConfig(init_lora_weights="pissa", target_modules="all-linear")},
        "changes the base model's weights",
    ),
}
# With `reselect` alone.
NOT_RESELECTED = {
    "packing `bfd`": "exchanges single rows",
    "packing `bfd_split`": "exchanges single rows",
    "packing `wrapped`": "exchanges single rows",
    "`auto_find_batch_size`": "plans with one batch size",
    "`group_by_length`": "needs an order that does not depend on the rows",
    "prompt tuning": "have no place in a scored prompt",
}

# `shuffle_dataset` orders the rows once more before the sampler does; the rows in a golden set's places change.
REORDERED = {"`shuffle_dataset`"}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name, model_dir, tmp_path):
    options, message = REFUSED[name]
    defaults = {"train_dataset": CHAT_POOL, "anchor_dataset": ANCHORS, "nuggets_config": NuggetsConfig(top_k=9)}
    with pytest.raises((TypeError, ValueError), match=message):
        SelectedSFTTrainer(model_dir, arguments(tmp_path), **{**defaults, **options})


def reselected(mode, path, output_dir):
    """Re-select among all rows, so that the golden set cannot move: training is the stock trainer's."""
    options = TRAINER_MODES[mode](path) if mode in TRAINER_MODES else {"args": CONFIG_MODES[mode]}
    args, rows = options.pop("args", {}), options.pop("train_dataset", CHAT_POOL)
    anchors = options.pop("anchor_dataset", ANCHORS)
    defaults = {"model": path, "train_dataset": rows, "eval_dataset": EVAL, "peft_config": None}
    config = NuggetsConfig(top_fraction=1.0, reselect="steps", reselect_steps=3)
    ours = {"anchor_dataset": anchors, "nuggets_config": config}
    return arguments(output_dir, **args), {**defaults, **options}, ours


@pytest.mark.parametrize("mode", NOT_RESELECTED)
def test_it_is_refused_with_reselect(mode, model_dir, tmp_path):
    args, options, ours = reselected(mode, model_dir, tmp_path)
    with pytest.raises(ValueError, match=NOT_RESELECTED[mode]):
        SelectedSFTTrainer(args=args, **options, **ours)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in {**CONFIG_MODES, **TRAINER_MODES} if mode not in NOT_RESELECTED])
def test_a_mode_with_reselect(mode, model_dir, tmp_path):
    args, options, ours = reselected(mode, model_dir, tmp_path / "golden")
    golden = SelectedSFTTrainer(args=args, **options, **ours)
    golden.train()
    args, options, _ = reselected(mode, model_dir, tmp_path / "stock")
    stock = SFTTrainer(args=args, **options)
    stock.train()
    if mode in REORDERED:
        assert golden.state.global_step == stock.state.global_step
        with pytest.raises(AssertionError):
            assert_same(golden, stock)
    else:
        assert_same(golden, stock)


# ---------------------------------------------------------------- the page


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the table under a heading by each name in their first cell; the other cells."""
    lines = PAGE[PAGE.index(f"\n## {heading}\n") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    rows = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 1 :]):
        names, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows |= dict.fromkeys(names.split("; "), cells)
    return rows


def test_the_page_lists_the_formats_as_tested():
    refused = [name for name in REFUSED if "PiSSA" not in name]
    rows = table("Formats")
    assert set(rows) == {*FORMATS, *refused}
    for name, (_, cell) in rows.items():
        assert cell == (f'refused: "{REFUSED[name][1]}"' if name in REFUSED else "works"), name


def test_the_page_lists_the_modes_as_tested():
    rows = table("Training modes")
    works = {*CONFIG_MODES, *TRAINER_MODES, "QLoRA", "resuming from a checkpoint"}
    refused = [name for name in REFUSED if "PiSSA" in name]
    assert set(rows) == {*works, *refused}
    for name, (cell, again) in rows.items():
        assert cell == (f'refused: "{REFUSED[name][1]}"' if name in REFUSED else "works"), name
        if name in works:
            works_again = "works, in another order" if name in REORDERED else "works"
            assert again == (f'refused: "{NOT_RESELECTED[name]}"' if name in NOT_RESELECTED else works_again), name
