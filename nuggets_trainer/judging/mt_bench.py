"""MT-Bench's single-answer grading: the requests to the judge, the official files of judgments, and the scores."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets_trainer.evaluation.json_lines import Record, read_lines_if_any, write_lines
from nuggets_trainer.evaluation.questions import REFERENCE_CATEGORIES, MtBenchQuestion
from nuggets_trainer.judging.intervals import Mean, clustered_mean, mean_of
from nuggets_trainer.judging.judge import Judge, Request, judge_request, reply_text
from nuggets_trainer.judging.judgments import describe_unparsable, file_name

JUDGE_MODEL = "gpt-4"  # the official judge
JUDGE_MAX_TOKENS = 2048  # as in FastChat
UNPARSABLE = -1  # the official score of a judgment that has none
SCORE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
SCORE_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True)
class Match:
    """One answer to be graded.

    Attributes:
        question_id: number of the question.
        category: category of the question.
        turn: turn, 1 or 2; the judge sees the whole conversation at 2.
        prompt_name: name of the official judge prompt.
        user_prompt: user prompt of the request.
        system_prompt: system prompt of the request.
    """

    question_id: int
    category: str
    turn: int
    prompt_name: str
    user_prompt: str
    system_prompt: str

    def request(self, judge_model: str, max_tokens: int) -> Request:
        """Make the request as the official runner does."""
        return judge_request(judge_model, self.system_prompt, self.user_prompt, max_tokens)


@dataclass(frozen=True)
class MtBenchScores:
    """Scores of one run, from 1 to 10.

    Attributes:
        overall: mean of all judgments, as in the official tool; its error is that between questions.
        turns: mean by turn.
        categories: mean of both turns by category.
        unparsable: number of judgments without a score, which are in no mean.
        judgments: number of all judgments.
    """

    overall: Mean
    turns: dict[int, Mean]
    categories: dict[str, Mean]
    unparsable: int
    judgments: int

    def describe(self, name: str) -> str:
        """Return the scores of a run by turn and category, each on a line with its standard error."""
        lines = [f"{name}: no score."]
        if self.overall.count:
            lines = [f"{name}, MT-Bench (standard error, 95% interval):"]
        means: dict[str, Mean] = {"overall": self.overall}
        for turn, mean in self.turns.items():
            means[f"turn {turn}"] = mean
        means |= self.categories
        for label, mean in means.items():
            if mean.count:
                lines.append(f"  {label:<12} {mean.value:5.2f} +- {mean.standard_error:.2f}  {mean}")
        lines.append(describe_unparsable(self.unparsable, self.judgments))
        return "\n".join(lines)


def single_matches(
    questions: Sequence[MtBenchQuestion], answers: dict[int, tuple[str, str]], prompts: dict[str, Record]
) -> list[Match]:
    """Make the gradings: first turns, then second turns; with reference answers for the categories that need them.

    Raises:
        ValueError: if a reference answer is missing.
    """
    matches = []
    for turn in (1, 2):
        for question in questions:
            name = prompt_name("single", question, turn)
            fields = question_fields(question, turn)
            first, second = answers[question.question_id]
            if turn == 1:
                fields["answer"] = first
            else:
                fields |= {"answer_1": first, "answer_2": second}
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
        judge: judge to ask.
        judge_model: name of the judge at the endpoint.
        model: name of the run.
        matches: gradings, made by `single_matches`.
        path: path of the file; judgments of other runs in it stay, those of this run are replaced.
        max_tokens: longest judgment, in tokens.

    Returns:
        The records: `question_id`, `model`, `judge`, `user_prompt`, `judgment`, `score` (-1 if there is none), `turn`,
        `tstamp`.
    """
    requests = [match.request(judge_model, max_tokens) for match in matches]
    replies = judge.ask_all(requests, f"Judging {model}")
    records = []
    for match, reply in zip(matches, replies, strict=True):
        created = (reply or {}).get("created") or time.time()
        record = {
            "question_id": match.question_id,
            "model": model,
            "judge": [judge_model, match.prompt_name],
            "user_prompt": match.user_prompt,
            "judgment": reply_text(reply),
            "score": parse_score(reply_text(reply)),
            "turn": match.turn,
            "tstamp": float(created),
        }
        records.append(record)
    of_other_runs = [record for record in read_lines_if_any(path) if record["model"] != model]
    write_lines(path, of_other_runs + records)
    return records


def scores_of(records: Sequence[Record], questions: Sequence[MtBenchQuestion]) -> MtBenchScores:
    """Return mean scores with errors; judgments without a score are counted and left out, as in the official tool."""
    category_of = {question.question_id: question.category for question in questions}
    by_turn: dict[int, list[float]] = {1: [], 2: []}
    by_category: dict[str, list[tuple[int, float]]] = {category: [] for category in category_of.values()}
    scored = []  # the two turns of a question are not independent, so its number goes along
    for record in records:
        number, score = record["question_id"], record["score"]
        if score == UNPARSABLE:
            continue
        scored.append((number, score))
        by_turn[record["turn"]].append(score)
        by_category[category_of[number]].append((number, score))
    return MtBenchScores(
        overall=clustered_mean(scored),
        turns={turn: mean_of(scores) for turn, scores in by_turn.items()},
        categories={category: clustered_mean(own) for category, own in by_category.items()},
        unparsable=len(records) - len(scored),
        judgments=len(records),
    )


def judgment_path(output_dir: Path, judge_model: str, kind: str) -> Path:
    """Return the path of a judge's judgments of all runs."""
    return output_dir / "mt_bench" / "model_judgment" / f"{file_name(judge_model)}_{kind}.jsonl"


def parse_score(judgment: str) -> float:
    """Read the score `[[x]]`, else `[x]`, as the official runner does; -1 if there is none.

    Example:
        >>> parse_score("Good. Rating: [[7]]"), parse_score("I cannot say.")
        (7, -1)
    """
    match = SCORE.search(judgment) or SCORE_BACKUP.search(judgment)
    return UNPARSABLE if match is None else _read_number(match.group(1))


def _read_number(text: str) -> float:
    """Read a number as the official runner does: `7` stays a whole number.

    A number that is not valid Python (`07`) is read as a decimal.
    """
    try:
        value: float = ast.literal_eval(text)
    except SyntaxError:
        value = float(text)
    return value


def prompt_name(kind: str, question: MtBenchQuestion, turn: int) -> str:
    """Return the name of the official judge prompt for `single` or `pair`, the question's category and the turn."""
    name = {"single": "single-v1", "pair": "pair-v2"}[kind]
    if question.category in REFERENCE_CATEGORIES:
        name = f"{kind}-math-v1"
    return name if turn == 1 else f"{name}-multi-turn"


def question_fields(question: MtBenchQuestion, turn: int) -> dict[str, str]:
    """Return the fields of a judge prompt that come from the question.

    Raises:
        ValueError: if the category needs reference answers and there are none.
    """
    first, second = question.turns
    fields = {"question": first} if turn == 1 else {"question_1": first, "question_2": second}
    if question.category in REFERENCE_CATEGORIES:
        if question.references is None:
            raise ValueError(
                f"Question {question.question_id} ({question.category}) needs a reference answer to be judged, but "
                "`reference_answer/gpt-4.jsonl` has none. Get the official file."
            )
        fields["ref_answer_1"] = question.references[0]
        if turn == 2:
            fields["ref_answer_2"] = question.references[1]
    return fields
