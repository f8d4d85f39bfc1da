"""What a golden set is chosen by besides the golden score: coverage, groups, repeated prompts, near-duplicates."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.diversity_options import BEYOND_RANKING, COMPLETION_TOKENS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.contents import prompt_key
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from nuggets_trainer.golden.arrays import Ints
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.limits import NO_PROMPT
from nuggets_trainer.pipeline.row_filter import AGAIN
from nuggets_trainer.store.results import PoolScores
from nuggets_trainer.store.stored_scores import StoredScores


def row_groups(pool: Pool, config: NuggetsConfig) -> list[str] | None:
    """Return the value of the column `group_by` in each row, as text; None if the config names no column."""
    if config.group_by is None or config.groups_by_length:
        return None
    return [str(value) for value in pool.dataset[config.group_by]]


def check_limits(pool: Pool, config: NuggetsConfig) -> None:
    """Refuse limits of the golden set for which the rows lack a column or prompts.

    Raises:
        ValueError: if the pool lacks the column `group_by`, or has a column whose name means the length of the
            completion, or if no row has a prompt that `max_rows_per_prompt` could count.
    """
    _check_group_by(pool, config)
    _check_prompts(pool, config)


def _check_group_by(pool: Pool, config: NuggetsConfig) -> None:
    columns = pool.dataset.column_names
    if config.groups_by_length:
        if config.group_by in columns:
            raise ValueError(
                f"`group_by={config.group_by!r}` makes classes of the completion's length, but `{pool.name}` has a "
                "column of this name too. Rename the column. Its new name then groups rows by its values, and "
                f"`{config.group_by}` groups them by length."
            )
        return
    if config.group_by is not None and config.group_by not in columns:
        raise ValueError(
            f"`group_by={config.group_by!r}` is not a column of `{pool.name}`, whose columns are {sorted(columns)}. "
            "Name the column that holds, say, each row's source, or `num_tokens` for classes of length."
        )


def _check_prompts(pool: Pool, config: NuggetsConfig) -> None:
    """Read rows up to the first that has a prompt. A pool of unreadable rows is refused elsewhere, with reasons."""
    if config.max_rows_per_prompt is None:
        return
    has_rows = False
    for row in pool.rows(range(len(pool))):
        if isinstance(row, Row):
            if prompt_key(row):
                return
            has_rows = True
    if not has_rows:
        return
    raise ValueError(
        f"`max_rows_per_prompt={config.max_rows_per_prompt}` needs prompts, but the rows of `{pool.name}` have none: "
        f"each is one text (format `{pool.format}`). Leave it out, or give rows with a prompt and a completion."
    )


def prompt_numbers(pool: Pool) -> Ints:
    """Give equal prompts of a pool the same number, see `prompt_key`.

    Returns:
        The number of each row's prompt, `(n,)`; `NO_PROMPT` for a row that cannot be read or has none.
    """
    hashes = np.zeros(len(pool), dtype=np.uint64)  # the prompts of a large pool would fill the memory
    has_prompt = np.zeros(len(pool), dtype=np.bool_)
    for i, row in enumerate(pool.rows(range(len(pool)))):
        if not isinstance(row, Row):
            continue
        key = prompt_key(row)
        if key:
            has_prompt[i] = True
            digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            hashes[i] = int.from_bytes(digest, "little")
    numbers = np.full(len(pool), NO_PROMPT, dtype=np.int64)
    numbers[has_prompt] = np.unique(hashes[has_prompt], return_inverse=True)[1]
    return numbers


def diversity_of(
    config: NuggetsConfig,
    pool: Pool,
    embeddings: npt.NDArray[np.float32] | None,
    scores: PoolScores,
    one_shot: npt.NDArray[np.float32],
) -> Diversity | None:
    """Gather what a golden set is chosen by besides the golden score; None for a ranking.

    Args:
        config: options of the user.
        pool: the rows.
        embeddings: embeddings of the rows, `(n, d)`, where `max_similarity` asks for them.
        scores: scores of the pool; the anchors' log-probs and the lengths of the rows are read.
        one_shot: log-probs, `(n, m)`; NaN where not scored.
    """
    if not {*BEYOND_RANKING}.intersection(config.every_pair_for):
        return None
    gains = lengths = prompts = None
    if config.max_rows_per_prompt is not None:
        prompts = prompt_numbers(pool)
    if config.coverage_weight is not None:
        gains = one_shot - scores.anchors.zero_shot
    if config.groups_by_length:
        lengths = scores.signals[COMPLETION_TOKENS]
    return Diversity(
        gains=gains,
        coverage_weight=config.coverage_weight or 0.0,
        groups=row_groups(pool, config),
        lengths=lengths,
        group_quota=config.group_quota,
        embeddings=embeddings,
        max_similarity=1.0 if config.max_similarity is None else config.max_similarity,
        prompts=prompts,
        max_rows_per_prompt=config.max_rows_per_prompt or 1,
    )


def diversity_of_stored(stored: StoredScores, config: NuggetsConfig, pool: Pool | None) -> Diversity | None:
    """Gather what the choice from an earlier run's scores is limited by; None for a ranking.

    Args:
        stored: scores of that run.
        config: options of the user; `group_by=num_tokens` and `max_rows_per_prompt` are read.
        pool: the rows that were scored, for their prompts; None if they are not at hand.

    Raises:
        ValueError: if the run did not count the lengths that are needed, if a race left rows without a score that the
            choice depends on, or if the rows are needed and not given, or have no prompts.
    """
    lengths = prompts = None
    if config.groups_by_length:
        lengths = _stored_lengths(stored, config)
    if config.max_rows_per_prompt is not None:
        prompts = _prompts_of_stored(stored, config, pool)
    if lengths is None and prompts is None:
        return None
    return Diversity(
        lengths=lengths,
        group_quota=config.group_quota,
        prompts=prompts,
        max_rows_per_prompt=config.max_rows_per_prompt or 1,
    )


def _stored_lengths(stored: StoredScores, config: NuggetsConfig) -> npt.NDArray[np.float64]:
    again = f"{AGAIN} and with `--group_by num_tokens`: it scores what is missing and reuses the rest."
    if COMPLETION_TOKENS not in stored.signals:
        raise ValueError(f"`group_by=num_tokens` needs the lengths of the rows, which were not counted. {again}")
    if config.scores_pairs and stored.eliminated.any():
        raise ValueError(
            "`group_by=num_tokens` needs the scores of all rows, because it takes the best rows of each class "
            f"of length, but a race stopped {int(stored.eliminated.sum()):,} rows. {again}"
        )
    return stored.signals[COMPLETION_TOKENS]


def _prompts_of_stored(stored: StoredScores, config: NuggetsConfig, pool: Pool | None) -> Ints:
    option = f"`max_rows_per_prompt={config.max_rows_per_prompt}`"
    if pool is None:
        raise ValueError(
            f"{option} needs the prompts of the rows, which are not stored. Name the pool that was scored, with "
            "`--dataset_name` (`pool` of `select_again`)."
        )
    _check_prompts(pool, config)
    # A race for golden scores may decide such a set, which `choose_by_rule` finds out. One for gains only predicts.
    if config.scores_pairs and config.rank_by != "golden_score" and stored.eliminated.any():
        raise ValueError(
            f"{option} needs the {config.rank_by} of all rows, but a race stopped "
            f"{int(stored.eliminated.sum()):,} rows. {AGAIN} and with `--max_rows_per_prompt "
            f"{config.max_rows_per_prompt}`: it scores what is missing and reuses the rest."
        )
    return prompt_numbers(pool)
