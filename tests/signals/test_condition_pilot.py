"""`require_recall`: random rows are scored first, and a condition that drops golden rows ends the run there."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, plan_pool, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.golden import condition_recall
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.signals.condition_pilot import LowRecallError
from tests.support.launch import TORCHRUN, run
from tests.support.rows import alpaca_rows

NUM_ROWS, NUM_ANCHORS = 60, 4
NUM_PILOT = 30  # rows among which 10 of the best third are expected


@pytest.fixture(autouse=True)
def few_golden_rows(monkeypatch):
    monkeypatch.setattr(condition_recall, "FEWEST_GOLDEN", 10)


@pytest.fixture(scope="module")
def rows():
    pool = Pool(Dataset.from_list(alpaca_rows(NUM_ROWS, seed=51)))
    return pool, Pool(Dataset.from_list(alpaca_rows(NUM_ANCHORS, seed=52)), "anchors")


def config_of(**options):
    return NuggetsConfig(**{"template": "plain", "top_k": 20, "signal_check": False, **options})


def run_of(score_dir):
    return json.loads((score_dir / "run.json").read_text())


RACE, GAIN_RACE, EXACT = ("race", "golden_score"), ("race", "gain"), ("exact", "golden_score")
slow = pytest.mark.slow


@pytest.mark.parametrize(("schedule", "rank_by"), [RACE, EXACT, pytest.param(*GAIN_RACE, marks=slow)])
def test_a_condition_that_drops_golden_rows_ends_the_run_first(schedule, rank_by, llama, tokenizer, rows, tmp_path):
    options = {"schedule": schedule, "rank_by": rank_by, "require": "loss < p50"}
    config = config_of(**options, require_recall=0.95)
    with pytest.raises(LowRecallError, match=r"of the 10 best of 30 random rows meet `loss < p50` \(p50 of") as caught:
        score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path)
    assert "is below `require_recall=0.95`" in str(caught.value) and "and 50% of the rows." in str(caught.value)
    assert not (tmp_path / "scores.parquet").exists()
    # Exactly the pilot's pairs are stored, also those of rows that fail, and the next run finds them.
    whole, _ = score_pool(llama, tokenizer, *rows, config=config_of(schedule="exact"), score_dir=tmp_path)
    assert whole.num_pairs_scored == (NUM_ROWS - NUM_PILOT) * NUM_ANCHORS


@pytest.mark.parametrize(("schedule", "rank_by"), [RACE, GAIN_RACE, pytest.param(*EXACT, marks=slow)])
def test_one_that_passes_changes_no_golden_row(schedule, rank_by, llama, tokenizer, rows, tmp_path, caplog):
    options = {"schedule": schedule, "rank_by": rank_by, "require": "loss < p75", "top_k": 15}
    without = score_pool(llama, tokenizer, *rows, config=config_of(**options), score_dir=tmp_path / "without")[1]
    assert "require_recall" not in run_of(tmp_path / "without")
    caplog.set_level(logging.INFO, "nuggets_trainer")
    config = config_of(**options, require_recall=0.2)
    scores, golden_set = score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path / "with")
    assert golden_set.indices.tolist() == without.indices.tolist()
    assert [reason == "fails_require" for reason in scores.dropped].count(True) == (15 if schedule == "race" else 0)
    found = run_of(tmp_path / "with")["require_recall"]
    assert found["asked"] == 0.2 <= found["recall"] == found["num_met"] / found["num_golden"]
    assert (found["num_rows"], found["num_golden"]) == (40, 10) and found["low"] < found["recall"] < found["high"]
    assert f"condition: {found['says']}" in caplog.text
    (percentile,) = run_of(tmp_path / "with")["percentiles"]
    assert (percentile["column"], percentile["percentage"]) == ("loss", 75.0)
    assert run_of(tmp_path / "without")["percentiles"] == [percentile]
    report = (tmp_path / "with" / "report.html").read_text()
    assert f"{found['num_met']} of the 10 best of 40 random rows do" in report and "p75 of loss is" in report
    again, _ = score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path / "with")
    assert again.num_pairs_scored == 0 and run_of(tmp_path / "with")["require_recall"] == found


def test_of_a_small_pool_all_rows_are_measured(llama, tokenizer, rows, tmp_path):
    """Then the share is that of the golden set itself."""
    exact, golden_set = score_pool(
        llama, tokenizer, *rows, config=config_of(top_k=6, schedule="exact", row_signals=True), score_dir=tmp_path
    )
    kept = exact.signals["loss"] < sorted(exact.signals["loss"])[30]
    truth = kept[golden_set.indices].mean()
    config = config_of(top_k=6, require="loss < p50", require_recall=0.01)
    score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path)
    found = run_of(tmp_path)["require_recall"]
    assert found["num_rows"] == NUM_ROWS and found["num_golden"] == 6 and found["share_met"] == 0.5
    assert found["recall"] == found["low"] == found["high"] == truth
    assert "exact, because all rows were scored" in found["says"]


@pytest.mark.parametrize("options", [{"top_k": None, "top_fraction": 1 / 3}, {"top_k": None, "max_tokens": 800}])
def test_other_rules_and_anchor_sets_are_measured_too(options, llama, tokenizer, rows, tmp_path):
    pool, anchors = rows
    sets = {"one": anchors.dataset.select(range(2)), "other": anchors.dataset.select(range(2, 4))}
    config = config_of(**options, require="loss < p75", require_recall=0.01)
    score_pool(llama, tokenizer, pool, sets, config=config, score_dir=tmp_path)
    found, kept = run_of(tmp_path)["require_recall"], run_of(tmp_path)["golden_set"]
    if "max_tokens" in options:
        assert 0.5 < found["num_golden"] / found["num_rows"] / (kept["golden_set_size"] / NUM_ROWS) < 2
    else:
        assert (found["num_rows"], found["num_golden"]) == (NUM_PILOT, 10)


def test_a_training_job_warns_only(llama, tokenizer, rows, tmp_path, caplog):
    config = config_of(require="loss < p50", require_recall=1.0)
    caplog.set_level(logging.WARNING, "nuggets_trainer")
    _, golden_set = score_request(llama, read_request(llama, tokenizer, *rows, config, tmp_path))
    assert "is below `require_recall=1`" in caplog.text and len(golden_set) == 20


def test_a_plan_says_what_it_takes(llama, tokenizer, rows, tmp_path):
    config = config_of(require="loss < p50", require_recall=0.9)
    plan = plan_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path, measure_seconds=0.1)
    assert any(
        "first scores 30 random rows on all anchors" in note and "120 pairs, 50.0% of" in note for note in plan.notes
    )


def test_a_plan_of_a_sample_counts_the_random_rows_of_the_pool(llama, tokenizer, rows, tmp_path, monkeypatch):
    """A `top_k` of 1 is less than one row of the sample, and the plan named fewer random rows than the run scores."""
    monkeypatch.setattr("nuggets_trainer.planning.pool_sample.MOST_ROWS", 20)
    config = config_of(top_k=1, require="loss < p50", require_recall=0.9)
    plan = plan_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path, measure_seconds=0.1)
    notes = "\n".join(plan.notes)
    assert "first scores 60 random rows on all anchors" in notes and "240 pairs, 100.0% of all" in notes
    assert "meet `loss < p50`, with the percentiles of these rows" in notes


def files_of(rows, model, tokenizer, place):
    """Write model and rows, and return the words of a command."""
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    for name, pool in zip(("pool", "anchors"), rows, strict=True):
        pool.dataset.to_json(place / f"{name}.jsonl")
    words = ["score", str(place / "pool.jsonl"), "--model_name_or_path", str(place / "model"), "--anchors"]
    words += [str(place / "anchors.jsonl"), "--template", "plain", "--top_k", "20", "--require", "loss < p60"]
    return [*words, "--require_recall"]


def test_the_command_ends_with_the_code_of_an_early_look(llama, tokenizer, rows, tmp_path, capsys):
    words = files_of(rows, llama, tokenizer, tmp_path)
    assert main([*words, "1.0", "--score_dir", str(tmp_path / "scores")]) == 3
    said = capsys.readouterr().err
    assert "nuggets score: stopped: " in said and "random rows meet `loss < p60`" in said and "Traceback" not in said


@pytest.mark.slow
def test_two_processes_find_the_same_share(llama, tokenizer, rows, tmp_path):
    words = files_of(rows, llama, tokenizer, tmp_path)
    places = [str(tmp_path / name) for name in ("one", "two")]
    run(["python", "-m", "nuggets_trainer.cli", *words, "0.01", "--score_dir", places[0]])
    two = [*TORCHRUN, "2", "-m", "nuggets_trainer.cli"]
    run([*two, *words, "0.01", "--score_dir", places[1]], ACCELERATE_USE_CPU="true")
    found = [run_of(tmp_path / name) for name in ("one", "two")]
    assert found[1]["device"]["processes"] == 2
    for name in ("require_recall", "percentiles", "golden_set"):
        assert found[0][name] == found[1][name]
