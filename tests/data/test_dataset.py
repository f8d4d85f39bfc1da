"""A pool needs a dataset with a known number of rows; anything else is refused with what to pass."""

from __future__ import annotations

import itertools

import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
)

from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.pool import Pool


def test_a_dataset_dict_is_refused_with_its_splits():
    splits = DatasetDict(train=Dataset.from_list([{"prompt": "a"}]), dev=Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(
        TypeError,
        match=r"`train_dataset` must be one split, got DatasetDict with the splits \['dev', 'train'\].*dataset\['",
    ):
        Pool(splits)


def test_the_training_split_of_a_dict_is_proposed():
    splits = DatasetDict(train=Dataset.from_list([{"prompt": "a"}]), dev=Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(TypeError, match=r"Pass e\.g\. `dataset\['train'\]`"):
        Pool(splits)


def test_an_empty_dataset_dict_is_refused():
    with pytest.raises(TypeError, match="`train_dataset` must be one split, got DatasetDict"):
        Pool(DatasetDict())


def test_a_stream_is_refused_with_the_reason():
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(
        TypeError, match=r"`anchors` is an IterableDataset.*number must be known.*take_pool\(dataset, n\)"
    ):
        Pool(stream, "anchors")
    taken = Pool(take_pool(stream, 1))  # what the message says works
    assert len(taken) == 1


def test_a_stream_keeps_columns_that_its_first_row_lacks():
    """`Dataset.from_list` takes the columns of the first row: `input` would be gone from every row."""
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "input": "d", "output": "e"}]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    assert list(take_pool(stream, 2)) == [{**rows[0], "input": None}, rows[1]]
    assert Pool(take_pool(stream, 2))[1].prompt == "c\n\nd"


def test_pool_size_takes_the_first_rows():
    rows = [{"prompt": str(i), "completion": "b"} for i in range(5)]
    dataset = Dataset.from_list(rows)
    for source in (dataset, dataset.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))):
        for size in (1, 3, 9):
            taken = take_pool(source, size)
            assert isinstance(taken, Dataset)
            assert list(taken) == rows[:size]
    assert take_pool(dataset, None) is dataset
    endless = IterableDataset.from_generator(lambda: ({"text": str(i)} for i in itertools.count()))
    assert len(take_pool(endless, 7)) == 7


def test_a_pool_keeps_the_features_of_its_stream():
    features = Features({"text": Value("string"), "kind": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_list([{"text": "x", "kind": 1}], features=features)
    assert take_pool(dataset.to_iterable_dataset(), 3).features == features


def test_a_stream_needs_a_size_and_rows():
    stream = IterableDataset.from_generator(lambda: iter([{"text": "a"}]))
    with pytest.raises(TypeError, match="`train_dataset` is an IterableDataset.*set `pool_size`"):
        take_pool(stream, None)
    for source in (Dataset.from_dict({"text": []}), IterableDataset.from_generator(lambda: iter([]))):
        with pytest.raises(ValueError, match="`train_dataset` is empty"):
            take_pool(source, 3)
    with pytest.raises(TypeError, match="`train_dataset` must be one split, got IterableDatasetDict"):
        take_pool(IterableDatasetDict(train=stream), 3)


@pytest.mark.parametrize(
    ("value", "kind"), [([{"prompt": "a"}], "list"), (None, "NoneType"), ({"prompt": ["a"]}, "dict")]
)
def test_other_types_are_refused(value, kind):
    with pytest.raises(TypeError, match=rf"`train_dataset` must be a datasets\.Dataset, got {kind}\."):
        Pool(value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match=r"`train_dataset` is empty\. Expected at least one row"):
        Pool(Dataset.from_dict({"prompt": [], "completion": []}))
