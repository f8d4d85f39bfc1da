"""Can the scorer use an example at all? Scores some candidates beside corrupted copies of themselves.

A golden score means nothing where the model cannot tell a good example from a spoilt one: a small language model may
give clean rows, rows with shuffled words and rows with another row's answer all the same score. Knows no ranks but
through `execution.py`; its pairs are in the same store as all others, so that it resumes and costs nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.corruptions import mismatched_completion, shuffled_completion
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.scoring.anchors import find_anchors
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.rendering import render_rows
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.files import Place, join, write_atomically

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 40
CORRUPTIONS = {
    "shuffled_words": "the words of its completion shuffled",
    "mismatched_completion": "the completion of another row",
}
AFFORDABLE = 0.05  # of all pairs: two copies of 40 candidates, in a pool of 1,600 rows or more

LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CorruptionSeen:
    """How candidates rank against copies with one corruption.

    Attributes:
        corruption: a key of `CORRUPTIONS`.
        num_candidates: pairs of a candidate and its copy, on the same anchors.
        ranked_right: share of these where the candidate has the higher golden score; a tie is half.
        interval: of that share, 95%: a sign test's, by Wilson's formula over the pairs that do not tie. Rows of a
            noisy pool are often spoilt already, and tie with their copies: they say nothing for or against the scorer.
        ties: pairs with the same golden score.
        golden_score: mean of the candidates, and of the copies.
        mean_gain: mean of the candidates, and of the copies, nats per token.
    """

    corruption: str
    num_candidates: int
    ranked_right: float
    interval: tuple[float, float]
    ties: int
    golden_score: tuple[float, float]
    mean_gain: tuple[float, float]

    @property
    def is_seen(self) -> bool:
        """Whether the scorer tells the candidates from their copies: the interval lies above one half."""
        return self.interval[0] > 0.5

    def describe(self) -> str:
        """Return it in a few words."""
        return (
            f"{CORRUPTIONS[self.corruption]}: {self.ranked_right:.0%} ranked right (95% interval "
            f"{self.interval[0]:.0%} to {self.interval[1]:.0%}, {self.num_candidates} candidates, {self.ties} ties, "
            f"golden score {self.golden_score[0]:.2f} against {self.golden_score[1]:.2f})"
        )


@dataclass(frozen=True)
class SignalCheck:
    """What a scorer sees, corruption by corruption."""

    num_anchors: int
    corruptions: tuple[CorruptionSeen, ...]

    @property
    def verdict(self) -> str:
        """`all` corruptions are seen, `some`, or `none`."""
        seen = [found.is_seen for found in self.corruptions]
        return "all" if seen and all(seen) else "some" if any(seen) else "none"

    def describe(self) -> str:
        """Return the verdict, its numbers, and what to do."""
        numbers = "; ".join(found.describe() for found in self.corruptions) or "no candidate could be corrupted"
        remedy = "Try a larger `scorer_model`, another `template`, or more anchors that are closer to your rows."
        if self.verdict == "all":
            return f"signal check passed: the scorer tells candidates from corrupted copies. {numbers}"
        if self.verdict == "none":
            return (
                "SIGNAL CHECK FAILED: the scorer cannot tell candidates from corrupted copies of themselves, so that "
                f"its golden scores say nothing about them. {numbers}. {remedy}"
            )
        unseen = " and ".join(CORRUPTIONS[found.corruption] for found in self.corruptions if not found.is_seen)
        return (
            f"signal check passed in part: the scorer does not tell a candidate from a copy with {unseen}, so that "
            f"its golden scores say nothing about that. {numbers}. {remedy}"
        )

    def log(self) -> None:
        """Log the verdict, as a warning where something is not seen."""
        logger.log(logging.INFO if self.verdict == "all" else logging.WARNING, "%s", self.describe())


def is_affordable(num_candidates: int) -> bool:
    """Whether the copies cost less than 5% of a pool of so many candidates (of scoring them on all anchors)."""
    return len(CORRUPTIONS) * NUM_CANDIDATES < AFFORDABLE * num_candidates


def check_signal(
    session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: Sequence[int]
) -> tuple[SignalCheck, int]:
    """Score some candidates and their copies on all anchors; write `signal_check.json`.

    The candidates are those of the smallest content hashes, anchors left out: a random sample that does not change
    when the pool grows, and the pilot of a race. Each gets the completion of the next one, so that as a whole clean
    and mismatched rows have the same prompts and the same completions. Golden scores are compared. Mean gains are
    not, because a pair of equal golden scores that differs by a thousandth of a nat is no sign of anything.

    Args:
        session: open session; all ranks must call.
        anchor_set: the anchors.
        shared: renders a candidate before these anchors.
        rows: pool indices of the candidates, the same on all ranks.

    Returns:
        The check, and the number of pairs that all ranks computed for it.
    """
    clean = _sample(session, anchor_set, rows)
    copies = corrupted_copies(clean)
    all_rows, numbers = list(clean), {}
    for name, of_candidate in copies.items():
        numbers[name] = {place: len(all_rows) + k for k, place in enumerate(of_candidate)}
        all_rows += of_candidate.values()
    rendered = render_rows(session, anchor_set, shared, all_rows)
    run = ExactRun(session, rendered, Watch())
    run.score()
    outcome = run.read_outcome()
    num_pairs = sum(session.ranks.gather([run.scorer.num_pairs]))

    def finish() -> SignalCheck:
        assert outcome is not None
        one_shot = dict(zip(rendered.candidates, outcome.one_shot[outcome.row], strict=True))
        check = _compare_all(len(anchor_set.keys), numbers, outcome.zero_shot, one_shot)
        _write(session, check)
        check.log()
        return check

    return session.ranks.on_main(finish), num_pairs


def _sample(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]) -> list[Row]:
    """Candidates of the smallest content hashes, in this order; anchors and equal rows are left out."""
    keys, text_keys = session.keys, session.pool.texts
    anchors = {anchor.text_key for anchor in anchor_set.rows}
    by_key = {keys[i]: i for i in rows if text_keys[keys[i]] not in anchors}
    smallest = sorted(by_key)[:NUM_CANDIDATES]
    return [session.pool[by_key[key]] for key in smallest]


def _compare_all(
    num_anchors: int,
    numbers: dict[str, dict[int, int]],
    zero_shot: LogProbs,
    one_shot: dict[int, LogProbs],
) -> SignalCheck:
    """Compare candidates with their copies, corruption by corruption, where both sides could be rendered.

    Args:
        num_anchors: number of anchors.
        numbers: number of the copy by number of the candidate, by corruption.
        zero_shot: log-probs of the anchors, `(m,)`.
        one_shot: log-probs of candidates and copies by number, each `(m,)`.
    """
    found = []
    for name, copy_of in numbers.items():
        pairs = [(c, copy) for c, copy in copy_of.items() if c in one_shot and copy in one_shot]
        if pairs:
            clean = np.array([one_shot[c] for c, _ in pairs])
            copies = np.array([one_shot[copy] for _, copy in pairs])
            found.append(compare(name, zero_shot, clean, copies))
    return SignalCheck(num_anchors, tuple(found))


def _write(session: ScoringSession, check: SignalCheck) -> None:
    content = {
        **dataclasses.asdict(check),
        "verdict": check.verdict,
        "says": check.describe(),
        "fingerprint": session.store.fingerprint,  # names the scorer that was checked
    }
    path = join(session.request.score_dir, "signal_check.json")
    write_atomically(path, json.dumps(content, indent=2).encode())


def check_scorer(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    **options: Any,
) -> SignalCheck:
    """Run the signal check alone, before anything else is scored.

    All ranks must call it. What it scores is in the store, for `score_pool` to find.

    Args:
        model: model that scores, as in `score_pool`.
        tokenizer: tokenizer of the model.
        dataset: all rows of the pool.
        anchors: the anchors, as in `score_pool`.
        config: options of selection.
        score_dir: directory or URL where scores and the result go.
        options: further keyword arguments of `score_pool`.
    """
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, **options)
    with open_session(model, request) as session:
        anchor_set = find_anchors(session)
        shared = SharedPrefix(session.template, anchor_set.rows, session.max_length)
        rows = _some_candidates(session, shared, NUM_CANDIDATES + len(anchor_set.keys))  # anchors are left out later
        return check_signal(session, anchor_set, shared, rows)[0]


def _some_candidates(session: ScoringSession, shared: SharedPrefix, number: int) -> list[int]:
    """Pool indices of so many rows that can be scored, by content hash."""
    keys, dropped = session.pool.read_keys()
    usable = sorted((i for i in range(len(session.pool)) if i not in dropped), key=lambda i: keys[i])
    found: list[int] = []
    for i in usable:
        if len(found) == number:
            break
        try:
            shared.candidate(session.pool[i])
        except UnusableRowError:
            continue
        found.append(i)
    return found


def compare(
    corruption: str,
    zero_shot: npt.NDArray[np.floating],
    clean: npt.NDArray[np.floating],
    copies: npt.NDArray[np.floating],
) -> CorruptionSeen:
    """Rank candidates against their copies.

    Args:
        corruption: its name.
        zero_shot: log-probs of the anchors, `(m,)`.
        clean: of the candidates, `(c, m)`.
        copies: of their copies, `(c, m)`; anchors that either side was not scored on are left out of both.
    """
    both = np.isfinite(clean) & np.isfinite(copies)
    good, bad = (golden_scores(zero_shot, np.where(both, side, np.nan)) for side in (clean, copies))
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
