"""What a scorer keeps between batches: the engine, the anchors alone, and how rows are rendered before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.golden.gains import AnchorScale
from nuggets_trainer.prompts.segment import CandidatePrompt, PrefixedSegments, Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.scoring.pair_scorer import pairs_to_compare
from nuggets_trainer.scoring.render_workers import render_row
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import read_scored_anchors

LONGER = 1.25  # rows so many times as long as those that the engine's paths were compared on are compared again


class PreparedScorer:
    """Log-probs of rows before the anchors; nothing of a row stays behind.

    Args:
        engine: computes log-probs with the model.
        template: template that renders the rows.
        anchor_set: the anchors.
        max_length: the model's context in tokens; None if it has no limit.
        excludes_self: whether a row is not scored on an anchor with its own text.

    Attributes:
        zero_shot: log-probs of the anchors alone, `(m,)`, nats per token; NaN where not finite.
    """

    def __init__(
        self,
        engine: LogProbEngine,
        template: Template,
        anchor_set: AnchorSet,
        max_length: int | None,
        excludes_self: bool,
    ) -> None:
        self._engine, self._template, self._anchor_set = engine, template, anchor_set
        self._max_length = max_length
        self._shared = SharedPrefix(template, anchor_set.rows, max_length)
        self._texts = np.array([anchor.text_key if excludes_self else "" for anchor in anchor_set.rows])
        self._longest_compared = 0
        engine.choose_path(pairs_to_compare(anchor_set, self._shared, {}))
        alone = engine.score([], anchor_set.segments)
        self.zero_shot: npt.NDArray[np.float32] = np.where(np.isfinite(alone), alone, np.float32(np.nan))

    def score(self, rows: Sequence[Row | str]) -> tuple[npt.NDArray[np.float32], list[str | None]]:
        """Score rows on all anchors.

        Args:
            rows: rows; the reason in place of one that cannot be read.

        Returns:
            Log-probs `(b, m)`, NaN where a pair is not scored, and the reason of each row without a score.
        """
        dropped: list[str | None] = [None] * len(rows)
        prompts: dict[int, CandidatePrompt] = {}
        for i, row in enumerate(rows):
            if isinstance(row, str):
                dropped[i] = row
                continue
            rendering = render_row(self._shared, row)
            if isinstance(rendering, CandidatePrompt):
                prompts[i] = rendering
            else:
                dropped[i] = rendering.reason
        one_shot = np.full((len(rows), len(self.zero_shot)), np.nan, dtype=np.float32)
        if prompts:
            self._compare_paths(prompts)
            self._score_pairs(prompts, one_shot)
        for i in prompts:
            row = rows[i]
            assert isinstance(row, Row)
            one_shot[i], dropped[i] = self._checked(one_shot[i], row)
        return one_shot, dropped

    def _checked(self, log_probs: npt.NDArray[np.float32], row: Row) -> tuple[npt.NDArray[np.float32], str | None]:
        """Leave out pairs that do not count; return the reason if the row has no score."""
        scorable = ~np.isnan(self.zero_shot) & (self._texts != row.text_key)
        if not np.isfinite(log_probs[scorable]).all():
            return np.full_like(log_probs, np.nan), "non_finite_log_prob"
        kept = np.where(scorable, log_probs, np.float32(np.nan))
        return kept, None if scorable.any() else "no_scored_anchor"

    def losses(self, rows: Sequence[Row | str]) -> npt.NDArray[np.float64]:
        """Return the loss of each row alone, `(b,)`, nats per token; NaN where it cannot be rendered."""
        losses = np.full(len(rows), np.nan)
        places: list[int] = []
        segments: list[Segment] = []
        for i, row in enumerate(rows):
            segment = None if isinstance(row, str) else self._alone(row)
            if segment is not None:
                places.append(i)
                segments.append(segment)
        if segments:
            losses[places] = -self._engine.score_rows(segments)[0].astype(np.float64)
        return losses

    def _alone(self, row: Row) -> Segment | None:
        """Render a row alone; None if it cannot be, or is longer than the context."""
        try:
            segment = self._template.row_alone(row).segment
        except UnusableRowError:
            return None
        return None if self._max_length is not None and len(segment.ids) > self._max_length else segment

    def _compare_paths(self, prompts: dict[int, CandidatePrompt]) -> None:
        """Compare the engine's paths on the longest and the shortest row, if a row is longer than those before."""
        longest = max(map(CandidatePrompt.num_tokens, prompts.values()))
        if longest <= LONGER * self._longest_compared:
            return
        self._engine.choose_path(pairs_to_compare(self._anchor_set, self._shared, prompts))
        self._longest_compared = longest

    def _score_pairs(self, prompts: dict[int, CandidatePrompt], one_shot: npt.NDArray[np.float32]) -> None:
        """Write the log-probs of all pairs of a batch into `one_shot`, `(b, m)`."""
        places: list[tuple[int, list[int]]] = []
        prefixed: list[PrefixedSegments] = []
        for i, prompt in prompts.items():
            for prefix, positions, segments in self._shared.parts(prompt):
                places.append((i, positions))
                prefixed.append((prefix, [segments[j] for j in positions]))
        for (i, positions), values in zip(places, self._engine.score_prefixed(prefixed), strict=True):
            one_shot[i, positions] = values


def row_or_reason(pool: Pool, index: int) -> Row | str:
    """Read a row; return the reason in its place if it cannot be read."""
    try:
        return pool[index]
    except UnusableRowError as error:
        return str(error)


def read_scale(score_dir: Place, anchor_set: AnchorSet) -> AnchorScale:
    """Read the scale of the gains from the anchors.parquet of a pilot.

    Args:
        score_dir: directory or URL of a run with the same model and anchors.
        anchor_set: anchors of the scorer.

    Raises:
        ValueError: if the run had other anchors, or if its gains have no scale.
    """
    stored = read_scored_anchors(score_dir)
    mean = np.array([anchor.get("gain_mean") for anchor in stored], dtype=np.float64)
    deviation = np.array([anchor.get("gain_deviation") for anchor in stored], dtype=np.float64)
    usable = np.array(anchor_set.usable)
    if len(mean) != len(anchor_set.dropped) or np.isnan(mean[usable]).any():
        raise ValueError(
            f"`scale_from` must be a run with the same anchors and a scored pilot, but {score_dir} has "
            f"{len(mean)} anchors, {int(np.isnan(mean).sum())} of them without a scale, and the scorer has "
            f"{len(anchor_set.dropped)}. Score a sample of the pool with these anchors by `nuggets score`."
        )
    return AnchorScale(mean[usable], deviation[usable], 0)
