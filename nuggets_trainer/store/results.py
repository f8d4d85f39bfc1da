"""The three files that users read: scores.parquet, anchors.parquet, pairs.parquet.

| file | one row per | columns |
| --- | --- | --- |
| scores.parquet | pool row, in pool order | `index`, `golden_score` (null when dropped or eliminated, predicted when a race for gains stopped the row), `standard_error`, `mean_gain`, `num_anchors` (scored), `upper_bound` (of rows that a race stopped: golden score if the other anchors were won), `dropped` (null or the reason), `rank` (1 is best), `selected`, `mean_gain_error`, `gain` (standardised), `gain_error`; with several anchor sets also `golden_score_<set>` of each; with row signals also `loss`, `loss_without_prompt`, `ifd`, `similarity`, `similarity_turn`, `num_tokens`, `ica` (null where not defined); `num_tokens` and `total_tokens` also where they are counted for `group_by` and `max_tokens`; `repetition` (null for a row that cannot be rendered); with `require` also `meets_require` (null when dropped) |
| anchors.parquet | anchor | `index`, `pool_index` (null when given), `zero_shot` (null when it could not be scored), `num_tokens`, `gain_mean` and `gain_deviation` (of the pilot that `gain` is standardised by; null when the anchor or the pilot was not scored); with several anchor sets also `anchor_set` |
| pairs.parquet | pool row, in pool order | `index`, `one_shot` (one float32 per anchor, null where not scored) |
"""  # noqa: E501 - a table

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.config.requirement import BY_SET
from nuggets_trainer.golden.limits import FAILS_REQUIRE
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import AnchorScores, GoldenScores
from nuggets_trainer.golden.selection import GoldenSet
from nuggets_trainer.store.files import Place, join, stream_atomically, write_atomically
from nuggets_trainer.wording import counted, duration, tally

SCORES_FILE, ANCHORS_FILE, PAIRS_FILE = "scores.parquet", "anchors.parquet", "pairs.parquet"
MEETS_REQUIRE = "meets_require"
ROWS_PER_GROUP = 65536  # rows in a row group of pairs.parquet
MOST_GROUPS = 10  # quota groups in a summary for people; classes of length are as many


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class PoolScores(GoldenScores):
    """The golden scores of a pool of `n` rows, and what was dropped.

    Attributes:
        upper_bound: golden score that a candidate stopped by a race would have had if it had won all its other
            anchors; NaN for all other candidates. Its `num_anchors` counts the anchors that it was scored on. After a
            race by golden score it has no scores. After a race for gains they are predictions, and `gain_error` and
            `mean_gain_error` are the standard errors of the predictions.
        dropped: reason why a row has no score, one per pool row; None if it was not dropped.
        anchors: scores of the anchors.
        by_set: golden scores on each of several anchor sets, by name; empty if there is one set.
        num_pairs_scored: pairs computed by this run; the others came from the store.
        seconds: wall time of scoring.
        cautions: cautions of the report, `level` (`warn` or `note`), `title` and `text` of each; empty if no report
            could be written.
        verdict: verdict of the report: its `outcome`, `sentence`, `facts` and numbers; empty if no report could be
            written.
        signals: signals of each row by itself, by name (`signals.row_signals`, `signals.repetition`); NaN where not
            defined.
        meets_require: whether each row meets the condition `require`; None without one.
    """

    upper_bound: npt.NDArray[np.float64]
    dropped: list[str | None]
    anchors: AnchorScores
    by_set: dict[str, GoldenScores]
    num_pairs_scored: int
    seconds: float
    cautions: list[dict[str, str]] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    meets_require: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.dropped)

    @property
    def num_eliminated(self) -> int:
        """Number of candidates that a race stopped before their last anchor."""
        return int((~np.isnan(self.upper_bound)).sum())

    @property
    def share_of_pairs(self) -> float:
        """Share of all pairs between candidates and anchors that the schedule used."""
        num_pairs = self.dropped.count(None) * self.anchors.dropped.count(None)
        return float(self.num_anchors.sum()) / max(1, num_pairs)

    def summary(self) -> dict[str, float]:
        """Return the numbers worth logging, by name; one for each reason to drop a row."""
        numbers = {
            "num_anchors": self.anchors.dropped.count(None),
            "num_pairs_scored": self.num_pairs_scored,
            "scoring_seconds": self.seconds,
            "num_eliminated": self.num_eliminated,
            "share_of_pairs": self.share_of_pairs,
        }
        for reason, count in count_reasons(self.dropped).items():
            numbers[f"dropped_{reason}"] = count
        return numbers

    def describe(self) -> str:
        """Return the totals in one line."""
        num_anchors = self.anchors.dropped.count(None)
        if not self.num_anchors.any():
            return (
                f"computed the signals of {counted(self.dropped.count(None), 'candidate')}, and no pair, in "
                f"{duration(self.seconds)}; dropped {_total_and_reasons(self.dropped)}"
            )
        parts = [
            f"scored {counted(self.dropped.count(None), 'candidate')} x {counted(num_anchors, 'anchor')} in "
            f"{duration(self.seconds)} ({counted(self.num_pairs_scored, 'pair')} computed by this run)",
            f"dropped {_total_and_reasons(self.dropped)}",
        ]
        if self.num_eliminated:
            what = "stopped before their last anchor, with predicted scores"
            if np.isnan(self.golden_score[~np.isnan(self.upper_bound)]).all():
                what = "eliminated before their last anchor"
            parts.append(f"{self.num_eliminated:,} {what}, {self.share_of_pairs:.0%} of the pairs used")
        if num_anchors < len(self.anchors):
            parts.append(f"anchors dropped {_total_and_reasons(self.anchors.dropped)}")
        if self.anchors.num_cut:
            parts.append(f"{counted(self.anchors.num_cut, 'anchor')} cut at the template's token limit")
        return "; ".join(parts)


