"""Choosing golden sets for a trainer: scores its pool with its model, or with another one, and selects."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import TYPE_CHECKING, Any

from accelerate.utils.memory import clear_device_cache

from nuggets_trainer.config.anchor_options import AUTO
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import score_dir_of_job
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.engine.adapters import inner_model
from nuggets_trainer.engine.loading import load_scorer_of, load_scorer_tokenizer
from nuggets_trainer.engine.model import resolve_autocast_dtype
from nuggets_trainer.pipeline.request import make_request
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import warn_instead_of_raising, write_report
from nuggets_trainer.scoring.session import AnchorPools, ScoringRequest
from nuggets_trainer.store.files import join
from nuggets_trainer.training.preserved import hidden_bars, without_mixed_precision
from nuggets_trainer.training.rows import (
    find_training_chat_template,
    find_training_dtype,
    row_options,
    text_tokenizer,
)
from nuggets_trainer.training.settings import describe_rows, selection_settings
from nuggets_trainer.training.trainer_checks import check_selection_options
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores


class Selector:
    """Pool, anchors, model and config of one training job, from which its golden sets are chosen.

    Args:
        trainer: trainer that is built; its model scores, unless `scorer_model` names another one.
        config: user's config.
        pool: candidates.
        anchors: anchors by set; None if they are chosen from the pool.
    """

    def __init__(self, trainer: Trainer, config: NuggetsConfig, pool: Pool, anchors: AnchorPools | None) -> None:
        self._trainer, self._config, self._pool, self._anchors = trainer, config, pool, anchors

    def check(self) -> None:
        """Find out now what would stop the job later.

        Raises:
            ValueError: if model, tokenizer, dtype or rows do not fit the config.
        """
        if self._anchors is not None and self._config.num_anchors == AUTO and self._config.reselect != "no":
            raise ValueError(
                f"`num_anchors='auto'` would be decided again at each choice of `reselect={self._config.reselect!r}`, "
                "because the model is another one then. Give a number of anchors."
            )
        check_selection_options(self._config, self._pool, self._trainer, self._model, self.waits_for_sharding)
        self._request(self._anchors, self._config, self.score_dir)
        if self._config.scorer_model is None:
            self._autocast_dtype(self._model)

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """Settings that the golden set depends on, by name."""
        request = self._request(self._anchors, self._config, self.score_dir)
        return selection_settings(self._config, self._pool, self._anchors, request.template, self._model)

    def describe_rows(self) -> dict[str, Any]:
        """Return where pool and anchors can be loaded from."""
        return describe_rows(self._config, self._pool, self._anchors)

    @property
    def waits_for_sharding(self) -> bool:
        """Whether the model can score only after the Trainer has wrapped it, which is after training is set up."""
        wraps = self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled
        return bool(wraps and self._config.scorer_model is None)

    @property
    def score_dir(self) -> str:
        """Directory or URL where scores and results go."""
        return self._config.score_dir or score_dir_of_job(self._trainer.args.output_dir)

    def planned_size(self) -> int:
        """Compute the size of the golden set before anything is scored; `top_fraction` counts the usable rows."""
        rule, value = self._config.selection_rule
        if rule == "top_k":
            return int(value)
        _, dropped = self._pool.read_keys()
        num_usable = len(self._pool) - len(dropped)
        return max(1, round(value * num_usable))

    def choose(self) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the base model, or with the scorer model, and choose the golden set."""
        config = self._config
        if config.scorer_model is None:
            return self._score_with_own_model(self._anchors, config, self.score_dir)
        model, _ = load_scorer_of(config, config.scorer_model, self._trainer.accelerator.device, {})
        try:
            return self._score(model, self._anchors, config, self.score_dir)
        finally:
            del model
            clear_device_cache(garbage_collection=True)

    def choose_planned(self, size: int) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the base model, and keep as many rows as training was planned for.

        Args:
            size: number of rows to keep.

        Raises:
            ValueError: if fewer rows can be scored.
        """
        rule, value = self._config.selection_rule
        config = self._config.with_top_k(size)
        try:
            scores, golden_set = self._score_with_own_model(self._anchors, config, self.score_dir)
        except ValueError as error:
            raise ValueError(
                f"{error} (Under FSDP and DeepSpeed the size of the golden set is planned before its rows are "
                f"tokenized: {counted(size, 'row')} by `{rule}={value}`. Remove rows that are too long, or set "
                "`top_k`.)"
            ) from error
        if rule == "top_fraction" and max(1, round(value * golden_set.num_candidates)) != size:
            logger.warning(
                "The golden set has %s: %g of the usable rows, as planned before scoring. But %s could not be scored.",
                counted(size, "row"),
                value,
                counted(golden_set.num_rows - golden_set.num_candidates, "row"),
            )
        return scores, golden_set

    def choose_again(self, size: int, anchor_indices: list[int] | None, step: int) -> tuple[PoolScores, GoldenSet]:
        """Score the pool with the model as it is after `step` optimizer steps, and keep the best `size` rows.

        Args:
            size: number of rows to keep.
            anchor_indices: pool indices of the anchors; None if the user gave anchors.
            step: number of optimizer steps taken so far; scores go to `<score_dir>/step-<step>`.

        Raises:
            ValueError: if nothing can be scored any more.
        """
        anchors, config = self._anchors, self._config.with_top_k(size)
        if anchor_indices is not None:
            anchors = {"": anchors_like(self._pool.dataset.select(anchor_indices), self._pool)}
            config = dataclasses.replace(config, num_anchors=None)  # all of these
        score_dir = str(join(self.score_dir, f"step-{step}"))
        try:
            chosen = self._score_with_own_model(anchors, config, score_dir, adapter=True)
        except ValueError as error:
            raise ValueError(
                f"The golden set cannot be chosen again after step {step}: {error} If the losses are not finite, the "
                "model has diverged: resume from an earlier checkpoint with a smaller learning rate."
            ) from error
        if Ranks().is_main:
            with warn_instead_of_raising(self.score_dir):
                write_report(self.score_dir)  # it is written again because it shows all choices over time
        return chosen

    def _score_with_own_model(
        self, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str, adapter: bool = False
    ) -> tuple[PoolScores, GoldenSet]:
        with without_mixed_precision(self._model):
            return self._score(self._model, anchors, config, score_dir, adapter)

    def _score(
        self, model: Any, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str, adapter: bool = False
    ) -> tuple[PoolScores, GoldenSet]:
        request = self._request(anchors, config, score_dir)
        autocast_dtype = self._autocast_dtype(model)
        request = dataclasses.replace(request, autocast_dtype=autocast_dtype, adapter=adapter)
        with hidden_bars(self._trainer.args.disable_tqdm):
            return score_request(model, request)

    def _request(self, anchors: AnchorPools | None, config: NuggetsConfig, score_dir: str) -> ScoringRequest:
        """Check rows, config and tokenizer against each other. This needs no loaded model."""
        template = self._training_chat_template
        return make_request(self._tokenizer, self._pool, anchors, config, score_dir, training_chat_template=template)

    @property
    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model)

    @property
    def _training_chat_template(self) -> str | None:
        """TRL's chat template that marks the assistant's tokens; None if loss is not on these tokens alone."""
        options = row_options(self._trainer.args)
        if self._config.scorer_model is not None:
            return find_training_chat_template(self._tokenizer, options)
        if not options.assistant_only_loss:
            return None
        template: str | None = getattr(self._trainer, "chat_template", None) or self._tokenizer.chat_template
        return template

    @functools.cached_property
    def _tokenizer(self) -> Any:
        """Tokenizer of the model that scores."""
        if self._config.scorer_model is not None:
            return load_scorer_tokenizer(self._config.scorer_model, **self._config.scorer_kwargs)
        return text_tokenizer(self._trainer.processing_class)

    def _autocast_dtype(self, model: Any) -> torch.dtype | None:
        """Find the dtype that scoring autocasts to; None computes in the dtype of the weights."""
        training_dtype = find_training_dtype(self._trainer.args.bf16, self._trainer.args.fp16)
        return resolve_autocast_dtype(self._config.score_dtype, inner_model(model).dtype, training_dtype)
