"""`plan_pool`: scores real pairs for some seconds, and tells from these how long the rest will take."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import Any

import numpy as np
import psutil
import torch

from nuggets_trainer.config.anchor_options import AUTO
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.scorer_model_options import hint_on_tuned_scorer
from nuggets_trainer.engine.device import describe_float32
from nuggets_trainer.golden.agreement import Agreement, measure_agreement
from nuggets_trainer.pipeline.auto_anchors import decide_number, with_number
from nuggets_trainer.pipeline.request import AsTrained, leave_out_overlap, read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset, check_selectable
from nuggets_trainer.pipeline.run_files import device_name
from nuggets_trainer.pipeline.stages import (
    RowsInBudget,
    prepare_run,
    render_selectable,
    with_top_k,
)
from nuggets_trainer.planning.plan import Plan
from nuggets_trainer.planning.pool_sample import config_for_sample, draw_sample, scale_to_pool
from nuggets_trainer.planning.signal_costs import (
    SIGNAL_ROWS,
    describe_condition_pilot,
    describe_signals,
    plan_without_pairs,
    planned_budget,
)
from nuggets_trainer.planning.signal_plan import SignalPlan
from nuggets_trainer.scoring.anchors import anchors_for_plan
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.quick_measure import measure_quickly, seconds_before_measuring
from nuggets_trainer.scoring.race_run import RaceRun
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringRequest, ScoringSession, open_session
from nuggets_trainer.scoring.timing import Measurement
from nuggets_trainer.scoring.watch import UNKNOWN, Watch, exit_on_sigterm
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.score_store import ZERO_SHOT

PATIENCE = 15.0  # seconds that a plan may spend before its measurement, so that it answers in about 30
SLOW_SIGNAL_ROWS = 8  # on a slow device
SLOW_NOTE = (
    "this device is slow: a few short passes were timed, and nothing was stored. A longer `measure_seconds` scores "
    "pairs for the run and follows a race"
)
MOST_IN_SAMPLE = 256  # rows that the reliability is measured on
MOST_COUNTED = 50_000  # rows of a pool that is looked through for repeated rows, which takes some seconds


def plan_pool(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    *,
    measure_seconds: float = 10.0,
    price_per_hour: float | None = None,
    **options: Any,
) -> Plan | SignalPlan:
    """Score real pairs for some seconds and tell how long the whole pool will take.

    The pairs are stored, so that the run itself finds them. Candidates come in a random order, so that their lengths
    are those of the pool. Where anchors are still to be chosen by k-means, rows drawn at random stand in for them. All
    ranks must call it; all get the same plan. Where rows are ranked by a signal, the signals of some random rows are
    computed in place of pairs.

    Args:
        model: model that scores, as in `score_pool`.
        tokenizer: tokenizer of the model.
        dataset: all rows of the pool.
        anchors: the anchors, as in `score_pool`.
        config: options that the run will have.
        score_dir: directory or URL that the run will have.
        measure_seconds: seconds to score for; a race is followed up to twice as long, until its pilot is through. On
            a device where the steps before the first pair would take much longer, a few short passes are timed in
            their place, and nothing is stored.
        price_per_hour: price of the whole machine per hour, in any currency.
        options: further keyword arguments of `score_pool`.

    Raises:
        ValueError: as `score_pool` does, if nothing can be scored.
    """
    as_trained = AsTrained(**options)
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, as_trained, with_overlap=False)
    started = time.monotonic()
    whole, pool = request, request.pool
    counts_all = len(pool) <= MOST_COUNTED
    if counts_all:
        request = leave_out_overlap(request)
    sample, factor = draw_sample(pool, counts_all)
    request = dataclasses.replace(request, pool=sample, config=config_for_sample(request.config, len(pool), factor))
    if not counts_all:
        request = leave_out_overlap(request)
    check_selectable(request.config, len(sample), sample.read_keys()[1])
    hint = hint_on_tuned_scorer(model.config._name_or_path)
    repeats = _repeats_note(request, None if counts_all else len(sample))
    with open_session(model, request) as session:
        plan: Plan | SignalPlan
        if session.config.scores_pairs:
            plan = _plan_with_pairs(session, model, whole, factor, started, measure_seconds)
        else:
            plan = plan_without_pairs(session, pool, factor, started)
    return dataclasses.replace(
        plan,
        memory_bytes=_memory(session.ranks.device),
        price_per_hour=price_per_hour,
        notes=tuple(filter(None, [hint, *plan.notes, repeats])),
    )


def _plan_with_pairs(
    session: ScoringSession, model: Any, whole: ScoringRequest, factor: float, started: float, measure_seconds: float
) -> Plan:
    """Score pairs for some seconds, and tell what those of all rows will take; all ranks must call it.

    Args:
        session: open session of the pool or of a sample of it.
        model: model that scores.
        whole: pool that the plan is for, and its options.
        factor: number of rows of the pool by those of the sample.
        started: time at which the plan was begun, by `time.monotonic`.
        measure_seconds: seconds to score for.
    """
    num_sampled, sets, asked = len(session.pool), session.request.anchors, session.config
    passed_over = None
    if asked.num_anchors == AUTO:
        why, _ = decide_number(session)
        session, passed_over = with_number(session, why["num_anchors"]), why.get("replaced", [])
    anchor_set, stand_in = anchors_for_plan(session, whole.pool, passed_over)
    rendered = render_selectable(session, anchor_set, range(num_sampled))
    is_slow = seconds_before_measuring(session, rendered) > max(measure_seconds, PATIENCE)
    notes = [describe_signals(session, rendered, factor, SLOW_SIGNAL_ROWS if is_slow else SIGNAL_ROWS)]
    notes += [describe_condition_pilot(session, whole.config, rendered, factor), asked.why_every_pair]
    if is_slow:
        notes.append(SLOW_NOTE)
    notes.append(session.ranks.on_main(lambda: describe_float32(session.ranks.device, session.engine.compute_dtype)))
    budget = planned_budget(session, rendered, factor)
    raced = session
    if budget is not None:
        raced = _in_rows(session, budget, factor)
        notes.append(budget.describe(asked))
    watch = Watch(measure_seconds)
    run = _score_for_a_while(session, raced, rendered, watch, is_slow)
    num_pairs = sum(session.ranks.gather([run.scorer.num_pairs]))
    agreement = session.ranks.on_main(lambda: _agreement_so_far(session, rendered, run))
    row_tokens = sum(session.ranks.gather([sum(prompt.row_tokens() for prompt in rendered.prompts.values())]))
    measured = watch.measure(session.ranks, started)
    if is_slow:
        measured = _nothing_stored(measured, asked.schedule_in_force)
    counts = Counter(rendered.dropped.values()).most_common()
    return Plan(
        num_rows=len(whole.pool),
        dropped={reason: round(factor * count) for reason, count in counts},
        measurement=scale_to_pool(measured, factor, rendered.time_taken, stand_in),
        sampled_rows=None if session.pool is whole.pool else num_sampled,
        schedule=asked.schedule_in_force,
        race_possible=not asked.every_pair_for and (sets is None or len(sets) == 1),
        stand_in_anchors=stand_in,
        num_pairs_scored=num_pairs,
        device=device_name(session.ranks.device),
        num_processes=session.ranks.world,
        memory_bytes=0,  # as for a plan without pairs, it is read at the end
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        agreement=agreement,
        notes=tuple(filter(None, notes)),
        rows_in_budget=None if budget is None else budget.to_dict(),
        row_tokens=factor * row_tokens,
        share_of_peak=session.ranks.on_main(lambda: _share_of_peak(session, rendered, measured)),
    )


def _in_rows(session: ScoringSession, budget: RowsInBudget, factor: float) -> ScoringSession:
    """Give a token budget as the number of rows of the sample that a race tells apart."""
    num_raced = budget.most if session.config.rank_by == "golden_score" else budget.expected
    return with_top_k(session, max(1, round(num_raced / factor)))


def _score_for_a_while(
    session: ScoringSession, raced: ScoringSession, rendered: Rendered, watch: Watch, is_slow: bool
) -> ExactRun | RaceRun:
    """Score pairs by the schedule in force until the watch says stop; on a slow device, time a few passes instead.

    Args:
        session: open session of the pool or of a sample of it.
        raced: the same with the rule of a race.
        rendered: anchors and candidates.
        watch: counts and times what is scored.
        is_slow: whether the device is slow.
    """
    with exit_on_sigterm():
        if is_slow:
            quick = ExactRun(session, rendered, watch)
            measure_quickly(session, rendered, quick, watch)
            return quick
        run = prepare_run(raced, rendered, watch)
        run.score()
        return run


def _share_of_peak(session: ScoringSession, rendered: Rendered, measured: Measurement) -> float | None:
    """Compare the speed of a process with what its device reaches in matrix products; None if that tells nothing."""
    work = measured.workload
    segments = rendered.anchor_set.segments
    num_needed = work.num_pairs - work.num_stored
    if not (num_needed and segments and measured.tokens_per_second) or session.passes.sharded:
        return None
    targets_per_pair = sum(segment.num_completion_tokens for segment in segments) / len(segments)
    tokens_per_second = measured.tokens_per_second / session.ranks.world
    return session.engine.share_of_peak(tokens_per_second, targets_per_pair * num_needed / work.tokens)


def _agreement_so_far(session: ScoringSession, rendered: Rendered, run: ExactRun | RaceRun) -> Agreement | None:
    """Measure how reliable the ranking is on the rows of the smallest hashes that are scored on all anchors so far.

    These rows come first in all schedules, so they are a random sample. None if they are too few to tell.
    """
    keys = sorted(set(rendered.keys))[:MOST_IN_SAMPLE]
    pairs, there = session.store.read([ZERO_SHOT, *keys], rendered.anchor_set.keys)
    excluded = run.scorer.excluded(keys)
    complete = (there[1:] | excluded).all(axis=1)
    one_shot = np.where(excluded, np.float32(np.nan), pairs[1:])[complete]
    agreement = measure_agreement(pairs[0], one_shot, 0.0, session.config.rank_by)
    return None if agreement.reliability is None else agreement


def _nothing_stored(measured: Measurement, schedule: str) -> Measurement:
    """Return what a quick measurement has shown of a run that finds none of its pairs in the store."""
    all_tokens = tuple(left + measured.tokens_done for left in measured.tokens_left)
    if schedule == "race":  # nothing is known of its pilot
        all_tokens = tuple(share * tokens for share, tokens in zip(UNKNOWN, all_tokens, strict=True))
    low, expected, high = all_tokens
    return dataclasses.replace(measured, tokens_left=(low, expected, high), tokens_done=0.0)


def _repeats_note(request: ScoringRequest, num_sampled: int | None) -> str:
    """Say how many rows repeat others; of a large pool, how many of those that were drawn."""
    if num_sampled is None:
        return f"duplicates: {request.overlap['says']}"
    return f"duplicates among the {num_sampled:,} rows drawn: {request.overlap['says']}; the run looks at all rows"


def _memory(device: torch.device) -> int:
    """Return the largest number of bytes used on a GPU so far; on a CPU, the bytes that the process uses now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
