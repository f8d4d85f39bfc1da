"""`group_by: num_tokens`: the best rows of each class of length, in a run, in parts, after it, and in a plan."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, plan_pool, score_pool, score_shard, select_again
from nuggets_trainer.commands.select import parse, run
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.prompts.templates import make_template
from tests.support.rows import alpaca_rows

ROWS = alpaca_rows(40, seed=21)
POOL, ANCHORS = Dataset.from_list(ROWS), Dataset.from_list(alpaca_rows(6, seed=22))
GROUPED = {"group_by": "num_tokens"}


def scored(model, tokenizer, score_dir, anchors=ANCHORS, **options):
    config = NuggetsConfig(**{"template": "plain", "top_k": 9, **options})
    return score_pool(model, tokenizer, POOL, anchors, config, score_dir)


@pytest.fixture(scope="module")
def whole(llama, tokenizer, tmp_path_factory):
    """A run within classes of length."""
    score_dir = tmp_path_factory.mktemp("whole")
    return score_dir, *scored(llama, tokenizer, score_dir, **GROUPED)


def test_a_run_counts_tokens_and_chooses_within_classes(whole, llama, tokenizer, tmp_path):
    score_dir, scores, golden_set = whole
    template = make_template("plain", tokenizer, Pool(POOL))
    tokens = np.array([template.row_alone(row).segment.num_completion_tokens for row in Pool(POOL)])
    columns = pq.read_table(score_dir / "scores.parquet").to_pandas()
    np.testing.assert_array_equal(columns["num_tokens"], tokens)
    assert "loss" not in columns  # no forward pass was made for it
    expected = select_golden_set(scores, ("top_k", 9), diversity=Diversity(lengths=tokens.astype(np.float64)))
    assert golden_set.indices.tolist() == expected.indices.tolist() and golden_set.num_unlike_ranking
    with_signals, _ = scored(llama, tokenizer, tmp_path, row_signals=True, **GROUPED)
    np.testing.assert_array_equal(with_signals.signals["num_tokens"], tokens)


def test_the_report_has_a_table_by_class(whole):
    score_dir, _, golden_set = whole
    report = json.loads((score_dir / "report.json").read_text())
    assert report["what_is_kept"] == "The golden set is the best 9 rows, within classes of length"
    shortest = [int(row["name"].split()[0]) for row in report["groups"]["rows"]]
    assert shortest == sorted(shortest) and report["groups"]["column"] == "num_tokens"
    assert {row["name"]: row["kept"] for row in report["groups"]["rows"]} == {
        name: counts["kept"] for name, counts in golden_set.groups.items()
    }


def test_parts_and_other_processes_give_the_same_classes(whole, llama, tokenizer, tmp_path):
    """A part scores pairs alone; the job that writes the results makes the classes, from all rows."""
    config = NuggetsConfig(template="plain", top_k=9, **GROUPED)
    for number in range(2):
        score_shard(llama, tokenizer, POOL, ANCHORS, config, tmp_path, shard=(number, 2))
    scores, golden_set = scored(llama, tokenizer, tmp_path, **GROUPED)
    assert scores.num_pairs_scored == 0 and golden_set.indices.tolist() == whole[2].indices.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"rank_by": "gain"},
        {"rank_by": "loss"},
        {"max_tokens": 400, "top_k": None},
        {"require": "num_tokens >= 3"},
    ],
    ids=str,
)
def test_a_run_and_select_give_the_same_set(options, whole, llama, tokenizer, tmp_path):
    """The classes are those of the rows that may be chosen."""
    score_dir = tmp_path / "copy"
    shutil.copytree(whole[0], score_dir)
    options = {"top_k": 9, **GROUPED, **options}
    _, golden_set = scored(llama, tokenizer, score_dir, **options)
    counts = golden_set.groups.values()
    assert sum(count["candidates"] for count in counts) == golden_set.num_candidates
    assert sum(count["kept"] for count in counts) == len(golden_set) > 3
    assert golden_set.num_tokens is None or golden_set.num_tokens <= 400
    again = select_again(score_dir, NuggetsConfig(**options))
    assert again.indices.tolist() == golden_set.indices.tolist() and again.groups == golden_set.groups


def test_select_chooses_within_classes_from_stored_scores(whole, tmp_path, llama, tokenizer, capsys):
    scored(llama, tokenizer, tmp_path / "ranked", schedule="exact", row_signals=True)
    run(*parse([str(tmp_path / "ranked"), "--top_k", "9", "--group_by", "num_tokens", "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert found["indices"] == whole[2].indices.tolist() and found["by_group"] == whole[2].groups
    # What was chosen within classes is not cut again as a ranking.
    with pytest.raises(ValueError, match="chosen with `group_by`, which is not asked for now"):
        select_again(whole[0], NuggetsConfig(top_k=3))


def test_select_takes_classes_in_place_of_other_groups(whole, tmp_path, llama, tokenizer):
    """Other groups of the run were refused as such, in words that offered the classes which the user had asked for."""
    shutil.copytree(whole[0], tmp_path / "copy")
    scored(llama, tokenizer, tmp_path / "copy", group_by="instruction", row_signals=True)
    found = select_again(tmp_path / "copy", NuggetsConfig(top_k=9, **GROUPED))
    assert found.indices.tolist() == whole[2].indices.tolist()
    with pytest.raises(ValueError, match="chosen with `group_by`, which is not asked for now"):
        select_again(tmp_path / "copy", NuggetsConfig(top_k=9))


def test_select_says_what_is_missing(tmp_path, llama, tokenizer, monkeypatch):
    scored(llama, tokenizer, tmp_path / "plain", schedule="exact")
    with pytest.raises(ValueError, match="needs the lengths of the rows, which were not counted. Run the command"):
        select_again(tmp_path / "plain", NuggetsConfig(top_k=3, **GROUPED))
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)
    raced, _ = scored(llama, tokenizer, tmp_path / "raced", top_k=2, row_signals=True, tokens_per_batch=160)
    assert raced.num_eliminated
    with pytest.raises(ValueError, match="it takes the best rows of each class of length, but a race stopped"):
        select_again(tmp_path / "raced", NuggetsConfig(top_k=3, **GROUPED))


def test_several_anchor_sets_and_coverage_choose_within_classes(llama, tokenizer, tmp_path):
    sets = {"one": ANCHORS, "two": Dataset.from_list(alpaca_rows(3, seed=9))}
    for options in ({}, {"coverage_weight": 0.5}):
        scores, golden_set = scored(llama, tokenizer, tmp_path, sets, **GROUPED, **options)
        for counts in golden_set.groups.values():
            assert abs(counts["kept"] - 9 * counts["candidates"] / len(ROWS)) < 1
        assert set(scores.by_set) == {"one", "two"}


def test_a_column_of_that_name_is_refused(llama, tokenizer, tmp_path):
    """Its values would be groups, or classes of length: nobody could tell which."""
    pool = Dataset.from_list([{**row, "num_tokens": 3} for row in ROWS])
    config = NuggetsConfig(template="plain", **GROUPED)
    with pytest.raises(ValueError, match="`group_by='num_tokens'` makes classes .* has a column of this name too"):
        score_pool(llama, tokenizer, pool, ANCHORS, config, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_plan_scores_every_pair_of_it(llama, tokenizer, tmp_path):
    config = NuggetsConfig(template="plain", top_k=9, **GROUPED)
    plan = plan_pool(llama, tokenizer, POOL, ANCHORS, config, tmp_path, measure_seconds=0.05)
    assert plan.schedule == "exact" and not plan.race_possible
