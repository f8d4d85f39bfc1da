"""`SelectedSFTTrainer` without `nuggets_config` against `SFTTrainer`, one argument at a time, bit for bit.

Compared are every logged number, the tokens of every forward pass in their order, the final weights, every file left
behind with the tensors in it, the metrics of `evaluate`, the callbacks, the warnings, and the state of the random
number generators. What `SFTTrainer` refuses has to be refused with the same words.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from nuggets_trainer import SelectedSFTTrainer
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

ROWS = Dataset.from_list(alpaca_rows(14, seed=1))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def prompt_completion(row):
    return {"prompt": [turn("user", row["instruction"])], "completion": [turn("assistant", row["output"].strip())]}


def messages(row):
    chat = prompt_completion(row)
    return {"messages": [*chat["prompt"], *chat["completion"], turn("user", "Again?"), *chat["completion"]]}


def text(row):
    return {"text": f"{row['instruction']} {row['output'].strip()}"}


def plain_text_pair(row):
    return {"prompt": row["instruction"], "completion": " " + row["output"].strip()}


def rows_as(columns: Callable[[dict[str, str]], dict[str, Any]]) -> Dataset:
    return Dataset.from_list([columns(row) for row in ROWS])


def train_rows(dataset: Dataset) -> Dataset:
    return dataset.select(range(10))


def eval_rows(dataset: Dataset) -> Dataset:
    return dataset.select(range(10, 14))


CHAT = rows_as(prompt_completion)
TRAIN, EVAL = train_rows(CHAT), eval_rows(CHAT)
EVALUATE = {"eval_strategy": "steps", "eval_steps": 2}
BEST = {**EVALUATE, "save_steps": 2, "load_best_model_at_end": True}
PACKED = {"packing": True, "max_length": 64}
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
# The same in every case, so that a case changes one thing: five steps, saved after the third and after the last.
COMMON = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "num_train_epochs": 1,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 3,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Setup:
    """What a case builds its arguments from, anew for each of the two trainers."""

    model_dir: str

    def args(self, **options: Any) -> SFTConfig:
        return SFTConfig("out", **{**COMMON, "bf16": False, "gradient_checkpointing": False, **options})

    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.model_dir, dtype="float32")

    def peft_model(self) -> Any:
        torch.manual_seed(3)
        return get_peft_model(self.model(), lora())

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.model_dir)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, **options)


def prompt_tuning() -> PromptTuningConfig:
    return PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)


def sgd(setup: Setup) -> dict[str, Any]:
    model = setup.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {"model": model, "optimizers": (optimizer, LambdaLR(optimizer, lambda step: 0.5**step))}


class StopAtTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2
        return control


class OutOfMemory(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.train_batch_size > 2:
            raise RuntimeError("CUDA out of memory.")


class PlainCollator:
    """Rows that nobody prepared."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, rows):
        batch = self.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def mean_prediction(prediction):
    return {"mean": float(prediction.predictions.mean()), "labels": int(prediction.label_ids.sum())}


def argmax(logits, labels):
    return logits.argmax(-1)


def summed_loss(outputs, labels, num_items_in_batch=None):
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / 100


def args_only(**options: Any) -> Callable[[Setup], dict[str, Any]]:
    return lambda setup: {"args": setup.args(**options)}


def unprepared(setup: Setup) -> dict[str, Any]:
    dataset = rows_as(text)
    return {
        "args": setup.args(dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False),
        "train_dataset": train_rows(dataset),
        "data_collator": PlainCollator(setup.tokenizer()),
    }


def format_columns(columns: Callable[[dict[str, str]], dict[str, Any]], **options: Any) -> Callable[..., Any]:
    dataset = rows_as(columns)
    return lambda setup: {
        "args": setup.args(**options),
        "train_dataset": train_rows(dataset),
        "eval_dataset": eval_rows(dataset),
    }


def tokenized(setup: Setup) -> dict[str, Any]:
    tokenizer = setup.tokenizer()
    dataset = rows_as(text).map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns="text")
    return {"train_dataset": train_rows(dataset), "eval_dataset": eval_rows(dataset)}


def formatted(setup: Setup) -> dict[str, Any]:
    return {
        "train_dataset": train_rows(ROWS),
        "eval_dataset": eval_rows(ROWS),
        "formatting_func": lambda row: f"{row['instruction']} = {row['output']}",
    }


