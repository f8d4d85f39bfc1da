"""The figures of a report are what the scores and the matrix of log-probs say."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, golden_scores, score_pool
from nuggets_trainer.report import write_report
from tests.support.rows import alpaca_rows


def test_the_figures_are_those_of_the_scores(scored, figures):
    _, _, scores, golden_set = scored
    cut = figures["cut"]
    assert cut["num_kept"] == len(golden_set) == 10 and cut["num_candidates"] == golden_set.num_candidates
    assert cut["score"] == golden_set.cut and cut["mean_gain"] == golden_set.mean_gain[-1]
    assert (cut["ties"], cut["ties_kept"]) == (golden_set.ties_at_cut, golden_set.ties_kept)
    assert sum(figures["scores"]["kept"]) == 10 == sum(figures["gains"]["kept"])
    scored_rows = int((~np.isnan(scores.golden_score)).sum())
    assert sum(figures["scores"]["kept"] + figures["scores"]["rejected"]) == scored_rows
    assert sum(map(sum, figures["length"]["counts"])) == scored_rows == figures["length"]["num_sampled"]


def test_anchors_are_counted_as_the_matrix_says(scored, figures):
    """Against the whole matrix at once, in float64, with numpy's own correlation."""
    score_dir, _, scores, golden_set = scored
    one_shot = np.array(pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    rows = ~np.isnan(scores.golden_score)
    won = one_shot > scores.anchors.zero_shot
    kept = np.isin(np.arange(len(won)), golden_set.indices)
    seen = 0
    for j, anchor in enumerate(figures["anchors"]):
        there = rows & ~np.isnan(one_shot[:, j])
        rest = golden_scores(np.delete(scores.anchors.zero_shot, j), np.delete(one_shot, j, axis=1)).golden_score
        assert (anchor["pairs"], anchor["pairs_won"]) == (there.sum(), won[there, j].sum())
        assert anchor["won"] == pytest.approx(won[there, j].mean())
        assert anchor["won_by_kept"] == pytest.approx(won[there & kept, j].mean())
        gain = one_shot[there, j].astype(np.float64) - scores.anchors.zero_shot[j]
        assert anchor["mean_gain"] == pytest.approx(gain.mean(), abs=1e-6)
        if 0 < won[there, j].mean() < 1:
            expected = np.corrcoef(won[there, j], rest[there])[0, 1]
            assert anchor["discrimination"] == pytest.approx(expected, abs=1e-4)
            seen += 1
    assert seen >= 3


def test_each_row_says_what_became_of_it_and_why(scored, figures):
    _, pool, scores, golden_set = scored
    rows = {row["index"]: row for row in figures["rows"]}
    assert len(rows) == len(figures["rows"]) == len(pool)  # a small pool is shown whole
    assert [i for i, row in rows.items() if row["status"] == "kept"] == golden_set.indices.tolist()
    for i, reason in enumerate(scores.dropped):
        assert (rows[i]["status"] == "dropped") == (reason is not None)
        assert reason is None or f"({reason})" in rows[i]["why"]
    assert {"kept", "below", "dropped"} <= {row["status"] for row in rows.values()}
    assert all(row["why"].endswith(".") for row in rows.values())


def test_an_eliminated_row_is_shown_with_its_bound(llama, tokenizer, tmp_path):
    pool = Pool(Dataset.from_list(alpaca_rows(150, seed=1)))
    anchors = Pool(Dataset.from_list(alpaca_rows(12, seed=2)), "anchors")
    config = NuggetsConfig(top_k=3, template="plain")
    scores, _ = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=tmp_path)
    assert scores.num_eliminated > 0
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["cut"]["num_eliminated"] == scores.num_eliminated == sum(figures["scores"]["eliminated"])
    eliminated = [row for row in figures["rows"] if row["status"] == "eliminated"]
    assert eliminated and all(
        row["golden_score"] is None and row["upper_bound"] <= figures["cut"]["score"] for row in eliminated
    )
    shown = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    pilot = [row["index"] for row in shown if row["part"] == "pilot"]
    assert figures["cut"]["num_sampled"] == len(pilot) == 12  # the root of 150, as the race's own
    assert all(np.isnan(scores.upper_bound[pilot]))
    one_shot = np.array(pq.read_table(tmp_path / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    won = (one_shot > scores.anchors.zero_shot)[pilot].mean(axis=0)
    assert [anchor["won"] for anchor in figures["anchors"]] == pytest.approx(won.tolist())
    assert any("upper bound, but no golden score" in caution["title"] for caution in figures["cautions"])


def test_a_signal_check_of_another_scorer_is_left_out(scored, tmp_path):
    """Made in the same directory before, it would warn of, or vouch for, a model that it never saw."""
    for path in scored[0].glob("*.parquet"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run.json").write_bytes((scored[0] / "run.json").read_bytes())
    other = {"corruptions": [], "verdict": "none", "fingerprint": "0" * 16}
    (tmp_path / "signal_check.json").write_text(json.dumps(other))
    assert write_report(tmp_path)["signal_check"] is None
