"""Two of our own runs against each other, in both orders: less noise for less money than two absolute scores.

The judge gets each question twice, with either run first, in MT-Bench's official pairwise prompts. A run scores 1 for
a win, 1/2 for a tie and 0 for a loss, averaged over both orders. So a judge that prefers one place helps neither run.
A question with a judgment that cannot be read is counted and left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuggets_trainer.evaluation.json_lines import Record, write_lines
from nuggets_trainer.evaluation.questions import MtBenchQuestion
from nuggets_trainer.judging.intervals import Mean, clustered_mean
from nuggets_trainer.judging.judge import Judge, judge_request, reply_text
from nuggets_trainer.judging.mt_bench import JUDGE_MAX_TOKENS, prompt_name, question_fields

VERDICTS = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}  # the official runner looks for them in this order
POINTS = {"model_1": 1.0, "tie": 0.5, "model_2": 0.0}


@dataclass(frozen=True)
class Game:
    """One question with the answers of both runs.

    Attributes:
        question_id: number or name of the question.
        turn: turn, 1 or 2.
        prompt: official judge prompt.
        fields: fields of the prompt that come from the question.
        answers: answers of both runs: one text each for the first turn, two for the second.
    """

    question_id: int | str
    turn: int
    prompt: Record
    fields: dict[str, str]
    answers: tuple[tuple[str, ...], tuple[str, ...]]

    def user_prompt(self, first: int) -> str:
        """Return the user prompt with run 0 or 1 as assistant A."""
        shown: dict[str, str] = {}
        for place, run in (("a", first), ("b", 1 - first)):
            if self.turn == 1:
                (shown[f"answer_{place}"],) = self.answers[run]
            else:
                shown[f"answer_{place}_1"], shown[f"answer_{place}_2"] = self.answers[run]
        text: str = self.prompt["prompt_template"].format(**self.fields, **shown)
        return text


@dataclass(frozen=True)
class PairwiseResult:
    """Result of run 1 against run 2.

    Attributes:
        win_rate: points of run 1 in percent, ties as half; its error is that between questions.
        wins: number of games that run 1 won in both orders, or in one order with a tie in the other.
        ties: number of all other games, including contradictory verdicts.
        losses: number of games that run 1 lost in both orders, or in one order with a tie in the other.
        contradictions: number of games in which the same place won in both orders.
        unparsable: number of games that are left out, because a judgment cannot be read.
        games: number of all games.
    """

    win_rate: Mean
    wins: int
    ties: int
    losses: int
    contradictions: int
    unparsable: int
    games: int

    def describe(self) -> str:
        """Return the win rate, and on a second line how the games ended."""
        rate = f"wins {self.win_rate} % (a tie counts half)" if self.win_rate.count else "no game could be read"
        return (
            f"{rate}\n  {self.wins} won, {self.losses} lost, {self.ties} tied ({self.contradictions} of them because "
            f"the same place won in both orders); {self.unparsable} of {self.games} could not be read."
        )


def alpaca_games(
    rows: Sequence[Record], outputs: Sequence[Sequence[Record]], prompts: dict[str, Record]
) -> list[Game]:
    """Make the games over AlpacaEval's instructions, from the `model_outputs.json` of two runs."""
    games = []
    for i, row in enumerate(rows):
        answers = ((outputs[0][i]["output"],), (outputs[1][i]["output"],))
        games.append(Game(f"alpaca_eval/{i}", 1, prompts["pair-v2"], {"question": row["instruction"]}, answers))
    return games


def mt_bench_games(
    questions: Sequence[MtBenchQuestion],
    answers: Sequence[dict[int, tuple[str, str]]],
    prompts: dict[str, Record],
) -> list[Game]:
    """Make the games over both turns of MT-Bench's questions, from the answers of two runs."""
    games = []
    for turn in (1, 2):
        for question in questions:
            number = question.question_id
            prompt = prompts[prompt_name("pair", question, turn)]
            said = (answers[0][number][:turn], answers[1][number][:turn])
            games.append(Game(number, turn, prompt, question_fields(question, turn), said))
    return games


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
    requests = []
    for game in games:
        for first in (0, 1):
            system_prompt = game.prompt["system_prompt"]
            requests.append(judge_request(judge_model, system_prompt, game.user_prompt(first), max_tokens))
    replies = judge.ask_all(requests, f"{names[0]} against {names[1]}")
    records = []
    for number, game in enumerate(games):
        record: Record = {"question_id": game.question_id, "model_1": names[0], "model_2": names[1]}
        record |= {"judge": [judge_model, game.prompt["name"]], "turn": game.turn, "tstamp": time.time()}
        for first in (0, 1):
            judgment = reply_text(replies[2 * number + first])
            record[f"g{first + 1}_winner"] = winner(judgment, first)
            record[f"g{first + 1}_user_prompt"] = game.user_prompt(first)
            record[f"g{first + 1}_judgment"] = judgment
        records.append(record)
    write_lines(path, records)
    return records


def winner(judgment: str, first: int) -> str:
    """Return who won: `model_1`, `model_2`, `tie`, or `error` if no verdict can be read.

    Args:
        judgment: text of the judge.
        first: run that was assistant A, 0 or 1.

    Example:
        >>> winner("B is better: [[B]]", first=0), winner("B is better: [[B]]", first=1), winner("Hm.", first=0)
        ('model_2', 'model_1', 'error')
    """
    models = ("model_1", "model_2")
    winners = {"A": models[first], "B": models[1 - first], "tie": "tie"}
    for mark, verdict in VERDICTS.items():
        if mark in judgment:
            return winners[verdict]
    return "error"


def pairwise_result(records: Sequence[Record]) -> PairwiseResult:
    """Count the games of run 1; the turns of one question are not independent, so questions are the clusters."""
    percents = []
    wins = ties = losses = contradictions = 0
    for record in records:
        winners = {record["g1_winner"], record["g2_winner"]}
        if "error" in winners:
            continue
        points = (POINTS[record["g1_winner"]] + POINTS[record["g2_winner"]]) / 2
        percents.append((record["question_id"], 100 * points))
        wins += points > 0.5
        ties += points == 0.5
        losses += points < 0.5
        contradictions += winners == {"model_1", "model_2"}
    return PairwiseResult(
        win_rate=clustered_mean(percents),
        wins=wins,
        ties=ties,
        losses=losses,
        contradictions=contradictions,
        unparsable=len(records) - len(percents),
        games=len(records),
    )
