"""A pool's prompts stay small: a process keeps those of its whole share."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest

from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.segment import PackedIds
from nuggets_trainer.prompts.shared_prefix import SharedPrefix
from tests.support.renderings import BREAKING, alpaca
from tests.support.rows import alpaca_rows

NUM_ROWS = 12


def held(split: SharedPrefix, num_words: int) -> tuple[float, float]:
    """Render rows of about this size; return bytes and tokens of one."""
    words = [row["output"] for row in alpaca_rows(NUM_ROWS, seed=5)]
    text = (" ".join(words) + " ") * 40
    rows = [Row(f"{number}", " ".join(text.split(" ")[number : number + num_words])) for number in range(NUM_ROWS)]
    sent = pickle.dumps([split.candidate(row) for row in rows])
    tracemalloc.start()
    prompts = pickle.loads(sent)  # without what the template keeps for the rows that it saw last
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = 0
    for prompt in prompts:
        for prefix, positions, segments in split.parts(prompt):
            tokens += len(prefix)
            if not prefix:
                tokens += sum(len(segments[j].ids) for j in positions)
    return size / NUM_ROWS, tokens / NUM_ROWS


def split_of(kind: str, tokenizer) -> SharedPrefix:
    if kind == "unshared":
        tokenizer.chat_template = BREAKING
        return SharedPrefix(ChatTemplate(tokenizer), alpaca_anchors())
    return SharedPrefix(PlainTemplate(tokenizer), alpaca_anchors())


def alpaca_anchors() -> list[Row]:
    return [alpaca(row) for row in alpaca_rows(3, seed=11)]


@pytest.mark.parametrize("kind", ["shared", "unshared"])
def test_a_token_of_a_candidate_takes_few_bytes(kind, loaded):
    """A list took 26 to 30: 8 for its place, and the number itself."""
    split = split_of(kind, loaded("demo"))
    (small, few), (large, many) = held(split, 20), held(split, 220)
    assert many - few > 150
    assert (large - small) / (many - few) < 3
    if kind == "shared":
        assert small - 3 * few < 400


def test_a_prompt_is_the_same_after_pickling(loaded):
    split = split_of("unshared", loaded("demo"))
    prompt = split.candidate(alpaca(alpaca_rows(1, seed=12)[0]))
    again = pickle.loads(pickle.dumps(prompt))
    assert (again.prefixes, again.remarks, dict(again.unshared)) == (
        prompt.prefixes,
        prompt.remarks,
        dict(prompt.unshared),
    )
    assert len(again.unshared) == 3


@pytest.mark.parametrize("ids", [[], [0, 5, 65_535], [5, 65_536], [262_143, 0, 1]])
def test_packed_ids_are_the_ids(ids):
    packed = PackedIds(ids)
    assert packed.tolist() == ids and len(packed) == len(ids)
    assert packed == PackedIds(ids) and packed != PackedIds([*ids, 1])
    assert len(packed._bytes) == len(ids) * (2 if max(ids, default=0) < 65_536 else 3)
