"""The three files that users read: scores.parquet, anchors.parquet, pairs.parquet. Knows no model and no formulas.

| file | one row per | columns |
| --- | --- | --- |
| scores.parquet | pool row, in pool order | `index`, `golden_score` (null when dropped or eliminated), `standard_error`, `mean_gain`, `num_anchors` (scored), `upper_bound` (of eliminated rows: golden score if the other anchors were won), `dropped` (null or the reason), `rank` (1 is best), `selected`; with several anchor sets also `golden_score_<set>` of each |
| anchors.parquet | anchor | `index`, `pool_index` (null when given), `zero_shot` (null when it could not be scored), `num_tokens`; with several anchor sets also `anchor_set` |
| pairs.parquet | pool row, in pool order | `index`, `one_shot` (one float32 per anchor, null where not scored) |
"""  # noqa: E501 - a table

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from textwrap import shorten
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.golden.scores import AnchorScores, GoldenScores
from nuggets_trainer.golden.selection import GoldenSet, rank_candidates
from nuggets_trainer.store.files import Place, join, stream_atomically, write_atomically
from nuggets_trainer.wording import duration

SCORES_FILE, ANCHORS_FILE, PAIRS_FILE = "scores.parquet", "anchors.parquet", "pairs.parquet"
ROWS_PER_GROUP = 65536  # of pairs.parquet
MOST_GROUPS = 10  # in a summary for people


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class PoolScores(GoldenScores):
    """The golden scores of a pool of `n` rows, and what was dropped.

    Attributes:
        upper_bound: for candidates that a race eliminated, the golden score if they had won all their other anchors;
            NaN for all others. An eliminated candidate has no golden score, and `num_anchors` counts those scored.
        dropped: None, or the reason why a row has no score, one per pool row.
        anchors: the anchors that were scored against.
        by_set: golden scores on each of several anchor sets, by name; empty where there is one set.
        num_pairs_scored: pairs computed by this run; the others came from the store.
        seconds: wall time of scoring.
        cautions: what the report on them has to say first, `level` (`warn` or `note`), `title` and `text` of each;
            empty where no report could be written.
    """

    upper_bound: npt.NDArray[np.float64]
    dropped: list[str | None]
    anchors: AnchorScores
    by_set: dict[str, GoldenScores]
    num_pairs_scored: int
    seconds: float
    cautions: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dropped)

    @property
    def num_eliminated(self) -> int:
        """Candidates that a race found out of reach before their last anchor."""
        return int((~np.isnan(self.upper_bound)).sum())

    @property
    def share_of_pairs(self) -> float:
        """Pairs that the schedule used, of all between candidates and anchors."""
        candidates = sum(reason is None for reason in self.dropped)
        anchors = sum(reason is None for reason in self.anchors.dropped)
        return float(self.num_anchors.sum()) / max(1, candidates * anchors)

    def summary(self) -> dict[str, float]:
        """Return the numbers worth logging, by name; one for each reason to drop a row."""
        dropped = Counter(reason for reason in self.dropped if reason is not None)
        return {
            "num_anchors": sum(reason is None for reason in self.anchors.dropped),
            "num_pairs_scored": self.num_pairs_scored,
            "scoring_seconds": self.seconds,
            "num_eliminated": self.num_eliminated,
            "share_of_pairs": self.share_of_pairs,
            **{f"dropped_{reason}": count for reason, count in dropped.items()},
        }

    def describe(self) -> str:
        """Return the totals in one line."""
        scored = sum(reason is None for reason in self.dropped)
        anchors = len(self.anchors) - sum(reason is not None for reason in self.anchors.dropped)
        text = (
            f"scored {scored:,} candidates x {anchors:,} anchors in {duration(self.seconds)} "
            f"({self.num_pairs_scored:,} pairs computed by this run); "
            f"dropped {_reasons(self.dropped)}"
        )
        if self.num_eliminated:
            text += (
                f"; {self.num_eliminated:,} eliminated before their last anchor, {self.share_of_pairs:.0%} of the "
                "pairs used"
            )
        if anchors < len(self.anchors):
            text += f"; anchors dropped {_reasons(self.anchors.dropped)}"
        if self.anchors.num_cut:
            text += f"; {self.anchors.num_cut} anchors cut at the template's token limit"
        return text


def set_means(scores: PoolScores, golden_set: GoldenSet) -> dict[str, dict[str, float]]:
    """Mean golden score on each of several anchor sets: of the golden set (`kept`) and of all `candidates`."""
    candidates = ~np.isnan(scores.golden_score)
    return {
        name: {
            "candidates": float(own.golden_score[candidates].mean()),
            "kept": float(own.golden_score[golden_set.indices].mean()),
        }
        for name, own in scores.by_set.items()
    }


