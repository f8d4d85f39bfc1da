"""Another selection rule for scores that are there, in seconds. Knows scores.parquet and rows; no model, no store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import StoredScores

if TYPE_CHECKING:
    from datasets import Dataset

WRITERS = {".parquet": "to_parquet", ".jsonl": "to_json", ".json": "to_json", ".csv": "to_csv"}


def check_ranked(score_dir: Place, config: dict[str, Any]) -> None:
    """Refuse scores whose golden set was no ranking, as far as the run's configuration says.

    Raises:
        ValueError: with what to run instead.
    """
    names = [name for name in ("coverage_weight", "group_by", "max_similarity") if config.get(name) is not None]
    if names:
        raise ValueError(
            f"The golden set in {score_dir} was chosen with {' and '.join(f'`{name}`' for name in names)}, but "
            "`nuggets select` knows rankings alone. Run the same `nuggets score` again with the new rule: every pair "
            "is stored."
        )


def select_again(stored: StoredScores, rule: tuple[str, float], config: dict[str, Any]) -> GoldenSet:
    """Choose by another rule, where the scores suffice for it.

    Args:
        stored: the scores.
        rule: name and value.
        config: of the run that scored, from `read_config`, for what to run instead.

    Raises:
        ValueError: if rows that a race eliminated could be among the chosen ones; the error says what to run.
    """
    name, value = rule
    if name == "top_k" and value > stored.num_candidates:
        raise ValueError(
            f"`top_k={value:.0f}` is larger than the usable pool: {stored.num_candidates:,} rows can be scored. Lower "
            "it."
        )
    open_rows = stored.upper_bound[~np.isnan(stored.upper_bound)]
    if not len(open_rows):
        return select_golden_set(stored, rule, stored.num_candidates)
    num_scored = int((~np.isnan(stored.golden_score)).sum())
    if name == "threshold":
        within, cut = open_rows > value, value
    else:
        needed = value if name == "top_k" else max(1, round(value * stored.num_candidates))
        if needed > num_scored:
            raise ValueError(_refusal(rule, config, len(open_rows), f"of {needed:,.0f} rows {num_scored:,} have one"))
        cut = select_golden_set(stored, rule, stored.num_candidates).cut
        within = open_rows >= cut  # at the cut the mean gain decides, and theirs is not known
    if within.any():
        reach = f"{int(within.sum()):,} could still reach {cut:.3f}, the best of them {open_rows.max():.3f}"
        raise ValueError(_refusal(rule, config, len(open_rows), reach))
    return select_golden_set(stored, rule, stored.num_candidates)


def _refusal(rule: tuple[str, float], config: dict[str, Any], num_open: int, reason: str) -> str:
    name, value = rule
    own = [f"`--{n} {config[n]:g}`" for n in ("top_fraction", "top_k", "threshold") if config.get(n) is not None]
    in_place = f" in place of {own[0]}" if own else ""
    return (
        f"`{name}={value:g}` cannot be told from these scores: a race stopped {num_open:,} rows before they had a "
        f"golden score, and {reason}. Run the command that scored the pool again, on the same `score_dir`, "
        f"with `--{name} {value:g}`{in_place}: it scores what this rule needs, reuses the rest, and writes this "
        "golden set. For any rule, now and later, run it with `--schedule exact`, which scores every row, and then "
        "`nuggets select` again."
    )


def check_same_pool(stored: StoredScores, pool: Any) -> str | None:
    """Check that rows are those that were scored; return what could not be checked, or None.

    Args:
        stored: the scores.
        pool: the rows, a `Pool`.

    Raises:
        ValueError: if their number or content is another.
    """
    if len(pool) != len(stored.upper_bound):
        raise ValueError(
            f"`dataset_name` has {len(pool):,} rows, but {len(stored.upper_bound):,} were scored. Name the pool "
            "that was scored, with its `dataset_config`, `dataset_train_split` and `pool_size`."
        )
    if stored.pool_sha256 is None or stored.pool_format != pool.format:
        return "that the rows are those that were scored was checked by their number alone"
    if stored.pool_sha256 != pool.content_hash:
        raise ValueError(
            f"`dataset_name` has as many rows as were scored, but others, or in another order (content hash "
            f"{pool.content_hash}, scored {stored.pool_sha256}). Name the pool that was scored."
        )
    return None


def check_output_file(file: str) -> None:
    """Refuse a file type that no rows can be written to, before any work.

    Raises:
        ValueError: with those that can.
    """
    if Path(file).suffix not in WRITERS:
        raise ValueError(f"`output_file` must end in {', '.join(WRITERS)}, got {file!r}.")


def write_rows(dataset: Dataset, golden_set: GoldenSet, file: str) -> None:
    """Write the golden set as it stands in the pool, best row first."""
    rows = dataset.select(golden_set.indices)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    getattr(rows, WRITERS[Path(file).suffix])(file)


def as_json(golden_set: GoldenSet) -> dict[str, Any]:
    """Return the golden set as numbers and lists."""
    return {"rule": dict([golden_set.rule]), **golden_set.summary(), "indices": golden_set.indices.tolist()}
