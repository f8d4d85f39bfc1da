"""Can the scorer use an example at all? Scores some candidates beside corrupted copies of themselves.

A golden score means nothing where the model cannot tell a good example from a spoilt one: a small language model may
give clean rows, rows with shuffled words and rows with another row's answer all the same score. Knows no ranks but
through `execution.py`; its pairs are in the same store as all others, so that it resumes and costs nothing twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.corruptions import mismatched_completion, shuffled_completion
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.scoring.anchors import chosen_anchors, given_anchors
from nuggets_trainer.scoring.execution import Execution
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.store.files import Place, join, write_atomically

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 40
CORRUPTIONS = {
    "shuffled_words": "the words of its completion shuffled",
    "mismatched_completion": "the completion of another row",
}
AFFORDABLE = 0.05  # of all pairs: two copies of 40 candidates, in a pool of 1,600 rows or more
NORMAL_95 = 1.959964

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
    session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: Sequence[int], score_dir: Place
) -> tuple[SignalCheck, int]:
    """Score some candidates and their copies on all anchors; write `signal_check.json`.

    The candidates are those of the smallest content hashes, anchors left out: a random sample that does not change
    when the pool grows, and the pilot of a race. Each gets the completion of the next one, so that as a whole clean
    and mismatched rows have the same prompts and the same completions. Golden scores are compared; mean gains are not
    looked at, because a pair of equal golden scores that differs by a thousandth of a nat is no sign of anything.

    Args:
        session: open; all ranks must call it.
        anchor_set: the anchors.
        shared: renders candidates before them.
        rows: pool indices of the candidates, the same on all ranks.
        score_dir: where the result goes.

    Returns:
        The check, and the pairs that were computed for it by all ranks.
    """
    clean, copies = _corrupted(session, anchor_set, rows)
    all_rows = [*clean, *(copy for found in copies.values() for copy in found.values())]
    outcome, dropped, num_pairs = _score(session, anchor_set, shared, all_rows)

    def finish() -> SignalCheck:
        assert outcome is not None
        zero_shot, one_shot = outcome
        row_of = {row: place for place, row in enumerate(i for i in range(len(all_rows)) if i not in dropped)}
        found, start = [], len(clean)
        for name, of_candidate in copies.items():
            places = [(c, start + place) for place, c in enumerate(of_candidate)]
            start += len(of_candidate)
            pairs = [(row_of[c], row_of[copy]) for c, copy in places if c in row_of and copy in row_of]
            if pairs:
                found.append(compare(name, zero_shot, *(one_shot[list(side)] for side in zip(*pairs, strict=True))))
        check = SignalCheck(len(anchor_set.keys), tuple(found))
        content = {
            **dataclasses.asdict(check),
            "verdict": check.verdict,
            "says": check.describe(),
            "fingerprint": session.store.fingerprint,  # of the scorer it speaks of
        }
        write_atomically(join(score_dir, "signal_check.json"), json.dumps(content, indent=2).encode())
        check.log()
        return check

    return session.ranks.on_main(finish), num_pairs


def check_scorer(
    model: Any,
    tokenizer: Any,
    dataset: PoolDataset,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    score_dir: Place | None = None,
    **options: Any,
) -> SignalCheck:
    """Run the signal check alone, before anything else is scored; arguments as for `score_pool`.

    All ranks must call it. What it scores is in the store, for `score_pool` to find.
    """
    request = read_request(model, tokenizer, dataset, anchors, config, score_dir, **options)
    pool, template, sets, place = request.pool, request.template, request.anchors, request.score_dir
    _, dropped = pool.read_keys()
    with open_session(
        *(model, request.tokenizer, template, pool, request.config, place, request.autocast_dtype, request.adapter)
    ) as session:
        anchor_set = given_anchors(session, sets) if sets is not None else chosen_anchors(session, dropped)[0]
        shared = SharedPrefix(template, anchor_set.rows, session.max_length)
        number = NUM_CANDIDATES + len(anchor_set.keys)  # anchors are left out later
        usable = sorted((i for i in range(len(pool)) if i not in dropped), key=lambda i: session.keys[i])
        rows = list(itertools.islice((i for i in usable if _can_be_scored(shared, pool[i])), number))
        return check_signal(session, anchor_set, shared, rows, place)[0]


def _can_be_scored(shared: SharedPrefix, row: Row) -> bool:
    try:
        shared.candidate(row)
    except UnusableRowError:
        return False
    return True


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
    low, high = wilson_interval(float(untied.sum()), len(untied))
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


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95% interval of a share; (0, 1) without trials.

    Example:
        >>> low, high = wilson_interval(40, 40)
        >>> round(low, 2), high
        (0.91, 1.0)
    """
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, NORMAL_95**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _corrupted(
    session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]
) -> tuple[list[Row], dict[str, dict[int, Row]]]:
    """Return the candidates, and by corruption the copies of those that it changes, by place."""
    anchors = {anchor.text_key for anchor in anchor_set.rows}
    keys = sorted({session.keys[i]: i for i in rows if session.texts[session.keys[i]] not in anchors}.items())[
        :NUM_CANDIDATES
    ]
    clean = [session.pool[i] for _, i in keys]
    copies = {
        "shuffled_words": [shuffled_completion(row) for row in clean],
        "mismatched_completion": [
            mismatched_completion(row, donor) for row, donor in zip(clean, clean[1:] + clean[:1], strict=True)
        ],
    }
    return clean, {name: {c: row for c, row in enumerate(found) if row is not None} for name, found in copies.items()}


def _score(
    session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: list[Row]
) -> tuple[tuple[LogProbs, LogProbs] | None, set[int], int]:
    """Log-probs `(m,)` and `(rows that can be scored, m)`, the main process' alone; the other rows; pairs computed."""
    session = dataclasses.replace(
        session,
        keys=[row.key for row in rows],
        texts={row.key: row.text_key for row in rows},
        config=dataclasses.replace(session.config, schedule="exact"),
    )
    prompts: dict[int, CandidatePrompt] = {}
    own_dropped = []
    for i in session.ranks.share(range(len(rows))):
        try:
            prompts[i] = shared.candidate(rows[i])
        except UnusableRowError:
            own_dropped.append(i)
    dropped = set(session.ranks.gather(own_dropped))
    execution = Execution(session, anchor_set, shared, prompts, [i for i in range(len(rows)) if i not in dropped])
    outcome = execution.run()
    num_pairs = sum(session.ranks.gather([execution.num_pairs]))
    return None if outcome is None else (outcome.zero_shot, outcome.one_shot[outcome.row]), dropped, num_pairs
