"""`score_pool`: rows -> anchors -> prompts -> engine -> store -> scores, over all ranks.

Knows no formula and no file format. Each rank takes every `world`-th row, writes what it computes into the shared
store; the main process makes scores of the outcome and tells the others.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.causal_lm import base_model, check_causal_lm, context_length
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.engine import LogProbEngine
from nuggets_trainer.execution import Execution, Outcome
from nuggets_trainer.fingerprint import fingerprint_fields
from nuggets_trainer.golden import golden_scores
from nuggets_trainer.job import Job, chosen_anchors, given_anchors
from nuggets_trainer.pool import Pool
from nuggets_trainer.prompts import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.results import PoolScores, write_results
from nuggets_trainer.rows import UnusableRowError
from nuggets_trainer.selection import GoldenSet, select_golden_set
from nuggets_trainer.store import ScoreStore
from nuggets_trainer.templates import make_template

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

    Writes the scored pairs into the store while it goes on, and `scores.parquet`, `anchors.parquet` and
    `pairs.parquet` at the end. What the store already holds is not computed again. All ranks must call it; all get the
    same result.

    Args:
        model: decoder-only `PreTrainedModel`, or a `PeftModel` (its adapter is switched off meanwhile).
        tokenizer: the model's tokenizer.
        pool: the candidates.
        anchors: the anchors; None chooses them from the pool, as `config` says.
        config: template, selection rule, choice of anchors, token budget.
        score_dir: where scores and results go; a directory that all ranks share.
        autocast_dtype: from `resolve_autocast_dtype`.
        training_chat_template: TRL's, with `{% generation %}`, where SFTConfig's `assistant_only_loss` is on: all that
            an anchor's assistant says is scored.
        adapter: leave a `PeftModel`'s adapter on: score with the model as it is now.

    Returns:
        `PoolScores` over the n pool rows, in pool order, and the `GoldenSet`.

    Raises:
        ValueError: before the first forward pass, if nothing can be scored or the selection cannot be met.
        PermissionError: if `score_dir` cannot be written to.
    """
    ranks, started = Ranks(), time.monotonic()
    template = make_template(config.template, tokenizer, pool, anchors, training_chat_template)
    keys, dropped = pool.read_keys()
    _check_selectable(config, len(pool), dropped)
    with base_model(model, adapter) as base:
        check_causal_lm(base.config, base)
        fields = ranks.on_main(
            lambda: fingerprint_fields(model, tokenizer, template.describe(), autocast_dtype, adapter)
        )
        job = Job(
            ranks=ranks,
            pool=pool,
            keys=keys,
            template=template,
            config=config,
            engine=LogProbEngine(base, config.tokens_per_batch, autocast_dtype),
            store=ScoreStore(score_dir, fields),
            max_length=context_length(base.config),
        )
        anchor_set = given_anchors(job, anchors) if anchors is not None else chosen_anchors(job, dropped)
        shared = SharedPrefix(template, anchor_set.rows, job.max_length)
        prompts, reasons = _encode_share(job, shared, dropped)
        dropped |= reasons
        hint = _too_long_hint(anchor_set, job.max_length) if "too_long" in dropped.values() else ""
        _check_selectable(config, len(pool), dropped, hint)
        if hint and ranks.is_main:
            logger.warning("%d candidates are too long.%s", list(dropped.values()).count("too_long"), hint)
        candidates = [i for i in range(len(pool)) if i not in dropped]
        execution = Execution(job, anchor_set, shared, prompts, candidates)
        outcome = execution.run()
        num_pairs = sum(ranks.gather([execution.num_pairs]))

    def finish() -> tuple[PoolScores, GoldenSet]:
        assert outcome is not None
        scores, one_shot = _collect(job, anchor_set, outcome, dropped, num_pairs, time.monotonic() - started)
        _check_selectable(config, len(pool), dropped)  # again: `_collect` drops candidates without a finite log-prob
        golden_set = select_golden_set(scores, config.selection_rule, len(pool) - len(dropped))
        write_results(score_dir, scores, one_shot, golden_set)
        return scores, golden_set

    scores, golden_set = ranks.on_main(finish)
    if ranks.is_main:
        logger.info("%s", scores.describe())
        logger.info("%s", golden_set.describe())
    return scores, golden_set


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
    job: Job, shared: SharedPrefix, dropped: dict[int, str]
) -> tuple[dict[int, CandidatePrompt], dict[int, str]]:
    """Render this rank's candidates; return their prompts, and all ranks' rows that turned out unusable."""
    prompts: dict[int, CandidatePrompt] = {}
    reasons: list[tuple[int, str]] = []
    cause_shown = False
    for i in job.ranks.share([i for i in range(len(job.pool)) if i not in dropped]):
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


def _collect(
    job: Job, anchor_set: AnchorSet, outcome: Outcome, dropped: dict[int, str], num_pairs: int, seconds: float
) -> tuple[PoolScores, npt.NDArray[np.float32]]:
    """Scores of the n rows, and log-probs `(n, m)`; adds to `dropped`."""
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
        num_pairs_scored=num_pairs,
        seconds=seconds,
    ), one_shot
