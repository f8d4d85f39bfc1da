"""`score_pool`: rows -> anchors -> prompts -> engine -> store -> scores, over all ranks.

Knows no formula and no file format. Each rank takes every `world`-th row, writes what it computes into the shared
store; the main process makes scores of the outcome and tells the others.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.pipeline.diversity import diversity_of, row_groups
from nuggets_trainer.pipeline.request import ScoringRequest, check_selectable, read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset
from nuggets_trainer.pipeline.run_files import write_run_files
from nuggets_trainer.pipeline.signal_check import check_signal, is_affordable
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report import tell_warnings, warn_instead_of_raising, write_report
from nuggets_trainer.scoring.anchors import chosen_anchors, given_anchors
from nuggets_trainer.scoring.collect import Collected, Outcome, collect
from nuggets_trainer.scoring.embeddings import candidate_embeddings
from nuggets_trainer.scoring.execution import Execution
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.scoring.sigterm import exit_on_sigterm
from nuggets_trainer.scoring.timing import Measurement
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.results import PoolScores, describe_results, write_results
from nuggets_trainer.store.scratch import Scratch

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
result_logger = logging.getLogger(f"{__name__}.result")  # for programs that print the result themselves


def score_pool(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    *,
    row_options: RowOptions | None = None,
    formatting_func: Callable[[dict[str, Any]], str] | None = None,
    training_chat_template: str | None = None,
    training_dtype: torch.dtype | None = None,
    adapter: bool = False,
) -> tuple[PoolScores, GoldenSet]:
    """Score every row of a pool with a base model and keep the golden set.

    Writes the scored pairs into the store while it goes on, and `scores.parquet`, `anchors.parquet`, `pairs.parquet`
    and a report at the end, whose warnings are logged too. What the store already holds is not computed again. All
    ranks must call it; all get the same result. What is not given is read from the config; options of the config that
    only training can obey are refused.

    Args:
        model: decoder-only `PreTrainedModel`, or a `PeftModel` (its adapter is switched off meanwhile). Where the
            config names a `scorer_model`, it is this one.
        tokenizer: tokenizer of the model.
        dataset: the pool, a `Dataset` in any format (a stream with `pool_size`), or a `Pool`.
        anchors: the anchors, a `Dataset` or `Pool`, or several sets by name. None takes `config.anchors`, or else
            chooses them from the pool.
        config: options of selection; None takes the defaults.
        score_dir: directory that all ranks share, or URL that fsspec knows, where scores and results go. None takes
            `config.score_dir`.
        row_options: options of training that decide which tokens a row has. None takes TRL's defaults.
        formatting_func: function that writes a row as the text that training sees.
        training_chat_template: chat template with `{% generation %}`, where SFTConfig's `assistant_only_loss` is on:
            what an anchor's assistant says is scored, in all turns (of prompt and completion: in the completion).
        training_dtype: dtype that mixed precision training autocasts to, which `score_dtype="auto"` follows.
        adapter: whether a `PeftModel` scores with its adapter on, as the model is now.

    Returns:
        `PoolScores` over the n pool rows, in pool order, and the `GoldenSet`.

    Raises:
        ValueError: before the first forward pass, if nothing can be scored, if the selection cannot be met, or if two
            arguments contradict each other.
        PermissionError, ImportError: if `score_dir` cannot be written to, or its kind of URL is not installed.
        OSError: if the disk is full; what is stored stays, and the same call goes on after space is made.
    """
    request = read_request(
        model,
        tokenizer,
        dataset,
        anchors,
        config,
        score_dir,
        row_options=row_options,
        formatting_func=formatting_func,
        training_chat_template=training_chat_template,
        training_dtype=training_dtype,
        adapter=adapter,
    )
    return score_request(model, request)


def score_request(model: Any, request: ScoringRequest) -> tuple[PoolScores, GoldenSet]:
    """Do what `score_pool` does, for a request that is checked already; all ranks must call it.

    Args:
        model: model that scores, as in `score_pool`.
        request: result of `read_request` or `make_request`.
    """
    pool, config, score_dir = request.pool, request.config, request.score_dir
    run = score_pairs(model, request, range(len(pool)))

    def finish() -> tuple[PoolScores, GoldenSet]:
        collected = _collect(run)
        scores = _pool_scores(run, collected)
        check_selectable(config, len(pool), run.dropped)  # again: `_collect` drops rows without a finite log-prob
        diversity = diversity_of(
            config, row_groups(pool, config), run.embeddings, collected.anchors.zero_shot, collected.one_shot
        )
        golden_set = select_golden_set(scores, config.selection_rule, len(pool) - len(run.dropped), diversity)
        about = {"pool_sha256": pool.content_hash, "pool_format": pool.format}
        write_results(score_dir, scores, collected.one_shot, golden_set, about)
        for line in describe_results(scores, golden_set):
            result_logger.info("%s", line)
        with warn_instead_of_raising(score_dir):
            write_run_files(run.session, run.anchor_set, scores, golden_set, model, request.tokenizer)
            cautions = write_report(score_dir)["cautions"]
            tell_warnings(cautions, score_dir)
            scores = dataclasses.replace(scores, cautions=cautions)
        return scores, golden_set

    return run.session.ranks.on_main(finish)


def score_shard(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    *,
    shard: tuple[int, int],
    **options: Any,
) -> int:
    """Score one part of a pool into the store, for `score_pool` to find there; write no results.

    Jobs for different parts may run at any time and die at any moment; they share nothing but the store. A part is
    scored on all anchors, because a race would need to know the others.

    Args:
        model: model that scores, as in `score_pool`.
        tokenizer: tokenizer of the model.
        dataset: all rows of the pool.
        anchors: the anchors, as in `score_pool`.
        config: options of selection; whatever its `schedule`, a part is scored on all pairs.
        score_dir: directory or URL that all parts share.
        shard: `(i, n)` for every n-th row from row i on.
        options: further keyword arguments of `score_pool`.

    Returns:
        Number of pairs that this call computed.
    """
    number, num_shards = shard
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, **options)
    # Options that need the whole pool are for the job that writes the results.
    config = dataclasses.replace(request.config, schedule="exact", signal_check=False, max_similarity=None)
    rows = range(number, len(request.pool), num_shards)
    run = score_pairs(model, dataclasses.replace(request, config=config), rows)
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
    request: ScoringRequest,
    rows: Sequence[int],
    measure_seconds: float | None = None,
    whole: Pool | None = None,
) -> Run:
    """Score what the schedule asks for of some rows, or as much as `measure_seconds` admit; on all ranks.

    To measure, `whole` is the pool that the request's is drawn from, or the same.
    """
    pool, config, template = request.pool, request.config, request.template
    anchors, score_dir, adapter = request.anchors, request.score_dir, request.adapter
    ranks, started = Ranks(), time.monotonic()
    _, dropped = pool.read_keys()
    check_selectable(config, len(pool), dropped)
    with open_session(
        *(model, request.tokenizer, template, pool, config, score_dir, request.autocast_dtype, adapter)
    ) as session:
        anchor_set, stand_in = (
            chosen_anchors(session, dropped, whole) if anchors is None else (given_anchors(session, anchors), False)
        )
        shared = SharedPrefix(template, anchor_set.rows, session.max_length)
        rendering = time.monotonic()
        prompts, reasons = _encode_share(session, shared, [i for i in rows if i not in dropped])
        rendering_seconds = time.monotonic() - rendering
        dropped |= reasons
        hint = _too_long_hint(anchor_set, session.max_length) if "too_long" in dropped.values() else ""
        check_selectable(config, len(pool), dropped, hint)
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
