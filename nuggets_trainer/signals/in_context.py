"""How much likelier a row's completion becomes with anchors as examples before it: the direction of ICA.

The golden score shows a row before each anchor. Here the anchors are shown before each row: one prefix that many rows
share, so that its keys and values are computed once for all rows of a call of the engine.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.messages import system_messages
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.engine.log_probs import PATHS
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment, common_prefix_length
from nuggets_trainer.scoring.pair_scorer import CALL_BATCHES
from nuggets_trainer.scoring.progress import Phase, tell
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.examples import ExampleContexts
from nuggets_trainer.signals.row_signals import render_signal_row
from nuggets_trainer.signals.stored_values import (
    Wanted,
    compute_missing,
    find_missing,
    read_columns,
    rendered_batches,
)
from nuggets_trainer.store.score_store import PartWriter

logger = logging.getLogger(__name__)

# Names in the store, before the hash of the examples: behind one context, and behind several.
IN_CONTEXT = "=loss_in_context"
IN_CONTEXTS = "=mean_loss_in_contexts"
PREFIX_SHARE = 1 / 32  # most that the tokens of the shared prefix may be, beside those of the rows of one call


@dataclass(frozen=True)
class _Asked:
    """A row to score behind examples."""

    wanted: Wanted
    row: Row
    alone: Segment


def in_context_losses(
    session: ScoringSession, contexts: ExampleContexts, candidates: list[int]
) -> npt.NDArray[np.float64] | None:
    """Compute the loss of each candidate's completion after anchors as examples, as far as it is not stored.

    All ranks must call it. The loss of the same tokens without examples, minus this one, is the ICA score
    ("Holdout-Loss-Based Data Selection", arXiv 2510.14459). The paper chooses other examples for each row; here all
    rows have the same, see `ExampleContexts`, so that they share a prefix. It equals, up to rounding, one forward pass
    over the whole text `few_shot(examples, row)` for each row and context.

    Args:
        session: open session of the pool.
        contexts: the anchors that are shown.
        candidates: pool indices of the candidates.

    Returns:
        Mean negative log-prob per token, averaged over the contexts that the row can be rendered behind, nats, `(n,)`
        over the pool's rows, on the main process; NaN for a row that cannot be rendered alone or behind any context.
    """
    name = in_context_name(contexts)
    if session.ranks.is_main:
        tell(logger, "%s", contexts.describe())
    wanted = session.ranks.on_main(lambda: find_missing(session, candidates, [name]))
    if wanted:
        before = session.engine.path, session.engine.compiles
        try:
            _choose_path(session, contexts, wanted)
            compute_missing(
                session,
                wanted,
                "Rows after anchors",
                lambda own, writer, phase: _compute(session, contexts, own, writer, phase),
            )
        finally:
            session.engine.path, session.engine.compiles = before
    return session.only_on_main(lambda: read_columns(session, candidates, [name])[0])


def in_context_name(contexts: ExampleContexts) -> str:
    """Return the name of the losses in the store; it depends on the anchors that are shown.

    Means over several contexts have a name that earlier versions did not use: these stored NaN for a row if one of the
    contexts could not stand before it, and a stored NaN counts as known.
    """
    if len(contexts.contexts) > 1:
        return f"{IN_CONTEXTS} {contexts.key}"
    return f"{IN_CONTEXT} {contexts.key}"


def _choose_path(session: ScoringSession, contexts: ExampleContexts, wanted: list[Wanted]) -> None:
    """Have the engine choose one path for all ranks, on the longest and the shortest row."""

    def sample() -> list[PrefixedSegments]:
        asked = []
        for one in (wanted[0], wanted[-1]):
            with contextlib.suppress(UnusableRowError):
                asked.append(_ask(session, one))
        groups = _group(contexts, contexts.contexts[0], asked)
        return [prefixed for prefixed, _ in groups]

    engine, prefixed = session.engine, session.ranks.on_main(sample)
    if not prefixed:
        return  # the first call of the engine finds out

    def choose() -> list[str]:
        with session.passes.in_step():
            return [engine.choose_path(prefixed)]

    # The slowest path that one of the ranks needs.
    engine.path = max(session.ranks.gather_from(choose), key=list(PATHS).index)


def _compute(
    session: ScoringSession, contexts: ExampleContexts, own: list[Wanted], writer: PartWriter, phase: Phase
) -> None:
    """Compute the losses of this rank's rows into the store."""
    for batch in _batches(session, contexts, own, writer):
        totals, counts = np.zeros(len(batch)), np.zeros(len(batch))
        for examples in contexts.contexts:
            log_probs, is_scored = _log_probs(session, contexts, examples, batch)
            totals[is_scored] -= log_probs[is_scored]
            counts += is_scored
        losses = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
        for asked, loss in zip(batch, losses, strict=True):
            writer.add(session.keys[asked.wanted.index], asked.wanted.names, np.array([loss], dtype=np.float32))
        writer.end_candidates(len(batch))
        phase.advance(len(batch))


