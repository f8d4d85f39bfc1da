"""A histogram of golden scores and a table of the best rows, for TensorBoard, Weights & Biases and Trackio.

They go to the runs that the Trainer's own `report_to` has opened; numbers go through `Trainer.log`. Knows no scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from nuggets_trainer.report.tallies import score_edges
from nuggets_trainer.store.shown_rows import display_texts
from nuggets_trainer.wording import visible

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

NUM_ROWS = 50
NUM_CHARACTERS = 300
COLUMNS = ("rank", "index", "golden_score", "standard_error", "mean_gain", "prompt", "completion")
# What Markdown and HTML act on.
MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+!|&~$-]")

Rows = list[list[Any]]


def log_selection(
    trainer: Trainer, pool: Pool, summary: dict[str, float], golden_set: GoldenSet, scores: PoolScores | None
) -> None:
    """Log at the current step: each number as `nuggets/<name>`, `nuggets/golden_scores` and `nuggets/best_rows`.

    Args:
        trainer: one whose training has begun: its `report_to` has runs that are open. All ranks may call.
        pool: the candidates.
        summary: numbers of the golden set; those of the scores are added.
        golden_set: its best `NUM_ROWS` rows make the table.
        scores: of the pool; None after resuming from a checkpoint: then numbers alone are logged.
    """
    summary = {**summary, **({} if scores is None else scores.summary())}
    # Not `trainer.log`: SFTTrainer's would put the metrics it has gathered since its last log into this entry.
    Trainer.log(trainer, {f"nuggets/{name}": value for name, value in summary.items()})
    if scores is not None and trainer.is_world_process_zero():
        _log_golden_set(trainer, pool, golden_set, scores)


def _log_golden_set(trainer: Trainer, pool: Pool, golden_set: GoldenSet, scores: PoolScores) -> None:
    callbacks = trainer.callback_handler.callbacks
    reporters = [c for c in callbacks if isinstance(c, (TensorBoardCallback, TrackioCallback, WandbCallback))]
    if not reporters:
        return
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    known = scores.golden_score[~np.isnan(scores.golden_score)]
    edges = score_edges(int(scores.num_anchors.max()))
    rows = _best_rows(pool, golden_set, lambda ids: str(tokenizer.decode(ids)))
    step = trainer.state.global_step
    for reporter in reporters:
        if isinstance(reporter, TensorBoardCallback):
            if reporter.tb_writer is not None:
                reporter.tb_writer.add_histogram("nuggets/golden_scores", known, step, bins=edges)
                reporter.tb_writer.add_text("nuggets/best_rows", _markdown(rows), step)
        elif isinstance(reporter, WandbCallback):
            import wandb

            _log_objects(wandb, known, edges, rows, step)
        else:
            import trackio

            _log_objects(trackio, known, edges, _escaped(rows), step)  # it takes texts for Markdown


def _log_objects(tracker: Any, known: Any, edges: Any, rows: Rows, step: int) -> None:
    """Weights & Biases and Trackio have the same names for things."""
    import pandas as pd

    histogram = tracker.Histogram(np_histogram=np.histogram(known, edges))
    table = tracker.Table(dataframe=pd.DataFrame(rows, columns=list(COLUMNS)))
    tracker.log({"nuggets/golden_scores": histogram, "nuggets/best_rows": table, "train/global_step": step})


def _best_rows(pool: Pool, golden_set: GoldenSet, decode: Callable[[list[int]], str]) -> Rows:
    rows: Rows = []
    for place, index in enumerate(golden_set.indices[:NUM_ROWS].tolist()):
        texts = display_texts(pool[index], decode)
        numbers = (golden_set.golden_score, golden_set.standard_error, golden_set.mean_gain)
        shown = [_one_line(texts[name]) for name in ("prompt", "completion")]
        rows.append([place + 1, index, *(float(values[place]) for values in numbers), *shown])
    return rows


def _one_line(text: str) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= NUM_CHARACTERS else line[: NUM_CHARACTERS - 1] + "\u2026"


def _escaped(rows: Rows) -> Rows:
    """Write texts so that Markdown shows them as they are."""
    return [
        [MARKUP.sub(lambda m: f"&#{ord(m.group())};", cell) if isinstance(cell, str) else cell for cell in row]
        for row in rows
    ]


def _markdown(rows: Rows) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *_escaped(rows)]
    cells = ([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
