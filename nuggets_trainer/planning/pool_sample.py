"""Rows that stand for a large pool in a plan: how they are drawn, and what they say of the whole pool."""

from __future__ import annotations

import dataclasses

import numpy as np

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.render_workers import RenderingTime
from nuggets_trainer.scoring.timing import Measurement

MOST_ROWS = 5000  # rows that are drawn from a larger pool, because rendering all would take minutes


def draw_sample(pool: Pool, with_reasons: bool) -> tuple[Pool, float]:
    """Draw rows at random; return them, and how many times as many rows the pool has.

    Args:
        pool: all rows.
        with_reasons: whether rows that are unusable in the pool are so in the sample, for the same reasons.
    """
    if len(pool) <= MOST_ROWS:
        return pool, 1.0
    # Other rows each time: the pairs that an earlier plan has stored would make this sample look too cheap.
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
    if with_reasons:
        _, dropped = pool.read_keys()
        sample.exclude({place: dropped[i] for place, i in enumerate(drawn.tolist()) if i in dropped})
    return sample, len(pool) / MOST_ROWS


def config_for_sample(config: NuggetsConfig, num_rows: int, factor: float) -> NuggetsConfig:
    """Change `top_k` so that it asks about the same share of the sample as of the pool.

    Args:
        config: options that the run will have.
        num_rows: number of rows of the pool.
        factor: number of rows of the pool by those of the sample.

    Raises:
        ValueError: if `top_k` is larger than the pool.
    """
    if factor == 1 or config.top_k is None:
        return config
    if config.top_k > num_rows:
        raise ValueError(f"`top_k={config.top_k}` is larger than the pool of {num_rows:,} rows. Lower it.")
    return dataclasses.replace(config, top_k=max(1, round(config.top_k / factor)))


def scale_to_pool(
    measured: Measurement, factor: float, rendering: RenderingTime, anchors_stand_in: bool
) -> Measurement:
    """Scale what the sample has shown to the whole pool.

    Of the time before scoring only the rendering grows with the rows, of which workers may render a part. What was
    scored to measure was missing in the sample, and its like is missing in the rest of the pool. The run itself finds
    it in the store, except for pairs with anchors that stood in for others.

    Args:
        measured: what was measured on the sample.
        factor: number of rows of the pool by those of the sample.
        rendering: time that the rows of the sample took to render.
        anchors_stand_in: whether rows drawn at random stood in for the anchors.
    """
    found = measured.tokens_done
    if anchors_stand_in:
        found = 0.0
    low, expected, high = (factor * (tokens + measured.tokens_done) - found for tokens in measured.tokens_left)
    return dataclasses.replace(
        measured,
        workload=measured.workload.scaled(factor),
        tokens_left=(low, expected, high),
        setup_seconds=measured.setup_seconds + rendering.seconds(factor) - rendering.seconds(),
        finished=measured.finished and expected == 0,
    )
