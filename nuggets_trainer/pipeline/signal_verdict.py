"""What a signal check says: how candidates rank against corrupted copies of themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from nuggets_trainer.data.row import Row
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.pipeline.corruptions import mismatched_completion, shuffled_completion
from nuggets_trainer.scoring.progress import tell
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

FEW_CANDIDATES = 30  # fewer may be too few to tell
CLEARLY_SEEN = 0.75  # share ranked right that a scorer which sees a corruption reaches

CORRUPTIONS = {
    "shuffled_words": "the words of its completion shuffled",
    "mismatched_completion": "the completion of another row",
}


@dataclass(frozen=True)
class CorruptionSeen:
    """How candidates rank against copies with one corruption.

    Attributes:
        corruption: a key of `CORRUPTIONS`.
        num_candidates: number of pairs of a candidate and its copy, on the same anchors.
        ranked_right: share of these pairs in which the candidate has the higher golden score; a tie is half.
        interval: 95% interval of that share: a sign test's, by Wilson's formula over the pairs that do not tie. Rows
            of a noisy pool are often spoilt already and tie with their copies, which is no evidence about the scorer.
        ties: number of pairs with the same golden score.
        golden_score: mean golden score of the candidates, and of the copies.
        mean_gain: mean gain of the candidates, and of the copies, nats per token.
    """

    corruption: str
    num_candidates: int
    ranked_right: float
    interval: tuple[float, float]
    ties: int
    golden_score: tuple[float, float]
    mean_gain: tuple[float, float]

    @property
    def is_unclear(self) -> bool:
        """Whether there are too few candidates to tell: a scorer that sees the corruption might give this too."""
        if self.is_seen or self.num_candidates >= FEW_CANDIDATES:
            return False
        # Ties say nothing: what the other pairs leave room for counts.
        weight = 1 - self.ties / self.num_candidates
        return weight == 0 or 0.5 + (self.interval[1] - 0.5) / weight > CLEARLY_SEEN

    @property
    def is_seen(self) -> bool:
        """Whether the scorer tells the candidates from their copies: the interval is above one half."""
        return self.interval[0] > 0.5

    def describe(self) -> str:
        """Return the numbers in a few words."""
        return (
            f"{CORRUPTIONS[self.corruption]}: {self.ranked_right:.0%} ranked right (95% interval "
            f"{self.interval[0]:.0%} to {self.interval[1]:.0%}, {counted(self.num_candidates, 'candidate')}, "
            f"{counted(self.ties, 'tie')}, golden score {self.golden_score[0]:.2f} against {self.golden_score[1]:.2f})"
        )


@dataclass(frozen=True)
class SignalCheck:
    """What a scorer sees, corruption by corruption.

    Attributes:
        num_anchors: number of anchors that were scored on.
        corruptions: result for each corruption that some candidate could be given.
    """

    num_anchors: int
    corruptions: tuple[CorruptionSeen, ...]

    @property
    def verdict(self) -> str:
        """Whether `all` corruptions are seen, `some`, or `none`; `unclear` if a small check cannot tell."""
        num_seen = sum(found.is_seen for found in self.corruptions)
        if num_seen == 0:
            return "unclear" if any(found.is_unclear for found in self.corruptions) else "none"
        return "all" if num_seen == len(self.corruptions) else "some"

    def describe(self) -> str:
        """Return the verdict, its numbers, and what to do."""
        numbers = "; ".join(found.describe() for found in self.corruptions) or "no candidate could be corrupted"
        remedy = "Try a larger `scorer_model`, another `template`, or more anchors that are closer to your rows."
        if self.verdict == "all":
            return f"signal check passed: the scorer tells candidates from corrupted copies. {numbers}"
        if self.verdict == "none":
            return (
                "SIGNAL CHECK FAILED: the scorer cannot tell candidates from corrupted copies of themselves, so its "
                f"golden scores do not tell good rows from bad ones. {numbers}. {remedy}"
            )
        if self.verdict == "unclear":
            return f"signal check not clear: too few candidates to tell what the scorer sees. {numbers}"
        unseen = " and ".join(CORRUPTIONS[found.corruption] for found in self.corruptions if not found.is_seen)
        return (
            f"signal check passed in part: the scorer cannot tell a candidate from a copy with {unseen}, so its "
            f"golden scores do not show this fault. {numbers}. {remedy}"
        )

    def log(self) -> None:
        """Say the verdict, as a warning if a corruption is not seen."""
        if self.verdict in ("all", "unclear"):
            tell(logger, "%s", self.describe())
        else:
            logger.warning("%s", self.describe())


def compare(
    corruption: str,
    zero_shot: npt.NDArray[np.floating],
    clean: npt.NDArray[np.floating],
    copies: npt.NDArray[np.floating],
) -> CorruptionSeen:
    """Rank candidates against their copies.

    Args:
        corruption: name of the corruption.
        zero_shot: log-probs of the anchors, `(m,)`.
        clean: log-probs behind the candidates, `(c, m)`.
        copies: log-probs behind their copies, `(c, m)`; an anchor that one side was not scored on is left out of
            both.
    """
    both = np.isfinite(clean) & np.isfinite(copies)
    good = golden_scores(zero_shot, np.where(both, clean, np.nan))
    bad = golden_scores(zero_shot, np.where(both, copies, np.nan))
    right = np.sign(good.golden_score - bad.golden_score) / 2 + 0.5
    untied = right[right != 0.5]
    low, high = 0.0, 1.0
    if len(untied):
        low, high = binomtest(int(untied.sum()), len(untied)).proportion_ci(method="wilson")
    weight = len(untied) / len(right)
    return CorruptionSeen(
        corruption=corruption,
        num_candidates=len(right),
        ranked_right=float(right.mean()),
        interval=(0.5 + weight * (low - 0.5), 0.5 + weight * (high - 0.5)),
        ties=len(right) - len(untied),
        golden_score=(float(good.golden_score.mean()), float(bad.golden_score.mean())),
        mean_gain=(float(good.mean_gain.mean()), float(bad.mean_gain.mean())),
    )


def corrupted_copies(rows: list[Row]) -> dict[str, dict[int, Row]]:
    """Make the copies of rows by corruption, each by the place of its row; a row that it does not change has none."""
    donors = rows[1:] + rows[:1]
    copies: dict[str, dict[int, Row]] = {name: {} for name in CORRUPTIONS}
    for place, (row, donor) in enumerate(zip(rows, donors, strict=True)):
        changed = {
            "shuffled_words": shuffled_completion(row),
            "mismatched_completion": mismatched_completion(row, donor),
        }
        for name, copy in changed.items():
            if copy is not None:
                copies[name][place] = copy
    return copies
