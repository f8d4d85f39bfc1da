"""Candidates as the engine takes them: each process renders a share of the rows before all anchors."""

from __future__ import annotations

import logging
import time
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import Remark, stored_key
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rendered:
    """Anchors and candidates, rendered.

    Attributes:
        anchor_set: the anchors.
        shared: renders a candidate before all anchors, and holds their suffixes.
        candidates: numbers of the rows that can be scored, of all processes, in order, `(c,)`: pool indices if the
            rows are those of a pool.
        keys: keys of the candidates in the store, `(c,)`.
        text_keys: hash of a candidate's text by key.
        prompts: prompts of the candidates that this process rendered, by number.
        dropped: reason of each row that cannot be scored, by number.
        seconds: time that this process took to render its share.
        remarks: number of `candidates` and of `anchors` with each remark on their rendering.
    """

    anchor_set: AnchorSet
    shared: SharedPrefix
    candidates: list[int]
    keys: list[str]
    text_keys: Mapping[str, str]
    prompts: dict[int, CandidatePrompt]
    dropped: dict[int, str]
    seconds: float
    remarks: dict[str, dict[str, int]] = field(default_factory=dict)


def render_pool(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]) -> Rendered:
    """Render rows of the pool before all anchors; on all ranks.

    Args:
        session: open session of the pool.
        anchor_set: the anchors.
        rows: pool indices of the rows to score.
    """
    pool = session.pool
    keys, dropped = pool.read_keys()
    shared = SharedPrefix(session.template, anchor_set.rows, session.max_length)
    readable = [i for i in rows if i not in dropped]
    prompts: dict[int, CandidatePrompt] = {}
    own_dropped: dict[int, str] = {}
    cause_shown = False
    started = time.monotonic()
    own = session.ranks.share(pool.longest_first(readable))  # ranks get as many tokens each, not as many rows
    with show_phase("Rendering", "rows", len(own), session.ranks.is_main) as phase:
        for i in own:
            phase.advance()
            try:
                prompts[i] = shared.candidate(pool[i])
            except UnusableRowError as error:
                own_dropped[i] = str(error)
                if error.__cause__ is not None and not cause_shown:
                    cause_shown, told = True, "Row %d is dropped as %s: %r. Later ones are only counted."
                    logger.warning(told, i, error, error.__cause__)
    seconds = time.monotonic() - started
    _warn_of_unshared(prompts)
    dropped |= dict(session.ranks.gather(list(own_dropped.items())))
    candidates = [i for i in rows if i not in dropped]
    remarks = _gather_remarks(session, prompts)
    counts = {
        "candidates": Counter(remark for i in candidates for remark in remarks.get(i, ())),
        "anchors": Counter(remark for segment in anchor_set.segments for remark in segment.remarks),
    }
    if session.ranks.is_main:
        _tell_left_out("candidates", counts["candidates"], len(candidates))
        _tell_left_out("anchors", counts["anchors"], len(anchor_set.segments))
    candidate_keys = [stored_key(keys[i], remarks.get(i, ())) for i in candidates]
    anew = {stored_key(keys[i], found): pool.texts[keys[i]] for i, found in remarks.items()}
    text_keys = ChainMap(anew, pool.texts)
    named = {kind: {remark.value: count for remark, count in found.items()} for kind, found in counts.items()}
    return Rendered(anchor_set, shared, candidates, candidate_keys, text_keys, prompts, dropped, seconds, named)


def render_rows(session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: Sequence[Row]) -> Rendered:
    """Render rows of any origin before all anchors, numbered from 0 on; on all ranks.

    Args:
        session: open session.
        anchor_set: the anchors.
        shared: renders a candidate before these anchors.
        rows: the candidates.
    """
    started = time.monotonic()
    prompts: dict[int, CandidatePrompt] = {}
    own_dropped: dict[int, str] = {}
    for number in session.ranks.share(range(len(rows))):
        try:
            prompts[number] = shared.candidate(rows[number])
        except UnusableRowError as error:
            own_dropped[number] = str(error)
    seconds = time.monotonic() - started
    dropped = dict(session.ranks.gather(list(own_dropped.items())))
    remarks = _gather_remarks(session, prompts)
    candidates, keys, text_keys = [], [], {}
    for number, row in enumerate(rows):
        if number not in dropped:
            key = stored_key(row.key, remarks.get(number, ()))
            candidates.append(number)
            keys.append(key)
            text_keys[key] = row.text_key
    return Rendered(anchor_set, shared, candidates, keys, text_keys, prompts, dropped, seconds)


def _warn_of_unshared(prompts: dict[int, CandidatePrompt]) -> None:
    num_unshared = 0
    for prompt in prompts.values():
        num_unshared += bool(prompt.unshared)
    if num_unshared:
        logger.warning(
            "The template renders %d of %d candidates differently before different anchors: their pairs are computed "
            "whole, without a shared prefix (slower, the same scores).",
            num_unshared,
            len(prompts),
        )


def _gather_remarks(session: ScoringSession, prompts: dict[int, CandidatePrompt]) -> dict[int, set[Remark]]:
    """Collect the remarks on the candidates of all ranks, by number; candidates without remarks are left out."""
    own = [(i, prompt.remarks) for i, prompt in prompts.items() if prompt.remarks]
    return dict(session.ranks.gather(own))


def _tell_left_out(kind: str, counts: Mapping[Remark, int], number: int) -> None:
    """Say once how many rows are neither scored nor trained on with all that they say."""
    for remark, what in ((Remark.REASONING_LEFT_OUT, "reasoning"), (Remark.SYSTEM_LEFT_OUT, "system messages")):
        if counts[remark]:
            logger.warning(
                "The template leaves out %s of %d of %d %s, in training too, so that it counts in neither. Name a "
                "chat template that shows it (`chat_template_path`, SFTConfig) if it matters.",
                what,
                counts[remark],
                number,
                kind,
            )
    if counts[Remark.PARTS_JOINED]:
        logger.info(
            "The contents of %d of %d %s are lists of text parts, which the chat template does not show. They are "
            "scored as text, and `SelectedSFTTrainer` and the recipes train on them as text. Any other trainer needs "
            "them as text (`dataset.map`).",
            counts[Remark.PARTS_JOINED],
            number,
            kind,
        )
    if counts[Remark.AS_TRAINED]:
        logger.info(
            "The template leaves out reasoning of earlier turns: %d of %d %s are shown to the model as training shows "
            "them, with their reasoning.",
            counts[Remark.AS_TRAINED],
            number,
            kind,
        )
