"""An early look: what a random sample of the rows says of the scores to come, before the rest is paid for.

The sample (the pilot) is scored on all anchors anyway, first. So the look costs the signal check alone.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.golden.agreement import (
    FEWEST_JUDGED,
    FEWEST_ROWS,
    LOW_RELIABILITY,
    MOST_USELESS,
    Agreement,
    deciding_nothing,
    measure_agreement,
)
from nuggets_trainer.golden.arrays import Floats
from nuggets_trainer.golden.ranking import RANKED_VALUES
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.pipeline.signal_check import affordable_size, check_signal, full_size
from nuggets_trainer.pipeline.signal_verdict import SignalCheck
from nuggets_trainer.racing.pilot import upper_quantile
from nuggets_trainer.scoring.collect import Pilot
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

FEWEST_ANCHORS = 4
MOST_NAMED = 8  # anchors that a line names
NEARLY_ALL = 0.9  # share of the pairs that are won, where the missing BOS is the reason
OTHER_SCORES = "try another template, more or other anchors, or a larger `scorer_model` that is a base model"
BOS_REASON = (
    "the template `nuggets` puts BOS before the row and not before the anchor alone, as the reference does, and this "
    "tokenizer adds BOS to every text: the model finds any text without BOS improbable, so every row seems to help. "
    "Use the template `plain` or `chat`"
)


class UnreliableScoresError(RuntimeError):
    """The early look found that scores would not be worth their price, and `stop_if_unreliable` is set.

    Attributes:
        exit_code: exit code of the command line.
    """

    exit_code = 3


@dataclass(frozen=True)
class EarlyLook:
    """What the pilot says.

    Attributes:
        num_rows: number of rows of the pilot.
        num_anchors: number of anchors.
        rank_by: value that rows are ranked by.
        expected_cut: value that the golden set is expected to end at; None if no row has one.
        num_tied: number of rows of the pool that are expected to have the value of the pilot's cut.
        num_won_by_all: number of anchors that every row of the pilot wins.
        num_won_by_none: number of anchors that no row of the pilot wins.
        remedy: what to do if something speaks against going on.
        reliability: as in `Agreement`.
        stays: share of the golden set that would stay with other anchors; None if that is not known.
        top_stays: share of the best quarter of the golden set that would stay in it; None if that is not known.
        signal: verdict of the signal check; None if there was none.
        problems: reasons against going on; empty if there are none.
        useless: places of the anchors that decide nothing, as in anchors.parquet.
        group_by: column whose groups have quotas; None without quotas. The cut and what stays are those of the ranking
            without them.
    """

    num_rows: int
    num_anchors: int
    rank_by: str
    expected_cut: float | None
    num_tied: int
    num_won_by_all: int
    num_won_by_none: int
    remedy: str
    reliability: float | None
    stays: float | None
    top_stays: float | None
    signal: str | None
    problems: tuple[str, ...]
    useless: tuple[int, ...] = ()
    group_by: str | None = None

    @property
    def sentence(self) -> str:
        """Whether to go on, in one sentence."""
        if self.problems:
            return f"Better stop here: {'; '.join(self.problems)}; {self.remedy}."
        if self.stays is None or self.top_stays is None or self.num_rows < FEWEST_JUDGED:
            return f"Go on: nothing speaks against it, but {counted(self.num_rows, 'row')} cannot tell more."
        without_quotas = ""
        if self.group_by is not None:
            without_quotas = f"; both shares ignore the quotas of `{self.group_by}`"
        return (
            f"Go on: with other anchors about {self.stays:.0%} of the golden set would stay, and {self.top_stays:.0%} "
            f"of its best quarter{without_quotas}."
        )

    def describe(self) -> str:
        """Return what was found and whether to go on, in one line."""
        parts = []
        if self.expected_cut is not None:
            rows = counted(self.num_tied, "row")
            words = RANKED_VALUES[self.rank_by].words
            of_all = ""
            if self.group_by is not None:
                of_all = " of all groups together"
            parts.append(f"{words} at the cut{of_all} about {self.expected_cut:.2f}, where {rows} of the pool may tie")
        useless = self.num_won_by_all + self.num_won_by_none
        parts.append(
            f"{useless:,} of {counted(self.num_anchors, 'anchor')} decide nothing ({self.num_won_by_all:,} won by "
            f"every row, {self.num_won_by_none:,} by none{self._which_useless()})"
        )
        if self.reliability is not None:
            parts.append(f"reliability {self.reliability:.2f}")
        if self.signal is not None:
            parts.append(f"corruptions seen: {self.signal}")
        return f"early look at {counted(self.num_rows, 'random row')}: {'; '.join(parts)}. {self.sentence}"

    def _which_useless(self) -> str:
        if not self.useless:
            return ""
        shown = ", ".join(str(place) for place in self.useless[:MOST_NAMED])
        more = ", ..." if len(self.useless) > MOST_NAMED else ""
        return f": anchors {shown}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {**dataclasses.asdict(self), "problems": list(self.problems), "says": self.sentence}

    def log(self) -> None:
        """Say the look, as a warning if something speaks against going on; not if there are too few rows to tell."""
        if self.num_rows < FEWEST_ROWS:
            return
        if self.problems:
            logger.warning("%s", self.describe())
        else:
            tell(logger, "%s", self.describe())


class PilotLook:
    """Looks at the pilot once it is scored, as a run calls it; all ranks take part.

    Args:
        session: open session.
        rendered: anchors and candidates of the run.
        may_stop: whether `stop_if_unreliable` is obeyed.

    Attributes:
        found: what the look has found, on all ranks; None until then.
        num_pairs: number of pairs that all ranks have computed for the signal check.
    """

    def __init__(self, session: ScoringSession, rendered: Rendered, may_stop: bool) -> None:
        self._session, self._rendered, self._may_stop = session, rendered, may_stop
        self.found: EarlyLook | None = None
        self.num_pairs = 0

    def __call__(self, pilot: Pilot | None) -> None:
        """Look.

        Args:
            pilot: the pilot on the main process; None on the others.

        Raises:
            UnreliableScoresError: on all ranks, if the look speaks against going on and the user wants to stop then.
        """
        session = self._session
        signal = self._check_signal(pilot)

        def look() -> EarlyLook:
            assert pilot is not None
            found = look_at(pilot, session, len(self._rendered.candidates), signal)
            won_by_all, won_by_none = deciding_nothing(pilot.zero_shot, pilot.one_shot)
            places = np.array(self._rendered.anchor_set.usable)[won_by_all | won_by_none]
            found = dataclasses.replace(found, useless=tuple(places.tolist()))
            found.log()
            return found

        self.found = session.ranks.on_main(look)
        if self.found.problems and self._may_stop and session.config.stop_if_unreliable:
            raise UnreliableScoresError(
                f"{self.found.describe()} The pairs so far are stored in {session.request.score_dir}. To go on all "
                "the same, run the same command without `stop_if_unreliable`."
            )

    def _check_signal(self, pilot: Pilot | None) -> SignalCheck | None:
        """Check the scorer on rows of the pilot, as far as that is cheap, or in full where the config asks for it."""
        session, rendered = self._session, self._rendered
        wanted = session.config.signal_check
        num_anchors = len(rendered.anchor_set.keys)
        if wanted is False or (wanted is None and session.request.adapter):
            return None
        size = full_size(num_anchors) if wanted else affordable_size(len(rendered.candidates), num_anchors)
        if size is None:
            return None
        rows = rendered.candidates
        if not wanted:
            rows = session.ranks.on_main(lambda: pilot.candidates if pilot is not None else [])
        check, num_pairs = check_signal(session, rendered.anchor_set, rendered.shared, rows, size, inner=True)
        self.num_pairs += num_pairs
        return check


def look_at(pilot: Pilot, session: ScoringSession, num_candidates: int, signal: SignalCheck | None) -> EarlyLook:
    """Say what a pilot tells.

    Args:
        pilot: random candidates, scored on all anchors.
        session: open session; template, tokenizer and config are read.
        num_candidates: number of candidates of the pool.
        signal: result of the signal check; None if there was none.
    """
    rank_by = session.config.rank_by
    values = RANKED_VALUES[rank_by].of(golden_scores(pilot.zero_shot, pilot.one_shot))
    values = values[np.isfinite(values)]
    fraction = expected_fraction(session.config, num_candidates, values)
    agreement = measure_agreement(pilot.zero_shot, pilot.one_shot, fraction, rank_by)
    cut, num_tied = _expected_cut(session.config, values, fraction), 0
    if len(values):
        last = np.sort(values)[::-1][min(len(values), max(1, round(fraction * len(values)))) - 1]
        num_tied = round(float((values == last).mean()) * num_candidates)
    verdict = None if signal is None else signal.verdict
    return EarlyLook(
        num_rows=agreement.num_rows,
        num_anchors=agreement.num_anchors,
        rank_by=rank_by,
        expected_cut=cut,
        num_tied=num_tied,
        num_won_by_all=agreement.num_won_by_all,
        num_won_by_none=agreement.num_won_by_none,
        remedy=_why_won(session, pilot) or _remedy(pilot, fraction, rank_by),
        reliability=agreement.reliability,
        stays=agreement.stays,
        top_stays=agreement.top_stays,
        signal=verdict,
        problems=tuple(problems_of(agreement, len(values) > 0 and float(np.ptp(values)) == 0.0, verdict)),
        group_by=session.config.group_by,
    )


def _expected_cut(config: NuggetsConfig, values: Floats, fraction: float) -> float | None:
    rule, value = config.selection_rule
    if not len(values) or rule == "threshold":
        return value if len(values) else None
    if config.rank_by == "golden_score":
        return upper_quantile(values, fraction)
    return float(np.quantile(values, 1 - fraction))


def expected_fraction(config: NuggetsConfig, num_candidates: int, values: Floats) -> float:
    """Return which share of the candidates the rule is expected to keep.

    Args:
        config: options of the user; the selection rule is read. A token budget is given as a number of rows.
        num_candidates: number of candidates of the pool.
        values: values of random candidates to rank by, `(p,)`.
    """
    rule, value = config.selection_rule
    if rule == "threshold":
        return float(np.mean(values > value)) if len(values) else 0.0
    return min(1.0, value if rule == "top_fraction" else value / max(1, num_candidates))


def problems_of(agreement: Agreement, all_tie: bool, signal: str | None) -> list[str]:
    """List what speaks against going on.

    Args:
        agreement: what other anchors would change, measured on random rows.
        all_tie: whether all these rows have the same golden score.
        signal: verdict of the signal check; None if there was none.
    """
    problems = []
    enough = agreement.num_rows >= FEWEST_ROWS and agreement.num_anchors >= FEWEST_ANCHORS
    if enough and all_tie:
        problems.append(f"all {agreement.num_rows:,} rows have the same value")
    if enough and agreement.num_useless > MOST_USELESS * agreement.num_anchors:
        problems.append(f"{agreement.num_useless:,} of {counted(agreement.num_anchors, 'anchor')} decide nothing")
    is_low = agreement.reliability is not None and agreement.reliability < LOW_RELIABILITY
    if enough and is_low and not all_tie and agreement.num_rows >= FEWEST_JUDGED:
        problems.append(f"the reliability is {agreement.reliability:.2f}: other anchors would rank the rows otherwise")
    if signal == "none":
        problems.append("the scorer cannot tell rows from corrupted copies of themselves")
    return problems


def _remedy(pilot: Pilot, fraction: float, rank_by: str) -> str:
    """Say what to try. If golden scores tie, the size of the gains may still tell the rows apart."""
    if rank_by == "golden_score":
        gain = measure_agreement(pilot.zero_shot, pilot.one_shot, fraction, "gain").reliability
        if gain is not None and gain >= LOW_RELIABILITY:
            return (
                f"rank by the size of the gains (`rank_by=gain`), whose reliability is {gain:.2f}, or {OTHER_SCORES}"
            )
    return OTHER_SCORES


def _why_won(session: ScoringSession, pilot: Pilot) -> str | None:
    """Say why nearly every pair is won, if the missing BOS of the reference's template explains it."""
    scored = np.isfinite(pilot.one_shot) & np.isfinite(pilot.zero_shot)
    won = scored & (pilot.one_shot > pilot.zero_shot)
    if session.template.name != "nuggets" or won.sum() < NEARLY_ALL * max(1, scored.sum()):
        return None
    tokenizer = session.request.tokenizer
    return BOS_REASON if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else None
