"""What experiment trackers show of a golden set: numbers, a histogram of the ranked values, a table of the best rows.

Numbers go through `Trainer.log`. Histogram and table go to TensorBoard, Weights & Biases and Trackio, into the runs
that the Trainer's own `report_to` has opened.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from nuggets_trainer.report.tallies import score_edges, trimmed_edges
from nuggets_trainer.store.shown_rows import display_texts
from nuggets_trainer.training.rows import text_tokenizer
from nuggets_trainer.wording import visible

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

NUM_ROWS = 50
NUM_CHARACTERS = 300
# Characters that Markdown or HTML would interpret.
MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+!|&~$-]")

Rows = list[dict[str, Any]]


def log_selection(
    trainer: Trainer, pool: Pool, summary: dict[str, float], golden_set: GoldenSet, scores: PoolScores | None
) -> None:
    """Log a golden set at the current step. All ranks may call.

    Each number is logged as `nuggets/<name>`, the histogram as `nuggets/golden_scores` (`gains` or `mean_gains` where
    rows are ranked by these, or a signal's name), the table as `nuggets/best_rows`.

    Args:
        trainer: trainer whose training has begun, so that the runs of its `report_to` are open.
        pool: candidates.
        summary: numbers of the golden set by name; the numbers of `scores` are added.
        golden_set: golden set whose best `NUM_ROWS` rows make the table.
        scores: scores of the pool; None after resuming from a checkpoint, and then only numbers are logged.
    """
    numbers = dict(summary)
    if scores is not None:
        numbers.update(scores.summary())
    # Not `trainer.log`: SFTTrainer's would put the metrics it has gathered since its last log into this entry.
    with _without_terminal(trainer):
        Trainer.log(trainer, {f"nuggets/{name}": value for name, value in numbers.items()})
    if scores is not None and trainer.is_world_process_zero():
        _log_golden_set(trainer, pool, golden_set, scores)


@contextlib.contextmanager
def _without_terminal(trainer: Trainer) -> Iterator[None]:
    """Keep an entry from the callbacks that print each one as a dict: the terminal has the golden set in words."""
    handler = trainer.callback_handler
    callbacks = handler.callbacks
    handler.callbacks = [one for one in callbacks if not isinstance(one, (PrinterCallback, ProgressCallback))]
    try:
        yield
    finally:
        handler.callbacks = callbacks


def _log_golden_set(trainer: Trainer, pool: Pool, golden_set: GoldenSet, scores: PoolScores) -> None:
    callbacks = trainer.callback_handler.callbacks
    reporters = [c for c in callbacks if isinstance(c, (TensorBoardCallback, TrackioCallback, WandbCallback))]
    if not reporters:
        return
    tokenizer = text_tokenizer(trainer.processing_class)
    ranked = golden_set.ranked
    values = ranked.of(scores)
    name = f"nuggets/{ranked.name}" if ranked.is_signal else f"nuggets/{ranked.name}s"
    known = values[~np.isnan(values)]
    edges = score_edges(int(scores.num_anchors.max())) if ranked.name == "golden_score" else trimmed_edges(known)
    rows = _best_rows(pool, golden_set, lambda ids: str(tokenizer.decode(ids)))
    step = trainer.state.global_step
    for reporter in reporters:
        if isinstance(reporter, TensorBoardCallback):
            if reporter.tb_writer is not None:
                reporter.tb_writer.add_histogram(name, known, step, bins=edges)
                reporter.tb_writer.add_text("nuggets/best_rows", _markdown(rows), step)
        elif isinstance(reporter, WandbCallback):
            import wandb

            _log_objects(wandb, name, np.histogram(known, edges), rows, step)
        else:
            import trackio

            # Trackio shows texts as Markdown.
            _log_objects(trackio, name, np.histogram(known, edges), _escaped(rows), step)


def _log_objects(tracker: Any, name: str, counts: Any, rows: Rows, step: int) -> None:
    """Log to Weights & Biases or Trackio, whose classes and functions have the same names."""
    import pandas as pd

    histogram = tracker.Histogram(np_histogram=counts)
    table = tracker.Table(dataframe=pd.DataFrame(rows))
    tracker.log({name: histogram, "nuggets/best_rows": table, "train/global_step": step})


def _best_rows(pool: Pool, golden_set: GoldenSet, decode: Callable[[list[int]], str]) -> Rows:
    """Return a dict for each of the best rows; the value that they are ranked by comes first of the numbers."""
    ranked = golden_set.ranked
    columns = {ranked.name: golden_set.value}
    if not ranked.is_signal:
        for name in (ranked.error, "golden_score", "standard_error", "mean_gain"):
            columns[name] = getattr(golden_set, name)
    rows: Rows = []
    for place, index in enumerate(golden_set.indices[:NUM_ROWS].tolist()):
        texts = display_texts(pool[index], decode)
        numbers = {name: float(column[place]) for name, column in columns.items()}
        rows.append(
            {
                "rank": place + 1,
                "index": index,
                **numbers,
                "prompt": _one_line(texts["prompt"]),
                "completion": _one_line(texts["completion"]),
            }
        )
    return rows


def _one_line(text: str) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= NUM_CHARACTERS else line[: NUM_CHARACTERS - 1] + "\u2026"


def _escaped(rows: Rows) -> Rows:
    """Replace the characters of all texts that Markdown or HTML would interpret."""
    return [{name: _escaped_cell(cell) for name, cell in row.items()} for row in rows]


def _escaped_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return MARKUP.sub(lambda match: f"&#{ord(match.group())};", cell)
    return cell


def _markdown(rows: Rows) -> str:
    names = list(rows[0])
    lines = [_markdown_line(names), _markdown_line(["---"] * len(names))]
    lines += [_markdown_line(list(row.values())) for row in _escaped(rows)]
    return "\n".join(lines)


def _markdown_line(cells: Sequence[Any]) -> str:
    texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
    return f"| {' | '.join(texts)} |"
