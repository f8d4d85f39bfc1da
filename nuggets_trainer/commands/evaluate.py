"""`nuggets evaluate`: AlpacaEval and MT-Bench for tuned models, in four steps."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import parse_arguments
from nuggets_trainer.commands.parser import make_parser
from nuggets_trainer.evaluation import alpaca_eval, answer_files, mt_bench, pairwise, paper
from nuggets_trainer.evaluation.arguments import (
    EvaluationArguments,
    GenerateArguments,
    JudgeArguments,
    TableArguments,
)
from nuggets_trainer.evaluation.intervals import Mean
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.evaluation.json_lines import Record
from nuggets_trainer.evaluation.judge import Judge
from nuggets_trainer.evaluation.questions import (
    MtBenchQuestion,
    load_alpaca_eval,
    load_judge_prompts,
    load_mt_bench,
)
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
ALPACA_EVAL_TOKENS, MT_BENCH_TOKENS = 2048, 1024  # longest answers; MT-Bench's number is the official one


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
    from accelerate import PartialState

    from nuggets_trainer.evaluation import answers  # late: only this step needs torch
    from nuggets_trainer.evaluation.generation import Answerer, added_end
    from nuggets_trainer.evaluation.tuned import load_tuned, model_fields, resolve_answer_template
    from nuggets_trainer.ranks import Ranks

    rows = load_alpaca_eval(shared.alpaca_eval_dir, "v1") if "alpaca_eval" in shared.benchmarks else []
    questions = load_mt_bench(shared.mt_bench_dir) if "mt_bench" in shared.benchmarks else []
    ranks = Ranks()
    ranks.on_main(lambda: say(True, shared_questions(args, rows, questions)))
    model, tokenizer = load_tuned(
        args.model_name_or_path or "",
        args.adapter_name_or_path,
        revision=args.model_revision,
        dtype=args.dtype,
        attn_implementation=args.attn_implementation,
        trust_remote_code=args.trust_remote_code,
        device_map={"": ranks.device},
    )
    template = resolve_answer_template(args.template, tokenizer)
    limits = (args.max_new_tokens or ALPACA_EVAL_TOKENS, args.max_new_tokens or MT_BENCH_TOKENS)
    output_dir, name = Path(shared.output_dir), args.name or ""
    model_name = " + ".join(filter(None, (args.model_name_or_path, args.adapter_name_or_path)))
    settings = {
        **model_fields(model, tokenizer),
        "template": template,
        "alpaca_eval_max_new_tokens": limits[0],
        "mt_bench_max_new_tokens": limits[1],
        "temperature": args.temperature,
        "seed": args.seed,
    }
    added = added_end(model, tokenizer)
    if added is not None:  # answers of earlier versions did not stop there
        settings["turn_end"] = tokenizer.convert_ids_to_tokens(added)
    directory = ranks.on_main(
        lambda: answers.claim_name(output_dir, name, model_name, settings, alpaca_eval.known_names())
    )
    answerer = Answerer(model, tokenizer, ranks, args.batch_size, args.seed)
    journal = Journal(directory / "answers")
    if rows:
        texts = answers.answer_alpaca_eval(
            answerer, tokenizer, template, rows, journal, temperature=args.temperature, max_new_tokens=limits[0]
        )
        path = answer_files.alpaca_outputs_path(output_dir, name)
        ranks.on_main(lambda: answer_files.write_alpaca_outputs(path, rows, texts, name))
        say(ranks.is_main, f"{len(texts)} answers to AlpacaEval: {path}")
    if questions:
        pairs = answers.answer_mt_bench(answerer, tokenizer, template, questions, journal, limits[1])
        path = answer_files.mt_bench_answer_path(output_dir, name)
        ranks.on_main(lambda: answer_files.write_mt_bench_answers(path, questions, pairs, name))
        say(ranks.is_main, f"{len(pairs)} x 2 answers to MT-Bench: {path}")
    PartialState().destroy_process_group()  # at the end of the interpreter, gloo aborts now and then


def shared_questions(args: GenerateArguments, rows: Sequence[Record], questions: Sequence[MtBenchQuestion]) -> str:
    """Say what the questions share with the rows that the model was selected from.

    Args:
        args: options of the step; the directory of the adapter or of the model has the record of the selection.
        rows: rows of AlpacaEval; empty if it is not asked.
        questions: questions of MT-Bench; empty if they are not asked.
    """
    from nuggets_trainer.overlap.tuned_on import describe_shared_questions
    from nuggets_trainer.training.checkpoints import SELECTION_FILE

    tests = {}
    if rows:
        tests["alpaca_eval"] = [row["instruction"] for row in rows]
    if questions:
        tests["mt_bench"] = list(itertools.chain.from_iterable(question.turns for question in questions))
    model = args.adapter_name_or_path or args.model_name_or_path or ""
    return describe_shared_questions(Path(model) / SELECTION_FILE, tests)


def judge(shared: EvaluationArguments, args: JudgeArguments) -> None:
    """Judge the answers of runs: AlpacaEval with the official package, MT-Bench by single-answer grading."""
    output_dir, endpoint = Path(shared.output_dir), args.endpoint()
    endpoint.key()
    if "mt_bench" in shared.benchmarks:  # missing files are reported before any paid request
        prompts = load_judge_prompts(args.judge_prompts, shared.mt_bench_dir)
        questions = load_mt_bench(shared.mt_bench_dir, references=True)
        answers_of = {}
        for name in args.names:
            path = answer_files.mt_bench_answer_path(output_dir, name)
            answers_of[name] = answer_files.read_mt_bench_answers(path, questions)
    if "alpaca_eval" in shared.benchmarks:
        for name in args.names:
            result = alpaca_eval.judge_alpaca_eval(
                output_dir,
                name,
                setting=args.alpaca_eval_setting,
                judge_model=args.alpaca_judge,
                endpoint=endpoint,
                alpaca_eval_dir=shared.alpaca_eval_dir,
                num_questions=args.num_questions,
            )
            kind = "length-controlled win rate" if args.alpaca_eval_setting == "v2" else "win rate"
            say(True, f"{name}, AlpacaEval {args.alpaca_eval_setting}: {kind} {alpaca_eval.win_rate(result)}")
            say(True, judged_line(result["unparsable"], result["judgments"], result["rejected"]))
    if "mt_bench" in shared.benchmarks:
        path = mt_bench.judgment_path(output_dir, args.mt_bench_judge, trial("single", args.num_questions))
        asker = Judge(endpoint, output_dir / "replies")
        for name in args.names:
            matches = mt_bench.single_matches(questions[: args.num_questions], answers_of[name], prompts)
            records = mt_bench.judge_single(asker, args.mt_bench_judge, name, matches, path, args.max_judge_tokens)
            print_scores(name, mt_bench.scores_of(records, questions))
        sent = counted(asker.asked, "request")
        say(True, f"{sent} sent, {len(asker.rejected)} rejected by the endpoint. Judgments: {path}")
        say(endpoint.prompt_price is not None, f"All judging in {output_dir} cost {asker.spent:.4f} dollars so far.")


def judge_two_runs(shared: EvaluationArguments, args: JudgeArguments) -> None:
    """Compare the answers of two runs with the judge, in both orders."""
    output_dir, endpoint = Path(shared.output_dir), args.endpoint()
    endpoint.key()
    prompts = load_judge_prompts(args.judge_prompts, shared.mt_bench_dir)
    first, second = args.names
    for benchmark in shared.benchmarks:
        if benchmark == "alpaca_eval":
            rows = load_alpaca_eval(shared.alpaca_eval_dir, "v1")
            outputs = []
            for name in args.names:
                path = answer_files.alpaca_outputs_path(output_dir, name)
                outputs.append(answer_files.read_alpaca_outputs(path, rows, name))
            games = pairwise.alpaca_games(rows[: args.num_questions], outputs, prompts)
        else:
            questions = load_mt_bench(shared.mt_bench_dir, references=True)
            said = []
            for name in args.names:
                path = answer_files.mt_bench_answer_path(output_dir, name)
                said.append(answer_files.read_mt_bench_answers(path, questions))
            games = pairwise.mt_bench_games(questions[: args.num_questions], said, prompts)
        kind = trial(f"{benchmark}_{first}_{second}_{mt_bench.file_name(args.mt_bench_judge)}", args.num_questions)
        path = output_dir / "pairwise" / f"{kind}_pair.jsonl"
        asker = Judge(endpoint, output_dir / "replies")
        records = pairwise.judge_pairs(asker, args.mt_bench_judge, (first, second), games, path, args.max_judge_tokens)
        result = pairwise.pairwise_result(records)
        rate = f"wins {result.win_rate} % (a tie counts half)" if result.win_rate.count else "no game could be read"
        say(True, f"{first} against {second}, {benchmark}: {rate}")
        say(
            True,
            f"  {result.wins} won, {result.losses} lost, {result.ties} tied ({result.contradictions} of them because "
            f"the same place won in both orders); {result.unparsable} of {result.games} could not be read. Judgments: "
            f"{path}",
        )


def table(shared: EvaluationArguments, args: TableArguments) -> None:
    """Print and write the paper's table with the results of the judged runs."""
    output_dir = Path(shared.output_dir)
    names = (args.alpaca_eval_setting, args.alpaca_judge, args.mt_bench_judge)
    text = paper.write_paper_table(paper.collect_paper_table(output_dir, *names), *names)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / "table.md", text.encode())
    say(True, f"{text}\nWritten to {output_dir / 'table.md'}.")


