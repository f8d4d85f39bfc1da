"""`nuggets plan`: numbers before the run, and pairs that the run reuses."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.cli import main
from tests.support.command_line import DEMO, json_result
from tests.support.rows import alpaca_rows


def test_the_run_reuses_what_the_plan_scored(tmp_path, capsys):
    Dataset.from_list(alpaca_rows(30, seed=1)).to_json(tmp_path / "pool.jsonl")
    Dataset.from_list(alpaca_rows(6, seed=2)).to_json(tmp_path / "anchors.jsonl")
    options = [*DEMO, "--dataset_name", str(tmp_path / "pool.jsonl"), "--anchors", str(tmp_path / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--tokens_per_batch", "16", "--json"]
    assert main(["plan", *options, "--measure_seconds", "0.001", "--price_per_hour", "2"]) == 0
    plan = json_result(capsys)
    low, expected, high = plan["seconds"].values()
    assert plan["num_pairs"] == 180 and low <= expected <= high
    assert plan["cost"] == pytest.approx(expected / 1800)
    assert plan["share_of_peak"] > 0
    assert 0 < plan["tokens_left"]["expected"] < plan["tokens"]
    assert not (tmp_path / "s" / "scores.parquet").exists()
    assert main(["score", *options]) == 0
    assert 0 < json_result(capsys)["num_pairs_scored"] < 180


@pytest.mark.parametrize("schedule", ["race", "exact"])
def test_a_plan_of_a_finished_run_says_what_is_next(schedule, scored, capsys):
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(scored / schedule), "--schedule", schedule, "--top_k", "3"]
    assert main(["plan", *options, "--tokens_per_batch", "64"]) == 0
    told = capsys.readouterr().out
    assert "nothing: " in told and "`nuggets score`" in told and "tokens per second" not in told
    assert "cheaper" not in told and " scored now" not in told


def test_a_plan_uses_the_anchors_that_a_run_has_chosen(scored, tmp_path, capsys):
    """Two plans in a row, and one after the run: what the plans stored themselves says nothing of the run."""
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--num_anchors", "5", "--json"]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact"]
    for _ in range(2):
        assert main(["plan", *options]) == 0
        plan = json_result(capsys)
        # Stand-ins are drawn anew: the second plan may draw some that the first has stored.
        assert plan["stand_in_anchors"] and not plan["finished"] and plan["num_pairs_scored"] > 0
        assert plan["tokens_left"]["expected"] == pytest.approx(plan["tokens"])  # none of it is of use
    assert main(["score", *options]) == 0
    capsys.readouterr()
    assert main(["plan", *options]) == 0
    plan = json_result(capsys)
    assert plan["finished"] and not plan["stand_in_anchors"] and plan["num_pairs_scored"] == 0


def test_a_plan_of_a_sample_counts_the_whole_pool(scored, tmp_path, capsys, monkeypatch):
    """The sample was scored to the end while it was measured, and the plan said that nothing was left."""
    monkeypatch.setattr("nuggets_trainer.planning.pool_sample.MOST_ROWS", 10)
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--json"]
    assert main(["plan", *options]) == 0
    plan = json_result(capsys)
    assert plan["num_pairs_scored"] == 90 and plan["num_pairs"] == 360 and not plan["finished"]
    assert plan["tokens_left"]["expected"] == pytest.approx(0.75 * plan["tokens"])
    assert main(["score", *options]) == 0
    assert json_result(capsys)["num_pairs_scored"] == 270
    assert main(["plan", *options]) == 0
    assert json_result(capsys)["finished"]


@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_a_plan_on_a_slow_device_stores_nothing(schedule, scored, tmp_path, capsys, monkeypatch):
    """It took minutes: the engine's first call alone is eight forward passes."""
    monkeypatch.setattr("nuggets_trainer.planning.plan_pool.PATIENCE", 0.0)
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", schedule, "--json", "--measure_seconds", "0.001"]
    assert main(["plan", *options]) == 0
    plan = json_result(capsys)
    assert plan["num_pairs_scored"] == 0 and plan["num_pairs"] == 360 and not plan["finished"]
    assert any("this device is slow" in note for note in plan["notes"])
    shares = {"exact": 1.0, "race": 0.5}
    assert plan["tokens_left"]["expected"] == pytest.approx(shares[schedule] * plan["tokens"])
    assert plan["seconds"]["expected"] > 0
