"""The files that the official tools read: written, and checked on reading, whoever wrote them. Knows no model.

AlpacaEval: `<output_dir>/<name>/model_outputs.json`. MT-Bench: `<output_dir>/mt_bench/model_answer/<name>.jsonl`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.questions import MtBenchQuestion, read_lines
from nuggets_trainer.store.files import write_atomically

Record = dict[str, Any]


def alpaca_outputs_path(output_dir: Path, name: str) -> Path:
    """Where a run's answers to AlpacaEval are."""
    return output_dir / name / "model_outputs.json"


def mt_bench_answer_path(output_dir: Path, name: str) -> Path:
    """Where a run's answers to MT-Bench are; official tools take the file's name for the model's."""
    return output_dir / "mt_bench" / "model_answer" / f"{name}.jsonl"


def write_alpaca_outputs(path: Path, rows: Sequence[Record], answers: Sequence[str], name: str) -> None:
    """Write AlpacaEval's `model_outputs.json`: the official instructions in order, our answers, one generator."""
    records = [
        {"dataset": row["dataset"], "instruction": row["instruction"], "output": answer, "generator": name}
        for row, answer in zip(rows, answers, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(records, indent=1).encode())


def read_alpaca_outputs(path: Path, rows: Sequence[Record], name: str | None = None) -> list[Record]:
    """Read a `model_outputs.json`, ours or another's, and hold it against the official rows.

    The official tool joins by instruction, warns of what does not match, and counts by position: what is wrong here
    would be a wrong win rate there.

    Args:
        path: of the file.
        rows: the official ones.
        name: the generator it must have.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if rows are missing, added, out of order or altered, an answer is no text, or it has not one
            generator; the first wrong row is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: make the answers first, `recipes/evaluate.py generate`.")
    records: list[Record] = json.loads(path.read_text(encoding="utf-8"))
    if len(records) != len(rows):
        raise ValueError(f"{path} has {len(records):,} rows, AlpacaEval has {len(rows):,}. All are needed, in order.")
    for i, (record, row) in enumerate(zip(records, rows, strict=True)):
        if record.get("instruction") != row["instruction"]:
            raise ValueError(
                f"{path}, row {i}: the instruction must be the official one, byte for byte; got "
                f"{str(record.get('instruction'))[:80]!r}, expected {row['instruction'][:80]!r}."
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
    """Write MT-Bench's `model_answer/<name>.jsonl`; answers that are there already keep their id and time."""
    before = {record["question_id"]: record for record in (read_lines(path) if path.is_file() else [])}
    lines = []
    for question, turns in zip(questions, answers, strict=True):
        kept = before.get(question.question_id, {})
        record = {
            "question_id": question.question_id,
            "answer_id": kept.get("answer_id", uuid.uuid4().hex),
            "model_id": name,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": kept.get("tstamp", time.time()),
        }
        lines.append(json.dumps(record) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def read_mt_bench_answers(path: Path, questions: Sequence[MtBenchQuestion]) -> dict[int, tuple[str, str]]:
    """Read a `model_answer/<name>.jsonl`, ours or another's: both turns of every question.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if a question has no answer, or an answer has not two turns of text, or another model's name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: make the answers first, `recipes/evaluate.py generate`.")
    answers: dict[int, tuple[str, str]] = {}
    for record in read_lines(path):
        turns = record["choices"][0]["turns"]
        if len(turns) != 2 or not all(isinstance(turn, str) for turn in turns) or record["model_id"] != path.stem:
            raise ValueError(
                f"{path}, question {record['question_id']}: expected two answers as text of model {path.stem!r}, got "
                f"{len(turns)} of model {record['model_id']!r}."
            )
        answers[record["question_id"]] = (turns[0], turns[1])
    missing = [question.question_id for question in questions if question.question_id not in answers]
    if missing:
        raise ValueError(
            f"{path} has no answer to {len(missing)} of {len(questions)} questions, the first is {missing[0]}."
        )
    return answers
