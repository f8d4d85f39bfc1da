"""Options of `recipes/evaluate.py`, which a YAML file may hold for all its steps. Knows names and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nuggets_trainer.config.checks import check_choice, check_int
from nuggets_trainer.evaluation.alpaca_eval import JUDGE_MODELS
from nuggets_trainer.evaluation.judge import Endpoint
from nuggets_trainer.evaluation.mt_bench import JUDGE_MAX_TOKENS, JUDGE_MODEL

BENCHMARKS = ("alpaca_eval", "mt_bench")


def option(text: str, default: Any = None) -> Any:
    """Give a field with its default and its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class EvaluationArguments:
    """What all steps share."""

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
    """The step `generate`."""

    model_name_or_path: str | None = option("Tuned model, or an adapter alone: hub name or local directory.")
    adapter_name_or_path: str | None = option("Adapter to put on it.")
    name: str | None = option("Unique name of this run: AlpacaEval's generator, MT-Bench's model.")
    template: str = option("How the model was tuned: chat, plain, nuggets; auto: chat with a chat template.", "auto")
    batch_size: int = option("Prompts in one forward pass.", 16)
    max_new_tokens: int | None = option("Longest answer, in tokens. Default: 2048 for AlpacaEval, 1024 for MT-Bench.")
    temperature: float = option("Of AlpacaEval's answers; MT-Bench's are set by category.", 0.0)
    seed: int = option("Of sampled answers.", 0)
    model_revision: str = option("Branch, tag or commit of the model.", "main")
    dtype: str = option("Dtype of the weights: auto, bfloat16, float16, float32.", "auto")
    attn_implementation: str | None = option("Attention implementation, e.g. sdpa.")
    trust_remote_code: bool = option("Run code that comes with the model.", False)

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, 1)
        if self.max_new_tokens is not None:
            check_int("max_new_tokens", self.max_new_tokens, 1)
        if self.temperature < 0:
            raise ValueError(f"`temperature` must be at least 0, got {self.temperature}.")


@dataclass
class JudgeArguments:
    """The judge of the steps `judge`, `pairwise` and `table`."""

    names: list[str] = field(default_factory=list, metadata={"help": "Runs to judge; two of them for `pairwise`."})
    judge_model: str | None = option(
        f"The judge's name at the endpoint. Default, the official ones: {JUDGE_MODELS['v1']} (v1) or "
        f"{JUDGE_MODELS['v2']} (v2) for AlpacaEval, {JUDGE_MODEL} for MT-Bench."
    )
    alpaca_eval_setting: str = option("v1 (the paper's) or v2 (length-controlled).", "v1")
    judge_prompts: str | None = option("MT-Bench's official judge_prompts.jsonl. Default: beside `mt_bench_dir`.")
    num_questions: int | None = option("Judge the first questions of each benchmark alone, as a trial.")
    max_judge_tokens: int = option(
        "Longest judgment of MT-Bench and `pairwise`; less for a judge with a small context.", JUDGE_MAX_TOKENS
    )
    base_url: str | None = option("OpenAI-compatible endpoint, such as http://localhost:8000/v1. Default: OpenAI.")
    api_key_env: str = option("Environment variable with the endpoint's key.", "OPENAI_API_KEY")
    max_cost: float | None = option("Never spend more than this on all judging in `output_dir`, in dollars.")
    prompt_price: float | None = option("Dollars per million tokens asked.")
    completion_price: float | None = option("Dollars per million tokens replied.")
    max_retries: int = option("Retries of one request, after growing pauses.", 8)
    timeout: float = option("Seconds for one request.", 600.0)
    concurrency: int = option("Requests on their way at once.", 4)

    def __post_init__(self) -> None:
        check_choice("alpaca_eval_setting", self.alpaca_eval_setting, tuple(JUDGE_MODELS))
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)

    @property
    def alpaca_judge(self) -> str:
        """Name of AlpacaEval's judge."""
        return self.judge_model or JUDGE_MODELS[self.alpaca_eval_setting]

    @property
    def mt_bench_judge(self) -> str:
        """Name of MT-Bench's judge, and of the pairwise one."""
        return self.judge_model or JUDGE_MODEL

    def endpoint(self) -> Endpoint:
        """Where the judge is asked; refuses a cap without prices."""
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
