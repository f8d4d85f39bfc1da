"""`score_pool`: rows -> anchors -> prompts -> engine -> store -> scores, over all ranks.

Knows no formula and no file format. Each rank takes every `world`-th row, writes what it computes into the shared
store; the main process makes scores of the outcome and tells the others.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.golden.pilot import pilot_size
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.pipeline.request import check_choice, diversity_of, row_groups, with_schedule_for
from nuggets_trainer.pipeline.signal_check import check_signal, is_affordable
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.prompts.templates import Template, make_template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import tell_warnings, warn_instead_of_raising, write_report
from nuggets_trainer.scoring.anchors import AnchorPools, by_set_name, chosen_anchors, given_anchors
from nuggets_trainer.scoring.collect import Collected, Outcome, collect
from nuggets_trainer.scoring.embeddings import candidate_embeddings
from nuggets_trainer.scoring.execution import Execution
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.scoring.sigterm import exit_on_sigterm
from nuggets_trainer.scoring.timing import Measurement
from nuggets_trainer.store.results import PoolScores, describe_results, write_results
from nuggets_trainer.store.run_info import RunFacts, write_run_info
from nuggets_trainer.store.scratch import Scratch
from nuggets_trainer.store.shown_rows import write_shown_rows

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
result_logger = logging.getLogger(f"{__name__}.result")  # for programs that print the result themselves


def score_pool(
    model: Any,
    tokenizer: Any,
    pool: Pool,
    anchors: Pool | AnchorPools | None = None,
    *,
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None = None,
    training_chat_template: str | None = None,
    adapter: bool = False,
) -> tuple[PoolScores, GoldenSet]:
    """Score every row of a pool with a base model and keep the golden set.

    Writes the scored pairs into the store while it goes on, and `scores.parquet`, `anchors.parquet`, `pairs.parquet`
    and a report at the end, whose warnings are logged too. What the store already holds is not computed again. All
    ranks must call it; all get the same result.

    Args:
        model: decoder-only `PreTrainedModel`, or a `PeftModel` (its adapter is switched off meanwhile).
        tokenizer: the model's tokenizer.
        pool: the candidates.
        anchors: the anchors, several sets by name; None chooses them from the pool, as `config` says.
        config: template, selection rule, choice of anchors, token budget.
        score_dir: where scores and results go: a directory that all ranks share, or a URL that fsspec knows.
        autocast_dtype: from `resolve_autocast_dtype`.
        training_chat_template: TRL's, with `{% generation %}`, where SFTConfig's `assistant_only_loss` is on: what an
            anchor's assistant says is scored, in all turns (of prompt and completion: in the completion).
        adapter: leave a `PeftModel`'s adapter on: score with the model as it is now.

    Returns:
        `PoolScores` over the n pool rows, in pool order, and the `GoldenSet`.

    Raises:
        ValueError: before the first forward pass, if nothing can be scored or the selection cannot be met.
        PermissionError, ImportError: if `score_dir` cannot be written to, or its kind of URL is not installed.
        OSError: if the disk is full; what is stored stays, and the same call goes on after space is made.
    """
    sets = by_set_name(anchors)
    config = with_schedule_for(config, sets)
    check_choice(pool, sets, config)
    template = make_template(
        config.template, tokenizer, pool, *(sets or {}).values(), training_chat_template=training_chat_template
    )
    rows = range(len(pool))
    run = score_pairs(model, tokenizer, template, pool, sets, rows, config, score_dir, autocast_dtype, adapter)

    def finish() -> tuple[PoolScores, GoldenSet]:
        collected = _collect(run)
        scores = _pool_scores(run, collected)
        _check_selectable(config, len(pool), run.dropped)  # again: `_collect` drops rows without a finite log-prob
        diversity = diversity_of(
            config, row_groups(pool, config), run.embeddings, collected.anchors.zero_shot, collected.one_shot
        )
        golden_set = select_golden_set(scores, config.selection_rule, len(pool) - len(run.dropped), diversity)
        about = {"pool_sha256": pool.content_hash, "pool_format": pool.format}
        write_results(score_dir, scores, collected.one_shot, golden_set, about)
        for line in describe_results(scores, golden_set):
            result_logger.info("%s", line)
        with warn_instead_of_raising(score_dir):
            _write_run_files(run, scores, golden_set, model, tokenizer)
            cautions = write_report(score_dir)["cautions"]
            tell_warnings(cautions, score_dir)
            scores = dataclasses.replace(scores, cautions=cautions)
        return scores, golden_set

    return run.session.ranks.on_main(finish)


def score_shard(
    model: Any,
    tokenizer: Any,
    pool: Pool,
    anchors: Pool | AnchorPools | None = None,
    *,
    shard: tuple[int, int],
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None = None,
) -> int:
    """Score one part of a pool into the store, for `score_pool` to find there; write no results.

    Jobs for different parts may run at any time and die at any moment; they share nothing but the store. A part is
    scored on all anchors, because a race would need to know the others.

    Args:
        model: as for `score_pool`, and so are all others but `shard`.
        tokenizer: the model's.
        pool: all rows.
        anchors: the anchors.
        shard: `(i, n)`: every n-th row from row i on.
        config: its `schedule` is taken to be `exact`.
        score_dir: shared by all parts.
        autocast_dtype: from `resolve_autocast_dtype`.

    Returns:
        Pairs that this call computed.
    """
    number, num_shards = shard
    rows = range(number, len(pool), num_shards)
    sets = by_set_name(anchors)
    check_choice(pool, sets, config)  # refuses a wrong column now, and not once all shards are scored
    # What speaks of the whole pool is for the job that writes the results.
    config = dataclasses.replace(config, schedule="exact", signal_check=False, max_similarity=None)
    template = make_template(config.template, tokenizer, pool, *(sets or {}).values())
    run = score_pairs(model, tokenizer, template, pool, sets, rows, config, score_dir, autocast_dtype)
    if run.session.ranks.is_main:
        result_logger.info(
            "shard %d/%d: %s pairs computed by this run for %s rows. `nuggets score` without `shard` scores what is "
            "missing and writes the results.",
            number,
            num_shards,
            f"{run.num_pairs:,}",
            f"{len(rows):,}",
        )
    return run.num_pairs


@dataclass(frozen=True, eq=False)
class Run:
    """What is left when a schedule is through; the outcome is the main process'."""

    session: ScoringSession
    anchor_set: AnchorSet
    outcome: Outcome | None
    dropped: dict[int, str]
    embeddings: npt.NDArray[np.float32] | None
    num_pairs: int
    started: float
    rendering_seconds: float
    measured: Measurement | None = None  # where it was stopped to measure
    anchors_stand_in: bool = False


