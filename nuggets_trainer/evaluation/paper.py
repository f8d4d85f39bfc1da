"""The paper's table: its numbers, and beside them the results of runs of this project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets_trainer.evaluation.alpaca_eval import judged_path, win_rate
from nuggets_trainer.evaluation.intervals import Mean, clustered_mean, mean_of
from nuggets_trainer.evaluation.json_lines import read_lines_if_any
from nuggets_trainer.evaluation.mt_bench import UNPARSABLE, judgment_path


@dataclass(frozen=True)
class PaperRow:
    """One subset of the paper's table (arXiv 2312.10302), or a subset that the table lacks.

    Attributes:
        key: name of the runs of this row, or its beginning.
        subset: rows that the model was tuned on, in words.
        rows: number of these rows in the paper.
        alpaca_eval: win rate in the paper, in percent; None if the paper has none.
        mt_bench: score in the paper; None if the paper has none.
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
    """One row of the written table.

    Attributes:
        row: row of the paper's table.
        runs: names of the runs that belong to it.
        alpaca_eval: win rate of these runs in percent; None if none was judged.
        mt_bench: score of these runs; None if none was judged.
    """

    row: PaperRow
    runs: tuple[str, ...]
    alpaca_eval: Mean | None
    mt_bench: Mean | None


def collect_paper_table(output_dir: Path, setting: str, alpaca_judge: str, mt_bench_judge: str) -> list[TableRow]:
    """Collect the judged runs of a directory into the rows of the paper's table.

    A run belongs to the row whose key is its name, or its name up to a `.` (`alpaca-full.seed1`). The interval of one
    run is that of its questions. The interval of several runs is that of their scores, which includes the randomness
    of tuning. Runs that belong to no row follow at the end.
    """
    rows = {row.key: row for row in PAPER_ROWS}
    runs_of: dict[str, list[str]] = {}
    for path in sorted(output_dir.glob("*/run.json")):
        run = path.parent.name
        key = _row_key(run)
        if key is None:
            key = run
            rows[run] = PaperRow(run, run)
        runs_of.setdefault(key, []).append(run)
    table = []
    for key, row in rows.items():
        runs = runs_of.get(key, [])
        win_rates, scores = [], []
        for run in runs:
            win_rates.append(_alpaca_eval(output_dir, run, setting, alpaca_judge))
            scores.append(_mt_bench(output_dir, run, mt_bench_judge))
        table.append(TableRow(row, tuple(runs), _over_runs(win_rates), _over_runs(scores)))
    return table


def write_paper_table(table: Sequence[TableRow], setting: str, alpaca_judge: str, mt_bench_judge: str) -> str:
    """Write the table as Markdown; what was not run is empty."""
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
        paper = entry.row
        line = [
            paper.subset,
            _cell(paper.rows, ","),
            _cell(paper.alpaca_eval, ".2f"),
            _cell(entry.alpaca_eval, ""),
            _cell(paper.mt_bench, ".2f"),
            _cell(entry.mt_bench, ""),
            ", ".join(entry.runs),
        ]
        lines.append(line)
    notes = (
        "Brackets hold 95% intervals: over the questions if there is one run, over the runs if there are several. "
        "The paper's win rates are against text-davinci-003 (v1); it gives no intervals."
    )
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(written) + f"\n\n{notes}\n"


def _cell(value: float | Mean | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _row_key(run: str) -> str | None:
    """Return the key of a run's row: the longest one that fits, because keys contain points themselves."""
    fitting = [row.key for row in PAPER_ROWS if run == row.key or run.startswith(f"{row.key}.")]
    return max(fitting, key=len, default=None)


def _over_runs(means: Sequence[Mean | None]) -> Mean | None:
    """Return the result of several runs; a single one keeps its own interval."""
    judged = [mean for mean in means if mean is not None]
    if not judged:
        return None
    if len(judged) == 1:
        return judged[0]
    return mean_of([mean.value for mean in judged])


def _alpaca_eval(output_dir: Path, name: str, setting: str, judge_model: str) -> Mean | None:
    path = judged_path(output_dir, name, setting, judge_model) / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return None if "error" in result else win_rate(result)


def _mt_bench(output_dir: Path, name: str, judge_model: str) -> Mean | None:
    scored = []
    for record in read_lines_if_any(judgment_path(output_dir, judge_model, "single")):
        if record["model"] == name and record["score"] != UNPARSABLE:
            scored.append((record["question_id"], record["score"]))
    return clustered_mean(scored) if scored else None
