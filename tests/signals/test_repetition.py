"""Repetition: characters in five words that occurred before; a column that needs no model and no option."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.pipeline.select_again import select_again
from nuggets_trainer.signals.repetition import WORDS, repetition, repetitions
from tests.support.rows import alpaca_rows


def naive(words: list[str]) -> float:
    repeated = [False] * len(words)
    for start in range(len(words) - WORDS + 1):
        sequence = words[start : start + WORDS]
        if any(words[earlier : earlier + WORDS] == sequence for earlier in range(start)):
            repeated[start : start + WORDS] = [True] * WORDS
    sizes = [len(word) for word in words]
    return sum(size for size, again in zip(sizes, repeated, strict=True) if again) / max(1, sum(sizes))


def test_repetition_is_the_share_of_characters_in_repeated_words():
    generator, found = np.random.default_rng(0), []
    for length in (0, 1, 4, 5, 6, 12, 40, 90):
        words = generator.choice(["a", "bb", "ccc"], length).tolist()
        found.append(repetition("  ".join(words)))
        assert found[-1] == pytest.approx(naive(words))
    assert 0 < found[-2] < found[-1] < 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Say it once and be done.", 0.0),
        ("No. No. No. No.", 0.0),  # fewer than six words
        ("one two three four five\n" * 10, 0.9),
        ("植物需要光和水" * 2, 0.5),  # Chinese has no spaces
        ("พืชต้องการ" * 4, 0.75),  # nor has Thai
    ],
)
def test_texts_that_say_all_again(text, expected):
    assert repetition(text) == pytest.approx(expected)


def test_messages_and_token_ids_are_read():
    again = "We need light and water to live, as all know: We need light and water to live."
    rows = [{"prompt": [{"role": "user", "content": again}], "completion": [{"role": "assistant", "content": again}]}]
    ids = [{"input_ids": [9, *range(6), *range(6)], "completion_mask": [0] * 7 + [1] * 6}]
    ids.append({"input_ids": [9, *range(6), *range(6)], "completion_mask": [0] + [1] * 12})
    assert repetitions(Pool(Dataset.from_list(rows)), [0])[0] == repetition(again) > 0.3
    assert repetitions(Pool(Dataset.from_list(ids), completion_only_loss=True), [0, 1]).tolist() == [0.0, 0.5]


def test_every_run_writes_it_and_conditions_read_it(llama, tokenizer, anchor_rows, tmp_path):
    rows = alpaca_rows(8, seed=3)
    rows[2] = {**rows[2], "output": "We like red, blue and green. " * 4}
    rows[5] = {**rows[5], "output": ""}
    arguments = llama, tokenizer, Dataset.from_list(rows), Dataset.from_list(anchor_rows)
    config = NuggetsConfig(top_k=3, template="plain", schedule="race", require="repetition < 0.3")
    scores, golden_set = score_pool(*arguments, config=config, score_dir=tmp_path)
    assert list(scores.signals) == ["repetition"]  # no forward pass for the others
    table = pq.read_table(tmp_path / "scores.parquet")
    expected = [None if row["output"] == "" else repetition(row["output"]) for row in rows]
    assert table["repetition"].to_pylist() == expected and expected[2] == 0.75
    assert scores.dropped[2] == "fails_require" and 2 not in golden_set.indices
    config = NuggetsConfig(top_k=3, template="plain", schedule="exact")
    score_pool(*arguments, config=config, score_dir=tmp_path)
    again = select_again(tmp_path, NuggetsConfig(top_k=3, require="repetition < 0.3"))
    assert again.indices.tolist() == golden_set.indices.tolist()
    table = pq.read_table(tmp_path / "scores.parquet").drop_columns(["repetition"])  # as earlier versions wrote it
    pq.write_table(pa.table(table), tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match=r"\['repetition'\], which were not computed.*scored the pool again"):
        select_again(tmp_path, NuggetsConfig(top_k=3, require="repetition < 0.3"))
