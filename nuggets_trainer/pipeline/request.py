"""What a golden set is chosen by besides the golden score, from pool and config. Knows no model and no ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.anchor_options import check_combination
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.selection import Diversity


def with_schedule_for(config: NuggetsConfig, sets: Mapping[str, Pool] | None) -> NuggetsConfig:
    """Score every pair where there are several anchor sets, which `config` need not know of.

    Raises:
        ValueError: if it asks for a race.
    """
    if sets is None or len(sets) == 1 or config.schedule_in_force == "exact":
        return config
    if config.schedule == "race":
        raise ValueError(
            f"A race leaves out pairs, but with several anchor sets ({', '.join(sets)}) the golden set depends on all "
            "of them. Leave `schedule` at `auto`."
        )
    return dataclasses.replace(config, schedule="exact")


def check_choice(pool: Pool, sets: Mapping[str, Pool] | None, config: NuggetsConfig) -> None:
    """Raise `ValueError` if the pool has no column `group_by`, or if there are no anchor sets to combine."""
    check_combination(config.combine_anchor_sets, 1 if sets is None else len(sets))
    columns = pool.dataset.column_names
    if config.group_by is not None and config.group_by not in columns:
        raise ValueError(
            f"`group_by={config.group_by!r}` is no column of `{pool.name}`, whose columns are {sorted(columns)}. Name "
            "the column that holds, say, each row's source."
        )


def row_groups(pool: Pool, config: NuggetsConfig) -> list[str] | None:
    """Value of the column `group_by` in each row, as text; None without."""
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
        config: the choices of the user.
        groups: from `row_groups`.
        embeddings: of the rows, `(n, d)`, where `max_similarity` asks for them.
        zero_shot: log-probs of the anchors, `(m,)`.
        one_shot: log-probs, `(n, m)`; NaN where not scored.
    """
    if {"coverage_weight", "group_by", "max_similarity"}.isdisjoint(config.every_pair_for):
        return None
    return Diversity(
        gains=one_shot - zero_shot if config.coverage_weight else None,
        coverage_weight=config.coverage_weight or 0.0,
        groups=groups,
        group_quota=config.group_quota,
        embeddings=embeddings,
        max_similarity=1.0 if config.max_similarity is None else config.max_similarity,
    )
