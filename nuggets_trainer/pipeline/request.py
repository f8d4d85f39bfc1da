"""The request of a caller, checked: dataset, tokenizer, config, options -> pool, anchors, template, config in force.

Every entry point (`score_pool`, `score_shard`, `plan_pool`) and the trainer make a `ScoringRequest` first.
What can be refused without a forward pass is refused here, and only here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.anchor_options import check_combination
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.requirement import known_columns
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.adapters import check_adapters_act_inside, inner_model
from nuggets_trainer.engine.model import resolve_autocast_dtype
from nuggets_trainer.overlap.find import exclude_overlap
from nuggets_trainer.pipeline.diversity import check_limits
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset, read_anchors, read_pool, scorer_tokenizer
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.scoring.session import AnchorPools, ScoringRequest
from nuggets_trainer.store.files import Place

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AsTrained:
    """How training reads the rows and runs the model, so that scoring does the same.

    Attributes:
        row_options: options of training that decide which tokens a row has; None takes TRL's defaults.
        formatting_func: function that writes a row as the text that training sees.
        training_chat_template: chat template with `{% generation %}` that `assistant_only_loss` needs.
        training_dtype: dtype that mixed precision training autocasts to, which `score_dtype="auto"` follows.
        adapter: whether the model scores with its adapters as they are.
    """

    row_options: RowOptions | None = None
    formatting_func: Callable[[dict[str, Any]], str] | None = None
    training_chat_template: str | None = None
    training_dtype: torch.dtype | None = None
    adapter: bool = False


def read_request(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    as_trained: AsTrained = AsTrained(),
    with_overlap: bool = True,
) -> ScoringRequest:
    """Read the arguments of an entry point; what is not given is read from the config.

    Args:
        model: model that scores.
        tokenizer: tokenizer of the model.
        dataset: rows in any format, or a `Pool`.
        anchors: anchors, several sets as a mapping by name; None takes `config.anchors`, or chooses from the pool.
        config: options of the user; None takes the defaults.
        score_dir: directory or URL where scores and results go; None takes `config.score_dir`.
        as_trained: how training reads the rows and runs the model.
        with_overlap: whether to look for rows that repeat others or hold questions of tests.

    Raises:
        TypeError, ValueError: for what cannot be read, what contradicts itself, and what scoring alone cannot do.
    """
    config, row_options = config or NuggetsConfig(), as_trained.row_options
    _check_outside_training(model, config)
    if as_trained.adapter:
        check_adapters_act_inside(model)
    place = _one_place(config, score_dir)
    pool = read_pool(dataset, config, row_options, as_trained.formatting_func)
    needs_template = row_options is not None and row_options.assistant_only_loss
    if needs_template and as_trained.training_chat_template is None:
        raise ValueError(
            "`assistant_only_loss` needs a chat template that marks what the assistant says. Pass "
            "`training_chat_template`: nuggets_trainer.training.rows.find_training_chat_template finds TRL's."
        )
    autocast_dtype = resolve_autocast_dtype(config.score_dtype, inner_model(model).dtype, as_trained.training_dtype)
    return make_request(
        scorer_tokenizer(tokenizer, config, row_options),
        pool,
        read_anchors(anchors, config, pool),
        config,
        place,
        training_chat_template=as_trained.training_chat_template,
        autocast_dtype=autocast_dtype,
        adapter=as_trained.adapter,
        with_overlap=with_overlap,
    )


def make_request(
    tokenizer: Any,
    pool: Pool,
    anchors: AnchorPools | None,
    config: NuggetsConfig,
    score_dir: Place,
    *,
    training_chat_template: str | None = None,
    autocast_dtype: torch.dtype | None = None,
    adapter: bool = False,
    with_overlap: bool = True,
) -> ScoringRequest:
    """Check rows, config and tokenizer against each other; for a trainer, which has read its rows itself.

    Args:
        tokenizer: tokenizer of the model that scores, as it is in training.
        pool: the candidates.
        anchors: anchors by the name of their set; None chooses them from the pool.
        config: options of the user.
        score_dir: directory or URL where scores and results go.
        training_chat_template: chat template with `{% generation %}`, where loss is on what the assistant says alone.
        autocast_dtype: result of `resolve_autocast_dtype`.
        adapter: whether the model scores with its adapters as they are.
        with_overlap: whether to look for rows that repeat others or hold questions of tests.

    Raises:
        ValueError: if anchors cannot be combined or raced as the config asks, if the pool lacks the column `group_by`
            or the prompts that `max_rows_per_prompt` counts, or if tokenizer or rows lack what the template needs.
    """
    sets = anchors or {}
    check_combination(config.combine_anchor_sets, max(1, len(sets)))
    if config.requirement is not None:
        config.requirement.check_columns(known_columns(list(sets) if len(sets) > 1 else ()))
    check_limits(pool, config)
    config = _with_schedule(config, sets)
    template = make_template(
        config.template, tokenizer, pool, *sets.values(), training_chat_template=training_chat_template
    )
    request = ScoringRequest(pool, anchors, tokenizer, template, config, score_dir, autocast_dtype, adapter)
    return leave_out_overlap(request) if with_overlap else request


def leave_out_overlap(request: ScoringRequest) -> ScoringRequest:
    """Leave out the rows that repeat others or hold questions of tests, as the config says; on all ranks.

    Args:
        request: request whose pool was not looked through yet.

    Raises:
        FileNotFoundError, ValueError: if the questions of a test cannot be read.
    """
    return dataclasses.replace(request, overlap=exclude_overlap(request.pool, request.config))


def _check_outside_training(model: Any, config: NuggetsConfig) -> None:
    """Refuse options that only a trainer can obey, and a model that is not the one the config names."""
    of_training = {"reselect": config.reselect != "no", "match_full_steps": config.match_full_steps}
    for option, is_set in of_training.items():
        if is_set:
            raise ValueError(
                f"`{option}` only applies to training. Leave it out to score a pool, or pass the config to "
                "`SelectedSFTTrainer`."
            )
    name = model.config._name_or_path
    if config.scorer_model is not None and resolve_demo(config.scorer_model) != name:
        raise ValueError(
            f"`scorer_model={config.scorer_model!r}` must be the model that is passed, which is {name!r}. Pass "
            f"`*load_scorer({config.scorer_model!r})` as model and tokenizer, or leave `scorer_model` out."
        )


def _one_place(config: NuggetsConfig, score_dir: Place | None) -> Place:
    """Find where scores go: the argument, or what the config says."""
    if isinstance(score_dir, str):
        score_dir = os.path.expanduser(score_dir)  # noqa: PTH111 - a `Path` would spoil URLs
    if score_dir is None:
        if config.score_dir is None:
            raise ValueError("`score_dir` must say where scores and results go. Pass it, or set it in the config.")
        return config.score_dir
    if config.score_dir is not None and os.path.normpath(str(score_dir)) != os.path.normpath(config.score_dir):
        raise ValueError(
            f"`score_dir={str(score_dir)!r}` must be the config's `score_dir`, which is {config.score_dir!r}. Give it "
            "once."
        )
    return score_dir


def _with_schedule(config: NuggetsConfig, anchors: AnchorPools) -> NuggetsConfig:
    """Set `schedule` to `exact` if there are several anchor sets, which a config need not know of."""
    if len(anchors) <= 1 or config.schedule_in_force != "race":
        return config
    if config.schedule == "race":
        raise ValueError(
            f"A race leaves out pairs, but with several anchor sets ({', '.join(anchors)}) the golden set depends on "
            "all of them. Leave `schedule` at `auto`."
        )
    return dataclasses.replace(config, schedule="exact")
