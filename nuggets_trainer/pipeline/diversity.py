"""What a golden set is chosen by besides the golden score: coverage, groups, near-duplicates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.diversity_options import COMPLETION_TOKENS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.pipeline.row_filter import AGAIN
from nuggets_trainer.store.results import PoolScores
from nuggets_trainer.store.stored_scores import StoredScores


def row_groups(pool: Pool, config: NuggetsConfig) -> list[str] | None:
    """Return the value of the column `group_by` in each row, as text; None if the config names no column."""
    if config.group_by is None or config.groups_by_length:
        return None
    return [str(value) for value in pool.dataset[config.group_by]]


def diversity_of(
    config: NuggetsConfig,
    groups: list[str] | None,
    embeddings: npt.NDArray[np.float32] | None,
    scores: PoolScores,
    one_shot: npt.NDArray[np.float32],
) -> Diversity | None:
    """Gather what a golden set is chosen by besides the golden score; None for a ranking.

    Args:
        config: options of the user.
        groups: result of `row_groups`.
        embeddings: embeddings of the rows, `(n, d)`, where `max_similarity` asks for them.
        scores: scores of the pool; the anchors' log-probs and the lengths of the rows are read.
        one_shot: log-probs, `(n, m)`; NaN where not scored.
    """
    if {"coverage_weight", "group_by", "max_similarity"}.isdisjoint(config.every_pair_for):
        return None
    gains = lengths = None
    if config.coverage_weight is not None:
        gains = one_shot - scores.anchors.zero_shot
    if config.groups_by_length:
        lengths = scores.signals[COMPLETION_TOKENS]
    return Diversity(
        gains=gains,
        coverage_weight=config.coverage_weight or 0.0,
        groups=groups,
        lengths=lengths,
        group_quota=config.group_quota,
        embeddings=embeddings,
        max_similarity=1.0 if config.max_similarity is None else config.max_similarity,
    )


def diversity_of_stored(stored: StoredScores, config: NuggetsConfig) -> Diversity | None:
    """Gather the lengths of an earlier run's rows for the quotas of `group_by=num_tokens`; None without that option.

    Raises:
        ValueError: if the run did not count them, or if a race left rows without a score.
    """
    if not config.groups_by_length:
        return None
    again = f"{AGAIN} and with `--group_by num_tokens`: it scores what is missing and reuses the rest."
    if COMPLETION_TOKENS not in stored.signals:
        raise ValueError(f"`group_by=num_tokens` needs the lengths of the rows, which were not counted. {again}")
    if config.scores_pairs and stored.eliminated.any():
        raise ValueError(
            "`group_by=num_tokens` needs the scores of all rows, because it takes the best rows of each class "
            f"of length, but a race stopped {int(stored.eliminated.sum()):,} rows. {again}"
        )
    return Diversity(lengths=stored.signals[COMPLETION_TOKENS], group_quota=config.group_quota)
