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
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset
from nuggets_trainer.pipeline.signal_verdict import CORRUPTIONS, SignalCheck, compare, corrupted_copies
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.scoring.anchors import find_anchors
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.rendering import render_rows
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.files import Place, join, write_atomically

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 40
AFFORDABLE = 0.05  # share of all pairs: two copies of 40 candidates, in a pool of 1,600 rows or more

LogProbs = npt.NDArray[np.float32]


def is_affordable(num_candidates: int) -> bool:
    """Whether the copies cost less than 5% of scoring so many candidates on all anchors."""
    return len(CORRUPTIONS) * NUM_CANDIDATES < AFFORDABLE * num_candidates


def check_signal(
    session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: Sequence[int]
) -> tuple[SignalCheck, int]:
    """Score some candidates and their copies on all anchors; write `signal_check.json`.

    The candidates are those of the smallest content hashes, anchors left out: a random sample that does not change
    when the pool grows, and the pilot of a race. Each gets the completion of the next one, so that as a whole clean
    and mismatched rows have the same prompts and the same completions. Golden scores are compared. Mean gains are
    not, because a pair of equal golden scores that differs by a thousandth of a nat is not a sign of anything.

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
    for name, copy_of in copies.items():
        numbers[name] = dict(zip(copy_of, range(len(all_rows), len(all_rows) + len(copy_of)), strict=True))
        all_rows += copy_of.values()
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
