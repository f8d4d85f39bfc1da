"""Checks of a trainer and its arguments before anything is scored, and warnings when training begins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.diversity_options import COMPLETION_TOKENS
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.engine.adapters import check_adapters_act_inside
from nuggets_trainer.engine.loading import hub_options, read_model_config
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

FEW_STEPS = 50
SAME_FOR_ALL_MODELS = {COMPLETION_TOKENS, "repetition", TOTAL_TOKENS}  # columns that training does not change
# The other initialisations of LoRA (pissa, olora, corda, loftq, ...) move part of the base weights into the adapter.
ADAPTERS_THAT_LEAVE_THE_BASE = ("gaussian", "orthogonal", "eva")


def check_trainer_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments of `SFTTrainer` that selection does not support.

    Args:
        arguments: arguments of `SFTTrainer` by name.

    Raises:
        ValueError: if the model is not a decoder-only language model, or if its adapter changes the base weights.
    """
    model = arguments.get("model")
    if isinstance(model, str):
        check_causal_lm(read_model_config(model, **hub_options(arguments.get("args"))))
    elif model is not None:
        check_causal_lm(model.config)
    for adapter in [arguments.get("peft_config"), *getattr(model, "peft_config", {}).values()]:
        start = getattr(adapter, "init_lora_weights", True)
        if isinstance(start, str) and start not in ADAPTERS_THAT_LEAVE_THE_BASE:
            raise ValueError(
                f"`init_lora_weights={start!r}` changes the base model's weights, so the model with its adapter "
                "switched off does not give the base model's scores. Use another initialisation. Or score with "
                "`nuggets score`, and train on the rows that are `selected` in scores.parquet."
            )


def check_selection_options(
    config: NuggetsConfig, pool: Pool, trainer: Trainer, model: Any, waits_for_sharding: bool
) -> None:
    """Refuse options of selection that do not fit the trainer.

    Args:
        config: user's config.
        pool: candidates.
        trainer: trainer that is built.
        model: model of the trainer, not wrapped.
        waits_for_sharding: whether the model can score only after training is set up (FSDP, DeepSpeed).

    Raises:
        ValueError: if an option does not fit.
    """
    if waits_for_sharding:
        _check_sharded(config, getattr(trainer.accelerator.state, "fsdp_plugin", None))
    if config.scorer_model is not None and pool.format == "tokenized":
        raise ValueError(
            f"`scorer_model={config.scorer_model!r}` has its own tokenizer, but the rows are tokenized already. Give "
            "rows of text or messages, or leave `scorer_model` out to score with the model that is tuned."
        )
    if config.max_similarity is not None and (waits_for_sharding or config.reselect != "no"):
        where = "under FSDP and DeepSpeed" if waits_for_sharding else "with `reselect`"
        raise ValueError(
            f"`max_similarity={config.max_similarity}` leaves open how many rows are kept, but {where} training is "
            "planned for a fixed number of rows. Leave `max_similarity` out. Or run `nuggets score`, and train on the "
            "rows that are `selected` in scores.parquet."
        )
    _check_prompt_limit(config, waits_for_sharding)
    if config.reselect != "no":
        check_adapters_act_inside(model)


def _check_prompt_limit(config: NuggetsConfig, waits_for_sharding: bool) -> None:
    """Refuse `max_rows_per_prompt` where training is planned for a number of rows that it may not reach.

    Chosen again from the same candidates, a golden set within this limit has as many rows as the first one. It may
    have fewer with quotas, or where later models decide which rows meet `require`.
    """
    if config.max_rows_per_prompt is None:
        return
    if waits_for_sharding:
        where = "under FSDP and DeepSpeed"
    elif config.reselect == "no":
        return
    elif config.group_by is not None:
        where = "with `group_by` and `reselect`"
    elif config.requirement is not None and not SAME_FOR_ALL_MODELS.issuperset(config.requirement.columns):
        where = f"with `require={config.require!r}`, which later models change, and `reselect`"
    else:
        return
    raise ValueError(
        f"`max_rows_per_prompt={config.max_rows_per_prompt}` leaves open how many rows are kept, but {where} training "
        "is planned for a fixed number of rows. Leave one out. Or run `nuggets score`, and train on the rows that are "
        "`selected` in scores.parquet."
    )


def _check_sharded(config: NuggetsConfig, fsdp_plugin: Any) -> None:
    if fsdp_plugin is not None and fsdp_plugin.fsdp_version != 2:
        raise ValueError(
            f"Selection under FSDP needs FSDP version 2, got version {fsdp_plugin.fsdp_version}. Launch with "
            "`--config_file configs/accelerate/fsdp2.yaml`, or set `fsdp_version: 2` in your own file."
        )
    rule, value = config.selection_rule
    if rule in ("threshold", "max_tokens"):
        raise ValueError(
            f"`{rule}={value}` leaves open how many rows are kept, but under FSDP and DeepSpeed the "
            "model can score only after training is planned for a fixed number of rows. Use `top_k` or "
            "`top_fraction`. Or run `nuggets score` in one process, and train on the rows that are `selected` in "
            "scores.parquet."
        )
    if config.require is not None and config.top_k is None:
        raise ValueError(
            f"`require={config.require!r}` leaves open how many rows a fraction is, but under FSDP and DeepSpeed the "
            "model can score only after training is planned for a fixed number of rows. Use `top_k`. Or run `nuggets "
            "score` in one process, and train on the rows that are `selected` in scores.parquet."
        )