def trial(kind: str, num_questions: int | None) -> str:
    """Return the name of a file of judgments; a trial with fewer questions has its own file."""
    return kind if num_questions is None else f"{kind}_trial{num_questions}"


def print_scores(name: str, scores: mt_bench.MtBenchScores) -> None:
    """Print MT-Bench's scores with their standard errors."""
    means: dict[str, Mean] = {"overall": scores.overall}
    for turn, turn_mean in scores.turns.items():
        means[f"turn {turn}"] = turn_mean
    means |= scores.categories
    if scores.overall.count:
        say(True, f"{name}, MT-Bench (standard error, 95% interval):")
    else:
        say(True, f"{name}: no score.")
    for label, mean in means.items():
        if mean.count:
            say(True, f"  {label:<12} {mean.value:5.2f} +- {mean.standard_error:.2f}  {mean}")
    say(True, judged_line(scores.unparsable, scores.judgments))


def judged_line(unparsable: int, judgments: int, rejected: int = 0) -> str:
    """Return a line with the number of judgments that could not be read."""
    note = f", {rejected} of them because the endpoint rejected the request" if rejected else ""
    return f"  {unparsable} of {counted(judgments, 'judgment')} could not be read{note}; no mean includes them."


def say(speaks: bool, text: str) -> None:
    """Print a line if this is the main process."""
    if speaks:
        print(text, flush=True)


def run(step: str, arguments: tuple[Any, ...]) -> None:
    """Run one step."""
    steps: dict[str, Callable[..., None]] = {
        "generate": generate,
        "judge": judge,
        "pairwise": judge_two_runs,
        "table": table,
    }
    steps[step](*arguments)
