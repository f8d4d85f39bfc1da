"""MT-Bench's judgments: single-answer grading, in the official files and from them. Knows no endpoint and no model."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.intervals import Mean, clustered_mean, mean_of
from nuggets_trainer.evaluation.judge import Judge, Request, judge_request, reply_text
from nuggets_trainer.evaluation.questions import REFERENCE_CATEGORIES, MtBenchQuestion, read_lines
from nuggets_trainer.store.files import write_atomically

JUDGE_MODEL = "gpt-4"  # the official one
JUDGE_MAX_TOKENS = 2048  # as FastChat
UNPARSABLE = -1  # the official score of a judgment without one
SCORE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
SCORE_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")

Record = dict[str, Any]


@dataclass(frozen=True)
class Match:
    """One answer to be graded.

    Attributes:
        question_id: of the question.
        category: of the question.
        turn: 1 or 2; at 2 the judge sees the whole conversation.
        prompt_name: of the official judge prompt.
        user_prompt: what the judge is asked.
        system_prompt: what it is told before.
    """

    question_id: int
    category: str
    turn: int
    prompt_name: str
    user_prompt: str
    system_prompt: str

    def request(self, judge_model: str, max_tokens: int) -> Request:
        """Return the request, as the official runner makes it."""
        return judge_request(judge_model, self.system_prompt, self.user_prompt, max_tokens)


@dataclass(frozen=True)
class MtBenchScores:
    """Scores of one run, 1 to 10.

    Attributes:
        overall: mean of all judgments, as the official tool has it; error between questions.
        turns: by turn.
        categories: by category, both turns.
        unparsable: judgments without a score; they are in no mean.
        judgments: all of them.
    """

    overall: Mean
    turns: dict[int, Mean]
    categories: dict[str, Mean]
    unparsable: int
    judgments: int


def single_matches(
    questions: Sequence[MtBenchQuestion], answers: dict[int, tuple[str, str]], prompts: dict[str, Record]
) -> list[Match]:
    """Lay out the gradings: first turns, then second turns; with reference answers where the category needs them.

    Raises:
        ValueError: if a reference answer is missing.
    """
    matches = []
    for turn in (1, 2):
        for question in questions:
            name = prompt_name("single", question, turn)
            fields = question_fields(question, turn)
            said = answers[question.question_id]
            fields |= {"answer": said[0]} if turn == 1 else {"answer_1": said[0], "answer_2": said[1]}
            user_prompt = prompts[name]["prompt_template"].format(**fields)
            system_prompt = prompts[name]["system_prompt"]
            matches.append(Match(question.question_id, question.category, turn, name, user_prompt, system_prompt))
    return matches


def judge_single(
    judge: Judge,
    judge_model: str,
    model: str,
    matches: Sequence[Match],
    path: Path,
    max_tokens: int = JUDGE_MAX_TOKENS,
) -> list[Record]:
    """Have all answers graded, and write the official `model_judgment/<judge>_single.jsonl`.

    Args:
        judge: asks.
        judge_model: its name at the endpoint.
        model: name of the run.
        matches: of `single_matches`.
        path: of the file; judgments of other runs in it stay, those of this run are replaced.
        max_tokens: longest judgment.

    Returns:
        The records: `question_id`, `model`, `judge`, `user_prompt`, `judgment`, `score` (-1 without one), `turn`,
        `tstamp`.
    """
    replies = judge.ask_all([match.request(judge_model, max_tokens) for match in matches], f"Judging {model}")
    records = [
        {
            "question_id": match.question_id,
            "model": model,
            "judge": [judge_model, match.prompt_name],
            "user_prompt": match.user_prompt,
            "judgment": reply_text(reply),
            "score": parse_score(reply_text(reply)),
            "turn": match.turn,
            "tstamp": time.time() if reply is None else float(reply.get("created") or time.time()),
        }
        for match, reply in zip(matches, replies, strict=True)
    ]
    others = [record for record in (read_lines(path) if path.is_file() else []) if record["model"] != model]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in others + records).encode())
    return records


def scores_of(records: Sequence[Record], questions: Sequence[MtBenchQuestion]) -> MtBenchScores:
    """Mean scores with their errors; judgments without a score are counted and left out, as the official tool does."""
    category = {question.question_id: question.category for question in questions}
    scored = [record for record in records if record["score"] != UNPARSABLE]
    return MtBenchScores(
        overall=_clustered(scored),
        turns={turn: mean_of([r["score"] for r in scored if r["turn"] == turn]) for turn in (1, 2)},
        categories={
            name: _clustered([r for r in scored if category[r["question_id"]] == name])
            for name in dict.fromkeys(question.category for question in questions)
        },
        unparsable=len(records) - len(scored),
        judgments=len(records),
    )


def judgment_path(output_dir: Path, judge_model: str, kind: str) -> Path:
    """Where a judge's judgments of all runs are; a path as its name would be none of a file."""
    return output_dir / "mt_bench" / "model_judgment" / f"{file_name(judge_model)}_{kind}.jsonl"


def file_name(judge_model: str) -> str:
    """Name of a judge as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", judge_model).strip("_")


def parse_score(judgment: str) -> float:
    """Read `[[x]]`, else `[x]`, as the official runner does; -1 without one.

    Example:
        >>> parse_score("Good. Rating: [[7]]"), parse_score("I cannot say.")
        (7, -1)
    """
    match = SCORE.search(judgment) or SCORE_BACKUP.search(judgment)
    return UNPARSABLE if match is None else float_or_int(match.group(1))


def float_or_int(text: str) -> float:
    """Read a number as the official runner does: `7` stays whole.

    A number that Python would not write so (`07`) is read as a decimal.
    """
    try:
        value: float = ast.literal_eval(text)
    except SyntaxError:
        value = float(text)
    return value


def prompt_name(kind: str, question: MtBenchQuestion, turn: int) -> str:
    """Name of the official judge prompt: `single` or `pair`, with or without reference, first or second turn."""
    general = {"single": "single-v1", "pair": "pair-v2"}[kind]
    name = f"{kind}-math-v1" if question.category in REFERENCE_CATEGORIES else general
    return name if turn == 1 else f"{name}-multi-turn"


def question_fields(question: MtBenchQuestion, turn: int) -> dict[str, str]:
    """Fields of a judge prompt that come from the question.

    Raises:
        ValueError: if the category needs reference answers and there are none.
    """
    first, second = question.turns
    fields = {"question": first} if turn == 1 else {"question_1": first, "question_2": second}
    if question.category in REFERENCE_CATEGORIES:
        if question.references is None:
            raise ValueError(
                f"Question {question.question_id} ({question.category}) is judged against a reference answer, but "
                "`reference_answer/gpt-4.jsonl` has none."
            )
        fields["ref_answer_1"] = question.references[0]
        if turn == 2:
            fields["ref_answer_2"] = question.references[1]
    return fields


def _clustered(records: Sequence[Record]) -> Mean:
    return clustered_mean((record["question_id"], record["score"]) for record in records)
