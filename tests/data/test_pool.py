"""A pool reads rows on demand, counts what is unusable, and anchors are read as it is."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset

from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from tests.support.messages import ASSISTANT, USER, message


def test_other_columns_are_left_alone():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b", "corruption": "none"}]))
    assert pool[0] == Row("a", "b", separator="\n\n", alpaca=("a", ""))
    assert pool.dataset.column_names == ["instruction", "output", "corruption"]


def test_every_unusable_row_has_its_reason():
    rows = [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": " ", "input": "", "output": "b"},
        {"instruction": "a", "input": "", "output": ""},
        {"instruction": "a", "input": "", "output": None},
        {"instruction": "c", "input": "", "output": " "},
    ]
    keys, dropped = Pool(Dataset.from_list(rows)).read_keys()
    assert dropped == {1: "empty_prompt", 2: "empty_completion", 3: "completion_not_text", 4: "empty_completion"}
    assert Counter(dropped.values())["empty_completion"] == 2
    assert [bool(key) for key in keys] == [True, False, False, False, False]


def test_reasons_are_a_copy():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}, {"instruction": "", "output": "b"}]))
    first = pool.read_keys()[1]
    first[0] = "too_long"
    assert pool.read_keys()[1] == {1: "empty_prompt"}


def test_excluded_rows_keep_the_content_hash():
    pool = Pool(Dataset.from_list([{"text": text} for text in ("a", " ", "c")]))
    before = pool.content_hash
    pool.exclude({0: "cut", 1: "cut"})
    assert pool.read_keys()[1] == {0: "cut", 1: "empty_completion"}
    assert pool.content_hash == before


def test_the_content_hash_depends_on_rows_and_order():
    rows = [{"instruction": str(i), "output": "b"} for i in range(4)]
    pools = [
        Pool(Dataset.from_list(part)) for part in (rows, rows[::-1], rows[:3], [*rows[:3], {**rows[3], "output": "c"}])
    ]
    assert len({pool.content_hash for pool in pools}) == 4
    assert Pool(Dataset.from_list([{**row, "source": "x"} for row in rows])).content_hash == pools[0].content_hash


def test_the_content_hash_sees_unreadable_rows():
    """A row that was reported as dropped could be deleted, and all later pool indices meant other rows."""
    rows = [{"instruction": text, "output": text} for text in ("a", "", "b", "c")]
    pool, without, moved = (
        Pool(Dataset.from_list(part)) for part in (rows, rows[:1] + rows[2:], rows[:1] + rows[2:] + rows[1:2])
    )
    assert len({each.content_hash for each in (pool, without, moved)}) == 3
    assert len({each.hash_without_places for each in (pool, without, moved)}) == 1
    assert without.content_hash == without.hash_without_places  # stored hashes of pools like this stay valid
    assert pool.unreadable == {1: "empty_prompt"} and moved.unreadable == {3: "empty_prompt"}
    pool.exclude({0: "cut"})
    assert pool.unreadable == {1: "empty_prompt"}


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_nth_row_is_an_nth_of_the_text(world):
    rows = [{"prompt": "a" * (1 + i * i % 97), "completion": "b" * (1 + i * 31 % 53)} for i in range(60)]
    pool = Pool(Dataset.from_list([*rows, {"prompt": "", "completion": "nothing was asked"}]))
    order = pool.longest_first(range(60))
    assert sorted(order) == list(range(60)) and order == pool.longest_first(range(59, -1, -1))
    sizes = [len(row["prompt"]) + len(row["completion"]) for row in rows]
    shares = [sum(sizes[i] for i in order[rank::world]) for rank in range(world)]
    assert max(shares) - min(shares) <= max(sizes)


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
def test_the_tensor_format_of_a_dataset_is_ignored(kind):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])
    pool = Pool(rows.with_format(kind))
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("tokenized", False, False)
    assert pool[0] == Pool(rows)[0] == Row("", "", tokens=((5, 6, 7), (1, 2)))


def test_a_completion_mask_counts_if_trl_applies_it():
    """It was always applied; TRL does so with `completion_only_loss`, by default where there are both columns."""
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]}])
    both = rows.add_column("prompt", ["a"]).add_column("completion", ["b"])
    every, masked = (1, 2, 3), (2, 3)
    for dataset, given, scored in (
        (rows, None, every),
        (rows, False, every),
        (rows, True, masked),
        (both, None, masked),
        (both, False, every),
    ):
        pool = Pool(dataset, completion_only_loss=given)
        assert pool[0].tokens == ((5, 6, 7, 8), scored)
        assert anchors_like(rows, pool)[0] == pool[0]  # anchors as the pool


def test_eos_that_trl_wrote_is_not_read():
    """A trainer that tokenized its own rows keeps them with EOS: other keys than those of the user's anchors."""
    for row, kept in (
        ({"prompt": "a ", "completion": "b</s>"}, Row("a ", "b")),
        ({"text": "a b</s>"}, Row("", "a b")),
        ({"text": "a</s> b"}, Row("", "a</s> b")),
    ):
        rows = Dataset.from_list([row])
        pool = Pool(rows, eos_token="</s>")
        assert pool[0] == kept == anchors_like(rows, pool)[0]
        assert Pool(rows)[0] != kept or "b</s>" not in str(row)
    turns = Pool(Dataset.from_list([{"messages": [message(USER), message(ASSISTANT, "b</s>")]}]), eos_token="</s>")
    assert turns[0].completion == [message(ASSISTANT, "b</s>")]
    assert Pool(Dataset.from_list([{"text": "a"}, {"text": "</s>"}]), eos_token="</s>").read_keys()[1] == {
        1: "empty_completion"
    }


