"""A comparison as one job: load the rows, score them, run all arms, and write the results."""

from __future__ import annotations

import logging

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig

from nuggets_trainer.comparison.compare import compare_arms
from nuggets_trainer.comparison.options import QUICK_HELDOUT, QUICK_ROWS, CompareArguments, arms_to_run
from nuggets_trainer.comparison.result_files import ComparisonResults
from nuggets_trainer.comparison.scored_pool import score_for_arms
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.training.job import check_job_paths, load_eval_rows, load_pool_rows
from nuggets_trainer.training.job_arguments import RecipeArguments

logger = logging.getLogger("nuggets_trainer.compare")


def run_comparison(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, options: CompareArguments
) -> ComparisonResults:
    """Score, run every arm, and write the results; all ranks must call it.

    Args:
        script: rows, and held-out rows.
        args: training arguments of every run.
        model: model that is tuned.
        nuggets: options of scoring.
        options: options of the comparison.
    """
    arms = arms_to_run(options, nuggets)
    check_job_paths(script, args, model, nuggets)
    pool = take_pool(load_pool_rows(script), nuggets.pool_size, "dataset_name")
    heldout = load_eval_rows(script, args)
    if not isinstance(heldout, Dataset):
        raise ValueError(f"`eval_dataset_name` must be one set for `nuggets compare`, got {', '.join(heldout)}.")
    race_fraction = None
    if options.quick:
        pool = _drawn(pool, QUICK_ROWS, "the pool")
        heldout = _drawn(heldout, QUICK_HELDOUT, "the held-out rows")
        race_fraction = options.golden_fractions[0]
    scored = score_for_arms(pool, args, model, nuggets, arms, race_fraction)
    return compare_arms(pool, scored, heldout, args, model, nuggets.template, options, arms)


def _drawn(rows: Dataset, most: int, name: str) -> Dataset:
    """Draw rows at random, always the same, in their order; all of them if they are not more than that."""
    if len(rows) <= most:
        return rows
    if Ranks().is_main:
        logger.info("quick: %s random rows of %s, which has %s", f"{most:,}", name, f"{len(rows):,}")
    drawn = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return rows.select(np.sort(drawn))
