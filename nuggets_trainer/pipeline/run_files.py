"""The files of a run that a report is made from, besides the results: run.json and rows.parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nuggets_trainer.data.contents import look_through, prompt_key
from nuggets_trainer.data.row import joined_text
from nuggets_trainer.store.run_info import RunFacts, write_run_info
from nuggets_trainer.store.shown_rows import write_shown_rows

NUM_LOOKED_THROUGH = 5000  # rows of the golden set

if TYPE_CHECKING:
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.scoring.rendering import Candidates
    from nuggets_trainer.scoring.session import ScoringSession
    from nuggets_trainer.store.results import PoolScores


def write_run_files(
    session: ScoringSession,
    rows: Candidates,
    scores: PoolScores,
    golden_set: GoldenSet,
    pilot: Sequence[int],
    model_name: str,
    found: dict[str, Any],
) -> None:
    """Write both files.

    Args:
        session: session that is over.
        rows: anchors and candidates.
        scores: scores of the n pool rows.
        golden_set: the golden set.
        pilot: pool indices of the random rows that a race scored on all anchors; empty after an exact run.
        model_name: name of the model that scored.
        found: what the run has found out besides the scores, for run.json.
    """
    score_dir, tokenizer = session.request.score_dir, session.request.tokenizer
    anchor_set = rows.anchor_set
    anchor_rows = dict(zip(anchor_set.usable, anchor_set.rows, strict=True))

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    found = {**found, "overlap": dict(session.request.overlap), "contents": _contents(session, golden_set, decode)}
    write_shown_rows(score_dir, session.pool, anchor_rows, scores, golden_set, pilot, decode)
    write_run_info(score_dir, _facts(session, rows, model_name, found), session.pool, scores, golden_set)


def _contents(session: ScoringSession, golden_set: GoldenSet, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """Look for repeated prompts, refusals and boilerplate in the golden set, or in a sample of a large one."""
    drawn = np.random.default_rng(0).permutation(golden_set.indices)[:NUM_LOOKED_THROUGH]

    def texts() -> Iterator[tuple[int, str, str]]:
        for i in np.sort(drawn).tolist():
            row = session.pool[i]
            if row.tokens is None:
                completion = joined_text(row.completion)
            else:
                ids, scored = row.tokens
                completion = decode(list(ids[scored[0] :]))
            yield i, prompt_key(row), completion

    return look_through(texts())


def _facts(session: ScoringSession, rows: Candidates, model_name: str, found: dict[str, Any]) -> RunFacts:
    return RunFacts(
        model=model_name,
        config=session.config,
        template=session.template.name,
        fingerprint=session.store.fingerprint,
        fingerprint_fields=session.store.fields,
        num_processes=session.ranks.world,
        device=device_name(session.ranks.device),
        engine_path=session.engine.path,
        tokens_per_batch=session.engine.tokens_per_batch,
        found=found,
        remarks=rows.remarks,
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU; of other devices the type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
