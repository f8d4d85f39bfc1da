"""Near-duplicates against the comparison of each row with each."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.data.row import Row
from nuggets_trainer.overlap import near
from nuggets_trainer.overlap.near import band_hashes, find_near_duplicates
from nuggets_trainer.overlap.words import WordHasher, words_of

VOCABULARY = [f"word{number}" for number in range(500)]


def find(rows: list[Row]) -> dict[int, int]:
    hashed, _ = WordHasher().hash_rows(rows)
    return find_near_duplicates(band_hashes(hashed), np.arange(len(rows)), lambda places: [rows[i] for i in places])


def sequences(text: str) -> set[tuple[str, ...]]:
    own = words_of(text)
    return {tuple(own[start : start + 3]) for start in range(max(1, len(own) - 2))} if own else set()


def jaccard(one: str, other: str) -> float:
    first, second = sequences(one), sequences(other)
    return len(first & second) / len(first | second)


def is_near(one: Row, other: Row) -> bool:
    whole = jaccard(f"{one.prompt} {one.completion}", f"{other.prompt} {other.completion}")
    return whole >= 0.7 and jaccard(str(one.completion), str(other.completion)) >= 0.4


def random_row(generator: np.random.Generator, length: int) -> Row:
    drawn = generator.choice(VOCABULARY, length).tolist()
    return Row(" ".join(drawn[: length // 3]), " ".join(drawn[length // 3 :]))


def reworded(generator: np.random.Generator, row: Row, number: int) -> Row:
    """Put other words in the place of some of the completion's."""
    own = str(row.completion).split()
    for place in generator.choice(len(own), number, replace=False).tolist():
        own[place] = "otherwise"
    return Row(row.prompt, " ".join(own))


def test_planted_near_duplicates_are_found_and_no_others():
    """Each row is compared with each in plain Python; MinHash may miss 1 in 50, and may find none that is no pair."""
    generator = np.random.default_rng(0)
    rows = [random_row(generator, int(length)) for length in generator.integers(20, 120, 150)]
    rows += [reworded(generator, rows[i], 1 + len(str(rows[i].completion).split()) // 40) for i in range(100)]
    rows += [reworded(generator, rows[i], len(str(rows[i].completion).split()) // 4) for i in range(100, 150)]
    near_pairs = {
        later: i for i, later in zip(range(100), range(150, 250), strict=True) if is_near(rows[i], rows[later])
    }
    found = find(rows)
    assert len(near_pairs) > 80
    assert all(is_near(rows[later], rows[earlier]) for later, earlier in found.items())
    assert set(found) <= set(near_pairs) and len(found) >= 0.98 * len(near_pairs)
    assert not any(later >= 250 for later in found)  # a quarter of the words are others


def test_other_answers_to_a_long_prompt_are_no_duplicates():
    prompt = " ".join(VOCABULARY[:60])
    rows = [Row(prompt, "The red house."), Row(prompt, "A blue boat, far away."), Row(prompt, "The red house!")]
    assert find(rows) == {2: 0}


def test_a_row_is_compared_with_rows_that_stay():
    """The third row is near to the second alone, which is left out: the third stays."""
    generator = np.random.default_rng(3)
    first = random_row(generator, 90)
    second = reworded(generator, first, 4)
    third = reworded(generator, second, 4)
    assert is_near(first, second) and is_near(second, third) and not is_near(first, third)
    assert find([first, second, third]) == {1: 0}


def test_rows_of_one_template_are_not_all_compared(monkeypatch):
    """A thousand rows that are alike would be half a million pairs."""
    compared = []
    monkeypatch.setattr(near, "_jaccard", lambda one, other: compared.append(1) or 0.0)
    frame = " ".join(VOCABULARY[:80])
    find([Row(f"{frame} {number}", frame) for number in range(1000)])
    assert 1000 <= len(compared) <= 2 * near.BANDS * 1000


def test_rows_without_words_are_no_duplicates():
    assert find([Row("", "!!!"), Row("", "..."), Row("", "\u2026")]) == {}


@pytest.mark.parametrize("language", ["chinese", "tokenized"])
def test_rows_without_spaces_and_rows_of_tokens_are_compared(language):
    generator = np.random.default_rng(1)
    ids = generator.integers(1000, 9000, (3, 200))
    ids[2] = ids[0]
    ids[2, 100] = 1
    if language == "tokenized":
        rows = [Row("", "", tokens=(tuple(own.tolist()), (199,))) for own in ids]
    else:
        rows = [Row("", "".join(chr(0x4E00 + int(i) % 9000) for i in own)) for own in ids]
    assert find(rows) == {2: 0}