def test_an_unusable_first_row_does_not_hide_messages():
    """Else `auto` scores as plain text what TRL, which never sees that row, trains on as a conversation."""
    good = {"prompt": [message(USER)], "completion": [message(ASSISTANT)]}
    pool = Pool(Dataset.from_list([{"prompt": None, "completion": [message(ASSISTANT)]}, good]))
    assert list(pool.read_keys()[1]) == [0]
    assert pool[1].is_conversational
    assert pool.is_conversational


def test_an_image_is_refused_first_and_dropped_later():
    text = [{"type": "text", "text": "a"}]
    good = {"messages": [message(USER, text), message(ASSISTANT, text)]}
    image = {"messages": [message(USER, [*text, {"type": "image", "text": None}]), message(ASSISTANT, text)]}
    with pytest.raises(
        ValueError, match="`train_dataset`: row 0 holds an image, audio or video, but selection works on text alone"
    ):
        Pool(Dataset.from_list([image, good]))
    assert Pool(Dataset.from_list([good, image])).read_keys()[1] == {1: "not_text"}


def test_conversations_trl_cannot_read_are_refused():
    rows = Dataset.from_list([{"conversations": [message(USER, "a"), message(ASSISTANT, "b")]}])
    with pytest.raises(ValueError, match="lack `from` and `value`.*--columns messages=conversations"):
        Pool(rows)
    assert len(Pool(rows.rename_column("conversations", "messages")).read_keys()[1]) == 0


@pytest.mark.parametrize("column", ["seq_lengths", "position_ids"])
def test_packed_rows_are_refused(column):
    with pytest.raises(ValueError, match=rf"`train_dataset` is packed .*'{column}'.*Select before packing"):
        Pool(Dataset.from_list([{"input_ids": [1, 2], column: [1, 1]}]))


def test_unknown_columns_of_anchors_are_shown():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    with pytest.raises(
        ValueError,
        match=r"`anchors` has the columns \['q'\].*Expected.*pool's columns are \['instruction', 'output'\]",
    ):
        anchors_like(Dataset.from_list([{"q": "a"}]), pool)


def test_anchors_may_have_another_format():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    assert anchors_like(Dataset.from_list([{"prompt": "a", "completion": "b"}]), pool).format == "prompt_completion"


@pytest.mark.parametrize("column", ["image", "images"])
def test_a_pool_with_images_is_refused_wherever_it_is_read(column):
    """The trainer refused it, and the command line scored its text."""
    rows = Dataset.from_list([{"messages": [message(USER), message(ASSISTANT)], column: None}])
    with pytest.raises(ValueError, match=f"`anchors` has the column '{column}': selection works on text alone"):
        Pool(rows, "anchors")
