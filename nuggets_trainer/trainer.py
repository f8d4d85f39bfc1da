"""`SelectedSFTTrainer`: TRL's SFTTrainer that first chooses what it trains on. Knows no formulas and no file formats.

Order of the stages: the pool waits untokenized until `train()`; it is scored with the base model; TRL prepares
(tokenizes, truncates, packs) the golden set alone; training goes on as in `SFTTrainer`. So training with selection is,
bit for bit, `SFTTrainer` on `pool.select(golden_set)`.
"""

from __future__ import annotations

import functools
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from transformers import AutoConfig
from trl import SFTTrainer

from nuggets_trainer.callback import (
    SELECTION_FILE,
    NuggetsDataCallback,
    last_complete_checkpoint,
    load_selection,
    save_selection,
)
from nuggets_trainer.causal_lm import base_model, check_causal_lm, resolve_autocast_dtype
from nuggets_trainer.columns import alpaca_template, alpaca_to_trl, first_row_in_trl_columns, hub_options, is_alpaca
from nuggets_trainer.config import DEFAULT_NUM_ANCHORS
from nuggets_trainer.contexts import preserved_rng, silent_progress_bars
from nuggets_trainer.fingerprint import config_hash
from nuggets_trainer.loading import load_rows, load_scorer, load_scorer_tokenizer
from nuggets_trainer.pool import Pool, anchors_like
from nuggets_trainer.scorer import score_pool
from nuggets_trainer.templates import make_template

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainOutput

    from nuggets_trainer.config import NuggetsConfig
    from nuggets_trainer.results import PoolScores
    from nuggets_trainer.selection import GoldenSet

logger = logging.getLogger(__name__)

IF_SET = ("scorer_model", "scorer_model_init_kwargs", "race_confidence")
# The others (pissa, olora, corda, loftq, ...) move part of the base weights into the adapter.
ADAPTERS_THAT_LEAVE_THE_BASE = ("gaussian", "orthogonal", "eva")


class SelectedSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """`trl.SFTTrainer` that scores its `train_dataset` with the base model and trains on the golden set.

    Takes every argument of `SFTTrainer`, in the same position. Without `nuggets_config` it is `SFTTrainer`, bit for
    bit.

    Args:
        anchor_dataset: the anchors, a `Dataset` in any format that the pool may have; default:
            `nuggets_config.anchors`, or else chosen from the pool.
        nuggets_config: switches selection on.

    Attributes:
        golden_set: the `GoldenSet`, once `train()` (or `select()`) has chosen it; else None.
        scores: the `PoolScores` of this run; None before, and after resuming from a checkpoint (which does not score).

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
        anchor_dataset: Dataset | None = None,
        nuggets_config: NuggetsConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.nuggets_config = nuggets_config
        self.golden_set: GoldenSet | None = None
        self.scores: PoolScores | None = None
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
        self._pool = Pool(arguments.get("train_dataset"), "train_dataset")
        self._anchors = _anchor_pool(nuggets_config, anchor_dataset, self._pool)
        _check_supported(arguments, self._pool)
        if self._pool.format == "alpaca":
            arguments["train_dataset"] = first_row_in_trl_columns(arguments, nuggets_config, self._pool)
        super().__init__(**arguments)
        self.train_dataset = self._pool.dataset
        self._check_before_scoring()
        self._nuggets_callback = NuggetsDataCallback()
        self._nuggets_callback.attach(self)
        self.add_callback(self._nuggets_callback)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        if self.nuggets_config is None:
            return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)
        # TRL prepares the training set first, then each evaluation set: the first one is the pool, and waits.
        if self._deferred is None:
            self._deferred = (processing_class, *args), kwargs
            return dataset
        if is_alpaca(dataset.column_names):
            tokenizer = getattr(processing_class, "tokenizer", processing_class)
            dataset = alpaca_to_trl(dataset, alpaca_template(self.nuggets_config.template, tokenizer.chat_template))
        return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Select, then train as `SFTTrainer.train` does.

        Args:
            resume_from_checkpoint: as in `Trainer.train`. A checkpoint is resumed on the golden set saved in it.
            args: for `Trainer.train`.
            kwargs: for `Trainer.train`.
        """
        if self.nuggets_config is not None:
            if resume_from_checkpoint is True:
                resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir) or True
            self.select(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """Give the dataloader over the golden set (over all rows without `nuggets_config`)."""
        if self.nuggets_config is not None:
            self.select()
        return super().get_train_dataloader()

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
        if self.golden_set is not None:
            return self.golden_set
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        settings = self._settings()
        with preserved_rng():
            if resume_from_checkpoint:
                self.golden_set = load_selection(Path(resume_from_checkpoint) / SELECTION_FILE, settings)
            else:
                self.scores, self.golden_set = self._score()
            self.train_dataset = self._prepare_golden_set(self.golden_set)
        summary = None if self.scores is None else self.scores.summary()
        self._nuggets_callback.use(self.golden_set, settings, summary)
        if self.is_world_process_zero():
            save_selection(Path(self.args.output_dir) / SELECTION_FILE, self.golden_set, settings)
        return self.golden_set

    def _settings(self) -> dict[str, str]:
        """Return what the golden set depends on, as far as it is known without hashing gigabytes of weights."""
        config = self.nuggets_config
        assert config is not None
        template = make_template(config.template, self._scoring_tokenizer, self._pool).describe()
        template.pop("chat_template_renders_sha256", None)  # may hold the date: no reason not to resume tomorrow
        chosen = f"{config.anchor_selection} {config.num_anchors or DEFAULT_NUM_ANCHORS}, seed {config.anchor_seed}"
        return {
            "pool_sha256": self._pool.content_hash,
            "anchors": chosen if self._anchors is None else f"given, sha256 {self._anchors.content_hash}",
            "rule": "{}={}".format(*config.selection_rule),
            "exclude_self": str(config.exclude_self),
            "score_dtype": config.score_dtype,
            "model_config_sha256": config_hash(self.accelerator.unwrap_model(self.model)),
            **template,
            **{name: str(value) for name in IF_SET if (value := getattr(config, name)) is not None},
        }

    def _score(self) -> tuple[PoolScores, GoldenSet]:
        config = self.nuggets_config
        assert config is not None
        if config.scorer_model is None:
            return self._score_with(self.accelerator.unwrap_model(self.model))
        # `device_map` and not `.to`: quantized weights cannot be moved.
        kwargs = {"device_map": {"": self.accelerator.device}, **config.scorer_kwargs}
        model, _ = load_scorer(config.scorer_model, **kwargs)
        try:
            return self._score_with(model)
        finally:
            del model
            clear_device_cache(garbage_collection=True)

    def _score_with(self, model: Any) -> tuple[PoolScores, GoldenSet]:
        assert self.nuggets_config is not None
        return score_pool(
            model,
            self._scoring_tokenizer,
            self._pool,
            self._anchors,
            config=self.nuggets_config,
            score_dir=self._score_dir(),
            autocast_dtype=self._autocast_dtype(model),
        )

    @functools.cached_property
    def _scoring_tokenizer(self) -> Any:
        """The tokenizer of the model that scores."""
        config = self.nuggets_config
        assert config is not None
        if config.scorer_model is None:
            return self._text_tokenizer
        return load_scorer_tokenizer(config.scorer_model, **config.scorer_kwargs)

    @property
    def _text_tokenizer(self) -> Any:
        """The tokenizer, also of a vision-language model's processor."""
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def _score_dir(self) -> str:
        assert self.nuggets_config is not None
        return self.nuggets_config.score_dir or str(Path(self.args.output_dir) / "nuggets")

    def _autocast_dtype(self, model: Any) -> torch.dtype | None:
        assert self.nuggets_config is not None
        training = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        with base_model(model) as base:
            return resolve_autocast_dtype(self.nuggets_config.score_dtype, base.dtype, training)

    def _prepare_golden_set(self, golden_set: GoldenSet) -> Dataset:
        """Let TRL prepare the golden rows, in pool order, as it would have prepared the pool."""
        rows = self._pool.dataset.select(np.sort(golden_set.indices))
        prepared = self._prepare_rows(rows, packing=None)
        if self._deferred is not None and not self.args.packing and len(prepared) < len(rows):
            logger.warning(
                "TRL left %d of the %d rows of the golden set out of training: cut at `max_length=%s`, they have no "
                "completion token. Raise `max_length`.",
                len(rows) - len(prepared),
                len(rows),
                self.args.max_length,
            )
        return prepared

    def _prepare_rows(self, rows: Dataset, packing: bool | None) -> Dataset:
        if self._deferred is None:  # `skip_prepare_dataset`: the rows are for the user's own collator
            return rows
        args, kwargs = self._deferred
        bound = inspect.signature(super()._prepare_dataset).bind(rows, *args, **kwargs)
        if packing is not None:
            bound.arguments["packing"] = packing
        return self._prepare_dataset(*bound.args, **bound.kwargs)

    def _check_before_scoring(self) -> None:
        """Find out now what would stop the job after hours of scoring."""
        assert self.nuggets_config is not None
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "`nuggets_config` scores with the whole model on each process, which FSDP and DeepSpeed do not keep. "
                "Run `nuggets score` under DDP or in one process, and train on the rows that are `selected` in "
                "scores.parquet."
            )
        make_template(self.nuggets_config.template, self._scoring_tokenizer, self._pool)
        if self.nuggets_config.scorer_model is None:
            self._autocast_dtype(self.accelerator.unwrap_model(self.model))
        _, dropped = self._pool.read_keys()
        usable = next((i for i in range(len(self._pool)) if i not in dropped), None)
        if usable is not None:
            with silent_progress_bars():
                self._prepare_rows(self._pool.dataset.select([usable]), packing=False)


def _anchor_pool(config: NuggetsConfig, anchor_dataset: Dataset | None, pool: Pool) -> Pool | None:
    """Anchors as a `Pool`, or None if they are to be chosen from the pool."""
    if anchor_dataset is not None and (config.anchors is not None or config.num_anchors is not None):
        given = f"anchors={config.anchors!r}" if config.anchors is not None else f"num_anchors={config.num_anchors}"
        raise ValueError(f"`anchor_dataset` and `nuggets_config.{given}` both say what the anchors are. Keep one.")
    if anchor_dataset is None and config.anchors is not None:
        anchor_dataset = load_rows(config.anchors)
    return None if anchor_dataset is None else anchors_like(anchor_dataset, pool)


def _check_supported(arguments: dict[str, Any], pool: Pool) -> None:
    if arguments.get("formatting_func") is not None:
        raise ValueError(
            "`formatting_func` hides from selection which part of a row is the completion. Map the rows to `prompt` "
            "and `completion` (or `messages`) and drop `formatting_func`."
        )
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