def score_pairs(
    model: Any,
    tokenizer: Any,
    template: Template,
    pool: Pool,
    anchors: AnchorPools | None,
    rows: Sequence[int],
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None,
    adapter: bool = False,
    measure_seconds: float | None = None,
    whole: Pool | None = None,
) -> Run:
    """Score what the schedule asks for of some rows, or as much as `measure_seconds` admit; on all ranks.

    To measure, `whole` is the pool that `pool` is drawn from, or the same.
    """
    ranks, started = Ranks(), time.monotonic()
    _, dropped = pool.read_keys()
    _check_selectable(config, len(pool), dropped)
    with open_session(model, tokenizer, template, pool, config, score_dir, autocast_dtype, adapter) as session:
        anchor_set, stand_in = (
            chosen_anchors(session, dropped, whole) if anchors is None else (given_anchors(session, anchors), False)
        )
        shared = SharedPrefix(template, anchor_set.rows, session.max_length)
        rendering = time.monotonic()
        prompts, reasons = _encode_share(session, shared, [i for i in rows if i not in dropped])
        rendering_seconds = time.monotonic() - rendering
        dropped |= reasons
        hint = _too_long_hint(anchor_set, session.max_length) if "too_long" in dropped.values() else ""
        _check_selectable(config, len(pool), dropped, hint)
        if hint and ranks.is_main:
            logger.warning("%d candidates are too long.%s", list(dropped.values()).count("too_long"), hint)
        candidates = [i for i in rows if i not in dropped]
        execution = Execution(session, anchor_set, shared, prompts, candidates)
        num_pairs = 0
        with exit_on_sigterm():
            by_default = is_affordable(len(candidates)) and not adapter
            wanted = by_default if config.signal_check is None else config.signal_check
            if wanted and measure_seconds is None:
                _, num_pairs = check_signal(session, anchor_set, shared, candidates, score_dir)
            outcome = execution.run(measure_seconds)
            embeddings = None
            if config.max_similarity is not None and measure_seconds is None:
                embeddings = candidate_embeddings(session, candidates)
        num_pairs += sum(ranks.gather([execution.num_pairs]))
    measured = None if measure_seconds is None else execution.watch.measure(ranks, started)
    return Run(
        session, anchor_set, outcome, dropped, embeddings, num_pairs, started, rendering_seconds, measured, stand_in
    )


def _too_long_hint(anchor_set: AnchorSet, max_length: int | None) -> str:
    longest = max(range(len(anchor_set.usable)), key=lambda j: len(anchor_set.segments[j].ids))
    return (
        f" A candidate must fit the model's context ({max_length} tokens) together with every anchor; the "
        f"longest, anchor {anchor_set.usable[longest]}, has {len(anchor_set.segments[longest].ids)}. Shorten or drop "
        "long anchors."
    )


