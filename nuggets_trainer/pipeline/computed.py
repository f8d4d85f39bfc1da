"""What a run computes, pairs or signals alone, and the scores of the pool that this gives."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.pipeline.auto_anchors import anchors_of, drawn_anchors
from nuggets_trainer.pipeline.early_look import PilotLook
from nuggets_trainer.pipeline.row_filter import (
    describe_percentiles,
    percentiles_as_json,
    rows_that_meet,
    rows_that_pass,
)
from nuggets_trainer.pipeline.rows import check_selectable
from nuggets_trainer.pipeline.stages import (
    leave_out_failing,
    prepare_run,
    render_selectable,
    rows_in_budget,
    signals_of_rows,
    with_top_k,
)
from nuggets_trainer.scoring.collect import Outcome, collect
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.scoring.rendering import Candidates, Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.signals.condition_pilot import (
    ConditionPilot,
    LowRecallError,
    fraction_kept,
    score_condition_pilot,
)
from nuggets_trainer.signals.row_signals import Signals
from nuggets_trainer.signals.without_pairs import anchors_for_signals, readable_rows, scores_without_pairs
from nuggets_trainer.store.results import PoolScores

logger = logging.getLogger(__name__)

Scored = tuple[PoolScores, npt.NDArray[np.float32], list[int]]  # scores, log-probs `(n, m)`, pilot of a race


@dataclass(frozen=True, eq=False)
class Computed:
    """What a run has computed; the signals and the outcome are the main process's."""

    session: ScoringSession
    rows: Candidates
    signals: Signals
    outcome: Outcome | None = None  # None if no pair was scored
    keys: Sequence[str] = ()  # of the candidates
    found: dict[str, Any] = field(default_factory=dict)  # of the anchors' number and the early look, for run.json
    num_pairs: int = 0


def score_pairs(session: ScoringSession, may_stop: bool) -> Computed:
    """Score pairs by the schedule in force, and compute the signals that are wanted; on all ranks."""
    anchors = anchors_of(session)
    every = render_selectable(session, anchors.anchor_set, range(len(session.pool)))
    signals = signals_of_rows(session, every)
    found = _percentiles_of_run(session, signals)
    rendered = leave_out_failing(session, every, signals)
    condition = _look_at_condition(session, every, signals, may_stop)
    del every  # the prompts of rows that fail the condition
    by_number, raced = _in_rows(session, rendered, signals)
    look = PilotLook(by_number, rendered, may_stop)
    run = prepare_run(raced, rendered, Watch(), signals.get(TOTAL_TOKENS))
    run.score(after_pilot=look)
    outcome = run.read_outcome()
    num_pairs = anchors.num_pairs + look.num_pairs + sum(session.ranks.gather([run.scorer.num_pairs]))
    if condition is not None:
        num_pairs += condition.num_pairs
        found["require_recall"] = condition.to_dict()
    look_found = None if look.found is None else look.found.to_dict()
    found |= {"auto_anchors": anchors.why, "drawn_anchors": anchors.drawn, "early_look": look_found}
    return Computed(session, rendered, signals, outcome, rendered.keys, found, num_pairs)


def _look_at_condition(
    session: ScoringSession, rendered: Rendered, signals: Signals, may_stop: bool
) -> ConditionPilot | None:
    """Measure how much of the golden set meets the condition, and say it, if `require_recall` is set; on all ranks.

    Args:
        session: open session of the pool.
        rendered: anchors and all candidates, those that fail the condition included.
        signals: signals of the candidates, `(n,)`, on the main process.
        may_stop: whether too low a share ends the run; a training job warns only.

    Returns:
        What was found; None if `require_recall` is not set.

    Raises:
        LowRecallError: on all ranks, if the share is too low. What was scored is stored.
    """
    config, requirement = session.config, session.config.requirement
    if config.require_recall is None or requirement is None:
        return None

    def prepare() -> tuple[float, str]:
        return fraction_kept(config, rendered, signals), describe_percentiles(requirement, signals)

    fraction, condition = session.ranks.on_main(prepare)
    met = session.only_on_main(lambda: rows_that_meet(requirement, signals))
    pilot = score_condition_pilot(session, rendered, fraction, met, condition)
    if not pilot.is_low:
        if session.ranks.is_main:
            tell(logger, "condition: %s", pilot.describe())
        return pilot
    too_low = f"{pilot.describe()} This share, {pilot.found.recall:.3f}, is below `require_recall={pilot.asked:g}`."
    if may_stop:
        raise LowRecallError(
            f"{too_low} The pairs so far are stored in {session.request.score_dir}, and the next run there reuses "
            "them. Weaken the condition so that more rows meet it, or lower `require_recall`."
        )
    if session.ranks.is_main:
        logger.warning("condition: %s", too_low)
    return pilot