def _batches(
    session: ScoringSession, contexts: ExampleContexts, own: list[Wanted], writer: PartWriter
) -> Iterator[list[_Asked]]:
    """Yield so many rows that the prefix hardly counts beside them."""

    def render(wanted: Wanted) -> tuple[_Asked, int]:
        asked = _ask(session, wanted)
        return asked, len(asked.alone.ids)

    def least_tokens() -> float:
        enough = CALL_BATCHES * session.engine.find_tokens_per_batch()
        return max(enough, contexts.most_tokens / PREFIX_SHARE)

    return rendered_batches(session, own, writer, render, least_tokens)


def _ask(session: ScoringSession, wanted: Wanted) -> _Asked:
    """Render a row alone.

    Raises:
        UnusableRowError: if that is not possible.
    """
    return _Asked(wanted, session.pool[wanted.index], render_signal_row(session, wanted.index).segment)


def _log_probs(
    session: ScoringSession, contexts: ExampleContexts, examples: list[Row], batch: list[_Asked]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the mean log-prob of each row's completion behind one context's examples, and which rows have one."""
    found, is_scored = np.full(len(batch), np.nan), np.zeros(len(batch), dtype=bool)
    groups = _group(contexts, examples, batch)
    if groups:
        values = session.engine.score_prefixed([prefixed for prefixed, _ in groups])
        for (_, places), own in zip(groups, values, strict=True):
            found[places] = own
            is_scored[places] = True
    return found, is_scored


def _group(
    contexts: ExampleContexts, examples: list[Row], batch: list[_Asked]
) -> list[tuple[PrefixedSegments, list[int]]]:
    """Render rows behind examples, and split off what rows have in common at their beginning.

    Rows share a prefix if the same examples are shown, and if they have one system message, one list of tools and one
    set of options of the chat template, which a template may write before all turns.

    Returns:
        A prefix, the segments behind it, and the places of their rows in the batch, for each group.
    """
    groups: dict[str, dict[int, Segment]] = {}  # segments by place in the batch
    for place, asked in enumerate(batch):
        try:
            shown, segment = contexts.behind(examples, asked.row, asked.alone)
        except UnusableRowError:
            continue
        row = asked.row
        header = [list(map(id, shown)), system_messages(row.prompt), row.tools, row.template_kwargs]
        groups.setdefault(str(header), {})[place] = segment
    found: list[tuple[PrefixedSegments, list[int]]] = []
    for members in groups.values():
        segments = list(members.values())
        shared = _shared_length(segments)
        suffixes = [segment.without_first(shared) for segment in segments]
        found.append(((segments[0].ids[:shared], suffixes), list(members)))
    return found


def _shared_length(segments: list[Segment]) -> int:
    """Count the tokens that segments have in common before the token that comes before the first scored one."""
    first = segments[0]
    shared = first.start - 1
    for segment in segments[1:]:
        shared = min(shared, segment.start - 1, common_prefix_length(first.ids, segment.ids))
    return shared
