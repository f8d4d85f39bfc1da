"""Stages that scoring a pool and planning share: render rows that a selection can be made of, run the schedule."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from nuggets_trainer.pipeline.request import check_selectable
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.prompts.shown import NOT_SHOWN, hint_on
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.race_run import RaceRun
from nuggets_trainer.scoring.rendering import Rendered, render_pool
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

LONG_ANCHOR = 0.25  # share of the context from which an anchor is to blame for rows that are too long


def render_selectable(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]) -> Rendered:
    """Render rows of the pool, and refuse a selection rule that what is left cannot meet; on all ranks.

    Args:
        session: open session of the pool.
        anchor_set: the anchors.
        rows: pool indices of the rows to score.

    Raises:
        ValueError: if no row is usable, or fewer than `top_k`.
    """
    rendered = render_pool(session, anchor_set, rows)
    counts = Counter(rendered.dropped.values())
    too_long = ""
    if counts["too_long"]:
        too_long = _too_long_hint(session, anchor_set)
    not_shown = hint_on(counts)
    check_selectable(session.config, len(session.pool), rendered.dropped, too_long + not_shown)
    if session.ranks.is_main:
        _warn_of_dropped(counts["too_long"], "too long", too_long)
        _warn_of_dropped(counts[NOT_SHOWN], "not shown whole", not_shown)
    return rendered


def _warn_of_dropped(number: int, why: str, hint: str) -> None:
    if number:
        verb = "is" if number == 1 else "are"
        logger.warning("%s %s %s.%s", counted(number, "candidate"), verb, why, hint)


def _too_long_hint(session: ScoringSession, anchor_set: AnchorSet) -> str:
    sizes = [len(segment.ids) for segment in anchor_set.segments]
    longest = max(range(len(sizes)), key=lambda j: sizes[j])
    hint = (
        f" A candidate must fit the model's context ({session.max_length} tokens) together with every anchor; the "
        f"longest, anchor {anchor_set.usable[longest]}, has {sizes[longest]}."
    )
    assert session.max_length is not None  # without a limit nothing is too long
    if sizes[longest] >= LONG_ANCHOR * session.max_length:
        return f"{hint} Shorten or drop long anchors."
    return f"{hint} Shorten the rows, or score with a model of a longer context."


def prepare_run(session: ScoringSession, rendered: Rendered, watch: Watch) -> ExactRun | RaceRun:
    """Give the run of the schedule that is in force."""
    if session.config.schedule_in_force == "exact":
        return ExactRun(session, rendered, watch)
    return RaceRun(session, rendered, watch)
