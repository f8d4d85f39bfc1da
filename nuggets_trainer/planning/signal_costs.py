"""What the signals of all rows will take, measured on some random rows: beside pairs, or in place of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.condition_recall import rows_to_score
from nuggets_trainer.pipeline.row_filter import rows_that_meet
from nuggets_trainer.pipeline.rows import check_selectable
from nuggets_trainer.pipeline.run_files import device_name
from nuggets_trainer.pipeline.stages import RowsInBudget, rows_in_budget, signals_of_rows
from nuggets_trainer.planning.signal_plan import SignalCost, SignalPlan, describe_share_met
from nuggets_trainer.scoring.rendering import Candidates
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.condition_pilot import describe_pilot_size, fraction_kept
from nuggets_trainer.signals.examples import ExampleContexts
from nuggets_trainer.signals.in_context import in_context_name
from nuggets_trainer.signals.row_lengths import total_tokens
from nuggets_trainer.signals.row_signals import Signals, signal_names
from nuggets_trainer.signals.stored_values import find_missing
from nuggets_trainer.signals.without_pairs import anchors_for_signals, readable_rows
from nuggets_trainer.wording import byte_size, duration

SIGNAL_ROWS = 64  # rows whose signals are computed; a share of them is off by 12 points at most, mostly
STORE_BYTES_PER_COSINE = 5.5  # measured, 500,000 cosines (docs/log/signals.md)
BYTES_WORTH_A_NOTE = 1e9
STAND_IN = "rows drawn at random stood in for the anchors; to choose its own, the run reads the whole pool"


def plan_without_pairs(session: ScoringSession, whole: Pool, factor: float, started: float) -> SignalPlan:
    """Compute the signals of some random rows, and tell what those of all rows will take; all ranks must call it.

    Args:
        session: open session of the pool or of a sample of it.
        whole: pool that the plan is for.
        factor: number of rows of the pool by those of the sample.
        started: time at which the plan was begun, by `time.monotonic`.
    """
    pool, config = session.pool, session.config
    anchor_set, stand_in = anchors_for_signals(session, whole)
    rows = readable_rows(session, anchor_set, range(len(pool)))
    check_selectable(config, len(pool), rows.dropped)
    setup_seconds = time.monotonic() - started
    counts = Counter(rows.dropped.values()).most_common()
    budget = planned_budget(session, rows, factor)
    notes = [STAND_IN] if stand_in else []
    if budget is not None:
        notes.append(budget.describe(config))
    notes += _describe_cosines(session, rows, factor)
    return SignalPlan(
        rank_by=config.rank_by,
        num_rows=len(whole),
        dropped={reason: round(factor * count) for reason, count in counts},
        sampled_rows=None if pool is whole else len(pool),
        cost=measure_signals(session, rows, factor, SIGNAL_ROWS),
        setup_seconds=setup_seconds,
        require=None if config.requirement is None else config.requirement.text,
        device=device_name(session.ranks.device),
        num_processes=session.ranks.world,
        notes=tuple(notes),
        rows_in_budget=None if budget is None else budget.to_dict(),
    )


def planned_budget(session: ScoringSession, rows: Candidates, factor: float) -> RowsInBudget | None:
    """Count the rows of the whole pool that the token budget has room for, on all ranks; None without a budget.

    Args:
        session: open session of the pool or of a sample of it.
        rows: rows that can be scored.
        factor: number of rows of the pool by those of the session's.
    """
    if session.config.max_tokens is None:
        return None
    return rows_in_budget(session, rows, total_tokens(session, rows), factor)


def measure_signals(session: ScoringSession, rows: Candidates, factor: float, most_rows: int) -> SignalCost:
    """Compute the signals of some random rows into the store; all ranks must call it.

    Rows whose signals are all stored, such as those of an earlier plan, are left out as long as there are others.

    Args:
        session: open session.
        rows: rows that can be scored.
        factor: number of rows of the pool by those of the session's.
        most_rows: number of rows to measure on.
    """
    config = session.config
    candidates = rows.candidates
    num_different = len({session.keys[i] for i in candidates})
    num_known = 0
    if config.wants_row_signals:
        names = signal_names(session, rows.anchor_set)
        if config.wants_ica:
            names.append(in_context_name(ExampleContexts(session, rows.anchor_set)))
        missing = session.ranks.on_main(lambda: find_missing(session, rows.candidates, names))
        num_known = num_different - len(missing)
        candidates = [row.index for row in missing] or candidates
    key_of: dict[str, int] = {}
    for i in candidates:
        key_of.setdefault(session.keys[i], i)  # equal rows count once
    measured = sorted(map(key_of.__getitem__, sorted(key_of)[:most_rows]))
    started = time.monotonic()
    signals = signals_of_rows(session, dataclasses.replace(rows, candidates=measured))
    seconds = time.monotonic() - started

    def conclude() -> SignalCost:
        share_met = None
        if config.requirement is not None and not config.requirement.needs_scores:
            share_met = float(rows_that_meet(config.requirement, signals)[measured].mean())
        of_all = factor * seconds / len(measured) * len(key_of)
        return SignalCost(of_all, len(measured), round(factor * num_known), share_met)

    return session.ranks.on_main(conclude)


def describe_signals(session: ScoringSession, rows: Candidates, factor: float, most_rows: int) -> str | None:
    """Say what the signals of all rows will take beside the pairs, and how many rows meet `require`; on all ranks.

    Args:
        session: open session.
        rows: rows that can be scored.
        factor: number of rows of the pool by those of the session's.
        most_rows: number of rows to measure on.

    Returns:
        None if no option wants signals.
    """
    config = session.config
    requirement = config.requirement
    if not config.wants_row_signals and requirement is None:
        return None
    cost = measure_signals(session, rows, factor, most_rows)
    parts = []
    if config.wants_row_signals:
        parts.append(f"the signals of each row take about {duration(cost.seconds)} more")
    if requirement is not None and cost.share_met is not None:
        parts.append(describe_share_met(cost, requirement.text))
        if config.schedule_in_force == "race":
            parts[-1] += ", and a race scores only the pairs of such rows"
    parts += _describe_cosines(session, rows, factor)
    return "; ".join(parts) or None


def describe_condition_pilot(
    session: ScoringSession, config: NuggetsConfig, rows: Candidates, factor: float
) -> str | None:
    """Say how many pairs `require_recall` takes, on all ranks; None if it is not set.

    Args:
        session: open session of the pool or of a sample of it.
        config: options of the whole pool. Those of a sample may have another `top_k`.
        rows: rows that can be scored.
        factor: number of rows of the pool by those of the session's.
    """
    if config.require_recall is None:
        return None
    signals: Signals = {}
    if config.max_tokens is not None:
        signals = total_tokens(session, rows)

    def describe() -> str:
        num_candidates = round(factor * len(rows.candidates))
        num_rows = rows_to_score(fraction_kept(config, rows, signals, factor), num_candidates)
        return describe_pilot_size(num_rows, num_candidates, len(rows.anchor_set.rows))

    return session.ranks.on_main(describe)


def _describe_cosines(session: ScoringSession, rows: Candidates, factor: float) -> list[str]:
    """Say how large the cosines of all rows and anchors will be on disk, if they are wanted and large."""
    size = STORE_BYTES_PER_COSINE * factor * len(rows.candidates) * len(rows.anchor_set.rows)
    if not session.config.wants_similarity_turn or size < BYTES_WORTH_A_NOTE:
        return []
    return [f"the cosines for `similarity_turn` take about {byte_size(size)} in `score_dir`"]