def describe_results(scores: PoolScores, golden_set: GoldenSet) -> list[str]:
    """Return the totals, the selection, and what it has of anchor sets and groups, a line each."""
    lines = [scores.describe(), golden_set.describe()]
    means = [f"{name} {m['kept']:.3f} ({m['candidates']:.3f})" for name, m in set_means(scores, golden_set).items()]
    if means:
        lines.append(f"mean golden score of the rows kept (of all candidates), by anchor set: {', '.join(means)}")
    groups = [
        f"{_short(name)} {counts['kept']:,} of {counts['candidates']:,}"
        for name, counts in list(golden_set.groups.items())[:MOST_GROUPS]
    ]
    if groups:
        num_more = len(golden_set.groups) - len(groups)
        more = f", and {num_more:,} smaller groups" if num_more else ""
        lines.append(f"kept by group: {', '.join(groups)}{more}")
    return lines


def _short(name: str) -> str:
    """Return the beginning of a name from the user's rows, without what acts on a terminal."""
    return shorten("".join(c if c.isprintable() else " " for c in name), 40, placeholder="...")


def write_results(
    score_dir: Place,
    scores: PoolScores,
    one_shot: npt.NDArray[np.float32],
    golden_set: GoldenSet,
    pool: dict[str, str] | None = None,
) -> None:
    """Write the three files, each at once.

    Args:
        score_dir: where to; a local path, or a URL for fsspec.
        scores: of the pool, n rows, m anchors.
        one_shot: log-probs `(n, m)`, perhaps in a file; NaN where not scored.
        golden_set: for `selected`.
        pool: what tells later whether rows are those that were scored, into the metadata of scores.parquet.
    """
    _write(join(score_dir, SCORES_FILE), _scores_table(scores, golden_set).replace_schema_metadata(pool))
    _write(join(score_dir, ANCHORS_FILE), _anchors_table(scores.anchors))
    stream_atomically(join(score_dir, PAIRS_FILE), lambda file: _write_pairs(file, one_shot))


def _scores_table(scores: PoolScores, golden_set: GoldenSet) -> pa.Table:
    n = len(scores)
    rank = np.zeros(n, dtype=np.int64)
    order = rank_candidates(scores)
    rank[order] = np.arange(1, len(order) + 1)
    selected = np.zeros(n, dtype=np.bool_)
    selected[golden_set.indices] = True
    return pa.table(
        {
            "index": pa.array(np.arange(n)),
            "golden_score": _nullable(scores.golden_score),
            "standard_error": _nullable(scores.standard_error),
            "mean_gain": _nullable(scores.mean_gain),
            "num_anchors": pa.array(scores.num_anchors),
            "upper_bound": _nullable(scores.upper_bound),
            "dropped": pa.array(scores.dropped, pa.string()),
            "rank": pa.array(rank, mask=rank == 0),
            "selected": pa.array(selected),
            **{f"golden_score_{name}": _nullable(own.golden_score) for name, own in scores.by_set.items()},
        }
    )


def _anchors_table(anchors: AnchorScores) -> pa.Table:
    return pa.table(
        {
            "index": pa.array(np.arange(len(anchors))),
            "pool_index": pa.array(anchors.pool_index, pa.int64()),
            "zero_shot": _nullable(anchors.zero_shot),
            "num_tokens": pa.array(anchors.num_tokens),
            **({"anchor_set": pa.array(anchors.set_names)} if any(anchors.set_names) else {}),
        }
    )


def _write_pairs(file: BinaryIO, one_shot: npt.NDArray[np.float32]) -> None:
    """Write some rows at a time: all together may not fit in memory."""
    schema = pa.schema([("index", pa.int64()), ("one_shot", pa.list_(pa.float32()))])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(one_shot), ROWS_PER_GROUP):
            block = np.asarray(one_shot[start : start + ROWS_PER_GROUP])
            n, m = block.shape
            offsets = pa.array(np.arange(0, n * m + 1, m, dtype=np.int32))
            values = pa.ListArray.from_arrays(offsets, _nullable(block.reshape(-1)))
            writer.write_table(pa.table([pa.array(np.arange(start, start + n)), values], schema=schema))


def _nullable(values: npt.NDArray[np.floating]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _write(place: Place, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(place, sink.getvalue())


def _reasons(dropped: list[str | None]) -> str:
    counts = Counter(reason for reason in dropped if reason is not None)
    if not counts:
        return "none"
    return f"{counts.total():,} ({', '.join(f'{reason} {count:,}' for reason, count in counts.most_common())})"
