"""Scores of other programs as arms: added to the evidence, and controlled for length as golden sets are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuggets_trainer.comparison.arms import ARMS, BASE, Arm, Choose, as_long_as
from nuggets_trainer.comparison.evidence import Evidence, Indices
from nuggets_trainer.comparison.scored_pool import ScoredPool
from nuggets_trainer.config.column_mapping import ColumnMapping
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row_scores import RowScores, ScoreFile, parse_score_file, read_row_scores
from nuggets_trainer.golden.reliability import FEWEST_ANCHORS, measure_reliability

LENGTH = "_length"  # ending of the name of the arm that draws rows of the same lengths


def parse_given_scores(texts: Sequence[str]) -> list[ScoreFile]:
    """Read the values of the option `scores`.

    Raises:
        ValueError: if one is written otherwise, or if a name is taken.
    """
    files = list(map(parse_score_file, texts))
    taken = {BASE, *ARMS}
    for file in files:
        names = {file.name, f"{file.name}{LENGTH}"}
        if names & taken:
            raise ValueError(
                f"`scores` must have names that no other arm has, got {file.name!r}. Call it my_{file.name}, say."
            )
        taken |= names
    return files


def arms_of_scores(files: Sequence[ScoreFile], with_length_control: bool) -> list[Arm]:
    """Return the arms of given scores: the rows with the best ones and, if wanted, random rows of the same lengths."""
    arms = []
    for file in files:
        choose = _best_by_score(file.name)
        own = (_column(file.name),)
        arms.append(Arm(file.name, f"best by {file.name}", choose, own, own, is_rival=True))
        if with_length_control:
            label = f"random, as long as {file.name}"
            arms.append(Arm(f"{file.name}{LENGTH}", label, as_long_as(choose), own, (*own, "num_tokens")))
    return arms


def _best_by_score(name: str) -> Choose:
    """Take the rows with the best scores; among equal ones at the cut, chance decides, with each seed anew."""

    def choose(evidence: Evidence, k: int, seed: int) -> Indices:
        values = evidence.columns[_column(name)]
        rows = evidence.usable[~np.isnan(values[evidence.usable])]
        if len(rows) < k:
            raise ValueError(f"`scores`: {name} has scores for {len(rows):,} usable rows, but the arm takes {k:,}.")
        # Grades from 1 to 5 have many ties, which must not be won by the rows that come first in the pool.
        shuffled = np.random.default_rng([seed, k]).permutation(rows)
        return shuffled[np.argsort(-values[shuffled], kind="stable")][:k]

    return choose


def _column(name: str) -> str:
    """Name of the column of the evidence, and of the stage that computed it."""
    return f"scores: {name}"


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GivenScores:
    """Scores of other programs for the rows of one pool.

    Attributes:
        by_name: scores of the `n` rows by the name that the user gave them.
    """

    by_name: dict[str, RowScores]

    @classmethod
    def read(cls, files: Sequence[ScoreFile], pool: Pool, mapping: ColumnMapping | None = None) -> GivenScores:
        """Read the files, whose rows may have the columns of `mapping`; see `read_row_scores` for what is refused."""
        found = {}
        for file in files:
            found[file.name] = read_row_scores(file, pool, mapping)
        return cls(found)

    def select(self, rows: Indices) -> GivenScores:
        """Keep these rows of the pool, in this order."""
        kept = {}
        for name, scores in self.by_name.items():
            by_anchor = None if scores.by_anchor is None else scores.by_anchor[rows]
            kept[name] = RowScores(scores.values[rows], by_anchor)
        return GivenScores(kept)

    def add_to(self, scored: ScoredPool) -> ScoredPool:
        """Put the scores into the columns that arms choose by; nobody has measured what they cost."""
        columns, costs = dict(scored.evidence.columns), dict(scored.costs)
        for name, scores in self.by_name.items():
            columns[_column(name)] = scores.values
            costs[_column(name)] = None
        return dataclasses.replace(scored, evidence=dataclasses.replace(scored.evidence, columns=columns), costs=costs)

    def reliability(self, evidence: Evidence, fractions: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
        """Measure how far the choice depends on the anchors, for each of the scores that are given by anchor.

        Args:
            evidence: rows that an arm may take.
            fractions: sizes, as shares of them.

        Returns:
            Fields of `Reliability` by name, one for each size.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for name, scores in self.by_name.items():
            if scores.by_anchor is None or scores.by_anchor.shape[1] < FEWEST_ANCHORS:
                continue
            rows = evidence.usable[~np.isnan(scores.values[evidence.usable])]
            values = scores.by_anchor[rows]
            for fraction in fractions:
                k = evidence.num_chosen(fraction)
                if k < len(rows):
                    reliability = measure_reliability(np.zeros(values.shape[1]), values, k, rank_by="mean_gain")
                    found.setdefault(name, []).append(dataclasses.asdict(reliability))
        return found


def describe_reliability(found: dict[str, list[dict[str, Any]]]) -> str:
    """Write the reliability of given scores, one line for each size."""
    lines = []
    for name, sizes in found.items():
        for size in sizes:
            lines.append(
                f"{name}, {size['k']:,} rows: reliability {size['mean_gain']:.2f} over {size['num_anchors']} anchors; "
                f"sets from two halves of them have {size['halves_share']:.0%} in common"
            )
    return "\n".join(lines)
