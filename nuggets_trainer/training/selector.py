"""Chooses golden sets for a trainer: from its pool, with its model. Knows no formula and no training loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import clear_device_cache

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool, anchors_like
from nuggets_trainer.engine.loading import load_scorer_of, load_scorer_tokenizer
from nuggets_trainer.engine.model import base_model, resolve_autocast_dtype
from nuggets_trainer.pipeline.request import ScoringRequest, make_request
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import warn_instead_of_raising, write_report
from nuggets_trainer.scoring.anchors import AnchorPools
from nuggets_trainer.store.files import join
from nuggets_trainer.store.fingerprint import config_hash
from nuggets_trainer.training.preserved import without_mixed_precision
from nuggets_trainer.training.rows import find_training_chat_template, row_options

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import Trainer

    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

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
        self._request(self._anchors, config, self.score_dir)
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
        template = self._request(self._anchors, config, self.score_dir).template.describe()
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
        request = self._request(anchors, config, score_dir)
        autocast_dtype = self._autocast_dtype(model)
        return score_request(model, dataclasses.replace(request, autocast_dtype=autocast_dtype, adapter=adapter))

    def _request(self, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str) -> ScoringRequest:
        """Check rows, config and tokenizer against each other, as far as that needs no loaded model."""
        return make_request(
            self._tokenizer,
            self._pool,
            anchors,
            config,
            score_dir,
            training_chat_template=self._training_chat_template,
        )

    @property
    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model)

    @property
    def _training_chat_template(self) -> str | None:
        """TRL's template that marks the assistant's tokens, where loss is on these alone."""
        options = row_options(self._trainer.args)
        if self._config.scorer_model is not None:
            return find_training_chat_template(self._tokenizer, options)
        if not options.assistant_only_loss:
            return None
        template: str | None = getattr(self._trainer, "chat_template", None) or self._tokenizer.chat_template
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
