"""Short training jobs, and what tells two of them apart."""

from __future__ import annotations

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from tests.support.rows import alpaca_rows

POOL = alpaca_rows(24, seed=1)


ANCHORS = Dataset.from_list(alpaca_rows(5, seed=2))


CHAT_POOL = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": (row["instruction"] + "\n\n" + row["input"].strip()).strip()}],
            "completion": [{"role": "assistant", "content": row["output"].strip()}],
        }
        for row in POOL
    ]
)


SELECT = {"anchor_dataset": ANCHORS, "nuggets_config": NuggetsConfig(top_k=9)}


def arguments(output_dir, **options) -> SFTConfig:
    defaults = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return SFTConfig(**{**defaults, **options})


def lora(**options) -> LoraConfig:
    # Dropout draws random numbers in every step, so that a disturbed generator shows.
    return LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1, **options)


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_training(one, other):
    assert losses(one) == losses(other) and len(losses(one)) > 3
    assert weights(one).keys() == weights(other).keys()
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


class Recorded(SelectedSFTTrainer):
    """Keeps what each forward pass of training reads."""

    def training_step(self, model, inputs, *args):
        self.__dict__.setdefault("batches", []).append(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, *args)


def selected(model_dir, output_dir, trainer_class=SelectedSFTTrainer, peft_config=None, config=None, **options):
    defaults = {"num_train_epochs": 3, "learning_rate": 5e-2}
    return trainer_class(
        model_dir,
        arguments(output_dir, **{**defaults, **options}),
        train_dataset=CHAT_POOL,
        anchor_dataset=ANCHORS,
        peft_config=peft_config,
        nuggets_config=NuggetsConfig(**{"top_k": 9, "reselect": "epoch", **(config or {})}),
    )
