"""A run that ranks rows by a signal of their own: which rows have it, and the scores of a pool without any pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.golden.limits import NO_SIGNAL
from nuggets_trainer.golden.scores import AnchorScores
from nuggets_trainer.prompts.segment import Remark
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.anchors import anchors_for_plan, find_anchors
from nuggets_trainer.scoring.rendering import Candidates, count_remarks
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.row_signals import Signals, render_signal_row
from nuggets_trainer.store.results import PoolScores


def anchors_for_signals(session: ScoringSession, planned: Pool | None = None) -> tuple[AnchorSet, bool]:
    """Take the anchors that signals are measured on: given ones, or chosen ones where a signal needs them.

    All ranks must call it.

    Args:
        session: open session of the pool.
        planned: whole pool of a plan, for which rows drawn at random may stand in for the anchors; None for a run.

    Returns:
        The anchors, an empty set if none were given and no signal that is wanted needs any; and whether they stand in
        for others.
    """
    if session.request.anchors is None and not session.config.needs_anchors:
        return AnchorSet(session.template, [], [], session.max_length), False
    if planned is not None:
        return anchors_for_plan(session, planned)
    return find_anchors(session), False


def readable_rows(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]) -> Candidates:
    """Find the rows that can be rendered alone, each rank in its share; all ranks must call it.

    Args:
        session: open session of the pool.
        anchor_set: the anchors; a row need not fit the model's context together with them.
        rows: pool indices of the rows to look at.
    """
    _, dropped = session.pool.read_keys()
    own_dropped: dict[int, str] = {}
    own_remarks: dict[int, frozenset[Remark]] = {}
    for i in session.ranks.share([i for i in rows if i not in dropped]):
        try:
            segment = render_signal_row(session, i).segment
        except UnusableRowError as error:
            own_dropped[i] = str(error)
            continue
        if segment.remarks:
            own_remarks[i] = frozenset(segment.remarks)
    dropped |= dict(session.ranks.gather(list(own_dropped.items())))
    remarks = dict(session.ranks.gather(list(own_remarks.items())))
    candidates = [i for i in rows if i not in dropped]
    return Candidates(anchor_set, candidates, dropped, count_remarks(session, anchor_set, candidates, remarks))


def scores_without_pairs(session: ScoringSession, rows: Candidates, signals: Signals, seconds: float) -> PoolScores:
    """Return the scores of a pool of which no pair was scored: signals alone.

    Args:
        session: session that is over.
        rows: rows that can be rendered alone, and the anchors.
        signals: signals of the rows, `(n,)`, by name; a row without the one that rows are ranked by is dropped.
        seconds: wall time of computing the signals.
    """
    num_rows = len(session.pool)
    values = signals[session.config.rank_by]
    lacking = [i for i in rows.candidates if np.isnan(values[i])]
    dropped = rows.dropped | dict.fromkeys(lacking, NO_SIGNAL)
    names = ("golden_score", "standard_error", "mean_gain", "mean_gain_error", "gain", "gain_error", "upper_bound")
    unknown: dict[str, Any] = {name: np.full(num_rows, np.nan) for name in names}
    return PoolScores(
        **unknown,
        num_anchors=np.zeros(num_rows, dtype=np.int64),
        dropped=[dropped.get(i) for i in range(num_rows)],
        anchors=_unscored(rows.anchor_set),
        by_set={},
        num_pairs_scored=0,
        seconds=seconds,
        signals=signals,
    )


def _unscored(anchor_set: AnchorSet) -> AnchorScores:
    """Return the anchors without a zero-shot log-prob."""
    num_anchors = len(anchor_set.dropped)
    num_tokens = np.zeros(num_anchors, dtype=np.int64)
    for j, segment in zip(anchor_set.usable, anchor_set.segments, strict=True):
        num_tokens[j] = segment.num_completion_tokens
    return AnchorScores(
        pool_index=anchor_set.pool_index,
        zero_shot=np.full(num_anchors, np.nan, dtype=np.float32),
        num_tokens=num_tokens,
        dropped=list(anchor_set.dropped),
        num_cut=anchor_set.num_cut,
        set_names=anchor_set.set_names,
        gain_mean=np.full(num_anchors, np.nan),
        gain_deviation=np.full(num_anchors, np.nan),
    )
