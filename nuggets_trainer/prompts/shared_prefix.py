"""What the engine scores: the anchors that can be scored whole, and each candidate's prefix before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.messages import system_messages
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.anchor_kinds import first_of_each_kind
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.segment import (
    CandidatePrompt,
    Remark,
    Segment,
    common_prefix_length,
    packed_prompt,
    stored_key,
)
from nuggets_trainer.prompts.shown import hint_on
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.wording import tally


class AnchorSet:
    """The anchors, and which of them can be scored whole.

    Args:
        template: template that renders the anchors.
        rows: anchors; a reason in place of a row that was unusable to begin with.
        pool_index: pool index of each anchor; None if anchors were given.
        max_length: the model's context in tokens; None if it has no limit.
        set_names: name of each anchor's set; None if there is only one set.

    Attributes:
        pool_index: pool index of each anchor; None if anchors were given.
        set_names: name of each anchor's set; "" if there is only one set.
        dropped: reason why an anchor cannot be scored; None for the usable anchors.
        repeats: position of the first equal anchor of the same set, by the position of one that is dropped because of
            it. It would count twice in each golden score.
        num_cut: number of anchors that the template cuts at its token limit.
        usable: positions of the anchors that can be scored.
        rows: rows of the usable anchors, in this order.
        keys: keys of the usable anchors in the store.
        segments: zero-shot prompts of the usable anchors.

    Raises:
        ValueError: if no anchor can be scored, or none of one of the sets.
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
        self.usable: list[int] = []
        self.rows: list[Row] = []
        self.keys: list[str] = []
        self.segments: list[Segment] = []
        self.dropped: list[str | None] = []
        self.repeats: dict[int, int] = {}
        self.num_cut = 0
        first: dict[tuple[str, str], int] = {}  # by set and content
        cause: BaseException | None = None
        for j, row in enumerate(rows):
            if isinstance(row, str):
                self.dropped.append(row)
                continue
            try:
                self._check_first(first, j, row)
                segment = _anchor_segment(template, row, max_length)
            except UnusableRowError as error:
                self.dropped.append(str(error))
                cause = cause or error.__cause__
                continue
            first[self.set_names[j], row.key] = j
            self.usable.append(j)
            self.rows.append(row)
            self.keys.append(stored_key(row.key, segment.remarks))
            self.segments.append(segment)
            self.dropped.append(None)
            if isinstance(template, NuggetsTemplate) and template.cuts(row):
                self.num_cut += 1
        for name in dict.fromkeys(self.set_names):
            self._check_usable(name, max_length, cause)

    def _check_first(self, first: dict[tuple[str, str], int], j: int, row: Row) -> None:
        """Check that no usable anchor of the same set is equal.

        Raises:
            UnusableRowError: if one is.
        """
        earlier = first.get((self.set_names[j], row.key))
        if earlier is not None:
            self.repeats[j] = earlier
            raise UnusableRowError("repeated_anchor")

    def _check_usable(self, set_name: str, max_length: int | None, cause: BaseException | None) -> None:
        dropped: list[str] = []
        for reason, name in zip(self.dropped, self.set_names, strict=True):
            if name != set_name:
                continue
            if reason is None:
                return
            dropped.append(reason)
        which = f" of the set {set_name!r}" if set_name else ""
        context = f" The model's context is {max_length} tokens." if "too_long" in dropped else ""
        first = f" The first error was {cause!r}." if cause is not None else ""
        raise ValueError(
            f"No anchor{which} can be scored: all {len(dropped)} were dropped ({tally(Counter(dropped))}).{context}"
            f"{first}{hint_on(dropped)} Expected rows with a prompt and a completion, at most half as long as the "
            "context."
        ) from cause


def _anchor_segment(template: Template, row: Row, max_length: int | None) -> Segment:
    """Render an anchor alone.

    Raises:
        UnusableRowError: if it cannot be scored whole. The reason `completion_changes` means that the template writes
            the completion differently behind an example, so the two log-probs would be of different tokens.
    """
    zero_shot, one_shot = template.zero_shot(row), template.one_shot(row, row)
    if max_length is not None and len(zero_shot.ids) > max_length:
        raise UnusableRowError("too_long")
    if zero_shot.targets != one_shot.targets:
        raise UnusableRowError("completion_changes")
    return zero_shot


