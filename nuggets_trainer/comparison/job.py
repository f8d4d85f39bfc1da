"""A comparison as one job: load the rows, score them, run all arms, and write the results."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from trl import ModelConfig, SFTConfig

from nuggets_trainer.comparison.compare import compare_arms
from nuggets_trainer.comparison.given_scores import GivenScores, parse_given_scores
from nuggets_trainer.comparison.options import QUICK_HELDOUT, QUICK_ROWS, CompareArguments, arms_to_run
from nuggets_trainer.comparison.result_files import ComparisonResults
from nuggets_trainer.comparison.scored_pool import score_for_arms
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.anchors import anchors_like, shared_rows
from nuggets_trainer.data.columns import map_columns, map_each
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.loading import check_paths
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.overlap.find import check_heldout
from nuggets_trainer.pipeline.rows import read_anchors, read_pool
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.training.job import check_job_paths, load_eval_rows, load_pool_rows
from nuggets_trainer.training.job_arguments import RecipeArguments
from nuggets_trainer.training.rows import row_options
from nuggets_trainer.wording import counted

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
    score_files = {f"scores {file.name}": file.file for file in parse_given_scores(options.scores or [])}
    check_paths(nuggets, score_files, {})
    mapping = nuggets.column_mapping
    pool = map_columns(take_pool(load_pool_rows(script), nuggets.pool_size, "dataset_name"), mapping, "dataset_name")
    heldout = map_each(load_eval_rows(script, args), mapping, "eval_dataset_name")
    if not isinstance(heldout, dict):
        heldout = {"": heldout}
    _check_anchors(read_pool(pool, nuggets, row_options(args), name="dataset_name"), heldout, nuggets)
    given = _read_scores(pool, args, nuggets, options)
    race_fraction = None
    if options.quick:
        kept = draw_places(len(pool), QUICK_ROWS, "the pool")
        pool, given = pool.select(kept), given.select(kept)
        for name, own in heldout.items():
            places = draw_places(len(own), QUICK_HELDOUT, f"the held-out rows {name}".rstrip())
            heldout[name] = own.select(places)
        race_fraction = options.golden_fractions[0]
    contamination = Ranks().on_main(lambda: _look_for_heldout(pool, heldout, args, nuggets))
    scored = given.add_to(score_for_arms(pool, args, model, nuggets, arms, race_fraction))
    scored = dataclasses.replace(scored, contamination=contamination)
    return compare_arms(pool, scored, heldout, args, model, nuggets.template, options, arms, given)


def _look_for_heldout(
    pool: Dataset, heldout: dict[str, Dataset], args: SFTConfig, nuggets: NuggetsConfig
) -> dict[str, Any]:
    """Count the rows that hold the prompts of held-out rows, and say so before any model is loaded."""
    read = read_pool(pool, nuggets, row_options(args), name="dataset_name")
    found = check_heldout(read, heldout)
    tell(logger, "held-out rows: %s", found["says"])
    return found


def _check_anchors(pool: Pool, heldout: Mapping[str, Dataset], nuggets: NuggetsConfig) -> None:
    """Refuse anchors that the arms are measured on: the golden set would be chosen by the test.

    Raises:
        ValueError: if a given anchor has the text of a held-out row.
    """
    for set_name, anchors in (read_anchors(None, nuggets, pool) or {}).items():
        for name, rows in heldout.items():
            if not fitting_formats(rows.column_names, pool.text_field):
                continue  # training refuses them
            shared = shared_rows(anchors, anchors_like(rows, pool))
            if shared:
                own, other = f"anchors {set_name}".rstrip(), f"eval_dataset_name {name}".rstrip()
                raise ValueError(
                    f"`{own}` and `{other}` must have no row in common, but {counted(len(shared), 'anchor')} of "
                    f"{len(anchors):,} are held-out rows (anchor {shared[0][0]} is row {shared[0][1]}): the golden "
                    "set would be chosen by the test that it is measured on. Take anchors from a training split."
                )


def _read_scores(pool: Dataset, args: SFTConfig, nuggets: NuggetsConfig, options: CompareArguments) -> GivenScores:
    """Read the scores of other programs; what is wrong with them is told before a model is loaded."""
    files = parse_given_scores(options.scores or [])
    if not files:
        return GivenScores({})
    read = read_pool(pool, nuggets, row_options(args), name="dataset_name")
    return GivenScores.read(files, read, nuggets.column_mapping)


def draw_places(num_rows: int, most: int, name: str) -> npt.NDArray[np.int64]:
    """Draw places of rows at random, always the same, in their order; all of them if they are not more than that."""
    if num_rows <= most:
        return np.arange(num_rows)
    if Ranks().is_main:
        logger.info("quick: %s random rows of %s, which has %s", f"{most:,}", name, f"{num_rows:,}")
    return np.sort(np.random.default_rng(0).choice(num_rows, most, replace=False))
