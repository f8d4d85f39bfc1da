"""A real scoring run with rows of all fates, and the figures of its report."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from tests.support.hostile import hostile_rows
from tests.support.rows import alpaca_rows

NUM_ROWS, NUM_ANCHORS = 40, 9


def rows_with_all_fates():
    """Rows to keep, to reject and to drop: hostile ones among them, two empty, one that fits no context."""
    empty = [{"instruction": "<b>nothing</b>", "output": " "}, {"instruction": "", "output": "something"}]
    return [{"input": "", **row} for row in alpaca_rows(NUM_ROWS, seed=1) + hostile_rows() + empty]


@pytest.fixture(scope="session")
def scored(llama, tokenizer, tmp_path_factory):
    """The directory of a real scoring run, with its pool and what it returned."""
    score_dir = tmp_path_factory.mktemp("scored")
    pool = Pool(Dataset.from_list(rows_with_all_fates()))
    anchors = Pool(Dataset.from_list(alpaca_rows(NUM_ANCHORS, seed=2)), "anchors")
    config = NuggetsConfig(top_k=10, schedule="exact", template="plain")
    scores, golden_set = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=score_dir)
    return score_dir, pool, scores, golden_set


@pytest.fixture(scope="session")
def figures(scored):
    return json.loads((scored[0] / "report.json").read_text())
