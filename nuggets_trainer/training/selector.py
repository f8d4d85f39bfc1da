"""Chooses golden sets for a trainer: from its pool, with its model. Knows no formula and no training loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from accelerate.utils.memory import clear_device_cache
from trl.chat_template_utils import get_training_chat_template

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool, anchors_like
from nuggets_trainer.engine.loading import load_scorer_of, load_scorer_tokenizer
from nuggets_trainer.engine.model import base_model, resolve_autocast_dtype
from nuggets_trainer.pipeline.request import check_choice, with_schedule_for
from nuggets_trainer.pipeline.score_pool import score_pool
from nuggets_trainer.prompts.templates import Template, make_template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import warn_instead_of_raising, write_report
from nuggets_trainer.scoring.anchors import AnchorPools
from nuggets_trainer.store.files import join
from nuggets_trainer.store.fingerprint import config_hash
from nuggets_trainer.training.preserved import without_mixed_precision

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

AnchorDataset: TypeAlias = "Dataset | dict[str, Dataset]"  # the anchors, or several sets by name

# Options that decide the golden set only where they are set.
IF_SET = (
    "scorer_model",
    "scorer_model_init_kwargs",
    "reselect_steps",
    "coverage_weight",
    "group_by",
    "max_similarity",
)
# And those that do where they are not the default.
UNLESS_DEFAULT = {"reselect": "no", "group_quota": "proportional", "combine_anchor_sets": "mean"}


class Selector:
    """What the golden sets of one training job are chosen with.

    Args:
        trainer: any `Trainer` that is built; its model scores, unless `scorer_model` names another.
        config: the choices of the user.
        pool: the candidates.
        anchors: the anchors by set; None chooses them from the pool.
    """

    def __init__(self, trainer: Trainer, config: NuggetsConfig, pool: Pool, anchors: AnchorPools | None) -> None:
        self._trainer, self._config, self._pool, self._anchors = trainer, config, pool, anchors

    def check(self) -> None:
        """Find out now what would stop the job later.

        Raises:
            ValueError: if model, tokenizer, dtype or rows cannot give what the config asks for.
        """
        config = self._config
        plugin = getattr(self._trainer.accelerator.state, "fsdp_plugin", None)
        if self.waits_for_sharding and plugin is not None and plugin.fsdp_version != 2:
            raise ValueError(
                "Selection under FSDP needs version 2: launch with `--config_file configs/accelerate/fsdp2.yaml`, or "
                "set `fsdp_version: 2`."
            )
        if self.waits_for_sharding and config.selection_rule[0] == "threshold":
            raise ValueError(
                f"`threshold={config.threshold}` leaves open how many rows are kept, but under FSDP and DeepSpeed the "
                "model can score only once training is set up for a number of steps. Use `top_k` or `top_fraction`; "
                "or run `nuggets score` in one process and train on the rows that are `selected` in scores.parquet."
            )
        if config.scorer_model is not None and self._pool.format == "tokenized":
            raise ValueError(
                f"`scorer_model={config.scorer_model!r}` has its own tokenizer, but the rows are tokenized already. "
                "Give text or messages, or score with the tuned model."
            )
        if config.max_similarity is not None and (self.waits_for_sharding or config.reselect != "no"):
            where = "under FSDP and DeepSpeed" if self.waits_for_sharding else "with `reselect`"
            raise ValueError(
                f"`max_similarity={config.max_similarity}` leaves open how many rows are kept, but {where} training "
                "is planned for a number of rows. Leave it out; or run `nuggets score` and train on the rows that are "
                "`selected` in scores.parquet."
            )
        check_choice(self._pool, self._anchors, config)
        with_schedule_for(config, self._anchors)
        self._template()
        if config.scorer_model is None:
            self._autocast_dtype(self._model)
        adapters = getattr(self._model, "peft_config", {}).values()
        if config.reselect != "no" and any(adapter.is_prompt_learning for adapter in adapters):
            raise ValueError(
                "`reselect` scores with the adapter on, but the virtual tokens of prompt learning have no place in a "
                "scored prompt. Use LoRA, or leave `reselect` out."
            )

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """What the golden set depends on, as far as it is known without hashing gigabytes of weights."""
        config = self._config
        template = self._template().describe()
        template.pop("chat_template_renders_sha256", None)  # may hold the date: no reason not to resume tomorrow
        chosen = f"{config.anchor_selection} {config.num_anchors or DEFAULT_NUM_ANCHORS}, seed {config.anchor_seed}"
        return {
            "pool_sha256": self._pool.content_hash,
            "anchors": chosen if self._anchors is None else _describe_anchors(self._anchors),
            "rule": "{}={}".format(*config.selection_rule),
            "exclude_self": str(config.exclude_self),
            "score_dtype": config.score_dtype,
            "model_config_sha256": config_hash(self._model),
            **template,
            **{name: value for name, default in UNLESS_DEFAULT.items() if (value := getattr(config, name)) != default},
            **{name: str(value) for name in IF_SET if (value := getattr(config, name)) is not None},
        }

    @property
    def waits_for_sharding(self) -> bool:
        """Whether the model can score only once the Trainer has wrapped it, between set-up and first step."""
        wraps = self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled
        return bool(wraps and self._config.scorer_model is None)

    def planned_size(self) -> int:
        """Size of the golden set, as far as it is known before anything is scored: of a fraction, of usable rows."""
        rule, value = self._config.selection_rule
        _, dropped = self._pool.read_keys()
        return int(value) if rule == "top_k" else max(1, round(value * (len(self._pool) - len(dropped))))

    def choose_planned(self, size: int) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the base model and keep as many rows as training was planned for."""
        rule, value = self._config.selection_rule
        try:
            scores, golden_set = self._score_own(self._anchors, _keeping(size, self._config), self.score_dir)
        except ValueError as error:
            raise ValueError(
                f"{error} (Under FSDP and DeepSpeed the golden set is planned before its rows are tokenized: {size:,} "
                f"rows by `{rule}={value}`. Remove rows that are too long, or set `top_k`.)"
            ) from error
        if rule == "top_fraction" and max(1, round(value * golden_set.num_candidates)) != size:
            logger.warning(
                "The golden set has %d rows, %g of the usable rows; %d of these could not be scored.",
                size,
                value,
                golden_set.num_rows - golden_set.num_candidates,
            )
        return scores, golden_set

    def choose(self) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the base model, or with the scorer model, and choose."""
        config = self._config
        if config.scorer_model is None:
            return self._score_own(self._anchors, config, self.score_dir)
        model, _ = load_scorer_of(config, config.scorer_model, self._trainer.accelerator.device, {})
        try:
            return self._score(model, self._anchors, config, self.score_dir)
        finally:
            del model
            clear_device_cache(garbage_collection=True)

    def choose_again(self, size: int, anchor_indices: list[int] | None, step: int) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the model as it is after `step` optimizer steps, and keep the best `size` rows.

        Args:
            size: of the golden set.
            anchor_indices: pool indices of the anchors; None if they were given.
            step: names the directory of the scores, `<score_dir>/step-<step>`.

        Raises:
            ValueError: if nothing can be scored any more.
        """
        anchors = self._anchors
        if anchor_indices is not None:
            anchors = {"": anchors_like(self._pool.dataset.select(anchor_indices), self._pool)}
        score_dir = str(join(self.score_dir, f"step-{step}"))
        try:
            chosen = self._score_own(anchors, _keeping(size, self._config), score_dir, adapter=True)
        except ValueError as error:
            raise ValueError(
                f"The golden set cannot be chosen again after step {step}: {error} If the losses are no numbers, the "
                "model has diverged: resume from an earlier checkpoint with a smaller learning rate."
            ) from error
        if Ranks().is_main:
            with warn_instead_of_raising(self.score_dir):
                write_report(self.score_dir)  # again: it shows the choices over time
        return chosen

    @property
    def score_dir(self) -> str:
        """Where scores and results go."""
        return self._config.score_dir or str(Path(self._trainer.args.output_dir) / "nuggets")

    def _score_own(
        self, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str, adapter: bool = False
    ) -> tuple[PoolScores, GoldenSet]:
        with without_mixed_precision(self._model):
            return self._score(self._model, anchors, config, score_dir, adapter)

    def _score(
        self, model: Any, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str, adapter: bool = False
    ) -> tuple[PoolScores, GoldenSet]:
        return score_pool(
            model,
            self._tokenizer,
            self._pool,
            anchors,
            config=config,
            score_dir=score_dir,
            autocast_dtype=self._autocast_dtype(model),
            adapter=adapter,
            training_chat_template=self._training_chat_template,
        )

    def _template(self) -> Template:
        return make_template(
            self._config.template,
            self._tokenizer,
            self._pool,
            *(self._anchors or {}).values(),
            training_chat_template=self._training_chat_template,
        )

    @property
    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model)

    @property
    def _training_chat_template(self) -> str | None:
        """TRL's template that marks the assistant's tokens, where loss is on these alone."""
        if not getattr(self._trainer.args, "assistant_only_loss", False):
            return None
        own = None if self._config.scorer_model is None else get_training_chat_template(self._tokenizer)
        trained = getattr(self._trainer, "chat_template", None) if self._config.scorer_model is None else own
        template: str | None = trained or self._tokenizer.chat_template
        return template

    @functools.cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer of the model that scores, also where the trainer has a processor around it."""
        if self._config.scorer_model is not None:
            return load_scorer_tokenizer(self._config.scorer_model, **self._config.scorer_kwargs)
        processing_class = self._trainer.processing_class
        return getattr(processing_class, "tokenizer", processing_class)

    def _autocast_dtype(self, model: Any) -> torch.dtype | None:
        args = self._trainer.args
        training = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        with base_model(model) as base:
            return resolve_autocast_dtype(self._config.score_dtype, base.dtype, training)


def _keeping(size: int, config: NuggetsConfig) -> NuggetsConfig:
    return dataclasses.replace(config, top_fraction=None, threshold=None, top_k=size)


def _describe_anchors(anchors: AnchorPools) -> str:
    hashes = [f"{name} sha256 {pool.content_hash}".strip() for name, pool in anchors.items()]
    return f"given, {', '.join(hashes)}"


def anchor_pools(config: NuggetsConfig, anchor_dataset: AnchorDataset | None, pool: Pool) -> AnchorPools | None:
    """Anchors as a `Pool` for each set, or None if they are to be chosen from the pool.

    Raises:
        ValueError: if anchors are given twice, or in no known format.
    """
    if anchor_dataset is None:
        sets = config.anchor_sets
        if sets is None:
            return None
        return {name: anchors_like(load_rows(place, option="anchors"), pool) for name, place in sets.items()}
    if config.anchors is not None or config.num_anchors is not None:
        given = f"anchors={config.anchors!r}" if config.anchors is not None else f"num_anchors={config.num_anchors}"
        raise ValueError(f"`anchor_dataset` and `nuggets_config.{given}` both say what the anchors are. Keep one.")
    # A `DatasetDict` is one dataset whose split was forgotten; `anchors_like` says so.
    from datasets import DatasetDict

    if not isinstance(anchor_dataset, dict) or isinstance(anchor_dataset, DatasetDict):
        return {"": anchors_like(anchor_dataset, pool)}
    if not anchor_dataset:
        raise ValueError("`anchor_dataset` is an empty dict. Give at least one set, or leave it out.")
    return {name: anchors_like(rows, pool) for name, rows in anchor_dataset.items()}
