"""`num_anchors: auto`: as many anchors as a reliable ranking needs, told by a few rows on a few random anchors."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuggets_trainer.config.anchor_options import AUTO, DEFAULT_NUM_ANCHORS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.agreement import (
    Agreement,
    anchors_for_reliability,
    deciding_nothing,
    measure_agreement,
)
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.anchors import chosen_anchors, drawn_places, find_anchors
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.rendering import render_pool
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

TARGET = 0.9  # reliability of the ranking
FIRST_ANCHORS, FIRST_ROWS = 32, 64  # tell a reliability of 0.6 within 0.1 (docs/log/reliability.md)
FEWEST, MOST = 25, 400  # standard errors of a golden score of 0.5: 0.10 and 0.025
SMALL_POOL = 4  # of a small pool at most this part is taken as first anchors, and twice as many as anchors


@dataclass(frozen=True)
class FoundAnchors:
    """The anchors of a run, and how their number came about.

    Attributes:
        anchor_set: the anchors.
        why: `num_anchors`, the `reliability` that it was told from, and the reason in words (`says`); None if the
            user gave the anchors or their number.
        num_pairs: number of pairs that all ranks have computed to find the number.
        drawn: row numbers of anchors that were drawn from given ones, by set; None if none were drawn.
    """

    anchor_set: AnchorSet
    why: dict[str, Any] | None
    num_pairs: int
    drawn: dict[str, list[int]] | None


def anchors_of(session: ScoringSession) -> FoundAnchors:
    """Take the anchors of the request, or choose them from its pool, as many as wanted or needed; on all ranks."""
    if session.config.num_anchors != AUTO:
        return FoundAnchors(find_anchors(session), None, 0, drawn_anchors(session))
    why, num_pairs = decide_number(session)
    session, passed_over = with_number(session, why["num_anchors"]), why.get("replaced", [])
    return FoundAnchors(find_anchors(session, passed_over), why, num_pairs, drawn_anchors(session, passed_over))


def drawn_anchors(session: ScoringSession, passed_over: list[str] | None = None) -> dict[str, list[int]] | None:
    """Return the row numbers of anchors that were drawn from given ones, by set; None if none were drawn.

    Args:
        session: open session, with the number of anchors that was decided on.
        passed_over: keys of anchors that were drawn last, see `drawn_places`.
    """
    if session.request.anchors is None or session.config.num_anchors is None:
        return None
    drawn = {}
    for name, anchors in session.request.anchors.items():
        drawn[name] = list(drawn_places(session, anchors, passed_over))
        if session.ranks.is_main:
            taken = f"{counted(len(drawn[name]), 'anchor')} of {len(anchors):,} {name}".rstrip()
            logger.info("%s drawn at random, with the seed %d", taken, session.config.anchor_seed)
    return drawn


def with_number(session: ScoringSession, num_anchors: int, **options: Any) -> ScoringSession:
    """Return the same session with another number of anchors to choose, and other options.

    Args:
        session: open session.
        num_anchors: number of anchors.
        options: other options of `NuggetsConfig`.
    """
    config = dataclasses.replace(session.config, num_anchors=num_anchors, **options)
    return dataclasses.replace(session, request=dataclasses.replace(session.request, config=config))


def decide_number(session: ScoringSession) -> tuple[dict[str, Any], int]:
    """Decide once how many anchors to take of the pool or the given ones: a resumed run reads it from the store.

    Args:
        session: open session; all ranks must call, and all get the same number.

    Returns:
        `num_anchors`, `reliability` (of the first anchors), `num_rows` and `first_anchors` that it was measured on,
        and `says`, the reason in words; of given anchors also `replaced`, the keys of first anchors that decide
        nothing. And the number of pairs that all ranks have computed for it.
    """
    config, pool, given = session.config, session.pool, _given(session)
    question = {
        "num_anchors": AUTO,
        "target": TARGET,
        "first": [FIRST_ANCHORS, FIRST_ROWS],
        "rank_by": config.rank_by,
        "anchor_seed": config.anchor_seed,
        "exclude_self": config.exclude_self,
        "pool_sha256": pool.content_hash,
        "pool_rows": len(pool),
    }
    if given is not None:
        question["anchors"] = [given.content_hash, len(given)]
    why: dict[str, Any] | None = session.ranks.on_main(lambda: session.store.read_note(question))
    num_pairs = 0
    if why is None:
        why, num_pairs = _measure(session)
        session.ranks.on_main(lambda: session.store.write_note(question, why))
    if session.ranks.is_main:
        logger.info("num_anchors: %s", why["says"])
    return why, num_pairs


def _given(session: ScoringSession) -> Pool | None:
    """Return the one set of given anchors; None if they are chosen from the pool."""
    if session.request.anchors is None:
        return None
    (anchors,) = session.request.anchors.values()  # several sets are refused before
    return anchors


def _first_anchors(session: ScoringSession, num_usable: int) -> tuple[AnchorSet, int]:
    """Take some anchors at random to measure on, of the given ones or of the pool.

    Args:
        session: open session.
        num_usable: number of rows of the pool that can be read.

    Returns:
        These anchors, and how many there may be in all.
    """
    given = _given(session)
    if given is None:
        number = max(1, min(FIRST_ANCHORS, num_usable // SMALL_POOL))
        first = chosen_anchors(with_number(session, number, anchor_selection="random"))
        return first, max(1, min(MOST, 2 * num_usable // SMALL_POOL))
    return find_anchors(with_number(session, FIRST_ANCHORS), []), min(MOST, len(given))


def _measure(session: ScoringSession) -> tuple[dict[str, Any], int]:
    """Score the rows of the smallest hashes on random anchors.

    Returns:
        How many anchors are needed, and why; and the number of pairs computed; on all ranks.
    """
    keys, dropped = session.pool.read_keys()
    usable = sorted(set(range(len(session.pool))).difference(dropped))
    first, most = _first_anchors(session, len(usable))
    anchors = {row.text_key for row in first.rows}
    by_key = {keys[i]: i for i in reversed(usable) if session.pool.texts[keys[i]] not in anchors}
    rows = sorted(by_key[key] for key in sorted(by_key)[:FIRST_ROWS])
    rendered = render_pool(session, first, rows)
    run = ExactRun(session, rendered, Watch(quiet=True), name="Trial of anchors")
    run.score()
    outcome = run.read_outcome()
    num_pairs = sum(session.ranks.gather([run.scorer.num_pairs]))

    def measure() -> dict[str, Any]:
        assert outcome is not None
        rank_by = session.config.rank_by
        why = number_for(measure_agreement(outcome.zero_shot, outcome.one_shot, 0.0, rank_by), most)
        if session.request.anchors is not None and rank_by == "golden_score":  # won by all, an anchor still has gains
            won_by_all, won_by_none = deciding_nothing(outcome.zero_shot, outcome.one_shot)
            why["replaced"] = [first.rows[j].key for j in np.flatnonzero(won_by_all | won_by_none)]
            if why["replaced"]:
                why["says"] += f"; {len(why['replaced'])} of these anchors decide nothing, and others are taken"
        return why

    return session.ranks.on_main(measure), num_pairs


def number_for(agreement: Agreement, most: int) -> dict[str, Any]:
    """Return how many anchors give the reliability that is wanted, and why.

    Args:
        agreement: reliability of the first anchors.
        most: largest number of anchors that may be taken.

    Example:
        >>> from nuggets_trainer.golden.agreement import Agreement
        >>> from nuggets_trainer.pipeline.auto_anchors import number_for
        >>> number_for(Agreement(64, 32, 0.8, None, None, 0, 0), 400)["num_anchors"]
        72
    """
    measured = f"{counted(agreement.num_rows, 'random row')} on {counted(agreement.num_anchors, 'random anchor')}"
    reliability = agreement.reliability
    if reliability is None:
        number = min(most, DEFAULT_NUM_ANCHORS)
        says = f"{number} anchors, as by default: {measured} are too few to tell how many are needed"
    else:
        needed = anchors_for_reliability(reliability, agreement.num_anchors, TARGET)
        number = min(most, max(FEWEST, math.ceil(min(needed, MOST))))
        expected = agreement.reliability_with(number)
        says = (
            f"{number} anchors, for a reliability of about {expected:.2f} ({TARGET} is wanted): {measured} give "
            f"{reliability:.2f}"
        )
        if needed > number:
            says += f"; more than {number} would be needed, the most that there can be here"
    return {
        "num_anchors": number,
        "reliability": None if reliability is None else float(np.round(reliability, 6)),
        "num_rows": agreement.num_rows,
        "first_anchors": agreement.num_anchors,
        "says": says,
    }
