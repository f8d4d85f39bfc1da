"""Which pairs are scored, how precisely, in what portions, and where the scores go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_bool, check_choice, check_int, check_number, check_string
from nuggets_trainer.config.option_group import OptionGroup

SCHEDULES = ("auto", "race", "exact")
SCORE_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class ScoringOptions(OptionGroup):
    """How the pairs are scored."""

    title: ClassVar[str] = "scoring: which pairs, how precise, where scores go"

    schedule: str = field(
        default="auto",
        metadata={
            "help": "Pairs to score. `exact`: every pair, so that each row gets a golden score. `race`: the same "
            "golden set for fewer pairs; a candidate stops as soon as it cannot be selected any more, and gets a "
            "bound instead of a golden score. A race for gains stops a candidate when more anchors would hardly "
            "change whether it is selected, finds most of the golden set, see `race_recall`, and predicts the scores "
            "of the rows that it stopped. `auto`: `exact` where the golden set is not the beginning of a ranking "
            "(`coverage_weight`, `group_by`, `max_rows_per_prompt`, `max_similarity`) or there are several anchor "
            "sets, else `race`.",
            "choices": list(SCHEDULES),
        },
    )
    race_recall: float = field(
        default=0.75,
        metadata={
            "help": "Share of the golden set that a race for gains (`rank_by` is `gain` or `mean_gain`) must find, by "
            "expectation, in (0, 1). A row counts as found if scoring every pair would keep it, or if it is so close "
            "to the last row kept that other anchors could as well choose it. With 0.75 the golden score on unseen "
            "anchors stays within 2%% of that of scoring every pair. The share is a mean over pools. To find every "
            "row, use `schedule: exact`. A race by golden score finds every row anyway and does not read this."
        },
    )
    signal_check: bool | None = field(
        default=None,
        metadata={
            "help": "Check after the pilot that the scorer ranks 40 candidates above corrupted copies of themselves "
            "(words shuffled, completion of another row), and warn if it does not. Default: as many candidates and "
            "anchors as cost at most 5%% of all pairs (40 candidates on all anchors from 1,600 rows on, 40 on 25 of "
            "100 anchors with 400 rows, none with 60), but no check when rows are chosen again during training."
        },
    )
    stop_if_unreliable: bool = field(
        default=False,
        metadata={
            "help": "End after the pilot, with exit code 3, if the early look says that the scores would not be worth "
            "their price: all rows tie, more than half of the anchors decide nothing, the reliability is below 0.3, "
            "or the signal check fails. What was scored is stored. Training only warns."
        },
    )
    require_recall: float | None = field(
        default=None,
        metadata={
            "help": "Share of the golden set that must meet `require`, in (0, 1]. Before the rest is scored, random "
            "rows are drawn from all candidates, also from those that fail the condition, and scored on all anchors. "
            "The share of the best of them that meets the condition is printed with its 95%% interval. If the share "
            "itself, not the interval, is below this value, the run ends there, with exit code 3. What was scored is "
            "stored. Training only warns. "
            "It needs a condition on signals, and `top_fraction`, `top_k` or `max_tokens`. The number of random rows "
            "is 30 to 100 divided by the fraction that the rule keeps. Default: the share is not measured."
        },
    )
    row_signals: bool = field(
        default=False,
        metadata={
            "help": "Compute what the model says of each row by itself, as columns of scores.parquet: `loss` behind "
            "its prompt, `loss_without_prompt`, `ifd` (the first divided by the second), `similarity` to the anchors, "
            "`similarity_turn` (RDS+), `num_tokens` of the completion, `total_tokens` with the prompt. It takes two "
            "short forward passes a row. Without it, they are computed if `require` or `rank_by` names one of them."
        },
    )
    ica: bool = field(
        default=False,
        metadata={
            "help": "Compute `ica` too, as a column of scores.parquet: how much likelier the row's completion becomes "
            "with anchors before it, in nats per token (the score of In-Context Approximation, arXiv 2510.14459). Up "
            "to 16 anchors drawn at random stand before each row, in several contexts where the model's context is "
            "too small for all. It takes one pass over each row and context, and computes the other row signals as "
            "well. Without it, it is computed if `require` names it."
        },
    )
    score_dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the scoring forward passes; stored scores of another precision are not reused. "
            "`auto`: the training precision (bfloat16 with `bf16: true`), else the dtype of the weights. bfloat16 "
            "changes 0.5 to 6%% of the wins against float32.",
            "choices": list(SCORE_DTYPES),
        },
    )
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of one scoring forward pass, padding included; scores do not depend on it. Default: "
            "1,024 on a CPU; on CUDA what fits 60%% of the free memory, at most 16,384. It is halved when memory runs "
            "out."
        },
    )
    score_dir: str | None = field(
        default=None,
        metadata={
            "help": "Directory of stored pairs and results (scores.parquet, anchors.parquet, pairs.parquet), or a URL "
            "that fsspec knows, such as s3://bucket/scores. All processes must share it. Default in training: "
            "`<output_dir>/nuggets`."
        },
    )

    def check(self) -> None:
        """Refuse values outside their range."""
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("race_recall", self.race_recall)
        if not 0 < self.race_recall < 1:
            raise ValueError(
                f"`race_recall` must be above 0 and below 1, got {self.race_recall}. To find the whole golden set, "
                "use `schedule: exact`."
            )
        check_bool("signal_check", self.signal_check, optional=True)
        check_bool("row_signals", self.row_signals, optional=False)
        check_bool("ica", self.ica, optional=False)
        check_bool("stop_if_unreliable", self.stop_if_unreliable, optional=False)
        if self.require_recall is not None:
            check_number("require_recall", self.require_recall)
            if not 0 < self.require_recall <= 1:
                raise ValueError(
                    f"`require_recall` must be a share of the golden set in (0, 1], got {self.require_recall}. Write "
                    "0.9 for 90%."
                )
        check_choice("score_dtype", self.score_dtype, SCORE_DTYPES)
        if self.tokens_per_batch is not None:
            check_int("tokens_per_batch", self.tokens_per_batch, minimum=1)
        check_string("score_dir", self.score_dir)
