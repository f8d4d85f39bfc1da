"""`nuggets select --rank_by` a signal of the scores that are there: no pair decides, and every rule works."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.config.rule_options import RANK_BY_SIGNALS
from nuggets_trainer.golden.ranking import SIGNAL_VALUES
from nuggets_trainer.pipeline.select_again import select_again
from tests.support.rows import alpaca_rows

LOWEST_FIRST = ("loss", "similarity_turn")


@pytest.fixture(scope="module")
def scored(llama, tokenizer, tmp_path_factory):
    """A race among the rows that meet a condition: some rows have no golden score, and all have signals."""
    score_dir = tmp_path_factory.mktemp("scores")
    rows = alpaca_rows(16, seed=5)
    rows[3] = {**rows[3], "output": ""}
    lengths = sorted(len(tokenizer(row["output"], add_special_tokens=False)["input_ids"]) for row in rows)
    config = NuggetsConfig(
        top_k=2, template="plain", schedule="race", ica=True, row_signals=True, require=f"num_tokens <= {lengths[9]}"
    )
    anchors = Dataset.from_list(alpaca_rows(5, seed=6))
    score_pool(llama, tokenizer, Dataset.from_list(rows), anchors, config=config, score_dir=score_dir)
    table = pq.read_table(score_dir / "scores.parquet")
    assert {"empty_completion", "fails_require"} <= set(table["dropped"].to_pylist())
    return score_dir, {name: np.array(table[name].to_pylist(), dtype=float) for name in RANK_BY_SIGNALS}


def test_options_and_ranked_values_name_the_same_signals():
    assert tuple(SIGNAL_VALUES) == RANK_BY_SIGNALS
    assert {name for name, value in SIGNAL_VALUES.items() if value.sign < 0} == set(LOWEST_FIRST)


@pytest.mark.parametrize("name", RANK_BY_SIGNALS)
def test_rows_come_by_the_signal_whatever_a_race_left_out(name, scored, capsys):
    score_dir, signals = scored
    values = signals[name]
    usable = np.flatnonzero(~np.isnan(values) & ((name != "ifd") | (values <= 1)))
    best = sorted(usable, key=lambda i: values[i] if name in LOWEST_FIRST else -values[i])
    found = select_again(score_dir, NuggetsConfig(top_k=4, rank_by=name))
    assert sorted(values[found.indices]) == sorted(values[best[:4]])
    assert found.cut == values[best[3]] and found.num_candidates == len(usable)
    cut = float(np.median(values[usable]))
    above = select_again(score_dir, NuggetsConfig(threshold=cut, rank_by=name))
    is_better = values[usable] < cut if name in LOWEST_FIRST else values[usable] > cut
    assert set(above.indices) == set(usable[is_better])
    share = select_again(score_dir, NuggetsConfig(top_fraction=0.5, rank_by=name, require="loss > 0"))
    assert len(share) == round(0.5 * len(usable))
    assert main(["select", str(score_dir), "--top_k", "4", "--rank_by", name, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["indices"] == found.indices.tolist() and printed[f"{name}_cut"] == found.cut
    assert "NaN" not in json.dumps(printed) and "standard error" not in found.describe()


def test_what_a_signal_cannot_do_is_refused(scored, llama, tokenizer, tmp_path):
    score_dir, _ = scored
    with pytest.raises(ValueError, match="`top_k=16` is too much: 15 rows have a loss"):
        select_again(score_dir, NuggetsConfig(top_k=16, rank_by="loss"))
    with pytest.raises(ValueError, match="`threshold` must be above the best loss"):
        select_again(score_dir, NuggetsConfig(threshold=0.0, rank_by="loss"))
    rows = Dataset.from_list(alpaca_rows(4, seed=7))
    score_pool(llama, tokenizer, rows, rows, config=NuggetsConfig(template="plain"), score_dir=tmp_path)
    with pytest.raises(ValueError, match="`rank_by=loss` needs the columns .'loss'.*--row_signals true"):
        select_again(tmp_path, NuggetsConfig(rank_by="loss"))
