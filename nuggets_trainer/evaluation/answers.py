"""The answers of one run under its name: made once, and never mixed with those of another model.

`<output_dir>/<name>/run.json` says how the answers were made. `answers/` beside it holds those that are finished while
the job runs.
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
from nuggets_trainer.evaluation.json_lines import Record
from nuggets_trainer.evaluation.questions import MtBenchQuestion
from nuggets_trainer.evaluation.tuned import prompt_ids
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
RESERVED = ("mt_bench", "replies", "pairwise")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TEMPERATURES = {  # by category of MT-Bench, as FastChat has them
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}


def claim_name(output_dir: Path, name: str, model: str, settings: dict[str, Any], taken: set[str]) -> Path:
    """Return the run's directory, after making it if needed; refuse a name that stands for other answers.

    Args:
        output_dir: directory of all runs.
        name: name of the run; it becomes a file name and AlpacaEval's `generator`.
        model: name of the model, for people to read.
        settings: everything that can change an answer.
        taken: names of the official leaderboard, whose answers the official tools would silently keep instead.

    Raises:
        ValueError: if the name cannot be a file name, or is taken by answers that were made with other settings.
    """
    if not NAME_PATTERN.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"`name` must consist of letters, digits, `.`, `_` and `-`, because it names files, and must not be one "
            f"of {', '.join(RESERVED)}; got {name!r}. Choose another name."
        )
    if name in taken:
        raise ValueError(
            f"`name` must be new, got {name!r}, which is on AlpacaEval's leaderboard: the official tool would "
            "silently keep the old answers. Choose another name."
        )
    directory = output_dir / name
    path, answer_path = directory / RUN_FILE, mt_bench_answer_path(output_dir, name)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changes = []
        for key in sorted(before.keys() | settings.keys()):
            old, new = before.get(key), settings.get(key)
            if old != new:
                changes.append(f"{key} was {old!r} and is now {new!r}")
        if changes:
            raise ValueError(
                f"`name` must be new, got {name!r}, which stands for other answers in {directory}: "
                f"{', '.join(changes)}. Choose another name, or remove that directory and {answer_path}."
            )
    elif answer_path.is_file() or alpaca_outputs_path(output_dir, name).is_file():
        raise ValueError(
            f"`name` must be new, got {name!r}, which stands for answers in {output_dir} that were not made here. "
            "Choose another name."
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
        answerer: model that answers.
        tokenizer: tokenizer of the model.
        template: template of the prompts, see `prompt_ids`.
        rows: official rows; the model sees only their instructions.
        journal: journal of this run.
        limits: `temperature` and `max_new_tokens`.

    Raises:
        ValueError: if an instruction leaves no room for an answer.
    """
    prompts = []
    for i, row in enumerate(rows):
        ids = prompt_ids(tokenizer, template, [row["instruction"]])
        prompts.append(Prompt(f"alpaca_eval/{i}", ids, **limits))
    _check_room(answerer, prompts)
    return _answer(answerer, prompts, journal, "AlpacaEval")


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
        ValueError: if a first turn leaves no room for an answer. A second turn without room gets an empty answer, and
            a warning gives their number.
    """
    conversations = [[question.turns[0]] for question in questions]
    for turn in (1, 2):
        prompts = []
        for question, conversation in zip(questions, conversations, strict=True):
            key = f"mt_bench/{question.question_id}/{turn}"
            ids = prompt_ids(tokenizer, template, conversation)
            prompts.append(Prompt(key, ids, TEMPERATURES[question.category], max_new_tokens))
        if turn == 1:
            _check_room(answerer, prompts)
        texts = _answer(answerer, prompts, journal, f"MT-Bench, turn {turn}")
        for text, question, conversation in zip(texts, questions, conversations, strict=True):
            conversation.append(text)
            if turn == 1:
                conversation.append(question.turns[1])
    return [(conversation[1], conversation[3]) for conversation in conversations]


def _answer(answerer: Answerer, prompts: Sequence[Prompt], journal: Journal, label: str) -> list[str]:
    """Answer prompts, log how the answers ended, and return the texts in order."""
    by_key = answerer.answer(prompts, journal, label)
    texts: list[str] = []
    ends: Counter[str] = Counter()
    num_tokens = 0
    for prompt in prompts:
        answer = by_key[prompt.key]
        texts.append(answer["text"])
        ends[answer["end"]] += 1
        num_tokens += answer["num_tokens"]
    mean = num_tokens / max(1, len(texts))
    number = counted(len(texts), "answer")
    logger.info("%s: %s, %.0f tokens on average, %d cut off.", label, number, mean, ends["length"])
    if ends["no_room"]:
        empty = counted(ends["no_room"], "prompt")
        logger.warning("%s: %s got an empty answer, because the prompt fills the model's context.", label, empty)
    return texts


def _check_room(answerer: Answerer, prompts: Sequence[Prompt]) -> None:
    without_room = [prompt for prompt in prompts if answerer.room(prompt) == 0]
    if without_room:
        first = without_room[0]
        raise ValueError(
            f"{counted(len(without_room), 'prompt')} would fill the model's context and leave no room for an answer. "
            f"The first one is {first.key} with {len(first.ids):,} tokens. Use a model with a longer context."
        )
