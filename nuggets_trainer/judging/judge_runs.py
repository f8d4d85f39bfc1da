"""The steps `judge` and `pairwise`: files that exist already are read and checked before any paid request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.answer_files import (
    alpaca_outputs_path,
    mt_bench_answer_path,
    read_alpaca_outputs,
    read_mt_bench_answers,
)
from nuggets_trainer.evaluation.arguments import EvaluationArguments
from nuggets_trainer.evaluation.json_lines import Record
from nuggets_trainer.evaluation.questions import (
    MtBenchQuestion,
    load_alpaca_eval,
    load_judge_prompts,
    load_mt_bench,
)
from nuggets_trainer.judging.alpaca_eval import judge_alpaca_eval
from nuggets_trainer.judging.arguments import JudgeArguments
from nuggets_trainer.judging.judge import Judge
from nuggets_trainer.judging.judgments import file_name, trial_name
from nuggets_trainer.judging.mt_bench import MtBenchScores, judge_single, judgment_path, scores_of, single_matches
from nuggets_trainer.judging.pairwise import (
    Game,
    PairwiseResult,
    alpaca_games,
    judge_pairs,
    mt_bench_games,
    pairwise_result,
)


def open_judge(shared: EvaluationArguments, args: JudgeArguments) -> Judge:
    """Open the judge with the replies that it has given about any run.

    Raises:
        ValueError: if the endpoint needs a key and there is none.
    """
    endpoint = args.endpoint()
    endpoint.key()
    return Judge(endpoint, Path(shared.output_dir) / "replies")


def judge_alpaca_eval_run(shared: EvaluationArguments, args: JudgeArguments, name: str) -> dict[str, Any]:
    """Judge a run's answers to AlpacaEval, see `judge_alpaca_eval`."""
    return judge_alpaca_eval(
        Path(shared.output_dir),
        name,
        setting=args.alpaca_eval_setting,
        judge_model=args.alpaca_judge,
        endpoint=args.endpoint(),
        alpaca_eval_dir=shared.alpaca_eval_dir,
        num_questions=args.num_questions,
    )


class MtBenchGrading:
    """Grades the runs' answers to MT-Bench one by one.

    Args:
        shared: options of all steps.
        args: options of the judge; they name the runs.

    Attributes:
        path: path of the judgments of all runs.

    Raises:
        FileNotFoundError: if questions, judge prompts or answers of a run are missing.
        ValueError: if these files do not hold what they must.
    """

    def __init__(self, shared: EvaluationArguments, args: JudgeArguments) -> None:
        self._args = args
        self._prompts = load_judge_prompts(args.judge_prompts, shared.mt_bench_dir)
        self._questions = load_mt_bench(shared.mt_bench_dir, references=True)
        output_dir = Path(shared.output_dir)
        self._answers = dict(zip(args.names, _mt_bench_answers(output_dir, args.names, self._questions), strict=True))
        self.path = judgment_path(output_dir, args.mt_bench_judge, trial_name("single", args.num_questions))

    def grade(self, judge: Judge, name: str) -> MtBenchScores:
        """Have the answers of a run graded, and return its scores.

        Raises:
            JudgeError: if judging stopped; all replies are kept.
        """
        args = self._args
        matches = single_matches(self._questions[: args.num_questions], self._answers[name], self._prompts)
        records = judge_single(judge, args.mt_bench_judge, name, matches, self.path, args.max_judge_tokens)
        return scores_of(records, self._questions)


def judge_two_runs(
    shared: EvaluationArguments, args: JudgeArguments, benchmark: str, prompts: dict[str, Record], judge: Judge
) -> tuple[PairwiseResult, Path]:
    """Have the answers of two runs to one benchmark compared, in both orders.

    Args:
        shared: options of all steps.
        args: options of the judge; they name the two runs.
        benchmark: `alpaca_eval` or `mt_bench`.
        prompts: official judge prompts by name.
        judge: judge to ask.

    Returns:
        The result of the first run, and the path of the judgments.

    Raises:
        FileNotFoundError: if questions or answers of a run are missing.
        ValueError: if these files do not hold what they must.
        JudgeError: if judging stopped; all replies are kept.
    """
    first, second = args.names
    games = _games(shared, args, benchmark, prompts)
    kind = trial_name(f"{benchmark}_{first}_{second}_{file_name(args.mt_bench_judge)}", args.num_questions)
    path = Path(shared.output_dir) / "pairwise" / f"{kind}_pair.jsonl"
    records = judge_pairs(judge, args.mt_bench_judge, (first, second), games, path, args.max_judge_tokens)
    return pairwise_result(records), path


def _games(
    shared: EvaluationArguments, args: JudgeArguments, benchmark: str, prompts: dict[str, Record]
) -> list[Game]:
    output_dir = Path(shared.output_dir)
    if benchmark == "mt_bench":
        questions = load_mt_bench(shared.mt_bench_dir, references=True)
        answers = _mt_bench_answers(output_dir, args.names, questions)
        return mt_bench_games(questions[: args.num_questions], answers, prompts)
    rows = load_alpaca_eval(shared.alpaca_eval_dir, "v1")
    outputs = [read_alpaca_outputs(alpaca_outputs_path(output_dir, name), rows, name) for name in args.names]
    return alpaca_games(rows[: args.num_questions], outputs, prompts)


def _mt_bench_answers(
    output_dir: Path, names: Sequence[str], questions: Sequence[MtBenchQuestion]
) -> list[dict[int, tuple[str, str]]]:
    return [read_mt_bench_answers(mt_bench_answer_path(output_dir, name), questions) for name in names]
