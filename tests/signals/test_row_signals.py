"""Signals of rows by themselves: equal to one sequence at a time, computed once, null where they are not defined."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, load_scorer, score_pool, score_shard
from nuggets_trainer.store import score_store
from tests.support import oracle
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows, real_alpaca_rows

TOLERANCE = 1e-5  # what float32 attention leaves
NAMES = ("loss", "loss_without_prompt", "ifd", "similarity", "num_tokens")


def score(model, tokenizer, rows, anchors, score_dir, **options):
    config = NuggetsConfig(**{"top_fraction": 0.5, "schedule": "exact", "row_signals": True, **options})
    return score_pool(
        model, tokenizer, Dataset.from_list(rows), Dataset.from_list(anchors), config=config, score_dir=score_dir
    )


def read(score_dir) -> dict[str, np.ndarray]:
    table = pq.read_table(score_dir / "scores.parquet")
    return {name: np.array(table[name].to_pylist(), dtype=float) for name in NAMES}


@pytest.fixture
def rows_passed(monkeypatch):
    """Numbers of sequences of each forward pass that embeds."""
    passes: list[int] = []
    forward = torch.nn.Module.__call__

    def counted(module, *arguments, **options):
        if type(module).__name__.endswith("ForCausalLM") and module.base_model._forward_hooks:  # it embeds
            passes.append(len(options["input_ids"]))
        return forward(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    return passes


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("template", ["chat", "plain", "nuggets"])
def test_signals_equal_the_oracle(family, template, tokenizer, pool_rows, anchor_rows, tmp_path, rows_passed):
    model = tiny_model(family, len(tokenizer))
    pool_rows[3] = anchor_rows[2]  # it is not compared with itself
    score(model, tokenizer, pool_rows, anchor_rows, tmp_path, template=template)
    assert max(rows_passed) > 4  # rows share forward passes
    found = read(tmp_path)
    for i, row in enumerate(pool_rows):
        expected = oracle.row_signals(model, tokenizer, template, row, anchor_rows)
        for name in NAMES:
            assert found[name][i] == pytest.approx(expected[name], abs=TOLERANCE), (i, name)
    assert min(np.ptp(found[name]) for name in NAMES) > 0.01  # the rows differ


@pytest.mark.parametrize("name", ["tiny-llama-instruct", "stories260K"])
def test_signals_of_real_models_equal_the_oracle(name, shared, tmp_path):
    model, tokenizer = load_scorer(str(shared / "models" / name))
    rows = real_alpaca_rows(shared / "data/pool_alpacaeval/train.jsonl", 5, 40, 200)
    anchors = real_alpaca_rows(shared / "data/anchors_kmeans100/anchors.jsonl", 3, 0, 250)
    score(model, tokenizer, rows, anchors, tmp_path, template="plain")
    found = read(tmp_path)
    for i, row in enumerate(rows):
        expected = oracle.row_signals(model, tokenizer, "plain", row, anchors)
        for signal in NAMES:
            assert found[signal][i] == pytest.approx(expected[signal], abs=TOLERANCE), (i, signal)


def test_signals_change_nothing_else(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    plain, _ = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "plain", row_signals=False)
    with_signals, _ = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "signals")
    assert with_signals.num_pairs_scored == plain.num_pairs_scored
    tables = [pq.read_table(tmp_path / name / "scores.parquet") for name in ("plain", "signals")]
    added = [name for name in tables[1].column_names if name not in tables[0].column_names]
    assert added == ["total_tokens", *NAMES[:4], "similarity_turn", *NAMES[4:]]
    assert tables[1].select(tables[0].column_names).equals(tables[0])
    pairs = [(tmp_path / name / "pairs.parquet").read_bytes() for name in ("plain", "signals")]
    assert pairs[0] == pairs[1]


def test_a_killed_run_goes_on_and_equal_rows_count_once(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, rows_passed, monkeypatch
):
    pool_rows[5] = dict(pool_rows[2])
    monkeypatch.setattr(score_store, "FLUSH_CANDIDATES", 1)
    write, written = score_store.ScoreStore.write, []

    def fail_late(store, *parts):
        if len(written) == 3:
            raise RuntimeError("out of luck")
        written.append(parts[0])
        write(store, *parts)

    monkeypatch.setattr(score_store.ScoreStore, "write", fail_late)
    options = {"tokens_per_batch": 4, "deduplicate": "no"}  # a call of the engine takes one row
    with pytest.raises(RuntimeError, match="out of luck"):
        score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, **options)
    monkeypatch.setattr(score_store.ScoreStore, "write", write)
    rows_passed.clear()
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, **options)
    different = 11
    checked = 2 * 4  # four rows are computed alone and together before the first call
    assert sum(rows_passed) == checked + len(anchor_rows) + 2 * (different - 3)
    resumed = read(tmp_path)
    rows_passed.clear()
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, **options)
    assert rows_passed == []
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "fresh", deduplicate="no")
    for name, values in read(tmp_path / "fresh").items():
        np.testing.assert_allclose(resumed[name], values, atol=TOLERANCE)
        assert values[5] == values[2]


def test_other_anchors_change_the_similarity_alone(llama, tokenizer, pool_rows, anchor_rows, tmp_path, rows_passed):
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    before = read(tmp_path)
    rows_passed.clear()
    score(llama, tokenizer, pool_rows, anchor_rows[:2], tmp_path)
    assert sum(rows_passed) == 2 * 4 + 2 + len(pool_rows)  # no completion is computed without its prompt again
    after = read(tmp_path)
    for name in NAMES:
        assert np.array_equal(before[name], after[name]) == (name != "similarity")


def test_signals_of_parts_are_found_by_the_whole(llama, tokenizer, pool_rows, anchor_rows, tmp_path, rows_passed):
    config = NuggetsConfig(schedule="exact", row_signals=True)
    pools = Dataset.from_list(pool_rows), Dataset.from_list(anchor_rows)
    for part in (0, 1):
        score_shard(llama, tokenizer, *pools, config, tmp_path, shard=(part, 2))
    rows_passed.clear()
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert rows_passed == [] and not np.isnan(read(tmp_path)["ifd"]).any()


def test_rows_without_prompt_have_no_ifd(llama, tokenizer, tmp_path):
    texts = [{"text": row["output"] + " the end"} for row in alpaca_rows(6, seed=3)]
    score(llama, tokenizer, texts, texts[:2], tmp_path)
    found = read(tmp_path)
    assert np.isnan(found["ifd"]).all() and np.isnan(found["loss_without_prompt"]).all()
    assert not np.isnan(found["loss"]).any() and not np.isnan(found["similarity"]).any()


def test_tokenized_rows_have_signals(llama, tokenizer, tmp_path):
    """A row of one scored run has all; one whose scored tokens have others between them has no IFD."""
    bos = [tokenizer.bos_token_id]
    rows = [
        {"input_ids": [*bos, 10, 11, 12, 13], "labels": [-100, -100, -100, 12, 13]},
        {"input_ids": [*bos, 20, 21, 22, 23], "labels": [-100, -100, 21, -100, 23]},
        {"input_ids": [*bos, 30, 31, 32, 33], "labels": [-100, 30, 31, 32, 33]},
    ]
    score(llama, tokenizer, rows, rows, tmp_path, schedule="exact")
    found = read(tmp_path)
    assert np.isnan(found["ifd"]).tolist() == [False, True, True]
    assert found["num_tokens"].tolist() == [2, 2, 4] and not np.isnan(found["loss"]).any()
    expected = -oracle.mean_log_prob(llama, bos, [12, 13])
    assert found["loss_without_prompt"][0] == pytest.approx(expected, abs=TOLERANCE)