def count_reasons(dropped: Iterable[str | None]) -> Counter[str]:
    """Count the reasons to drop a row, in the order in which they first occur."""
    return Counter(reason for reason in dropped if reason is not None)


def _total_and_reasons(dropped: Iterable[str | None]) -> str:
    """Write the number of dropped rows, with the reasons, the most frequent first."""
    counts = count_reasons(dropped)
    if not counts:
        return "none"
    return f"{counts.total():,} ({tally(counts)})"


def set_means(scores: PoolScores, golden_set: GoldenSet) -> dict[str, dict[str, float]]:
    """Return the mean of the ranked value on each of several anchor sets, of the rows `kept` and all `candidates`."""
    candidates = ~np.isnan(scores.golden_score)
    means = {}
    for name, own in scores.by_set.items():
        values = golden_set.ranked.of(own)
        means[name] = {
            "candidates": float(values[candidates].mean()),
            "kept": float(values[golden_set.indices].mean()),
        }
    return means


def describe_results(scores: PoolScores, golden_set: GoldenSet) -> list[str]:
    """Return the totals, the selection, and what it has of anchor sets and groups, a line each."""
    lines, ranked = [scores.describe(), golden_set.describe()], golden_set.ranked
    means = []
    for name, mean in set_means(scores, golden_set).items():
        means.append(f"{name} {ranked.write(mean['kept'])} ({ranked.write(mean['candidates'])})")
    if means:
        lines.append(f"mean {ranked.words} of the rows kept (of all candidates), by anchor set: {', '.join(means)}")
    return [*lines, *describe_groups(golden_set)]


def describe_groups(golden_set: GoldenSet) -> list[str]:
    """Return what the golden set has of each group, as one line; no line without quotas."""
    groups = []
    for name, counts in list(golden_set.groups.items())[:MOST_GROUPS]:
        groups.append(f"{_short(name)} {counts['kept']:,} of {counts['candidates']:,}")
    num_more = len(golden_set.groups) - len(groups)
    if num_more:
        groups.append(f"and {counted(num_more, 'smaller group')}")
    return [f"kept by group: {', '.join(groups)}"] if groups else []


