"""`SelectedSFTTrainer`: TRL's SFTTrainer that first chooses what it trains on. Knows no formulas and no file formats.

Order of the stages: the pool waits untokenized until `train()`; it is scored with the base model; TRL prepares
(tokenizes, truncates, packs) the golden set alone; training goes on as in `SFTTrainer`. So training with selection is,
bit for bit, `SFTTrainer` on `pool.select(golden_set)`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig
from trl import SFTTrainer

from nuggets_trainer.data.pool import Pool, take_pool
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import (
    alpaca_to_trl,
    first_row_in_trl_columns,
    hub_options,
    is_alpaca,
)
from nuggets_trainer.training.callback import NuggetsDataCallback
from nuggets_trainer.training.preserved import silent_progress_bars
from nuggets_trainer.training.selector import anchor_pools

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainOutput

    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores
    from nuggets_trainer.training.selector import AnchorDataset

# The others (pissa, olora, corda, loftq, ...) move part of the base weights into the adapter.
ADAPTERS_THAT_LEAVE_THE_BASE = ("gaussian", "orthogonal", "eva")


class SelectedSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """`trl.SFTTrainer` that scores its `train_dataset` with the base model and trains on the golden set.

    Takes every argument of `SFTTrainer`, in the same position. Without `nuggets_config` it is `SFTTrainer`, bit for
    bit.

    Args:
        anchor_dataset: the anchors, a `Dataset` in any format that the pool may have, or several sets as a dict by
            name; default: `nuggets_config.anchors`, or else chosen from the pool.
        nuggets_config: switches selection on.

    Raises:
        TypeError, ValueError: for a pool, anchors or options that selection cannot work with, before any work.

    Example:
        ```python
        trainer = SelectedSFTTrainer(
            model="Qwen/Qwen3-0.6B",
            args=SFTConfig(output_dir="out"),
            train_dataset=pool,
            nuggets_config=NuggetsConfig(top_fraction=0.1),
            peft_config=LoraConfig(),
        )
        trainer.train()
        trainer.golden_set.indices
        ```
    """

    def __init__(
        self,
        *args: Any,
        anchor_dataset: AnchorDataset | None = None,
        nuggets_config: NuggetsConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.nuggets_config = nuggets_config
        self._nuggets = NuggetsDataCallback(nuggets_config)
        self._deferred: tuple[Any, ...] | None = None
        if nuggets_config is None:
            if anchor_dataset is not None:
                raise ValueError(
                    "`anchor_dataset` is given without `nuggets_config`. Pass `nuggets_config` to select."
                )
            super().__init__(*args, **kwargs)
            return
        arguments = inspect.signature(SFTTrainer.__init__).bind(self, *args, **kwargs).arguments
        arguments.pop("self")
        pool = _pool(arguments, nuggets_config)
        anchors = anchor_pools(nuggets_config, anchor_dataset, pool)
        _check_supported(arguments, pool)
        arguments["train_dataset"] = pool.dataset
        self._formats_itself, self._text_field = pool.formatting_func is not None, pool.text_field
        if pool.format == "alpaca":
            arguments["train_dataset"] = first_row_in_trl_columns(arguments, nuggets_config.template, pool)
        super().__init__(**arguments)
        self.train_dataset = pool.dataset
        self._nuggets.drive(self, pool, anchors, functools.partial(self._prepare_rows, packing=None))
        _, dropped = pool.read_keys()
        usable = next((i for i in range(len(pool)) if i not in dropped), None)
        if usable is not None:  # find out now what would stop TRL after hours of scoring
            with silent_progress_bars():
                self._prepare_rows(pool.dataset.select([usable]), packing=False)

    @property
    def golden_set(self) -> GoldenSet | None:
        """The `GoldenSet` in force, once `train()` (or `select()`) has chosen it; else None."""
        return self._nuggets.golden_set

    @property
    def scores(self) -> PoolScores | None:
        """The `PoolScores` it was chosen by; None before, and after resuming from a checkpoint."""
        return self._nuggets.scores

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        if self.nuggets_config is None:
            return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)
        # TRL prepares the training set first, then each evaluation set: the first one is the pool, and waits.
        if self._deferred is None:
            self._deferred = (processing_class, *args), kwargs
            return dataset
        if is_alpaca(dataset.column_names, self._text_field) and not self._formats_itself:
            tokenizer = getattr(processing_class, "tokenizer", processing_class)
            dataset = alpaca_to_trl(
                dataset, resolve_alpaca_template(self.nuggets_config.template, tokenizer.chat_template)
            )
        return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Select, then train as `SFTTrainer.train` does.

        Args:
            resume_from_checkpoint: as in `Trainer.train`. A checkpoint is resumed on the golden set saved in it.
            args: for `Trainer.train`.
            kwargs: for `Trainer.train`.
        """
        if self.nuggets_config is not None:
            resume_from_checkpoint = self._nuggets.begin(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """Give the dataloader over the golden set (over all rows without `nuggets_config`)."""
        if self.nuggets_config is None:
            return super().get_train_dataloader()
        return self._nuggets.golden_loader(super().get_train_dataloader)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card as `SFTTrainer` does, with a section on how the training data was chosen.

        Args:
            args: for `SFTTrainer.create_model_card`.
            kwargs: for `SFTTrainer.create_model_card`.
        """
        super().create_model_card(*args, **kwargs)
        if self.nuggets_config is not None:
            self._nuggets.complete_model_card()

    def select(self, resume_from_checkpoint: str | bool | None = None) -> GoldenSet:
        """Choose the golden set, once, and make it the training set.

        Args:
            resume_from_checkpoint: a checkpoint whose golden set to take instead of scoring; True for the last one in
                `output_dir`.

        Raises:
            FileNotFoundError: if no golden set was saved with the checkpoint.
            ValueError: if nothing can be scored, or the checkpoint's golden set was chosen under other settings.
        """
        assert self.nuggets_config is not None, "`select` needs a `nuggets_config`"
        if resume_from_checkpoint:
            self._nuggets.begin(resume_from_checkpoint)
        return self._nuggets.select()

    def _prepare_rows(self, rows: Dataset, packing: bool | None) -> Dataset:
        if self._deferred is None:  # `skip_prepare_dataset`: the rows are for the user's own collator
            return rows
        args, kwargs = self._deferred
        bound = inspect.signature(super()._prepare_dataset).bind(rows, *args, **kwargs)
        if packing is not None:
            bound.arguments["packing"] = packing
        return self._prepare_dataset(*bound.args, **bound.kwargs)


def _pool(arguments: dict[str, Any], config: NuggetsConfig) -> Pool:
    """Read `train_dataset` as a pool, in memory where it is a stream."""
    rows = take_pool(arguments.get("train_dataset"), config.pool_size, "train_dataset")
    args = arguments.get("args")
    return Pool(
        rows,
        "train_dataset",
        arguments.get("formatting_func"),
        config.response_field,
        text_field=getattr(args, "dataset_text_field", "text"),
        completion_only_loss=getattr(args, "completion_only_loss", None),
    )


def _check_supported(arguments: dict[str, Any], pool: Pool) -> None:
    images = {"image", "images"} & set(pool.dataset.column_names)
    if images:
        raise ValueError(f"`train_dataset` has the column {images.pop()!r}: selection works on text alone.")
    model = arguments.get("model")
    if isinstance(model, str):
        check_causal_lm(AutoConfig.from_pretrained(model, **hub_options(arguments.get("args"))))
    elif model is not None:
        check_causal_lm(model.config)
    for adapter in [arguments.get("peft_config"), *getattr(model, "peft_config", {}).values()]:
        start = getattr(adapter, "init_lora_weights", True)
        if isinstance(start, str) and start not in ADAPTERS_THAT_LEAVE_THE_BASE:
            raise ValueError(
                f"`init_lora_weights={start!r}` changes the base model's weights, so that switching the adapter off "
                "does not give the base model's scores. Score with `nuggets score` and train on the rows that are "
                "`selected` in scores.parquet, or use another initialisation."
            )
