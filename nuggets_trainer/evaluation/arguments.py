"""The options of `nuggets evaluate`. One YAML file can hold the options of all its steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_choice, check_int
from nuggets_trainer.config.prompt_options import TEMPLATES
from nuggets_trainer.config.scoring_options import SCORE_DTYPES
from nuggets_trainer.evaluation.alpaca_eval import JUDGE_MODELS
from nuggets_trainer.evaluation.judge import Endpoint
from nuggets_trainer.evaluation.mt_bench import JUDGE_MAX_TOKENS, JUDGE_MODEL

BENCHMARKS = ("alpaca_eval", "mt_bench")


def _option(text: str, default: Any = None) -> Any:
    """Make a field with its default and its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class EvaluationArguments:
    """Options of all steps."""

    title: ClassVar[str] = "all steps"

    output_dir: str = _option("Directory of all runs.", "outputs/evaluation")
    benchmarks: list[str] = field(
        default_factory=lambda: list(BENCHMARKS), metadata={"help": "alpaca_eval, mt_bench, or both."}
    )
    alpaca_eval_dir: str | None = _option("Directory with the official alpaca_eval.json files. Default: the hub.")
    mt_bench_dir: str | None = _option(
        "Directory with the official question.jsonl and reference_answer/gpt-4.jsonl. Default: the hub."
    )

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            check_choice("benchmarks", name, BENCHMARKS)


@dataclass
class GenerateArguments:
    """Options of the step `generate`."""

    title: ClassVar[str] = "the model that answers"

    model_name_or_path: str | None = _option("Tuned model, or an adapter alone: hub name or local directory.")
    adapter_name_or_path: str | None = _option("Adapter to put on the model: hub name or local directory.")
    name: str | None = _option("Unique name of this run: AlpacaEval's generator, MT-Bench's model.")
    template: str = _option(
        "Template that the model was tuned with: chat, plain, nuggets; auto: chat if the tokenizer has a chat "
        "template, else plain.",
        "auto",
    )
    batch_size: int = _option("Prompts in one forward pass.", 16)
    max_new_tokens: int | None = _option("Longest answer, in tokens. Default: 2048 for AlpacaEval, 1024 for MT-Bench.")
    temperature: float = _option("Temperature of the answers to AlpacaEval; MT-Bench sets its own by category.", 0.0)
    seed: int = _option("Seed of sampled answers.", 0)
    model_revision: str = _option("Branch, tag or commit of the model.", "main")
    dtype: str = _option("Dtype of the weights: auto, bfloat16, float16, float32.", "auto")
    attn_implementation: str | None = _option("Attention implementation, such as sdpa.")
    trust_remote_code: bool = _option("Run code that comes with the model.", False)

    def __post_init__(self) -> None:
        check_choice("template", self.template, TEMPLATES)
        check_choice("dtype", self.dtype, SCORE_DTYPES)
        check_int("batch_size", self.batch_size, 1)
        if self.max_new_tokens is not None:
            check_int("max_new_tokens", self.max_new_tokens, 1)
        if self.temperature < 0:
            raise ValueError(f"`temperature` must be at least 0, got {self.temperature}.")


@dataclass
class TableArguments:
    """Options of the step `table`, which sends no request."""

    title: ClassVar[str] = "the judge"

    judge_model: str | None = _option(
        f"Name of the judge at the endpoint. Default, the official judges: {JUDGE_MODELS['v1']} (v1) or "
        f"{JUDGE_MODELS['v2']} (v2) for AlpacaEval, {JUDGE_MODEL} for MT-Bench."
    )
    alpaca_eval_setting: str = _option("AlpacaEval's setting: v1 (as in the paper) or v2 (length-controlled).", "v1")

    def __post_init__(self) -> None:
        check_choice("alpaca_eval_setting", self.alpaca_eval_setting, tuple(JUDGE_MODELS))

    @property
    def alpaca_judge(self) -> str:
        """Return the name of AlpacaEval's judge."""
        return self.judge_model or JUDGE_MODELS[self.alpaca_eval_setting]

    @property
    def mt_bench_judge(self) -> str:
        """Return the name of MT-Bench's judge, which is also the pairwise one."""
        return self.judge_model or JUDGE_MODEL


@dataclass
class JudgeArguments(TableArguments):
    """Options of the steps `judge` and `pairwise`."""

    title: ClassVar[str] = "runs and how they are judged"

    names: list[str] = field(default_factory=list, metadata={"help": "Runs to judge; two of them for `pairwise`."})
    judge_prompts: str | None = _option(
        "MT-Bench's official judge_prompts.jsonl. Default: in `mt_bench_dir` or beside it."
    )
    num_questions: int | None = _option("Judge only the first questions of each benchmark, as a trial.")
    max_judge_tokens: int = _option(
        "Longest judgment of MT-Bench and `pairwise`, in tokens; a judge with a small context needs less.",
        JUDGE_MAX_TOKENS,
    )
    base_url: str | None = _option("OpenAI-compatible endpoint, such as http://localhost:8000/v1. Default: OpenAI.")
    api_key_env: str = _option("Environment variable that holds the key of the endpoint.", "OPENAI_API_KEY")
    max_cost: float | None = _option("Most dollars to spend on all judging in `output_dir`. Default: no limit.")
    prompt_price: float | None = _option("Dollars per million prompt tokens.")
    completion_price: float | None = _option("Dollars per million completion tokens.")
    max_retries: int = _option("Retries of one request, with growing pauses.", 8)
    timeout: float = _option("Seconds to wait for one request.", 600.0)
    concurrency: int = _option("Requests that are sent at the same time.", 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)

    def endpoint(self) -> Endpoint:
        """Make the endpoint; refuse a cost limit without prices."""
        return Endpoint(
            self.base_url,
            self.api_key_env,
            self.max_cost,
            self.prompt_price,
            self.completion_price,
            self.max_retries,
            self.timeout,
            self.concurrency,
        )