def _check_selectable(config: NuggetsConfig, num_rows: int, dropped: dict[int, str], hint: str = "") -> None:
    """Refuse what cannot be selected, before time is spent on scores."""
    usable = num_rows - len(dropped)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in Counter(dropped.values()).most_common())
    if usable == 0:
        raise ValueError(f"No row of the pool can be scored: all {num_rows:,} were dropped ({reasons}).{hint}")
    rule, value = config.selection_rule
    if rule == "top_k" and value > usable:
        raise ValueError(
            f"`top_k={value}` is larger than the usable pool: {usable:,} of {num_rows:,} rows can be scored"
            + (f" (dropped: {reasons})" if dropped else "")
            + f". Lower `top_k` or use `top_fraction`.{hint}"
        )


def _encode_share(
    session: ScoringSession, shared: SharedPrefix, rows: Sequence[int]
) -> tuple[dict[int, CandidatePrompt], dict[int, str]]:
    """Render this rank's candidates; return their prompts, and all ranks' rows that turned out unusable."""
    prompts: dict[int, CandidatePrompt] = {}
    reasons: list[tuple[int, str]] = []
    cause_shown = False
    own = session.ranks.share(session.pool.longest_first(rows))  # ranks get as many tokens each, not as many rows
    with show_phase("Rendering", "rows", len(own), session.ranks.is_main) as phase:
        for i in own:
            phase.advance()
            try:
                prompts[i] = shared.candidate(session.pool[i])
            except UnusableRowError as error:
                reasons.append((i, str(error)))
                if error.__cause__ is not None and not cause_shown:
                    cause_shown, told = True, "Row %d is dropped as %s: %r. Later ones are only counted."
                    logger.warning(told, i, error, error.__cause__)
    num_unshared = sum(bool(prompt.unshared) for prompt in prompts.values())
    if num_unshared:
        logger.warning(
            "The template renders %d of %d candidates differently before different anchors: their pairs are computed "
            "whole, without a shared prefix (slower, the same scores).",
            num_unshared,
            len(prompts),
        )
    return prompts, dict(session.ranks.gather(reasons))


def _collect(run: Run) -> Collected:
    """Scores of the n rows; adds to `run.dropped`."""
    session = run.session
    assert run.outcome is not None
    candidates = np.array([i for i in range(len(session.pool)) if i not in run.dropped], dtype=np.int64)
    scratch = Scratch(session.store.score_dir)
    collected = collect(
        run.outcome, run.anchor_set, candidates, len(session.pool), session.config.combine_anchor_sets, scratch
    )
    run.dropped.update(collected.dropped)
    return collected


def _pool_scores(run: Run, collected: Collected) -> PoolScores:
    return PoolScores(
        **vars(collected.scores),
        upper_bound=collected.upper_bound,
        dropped=[run.dropped.get(i) for i in range(len(run.session.pool))],
        anchors=collected.anchors,
        by_set=collected.by_set,
        num_pairs_scored=run.num_pairs,
        seconds=time.monotonic() - run.started,
    )


def _write_run_files(run: Run, scores: PoolScores, golden_set: GoldenSet, model: Any, tokenizer: Any) -> None:
    """Write rows.parquet and run.json, from which the report is made."""
    session, score_dir = run.session, run.session.store.score_dir
    anchor_rows = dict(zip(run.anchor_set.usable, run.anchor_set.rows, strict=True))
    pilot = _pilot_rows(session, scores) if scores.num_eliminated else []
    write_shown_rows(
        score_dir, session.pool, anchor_rows, scores, golden_set, pilot, lambda ids: str(tokenizer.decode(ids))
    )
    facts = RunFacts(
        model=model.config._name_or_path,
        config=session.config,
        template=session.template.name,
        fingerprint=session.store.fingerprint,
        fingerprint_fields=session.store.fields,
        num_processes=session.ranks.world,
        device=_device_name(session.ranks.device),
        engine_path=session.engine.path,
        tokens_per_batch=session.engine.tokens_per_batch,
    )
    write_run_info(score_dir, facts, session.pool, scores, golden_set)


def _pilot_rows(session: ScoringSession, scores: PoolScores) -> list[int]:
    """Pool indices of the rows that a race scores on all anchors whatever they are worth: the smallest hashes.

    All other rows with a golden score have it because they were good: what is counted over these is counted over a
    selection.
    """
    first: dict[str, int] = {}
    for i, reason in enumerate(scores.dropped):
        if reason is None:
            first.setdefault(session.keys[i], i)
    pilot = [first[key] for key in sorted(first)[: pilot_size(len(first))]]
    return [i for i in pilot if np.isnan(scores.upper_bound[i])]


def _device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
