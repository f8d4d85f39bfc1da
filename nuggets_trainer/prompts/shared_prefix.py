"""What the engine is given: the anchors that can be scored whole, and each candidate's prefix before them.

Knows no model, no ranks and no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.chat import system_messages
from nuggets_trainer.prompts.segment import Segment, common_prefix_length
from nuggets_trainer.prompts.templates import NuggetsTemplate, Template


class AnchorSet:
    """The anchors, and which of them can be scored whole.

    Args:
        template: renders the anchors.
        rows: the anchors; a reason where a row was unusable to begin with.
        pool_index: pool index of each, None when anchors were given.
        max_length: the model's context in tokens; None where it has no limit.
        set_names: of each the anchor set it belongs to; None for one set alone.

    Attributes:
        pool_index: pool index of each anchor; None when anchors were given.
        set_names: name of each anchor's set; "" where there is one set alone.
        dropped: reason why an anchor cannot be scored; None for those that can.
        num_cut: number of anchors that the template cuts at its token limit.
        usable: positions of the anchors that can be scored.
        rows: rows of the usable anchors, in this order.
        keys: content hashes of the usable anchors.
        segments: zero-shot prompts of the usable anchors.

    Raises:
        ValueError: if no anchor (of one of the sets) can be scored.
    """

    def __init__(
        self,
        template: Template,
        rows: Sequence[Row | str],
        pool_index: Sequence[int | None],
        max_length: int | None,
        set_names: Sequence[str] | None = None,
    ) -> None:
        self.pool_index = list(pool_index)
        self.set_names = [""] * len(rows) if set_names is None else list(set_names)
        self.rows: list[Row] = []
        self.segments: list[Segment] = []
        self.dropped: list[str | None] = []
        self.num_cut = 0
        cause: BaseException | None = None
        for row in rows:
            if isinstance(row, str):
                self.dropped.append(row)
                continue
            try:
                self.segments.append(_anchor_segment(template, row, max_length))
            except UnusableRowError as error:
                self.dropped.append(str(error))
                cause = cause or error.__cause__
                continue
            self.rows.append(row)
            self.dropped.append(None)
            self.num_cut += isinstance(template, NuggetsTemplate) and template.cuts(row)
        self.keys = [row.key for row in self.rows]
        self.usable = [j for j, reason in enumerate(self.dropped) if reason is None]
        for name in dict.fromkeys(self.set_names):
            self._check_usable(name, max_length, cause)

    def _check_usable(self, set_name: str, max_length: int | None, cause: BaseException | None) -> None:
        dropped = [reason for reason, name in zip(self.dropped, self.set_names, strict=True) if name == set_name]
        if None in dropped:
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(dropped).most_common())
        context = f" The model's context is {max_length} tokens." if "too_long" in dropped else ""
        first = f" The first error was {cause!r}." if cause is not None else ""
        which = f" of the set {set_name!r}" if set_name else ""
        raise ValueError(
            f"No anchor{which} can be scored: all {len(dropped)} were dropped ({reasons}).{context}{first} Expected "
            "rows with a prompt and a completion, at most half as long as the context."
        ) from cause


def _anchor_segment(template: Template, row: Row, max_length: int | None) -> Segment:
    """Zero-shot segment of an anchor.

    Raises:
        UnusableRowError: if it cannot be scored whole. Reason `completion_changes` means that the template writes the
            completion differently once an example stands before it, so that the two log-probs would not be of the same
            tokens.
    """
    zero, one = template.zero_shot(row), template.one_shot(row, row)
    if max_length is not None and len(zero.ids) > max_length:
        raise UnusableRowError("too_long")
    if zero.targets != one.targets:
        raise UnusableRowError("completion_changes")
    return zero


@dataclass(frozen=True)
class CandidatePrompt:
    """One candidate as the engine takes it.

    Attributes:
        prefixes: `(prefix ids, anchor positions)`; a prefix is empty if the template does not allow a shared one.
        unshared: whole one-shot segments, by anchor position, of the anchors with an empty prefix.
    """

    prefixes: list[tuple[list[int], list[int]]]
    unshared: dict[int, Segment]

    def prefix_tokens(self) -> int:
        """Tokens of all prefixes: what a visit to the candidate costs before the first anchor."""
        return sum(len(prefix) for prefix, _ in self.prefixes)

    def num_tokens(self) -> int:
        """Length of the longest prefix or whole segment, to sort by."""
        return max(*(len(prefix) for prefix, _ in self.prefixes), *(len(s.ids) for s in self.unshared.values()), 0)


class SharedPrefix:
    """Split the one-shot prompts of a candidate with all anchors into one prefix and one suffix per anchor.

    The suffixes are found by rendering each anchor behind one reference candidate: what these renderings begin with
    alike (the candidate, and tokens that all anchors share) is prefix, the rest is suffix. At least one prompt token
    stays in each suffix, so that the completion's first token is predicted inside it. For every candidate the split is
    checked against the joint rendering with two anchors (with all, where candidate and anchor meet in plain text, as
    tokens may merge there); where it does not hold, its pairs are rendered whole. Anchors share a prefix if they have
    the same header: system message, tools, and options of the chat template.

    Args:
        template: renders the pairs.
        anchors: usable anchors (`AnchorSet.rows`).
        max_length: the model's context in tokens; None where it has no limit.
    """

    def __init__(self, template: Template, anchors: Sequence[Row], max_length: int | None = None) -> None:
        self._template, self._anchors, self._max_length = template, anchors, max_length
        self.suffixes: dict[int, Segment] = {}
        by_header: dict[str, list[int]] = {}
        for j, anchor in enumerate(anchors):
            header = (system_messages(anchor.prompt), anchor.tools, anchor.template_kwargs)
            by_header.setdefault(str(header), []).append(j)
        self._by_header = list(by_header.values())
        self._checked: dict[int, list[int]] = {}
        for positions in self._by_header:
            self.suffixes.update(self._split(positions))
            self._checked[positions[0]] = self._anchors_to_check(positions)
        self._suffix_tokens = np.array([len(self.suffixes[j].ids) for j in range(len(anchors))])

    def candidate(self, row: Row) -> CandidatePrompt:
        """Render a candidate before all anchors.

        Raises:
            UnusableRowError: if it cannot be rendered, if it changes the tokens that an anchor is scored on, or if it
                does not fit the context together with every anchor.
        """
        prefixes, unshared = [], {}
        for positions in self._by_header:
            prefix = self._prefix(row, positions)
            prefixes.append((prefix, positions))
            if not prefix:
                unshared.update({j: self._whole(row, j) for j in positions})
            segments = self.suffixes if prefix else unshared
            longest = len(prefix) + max(len(segments[j].ids) for j in positions)
            if self._max_length is not None and longest > self._max_length:
                raise UnusableRowError("too_long")
        return CandidatePrompt(prefixes, unshared)

    def num_tokens(self, prompt: CandidatePrompt, anchors: npt.NDArray[np.int64]) -> int:
        """Forward tokens of a candidate and these anchors, in one visit."""
        if prompt.unshared:
            segments = (prompt.unshared.get(j, self.suffixes[j]) for j in anchors.tolist())
            return prompt.prefix_tokens() + sum(len(segment.ids) for segment in segments)
        return prompt.prefix_tokens() + int(self._suffix_tokens[anchors].sum())

    def _split(self, positions: list[int]) -> dict[int, Segment]:
        reference = self._anchors[positions[0]]
        whole = {j: self._template.one_shot(reference, self._anchors[j]) for j in positions}
        first = whole[positions[0]]
        shared = min(min(common_prefix_length(first.ids, s.ids), s.start - 1) for s in whole.values())
        return {j: s.without_first(shared) for j, s in whole.items()}

    def _anchors_to_check(self, positions: list[int]) -> list[int]:
        """Anchors to hold the split of each candidate against: two where the boundary is safe, else all.

        The boundary is what two prefixes of different candidates end with alike.
        """
        first, suffix = positions[0], self.suffixes[positions[0]]
        prefixes = []
        for j in (positions[0], positions[-1]):
            whole = self._template.one_shot(self._anchors[j], self._anchors[first]).ids
            prefixes.append(whole[: len(whole) - len(suffix.ids)])
        length = common_prefix_length(prefixes[0][::-1], prefixes[1][::-1])
        differ = length < min(len(prefix) for prefix in prefixes)
        if differ and self._template.boundary_is_safe(prefixes[0][len(prefixes[0]) - length :]):
            return [positions[0], positions[-1]]
        return positions

    def _prefix(self, row: Row, positions: list[int]) -> list[int]:
        """Prefix ids of a candidate before these anchors of one header, or none where it cannot be shared."""
        whole = {j: self._whole(row, j) for j in self._checked[positions[0]]}
        first = positions[0]
        prefix = whole[first].ids[: len(whole[first].ids) - len(self.suffixes[first].ids)]
        for j, segment in whole.items():
            if segment != self.suffixes[j].behind(prefix):
                return []
        return prefix

    def _whole(self, row: Row, j: int) -> Segment:
        """One-shot prompt of a pair, which must be scored on the tokens that the anchor is scored on alone."""
        segment = self._template.one_shot(row, self._anchors[j])
        if segment.targets != self.suffixes[j].targets:
            raise UnusableRowError("completion_changes")
        return segment
