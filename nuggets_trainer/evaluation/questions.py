"""The official questions of AlpacaEval and MT-Bench, read from the hub or from local official files, and checked.

Nothing of them is part of this project; what they must be is held by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALPACA_EVAL_REPO = "tatsu-lab/alpaca_eval"  # dataset on the hub
ALPACA_EVAL_FILES = {"v1": "alpaca_eval.json", "v2": "alpaca_eval_gpt4_baseline.json"}
ALPACA_EVAL_ROWS = 805
ALPACA_EVAL_SHA256 = (
    "c5770d532bf3f697768ed9a57a05d8b58b2617321ca65070620f059676e7c99a"  # of the instructions, as a JSON list
)
MT_BENCH_SPACE = "lmsys/mt-bench"  # space on the hub
MT_BENCH_SOURCE = "https://raw.githubusercontent.com/lm-sys/FastChat/main/fastchat/llm_judge/data"
MT_BENCH_SHA256 = "a74770fe8520f4621ca7c4e8326c11a2044fec00499d0178602136fbcfaba1c2"  # of question_id, category, turns
MT_BENCH_IDS = range(81, 161)
REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
JUDGE_PROMPT_NAMES = {
    f"{kind}{suffix}": turn
    for kind in ("single-v1", "single-math-v1", "pair-v2", "pair-math-v1")
    for suffix, turn in (("", 1), ("-multi-turn", 2))
}

Record = dict[str, Any]


@dataclass(frozen=True)
class MtBenchQuestion:
    """One of the 80 questions.

    Attributes:
        question_id: 81..160.
        category: one of eight.
        turns: what the user says, twice.
        references: a strong model's answers to both, where the category needs them and they were asked for.
    """

    question_id: int
    category: str
    turns: tuple[str, str]
    references: tuple[str, str] | None = None


def load_alpaca_eval(directory: str | None, setting: str) -> list[Record]:
    """Read AlpacaEval's 805 rows with the reference answers of a setting.

    Args:
        directory: holds the official `alpaca_eval.json` and `alpaca_eval_gpt4_baseline.json`; None for the hub.
        setting: `v1` (answers of text-davinci-003) or `v2` (of gpt-4-1106-preview).

    Raises:
        FileNotFoundError: if the file is not there, with where to get it.
        ValueError: if it does not hold the official instructions in the official order.
    """
    path = alpaca_eval_path(directory, setting)
    rows: list[Record] = _read_json(path)
    if not isinstance(rows, list) or len(rows) != ALPACA_EVAL_ROWS:
        found = f"{len(rows):,} rows" if isinstance(rows, list) else type(rows).__name__
        raise ValueError(f"{path} must hold the {ALPACA_EVAL_ROWS} rows of AlpacaEval as a JSON list, got {found}.")
    if _digest([row.get("instruction") for row in rows]) != ALPACA_EVAL_SHA256:
        raise ValueError(
            f"{path} does not hold the official instructions of AlpacaEval in their order, byte for byte. Get it: "
            f"`hf download {ALPACA_EVAL_REPO} {path.name} --repo-type dataset`."
        )
    return rows


def alpaca_eval_path(directory: str | None, setting: str) -> Path:
    """Path of AlpacaEval's official file for a setting, from the hub without a directory."""
    name = ALPACA_EVAL_FILES[setting]
    command = f"hf download {ALPACA_EVAL_REPO} {name} --repo-type dataset --local-dir DIR"
    return _find(directory, "alpaca_eval_dir", name, ALPACA_EVAL_REPO, "dataset", command)