def _short(name: str) -> str:
    """Return the beginning of a name from the user's rows, without characters that act on a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return shorten(printable, 40, placeholder="...")


def write_results(
    score_dir: Place,
    scores: PoolScores,
    one_shot: npt.NDArray[np.float32],
    golden_set: GoldenSet,
    pool: dict[str, str] | None = None,
) -> None:
    """Write the three files, each atomically.

    Args:
        score_dir: directory of the files; a local path, or a URL for fsspec.
        scores: scores of the pool's n rows on m anchors.
        one_shot: log-probs `(n, m)`, possibly in a file; NaN for pairs that were not scored.
        golden_set: rows to mark as `selected`.
        pool: metadata of scores.parquet by which rows are recognised later as those that were scored.
    """
    _write(join(score_dir, SCORES_FILE), _scores_table(scores, golden_set).replace_schema_metadata(pool))
    _write(join(score_dir, ANCHORS_FILE), _anchors_table(scores.anchors))
    stream_atomically(join(score_dir, PAIRS_FILE), lambda file: _write_pairs(file, one_shot))


def _scores_table(scores: PoolScores, golden_set: GoldenSet) -> pa.Table:
    n = len(scores)
    rank = np.zeros(n, dtype=np.int64)
    order = rank_candidates(scores, golden_set.rank_by)
    rank[order] = np.arange(1, len(order) + 1)
    selected = np.zeros(n, dtype=np.bool_)
    selected[golden_set.indices] = True
    columns = {
        "index": pa.array(np.arange(n)),
        "golden_score": _nullable(scores.golden_score),
        "standard_error": _nullable(scores.standard_error),
        "mean_gain": _nullable(scores.mean_gain),
        "num_anchors": pa.array(scores.num_anchors),
        "upper_bound": _nullable(scores.upper_bound),
        "dropped": pa.array(scores.dropped, pa.string()),
        "rank": pa.array(rank, mask=rank == 0),
        "selected": pa.array(selected),
        "mean_gain_error": _nullable(scores.mean_gain_error),
        "gain": _nullable(scores.gain),
        "gain_error": _nullable(scores.gain_error),
    }
    for name, own in scores.by_set.items():
        columns[BY_SET + name] = _nullable(own.golden_score)
    for name, values in scores.signals.items():
        columns[name] = _nullable(values)
    if scores.meets_require is not None:
        unscored = np.array([reason not in (None, FAILS_REQUIRE) for reason in scores.dropped])
        columns[MEETS_REQUIRE] = pa.array(scores.meets_require, mask=unscored)
    return pa.table(columns)


def _anchors_table(anchors: AnchorScores) -> pa.Table:
    columns = {
        "index": pa.array(np.arange(len(anchors))),
        "pool_index": pa.array(anchors.pool_index, pa.int64()),
        "zero_shot": _nullable(anchors.zero_shot),
        "num_tokens": pa.array(anchors.num_tokens),
        "gain_mean": _nullable(anchors.gain_mean),
        "gain_deviation": _nullable(anchors.gain_deviation),
    }
    if any(anchors.set_names):
        columns["anchor_set"] = pa.array(anchors.set_names)
    return pa.table(columns)


def _write_pairs(file: BinaryIO, one_shot: npt.NDArray[np.float32]) -> None:
    """Write some rows at a time: all together may not fit in memory."""
    schema = pa.schema([("index", pa.int64()), ("one_shot", pa.list_(pa.float32()))])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(one_shot), ROWS_PER_GROUP):
            block = np.asarray(one_shot[start : start + ROWS_PER_GROUP])
            n, m = block.shape
            offsets = pa.array(m * np.arange(n + 1, dtype=np.int32))
            values = pa.ListArray.from_arrays(offsets, _nullable(block.reshape(-1)))
            writer.write_table(pa.table([pa.array(np.arange(start, start + n)), values], schema=schema))


def _nullable(values: npt.NDArray[np.floating]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _write(place: Place, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(place, sink.getvalue())
