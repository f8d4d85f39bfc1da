"""Which anchors are shown as examples before every row, in one context or in several, and rows behind them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 16  # anchors that are shown in all
CONTEXT_SHARE = 0.5  # of the model's context that examples may take: the rest is for the row
DRAW_SEED = 0  # the same anchors give the same examples in every run


class ExampleContexts:
    """The anchors that are shown as examples, each in one context.

    Up to 16 anchors are drawn at random, those with equal text once. If they take more than half of the model's
    context, they are shown in several contexts, each of which has as many as half of the model's context holds.

    Args:
        session: open session.
        anchor_set: the anchors; those that are longer than half of the model's context cannot be examples.

    Attributes:
        contexts: examples of each context, at least one.
        most_tokens: number of tokens of the longest context.

    Raises:
        ValueError: if no anchor fits half of the model's context.
    """

    def __init__(self, session: ScoringSession, anchor_set: AnchorSet) -> None:
        self._session = session
        sized = self._draw(anchor_set)
        most = sum(size for _, size in sized)
        if session.max_length is not None:
            most = int(session.max_length * CONTEXT_SHARE)
        self.contexts: list[list[Row]] = [[]]
        self.most_tokens = taken = 0
        for row, size in sized:
            if self.contexts[-1] and taken + size > most:
                self.contexts.append([])
                taken = 0
            self.contexts[-1].append(row)
            taken += size
            self.most_tokens = max(self.most_tokens, taken)

    def _draw(self, anchor_set: AnchorSet) -> list[tuple[Row, int]]:
        """Draw the examples; return each with its number of tokens."""
        most = self._session.max_length
        by_text = {row.text_key: row for row in anchor_set.rows}
        rows = list(by_text.values())
        order = np.random.default_rng(DRAW_SEED).permutation(len(rows))
        sized: list[tuple[Row, int]] = []
        sizes: list[int] = []
        for place in order.tolist():
            try:
                size = len(self._session.template.row_alone(rows[place]).segment.ids)
            except UnusableRowError:
                continue
            sizes.append(size)
            if most is None or size <= most * CONTEXT_SHARE:
                sized.append((rows[place], size))
            if len(sized) == NUM_EXAMPLES:
                break
        if not sized:
            shortest = ""
            if sizes:
                shortest = f" The shortest has {min(sizes):,}."
            raise ValueError(
                f"`ica` shows anchors before each row, but none of the {counted(len(rows), 'anchor')} fits half of "
                f"the model's context, which is {most} tokens.{shortest} Give shorter anchors, or score with a model "
                "with a longer context."
            )
        return sized

    @property
    def key(self) -> str:
        """Hash of the examples in their order, 32 hex digits."""
        names = [" ".join(row.key for row in examples) for examples in self.contexts]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]

    def describe(self) -> str:
        """Say how many examples are shown, and in how many contexts."""
        num_examples = sum(map(len, self.contexts))
        text = f"ica: each row is scored after {counted(num_examples, 'anchor')}"
        if len(self.contexts) == 1:
            return f"{text} ({self.most_tokens:,} tokens)"
        return (
            f"{text}, shown in {len(self.contexts)} contexts of at most {self.most_tokens:,} tokens, because half of "
            f"the model's context ({self._session.max_length:,} tokens) does not hold them all; the log-probs are "
            "averaged"
        )

    def behind(self, examples: Sequence[Row], row: Row, alone: Segment) -> tuple[list[Row], Segment]:
        """Render a row behind examples.

        An example with the text of the row is left out, and so are the last ones as long as row and examples do not
        fit the model's context together.

        Args:
            examples: examples of one context.
            row: row of the pool.
            alone: the row rendered alone.

        Returns:
            The examples that are shown, and the row behind them.

        Raises:
            UnusableRowError: if no example is left, or if the row's completion has other tokens behind examples.
        """
        template, most = self._session.template, self._session.max_length
        text_key = row.text_key
        shown = [example for example in examples if example.text_key != text_key]
        while shown:
            segment = template.few_shot(shown, row)
            if segment.targets != alone.targets:
                raise UnusableRowError("completion_changes")
            if most is None or len(segment.ids) <= most:
                return shown, segment
            shown.pop()
        raise UnusableRowError("too_long")
