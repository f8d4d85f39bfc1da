"""What two golden sets of one pool share, and where they differ."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from nuggets_trainer.golden.arrays import Ints
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import read_optional, read_scores
from nuggets_trainer.store.run_info import RUN_FILE
from nuggets_trainer.store.stored_scores import StoredScores
from nuggets_trainer.wording import counted, tally

logger = logging.getLogger(__name__)


MOST_SHOWN = 10  # rows that each side alone kept, in text for people
FEWEST_RANKED = 3  # rows from which a correlation says anything
# Options that say where a run reads and writes, not what it chooses.
NO_CHOICE = ("score_dir",)


@dataclass(frozen=True, eq=False)
class Difference:
    """Two golden sets of one pool.

    Attributes:
        names: the two directories.
        num_rows: number of rows in the pool.
        sizes: number of rows in each golden set.
        shared: pool indices of the rows in both, in the first one's order, `(s,)`.
        alone: pool indices of the rows in one alone, best first, one array for each set.
        other_rank: rank in the other ranking of each row in `alone`; 0 if it has none there.
        missing: number of rows in `alone` that have no rank in the other ranking, by reason.
        correlation: Spearman's rank correlation over all rows that both rankings have; None if there are too few.
        num_ranked: number of these rows.
        options: options of the runs that differ, with both values.
    """

    names: tuple[str, str]
    num_rows: int
    sizes: tuple[int, int]
    shared: Ints
    alone: tuple[Ints, Ints]
    other_rank: tuple[Ints, Ints]
    missing: tuple[dict[str, int], dict[str, int]]
    correlation: float | None
    num_ranked: int
    options: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def expected(self) -> float:
        """Number of rows that two random sets of these sizes would share."""
        return self.sizes[0] * self.sizes[1] / self.num_rows

    def as_json(self) -> dict[str, Any]:
        """Return the difference as numbers and lists; entries for the two sets are lists of two."""
        return {
            "score_dirs": list(self.names),
            "num_rows": self.num_rows,
            "sizes": list(self.sizes),
            "num_shared": len(self.shared),
            "num_shared_by_chance": self.expected,
            "rank_correlation": self.correlation,
            "num_ranked_by_both": self.num_ranked,
            "shared": self.shared.tolist(),
            "alone": [indices.tolist() for indices in self.alone],
            "other_rank": [[rank or None for rank in ranks.tolist()] for ranks in self.other_rank],
            "missing": list(self.missing),
            "options": {name: list(values) for name, values in self.options.items()},
        }

    def describe(self) -> str:
        """Return the difference as lines for a terminal."""
        first, second = self.names
        lines = [f"A  {first}: {counted(self.sizes[0], 'row')}", f"B  {second}: {counted(self.sizes[1], 'row')}"]
        lines.append(
            f"shared: {len(self.shared):,} ({len(self.shared) / self.sizes[0]:.0%} of A, "
            f"{len(self.shared) / self.sizes[1]:.0%} of B); random sets of these sizes would share "
            f"{self.expected:,.1f}"
        )
        if self.correlation is not None:
            lines.append(
                f"rank correlation: {self.correlation:.3f} over {counted(self.num_ranked, 'row')} ranked by both"
            )
        for name, (own, other) in self.options.items():
            lines.append(f"option `{name}`: {own} in A, {other} in B")
        for place, (one, two) in enumerate((("A", "B"), ("B", "A"))):
            lines += self._describe_alone(place, one, two)
        return "\n".join(lines)

    def _describe_alone(self, place: int, one: str, two: str) -> list[str]:
        indices, ranks = self.alone[place], self.other_rank[place]
        if not len(indices):
            return [f"in {one} alone: none"]
        line = f"in {one} alone: {counted(len(indices), 'row')}"
        if self.missing[place]:
            line += f"; no rank in {two}: {tally(self.missing[place])}"
        lines = [line]
        for index, rank in list(zip(indices.tolist(), ranks.tolist(), strict=True))[:MOST_SHOWN]:
            where = f"rank {rank:,} in {two}" if rank else f"no rank in {two}"
            lines.append(f"  row {index:,}: {where}")
        if len(indices) > MOST_SHOWN:
            lines.append(f"  and {counted(len(indices) - MOST_SHOWN, 'further row')} (all of them with --json)")
        return lines


def difference(score_dir: Place, other_dir: Place) -> Difference:
    """Compare the golden sets of two scoring runs over one pool.

    Args:
        score_dir: directory or URL with the scores.parquet of the first run.
        other_dir: that of the second.

    Raises:
        FileNotFoundError: if scores are not there; the error says what to run.
        ValueError: if the runs scored different pools. Files of earlier versions do not say which pool they belong to;
            a warning says so if the number of rows is the same.
    """
    scores = read_scores(score_dir), read_scores(other_dir)
    _check_same_pool(scores, (score_dir, other_dir))
    kept = [each.selected.nonzero()[0] for each in scores]
    kept = [indices[np.argsort(each.rank[indices], kind="stable")] for indices, each in zip(kept, scores, strict=True)]
    first, second = kept
    alone = first[~np.isin(first, second)], second[~np.isin(second, first)]
    both = (scores[0].rank > 0) & (scores[1].rank > 0)
    correlation = None
    if both.sum() >= FEWEST_RANKED:
        correlation = float(stats.spearmanr(scores[0].rank[both], scores[1].rank[both]).statistic)
    return Difference(
        names=(str(score_dir), str(other_dir)),
        num_rows=len(scores[0]),
        sizes=(len(first), len(second)),
        shared=first[np.isin(first, second)],
        alone=alone,
        other_rank=(scores[1].rank[alone[0]], scores[0].rank[alone[1]]),
        missing=(_reasons(scores[1], alone[0]), _reasons(scores[0], alone[1])),
        correlation=correlation,
        num_ranked=int(both.sum()),
        options=_differing_options(score_dir, other_dir),
    )


def _check_same_pool(scores: tuple[StoredScores, StoredScores], names: tuple[Place, Place]) -> None:
    """Refuse two pools: a pool index would mean two rows. Files of earlier versions may lack the pool's hash."""
    hashes = [each.pool_sha256 for each in scores]
    if len(scores[0]) != len(scores[1]) or (None not in hashes and hashes[0] != hashes[1]):
        pools = []
        for name, each in zip(names, scores, strict=True):
            pools.append(f"{name} has {len(each):,} rows with {_describe_hash(each.pool_sha256)}")
        raise ValueError(
            f"Both golden sets must come from one pool, but {pools[0]}, and {pools[1]}. Score the same rows in the "
            "same order into both."
        )
    if None in hashes:
        unknown = " and ".join(str(name) for name, own in zip(names, hashes, strict=True) if own is None)
        logger.warning(
            "The pools were compared by their number of rows only: the scores.parquet in %s is of an earlier version "
            "and has no hash of its pool. Other rows in the same number would not be noticed.",
            unknown,
        )


def _describe_hash(pool_sha256: str | None) -> str:
    return "an unknown hash" if pool_sha256 is None else f"the hash {pool_sha256}"


def _reasons(scores: StoredScores, indices: Ints) -> dict[str, int]:
    """Count the rows without a rank, by reason."""
    counts: dict[str, int] = {}
    for index in indices[scores.rank[indices] == 0].tolist():
        reason = scores.reason[index]
        name = scores.reasons[reason] if reason >= 0 else "stopped_by_race"
        counts[name] = counts.get(name, 0) + 1
    return counts


def _differing_options(score_dir: Place, other_dir: Place) -> dict[str, tuple[Any, Any]]:
    """Return scorer model, template and options of two runs where they differ; empty if run.json is not there."""
    runs = [read_optional(place, RUN_FILE) for place in (score_dir, other_dir)]
    found: list[dict[str, Any]] = []
    for run in runs:
        if not isinstance(run, dict):
            return {}
        found.append({"model": run.get("model"), "template": run.get("template"), **(run.get("config") or {})})
    names = [name for name in {**found[0], **found[1]} if name not in NO_CHOICE]
    return {
        name: (found[0].get(name), found[1].get(name)) for name in names if found[0].get(name) != found[1].get(name)
    }
