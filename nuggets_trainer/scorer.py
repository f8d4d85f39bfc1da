"""`score_pool`: rows -> anchors -> prompts -> engine -> store -> scores, over all ranks.

Knows no formula and no file format. Each rank takes every `world`-th row, writes what it computes into the shared
store, and meets the others once more when all is written; the main process reads the store and tells the others.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from nuggets_trainer.causal_lm import base_model, check_causal_lm, context_length
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.engine import PATHS, LogProbEngine
from nuggets_trainer.fingerprint import fingerprint_fields
from nuggets_trainer.golden import golden_scores
from nuggets_trainer.job import Job, chosen_anchors, given_anchors
from nuggets_trainer.pool import Pool, UnusableRowError, same_text
from nuggets_trainer.prompts import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.results import PoolScores, write_results
from nuggets_trainer.segment import Group
from nuggets_trainer.selection import GoldenSet, select_golden_set
from nuggets_trainer.store import ZERO_SHOT, PartWriter, ScoreStore
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

    Returns:
        `PoolScores` over the n pool rows, in pool order, and the `GoldenSet`.

    Raises:
        ValueError: before the first forward pass, if nothing can be scored or the selection cannot be met.
        PermissionError: if `score_dir` cannot be written to.
    """
    ranks, started = Ranks(), time.monotonic()
    template = make_template(config.template, tokenizer, pool)
    keys, dropped = pool.read_keys()
    _check_selectable(config, len(pool), dropped)
    with base_model(model) as base:
        check_causal_lm(base.config, base)
        fields = ranks.on_main(lambda: fingerprint_fields(model, tokenizer, template.describe(), autocast_dtype))
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
        num_pairs = _score_share(job, anchor_set, shared, prompts)

    def finish() -> tuple[PoolScores, GoldenSet]:
        scores, one_shot = _collect(job, anchor_set, dropped, num_pairs, time.monotonic() - started)
        _check_selectable(config, len(pool), dropped)  # again: `_collect` drops candidates without a finite log-prob
        golden_set = select_golden_set(scores, config.selection_rule)
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


def _score_share(job: Job, anchor_set: AnchorSet, shared: SharedPrefix, prompts: dict[int, CandidatePrompt]) -> int:
    """Score what is missing of this rank's pairs into the store; return how many pairs all ranks computed."""
    missing = _missing_pairs(job, anchor_set, prompts)
    num_pairs = sum(len(anchors) for anchors in missing.values())
    _choose_path(job, shared, prompts, missing)
    if job.ranks.is_main:
        _score_zero_shot(job, anchor_set)
    bar = tqdm(
        total=num_pairs, desc="Scoring", unit="pair", mininterval=1.0, disable=not job.ranks.is_main or not num_pairs
    )
    with bar, PartWriter(job.store, job.config.flush_seconds) as writer:
        for batch in _batches(job, shared, prompts, missing):
            results = iter(job.engine.score_groups([group for _, _, group in batch]))
            for last, (i, anchors, _) in enumerate(batch, start=1):
                writer.add(job.keys[i], [anchor_set.keys[j] for j in anchors], next(results))
                bar.update(len(anchors))
                if last == len(batch) or batch[last][0] != i:
                    writer.end_candidate()
    return sum(job.ranks.gather([num_pairs]))


def _batches(
    job: Job, shared: SharedPrefix, prompts: dict[int, CandidatePrompt], missing: dict[int, set[int]]
) -> Iterator[list[tuple[int, list[int], Group]]]:
    """Yield candidates with their missing anchors, as many as fill a forward pass; each candidate whole."""
    batch: list[tuple[int, list[int], Group]] = []
    num_tokens = 0
    for i, anchors in missing.items():
        for prefix, group in prompts[i].groups:
            wanted = [j for j in group if j in anchors]
            if wanted:
                segments = [shared.suffixes[j] if prefix else prompts[i].unshared[j] for j in wanted]
                batch.append((i, wanted, (prefix, segments)))
                num_tokens += len(prefix) + sum(len(s.ids) for s in segments)
        if num_tokens >= (job.engine.tokens_per_batch or 0):
            yield batch
            batch, num_tokens = [], 0
    if batch:
        yield batch


