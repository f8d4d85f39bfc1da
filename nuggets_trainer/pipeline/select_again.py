"""Another selection rule for scores that are there, in seconds. Knows scores.parquet and rows; no model, no store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.scores import GoldenScores
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.store.files import Place, join, read_bytes
from nuggets_trainer.store.parquet import read_table

if TYPE_CHECKING:
    from datasets import Dataset

WRITERS = {".parquet": "to_parquet", ".jsonl": "to_json", ".json": "to_json", ".csv": "to_csv"}


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class StoredScores:
    """What scores.parquet says of a pool of `n` rows.

    Attributes:
        scores: golden scores, `(n,)`; NaN for rows that were dropped or eliminated.
        upper_bound: of rows that a race eliminated, `(n,)`; NaN for the others.
        num_candidates: rows that were not dropped.
        pool_sha256: content hash of the rows; None where the file does not say.
        pool_format: how they were read; None likewise.
    """

    scores: GoldenScores
    upper_bound: npt.NDArray[np.float64]
    num_candidates: int
    pool_sha256: str | None
    pool_format: str | None


def read_scores(score_dir: Place) -> StoredScores:
    """Read the scores.parquet of an earlier run.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has not the columns that this package writes.
    """
    path = join(score_dir, "scores.parquet")
    try:
        table = read_table(read_bytes(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no {path}: nothing was scored there, or not to the end. `nuggets score --score_dir {score_dir} "
            "...` scores a pool."
        ) from error
    needed = ["golden_score", "standard_error", "mean_gain", "num_anchors", "upper_bound", "dropped"]
    missing = sorted(set(needed) - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no columns {missing}: it was not written by this version of nuggets_trainer.")
    floats = {name: table[name].to_numpy().astype(np.float64) for name in (*needed[:3], "upper_bound")}
    upper_bound = floats.pop("upper_bound")
    metadata = table.schema.metadata or {}
    return StoredScores(
        scores=GoldenScores(**floats, num_anchors=table["num_anchors"].to_numpy()),
        upper_bound=upper_bound,
        num_candidates=table["dropped"].null_count,
        pool_sha256=metadata[b"pool_sha256"].decode() if b"pool_sha256" in metadata else None,
        pool_format=metadata[b"pool_format"].decode() if b"pool_format" in metadata else None,
    )


def read_config(score_dir: Place) -> dict[str, Any]:
    """Return the configuration of the run, from run.json; nothing where there is none."""
    try:
        return dict(json.loads(read_bytes(join(score_dir, "run.json")))["config"])
    except (FileNotFoundError, ValueError, KeyError):
        return {}  # written by hand, or by a run that could not write it


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
        return select_golden_set(stored.scores, rule, stored.num_candidates)
    num_scored = int((~np.isnan(stored.scores.golden_score)).sum())
    if name == "threshold":
        within, cut = open_rows > value, value
    else:
        needed = value if name == "top_k" else max(1, round(value * stored.num_candidates))
        if needed > num_scored:
            raise ValueError(_refusal(rule, config, len(open_rows), f"of {needed:,.0f} rows {num_scored:,} have one"))
        cut = select_golden_set(stored.scores, rule, stored.num_candidates).cut
        within = open_rows >= cut  # at the cut the mean gain decides, and theirs is not known
    if within.any():
        reach = f"{int(within.sum()):,} could still reach {cut:.3f}, the best of them {open_rows.max():.3f}"
        raise ValueError(_refusal(rule, config, len(open_rows), reach))
    return select_golden_set(stored.scores, rule, stored.num_candidates)


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
