"""Two of our own runs against each other, in both orders: less noise for less money than two absolute scores.

Each question is asked twice, with either run first, by MT-Bench's official pairwise prompts. A run scores 1 for a win,
1/2 for a tie and 0 for a loss, averaged over both orders, so that a judge that favours a place favours nobody. A
question of which a judgment cannot be read is counted and left out. Knows no endpoint and no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets_trainer.evaluation.intervals import Mean, clustered_mean
from nuggets_trainer.evaluation.judge import Judge, judge_request, reply_text
from nuggets_trainer.evaluation.mt_bench import JUDGE_MAX_TOKENS, prompt_name, question_fields
from nuggets_trainer.evaluation.questions import MtBenchQuestion, Record
from nuggets_trainer.store.files import write_atomically

VERDICTS = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}  # the official runner looks for them in this order
POINTS = {"model_1": 1.0, "tie": 0.5, "model_2": 0.0}


@dataclass(frozen=True)
class Game:
    """One question with both runs' answers.

    Attributes:
        question_id: of the question.
        turn: 1 or 2.
        prompt: the official judge prompt.
        fields: what the question puts into it.
        answers: of both runs, one text for the first turn, two for the second.
    """

    question_id: int | str
    turn: int
    prompt: Record
    fields: dict[str, str]
    answers: tuple[tuple[str, ...], tuple[str, ...]]

    def user_prompt(self, first: int) -> str:
        """Return what the judge is asked, with run 0 or 1 as assistant A."""
        shown: dict[str, str] = {}
        for place, answers in zip("ab", (self.answers[first], self.answers[1 - first]), strict=True):
            names = [f"answer_{place}"] if self.turn == 1 else [f"answer_{place}_1", f"answer_{place}_2"]
            shown |= dict(zip(names, answers, strict=True))
        text: str = self.prompt["prompt_template"].format(**self.fields, **shown)
        return text


@dataclass(frozen=True)
class PairwiseResult:
    """How run 1 fared against run 2.

    Attributes:
        win_rate: points of run 1 in percent, ties as half; the error is between questions.
        wins: games won in both orders, or in one with a tie in the other.
        ties: all others, contradictory verdicts included.
        losses: games lost likewise.
        contradictions: games in which the verdict followed the place (a win in each order).
        unparsable: games left out.
        games: all of them.
    """

    win_rate: Mean
    wins: int
    ties: int
    losses: int
    contradictions: int
    unparsable: int
    games: int


def alpaca_games(
    rows: Sequence[Record], outputs: Sequence[Sequence[Record]], prompts: dict[str, Record]
) -> list[Game]:
    """Games over AlpacaEval's instructions, of two runs' `model_outputs.json`."""
    return [
        Game(
            f"alpaca_eval/{i}",
            1,
            prompts["pair-v2"],
            {"question": row["instruction"]},
            ((outputs[0][i]["output"],), (outputs[1][i]["output"],)),
        )
        for i, row in enumerate(rows)
    ]


def mt_bench_games(
    questions: Sequence[MtBenchQuestion],
    answers: Sequence[dict[int, tuple[str, str]]],
    prompts: dict[str, Record],
) -> list[Game]:
    """Games over both turns of MT-Bench's questions, of two runs' answers."""
    return [
        Game(
            question.question_id,
            turn,
            prompts[prompt_name("pair", question, turn)],
            question_fields(question, turn),
            (answers[0][question.question_id][:turn], answers[1][question.question_id][:turn]),
        )
        for turn in (1, 2)
        for question in questions
    ]


def judge_pairs(
    judge: Judge,
    judge_model: str,
    names: tuple[str, str],
    games: Sequence[Game],
    path: Path,
    max_tokens: int = JUDGE_MAX_TOKENS,
) -> list[Record]:
    """Have all games judged in both orders, and write them in MT-Bench's official `_pair.jsonl` format.

    Returns:
        The records: `question_id`, `model_1`, `model_2`, `g1_winner`, `g2_winner` (`model_1`, `model_2`, `tie` or
        `error`), `judge`, `g1_user_prompt`, `g1_judgment`, `g2_user_prompt`, `g2_judgment`, `turn`, `tstamp`.
    """
    asked = [(game, first, game.user_prompt(first)) for game in games for first in (0, 1)]
    replies = judge.ask_all(
        [judge_request(judge_model, game.prompt["system_prompt"], text, max_tokens) for game, _, text in asked],
        f"{names[0]} against {names[1]}",
    )
    records = []
    for number, game in enumerate(games):
        record: Record = {"question_id": game.question_id, "model_1": names[0], "model_2": names[1]}
        record |= {"judge": [judge_model, game.prompt["name"]], "turn": game.turn, "tstamp": time.time()}
        for first in (0, 1):
            judgment = reply_text(replies[2 * number + first])
            record[f"g{first + 1}_winner"] = winner(judgment, first)
            record[f"g{first + 1}_user_prompt"] = asked[2 * number + first][2]
            record[f"g{first + 1}_judgment"] = judgment
        records.append(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    return records


def winner(judgment: str, first: int) -> str:
    """Name who won: `model_1`, `model_2`, `tie`, or `error` where no verdict can be read.

    Example:
        >>> winner("B is better: [[B]]", first=0), winner("B is better: [[B]]", first=1), winner("Hm.", first=0)
        ('model_2', 'model_1', 'error')
    """
    verdict = next((name for mark, name in VERDICTS.items() if mark in judgment), None)
    if verdict is None:
        return "error"
    if verdict == "tie":
        return "tie"
    return "model_1" if (verdict == "A") == (first == 0) else "model_2"


def pairwise_result(records: Sequence[Record]) -> PairwiseResult:
    """Count the games of run 1; the turns of one question are not independent, so questions are the clusters."""
    read = [record for record in records if "error" not in (record["g1_winner"], record["g2_winner"])]
    points = [(POINTS[record["g1_winner"]] + POINTS[record["g2_winner"]]) / 2 for record in read]
    percent = [(record["question_id"], 100 * value) for record, value in zip(read, points, strict=True)]
    return PairwiseResult(
        win_rate=clustered_mean(percent),
        wins=sum(value > 0.5 for value in points),
        ties=sum(value == 0.5 for value in points),
        losses=sum(value < 0.5 for value in points),
        contradictions=sum({record["g1_winner"], record["g2_winner"]} == {"model_1", "model_2"} for record in read),
        unparsable=len(records) - len(read),
        games=len(records),
    )
