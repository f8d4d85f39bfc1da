"""The paper's table: its numbers, and beside them what runs of this project gave. Knows no model and no endpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets_trainer.evaluation.alpaca_eval import judged_path, win_rate
from nuggets_trainer.evaluation.intervals import Mean, clustered_mean, mean_of
from nuggets_trainer.evaluation.mt_bench import UNPARSABLE, judgment_path
from nuggets_trainer.evaluation.questions import read_lines


@dataclass(frozen=True)
class PaperRow:
    """One subset of the paper's table (arXiv 2312.10302), or one that it lacks.

    Attributes:
        key: begins the names of the runs of this row.
        subset: what the model was tuned on.
        rows: how many rows that is in the paper.
        alpaca_eval: the paper's win rate in percent, None where it has none.
        mt_bench: the paper's score, None where it has none.
    """

    key: str
    subset: str
    rows: int | None = None
    alpaca_eval: float | None = None
    mt_bench: float | None = None


# LLaMA-7B; AlpacaEval with text-davinci-003 as the reference. The paper gives neither seeds nor intervals.
PAPER_ROWS = (
    PaperRow("alpaca-full", "Alpaca, full", 52_002, 25.43, 4.83),
    PaperRow("alpaca-random1000-below-0.5", "golden score <= 0.5, 1,000 random anchors", 9_542, 10.96, 4.41),
    PaperRow("alpaca-random1000-above-0.5", "> 0.5, 1,000 random anchors", 42_460, 26.06, 4.86),
    PaperRow("alpaca-random1000-above-0.8", "> 0.8, 1,000 random anchors", 7_525, 32.48, 5.34),
    PaperRow("alpaca-random1000-above-0.85", "> 0.85, 1,000 random anchors", 619, 28.20, 4.87),
    PaperRow("alpaca-kmeans100-above-0.8", "> 0.8, 100 k-means anchors", 5_000, 34.25),
    PaperRow("alpaca-kmeans100-above-0.85", "> 0.85, 100 k-means anchors", 566, 25.25),
    PaperRow("alpaca-kmeans100-top-1", "top 1%, 100 k-means anchors", 520),
    PaperRow("alpaca-kmeans100-top-5", "top 5%, 100 k-means anchors", 2_600),
    PaperRow("alpaca-kmeans100-top-14", "top 14%, 100 k-means anchors", 7_280),
    PaperRow("alpaca-random-rows", "random rows, as many as > 0.8", 7_525),
    PaperRow("alpaca-gpt4-full", "Alpaca-GPT4, full", 52_002, 66.54),
    PaperRow("alpaca-gpt4-above-0.85", "> 0.85", 16_943, 72.05),
    PaperRow("alpaca-gpt4-random-rows", "random rows, as many as > 0.85", 16_943),
)


@dataclass(frozen=True)
class TableRow:
    """A row of the table.

    Attributes:
        row: of the paper.
        runs: names of the runs found.
        alpaca_eval: win rate in percent, None where none was judged.
        mt_bench: score, None where none was judged.
    """

    row: PaperRow
    runs: tuple[str, ...]
    alpaca_eval: Mean | None
    mt_bench: Mean | None


def collect(output_dir: Path, setting: str, alpaca_judge: str, mt_bench_judge: str) -> list[TableRow]:
    """Collect the judged runs of a directory into the paper's rows.

    A run belongs to the row whose key is its name, or its name up to `.` (`alpaca-full.seed1`). One run has the
    interval of its questions; several have the interval of their scores, which tuning's own randomness is part of.
    Runs of no row follow at the end.
    """
    found = sorted(path.parent.name for path in output_dir.glob("*/run.json"))
    keys = [row.key for row in PAPER_ROWS]
    rows = list(PAPER_ROWS)
    rows += [PaperRow(name, name) for name in found if _row_of(name, keys) is None]
    table = []
    for row in rows:
        runs = [name for name in found if (_row_of(name, keys) or name) == row.key]
        table.append(
            TableRow(
                row,
                tuple(runs),
                _over_runs([_alpaca_eval(output_dir, name, setting, alpaca_judge) for name in runs]),
                _over_runs([_mt_bench(output_dir, name, mt_bench_judge) for name in runs]),
            )
        )
    return table


def markdown(table: Sequence[TableRow], setting: str, alpaca_judge: str, mt_bench_judge: str) -> str:
    """Write the table; what was not run is empty."""
    head = [
        "subset",
        "rows (paper)",
        "AlpacaEval, paper",
        f"AlpacaEval {setting}, here ({alpaca_judge})",
        "MT-Bench, paper",
        f"MT-Bench, here ({mt_bench_judge})",
        "runs",
    ]
    lines = [head, ["---"] * len(head)]
    for entry in table:
        row = entry.row
        lines.append(
            [
                row.subset,
                "" if row.rows is None else f"{row.rows:,}",
                "" if row.alpaca_eval is None else f"{row.alpaca_eval:.2f}",
                "" if entry.alpaca_eval is None else str(entry.alpaca_eval),
                "" if row.mt_bench is None else f"{row.mt_bench:.2f}",
                "" if entry.mt_bench is None else str(entry.mt_bench),
                ", ".join(entry.runs),
            ]
        )
    notes = [
        "Intervals are of 95%: over the questions where there is one run, over the runs where there are several.",
        "The paper's win rates are against text-davinci-003 (v1); it gives no intervals.",
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + " ".join(notes) + "\n"


def _row_of(name: str, keys: Sequence[str]) -> str | None:
    """Key of a run's row. Keys have points themselves: the longest one that fits."""
    fitting = [key for key in keys if name == key or name.startswith(f"{key}.")]
    return max(fitting, key=len, default=None)


def _over_runs(means: Sequence[Mean | None]) -> Mean | None:
    judged = [mean for mean in means if mean is not None]
    if len(judged) <= 1:
        return judged[0] if judged else None
    return mean_of([mean.value for mean in judged])


def _alpaca_eval(output_dir: Path, name: str, setting: str, judge_model: str) -> Mean | None:
    path = judged_path(output_dir, name, setting, judge_model) / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return None if "error" in result else win_rate(result)


def _mt_bench(output_dir: Path, name: str, judge_model: str) -> Mean | None:
    path = judgment_path(output_dir, judge_model, "single")
    records = [record for record in (read_lines(path) if path.is_file() else []) if record["model"] == name]
    scored = [(record["question_id"], record["score"]) for record in records if record["score"] != UNPARSABLE]
    return clustered_mean(scored) if scored else None