def _choose_path(
    job: Job, shared: SharedPrefix, prompts: dict[int, CandidatePrompt], missing: dict[int, set[int]]
) -> None:
    """Have the engine hold its paths against the naive one: longest and shortest prefix, longest and other anchors."""
    groups: list[Group] = []
    for i in [*missing][:1] + [*missing][-1:]:
        for prefix, group in prompts[i].groups:
            segments = shared.suffixes if prefix else prompts[i].unshared
            longest_first = sorted(group, key=lambda j: (-len(segments[j].ids), j))
            groups.append((prefix, [segments[j] for j in longest_first[:1] + longest_first[-2:]]))
    anchor_tokens = {j: len(segment.ids) for j, segment in shared.suffixes.items()}
    num_tokens = sum(prompts[i].num_tokens() + sum(anchor_tokens[j] for j in own) for i, own in missing.items())
    own_path = job.engine.choose_path(groups[:4], num_tokens) if groups else None
    paths = [path for path in job.ranks.gather([own_path]) if path]
    if paths:
        job.engine.path = max(paths, key=list(PATHS).index)  # one path for all ranks: the slowest that one needs


def _score_zero_shot(job: Job, anchor_set: AnchorSet) -> None:
    keys, segments = anchor_set.keys, anchor_set.segments
    _, known = job.store.read([ZERO_SHOT], keys)
    missing = np.flatnonzero(~known[0])
    if len(missing):
        log_probs = job.engine.score([], [segments[j] for j in missing])
        job.store.write([None] * len(missing), [keys[j] for j in missing], log_probs)


def _missing_pairs(job: Job, anchor_set: AnchorSet, prompts: dict[int, CandidatePrompt]) -> dict[int, set[int]]:
    """Anchor positions to score, by candidate; longest prefix first, so that memory runs out at once or never."""
    indices = sorted({job.keys[i]: i for i in sorted(prompts, reverse=True)}.values())  # equal rows are scored once
    _, known = job.store.read([job.keys[i] for i in indices], anchor_set.keys)
    known |= _self_pairs(job, [job.keys[i] for i in indices], anchor_set)
    missing = {i: set(np.flatnonzero(~row).tolist()) for i, row in zip(indices, known, strict=True) if not row.all()}
    return dict(sorted(missing.items(), key=lambda item: (-prompts[item[0]].num_tokens(), item[0])))


def _self_pairs(job: Job, keys: list[str], anchor_set: AnchorSet) -> npt.NDArray[np.bool_]:
    """Where candidate and anchor have the same text and `exclude_self` holds, `(len(keys), usable anchors)`."""
    exclude_self = job.config.exclude_self
    if exclude_self is None:
        exclude_self = job.template.name != "nuggets"
    candidates = np.array([same_text(key) for key in keys], dtype=object)
    anchors = np.array([same_text(key) for key in anchor_set.keys], dtype=object)
    same: npt.NDArray[np.bool_] = candidates[:, None] == anchors[None, :]
    return same & exclude_self


def _collect(
    job: Job, anchor_set: AnchorSet, dropped: dict[int, str], num_pairs: int, seconds: float
) -> tuple[PoolScores, npt.NDArray[np.float32]]:
    """Read everything back from the store: scores of the n rows, and log-probs `(n, m)`; adds to `dropped`."""
    candidates = [i for i in range(len(job.pool)) if i not in dropped]
    keys = [job.keys[i] for i in candidates]
    log_probs, known = job.store.read([ZERO_SHOT, *keys], anchor_set.keys)
    self_pairs = _self_pairs(job, keys, anchor_set)
    known[1:] |= self_pairs
    if not known.all():
        raise RuntimeError(
            f"{int((~known).sum()):,} pairs that other ranks scored are not in {job.store.directory}. Is `score_dir` "
            "on a file system that all ranks share?"
        )
    anchors = anchor_set.scores(log_probs[0])
    finite_anchors = np.isfinite(log_probs[0])
    scored = finite_anchors & ~self_pairs
    one_shot = np.full((len(job.pool), len(anchors)), np.nan, dtype=np.float32)
    for row, i in enumerate(candidates):
        if not np.isfinite(log_probs[1 + row][scored[row]]).all():
            dropped[i] = "non_finite_log_prob"
        elif not scored[row].any():
            dropped[i] = "no_scored_anchor"
        else:
            one_shot[i, anchor_set.usable] = np.where(scored[row], log_probs[1 + row], np.nan)
    return PoolScores(
        **vars(golden_scores(anchors.zero_shot, one_shot)),
        dropped=[dropped.get(i) for i in range(len(job.pool))],
        anchors=anchors,
        num_pairs_scored=num_pairs,
        seconds=seconds,
    ), one_shot
