"""`plan_pool`: some seconds of the real thing, and what they say of the rest. Knows no formula and no file format."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.pipeline.plan import Plan
from nuggets_trainer.pipeline.request import check_choice, with_schedule_for
from nuggets_trainer.pipeline.score_pool import Run, score_pairs
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.anchors import by_set_name
from nuggets_trainer.scoring.timing import Measurement

if TYPE_CHECKING:
    from pathlib import Path

    from nuggets_trainer.scoring.anchors import AnchorPools

MOST_ROWS = 5000  # of a larger pool, as many are drawn: rendering all rows would take minutes


def plan_pool(
    model: Any,
    tokenizer: Any,
    pool: Pool,
    anchors: Pool | AnchorPools | None = None,
    *,
    config: NuggetsConfig,
    score_dir: str | Path,
    autocast_dtype: torch.dtype | None = None,
    measure_seconds: float = 10.0,
    price_per_hour: float | None = None,
) -> Plan:
    """Score real pairs for some seconds and tell how long the whole pool will take.

    The pairs are stored, so that the run itself finds them. Candidates come in a random order, so that their lengths
    are those of the pool. Where anchors are still to be chosen by k-means, rows drawn at random stand in for them. All
    ranks must call it; all get the same plan.

    Args:
        model: as for `score_pool`, and so are all others but the last two.
        tokenizer: the model's.
        pool: all rows.
        anchors: the anchors; None chooses them.
        config: what the run will have.
        score_dir: the run's.
        autocast_dtype: from `resolve_autocast_dtype`.
        measure_seconds: how long to score; a race is followed up to six times as long, until its pilot is through.
        price_per_hour: of the whole machine.

    Raises:
        ValueError: as `score_pool` does, if nothing can be scored.
    """
    sample, factor = _sample(pool)
    sets = by_set_name(anchors)
    check_choice(pool, sets, config)
    config = with_schedule_for(_for_sample(config, len(pool), factor), sets)
    template = make_template(config.template, tokenizer, sample, *(sets or {}).values())
    rows = range(len(sample))
    run = score_pairs(
        *(model, tokenizer, template, sample, sets, rows, config, score_dir, autocast_dtype),
        measure_seconds=measure_seconds,
        whole=pool,
    )
    device = run.session.ranks.device
    return Plan(
        num_rows=len(pool),
        dropped={reason: round(factor * count) for reason, count in Counter(run.dropped.values()).most_common()},
        measurement=_of_whole_pool(run, factor),
        sampled_rows=len(sample) if factor > 1 else None,
        schedule=config.schedule_in_force,
        race_possible=not config.every_pair_for and (sets is None or len(sets) == 1),
        stand_in_anchors=run.anchors_stand_in,
        num_pairs_scored=run.num_pairs,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        num_processes=run.session.ranks.world,
        memory_bytes=_memory(device),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        price_per_hour=price_per_hour,
    )


def _for_sample(config: NuggetsConfig, num_rows: int, factor: float) -> NuggetsConfig:
    """Ask of the sample what the config asks of the pool."""
    if factor == 1 or config.top_k is None:
        return config
    if config.top_k > num_rows:
        raise ValueError(f"`top_k={config.top_k}` is larger than the pool of {num_rows:,} rows. Lower it.")
    return dataclasses.replace(config, top_k=max(1, round(config.top_k / factor)))


def _of_whole_pool(run: Run, factor: float) -> Measurement:
    """Scale what the sample has shown; of the time before scoring only the rendering grows with the rows.

    What was scored to measure was missing in the sample, and its like is in the rest of the pool. The run itself finds
    it in the store, but for pairs with anchors that stood in for others.
    """
    measured = run.measured
    assert measured is not None
    done, found = measured.tokens_done, 0.0 if run.anchors_stand_in else measured.tokens_done
    low, expected, high = (factor * (tokens + done) - found for tokens in measured.tokens_left)
    return dataclasses.replace(
        measured,
        workload=measured.workload.scaled(factor),
        tokens_left=(low, expected, high),
        setup_seconds=measured.setup_seconds + (factor - 1) * run.rendering_seconds,
        finished=measured.finished and expected == 0,
    )


def _sample(pool: Pool) -> tuple[Pool, float]:
    """Rows drawn at random, and how many times as many the pool has."""
    if len(pool) <= MOST_ROWS:
        return pool, 1.0
    # Other rows each time: what an earlier plan has stored of its own says nothing of the pool.
    seed = Ranks().on_main(lambda: int(np.random.default_rng().integers(2**31)))
    drawn = np.sort(np.random.default_rng(seed).choice(len(pool), MOST_ROWS, replace=False))
    sample = Pool(
        pool.dataset.select(drawn),
        pool.name,
        pool.formatting_func,
        pool.response_field,
        text_field=pool.text_field,
        completion_only_loss=pool.completion_only,
        row_format=None if pool.formatting_func else pool.format,
        eos_token=pool.eos_token,
    )
    return sample, len(pool) / MOST_ROWS


def _memory(device: torch.device) -> int:
    """Bytes of the device that were used at most; of the process, now, on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
