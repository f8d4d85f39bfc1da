"""The answers of one model to the benchmarks, under the name of its run and on all ranks.

`<output_dir>/<name>/answers/` holds those that are finished while the job runs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nuggets_trainer.evaluation.answer_files import (
    alpaca_outputs_path,
    mt_bench_answer_path,
    write_alpaca_outputs,
    write_mt_bench_answers,
)
from nuggets_trainer.evaluation.arguments import EvaluationArguments, GenerateArguments
from nuggets_trainer.evaluation.generation import Answerer, Prompt, added_end
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.evaluation.json_lines import Record
from nuggets_trainer.evaluation.questions import MtBenchQuestion
from nuggets_trainer.evaluation.run_names import claim_name, known_names
from nuggets_trainer.evaluation.tuned import load_tuned, model_fields, prompt_ids, resolve_answer_template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ALPACA_EVAL_TOKENS, MT_BENCH_TOKENS = 2048, 1024  # longest answers; MT-Bench's number is the official one
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


@dataclass(frozen=True)
class AnsweringRun:
    """A model that answers benchmarks, all of them with the same settings.

    Attributes:
        name: name of the run.
        output_dir: directory of all runs.
        answerer: model that answers.
        tokenizer: tokenizer of the model.
        template: template of the prompts, see `prompt_ids`.
        journal: journal of the finished answers.
        temperature: temperature of the answers to AlpacaEval; MT-Bench sets its own by category.
        max_new_tokens: longest answer to AlpacaEval and to MT-Bench, in tokens.
        ranks: ranks of the job.
    """

    name: str
    output_dir: Path
    answerer: Answerer
    tokenizer: PreTrainedTokenizerBase
    template: str
    journal: Journal
    temperature: float
    max_new_tokens: tuple[int, int]
    ranks: Ranks

    def answer_alpaca_eval(self, rows: Sequence[Record]) -> Path:
        """Answer AlpacaEval's instructions in order, and write the official file.

        Args:
            rows: official rows; the model sees only their instructions.

        Returns:
            The path of the file.

        Raises:
            ValueError: if an instruction leaves no room for an answer.
        """
        prompts = []
        for i, row in enumerate(rows):
            ids = prompt_ids(self.tokenizer, self.template, [row["instruction"]])
            prompts.append(Prompt(f"alpaca_eval/{i}", ids, self.temperature, self.max_new_tokens[0]))
        _check_room(self.answerer, prompts)
        texts = _answer(self.answerer, prompts, self.journal, "AlpacaEval")
        path = alpaca_outputs_path(self.output_dir, self.name)
        self.ranks.on_main(lambda: write_alpaca_outputs(path, rows, texts, self.name))
        return path

    def answer_mt_bench(self, questions: Sequence[MtBenchQuestion]) -> Path:
        """Answer both turns of MT-Bench's questions, and write the official file.

        The second turn is shown after the model's own first answer.

        Returns:
            The path of the file.

        Raises:
            ValueError: if a first turn leaves no room for an answer. A second turn without room gets an empty answer,
                and a warning gives their number.
        """
        conversations = [[question.turns[0]] for question in questions]
        for turn in (1, 2):
            prompts = []
            for question, conversation in zip(questions, conversations, strict=True):
                key = f"mt_bench/{question.question_id}/{turn}"
                ids = prompt_ids(self.tokenizer, self.template, conversation)
                prompts.append(Prompt(key, ids, TEMPERATURES[question.category], self.max_new_tokens[1]))
            if turn == 1:
                _check_room(self.answerer, prompts)
            texts = _answer(self.answerer, prompts, self.journal, f"MT-Bench, turn {turn}")
            for text, question, conversation in zip(texts, questions, conversations, strict=True):
                conversation.append(text)
                if turn == 1:
                    conversation.append(question.turns[1])
        answers = [(conversation[1], conversation[3]) for conversation in conversations]
        path = mt_bench_answer_path(self.output_dir, self.name)
        self.ranks.on_main(lambda: write_mt_bench_answers(path, questions, answers, self.name))
        return path


def open_run(shared: EvaluationArguments, args: GenerateArguments, ranks: Ranks) -> AnsweringRun:
    """Load the model, and claim the name of its run for these settings.

    Raises:
        ValueError: if the model or the template cannot be used, or the name stands for other answers.
    """
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
    directory = ranks.on_main(lambda: claim_name(output_dir, name, model_name, settings, known_names()))
    return AnsweringRun(
        name,
        output_dir,
        Answerer(model, tokenizer, ranks, args.batch_size, args.seed),
        tokenizer,
        template,
        journal=Journal(directory / "answers"),
        temperature=args.temperature,
        max_new_tokens=limits,
        ranks=ranks,
    )


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
