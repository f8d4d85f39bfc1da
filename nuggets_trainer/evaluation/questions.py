"""The official questions of AlpacaEval and MT-Bench, read from the hub or from local official files, and checked.

The questions are not part of this project. Their SHA-256 hashes tell whether a file holds the official ones.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.json_lines import Record, read_lines

ALPACA_EVAL_REPO = "tatsu-lab/alpaca_eval"  # dataset on the hub
ALPACA_EVAL_FILES = {"v1": "alpaca_eval.json", "v2": "alpaca_eval_gpt4_baseline.json"}
ALPACA_EVAL_ROWS = 805
# Hash of the instructions, as a JSON list.
ALPACA_EVAL_SHA256 = "c5770d532bf3f697768ed9a57a05d8b58b2617321ca65070620f059676e7c99a"
MT_BENCH_SPACE = "lmsys/mt-bench"  # space on the hub
MT_BENCH_SOURCE = "https://raw.githubusercontent.com/lm-sys/FastChat/main/fastchat/llm_judge/data"
# Hash of the list of question_id, category and turns.
MT_BENCH_SHA256 = "a74770fe8520f4621ca7c4e8326c11a2044fec00499d0178602136fbcfaba1c2"
MT_BENCH_IDS = range(81, 161)
MT_BENCH_CATEGORIES = (  # ten questions each, in the order of their numbers
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
JUDGE_PROMPT_NAMES = (
    "single-v1",
    "single-math-v1",
    "pair-v2",
    "pair-math-v1",
    "single-v1-multi-turn",
    "single-math-v1-multi-turn",
    "pair-v2-multi-turn",
    "pair-math-v1-multi-turn",
)


@dataclass(frozen=True)
class MtBenchQuestion:
    """One of MT-Bench's 80 questions.

    Attributes:
        question_id: number of the question, 81 to 160.
        category: one of eight categories.
        turns: the two messages of the user.
        references: answers of a strong model to both turns; None if they were not read or the category has none.
    """

    question_id: int
    category: str
    turns: tuple[str, str]
    references: tuple[str, str] | None = None


@dataclass(frozen=True)
class BenchmarkQuestions:
    """Questions that a model is asked.

    Attributes:
        alpaca_eval: rows of AlpacaEval; empty if they are not asked.
        mt_bench: questions of MT-Bench; empty if they are not asked.
    """

    alpaca_eval: list[Record]
    mt_bench: list[MtBenchQuestion]

    def texts(self) -> dict[str, list[str]]:
        """Return the texts of the questions by benchmark; a benchmark that is not asked is missing."""
        texts = {}
        if self.alpaca_eval:
            texts["alpaca_eval"] = [row["instruction"] for row in self.alpaca_eval]
        if self.mt_bench:
            texts["mt_bench"] = list(itertools.chain.from_iterable(question.turns for question in self.mt_bench))
        return texts


def load_benchmarks(
    benchmarks: Sequence[str], alpaca_eval_dir: str | None, mt_bench_dir: str | None
) -> BenchmarkQuestions:
    """Read the questions of the named benchmarks, see `load_alpaca_eval` and `load_mt_bench`."""
    return BenchmarkQuestions(
        alpaca_eval=load_alpaca_eval(alpaca_eval_dir, "v1") if "alpaca_eval" in benchmarks else [],
        mt_bench=load_mt_bench(mt_bench_dir) if "mt_bench" in benchmarks else [],
    )


def load_alpaca_eval(directory: str | None, setting: str) -> list[Record]:
    """Read AlpacaEval's 805 rows with the reference answers of a setting.

    Args:
        directory: directory of the official `alpaca_eval.json` and `alpaca_eval_gpt4_baseline.json`; None for the hub.
        setting: `v1` (answers of text-davinci-003) or `v2` (answers of gpt-4-1106-preview).

    Raises:
        FileNotFoundError: if there is no such file; the message says where to get it.
        ValueError: if the file does not hold the official instructions in the official order.
    """
    path = alpaca_eval_path(directory, setting)
    rows: list[Record] = _read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold AlpacaEval's rows as a JSON list, got {type(rows).__name__}.")
    if len(rows) != ALPACA_EVAL_ROWS:
        raise ValueError(f"{path} must hold AlpacaEval's {ALPACA_EVAL_ROWS} rows, got {len(rows):,}.")
    if _digest([row.get("instruction") for row in rows]) != ALPACA_EVAL_SHA256:
        raise ValueError(
            f"{path} must hold the official instructions of AlpacaEval in their order, byte for byte. Get the file: "
            f"`hf download {ALPACA_EVAL_REPO} {path.name} --repo-type dataset`."
        )
    return rows


def alpaca_eval_path(directory: str | None, setting: str) -> Path:
    """Return the path of AlpacaEval's official file for a setting; without a directory, get it from the hub."""
    name = ALPACA_EVAL_FILES[setting]
    command = f"hf download {ALPACA_EVAL_REPO} {name} --repo-type dataset --local-dir DIR"
    return _find(directory, "alpaca_eval_dir", name, ALPACA_EVAL_REPO, "dataset", command)


