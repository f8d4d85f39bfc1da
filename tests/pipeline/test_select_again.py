"""`select_again`: another selection rule over the files of an earlier run."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, score_pool, select_again
from tests.support.rows import alpaca_rows

POOL, ANCHORS = Dataset.from_list(alpaca_rows(70, seed=21)), Dataset.from_list(alpaca_rows(14, seed=22))


def scored(model, tokenizer, score_dir, **options):
    config = NuggetsConfig(template="plain", tokens_per_batch=160, **options)
    return score_pool(model, tokenizer, POOL, ANCHORS, config, score_dir)


@pytest.mark.parametrize("rule", [{"top_k": 7}, {"top_fraction": 0.2}, {"threshold": 0.5}, {}], ids=str)
def test_another_rule_gives_the_golden_set_of_scoring_with_it(llama, tokenizer, tmp_path, rule):
    scored(llama, tokenizer, tmp_path / "s", schedule="exact", top_k=3)
    _, expected = scored(llama, tokenizer, tmp_path / "again", schedule="exact", **rule)
    chosen = select_again(tmp_path / "s", NuggetsConfig(**rule))
    np.testing.assert_array_equal(chosen.indices, expected.indices)
    assert chosen.rule == expected.rule and chosen.cut == expected.cut


def test_a_ranking_cannot_give_what_needs_all_gains(llama, tokenizer, tmp_path):
    scored(llama, tokenizer, tmp_path / "ranked", top_k=3)
    with pytest.raises(ValueError, match="`coverage_weight` needs all pairs, but `select_again` reads scores only"):
        select_again(tmp_path / "ranked", NuggetsConfig(coverage_weight=0.5))
    scored(llama, tokenizer, tmp_path / "covered", top_k=3, coverage_weight=0.5)
    with pytest.raises(
        ValueError, match="was chosen with `coverage_weight`, which is not asked for now.*same `nuggets score`"
    ):
        select_again(tmp_path / "covered")


def test_nothing_is_selected_where_nothing_was_scored(tmp_path):
    with pytest.raises(FileNotFoundError, match="scores.parquet"):
        select_again(tmp_path)