# Keys beside those of `SFTTrainer.__init__`: `positional`, the positional arguments; `evaluate`, what to evaluate on
# instead of the prepared rows; `resume`, how a second trainer resumes from the first one's checkpoint.
CASES: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "defaults": lambda setup: {},
    # How the arguments are given.
    "positional": lambda setup: {"positional": (setup.model_dir, setup.args(), None, TRAIN, EVAL, setup.tokenizer())},
    "plain-arguments": lambda setup: {"args": TrainingArguments("out", **COMMON)},
    "no-arguments": lambda setup: {"args": None},
    "model-object": lambda setup: {"model": setup.model()},
    "processing-class": lambda setup: {"processing_class": setup.tokenizer()},
    # What the rows look like, and how they are prepared.
    "text": format_columns(text),
    "messages": format_columns(messages),
    "text-pair": format_columns(plain_text_pair),
    "tokenized": tokenized,
    "formatting-func": formatted,
    "unprepared": unprepared,
    "iterable": lambda setup: {"args": setup.args(max_steps=3), "train_dataset": TRAIN.to_iterable_dataset()},
    "max-length": args_only(max_length=24),
    "shuffled": args_only(shuffle_dataset=True),
    "pad-to-multiple": args_only(pad_to_multiple_of=8),
    "packed-bfd": args_only(**PACKED, packing_strategy="bfd"),
    "packed-split": args_only(**PACKED, packing_strategy="bfd_split"),
    "packed-wrapped": args_only(**PACKED, packing_strategy="wrapped"),
    "packed-train-only": lambda setup: {"args": setup.args(**PACKED, eval_packing=False), "eval_dataset": EVAL},
    "padding-free": args_only(padding_free=True, max_length=None),
    # The loss.
    "completion-only": args_only(completion_only_loss=True),
    "completion-and-prompt": args_only(completion_only_loss=False),
    "completion-unset": args_only(completion_only_loss=None),
    "assistant-only": format_columns(messages, assistant_only_loss=True),
    "dft": args_only(loss_type="dft"),
    "label-smoothing": args_only(label_smoothing_factor=0.1),
    "loss-func": lambda setup: {"compute_loss_func": summed_loss},
    "neftune": args_only(neftune_noise_alpha=5.0),
    # Evaluation.
    "eval": lambda setup: {"args": setup.args(**EVALUATE), "eval_dataset": EVAL},
    "eval-iterable": lambda setup: {"args": setup.args(**EVALUATE), "eval_dataset": EVAL.to_iterable_dataset()},
    "eval-dict": lambda setup: {"args": setup.args(**EVALUATE), "eval_dataset": {"a": EVAL, "b": TRAIN}},
    "eval-dataset-dict": lambda setup: {"eval_dataset": DatasetDict({"a": EVAL, "b": TRAIN})},
    "eval-named-train": lambda setup: {"args": setup.args(**EVALUATE), "eval_dataset": {"train": EVAL}},
    "evaluate-rows": lambda setup: {"evaluate": EVAL},
    "evaluate-dict": lambda setup: {"evaluate": {"train": EVAL}},
    "best-model": lambda setup: {"args": setup.args(**BEST), "eval_dataset": EVAL},
    "compute-metrics": lambda setup: {
        "args": setup.args(**EVALUATE),
        "eval_dataset": EVAL,
        "compute_metrics": mean_prediction,
        "preprocess_logits_for_metrics": argmax,
    },
    # The order of the batches, and the loop.
    "max-steps": args_only(max_steps=7),
    "epochs": args_only(num_train_epochs=2, save_strategy="epoch"),
    "accumulation": args_only(gradient_accumulation_steps=2),
    "sequential": args_only(train_sampling_strategy="sequential"),
    "group-by-length": args_only(train_sampling_strategy="group_by_length"),
    "batch-rebalance": args_only(train_sampling_strategy="batch_rebalance"),
    "workers": args_only(**WORKERS),
    "seed": args_only(seed=7, data_seed=8),
    "find-batch-size": lambda setup: {
        "args": setup.args(auto_find_batch_size=True, per_device_train_batch_size=4),
        "callbacks": [OutOfMemory()],
    },
    "callback": lambda setup: {"callbacks": [StopAtTwo()]},
    "optimizers": sgd,
    "optimizer-class": lambda setup: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})},
    "bf16": args_only(bf16=True),
    "checkpointing": args_only(gradient_checkpointing=True),
    "checkpointing-selective": args_only(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"selective": True}
    ),
    "resume-last": lambda setup: {"resume": True},
    "resume-path": lambda setup: {"resume": "out/checkpoint-3"},
    "resume-lora": lambda setup: {"resume": True, "peft_config": lora()},
    # Adapters.
    "lora": lambda setup: {"peft_config": lora()},
    "lora-checkpointing": lambda setup: {"peft_config": lora(), "args": setup.args(gradient_checkpointing=True)},
    "dora": lambda setup: {"peft_config": lora(use_dora=True)},
    "pissa": lambda setup: {"peft_config": lora(init_lora_weights="pissa")},
    "prompt-tuning": lambda setup: {"peft_config": prompt_tuning()},
    "peft-model": lambda setup: {"model": setup.peft_model()},
}
REFUSED: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "no-rows": lambda setup: {"train_dataset": None},
    "dataset-dict": lambda setup: {"train_dataset": DatasetDict({"train": TRAIN})},
    "padding-free-with-max-length": args_only(padding_free=True),
    "packing-without-max-length": args_only(packing=True, max_length=None),
    "assistant-only-text": format_columns(text, assistant_only_loss=True),
    "completion-only-formatted": lambda setup: {
        **formatted(setup),
        "args": setup.args(completion_only_loss=True),
    },
    "images": lambda setup: {"train_dataset": TRAIN.add_column("images", [None] * 10)},
    "unprepared-masks": lambda setup: {
        "args": setup.args(dataset_kwargs={"skip_prepare_dataset": True}),
        "train_dataset": Dataset.from_list([{"input_ids": [1, 2], "completion_mask": [0, 1]}] * 4),
    },
    "two-adapters": lambda setup: {"model": setup.peft_model(), "peft_config": lora()},
    "unknown-argument": lambda setup: {"anchors": TRAIN},
    "argument-twice": lambda setup: {"positional": (setup.model_dir,), "model": setup.model_dir},
    "nothing": lambda setup: {"positional": ()},
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("drop_in") / "tiny"
    tiny_model("llama", len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Setup(str(path))


@pytest.fixture(autouse=True)
def arguments_for_cpu(monkeypatch):
    """TRL's own default arguments ask for bfloat16 on an accelerator."""
    complete = SFTConfig.__post_init__

    def on_cpu(self):
        self.use_cpu = self.disable_tqdm = True
        complete(self)

    monkeypatch.setattr(SFTConfig, "__post_init__", on_cpu)


def build(cls, case, setup):
    arguments = case(setup)
    if "positional" not in arguments:
        arguments = {"model": setup.model_dir, "args": setup.args(), "train_dataset": TRAIN, **arguments}
    positional = arguments.pop("positional", ())
    resume, evaluate = arguments.pop("resume", None), arguments.pop("evaluate", None)
    return cls(*positional, **arguments), resume, evaluate


def run(cls, case, setup, folder, monkeypatch) -> dict[str, Any]:
    """Train, evaluate and save in `folder`; give everything that can be seen of it."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    set_seed(0)  # TRL before 1.16 draws the adapter's weights without seeding
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, resume, evaluate = build(cls, case, setup)
        if resume is not None:
            trainer.train()
            shutil.rmtree("out/checkpoint-5")
            trainer, *_ = build(cls, case, setup)
        batches: list[torch.Tensor] = []
        trainer.model.register_forward_pre_hook(
            lambda module, args, kwargs: batches.append(kwargs["input_ids"].clone()), with_kwargs=True
        )
        output = trainer.train(resume_from_checkpoint=resume) if resume else trainer.train()
        trained_on = len(batches)
        if evaluate is None and trainer.eval_dataset is None:
            evaluate = trainer.train_dataset
        metrics = trainer.evaluate(evaluate)
        trainer.save_model()
    assert trained_on > 1
    return {
        "log": [without_times(entry) for entry in trainer.state.log_history],
        "output": [output.global_step, output.training_loss],
        "metrics": without_times(metrics),
        "batches": batches,
        "weights": {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()},
        "rows": [dict(row) for row in trainer.train_dataset],
        "files": {str(path.relative_to(folder)): content(path) for path in folder.rglob("*") if path.is_file()},
        "callbacks": [type(callback).__name__ for callback in trainer.callback_handler.callbacks],
        "warnings": [str(warning.message) for warning in caught if warning.category is FutureWarning],
        "drawn": [torch.rand(3), random.random(), np.random.rand()],
    }


def without_times(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in numbers.items() if "runtime" not in key and "per_second" not in key}


def content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.name == "training_args.bin":  # the same arguments, but other bytes every time
        return torch.load(path, weights_only=False).to_dict()
    if path.suffix in {".pt", ".pth"}:
        return torch.load(path, weights_only=False)
    if path.name == "trainer_state.json":
        state = json.loads(path.read_text())
        return {**state, "log_history": [without_times(entry) for entry in state["log_history"]]}
    return path.read_bytes()


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, tensors and arrays inside included."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, value in enumerate(one):
            assert_same(value, other[i], f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, err_msg=where)
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} and {other}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_config_it_trains_as_sft_trainer(case, setup, tmp_path, monkeypatch):
    try:
        stock = run(SFTTrainer, case, setup, tmp_path / "stock", monkeypatch)
    except (TypeError, ValueError) as error:
        pytest.skip(f"this version of TRL takes no such arguments: {error}")
    ours = run(SelectedSFTTrainer, case, setup, tmp_path / "ours", monkeypatch)
    assert_same(stock, ours)
    assert any(name.endswith(".safetensors") for name in stock["files"])


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_without_config_the_same_errors_are_raised(case, setup, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = []
    for cls in (SFTTrainer, SelectedSFTTrainer):
        try:
            build(cls, case, setup)
        except (AttributeError, TypeError, ValueError) as error:
            errors.append((type(error), str(error)))
        else:
            errors.append(None)
    assert errors[0] == errors[1]
    if errors[0] is None:
        pytest.skip("this version of TRL takes it")
