"""`score_pool`: rows -> anchors -> prompts -> engine -> store -> scores, over all ranks.

Each rank renders and scores a share of the rows, and writes what it computes into the shared store. The main process
makes the scores and sends them to the others.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.pipeline.auto_anchors import anchors_of
from nuggets_trainer.pipeline.computed import Computed, compute_signals, make_pool_scores, score_pairs
from nuggets_trainer.pipeline.diversity import diversity_of
from nuggets_trainer.pipeline.request import AsTrained, read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset, check_selectable
from nuggets_trainer.pipeline.run_files import write_run_files
from nuggets_trainer.pipeline.stages import (
    num_choosable,
    render_selectable,
    signals_of_the_model,
)
from nuggets_trainer.report import log_warnings, warn_instead_of_raising, write_report
from nuggets_trainer.scoring.embeddings import candidate_embeddings
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.scoring.session import ScoringRequest, ScoringSession, open_session
from nuggets_trainer.scoring.watch import Watch, exit_on_sigterm
from nuggets_trainer.signals.without_pairs import anchors_for_signals, readable_rows
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.results import PoolScores, describe_results, write_results
from nuggets_trainer.wording import counted

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
        model: decoder-only `PreTrainedModel` or `PeftModel`; its adapters are switched off meanwhile. Where the
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
        adapter: whether the model scores with its adapters as they are now.

    Returns:
        `PoolScores` over the n pool rows, in pool order, and the `GoldenSet`.

    Raises:
        ValueError: before the first forward pass, if nothing can be scored, if the selection cannot be met, or if two
            arguments contradict each other.
        PermissionError, ImportError: if `score_dir` cannot be written to, or its kind of URL is not installed.
        OSError: if the disk is full; what is stored stays, and the same call goes on after space is made.
        UnreliableScoresError: if `stop_if_unreliable` is set and the early look speaks against going on; what was
            scored until then is stored.
        LowRecallError: if the condition `require` keeps less of the golden set than `require_recall` asks for; what
            was scored until then is stored.
    """
    as_trained = AsTrained(row_options, formatting_func, training_chat_template, training_dtype, adapter)
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, as_trained)
    return score_request(model, request, may_stop=True)


def score_request(model: Any, request: ScoringRequest, may_stop: bool = False) -> tuple[PoolScores, GoldenSet]:
    """Do what `score_pool` does, for a request that is checked already; all ranks must call it.

    Args:
        model: model that scores, as in `score_pool`.
        request: result of `read_request` or `make_request`.
        may_stop: whether `stop_if_unreliable` and `require_recall` may end the run; a training job warns only.
    """
    started = time.monotonic()
    pool = request.pool
    check_selectable(request.config, len(pool), pool.read_keys()[1])
    with open_session(model, request) as session, exit_on_sigterm():
        if session.ranks.is_main and not request.adapter:  # a training job that chooses again has said it
            tell(logger, "duplicates: %s", request.overlap["says"])
        scores_pairs = request.config.scores_pairs
        result = score_pairs(session, may_stop) if scores_pairs else compute_signals(session)
        embeddings = None
        if request.config.max_similarity is not None:
            embeddings = candidate_embeddings(session, result.rows.candidates)

    def finish() -> tuple[PoolScores, GoldenSet]:
        return _choose_and_write(result, embeddings, model.config._name_or_path, time.monotonic() - started)

    return session.ranks.on_main(finish)


def _choose_and_write(
    result: Computed, embeddings: npt.NDArray[np.float32] | None, model_name: str, seconds: float
) -> tuple[PoolScores, GoldenSet]:
    """Make scores of what was computed, choose the golden set, write the result files and the report."""
    session = result.session
    pool, config, score_dir = session.pool, session.config, session.request.score_dir
    scores, one_shot, pilot = make_pool_scores(result, seconds)
    dropped = {i: reason for i, reason in enumerate(scores.dropped) if reason is not None}
    check_selectable(config, len(pool), dropped)  # again: rows without a finite log-prob are dropped now
    diversity = diversity_of(config, pool, embeddings, scores, one_shot)
    golden_set = select_golden_set(
        scores,
        config.selection_rule,
        num_choosable(config, scores, dropped),
        diversity,
        config.rank_by,
        scores.meets_require,
        total_tokens=scores.signals.get(TOTAL_TOKENS),
    )
    about = {"pool_sha256": pool.content_hash, "pool_format": pool.format}
    write_results(score_dir, scores, one_shot, golden_set, about)
    for line in describe_results(scores, golden_set):
        tell(result_logger, "%s", line)
    with warn_instead_of_raising(score_dir):
        write_run_files(session, result.rows, scores, golden_set, pilot, model_name, result.found)
        report = write_report(score_dir)
        result_logger.info("verdict: %s", report["verdict"]["sentence"])
        log_warnings(report["cautions"], score_dir)
        scores = dataclasses.replace(scores, cautions=report["cautions"], verdict=report["verdict"])
    return scores, golden_set


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
        Number of pairs that this call computed; where rows are ranked by a signal, number of the part's rows whose
        signals are stored now.

    Raises:
        ValueError: as `score_pool` does, and if the condition needs to know the other parts.
    """
    number, num_shards = shard
    _check_part(config)
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, AsTrained(**options))
    # Options that need the whole pool are for the job that writes the results.
    config = dataclasses.replace(request.config, max_similarity=None)
    if config.scores_pairs:
        config = dataclasses.replace(config, schedule="exact")
    request = dataclasses.replace(request, config=config)
    rows = range(number, len(request.pool), num_shards)
    check_selectable(config, len(request.pool), request.pool.read_keys()[1])
    with open_session(model, request) as session, exit_on_sigterm():
        num_done = _score_part(session, rows)
    if session.ranks.is_main:
        what = f"{counted(num_done, 'pair')} computed by this run for {counted(len(rows), 'row')}"
        if not config.scores_pairs:
            what = f"the signals of {num_done:,} of {counted(len(rows), 'row')} are stored"
        tell(
            result_logger,
            "shard %d/%d: %s. `nuggets score` without `shard` scores what is missing and writes the results.",
            number,
            num_shards,
            what,
        )
    return num_done


def _check_part(config: NuggetsConfig | None) -> None:
    """Refuse a condition that no part of a pool can obey."""
    if config is None or config.requirement is None:
        return
    option = ""
    if config.requirement.percentiles:
        option = f"`require={config.require!r}` names percentiles of"
    if config.require_recall is not None:
        option = f"`require_recall={config.require_recall}` draws random rows from"
    if option:
        raise ValueError(
            f"{option} the whole pool, but `shard` scores a part of it, and all pairs of that part whatever the "
            "condition. Leave it out here, and give it to the run without `shard` that writes the results."
        )


def _score_part(session: ScoringSession, rows: Sequence[int]) -> int:
    """Score some rows of the pool into the store.

    Returns:
        Number of pairs computed, by all ranks; where rows are ranked by a signal, number of rows that can be rendered.
    """
    if not session.config.scores_pairs:
        readable = readable_rows(session, anchors_for_signals(session)[0], rows)
        signals_of_the_model(session, readable)
        return len(readable.candidates)
    rendered = render_selectable(session, anchors_of(session).anchor_set, rows)
    if session.config.wants_row_signals:
        signals_of_the_model(session, rendered)  # the store keeps them
    run = ExactRun(session, rendered, Watch())
    run.score()
    run.read_outcome()  # says if the other ranks' pairs are not there
    return sum(session.ranks.gather([run.scorer.num_pairs]))