def check_attachable(trainer: Trainer) -> None:
    """Refuse a trainer that a `NuggetsDataCallback` cannot select for.

    Raises:
        ValueError: if the trainer selects by itself, if it learns from other rows than SFT does, if its rows are
            packed already, or if it has no tokenizer.
    """
    other = _other_trl_trainer(trainer)
    if other is not None:
        raise ValueError(
            f"A NuggetsDataCallback selects rows for supervised fine-tuning, got a {other}. Its rows are preferences, "
            "labels or prompts, and golden scores of prompts with completions do not say which of them to keep. "
            "Attach the callback to `SFTTrainer`, to a class derived from it, or to `transformers.Trainer`."
        )
    if getattr(trainer, "nuggets_config", None) is not None:
        raise ValueError(
            "A SelectedSFTTrainer with a `nuggets_config` selects by itself. Do not attach a NuggetsDataCallback."
        )
    if getattr(trainer.args, "packing", False):
        raise ValueError(
            "`train_dataset` is packed already: a packed row mixes several examples, and selection needs single ones. "
            "Set `packing=False`, or use `SelectedSFTTrainer`, which selects before rows are packed."
        )
    if trainer.processing_class is None:
        raise ValueError(
            "Scoring needs a tokenizer, but the trainer has none. Build the trainer with `processing_class=tokenizer`."
        )


def _other_trl_trainer(trainer: Trainer) -> str | None:
    """Name the class of TRL that a trainer is or is derived from, if it is not `SFTTrainer`."""
    names = []
    for kind in type(trainer).__mro__:
        if kind.__module__.split(".")[0] == "trl" and not kind.__name__.startswith("_"):
            names.append(kind.__name__)
    return None if not names or "SFTTrainer" in names else names[0]


def check_plan(config: NuggetsConfig, args: TrainingArguments, steps_first: bool) -> None:
    """Refuse training arguments that do not fit the way in which the golden set is chosen.

    Args:
        config: user's config.
        args: arguments of the trainer.
        steps_first: whether the steps are planned before the golden set is chosen.

    Raises:
        ValueError: as in `check_refillable`, or if two options say how long to train.
    """
    if config.reselect != "no":
        check_refillable(args, "`reselect`")
    elif steps_first:
        check_refillable(args, "Selection under FSDP and DeepSpeed (steps are planned first)")
    if config.match_full_steps and args.max_steps > 0:
        raise ValueError(
            f"`match_full_steps` and `max_steps={args.max_steps}` both say how long to train. Set only one of them."
        )


def check_refillable(args: TrainingArguments, feature: str) -> None:
    """Refuse training arguments under which rows cannot be replaced after the steps are planned.

    Args:
        args: arguments of the trainer.
        feature: option that needs to replace rows; the error begins with it.

    Raises:
        ValueError: if rows are packed, or if batch size or order are not known beforehand.
    """
    if getattr(args, "packing", False):
        raise ValueError(
            f"{feature} exchanges single rows, but `packing=True` mixes several rows in one. Set `packing=False`; "
            "`padding_free=True` saves the padding as well."
        )
    if args.auto_find_batch_size:
        raise ValueError(
            f"{feature} plans with one batch size, but `auto_find_batch_size=True` may change it during training. "
            "Leave `auto_find_batch_size` out, and set `per_device_train_batch_size`."
        )
    if args.accelerator_config.dispatch_batches:
        raise ValueError(
            f"{feature} needs each process to draw its own batches, but with `dispatch_batches` the first process "
            "draws for all. Leave `dispatch_batches` out of `accelerator_config`."
        )
    if args.ignore_data_skip:
        raise ValueError(
            f"{feature} needs to know where in an epoch a resumed job is, but with `ignore_data_skip=True` the job "
            "does not go on at the same row. Leave `ignore_data_skip` out."
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise ValueError(
            f"{feature} needs an order that does not depend on the rows, but `train_sampling_strategy={strategy!r}` "
            "sorts them by length. Use 'random' or 'sequential'."
        )


def warn_of_few_steps(num_rows: int, max_steps: int, args: TrainingArguments) -> None:
    """Warn if the golden set gives fewer than `FEW_STEPS` optimizer steps."""
    if max_steps >= FEW_STEPS:
        return
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    logger.warning(
        "A golden set of %s gives %s (%g epochs, effective batch of %s). With fewer than %d steps the model hardly "
        "changes. Set `match_full_steps`, raise `num_train_epochs`, set `max_steps`, lower the batch size, or keep "
        "more rows.",
        counted(num_rows, "row"),
        counted(max_steps, "optimizer step"),
        args.num_train_epochs,
        counted(batch_size, "row"),
        FEW_STEPS,
    )


def warn_of_no_reselection(interval: int, max_steps: int) -> None:
    """Warn if training ends before the golden set is chosen again for the first time."""
    if interval >= max_steps:
        logger.warning(
            "`reselect` never chooses again: the first time would be after step %d of %d. Train longer, or set "
            "`reselect='steps'` with a smaller `reselect_steps`.",
            interval,
            max_steps,
        )
