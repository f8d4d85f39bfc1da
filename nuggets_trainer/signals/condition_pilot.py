"""How much of the golden set a condition on signals would throw away, measured before the rest is scored.

Random rows are drawn from all candidates, also from those that fail the condition, and scored on all anchors into the
store. The run itself finds these pairs there.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.golden.condition_recall import ConditionRecall, recall_of_condition, rows_to_score
from nuggets_trainer.scoring.blocks import distinct
from nuggets_trainer.scoring.collect import collect
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.scoring.rendering import Candidates, Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.signals.row_signals import Signals
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]


class LowRecallError(RuntimeError):
    """The condition `require` keeps less of the golden set than `require_recall` asks for.

    Attributes:
        exit_code: exit code of the command line, that of a run which an early look has stopped.
    """

    exit_code = 3


@dataclass(frozen=True)
class ConditionPilot:
    """What the random rows have shown; on all ranks.

    Attributes:
        found: the share of their golden set that meets the condition.
        condition: the condition, with the values of its percentiles.
        share_met: share of all candidates that meets the condition.
        asked: share that `require_recall` asks for.
        num_pairs: number of pairs that all ranks have computed for it.
    """

    found: ConditionRecall
    condition: str
    share_met: float
    asked: float
    num_pairs: int

    @property
    def is_low(self) -> bool:
        """Whether the share is below what was asked for.

        The share itself decides, and not the lower end of its interval: 30 of 30 rows have a lower end of 0.89, so a
        condition that loses nothing would be refused.
        """
        return self.found.recall < self.asked

    def describe(self) -> str:
        """Return what was found, in one sentence."""
        found = self.found
        spread = f"95% interval {found.low:.0%} to {found.high:.0%}"
        if found.low == found.high:
            spread = "exact, because all rows were scored"
        return (
            f"{found.num_met:,} of the {found.num_golden:,} best of {found.num_rows:,} random rows meet "
            f"{self.condition}: it keeps about {found.recall:.0%} of the golden set ({spread}) and "
            f"{self.share_met:.0%} of the rows."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        found = dataclasses.asdict(self.found)
        shares = {"asked": self.asked, "recall": self.found.recall, "share_met": self.share_met}
        return {**shares, **found, "says": self.describe()}


def fraction_kept(config: NuggetsConfig, rows: Candidates, signals: Signals, factor: float = 1.0) -> float:
    """Return which share of all candidates the rule would keep without the condition.

    Args:
        config: options of the user; a threshold is refused beforehand.
        rows: all candidates, or those of a sample.
        signals: signals of the candidates, `(n,)`; with `total_tokens` if the rule is a token budget.
        factor: number of times as many rows that the whole pool has, for which the rule is meant.
    """
    rule, value = config.selection_rule
    if rule == "top_fraction":
        return value
    if rule == "top_k":
        return min(1.0, value / (factor * len(rows.candidates)))
    assert rule == "max_tokens", rule
    return min(1.0, value / (factor * float(signals[TOTAL_TOKENS][rows.candidates].sum())))


def describe_pilot_size(num_rows: int, num_candidates: int, num_anchors: int) -> str:
    """Say how many pairs the random rows take, before they are scored.

    Args:
        num_rows: number of random rows.
        num_candidates: number of all candidates.
        num_anchors: number of anchors.
    """
    return (
        f"`require_recall` first scores {counted(num_rows, 'random row')} on all anchors, whether they meet the "
        f"condition or not: {counted(num_rows * num_anchors, 'pair')}, {num_rows / num_candidates:.1%} of all"
    )


def score_condition_pilot(
    session: ScoringSession, rendered: Rendered, fraction: float, met: Bools | None, condition: str
) -> ConditionPilot:
    """Score random rows on all anchors, and measure which share of the best of them meets a condition.

    They are the rows of the smallest content hashes, as the pilots of all schedules are: a random sample, the same for
    any number of processes and after a restart.

    Args:
        session: open session; all ranks must call.
        rendered: anchors and all candidates, those that fail the condition included.
        fraction: share of the candidates that the rule would keep without the condition, on all ranks.
        met: whether each row of the pool meets the condition, `(n,)`, on the main process; None on the others.
        condition: the condition in words, on all ranks.
    """
    _, first = distinct(rendered.keys)
    drawn = sorted(first)[: rows_to_score(fraction, len(first))]
    if session.ranks.is_main:
        tell(logger, "%s", describe_pilot_size(len(drawn), len(first), len(rendered.anchor_set.keys)))
    pilot = rendered.only({rendered.candidates[first[key]] for key in drawn})
    run = ExactRun(session, pilot, Watch(quiet=True), name="Pilot of the condition")
    run.score()
    outcome = run.read_outcome()
    num_pairs = sum(session.ranks.gather([run.scorer.num_pairs]))

    def measure() -> tuple[ConditionRecall, float]:
        assert outcome is not None and met is not None
        places = np.arange(len(pilot.candidates))
        how = session.config.combine_anchor_sets
        scores = collect(outcome, pilot.anchor_set, places, pilot.keys, len(places), how, session.scratch).scores
        is_whole_pool = len(drawn) == len(first)
        rank_by = session.config.rank_by
        found = recall_of_condition(scores, met[pilot.candidates], fraction, rank_by, is_whole_pool)
        return found, float(met[rendered.candidates].mean())

    asked = session.config.require_recall
    assert asked is not None
    found, share_met = session.ranks.on_main(measure)
    return ConditionPilot(found, condition, share_met, asked, num_pairs)