def load_mt_bench(directory: str | None, references: bool = False) -> list[MtBenchQuestion]:
    """Read MT-Bench's 80 questions.

    Args:
        directory: directory of the official `question.jsonl` and `reference_answer/gpt-4.jsonl`; None for the hub.
        references: whether to read the reference answers too; judging needs them, and answering must not see them.

    Raises:
        FileNotFoundError: if there is no such file; the message says where to get it.
        ValueError: if the questions are not the official ones, or a reference answer is missing.
    """
    path = _mt_bench_path(directory, "question.jsonl")
    records = read_lines(path)
    answers = _read_references(directory) if references else {}
    questions, numbers, hashed = [], [], []
    for record in records:
        number, category, turns = record.get("question_id", 0), record.get("category", ""), record.get("turns", [])
        numbers.append(number)
        hashed.append([number, category, turns])
        questions.append(MtBenchQuestion(number, category, tuple(turns), answers.get(number)))
    if numbers != list(MT_BENCH_IDS):
        raise ValueError(f"{path} must hold MT-Bench's 80 questions, 81 to 160 in order, got {len(records)} lines.")
    if _digest(hashed) != MT_BENCH_SHA256:
        raise ValueError(
            f"{path} must hold MT-Bench's official questions, byte for byte. Get the file: "
            f"{_mt_bench_remedy(path.name)}"
        )
    return questions


def load_judge_prompts(path: str | None, mt_bench_dir: str | None) -> dict[str, Record]:
    """Read MT-Bench's official judge prompts by name; they are not part of this project.

    Args:
        path: path of `judge_prompts.jsonl`; None to look in `mt_bench_dir` and beside it, as FastChat has it.
        mt_bench_dir: directory of the questions.

    Raises:
        FileNotFoundError: if there is no such file; the message says where to get it.
        ValueError: if a prompt is missing or lacks a field.
    """
    name = "judge_prompts.jsonl"
    places: list[Path] = []
    if path:
        places = [Path(path)]
    elif mt_bench_dir:
        places = [Path(mt_bench_dir) / name, Path(mt_bench_dir).parent / name]
    found = [place for place in places if place.is_file()]
    if not found:
        looked = f" (looked for {', '.join(map(str, places))})" if places else ""
        raise FileNotFoundError(
            f"Judging MT-Bench answers needs the official judge prompts{looked}. Get them and name the file with "
            f"`judge_prompts`: curl -LO {MT_BENCH_SOURCE}/{name}"
        )
    prompts = {str(record.get("name")): record for record in read_lines(found[0])}
    for name in JUDGE_PROMPT_NAMES:
        if not {"system_prompt", "prompt_template"} <= prompts.get(name, {}).keys():
            raise ValueError(
                f"{found[0]} must have a judge prompt {name!r} with `system_prompt` and `prompt_template`. Get the "
                f"official file: curl -LO {MT_BENCH_SOURCE}/judge_prompts.jsonl"
            )
    return prompts


def _read_references(directory: str | None) -> dict[int, tuple[str, str]]:
    """Read the reference answers to both turns, by question."""
    references = {}
    for record in read_lines(_mt_bench_path(directory, "reference_answer/gpt-4.jsonl")):
        first, second = record["choices"][0]["turns"]
        references[record["question_id"]] = (first, second)
    return references


def _mt_bench_path(directory: str | None, name: str) -> Path:
    return _find(
        directory, "mt_bench_dir", name, MT_BENCH_SPACE, "space", _mt_bench_remedy(name), prefix="data/mt_bench/"
    )


def _mt_bench_remedy(name: str) -> str:
    return f"curl -L --create-dirs -o DIR/{name} {MT_BENCH_SOURCE}/mt_bench/{name}"


def _find(
    directory: str | None, option: str, name: str, repo: str, repo_type: str, command: str, prefix: str = ""
) -> Path:
    """Return the path of an official file: in the directory, or from the hub's cache or the hub."""
    if directory is not None:
        path = Path(directory) / name
        if not path.is_file():
            raise FileNotFoundError(f"`{option}` must have the file {name}, got {directory!r}. Get it: {command}")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, f"{prefix}{name}", repo_type=repo_type))
    except OSError as error:  # huggingface_hub raises OSErrors, without a network too
        raise FileNotFoundError(
            f"{prefix}{name} of {repo} ({repo_type}) cannot be downloaded from the hub ({type(error).__name__}). Get "
            f"it by hand and name its directory with `{option}`: {command}"
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
