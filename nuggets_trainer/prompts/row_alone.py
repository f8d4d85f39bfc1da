"""A row rendered alone, and what templates share that tokenize candidate and anchor apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.segment import Segment


@dataclass(frozen=True)
class RowAlone:
    """A whole row, rendered with nothing before it.

    Attributes:
        segment: the row; its completion is scored.
        opening: ids before the completion where the prompt is left out: BOS, and what the template writes at the
            beginning of an answer; empty if there is neither.

    Example:
        >>> row = RowAlone(Segment([1, 5, 6, 2, 7, 8], 4), opening=[1, 2])
        >>> row.without_prompt()
        Segment(ids=[1, 2, 7, 8], start=2, scored=None)
    """

    segment: Segment
    opening: list[int]

    def without_prompt(self) -> Segment | None:
        """Return the completion behind the opening alone; without an opening its first token is not scored.

        Returns:
            The segment; None if the row has no prompt, if several turns of it are scored, which have prompts between
            them, or if no token is left to score.
        """
        segment = self.segment
        has_prompt = segment.start > max(1, len(self.opening))
        is_one_turn = segment.positions[-1] - segment.start == segment.num_completion_tokens - 1
        start = max(1, len(self.opening))
        ids = [*self.opening, *segment.targets]
        if not has_prompt or not is_one_turn or len(ids) <= start:
            return None
        return Segment(ids, start)


class TokenizesApart(ABC):
    """A template whose rendering depends on its name alone, and whose candidate has no effect on the anchor's tokens.

    Attributes:
        name: name of the template.
    """

    name: str

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"template": self.name}

    @abstractmethod
    def row_alone(self, row: Row) -> RowAlone:
        """Render a whole row alone, and say what stands before its completion where its prompt is left out."""

    def num_tokens(self, row: Row) -> int:
        """Count the tokens of `row_alone`."""
        return len(self.row_alone(row).segment.ids)

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True


def opening_of(ids: list[int], bos_token_id: int | None, header: list[int]) -> list[int]:
    """Return BOS, if a row begins with it, and the header of an answer.

    Args:
        ids: token ids of the row.
        bos_token_id: id of BOS; None if the tokenizer has none.
        header: ids that the template writes at the beginning of an answer. Some tokenizers have a mark of a turn as
            BOS, and it is not written twice.

    Example:
        >>> opening_of([1, 5, 6], 1, [2]), opening_of([1, 5, 6], 1, [1, 2]), opening_of([5, 6], 1, [])
        ([1, 2], [1, 2], [])
    """
    if bos_token_id is None or ids[0] != bos_token_id or header[:1] == [bos_token_id]:
        return header
    return [bos_token_id, *header]
