"""Rendering of rows before anchors: their tokens and lengths, and the rows that cannot be scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nuggets_trainer.data.messages import conversation
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.inspection.facts import AnchorsFact, LengthFact, RowView
from nuggets_trainer.inspection.lengths import summed_up
from nuggets_trainer.inspection.spans import spans_of_pair
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.shown import hint_on, pieces_of
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.prompts.tokenize import token_ids
from nuggets_trainer.wording import tally

MERGED_SEAM = "merged_seam"
NUM_STAND_INS = 10  # random rows of the pool, before anchors are chosen from it
LONGEST_STAND_IN = 4096  # tokens, where the context is not known: each row is rendered before several of them
MAX_LENGTH_OF_TRL = 1024  # SFTConfig's default `max_length`: training cuts longer rows


@dataclass
class Renderings:
    """Findings from rendering some rows.

    Attributes:
        dropped: reason of each row that cannot be scored, by pool index.
        not_anchors: number of rows that could be no anchor, by reason.
        remarks: number of rows by remark.
        rows: tokens of each row.
        prompts: tokens of each row's prompt, with what the template writes before it.
        completions: tokens of each row that training puts loss on.
    """

    dropped: dict[int, str] = field(default_factory=dict)
    not_anchors: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    rows: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)

    def lengths(self, anchors: Sequence[int]) -> tuple[LengthFact, ...]:
        """Sum up the lengths of the rows, of their parts, and of the anchors."""
        found = []
        parts = {"row": self.rows, "prompt": self.prompts, "completion": self.completions, "anchor": anchors}
        for of, lengths in parts.items():
            if lengths:
                found.append(summed_up(of, lengths))
        return tuple(found)


class RowRenderer:
    """Renders rows of a pool before anchors, as scoring does.

    Args:
        template: template of the pool and its anchors.
        tokenizer: tokenizer of the model that scores.
        pool: candidates.
        anchors: anchors of all sets, with a reason in place of each that cannot be read; None draws rows of the pool.
        set_names: name of each anchor's set.
        context: tokens that the model reads at once; None without a limit.
        loss_on: tokens that training puts loss on, as in `PoolFacts`.

    Raises:
        ValueError: if no anchor can be scored.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Any,
        pool: Pool,
        anchors: Sequence[Row | str] | None,
        set_names: Sequence[str],
        context: int | None,
        loss_on: str,
    ) -> None:
        self._template, self._pool, self._context = template, pool, context
        self._tokenizer, self._loss_on = tokenizer, loss_on
        self.stand_in: tuple[int, ...] = ()
        if anchors is None:
            self.stand_in = self._draw_stand_ins()
            anchors = [pool[i] for i in self.stand_in]
            set_names = [""] * len(anchors)
        self.anchor_set = AnchorSet(template, anchors, [None] * len(anchors), context, set_names)
        self._shared = SharedPrefix(template, self.anchor_set.rows, context)

    def anchors_fact(self) -> AnchorsFact:
        """Describe the anchors."""
        reasons = Counter(reason for reason in self.anchor_set.dropped if reason is not None)
        number = 0 if self.stand_in else len(self.anchor_set.dropped)
        return AnchorsFact(number, self.stand_in, dict(reasons), max(self.anchor_lengths()))

    def anchor_lengths(self) -> list[int]:
        """Return the tokens of each usable anchor alone."""
        return [len(segment.ids) for segment in self.anchor_set.segments]

    def render(self, indices: Sequence[int]) -> Renderings:
        """Render rows before all anchors, and alone."""
        found = Renderings()
        for i in indices:
            row = self._pool[i]
            try:
                prompt = self._shared.candidate(row)
            except UnusableRowError as error:
                found.dropped[i] = str(error)
                continue
            found.remarks.update(remark.value for remark in prompt.remarks)
            try:
                alone = self._alone(row)
                found.remarks.update(self._seam(row, alone))
            except UnusableRowError as error:
                found.not_anchors[str(error)] += 1
                continue
            found.rows.append(len(alone.ids))
            found.prompts.append(len(alone.ids) - alone.num_completion_tokens)
            found.completions.append(alone.num_completion_tokens)
        return found

    def view(self, index: int, anchor: int) -> RowView:
        """Show a row before one of the usable anchors.

        Args:
            index: pool index of the row.
            anchor: number of the first anchor to try; an anchor with the text of the row is passed over.

        Raises:
            UnusableRowError: if the row cannot be scored.
        """
        row = self._pool[index]
        position = self._other_than(row, anchor % len(self.anchor_set.rows))
        prompt = self._shared.candidate(row)
        pair = self._template.one_shot(row, self.anchor_set.rows[position])
        alone: Segment | None = None
        ids: tuple[int, ...] = ()
        scored: tuple[int, ...] = ()
        seam: tuple[str, ...] = ()
        try:
            alone = self._alone(row)
            seam = self._seam(row, alone)
            ids, scored = tuple(alone.ids), tuple(alone.positions)
        except UnusableRowError:
            pass  # it can be a candidate, and no anchor
        return RowView(
            index=index,
            anchor=self.anchor_set.usable[position],
            spans=spans_of_pair(pair, self.anchor_set.segments[position], alone, _said(row), self._decode),
            remarks=tuple(sorted(remark.value for remark in prompt.remarks)) + seam,
            token_ids=ids,
            scored=scored,
            trained_on=tuple(range(1, len(ids))) if self._loss_on == "all" else scored,
        )

    def _alone(self, row: Row) -> Segment:
        """Render a row alone, as it is trained on.

        Raises:
            UnusableRowError: if it cannot be scored as an anchor.
        """
        if self._template.name == "nuggets":  # this template cuts anchors
            return self._template.row_alone(row).segment
        return self._template.zero_shot(row)

    def _seam(self, row: Row, alone: Segment) -> tuple[str, ...]:
        """Return a remark if TRL, which tokenizes prompt and completion together, gets other tokens for a text."""
        is_text = self._pool.format == "prompt_completion" and isinstance(row.completion, str)
        if not is_text or self._template.name != "plain":
            return ()
        eos = self._tokenizer.eos_token
        together = f"{row.prompt}{str(row.completion).removesuffix(eos)}{eos}"
        ids = token_ids(self._tokenizer, together)
        bos = self._tokenizer.bos_token_id
        if _without_first(ids, bos) == _without_first(alone.ids, bos):
            return ()
        return (MERGED_SEAM,)

    def _other_than(self, row: Row, first: int) -> int:
        """Return the position of the next anchor with another text than the row; `first` if there is none."""
        anchors = self.anchor_set.rows
        for step in range(len(anchors)):
            position = (first + step) % len(anchors)
            if anchors[position].text_key != row.text_key:
                return position
        return first

    def _draw_stand_ins(self) -> tuple[int, ...]:
        """Draw different rows that could be anchors: they can be rendered and fill at most half of the context.

        Raises:
            ValueError: if there are none; the error counts the reasons.
        """
        chosen: dict[str, int] = {}
        cause: BaseException | None = None
        _, unreadable = self._pool.read_keys()
        reasons = Counter(unreadable.values())
        usable = self._pool.usable_indices()
        longest = (self._context or 2 * LONGEST_STAND_IN) // 2
        for position in np.random.default_rng(0).permutation(len(usable)).tolist():
            row = self._pool[usable[position]]
            try:
                length = len(self._template.zero_shot(row).ids)
            except UnusableRowError as error:
                reasons[str(error)] += 1
                cause = cause or error.__cause__
                continue
            if length <= longest:
                chosen.setdefault(row.key, usable[position])
            else:
                reasons["too_long"] += 1
            if len(chosen) == NUM_STAND_INS:
                break
        if not chosen:
            told = "" if cause is None else f" The first error was {cause!r}."
            raise ValueError(
                f"No row of `{self._pool.name}` can be an anchor, so no row can be scored: all {len(self._pool):,} "
                f"rows were dropped ({tally(reasons)}).{told}{hint_on(reasons)}"
            )
        return tuple(chosen.values())

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _said(row: Row) -> list[str]:
    """List the texts of a row's completion."""
    _, completion = conversation(row)
    return [piece.text for piece in pieces_of(completion)]


def _without_first(ids: Sequence[int], first: int | None) -> list[int]:
    """Return token ids without BOS at their beginning."""
    return list(ids[1:]) if ids and ids[0] == first else list(ids)
