"""`NuggetsConfig`: every option of selection, put together from its groups."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from nuggets_trainer.config.anchor_options import AUTO, AnchorOptions
from nuggets_trainer.config.diversity_options import BEYOND_RANKING, DiversityOptions
from nuggets_trainer.config.prompt_options import PromptOptions
from nuggets_trainer.config.removed import explain_removed
from nuggets_trainer.config.requirement import MODEL_SIGNALS, TOTAL_TOKENS
from nuggets_trainer.config.row_options import OverlapOptions
from nuggets_trainer.config.rule_options import RANK_BY_SIGNALS, RuleOptions
from nuggets_trainer.config.scorer_model_options import ScorerModelOptions
from nuggets_trainer.config.scoring_options import ScoringOptions
from nuggets_trainer.config.training_options import TrainingOptions


@explain_removed
@dataclass
class NuggetsConfig(
    # A dataclass takes the fields of its last base first: read this list from below.
    TrainingOptions,
    ScorerModelOptions,
    ScoringOptions,
    PromptOptions,
    AnchorOptions,
    OverlapOptions,
    DiversityOptions,
    RuleOptions,
):
    """How a pool is scored and which part of it is kept (Nuggets, arXiv 2312.10302).

    One selection rule is used: `top_fraction`, `top_k`, `threshold` or `max_tokens`; with none given, the top
    10% are kept. The golden score of a candidate is the share of anchors whose one-shot log-prob
    (the candidate shown before the anchor) is above their zero-shot log-prob.

    Raises:
        ValueError, TypeError: for a value outside its range, for options that exclude each other, and for an option
            that was removed.

    Example:
        >>> NuggetsConfig(top_fraction=0.05).selection_rule
        ('top_fraction', 0.05)
        >>> NuggetsConfig().selection_rule
        ('top_fraction', 0.1)
    """

    def __post_init__(self) -> None:
        # As transformers does for `output_dir`.
        if isinstance(self.score_dir, str):
            self.score_dir = os.path.expanduser(self.score_dir)  # noqa: PTH111 - a `Path` would spoil URLs
        if isinstance(self.num_anchors, str) and self.num_anchors.isdecimal():  # the command line gives it as text
            self.num_anchors = int(self.num_anchors)
        super().__post_init__()
        self._check_groups_together()

    @property
    def every_pair_for(self) -> list[str]:
        """Options in force under which a golden set depends on all gains, so that no race can find it."""
        names = [name for name in BEYOND_RANKING if getattr(self, name) is not None]
        requirement = self.requirement
        if requirement is not None and requirement.needs_scores:
            names.append("require")  # of scores, which a race leaves out
        sets = self.anchor_sets
        if sets is not None and len(sets) > 1:
            names.append("several anchor sets")
        return names

    @property
    def wants_row_signals(self) -> bool:
        """Whether the signals of each row by itself that take forward passes are computed."""
        return self.row_signals or self.ica or any(name in MODEL_SIGNALS for name in self._signals_read)

    @property
    def wants_similarity_turn(self) -> bool:
        """Whether anchors choose rows in turn, for which the store keeps the cosine of each row to each anchor."""
        return self.row_signals or "similarity_turn" in self._signals_read

    @property
    def wants_total_tokens(self) -> bool:
        """Whether the tokens of each row are counted, prompt and completion together."""
        return self.max_tokens is not None or self.row_signals or TOTAL_TOKENS in self._signals_read

    @property
    def wants_ica(self) -> bool:
        """Whether each row is also scored after anchors."""
        return self.ica or "ica" in self._signals_read

    @property
    def scores_pairs(self) -> bool:
        """Whether pairs are scored: a ranking by a signal of each row needs none."""
        return self.rank_by not in RANK_BY_SIGNALS

    @property
    def needs_anchors(self) -> bool:
        """Whether something is measured on anchors."""
        signals = {"similarity", "similarity_turn", "ica"}.intersection(self._signals_read)
        return self.scores_pairs or self.row_signals or self.ica or bool(signals)

    @property
    def _signals_read(self) -> tuple[str, ...]:
        """Columns that the condition names, and the signal that `rank_by` names."""
        requirement = self.requirement
        names = () if requirement is None else requirement.columns
        return names if self.scores_pairs else (self.rank_by, *names)

    @property
    def schedule_in_force(self) -> str:
        """`race` or `exact`, or `none` if no pair is scored."""
        if not self.scores_pairs:
            return "none"
        if self.schedule != "auto":
            return self.schedule
        return "exact" if self.every_pair_for else "race"

    @property
    def why_every_pair(self) -> str | None:
        """Sentence that names the options for which every pair is scored; None if a race is possible."""
        if not self.scores_pairs or not self.every_pair_for:
            return None
        options = " and ".join(f"`{name}`" for name in self.every_pair_for)
        return f"every pair is scored, because with {options} the golden set depends on all of them"

    def with_top_k(self, top_k: int) -> NuggetsConfig:
        """Return the same options with the rule `top_k`."""
        return dataclasses.replace(self, top_fraction=None, threshold=None, max_tokens=None, top_k=top_k)

    def _check_groups_together(self) -> None:
        for name in ("coverage_weight", "group_by"):
            if self.threshold is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` chooses which rows fill the golden set, but `threshold={self.threshold}` takes every "
                    "row above it. Use `top_fraction` or `top_k`."
                )
        if self.max_tokens is not None and self.coverage_weight is not None:
            raise ValueError(
                f"`coverage_weight` needs a fixed number of rows, but `max_tokens={self.max_tokens}` does not give "
                "one. Use `top_k` (`nuggets plan` estimates how many rows fit into the budget), or drop "
                "`coverage_weight`."
            )
        if self.schedule == "race" and self.every_pair_for:
            raise ValueError(
                f"A race leaves out pairs, but with {' and '.join(self.every_pair_for)} the golden set depends on all "
                "of them. Leave `schedule` at `auto`."
            )
        if not self.scores_pairs:
            self._check_without_pairs()
        if self.require_recall is not None:
            self._check_require_recall()
        if self.reselect != "no" and self.scorer_model is not None:
            raise ValueError(
                "`reselect` scores with the model that is being tuned, but `scorer_model` scores with another one, "
                "whose scores never change. Drop one of the two."
            )

    def _check_require_recall(self) -> None:
        """Refuse options under which the share of the golden set that meets the condition is not measured.

        Raises:
            ValueError: if such an option is set, or if there is no condition.
        """
        option, requirement = f"`require_recall={self.require_recall}`", self.requirement
        if requirement is None:
            raise ValueError(
                f"{option} measures how much of the golden set meets the condition `require`, but there is none. Give "
                "a condition, or leave `require_recall` out."
            )
        if requirement.needs_scores:
            raise ValueError(
                f"{option} measures a condition on signals, but `require={self.require!r}` names scores, which are "
                "known only when all pairs are scored. Leave `require_recall` out."
            )
        if self.threshold is not None:
            raise ValueError(
                f"{option} needs a rule that gives the size of the golden set, but `threshold={self.threshold}` does "
                "not: nobody knows how many random rows would show enough of it. Use `top_fraction` or `top_k`."
            )
        for name in BEYOND_RANKING:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{option} looks at the best rows by `{self.rank_by}`, but with `{name}={getattr(self, name)}` "
                    "the golden set has other rows too. Leave out one of the two."
                )
        if self.reselect != "no":
            raise ValueError(
                f"{option} is measured once, but with `reselect={self.reselect}` the condition is applied again with "
                "later models. Leave `require_recall` out."
            )

    def _check_without_pairs(self) -> None:
        """Refuse options that need scored pairs, because a ranking by a signal scores none.

        Raises:
            ValueError: if such an option or `reselect` is set.
        """
        requirement = self.requirement
        needs_pairs = {
            f"coverage_weight={self.coverage_weight}": self.coverage_weight is not None,
            f"schedule={self.schedule}": self.schedule != "auto",
            f"num_anchors={AUTO}": self.num_anchors == AUTO,
            f"combine_anchor_sets={self.combine_anchor_sets}": self.combine_anchor_sets != "mean",
            "signal_check=True": bool(self.signal_check),
            "stop_if_unreliable=True": self.stop_if_unreliable,
            f"require_recall={self.require_recall}": self.require_recall is not None,
            f"require={self.require!r}": requirement is not None and requirement.needs_scores,
        }
        for option, is_given in needs_pairs.items():
            if is_given:
                raise ValueError(
                    f"`{option}` needs scored pairs, but `rank_by={self.rank_by}` is a signal of each row, and no "
                    "pair is scored. Leave it out, or rank by `golden_score` or a gain."
                )
        if self.reselect != "no":
            raise ValueError(
                f"`reselect={self.reselect}` does not work with `rank_by={self.rank_by}`: the model that is being "
                "tuned would prefer the rows that it was tuned on, and choose them again. Rank by `golden_score` or a "
                "gain, or leave `reselect` out."
            )
