"""Rows that hold a question of a test: which are found, which are not, and how many rows without one are."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from nuggets_trainer.overlap.contamination import Questions
from nuggets_trainer.overlap.find import find_overlap
from nuggets_trainer.overlap.questions import load_questions
from nuggets_trainer.overlap.words import WordHasher

QUESTION = (
    "A farmer has seventeen sheep and all but nine of them run away in the night. How many sheep does the farmer have "
    "left in the morning?"
)
SHORTER = "Why do leaves turn red in autumn?"
SHORTEST = "Who was Ada?"
QUESTIONS = [QUESTION, SHORTER, SHORTEST]
FILLER = "Tell me about a good day in the mountains, and leave nothing out. "


def found_in(rows: list[Row], questions: list[str] = QUESTIONS) -> dict[int, tuple[int, str]]:
    found = Questions(questions).find(*WordHasher().hash_rows(rows))
    return {number: (one.question, one.kind) for number, one in found.items()}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (QUESTION, (0, "same_words")),
        (QUESTION.upper().replace(".", "!!"), (0, "same_words")),  # neither case nor punctuation counts
        (FILLER * 5 + QUESTION + FILLER * 5, (0, "same_words")),
        (QUESTION[: len(QUESTION) // 2], (0, "same_words")),  # 13 words of it
        (QUESTION.replace("nine", "eight").replace("many", "much"), (0, "reworded")),
        (FILLER + QUESTION.replace("nine", "eight").replace("many", "much") + FILLER, (0, "reworded")),
        (SHORTER, (1, "same_words")),
        (f"Answer this: {SHORTER} Be brief.", (1, "same_words")),
        ("WHO WAS ADA", (2, "same_words")),
        # what such a check misses
        (f"Tell me: {SHORTEST}", None),  # fewer than five words are too few to be looked for in longer prompts
        (SHORTER.replace("red", "brown"), None),  # one other word in seven
        ("Nine of a farmer's 17 sheep stay when the rest flee by night. What is the size of his herd at dawn?", None),
        ("Ein Bauer hat siebzehn Schafe, und alle bis auf neun laufen nachts weg. Wie viele hat er noch?", None),
        ("Ninety words " * 30, None),
    ],
)
def test_what_is_found_in_a_prompt(prompt, expected):
    assert found_in([Row(FILLER, "Fine."), Row(prompt, "Nine.")]) == ({} if expected is None else {1: expected})


def test_long_questions_are_found_in_answers_and_short_ones_are_not():
    """An answer may say the words of a short question by chance."""
    rows = [Row("Ask me.", f"Well. {QUESTION}"), Row("Ask me.", f"Well. {SHORTER}"), Row("", f"Well. {SHORTER}")]
    assert found_in(rows) == {0: (0, "same_words"), 2: (1, "same_words")}  # the last row has no prompt


def test_the_frame_of_a_test_finds_no_row():
    """Each question begins with the same twenty words, as in tests that are made from a template."""
    frame = (
        "Read the following question with care and answer it with one of the letters below, and with nothing else: "
    )
    questions = [frame + f"number {n} is {n * n} or {n + 7} or {n * 3}" for n in range(100, 140)]
    rows = [Row(frame + "which bird sings?", "A"), Row(questions[7], "B")]
    assert found_in(rows, questions) == {1: (7, "same_words")}


def test_equal_questions_count_once():
    """A held-out file with twelve answers to each question lost all of its questions as the frame of a test."""
    assert found_in([Row(QUESTION, "Nine.")], [QUESTION] * 30) == {0: (0, "same_words")}


def test_planted_questions_are_found_and_other_rows_are_not():
    generator = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(2000)])
    share = 1 / np.arange(1, 2001)

    def text(length: int) -> str:
        return " ".join(generator.choice(vocabulary, length, p=share / share.sum()))

    questions = [text(int(length)) for length in generator.integers(13, 60, 100)]
    planted, reworded = [], []
    for question in questions:
        own = question.split()
        own[int(generator.integers(len(own)))] = "otherwise"
        planted += [Row(question, text(30)), Row(f"{text(40)} {question} {text(40)}", text(30))]
        reworded += [Row(" ".join(own), text(30)), Row(text(20), f"{text(40)} {' '.join(own)} {text(40)}")]
    clean = [Row(text(40), text(150)) for _ in range(1000)]
    assert len(found_in(planted, questions)) == 200
    assert len(found_in(reworded, questions)) >= 196  # one other word in thirteen leaves eight of eleven sequences
    assert found_in(clean, questions) == {}


def test_all_alpaca_eval_questions_of_the_pool_are_found(shared):
    """405 of its 805 instructions are in the pool, of which one row each is taken; LIMA has none."""
    questions = load_questions(RowPlace(str(shared / "data" / "alpaca_eval" / "alpaca_eval.json")), None)
    assert len(questions) == 805
    rows = load_rows(str(shared / "data" / "pool_alpacaeval"))
    first = {
        prompt: i for i, prompt in reversed(list(enumerate(zip(rows["instruction"], rows["input"], strict=True))))
    }
    pool = Pool(rows.select(sorted(first.values())))
    found = find_overlap(pool, {"alpaca_eval": questions}, with_near=False).contaminated
    assert len(pool) == len(found) == 405
    clean = Pool(load_rows(str(shared / "data" / "pool_lima")).select(range(0, 1029, 3)))
    assert find_overlap(clean, {"alpaca_eval": questions}, with_near=False).contaminated == {}