class SharedPrefix:
    """Split the one-shot prompts of a candidate with all anchors into one prefix and one suffix per anchor.

    The suffixes are found by rendering each anchor behind one reference candidate. What these renderings have in
    common at their beginning (the candidate, and tokens that all anchors share) is prefix; the rest is suffix. At
    least one prompt token stays in each suffix, so that the completion's first token is predicted inside it.

    For every candidate the split is checked against whole renderings: with the first and the last anchor and with one
    of each kind of anchors that the template writes a candidate differently before, or with all anchors if candidate
    and anchor meet in plain text, where tokens may merge. If the split does not hold, the candidate's pairs
    are rendered whole. Anchors share a prefix only if they have the same header: system message, tools, and options of
    the chat template.

    Args:
        template: template that renders the pairs.
        anchors: usable anchors (`AnchorSet.rows`).
        max_length: the model's context in tokens; None if it has no limit.

    Attributes:
        headers: positions of the anchors of each header.
        suffixes: suffix of each anchor, by position.
    """

    def __init__(self, template: Template, anchors: Sequence[Row], max_length: int | None = None) -> None:
        self._template = template
        self._anchors = anchors
        self._max_length = max_length
        self.suffixes: dict[int, Segment] = {}
        by_header: dict[str, list[int]] = {}
        for j, anchor in enumerate(anchors):
            header = (system_messages(anchor.prompt), anchor.tools, anchor.template_kwargs)
            by_header.setdefault(str(header), []).append(j)
        self.headers = list(by_header.values())
        self._to_check: dict[int, list[int]] = {}  # by the first anchor of each header
        for positions in self.headers:
            self.suffixes.update(self._split(positions))
            self._to_check[positions[0]] = self._anchors_to_check(positions)
        self.suffix_tokens = np.zeros(len(anchors), dtype=np.int64)
        for j, suffix in self.suffixes.items():
            self.suffix_tokens[j] = len(suffix.ids)

    def tokenize_ahead(self, rows: Sequence[Row]) -> None:
        """Tokenize the texts of candidates that are rendered next; `chat` writes a text with each anchor instead."""
        if isinstance(self._template, (PlainTemplate, NuggetsTemplate)):
            self._template.tokenize_ahead(rows)

    def candidate(self, row: Row) -> CandidatePrompt:
        """Render a candidate before all anchors.

        Raises:
            UnusableRowError: if it cannot be rendered, if it changes the tokens that an anchor is scored on, or if it
                does not fit the context together with every anchor.
        """
        prefixes: list[list[int]] = []
        unshared: dict[int, Segment] = {}
        remarks: set[Remark] = set()
        for positions in self.headers:
            checked = self._whole(row, self._to_check[positions[0]])
            prefix = self._prefix(checked, positions[0])
            segments = self.suffixes
            if not prefix:
                segments = checked = self._whole(row, positions)
                unshared.update(segments)
            for segment in checked.values():
                remarks.update(segment.remarks)
            prefixes.append(prefix)
            for j in positions:
                if self._max_length is not None and len(prefix) + len(segments[j].ids) > self._max_length:
                    raise UnusableRowError("too_long")
        return packed_prompt(prefixes, unshared, remarks)

    def parts(self, prompt: CandidatePrompt) -> Iterator[tuple[list[int], list[int], Mapping[int, Segment]]]:
        """Yield the parts of a candidate's prompt, header by header.

        Yields:
            Token ids of a prefix, positions of its anchors, and the segments behind it by position.
        """
        for prefix, positions in zip(prompt.prefixes, self.headers, strict=True):
            yield prefix.tolist(), positions, self.suffixes if prefix else prompt.unshared

    def num_tokens(self, prompt: CandidatePrompt, anchors: npt.NDArray[np.int64]) -> int:
        """Count the tokens of the forward passes that score a candidate with these anchors at once."""
        if not prompt.unshared:
            return prompt.prefix_tokens() + int(self.suffix_tokens[anchors].sum())
        total = prompt.prefix_tokens()
        for j in anchors.tolist():
            unshared = j in prompt.unshared
            total += prompt.unshared.num_tokens(j) if unshared else len(self.suffixes[j].ids)
        return total

    def _split(self, positions: list[int]) -> dict[int, Segment]:
        """Find the suffixes of anchors with one header."""
        reference = self._anchors[positions[0]]
        whole = {j: self._template.one_shot(reference, self._anchors[j]) for j in positions}
        first = whole[positions[0]]
        shared = len(first.ids)
        for segment in whole.values():
            shared = min(shared, common_prefix_length(first.ids, segment.ids), segment.start - 1)
        return {j: segment.without_first(shared) for j, segment in whole.items()}

    def _anchors_to_check(self, positions: list[int]) -> list[int]:
        """Choose the anchors to check the split of each candidate with: a few if the boundary is safe, else all.

        The boundary is what the prefixes of two different candidates have in common at their end.
        """
        first, last = positions[0], positions[-1]
        prefix = self._prefix_behind(self._anchors[first], first)
        other = self._prefix_behind(self._anchors[last], first)
        length = common_prefix_length(prefix[::-1], other[::-1])
        differ = length < min(len(prefix), len(other))
        if differ and self._template.boundary_is_safe(prefix[len(prefix) - length :]):
            different: list[int] = []
            if isinstance(self._template, ChatTemplate):  # the others write each row by itself
                different = first_of_each_kind(self._prefix_behind, positions)
            return list(dict.fromkeys([first, last, *different]))
        return positions

    def _prefix_behind(self, candidate: Row, j: int) -> list[int]:
        """Return what is left of a pair's one-shot prompt without the anchor's suffix; all of it if it has another."""
        ids = self._template.one_shot(candidate, self._anchors[j]).ids
        if ids[-len(self.suffixes[j].ids) :] != self.suffixes[j].ids:
            return ids
        return ids[: len(ids) - len(self.suffixes[j].ids)]

    def _prefix(self, whole: dict[int, Segment], first: int) -> list[int]:
        """Return the prefix of a candidate before anchors with one header; empty if they cannot share one.

        Args:
            whole: one-shot prompts of the candidate with the anchors to check, by position.
            first: position of the header's first anchor.
        """
        prefix = whole[first].ids[: len(whole[first].ids) - len(self.suffixes[first].ids)]
        for j, segment in whole.items():
            if segment != self.suffixes[j].behind(prefix):
                return []
        return prefix

    def _whole(self, row: Row, positions: list[int]) -> dict[int, Segment]:
        """Render the one-shot prompts of a candidate with some anchors, by position.

        Raises:
            UnusableRowError: if one is not scored on the tokens of the anchor's zero-shot prompt.
        """
        segments = {}
        for j in positions:
            segments[j] = self._template.one_shot(row, self._anchors[j])
            if segments[j].targets != self.suffixes[j].targets:
                raise UnusableRowError("completion_changes")
        return segments
