"""What a golden set is chosen by besides the golden score: coverage, groups, near-duplicates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.diversity import Diversity


def row_groups(pool: Pool, config: NuggetsConfig) -> list[str] | None:
    """Return the value of the column `group_by` in each row, as text; None if the config names no column."""
    if config.group_by is None:
        return None
    return [str(value) for value in pool.dataset[config.group_by]]


def diversity_of(
    config: NuggetsConfig,
    groups: list[str] | None,
    embeddings: npt.NDArray[np.float32] | None,
    zero_shot: npt.NDArray[np.float32],
    one_shot: npt.NDArray[np.float32],
) -> Diversity | None:
    """Gather what a golden set is chosen by besides the golden score; None for a ranking.

    Args:
        config: options of the user.
        groups: result of `row_groups`.
        embeddings: embeddings of the rows, `(n, d)`, where `max_similarity` asks for them.
        zero_shot: log-probs of the anchors, `(m,)`.
        one_shot: log-probs, `(n, m)`; NaN where not scored.
    """
    if {"coverage_weight", "group_by", "max_similarity"}.isdisjoint(config.every_pair_for):
        return None
    gains = None
    if config.coverage_weight is not None:
        gains = one_shot - zero_shot
    return Diversity(
        gains=gains,
        coverage_weight=config.coverage_weight or 0.0,
        groups=groups,
        group_quota=config.group_quota,
        embeddings=embeddings,
        max_similarity=1.0 if config.max_similarity is None else config.max_similarity,
    )
