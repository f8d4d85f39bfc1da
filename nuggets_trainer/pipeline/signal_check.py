"""Can the scorer use an example at all? Some candidates are scored beside corrupted copies of themselves.

A golden score means nothing if the model cannot tell a good example from a spoilt one. A small language model may give
clean rows, rows with shuffled words and rows with the answer of another row all the same score. The pairs of the check
are in the same store as all others, so that a run resumes and computes nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.scorer_model_options import hint_on_tuned_scorer
from nuggets_trainer.data.row import Row
from nuggets_trainer.pipeline.signal_verdict import CORRUPTIONS, SignalCheck, compare, corrupted_copies
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.rendering import render_rows
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.files import join, write_atomically
from nuggets_trainer.store.read_results import SIGNAL_CHECK_FILE

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 40
AFFORDABLE = 0.05  # share of all pairs: two copies of 40 candidates on all anchors, in a pool of 1,600 rows or more
FEWEST_ANCHORS = 25  # anchors of a small check: many candidates on few anchors tell more than few on many
FEWEST_CANDIDATES = 8  # fewer could not be told from chance, even if all are ranked right but one

LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CheckSize:
    """How many candidates are compared with their copies, and on how many anchors."""

    num_candidates: int
    num_anchors: int


def full_size(num_anchors: int) -> CheckSize:
    """Return the size of a check that the user asks for, with so many anchors at hand."""
    return CheckSize(NUM_CANDIDATES, num_anchors)


def affordable_size(num_candidates: int, num_anchors: int) -> CheckSize | None:
    """Return the size of a check whose copies cost at most 5% of scoring all pairs of a pool.

    Args:
        num_candidates: number of candidates of the pool.
        num_anchors: number of anchors.

    Returns:
        The size; None if the pool is too small for any check.

    Example:
        >>> from nuggets_trainer.pipeline.signal_check import affordable_size
        >>> affordable_size(1600, 100)
        CheckSize(num_candidates=40, num_anchors=100)
        >>> affordable_size(400, 100)
        CheckSize(num_candidates=40, num_anchors=25)
        >>> affordable_size(60, 100) is None
        True
    """
    num_pairs = int(AFFORDABLE * num_candidates * num_anchors) // len(CORRUPTIONS)
    anchors = min(num_anchors, max(FEWEST_ANCHORS, num_pairs // NUM_CANDIDATES))
    candidates = min(NUM_CANDIDATES, num_pairs // max(1, anchors))
    return CheckSize(candidates, anchors) if candidates >= FEWEST_CANDIDATES else None


def check_signal(
    session: ScoringSession,
    anchor_set: AnchorSet,
    shared: SharedPrefix,
    rows: Sequence[int],
    size: CheckSize,
    inner: bool = False,
) -> tuple[SignalCheck, int]:
    """Score some candidates and their copies on anchors; write `signal_check.json`.

    The candidates are those of the smallest content hashes, anchors left out: a random sample that does not change
    when the pool grows, and the pilot of a race. Each gets the completion of the next one, so that as a whole clean
    and mismatched rows have the same prompts and the same completions. Golden scores are compared. Mean gains are
    not, because a pair of equal golden scores that differs by a thousandth of a nat is not a sign of anything.

    Args:
        session: open session; all ranks must call.
        anchor_set: the anchors.
        shared: renders a candidate before these anchors.
        rows: pool indices of the candidates, the same on all ranks.
        size: numbers of candidates and anchors; of fewer anchors than all, those of the smallest hashes are taken.
        inner: whether another run of this session is under way.

    Returns:
        The check, and the number of pairs that all ranks computed for it.
    """
    clean = _sample(session, anchor_set, rows, size.num_candidates)
    if size.num_anchors < len(anchor_set.keys):
        anchor_set, shared = _some_anchors(session, anchor_set, size.num_anchors)
    copies = corrupted_copies(clean)
    all_rows, numbers = list(clean), {}
    for name, copy_of in copies.items():
        numbers[name] = dict(zip(copy_of, range(len(all_rows), len(all_rows) + len(copy_of)), strict=True))
        all_rows += copy_of.values()
    rendered = render_rows(session, anchor_set, shared, all_rows)
    run = ExactRun(session, rendered, Watch(quiet=True), inner, "Signal check")
    run.score()
    outcome = run.read_outcome()
    num_pairs = sum(session.ranks.gather([run.scorer.num_pairs]))

    def finish() -> SignalCheck:
        assert outcome is not None
        one_shot = dict(zip(rendered.candidates, outcome.one_shot[outcome.row], strict=True))
        check = _compare_all(len(anchor_set.keys), numbers, outcome.zero_shot, one_shot)
        _write(session, check)
        check.log()
        hint = hint_on_tuned_scorer(str(session.request.tokenizer.name_or_path))
        if check.verdict in ("none", "some") and hint is not None:
            logger.info("%s.", hint)
        return check

    return session.ranks.on_main(finish), num_pairs


def _some_anchors(session: ScoringSession, anchor_set: AnchorSet, number: int) -> tuple[AnchorSet, SharedPrefix]:
    """Take the anchors of the smallest hashes, in the order of all."""
    smallest = sorted(range(len(anchor_set.keys)), key=lambda j: (anchor_set.keys[j], j))[:number]
    rows = [anchor_set.rows[j] for j in sorted(smallest)]
    some = AnchorSet(session.template, rows, [None] * len(rows), session.max_length)
    return some, SharedPrefix(session.template, some.rows, session.max_length)


def _sample(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int], number: int) -> list[Row]:
    """Candidates of the smallest content hashes, in this order; anchors and equal rows are left out."""
    keys, text_keys = session.keys, session.pool.texts
    anchors = {anchor.text_key for anchor in anchor_set.rows}
    by_key = {keys[i]: i for i in rows if text_keys[keys[i]] not in anchors}
    smallest = sorted(by_key)[:number]
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
        clean, copies = [], []
        for candidate, copy in copy_of.items():
            if candidate in one_shot and copy in one_shot:
                clean.append(one_shot[candidate])
                copies.append(one_shot[copy])
        if clean:
            found.append(compare(name, zero_shot, np.array(clean), np.array(copies)))
    return SignalCheck(num_anchors, tuple(found))


def _write(session: ScoringSession, check: SignalCheck) -> None:
    content = {
        **dataclasses.asdict(check),
        "verdict": check.verdict,
        "says": check.describe(),
        "fingerprint": session.store.fingerprint,  # names the scorer that was checked
    }
    path = join(session.request.score_dir, SIGNAL_CHECK_FILE)
    write_atomically(path, json.dumps(content, indent=2).encode())
