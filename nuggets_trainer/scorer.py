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

from nuggets_trainer.causal_lm import base_model, check_causal_lm, context_length
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.contexts import exit_on_sigterm
from nuggets_trainer.engine import LogProbEngine
from nuggets_trainer.execution import Execution, Outcome
from nuggets_trainer.fingerprint import fingerprint_fields
from nuggets_trainer.golden import golden_scores
from nuggets_trainer.job import Job, chosen_anchors, given_anchors
from nuggets_trainer.pool import Pool
from nuggets_trainer.prompts import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.provenance import write_provenance
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import told_not_raised, write_report
from nuggets_trainer.results import PoolScores, write_results
from nuggets_trainer.rows import UnusableRowError
from nuggets_trainer.selection import GoldenSet, select_golden_set
from nuggets_trainer.sharded import Company, is_sharded, outer_weights
from nuggets_trainer.store import ScoreStore
from nuggets_trainer.templates import Template, make_template

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def score_pool(
    model: Any,
    tokenizer: Any,
    pool: Pool,
    anchors: Pool | None = None,
    *,
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None = None,
    training_chat_template: str | None = None,
    adapter: bool = False,
) -> tuple[PoolScores, GoldenSet]:
    """Score every row of a pool with a base model and keep the golden set.

    Writes the scored pairs into the store while it goes on, and `scores.parquet`, `anchors.parquet`, `pairs.parquet`
    and a report at the end. What the store already holds is not computed again. All ranks must call it; all get the
    same result.

    Args:
        model: decoder-only `PreTrainedModel`, or a `PeftModel` (its adapter is switched off meanwhile).
        tokenizer: the model's tokenizer.
        pool: the candidates.
        anchors: the anchors; None chooses them from the pool, as `config` says.
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
    template = make_template(config.template, tokenizer, pool, anchors, training_chat_template)
    rows = range(len(pool))
    run = _score_pairs(model, tokenizer, template, pool, anchors, rows, config, score_dir, autocast_dtype, adapter)

    def finish() -> tuple[PoolScores, GoldenSet]:
        scores, one_shot = _collect(run)
        _check_selectable(config, len(pool), run.dropped)  # again: `_collect` drops rows without a finite log-prob
        golden_set = select_golden_set(scores, config.selection_rule, len(pool) - len(run.dropped))
        write_results(score_dir, scores, one_shot, golden_set)
        return scores, golden_set

    ranks = run.job.ranks
    scores, golden_set = ranks.on_main(finish)
    if ranks.is_main:
        logger.info("%s", scores.describe())
        logger.info("%s", golden_set.describe())
        with told_not_raised(score_dir):
            write_provenance(score_dir, run.job, run.anchor_set, scores, golden_set, model, tokenizer)
            write_report(score_dir)
    return scores, golden_set


def score_shard(
    model: Any,
    tokenizer: Any,
    pool: Pool,
    anchors: Pool | None = None,
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
    config = dataclasses.replace(config, schedule="exact", race_confidence=None)
    template = make_template(config.template, tokenizer, pool, anchors)
    run = _score_pairs(model, tokenizer, template, pool, anchors, rows, config, score_dir, autocast_dtype)
    if run.job.ranks.is_main:
        logger.info(
            "shard %d/%d: %s pairs computed by this run for %s rows. `nuggets score` without `shard` scores what is "
            "missing and writes the results.",
            number,
            num_shards,
            f"{run.num_pairs:,}",
            f"{len(rows):,}",
        )
    return run.num_pairs


@dataclass(frozen=True, eq=False)
class _Run:
    """What is left when a schedule is through; the outcome is the main process'."""

    job: Job
    anchor_set: AnchorSet
    outcome: Outcome | None
    dropped: dict[int, str]
    num_pairs: int
    started: float


