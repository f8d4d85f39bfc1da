"""The selection rule: a fraction of the rows, a number of rows, or a threshold on the golden score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_int, check_number
from nuggets_trainer.config.option_group import OptionGroup

DEFAULT_TOP_FRACTION = 0.1  # near the paper's best region on Alpaca, 10 to 14%


@dataclass
class RuleOptions(OptionGroup):
    """The selection rule. At most one of its options is given."""

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
            "help": "Keep every candidate with a golden score strictly above this value, in [0, 1). Prefer a "
            "fraction: the same value keeps 1%% of one pool and 33%% of another."
        },
    )

    @property
    def selection_rule(self) -> tuple[str, float]:
        """Name and value of the one rule in force."""
        if self.top_k is not None:
            return "top_k", self.top_k
        if self.threshold is not None:
            return "threshold", self.threshold
        return "top_fraction", DEFAULT_TOP_FRACTION if self.top_fraction is None else self.top_fraction

    def check(self) -> None:
        """Refuse two rules at once, and values outside their range."""
        values = {"top_fraction": self.top_fraction, "top_k": self.top_k, "threshold": self.threshold}
        given = [f"`{name}={value}`" for name, value in values.items() if value is not None]
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
            check_number("threshold", self.threshold)
            if not 0 <= self.threshold < 1:
                raise ValueError(
                    f"`threshold` must be in [0, 1), got {self.threshold}: a golden score is a share of anchors, and "
                    "the rule keeps scores strictly above it."
                )
