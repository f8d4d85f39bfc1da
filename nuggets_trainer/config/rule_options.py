"""Options of the ranking, and of the rule: a fraction of the rows, a number of rows, a threshold or a token budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_choice, check_int, check_number, check_string
from nuggets_trainer.config.option_group import OptionGroup
from nuggets_trainer.config.requirement import Requirement

RULES = ("top_fraction", "top_k", "threshold", "max_tokens")
RANK_BY = ("golden_score", "gain", "mean_gain")
# Signals of one row: no pair is scored.
RANK_BY_SIGNALS = ("loss", "ifd", "similarity", "similarity_turn", "ica", "num_tokens")
# Cherry LLM takes the highest IFD up to 1: above it, a prompt makes its own completion less likely.
MOST_IFD = "ifd <= 1"
DEFAULT_TOP_FRACTION = 0.1  # near the paper's best region on Alpaca, 10 to 14%


@dataclass
class RuleOptions(OptionGroup):
    """The value that rows are ranked by, and the selection rule. At most one rule is given."""

    title: ClassVar[str] = "which rows are kept (one rule)"

    top_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Keep this fraction of the candidates that can be scored, in (0, 1]. Default rule: 0.1. (The "
            "paper's best region, a golden score above 0.8, is 10 to 14%% of Alpaca.)"
        },
    )
    top_k: int | None = field(default=None, metadata={"help": "Keep exactly this many candidates."})
    threshold: float | None = field(
        default=None,
        metadata={
            "help": "Keep every candidate whose value of `rank_by` is strictly above this one (below it, if `rank_by` "
            "is `loss` or `similarity_turn`): a golden score in [0, 1), or any number for the other values. Prefer a "
            "fraction: the same golden score keeps 1%% of one pool and 33%% of another."
        },
    )
    max_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Keep the best candidates until the next one would pass this number of tokens. Tokens of prompt "
            "and completion count, as the template and the scorer's tokenizer write the row alone. The number must "
            "not be below that of the longest candidate. scores.parquet then has the column `total_tokens`."
        },
    )
    rank_by: str = field(
        default="golden_score",
        metadata={
            "help": "Number to rank rows by. `golden_score`: the share of anchors that a row makes more likely, as in "
            "the paper. `gain`: how much more likely it makes them on average, each anchor measured in deviations of "
            "its gains; the same anchors give a more reliable order, so use it if anchors are few or the scorer is "
            "small. `mean_gain`: the same in nats per token, where anchors whose gains vary much weigh more. For the "
            "two gains `schedule: race` finds most of the golden set, see `race_recall`. A signal of the row by "
            "itself is a cheap baseline: the lowest `loss`, the highest `ifd` up to 1 (Cherry LLM), the highest mean "
            "`similarity` to the anchors, the lowest `similarity_turn` (RDS+: each anchor in turn takes the row most "
            "similar to it that is not taken yet), the highest `ica`, the highest `num_tokens`. "
            "A run that ranks by a signal scores no pair and takes two short forward passes a row (`ica`: one more); "
            "only `similarity`, `similarity_turn` and `ica` need anchors.",
            "choices": [*RANK_BY, *RANK_BY_SIGNALS],
        },
    )
    require: str | None = field(
        default=None,
        metadata={
            "help": "Condition that a row has to meet, to be in the golden set: comparisons of columns and numbers, "
            'joined by `and`, `or`, `not` and brackets, such as "ifd < 0.98 and num_tokens >= 5". `p0` to `p100` is a '
            'percentile of the signal that it is compared with, over all rows that have a value: "loss < p50" drops '
            "the half with the higher loss. Columns: `loss`, "
            "`loss_without_prompt`, `ifd`, `similarity`, `similarity_turn`, `num_tokens` (two short forward passes a "
            "row give them), `ica` (one pass more), `repetition` (share of the completion that repeats what it said "
            "before, by its text alone), `total_tokens` (prompt and completion), and the scores, such as "
            "`golden_score` and `mean_gain`. A row without a value in a column that is named does not meet it. "
            "`top_fraction` counts the rows that do. Default: no condition."
        },
    )

    @property
    def requirement(self) -> Requirement | None:
        """The condition of `require`, parsed, and that of a ranking by IFD; None without one."""
        conditions = []
        if self.require is not None:
            conditions.append(self.require)
        if self.rank_by == "ifd":
            conditions.append(MOST_IFD)
        if not conditions:
            return None
        if len(conditions) == 1:
            return Requirement(conditions[0])
        return Requirement(f"({conditions[0]}) and {conditions[1]}")

    @property
    def selection_rule(self) -> tuple[str, float]:
        """Name and value of the one rule in force."""
        if self.top_k is not None:
            return "top_k", self.top_k
        if self.threshold is not None:
            return "threshold", self.threshold
        if self.max_tokens is not None:
            return "max_tokens", self.max_tokens
        return "top_fraction", DEFAULT_TOP_FRACTION if self.top_fraction is None else self.top_fraction

    def check(self) -> None:
        """Refuse two rules at once, and values outside their range."""
        check_string("require", self.require)
        if self.requirement is not None:
            self.requirement.check_names()
        check_choice("rank_by", self.rank_by, (*RANK_BY, *RANK_BY_SIGNALS))
        given = [f"`{name}={getattr(self, name)}`" for name in RULES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"Expected one selection rule, got {' and '.join(given)}. Keep one and drop the others.")
        if self.top_fraction is not None:
            check_number("top_fraction", self.top_fraction)
            if not 0 < self.top_fraction <= 1:
                raise ValueError(
                    f"`top_fraction` must be in (0, 1], got {self.top_fraction}. Write 0.1 for 10%; use `top_k` for a "
                    "number of rows."
                )
        if self.top_k is not None:
            check_int("top_k", self.top_k, minimum=1)
        if self.threshold is not None:
            self._check_threshold(self.threshold)
        if self.max_tokens is not None:
            check_int("max_tokens", self.max_tokens, minimum=1)

    def _check_threshold(self, threshold: float) -> None:
        check_number("threshold", threshold)
        if self.rank_by != "golden_score":
            if not math.isfinite(threshold):
                raise ValueError(f"`threshold` must be a finite number, got {threshold}.")
        elif not 0 <= threshold < 1:
            raise ValueError(
                f"`threshold` must be in [0, 1), got {threshold}: a golden score is a share of anchors, and the rule "
                "keeps scores strictly above it."
            )
