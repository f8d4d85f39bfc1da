"""`nuggets evaluate`: AlpacaEval and MT-Bench for tuned models, in four steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import parse_arguments
from nuggets_trainer.commands.parser import make_parser
from nuggets_trainer.evaluation.arguments import EvaluationArguments, GenerateArguments
from nuggets_trainer.evaluation.questions import load_benchmarks, load_judge_prompts
from nuggets_trainer.judging import judge_runs
from nuggets_trainer.judging.alpaca_eval import describe_result
from nuggets_trainer.judging.arguments import JudgeArguments, TableArguments
from nuggets_trainer.judging.paper import collect_paper_table, write_paper_table
from nuggets_trainer.launch.processes import check_one_process
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.wording import counted

STEPS: dict[str, tuple[type, ...]] = {
    "generate": (EvaluationArguments, GenerateArguments),
    "judge": (EvaluationArguments, JudgeArguments),
    "pairwise": (EvaluationArguments, JudgeArguments),
    "table": (EvaluationArguments, TableArguments),
}
REQUIRED = {"generate": ("model_name_or_path", "name"), "judge": ("names",), "pairwise": ("names",), "table": ()}
USAGE = "nuggets evaluate {generate,judge,pairwise,table} [--config FILE] [options]"
STEPS_TEXT = """steps:
  generate  answer the questions with a model, on all devices
  judge     let an OpenAI-compatible endpoint judge the answers of runs; each judgment is paid for once
  pairwise  let the endpoint compare the answers of two runs, in both orders
  table     print the paper's table"""
EPILOG = f"""examples:
  nuggets evaluate generate --model_name_or_path outputs/alpaca_kmeans100 --template nuggets --name above-0.8
  nuggets evaluate judge --names above-0.8 --judge_prompts judge_prompts.jsonl
  nuggets evaluate pairwise --names above-0.8 alpaca-full --judge_prompts judge_prompts.jsonl
  nuggets evaluate table

`nuggets evaluate <step> --help` lists the options of a step. One YAML file (--config paper/evaluate) can hold the
options of all steps. After a kill the same command continues. To judge with your own model, run `vllm serve MODEL` or
`transformers serve MODEL`, and give --base_url http://localhost:8000/v1 --judge_model MODEL.

{EXIT_CODES}"""


def make_evaluate_parser(step: str) -> TrlParser:
    """Make the parser of a step."""
    return make_parser(STEPS[step], f"nuggets evaluate {step}", description("evaluate"), epilog=EXIT_CODES)


def all_parsers() -> list[TrlParser]:
    """Make the parsers of all steps: a config file may have the options of each."""
    return [make_evaluate_parser(step) for step in STEPS]


def parse(argv: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    """Parse the step and its options; a config file can have the options of other steps too.

    Raises:
        ValueError: if the step is unknown or an option is missing, or if a launcher has started several processes for
            a step of one.
    """
    step = argv[0] if argv else ""
    if step in ("-h", "--help"):
        sys.stdout.write(f"usage: {USAGE}\n\n{description('evaluate')}\n\n{STEPS_TEXT}\n\n{EPILOG}\n")
        sys.exit(0)
    if step not in STEPS:
        raise ValueError(
            f"The first word after `nuggets evaluate` must be a step, one of {', '.join(STEPS)}, got {step!r}."
        )
    arguments = parse_arguments(make_evaluate_parser(step), argv[1:], all_parsers)
    check_one_process("evaluate", argv)  # here too: the recipe does not go through `nuggets`
    given: dict[str, Any] = {}
    for group in arguments:
        given |= vars(group)
    missing = [f"--{name}" for name in REQUIRED[step] if not given[name]]
    if missing:
        raise ValueError(f"`nuggets evaluate {step}` needs {' and '.join(missing)}.")
    if step == "pairwise" and len(given["names"]) != 2:
        raise ValueError(f"`names` must be two runs for `pairwise`, got {', '.join(given['names'])}.")
    return step, arguments


def generate(shared: EvaluationArguments, args: GenerateArguments) -> None:
    """Answer the questions with a model, on all ranks, and write the official files."""
    from nuggets_trainer.evaluation.answers import open_run  # late: only this step needs torch
    from nuggets_trainer.overlap.tuned_on import describe_shared_questions
    from nuggets_trainer.ranks import Ranks, end_processes
    from nuggets_trainer.store.selection_file import SELECTION_FILE

    questions = load_benchmarks(shared.benchmarks, shared.alpaca_eval_dir, shared.mt_bench_dir)
    ranks = Ranks()
    selection = Path(args.adapter_name_or_path or args.model_name_or_path or "") / SELECTION_FILE
    ranks.on_main(lambda: say(describe_shared_questions(selection, questions.texts())))
    answering = open_run(shared, args, ranks)
    if questions.alpaca_eval:
        path = answering.answer_alpaca_eval(questions.alpaca_eval)
        ranks.on_main(lambda: say(f"{len(questions.alpaca_eval)} answers to AlpacaEval: {path}"))
    if questions.mt_bench:
        path = answering.answer_mt_bench(questions.mt_bench)
        ranks.on_main(lambda: say(f"{len(questions.mt_bench)} x 2 answers to MT-Bench: {path}"))
    end_processes()


def judge(shared: EvaluationArguments, args: JudgeArguments) -> None:
    """Judge the answers of runs: AlpacaEval with the official package, MT-Bench by single-answer grading."""
    endpoint = args.endpoint()
    endpoint.key()
    grading = None
    if "mt_bench" in shared.benchmarks:  # missing files are reported before any paid request
        grading = judge_runs.MtBenchGrading(shared, args)
    if "alpaca_eval" in shared.benchmarks:
        for name in args.names:
            say(describe_result(judge_runs.judge_alpaca_eval_run(shared, args, name)))
    if grading is not None:
        asker = judge_runs.open_judge(shared, args)
        for name in args.names:
            say(grading.grade(asker, name).describe(name))
        sent = counted(asker.asked, "request")
        say(f"{sent} sent, {len(asker.rejected)} rejected by the endpoint. Judgments: {grading.path}")
        if endpoint.prompt_price is not None:
            say(f"All judging in {shared.output_dir} cost {asker.spent:.4f} dollars so far.")


def judge_pairwise(shared: EvaluationArguments, args: JudgeArguments) -> None:
    """Compare the answers of two runs with the judge, in both orders."""
    asker = judge_runs.open_judge(shared, args)
    prompts = load_judge_prompts(args.judge_prompts, shared.mt_bench_dir)
    first, second = args.names
    for benchmark in shared.benchmarks:
        result, path = judge_runs.judge_two_runs(shared, args, benchmark, prompts, asker)
        say(f"{first} against {second}, {benchmark}: {result.describe()} Judgments: {path}")


def table(shared: EvaluationArguments, args: TableArguments) -> None:
    """Print and write the paper's table with the results of the judged runs."""
    output_dir = Path(shared.output_dir)
    names = (args.alpaca_eval_setting, args.alpaca_judge, args.mt_bench_judge)
    text = write_paper_table(collect_paper_table(output_dir, *names), *names)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / "table.md", text.encode())
    say(f"{text}\nWritten to {output_dir / 'table.md'}.")


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def run(step: str, arguments: tuple[Any, ...]) -> None:
    """Run one step."""
    steps: dict[str, Callable[..., None]] = {
        "generate": generate,
        "judge": judge,
        "pairwise": judge_pairwise,
        "table": table,
    }
    steps[step](*arguments)
