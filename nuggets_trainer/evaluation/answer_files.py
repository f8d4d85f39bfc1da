"""The answer files of the official tools: written here, and checked when they are read, whoever wrote them.

AlpacaEval: `<output_dir>/<name>/model_outputs.json`. MT-Bench: `<output_dir>/mt_bench/model_answer/<name>.jsonl`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from nuggets_trainer.evaluation.json_lines import Record, read_lines, read_lines_if_any, write_lines
from nuggets_trainer.evaluation.questions import MtBenchQuestion
from nuggets_trainer.store.files import write_atomically


def alpaca_outputs_path(output_dir: Path, name: str) -> Path:
    """Return the path of a run's answers to AlpacaEval."""
    return output_dir / name / "model_outputs.json"


def mt_bench_answer_path(output_dir: Path, name: str) -> Path:
    """Return the path of a run's answers to MT-Bench; the official tools use the file's name as the model's name."""
    return output_dir / "mt_bench" / "model_answer" / f"{name}.jsonl"


def write_alpaca_outputs(path: Path, rows: Sequence[Record], answers: Sequence[str], name: str) -> None:
    """Write AlpacaEval's `model_outputs.json`: the official instructions in order, our answers, one generator."""
    records = []
    for row, answer in zip(rows, answers, strict=True):
        record = {"dataset": row["dataset"], "instruction": row["instruction"], "output": answer, "generator": name}
        records.append(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(records, indent=1).encode())


def read_alpaca_outputs(path: Path, rows: Sequence[Record], name: str | None = None) -> list[Record]:
    """Read a `model_outputs.json`, ours or another's, and compare it with the official rows.

    The official tool joins by instruction, only warns about instructions that do not match, and counts by position. So
    a wrong file would give a wrong win rate there.

    Args:
        path: path of the file.
        rows: official rows.
        name: generator that the file must have; None for any single one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if rows are missing, added, out of order or altered, if an answer is not text, or if there is more
            than one generator; the message names the first wrong row.
    """
    _check_answered(path)
    records: list[Record] = json.loads(path.read_text(encoding="utf-8"))
    if len(records) != len(rows):
        raise ValueError(
            f"{path} must have AlpacaEval's {len(rows):,} rows in their order, got {len(records):,}. Make the answers "
            "to all of them."
        )
    for i, (record, row) in enumerate(zip(records, rows, strict=True)):
        if record.get("instruction") != row["instruction"]:
            raise ValueError(
                f"{path}, row {i}: the instruction must be {row['instruction'][:80]!r}, byte for byte, got "
                f"{str(record.get('instruction'))[:80]!r}."
            )
        if not isinstance(record.get("output"), str):
            raise ValueError(f"{path}, row {i}: `output` must be the answer as text, got {record.get('output')!r}.")
    generators = {record.get("generator") for record in records}
    if len(generators) != 1 or (name is not None and generators != {name}):
        expected = "one name" if name is None else repr(name)
        raise ValueError(f"{path}: `generator` must be {expected} in all rows, got {sorted(map(str, generators))}.")
    return records


def write_mt_bench_answers(
    path: Path, questions: Sequence[MtBenchQuestion], answers: Sequence[tuple[str, str]], name: str
) -> None:
    """Write MT-Bench's `model_answer/<name>.jsonl`; answers that the file already has keep their id and time."""
    before = {record["question_id"]: record for record in read_lines_if_any(path)}
    records = []
    for question, turns in zip(questions, answers, strict=True):
        kept = before.get(question.question_id, {})
        record = {
            "question_id": question.question_id,
            "answer_id": kept.get("answer_id", uuid.uuid4().hex),
            "model_id": name,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": kept.get("tstamp", time.time()),
        }
        records.append(record)
    write_lines(path, records)


def read_mt_bench_answers(path: Path, questions: Sequence[MtBenchQuestion]) -> dict[int, tuple[str, str]]:
    """Read a `model_answer/<name>.jsonl`, ours or another's: both turns of every question.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a question has no answer, or if an answer has not two turns of text or is another model's.
    """
    _check_answered(path)
    answers: dict[int, tuple[str, str]] = {}
    for record in read_lines(path):
        turns = record["choices"][0]["turns"]
        are_two_texts = len(turns) == 2 and all(isinstance(turn, str) for turn in turns)
        if not are_two_texts or record["model_id"] != path.stem:
            raise ValueError(
                f"{path}, question {record['question_id']}: must have two answers as text by the model {path.stem!r}, "
                f"got {len(turns)} by {record['model_id']!r}."
            )
        answers[record["question_id"]] = (turns[0], turns[1])
    missing = [question.question_id for question in questions if question.question_id not in answers]
    if missing:
        raise ValueError(
            f"{path} must answer all {len(questions)} questions, but {len(missing)} have no answer. The first one is "
            f"question {missing[0]}. Make the answers to all of them."
        )
    return answers


def _check_answered(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Make the answers first: `nuggets evaluate generate`.")
