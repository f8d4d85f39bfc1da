"""Rows that hold a question of a test: the same long sequence of words, or most of its short ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.overlap.words import HashedTexts, Hashes, Ints, WordHasher

RUN = 13  # consecutive words that a row must share with a question, as for GPT-3 (Brown et al. 2020, appendix C)
SHORTEST_RUN = 5  # words; a shorter question must be the whole prompt, and one of 5 to 12 words must be in the prompt
SHORT = 3  # words in the sequences by which a reworded question is found
REWORDED = 0.7  # share of a question's sequences that a row must have
FEWEST_SHORT = 8  # sequences that a question must have to count as reworded, which means ten words
# Sequences that are in more questions belong to the frame of a test ("Answer the following question with ..."). They
# do not identify a question.
MOST_QUESTIONS, MOST_SHARE = 10, 0.02
_BITS = np.uint64(64 - 22)  # shift into a table of 4 MB, which rules out most sequences at once


@dataclass(frozen=True)
class Contamination:
    """Why a row is contaminated.

    Attributes:
        question: number of the question.
        kind: `same_words` or `reworded`.
    """

    question: int
    kind: str


class Questions:
    """An index of the questions of a test, in which rows are looked up.

    Args:
        texts: the questions; equal ones count once, with the number of the first.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        hashed = WordHasher().hash_texts(texts)
        numbers = _first_of_equal(hashed)
        lengths = hashed.lengths
        self._whole = {_whole(hashed, number): number for number in numbers if lengths[number] < SHORTEST_RUN}
        self._runs: dict[int, _Table] = {}
        self._short = _Table.of(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), 1)
        is_first = np.isin(hashed.text_of, numbers)
        most = max(MOST_QUESTIONS, int(MOST_SHARE * len(numbers)))
        for size, hashes, places in hashed.grams(RUN):
            question, taken = hashed.text_of[places], is_first[places]
            if size == SHORT:
                self._short = _Table.of(hashes[taken], question[taken], most)
            if size >= SHORTEST_RUN:
                taken &= (lengths[question] == size) | (size == RUN)
                if taken.any():
                    self._runs[size] = _Table.of(hashes[taken], question[taken], most)
        self._num_short = np.bincount(self._short.questions, minlength=len(texts))

    def find(self, rows: HashedTexts, prompt_lengths: Ints) -> dict[int, Contamination]:
        """Find the rows that hold a question.

        A question of fewer than `RUN` words is only searched in prompts, and in rows without a prompt: an answer may
        say "nice to meet you" by chance.

        Args:
            rows: words of n rows.
            prompt_lengths: number of words of each prompt, `(n,)`.

        Returns:
            The contamination, by the number of the row.
        """
        found: dict[int, Contamination] = {}
        for number in np.flatnonzero((prompt_lengths > 0) & (prompt_lengths < SHORTEST_RUN)).tolist():
            question = self._whole.get(_whole(rows, number, int(prompt_lengths[number])))
            if question is not None:
                found[number] = Contamination(question, "same_words")
        end_of_prompt = rows.starts[:-1] + np.where(prompt_lengths > 0, prompt_lengths, rows.lengths)
        reworded: dict[int, int] = {}
        for size, hashes, places in rows.grams(RUN, {SHORT, *self._runs}):
            if size == SHORT:
                reworded = self._reworded(*self._short.candidates(hashes, rows.text_of, places)[:2])
            if size in self._runs:
                hashes, row, places = self._runs[size].candidates(hashes, rows.text_of, places)
                in_prompt = (size == RUN) | (places + size <= end_of_prompt[row])
                for number, question in self._runs[size].pairs(hashes[in_prompt], row[in_prompt]).tolist():
                    found.setdefault(number, Contamination(question, "same_words"))
        for number, question in reworded.items():
            found.setdefault(number, Contamination(question, "reworded"))
        return found

    def _reworded(self, hashes: Hashes, row: Ints) -> dict[int, int]:
        """Return the first question of which a row has most short sequences, by the number of the row."""
        num_questions = len(self._num_short)
        pairs = self._short.pairs(hashes, row)
        codes, counts = np.unique(pairs[:, 0] * num_questions + pairs[:, 1], return_counts=True)
        numbers, questions = np.divmod(codes, num_questions)
        sizes = self._num_short[questions]
        is_alike = (sizes >= FEWEST_SHORT) & (counts >= REWORDED * sizes)
        return dict(zip(numbers[is_alike][::-1].tolist(), questions[is_alike][::-1].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Table:
    """Sorted hashes of sequences, each with its question; a sequence in several questions has several entries."""

    hashes: Hashes
    questions: Ints
    is_there: npt.NDArray[np.bool_]

    @staticmethod
    def of(hashes: Hashes, questions: Ints, most: int) -> _Table:
        """Sort the sequences, and leave out those that are in more than `most` questions."""
        order = np.lexsort((questions, hashes))
        hashes, questions = hashes[order], questions[order]
        is_new = np.ones(len(hashes), dtype=np.bool_)
        is_new[1:] = (hashes[1:] != hashes[:-1]) | (questions[1:] != questions[:-1])
        hashes, questions = hashes[is_new], questions[is_new]
        _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        is_rare = counts[place] <= most
        hashes, questions = hashes[is_rare], questions[is_rare]
        is_there = np.zeros(1 << 22, dtype=np.bool_)
        is_there[hashes >> _BITS] = True
        return _Table(hashes, questions, is_there)

    def candidates(self, hashes: Hashes, text_of: Ints, places: Ints) -> tuple[Hashes, Ints, Ints]:
        """Return the few sequences that may be here: their hashes, their texts and their places."""
        may_be = np.flatnonzero(self.is_there[hashes >> _BITS])
        places = places[may_be]
        return hashes[may_be], text_of[places], places

    def pairs(self, hashes: Hashes, row: Ints) -> Ints:
        """Return row and question for each sequence that they share, `(p, 2)`; a sequence counts once for each row."""
        start = np.searchsorted(self.hashes, hashes, side="left")
        end = np.searchsorted(self.hashes, hashes, side="right")
        is_found = end > start
        order = np.lexsort((start[is_found], row[is_found]))
        row, start, end = row[is_found][order], start[is_found][order], end[is_found][order]
        is_new = np.ones(len(row), dtype=np.bool_)
        is_new[1:] = (row[1:] != row[:-1]) | (start[1:] != start[:-1])
        row, start, end = row[is_new], start[is_new], end[is_new]
        number = end - start
        offset = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        return np.column_stack([np.repeat(row, number), self.questions[np.repeat(start, number) + offset]])


def _first_of_equal(texts: HashedTexts) -> list[int]:
    """Return the number of the first of each group of equal texts; texts without words are left out."""
    first: dict[bytes, int] = {}
    for number in range(len(texts)):
        whole = _whole(texts, number)
        if whole:
            first.setdefault(whole, number)
    return list(first.values())


def _whole(texts: HashedTexts, number: int, length: int | None = None) -> bytes:
    """Return the hashes of the words of a text, or of the first ones, as bytes."""
    start, end = texts.starts[number], texts.starts[number + 1]
    if length is not None:
        end = start + length
    return texts.hashes[start:end].tobytes()
