"""What golden scores follow: which columns are compared, and what a few anchors allow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from nuggets_trainer.analysis.follows import describing_columns, follow_scores


def test_columns_of_lists_and_records_describe_nothing():
    """Any list column in the pool ended a comparison with a traceback, after all runs were through."""
    features = Features(
        {
            "instruction": Value("string"), "output": Value("string"), "system": Value("string"),
            "stars": Value("float32"), "tags": [Value("string")], "meta": {"id": Value("int32")},
            "kind": ClassLabel(names=["a", "b"]),
        }
    )  # fmt: skip
    row = {
        "instruction": "i",
        "output": "o",
        "system": "s",
        "stars": 1.0,
        "tags": ["x", "y"],
        "meta": {"id": 1},
        "kind": "b",
    }
    rows = Dataset.from_list([row, {**row, "tags": []}], features=features)
    assert describing_columns(rows) == {"stars": [1.0, 1.0], "kind": [1, 1]}


@pytest.mark.parametrize("num_anchors", [3, 4])
def test_few_anchors_leave_out_the_reliability(num_anchors):
    generator = np.random.default_rng(0)
    zero_shot, one_shot = np.zeros(num_anchors + 1), generator.normal(size=(30, num_anchors + 1))
    zero_shot[1] = np.nan  # an anchor that could not be scored
    one_shot[:, 1] = np.nan
    lengths = np.arange(30.0)
    found = follow_scores(zero_shot, one_shot, {"length": lengths}, lengths, [3])
    assert len(found["reliability"]) == (num_anchors >= 4)
    assert ("takes 4 of them, and 3 anchors could be scored" in found["text"]) == (num_anchors < 4)
    assert len(found["associations"]) == 1 and json.dumps(found, allow_nan=False)