def _score_pairs(
    model: Any,
    tokenizer: Any,
    template: Template,
    pool: Pool,
    anchors: Pool | None,
    rows: Sequence[int],
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None,
    adapter: bool = False,
) -> _Run:
    ranks, started = Ranks(), time.monotonic()
    keys, dropped = pool.read_keys()
    _check_selectable(config, len(pool), dropped)
    sharded = is_sharded(model)

    def describe() -> dict[str, str]:
        return fingerprint_fields(model, tokenizer, template.describe(), autocast_dtype, adapter)

    # Weights that are spread over the ranks are gathered by all of them.
    fields = describe() if sharded else ranks.on_main(describe)
    with base_model(model, adapter) as base, outer_weights(model, base):
        check_causal_lm(base.config, base)
        job = Job(
            ranks=ranks,
            pool=pool,
            keys=keys,
            template=template,
            config=config,
            engine=LogProbEngine(base, config.tokens_per_batch, autocast_dtype, in_step=sharded),
            company=Company(model, base, ranks),
            store=ScoreStore(score_dir, fields),
            max_length=context_length(base.config),
        )
        anchor_set = given_anchors(job, anchors) if anchors is not None else chosen_anchors(job, dropped)
        shared = SharedPrefix(template, anchor_set.rows, job.max_length)
        prompts, reasons = _encode_share(job, shared, [i for i in rows if i not in dropped])
        dropped |= reasons
        hint = _too_long_hint(anchor_set, job.max_length) if "too_long" in dropped.values() else ""
        _check_selectable(config, len(pool), dropped, hint)
        if hint and ranks.is_main:
            logger.warning("%d candidates are too long.%s", list(dropped.values()).count("too_long"), hint)
        execution = Execution(job, anchor_set, shared, prompts, [i for i in rows if i not in dropped])
        with exit_on_sigterm():
            outcome = execution.run()
        num_pairs = sum(ranks.gather([execution.num_pairs]))
    return _Run(job, anchor_set, outcome, dropped, num_pairs, started)


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
    job: Job, shared: SharedPrefix, rows: Sequence[int]
) -> tuple[dict[int, CandidatePrompt], dict[int, str]]:
    """Render this rank's candidates; return their prompts, and all ranks' rows that turned out unusable."""
    prompts: dict[int, CandidatePrompt] = {}
    reasons: list[tuple[int, str]] = []
    cause_shown = False
    for i in job.ranks.share(job.pool.longest_first(rows)):  # ranks get as many tokens each, not as many rows
        try:
            prompts[i] = shared.candidate(job.pool[i])
        except UnusableRowError as error:
            reasons.append((i, str(error)))
            if error.__cause__ is not None and not cause_shown:
                cause_shown = True
                logger.warning("Row %d is dropped as %s: %r. Later ones are only counted.", i, error, error.__cause__)
    num_unshared = sum(bool(prompt.unshared) for prompt in prompts.values())
    if num_unshared:
        logger.warning(
            "The template renders %d of %d candidates differently before different anchors: their pairs are computed "
            "whole, without a shared prefix (slower, the same scores).",
            num_unshared,
            len(prompts),
        )
    return prompts, dict(job.ranks.gather(reasons))


def _collect(run: _Run) -> tuple[PoolScores, npt.NDArray[np.float32]]:
    """Scores of the n rows, and log-probs `(n, m)`; adds to `run.dropped`."""
    job, anchor_set, outcome, dropped = run.job, run.anchor_set, run.outcome, run.dropped
    assert outcome is not None
    candidates = [i for i in range(len(job.pool)) if i not in dropped]
    anchors = anchor_set.scores(outcome.zero_shot)
    scorable = np.isfinite(outcome.zero_shot) & ~outcome.excluded
    eliminated = ~np.isnan(outcome.upper_bound)
    computed = scorable & ~(eliminated[:, None] & np.isnan(outcome.one_shot))
    one_shot = np.full((len(job.pool), len(anchors)), np.nan, dtype=np.float32)
    upper_bound = np.full(len(job.pool), np.nan)
    for row, i in enumerate(candidates):
        if not np.isfinite(outcome.one_shot[row][computed[row]]).all():
            dropped[i] = "non_finite_log_prob"
        elif not scorable[row].any():
            dropped[i] = "no_scored_anchor"
        else:
            one_shot[i, anchor_set.usable] = np.where(computed[row], outcome.one_shot[row], np.nan)
            upper_bound[i] = outcome.upper_bound[row]
    scores = vars(golden_scores(anchors.zero_shot, one_shot))
    # A candidate that was scored on some anchors has no golden score, only a bound.
    for name in ("golden_score", "standard_error", "mean_gain"):
        scores[name] = np.where(np.isnan(upper_bound), scores[name], np.nan)
    return PoolScores(
        **scores,
        upper_bound=upper_bound,
        dropped=[dropped.get(i) for i in range(len(job.pool))],
        anchors=anchors,
        num_pairs_scored=run.num_pairs,
        seconds=time.monotonic() - run.started,
    ), one_shot
