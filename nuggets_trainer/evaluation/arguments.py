"""The options of `nuggets evaluate` that say which questions are asked, and which model answers them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_choice, check_int
from nuggets_trainer.config.prompt_options import TEMPLATES
from nuggets_trainer.config.scoring_options import SCORE_DTYPES

BENCHMARKS = ("alpaca_eval", "mt_bench")


def option(text: str, default: Any = None) -> Any:
    """Make a field of a group of options, with its help text and its default."""
    return field(default=default, metadata={"help": text})


@dataclass
class EvaluationArguments:
    """Options of all steps."""

    title: ClassVar[str] = "all steps"

    output_dir: str = option("Directory of all runs.", "outputs/evaluation")
    benchmarks: list[str] = field(
        default_factory=lambda: list(BENCHMARKS), metadata={"help": "alpaca_eval, mt_bench, or both."}
    )
    alpaca_eval_dir: str | None = option("Directory with the official alpaca_eval.json files. Default: the hub.")
    mt_bench_dir: str | None = option(
        "Directory with the official question.jsonl and reference_answer/gpt-4.jsonl. Default: the hub."
    )

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            check_choice("benchmarks", name, BENCHMARKS)


@dataclass
class GenerateArguments:
    """Options of the step `generate`."""

    title: ClassVar[str] = "the model that answers"

    model_name_or_path: str | None = option("Tuned model, or an adapter alone: hub name or local directory.")
    adapter_name_or_path: str | None = option("Adapter to put on the model: hub name or local directory.")
    name: str | None = option("Unique name of this run: AlpacaEval's generator, MT-Bench's model.")
    template: str = option(
        "Template that the model was tuned with: chat, plain, nuggets; auto: chat if the tokenizer has a chat "
        "template, else plain.",
        "auto",
    )
    batch_size: int = option("Prompts in one forward pass.", 16)
    max_new_tokens: int | None = option("Longest answer, in tokens. Default: 2048 for AlpacaEval, 1024 for MT-Bench.")
    temperature: float = option("Temperature of the answers to AlpacaEval; MT-Bench sets its own by category.", 0.0)
    seed: int = option("Seed of sampled answers.", 0)
    model_revision: str = option("Branch, tag or commit of the model.", "main")
    dtype: str = option("Dtype of the weights: auto, bfloat16, float16, float32.", "auto")
    attn_implementation: str | None = option("Attention implementation, such as sdpa.")
    trust_remote_code: bool = option("Run code that comes with the model.", False)

    def __post_init__(self) -> None:
        check_choice("template", self.template, TEMPLATES)
        check_choice("dtype", self.dtype, SCORE_DTYPES)
        check_int("batch_size", self.batch_size, 1)
        if self.max_new_tokens is not None:
            check_int("max_new_tokens", self.max_new_tokens, 1)
        if self.temperature < 0:
            raise ValueError(f"`temperature` must be at least 0, got {self.temperature}.")
