"""The answers of one run under its name: made once, never mixed with another model's. Knows no judge.

`<output_dir>/<name>/run.json` says what they were made with; `answers/` beside it keeps them while they are made.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.answer_files import alpaca_outputs_path, mt_bench_answer_path
from nuggets_trainer.evaluation.generation import Answerer, Prompt
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.evaluation.questions import MtBenchQuestion
from nuggets_trainer.evaluation.tuned import prompt_ids
from nuggets_trainer.store.files import write_atomically

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
RESERVED = ("mt_bench", "replies", "pairwise")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TEMPERATURES = {  # MT-Bench's, by category
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}

Record = dict[str, Any]


def claim_name(output_dir: Path, name: str, model: str, settings: dict[str, Any], taken: set[str]) -> Path:
    """Give the run's directory, made if need be; refuse a name that stands for other answers.

    Args:
        output_dir: of all runs.
        name: of the run; becomes a file's name and AlpacaEval's `generator`.
        model: what it is called, for people to read.
        settings: all that can change an answer.
        taken: names that a benchmark knows already, whose rows the official tools would silently keep instead.

    Raises:
        ValueError: if the name cannot be a file's, or is taken; with what differs.
    """
    if not NAME_PATTERN.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"`name` must be letters, digits, `.`, `_` and `-`, as it names files, and none of {', '.join(RESERVED)}; "
            f"got {name!r}."
        )
    if name in taken:
        raise ValueError(
            f"`name` {name!r} is on AlpacaEval's leaderboard already, where the official tool silently keeps the old "
            "answers. Choose another one."
        )
    directory = output_dir / name
    path, answer_path = directory / RUN_FILE, mt_bench_answer_path(output_dir, name)
    if path.is_file():
        before = json.loads(path.read_text())["settings"]
        changed = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if changed:
            changes = ", ".join(f"{key} was {before.get(key)!r} and is now {settings.get(key)!r}" for key in changed)
            raise ValueError(
                f"`name` {name!r} is taken by other answers in {directory}: {changes}. Choose another name, or remove "
                f"that directory and {answer_path}."
            )
    elif answer_path.is_file() or alpaca_outputs_path(output_dir, name).is_file():
        raise ValueError(
            f"`name` {name!r} is taken by answers in {output_dir} that were not made here. Choose another."
        )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"model": model, "settings": settings}, indent=1).encode())
    return directory


def answer_alpaca_eval(
    answerer: Answerer, tokenizer: Any, template: str, rows: Sequence[Record], journal: Journal, **limits: Any
) -> list[str]:
    """Answer AlpacaEval's instructions, in order.

    Args:
        answerer: the model.
        tokenizer: its tokenizer.
        template: how it is prompted.
        rows: the official ones; of each the instruction is shown and nothing else.
        journal: of this run.
        limits: `temperature` and `max_new_tokens`.

    Raises:
        ValueError: if an instruction leaves no room for an answer.
    """
    prompts = [
        Prompt(f"alpaca_eval/{i}", prompt_ids(tokenizer, template, [row["instruction"]]), **limits)
        for i, row in enumerate(rows)
    ]
    _check_room(answerer, prompts)
    answers = answerer.answer(prompts, journal, "AlpacaEval")
    log_ends("AlpacaEval", [answers[prompt.key] for prompt in prompts])
    return [answers[prompt.key]["text"] for prompt in prompts]


def answer_mt_bench(
    answerer: Answerer,
    tokenizer: Any,
    template: str,
    questions: Sequence[MtBenchQuestion],
    journal: Journal,
    max_new_tokens: int,
) -> list[tuple[str, str]]:
    """Answer both turns of MT-Bench's questions; the second turn is shown after the model's own first answer.

    Raises:
        ValueError: if a first turn leaves no room for an answer. A second turn that leaves none gets an empty answer,
            and their number is warned of.
    """
    said = [[question.turns[0]] for question in questions]
    for turn in (1, 2):
        prompts = [
            Prompt(
                f"mt_bench/{question.question_id}/{turn}",
                prompt_ids(tokenizer, template, so_far),
                TEMPERATURES[question.category],
                max_new_tokens,
            )
            for question, so_far in zip(questions, said, strict=True)
        ]
        if turn == 1:
            _check_room(answerer, prompts)
        answers = answerer.answer(prompts, journal, f"MT-Bench, turn {turn}")
        log_ends(f"MT-Bench, turn {turn}", [answers[prompt.key] for prompt in prompts])
        for prompt, question, so_far in zip(prompts, questions, said, strict=True):
            so_far.append(answers[prompt.key]["text"])
            if turn == 1:
                so_far.append(question.turns[1])
    return [(so_far[1], so_far[3]) for so_far in said]


def log_ends(what: str, answers: Sequence[Record]) -> None:
    """Log how answers ended; warn of those that had no room."""
    ends = Counter(answer["end"] for answer in answers)
    mean = sum(answer["num_tokens"] for answer in answers) / max(1, len(answers))
    logger.info("%s: %d answers, %.0f tokens on average, %d cut off.", what, len(answers), mean, ends["length"])
    if ends["no_room"]:
        logger.warning("%s: %d answers are empty, as the prompt fills the context.", what, ends["no_room"])


def _check_room(answerer: Answerer, prompts: Sequence[Prompt]) -> None:
    without = [prompt for prompt in prompts if answerer.room(prompt) == 0]
    if without:
        raise ValueError(
            f"{len(without)} prompts fill the model's context before any answer, the first is {without[0].key} with "
            f"{len(without[0].ids):,} tokens. This benchmark needs a model that reads more."
        )
