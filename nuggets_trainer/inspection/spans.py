"""Splitting of a one-shot prompt into context, candidate, answer, anchor and scored tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nuggets_trainer.inspection.facts import Span
from nuggets_trainer.prompts.segment import Segment, common_prefix_length

Decode = Callable[[Sequence[int]], str]

COMPARED_BEFORE, COMPARED_BEHIND = 4, 8  # tokens around the beginning of a completion, by which it is found again


def spans_of_pair(
    one_shot: Segment, zero_shot: Segment, alone: Segment | None, said: Sequence[str], decode: Decode
) -> tuple[Span, ...]:
    """Split the tokens of a candidate before an anchor into spans.

    Args:
        one_shot: the two together; the anchor's completion is scored.
        zero_shot: the anchor alone.
        alone: the candidate alone, with its completion scored; None if it cannot be rendered alone.
        said: texts of the candidate's completion, used to find it if its tokens differ from those of the row alone.
        decode: the tokenizer's `decode`.
    """
    first, behind = _find_candidate(one_shot.ids, zero_shot.ids)
    kinds = ["context"] * first + ["candidate"] * (behind - first) + ["anchor"] * (len(one_shot.ids) - behind)
    if alone is not None:
        start = _find_completion(one_shot.ids, first, behind, alone)
        if start == behind:
            start = _find_said(one_shot.ids, first, behind, said, decode)
        kinds[start:behind] = ["answer"] * (behind - start)
    for position in one_shot.positions:
        kinds[position] = "scored"
    return _joined(one_shot.ids, kinds, decode)


def _find_candidate(ids: Sequence[int], anchor_ids: Sequence[int]) -> tuple[int, int]:
    """Return where the candidate begins, and the position behind it.

    Tokens that the pair shares with the anchor alone, at its beginning and at its end, are not part of the candidate.
    If a system message comes first, the candidate could begin before or behind the message's end mark. The end mark
    then belongs to the message.
    """
    num_behind = common_prefix_length(list(reversed(ids)), list(reversed(anchor_ids)))
    num_before = len(anchor_ids) - num_behind
    same = common_prefix_length(ids, anchor_ids)
    if num_before > same:  # the template writes the anchor in another way behind a candidate
        return min(same, len(ids) - num_behind), len(ids) - num_behind
    added = len(ids) - len(anchor_ids)
    for num_marks in range(1, min(same - num_before, len(anchor_ids)) + 1):
        if list(anchor_ids[-num_marks:]) == list(ids[num_before : num_before + num_marks]):
            num_before += num_marks
            break
    return num_before, num_before + added


def _find_completion(ids: Sequence[int], first: int, behind: int, alone: Segment) -> int:
    """Return where the candidate's completion begins; `behind` if its tokens differ from those of the row alone."""
    before = alone.ids[max(0, alone.start - COMPARED_BEFORE) : alone.start]
    searched = [*before, *alone.ids[alone.start : alone.start + COMPARED_BEHIND]]
    for num_tokens in (len(searched), len(before) + 1):  # a short completion is followed by other marks here
        for start in range(behind - num_tokens, first - 1, -1):
            if list(ids[start : start + num_tokens]) == searched[:num_tokens]:
                return start + len(before)
    return behind


def _find_said(ids: Sequence[int], first: int, behind: int, said: Sequence[str], decode: Decode) -> int:
    """Return where the first text begins that is in the candidate; `behind` if none is."""
    for text in said:
        if text not in decode(ids[first:behind]):
            continue
        low, high = first, behind  # tokens from `low` on show the text, those from `high` on do not
        while high - low > 1:
            middle = (low + high) // 2
            if text in decode(ids[middle:behind]):
                low = middle
            else:
                high = middle
        return low
    return behind


def _joined(ids: Sequence[int], kinds: Sequence[str], decode: Decode) -> tuple[Span, ...]:
    """Write runs of tokens of one kind as text; the texts together are the text of all tokens."""
    spans: list[Span] = []
    start, written = 0, ""
    for position in range(1, len(ids) + 1):
        if position < len(ids) and kinds[position] == kinds[start]:
            continue
        text = decode(ids[:position])
        # A character of several bytes may be cut here. It is then added to the span in which it ends.
        known = common_prefix_length(text, written)
        spans.append(Span(kinds[start], text[known:], position - start))
        start, written = position, text
    return tuple(spans)
