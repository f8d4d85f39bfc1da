"""The signal check alone, without a run that scores the pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nuggets_trainer import NuggetsConfig, Pool
from nuggets_trainer.pipeline.auto_anchors import anchors_of
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.signal_check import check_signal, full_size
from nuggets_trainer.pipeline.signal_verdict import SignalCheck
from nuggets_trainer.scoring.rendering import render_pool
from nuggets_trainer.scoring.session import open_session


def check_scorer(
    model: Any, tokenizer: Any, pool: Pool, anchors: Pool, config: NuggetsConfig, score_dir: Path
) -> SignalCheck:
    """Check the scorer on rows of a pool, in full; arguments are those of `score_pool`."""
    with open_session(model, read_request(model, tokenizer, pool, anchors, config, score_dir)) as session:
        rendered = render_pool(session, anchors_of(session).anchor_set, range(len(pool)))
        size = full_size(len(rendered.anchor_set.keys))
        return check_signal(session, rendered.anchor_set, rendered.shared, rendered.candidates, size)[0]
