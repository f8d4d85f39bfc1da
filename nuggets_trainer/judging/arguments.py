"""The options of `nuggets evaluate` that say which judge is asked, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_choice, check_int
from nuggets_trainer.evaluation.arguments import option
from nuggets_trainer.judging.alpaca_eval import JUDGE_MODELS
from nuggets_trainer.judging.judge import Endpoint
from nuggets_trainer.judging.mt_bench import JUDGE_MAX_TOKENS, JUDGE_MODEL


@dataclass
class TableArguments:
    """Options of the step `table`, which sends no request."""

    title: ClassVar[str] = "the judge"

    judge_model: str | None = option(
        f"Name of the judge at the endpoint. Default, the official judges: {JUDGE_MODELS['v1']} (v1) or "
        f"{JUDGE_MODELS['v2']} (v2) for AlpacaEval, {JUDGE_MODEL} for MT-Bench."
    )
    alpaca_eval_setting: str = option("AlpacaEval's setting: v1 (as in the paper) or v2 (length-controlled).", "v1")

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
    judge_prompts: str | None = option(
        "MT-Bench's official judge_prompts.jsonl. Default: in `mt_bench_dir` or beside it."
    )
    num_questions: int | None = option("Judge only the first questions of each benchmark, as a trial.")
    max_judge_tokens: int = option(
        "Longest judgment of MT-Bench and `pairwise`, in tokens; a judge with a small context needs less.",
        JUDGE_MAX_TOKENS,
    )
    base_url: str | None = option("OpenAI-compatible endpoint, such as http://localhost:8000/v1. Default: OpenAI.")
    api_key_env: str = option("Environment variable that holds the key of the endpoint.", "OPENAI_API_KEY")
    max_cost: float | None = option("Most dollars to spend on all judging in `output_dir`. Default: no limit.")
    prompt_price: float | None = option("Dollars per million prompt tokens.")
    completion_price: float | None = option("Dollars per million completion tokens.")
    max_retries: int = option("Retries of one request, with growing pauses.", 8)
    timeout: float = option("Seconds to wait for one request.", 600.0)
    concurrency: int = option("Requests that are sent at the same time.", 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_questions is not None:
            check_int("num_questions", self.num_questions, 1)

    def endpoint(self) -> Endpoint:
        """Make the endpoint; refuse a cost limit without prices."""
        return Endpoint(
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            max_cost=self.max_cost,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
            max_retries=self.max_retries,
            timeout=self.timeout,
            concurrency=self.concurrency,
        )