def load_mt_bench(directory: str | None, references: bool = False) -> list[MtBenchQuestion]:
    """Read MT-Bench's 80 questions.

    Args:
        directory: holds the official `question.jsonl` and `reference_answer/gpt-4.jsonl`; None for the hub.
        references: read the reference answers too, which judging needs and answering must not see.

    Raises:
        FileNotFoundError: if a file is not there, with where to get it.
        ValueError: if the questions are not the official ones, or a reference answer is missing.
    """
    path = _mt_bench_path(directory, "question.jsonl")
    records = read_lines(path)
    if [record.get("question_id") for record in records] != list(MT_BENCH_IDS):
        raise ValueError(f"{path} must hold MT-Bench's 80 questions, 81 to 160 in order, got {len(records)} lines.")
    if (
        _digest([[record["question_id"], record["category"], record["turns"]] for record in records])
        != MT_BENCH_SHA256
    ):
        raise ValueError(
            f"{path} does not hold MT-Bench's official questions, byte for byte. {_mt_bench_remedy(path.name)}"
        )
    answers = _references(directory) if references else {}
    return [
        MtBenchQuestion(r["question_id"], r["category"], tuple(r["turns"]), answers.get(r["question_id"]))
        for r in records
    ]


def load_judge_prompts(path: str | None, mt_bench_dir: str | None) -> dict[str, Record]:
    """Read MT-Bench's official judge prompts by name; they are no part of this project.

    Args:
        path: of `judge_prompts.jsonl`; by default in `mt_bench_dir` or beside it, as FastChat has it.
        mt_bench_dir: where the questions are.

    Raises:
        FileNotFoundError: if there is no such file, with where to get it.
        ValueError: if a prompt is missing or lacks a field.
    """
    name = "judge_prompts.jsonl"
    places = (
        [Path(path)] if path else [Path(mt_bench_dir) / name, Path(mt_bench_dir).parent / name] if mt_bench_dir else []
    )
    found = [place for place in places if place.is_file()]
    if not found:
        looked = f" (looked for {', '.join(map(str, places))})" if places else ""
        raise FileNotFoundError(
            f"Judging MT-Bench answers takes its official judge prompts{looked}. Get them and name the file with "
            f"`judge_prompts`: curl -LO {MT_BENCH_SOURCE}/{name}"
        )
    prompts = {str(record.get("name")): record for record in read_lines(found[0])}
    for name in JUDGE_PROMPT_NAMES:
        if not {"system_prompt", "prompt_template"} <= prompts.get(name, {}).keys():
            raise ValueError(f"{found[0]} has no judge prompt {name!r} with `system_prompt` and `prompt_template`.")
    return prompts


def read_lines(path: Path) -> list[Record]:
    """Read a file of JSON lines; the error names the line that is none."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
    return records


def _references(directory: str | None) -> dict[int, tuple[str, str]]:
    path = _mt_bench_path(directory, "reference_answer/gpt-4.jsonl")
    return {record["question_id"]: tuple(record["choices"][0]["turns"]) for record in read_lines(path)}


def _mt_bench_path(directory: str | None, name: str) -> Path:
    return _find(
        directory, "mt_bench_dir", name, MT_BENCH_SPACE, "space", _mt_bench_remedy(name), prefix="data/mt_bench/"
    )


def _mt_bench_remedy(name: str) -> str:
    return f"curl -L --create-dirs -o DIR/{name} {MT_BENCH_SOURCE}/mt_bench/{name}"


def _find(
    directory: str | None, option: str, name: str, repo: str, repo_type: str, command: str, prefix: str = ""
) -> Path:
    """Path of an official file: in the directory, or from the hub's cache or the hub."""
    if directory is not None:
        path = Path(directory) / name
        if not path.is_file():
            raise FileNotFoundError(f"`{option}` {directory!r} has no {name}. Get it: {command}")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, f"{prefix}{name}", repo_type=repo_type))
    except OSError as error:  # no network, or switched off: huggingface_hub's errors are OSErrors
        raise FileNotFoundError(
            f"{prefix}{name} of {repo} ({repo_type}) cannot be had from the hub ({type(error).__name__}). Get it by "
            f"hand and name its directory with `{option}`: {command}"
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
