"""Candidates as the engine takes them: each process renders a share of the rows before all anchors."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.segment import CandidatePrompt, Remark, stored_key
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.render_workers import (
    Rendering,
    RenderingTime,
    Workers,
    count_workers,
    render_row,
    workers_pay,
)
from nuggets_trainer.scoring.session import ScoringSession

logger = logging.getLogger(__name__)

TIMED_ROWS = 200  # candidates that this process renders first, to tell how long the others will take
CHECKED_ROWS = 8  # candidates of these that workers render again
BLOCK_ROWS = 100  # candidates whose texts are tokenized together, in a worker too


@dataclass(frozen=True, eq=False)
class Candidates:
    """The rows of a pool that can be scored, and the anchors.

    Attributes:
        anchor_set: the anchors; empty where nothing is measured on anchors.
        candidates: numbers of the rows that can be scored, of all processes, in order, `(c,)`: pool indices if the
            rows are those of a pool.
        dropped: reason of each row that cannot be scored, by number.
        remarks: number of `candidates` and of `anchors` with each remark on their rendering.
    """

    anchor_set: AnchorSet
    candidates: list[int]
    dropped: dict[int, str]
    remarks: dict[str, dict[str, int]]


@dataclass(frozen=True, eq=False)
class Rendered(Candidates):
    """Anchors and candidates, rendered before all anchors.

    Attributes:
        shared: renders a candidate before all anchors, and holds their suffixes.
        keys: keys of the candidates in the store, `(c,)`.
        text_keys: hash of a candidate's text by key.
        prompts: prompts of the candidates that this process rendered, by number.
        time_taken: what rendering this process's share has shown about its time.

    The other attributes are those of `Candidates`.
    """

    shared: SharedPrefix
    keys: list[str]
    text_keys: Mapping[str, str]
    prompts: dict[int, CandidatePrompt]
    time_taken: RenderingTime

    def only(self, wanted: Container[int]) -> Rendered:
        """Return the same anchors with some of the candidates, given by number."""
        candidates, keys = [], []
        for i, key in zip(self.candidates, self.keys, strict=True):
            if i in wanted:
                candidates.append(i)
                keys.append(key)
        prompts = {i: prompt for i, prompt in self.prompts.items() if i in wanted}
        return dataclasses.replace(self, candidates=candidates, keys=keys, prompts=prompts)


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
    own = session.ranks.share(pool.longest_first(readable))  # ranks get as many tokens each, not as many rows
    with show_phase("Rendering", "rows", len(own), session.ranks.is_main) as phase:
        found, time_taken = render_share(shared, own, pool.readable_rows, phase.advance)
    prompts, own_dropped = _sort_out(found)
    _warn_of_unshared(prompts)
    dropped |= dict(session.ranks.gather(list(own_dropped.items())))
    candidates = [i for i in rows if i not in dropped]
    remarks = _gather_remarks(session, prompts)
    counted_remarks = count_remarks(session, anchor_set, candidates, remarks)
    candidate_keys = [stored_key(keys[i], remarks.get(i, ())) for i in candidates]
    anew = {stored_key(keys[i], found): pool.texts[keys[i]] for i, found in remarks.items()}
    text_keys = ChainMap(anew, pool.texts)  # type: ignore[arg-type]  # nobody writes into it
    return Rendered(
        anchor_set,
        candidates,
        dropped,
        counted_remarks,
        shared,
        candidate_keys,
        text_keys,
        prompts,
        time_taken,
    )


def count_remarks(
    session: ScoringSession,
    anchor_set: AnchorSet,
    candidates: Sequence[int],
    remarks: Mapping[int, frozenset[Remark]],
) -> dict[str, dict[str, int]]:
    """Count the `candidates` and the `anchors` with each remark, and say once what the template leaves out."""
    counts = {
        "candidates": Counter(remark for i in candidates for remark in remarks.get(i, ())),
        "anchors": Counter(remark for segment in anchor_set.segments for remark in segment.remarks),
    }
    if session.ranks.is_main:
        _tell_left_out("candidates", counts["candidates"], len(candidates))
        _tell_left_out("anchors", counts["anchors"], len(anchor_set.segments))
    return {kind: {remark.value: count for remark, count in found.items()} for kind, found in counts.items()}


def render_rows(session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, rows: Sequence[Row]) -> Rendered:
    """Render rows of any origin before all anchors, numbered from 0 on; on all ranks.

    Args:
        session: open session.
        anchor_set: the anchors.
        shared: renders a candidate before these anchors.
        rows: the candidates.
    """
    own = session.ranks.share(range(len(rows)))
    found, time_taken = render_share(shared, own, lambda numbers: [rows[number] for number in numbers])
    prompts, own_dropped = _sort_out(found)
    dropped = dict(session.ranks.gather(list(own_dropped.items())))
    remarks = _gather_remarks(session, prompts)
    candidates, keys, text_keys = [], [], {}
    for number, row in enumerate(rows):
        if number not in dropped:
            key = stored_key(row.key, remarks.get(number, ()))
            candidates.append(number)
            keys.append(key)
            text_keys[key] = row.text_key
    return Rendered(anchor_set, candidates, dropped, {}, shared, keys, text_keys, prompts, time_taken)


def render_share(
    shared: SharedPrefix,
    numbers: Sequence[int],
    read: Callable[[Sequence[int]], list[Row]],
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[int, Rendering], RenderingTime]:
    """Render candidates in this process, or in workers where these pay; the results are the same.

    Args:
        shared: renders a candidate before all anchors.
        numbers: numbers of the candidates.
        read: gives the rows of some numbers.
        advance: is called for each candidate that is done.

    Returns:
        What each candidate is rendered as, in the order of `numbers`, and what that has shown about the time.
    """
    found: dict[int, Rendering] = {}

    def keep(number: int, rendering: Rendering) -> None:
        found[number] = rendering
        advance()

    def render_here(own: Sequence[int]) -> None:
        for block in _blocks(own):
            rows = read(block)
            shared.tokenize_ahead(rows)
            for number, row in zip(block, rows, strict=True):
                keep(number, render_row(shared, row))

    started = time.monotonic()
    timed = numbers[:: max(1, len(numbers) // TIMED_ROWS)]  # evenly spaced, as the longest may come first
    render_here(timed)
    seconds_per_row = (time.monotonic() - started) / max(1, len(timed))
    num_workers = count_workers()
    are_used = workers_pay(seconds_per_row * (len(numbers) - len(timed)), num_workers)
    if are_used:
        try:
            _render_in_workers(shared, num_workers, numbers, found, read, keep)
        except Exception as error:  # noqa: BLE001 - whatever stops the workers, this process can go on
            logger.warning("Workers for rendering do not work here (%r). This process goes on alone.", error)
    render_here([number for number in numbers if number not in found])
    if not are_used:
        seconds_per_row = (time.monotonic() - started) / max(1, len(numbers))
    return {number: found[number] for number in numbers}, RenderingTime(len(numbers), seconds_per_row, num_workers)


def _render_in_workers(
    shared: SharedPrefix,
    num_workers: int,
    numbers: Sequence[int],
    found: Mapping[int, Rendering],
    read: Callable[[Sequence[int]], list[Row]],
    keep: Callable[[int, Rendering], None],
) -> None:
    """Render what is not found yet; some that is found is rendered again, because it must come to the same.

    Raises:
        Exception: if the workers fail, or render otherwise than this process.
    """
    again = list(found)[:CHECKED_ROWS]
    left = [number for number in numbers if number not in found]
    blocks = [again, *_blocks(left)]
    with Workers(shared, num_workers) as workers:
        answers = workers.render(map(read, blocks))
        for number, rendering in zip(again, next(answers), strict=True):
            if rendering != found[number]:
                raise RuntimeError(f"candidate {number} is rendered otherwise there")
        for block, answer in zip(blocks[1:], answers, strict=True):
            for number, rendering in zip(block, answer, strict=True):
                keep(number, rendering)


def _blocks(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Cut the numbers of candidates into blocks, the last of which may be shorter."""
    return [numbers[start : start + BLOCK_ROWS] for start in range(0, len(numbers), BLOCK_ROWS)]


def _sort_out(found: Mapping[int, Rendering]) -> tuple[dict[int, CandidatePrompt], dict[int, str]]:
    """Return the prompts, and the reasons of rows that have none; warn of the first error of a template."""
    prompts: dict[int, CandidatePrompt] = {}
    dropped: dict[int, str] = {}
    cause_shown = False
    for number, rendering in found.items():
        if isinstance(rendering, CandidatePrompt):
            prompts[number] = rendering
            continue
        dropped[number] = rendering.reason
        if rendering.cause is not None and not cause_shown:
            cause_shown, told = True, "Row %d is dropped as %s: %s. Later ones are only counted."
            logger.warning(told, number, rendering.reason, rendering.cause)
    return prompts, dropped


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


def _gather_remarks(session: ScoringSession, prompts: dict[int, CandidatePrompt]) -> dict[int, frozenset[Remark]]:
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
