"""What shapes a golden set besides the golden score: coverage, quotas of groups, repeated prompts, near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_choice, check_int, check_number, check_string
from nuggets_trainer.config.option_group import OptionGroup

# Options under which a golden set is not the beginning of a ranking.
BEYOND_RANKING = ("coverage_weight", "group_by", "max_rows_per_prompt", "max_similarity")
GROUP_QUOTAS = ("proportional", "equal")
COMPLETION_TOKENS = "num_tokens"  # the `group_by` that makes classes of length, and the column that has it


@dataclass
class DiversityOptions(OptionGroup):
    """Options that make the golden set something else than a ranking by golden score."""

    title: ClassVar[str] = "beyond the ranking (every pair is scored)"

    coverage_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of covering all anchors against the golden scores, in (0, 1]. Rows are added one by one, "
            "so that together they help all anchors; the best rows by golden score may all help the same ones. "
            "Default: a ranking by golden score."
        },
    )
    group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column of the pool, such as its source, whose values get quotas of the golden set. `num_tokens` "
            "makes 10 classes by the length of the completion, from the shortest tenth of the candidates to the "
            "longest, and takes the best rows of each: the golden set then has the lengths of the pool."
        },
    )
    group_quota: str = field(
        default="proportional",
        metadata={
            "help": "Share of the golden set that each group of `group_by` gets: `proportional` to its candidates, or "
            "`equal` for all groups. What a group cannot fill goes to the others.",
            "choices": list(GROUP_QUOTAS),
        },
    )
    max_rows_per_prompt: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of kept rows with the same prompt, for pools with several answers to each prompt: "
            "1 keeps the best answer alone. The next rows of other prompts take the places. The prompt is all before "
            "the last answer, with its system message; case and white space make no difference. Default: any number."
        },
    )
    max_similarity: float | None = field(
        default=None,
        metadata={
            "help": "Highest cosine between the embeddings of two kept rows, in [-1, 1): a row that is closer to one "
            "kept before it is passed over. Near-duplicates start at 0.95 to 0.99, depending on the model (an "
            "embedding is the mean of the scorer model's last hidden states). Default: no row is passed over."
        },
    )

    @property
    def groups_by_length(self) -> bool:
        """Whether the groups are classes of the completion's length."""
        return self.group_by == COMPLETION_TOKENS

    def check(self) -> None:
        """Refuse values outside their range, and a quota without groups."""
        if self.coverage_weight is not None:
            check_number("coverage_weight", self.coverage_weight)
            if not 0 < self.coverage_weight <= 1:
                raise ValueError(
                    f"`coverage_weight` must be in (0, 1], got {self.coverage_weight}. Leave it out to rank by golden "
                    "score."
                )
        if self.max_similarity is not None:
            check_number("max_similarity", self.max_similarity)
            if not -1 <= self.max_similarity < 1:
                raise ValueError(
                    f"`max_similarity` must be in [-1, 1), got {self.max_similarity}: it is a cosine. Leave it out to "
                    "keep near-duplicates."
                )
        if self.max_rows_per_prompt is not None:
            check_int("max_rows_per_prompt", self.max_rows_per_prompt, minimum=1)
        check_string("group_by", self.group_by)
        check_choice("group_quota", self.group_quota, GROUP_QUOTAS)
        if self.group_quota != "proportional" and self.group_by is None:
            raise ValueError(
                f"`group_quota={self.group_quota!r}` needs groups, but no column gives them. Name the column with "
                "`group_by`, or leave `group_quota` out."
            )