def _percentiles_of_run(session: ScoringSession, signals: Signals) -> dict[str, Any]:
    """Log the percentiles that the condition names, and return them for run.json, on the main process.

    Args:
        session: open session of the pool.
        signals: signals of the candidates, `(n,)`, on the main process.
    """
    requirement = session.config.requirement
    if not session.ranks.is_main or requirement is None or not requirement.percentiles:
        return {}
    tell(logger, "condition: %s", describe_percentiles(requirement, signals))
    return {"percentiles": percentiles_as_json(requirement, signals)}


def compute_signals(session: ScoringSession) -> Computed:
    """Compute the signals of each row, where rows are ranked by one of them; on all ranks."""
    rows = readable_rows(session, anchors_for_signals(session)[0], range(len(session.pool)))
    check_selectable(session.config, len(session.pool), rows.dropped)
    signals = signals_of_rows(session, rows)
    budget = rows_in_budget(session, rows, signals)
    if budget is not None and session.ranks.is_main:
        tell(logger, "%s", budget.describe(session.config))
    found = {"drawn_anchors": drawn_anchors(session), **_percentiles_of_run(session, signals)}
    return Computed(session, rows, signals, found=found)


def _in_rows(session: ScoringSession, rendered: Rendered, signals: Signals) -> tuple[ScoringSession, ScoringSession]:
    """Give a token budget as a number of rows: one session with about as many as it will keep, and one for the race.

    A race for golden scores has to tell apart the most rows that the budget can keep: the golden set is the beginning
    of their ranking. A race for gains has the budget itself. If it looked for a longer beginning, it would find too
    little of the golden set (docs/log/race.md).
    """
    budget = rows_in_budget(session, rendered, signals)
    if budget is None:
        return session, session
    if session.ranks.is_main:
        tell(logger, "%s", budget.describe(session.config))
    raced = session
    if session.config.rank_by == "golden_score":
        raced = with_top_k(session, budget.most)
    return with_top_k(session, budget.expected), raced


def make_pool_scores(result: Computed, seconds: float) -> Scored:
    """Make the scores of a pool, on the main process.

    Args:
        result: what the run has computed.
        seconds: wall time of that.

    Returns:
        The scores, the log-probs `(n, m)`, NaN for pairs that were not scored, and pool indices of a race's pilot.
    """
    if result.outcome is None:
        return _of_signals(result, seconds)
    return _of_pairs(result, result.outcome, seconds)


def _of_signals(result: Computed, seconds: float) -> Scored:
    """Give the scores of a pool of which no pair was scored."""
    session = result.session
    scores = scores_without_pairs(session, result.rows, result.signals, seconds)
    meets_require = rows_that_pass(session.config.requirement, scores, {}, result.signals)
    one_shot = session.scratch.full((len(session.pool), len(scores.anchors)), np.nan, np.float32)
    return dataclasses.replace(scores, meets_require=meets_require), one_shot, []


def _of_pairs(result: Computed, outcome: Outcome, seconds: float) -> Scored:
    """Make scores of log-probs."""
    session, config, num_rows = result.session, result.session.config, len(result.session.pool)
    collected = collect(
        outcome,
        result.rows.anchor_set,
        np.array(result.rows.candidates, dtype=np.int64),
        list(result.keys),
        num_rows,
        config.combine_anchor_sets,
        session.scratch,
    )
    dropped = result.rows.dropped | collected.dropped
    by_set = {name: own.golden_score for name, own in collected.by_set.items()}
    scores = PoolScores(
        **vars(collected.scores),
        upper_bound=collected.upper_bound,
        dropped=[dropped.get(i) for i in range(num_rows)],
        anchors=collected.anchors,
        by_set=collected.by_set,
        signals=result.signals,
        meets_require=rows_that_pass(config.requirement, collected.scores, by_set, result.signals),
        num_pairs_scored=result.num_pairs,
        seconds=seconds,
    )
    return scores, collected.one_shot, collected.pilot
