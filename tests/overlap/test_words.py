"""Words, their hashes, and the hashes of sequences of words, against the same in plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nuggets_trainer.data.row import Row
from nuggets_trainer.overlap import words
from nuggets_trainer.overlap.words import HashedTexts, WordHasher, words_of

ascii_texts = st.text(st.characters(max_codepoint=127))


def sequences(text: str, size: int) -> list[tuple[str, ...]]:
    own = words_of(text)
    return [tuple(own[start : start + size]) for start in range(len(own) - size + 1)]


@given(ascii_texts)
def test_the_fast_way_for_ascii_gives_the_same_words(text):
    assert text.translate(words._ASCII).split() == words._WORD.findall(text.lower())


def test_words_are_those_of_the_script():
    assert words_of("L\u2019\u00e9t\u00e9, ﬁn!") == ["l", "\u00e9t\u00e9", "fin"]
    assert words_of("\u6625\u7720\u4e0d\u89c9\u6653") == list("\u6625\u7720\u4e0d\u89c9\u6653")
    assert words_of("snake_case") == ["snake", "case"]


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=6).map(" ".join), min_size=1, max_size=5), st.integers(1, 4))
def test_sequences_stay_within_their_text(texts, longest):
    """Equal sequences have equal hashes, others have others, and none reaches into the next text."""
    hashed = WordHasher().hash_texts(texts)
    by_hash: dict[int, tuple[str, ...]] = {}
    sizes = []
    for size, hashes, places in hashed.grams(longest):
        sizes.append(size)
        expected = [sequence for text in texts for sequence in sequences(text, size)]
        assert len(hashes) == len(expected)
        for value, sequence in zip(hashes.tolist(), expected, strict=True):
            assert by_hash.setdefault(value, sequence) == sequence
        assert hashed.text_of[places].tolist() == [
            number for number, text in enumerate(texts) for _ in sequences(text, size)
        ]
    assert len(set(by_hash.values())) == len(by_hash)
    assert sizes == list(range(1, min(longest, len(hashed.hashes)) + 1))


def test_a_text_shorter_than_a_sequence_is_one_sequence():
    hashed = WordHasher().hash_texts(["a b", "", "a b c d", "a b"]).shingles(3)
    assert hashed.lengths.tolist() == [1, 0, 2, 1]
    assert hashed.hashes[0] == hashed.hashes[3] not in hashed.hashes[1:3]


def test_hashes_are_the_same_in_every_process():
    """Ranks compare them; Python's own `hash` of a text would differ."""
    assert WordHasher().hash_texts(["red"]).hashes.tolist() == [11765665226422741261]


def test_forgetting_words_changes_no_hash(monkeypatch):
    monkeypatch.setattr(words, "MOST_WORDS", 2)
    hasher = WordHasher()
    first, _, again = (hasher.hash_texts(["one two three four"]).hashes for _ in range(3))
    np.testing.assert_array_equal(first, again)


def test_system_messages_are_not_compared():
    """Half of a pool may have the same one, and would be alike by it."""
    message = {"role": "user", "content": "Sing."}
    system = {"role": "system", "content": "You are a bird."}
    rows = [Row([message], "La."), Row([system, message], "La."), Row("", "", tokens=((5, 6, 7), (1, 2)))]
    hashed, prompt_lengths = WordHasher().hash_rows(rows)
    assert isinstance(hashed, HashedTexts) and hashed.lengths.tolist() == [2, 2, 3]
    assert prompt_lengths.tolist() == [1, 1, 0]
