"""The files of a run that a report is made from, besides the results: run.json and rows.parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nuggets_trainer.golden.pilot import pilot_size
from nuggets_trainer.store.run_info import RunFacts, write_run_info
from nuggets_trainer.store.shown_rows import write_shown_rows

if TYPE_CHECKING:
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.prompts.shared_prefix import AnchorSet
    from nuggets_trainer.scoring.session import ScoringSession
    from nuggets_trainer.store.results import PoolScores


def write_run_files(
    session: ScoringSession,
    anchor_set: AnchorSet,
    scores: PoolScores,
    golden_set: GoldenSet,
    model: Any,
    tokenizer: Any,
) -> None:
    """Write both files.

    Args:
        session: session that is over.
        anchor_set: the anchors.
        scores: scores of the n pool rows.
        golden_set: the golden set.
        model: model that scored, for its name.
        tokenizer: tokenizer that decodes rows which are tokenized already.
    """
    score_dir = session.store.score_dir
    anchor_rows = dict(zip(anchor_set.usable, anchor_set.rows, strict=True))
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
        device=device_name(session.ranks.device),
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


def device_name(device: torch.device) -> str:
    """Return the name of a GPU; of other devices the type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
